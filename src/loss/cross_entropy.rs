//! Softmax cross entropy, on logits.

use std::fmt::Debug;

use super::units::in_prediction;
use super::{Loss, Pair};
use crate::description::Description;
use crate::error::Error;
use crate::kernel::{
    Scalar, Sum, Write, largest, map_pairs, place_of_largest, sum_of_blocks, vectorise,
};

/// L(y, x) = −Σ_j y_j ln p_j with p = softmax(x), where x is the prediction (logits) and y a
/// probability distribution.
///
/// ∂L/∂x = (Σy) p − y; ∂L/∂y = −ln p. The largest entry is subtracted from x first, so no finite
/// logits overflow; the exponentials are within 3 ulp in `f32` and `f64`. The target is fixed,
/// because the joint Hessian is indefinite: the loss can serve as L, but not as L_h. The curvature
/// is the Gauss-Newton part blockdiag(0, (Σy)(diag p − p pᵀ)), whose norm is at most ½ Σy. Σy = 1
/// for every accepted target. As in PyTorch, the entry of a class whose p is 1 up to rounding is 0
/// in gradient and curvature: more digits there would make second-order steps chase a minimum at
/// infinity.
///
/// # Examples
/// ```
/// use layerwise::kernel::Write;
/// use layerwise::loss::{Loss, Pair, SoftmaxCrossEntropy};
///
/// let at = Pair::new(2, &[1.0_f64, 0.0], &[1000.0, 1000.0]);
/// let (mut value, mut work) = ([0.0], [0.0; 2]);
/// SoftmaxCrossEntropy.evaluate(&at, &mut value, Write::Skip, Write::Skip, &mut work);
/// assert!((value[0] - 2f64.ln()).abs() < 1e-15);
/// ```
#[doc(alias("softmax", "logits", "CrossEntropyLoss"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SoftmaxCrossEntropy;

/// The largest allowed distance of a target's sum from 1.
pub(super) const SUM_TOLERANCE: f64 = 1e-4;

/// Checks that every target is a probability distribution, on behalf of `loss`.
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
        // In f64: of 50,000 classes rounding in f32 alone would exceed the tolerance.
        let total = Sum::of(y.iter().map(|y| y.as_f64()));
        if total.is_nan() || (total - 1.0).abs() > SUM_TOLERANCE {
            let mut reason = format!("the probabilities sum to {total}, not 1");
            if dim == 1 {
                reason += ". A single output has only one class: give every class an output \
                           (metrics::one_hot makes columns of class numbers), or use BinaryCrossEntropy";
            }
            return Err(outside(column, reason));
        }
    }
    Ok(())
}

/// Σ a_j, for any number of classes.
#[inline(always)]
fn sum<T: Scalar>(a: &[T]) -> T {
    sum_of_blocks(a, a, |a, _| a)
}

/// The index of the largest logit of a column, and Σ_j e^(x_j − max) without that entry, whose
/// exponential is 1: leaving it out keeps ln Σ exact near 0.
#[inline(always)]
pub(super) fn rest_of_sum<T: Scalar>(x: &[T], exponentials: &[T]) -> (usize, T) {
    let place = place_of_largest(x);
    let (below, above) = (&exponentials[..place], &exponentials[place + 1..]);
    (place, sum(below) + sum(above))
}

/// e^(x − max) for every column of logits, in `work`.
fn shifted_exponentials<'a, T: Scalar>(at: &Pair<'_, T>, work: &'a mut [T]) -> &'a [T] {
    let (dim, prediction) = (at.dim, at.prediction);
    let work = &mut work[..prediction.len()];
    let shifted = &mut *work;
    vectorise(
        #[inline(always)]
        move || {
            let columns = prediction.chunks_exact(dim);
            for (e, x) in shifted.chunks_exact_mut(dim).zip(columns) {
                let top = largest(x);
                for (e, &x) in e.iter_mut().zip(x) {
                    *e = x - top;
                }
            }
        },
    );
    T::exp_all(work);
    work
}

impl<T: Scalar> Loss<T> for SoftmaxCrossEntropy {
    fn check_target(&self, dim: usize, target: &[T]) -> Result<(), Error> {
        check_distributions(self, dim, target)
    }

    fn takes_logits(&self) -> bool {
        true
    }

    fn mean(&self, dim: usize, predictions: &mut [T]) {
        for column in predictions.chunks_exact_mut(dim.max(1)) {
            let top = column.iter().fold(column[0], |top, &x| top.max(x));
            column.iter_mut().for_each(|x| *x -= top);
            T::exp_all(column);
            let total = sum(column);
            column.iter_mut().for_each(|x| *x /= total);
        }
    }

    fn scratch(&self, dim: usize, batch: usize) -> usize {
        dim.saturating_mul(batch)
    }

    fn evaluate(
        &self,
        at: &Pair<'_, T>,
        values: &mut [T],
        mut d_target: Write<'_, T>,
        mut d_prediction: Write<'_, T>,
        work: &mut [T],
    ) {
        let (d, target, prediction) = (at.dim, at.target, at.prediction);
        let exponentials = shifted_exponentials(at, work);
        vectorise(
            #[inline(always)]
            move || {
                let columns = exponentials.chunks_exact(d);
                for (i, (value, e)) in values.iter_mut().zip(columns).enumerate() {
                    let column = i * d..(i + 1) * d;
                    let (x, y) = (&prediction[column.clone()], &target[column.clone()]);
                    let (place, rest) = rest_of_sum(x, e);
                    let top = x[place];
                    let total = T::one() + rest;
                    let log_total = rest.ln_1p();
                    // −ln p_j. Subtract `top` first: that difference is exact where it matters.
                    let surprise = |x: T| log_total - (x - top);
                    let half = T::of(0.5);
                    let (half_total, half_top) = (half * log_total, half * top);
                    *value = sum_of_blocks(y, x, |y, x| {
                        // Of halves, since x − top may overflow where y times it does not.
                        let half_surprise = half_total - (half * x - half_top);
                        // For a logit of −∞ with y = 0, the product 0 · ∞ would be NaN. Where it is
                        // finite, a dual y = 0 has a derivative.
                        if y.is_zero() && !half_surprise.is_finite() {
                            T::zero()
                        } else {
                            (y + y) * half_surprise
                        }
                    });
                    let mass = sum(y);
                    map_pairs(d_target.part(column.clone()), x, x, |x, _| surprise(x));
                    map_pairs(d_prediction.part(column), e, y, |e, y| mass * e / total - y);
                }
            },
        );
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
        let v = [v_target, v_prediction];
        let Some(v) = in_prediction(v, out_target, &mut out_prediction) else {
            return;
        };
        let (d, target) = (at.dim, at.target);
        let exponentials = shifted_exponentials(at, work);
        vectorise(
            #[inline(always)]
            move || {
                for (i, e) in exponentials.chunks_exact(d).enumerate() {
                    let column = i * d..(i + 1) * d;
                    let v = &v[column.clone()];
                    let total = sum(e);
                    let mass = sum(&target[column.clone()]);
                    let mean = sum_of_blocks(e, v, |e, v| e * v) / total;
                    map_pairs(out_prediction.part(column), e, v, |e, v| {
                        mass * e / total * (v - mean)
                    });
                }
            },
        );
    }

    fn curvature_bound(&self, _parameters: &[T]) -> Option<T> {
        // ½ Σy, including the tolerance that the check of targets allows.
        Some(T::of(0.5 * (1.0 + SUM_TOLERANCE)))
    }

    fn description(&self) -> Option<Description> {
        Some(Description::new("SoftmaxCrossEntropy"))
    }
}
