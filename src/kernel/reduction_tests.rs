use super::*;

/// Signs and magnitudes from 10⁻³ to 10³, so that another order of additions is seen.
fn numbers(n: usize, seed: usize) -> Vec<f32> {
    (0..n)
        .map(|i| {
            let k = (i + seed) as f32;
            (k * 1.7).sin() * 10_f32.powf(3.0 * (k * 0.37).cos())
        })
        .collect()
}

/// What [`sum`] documents, as it stands.
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

/// Columns that fill several passes, one exactly, and more than one each.
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
