//! The loop over phases, epochs and batches.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nalgebra::DMatrix;
use rand::seq::SliceRandom;

use super::parameter_optimizer::ParameterOptimizer;
use super::penalties::{Penalties, PenaltyRange};
use super::phase::Phase;
use super::report::{EpochRecord, PhaseReport, Progress, StopReason, TrainingReport};
use super::stopping::{Stopping, Tracker};
use super::visit::{Told, Visit};
use crate::decoupled::DecoupledCircuit;
use crate::decoupled::examples::{Chosen, Gathered, lend};
use crate::energy::Workspace;
use crate::error::Error;
use crate::init::{Purpose, generator};
use crate::kernel::Execution;
use crate::kernel::Scalar;
use crate::kernel::squared_distance;

/// Trains a [`DecoupledCircuit`] by a list of [`Phase`]s; schemes are compared by changing one line.
///
/// | option | default | meaning |
/// |---|---|---|
/// | `seed` | 0 | seed of the shuffling |
/// | `threads` | 1 | threads that share the work (feature `rayon`), at most one a layer or a core |
/// | `execution` | automatic | what several threads share: layers, columns, or whichever fits (feature `rayon`) |
/// | `measure_every` | 1 | epochs between measurements of composed loss, gap and validation loss; 0: never |
/// | `validation` | none | examples that are never trained on |
/// | `time_limit` | none | time of the whole run, looked at between visits |
/// | `stop_flag` | none | a flag that ends the run from outside, looked at between visits |
///
/// The result has the same bits for every number of threads (a time limit aside).
///
/// # Examples
/// ```
/// use layerwise::{Circuit, DecoupledCircuit};
/// use layerwise::decoupled::TargetInit;
/// use layerwise::layer::{Activation, Dense};
/// use layerwise::optimizer::Adam;
/// use layerwise::target_solver::ReverseSweep;
/// use layerwise::training::{Alternating, Phase, Trainer};
/// use nalgebra::DMatrix;
///
/// let circuit = Circuit::<f64>::builder()
///     .layer(Dense::new(1, 16, Activation::Tanh)?)
///     .layer(Dense::new(16, 1, Activation::Identity)?)
///     .build()?;
/// let x = DMatrix::from_fn(1, 40, |_, j| j as f64 / 20.0 - 1.0);
/// let y = x.map(|x| x * x);
/// let mut model = DecoupledCircuit::new(circuit);
/// model.add_examples(&x, &y, &TargetInit::ForwardPass)?;
///
/// let scheme = Alternating::refreshed(ReverseSweep::new(1));
/// let phase = Phase::new(scheme, Adam::new(1e-2)?).epochs(200);
/// let report = Trainer::new(phase).run(&mut model)?;
/// let losses: Vec<f64> = report.history.iter().filter_map(|e| e.composed_loss).collect();
/// assert!(losses[199] < 0.1 * losses[0]);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug)]
pub struct Trainer<T: Scalar> {
    phases: Vec<Phase<T>>,
    seed: u64,
    threads: usize,
    #[cfg(feature = "rayon")]
    execution: Execution,
    measure_every: u64,
    validation: Option<(DMatrix<T>, DMatrix<T>)>,
    time_limit: Option<Duration>,
    stop_flag: Option<Arc<AtomicBool>>,
}

impl<T: Scalar> Trainer<T> {
    /// A run of one phase.
    pub fn new(phase: Phase<T>) -> Self {
        Self {
            phases: vec![phase],
            seed: 0,
            threads: 1,
            #[cfg(feature = "rayon")]
            execution: Execution::Automatic,
            measure_every: 1,
            validation: None,
            time_limit: None,
            stop_flag: None,
        }
    }

    /// Appends a phase, which goes on from where the one before it ended.
    pub fn then(mut self, phase: Phase<T>) -> Self {
        self.phases.push(phase);
        self
    }

    /// Seed of the shuffling.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Threads that share the work, at least 1; more than 1 needs the feature `rayon`.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// What the threads share, if there are several; [`Execution::Automatic`] unless set.
    #[cfg(feature = "rayon")]
    pub fn execution(mut self, execution: Execution) -> Self {
        self.execution = execution;
        self
    }

    /// Epochs between measurements of composed loss, gap and validation loss; 0 measures never
    /// (but for [`Stopping::Validation`], which measures its loss after every epoch).
    pub fn measure_every(mut self, epochs: u64) -> Self {
        self.measure_every = epochs;
        self
    }

    /// Examples that are never trained on, one a column of `inputs` and `targets`.
    pub fn validation(mut self, inputs: DMatrix<T>, targets: DMatrix<T>) -> Self {
        self.validation = Some((inputs, targets));
        self
    }

    /// Wall-clock time after which the run ends, looked at between visits.
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = Some(limit);
        self
    }

    /// Ends the run cleanly once `flag` is true, looked at between visits: for another thread, or
    /// for a signal handler.
    pub fn stop_flag(mut self, flag: Arc<AtomicBool>) -> Self {
        self.stop_flag = Some(flag);
        self
    }

    /// Trains.
    ///
    /// # Errors
    /// [`Error::NoExamples`], [`Error::InvalidOption`], [`Error::FeatureDisabled`],
    /// [`Error::ThreadPool`], or what the circuit says of the validation examples, before anything
    /// is done; what a scheme says before its phase; [`Error::NonFinite`] (its step counts the
    /// parameter steps of the run), or a solver's error, during a visit. Parameters are then those of
    /// the last completed step, targets and μ those of the last completed visit.
    pub fn run(&mut self, model: &mut DecoupledCircuit<T>) -> Result<TrainingReport<T>, Error> {
        self.run_with(model, |_| ControlFlow::Continue(()))
    }

    /// Trains, and calls `callback` after every epoch; `ControlFlow::Break` ends the run.
    ///
    /// # Errors
    /// Those of [`Trainer::run`].
    pub fn run_with(
        &mut self,
        model: &mut DecoupledCircuit<T>,
        callback: impl FnMut(&Progress<'_, T>) -> ControlFlow<()> + Send,
    ) -> Result<TrainingReport<T>, Error> {
        self.validate(model)?;
        if self.threads == 1 {
            return self.train(model, callback, Execution::Sequential);
        }
        #[cfg(not(feature = "rayon"))]
        {
            Err(Error::FeatureDisabled {
                option: "Trainer::threads",
                feature: "rayon",
            })
        }
        #[cfg(feature = "rayon")]
        {
            // More than there are cores help only layers that wait for something else.
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            let most = cores.max(model.circuit.depth());
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(self.threads.min(most))
                .build()
                .map_err(|e| Error::ThreadPool {
                    threads: self.threads,
                    reason: e.to_string(),
                })?;
            // Entering the pool once a run, not once a step.
            let execution = self.execution;
            pool.install(|| self.train(model, callback, execution))
        }
    }

    fn validate(&self, model: &DecoupledCircuit<T>) -> Result<(), Error> {
        if self.threads == 0 {
            return Err(Error::InvalidOption {
                option: "Trainer::threads",
                value: 0.0,
                allowed: "at least 1",
            });
        }
        if model.examples().is_empty() {
            return Err(Error::NoExamples {
                operation: "training",
            });
        }
        if let Some((inputs, targets)) = &self.validation {
            model.circuit.check_inputs(inputs)?;
            model.circuit.check_outputs(inputs.ncols(), targets)?;
            if inputs.ncols() == 0 {
                return Err(Error::NoExamples {
                    operation: "validation",
                });
            }
        }
        let n = model.examples().len();
        let mut penalties = PenaltyRange::new(model.circuit.penalties());
        for phase in &self.phases {
            phase.validate(self.validation.is_some())?;
            let visits = phase.epochs.saturating_mul(phase.batches(n));
            penalties.pass(phase.penalty_rule(), visits)?;
        }
        Ok(())
    }

    fn train(
        &mut self,
        model: &mut DecoupledCircuit<T>,
        mut callback: impl FnMut(&Progress<'_, T>) -> ControlFlow<()>,
        execution: Execution,
    ) -> Result<TrainingReport<T>, Error> {
        let start = Instant::now();
        let mut run = Run {
            order: Vec::with_capacity(model.examples().len()),
            workspace: Workspace::new(&model.circuit, 0),
            gathered: Gathered::new(model.circuit.depth()),
            model,
            execution,
            seed: self.seed,
            measure_every: self.measure_every,
            validation: self.validation.as_ref(),
            deadline: deadline(start, self.time_limit),
            stop_flag: self.stop_flag.as_deref(),
            history: Vec::new(),
            epoch: 0,
            visits: 0,
            steps: 0,
            over: false,
        };
        let mut phases: Vec<PhaseReport> = Vec::new();
        for (number, phase) in self.phases.iter_mut().enumerate() {
            let report = run.phase(number, phase, &mut callback)?;
            phases.push(report);
            if run.over {
                break;
            }
        }
        Ok(TrainingReport {
            history: run.history,
            stop: phases.last().expect("there is one phase at least").stop,
            phases,
            steps: run.steps,
            seconds: start.elapsed().as_secs_f64(),
        })
    }
}

/// A run under way: its memory, limits and counts.
struct Run<'a, T: Scalar> {
    model: &'a mut DecoupledCircuit<T>,
    workspace: Workspace<T>,
    gathered: Gathered<T>,
    order: Vec<usize>,
    execution: Execution,
    seed: u64,
    measure_every: u64,
    validation: Option<&'a (DMatrix<T>, DMatrix<T>)>,
    deadline: Option<Instant>,
    stop_flag: Option<&'a AtomicBool>,
    history: Vec<EpochRecord<T>>,
    /// Epochs begun, visits and completed parameter steps.
    epoch: u64,
    visits: u64,
    steps: u64,
    /// Whether no further phase shall begin.
    over: bool,
}

/// What the visits of one epoch add up to.
#[derive(Default)]
struct Sums {
    objective: f64,
    examples: usize,
    told: Told,
    factor: f64,
}

impl<T: Scalar> Run<'_, T> {
    fn phase(
        &mut self,
        number: usize,
        phase: &mut Phase<T>,
        callback: &mut impl FnMut(&Progress<'_, T>) -> ControlFlow<()>,
    ) -> Result<PhaseReport, Error> {
        let deadline = deadline(Instant::now(), phase.time_limit);
        phase.scheme.start(self.model)?;
        let mut optimizer =
            ParameterOptimizer::new(phase.rule.clone(), &self.model.circuit, phase.max_norm);
        let mut penalties = Penalties::new(phase.penalty_rule(), self.model.circuit.penalties());
        let mut tracker = Tracker::new(phase.stopping);
        let first_epoch = self.epoch;
        let before = self.steps;
        let mut stop = StopReason::Epochs;
        while self.epoch - first_epoch < phase.epochs {
            let mut visits =
                (self.epoch - first_epoch) * phase.batches(self.model.examples().len());
            self.epoch += 1;
            let mut sums = Sums::default();
            let interrupted = self.epoch(
                phase,
                &mut visits,
                deadline,
                &mut optimizer,
                &mut penalties,
                &mut sums,
            );
            self.steps = before + optimizer.steps;
            let interrupted = interrupted.map_err(|error| at_step(error, self.steps))?;
            if let Some(reason) = interrupted {
                stop = reason;
                self.over |= deadline_passed(self.deadline) || reason == StopReason::Requested;
            }
            if sums.examples == 0 {
                // It did not begin.
                self.epoch -= 1;
                break;
            }
            let record = self.record(number, phase, &sums, interrupted.is_none());
            let circuit = &self.model.circuit;
            let validation = record.validation_loss.map(Scalar::as_f64);
            let ends = tracker.ends(self.epoch, record.objective.as_f64(), validation, circuit);
            let flow = callback(&Progress {
                record: &record,
                model: self.model,
            });
            self.history.push(record);
            if flow.is_break() {
                stop = StopReason::Callback;
                self.over = true;
                break;
            }
            if interrupted.is_some() {
                break;
            }
            if let Some(reason) = ends {
                stop = reason;
                break;
            }
        }
        let best_epoch = tracker.put_best_back(&mut self.model.circuit);
        if self.epoch > first_epoch {
            let finished = phase.scheme.finish(self.model);
            finished.map_err(|error| at_step(error, self.steps))?;
        }
        Ok(PhaseReport {
            epochs: self.epoch - first_epoch,
            steps: optimizer.steps,
            stop,
            best_epoch,
            penalties: self
                .model
                .circuit
                .penalties()
                .iter()
                .map(|&mu| mu.as_f64())
                .collect(),
        })
    }

    /// Visits every example once, unless something ends the run or the phase before.
    fn epoch(
        &mut self,
        phase: &mut Phase<T>,
        visits: &mut u64,
        deadline: Option<Instant>,
        optimizer: &mut ParameterOptimizer<T>,
        penalties: &mut Penalties<T>,
        sums: &mut Sums,
    ) -> Result<Option<StopReason>, Error> {
        let n = self.model.examples().len();
        let size = phase.batch_size_of(n);
        let total = phase.epochs.saturating_mul(phase.batches(n));
        // From the natural order, so that an epoch's order depends on nothing before it.
        self.order.clear();
        self.order.extend(0..n);
        if size < n {
            let mut rng = generator(self.seed, Purpose::Shuffle, self.epoch);
            self.order.shuffle(&mut rng);
        }
        for chunk in self.order.chunks(size) {
            if self
                .stop_flag
                .is_some_and(|flag| flag.load(Ordering::Relaxed))
            {
                return Ok(Some(StopReason::Requested));
            }
            if deadline_passed(self.deadline) || deadline_passed(deadline) {
                return Ok(Some(StopReason::TimeLimit));
            }
            let chosen = if size == n {
                Chosen::Run(0..n)
            } else {
                Chosen::Scattered(chunk)
            };
            sums.factor = phase.schedule.factor(*visits, total);
            let DecoupledCircuit { circuit, examples } = &mut *self.model;
            penalties.apply(*visits, total, circuit)?;
            let number = (*visits, total);
            let (scheme, workspace) = (&mut phase.scheme, &mut self.workspace);
            let targets = scheme.uses_targets();
            let value = lend(
                examples,
                &chosen,
                self.visits,
                targets,
                &mut self.gathered,
                |mut batch| {
                    batch.execution = self.execution.repaid(circuit.work(batch.ids.len()));
                    let value = scheme.visit(&mut Visit {
                        circuit,
                        batch: &mut batch,
                        workspace,
                        optimizer,
                        told: &mut sums.told,
                        factor: sums.factor,
                        number,
                    })?;
                    penalties.observe(circuit, batch.view(), workspace)?;
                    Ok(value)
                },
            );
            let value = value.inspect_err(|_| penalties.put_back(circuit))?;
            sums.objective += value.as_f64();
            sums.examples += chunk.len();
            *visits += 1;
            self.visits += 1;
        }
        Ok(None)
    }

    /// The record of an epoch, with the measurements that are due if it was not interrupted.
    fn record(
        &mut self,
        number: usize,
        phase: &Phase<T>,
        sums: &Sums,
        whole: bool,
    ) -> EpochRecord<T> {
        let due = self.measure_every != 0 && self.epoch.is_multiple_of(self.measure_every);
        let due = due && whole;
        let (mut composed_loss, mut gap) = (None, None);
        if due {
            let size = phase.batch_size_of(self.model.examples().len());
            let measured = measure(self.model, size, &mut self.workspace, self.execution);
            composed_loss = Some(measured.0);
            gap = phase.scheme.uses_targets().then_some(measured.1);
        }
        let needed = matches!(phase.stopping, Stopping::Validation { .. });
        let validation_loss = self.validation.filter(|_| due || needed && whole);
        let validation_loss = validation_loss.map(|(inputs, targets)| {
            let loss = self.model.circuit.composed_loss(inputs, targets);
            loss.expect("checked before the run") / T::of(inputs.ncols() as f64)
        });
        let examples = sums.examples as f64;
        let mean_root = |squares: Option<f64>| squares.map(|s| T::of((s / examples).sqrt()));
        EpochRecord {
            phase: number,
            epoch: self.epoch,
            steps: self.steps,
            objective: T::of(sums.objective / examples),
            composed_loss,
            validation_loss,
            gap,
            gap_met: mean_root(sums.told.met),
            gap_left: mean_root(sums.told.left),
            solved: sums.told.solved,
            factor: sums.factor,
        }
    }
}

/// `None`, no deadline, for a limit beyond what the clock can hold.
fn deadline(start: Instant, limit: Option<Duration>) -> Option<Instant> {
    start.checked_add(limit?)
}

fn deadline_passed(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| Instant::now() >= deadline)
}

/// Non-finite numbers are reported with the parameter step of the run, wherever they arose.
fn at_step(error: Error, steps: u64) -> Error {
    match error {
        Error::NonFinite {
            quantity, layer, ..
        } => Error::NonFinite {
            quantity,
            layer,
            step: steps,
        },
        other => other,
    }
}

/// Composed loss and gap of all examples, per example, in batches of `size`.
fn measure<T: Scalar>(
    model: &DecoupledCircuit<T>,
    size: usize,
    workspace: &mut Workspace<T>,
    execution: Execution,
) -> (T, T) {
    let n = model.examples().len();
    let circuit = &model.circuit;
    let (mut loss, mut squares) = (0.0, 0.0);
    for start in (0..n).step_by(size) {
        let batch = model.examples.run(start..(start + size).min(n), 0, false);
        let batch = batch.with_execution(execution.repaid(circuit.work(batch.len())));
        loss += circuit.composed_loss_on(batch, workspace).as_f64();
        circuit.predict_locally(batch, workspace);
        for t in 1..circuit.depth() {
            let prediction = &workspace.locals[t - 1].prediction;
            squares += squared_distance(batch.z(t), prediction).as_f64();
        }
    }
    let n = n as f64;
    (T::of(loss / n), T::of((squares / n).sqrt()))
}
