//! Lengths of gradient steps.

use std::num::NonZeroU64;

use super::curvature::{self, Curvature, Missing};
use super::trial::Check;
use crate::check::{at_least_one, check_computed, option, refuse, serde_checked};
use crate::energy::{Layers, Workspace};
use crate::error::{Error, Quantity};
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
#[cfg_attr(feature = "serde", serde(remote = "Self", deny_unknown_fields))]
pub enum StepSize {
    /// The same step for every layer, above 0, unchecked. Gradient steps are stable only below
    /// 2/λ_max.
    Fixed(f64),
    /// The same step for every layer, above 0, checked.
    Checked(f64),
    /// `margin` divided by a bound on the Gauss-Newton curvature, with `margin` in (0, 2). On the
    /// Gauss-Newton model this is stable below 2, and does not overshoot up to 1. The step is also
    /// checked, since the bound holds for the Gauss-Newton matrix, not for the Hessian, and is not
    /// recomputed in every call. If the bound is not finite (θ has diverged), the solver returns
    /// [`Error::NonFinite`] with the layer; if it is 0 while the gradient is not, no such step exists,
    /// and the solver returns [`Error::InvalidOption`].
    Bounded {
        /// Multiple of the step 1/bound.
        margin: f64,
    },
}

impl StepSize {
    pub(crate) fn checked(self) -> Result<Self, Error> {
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
    /// That of `bound`; [`Error::InvalidOption`] if no step follows from it.
    fn length<'a, T: Scalar>(
        self,
        bound: impl FnOnce() -> Result<T, Error>,
        mut gradients: impl Iterator<Item = &'a [T]>,
    ) -> Result<T, Error> {
        let margin = match self {
            Self::Fixed(step) | Self::Checked(step) => return Ok(T::of(step)),
            Self::Bounded { margin } => T::of(margin),
        };
        let bound = bound()?;
        if bound.is_zero() && gradients.all(|own| own.iter().all(T::is_zero)) {
            // Already at the minimum: a step of 0, not ∞ · 0.
            return Ok(T::zero());
        }
        let step = margin / bound;
        let name = "the curvature bound that StepSize::Bounded divides by";
        let allowed = "above 0 and finite, as must its inverse (StepSize::Checked needs no bound)";
        let fits = bound > T::zero() && step.is_finite();
        option(name, bound.as_f64(), fits, allowed).map(|_| step)
    }
}

serde_checked!(StepSize);

/// The steps of a gradient descent: their size, and how often their bounds are computed. Its state
/// holds only the bounds ([`curvature::refresh`]).
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(remote = "Self", deny_unknown_fields))]
pub(crate) struct StepRule {
    size: StepSize,
    /// Number of calls that share the same bounds, if it was set; only for steps that have bounds.
    bound_every: Option<NonZeroU64>,
}

/// Number of calls that share the same bounds unless it is set.
const BOUND_EVERY: NonZeroU64 = NonZeroU64::new(10).expect("10 is not 0");

impl StepRule {
    pub(crate) fn new(size: StepSize) -> Self {
        let bound_every = None;
        Self { size, bound_every }
    }

    #[cfg(feature = "serde")]
    pub(super) fn size(self) -> StepSize {
        self.size
    }

    pub(super) fn with_size(self, size: StepSize) -> Result<Self, Error> {
        Self { size, ..self }.checked()
    }

    pub(super) fn with_bound_every(self, option: &'static str, calls: u64) -> Result<Self, Error> {
        let bound_every = NonZeroU64::new(at_least_one(option, calls)?);
        Self {
            bound_every,
            ..self
        }
        .checked()
    }

    fn checked(self) -> Result<Self, Error> {
        self.size.checked()?;
        let what = match self.size {
            _ if self.bound_every.is_none() => return Ok(self),
            StepSize::Bounded { .. } => return Ok(self),
            StepSize::Fixed(_) => "with_bound_every with StepSize::Fixed",
            StepSize::Checked(_) => "with_bound_every with StepSize::Checked",
        };
        refuse(
            what,
            "these steps need no bounds, so it would have no effect",
        )
    }

    /// Checks that these steps can be made with such layers and losses.
    pub(crate) fn check<T: Scalar>(self, layers: Layers<'_, T>) -> Result<(), Error> {
        self.size.checked_in::<T>()?;
        match self.size {
            StepSize::Bounded { .. } => Curvature::new(layers).map(drop),
            StepSize::Fixed(_) | StepSize::Checked(_) => Ok(()),
        }
    }

    /// Begins a call of a solver.
    pub(crate) fn begin<T: Scalar>(
        self,
        state: &mut State<T>,
        layers: Layers<'_, T>,
    ) -> Result<(), Error> {
        match self.bounds_every::<T>()? {
            None => Ok(()),
            Some(every) => curvature::refresh(state, every, layers, Missing::Refused).map(drop),
        }
    }

    /// Begins a call of a solver that descends in the errors z_t − ẑ_t.
    pub(super) fn begin_in_errors<T: Scalar>(
        self,
        state: &mut State<T>,
        layers: Layers<'_, T>,
    ) -> Result<(), Error> {
        match self.bounds_every::<T>()? {
            None => Ok(()),
            Some(every) => curvature::refresh_in_errors(state, every, layers),
        }
    }

    /// How many calls share the same bounds, if the steps need any.
    fn bounds_every<T: Scalar>(self) -> Result<Option<u64>, Error> {
        // So far it has been checked only in f64.
        self.size.checked_in::<T>()?;
        Ok(match self.size {
            StepSize::Bounded { .. } => Some(self.bound_every.unwrap_or(BOUND_EVERY).get()),
            StepSize::Fixed(_) | StepSize::Checked(_) => None,
        })
    }

    /// The step of z_t, with the other layers fixed, along the gradient in the workspace, as part of
    /// step `number`.
    ///
    /// # Errors
    /// [`Error::NonFinite`] for a bound that is not finite, [`Error::InvalidOption`] for one that no
    /// step follows from.
    pub(crate) fn of_layer<T: Scalar>(
        self,
        state: &State<T>,
        t: usize,
        workspace: &Workspace<T>,
        number: u64,
    ) -> Result<T, Error> {
        let gradients = std::iter::once_with(|| workspace.target_gradient(t));
        let bound = || {
            let bound = state.values[0][t - 1];
            check_computed(Quantity::CurvatureBound, t, number, &[bound]).map(|()| bound)
        };
        self.size.length(bound, gradients)
    }

    /// The step of all layers at once, along the gradients in the workspace.
    ///
    /// # Errors
    /// Those of [`Self::of_layer`].
    pub(super) fn of_all<T: Scalar>(
        self,
        state: &State<T>,
        workspace: &Workspace<T>,
        number: u64,
    ) -> Result<T, Error> {
        let bound = || {
            let (blocks, couplings) = (&state.values[0], &state.values[1]);
            finite(curvature::whole(blocks, couplings), blocks, number)
        };
        self.size.length(bound, gradients_of(workspace))
    }

    /// The step of all errors z_t − ẑ_t at once, along the gradients in the workspace.
    ///
    /// # Errors
    /// Those of [`Self::of_layer`].
    pub(super) fn of_errors<T: Scalar>(
        self,
        state: &State<T>,
        workspace: &Workspace<T>,
        number: u64,
    ) -> Result<T, Error> {
        let bound = || finite(state.values[1][0], &state.values[0], number);
        self.size.length(bound, gradients_of(workspace))
    }
}

serde_checked!(StepRule);

/// ∂E/∂z_t for t in 1..T.
fn gradients_of<T: Scalar>(workspace: &Workspace<T>) -> impl Iterator<Item = &[T]> {
    (1..workspace.locals.len()).map(|t| workspace.target_gradient(t))
}

/// The bound on the whole matrix if it is finite; an error names the first layer whose own is not.
fn finite<T: Scalar>(whole: T, by_layer: &[T], number: u64) -> Result<T, Error> {
    let odd = by_layer.iter().position(|own| !own.is_finite());
    // Only the sum may be too large.
    let layer = odd.map_or(1, |i| i + 1);
    check_computed(Quantity::CurvatureBound, layer, number, &[whole]).map(|()| whole)
}

/// The options of solvers whose steps have only a [`StepRule`]: `$name` wraps an
/// [`Iterate`](super::Iterate) of `$step`, which holds it. `$steps` is what it counts.
macro_rules! step_options {
    ($name:ident, $step:ident, $steps:ident, $bound_every:literal) => {
        impl $name {
            #[doc = concat!("K = `", stringify!($steps), "` ", stringify!($steps))]
            /// (0 leaves the targets unchanged). Defaults: bounded steps with margin
            /// 1, bounds recomputed every 10th call, no early stopping.
            pub fn new($steps: u64) -> Self {
                let size = StepSize::Bounded { margin: 1.0 };
                let step = $step(StepRule::new(size));
                Self(Iterate::new($steps, step).with_check(size.check()))
            }

            /// Sets the step.
            ///
            /// # Errors
            /// [`Error::InvalidOption`] for a step out of range. One that is out of range only in the
            /// circuit's scalar type is reported when the solver is called. [`Error::Combination`] for
            /// a step without bounds after [`Self::with_bound_every`].
            pub fn with_step(mut self, step: StepSize) -> Result<Self, Error> {
                self.0.descent.0 = self.0.descent.0.with_size(step)?;
                Ok(Self(self.0.with_check(step.check())))
            }

            /// Recomputes the bounds every k-th call; 1 follows the weights exactly.
            ///
            /// # Errors
            /// [`Error::InvalidOption`] for 0; [`Error::Combination`] unless steps are
            /// [`StepSize::Bounded`].
            pub fn with_bound_every(mut self, calls: u64) -> Result<Self, Error> {
                self.0.descent.0 = self.0.descent.0.with_bound_every($bound_every, calls)?;
                Ok(self)
            }

            #[cfg(feature = "serde")]
            fn checked(self) -> Result<Self, Error> {
                let check = self.0.descent.0.size().check();
                self.0.expect_check(check).map(|()| self)
            }
        }
    };
}
pub(super) use step_options;
