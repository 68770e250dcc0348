//! Adam with decoupled weight decay.

use super::{Adam, Optimizer, Step};
use crate::check::{not_negative, serde_checked};
use crate::error::Error;
use crate::kernel::{Scalar, scale};

/// x ← max(0, 1 − ηλ) x, then a step of [`Adam`]: the decay does not pass through the moments.
///
/// Loshchilov & Hutter 2019, in the form where the schedule scales the decay with the learning
/// rate η. Values whose [`Step::decays`] is false (biases) do not decay. Default: λ = 0.01.
///
/// # Examples
/// ```
/// use layerwise::optimizer::{Adam, AdamW, Optimizer, Step};
///
/// let rule = AdamW::new(Adam::new(0.1)?).with_weight_decay(0.5)?;
/// let (mut x, mut state) = ([1.0_f64], [0.0; 2]);
/// // Without a gradient only the decay moves: 1 − 0.1 · 0.5.
/// rule.update(Step::new(1, 1.0), &mut x, &[0.0], &mut state);
/// assert_eq!(x, [0.95]);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(remote = "Self"))]
pub struct AdamW {
    adam: Adam,
    decay: f64,
}

serde_checked!(AdamW);

impl AdamW {
    /// Adam's options with weight decay λ = 0.01.
    pub fn new(adam: Adam) -> Self {
        Self { adam, decay: 0.01 }
    }

    /// Another λ.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless λ is finite and not negative.
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
        if step.decays {
            let kept = 1.0 - self.adam.rate() * step.factor * self.decay;
            scale(values, T::of(kept.max(0.0)));
        }
        self.adam.update(step, values, gradient, state);
    }
}
