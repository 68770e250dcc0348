//! The same dense layer at every position.

use layerwise::decoupled::{Selection, TargetInit};
use layerwise::energy::Energy;
use layerwise::layer::{Activation, Dense, PositionWise, Positions, Shape};
use layerwise::nalgebra::DMatrix;
use layerwise::parameter_solver::LeastSquares;
use layerwise::{Circuit, DecoupledCircuit, Error, Layer, Scalar};

use super::checked::{Call, count, holds};
use crate::property::{Tested, generator, uniform};

in_both_scalars!(passes_every_check, is_the_dense_layer_of_every_column);

fn passes_every_check<T: Tested>() {
    let layer = |activation| PositionWise::new(3, 4, 2, activation).unwrap();
    holds::<T>(layer(Activation::Gelu));
    holds::<T>(layer(Activation::Identity).without_bias());
    holds::<T>(PositionWise::new(3, 2, 3, Activation::Tanh).unwrap());
}

/// Bit for bit, and with the same bound, memory and initial values.
fn is_the_dense_layer_of_every_column<T: Scalar>() {
    let layer = PositionWise::new(3, 4, 5, Activation::Tanh).unwrap();
    let dense = Dense::new(3, 5, Activation::Tanh).unwrap();
    assert_eq!(
        (layer.input_shape(), layer.output_shape()),
        ([3, 4].into(), [5, 4].into())
    );
    assert_eq!(layer.parameters(), dense.parameters());
    assert_eq!(layer.scratch(2), dense.scratch(8));
    let affine = layer.affine().unwrap();
    assert_eq!((affine.positions, affine.unfolds), (4, false));
    let parameters = uniform::<T>(&mut generator(1), count::<T>(&dense), 1.0);
    let input = uniform::<T>(&mut generator(2), 2 * 12, 1.0);
    let u = uniform::<T>(&mut generator(3), 2 * 20, 1.0);
    let one = Call::new(&layer, &parameters, &input);
    let other = Call::new(&dense, &parameters, &input);
    assert_eq!(one.output, other.output);
    assert_eq!(one.vjp(&u), other.vjp(&u));
    assert_eq!(one.bound(), other.bound());
    let initial = |layer: &dyn Layer<T>| {
        let mut values = vec![T::zero(); count(layer)];
        layer.initialize(&mut values, &mut generator(4));
        values
    };
    assert_eq!(initial(&layer), initial(&dense));
}

/// A closed-form W-step finds the weights that made the targets.
#[test]
fn least_squares_solve_it() {
    let layer = PositionWise::new(2, 3, 4, Activation::Identity).unwrap();
    let circuit = Circuit::<f64>::builder().layer(layer).build().unwrap();
    let true_parameters = uniform::<f64>(&mut generator(5), 12, 1.0);
    let mut truth = circuit.clone();
    truth.set_parameters(0, &true_parameters).unwrap();
    let x = DMatrix::from_column_slice(6, 5, &uniform::<f64>(&mut generator(6), 30, 1.0));
    let y = truth.predict(&x).unwrap();
    let mut model = DecoupledCircuit::new(circuit, Energy::default()).unwrap();
    model
        .add_examples(&x, &y, &TargetInit::ForwardPass)
        .unwrap();
    let solver = LeastSquares::ridge(0.0).unwrap();
    model.solve_parameters(0, &solver, &Selection::All).unwrap();
    let found = model.circuit().parameters(0);
    for (found, expected) in found.iter().zip(&true_parameters) {
        assert!((found - expected).abs() < 1e-12, "{found}, not {expected}");
    }
}

#[test]
fn refuses_with_the_numbers() {
    for (dim, length, channels) in [(0, 2, 3), (2, 0, 3), (2, 3, 0)] {
        let error = PositionWise::new(dim, length, channels, Activation::Relu).unwrap_err();
        assert!(matches!(error, Error::ZeroDimension { .. }), "{error}");
    }
    assert!(Positions::new(0, 1).is_err());
    let error = PositionWise::new(usize::MAX / 2, 4, 3, Activation::Relu).unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    assert_eq!(Shape::from([2, 3]).size(), 6);
}
