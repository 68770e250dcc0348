//! Phases follow one another and end as they should: what one hands to the next, the schedules of
//! μ and of the learning rate, clipped gradients, early stopping, limits of time, and stop flags.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use layerwise::decoupled::{Selection, TargetInit};
use layerwise::energy::{Energy, LocalProblem, LocalWorkspace};
use layerwise::error::Quantity;
use layerwise::kernel::Write;
use layerwise::layer::{Activation, Dense};
use layerwise::loss::{Pair, SquaredError};
use layerwise::optimizer::{Adam, GradientDescent, Optimizer, Step};
use layerwise::parameter_solver::{LeastSquares, ParameterReport, ParameterSolver};
use layerwise::schedule::Schedule;
use layerwise::state::State;
use layerwise::target_solver::{ReverseSweep, SolveReport, StepSize, TargetProblem, TargetSolver};
use layerwise::training::{
    Backprop, Decoupling, Event, FixedPrediction, Phase, Scheme, Session, StopReason, Stopping,
    Targets, Trainer, TrainingReport, Visit, WStep, ZIl, ZStep,
};
use layerwise::{Circuit, DecoupledCircuit, Error, Loss};
use nalgebra::DMatrix;

const EXAMPLES: usize = 12;
/// Visits of an epoch in batches of 5: of 5, 5 and 2 examples.
const BATCH: usize = 5;
const VISITS: u64 = 3;

/// Two tanh layers and a linear one, targets beside the forward pass, outputs to be fitted by
/// `target`.
fn fitting(target: impl Fn(f64) -> f64) -> DecoupledCircuit<f64> {
    let dense = |input, output, activation| Dense::new(input, output, activation).unwrap();
    let circuit = Circuit::builder()
        .layer(dense(1, 5, Activation::Tanh))
        .layer(dense(5, 4, Activation::Tanh))
        .layer(dense(4, 1, Activation::Identity))
        .build()
        .unwrap();
    let x = inputs(EXAMPLES);
    let y = x.map(target);
    let energy = Energy::default().with_penalties(vec![0.5, 1.5]);
    let mut model = DecoupledCircuit::new(circuit, energy).unwrap();
    let init = TargetInit::NoisyForwardPass { std: 0.3, seed: 2 };
    model.add_examples(&x, &y, &init).unwrap();
    model
}

fn inputs(n: usize) -> DMatrix<f64> {
    DMatrix::from_fn(1, n, |_, j| 2.0 * j as f64 / n as f64 - 0.9)
}

fn model() -> DecoupledCircuit<f64> {
    fitting(|x| (3.0 * x).sin())
}

fn hash(values: impl Iterator<Item = f64>) -> u64 {
    let mut hasher = DefaultHasher::new();
    values.for_each(|value| value.to_bits().hash(&mut hasher));
    hasher.finish()
}

/// The bits of all parameters.
fn parameters(model: &DecoupledCircuit<f64>) -> u64 {
    let layers = 0..model.circuit().depth();
    hash(layers.flat_map(|t| model.circuit().parameters(t).to_vec()))
}

/// The bits of all parameters, targets and penalties.
fn state(model: &DecoupledCircuit<f64>) -> [u64; 3] {
    let all = 0..=model.circuit().depth();
    let targets = all.flat_map(|t| model.z(t).unwrap().iter().copied().collect::<Vec<_>>());
    let penalties = model.terms().penalties().iter().copied();
    [parameters(model), hash(targets), hash(penalties)]
}

fn descent(rate: f64) -> GradientDescent {
    GradientDescent::new(rate).unwrap()
}

fn backprop() -> Phase<f64> {
    Phase::new(Backprop, descent(0.1))
}

fn run(model: &mut DecoupledCircuit<f64>, phase: Phase<f64>) -> TrainingReport<f64> {
    Trainer::new(phase).run(model).unwrap()
}

/// What one visit saw and answered.
#[derive(Debug, Clone)]
struct Seen {
    examples: usize,
    factor: f64,
    penalties: Vec<f64>,
    value: f64,
}

type Log = Arc<Mutex<Vec<Seen>>>;

/// Backprop that keeps a log, and raises a flag in the visit of this number, from 1.
#[derive(Debug, Default)]
struct Spy {
    log: Log,
    raises: Option<(usize, Arc<AtomicBool>)>,
}

impl Scheme<f64> for Spy {
    fn visit(&self, _: &mut State<f64>, visit: &mut Visit<'_, f64>) -> Result<f64, Error> {
        let value = visit.backprop()?.step()?;
        let examples = visit.batch().len();
        visit.record_gap_before(2.0 * (examples as f64).sqrt());
        let mut log = self.log.lock().unwrap();
        log.push(Seen {
            examples,
            factor: visit.factor(),
            penalties: visit.layers().penalties().to_vec(),
            value,
        });
        if let Some((number, flag)) = &self.raises {
            flag.fetch_or(log.len() == *number, Ordering::Relaxed);
        }
        Ok(value)
    }
}

fn spy() -> (Spy, Log) {
    let spy = Spy::default();
    let log = spy.log.clone();
    (spy, log)
}

/// A scheme that changes nothing and tells these objectives per example, an epoch each.
#[derive(Debug)]
struct Scripted(Vec<f64>);

impl Scheme<f64> for Scripted {
    fn start(&self, _: &mut DecoupledCircuit<f64>) -> Result<State<f64>, Error> {
        let mut state = State::new();
        state.counts.push(0);
        Ok(state)
    }

    fn visit(&self, state: &mut State<f64>, visit: &mut Visit<'_, f64>) -> Result<f64, Error> {
        let number = state.counts[0] as usize;
        state.counts[0] += 1;
        Ok(self.0[number] * visit.batch().len() as f64)
    }
}

fn adam() -> Adam {
    Adam::new(1e-2).unwrap()
}

/// One phase of every kind, with rules that keep state.
fn kinds() -> Vec<Phase<f64>> {
    let sweep = || ReverseSweep::new(1);
    let half = Targets::Residual {
        keep: 0.5,
        schedule: Schedule::CONSTANT,
    };
    vec![
        Phase::new(Backprop, adam()),
        Phase::new(Decoupling::joint(adam()), adam()),
        Phase::new(Decoupling::weights_only(), adam()),
        Phase::new(Decoupling::persistent(sweep()), adam()),
        Phase::new(Decoupling::refreshed(sweep()), adam()),
        Phase::new(
            Decoupling::new(half, ZStep::Solver(Arc::new(sweep()))).unwrap(),
            adam(),
        ),
    ]
}

#[test]
fn two_phases_are_two_runs() {
    for first in 0..kinds().len() {
        for second in 0..kinds().len() {
            let phase = |kind: usize, epochs| kinds().swap_remove(kind).with_epochs(epochs);
            let mut together = model();
            let report = Trainer::new(phase(first, 3))
                .then(phase(second, 2))
                .run(&mut together)
                .unwrap();
            let mut apart = model();
            let mut history = run(&mut apart, phase(first, 3)).history;
            history.extend(run(&mut apart, phase(second, 2)).history);
            assert_eq!(state(&together), state(&apart), "{first}, {second}");
            for record in &mut history[3..] {
                record.phase += 1;
                record.epoch += 3;
                record.steps += 3;
            }
            assert_eq!(report.history, history, "{first}, {second}");
        }
    }
    // The optimiser's state is new in every phase, so that one longer phase is something else.
    let (mut parted, mut whole) = (model(), model());
    let adam = || Phase::new(Backprop, adam());
    let trainer = Trainer::new(adam().with_epochs(3)).then(adam().with_epochs(2));
    trainer.run(&mut parted).unwrap();
    run(&mut whole, adam().with_epochs(5));
    assert_ne!(state(&parted), state(&whole));
}

#[test]
fn a_phase_goes_on_with_the_epochs_of_the_run() {
    // Without state in the rule, the order of the examples is all that could differ.
    let phase = || backprop().with_batch_size(BATCH).unwrap();
    let (mut parted, mut whole) = (model(), model());
    let trainer = Trainer::new(phase().with_epochs(3)).then(phase().with_epochs(2));
    let parts = trainer.run(&mut parted).unwrap();
    let one = run(&mut whole, phase().with_epochs(5));
    assert_eq!(state(&parted), state(&whole));

    let numbers = parts.history.iter().map(|r| (r.phase, r.epoch, r.steps));
    let expected = [(0, 1, 3), (0, 2, 6), (0, 3, 9), (1, 4, 12), (1, 5, 15)];
    assert!(numbers.eq(expected));
    let told = parts.phases.iter().map(|p| (p.epochs, p.steps, p.stop));
    assert!(told.eq([(3, 9, StopReason::Epochs), (2, 6, StopReason::Epochs)]));
    assert_eq!((parts.steps, parts.stop), (15, StopReason::Epochs));
    assert_eq!(one.phases.len(), 1);
}

#[test]
fn penalties_move_by_their_schedule_and_stay_where_it_left_them() {
    let (spies, logs): (Vec<_>, Vec<_>) = (0..3).map(|_| spy()).unzip();
    let [growing, constant, halved] = <[Spy; 3]>::try_from(spies).unwrap();
    let mut model = model();
    Trainer::new(
        Phase::new(growing, descent(0.1))
            .with_epochs(2)
            .with_batch_size(BATCH)
            .unwrap()
            .with_penalty_schedule(Schedule::geometric(8.0).unwrap())
            .unwrap(),
    )
    .then(Phase::new(constant, descent(0.1)).with_epochs(2))
    .then(
        Phase::new(halved, descent(0.1))
            .with_epochs(5)
            .with_penalty_schedule(Schedule::steps(2, 0.5).unwrap())
            .unwrap(),
    )
    .run(&mut model)
    .unwrap();
    let seen = |phase: usize| -> Vec<Vec<f64>> {
        let log = logs[phase].lock().unwrap();
        log.iter().map(|seen| seen.penalties.clone()).collect()
    };
    let check = |phase: usize, factors: &[f64], first: [f64; 2]| {
        let seen = seen(phase);
        assert_eq!(seen.len(), factors.len());
        for (penalties, factor) in seen.iter().zip(factors) {
            for (penalty, first) in penalties.iter().zip(first) {
                let expected = first * factor;
                assert!(
                    (penalty - expected).abs() < 1e-14 * expected,
                    "phase {phase}: {penalty} for {expected}"
                );
            }
        }
    };
    // 8^(k/6) in visit k of 6; then as they are; then halved after every second visit.
    let growth: Vec<f64> = (0..6).map(|k| (f64::from(k) / 2.0).exp2()).collect();
    check(0, &growth, [0.5, 1.5]);
    let last = [0.5, 1.5].map(|first| first * 2.5f64.exp2());
    check(1, &[1.0; 2], last);
    assert_eq!(seen(1)[1], seen(0)[5], "unchanged means the same bits");
    check(2, &[1.0, 1.0, 0.5, 0.5, 0.25], last);
    assert_eq!(model.terms().penalties(), seen(2)[4]);
}

#[test]
fn the_energy_of_a_visit_has_its_penalties() {
    let mut model = model();
    let mut second = model.clone();
    let phase = |epochs| {
        let phase = Phase::new(Decoupling::weights_only(), descent(0.1)).with_epochs(epochs);
        phase
            .with_penalty_schedule(Schedule::steps(1, 3.0).unwrap())
            .unwrap()
    };
    let report = run(&mut model, phase(2));
    run(&mut second, phase(1));
    assert_eq!(second.terms().penalties(), [0.5, 1.5]);
    second.set_penalties(&[1.5, 4.5]).unwrap();
    let expected = second.energy().unwrap() / EXAMPLES as f64;
    let objective = report.history[1].objective;
    assert!((objective - expected).abs() < 1e-14, "{objective}");
}

#[test]
fn learning_rates_follow_the_visits_of_their_phase() {
    let ((first, first_log), (second, second_log)) = (spy(), spy());
    let report = Trainer::new(
        Phase::new(first, descent(0.1))
            .with_epochs(2)
            .with_batch_size(BATCH)
            .unwrap()
            .with_schedule(Schedule::cosine(0.0).unwrap()),
    )
    .then(
        Phase::new(second, descent(0.1))
            .with_epochs(4)
            .with_schedule(Schedule::steps(1, 0.5).unwrap().with_warm_up(2)),
    )
    .run(&mut model())
    .unwrap();
    let factors = |log: &Log| -> Vec<f64> {
        let log = log.lock().unwrap();
        log.iter().map(|seen| seen.factor).collect()
    };
    let cosine = |k: u64| 0.5 + 0.5 * (std::f64::consts::PI * k as f64 / (2 * VISITS) as f64).cos();
    for (k, factor) in (0..).zip(factors(&first_log)) {
        assert!((factor - cosine(k)).abs() < 1e-15, "{k}: {factor}");
    }
    assert_eq!(factors(&second_log), [0.5, 1.0, 1.0, 0.5]);
    // A record tells the factor of its last visit.
    let told: Vec<f64> = report.history.iter().map(|r| r.factor).collect();
    let (a, b) = (factors(&first_log), factors(&second_log));
    assert_eq!(told, [a[2], a[5], b[0], b[1], b[2], b[3]]);
}

/// All θ after one step of the whole mean gradient, minus θ before it; the mean gradient itself.
fn step_and_gradient(max_norm: Option<f64>) -> (Vec<Vec<f64>>, Vec<Vec<f64>>) {
    let before = model();
    let gradients = before.gradients(&Selection::All).unwrap().parameters;
    let mean = |g: Vec<f64>| g.into_iter().map(|g| g / EXAMPLES as f64).collect();
    let mut after = before.clone();
    let phase = Phase::new(Decoupling::weights_only(), descent(1.0)).with_epochs(1);
    let phase = match max_norm {
        Some(norm) => phase.with_max_gradient_norm(norm).unwrap(),
        None => phase,
    };
    run(&mut after, phase);
    let steps = (0..3).map(|t| {
        let own = (
            before.circuit().parameters(t),
            after.circuit().parameters(t),
        );
        own.0.iter().zip(own.1).map(|(old, new)| old - new)
    });
    let steps = steps.map(Iterator::collect).collect();
    (steps, gradients.into_iter().map(mean).collect())
}

fn norm(layers: &[Vec<f64>]) -> f64 {
    let squares = layers.iter().flatten().map(|v| v * v);
    squares.sum::<f64>().sqrt()
}

#[test]
fn a_long_gradient_is_scaled_to_the_largest_norm() {
    let (_, gradient) = step_and_gradient(None);
    let length = norm(&gradient);
    // Every layer's gradient alone is shorter than the bound: the norm is that of all of them.
    let own = gradient.iter().map(|g| norm(std::slice::from_ref(g)));
    let max = 0.5 * (own.fold(0.0, f64::max) + length);
    assert!(max < 0.99 * length, "nothing to scale");
    let (step, _) = step_and_gradient(Some(max));
    assert!((norm(&step) / max - 1.0).abs() < 1e-12, "{}", norm(&step));
    for (step, g) in step.iter().flatten().zip(gradient.iter().flatten()) {
        assert!((step - max / length * g).abs() < 1e-14, "{step} along {g}");
    }
}

#[test]
fn a_short_gradient_stays_as_it_is() {
    let (plain, gradient) = step_and_gradient(None);
    let (same, _) = step_and_gradient(Some(1.01 * norm(&gradient)));
    assert_eq!(plain, same);
    let (shorter, _) = step_and_gradient(Some(0.99 * norm(&gradient)));
    assert_ne!(plain, shorter);
}

#[test]
fn a_phase_ends_at_its_objective() {
    let mut reference = model();
    let history = run(&mut reference, backprop().with_epochs(10)).history;
    assert!(history.is_sorted_by(|a, b| a.objective > b.objective));
    for (at_most, epochs, stop) in [
        (history[4].objective, 5, StopReason::Objective),
        (history[4].objective.next_down(), 6, StopReason::Objective),
        (0.0, 10, StopReason::Epochs),
    ] {
        let mut model = model();
        let stopping = Stopping::Objective { at_most };
        let report = run(
            &mut model,
            backprop().with_epochs(10).with_stopping(stopping).unwrap(),
        );
        assert_eq!(report.history, history[..epochs]);
        assert_eq!((report.stop, report.phases[0].best_epoch), (stop, None));
        let mut shorter = self::model();
        run(&mut shorter, backprop().with_epochs(epochs as u64));
        assert_eq!(state(&model), state(&shorter));
    }
}

#[test]
fn a_phase_ends_when_its_objective_stagnates() {
    let stopping = |improvement| Stopping::Stagnation {
        patience: 3,
        improvement,
    };
    // A rate that changes next to nothing: the first epoch, and three without improvement.
    let slow = Phase::new(Backprop, descent(1e-9))
        .with_stopping(stopping(0.01))
        .unwrap();
    let report = run(&mut model(), slow);
    assert_eq!(
        (report.stop, report.history.len()),
        (StopReason::Stagnation, 4)
    );

    let ends = |objectives: &[f64], improvement| {
        let scheme = Scripted(objectives.to_vec());
        let phase = Phase::new(scheme, descent(0.1))
            .with_stopping(stopping(improvement))
            .unwrap();
        let report = run(&mut model(), phase.with_epochs(objectives.len() as u64));
        (report.stop, report.history.len())
    };
    // 8.9 improves on 10 by a tenth, though not on 9.2; 8.1 does not on 8.9.
    let falling = [10.0, 9.5, 9.2, 8.9, 8.5, 8.3, 8.1, 0.0];
    assert_eq!(ends(&falling, 0.1), (StopReason::Stagnation, 7));
    // A tenth of the magnitude, below zero too.
    let negative = [-1.0, -1.05, -1.2, -1.25, -1.3, -1.31, -9.0];
    assert_eq!(ends(&negative, 0.1), (StopReason::Stagnation, 6));
    // Any fall counts for improvement 0, an equal value does not.
    assert_eq!(ends(&falling, 0.0), (StopReason::Epochs, 8));
    assert_eq!(
        ends(&[1.0, 1.0, 0.9, 0.9, 0.9, 0.9, 0.9], 0.0),
        (StopReason::Stagnation, 6)
    );
}

/// Training pulls the outputs to 1; the validation examples want 0.4, which they pass on the way.
fn contradicted() -> (DecoupledCircuit<f64>, (DMatrix<f64>, DMatrix<f64>)) {
    let targets = DMatrix::from_element(1, 7, 0.4);
    (fitting(|_| 1.0), (inputs(7), targets))
}

/// Parameters and validation loss after every epoch, of a run of `epochs` epochs.
fn course(phase: Phase<f64>, epochs: u64) -> Vec<(u64, f64)> {
    let (mut model, (x, y)) = contradicted();
    let mut course = Vec::new();
    Trainer::new(phase.with_epochs(epochs))
        .run_with(&mut model, |_, model| {
            let loss = model.composed_loss_of(&x, &y).unwrap();
            course.push((parameters(model), loss / x.ncols() as f64));
            ControlFlow::Continue(())
        })
        .unwrap();
    course
}

/// The place of the lowest loss; checks that it is neither first nor last.
fn lowest(course: &[(u64, f64)]) -> usize {
    let losses = course.iter().map(|(_, loss)| *loss).enumerate();
    let best = losses.min_by(|a, b| a.1.total_cmp(&b.1)).unwrap().0;
    assert!(1 < best && best + 6 < course.len(), "best: {best}");
    best
}

fn gently() -> Phase<f64> {
    Phase::new(Backprop, descent(0.02))
        .with_batch_size(BATCH)
        .unwrap()
}

#[test]
fn validation_loss_ends_a_phase_and_its_best_parameters_are_put_back() {
    let course = course(gently(), 40);
    let best = lowest(&course);
    for (patience, epochs, stop) in [
        (4, best + 5, StopReason::Validation),
        (1, best + 2, StopReason::Validation),
        (4, best + 3, StopReason::Epochs),
    ] {
        let (mut model, (x, y)) = contradicted();
        let limit = if stop == StopReason::Epochs {
            epochs
        } else {
            40
        };
        let phase = gently()
            .with_epochs(limit as u64)
            .with_stopping(Stopping::Validation {
                patience,
                improvement: 0.0,
            })
            .unwrap();
        // The validation loss is measured for the rule, whatever else is.
        let trainer = Trainer::new(phase)
            .with_validation(x, y)
            .with_measure_every(0);
        let report = trainer.run(&mut model).unwrap();
        assert_eq!((report.stop, report.history.len()), (stop, epochs));
        assert_eq!(report.phases[0].best_epoch, Some(best as u64 + 1));
        assert_eq!(parameters(&model), course[best].0);
        for (record, (_, loss)) in report.history.iter().zip(&course) {
            assert_eq!(record.validation_loss, Some(*loss));
            assert_eq!(record.composed_loss, None);
        }
    }
}

#[test]
fn the_best_epoch_is_the_lowest_though_it_does_not_count_as_an_improvement() {
    let course = course(gently(), 40);
    let (mut model, (x, y)) = contradicted();
    let phase = gently()
        .with_stopping(Stopping::Validation {
            patience: 2,
            improvement: 0.9,
        })
        .unwrap();
    let report = Trainer::new(phase).with_validation(x, y).run(&mut model);
    let report = report.unwrap();
    // No epoch of the first three is below a tenth of the first, yet they fall.
    let losses: Vec<f64> = course[..3].iter().map(|(_, loss)| *loss).collect();
    assert!(losses.is_sorted_by(|a, b| a > b) && losses[2] > 0.1 * losses[0]);
    assert_eq!(report.history.len(), 3);
    assert_eq!(report.phases[0].best_epoch, Some(3));
    assert_eq!(parameters(&model), course[2].0);
}

#[test]
fn the_next_phase_starts_from_the_best_parameters() {
    let course = course(gently(), 40);
    let best = lowest(&course);
    let (mut model, (x, y)) = contradicted();
    let stopping = Stopping::Validation {
        patience: 2,
        improvement: 0.0,
    };
    Trainer::new(gently().with_stopping(stopping).unwrap())
        .then(backprop().with_epochs(1))
        .with_validation(x, y)
        .run(&mut model)
        .unwrap();
    let (mut expected, _) = contradicted();
    run(&mut expected, gently().with_epochs(best as u64 + 1));
    run(&mut expected, backprop().with_epochs(1));
    assert_eq!(parameters(&model), parameters(&expected));
}

#[test]
fn validation_examples_are_measured_and_not_trained_on() {
    let (mut with, (x, y)) = contradicted();
    let (mut without, _) = contradicted();
    let phase = || {
        let scheme = Decoupling::persistent(ReverseSweep::new(1));
        let phase = Phase::new(scheme, adam()).with_batch_size(BATCH).unwrap();
        phase.with_epochs(5)
    };
    let trainer = Trainer::new(phase())
        .with_validation(x.clone(), y.clone())
        .with_measure_every(2);
    let mut by_hand = Vec::new();
    let report = trainer.run_with(&mut with, |record, model| {
        let loss = model.composed_loss_of(&x, &y).unwrap();
        let due = record.epoch.is_multiple_of(2);
        by_hand.push(due.then_some(loss / 7.0));
        ControlFlow::Continue(())
    });
    let losses = report.unwrap().history.into_iter();
    let losses: Vec<_> = losses.map(|record| record.validation_loss).collect();
    assert_eq!(losses, by_hand);
    run(&mut without, phase());
    assert_eq!(state(&with), state(&without));
}

#[test]
fn a_phase_without_time_is_passed_over() {
    for kind in 0..kinds().len() {
        let (mut model, mut expected) = (model(), model());
        let hurried = kinds().swap_remove(kind).with_time_limit(Duration::ZERO);
        let next = || backprop().with_epochs(2).with_batch_size(BATCH).unwrap();
        let trainer = Trainer::new(hurried).then(next());
        let report = trainer.run(&mut model).unwrap();
        let single = run(&mut expected, next());
        assert_eq!(state(&model), state(&expected), "phase {kind}");
        let first = &report.phases[0];
        assert_eq!(
            (first.epochs, first.steps, first.stop),
            (0, 0, StopReason::PhaseTimeLimit)
        );
        assert_eq!(report.stop, StopReason::Epochs);
        let numbers = |report: &TrainingReport<f64>| -> Vec<_> {
            let history = report.history.iter();
            history.map(|r| (r.epoch, r.steps, r.objective)).collect()
        };
        assert_eq!(numbers(&report), numbers(&single));
    }
}

#[test]
fn a_run_without_time_does_nothing() {
    for kind in 0..kinds().len() {
        let mut model = model();
        let before = state(&model);
        let mut phase = kinds().swap_remove(kind);
        if !format!("{phase:?}").contains("scheme: Backprop") {
            phase = phase
                .with_penalty_schedule(Schedule::steps(1, 2.0).unwrap().with_warm_up(3))
                .unwrap();
        }
        let report = Trainer::new(phase)
            .then(backprop())
            .with_time_limit(Duration::ZERO)
            .run(&mut model)
            .unwrap();
        assert_eq!(state(&model), before, "phase {kind}");
        assert_eq!((report.steps, report.stop), (0, StopReason::TimeLimit));
        assert!(report.history.is_empty());
        assert_eq!(report.phases, []);
    }
}

/// A scheme that takes 30 ms in its first visit, and counts the phases that it begins.
#[derive(Debug)]
struct Starts(Arc<AtomicU64>);

impl Scheme<f64> for Starts {
    fn start(&self, _: &mut DecoupledCircuit<f64>) -> Result<State<f64>, Error> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(State::new())
    }

    fn visit(&self, _: &mut State<f64>, visit: &mut Visit<'_, f64>) -> Result<f64, Error> {
        std::thread::sleep(Duration::from_millis(30));
        visit.backprop()?.step()
    }
}

#[test]
fn a_phase_does_not_begin_after_the_time_limit_of_the_run() {
    let begun = Arc::new(AtomicU64::new(0));
    let phase = || Phase::new(Starts(begun.clone()), descent(0.1)).with_epochs(1);
    let trainer = Trainer::new(phase()).then(phase()).then(phase());
    let limited = trainer.clone().with_time_limit(Duration::from_millis(15));
    let report = limited.run(&mut model()).unwrap();
    assert_eq!(begun.swap(0, Ordering::Relaxed), 1);
    assert_eq!((report.stop, report.steps), (StopReason::TimeLimit, 1));
    assert_eq!(report.phases.len(), 1);
    assert_eq!(report.phases[0].stop, StopReason::Epochs);
    // The limit of a phase is over with it.
    let first = phase().with_time_limit(Duration::from_millis(15));
    let report = Trainer::new(first).then(phase()).run(&mut model()).unwrap();
    assert_eq!((report.stop, report.steps), (StopReason::Epochs, 2));
    // Nor does it after a stop flag.
    let trainer = trainer.with_stop_flag(Arc::new(true.into()));
    begun.store(0, Ordering::Relaxed);
    let mut session = Session::new(&trainer, model()).unwrap();
    let stop = Event::Stop(StopReason::Requested);
    assert_eq!(session.advance().unwrap(), Some(stop));
    assert_eq!(begun.load(Ordering::Relaxed), 0);
}

#[test]
fn a_limit_that_no_clock_holds_is_none() {
    let phase = backprop().with_epochs(2).with_time_limit(Duration::MAX);
    let trainer = Trainer::new(phase).with_time_limit(Duration::MAX);
    let report = trainer.run(&mut model()).unwrap();
    assert_eq!((report.steps, report.stop), (2, StopReason::Epochs));
}

#[test]
fn a_flag_that_is_set_before_lets_nothing_happen() {
    let mut model = model();
    let before = state(&model);
    let trainer = Trainer::new(backprop())
        .then(backprop())
        .with_stop_flag(Arc::new(true.into()));
    let report = trainer.run(&mut model).unwrap();
    assert_eq!(state(&model), before);
    assert_eq!((report.steps, report.stop), (0, StopReason::Requested));
    assert!(report.history.is_empty());
    assert_eq!(report.phases, []);
}

#[test]
fn a_flag_that_the_callback_sets_ends_the_run_after_that_epoch() {
    let flag = Arc::new(AtomicBool::new(false));
    let mut model = model();
    let report = Trainer::new(backprop().with_batch_size(BATCH).unwrap())
        .then(backprop())
        .with_stop_flag(flag.clone())
        .run_with(&mut model, |record, _| {
            flag.store(record.epoch == 2, Ordering::Relaxed);
            ControlFlow::Continue(())
        })
        .unwrap();
    let mut shorter = self::model();
    let expected = run(
        &mut shorter,
        backprop().with_batch_size(BATCH).unwrap().with_epochs(2),
    );
    assert_eq!(report.history, expected.history);
    assert_eq!(report.stop, StopReason::Requested);
    assert_eq!((report.phases.len(), report.phases[0].epochs), (1, 2));
    assert_eq!(state(&model), state(&shorter));
}

#[test]
fn a_flag_ends_the_run_between_visits() {
    // After every visit of the second epoch but its last.
    for visit in 1..VISITS as usize {
        let flag = Arc::new(AtomicBool::new(false));
        let (mut spy, log) = spy();
        spy.raises = Some((VISITS as usize + visit, flag.clone()));
        let (mut model, (x, y)) = contradicted();
        let mut last = None;
        let report = Trainer::new(
            Phase::new(spy, descent(0.1))
                .with_batch_size(BATCH)
                .unwrap(),
        )
        .then(backprop())
        .with_validation(x, y)
        .with_stop_flag(flag)
        .run_with(&mut model, |_, model| {
            last = Some(parameters(model));
            ControlFlow::Continue(())
        })
        .unwrap();
        let log = log.lock().unwrap();
        assert_eq!(log.len(), VISITS as usize + visit);
        assert_eq!(
            (report.stop, report.phases.len()),
            (StopReason::Requested, 1)
        );
        assert_eq!((report.history.len(), report.phases[0].epochs), (2, 2));

        // The record of the broken epoch: means over what was visited, and no measurements.
        let record = &report.history[1];
        let seen = &log[VISITS as usize..];
        let examples: usize = seen.iter().map(|seen| seen.examples).sum();
        assert!(examples < EXAMPLES);
        let sum: f64 = seen.iter().map(|seen| seen.value).sum();
        assert_eq!(record.objective, sum / examples as f64);
        assert_eq!(record.gap_before, Some(2.0));
        assert_eq!(record.steps, log.len() as u64);
        assert_eq!(
            (record.composed_loss, record.validation_loss, record.gap),
            (None, None, None)
        );
        assert!(report.history[0].validation_loss.is_some());

        // The state is that of the last visit, and serves.
        assert_eq!(last.unwrap(), parameters(&model));
        assert!(model.energy().unwrap().is_finite());
        let before = model.composed_loss().unwrap();
        run(&mut model, backprop().with_epochs(20));
        assert!(model.composed_loss().unwrap() < before);
    }
}

#[test]
fn another_thread_ends_the_run() {
    let flag = Arc::new(AtomicBool::new(false));
    let (sender, receiver) = mpsc::channel();
    let mut model = model();
    let report = std::thread::scope(|scope| {
        let raised = &flag;
        scope.spawn(move || {
            receiver.recv().unwrap();
            raised.store(true, Ordering::Relaxed);
        });
        Trainer::new(
            backprop()
                .with_batch_size(BATCH)
                .unwrap()
                .with_epochs(u64::MAX),
        )
        .with_stop_flag(flag.clone())
        .run_with(&mut model, |record, _| {
            if record.epoch == 2 {
                sender.send(()).unwrap();
            }
            ControlFlow::Continue(())
        })
        .unwrap()
    });
    assert_eq!(report.stop, StopReason::Requested);
    assert!(report.history.len() >= 2);
    assert!(model.composed_loss().unwrap().is_finite());
}

/// Backprop that outlasts a limit of time in its first visit.
#[derive(Debug)]
struct Slow(Duration);

impl Scheme<f64> for Slow {
    fn visit(&self, state: &mut State<f64>, visit: &mut Visit<'_, f64>) -> Result<f64, Error> {
        std::thread::sleep(self.0);
        Backprop.visit(state, visit)
    }
}

#[test]
fn a_callback_ends_the_run_in_an_epoch_that_a_limit_broke_off() {
    let limit = Duration::from_millis(400);
    let train = |flow: ControlFlow<()>| {
        let phase = Phase::new(Slow(limit), descent(0.1))
            .with_batch_size(BATCH)
            .unwrap();
        Trainer::new(phase.with_time_limit(limit))
            .then(backprop().with_epochs(1))
            .run_with(&mut model(), |_, _| flow)
            .unwrap()
    };
    let (on, ended) = (
        train(ControlFlow::Continue(())),
        train(ControlFlow::Break(())),
    );
    assert_eq!((on.phases.len(), on.stop), (2, StopReason::Epochs));
    assert_eq!(on.phases[0].stop, StopReason::PhaseTimeLimit);
    assert_eq!(on.history[0].steps, 1);
    // The phase ends for its own reason.
    let own = StopReason::PhaseTimeLimit;
    assert_eq!((ended.phases.len(), ended.stop), (1, own));
}

#[test]
fn what_cannot_be_done_is_said_before_anything_is() {
    type Change = fn(Phase<f64>) -> Result<Phase<f64>, Error>;
    let option = |option, value, allowed: &'static str| Error::InvalidOption {
        option,
        value,
        allowed: allowed.into(),
    };
    let norm = |value| option("WStep::max_gradient_norm", value, "above 0 and finite");
    let cases: [(Change, Error); 7] = [
        (
            |p| p.with_batch_size(0),
            option("Phase::batch_size", 0.0, "at least 1"),
        ),
        (|p| p.with_max_gradient_norm(0.0), norm(0.0)),
        (|p| p.with_max_gradient_norm(-2.0), norm(-2.0)),
        (|p| p.with_max_gradient_norm(f64::NAN), norm(f64::NAN)),
        (
            |p| {
                p.with_stopping(Stopping::Stagnation {
                    patience: 0,
                    improvement: 0.0,
                })
            },
            option("Stopping's patience", 0.0, "at least 1"),
        ),
        (
            |p| {
                p.with_stopping(Stopping::Stagnation {
                    patience: 1,
                    improvement: -0.5,
                })
            },
            option("Stopping's improvement", -0.5, "finite and not negative"),
        ),
        (
            |p| {
                p.with_stopping(Stopping::Stagnation {
                    patience: 1,
                    improvement: f64::INFINITY,
                })
            },
            option(
                "Stopping's improvement",
                f64::INFINITY,
                "finite and not negative",
            ),
        ),
    ];
    for (change, expected) in cases {
        // NaN equal to itself.
        let error = change(backprop()).unwrap_err();
        assert_eq!(format!("{error:?}"), format!("{expected:?}"));
    }
    let validating = || {
        let stopping = Stopping::Validation {
            patience: 1,
            improvement: 0.0,
        };
        backprop().with_stopping(stopping).unwrap()
    };
    // In the second phase too nothing is done by the first.
    for trainer in [
        Trainer::new(validating()),
        Trainer::new(backprop()).then(validating()),
    ] {
        let operation = "Stopping::Validation, on the examples of Trainer::with_validation,";
        refused(trainer, &Error::NoExamples { operation });
    }
    let validated = |x, y| Trainer::new(backprop()).with_validation(x, y);
    let column = |rows, n| DMatrix::<f64>::from_element(rows, n, 0.5);
    let shape = |what: &str, expected, found| Error::Shape {
        what: what.into(),
        expected,
        found,
    };
    for (trainer, expected) in [
        (
            validated(column(2, 3), column(1, 3)),
            shape("validation inputs, one column per example", (1, 3), (2, 3)),
        ),
        (
            validated(column(1, 3), column(2, 3)),
            shape("validation targets, one column per example", (1, 3), (2, 3)),
        ),
        (
            validated(column(1, 3), column(1, 4)),
            shape("validation targets, one column per example", (1, 3), (1, 4)),
        ),
        (
            validated(column(1, 0), column(1, 0)),
            Error::NoExamples {
                operation: "validation",
            },
        ),
    ] {
        refused(trainer, &expected);
    }
}

/// The run ends with this error before it begins, and the model is as it was.
fn refused(trainer: Trainer<f64>, expected: &Error) {
    let mut model = model();
    let before = state(&model);
    let error = trainer.run(&mut model).unwrap_err().error;
    assert_eq!(&error, expected);
    assert_eq!(state(&model), before);
    assert_eq!(&trainer.check(&model).unwrap_err(), expected);
    let error = Session::new(&trainer, model).map(|_| ()).unwrap_err();
    assert_eq!(&error, expected);
}

/// An epoch tells what the solvers of its visits did, added up; schemes without one tell nothing.
#[test]
fn an_epoch_tells_what_its_solvers_did() {
    let n = model().examples().len();
    let told = |phase: Phase<f64>| run(&mut model(), phase.with_epochs(2)).history[1].solved;
    let sweeps = || Decoupling::persistent(ReverseSweep::new(3));
    let whole = told(Phase::new(sweeps(), adam())).unwrap();
    assert_eq!((whole.steps, whole.limited, whole.at_rest), (3, n, 0));
    let size = n.div_ceil(4);
    let parts = told(Phase::new(sweeps(), adam()).with_batch_size(size).unwrap()).unwrap();
    let visits = n.div_ceil(size) as u64;
    assert_eq!((parts.steps, parts.limited), (3 * visits, n));
    let multipliers = Decoupling::persistent(ReverseSweep::new(2))
        .with_multipliers(1.0)
        .unwrap();
    assert_eq!(told(Phase::new(multipliers, adam())).unwrap().steps, 2);
    assert_eq!(told(backprop()), None);
    assert_eq!(told(Phase::new(Decoupling::weights_only(), adam())), None);
}

/// Solvers that begin with a count of 7, and note it at every call.
#[derive(Debug, Clone, Default)]
struct Counts(Arc<Mutex<Vec<u64>>>);

impl Counts {
    fn note(&self, state: &mut State<f64>) {
        self.0.lock().unwrap().push(state.counts[0]);
        state.counts[0] += 1;
    }
}

fn seven() -> State<f64> {
    let mut state = State::new();
    state.counts.push(7);
    state
}

impl TargetSolver<f64> for Counts {
    fn start(&self) -> State<f64> {
        seven()
    }

    fn solve(
        &self,
        state: &mut State<f64>,
        problem: &mut TargetProblem<'_, f64>,
    ) -> Result<SolveReport, Error> {
        self.note(state);
        Ok(SolveReport::new(1, problem.batch().len()))
    }
}

impl ParameterSolver<f64> for Counts {
    fn check(&self, _: &LocalProblem<'_, f64>) -> Result<(), Error> {
        Ok(())
    }

    fn start(&self) -> State<f64> {
        seven()
    }

    fn solve(
        &self,
        state: &mut State<f64>,
        _: &LocalProblem<'_, f64>,
        _: &mut LocalWorkspace<f64>,
        _: &mut [f64],
    ) -> Result<ParameterReport, Error> {
        self.note(state);
        Ok(ParameterReport::default())
    }
}

#[test]
fn solvers_begin_anew_in_every_phase() {
    let (targets, parameters) = (Counts::default(), Counts::default());
    let phase = || {
        let w_step = WStep::solver_of_layer(1, parameters.clone());
        let scheme = Decoupling::persistent(targets.clone());
        Phase::with_w_step(scheme, w_step).unwrap().with_epochs(3)
    };
    Trainer::new(phase())
        .then(phase())
        .run(&mut model())
        .unwrap();
    for log in [targets, parameters] {
        assert_eq!(*log.0.lock().unwrap(), [7, 8, 9, 7, 8, 9]);
    }
}

/// Steps of layer 0 that change no output, since layer 1 does not read it.
#[test]
fn of_equally_good_epochs_the_first_is_kept() {
    let (mut model, (x, y)) = contradicted();
    let zeros = |t: usize| vec![0.0; model.circuit().parameters(t).len()];
    let (second, last) = (zeros(1), zeros(2));
    model.set_parameters(1, &second).unwrap();
    model.set_parameters(2, &last).unwrap();
    #[derive(Debug)]
    struct Counts;
    impl Optimizer<f64> for Counts {
        fn slots(&self) -> usize {
            0
        }
        fn update(&self, step: Step, values: &mut [f64], _: &[f64], _: &mut [f64]) {
            // The first layer is the only one of 10 parameters.
            if values.len() == 5 && step.decay > 0.0 {
                values.fill(step.number as f64);
            }
        }
    }
    let stopping = Stopping::Validation {
        patience: 5,
        improvement: 0.0,
    };
    let phase = Phase::new(Backprop, Counts)
        .with_stopping(stopping)
        .unwrap();
    let trainer = Trainer::new(phase).with_validation(x, y);
    let report = trainer.run(&mut model).unwrap();
    let losses = report.history.iter().map(|record| record.validation_loss);
    assert!(
        losses
            .clone()
            .all(|loss| loss == report.history[0].validation_loss)
    );
    assert_eq!(
        (report.history.len(), report.phases[0].best_epoch),
        (6, Some(1))
    );
    assert!(model.circuit().parameters(0)[..5].iter().all(|&w| w == 1.0));
}

/// A squared error with finite gradients, whose value is infinite.
#[derive(Debug)]
struct Infinite;

impl Loss<f64> for Infinite {
    fn evaluate(
        &self,
        at: &Pair<'_, f64>,
        values: &mut [f64],
        d_target: Write<'_, f64>,
        d_prediction: Write<'_, f64>,
        work: &mut [f64],
    ) {
        SquaredError.evaluate(at, values, d_target, d_prediction, work);
        values.fill(f64::INFINITY);
    }

    fn curvature(
        &self,
        at: &Pair<'_, f64>,
        v_target: Option<&[f64]>,
        v_prediction: Option<&[f64]>,
        target: Write<'_, f64>,
        prediction: Write<'_, f64>,
        work: &mut [f64],
    ) {
        SquaredError.curvature(at, v_target, v_prediction, target, prediction, work);
    }
}

/// No step follows from an energy that is not finite, whatever its gradients are.
#[test]
fn an_infinite_energy_is_an_error_before_any_step() {
    let sweep = || {
        let fixed = StepSize::Fixed(0.1);
        ReverseSweep::new(1).with_step(fixed).unwrap()
    };
    let schemes: Vec<Arc<dyn Scheme<f64>>> = vec![
        Arc::new(Backprop),
        Arc::new(ZIl),
        Arc::new(FixedPrediction::new()),
        Arc::new(Decoupling::weights_only()),
        Arc::new(Decoupling::persistent(sweep())),
        Arc::new(
            Decoupling::persistent(sweep())
                .with_multipliers(1.0)
                .unwrap(),
        ),
        Arc::new(Decoupling::joint(descent(0.1))),
        Arc::new(
            Decoupling::joint(descent(0.1))
                .with_multipliers(1.0)
                .unwrap(),
        ),
    ];
    let w_steps = || {
        let squares = LeastSquares::ridge(1e-2)
            .unwrap()
            .with_proximal(1.0)
            .unwrap();
        [
            WStep::none(),
            WStep::optimizer(descent(0.1)),
            WStep::optimizer(descent(0.1))
                .with_max_gradient_norm(1.0)
                .unwrap(),
            WStep::optimizer(descent(0.1)).with_steps(2).unwrap(),
            WStep::solver_of_layer(0, squares),
        ]
    };
    let mut checked = 0;
    for scheme in schemes {
        for w_step in w_steps() {
            let name = format!("{scheme:?}, {w_step:?}");
            let Ok(phase) = Phase::with_w_step(scheme.clone(), w_step) else {
                continue;
            };
            let mut builder = Circuit::builder();
            for dims in [[1, 5], [5, 4], [4, 1]] {
                builder =
                    builder.layer(Dense::new(dims[0], dims[1], Activation::Identity).unwrap());
            }
            let energy = Energy::new(Infinite);
            let mut model = DecoupledCircuit::new(builder.build().unwrap(), energy).unwrap();
            let (x, init) = (inputs(EXAMPLES), TargetInit::Projected { seed: 1 });
            model.add_examples(&x, &x, &init).unwrap();
            let before = state(&model);
            let error = Trainer::new(phase.with_epochs(1))
                .run(&mut model)
                .unwrap_err()
                .error;
            let energy = matches!(
                error,
                Error::NonFinite {
                    quantity: Quantity::Energy | Quantity::ComposedLoss,
                    layer: 2,
                    step: 0,
                }
            );
            assert!(energy, "{name}: {error}");
            assert_eq!(state(&model), before, "{name}");
            checked += 1;
        }
    }
    assert_eq!(checked, 27);
}
