//! Divergence between distributions, with the prediction given as logits.

use super::cross_entropy::{check_distributions, rest_of_sum};
use super::{Loss, Pair, SoftmaxCrossEntropy};
use crate::description::Description;
use crate::error::Error;
use crate::kernel::{Scalar, Sum, Write};

/// Kullback-Leibler divergence of a softmax from its target: L(y, x) = Σ_j y_j (ln y_j − ln p_j)
/// with p = softmax(x), where x is the prediction (logits) and y a probability distribution, and 0
/// ln 0 = 0.
///
/// It equals [`SoftmaxCrossEntropy`] minus the entropy of the target, and is 0 where p = y. It is
/// computed as Σ_j (y_j q_j − y_j + p_j) + (Σy − 1) with q_j = ln y_j − ln p_j, where no term is
/// negative, so that near 0 it keeps its sign and its precision. (It is below 0 only where Σy is
/// below 1.) Use it for targets that are themselves distributions, as in distillation.
/// ∂L/∂x = (Σy) p − y; ∂L/∂y_j = ln y_j + 1 − ln p_j, which is −∞ at y_j = 0. The curvature is
/// blockdiag(0, (Σy)(diag p − p pᵀ)), whose norm is at most ½ Σy; Σy = 1 for every accepted target.
/// The target is fixed: the loss can serve as L, but not as L_h. It is a sum over the classes, not a
/// mean. Kullback & Leibler 1951.
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

/// L of one column, for the exponentials of its logits.
fn divergence<T: Scalar>(exponentials: &[T], x: &[T], y: &[T]) -> T {
    let (place, rest) = rest_of_sum(x, exponentials);
    let (total, half) = (T::one() + rest, T::of(0.5));
    // Halves, since x − top may overflow where y times it does not.
    let (half_total, half_top) = (half * rest.ln_1p(), half * x[place]);
    let mut sum = Sum::zero();
    let mut excess = Sum::zero();
    excess.add(-T::one());
    for (j, &y) in y.iter().enumerate() {
        let half_surprise = half_total - (half * x[j] - half_top);
        let p = exponentials[j] / total;
        excess.add(y);
        sum.add(if !y.is_zero() {
            let logarithm = y.ln();
            let q = logarithm + (half_surprise + half_surprise);
            match q.abs() <= half {
                true => y * exponential_rest(q),
                false => (y + y) * half_surprise + y * logarithm - y + p,
            }
        } else if half_surprise.is_finite() {
            // The derivative of y ln y at 0 is −∞, which dual numbers leave out.
            (y + y) * half_surprise - y + p
        } else {
            p
        });
    }
    sum.add(excess.value());
    sum.value()
}

/// e^(−q) − 1 + q for |q| ≤ ½, by its Taylor series.
fn exponential_rest<T: Scalar>(q: T) -> T {
    const TERMS: usize = 15;
    // Σ_k (−q)^k 2/(k + 2)!, in Horner's scheme.
    let series = (3..TERMS + 2).rev().fold(T::one(), |sum, k| {
        T::one() - q * sum * T::of(1.0 / k as f64)
    });
    T::of(0.5) * q * q * series
}

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
        // It leaves the exponentials there.
        let columns = work
            .chunks_exact(at.dim)
            .zip(at.prediction.chunks_exact(at.dim));
        let columns = columns.zip(at.target.chunks_exact(at.dim));
        for (value, ((e, x), y)) in values.iter_mut().zip(columns) {
            *value = divergence(e, x, y);
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
