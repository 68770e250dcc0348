//! Time of products by a BLAS, over that of the crate's own.
//!
//! `OPENBLAS_NUM_THREADS=1 cargo bench -p benches --features blas --bench blas`, or with `BLAS=blis BLIS_NUM_THREADS=1`;
//! arguments after `--` are shapes, such as `512x512x128` for m, k, n.

use std::hint::black_box;
use std::time::Instant;

use cblas_sys::{CblasColMajor, CblasNoTrans, CblasTrans};
use layerwise::Scalar;
use layerwise::kernel::{Matrix, Write};

const ROUNDS: usize = 9;
/// Seconds of one measurement.
const SECONDS: f64 = 0.02;

/// The products of an m × k layer on n examples: whether A and B are transposed, and which is m, k or n.
const PRODUCTS: [(&str, bool, bool); 3] = [
    ("A B", false, false),
    ("Aᵀ B", true, false),
    ("A Bᵀ", false, true),
];

trait Number: Scalar {
    fn by_blas(out: &mut [Self], a: &[Self], b: &[Self], sizes: [usize; 3], turned: (bool, bool));
}

macro_rules! number {
    ($number:ty, $gemm:ident) => {
        impl Number for $number {
            fn by_blas(
                out: &mut [Self],
                a: &[Self],
                b: &[Self],
                [m, k, n]: [usize; 3],
                (a_t, b_t): (bool, bool),
            ) {
                let how = |t| if t { CblasTrans } else { CblasNoTrans };
                let int = |n: usize| n as i32;
                assert!(a.len() == m * k && b.len() == k * n && out.len() == m * n);
                // SAFETY: the slices have the sizes that are handed over, and no size is 0.
                unsafe {
                    cblas_sys::$gemm(
                        CblasColMajor,
                        how(a_t),
                        how(b_t),
                        int(m),
                        int(n),
                        int(k),
                        1.0,
                        a.as_ptr(),
                        int(if a_t { k } else { m }),
                        b.as_ptr(),
                        int(if b_t { n } else { k }),
                        0.0,
                        out.as_mut_ptr(),
                        int(m),
                    );
                }
            }
        }
    };
}

number!(f32, cblas_sgemm);
number!(f64, cblas_dgemm);

fn matrix<T>(data: &[T], rows: usize, columns: usize, transposed: bool) -> Matrix<'_, T> {
    match transposed {
        true => Matrix::new(data, columns, rows).t(),
        false => Matrix::new(data, rows, columns),
    }
}

/// Seconds of one call.
fn time(times: usize, mut call: impl FnMut()) -> f64 {
    let start = Instant::now();
    for _ in 0..times {
        call();
    }
    start.elapsed().as_secs_f64() / times as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// GFLOP/s of the crate's product, and the BLAS's time over its time: medians of the rounds.
fn measure<T: Number>(sizes @ [m, k, n]: [usize; 3], turned: (bool, bool)) -> (f64, f64) {
    let numbers =
        |count: usize| -> Vec<T> { (0..count).map(|i| T::of((0.7 * i as f64).sin())).collect() };
    let (a, b, mut out) = (numbers(m * k), numbers(k * n), numbers(m * n));
    let flops = 2.0 * (m * k * n) as f64;
    let times = 1 + (SECONDS * 1e11 / flops) as usize;
    let (mut speeds, mut ratios) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let own = time(times, || {
            let (a, b) = (matrix(&a, m, k, turned.0), matrix(&b, k, n, turned.1));
            T::matmul(Write::Set(black_box(&mut out)), a, b);
        });
        let blas = time(times, || {
            T::by_blas(black_box(&mut out), &a, &b, sizes, turned)
        });
        speeds.push(flops / own / 1e9);
        ratios.push(blas / own);
    }
    (median(speeds), median(ratios))
}

fn shapes() -> Vec<[usize; 3]> {
    let given: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if given.is_empty() {
        return [128, 256, 512, 1024].map(|d| [d; 3]).to_vec();
    }
    let sizes = |shape: &String| {
        let sizes: Vec<usize> = shape.split('x').map(|d| d.parse().expect("a size")).collect();
        sizes.try_into().expect("m, k, n")
    };
    given.iter().map(sizes).collect()
}

fn main() {
    println!("own GFLOP/s, time of the BLAS / own");
    for sizes @ [m, k, n] in shapes() {
        for (name, a_t, b_t) in PRODUCTS {
            let (single, single_ratio) = measure::<f32>(sizes, (a_t, b_t));
            let (double, double_ratio) = measure::<f64>(sizes, (a_t, b_t));
            println!(
                "{m} x {k} x {n}, {name}: f32 {single:.0} {single_ratio:.2}, f64 {double:.0} {double_ratio:.2}"
            );
        }
    }
}
