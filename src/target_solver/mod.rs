//! Z-steps: moving the auxiliary targets of a batch with θ fixed.
//!
//! A solver is a plain value that holds options; what it keeps from call to call is a [`State`]
//! that the caller holds. The solvers of this crate are descent directions ([`Descent`]) run by one
//! loop ([`Iterate`]), which checks steps example by example, shortens them, and decides when to
//! stop.

mod curvature;
mod descent;
mod error_descent;
mod gauss_newton;
mod problem;
mod relaxation;
mod report;
mod step_size;
mod surviving_error;
mod sweeps;
mod synchronous_descent;
mod trial;

use std::fmt::Debug;

pub(crate) use curvature::{Curvature, size_of_block};
pub use descent::{Descent, Iterate};
pub use error_descent::ErrorDescent;
pub(crate) use gauss_newton::Link;
pub use gauss_newton::{ConjugateGradients, GaussNewton, LinearSolver};
pub(crate) use problem::Predictions;
pub use problem::TargetProblem;
pub(crate) use relaxation::{Relaxation, Relaxed};
pub use report::{Convergence, SolveReport, SolveStop};
pub(crate) use step_size::StepRule;
pub use step_size::StepSize;
pub(crate) use surviving_error::{Kept, SurvivingError};
pub use sweeps::{RedBlack, ReverseSweep};
pub use synchronous_descent::SynchronousDescent;
pub use trial::{Check, Trial, Verdict};

use crate::decoupled::examples::Working;
use crate::decoupled::{DecoupledCircuit, Selection, TargetUse};
use crate::energy::{Layers, Workspace};
use crate::error::Error;
use crate::kernel::Scalar;
use crate::pointers::through_pointers;
use crate::state::State;

/// A method that lowers E over the auxiliary targets of one batch.
///
/// A solver holds only options. It can be shared, and used for several batches at once, each with
/// its own state. An example's targets must not depend on which other examples share its batch.
///
/// # Examples
/// A custom solver, a reverse sweep with a fixed step (a [`Descent`] run by [`Iterate`] would also
/// have checked steps and early stopping):
/// ```
/// use layerwise::state::State;
/// use layerwise::target_solver::{SolveReport, TargetProblem, TargetSolver};
/// use layerwise::{Error, Scalar};
///
/// #[derive(Debug)]
/// struct Sweep(f64);
///
/// impl<T: Scalar> TargetSolver<T> for Sweep {
///     fn solve(
///         &self,
///         _: &mut State<T>,
///         problem: &mut TargetProblem<'_, T>,
///     ) -> Result<SolveReport, Error> {
///         problem.predict();
///         problem.attempt(0, |problem| {
///             for t in (1..problem.layers().depth()).rev() {
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
pub trait TargetSolver<T: Scalar>: Debug + Send + Sync {
    /// Checks, before a run, whether the solver can work with these layers and losses. The default
    /// accepts all.
    ///
    /// # Errors
    /// The error that [`TargetSolver::solve`] would return for any targets, such as
    /// [`Error::NoCurvatureBound`].
    fn check(&self, _layers: Layers<'_, T>) -> Result<(), Error> {
        Ok(())
    }

    /// The state at the start of a run.
    fn start(&self) -> State<T> {
        State::new()
    }

    /// Moves the targets.
    ///
    /// `state` comes from [`TargetSolver::start`] and is passed from call to call during a run.
    /// Between calls θ, the batch and its size may change.
    ///
    /// # Errors
    /// [`Error::NonFinite`] if an energy, a gradient or a new target is not finite; the targets are
    /// then those of the last completed step ([`TargetProblem::attempt`] makes this easy). Solvers
    /// may add their own errors.
    fn solve(
        &self,
        state: &mut State<T>,
        problem: &mut TargetProblem<'_, T>,
    ) -> Result<SolveReport, Error>;
}

through_pointers!(TargetSolver {
    fn check(&self, layers: Layers<'_, T>) -> Result<(), Error>;
    fn start(&self) -> State<T>;
    fn solve(
        &self,
        state: &mut State<T>,
        problem: &mut TargetProblem<'_, T>,
    ) -> Result<SolveReport, Error>;
});

impl<T: Scalar> DecoupledCircuit<T> {
    /// Moves the auxiliary targets of the selected examples by one call of `solver`, with a new
    /// state and with θ fixed. The solver does not see examples of weight 0, unless there are no others.
    ///
    /// # Errors
    /// Errors of the selection, [`Error::NoExamples`], [`Error::TargetsNotStored`], and those of the
    /// solver, whose completed steps are kept; [`Error::NonFinite`] for a solver that produces non-finite targets, in which case
    /// the targets do not change.
    pub fn solve_targets(
        &mut self,
        solver: &dyn TargetSolver<T>,
        selection: &Selection<'_>,
    ) -> Result<SolveReport, Error> {
        let chosen = self.weighty(&self.chosen(selection, "a Z-step")?);
        self.examples.check_stored("a Z-step")?;
        self.check_batch(chosen.len())?;
        let mut working = Working::new(self.circuit.depth());
        let batch = working.lend(&self.examples, &chosen, 0, TargetUse::Kept)?;
        let (mut workspace, mut predictions) = (Workspace::new(), Predictions::None);
        let (workspace, predictions) = (&mut workspace, &mut predictions);
        let mut problem = TargetProblem::new(self.layers(), batch, &[], workspace, predictions);
        let solved = solver.solve(&mut solver.start(), &mut problem);
        let finite = problem.check_targets(0);
        if finite.is_ok() {
            working.commit(&mut self.examples, &chosen)?;
        }
        solved.and_then(|report| finite.map(|()| report))
    }
}

/// What all solvers that wrap an [`Iterate`] have in common.
macro_rules! iterated {
    ($(#[$more:meta])* $name:ty $(, $t:ident)?) => {
        impl $(<$t: Scalar>)? $name {
            /// Sets when examples end early; their targets then stay fixed.
            $(#[$more])*
            pub fn with_convergence(self, convergence: Convergence) -> Self {
                Self(self.0.with_convergence(convergence))
            }
        }

        impl<T: Scalar> TargetSolver<T> for $name {
            fn check(&self, layers: Layers<'_, T>) -> Result<(), Error> {
                self.0.check(layers)
            }

            fn solve(
                &self,
                state: &mut State<T>,
                problem: &mut TargetProblem<'_, T>,
            ) -> Result<SolveReport, Error> {
                self.0.solve(state, problem)
            }
        }
    };
}
use iterated;
