//! The loss whose best constant prediction is a quantile.

use super::units::{evaluate_residual, over_residuals, over_units, residual_curvature};
use super::{Loss, Pair};
use crate::check::option;
use crate::description::Description;
use crate::error::Error;
use crate::kernel::{Scalar, Write};

/// Pinball loss of level τ: L(z, ẑ) = Σ_j ρ(z_j − ẑ_j) with ρ(r) = τ r for r ≥ 0, and (τ − 1) r
/// otherwise. Its best prediction is the τ-quantile of the target; τ = ½ gives half the absolute
/// error, and the median.
///
/// ∂L/∂z = −∂L/∂ẑ is τ where r > 0, τ − 1 where r < 0, and 0 where r = 0: of the subgradients
/// \[τ − 1, τ\] at the kink, the one that leaves an exact prediction at rest. The curvature is the
/// Hessian where there is one, which is zero. There is no curvature bound, because near the kink no
/// bound holds: bounded steps refuse the loss ([`Error::NoCurvatureBound`]), and fixed or checked
/// steps take it. Gauss-Newton and Levenberg-Marquardt see only their damping. Any target is
/// allowed, and it may be trained. The loss is a sum over the units, not a mean. Several quantiles
/// need one unit each, with the target repeated. Koenker & Bassett 1978.
///
/// # Examples
/// ```
/// use layerwise::kernel::Write;
/// use layerwise::loss::{Loss, Pair, Quantile};
///
/// let at = Pair::new(3, &[2.0, -2.0, 1.0], &[0.0, 0.0, 1.0]);
/// let (mut value, mut gradient) = ([0.0], [0.0; 3]);
/// let loss = Quantile::new(0.75)?;
/// loss.evaluate(&at, &mut value, Write::Skip, Write::Set(&mut gradient), &mut []);
/// assert_eq!((value, gradient), ([1.5 + 0.5], [-0.75, 0.25, 0.0]));
/// # Ok::<(), layerwise::Error>(())
/// ```
#[doc(alias("pinball", "quantile regression", "median", "MAE", "L1Loss"))]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quantile {
    level: f64,
}

impl Quantile {
    /// The loss of the quantile of this level, such as 0.9.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless `level` is above 0 and below 1.
    pub fn new(level: f64) -> Result<Self, Error> {
        let fits = level > 0.0 && level < 1.0;
        option("Quantile::level", level, fits, "above 0 and below 1")?;
        Ok(Self { level })
    }

    fn unit<T: Scalar>(&self, _j: usize, r: T) -> [T; 3] {
        let (above, zero) = (T::of(self.level), T::zero());
        let below = above - T::one();
        match (r > zero, r < zero) {
            (true, _) => [above * r, above, zero],
            (_, true) => [below * r, below, zero],
            // 0, or NaN, which must not look like a minimum. (The square of a dual 0 has no slope.)
            _ => [r * r, r * r, zero],
        }
    }
}

impl<T: Scalar> Loss<T> for Quantile {
    fn is_sum_over_units(&self) -> bool {
        true
    }

    fn check_target(&self, _dim: usize, _target: &[T]) -> Result<(), Error> {
        let level = T::of(self.level);
        let fits = level > T::zero() && level < T::one();
        let allowed = "above 0 and below 1 in the circuit's scalar type";
        option("Quantile::level", self.level, fits, allowed).map(|_| ())
    }

    over_residuals!(self, 1);

    fn description(&self) -> Option<Description> {
        Some(Description::new("Quantile").with("level", self.level))
    }
}
