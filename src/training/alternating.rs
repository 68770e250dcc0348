//! Z-steps and W-steps in turn.

use super::residuals::Residuals;
use super::visit::{Scheme, Visit};
use crate::decoupled::DecoupledCircuit;
use crate::error::Error;
use crate::kernel::Scalar;
use crate::parameter_solver::{ParameterSolver, ParameterStates};
use crate::schedule::Schedule;
use crate::target_solver::TargetSolver;

/// Where the targets of a batch come from when it is visited.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub enum TargetPolicy {
    /// From the last visit: every example keeps its targets z_t. The default.
    #[default]
    Persistent,
    /// From a forward pass made now; the targets do not carry anything between visits.
    Refreshed,
    /// Every example keeps its residuals r_t = z_t − f(z_{t−1}); a visit starts from
    /// z_t = f(z_{t−1}) + γ r_t, t = 1, …, T−1 in turn, at the present θ. With r = 0, or γ = 0,
    /// this is `Refreshed`. γ is `keep` times the schedule's factor at the visit.
    ///
    /// The residuals are taken from the model's targets when a phase begins, and the targets are
    /// brought to what the residuals give when it ends. Costs a second array of the targets' size.
    Residual {
        /// The share of the residual that is kept at first, in 0..=1.
        keep: f64,
        /// How the share changes over the visits of the phase.
        schedule: Schedule,
    },
}

/// Alternating descent: on every visit the targets move first (Z-step, θ fixed), then the
/// parameters (W-step, z fixed).
///
/// # Examples
/// ```
/// use layerwise::target_solver::ReverseSweep;
/// use layerwise::training::Alternating;
///
/// let persistent: Alternating<f64> = Alternating::persistent(ReverseSweep::new(1));
/// let refreshed: Alternating<f64> = Alternating::refreshed(ReverseSweep::new(1));
/// let residual: Alternating<f64> = Alternating::residual(ReverseSweep::new(1));
/// let weights_only: Alternating<f64> = Alternating::weights_only();
/// ```
#[derive(Debug)]
pub struct Alternating<T: Scalar> {
    solver: Option<Box<dyn TargetSolver<T>>>,
    policy: TargetPolicy,
    parameter_steps: u64,
    parameter_solver: Option<Box<dyn ParameterSolver<T>>>,
    /// Its states for the layers, from the start of a phase.
    parameter_states: Option<ParameterStates<T>>,
    residuals: Residuals<T>,
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

    /// Targets that each example's residuals carry to the present θ ([`TargetPolicy::Residual`]),
    /// moved by `solver`; one parameter step a visit. The share γ of the residuals falls on a line
    /// from 1 to 0 over the phase: what an example's last visit left helps early and is noise late
    /// (`docs/evidence.md` has the comparison).
    pub fn residual(solver: impl TargetSolver<T> + 'static) -> Self {
        let policy = TargetPolicy::Residual {
            keep: 1.0,
            schedule: Schedule::TO_ZERO,
        };
        Self::new(Some(Box::new(solver)), policy)
    }

    /// The same with another share: γ = `keep` times the schedule's factor at the visit.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless `keep` is in 0..=1, and stays there under the schedule.
    pub fn residual_scheduled(
        solver: impl TargetSolver<T> + 'static,
        keep: f64,
        schedule: Schedule,
    ) -> Result<Self, Error> {
        // 0 · ∞ is NaN, and refused like it.
        for value in [keep, keep * schedule.largest()] {
            if !(0.0..=1.0).contains(&value) {
                return Err(Error::InvalidOption {
                    option: "Alternating::residual_scheduled's keep",
                    value,
                    allowed: "in 0..=1, also times the schedule's largest factor",
                });
            }
        }
        let policy = TargetPolicy::Residual { keep, schedule };
        Ok(Self::new(Some(Box::new(solver)), policy))
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
            parameter_solver: None,
            parameter_states: None,
            residuals: Residuals::new(),
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

    /// The same with every parameter step made by `solver` where it fits the layer
    /// ([`ParameterSolver::check`]), each layer with a state of its own; the other layers take the
    /// optimiser's step as before. The states (sums, a damping) start anew in every phase.
    ///
    /// A W-step that takes ℓ_t far down fits the targets, not the composed loss, which may rise
    /// while E falls (on digits at depth 10 it stays far above backprop's; `docs/evidence.md`):
    /// look at [`composed_loss`](crate::training::EpochRecord::composed_loss), and hold θ by a proximal
    /// weight or a damping. What it is best for is one pass over projected targets at the start:
    /// deep tanh and sigmoid circuits then carry their input, whatever their weights were.
    ///
    /// A phase on a circuit of which `solver` fits no layer is refused when it begins; where it
    /// fits all, the phase's optimiser has nothing to do.
    ///
    /// # Examples
    /// ```
    /// use layerwise::optimizer::Adam;
    /// use layerwise::parameter_solver::LeastSquares;
    /// use layerwise::target_solver::ReverseSweep;
    /// use layerwise::training::{Alternating, Phase};
    ///
    /// let scheme = Alternating::persistent(ReverseSweep::new(1))
    ///     .with_parameter_solver(LeastSquares::ridge(1e-3)?.with_proximal(0.1)?);
    /// // Adam moves the layers that least squares do not fit, such as one with a softmax.
    /// let phase: Phase<f64> = Phase::new(scheme, Adam::new(1e-2)?);
    /// # Ok::<(), layerwise::Error>(())
    /// ```
    pub fn with_parameter_solver(mut self, solver: impl ParameterSolver<T> + 'static) -> Self {
        self.parameter_solver = Some(Box::new(solver));
        self
    }

    /// Where the targets of a visit come from.
    pub fn policy(&self) -> TargetPolicy {
        self.policy
    }
}

impl<T: Scalar> Scheme<T> for Alternating<T> {
    fn start(&mut self, model: &DecoupledCircuit<T>) -> Result<(), Error> {
        if let Some(solver) = &mut self.solver {
            solver.reset();
        }
        let solver = self.parameter_solver.as_deref();
        self.parameter_states = solver
            .map(|solver| ParameterStates::new(solver, model))
            .transpose()?;
        match self.policy {
            TargetPolicy::Residual { .. } => self.residuals.start(model),
            _ => Ok(()),
        }
    }

    fn visit(&mut self, visit: &mut Visit<'_, '_, T>) -> Result<T, Error> {
        let share = match self.policy {
            TargetPolicy::Residual { keep, schedule } => keep * visit.scheduled(schedule),
            _ => 0.0,
        };
        let mut problem = visit.target_problem();
        match self.policy {
            TargetPolicy::Persistent => {}
            TargetPolicy::Refreshed => problem.refresh()?,
            TargetPolicy::Residual { .. } => self.residuals.load(T::of(share), &mut problem)?,
        }
        let met = match self.policy {
            // Targets and predictions are the same bits.
            TargetPolicy::Refreshed => T::zero(),
            _ => problem.squared_gap(),
        };
        let solver = self.solver.as_mut();
        let solved = solver
            .map(|solver| solver.solve(&mut problem))
            .transpose()?;
        let states = self.parameter_states.as_mut();
        let mut solvers = self.parameter_solver.as_deref().zip(states);
        // Solved layers need no gradient; a W-step by solvers takes that of the others itself.
        let gradients = solvers.is_none();
        let mut energy = problem.evaluate(gradients, false);
        let left = problem.squared_gap();
        if let TargetPolicy::Residual { .. } = self.policy {
            self.residuals.store(problem.batch(), problem.workspace());
        }
        if let Some(solved) = solved {
            visit.record_solve(solved);
        }
        visit.record_gap_met(met);
        visit.record_gap_left(left);
        for number in 0..self.parameter_steps {
            if number > 0 {
                energy = visit.target_problem().evaluate(gradients, false);
            }
            match &mut solvers {
                Some((solver, states)) => visit.solve_parameters(*solver, states)?,
                None => visit.step_parameters()?,
            }
        }
        Ok(energy)
    }

    fn finish(&mut self, model: &mut DecoupledCircuit<T>) -> Result<(), Error> {
        match self.policy {
            TargetPolicy::Residual { .. } => self.residuals.finish(model),
            _ => Ok(()),
        }
    }
}
