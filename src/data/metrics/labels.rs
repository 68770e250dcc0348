//! Labels as class numbers or as one-hot columns.

use std::borrow::Cow;

use nalgebra::DMatrix;

use super::check_classes;
use crate::check::{check_length, check_shape};
use crate::error::Error;
use crate::kernel::Scalar;

/// The true classes of n examples, in either of two forms, which every metric of labels takes alike:
/// references to `[usize]`, `Vec<usize>`, arrays and matrices convert into it.
///
/// # Examples
/// ```
/// use layerwise::prelude::*;
///
/// let outputs = DMatrix::from_row_slice(2, 3, &[0.9, 0.4, 0.2, 0.1, 0.6, 0.8]);
/// let labels = vec![0, 1, 0];
/// let targets = metrics::one_hot(&labels, 2)?;
/// let accuracy = metrics::accuracy(&labels, &outputs)?;
/// assert_eq!(metrics::accuracy(&targets, &outputs)?, accuracy);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub enum Labels<'a, T> {
    /// The class of every example, from 0 (length n).
    Numbers(&'a [usize]),
    /// One-hot columns, `classes × n`, as [`one_hot`](super::one_hot) makes them. For metrics of
    /// binary outputs, a matrix of zeros and ones of their shape.
    Columns(&'a DMatrix<T>),
}

impl<'a, T> From<&'a [usize]> for Labels<'a, T> {
    fn from(labels: &'a [usize]) -> Self {
        Self::Numbers(labels)
    }
}

impl<'a, T, const N: usize> From<&'a [usize; N]> for Labels<'a, T> {
    fn from(labels: &'a [usize; N]) -> Self {
        Self::Numbers(labels)
    }
}

impl<'a, T> From<&'a Vec<usize>> for Labels<'a, T> {
    fn from(labels: &'a Vec<usize>) -> Self {
        Self::Numbers(labels)
    }
}

impl<'a, T> From<&'a DMatrix<T>> for Labels<'a, T> {
    fn from(targets: &'a DMatrix<T>) -> Self {
        Self::Columns(targets)
    }
}

impl<'a, T: Scalar> Labels<'a, T> {
    /// Checks that there is one label per column of `outputs`.
    pub(super) fn check_size(&self, outputs: &DMatrix<T>) -> Result<(), Error> {
        match self {
            Self::Numbers(labels) => check_length("labels", labels, outputs.ncols()),
            Self::Columns(targets) => check_shape("one-hot labels", targets, outputs.shape()),
        }
    }

    /// The class of every example; one row of outputs stands for the classes 0 and 1.
    pub(super) fn numbers(self, rows: usize) -> Result<Cow<'a, [usize]>, Error> {
        match self {
            Self::Numbers(labels) => {
                let classes = if rows == 1 { 2 } else { rows };
                check_classes(labels, classes)?;
                Ok(labels.into())
            }
            Self::Columns(targets) => {
                let columns = targets.column_iter().enumerate();
                let classes = columns.map(|(i, column)| class_of(i, column.as_slice()));
                classes.collect::<Result<_, _>>().map(Cow::Owned)
            }
        }
    }
}

/// The class of a one-hot column, or the value of a single binary target.
fn class_of<T: Scalar>(column: usize, targets: &[T]) -> Result<usize, Error> {
    check_binary(column, targets)?;
    let ones = targets.iter().filter(|y| !y.is_zero()).count();
    if targets.len() == 1 {
        return Ok(ones);
    }
    match targets.iter().position(|y| !y.is_zero()) {
        Some(class) if ones == 1 => Ok(class),
        _ => Err(Error::NotOneHot {
            column,
            reason: format!("{ones} of its entries are 1, but exactly one must be"),
        }),
    }
}

/// Checks that all targets of one example are 0 or 1.
pub(super) fn check_binary<T: Scalar>(column: usize, targets: &[T]) -> Result<(), Error> {
    let odd = targets.iter().position(|&y| !y.is_zero() && y != T::one());
    odd.map_or(Ok(()), |row| {
        let value = targets[row].as_f64();
        let reason = format!("row {row} is {value}, but must be 0 or 1");
        Err(Error::NotOneHot { column, reason })
    })
}
