//! The options of a run.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use nalgebra::DMatrix;

use super::penalties::PenaltyRange;
use super::phase::Phase;
use super::report::{EpochRecord, Event, RunError, StopReason, TrainingReport};
use super::session::Session;
use crate::check::{at_least_one, check_examples, check_shape, finite, refuse};
use crate::decoupled::DecoupledCircuit;
use crate::error::{Error, Quantity};
use crate::kernel::{Execution, Scalar};

/// Trains a [`DecoupledCircuit`] in a list of [`Phase`]s. Changing one line is enough to compare
/// schemes.
///
/// Results are bit-identical for any number of threads (unless a time limit intervenes). A trainer
/// holds only options, so it can be cloned and run again; [`Session`] runs it step by step.
///
/// # Examples
/// ```
/// use layerwise::prelude::*;
/// use layerwise::training::Decoupling;
///
/// let circuit = Circuit::<f64>::builder()
///     .layer(Dense::new(1, 16, Activation::Tanh)?)
///     .layer(Dense::new(16, 1, Activation::Identity)?)
///     .build()?;
/// let x = DMatrix::from_fn(1, 40, |_, j| j as f64 / 20.0 - 1.0);
/// let y = x.map(|x| x * x);
/// let mut model = DecoupledCircuit::new(circuit, Energy::default())?;
/// model.add_examples(&x, &y, &TargetInit::ForwardPass)?;
///
/// let scheme = Decoupling::refreshed(ReverseSweep::new(1));
/// let phase = Phase::new(scheme, Adam::new(1e-2)?).with_epochs(200);
/// let report = Trainer::new(phase).run(&mut model)?;
/// let losses: Vec<f64> = report.history.iter().filter_map(|e| e.composed_loss).collect();
/// assert!(losses[199] < 0.1 * losses[0]);
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Trainer<T: Scalar> {
    pub(super) phases: Vec<Phase<T>>,
    pub(super) seed: u64,
    pub(super) threads: usize,
    pub(super) execution: Execution,
    pub(super) measure_every: u64,
    pub(super) measures_relaxation: bool,
    pub(super) history_every: u64,
    pub(super) validation: Option<Arc<(DMatrix<T>, DMatrix<T>)>>,
    pub(super) metric: Option<Metric<T>>,
    pub(super) time_limit: Option<Duration>,
    pub(super) stop_flag: Option<Arc<AtomicBool>>,
}

impl<T: Scalar> Trainer<T> {
    /// A run of one phase.
    pub fn new(phase: Phase<T>) -> Self {
        Self {
            phases: vec![phase],
            seed: 0,
            threads: 1,
            execution: Execution::Automatic,
            measure_every: 1,
            measures_relaxation: false,
            history_every: 1,
            validation: None,
            metric: None,
            time_limit: None,
            stop_flag: None,
        }
    }

    /// Appends a phase, which continues from the end of the previous one.
    pub fn then(mut self, phase: Phase<T>) -> Self {
        self.phases.push(phase);
        self
    }

    /// Seed of the shuffling; 0 unless set.
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Threads that share the work, at most one per layer or core; 1 unless set.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for 0; [`Error::FeatureDisabled`] for more than 1 without the feature
    /// `rayon`.
    pub fn with_threads(mut self, threads: usize) -> Result<Self, Error> {
        let option = "Trainer::threads";
        at_least_one(option, threads as u64)?;
        if threads > 1 && cfg!(not(feature = "rayon")) {
            let feature = "rayon";
            return Err(Error::FeatureDisabled { option, feature });
        }
        self.threads = threads;
        Ok(self)
    }

    /// How several threads divide the work; [`Execution::Automatic`] unless set.
    pub fn with_execution(mut self, execution: Execution) -> Self {
        self.execution = execution;
        self
    }

    /// Epochs between measurements of composed loss, gap and validation loss; 1 unless set. Unless it
    /// is 0, the composed loss is also measured before a phase's first step, for
    /// [`Warning::Worse`](crate::training::Warning::Worse). 0 means never (except for [`Stopping::Validation`](crate::training::Stopping::Validation), which
    /// measures its loss after every epoch).
    pub fn with_measure_every(mut self, epochs: u64) -> Self {
        self.measure_every = epochs;
        self
    }

    /// Measures f̄, how far the first visit's targets have gone from the forward pass to the equilibrium of
    /// a Z-step ([`EpochRecord::relaxation`](crate::training::EpochRecord::relaxation)), in every epoch that is
    /// measured (at least one: [`Trainer::check`] refuses it with [`Trainer::with_measure_every`] of 0). This
    /// costs that visit about as much as a step of backprop.
    #[doc(alias("regime", "f̄"))]
    pub fn measure_relaxation(mut self) -> Self {
        self.measures_relaxation = true;
        self
    }

    /// Keeps the record (a few hundred bytes) of every k-th epoch in the history, k = `epochs`; 1
    /// unless set, and 0 keeps none. Callbacks and events get every record.
    pub fn with_history_every(mut self, epochs: u64) -> Self {
        self.history_every = epochs;
        self
    }

    /// Validation examples, not used for training, one per column of `inputs` and `targets`.
    pub fn with_validation(mut self, inputs: DMatrix<T>, targets: DMatrix<T>) -> Self {
        self.validation = Some(Arc::new((inputs, targets)));
        self
    }

    /// Measures `metric` whenever the validation loss is measured, for
    /// [`EpochRecord::metric`](crate::training::EpochRecord::metric).
    ///
    /// Its arguments are the targets (d_T × n) and the predictions
    /// ([`DecoupledCircuit::predict`](crate::DecoupledCircuit::predict)) of all validation examples.
    /// Its error ends the run, and so does a value that is not finite ([`Error::InvalidOption`]). It
    /// costs another forward pass over the validation examples.
    ///
    /// # Examples
    /// ```
    /// use layerwise::data::metrics;
    /// use layerwise::prelude::*;
    ///
    /// # let circuit = Circuit::<f64>::builder().layer(Dense::new(2, 2, Activation::Identity)?);
    /// # let mut model = DecoupledCircuit::new(circuit.build()?, Energy::new(SoftmaxCrossEntropy))?;
    /// # let x = DMatrix::from_fn(2, 40, |i, j| ((3 * i + 5 * j) % 7) as f64 / 3.0 - 1.0);
    /// # let labels: Vec<usize> = x.column_iter().map(|x| usize::from(x[0] > x[1])).collect();
    /// # let y = metrics::one_hot(&labels, 2)?;
    /// # model.add_examples(&x, &y, &TargetInit::ForwardPass)?;
    /// let trainer = Trainer::new(Phase::new(Backprop, Adam::new(1e-2)?).with_epochs(100))
    ///     .with_validation(x, y)
    ///     .with_metric(|y, predictions| metrics::accuracy(y, predictions));
    /// let report = trainer.run(&mut model)?;
    /// assert!(report.last().and_then(|record| record.metric) > Some(0.9));
    /// # Ok::<(), Error>(())
    /// ```
    #[doc(alias = "accuracy")]
    pub fn with_metric(
        mut self,
        metric: impl Fn(&DMatrix<T>, &DMatrix<T>) -> Result<f64, Error> + Send + Sync + 'static,
    ) -> Self {
        self.metric = Some(Metric {
            function: Arc::new(metric),
            of_means: false,
        });
        self
    }

    /// [`Trainer::with_metric`], in place of it, for a metric of probabilities, such as
    /// [`log_loss`](crate::data::metrics::log_loss): instead of predictions, which are logits under a
    /// cross entropy, it gets the means that they stand for
    /// ([`DecoupledCircuit::predict_proba`](crate::DecoupledCircuit::predict_proba)).
    ///
    /// # Examples
    /// ```
    /// # use layerwise::{data::metrics, prelude::*};
    /// # fn of(trainer: Trainer<f64>) -> Trainer<f64> {
    /// trainer.with_metric_of_probabilities(|y, p| metrics::log_loss(y, p))
    /// # }
    /// ```
    #[doc(alias("log_loss", "calibration"))]
    pub fn with_metric_of_probabilities(
        mut self,
        metric: impl Fn(&DMatrix<T>, &DMatrix<T>) -> Result<f64, Error> + Send + Sync + 'static,
    ) -> Self {
        self.metric = Some(Metric {
            function: Arc::new(metric),
            of_means: true,
        });
        self
    }

    /// Wall-clock time after which the run ends, checked between visits and before a phase begins.
    pub fn with_time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = Some(limit);
        self
    }

    /// Ends the run cleanly once `flag` is true, which is checked between visits and before a phase
    /// begins. Another thread or a signal handler can set it.
    pub fn with_stop_flag(mut self, flag: Arc<AtomicBool>) -> Self {
        self.stop_flag = Some(flag);
        self
    }

    /// Seed of the shuffling.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The phases.
    pub fn phases(&self) -> &[Phase<T>] {
        &self.phases
    }

    /// Trains: a [`Session`] from start to end.
    ///
    /// Every run starts from scratch, with fresh states of optimisers and solvers and the same
    /// sequence of shuffles: 40 runs of one epoch are not one run of 40 epochs. To pause and
    /// continue, advance a [`Session`].
    ///
    /// # Errors
    /// [`RunError`], with a report of what was completed. Its error is either one of
    /// [`Trainer::check`], before anything is done, or one of [`Session::advance`], which documents
    /// the state of the model after it. Under
    /// [`Stopping::Validation`](crate::training::Stopping::Validation) the parameters are those of
    /// the best epoch.
    ///
    /// # Examples
    /// ```
    /// use layerwise::prelude::*;
    /// use layerwise::training::Session;
    ///
    /// # let circuit = Circuit::<f64>::builder().layer(Dense::new(1, 1, Activation::Identity)?);
    /// # let mut model = DecoupledCircuit::new(circuit.build()?, Energy::default())?;
    /// # let x = DMatrix::from_fn(1, 40, |_, j| j as f64 / 20.0 - 1.0);
    /// # model.add_examples(&x, &x.map(|x| 2.0 * x), &TargetInit::ForwardPass)?;
    /// let trainer = Trainer::new(Phase::new(Backprop, Adam::new(1e-2)?).with_epochs(40));
    /// // Epoch by epoch, the same bits as in one run:
    /// let mut session = Session::new(&trainer, model.clone())?;
    /// while session.epoch()?.is_some() {}
    /// trainer.run(&mut model)?;
    /// assert_eq!(session.model().circuit().parameters(0), model.circuit().parameters(0));
    ///
    /// // A failed run still reports what it completed:
    /// let diverging = Trainer::new(Phase::new(Backprop, GradientDescent::new(1e3)?).with_epochs(900));
    /// let failed = diverging.run(&mut model).unwrap_err();
    /// assert!(!failed.report.history.is_empty());
    /// # Ok::<(), Error>(())
    /// ```
    pub fn run(&self, model: &mut DecoupledCircuit<T>) -> Result<TrainingReport<T>, RunError<T>> {
        self.run_with(model, |_, _| ControlFlow::Continue(()))
    }

    /// Trains, and calls `callback` after every epoch; `ControlFlow::Break` ends the run.
    ///
    /// # Errors
    /// Those of [`Trainer::run`].
    pub fn run_with(
        &self,
        model: &mut DecoupledCircuit<T>,
        mut callback: impl FnMut(&EpochRecord<T>, &DecoupledCircuit<T>) -> ControlFlow<()> + Send,
    ) -> Result<TrainingReport<T>, RunError<T>> {
        let checked = self.check(model);
        let mut lent = Lent::new(self, model);
        let session = &mut lent.session;
        let ran = checked.and_then(|()| {
            session.within(|session| {
                while let Some(event) = session.step()? {
                    if let Event::Epoch(record) = event
                        && callback(&record, session.model()).is_break()
                    {
                        session.end(StopReason::Callback);
                    }
                }
                Ok(())
            })
        });
        if ran.is_err() {
            session.fail();
        }
        let report = session.report();
        match ran {
            Ok(()) => Ok(report),
            Err(error) => Err(RunError {
                error,
                report: Box::new(report),
            }),
        }
    }

    /// Checks that a run can begin on this model.
    ///
    /// # Errors
    /// [`Error::NoExamples`], also if every weight is 0, and for a metric or a stopping rule
    /// without validation examples; errors of the model's checks of the validation examples; errors
    /// of a scheme's checks of its W-step and the model ([`Error::NoCurvatureBound`] for bounded
    /// steps with a loss that has no bound); those of a parameter solver that fits no layer;
    /// [`Error::UnknownLayer`] or [`Error::UnknownGroup`] for options of a
    /// [`Part`](crate::training::Part) that the circuit does not have, [`Error::Combination`] for
    /// frozen parameters that a solver would move and for options that would have no effect (such
    /// as a learning-rate schedule where every layer has a solver), and [`Error::InvalidOption`]
    /// for penalties that a phase could take out of range.
    pub fn check(&self, model: &DecoupledCircuit<T>) -> Result<(), Error> {
        self.check_from(0, model.terms.penalties(), model)
    }

    /// [`Trainer::check`] of a run whose phase number `first` begins, or began, with these penalties.
    pub(super) fn check_from(
        &self,
        first: usize,
        penalties: &[T],
        model: &DecoupledCircuit<T>,
    ) -> Result<(), Error> {
        let n = model.examples.visited().len();
        let operation = match model.examples().is_empty() {
            true => "training",
            false => "training (all examples have weight 0 and are left out)",
        };
        check_examples(n, operation)?;
        if let Some(validation) = &self.validation {
            let (inputs, targets) = &**validation;
            model.circuit.check_inputs(inputs).map_err(of_validation)?;
            model.circuit.check_output(inputs.ncols())?;
            let shape = (model.circuit.dims()[model.circuit.depth()], inputs.ncols());
            check_shape("validation targets, one column per example", targets, shape)?;
            let checked = model
                .terms
                .check_outputs(&model.circuit, inputs.ncols(), targets);
            checked.map_err(of_validation)?;
            check_examples(inputs.ncols(), "validation")?;
        }
        if self.metric.is_some() && self.validation.is_none() {
            return Err(Error::NoExamples {
                operation: "Trainer::with_metric, on the examples of Trainer::with_validation,",
            });
        }
        let validates = self.phases.iter().any(Phase::validates);
        if self.validation.is_some() && self.measure_every == 0 && !validates {
            return refuse(
                "validation examples with Trainer::with_measure_every(0)",
                "nothing would be measured on them: no phase has Stopping::Validation either",
            );
        }
        if self.measures_relaxation && self.measure_every == 0 {
            return refuse(
                "Trainer::measure_relaxation with Trainer::with_measure_every(0)",
                "f̄ is measured in the epochs that are measured, and none would be",
            );
        }
        let mut penalties = PenaltyRange::new(penalties);
        for (number, phase) in self.phases.iter().enumerate() {
            phase.scheme.check(&phase.w_step)?;
            phase.check_targets(model)?;
            phase.scheme.check_model(model)?;
            phase.w_step.start(model)?;
            phase.check_w_step(model)?;
            if phase.validates() && self.validation.is_none() {
                return Err(Error::NoExamples {
                    operation: "Stopping::Validation, on the examples of Trainer::with_validation,",
                });
            }
            let visits = phase.epochs.saturating_mul(phase.batches(n));
            phase.penalty_rule().check(model.layers())?;
            if number >= first {
                penalties.pass(phase.penalty_rule(), visits, phase.may_end_early())?;
            }
        }
        Ok(())
    }
}

/// Says that the data in an error are those for validation.
fn of_validation(mut error: Error) -> Error {
    match &mut error {
        Error::Shape { what, .. } => what.insert_str(0, "validation "),
        Error::NonFiniteData {
            quantity, layer, ..
        } => {
            *quantity = match quantity {
                Quantity::Input => Quantity::ValidationInput,
                _ => Quantity::ValidationTarget,
            };
            *layer = 0;
        }
        Error::TargetDomain { reason, .. } | Error::InputDomain { reason, .. } => {
            reason.push_str(" (in the validation examples)");
        }
        _ => {}
    }
    error
}

/// A function of targets and predictions, or of targets and the means that predictions stand for.
#[derive(Clone)]
pub(super) struct Metric<T> {
    function: Arc<MetricFunction<T>>,
    of_means: bool,
}

type MetricFunction<T> = dyn Fn(&DMatrix<T>, &DMatrix<T>) -> Result<f64, Error> + Send + Sync;

impl<T: Scalar> Metric<T> {
    /// Its value on these examples, if that is finite.
    pub(super) fn measure(
        &self,
        model: &DecoupledCircuit<T>,
        inputs: &DMatrix<T>,
        targets: &DMatrix<T>,
    ) -> Result<f64, Error> {
        let outputs = match self.of_means {
            true => model.predict_proba(inputs)?,
            false => model.predict(inputs)?,
        };
        let value = (self.function)(targets, &outputs)?;
        finite("value of Trainer::with_metric", value)
    }
}

impl<T> fmt::Debug for Metric<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metric")
    }
}

/// A session on a borrowed model, which goes back to its owner even after an error or panic.
struct Lent<'m, T: Scalar> {
    session: Session<T>,
    owner: &'m mut DecoupledCircuit<T>,
}

impl<'m, T: Scalar> Lent<'m, T> {
    fn new(trainer: &Trainer<T>, owner: &'m mut DecoupledCircuit<T>) -> Self {
        let model = std::mem::replace(owner, DecoupledCircuit::hollow());
        Self {
            session: Session::begin(trainer, model),
            owner,
        }
    }
}

impl<T: Scalar> Drop for Lent<'_, T> {
    fn drop(&mut self) {
        self.session.put_best_back();
        std::mem::swap(self.owner, self.session.model_mut());
    }
}
