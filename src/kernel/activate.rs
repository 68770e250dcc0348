//! Activation functions over slices.

use super::Activation;
use super::elementary::{Gelu, Real, Sigmoid, Silu, Softplus, Tanh, apply};
use super::vectorise;
use crate::kernel::Scalar;

/// values ← f(values), and derivatives ← f′(old values) if given. `function` returns both; once it
/// is inlined, an unused result is never computed.
#[inline(always)]
pub(super) fn map<T: Copy>(
    values: &mut [T],
    derivatives: Option<&mut [T]>,
    function: impl Fn(T) -> (T, T),
) {
    match derivatives {
        None => {
            for value in values {
                *value = function(*value).0;
            }
        }
        Some(derivatives) => {
            for (value, derivative) in values.iter_mut().zip(derivatives) {
                (*value, *derivative) = function(*value);
            }
        }
    }
}

/// ReLU and leaky ReLU: x for x > 0, otherwise slope·x, 0 ≤ slope ≤ 1. At 0 a dual number gets the
/// slope of the derivative there. NaN stays NaN.
fn rectify<T: Scalar>(slope: T, values: &mut [T], derivatives: Option<&mut [T]>) {
    let derivative = move |x| if x > T::zero() { T::one() } else { slope };
    if slope.is_zero() {
        // There is no product, since 0·∞ would be NaN for −∞.
        let positive = |x| if x <= T::zero() { T::zero() } else { x };
        vectorise(
            #[inline(always)]
            move || map(values, derivatives, |x| (positive(x), derivative(x))),
        );
    } else {
        let leaky = move |x| if x > T::zero() { x } else { slope * x };
        vectorise(
            #[inline(always)]
            move || map(values, derivatives, |x| (leaky(x), derivative(x))),
        );
    }
}

/// The vectorised kernels of `f32` and `f64`.
pub(crate) fn vectorised<T: Scalar + Real>(
    activation: Activation,
    values: &mut [T],
    derivatives: Option<&mut [T]>,
) {
    match activation {
        Activation::Tanh => apply::<Tanh, T>(values, derivatives),
        Activation::Sigmoid => apply::<Sigmoid, T>(values, derivatives),
        Activation::Gelu => apply::<Gelu, T>(values, derivatives),
        Activation::Silu => apply::<Silu, T>(values, derivatives),
        Activation::Softplus => apply::<Softplus, T>(values, derivatives),
        Activation::Identity | Activation::Relu | Activation::LeakyRelu { .. } => {
            by_formula(activation, values, derivatives);
        }
    }
}

/// The textbook formulas, for any scalar type.
pub(crate) fn by_formula<T: Scalar>(
    activation: Activation,
    values: &mut [T],
    derivatives: Option<&mut [T]>,
) {
    let pointwise: fn(T) -> (T, T) = match activation {
        Activation::Identity => {
            if let Some(derivatives) = derivatives {
                derivatives.fill(T::one());
            }
            return;
        }
        Activation::Relu => return rectify(T::zero(), values, derivatives),
        Activation::LeakyRelu { slope } => return rectify(T::of(slope), values, derivatives),
        Activation::Tanh => tanh,
        Activation::Sigmoid => sigmoid,
        Activation::Gelu => |x| {
            let (cdf, density) = normal(x);
            (x * cdf, cdf + x * density)
        },
        Activation::Silu => |x| {
            let (s, ds) = sigmoid(x);
            (x * s, s + x * ds)
        },
        Activation::Softplus => |x| {
            let positive = if x > T::zero() { x } else { T::zero() };
            (positive + exp_of_minus_abs(x).ln_1p(), sigmoid(x).0)
        },
    };
    map(values, derivatives, pointwise);
}

fn exp_of_minus_abs<T: Scalar>(x: T) -> T {
    if x > T::zero() { (-x).exp() } else { x.exp() }
}

/// (tanh x, tanh′ x) by one exponential, each exact to a few ulp.
fn tanh<T: Scalar>(x: T) -> (T, T) {
    let (negative, two) = (x < T::zero(), T::of(2.0));
    let down = if negative { x + x } else { -x - x };
    // e⁻²ˣ, and e⁻²ˣ − 1, which is short of digits near 0.
    let (e, minus) = if down > -T::one() {
        let minus = down.exp_m1();
        (T::one() + minus, minus)
    } else {
        let e = down.exp();
        (e, e - T::one())
    };
    let y = minus / (two + minus);
    let one_plus = T::one() + e;
    (
        if negative { y } else { -y },
        T::of(4.0) * e / (one_plus * one_plus),
    )
}

/// (σ(x), σ′(x)), without overflow.
fn sigmoid<T: Scalar>(x: T) -> (T, T) {
    let e = exp_of_minus_abs(x);
    let one_plus = T::one() + e;
    let numerator = if x > T::zero() { T::one() } else { e };
    (numerator / one_plus, e / (one_plus * one_plus))
}

/// (Φ(x), φ(x)): the standard normal distribution and density, to about 1e-13 absolute.
fn normal<T: Scalar>(x: T) -> (T, T) {
    let half = T::of(0.5);
    let density = (-(x * x) * half).exp() * T::of(0.398_942_280_401_432_7);
    let near = T::of(3.0);
    if x < near && x > -near {
        // Φ(x) = ½ + φ(x) (x + x³/3 + x⁵/(3·5) + …), which converges fast here.
        let (mut term, mut sum) = (x, x);
        for k in 1..60 {
            term *= x * x / T::of(f64::from(2 * k + 1));
            sum += term;
        }
        return (half + density * sum, density);
    }
    // Further out, the continued fraction of Mills' ratio: 1/(a + 1/(a + 2/(a + 3/(a + …)))).
    let a = if x > T::zero() { x } else { -x };
    let fraction = (1..100)
        .rev()
        .fold(a, |tail, k| a + T::of(f64::from(k)) / tail);
    let upper = density / fraction;
    let cdf = if x > T::zero() {
        T::one() - upper
    } else {
        upper
    };
    (cdf, density)
}
