//! Gradient descent with momentum.

use super::{Optimizer, Step, parts};
use crate::check::{below_one, option, positive, serde_checked};
use crate::error::Error;
use crate::kernel::{Scalar, vectorise};

/// v ← β v + g,  x ← x − η v  (Polyak 1964); β = 0 is plain gradient descent. With Nesterov
/// momentum (Nesterov 1983, in the form of Sutskever et al. 2013), x ← x − η (g + β v).
///
/// # Examples
/// ```
/// use layerwise::optimizer::{GradientDescent, Optimizer, Step};
///
/// let rule = GradientDescent::new(0.5)?.with_momentum(0.9)?;
/// let (mut x, mut state) = ([1.0_f64], [0.0]);
/// rule.update(Step::new(1, 1.0), &mut x, &[0.2], &mut state);
/// rule.update(Step::new(2, 1.0), &mut x, &[0.2], &mut state);
/// assert!((x[0] - (1.0 - 0.5 * 0.2 - 0.5 * (0.9 * 0.2 + 0.2))).abs() < 1e-15);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[doc(alias = "SGD")]
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(remote = "Self", deny_unknown_fields))]
pub struct GradientDescent {
    rate: f64,
    momentum: f64,
    nesterov: bool,
}

serde_checked!(GradientDescent);

impl GradientDescent {
    /// Plain gradient descent with learning rate η = `rate`.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless the rate is above 0 and finite.
    #[doc(alias("learning rate", "SGD"))]
    pub fn new(rate: f64) -> Result<Self, Error> {
        Self {
            rate,
            momentum: 0.0,
            nesterov: false,
        }
        .checked()
    }

    /// Sets the momentum β. The form stays the same: Polyak's, or Nesterov's after
    /// [`GradientDescent::with_nesterov`].
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless β is in 0..1.
    pub fn with_momentum(self, momentum: f64) -> Result<Self, Error> {
        Self { momentum, ..self }.checked()
    }

    /// Sets the momentum β and uses Nesterov's form.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless β is in 0..1.
    pub fn with_nesterov(self, momentum: f64) -> Result<Self, Error> {
        Self {
            momentum,
            nesterov: true,
            ..self
        }
        .checked()
    }

    /// The heavy ball for a curvature between `smallest` and `largest`, with κ their ratio:
    ///
    /// ```math
    /// η = 4/(√λ_{max} + √λ_{min})²,  β = ((√κ - 1)/(√κ + 1))²
    /// ```
    ///
    /// On a quadratic function with these extreme eigenvalues a step eventually multiplies the error by √β,
    /// about 1 − 2/√κ, where the best plain step, 2/(λ_max + λ_min), reaches 1 − 2/κ: the number of steps
    /// grows with √κ instead of κ. In [`SynchronousDescent::with_rule`] with a step of 1 it moves
    /// targets; [`curvature_ranges`] measures their λ. If λ_min is set too small, convergence is only slower;
    /// but curvatures above λ_max + λ_min make it diverge. Polyak 1964.
    ///
    /// [`SynchronousDescent::with_rule`]: crate::target_solver::SynchronousDescent::with_rule
    /// [`curvature_ranges`]: crate::theory::curvature_ranges
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless `smallest` is above 0 and `largest` finite and at least as large, and if
    /// β rounds to 1 or η overflows.
    ///
    /// # Examples
    /// ```
    /// use layerwise::optimizer::GradientDescent;
    ///
    /// // κ = 9: η = 4/(3 + 1)² and β = (2/4)².
    /// let rule = GradientDescent::heavy_ball(1.0, 9.0)?;
    /// assert_eq!(rule, GradientDescent::new(0.25)?.with_momentum(0.25)?);
    /// # Ok::<(), layerwise::Error>(())
    /// ```
    #[doc(alias = "Polyak")]
    pub fn heavy_ball(smallest: f64, largest: f64) -> Result<Self, Error> {
        positive("GradientDescent::heavy_ball's smallest curvature", smallest)?;
        let fits = largest >= smallest && largest.is_finite();
        let name = "GradientDescent::heavy_ball's largest curvature";
        option(name, largest, fits, "finite and at least the smallest")?;
        // Quotients of roots: the sum of two curvatures may overflow.
        let (small, large) = (smallest.sqrt(), largest.sqrt());
        let root = 2.0 / (large + small);
        let ratio = (large - small) / (large + small);
        Self::new(root * root)?.with_momentum(ratio * ratio)
    }

    fn checked(self) -> Result<Self, Error> {
        positive("GradientDescent::rate", self.rate)?;
        below_one("GradientDescent::momentum", self.momentum)?;
        Ok(self)
    }
}

impl<T: Scalar> Optimizer<T> for GradientDescent {
    fn slots(&self) -> usize {
        usize::from(self.momentum != 0.0)
    }

    fn update(&self, step: Step, values: &mut [T], gradient: &[T], state: &mut [T]) {
        let rate = T::of(self.rate * step.factor);
        let momentum = T::of(self.momentum);
        let [mean, rest] = parts::<T>(step.gradient_factor);
        let (plain, nesterov) = (self.momentum == 0.0, self.nesterov);
        vectorise(
            #[inline(always)]
            move || {
                if plain {
                    for (x, &g) in values.iter_mut().zip(gradient) {
                        *x -= rate * (mean * g * rest);
                    }
                } else {
                    for ((x, &g), v) in values.iter_mut().zip(gradient).zip(state) {
                        let g = mean * g * rest;
                        *v = momentum * *v + g;
                        *x -= rate * if nesterov { g + momentum * *v } else { *v };
                    }
                }
            },
        );
    }
}
