//! Class weights for any loss.

use super::cross_entropy::{SUM_TOLERANCE, check_distributions};
use super::units::{check_list, inner, largest, numbers};
use super::{Loss, Pair};
use crate::check::{check_length, not_negative};
use crate::description::Description;
use crate::error::Error;
use crate::kernel::{Scalar, Sum, Write};
use crate::layer::ParameterGroup;

/// A loss with one weight per class: c(y) L(y, x) with c(y) = Σ_j w_j y_j, where L is the inner
/// loss and y a distribution. An example with a one-hot target has the weight of its class.
///
/// ∂/∂x = c(y) ∂L/∂x; ∂/∂y = c(y) ∂L/∂y + L w. The curvature is c(y) times that of the inner loss,
/// and its bound is max w times the inner bound. Targets must be distributions, and the inner loss
/// must accept them. They are data and cannot be trained: the loss can serve as L, but not as L_h,
/// whatever the inner loss is. The scaling is that of the inner loss. Weights are not normalised:
/// weights of 1 change nothing. King & Zeng 2001.
///
/// The number of weights fixes the dimension: `check_target` rejects any other dimension with
/// [`Error::Length`].
///
/// # Examples
/// ```
/// use layerwise::kernel::Write;
/// use layerwise::loss::{ClassWeights, Loss, Pair, SoftmaxCrossEntropy};
///
/// let loss = ClassWeights::new(vec![1.0_f64, 8.0], SoftmaxCrossEntropy)?;
/// let at = Pair::new(2, &[1.0, 0.0, 0.0, 1.0], &[0.0; 4]);
/// let mut values = [0.0; 2];
/// let mut work = vec![0.0; loss.scratch(2, 2)];
/// loss.evaluate(&at, &mut values, Write::Skip, Write::Skip, &mut work);
/// assert_eq!(values[1], 8.0 * values[0]);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ClassWeights<T, L> {
    weights: Vec<T>,
    loss: L,
}

impl<T: Scalar, L: Loss<T>> ClassWeights<T, L> {
    /// The loss with these weights, one per class.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a weight that is negative or not finite, [`Error::Length`] if
    /// there are no weights.
    pub fn new(weights: Vec<T>, loss: L) -> Result<Self, Error> {
        check_list("ClassWeights::weights", &weights, not_negative)?;
        Ok(Self { weights, loss })
    }

    /// c(y) of one example.
    fn factor(&self, y: &[T]) -> T {
        let mut sum = Sum::zero();
        sum.add_terms(0..y.len(), |j| self.weights[j] * y[j]);
        sum.value()
    }
}

impl<T: Scalar, L: Loss<T>> Loss<T> for ClassWeights<T, L> {
    fn parameters(&self, dim: usize) -> Vec<ParameterGroup> {
        self.loss.parameters(dim)
    }

    fn initialize(&self, dim: usize, parameters: &mut [T]) {
        self.loss.initialize(dim, parameters);
    }

    fn check_target(&self, dim: usize, target: &[T]) -> Result<(), Error> {
        check_length("class weights", &self.weights, dim)?;
        self.loss.check_target(dim, target)?;
        check_distributions(self, dim, target)
    }

    fn takes_logits(&self) -> bool {
        self.loss.takes_logits()
    }

    fn positions(&self) -> usize {
        self.loss.positions()
    }

    fn mean(&self, dim: usize, predictions: &mut [T]) {
        self.loss.mean(dim, predictions);
    }

    fn scratch(&self, dim: usize, batch: usize) -> usize {
        // The gradients or curvature products of the inner loss, in target and prediction.
        let own = dim.saturating_mul(batch).saturating_mul(2);
        own.saturating_add(self.loss.scratch(dim, batch))
    }

    fn evaluate(
        &self,
        at: &Pair<'_, T>,
        values: &mut [T],
        mut d_target: Write<'_, T>,
        mut d_prediction: Write<'_, T>,
        work: &mut [T],
    ) {
        let (z, rest) = work.split_at_mut(at.target.len());
        let (p, rest) = rest.split_at_mut(at.target.len());
        let (to_z, to_p) = (inner(&d_target, z), inner(&d_prediction, p));
        self.loss.evaluate(at, values, to_z, to_p, rest);
        for (i, value) in values.iter_mut().enumerate() {
            let column = i * at.dim..(i + 1) * at.dim;
            let factor = self.factor(&at.target[column.clone()]);
            let (z, p) = (&z[column.clone()], &p[column.clone()]);
            let of_target = d_target.part(column.clone());
            of_target.each(|j| factor * z[j] + *value * self.weights[j]);
            d_prediction.part(column).each(|j| factor * p[j]);
            *value *= factor;
        }
    }

    fn parameter_gradient(
        &self,
        at: &Pair<'_, T>,
        factors: &[T],
        d_parameters: Write<'_, T>,
        work: &mut [T],
    ) {
        let (weighted, rest) = work.split_at_mut(factors.len());
        let targets = at.target.chunks_exact(at.dim);
        for ((weighted, &factor), y) in weighted.iter_mut().zip(factors).zip(targets) {
            *weighted = factor * self.factor(y);
        }
        self.loss
            .parameter_gradient(at, weighted, d_parameters, rest);
    }

    fn curvature(
        &self,
        at: &Pair<'_, T>,
        v_target: Option<&[T]>,
        v_prediction: Option<&[T]>,
        mut out_target: Write<'_, T>,
        mut out_prediction: Write<'_, T>,
        work: &mut [T],
    ) {
        let (z, rest) = work.split_at_mut(at.target.len());
        let (p, rest) = rest.split_at_mut(at.target.len());
        let (to_z, to_p) = (inner(&out_target, z), inner(&out_prediction, p));
        self.loss
            .curvature(at, v_target, v_prediction, to_z, to_p, rest);
        for (i, y) in at.target.chunks_exact(at.dim).enumerate() {
            let column = i * at.dim..(i + 1) * at.dim;
            let factor = self.factor(y);
            let (z, p) = (&z[column.clone()], &p[column.clone()]);
            out_target.part(column.clone()).each(|j| factor * z[j]);
            out_prediction.part(column).each(|j| factor * p[j]);
        }
    }

    fn curvature_bound(&self, parameters: &[T]) -> Option<T> {
        // c(y) is at most max w Σy, including the tolerance that the check of targets allows.
        let most = largest(&self.weights) * T::of(1.0 + SUM_TOLERANCE);
        Some(most * self.loss.curvature_bound(parameters)?)
    }

    fn description(&self) -> Option<Description> {
        let own = Description::new("ClassWeights").with("weights", numbers(&self.weights));
        Some(own.with("loss", self.loss.description()?))
    }
}
