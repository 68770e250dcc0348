//! Initial values of parameters.

use std::fmt;

use nalgebra::DMatrix;
use rand::rngs::ChaCha8Rng;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution as _, StandardNormal, Uniform};

use crate::check::{finite, positive};
use crate::description::Description;
use crate::error::Error;
use crate::kernel::Scalar;

/// The number of units that the variance of [`Initializer::VarianceScaling`] is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fan {
    /// The number of units that each unit reads from.
    In,
    /// The number of units that read from each unit.
    Out,
    /// The mean of the two.
    Average,
}

/// The distribution that [`Initializer::VarianceScaling`] draws from, with variance v.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distribution {
    /// N(0, v).
    Normal,
    /// U(−√(3v), √(3v)).
    Uniform,
}

/// How a matrix of parameters is drawn.
///
/// # Examples
/// ```
/// use layerwise::init::Initializer;
/// use layerwise::layer::{Activation, Dense};
///
/// let layer = Dense::new(64, 32, Activation::Relu)?.with_weights(Initializer::he_normal())?;
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Initializer {
    /// All 0.
    Zeros,
    /// All the same value.
    Constant {
        /// The value.
        value: f64,
    },
    /// Independent draws with mean 0 and variance v = scale / fan.
    VarianceScaling {
        /// Numerator of the variance; must be above 0.
        scale: f64,
        /// Denominator of the variance: fan-in, fan-out, or their mean.
        fan: Fan,
        /// Normal or uniform.
        distribution: Distribution,
    },
    /// gain · Q, where Q is drawn uniformly from the matrices with orthonormal columns (or
    /// orthonormal rows, if there are fewer rows than columns). Saxe, McClelland & Ganguli 2014.
    Orthogonal {
        /// Factor of the orthonormal matrix; must be finite.
        gain: f64,
    },
}

impl Initializer {
    /// U(±√(6/(fan_in + fan_out))). Glorot & Bengio 2010.
    pub fn glorot_uniform() -> Self {
        Self::scaling(1.0, Fan::Average, Distribution::Uniform)
    }

    /// N(0, 2/(fan_in + fan_out)). Glorot & Bengio 2010.
    pub fn glorot_normal() -> Self {
        Self::scaling(1.0, Fan::Average, Distribution::Normal)
    }

    /// U(±√(6/fan_in)). He, Zhang, Ren & Sun 2015.
    pub fn he_uniform() -> Self {
        Self::scaling(2.0, Fan::In, Distribution::Uniform)
    }

    /// N(0, 2/fan_in). He, Zhang, Ren & Sun 2015.
    pub fn he_normal() -> Self {
        Self::scaling(2.0, Fan::In, Distribution::Normal)
    }

    /// U(±√(3/fan_in)). LeCun, Bottou, Orr & Müller 1998.
    pub fn lecun_uniform() -> Self {
        Self::scaling(1.0, Fan::In, Distribution::Uniform)
    }

    /// N(0, 1/fan_in). LeCun, Bottou, Orr & Müller 1998.
    pub fn lecun_normal() -> Self {
        Self::scaling(1.0, Fan::In, Distribution::Normal)
    }

    fn scaling(scale: f64, fan: Fan, distribution: Distribution) -> Self {
        Self::VarianceScaling {
            scale,
            fan,
            distribution,
        }
    }

    /// Draws a `rows × columns` matrix with fan-in `columns` and fan-out `rows` into `values`,
    /// column by column.
    ///
    /// Values are drawn in `f64` and rounded, so `f32` and `f64` circuits start alike.
    ///
    /// # Panics
    /// If `values` does not hold `rows · columns` values.
    pub fn fill<T: Scalar>(self, values: &mut [T], rows: usize, columns: usize, rng: &mut dyn Rng) {
        self.fill_with_fans(values, (rows, columns), (columns as f64, rows as f64), rng);
    }

    /// [`Initializer::fill`] with any (fan-in, fan-out).
    pub(crate) fn fill_with_fans<T: Scalar>(
        self,
        values: &mut [T],
        (rows, columns): (usize, usize),
        (fan_in, fan_out): (f64, f64),
        rng: &mut dyn Rng,
    ) {
        let size = rows.saturating_mul(columns);
        assert_eq!(values.len(), size, "a {rows} x {columns} matrix");
        match self {
            Self::Zeros => values.fill(T::zero()),
            Self::Constant { value } => values.fill(T::of(value)),
            Self::VarianceScaling {
                scale,
                fan,
                distribution,
            } => {
                let fan = match fan {
                    Fan::In => fan_in,
                    Fan::Out => fan_out,
                    Fan::Average => 0.5 * (fan_in + fan_out),
                };
                let std = (scale / fan.max(1.0)).sqrt();
                match distribution {
                    Distribution::Normal => draw(values, rng, StandardNormal, std),
                    Distribution::Uniform => {
                        let unit = Uniform::new_inclusive(-1.0, 1.0).expect("-1 is below 1");
                        draw(values, rng, unit, std * 3f64.sqrt());
                    }
                }
            }
            Self::Orthogonal { gain } => {
                let q = orthonormal(rows, columns, rng);
                for (v, q) in values.iter_mut().zip(q.iter()) {
                    *v = T::of(gain * q);
                }
            }
        }
    }

    /// Its kind and options.
    pub fn description(self) -> Description {
        let text = |variant: &dyn fmt::Debug| format!("{variant:?}").to_lowercase();
        match self {
            Self::Zeros => Description::new("Zeros"),
            Self::Constant { value } => Description::new("Constant").with("value", value),
            Self::VarianceScaling {
                scale,
                fan,
                distribution,
            } => Description::new("VarianceScaling")
                .with("scale", scale)
                .with("fan", text(&fan))
                .with("distribution", text(&distribution)),
            Self::Orthogonal { gain } => Description::new("Orthogonal").with("gain", gain),
        }
    }

    /// The initializer that [`Initializer::description`] describes.
    ///
    /// # Errors
    /// [`Error::Description`], [`Error::UnknownKind`], or [`Error::InvalidOption`].
    pub fn described(own: &Description) -> Result<Self, Error> {
        match own.kind() {
            "Zeros" => Self::Zeros,
            "Constant" => Self::Constant {
                value: own.number("value")?,
            },
            "VarianceScaling" => Self::scaling(
                own.number("scale")?,
                match own.text("fan")? {
                    "in" => Fan::In,
                    "out" => Fan::Out,
                    "average" => Fan::Average,
                    _ => return Err(own.refuse("fan", "in, out or average")),
                },
                match own.text("distribution")? {
                    "normal" => Distribution::Normal,
                    "uniform" => Distribution::Uniform,
                    _ => return Err(own.refuse("distribution", "normal or uniform")),
                },
            ),
            "Orthogonal" => Self::Orthogonal {
                gain: own.number("gain")?,
            },
            kind => {
                return Err(Error::UnknownKind {
                    what: "initializer",
                    kind: kind.into(),
                    known: "Constant, Orthogonal, VarianceScaling, Zeros".into(),
                });
            }
        }
        .validate()
    }

    pub(crate) fn validate(self) -> Result<Self, Error> {
        match self {
            Self::Zeros => return Ok(self),
            Self::Constant { value } => finite("Initializer::Constant::value", value),
            Self::VarianceScaling { scale, .. } => {
                positive("Initializer::VarianceScaling::scale", scale)
            }
            Self::Orthogonal { gain } => finite("Initializer::Orthogonal::gain", gain),
        }
        .map(|_| self)
    }
}

/// What random numbers are drawn for. Each purpose has its own streams, so that equal seeds do not
/// make, for example, the targets equal to the weights.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Purpose {
    /// Initial parameters of layer t.
    Parameters = 0,
    /// Random targets of layer t, or noise on them.
    Targets = 1,
    /// The projection onto layer t.
    Projection = 2,
    /// The order of the examples in epoch t.
    Shuffle = 3,
    /// Cotangents and directions of gradient checks.
    Check = 4,
    /// The parts of a data split.
    Split = 5,
    /// The start vectors of curvature estimates in z_t.
    Curvature = 7,
    /// Noise in the steps of z_t.
    Langevin = 8,
    /// The cases of property tests.
    #[cfg(feature = "proptest")]
    Cases = 6,
}

/// The random number generator of stream t of a purpose.
pub(crate) fn generator(seed: u64, purpose: Purpose, t: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream((purpose as u64) << 56 | t);
    rng
}

/// 2⁶⁴ divided by the golden ratio.
pub(crate) const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The next number of the generator SplitMix64 (Steele, Lea & Flood 2014).
pub(crate) fn hash(state: u64) -> u64 {
    let mut z = state.wrapping_add(GOLDEN);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A seed that depends on every bit of these numbers and on their order.
pub(crate) fn key_of<const N: usize>(parts: [u64; N]) -> u64 {
    parts
        .into_iter()
        .fold(0, |key, part| hash(hash(key) ^ part))
}

/// values ← factor · random draws.
pub(crate) fn draw<T: Scalar>(
    values: &mut [T],
    rng: &mut dyn Rng,
    distribution: impl rand_distr::Distribution<f64>,
    factor: f64,
) {
    for v in values {
        *v = T::of(factor * distribution.sample(rng));
    }
}

/// values ← values + std · N(0, 1).
pub(crate) fn add_noise<T: Scalar>(values: &mut [T], std: f64, rng: &mut dyn Rng) {
    for v in values {
        let draw: f64 = StandardNormal.sample(rng);
        *v += T::of(std * draw);
    }
}

/// A random `rows × columns` matrix with orthonormal columns (or rows, if there are fewer of them),
/// drawn uniformly: the Q of a Gaussian matrix, with the signs of R's diagonal (Mezzadri 2007).
pub(crate) fn orthonormal(rows: usize, columns: usize, rng: &mut dyn Rng) -> DMatrix<f64> {
    let (tall, wide) = (rows.max(columns), rows.min(columns));
    let gaussian = DMatrix::from_fn(tall, wide, |_, _| StandardNormal.sample(rng));
    let (mut q, r) = gaussian.qr().unpack();
    for (mut column, &diagonal) in q.column_iter_mut().zip(r.diagonal().iter()) {
        if diagonal < 0.0 {
            column.neg_mut();
        }
    }
    if rows >= columns { q } else { q.transpose() }
}
