//! Metrics of a model's outputs.
//!
//! | of | metrics |
//! |---|---|
//! | classes | [`accuracy`], [`top_k_accuracy`], [`confusion`], [`precision`], [`recall`], [`f1`] |
//! | probabilities | [`binary_accuracy`], [`log_loss`], [`brier_score`], [`calibration_error`] |
//! | numbers | [`rmse`], [`r_squared`] |
//!
//! Targets and outputs are `d × n` matrices with one column per example. A class is a row number,
//! and the label of an example is its class. Sums are computed in `f64` for every scalar type. In
//! every function, of two equal outputs the one in the lower-numbered row ranks higher.
//!
//! Labels are class numbers or one-hot columns ([`Labels`]).
//!
//! A single row of outputs leaves no classes to choose from, since its only output is always the
//! largest. Metrics of classes therefore reject it. Metrics of probabilities take a single row as
//! the probability of class 1 of two.

mod class_scores;
mod labels;
mod probabilities;

use std::borrow::Cow;

use nalgebra::DMatrix;

pub use class_scores::{Average, f1, precision, recall};
pub use labels::Labels;
pub use probabilities::{binary_accuracy, brier_score, calibration_error, log_loss};

use crate::check::{check_examples, check_finite, check_result, check_shape, option, room};
use crate::error::{Error, Quantity};
use crate::kernel::{Scalar, Sum, power_of_two, root_mean_square, squares};

/// One-hot targets for `labels`, `classes × n`: entry (c, i) is 1 if c is the label of example i,
/// and 0 otherwise.
///
/// # Errors
/// [`Error::ZeroDimension`] if `classes` is 0, [`Error::UnknownClass`] for a label that is not
/// below `classes`, [`Error::TooLarge`].
///
/// # Examples
/// ```
/// use layerwise::prelude::*;
///
/// let targets = metrics::one_hot::<f64>(&[2, 0], 3)?;
/// assert_eq!(targets, DMatrix::from_row_slice(3, 2, &[0.0, 1.0, 0.0, 0.0, 1.0, 0.0]));
/// # Ok::<(), layerwise::Error>(())
/// ```
#[doc(alias = "one-hot")]
pub fn one_hot<T: Scalar>(labels: &[usize], classes: usize) -> Result<DMatrix<T>, Error> {
    let what = "number of classes";
    if classes == 0 {
        return Err(Error::ZeroDimension { what });
    }
    check_classes(labels, classes)?;
    let mut targets = filled("one-hot targets", classes, labels.len(), T::zero())?;
    for (column, &class) in labels.iter().enumerate() {
        targets[(class, column)] = T::one();
    }
    Ok(targets)
}

/// The predicted class of every column: the row of its largest output, or the first such row,
///
/// cᵢ = min argmax_c ŷ_cⁱ. It also turns one-hot columns back into class numbers.
///
/// NaN is never the largest. A column of only NaN gets class 0, and so does every column of a
/// single row.
///
/// # Examples
/// ```
/// use layerwise::prelude::*;
///
/// let outputs = DMatrix::from_row_slice(3, 2, &[0.1, 3.0, 0.7, 3.0, 0.2, -1.0]);
/// assert_eq!(metrics::labels(&outputs), [1, 0]);
/// ```
#[doc(alias = "argmax")]
pub fn labels<T: Scalar>(outputs: &DMatrix<T>) -> Vec<usize> {
    let columns = outputs.column_iter();
    columns
        .map(|column| {
            let numbers = column.iter().enumerate();
            let numbers = numbers.filter(|(_, output)| !output.as_f64().is_nan());
            let largest = numbers.reduce(|best, next| if next.1 > best.1 { next } else { best });
            largest.map_or(0, |(row, _)| row)
        })
        .collect()
}

/// The classes of one-hot columns, or of a row of zeros and ones.
///
/// # Errors
/// [`Error::NotOneHot`].
pub(crate) fn classes_of<T: Scalar>(targets: &DMatrix<T>) -> Result<Vec<usize>, Error> {
    let numbers = Labels::from(targets).numbers(targets.nrows())?;
    Ok(numbers.into_owned())
}

/// Fraction of the examples whose largest output is in the row of their label, in \[0, 1\]:
///
/// (1/n) Σᵢ \[labels(Ŷ)ᵢ = cᵢ\].
///
/// `labels` are n class numbers or one-hot columns, `outputs` is `classes × n`. Of equal outputs, the
/// first counts as the largest.
///
/// # Errors
/// [`Error::NoExamples`], [`Error::Length`] unless there is one label per column, [`Error::Shape`]
/// for a single row of outputs or one-hot columns of another shape, [`Error::UnknownClass`] for a
/// label that is not below `classes`, [`Error::NotOneHot`], and [`Error::NonFiniteData`] for the
/// outputs.
///
/// # Examples
/// ```
/// use layerwise::prelude::*;
///
/// let outputs = DMatrix::from_row_slice(2, 4, &[0.9, 0.4, 0.2, 0.1, 0.1, 0.6, 0.8, 0.9]);
/// assert_eq!(metrics::accuracy(&[0, 1, 0, 1], &outputs)?, 0.75);
/// let one_row = outputs.rows(0, 1).into_owned();
/// assert!(metrics::accuracy(&[0; 4], &one_row).is_err());
/// # Ok::<(), layerwise::Error>(())
/// ```
pub fn accuracy<'a, T: Scalar>(
    labels: impl Into<Labels<'a, T>>,
    outputs: &DMatrix<T>,
) -> Result<f64, Error> {
    let labels = check_classification("an accuracy", labels.into(), outputs)?;
    let found = self::labels(outputs);
    Ok(agreeing(&labels, &found) as f64 / labels.len() as f64)
}

/// The number of examples that have the same label in both lists.
pub(crate) fn agreeing(a: &[usize], b: &[usize]) -> usize {
    a.iter().zip(b).filter(|(a, b)| a == b).count()
}

/// Fraction of the examples whose label is among their k largest outputs, in \[0, 1\]: fewer than k
/// outputs rank before the output of the label.
///
/// `labels` are n class numbers or one-hot columns, `outputs` is `classes × n`. Outputs are ranked by value, and equal ones
/// by row. So k = 1 gives the [`accuracy`], the result never falls as k grows, and k = `classes`
/// gives 1.
///
/// # Errors
/// The errors of [`accuracy`], and [`Error::InvalidOption`] for a `k` not in 1..=`classes`.
///
/// # Examples
/// ```
/// use layerwise::prelude::*;
///
/// let outputs = DMatrix::from_row_slice(3, 2, &[0.7, 0.5, 0.2, 0.3, 0.1, 0.2]);
/// assert_eq!(metrics::top_k_accuracy(&[1, 2], &outputs, 1)?, 0.0);
/// assert_eq!(metrics::top_k_accuracy(&[1, 2], &outputs, 2)?, 0.5);
/// # Ok::<(), layerwise::Error>(())
/// ```
pub fn top_k_accuracy<'a, T: Scalar>(
    labels: impl Into<Labels<'a, T>>,
    outputs: &DMatrix<T>,
    k: usize,
) -> Result<f64, Error> {
    let labels = check_classification("a top-k accuracy", labels.into(), outputs)?;
    let classes = outputs.nrows();
    let fits = (1..=classes).contains(&k);
    let allowed = format!("at least 1 and at most the number of classes, {classes}");
    option("k", k as f64, fits, allowed)?;
    let columns = labels.iter().zip(outputs.column_iter());
    let right = columns.filter(|&(&class, column)| {
        let own = column[class];
        let ranked = column.iter().enumerate();
        let before = ranked.filter(|&(row, &y)| y > own || (y == own && row < class));
        before.count() < k
    });
    Ok(right.count() as f64 / labels.len() as f64)
}

/// Confusion matrix, `classes × classes`: entry (r, c) is the number of examples of class r that
/// were predicted to be class c. Rows are true classes, columns are predicted classes.
///
/// `labels` are n class numbers or one-hot columns, `outputs` is `classes × n`. The predicted class is that of [`labels`], so
/// the trace divided by n is the [`accuracy`].
///
/// # Errors
/// The errors of [`accuracy`], and [`Error::TooLarge`].
///
/// # Examples
/// ```
/// use layerwise::prelude::*;
///
/// let outputs = DMatrix::from_row_slice(2, 3, &[0.9, 0.4, 0.2, 0.1, 0.6, 0.8]);
/// let counts = metrics::confusion(&[0, 1, 0], &outputs)?;
/// assert_eq!(counts, DMatrix::from_row_slice(2, 2, &[1, 1, 0, 1]));
/// # Ok::<(), layerwise::Error>(())
/// ```
pub fn confusion<'a, T: Scalar>(
    labels: impl Into<Labels<'a, T>>,
    outputs: &DMatrix<T>,
) -> Result<DMatrix<usize>, Error> {
    let labels = check_classification("a confusion matrix", labels.into(), outputs)?;
    let classes = outputs.nrows();
    let mut counts = filled("a confusion matrix", classes, classes, 0)?;
    for (&own, found) in labels.iter().zip(self::labels(outputs)) {
        counts[(own, found)] += 1;
    }
    Ok(counts)
}

/// Root mean square error over all d·n entries,
///
/// √( (1/dn) Σᵢ ‖yⁱ − ŷⁱ‖² ).
///
/// `targets` and `outputs` are `d × n`.
///
/// # Errors
/// [`Error::Shape`], [`Error::ZeroDimension`], [`Error::NoExamples`], [`Error::NonFiniteData`].
///
/// # Examples
/// ```
/// use layerwise::prelude::*;
///
/// let targets = DMatrix::from_row_slice(1, 2, &[1.0, 2.0]);
/// let outputs = DMatrix::from_row_slice(1, 2, &[4.0, 6.0]);
/// assert_eq!(metrics::rmse(&targets, &outputs)?, 12.5_f64.sqrt());
/// # Ok::<(), layerwise::Error>(())
/// ```
pub fn rmse<T: Scalar>(targets: &DMatrix<T>, outputs: &DMatrix<T>) -> Result<f64, Error> {
    check_regression("a root mean square error", targets, outputs)?;
    let pairs = targets.iter().zip(outputs.iter());
    let of_parts = |part: f64| {
        let gaps = pairs
            .clone()
            .map(|(y, output)| part * y.as_f64() - part * output.as_f64());
        root_mean_square(gaps) / part
    };
    let mut rmse = of_parts(1.0);
    if !rmse.is_finite() {
        // A difference may overflow where its half does not.
        rmse = of_parts(0.5);
    }
    check_result(Quantity::MetricOutput, 0, &[rmse])?;
    Ok(rmse)
}

/// Coefficient of determination of every row r; at most 1:
///
/// R²_r = 1 − Σᵢ (y_rⁱ − ŷ_rⁱ)² / Σᵢ (y_rⁱ − ȳ_r)²,  ȳ_r = (1/n) Σᵢ y_rⁱ.
///
/// `targets` and `outputs` are `d × n`. Outputs that always equal the mean give 0. For a row whose
/// targets are all equal, R² is not defined; as in scikit-learn, it is 1 if its outputs are exact
/// and 0 otherwise.
///
/// # Errors
/// [`Error::Shape`], [`Error::ZeroDimension`], [`Error::NoExamples`], [`Error::NonFiniteData`], and
/// [`Error::Overflow`] for an R² below all numbers.
///
/// # Examples
/// ```
/// use layerwise::prelude::*;
///
/// let targets = DMatrix::from_row_slice(2, 3, &[1.0, 2.0, 3.0, 5.0, 5.0, 5.0]);
/// let outputs = DMatrix::from_row_slice(2, 3, &[1.0, 2.0, 4.0, 5.0, 5.0, 6.0]);
/// assert_eq!(metrics::r_squared(&targets, &outputs)?, [0.5, 0.0]);
/// # Ok::<(), layerwise::Error>(())
/// ```
pub fn r_squared<T: Scalar>(targets: &DMatrix<T>, outputs: &DMatrix<T>) -> Result<Vec<f64>, Error> {
    check_regression("a coefficient of determination", targets, outputs)?;
    let rows = targets.row_iter().zip(outputs.row_iter());
    let found: Vec<f64> = rows
        .map(|(targets, outputs)| {
            let (y, all) = (targets.iter(), targets.iter().chain(outputs.iter()));
            let largest = |top: f64, v: &T| top.max(v.as_f64().abs());
            // Each sum has units in which squares neither overflow nor underflow. A power of two costs no
            // digits, of which a large offset leaves few.
            let units = [y.fold(0.0, largest), all.fold(0.0, largest)].map(power_of_two);
            let target = |i: usize| targets[i].as_f64() / units[0];
            let n = targets.len();
            let mean = Sum::of((0..n).map(target)) / n as f64;
            // What rounding of the mean leaves.
            let rest = Sum::of((0..n).map(|i| target(i) - mean)) / n as f64;
            let (own, total, _) = squares((0..n).map(|i| target(i) - mean - rest));
            let gap = |i: usize| targets[i].as_f64() / units[1] - outputs[i].as_f64() / units[1];
            let (of_gaps, residual, _) = squares((0..n).map(gap));
            // A rounded mean would give equal targets a tiny variance.
            let constant = targets.iter().all(|&y| y == targets[0]);
            let ratio = of_gaps / own * (units[1] / units[0]);
            match (residual == 0.0, constant) {
                (true, _) => 1.0,
                (false, true) => 0.0,
                (false, false) => 1.0 - residual / total * ratio * ratio,
            }
        })
        .collect();
    check_result(Quantity::MetricOutput, 0, &found)?;
    Ok(found)
}

/// The class numbers of `labels`, for outputs with at least one row per class.
fn check_classification<'a, T: Scalar>(
    operation: &'static str,
    labels: Labels<'a, T>,
    outputs: &DMatrix<T>,
) -> Result<Cow<'a, [usize]>, Error> {
    let (classes, n) = outputs.shape();
    labels.check_size(outputs)?;
    check_examples(n, operation)?;
    if classes == 1 {
        check_shape("outputs, one row per class", outputs, (2, n))?;
    }
    let labels = labels.numbers(classes)?;
    check_finite(Quantity::MetricOutput, 0, classes, outputs.as_slice())?;
    Ok(labels)
}

pub(crate) fn check_classes(labels: &[usize], classes: usize) -> Result<(), Error> {
    match labels.iter().position(|&class| class >= classes) {
        None => Ok(()),
        Some(column) => Err(Error::UnknownClass {
            column,
            class: labels[column],
            classes,
        }),
    }
}

fn check_regression<T: Scalar>(
    operation: &'static str,
    targets: &DMatrix<T>,
    outputs: &DMatrix<T>,
) -> Result<(), Error> {
    check_shape("outputs", outputs, targets.shape())?;
    let what = "dimension of the targets";
    if targets.nrows() == 0 {
        return Err(Error::ZeroDimension { what });
    }
    check_examples(targets.ncols(), operation)?;
    let rows = targets.nrows();
    check_finite(Quantity::MetricTarget, 0, rows, targets.as_slice())?;
    check_finite(Quantity::MetricOutput, 0, rows, outputs.as_slice())
}

fn filled<N: nalgebra::Scalar>(
    what: &'static str,
    rows: usize,
    columns: usize,
    value: N,
) -> Result<DMatrix<N>, Error> {
    let mut values = room(what, rows, columns)?;
    values.resize(rows * columns, value);
    Ok(DMatrix::from_vec(rows, columns, values))
}
