//! The strategies draw what their documentation says, reach the ends of their ranges, and shrink.

use std::collections::HashSet;

use layerwise::decoupled::TargetInit;
use layerwise::energy::Energy;
use layerwise::gradcheck::GradCheck;
use layerwise::layer::{Activation, Dense};
use layerwise::loss::{
    BinaryCrossEntropy, Gaussian, KullbackLeibler, LabelSmoothing, Poisson, SoftmaxCrossEntropy,
    SquaredError,
};
use layerwise::nalgebra::DMatrix;
use layerwise::strategies::proptest::prelude::*;
use layerwise::strategies::proptest::strategy::ValueTree;
use layerwise::strategies::proptest::test_runner::{
    RngSeed, TestCaseResult, TestError, TestRunner,
};
use layerwise::strategies::{
    LayerPoint, Output, Shapes, activations, circuits, data, dense, layer_points, loss_points,
    models,
};
use layerwise::{Circuit, DecoupledCircuit, Error, Loss, Scalar};

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(0x6c61_7965),
        failure_persistence: None,
        ..ProptestConfig::default()
    })
}

fn for_all<S: Strategy>(cases: u32, strategy: S, test: impl Fn(S::Value) -> TestCaseResult) {
    if let Err(failure) = runner(cases).run(&strategy, test) {
        panic!("{failure}");
    }
}

fn draws<S: Strategy>(cases: u32, strategy: S) -> Vec<S::Value> {
    let mut runner = runner(cases);
    let mut draw = || strategy.new_tree(&mut runner).unwrap().current();
    (0..cases).map(|_| draw()).collect()
}

/// The smallest case for which `holds` is false.
fn smallest<S: Strategy>(strategy: S, holds: impl Fn(&S::Value) -> bool) -> S::Value {
    let test = |case| match holds(&case) {
        true => Ok(()),
        false => Err(TestCaseError::fail("as it should")),
    };
    match runner(256).run(&strategy, test) {
        Err(TestError::Fail(_, case)) => case,
        other => panic!("no failing case: {other:?}"),
    }
}

/// The targets' columns are distributions with no entry at 0.
fn are_distributions(targets: &DMatrix<f64>) -> bool {
    let adds_up = targets.column_iter().all(|y| (y.sum() - 1.0).abs() < 1e-12);
    adds_up && targets.min() > 0.0
}

fn within(values: &[f64], size: f64) -> bool {
    values.iter().all(|x| x.abs() <= size)
}

#[test]
fn models_reach_both_ends_of_every_range() {
    let shapes = Shapes::new();
    let mut depths = HashSet::new();
    let mut widths = HashSet::new();
    let mut examples = HashSet::new();
    let mut kinds = HashSet::new();
    let mut biases = HashSet::new();
    let mut entropies = HashSet::new();
    let mut seeds = HashSet::new();
    let mut penalties = Vec::new();
    for model in draws(1024, models::<f64>(shapes)) {
        let circuit = model.circuit();
        let last = circuit.depth() - 1;
        depths.insert(circuit.depth());
        widths.extend(circuit.dims().iter().map(|&dim| ("any layer", dim)));
        widths.insert(("input", circuit.dims()[0]));
        widths.insert(("output", circuit.dims()[last + 1]));
        examples.insert(model.examples().len());
        seeds.insert(circuit.seed());
        penalties.extend(model.terms().penalties().to_vec());
        let mut parameters = Vec::new();
        for t in 0..=last {
            let affine = circuit.layer(t).affine().unwrap();
            kinds.insert(format!("{:?}", affine.activation));
            biases.insert(affine.bias.is_some());
            let bound = (3.0 / circuit.dims()[t] as f64).sqrt();
            let own = circuit.parameters(t);
            assert!(within(&own[affine.weights], bound));
            assert!(affine.bias.is_none_or(|bias| within(&own[bias], 1.0)));
            parameters.extend_from_slice(own);
        }
        let distinct: HashSet<u64> = parameters.iter().map(|p| p.to_bits()).collect();
        assert_eq!(distinct.len(), parameters.len(), "{parameters:?}");
        let (inputs, outputs) = (model.z(0).unwrap(), model.z(last + 1).unwrap());
        assert!(within(inputs.into_owned().as_slice(), 1.5));
        let loss = format!("{:?}", model.terms().loss(last));
        match loss.as_str() {
            "SoftmaxCrossEntropy" => assert!(are_distributions(&outputs.into_owned())),
            _ => assert!(within(outputs.into_owned().as_slice(), 1.5)),
        }
        entropies.insert(loss);
    }
    assert_eq!(depths, HashSet::from_iter(1..=4));
    assert_eq!(examples, HashSet::from_iter(1..=5));
    let places = ["any layer", "input", "output"];
    let all = places.map(|place| (1..=6).map(move |dim| (place, dim)));
    assert_eq!(widths, all.into_iter().flatten().collect());
    assert_eq!(kinds.len(), 8, "{kinds:?}");
    assert_eq!((biases.len(), entropies.len(), seeds.len()), (2, 2, 1024));
    let (least, most) = penalties.iter().fold((9.0, 0.0), |(least, most), &mu| {
        (f64::min(least, mu), f64::max(most, mu))
    });
    assert!(
        (0.1..0.12).contains(&least) && (8.0..=10.0).contains(&most),
        "{least} {most}"
    );
    let small = penalties.iter().filter(|&&mu| mu < 1.0).count() as f64;
    assert!(
        (0.45..0.55).contains(&(small / penalties.len() as f64)),
        "uniform in ln μ"
    );
}

#[test]
fn options_narrow_what_is_drawn() {
    let shapes = Shapes::new()
        .with_depth(2)
        .with_width(3)
        .with_examples(2)
        .with_activations([Activation::Relu, Activation::Tanh])
        .with_biases([false])
        .with_penalties(3.0..=3.0)
        .with_outputs([Output::SoftmaxCrossEntropy])
        .smooth();
    for model in draws(64, models::<f32>(shapes.clone())) {
        let circuit = model.circuit();
        assert!(circuit.depth() <= 2 && model.examples().len() <= 2);
        assert!(circuit.dims().iter().all(|&dim| dim <= 3));
        assert!(model.terms().penalties().iter().all(|&mu| mu == 3.0));
        assert!(!model.terms().loss(circuit.depth() - 1).free_target());
        for t in 0..circuit.depth() {
            let affine = circuit.layer(t).affine().unwrap();
            assert_eq!((affine.activation, affine.bias), (Activation::Tanh, None));
        }
    }
    for layer in draws(64, dense(shapes)) {
        let affine = layer.affine().unwrap();
        assert_eq!((affine.activation, affine.bias), (Activation::Tanh, None));
        let dims = [layer.input_dim(), layer.output_dim()];
        assert!(dims.iter().all(|dim| (1..=3).contains(dim)));
    }
    let kinds = draws(128, activations())
        .into_iter()
        .map(|a| format!("{a:?}"));
    assert_eq!(kinds.collect::<HashSet<_>>().len(), 8);
}

/// Options from which nothing can be drawn are named, with their numbers.
#[test]
fn empty_options_are_refused() {
    for (shapes, message) in [
        (
            Shapes::new().with_depth(0),
            "Shapes::max_depth is 0, but must be at least 1",
        ),
        (
            Shapes::new().with_width(0),
            "Shapes::max_width is 0, but must be at least 1",
        ),
        (
            Shapes::new().with_examples(0),
            "Shapes::max_examples is 0, but must be at least 1",
        ),
        (
            Shapes::new().with_activations([Activation::Relu]).smooth(),
            "Shapes::activations is empty, so there is nothing to draw from",
        ),
        (
            Shapes::new().with_biases([]),
            "Shapes::biases is empty, so there is nothing to draw from",
        ),
        (
            Shapes::new().with_outputs([]),
            "Shapes::outputs is empty, so there is nothing to draw from",
        ),
        (
            Shapes::new().with_penalties(0.0..=1.0),
            "Shapes::penalties are 0..=1, but must be a non-empty range above 0 and finite",
        ),
    ] {
        let refused = std::panic::catch_unwind(|| drop(models::<f64>(shapes)));
        let said = *refused.unwrap_err().downcast::<String>().unwrap();
        assert_eq!(said, message);
    }
}

#[test]
fn cases_shrink_to_the_smallest_shapes() {
    let deep = smallest(circuits::<f64>(Shapes::new()), |c| c.depth() < 3);
    assert_eq!((deep.dims(), deep.seed()), (&[1; 4][..], 0));
    let first = |t: usize| deep.layer(t).affine().unwrap().activation;
    assert!((0..3).all(|t| first(t) == Activation::Identity));

    let wide = smallest(circuits::<f64>(Shapes::new()), |c| {
        c.dims().iter().all(|&dim| dim < 5)
    });
    let mut dims = wide.dims().to_vec();
    dims.sort_unstable();
    assert_eq!(dims, [1, 5]);

    let many = smallest(models::<f64>(Shapes::new()), |m| m.examples().len() < 4);
    assert_eq!(
        (many.circuit().dims(), many.examples()),
        (&[1, 1][..], &[0, 1, 2, 3][..])
    );

    let layer = Dense::new(2, 2, Activation::Tanh).unwrap();
    let points = layer_points::<f64>(&layer, 1..=9, -1.0..=1.0);
    assert_eq!(smallest(points, |at| at.input.len() < 5).input.len(), 6);
    let points = loss_points::<f64>(&SquaredError, 1..=9, 1..=9);
    let least = smallest(points, |at| at.dim < 3);
    assert_eq!((least.dim, least.target.len()), (3, 3));
}

/// What a failing case prints rebuilds it, and is no longer than it must be.
#[test]
fn a_case_prints_all_of_itself() {
    let longest = draws(256, models::<f64>(Shapes::new()));
    let longest = longest.iter().map(|model| format!("{model:?}").len()).max();
    assert!(longest.unwrap() < 16_000, "{longest:?} characters");
    let shows = |text: &str, circuit: &Circuit<f64>| {
        for t in 0..circuit.depth() {
            assert!(text.contains(&format!("{:?}", circuit.layer(t))));
            assert!(text.contains(&format!("{:?}", circuit.parameters(t))));
        }
        assert!(text.contains(&format!("seed: {}", circuit.seed())));
    };
    for circuit in draws(64, circuits::<f64>(Shapes::new())) {
        shows(&format!("{circuit:?}"), &circuit);
    }
    for model in draws(64, models::<f64>(Shapes::new())) {
        let text = format!("{model:?}");
        shows(&text, model.circuit());
        let penalties = model.terms().penalties();
        assert!(text.contains(&format!("penalties: {penalties:?}")));
    }
}

#[test]
fn equal_seeds_draw_equal_cases() {
    let text = || {
        let points = layer_points::<f64>(
            &Dense::new(2, 3, Activation::Tanh).unwrap(),
            1..=4,
            -1.0..=1.0,
        );
        let both = (models::<f64>(Shapes::new()), points);
        let losses = loss_points::<f64>(&SquaredError, 1..=3, 1..=3);
        draws(16, (both, losses))
            .iter()
            .map(|case| format!("{case:?}"))
            .collect::<Vec<_>>()
    };
    let once = text();
    assert_eq!(once, text());
    assert_eq!(once.iter().collect::<HashSet<_>>().len(), once.len());
}

fn gradients_are_right<T: Scalar>(tolerance: f64) {
    for_all(64, models::<T>(Shapes::new().smooth()), |model| {
        let report = GradCheck::new().circuit(&model)?;
        Ok(report.require(tolerance)?)
    });
}

#[test]
fn gradients_are_right_in_f64() {
    gradients_are_right::<f64>(1e-6);
}

#[test]
fn gradients_are_right_in_f32() {
    gradients_are_right::<f32>(5e-3);
}

fn energy_is_the_composed_loss_at_the_forward_pass<T: Scalar>() {
    for_all(256, models::<T>(Shapes::new()), |mut model| {
        let anywhere = model.energy()?;
        model.initialize_targets(&TargetInit::ForwardPass)?;
        prop_assert_eq!(model.energy()?, model.composed_loss()?);
        // Before, the targets were random: the statement was not true already.
        prop_assert!(model.circuit().depth() == 1 || anywhere != model.energy()?);
        Ok(())
    });
}

#[test]
fn energy_is_the_composed_loss_at_the_forward_pass_in_both_scalars() {
    energy_is_the_composed_loss_at_the_forward_pass::<f64>();
    energy_is_the_composed_loss_at_the_forward_pass::<f32>();
}

/// Data and points suit every kind of target, in whatever domain it lies.
#[test]
fn data_fit_every_loss() {
    fn fit<T: Scalar>(loss: impl Loss<T> + Clone + 'static, distributions: bool, tolerance: f64) {
        let circuit = Circuit::<T>::builder()
            .layer(Dense::new(2, 3, Activation::Tanh).unwrap())
            .build()
            .unwrap();
        let model = DecoupledCircuit::new(circuit, Energy::new(loss.clone())).unwrap();
        let mut counts = HashSet::new();
        for (inputs, targets) in draws(32, data(&model, 1..=3)) {
            assert!(
                model
                    .composed_loss_of(&inputs, &targets)
                    .unwrap()
                    .is_finite()
            );
            let sum = targets.sum().as_f64() / targets.ncols() as f64;
            assert_eq!((sum - 1.0).abs() < 1e-5, distributions, "{sum}");
            counts.insert(inputs.shape());
        }
        assert_eq!(counts, HashSet::from([(2, 1), (2, 2), (2, 3)]));
        let points = loss_points(&loss, 2..=4, 1..=3);
        for_all(64, points, |at| {
            let report = GradCheck::new().loss(&loss, &at.pair())?;
            Ok(report.require(tolerance)?)
        });
    }
    fn fit_all<T: Scalar>(tolerance: f64) {
        fit::<T>(SquaredError, false, tolerance);
        let one = T::one();
        fit::<T>(
            Gaussian::learned(one, T::of(0.1)).unwrap(),
            false,
            tolerance,
        );
        fit::<T>(SoftmaxCrossEntropy, true, tolerance);
        fit::<T>(BinaryCrossEntropy, true, tolerance);
        fit::<T>(KullbackLeibler, true, tolerance);
        fit::<T>(Poisson, true, tolerance);
        let smoothed = LabelSmoothing::new(SoftmaxCrossEntropy, 0.1);
        fit::<T>(smoothed.unwrap(), true, tolerance);
    }
    fit_all::<f64>(1e-6);
    fit_all::<f32>(5e-3);
}

/// A loss that takes no target at all.
#[derive(Debug, Clone)]
struct Refusing;

impl Loss<f64> for Refusing {
    fn check_target(&self, _dim: usize, target: &[f64]) -> Result<(), Error> {
        match target.first() {
            None => Ok(()),
            Some(_) => Err(Error::TargetDomain {
                loss: "Refusing".into(),
                column: 0,
                reason: "there is none".into(),
            }),
        }
    }

    fn free_target(&self) -> bool {
        false
    }

    fn scratch(&self, _dim: usize, _batch: usize) -> usize {
        0
    }

    fn evaluate(
        &self,
        _at: &layerwise::loss::Pair<'_, f64>,
        _values: &mut [f64],
        _d_target: layerwise::kernel::Write<'_, f64>,
        _d_prediction: layerwise::kernel::Write<'_, f64>,
        _work: &mut [f64],
    ) {
    }

    fn curvature(
        &self,
        _at: &layerwise::loss::Pair<'_, f64>,
        _v_target: Option<&[f64]>,
        _v_prediction: Option<&[f64]>,
        _out_target: layerwise::kernel::Write<'_, f64>,
        _out_prediction: layerwise::kernel::Write<'_, f64>,
        _work: &mut [f64],
    ) {
    }
}

#[test]
#[should_panic(
    expected = "Refusing takes neither values in ±1.5 nor distributions: Refusing: the target of example column 0"
)]
fn a_loss_without_targets_is_named() {
    draws(1, loss_points(&Refusing, 1..=1, 1..=1));
}

/// The points fill their range, parameters and inputs alike.
#[test]
fn layer_points_lie_in_their_range() {
    let layer = Dense::new(3, 2, Activation::Silu).unwrap();
    let points = draws(64, layer_points::<f64>(&layer, 2..=4, 0.5..=2.0));
    let extremes = |part: fn(&LayerPoint<f64>) -> &[f64]| {
        let values = || points.iter().flat_map(|at| part(at).iter().copied());
        (values().fold(9.0, f64::min), values().fold(0.0, f64::max))
    };
    for (least, most) in [extremes(|at| &at.parameters), extremes(|at| &at.input)] {
        assert!(
            (0.5..0.55).contains(&least) && (1.95..=2.0).contains(&most),
            "{least} {most}"
        );
    }
    let lengths = |part: fn(&LayerPoint<f64>) -> usize| -> HashSet<usize> {
        points.iter().map(part).collect()
    };
    assert_eq!(lengths(|at| at.input.len()), HashSet::from([6, 9, 12]));
    assert_eq!(lengths(|at| at.parameters.len()), HashSet::from([8]));
}
