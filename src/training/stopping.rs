//! Rules that stop a phase early because of its own progress.

use super::report::StopReason;
use crate::check::{at_least_one, check_finite, check_length, finite, not_negative, option};
use crate::circuit::Circuit;
use crate::error::{Error, Quantity};
use crate::kernel::Scalar;

/// When a phase ends before its limits.
///
/// *Improvement* is relative: a value is an improvement if it is below the last improvement by more
/// than `improvement` times the magnitude of that value. So slow progress adds up (as in Keras).
#[doc(alias("early stopping", "patience"))]
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub enum Stopping {
    /// Never. The default.
    #[default]
    AtLimits,
    /// When an epoch's mean objective per example is at most this.
    Objective {
        /// The objective to reach.
        at_most: f64,
    },
    /// When the mean objective did not improve for `patience` epochs.
    Stagnation {
        /// Epochs without improvement, at least 1.
        patience: u64,
        /// Relative improvement that counts, not negative.
        improvement: f64,
    },
    /// When the loss on the validation examples did not improve for `patience` epochs. The loss is
    /// the circuit's output loss, with any class weights or label smoothing. However the phase ends
    /// (in [`Trainer::run`](crate::training::Trainer::run) even if by an error), the parameters of
    /// its best epoch are restored, or those of the earliest if several are equally good.
    /// Persistent targets stay as they were after the last visit. Prechelt 1998.
    #[doc(alias = "early stopping")]
    Validation {
        /// Epochs without improvement, at least 1.
        patience: u64,
        /// Relative improvement that counts, not negative.
        improvement: f64,
    },
}

impl Stopping {
    pub(super) fn validate(self) -> Result<(), Error> {
        match self {
            Self::AtLimits => {}
            Self::Objective { at_most } => {
                let name = "Stopping::Objective's at_most";
                option(name, at_most, !at_most.is_nan(), "a number")?;
            }
            Self::Stagnation {
                patience,
                improvement,
            }
            | Self::Validation {
                patience,
                improvement,
            } => {
                at_least_one("Stopping's patience", patience)?;
                not_negative("Stopping's improvement", improvement)?;
            }
        }
        Ok(())
    }
}

/// What a phase has reached so far.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Tracker<T> {
    /// The last value that counted as an improvement, if there is one, and the epochs since.
    // `None` rather than ∞, which JSON cannot hold: a saved state could not be loaded.
    reference: Option<f64>,
    since: u64,
    lowest: Option<f64>,
    /// Epoch and parameters of the lowest validation loss.
    best: Option<(u64, Vec<Vec<T>>)>,
}

impl<T: Scalar> Tracker<T> {
    pub(super) fn new() -> Self {
        Self {
            reference: None,
            since: 0,
            lowest: None,
            best: None,
        }
    }

    /// Starts anew unless what it has recorded is of such a rule: the objective is not comparable
    /// with the validation loss, and only that has a best epoch.
    pub(super) fn follow(&mut self, stopping: Stopping) {
        // The first epoch with validation is the best so far.
        let validated = self.best.is_some();
        if validated != matches!(stopping, Stopping::Validation { .. }) {
            *self = Self::new();
        }
    }

    /// Checks that the parameters it keeps, if any, fit this circuit.
    pub(super) fn check(&self, circuit: &Circuit<T>) -> Result<(), Error> {
        for value in [self.reference, self.lowest].into_iter().flatten() {
            finite("a loss of an earlier epoch in the state", value)?;
        }
        let Some((_, parameters)) = &self.best else {
            return Ok(());
        };
        check_length("layers of the best epoch", parameters, circuit.depth())?;
        let mut layers = parameters.iter().enumerate();
        layers.try_for_each(|(t, own)| {
            let expected = circuit.parameters(t).len();
            check_length("parameters of the best epoch", own, expected)?;
            check_finite(Quantity::Parameter, t, expected.max(1), own)
        })
    }

    /// The number of epochs that it has counted.
    pub(super) fn largest_count(&self) -> u64 {
        self.since
    }

    /// Whether the phase ends after this epoch.
    pub(super) fn ends(
        &mut self,
        stopping: Stopping,
        epoch: u64,
        objective: f64,
        validation: Option<f64>,
        circuit: &Circuit<T>,
    ) -> Option<StopReason> {
        match stopping {
            Stopping::AtLimits => None,
            Stopping::Objective { at_most } => {
                (objective <= at_most).then_some(StopReason::Objective)
            }
            Stopping::Stagnation {
                patience,
                improvement,
            } => (self.stagnates(objective, improvement) >= patience)
                .then_some(StopReason::Stagnation),
            Stopping::Validation {
                patience,
                improvement,
            } => {
                let loss = validation.unwrap_or(f64::INFINITY);
                // The first is the best so far, even if it is not finite.
                if self.best.is_none() || loss < self.lowest.unwrap_or(f64::INFINITY) {
                    self.lowest = Some(loss).filter(|loss| loss.is_finite());
                    let parameters = (0..circuit.depth()).map(|t| circuit.parameters(t).to_vec());
                    self.best = Some((epoch, parameters.collect()));
                }
                (self.stagnates(loss, improvement) >= patience).then_some(StopReason::Validation)
            }
        }
    }

    /// Epochs since the last improvement.
    fn stagnates(&mut self, value: f64, improvement: f64) -> u64 {
        // Any first value counts as an improvement.
        let bound = match self.reference {
            Some(reference) => reference - improvement * reference.abs(),
            None => f64::INFINITY,
        };
        if value < bound {
            self.reference = Some(value);
            self.since = 0;
        } else {
            self.since += 1;
        }
        self.since
    }

    /// Restores the parameters of the best epoch, and returns its number.
    pub(super) fn put_best_back(&self, circuit: &mut Circuit<T>) -> Option<u64> {
        let (epoch, parameters) = self.best.as_ref()?;
        for (own, best) in circuit.parameters_mut().iter_mut().zip(parameters) {
            own.clone_from(best);
        }
        Some(*epoch)
    }
}
