//! Small dense Cholesky factorisations in memory of the caller's.

use super::{add_scaled, dot};
use crate::Scalar;

/// a ← L with a = L Lᵀ, n × n column-major: only the lower triangle is read and written. Gives
/// false, with `a` partly overwritten, where a pivot is not above 0 or not finite.
pub(crate) fn factor<T: Scalar>(a: &mut [T], n: usize) -> bool {
    for k in 0..n {
        let (done, rest) = a.split_at_mut((k + 1) * n);
        let column = &mut done[k * n + k..];
        let pivot = column[0].sqrt();
        if !(column[0] > T::zero() && pivot.is_finite()) {
            return false;
        }
        column[0] = pivot;
        for entry in &mut column[1..] {
            *entry /= pivot;
        }
        // What is left of the columns behind: a_j ← a_j − L_jk L_k.
        for (j, behind) in (k + 1..).zip(rest.chunks_exact_mut(n)) {
            let own = &column[j - k..];
            add_scaled(&mut behind[j..], -own[0], own);
        }
    }
    true
}

/// b ← L⁻¹ b for every column of b, n × m.
pub(crate) fn solve_lower<T: Scalar>(l: &[T], n: usize, b: &mut [T]) {
    for x in b.chunks_exact_mut(n) {
        for (k, column) in l.chunks_exact(n).enumerate() {
            let (done, rest) = x.split_at_mut(k + 1);
            done[k] /= column[k];
            add_scaled(rest, -done[k], &column[k + 1..]);
        }
    }
}

/// b ← L⁻ᵀ b for every column of b, n × m.
pub(crate) fn solve_lower_transposed<T: Scalar>(l: &[T], n: usize, b: &mut [T]) {
    for x in b.chunks_exact_mut(n) {
        for (k, column) in l.chunks_exact(n).enumerate().rev() {
            let sum = dot(&column[k + 1..], &x[k + 1..]);
            x[k] = (x[k] - sum) / column[k];
        }
    }
}

#[cfg(test)]
mod tests {
    use nalgebra::DMatrix;

    use super::*;

    /// B Bᵀ + I of a fixed B, n × n, with what stands above the diagonal spoilt.
    fn positive(n: usize) -> (DMatrix<f64>, DMatrix<f64>) {
        let b = DMatrix::from_fn(n, n, |i, j| ((3 * i + 5 * j) % 7) as f64 / 3.0 - 1.0);
        let a = &b * b.transpose() + DMatrix::identity(n, n);
        let spoilt = DMatrix::from_fn(n, n, |i, j| if i < j { f64::NAN } else { a[(i, j)] });
        (a, spoilt)
    }

    #[test]
    fn a_factor_solves() {
        for n in [1, 2, 5, 40] {
            let (a, mut l) = positive(n);
            assert!(factor(l.as_mut_slice(), n));
            let lower = l.map_with_location(|i, j, x| if i < j { 0.0 } else { x });
            assert!((&lower * lower.transpose() - &a).amax() < 1e-12 * a.amax());
            let expected = DMatrix::from_fn(n, 3, |i, j| (i as f64 - j as f64) / 4.0);
            let mut b = &a * &expected;
            solve_lower(l.as_slice(), n, b.as_mut_slice());
            assert!((&lower * &b - &a * &expected).amax() < 1e-11);
            solve_lower_transposed(l.as_slice(), n, b.as_mut_slice());
            assert!((b - expected).amax() < 1e-11, "{n}");
        }
    }

    #[test]
    fn what_is_not_positive_is_refused() {
        for entry in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            for place in [0, 3] {
                let (_, mut a) = positive(4);
                a[(place, place)] = entry;
                assert!(!factor(a.as_mut_slice(), 4), "{entry} at {place}");
            }
        }
        // Of rank 1, to the bit.
        assert!(!factor(&mut [1.0, 2.0, 0.0, 4.0], 2));
    }
}
