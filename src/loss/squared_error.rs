//! Half the squared distance.

use super::units::over_units;
use super::{Loss, Pair};
use crate::description::Description;
use crate::kernel::{Scalar, Write, half_squared_distances, subtract};

/// L(z, ẑ) = ½ ‖z − ẑ‖².
///
/// ∂L/∂ẑ = ẑ − z, ∂L/∂z = z − ẑ. The curvature is the Hessian [[I, −I], [−I, I]]; each diagonal
/// block has norm 1. The loss is a sum over the units, not a mean.
///
/// # Examples
/// ```
/// use layerwise::kernel::Write;
/// use layerwise::loss::{Loss, Pair, SquaredError};
///
/// let at = Pair::new(2, &[1.0, 2.0], &[0.0, 4.0]);
/// let (mut value, mut gradient) = ([0.0], [0.0; 2]);
/// SquaredError.evaluate(&at, &mut value, Write::Skip, Write::Set(&mut gradient), &mut []);
/// assert_eq!(value, [2.5]);
/// assert_eq!(gradient, [-1.0, 2.0]);
/// ```
#[doc(alias("MSE", "mean squared error"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SquaredError;

impl<T: Scalar> Loss<T> for SquaredError {
    fn is_sum_over_units(&self) -> bool {
        true
    }

    fn free_target(&self) -> bool {
        true
    }

    fn is_squared_error(&self) -> bool {
        true
    }

    over_units!(self, distances(), differences());

    fn curvature_bound(&self, _parameters: &[T]) -> Option<T> {
        Some(T::one())
    }

    fn description(&self) -> Option<Description> {
        Some(Description::new("SquaredError"))
    }
}

/// The loss and its gradients.
fn distances<T: Scalar>(
    at: &Pair<'_, T>,
    values: &mut [T],
    d_target: Write<'_, T>,
    d_prediction: Write<'_, T>,
) {
    let sides = [at.target, at.prediction];
    half_squared_distances(values, sides, at.dim, d_target, d_prediction);
}

/// The product with the Hessian.
fn differences<T: Scalar>(
    _at: &Pair<'_, T>,
    [v_target, v_prediction]: [Option<&[T]>; 2],
    out_target: Write<'_, T>,
    out_prediction: Write<'_, T>,
) {
    difference(out_target, v_target, v_prediction);
    difference(out_prediction, v_prediction, v_target);
}

/// out ← a − b, where a missing argument counts as zero.
fn difference<T: Scalar>(out: Write<'_, T>, a: Option<&[T]>, b: Option<&[T]>) {
    match (a, b) {
        (Some(a), Some(b)) => subtract(out, a, b),
        (Some(a), None) => out.each(|i| a[i]),
        (None, Some(b)) => out.each(|i| -b[i]),
        (None, None) => out.each(|_| T::zero()),
    }
}
