//! Z-steps and W-steps in turn.

use super::visit::{Scheme, Visit};
use crate::target_solver::TargetSolver;
use crate::{Error, Scalar};

/// Where the targets of a batch come from when it is visited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum TargetPolicy {
    /// From the last visit: every example keeps its targets. The default.
    #[default]
    Persistent,
    /// From a forward pass made now; the targets do not carry anything between visits.
    Refreshed,
}

/// Alternating descent: on every visit the targets move first (Z-step, θ fixed), then the
/// parameters (W-step, z fixed).
///
/// # Examples
/// ```
/// use layerwise::{Alternating, ReverseSweep};
///
/// let persistent: Alternating<f64> = Alternating::persistent(ReverseSweep::new(1));
/// let refreshed: Alternating<f64> = Alternating::refreshed(ReverseSweep::new(1));
/// let weights_only: Alternating<f64> = Alternating::weights_only();
/// ```
#[derive(Debug)]
pub struct Alternating<T: Scalar> {
    solver: Option<Box<dyn TargetSolver<T>>>,
    policy: TargetPolicy,
    parameter_steps: u64,
}

impl<T: Scalar> Alternating<T> {
    /// Targets that persist between visits, moved by `solver`; one parameter step a visit.
    pub fn persistent(solver: impl TargetSolver<T> + 'static) -> Self {
        Self::new(Some(Box::new(solver)), TargetPolicy::Persistent)
    }

    /// Targets refreshed by a forward pass on every visit, then moved by `solver`; one parameter
    /// step a visit.
    pub fn refreshed(solver: impl TargetSolver<T> + 'static) -> Self {
        Self::new(Some(Box::new(solver)), TargetPolicy::Refreshed)
    }

    /// No Z-step: every layer regresses on the targets as they are. One parameter step a visit.
    ///
    /// From projected targets this trains every layer; from forward-pass targets, which every layer
    /// but the last meets already, it trains the last layer alone.
    pub fn weights_only() -> Self {
        Self::new(None, TargetPolicy::Persistent)
    }

    fn new(solver: Option<Box<dyn TargetSolver<T>>>, policy: TargetPolicy) -> Self {
        Self {
            solver,
            policy,
            parameter_steps: 1,
        }
    }

    /// The same with `steps` parameter steps after each Z-step.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for 0.
    pub fn with_parameter_steps(mut self, steps: u64) -> Result<Self, Error> {
        if steps == 0 {
            return Err(Error::InvalidOption {
                option: "Alternating::parameter_steps",
                value: 0.0,
                allowed: "at least 1",
            });
        }
        self.parameter_steps = steps;
        Ok(self)
    }

    /// Where the targets of a visit come from.
    pub fn policy(&self) -> TargetPolicy {
        self.policy
    }
}

impl<T: Scalar> Scheme<T> for Alternating<T> {
    fn reset(&mut self) {
        if let Some(solver) = &mut self.solver {
            solver.reset();
        }
    }

    fn visit(&mut self, visit: &mut Visit<'_, '_, T>) -> Result<T, Error> {
        let mut problem = visit.target_problem();
        if self.policy == TargetPolicy::Refreshed {
            problem.refresh()?;
        }
        if let Some(solver) = &mut self.solver {
            solver.solve(&mut problem)?;
        }
        let mut energy = problem.evaluate(true, false);
        visit.step_parameters()?;
        for _ in 1..self.parameter_steps {
            energy = visit.target_problem().evaluate(true, false);
            visit.step_parameters()?;
        }
        Ok(energy)
    }
}
