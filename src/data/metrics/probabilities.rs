//! Metrics of predicted probabilities.

use std::borrow::Cow;

use nalgebra::DMatrix;

use super::labels;
use super::labels::{Labels, check_binary};
use crate::check::{check_examples, check_shape, option, room};
use crate::error::Error;
use crate::kernel::{Scalar, Sum};

/// Fraction of the binary outputs on the right side of ½, in \[0, 1\]:
///
/// (1/dn) Σᵢ Σ_j \[\[p_jⁱ ≥ ½\] = y_jⁱ\].
///
/// `probabilities` is `d × n`, one row per binary output, as
/// [`predict_proba`](crate::DecoupledCircuit::predict_proba) returns it under a binary cross
/// entropy. `labels` are zeros and ones of the same shape, or, for a single row, n class numbers 0
/// and 1.
///
/// # Errors
/// [`Error::NoExamples`], [`Error::Length`] or [`Error::Shape`] if the two do not fit together,
/// [`Error::UnknownClass`] for a class number above 1, [`Error::NotOneHot`] for a target other than
/// 0 and 1, [`Error::NotProbability`].
///
/// # Examples
/// ```
/// use layerwise::prelude::*;
///
/// let p = DMatrix::from_row_slice(1, 4, &[0.9, 0.5, 0.4, 0.2]);
/// assert_eq!(metrics::binary_accuracy(&[1, 1, 1, 0], &p)?, 0.75);
/// # Ok::<(), layerwise::Error>(())
/// ```
pub fn binary_accuracy<'a, T: Scalar>(
    labels: impl Into<Labels<'a, T>>,
    probabilities: &DMatrix<T>,
) -> Result<f64, Error> {
    let labels = labels.into();
    labels.check_size(probabilities)?;
    let (rows, n) = probabilities.shape();
    check_examples(rows.min(n), "a binary accuracy")?;
    check_range(probabilities)?;
    let on = |p: T| p >= T::of(0.5);
    let right = match labels {
        Labels::Columns(targets) => {
            let mut columns = targets.column_iter().enumerate();
            columns.try_for_each(|(i, column)| check_binary(i, column.as_slice()))?;
            let pairs = targets.iter().zip(probabilities.iter());
            pairs.filter(|&(y, &p)| on(p) != y.is_zero()).count()
        }
        Labels::Numbers(_) => {
            let what = "probabilities, one for each class number";
            check_shape(what, probabilities, (1, n))?;
            let classes = labels.numbers(1)?;
            let pairs = classes.iter().zip(probabilities.iter());
            pairs.filter(|&(&c, &p)| usize::from(on(p)) == c).count()
        }
    };
    Ok(right as f64 / (rows * n) as f64)
}

/// Mean negative log-likelihood of the labels, at least 0:
///
/// −(1/n) Σᵢ ln p_cᵢⁱ.
///
/// `probabilities` is `classes × n`, and its columns sum to 1; a single row holds the probabilities
/// of class 1 of two. `labels` are n class numbers or one-hot columns (a row of zeros and ones for a
/// single row). As in scikit-learn, p is clipped to \[ε, 1 − ε\] with ε the machine epsilon of T, so
/// that a certain mistake costs a finite amount: 36 in `f64`, 16 in `f32`.
///
/// # Errors
/// [`Error::NoExamples`], [`Error::Length`] or [`Error::Shape`] if the two do not fit together,
/// [`Error::UnknownClass`], [`Error::NotOneHot`], and [`Error::NotProbability`] or
/// [`Error::NotDistribution`], for example for logits.
///
/// # Examples
/// ```
/// use layerwise::prelude::*;
///
/// let p = DMatrix::from_row_slice(2, 2, &[0.5, 0.75, 0.5, 0.25]);
/// let loss = metrics::log_loss(&[0, 1], &p)?;
/// assert!((loss - 8f64.ln() / 2.0).abs() < 1e-15);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[doc(alias("cross entropy", "negative log-likelihood"))]
pub fn log_loss<'a, T: Scalar>(
    labels: impl Into<Labels<'a, T>>,
    probabilities: &DMatrix<T>,
) -> Result<f64, Error> {
    let classes = check_probabilities("a log loss", labels.into(), probabilities)?;
    let least = T::default_epsilon();
    let terms = classes.iter().zip(probabilities.column_iter());
    let terms = terms.map(|(&class, column)| {
        let p = match column.len() {
            1 if class == 0 => T::one() - column[0],
            1 => column[0],
            _ => column[class],
        };
        -p.clamp(least, T::one() - least).as_f64().ln()
    });
    Ok(Sum::of(terms) / classes.len() as f64)
}

/// Mean squared distance of the probabilities from the one-hot labels:
///
/// (1/n) Σᵢ Σ_c (p_cⁱ − \[c = cᵢ\])².
///
/// Shapes and errors are those of [`log_loss`]. It is in \[0, 2\]. A single row has the single term
/// (pⁱ − yⁱ)², in \[0, 1\], which is half of what two rows give; in scikit-learn this is
/// `scale_by_half`. Brier 1950.
///
/// # Errors
/// Those of [`log_loss`].
///
/// # Examples
/// ```
/// use layerwise::prelude::*;
///
/// let p = DMatrix::from_row_slice(2, 2, &[0.5, 1.0, 0.5, 0.0]);
/// assert_eq!(metrics::brier_score(&[0, 0], &p)?, 0.25);
/// # Ok::<(), layerwise::Error>(())
/// ```
pub fn brier_score<'a, T: Scalar>(
    labels: impl Into<Labels<'a, T>>,
    probabilities: &DMatrix<T>,
) -> Result<f64, Error> {
    let classes = check_probabilities("a Brier score", labels.into(), probabilities)?;
    let rows = probabilities.nrows();
    // The one row of a binary output is that of class 1.
    let first = usize::from(rows == 1);
    let terms = probabilities.iter().enumerate().map(|(k, p)| {
        let own = k % rows + first == classes[k / rows];
        (p.as_f64() - f64::from(u8::from(own))).powi(2)
    });
    Ok(Sum::of(terms) / classes.len() as f64)
}

/// Expected calibration error, in \[0, 1\]: how far confidence is from accuracy, on average over bins
/// of equal width,
///
/// Σ_b (n_b/n) |accuracy_b − confidence_b|.
///
/// The confidence of an example is the probability of its predicted class, the largest; its
/// accuracy is 1 if that class is its label, and 0 otherwise. For a single row, the two are p and
/// the label (0 or 1) themselves. Bin b = 0, …, `bins` − 1 holds the n_b examples with confidence in
/// (b/bins, (b+1)/bins\], and bin 0 also confidence 0; accuracy_b and confidence_b are means over
/// them. Empty bins count nothing. The value depends on `bins`; 10 or 15 are usual.
/// Shapes are those of [`log_loss`]. Naeini, Cooper & Hauskrecht 2015; Guo et al. 2017.
///
/// # Errors
/// Those of [`log_loss`]; [`Error::InvalidOption`] for 0 bins, [`Error::TooLarge`].
///
/// # Examples
/// ```
/// use layerwise::prelude::*;
///
/// // Confident with .75 four times, and right three times.
/// let p = DMatrix::from_fn(2, 4, |c, _| [0.75, 0.25][c]);
/// assert_eq!(metrics::calibration_error(&[0, 0, 0, 1], &p, 10)?, 0.0);
/// assert_eq!(metrics::calibration_error(&[0, 0, 1, 1], &p, 10)?, 0.25);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[doc(alias("ECE", "expected calibration error", "reliability"))]
pub fn calibration_error<'a, T: Scalar>(
    labels: impl Into<Labels<'a, T>>,
    probabilities: &DMatrix<T>,
    bins: usize,
) -> Result<f64, Error> {
    let operation = "a calibration error";
    let classes = check_probabilities(operation, labels.into(), probabilities)?;
    option("bins", bins as f64, bins > 0, "at least 1")?;
    let found = self::labels(probabilities);
    let mut gaps = room("the bins of a calibration error", bins, 1)?;
    gaps.resize(bins, Sum::zero());
    for (i, &class) in classes.iter().enumerate() {
        let (confidence, right) = match probabilities.nrows() {
            1 => (probabilities[i], class == 1),
            _ => (probabilities[(found[i], i)], found[i] == class),
        };
        let confidence = confidence.as_f64();
        let mut bin = (confidence * bins as f64).ceil() as usize;
        // The product may be rounded up from an edge, or down to one.
        let edge = |bin: usize| bin as f64 / bins as f64;
        if bin > 0 && confidence <= edge(bin - 1) {
            bin -= 1;
        } else if confidence > edge(bin) {
            bin += 1;
        }
        let gap = confidence - f64::from(u8::from(right));
        gaps[bin.saturating_sub(1).min(bins - 1)].add(gap);
    }
    let total = Sum::of(gaps.iter().map(|gap| gap.value().abs()));
    Ok(total / classes.len() as f64)
}

/// The class numbers of `labels`, for probabilities that are distributions or a single binary row.
fn check_probabilities<'a, T: Scalar>(
    operation: &'static str,
    labels: Labels<'a, T>,
    probabilities: &DMatrix<T>,
) -> Result<Cow<'a, [usize]>, Error> {
    labels.check_size(probabilities)?;
    let (rows, n) = probabilities.shape();
    check_examples(rows.min(n), operation)?;
    let classes = labels.numbers(rows)?;
    check_range(probabilities)?;
    // As scikit-learn does: what rounding leaves of a sum of many.
    let tolerance = T::default_epsilon().as_f64().sqrt();
    for (column, own) in probabilities.column_iter().enumerate() {
        let total = Sum::of(own.iter().map(|p| p.as_f64()));
        if rows > 1 && (total - 1.0).abs() > tolerance {
            return Err(Error::NotDistribution { column, total });
        }
    }
    Ok(classes)
}

fn check_range<T: Scalar>(probabilities: &DMatrix<T>) -> Result<(), Error> {
    let fits = |p: &T| (0.0..=1.0).contains(&p.as_f64());
    match probabilities.iter().position(|p| !fits(p)) {
        None => Ok(()),
        Some(k) => Err(Error::NotProbability {
            row: k % probabilities.nrows(),
            column: k / probabilities.nrows(),
            value: probabilities[k].as_f64(),
        }),
    }
}
