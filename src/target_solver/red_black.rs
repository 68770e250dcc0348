//! Two half-sweeps, over every other layer each.

use super::descent::{Descent, Iterate};
use super::step_size::StepRule;
use super::trial::Trial;
use super::{Convergence, SolveReport, StepSize, TargetProblem, TargetSolver};
use crate::error::Error;
use crate::kernel::Scalar;
use crate::state::State;

/// K red-black sweeps: z_t ← z_t − η_t ∂E/∂z_t for t = T−1, T−3, … at once, then for
/// t = T−2, T−4, … at once, with the new targets of the first.
///
/// Targets in the same half are not coupled, so each half is parallel over its layers, and the bound
/// on z_t's own block suffices for the step, as in a [`ReverseSweep`](super::ReverseSweep). A sweep
/// costs one VJP per layer and, since each half's predictions are recomputed, one forward pass of the
/// local problems. It carries a signal over two layers; a reverse sweep reaches all layers, but
/// processes them one after another. Gauss-Seidel in red-black order: Young 1971.
///
/// # Examples
/// ```
/// use layerwise::target_solver::RedBlack;
///
/// let solver = RedBlack::new(5);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct RedBlack(Iterate<HalfSweeps>);

/// One red-black sweep.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct HalfSweeps(StepRule);

impl RedBlack {
    /// K = `sweeps` sweeps (0 leaves the targets unchanged). Defaults: bounded steps with margin 1,
    /// bounds recomputed every 10th call, no early end.
    pub fn new(sweeps: u64) -> Self {
        let size = StepSize::Bounded { margin: 1.0 };
        let sweep = HalfSweeps(StepRule::new(size));
        Self(Iterate::new(sweeps, sweep).with_check(size.check()))
    }

    /// Sets the step size.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a step out of range. One that is out of range only in the
    /// circuit's scalar type is reported when the solver is called.
    pub fn with_step(mut self, step: StepSize) -> Result<Self, Error> {
        self.0.descent.0.size = step.validate::<f64>()?;
        Ok(Self(self.0.with_check(step.check())))
    }

    /// Recomputes the bounds every k-th call: 1 follows the weights exactly, a larger k saves time
    /// when they change slowly.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for 0.
    pub fn with_bound_every(mut self, calls: u64) -> Result<Self, Error> {
        let option = "RedBlack::bound_every";
        self.0.descent.0.set_bound_every(option, calls)?;
        Ok(self)
    }

    /// Ends examples early. Rest is judged by the gradients that a sweep computes on its way, so the
    /// sweep itself still moves the targets.
    pub fn with_convergence(self, convergence: Convergence) -> Self {
        Self(self.0.with_convergence(convergence))
    }
}

impl HalfSweeps {
    /// Moves z_t, t = `first`, `first` + 2, …, and recomputes the predictions from them.
    fn half<T: Scalar>(
        &self,
        first: usize,
        state: &State<T>,
        problem: &mut TargetProblem<'_, T>,
        trial: &mut Trial<T>,
    ) -> Result<(), Error> {
        let depth = problem.layers().depth();
        if first >= depth {
            return Ok(());
        }
        problem.alternate_gradients(first);
        for t in (first..depth).step_by(2) {
            trial.record_gradient(t, problem)?;
            let step = self.0.of_layer(state, t, problem.workspace())?;
            trial.descend(t, step, problem);
        }
        problem.predict_alternate(first);
        Ok(())
    }
}

impl<T: Scalar> Descent<T> for HalfSweeps {
    fn begin(&self, state: &mut State<T>, problem: &mut TargetProblem<'_, T>) -> Result<(), Error> {
        self.0.begin(state, problem.layers())
    }

    fn look(
        &self,
        _: &mut State<T>,
        problem: &mut TargetProblem<'_, T>,
        trial: &mut Trial<T>,
    ) -> Result<(), Error> {
        trial.record_energies(problem)?;
        problem.predict();
        Ok(())
    }

    fn step(
        &self,
        state: &mut State<T>,
        problem: &mut TargetProblem<'_, T>,
        trial: &mut Trial<T>,
    ) -> Result<(), Error> {
        // The half with z_{T−1}, which is next to the output, moves first.
        let halves = match problem.layers().depth() % 2 {
            0 => [1, 2],
            _ => [2, 1],
        };
        let mut halves = halves.into_iter();
        halves.try_for_each(|first| self.half(first, state, problem, trial))
    }
}

impl<T: Scalar> TargetSolver<T> for RedBlack {
    fn solve(
        &self,
        state: &mut State<T>,
        problem: &mut TargetProblem<'_, T>,
    ) -> Result<SolveReport, Error> {
        self.0.solve(state, problem)
    }
}
