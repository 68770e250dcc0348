//! Whole runs of Z-IL and of predictive coding with fixed predictions are runs of backprop:
//! parameters after several epochs, objectives, and what fewer steps leave out.

use std::sync::Arc;

use layerwise::decoupled::{Selection, TargetInit};
use layerwise::energy::Energy;
use layerwise::error::Quantity;
use layerwise::init::Initializer;
use layerwise::layer::{Activation, Dense};
use layerwise::loss::{Gaussian, SoftmaxCrossEntropy};
use layerwise::optimizer::GradientDescent;
use layerwise::regularizer::Regularizer;
use layerwise::schedule::Schedule;
use layerwise::training::{Backprop, FixedPrediction, Phase, Scheme, Trainer, TrainingReport, ZIl};
use layerwise::{Circuit, DecoupledCircuit, Error, Scalar};
use nalgebra::DMatrix;

const EXAMPLES: usize = 12;
const BATCH: usize = 5;
const WIDTH: usize = 4;
const CLASSES: usize = 3;

/// A classifier of `depth` layers; `dressed` with a parameter regulariser and example weights.
fn model(depth: usize, activation: Activation, dressed: bool) -> DecoupledCircuit<f64> {
    let mut builder = Circuit::builder().seed(5);
    for _ in 1..depth {
        builder = builder.layer(Dense::new(WIDTH, WIDTH, activation).unwrap());
    }
    builder = builder.layer(Dense::new(WIDTH, CLASSES, Activation::Identity).unwrap());
    let mut energy = Energy::new(SoftmaxCrossEntropy);
    if dressed {
        energy = energy.with_parameter_regularizer(Regularizer::elastic(0.01, 0.05).unwrap());
    }
    let x = DMatrix::from_fn(WIDTH, EXAMPLES, |i, j| ((3 * i + 7 * j) as f64).sin());
    let y = DMatrix::from_fn(CLASSES, EXAMPLES, |i, j| {
        f64::from(u8::from(j % CLASSES == i))
    });
    let mut model = DecoupledCircuit::new(builder.build().unwrap(), energy).unwrap();
    // Targets that would matter if they were read.
    let init = TargetInit::RandomNormal { std: 1.0, seed: 3 };
    model.add_examples(&x, &y, &init).unwrap();
    if dressed {
        let weights: Vec<f64> = (0..EXAMPLES).map(|i| 0.5 + 0.2 * i as f64).collect();
        model
            .set_example_weights(&Selection::All, &weights)
            .unwrap();
    }
    model
}

fn momentum() -> GradientDescent {
    GradientDescent::new(0.2)
        .unwrap()
        .with_momentum(0.9)
        .unwrap()
}

fn train<S: Scheme<f64> + 'static>(
    model: &DecoupledCircuit<f64>,
    scheme: S,
    change: impl Fn(Phase<f64>) -> Phase<f64>,
) -> (DecoupledCircuit<f64>, TrainingReport<f64>) {
    let mut model = model.clone();
    let phase = Phase::new(scheme, momentum()).with_epochs(4);
    let report = Trainer::new(change(phase)).run(&mut model).unwrap();
    (model, report)
}

/// The largest difference of any parameter of layer t.
fn difference(t: usize, a: &DecoupledCircuit<f64>, b: &DecoupledCircuit<f64>) -> f64 {
    let pairs = a.circuit().parameters(t).iter();
    let pairs = pairs.zip(b.circuit().parameters(t));
    pairs.fold(0.0, |top: f64, (a, b)| top.max((a - b).abs()))
}

/// Calls `check` with every model: depths, activations, plain and dressed.
fn for_each_model(check: impl Fn(usize, &str, DecoupledCircuit<f64>)) {
    for depth in [1, 2, 5] {
        for activation in [Activation::Tanh, Activation::Sigmoid] {
            for dressed in [false, true] {
                let name = format!("depth {depth}, {activation:?}, dressed: {dressed}");
                check(depth, &name, model(depth, activation, dressed));
            }
        }
    }
}

/// Several epochs of minibatches by `scheme` leave the parameters of backprop.
fn check_run<S: Scheme<f64> + 'static>(scheme: impl Fn(usize) -> S) {
    for_each_model(|depth, name, model| {
        let minibatches = |phase: Phase<f64>| phase.with_batch_size(BATCH).unwrap();
        let (expected, coupled) = train(&model, Backprop, minibatches);
        let (trained, local) = train(&model, scheme(depth), minibatches);
        for t in 0..depth {
            let moved = difference(t, &expected, &model);
            assert!(moved > 1e-4, "{name}: layer {t} moved by {moved}");
            let error = difference(t, &trained, &expected);
            assert!(error < 1e-10, "{name}: layer {t} differs by {error}");
        }
        for (local, coupled) in local.history.iter().zip(&coupled.history) {
            let error = (local.objective - coupled.objective).abs();
            assert!(error < 1e-10, "{name}: objectives differ by {error}");
        }
    });
}

#[test]
fn z_il_is_backprop() {
    check_run(|_| ZIl);
}

#[test]
fn fixed_prediction_is_backprop() {
    check_run(|_| FixedPrediction::new());
}

#[test]
fn fixed_prediction_stays_backprop_with_more_steps() {
    check_run(|depth| FixedPrediction::new().with_steps(depth - 1));
    check_run(|depth| FixedPrediction::new().with_steps(depth));
    check_run(|depth| FixedPrediction::new().with_steps(depth + 7));
}

#[test]
fn the_objective_is_backprops_to_the_bit() {
    for_each_model(|depth, name, model| {
        let by_hand = model.backprop(&Selection::All).unwrap().energy / EXAMPLES as f64;
        let objective = |report: TrainingReport<f64>| report.history[0].objective;
        let steps = |steps| FixedPrediction::new().with_steps(steps);
        let once = |phase: Phase<f64>| phase.with_epochs(1);
        assert_eq!(
            objective(train(&model, Backprop, once).1),
            by_hand,
            "{name}"
        );
        assert_eq!(objective(train(&model, ZIl, once).1), by_hand, "{name}");
        for steps in [steps(0), steps(1), steps(depth + 3), FixedPrediction::new()] {
            let found = objective(train(&model, steps, once).1);
            assert_eq!(found, by_hand, "{name}: {steps:?}");
        }
    });
}

#[test]
fn fewer_steps_leave_the_first_layers_as_they_are() {
    let depth = 5;
    let model = model(depth, Activation::Tanh, false);
    let once = |phase: Phase<f64>| phase.with_epochs(1);
    let (coupled, _) = train(&model, Backprop, once);
    for steps in 0..depth - 1 {
        let scheme = FixedPrediction::new().with_steps(steps);
        let (long, _) = train(&model, scheme, |phase| {
            phase.with_batch_size(BATCH).unwrap()
        });
        let (short, _) = train(&model, scheme, once);
        // An error moves by one layer a step.
        let first = depth - 1 - steps;
        for t in 0..depth {
            let start = model.circuit().parameters(t);
            let same = long.circuit().parameters(t) == start;
            assert_eq!(same, t < first, "{steps} steps, layer {t}");
            if t >= first {
                // One visit moves the others as backprop does.
                let error = difference(t, &short, &coupled);
                assert!(error < 1e-14, "{steps} steps, layer {t}: {error}");
            }
        }
    }
}

/// The bits of parameters and targets.
fn state(model: &DecoupledCircuit<f64>) -> Vec<u64> {
    let depth = model.circuit().depth();
    let own = (0..depth).flat_map(|t| model.circuit().parameters(t).to_vec());
    let targets = (1..depth).flat_map(|t| model.z(t).unwrap().iter().copied().collect::<Vec<_>>());
    own.chain(targets).map(f64::to_bits).collect()
}

fn check_refused(scheme: impl Scheme<f64> + 'static, option: &'static str) {
    let mut model = model(5, Activation::Tanh, false);
    model.set_penalties(&[1.0, 1.0, 0.75, 1.0]).unwrap();
    let before = state(&model);
    let trainer = Trainer::new(Phase::new(scheme, momentum()).with_epochs(2));
    let expected = Error::InvalidOption {
        option,
        value: 0.75,
        allowed: "1".into(),
    };
    assert_eq!(trainer.run(&mut model).unwrap_err().error, expected);
    assert!(state(&model) == before);
    // With unit penalties the same trainer runs.
    model.set_penalties(&[1.0; 4]).unwrap();
    assert_eq!(trainer.run(&mut model).unwrap().steps, 2);
}

/// Where the forward pass overflows, the targets that were there do not stand in for it.
#[test]
fn a_forward_pass_that_overflows_is_an_error() {
    let schemes: [Arc<dyn Scheme<f64>>; 2] = [Arc::new(ZIl), Arc::new(FixedPrediction::new())];
    for scheme in schemes {
        let mut builder = Circuit::builder();
        for _ in 0..3 {
            let unit = Dense::new(1, 1, Activation::Identity).unwrap();
            builder = builder.layer(unit.without_bias());
        }
        let mut model = DecoupledCircuit::new(builder.build().unwrap(), Energy::default()).unwrap();
        for (t, weight) in [1.0, 1e200, 1e200].into_iter().enumerate() {
            model.set_parameters(t, &[weight]).unwrap();
        }
        let (x, y) = (DMatrix::from_element(1, 1, 1e200), DMatrix::zeros(1, 1));
        let given = TargetInit::Given(vec![DMatrix::zeros(1, 1), DMatrix::zeros(1, 1)]);
        model.add_examples(&x, &y, &given).unwrap();
        let error = Trainer::new(Phase::new(scheme, momentum()).with_epochs(1)).run(&mut model);
        let expected = Error::NonFinite {
            quantity: Quantity::Prediction,
            layer: 2,
            step: 0,
        };
        assert_eq!(error.unwrap_err().error, expected);
    }
}

#[test]
fn other_penalties_are_refused() {
    check_refused(ZIl, "penalty μ under Z-IL");
    let option = "penalty μ under fixed prediction";
    check_refused(FixedPrediction::new(), option);
    check_refused(FixedPrediction::new().with_steps(9), option);
}

/// Neither does a schedule move μ away unseen, nor is a regulariser of targets let pass, nor another
/// hidden loss.
#[test]
fn what_breaks_the_equality_later_is_refused() {
    let growing = Schedule::geometric(2.0).unwrap();
    for scheme in [true, false] {
        let phase = || match scheme {
            true => Phase::new(ZIl, momentum()).with_epochs(2),
            false => Phase::new(FixedPrediction::new(), momentum()).with_epochs(2),
        };
        let error = phase().with_penalty_schedule(growing).unwrap_err();
        let what = "a penalty schedule";
        assert!(
            matches!(error, Error::Combination { what: w, .. } if w == what),
            "{error}"
        );
        let phase = || phase().with_penalty_schedule(Schedule::CONSTANT).unwrap();
        // A precision of 4 is a μ of 4 by another name.
        let gaussian = Gaussian::new(vec![4.0]).unwrap();
        let builder = Circuit::builder()
            .layer(Dense::new(1, 2, Activation::Tanh).unwrap())
            .layer(Dense::new(2, 1, Activation::Identity).unwrap());
        let energy = Energy::default().with_hidden_loss(gaussian);
        let mut weighted = DecoupledCircuit::new(builder.build().unwrap(), energy).unwrap();
        let one = DMatrix::from_element(1, 1, 1.0);
        weighted
            .add_examples(&one, &one, &TargetInit::ForwardPass)
            .unwrap();
        let error = Trainer::new(phase()).run(&mut weighted);
        let error = error.unwrap_err().error;
        assert!(
            matches!(error, Error::NotSquaredError { layer: 1, .. }),
            "{error}"
        );
        let circuit = weighted.into_circuit();
        let regularizer = Regularizer::elastic(0.25, 0.5).unwrap();
        let energy = Energy::default().with_target_regularizer(regularizer);
        let mut regularized = DecoupledCircuit::new(circuit, energy).unwrap();
        let one = DMatrix::from_element(1, 1, 1.0);
        let forward = TargetInit::ForwardPass;
        regularized.add_examples(&one, &one, &forward).unwrap();
        let before = state(&regularized);
        let error = Trainer::new(phase()).run(&mut regularized);
        let error = error.unwrap_err().error;
        let Error::InvalidOption { value, allowed, .. } = error else {
            panic!("{error}");
        };
        assert_eq!((value, &*allowed), (0.5, "none"));
        assert!(state(&regularized) == before);
    }
}

/// Orthogonal identity layers, without bias: nothing grows or shrinks on the way.
fn deep<T: Scalar>(depth: usize) -> DecoupledCircuit<T> {
    let mut builder = Circuit::builder().seed(4);
    for _ in 0..depth {
        let layer = Dense::new(6, 6, Activation::Identity)
            .unwrap()
            .without_bias();
        builder = builder.layer(
            layer
                .with_weights(Initializer::Orthogonal { gain: 1.0 })
                .unwrap(),
        );
    }
    let mut model = DecoupledCircuit::new(builder.build().unwrap(), Energy::default()).unwrap();
    let x = DMatrix::from_fn(6, 3, |i, j| T::of(((3 * i + 7 * j) as f64).sin()));
    let y = x.map(|x| T::of(0.5) * x + T::of(0.1));
    model
        .add_examples(&x, &y, &TargetInit::ForwardPass)
        .unwrap();
    model
}

fn exact_in_depth<T: Scalar>(depth: usize, tolerance: f64) {
    let train = |scheme: Arc<dyn Scheme<T>>| {
        let mut model = deep::<T>(depth);
        let rule = GradientDescent::new(1e-4).unwrap();
        let phase = Phase::new(scheme, rule).with_epochs(2);
        Trainer::new(phase)
            .with_measure_every(0)
            .run(&mut model)
            .unwrap();
        model
    };
    let (start, backprop) = (deep::<T>(depth), train(Arc::new(Backprop)));
    let schemes: [Arc<dyn Scheme<T>>; 2] = [Arc::new(ZIl), Arc::new(FixedPrediction::new())];
    for scheme in schemes {
        let name = format!("{scheme:?}, depth {depth}");
        let model = train(scheme);
        for t in 0..depth {
            let own = |model: &DecoupledCircuit<T>| model.circuit().parameters(t).to_vec();
            let (found, exact, first) = (own(&model), own(&backprop), own(&start));
            let values = found.iter().zip(&exact).zip(&first);
            let [mut error, mut step] = [0.0_f64; 2];
            for ((&found, &exact), &first) in values {
                error = error.max((found - exact).abs().as_f64());
                step = step.max((exact - first).abs().as_f64());
            }
            assert!(
                error <= tolerance * step,
                "{name}, layer {t}: {error} of {step}"
            );
        }
    }
}

/// Targets that no gradient reads any more do not move on: they would diverge.
#[test]
fn gradients_are_exact_in_depth() {
    exact_in_depth::<f64>(60, 1e-9);
    exact_in_depth::<f64>(600, 1e-9);
    exact_in_depth::<f32>(60, 2e-2);
}
