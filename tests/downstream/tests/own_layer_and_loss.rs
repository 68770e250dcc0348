//! The layer and the loss are correct, and serve in a decoupled circuit like any other.

use downstream::{ExpScaling, LogCosh};
use layerwise::nalgebra::DMatrix;
use layerwise::{
    Activation, Adam, Alternating, Circuit, DecoupledCircuit, Dense, GradCheck, ReverseSweep,
    Selection, TargetInit, Trainer, Phase,
};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

fn model() -> DecoupledCircuit<f64> {
    let circuit = Circuit::builder()
        .layer(Dense::new(2, 6, Activation::Tanh).unwrap())
        .layer(ExpScaling { dim: 6 })
        .layer(Dense::new(6, 1, Activation::Identity).unwrap())
        .hidden_loss(LogCosh)
        .output_loss(LogCosh)
        .build()
        .unwrap();
    let x = DMatrix::from_fn(2, 20, |i, j| ((i + 1) * j % 9) as f64 / 4.0 - 1.0);
    let y = DMatrix::from_fn(1, 20, |_, j| (x[(0, j)] * x[(1, j)]).sin());
    let mut model = DecoupledCircuit::new(circuit);
    let init = TargetInit::NoisyForwardPass { std: 0.3, seed: 1 };
    model.add_examples(&x, &y, &init).unwrap();
    model
}

#[test]
fn the_whole_circuit_passes_the_gradient_check() {
    let report = GradCheck::new().circuit(&model()).unwrap();
    assert!(report.compared > 100);
    report.require(1e-6).unwrap();
}

#[test]
fn sweeps_bounded_by_the_curvature_lower_the_energy() {
    let mut model = model();
    let mut energy = model.energy().unwrap();
    for _ in 0..10 {
        let mut sweep = ReverseSweep::new(1);
        model.solve_targets(&mut sweep, &Selection::All).unwrap();
        let after = model.energy().unwrap();
        assert!(after < energy, "{energy} to {after}");
        energy = after;
    }
}

#[test]
fn the_circuit_trains() {
    let mut model = model();
    let before = model.composed_loss().unwrap();
    let scheme = Alternating::refreshed(ReverseSweep::new(1));
    let mut trainer = Trainer::new(Phase::new(scheme, Adam::new(1e-2).unwrap()).epochs(200));
    trainer.run(&mut model).unwrap();
    let after = model.composed_loss().unwrap();
    assert!(after < 0.1 * before, "{before} to {after}");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        rng_seed: RngSeed::Fixed(1),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_layer_passes_the_gradient_check(
        parameters in prop::collection::vec(-1.5..1.5, 3),
        input in prop::collection::vec(-2.0..2.0, 6),
    ) {
        let layer = ExpScaling { dim: 3 };
        let report = GradCheck::new().layer::<f64>(&layer, &parameters, &input).unwrap();
        prop_assert!(report.require(1e-6).is_ok(), "{report}");
    }

    #[test]
    fn the_loss_passes_the_gradient_check(
        target in prop::collection::vec(-2.0..2.0, 6),
        prediction in prop::collection::vec(-2.0..2.0, 6),
    ) {
        let check = GradCheck::new();
        let report = check.loss::<f64>(&LogCosh, 3, &target, &prediction).unwrap();
        prop_assert!(report.require(1e-6).is_ok(), "{report}");
        let report = check.curvature::<f64>(&LogCosh, 3, &target, &prediction, true).unwrap();
        prop_assert!(report.require(1e-6).is_ok(), "{report}");
    }
}
