//! Elementary functions over slices. They are branch-free, so that the compiler
//! vectorises each loop, and within 3 ulp over the whole range.
//!
//! Every function is written once, for one element of either precision, with
//! the fused multiply-add as a compile-time choice. The processor's vector
//! unit is chosen at run time (feature `fast-kernels`). An element's result
//! depends only on the element, never on its place in the slice.
//!
//! The relative errors stated with the polynomials are those of the exact
//! polynomials. Each was interpolated at Chebyshev nodes in 60 digits (`EXPM1`:
//! by the Remez exchange algorithm, for the smallest error of eʳ) and then
//! rounded coefficient by coefficient.

use std::ops::{Add, Div, Mul, Neg, Sub};

use super::activate::map;
#[cfg(feature = "fast-kernels")]
use super::vectorise;

/// A function of one real variable.
pub(crate) trait Function {
    /// f(x) and f′(x). A result that the caller drops is never computed.
    fn at<const FMA: bool, T: Real>(x: T) -> (T, T);
}

/// values ← f(values), and derivatives ← f′(old values) if given (with the same length), on the
/// widest vector unit available.
pub(crate) fn apply<F: Function, T: Real>(values: &mut [T], derivatives: Option<&mut [T]>) {
    if let Some(derivatives) = &derivatives {
        assert_eq!(values.len(), derivatives.len());
    }
    #[cfg(feature = "fast-kernels")]
    if !matches!(pulp::Arch::new(), pulp::Arch::Scalar) {
        return vectorise(
            #[inline(always)]
            move || pass::<F, T, true>(values, derivatives),
        );
    }
    pass::<F, T, false>(values, derivatives);
}

/// One pass of `F` over a slice. It must be inlined: only code inlined into the dispatcher is
/// compiled for its instruction set.
#[inline(always)]
fn pass<F: Function, T: Real, const FMA: bool>(values: &mut [T], derivatives: Option<&mut [T]>) {
    map(
        values,
        derivatives,
        #[inline(always)]
        |x| F::at::<FMA, T>(x),
    );
}

/// The two precisions: their arithmetic, and the constants that depend on the precision.
pub(crate) trait Real:
    Copy
    + 'static
    + PartialOrd
    + From<f32>
    + Neg<Output = Self>
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
{
    /// 1.5 · 2ᵐ, with m the number of explicit mantissa bits: adding it rounds to an
    /// integer, which is then in the low bits of the sum.
    const ROUND: Self;
    const LOG2_E: Self;
    /// ln 2 in two parts; the first is so short that its product with an exponent is exact.
    const LN_2: [Self; 2];
    /// Beyond ±`REACH`, eˣ times any finite nonzero x is still 0 or ∞.
    const REACH: Self;
    /// The largest exponent of s₀ in an [`Exponential`].
    const SPAN: Self;
    /// Like `REACH`, for e^(−x²/2).
    const NORMAL_REACH: Self;
    /// (eʳ − 1 − r) / r² for |r| ≤ ½ ln 2.
    const EXPM1: &'static [Self];
    /// (2 artanh(√z)/√z − 2) / z for 0 ≤ z ≤ 1/9.
    const LOG1P: &'static [Self];
    /// a · Φ(−a) · e^(a²/2) as a polynomial in (a − 1.75) / (a + 1.75), 0.6 ≤ a ≤ `NORMAL_REACH`.
    const GELU_TAIL: &'static [Self];
    /// The a (in two parts) with 1 + e⁻ᵃ = a, where silu′(−a) = 0.
    const SILU_ROOT: [Self; 2];
    /// (Φ(a) − ½) / a as a polynomial in a², 0 ≤ a ≤ 0.695.
    const GELU_CENTRE: &'static [Self];
    /// The a (in two parts) with gelu′(−a) = 0.
    const GELU_ROOT: [Self; 2];
    /// gelu′(−a) · e^(a²/2) / d as a polynomial in d = a − `GELU_ROOT`, |d| ≤ `GELU_ROOT`, with the
    /// constant term in two parts.
    const GELU_SLOPE: &'static [Self];
    /// 1/√(2π) in two parts; the product of the first with an `upper_half` is exact.
    const NORMAL_PEAK: [Self; 2];

    fn mul_add(self, factor: Self, summand: Self) -> Self;
    fn abs(self) -> Self;
    fn copysign(self, sign: Self) -> Self;
    /// The number with the lower half of its mantissa cleared, so that its square is exact.
    fn upper_half(self) -> Self;
    /// 2ᵏ, given k + `ROUND`.
    fn exp2(rounded: Self) -> Self;
}

macro_rules! real {
    ($real:ident, $bits:ident, $lower:literal, { $($constants:tt)* }) => {
        impl Real for $real {
            $($constants)*

            const ROUND: Self = 1.5 * ((1 as $bits) << ($real::MANTISSA_DIGITS - 1)) as $real;
            const LOG2_E: Self = std::$real::consts::LOG2_E;

            #[inline(always)]
            fn mul_add(self, factor: Self, summand: Self) -> Self {
                self.mul_add(factor, summand)
            }
            #[inline(always)]
            fn abs(self) -> Self {
                self.abs()
            }
            #[inline(always)]
            fn copysign(self, sign: Self) -> Self {
                self.copysign(sign)
            }
            #[inline(always)]
            fn upper_half(self) -> Self {
                $real::from_bits(self.to_bits() & ($bits::MAX << $lower))
            }
            #[inline(always)]
            fn exp2(rounded: Self) -> Self {
                let exponent = rounded.to_bits() << ($real::MANTISSA_DIGITS - 1);
                $real::from_bits(exponent.wrapping_add((1.0 as $real).to_bits()))
            }
        }
    };
}

real!(f32, u32, 12, {
    const LN_2: [f32; 2] = [0.693_145_75, 1.428_606_8e-6];
    const REACH: f32 = 150.0;
    const SPAN: f32 = 100.0;
    const NORMAL_REACH: f32 = 15.0;
    // Error below 2⁻²⁷ for eʳ, 2⁻²⁵ for eʳ − 1.
    const EXPM1: &'static [f32] = &[0.5, 0.16666518, 0.041666206, 0.008368883, 0.0013950481];
    // Relative error below 2⁻³¹.
    const LOG1P: &'static [f32] = &[0.6666667, 0.39999706, 0.28592357, 0.21706575, 0.2322433];
    // Relative error below 2⁻²⁸.
    const GELU_TAIL: &'static [f32] = &[
        0.32415542,
        0.19024126,
        -0.14328389,
        0.0074709347,
        0.022163289,
        0.0036565575,
        -0.0035752947,
        -0.0025087171,
        -0.0004190653,
        0.0007543575,
        0.0005813749,
        -0.00029114576,
    ];
    // Relative error below 2⁻²⁶.
    const GELU_SLOPE: &'static [f32] = &[
        -0.5724062,
        -2.4752342e-09,
        0.08475632,
        -0.03658158,
        0.0143148545,
        -0.0051644533,
        0.0017310011,
        -0.0005490384,
        0.0001830338,
        -5.1985415e-05,
    ];
    // Relative error below 2⁻²⁹.
    const GELU_CENTRE: &'static [f32] = &[
        0.3989423,
        -0.06649034,
        0.009972789,
        -0.0011828445,
        0.000104636296,
    ];
    const SILU_ROOT: [f32; 2] = [1.2784646, -1.297_928_25e-8];
    const GELU_ROOT: [f32; 2] = [0.751_791_54, -1.211_445e-8];
    const NORMAL_PEAK: [f32; 2] = [0.39892578, 1.649915e-5];
});

real!(f64, u64, 27, {
    const LN_2: [f64; 2] = [6.931_471_803_691_238e-1, 1.908_214_929_270_587_7e-10];
    const REACH: f64 = 1000.0;
    const SPAN: f64 = 1000.0;
    const NORMAL_REACH: f64 = 39.0;
    // Error below 2⁻⁵⁶ for eʳ, 2⁻⁵⁴ for eʳ − 1.
    const EXPM1: &'static [f64] = &[
        0.5000000000000012,
        0.166666666666667,
        0.04166666666651553,
        0.008333333333307205,
        0.0013888888946984612,
        0.00019841269917376277,
        2.480148997722217e-05,
        2.755721631012255e-06,
        2.7631267021962713e-07,
        2.5117857724538064e-08,
    ];
    // Relative error below 2⁻⁵⁷.
    const LOG1P: &'static [f64] = &[
        0.6666666666666666,
        0.40000000000014585,
        0.2857142856710876,
        0.22222222717427864,
        0.18181789436132859,
        0.15385570064958623,
        0.13314144209654935,
        0.12001072809590713,
        0.08800738486144674,
        0.1616404561194353,
    ];
    // Relative error below 2⁻⁵⁵.
    const GELU_TAIL: &'static [f64] = &[
        0.32415541318691815,
        0.19024126468493502,
        -0.14328398559525193,
        0.007471124331079141,
        0.02216612405240548,
        0.0036520700359920465,
        -0.0036045898408498026,
        -0.002461236329982881,
        -0.0002969824004935302,
        0.0005286935031188895,
        0.00041943216557030076,
        0.00011528645636527034,
        -5.536381825688961e-05,
        -8.054045549372955e-05,
        -4.316992945984846e-05,
        -6.965553821262879e-06,
        8.826418306212385e-06,
        1.5348138567486003e-05,
        1.0110967271217309e-05,
        -1.1354511309825919e-05,
        -1.0627112035144932e-06,
        1.9715234368513888e-05,
        -1.7214551745315544e-05,
        -1.1881489335431689e-05,
        2.038066948301792e-05,
        -7.987992970264362e-06,
        8.257356520108595e-07,
    ];
    // Relative error below 2⁻⁵⁸.
    const GELU_SLOPE: &'static [f64] = &[
        -0.5724061752276146,
        3.622250085883647e-17,
        0.0847563696385306,
        -0.03658159148937952,
        0.014313659799253071,
        -0.005164140673007835,
        0.0017385504348323096,
        -0.0005510161698115436,
        0.0001655376434583137,
        -4.739626642672022e-05,
        1.2990553986728559e-05,
        -3.420901742420091e-06,
        8.682252713205452e-07,
        -2.1298013055795592e-07,
        5.059026864757857e-08,
        -1.158708173440106e-08,
        2.5985494216251305e-09,
        -6.384896053020153e-10,
        1.351725016877363e-10,
    ];
    // Relative error below 2⁻⁵⁸.
    const GELU_CENTRE: &'static [f64] = &[
        0.3989422804014327,
        -0.06649038006690507,
        0.009973557010015083,
        -0.0011873282150391695,
        0.00011543468290765749,
        -9.44462800447901e-06,
        6.658695520800553e-07,
        -4.1020421253804686e-08,
        2.0414263659381542e-09,
    ];
    const SILU_ROOT: [f64; 2] = [1.2784645427610737, 1.0946994183093437e-16];
    const GELU_ROOT: [f64; 2] = [0.751_791_524_693_564_5, -1.495_675_917_700_988_3e-17];
    const NORMAL_PEAK: [f64; 2] = [0.3989422768354416, 3.5659910885844774e-9];
});

/// a·b + c, fused if that is a single instruction.
#[inline(always)]
fn mul_add<const FMA: bool, T: Real>(a: T, b: T, c: T) -> T {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Σ cᵢ xⁱ, summed in pairs or fours. This shortens the chain of dependent steps of
/// Horner's method, which limits the speed of narrow vectors.
#[inline(always)]
fn polynomial<const FMA: bool, T: Real>(x: T, coefficients: &[T]) -> T {
    let square = x * x;
    let (power, size) = if coefficients.len() <= 6 {
        (square, 2)
    } else {
        (square * square, 4)
    };
    let mut start = (coefficients.len() - 1) / size * size;
    let mut sum = part::<FMA, T>(x, square, coefficients, start, size);
    while start > 0 {
        start -= size;
        let next = part::<FMA, T>(x, square, coefficients, start, size);
        sum = mul_add::<FMA, T>(sum, power, next);
    }
    sum
}

/// Up to `size` (2 or 4) terms of a polynomial, beginning at `start`, divided by x^`start`.
#[inline(always)]
fn part<const FMA: bool, T: Real>(x: T, square: T, c: &[T], start: usize, size: usize) -> T {
    let mut sum = c[start];
    if start + 1 < c.len() {
        sum = mul_add::<FMA, T>(c[start + 1], x, sum);
    }
    if size > 2 && start + 2 < c.len() {
        let mut pair = c[start + 2];
        if start + 3 < c.len() {
            pair = mul_add::<FMA, T>(c[start + 3], x, pair);
        }
        sum = mul_add::<FMA, T>(pair, square, sum);
    }
    sum
}

/// (d − tail) · polynomial(d), with a tail far below the last place of the root from
/// which d is measured. The leading coefficient is also in two parts, since it
/// dominates near the root.
#[inline(always)]
fn through_root<const FMA: bool, T: Real>(d: T, tail: T, coefficients: &[T]) -> T {
    let rest = polynomial::<FMA, T>(d, &coefficients[1..]);
    let small = mul_add::<FMA, T>(d, rest, -tail * coefficients[0]);
    mul_add::<FMA, T>(d, coefficients[0], small)
}

/// The smaller of `x` and `bound`; NaN stays NaN.
#[inline(always)]
fn at_most<T: Real>(x: T, bound: T) -> T {
    if bound < x { bound } else { x }
}

/// The larger of `x` and `bound`; NaN stays NaN.
#[inline(always)]
fn at_least<T: Real>(x: T, bound: T) -> T {
    if bound > x { bound } else { x }
}

#[inline(always)]
fn select<T: Real>(condition: bool, yes: T, no: T) -> T {
    if condition { yes } else { no }
}

/// eʳ − 1 for |r| ≤ ½ ln 2.
#[inline(always)]
fn expm1<const FMA: bool, T: Real>(r: T) -> T {
    mul_add::<FMA, T>(r * r, polynomial::<FMA, T>(r, T::EXPM1), r)
}

/// An exponential as (1 + p) · s₀ · s₁ with |p| < ½ and powers of two s₀, s₁.
/// s₁ is 1 unless s₀ would come near the ends of the range. A product that
/// overflows or underflows therefore does so only once, and compared with 1,
/// s₀ alone determines the exponential. A subnormal product is rounded only once
/// if s₁ is multiplied last.
struct Exponential<T> {
    p: T,
    scale: [T; 2],
}

impl<T: Real> Exponential<T> {
    /// eˣ, for |x| up to `REACH`.
    #[inline(always)]
    fn new<const FMA: bool>(x: T) -> Self {
        Self::scaled::<FMA>(x, (-0.0).into(), |exponent| {
            at_most(at_least(exponent, T::ROUND - T::SPAN), T::ROUND + T::SPAN)
        })
    }

    /// e⁻ᵃ for a ≥ 0.
    #[inline(always)]
    fn decay<const FMA: bool>(a: T) -> Self {
        Self::below_one::<FMA>(at_least(-a, -T::REACH), (-0.0).into())
    }

    /// e^(x + tail), for x ≤ 0 down to −`REACH` and a much smaller tail.
    #[inline(always)]
    fn below_one<const FMA: bool>(x: T, tail: T) -> Self {
        Self::scaled::<FMA>(x, tail, |exponent| at_least(exponent, T::ROUND - T::SPAN))
    }

    /// e^(x + tail), with x + tail = r + k ln 2; `limit` maps k + `ROUND` to the exponent of s₀ +
    /// `ROUND`.
    #[inline(always)]
    fn scaled<const FMA: bool>(x: T, tail: T, limit: impl Fn(T) -> T) -> Self {
        let rounded = mul_add::<FMA, T>(x + tail, T::LOG2_E, T::ROUND);
        let k = rounded - T::ROUND;
        let r = mul_add::<FMA, T>(k, -T::LN_2[0], x);
        let r = mul_add::<FMA, T>(k, -T::LN_2[1], r) + tail;
        let near = limit(rounded);
        let rest = rounded - near + T::ROUND;
        Self {
            p: expm1::<FMA, T>(r),
            scale: [T::exp2(near), T::exp2(rest)],
        }
    }

    #[inline(always)]
    fn value(&self) -> T {
        (T::from(1.0) + self.p) * self.scale[0] * self.scale[1]
    }

    /// factor · (1 + correction) · the exponential, where the correction only
    /// compensates rounding errors.
    #[inline(always)]
    fn times<const FMA: bool>(&self, factor: T, correction: T) -> T {
        corrected::<FMA, T>(factor * self.scale[0], self.p + correction) * self.scale[1]
    }
}

/// x · (1 + correction), rounded only about once if the correction is small.
#[inline(always)]
fn corrected<const FMA: bool, T: Real>(x: T, correction: T) -> T {
    mul_add::<FMA, T>(x, correction, x)
}

/// The logistic function on both sides of 0, 1 / (1 + e) and e / (1 + e), for an
/// exponential e ≤ 1.
struct Logistic<T> {
    /// 1 / (1 + e), rounded in the sum and in the quotient.
    upper: T,
    /// The relative error of these two roundings.
    correction: T,
    /// e / (1 + e) / s₁, rounded about once.
    lower: T,
}

impl<T: Real> Logistic<T> {
    #[inline(always)]
    fn new<const FMA: bool>(e: &Exponential<T>) -> Self {
        let one = T::from(1.0);
        let scale = e.scale[0];
        let upper = one / (one + corrected::<FMA, T>(scale, e.p));
        // 1 − upper · (1 + e), where only the last product is rounded.
        let part = scale * upper;
        let correction = mul_add::<FMA, T>(-part, e.p, (one - upper) - part);
        Self {
            upper,
            correction,
            lower: corrected::<FMA, T>(part, e.p + correction),
        }
    }
}

pub(crate) struct Exp;

impl Function for Exp {
    #[inline(always)]
    fn at<const FMA: bool, T: Real>(x: T) -> (T, T) {
        let x = at_least(at_most(x, T::REACH), -T::REACH);
        let e = Exponential::new::<FMA>(x).value();
        (e, e)
    }
}

pub(crate) struct Tanh;

impl Function for Tanh {
    /// With e = e^(−2|x|): (1 − e) / (1 + e), and 4v (1 − v) for v = e / (1 + e).
    #[inline(always)]
    fn at<const FMA: bool, T: Real>(x: T) -> (T, T) {
        let one = T::from(1.0);
        let e = Exponential::decay::<FMA>(x.abs() + x.abs());
        let logistic = Logistic::new::<FMA>(&e);
        let scale = e.scale[0];
        let difference = mul_add::<FMA, T>(-scale, e.p, one - scale);
        let twice = logistic.lower + logistic.lower;
        (
            corrected::<FMA, T>(difference * logistic.upper, logistic.correction).copysign(x),
            mul_add::<FMA, T>(-twice, twice, twice + twice) * e.scale[1],
        )
    }
}

pub(crate) struct Sigmoid;

impl Function for Sigmoid {
    /// With e = e^(−|x|): 1 / (1 + e) or v = e / (1 + e), and v (1 − v).
    #[inline(always)]
    fn at<const FMA: bool, T: Real>(x: T) -> (T, T) {
        let e = Exponential::decay::<FMA>(x.abs());
        let Logistic { upper, lower, .. } = Logistic::new::<FMA>(&e);
        (
            select(x < 0.0.into(), lower * e.scale[1], upper),
            mul_add::<FMA, T>(-lower, lower, lower) * e.scale[1],
        )
    }
}

pub(crate) struct Softplus;

impl Function for Softplus {
    /// max(x, 0) + ln(1 + e^(−|x|)), with ln(1 + e) = 2 artanh(e / (2 + e)).
    #[inline(always)]
    fn at<const FMA: bool, T: Real>(x: T) -> (T, T) {
        let e = Exponential::decay::<FMA>(x.abs()).value();
        let s = e / (T::from(2.0) + e);
        let z = s * s;
        let rest = z * polynomial::<FMA, T>(z, T::LOG1P);
        // 2s = e − s·e, which is insensitive to the error of the quotient.
        let log1p = mul_add::<FMA, T>(s, rest - e, e);
        (
            select(x > 0.0.into(), x, 0.0.into()) + log1p,
            Sigmoid::at::<FMA, T>(x).0,
        )
    }
}

pub(crate) struct Silu;

impl Function for Silu {
    /// With e = e⁻ᵃ, a = |x|: silu(−a) = −a·e / (1 + e) and
    /// silu′(−a) = 1 − silu′(a) = e / (1 + e)² · (1 + e − a).
    ///
    /// The last factor cancels near its root ρ. There it is computed as
    /// (ρ − a) + (ρ − 1) (e^(ρ−a) − 1).
    #[inline(always)]
    fn at<const FMA: bool, T: Real>(x: T) -> (T, T) {
        let one = T::from(1.0);
        let a = at_most(x.abs(), T::REACH);
        let [root, tail] = T::SILU_ROOT;
        let distance = root - a;
        let near = distance.abs() < 0.34.into();

        let e = Exponential::decay::<FMA>(a);
        let logistic = Logistic::new::<FMA>(&e);
        let upper = logistic.upper;
        let sum = corrected::<FMA, T>(e.scale[0], e.p);

        // 1 / (1 + e)² as a square, and its absolute or relative rounding error.
        let twice = logistic.correction + logistic.correction;
        let (square, lost, correction) = if FMA {
            let square = upper * upper;
            (square, upper.mul_add(upper, -square), twice)
        } else {
            let short = upper.upper_half();
            let inverse = one + sum;
            let lost = (upper - short) * (upper + short) * (inverse * inverse);
            let lost = lost + lost * lost;
            (short * short, 0.0.into(), twice + lost)
        };
        let correction = corrected::<FMA, T>(correction, e.p);

        // The last factor in two parts, the first exact; with the corrections it is rounded once.
        let q = expm1::<FMA, T>(distance + tail);
        let first = select(near, distance, one - a);
        let second = select(near, mul_add::<FMA, T>(q, root - one, tail), sum);
        let whole = first + second;
        let small = mul_add::<FMA, T>(whole, e.p, whole * correction);
        let factor = (first + (second + small)) * e.scale[0];
        let slope = if FMA {
            square.mul_add(factor, lost * factor)
        } else {
            square * factor
        } * e.scale[1];

        let negative = x < 0.0.into();
        (
            select(negative, -a * logistic.lower * e.scale[1], x * upper),
            select(negative, slope, one - slope),
        )
    }
}

pub(crate) struct Gelu;

impl Function for Gelu {
    /// Near 0, x · Φ(x) directly. Elsewhere, with a = |x| and
    /// g = a · Φ(−a) · e^(a²/2): gelu(−a) = gelu(a) − a = −g·e^(−a²/2).
    ///
    /// The derivative is gelu′(−a) = 1 − gelu′(a) = h·e^(−a²/2) with
    /// h = g/a − a/√(2π), which cancels near its root.
    #[inline(always)]
    fn at<const FMA: bool, T: Real>(x: T) -> (T, T) {
        let half = T::from(0.5);
        let middle = T::from(1.75);
        let a = at_most(x.abs(), T::NORMAL_REACH);

        // −a²/2 in two parts, of which the first is exact.
        let upper = a.upper_half();
        let e =
            Exponential::below_one::<FMA>(-half * upper * upper, -half * (a - upper) * (a + upper));
        // The first coefficients dominate, so they are added last.
        let t = (a - middle) / (a + middle);
        let g = polynomial::<FMA, T>(t, &T::GELU_TAIL[2..]);
        let g = mul_add::<FMA, T>(t, g, T::GELU_TAIL[1]);
        let g = mul_add::<FMA, T>(t, g, T::GELU_TAIL[0]);
        let centre = mul_add::<FMA, T>(x, polynomial::<FMA, T>(x * x, T::GELU_CENTRE), half);

        let d = a - T::GELU_ROOT[0];
        let [peak, peak_rest] = T::NORMAL_PEAK;
        let h = select(
            d < T::GELU_ROOT[0],
            through_root::<FMA, T>(d, T::GELU_ROOT[1], T::GELU_SLOPE),
            mul_add::<FMA, T>(-upper, peak, g / a)
                - mul_add::<FMA, T>(a - upper, peak, a * peak_rest),
        );
        let slope = e.times::<FMA>(h, (-0.0).into());

        let negative = x < 0.0.into();
        (
            select(
                a < 0.69.into(),
                x * centre,
                select(negative, (-0.0).into(), x) - e.times::<FMA>(g, (-0.0).into()),
            ),
            select(negative, slope, T::from(1.0) - slope),
        )
    }
}

#[cfg(test)]
#[path = "elementary_tests.rs"]
mod tests;
