//! One phase of a run.

use std::sync::Arc;
use std::time::Duration;

use super::error_share::ErrorShare;
use super::penalties::PenaltyRule;
use super::penalty_growth::PenaltyGrowth;
use super::scheme::Scheme;
use super::stopping::Stopping;
use super::w_step::WStep;
use crate::check::{at_least_one, refuse};
use crate::decoupled::{DecoupledCircuit, TargetUse};
use crate::error::Error;
use crate::kernel::Scalar;
use crate::optimizer::Optimizer;
use crate::schedule::Schedule;

/// One phase of a run: a [`Scheme`] that visits the batches, a [`WStep`] that moves θ, and limits.
///
/// Every phase starts with fresh state for the scheme and the W-step, and leaves every μ_t at its
/// value in the last visit. A phase holds only options: it can be cloned, and used for any number
/// of runs.
///
/// # Examples
/// ```
/// use layerwise::prelude::*;
/// use layerwise::training::Decoupling;
///
/// // Each layer learns its own regression, then the targets move too, then backprop finishes.
/// let trainer: Trainer<f64> =
///     Trainer::new(Phase::new(Decoupling::weights_only(), Adam::new(1e-2)?).with_epochs(50))
///         .then(
///             Phase::new(Decoupling::persistent(ReverseSweep::new(1)), Adam::new(3e-3)?)
///                 .with_epochs(200)
///                 .with_penalty_schedule(Schedule::geometric(10.0)?)?,
///         )
///         .then(Phase::new(Backprop, Adam::new(1e-3)?).with_epochs(20));
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Phase<T: Scalar> {
    pub(super) scheme: Arc<dyn Scheme<T>>,
    pub(super) w_step: WStep<T>,
    pub(super) epochs: u64,
    pub(super) batch_size: Option<usize>,
    pub(super) schedule: Schedule,
    pub(super) penalty_schedule: Schedule,
    pub(super) penalty_growth: Option<PenaltyGrowth>,
    pub(super) error_share: Option<ErrorShare>,
    pub(super) stopping: Stopping,
    pub(super) time_limit: Option<Duration>,
}

const NO_PENALTIES: &str = "the scheme does not use μ, or requires μ = 1";

impl<T: Scalar> Phase<T> {
    /// A phase in which `scheme` visits the batches and `rule` moves the parameters.
    pub fn new(scheme: impl Scheme<T> + 'static, rule: impl Optimizer<T> + 'static) -> Self {
        Self::of(Arc::new(scheme), WStep::optimizer(rule))
    }

    /// A phase in which `scheme` visits the batches and `w_step`, if it does anything, moves the
    /// parameters.
    ///
    /// # Errors
    /// [`Error::Combination`] if the two cannot be combined.
    pub fn with_w_step(scheme: impl Scheme<T> + 'static, w_step: WStep<T>) -> Result<Self, Error> {
        w_step.check()?;
        scheme.check(&w_step)?;
        Ok(Self::of(Arc::new(scheme), w_step))
    }

    fn of(scheme: Arc<dyn Scheme<T>>, w_step: WStep<T>) -> Self {
        Self {
            scheme,
            w_step,
            epochs: 100,
            batch_size: None,
            schedule: Schedule::CONSTANT,
            penalty_schedule: Schedule::CONSTANT,
            penalty_growth: None,
            error_share: None,
            stopping: Stopping::AtLimits,
            time_limit: None,
        }
    }

    /// Maximum number of passes over the examples; 100 unless set. With 0 no visit is made.
    pub fn with_epochs(mut self, epochs: u64) -> Self {
        self.epochs = epochs;
        self
    }

    /// Examples per visit; all of them unless set. With minibatches, examples are reshuffled every
    /// epoch, and the last batch of an epoch holds the remainder.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for 0.
    pub fn with_batch_size(mut self, examples: usize) -> Result<Self, Error> {
        at_least_one("Phase::batch_size", examples as u64)?;
        self.batch_size = Some(examples);
        Ok(self)
    }

    /// Schedule of the factor that multiplies θ's learning rate over the phase; constant unless
    /// set. A run refuses a schedule if no layer has an optimiser ([`Error::Combination`]), unless the
    /// scheme uses it ([`Scheme::uses_schedule`]).
    pub fn with_schedule(mut self, schedule: Schedule) -> Self {
        self.schedule = schedule;
        self
    }

    /// Schedule of the factor that multiplies every penalty μ_t over the phase, relative to its
    /// value when the phase begins. The model keeps the last values.
    ///
    /// # Errors
    /// [`Error::Combination`] if the scheme does not use μ or requires μ = 1, or if μ grows
    /// automatically or by an error share.
    #[doc(alias("mu", "penalty continuation"))]
    pub fn with_penalty_schedule(mut self, schedule: Schedule) -> Result<Self, Error> {
        if schedule != Schedule::CONSTANT && !self.scheme.uses_penalties() {
            return refuse("a penalty schedule", NO_PENALTIES);
        }
        self.penalty_schedule = schedule;
        self.with_one_rule()
    }

    /// Lets each μ_t grow automatically over the visits of the phase, whenever its gap stops falling.
    /// The model keeps the last values, and [`PhaseReport`](crate::training::PhaseReport) lists them.
    ///
    /// # Errors
    /// [`Error::Combination`] if the scheme does not use μ or requires μ = 1, or if μ has a schedule
    /// or an error share.
    pub fn with_penalty_growth(mut self, growth: PenaltyGrowth) -> Result<Self, Error> {
        if !self.scheme.uses_penalties() || self.scheme.targets() == TargetUse::None {
            return refuse("penalty growth", NO_PENALTIES);
        }
        self.penalty_growth = Some(growth);
        self.with_one_rule()
    }

    /// Sets μ in the visits of the phase by the share of the error that the Z-step leaves. Every μ_t is
    /// its value when the phase begins times one factor. The model keeps the last values, and
    /// [`PhaseReport`](crate::training::PhaseReport) lists them. A run refuses hidden losses other than
    /// the squared error, and regularisers of targets.
    ///
    /// # Errors
    /// [`Error::Combination`] if the scheme does not use μ or requires μ = 1, or if μ has a schedule or
    /// grows.
    #[doc(alias("mu", "penalty"))]
    pub fn with_error_share(mut self, share: ErrorShare) -> Result<Self, Error> {
        if !self.scheme.uses_penalties() || self.scheme.targets() == TargetUse::None {
            return refuse("an error share", NO_PENALTIES);
        }
        self.error_share = Some(share);
        self.with_one_rule()
    }

    fn with_one_rule(self) -> Result<Self, Error> {
        let scheduled = self.penalty_schedule != Schedule::CONSTANT;
        let (grows, shares) = (self.penalty_growth.is_some(), self.error_share.is_some());
        let what = match (scheduled, grows, shares) {
            (true, true, _) => "a penalty schedule together with penalty growth",
            (true, _, true) => "a penalty schedule together with an error share",
            (_, true, true) => "penalty growth together with an error share",
            _ => return Ok(self),
        };
        refuse(what, "both would set μ; choose one of them")
    }

    /// [`WStep::with_max_gradient_norm`] of the phase's W-step.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless the norm is above 0 and finite; [`Error::Combination`] without an
    /// optimiser.
    #[doc(alias("clip", "gradient clipping"))]
    pub fn with_max_gradient_norm(mut self, norm: f64) -> Result<Self, Error> {
        self.w_step = self.w_step.with_max_gradient_norm(norm)?;
        self.w_step.check().map(|()| self)
    }

    /// Sets a rule for early stopping.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for an invalid option of the rule.
    pub fn with_stopping(mut self, stopping: Stopping) -> Result<Self, Error> {
        stopping.validate()?;
        self.stopping = stopping;
        Ok(self)
    }

    /// Wall-clock time after which the phase ends, checked between visits.
    pub fn with_time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = Some(limit);
        self
    }

    /// The scheme.
    pub fn scheme(&self) -> &dyn Scheme<T> {
        self.scheme.as_ref()
    }

    /// How θ moves.
    pub fn w_step(&self) -> &WStep<T> {
        &self.w_step
    }

    /// Maximum number of passes over the examples.
    pub fn epochs(&self) -> u64 {
        self.epochs
    }

    /// Examples per visit if there are n in total.
    pub fn batch_size(&self, n: usize) -> usize {
        self.batch_size.unwrap_or(n).min(n)
    }

    /// Checks that a scheme that keeps targets finds stored ones.
    pub(super) fn check_targets(&self, model: &DecoupledCircuit<T>) -> Result<(), Error> {
        match self.scheme.targets() {
            TargetUse::Kept => model
                .examples
                .check_stored("a phase whose scheme keeps targets"),
            TargetUse::Transient | TargetUse::None => Ok(()),
        }
    }

    /// Checks that every option of the W-step, and the schedule, has something to act on.
    pub(super) fn check_w_step(&self, model: &DecoupledCircuit<T>) -> Result<(), Error> {
        let schedules = self.schedule != Schedule::CONSTANT && !self.scheme.uses_schedule();
        self.w_step.check_on(model, schedules)
    }

    /// Visits per epoch of n examples.
    pub(super) fn batches(&self, n: usize) -> u64 {
        n.div_ceil(self.batch_size(n).max(1)) as u64
    }

    /// What moves μ.
    pub(super) fn penalty_rule(&self) -> PenaltyRule {
        match (self.penalty_growth, self.error_share) {
            (Some(growth), _) => PenaltyRule::Growing(growth),
            (_, Some(share)) => PenaltyRule::Sharing(share),
            _ => PenaltyRule::Scheduled(self.penalty_schedule),
        }
    }

    /// Whether the next phase may begin before all visits are made.
    pub(super) fn may_end_early(&self) -> bool {
        self.stopping != Stopping::AtLimits || self.time_limit.is_some()
    }

    /// Whether validation examples are needed.
    pub(super) fn validates(&self) -> bool {
        matches!(self.stopping, Stopping::Validation { .. })
    }
}
