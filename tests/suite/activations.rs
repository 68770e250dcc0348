//! Activation functions at known values, in `f64` and `f32`, and their limits at the ends of the
//! range; the references are the formulas in 40 digits.

use layerwise::layer::{Activation, Dense};
use layerwise::{Error, Scalar};

/// f(x) and f′(x) of one activation at one x.
type Known = (Activation, f64, f64, f64);

#[rustfmt::skip]
const KNOWN: [Known; 32] = [
    (Activation::Identity, -2.0, -2.0, 1.0),
    (Activation::Identity, 0.5, 0.5, 1.0),
    (Activation::Relu, -2.0, 0.0, 0.0),
    (Activation::Relu, 0.0, 0.0, 0.0),
    (Activation::Relu, 0.5, 0.5, 1.0),
    (Activation::LeakyRelu { slope: 0.25 }, -2.0, -0.5, 0.25),
    (Activation::LeakyRelu { slope: 0.25 }, 0.0, 0.0, 0.25),
    (Activation::LeakyRelu { slope: 0.25 }, 0.5, 0.5, 1.0),
    (Activation::LeakyRelu { slope: 0.0 }, -2.0, 0.0, 0.0),
    (Activation::Tanh, -2.0, -0.964_027_580_075_816_9, 0.070_650_824_853_164_47),
    (Activation::Tanh, 0.0, 0.0, 1.0),
    (Activation::Tanh, 0.5, 0.462_117_157_260_009_74, 0.786_447_732_965_927_4),
    (Activation::Tanh, 1.0, 0.761_594_155_955_764_9, 0.419_974_341_614_026_1),
    (Activation::Tanh, 4.0, 0.999_329_299_739_067, 0.001_340_950_683_025_897),
    (Activation::Sigmoid, -2.0, 0.119_202_922_022_117_56, 0.104_993_585_403_506_52),
    (Activation::Sigmoid, 0.0, 0.5, 0.25),
    (Activation::Sigmoid, 1.0, 0.731_058_578_630_004_9, 0.196_611_933_241_481_85),
    (Activation::Sigmoid, 4.0, 0.982_013_790_037_908_5, 0.017_662_706_213_291_118),
    (Activation::Gelu, -2.0, -0.045_500_263_896_358_42, -0.085_231_801_078_196_9),
    (Activation::Gelu, 0.0, 0.0, 0.5),
    (Activation::Gelu, 0.5, 0.345_731_230_637_006_56, 0.867_495_124_656_162_9),
    (Activation::Gelu, 1.0, 0.841_344_746_068_542_9, 1.083_315_470_587_686_4),
    (Activation::Gelu, 4.0, 3.999_873_315_032_667_5, 1.000_503_649_661_226_5),
    (Activation::Silu, -2.0, -0.238_405_844_044_235_12, -0.090_784_248_784_895_5),
    (Activation::Silu, 0.0, 0.0, 0.5),
    (Activation::Silu, 0.5, 0.311_229_665_600_927_3, 0.739_961_187_302_651_8),
    (Activation::Silu, 1.0, 0.731_058_578_630_004_9, 0.927_670_511_871_486_7),
    (Activation::Silu, 4.0, 3.928_055_160_151_634, 1.052_664_614_891_073),
    (Activation::Softplus, -2.0, 0.126_928_011_042_972_5, 0.119_202_922_022_117_56),
    (Activation::Softplus, 0.0, std::f64::consts::LN_2, 0.5),
    (Activation::Softplus, 1.0, 1.313_261_687_518_222_8, 0.731_058_578_630_004_9),
    (Activation::Softplus, 4.0, 4.018_149_927_917_809_4, 0.982_013_790_037_908_5),
];

/// (f(x), f′(x)); the value must have the same bits when no derivative is asked for.
fn evaluate<T: Scalar>(activation: Activation, x: f64) -> (f64, f64) {
    let (mut value, mut derivative) = ([T::of(x)], [T::zero()]);
    activation.evaluate(&mut value, Some(&mut derivative));
    let mut alone = [T::of(x)];
    activation.evaluate(&mut alone, None);
    let ([value], [derivative], [alone]) = (value, derivative, alone);
    assert_eq!(alone.as_f64().to_bits(), value.as_f64().to_bits());
    (value.as_f64(), derivative.as_f64())
}

/// Three units in the last place, as the type's table promises.
fn are_known<T: Scalar>() {
    let near = |found: f64, expected: f64| {
        (found - expected).abs() <= 3.0 * T::default_epsilon().as_f64() * expected.abs()
    };
    for (activation, x, value, derivative) in KNOWN {
        let found = evaluate::<T>(activation, x);
        assert!(
            near(found.0, value) && near(found.1, derivative),
            "{activation:?} at {x}: {found:?}, not {:?}",
            (value, derivative)
        );
    }
}

#[test]
fn values_and_derivatives_in_f64() {
    are_known::<f64>();
}

#[test]
fn values_and_derivatives_in_f32() {
    are_known::<f32>();
}

/// At ±1000, where e^x overflows, every function is its limit.
fn are_saturated<T: Scalar>() {
    for (activation, below, above) in [
        (Activation::Tanh, (-1.0, 0.0), (1.0, 0.0)),
        (Activation::Sigmoid, (0.0, 0.0), (1.0, 0.0)),
        (Activation::Relu, (0.0, 0.0), (1000.0, 1.0)),
        (
            Activation::LeakyRelu { slope: 0.5 },
            (-500.0, 0.5),
            (1000.0, 1.0),
        ),
        (Activation::Gelu, (0.0, 0.0), (1000.0, 1.0)),
        (Activation::Silu, (0.0, 0.0), (1000.0, 1.0)),
        (Activation::Softplus, (0.0, 0.0), (1000.0, 1.0)),
    ] {
        assert_eq!(evaluate::<T>(activation, -1000.0), below, "{activation:?}");
        assert_eq!(evaluate::<T>(activation, 1000.0), above, "{activation:?}");
    }
}

#[test]
fn saturation_in_f64() {
    are_saturated::<f64>();
}

#[test]
fn saturation_in_f32() {
    are_saturated::<f32>();
}

/// A diverged run must be seen: no activation turns NaN into a number.
#[test]
fn nan_stays_nan() {
    for (activation, ..) in KNOWN {
        assert!(
            evaluate::<f64>(activation, f64::NAN).0.is_nan(),
            "{activation:?}"
        );
        assert!(
            evaluate::<f32>(activation, f64::NAN).0.is_nan(),
            "{activation:?}"
        );
    }
}

#[test]
#[should_panic(expected = "one derivative per value")]
fn derivatives_of_another_length_panic() {
    Activation::Tanh.evaluate(&mut [0.0; 3], Some(&mut [0.0; 2]));
}

#[test]
fn slopes_out_of_range_are_errors() {
    for slope in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        let result = Dense::new(1, 1, Activation::LeakyRelu { slope });
        assert!(
            matches!(&result, Err(Error::InvalidOption { option, .. }) if *option == "LeakyRelu::slope"),
            "{slope}: {result:?}"
        );
    }
}

/// The activations with a preimage, and the ends of their ranges, open or not.
const MONOTONE: [(Activation, f64, f64, bool); 8] = [
    (
        Activation::Identity,
        f64::NEG_INFINITY,
        f64::INFINITY,
        false,
    ),
    (Activation::Tanh, -1.0, 1.0, true),
    (Activation::Sigmoid, 0.0, 1.0, true),
    (Activation::Relu, 0.0, f64::INFINITY, false),
    (
        Activation::LeakyRelu { slope: 0.1 },
        f64::NEG_INFINITY,
        f64::INFINITY,
        false,
    ),
    (
        Activation::LeakyRelu { slope: 1.0 },
        f64::NEG_INFINITY,
        f64::INFINITY,
        false,
    ),
    (
        Activation::LeakyRelu { slope: 0.0 },
        0.0,
        f64::INFINITY,
        false,
    ),
    (Activation::Softplus, 0.0, f64::INFINITY, true),
];

/// The largest error of f(preimage(y)) against y moved into the range, in units of ε times the larger
/// of |y| and f′ |x|, over a grid that holds both ends, the values beside them and ±0.
fn round_trip<T: Scalar>(preimage: impl Fn(Activation, T, T, T) -> T) -> f64 {
    let epsilon = T::default_epsilon().as_f64();
    let mut worst = 0.0_f64;
    for (activation, low, high, open) in MONOTONE {
        for margin in [1e-6, 0.01, 0.3] {
            let room = if open { margin } else { 0.0 };
            let grid = (-300..=300).map(|k| f64::from(k) / 100.0);
            let small = [1e-3, 1e-8, 1e-20, 1e-30].into_iter().flat_map(|s| [s, -s]);
            let ends = [
                low,
                high,
                low + room,
                high - room,
                -0.0,
                1e6,
                -1e6,
                1.0 - 1e-5,
            ];
            for y in grid.chain(small).chain(ends).filter(|y| y.is_finite()) {
                let y = T::of(y).as_f64();
                let clipped = y.clamp(low + room, high - room);
                let x = preimage(activation, T::of(y), T::of(-0.5), T::of(margin)).as_f64();
                let (found, slope) = evaluate::<T>(activation, x);
                let unit = epsilon * clipped.abs().max(slope * x.abs()).max(f64::MIN_POSITIVE);
                let error = (found - clipped).abs() / unit;
                worst = worst.max(if error.is_nan() { f64::INFINITY } else { error });
            }
        }
    }
    worst
}

fn own_preimage<T: Scalar>(activation: Activation, y: T, present: T, margin: T) -> T {
    activation.preimage(y, present, margin).unwrap()
}

#[test]
fn a_preimage_gives_its_value() {
    let worst = [
        round_trip(own_preimage::<f64>),
        round_trip(own_preimage::<f32>),
    ];
    assert!(worst.iter().all(|&error| error < 8.0), "{worst:?}");
}

/// What the test above must not let pass.
#[test]
fn a_wrong_preimage_is_seen() {
    type Preimage = fn(Activation, f64, f64, f64) -> f64;
    let faults: [(&str, Preimage); 4] = [
        (
            "not clipped",
            |activation, y, present, margin| match activation {
                Activation::Tanh => y.atanh(),
                _ => own_preimage(activation, y, present, margin),
            },
        ),
        (
            "logit by cancellation",
            |activation, y, present, margin| match activation {
                Activation::Sigmoid => -(y.clamp(margin, 1.0 - margin).recip() - 1.0 + 1e-12).ln(),
                _ => own_preimage(activation, y, present, margin),
            },
        ),
        (
            "half the slope",
            |activation, y, present, margin| match activation {
                Activation::LeakyRelu { slope } if y < 0.0 && slope > 0.0 => 2.0 * y / slope,
                _ => own_preimage(activation, y, present, margin),
            },
        ),
        (
            "ln(eʸ − 1) as it stands",
            |activation, y, present, margin| match activation {
                Activation::Softplus => (y.max(margin).exp() - 1.0).ln(),
                _ => own_preimage(activation, y, present, margin),
            },
        ),
    ];
    for (fault, preimage) in faults {
        let worst = round_trip(preimage);
        assert!(worst > 80.0, "{fault}: {worst}");
    }
}

#[test]
fn preimages_at_special_values() {
    let at = |activation: Activation, y: f64, present| activation.preimage(y, present, 0.01);
    for (relu, name) in [
        (Activation::Relu, "ReLU"),
        (Activation::LeakyRelu { slope: 0.0 }, "slope 0"),
    ] {
        // Below the kink the present pre-activation stays, if it gives 0.
        assert_eq!(at(relu, 0.0, -2.0), Some(-2.0), "{name}");
        assert_eq!(at(relu, -5.0, -2.0), Some(-2.0), "{name}");
        assert_eq!(at(relu, -0.0, 3.0), Some(0.0), "{name}");
        assert_eq!(at(relu, 4.0, -2.0), Some(4.0), "{name}");
    }
    assert_eq!(at(Activation::Sigmoid, 0.5, 0.0), Some(0.0));
    for zero in [0.0_f64, -0.0] {
        let found = at(Activation::Tanh, zero, 0.0).unwrap();
        assert_eq!(found.to_bits(), zero.to_bits());
    }
    assert_eq!(at(Activation::Gelu, 0.5, 0.0), None);
    assert_eq!(at(Activation::Silu, 0.5, 0.0), None);
    for (activation, ..) in MONOTONE {
        assert!(
            at(activation, f64::NAN, 0.0).unwrap().is_nan(),
            "{activation:?}"
        );
        let in_f32 = activation.preimage(f32::NAN, 0.0, 0.01).unwrap();
        assert!(in_f32.is_nan(), "{activation:?}");
    }
}

#[test]
fn preimages_of_ends_are_finite_for_any_margin() {
    // 1 − margin rounds to 1 for the smallest ones.
    for margin in [1e-6, 1e-8, 1e-12_f32] {
        let found = Activation::Tanh.preimage(-1.0, 0.0, margin).unwrap();
        let expected = -0.5 * (2.0 / f64::from(margin) - 1.0).ln();
        assert!(
            (f64::from(found) - expected).abs() < 1e-5,
            "{margin}: {found}"
        );
    }
    let found = Activation::Tanh.preimage(1.0, 0.0, 1e-20_f64).unwrap();
    assert!((found - 0.5 * 2e20_f64.ln()).abs() < 1e-13, "{found}");
}
