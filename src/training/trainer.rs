//! The loop over epochs and batches.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use rand::seq::SliceRandom;

use super::report::{EpochRecord, Progress, StopReason, TrainingReport};
use super::visit::{ParameterOptimizer, Scheme, Visit};
use crate::circuit::Workspace;
use crate::decoupled::DecoupledCircuit;
use crate::decoupled::examples::{Chosen, Gathered, lend};
use crate::execution::Execution;
use crate::init::{Purpose, generator};
use crate::kernel::squared_distance;
use crate::optimizer::Optimizer;
use crate::schedule::Schedule;
use crate::{Error, Scalar};

/// Trains a [`DecoupledCircuit`] by a [`Scheme`]; schemes are compared by changing one line.
///
/// | option | default | meaning |
/// |---|---|---|
/// | `epochs` | 100 | passes over the examples |
/// | `batch_size` | all | examples a visit; fewer than all: shuffled anew each epoch |
/// | `schedule` | constant | factor of θ's learning rate over the run |
/// | `seed` | 0 | seed of the shuffling |
/// | `threads` | 1 | threads that share the layers' problems (feature `rayon`), at most one a layer |
/// | `measure_every` | 1 | epochs between measurements of composed loss and gap; 0: never |
///
/// The result has the same bits for every number of threads. Every run starts with fresh optimiser
/// state.
///
/// # Examples
/// ```
/// use layerwise::{
///     Activation, Adam, Alternating, Circuit, DecoupledCircuit, Dense, ReverseSweep, TargetInit,
///     Trainer,
/// };
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
/// let report = Trainer::new(scheme, Adam::new(1e-2)?).epochs(200).run(&mut model)?;
/// let losses: Vec<f64> = report.history.iter().filter_map(|e| e.composed_loss).collect();
/// assert!(losses[199] < 0.1 * losses[0]);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug)]
pub struct Trainer<T: Scalar> {
    scheme: Box<dyn Scheme<T>>,
    rule: Arc<dyn Optimizer<T>>,
    epochs: u64,
    batch_size: Option<usize>,
    schedule: Schedule,
    seed: u64,
    threads: usize,
    measure_every: u64,
}

impl<T: Scalar> Trainer<T> {
    /// A trainer in which `scheme` visits the batches and `rule` moves the parameters.
    pub fn new(scheme: impl Scheme<T> + 'static, rule: impl Optimizer<T> + 'static) -> Self {
        Self {
            scheme: Box::new(scheme),
            rule: Arc::new(rule),
            epochs: 100,
            batch_size: None,
            schedule: Schedule::Constant,
            seed: 0,
            threads: 1,
            measure_every: 1,
        }
    }

    /// Passes over the examples.
    pub fn epochs(mut self, epochs: u64) -> Self {
        self.epochs = epochs;
        self
    }

    /// Examples a visit, at least 1; the last batch of an epoch takes what is left.
    pub fn batch_size(mut self, examples: usize) -> Self {
        self.batch_size = Some(examples);
        self
    }

    /// Factor of θ's learning rate over the run.
    pub fn schedule(mut self, schedule: Schedule) -> Self {
        self.schedule = schedule;
        self
    }

    /// Seed of the shuffling.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Threads that share the layers' problems, at least 1; more than 1 needs the feature `rayon`.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Epochs between measurements of composed loss and gap; 0 measures never.
    pub fn measure_every(mut self, epochs: u64) -> Self {
        self.measure_every = epochs;
        self
    }

    /// Trains.
    ///
    /// # Errors
    /// [`Error::NoExamples`], [`Error::InvalidOption`], [`Error::FeatureDisabled`] or
    /// [`Error::ThreadPool`] before anything is done; [`Error::NonFinite`] (its step counts the
    /// parameter steps of the run), or a solver's error, during a visit. Parameters and targets
    /// are then those of the last completed step.
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
        self.scheme.reset();
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
            // More threads than layers would only sleep.
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(self.threads.min(model.circuit.depth()))
                .build()
                .map_err(|e| Error::ThreadPool {
                    threads: self.threads,
                    reason: e.to_string(),
                })?;
            // Entering the pool once a run, not once a step.
            pool.install(|| self.train(model, callback, Execution::Layers))
        }
    }

    fn validate(&self, model: &DecoupledCircuit<T>) -> Result<(), Error> {
        for (option, value) in [
            ("Trainer::batch_size", self.batch_size.unwrap_or(1)),
            ("Trainer::threads", self.threads),
        ] {
            if value == 0 {
                return Err(Error::InvalidOption {
                    option,
                    value: 0.0,
                    allowed: "at least 1",
                });
            }
        }
        self.schedule.validate()?;
        if model.examples().is_empty() {
            return Err(Error::NoExamples {
                operation: "training",
            });
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
        let n = model.examples().len();
        let size = self.batch_size.unwrap_or(n).min(n);
        let total = self.epochs as f64 * n.div_ceil(size) as f64;
        let mut optimizer = ParameterOptimizer::new(self.rule.clone(), &model.circuit);
        let mut workspace = Workspace::new(&model.circuit, size);
        let mut gathered = Gathered::new(model.circuit.depth());
        let mut order: Vec<usize> = (0..n).collect();
        let mut history = Vec::new();
        let mut stop = StopReason::Epochs;
        let mut visits = 0;
        for epoch in 1..=self.epochs {
            if size < n {
                // From the natural order, so that an epoch's order depends on nothing before it.
                for (i, place) in order.iter_mut().enumerate() {
                    *place = i;
                }
                order.shuffle(&mut generator(self.seed, Purpose::Shuffle, epoch));
            }
            let mut objective = 0.0;
            let mut factor = 1.0;
            for chunk in order.chunks(size) {
                let chosen = if size == n {
                    Chosen::Run(0..n)
                } else {
                    Chosen::Scattered(chunk)
                };
                factor = self.schedule.factor(visits as f64 / total);
                let DecoupledCircuit { circuit, examples } = &mut *model;
                let value = lend(examples, &chosen, visits, &mut gathered, |mut batch| {
                    self.scheme.visit(&mut Visit {
                        circuit,
                        batch: &mut batch,
                        workspace: &mut workspace,
                        optimizer: &mut optimizer,
                        factor,
                        execution,
                    })
                });
                let value = value.map_err(|error| at_step(error, optimizer.steps))?;
                objective += value.as_f64();
                visits += 1;
            }
            let measured = self.measure_every != 0 && epoch.is_multiple_of(self.measure_every);
            let (composed_loss, gap) = if measured {
                let (loss, gap) = measure(model, size, &mut workspace, execution);
                (Some(loss), self.scheme.uses_targets().then_some(gap))
            } else {
                (None, None)
            };
            let record = EpochRecord {
                epoch,
                steps: optimizer.steps,
                objective: T::of(objective / n as f64),
                composed_loss,
                gap,
                factor,
            };
            let flow = callback(&Progress {
                record: &record,
                model,
            });
            history.push(record);
            if flow.is_break() {
                stop = StopReason::Callback;
                break;
            }
        }
        Ok(TrainingReport {
            history,
            stop,
            steps: optimizer.steps,
            seconds: start.elapsed().as_secs_f64(),
        })
    }
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
        circuit.forward_pass(batch, workspace);
        loss += circuit.output_error(batch, workspace).as_f64();
        circuit.predict_locally(batch, workspace, execution);
        for t in 1..circuit.depth() {
            let prediction = &workspace.locals[t - 1].prediction;
            squares += squared_distance(batch.z(t), prediction).as_f64();
        }
    }
    let n = n as f64;
    (T::of(loss / n), T::of((squares / n).sqrt()))
}
