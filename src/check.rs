//! Checks of what users give: lengths, weights, options, finite data.

use nalgebra::DMatrix;

use crate::error::{Error, Quantity};
use crate::kernel::{Scalar, all_finite};

/// Whether a slice has the length that is needed.
pub(crate) fn check_length<T>(what: &str, values: &[T], expected: usize) -> Result<(), Error> {
    if values.len() == expected {
        return Ok(());
    }
    Err(Error::Length {
        what: what.into(),
        expected,
        found: values.len(),
    })
}

/// Penalties μ and example weights must be above 0 and finite, and so must 1/w: steps divide by it.
pub(crate) fn check_weights<T: Scalar>(option: &'static str, weights: &[T]) -> Result<(), Error> {
    let fits = |w: T| w.is_finite() && w > T::zero() && w.recip().is_finite();
    let bad = |weight: &&T| !fits(**weight);
    match weights.iter().find(bad) {
        None => Ok(()),
        Some(weight) => Err(Error::InvalidOption {
            option,
            value: weight.as_f64(),
            allowed: "above 0 and finite, as is its inverse",
        }),
    }
}

/// Finds the first value that is not finite, in a matrix of `rows` rows.
pub(crate) fn check_finite<T: Scalar>(
    quantity: Quantity,
    layer: usize,
    rows: usize,
    values: &[T],
) -> Result<(), Error> {
    if all_finite(values) {
        return Ok(());
    }
    match values.iter().position(|v| !v.is_finite()) {
        None => Ok(()),
        Some(i) => Err(Error::NonFiniteData {
            quantity,
            layer,
            row: i % rows,
            column: i / rows,
            value: values[i].as_f64(),
        }),
    }
}

/// Whether a matrix has the rows that are needed; `columns` only appears in the error.
pub(crate) fn check_rows<T: Scalar>(
    what: &str,
    matrix: &DMatrix<T>,
    rows: usize,
    columns: usize,
) -> Result<(), Error> {
    if matrix.nrows() == rows {
        return Ok(());
    }
    Err(Error::Shape {
        what: what.into(),
        expected: (rows, columns),
        found: matrix.shape(),
    })
}
