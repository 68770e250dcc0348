//! Features of mean 0 and variance 1.

use nalgebra::{DMatrix, DVector};

use crate::check::{check_examples, check_finite, check_rows};
use crate::error::{Error, Quantity};
use crate::kernel::Scalar;

/// Maps every row r of a matrix to mean 0 and variance 1 over the examples it was fitted on:
///
/// s_r = (x_r − m_r) / σ_r,  m_r = (1/n) Σᵢ x_rⁱ,  σ_r² = (1/n) Σᵢ (x_rⁱ − m_r)².
///
/// Fit it on the training examples and apply it to the test examples too. A row that does not vary
/// says nothing and becomes 0; its σ counts as 0. So does a row whose σ or 1/σ the numbers cannot
/// hold. Means and deviations are computed in `f64` and rounded to T.
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
#[derive(Debug, Clone, PartialEq)]
pub struct Standardizer<T: Scalar> {
    mean: DVector<T>,
    deviation: DVector<T>,
    /// 1/σ, or 0 for a row that does not vary.
    factor: DVector<T>,
}

impl<T: Scalar> Standardizer<T> {
    /// Takes means and deviations of `values` (d × n).
    ///
    /// # Errors
    /// [`Error::NoExamples`], [`Error::NonFiniteData`].
    pub fn fit(values: &DMatrix<T>) -> Result<Self, Error> {
        check_examples(values.ncols(), "fitting a standardizer")?;
        check_finite(Quantity::Input, 0, values.nrows(), values.as_slice())?;
        Ok(Self::fit_finite(values))
    }

    /// Takes the means of `values` (d × n) and 1 for every σ: rows are centred and keep their scale,
    /// as suits pixels, which share one.
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
        let fitted = Self::fit(values)?;
        let ones = DVector::from_element(values.nrows(), T::one());
        Ok(Self {
            deviation: ones.clone(),
            factor: ones,
            ..fitted
        })
    }

    /// [`fit_finite`](Self::fit_finite), but rows that vary keep their scale; the others become 0.
    pub(crate) fn centring(values: &DMatrix<T>) -> Self {
        let mut fitted = Self::fit_finite(values);
        let factors = fitted.factor.iter_mut();
        for factor in factors.filter(|factor| !factor.is_zero()) {
            *factor = T::one();
        }
        fitted
    }

    /// [`fit`](Self::fit) to at least one example of finite values.
    ///
    /// Means and deviations in f64, whatever T: a constant unit must be seen to be constant.
    pub(crate) fn fit_finite(values: &DMatrix<T>) -> Self {
        let n = values.ncols() as f64;
        let (mut mean, mut deviation, mut factor) = (Vec::new(), Vec::new(), Vec::new());
        for row in values.row_iter() {
            // Sums of the largest numbers would overflow; a power of 2 changes no other bit.
            let sizes = row.iter().map(|v| v.as_f64().abs());
            let top = sizes.fold(0.0, f64::max);
            let unit = if top > 1e150 { 2f64.powi(600) } else { 1.0 };
            let scaled = || row.iter().map(|v| v.as_f64() / unit);
            let own = scaled().sum::<f64>() / n;
            let squares = scaled().map(|v| (v - own).powi(2)).sum::<f64>();
            let (own, sigma) = (own * unit, (squares / n).sqrt() * unit);
            let constant = row.iter().all(|&v| v == row[0]);
            let inverse = T::of(1.0 / sigma);
            // Of equal values exactly that one, which their sum may round off.
            mean.push(if constant { row[0] } else { T::of(own) });
            // An overflow in 1/σ or, as 1/∞ = 0, in σ.
            let varies = !constant && inverse.is_finite() && inverse != T::zero();
            deviation.push(if varies { T::of(sigma) } else { T::zero() });
            factor.push(if varies { inverse } else { T::zero() });
        }
        Self {
            mean: DVector::from_vec(mean),
            deviation: DVector::from_vec(deviation),
            factor: DVector::from_vec(factor),
        }
    }

    /// s = (x − m) / σ of every column of `values` (d × n, any n), 0 where σ = 0.
    ///
    /// # Errors
    /// [`Error::Shape`] for another number of rows than it was fitted on, [`Error::NonFiniteData`].
    pub fn transform(&self, values: &DMatrix<T>) -> Result<DMatrix<T>, Error> {
        self.check_rows(values)?;
        let mut values = values.clone();
        self.apply(&mut values);
        Ok(values)
    }

    /// [`transform`](Self::transform) in place, of values with as many rows as there are means.
    pub(crate) fn apply(&self, values: &mut DMatrix<T>) {
        for mut column in values.column_iter_mut() {
            column -= &self.mean;
            column.component_mul_assign(&self.factor);
        }
    }

    /// x = m + σ s of every column of `values` (d × n, any n): undoes
    /// [`transform`](Self::transform) up to rounding. A row that did not vary gets its mean.
    ///
    /// # Errors
    /// [`Error::Shape`] for another number of rows than it was fitted on, [`Error::NonFiniteData`].
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
        for mut column in values.column_iter_mut() {
            column.component_mul_assign(&self.deviation);
            column += &self.mean;
        }
        Ok(values)
    }

    /// m, the mean of every row (length d).
    pub fn mean(&self) -> &DVector<T> {
        &self.mean
    }

    /// σ, what every row is divided by (length d): 0 for a row that did not vary, 1 for every row
    /// where only means were fitted.
    pub fn deviation(&self) -> &DVector<T> {
        &self.deviation
    }

    fn check_rows(&self, values: &DMatrix<T>) -> Result<(), Error> {
        let (rows, columns) = (self.mean.len(), values.ncols());
        check_rows("values to standardise", values, rows, columns)?;
        check_finite(Quantity::Input, 0, rows, values.as_slice())
    }
}
