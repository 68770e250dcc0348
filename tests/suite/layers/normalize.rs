//! Layer and root-mean-square normalisation.

use layerwise::layer::{LayerNorm, RmsNorm};
use layerwise::{Error, Layer, Scalar};

use super::checked::{Call, holds};
use crate::property::{Tested, generator, uniform};

in_both_scalars!(
    passes_every_check,
    any_scale,
    any_offset,
    constant_columns,
    an_empty_batch
);

fn passes_every_check<T: Tested>() {
    for shape in [&[5][..], &[4, 3], &[3, 2, 2], &[1, 2]] {
        let shape = layerwise::layer::Shape::of(shape).unwrap();
        // With ε near the variance, f32 resolves the differences.
        let layer = LayerNorm::new(shape).unwrap().with_epsilon(0.1).unwrap();
        let rms = RmsNorm::new(shape).unwrap().with_epsilon(0.1).unwrap();
        holds::<T>(layer.clone());
        holds::<T>(layer.clone().without_bias());
        holds::<T>(layer.without_gain().without_bias());
        holds::<T>(rms.clone());
        holds::<T>(rms.without_gain());
    }
}

/// The derivatives in its parameters are 0.
fn an_empty_batch<T: Scalar>() {
    let layer = LayerNorm::new([3, 2]).unwrap();
    let parameters = uniform::<T>(&mut generator(1), 6, 1.0);
    let call = Call::new(&layer, &parameters, &[]);
    let (d_input, d_parameters) = call.vjp(&[]);
    assert!(d_input.is_empty() && d_parameters.iter().all(|d| d.is_zero()));
}

/// (z − m)/σ in f64, with ε in the unit of z.
fn expected(z: &[f64], centred: bool, epsilon: f64) -> Vec<f64> {
    let d = z.len() as f64;
    let mean = if centred {
        z.iter().sum::<f64>() / d
    } else {
        0.0
    };
    let square = z.iter().map(|z| (z - mean).powi(2)).sum::<f64>() / d;
    let deviation = (square + epsilon).sqrt();
    z.iter().map(|z| (z - mean) / deviation).collect()
}

#[track_caller]
fn close<T: Tested>(found: &[T], expected: &[f64]) {
    for (found, expected) in found.iter().zip(expected) {
        let error = (found.as_f64() - expected).abs();
        assert!(
            error <= 2.0 * T::ROUNDING * expected.abs().max(1e-3),
            "{found}, not {expected}"
        );
    }
}

fn outputs<T: Scalar>(layer: &dyn Layer<T>, z: &[T]) -> Vec<T> {
    Call::new(layer, &[], z).output
}

/// A power of two changes nothing but the weight of ε, down to numbers whose squares underflow and up
/// to those whose squares overflow.
fn any_scale<T: Tested>() {
    let z = uniform::<T>(&mut generator(1), 7, 1.0);
    let exact: Vec<f64> = z.iter().map(|z| z.as_f64()).collect();
    let layer = LayerNorm::new(7).unwrap().without_gain().without_bias();
    let rms = RmsNorm::new(7).unwrap().without_gain();
    for power in [-66, -33, -10, 0, 10, 33, 66, 120] {
        let unit = 2f64.powi(power);
        let scaled: Vec<T> = z.iter().map(|&z| z * T::of(unit)).collect();
        // In this unit, so that the reference never overflows.
        let epsilon = 1e-5 / unit / unit;
        close(&outputs(&layer, &scaled), &expected(&exact, true, epsilon));
        close(&outputs(&rms, &scaled), &expected(&exact, false, epsilon));
    }
    let largest = T::max_value().unwrap();
    let signs = [largest, -largest, largest, -largest];
    let layer = LayerNorm::new(4).unwrap().without_gain().without_bias();
    close(&outputs(&layer, &signs), &[1.0, -1.0, 1.0, -1.0]);
}

/// Columns far from 0 keep their own variance, to the last digits: their values are exact, and so is
/// what remains after the mean is subtracted.
fn any_offset<T: Tested>() {
    let z = [3.0, -1.0, 4.0, 1.0, -5.0, 9.0, 2.0];
    let layer = LayerNorm::new(7).unwrap().without_gain().without_bias();
    let largest = if T::default_epsilon().as_f64() < 1e-10 {
        45
    } else {
        18
    };
    for power in 0..largest {
        let offset = 2f64.powi(power);
        for sign in [1.0, -1.0] {
            let moved: Vec<T> = z.iter().map(|z| T::of(z + sign * offset)).collect();
            close(&outputs(&layer, &moved), &expected(&z, true, 1e-5));
        }
    }
}

/// Without any spread, exactly the bias is left; products are finite.
fn constant_columns<T: Tested>() {
    let layer = LayerNorm::new(7).unwrap();
    let gain_and_bias = uniform::<T>(&mut generator(2), 14, 1.0);
    for value in [0.0, 0.1, -3.3, 1e-30, 1e10, -7e25, 1e38] {
        let z = [T::of(value); 7];
        let call = Call::new(&layer, &gain_and_bias, &z);
        assert_eq!(call.output, gain_and_bias[7..], "{value}");
        let (d_input, d_parameters) = call.vjp(&gain_and_bias[..7]);
        assert!(d_input.iter().chain(&d_parameters).all(|d| d.is_finite()));
    }
    let rms = RmsNorm::new(7).unwrap();
    assert_eq!(
        Call::new(&rms, &gain_and_bias[..7], &[T::zero(); 7]).output,
        [T::zero(); 7]
    );
}

/// The largest gain over √ε: attained where a column is constant.
#[test]
fn the_bound_is_attained() {
    let layer = LayerNorm::new([3, 2]).unwrap().with_epsilon(0.04).unwrap();
    let parameters = [1.0, -2.0, 0.5, 0.0, 0.0, 0.0];
    let z = [1.0; 6];
    let call = Call::<f64>::new(&layer, &parameters, &z);
    let bound = call.bound().unwrap();
    assert!((bound - 100.0).abs() < 1e-10, "{bound}");
    let v = [0.5, -1.0, 0.5, 0.0, 0.0, 0.0];
    let tangent = call.jvp(Some(&v), None);
    assert!((tangent[1] - 10.0).abs() < 1e-12, "{tangent:?}");
    let rms = RmsNorm::new(3).unwrap().with_epsilon(0.04).unwrap();
    let call = Call::<f64>::new(&rms, &parameters[..3], &[0.0; 3]);
    let tangent = call.jvp(Some(&[0.0, 1.0, 0.0]), None);
    assert!((tangent[1].powi(2) - call.bound().unwrap()).abs() < 1e-10);
}

#[test]
fn starts_as_a_plain_normalisation() {
    let layer = LayerNorm::new([2, 5]).unwrap();
    let mut parameters = vec![f64::NAN; 4];
    layer.initialize(&mut parameters, &mut generator(0));
    assert_eq!(parameters, [1.0, 1.0, 0.0, 0.0]);
    let names = |layer: &dyn Layer<f64>| -> Vec<String> {
        let groups = layer.parameters().into_iter();
        groups
            .map(|group| format!("{} {:?} {}", group.name, group.shape, group.decays))
            .collect()
    };
    assert_eq!(names(&layer), ["gain [2] false", "bias [2] false"]);
    assert_eq!(names(&layer.without_gain()), ["bias [2] false"]);
    assert_eq!(names(&RmsNorm::new(3).unwrap()), ["gain [3] false"]);
}

#[test]
fn refuses_with_the_numbers() {
    let error = LayerNorm::new([3, 0]).unwrap_err();
    assert!(matches!(error, Error::ZeroDimension { .. }), "{error}");
    let told = RmsNorm::new(3)
        .unwrap()
        .with_epsilon(0.0)
        .unwrap_err()
        .to_string();
    assert_eq!(
        told,
        "option Norm::epsilon is 0, but must be above 0 and finite"
    );
}

#[cfg(feature = "rayon")]
#[test]
fn has_the_same_bits_on_threads() {
    let layer = LayerNorm::new([40, 60]).unwrap();
    super::checked::is_the_same_on_threads::<f32>(&layer, 64);
}
