//! W-steps: solving one layer's local problem in θ_t, z fixed.

mod least_squares;
mod levenberg_marquardt;
mod normal_equations;
mod parameter_solvers;

use std::fmt::Debug;

pub use least_squares::LeastSquares;
pub use levenberg_marquardt::LevenbergMarquardt;
pub use normal_equations::NormalEquations;
pub use parameter_solvers::ParameterSolvers;

use crate::energy::{LocalProblem, LocalWorkspace};
use crate::error::Error;
use crate::kernel::Scalar;

/// What a solver did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ParameterReport {
    /// Steps that were tried.
    pub steps: u64,
    /// Steps that stand.
    pub accepted: u64,
}

impl ParameterReport {
    /// A report of `steps` steps, of which `accepted` stand.
    pub fn new(steps: u64, accepted: u64) -> Self {
        Self { steps, accepted }
    }
}

/// A method for one layer's local problem ℓ_t(θ_t), z_t and z_{t+1} fixed: the W-step's
/// counterpart of [`TargetSolver`](crate::target_solver::TargetSolver).
///
/// It knows nothing of other layers. In training every layer works with a copy of its own
/// ([`ParameterSolver::copy`]), so that layers are solved at once and memory (sums over
/// minibatches, a damping) belongs to one layer.
///
/// # Examples
/// A solver of one's own, a gradient step of length η on the mean of ℓ_t that is kept if ℓ_t falls:
/// ```
/// use layerwise::{Error, Scalar};
/// use layerwise::energy::{LocalProblem, LocalWorkspace, Wanted};
/// use layerwise::parameter_solver::{ParameterReport, ParameterSolver};
///
/// #[derive(Debug, Clone)]
/// struct Descent(f64);
///
/// impl<T: Scalar> ParameterSolver<T> for Descent {
///     fn copy(&self) -> Box<dyn ParameterSolver<T>> {
///         Box::new(self.clone())
///     }
///
///     fn solve(
///         &mut self,
///         problem: &LocalProblem<'_, T>,
///         workspace: &mut LocalWorkspace<T>,
///         parameters: &mut [T],
///     ) -> Result<ParameterReport, Error> {
///         let wanted = Wanted { parameters: true, ..Wanted::NONE };
///         let before = problem.evaluate(wanted, workspace);
///         let step = T::of(self.0 / problem.examples() as f64);
///         let gradient = workspace.parameter_gradient();
///         let trial: Vec<T> =
///             problem.parameters().iter().zip(gradient).map(|(&x, &g)| x - step * g).collect();
///         let lower = problem.at_parameters(&trial)?.evaluate(Wanted::NONE, workspace) < before;
///         if lower {
///             parameters.copy_from_slice(&trial);
///         }
///         Ok(ParameterReport::new(1, lower.into()))
///     }
/// }
/// ```
pub trait ParameterSolver<T: Scalar>: Debug + Send {
    /// A copy for another layer.
    fn copy(&self) -> Box<dyn ParameterSolver<T>>;

    /// Forgets what was kept from earlier calls; made at the start of every phase.
    fn reset(&mut self) {}

    /// Whether this solver fits the layer, loss and regulariser of the problem, whatever its
    /// examples (there may be none); it fits every one by default.
    ///
    /// # Errors
    /// [`Error::ParameterSolver`] with the reason why it does not.
    fn check(&self, _problem: &LocalProblem<'_, T>) -> Result<(), Error> {
        Ok(())
    }

    /// Moves θ_t: `parameters`, which come as [`LocalProblem::parameters`], the layer's own and then
    /// the loss's. On an error they are as they came.
    ///
    /// The workspace is memory: what it holds before and after means nothing. The solvers of this crate
    /// keep their own memory too, and allocate in the first call for a size of problem alone.
    ///
    /// # Errors
    /// Those of [`ParameterSolver::check`], [`Error::Length`] for `parameters` that do not fit,
    /// [`Error::NonFinite`]. Solvers may add errors of their own.
    fn solve(
        &mut self,
        problem: &LocalProblem<'_, T>,
        workspace: &mut LocalWorkspace<T>,
        parameters: &mut [T],
    ) -> Result<ParameterReport, Error>;
}

/// `value` in the scalar, finite and not negative there.
fn not_negative<T: Scalar>(option: &'static str, value: f64) -> Result<T, Error> {
    let own = T::of(value);
    if own.is_finite() && own >= T::zero() {
        return Ok(own);
    }
    Err(Error::InvalidOption {
        option,
        value,
        allowed: "finite in the circuit's scalar and not negative",
    })
}
