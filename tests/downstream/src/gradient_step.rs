//! A parameter solver.

use layerwise::energy::{LocalProblem, LocalWorkspace, Parameters, Value};
use layerwise::parameter_solver::{ParameterReport, ParameterSolver};
use layerwise::state::State;
use layerwise::{Error, Scalar};

/// A gradient step on the mean of ℓ_t that is kept if ℓ_t falls. The state has its length: twice the
/// last one after a step that was kept, half of it after one that was not.
#[derive(Debug, Clone, Copy)]
pub struct GradientStep(pub f64);

impl<T: Scalar> ParameterSolver<T> for GradientStep {
    fn start(&self) -> State<T> {
        let mut state = State::new();
        state.values.push(vec![T::of(self.0)]);
        state
    }

    fn solve(
        &self,
        state: &mut State<T>,
        problem: &LocalProblem<'_, T>,
        workspace: &mut LocalWorkspace<T>,
        parameters: &mut [T],
    ) -> Result<ParameterReport, Error> {
        let at = problem.evaluate(Parameters, workspace);
        let (before, gradient) = (at.energy(), at.parameter_gradient());
        let length = state.values[0][0];
        let step = length * T::of(1.0 / problem.examples() as f64);
        let own = problem.parameters().iter();
        let trial: Vec<T> = own.zip(gradient).map(|(&x, &g)| x - step * g).collect();
        let moved = problem.at_parameters(&trial)?;
        let lower = moved.evaluate(Value, workspace).energy() < before;
        state.values[0][0] = length * T::of(if lower { 2.0 } else { 0.5 });
        if lower {
            parameters.copy_from_slice(&trial);
        }
        Ok(ParameterReport::new(1, lower.into()))
    }
}
