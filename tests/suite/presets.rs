//! What the presets promise: each one's statement of the method, on small circuits.

use layerwise::decoupled::{Gradients, Selection, TargetInit};
use layerwise::energy::Energy;
use layerwise::layer::{Activation, Dense};
use layerwise::nalgebra::DMatrix;
use layerwise::optimizer::{Adam, GradientDescent};
use layerwise::target_solver::ReverseSweep;
use layerwise::training::Trainer;
use layerwise::{Circuit, DecoupledCircuit, Error, presets};

const EXAMPLES: usize = 12;

/// tanh circuit of widths 2, 4, 3, 1 with every μ the same.
fn model(penalty: f64, init: &TargetInit<f64>) -> DecoupledCircuit<f64> {
    let circuit = Circuit::builder()
        .layer(Dense::new(2, 4, Activation::Tanh).unwrap())
        .layer(Dense::new(4, 3, Activation::Tanh).unwrap())
        .layer(Dense::new(3, 1, Activation::Identity).unwrap())
        .seed(3)
        .build()
        .unwrap();
    let mut model =
        DecoupledCircuit::new(circuit, Energy::default().with_penalty(penalty)).unwrap();
    let x = DMatrix::from_fn(2, EXAMPLES, |i, j| {
        ((3 * i + 2) * j % 11) as f64 / 5.0 - 1.0
    });
    let y = x.row(0).map(|x| (2.0 * x).sin()).into_owned();
    let y = DMatrix::from_row_slice(1, EXAMPLES, y.as_slice());
    model.add_examples(&x, &y, init).unwrap();
    model
}

fn noisy() -> TargetInit<f64> {
    TargetInit::NoisyForwardPass { std: 0.3, seed: 1 }
}

/// The proposal: θ and z both step along −∂E at the same point.
#[test]
fn the_proposal_is_descent_on_both() {
    let before = model(1.0, &noisy());
    let gradients = before.gradients(&Selection::All).unwrap();
    let mut after = before.clone();
    let targets = GradientDescent::new(0.2).unwrap();
    let phase = presets::proposal(targets, GradientDescent::new(0.1).unwrap());
    Trainer::new(phase.with_epochs(1)).run(&mut after).unwrap();
    for t in 1..3 {
        let expected = before.z(t).unwrap() - 0.2 * &gradients.targets[t - 1];
        assert!((after.z(t).unwrap() - expected).amax() < 1e-15);
    }
    for t in 0..3 {
        let old = before.circuit().parameters(t).iter();
        let new = after.circuit().parameters(t);
        for ((old, g), new) in old.zip(&gradients.parameters[t]).zip(new) {
            let expected = old - 0.1 * (g / EXAMPLES as f64);
            assert!((new - expected).abs() < 1e-15);
        }
    }
}

/// Incremental predictive coding: one synchronous step of z on targets that stay, then one of θ at the new z.
#[test]
fn incremental_pc_is_one_step_of_each_in_turn() {
    let mut expected = model(1.5, &noisy());
    let mut trained = expected.clone();
    let phase = presets::incremental_pc(0.2, GradientDescent::new(0.1).unwrap()).unwrap();
    Trainer::new(phase.with_epochs(5))
        .run(&mut trained)
        .unwrap();
    for _ in 0..5 {
        let gradients = expected.gradients(&Selection::All).unwrap();
        for t in 1..3 {
            let z = expected.z(t).unwrap() - 0.2 * &gradients.targets[t - 1];
            expected.set_targets(t, &Selection::All, &z).unwrap();
        }
        let gradients = expected.gradients(&Selection::All).unwrap().parameters;
        for (t, gradient) in gradients.iter().enumerate() {
            let old = expected.circuit().parameters(t).iter().zip(gradient);
            let new: Vec<f64> = old
                .map(|(old, g)| old - 0.1 * (g / EXAMPLES as f64))
                .collect();
            expected.set_parameters(t, &new).unwrap();
        }
    }
    for t in 1..3 {
        assert!((trained.z(t).unwrap() - expected.z(t).unwrap()).amax() < 1e-14);
    }
    for t in 0..3 {
        let pairs = trained.circuit().parameters(t).iter();
        for (own, expected) in pairs.zip(expected.circuit().parameters(t)) {
            assert!((own - expected).abs() < 1e-14, "θ_{t}: {own}, {expected}");
        }
    }
    let error = presets::incremental_pc::<f64>(0.0, Adam::new(0.1).unwrap());
    assert!(matches!(error, Err(Error::InvalidOption { .. })));
}

/// Penalty continuation: μ ends where it should, and where it grew a hundredfold the gap is of
/// order 1/μ, while the composed loss goes on falling.
#[test]
fn mac_closes_the_gap() {
    let train = |growth: f64| {
        let mut model = model(1.0, &noisy());
        let before = model.composed_loss().unwrap();
        let rule = Adam::new(3e-3).unwrap();
        let phase = presets::mac(ReverseSweep::new(5), rule, growth).unwrap();
        let report = Trainer::new(phase.with_epochs(2000))
            .run(&mut model)
            .unwrap();
        let loss = model.composed_loss().unwrap();
        assert!(loss < 0.1 * before, "growth {growth}: {before} to {loss}");
        (
            report.history[1999].gap.unwrap(),
            model.terms().penalties()[0],
        )
    };
    let (flat, one) = train(1.0);
    let (closed, hundred) = train(100.0);
    // The last visit is one step before the end of the schedule.
    assert_eq!(one, 1.0);
    assert!((hundred - 100f64.powf(1999.0 / 2000.0)).abs() < 1e-9);
    assert!(closed < 0.1 * flat, "gap {flat} at μ = 1, {closed} at 100");
    for growth in [0.5, f64::NAN, f64::INFINITY] {
        let error = presets::mac::<f64>(ReverseSweep::new(1), Adam::new(0.1).unwrap(), growth);
        let expected = matches!(error, Err(Error::InvalidOption { value, .. }) if value.to_bits() == growth.to_bits());
        assert!(expected, "{error:?}");
    }
}

/// Parameters after one visit with a step of 1, turned back into the gradient that moved them.
fn gradient(mut model: DecoupledCircuit<f64>, penalty: f64) -> Vec<f64> {
    let all = |model: &DecoupledCircuit<f64>| -> Vec<f64> {
        let layers = (0..3).flat_map(|t| model.circuit().parameters(t).to_vec());
        layers.collect()
    };
    let before = all(&model);
    let rule = GradientDescent::new(1.0).unwrap();
    // Far below 2/λ_max of this circuit, and long enough to come to rest.
    let phase = presets::predictive_coding(4000, 0.1 / penalty, rule).unwrap();
    Trainer::new(phase.with_epochs(1)).run(&mut model).unwrap();
    let after = all(&model);
    let moved = before
        .iter()
        .zip(after)
        .map(|(b, a)| (b - a) * EXAMPLES as f64);
    moved.collect()
}

/// Statement 3 of the method for relaxed predictive coding: its gradient's relative difference
/// from backprop's halves when μ doubles.
#[test]
fn predictive_coding_tends_to_backprop() {
    let model = |penalty| model(penalty, &TargetInit::ForwardPass);
    let Gradients { parameters, .. } = model(1.0).backprop(&Selection::All).unwrap();
    let exact = parameters.concat();
    let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
    let differences: Vec<f64> = [100.0, 200.0, 400.0]
        .into_iter()
        .map(|penalty| {
            let found = gradient(model(penalty), penalty);
            let error: Vec<f64> = found.iter().zip(&exact).map(|(f, e)| f - e).collect();
            norm(&error) / norm(&exact)
        })
        .collect();
    for pair in differences.windows(2) {
        let ratio = pair[0] / pair[1];
        assert!((ratio - 2.0).abs() < 0.05, "{differences:?}");
    }
}
