//! Learning rates that change during a run.

use crate::Error;

/// Factor of the learning rate as a function of progress s ∈ [0, 1] through the run.
///
/// | variant | factor |
/// |---|---|
/// | `Constant` | 1 |
/// | `Cosine` | r + (1 − r) (1 + cos πs)/2 (Loshchilov & Hutter 2017) |
/// | `Exponential` | r^s |
///
/// with r the factor at the end.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub enum Schedule {
    /// The learning rate as it is. The default.
    #[default]
    Constant,
    /// A half cosine down to `end`.
    Cosine {
        /// Factor at the end, in 0..=1.
        end: f64,
    },
    /// A constant ratio from step to step, down to `end`.
    Exponential {
        /// Factor at the end, above 0 and at most 1.
        end: f64,
    },
}

impl Schedule {
    /// The factor at progress s.
    ///
    /// # Examples
    /// ```
    /// use layerwise::Schedule;
    ///
    /// let schedule = Schedule::Cosine { end: 0.1 };
    /// assert_eq!(schedule.factor(0.0), 1.0);
    /// assert!((schedule.factor(0.5) - 0.55).abs() < 1e-15);
    /// assert!((schedule.factor(1.0) - 0.1).abs() < 1e-15);
    /// ```
    pub fn factor(self, progress: f64) -> f64 {
        let s = progress.clamp(0.0, 1.0);
        match self {
            Self::Constant => 1.0,
            Self::Cosine { end } => {
                end + (1.0 - end) * 0.5 * (1.0 + (std::f64::consts::PI * s).cos())
            }
            Self::Exponential { end } => end.powf(s),
        }
    }

    pub(crate) fn validate(self) -> Result<(), Error> {
        match self {
            Self::Cosine { end } if !(0.0..=1.0).contains(&end) => Err(Error::InvalidOption {
                option: "Schedule::Cosine::end",
                value: end,
                allowed: "in 0..=1",
            }),
            Self::Exponential { end } if !(end > 0.0 && end <= 1.0) => Err(Error::InvalidOption {
                option: "Schedule::Exponential::end",
                value: end,
                allowed: "above 0 and at most 1",
            }),
            _ => Ok(()),
        }
    }
}
