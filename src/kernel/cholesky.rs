//! Cholesky factors of small matrices, in place and without allocation.
//!
//! nalgebra's factorisation takes its matrix by value, and drops it if a pivot fails.

use super::vectorise;
use crate::kernel::Scalar;

/// Replaces the lower triangle of a symmetric n × n matrix (column-major) by L with A = L Lᵀ,
/// reading only the lower triangle. Returns `false` if a pivot is not positive and finite; A is
/// then overwritten in part.
pub(crate) fn factor<T: Scalar>(a: &mut [T], n: usize) -> bool {
    vectorise(
        #[inline(always)]
        move || {
            for j in 0..n {
                let (before, rest) = a.split_at_mut(j * n);
                let column = &mut rest[j..n];
                for earlier in before.chunks_exact(n) {
                    let factor = earlier[j];
                    for (c, &l) in column.iter_mut().zip(&earlier[j..]) {
                        *c -= factor * l;
                    }
                }
                let pivot = column[0];
                if !(pivot > T::zero() && pivot.is_finite()) {
                    return false;
                }
                let root = pivot.sqrt();
                let inverse = root.recip();
                column[0] = root;
                for c in &mut column[1..] {
                    *c *= inverse;
                }
            }
            true
        },
    )
}

/// b ← L⁻¹ b for every column of b (n × m).
pub(crate) fn solve_lower<T: Scalar>(l: &[T], n: usize, b: &mut [T]) {
    vectorise(
        #[inline(always)]
        move || {
            for column in b.chunks_exact_mut(n) {
                for (j, l) in l.chunks_exact(n).enumerate() {
                    let (head, tail) = column[j..].split_at_mut(1);
                    head[0] /= l[j];
                    for (x, &l) in tail.iter_mut().zip(&l[j + 1..]) {
                        *x -= head[0] * l;
                    }
                }
            }
        },
    );
}

/// b ← L⁻ᵀ b for every column of b (n × m).
pub(crate) fn solve_lower_transposed<T: Scalar>(l: &[T], n: usize, b: &mut [T]) {
    for column in b.chunks_exact_mut(n) {
        for (j, l) in l.chunks_exact(n).enumerate().rev() {
            let known = super::dot(&l[j + 1..], &column[j + 1..]);
            column[j] = (column[j] - known) / l[j];
        }
    }
}

/// x ← x L⁻ᵀ for every row of x (m × n).
pub(crate) fn divide_transposed<T: Scalar>(l: &[T], n: usize, x: &mut [T]) {
    let m = x.len() / n;
    if m == 0 {
        return;
    }
    vectorise(
        #[inline(always)]
        move || {
            for (j, l) in l.chunks_exact(n).enumerate() {
                let (before, rest) = x[j * m..].split_at_mut(m);
                let inverse = l[j].recip();
                for x in before.iter_mut() {
                    *x *= inverse;
                }
                for (column, &l) in rest.chunks_exact_mut(m).zip(&l[j + 1..]) {
                    for (x, &b) in column.iter_mut().zip(&*before) {
                        *x -= l * b;
                    }
                }
            }
        },
    );
}

#[cfg(test)]
#[path = "cholesky_tests.rs"]
mod tests;
