use super::*;

/// f and f′ at every x, computed on the vector unit if the flag is set, otherwise by the plain
/// loop.
type Evaluate<T> = fn(&[T], bool) -> (Vec<T>, Vec<T>);

fn evaluate<F: Function, T: Real>(x: &[T], vector: bool) -> (Vec<T>, Vec<T>) {
    let (mut values, mut derivatives) = (x.to_vec(), x.to_vec());
    if vector {
        apply::<F, T>(&mut values, Some(&mut derivatives));
    } else {
        pass::<F, T, false>(&mut values, Some(&mut derivatives));
    }
    (values, derivatives)
}

fn functions<T: Real>() -> [(&'static str, Evaluate<T>); 6] {
    [
        ("exp", evaluate::<Exp, T>),
        ("tanh", evaluate::<Tanh, T>),
        ("sigmoid", evaluate::<Sigmoid, T>),
        ("softplus", evaluate::<Softplus, T>),
        ("silu", evaluate::<Silu, T>),
        ("gelu", evaluate::<Gelu, T>),
    ]
}

/// The place value of the last of `digits` binary digits of x.
fn ulp(x: f64, digits: i32, least_exponent: i32) -> f64 {
    let exponent = (x.to_bits() >> 52 & 0x7ff) as i32 - 1023;
    f64::from(exponent.max(least_exponent) - digits + 1).exp2()
}

/// The error of `found` in ulp; the exact value is higher by `high` + `low` ulp.
fn error_f64(found: f64, high: f64, low: f64) -> f64 {
    if found == high {
        return low.abs();
    }
    ((found - high) / ulp(high, 53, -1022) - low).abs()
}

/// The error against an exact value that f64 holds accurately enough. Above the largest f32,
/// infinity stands for the next power of two.
fn error_f32(found: f32, truth: f64) -> f64 {
    let edge = 2f64.powi(128);
    let found = f64::from(found).clamp(-edge, edge);
    (found - truth.clamp(-edge, edge)).abs() / ulp(truth.clamp(-edge / 2.0, edge / 2.0), 24, -126)
}

/// Checks that no result is off by more than 3 ulp on either path. `error(i, found)` gives the
/// errors in f and f′ at the i-th x.
fn check<T: Copy + Into<f64>>(
    real: &str,
    (name, evaluate): (&str, Evaluate<T>),
    x: &[T],
    error: impl Fn(usize, [T; 2]) -> [f64; 2],
) {
    for (path, vector) in [("plain", false), ("vector", true)] {
        let (values, derivatives) = evaluate(x, vector);
        for (k, what) in ["value", "derivative"].into_iter().enumerate() {
            let (mut worst, mut place) = (0.0, f64::NAN);
            for (i, &x) in x.iter().enumerate() {
                let error = error(i, [values[i], derivatives[i]])[k];
                // NaN must count as an error, too.
                if error > worst || error.is_nan() {
                    (worst, place) = (error, x.into());
                }
            }
            let found = format!("{real} {what:10} {name:8} {path:6} {worst:5.2} ulp at {place:e}");
            println!("{found}");
            assert!(worst <= 3.0, "{found}");
        }
    }
}

fn random(state: &mut u64) -> u64 {
    // splitmix64
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Every magnitude; then evenly where the functions bend; then around the zeros of the derivatives;
/// then where a pass over every `f32` from 10⁻³ to 128 showed the largest errors.
fn arguments(patterns: usize) -> Vec<f32> {
    let mut state = 7;
    let mut x: Vec<f32> = (0..patterns)
        .map(|_| f32::from_bits(random(&mut state) as u32))
        .collect();
    for (centre, width) in [
        (0.0, 120.0),
        (0.0, 15.0),
        (0.0, 2.0),
        (-1.278_464_5, 0.01),
        (-0.751_791_5, 0.01),
        (-3.77, 0.1),
        (-6.57, 0.05),
        (-3.62, 0.02),
        (-1.65, 0.1),
        (-0.7, 0.05),
    ] {
        x.extend((0..patterns / 10).map(|_| {
            let unit = (random(&mut state) >> 11) as f64 / 2f64.powi(52) - 1.0;
            (centre + width * unit) as f32
        }));
    }
    x
}

#[test]
fn f64_agrees_with_the_reference() {
    let table: Vec<(&str, [f64; 5])> = include_str!("../../tests/data/elementary.csv")
        .lines()
        .skip(1)
        .map(|line| {
            let (name, fields) = line.split_once(',').unwrap();
            let mut fields = fields
                .split(',')
                .map(|field| f64::from_bits(u64::from_str_radix(field, 16).unwrap()));
            (name, std::array::from_fn(|_| fields.next().unwrap()))
        })
        .collect();
    for function in functions::<f64>() {
        let rows = table.iter().filter(|row| row.0 == function.0);
        let rows: Vec<[f64; 5]> = rows.map(|row| row.1).collect();
        assert!(rows.len() > 300);
        let x: Vec<f64> = rows.iter().map(|row| row[0]).collect();
        check("f64", function, &x, |i, [value, derivative]| {
            let [_, high, low, slope_high, slope_low] = rows[i];
            [
                error_f64(value, high, low),
                error_f64(derivative, slope_high, slope_low),
            ]
        });
    }
}

#[test]
fn f32_agrees_with_f64() {
    let mut x = arguments(1_000_000);
    x.retain(|x| !x.is_nan());
    let wide: Vec<f64> = x.iter().map(|&x| x.into()).collect();
    for (function, (_, reference)) in functions::<f32>().into_iter().zip(functions::<f64>()) {
        let (values, derivatives) = reference(&wide, true);
        check("f32", function, &x, |i, [value, derivative]| {
            [
                error_f32(value, values[i]),
                error_f32(derivative, derivatives[i]),
            ]
        });
    }
}

/// Checks f and f′ at −∞, −0, +0 and +∞, including the signs of zeros, and at NaN.
macro_rules! special_values {
    ($real:ident) => {
        let infinity = $real::INFINITY;
        let ln_2 = (2.0 as $real).ln();
        let expected = [
            // In the order of `functions`.
            [[0.0, 0.0], [1.0, 1.0], [1.0, 1.0], [infinity, infinity]],
            [[-1.0, 0.0], [-0.0, 1.0], [0.0, 1.0], [1.0, 0.0]],
            [[0.0, 0.0], [0.5, 0.25], [0.5, 0.25], [1.0, 0.0]],
            [[0.0, 0.0], [ln_2, 0.5], [ln_2, 0.5], [infinity, 1.0]],
            [[-0.0, -0.0], [-0.0, 0.5], [0.0, 0.5], [infinity, 1.0]],
            [[-0.0, -0.0], [-0.0, 0.5], [0.0, 0.5], [infinity, 1.0]],
        ];
        for ((name, evaluate), expected) in functions::<$real>().into_iter().zip(expected) {
            for vector in [false, true] {
                let (values, derivatives) = evaluate(&[-infinity, -0.0, 0.0, infinity], vector);
                for (i, [value, derivative]) in expected.into_iter().enumerate() {
                    // Only ln 2 may be off, by one unit in the last place.
                    let off = values[i].to_bits().abs_diff(value.to_bits());
                    assert!(off <= u8::from(value == ln_2).into(), "{name} {i}");
                    assert_eq!(
                        derivatives[i].to_bits(),
                        derivative.to_bits(),
                        "{name}' {i}"
                    );
                }
                for payload in [0, 1, 5] {
                    for nan in [$real::NAN, -$real::NAN] {
                        let nan = $real::from_bits(nan.to_bits() | payload);
                        let (values, derivatives) = evaluate(&[nan; 40], vector);
                        let mut results = values.iter().chain(&derivatives);
                        assert!(results.all(|y| y.is_nan()), "{name}");
                    }
                }
            }
        }
    };
}

#[test]
fn limits_zeros_and_nan() {
    special_values!(f32);
    special_values!(f64);
}

/// Each result depends only on its own element, not on the elements around it.
macro_rules! position_independence {
    ($real:ident) => {
        let x: Vec<$real> = (0..140).map(|i| (i as $real - 70.0) * 0.171).collect();
        for (name, evaluate) in functions::<$real>() {
            for vector in [false, true] {
                let alone: Vec<_> = x.iter().map(|&x| evaluate(&[x], vector)).collect();
                for length in 0..70 {
                    for offset in 0..70 {
                        let (values, derivatives) = evaluate(&x[offset..offset + length], vector);
                        for i in 0..length {
                            let (value, derivative) = &alone[offset + i];
                            assert_eq!(values[i].to_bits(), value[0].to_bits(), "{name}");
                            assert_eq!(derivatives[i].to_bits(), derivative[0].to_bits(), "{name}");
                        }
                    }
                }
            }
        }
    };
}

#[test]
fn results_do_not_depend_on_the_position() {
    position_independence!(f32);
    position_independence!(f64);
}

/// The values are the same with and without derivatives.
#[test]
fn values_do_not_depend_on_the_derivatives() {
    fn check<T: Real + std::fmt::Debug>() {
        let x: Vec<T> = (0..333).map(|i| (i as f32 * 0.1 - 16.0).into()).collect();
        let functions = [
            apply::<Tanh, T>,
            apply::<Sigmoid, T>,
            apply::<Softplus, T>,
            apply::<Silu, T>,
            apply::<Gelu, T>,
        ];
        for function in functions {
            let (mut alone, mut with, mut derivatives) = (x.clone(), x.clone(), x.clone());
            function(&mut alone, None);
            function(&mut with, Some(&mut derivatives));
            assert_eq!(alone, with);
        }
    }
    check::<f32>();
    check::<f64>();
}

#[test]
fn finite_arguments_give_numbers() {
    fn check<T: Real>(x: &[T]) {
        for (name, evaluate) in functions::<T>() {
            for vector in [false, true] {
                let (values, derivatives) = evaluate(x, vector);
                let mut results = values.iter().chain(&derivatives);
                // Only NaN is unordered.
                assert!(results.all(|y| y.partial_cmp(y).is_some()), "{name}");
            }
        }
    }
    let mut state = 11;
    let mut wide: Vec<f64> = (0..100_000)
        .map(|_| f64::from_bits(random(&mut state)))
        .chain([f64::MAX, f64::MIN, f64::MIN_POSITIVE, f64::from_bits(1)])
        .collect();
    wide.retain(|x| x.is_finite());
    check(&wide);
    let mut narrow = arguments(100_000);
    narrow.extend([f32::MAX, f32::MIN, f32::MIN_POSITIVE, f32::from_bits(1)]);
    narrow.retain(|x| x.is_finite());
    check(&narrow);
}
