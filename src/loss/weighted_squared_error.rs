//! Half the squared distance, with one weight per unit.

use super::units::{
    check_list, evaluate_residual, largest, numbers, over_residuals, over_units, residual_curvature,
};
use super::{Loss, Pair};
use crate::check::{check_length, not_negative};
use crate::description::Description;
use crate::error::Error;
use crate::kernel::{Scalar, Write};

/// Squared error with one weight per unit: L(z, ẑ) = ½ Σ_j w_j (z_j − ẑ_j)².
///
/// ∂L/∂z = w ∘ (z − ẑ) = −∂L/∂ẑ. The curvature is the Hessian [[W, −W], [−W, W]], W = diag w; each
/// diagonal block has norm max w. Any target is allowed, and it may be trained. The loss is a sum
/// over the units, not a mean; weights of 1 give [`SquaredError`](crate::loss::SquaredError).
/// Weighted least squares: Aitken 1936.
///
/// The number of weights fixes the dimension: `check_target` rejects any other dimension with
/// [`Error::Length`].
///
/// # Examples
/// ```
/// use layerwise::kernel::Write;
/// use layerwise::loss::{Loss, Pair, WeightedSquaredError};
///
/// let loss = WeightedSquaredError::new(vec![1.0, 10.0])?;
/// let at = Pair::new(2, &[1.0, 2.0], &[0.0, 4.0]);
/// let (mut value, mut gradient) = ([0.0], [0.0; 2]);
/// loss.evaluate(&at, &mut value, Write::Skip, Write::Set(&mut gradient), &mut []);
/// assert_eq!((value, gradient), ([20.5], [-1.0, 20.0]));
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct WeightedSquaredError<T> {
    weights: Vec<T>,
}

impl<T: Scalar> WeightedSquaredError<T> {
    /// The loss with these weights, one per unit.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a weight that is negative or not finite, [`Error::Length`] if
    /// there are no weights.
    pub fn new(weights: Vec<T>) -> Result<Self, Error> {
        check_list("WeightedSquaredError::weights", &weights, not_negative)?;
        Ok(Self { weights })
    }

    fn unit(&self, j: usize, r: T) -> [T; 3] {
        let weight = self.weights[j];
        // Avoid r², which may overflow or underflow.
        [weight * r * (T::of(0.5) * r), weight * r, weight]
    }
}

impl<T: Scalar> Loss<T> for WeightedSquaredError<T> {
    fn is_sum_over_units(&self) -> bool {
        true
    }

    fn check_target(&self, dim: usize, _target: &[T]) -> Result<(), Error> {
        check_length("weights of a squared error", &self.weights, dim)
    }

    over_residuals!(self, 2);

    fn curvature_bound(&self, _parameters: &[T]) -> Option<T> {
        Some(largest(&self.weights))
    }

    fn description(&self) -> Option<Description> {
        let own = Description::new("WeightedSquaredError");
        Some(own.with("weights", numbers(&self.weights)))
    }
}
