//! An activation on its own.

use layerwise::layer::{Activate, Activation, Dense};
use layerwise::{Error, Layer};

use super::checked::{Call, holds, holds_at};
use crate::property::Tested;

const SMOOTH: [Activation; 6] = [
    Activation::Identity,
    Activation::Tanh,
    Activation::Sigmoid,
    Activation::Softplus,
    Activation::Gelu,
    Activation::Silu,
];

in_both_scalars!(passes_every_check, is_the_activation_of_a_dense_layer);

fn passes_every_check<T: Tested>() {
    for activation in SMOOTH {
        holds::<T>(Activate::new([2, 3], activation).unwrap());
    }
    // Away from the kink.
    let input = [-1.5, 2.0, -0.5, 1.0, 0.75, -2.0].map(T::of);
    for activation in [Activation::Relu, Activation::LeakyRelu { slope: 0.25 }] {
        holds_at::<T>(Activate::new(2, activation).unwrap(), &input);
    }
}

fn is_the_activation_of_a_dense_layer<T: Tested>() {
    let unit = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0].map(T::of);
    let input = [-1.5, 2.0, -0.5, 1.0, 0.0, -2.0].map(T::of);
    for activation in SMOOTH.into_iter().chain([Activation::Relu]) {
        let own = Activate::new(2, activation).unwrap();
        let dense = Dense::new(2, 2, activation).unwrap();
        let own = Call::<T>::new(&own, &[], &input).output;
        assert_eq!(own, Call::<T>::new(&dense, &unit, &input).output);
    }
}

#[test]
fn refuses_with_the_numbers() {
    let error = Activate::new([2, 0], Activation::Relu).unwrap_err();
    assert!(matches!(error, Error::ZeroDimension { .. }), "{error}");
    let error = Activate::new(2, Activation::LeakyRelu { slope: -1.0 }).unwrap_err();
    assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
    let layer: &dyn Layer<f64> = &Activate::new(2, Activation::Tanh).unwrap();
    assert!(layer.parameters().is_empty());
}
