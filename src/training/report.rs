//! What a training run reports.

use std::fmt;

use crate::error::Error;
use crate::kernel::Scalar;
use crate::target_solver::SolveReport;

/// Why a phase, or a run, ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum StopReason {
    /// All epochs were completed.
    Epochs,
    /// The objective was reached ([`Stopping::Objective`](crate::training::Stopping::Objective)).
    Objective,
    /// The objective stagnated ([`Stopping::Stagnation`](crate::training::Stopping::Stagnation)).
    Stagnation,
    /// The validation loss stagnated ([`Stopping::Validation`](crate::training::Stopping::Validation)).
    Validation,
    /// The time limit of the run was reached
    /// ([`Trainer::with_time_limit`](crate::training::Trainer::with_time_limit)).
    TimeLimit,
    /// The stop flag was set, or [`Session::stop`](crate::training::Session::stop) called.
    Requested,
    /// The callback asked for it.
    Callback,
    /// [`Trainer::run`](crate::training::Trainer::run) ended with an error.
    Failed,
    /// It has not ended: a session was left, or asked for its report, before that.
    InProgress,
    /// The time limit of the phase was reached
    /// ([`Phase::with_time_limit`](crate::training::Phase::with_time_limit)).
    PhaseTimeLimit,
}

impl StopReason {
    /// Whether it broke off a run that would have gone on.
    pub(super) fn interrupts(self) -> bool {
        matches!(self, Self::TimeLimit | Self::Requested | Self::Callback)
    }
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Epochs => "all epochs done",
            Self::Objective => "the objective was reached",
            Self::Stagnation => "the objective stopped falling",
            Self::Validation => "the validation loss stopped falling",
            Self::TimeLimit => "the time limit was reached",
            Self::PhaseTimeLimit => "the time limit of the phase was reached",
            Self::Requested => "stopped on request",
            Self::Callback => "stopped by the callback",
            Self::Failed => "failed",
            Self::InProgress => "not ended yet",
        })
    }
}

/// Something in an epoch that is not an error, but is rarely intended.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Warning {
    /// θ_t has not changed in the phase, although its gradient was not 0; or its solver was stuck
    /// ([`ParameterReport::stuck`](crate::parameter_solver::ParameterReport::stuck)).
    Frozen {
        /// t.
        layer: usize,
    },
    /// No Z-step has changed z_t of any example in the phase, although a step of ∂E/∂z_t divided by
    /// a bound on its curvature would have changed it by more than rounding. This is checked in the
    /// Z-steps of [`Decoupling`](crate::training::Decoupling), at the first visit of every epoch.
    FrozenTargets {
        /// t.
        layer: usize,
    },
    /// θ_t did not change and its gradient was 0, while other layers did learn.
    Unreached {
        /// t.
        layer: usize,
    },
    /// Layer t gives an example a different output when another example is in the batch: it mixes
    /// examples, which its contract forbids.
    Mixes {
        /// t.
        layer: usize,
    },
    /// The activation of the last layer, t = T−1, limits its outputs, but the output loss takes
    /// logits. This is checked in layers with a [`Layer::affine`](crate::Layer::affine) form, such
    /// as `Dense`, but not inside a [`Sequential`](crate::layer::Sequential).
    Squashed {
        /// t.
        layer: usize,
    },
    /// There was a visit in which every step of every example's targets was undone, or so short that
    /// it lowered E by no more than rounding ([`SolveReport::stuck`]).
    Undone,
    /// The Z-step of the epoch's first visit raised E more than tenfold.
    Raised,
    /// The composed loss is ∞, or has more than doubled since the phase began. (If the loss can be
    /// negative: it has risen by more than the value of (1/n) Σᵢ |Lⁱ| at the start of the phase.) A
    /// rise within rounding does not count. In a run's list of warnings, `loss` is the last value.
    Worse {
        /// The composed loss per example.
        #[cfg_attr(feature = "serde", serde(with = "crate::readable"))]
        loss: f64,
        /// What it must not exceed: twice the loss at the start of the phase, or that loss plus
        /// (1/n) Σᵢ |Lⁱ|; the largest finite number if that value was not finite.
        limit: f64,
    },
    /// The inputs are far above unit scale: the root mean square of all their values is above
    /// [`Warning::UNIT_SCALE`]. Saturating units then have almost no slope, and the gradients of
    /// the first weights are too large by the same factor. This is checked where the first layer
    /// has a [`Layer::affine`](crate::Layer::affine) form, such as `Dense`.
    Unscaled {
        /// The root mean square.
        size: f64,
    },
}

impl Warning {
    /// The largest root mean square of inputs that does not cause [`Warning::Unscaled`].
    /// Standardised inputs have 1, pixels from 0 to 1 have less, and pixels from 0 to 255 have
    /// about 80.
    pub const UNIT_SCALE: f64 = 5.0;

    /// The layer that it concerns, if any.
    fn layer(&self) -> Option<usize> {
        match *self {
            Self::Frozen { layer }
            | Self::FrozenTargets { layer }
            | Self::Unreached { layer }
            | Self::Mixes { layer }
            | Self::Squashed { layer } => Some(layer),
            Self::Undone | Self::Raised | Self::Worse { .. } | Self::Unscaled { .. } => None,
        }
    }

    /// Whether the two say the same of the same layer, perhaps with other numbers.
    pub(super) fn is_alike(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Worse { .. }, Self::Worse { .. }) => true,
            _ => self == other,
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frozen { layer } => write!(
                f,
                "layer {layer} did not move, although its gradient was not 0: rounding swallows its \
                 step, or its solver finds no step. Is the learning rate too small, did a large one \
                 inflate the weights, or are the data far from unit scale?"
            ),
            Self::FrozenTargets { layer } => write!(
                f,
                "the targets z_{layer} did not move, although their gradient was not 0: rounding swallows \
                 their step, or the solver makes none. Is its step size or learning rate too small?"
            ),
            Self::Unreached { layer } => write!(
                f,
                "layer {layer} did not move, as its gradient was 0: the Z-steps do not reach its target (a \
                 `ReverseSweep` reaches all), the signal fades to 0 with depth, or its units are saturated"
            ),
            Self::Mixes { layer } => write!(
                f,
                "layer {layer} mixes examples: its output for one example depends on other columns of the batch"
            ),
            Self::Squashed { layer } => write!(
                f,
                "the activation of layer {layer} limits its outputs, but the output loss expects \
                 logits: use Activation::Identity there"
            ),
            Self::Undone => f.write_str(
                "every target step of a visit was undone, or too short to lower the energy: is the \
                 learning rate too large, a curvature bound too small, or a derivative wrong?",
            ),
            Self::Raised => f.write_str(
                "a Z-step raised the energy more than tenfold: is its step unchecked and too long?",
            ),
            Self::Worse { loss, limit } => write!(
                f,
                "the composed loss has risen to {loss:.3e} per example, above {limit:.3e}, about twice its \
                 value at the start of the phase: is the learning rate too large, or has the gap opened \
                 (see Diagnostics in the guide)?"
            ),
            Self::Unscaled { size } => write!(
                f,
                "the inputs are far above unit scale (their root mean square is {size:.3e}), which \
                 saturates units and makes gradients large: scale the inputs, for example with a \
                 Standardizer"
            ),
        }
    }
}

/// What happened in a run since the last event.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(
    feature = "serde",
    serde(bound(
        serialize = "T: Scalar + serde::Serialize",
        deserialize = "T: Scalar + serde::Deserialize<'de>"
    ))
)]
pub enum Event<T> {
    /// A batch was visited.
    Visit(VisitRecord<T>),
    /// An epoch ended, or was interrupted by a limit.
    Epoch(EpochRecord<T>),
    /// A phase ended.
    Phase(PhaseReport),
    /// The run was saved.
    Checkpoint(CheckpointRecord),
    /// The run ended; no event follows.
    Stop(StopReason),
}

/// A run that was saved.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct CheckpointRecord {
    /// Completed visits of the run, from which a resumed run goes on.
    pub visits: u64,
    /// How long it took.
    pub seconds: f64,
}

/// A checkpoint that could not be saved, or an observer that failed, in a run that went on
/// ([`Session::continue_after_failures`](crate::training::Session::continue_after_failures)); or the
/// end of a phase that failed in a run that was stopped
/// ([`Scheme::finish`](crate::training::Scheme::finish)).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Failure {
    /// Completed visits of the run.
    pub visits: u64,
    /// The message of the error.
    pub message: String,
}

impl Failure {
    pub(super) fn new(visits: u64, error: &Error) -> Self {
        Self {
            visits,
            message: error.to_string(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "after {} visits: {}", self.visits, self.message)
    }
}

/// One visit of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(
    feature = "serde",
    serde(bound(
        serialize = "T: Scalar + serde::Serialize",
        deserialize = "T: Scalar + serde::Deserialize<'de>"
    ))
)]
pub struct VisitRecord<T> {
    /// Number of the phase, from 0.
    pub phase: usize,
    /// Number of the epoch in the run, from 1.
    pub epoch: u64,
    /// Number of the visit in the run, from 1.
    pub visit: u64,
    /// Examples of the batch.
    pub examples: usize,
    /// The scheme's objective on the batch (a sum over its examples) before the last parameter
    /// step.
    #[cfg_attr(feature = "serde", serde(with = "crate::readable"))]
    pub objective: T,
}

/// One epoch of a run. All losses and gaps are means over examples.
///
/// What a visit computes must be finite, or the run ends with [`Error::NonFinite`]. What is measured
/// after an epoch may be ∞, where a loss overflows; NaN is the same error. Formats that people read,
/// such as JSON, get ∞ as the text "inf", and read it back.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(
    feature = "serde",
    serde(bound(
        serialize = "T: Scalar + serde::Serialize",
        deserialize = "T: Scalar + serde::Deserialize<'de>"
    ))
)]
pub struct EpochRecord<T> {
    /// Number of the phase, from 0.
    pub phase: usize,
    /// Number of the epoch in the run, from 1.
    pub epoch: u64,
    /// Parameter steps of the run so far.
    pub steps: u64,
    /// The scheme's objective (E, or backprop's composed objective) per example, averaged over the
    /// epoch; each batch is measured before its last parameter step.
    #[cfg_attr(feature = "serde", serde(with = "crate::readable"))]
    pub objective: T,
    /// Composed loss L of the plain forward pass per example, after the epoch; `None` if not
    /// measured in this epoch. (The model's
    /// [`composed_loss`](crate::decoupled::DecoupledCircuit::composed_loss) is the sum.)
    #[cfg_attr(feature = "serde", serde(with = "crate::readable::optional"))]
    pub composed_loss: Option<T>,
    /// Composed loss per validation example, after the epoch; `None` if not measured in this epoch.
    #[cfg_attr(feature = "serde", serde(with = "crate::readable::optional"))]
    pub validation_loss: Option<T>,
    /// The metric of [`Trainer::with_metric`](crate::training::Trainer::with_metric) on the
    /// validation examples, after the epoch; `None` without one, if not measured in this epoch, or
    /// if the validation loss is ∞. Under
    /// [`Stopping::Validation`](crate::training::Stopping::Validation) the run may keep the
    /// parameters of an earlier epoch: see [`PhaseReport::best_epoch`].
    pub metric: Option<f64>,
    /// (Σ_t Σᵢ ‖z_tⁱ − ẑ_tⁱ‖² / n)^½ over all hidden layers, after the epoch, with the stored
    /// targets of the examples; `None` if not measured in this epoch, or if the scheme stores no
    /// targets between visits (as with refreshed targets: see `gap_after`). Low energy alone does
    /// not make a working network: check this and the composed loss too.
    #[cfg_attr(feature = "serde", serde(with = "crate::readable::optional"))]
    pub gap: Option<T>,
    /// The same gap before each visit's Z-step: of the stored targets if they persist, or of the
    /// targets that the visit started from (0 if refreshed, the kept share of the residuals if
    /// carried). `None` for schemes that do not report it. If it exceeds the previous epoch's
    /// `gap_after`, the targets are stale: θ moved away from them between visits.
    #[cfg_attr(feature = "serde", serde(with = "crate::readable::optional"))]
    pub gap_before: Option<T>,
    /// The same gap after each visit's Z-step, before θ moved; `None` without a solver.
    #[cfg_attr(feature = "serde", serde(with = "crate::readable::optional"))]
    pub gap_after: Option<T>,
    /// f̄, the share of the way from the forward pass to the equilibrium of a Z-step that the targets had
    /// gone where θ's gradients were computed, in the first visit of the epoch
    /// ([`DiagnosticReport::relaxation`](crate::diagnostics::DiagnosticReport::relaxation)). `None` unless
    /// [`Trainer::measure_relaxation`](crate::training::Trainer::measure_relaxation) asks for it, for schemes
    /// that do not record it, or if it is not defined or overflows.
    pub relaxation: Option<f64>,
    /// Report of the target solver, summed over the epoch's visits (an example counts once per
    /// visit); `None` for schemes that do not report it.
    pub solved: Option<SolveReport>,
    /// Factor of the learning rate in the last visit of the epoch.
    pub factor: f64,
    /// What looks wrong in the epoch.
    pub warnings: Vec<Warning>,
}

impl<T: Scalar> fmt::Display for EpochRecord<T> {
    /// What was measured, on one line; the gap is [`gap`](Self::gap) or else
    /// [`gap_after`](Self::gap_after).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "epoch {}: objective {:.3e}",
            self.epoch,
            self.objective.as_f64()
        )?;
        let gap = self.gap.or(self.gap_after);
        for (name, value) in [
            ("composed loss", self.composed_loss),
            ("validation loss", self.validation_loss),
            ("gap", gap),
        ] {
            if let Some(value) = value {
                write!(f, ", {name} {:.3e}", value.as_f64())?;
            }
        }
        if let Some(metric) = self.metric {
            write!(f, ", metric {metric:.4}")?;
        }
        Ok(())
    }
}

/// One phase of a run.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct PhaseReport {
    /// Epochs begun.
    pub epochs: u64,
    /// Parameter steps made.
    pub steps: u64,
    /// Why it ended.
    pub stop: StopReason,
    /// With [`Stopping::Validation`](crate::training::Stopping::Validation), the epoch (numbered
    /// within the run) whose parameters were kept.
    pub best_epoch: Option<u64>,
    /// μ_1, …, μ_{T−1} at its last visit, as changed by a schedule or
    /// [`PenaltyGrowth`](crate::training::PenaltyGrowth).
    pub penalties: Vec<f64>,
}

impl fmt::Display for PhaseReport {
    /// Epochs, parameter steps and the reason the run ended, on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (epochs, steps) = (self.epochs, self.steps);
        write!(f, "{epochs} epochs, {steps} parameter steps: {}", self.stop)?;
        match self.best_epoch {
            Some(epoch) => write!(f, "; kept the parameters of epoch {epoch}"),
            None => Ok(()),
        }
    }
}

/// The report of a run, or of the part of it that was completed.
///
/// It is printed as a summary: the run, its last record (and the last record with a composed loss,
/// if that is a different one), and one line for each warning, naming every layer it concerns.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(
    feature = "serde",
    serde(bound(
        serialize = "T: Scalar + serde::Serialize",
        deserialize = "T: Scalar + serde::Deserialize<'de>"
    ))
)]
pub struct TrainingReport<T> {
    /// One record per epoch, or fewer as set by
    /// [`Trainer::with_history_every`](crate::training::Trainer::with_history_every).
    pub history: Vec<EpochRecord<T>>,
    /// Every distinct warning of each phase, whether or not its epochs are in the history.
    pub warnings: Vec<Warned>,
    /// What could not be saved or observed, in a run that went on, and phases whose end failed in a
    /// run that was stopped.
    pub failures: Vec<Failure>,
    /// One report for every phase that was begun.
    pub phases: Vec<PhaseReport>,
    /// Why the run ended: the reason of its last phase.
    pub stop: StopReason,
    /// Parameter steps made.
    pub steps: u64,
    /// Wall-clock time of the run in seconds, including callbacks and measurements.
    pub seconds: f64,
}

impl<T> TrainingReport<T> {
    /// The last record of the history. Its parameters need not be those that are kept: see
    /// [`PhaseReport::best_epoch`].
    pub fn last(&self) -> Option<&EpochRecord<T>> {
        self.history.last()
    }

    /// The last record of the history that has a composed loss. It is not the very last record if
    /// that epoch was interrupted or not measured.
    pub fn last_measured(&self) -> Option<&EpochRecord<T>> {
        let mut records = self.history.iter().rev();
        records.find(|record| record.composed_loss.is_some())
    }
}

impl<T: Scalar> fmt::Display for TrainingReport<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A report that was read may say anything.
        let epochs = self.phases.iter().map(|phase| phase.epochs);
        let epochs = epochs.fold(0, u64::saturating_add);
        write!(
            f,
            "{epochs} epochs, {} parameter steps, {:.1} s: {}",
            self.steps, self.seconds, self.stop
        )?;
        if let Some(record) = self.last() {
            write!(f, "\n{record}")?;
        }
        let last = self.last().map(|record| record.epoch);
        if let Some(record) = self.last_measured()
            && Some(record.epoch) != last
        {
            write!(f, "\nlast measured in {record}")?;
        }
        let kept = self.phases.last().and_then(|phase| phase.best_epoch);
        if let Some(epoch) = kept {
            write!(f, "\nkept the parameters of epoch {epoch}")?;
            let mut records = self.history.iter();
            let best = records.find(|record| record.epoch == epoch);
            if let Some(loss) = best.and_then(|record| record.validation_loss) {
                write!(f, ": validation loss {:.3e}", loss.as_f64())?;
            }
        }
        for (i, own) in self.warnings.iter().enumerate() {
            let told = |other: &Warned| other.is_also(own);
            if self.warnings[..i].iter().any(told) {
                continue;
            }
            write!(f, "\nwarning: {own}")?;
            let others = self.warnings[i + 1..].iter().filter(|other| told(other));
            let others: Vec<usize> = others.filter_map(|other| other.warning.layer()).collect();
            if !others.is_empty() {
                write!(f, " ({} too)", layers(&others))?;
            }
        }
        for own in &self.failures {
            write!(f, "\nfailed: {own}")?;
        }
        Ok(())
    }
}

/// A [`Warning`] of a run, and the epochs that it came from.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Warned {
    /// The warning, with the numbers of the last of its epochs.
    pub warning: Warning,
    /// Number of the phase, from 0.
    pub phase: usize,
    /// The first and the last of its epochs, numbered in the run from 1.
    pub epochs: [u64; 2],
    /// How many epochs gave it.
    pub count: u64,
}

impl Warned {
    /// Whether both are about a layer and give the same warning in the same epochs.
    fn is_also(&self, other: &Self) -> bool {
        let kind = |own: &Self| {
            let warning = std::mem::discriminant(&own.warning);
            (own.phase, own.epochs, own.count, warning)
        };
        self.warning.layer().is_some() && kind(self) == kind(other)
    }
}

/// Ascending `numbers` as "layer 1" or "layers 1, 3 to 5".
fn layers(numbers: &[usize]) -> String {
    let runs = numbers.chunk_by(|&a, &b| a.checked_add(1) == Some(b));
    let runs = runs.map(|run| match run {
        [first, .., last] => format!("{first} to {last}"),
        _ => run[0].to_string(),
    });
    let plural = if numbers.len() > 1 { "s" } else { "" };
    format!("layer{plural} {}", runs.collect::<Vec<_>>().join(", "))
}

impl fmt::Display for Warned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([first, last], count) = (self.epochs, self.count);
        write!(f, "phase {}, ", self.phase)?;
        match last.saturating_sub(first).saturating_add(1) {
            1 => write!(f, "epoch {first}: ")?,
            all if all == count => write!(f, "epochs {first} to {last}: ")?,
            _ => write!(f, "{count} of epochs {first} to {last}: ")?,
        }
        self.warning.fmt(f)
    }
}

/// An error that ended a run, with a report of what was done before it.
///
/// `?` turns it into its [`Error`]. `Debug` prints the message too.
#[derive(Clone, PartialEq)]
pub struct RunError<T> {
    /// What went wrong.
    pub error: Error,
    /// The run so far: its `stop` is [`StopReason::Failed`].
    pub report: Box<TrainingReport<T>>,
}

impl<T> fmt::Display for RunError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<T> fmt::Debug for RunError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<T> std::error::Error for RunError<T> {}

impl<T> From<RunError<T>> for Error {
    fn from(failed: RunError<T>) -> Self {
        failed.error
    }
}
