//! Z-steps: moving the auxiliary targets of a batch, θ fixed.

mod acceptance;
mod curvature;
mod gauss_newton;
mod gradient;
mod problem;
mod red_black;
mod report;
mod reverse_sweep;
mod step_size;

use std::fmt::Debug;

pub(crate) use curvature::Curvature;
pub use gauss_newton::GaussNewton;
pub(crate) use gauss_newton::Link;
pub use gradient::SynchronousDescent;
pub use problem::TargetProblem;
pub use red_black::RedBlack;
pub use report::{Convergence, SolveReport, SolveStop};
pub use reverse_sweep::ReverseSweep;
pub use step_size::StepSize;

use crate::error::Error;
use crate::kernel::Scalar;

/// A method that lowers E over the auxiliary targets of one batch.
///
/// An example's targets must not depend on which other examples share its batch.
///
/// # Examples
/// A solver of one's own, a reverse sweep with a fixed step:
/// ```
/// use layerwise::{Error, Scalar};
/// use layerwise::target_solver::{SolveReport, TargetProblem, TargetSolver};
///
/// #[derive(Debug)]
/// struct Sweep(f64);
///
/// impl<T: Scalar> TargetSolver<T> for Sweep {
///     fn solve(&mut self, problem: &mut TargetProblem<'_, '_, T>) -> Result<SolveReport, Error> {
///         problem.predict();
///         problem.attempt(0, |problem| {
///             for t in (1..problem.circuit().depth()).rev() {
///                 problem.target_gradient(t);
///                 problem.check_target_gradient(t, 0)?;
///                 problem.descend(t, T::of(self.0));
///             }
///             Ok(())
///         })?;
///         Ok(SolveReport::new(1, problem.batch().len()))
///     }
/// }
/// ```
pub trait TargetSolver<T: Scalar>: Debug + Send {
    /// Forgets what was kept from earlier calls; made at the start of every run.
    fn reset(&mut self) {}

    /// Moves the targets.
    ///
    /// # Errors
    /// [`Error::NonFinite`] if an energy, a gradient or a new target is not finite; the targets are
    /// then those of the last completed step ([`TargetProblem::attempt`] makes that easy). Solvers
    /// may add errors of their own.
    fn solve(&mut self, problem: &mut TargetProblem<'_, '_, T>) -> Result<SolveReport, Error>;
}
