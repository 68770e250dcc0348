use nalgebra::DMatrix;

use super::*;

/// B Bᵀ + I for a fixed B, n × n, and a copy with wrong values above the diagonal.
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
        assert!((&b - &expected).amax() < 1e-11, "{n}");
        let mut x = b.transpose();
        divide_transposed(l.as_slice(), n, x.as_mut_slice());
        assert!((x * lower.transpose() - expected.transpose()).amax() < 1e-11);
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
    // This matrix has exactly rank 1.
    assert!(!factor(&mut [1.0, 2.0, 0.0, 4.0], 2));
}
