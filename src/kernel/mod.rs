//! Operations over whole slices: matrix products, elementwise functions, reductions.
//!
//! This is the only module that knows which libraries do the work.

use std::ops::Range;

pub(crate) mod activate;
mod activation;
#[cfg(feature = "blas")]
mod blas;
mod bytes;
pub(crate) mod cholesky;
pub(crate) mod columns;
#[cfg(feature = "dual")]
mod dual;
pub(crate) mod elementary;
mod execution;
mod pairs;
pub(crate) mod product;
mod reduction;
mod scalar;
mod shape;
mod tile;
mod tridiagonal;
mod vectors;

pub use activation::Activation;
pub use bytes::Bytes;
pub use execution::{Columns, Divide, Execution, WriteColumns};
pub(crate) use execution::{LEAST_COLUMNS, LEAST_WORK};
pub(crate) use pairs::{PLAIN_TERMS, add_to_halves, add_to_pairs, of_pair, pair_plus, scale_pairs};
pub use scalar::Scalar;
pub use shape::Shape;
pub(crate) use shape::extent_product;
pub(crate) use tridiagonal::Tridiagonal;

pub(crate) use reduction::{
    Squares, Sum, add_scaled, add_to, add_to_columns, all_finite, both_finite, dot, exponent,
    fill_columns, half_squared_distances, half_weighted_square, larger, largest, largest_magnitude,
    map_pairs, multiply, multiply_by, norm, norm_in_units, place_of_largest, power_of_two,
    quick_norm, root_mean_square, row_sums, row_sums_in, row_sums_of_many, row_sums_of_products,
    scale, scale_by_power, scale_columns, squared_distance, squares, subtract, subtract_from,
    sum_of_blocks, sums_of_blocks, total, total_magnitude, unit_of, weighted_row_sums,
};

/// Where a kernel writes its result: nowhere, over the old values, or added to them.
///
/// A caller skips results that it does not need: a Z-step needs no parameter gradient, a W-step no
/// target gradient.
#[derive(Debug)]
pub enum Write<'a, T> {
    /// The result is not needed, and is not computed.
    Skip,
    /// `buffer ← result`.
    Set(&'a mut [T]),
    /// `buffer ← buffer + result`.
    Add(&'a mut [T]),
}

impl<'a, T> Write<'a, T> {
    /// [`Write::Set`] with the buffer if there is one, otherwise [`Write::Skip`].
    pub fn set(buffer: Option<&'a mut [T]>) -> Self {
        buffer.map_or(Self::Skip, Self::Set)
    }

    /// Whether the result is skipped.
    pub fn is_skip(&self) -> bool {
        matches!(self, Self::Skip)
    }

    /// Length of the buffer; 0 if there is none.
    pub fn len(&self) -> usize {
        match self {
            Self::Skip => 0,
            Self::Set(buffer) | Self::Add(buffer) => buffer.len(),
        }
    }

    /// Whether there is no buffer, or an empty one.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same instruction for the part `range` of the buffer.
    pub fn part(&mut self, range: Range<usize>) -> Write<'_, T> {
        match self {
            Self::Skip => Write::Skip,
            Self::Set(buffer) => Write::Set(&mut buffer[range]),
            Self::Add(buffer) => Write::Add(&mut buffer[range]),
        }
    }

    /// The same instruction for the first `at` values (or all, if there are fewer), and for the
    /// rest.
    pub fn split_at(self, at: usize) -> (Self, Self) {
        let (buffer, write): (_, fn(&'a mut [T]) -> Self) = match self {
            Self::Skip => return (Self::Skip, Self::Skip),
            Self::Set(buffer) => (buffer, Self::Set),
            Self::Add(buffer) => (buffer, Self::Add),
        };
        let (first, second) = buffer.split_at_mut(at.min(buffer.len()));
        (write(first), write(second))
    }

    /// The buffer to which the terms of a sum are added one after another. It is cleared first for
    /// [`Write::Set`]. `None` if the result is skipped.
    ///
    /// # Examples
    /// ```
    /// use layerwise::kernel::Write;
    ///
    /// let mut sums = [7.0, 7.0];
    /// if let Some(sums) = Write::Set(&mut sums).accumulate() {
    ///     for (i, term) in [(0, 1.0), (1, 2.0), (0, 3.0)] {
    ///         sums[i] += term;
    ///     }
    /// }
    /// assert_eq!(sums, [4.0, 2.0]);
    /// ```
    pub fn accumulate(self) -> Option<&'a mut [T]>
    where
        T: num_traits::Zero + Clone,
    {
        match self {
            Self::Skip => None,
            Self::Set(buffer) => {
                buffer.fill(T::zero());
                Some(buffer)
            }
            Self::Add(buffer) => Some(buffer),
        }
    }

    /// Sets or adds `value(i)` for every index i of the buffer.
    #[inline(always)]
    pub fn each(self, value: impl Fn(usize) -> T)
    where
        T: std::ops::AddAssign,
    {
        match self {
            Self::Skip => {}
            Self::Set(buffer) => {
                for (i, b) in buffer.iter_mut().enumerate() {
                    *b = value(i);
                }
            }
            Self::Add(buffer) => {
                for (i, b) in buffer.iter_mut().enumerate() {
                    *b += value(i);
                }
            }
        }
    }
}

/// A matrix in a product: a column-major slice, used as stored or transposed.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a, T> {
    pub(crate) data: &'a [T],
    /// Rows as stored, before transposition.
    pub(crate) stored_rows: usize,
    /// Columns as stored, before transposition.
    pub(crate) stored_columns: usize,
    /// Distance between stored columns.
    pub(crate) stride: usize,
    /// Stored columns come in runs of this many; the next run begins `leap` after the beginning of the last.
    pub(crate) period: usize,
    pub(crate) leap: usize,
    pub(crate) transposed: bool,
}

impl<'a, T> Matrix<'a, T> {
    /// The `rows × columns` matrix stored column by column in `data`.
    ///
    /// # Panics
    /// If `data` does not hold `rows · columns` values.
    pub fn new(data: &'a [T], rows: usize, columns: usize) -> Self {
        let size = rows.saturating_mul(columns);
        assert_eq!(data.len(), size, "a {rows} x {columns} matrix");
        Self {
            data,
            stored_rows: rows,
            stored_columns: columns,
            stride: rows,
            period: usize::MAX,
            leap: 0,
            transposed: false,
        }
    }

    /// A matrix whose columns may share values: runs of `period` columns are `stride` apart
    /// within a run, and each run begins `leap` after the beginning of the one before. Only products
    /// that have it as the right factor, not transposed, may use it.
    ///
    /// # Panics
    /// If `data` does not hold all columns.
    pub(crate) fn overlapping(
        data: &'a [T],
        (rows, columns): (usize, usize),
        stride: usize,
        (period, leap): (usize, usize),
    ) -> Self {
        let own = Self {
            data,
            stored_rows: rows,
            stored_columns: columns,
            stride,
            period,
            leap,
            transposed: false,
        };
        // The last column of the last period, if it were whole.
        let last = stride * (period - 1) + leap * (columns.div_ceil(period).max(1) - 1);
        let there = columns == 0 || last + rows <= data.len();
        assert!(there, "overlapping columns of a matrix");
        own
    }

    /// Whether all columns are at the same distance from one another.
    pub(crate) fn is_even(&self) -> bool {
        self.period == usize::MAX
    }

    /// Where the stored columns from j on begin.
    #[inline(always)]
    pub(crate) fn starts<const N: usize>(&self, j: usize) -> [usize; N] {
        if self.is_even() {
            return std::array::from_fn(|i| (j + i) * self.stride);
        }
        let (mut within, mut periods) = (j % self.period, j / self.period);
        std::array::from_fn(|_| {
            let start = within * self.stride + periods * self.leap;
            within += 1;
            if within == self.period {
                (within, periods) = (0, periods + 1);
            }
            start
        })
    }

    /// Columns `range` of the matrix, after transposition, without a copy.
    ///
    /// # Panics
    /// If the matrix has no such columns.
    pub fn column_range(self, range: Range<usize>) -> Self {
        let there = range.start <= range.end && range.end <= self.columns();
        assert!(there, "columns of a matrix");
        let (start, stored_rows, stored_columns) = match self.transposed {
            true => (range.start, range.len(), self.stored_columns),
            false => (range.start * self.stride, self.stored_rows, range.len()),
        };
        // Stop at the last value of the part, since the next column's values follow it.
        let data = match stored_columns {
            0 => &[],
            n => &self.data[start..start + (n - 1) * self.stride + stored_rows],
        };
        Self {
            data,
            stored_rows,
            stored_columns,
            ..self
        }
    }

    /// The transpose, without a copy.
    pub fn t(self) -> Self {
        Self {
            transposed: !self.transposed,
            ..self
        }
    }

    /// Number of rows, after transposition.
    pub fn rows(&self) -> usize {
        if self.transposed {
            self.stored_columns
        } else {
            self.stored_rows
        }
    }

    /// Number of columns, after transposition.
    pub fn columns(&self) -> usize {
        if self.transposed {
            self.stored_rows
        } else {
            self.stored_columns
        }
    }

    /// (distance between rows, distance between columns) in `data`.
    pub(crate) fn strides(&self) -> (usize, usize) {
        if self.transposed {
            (self.stride, 1)
        } else {
            (1, self.stride)
        }
    }
}

/// Approximately the smallest normal number.
pub(crate) fn smallest<T: Scalar>() -> T {
    T::max_value().map_or(T::default_epsilon(), |largest| T::of(4.0) / largest)
}

/// Runs `body` compiled for the widest vectors of this machine.
///
/// The body must be an `#[inline(always)] move` closure of plain loops, and so must the closures
/// that it calls; the compiler vectorises them. A number captured by reference would be read again
/// after every write, which prevents vectorisation. Vectorisation never reorders sums or contracts
/// products, so the bits are those of the plain loop.
#[inline]
pub(crate) fn vectorise<R>(body: impl FnOnce() -> R) -> R {
    #[cfg(feature = "fast-kernels")]
    if !cfg!(unoptimized) {
        return pulp::Arch::new().dispatch(body);
    }
    body()
}
