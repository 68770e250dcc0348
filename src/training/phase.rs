//! One phase of a run.

use std::sync::Arc;
use std::time::Duration;

use super::penalties::PenaltyRule;
use super::penalty_growth::PenaltyGrowth;
use super::stopping::Stopping;
use super::visit::Scheme;
use crate::error::Error;
use crate::kernel::Scalar;
use crate::optimizer::Optimizer;
use crate::schedule::Schedule;

/// One phase of a run: a [`Scheme`] that visits the batches, an [`Optimizer`] for θ, and limits.
///
/// | option | default | meaning |
/// |---|---|---|
/// | `epochs` | 100 | passes over the examples, at most |
/// | `batch_size` | all | examples a visit; fewer than all: shuffled anew each epoch |
/// | `schedule` | constant | factor of θ's learning rate over the phase's visits |
/// | `penalty_schedule` | constant | factor of every μ_t, as it was when the phase began |
/// | `penalty_growth` | none | growth of each μ_t whose gap no longer falls |
/// | `max_gradient_norm` | none | bound of the norm of the mean gradient in all θ |
/// | `stopping` | at the limits | an earlier end |
/// | `time_limit` | none | seconds, looked at between visits |
///
/// Every phase starts with fresh optimiser state, and leaves μ_t as its last visit had them.
///
/// # Examples
/// ```
/// use layerwise::optimizer::Adam;
/// use layerwise::schedule::Schedule;
/// use layerwise::target_solver::ReverseSweep;
/// use layerwise::training::{Alternating, Backprop, Phase, Trainer};
///
/// // Each layer learns its own regression, then the targets move too, then backprop finishes.
/// let trainer: Trainer<f64> =
///     Trainer::new(Phase::new(Alternating::weights_only(), Adam::new(1e-2)?).epochs(50))
///         .then(
///             Phase::new(Alternating::persistent(ReverseSweep::new(1)), Adam::new(3e-3)?)
///                 .epochs(200)
///                 .penalty_schedule(Schedule::geometric(10.0)?),
///         )
///         .then(Phase::new(Backprop, Adam::new(1e-3)?).epochs(20));
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug)]
pub struct Phase<T: Scalar> {
    pub(super) scheme: Box<dyn Scheme<T>>,
    pub(super) rule: Arc<dyn Optimizer<T>>,
    pub(super) epochs: u64,
    pub(super) batch_size: Option<usize>,
    pub(super) schedule: Schedule,
    pub(super) penalty_schedule: Schedule,
    pub(super) penalty_growth: Option<PenaltyGrowth>,
    pub(super) max_norm: Option<f64>,
    pub(super) stopping: Stopping,
    pub(super) time_limit: Option<Duration>,
}

impl<T: Scalar> Phase<T> {
    /// A phase in which `scheme` visits the batches and `rule` moves the parameters.
    pub fn new(scheme: impl Scheme<T> + 'static, rule: impl Optimizer<T> + 'static) -> Self {
        Self {
            scheme: Box::new(scheme),
            rule: Arc::new(rule),
            epochs: 100,
            batch_size: None,
            schedule: Schedule::CONSTANT,
            penalty_schedule: Schedule::CONSTANT,
            penalty_growth: None,
            max_norm: None,
            stopping: Stopping::AtLimits,
            time_limit: None,
        }
    }

    /// Passes over the examples, at most; 0 makes no visit.
    pub fn epochs(mut self, epochs: u64) -> Self {
        self.epochs = epochs;
        self
    }

    /// Examples a visit, at least 1; the last batch of an epoch takes what is left.
    pub fn batch_size(mut self, examples: usize) -> Self {
        self.batch_size = Some(examples);
        self
    }

    /// Factor of θ's learning rate over the visits of the phase.
    pub fn schedule(mut self, schedule: Schedule) -> Self {
        self.schedule = schedule;
        self
    }

    /// Factor of every penalty μ_t over the visits of the phase, relative to its value when the
    /// phase begins. The circuit keeps the last values.
    pub fn penalty_schedule(mut self, schedule: Schedule) -> Self {
        self.penalty_schedule = schedule;
        self
    }

    /// Lets each μ_t grow by itself over the visits of the phase, wherever its gap no longer falls.
    /// The circuit keeps the last values, and [`PhaseReport`](crate::training::PhaseReport) tells them. Not
    /// beside a penalty schedule.
    pub fn penalty_growth(mut self, growth: PenaltyGrowth) -> Self {
        self.penalty_growth = Some(growth);
        self
    }

    /// Scales the mean gradient in all θ down to this norm where it is longer, above 0. Pascanu,
    /// Mikolov & Bengio 2013. One number over all layers: a step waits for every layer's norm.
    pub fn max_gradient_norm(mut self, norm: f64) -> Self {
        self.max_norm = Some(norm);
        self
    }

    /// A rule for an earlier end.
    pub fn stopping(mut self, stopping: Stopping) -> Self {
        self.stopping = stopping;
        self
    }

    /// Wall-clock time after which the phase ends, looked at between visits.
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = Some(limit);
        self
    }

    /// Examples a visit, of n.
    pub(super) fn batch_size_of(&self, n: usize) -> usize {
        self.batch_size.unwrap_or(n).min(n)
    }

    /// Visits an epoch, of n examples.
    pub(super) fn batches(&self, n: usize) -> u64 {
        n.div_ceil(self.batch_size_of(n)) as u64
    }

    /// What moves μ.
    pub(super) fn penalty_rule(&self) -> PenaltyRule {
        match self.penalty_growth {
            Some(growth) => PenaltyRule::Growing(growth),
            None => PenaltyRule::Scheduled(self.penalty_schedule),
        }
    }

    pub(super) fn validate(&self, has_validation: bool) -> Result<(), Error> {
        if self.batch_size == Some(0) {
            return Err(Error::InvalidOption {
                option: "Phase::batch_size",
                value: 0.0,
                allowed: "at least 1",
            });
        }
        if let Some(norm) = self.max_norm
            && !(norm > 0.0 && norm.is_finite())
        {
            return Err(Error::InvalidOption {
                option: "Phase::max_gradient_norm",
                value: norm,
                allowed: "above 0 and finite",
            });
        }
        if self.penalty_schedule != Schedule::CONSTANT && !self.scheme.uses_penalties() {
            return Err(Error::InvalidOption {
                option: "Phase::penalty_schedule",
                value: self.penalty_schedule.factor(u64::MAX, 1),
                allowed: "constant, since μ has no part in the scheme or must be 1",
            });
        }
        if let Some(growth) = self.penalty_growth {
            let refused = |allowed| {
                Err(Error::InvalidOption {
                    option: "Phase::penalty_growth",
                    value: growth.visits() as f64,
                    allowed,
                })
            };
            if self.penalty_schedule != Schedule::CONSTANT {
                return refused("left out beside a penalty schedule: one of the two moves μ");
            }
            if !(self.scheme.uses_penalties() && self.scheme.uses_targets()) {
                return refused("left out, since μ has no part in the scheme or must be 1");
            }
        }
        if matches!(self.stopping, Stopping::Validation { .. }) && !has_validation {
            return Err(Error::NoExamples {
                operation: "Stopping::Validation (give them with Trainer::validation)",
            });
        }
        self.stopping.validate()
    }
}
