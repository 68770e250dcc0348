//! The [`Loss`] contract, and the losses that come with the crate.

mod cross_entropy;
mod squared_error;

use std::fmt::Debug;

pub use cross_entropy::SoftmaxCrossEntropy;
pub use squared_error::SquaredError;

use crate::{Error, Scalar, Write};

/// Targets and predictions of a batch: two column-major `dim × n` slices, one example a column.
#[derive(Debug, Clone, Copy)]
pub struct Pair<'a, T> {
    /// Rows of both.
    pub dim: usize,
    /// z, what the prediction should be.
    pub target: &'a [T],
    /// ẑ.
    pub prediction: &'a [T],
}

/// A measure L(z, ẑ) of one example's error, differentiable in **both** arguments.
///
/// Everything is per example: `values` holds one number a column, gradients are those of each
/// example's own value, and nothing is averaged. The kernels run on shapes that were validated
/// before, cannot fail, and must not allocate. [`GradCheck::loss`](crate::GradCheck::loss) checks a
/// loss against finite differences.
pub trait Loss<T: Scalar>: Debug + Send + Sync {
    /// Checks targets at the entry of the data, `dim` rows, one example a column.
    ///
    /// # Errors
    /// [`Error::TargetDomain`] for targets outside the loss's domain.
    fn check_target(&self, _dim: usize, _target: &[T]) -> Result<(), Error> {
        Ok(())
    }

    /// Whether the target may be trained, so that the loss can serve as L_h.
    fn free_target(&self) -> bool;

    /// Length of the work memory that the other methods need.
    fn scratch(&self, dim: usize, batch: usize) -> usize;

    /// `values ← L` (one an example), `d_target ← ∂L/∂z`, `d_prediction ← ∂L/∂ẑ`.
    fn evaluate(
        &self,
        at: &Pair<'_, T>,
        values: &mut [T],
        d_target: Write<'_, T>,
        d_prediction: Write<'_, T>,
        work: &mut [T],
    );

    /// Product of a positive semidefinite curvature with the joint direction (v_target,
    /// v_prediction), a missing direction being zero: the Hessian where that is semidefinite, else
    /// a semidefinite part of it.
    fn curvature(
        &self,
        at: &Pair<'_, T>,
        v_target: Option<&[T]>,
        v_prediction: Option<&[T]>,
        out_target: Write<'_, T>,
        out_prediction: Write<'_, T>,
        work: &mut [T],
    );

    /// A number at least as large as every eigenvalue of the curvature's two diagonal blocks
    /// (target and prediction), if one is known.
    fn curvature_bound(&self) -> Option<T> {
        None
    }
}
