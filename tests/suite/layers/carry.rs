//! A skip across units.

use layerwise::decoupled::TargetInit;
use layerwise::energy::Energy;
use layerwise::gradcheck::GradCheck;
use layerwise::kernel::Write;
use layerwise::layer::{
    Activation, Branch, Carry, Context, Dense, Embedding, Merge, ParameterGroup, Point, Scratch,
    Sequential, Shape,
};
use layerwise::nalgebra::DMatrix;
use layerwise::optimizer::{Adam, GradientDescent};
use layerwise::rand::Rng;
use layerwise::target_solver::{
    ErrorDescent, GaussNewton, RedBlack, ReverseSweep, StepSize, SynchronousDescent,
};
use layerwise::training::{Backprop, Decoupling, FixedPrediction, Phase, Trainer, ZIl};
use layerwise::{Circuit, DecoupledCircuit, Error, Layer};

use super::checked::{Call, holds};
use crate::property::{Tested, generator, uniform};

in_both_scalars!(passes_every_check);

fn dense(input: usize, output: usize) -> Dense {
    Dense::new(input, output, Activation::Tanh).unwrap()
}

fn passes_every_check<T: Tested>() {
    holds::<T>(Branch::new(3).unwrap());
    holds::<T>(Carry::new(dense(3, 4), 2).unwrap());
    holds::<T>(Carry::new(dense(3, 3), 1).unwrap());
    let merge = Merge::new(2).unwrap();
    holds::<T>(merge.clone());
    holds::<T>(
        merge
            .with_branch_scale(0.5)
            .unwrap()
            .with_skip_scale(-2.0)
            .unwrap(),
    );
}

#[test]
fn the_parts_are_stored_one_after_another() {
    let input = [1.0, 2.0, 3.0, 4.0];
    let branch = Branch::new(2).unwrap();
    let call = Call::<f64>::new(&branch, &[], &input);
    assert_eq!(call.output, [1.0, 2.0, 1.0, 2.0, 3.0, 4.0, 3.0, 4.0]);
    // ẑ = 2 h + 10 of the first value; the second passes.
    let linear = Dense::new(1, 1, Activation::Identity).unwrap();
    let carry = Carry::<f64>::new(linear, 1).unwrap();
    assert_eq!(
        Call::new(&carry, &[2.0, 10.0], &input).output,
        [12.0, 2.0, 16.0, 4.0]
    );
    let merge = Merge::new(1).unwrap().with_branch_scale(0.5).unwrap();
    let merge = merge.with_skip_scale(10.0).unwrap();
    assert_eq!(Call::<f64>::new(&merge, &[], &input).output, [20.5, 41.5]);
}

#[test]
fn bounds_are_those_of_the_parts() {
    let bound = |layer: &dyn Layer<f64>, parameters: &[f64]| {
        let input = vec![0.5; layer.input_dim()];
        Call::new(layer, parameters, &input).bound().unwrap()
    };
    assert_eq!(bound(&Branch::new(3).unwrap(), &[]), 2.0);
    let carry = |weight: f64| {
        let linear = Dense::new(1, 1, Activation::Identity).unwrap();
        bound(&Carry::new(linear, 2).unwrap(), &[weight, 0.0])
    };
    assert_eq!(carry(0.5), 1.0);
    assert!((carry(3.0) - 9.0).abs() < 1e-12);
    let merge = Merge::new(1).unwrap().with_branch_scale(3.0).unwrap();
    let found = bound(&merge.with_skip_scale(4.0).unwrap(), &[]);
    assert!((found - 25.0).abs() < 1e-12, "{found}");
}

/// ẑ = W (z + g₂(g₁(z))) with g₁ and g₂ in separate units.
fn circuit() -> Circuit<f64> {
    let first: Vec<Box<dyn Layer<f64>>> = vec![
        Box::new(Branch::new(4).unwrap()),
        Box::new(Carry::new(dense(4, 6), 4).unwrap()),
    ];
    let second: Vec<Box<dyn Layer<f64>>> = vec![
        Box::new(Carry::new(dense(6, 4), 4).unwrap()),
        Box::new(Merge::new(4).unwrap()),
    ];
    Circuit::builder()
        .seed(2)
        .layer(Sequential::new(first).unwrap())
        .layer(Sequential::new(second).unwrap())
        .layer(Dense::new(4, 2, Activation::Identity).unwrap())
        .build()
        .unwrap()
}

fn model() -> DecoupledCircuit<f64> {
    let mut model = DecoupledCircuit::new(circuit(), Energy::default()).unwrap();
    let x = DMatrix::from_vec(4, 12, uniform::<f64>(&mut generator(1), 48, 1.0));
    let y = DMatrix::from_fn(2, 12, |row, i| x[(row, i)] * x[(row + 1, i)]);
    let init = TargetInit::NoisyForwardPass { std: 0.05, seed: 3 };
    model.add_examples(&x, &y, &init).unwrap();
    model
}

#[test]
fn a_skip_over_two_units_is_the_sum() {
    let circuit = circuit();
    let x = DMatrix::from_vec(4, 3, uniform::<f64>(&mut generator(4), 12, 1.0));
    let output = circuit.predict(&x).unwrap();
    let affine = |t: usize, rows: usize, columns: usize, z: &DMatrix<f64>| {
        let (w, b) = circuit.parameters(t).split_at(rows * columns);
        let mut sums = DMatrix::from_column_slice(rows, columns, w) * z;
        for mut column in sums.column_iter_mut() {
            column.iter_mut().zip(b).for_each(|(v, b)| *v += b);
        }
        sums
    };
    let g1 = affine(0, 6, 4, &x).map(f64::tanh);
    let g2 = affine(1, 4, 6, &g1).map(f64::tanh);
    let expected = affine(2, 2, 4, &(&x + g2));
    assert!((output - expected).amax() < 1e-14);
    let report = GradCheck::new().circuit(&model()).unwrap();
    report.require(1e-6).unwrap();
}

/// Every scheme takes the circuit, and lowers the composed loss.
#[test]
fn every_scheme_trains_it() {
    let rule = || Adam::new(1e-2).unwrap();
    let synchronous = SynchronousDescent::new(2, StepSize::Bounded { margin: 1.0 }).unwrap();
    let phases: Vec<(&str, Phase<f64>)> = vec![
        ("backprop", Phase::new(Backprop, rule())),
        (
            "weights only",
            Phase::new(Decoupling::weights_only(), rule()),
        ),
        (
            "joint",
            Phase::new(
                Decoupling::joint(GradientDescent::new(0.05).unwrap()),
                rule(),
            ),
        ),
        (
            "persistent",
            Phase::new(Decoupling::persistent(ReverseSweep::new(1)), rule()),
        ),
        (
            "refreshed",
            Phase::new(Decoupling::refreshed(ReverseSweep::new(1)), rule()),
        ),
        (
            "residual",
            Phase::new(Decoupling::residual(RedBlack::new(2)), rule()),
        ),
        (
            "errors",
            Phase::new(Decoupling::residual(ErrorDescent::new(2)), rule()),
        ),
        (
            "synchronous",
            Phase::new(Decoupling::refreshed(synchronous), rule()),
        ),
        (
            "Gauss-Newton",
            Phase::new(Decoupling::persistent(GaussNewton::new(2, 4)), rule()),
        ),
        (
            "direct",
            Phase::new(Decoupling::persistent(GaussNewton::direct(1)), rule()),
        ),
        (
            "multipliers",
            Phase::new(
                Decoupling::persistent(ReverseSweep::new(1))
                    .with_multipliers(1.0)
                    .unwrap(),
                rule(),
            ),
        ),
        ("Z-IL", Phase::new(ZIl, rule())),
        (
            "fixed prediction",
            Phase::new(FixedPrediction::new(), rule()),
        ),
    ];
    for (name, phase) in phases {
        let mut model = model();
        let before = model.composed_loss().unwrap();
        let trainer = Trainer::new(phase.with_epochs(60));
        trainer.run(&mut model).unwrap();
        let after = model.composed_loss().unwrap();
        assert!(after < 0.9 * before, "{name}: {before} to {after}");
    }
}

/// The layer inside sees its own part of the data.
#[test]
fn inputs_are_checked_by_the_layer_inside() {
    /// Refuses numbers below 0.
    #[derive(Debug, Clone)]
    struct Positive(Dense);

    impl Layer<f64> for Positive {
        fn input_shape(&self) -> Shape {
            self.0.input_shape()
        }

        fn output_shape(&self) -> Shape {
            self.0.output_shape()
        }

        fn parameters(&self) -> Vec<ParameterGroup> {
            self.0.parameters()
        }

        fn initialize(&self, parameters: &mut [f64], rng: &mut dyn Rng) {
            self.0.initialize(parameters, rng);
        }

        fn scratch(&self, batch: usize) -> Scratch {
            self.0.scratch(batch)
        }

        fn check_input(&self, input: &[f64]) -> Result<(), Error> {
            match input.iter().position(|&z| z < 0.0) {
                None => Ok(()),
                Some(place) => Err(Error::InputDomain {
                    column: place / self.0.input_dim(),
                    reason: "a negative number".into(),
                }),
            }
        }

        fn forward(
            &self,
            context: &Context<'_>,
            parameters: &[f64],
            input: &[f64],
            output: &mut [f64],
            tape: Option<&mut [f64]>,
            work: &mut [f64],
        ) {
            self.0
                .forward(context, parameters, input, output, tape, work);
        }

        fn vjp(
            &self,
            at: &Point<'_, f64>,
            cotangent: &[f64],
            d_input: Write<'_, f64>,
            d_parameters: Write<'_, f64>,
            work: &mut [f64],
        ) {
            self.0.vjp(at, cotangent, d_input, d_parameters, work);
        }
    }

    let layer = Carry::new(Positive(dense(2, 1)), 1).unwrap();
    let circuit = Circuit::builder().layer(layer).build().unwrap();
    let carried = DMatrix::from_column_slice(3, 2, &[1.0, 1.0, -1.0, 1.0, 0.0, -1.0]);
    circuit.predict(&carried).unwrap();
    let wrong = DMatrix::from_column_slice(3, 2, &[1.0, 1.0, -1.0, 1.0, -1.0, 1.0]);
    let error = circuit.predict(&wrong).unwrap_err();
    let told = matches!(error, Error::InputDomain { column: 1, .. });
    assert!(told, "{error}");
}

#[test]
fn refuses_with_the_numbers() {
    let embedding = Embedding::new(3, 2, 2).unwrap();
    let error = Carry::<f64>::new(embedding, 1).unwrap_err();
    assert_eq!(error, Error::InputNotDifferentiable { layer: 0 });
    let zero = [
        Branch::new(0).unwrap_err(),
        Merge::new(0).unwrap_err(),
        Carry::<f64>::new(dense(1, 1), 0).unwrap_err(),
    ];
    for error in zero {
        assert!(matches!(error, Error::ZeroDimension { .. }), "{error}");
    }
    let told = Merge::new(1)
        .unwrap()
        .with_skip_scale(f64::NAN)
        .unwrap_err();
    assert!(
        told.to_string().contains("Merge::skip_scale is NaN"),
        "{told}"
    );
    // A skip that is not carried on.
    let unit: Vec<Box<dyn Layer<f64>>> =
        vec![Box::new(Branch::new(3).unwrap()), Box::new(dense(3, 3))];
    let error = Sequential::new(unit).unwrap_err();
    let told = error.to_string();
    assert!(
        told.contains("dimension 3") && told.contains("dimension 6"),
        "{told}"
    );
}
