//! Penalties on the size of parameters and auxiliary targets.

use crate::check::{not_negative, serde_checked};
use crate::error::Error;
use crate::kernel::{Scalar, add_scaled, half_weighted_square, total_magnitude};

/// The elastic net R(x) = λ₁ Σ_j |x_j| + ½ λ₂ Σ_j x_j² (Zou & Hastie 2005), with L1 and L2 as
/// special cases.
///
/// ∇R = λ₁ sign(x) + λ₂ x with sign(0) = 0. A circuit counts R once for **every example**: its
/// objective is the sum over examples of loss plus R. A θ-step divides by the number of examples,
/// so it follows the gradient of the mean loss plus ∇R, whatever the batch size.
///
/// # Examples
/// ```
/// use layerwise::regularizer::Regularizer;
///
/// let elastic = Regularizer::elastic(0.1, 0.5)?;
/// assert!((elastic.value(&[1.0_f64, -2.0]) - (0.1 * 3.0 + 0.25 * 5.0)).abs() < 1e-15);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(remote = "Self", deny_unknown_fields))]
pub struct Regularizer {
    l1: f64,
    l2: f64,
}

serde_checked!(Regularizer);

impl Regularizer {
    /// R = 0. The default.
    pub const NONE: Self = Self { l1: 0.0, l2: 0.0 };

    /// R(x) = λ₁ Σ |x_j| (Tibshirani 1996).
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless λ₁ is finite and not negative.
    #[doc(alias = "lasso")]
    pub fn l1(weight: f64) -> Result<Self, Error> {
        Self::elastic(weight, 0.0)
    }

    /// R(x) = ½ λ₂ Σ x_j² (Hoerl & Kennard 1970).
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless λ₂ is finite and not negative.
    #[doc(alias("weight decay", "ridge"))]
    pub fn l2(weight: f64) -> Result<Self, Error> {
        Self::elastic(0.0, weight)
    }

    /// R(x) = λ₁ Σ |x_j| + ½ λ₂ Σ x_j².
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless both weights are finite and not negative.
    pub fn elastic(l1: f64, l2: f64) -> Result<Self, Error> {
        Self { l1, l2 }.checked()
    }

    /// Returns itself if both weights are finite and not negative.
    pub(crate) fn checked(self) -> Result<Self, Error> {
        not_negative("Regularizer::l1", self.l1)?;
        not_negative("Regularizer::l2", self.l2)?;
        Ok(self)
    }

    /// Whether R = 0 everywhere.
    pub fn is_none(self) -> bool {
        self == Self::NONE
    }

    /// R(x).
    pub fn value<T: Scalar>(self, x: &[T]) -> T {
        // A part with weight 0 is skipped: 0 times a sum that overflows would be NaN.
        let mut value = T::zero();
        if self.l1 > 0.0 {
            value += T::of(self.l1) * total_magnitude(x);
        }
        if self.l2 > 0.0 {
            value += half_weighted_square(T::of(self.l2), x);
        }
        value
    }

    /// `gradient ← gradient + factor ∇R(x)`; both slices have the same length.
    pub fn add_gradient<T: Scalar>(self, x: &[T], factor: T, gradient: &mut [T]) {
        if self.l2 > 0.0 {
            add_scaled(gradient, factor * T::of(self.l2), x);
        }
        if self.l1 > 0.0 {
            let step = factor * T::of(self.l1);
            for (g, x) in gradient.iter_mut().zip(x) {
                if !x.is_zero() {
                    *g += step * x.signum();
                }
            }
        }
    }

    /// Whether R is differentiable everywhere: λ₁ = 0.
    pub(crate) fn is_smooth(self) -> bool {
        self.l1 == 0.0
    }

    /// λ₁: at 0 the derivative jumps from −λ₁ to λ₁.
    pub(crate) fn kink<T: Scalar>(self) -> T {
        T::of(self.l1)
    }

    /// The larger of λ₁ and λ₂.
    pub(crate) fn largest_weight(self) -> f64 {
        self.l1.max(self.l2)
    }

    /// The largest curvature, λ₂: |x| has no curvature away from 0.
    pub(crate) fn curvature<T: Scalar>(self) -> T {
        T::of(self.l2)
    }
}
