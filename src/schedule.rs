//! Factors that change during a phase, for the learning rate and the penalties μ.

use crate::check::{at_least_one, not_negative, positive, serde_checked, share};
use crate::error::Error;

/// A factor that depends only on the step k out of K steps; below, s = k/K.
///
/// # Examples
/// ```
/// use layerwise::schedule::Schedule;
///
/// let cosine = Schedule::cosine(0.1)?;
/// assert_eq!(cosine.factor(0, 100), 1.0);
/// assert!((cosine.factor(50, 100) - 0.55).abs() < 1e-15);
/// let warm = cosine.with_warm_up(4);
/// assert_eq!(warm.factor(0, 104), 0.25);
/// assert!((warm.factor(54, 104) - 0.55).abs() < 1e-15);
/// assert_eq!(Schedule::steps(30, 0.1)?.factor(59, 100), 0.1);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[doc(alias("learning rate", "learning rate scheduler"))]
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(remote = "Self", deny_unknown_fields))]
pub struct Schedule {
    shape: Shape,
    warm_up: u64,
}

serde_checked!(Schedule);

#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
enum Shape {
    Constant,
    Cosine { end: f64 },
    Linear { end: f64 },
    Geometric { end: f64 },
    Steps { every: u64, ratio: f64 },
}

impl Default for Schedule {
    fn default() -> Self {
        Self::CONSTANT
    }
}

impl Schedule {
    /// The factor 1. The default.
    pub const CONSTANT: Self = Self::of(Shape::Constant);

    /// [`Schedule::linear`] to 0.
    pub(crate) const TO_ZERO: Self = Self::of(Shape::Linear { end: 0.0 });

    /// r + (1 − r) (1 + cos πs)/2: half a cosine from 1 down to r = `end` (Loshchilov & Hutter
    /// 2017).
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless `end` is in 0..=1.
    pub fn cosine(end: f64) -> Result<Self, Error> {
        Self::of(Shape::Cosine { end }).checked()
    }

    /// 1 + (r − 1) s: a line from 1 to r = `end`.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless `end` is finite and not negative.
    pub fn linear(end: f64) -> Result<Self, Error> {
        Self::of(Shape::Linear { end }).checked()
    }

    /// r^s: a constant ratio between steps, from 1 to r = `end`. Below 1 it decays, above 1 it
    /// grows (penalty continuation).
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless `end` is above 0 and finite.
    pub fn geometric(end: f64) -> Result<Self, Error> {
        Self::of(Shape::Geometric { end }).checked()
    }

    /// r^⌊k/m⌋: multiplied by r = `ratio` after every m = `every` steps.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless `every` is at least 1, and `ratio` above 0 and finite.
    pub fn steps(every: u64, ratio: f64) -> Result<Self, Error> {
        Self::of(Shape::Steps { every, ratio }).checked()
    }

    /// Puts a warm-up of w = `steps` steps first, with the factor (k + 1)/w for k < w. The schedule
    /// itself then runs over the remaining K − w steps. Steps are visits (batches) of a phase, not
    /// epochs. A phase with fewer visits than w ends before the factor reaches 1.
    pub fn with_warm_up(mut self, steps: u64) -> Self {
        self.warm_up = steps;
        self
    }

    const fn of(shape: Shape) -> Self {
        Self { shape, warm_up: 0 }
    }

    fn checked(self) -> Result<Self, Error> {
        match self.shape {
            Shape::Constant => {}
            Shape::Cosine { end } => _ = share("Schedule::cosine's end", end)?,
            Shape::Linear { end } => _ = not_negative("Schedule::linear's end", end)?,
            Shape::Geometric { end } => _ = positive("Schedule::geometric's end", end)?,
            Shape::Steps { every, ratio } => {
                at_least_one("Schedule::steps' every", every)?;
                positive("Schedule::steps' ratio", ratio)?;
            }
        }
        Ok(self)
    }

    pub(crate) fn warm_up(self) -> u64 {
        self.warm_up
    }

    /// An upper bound on the factor of any step.
    pub(crate) fn largest(self) -> f64 {
        match self.shape {
            Shape::Constant | Shape::Cosine { .. } => 1.0,
            Shape::Linear { end } | Shape::Geometric { end } => end.max(1.0),
            Shape::Steps { ratio, .. } if ratio > 1.0 => f64::INFINITY,
            Shape::Steps { .. } => 1.0,
        }
    }

    /// The factor at step k = `step`, counted from 0, of K = `steps`.
    pub fn factor(self, step: u64, steps: u64) -> f64 {
        if step < self.warm_up {
            return (step + 1) as f64 / self.warm_up as f64;
        }
        let step = step - self.warm_up;
        let rest = steps.saturating_sub(self.warm_up).max(1);
        let progress = (step as f64 / rest as f64).min(1.0);
        match self.shape {
            Shape::Constant => 1.0,
            Shape::Cosine { end } => {
                end + (1.0 - end) * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
            }
            Shape::Linear { end } => 1.0 + (end - 1.0) * progress,
            Shape::Geometric { end } => end.powf(progress),
            Shape::Steps { every, ratio } => ratio.powf((step / every) as f64),
        }
    }
}
