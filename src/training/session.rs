//! A run as a value: the model, the state, and the steps that advance them
//! (`docs/architecture.md` follows one minibatch through them).

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rand::seq::SliceRandom;

use super::accumulation::Draft;
use super::observer::{Observer, Progress, Saver};
use super::penalties::Penalties;
use super::phase::Phase;
use super::report::{
    CheckpointRecord, EpochRecord, Event, Failure, PhaseReport, StopReason, TrainingReport,
    VisitRecord, Warned, Warning,
};
use super::stopping::Tracker;
use super::trainer::Trainer;
use super::visit::{Statistics, Visit};
use super::w_step::{LayerStep, WState, WStep};
use crate::check::{at_least_one, check_computed, check_count, check_length, finite, not_negative};
use crate::circuit::{BLOCK, Circuit};
use crate::decoupled::examples::{Chosen, Working};
use crate::decoupled::{DecoupledCircuit, TargetUse};
use crate::energy::{Layers, Problem, Workspace};
use crate::error::{Error, Quantity};
use crate::init::{Purpose, generator};
use crate::kernel::{Activation, Execution, Scalar, Squares, quick_norm};
use crate::state::State;
use crate::target_solver::{Predictions, Relaxation, Relaxed, SurvivingError};

/// A training run that can be advanced by one visit, one epoch, one phase, or to the end.
///
/// It owns the model and all state of the run. [`Trainer::run`] is a short loop over it; your own
/// loop gives the same bits.
///
/// # Examples
/// A hand-written loop, with progress and a clean stop:
/// ```
/// use layerwise::prelude::*;
/// use layerwise::training::{Decoupling, Event, Session};
///
/// # let circuit = Circuit::<f64>::builder()
/// #     .layer(Dense::new(1, 8, Activation::Tanh)?)
/// #     .layer(Dense::new(8, 1, Activation::Identity)?)
/// #     .build()?;
/// # let x = DMatrix::from_fn(1, 40, |_, j| j as f64 / 20.0 - 1.0);
/// # let mut model = DecoupledCircuit::new(circuit, Energy::default())?;
/// # model.add_examples(&x, &x.map(|x| x * x), &TargetInit::ForwardPass)?;
/// let scheme = Decoupling::refreshed(ReverseSweep::new(1));
/// let trainer = Trainer::new(Phase::new(scheme, Adam::new(1e-2)?).with_epochs(50));
/// let mut session = Session::new(&trainer, model)?;
/// while let Some(event) = session.advance()? {
///     if let Event::Epoch(record) = event {
///         println!("epoch {}: loss {:?}", record.epoch, record.composed_loss);
///         if record.composed_loss.is_some_and(|loss| loss < 1e-3) {
///             session.stop();
///         }
///     }
/// }
/// let (model, report) = session.finish();
/// # assert!(report.steps > 0 && model.examples().len() == 40);
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug)]
pub struct Session<T: Scalar> {
    trainer: Trainer<T>,
    model: DecoupledCircuit<T>,
    state: SessionState<T>,
    memory: Memory<T>,
    clock: Clock,
    execution: Execution,
    observers: Vec<Box<dyn Observer<T>>>,
    saving: Option<Saving<T>>,
    failures: Vec<Failure>,
    finish: Finish,
    /// Whether a failure to save or to report ends the run with its error.
    lenient: bool,
    #[cfg(feature = "rayon")]
    pool: Option<rayon::ThreadPool>,
}

/// How far the scheme has come in finishing the phase in progress.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Finish {
    Due,
    /// It failed, and that error was returned.
    Failed,
    /// The run was then ended, for this reason: the phase is closed even if it fails again.
    Waived(StopReason),
}

/// When and where a run is saved.
#[derive(Debug)]
struct Saving<T: Scalar> {
    saver: Box<dyn Saver<T>>,
    /// Visits between checkpoints; at least 1.
    every: u64,
    /// The number of visits at the last checkpoint or, before it, when this began.
    saved: u64,
    /// Whether that checkpoint was of a phase that had reached its time limit.
    limited: bool,
    /// Whether the finished run is saved.
    finished: bool,
}

/// All state of a run except the model: what it keeps from visit to visit.
///
/// Two sessions with equal models, trainers and states continue identically.
#[doc(alias("save", "checkpoint"))]
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(
    feature = "serde",
    serde(bound(
        serialize = "T: Scalar + serde::Serialize",
        deserialize = "T: Scalar + serde::Deserialize<'de>"
    ))
)]
pub struct SessionState<T> {
    /// The phase in progress or the next, how many will be run, and how many the trainer has.
    phase: usize,
    end: usize,
    count: usize,
    /// Epochs begun, completed visits, and parameter steps completed in earlier phases.
    epoch: u64,
    visits: u64,
    steps: u64,
    /// The phase in progress, if one is.
    within: Option<Box<Within<T>>>,
    /// Whether a call to advance found nothing left to do.
    over: bool,
    /// Why the last phase ended.
    stop: StopReason,
    history: Vec<EpochRecord<T>>,
    warnings: Vec<Warned>,
    phases: Vec<PhaseReport>,
}

/// The state of a phase in progress.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct Within<T> {
    scheme: State<T>,
    w_step: WState<T>,
    penalties: Penalties<T>,
    tracker: Tracker<T>,
    /// Epochs begun before the phase.
    first_epoch: u64,
    /// A composed loss above this is worse than at the start of the phase; `None` if not measured.
    worse: Option<f64>,
    /// The epoch in progress, if one is.
    epoch: Option<Epoch>,
    /// Why the phase will end, once that is decided.
    stop: Option<StopReason>,
    /// The warnings of the run before those of an epoch that was broken off and has its record. It
    /// remains the epoch in progress until the phase is closed: a run that is saved meanwhile
    /// finishes it.
    broken_off: Option<Vec<Warned>>,
}

/// An epoch in progress: the position of its next batch, and the totals of its visits.
#[derive(Debug, Clone, PartialEq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct Epoch {
    /// Examples of the epoch.
    count: usize,
    /// Those visited, which come first in the epoch's order.
    examples: usize,
    /// The seed of that order; `None` for the order of the columns. A run that is resumed with
    /// another seed or batch size still finishes the epoch in this order.
    shuffle: Option<u64>,
    /// Visits of the phase so far.
    visits: u64,
    statistics: Statistics,
    factor: f64,
}

/// Working memory of visits; not part of the state.
#[derive(Debug)]
struct Memory<T> {
    /// The columns of the examples that are visited: those whose weight is not 0.
    visited: Vec<usize>,
    /// Their order in the epoch in progress, and which epoch that is.
    order: Vec<usize>,
    ordered: u64,
    workspace: Workspace<T>,
    working: Working<T>,
    penalties: Vec<T>,
    /// If μ is set by the share of the error.
    surviving: SurvivingError<T>,
    relaxation: Relaxation<T>,
    /// Squared, by hidden layer, if μ grows.
    gaps: Vec<Squares>,
    multipliers: Vec<Vec<T>>,
    steps: Vec<LayerStep<T>>,
    /// Which layers are frozen in the phase in progress.
    frozen: Vec<bool>,
}

#[derive(Debug)]
struct Clock {
    start: Instant,
    deadline: Option<Instant>,
    /// For the phase in progress.
    phase_deadline: Option<Instant>,
}

impl<T: Scalar> Session<T> {
    /// A new run of `trainer` on `model`.
    ///
    /// # Errors
    /// Those of [`Trainer::check`], which can be called first and does not take the model.
    pub fn new(trainer: &Trainer<T>, model: DecoupledCircuit<T>) -> Result<Self, Error> {
        trainer.check(&model)?;
        Ok(Self::begin(trainer, model))
    }

    /// A session that continues from `state`, as returned by [`Session::state`], with the model as
    /// it was then (its θ, targets, μ and example weights). If the phase in progress has a
    /// different stopping rule than before, that rule starts from scratch.
    ///
    /// # Errors
    /// Those of [`Session::new`], and [`Error::Length`] if the state is that of a run with a different number
    /// of phases, with a different number of epochs in a phase that has ended, or with a different model,
    /// optimiser or scheme, as far as its counts and the sizes of its arrays reveal this; or if the number of
    /// examples has changed in the middle of an epoch.
    #[doc(alias("load", "checkpoint"))]
    pub fn resume(
        trainer: &Trainer<T>,
        model: DecoupledCircuit<T>,
        mut state: SessionState<T>,
    ) -> Result<Self, Error> {
        let within = state.within.as_ref();
        let penalties = within.map_or(model.terms.penalties(), |own| own.penalties.first());
        trainer.check_from(state.phase, penalties, &model)?;
        let what = "phases of the trainer that resumes a run";
        check_length(what, &trainer.phases, state.count)?;
        state.check(&model)?;
        for (number, (phase, own)) in trainer.phases.iter().zip(&state.phases).enumerate() {
            // Otherwise the epochs that were added would be left out in silence.
            let whole = own.stop != StopReason::Epochs || phase.epochs == own.epochs;
            let (expected, found) = (own.epochs as usize, phase.epochs as usize);
            let what = format!("epochs of phase {number}, which has ended (add a phase to go on)");
            check_count(&what, whole, expected, found)?;
        }
        if let Some(within) = &mut state.within {
            let phase = &trainer.phases[state.phase];
            let w_step = phase.w_step.start(&model)?;
            let scheme = match phase.scheme.start(&mut model.clone()) {
                // Starting a scheme evaluates the model as it is now. If θ has grown so large that this
                // overflows, the next visit reports it.
                Err(Error::NonFinite { .. }) => within.scheme.clone(),
                started => started?,
            };
            within.check_pending(phase, state.epoch, model.examples.visited().len())?;
            let what = |part: &str| {
                format!(
                    "values in the state of phase {}'s {part} (was it saved with another scheme, solver, optimiser, accumulation or frozen layers?)",
                    state.phase
                )
            };
            let (own, fits) = (&within.w_step, within.w_step.fits(&w_step));
            check_count(&what("W-step"), fits, w_step.size(), own.size())?;
            let (own, fits) = (&within.scheme, within.scheme.fits(&scheme));
            check_count(&what("scheme"), fits, scheme.size(), own.size())?;
            within.w_step.follow(w_step);
        }
        let mut session = Self::begin(trainer, model);
        session.state = state;
        if let Some(within) = &mut session.state.within {
            let phase = &trainer.phases[session.state.phase];
            within.tracker.follow(phase.stopping);
            session.clock.phase_deadline = deadline(Instant::now(), phase.time_limit);
        }
        Ok(session)
    }

    pub(super) fn begin(trainer: &Trainer<T>, model: DecoupledCircuit<T>) -> Self {
        let (depth, start) = (model.circuit.depth(), Instant::now());
        Self {
            memory: Memory {
                order: Vec::with_capacity(model.examples().len()),
                visited: model.examples.visited(),
                ordered: 0,
                workspace: Workspace::new(),
                working: Working::new(depth),
                penalties: Vec::new(),
                surviving: SurvivingError::default(),
                relaxation: Relaxation::default(),
                gaps: Vec::with_capacity(depth - 1),
                multipliers: vec![Vec::new(); depth - 1],
                steps: (0..depth).map(|_| LayerStep::new()).collect(),
                frozen: Vec::with_capacity(depth),
            },
            model,
            state: SessionState {
                phase: 0,
                end: trainer.phases.len(),
                count: trainer.phases.len(),
                epoch: 0,
                visits: 0,
                steps: 0,
                within: None,
                over: false,
                stop: StopReason::Epochs,
                history: Vec::new(),
                warnings: Vec::new(),
                phases: Vec::new(),
            },
            clock: Clock {
                start,
                deadline: deadline(start, trainer.time_limit),
                phase_deadline: None,
            },
            execution: match trainer.threads {
                1 => Execution::Sequential,
                _ => trainer.execution,
            },
            observers: Vec::new(),
            saving: None,
            failures: Vec::new(),
            finish: Finish::Due,
            lenient: false,
            #[cfg(feature = "rayon")]
            pool: None,
            trainer: trainer.clone(),
        }
    }

    /// The model after the last event.
    pub fn model(&self) -> &DecoupledCircuit<T> {
        &self.model
    }

    pub(super) fn model_mut(&mut self) -> &mut DecoupledCircuit<T> {
        &mut self.model
    }

    /// The state after the last event.
    #[doc(alias("save", "checkpoint"))]
    pub fn state(&self) -> &SessionState<T> {
        &self.state
    }

    /// The options of the run.
    pub fn trainer(&self) -> &Trainer<T> {
        &self.trainer
    }

    /// Adds an observer. It receives every event, after the observers that were added before
    /// it.
    #[doc(alias("callback", "progress", "logging"))]
    pub fn observe(&mut self, observer: impl Observer<T> + 'static) {
        self.observers.push(Box::new(observer));
    }

    /// Lets `saver` save the run after every k-th visit of the run, k = `visits`, and at its end; a
    /// run that is stopped (by [`Session::stop`], the stop flag, its time limit or the callback) is
    /// saved as it was before its phase was closed, so that it can continue. The run is also saved
    /// when a phase reaches its own time limit; that phase is over when the run continues.
    ///
    /// With the feature `storage`, `Session::checkpoint_every` does this with a file.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for 0 visits.
    pub fn save_with(&mut self, visits: u64, saver: impl Saver<T> + 'static) -> Result<(), Error> {
        at_least_one("Session::save_with", visits)?;
        self.saving = Some(Saving {
            saver: Box::new(saver),
            every: visits,
            saved: self.state.visits,
            limited: false,
            finished: self.state.within.is_none() && self.state.phase == self.state.end,
        });
        Ok(())
    }

    /// Lets the run go on when a checkpoint cannot be saved or an observer fails: the error is then
    /// in the report ([`TrainingReport::failures`]). Otherwise it is returned by the method that
    /// advanced the run. Calling that again continues, and the next checkpoint is tried when it is
    /// due.
    pub fn continue_after_failures(&mut self) {
        self.lenient = true;
    }

    /// One record per epoch so far, or fewer as set by [`Trainer::with_history_every`].
    pub fn history(&self) -> &[EpochRecord<T>] {
        &self.state.history
    }

    /// Whether nothing is left to do.
    pub fn is_over(&self) -> bool {
        self.state.over
    }

    /// Returns the model and a report of the run so far.
    pub fn finish(self) -> (DecoupledCircuit<T>, TrainingReport<T>) {
        let report = self.report();
        (self.model, report)
    }

    /// A report of the run so far, also after an error. A phase in progress is reported as
    /// [`StopReason::InProgress`].
    pub fn report(&self) -> TrainingReport<T> {
        let (mut phases, mut stop) = (self.state.phases.clone(), self.state.stop);
        if !self.state.over && self.state.phase < self.state.end {
            stop = StopReason::InProgress;
        }
        if let Some(within) = self.state.within.as_deref()
            && within.epochs(self.state.epoch) > 0
        {
            phases.push(self.phase_report(within, stop, None));
        }
        TrainingReport {
            history: self.state.history.clone(),
            warnings: self.state.warnings.clone(),
            failures: self.failures.clone(),
            stop,
            phases,
            steps: self.steps(),
            seconds: self.clock.start.elapsed().as_secs_f64(),
        }
    }

    /// Parameter steps completed in the run.
    fn steps(&self) -> u64 {
        let within = self.state.within.as_ref();
        self.state.steps + within.map_or(0, |within| within.w_step.steps)
    }

    /// Ends the run, also after an error: no further visit is made, and the next events close the
    /// epoch and the phase in progress.
    pub fn stop(&mut self) {
        self.end(StopReason::Requested);
    }

    /// Ends a run after an error, without any further computation.
    pub(super) fn fail(&mut self) {
        self.end(StopReason::Failed);
        while let Ok(Some(_)) = self.step() {}
    }

    /// Restores the parameters of the best epoch of the phase in progress, if it keeps them.
    pub(super) fn put_best_back(&mut self) -> Option<u64> {
        let within = self.state.within.as_ref()?;
        within.tracker.put_best_back(&mut self.model.circuit)
    }

    pub(super) fn end(&mut self, reason: StopReason) {
        let state = &mut self.state;
        if let Some(within) = &mut state.within {
            // A phase that is to end anyway ends for its own reason.
            let failed = reason == StopReason::Failed;
            let own = within.stop.filter(|own| !own.interrupts() && !failed);
            within.stop = own.or(Some(reason));
            state.end = state.phase + 1;
            if self.finish == Finish::Failed {
                self.finish = Finish::Waived(reason);
            }
        } else if state.phase < state.end {
            (state.stop, state.end) = (reason, state.phase);
        }
    }

    /// Advances to the next event: a visit, the end of an epoch or of a phase, a checkpoint, and
    /// finally the end of the run. `None` when the run is over.
    ///
    /// # Errors
    /// Those of a checkpoint that cannot be saved and of observers
    /// (but see [`Session::continue_after_failures`]); those of a scheme or W-step that cannot start
    /// its phase; during a visit [`Error::NonFinite`]
    /// (its `step` counts the run's parameter steps) or a solver's error; after an epoch the same for
    /// a measured loss that is NaN; at the end of a phase those of [`Scheme::finish`], with the number of
    /// the next step; [`Error::ThreadPool`].
    /// Parameters are then those of the last completed step, and targets and μ those of the last
    /// completed visit. The same holds after a panic in your own code. An optimiser's state may
    /// already contain the failed step's gradient, but neither a solver's state nor a sum
    /// of [accumulated](WStep::with_accumulation) gradients contains anything of a step that
    /// failed. Multipliers and residuals contain a visit that failed only after its steps: when
    /// growing penalties were measured, or when streamed targets were written.
    /// Calling again retries the visit; calling
    /// [`Session::stop`] and then this closes the phase, with the parameters of its best epoch
    /// under [`Stopping::Validation`](crate::training::Stopping::Validation). If the scheme cannot
    /// finish it, that error is then in the report ([`TrainingReport::failures`]).
    ///
    /// [`Scheme::finish`]: crate::training::Scheme::finish
    pub fn advance(&mut self) -> Result<Option<Event<T>>, Error> {
        self.within(Self::observed_step)
    }

    /// Advances to the end of the current epoch, or of the next one if none is in progress. `None`
    /// when the run is over.
    ///
    /// # Errors
    /// Those of [`Session::advance`].
    pub fn epoch(&mut self) -> Result<Option<EpochRecord<T>>, Error> {
        self.find(|event| match event {
            Event::Epoch(record) => Some(record),
            _ => None,
        })
    }

    /// Advances to the end of the current phase, or of the next one if none is in progress. `None`
    /// when the run is over.
    ///
    /// # Errors
    /// Those of [`Session::advance`].
    pub fn finish_phase(&mut self) -> Result<Option<PhaseReport>, Error> {
        self.find(|event| match event {
            Event::Phase(report) => Some(report),
            _ => None,
        })
    }

    /// Advances to the next event that is `wanted`.
    fn find<R: Send>(&mut self, wanted: fn(Event<T>) -> Option<R>) -> Result<Option<R>, Error> {
        self.within(|session| {
            while let Some(event) = session.observed_step()? {
                if let Some(found) = wanted(event) {
                    return Ok(Some(found));
                }
            }
            Ok(None)
        })
    }

    /// Advances to the end of the run.
    ///
    /// # Errors
    /// Those of [`Session::advance`].
    pub fn run(&mut self) -> Result<TrainingReport<T>, Error> {
        while self.finish_phase()?.is_some() {}
        Ok(self.report())
    }

    /// Runs in the thread pool, which is entered once per call, not once per visit.
    pub(super) fn within<R: Send>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<R, Error> + Send,
    ) -> Result<R, Error> {
        #[cfg(feature = "rayon")]
        if self.trainer.threads > 1 {
            let pool = match self.pool.take() {
                Some(pool) => pool,
                None => self.start_pool()?,
            };
            let threads = self.trainer.threads;
            let result = blocking(&pool, threads, || work(self));
            self.pool = Some(pool);
            return result?;
        }
        work(self)
    }

    #[cfg(feature = "rayon")]
    fn start_pool(&self) -> Result<rayon::ThreadPool, Error> {
        // More threads than cores help only layers that wait for something else.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let most = cores.max(self.model.circuit.depth());
        let threads = self.trainer.threads;
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads.min(most))
            .build()
            .map_err(|e| thread_pool(threads, &e))
    }

    /// The next event, of which all observers have been told.
    fn observed_step(&mut self) -> Result<Option<Event<T>>, Error> {
        let event = self.step()?;
        let Some(told) = event.as_ref().filter(|_| !self.observers.is_empty()) else {
            return Ok(event);
        };
        let progress = self.state.progress(
            &self.trainer,
            &self.model,
            self.memory.visited.len(),
            &self.clock,
        );
        let mut failed = None;
        for observer in &mut self.observers {
            match observer.observe(told, &progress) {
                Ok(()) => {}
                Err(error) if self.lenient => {
                    let failure = Failure::new(self.state.visits, &error);
                    self.failures.push(failure);
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(event), Err)
    }

    /// Where the run stands.
    pub fn progress(&self) -> Progress<'_, T> {
        self.state.progress(
            &self.trainer,
            &self.model,
            self.memory.visited.len(),
            &self.clock,
        )
    }

    /// The next event.
    pub(super) fn step(&mut self) -> Result<Option<Event<T>>, Error> {
        loop {
            if self.state.over {
                return Ok(None);
            }
            if let Some(record) = self.checkpoint()? {
                return Ok(Some(Event::Checkpoint(record)));
            }
            let Some(within) = &mut self.state.within else {
                if self.state.phase == self.state.end {
                    self.state.over = true;
                    return Ok(Some(Event::Stop(self.state.stop)));
                }
                match self.clock.interruption(&self.trainer) {
                    None => self.begin_phase()?,
                    Some(reason) => self.end(reason),
                }
                continue;
            };
            match (&within.epoch, within.stop) {
                (None, None) => self.begin_epoch(),
                (epoch, Some(stop)) if epoch.is_none() || within.broken_off.is_some() => {
                    return self.end_phase(stop).map(|own| Some(Event::Phase(own)));
                }
                (Some(epoch), None) if epoch.examples < self.memory.visited.len() => {
                    match self.clock.interruption(&self.trainer) {
                        None => return self.visit().map(|record| Some(Event::Visit(record))),
                        interruption => within.stop = interruption,
                    }
                }
                _ => {
                    if let Some(record) = self.end_epoch()? {
                        return Ok(Some(Event::Epoch(record)));
                    }
                }
            }
        }
    }

    /// Saves the run if it is due, and says so.
    fn checkpoint(&mut self) -> Result<Option<CheckpointRecord>, Error> {
        let Some(saving) = &mut self.saving else {
            return Ok(None);
        };
        let state = &self.state;
        let stop = state.within.as_ref().and_then(|within| within.stop);
        let waived = matches!(self.finish, Finish::Waived(_));
        let interrupted = waived || stop.is_some_and(StopReason::interrupts);
        let limited = stop == Some(StopReason::PhaseTimeLimit);
        let (visits, new) = (state.visits, state.visits != saving.saved);
        let due = match state.within {
            // A limit must not be given again to a phase that has reached it.
            Some(_) if limited => new || !saving.limited,
            Some(_) => new && (interrupted || visits.is_multiple_of(saving.every)),
            // Once more at the end, unless the run is to continue from where it was stopped.
            None => {
                let last = new || !state.stop.interrupts();
                state.phase == state.end && !saving.finished && last
            }
        };
        if !due || stop.unwrap_or(state.stop) == StopReason::Failed {
            return Ok(None);
        }
        let start = Instant::now();
        let resumable = (interrupted || state.end != state.count).then(|| state.resumable());
        let state = resumable.as_ref().unwrap_or(state);
        let saved = saving.saver.save(&self.trainer, &self.model, state);
        // Also after a failure, so that the run can go on and be stopped.
        (saving.saved, saving.limited) = (visits, limited);
        saving.finished = self.state.within.is_none();
        if let (Err(error), false) = (&saved, self.lenient) {
            return Err(error.clone());
        }
        match saved {
            Ok(()) => Ok(Some(CheckpointRecord {
                visits,
                seconds: start.elapsed().as_secs_f64(),
            })),
            Err(error) => {
                self.failures.push(Failure::new(visits, &error));
                Ok(None)
            }
        }
    }

    fn begin_phase(&mut self) -> Result<(), Error> {
        let phase = &self.trainer.phases[self.state.phase];
        let began = Instant::now();
        let n = self.model.examples.visited().len();
        self.model.check_batch(phase.batch_size(n))?;
        let w_step = phase.w_step.start(&self.model)?;
        let scheme = phase.scheme.start(&mut self.model)?;
        // A scheme of the caller's may change the examples where a phase starts or ends.
        phase.check_targets(&self.model)?;
        self.memory.visited = self.model.examples.visited();
        let mut worse = None;
        let size = phase.batch_size(self.memory.visited.len());
        if self.trainer.measure_every != 0 && phase.epochs > 0 && size > 0 {
            let (n, last) = (self.memory.visited.len() as f64, w_step.layers.len() - 1);
            let (memory, mut terms) = (&mut self.memory, 0.0);
            let own = |problem: Problem<'_, T>, workspace: &mut Workspace<T>| {
                let size = problem.local(last).size(&mut workspace.locals[last]);
                terms += size.as_f64() / n;
            };
            let unused = TargetUse::None;
            let start = measure(&self.model, size, unused, memory, self.execution, own)?;
            // A loss that begins at its minimum changes by rounding alone.
            let rounding = T::default_epsilon().as_f64() * terms;
            let limit = (start.loss + start.magnitude).max(rounding);
            worse = Some(limit).filter(|worse| worse.is_finite());
        }
        self.clock.phase_deadline = deadline(began, phase.time_limit);
        self.state.within = Some(Box::new(Within {
            scheme,
            w_step,
            penalties: Penalties::new(self.model.terms.penalties()),
            tracker: Tracker::new(),
            first_epoch: self.state.epoch,
            worse,
            epoch: None,
            stop: None,
            broken_off: None,
        }));
        Ok(())
    }

    fn begin_epoch(&mut self) {
        let Some(within) = &mut self.state.within else {
            unreachable!("an epoch is part of a phase")
        };
        let phase = &self.trainer.phases[self.state.phase];
        let done = self.state.epoch - within.first_epoch;
        if done >= phase.epochs {
            within.stop = Some(StopReason::Epochs);
            return;
        }
        self.state.epoch += 1;
        self.memory.working.forget_next();
        for own in &mut within.w_step.layers {
            own.motion.begin_epoch();
            own.target.begin_epoch();
        }
        let n = self.memory.visited.len();
        let shuffled = phase.batch_size(n) < n;
        within.epoch = Some(Epoch {
            shuffle: shuffled.then_some(self.trainer.seed),
            visits: done * phase.batches(n),
            count: n,
            ..Epoch::default()
        });
    }

    /// One minibatch: its examples, the scheme's visit, and the commit of its targets.
    fn visit(&mut self) -> Result<VisitRecord<T>, Error> {
        let done = self.steps();
        let Self {
            trainer,
            model,
            state,
            memory,
            ..
        } = self;
        let Some(Within {
            scheme: scheme_state,
            w_step: w_state,
            penalties,
            epoch: Some(epoch),
            ..
        }) = state.within.as_deref_mut()
        else {
            unreachable!("a visit is part of an epoch")
        };
        let phase = &trainer.phases[state.phase];
        let DecoupledCircuit {
            circuit,
            terms,
            examples,
        } = model;

        // The batch: the next examples in the epoch's order.
        let n = memory.visited.len();
        let size = phase.batch_size(n);
        memory.put_in_order(state.epoch, epoch.shuffle);
        let columns = &memory.order[epoch.examples..(epoch.examples + size).min(n)];
        let chosen = match columns.len() == examples.len() {
            true => Chosen::Run(0..n),
            false => Chosen::Scattered(columns.into()),
        };
        let targets = phase.scheme.targets();
        let following = epoch.examples + columns.len();
        let next = &memory.order[following..(following + size).min(n)];
        let mut batch =
            memory
                .working
                .lend_before(next, examples, &chosen, state.visits, targets)?;
        batch.base.execution = self.execution.repaid(circuit.work(columns.len()));

        // The values of the schedules and rules.
        let number = (epoch.visits, phase.epochs.saturating_mul(phase.batches(n)));
        let rule = phase.penalty_rule();
        memory.penalties.clear();
        let penalties_now = penalties.of_visit(rule, number.0, number.1);
        memory.penalties.extend_from_slice(penalties_now);
        let first = Layers::new(circuit, terms).at_penalties(penalties.first());
        rule.share(
            number.0,
            first.on(batch.view()),
            &mut memory.workspace,
            &mut memory.surviving,
            &mut memory.penalties,
        )
        .map_err(|error| at_step(error, done))?;
        let factor = phase.schedule.factor(number.0, number.1);

        // The visit: targets move in `batch`, parameters in `circuit`.
        memory.frozen.clear();
        let layers = w_state.layers.iter();
        memory.frozen.extend(layers.map(|own| own.frozen));
        let mut draft = Draft::new(epoch.examples + columns.len() == n);
        let before = w_state.steps;
        let mut statistics = epoch.statistics.clone();
        let every = trainer.measure_every;
        let measures = trainer.measures_relaxation && state.epoch.is_multiple_of(every);
        let relaxation = measures.then_some(&mut memory.relaxation);
        let mut visit = Visit {
            circuit,
            terms,
            penalties: &memory.penalties,
            batch,
            columns,
            multipliers: &mut memory.multipliers,
            multiplied: 0,
            predictions: Predictions::None,
            workspace: &mut memory.workspace,
            w_step: &phase.w_step,
            w_state,
            steps: &mut memory.steps,
            draft: &mut draft,
            frozen: &memory.frozen,
            statistics: &mut statistics,
            relaxation,
            factor,
            number,
        };
        let visited = phase.scheme.visit(scheme_state, &mut visit);
        let completed = done + visit.w_state.steps - before;
        let objective = visited.map_err(|error| at_step(error, completed))?;
        let Visit {
            circuit,
            batch,
            workspace,
            penalties: now,
            ..
        } = visit;
        if targets == TargetUse::Kept {
            batch.check(completed)?;
        }
        let problem = Layers::new(circuit, terms)
            .at_penalties(now)
            .on(batch.view());
        rule.measure(problem, workspace, &mut memory.gaps)
            .map_err(|error| at_step(error, completed))?;

        // The results.
        if targets == TargetUse::Kept {
            memory.working.commit(examples, &chosen)?;
        }
        let count = columns.len();
        terms.put_penalties(&memory.penalties);
        penalties.pass(rule, &memory.penalties, &memory.gaps, count);
        draft.keep(w_state, &mut memory.steps);
        statistics.objective += objective.as_f64() / unit(n);
        epoch.statistics = statistics;
        epoch.factor = factor;
        epoch.examples += count;
        epoch.visits += 1;
        state.visits += 1;
        Ok(VisitRecord {
            phase: state.phase,
            epoch: state.epoch,
            visit: state.visits,
            examples: count,
            objective,
        })
    }

    /// What is to be measured after an epoch: on the examples if `due`, on those for validation if
    /// `validates`. A loss may be ∞, but not NaN.
    fn measurements(&mut self, due: bool, validates: bool) -> Result<Measurements<T>, Error> {
        let (last, steps) = (self.model.circuit.depth() - 1, self.steps());
        let number = |quantity, value: f64| match value.is_nan() {
            true => check_computed(quantity, last, steps, &[value]).map(|()| T::zero()),
            false => Ok(T::of(value)),
        };
        let mut all = Measurements::none();
        if due {
            let phase = &self.trainer.phases[self.state.phase];
            let size = phase.batch_size(self.memory.visited.len());
            let targets = match phase.scheme.targets() {
                TargetUse::Kept => TargetUse::Kept,
                TargetUse::Transient | TargetUse::None => TargetUse::None,
            };
            let (memory, mut squares) = (&mut self.memory, None);
            let gap = |problem: Problem<'_, T>, workspace: &mut Workspace<T>| {
                if targets == TargetUse::Kept {
                    let squares = squares.get_or_insert(Squares::zero());
                    problem.predict_locally(workspace);
                    for (t, local) in (1..=last).zip(&workspace.locals) {
                        squares.add_distance(problem.batch().z(t), &local.prediction);
                    }
                }
            };
            let own = measure(&self.model, size, targets, memory, self.execution, gap)?;
            all.composed_loss = Some(number(Quantity::ComposedLoss, own.loss)?);
            let n = self.memory.visited.len() as f64;
            all.gap = squares.map(|squares| T::of(squares.root_mean(n)));
        }
        if let (true, Some(validation)) = (validates, self.trainer.validation.as_deref()) {
            // The examples were checked before the run, but a loss or layer of the caller's may
            // change its mind.
            let (inputs, targets) = validation;
            let loss = self.model.layers().mean_composed_loss(inputs, targets)?;
            let loss = number(Quantity::ValidationLoss, loss)?;
            all.validation_loss = Some(loss);
            if let Some(metric) = self.trainer.metric.as_ref().filter(|_| loss.is_finite()) {
                all.metric = Some(metric.measure(&self.model, inputs, targets)?);
            }
        }
        Ok(all)
    }

    /// The record of an epoch, with the measurements that are due, unless the epoch was
    /// interrupted; `None` for an epoch without visits.
    fn end_epoch(&mut self) -> Result<Option<EpochRecord<T>>, Error> {
        let steps = self.steps();
        let Some(within) = &mut self.state.within else {
            return Ok(None);
        };
        let (Some(epoch), interrupted) = (within.epoch.clone(), within.stop) else {
            return Ok(None);
        };
        if epoch.examples == 0 {
            // It never began: the next epoch may take its number, with a different order.
            within.epoch = None;
            self.state.epoch -= 1;
            self.memory.ordered = 0;
            self.close(Some(interrupted.unwrap_or(StopReason::Epochs)));
            return Ok(None);
        }
        let (number, every) = (self.state.epoch, self.trainer.measure_every);
        // Nothing is measured once a measurement has failed.
        let whole =
            epoch.examples == self.memory.visited.len() && interrupted != Some(StopReason::Failed);
        let due = whole && every != 0 && number.is_multiple_of(every);
        let validates = self.trainer.phases[self.state.phase].validates();
        let (measured, complete) = match self.measurements(due, due || validates && whole) {
            // A run that was stopped, perhaps for this error, must be able to end.
            Err(_) if interrupted.is_some() => (Measurements::none(), false),
            measured => (measured?, whole),
        };
        let phase = &self.trainer.phases[self.state.phase];
        let Some(within) = &mut self.state.within else {
            return Ok(None);
        };
        let (circuit, w_state) = (&self.model.circuit, &within.w_step);
        let mut told = warnings(&phase.w_step, w_state, circuit, &epoch.statistics);
        // As above.
        let unless = |error| interrupted.map_or(Err(error), |_| Ok(None));
        if number == within.first_epoch + 1 {
            let Memory {
                visited,
                working,
                workspace,
                ..
            } = &mut self.memory;
            let mixes = mixing(&self.model, visited, working, workspace);
            let mixes = mixes.map(|found| found.map(|layer| Warning::Mixes { layer }));
            told.extend(mixes.or_else(unless)?);
            told.extend(squashed(&self.model));
        }
        if number == 1 {
            let Memory {
                visited, working, ..
            } = &mut self.memory;
            // In batches that there is memory for.
            let size = phase.batch_size(visited.len()).clamp(1, BLOCK);
            told.extend(unscaled(&self.model, visited.chunks(size), working).or_else(unless)?);
        }
        let loss = measured.composed_loss.map(Scalar::as_f64);
        let limit = within.worse.unwrap_or(f64::MAX);
        let worse = |loss| Warning::Worse { loss, limit };
        told.extend(loss.filter(|&loss| loss > limit).map(worse));
        let share = epoch.examples as f64 / unit(epoch.count);
        let examples = epoch.examples as f64;
        let mean_root = |squares: Option<Squares>| squares.map(|s| T::of(s.root_mean(examples)));
        let record = EpochRecord {
            phase: self.state.phase,
            epoch: number,
            steps,
            objective: T::of(epoch.statistics.objective / share),
            composed_loss: measured.composed_loss,
            validation_loss: measured.validation_loss,
            metric: measured.metric,
            gap: measured.gap,
            gap_before: mean_root(epoch.statistics.gap_before),
            gap_after: mean_root(epoch.statistics.gap_after),
            relaxation: epoch.statistics.relaxed.and_then(Relaxed::share),
            solved: epoch.statistics.solved,
            factor: epoch.factor,
            warnings: told,
        };
        // Only now, so that nothing is half done if a user's layer panics during a measurement.
        let mut ends = None;
        if complete {
            within.epoch = None;
            let validation = record.validation_loss.map(Scalar::as_f64);
            let (objective, circuit) = (record.objective.as_f64(), &self.model.circuit);
            let tracker = &mut within.tracker;
            ends = tracker.ends(phase.stopping, number, objective, validation, circuit);
        } else {
            within.broken_off = Some(self.state.warnings.clone());
        }
        self.close(ends.or(interrupted));
        let every = self.trainer.history_every;
        if every != 0 && number.is_multiple_of(every) {
            self.state.history.push(record.clone());
        }
        self.state.note(&record);
        Ok(Some(record))
    }

    /// Ends the phase if there is a reason to, and also the run if its own limits require it.
    fn close(&mut self, reason: Option<StopReason>) {
        if let Some(within) = &mut self.state.within {
            within.stop = reason;
        }
        if let Some(StopReason::Requested | StopReason::TimeLimit) = reason {
            self.state.end = self.state.phase + 1;
        }
    }

    fn end_phase(&mut self, mut stop: StopReason) -> Result<PhaseReport, Error> {
        let steps = self.steps();
        if self.finish == Finish::Failed
            && let Some(reason) = self.clock.interruption(&self.trainer)
            && reason.interrupts()
        {
            self.end(reason);
        }
        let Some(within) = &mut self.state.within else {
            unreachable!("only a phase in progress can end")
        };
        let phase = &self.trainer.phases[self.state.phase];
        // Without a whole epoch, the parameters are those of the one that was broken off.
        let broken_off = within.broken_off.is_some() && phase.validates();
        let best_epoch = within.tracker.put_best_back(&mut self.model.circuit);
        let best_epoch = best_epoch.or(broken_off.then_some(self.state.epoch));
        if within.epochs(self.state.epoch) > 0 && stop != StopReason::Failed {
            let finished = phase.scheme.finish(&mut within.scheme, &mut self.model);
            if let Err(error) = finished.map_err(|error| at_step(error, steps)) {
                // What made a run fail may fail here too, and would keep it from being stopped.
                stop = match self.finish {
                    Finish::Waived(reason) => reason,
                    _ if stop.interrupts() => stop,
                    _ => {
                        self.finish = Finish::Failed;
                        return Err(error);
                    }
                };
                self.failures.push(Failure::new(self.state.visits, &error));
            }
        }
        let Some(within) = self.state.within.take() else {
            unreachable!("only a phase in progress can end")
        };
        let report = self.phase_report(&within, stop, best_epoch);
        self.clock.phase_deadline = None;
        self.finish = Finish::Due;
        self.state.steps = steps;
        self.state.stop = stop;
        self.state.phase += 1;
        self.state.phases.push(report.clone());
        Ok(report)
    }

    fn phase_report(
        &self,
        within: &Within<T>,
        stop: StopReason,
        best_epoch: Option<u64>,
    ) -> PhaseReport {
        let penalties = self.model.terms.penalties().iter();
        PhaseReport {
            epochs: within.epochs(self.state.epoch),
            steps: within.w_step.steps,
            stop,
            best_epoch,
            penalties: penalties.map(|&mu| mu.as_f64()).collect(),
        }
    }
}

impl<T: Scalar> SessionState<T> {
    /// Completed visits of the run.
    pub fn visits(&self) -> u64 {
        self.visits
    }

    /// The state of the scheme whose phase is in progress; `None` between phases.
    pub fn scheme(&self) -> Option<&State<T>> {
        self.within.as_ref().map(|within| &within.scheme)
    }

    /// Where a run on n examples stands.
    fn progress<'a>(
        &'a self,
        trainer: &Trainer<T>,
        model: &'a DecoupledCircuit<T>,
        n: usize,
        clock: &Clock,
    ) -> Progress<'a, T> {
        let phases = &trainer.phases;
        let planned = phases.iter().map(|phase| phase.epochs);
        let visits = |phase: &Phase<T>| phase.epochs as f64 * phase.batches(n) as f64;
        let all: f64 = phases.iter().map(visits).sum();
        let (before, rest) = phases.split_at(self.phase.min(phases.len()));
        let mut done: f64 = before.iter().map(visits).sum();
        if let (None, Some((last, earlier))) = (&self.within, before.split_last())
            && (self.stop.interrupts() || self.stop == StopReason::Failed)
        {
            // Not the whole phase, but the visits that it has made beside those of earlier phases.
            let made = earlier.iter().zip(&self.phases);
            let made = made.map(|(phase, own)| own.epochs as f64 * phase.batches(n) as f64);
            let own = self.visits as f64 - made.sum::<f64>();
            done += own.clamp(0.0, visits(last)) - visits(last);
        }
        if let (Some(within), Some(phase)) = (&self.within, rest.first()) {
            let epochs = (self.epoch - within.first_epoch) as f64;
            let epoch = within.epoch.as_ref().map(|epoch| epoch.visits as f64);
            done += epoch.unwrap_or(epochs * phase.batches(n) as f64);
        }
        Progress {
            model,
            history: &self.history,
            epochs: self.epoch,
            planned: planned.fold(0, u64::saturating_add),
            visits: self.visits,
            fraction: if all > 0.0 {
                (done / all).min(1.0)
            } else {
                1.0
            },
            seconds: clock.start.elapsed().as_secs_f64(),
        }
    }

    /// The same state, as if nobody had asked the run to stop.
    pub(crate) fn resumable(&self) -> Self {
        let mut own = self.clone();
        (own.end, own.over) = (own.count, false);
        if let Some(within) = &mut own.within {
            within.stop = within.stop.filter(|own| !own.interrupts());
            if let Some(warnings) = within.broken_off.take() {
                // Its record is given again when the epoch is finished.
                own.warnings = warnings;
                own.history.pop_if(|record| record.epoch == own.epoch);
            }
        }
        own
    }

    /// Adds an epoch's warnings to those of the run.
    fn note(&mut self, record: &EpochRecord<T>) {
        let (phase, epoch) = (record.phase, record.epoch);
        for &warning in &record.warnings {
            let alike = |own: &&mut Warned| own.warning.is_alike(&warning) && own.phase == phase;
            if let Some(own) = self.warnings.iter_mut().find(alike) {
                own.warning = warning;
                own.epochs[1] = epoch;
                own.count += 1;
                continue;
            }
            self.warnings.push(Warned {
                warning,
                phase,
                epochs: [epoch; 2],
                count: 1,
            });
        }
    }

    /// Checks that it can be the state of a run on this model, as far as its sizes reveal.
    fn check(&self, model: &DecoupledCircuit<T>) -> Result<(), Error> {
        let (phase, end, count) = (self.phase, self.end, self.count);
        check_count("phases to be run", end <= count, count, end)?;
        // No run counts so far; a damaged state could not count on from there.
        let most = u64::MAX >> 16;
        let within = self.within.as_deref().map_or(0, Within::largest_count);
        let before = self.within.iter().filter_map(|own| own.broken_off.as_ref());
        let warned = self.warnings.iter().chain(before.flatten());
        let counts = warned.clone().map(|own| own.count);
        let phases = self.phases.iter().map(|own| own.epochs.max(own.steps));
        let reports = counts.chain(phases).max().unwrap_or(0);
        let own = self.epoch.max(self.visits).max(self.steps);
        let largest = within.max(own).max(reports);
        let what = "a count in the state";
        check_count(what, largest <= most, most as usize, largest as usize)?;
        for Warned { epochs, .. } in warned {
            let [first, last] = *epochs;
            let (what, fits) = (
                "the last epoch of a warning",
                first <= last && last <= self.epoch,
            );
            let expected = first.max(self.epoch);
            check_count(what, fits, expected as usize, last as usize)?;
        }
        let Some(within) = &self.within else {
            return check_count("completed phases", phase <= end, end, phase);
        };
        check_count("the phase in progress", phase < end, end, phase)?;
        let (first, epoch) = (within.first_epoch, self.epoch);
        let begun = first.saturating_add(u64::from(within.epoch.is_some()));
        let (fits, what) = (begun <= epoch, "epochs before the phase");
        check_count(what, fits, epoch as usize, first as usize)?;
        if let Some(epoch) = &within.epoch {
            let (seen, n) = (epoch.examples, model.examples.visited().len());
            let own = &epoch.statistics;
            let what = "examples of the epoch in progress";
            check_count(what, epoch.count == n, epoch.count, n)?;
            let gaps = [own.gap_before, own.gap_after].into_iter().flatten();
            for squares in gaps {
                not_negative("a gap in the state", squares.root())?;
            }
            own.relaxed.map_or(Ok(()), Relaxed::check)?;
            finite("an objective in the state", own.objective)?;
            check_count(
                "examples visited in the epoch in progress",
                seen <= n,
                n,
                seen,
            )?;
        }
        if let Some(worse) = within.worse {
            finite("a loss of the phase in the state", worse)?;
        }
        within.penalties.check(model.terms.penalties().len())?;
        within.tracker.check(&model.circuit)
    }
}

impl<T: Scalar> Within<T> {
    /// Epochs with at least one visit, given the number of those begun in the run.
    fn epochs(&self, begun: u64) -> u64 {
        let idle = self.epoch.as_ref().is_some_and(|epoch| epoch.examples == 0);
        begun.saturating_sub(self.first_epoch + u64::from(idle))
    }

    /// Checks that as many examples wait for a step of accumulated gradients as their visits had. An
    /// epoch's last visit, whose batch may be smaller, never waits: its step takes what there is. A
    /// scheme that makes no step there leaves what waits to the next epoch.
    fn check_pending(&self, phase: &Phase<T>, begun: u64, n: usize) -> Result<(), Error> {
        let w_step = &self.w_step;
        let (visits, examples) = (
            w_step.pending_visits as usize,
            w_step.pending_examples as usize,
        );
        let check = |fits: bool, expected: usize| {
            let what = "examples whose gradients wait for a step";
            check_count(what, fits, expected, examples)
        };
        let size = phase.batch_size(n);
        let regular = self.epoch.as_ref().is_some_and(|epoch| {
            let seen = epoch.examples;
            let before = (begun - self.first_epoch - 1).saturating_mul(phase.batches(n));
            let own = before.saturating_add(seen.div_ceil(size) as u64);
            (seen.is_multiple_of(size) || seen == n) && own == epoch.visits
        });
        if regular {
            let expected = visits.saturating_mul(size);
            return check(examples == expected, expected);
        }
        // Earlier visits may have had batches of another size.
        let most = visits.saturating_mul(n.saturating_sub(1));
        check((visits..=most).contains(&examples), most)
    }

    /// The largest number of what was counted.
    fn largest_count(&self) -> u64 {
        let epoch = self.epoch.as_ref().map_or(0, |own| own.visits);
        let solvers = self.w_step.largest_count().max(self.scheme.largest_count());
        let solvers = solvers.max(self.tracker.largest_count());
        epoch.max(self.penalties.visits()).max(solvers)
    }
}

impl<T> Memory<T> {
    /// Sets the order of an epoch. It is always shuffled from column order, and so does not depend
    /// on earlier epochs.
    fn put_in_order(&mut self, epoch: u64, shuffle: Option<u64>) {
        if self.ordered == epoch && self.order.len() == self.visited.len() {
            return;
        }
        self.ordered = epoch;
        self.order.clear();
        self.order.extend_from_slice(&self.visited);
        if let Some(seed) = shuffle {
            self.order
                .shuffle(&mut generator(seed, Purpose::Shuffle, epoch));
        }
    }
}

impl Clock {
    /// Why no further visit may be made, if there is a reason.
    fn interruption<T: Scalar>(&self, trainer: &Trainer<T>) -> Option<StopReason> {
        let flag = trainer.stop_flag.as_ref();
        if flag.is_some_and(|flag| flag.load(Ordering::Relaxed)) {
            return Some(StopReason::Requested);
        }
        if passed(self.deadline) {
            return Some(StopReason::TimeLimit);
        }
        passed(self.phase_deadline).then_some(StopReason::PhaseTimeLimit)
    }
}

/// Runs `work` in the pool and blocks this thread meanwhile. A thread of another pool that waited
/// in
/// `install` would steal other work of its own pool, which might wait for something this thread
/// holds.
#[cfg(feature = "rayon")]
fn blocking<R: Send>(
    pool: &rayon::ThreadPool,
    threads: usize,
    work: impl FnOnce() -> R + Send,
) -> Result<R, Error> {
    if rayon::current_thread_index().is_none() {
        return Ok(pool.install(work));
    }
    std::thread::scope(|scope| {
        let plain = std::thread::Builder::new().spawn_scoped(scope, || pool.install(work));
        let plain = plain.map_err(|e| thread_pool(threads, &e))?;
        let done = plain.join();
        Ok(done.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

#[cfg(feature = "rayon")]
fn thread_pool(threads: usize, reason: &dyn std::fmt::Display) -> Error {
    Error::ThreadPool {
        threads,
        reason: reason.to_string(),
    }
}

/// `None` (no deadline) if the limit is beyond what the clock can represent.
fn deadline(start: Instant, limit: Option<Duration>) -> Option<Instant> {
    start.checked_add(limit?)
}

fn passed(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| Instant::now() >= deadline)
}

/// Makes non-finite errors report the run's parameter step, wherever they arose.
fn at_step(mut error: Error, steps: u64) -> Error {
    if let Error::NonFinite { step, .. } = &mut error {
        *step = steps;
    }
    error
}

/// The warnings that follow from an epoch's statistics.
fn warnings<T: Scalar>(
    w_step: &WStep<T>,
    w_state: &WState<T>,
    circuit: &Circuit<T>,
    own: &Statistics,
) -> Vec<Warning> {
    let mut all = Vec::new();
    let mut motions = w_state.layers.iter().map(|own| own.motion);
    let learns = motions.any(|own| own.moved || own.pulled);
    for (layer, own) in w_state.layers.iter().enumerate() {
        let motion = own.motion;
        if motion.moved || !learns || circuit.parameters(layer).is_empty() {
            continue;
        }
        if motion.is_frozen() {
            all.push(Warning::Frozen { layer });
        } else if !motion.pulled && own.steps(w_step) {
            all.push(Warning::Unreached { layer });
        }
    }
    let targets = (1..).zip(&w_state.layers);
    let frozen = targets.filter(|(_, below)| below.target.is_frozen());
    all.extend(frozen.map(|(layer, _)| Warning::FrozenTargets { layer }));
    all.extend(own.undone.then_some(Warning::Undone));
    all.extend(own.raised.then_some(Warning::Raised));
    all
}

/// The first layer whose outputs for the first example visited, or for another one that differs from it,
/// change when both are in one batch.
fn mixing<T: Scalar>(
    model: &DecoupledCircuit<T>,
    visited: &[usize],
    working: &mut Working<T>,
    workspace: &mut Workspace<T>,
) -> Result<Option<usize>, Error> {
    let (first, mut other) = (visited[0], visited[visited.len() - 1]);
    for &column in visited[1..].iter().rev().take(BLOCK) {
        let pair = [first, column];
        let chosen = Chosen::Scattered((&pair[..]).into());
        let batch = working.view(&model.examples, &chosen, false, TargetUse::None)?;
        let (one, another) = batch.z(0).split_at(batch.z(0).len() / 2);
        if one != another {
            other = column;
            break;
        }
    }
    let mut outputs = |columns: &[usize]| -> Result<Vec<Vec<T>>, Error> {
        let (chosen, unused) = (Chosen::Scattered(columns.into()), TargetUse::None);
        let batch = working.view(&model.examples, &chosen, true, unused)?;
        model.layers().on(batch).forward_pass(workspace);
        let locals = workspace.locals.iter();
        Ok(locals.map(|own| own.prediction.clone()).collect())
    };
    let alone = [outputs(&[first])?, outputs(&[other])?];
    let both = outputs(&[first, other])?;
    let rounding = T::of(64.0) * T::default_epsilon();
    let differ = |alone: &[T], beside: &[T]| {
        let largest = alone.iter().fold(T::zero(), |top, own| top.max(own.abs()));
        let mut pairs = alone.iter().zip(beside);
        pairs.any(|(&a, &b)| (a - b).abs() > rounding * largest)
    };
    Ok(both.iter().enumerate().position(|(t, both)| {
        let columns = both.chunks_exact(both.len() / 2);
        alone
            .iter()
            .zip(columns)
            .any(|(alone, beside)| differ(&alone[t], beside))
    }))
}

/// The warning about a last layer whose activation limits the logits.
fn squashed<T: Scalar>(model: &DecoupledCircuit<T>) -> Option<Warning> {
    use Activation::{Relu, Sigmoid, Softplus, Tanh};
    let layer = model.circuit.depth() - 1;
    let activation = model.circuit.layers().nth(layer)?.affine()?.activation;
    let limited = matches!(activation, Relu | Sigmoid | Softplus | Tanh)
        || activation == Activation::LeakyRelu { slope: 0.0 };
    (limited && model.layers().loss(layer).takes_logits()).then_some(Warning::Squashed { layer })
}

/// The warning about the inputs in these columns, if they are far above unit scale.
fn unscaled<'a, T: Scalar>(
    model: &DecoupledCircuit<T>,
    blocks: impl Iterator<Item = &'a [usize]>,
    working: &mut Working<T>,
) -> Result<Option<Warning>, Error> {
    let first = model.circuit.layers().next();
    if first.and_then(|layer| layer.affine()).is_none() {
        // Another layer may take indices, or scale its inputs.
        return Ok(None);
    }
    let (mut squares, mut count) = (Squares::zero(), 0);
    for columns in blocks {
        count += columns.len();
        let chosen = Chosen::Scattered(columns.into());
        let batch = working.view(&model.examples, &chosen, false, TargetUse::None)?;
        squares.add(quick_norm(batch.z(0)));
    }
    let count = count as f64 * model.circuit.dims()[0] as f64;
    let size = squares.root_mean(count);
    Ok((size > Warning::UNIT_SCALE).then_some(Warning::Unscaled { size }))
}

/// The divisor of the terms of a mean over n examples before they are added: a power of 2, so that
/// the division is exact.
fn unit(n: usize) -> f64 {
    n.max(1).next_power_of_two() as f64
}

/// What was measured after an epoch.
struct Measurements<T> {
    composed_loss: Option<T>,
    gap: Option<T>,
    validation_loss: Option<T>,
    metric: Option<f64>,
}

impl<T> Measurements<T> {
    fn none() -> Self {
        Self {
            composed_loss: None,
            gap: None,
            validation_loss: None,
            metric: None,
        }
    }
}

/// Means over examples: the composed loss L, and |L|.
struct Means {
    loss: f64,
    magnitude: f64,
}

/// The means over the examples that are visited, in batches of `size`. `each` gets every batch after
/// its composed loss was evaluated.
fn measure<T: Scalar>(
    model: &DecoupledCircuit<T>,
    size: usize,
    targets: TargetUse,
    memory: &mut Memory<T>,
    execution: Execution,
    mut each: impl FnMut(Problem<'_, T>, &mut Workspace<T>),
) -> Result<Means, Error> {
    let n = memory.visited.len();
    let unit = unit(n);
    let (mut loss, mut magnitude, last) = (0.0, 0.0, model.circuit.depth() - 1);
    for columns in memory.visited.chunks(size) {
        let chosen = match n == model.examples().len() {
            true => Chosen::Run(columns[0]..columns[0] + columns.len()),
            false => Chosen::Scattered(columns.into()),
        };
        let batch = memory
            .working
            .view(&model.examples, &chosen, false, targets)?;
        let work = model.circuit.work(batch.len());
        let problem = model
            .layers()
            .on(batch.with_execution(execution.repaid(work)));
        let workspace = &mut memory.workspace;
        let total = problem.composed_loss(workspace).as_f64();
        let values = &workspace.locals[last].energies;
        let sum = |term: fn(f64) -> f64| {
            let terms = values.iter().map(|value| term(value.as_f64()) / unit);
            terms.sum::<f64>()
        };
        // The sum may overflow although the mean does not.
        loss += match total.is_finite() {
            true => total / unit,
            false => sum(|value| value),
        };
        magnitude += sum(f64::abs);
        each(problem, workspace);
    }
    let share = n as f64 / unit;
    Ok(Means {
        loss: loss / share,
        magnitude: magnitude / share,
    })
}
