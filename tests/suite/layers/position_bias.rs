//! A learned array added to the input.

use layerwise::init::Initializer;
use layerwise::layer::PositionBias;
use layerwise::{Error, Layer};

use super::checked::{Call, holds};
use crate::property::{Tested, generator};

in_both_scalars!(passes_every_check);

fn passes_every_check<T: Tested>() {
    holds::<T>(PositionBias::new([2, 3]).unwrap());
    let drawn = PositionBias::new(4)
        .unwrap()
        .with_positions(Initializer::he_normal());
    holds::<T>(drawn.unwrap());
}

#[test]
fn adds_its_array_to_every_example() {
    let layer = PositionBias::new([2, 1]).unwrap();
    let call = Call::<f64>::new(&layer, &[10.0, 20.0], &[1.0, 2.0, 3.0, 4.0]);
    assert_eq!(call.output, [11.0, 22.0, 13.0, 24.0]);
    assert_eq!(call.bound(), Some(1.0));
    let mut initial = [f64::NAN; 2];
    layer.initialize(&mut initial, &mut generator(0));
    assert_eq!(initial, [0.0; 2]);
    let error = PositionBias::new([2, 0]).unwrap_err();
    assert!(matches!(error, Error::ZeroDimension { .. }), "{error}");
}
