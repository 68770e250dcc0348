//! Implements [`Loss`](super::Loss) for pointers to losses.

use super::{Loss, Pair};
use crate::description::Description;
use crate::error::Error;
use crate::kernel::{Scalar, Write};
use crate::layer::ParameterGroup;
use crate::pointers::through_pointers;

through_pointers!(Loss {
    fn parameters(&self, dim: usize) -> Vec<ParameterGroup>;
    fn initialize(&self, dim: usize, parameters: &mut [T]);
    fn check_target(&self, dim: usize, target: &[T]) -> Result<(), Error>;
    fn free_target(&self) -> bool;
    fn is_squared_error(&self) -> bool;
    fn takes_logits(&self) -> bool;
    fn is_sum_over_units(&self) -> bool;
    fn positions(&self) -> usize;
    fn mean(&self, dim: usize, predictions: &mut [T]);
    fn scratch(&self, dim: usize, batch: usize) -> usize;
    fn evaluate(
        &self,
        at: &Pair<'_, T>,
        values: &mut [T],
        d_target: Write<'_, T>,
        d_prediction: Write<'_, T>,
        work: &mut [T],
    );
    fn parameter_gradient(
        &self,
        at: &Pair<'_, T>,
        factors: &[T],
        d_parameters: Write<'_, T>,
        work: &mut [T],
    );
    fn curvature(
        &self,
        at: &Pair<'_, T>,
        v_target: Option<&[T]>,
        v_prediction: Option<&[T]>,
        out_target: Write<'_, T>,
        out_prediction: Write<'_, T>,
        work: &mut [T],
    );
    fn curvature_bound(&self, parameters: &[T]) -> Option<T>;
    fn description(&self) -> Option<Description>;
});
