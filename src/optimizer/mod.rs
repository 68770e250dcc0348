//! First-order update rules, for θ and for z alike.

mod adam;
mod gradient_descent;
mod rms_prop;

use std::fmt::Debug;

pub use adam::{Adam, AdamW};
pub use gradient_descent::GradientDescent;
pub use rms_prop::RmsProp;

use crate::kernel::Scalar;
use crate::pointers::through_pointers;

/// Where an update stands in its run.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Step {
    /// Number of the step, from 1.
    pub number: u64,
    /// Factor of the learning rate, from the schedule.
    pub factor: f64,
    /// Factor of the gradient: 1/n turns a sum over a batch into its mean.
    pub gradient_factor: f64,
    /// Whether weight decay, where a rule has it, applies to these values: not to biases
    /// ([`ParameterGroup::decays`](crate::layer::ParameterGroup::decays)).
    pub decays: bool,
}

impl Step {
    /// Step `number`, counted from 1, with the learning rate times `factor`, along the gradient as
    /// it is.
    pub fn new(number: u64, factor: f64) -> Self {
        Self {
            number,
            factor,
            gradient_factor: 1.0,
            decays: true,
        }
    }

    /// The same step along the gradient times `gradient_factor`.
    pub fn with_gradient_factor(self, gradient_factor: f64) -> Self {
        Self {
            gradient_factor,
            ..self
        }
    }

    /// The same step with weight decay or without.
    pub fn with_decay(self, decays: bool) -> Self {
        Self { decays, ..self }
    }
}

/// An update rule x ← x − η·(something of the gradient's history).
///
/// The rule holds options only; its state stands with the caller, `slots()` values for each value
/// that is updated, all zero at first. So the state of z can be kept by example, and a run can be
/// interrupted and resumed.
///
/// # Examples
/// A rule of one's own, x ← x − η sign(g):
/// ```
/// use layerwise::Scalar;
/// use layerwise::optimizer::{Optimizer, Step};
///
/// #[derive(Debug)]
/// struct SignDescent(f64);
///
/// impl<T: Scalar> Optimizer<T> for SignDescent {
///     fn slots(&self) -> usize {
///         0
///     }
///
///     fn update(&self, step: Step, values: &mut [T], gradient: &[T], _state: &mut [T]) {
///         let rate = T::of(self.0 * step.factor);
///         for (x, &g) in values.iter_mut().zip(gradient) {
///             // Where the length of g matters, it is step.gradient_factor · g.
///             *x -= rate * g.signum();
///         }
///     }
/// }
///
/// let mut x = [1.0, 2.0];
/// SignDescent(0.1).update(Step::new(1, 1.0), &mut x, &[3.0, -5.0], &mut []);
/// assert_eq!(x, [0.9, 2.1]);
/// ```
pub trait Optimizer<T: Scalar>: Debug + Send + Sync {
    /// State values for each value.
    fn slots(&self) -> usize;

    /// Updates `values`, each value by its own gradient and state alone: a caller may pass any part
    /// of a vector. `state` holds `slots()` arrays of the length of `values`, one after another.
    ///
    /// `gradient` may be a **sum** over a batch: the rule goes by `step.gradient_factor` times it, at
    /// `step.factor` times its learning rate, x ← x − η·factor·(gradient_factor·g) for plain descent.
    /// Weight decay, if it has any, is for steps where `step.decays`.
    fn update(&self, step: Step, values: &mut [T], gradient: &[T], state: &mut [T]);
}

through_pointers!(Optimizer {
    fn slots(&self) -> usize;
    fn update(&self, step: Step, values: &mut [T], gradient: &[T], state: &mut [T]);
});

/// A positive ε in the scalar, where it must not vanish: 0/0 is NaN.
fn above_zero<T: Scalar>(epsilon: f64) -> T {
    let least = [f64::from_bits(1), f32::from_bits(1).into()];
    let mut from = [epsilon].into_iter().chain(least).map(T::of);
    from.find(|own| !own.is_zero()).unwrap_or(T::one())
}

/// Two factors whose product is `factor` to the scalar's precision: the factor itself and 1, or its root
/// twice where the scalar cannot hold it, as after clipping a gradient of 1e38 in `f32`.
fn parts<T: Scalar>(factor: f64) -> [T; 2] {
    let own = T::of(factor);
    if (own.as_f64() - factor).abs() <= 1e-6 * factor.abs() {
        return [own, T::one()];
    }
    let root = factor.abs().sqrt();
    [T::of(root.copysign(factor)), T::of(root)]
}

/// √(a² s² + b² g²) for \[a, b\] = `shares` with a² + b² = 1, s ≥ 0: no larger than s and |g|, and
/// without their squares. For the body of a vectorised pass: no branches.
#[inline(always)]
fn next_root<T: Scalar>(shares: [T; 2], s: T, g: T) -> T {
    let size = g.abs();
    let (old, new) = (shares[0] * s, shares[1] * size);
    let (large, small) = if old > new { (old, new) } else { (new, old) };
    // Of two zeros no quotient.
    let ratio = small / if large > T::zero() { large } else { T::one() };
    let root = large * (T::one() + ratio * ratio).sqrt();
    // Rounding must not carry it beyond the largest number. NaN is neither larger nor smaller.
    let most = if s > size { s } else { size };
    if root > most { most } else { root }
}
