//! Sizes, numbers and values at the ends of their types: errors, never a panic; and what nests costs what
//! it holds.

use std::hint::black_box;
use std::time::Instant;

use layerwise::data::Split;
use layerwise::decoupled::Selection;
use layerwise::energy::LocalProblem;
use layerwise::layer::{Context, Dense, Sequential};
use layerwise::loss::SquaredError;
use layerwise::prelude::*;
use layerwise::{Error, Layer};

const END: usize = usize::MAX;

#[test]
fn a_split_of_the_last_place_names_it() {
    let split = Split {
        train: vec![END],
        test: vec![],
    };
    let expected = Error::UnknownColumns {
        start: END,
        end: END,
        count: 2,
    };
    assert_eq!(split.of(&[3, 4]).unwrap_err(), expected);
    for error in [
        Split::shuffled(END, 1, 0).unwrap_err(),
        Split::shuffled(END, END - 1, 0).unwrap_err(),
        Split::folds(END, 2, 0).unwrap_err(),
        Split::folds(END, END, 0).unwrap_err(),
    ] {
        assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    }
}

fn the_last_layer_number<T: Scalar>() {
    let layer = Dense::new(1, 1, Activation::Tanh).unwrap();
    let (own, one, nan) = ([T::one(); 2], [T::one()], [T::zero() / T::zero()]);
    let problem = LocalProblem::new(&layer, &own, &SquaredError, T::one(), &one, &one).unwrap();
    let problem = problem.in_context(Context::inference(u64::MAX, END));
    assert_eq!(problem.layer(), END);
    let error = problem.with_multipliers(&nan).unwrap_err();
    assert!(
        matches!(error, Error::NonFiniteData { layer: END, .. }),
        "{error}"
    );
    assert!(problem.with_multipliers(&one).unwrap().energy().is_finite());
}

#[test]
fn a_problem_of_the_last_layer_number_names_it() {
    the_last_layer_number::<f64>();
    the_last_layer_number::<f32>();
}

/// Errors are plain values: anyone can make one, and print it.
#[test]
fn a_mismatch_at_layer_0_is_printed() {
    for (layer, before) in [
        (0, "what comes before it"),
        (1, "layer 0"),
        (END, "layer 18446744073709551614"),
    ] {
        let error = Error::LayerMismatch {
            layer,
            expected: vec![END, END],
            found: vec![],
        };
        let message = error.to_string();
        let text = format!("layer {layer} takes inputs of shape ");
        assert!(message.starts_with(&text), "{message}");
        assert!(
            message.contains(&format!("but {before} gives outputs of")),
            "{message}"
        );
    }
}

fn model<T: Scalar>(width: usize) -> DecoupledCircuit<T> {
    let circuit = Circuit::builder()
        .layer(Dense::new(width, 3, Activation::Tanh).unwrap())
        .layer(Dense::new(3, 1, Activation::Identity).unwrap());
    let mut model = DecoupledCircuit::new(circuit.build().unwrap(), Energy::default()).unwrap();
    let (x, y) = (
        DMatrix::from_element(width, 4, T::one()),
        DMatrix::zeros(1, 4),
    );
    model
        .add_examples(&x, &y, &TargetInit::ForwardPass)
        .unwrap();
    model
}

#[test]
fn numbers_at_the_end_of_their_type_are_refused() {
    let mut own = model::<f64>(2);
    let one = DMatrix::from_element(1, 1, 1.0);
    for t in [3, END - 1, END] {
        assert!(own.z(t).is_err() && own.local_problem(t, 0..1).is_err());
        assert!(own.set_parameters(t, &[]).is_err());
        assert!(own.set_targets(t, &Selection::All, &one).is_err());
    }
    for columns in [0..END, END - 1..END, END..END] {
        assert!(own.batch(columns.clone()).is_err());
        assert!(own.gradients(&Selection::Columns(columns)).is_err());
    }
    assert!(own.gradients(&Selection::Examples(&[u64::MAX])).is_err());
    assert!(own.remove_examples(&[u64::MAX]).is_err());
    for batch in [END, END / 2, END >> 16] {
        assert!(matches!(own.memory(batch), Err(Error::TooLarge { .. })));
    }
    let largest = Phase::new(Backprop, Adam::new(0.1).unwrap())
        .with_epochs(u64::MAX)
        .with_batch_size(END)
        .unwrap()
        .with_schedule(layerwise::schedule::Schedule::CONSTANT.with_warm_up(u64::MAX));
    let trainer = Trainer::new(largest)
        .with_measure_every(u64::MAX)
        .with_history_every(u64::MAX)
        .with_seed(u64::MAX)
        .with_time_limit(std::time::Duration::ZERO);
    assert_eq!(trainer.run(&mut own).unwrap().steps, 0);
    let mut session = layerwise::training::Session::new(&trainer, own).unwrap();
    assert!(session.epoch().unwrap().is_none());
}

/// `depth` units, each the only layer of the next.
fn nested(depth: usize) -> Sequential<f64> {
    let dense = || Box::new(Dense::new(2, 2, Activation::Tanh).unwrap());
    let mut unit = Sequential::new(vec![dense() as Box<dyn Layer<f64>>]).unwrap();
    for _ in 1..depth {
        unit = Sequential::new(vec![dense(), Box::new(unit)]).unwrap();
    }
    unit
}

/// Everything that a unit is asked for, at a depth at which 2ᵏ would take a year.
#[test]
fn a_nested_unit_costs_what_it_holds() {
    let start = Instant::now();
    let unit = nested(50);
    let parameters = unit.parameters();
    assert_eq!(parameters.len(), 2 * 50);
    black_box((
        unit.scratch(3),
        unit.cost(),
        unit.target_range(),
        format!("{unit:?}"),
    ));
    let circuit = Circuit::builder()
        .layer(unit)
        .layer(nested(50))
        .build()
        .unwrap();
    let mut own = DecoupledCircuit::new(circuit, Energy::default()).unwrap();
    let x = DMatrix::from_fn(2, 4, |i, j| (i + j) as f64 / 4.0);
    own.add_examples(&x, &x, &TargetInit::ForwardPass).unwrap();
    for solver in [true, false] {
        let scheme = match solver {
            true => Decoupling::refreshed(ReverseSweep::new(1)),
            false => Decoupling::persistent(layerwise::target_solver::GaussNewton::new(1, 2)),
        };
        let phase = Phase::new(scheme, Adam::new(1e-2).unwrap()).with_epochs(2);
        Trainer::new(phase).run(&mut own).unwrap();
    }
    own.memory(7).unwrap();
    layerwise::gradcheck::GradCheck::new()
        .with_directions(2)
        .unwrap()
        .layer(&nested(12), own_parameters(12).as_slice(), x.as_slice())
        .unwrap();
    assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
}

fn own_parameters(depth: usize) -> Vec<f64> {
    (0..6 * depth).map(|i| (i as f64).sin()).collect()
}

use layerwise::training::Decoupling;
