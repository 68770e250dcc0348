//! A circuit of numbers of one's own computes what one of `f64` does.

use downstream::{Counted, ExpScaling, LogCosh, Sweep, products};
use layerwise::prelude::*;

fn model<T: Scalar>() -> DecoupledCircuit<T> {
    let circuit = Circuit::builder()
        .layer(Dense::new(2, 6, Activation::Tanh).unwrap())
        .layer(ExpScaling { dim: 6 })
        .layer(Dense::new(6, 1, Activation::Identity).unwrap())
        .build()
        .unwrap();
    let x = DMatrix::from_fn(2, 20, |i, j| T::of(((i + 1) * j % 9) as f64 / 4.0 - 1.0));
    let y = DMatrix::from_fn(1, 20, |_, j| (x[(0, j)] * x[(1, j)]).sin());
    let energy = Energy::new(LogCosh).with_hidden_loss(LogCosh);
    let mut model = DecoupledCircuit::new(circuit, energy).unwrap();
    let init = TargetInit::NoisyForwardPass { std: 0.3, seed: 1 };
    model.add_examples(&x, &y, &init).unwrap();
    model
}

fn trained<T: Scalar>() -> (f64, Vec<f64>) {
    let mut model = model::<T>();
    model.solve_targets(&Sweep(0.2), &Selection::All).unwrap();
    let scheme = Decoupling::persistent(ReverseSweep::new(1));
    let phase = Phase::new(scheme, Adam::new(1e-2).unwrap()).with_epochs(20);
    Trainer::new(phase).run(&mut model).unwrap();
    let parameters = model.circuit().parameters(0).iter().map(|p| p.as_f64());
    (model.energy().unwrap().as_f64(), parameters.collect())
}

#[test]
fn a_run_in_numbers_of_ones_own_is_that_in_f64() {
    let ((energy, own), (expected, floats)) = (trained::<Counted>(), trained::<f64>());
    assert!((energy - expected).abs() < 1e-9, "{energy}, {expected}");
    for (own, expected) in own.iter().zip(&floats) {
        assert!((own - expected).abs() < 1e-9, "{own}, {expected}");
    }
}

/// Its methods are called for every number: on 20 examples of 2 inputs, 6 outputs more take
/// 6 · 2 · 20 multiplications more, and one each to see that they are finite.
#[test]
fn every_multiplication_is_made_in_the_number_type() {
    let count = |outputs| {
        let layer = Dense::new(2, outputs, Activation::Identity).unwrap();
        let circuit = Circuit::<Counted>::builder().layer(layer).build().unwrap();
        let inputs = DMatrix::from_element(2, 20, Counted(0.5));
        products(|| circuit.predict(&inputs).unwrap()).0
    };
    assert_eq!(count(12) - count(6), 240 + 120);
}
