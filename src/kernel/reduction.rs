//! Elementwise combinations and sums over slices, each with one fixed order of additions.

use super::{Write, vectorise};
use crate::Scalar;

/// Partial sums a reduction keeps: enough for the widest vectors, and the same on every machine.
const LANES: usize = 16;

/// Σ_i term(aᵢ) in [`LANES`] interleaved partial sums that are then added in order.
#[inline(always)]
pub(crate) fn sum<T: Scalar>(a: &[T], term: impl Fn(T) -> T) -> T {
    if a.len() < LANES {
        return a.iter().fold(T::zero(), |total, &a| total + term(a));
    }
    // Whole chunks as arrays: without bounds checks the compiler keeps the lanes in one register.
    let (chunks, rest) = a.as_chunks::<LANES>();
    let mut lanes = [T::zero(); LANES];
    for chunk in chunks {
        for j in 0..LANES {
            lanes[j] += term(chunk[j]);
        }
    }
    // The rest goes to the first lanes on the way: writing single lanes would stall the reads.
    let (first, others) = lanes.split_at(rest.len());
    let total = first
        .iter()
        .zip(rest)
        .fold(T::zero(), |total, (&lane, &a)| total + (lane + term(a)));
    others.iter().fold(total, |total, &lane| total + lane)
}

/// Σ_i term(aᵢ, bᵢ) of slices of one length, as [`sum`].
#[inline(always)]
pub(crate) fn sum_of_pairs<T: Scalar>(a: &[T], b: &[T], term: impl Fn(T, T) -> T) -> T {
    if a.len() < LANES {
        let pairs = a.iter().zip(b);
        return pairs.fold(T::zero(), |total, (&a, &b)| total + term(a, b));
    }
    let (chunks, rest) = a.as_chunks::<LANES>();
    let (others, other_rest) = b.as_chunks::<LANES>();
    let mut lanes = [T::zero(); LANES];
    for (chunk, other) in chunks.iter().zip(others) {
        for j in 0..LANES {
            lanes[j] += term(chunk[j], other[j]);
        }
    }
    let (first, others) = lanes.split_at(rest.len());
    let rest = rest.iter().zip(other_rest);
    let total = first
        .iter()
        .zip(rest)
        .fold(T::zero(), |total, (&lane, (&a, &b))| {
            total + (lane + term(a, b))
        });
    others.iter().fold(total, |total, &lane| total + lane)
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

/// Σ |aᵢ|.
pub(crate) fn total_magnitude<T: Scalar>(a: &[T]) -> T {
    vectorise(
        #[inline(always)]
        move || sum(a, |a| a.abs()),
    )
}

/// Σ aᵢ bᵢ.
pub(crate) fn dot<T: Scalar>(a: &[T], b: &[T]) -> T {
    let n = a.len().min(b.len());
    let (a, b) = (&a[..n], &b[..n]);
    vectorise(
        #[inline(always)]
        move || sum_of_pairs(a, b, |a, b| a * b),
    )
}

/// Σ (aᵢ − bᵢ)².
pub(crate) fn squared_distance<T: Scalar>(a: &[T], b: &[T]) -> T {
    let n = a.len().min(b.len());
    let (a, b) = (&a[..n], &b[..n]);
    vectorise(
        #[inline(always)]
        move || sum_of_pairs(a, b, squared_difference),
    )
}

/// Whether no value is NaN or infinite.
pub(crate) fn all_finite<T: Scalar>(values: &[T]) -> bool {
    // x·0 is 0 for finite x and NaN for the others, and NaN survives a sum.
    let zero = vectorise(
        #[inline(always)]
        move || sum(values, |value| value * T::zero()),
    );
    zero.is_finite()
}

/// Elements of the columns that [`half_squared_distances`] reads again while they are near.
const NEAR: usize = 1024;

/// values_i ← ½ ‖aᵢ − bᵢ‖² for the columns aᵢ and bᵢ of `dim` rows; in_a ← a − b and in_b ← b − a
/// (set or added).
pub(crate) fn half_squared_distances<T: Scalar>(
    values: &mut [T],
    [a, b]: [&[T]; 2],
    dim: usize,
    mut in_a: Write<'_, T>,
    mut in_b: Write<'_, T>,
) {
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
                differences(in_a.part(range.clone()), a, b);
                differences(in_b.part(range), b, a);
            }
        },
    );
}

/// out ← a − b (set or added).
#[inline(always)]
fn differences<T: Scalar>(out: Write<'_, T>, a: &[T], b: &[T]) {
    map_pairs(out, a, b, |a, b| a - b);
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
    if a.len() < LANES {
        return (1..a.len()).fold(0, |top, j| if a[j] > a[top] { j } else { top });
    }
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

/// out ← a ⊙ b.
pub(crate) fn multiply<T: Scalar>(out: &mut [T], a: &[T], b: &[T]) {
    vectorise(
        #[inline(always)]
        move || {
            for ((o, &a), &b) in out.iter_mut().zip(a).zip(b) {
                *o = a * b;
            }
        },
    );
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

/// values ← values + other.
pub(crate) fn add_to<T: Scalar>(values: &mut [T], other: &[T]) {
    vectorise(
        #[inline(always)]
        move || {
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
        move || {
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
        move || {
            for (v, &o) in values.iter_mut().zip(other) {
                *v += factor * o;
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
        move || {
            for column in matrix.chunks_exact(out.len()) {
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
