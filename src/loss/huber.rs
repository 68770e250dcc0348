//! Losses that grow only linearly for large residuals.

use super::units::{
    check_scalar, evaluate_residual, over_residuals, over_units, residual_curvature,
};
use super::{Loss, Pair};
use crate::check::positive;
use crate::description::Description;
use crate::error::Error;
use crate::kernel::{Scalar, Write};

/// Squared error for small residuals, absolute error for large ones: L(z, ẑ) = Σ_j ρ(z_j − ẑ_j)
/// with ρ(r) = ½ r² for |r| ≤ δ, and δ (|r| − ½ δ) otherwise.
///
/// ∂L/∂z = −∂L/∂ẑ is the residual clipped to ±δ. The curvature is the Hessian [[D, −D], [−D, D]],
/// where D is diagonal with 1 for |r_j| ≤ δ and 0 elsewhere; the norm of each diagonal block is at
/// most 1. Any target is allowed, and it may be trained. The loss is a sum over the units, not a
/// mean. Huber 1964.
///
/// # Examples
/// ```
/// use layerwise::kernel::Write;
/// use layerwise::loss::{Huber, Loss, Pair};
///
/// let at = Pair::new(2, &[0.5, 3.0], &[0.0, 0.0]);
/// let (mut value, mut gradient) = ([0.0], [0.0; 2]);
/// Huber::new(1.0)?.evaluate(&at, &mut value, Write::Set(&mut gradient), Write::Skip, &mut []);
/// assert_eq!((value, gradient), ([0.125 + 2.5], [0.5, 1.0]));
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Huber {
    delta: f64,
}

impl Huber {
    /// The loss that becomes linear at |r| = `delta`.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless `delta` is above 0 and finite.
    pub fn new(delta: f64) -> Result<Self, Error> {
        positive("Huber::delta", delta)?;
        Ok(Self { delta })
    }

    fn unit<T: Scalar>(&self, _j: usize, r: T) -> [T; 3] {
        let (half, delta) = (T::of(0.5), T::of(self.delta));
        if r.abs() <= delta {
            return [half * r * r, r, T::one()];
        }
        let value = delta * (r.abs() - half * delta);
        [value, r.clamp(-delta, delta), T::zero()]
    }
}

impl<T: Scalar> Loss<T> for Huber {
    fn is_sum_over_units(&self) -> bool {
        true
    }

    fn check_target(&self, _dim: usize, _target: &[T]) -> Result<(), Error> {
        check_scalar::<T>("Huber::delta", self.delta)
    }

    over_residuals!(self, 1);

    fn curvature_bound(&self, _parameters: &[T]) -> Option<T> {
        Some(T::one())
    }

    fn description(&self) -> Option<Description> {
        Some(Description::new("Huber").with("delta", self.delta))
    }
}

/// A smooth version of [`Huber`]: L(z, ẑ) = Σ_j δ² (√(1 + (r_j/δ)²) − 1), r = z − ẑ.
///
/// It is ½ r² for |r| ≪ δ and δ |r| − δ² for |r| ≫ δ. ∂L/∂z_j = r_j / √(1 + (r_j/δ)²) = −∂L/∂ẑ_j.
/// The curvature is the Hessian [[D, −D], [−D, D]], D_jj = (1 + (r_j/δ)²)^(−3/2); each diagonal
/// block has norm at most 1. Any target is allowed, and it may be trained. The loss is a sum over
/// the units, not a mean. It is computed without cancellation at small residuals and without
/// overflow at large ones. Charbonnier et al. 1997; Hartley & Zisserman 2003.
///
/// # Examples
/// ```
/// use layerwise::kernel::Write;
/// use layerwise::loss::{Loss, Pair, PseudoHuber};
///
/// let at = Pair::new(1, &[3.0_f64], &[0.0]);
/// let (mut value, mut gradient) = ([0.0], [0.0]);
/// PseudoHuber::new(4.0)?
///     .evaluate(&at, &mut value, Write::Set(&mut gradient), Write::Skip, &mut []);
/// assert!((value[0] - 4.0).abs() < 1e-15);
/// assert!((gradient[0] - 2.4).abs() < 1e-15);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PseudoHuber {
    delta: f64,
}

impl PseudoHuber {
    /// The loss that becomes linear around |r| = `delta`.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless `delta` is above 0 and finite.
    pub fn new(delta: f64) -> Result<Self, Error> {
        positive("PseudoHuber::delta", delta)?;
        Ok(Self { delta })
    }

    fn unit<T: Scalar>(&self, _j: usize, r: T) -> [T; 3] {
        let (size, delta, one) = (r.abs(), T::of(self.delta), T::one());
        let root = |ratio: T| (one + ratio * ratio).sqrt();
        // With s = √(1 + (r/δ)²): δ² (s − 1) = r² / (s + 1), which avoids the difference.
        if size <= delta {
            let root = root(size / delta);
            return [size * (size / (root + one)), r / root, root.recip().powi(3)];
        }
        // The same, in terms of the smaller ratio δ/r: s = √(1 + (δ/r)²) / (δ/r).
        let ratio = delta / size;
        let root = root(ratio);
        let value = delta * (size / (root + ratio));
        [value, delta.copysign(r) / root, (ratio / root).powi(3)]
    }
}

impl<T: Scalar> Loss<T> for PseudoHuber {
    fn is_sum_over_units(&self) -> bool {
        true
    }

    fn check_target(&self, _dim: usize, _target: &[T]) -> Result<(), Error> {
        check_scalar::<T>("PseudoHuber::delta", self.delta)
    }

    over_residuals!(self, 1);

    fn curvature_bound(&self, _parameters: &[T]) -> Option<T> {
        Some(T::one())
    }

    fn description(&self) -> Option<Description> {
        Some(Description::new("PseudoHuber").with("delta", self.delta))
    }
}
