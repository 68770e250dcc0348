//! A learned array added to the input.

use layerwise::init::Initializer;
use layerwise::layer::PositionBias;
use layerwise::{Error, Layer};

use super::checked::{Call, holds};
use crate::property::{Tested, generator};

in_both_scalars!(passes_every_check);

fn passes_every_check<T: Tested>() {
    holds::<T>(PositionBias::new([2, 3]).unwrap());
    let zero = PositionBias::new(4)
        .unwrap()
        .with_positions(Initializer::Zeros);
    holds::<T>(zero.unwrap());
}

#[test]
fn adds_its_array_to_every_example() {
    let layer = PositionBias::new([2, 1]).unwrap();
    let call = Call::<f64>::new(&layer, &[10.0, 20.0], &[1.0, 2.0, 3.0, 4.0]);
    assert_eq!(call.output, [11.0, 22.0, 13.0, 24.0]);
    assert_eq!(call.bound(), Some(1.0));
    let error = PositionBias::new([2, 0]).unwrap_err();
    assert!(matches!(error, Error::ZeroDimension { .. }), "{error}");
}

#[test]
fn starts_with_unit_variance_or_as_told() {
    let draw = |layer: PositionBias| {
        let mut initial = vec![f64::NAN; 2000];
        layer.initialize(&mut initial, &mut generator(0));
        initial
    };
    let layer = || PositionBias::new([20, 100]).unwrap();
    let drawn = draw(layer());
    let mean = drawn.iter().sum::<f64>() / 2000.0;
    let variance = drawn.iter().map(|p| (p - mean).powi(2)).sum::<f64>() / 2000.0;
    assert!(
        mean.abs() < 0.1 && (variance - 1.0).abs() < 0.15,
        "{mean}, {variance}"
    );
    let zero = layer().with_positions(Initializer::Zeros).unwrap();
    assert!(draw(zero).iter().all(|&p| p == 0.0));
}
