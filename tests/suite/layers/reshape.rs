//! Shapes: layers with several axes fit only the same shape, and `Reshape` goes between others.

use layerwise::layer::{Activation, Conv2d, Dense, Layer, MaxPool2d, Reshape, Sequential, Shape};
use layerwise::{Circuit, Error};

use super::laws;
use crate::property::Tested;

fn laws_of_layers_hold<T: Tested>() {
    laws::hold::<T>(Reshape::new([2, 3], [3, 1, 2]).unwrap(), 3);
    laws::hold::<T>(Reshape::flatten([2, 3, 2]).unwrap(), 2);
}

in_both_scalars!(laws_of_layers_hold);

#[test]
fn sizes_must_agree() {
    let error = Reshape::new([2, 3, 4], [5, 5]).unwrap_err();
    let expected = matches!(
        error,
        Error::Length {
            expected: 24,
            found: 25,
            ..
        }
    );
    assert!(expected, "{error}");
    for word in ["2 x 3 x 4", "5 x 5"] {
        assert!(error.to_string().contains(word), "{error}");
    }
    let error = Reshape::flatten([2, 0]).unwrap_err();
    assert!(matches!(error, Error::ZeroDimension { .. }), "{error}");
}

/// Whether layers of these shapes make a chain, as a circuit and as a unit.
fn fit(first: impl Into<Shape>, second: impl Into<Shape>) -> Result<(), Error> {
    let identity = |shape: Shape| Reshape::new(shape, shape).unwrap();
    let (first, second) = (identity(first.into()), identity(second.into()));
    let builder = Circuit::<f64>::builder().layer(first.clone());
    let circuit = builder.layer(second.clone()).build().map(|_| ());
    let layers: Vec<Box<dyn Layer<f64>>> = vec![Box::new(first), Box::new(second)];
    let in_circuit = |error| match error {
        Error::LayerMismatch {
            owner: "sequential layer",
            layer,
            expected,
            found,
        } => Error::LayerMismatch {
            owner: "circuit",
            layer,
            expected,
            found,
        },
        other => other,
    };
    let unit = Sequential::new(layers).map(|_| ());
    assert_eq!(unit.map_err(in_circuit), circuit);
    circuit
}

#[test]
fn several_axes_fit_only_the_same_shape() {
    fit([2, 3, 4], [2, 3, 4]).unwrap();
    fit([2, 3, 4], 24).unwrap();
    fit(24, [2, 3, 4]).unwrap();
    fit(24, 24).unwrap();
    fit([24], []).unwrap_err();
    for (first, second) in [
        (Shape::from([2, 3, 4]), Shape::from([2, 4, 3])),
        (Shape::from([2, 3, 4]), Shape::from([6, 4])),
        (Shape::from([24, 1]), Shape::from([1, 24])),
        (Shape::from([2, 3, 4]), Shape::from(23)),
    ] {
        let expected = Error::LayerMismatch {
            owner: "circuit",
            layer: 1,
            expected: first.extents().to_vec(),
            found: second.extents().to_vec(),
        };
        assert_eq!(fit(first, second), Err(expected));
    }
}

/// LeNet, whose dense layers flatten what they read.
#[test]
fn a_dense_layer_reads_an_image() {
    let conv = |input, out| Conv2d::new(input, out, 5, Activation::Tanh).unwrap();
    let dense = |a, b| Dense::new(a, b, Activation::Tanh).unwrap();
    let circuit = Circuit::<f32>::builder()
        .layer(conv([1, 32, 32], 6))
        .layer(MaxPool2d::new([6, 28, 28], 2).unwrap())
        .layer(conv([6, 14, 14], 16))
        .layer(MaxPool2d::new([16, 10, 10], 2).unwrap())
        .layer(dense(400, 120))
        .build();
    assert_eq!(circuit.unwrap().dims(), [1024, 4704, 1176, 1600, 400, 120]);
}
