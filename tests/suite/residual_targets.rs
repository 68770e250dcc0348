//! Targets that are carried as residuals z_t = f(z_{t−1}) + γ r_t: they are refreshed targets for
//! γ = 0 or r = 0, persistent ones for γ = 1 and a θ that stands still, and by hand in between;
//! and a run that is broken off leaves a model that serves.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use layerwise::decoupled::TargetInit;
use layerwise::energy::Energy;
use layerwise::error::Quantity;
use layerwise::layer::{Activation, Dense};
use layerwise::optimizer::{Adam, GradientDescent, Optimizer, Step};
use layerwise::regularizer::Regularizer;
use layerwise::schedule::Schedule;
use layerwise::state::State;
use layerwise::target_solver::{ReverseSweep, SolveReport, StepSize, TargetProblem, TargetSolver};
use layerwise::training::{
    Decoupling, EpochRecord, Phase, StopReason, Targets, Trainer, TrainingReport, ZStep,
};
use layerwise::{Circuit, DecoupledCircuit, Error};
use nalgebra::DMatrix;

const EXAMPLES: usize = 12;
/// Visits of an epoch in batches of 5: of 5, 5 and 2 examples.
const BATCH: usize = 5;
const VISITS: usize = 3;

fn dense(input: usize, output: usize, activation: Activation) -> Dense {
    Dense::new(input, output, activation).unwrap()
}

/// Two tanh layers and a linear one, with a regulariser that moves every layer's weights.
fn model(init: &TargetInit<f64>) -> DecoupledCircuit<f64> {
    let circuit = Circuit::builder()
        .layer(dense(2, 5, Activation::Tanh))
        .layer(dense(5, 4, Activation::Tanh))
        .layer(dense(4, 1, Activation::Identity))
        .build()
        .unwrap();
    let x = DMatrix::from_fn(2, EXAMPLES, |i, j| ((i + 1) * j) as f64 / 9.0 - 0.8);
    let y = DMatrix::from_fn(1, EXAMPLES, |_, j| (j as f64).sin());
    let energy = Energy::default()
        .with_penalties(vec![0.5, 1.5])
        .with_parameter_regularizer(Regularizer::l2(0.1).unwrap());
    let mut model = DecoupledCircuit::new(circuit, energy).unwrap();
    model.add_examples(&x, &y, init).unwrap();
    model
}

fn noisy() -> DecoupledCircuit<f64> {
    model(&TargetInit::NoisyForwardPass { std: 0.3, seed: 2 })
}

fn parameters(model: &DecoupledCircuit<f64>) -> Vec<f64> {
    let layers = 0..model.circuit().depth();
    layers
        .flat_map(|t| model.circuit().parameters(t).to_vec())
        .collect()
}

fn targets(model: &DecoupledCircuit<f64>) -> Vec<f64> {
    let layers = 1..model.circuit().depth();
    layers
        .flat_map(|t| model.z(t).unwrap().iter().copied().collect::<Vec<_>>())
        .collect()
}

/// The bits of parameters and targets.
fn state(model: &DecoupledCircuit<f64>) -> [Vec<u64>; 2] {
    [parameters(model), targets(model)].map(|v| v.into_iter().map(f64::to_bits).collect())
}

/// The gap over all hidden layers, as records tell it.
fn gap(model: &DecoupledCircuit<f64>) -> f64 {
    let squares = model.gap().unwrap().into_iter().map(|gap| gap * gap);
    squares.sum::<f64>().sqrt()
}

fn sweep() -> ReverseSweep {
    ReverseSweep::new(2)
}

fn adam() -> Adam {
    Adam::new(1e-2).unwrap()
}

/// Targets carried by a constant share of their residuals.
fn carried(solver: impl TargetSolver<f64> + 'static, keep: f64) -> Result<Decoupling<f64>, Error> {
    let schedule = Schedule::CONSTANT;
    let solver = ZStep::Solver(Arc::new(solver));
    Decoupling::new(Targets::Residual { keep, schedule }, solver)
}

fn residual(keep: f64) -> Decoupling<f64> {
    carried(sweep(), keep).unwrap()
}

fn phase(scheme: Decoupling<f64>) -> Phase<f64> {
    Phase::new(scheme, adam())
        .with_epochs(4)
        .with_batch_size(BATCH)
        .unwrap()
}

fn run(model: &mut DecoupledCircuit<f64>, phase: Phase<f64>) -> TrainingReport<f64> {
    Trainer::new(phase).run(model).unwrap()
}

/// The bits of the parameters after every epoch, and what its record tells.
fn course(
    model: &mut DecoupledCircuit<f64>,
    scheme: Decoupling<f64>,
) -> Vec<(Vec<u64>, EpochRecord<f64>)> {
    let mut course = Vec::new();
    Trainer::new(phase(scheme))
        .run_with(model, |record, model| {
            let [parameters, _] = state(model);
            course.push((parameters, record.clone()));
            ControlFlow::Continue(())
        })
        .unwrap();
    course
}

#[test]
fn without_a_share_of_the_residual_targets_are_refreshed() {
    let (mut carried, mut refreshed) = (noisy(), noisy());
    let a = course(&mut carried, residual(0.0));
    let b = course(&mut refreshed, Decoupling::refreshed(sweep()));
    assert!(a == b);
    assert_eq!(parameters(&carried), parameters(&refreshed));
    // Any share of it is something else.
    let mut other = noisy();
    let c = course(&mut other, residual(0.1));
    let parts = a.iter().zip(&c);
    assert!(parts.clone().all(|(a, c)| a.0 != c.0));
    assert!(parts.clone().all(|(a, c)| a.1.gap_before != c.1.gap_before));
    assert!(parts.clone().all(|(a, c)| a.1.gap_after != c.1.gap_after));
    assert!(targets(&carried) != targets(&other));
}

#[test]
fn without_a_residual_targets_are_refreshed() {
    let still = || ReverseSweep::new(0);
    let forward = || model(&TargetInit::ForwardPass);
    let (mut carries, mut refreshed) = (forward(), forward());
    let a = course(&mut carries, carried(still(), 1.0).unwrap());
    let b = course(&mut refreshed, Decoupling::refreshed(still()));
    assert!(a == b);
    assert!(a[0].0 != a[3].0, "the regulariser moves predictions");
    // At its end either phase brings all targets to the present θ.
    assert!(state(&carries) == state(&refreshed));
    assert!(targets(&carries) != targets(&forward()));
    assert_eq!(gap(&carries), 0.0);
}

/// θ stands still.
#[derive(Debug)]
struct Frozen;

impl Optimizer<f64> for Frozen {
    fn slots(&self) -> usize {
        0
    }

    fn update(&self, _step: Step, _values: &mut [f64], _gradient: &[f64], _state: &mut [f64]) {}
}

#[test]
fn whole_residuals_at_frozen_parameters_are_persistent_targets() {
    let train = |scheme| {
        let mut model = noisy();
        run(
            &mut model,
            Phase::new(scheme, Frozen)
                .with_epochs(5)
                .with_batch_size(BATCH)
                .unwrap(),
        );
        targets(&model)
    };
    let (carried, persistent) = (train(residual(1.0)), train(Decoupling::persistent(sweep())));
    let start = targets(&noisy());
    let mut moved: f64 = 0.0;
    for ((a, b), start) in carried.iter().zip(&persistent).zip(start) {
        assert!((a - b).abs() < 1e-12, "{a} {b}");
        moved = moved.max((a - start).abs());
    }
    assert!(moved > 0.1, "the sweeps go on: {moved}");
}

/// A sweep with a log of the first target that it left.
#[derive(Debug)]
struct Logged(ReverseSweep, Arc<Mutex<Vec<f64>>>);

impl TargetSolver<f64> for Logged {
    fn solve(
        &self,
        state: &mut State<f64>,
        problem: &mut TargetProblem<'_, f64>,
    ) -> Result<SolveReport, Error> {
        let report = self.0.solve(state, problem)?;
        self.1.lock().unwrap().push(problem.batch().z(1)[0]);
        Ok(report)
    }
}

#[test]
fn two_visits_by_hand() {
    let (keep, step, rate) = (0.5, 0.1, 0.1);
    let (x, y) = (1.0, 10.0);
    let linear = || dense(1, 1, Activation::Identity).without_bias();
    let circuit = Circuit::builder().layer(linear()).layer(linear()).build();
    let mut model = DecoupledCircuit::new(circuit.unwrap(), Energy::default()).unwrap();
    let (mut w, mut v, mut z) = (2.0, 3.0, 2.5);
    model.set_parameters(0, &[w]).unwrap();
    model.set_parameters(1, &[v]).unwrap();
    let one = |value| DMatrix::from_element(1, 1, value);
    let given = TargetInit::Given(vec![one(z)]);
    model.add_examples(&one(x), &one(y), &given).unwrap();
    let solver = ReverseSweep::new(1).with_step(StepSize::Fixed(step));
    let log = Arc::new(Mutex::new(Vec::new()));
    let scheme = carried(Logged(solver.unwrap(), log.clone()), keep).unwrap();
    let rule = GradientDescent::new(rate).unwrap();

    let mut by_hand = Vec::new();
    let mut residual = z - w * x;
    for _ in 0..2 {
        z = w * x + keep * residual;
        let met = (z - w * x).abs();
        z -= step * ((z - w * x) - v * (y - v * z));
        residual = z - w * x;
        let output = y - v * z;
        let energy = 0.5 * (residual * residual + output * output);
        by_hand.push([energy, met, residual.abs(), z]);
        w += rate * residual * x;
        v += rate * output * z;
    }
    let mut told = Vec::new();
    let trainer = Trainer::new(Phase::new(scheme, rule).with_epochs(2));
    trainer
        .run_with(&mut model, |record, _| {
            let (met, left) = (record.gap_before.unwrap(), record.gap_after.unwrap());
            let z = *log.lock().unwrap().last().unwrap();
            told.push([record.objective, met, left, z]);
            ControlFlow::Continue(())
        })
        .unwrap();
    for (told, by_hand) in told.as_flattened().iter().zip(by_hand.as_flattened()) {
        assert!((told - by_hand).abs() < 1e-13, "{told} for {by_hand}");
    }
    let after = [parameters(&model), targets(&model)].concat();
    for (after, by_hand) in after.iter().zip([w, v, w * x + residual]) {
        assert!((after - by_hand).abs() < 1e-13, "{after} for {by_hand}");
    }
}

#[test]
fn a_visit_meets_the_share_of_the_residuals_that_the_last_one_left() {
    for batch in [EXAMPLES, BATCH] {
        for keep in [0.3, 1.0] {
            let mut model = noisy();
            let mut left = gap(&model);
            let report = run(
                &mut model,
                phase(residual(keep)).with_batch_size(batch).unwrap(),
            );
            for record in report.history {
                let met = record.gap_before.unwrap();
                assert!(met > 0.01);
                assert!((met - keep * left).abs() < 1e-12, "{met}, {keep} of {left}");
                left = record.gap_after.unwrap();
            }
        }
        // By default the share falls on a line from 1 to 0: over whole batches, 1 − k/K in epoch k.
        if batch == EXAMPLES {
            let mut model = noisy();
            let mut left = gap(&model);
            let phase = phase(Decoupling::residual(sweep())).with_epochs(8);
            let phase = phase.with_batch_size(batch).unwrap();
            for (k, record) in run(&mut model, phase).history.iter().enumerate() {
                let expected = (1.0 - k as f64 / 8.0) * left;
                let met = record.gap_before.unwrap();
                assert!(
                    (met - expected).abs() < 1e-12,
                    "{met}, {expected} of {left}"
                );
                left = record.gap_after.unwrap();
            }
        }
        for scheme in [residual(0.0), Decoupling::refreshed(sweep())] {
            let report = run(&mut noisy(), phase(scheme).with_batch_size(batch).unwrap());
            let mut met = report.history.iter().map(|record| record.gap_before);
            assert!(met.all(|gap| gap == Some(0.0)));
        }
    }
}

#[test]
fn the_end_of_a_phase_brings_the_targets_up_to_date() {
    let gaps = |scheme, batch| {
        let mut model = noisy();
        let report = run(&mut model, phase(scheme).with_batch_size(batch).unwrap());
        (gap(&model), report.history[3].gap_after.unwrap())
    };
    for batch in [EXAMPLES, BATCH] {
        for keep in [0.0, 0.3, 1.0] {
            let (after, left) = gaps(residual(keep), batch);
            assert!((after - left).abs() < 1e-10, "{keep}: {after} for {left}");
        }
        let (after, left) = gaps(Decoupling::persistent(sweep()), batch);
        assert!((after - left).abs() > 1e-4, "absolute targets go stale");
    }
}

/// Sweeps, until the call of this number: then it raises the flag and sweeps, or fails.
#[derive(Debug)]
struct Watched {
    last: u64,
    flag: Option<Arc<AtomicBool>>,
}

impl TargetSolver<f64> for Watched {
    fn start(&self) -> State<f64> {
        let mut state = State::new();
        state.counts.push(0);
        state
    }

    fn solve(
        &self,
        state: &mut State<f64>,
        problem: &mut TargetProblem<'_, f64>,
    ) -> Result<SolveReport, Error> {
        state.counts[0] += 1;
        if state.counts[0] == self.last {
            let Some(flag) = &self.flag else {
                return Err(failure(77));
            };
            flag.store(true, Ordering::Relaxed);
        }
        let step = StepSize::Fixed(0.2);
        ReverseSweep::new(1).with_step(step)?.solve(state, problem)
    }
}

fn failure(step: u64) -> Error {
    Error::NonFinite {
        quantity: Quantity::Target,
        layer: 2,
        step,
    }
}

fn watched(last: u64, flag: Option<Arc<AtomicBool>>) -> Decoupling<f64> {
    let solver = Watched { last, flag };
    carried(solver, 0.7).unwrap()
}

/// Everything is finite, and a new run trains on.
fn serves(mut model: DecoupledCircuit<f64>) {
    assert!(targets(&model).iter().all(|z| z.is_finite()));
    assert!(gap(&model).is_finite());
    let before = model.composed_loss().unwrap();
    run(&mut model, phase(residual(1.0)).with_epochs(100));
    let after = model.composed_loss().unwrap();
    assert!(after < before, "{before} to {after}");
}

/// The model after a run that a flag ends after this many visits.
fn flagged(visits: usize, batch: usize) -> DecoupledCircuit<f64> {
    let flag = Arc::new(AtomicBool::new(false));
    let mut model = noisy();
    let phase = phase(watched(visits as u64, Some(flag.clone())))
        .with_batch_size(batch)
        .unwrap();
    let report = Trainer::new(phase)
        .with_stop_flag(flag)
        .run(&mut model)
        .unwrap();
    assert_eq!(
        (report.stop, report.steps),
        (StopReason::Requested, visits as u64)
    );
    model
}

#[test]
fn a_flag_leaves_a_model_that_serves() {
    for visits in [1, VISITS + 1, VISITS + 2] {
        serves(flagged(visits, BATCH));
    }
    serves(flagged(2, EXAMPLES));
}

#[test]
fn a_callback_leaves_what_a_shorter_run_leaves() {
    let (mut stopped, mut shorter) = (noisy(), noisy());
    let report = Trainer::new(phase(residual(0.7)))
        .run_with(&mut stopped, |record, _| match record.epoch {
            2 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        })
        .unwrap();
    assert_eq!(report.stop, StopReason::Callback);
    run(&mut shorter, phase(residual(0.7)).with_epochs(2));
    assert!(state(&stopped) == state(&shorter));
    serves(stopped);
}

#[test]
fn a_solver_that_fails_leaves_the_last_completed_step() {
    for (batch, visit) in [
        (BATCH, 2),
        (BATCH, VISITS + 1),
        (BATCH, VISITS + 3),
        (EXAMPLES, 3),
    ] {
        let mut model = noisy();
        let mut after_epoch = None;
        let phase = phase(watched(visit as u64, None))
            .with_batch_size(batch)
            .unwrap();
        let error = Trainer::new(phase).run_with(&mut model, |_, model| {
            after_epoch = Some(state(model));
            ControlFlow::Continue(())
        });
        // The step is that of the run.
        assert_eq!(error.unwrap_err().error, failure(visit as u64 - 1));
        let completed = flagged(visit - 1, batch);
        assert_eq!(parameters(&model), parameters(&completed));
        if visit == VISITS + 1 || batch == EXAMPLES {
            // No completed visit between: the failed one left the targets as it found them.
            assert!(after_epoch.unwrap() == state(&model));
        }
        serves(model);
    }
}

#[test]
fn a_share_is_between_none_and_all() {
    for keep in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        let error = carried(sweep(), keep).unwrap_err();
        let Error::InvalidOption {
            option: "Targets::Residual::keep",
            value,
            allowed,
        } = error
        else {
            panic!("{error}");
        };
        assert_eq!(value.to_bits(), keep.to_bits());
        assert!(allowed.ends_with("after multiplication by the schedule's largest factor"));
    }
}

#[cfg(feature = "rayon")]
#[test]
fn threads_leave_the_same_bits() {
    for batch in [EXAMPLES, BATCH] {
        let train = |threads| {
            let mut model = noisy();
            let phase = phase(residual(0.7)).with_batch_size(batch).unwrap();
            let trainer = Trainer::new(phase).with_threads(threads).unwrap();
            let history = trainer.run(&mut model).unwrap().history;
            (state(&model), history)
        };
        assert!(train(1) == train(2));
    }
}
