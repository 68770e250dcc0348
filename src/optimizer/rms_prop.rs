//! RMSProp.

use super::{Optimizer, Step, above_zero, next_root, parts};
use crate::check::{below_one, positive, serde_checked};
use crate::error::Error;
use crate::kernel::{Scalar, vectorise};

/// s ← √(α s² + (1 − α) g²),  x ← x − η g / (s + ε).
///
/// Tieleman & Hinton 2012. The state is s instead of s², which may overflow or underflow. Defaults:
/// α = 0.99, ε = 1e-8.
///
/// # Examples
/// ```
/// use layerwise::optimizer::{Optimizer, RmsProp, Step};
///
/// let rule = RmsProp::new(0.1)?.with_alpha(0.75)?;
/// let (mut x, mut state) = ([1.0_f64], [0.0]);
/// rule.update(Step::new(1, 1.0), &mut x, &[3.0], &mut state);
/// // s² = ¼ · 9, so the step is 0.1 · 3 / 1.5.
/// assert!((x[0] - 0.8).abs() < 1e-8);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(remote = "Self", deny_unknown_fields))]
pub struct RmsProp {
    rate: f64,
    alpha: f64,
    epsilon: f64,
}

serde_checked!(RmsProp);

impl RmsProp {
    /// RMSProp with learning rate η = `rate`.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless the rate is above 0 and finite.
    #[doc(alias = "learning rate")]
    pub fn new(rate: f64) -> Result<Self, Error> {
        Self {
            rate,
            alpha: 0.99,
            epsilon: 1e-8,
        }
        .checked()
    }

    /// Sets α, the decay rate of the running average of g².
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless α is in 0..1.
    pub fn with_alpha(self, alpha: f64) -> Result<Self, Error> {
        Self { alpha, ..self }.checked()
    }

    /// Sets ε.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless ε is above 0 and finite.
    pub fn with_epsilon(self, epsilon: f64) -> Result<Self, Error> {
        Self { epsilon, ..self }.checked()
    }

    fn checked(self) -> Result<Self, Error> {
        positive("RmsProp::rate", self.rate)?;
        below_one("RmsProp::alpha", self.alpha)?;
        positive("RmsProp::epsilon", self.epsilon)?;
        Ok(self)
    }
}

impl<T: Scalar> Optimizer<T> for RmsProp {
    fn slots(&self) -> usize {
        1
    }

    fn update(&self, step: Step, values: &mut [T], gradient: &[T], state: &mut [T]) {
        let rate = T::of(self.rate * step.factor);
        let shares = [self.alpha, 1.0 - self.alpha].map(|share| T::of(share.sqrt()));
        let (epsilon, [mean, rest]) = (above_zero(self.epsilon), parts::<T>(step.gradient_factor));
        vectorise(
            #[inline(always)]
            move || {
                for ((x, &g), s) in values.iter_mut().zip(gradient).zip(state) {
                    let g = mean * g * rest;
                    *s = next_root(shares, *s, g);
                    *x -= rate * (g / (*s + epsilon));
                }
            },
        );
    }
}
