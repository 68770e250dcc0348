//! Elementwise combinations and sums over slices, each with one fixed order of additions.

use super::{Write, vectorise};
use crate::kernel::Scalar;

/// Partial sums a reduction keeps: two of the widest vectors of `f32`, so that one addition need not
/// wait for the other, and the same on every machine.
const LANES: usize = 32;

/// Fewer terms than this are added one after another: lanes would hold little but zeros.
const FEW: usize = 16;

/// Σ_i term(aᵢ), as [`sum_of_pairs`].
#[inline(always)]
pub(crate) fn sum<T: Scalar>(a: &[T], term: impl Fn(T) -> T) -> T {
    sum_of_pairs(a, a, |a, _| term(a))
}

/// Σ_i term(aᵢ, bᵢ) of slices of one length, in [`LANES`] interleaved partial sums that are then added
/// by halves.
#[inline(always)]
pub(crate) fn sum_of_pairs<T: Scalar>(a: &[T], b: &[T], term: impl Fn(T, T) -> T) -> T {
    if a.len() < FEW {
        let pairs = a.iter().zip(b);
        return pairs.fold(T::zero(), |sum, (&a, &b)| sum + term(a, b));
    }
    // Whole chunks as arrays: without bounds checks the compiler keeps the lanes in registers.
    let (chunks, rest) = a.as_chunks::<LANES>();
    let (others, other_rest) = b.as_chunks::<LANES>();
    let mut lanes = [T::zero(); LANES];
    for (chunk, other) in chunks.iter().zip(others) {
        for j in 0..LANES {
            lanes[j] += term(chunk[j], other[j]);
        }
    }
    if !rest.is_empty() {
        // Padded, so that this too is an addition of whole vectors.
        let mut last = [T::zero(); LANES];
        for (to, (&a, &b)) in last.iter_mut().zip(rest.iter().zip(other_rest)) {
            *to = term(a, b);
        }
        for j in 0..LANES {
            lanes[j] += last[j];
        }
    }
    by_halves(lanes)
}

/// Σ of the lanes.
#[inline(always)]
fn by_halves<T: Scalar>(mut lanes: [T; LANES]) -> T {
    let mut width = LANES / 2;
    while width > 0 {
        for j in 0..width {
            lanes[j] += lanes[j + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// (a − b)².
#[inline(always)]
fn squared_difference<T: Scalar>(a: T, b: T) -> T {
    let d = a - b;
    d * d
}

/// Values that are summed before their sum is added to the others: keeps the error of a long sum
/// small in `f32`.
const BLOCK: usize = 4096;

/// Σ aᵢ.
pub(crate) fn total<T: Scalar>(a: &[T]) -> T {
    vectorise(
        #[inline(always)]
        move || {
            let blocks = a.chunks(BLOCK).map(|block| sum(block, |a| a));
            blocks.fold(T::zero(), |total, block| total + block)
        },
    )
}

/// [`sum_of_pairs`] in a pass of its own, over as many pairs as there are.
#[inline(always)]
fn sum_in_pass<T: Scalar>(a: &[T], b: &[T], term: impl Fn(T, T) -> T) -> T {
    let n = a.len().min(b.len());
    let (a, b) = (&a[..n], &b[..n]);
    vectorise(
        #[inline(always)]
        move || sum_of_pairs(a, b, term),
    )
}

/// Σ |aᵢ|.
pub(crate) fn total_magnitude<T: Scalar>(a: &[T]) -> T {
    sum_in_pass(a, a, |a, _| a.abs())
}

/// Σ aᵢ bᵢ.
pub(crate) fn dot<T: Scalar>(a: &[T], b: &[T]) -> T {
    sum_in_pass(a, b, |a, b| a * b)
}

/// Σ (aᵢ − bᵢ)².
pub(crate) fn squared_distance<T: Scalar>(a: &[T], b: &[T]) -> T {
    sum_in_pass(a, b, squared_difference)
}

/// Whether no value is NaN or infinite.
pub(crate) fn all_finite<T: Scalar>(values: &[T]) -> bool {
    // x·0 is 0 for finite x and NaN for the others, and NaN survives a sum.
    sum_in_pass(values, values, |value, _| value * T::zero()).is_finite()
}

/// Whether no value of either of two slices of one length is NaN or infinite.
pub(crate) fn both_finite<T: Scalar>(a: &[T], b: &[T]) -> bool {
    sum_in_pass(a, b, |a, b| a * T::zero() + b * T::zero()).is_finite()
}

/// Elements of the columns that [`half_squared_distances`] reads again while they are near.
const NEAR: usize = 1024;
/// Rows of columns too short for sums of pairs to pay.
const SHORT: usize = 64;

/// values_i ← ½ ‖aᵢ − bᵢ‖² for the columns aᵢ and bᵢ of `dim` rows; in_a ← a − b and in_b ← b − a
/// (set or added).
pub(crate) fn half_squared_distances<T: Scalar>(
    values: &mut [T],
    [a, b]: [&[T]; 2],
    dim: usize,
    mut in_a: Write<'_, T>,
    mut in_b: Write<'_, T>,
) {
    // One compiled pass each: together the compiler vectorises neither well.
    if dim < SHORT
        && let Write::Set(difference) = &mut in_a
    {
        half_squares_of(difference, values, [a, b], dim);
        return subtract(in_b, b, a);
    }
    if dim < SHORT
        && let Write::Set(difference) = &mut in_b
    {
        half_squares_of(difference, values, [b, a], dim);
        return subtract(in_a, a, b);
    }
    let half = T::of(0.5);
    vectorise(
        #[inline(always)]
        move || {
            let columns = (NEAR / dim).max(1);
            let length = columns * dim;
            let pairs = a.chunks(length).zip(b.chunks(length));
            for (k, (values, (a, b))) in values.chunks_mut(columns).zip(pairs).enumerate() {
                let sides = a.chunks_exact(dim).zip(b.chunks_exact(dim));
                for (value, (a, b)) in values.iter_mut().zip(sides) {
                    *value = half * sum_of_pairs(a, b, squared_difference);
                }
                let range = k * length..k * length + a.len();
                map_pairs(in_a.part(range.clone()), a, b, |a, b| a - b);
                map_pairs(in_b.part(range), b, a, |b, a| b - a);
            }
        },
    );
}

/// difference ← a − b, and values_i ← half its square in column i: faster for short columns, which
/// are too short for sums of pairs to pay.
fn half_squares_of<T: Scalar>(
    difference: &mut [T],
    values: &mut [T],
    [a, b]: [&[T]; 2],
    dim: usize,
) {
    let half = T::of(0.5);
    vectorise(
        #[inline(always)]
        move || {
            map_pairs(Write::Set(&mut *difference), a, b, |a, b| a - b);
            for (value, column) in values.iter_mut().zip(difference.chunks_exact(dim)) {
                *value = half * sum(column, |d| d * d);
            }
        },
    );
}

/// out ← a − b (set or added).
pub(crate) fn subtract<T: Scalar>(out: Write<'_, T>, a: &[T], b: &[T]) {
    vectorise(
        #[inline(always)]
        move || map_pairs(out, a, b, |a, b| a - b),
    );
}

/// out ← a ⊙ b.
pub(crate) fn multiply<T: Scalar>(out: &mut [T], a: &[T], b: &[T]) {
    vectorise(
        #[inline(always)]
        move || map_pairs(Write::Set(out), a, b, |a, b| a * b),
    );
}

/// out ← value(a, b) (set or added), for the body of a vectorised pass.
#[inline(always)]
pub(crate) fn map_pairs<T: Scalar>(out: Write<'_, T>, a: &[T], b: &[T], value: impl Fn(T, T) -> T) {
    match out {
        Write::Skip => {}
        Write::Set(out) => {
            for ((o, &a), &b) in out.iter_mut().zip(a).zip(b) {
                *o = value(a, b);
            }
        }
        Write::Add(out) => {
            for ((o, &a), &b) in out.iter_mut().zip(a).zip(b) {
                *o += value(a, b);
            }
        }
    }
}

/// The first place of the largest value; 0 if the first is NaN, and other NaN are passed over.
#[inline(always)]
pub(crate) fn place_of_largest<T: Scalar>(a: &[T]) -> usize {
    let greater = |top: T, a: T| if a > top { a } else { top };
    let (chunks, rest) = a.as_chunks::<LANES>();
    let mut lanes = [a[0]; LANES];
    for chunk in chunks {
        for j in 0..LANES {
            lanes[j] = greater(lanes[j], chunk[j]);
        }
    }
    let top = rest.iter().chain(&lanes).copied().fold(a[0], greater);
    let before = chunks
        .iter()
        .take_while(|chunk| !chunk.iter().fold(false, |found, &a| found | (a == top)))
        .count()
        * LANES;
    a[before..]
        .iter()
        .position(|&a| a == top)
        .map_or(0, |place| before + place)
}

/// values ← value(values, other), every one by itself.
#[inline(always)]
pub(super) fn update<T: Scalar>(values: &mut [T], other: &[T], value: impl Fn(T, T) -> T) {
    vectorise(
        #[inline(always)]
        move || {
            for (v, &o) in values.iter_mut().zip(other) {
                *v = value(*v, o);
            }
        },
    );
}

/// values ← values ⊙ other.
pub(crate) fn multiply_by<T: Scalar>(values: &mut [T], other: &[T]) {
    update(values, other, |v, o| v * o);
}

/// values ← values + other.
pub(crate) fn add_to<T: Scalar>(values: &mut [T], other: &[T]) {
    update(values, other, |v, o| v + o);
}

/// values ← values − other.
pub(crate) fn subtract_from<T: Scalar>(values: &mut [T], other: &[T]) {
    update(values, other, |v, o| v - o);
}

/// values ← values + factor · other.
pub(crate) fn add_scaled<T: Scalar>(values: &mut [T], factor: T, other: &[T]) {
    update(values, other, move |v, o| v + factor * o);
}

/// values ← factor · values.
pub(crate) fn scale<T: Scalar>(values: &mut [T], factor: T) {
    vectorise(
        #[inline(always)]
        move || {
            for v in values.iter_mut() {
                *v *= factor;
            }
        },
    );
}

/// Every column of `matrix` ← itself + `column`.
pub(crate) fn add_to_columns<T: Scalar>(matrix: &mut [T], column: &[T]) {
    vectorise(
        #[inline(always)]
        move || {
            for own in matrix.chunks_exact_mut(column.len()) {
                for (v, &c) in own.iter_mut().zip(column) {
                    *v += c;
                }
            }
        },
    );
}

/// Every column of `matrix` ← its factor times itself.
pub(crate) fn scale_columns<T: Scalar>(matrix: &mut [T], factors: &[T]) {
    let dim = matrix.len() / factors.len();
    vectorise(
        #[inline(always)]
        move || {
            for (column, &factor) in matrix.chunks_exact_mut(dim).zip(factors) {
                for v in column {
                    *v *= factor;
                }
            }
        },
    );
}

/// Every column of `matrix` ← `column`.
pub(crate) fn fill_columns<T: Scalar>(matrix: &mut [T], column: &[T]) {
    let mut filled = column.len().min(matrix.len());
    matrix[..filled].copy_from_slice(&column[..filled]);
    // Twice as many each time: few long copies instead of many short ones.
    while filled < matrix.len() {
        let count = filled.min(matrix.len() - filled);
        matrix.copy_within(..count, filled);
        filled += count;
    }
}

/// out_r ← Σ over the columns of matrix_{r,·} (set or added), columns in order.
pub(crate) fn row_sums<T: Scalar>(out: Write<'_, T>, matrix: &[T]) {
    let Some(out) = out.accumulate() else {
        return;
    };
    vectorise(
        #[inline(always)]
        move || {
            // Four columns a pass, added one after another: the bits of one a pass.
            let dim = out.len();
            let fours = matrix.chunks_exact(4 * dim);
            let rest = fours.remainder();
            for four in fours {
                let (ab, cd) = four.split_at(2 * dim);
                let ((a, b), (c, d)) = (ab.split_at(dim), cd.split_at(dim));
                let columns = a.iter().zip(b).zip(c.iter().zip(d));
                for (o, ((&a, &b), (&c, &d))) in out.iter_mut().zip(columns) {
                    *o = *o + a + b + c + d;
                }
            }
            for column in rest.chunks_exact(dim) {
                for (o, &c) in out.iter_mut().zip(column) {
                    *o += c;
                }
            }
        },
    );
}

#[cfg(test)]
#[path = "reduction_tests.rs"]
mod tests;
