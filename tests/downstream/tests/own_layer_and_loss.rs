//! The layer and the loss are correct, and serve in a decoupled circuit like any other.

use downstream::{ExpScaling, LogCosh};
use layerwise::decoupled::{Selection, TargetInit};
use layerwise::energy::Energy;
use layerwise::gradcheck::GradCheck;
use layerwise::layer::{Activation, Dense};
use layerwise::nalgebra::DMatrix;
use layerwise::optimizer::Adam;
use layerwise::strategies::proptest::prelude::*;
use layerwise::strategies::proptest::test_runner::RngSeed;
use layerwise::strategies::{Shapes, data, dense, layer_points, loss_points};
use layerwise::target_solver::ReverseSweep;
use layerwise::training::{Decoupling, Phase, Trainer};
use layerwise::{Circuit, DecoupledCircuit};

fn energy() -> Energy<f64> {
    Energy::new(LogCosh).with_hidden_loss(LogCosh)
}

fn model() -> DecoupledCircuit<f64> {
    let circuit = Circuit::builder()
        .layer(Dense::new(2, 6, Activation::Tanh).unwrap())
        .layer(ExpScaling { dim: 6 })
        .layer(Dense::new(6, 1, Activation::Identity).unwrap())
        .build()
        .unwrap();
    let x = DMatrix::from_fn(2, 20, |i, j| ((i + 1) * j % 9) as f64 / 4.0 - 1.0);
    let y = DMatrix::from_fn(1, 20, |_, j| (x[(0, j)] * x[(1, j)]).sin());
    let mut model = DecoupledCircuit::new(circuit, energy()).unwrap();
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
        let sweep = ReverseSweep::new(1);
        model.solve_targets(&sweep, &Selection::All).unwrap();
        let after = model.energy().unwrap();
        assert!(after < energy, "{energy} to {after}");
        energy = after;
    }
}

#[test]
fn the_circuit_trains() {
    let mut model = model();
    let before = model.composed_loss().unwrap();
    let scheme = Decoupling::refreshed(ReverseSweep::new(1));
    let trainer = Trainer::new(Phase::new(scheme, Adam::new(1e-2).unwrap()).with_epochs(200));
    trainer.run(&mut model).unwrap();
    let after = model.composed_loss().unwrap();
    assert!(after < 0.1 * before, "{before} to {after}");
}

/// The layer before a dense one and the loss behind both, with data that fit.
fn models() -> impl Strategy<Value = DecoupledCircuit<f64>> {
    let empty = (dense(Shapes::new().smooth()), any::<u64>()).prop_map(|(layer, seed)| {
        let dim = layer.input_dim();
        let builder = Circuit::builder().layer(ExpScaling { dim }).layer(layer);
        let circuit = builder.seed(seed).build().unwrap();
        DecoupledCircuit::new(circuit, energy()).unwrap()
    });
    empty.prop_flat_map(|empty| {
        data(&empty, 1..=4).prop_map(move |(x, y)| {
            let (seed, mut model) = (empty.circuit().seed(), empty.clone());
            let init = TargetInit::RandomNormal { std: 1.0, seed };
            model.add_examples(&x, &y, &init).unwrap();
            model
        })
    })
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
        at in layer_points::<f64>(&ExpScaling { dim: 3 }, 1..=4, -1.5..=1.5),
    ) {
        let layer = ExpScaling { dim: 3 };
        let report = GradCheck::new().layer(&layer, &at.parameters, &at.input)?;
        report.require(1e-6)?;
    }

    #[test]
    fn the_loss_passes_the_gradient_check(at in loss_points::<f64>(&LogCosh, 1..=4, 1..=4)) {
        let check = GradCheck::new();
        check.loss(&LogCosh, &at.pair())?.require(1e-6)?;
        check.curvature(&LogCosh, &at.pair(), true)?.require(1e-6)?;
    }

    #[test]
    fn any_circuit_of_both_passes_the_gradient_check(model in models()) {
        GradCheck::new().circuit(&model)?.require(1e-6)?;
    }
}
