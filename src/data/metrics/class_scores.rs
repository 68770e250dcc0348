//! Precision, recall and F1.

use nalgebra::DMatrix;

use super::labels::Labels;
use super::{check_classification, labels};
use crate::check::option;
use crate::error::Error;
use crate::kernel::Scalar;

/// How a score of single classes becomes one number, for [`precision`], [`recall`] and [`f1`].
///
/// # Examples
/// ```
/// use layerwise::data::metrics::{Average, recall};
/// use layerwise::prelude::*;
///
/// let outputs = metrics::one_hot::<f64>(&[0, 0, 1, 1], 2)?;
/// let labels = [0, 0, 0, 1];
/// assert_eq!(recall(&labels, &outputs, Average::Class(0))?, 2.0 / 3.0);
/// assert_eq!(recall(&labels, &outputs, Average::Macro)?, (2.0 / 3.0 + 1.0) / 2.0);
/// assert_eq!(recall(&labels, &outputs, Average::Micro)?, 0.75);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Average {
    /// The mean over the classes that occur among the labels or the predictions; every class counts
    /// alike, however few examples it has.
    Macro,
    /// The score of the counts added over all classes. Since every example has one label and one
    /// prediction, precision, recall and F1 all become the [`accuracy`](super::accuracy).
    Micro,
    /// The score of this class alone.
    Class(usize),
}

/// Examples of one class: labelled so, predicted so, and both.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    labelled: usize,
    predicted: usize,
    both: usize,
}

/// Precision, in \[0, 1\]: of the examples predicted to be of class c, the fraction that are,
///
/// precision_c = (labelled and predicted c) / (predicted c).
///
/// `labels` are n class numbers or one-hot columns, `outputs` is `classes × n`. A class that is
/// never predicted has precision 0, as in scikit-learn.
///
/// # Errors
/// The errors of [`accuracy`](super::accuracy), and [`Error::InvalidOption`] for a class of
/// `average` without a row.
///
/// # Examples
/// ```
/// use layerwise::data::metrics::{Average, precision};
/// use layerwise::prelude::*;
///
/// let outputs = metrics::one_hot::<f64>(&[0, 0, 0, 1], 2)?;
/// assert_eq!(precision(&[0, 0, 1, 1], &outputs, Average::Class(0))?, 2.0 / 3.0);
/// # Ok::<(), layerwise::Error>(())
/// ```
pub fn precision<'a, T: Scalar>(
    labels: impl Into<Labels<'a, T>>,
    outputs: &DMatrix<T>,
    average: Average,
) -> Result<f64, Error> {
    let score = |own: Counts| ratio(own.both, own.predicted);
    averaged("a precision", labels.into(), outputs, average, score)
}

/// Recall, in \[0, 1\]: of the examples of class c, the fraction that are predicted to be,
///
/// recall_c = (labelled and predicted c) / (labelled c).
///
/// Shapes and errors are those of [`precision`]. A class without examples has recall 0.
///
/// # Errors
/// Those of [`precision`].
///
/// # Examples
/// ```
/// use layerwise::data::metrics::{Average, recall};
/// use layerwise::prelude::*;
///
/// let outputs = metrics::one_hot::<f64>(&[0, 0, 0, 1], 2)?;
/// assert_eq!(recall(&[0, 0, 1, 1], &outputs, Average::Class(1))?, 0.5);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[doc(alias("sensitivity", "true positive rate"))]
pub fn recall<'a, T: Scalar>(
    labels: impl Into<Labels<'a, T>>,
    outputs: &DMatrix<T>,
    average: Average,
) -> Result<f64, Error> {
    let score = |own: Counts| ratio(own.both, own.labelled);
    averaged("a recall", labels.into(), outputs, average, score)
}

/// F1, in \[0, 1\]: the harmonic mean of precision and recall,
///
/// F1_c = 2 (labelled and predicted c) / ((labelled c) + (predicted c)).
///
/// Shapes and errors are those of [`precision`]. It is 0 for a class that is neither labelled nor
/// predicted. [`Average::Macro`] is the mean of the classes' F1, not the F1 of mean precision and
/// mean recall.
///
/// # Errors
/// Those of [`precision`].
///
/// # Examples
/// ```
/// use layerwise::data::metrics::{Average, f1};
/// use layerwise::prelude::*;
///
/// let outputs = metrics::one_hot::<f64>(&[0, 0, 0, 1], 2)?;
/// assert_eq!(f1(&[0, 0, 1, 1], &outputs, Average::Class(0))?, 0.8);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[doc(alias("F-score", "Dice"))]
pub fn f1<'a, T: Scalar>(
    labels: impl Into<Labels<'a, T>>,
    outputs: &DMatrix<T>,
    average: Average,
) -> Result<f64, Error> {
    let score = |own: Counts| ratio(2 * own.both, own.labelled + own.predicted);
    averaged("an F1 score", labels.into(), outputs, average, score)
}

/// a/b, or 0 where there is nothing to divide by.
fn ratio(a: usize, b: usize) -> f64 {
    if b == 0 { 0.0 } else { a as f64 / b as f64 }
}

fn averaged<T: Scalar>(
    operation: &'static str,
    own: Labels<'_, T>,
    outputs: &DMatrix<T>,
    average: Average,
    score: impl Fn(Counts) -> f64,
) -> Result<f64, Error> {
    let own = check_classification(operation, own, outputs)?;
    let classes = outputs.nrows();
    if let Average::Class(class) = average {
        let allowed = format!("below the number of classes, {classes}");
        option("Average::Class", class as f64, class < classes, allowed)?;
    }
    let mut counts = vec![Counts::default(); classes];
    for (&own, found) in own.iter().zip(labels(outputs)) {
        counts[own].labelled += 1;
        counts[found].predicted += 1;
        counts[own].both += usize::from(own == found);
    }
    Ok(match average {
        Average::Class(class) => score(counts[class]),
        Average::Micro => score(counts.iter().fold(Counts::default(), |all, own| Counts {
            labelled: all.labelled + own.labelled,
            predicted: all.predicted + own.predicted,
            both: all.both + own.both,
        })),
        Average::Macro => {
            counts.retain(|own| own.labelled + own.predicted > 0);
            let total: f64 = counts.iter().map(|&own| score(own)).sum();
            total / counts.len() as f64
        }
    })
}
