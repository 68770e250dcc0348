//! Checks of values that users pass in: lengths, weights, options, finite data.

use std::borrow::Cow;

use nalgebra::DMatrix;

use crate::error::{Error, Quantity};
use crate::kernel::{Scalar, all_finite};

/// Returns the value of an option if it `fits`, or [`Error::InvalidOption`].
pub(crate) fn option(
    option: &'static str,
    value: f64,
    fits: bool,
    allowed: impl Into<Cow<'static, str>>,
) -> Result<f64, Error> {
    if fits {
        return Ok(value);
    }
    Err(Error::InvalidOption {
        option,
        value,
        allowed: allowed.into(),
    })
}

/// An option that must be above 0.
pub(crate) fn positive(name: &'static str, value: f64) -> Result<f64, Error> {
    let fits = value > 0.0 && value.is_finite();
    option(name, value, fits, "above 0 and finite")
}

/// An option that must be above 0, also in the circuit's scalar type.
pub(crate) fn positive_in_scalar<T: Scalar>(name: &'static str, value: f64) -> Result<T, Error> {
    let own = T::of(value);
    let fits = own > T::zero() && own.is_finite();
    let allowed = "above 0 and finite in the circuit's scalar type";
    option(name, value, fits, allowed).map(|_| own)
}

/// An option that must be at least 0.
pub(crate) fn not_negative(name: &'static str, value: f64) -> Result<f64, Error> {
    let fits = value >= 0.0 && value.is_finite();
    option(name, value, fits, "finite and not negative")
}

/// An option that must be in 0..=1.
pub(crate) fn share(name: &'static str, value: f64) -> Result<f64, Error> {
    option(name, value, (0.0..=1.0).contains(&value), "in 0..=1")
}

/// An option that must be at least 0 and below 1.
pub(crate) fn below_one(name: &'static str, value: f64) -> Result<f64, Error> {
    option(
        name,
        value,
        (0.0..1.0).contains(&value),
        "at least 0 and below 1",
    )
}

/// An option that may have any finite value.
pub(crate) fn finite(name: &'static str, value: f64) -> Result<f64, Error> {
    option(name, value, value.is_finite(), "finite")
}

/// A count that must be at least 1.
pub(crate) fn at_least_one(name: &'static str, count: u64) -> Result<u64, Error> {
    option(name, count as f64, count > 0, "at least 1").map(|_| count)
}

/// An option that must be at least 0 and still finite once it is converted to the scalar.
pub(crate) fn in_scalar<T: Scalar>(name: &'static str, value: f64) -> Result<T, Error> {
    let own = T::of(value);
    let fits = own >= T::zero() && own.is_finite();
    let allowed = "at least 0 and finite in the circuit's scalar type";
    option(name, value, fits, allowed).map(|_| own)
}

/// Implements serde's traits for options. Values that are read must pass the type's `checked`.
///
/// The type derives both traits with `#[serde(remote = "Self")]`. This generates inherent functions
/// and leaves the trait implementations to this macro.
macro_rules! serde_checked {
    ($name:ident) => {
        #[cfg(feature = "serde")]
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                $name::serialize(self, to)
            }
        }

        #[cfg(feature = "serde")]
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let read = $name::deserialize(from)?;
                read.checked().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use serde_checked;

/// Checks that a slice has the expected length.
pub(crate) fn check_length<T>(what: &str, values: &[T], expected: usize) -> Result<(), Error> {
    check_count(what, values.len() == expected, expected, values.len())
}

/// Returns [`Error::Length`] with these numbers unless `fits` is true.
pub(crate) fn check_count(
    what: &str,
    fits: bool,
    expected: usize,
    found: usize,
) -> Result<(), Error> {
    match fits {
        true => Ok(()),
        false => Err(Error::Length {
            what: what.into(),
            expected,
            found,
        }),
    }
}

/// An empty list with capacity for a matrix, or [`Error::TooLarge`] if memory cannot hold it.
pub(crate) fn room<A>(what: &'static str, rows: usize, columns: usize) -> Result<Vec<A>, Error> {
    let mut list = Vec::new();
    make_room(&mut list, what, rows, columns)?;
    Ok(list)
}

/// Reserves room for a matrix in a list, or fails with [`Error::TooLarge`].
pub(crate) fn make_room<A>(
    list: &mut Vec<A>,
    what: &'static str,
    rows: usize,
    columns: usize,
) -> Result<(), Error> {
    // A product that overflows becomes usize::MAX, which no list can hold.
    let more = rows.saturating_mul(columns).saturating_sub(list.len());
    list.try_reserve_exact(more).map_err(|_| Error::TooLarge {
        what,
        rows,
        columns,
    })
}

/// Rejects a matrix that memory cannot hold, by reserving memory for it and releasing it again.
pub(crate) fn check_room<A>(what: &'static str, rows: usize, columns: usize) -> Result<(), Error> {
    // Without the black box, the compiler could remove the allocation, whose success is the check.
    room::<A>(what, rows, columns).map(|list| drop(std::hint::black_box(list)))
}

/// Rejects an `operation` that was given no examples.
pub(crate) fn check_examples(count: usize, operation: &'static str) -> Result<(), Error> {
    match count {
        0 => Err(Error::NoExamples { operation }),
        _ => Ok(()),
    }
}

/// Rejects a combination of options.
pub(crate) fn refuse<A>(what: &'static str, reason: &'static str) -> Result<A, Error> {
    Err(Error::Combination { what, reason })
}

/// Penalties μ must be positive and finite, and so must their inverses.
pub(crate) fn check_weights<T: Scalar>(name: &'static str, weights: &[T]) -> Result<(), Error> {
    let allowed = "above 0 and finite, with a finite inverse";
    let check = |&w: &T| option(name, w.as_f64(), is_weight(w), allowed).map(|_| ());
    weights.iter().try_for_each(check)
}

/// Example weights may be 0, too. Steps divide by the others.
pub(crate) fn check_example_weights<T: Scalar>(weights: &[T]) -> Result<(), Error> {
    let allowed = "0, or above 0 and finite, with a finite inverse";
    let fits = |w: T| w.is_zero() || is_weight(w);
    let check = |&w: &T| option("example weight", w.as_f64(), fits(w), allowed).map(|_| ());
    weights.iter().try_for_each(check)
}

fn is_weight<T: Scalar>(w: T) -> bool {
    w.is_finite() && w > T::zero() && w.recip().is_finite()
}

/// Returns [`Error::NonFiniteData`] for the first non-finite value of a matrix with `rows` rows.
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

/// Checks that a result returned to the caller is finite.
pub(crate) fn check_result<T: Scalar>(
    quantity: Quantity,
    layer: usize,
    values: &[T],
) -> Result<(), Error> {
    match all_finite(values) {
        true => Ok(()),
        false => Err(Error::Overflow { quantity, layer }),
    }
}

/// Checks that everything computed in a step is finite.
pub(crate) fn check_computed<T: Scalar>(
    quantity: Quantity,
    layer: usize,
    step: u64,
    values: &[T],
) -> Result<(), Error> {
    if all_finite(values) {
        return Ok(());
    }
    Err(Error::NonFinite {
        quantity,
        layer,
        step,
    })
}

/// Checks that a matrix has the expected shape.
pub(crate) fn check_shape<T: Scalar>(
    what: &str,
    matrix: &DMatrix<T>,
    expected: (usize, usize),
) -> Result<(), Error> {
    let found = matrix.shape();
    if found == expected {
        return Ok(());
    }
    let what = what.into();
    Err(Error::Shape {
        what,
        expected,
        found,
    })
}

/// Checks a matrix's number of rows; `columns` is used only in the error.
pub(crate) fn check_rows<T: Scalar>(
    what: &str,
    matrix: &DMatrix<T>,
    rows: usize,
    columns: usize,
) -> Result<(), Error> {
    match matrix.nrows() == rows {
        true => Ok(()),
        false => check_shape(what, matrix, (rows, columns)),
    }
}
