//! Two half-sweeps, over every other layer each.

use super::acceptance::{Acceptance, Check};
use super::curvature::Curvature;
use super::{Convergence, SolveReport, StepSize, TargetProblem, TargetSolver};
use crate::error::Error;
use crate::kernel::Scalar;

/// K red-black sweeps: z_t ← z_t − η_t ∂E/∂z_t for t = T−1, T−3, … at once, then for
/// t = T−2, T−4, … at once, with the new targets of the first.
///
/// The targets of one half couple with none of their own half, so each half is parallel over its
/// layers, and the bound of z_t's own block suffices for the step, as in a
/// [`ReverseSweep`](crate::target_solver::ReverseSweep). A sweep costs one VJP and, since each half's predictions
/// are made anew, one forward pass of the local problems; it reaches two layers, where a reverse sweep
/// reaches all but waits for one layer after another. Gauss-Seidel in red-black order: Young 1971.
///
/// # Examples
/// ```
/// use layerwise::target_solver::RedBlack;
///
/// let solver: RedBlack<f64> = RedBlack::new(5);
/// ```
#[derive(Debug, Clone)]
pub struct RedBlack<T: Scalar> {
    sweeps: u64,
    step: StepSize,
    curvature: Curvature<T>,
    acceptance: Acceptance<T>,
}

impl<T: Scalar> RedBlack<T> {
    /// K = `sweeps` sweeps (0 leaves the targets alone). Defaults: bounded steps with margin 1, bounds
    /// computed anew in every 10th call, all sweeps made.
    pub fn new(sweeps: u64) -> Self {
        Self {
            sweeps,
            step: StepSize::Bounded { margin: 1.0 },
            curvature: Curvature::new(),
            acceptance: Acceptance::new(),
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

    /// The same with the bounds computed anew in every k-th call.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for 0.
    pub fn with_bound_every(mut self, calls: u64) -> Result<Self, Error> {
        let option = "RedBlack::bound_every";
        self.curvature = self.curvature.with_every(option, calls)?;
        Ok(self)
    }

    /// The same with an earlier end for examples at rest.
    pub fn with_convergence(mut self, convergence: Convergence) -> Self {
        self.acceptance.set_convergence(convergence);
        self
    }

    /// Moves z_t, t = `first`, `first` + 2, …, and makes the predictions from them.
    fn half_sweep(
        &mut self,
        first: usize,
        sweep: u64,
        problem: &mut TargetProblem<'_, '_, T>,
    ) -> Result<(), Error> {
        if first >= problem.circuit.depth() {
            return Ok(());
        }
        problem.alternate_gradients(first);
        for t in (first..problem.circuit.depth()).step_by(2) {
            problem.check_target_gradient(t, sweep)?;
            self.acceptance.meet(t, problem);
            let step = self.step.length(|| self.curvature.blocks[t - 1]);
            problem.descend_by(t, |i| step * self.acceptance.share(i));
        }
        problem.predict_alternate(first);
        Ok(())
    }
}

impl<T: Scalar> TargetSolver<T> for RedBlack<T> {
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
        // The half of z_{T−1}, which feels the output, moves first.
        let halves = match depth % 2 {
            0 => [1, 2],
            _ => [2, 1],
        };
        let check = self.step.check();
        self.acceptance.begin(problem.batch.ids.len(), check);
        if self.acceptance.needs_energies() {
            problem.evaluate(false, false);
            self.acceptance.start_all(problem)?;
        }
        for sweep in 0..self.sweeps {
            if self.acceptance.is_over() {
                break;
            }
            problem.predict();
            problem.trial(|problem| {
                halves
                    .into_iter()
                    .try_for_each(|first| self.half_sweep(first, sweep, problem))?;
                match self.step.check() {
                    Check::Rounding | Check::Strict => Ok(()),
                    Check::None => problem.check_targets(sweep),
                }
            })?;
            self.acceptance.judge(problem, |_, _| {});
            self.acceptance.rest();
        }
        Ok(self.acceptance.report())
    }
}
