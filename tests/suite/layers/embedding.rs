//! Whole numbers as learned vectors.

use layerwise::decoupled::TargetInit;
use layerwise::energy::{Energy, LocalProblem};
use layerwise::init::Initializer;
use layerwise::kernel::Write;
use layerwise::layer::{
    Activation, Dense, Embedding, PositionBias, PositionWise, Sequential, Shape,
};
use layerwise::loss::{SoftmaxCrossEntropy, SquaredError};
use layerwise::nalgebra::DMatrix;
use layerwise::optimizer::Adam;
use layerwise::target_solver::ReverseSweep;
use layerwise::training::{Decoupling, Phase, Trainer};
use layerwise::{Circuit, DecoupledCircuit, Error, Layer};

use super::checked::{Call, holds_at};
use crate::property::{Tested, generator};

in_both_scalars!(passes_every_check);

fn passes_every_check<T: Tested>() {
    // Tokens that never occur, occur once, and occur several times.
    let tokens = [3.0, 0.0, 3.0, 4.0, 4.0, 4.0].map(T::of);
    holds_at::<T>(Embedding::new(5, 2, 3).unwrap(), &tokens);
    holds_at::<T>(Embedding::new(5, 1, 1).unwrap(), &tokens);
    let unit: Vec<Box<dyn Layer<T>>> = vec![
        Box::new(Embedding::new(5, 2, 2).unwrap()),
        Box::new(PositionBias::new([2, 2]).unwrap()),
    ];
    holds_at::<T>(Sequential::new(unit).unwrap(), &tokens);
}

#[test]
fn looks_up_and_adds_up() {
    let layer = Embedding::new(3, 2, 2).unwrap();
    let table = [1.0, 2.0, 10.0, 20.0, 100.0, 200.0];
    let call = Call::<f64>::new(&layer, &table, &[2.0, 0.0, 2.0, 2.0]);
    assert_eq!(
        call.output,
        [100.0, 200.0, 1.0, 2.0, 100.0, 200.0, 100.0, 200.0]
    );
    let (_, d) = call.vjp(&[1.0, -1.0, 5.0, 6.0, 2.0, -2.0, 4.0, 0.5]);
    assert_eq!(d, [5.0, 6.0, 0.0, 0.0, 7.0, -2.5]);
    assert_eq!(call.bound(), None);
    assert_eq!(Layer::<f64>::output_shape(&layer), Shape::from([2, 2]));
}

/// A local problem's product in the whole numbers is 0: set, added, or skipped.
#[test]
fn its_product_in_the_whole_numbers_is_zero() {
    let unit: Vec<Box<dyn Layer<f64>>> = vec![
        Box::new(Embedding::new(5, 2, 2).unwrap()),
        Box::new(PositionBias::new([2, 2]).unwrap()),
    ];
    let layers: [Box<dyn Layer<f64>>; 2] = [
        Box::new(Embedding::new(5, 2, 2).unwrap()),
        Box::new(Sequential::new(unit).unwrap()),
    ];
    for layer in &layers {
        let groups = layer.parameters();
        let parameters = vec![0.5; groups.last().unwrap().range.end];
        let (input, target) = ([1.0, 0.0], [0.0; 4]);
        let problem = LocalProblem::new(layer, &parameters, &SquaredError, 1.0, &input, &target);
        let problem = problem.unwrap();
        let mut workspace = problem.workspace();
        let mut at = problem.linearize(&mut workspace);
        let mut d_input = [7.0; 2];
        at.vjp(&[1.0; 4], Write::Add(&mut d_input), Write::Skip)
            .unwrap();
        assert_eq!(d_input, [7.0; 2]);
        at.vjp(&[1.0; 4], Write::Set(&mut d_input), Write::Skip)
            .unwrap();
        assert_eq!(d_input, [0.0; 2]);
    }
}

#[test]
fn starts_with_unit_variance_or_as_told() {
    let draw = |layer: Embedding| {
        let mut table = vec![0.0; 4000];
        layer.initialize(&mut table, &mut generator(1));
        table
    };
    let layer = || Embedding::new(1000, 4, 1).unwrap();
    let square = draw(layer()).iter().map(|v| v * v).sum::<f64>() / 4000.0;
    assert!((square - 1.0).abs() < 0.1, "{square}");
    let orthogonal = Initializer::Orthogonal { gain: 1.0 };
    for vector in draw(layer().with_table(orthogonal).unwrap()).chunks_exact(4) {
        let length: f64 = vector.iter().map(|v| v * v).sum();
        assert!((length - 1.0).abs() < 1e-12, "{vector:?}");
    }
}

#[test]
fn refuses_what_is_no_token() {
    let circuit = Circuit::<f64>::builder().layer(Embedding::new(7, 2, 3).unwrap());
    let circuit = circuit.build().unwrap();
    let mut model = DecoupledCircuit::new(circuit, Energy::default()).unwrap();
    for (token, shown) in [
        (1.5, "1.5"),
        (-1.0, "-1"),
        (7.0, "7"),
        (1e30, "1e30"),
        (-0.25, "-0.25"),
    ] {
        let mut x = DMatrix::from_element(3, 4, 1.0);
        x[(1, 2)] = token;
        let error = model.circuit().predict(&x).unwrap_err();
        let Error::InputDomain { column, reason } = &error else {
            panic!("{error}");
        };
        assert_eq!(*column, 2);
        let shown = if token == 1e30 {
            token.to_string()
        } else {
            shown.into()
        };
        assert_eq!(
            *reason,
            format!(
                "value 1 is {shown}, but a token of this vocabulary is a whole number from 0 to 6"
            )
        );
        let y = DMatrix::zeros(6, 4);
        let refused = model.add_examples(&x, &y, &TargetInit::ForwardPass);
        assert!(matches!(refused, Err(Error::InputDomain { .. })));
    }
    let x = DMatrix::from_element(3, 1, f64::NAN);
    let error = model.circuit().predict(&x).unwrap_err();
    assert!(matches!(error, Error::NonFiniteData { .. }), "{error}");
    // Before the check of finite values, as in a local problem that is called by hand.
    let layer = Embedding::new(7, 2, 3).unwrap();
    let refused = layer.check_input(&[0.0, f64::NAN, 1.0]);
    assert!(matches!(refused, Err(Error::InputDomain { .. })));
    assert!(layer.check_input(&[0.0, 6.0, -0.0]).is_ok());
}

#[test]
fn is_only_the_first_layer() {
    let embedding = || Embedding::new(3, 2, 2).unwrap();
    let builder = Circuit::<f64>::builder();
    let before = Dense::new(2, 2, Activation::Tanh).unwrap();
    let error = builder
        .layer(before)
        .layer(embedding())
        .build()
        .unwrap_err();
    assert_eq!(error, Error::InputNotDifferentiable { layer: 1 });
    for (vocabulary, dim, length) in [(0, 1, 1), (1, 0, 1), (1, 1, 0)] {
        let error = Embedding::new(vocabulary, dim, length).unwrap_err();
        assert!(matches!(error, Error::ZeroDimension { .. }), "{error}");
    }
}

/// Which of four tokens came first, learned through an embedding, a position bias and a decoupled
/// circuit.
#[test]
fn a_circuit_over_tokens_learns() {
    let first: Sequential<f64> = Sequential::new(vec![
        Box::new(Embedding::new(4, 3, 2).unwrap()),
        Box::new(PositionBias::new([3, 2]).unwrap()),
        Box::new(PositionWise::new(3, 2, 6, Activation::Tanh).unwrap()),
    ])
    .unwrap();
    let circuit = Circuit::builder()
        .layer(first)
        .layer(Dense::new(12, 8, Activation::Tanh).unwrap())
        .layer(Dense::new(8, 4, Activation::Identity).unwrap())
        .build()
        .unwrap();
    let mut model = DecoupledCircuit::new(circuit, Energy::new(SoftmaxCrossEntropy)).unwrap();
    let x = DMatrix::from_fn(2, 16, |row, i| {
        (if row == 0 { i % 4 } else { i / 4 }) as f64
    });
    let y = DMatrix::from_fn(4, 16, |class, i| f64::from(u8::from(class == i % 4)));
    model
        .add_examples(&x, &y, &TargetInit::ForwardPass)
        .unwrap();
    let scheme = Decoupling::refreshed(ReverseSweep::new(1));
    let phase = Phase::new(scheme, Adam::new(0.03).unwrap()).with_epochs(150);
    Trainer::new(phase).run(&mut model).unwrap();
    let labels = model.predict_labels(&x).unwrap();
    assert_eq!(labels, (0..16).map(|i| i % 4).collect::<Vec<_>>());
}
