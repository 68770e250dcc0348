//! Counts.

use super::units::{check_units, evaluate_functions, prediction_curvature};
use super::{Loss, Pair};
use crate::error::Error;
use crate::kernel::{Scalar, Write};

/// Negative log-likelihood of Poisson counts with rates e^x: L(y, x) = Σ_j e^(x_j) − y_j x_j, x the
/// prediction (log-rates), y_j ≥ 0 the counts, which need not be integers. The constant ln y_j! is
/// left out, so the loss may be negative.
///
/// ∂L/∂x = e^x − y; ∂L/∂y = −x. The curvature is blockdiag(0, diag(e^x)), the Gauss-Newton part; it
/// has no bound. The target is fixed (the joint Hessian is indefinite): the loss serves as L, not
/// as L_h. A sum over the units, not a mean. Nelder & Wedderburn 1972.
///
/// # Examples
/// ```
/// use layerwise::Loss;
/// use layerwise::kernel::Write;
/// use layerwise::loss::{Pair, Poisson};
///
/// let at = Pair::new(2, &[3.0, 0.5], &[0.0, 0.0]);
/// let (mut value, mut gradient) = ([0.0], [0.0; 2]);
/// Poisson.evaluate(&at, &mut value, Write::Skip, Write::Set(&mut gradient), &mut []);
/// assert_eq!((value, gradient), ([2.0], [-2.0, 0.5]));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Poisson;

/// e^x.
fn rates<T: Scalar>(x: &[T], out: &mut [T]) {
    out.copy_from_slice(x);
    T::exp_all(out);
}

impl<T: Scalar> Loss<T> for Poisson {
    fn check_target(&self, dim: usize, target: &[T]) -> Result<(), Error> {
        let count = |y: f64| y >= 0.0 && y.is_finite();
        check_units(self, dim, target, count, "at least 0 and finite")
    }

    fn free_target(&self) -> bool {
        false
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
        evaluate_functions(
            at,
            values,
            d_target,
            d_prediction,
            |x, [rate]| rates(x, rate),
            |y, x, [rate]| rate - y * x,
            |y, [rate]| rate - y,
        );
    }

    fn curvature(
        &self,
        at: &Pair<'_, T>,
        _v_target: Option<&[T]>,
        v_prediction: Option<&[T]>,
        out_target: Write<'_, T>,
        out_prediction: Write<'_, T>,
        _work: &mut [T],
    ) {
        prediction_curvature(at, v_prediction, out_target, out_prediction, rates);
    }
}
