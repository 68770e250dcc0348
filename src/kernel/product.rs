//! Matrix products.
//!
//! Every entry of A·B is the sum of its terms in their order, in blocks of [`TERMS`]. So column j has the
//! same bits for any columns beside it: an example's results must not depend on the other examples in
//! its batch.
//!
//! The product goes through the terms in blocks. Within one, a panel of a few vectors of A's rows is
//! copied so that the nearest cache holds it, and is multiplied by all columns of B, a tile of a few
//! columns at a time. What that cache holds already is not copied.

use std::ops::Range;

use super::tile::{Left, Right, Strided, Tile, width};
use super::vectors::Vectors;
use super::{Matrix, Write, add_to_halves};
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
    let ((a_row, a_column), (b_row, _)) = (a.strides(), b.strides());
    for (j, column) in out.chunks_exact_mut(m).enumerate() {
        let [b_start] = if b.transposed { [j] } else { b.starts(j) };
        for l in 0..k {
            let factor = b.data[l * b_row + b_start];
            let start = l * a_column;
            if a_row == 1 {
                // By index, which a build without optimisation runs faster than an iterator.
                let rows = &a.data[start..start + m];
                let mut i = 0;
                while i < m {
                    column[i] += rows[i] * factor;
                    i += 1;
                }
            } else {
                for (i, o) in column.iter_mut().enumerate() {
                    *o += a.data[start + i * a_row] * factor;
                }
            }
        }
    }
}

/// Terms that are summed before the sums are added to the result: the fastest number of those measured
/// (docs/performance/log.md), as are the sizes below.
const TERMS: usize = 384;

/// Columns of a transposed right factor that are copied at a time, in bytes of a row. All of them stay in
/// the second-level cache.
const RIGHT_BYTES: usize = 512;

/// Bytes of the widest vectors there are, and how many of them the largest panel has.
const VECTOR_BYTES: usize = 64;
const MOST_VECTORS: usize = 4;

/// Numbers in a matrix that is used where it is, since it fits the nearest cache.
const NEAR: usize = 8192;

/// With at most this many columns, copying the left factor would cost more than it saves.
const FEW_COLUMNS: usize = 16;

/// Sums of more terms than this are computed in parts of [`TERMS`] terms, and the parts are added
/// with twice the digits of T. The error of one long sum would grow with the number of examples.
const LONG: usize = 4096;
/// Rows and columns of such sums computed at a time; the last tile may be nearly twice as large.
const LONG_ROWS: usize = 96;
const LONG_COLUMNS: usize = 64;
const LONG_TILE: usize = (2 * LONG_ROWS - 1) * (2 * LONG_COLUMNS - 1);

/// The product, by the widest vectors of this processor.
pub(crate) fn by_tiles<T: Element>(out: Write<'_, T>, a: Matrix<'_, T>, b: Matrix<'_, T>) {
    let (m, k, n) = shape(&out, &a, &b);
    match b.transposed && k > LONG && m * n > 0 {
        true => sum_in_parts(out, a, b),
        false => in_one(out, a, b),
    }
}

/// A sum over many examples, G Zᵀ, computed in parts.
fn sum_in_parts<T: Element>(out: Write<'_, T>, a: Matrix<'_, T>, b: Matrix<'_, T>) {
    let (m, k, n) = (a.rows(), a.columns(), b.columns());
    let Some(out) = out.accumulate() else {
        return;
    };
    let (mut room, mut lost) = ([T::zero(); LONG_TILE], [T::zero(); LONG_TILE]);
    for columns in blocks(n, LONG_COLUMNS) {
        for rows in blocks(m, LONG_ROWS) {
            let (a, b) = (
                a.t().column_range(rows.clone()).t(),
                b.column_range(columns.clone()),
            );
            let sum = &mut room[..rows.len() * columns.len()];
            let lost = &mut lost[..sum.len()];
            lost.fill(T::zero());
            for terms in blocks(k, TERMS) {
                let (a, b) = (a.column_range(terms.clone()), b.t().column_range(terms).t());
                in_one(Write::Set(sum), a, b);
                let parts = sum
                    .chunks_exact(rows.len())
                    .zip(lost.chunks_exact_mut(rows.len()));
                for (j, (sum, lost)) in columns.clone().zip(parts) {
                    add_to_halves(&mut out[j * m..][rows.clone()], lost, sum);
                }
            }
        }
    }
}

/// 0..length in blocks of `size`; the last block includes the remainder.
fn blocks(length: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    let last = (length / size).saturating_sub(1);
    (0..last)
        .map(move |i| i * size..(i + 1) * size)
        .chain(std::iter::once(last * size..length))
}

fn in_one<T: Element>(out: Write<'_, T>, a: Matrix<'_, T>, b: Matrix<'_, T>) {
    let (m, k, n) = shape(&out, &a, &b);
    #[cfg(feature = "blas")]
    if let Some(call) = super::blas::Call::new(&a, &b) {
        return call.write(out);
    }
    // The tiles are slow where the compiler does not inline them.
    if m * n * k == 0 || cfg!(unoptimized) {
        return by_loops(out, a, b);
    }
    let (out, add) = match out {
        Write::Skip => return,
        Write::Set(out) => (out, false),
        Write::Add(out) => (out, true),
    };
    let product = Product::new(out, add, a, b);
    let (left, right) = product.room();
    // Clearing more than is needed would take longer than a small product.
    match left + right {
        0 => product.run_in::<0>(left),
        1..=2048 => product.run_in::<2048>(left),
        2049..=8192 => product.run_in::<8192>(left),
        8193..=MOST_ROOM_64 => product.run_in::<MOST_ROOM_64>(left),
        _ => product.run_in::<MOST_ROOM>(left),
    }
}

/// Whether panels of the left factor are copied: they are unless they consist of whole vectors and
/// are near, or few columns make up for the copy.
fn copies_left<T>(a: &Matrix<'_, T>, columns: usize) -> bool {
    let whole = a.stride == a.stored_rows && a.stride.is_multiple_of(widest::<T>());
    let near = a.stride * a.columns().min(TERMS) <= NEAR;
    a.transposed || !whole || !(near || columns <= FEW_COLUMNS)
}

/// Whether columns of a transposed right factor are copied: each would be read from many places, for
/// more than one panel.
fn copies_right<T>(b: &Matrix<'_, T>, rows: usize) -> bool {
    let whole = b.stride == b.stored_rows;
    let near = b.stride * b.rows().min(TERMS) <= NEAR;
    b.transposed && !(whole && (near || rows <= MOST_VECTORS * widest::<T>()))
}

/// Numbers in the largest copies, of f64 and of f32.
const MOST_ROOM_64: usize = TERMS * (MOST_VECTORS * VECTOR_BYTES + RIGHT_BYTES) / size_of::<f64>();
const MOST_ROOM: usize = 2 * MOST_ROOM_64;

/// Numbers in the widest vector there is.
const fn widest<T>() -> usize {
    VECTOR_BYTES / size_of::<T>()
}

const fn right_columns<T>() -> usize {
    RIGHT_BYTES / size_of::<T>()
}

/// Aligned to cache lines.
#[repr(align(64))]
struct Room<T, const N: usize>([T; N]);

pub(crate) struct Product<'a, T> {
    out: &'a mut [T],
    add: bool,
    a: Matrix<'a, T>,
    b: Matrix<'a, T>,
    copies_left: bool,
    copies_right: bool,
}

impl<'a, T: Element> Product<'a, T> {
    fn new(out: &'a mut [T], add: bool, a: Matrix<'a, T>, b: Matrix<'a, T>) -> Self {
        Self {
            copies_left: b.transposed || copies_left(&a, b.columns()),
            copies_right: copies_right(&b, a.rows()),
            out,
            add,
            a,
            b,
        }
    }

    /// Numbers that the copies of the left and of the right factor take, on any processor.
    fn room(&self) -> (usize, usize) {
        let (m, terms) = (self.a.rows(), self.a.columns().min(TERMS));
        let rows = panel_vectors(m, widest::<T>(), MOST_VECTORS) * widest::<T>();
        let columns = self.b.columns().min(right_columns::<T>());
        let copied = |copied, numbers| if copied { terms * numbers } else { 0 };
        (
            copied(self.copies_left, rows),
            copied(self.copies_right, columns),
        )
    }

    /// Runs with so much room for copies, the first `left` of it for the left factor.
    fn run_in<const N: usize>(self, left: usize) {
        let mut room = Room([T::zero(); N]);
        let (left, right) = room.0.split_at_mut(left);
        T::run(self, left, right);
    }

    #[inline(always)]
    fn run<K: Vectors<Number = T>>(self, vectors: K, left: &mut [T], right: &mut [T]) {
        let Self {
            out,
            add,
            a,
            b,
            copies_left,
            copies_right,
        } = self;
        let (m, k, n) = (a.rows(), a.columns(), b.columns());
        let panels = m.div_ceil(K::LANES).div_ceil(K::MOST_VECTORS);
        let most = K::columns(panel_vectors(m, K::LANES, K::MOST_VECTORS));
        let far = (m + n) * k + m * n > 2 * NEAR;
        let at_once = if copies_right {
            right_columns::<T>()
        } else {
            n
        };
        let mut start = 0;
        while start < k {
            let terms = TERMS.min(k - start);
            let mut first = 0;
            while first < n {
                let columns = at_once.min(n - first);
                if copies_right {
                    copy_right(
                        vectors,
                        right,
                        &b.data[start * b.stride + first..],
                        b.stride,
                        terms,
                        columns,
                        most,
                    );
                }
                for panel in 0..panels {
                    let rows = panel_rows(panel, panels, m, K::LANES);
                    let left = match copies_left {
                        true => copy_left(vectors, left, &a, &rows, start..start + terms, far),
                        false => Left::InPlace(Strided {
                            numbers: &a.data[start * a.stride..][..terms * a.stride],
                            step: a.stride,
                            first: rows.start,
                        }),
                    };
                    let tile = Tile {
                        vectors,
                        left,
                        rows: rows.len(),
                        terms,
                        stride: m,
                        add: add || start > 0,
                        far,
                    };
                    let mut j = 0;
                    while j < columns {
                        let width = width(columns - j, most);
                        let at = first + j;
                        let right = if copies_right {
                            Right::Copied(&right[j * terms..])
                        } else if b.transposed {
                            Right::ByTerms(Strided {
                                numbers: &b.data[start * b.stride..][..terms * b.stride],
                                step: b.stride,
                                first: at,
                            })
                        } else {
                            if far && panel == 0 && b.is_even() {
                                fetch_columns(
                                    vectors,
                                    &b,
                                    at + width..(at + 2 * width).min(n),
                                    start,
                                    terms,
                                );
                            }
                            Right::ByColumns {
                                numbers: &b.data[start..],
                                starts: b.starts(at),
                            }
                        };
                        tile.write(right, width, &mut out[at * m + rows.start..]);
                        j += width;
                    }
                }
                first += columns;
            }
            start += terms;
        }
    }
}

/// Vectors in the largest panel of this many rows.
#[inline(always)]
fn panel_vectors(rows: usize, lanes: usize, most: usize) -> usize {
    let vectors = rows.div_ceil(lanes);
    vectors.div_ceil(vectors.div_ceil(most))
}

/// Rows of a panel. All panels have almost the same number of vectors.
#[inline(always)]
fn panel_rows(panel: usize, panels: usize, rows: usize, lanes: usize) -> Range<usize> {
    let vectors = rows.div_ceil(lanes);
    let start = panel * vectors / panels * lanes;
    let end = (panel + 1) * vectors / panels * lanes;
    start..end.min(rows)
}

/// Prefetches the terms of some columns of the right factor.
#[inline(always)]
fn fetch_columns<K: Vectors>(
    vectors: K,
    b: &Matrix<'_, K::Number>,
    columns: Range<usize>,
    start: usize,
    terms: usize,
) {
    for j in columns {
        let column = &b.data[j * b.stride + start..][..terms];
        for line in column.chunks(64 / size_of::<K::Number>()) {
            vectors.fetch(line);
        }
    }
}

/// How many columns ahead are prefetched while a panel of the left factor is copied.
const AHEAD: usize = 8;

/// Copies a panel of the left factor, with zeros below it that fill the last vector.
#[inline(always)]
fn copy_left<'a, K: Vectors>(
    vectors: K,
    to: &'a mut [K::Number],
    a: &Matrix<'_, K::Number>,
    rows: &Range<usize>,
    terms: Range<usize>,
    far: bool,
) -> Left<'a, K::Number> {
    let step = rows.len().next_multiple_of(K::LANES);
    if a.transposed {
        let from = &a.data[rows.start * a.stride + terms.start..];
        copy_transposed(vectors, to, step, from, a.stride, rows.len(), terms.len());
    } else {
        let from = &a.data[terms.start * a.stride..];
        let columns = from.chunks(a.stride).zip(to.chunks_exact_mut(step));
        for (l, (from, to)) in columns.take(terms.len()).enumerate() {
            if far && l + AHEAD < terms.len() {
                let ahead = &a.data[(terms.start + l + AHEAD) * a.stride..][rows.clone()];
                for line in ahead.chunks(K::LANES) {
                    vectors.fetch(line);
                }
            }
            copy_rows(vectors, to, &from[rows.clone()]);
        }
    }
    Left::Copied(to)
}

/// Copies the rows of one term.
#[inline(always)]
fn copy_rows<K: Vectors>(vectors: K, to: &mut [K::Number], from: &[K::Number]) {
    let (to, _) = K::view_mut(to);
    let whole = K::view(from);
    for (to, &from) in to.iter_mut().zip(whole) {
        *to = from;
    }
    if let Some(to) = to.get_mut(whole.len()) {
        *to = vectors.load(&from[whole.len() * K::LANES..]);
    }
}

/// Copies a panel of a transposed left factor: row i is contiguous there, column l is here.
#[inline(always)]
fn copy_transposed<K: Vectors>(
    vectors: K,
    to: &mut [K::Number],
    step: usize,
    from: &[K::Number],
    stride: usize,
    rows: usize,
    terms: usize,
) {
    let (in_blocks, of_terms) = (rows - rows % K::BLOCK, terms - terms % K::BLOCK);
    for i in (0..in_blocks).step_by(K::BLOCK) {
        for l in (0..of_terms).step_by(K::BLOCK) {
            vectors.transpose(
                &from[i * stride + l..],
                stride,
                &mut to[l * step + i..],
                step,
            );
        }
    }
    for (l, to) in to.chunks_exact_mut(step).take(terms).enumerate() {
        let left = if l < of_terms { in_blocks } else { 0 };
        for i in left..rows {
            to[i] = from[i * stride + l];
        }
        to[rows..].fill(num_traits::zero());
    }
}

/// Terms that are copied for all columns before the next ones are.
const TERMS_AT_ONCE: usize = 8;

/// Copies columns of a transposed right factor, tile by tile. The rows of a few terms are read as
/// they lie in memory.
#[inline(always)]
fn copy_right<K: Vectors>(
    vectors: K,
    to: &mut [K::Number],
    from: &[K::Number],
    stride: usize,
    terms: usize,
    columns: usize,
    most: usize,
) {
    let mut start = 0;
    while start < terms {
        let count = TERMS_AT_ONCE.min(terms - start);
        let from = &from[start * stride..];
        if start + 2 * count <= terms {
            for ahead in from.chunks(stride).skip(count).take(count) {
                for line in ahead[..columns].chunks(64 / size_of::<K::Number>()) {
                    vectors.fetch(line);
                }
            }
        }
        let mut j = 0;
        while j < columns {
            let width = width(columns - j, most);
            let to = &mut to[j * terms + start * width..][..count * width];
            let from = from.chunks(stride);
            match width {
                8 => copy_columns::<_, 8>(to, from, j),
                6 => copy_columns::<_, 6>(to, from, j),
                4 => copy_columns::<_, 4>(to, from, j),
                _ => copy_columns::<_, 1>(to, from, j),
            }
            j += width;
        }
        start += count;
    }
}

/// Copies W columns from j on.
#[inline(always)]
fn copy_columns<'a, T: Copy + 'a, const W: usize>(
    to: &mut [T],
    from: impl Iterator<Item = &'a [T]>,
    j: usize,
) {
    for (to, from) in to.as_chunks_mut::<W>().0.iter_mut().zip(from) {
        to.copy_from_slice(&from[j..j + W]);
    }
}

/// A number with vectors.
pub(crate) trait Element: Scalar {
    /// Computes the product, by code for this processor.
    fn run(product: Product<'_, Self>, left: &mut [Self], right: &mut [Self]);

    /// The product by the BLAS.
    #[cfg(feature = "blas")]
    const GEMM: super::blas::Gemm<Self>;
}

macro_rules! element {
    ($number:ty, $wide:ident, $gemm:ident) => {
        impl Element for $number {
            #[cfg(feature = "blas")]
            const GEMM: super::blas::Gemm<Self> = cblas_sys::$gemm;

            #[cfg(feature = "fast-kernels")]
            fn run(product: Product<'_, Self>, left: &mut [Self], right: &mut [Self]) {
                struct Dispatched<'a>(Product<'a, $number>, &'a mut [$number], &'a mut [$number]);

                impl pulp::WithSimd for Dispatched<'_> {
                    type Output = ();

                    #[inline(always)]
                    fn with_simd<S: pulp::Simd>(self, simd: S) {
                        let Self(product, left, right) = self;
                        if S::IS_SCALAR {
                            // Without wide registers, copies save nothing.
                            let Product { out, add, a, b, .. } = product;
                            let out = if add {
                                Write::Add(out)
                            } else {
                                Write::Set(out)
                            };
                            by_loops(out, a, b);
                        } else {
                            product.run(super::vectors::$wide::new(simd), left, right);
                        }
                    }
                }

                pulp::Arch::new().dispatch(Dispatched(product, left, right));
            }

            #[cfg(not(feature = "fast-kernels"))]
            fn run(product: Product<'_, Self>, left: &mut [Self], right: &mut [Self]) {
                product.run(super::vectors::Plain::new(), left, right);
            }
        }
    };
}

element!(f32, Wide32, cblas_sgemm);
element!(f64, Wide64, cblas_dgemm);

#[cfg(test)]
#[path = "product_tests.rs"]
mod tests;
