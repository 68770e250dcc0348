//! RMSProp.

use super::{Optimizer, Step, check_decay, check_rate, positive};
use crate::error::Error;
use crate::kernel::Scalar;
use crate::kernel::vectorise;

/// v ← α v + (1 − α) g²,  x ← x − η g / (√v + ε).
///
/// Tieleman & Hinton 2012. Defaults: α = 0.99, ε = 1e-8.
///
/// # Examples
/// ```
/// use layerwise::optimizer::{Optimizer, RmsProp, Step};
///
/// let rule = RmsProp::new(0.1)?.with_alpha(0.75)?;
/// let (mut x, mut state) = ([1.0_f64], [0.0]);
/// rule.update(Step::new(1, 1.0), &mut x, &[3.0], &mut state);
/// // v = ¼ · 9, so the step is 0.1 · 3 / 1.5.
/// assert!((x[0] - 0.8).abs() < 1e-8);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RmsProp {
    rate: f64,
    alpha: f64,
    epsilon: f64,
}

impl RmsProp {
    /// RMSProp with learning rate η = `rate`.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless the rate is above 0 and finite.
    pub fn new(rate: f64) -> Result<Self, Error> {
        Ok(Self {
            rate: check_rate("RmsProp::rate", rate)?,
            alpha: 0.99,
            epsilon: 1e-8,
        })
    }

    /// The same with another α.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless α is in 0..1.
    pub fn with_alpha(mut self, alpha: f64) -> Result<Self, Error> {
        self.alpha = check_decay("RmsProp::alpha", alpha)?;
        Ok(self)
    }

    /// The same with another ε.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless ε is above 0 and finite.
    pub fn with_epsilon(mut self, epsilon: f64) -> Result<Self, Error> {
        self.epsilon = check_rate("RmsProp::epsilon", epsilon)?;
        Ok(self)
    }
}

impl<T: Scalar> Optimizer<T> for RmsProp {
    fn slots(&self) -> usize {
        1
    }

    fn update(&self, step: Step, values: &mut [T], gradient: &[T], state: &mut [T]) {
        let rate = T::of(self.rate * step.factor);
        let (alpha, rest) = (T::of(self.alpha), T::of(1.0 - self.alpha));
        let (epsilon, mean) = (positive(self.epsilon), T::of(step.gradient_factor));
        vectorise(
            #[inline(always)]
            move || {
                for ((x, &g), v) in values.iter_mut().zip(gradient).zip(state) {
                    let g = mean * g;
                    *v = alpha * *v + rest * (g * g);
                    *x -= rate * g / (v.sqrt() + epsilon);
                }
            },
        );
    }
}
