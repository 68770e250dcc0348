//! A loss that is quadratic for small errors and linear for large ones.

use layerwise::kernel::Write;
use layerwise::loss::Pair;
use layerwise::{Loss, Scalar};

/// L(z, ẑ) = Σ ln cosh(ẑ − z); its target is free, so it can be a hidden loss.
#[derive(Debug, Clone, Copy)]
pub struct LogCosh;

/// ln cosh r = |r| + ln(1 + e^{−2|r|}) − ln 2, which does not overflow.
fn log_cosh<T: Scalar>(r: T) -> T {
    let size = r.abs();
    size + (-(size + size)).exp().ln_1p() - T::of(std::f64::consts::LN_2)
}

/// 1 − tanh² r.
fn slope<T: Scalar>(r: T) -> T {
    let t = r.tanh();
    T::one() - t * t
}

impl<T: Scalar> Loss<T> for LogCosh {
    fn free_target(&self) -> bool {
        true
    }

    fn scratch(&self, _dim: usize, _batch: usize) -> usize {
        0
    }

    fn evaluate(
        &self,
        at: &Pair<'_, T>,
        values: &mut [T],
        d_target: Write<'_, T>,
        d_prediction: Write<'_, T>,
        _work: &mut [T],
    ) {
        let error = |i: usize| at.prediction[i] - at.target[i];
        for (j, value) in values.iter_mut().enumerate() {
            let column = j * at.dim..(j + 1) * at.dim;
            *value = column.fold(T::zero(), |sum, i| sum + log_cosh(error(i)));
        }
        d_target.each(|i| -error(i).tanh());
        d_prediction.each(|i| error(i).tanh());
    }

    fn curvature(
        &self,
        at: &Pair<'_, T>,
        v_target: Option<&[T]>,
        v_prediction: Option<&[T]>,
        out_target: Write<'_, T>,
        out_prediction: Write<'_, T>,
        _work: &mut [T],
    ) {
        let entry = |v: Option<&[T]>, i: usize| v.map_or(T::zero(), |v| v[i]);
        let along = |i: usize| {
            let difference = entry(v_prediction, i) - entry(v_target, i);
            slope(at.prediction[i] - at.target[i]) * difference
        };
        out_target.each(|i| -along(i));
        out_prediction.each(along);
    }

    fn curvature_bound(&self, _parameters: &[T]) -> Option<T> {
        Some(T::one())
    }
}
