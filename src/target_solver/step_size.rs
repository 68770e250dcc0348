//! Lengths of gradient steps.

use std::num::NonZeroU64;

use super::curvature;
use super::trial::Check;
use crate::check::{at_least_one, option, serde_checked};
use crate::energy::{Layers, Workspace};
use crate::error::Error;
use crate::kernel::Scalar;
use crate::state::State;

/// Length of a gradient step on z.
///
/// A *checked* step that would raise an example's E by more than rounding (16 ε |E|) is shortened for
/// that example alone, as [`Iterate`](super::Iterate) describes, so E never rises for any example.
/// This costs one evaluation of the losses per step, and one pass of predictions each time a step
/// is shortened.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(remote = "Self"))]
pub enum StepSize {
    /// The same step for every layer, above 0, unchecked. Gradient steps are stable only below
    /// 2/λ_max.
    Fixed(f64),
    /// The same step for every layer, above 0, checked.
    Checked(f64),
    /// `margin` divided by a bound on the Gauss-Newton curvature, with `margin` in (0, 2). On the
    /// Gauss-Newton model this is stable below 2, and does not overshoot up to 1. The step is also
    /// checked, since the bound holds for the Gauss-Newton matrix, not for the Hessian, and is not
    /// recomputed in every call. If the bound is not finite, or is 0 while the gradient is not, no
    /// such step exists, and the solver returns [`Error::InvalidOption`].
    Bounded {
        /// Multiple of the step 1/bound.
        margin: f64,
    },
}

impl StepSize {
    pub(super) fn checked(self) -> Result<Self, Error> {
        self.checked_in::<f64>()
    }

    fn checked_in<T: Scalar>(self) -> Result<Self, Error> {
        let above_zero = "above 0 and finite, also in the circuit's scalar";
        let (name, value, allowed) = match self {
            Self::Fixed(step) => ("StepSize::Fixed", step, above_zero),
            Self::Checked(step) => ("StepSize::Checked", step, above_zero),
            Self::Bounded { margin } => {
                ("StepSize::Bounded::margin", margin, "above 0 and below 2")
            }
        };
        let own = T::of(value);
        let below_two = !matches!(self, Self::Bounded { .. }) || value < 2.0;
        let fits = own > T::zero() && own.is_finite() && below_two;
        option(name, value, fits, allowed).map(|_| self)
    }

    pub(super) fn check(self) -> Check {
        match self {
            Self::Fixed(_) => Check::None,
            Self::Checked(_) | Self::Bounded { .. } => Check::Rounding,
        }
    }

    /// The step for the curvature bound that `bound` returns: finite, and above 0 unless there is no
    /// curvature and all `gradients` are 0.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] if no step follows from the bound.
    fn length<'a, T: Scalar>(
        self,
        bound: impl FnOnce() -> T,
        mut gradients: impl Iterator<Item = &'a [T]>,
    ) -> Result<T, Error> {
        let margin = match self {
            Self::Fixed(step) | Self::Checked(step) => return Ok(T::of(step)),
            Self::Bounded { margin } => T::of(margin),
        };
        let bound = bound();
        if bound.is_zero() && gradients.all(|own| own.iter().all(T::is_zero)) {
            // Already at the minimum: a step of 0, not ∞ · 0.
            return Ok(T::zero());
        }
        let step = margin / bound;
        let name = "the curvature bound that StepSize::Bounded divides by";
        let allowed = "above 0 and finite, as must its inverse (StepSize::Checked needs no bound)";
        let fits = bound > T::zero() && bound.is_finite() && step.is_finite();
        option(name, bound.as_f64(), fits, allowed).map(|_| step)
    }
}

serde_checked!(StepSize);

/// The steps of a gradient descent: their size, and how often their bounds are computed. Its state
/// holds only the bounds ([`curvature::refresh`]).
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct StepRule {
    pub(super) size: StepSize,
    /// Number of calls that share the same bounds.
    bound_every: NonZeroU64,
}

impl StepRule {
    /// Steps whose bounds are recomputed every 10th call.
    pub(super) fn new(size: StepSize) -> Self {
        Self {
            size,
            bound_every: NonZeroU64::new(10).expect("10 is not 0"),
        }
    }

    pub(super) fn set_bound_every(
        &mut self,
        option: &'static str,
        calls: u64,
    ) -> Result<(), Error> {
        let calls = at_least_one(option, calls)?;
        self.bound_every = NonZeroU64::new(calls).expect("at least 1");
        Ok(())
    }

    /// Begins a call of a solver.
    pub(super) fn begin<T: Scalar>(
        self,
        state: &mut State<T>,
        layers: Layers<'_, T>,
    ) -> Result<(), Error> {
        // So far it has been checked only in f64.
        self.size.checked_in::<T>()?;
        if let StepSize::Bounded { .. } = self.size {
            curvature::refresh(state, self.bound_every.get(), layers)?;
        }
        Ok(())
    }

    /// The step of z_t, with the other layers fixed, along the gradient in the workspace.
    pub(super) fn of_layer<T: Scalar>(
        self,
        state: &State<T>,
        t: usize,
        workspace: &Workspace<T>,
    ) -> Result<T, Error> {
        let gradients = std::iter::once_with(|| workspace.target_gradient(t));
        self.size.length(|| state.values[0][t - 1], gradients)
    }

    /// The step of all layers at once, along the gradients in the workspace.
    pub(super) fn of_all<T: Scalar>(
        self,
        state: &State<T>,
        workspace: &Workspace<T>,
    ) -> Result<T, Error> {
        let gradients = (1..workspace.locals.len()).map(|t| workspace.target_gradient(t));
        let bound = || curvature::whole(&state.values[0], &state.values[1]);
        self.size.length(bound, gradients)
    }
}
