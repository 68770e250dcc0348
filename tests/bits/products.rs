//! Matrix products: right against plain `f64` loops, for every transposition and way of writing;
//! and every column of a product has the same bits whatever company it is computed in, which is
//! what makes an example independent of its batch.

use layerwise::Scalar;
use layerwise::kernel::{Matrix, Write};
use layerwise::rand::rngs::ChaCha8Rng;
use layerwise::rand::{RngExt, SeedableRng};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

fn uniform<T: Scalar>(rng: &mut ChaCha8Rng, count: usize) -> Vec<T> {
    let draws = (0..count).map(|_| T::of(rng.random_range(-1.0..1.0)));
    draws.collect()
}

/// A matrix of these dimensions after transposition.
fn matrix<T>(data: &[T], rows: usize, columns: usize, transposed: bool) -> Matrix<'_, T> {
    if transposed {
        Matrix::new(data, columns, rows).t()
    } else {
        Matrix::new(data, rows, columns)
    }
}

/// The product, with either factor transposed or not, agrees with loops within the worst rounding of a sum of k terms.
fn agrees_with_loops<T: Scalar>(
    (m, k, n): (usize, usize, usize),
    rng: &mut ChaCha8Rng,
) -> Result<(), TestCaseError> {
    let (a, b) = (uniform::<T>(rng, m * k), uniform::<T>(rng, k * n));
    let before = uniform::<T>(rng, m * n);
    let (a_t, b_t) = (transposed(&a, m), transposed(&b, k));
    // Unoptimised loops are slow: these read contiguous memory, and run once for all transpositions.
    let wide = |values: &[T]| values.iter().map(|v| v.as_f64()).collect::<Vec<f64>>();
    let (rows, columns) = (wide(&a_t), wide(&b));
    let mut expected = Vec::new();
    for column in columns.chunks_exact(k) {
        for row in rows.chunks_exact(k) {
            let (mut sum, mut size) = (0.0, 0.0);
            for (&a, &b) in row.iter().zip(column) {
                let term: f64 = a * b;
                sum += term;
                size += term.abs();
            }
            expected.push((sum, size));
        }
    }
    let epsilon = T::default_epsilon().as_f64();
    for a in [Matrix::new(&a, m, k), Matrix::new(&a_t, k, m).t()] {
        for b in [Matrix::new(&b, k, n), Matrix::new(&b_t, n, k).t()] {
            let (mut set, mut add) = (vec![T::zero() / T::zero(); m * n], before.clone());
            T::matmul(Write::Skip, a, b);
            T::matmul(Write::Set(&mut set), a, b);
            T::matmul(Write::Add(&mut add), a, b);
            let found = set.iter().zip(&add).zip(&before);
            for (at, (((set, add), before), (sum, size))) in found.zip(&expected).enumerate() {
                let (i, j) = (at % m, at / m);
                let (set, add, before) = (set.as_f64(), add.as_f64(), before.as_f64());
                let room = epsilon * (k as f64 + 2.0) * (size + before.abs());
                prop_assert!((set - sum).abs() <= room, "({i}, {j}): {set}, not {sum}");
                let total = before + sum;
                prop_assert!(
                    (add - total).abs() <= room,
                    "({i}, {j}): {add}, not {total}"
                );
            }
        }
    }
    Ok(())
}

/// A column-major matrix of this many rows, made row-major.
fn transposed<T: Scalar>(values: &[T], rows: usize) -> Vec<T> {
    let row = |i| values.iter().skip(i).step_by(rows).copied();
    (0..rows).flat_map(row).collect()
}

/// Dimensions on both sides of most changes of algorithm.
fn dimension() -> impl Strategy<Value = usize> {
    prop_oneof![3 => 1..9usize, 1 => 9..64usize, 2 => 65..140usize]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 256,
        rng_seed: RngSeed::Fixed(0x7072_6f64),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn products_agree_with_loops(
        shape in (dimension(), dimension(), dimension()),
        seed in any::<u64>(),
    ) {
        let rng = &mut ChaCha8Rng::seed_from_u64(seed);
        agrees_with_loops::<f64>(shape, rng)?;
        agrees_with_loops::<f32>(shape, rng)?;
    }
}

/// Dimensions that are computed in several blocks, with something left over.
#[test]
fn products_in_blocks_agree_with_loops() -> Result<(), TestCaseError> {
    let rng = &mut ChaCha8Rng::seed_from_u64(13);
    for shape in [(130, 260, 515), (261, 3, 513), (5, 385, 600), (300, 257, 1)] {
        agrees_with_loops::<f64>(shape, rng)?;
        agrees_with_loops::<f32>(shape, rng)?;
    }
    Ok(())
}

/// Rows and inner dimensions around the libraries' blocks.
const DIMENSIONS: [usize; 16] = [1, 2, 3, 4, 5, 7, 8, 9, 63, 64, 65, 67, 128, 300, 513, 1100];
const WIDEST: usize = 40;

/// Columns `run` of A·B, added to what stood there or not.
fn columns<T: Scalar>(
    a: Matrix<'_, T>,
    b: &[T],
    before: Option<&[T]>,
    run: std::ops::Range<usize>,
) -> Vec<T> {
    let (m, k) = (a.rows(), a.columns());
    let b = Matrix::new(&b[run.start * k..run.end * k], k, run.len());
    match before {
        None => {
            let mut out = vec![T::zero(); m * run.len()];
            T::matmul(Write::Set(&mut out), a, b);
            out
        }
        Some(before) => {
            let mut out = before[run.start * m..run.end * m].to_vec();
            T::matmul(Write::Add(&mut out), a, b);
            out
        }
    }
}

/// Every product whose column `run` differs from the same columns of the whole, as text.
fn dependent_columns<T: Scalar>(m: usize, k: usize, rng: &mut ChaCha8Rng) -> Vec<String> {
    let a = uniform::<T>(rng, m * k);
    let b = uniform::<T>(rng, k * WIDEST);
    let start = uniform::<T>(rng, m * WIDEST);
    let mut dependent = Vec::new();
    for (transposed, added) in [(false, false), (false, true), (true, false), (true, true)] {
        let a = matrix(&a, m, k, transposed);
        let before = added.then_some(&start[..]);
        let whole = columns(a, &b, before, 0..WIDEST);
        let alone = (0..WIDEST).map(|j| j..j + 1);
        // A block at the start, and one at a place that moves with the width.
        let blocks = (2..=20).flat_map(|width| {
            let offset = 7 * width % (WIDEST - width + 1);
            [0..width, offset..offset + width]
        });
        let differs = alone.chain(blocks).find(|run| {
            let there = &whole[run.start * m..run.end * m];
            columns(a, &b, before, run.clone()) != there
        });
        dependent.extend(differs.map(|run| {
            format!("{m} x {k}, transposed: {transposed}, added: {added}, columns {run:?}")
        }));
    }
    dependent
}

fn columns_are_independent<T: Scalar>() {
    let rng = &mut ChaCha8Rng::seed_from_u64(11);
    let shapes = DIMENSIONS
        .into_iter()
        .flat_map(|m| DIMENSIONS.map(|k| (m, k)));
    // All of them in the build that users run, each row and column of the table in the others, where the
    // plain kernels take ten times as long.
    let every = if cfg!(feature = "fast-kernels") { 3 } else { 9 };
    let shapes = shapes.enumerate().filter(|(i, _)| {
        let (row, column) = (i / DIMENSIONS.len(), i % DIMENSIONS.len());
        cfg!(optimized) || (row + column).is_multiple_of(every)
    });
    let dependent: Vec<String> = shapes
        .map(|(_, shape)| shape)
        .flat_map(|(m, k)| dependent_columns::<T>(m, k, rng))
        .collect();
    assert!(dependent.is_empty(), "{}", dependent.join("\n"));
}

#[test]
#[cfg_attr(feature = "blas", ignore = "a BLAS sums by shape")]
fn columns_are_independent_in_f64() {
    columns_are_independent::<f64>();
}

#[test]
#[cfg_attr(feature = "blas", ignore = "a BLAS sums by shape")]
fn columns_are_independent_in_f32() {
    columns_are_independent::<f32>();
}

/// Blocks of columns of A·Bᵀ, as threads share a sum over examples, and of A·B.
fn column_ranges_are_independent<T: Scalar>() {
    let rng = &mut ChaCha8Rng::seed_from_u64(12);
    let mut dependent = Vec::new();
    for (m, k, n) in [
        (10, 100, 64),
        (32, 13, 33),
        (96, 300, 65),
        (128, 128, 128),
        (170, 513, 300),
        (40, 270, 520),
        (1, 40, 50),
        (7, 3, 48),
        (65, 1100, 39),
    ] {
        let (a, b) = (uniform::<T>(rng, m * k), uniform::<T>(rng, k * n));
        for (a_t, transposed) in [(false, false), (false, true), (true, false)] {
            let a = matrix(&a, m, k, a_t);
            let b = matrix(&b, k, n, transposed);
            let mut whole = vec![T::zero(); m * n];
            T::matmul(Write::Set(&mut whole), a, b);
            for width in [16, 24, 40] {
                let mut start = 0;
                while start < n {
                    let end = if n - start < 2 * width {
                        n
                    } else {
                        start + width
                    };
                    let mut part = vec![T::zero(); m * (end - start)];
                    T::matmul(Write::Set(&mut part), a, b.column_range(start..end));
                    if part != whole[start * m..end * m] {
                        let which = format!("{m} x {k} x {n} {a_t} {transposed}");
                        dependent.push(format!("{which}, {start}..{end}"));
                    }
                    start = end;
                }
            }
        }
    }
    assert!(dependent.is_empty(), "{}", dependent.join("\n"));
}

#[test]
#[cfg_attr(feature = "blas", ignore = "a BLAS sums by shape")]
fn column_ranges_of_either_factor_have_the_bits_of_the_whole() {
    column_ranges_are_independent::<f64>();
    column_ranges_are_independent::<f32>();
}

#[test]
fn columns_of_an_empty_matrix_are_empty() {
    let none: [f64; 0] = [];
    let part = Matrix::new(&none, 3, 0).t().column_range(1..3);
    assert_eq!((part.rows(), part.columns()), (0, 2));
    let part = Matrix::new(&[1.0, 2.0], 1, 2).column_range(2..2);
    assert_eq!((part.rows(), part.columns()), (1, 0));
}
