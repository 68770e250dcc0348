//! Cross entropy of a softmax, on logits.

use std::fmt::Debug;

use super::{Loss, Pair};
use crate::{Error, Scalar, Write};

/// L(y, x) = −Σ_j y_j ln p_j with p = softmax(x), x the prediction (logits), y a distribution.
///
/// ∂L/∂x = (Σy) p − y; ∂L/∂y = −ln p. Computed from x minus its largest entry, so no finite
/// logits overflow. The target is fixed (the joint Hessian is indefinite): the loss serves as L,
/// not as L_h. The curvature is blockdiag(0, (Σy)(diag p − p pᵀ)), the Gauss-Newton part, whose
/// norm is at most ½ Σy, and Σy = 1 for every target that is accepted.
///
/// # Examples
/// ```
/// use layerwise::{Loss, Pair, SoftmaxCrossEntropy, Write};
///
/// let at = Pair::new(2, &[1.0_f64, 0.0], &[1000.0, 1000.0]);
/// let (mut value, mut work) = ([0.0], [0.0; 2]);
/// SoftmaxCrossEntropy.evaluate(&at, &mut value, Write::Skip, Write::Skip, &mut work);
/// assert!((value[0] - 2f64.ln()).abs() < 1e-15);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SoftmaxCrossEntropy;

/// How far from 1 the sum of a target may be.
pub(super) const SUM_TOLERANCE: f64 = 1e-4;

/// Checks that every target is a distribution, on behalf of `loss`.
pub(super) fn check_distributions<T: Scalar>(
    loss: &dyn Debug,
    dim: usize,
    target: &[T],
) -> Result<(), Error> {
    let outside = |column, reason| Error::TargetDomain {
        loss: format!("{loss:?}"),
        column,
        reason,
    };
    for (column, y) in target.chunks_exact(dim).enumerate() {
        if let Some((class, y)) = y.iter().enumerate().find(|(_, y)| **y < T::zero()) {
            let reason = format!("class {class} has the negative probability {}", y.as_f64());
            return Err(outside(column, reason));
        }
        let total = sum(y).as_f64();
        if total.is_nan() || (total - 1.0).abs() > SUM_TOLERANCE {
            return Err(outside(
                column,
                format!("the probabilities sum to {total}, not 1"),
            ));
        }
    }
    Ok(())
}

/// Shifts every column of logits by its maximum and returns e^(x − max), in `work`.
fn shifted_exponentials<'a, T: Scalar>(at: &Pair<'_, T>, work: &'a mut [T]) -> &'a [T] {
    let work = &mut work[..at.prediction.len()];
    let columns = at.prediction.chunks_exact(at.dim);
    for (e, x) in work.chunks_exact_mut(at.dim).zip(columns) {
        let top = x[largest(x)];
        for (e, &x) in e.iter_mut().zip(x) {
            *e = x - top;
        }
    }
    T::exp_all(work);
    work
}

/// The first place of the largest entry.
fn largest<T: Scalar>(x: &[T]) -> usize {
    (1..x.len()).fold(0, |top, j| if x[j] > x[top] { j } else { top })
}

fn sum<T: Scalar>(x: &[T]) -> T {
    x.iter().fold(T::zero(), |sum, &x| sum + x)
}

impl<T: Scalar> Loss<T> for SoftmaxCrossEntropy {
    fn check_target(&self, dim: usize, target: &[T]) -> Result<(), Error> {
        check_distributions(self, dim, target)
    }

    fn free_target(&self) -> bool {
        false
    }

    fn scratch(&self, dim: usize, batch: usize) -> usize {
        dim * batch
    }

    fn evaluate(
        &self,
        at: &Pair<'_, T>,
        values: &mut [T],
        mut d_target: Write<'_, T>,
        mut d_prediction: Write<'_, T>,
        work: &mut [T],
    ) {
        let d = at.dim;
        let exponentials = shifted_exponentials(at, work);
        for (i, value) in values.iter_mut().enumerate() {
            let column = i * d..(i + 1) * d;
            let e = &exponentials[column.clone()];
            let x = &at.prediction[column.clone()];
            let y = &at.target[column.clone()];
            let top = largest(x);
            // The largest entry's exponential is 1; the others alone keep ln Σ exact near 0.
            let rest = sum(&e[..top]) + sum(&e[top + 1..]);
            let total = T::one() + rest;
            let log_total = rest.ln_1p();
            let top = x[top];
            // −ln p_j, shifted first: the difference to the top is exact where it matters.
            let surprise = |j: usize| log_total - (x[j] - top);
            *value = (0..d).fold(T::zero(), |sum, j| {
                // 0 · ∞ would be NaN for a logit of −∞ that the target excludes.
                if y[j].is_zero() {
                    sum
                } else {
                    sum + y[j] * surprise(j)
                }
            });
            let mass = sum(y);
            d_target.part(column.clone()).each(surprise);
            d_prediction
                .part(column)
                .each(|j| mass * e[j] / total - y[j]);
        }
    }

    fn curvature(
        &self,
        at: &Pair<'_, T>,
        v_target: Option<&[T]>,
        v_prediction: Option<&[T]>,
        out_target: Write<'_, T>,
        mut out_prediction: Write<'_, T>,
        work: &mut [T],
    ) {
        // The target's block is zero, and does not couple.
        let _ = v_target;
        out_target.each(|_| T::zero());
        let Some(v) = v_prediction else {
            out_prediction.each(|_| T::zero());
            return;
        };
        if out_prediction.is_skip() {
            return;
        }
        let d = at.dim;
        let exponentials = shifted_exponentials(at, work);
        for i in 0..at.target.len() / d {
            let column = i * d..(i + 1) * d;
            let e = &exponentials[column.clone()];
            let v = &v[column.clone()];
            let total = sum(e);
            let mass = sum(&at.target[column.clone()]);
            let mean = e.iter().zip(v).fold(T::zero(), |s, (&e, &v)| s + e * v) / total;
            out_prediction
                .part(column)
                .each(|j| mass * e[j] / total * (v[j] - mean));
        }
    }

    fn curvature_bound(&self, _parameters: &[T]) -> Option<T> {
        // ½ Σy, with the tolerance of the targets' check.
        Some(T::of(0.5 * (1.0 + SUM_TOLERANCE)))
    }
}
