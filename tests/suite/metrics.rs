//! Metrics, standardisation and splits: values worked out by hand, properties, and every error with
//! its numbers.

use std::collections::BTreeSet;

use layerwise::data::{Split, Standardizer, metrics};
use layerwise::error::Quantity;
use layerwise::{Error, Scalar};
use nalgebra::{DMatrix, dmatrix};
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestCaseResult, TestRunner};

/// Runs `test` on 256 draws of `strategy`; the seed is fixed, so running the test again replays a
/// failure.
fn for_all<S: Strategy>(strategy: S, test: impl Fn(S::Value) -> TestCaseResult) {
    let config = ProptestConfig {
        cases: 256,
        rng_seed: RngSeed::Fixed(0x6d65_7472),
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    if let Err(failure) = TestRunner::new(config).run(&strategy, test) {
        panic!("{failure}");
    }
}

/// 2 to 6 classes, 1 to 12 examples: labels, and outputs among a few values, so that many are equal.
fn classified() -> impl Strategy<Value = (Vec<usize>, DMatrix<f32>)> {
    (2..=6usize, 1..=12usize).prop_flat_map(|(classes, n)| {
        let labels = prop::collection::vec(0..classes, n);
        let outputs = prop::collection::vec(-2..=2i8, classes * n);
        let outputs = outputs.prop_map(move |values| {
            DMatrix::from_vec(classes, n, values.into_iter().map(f32::from).collect())
        });
        (labels, outputs)
    })
}

fn numbers(size: f64) -> impl Strategy<Value = DMatrix<f64>> {
    (1..=5usize, 2..=12usize).prop_flat_map(move |(rows, n)| {
        let values = prop::collection::vec(-size..size, rows * n);
        values.prop_map(move |values| DMatrix::from_vec(rows, n, values))
    })
}

/// An error, with what its message must name.
#[track_caller]
fn refused<R: std::fmt::Debug>(result: Result<R, Error>, expected: Error, text: &[&str]) {
    let error = result.unwrap_err();
    // NaN does not equal itself.
    assert_eq!(format!("{error:?}"), format!("{expected:?}"));
    for part in text {
        assert!(error.to_string().contains(part), "{part:?}: {error}");
    }
}

// Four examples of three classes. The classes of the columns are 0, 1 (a tie with 2), 2, 0 (a tie
// with all).
fn outputs() -> DMatrix<f64> {
    dmatrix![
        0.9, 0.1, -3.0, 0.0;
        0.5, 0.4, -2.0, 0.0;
        0.1, 0.4, -1.0, 0.0
    ]
}

#[test]
fn classes_of_columns() {
    assert_eq!(metrics::labels(&outputs()), [0, 1, 2, 0]);
    let nan = f64::NAN;
    let odd = dmatrix![nan, nan, -1.0, f64::NEG_INFINITY; 1.0, nan, nan, f64::INFINITY];
    assert_eq!(metrics::labels(&odd), [1, 0, 0, 1]);
    assert_eq!(metrics::labels(&DMatrix::<f64>::zeros(0, 2)), [0, 0]);
    assert_eq!(
        metrics::labels(&DMatrix::<f64>::zeros(2, 0)),
        Vec::<usize>::new()
    );
}

#[test]
fn one_hot_columns() {
    let targets = metrics::one_hot::<f32>(&[1, 1, 2], 3).unwrap();
    assert_eq!(
        targets,
        dmatrix![0.0, 0.0, 0.0; 1.0, 1.0, 0.0; 0.0, 0.0, 1.0]
    );
    assert_eq!(metrics::one_hot::<f32>(&[], 3).unwrap().shape(), (3, 0));
}

#[test]
fn shares_and_counts_of_four_examples() {
    // Ranks of the labels from 0: 0, 1 (behind its equal), 2, 1 (behind its equal).
    let labels = [0, 2, 0, 1];
    assert_eq!(metrics::accuracy(&labels, &outputs()), Ok(0.25));
    let top = |k| metrics::top_k_accuracy(&labels, &outputs(), k);
    assert_eq!([top(1), top(2), top(3)], [Ok(0.25), Ok(0.75), Ok(1.0)]);
    let expected = dmatrix![1, 0, 1; 1, 0, 0; 0, 1, 0];
    assert_eq!(metrics::confusion(&labels, &outputs()), Ok(expected));
}

#[test]
fn shares_and_counts_agree() {
    for_all(classified(), |(labels, outputs)| {
        let n = labels.len() as f64;
        let accuracy = metrics::accuracy(&labels, &outputs).unwrap();
        let counts = metrics::confusion(&labels, &outputs).unwrap();
        prop_assert_eq!(counts.trace() as f64 / n, accuracy);
        for class in 0..outputs.nrows() {
            let own = labels.iter().filter(|&&label| label == class).count();
            prop_assert_eq!(counts.row(class).sum(), own);
        }
        let top = |k| metrics::top_k_accuracy(&labels, &outputs, k).unwrap();
        prop_assert_eq!(top(1), accuracy);
        for k in 1..outputs.nrows() {
            prop_assert!(top(k) <= top(k + 1), "k = {}", k);
        }
        prop_assert_eq!(top(outputs.nrows()), 1.0);
        Ok(())
    });
}

#[test]
fn one_hot_and_labels_undo_one_another() {
    for_all(classified(), |(labels, outputs)| {
        let targets = metrics::one_hot::<f64>(&labels, outputs.nrows()).unwrap();
        prop_assert_eq!(targets.sum(), labels.len() as f64);
        prop_assert_eq!(metrics::labels(&targets), labels);
        Ok(())
    });
}

#[test]
fn errors_of_regressions() {
    // Differences 1, 0, −2, 0, 4, 2: squares 1 + 4 + 16 + 4 = 25 over 6 entries.
    let targets = dmatrix![1.0, 2.0, 3.0; 0.0, 4.0, 8.0_f32];
    let outputs = dmatrix![0.0, 2.0, 5.0; 0.0, 0.0, 6.0_f32];
    let rmse = metrics::rmse(&targets, &outputs).unwrap();
    assert!((rmse - 5.0 / 6f64.sqrt()).abs() < 1e-15, "{rmse}");
    // Residuals 5 and 20, totals 2 and 32.
    let r_squared = metrics::r_squared(&targets, &outputs).unwrap();
    assert!((r_squared[0] + 1.5).abs() < 1e-15, "{r_squared:?}");
    assert!((r_squared[1] - 0.375).abs() < 1e-15, "{r_squared:?}");
}

#[test]
fn sums_of_f32_are_made_in_f64() {
    // In f32, 1 added to 2^24 is lost.
    let n = (1 << 24) + 3;
    let outputs = DMatrix::from_element(1, n, 1.0_f32);
    let rmse = metrics::rmse(&DMatrix::zeros(1, n), &outputs);
    assert_eq!(rmse, Ok(1.0));
}

#[test]
fn r_squared_of_constant_rows() {
    // The mean of three 0.1 is not 0.1.
    let targets = dmatrix![0.1, 0.1, 0.1; 0.1, 0.1, 0.1; 0.0, 0.0, 0.0; 0.0, 0.0, 0.0];
    let outputs = dmatrix![0.1, 0.1, 0.1; 0.1, 0.2, 0.1; 0.0, 0.0, 0.0; 0.0, 1e-9, 0.0];
    let r_squared = metrics::r_squared(&targets, &outputs);
    assert_eq!(r_squared, Ok(vec![1.0, 0.0, 1.0, 0.0]));
    let single = metrics::r_squared(&dmatrix![2.0; 2.0], &dmatrix![2.0; 3.0]);
    assert_eq!(single, Ok(vec![1.0, 0.0]));
}

#[test]
fn r_squared_of_extreme_numbers_is_a_number() {
    for scale in [1e-320, 1e-200, 1e200, 1e307] {
        let targets = dmatrix![1.0, 2.0, 3.0, 4.0] * scale;
        let outputs = dmatrix![1.0, 2.0, 3.0, 5.0] * scale;
        let found = metrics::r_squared(&targets, &outputs).unwrap()[0];
        assert!((found - 0.8).abs() < 1e-3, "{scale:e}: {found}");
    }
}

#[test]
fn r_squared_far_from_0_keeps_its_digits() {
    // All numbers are exact in f64; divided by the largest, they were not.
    for offset in [1e8, 1e12, 1e15, 1e16] {
        let targets = dmatrix![2.0, 4.0, 6.0, 8.0].add_scalar(offset);
        let outputs = dmatrix![2.0, 4.0, 6.0, 10.0].add_scalar(offset);
        let found = metrics::r_squared(&targets, &outputs).unwrap()[0];
        assert!((found - 0.8).abs() < 1e-15, "{offset:e}: {found}");
    }
}

#[test]
fn r_squared_of_exact_and_of_mean_outputs() {
    for_all(numbers(10.0), |targets| {
        let (rows, n) = targets.shape();
        let exact = metrics::r_squared(&targets, &targets).unwrap();
        prop_assert_eq!(exact, vec![1.0; rows]);
        prop_assert_eq!(metrics::rmse(&targets, &targets), Ok(0.0));
        let mean = DMatrix::from_fn(rows, n, |i, _| targets.row(i).mean());
        for value in metrics::r_squared(&targets, &mean).unwrap() {
            prop_assert!(value.abs() < 1e-9, "{}", value);
        }
        Ok(())
    });
}

/// One output is no class's.
#[test]
fn one_row_of_outputs_has_no_accuracy() {
    let outputs = dmatrix![0.3, -2.0, 7.0];
    for labels in [[0, 0, 0], [0, 1, 1]] {
        let error = || Error::Shape {
            what: "outputs, one row per class".into(),
            expected: (2, 3),
            found: (1, 3),
        };
        let text = ["one row per class", "2 x 3", "1 x 3"];
        refused(metrics::accuracy(&labels, &outputs), error(), &text);
        refused(metrics::confusion(&labels, &outputs), error(), &text);
        refused(
            metrics::top_k_accuracy(&labels, &outputs, 1),
            error(),
            &text,
        );
    }
}

/// Squares that over- or underflow, and 10⁷ terms.
#[test]
fn root_mean_squares_of_any_size_and_number() {
    for scale in [1e-320, 1e-300, 1e-170, 1e-160, 1.0, 1e150, 1e160, 1e307] {
        let (targets, outputs) = (dmatrix![1.0, 2.0] * scale, dmatrix![4.0, 6.0] * scale);
        let found = metrics::rmse(&targets, &outputs).unwrap() / scale;
        assert!((found - 12.5_f64.sqrt()).abs() < 1e-3 * f64::from(scale < 1e-310) + 1e-14);
    }
    let n = 10_000_000;
    let mut outputs = DMatrix::from_vec(1, n, vec![0.1_f32; n]);
    outputs[0] = 1000.0;
    let squares = 1e6 + (n - 1) as f64 * f64::from(0.1_f32).powi(2);
    let found = metrics::rmse(&DMatrix::zeros(1, n), &outputs).unwrap();
    assert!((found / (squares / n as f64).sqrt() - 1.0).abs() < 1e-15);
    // Constant outputs beside targets far from 0: R² is −(their distance/σ)².
    let targets = DMatrix::from_vec(1, n, [1e6_f64 + 0.1, 1e6 - 0.1].repeat(n / 2));
    let outputs = DMatrix::from_vec(1, n, vec![1e6_f64 + 0.2; n]);
    let found = metrics::r_squared(&targets, &outputs).unwrap()[0];
    let ends = [0, 1].map(|i| targets[i]);
    let mean = 0.5 * (ends[0] + ends[1]);
    let residual: f64 = ends.iter().map(|y| (y - outputs[0]).powi(2)).sum();
    let total: f64 = ends.iter().map(|y| (y - mean).powi(2)).sum();
    assert!(
        (found / (1.0 - residual / total) - 1.0).abs() < 1e-12,
        "{found}"
    );
}

#[test]
fn wrong_data_of_metrics() {
    let labels = [0, 2, 0, 1];
    let unknown = Error::UnknownClass {
        column: 1,
        class: 3,
        classes: 3,
    };
    let text = ["column 1", "class 3", "0 to 2"];
    let wrong = [0, 3, 0, 7];
    refused(metrics::one_hot::<f64>(&wrong, 3), unknown.clone(), &text);
    refused(
        metrics::accuracy(&wrong, &outputs()),
        unknown.clone(),
        &text,
    );
    refused(
        metrics::confusion(&wrong, &outputs()),
        unknown.clone(),
        &text,
    );
    refused(
        metrics::top_k_accuracy(&wrong, &outputs(), 1),
        unknown,
        &text,
    );

    let length = Error::Length {
        what: "labels".into(),
        expected: 4,
        found: 3,
    };
    let text = ["labels", "4", "3"];
    refused(
        metrics::accuracy(&labels[1..], &outputs()),
        length.clone(),
        &text,
    );
    refused(
        metrics::confusion(&labels[1..], &outputs()),
        length.clone(),
        &text,
    );
    refused(
        metrics::top_k_accuracy(&labels[1..], &outputs(), 1),
        length,
        &text,
    );

    let none = DMatrix::<f64>::zeros(3, 0);
    let empty = |operation| Error::NoExamples { operation };
    refused(
        metrics::accuracy(&[], &none),
        empty("an accuracy"),
        &["an accuracy"],
    );
    let operation = "a confusion matrix";
    refused(
        metrics::confusion(&[], &none),
        empty(operation),
        &[operation],
    );
    let operation = "a top-k accuracy";
    refused(
        metrics::top_k_accuracy(&[], &none, 1),
        empty(operation),
        &[operation],
    );
    let operation = "a root mean square error";
    refused(metrics::rmse(&none, &none), empty(operation), &[operation]);
    let operation = "a coefficient of determination";
    refused(
        metrics::r_squared(&none, &none),
        empty(operation),
        &[operation],
    );

    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let mut bad = outputs();
        bad[(2, 1)] = value;
        let error = |quantity| Error::NonFiniteData {
            quantity,
            layer: 0,
            row: 2,
            column: 1,
            value,
        };
        let number = value.to_string();
        let text = ["output of a metric", &number, "row 2", "column 1"];
        let output = error(Quantity::MetricOutput);
        refused(metrics::accuracy(&labels, &bad), output.clone(), &text);
        refused(metrics::confusion(&labels, &bad), output.clone(), &text);
        refused(
            metrics::top_k_accuracy(&labels, &bad, 1),
            output.clone(),
            &text,
        );
        refused(metrics::rmse(&outputs(), &bad), output.clone(), &text);
        refused(metrics::r_squared(&outputs(), &bad), output, &text);
        let text = ["target of a metric", &number, "row 2", "column 1"];
        let target = error(Quantity::MetricTarget);
        refused(metrics::rmse(&bad, &outputs()), target.clone(), &text);
        refused(metrics::r_squared(&bad, &outputs()), target, &text);
    }

    for (k, number) in [(0, "0"), (4, "4")] {
        let error = Error::InvalidOption {
            option: "k",
            value: k as f64,
            allowed: "at least 1 and at most the number of classes, 3".into(),
        };
        let result = metrics::top_k_accuracy(&labels, &outputs(), k);
        refused(result, error, &["k is", number]);
    }

    let shape = Error::Shape {
        what: "outputs".into(),
        expected: (3, 4),
        found: (3, 2),
    };
    let narrow = DMatrix::zeros(3, 2);
    refused(
        metrics::rmse(&outputs(), &narrow),
        shape.clone(),
        &["3 x 4", "3 x 2"],
    );
    refused(
        metrics::r_squared(&outputs(), &narrow),
        shape,
        &["3 x 4", "3 x 2"],
    );
    let flat = DMatrix::<f64>::zeros(0, 4);
    let zero = |what| Error::ZeroDimension { what };
    let what = "dimension of the targets";
    refused(metrics::rmse(&flat, &flat), zero(what), &[what]);
    refused(metrics::r_squared(&flat, &flat), zero(what), &[what]);
    let what = "number of classes";
    refused(metrics::one_hot::<f64>(&[], 0), zero(what), &[what]);

    let error = |what, rows, columns| Error::TooLarge {
        what,
        rows,
        columns,
    };
    for classes in [usize::MAX, usize::MAX / 2] {
        refused(
            metrics::one_hot::<f64>(&[0, 1], classes),
            error("one-hot targets", classes, 2),
            &[&classes.to_string()],
        );
    }
}

#[test]
fn standardised_by_hand() {
    let train = dmatrix![1.0, 3.0, 5.0, 7.0; -2.0, -2.0, -2.0, -2.0];
    let fitted = Standardizer::fit(&train).unwrap();
    assert_eq!(fitted.mean().as_slice(), [4.0, -2.0]);
    assert_eq!(fitted.deviation().as_slice(), [5f64.sqrt(), 0.0]);
    let test = dmatrix![9.0; 3.0];
    let expected = dmatrix![5.0 / 5f64.sqrt(); 0.0];
    assert_eq!(fitted.transform(&test), Ok(expected));
    let inverse = fitted.inverse_transform(&dmatrix![2.0; 3.0]);
    assert_eq!(inverse, Ok(dmatrix![2.0 * 5f64.sqrt() + 4.0; -2.0]));

    let centred = Standardizer::fit_mean_only(&train).unwrap();
    assert_eq!(centred.mean(), fitted.mean());
    assert_eq!(centred.deviation().as_slice(), [1.0, 1.0]);
    assert_eq!(centred.transform(&test), Ok(dmatrix![5.0; 5.0]));
    assert_eq!(centred.inverse_transform(&dmatrix![5.0; 5.0]), Ok(test));
}

#[test]
fn standardised_rows_have_mean_0_and_variance_1() {
    for_all(numbers(100.0), |values| {
        let fitted = Standardizer::fit(&values).unwrap();
        let standardised = fitted.transform(&values).unwrap();
        for row in standardised.row_iter() {
            prop_assert!(row.mean().abs() < 1e-9, "mean {}", row.mean());
            prop_assert!((row.variance() - 1.0).abs() < 1e-9, "{}", row.variance());
        }
        for fitted in [fitted, Standardizer::fit_mean_only(&values).unwrap()] {
            let standardised = fitted.transform(&values).unwrap();
            let back = fitted.inverse_transform(&standardised).unwrap();
            prop_assert!((back - &values).amax() < 1e-11);
        }
        Ok(())
    });
}

#[test]
fn constant_rows_are_seen_to_be_constant() {
    // Rounded sums of 0.1 would leave a deviation, and pixels of f32 a mean off by more.
    for n in [3, 1000] {
        let values = DMatrix::from_element(1, n, 0.1_f32);
        let fitted = Standardizer::fit(&values).unwrap();
        assert_eq!(fitted.deviation()[0], 0.0);
        assert_eq!(fitted.transform(&values), Ok(DMatrix::zeros(1, n)));
        let back = fitted.inverse_transform(&DMatrix::from_element(1, 2, 5.0));
        assert_eq!(back, Ok(DMatrix::from_element(1, 2, 0.1)));
    }
}

/// Rows of any size: squares that over- or underflow, and distances to the mean that overflow.
#[test]
fn rows_of_any_size_are_standardised() {
    fn check<T: Scalar>(decades: &[i32], tolerance: f64) {
        // Mean 3, σ √3.5.
        let values = [1.0, 2.0, 3.0, 6.0];
        for &decade in decades {
            let scale = 10f64.powi(decade);
            let row = DMatrix::from_fn(1, 4, |_, i| T::of(values[i] * scale));
            let fitted = Standardizer::fit(&row).unwrap();
            let found = fitted.transform(&row).unwrap();
            for (found, value) in found.iter().zip(values) {
                let error = found.as_f64() - (value - 3.0) / 3.5f64.sqrt();
                assert!(error.abs() < tolerance, "1e{decade}: {found}");
            }
            let back = fitted.inverse_transform(&found).unwrap();
            for (back, own) in back.iter().zip(&row) {
                let error = (*back - *own).as_f64().abs();
                assert!(error <= tolerance * scale, "1e{decade}: {back}");
            }
        }
    }
    check::<f64>(
        &[-300, -200, -162, -150, 0, 100, 149, 150, 153, 160, 250, 307],
        1e-14,
    );
    check::<f32>(&[-37, -30, -22, -10, 0, 10, 19, 20, 30, 37], 1e-6);
    // x − m is twice the largest number; σ is it.
    let largest = f64::MAX;
    let ends = dmatrix![-largest, largest; -1e-300, 1e-300; 1e308, 1.5e308; 1e308, 1e308];
    let fitted = Standardizer::fit(&ends).unwrap();
    let found = fitted.transform(&ends).unwrap();
    let expected = dmatrix![-1.0, 1.0; -1.0, 1.0; -1.0, 1.0; 0.0, 0.0];
    assert!((&found - expected).amax() < 1e-12, "{found}");
    assert_eq!(
        fitted.inverse_transform(&found).unwrap().row(0),
        ends.row(0)
    );
    let one_far = dmatrix![-largest, largest, largest, largest];
    let found = Standardizer::fit(&one_far)
        .unwrap()
        .transform(&one_far)
        .unwrap();
    let expected = dmatrix![-(3f64.sqrt()), 1.0 / 3f64.sqrt()];
    assert!((found.columns(0, 2) - expected).amax() < 1e-14, "{found}");
    // Neither σ² nor 1/σ is a number.
    let small = dmatrix![0.0, 1e-42_f32];
    let found = Standardizer::fit(&small).unwrap().transform(&small);
    assert_eq!(found, Ok(dmatrix![-1.0, 1.0]));
    let small = dmatrix![0.0, 1e-320];
    let found = Standardizer::fit(&small).unwrap().transform(&small);
    assert_eq!(found, Ok(dmatrix![-1.0, 1.0]));
}

/// The next number of T above `x`, `count` times.
fn above<T: Scalar>(x: f64, count: i32) -> f64 {
    let x = T::of(x).as_f64();
    let place = T::default_epsilon().as_f64() * 2f64.powi(x.abs().log2().floor() as i32);
    x + f64::from(count) * place
}

/// Values that differ by rounding only are constant.
#[test]
fn rounding_is_no_signal() {
    fn zero<T: Scalar>(what: &str, values: &[f64]) {
        let row = DMatrix::from_fn(1, values.len(), |_, i| T::of(values[i]));
        let fitted = Standardizer::fit(&row).unwrap();
        assert_eq!(fitted.deviation()[0], 0.0, "{what}");
        let found = fitted.transform(&row).unwrap();
        assert!(found.iter().all(|s| s.is_zero()), "{what}: {found}");
        let back = fitted.inverse_transform(&found).unwrap();
        let mean = T::of(fitted.mean()[0]);
        assert!(back.iter().all(|&x| x == mean), "{what}: {back}");
    }
    fn check<T: Scalar>(decades: i32) {
        for decade in (-decades..=decades).step_by(decades as usize / 10) {
            let scale = 10f64.powi(decade);
            for value in [14.62, -0.7, 1.0, 1.999] {
                for n in [2, 3, 10, 1000] {
                    let mut values = vec![T::of(value * scale).as_f64(); n];
                    zero::<T>("equal", &values);
                    values[n / 2] = above::<T>(values[0], 1);
                    zero::<T>("one place off", &values);
                    values[n / 2] = above::<T>(values[0], -1);
                    zero::<T>("one place below", &values);
                }
            }
            // (0.7 f)/f in T.
            let there_and_back = |f: i32| {
                let f = T::of(f64::from(f));
                (T::of(0.7 * scale) * f / f).as_f64()
            };
            let values: Vec<f64> = (1..200).map(there_and_back).collect();
            zero::<T>("(0.7 f)/f", &values);
        }
    }
    check::<f64>(290);
    check::<f32>(30);
    for value in [14.62, 1.0, -3e200, 1e-250] {
        for n in [2, 5, 50, 3000] {
            let values: Vec<f64> = (0..n)
                .map(|i| above::<f64>(value, (i * 7919) % 201 - 100))
                .collect();
            zero::<f64>("100 places", &values);
        }
    }
}

/// A large mean hides no signal that the numbers hold.
#[test]
fn a_large_mean_hides_no_signal() {
    fn check<T: Scalar>(mean: f64, tolerance: f64) {
        for n in [10, 1000, 100_000] {
            let row = DMatrix::from_fn(1, n, |_, i| T::of(mean + (i % 10) as f64));
            let fitted = Standardizer::fit(&row).unwrap();
            assert_eq!(fitted.mean()[0], mean + 4.5, "{mean:e}");
            let found = fitted.transform(&row).unwrap();
            let average = found.iter().map(|s| s.as_f64()).sum::<f64>() / n as f64;
            assert!(average.abs() < tolerance, "{mean:e}, {n}: mean {average}");
            let variance = found.iter().map(|s| s.as_f64().powi(2)).sum::<f64>() / n as f64;
            assert!(
                (variance - 1.0).abs() < tolerance,
                "{mean:e}, {n}: {variance}"
            );
            let back = fitted.inverse_transform(&found).unwrap();
            assert!((back - row).amax().as_f64() < 0.01, "{mean:e}, {n}");
        }
    }
    for mean in [0.0, 1e3, -1e5, 1e6, 1e7] {
        check::<f32>(mean, 1e-6);
    }
    for mean in [0.0, 1e5, -1e9, 1e12, 1e13] {
        check::<f64>(mean, 1e-10);
    }
}

/// Rows that vary by little more than rounding have the mean 0 once they are standardised: the mean of
/// the row is no number of f64, but two.
#[test]
fn the_mean_has_more_digits_than_the_values() {
    for value in [14.62, 1.0, 1.999, -3e200, 1e-250, 1e15] {
        for n in [2, 3, 7, 50, 3001] {
            // A deviation of 256 places is above the limit.
            for spread in [1000, 3000, 100_000] {
                let places = |i: i32| (i * 7919 + i / 3) % spread - spread / 3;
                let row = DMatrix::from_fn(1, n, |_, i| match i {
                    0 => above::<f64>(value, -spread),
                    1 => above::<f64>(value, spread),
                    _ => above::<f64>(value, places(i as i32)),
                });
                let fitted = Standardizer::fit(&row).unwrap();
                let found = fitted.transform(&row).unwrap();
                let what = format!("{value:e}, {n}, {spread}");
                assert!(fitted.deviation()[0] > 0.0, "{what}");
                let (mean, square) = (found.mean(), found.norm_squared() / n as f64);
                assert!(mean.abs() < 1e-14, "{what}: mean {mean}");
                assert!((square - 1.0).abs() < 1e-12, "{what}: {square}");
                let back = fitted.inverse_transform(&found).unwrap();
                assert_eq!(back, row, "{what}");
            }
        }
    }
}

/// m + σ s fits although σ s does not.
#[test]
fn the_ends_of_the_scalar_are_undone_too() {
    fn check<T: Scalar>(most: f64, tolerance: f64) {
        for sign in [1.0, -1.0] {
            let row = [-most, -most, -most, most].map(|x| T::of(sign * x));
            let row = DMatrix::from_row_slice(1, 4, &row);
            let fitted = Standardizer::fit(&row).unwrap();
            let found = fitted.transform(&row).unwrap();
            let back = fitted.inverse_transform(&found).unwrap();
            for (&x, &found) in row.iter().zip(&back) {
                let error = found.as_f64() / x.as_f64() - 1.0;
                assert!(error.abs() < tolerance, "{found} for {x}");
            }
        }
        let fitted = Standardizer::fit(&DMatrix::from_row_slice(1, 2, &[T::zero(), T::of(most)]));
        let far = DMatrix::from_element(1, 1, T::of(8.0));
        let refused = fitted.unwrap().inverse_transform(&far);
        assert!(
            matches!(refused, Err(Error::Overflow { .. })),
            "{refused:?}"
        );
    }
    check::<f64>(1.7e308, 1e-15);
    check::<f32>(3.4e38, 1e-6);
}

/// In bits: s = ((x − m) − m′)/σ in f64, rounded once.
#[test]
fn transforms_are_their_formula() {
    fn check<T: Scalar>() {
        for offset in [0.0, 1.0, 300.0, 1e5] {
            let values = DMatrix::from_fn(3, 40, |r, i| {
                T::of(offset + ((r + 1) * i * i) as f64 * 0.7 % 1.9)
            });
            let fitted = Standardizer::fit(&values).unwrap();
            let found = fitted.transform(&values).unwrap();
            let back = fitted.inverse_transform(&found).unwrap();
            for (r, (&m, &sigma)) in fitted.mean().iter().zip(fitted.deviation()).enumerate() {
                let rest = fitted.mean_rest()[r];
                assert_eq!(m + rest, m);
                for i in 0..40 {
                    let (x, s) = (values[(r, i)].as_f64(), found[(r, i)]);
                    assert_eq!(s, T::of(((x - m) - rest) / sigma));
                    assert_eq!(back[(r, i)], T::of(m + (sigma * s.as_f64() + rest)));
                }
            }
        }
    }
    check::<f32>();
    check::<f64>();
}

/// 10⁷ numbers, a large one among them: the mean and σ are exact to the last digits.
#[test]
fn moments_of_many_examples_do_not_drift() {
    fn check<T: Scalar>(tolerance: f64) {
        let n = 10_000_000;
        let mut row = DMatrix::from_element(1, n, T::of(0.1));
        row[0] = T::of(1e7);
        let fitted = Standardizer::fit(&row).unwrap();
        let (first, rest) = (1e7, T::of(0.1).as_f64());
        let mean = rest + (first - rest) / n as f64;
        let share = 1.0 / n as f64;
        let deviation = (first - rest) * (share * (1.0 - share)).sqrt();
        assert!((fitted.mean()[0] / mean - 1.0).abs() < tolerance);
        assert!((fitted.deviation()[0] / deviation - 1.0).abs() < tolerance);
    }
    check::<f32>(1e-15);
    check::<f64>(1e-15);
}

#[test]
fn wrong_data_of_a_standardizer() {
    type Fit = fn(&DMatrix<f64>) -> Result<Standardizer<f64>, Error>;
    for fit in [Standardizer::fit as Fit, Standardizer::fit_mean_only as Fit] {
        let operation = "fitting a standardizer";
        let none = Error::NoExamples { operation };
        refused(fit(&DMatrix::zeros(2, 0)), none, &[operation]);
        let error = Error::NonFiniteData {
            quantity: Quantity::Data,
            layer: 0,
            row: 1,
            column: 2,
            value: f64::NAN,
        };
        let bad = dmatrix![1.0, 2.0, 3.0; 4.0, 5.0, f64::NAN];
        refused(fit(&bad), error, &["NaN", "row 1", "column 2"]);
        let fitted = fit(&dmatrix![1.0, 2.0; 3.0, 5.0]).unwrap();
        let error = Error::Shape {
            what: "values to standardise".into(),
            expected: (2, 7),
            found: (3, 7),
        };
        let tall = DMatrix::zeros(3, 7);
        let text = ["values to standardise", "2 x 7", "3 x 7"];
        refused(fitted.transform(&tall), error.clone(), &text);
        refused(fitted.inverse_transform(&tall), error, &text);
        assert_eq!(fitted.transform(&DMatrix::zeros(2, 0)).unwrap().len(), 0);
    }
}

#[test]
fn rows_are_standardised_like_columns() {
    let columns = dmatrix![1.0, 3.0, 8.0; 7.0, 7.0, 7.0; -1.0, 0.5, 0.0];
    let rows: Vec<Vec<f64>> = columns
        .column_iter()
        .map(|c| c.iter().copied().collect())
        .collect();
    let fitted = Standardizer::fit_rows(&rows).unwrap();
    assert_eq!(fitted, Standardizer::fit(&columns).unwrap());
    let scaled = fitted.transform_rows(&rows).unwrap();
    let expected = fitted.transform(&columns).unwrap();
    assert_eq!(scaled.concat(), expected.as_slice());
    let back = fitted.inverse_transform_rows(&scaled).unwrap();
    assert_eq!(
        back.concat(),
        fitted.inverse_transform(&expected).unwrap().as_slice()
    );
    assert_eq!(fitted.transform_rows(&[[0.0; 3]; 0]), Ok(vec![]));

    // Errors count as the rows do.
    let length = |what: &str, expected, found| Error::Length {
        what: what.into(),
        expected,
        found,
    };
    let ragged = [vec![1.0, 2.0], vec![1.0]];
    let error = length("row 1 (row 0 sets the length)", 2, 1);
    refused(Standardizer::fit_rows(&ragged), error, &["row 1"]);
    let error = length("row 0 to standardise", 3, 2);
    refused(
        fitted.transform_rows(&ragged),
        error.clone(),
        &["row 0", "3", "2"],
    );
    refused(fitted.inverse_transform_rows(&ragged), error, &["row 0"]);
    let operation = "fitting a standardizer";
    let none: [[f64; 2]; 0] = [];
    refused(
        Standardizer::fit_rows(&none),
        Error::NoExamples { operation },
        &[operation],
    );
    let nan = [[1.0, 2.0, 3.0], [4.0, 5.0, f64::NAN]];
    let error = Error::NonFiniteData {
        quantity: Quantity::Data,
        layer: 0,
        row: 1,
        column: 2,
        value: f64::NAN,
    };
    refused(
        Standardizer::fit_rows(&nan),
        error.clone(),
        &["row 1", "column 2"],
    );
    refused(fitted.transform_rows(&nan), error, &["row 1", "column 2"]);
}

#[test]
fn standardised_values_that_do_not_fit_are_errors() {
    let overflow = Error::Overflow {
        quantity: Quantity::Data,
        layer: 0,
    };
    let small = Standardizer::fit(&dmatrix![0.0, 1e-30_f32]).unwrap();
    assert_eq!(small.transform(&dmatrix![1e20]), Err(overflow.clone()));
    let large = Standardizer::fit(&dmatrix![0.0, 1e20_f32]).unwrap();
    assert_eq!(large.inverse_transform(&dmatrix![1e20]), Err(overflow));
}

/// Whether train and test are 0, …, count − 1 together.
fn is_partition(split: &Split, count: usize) -> bool {
    let mut all = [&split.train[..], &split.test[..]].concat();
    all.sort_unstable();
    all.into_iter().eq(0..count)
}

#[test]
fn shuffled_splits_are_partitions() {
    let sizes = (2..60usize).prop_flat_map(|count| (Just(count), 1..count, any::<u64>()));
    for_all(sizes, |(count, test_count, seed)| {
        let split = Split::shuffled(count, test_count, seed).unwrap();
        prop_assert_eq!(split.test.len(), test_count);
        prop_assert!(is_partition(&split, count));
        Ok(())
    });
}

#[test]
fn stratified_splits_keep_the_classes_shares() {
    let labels = prop::collection::vec(prop::sample::select(vec![0, 1, 2, 7, usize::MAX]), 2..60);
    for_all(
        (labels, 0.3..0.7, any::<u64>()),
        |(labels, fraction, seed)| {
            let split = Split::stratified(&labels, fraction, seed).unwrap();
            prop_assert!(is_partition(&split, labels.len()));
            let expected = (fraction * labels.len() as f64).round() as usize;
            prop_assert_eq!(split.test.len(), expected);
            for class in labels.iter().collect::<BTreeSet<_>>() {
                let whole = labels.iter().filter(|&label| label == class).count();
                let test = split.test.iter().filter(|&&i| labels[i] == *class).count();
                let exact = fraction * whole as f64;
                prop_assert!((test as f64 - exact).abs() < 1.0, "{} of {}", test, whole);
            }
            Ok(())
        },
    );
}

/// Examples in the test, by class.
fn tested(labels: &[usize], fraction: f64, seed: u64, classes: usize) -> Vec<usize> {
    let split = Split::stratified(labels, fraction, seed).unwrap();
    assert!(is_partition(&split, labels.len()));
    let mut counts = vec![0; classes];
    for column in split.test {
        counts[labels[column]] += 1;
    }
    counts
}

/// The labels 0, 1, …, as many of each as `sizes` says.
fn of_sizes(sizes: &[usize]) -> Vec<usize> {
    let classes = sizes.iter().enumerate();
    classes.flat_map(|(class, &n)| vec![class; n]).collect()
}

/// What is left over goes to classes at random: 10 classes of 5 at .1 share 5 examples.
#[test]
fn no_class_is_preferred_by_a_split() {
    // Sizes, a fraction, and how often of 2000 seeds each class gets one more.
    let cases: [(&[usize], f64, f64); 4] = [
        (&[5; 10], 0.1, 1000.0),
        (&[15, 5, 25, 5], 0.1, 1000.0),
        (&[3; 7], 1.0 / 3.0 + 0.05, 2000.0 / 7.0),
        (&[10, 10, 10], 0.25, 2000.0 * 2.0 / 3.0),
    ];
    for (sizes, fraction, expected) in cases {
        let labels = of_sizes(sizes);
        let mut odd = vec![0; sizes.len()];
        for seed in 0..2000 {
            let counts = tested(&labels, fraction, seed, sizes.len());
            for ((odd, count), &n) in odd.iter_mut().zip(counts).zip(sizes) {
                *odd += count - (fraction * n as f64) as usize;
            }
        }
        // Five standard deviations.
        let share: f64 = expected / 2000.0;
        let spread = 5.0 * (2000.0 * share * (1.0 - share)).sqrt();
        for &count in &odd {
            assert!(
                (count as f64 - expected).abs() < spread,
                "{sizes:?}: {odd:?}"
            );
        }
    }
}

/// ⌊f n_c⌋, ⌈f n_c⌉ and the total, in hundredths, where products of floats are off by a place.
#[test]
fn stratified_splits_keep_their_promises_exactly() {
    for percent in 1..100 {
        let fraction = percent as f64 / 100.0;
        for sizes in [[5, 40], [10, 100], [29, 71], [50, 50], [1, 99], [100, 300]] {
            let (labels, n) = (of_sizes(&sizes), sizes[0] + sizes[1]);
            if percent * n < 100 || (100 - percent) * n < 100 {
                continue;
            }
            for seed in 0..5 {
                let counts = tested(&labels, fraction, seed, 2);
                for (&count, n) in counts.iter().zip(sizes) {
                    let exact = percent * n;
                    let ends = exact / 100..=exact.div_ceil(100);
                    assert!(
                        ends.contains(&count),
                        "{percent} % of {sizes:?}: {counts:?}"
                    );
                }
                let distance = (100 * (counts[0] + counts[1])).abs_diff(percent * n);
                assert!(distance <= 50, "{percent} % of {sizes:?}: {counts:?}");
            }
        }
    }
    for seed in 0..100 {
        let counts = tested(&of_sizes(&[5, 40]), 0.7, seed, 2);
        assert!(counts[1] == 28 && [3, 4].contains(&counts[0]), "{counts:?}");
        // The larger remainder comes first.
        assert_eq!(tested(&of_sizes(&[4, 9]), 0.1, seed, 2), [0, 1]);
    }
}

#[test]
fn folds_are_a_partition() {
    let sizes = (2..40usize).prop_flat_map(|count| (Just(count), 2..=count, any::<u64>()));
    for_all(sizes, |(count, k, seed)| {
        let folds = Split::folds(count, k, seed).unwrap();
        prop_assert_eq!(folds.len(), k);
        let mut tested = Vec::new();
        for fold in &folds {
            prop_assert!(is_partition(fold, count));
            prop_assert!([count / k, count.div_ceil(k)].contains(&fold.test.len()));
            tested.extend_from_slice(&fold.test);
        }
        tested.sort_unstable();
        prop_assert!(tested.into_iter().eq(0..count));
        Ok(())
    });
}

#[test]
fn folds_that_no_memory_holds_are_refused_before_any_is_made() {
    let (count, k) = (1 << 24, 1 << 24);
    let error = Error::TooLarge {
        what: "the columns of all folds",
        rows: count,
        columns: k,
    };
    refused(
        Split::folds(count, k, 0),
        error,
        &["the columns of all folds"],
    );
}

#[test]
fn a_seed_decides_a_split() {
    let labels: Vec<usize> = (0..40).map(|i| i % 3).collect();
    let draw = |seed| {
        (
            Split::shuffled(40, 10, seed).unwrap(),
            Split::stratified(&labels, 0.25, seed).unwrap(),
            Split::folds(40, 4, seed).unwrap(),
        )
    };
    let (first, again, other) = (draw(1), draw(1), draw(2));
    assert_eq!(first, again);
    assert_ne!(first.0, other.0);
    assert_ne!(first.1, other.1);
    assert_ne!(first.2, other.2);
}

#[test]
fn every_column_is_tested_equally_often() {
    // 10 of 40 columns: 500 of 2000 draws test a column, with a standard deviation of 19.4.
    let labels = [[0; 20], [1; 20]].concat();
    let mut counts = [[0_i32; 40]; 2];
    for seed in 0..2000 {
        let splits = [
            Split::shuffled(40, 10, seed).unwrap(),
            Split::stratified(&labels, 0.25, seed).unwrap(),
        ];
        for (counts, split) in counts.iter_mut().zip(splits) {
            for column in split.test {
                counts[column] += 1;
            }
        }
    }
    for count in counts.into_iter().flatten() {
        assert!((count - 500).abs() < 100, "{counts:?}");
    }
}

#[test]
fn stratified_sides_are_in_random_order() {
    let labels = [[0; 50], [1; 50]].concat();
    let split = Split::stratified(&labels, 0.5, 0).unwrap();
    for side in [split.train, split.test] {
        let ones = side[..25].iter().filter(|&&column| labels[column] == 1);
        // Sorted by class there would be none.
        assert!((5..=20).contains(&ones.count()), "{side:?}");
    }
}

#[test]
fn wrong_options_of_splits() {
    let none = Error::NoExamples {
        operation: "a split",
    };
    refused(Split::shuffled(0, 0, 0), none.clone(), &["a split"]);
    refused(Split::stratified(&[], 0.5, 0), none.clone(), &["a split"]);
    refused(Split::folds(0, 2, 0), none, &["a split"]);
    for test_count in [0, 5, 6] {
        let error = Error::InvalidOption {
            option: "test_count",
            value: test_count as f64,
            allowed: "at least 1 and below the number of examples, 5".into(),
        };
        let text = format!("test_count is {test_count}");
        refused(Split::shuffled(5, test_count, 0), error, &[&text]);
    }
    let outside = [
        0.0,
        1.0,
        -0.5,
        1.5,
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
    ];
    for fraction in outside.into_iter().chain([0.09, 0.91]) {
        let error = Error::InvalidOption {
            option: "test_fraction",
            value: fraction,
            allowed: "between 0 and 1, and leave at least one example on each side".into(),
        };
        let text = format!("test_fraction is {fraction}");
        refused(Split::stratified(&[0; 5], fraction, 0), error, &[&text]);
    }
    for k in [0, 1, 6] {
        let error = Error::InvalidOption {
            option: "k",
            value: k as f64,
            allowed: "at least 2 and at most the number of examples, 5".into(),
        };
        refused(Split::folds(5, k, 0), error, &[&format!("k is {k}")]);
    }
    let large = |what, columns| Error::TooLarge {
        what,
        rows: usize::MAX,
        columns,
    };
    let text = [&*usize::MAX.to_string()];
    let list = large("a list of columns", 1);
    refused(Split::shuffled(usize::MAX, 1, 0), list, &text);
    let folds = large("the columns of all folds", 2);
    refused(Split::folds(usize::MAX, 2, 0), folds, &text);
}

/// A split of one side of a split: its columns are that side's, and none is lost.
#[test]
fn a_split_of_a_split_stays_on_its_side() {
    let outer = Split::shuffled(50, 10, 3).unwrap();
    let inner = Split::shuffled(40, 8, 4).unwrap();
    let within = inner.of(&outer.train).unwrap();
    let mut all = [&within.train[..], &within.test, &outer.test].concat();
    all.sort_unstable();
    assert!(all.into_iter().eq(0..50));
    for (place, column) in inner.test.iter().zip(&within.test) {
        assert_eq!(outer.train[*place], *column);
    }
    let error = inner.of(&outer.test).unwrap_err();
    assert!(
        matches!(error, Error::UnknownColumns { count: 10, .. }),
        "{error}"
    );
    assert!(!error.to_string().contains("circuit"), "{error}");
}

#[test]
fn a_standardizer_takes_no_nan() {
    let fitted = Standardizer::fit(&dmatrix![0.0, 1.0]).unwrap();
    let bad = dmatrix![0.5, f64::NAN];
    for result in [fitted.transform(&bad), fitted.inverse_transform(&bad)] {
        assert!(matches!(
            result,
            Err(Error::NonFiniteData {
                row: 0,
                column: 1,
                ..
            })
        ));
    }
}

#[test]
fn the_mean_of_equal_values_is_that_value() {
    // Sums of these round.
    for value in [0.1, 1.0 / 3.0, 1e6 + 0.1] {
        let fitted = Standardizer::fit(&DMatrix::from_element(1, 77, value)).unwrap();
        assert_eq!(fitted.mean()[0], value);
    }
}

#[test]
fn the_distance_of_the_largest_values_is_told_or_right() {
    let of = |value: f64| DMatrix::from_element(1, 1, value);
    let error = metrics::rmse(&of(1.7e308), &of(-1.7e308)).unwrap_err();
    assert!(matches!(error, Error::Overflow { .. }), "{error}");
    let half = metrics::rmse(&of(8e307), &of(-8e307)).unwrap();
    assert!((half / 1.6e308 - 1.0).abs() < 1e-15);
}

/// Differences are not rounded, even of the smallest numbers.
#[test]
fn rmse_of_subnormal_numbers() {
    let unit = f64::from_bits(1);
    for k in [1.0, 3.0, 5.0] {
        let found = metrics::rmse(&dmatrix![k * unit], &dmatrix![0.0]).unwrap();
        assert_eq!(found, k * unit);
    }
}
