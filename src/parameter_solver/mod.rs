//! W-steps: solving one layer's local problem in θ_t with z fixed.

mod least_squares;
mod levenberg_marquardt;
mod normal_equations;

use std::fmt::Debug;

pub use least_squares::LeastSquares;
pub use levenberg_marquardt::LevenbergMarquardt;
pub use normal_equations::NormalEquations;

use crate::check::check_computed;
use crate::decoupled::{DecoupledCircuit, Selection};
use crate::energy::{LocalProblem, LocalWorkspace};
use crate::error::{Error, Quantity};
use crate::kernel::Scalar;
use crate::pointers::through_pointers;
use crate::state::State;

/// What a parameter solver reports about its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ParameterReport {
    /// Steps that were tried.
    pub steps: u64,
    /// Steps that were accepted.
    pub accepted: u64,
    /// Whether the solver found no step at all, although the layer is not at rest. A run reports this
    /// as [`Warning::Frozen`](crate::training::Warning::Frozen).
    pub stuck: bool,
}

impl ParameterReport {
    /// A report of `steps` steps, of which `accepted` were accepted, by a solver that is not stuck.
    pub fn new(steps: u64, accepted: u64) -> Self {
        Self {
            steps,
            accepted,
            stuck: false,
        }
    }

    /// The same report by a solver that is stuck.
    pub fn stuck(self) -> Self {
        Self {
            stuck: true,
            ..self
        }
    }
}

/// A method for one layer's local problem ℓ_t(θ_t), with z_t and z_{t+1} fixed: the W-step's
/// counterpart of [`TargetSolver`](crate::target_solver::TargetSolver).
///
/// A solver holds only options. What it keeps between calls (sums over minibatches, a damping) is
/// in a [`State`] that the caller holds, one for each layer. So one solver can serve all layers in
/// parallel, and a state can be saved and restored.
///
/// # Examples
/// A custom solver: a gradient step with rate η on the mean of ℓ_t, kept if ℓ_t falls:
/// ```
/// use layerwise::{Error, Scalar};
/// use layerwise::energy::{LocalProblem, LocalWorkspace, Parameters, Value};
/// use layerwise::parameter_solver::{ParameterReport, ParameterSolver};
/// use layerwise::state::State;
///
/// #[derive(Debug)]
/// struct Descent(f64);
///
/// impl<T: Scalar> ParameterSolver<T> for Descent {
///     fn solve(
///         &self,
///         _state: &mut State<T>,
///         problem: &LocalProblem<'_, T>,
///         workspace: &mut LocalWorkspace<T>,
///         parameters: &mut [T],
///     ) -> Result<ParameterReport, Error> {
///         let at = problem.evaluate(Parameters, workspace);
///         let (before, gradient) = (at.energy(), at.parameter_gradient());
///         let step = T::of(self.0 / problem.examples() as f64);
///         let trial: Vec<T> =
///             problem.parameters().iter().zip(gradient).map(|(&x, &g)| x - step * g).collect();
///         let after = problem.at_parameters(&trial)?.evaluate(Value, workspace).energy();
///         let lower = after < before;
///         if lower {
///             parameters.copy_from_slice(&trial);
///         }
///         Ok(ParameterReport::new(1, lower.into()))
///     }
/// }
/// ```
pub trait ParameterSolver<T: Scalar>: Debug + Send + Sync {
    /// Checks whether this solver can handle the layer, loss and regulariser of the problem,
    /// whatever its examples (there may be none). By default it can handle any.
    ///
    /// # Errors
    /// [`Error::ParameterSolver`] with the reason why it cannot, [`Error::InvalidOption`] for an
    /// option that the scalar type cannot represent.
    fn check(&self, _problem: &LocalProblem<'_, T>) -> Result<(), Error> {
        Ok(())
    }

    /// The state of a layer before its first call; empty by default.
    fn start(&self) -> State<T> {
        State::new()
    }

    /// Moves θ_t: `parameters` start as [`LocalProblem::parameters`], first the layer's own and
    /// then the loss's. After an error they are unchanged.
    ///
    /// The state comes from [`ParameterSolver::start`] and from earlier calls on this layer. A state
    /// that does not fit (one of another layer, say) is treated as new. The workspace is scratch
    /// memory. The solvers of this crate allocate only in the first call for a given problem size.
    ///
    /// # Errors
    /// Those of [`ParameterSolver::check`], [`Error::Length`] for `parameters` that do not fit,
    /// [`Error::NonFinite`]. Solvers may add their own errors.
    fn solve(
        &self,
        state: &mut State<T>,
        problem: &LocalProblem<'_, T>,
        workspace: &mut LocalWorkspace<T>,
        parameters: &mut [T],
    ) -> Result<ParameterReport, Error>;
}

through_pointers!(ParameterSolver {
    fn check(&self, problem: &LocalProblem<'_, T>) -> Result<(), Error>;
    fn start(&self) -> State<T>;
    fn solve(
        &self,
        state: &mut State<T>,
        problem: &LocalProblem<'_, T>,
        workspace: &mut LocalWorkspace<T>,
        parameters: &mut [T],
    ) -> Result<ParameterReport, Error>;
});

impl<T: Scalar> DecoupledCircuit<T> {
    /// Moves θ_t by one call of `solver`, with a new state, on the selected examples. Targets and all
    /// other parameters stay fixed.
    ///
    /// To keep the solver's state over several batches, call [`ParameterSolver::solve`] on
    /// [`DecoupledCircuit::local_problem`]s, and then [`DecoupledCircuit::set_parameters`].
    ///
    /// # Errors
    /// [`Error::UnknownLayer`], errors of the selection, [`Error::NoExamples`], and those of the
    /// solver; θ_t is then unchanged.
    pub fn solve_parameters(
        &mut self,
        t: usize,
        solver: &dyn ParameterSolver<T>,
        selection: &Selection<'_>,
    ) -> Result<ParameterReport, Error> {
        self.check_layer(t)?;
        let mut parameters = self.circuit.parameters(t).to_vec();
        let chosen = self.weighty(&self.chosen(selection, "a W-step")?);
        let report = self.with_problem_of(&chosen, |mut problem| {
            problem.batch.training = true;
            let problem = problem.local(t);
            let mut workspace = problem.workspace();
            let state = &mut solver.start();
            solver.solve(state, &problem, &mut workspace, &mut parameters)
        })??;
        check_computed(Quantity::Parameter, t, 0, &parameters)?;
        self.circuit.parameters_mut()[t] = parameters;
        Ok(report)
    }
}
