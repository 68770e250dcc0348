//! Update rules and schedules against values worked out by hand from their published formulas.

use layerwise::nalgebra::DMatrix;
use layerwise::{
    Activation, Adam, Backprop, Circuit, DecoupledCircuit, Dense, Error, GradientDescent,
    Optimizer, Scalar, Schedule, Step, TargetInit, Trainer,
};

/// Values after each step of `rule` from `start` along `gradients`, with a factor each.
fn run<T: Scalar>(
    rule: &impl Optimizer<T>,
    start: &[f64],
    gradients: &[(&[f64], f64)],
) -> Vec<Vec<f64>> {
    let mut values: Vec<T> = start.iter().map(|&x| T::of(x)).collect();
    let mut state = vec![T::zero(); rule.slots() * values.len()];
    let steps = (1..).zip(gradients).map(|(number, &(gradient, factor))| {
        let gradient: Vec<T> = gradient.iter().map(|&g| T::of(g)).collect();
        rule.update(
            Step::new(number, factor),
            &mut values,
            &gradient,
            &mut state,
        );
        values.iter().map(|x| x.as_f64()).collect()
    });
    steps.collect()
}

/// Asserts the same trajectory in `f64` to 1e-12 and in `f32` to 1e-6.
fn assert_trajectory(
    rule: &(impl Optimizer<f64> + Optimizer<f32>),
    start: &[f64],
    gradients: &[(&[f64], f64)],
    expected: &[&[f64]],
) {
    for (found, tolerance) in [
        (run::<f64>(rule, start, gradients), 1e-12),
        (run::<f32>(rule, start, gradients), 1e-6),
    ] {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            for (found, expected) in found.iter().zip(*expected) {
                let error = (found - expected).abs();
                assert!(error <= tolerance, "{rule:?}: {found}, not {expected}");
            }
        }
    }
}

/// x ← x − η g: 1 − 0.1·2, then + 0.1·1, then − 0.1·½·4 with the factor ½.
#[test]
fn plain_descent() {
    let rule = GradientDescent::new(0.1).unwrap();
    let gradients: [(&[f64], f64); 3] = [
        (&[2.0, 0.0], 1.0),
        (&[-1.0, 5.0], 1.0),
        (&[4.0, -10.0], 0.5),
    ];
    let expected: [&[f64]; 3] = [&[0.8, -3.0], &[0.9, -3.5], &[0.7, -3.0]];
    assert_trajectory(&rule, &[1.0, -3.0], &gradients, &expected);
    assert_eq!(Optimizer::<f64>::slots(&rule), 0);
}

/// v = 2, then ½·2 − 1 = 0, then ½·0 + 4 = 4, then ½·4 + 0 = 2 at half the rate; a second value
/// has a state of its own: v = 0, 1, ½, ¼.
#[test]
fn momentum() {
    let rule = GradientDescent::new(0.1)
        .unwrap()
        .with_momentum(0.5)
        .unwrap();
    let gradients: [(&[f64], f64); 4] = [
        (&[2.0, 0.0], 1.0),
        (&[-1.0, 1.0], 1.0),
        (&[4.0, 0.0], 1.0),
        (&[0.0, 0.0], 0.5),
    ];
    let expected: [&[f64]; 4] = [&[0.8, 1.0], &[0.8, 0.9], &[0.4, 0.85], &[0.3, 0.8375]];
    assert_trajectory(&rule, &[1.0, 1.0], &gradients, &expected);
    assert_eq!(Optimizer::<f64>::slots(&rule), 1);
}

/// Kingma & Ba's formulas in 40 digits; and a value without gradient stays.
#[test]
fn adam_with_its_defaults() {
    let rule = Adam::new(0.1).unwrap();
    let gradients: [(&[f64], f64); 4] = [
        (&[2.0, 0.0], 1.0),
        (&[-1.0, 0.0], 1.0),
        (&[0.5, 0.0], 1.0),
        (&[3.0, 0.0], 1.0),
    ];
    let expected: [&[f64]; 4] = [
        &[0.900_000_000_5, 7.0],
        &[0.873_366_296_702_431_4, 7.0],
        &[0.839_323_382_138_942_4, 7.0],
        &[0.776_205_321_092_695_8, 7.0],
    ];
    assert_trajectory(&rule, &[1.0, 7.0], &gradients, &expected);
    assert_eq!(Optimizer::<f64>::slots(&rule), 2);
}

/// β₁ = ½, β₂ = ¾, ε = ¼ and a falling rate. The first step by hand is 0.1·2/(2 + ¼); in the
/// second m = ½·1 − ½·1 = 0, and nothing moves.
#[test]
fn adam_with_options_and_factors() {
    let rule = Adam::new(0.1).unwrap();
    let rule = rule
        .with_betas(0.5, 0.75)
        .unwrap()
        .with_epsilon(0.25)
        .unwrap();
    let gradients: [(&[f64], f64); 4] = [
        (&[2.0], 1.0),
        (&[-1.0], 0.5),
        (&[0.5], 0.25),
        (&[3.0], 0.125),
    ];
    let expected: [&[f64]; 4] = [
        &[1.0 - 0.2 / 2.25],
        &[1.0 - 0.2 / 2.25],
        &[0.906_135_236_983_682_9],
        &[0.896_695_260_458_936_3],
    ];
    assert_trajectory(&rule, &[1.0], &gradients, &expected);
}

#[test]
fn schedules() {
    let near = |a: f64, b: f64| assert!((a - b).abs() <= 1e-15, "{a}, not {b}");
    for s in [0.0, 0.3, 1.0] {
        near(Schedule::Constant.factor(s), 1.0);
    }
    // cos 60° = ½, cos 120° = −½.
    let cosine = Schedule::Cosine { end: 0.2 };
    let at = [
        (0.0, 1.0),
        (1.0 / 3.0, 0.8),
        (0.5, 0.6),
        (2.0 / 3.0, 0.4),
        (1.0, 0.2),
    ];
    for (s, factor) in at {
        near(cosine.factor(s), factor);
    }
    let exponential = Schedule::Exponential { end: 0.0625 };
    for (s, factor) in [(0.0, 1.0), (0.25, 0.5), (0.5, 0.25), (1.0, 0.0625)] {
        near(exponential.factor(s), factor);
    }
    // Progress outside the run is its start or its end.
    for schedule in [cosine, exponential] {
        near(schedule.factor(-1.0), schedule.factor(0.0));
        near(schedule.factor(2.0), schedule.factor(1.0));
    }
}

fn assert_invalid<A: std::fmt::Debug>(result: Result<A, Error>, name: &str) {
    assert!(
        matches!(&result, Err(Error::InvalidOption { option, .. }) if *option == name),
        "{name}: {result:?}"
    );
}

#[test]
fn options_out_of_range_are_errors() {
    for value in [0.0, -0.1, f64::NAN, f64::INFINITY] {
        assert_invalid(GradientDescent::new(value), "GradientDescent::rate");
        assert_invalid(Adam::new(value), "Adam::rate");
        assert_invalid(Adam::new(0.1).unwrap().with_epsilon(value), "Adam::epsilon");
    }
    for value in [-0.1, 1.0, f64::NAN] {
        let descent = GradientDescent::new(0.1).unwrap();
        assert_invalid(descent.with_momentum(value), "GradientDescent::momentum");
        let adam = Adam::new(0.1).unwrap();
        assert_invalid(adam.with_betas(value, 0.9), "Adam::beta1");
        assert_invalid(adam.with_betas(0.9, value), "Adam::beta2");
    }
}

/// A schedule is checked before a run: nothing moves.
#[test]
fn schedules_out_of_range_are_errors() {
    let layer = Dense::new(1, 1, Activation::Identity).unwrap();
    let circuit = Circuit::<f64>::builder().layer(layer).build().unwrap();
    let mut model = DecoupledCircuit::new(circuit);
    let (x, y) = (
        DMatrix::from_element(1, 1, 1.0),
        DMatrix::from_element(1, 1, 5.0),
    );
    model
        .add_examples(&x, &y, &TargetInit::ForwardPass)
        .unwrap();
    let before = model.circuit().parameters(0).to_vec();
    let (cosine, exponential) = ("Schedule::Cosine::end", "Schedule::Exponential::end");
    for (schedule, name) in [
        (Schedule::Cosine { end: -0.1 }, cosine),
        (Schedule::Cosine { end: 1.1 }, cosine),
        (Schedule::Cosine { end: f64::NAN }, cosine),
        (Schedule::Exponential { end: 0.0 }, exponential),
        (Schedule::Exponential { end: 1.1 }, exponential),
        (Schedule::Exponential { end: f64::NAN }, exponential),
    ] {
        let mut trainer = Trainer::new(Backprop, Adam::new(0.1).unwrap()).schedule(schedule);
        assert_invalid(trainer.run(&mut model), name);
        assert_eq!(model.circuit().parameters(0), before);
    }
}
