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
mod quantile;
mod squared_error;
mod sum_over_positions;
mod units;
mod weighted_binary_cross_entropy;
mod weighted_cross_entropy;
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
pub use quantile::Quantile;
pub use squared_error::SquaredError;
pub use sum_over_positions::SumOverPositions;
pub use weighted_binary_cross_entropy::WeightedBinaryCrossEntropy;
pub use weighted_cross_entropy::WeightedCrossEntropy;
pub use weighted_squared_error::WeightedSquaredError;

use crate::description::Description;
use crate::error::Error;
use crate::kernel::{Scalar, Write};
use crate::layer::ParameterGroup;

/// The point at which a loss is evaluated: targets and predictions of a batch, two column-major
/// `dim × n` slices with one column per example, and the loss's own parameters.
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
    /// Number of rows of targets and predictions.
    pub dim: usize,
    /// z, the targets.
    pub target: &'a [T],
    /// ẑ, the predictions.
    pub prediction: &'a [T],
    /// φ, the loss's own parameters; empty for most losses.
    pub parameters: &'a [T],
}

impl<'a, T> Pair<'a, T> {
    /// Targets and predictions with `dim` rows, for a loss without parameters.
    pub fn new(dim: usize, target: &'a [T], prediction: &'a [T]) -> Self {
        Self {
            dim,
            target,
            prediction,
            parameters: &[],
        }
    }

    /// Sets the loss's parameters φ.
    pub fn with_parameters(self, parameters: &'a [T]) -> Self {
        Self { parameters, ..self }
    }

    /// Number of examples n.
    pub fn examples(&self) -> usize {
        self.target.len().checked_div(self.dim).unwrap_or(0)
    }
}

/// A loss L(z, ẑ) of one example, differentiable in **both** arguments.
///
/// Everything is per example: `values` holds one number per column, the gradients are those of each
/// example's own value, and nothing is averaged. The methods are called with shapes that have been
/// checked; they cannot fail, and must not allocate.
/// [`GradCheck::loss`](crate::gradcheck::GradCheck::loss) checks a loss against finite differences.
///
/// A loss may have its own parameters φ, such as a learned precision. They follow the parameters of
/// its layer in θ_t, and are trained with them.
pub trait Loss<T: Scalar>: Debug + Send + Sync {
    /// The blocks of φ for predictions of `dim` rows, in order and without gaps; empty by default.
    fn parameters(&self, _dim: usize) -> Vec<ParameterGroup> {
        Vec::new()
    }

    /// Sets every value of φ to its initial value.
    fn initialize(&self, _dim: usize, _parameters: &mut [T]) {}

    /// Checks targets when they are added: `dim` rows, one column per example. When a model is
    /// built, this is called without examples, so that a loss can reject its dimension or scalar
    /// type.
    ///
    /// # Errors
    /// [`Error::TargetDomain`] for targets outside the loss's domain, [`Error::Length`] for a
    /// dimension that the loss does not support.
    fn check_target(&self, _dim: usize, _target: &[T]) -> Result<(), Error> {
        Ok(())
    }

    /// Whether the target may be trained, so that the loss can serve as L_h; `false` by default.
    fn free_target(&self) -> bool {
        false
    }

    /// Whether this loss is exactly ½‖z − ẑ‖². Methods that hold only for squared error reject
    /// other losses.
    fn is_squared_error(&self) -> bool {
        false
    }

    /// Whether predictions are logits (or log rates): any real number is meaningful, so a layer whose
    /// activation limits its outputs does not suit the loss. `false` by default.
    fn takes_logits(&self) -> bool {
        false
    }

    /// Whether L is a sum over the units (rows), so that only some of an example's targets may be free:
    /// see [`Evidence`](crate::inference::Evidence). `false` by default.
    fn is_sum_over_units(&self) -> bool {
        false
    }

    /// The number of positions whose losses are summed, each with an equal part of the prediction, as in
    /// [`SumOverPositions`]. It must divide `dim`; 1 by default.
    fn positions(&self) -> usize {
        1
    }

    /// Replaces `predictions` (`dim` rows, one column per example) by the means that they stand for:
    /// softmax probabilities, sigmoid probabilities or rates. By default a prediction is the mean.
    fn mean(&self, _dim: usize, _predictions: &mut [T]) {}

    /// Length of the work memory that the other methods need; 0 by default.
    fn scratch(&self, _dim: usize, _batch: usize) -> usize {
        0
    }

    /// `values ← L` (one per example), `d_target ← ∂L/∂z`, `d_prediction ← ∂L/∂ẑ`.
    fn evaluate(
        &self,
        at: &Pair<'_, T>,
        values: &mut [T],
        d_target: Write<'_, T>,
        d_prediction: Write<'_, T>,
        work: &mut [T],
    );

    /// `d_parameters` ← Σᵢ factorsᵢ ∂Lᵢ/∂φ, with one factor per example; zero by default.
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
    /// v_prediction), where a missing direction counts as zero. The curvature is the Hessian if
    /// that is semidefinite, otherwise a semidefinite part of it.
    fn curvature(
        &self,
        at: &Pair<'_, T>,
        v_target: Option<&[T]>,
        v_prediction: Option<&[T]>,
        out_target: Write<'_, T>,
        out_prediction: Write<'_, T>,
        work: &mut [T],
    );

    /// An upper bound on all eigenvalues of the curvature's two diagonal blocks (target and
    /// prediction) with the parameters φ, if one is known.
    fn curvature_bound(&self, _parameters: &[T]) -> Option<T> {
        None
    }

    /// The loss's kind and settings, from which a [`Registry`](crate::registry::Registry) builds it
    /// again. With `None`, the default, a saved model cannot be opened from its file alone, only
    /// loaded into one built like it.
    fn description(&self) -> Option<Description> {
        None
    }
}
