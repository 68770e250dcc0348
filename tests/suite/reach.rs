//! Sizes, numbers and values at the ends of their types: errors, never a panic; and what nests costs what
//! it holds.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use layerwise::data::Split;
use layerwise::decoupled::Selection;
use layerwise::energy::LocalProblem;
use layerwise::kernel::Matrix;
use layerwise::layer::{Carry, Context, Dense, Residual, Sequential};
use layerwise::loss::{
    BinaryCrossEntropy, ClassWeights, Gaussian, Huber, KullbackLeibler, LabelSmoothing, Poisson,
    SquaredError, SumOverPositions, WeightedCrossEntropy,
};
use layerwise::prelude::*;
use layerwise::schedule::Schedule;
use layerwise::training::Decoupling;
use layerwise::{Error, Layer, Loss};

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
            owner: "circuit",
            layer,
            expected: vec![END, END],
            found: vec![],
        };
        let message = error.to_string();
        let text = format!("layer {layer} of the circuit takes inputs of shape ");
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

/// The same for layers that wrap one another.
#[test]
fn nested_skips_cost_what_they_hold() {
    let start = Instant::now();
    let mut layer: Arc<dyn Layer<f64>> = Arc::new(Dense::new(2, 2, Activation::Tanh).unwrap());
    for _ in 0..25 {
        let inside = Residual::new(layer).unwrap();
        layer = Arc::new(Carry::new(inside, 1).unwrap());
    }
    for _ in 0..25 {
        layer = Arc::new(Carry::new(layer, 1).unwrap());
    }
    black_box((layer.scratch(3), layer.cost(), layer.description()));
    let circuit = Circuit::builder().layer(layer.clone()).layer(layer);
    let mut own = DecoupledCircuit::new(circuit.build().unwrap(), Energy::default()).unwrap();
    let x = DMatrix::from_fn(52, 4, |i, j| (i + j) as f64 / 50.0);
    own.add_examples(&x, &x, &TargetInit::ForwardPass).unwrap();
    let scheme = Decoupling::refreshed(layerwise::target_solver::GaussNewton::new(1, 2));
    let phase = Phase::new(scheme, Adam::new(1e-2).unwrap()).with_epochs(2);
    Trainer::new(phase).run(&mut own).unwrap();
    assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
}

fn own_parameters(depth: usize) -> Vec<f64> {
    (0..6 * depth).map(|i| (i as f64).sin()).collect()
}

/// What a size costs saturates, whatever the size: only memory itself is refused.
fn saturates<T: Scalar>() {
    let [largest, wide, tall] = [(END, END), (END, 1), (1, END)]
        .map(|(input, output)| Dense::new(input, output, Activation::Tanh));
    for dense in [largest, wide, tall].into_iter().flatten() {
        let unit = Sequential::<T>::new(vec![Box::new(dense.clone())]).unwrap();
        for layer in [&dense as &dyn Layer<T>, &unit] {
            black_box((layer.cost(), layer.scratch(END), layer.parameters()));
        }
        let error = Circuit::<T>::builder().layer(dense).build().unwrap_err();
        assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    }
    let dense = |input, output| Box::new(Dense::new(input, output, Activation::Tanh).unwrap());
    let unit = Sequential::<T>::new(vec![dense(2, 7), dense(7, 3), dense(3, 9)]).unwrap();
    let scratch = unit.scratch(END);
    assert_eq!((scratch.tape, scratch.work), (END, END));
    let losses: Vec<Box<dyn Loss<T>>> = vec![
        Box::new(SquaredError),
        Box::new(SoftmaxCrossEntropy),
        Box::new(BinaryCrossEntropy),
        Box::new(KullbackLeibler),
        Box::new(Poisson),
        Box::new(LabelSmoothing::new(SoftmaxCrossEntropy, 0.1).unwrap()),
        Box::new(ClassWeights::new(vec![T::one(); 2], SoftmaxCrossEntropy).unwrap()),
        Box::new(WeightedCrossEntropy::new(vec![T::one(); 2]).unwrap()),
        Box::new(SumOverPositions::new(2, SoftmaxCrossEntropy).unwrap()),
        Box::new(Gaussian::learned(T::one(), T::of(0.1)).unwrap()),
        Box::new(Huber::new(1.0).unwrap()),
    ];
    for loss in losses {
        let name = format!("{loss:?}");
        assert!(
            [0, END].contains(&loss.scratch(END, END)) || name.contains("Gaussian"),
            "{name}"
        );
        assert!(loss.scratch(2, 3) < 100, "{name}");
    }
    let matrix = |data: &[T], rows, columns| {
        let made = std::panic::AssertUnwindSafe(|| _ = black_box(Matrix::new(data, rows, columns)));
        std::panic::catch_unwind(made).is_ok()
    };
    // 2⁶³ times 2 is 0 where it wraps.
    assert!(!matrix(&[], END / 2 + 1, 2) && matrix(&[], 0, END) && matrix(&[T::one()], 1, 1));
}

#[test]
fn sizes_saturate() {
    saturates::<f64>();
    saturates::<f32>();
}

#[test]
fn metrics_and_groups_of_any_size_are_errors_or_saturate() {
    use layerwise::layer::ParameterGroup;
    let outputs = DMatrix::<f64>::from_element(2, 2, 0.5);
    assert!(matches!(
        metrics::one_hot::<f64>(&[0, 1], END),
        Err(Error::TooLarge { .. })
    ));
    assert!(metrics::one_hot::<f32>(&[END], END).is_err());
    assert!(metrics::accuracy(&[END, 0], &outputs).is_err());
    assert!(metrics::top_k_accuracy(&[0, 1], &outputs, END).is_err());
    assert!(metrics::confusion(&[0, END], &outputs).is_err());
    let group = || ParameterGroup::new("w", vec![END, 2]);
    let tiled = ParameterGroup::tile([group(), group()]);
    assert_eq!(
        [tiled[0].range.clone(), tiled[1].range.clone()],
        [0..END, END..END]
    );
    let mut rule = (vec![1.0_f64], [0.0; 2]);
    for number in [1, u64::from(u32::MAX), u64::MAX] {
        let step = layerwise::optimizer::Step::new(number, 1.0);
        let adam = Adam::new(0.1).unwrap();
        layerwise::optimizer::Optimizer::update(&adam, step, &mut rule.0, &[1.0], &mut rule.1);
        assert!(rule.0[0].is_finite());
    }
    for schedule in [
        Schedule::cosine(0.1).unwrap(),
        Schedule::linear(2.0).unwrap(),
        Schedule::geometric(3.0).unwrap(),
        Schedule::steps(1, 0.5).unwrap(),
    ] {
        for warm in [0, 1, u64::MAX] {
            for (step, steps) in [(0, 0), (u64::MAX, 0), (0, u64::MAX), (u64::MAX, u64::MAX)] {
                let factor = schedule.with_warm_up(warm).factor(step, steps);
                assert!(
                    factor.is_finite(),
                    "{schedule:?}, {warm}, {step} of {steps}"
                );
            }
        }
    }
}
