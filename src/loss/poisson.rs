//! Poisson loss, for counts.

use super::units::{check_units, evaluate_functions, over_units, prediction_curvature};
use super::{Loss, Pair};
use crate::description::Description;
use crate::error::Error;
use crate::kernel::{Scalar, Write};

/// Negative log-likelihood of Poisson counts with rates e^x: L(y, x) = Σ_j e^(x_j) − y_j x_j, where
/// x is the prediction (log-rates) and y_j ≥ 0 the counts, which need not be integers. The constant
/// ln y_j! is left out, so the loss may be negative.
///
/// ∂L/∂x = e^x − y; ∂L/∂y = −x. The curvature is the Gauss-Newton part blockdiag(0, diag(e^x)),
/// which has no bound. The target is fixed, because the joint Hessian is indefinite: the loss can
/// serve as L, but not as L_h. It is a sum over the units, not a mean. Nelder & Wedderburn 1972.
///
/// # Examples
/// ```
/// use layerwise::kernel::Write;
/// use layerwise::loss::{Loss, Pair, Poisson};
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
    fn is_sum_over_units(&self) -> bool {
        true
    }

    fn check_target(&self, dim: usize, target: &[T]) -> Result<(), Error> {
        let count = |y: f64| y >= 0.0 && y.is_finite();
        check_units(self, dim, target, count, "at least 0 and finite")
    }

    fn takes_logits(&self) -> bool {
        true
    }

    fn mean(&self, _dim: usize, predictions: &mut [T]) {
        T::exp_all(predictions);
    }

    over_units!(
        self,
        evaluate_functions(
            |x, [rate]| rates(x, rate),
            |y, x, [rate]| rate - y * x,
            |y, [rate]| rate - y
        ),
        prediction_curvature(rates)
    );

    fn description(&self) -> Option<Description> {
        Some(Description::new("Poisson"))
    }
}
