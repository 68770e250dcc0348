//! Block Gauss-Seidel from the output to the input.

use super::descent::{Descent, Iterate};
use super::step_size::{StepRule, sweep_options};
use super::trial::Trial;
use super::{Convergence, SolveReport, StepSize, TargetProblem, TargetSolver};
use crate::error::Error;
use crate::kernel::Scalar;
use crate::state::State;

/// K sweeps t = T−1, …, 1 of z_t ← z_t − η_t ∂E/∂z_t, each layer seeing the new targets above it.
///
/// One sweep carries the output's error to every layer, as backprop does, and costs one forward
/// pass of the local problems (none after a refresh) and one VJP per layer. η_t is fixed, or
/// `margin` divided by a bound on z_t's own Gauss-Newton block, μ_t + μ_{t+1}‖J_t‖², which
/// suffices for a sweep.
///
/// # Examples
/// ```
/// use layerwise::target_solver::ReverseSweep;
///
/// let solver = ReverseSweep::new(1);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ReverseSweep(Iterate<Sweep>);

/// One sweep.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct Sweep(StepRule);

sweep_options!(ReverseSweep, Sweep, "ReverseSweep::bound_every");

impl<T: Scalar> Descent<T> for Sweep {
    fn begin(&self, state: &mut State<T>, problem: &mut TargetProblem<'_, T>) -> Result<(), Error> {
        self.0.begin(state, problem.layers())
    }

    fn look(
        &self,
        _: &mut State<T>,
        problem: &mut TargetProblem<'_, T>,
        _: &mut Trial<T>,
    ) -> Result<(), Error> {
        problem.predict();
        Ok(())
    }

    fn step(
        &self,
        state: &mut State<T>,
        problem: &mut TargetProblem<'_, T>,
        trial: &mut Trial<T>,
    ) -> Result<(), Error> {
        let last = problem.layers().depth() - 1;
        for t in (1..=last).rev() {
            problem.target_gradient(t);
            // The first sweep's gradients come with the E that the call began with.
            if t == last {
                trial.record_energy(t, problem)?;
            }
            trial.record_energy(t - 1, problem)?;
            trial.record_gradient(t, problem)?;
            // The predictions remain those from the start of the sweep.
            let step = self.0.of_layer(state, t, problem.workspace())?;
            trial.descend(t, step, problem);
        }
        Ok(())
    }
}
