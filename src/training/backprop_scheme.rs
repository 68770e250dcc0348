//! Ordinary backprop as a training scheme.

use super::scheme::Scheme;
use super::visit::{Visit, needs_gradients};
use super::w_step::WStep;
use crate::check::refuse;
use crate::decoupled::TargetUse;
use crate::error::Error;
use crate::kernel::Scalar;
use crate::state::State;

/// Ordinary backprop, the baseline: steps on θ. Auxiliary targets do not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backprop;

impl<T: Scalar> Scheme<T> for Backprop {
    fn targets(&self) -> TargetUse {
        TargetUse::None
    }

    fn check(&self, w_step: &WStep<T>) -> Result<(), Error> {
        refuse_none(w_step, "backprop with no W-step")?;
        match w_step.solves() {
            true => needs_gradients(w_step, "backprop with parameter solvers"),
            false => Ok(()),
        }
    }

    fn visit(&self, _state: &mut State<T>, visit: &mut Visit<'_, T>) -> Result<T, Error> {
        visit.backprop()?.step()
    }
}

/// Refuses a W-step that does nothing.
pub(super) fn refuse_none<T: Scalar>(w_step: &WStep<T>, what: &'static str) -> Result<(), Error> {
    match w_step.is_none() {
        true => refuse(what, "nothing that a visit changes would be kept"),
        false => Ok(()),
    }
}
