//! Sweeps over the layers: block Gauss-Seidel.

use super::descent::{Descent, Iterate};
use super::step_size::{StepRule, step_options};
use super::trial::Trial;
use super::{Convergence, SolveReport, StepSize, TargetProblem, TargetSolver, iterated};
use crate::check::serde_checked;
use crate::energy::Layers;
use crate::error::Error;
use crate::kernel::Scalar;
use crate::state::State;

/// K sweeps t = T−1, …, 1 of z_t ← z_t − η_t ∂E/∂z_t, in which each layer sees the new targets
/// above it.
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
#[cfg_attr(feature = "serde", serde(remote = "Self", deny_unknown_fields))]
pub struct ReverseSweep(Iterate<Sweep>);

serde_checked!(ReverseSweep);

/// One sweep.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct Sweep(StepRule);

step_options!(ReverseSweep, Sweep, sweeps, "ReverseSweep::bound_every");

iterated!(
    /// Convergence is judged by the gradients that a sweep computes before it moves each
    /// layer, so an example still makes the sweep in which it is found to be at rest.
    ReverseSweep
);

impl<T: Scalar> Descent<T> for Sweep {
    fn check(&self, layers: Layers<'_, T>) -> Result<(), Error> {
        self.0.check(layers)
    }

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
            // The first sweep's gradients also yield E at the start of the call.
            if t == last {
                trial.record_energy(t, problem)?;
            }
            trial.record_energy(t - 1, problem)?;
            trial.record_gradient(t, problem)?;
            // The predictions remain those from the start of the sweep.
            let step = self
                .0
                .of_layer(state, t, problem.workspace(), trial.number)?;
            trial.descend(t, step, problem);
        }
        Ok(())
    }
}

/// K red-black sweeps: z_t ← z_t − η_t ∂E/∂z_t for t = T−1, T−3, … at once, then for
/// t = T−2, T−4, … at once, with the new targets of the first.
///
/// Targets in the same half are not coupled, so each half is parallel over its layers. η_t and the
/// cost of a sweep are those of a [`ReverseSweep`]. A red-black sweep carries a signal over two
/// layers; a reverse sweep reaches all layers, but processes them one after another. Gauss-Seidel
/// in red-black order: Young 1971.
///
/// # Examples
/// ```
/// use layerwise::target_solver::RedBlack;
///
/// let solver = RedBlack::new(5);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(remote = "Self", deny_unknown_fields))]
pub struct RedBlack(Iterate<HalfSweeps>);

serde_checked!(RedBlack);

/// One red-black sweep.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct HalfSweeps(StepRule);

step_options!(RedBlack, HalfSweeps, sweeps, "RedBlack::bound_every");

iterated!(
    /// Convergence is judged by the gradients that a sweep computes before it moves each
    /// layer, so an example still makes the sweep in which it is found to be at rest.
    RedBlack
);

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
            let step = self
                .0
                .of_layer(state, t, problem.workspace(), trial.number)?;
            trial.descend(t, step, problem);
        }
        problem.predict_alternate(first);
        Ok(())
    }
}

impl<T: Scalar> Descent<T> for HalfSweeps {
    fn check(&self, layers: Layers<'_, T>) -> Result<(), Error> {
        self.0.check(layers)
    }

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
