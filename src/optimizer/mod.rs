//! First-order update rules, for both θ and z.

mod adam;
mod gradient_descent;
mod rms_prop;

use std::fmt::Debug;

pub use adam::{Adam, AdamW};
pub use gradient_descent::GradientDescent;
pub use rms_prop::RmsProp;

use crate::kernel::Scalar;
use crate::pointers::through_pointers;

/// The step number and the factors of one update.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Step {
    /// Number of the step, counted from 1.
    pub number: u64,
    /// Factor of the learning rate, from the schedule.
    pub factor: f64,
    /// Factor of the gradient; 1/n turns a sum over a batch into its mean.
    pub gradient_factor: f64,
    /// Factor of the rule's weight decay, if it has any; 0 for values that do not decay, such as
    /// biases ([`ParameterGroup::decays`](crate::layer::ParameterGroup::decays)).
    pub decay: f64,
}

impl Step {
    /// Step `number`, counted from 1, with the learning rate multiplied by `factor` and the
    /// gradient unchanged.
    pub fn new(number: u64, factor: f64) -> Self {
        Self {
            number,
            factor,
            gradient_factor: 1.0,
            decay: 1.0,
        }
    }

    /// Sets the factor of the gradient.
    pub fn with_gradient_factor(self, gradient_factor: f64) -> Self {
        Self {
            gradient_factor,
            ..self
        }
    }

    /// Sets the factor of the weight decay.
    pub fn with_decay(self, decay: f64) -> Self {
        Self { decay, ..self }
    }
}

/// An update rule x ← x − η·(a function of the gradients so far).
///
/// The rule holds only options. The caller holds the state: `slots()` values for each value that is
/// updated, initially zero. So the state of z can be stored per example, and a run can be
/// interrupted and resumed.
///
/// # Examples
/// A custom rule, x ← x − η sign(g):
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
///             // If the rule depends on the length of g, use step.gradient_factor · g.
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
    /// Number of state values for each updated value.
    fn slots(&self) -> usize;

    /// Updates `values`. Each value may depend only on its own gradient and state, since a caller
    /// may pass any part of a vector. `state` holds `slots()` arrays, each as long as `values`, one
    /// after another.
    ///
    /// `gradient` may be a **sum** over a batch. The rule multiplies it by `step.gradient_factor`,
    /// and its learning rate by `step.factor`: x ← x − η·factor·(gradient_factor·g) for plain
    /// descent. It multiplies its weight decay, if it has any, by `step.decay`.
    fn update(&self, step: Step, values: &mut [T], gradient: &[T], state: &mut [T]);

    /// Whether the rule has weight decay, so that a factor of it has an effect; `false` by default.
    fn decays(&self) -> bool {
        false
    }
}

through_pointers!(Optimizer {
    fn slots(&self) -> usize;
    fn update(&self, step: Step, values: &mut [T], gradient: &[T], state: &mut [T]);
    fn decays(&self) -> bool;
});

/// A positive ε in the scalar type. It must not become 0, since 0/0 is NaN.
fn above_zero<T: Scalar>(epsilon: f64) -> T {
    let least = [f64::from_bits(1), f32::from_bits(1).into()];
    let mut from = [epsilon].into_iter().chain(least).map(T::of);
    from.find(|own| !own.is_zero()).unwrap_or(T::one())
}

/// Two factors whose product is `factor` to the scalar's precision: the factor itself and 1 or, if
/// the scalar cannot hold the factor, its square root twice. That happens after clipping a gradient
/// of 1e38 in `f32`.
fn parts<T: Scalar>(factor: f64) -> [T; 2] {
    let own = T::of(factor);
    if (own.as_f64() - factor).abs() <= 1e-6 * factor.abs() {
        return [own, T::one()];
    }
    let root = factor.abs().sqrt();
    [T::of(root.copysign(factor)), T::of(root)]
}

/// √(a² s² + b² g²) for \[a, b\] = `shares` with a² + b² = 1 and s ≥ 0: never larger than both s
/// and |g|, and computed without their squares. Used in the body of a vectorised pass, so it has no
/// branches.
#[inline(always)]
fn next_root<T: Scalar>(shares: [T; 2], s: T, g: T) -> T {
    let size = g.abs();
    let (old, new) = (shares[0] * s, shares[1] * size);
    let (large, small) = if old > new { (old, new) } else { (new, old) };
    // Avoid 0/0 if both are zero.
    let ratio = small / if large > T::zero() { large } else { T::one() };
    let root = large * (T::one() + ratio * ratio).sqrt();
    // Rounding must not push the root above max(s, |g|). Comparisons with NaN are false.
    let most = if s > size { s } else { size };
    let root = if root > most { most } else { root };
    // s + b² (g² − s²)/(s + root), the same in exact numbers: rounding of `root` alone would hold s
    // off its place when b² is small.
    let half = T::of(0.5);
    let sum = half * s + half * root;
    let share = (half * size + half * s) / if sum > T::zero() { sum } else { T::one() };
    let next = s + shares[1] * shares[1] * (size - s) * share;
    let kept = if next > most { most } else { next };
    if sum > T::zero() && kept > T::zero() {
        kept
    } else {
        root
    }
}
