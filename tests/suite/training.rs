//! The schemes train, and say truly what they did: every number of a report is computed again by
//! hand.

use std::ops::ControlFlow;

use layerwise::decoupled::{Selection, TargetInit};
use layerwise::energy::{Energy, Workspace};
use layerwise::layer::{Activation, Dense, Sequential};
use layerwise::loss::SoftmaxCrossEntropy;
use layerwise::optimizer::{Adam, GradientDescent};
use layerwise::schedule::Schedule;
use layerwise::state::State;
use layerwise::target_solver::{
    ReverseSweep, SolveReport, StepSize, SynchronousDescent, TargetSolver,
};
use layerwise::training::{
    Backprop, Decoupling, EpochRecord, Phase, Scheme, StopReason, Trainer, TrainingReport, Visit,
    WStep,
};
use layerwise::{Circuit, DecoupledCircuit, Error};
use nalgebra::DMatrix;
use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

const EXAMPLES: usize = 30;

fn dense(input: usize, output: usize, activation: Activation) -> Dense {
    Dense::new(input, output, activation).unwrap()
}

/// A sine to be fitted by two tanh layers and a linear one.
fn sine(init: &TargetInit<f64>) -> DecoupledCircuit<f64> {
    let circuit = Circuit::builder()
        .layer(dense(1, 12, Activation::Tanh))
        .layer(dense(12, 12, Activation::Tanh))
        .layer(dense(12, 1, Activation::Identity))
        .build()
        .unwrap();
    let x = DMatrix::from_fn(1, EXAMPLES, |_, j| j as f64 / 15.0 - 1.0);
    let y = x.map(|x| (3.0 * x).sin());
    let energy = Energy::default().with_penalties(vec![0.5, 1.5]);
    let mut model = DecoupledCircuit::new(circuit, energy).unwrap();
    model.add_examples(&x, &y, init).unwrap();
    model
}

fn sweep() -> ReverseSweep {
    ReverseSweep::new(1).with_bound_every(1).unwrap()
}

fn synchronous(steps: u64) -> SynchronousDescent<f64> {
    SynchronousDescent::new(steps, StepSize::Bounded { margin: 1.0 }).unwrap()
}

fn joint() -> Decoupling<f64> {
    let rule = GradientDescent::new(0.1).unwrap();
    Decoupling::joint(rule.with_momentum(0.9).unwrap())
}

fn run(
    model: &mut DecoupledCircuit<f64>,
    scheme: impl Scheme<f64> + 'static,
    change: impl FnOnce(Phase<f64>) -> Phase<f64>,
) -> TrainingReport<f64> {
    let phase = Phase::new(scheme, GradientDescent::new(0.1).unwrap());
    Trainer::new(change(phase)).run(model).unwrap()
}

fn state(model: &DecoupledCircuit<f64>) -> Vec<u64> {
    let depth = model.circuit().depth();
    let mut values: Vec<f64> = Vec::new();
    for t in 0..depth {
        values.extend(model.circuit().parameters(t));
        values.extend(model.z(t).unwrap().iter());
    }
    values.into_iter().map(f64::to_bits).collect()
}

#[test]
fn every_scheme_lowers_the_composed_loss() {
    fn falls<S: Scheme<f64> + 'static>(
        name: &str,
        scheme: fn() -> S,
        init: TargetInit<f64>,
        factor: f64,
    ) {
        for batch in [EXAMPLES, 10] {
            let mut model = sine(&init);
            let before = model.composed_loss().unwrap();
            Trainer::new(
                Phase::new(scheme(), Adam::new(1e-2).unwrap())
                    .with_epochs(300)
                    .with_batch_size(batch)
                    .unwrap(),
            )
            .run(&mut model)
            .unwrap();
            let after = model.composed_loss().unwrap();
            assert!(
                after < factor * before,
                "{name}, batches of {batch}: {before} to {after}"
            );
        }
    }
    let forward = TargetInit::ForwardPass;
    let projected = TargetInit::Projected { seed: 1 };
    falls("backprop", || Backprop, forward.clone(), 0.01);
    falls("joint", joint, forward.clone(), 0.1);
    falls(
        "sweep",
        || Decoupling::persistent(sweep()),
        forward.clone(),
        0.1,
    );
    falls(
        "refreshed",
        || Decoupling::refreshed(sweep()),
        forward.clone(),
        0.01,
    );
    falls(
        "synchronous",
        || Decoupling::refreshed(synchronous(4)),
        forward,
        0.01,
    );
    falls("weights only", Decoupling::weights_only, projected, 0.3);
}

/// Three clouds in eight dimensions, one class each, before a deep sigmoid circuit.
fn deep_sigmoid(init: &TargetInit<f64>) -> DecoupledCircuit<f64> {
    let mut builder = Circuit::builder();
    for _ in 0..9 {
        builder = builder.layer(dense(8, 8, Activation::Sigmoid));
    }
    let circuit = builder.layer(dense(8, 3, Activation::Identity)).build();
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut normal = |scale: f64| {
        let draw: f64 = StandardNormal.sample(&mut rng);
        scale * draw
    };
    let centres = DMatrix::from_fn(8, 3, |_, _| normal(1.0));
    let x = DMatrix::from_fn(8, 60, |i, j| centres[(i, j % 3)] + normal(0.3));
    let y = DMatrix::from_fn(3, 60, |i, j| f64::from(u8::from(j % 3 == i)));
    let mut model =
        DecoupledCircuit::new(circuit.unwrap(), Energy::new(SoftmaxCrossEntropy)).unwrap();
    model.add_examples(&x, &y, init).unwrap();
    model
}

#[test]
fn projected_targets_train_a_deep_sigmoid_circuit_that_forward_targets_do_not() {
    let loss = |init: TargetInit<f64>| {
        let mut model = deep_sigmoid(&init);
        Trainer::new(
            Phase::new(Decoupling::weights_only(), Adam::new(5e-3).unwrap()).with_epochs(600),
        )
        .with_measure_every(0)
        .run(&mut model)
        .unwrap();
        model.composed_loss().unwrap() / 60.0
    };
    let chance = 3f64.ln();
    let forward = loss(TargetInit::ForwardPass);
    let projected = loss(TargetInit::Projected { seed: 1 });
    assert!(forward > 0.9 * chance, "{forward}");
    assert!(projected < 0.8 * chance, "{projected}");
}

/// One full-batch epoch whose objective is `by_hand`, computed before it.
fn check_objective<S: Scheme<f64> + 'static>(
    name: &str,
    scheme: fn() -> S,
    by_hand: fn(&mut DecoupledCircuit<f64>) -> f64,
) {
    let mut model = sine(&TargetInit::NoisyForwardPass { std: 0.3, seed: 2 });
    for _ in 0..3 {
        let expected = by_hand(&mut model.clone()) / EXAMPLES as f64;
        let report = run(&mut model, scheme(), |t| t.with_epochs(1));
        let objective = report.history[0].objective;
        assert!(
            (objective - expected).abs() < 1e-14 * expected.abs(),
            "{name}: {objective} for {expected}"
        );
    }
}

#[test]
fn the_objective_is_the_mean_before_the_parameter_step() {
    let energy = |m: &mut DecoupledCircuit<f64>| m.energy().unwrap();
    check_objective("backprop", || Backprop, |m| m.composed_loss().unwrap());
    check_objective("joint", joint, energy);
    check_objective("weights only", Decoupling::weights_only, energy);
    check_objective(
        "persistent",
        || Decoupling::persistent(sweep()),
        |m| {
            m.solve_targets(&sweep(), &Selection::All).unwrap();
            m.energy().unwrap()
        },
    );
    check_objective(
        "refreshed",
        || Decoupling::refreshed(synchronous(2)),
        |m| {
            m.initialize_targets(&TargetInit::ForwardPass).unwrap();
            let solver = synchronous(2);
            m.solve_targets(&solver, &Selection::All).unwrap();
            m.energy().unwrap()
        },
    );
}

/// Composed loss and gap of a record against the model's own.
fn check_measured(record: &EpochRecord<f64>, model: &DecoupledCircuit<f64>) {
    let loss = model.composed_loss().unwrap() / EXAMPLES as f64;
    let squares = model.gap().unwrap().into_iter().map(|gap| gap * gap);
    let gap = squares.sum::<f64>().sqrt();
    let measured = (record.composed_loss.unwrap(), record.gap.unwrap());
    assert!(gap > 0.0, "nothing to compare");
    assert!(
        (measured.0 - loss).abs() < 1e-13 * loss,
        "{measured:?}, {loss}"
    );
    assert!(
        (measured.1 - gap).abs() < 1e-13 * gap,
        "{measured:?}, {gap}"
    );
}

#[test]
fn composed_loss_and_gap_are_those_of_the_model_after_the_epoch() {
    // Batches of 7 leave 2 for the last.
    for batch in [EXAMPLES, 7] {
        let mut model = sine(&TargetInit::NoisyForwardPass { std: 0.3, seed: 2 });
        let phase = Phase::new(joint(), GradientDescent::new(0.1).unwrap());
        let trainer = Trainer::new(phase.with_epochs(5).with_batch_size(batch).unwrap());
        let mut seen = 0;
        let report = trainer.run_with(&mut model, |record, model| {
            check_measured(record, model);
            seen += 1;
            ControlFlow::Continue(())
        });
        let report = report.unwrap();
        assert_eq!(seen, 5);
        check_measured(&report.history[4], &model);
        let epochs: Vec<u64> = report.history.iter().map(|record| record.epoch).collect();
        assert_eq!(epochs, [1, 2, 3, 4, 5]);
        let visits = EXAMPLES.div_ceil(batch) as u64;
        for record in &report.history {
            assert_eq!(record.steps, visits * record.epoch);
        }
        assert_eq!(report.steps, 5 * visits);
        assert_eq!(report.stop, StopReason::Epochs);
    }
}

#[test]
fn several_parameter_steps_a_visit_are_counted_and_made() {
    let init = TargetInit::NoisyForwardPass { std: 0.3, seed: 2 };
    let mut at_once = sine(&init);
    let rule = GradientDescent::new(0.1).unwrap();
    let w_step = WStep::optimizer(rule).with_steps(3).unwrap();
    let phase = Phase::with_w_step(Decoupling::weights_only(), w_step).unwrap();
    let report = Trainer::new(phase.with_epochs(4))
        .run(&mut at_once)
        .unwrap();
    let mut singly = sine(&init);
    let single = run(&mut singly, Decoupling::weights_only(), |t| {
        t.with_epochs(12)
    });
    assert_eq!((report.steps, single.steps), (12, 12));
    assert_eq!(state(&at_once), state(&singly));
    // The objective is that before the last step of the visit.
    assert_eq!(report.history[1].objective, single.history[5].objective);
}

#[test]
fn measurements_are_made_as_often_as_asked_for() {
    let measured = |every| -> Vec<u64> {
        let mut model = sine(&TargetInit::ForwardPass);
        let scheme = Decoupling::weights_only();
        let phase = Phase::new(scheme, GradientDescent::new(0.1).unwrap()).with_epochs(7);
        let trainer = Trainer::new(phase).with_measure_every(every);
        let report = trainer.run(&mut model).unwrap();
        let history = report.history.iter();
        let with = history.filter(|record| {
            assert_eq!(record.composed_loss.is_some(), record.gap.is_some());
            record.composed_loss.is_some()
        });
        with.map(|record| record.epoch).collect()
    };
    let report = run(&mut sine(&TargetInit::ForwardPass), Backprop, |t| {
        t.with_epochs(2)
    });
    let gaps = report.history.iter().map(|record| record.gap);
    assert!(gaps.eq([None, None]), "backprop has no targets to measure");
    assert!(measured(0).is_empty());
    assert_eq!(measured(3), [3, 6]);
    assert_eq!(measured(1), [1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn a_callback_ends_the_run_where_a_shorter_one_ends() {
    let mut stopped = sine(&TargetInit::ForwardPass);
    let phase = Phase::new(Backprop, GradientDescent::new(0.1).unwrap());
    let trainer = Trainer::new(phase.with_epochs(50).with_batch_size(10).unwrap());
    let report = trainer.run_with(&mut stopped, |record, _| {
        if record.epoch == 6 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    let report = report.unwrap();
    assert_eq!(report.stop, StopReason::Callback);
    assert_eq!((report.history.len(), report.steps), (6, 18));
    let mut shorter = sine(&TargetInit::ForwardPass);
    run(&mut shorter, Backprop, |t| {
        t.with_epochs(6).with_batch_size(10).unwrap()
    });
    assert_eq!(state(&stopped), state(&shorter));
}

#[test]
fn one_unit_of_all_layers_is_backprop() {
    for batch in [EXAMPLES, 7] {
        let mut coupled = sine(&TargetInit::ForwardPass);
        let expected = run(&mut coupled, Backprop, |t| {
            t.with_epochs(20).with_batch_size(batch).unwrap()
        });
        let parameters: Vec<f64> = (0..3)
            .flat_map(|t| coupled.circuit().parameters(t).to_vec())
            .collect();

        let start = sine(&TargetInit::ForwardPass);
        let initial: Vec<f64> = (0..3)
            .flat_map(|t| start.circuit().parameters(t).to_vec())
            .collect();
        let unit = Sequential::new(vec![
            Box::new(dense(1, 12, Activation::Tanh)),
            Box::new(dense(12, 12, Activation::Tanh)),
            Box::new(dense(12, 1, Activation::Identity)),
        ]);
        let circuit = Circuit::builder().layer(unit.unwrap()).build().unwrap();
        let mut whole = DecoupledCircuit::new(circuit, Energy::default()).unwrap();
        whole.set_parameters(0, &initial).unwrap();
        let (x, y) = (start.z(0).unwrap(), start.z(3).unwrap());
        whole
            .add_examples(&x.into_owned(), &y.into_owned(), &TargetInit::ForwardPass)
            .unwrap();

        type Make = fn(&mut DecoupledCircuit<f64>, usize) -> TrainingReport<f64>;
        let schemes: [(&str, Make); 4] = [
            ("backprop", |m, batch| {
                run(m, Backprop, |t| {
                    t.with_epochs(20).with_batch_size(batch).unwrap()
                })
            }),
            ("joint", |m, batch| {
                run(m, joint(), |t| {
                    t.with_epochs(20).with_batch_size(batch).unwrap()
                })
            }),
            ("persistent", |m, batch| {
                let scheme = Decoupling::persistent(sweep());
                run(m, scheme, |t| {
                    t.with_epochs(20).with_batch_size(batch).unwrap()
                })
            }),
            ("refreshed", |m, batch| {
                let scheme = Decoupling::refreshed(synchronous(2));
                run(m, scheme, |t| {
                    t.with_epochs(20).with_batch_size(batch).unwrap()
                })
            }),
        ];
        for (name, train) in schemes {
            let mut model = whole.clone();
            let report = train(&mut model, batch);
            assert_eq!(model.circuit().parameters(0), parameters, "{name}");
            for (own, expected) in report.history.iter().zip(&expected.history) {
                assert_eq!(own.objective, expected.objective, "{name}");
                assert_eq!(own.composed_loss, expected.composed_loss, "{name}");
            }
        }
    }
}

#[test]
fn solvers_report_their_steps() {
    let mut model = sine(&TargetInit::ForwardPass);
    let mut solve = |solver: &dyn TargetSolver<f64>| {
        let SolveReport { steps, .. } = model.solve_targets(solver, &Selection::All).unwrap();
        steps
    };
    assert_eq!(solve(&ReverseSweep::new(4)), 4);
    assert_eq!(solve(&synchronous(5)), 5);
    assert_eq!(solve(&synchronous(0)), 0);
}

#[test]
fn a_batch_larger_than_the_data_is_the_full_batch() {
    let train = |batch: Option<usize>| {
        let mut model = sine(&TargetInit::ForwardPass);
        let report = run(&mut model, joint(), |trainer| {
            let trainer = trainer.with_epochs(5);
            match batch {
                Some(size) => trainer.with_batch_size(size).unwrap(),
                None => trainer,
            }
        });
        assert_eq!(report.steps, 5);
        state(&model)
    };
    assert_eq!(train(Some(EXAMPLES + 1)), train(None));
    assert_eq!(train(Some(EXAMPLES)), train(None));
}

#[test]
fn a_step_of_gradient_descent_follows_the_mean_over_the_batch() {
    let schedule = Schedule::cosine(0.2).unwrap();
    let mut model = sine(&TargetInit::NoisyForwardPass { std: 0.3, seed: 2 });
    for epochs in [1, 2] {
        // The factor of the second visit of two, progress ½.
        let factor = if epochs == 1 {
            1.0
        } else {
            schedule.factor(1, 2)
        };
        let mut before = model.clone();
        if epochs == 2 {
            run(&mut before, Decoupling::weights_only(), |t| {
                t.with_epochs(1)
            });
        }
        let gradients = before.gradients(&Selection::All).unwrap();
        let report = run(&mut model, Decoupling::weights_only(), |t| {
            t.with_epochs(epochs).with_schedule(schedule)
        });
        assert_eq!(report.history[epochs as usize - 1].factor, factor);
        for t in 0..3 {
            let old = before.circuit().parameters(t);
            let pairs = old.iter().zip(&gradients.parameters[t]);
            for (new, (old, g)) in model.circuit().parameters(t).iter().zip(pairs) {
                let expected = old - 0.1 * factor * (g / EXAMPLES as f64);
                assert!(
                    (new - expected).abs() < 1e-15 * (1.0 + expected.abs()),
                    "θ_{t}"
                );
            }
        }
    }
}

#[test]
fn the_memory_estimate_is_the_sum_of_its_arrays() {
    let circuit = Circuit::<f32>::builder()
        .layer(dense(6, 9, Activation::Tanh))
        .layer(dense(9, 4, Activation::Sigmoid))
        .layer(dense(4, 3, Activation::Identity))
        .build()
        .unwrap();
    let mut model = DecoupledCircuit::new(circuit, Energy::new(SoftmaxCrossEntropy)).unwrap();
    let y = DMatrix::from_element(3, 50, 1.0 / 3.0);
    model
        .add_examples(&DMatrix::zeros(6, 50), &y, &TargetInit::ForwardPass)
        .unwrap();
    let memory = model.memory(20).unwrap();
    assert_eq!(memory.targets, 4 * 50 * (9 + 4));
    assert_eq!(memory.data, 4 * 50 * (6 + 3));
    let parameters = (6 * 9 + 9) + (9 * 4 + 4) + (4 * 3 + 3);
    assert_eq!(memory.parameters, 4 * parameters);
    // Prediction, cotangent and target gradient; input gradient; an energy, its part in z and a
    // factor an example.
    let arrays = 20 * ((3 * 9 + 6 + 3) + (3 * 4 + 9 + 3) + (3 * 3 + 4 + 3));
    // Tape and work of the two curved layers; the exponentials of the loss.
    let scratch = 20 * (2 * 9 + 2 * 4 + 3);
    assert_eq!(memory.workspace, 4 * (arrays + scratch + parameters));
    assert_eq!(
        memory.total(),
        memory.targets + memory.data + memory.parameters + memory.workspace
    );
}

/// Two parameter steps along one gradient, which the scheme keeps: a step uses its own up.
#[derive(Debug)]
struct TwoSteps;

impl Scheme<f64> for TwoSteps {
    fn visit(&self, _: &mut State<f64>, visit: &mut Visit<'_, f64>) -> Result<f64, Error> {
        let mut workspace = Workspace::new();
        let composed = visit.problem().backprop(&mut workspace);
        for _ in 0..2 {
            let own = |t: usize, place: &mut [f64]| {
                place.copy_from_slice(composed.parameter_gradient(t));
            };
            visit.along(composed.loss(), own)?.step()?;
        }
        Ok(composed.loss())
    }
}

#[test]
fn two_steps_along_a_gradient_that_a_scheme_keeps_are_one_of_twice_the_length() {
    let mut twice = sine(&TargetInit::ForwardPass);
    let report = run(&mut twice, TwoSteps, |t| t.with_epochs(1));
    assert_eq!(report.steps, 2);
    // Plain descent: two steps are one of twice the length.
    let mut once = sine(&TargetInit::ForwardPass);
    let rule = GradientDescent::new(0.2).unwrap();
    Trainer::new(Phase::new(Backprop, rule).with_epochs(1))
        .run(&mut once)
        .unwrap();
    for t in 0..3 {
        let pairs = twice.circuit().parameters(t).iter();
        for (two, one) in pairs.zip(once.circuit().parameters(t)) {
            assert!((two - one).abs() < 1e-14, "{two} {one}");
        }
    }
}

#[test]
fn a_long_sum_in_f32_is_accurate() {
    let circuit = Circuit::<f32>::builder()
        .layer(dense(1, 10, Activation::Identity).without_bias())
        .build()
        .unwrap();
    let n = 1_000_000;
    let y = DMatrix::from_fn(10, n, |i, _| if i == 0 { 1.0 } else { 0.0 });
    // Zero inputs: every class has probability 1/10.
    let model = DecoupledCircuit::new(circuit, Energy::new(SoftmaxCrossEntropy)).unwrap();
    let loss = model.composed_loss_of(&DMatrix::zeros(1, n), &y).unwrap();
    let error = (f64::from(loss) / n as f64 / 10f64.ln() - 1.0).abs();
    assert!(error < 1e-5, "relative error {error}");
}
