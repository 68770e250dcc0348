//! What an axis shows, and how.

use crate::error::Error;

use super::scale::{Scale, is_narrow};

/// An axis: its name (with the unit), its scale, and optional limits.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    pub(super) name: String,
    pub(super) kind: Kind,
    limits: Option<[f64; 2]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Linear,
    /// Linear, with ticks at whole numbers alone.
    Counted,
    Logarithmic,
}

impl Axis {
    /// A linear axis, labelled at round numbers.
    pub fn linear(name: impl Into<String>) -> Self {
        Self::of(name, Kind::Linear)
    }

    /// A linear axis, labelled at whole numbers.
    pub fn counted(name: impl Into<String>) -> Self {
        Self::of(name, Kind::Counted)
    }

    /// A logarithmic axis, labelled at powers of ten, and between them too if it is short. Values
    /// must be above 0.
    pub fn logarithmic(name: impl Into<String>) -> Self {
        Self::of(name, Kind::Logarithmic)
    }

    /// Shows values from `low` to `high`, and clips lines and bands to them. Without limits an axis
    /// shows all values: an accuracy that rises from 10 % to 97 % fills it, and 96 % and 97 % look
    /// alike.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless both are finite, `low` is above 0 on a logarithmic axis, and
    /// `high` is above `low` by more than rounding.
    ///
    /// # Examples
    /// ```
    /// use layerwise::plot::Axis;
    ///
    /// let axis = Axis::linear("test accuracy, %").with_limits(95.0, 100.0)?;
    /// assert!(Axis::linear("test accuracy, %").with_limits(100.0, 95.0).is_err());
    /// # Ok::<(), layerwise::Error>(())
    /// ```
    pub fn with_limits(mut self, low: f64, high: f64) -> Result<Self, Error> {
        let positive = self.kind == Kind::Logarithmic;
        if !low.is_finite() || positive && low <= 0.0 {
            return Err(Error::InvalidOption {
                option: "low of Axis::with_limits",
                value: low,
                allowed: if positive {
                    "finite and above 0"
                } else {
                    "finite"
                }
                .into(),
            });
        }
        if !high.is_finite() || high <= low || is_narrow(low, high) {
            return Err(Error::InvalidOption {
                option: "high of Axis::with_limits",
                value: high,
                allowed: format!("finite, and above {low} by more than rounding").into(),
            });
        }
        self.limits = Some([low, high]);
        Ok(self)
    }

    fn of(name: impl Into<String>, kind: Kind) -> Self {
        Self {
            name: name.into(),
            kind,
            limits: None,
        }
    }

    /// Its scale for values between these ends.
    pub(super) fn scale(&self, ends: [f64; 2]) -> Scale {
        match self.limits {
            Some(limits) => Scale::within(self.kind, limits),
            None => Scale::of(self.kind, ends),
        }
    }
}
