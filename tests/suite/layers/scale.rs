//! A fixed factor.

use layerwise::layer::{Scale, Shape};
use layerwise::{Error, Layer};

use super::checked::{Call, holds};
use crate::property::Tested;

in_both_scalars!(passes_every_check);

fn passes_every_check<T: Tested>() {
    for factor in [0.5, -2.0, 0.0] {
        holds::<T>(Scale::new([2, 3], factor).unwrap());
    }
}

#[test]
fn multiplies_and_is_bounded_by_its_square() {
    let layer = Scale::new([3, 1], -0.3).unwrap();
    let input = [1.0, 0.0, -4.0];
    let call = Call::<f64>::new(&layer, &[], &input);
    assert_eq!(call.output, [-0.3, 0.0, 1.2]);
    let bound = call.bound().unwrap();
    assert!((0.09..0.09 * (1.0 + 1e-14)).contains(&bound), "{bound}");
    assert_eq!(Layer::<f64>::output_shape(&layer), Shape::from([3, 1]));
    let bound = |factor: f64| {
        let layer = Scale::new(1, factor).unwrap();
        Call::<f32>::new(&layer, &[], &[1.0]).bound().unwrap()
    };
    assert_eq!((bound(0.0), bound(1e30)), (0.0, f64::INFINITY));
    assert!(bound(1e-30) > 0.0);
}

#[test]
fn refuses_with_the_numbers() {
    let error = Scale::new([2, 0], 1.0).unwrap_err();
    assert!(matches!(error, Error::ZeroDimension { .. }), "{error}");
    let error = Scale::new(2, f64::INFINITY).unwrap_err().to_string();
    assert_eq!(error, "option Scale::factor is inf, but must be finite");
}
