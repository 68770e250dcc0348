//! A number type of one's own: `f64` with every multiplication counted.

use std::cell::Cell;
use std::fmt;
use std::ops::{
    Add, AddAssign, Div, DivAssign, Mul, MulAssign, Neg, Rem, RemAssign, Sub, SubAssign,
};

use approx::{AbsDiffEq, RelativeEq, UlpsEq};
use layerwise::Scalar;
use layerwise::nalgebra::{ComplexField, Field, RealField, SimdValue};
use num_traits::{FromPrimitive, Num, One, Signed, Zero};
use simba::scalar::SubsetOf;

thread_local! {
    static PRODUCTS: Cell<u64> = const { Cell::new(0) };
}

/// A number whose multiplications are counted, and nothing else of what it does.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Counted(pub f64);

impl Scalar for Counted {}

/// Multiplications that `work` makes on this thread.
pub fn products<R>(work: impl FnOnce() -> R) -> (u64, R) {
    let before = PRODUCTS.get();
    let result = work();
    (PRODUCTS.get() - before, result)
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Mul for Counted {
    type Output = Self;

    fn mul(self, other: Self) -> Self {
        PRODUCTS.set(PRODUCTS.get() + 1);
        Self(self.0 * other.0)
    }
}

impl MulAssign for Counted {
    fn mul_assign(&mut self, other: Self) {
        *self = *self * other;
    }
}

impl Neg for Counted {
    type Output = Self;

    fn neg(self) -> Self {
        Self(-self.0)
    }
}

macro_rules! operators {
    ($($trait:ident $method:ident, $assign:ident $assign_method:ident;)*) => {$(
        impl $trait for Counted {
            type Output = Self;

            fn $method(self, other: Self) -> Self {
                Self(self.0.$method(other.0))
            }
        }

        impl $assign for Counted {
            fn $assign_method(&mut self, other: Self) {
                self.0.$assign_method(other.0);
            }
        }
    )*};
}

operators! {
    Add add, AddAssign add_assign;
    Sub sub, SubAssign sub_assign;
    Div div, DivAssign div_assign;
    Rem rem, RemAssign rem_assign;
}

impl Zero for Counted {
    fn zero() -> Self {
        Self(0.0)
    }

    fn is_zero(&self) -> bool {
        self.0 == 0.0
    }
}

impl One for Counted {
    fn one() -> Self {
        Self(1.0)
    }
}

impl Num for Counted {
    type FromStrRadixErr = <f64 as Num>::FromStrRadixErr;

    fn from_str_radix(text: &str, radix: u32) -> Result<Self, Self::FromStrRadixErr> {
        f64::from_str_radix(text, radix).map(Self)
    }
}

impl Signed for Counted {
    fn abs(&self) -> Self {
        Self(self.0.abs())
    }

    fn abs_sub(&self, other: &Self) -> Self {
        Self((self.0 - other.0).max(0.0))
    }

    fn signum(&self) -> Self {
        Self(self.0.signum())
    }

    fn is_positive(&self) -> bool {
        self.0 > 0.0
    }

    fn is_negative(&self) -> bool {
        self.0 < 0.0
    }
}

impl FromPrimitive for Counted {
    fn from_i64(n: i64) -> Option<Self> {
        Some(Self(n as f64))
    }

    fn from_u64(n: u64) -> Option<Self> {
        Some(Self(n as f64))
    }

    fn from_f64(n: f64) -> Option<Self> {
        Some(Self(n))
    }
}

impl AbsDiffEq for Counted {
    type Epsilon = Self;

    fn default_epsilon() -> Self {
        Self(f64::EPSILON)
    }

    fn abs_diff_eq(&self, other: &Self, epsilon: Self) -> bool {
        self.0.abs_diff_eq(&other.0, epsilon.0)
    }
}

impl RelativeEq for Counted {
    fn default_max_relative() -> Self {
        Self(f64::EPSILON)
    }

    fn relative_eq(&self, other: &Self, epsilon: Self, max_relative: Self) -> bool {
        self.0.relative_eq(&other.0, epsilon.0, max_relative.0)
    }
}

impl UlpsEq for Counted {
    fn default_max_ulps() -> u32 {
        f64::default_max_ulps()
    }

    fn ulps_eq(&self, other: &Self, epsilon: Self, max_ulps: u32) -> bool {
        self.0.ulps_eq(&other.0, epsilon.0, max_ulps)
    }
}

macro_rules! subsets {
    ($($own:ty: $up:expr, $down:expr;)*) => {$(
        impl SubsetOf<Counted> for $own {
            fn to_superset(&self) -> Counted {
                $up(*self)
            }

            fn from_superset_unchecked(element: &Counted) -> Self {
                $down(*element)
            }

            fn is_in_subset(_: &Counted) -> bool {
                true
            }
        }
    )*};
}

subsets! {
    Counted: |own| own, |all: Counted| all;
    f64: Counted, |all: Counted| all.0;
    f32: |own| Counted(f64::from(own)), |all: Counted| all.0 as f32;
}

impl SimdValue for Counted {
    const LANES: usize = 1;
    type Element = Self;
    type SimdBool = bool;

    fn splat(value: Self) -> Self {
        value
    }

    fn extract(&self, _: usize) -> Self {
        *self
    }

    unsafe fn extract_unchecked(&self, _: usize) -> Self {
        *self
    }

    fn replace(&mut self, _: usize, value: Self) {
        *self = value;
    }

    unsafe fn replace_unchecked(&mut self, _: usize, value: Self) {
        *self = value;
    }

    fn select(self, condition: bool, other: Self) -> Self {
        if condition { self } else { other }
    }
}

impl Field for Counted {}

macro_rules! functions {
    ($($name:ident)*) => {$(
        fn $name(self) -> Self {
            Self(self.0.$name())
        }
    )*};
}

macro_rules! functions_of_two {
    ($($name:ident)*) => {$(
        fn $name(self, other: Self) -> Self {
            Self(self.0.$name(other.0))
        }
    )*};
}

impl ComplexField for Counted {
    type RealField = Self;

    functions! {
        abs floor ceil round trunc fract recip sin cos tan asin acos atan sinh cosh tanh asinh acosh
        atanh log2 log10 ln ln_1p sqrt exp exp2 exp_m1 cbrt
    }

    functions_of_two! { hypot log powf }

    fn from_real(re: Self) -> Self {
        re
    }

    fn real(self) -> Self {
        self
    }

    fn imaginary(self) -> Self {
        Self(0.0)
    }

    fn modulus(self) -> Self {
        Self(self.0.abs())
    }

    fn modulus_squared(self) -> Self {
        self * self
    }

    fn argument(self) -> Self {
        Self(if self.0 >= 0.0 {
            0.0
        } else {
            std::f64::consts::PI
        })
    }

    fn norm1(self) -> Self {
        Self(self.0.abs())
    }

    fn scale(self, factor: Self) -> Self {
        self * factor
    }

    fn unscale(self, factor: Self) -> Self {
        self / factor
    }

    fn mul_add(self, a: Self, b: Self) -> Self {
        self * a + b
    }

    fn conjugate(self) -> Self {
        self
    }

    fn sin_cos(self) -> (Self, Self) {
        (Self(self.0.sin()), Self(self.0.cos()))
    }

    fn powi(self, n: i32) -> Self {
        Self(self.0.powi(n))
    }

    fn powc(self, n: Self) -> Self {
        Self(self.0.powf(n.0))
    }

    fn is_finite(&self) -> bool {
        self.0.is_finite()
    }

    fn try_sqrt(self) -> Option<Self> {
        (self.0 >= 0.0).then(|| Self(self.0.sqrt()))
    }
}

macro_rules! constants {
    ($($name:ident $value:ident)*) => {$(
        fn $name() -> Self {
            Self(std::f64::consts::$value)
        }
    )*};
}

impl RealField for Counted {
    functions_of_two! { copysign max min atan2 }

    constants! {
        pi PI two_pi TAU frac_pi_2 FRAC_PI_2 frac_pi_3 FRAC_PI_3 frac_pi_4 FRAC_PI_4
        frac_pi_6 FRAC_PI_6 frac_pi_8 FRAC_PI_8 frac_1_pi FRAC_1_PI frac_2_pi FRAC_2_PI
        frac_2_sqrt_pi FRAC_2_SQRT_PI e E log2_e LOG2_E log10_e LOG10_E ln_2 LN_2 ln_10 LN_10
    }

    fn is_sign_positive(&self) -> bool {
        self.0.is_sign_positive()
    }

    fn is_sign_negative(&self) -> bool {
        self.0.is_sign_negative()
    }

    fn clamp(self, low: Self, high: Self) -> Self {
        Self(self.0.max(low.0).min(high.0))
    }

    fn min_value() -> Option<Self> {
        Some(Self(f64::MIN))
    }

    fn max_value() -> Option<Self> {
        Some(Self(f64::MAX))
    }
}
