//! Matrix products.
//!
//! With every library, column j of A·B has the same bits for any number of columns of B: an
//! example's results must not depend on the other examples in its batch. Libraries violate this for
//! some narrow products, because they switch to another algorithm. Those columns are computed one
//! by one, each repeated until the product is wide enough for the algorithm used for wide products.

use std::ops::Range;

use super::{Matrix, Write, pair_plus};
use crate::kernel::Scalar;

/// Checks the shapes and returns (rows, inner dimension, columns).
fn shape<T>(out: &Write<'_, T>, a: &Matrix<'_, T>, b: &Matrix<'_, T>) -> (usize, usize, usize) {
    let (m, k, n) = (a.rows(), a.columns(), b.columns());
    assert_eq!(k, b.rows(), "inner dimensions of a product");
    if !out.is_skip() {
        assert_eq!(out.len(), m * n, "the result of a product is {m} x {n}");
    }
    (m, k, n)
}

/// The product by plain loops, for any scalar. The terms of every entry are added in the order of
/// the inner dimension.
pub(crate) fn by_loops<T: Scalar>(out: Write<'_, T>, a: Matrix<'_, T>, b: Matrix<'_, T>) {
    let (m, k, n) = shape(&out, &a, &b);
    let Some(out) = out.accumulate() else {
        return;
    };
    if m == 0 || n == 0 {
        return;
    }
    let ((a_row, a_column), (b_row, b_column)) = (a.strides(), b.strides());
    for (j, column) in out.chunks_exact_mut(m).enumerate() {
        for l in 0..k {
            let factor = b.data[l * b_row + j * b_column];
            let start = l * a_column;
            if a_row == 1 {
                for (o, &x) in column.iter_mut().zip(&a.data[start..start + m]) {
                    *o += x * factor;
                }
            } else {
                for (i, o) in column.iter_mut().enumerate() {
                    *o += a.data[start + i * a_row] * factor;
                }
            }
        }
    }
}

/// The right factor: a matrix, or a single column repeated.
#[derive(Clone, Copy)]
pub(crate) enum Columns<'a, T> {
    Matrix(Matrix<'a, T>),
    Repeated { column: &'a [T], times: usize },
}

impl<T> Columns<'_, T> {
    fn count(&self) -> usize {
        match self {
            Self::Matrix(matrix) => matrix.columns(),
            Self::Repeated { times, .. } => *times,
        }
    }
}

/// A product with a transposed right factor (a sum over examples, G Zᵀ) of at least this many
/// columns always uses the algorithm for wide products. It can therefore be computed in blocks of
/// this many columns, with the same bits as the whole product.
pub(crate) const LEAST_SUMS: usize = 32;

/// Number of rows computed at once in the product of a repeated column.
const PANEL_ROWS: usize = 64;
/// Large enough for every panel: rows times [`backend::least_columns`] never exceeds it.
const PANEL_SIZE: usize = 512;

/// Sums of more terms than this are computed in parts of [`PART`] terms, and the parts are added
/// with twice the digits of T. The error of one long sum would grow with the number of examples.
const LONG: usize = 4096;
const PART: usize = 256;
/// Rows and columns of such sums computed at a time; the last tile may be nearly twice as large.
const TILE: usize = 32;
const TILE_SIZE: usize = (2 * TILE - 1) * (2 * TILE - 1);

/// The product, computed by this build's library.
pub(crate) fn by_library<T>(out: Write<'_, T>, a: Matrix<'_, T>, b: Matrix<'_, T>)
where
    T: Scalar + backend::Element,
{
    let (m, k, n) = shape(&out, &a, &b);
    match b.transposed && k > LONG && m * n > 0 {
        true => sum_in_parts(out, a, b),
        false => in_one(out, a, b),
    }
}

/// A sum over many examples, G Zᵀ, computed in parts.
fn sum_in_parts<T>(out: Write<'_, T>, a: Matrix<'_, T>, b: Matrix<'_, T>)
where
    T: Scalar + backend::Element,
{
    let (m, k, n) = (a.rows(), a.columns(), b.columns());
    let Some(out) = out.accumulate() else {
        return;
    };
    let (mut room, mut lost) = ([T::zero(); TILE_SIZE], [T::zero(); TILE_SIZE]);
    for columns in blocks(n, TILE) {
        for rows in blocks(m, TILE) {
            let (a, b) = (
                a.t().column_range(rows.clone()).t(),
                b.column_range(columns.clone()),
            );
            let sum = &mut room[..rows.len() * columns.len()];
            let lost = &mut lost[..sum.len()];
            lost.fill(T::zero());
            for terms in blocks(k, PART) {
                let (a, b) = (a.column_range(terms.clone()), b.t().column_range(terms).t());
                in_one(Write::Set(sum), a, b);
                let parts = sum
                    .chunks_exact(rows.len())
                    .zip(lost.chunks_exact_mut(rows.len()));
                for (j, (sum, lost)) in columns.clone().zip(parts) {
                    let out = &mut out[j * m..][rows.clone()];
                    for (out, (lost, &sum)) in out.iter_mut().zip(lost.iter_mut().zip(sum)) {
                        (*out, *lost) = pair_plus((*out, *lost), sum);
                    }
                }
            }
        }
    }
}

fn in_one<T>(out: Write<'_, T>, a: Matrix<'_, T>, b: Matrix<'_, T>)
where
    T: Scalar + backend::Element,
{
    let (m, k, n) = shape(&out, &a, &b);
    let narrow = n < backend::least_columns(m, k, b.transposed);
    // A transposed right factor is a sum over examples (G Zᵀ); its columns are not examples.
    if m * n * k == 0 || backend::prefers_loops(m, k) || (narrow && b.transposed) {
        return by_loops(out, a, b);
    }
    let (out, add) = match out {
        Write::Skip => return,
        Write::Set(out) => (out, false),
        Write::Add(out) => (out, true),
    };
    if narrow {
        // Not transposed, so its columns are contiguous.
        for (to, column) in out.chunks_exact_mut(m).zip(b.data.chunks(b.stride)) {
            one_column(to, add, a, &column[..k]);
        }
    } else {
        backend::product(out, add, a, 0..m, Columns::Matrix(b));
    }
}

/// 0..length in blocks of `size`; the last block includes the remainder. No block is smaller than
/// `size` unless it is the only one, so that all use the same algorithm.
fn blocks(length: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    let last = (length / size).saturating_sub(1);
    (0..last)
        .map(move |i| i * size..(i + 1) * size)
        .chain(std::iter::once(last * size..length))
}

/// One column of a product, with the same bits as in a wide product.
fn one_column<T>(out: &mut [T], add: bool, a: Matrix<'_, T>, column: &[T])
where
    T: Scalar + backend::Element,
{
    let (m, k) = (a.rows(), a.columns());
    let mut panel = [T::zero(); PANEL_SIZE];
    let mut start = 0;
    while start < m {
        let mut rows = (m - start).min(PANEL_ROWS);
        let left = m - start - rows;
        if left > 0 && left < backend::LEAST_ROWS {
            rows -= backend::LEAST_ROWS;
        }
        let times = backend::least_columns(rows, k, false);
        let panel = &mut panel[..rows * times];
        let to = &mut out[start..start + rows];
        if add {
            for repeated in panel.chunks_exact_mut(rows) {
                repeated.copy_from_slice(to);
            }
        }
        let b = Columns::Repeated { column, times };
        backend::product(panel, add, a, start..start + rows, b);
        to.copy_from_slice(&panel[..rows]);
        start += rows;
    }
}

#[cfg(feature = "fast-kernels")]
mod backend {
    //! Products by faer.

    use std::ops::Range;

    use faer::linalg::matmul::matmul;
    use faer::reborrow::ReborrowMut;
    use faer::{Accum, ColRef, MatMut, MatRef, Par};

    use super::{Columns, Matrix, blocks};

    pub(crate) use faer::traits::ComplexField as Element;

    /// A product with fewer rows uses another algorithm.
    pub(super) const LEAST_ROWS: usize = 2;

    /// Products with at most this many multiplications use faer's algorithm for tiny matrices,
    /// which sums long rows of a transposed left factor in parts.
    const TINY: usize = 16 * 16 * 16;
    /// Rows of at most this length are summed in the same way by both algorithms.
    const SHORT: usize = 64;

    /// The smallest number of columns for which the product uses the same algorithm as all wider
    /// ones.
    pub(super) fn least_columns(rows: usize, inner: usize, transposed: bool) -> usize {
        let inner = inner.min(terms_at_once(transposed));
        if inner > SHORT && rows > 1 {
            (TINY / (rows * inner) + 1).max(2)
        } else {
            2
        }
    }

    /// Whether a row times a column uses fused operations depends on the number of columns.
    pub(super) fn prefers_loops(rows: usize, inner: usize) -> bool {
        rows == 1 && inner == 1
    }

    /// Rows that one call computes. For every few columns, faer goes through all rows of the left
    /// factor. The rows of one block stay in the second-level cache meanwhile. This and the sizes
    /// below were the fastest of those measured (docs/performance.md).
    const fn rows_at_once<T>() -> usize {
        if size_of::<T>() > 4 { 128 } else { 64 }
    }

    /// Columns that one call computes.
    const COLUMNS_AT_ONCE: usize = 256;

    /// Terms that one call sums. The rows of a transposed right factor are far apart in memory, and
    /// more of them would evict one another from the cache. Otherwise, it is as many as faer itself
    /// sums at once. On targets where faer leaves this choice to the crate gemm, which bases it on
    /// the size of the whole product, it is so few that there is no choice.
    const fn terms_at_once(transposed: bool) -> usize {
        if transposed || cfg!(not(target_arch = "x86_64")) {
            128
        } else {
            512
        }
    }

    pub(super) fn product<T: Element>(
        out: &mut [T],
        add: bool,
        a: Matrix<'_, T>,
        rows: Range<usize>,
        b: Columns<'_, T>,
    ) {
        let (inner, count) = (a.columns(), b.count());
        let a = view(a).get(rows.clone(), ..);
        let (transposed, b) = match b {
            Columns::Repeated { column, times } => {
                let b = MatRef::from_repeated_col(ColRef::from_slice(column), times);
                (false, b)
            }
            Columns::Matrix(b) => (b.transposed, view(b)),
        };
        let mut out = MatMut::from_column_major_slice_mut(out, rows.len(), count);
        for columns in blocks(count, COLUMNS_AT_ONCE) {
            for terms in blocks(inner, terms_at_once(transposed)) {
                let add = add || terms.start > 0;
                let accumulate = if add { Accum::Add } else { Accum::Replace };
                let b = b.get(terms.clone(), columns.clone());
                for rows in blocks(rows.len(), rows_at_once::<T>()) {
                    let out = out.rb_mut().get_mut(rows.clone(), columns.clone());
                    let a = a.get(rows, terms.clone());
                    matmul(out, accumulate, a, b, T::one_impl(), Par::Seq);
                }
            }
        }
    }

    fn view<T>(matrix: Matrix<'_, T>) -> MatRef<'_, T> {
        let (rows, columns) = (matrix.stored_rows, matrix.stored_columns);
        let stored =
            MatRef::from_column_major_slice_with_stride(matrix.data, rows, columns, matrix.stride);
        if matrix.transposed {
            stored.transpose()
        } else {
            stored
        }
    }
}

#[cfg(not(feature = "fast-kernels"))]
mod backend {
    //! Products by nalgebra.

    use std::ops::Range;

    use nalgebra::{DMatrixView, DMatrixViewMut, Dyn};

    use super::{Columns, Matrix};
    use crate::kernel::Scalar;

    pub(crate) use crate::kernel::Scalar as Element;

    /// If a dimension is at most this, nalgebra uses another algorithm. With a transposed left
    /// factor, that algorithm writes out of bounds in nalgebra 0.35.0, so it must never be used.
    const SMALL: usize = 5;
    pub(super) const LEAST_ROWS: usize = SMALL + 1;

    /// The smallest number of columns for which the product uses the same algorithm as all wider
    /// ones.
    pub(super) fn least_columns(_rows: usize, _inner: usize, _transposed: bool) -> usize {
        SMALL + 1
    }

    pub(super) fn prefers_loops(rows: usize, inner: usize) -> bool {
        rows <= SMALL || inner <= SMALL
    }

    pub(super) fn product<T: Scalar>(
        out: &mut [T],
        add: bool,
        a: Matrix<'_, T>,
        rows: Range<usize>,
        b: Columns<'_, T>,
    ) {
        let strides = a.strides();
        let a = strided(
            &a.data[rows.start * strides.0..],
            rows.len(),
            a.columns(),
            strides,
        );
        let (inner, columns) = (a.ncols(), b.count());
        let b = match b {
            Columns::Repeated { column, times } => strided(column, inner, times, (1, 0)),
            Columns::Matrix(b) => strided(b.data, inner, columns, b.strides()),
        };
        let beta = if add { T::one() } else { T::zero() };
        DMatrixViewMut::from_slice(out, rows.len(), columns).gemm(T::one(), &a, &b, beta);
    }

    fn strided<T: Scalar>(
        data: &[T],
        rows: usize,
        columns: usize,
        (row, column): (usize, usize),
    ) -> DMatrixView<'_, T, Dyn, Dyn> {
        DMatrixView::from_slice_with_strides_generic(
            data,
            Dyn(rows),
            Dyn(columns),
            Dyn(row),
            Dyn(column),
        )
    }
}
