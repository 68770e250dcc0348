//! Time of products by a BLAS, over that of the crate's own.
//!
//! `OPENBLAS_NUM_THREADS=1 cargo bench -p benches --features blas --bench blas`, or with `BLAS=blis BLIS_NUM_THREADS=1`;
//! arguments after `--` are shapes, such as `512x512x128` for m, k, n.

use std::hint::black_box;
use std::time::Instant;

use cblas_sys::{CblasColMajor, CblasNoTrans, CblasTrans};
use layerwise::Scalar;
use layerwise::kernel::{Matrix, Write};

/// The two are measured in turn, each for a moment, and the best round counts: others may work on the machine.
const ROUNDS: usize = 40;
const SECONDS: f64 = 0.001;

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

/// Seconds of one call, in calls for about [`SECONDS`].
fn time(mut call: impl FnMut()) -> f64 {
    let (start, mut times, mut more) = (Instant::now(), 0, 1);
    loop {
        for _ in 0..more {
            call();
        }
        times += more;
        let elapsed = start.elapsed().as_secs_f64();
        if elapsed >= SECONDS {
            return elapsed / times as f64;
        }
        more = times;
    }
}

/// GFLOP/s of the crate's product, and the BLAS's time over its time.
fn measure<T: Number>(sizes @ [m, k, n]: [usize; 3], turned: (bool, bool)) -> (f64, f64) {
    let numbers =
        |count: usize| -> Vec<T> { (0..count).map(|i| T::of((0.7 * i as f64).sin())).collect() };
    let (a, b, mut out) = (numbers(m * k), numbers(k * n), numbers(m * n));
    let flops = 2.0 * (m * k * n) as f64;
    let (mut own, mut blas) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..ROUNDS {
        own = own.min(time(|| {
            let (a, b) = (matrix(&a, m, k, turned.0), matrix(&b, k, n, turned.1));
            T::matmul(Write::Set(black_box(&mut out)), a, b);
        }));
        blas = blas.min(time(|| {
            T::by_blas(black_box(&mut out), &a, &b, sizes, turned)
        }));
    }
    (flops / own / 1e9, blas / own)
}

fn shapes() -> Vec<[usize; 3]> {
    let given: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    if given.is_empty() {
        return [128, 256, 512, 1024].map(|d| [d; 3]).to_vec();
    }
    let sizes = |shape: &String| {
        let sizes: Vec<usize> = shape
            .split('x')
            .map(|d| d.parse().expect("a size"))
            .collect();
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
