//! What a training scheme is.

use std::fmt::Debug;

use super::visit::Visit;
use super::w_step::WStep;
use crate::decoupled::{DecoupledCircuit, TargetUse};
use crate::error::Error;
use crate::kernel::Scalar;
use crate::pointers::through_pointers;
use crate::state::State;

/// What a training scheme does with a batch. Comparing schemes means changing one line.
///
/// A scheme is a set of options. What it keeps from visit to visit is in a [`State`], which
/// [`Scheme::start`] creates and the session owns. Per-example arrays have one column per example of
/// the model ([`Visit::columns`]).
///
/// # Examples
/// A custom scheme that does the following twice per visit: it resets the targets to the forward
/// pass, moves them by a reverse sweep, and steps θ along the gradients there:
/// ```
/// use layerwise::decoupled::TargetUse;
/// use layerwise::prelude::*;
/// use layerwise::state::State;
/// use layerwise::training::Visit;
///
/// #[derive(Debug)]
/// struct Twice(ReverseSweep);
///
/// impl<T: Scalar> Scheme<T> for Twice {
///     fn targets(&self) -> TargetUse {
///         TargetUse::Transient
///     }
///
///     fn visit(&self, state: &mut State<T>, visit: &mut Visit<'_, T>) -> Result<T, Error> {
///         let mut energy = T::zero();
///         for _ in 0..2 {
///             let mut problem = visit.target_problem();
///             problem.refresh()?;
///             let report = self.0.solve(state, &mut problem)?;
///             visit.record_solve(report);
///             energy = visit.evaluate()?.step()?;
///         }
///         Ok(energy)
///     }
/// }
/// ```
pub trait Scheme<T: Scalar>: Debug + Send + Sync {
    /// What the scheme does with auxiliary targets; by default it keeps them.
    fn targets(&self) -> TargetUse {
        TargetUse::Kept
    }

    /// Whether the scheme uses μ; if not, a penalty schedule is refused.
    fn uses_penalties(&self) -> bool {
        self.targets() != TargetUse::None
    }

    /// Whether the scheme applies the factor of the learning-rate schedule ([`Visit::factor`]) to
    /// something of its own; if not, a schedule is refused where no layer has an optimiser.
    fn uses_schedule(&self) -> bool {
        false
    }

    /// Whether the scheme can work with a W-step.
    ///
    /// # Errors
    /// [`Error::Combination`] with the reason why not.
    fn check(&self, _w_step: &WStep<T>) -> Result<(), Error> {
        Ok(())
    }

    /// Checks, before a run, whether the scheme can work on `model`, whose μ and targets may change
    /// until the scheme's phase begins. The default accepts every model.
    ///
    /// # Errors
    /// The error that [`Scheme::start`] or [`Scheme::visit`] would return.
    fn check_model(&self, _model: &DecoupledCircuit<T>) -> Result<(), Error> {
        Ok(())
    }

    /// Begins a phase on `model`, and returns its initial state.
    ///
    /// # Errors
    /// If the scheme cannot work on this model, which is then unchanged.
    fn start(&self, _model: &mut DecoupledCircuit<T>) -> Result<State<T>, Error> {
        Ok(State::new())
    }

    /// Makes one visit, which moves parameters, auxiliary targets, or both. Returns the objective
    /// on the batch (a sum over its examples) before the last parameter step: E, or the composed
    /// loss.
    ///
    /// # Errors
    /// [`Error::NonFinite`], and errors of solvers. The batch's targets are then the same as before
    /// the visit.
    fn visit(&self, state: &mut State<T>, visit: &mut Visit<'_, T>) -> Result<T, Error>;

    /// Called at the end of a phase that made at least one visit and did not fail, for example to
    /// bring all targets up to date.
    ///
    /// # Errors
    /// [`Error::NonFinite`]; the targets are then unchanged.
    fn finish(&self, _state: &mut State<T>, _model: &mut DecoupledCircuit<T>) -> Result<(), Error> {
        Ok(())
    }
}

through_pointers!(Scheme {
    fn targets(&self) -> TargetUse;
    fn uses_penalties(&self) -> bool;
    fn uses_schedule(&self) -> bool;
    fn check(&self, w_step: &WStep<T>) -> Result<(), Error>;
    fn check_model(&self, model: &DecoupledCircuit<T>) -> Result<(), Error>;
    fn start(&self, model: &mut DecoupledCircuit<T>) -> Result<State<T>, Error>;
    fn visit(&self, state: &mut State<T>, visit: &mut Visit<'_, T>) -> Result<T, Error>;
    fn finish(&self, state: &mut State<T>, model: &mut DecoupledCircuit<T>) -> Result<(), Error>;
});
