//! Runs that fail: the best epoch is restored, the report says what was done, and a panic in a caller's own
//! code leaves what the last completed visit left.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use layerwise::error::Quantity;
use layerwise::kernel::Write;
use layerwise::layer::{Context, Dense, Point};
use layerwise::loss::{Pair, SquaredError};
use layerwise::optimizer::{GradientDescent, Optimizer, Step};
use layerwise::parameter_solver::{ParameterReport, ParameterSolver};
use layerwise::prelude::*;
use layerwise::state::State;
use layerwise::target_solver::{
    SolveReport, StepSize, SynchronousDescent, TargetProblem, TargetSolver,
};
use layerwise::training::{
    Decoupling, EpochRecord, FixedPrediction, PcAlm, RunError, Scheme, Session, StopReason,
    Stopping, TrainingReport, Visit, WStep, Warning, ZIl,
};
use layerwise::{Layer, Loss, energy::LocalProblem, energy::LocalWorkspace};

use crate::amortized::amortized;

/// Gradient descent whose steps after the first few are enormous.
#[derive(Debug, Clone, Copy)]
struct Explodes(u64);

impl<T: Scalar> Optimizer<T> for Explodes {
    fn slots(&self) -> usize {
        0
    }

    fn update(&self, step: Step, values: &mut [T], gradient: &[T], state: &mut [T]) {
        GradientDescent::new(0.05)
            .unwrap()
            .update(step, values, gradient, state);
        if step.number > self.0 {
            values.fill(T::max_value().unwrap().sqrt());
        }
    }
}

fn wave<T: Scalar>(rows: usize, n: usize, step: f64) -> DMatrix<T> {
    DMatrix::from_fn(rows, n, |i, j| {
        T::of((step * (j as f64 + 1.3 * i as f64)).sin())
    })
}

fn model<T: Scalar>() -> DecoupledCircuit<T> {
    let circuit = Circuit::builder()
        .layer(Dense::new(2, 4, Activation::Tanh).unwrap())
        .layer(Dense::new(4, 3, Activation::Tanh).unwrap())
        .layer(Dense::new(3, 1, Activation::Identity).unwrap())
        .seed(6);
    let mut model = DecoupledCircuit::new(circuit.build().unwrap(), Energy::default()).unwrap();
    model
        .add_examples(
            &wave(2, 12, 0.7),
            &wave(1, 12, 1.1),
            &TargetInit::ForwardPass,
        )
        .unwrap();
    model
}

fn parameters<T: Scalar>(model: &DecoupledCircuit<T>) -> Vec<Vec<T>> {
    let all = 0..model.circuit().depth();
    all.map(|t| model.circuit().parameters(t).to_vec())
        .collect()
}

type Make<T> = fn() -> Arc<dyn Scheme<T>>;

fn schemes<T: Scalar>() -> Vec<Make<T>> {
    vec![
        || Arc::new(Backprop),
        || Arc::new(ZIl),
        || Arc::new(Decoupling::persistent(ReverseSweep::new(1))),
        || Arc::new(Decoupling::refreshed(ReverseSweep::new(1))),
        || Arc::new(Decoupling::residual(ReverseSweep::new(1))),
        || Arc::new(amortized(&[2, 4, 3, 1])),
        || Arc::new(PcAlm::new(2, ReverseSweep::new(1), 0.5).unwrap()),
        || Arc::new(Decoupling::joint(GradientDescent::new(0.05).unwrap())),
    ]
}

fn validated<T: Scalar>(phase: Phase<T>) -> Trainer<T> {
    let stopping = Stopping::Validation {
        patience: 100,
        improvement: 0.0,
    };
    let phase = phase
        .with_batch_size(4)
        .unwrap()
        .with_stopping(stopping)
        .unwrap();
    Trainer::new(phase).with_validation(wave(2, 5, 0.9), wave(1, 5, 0.4))
}

/// A run of three visits an epoch, which explodes in the fourth.
fn the_best_epoch_is_restored<T: Scalar>() {
    for scheme in schemes::<T>() {
        let trainer = validated(Phase::new(scheme(), Explodes(10)).with_epochs(20));
        let mut failed = model();
        let RunError { error, report } = trainer.run(&mut failed).unwrap_err();
        let name = format!("{:?}", scheme());
        assert!(matches!(error, Error::NonFinite { .. }), "{name}: {error}");
        // All whole epochs, and the one that was begun.
        assert_eq!(report.history.len(), 4, "{name}");
        assert_eq!(report.stop, StopReason::Failed, "{name}");
        let [phase] = &report.phases[..] else {
            panic!("{name}: {report:?}");
        };
        assert_eq!(
            (phase.epochs, phase.stop),
            (4, StopReason::Failed),
            "{name}"
        );
        let best = phase.best_epoch.unwrap();
        let of = |record: &EpochRecord<T>| {
            record
                .validation_loss
                .map_or(f64::INFINITY, |loss| loss.as_f64())
        };
        let lowest = report.history.iter().map(of).fold(f64::INFINITY, f64::min);
        assert_eq!(of(&report.history[best as usize - 1]), lowest, "{name}");
        // The parameters that a run has after so many epochs.
        let mut expected = model();
        let same = validated(Phase::new(scheme(), Explodes(10)).with_epochs(20));
        same.run_with(&mut expected, |record, _| match record.epoch == best {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        })
        .unwrap();
        assert!(
            parameters(&failed) == parameters(&expected),
            "{name}, {best}"
        );

        // A session's caller decides: the visit again, or the end.
        let mut session = Session::new(&trainer, model()).unwrap();
        assert_eq!(session.run().unwrap_err(), error, "{name}");
        assert_eq!(session.report().history[..], report.history[..3], "{name}");
        assert!(session.epoch().is_err(), "{name}");
        session.stop();
        let ended = session.run().unwrap();
        assert_eq!(ended.stop, StopReason::Requested, "{name}");
        assert_eq!(ended.phases[0].best_epoch, Some(best), "{name}");
        let (ended, _) = session.finish();
        assert!(parameters(&ended) == parameters(&expected), "{name}");
    }
}

#[test]
fn the_best_epoch_is_restored_when_a_run_fails() {
    the_best_epoch_is_restored::<f64>();
    the_best_epoch_is_restored::<f32>();
}

/// A scheme, solver or layer that fails or panics in one of its calls.
#[derive(Debug)]
struct Bomb {
    at: u64,
    panics: bool,
    calls: AtomicU64,
}

impl Bomb {
    fn new(at: u64, panics: bool) -> Arc<Self> {
        let calls = AtomicU64::new(0);
        Arc::new(Self { at, panics, calls })
    }

    fn tick(&self) -> Result<(), Error> {
        if self.calls.fetch_add(1, Ordering::SeqCst) != self.at {
            return Ok(());
        }
        assert!(!self.panics, "a caller's bug");
        Err(Error::NoExamples { operation: "mine" })
    }
}

#[derive(Debug)]
struct OwnScheme<S>(S, Arc<Bomb>);

impl<T: Scalar, S: Scheme<T>> Scheme<T> for OwnScheme<S> {
    fn start(&self, model: &mut DecoupledCircuit<T>) -> Result<State<T>, Error> {
        self.0.start(model)
    }

    fn visit(&self, state: &mut State<T>, visit: &mut Visit<'_, T>) -> Result<T, Error> {
        visit.target_problem().target_mut(1).fill(T::of(0.3));
        self.1.tick()?;
        self.0.visit(state, visit)
    }
}

#[derive(Debug)]
struct OwnSolver(Arc<Bomb>);

impl<T: Scalar> TargetSolver<T> for OwnSolver {
    fn solve(
        &self,
        state: &mut State<T>,
        problem: &mut TargetProblem<'_, T>,
    ) -> Result<SolveReport, Error> {
        let report = ReverseSweep::new(1).solve(state, problem)?;
        self.0.tick()?;
        Ok(report)
    }
}

#[derive(Debug)]
struct OwnParameterSolver(Arc<Bomb>);

impl<T: Scalar> ParameterSolver<T> for OwnParameterSolver {
    fn check(&self, _: &LocalProblem<'_, T>) -> Result<(), Error> {
        Ok(())
    }

    fn solve(
        &self,
        _: &mut State<T>,
        _: &LocalProblem<'_, T>,
        _: &mut LocalWorkspace<T>,
        parameters: &mut [T],
    ) -> Result<ParameterReport, Error> {
        parameters.iter_mut().for_each(|p| *p *= T::of(0.99));
        self.0.tick()?;
        Ok(ParameterReport::default())
    }
}

#[derive(Debug)]
struct OwnRule(Arc<Bomb>);

impl<T: Scalar> Optimizer<T> for OwnRule {
    fn slots(&self) -> usize {
        0
    }

    fn update(&self, step: Step, values: &mut [T], gradient: &[T], state: &mut [T]) {
        GradientDescent::new(0.05)
            .unwrap()
            .update(step, values, gradient, state);
        if self.0.tick().is_err() {
            values.fill(T::zero() / T::zero());
        }
    }
}

/// The layer's `forward` or `vjp` ticks.
#[derive(Debug)]
struct OwnLayer(Dense, Arc<Bomb>, bool);

impl Layer<f64> for OwnLayer {
    described_by!(0: f64);

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
        if self.2 && self.1.tick().is_err() {
            output.fill(f64::NAN);
        }
    }

    fn vjp(
        &self,
        at: &Point<'_, f64>,
        cotangent: &[f64],
        d_input: Write<'_, f64>,
        mut d_parameters: Write<'_, f64>,
        work: &mut [f64],
    ) {
        let bad = !self.2 && self.1.tick().is_err();
        self.0
            .vjp(at, cotangent, d_input, d_parameters.part(0..12), work);
        if let (true, Write::Set(d)) = (bad, d_parameters) {
            d.fill(f64::NAN);
        }
    }

    fn jvp(
        &self,
        at: &Point<'_, f64>,
        v_input: Option<&[f64]>,
        v_parameters: Option<&[f64]>,
        tangent: &mut [f64],
        work: &mut [f64],
    ) {
        self.0.jvp(at, v_input, v_parameters, tangent, work);
    }

    fn curvature_bound(&self, parameters: &[f64], work: &mut [f64]) -> Option<f64> {
        self.0.curvature_bound(parameters, work)
    }
}

#[derive(Debug)]
struct OwnLoss(Arc<Bomb>);

impl Loss<f64> for OwnLoss {
    fn evaluate(
        &self,
        at: &Pair<'_, f64>,
        values: &mut [f64],
        d_target: Write<'_, f64>,
        d_prediction: Write<'_, f64>,
        work: &mut [f64],
    ) {
        SquaredError.evaluate(at, values, d_target, d_prediction, work);
        if self.0.tick().is_err() {
            values.fill(f64::NAN);
        }
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

    fn curvature_bound(&self, parameters: &[f64]) -> Option<f64> {
        Loss::<f64>::curvature_bound(&SquaredError, parameters)
    }
}

/// A model and a trainer in which one part is a caller's own.
fn own(part: &str, bomb: &Arc<Bomb>) -> (DecoupledCircuit<f64>, Trainer<f64>) {
    let tame = Bomb::new(u64::MAX, false);
    let of = |name: &str| match part == name {
        true => bomb.clone(),
        false => tame.clone(),
    };
    let inner = Dense::new(2, 4, Activation::Tanh).unwrap();
    let (layer, passes) = match part {
        "vjp" => (of("vjp"), false),
        _ => (of("forward"), true),
    };
    let circuit = Circuit::builder()
        .layer(OwnLayer(inner, layer, passes))
        .layer(Dense::new(4, 3, Activation::Tanh).unwrap())
        .layer(Dense::new(3, 1, Activation::Identity).unwrap())
        .seed(6);
    let energy = Energy::new(OwnLoss(of("loss")));
    let mut model = DecoupledCircuit::new(circuit.build().unwrap(), energy).unwrap();
    model
        .add_examples(
            &wave(2, 12, 0.7),
            &wave(1, 12, 1.1),
            &TargetInit::Projected { seed: 1 },
        )
        .unwrap();
    let scheme: Arc<dyn Scheme<f64>> = match part {
        "joint" => Arc::new(Decoupling::joint(OwnRule(of("joint")))),
        _ => Arc::new(OwnScheme(
            Decoupling::persistent(OwnSolver(of("solver"))),
            of("scheme"),
        )),
    };
    let w_step = match part {
        "parameter solver" => WStep::solver(OwnParameterSolver(of(part))),
        _ => WStep::optimizer(OwnRule(of("rule"))),
    };
    let phase = Phase::with_w_step(scheme, w_step).unwrap().with_epochs(3);
    (model, validated(phase))
}

fn bits(model: &DecoupledCircuit<f64>) -> Vec<u64> {
    let mut values = model.terms().penalties().to_vec();
    for t in 0..model.circuit().depth() {
        values.extend(model.circuit().parameters(t));
        values.extend(model.z(t).unwrap().iter());
    }
    values.into_iter().map(f64::to_bits).collect()
}

fn untimed(mut report: TrainingReport<f64>) -> TrainingReport<f64> {
    report.seconds = 0.0;
    report
}

const PARTS: [&str; 8] = [
    "scheme",
    "solver",
    "parameter solver",
    "rule",
    "joint",
    "forward",
    "vjp",
    "loss",
];

/// Wherever a caller's own code fails or panics, the session stands where the last event left it, and goes
/// on to the end of a run that nothing disturbed.
#[test]
fn a_session_stands_where_the_last_event_left_it() {
    for panics in [false, true] {
        for part in PARTS {
            let whole = |bomb: Arc<Bomb>| {
                let (model, trainer) = own(part, &bomb);
                let first = bomb.calls.load(Ordering::SeqCst);
                let mut session = Session::new(&trainer, model).unwrap();
                session.run().unwrap();
                let calls = first..bomb.calls.load(Ordering::SeqCst);
                (session.finish(), calls)
            };
            let ((expected, report), calls) = whole(Bomb::new(u64::MAX, panics));
            let step = (calls.clone().count() / 7).max(1);
            let mut all = 0;
            for at in calls.step_by(step) {
                let (model, trainer) = own(part, &Bomb::new(at, panics));
                let mut session = Session::new(&trainer, model).unwrap();
                let mut disturbed = 0;
                loop {
                    let before = (bits(session.model()), untimed(session.report()));
                    let advanced = catch_unwind(AssertUnwindSafe(|| session.advance()));
                    match advanced {
                        Ok(Ok(None)) => break,
                        Ok(Ok(Some(_))) => continue,
                        Ok(Err(_)) => assert!(!panics, "{part} {at}"),
                        Err(_) => assert!(panics, "{part} {at}"),
                    }
                    disturbed += 1;
                    let after = (bits(session.model()), untimed(session.report()));
                    assert!(before == after, "{part}, {at}, {panics}");
                }
                all += disturbed;
                if disturbed == 0 {
                    // It is no error, but stands in the record, where a measurement is not a number, or
                    // a Z-step is drawn back since the E behind it is none; or it changed nothing.
                    let undrawn = |own: &EpochRecord<f64>| own.solved.map(|own| own.drawn_back);
                    let told = |(own, sound): (&EpochRecord<f64>, _)| {
                        let measured = [own.composed_loss, own.validation_loss, own.gap];
                        measured.into_iter().flatten().any(f64::is_nan)
                            || undrawn(own) > undrawn(sound)
                    };
                    let mut records = session.history().iter().zip(&report.history);
                    let same = bits(session.model()) == bits(&expected);
                    assert!(!panics && (same || records.any(told)), "{part}, {at}");
                    continue;
                }
                let (model, own) = session.finish();
                assert!(bits(&model) == bits(&expected), "{part}, {at}, {panics}");
                assert_eq!(untimed(own), untimed(report.clone()), "{part}, {at}");
            }
            assert!(all >= 2, "{part}: {all}");
        }
    }
}

/// The trainer returns the model whatever happens, and with the best epoch's parameters.
#[test]
fn a_panic_returns_the_model_to_its_owner() {
    for threads in [1, 2] {
        for part in PARTS {
            let bomb = Bomb::new(u64::MAX, true);
            let (mut model, trainer) = own(part, &bomb);
            let first = bomb.calls.load(Ordering::SeqCst);
            trainer.run(&mut model).unwrap();
            let last = bomb.calls.load(Ordering::SeqCst) - 1;
            for at in [first, (first + last) / 2, last] {
                let (mut model, trainer) = own(part, &Bomb::new(at, true));
                let trainer = match cfg!(feature = "rayon") {
                    true => trainer.with_threads(threads).unwrap(),
                    false => trainer,
                };
                let z = model.z(0).unwrap().into_owned();
                let run = catch_unwind(AssertUnwindSafe(|| trainer.run(&mut model)));
                assert!(run.is_err(), "{part}, {at}");
                assert_eq!(model.z(0).unwrap(), z, "{part}");
                assert!(model.composed_loss().unwrap().is_finite(), "{part}");
                if part == "forward" || part == "loss" {
                    // It may have been a measurement, which a session makes again.
                    continue;
                }
                let (start, trainer) = own(part, &Bomb::new(at, true));
                let mut session = Session::new(&trainer, start).unwrap();
                let run = catch_unwind(AssertUnwindSafe(|| session.run().map(|_| ())));
                assert!(run.is_err(), "{part}, {at}");
                session.stop();
                session.run().unwrap();
                assert!(
                    parameters(session.model()) == parameters(&model),
                    "{part}, {at}"
                );
            }
        }
    }
}

#[test]
fn a_panic_in_a_callback_leaves_the_epoch_before() {
    let trainer = validated(Phase::new(
        Decoupling::persistent(ReverseSweep::new(1)),
        Explodes(90),
    ));
    let mut own = model::<f64>();
    let run = catch_unwind(AssertUnwindSafe(|| {
        trainer.run_with(&mut own, |record, _| {
            assert!(record.epoch < 3, "a caller's bug");
            ControlFlow::Continue(())
        })
    }));
    assert!(run.is_err());
    let mut session = Session::new(&trainer, model()).unwrap();
    for _ in 0..3 {
        session.epoch().unwrap();
    }
    assert_eq!(own.z(1).unwrap(), session.model().z(1).unwrap());
    let best = session.history().iter().min_by(|a, b| {
        let of = |own: Option<f64>| own.unwrap();
        of(a.validation_loss).total_cmp(&of(b.validation_loss))
    });
    if best.unwrap().epoch == 3 {
        assert_eq!(bits(&own), bits(session.model()));
    }
}

#[test]
fn an_error_before_the_run_reports_that_nothing_was_done() {
    let circuit = Circuit::<f64>::builder().layer(Dense::new(1, 1, Activation::Tanh).unwrap());
    let mut empty = DecoupledCircuit::new(circuit.build().unwrap(), Energy::default()).unwrap();
    let trainer = Trainer::new(Phase::new(Backprop, Explodes(1)));
    let RunError { error, report } = trainer.run(&mut empty).unwrap_err();
    assert_eq!(error, trainer.check(&empty).unwrap_err());
    assert!(report.history.is_empty() && report.phases.is_empty());
    assert_eq!((report.steps, report.stop), (0, StopReason::Failed));
    assert_eq!(empty.circuit().depth(), 1);
}

#[test]
fn a_run_error_is_passed_on_as_an_error() {
    fn run() -> Result<(), Error> {
        Trainer::new(Phase::new(Backprop, Explodes(1))).run(&mut model::<f64>())?;
        Ok(())
    }
    fn boxed() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Trainer::new(Phase::new(Backprop, Explodes(1))).run(&mut model::<f32>())?;
        Ok(())
    }
    let error = run().unwrap_err();
    assert!(matches!(error, Error::NonFinite { .. }), "{error}");
    assert_eq!(boxed().unwrap_err().to_string(), error.to_string());
    assert!(size_of::<RunError<f64>>() <= size_of::<Error>() + size_of::<usize>());
    assert!(size_of::<Error>() <= 128);
}

/// Layers that each multiply by `factor`, with targets of 1: E is far from overflowing where the
/// composed loss overflows.
fn steep<T: Scalar>(factor: f64) -> DecoupledCircuit<T> {
    let layer = || Dense::new(1, 1, Activation::Identity).unwrap();
    let circuit = Circuit::builder()
        .layer(layer())
        .layer(layer())
        .layer(layer());
    let mut model = DecoupledCircuit::new(circuit.build().unwrap(), Energy::default()).unwrap();
    for t in 0..3 {
        model
            .set_parameters(t, &[T::of(factor), T::zero()])
            .unwrap();
    }
    let ones = DMatrix::from_element(1, 4, T::one());
    let given = TargetInit::Given(vec![ones.clone(); 2]);
    model.add_examples(&ones, &ones, &given).unwrap();
    model
}

fn a_composed_loss_that_overflows<T: Scalar>(factor: f64, rate: f64) {
    let descent = || GradientDescent::new(rate).unwrap();
    let run = |scheme: Arc<dyn Scheme<T>>| {
        let phase = Phase::new(scheme, descent()).with_epochs(2);
        Trainer::new(phase).run(&mut steep::<T>(factor))
    };
    let still = || SynchronousDescent::new(0, StepSize::Fixed(rate)).unwrap();
    // Where no visit computes the loss, it is a value of the record, and told.
    let schemes: [&dyn Fn() -> Arc<dyn Scheme<T>>; 2] =
        [&|| Arc::new(Decoupling::joint(descent())), &|| {
            Arc::new(Decoupling::persistent(still()))
        }];
    for scheme in schemes {
        let report = run(scheme()).unwrap();
        for record in &report.history {
            assert!(record.objective.is_finite());
            assert_eq!(record.composed_loss, Some(T::of(f64::INFINITY)));
            let worse = |own: &Warning| {
                matches!(
                    own,
                    Warning::Worse {
                        loss: f64::INFINITY,
                        ..
                    }
                )
            };
            assert!(record.warnings.iter().any(worse), "{:?}", record.warnings);
        }
    }
    // A visit that computes it is not made.
    let schemes: [&dyn Fn() -> Arc<dyn Scheme<T>>; 2] = [&|| Arc::new(Backprop), &|| {
        Arc::new(Decoupling::refreshed(still()))
    }];
    for scheme in schemes {
        let error = run(scheme()).unwrap_err().error;
        assert!(matches!(error, Error::NonFinite { step: 0, .. }), "{error}");
    }
}

#[test]
fn a_composed_loss_that_overflows_is_a_value_unless_a_visit_computes_it() {
    a_composed_loss_that_overflows::<f64>(1e60, 1e-130);
    a_composed_loss_that_overflows::<f32>(1e14, 1e-35);
}

/// Validation inputs that overflow in the first layer; the second adds ∞ and `sign` ∞.
fn a_validation_loss_without_value<T: Scalar>(scheme: Arc<dyn Scheme<T>>, sign: f64) {
    let dense = |i, o| Dense::new(i, o, Activation::Identity).unwrap();
    let circuit = Circuit::<T>::builder()
        .layer(dense(1, 2))
        .layer(dense(2, 1));
    let mut model = DecoupledCircuit::new(circuit.build().unwrap(), Energy::default()).unwrap();
    let numbers = |values: &[f64]| values.iter().map(|&v| T::of(v)).collect::<Vec<T>>();
    model
        .set_parameters(0, &numbers(&[9.0, 9.0, 0.0, 0.0]))
        .unwrap();
    model
        .set_parameters(1, &numbers(&[1.0, sign, 0.0]))
        .unwrap();
    let one = DMatrix::from_element(1, 3, T::one());
    model
        .add_examples(&one, &one, &TargetInit::ForwardPass)
        .unwrap();
    let far = DMatrix::from_element(1, 2, T::max_value().unwrap());
    let phase = Phase::new(scheme, GradientDescent::new(1e-3).unwrap()).with_epochs(2);
    let trainer = Trainer::new(phase.with_batch_size(1).unwrap())
        .with_validation(far.clone(), far)
        .with_metric(|_, _| panic!("there is nothing to measure"));
    let result = trainer.run(&mut model.clone());
    if sign > 0.0 {
        let report = result.unwrap();
        for record in &report.history {
            let infinite = Some(T::of(f64::INFINITY));
            assert_eq!((record.validation_loss, record.metric), (infinite, None));
        }
        return;
    }
    let expected = Error::NonFinite {
        quantity: Quantity::ValidationLoss,
        layer: 1,
        step: 3,
    };
    let RunError { error, report } = result.unwrap_err();
    assert_eq!(error, expected);
    assert_eq!((report.history.len(), report.stop), (1, StopReason::Failed));
    // A session can be closed after it.
    let mut session = Session::new(&trainer, model).unwrap();
    assert_eq!(session.run().unwrap_err(), expected);
    assert_eq!(session.advance().unwrap_err(), expected);
    session.stop();
    let report = session.run().unwrap();
    assert_eq!((report.stop, report.steps), (StopReason::Requested, 3));
    assert_eq!(report.history[0].validation_loss, None);
}

/// The end of a phase computes what made its visits fail.
#[test]
fn a_run_that_failed_can_be_stopped() {
    let identity = |input, output| Dense::new(input, output, Activation::Identity).unwrap();
    let mut builder = Circuit::<f32>::builder().layer(identity(2, 3)).seed(1);
    for _ in 0..4 {
        builder = builder.layer(identity(3, 3));
    }
    let circuit = builder.layer(identity(3, 1)).build().unwrap();
    let mut model = DecoupledCircuit::new(circuit, Energy::default()).unwrap();
    let x = DMatrix::from_fn(2, 6, |i, j| (i + j) as f32 * 0.1);
    let y = DMatrix::from_fn(1, 6, |_, j| j as f32 * 0.1);
    model
        .add_examples(&x, &y, &TargetInit::ForwardPass)
        .unwrap();
    let rule = || GradientDescent::new(100.0).unwrap();
    for phase in [
        Phase::new(ZIl, rule()),
        Phase::new(FixedPrediction::new(), rule()),
    ] {
        let trainer = Trainer::new(phase.with_epochs(5));
        let mut session = Session::new(&trainer, model.clone()).unwrap();
        let mut errors = 0;
        while !session.is_over() {
            if session.advance().is_err() {
                errors += 1;
                session.stop();
            }
            assert!(errors < 3, "it cannot be stopped");
        }
        assert!(errors > 0);
        // The end of the phase fails too, and the report says so.
        assert_eq!(session.report().failures.len(), 1);
    }
}

/// Nothing fails until the scheme is to end its phase, which has ended for its own reason.
#[test]
fn a_run_whose_phase_cannot_be_finished_can_be_stopped() {
    let mut builder = Circuit::<f64>::builder();
    for _ in 0..3 {
        builder = builder.layer(Dense::new(1, 1, Activation::Identity).unwrap());
    }
    let mut circuit = builder.build().unwrap();
    for t in 0..3 {
        circuit.set_parameters(t, &[1.0, 0.0]).unwrap();
    }
    let mut model = DecoupledCircuit::new(circuit, Energy::default()).unwrap();
    let column = |value| DMatrix::from_element(1, 2, value);
    let init = TargetInit::ForwardPass;
    model
        .add_examples(&column(1.0), &column(3.0), &init)
        .unwrap();
    let rule = |rate| GradientDescent::new(rate).unwrap();
    let objective = Stopping::Objective { at_most: 1e9 };
    let second = Phase::new(Backprop, rule(0.1));
    for (phase, own) in [
        (presets::z_il(rule(1e200)), StopReason::Epochs),
        (presets::z_il(rule(1e200)), StopReason::Objective),
        (presets::fixed_prediction(rule(1e200)), StopReason::Epochs),
    ] {
        let phase = match own {
            StopReason::Objective => phase.with_epochs(9).with_stopping(objective).unwrap(),
            _ => phase.with_epochs(1),
        };
        let trainer = Trainer::new(phase).then(second.clone());
        let flag = Arc::new(AtomicBool::new(false));
        let trainer = trainer.with_stop_flag(flag.clone());
        for by_flag in [false, true] {
            flag.store(false, Ordering::Relaxed);
            let mut session = Session::new(&trainer, model.clone()).unwrap();
            let error = session.run().unwrap_err();
            assert_eq!(session.history().len(), 1);
            // Until it is stopped, it is tried again.
            assert_eq!(session.run().unwrap_err(), error);
            match by_flag {
                true => flag.store(true, Ordering::Relaxed),
                false => session.stop(),
            }
            let report = session.run().unwrap();
            assert!(session.is_over());
            assert_eq!(report.stop, StopReason::Requested);
            assert_eq!((report.phases.len(), report.phases[0].epochs), (1, 1));
            let told: Vec<_> = report.failures.iter().map(|own| &own.message).collect();
            assert_eq!(told, [&error.to_string()]);
        }
    }
}

fn validation_losses_without_value<T: Scalar>() {
    for sign in [1.0, -1.0] {
        a_validation_loss_without_value::<T>(Arc::new(Backprop), sign);
        let sweep = || ReverseSweep::new(1);
        a_validation_loss_without_value::<T>(Arc::new(Decoupling::persistent(sweep())), sign);
        a_validation_loss_without_value::<T>(Arc::new(Decoupling::refreshed(sweep())), sign);
        let rule = GradientDescent::new(1e-3).unwrap();
        a_validation_loss_without_value::<T>(Arc::new(Decoupling::joint(rule)), sign);
    }
}

#[test]
fn a_validation_loss_may_be_infinite_but_must_be_a_number() {
    validation_losses_without_value::<f64>();
    validation_losses_without_value::<f32>();
}
