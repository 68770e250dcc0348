//! Schemes, solvers, rules and states of one's own that do the unexpected: an error, or the right
//! numbers, and a run that can go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use layerwise::decoupled::{Selection, TargetInit, TargetUse};
use layerwise::energy::{All, Energy, LocalProblem, LocalWorkspace, Value};
use layerwise::kernel::Write;
use layerwise::layer::{Activation, Context, Dense, Point};
use layerwise::loss::SquaredError;
use layerwise::optimizer::{GradientDescent, Optimizer, Step};
use layerwise::parameter_solver::{LeastSquares, ParameterReport, ParameterSolver};
use layerwise::state::State;
use layerwise::target_solver::{ReverseSweep, SolveReport, TargetProblem, TargetSolver};
use layerwise::training::{
    Backprop, Decoupling, Event, Phase, Scheme, Session, StopReason, Stopping, Targets, Trainer,
    Visit, WStep, ZStep,
};
use layerwise::{Circuit, DecoupledCircuit, Error, Layer};
use nalgebra::DMatrix;

fn wave(rows: usize, n: usize, step: f64) -> DMatrix<f64> {
    DMatrix::from_fn(rows, n, |i, j| (step * (j as f64 + 1.3 * i as f64)).sin())
}

fn model_of(hidden: usize, n: usize) -> DecoupledCircuit<f64> {
    let dense = |input, output, activation| Dense::new(input, output, activation).unwrap();
    let circuit = Circuit::builder()
        .layer(dense(2, hidden, Activation::Tanh))
        .layer(dense(hidden, 3, Activation::Tanh))
        .layer(dense(3, 1, Activation::Identity))
        .seed(6)
        .build()
        .unwrap();
    let mut model = DecoupledCircuit::new(circuit, Energy::default()).unwrap();
    let init = TargetInit::NoisyForwardPass { std: 0.2, seed: 3 };
    let (x, y) = (wave(2, n, 0.7), wave(1, n, 1.1));
    model.add_examples(&x, &y, &init).unwrap();
    model
}

fn model() -> DecoupledCircuit<f64> {
    model_of(4, 11)
}

fn bits(model: &DecoupledCircuit<f64>) -> Vec<u64> {
    let mut values = model.terms().penalties().to_vec();
    for t in 0..model.circuit().depth() {
        values.extend(model.circuit().parameters(t));
        values.extend(model.z(t).unwrap().iter());
    }
    values.into_iter().map(f64::to_bits).collect()
}

fn descent(rate: f64) -> GradientDescent {
    GradientDescent::new(rate).unwrap()
}

fn batches(phase: Phase<f64>) -> Phase<f64> {
    phase.with_batch_size(4).unwrap().with_epochs(3)
}

fn combination<A: std::fmt::Debug>(result: Result<A, Error>) {
    assert!(
        matches!(result, Err(Error::Combination { .. })),
        "{result:?}"
    );
}

fn length<A: std::fmt::Debug>(result: Result<A, Error>) {
    assert!(matches!(result, Err(Error::Length { .. })), "{result:?}");
}

/// A scheme of a closure.
struct By<F>(TargetUse, F);

impl<F> std::fmt::Debug for By<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("By")
    }
}

impl<F> Scheme<f64> for By<F>
where
    F: Fn(&mut Visit<'_, f64>) -> Result<f64, Error> + Send + Sync,
{
    fn targets(&self) -> TargetUse {
        self.0
    }

    fn visit(&self, _: &mut State<f64>, visit: &mut Visit<'_, f64>) -> Result<f64, Error> {
        (self.1)(visit)
    }
}

fn by<F>(targets: TargetUse, visit: F) -> By<F>
where
    F: Fn(&mut Visit<'_, f64>) -> Result<f64, Error> + Send + Sync,
{
    By(targets, visit)
}

/// What a scheme uses targets for changes nothing of what it computes.
#[test]
fn a_scheme_without_targets_can_make_some() {
    let outcome = |targets| {
        let scheme = by(targets, |visit| {
            for t in 1..3 {
                visit.target_problem().target_mut(t).fill(0.25);
            }
            assert_eq!(visit.batch().z(2).len(), 3 * visit.batch().len());
            visit.evaluate()?.step()
        });
        let mut model = model();
        let trainer = Trainer::new(batches(Phase::new(scheme, descent(0.1))));
        trainer.run(&mut model).unwrap();
        bits(&model)
    };
    assert_eq!(outcome(TargetUse::None), outcome(TargetUse::Transient));
}

fn interrupted(
    trainer: &Trainer<f64>,
    model: DecoupledCircuit<f64>,
    events: usize,
) -> Session<f64> {
    let mut session = Session::new(trainer, model).unwrap();
    for _ in 0..events {
        session.advance().unwrap();
    }
    session
}

/// Between two epochs there may be other examples than before.
#[test]
fn an_epoch_is_not_resumed_on_another_number_of_examples() {
    let trainer = Trainer::new(batches(Phase::new(Backprop, descent(0.1))));
    let state = interrupted(&trainer, model(), 2).state().clone();
    for n in [5, 12, 20] {
        let error = Session::resume(&trainer, model_of(4, n), state.clone()).unwrap_err();
        let what = "examples of the epoch in progress".into();
        let (expected, found) = (11, n);
        assert_eq!(
            error,
            Error::Length {
                what,
                expected,
                found
            }
        );
    }
    let between = interrupted(&trainer, model(), 4).state().clone();
    let mut session = Session::resume(&trainer, model_of(4, 20), between).unwrap();
    assert_eq!(session.run().unwrap().steps, 3 + 2 * 5);
}

/// Validation keeps the parameters of the best epoch, and they are the circuit's.
#[test]
fn kept_parameters_are_not_resumed_on_another_circuit() {
    let stopping = Stopping::Validation {
        patience: 9,
        improvement: 0.0,
    };
    let phase = batches(Phase::new(Backprop, descent(0.1)));
    let trainer = Trainer::new(phase.with_stopping(stopping).unwrap())
        .with_validation(wave(2, 3, 0.3), wave(1, 3, 0.4));
    let state = interrupted(&trainer, model(), 5).state().clone();
    length(Session::resume(&trainer, model_of(6, 11), state));
}

#[test]
fn a_run_is_resumed_with_fewer_epochs_and_ends() {
    let trainer =
        |epochs| Trainer::new(batches(Phase::new(Backprop, descent(0.1))).with_epochs(epochs));
    let session = interrupted(&trainer(5), model(), 9);
    let state = session.state().clone();
    let (model, _) = session.finish();
    let mut session = Session::resume(&trainer(1), model, state).unwrap();
    let mut events = 0;
    while session.advance().unwrap().is_some() {
        events += 1;
        assert!(events < 9, "it never ends");
    }
}

#[test]
fn a_run_is_resumed_with_larger_batches() {
    let scheme = Decoupling::residual(ReverseSweep::new(1))
        .with_multipliers(1.0)
        .unwrap();
    let phase = || Phase::new(scheme.clone(), descent(0.1)).with_epochs(3);
    let session = interrupted(&Trainer::new(batches(phase())), model(), 1);
    let state = session.state().clone();
    let (model, _) = session.finish();
    let mut session = Session::resume(&Trainer::new(phase()), model, state).unwrap();
    let Some(Event::Visit(record)) = session.advance().unwrap() else {
        panic!("a visit");
    };
    assert_eq!(record.examples, 7);
    session.run().unwrap();
}

#[test]
fn steps_of_nothing_are_not_counted() {
    let phase = Phase::with_w_step(Decoupling::joint(descent(0.1)), WStep::none()).unwrap();
    let mut own = model();
    let report = Trainer::new(batches(phase)).run(&mut own).unwrap();
    assert_eq!(report.steps, 0);
    let before = model();
    for t in 0..3 {
        assert_eq!(own.circuit().parameters(t), before.circuit().parameters(t));
    }
    assert_ne!(own.z(1).unwrap(), before.z(1).unwrap());
}

/// Descent whose `bad`-th updates, from 0, give no numbers.
#[derive(Debug)]
struct Fails {
    bad: u64,
    calls: AtomicU64,
}

impl Fails {
    fn at(bad: u64) -> Self {
        let calls = AtomicU64::new(0);
        Self { bad, calls }
    }
}

impl Optimizer<f64> for Fails {
    fn slots(&self) -> usize {
        0
    }

    fn update(&self, step: Step, values: &mut [f64], gradient: &[f64], state: &mut [f64]) {
        descent(0.1).update(step, values, gradient, state);
        if self.calls.fetch_add(1, Ordering::Relaxed) == self.bad {
            values.fill(f64::NAN);
        }
    }
}

/// What a run leaves that goes on after every error, and how many errors there were.
fn going_on(
    trainer: &Trainer<f64>,
) -> (Vec<u64>, Vec<layerwise::training::EpochRecord<f64>>, usize) {
    let mut session = Session::new(trainer, model()).unwrap();
    let mut errors = 0;
    loop {
        match session.advance() {
            Ok(None) => break,
            Ok(Some(_)) => {}
            Err(_) => errors += 1,
        }
        assert!(errors < 3, "it does not go on");
    }
    let history = session.history().to_vec();
    (bits(session.model()), history, errors)
}

/// A step that failed is made again as if it had not been tried: with solvers beside the rule, and
/// with multipliers and residuals.
#[test]
fn a_run_goes_on_after_a_failed_step() {
    let solver = || {
        let solver = LeastSquares::ridge(1e-2).unwrap();
        // It adds up the batches of all visits.
        let solver = solver.with_forgetting_factor(1.0).unwrap();
        solver.with_proximal(1.0).unwrap()
    };
    let sweep = || ZStep::Solver(Arc::new(ReverseSweep::new(1)));
    let residual = Targets::Residual {
        keep: 0.5,
        schedule: layerwise::schedule::Schedule::CONSTANT,
    };
    for (targets, solves) in [
        (Targets::Persistent, true),
        (Targets::Persistent, false),
        (residual, false),
    ] {
        let trainer = |bad| {
            let scheme = Decoupling::new(targets, sweep()).unwrap();
            let scheme = scheme.with_multipliers(1.0).unwrap();
            let w_step = match solves {
                true => WStep::solver_of_layer(0, solver()).with_optimizer(Fails::at(bad)),
                false => WStep::optimizer(Fails::at(bad)),
            };
            Trainer::new(batches(Phase::with_w_step(scheme, w_step).unwrap()))
        };
        let (model, history, errors) = going_on(&trainer(7));
        assert_eq!(errors, 1);
        let expected = going_on(&trainer(u64::MAX));
        assert_eq!(expected.2, 0);
        assert!(model == expected.0, "{targets:?}, {solves}: other bits");
        assert_eq!(history, expected.1);
    }
}

/// A solver that makes as many sweeps as its state counts calls, and fails once.
#[derive(Debug)]
struct Counting(Fails);

impl TargetSolver<f64> for Counting {
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
        if self.0.calls.fetch_add(1, Ordering::Relaxed) == self.0.bad {
            return Err(Error::NoExamples { operation: "once" });
        }
        let sweeps = ReverseSweep::new(state.counts[0]);
        sweeps.solve(&mut State::new(), problem)
    }
}

#[test]
fn a_failed_call_leaves_a_target_solvers_state() {
    let trainer = |bad| {
        let scheme = Decoupling::persistent(Counting(Fails::at(bad)));
        Trainer::new(batches(Phase::new(scheme, descent(0.1))))
    };
    let (model, history, errors) = going_on(&trainer(4));
    assert_eq!(errors, 1);
    let expected = going_on(&trainer(u64::MAX));
    assert!(model == expected.0, "other bits");
    assert_eq!(history, expected.1);
}

/// Residuals that are no numbers would fail every visit.
#[test]
fn residuals_must_be_finite() {
    let dense = Dense::new(2, 1, Activation::Identity).unwrap();
    let last = Dense::new(1, 1, Activation::Identity).unwrap();
    let circuit = Circuit::builder().layer(dense).layer(last).build().unwrap();
    let mut overflowing = DecoupledCircuit::new(circuit, Energy::default()).unwrap();
    let given = TargetInit::Given(vec![wave(1, 4, 0.3)]);
    let x = DMatrix::from_element(2, 4, 10.0);
    overflowing
        .add_examples(&x, &wave(1, 4, 0.2), &given)
        .unwrap();
    overflowing.set_parameters(0, &[1e308, 1e308, 0.0]).unwrap();
    let scheme = Decoupling::<f64>::residual(ReverseSweep::new(1));
    let started = scheme.start(&mut overflowing);
    assert!(
        matches!(started, Err(Error::NonFinite { layer: 0, .. })),
        "{started:?}"
    );
}

/// What an unfinished visit recorded is no part of its epoch.
#[test]
fn records_of_a_failed_visit_do_not_count() {
    let calls = AtomicU64::new(0);
    let scheme = by(TargetUse::Kept, move |visit| {
        visit.record_gap_before(1.0);
        visit.record_solve(SolveReport::new(1, visit.batch().len()));
        if calls.fetch_add(1, Ordering::Relaxed) == 1 {
            return Err(Error::NoExamples { operation: "a try" });
        }
        visit.evaluate()?.step()
    });
    let (_, history, errors) = going_on(&Trainer::new(batches(Phase::new(scheme, descent(0.1)))));
    assert_eq!(errors, 1);
    assert_eq!(history[0].gap_before, Some((3.0_f64 / 11.0).sqrt()));
    assert_eq!(history[0].solved.unwrap().steps, 3);
}

/// Parameter solvers fit targets; backprop has none.
#[test]
fn backprop_with_parameter_solvers_is_refused_in_every_scheme() {
    let scheme = by(TargetUse::None, |visit| visit.backprop()?.step());
    let w_step = WStep::solver(LeastSquares::ridge(1e-2).unwrap());
    let phase = Phase::with_w_step(scheme, w_step).unwrap();
    combination(
        Trainer::new(batches(phase))
            .run(&mut model())
            .map_err(Error::from),
    );
}

/// The gap of an evaluation is that of its own predictions, whatever was computed before.
#[test]
fn the_gap_beside_backprop_is_that_of_the_forward_pass() {
    for first in [false, true] {
        let scheme = by(TargetUse::Kept, move |visit| {
            if first {
                visit.evaluate()?;
            }
            let evaluated = visit.backprop()?;
            let (gap, mut expected) = (evaluated.gap().powi(2), 0.0);
            for t in 1..3 {
                let (z, prediction) = (
                    evaluated.problem().batch().z(t),
                    evaluated.prediction(t - 1),
                );
                expected += z
                    .iter()
                    .zip(prediction)
                    .map(|(a, b)| (a - b).powi(2))
                    .sum::<f64>();
            }
            assert!(
                expected > 0.1 && (gap - expected).abs() < 1e-12,
                "{gap} {expected}"
            );
            evaluated.step()
        });
        let phase = batches(Phase::new(scheme, descent(0.1)));
        Trainer::new(phase).run(&mut model()).unwrap();
    }
}

/// Uses its workspace for other parameters, and fails.
#[derive(Debug)]
struct Spoils;

impl ParameterSolver<f64> for Spoils {
    fn solve(
        &self,
        _: &mut State<f64>,
        problem: &LocalProblem<'_, f64>,
        workspace: &mut LocalWorkspace<f64>,
        _: &mut [f64],
    ) -> Result<ParameterReport, Error> {
        let other = vec![9.0; problem.parameters().len()];
        problem.at_parameters(&other)?.evaluate(Value, workspace);
        Err(Error::NoExamples { operation: "a try" })
    }
}

#[test]
fn predictions_are_made_anew_after_a_failed_step() {
    let scheme = by(TargetUse::Kept, |visit| {
        let gap = visit.target_problem().gap();
        assert!(visit.evaluate()?.step().is_err());
        assert_eq!(visit.target_problem().gap(), gap);
        Ok(gap)
    });
    let phase = Phase::with_w_step(scheme, WStep::solver(Spoils)).unwrap();
    Trainer::new(batches(phase)).run(&mut model()).unwrap();
}

/// Joint descent hands the memory of one layer on to the next.
#[test]
fn predictions_are_made_anew_after_a_failed_joint_step() {
    #[derive(Debug)]
    struct Falls(Decoupling<f64>);
    impl Scheme<f64> for Falls {
        fn start(&self, model: &mut DecoupledCircuit<f64>) -> Result<State<f64>, Error> {
            self.0.start(model)
        }

        fn visit(&self, state: &mut State<f64>, visit: &mut Visit<'_, f64>) -> Result<f64, Error> {
            let gap = visit.target_problem().gap();
            assert!(self.0.visit(state, visit).is_err());
            let after = visit.target_problem().gap();
            assert!((after - gap).abs() < 1e-12, "{after} {gap}");
            Ok(gap)
        }
    }
    let scheme = Falls(Decoupling::joint(descent(0.1)));
    #[derive(Debug)]
    struct Never;
    impl Optimizer<f64> for Never {
        fn slots(&self) -> usize {
            0
        }

        fn update(&self, _: Step, values: &mut [f64], _: &[f64], _: &mut [f64]) {
            values.fill(f64::NAN);
        }
    }
    // Layers of one width, which can exchange their memory.
    let trainer = Trainer::new(batches(Phase::new(scheme, Never)).with_epochs(1));
    trainer.run(&mut model_of(3, 12)).unwrap();
}

#[test]
fn gradients_of_ones_own_begin_at_zero() {
    let scheme = by(TargetUse::None, |visit| {
        visit.backprop()?;
        let zero = |_, gradient: &mut [f64]| assert!(gradient.iter().all(|&g| g == 0.0));
        visit.along(1.0, zero)?.step()
    });
    let mut own = model();
    let phase = batches(Phase::new(scheme, descent(0.1)));
    Trainer::new(phase).run(&mut own).unwrap();
    assert_eq!(bits(&own), bits(&model()));
}

#[test]
fn gradients_of_ones_own_are_refused_before_they_are_made() {
    let scheme = by(TargetUse::Kept, |visit| {
        visit.along(1.0, |_, _| panic!("for nothing"))?.step()
    });
    let w_step = WStep::optimizer(descent(0.1)).with_steps(2).unwrap();
    let phase = Phase::with_w_step(scheme, w_step).unwrap();
    combination(
        Trainer::new(batches(phase))
            .run(&mut model())
            .map_err(Error::from),
    );
}

/// A scheme that wraps another must hand it the state that it began with.
#[test]
fn a_foreign_state_is_an_error() {
    let residual = Decoupling::residual(ReverseSweep::new(1));
    for scheme in [
        residual.clone().with_multipliers(1.0).unwrap(),
        residual,
        Decoupling::joint(descent(0.1).with_momentum(0.9).unwrap()),
        Decoupling::persistent(ReverseSweep::new(1))
            .with_multipliers(1.0)
            .unwrap(),
    ] {
        let finished = scheme.finish(&mut State::new(), &mut model());
        match Scheme::targets(&scheme) {
            // Nothing to bring up to date.
            TargetUse::Kept => finished.unwrap(),
            _ => length(finished),
        }
        let inner = scheme.clone();
        // Of a model with fewer examples.
        let state = scheme.start(&mut model_of(4, 5)).unwrap();
        let own = by(TargetUse::Kept, move |visit| {
            inner.visit(&mut state.clone(), visit)
        });
        let phase = Phase::new(own, descent(0.1)).with_epochs(1);
        length(Trainer::new(phase).run(&mut model()).map_err(Error::from));
    }
}

/// What a scheme says of a W-step holds also where the W-step is an optimiser.
#[test]
fn a_scheme_can_refuse_optimisers() {
    #[derive(Debug)]
    struct Picky;
    impl Scheme<f64> for Picky {
        fn check(&self, w_step: &WStep<f64>) -> Result<(), Error> {
            match w_step.solves() {
                true => Ok(()),
                false => Err(Error::Combination {
                    what: "an optimiser",
                    reason: "solvers only",
                }),
            }
        }

        fn visit(&self, _: &mut State<f64>, visit: &mut Visit<'_, f64>) -> Result<f64, Error> {
            visit.evaluate()?.step()
        }
    }
    combination(
        Trainer::new(Phase::new(Picky, descent(0.1)))
            .run(&mut model())
            .map_err(Error::from),
    );
}

#[test]
fn a_phase_without_examples_makes_no_visit() {
    #[derive(Debug)]
    struct Last;
    impl Scheme<f64> for Last {
        fn visit(&self, _: &mut State<f64>, visit: &mut Visit<'_, f64>) -> Result<f64, Error> {
            visit.evaluate()?.step()
        }

        fn finish(
            &self,
            _: &mut State<f64>,
            model: &mut DecoupledCircuit<f64>,
        ) -> Result<(), Error> {
            let all = model.examples().to_vec();
            model.remove_examples(&all)
        }
    }
    let phase = || batches(Phase::new(Last, descent(0.1)));
    let trainer = Trainer::new(phase()).then(phase());
    let report = trainer.run(&mut model()).unwrap();
    assert_eq!(report.phases[1].epochs, 0);
}

#[test]
fn a_run_that_ended_was_not_stopped() {
    let trainer = Trainer::new(batches(Phase::new(Backprop, descent(0.1))));
    let mut session = Session::new(&trainer, model()).unwrap();
    session.run().unwrap();
    session.stop();
    assert_eq!(session.report().stop, StopReason::Epochs);
    let mut session = Session::new(&trainer, model()).unwrap();
    session.finish_phase().unwrap();
    session.stop();
    assert_eq!(session.report().stop, StopReason::Epochs);
    let stop = Event::Stop(StopReason::Epochs);
    assert_eq!(session.advance().unwrap(), Some(stop));
    assert_eq!(session.advance().unwrap(), None);
}

/// A dense layer without ∂f/∂z.
#[derive(Debug)]
struct Table(Dense);

impl Layer<f64> for Table {
    described_by!(0: f64);

    fn input_differentiable(&self) -> bool {
        false
    }

    fn forward(
        &self,
        context: &Context<'_>,
        parameters: &[f64],
        input: &[f64],
        output: &mut [f64],
        tape: Option<&mut [f64]>,
        work: &mut [f64],
    ) {
        self.0
            .forward(context, parameters, input, output, tape, work);
    }

    fn vjp(
        &self,
        at: &Point<'_, f64>,
        cotangent: &[f64],
        d_input: Write<'_, f64>,
        d_parameters: Write<'_, f64>,
        work: &mut [f64],
    ) {
        assert!(d_input.is_skip());
        self.0.vjp(at, cotangent, d_input, d_parameters, work);
    }
}

#[test]
fn the_input_gradient_of_a_layer_without_one_is_zero() {
    let dense = Dense::new(2, 1, Activation::Identity).unwrap();
    let table = Table(Dense::new(2, 1, Activation::Identity).unwrap());
    let (theta, input, target) = ([1.0, 1.0, 0.5], [1.0, 2.0], [3.0]);
    let of = |layer| LocalProblem::new(layer, &theta, &SquaredError, 1.0, &input, &target).unwrap();
    let (first, second) = (of(&dense as &dyn Layer<f64>), of(&table));
    let mut workspace = first.workspace();
    assert_ne!(
        first.evaluate(All, &mut workspace).input_gradient(),
        [0.0; 2]
    );
    assert_eq!(
        second.evaluate(All, &mut workspace).input_gradient(),
        [0.0; 2]
    );
}

/// Leaves no numbers, and says that all is well.
#[derive(Debug)]
struct Nowhere;

impl TargetSolver<f64> for Nowhere {
    fn solve(
        &self,
        _: &mut State<f64>,
        problem: &mut TargetProblem<'_, f64>,
    ) -> Result<SolveReport, Error> {
        problem.target_mut(1)[0] = f64::NAN;
        Ok(SolveReport::new(1, problem.batch().len()))
    }
}

#[test]
fn targets_that_are_no_numbers_are_not_kept() {
    let mut own = model();
    let solved = own.solve_targets(&Nowhere, &Selection::All);
    assert!(matches!(solved, Err(Error::NonFinite { .. })), "{solved:?}");
    assert_eq!(bits(&own), bits(&model()));
    // Nor by a scheme that looks at nothing.
    let scheme = by(TargetUse::Kept, |visit| {
        visit.target_problem().target_mut(1)[0] = f64::NAN;
        Ok(0.0)
    });
    let run = Trainer::new(batches(Phase::new(scheme, descent(0.1))))
        .run(&mut own)
        .map_err(Error::from);
    assert!(matches!(run, Err(Error::NonFinite { .. })), "{run:?}");
    assert_eq!(bits(&own), bits(&model()));
}
