//! Activation functions.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;
use crate::kernel::Scalar;

/// The function that a [`Dense`](crate::layer::Dense) layer applies to every unit.
///
/// In `f32` and `f64`, every value and derivative is within 3 units in the last place of the exact
/// one, over the whole range. This includes the saturated ends, where 1 − tanh² would cancel.
///
/// Sources: GELU, Hendrycks & Gimpel 2016 (the exact form, not its tanh approximation); SiLU,
/// Elfwing, Uchibe & Doya 2017.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Activation {
    /// f(x) = x, f′(x) = 1.
    Identity,
    /// f(x) = tanh x, f′(x) = 1 − tanh² x.
    Tanh,
    /// f(x) = σ(x) = 1/(1 + e^−x), f′(x) = σ(x)(1 − σ(x)).
    Sigmoid,
    /// f(x) = max(x, 0), f′(x) = 1 for x > 0, otherwise 0.
    Relu,
    /// f(x) = x for x > 0, otherwise slope·x; f′(x) = 1 for x > 0, otherwise slope.
    LeakyRelu {
        /// Slope for x ≤ 0, in [0, 1].
        slope: f64,
    },
    /// f(x) = x Φ(x), with Φ the standard normal distribution function and φ its density;
    /// f′(x) = Φ(x) + x φ(x).
    Gelu,
    /// f(x) = x σ(x), f′(x) = σ(x)(1 + x(1 − σ(x))).
    Silu,
    /// f(x) = ln(1 + eˣ), f′(x) = σ(x).
    Softplus,
}

impl Activation {
    /// `values ← f(values)`, and `derivatives ← f′(old values)` if given.
    ///
    /// # Panics
    /// If `derivatives` and `values` have different lengths.
    ///
    /// # Examples
    /// ```
    /// use layerwise::layer::Activation;
    ///
    /// let mut values = [-1.0_f64, 0.0, 2.0];
    /// let mut derivatives = [0.0; 3];
    /// Activation::Relu.evaluate(&mut values, Some(&mut derivatives));
    /// assert_eq!(values, [0.0, 0.0, 2.0]);
    /// assert_eq!(derivatives, [0.0, 0.0, 1.0]);
    /// ```
    pub fn evaluate<T: Scalar>(self, values: &mut [T], derivatives: Option<&mut [T]>) {
        if let Some(derivatives) = &derivatives {
            assert_eq!(values.len(), derivatives.len(), "one derivative per value");
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

    /// Centre and spread of values that are good targets for the activation: inside its range and
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

    /// The x with f(x) = `value`, or with the nearest value in the range of f: the target of a
    /// least-squares fit of the pre-activation. `None` for `Gelu` and `Silu`, which are not
    /// monotone.
    ///
    /// | variant | x, where y is the value clipped to the interval | interval |
    /// |---|---|---|
    /// | `Identity` | y | all |
    /// | `Tanh` | artanh y | [−1 + margin, 1 − margin] |
    /// | `Sigmoid` | ln(y/(1 − y)) | [margin, 1 − margin] |
    /// | `Relu` | y for y > 0, otherwise min(`present`, 0) | y ≥ 0 |
    /// | `LeakyRelu` | y for y > 0, otherwise y/slope; with slope 0 like `Relu` | all |
    /// | `Softplus` | ln(eʸ − 1) | y ≥ margin |
    ///
    /// If several x have the value (`Relu` at 0), the result is the one nearest to the current
    /// pre-activation `present`. `margin`, which must be above 0 and below ½, keeps x finite at the
    /// ends of an open range. NaN stays NaN.
    ///
    /// # Examples
    /// ```
    /// use layerwise::layer::Activation;
    ///
    /// assert_eq!(Activation::Relu.preimage(2.0, -1.0, 0.01), Some(2.0));
    /// assert_eq!(Activation::Relu.preimage(-3.0, -1.0, 0.01), Some(-1.0));
    /// let end = Activation::Tanh.preimage(7.0, 0.0, 0.01).unwrap();
    /// assert!((end - 0.99_f64.atanh()).abs() < 1e-12);
    /// assert_eq!(Activation::Silu.preimage(2.0, 0.0, 0.01), None);
    /// ```
    pub fn preimage<T: Scalar>(self, value: T, present: T, margin: T) -> Option<T> {
        let (zero, one, half) = (T::zero(), T::one(), T::of(0.5));
        Some(match self {
            Self::Identity => value,
            Self::Tanh => {
                // artanh a = ½ ln(1 + 2a/(1 − a)), from the distance to the end where a is clipped.
                let a = value.abs();
                let distance = one - a;
                // Not a > 1 − margin, where a small margin is lost in rounding.
                let ratio = match distance < margin {
                    true => (one - margin) / margin,
                    false => a / distance,
                };
                (half * (ratio + ratio).ln_1p()).copysign(value)
            }
            Self::Sigmoid => {
                // With e the distance to the nearer end: ±ln(1 + (1 − 2e)/e).
                let upper = value >= half;
                let distance = if upper { one - value } else { value };
                let e = if distance < margin { margin } else { distance };
                let x = ((one - (e + e)) / e).ln_1p();
                if upper { x } else { -x }
            }
            Self::Relu => rectified(value, present),
            Self::LeakyRelu { slope } => {
                let slope = T::of(slope);
                match slope.is_zero() {
                    true => rectified(value, present),
                    false if value <= zero => value / slope,
                    false => value,
                }
            }
            Self::Softplus => {
                let y = if value < margin { margin } else { value };
                if y > T::of(std::f64::consts::LN_2) {
                    y + (-(-y).exp()).ln_1p()
                } else {
                    y.exp_m1().ln()
                }
            }
            Self::Gelu | Self::Silu => return None,
        })
    }

    pub(crate) fn validate(self) -> Result<Self, Error> {
        match self {
            Self::LeakyRelu { slope } if !(0.0..=1.0).contains(&slope) => {
                Err(Error::InvalidOption {
                    option: "LeakyRelu::slope",
                    value: slope,
                    allowed: "in 0..=1".into(),
                })
            }
            _ => Ok(self),
        }
    }
}

/// Names that do not change from version to version, such as `tanh` and `leaky_relu(0.01)`.
impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Identity => "identity",
            Self::Tanh => "tanh",
            Self::Sigmoid => "sigmoid",
            Self::Relu => "relu",
            Self::LeakyRelu { slope } => return write!(f, "leaky_relu({slope})"),
            Self::Gelu => "gelu",
            Self::Silu => "silu",
            Self::Softplus => "softplus",
        })
    }
}

/// Reads what `Display` writes.
impl FromStr for Activation {
    type Err = Error;

    /// # Errors
    /// [`Error::Description`] for an unknown name, and [`Error::InvalidOption`] for a slope outside
    /// 0..=1.
    fn from_str(text: &str) -> Result<Self, Error> {
        let slope = text.strip_prefix("leaky_relu(");
        let slope = slope.and_then(|rest| rest.strip_suffix(')')?.parse().ok());
        if let Some(slope) = slope {
            return Self::LeakyRelu { slope }.validate();
        }
        Ok(match text {
            "identity" => Self::Identity,
            "tanh" => Self::Tanh,
            "sigmoid" => Self::Sigmoid,
            "relu" => Self::Relu,
            "gelu" => Self::Gelu,
            "silu" => Self::Silu,
            "softplus" => Self::Softplus,
            _ => {
                return Err(Error::Description {
                    kind: "layer".into(),
                    setting: "activation".into(),
                    expected: "identity, tanh, sigmoid, relu, leaky_relu(slope), gelu, silu or \
                               softplus"
                        .into(),
                    found: text.into(),
                });
            }
        })
    }
}

/// The preimage under max(x, 0) nearest to `present`.
fn rectified<T: Scalar>(value: T, present: T) -> T {
    match value <= T::zero() {
        true if present < T::zero() => present,
        true => T::zero(),
        false => value,
    }
}
