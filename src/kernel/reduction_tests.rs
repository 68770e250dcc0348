use super::*;

/// Mixed signs and magnitudes from 10⁻³ to 10³, so that a different order of additions is noticed.
fn numbers(n: usize, seed: usize) -> Vec<f32> {
    (0..n)
        .map(|i| {
            let k = (i + seed) as f32;
            (k * 1.7).sin() * 10_f32.powf(3.0 * (k * 0.37).cos())
        })
        .collect()
}

/// A literal implementation of what [`sum`] documents.
fn in_lanes(terms: impl ExactSizeIterator<Item = f32>) -> f32 {
    if terms.len() < FEW {
        return terms.fold(0.0, |sum, term| sum + term);
    }
    let mut lanes = [0.0; LANES];
    for (i, term) in terms.enumerate() {
        lanes[i % LANES] += term;
    }
    let mut lanes = lanes.to_vec();
    while lanes.len() > 1 {
        let (first, second) = lanes.split_at(lanes.len() / 2);
        lanes = first.iter().zip(second).map(|(a, b)| a + b).collect();
    }
    lanes[0]
}

#[test]
fn sums_have_the_bits_of_their_order() {
    for n in [0, 1, 15, 16, 17, 31, 32, 33, 100, 1000] {
        let (a, b) = (numbers(n, 3), numbers(n, 1000));
        let pairs = || a.iter().zip(&b);
        let products = in_lanes(pairs().map(|(a, b)| a * b));
        let squares = in_lanes(pairs().map(|(a, b)| (a - b) * (a - b)));
        let magnitudes = in_lanes(a.iter().map(|a| a.abs()));
        assert_eq!(dot(&a, &b).to_bits(), products.to_bits(), "{n}");
        assert_eq!(squared_distance(&a, &b).to_bits(), squares.to_bits(), "{n}");
        assert_eq!(total_magnitude(&a).to_bits(), magnitudes.to_bits(), "{n}");
    }
}

/// Columns that together fill several passes, fill exactly one, or need more than one pass each.
#[test]
fn distances_of_columns_are_those_of_each() {
    for (dim, n) in [(1, 3000), (7, 500), (16, 64), (33, 100), (NEAR + 5, 3)] {
        let (a, b) = (numbers(dim * n, 3), numbers(dim * n, 1000));
        let mut values = vec![f32::NAN; n];
        let (mut set, mut added) = (vec![f32::NAN; dim * n], numbers(dim * n, 7));
        let before = added.clone();
        let (first, second) = (Write::Set(&mut set), Write::Add(&mut added));
        half_squared_distances(&mut values, [&a, &b], dim, first, second);
        for (i, value) in values.iter().enumerate() {
            let column = i * dim..(i + 1) * dim;
            let alone = 0.5 * squared_distance(&a[column.clone()], &b[column]);
            assert_eq!(value.to_bits(), alone.to_bits(), "{dim} x {n}: {i}");
        }
        for k in 0..dim * n {
            assert_eq!(set[k], a[k] - b[k], "{dim} x {n}: {k}");
            assert_eq!(added[k], before[k] + (b[k] - a[k]), "{dim} x {n}: {k}");
        }
        half_squared_distances(&mut values, [&a, &b], dim, Write::Skip, Write::Skip);
        assert_eq!(values[0], 0.5 * squared_distance(&a[..dim], &b[..dim]));
    }
}

/// 10⁷ terms of about 0.1, with a large first term.
fn many<T: Scalar>() -> Vec<T> {
    let mut values = vec![T::of(0.1); 10_000_000];
    values[0] = T::of(1e6);
    values
}

#[track_caller]
fn near<T: Scalar>(found: T, expected: f64, tolerance: f64) {
    let error = (found.as_f64() / expected - 1.0).abs();
    assert!(error <= tolerance, "{found}, not {expected}: {error:e}");
}

#[test]
fn sums_of_many_terms_do_not_drift() {
    fn check<T: Scalar>() {
        let epsilon = T::default_epsilon().as_f64();
        let (a, ones) = (many::<T>(), vec![T::one(); 10_000_000]);
        let term = a[1].as_f64();
        let (rest, zeros) = ((a.len() - 1) as f64, vec![T::zero(); a.len()]);
        let (linear, square) = (1e6 + rest * term, 1e12 + rest * term * term);
        near(total(&a), linear, epsilon);
        near(Sum::of(a.iter().copied()), linear, epsilon);
        for at in [1, 31, 4097, a.len() - 1] {
            let mut moved = a.clone();
            moved.swap(0, at);
            near(total(&moved), linear, epsilon);
        }
        near(total(&a[1..]), rest * term, epsilon);
        // Blocks of lanes: at most 37 additions one after another.
        near(total_magnitude(&a), linear, 20.0 * epsilon);
        near(dot(&a, &ones), linear, 20.0 * epsilon);
        near(dot(&a[1..], &a[1..]), rest * term * term, 20.0 * epsilon);
        near(squared_distance(&a, &zeros), square, 20.0 * epsilon);
        near(norm(&a), square.sqrt(), 1e-15);
        near(norm(&a[1..]), rest.sqrt() * term, 1e-15);
        let mut values = [T::zero()];
        let sides = [&a[1..], &zeros[1..]];
        half_squared_distances(&mut values, sides, a.len() - 1, Write::Skip, Write::Skip);
        near(values[0], 0.5 * rest * term * term, 20.0 * epsilon);
    }
    check::<f32>();
    check::<f64>();
}

/// Sums that overflow stay infinite, and NaN stays NaN.
#[test]
fn sums_end_where_numbers_do() {
    for n in [2, 16, 100, 5000] {
        let mut values = vec![f64::MAX; n];
        assert_eq!(total(&values), f64::INFINITY, "{n}");
        assert_eq!(dot(&values, &values), f64::INFINITY, "{n}");
        assert_eq!(Sum::of(values.iter().copied()), f64::INFINITY, "{n}");
        values[n / 2] = f64::NAN;
        assert!(total(&values).is_nan(), "{n}");
        values.fill(-f64::MAX);
        assert_eq!(total(&values), f64::NEG_INFINITY, "{n}");
    }
    assert_eq!(Sum::of([1.0, 1e100, 1.0, -1e100]), 2.0);
}

#[test]
fn norms_of_any_size() {
    fn check<T: Scalar>(decades: i32, epsilon: f64) {
        for decade in (-decades..decades).step_by(decades as usize / 10) {
            let scale = 10f64.powi(decade);
            let values = [3.0, -4.0, 12.0].map(|v| T::of(v * scale));
            near(T::of(norm(&values)), 13.0 * scale, epsilon);
            let all = values.iter().map(|v| v.as_f64());
            near(
                T::of(root_mean_square(all)),
                (169.0f64 / 3.0).sqrt() * scale,
                epsilon,
            );
        }
    }
    check::<f32>(36, 1e-6);
    check::<f64>(300, 1e-14);
    near(norm(&[3e-322, 4e-322]), 5e-322, 1e-1);
    let [unit, length] = norm_in_units(&[f64::MAX; 4]);
    assert_eq!((0.5 * unit) * length, f64::MAX);
    assert_eq!(norm(&[0.0, -0.0]), 0.0);
    assert_eq!(norm::<f64>(&[]), 0.0);
}

/// The largest of several values is NaN if any of them is NaN, at any position.
#[test]
fn no_larger_number_hides_nan() {
    for values in [
        [f64::NAN, 1.0, 2.0],
        [1.0, f64::NAN, 2.0],
        [1.0, 2.0, f64::NAN],
    ] {
        assert!(values.into_iter().fold(0.0, larger).is_nan());
        assert!(norm(&values).is_nan());
    }
    assert_eq!([1.0, 3.0, 2.0].into_iter().fold(0.0, larger), 3.0);
    assert!(!norm(&[1.0, f64::INFINITY]).is_finite());
}

/// Row sums of products equal the row sums of the stored products, for any range of rows. Several
/// sums in one pass equal those of a pass each.
#[test]
fn sums_of_products_in_rows() {
    for (dim, columns) in [(5, 3), (40, 7), (70, 1024), (70, 1301)] {
        let value = |i: usize, unit: f64| ((i * 7919) % 101) as f64 * unit - 0.4;
        let a: Vec<f64> = (0..dim * columns).map(|i| value(i, 0.01)).collect();
        let b: Vec<f64> = (0..dim * columns).map(|i| value(i + 13, 0.02)).collect();
        let products: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a * b).collect();
        let mut expected = vec![1.0; dim];
        row_sums(Write::Add(&mut expected), &products);
        for middle in [0, 3, dim] {
            let mut sums = vec![1.0; dim];
            let (first, rest) = sums.split_at_mut(middle);
            row_sums_of_products(Write::Add(first), [&a, &b], dim, 0..middle);
            row_sums_of_products(Write::Add(rest), [&a, &b], dim, middle..dim);
            assert_eq!(sums, expected, "{dim} x {columns}, from {middle}");
        }
        let both = sums_of_blocks(&a, &b, |a, b| [a, a * b]);
        let each = [
            sum_of_blocks(&a, &b, |a, _| a),
            sum_of_blocks(&a, &b, |a, b| a * b),
        ];
        assert_eq!(both, each);
    }
}
