//! Metrics of classes and of probabilities: by hand, relations to one another, and wrong data.

use crate::property::for_all;
use layerwise::Error;
use layerwise::data::metrics::{
    self, Average, accuracy, binary_accuracy, brier_score, calibration_error, f1, log_loss,
    precision, recall,
};
use nalgebra::{DMatrix, dmatrix};
use proptest::prelude::*;

/// Six examples of four classes, of which the last does not occur: the labels, and outputs whose
/// classes are 0, 0, 1, 1, 0, 2.
fn classified() -> ([usize; 6], DMatrix<f64>) {
    let outputs = metrics::one_hot(&[0, 0, 1, 1, 0, 2], 4).unwrap();
    ([0, 0, 0, 1, 1, 0], outputs)
}

#[test]
fn scores_by_hand() {
    let (labels, outputs) = classified();
    let all = |average| {
        [
            precision(&labels, &outputs, average).unwrap(),
            recall(&labels, &outputs, average).unwrap(),
            f1(&labels, &outputs, average).unwrap(),
        ]
    };
    let classes = [0, 1, 2, 3].map(|class| all(Average::Class(class)));
    assert_eq!(classes[0], [2.0 / 3.0, 0.5, 4.0 / 7.0]);
    assert_eq!(classes[1], [0.5, 0.5, 0.5]);
    // Predicted once, and never a label; and neither.
    assert_eq!(classes[2], [0.0; 3]);
    assert_eq!(classes[3], [0.0; 3]);
    assert_eq!(all(Average::Micro), [0.5; 3]);
    // The class that does not occur is no part of the mean.
    for (score, mean) in all(Average::Macro).into_iter().enumerate() {
        let sum: f64 = classes.iter().map(|own| own[score]).sum();
        assert!((mean - sum / 3.0).abs() < 1e-15, "{mean}");
    }
}

/// Labels, as numbers or as columns, with outputs, of 2 to 5 classes.
fn any_outputs() -> impl Strategy<Value = (Vec<usize>, DMatrix<f64>)> {
    (2..=5usize, 1..=12usize).prop_flat_map(|(classes, n)| {
        let labels = prop::collection::vec(0..classes, n);
        let outputs = prop::collection::vec(0.01..1.0, classes * n);
        let outputs = outputs.prop_map(move |values| {
            let mut outputs = DMatrix::from_vec(classes, n, values);
            for mut column in outputs.column_iter_mut() {
                let total = column.sum();
                column /= total;
            }
            outputs
        });
        (labels, outputs)
    })
}

#[test]
fn numbers_and_columns_are_the_same_labels() {
    for_all(any_outputs(), |(labels, p)| {
        let columns = metrics::one_hot::<f64>(&labels, p.nrows()).unwrap();
        prop_assert_eq!(accuracy(&labels, &p), accuracy(&columns, &p));
        prop_assert_eq!(
            metrics::confusion(&labels, &p),
            metrics::confusion(&columns, &p)
        );
        prop_assert_eq!(
            metrics::top_k_accuracy(&labels, &p, 2),
            metrics::top_k_accuracy(&columns, &p, 2)
        );
        for average in [Average::Macro, Average::Micro, Average::Class(1)] {
            for (own, other) in [
                (
                    precision(&labels, &p, average),
                    precision(&columns, &p, average),
                ),
                (recall(&labels, &p, average), recall(&columns, &p, average)),
                (f1(&labels, &p, average), f1(&columns, &p, average)),
            ] {
                prop_assert_eq!(own, other);
            }
        }
        prop_assert_eq!(log_loss(&labels, &p), log_loss(&columns, &p));
        prop_assert_eq!(brier_score(&labels, &p), brier_score(&columns, &p));
        prop_assert_eq!(
            calibration_error(&labels, &p, 5),
            calibration_error(&columns, &p, 5)
        );
        // A single row.
        let one = p.rows(0, 1).into_owned();
        let numbers: Vec<usize> = labels.iter().map(|c| c % 2).collect();
        let row = DMatrix::from_fn(1, labels.len(), |_, i| numbers[i] as f64);
        prop_assert_eq!(binary_accuracy(&numbers, &one), binary_accuracy(&row, &one));
        prop_assert_eq!(log_loss(&numbers, &one), log_loss(&row, &one));
        prop_assert_eq!(brier_score(&numbers, &one), brier_score(&row, &one));
        prop_assert_eq!(
            calibration_error(&numbers, &one, 5),
            calibration_error(&row, &one, 5)
        );
        Ok(())
    });
}

/// Micro averages are accuracies; one row is what two rows are; one bin is a difference of means.
#[test]
fn metrics_agree_with_one_another() {
    for_all(any_outputs(), |(labels, p)| {
        let own = accuracy(&labels, &p).unwrap();
        for score in [precision, recall, f1] {
            let micro = score(&labels, &p, Average::Micro).unwrap();
            prop_assert!((micro - own).abs() < 1e-15);
        }
        let confidence: f64 = p.column_iter().map(|column| column.max()).sum();
        let one_bin = calibration_error(&labels, &p, 1).unwrap();
        prop_assert!((one_bin - (confidence / labels.len() as f64 - own).abs()).abs() < 1e-14);

        let one = p.rows(0, 1).into_owned();
        let two = DMatrix::from_fn(
            2,
            one.len(),
            |c, i| if c == 1 { one[i] } else { 1.0 - one[i] },
        );
        let labels: Vec<usize> = labels.iter().map(|c| c % 2).collect();
        prop_assert_eq!(log_loss(&labels, &one), log_loss(&labels, &two));
        let brier = brier_score(&labels, &one).unwrap();
        prop_assert!((2.0 * brier - brier_score(&labels, &two).unwrap()).abs() < 1e-15);
        let found: Vec<usize> = one.iter().map(|&p| usize::from(p >= 0.5)).collect();
        let right = labels.iter().zip(&found).filter(|(a, b)| a == b).count();
        let expected = right as f64 / labels.len() as f64;
        prop_assert_eq!(binary_accuracy(&labels, &one), Ok(expected));
        Ok(())
    });
}

#[test]
fn certain_mistakes_cost_a_finite_amount() {
    let wrong = log_loss(&[1], &dmatrix![1.0_f64; 0.0]).unwrap();
    assert_eq!(wrong, -f64::EPSILON.ln());
    let wrong = log_loss(&[0], &dmatrix![1.0_f32]).unwrap();
    assert_eq!(wrong, -f64::from(f32::EPSILON).ln());
    let right = log_loss(&[0], &dmatrix![1.0_f64; 0.0]).unwrap();
    assert_eq!(right, -(1.0 - f64::EPSILON).ln());
}

/// An edge belongs to the bin below it, and 0 to the first.
#[test]
fn bins_end_with_their_upper_edge() {
    let p = dmatrix![0.0, 0.25, 0.5, 0.75, 1.0];
    // With 4 bins: {0, ¼}, {½}, {¾}, {1}.
    let found = calibration_error(&[1, 0, 1, 1, 1], &p, 4).unwrap();
    assert_eq!(found, (0.75 + 0.5 + 0.25) / 5.0);
    // With 2 bins: {0, ¼, ½} and {¾, 1}.
    let found = calibration_error(&[1, 0, 1, 1, 1], &p, 2).unwrap();
    assert_eq!(found, (1.25 + 0.25) / 5.0);
}

/// However the product of a confidence and the number of bins is rounded.
#[test]
fn confidences_beside_an_edge_are_in_their_bins() {
    for bins in 1..100_usize {
        for b in 1..bins {
            let edge = b as f64 / bins as f64;
            for (confidence, bin) in [
                (edge.next_down(), b - 1),
                (edge, b - 1),
                (edge.next_up(), b),
            ] {
                // Gaps of opposite signs cancel only within a bin.
                let middle = (bin as f64 + 0.5) / bins as f64;
                let p = dmatrix![confidence, middle];
                let found = calibration_error(&[1, 0], &p, bins).unwrap();
                let expected = (confidence - 1.0 + middle).abs() / 2.0;
                assert!(
                    (found - expected).abs() < 1e-12,
                    "{bins} bins: {confidence}"
                );
            }
        }
    }
}

#[test]
fn binary_accuracy_of_several_units() {
    let p = dmatrix![0.9, 0.5; 0.1, 0.2; 0.49, 1.0];
    let targets = dmatrix![1.0, 1.0; 0.0, 1.0; 1.0, 1.0];
    assert_eq!(binary_accuracy(&targets, &p), Ok(4.0 / 6.0));
}

#[test]
fn wrong_data() {
    #[track_caller]
    fn check<R: std::fmt::Debug>(result: Result<R, Error>, expected: Error, text: &[&str]) {
        let error = result.unwrap_err();
        assert_eq!(format!("{error:?}"), format!("{expected:?}"));
        for part in text {
            assert!(error.to_string().contains(part), "{part:?}: {error}");
        }
    }
    let (labels, outputs) = classified();
    let p = dmatrix![0.25, 0.5; 0.75, 0.5];

    // One-hot columns.
    let one_hot = |column, reason: &str| Error::NotOneHot {
        column,
        reason: reason.into(),
    };
    let soft = dmatrix![1.0, 0.5; 0.0, 0.5];
    let reason = "row 0 is 0.5, but must be 0 or 1";
    check(
        accuracy(&soft, &p),
        one_hot(1, reason),
        &["column 1", "0.5"],
    );
    check(log_loss(&soft, &p), one_hot(1, reason), &["column 1"]);
    let nan = dmatrix![1.0, f64::NAN; 0.0, 1.0];
    let reason = "row 0 is NaN, but must be 0 or 1";
    check(accuracy(&nan, &p), one_hot(1, reason), &["NaN"]);
    for (column, count) in [([1.0, 1.0], 2), ([0.0, 0.0], 0)] {
        let targets = DMatrix::from_fn(2, 2, |i, j| if j == 0 { column[i] } else { i as f64 });
        let reason = format!("{count} of its entries are 1, but exactly one must be");
        let average = Average::Macro;
        check(f1(&targets, &p, average), one_hot(0, &reason), &["one-hot"]);
    }
    let shape = Error::Shape {
        what: "one-hot labels".into(),
        expected: (2, 2),
        found: (2, 3),
    };
    let targets = DMatrix::<f64>::zeros(2, 3);
    check(accuracy(&targets, &p), shape.clone(), &["2 x 3"]);
    check(brier_score(&targets, &p), shape, &["2 x 3"]);

    // Scores.
    let class = Error::InvalidOption {
        option: "Average::Class",
        value: 4.0,
        allowed: "below the number of classes, 4".into(),
    };
    let found = precision(&labels, &outputs, Average::Class(4));
    check(found, class, &["Average::Class", "is 4"]);
    let none = DMatrix::<f64>::zeros(2, 0);
    let operation = "a recall";
    let found = recall(&[], &none, Average::Macro);
    check(found, Error::NoExamples { operation }, &["a recall"]);

    // Probabilities.
    for value in [-0.1, 1.5, f64::NAN] {
        let logits = dmatrix![0.5, 0.25; 0.5, value];
        let error = Error::NotProbability {
            row: 1,
            column: 1,
            value,
        };
        let text = ["row 1", "column 1", "predict_proba"];
        check(log_loss(&[0, 1], &logits), error.clone(), &text);
        check(brier_score(&[0, 1], &logits), error.clone(), &text);
        check(calibration_error(&[0, 1], &logits, 2), error.clone(), &text);
        let targets = dmatrix![1.0, 0.0; 0.0, 1.0];
        check(binary_accuracy(&targets, &logits), error, &text);
    }
    let heavy = dmatrix![0.5, 0.75; 0.5, 0.5];
    let error = Error::NotDistribution {
        column: 1,
        total: 1.25,
    };
    check(log_loss(&[0, 1], &heavy), error, &["column 1", "1.25"]);
    // Rounding is allowed for.
    let third = DMatrix::from_element(3, 1, 1.0_f32 / 3.0);
    assert!(log_loss(&[2], &third).is_ok());
    let unknown = |class, classes| Error::UnknownClass {
        column: 0,
        class,
        classes,
    };
    check(log_loss(&[2, 0], &p), unknown(2, 2), &["class 2"]);
    let one = dmatrix![0.5, 0.5];
    check(log_loss(&[2, 0], &one), unknown(2, 2), &["class 2"]);
    check(binary_accuracy(&[3, 0], &one), unknown(3, 2), &["class 3"]);
    let shape = Error::Shape {
        what: "probabilities, one for each class number".into(),
        expected: (1, 2),
        found: (2, 2),
    };
    check(binary_accuracy(&[0, 1], &p), shape, &["1 x 2", "2 x 2"]);
    let bins = Error::InvalidOption {
        option: "bins",
        value: 0.0,
        allowed: "at least 1".into(),
    };
    check(calibration_error(&[0, 1], &p, 0), bins, &["bins is 0"]);
    let large = calibration_error(&[0, 1], &p, usize::MAX);
    assert!(matches!(large, Err(Error::TooLarge { .. })), "{large:?}");
    let operation = "a log loss";
    let found = log_loss(&[], &none);
    check(found, Error::NoExamples { operation }, &["a log loss"]);
}

/// A confidence at the edge of two bins belongs to the lower one, however its product is rounded.
#[test]
fn edges_of_bins_belong_to_the_lower_bin() {
    for edge in 1..100_usize {
        let p = edge as f64 / 100.0;
        // One right and one wrong in the same bin: their gaps add up before their size is taken.
        let both = DMatrix::from_row_slice(1, 2, &[p, p - 0.005]);
        let found = calibration_error(&[0, 1], &both, 100).unwrap();
        let expected = (p + (p - 0.005) - 1.0).abs() / 2.0;
        assert!((found - expected).abs() < 1e-12, "{p}: {found} {expected}");
    }
}
