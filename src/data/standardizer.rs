//! Scaling features to mean 0 and variance 1.

use std::marker::PhantomData;

use nalgebra::{DMatrix, DVector};

use super::rows::from_rows;
use crate::check::{
    check_examples, check_finite, check_length, check_result, check_rows, finite, not_negative,
};
use crate::error::{Error, Quantity};
use crate::kernel::{Scalar, Sum, pair_plus, power_of_two};

/// A deviation up to this value, relative to the mean, counts as rounding noise: 100 units in the
/// last place of `f64`.
const NOISE: f64 = 1.0 / (1u64 << 45) as f64;

/// Maps every row r of a matrix to mean 0 and variance 1 over the examples it was fitted on:
///
/// s_r = ((x_r − m_r) − m′_r) / σ_r,  m_r + m′_r = (1/n) Σᵢ x_rⁱ,  σ_r² = (1/n) Σᵢ (x_rⁱ − m_r − m′_r)².
///
/// Fit it on the training examples, and apply it to the test examples too. A row that does not vary
/// carries no information: its σ is 0, and it becomes 0. The same applies to a row that varies only
/// by rounding, σ ≤ max(2⁻⁴⁵, ε) |m| with ε the machine epsilon of T; otherwise this noise would be
/// scaled up to variance 1. Everything is computed in `f64`, and s is rounded to T. m is the mean
/// rounded to `f64`, and m′ is the part that this rounding leaves out, which can be as large as
/// σ/256 in a row that varies little. Below about 1e-305, m and σ have only the few digits of
/// subnormal numbers.
///
/// # Examples
/// ```
/// use layerwise::prelude::*;
///
/// let train = DMatrix::from_row_slice(2, 2, &[1.0, 3.0, 7.0, 7.0]);
/// let standardizer = Standardizer::fit(&train)?;
/// let standardised = standardizer.transform(&train)?;
/// assert_eq!(standardised, DMatrix::from_row_slice(2, 2, &[-1.0, 1.0, 0.0, 0.0]));
/// let test = DMatrix::from_row_slice(2, 1, &[5.0, 8.0]);
/// assert_eq!(standardizer.transform(&test)?, DMatrix::from_row_slice(2, 1, &[3.0, 0.0]));
/// # Ok::<(), layerwise::Error>(())
/// ```
#[doc(alias("normalize", "StandardScaler"))]
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(
    feature = "serde",
    serde(try_from = "Parts", into = "Parts", bound = "")
)]
pub struct Standardizer<T: Scalar> {
    mean: DVector<f64>,
    /// m′.
    rest: DVector<f64>,
    /// σ; 0 for a row that does not vary.
    deviation: DVector<f64>,
    scalar: PhantomData<T>,
}

/// What is saved of a standardizer.
#[cfg(feature = "serde")]
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Parts {
    mean: Vec<f64>,
    deviation: Vec<f64>,
    /// m′; empty if it is 0 in every row.
    #[serde(default)]
    rest: Vec<f64>,
}

#[cfg(feature = "serde")]
impl<T: Scalar> From<Standardizer<T>> for Parts {
    fn from(own: Standardizer<T>) -> Self {
        Self {
            mean: own.mean.data.into(),
            deviation: own.deviation.data.into(),
            rest: own.rest.data.into(),
        }
    }
}

#[cfg(feature = "serde")]
impl<T: Scalar> TryFrom<Parts> for Standardizer<T> {
    type Error = Error;

    fn try_from(parts: Parts) -> Result<Self, Error> {
        let mut own = Self::from_parts(parts.mean, parts.deviation)?;
        if !parts.rest.is_empty() {
            check_length("rests of a standardizer", &parts.rest, own.mean.len())?;
            for (&mean, &rest) in own.mean.iter().zip(&parts.rest) {
                let lost = mean + rest == mean;
                crate::check::option("Standardizer::rest", rest, lost, "lost beside the mean")?;
            }
            own.rest = DVector::from_vec(parts.rest);
        }
        Ok(own)
    }
}

impl<T: Scalar> Standardizer<T> {
    /// Fits means and standard deviations to `values` (d × n).
    ///
    /// # Errors
    /// [`Error::NoExamples`], [`Error::NonFiniteData`].
    pub fn fit(values: &DMatrix<T>) -> Result<Self, Error> {
        check_examples(values.ncols(), "fitting a standardizer")?;
        check_finite(Quantity::Data, 0, values.nrows(), values.as_slice())?;
        Ok(Self::fit_finite(values))
    }

    /// The standardizer with the given m and σ, and with m′ = 0. They may come from a standardizer
    /// that was fitted in another program ([`mean`](Self::mean), [`deviation`](Self::deviation)).
    /// With the feature `serde` a standardizer can also be serialised, which keeps m′.
    ///
    /// # Errors
    /// [`Error::Length`] for lists of different lengths, [`Error::InvalidOption`] for an m that is not
    /// finite, or a σ that is negative or not finite.
    ///
    /// # Examples
    /// ```
    /// use layerwise::prelude::*;
    ///
    /// let fitted = Standardizer::fit_rows(&[[1.0, 7.0], [3.0, 7.0]])?;
    /// let (mean, deviation) = (fitted.mean().as_slice(), fitted.deviation().as_slice());
    /// assert_eq!(Standardizer::from_parts(mean.to_vec(), deviation.to_vec())?, fitted);
    /// # Ok::<(), layerwise::Error>(())
    /// ```
    #[doc(alias("load", "save"))]
    pub fn from_parts(mean: Vec<f64>, deviation: Vec<f64>) -> Result<Self, Error> {
        check_length("deviations of a standardizer", &deviation, mean.len())?;
        for &own in &mean {
            finite("Standardizer::mean", own)?;
        }
        for &own in &deviation {
            not_negative("Standardizer::deviation", own)?;
        }
        Ok(Self {
            rest: DVector::zeros(mean.len()),
            mean: DVector::from_vec(mean),
            deviation: DVector::from_vec(deviation),
            scalar: PhantomData,
        })
    }

    /// Fits the means of `values` (d × n) and sets every σ to 1: rows are centred and keep their
    /// scale. This suits pixels, which share one scale.
    ///
    /// # Errors
    /// [`Error::NoExamples`], [`Error::NonFiniteData`].
    ///
    /// # Examples
    /// ```
    /// use layerwise::prelude::*;
    ///
    /// let pixels = DMatrix::from_row_slice(2, 2, &[0.0, 4.0, 7.0, 7.0]);
    /// let centred = Standardizer::fit_mean_only(&pixels)?.transform(&pixels)?;
    /// assert_eq!(centred, DMatrix::from_row_slice(2, 2, &[-2.0, 2.0, 0.0, 0.0]));
    /// # Ok::<(), layerwise::Error>(())
    /// ```
    pub fn fit_mean_only(values: &DMatrix<T>) -> Result<Self, Error> {
        let mut fitted = Self::fit(values)?;
        fitted.deviation.fill(1.0);
        Ok(fitted)
    }

    /// [`fit`](Self::fit) to `rows` with one row per example, such as `&[Vec<f64>]` or
    /// `&[[f32; 4]]`.
    ///
    /// # Errors
    /// Those of [`fit`](Self::fit), with the row and column counted in `rows`; [`Error::Length`]
    /// with the number of a row that is not as long as the first; [`Error::TooLarge`].
    ///
    /// # Examples
    /// ```
    /// use layerwise::prelude::*;
    ///
    /// let standardizer = Standardizer::fit_rows(&[[1.0, 7.0], [3.0, 7.0]])?;
    /// assert_eq!(standardizer.transform_rows(&[[5.0, 8.0]])?, [[3.0, 0.0]]);
    /// # Ok::<(), layerwise::Error>(())
    /// ```
    pub fn fit_rows(rows: &[impl AsRef<[T]>]) -> Result<Self, Error> {
        Self::fit(&from_rows(rows)?).map_err(transposed)
    }

    /// Like [`fit_finite`](Self::fit_finite), but σ is 1 for rows that vary; other rows become 0.
    pub(crate) fn centring(values: &DMatrix<T>) -> Self {
        let mut fitted = Self::fit_finite(values);
        for deviation in fitted.deviation.iter_mut().filter(|own| **own > 0.0) {
            *deviation = 1.0;
        }
        fitted
    }

    /// [`fit`](Self::fit) for at least one example and finite values.
    pub(crate) fn fit_finite(values: &DMatrix<T>) -> Self {
        let noise = NOISE.max(T::default_epsilon().as_f64());
        let rows = values.row_iter().map(|row| {
            let top = row
                .iter()
                .fold(0.0, |top: f64, v| top.max(v.as_f64().abs()));
            // In these units, squares neither overflow nor underflow.
            let unit = power_of_two(top);
            let own = || row.iter().map(|v| v.as_f64() / unit);
            let average = |terms: &mut dyn Iterator<Item = f64>| Sum::of(terms) / row.len() as f64;
            let rough = average(&mut own());
            // Add the mean of what remains, so that the mean of equal values is exactly that value.
            let (mean, rest) = pair_plus((rough, 0.0), average(&mut own().map(|v| v - rough)));
            let sigma = average(&mut own().map(|v| (v - mean - rest).powi(2))).sqrt();
            let varies = sigma > noise * mean.abs();
            (
                (mean * unit, rest * unit),
                if varies { sigma * unit } else { 0.0 },
            )
        });
        let ((mean, rest), deviation): ((Vec<_>, Vec<_>), Vec<_>) = rows.unzip();
        Self {
            mean: DVector::from_vec(mean),
            rest: DVector::from_vec(rest),
            deviation: DVector::from_vec(deviation),
            scalar: PhantomData,
        }
    }

    /// s = ((x − m) − m′) / σ for every column of `values` (d × n, any n); 0 where σ = 0.
    ///
    /// # Errors
    /// [`Error::Shape`] for a number of rows other than the one it was fitted on,
    /// [`Error::NonFiniteData`], [`Error::Overflow`] for an s too large for T.
    pub fn transform(&self, values: &DMatrix<T>) -> Result<DMatrix<T>, Error> {
        self.check_rows(values)?;
        let mut values = values.clone();
        self.apply(&mut values);
        check_result(Quantity::Data, 0, values.as_slice())?;
        Ok(values)
    }

    /// [`transform`](Self::transform) of `rows` with one row per example; returns rows.
    ///
    /// # Errors
    /// [`Error::Length`] for a row that is not as long as those it was fitted on, and
    /// [`Error::NonFiniteData`] with the row and column counted in `rows`; [`Error::Overflow`],
    /// [`Error::TooLarge`].
    pub fn transform_rows(&self, rows: &[impl AsRef<[T]>]) -> Result<Vec<Vec<T>>, Error> {
        self.by_rows(rows, |values| self.transform(values))
    }

    /// [`transform`](Self::transform) in place, for values with as many rows as there are means.
    pub(crate) fn apply(&self, values: &mut DMatrix<T>) {
        self.map(values, |x, [mean, rest], deviation| match x - mean {
            _ if deviation == 0.0 => 0.0,
            // The difference overflows, but half of it does not.
            distance if distance.is_infinite() => (0.5 * x - 0.5 * mean) / (0.5 * deviation),
            distance => (distance - rest) / deviation,
        });
    }

    /// Replaces every x by value(x, \[m, m′\], σ).
    fn map(&self, values: &mut DMatrix<T>, value: impl Fn(f64, [f64; 2], f64) -> f64) {
        for mut column in values.column_iter_mut() {
            let rows = self.mean.iter().zip(&self.rest).zip(&self.deviation);
            for (x, ((&mean, &rest), &deviation)) in column.iter_mut().zip(rows) {
                *x = T::of(value(x.as_f64(), [mean, rest], deviation));
            }
        }
    }

    /// x = m + (σ s + m′) for every column of `values` (d × n, any n): undoes
    /// [`transform`](Self::transform) up to rounding. A row that did not vary gets its mean.
    ///
    /// # Errors
    /// Those of [`transform`](Self::transform); [`Error::Overflow`] is for an x.
    ///
    /// # Examples
    /// ```
    /// use layerwise::prelude::*;
    ///
    /// let train = DMatrix::from_row_slice(2, 2, &[1.0, 3.0, 7.0, 7.0]);
    /// let standardised = DMatrix::from_row_slice(2, 2, &[0.0, 3.0, 0.0, 1.0]);
    /// let values = Standardizer::fit(&train)?.inverse_transform(&standardised)?;
    /// assert_eq!(values, DMatrix::from_row_slice(2, 2, &[2.0, 5.0, 7.0, 7.0]));
    /// # Ok::<(), layerwise::Error>(())
    /// ```
    pub fn inverse_transform(&self, values: &DMatrix<T>) -> Result<DMatrix<T>, Error> {
        self.check_rows(values)?;
        let mut values = values.clone();
        self.map(&mut values, |s, [mean, rest], deviation| {
            match mean + (deviation * s + rest) {
                // The product may overflow although the sum does not.
                x if x.is_infinite() => 2.0 * (0.5 * mean + 0.5 * deviation * s),
                x => x,
            }
        });
        check_result(Quantity::Data, 0, values.as_slice())?;
        Ok(values)
    }

    /// [`inverse_transform`](Self::inverse_transform) of `rows` with one row per example; returns
    /// rows.
    ///
    /// # Errors
    /// Those of [`transform_rows`](Self::transform_rows).
    pub fn inverse_transform_rows(&self, rows: &[impl AsRef<[T]>]) -> Result<Vec<Vec<T>>, Error> {
        self.by_rows(rows, |values| self.inverse_transform(values))
    }

    /// m, the mean of every row (length d), in `f64` for every T.
    pub fn mean(&self) -> &DVector<f64> {
        &self.mean
    }

    /// m′, the part of every row's mean (length d) that is lost when m is rounded.
    pub fn mean_rest(&self) -> &DVector<f64> {
        &self.rest
    }

    /// σ, the standard deviation that every row is divided by (length d). It is 0 for a row that
    /// did not vary, and 1 for every row if only means were fitted. In `f64` for every T.
    pub fn deviation(&self) -> &DVector<f64> {
        &self.deviation
    }

    fn by_rows(
        &self,
        rows: &[impl AsRef<[T]>],
        apply: impl Fn(&DMatrix<T>) -> Result<DMatrix<T>, Error>,
    ) -> Result<Vec<Vec<T>>, Error> {
        let Some(first) = rows.first() else {
            return Ok(Vec::new());
        };
        check_length("row 0 to standardise", first.as_ref(), self.mean.len())?;
        let values = apply(&from_rows(rows)?).map_err(transposed)?;
        let columns = values.column_iter();
        let rows = columns.map(|column| column.iter().copied().collect());
        Ok(rows.collect())
    }

    fn check_rows(&self, values: &DMatrix<T>) -> Result<(), Error> {
        let (rows, columns) = (self.mean.len(), values.ncols());
        check_rows("values to standardise", values, rows, columns)?;
        check_finite(Quantity::Data, 0, rows, values.as_slice())
    }
}

/// An error about a matrix, in terms of the rows of examples that it was made from.
fn transposed(error: Error) -> Error {
    match error {
        Error::NonFiniteData {
            quantity,
            layer,
            row,
            column,
            value,
        } => Error::NonFiniteData {
            quantity,
            layer,
            row: column,
            column: row,
            value,
        },
        other => other,
    }
}
