//! Elementwise combinations and sums over slices, each with one fixed order of additions.

use std::ops::AddAssign;

use num_traits::Zero;

use super::{Write, vectorise};
use crate::Scalar;

/// Partial sums a reduction keeps: enough for the widest vectors, and the same on every machine.
const LANES: usize = 16;

/// Σ_i term(i), i = 0, …, n−1, in [`LANES`] interleaved partial sums that are then added in order.
#[inline(always)]
fn sum<T: Zero + Copy + AddAssign>(n: usize, term: impl Fn(usize) -> T) -> T {
    let mut lanes = [T::zero(); LANES];
    let whole = n - n % LANES;
    let mut start = 0;
    while start < whole {
        for (j, lane) in lanes.iter_mut().enumerate() {
            *lane += term(start + j);
        }
        start += LANES;
    }
    for i in whole..n {
        lanes[i - whole] += term(i);
    }
    lanes
        .into_iter()
        .fold(T::zero(), |total, lane| total + lane)
}

/// Values that are summed before their sum is added to the others: keeps the error of a long sum
/// small in `f32`.
const BLOCK: usize = 4096;

/// Σ aᵢ.
pub(crate) fn total<T: Scalar>(a: &[T]) -> T {
    vectorise(
        #[inline(always)]
        || {
            let blocks = a.chunks(BLOCK).map(|block| sum(block.len(), |i| block[i]));
            blocks.fold(T::zero(), |total, block| total + block)
        },
    )
}

/// Σ |aᵢ|.
pub(crate) fn total_magnitude<T: Scalar>(a: &[T]) -> T {
    vectorise(
        #[inline(always)]
        || sum(a.len(), |i| a[i].abs()),
    )
}

/// Σ aᵢ bᵢ.
pub(crate) fn dot<T: Scalar>(a: &[T], b: &[T]) -> T {
    let n = a.len().min(b.len());
    let (a, b) = (&a[..n], &b[..n]);
    vectorise(
        #[inline(always)]
        || sum(n, |i| a[i] * b[i]),
    )
}

/// Σ (aᵢ − bᵢ)².
pub(crate) fn squared_distance<T: Scalar>(a: &[T], b: &[T]) -> T {
    let n = a.len().min(b.len());
    let (a, b) = (&a[..n], &b[..n]);
    vectorise(
        #[inline(always)]
        || {
            sum(n, |i| {
                let d = a[i] - b[i];
                d * d
            })
        },
    )
}

/// Whether no value is NaN or infinite.
pub(crate) fn all_finite<T: Scalar>(values: &[T]) -> bool {
    // x·0 is 0 for finite x and NaN for the others, and NaN survives a sum.
    let zero = vectorise(
        #[inline(always)]
        || sum(values.len(), |i| values[i] * T::zero()),
    );
    zero.is_finite()
}

/// out ← a − b (set or added).
pub(crate) fn subtract<T: Scalar>(out: Write<'_, T>, a: &[T], b: &[T]) {
    vectorise(
        #[inline(always)]
        || match out {
            Write::Skip => {}
            Write::Set(out) => {
                for ((o, &a), &b) in out.iter_mut().zip(a).zip(b) {
                    *o = a - b;
                }
            }
            Write::Add(out) => {
                for ((o, &a), &b) in out.iter_mut().zip(a).zip(b) {
                    *o += a - b;
                }
            }
        },
    );
}

/// out ← a ⊙ b.
pub(crate) fn multiply<T: Scalar>(out: &mut [T], a: &[T], b: &[T]) {
    vectorise(
        #[inline(always)]
        || {
            for ((o, &a), &b) in out.iter_mut().zip(a).zip(b) {
                *o = a * b;
            }
        },
    );
}

/// values ← values ⊙ other.
pub(crate) fn multiply_by<T: Scalar>(values: &mut [T], other: &[T]) {
    vectorise(
        #[inline(always)]
        || {
            for (v, &o) in values.iter_mut().zip(other) {
                *v *= o;
            }
        },
    );
}

/// values ← factor · values.
pub(crate) fn scale<T: Scalar>(values: &mut [T], factor: T) {
    vectorise(
        #[inline(always)]
        || {
            for v in values.iter_mut() {
                *v *= factor;
            }
        },
    );
}

/// values ← values + other.
pub(crate) fn add_to<T: Scalar>(values: &mut [T], other: &[T]) {
    vectorise(
        #[inline(always)]
        || {
            for (v, &o) in values.iter_mut().zip(other) {
                *v += o;
            }
        },
    );
}

/// values ← values − other.
pub(crate) fn subtract_from<T: Scalar>(values: &mut [T], other: &[T]) {
    vectorise(
        #[inline(always)]
        || {
            for (v, &o) in values.iter_mut().zip(other) {
                *v -= o;
            }
        },
    );
}

/// values ← values + factor · other.
pub(crate) fn add_scaled<T: Scalar>(values: &mut [T], factor: T, other: &[T]) {
    vectorise(
        #[inline(always)]
        || {
            for (v, &o) in values.iter_mut().zip(other) {
                *v += factor * o;
            }
        },
    );
}

/// Every column of `matrix` ← its factor times itself.
pub(crate) fn scale_columns<T: Scalar>(matrix: &mut [T], factors: &[T]) {
    let dim = matrix.len() / factors.len();
    for (column, &factor) in matrix.chunks_exact_mut(dim).zip(factors) {
        scale(column, factor);
    }
}

/// Every column of `matrix` ← `column`.
pub(crate) fn fill_columns<T: Scalar>(matrix: &mut [T], column: &[T]) {
    for to in matrix.chunks_exact_mut(column.len()) {
        to.copy_from_slice(column);
    }
}

/// out_r ← Σ over the columns of matrix_{r,·} (set or added), columns in order.
pub(crate) fn row_sums<T: Scalar>(out: Write<'_, T>, matrix: &[T]) {
    let out = match out {
        Write::Skip => return,
        Write::Set(out) => {
            out.fill(T::zero());
            out
        }
        Write::Add(out) => out,
    };
    vectorise(
        #[inline(always)]
        || {
            for column in matrix.chunks_exact(out.len()) {
                for (o, &c) in out.iter_mut().zip(column) {
                    *o += c;
                }
            }
        },
    );
}
