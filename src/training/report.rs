//! What a training run tells.

use crate::Scalar;
use crate::decoupled::DecoupledCircuit;

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopReason {
    /// All epochs were made.
    Epochs,
    /// The callback asked for it.
    Callback,
}

/// One epoch of a run. All numbers are means over examples.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct EpochRecord<T> {
    /// Number of the epoch, from 1.
    pub epoch: u64,
    /// Parameter steps of the run so far.
    pub steps: u64,
    /// The scheme's objective (E, or the composed loss for backprop) per example, each batch
    /// before its last parameter step, averaged over the epoch.
    pub objective: T,
    /// Composed loss L of the plain forward pass per example, after the epoch; `None` if not
    /// measured then.
    pub composed_loss: Option<T>,
    /// (Σ_t Σᵢ ‖z_tⁱ − ẑ_tⁱ‖² / n)^½ over all hidden layers, after the epoch; `None` if not
    /// measured then, or if the scheme does not use targets. Low energy is not a working network: look at this and the composed loss.
    pub gap: Option<T>,
    /// Factor of the learning rate in the epoch's last visit.
    pub factor: f64,
}

/// A run that ended without an error.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TrainingReport<T> {
    /// One record an epoch.
    pub history: Vec<EpochRecord<T>>,
    /// Why the run ended.
    pub stop: StopReason,
    /// Parameter steps made.
    pub steps: u64,
    /// Wall-clock time of the run in seconds, callbacks and measurements included.
    pub seconds: f64,
}

/// What a callback sees after every epoch.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Progress<'a, T: Scalar> {
    /// The epoch that just ended.
    pub record: &'a EpochRecord<T>,
    /// The circuit as it is now.
    pub model: &'a DecoupledCircuit<T>,
}
