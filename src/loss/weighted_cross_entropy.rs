//! Softmax cross entropy, with one weight per class.

use super::cross_entropy::{SUM_TOLERANCE, check_distributions};
use super::units::{check_list, inner, largest, numbers};
use super::{Loss, Pair, SoftmaxCrossEntropy};
use crate::check::{check_length, not_negative};
use crate::description::Description;
use crate::error::Error;
use crate::kernel::{Scalar, Write};

/// [`SoftmaxCrossEntropy`] with one weight per class: L(y, x) = −Σ_j w_j y_j ln p_j with
/// p = softmax(x), where x is the prediction (logits) and y a probability distribution.
///
/// With m = Σ_j w_j y_j: ∂L/∂x = m p − w ∘ y; ∂L/∂y = −w ∘ ln p. The curvature is the Gauss-Newton
/// part blockdiag(0, m (diag p − p pᵀ)), whose norm is at most ½ m ≤ ½ max w. The target is fixed:
/// the loss can serve as L, but not as L_h. It is a sum, not a mean, and weights are not normalised:
/// weights of 1 give [`SoftmaxCrossEntropy`].
///
/// PyTorch's `CrossEntropyLoss(weight=w)` has two forms. For probabilities it is the mean over the
/// examples of the loss above. For class indices it is Σᵢ w_cᵢ ℓᵢ / Σᵢ w_cᵢ, a mean weighted by the
/// examples' own classes, which depends on the batch. Here both kinds of targets have the first
/// form, as a sum: `reduction="sum"`, where PyTorch's two forms agree on labels.
///
/// [`ClassWeights`](crate::loss::ClassWeights) weights the example, m Σ_j −y_j ln p_j, and wraps any
/// loss. On one-hot targets the two are the same. On soft or smoothed targets this one pulls p
/// towards w ∘ y / m, that one towards y.
///
/// The number of weights fixes the dimension: `check_target` rejects any other dimension with
/// [`Error::Length`].
///
/// # Examples
/// ```
/// use layerwise::kernel::Write;
/// use layerwise::loss::{Loss, Pair, WeightedCrossEntropy};
///
/// let loss = WeightedCrossEntropy::new(vec![1.0_f64, 4.0])?;
/// let at = Pair::new(2, &[0.0, 1.0], &[0.0, 0.0]);
/// let (mut value, mut gradient) = ([0.0], [0.0; 2]);
/// let mut work = vec![0.0; loss.scratch(2, 1)];
/// loss.evaluate(&at, &mut value, Write::Skip, Write::Set(&mut gradient), &mut work);
/// assert!((value[0] - 4.0 * 2f64.ln()).abs() < 1e-15);
/// assert_eq!(gradient, [2.0, -2.0]);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[doc(alias("class_weight", "CrossEntropyLoss", "imbalanced"))]
#[derive(Debug, Clone, PartialEq)]
pub struct WeightedCrossEntropy<T> {
    weights: Vec<T>,
}

impl<T: Scalar> WeightedCrossEntropy<T> {
    /// The loss with these weights, one per class.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a weight that is negative or not finite, [`Error::Length`] if
    /// there are no weights.
    pub fn new(weights: Vec<T>) -> Result<Self, Error> {
        check_list("WeightedCrossEntropy::weights", &weights, not_negative)?;
        Ok(Self { weights })
    }

    /// The same point with target w ∘ y, of which this is the plain cross entropy, and the rest of
    /// the work memory.
    fn weighted<'a>(&self, at: &Pair<'a, T>, work: &'a mut [T]) -> (Pair<'a, T>, &'a mut [T]) {
        let (target, rest) = work.split_at_mut(at.target.len());
        let columns = target.chunks_exact_mut(at.dim);
        for (column, y) in columns.zip(at.target.chunks_exact(at.dim)) {
            for ((weighted, &y), &weight) in column.iter_mut().zip(y).zip(&self.weights) {
                *weighted = weight * y;
            }
        }
        (Pair { target, ..*at }, rest)
    }
}

impl<T: Scalar> Loss<T> for WeightedCrossEntropy<T> {
    fn check_target(&self, dim: usize, target: &[T]) -> Result<(), Error> {
        check_length("class weights", &self.weights, dim)?;
        check_distributions(self, dim, target)
    }

    fn takes_logits(&self) -> bool {
        true
    }

    fn mean(&self, dim: usize, predictions: &mut [T]) {
        SoftmaxCrossEntropy.mean(dim, predictions);
    }

    fn scratch(&self, dim: usize, batch: usize) -> usize {
        // w ∘ y, and the gradient in it.
        let own = dim.saturating_mul(batch).saturating_mul(2);
        own.saturating_add(Loss::<T>::scratch(&SoftmaxCrossEntropy, dim, batch))
    }

    fn evaluate(
        &self,
        at: &Pair<'_, T>,
        values: &mut [T],
        mut d_target: Write<'_, T>,
        d_prediction: Write<'_, T>,
        work: &mut [T],
    ) {
        let (weighted, rest) = self.weighted(at, work);
        let (gradient, rest) = rest.split_at_mut(at.target.len());
        let to_gradient = inner(&d_target, gradient);
        SoftmaxCrossEntropy.evaluate(&weighted, values, to_gradient, d_prediction, rest);
        for (i, gradient) in gradient.chunks_exact(at.dim).enumerate() {
            let column = d_target.part(i * at.dim..(i + 1) * at.dim);
            column.each(|j| self.weights[j] * gradient[j]);
        }
    }

    fn curvature(
        &self,
        at: &Pair<'_, T>,
        v_target: Option<&[T]>,
        v_prediction: Option<&[T]>,
        out_target: Write<'_, T>,
        out_prediction: Write<'_, T>,
        work: &mut [T],
    ) {
        let (weighted, rest) = self.weighted(at, work);
        let v = [v_target, v_prediction];
        SoftmaxCrossEntropy.curvature(&weighted, v[0], v[1], out_target, out_prediction, rest);
    }

    fn curvature_bound(&self, _parameters: &[T]) -> Option<T> {
        // m is at most max w Σy, including the tolerance that the check of targets allows.
        Some(T::of(0.5 * (1.0 + SUM_TOLERANCE)) * largest(&self.weights))
    }

    fn description(&self) -> Option<Description> {
        let own = Description::new("WeightedCrossEntropy");
        Some(own.with("weights", numbers(&self.weights)))
    }
}
