//! A target solver.

use layerwise::state::State;
use layerwise::target_solver::{SolveReport, TargetProblem, TargetSolver};
use layerwise::{Error, Scalar};

/// A reverse sweep with a fixed step, which counts its calls.
#[derive(Debug, Clone, Copy)]
pub struct Sweep(pub f64);

impl<T: Scalar> TargetSolver<T> for Sweep {
    fn start(&self) -> State<T> {
        let mut state = State::new();
        state.counts.push(0);
        state
    }

    fn solve(
        &self,
        state: &mut State<T>,
        problem: &mut TargetProblem<'_, T>,
    ) -> Result<SolveReport, Error> {
        problem.predict();
        problem.attempt(state.counts[0], |problem| {
            for t in (1..problem.layers().depth()).rev() {
                problem.target_gradient(t);
                problem.check_target_gradient(t, state.counts[0])?;
                problem.descend(t, T::of(self.0));
            }
            Ok(())
        })?;
        state.counts[0] += 1;
        Ok(SolveReport::new(1, problem.batch().len()))
    }
}
