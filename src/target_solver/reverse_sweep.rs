//! Block Gauss-Seidel from the output to the input.

use super::acceptance::{Acceptance, Check};
use super::curvature::Curvature;
use super::{Convergence, SolveReport, StepSize, TargetProblem, TargetSolver};
use crate::error::Error;
use crate::kernel::Scalar;

/// K sweeps t = T−1, …, 1 of z_t ← z_t − η_t ∂E/∂z_t, each layer seeing the new targets above it.
///
/// One sweep carries the output's error to every layer, as backprop does, and costs one forward
/// pass of the local problems (none after a refresh) and one VJP a layer. η_t is fixed, or
/// `margin` over a bound of z_t's own Gauss-Newton block, μ_t + μ_{t+1}‖J_t‖², which suffices for
/// a sweep.
///
/// # Examples
/// ```
/// use layerwise::target_solver::ReverseSweep;
///
/// let solver: ReverseSweep<f64> = ReverseSweep::new(1);
/// ```
#[derive(Debug, Clone)]
pub struct ReverseSweep<T: Scalar> {
    sweeps: u64,
    step: StepSize,
    curvature: Curvature<T>,
    acceptance: Acceptance<T>,
}

impl<T: Scalar> ReverseSweep<T> {
    /// K = `sweeps` sweeps (0 leaves the targets alone). Defaults: bounded steps with margin 1, bounds
    /// computed anew in every 10th call, all sweeps made.
    pub fn new(sweeps: u64) -> Self {
        Self {
            sweeps,
            step: StepSize::Bounded { margin: 1.0 },
            curvature: Curvature::new(),
            acceptance: Acceptance::downwards(),
        }
    }

    /// The same with another step.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a step out of range.
    pub fn with_step(mut self, step: StepSize) -> Result<Self, Error> {
        self.step = step.validate::<T>()?;
        Ok(self)
    }

    /// The same with the bounds computed anew in every k-th call: 1 follows the weights exactly,
    /// more saves time when they change slowly.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for 0.
    pub fn with_bound_every(mut self, calls: u64) -> Result<Self, Error> {
        let option = "ReverseSweep::bound_every";
        self.curvature = self.curvature.with_every(option, calls)?;
        Ok(self)
    }

    /// The same with an earlier end for examples at rest: judged by the gradients that a sweep met,
    /// each at the targets it found, so that the sweep itself still moves them.
    pub fn with_convergence(mut self, convergence: Convergence) -> Self {
        self.acceptance.set_convergence(convergence);
        self
    }
}

impl<T: Scalar> TargetSolver<T> for ReverseSweep<T> {
    fn reset(&mut self) {
        self.curvature.reset();
    }

    fn solve(&mut self, problem: &mut TargetProblem<'_, '_, T>) -> Result<SolveReport, Error> {
        let depth = problem.circuit.depth();
        if self.sweeps == 0 || depth == 1 {
            return Ok(SolveReport::new(0, problem.batch.ids.len()));
        }
        if self.step.is_bounded() {
            self.curvature.refresh(problem.circuit)?;
        }
        let acceptance = &mut self.acceptance;
        acceptance.begin(problem.batch.ids.len(), self.step.check());
        for sweep in 0..self.sweeps {
            if acceptance.is_over() {
                break;
            }
            problem.predict();
            problem.trial(|problem| {
                for t in (1..depth).rev() {
                    problem.target_gradient(t);
                    // What stands behind these gradients is the E that the call began with.
                    if sweep == 0 && t + 1 == depth {
                        acceptance.start(t, problem)?;
                    }
                    if sweep == 0 {
                        acceptance.start(t - 1, problem)?;
                    }
                    problem.check_target_gradient(t, sweep)?;
                    acceptance.meet(t, problem);
                    let step = self.step.length(|| self.curvature.blocks[t - 1]);
                    // The predictions stay those of the sweep's start.
                    problem.descend_by(t, |i| step * acceptance.share(i));
                }
                match self.step.check() {
                    Check::Rounding | Check::Strict => Ok(()),
                    Check::None => problem.check_targets(sweep),
                }
            })?;
            acceptance.judge(problem, |_, _| {});
            acceptance.rest();
        }
        Ok(acceptance.report())
    }
}
