//! Activation functions at known values, in `f64` and `f32`, and their limits at the ends of the
//! range; the references are the formulas in 40 digits.

use layerwise::{Activation, Dense, Error, Scalar};

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
#[should_panic(expected = "one derivative a value")]
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
