//! A skip within one unit.

use layerwise::decoupled::{Selection, TargetInit};
use layerwise::layer::{Activation, Dense, Embedding, Reshape, Residual, Scale, Sequential};
use layerwise::nalgebra::DMatrix;
use layerwise::{Circuit, DecoupledCircuit, Error, Layer};

use super::checked::{Call, count, holds};
use crate::property::{Tested, generator, uniform};

in_both_scalars!(passes_every_check);

fn dense(input: usize, output: usize) -> Dense {
    Dense::new(input, output, Activation::Tanh).unwrap()
}

fn unit<T: Tested>() -> Sequential<T> {
    Sequential::new(vec![Box::new(dense(3, 5)), Box::new(dense(5, 3))]).unwrap()
}

fn passes_every_check<T: Tested>() {
    holds::<T>(Residual::new(dense(4, 4)).unwrap());
    let scaled = Residual::new(unit::<T>()).unwrap();
    let scaled = scaled.with_branch_scale(0.25).unwrap();
    holds::<T>(scaled.with_skip_scale(-1.5).unwrap());
    holds::<T>(
        Residual::new(dense(2, 2))
            .unwrap()
            .with_branch_scale(0.0)
            .unwrap(),
    );
}

#[test]
fn adds_its_branch_to_its_input() {
    let layer = Residual::<f64>::new(unit()).unwrap();
    let layer = layer.with_branch_scale(0.25).unwrap();
    let parameters = uniform(&mut generator(1), count(&layer), 1.0);
    let input = uniform(&mut generator(2), 6, 1.0);
    let branch = unit::<f64>();
    let g = Call::new(&branch, &parameters, &input).output;
    let expected: Vec<f64> = input.iter().zip(&g).map(|(z, g)| z + 0.25 * g).collect();
    assert_eq!(Call::new(&layer, &parameters, &input).output, expected);
    // The same names, in the same places.
    assert_eq!(layer.parameters(), Layer::<f64>::parameters(&branch));
}

#[test]
fn the_bound_is_that_of_a_sum() {
    let bound = |branch: f64, c: f64, s: f64| {
        let layer = Residual::<f64>::new(Scale::new(2, branch).unwrap()).unwrap();
        let layer = layer
            .with_skip_scale(c)
            .unwrap()
            .with_branch_scale(s)
            .unwrap();
        Call::new(&layer, &[], &[1.0, 2.0]).bound().unwrap()
    };
    for (branch, c, s, expected) in [(3.0, 1.0, 1.0, 16.0), (3.0, -2.0, 0.5, 12.25)] {
        let found = bound(branch, c, s);
        assert!((found - expected).abs() < 1e-12 * expected, "{found}");
    }
    assert!((bound(1e200, 1.0, 0.0) - 1.0).abs() < 1e-14, "no ∞ · 0");
    // A branch without a bound has none.
    let open = super::attention::small(2, 3, 1);
    let layer = Residual::<f64>::new(open).unwrap();
    let parameters = vec![0.0; count(&layer)];
    assert_eq!(Call::new(&layer, &parameters, &[0.0; 6]).bound(), None);
}

#[test]
fn refuses_what_cannot_be_added() {
    let error = Residual::<f64>::new(Dense::new(3, 4, Activation::Relu).unwrap()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a residual layer adds its branch's output to its input, but the branch maps dimension 3 to \
         dimension 4"
    );
    assert!(matches!(error, Error::BranchShape { .. }));
    // Of the same size, but another shape.
    let error = Residual::<f64>::new(Embedding::new(4, 1, 3).unwrap()).unwrap_err();
    assert_eq!(error, Error::InputNotDifferentiable { layer: 0 });
    let chain: Sequential<f64> = Sequential::new(vec![
        Box::new(Scale::new([2, 3], 1.0).unwrap()),
        Box::new(Reshape::new([2, 3], [3, 2]).unwrap()),
    ])
    .unwrap();
    let told = Residual::new(chain).unwrap_err().to_string();
    assert!(
        told.contains("shape 2 x 3 (dimension 6) to shape 3 x 2"),
        "{told}"
    );
    let layer = Residual::<f64>::new(dense(2, 2)).unwrap();
    let told = layer.with_branch_scale(f64::NAN).unwrap_err().to_string();
    assert!(told.contains("Residual::branch_scale is NaN"), "{told}");
}

/// A whole circuit of residual units has the gradients of backprop through them.
#[test]
fn a_circuit_of_residual_units_trains() {
    let mut builder = Circuit::<f64>::builder().seed(5);
    for _ in 0..3 {
        builder = builder.layer(Residual::new(unit()).unwrap());
    }
    let circuit = builder.layer(dense(3, 2)).build().unwrap();
    let mut model = DecoupledCircuit::new(circuit, Default::default()).unwrap();
    let x = DMatrix::from_column_slice(3, 4, &uniform::<f64>(&mut generator(6), 12, 1.0));
    let y = DMatrix::from_column_slice(2, 4, &uniform::<f64>(&mut generator(7), 8, 1.0));
    let init = TargetInit::NoisyForwardPass { std: 0.1, seed: 1 };
    model.add_examples(&x, &y, &init).unwrap();
    let report = layerwise::gradcheck::GradCheck::new()
        .circuit(&model)
        .unwrap();
    report.require(1e-6).unwrap();
    assert!(model.gradients(&Selection::All).is_ok());
}
