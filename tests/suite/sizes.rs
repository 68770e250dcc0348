//! Sizes that no memory holds are errors that say which, and change nothing.

use crate::property::Tested;
use layerwise::circuit::CircuitBuilder;
use layerwise::decoupled::{Selection, TargetInit};
use layerwise::energy::Energy;
use layerwise::layer::{
    Activation, Conv2d, ConvTranspose2d, Dense, Layer, Patchwise, PositionWise, Shape, Unfold,
    Window2d,
};
use layerwise::nalgebra::DMatrix;
use layerwise::optimizer::GradientDescent;
use layerwise::parameter_solver::{LeastSquares, NormalEquations};
use layerwise::registry::Registry;
use layerwise::target_solver::{GaussNewton, ReverseSweep, StepSize};
use layerwise::theory::linear_minimum;
use layerwise::training::{Backprop, Decoupling, Phase, Trainer, WStep};
use layerwise::{Circuit, DecoupledCircuit, Error, Scalar};

in_both_scalars!(
    moments_of_a_million_inputs_are_refused,
    blocks_of_a_million_units_are_refused,
    batches_beyond_memory_are_refused,
);

fn refused<R>(result: Result<R, Error>, what: &str) {
    let Err(error) = result else {
        panic!("{what}: not refused");
    };
    assert!(matches!(error, Error::TooLarge { .. }), "{what}: {error}");
    assert!(error.to_string().contains(what), "{what}: {error}");
}

/// Side 2²⁸ was an abort, and so was a layer of a million inputs.
fn moments_of_a_million_inputs_are_refused<T: Tested>() {
    for inputs in [1_000_000, 1 << 28, usize::MAX / 16] {
        for bias in [true, false] {
            refused(NormalEquations::<T>::new(inputs, 1, bias), "moments");
        }
    }
    let d = 1_000_000;
    let layer = Dense::new(d, 1, Activation::Identity).unwrap();
    let circuit = Circuit::<T>::builder().layer(layer).build().unwrap();
    let mut model = DecoupledCircuit::new(circuit, Energy::default()).unwrap();
    let (x, y) = (
        DMatrix::from_element(d, 2, T::one()),
        DMatrix::from_element(1, 2, T::one()),
    );
    model
        .add_examples(&x, &y, &TargetInit::ForwardPass)
        .unwrap();
    let before = model.circuit().parameters(0).to_vec();
    let solver = LeastSquares::ridge(1.0).unwrap();
    let solved = model.solve_parameters(0, &solver, &Selection::All);
    refused(solved, "moments");
    let w_step = WStep::solver(solver.with_forgetting_factor(1.0).unwrap());
    let phase = Phase::with_w_step(Decoupling::weights_only(), w_step).unwrap();
    refused(
        Trainer::new(phase).run(&mut model).map_err(Error::from),
        "moments",
    );
    assert_eq!(model.circuit().parameters(0), before);
}

/// Entry e of patch p is input (e + p) modulo their number: few weights, many units.
#[derive(Debug)]
struct Cyclic {
    inputs: usize,
    patch_len: usize,
    positions: usize,
}

impl Unfold for Cyclic {
    fn input_shape(&self) -> Shape {
        self.inputs.into()
    }

    fn patch_len(&self) -> usize {
        self.patch_len
    }

    fn positions(&self) -> Shape {
        self.positions.into()
    }

    fn source(&self, entry: usize, position: usize) -> Option<usize> {
        Some((entry + position) % self.inputs)
    }
}

fn cyclic(inputs: usize, patch_len: usize, positions: usize) -> Patchwise<Cyclic> {
    let unfold = Cyclic {
        inputs,
        patch_len,
        positions,
    };
    Patchwise::over(unfold, 1, Activation::Identity).unwrap()
}

fn dense(inputs: usize, outputs: usize) -> Dense {
    Dense::new(inputs, outputs, Activation::Identity).unwrap()
}

fn model<T: Scalar>(builder: CircuitBuilder<T>) -> DecoupledCircuit<T> {
    DecoupledCircuit::new(builder.build().unwrap(), Energy::default()).unwrap()
}

/// Matrices over so many units are refused; other solvers go on.
fn blocks_of_a_million_units_are_refused<T: Tested>() {
    let d = 1 << 20;
    let mut wide = model::<T>(Circuit::builder().layer(dense(1, d)).layer(dense(d, 1)));
    let one = DMatrix::from_element(1, 1, T::one());
    let init = TargetInit::ForwardPass;
    wide.add_examples(&one, &one, &init).unwrap();
    let before = wide.z(1).unwrap().into_owned();
    for solver in [GaussNewton::direct(1), GaussNewton::cyclic_reduction(1)] {
        refused(wide.solve_targets(&solver, &Selection::All), "blocks");
        let rule = GradientDescent::new(0.1).unwrap();
        let phase = Phase::new(Decoupling::persistent(solver), rule);
        refused(
            Trainer::new(phase).run(&mut wide).map_err(Error::from),
            "blocks",
        );
    }
    refused(linear_minimum(&wide, &Selection::All), "Hessian");
    assert_eq!(wide.z(1).unwrap(), before);
    let sweep = ReverseSweep::new(1).with_step(StepSize::Checked(1e-3));
    wide.solve_targets(&sweep.unwrap(), &Selection::All)
        .unwrap();
    // A projection from a million to a million.
    let layers = Circuit::builder().layer(dense(1, d)).layer(cyclic(d, 1, d));
    let mut wide = model::<T>(layers.layer(dense(d, 1)));
    let projected = TargetInit::Projected { seed: 0 };
    refused(wide.add_examples(&one, &one, &projected), "projection");
    assert_eq!(wide.examples().len(), 0);
}

/// The product of a window's sides and channels overflows.
#[test]
fn windows_beyond_memory_are_refused() {
    let side = 1 << 24;
    let window = Window2d::new(side).with_padding(side);
    let identity = Activation::Identity;
    refused(Conv2d::new([1 << 16, 1, 1], 1, window, identity), "window");
    let plain = Window2d::new(side);
    let transposed = ConvTranspose2d::new([1, 1, 1], 1 << 16, plain, identity);
    refused(transposed, "an image");
    // So does that of a column with its padding, which is only work memory.
    let padded = Window2d::new([1, 2])
        .with_padding([side, 1])
        .with_stride([1 << 18, 1]);
    let layer = Conv2d::new([1 << 48, 1, 1], 1, padded, identity).unwrap();
    assert_eq!(layer.scratch(1).work, usize::MAX);
}

/// A description of many groups or positions builds a layer, but takes no memory for them.
#[test]
fn descriptions_take_no_memory() {
    let (many, identity) = (1 << 28, Activation::Identity);
    let depthwise = Conv2d::new([many, 1, 1], many, 1, identity).unwrap();
    let positions = PositionWise::new(many, many, 1, identity).unwrap();
    for layer in [
        Box::new(depthwise.with_groups(many).unwrap()) as Box<dyn Layer<f64>>,
        Box::new(positions),
    ] {
        let own = layer.description().unwrap();
        let again = Registry::<f64>::new().layer(&own).unwrap();
        assert_eq!(again.description(), Some(own));
    }
}

/// More examples times units than memory holds.
fn batches_beyond_memory_are_refused<T: Tested>() {
    let (n, d) = (1 << 22, 1 << 20);
    let (x, y) = (DMatrix::zeros(1, n), DMatrix::zeros(1, n));
    let init = TargetInit::ForwardPass;
    let mut wide = model::<T>(Circuit::builder().layer(dense(1, d)).layer(dense(d, 1)));
    let many = model::<T>(Circuit::builder().layer(dense(1, d)));
    refused(many.circuit().predict(&x), "predictions");
    refused(many.predict_proba(&x), "predictions");
    refused(wide.add_examples(&x, &y, &init), "targets");
    assert_eq!(wide.examples().len(), 0);
    // Patches, which only evaluations need.
    let n = 1 << 15;
    let (x, y) = (DMatrix::zeros(1, n), DMatrix::zeros(1, n));
    let layers = Circuit::builder().layer(cyclic(1, 1 << 18, 1 << 6));
    let mut long = model::<T>(layers.layer(dense(1 << 6, 1)));
    refused(long.add_examples(&x, &y, &init), "forward pass");
    let given = TargetInit::Given(vec![DMatrix::zeros(1 << 6, n)]);
    long.add_examples(&x, &y, &given).unwrap();
    let sweep = ReverseSweep::new(1);
    refused(long.gradients(&Selection::All), "a batch");
    refused(long.target_objective(&Selection::All), "a batch");
    refused(long.solve_targets(&sweep, &Selection::All), "a batch");
    let phase = Phase::new(Backprop, GradientDescent::new(0.1).unwrap()).with_epochs(1);
    refused(
        Trainer::new(phase).run(&mut long).map_err(Error::from),
        "a batch",
    );
    assert!(long.gradients(&Selection::Columns(3..5)).is_ok());
}
