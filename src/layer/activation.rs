//! Activation functions.

use crate::{Error, Scalar};

/// The function that a [`Dense`](crate::Dense) layer applies to every unit.
///
/// | variant | f(x) | f′(x) |
/// |---|---|---|
/// | `Identity` | x | 1 |
/// | `Tanh` | tanh x | 1 − tanh² x |
/// | `Sigmoid` | σ(x) = 1/(1 + e^−x) | σ(x)(1 − σ(x)) |
/// | `Relu` | max(x, 0) | 1 for x > 0, else 0 |
/// | `LeakyRelu` | x for x > 0, else slope·x | 1 for x > 0, else slope |
/// | `Gelu` | x Φ(x), Φ the standard normal distribution function | Φ(x) + x φ(x) |
/// | `Silu` | x σ(x) | σ(x)(1 + x(1 − σ(x))) |
/// | `Softplus` | ln(1 + eˣ) | σ(x) |
///
/// In `f32` and `f64` every value and derivative is within 3 units in the last place of the exact
/// one over the whole range (the saturated ends included, where 1 − tanh² would cancel).
///
/// Sources: GELU, Hendrycks & Gimpel 2016 (the exact form, not its tanh approximation); SiLU,
/// Elfwing, Uchibe & Doya 2017.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Activation {
    /// f(x) = x.
    Identity,
    /// f(x) = tanh x.
    Tanh,
    /// f(x) = 1/(1 + e^−x).
    Sigmoid,
    /// f(x) = max(x, 0).
    Relu,
    /// f(x) = x for x > 0, else slope·x.
    LeakyRelu {
        /// Slope for x ≤ 0, in [0, 1].
        slope: f64,
    },
    /// f(x) = x Φ(x).
    Gelu,
    /// f(x) = x σ(x).
    Silu,
    /// f(x) = ln(1 + eˣ).
    Softplus,
}

impl Activation {
    /// `values ← f(values)`; `derivatives ← f′(old values)` if given.
    ///
    /// # Panics
    /// If `derivatives` has another length than `values`.
    ///
    /// # Examples
    /// ```
    /// use layerwise::Activation;
    ///
    /// let mut values = [-1.0_f64, 0.0, 2.0];
    /// let mut derivatives = [0.0; 3];
    /// Activation::Relu.evaluate(&mut values, Some(&mut derivatives));
    /// assert_eq!(values, [0.0, 0.0, 2.0]);
    /// assert_eq!(derivatives, [0.0, 0.0, 1.0]);
    /// ```
    pub fn evaluate<T: Scalar>(self, values: &mut [T], derivatives: Option<&mut [T]>) {
        if let Some(derivatives) = &derivatives {
            assert_eq!(values.len(), derivatives.len(), "one derivative a value");
        }
        T::activate(self, values, derivatives);
    }

    /// sup |f′|, the Lipschitz constant of f.
    pub fn lipschitz(self) -> f64 {
        match self {
            Self::Identity | Self::Tanh | Self::Relu | Self::Softplus => 1.0,
            Self::LeakyRelu { slope } => slope.max(1.0),
            Self::Sigmoid => 0.25,
            // The maxima of Φ(x) + xφ(x) at x = √2 and of the SiLU's derivative at x ≈ 2.3994,
            // rounded up.
            Self::Gelu => 1.128_904_146,
            Self::Silu => 1.099_839_321,
        }
    }

    /// Centre and spread of the values that suit the activation as targets: inside its range and
    /// away from saturation.
    pub fn target_range(self) -> (f64, f64) {
        match self {
            Self::Identity => (0.0, 1.0),
            Self::Tanh => (0.0, 0.4),
            Self::Sigmoid => (0.5, 0.15),
            Self::Relu | Self::LeakyRelu { .. } | Self::Gelu | Self::Silu | Self::Softplus => {
                (1.0, 0.4)
            }
        }
    }

    pub(crate) fn validate(self) -> Result<Self, Error> {
        match self {
            Self::LeakyRelu { slope } if !(0.0..=1.0).contains(&slope) => {
                Err(Error::InvalidOption {
                    option: "LeakyRelu::slope",
                    value: slope,
                    allowed: "in 0..=1",
                })
            }
            _ => Ok(self),
        }
    }
}
