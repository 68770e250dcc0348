//! What is shown of a history.

use crate::kernel::Scalar;
use crate::training::EpochRecord;

/// A quantity of an [`EpochRecord`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Measure {
    /// The scheme's objective, such as E, per example.
    Objective,
    /// The composed loss per example.
    ComposedLoss,
    /// The composed loss per validation example.
    ValidationLoss,
    /// The gap of the stored targets or, if there are none, the gap after the Z-steps.
    Gap,
    /// The metric.
    Metric,
}

impl Measure {
    pub(super) fn of<T: Scalar>(self, record: &EpochRecord<T>) -> Option<f64> {
        let value = match self {
            Self::Objective => Some(record.objective),
            Self::ComposedLoss => record.composed_loss,
            Self::ValidationLoss => record.validation_loss,
            Self::Gap => record.gap.or(record.gap_after),
            Self::Metric => return record.metric,
        };
        value.map(T::as_f64)
    }
}

/// What the x axis of a history shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Along {
    /// Epochs of the run.
    #[default]
    Epochs,
    /// Parameter steps of the run; most schemes make one per visit.
    Steps,
    /// Seconds, as given to [`Runs::with_timed_run`](crate::plot::Runs::with_timed_run).
    Seconds,
}
