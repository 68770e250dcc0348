//! Adam, and Adam with decoupled weight decay.

use super::{Optimizer, Step, above_zero, next_root, parts};
use crate::check::{below_one, not_negative, positive, serde_checked};
use crate::error::Error;
use crate::kernel::{Scalar, vectorise};

/// m ← β₁ m + (1 − β₁) g,  s ← √(β₂ s² + (1 − β₂) g²),
/// x ← x − η (m / (1 − β₁ᵏ)) / (s / √(1 − β₂ᵏ) + ε), where k is the number of the step.
///
/// Kingma & Ba 2015. The state is s = √v instead of v, which may overflow or underflow. Defaults:
/// β₁ = 0.9, β₂ = 0.999, ε = 1e-8.
///
/// # Examples
/// ```
/// use layerwise::optimizer::{Adam, Optimizer, Step};
///
/// let (mut x, mut state) = ([1.0_f64], [0.0; 2]);
/// Adam::new(0.1)?.update(Step::new(1, 1.0), &mut x, &[5.0], &mut state);
/// // The size of the first step is the learning rate, for any gradient.
/// assert!((x[0] - 0.9).abs() < 1e-9);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(remote = "Self", deny_unknown_fields))]
pub struct Adam {
    rate: f64,
    beta1: f64,
    beta2: f64,
    epsilon: f64,
}

serde_checked!(Adam);

impl Adam {
    /// Adam with learning rate η = `rate`.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless the rate is above 0 and finite.
    #[doc(alias = "learning rate")]
    pub fn new(rate: f64) -> Result<Self, Error> {
        Self {
            rate,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
        }
        .checked()
    }

    /// Sets the decay rates of the two moments.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless both are in 0..1.
    pub fn with_betas(self, beta1: f64, beta2: f64) -> Result<Self, Error> {
        Self {
            beta1,
            beta2,
            ..self
        }
        .checked()
    }

    /// Sets ε.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless ε is above 0 and finite.
    pub fn with_epsilon(self, epsilon: f64) -> Result<Self, Error> {
        Self { epsilon, ..self }.checked()
    }

    fn checked(self) -> Result<Self, Error> {
        positive("Adam::rate", self.rate)?;
        below_one("Adam::beta1", self.beta1)?;
        below_one("Adam::beta2", self.beta2)?;
        positive("Adam::epsilon", self.epsilon)?;
        Ok(self)
    }
}

impl<T: Scalar> Optimizer<T> for Adam {
    fn slots(&self) -> usize {
        2
    }

    fn update(&self, step: Step, values: &mut [T], gradient: &[T], state: &mut [T]) {
        let k = step.number as f64;
        // m̂ and s/√(1 − β₂ᵏ) are not formed: their corrections go into the rate and into ε.
        let root = (1.0 - self.beta2.powf(k)).sqrt();
        let rate = T::of(self.rate * step.factor * root / (1.0 - self.beta1.powf(k)));
        let epsilon = above_zero(self.epsilon * root);
        let (beta1, rest1) = (T::of(self.beta1), T::of(1.0 - self.beta1));
        let shares = [self.beta2, 1.0 - self.beta2].map(|share| T::of(share.sqrt()));
        let [mean, rest] = parts::<T>(step.gradient_factor);
        let (m, s) = state.split_at_mut(values.len());
        vectorise(
            #[inline(always)]
            move || {
                for (((x, &g), m), s) in values.iter_mut().zip(gradient).zip(m).zip(s) {
                    let g = mean * g * rest;
                    *m = beta1 * *m + rest1 * g;
                    *s = next_root(shares, *s, g);
                    *x -= rate * (*m / (*s + epsilon));
                }
            },
        );
    }
}

/// x ← max(0, 1 − ηλ) x, followed by a step of [`Adam`]: the decay does not enter the moments.
///
/// Loshchilov & Hutter 2019, in the form where the schedule scales the decay together with the
/// learning rate η. λ is multiplied by [`Step::decay`], which is 0 for values that do not decay
/// (biases). Default: λ = 0.01.
///
/// # Examples
/// ```
/// use layerwise::optimizer::{Adam, AdamW, Optimizer, Step};
///
/// let rule = AdamW::new(Adam::new(0.1)?).with_weight_decay(0.5)?;
/// let (mut x, mut state) = ([1.0_f64], [0.0; 2]);
/// // With a zero gradient, only the decay acts: 1 − 0.1 · 0.5.
/// rule.update(Step::new(1, 1.0), &mut x, &[0.0], &mut state);
/// assert_eq!(x, [0.95]);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(remote = "Self", deny_unknown_fields))]
pub struct AdamW {
    adam: Adam,
    decay: f64,
}

serde_checked!(AdamW);

impl AdamW {
    /// Adam with these options, such as `Adam::new(1e-3)?`, and weight decay λ = 0.01.
    pub fn new(adam: Adam) -> Self {
        Self { adam, decay: 0.01 }
    }

    /// Sets the weight decay λ.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless λ is finite and not negative.
    #[doc(alias = "weight decay")]
    pub fn with_weight_decay(self, decay: f64) -> Result<Self, Error> {
        Self { decay, ..self }.checked()
    }

    fn checked(self) -> Result<Self, Error> {
        not_negative("AdamW::weight_decay", self.decay)?;
        Ok(self)
    }
}

impl<T: Scalar> Optimizer<T> for AdamW {
    fn slots(&self) -> usize {
        Optimizer::<T>::slots(&self.adam)
    }

    fn update(&self, step: Step, values: &mut [T], gradient: &[T], state: &mut [T]) {
        if step.decay > 0.0 {
            // Not a product with 1 − ηλ, which in f32 has lost most digits of a small ηλ.
            let share = T::of((self.adam.rate * step.factor * self.decay * step.decay).min(1.0));
            let values = &mut *values;
            vectorise(
                #[inline(always)]
                move || values.iter_mut().for_each(|x| *x -= share * *x),
            );
        }
        self.adam.update(step, values, gradient, state);
    }

    fn decays(&self) -> bool {
        self.decay > 0.0
    }
}
