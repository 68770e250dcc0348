//! Lengths of gradient steps.

use super::acceptance::Check;
use crate::error::Error;
use crate::kernel::Scalar;

/// Length of a gradient step on z.
///
/// A *checked* step that would raise an example's E is drawn back for that example alone: to a
/// quarter, a sixteenth, and a sixty-fourth of its way, and then to where it began. Its next step
/// begins with the share that was found, and with four times the last share, at most all, after a
/// step that was taken as it came. So a step raises E of no example by more than rounding (16 ε
/// |E|), whatever the curvature. It costs one evaluation of the losses a step, at predictions that
/// the next step uses anyway, and one pass of predictions each time that any example is drawn back.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum StepSize {
    /// The same step for every layer, above 0, taken as it is. Gradient steps are stable only below
    /// 2/λ_max.
    Fixed(f64),
    /// The same step for every layer, above 0, checked.
    Checked(f64),
    /// `margin` divided by a bound of the Gauss-Newton curvature, `margin` in (0, 2): stable on
    /// the Gauss-Newton model below 2, and without overshoot up to 1. Checked, since the bound holds
    /// for Gauss-Newton's matrix, not for the Hessian, and is refreshed only now and then.
    Bounded {
        /// Share of the step 1/bound.
        margin: f64,
    },
}

impl StepSize {
    pub(crate) fn validate<T: Scalar>(self) -> Result<Self, Error> {
        let positive = |step: f64| T::of(step) > T::zero() && T::of(step).is_finite();
        let (option, value, allowed, valid) = match self {
            Self::Fixed(step) => (
                "StepSize::Fixed",
                step,
                "above 0 and finite, also in the circuit's scalar",
                positive(step),
            ),
            Self::Checked(step) => (
                "StepSize::Checked",
                step,
                "above 0 and finite, also in the circuit's scalar",
                positive(step),
            ),
            Self::Bounded { margin } => (
                "StepSize::Bounded::margin",
                margin,
                "above 0 and below 2",
                positive(margin) && margin < 2.0,
            ),
        };
        if valid {
            return Ok(self);
        }
        Err(Error::InvalidOption {
            option,
            value,
            allowed,
        })
    }

    pub(super) fn check(self) -> Check {
        match self {
            Self::Fixed(_) => Check::None,
            Self::Checked(_) | Self::Bounded { .. } => Check::Rounding,
        }
    }

    pub(super) fn is_bounded(self) -> bool {
        matches!(self, Self::Bounded { .. })
    }

    /// The step where the curvature is bounded by what `bound` gives.
    pub(super) fn length<T: Scalar>(self, bound: impl FnOnce() -> T) -> T {
        match self {
            Self::Fixed(step) | Self::Checked(step) => T::of(step),
            Self::Bounded { margin } => bounded(T::of(margin), bound()),
        }
    }
}

/// margin / bound, or 0 where there is no curvature to descend on.
fn bounded<T: Scalar>(margin: T, bound: T) -> T {
    if bound.is_zero() {
        return T::zero();
    }
    margin / bound
}
