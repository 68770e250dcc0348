//! Elementwise combinations and sums over slices, each with one fixed order of additions.

use super::{Write, vectorise};
use crate::Scalar;

/// Partial sums a reduction keeps: two of the widest vectors of `f32`, so that one addition need not
/// wait for the other, and the same on every machine.
pub(super) const LANES: usize = 32;

/// Σ of `lanes`, by halves.
#[inline(always)]
pub(super) fn total_of<T: Scalar>(mut lanes: [T; LANES]) -> T {
    let mut width = LANES / 2;
    while width > 0 {
        for j in 0..width {
            lanes[j] += lanes[j + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Σ_i term(aᵢ), in [`LANES`] interleaved partial sums.
#[inline(always)]
pub(super) fn sum<T: Scalar>(a: &[T], term: impl Fn(T) -> T) -> T {
    let mut lanes = [T::zero(); LANES];
    add_to_lanes(&mut lanes, a, term);
    total_of(lanes)
}

#[inline(always)]
pub(super) fn add_to_lanes<T: Scalar>(lanes: &mut [T; LANES], a: &[T], term: impl Fn(T) -> T) {
    let (chunks, rest) = a.as_chunks::<LANES>();
    for chunk in chunks {
        for j in 0..LANES {
            lanes[j] += term(chunk[j]);
        }
    }
    if !rest.is_empty() {
        // Padded, so that this too is one addition of vectors.
        let mut last = [T::zero(); LANES];
        for (to, &x) in last.iter_mut().zip(rest) {
            *to = term(x);
        }
        for j in 0..LANES {
            lanes[j] += last[j];
        }
    }
}

/// Σ_i term(aᵢ, bᵢ), alike. The terms stand in memory for a moment: compilers vectorise loops over
/// one array of sums and one of terms, but not over two arrays of arguments.
#[inline(always)]
fn sum_of_pairs<T: Scalar>(a: &[T], b: &[T], term: impl Fn(T, T) -> T) -> T {
    const TERMS: usize = 8 * LANES;
    let mut lanes = [T::zero(); LANES];
    let mut terms = [T::zero(); TERMS];
    for (a, b) in a.chunks(TERMS).zip(b.chunks(TERMS)) {
        let n = a.len().min(b.len());
        for (to, (&a, &b)) in terms.iter_mut().zip(a.iter().zip(b)) {
            *to = term(a, b);
        }
        add_to_lanes(&mut lanes, &terms[..n], |x| x);
    }
    total_of(lanes)
}

/// Values that are summed before their sum is added to the others: keeps the error of a long sum
/// small in `f32`.
const BLOCK: usize = 4096;

/// Σ aᵢ.
pub(crate) fn total<T: Scalar>(a: &[T]) -> T {
    vectorise(
        #[inline(always)]
        || {
            let blocks = a.chunks(BLOCK).map(|block| sum(block, |x| x));
            blocks.fold(T::zero(), |total, block| total + block)
        },
    )
}

/// Σ |aᵢ|.
pub(crate) fn total_magnitude<T: Scalar>(a: &[T]) -> T {
    vectorise(
        #[inline(always)]
        || sum(a, |x| x.abs()),
    )
}

/// Σ aᵢ bᵢ.
pub(crate) fn dot<T: Scalar>(a: &[T], b: &[T]) -> T {
    vectorise(
        #[inline(always)]
        || sum_of_pairs(a, b, |a, b| a * b),
    )
}

#[inline(always)]
fn square_of_difference<T: Scalar>(a: T, b: T) -> T {
    let d = a - b;
    d * d
}

/// Σ (aᵢ − bᵢ)².
pub(crate) fn squared_distance<T: Scalar>(a: &[T], b: &[T]) -> T {
    vectorise(
        #[inline(always)]
        || sum_of_pairs(a, b, square_of_difference),
    )
}

/// values_j ← ½ ‖z_j − p_j‖² for every column of `dim` values, ∂/∂z = z − p and ∂/∂p = p − z: each
/// column is read from memory once.
pub(crate) fn squared_errors<T: Scalar>(
    values: &mut [T],
    dim: usize,
    (z, p): (&[T], &[T]),
    d_z: Write<'_, T>,
    d_p: Write<'_, T>,
) {
    let half = T::of(0.5);
    let columns = values
        .iter_mut()
        .zip(z.chunks_exact(dim).zip(p.chunks_exact(dim)));
    match (d_z, d_p) {
        (Write::Set(d_z), Write::Set(d_p)) => vectorise(
            #[inline(always)]
            || {
                let gradients = d_z.chunks_exact_mut(dim).zip(d_p.chunks_exact_mut(dim));
                for ((value, (z, p)), (d_z, d_p)) in columns.zip(gradients) {
                    difference(d_z, z, p);
                    difference(d_p, p, z);
                    *value = half * sum(d_z, |d| d * d);
                }
            },
        ),
        (Write::Set(d), Write::Skip) => vectorise(
            #[inline(always)]
            || {
                for ((value, (z, p)), d) in columns.zip(d.chunks_exact_mut(dim)) {
                    difference(d, z, p);
                    *value = half * sum(d, |d| d * d);
                }
            },
        ),
        (Write::Skip, Write::Set(d)) => vectorise(
            #[inline(always)]
            || {
                for ((value, (z, p)), d) in columns.zip(d.chunks_exact_mut(dim)) {
                    difference(d, p, z);
                    *value = half * sum(d, |d| d * d);
                }
            },
        ),
        (d_z, d_p) => {
            vectorise(
                #[inline(always)]
                || {
                    for (value, (z, p)) in columns {
                        *value = half * sum_of_pairs(z, p, square_of_difference);
                    }
                },
            );
            subtract(d_z, z, p);
            subtract(d_p, p, z);
        }
    }
}

#[inline(always)]
fn difference<T: Scalar>(out: &mut [T], a: &[T], b: &[T]) {
    for (o, (&a, &b)) in out.iter_mut().zip(a.iter().zip(b)) {
        *o = a - b;
    }
}

/// Whether no value is NaN or infinite.
pub(crate) fn all_finite<T: Scalar>(values: &[T]) -> bool {
    // x·0 is 0 for finite x and NaN for the others, and NaN survives a sum.
    let zero = vectorise(
        #[inline(always)]
        || sum(values, |x| x * T::zero()),
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
