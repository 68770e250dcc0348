//! What a training run reports.

use crate::target_solver::SolveReport;

/// Why a phase, or a run, ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum StopReason {
    /// All epochs were made.
    Epochs,
    /// The objective was reached ([`Stopping::Objective`](crate::training::Stopping::Objective)).
    Objective,
    /// The objective stagnated ([`Stopping::Stagnation`](crate::training::Stopping::Stagnation)).
    Stagnation,
    /// The validation loss stagnated ([`Stopping::Validation`](crate::training::Stopping::Validation)).
    Validation,
    /// The time of the phase or of the run was over.
    TimeLimit,
    /// The stop flag was set.
    Requested,
    /// The callback asked for it.
    Callback,
}

/// What happened in a run since the last event.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Event<T> {
    /// A batch was visited.
    Visit(VisitRecord<T>),
    /// An epoch ended, or was broken off by a limit.
    Epoch(EpochRecord<T>),
    /// A phase ended.
    Phase(PhaseReport),
}

/// One visit of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct VisitRecord<T> {
    /// Number of the phase, from 0.
    pub phase: usize,
    /// Number of the epoch in the run, from 1.
    pub epoch: u64,
    /// Number of the visit in the run, from 1.
    pub visit: u64,
    /// Examples of the batch.
    pub examples: usize,
    /// The scheme's objective on the batch, a sum over its examples, before the last parameter step.
    pub objective: T,
}

/// One epoch of a run. All numbers are means over examples.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct EpochRecord<T> {
    /// Number of the phase, from 0.
    pub phase: usize,
    /// Number of the epoch in the run, from 1.
    pub epoch: u64,
    /// Parameter steps of the run so far.
    pub steps: u64,
    /// The scheme's objective (E, or backprop's composed objective) per example, each batch before
    /// its last parameter step, averaged over the epoch.
    pub objective: T,
    /// Composed loss L of the plain forward pass per example, after the epoch; `None` if not
    /// measured then. (The model's [`composed_loss`](crate::decoupled::DecoupledCircuit::composed_loss) is the sum.)
    pub composed_loss: Option<T>,
    /// Composed loss per validation example, after the epoch; `None` if not measured then.
    pub validation_loss: Option<T>,
    /// (Σ_t Σᵢ ‖z_tⁱ − ẑ_tⁱ‖² / n)^½ over all hidden layers, after the epoch, with the targets as
    /// the examples hold them; `None` if not measured then, or if the scheme does not use targets.
    /// Low energy is not a working network: look at this and the composed loss.
    pub gap: Option<T>,
    /// The same gap as the epoch's visits met it: of persistent targets as they were kept, of
    /// refreshed or carried ones as the visit set them (0, and the share of the residuals), before
    /// the Z-step; `None` for schemes that do not tell. More than `gap_after` of the epoch before
    /// means that the targets went stale: θ moved away from them between visits.
    pub gap_before: Option<T>,
    /// The same gap as the epoch's visits left it, after they moved targets and before θ moved.
    pub gap_after: Option<T>,
    /// What the solver of the Z-steps did, added up over the epoch's visits (an example counts once a
    /// visit); `None` for schemes that do not tell.
    pub solved: Option<SolveReport>,
    /// Factor of the learning rate in the epoch's last visit.
    pub factor: f64,
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
    /// Number in the run of the epoch whose parameters were kept, with
    /// [`Stopping::Validation`](crate::training::Stopping::Validation).
    pub best_epoch: Option<u64>,
    /// μ_1, …, μ_{T−1} of its last visit: what a schedule or
    /// [`PenaltyGrowth`](crate::training::PenaltyGrowth) made of them.
    pub penalties: Vec<f64>,
}

/// A run that ended without an error.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct TrainingReport<T> {
    /// One record an epoch.
    pub history: Vec<EpochRecord<T>>,
    /// One report for every phase that was begun.
    pub phases: Vec<PhaseReport>,
    /// Why the run ended: the reason of its last phase.
    pub stop: StopReason,
    /// Parameter steps made.
    pub steps: u64,
    /// Wall-clock time of the run in seconds, callbacks and measurements included.
    pub seconds: f64,
}
