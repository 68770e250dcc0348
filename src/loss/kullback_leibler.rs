//! Divergence between distributions, with the prediction given as logits.

use super::cross_entropy::check_distributions;
use super::{Loss, Pair, SoftmaxCrossEntropy};
use crate::description::Description;
use crate::error::Error;
use crate::kernel::{Scalar, Sum, Write};

/// Kullback-Leibler divergence of a softmax from its target: L(y, x) = Σ_j y_j (ln y_j − ln p_j)
/// with p = softmax(x), where x is the prediction (logits) and y a probability distribution, and 0
/// ln 0 = 0.
///
/// It equals [`SoftmaxCrossEntropy`] minus the entropy of the target, and is 0 where p = y. Use it
/// for targets that are themselves distributions, as in distillation. ∂L/∂x = (Σy) p − y; ∂L/∂y_j =
/// ln y_j + 1 − ln p_j, which is −∞ at y_j = 0. The curvature is blockdiag(0, (Σy)(diag p − p pᵀ)),
/// whose norm is at most ½ Σy; Σy = 1 for every accepted target. The target is fixed: the loss can
/// serve as L, but not as L_h. It is a sum over the classes, not a mean. Kullback & Leibler 1951.
///
/// # Examples
/// ```
/// use layerwise::kernel::Write;
/// use layerwise::loss::{KullbackLeibler, Loss, Pair};
///
/// let at = Pair::new(2, &[0.5_f64, 0.5], &[7.0, 7.0]);
/// let (mut value, mut work) = ([1.0], [0.0; 2]);
/// KullbackLeibler.evaluate(&at, &mut value, Write::Skip, Write::Skip, &mut work);
/// assert!(value[0].abs() < 1e-15);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KullbackLeibler;

impl<T: Scalar> Loss<T> for KullbackLeibler {
    fn check_target(&self, dim: usize, target: &[T]) -> Result<(), Error> {
        check_distributions(self, dim, target)
    }

    fn takes_logits(&self) -> bool {
        true
    }

    fn mean(&self, dim: usize, predictions: &mut [T]) {
        SoftmaxCrossEntropy.mean(dim, predictions);
    }

    fn scratch(&self, dim: usize, batch: usize) -> usize {
        Loss::<T>::scratch(&SoftmaxCrossEntropy, dim, batch)
    }

    fn evaluate(
        &self,
        at: &Pair<'_, T>,
        values: &mut [T],
        mut d_target: Write<'_, T>,
        d_prediction: Write<'_, T>,
        work: &mut [T],
    ) {
        let all = d_target.part(0..d_target.len());
        SoftmaxCrossEntropy.evaluate(at, values, all, d_prediction, work);
        for (value, y) in values.iter_mut().zip(at.target.chunks_exact(at.dim)) {
            let mut sum = Sum::zero();
            // The slope of y ln y at 0 is −∞, which a dual number does not get.
            sum.add_terms(0..y.len(), |j| match y[j].is_zero() {
                true => T::zero(),
                false => y[j] * y[j].ln(),
            });
            *value += sum.value();
        }
        if let Write::Set(buffer) | Write::Add(buffer) = d_target {
            Write::Add(buffer).each(|i| at.target[i].ln() + T::one());
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
        // The entropy of the target does not depend on the prediction.
        SoftmaxCrossEntropy.curvature(at, v_target, v_prediction, out_target, out_prediction, work);
    }

    fn curvature_bound(&self, parameters: &[T]) -> Option<T> {
        SoftmaxCrossEntropy.curvature_bound(parameters)
    }

    fn description(&self) -> Option<Description> {
        Some(Description::new("KullbackLeibler"))
    }
}
