//! Products are those of the linked BLAS, bit for bit: both factors stored or transposed, whole or a part of a
//! larger matrix, written over what stood there or added to it.
//!
//! What a BLAS may not change is tested by the suite, and against loops in `bits/products.rs`.

use std::ops::Range;

use cblas_sys::{CblasColMajor, CblasNoTrans, CblasTrans, cblas_dgemm, cblas_sgemm};
use layerwise::Scalar;
use layerwise::kernel::{Matrix, Write};

/// One factor: a part of the columns of a larger matrix, stored or transposed, so that strides differ from sizes.
#[derive(Clone, Copy)]
struct Factor<'a, T> {
    data: &'a [T],
    stride: usize,
    rows: usize,
    columns: usize,
    start: usize,
    transposed: bool,
}

const MARGIN: usize = 3;

impl<'a, T: Scalar> Factor<'a, T> {
    /// Reads rows × columns numbers of `data`, from a matrix with more columns (or rows, transposed).
    fn new(data: &'a [T], rows: usize, columns: usize, transposed: bool) -> Self {
        let stride = if transposed {
            columns + 2 * MARGIN
        } else {
            rows
        };
        let start = if transposed { MARGIN } else { MARGIN * rows };
        Self {
            data,
            stride,
            rows,
            columns,
            start,
            transposed,
        }
    }

    fn part(&self) -> Range<usize> {
        MARGIN..MARGIN + self.columns
    }

    fn matrix(&self) -> Matrix<'a, T> {
        let whole = self.columns + 2 * MARGIN;
        let data = &self.data[..self.rows * whole];
        let matrix = match self.transposed {
            // Stored with `whole` rows, so its parts have columns further apart than they are long.
            true => Matrix::new(data, whole, self.rows).t(),
            false => Matrix::new(data, self.rows, whole),
        };
        matrix.column_range(self.part())
    }

    fn place(&self) -> *const T {
        let stored = if self.transposed {
            self.rows
        } else {
            self.columns
        };
        let length = if self.transposed {
            self.columns
        } else {
            self.rows
        };
        self.data[self.start..][..(stored - 1) * self.stride + length].as_ptr()
    }
}

trait Number: Scalar {
    fn by_blas(out: &mut [Self], beta: Self, a: Factor<'_, Self>, b: Factor<'_, Self>);
}

macro_rules! number {
    ($number:ty, $gemm:ident) => {
        impl Number for $number {
            fn by_blas(out: &mut [Self], beta: Self, a: Factor<'_, Self>, b: Factor<'_, Self>) {
                let how = |factor: &Factor<'_, _>| match factor.transposed {
                    true => CblasTrans,
                    false => CblasNoTrans,
                };
                let int = |size: usize| i32::try_from(size).unwrap();
                assert_eq!(out.len(), a.rows * b.columns);
                assert_eq!(a.columns, b.rows);
                // SAFETY: `place` has checked the factors, the lines above the sizes.
                unsafe {
                    $gemm(
                        CblasColMajor,
                        how(&a),
                        how(&b),
                        int(a.rows),
                        int(b.columns),
                        int(a.columns),
                        1.0,
                        a.place(),
                        int(a.stride),
                        b.place(),
                        int(b.stride),
                        beta,
                        out.as_mut_ptr(),
                        int(a.rows),
                    );
                }
            }
        }
    };
}

number!(f32, cblas_sgemm);
number!(f64, cblas_dgemm);

fn wave<T: Scalar>(count: usize, phase: f64) -> Vec<T> {
    (0..count)
        .map(|i| T::of((0.7 * i as f64 + phase).sin()))
        .collect()
}

fn are_those_of_the_blas<T: Number>() {
    for (m, k, n) in [
        (1, 1, 1),
        (3, 5, 2),
        (10, 33, 17),
        (1, 70, 9),
        (65, 7, 1),
        (130, 100, 70),
    ] {
        let (left, right) = (
            wave::<T>((m + 6) * (k + 6), 0.0),
            wave::<T>((k + 6) * (n + 6), 1.0),
        );
        for (a_t, b_t) in [(false, false), (true, false), (false, true), (true, true)] {
            let (a, b) = (
                Factor::new(&left, m, k, a_t),
                Factor::new(&right, k, n, b_t),
            );
            // Whatever stood there does not survive.
            let mut set = vec![T::of(f64::NAN); m * n];
            let mut expected = vec![T::zero(); m * n];
            T::matmul(Write::Set(&mut set), a.matrix(), b.matrix());
            T::by_blas(&mut expected, T::zero(), a, b);
            assert!(set == expected, "{m} x {k} x {n}, {a_t}, {b_t}, set");
            let mut add = wave::<T>(m * n, 2.0);
            let mut expected = add.clone();
            T::matmul(Write::Add(&mut add), a.matrix(), b.matrix());
            T::by_blas(&mut expected, T::one(), a, b);
            assert!(add == expected, "{m} x {k} x {n}, {a_t}, {b_t}, added");
        }
    }
}

#[test]
fn products_are_those_of_the_blas() {
    are_those_of_the_blas::<f32>();
    are_those_of_the_blas::<f64>();
}

#[test]
fn an_empty_sum_is_zero_or_nothing() {
    let (a, b) = (Matrix::<f64>::new(&[], 2, 0), Matrix::new(&[], 0, 3));
    let mut out = [7.0; 6];
    f64::matmul(Write::Add(&mut out), a, b);
    assert_eq!(out, [7.0; 6]);
    f64::matmul(Write::Set(&mut out), a, b);
    assert_eq!(out, [0.0; 6]);
}

/// Several threads of ours may multiply at once.
#[test]
fn threads_multiply_beside_one_another() {
    let (left, right) = (wave::<f64>(106 * 106, 0.0), wave::<f64>(106 * 106, 1.0));
    let (a, b) = (
        Factor::new(&left, 100, 100, false),
        Factor::new(&right, 100, 100, true),
    );
    let mut expected = vec![0.0; 100 * 100];
    f64::matmul(Write::Set(&mut expected), a.matrix(), b.matrix());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut out = vec![0.0; 100 * 100];
                for _ in 0..50 {
                    f64::matmul(Write::Set(&mut out), a.matrix(), b.matrix());
                    let worst = out.iter().zip(&expected).map(|(o, e)| (o - e).abs());
                    assert!(worst.fold(0.0, f64::max) < 1e-12);
                }
            });
        }
    });
}
