//! The same numbers as PyTorch, scikit-learn and SciPy where the meaning is the same
//! (`tests/data/semantics.py` and `tests/data/scikit_learn.py` made them), and what differs on
//! purpose.

use layerwise::data::{Split, Standardizer, metrics};
use layerwise::decoupled::{DecoupledCircuit, TargetInit};
use layerwise::energy::Energy;
use layerwise::kernel::Write;
use layerwise::layer::{Activation, Dense};
use layerwise::loss::{
    BinaryCrossEntropy, ClassWeights, Gaussian, Huber, KullbackLeibler, LabelSmoothing, Loss, Pair,
    Poisson, Quantile, SoftmaxCrossEntropy, SquaredError, WeightedBinaryCrossEntropy,
    WeightedCrossEntropy, WeightedSquaredError,
};
use layerwise::optimizer::{Adam, AdamW, GradientDescent, Optimizer, RmsProp, Step};
use layerwise::parameter_solver::NormalEquations;
use layerwise::schedule::Schedule;
use layerwise::training::{Backprop, Phase, Trainer, WStep};
use layerwise::{Circuit, Error, Scalar};
use nalgebra::DMatrix;
use serde_json::Value;

fn reference() -> Value {
    serde_json::from_str(include_str!("../data/semantics.json")).unwrap()
}

fn scikit_learn() -> Value {
    serde_json::from_str(include_str!("../data/scikit_learn.json")).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    let list = value
        .as_array()
        .unwrap_or_else(|| panic!("{value} is no list"));
    list.iter().map(|v| v.as_f64().unwrap()).collect()
}

fn counts(value: &Value) -> Vec<usize> {
    numbers(value).into_iter().map(|v| v as usize).collect()
}

#[track_caller]
fn assert_close(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        let error = (found - expected).abs();
        let allowed = tolerance * expected.abs().max(1.0);
        assert!(error <= allowed, "{what}: {found}, not {expected}");
    }
}

/// Gradients of sizes from 1e-9 to 1e6 in turn.
#[test]
fn update_rules_of_pytorch() {
    let reference = reference();
    let adam = || Adam::new(0.05).unwrap();
    let rms_prop = || RmsProp::new(0.05).unwrap();
    let descent = || GradientDescent::new(0.1).unwrap();
    fn trajectory<T: Scalar>(rule: &dyn Optimizer<T>, reference: &Value) -> Vec<f64> {
        let mut x: Vec<T> = numbers(&reference["start"])
            .into_iter()
            .map(T::of)
            .collect();
        let mut state = vec![T::zero(); rule.slots() * x.len()];
        let mut values = Vec::new();
        for (number, gradient) in (1..).zip(reference["gradients"].as_array().unwrap()) {
            let gradient: Vec<T> = numbers(gradient).into_iter().map(T::of).collect();
            rule.update(Step::new(number, 1.0), &mut x, &gradient, &mut state);
            values.extend(x.iter().map(|x| x.as_f64()));
        }
        values
    }
    macro_rules! agree {
        ($($name:literal: $rule:expr,)*) => {$(
            let expected = reference["rules"][$name].as_array().unwrap();
            let expected: Vec<f64> = expected.iter().flat_map(numbers).collect();
            let rule = $rule;
            assert_close($name, &trajectory::<f64>(&rule, &reference), &expected, 1e-12);
            assert_close($name, &trajectory::<f32>(&rule, &reference), &expected, 3e-6);
        )*};
    }
    agree! {
        "descent": descent(),
        "momentum": descent().with_momentum(0.9).unwrap(),
        "nesterov": descent().with_nesterov(0.9).unwrap(),
        "adam": adam(),
        "adam_options": adam().with_betas(0.5, 0.8).unwrap().with_epsilon(1e-3).unwrap(),
        "adam_w": AdamW::new(adam()),
        "adam_w_options": AdamW::new(adam()).with_weight_decay(0.3).unwrap(),
        "rms_prop": rms_prop(),
        "rms_prop_options": rms_prop().with_alpha(0.7).unwrap().with_epsilon(1e-3).unwrap(),
    }
}

#[test]
fn schedules_of_pytorch() {
    let reference = reference();
    let schedules = [
        ("cosine", Schedule::cosine(0.1).unwrap()),
        ("linear", Schedule::linear(0.25).unwrap()),
        ("geometric", Schedule::geometric(0.01).unwrap()),
        ("steps", Schedule::steps(5, 0.3).unwrap()),
        ("warm_up", Schedule::CONSTANT.with_warm_up(4)),
    ];
    for (name, schedule) in schedules {
        let factors: Vec<f64> = (0..=12).map(|step| schedule.factor(step, 12)).collect();
        assert_close(
            name,
            &factors,
            &numbers(&reference["schedules"][name]),
            1e-12,
        );
    }
}

/// PyTorch divides by the norm plus 1e-6, the crate by the norm: theirs is shorter by that.
#[test]
fn clipping_of_pytorch() {
    let reference = &reference()["clipping"];
    let gradients: Vec<f64> = reference["gradients"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(numbers)
        .collect();
    let clipped: Vec<f64> = reference["clipped"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(numbers)
        .collect();
    let norm = reference["norm"].as_f64().unwrap();

    // At W = 0 and x = 1 the gradient is −y.
    let dense = Dense::new(1, gradients.len(), Activation::Identity).unwrap();
    let circuit = Circuit::builder()
        .layer(dense.without_bias())
        .build()
        .unwrap();
    let mut model = DecoupledCircuit::new(circuit, Energy::default()).unwrap();
    model
        .set_parameters(0, &vec![0.0; gradients.len()])
        .unwrap();
    let y = DMatrix::from_fn(gradients.len(), 1, |i, _| -gradients[i]);
    let x = DMatrix::from_element(1, 1, 1.0);
    model
        .add_examples(&x, &y, &TargetInit::ForwardPass)
        .unwrap();
    let w_step = WStep::optimizer(GradientDescent::new(1.0).unwrap());
    let w_step = w_step.with_max_gradient_norm(0.5).unwrap();
    let phase = Phase::with_w_step(Backprop, w_step).unwrap().with_epochs(1);
    Trainer::new(phase).run(&mut model).unwrap();

    let moved: Vec<f64> = model.circuit().parameters(0).iter().map(|w| -w).collect();
    let own = moved.iter().map(|w| w * w).sum::<f64>().sqrt();
    assert!((own - 0.5).abs() < 1e-14);
    let theirs: Vec<f64> = clipped.iter().map(|g| g * (norm + 1e-6) / norm).collect();
    assert_close("clipping", &moved, &theirs, 1e-12);
}

/// The sum and the gradient of a loss of the reference.
#[track_caller]
fn check_loss(reference: &Value, name: &str, loss: &dyn Loss<f64>) {
    let prediction = numbers(&reference["prediction"]);
    let dim = reference["dim"].as_u64().unwrap() as usize;
    let expected = &reference["losses"][name];
    let target = numbers(&expected["target"]);
    let n = target.len() / dim;
    let at = Pair::new(dim, &target, &prediction);
    let (mut values, mut gradient) = (vec![0.0; n], vec![0.0; dim * n]);
    let mut work = vec![0.0; loss.scratch(dim, n)];
    loss.check_target(dim, &target).unwrap();
    let to_gradient = Write::Set(&mut gradient[..]);
    loss.evaluate(&at, &mut values, Write::Skip, to_gradient, &mut work);
    let value = values.iter().sum::<f64>();
    let expected_value = expected["value"].as_f64().unwrap();
    assert_close(name, &[value], &[expected_value], 1e-12);
    assert_close(name, &gradient, &numbers(&expected["gradient"]), 1e-12);
}

#[test]
fn losses_of_pytorch() {
    let reference = reference();
    let weights = numbers(&reference["weights"]);
    let check = |name: &str, loss: &dyn Loss<f64>| check_loss(&reference, name, loss);
    check("squared", &SquaredError);
    let weighted = WeightedSquaredError::new(weights.clone()).unwrap();
    check("weighted_squared", &weighted);
    check("huber", &Huber::new(1.5).unwrap());
    check("cross_entropy", &SoftmaxCrossEntropy);
    check("soft_targets", &SoftmaxCrossEntropy);
    let weighted = ClassWeights::new(weights.clone(), SoftmaxCrossEntropy).unwrap();
    check("class_weights", &weighted);
    let weighted = WeightedCrossEntropy::new(weights.clone()).unwrap();
    check("class_weights", &weighted);
    check("class_weights_of_soft_targets_in_pytorch", &weighted);
    let smoothing = LabelSmoothing::new(SoftmaxCrossEntropy, 0.2).unwrap();
    check("smoothing", &smoothing);
    check("binary", &BinaryCrossEntropy);
    check("poisson", &Poisson);
    check("kullback_leibler", &KullbackLeibler);
    let gaussian = Gaussian::new(numbers(&reference["precisions"])).unwrap();
    check("gaussian", &gaussian);
}

#[test]
fn losses_of_scikit_learn() {
    let reference = scikit_learn();
    let check = |name: &str, loss: &dyn Loss<f64>| check_loss(&reference, name, loss);
    let weights = numbers(&reference["weights"]);
    let weighted = WeightedBinaryCrossEntropy::new(weights).unwrap();
    check("positive_weights", &weighted);
    check("positive_weights_of_labels", &weighted);
    let smoothing = LabelSmoothing::binary(BinaryCrossEntropy, 0.2).unwrap();
    check("binary_smoothing", &smoothing);
    check("quantile_of_a_tenth", &Quantile::new(0.1).unwrap());
    check("quantile_of_three_quarters", &Quantile::new(0.75).unwrap());
}

/// Of a soft target PyTorch weighs every class's term, −Σ w_j y_j ln p_j, as `WeightedCrossEntropy`
/// does; `ClassWeights` weighs the example, (Σ w_j y_j) L. Both are the same for labels.
#[test]
fn class_weights_of_soft_targets_differ() {
    let reference = reference();
    let expected = &reference["losses"]["class_weights_of_soft_targets_in_pytorch"];
    let (x, y) = (
        numbers(&reference["prediction"]),
        numbers(&expected["target"]),
    );
    let weights = numbers(&reference["weights"]);
    let loss = ClassWeights::new(weights.clone(), SoftmaxCrossEntropy).unwrap();
    let n = y.len() / 4;
    let mut values = vec![0.0; n];
    let mut work = vec![0.0; loss.scratch(4, n)];
    let at = Pair::new(4, &y, &x);
    loss.evaluate(&at, &mut values, Write::Skip, Write::Skip, &mut work);
    let (mut own, mut theirs) = (0.0, 0.0);
    for (x, y) in x.chunks(4).zip(y.chunks(4)) {
        let total = x.iter().map(|x| x.exp()).sum::<f64>().ln();
        let weight: f64 = y.iter().zip(&weights).map(|(y, w)| y * w).sum();
        for ((x, y), w) in x.iter().zip(y).zip(&weights) {
            own += weight * y * (total - x);
            theirs += w * y * (total - x);
        }
    }
    assert_close("by example", &[values.iter().sum()], &[own], 1e-12);
    assert_close(
        "by class",
        &[theirs],
        &[expected["value"].as_f64().unwrap()],
        1e-12,
    );
}

#[test]
fn standardizer_of_scikit_learn() {
    let reference = &reference()["standardizer"];
    let matrix = |name: &str| {
        DMatrix::from_vec(
            5,
            numbers(&reference[name]).len() / 5,
            numbers(&reference[name]),
        )
    };
    let values = matrix("values");
    let fitted = Standardizer::fit(&values).unwrap();
    assert_close(
        "means",
        fitted.mean().as_slice(),
        &numbers(&reference["mean"]),
        1e-12,
    );
    // scikit-learn's scale of a constant column is 1, and the crate's 0: both give zeros.
    let deviation = fitted.deviation().as_slice();
    assert_close("σ", deviation, &numbers(&reference["deviation"]), 1e-12);
    let transformed = fitted.transform(&values).unwrap();
    // 1e6 + N(0, 1): the data carry no more than 1e-10.
    assert_close(
        "values",
        transformed.as_slice(),
        &numbers(&reference["transformed"]),
        1e-9,
    );
    let mut new = fitted.transform(&matrix("new")).unwrap();
    let mut theirs = matrix("new_transformed");
    // Where a column was constant, they keep the distance, and the crate drops it.
    new.row_mut(3).fill(0.0);
    theirs.row_mut(3).fill(0.0);
    assert_close("new values", new.as_slice(), theirs.as_slice(), 1e-9);
}

#[test]
fn splits_of_scikit_learn() {
    let reference = &reference()["splits"];
    for case in reference["stratified"].as_array().unwrap() {
        let sizes = counts(&case["sizes"]);
        let labels: Vec<usize> = sizes
            .iter()
            .enumerate()
            .flat_map(|(class, &n)| vec![class; n])
            .collect();
        for seed in 0..20 {
            let fraction = case["fraction"].as_f64().unwrap();
            let split = Split::stratified(&labels, fraction, seed).unwrap();
            let mut test = vec![0; sizes.len()];
            split
                .test
                .iter()
                .for_each(|&column| test[labels[column]] += 1);
            assert_eq!(test, counts(&case["test"]), "{case}");
        }
    }
    for case in reference["folds"].as_array().unwrap() {
        let [n, k] = ["n", "k"].map(|name| case[name].as_u64().unwrap() as usize);
        let folds = Split::folds(n, k, 3).unwrap();
        let sizes: Vec<usize> = folds.iter().map(|fold| fold.test.len()).collect();
        assert_eq!(sizes, counts(&case["sizes"]), "{case}");
    }
}

#[test]
fn metrics_of_scikit_learn() {
    let reference = &reference()["metrics"];
    let number = |name: &str| reference[name].as_f64().unwrap();
    let scores = numbers(&reference["scores"]);
    let scores = DMatrix::from_vec(3, scores.len() / 3, scores);
    let truth = counts(&reference["truth"]);
    let accuracy = metrics::accuracy(&truth, &scores).unwrap();
    assert_close("accuracy", &[accuracy], &[number("accuracy")], 1e-15);
    let top = metrics::top_k_accuracy(&truth, &scores, 2).unwrap();
    assert_close("top 2", &[top], &[number("top_2")], 1e-15);
    let confusion = metrics::confusion(&truth, &scores).unwrap();
    for (i, row) in reference["confusion"]
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
    {
        let own: Vec<usize> = (0..3).map(|j| confusion[(i, j)]).collect();
        assert_eq!(own, counts(row));
    }
    let matrix = |name: &str| {
        let values = numbers(&reference[name]);
        DMatrix::from_vec(2, values.len() / 2, values)
    };
    let (outputs, wanted) = (matrix("outputs"), matrix("wanted"));
    let rmse = metrics::rmse(&wanted, &outputs).unwrap();
    assert_close("rmse", &[rmse], &[number("rmse")], 1e-14);
    let r_squared = metrics::r_squared(&wanted, &outputs).unwrap();
    assert_close("R²", &r_squared, &numbers(&reference["r_squared"]), 1e-13);
}

#[test]
fn class_metrics_of_scikit_learn() {
    use metrics::Average;
    let reference = &scikit_learn()["metrics"];
    let number = |name: &str| reference[name].as_f64().unwrap();
    let rows = reference["classes"].as_u64().unwrap() as usize;
    let matrix = |name: &str, rows: usize| {
        let values = numbers(&reference[name]);
        DMatrix::from_vec(rows, values.len() / rows, values)
    };
    let (scores, truth) = (matrix("scores", rows), counts(&reference["truth"]));
    type Score = fn(&Vec<usize>, &DMatrix<f64>, Average) -> Result<f64, Error>;
    let scored: [(&str, Score); 3] = [
        ("precision", |labels, outputs, average| {
            metrics::precision(labels, outputs, average)
        }),
        ("recall", |labels, outputs, average| {
            metrics::recall(labels, outputs, average)
        }),
        ("f1", |labels, outputs, average| {
            metrics::f1(labels, outputs, average)
        }),
    ];
    for (name, score) in scored {
        let found = |average| score(&truth, &scores, average).unwrap();
        let expected = &reference[name];
        let each: Vec<f64> = (0..rows).map(|c| found(Average::Class(c))).collect();
        assert_close(name, &each, &numbers(&expected["classes"]), 1e-15);
        let averages = [found(Average::Macro), found(Average::Micro)];
        let theirs = ["macro", "micro"].map(|name| expected[name].as_f64().unwrap());
        assert_close(name, &averages, &theirs, 1e-15);
    }

    let p = matrix("probabilities", rows);
    let losses = [
        metrics::log_loss(&truth, &p).unwrap(),
        metrics::brier_score(&truth, &p).unwrap(),
    ];
    assert_close("p", &losses, &["log_loss", "brier"].map(number), 1e-13);
    let (on, is_on) = (matrix("on", 1), counts(&reference["is_on"]));
    let binary = [
        metrics::binary_accuracy(&is_on, &on).unwrap(),
        metrics::log_loss(&is_on, &on).unwrap(),
        metrics::brier_score(&is_on, &on).unwrap(),
    ];
    let theirs = ["binary_accuracy", "binary_log_loss", "binary_brier"].map(number);
    assert_close("one row", &binary, &theirs, 1e-13);
    for (name, labels, p) in [
        ("calibration", &truth, &p),
        ("binary_calibration", &is_on, &on),
    ] {
        for (bins, expected) in reference[name].as_object().unwrap() {
            let found = metrics::calibration_error(labels, p, bins.parse().unwrap());
            assert_close(
                bins,
                &[found.unwrap()],
                &[expected.as_f64().unwrap()],
                1e-13,
            );
        }
    }
}

#[test]
fn folds_of_scikit_learn() {
    let reference = &scikit_learn()["splits"];
    let of_sizes = |name: &str| -> (Vec<usize>, usize) {
        let sizes = counts(&reference[name]["sizes"]);
        let labels = sizes.iter().enumerate().flat_map(|(c, &n)| vec![c; n]);
        (labels.collect(), sizes.len())
    };
    let (groups, _) = of_sizes("groups");
    for (k, expected) in reference["groups"]["tests"].as_object().unwrap() {
        let folds = Split::group_folds(&groups, k.parse().unwrap(), 3).unwrap();
        let mut sizes: Vec<usize> = folds.iter().map(|fold| fold.test.len()).collect();
        sizes.sort_unstable();
        assert_eq!(sizes, counts(expected), "{k}");
    }
    let (labels, classes) = of_sizes("stratified");
    for (k, expected) in reference["stratified"]["tests"].as_object().unwrap() {
        let folds = Split::stratified_folds(&labels, k.parse().unwrap(), 3).unwrap();
        for (fold, expected) in folds.iter().zip(expected.as_array().unwrap()) {
            let mut found = vec![0; classes];
            fold.test
                .iter()
                .for_each(|&column| found[labels[column]] += 1);
            assert_eq!(found, counts(expected), "{k}");
        }
    }
    for case in reference["time"].as_array().unwrap() {
        let [n, k] = ["n", "k"].map(|name| case[name].as_u64().unwrap() as usize);
        let folds = Split::time_folds(n, k).unwrap();
        for (fold, expected) in folds.iter().zip(case["folds"].as_array().unwrap()) {
            assert_eq!(fold.test, counts(expected), "{case}");
            assert!(fold.train.iter().copied().eq(0..fold.test[0]), "{case}");
        }
    }
}

/// Columns of sizes 0.01 to 100, one far from 0; LAPACK works on the data, the crate on their sums.
#[test]
fn least_squares_of_lapack() {
    let reference = &reference()["least_squares"];
    let mut equations = NormalEquations::<f64>::new(3, 2, true).unwrap();
    let (x, y) = (numbers(&reference["x"]), numbers(&reference["y"]));
    equations.add(&x, &y, None).unwrap();
    let mut parameters = vec![0.0; 8];
    equations.solve(0.0, 0.0, &mut parameters).unwrap();
    // The bias holds an input near 1000: relative to that, not to itself.
    assert_close(
        "least squares",
        &parameters,
        &numbers(&reference["solution"]),
        1e-9,
    );
}

fn digits(found: &[f64], certified: &[f64]) -> f64 {
    let own = found
        .iter()
        .zip(certified)
        .map(|(a, b)| -((a - b).abs() / b.abs()).log10());
    own.fold(f64::INFINITY, f64::min)
}

/// NIST's hardest linear problems. Longley in one batch or example by example; Filip, a polynomial
/// of degree 10, is beyond sums in f64 and says so.
#[test]
fn least_squares_of_nist() {
    let reference = &reference()["least_squares"];
    let longley = &reference["longley"];
    let (x, y) = (numbers(&longley["x"]), numbers(&longley["y"]));
    for batch in [16, 5, 1] {
        let mut equations = NormalEquations::<f64>::new(6, 1, true).unwrap();
        for (x, y) in x.chunks(6 * batch).zip(y.chunks(batch)) {
            equations.add(x, y, None).unwrap();
        }
        let mut parameters = vec![0.0; 7];
        equations.solve(0.0, 0.0, &mut parameters).unwrap();
        let digits = digits(&parameters, &numbers(&longley["certified"]));
        assert!(digits > 11.0, "{digits} digits in batches of {batch}");
    }

    let filip = &reference["filip"];
    let (x, y) = (numbers(&filip["x"]), numbers(&filip["y"]));
    let powers: Vec<f64> = x.iter().flat_map(|x| (1..=10).map(|k| x.powi(k))).collect();
    let mut equations = NormalEquations::<f64>::new(10, 1, true).unwrap();
    equations.add(&powers, &y, None).unwrap();
    let mut parameters = vec![0.0; 11];
    let solved = equations.solve(0.0, 0.0, &mut parameters);
    assert!(matches!(solved, Err(Error::Singular { .. })), "{solved:?}");
    assert_eq!(parameters, [0.0; 11]);
}
