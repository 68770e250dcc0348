//! Ordinary backprop as a training scheme.

use super::visit::{Scheme, Visit};
use crate::error::Error;
use crate::kernel::Scalar;

/// The coupled baseline: one backprop step on θ a visit. Auxiliary targets stay as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backprop;

impl<T: Scalar> Scheme<T> for Backprop {
    fn uses_targets(&self) -> bool {
        false
    }

    fn visit(&mut self, visit: &mut Visit<'_, '_, T>) -> Result<T, Error> {
        let loss = visit.backprop()?;
        visit.step_parameters()?;
        Ok(loss)
    }
}
