//! The [`Loss`] contract, and the losses that come with the crate.

mod binary_cross_entropy;
mod class_weights;
mod cross_entropy;
mod gaussian;
mod huber;
mod kullback_leibler;
mod label_smoothing;
mod pointers;
mod poisson;
mod squared_error;
mod units;
mod weighted_squared_error;

use std::fmt::Debug;

pub use binary_cross_entropy::BinaryCrossEntropy;
pub use class_weights::ClassWeights;
pub use cross_entropy::SoftmaxCrossEntropy;
pub use gaussian::Gaussian;
pub use huber::{Huber, PseudoHuber};
pub use kullback_leibler::KullbackLeibler;
pub use label_smoothing::LabelSmoothing;
pub use poisson::Poisson;
pub use squared_error::SquaredError;
pub use weighted_squared_error::WeightedSquaredError;

use crate::error::Error;
use crate::kernel::{Scalar, Write};
use crate::layer::ParameterGroup;

/// Where a loss is evaluated: targets and predictions of a batch, two column-major `dim × n`
/// slices with one example a column, and the loss's own parameters.
///
/// # Examples
/// ```
/// use layerwise::loss::Pair;
///
/// let at = Pair::new(2, &[1.0, 2.0, 3.0, 4.0], &[0.0; 4]);
/// assert_eq!(at.examples(), 2);
/// ```
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Pair<'a, T> {
    /// Rows of both.
    pub dim: usize,
    /// z, what the prediction should be.
    pub target: &'a [T],
    /// ẑ.
    pub prediction: &'a [T],
    /// φ, the loss's own parameters; empty for most losses.
    pub parameters: &'a [T],
}

impl<'a, T> Pair<'a, T> {
    /// Targets and predictions of `dim` rows, without parameters of the loss.
    pub fn new(dim: usize, target: &'a [T], prediction: &'a [T]) -> Self {
        Self {
            dim,
            target,
            prediction,
            parameters: &[],
        }
    }

    /// The same pair for a loss with parameters φ.
    pub fn with_parameters(self, parameters: &'a [T]) -> Self {
        Self { parameters, ..self }
    }

    /// Number of examples n.
    pub fn examples(&self) -> usize {
        self.target.len().checked_div(self.dim).unwrap_or(0)
    }
}

/// A measure L(z, ẑ) of one example's error, differentiable in **both** arguments.
///
/// Everything is per example: `values` holds one number a column, gradients are those of each
/// example's own value, and nothing is averaged. The kernels run on shapes that were validated
/// before, cannot fail, and must not allocate. [`GradCheck::loss`](crate::gradcheck::GradCheck::loss) checks a
/// loss against finite differences.
///
/// A loss may have parameters φ of its own, such as a learned precision. They stand behind those of
/// its layer in θ_t, and are trained with them.
pub trait Loss<T: Scalar>: Debug + Send + Sync {
    /// The blocks of φ for predictions of `dim` rows, in order and without gaps; empty by default.
    fn parameters(&self, _dim: usize) -> Vec<ParameterGroup> {
        Vec::new()
    }

    /// Sets φ to where it starts, every value.
    fn initialize(&self, _dim: usize, _parameters: &mut [T]) {}

    /// Checks targets at the entry of the data, `dim` rows, one example a column. Building a circuit
    /// asks with no example at all, for a loss that only some dimensions, or scalars, fit.
    ///
    /// # Errors
    /// [`Error::TargetDomain`] for targets outside the loss's domain, [`Error::Length`] for a
    /// dimension that it does not fit.
    fn check_target(&self, _dim: usize, _target: &[T]) -> Result<(), Error> {
        Ok(())
    }

    /// Whether the target may be trained, so that the loss can serve as L_h; not by default.
    fn free_target(&self) -> bool {
        false
    }

    /// Whether this is ½‖z − ẑ‖² itself: what holds for squared error alone is refused otherwise.
    fn is_squared_error(&self) -> bool {
        false
    }

    /// Length of the work memory that the other methods need; 0 by default.
    fn scratch(&self, _dim: usize, _batch: usize) -> usize {
        0
    }

    /// `values ← L` (one an example), `d_target ← ∂L/∂z`, `d_prediction ← ∂L/∂ẑ`.
    fn evaluate(
        &self,
        at: &Pair<'_, T>,
        values: &mut [T],
        d_target: Write<'_, T>,
        d_prediction: Write<'_, T>,
        work: &mut [T],
    );

    /// `d_parameters` ← Σᵢ factorsᵢ ∂Lᵢ/∂φ, one factor an example; zero by default.
    fn parameter_gradient(
        &self,
        _at: &Pair<'_, T>,
        _factors: &[T],
        d_parameters: Write<'_, T>,
        _work: &mut [T],
    ) {
        d_parameters.each(|_| T::zero());
    }

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
    /// (target and prediction) at the parameters φ, if one is known.
    fn curvature_bound(&self, _parameters: &[T]) -> Option<T> {
        None
    }
}
