//! Products of one layer's shapes by several libraries.

use std::time::Instant;

use layerwise::Scalar;
use layerwise::kernel::{Matrix, Write};
use nalgebra::{DMatrixView, DMatrixViewMut, Dyn};
use serde::Deserialize;

use crate::Failure;

/// One product of an m × k layer on n examples by one library, all column-major.
#[derive(Deserialize)]
pub struct Request {
    by: Library,
    product: Product,
    m: usize,
    k: usize,
    n: usize,
    double: bool,
    seconds: f64,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Library {
    Layerwise,
    Nalgebra,
    Matrixmultiply,
    Gemm,
    Faer,
}

#[derive(Clone, Copy, Deserialize)]
enum Product {
    /// W·Z: m × k by k × n.
    #[serde(rename = "WZ")]
    Forward,
    /// G·Zᵀ: m × n by n × k.
    #[serde(rename = "GZt")]
    Weights,
    /// Wᵀ·G: k × m by m × n.
    #[serde(rename = "WtG")]
    Input,
}

/// A column-major matrix or its transpose, as rows × columns with strides.
#[derive(Clone, Copy)]
struct Operand<'a, T> {
    data: &'a [T],
    rows: usize,
    columns: usize,
    transposed: bool,
}

impl<T> Operand<'_, T> {
    /// (distance between rows, distance between columns).
    fn strides(&self) -> (usize, usize) {
        if self.transposed {
            (self.columns, 1)
        } else {
            (1, self.rows)
        }
    }
}

trait Number: Scalar + faer::traits::ComplexField {
    /// matrixmultiply's function for this number.
    ///
    /// # Safety
    /// The strides must lie within the slices.
    unsafe fn multiply(out: &mut [Self], a: Operand<'_, Self>, b: Operand<'_, Self>);
}

macro_rules! number {
    ($float:ty, $function:path) => {
        impl Number for $float {
            unsafe fn multiply(out: &mut [Self], a: Operand<'_, Self>, b: Operand<'_, Self>) {
                let ((ar, ac), (br, bc)) = (a.strides(), b.strides());
                let (m, k, n) = (a.rows, a.columns, b.columns);
                unsafe {
                    $function(
                        m,
                        k,
                        n,
                        1.0,
                        a.data.as_ptr(),
                        ar as isize,
                        ac as isize,
                        b.data.as_ptr(),
                        br as isize,
                        bc as isize,
                        0.0,
                        out.as_mut_ptr(),
                        1,
                        m as isize,
                    )
                }
            }
        }
    };
}

number!(f32, matrixmultiply::sgemm);
number!(f64, matrixmultiply::dgemm);

impl Request {
    /// GFLOP/s of one thread; a product is checked against plain sums first.
    pub fn measure(&self) -> Result<f64, Failure> {
        if self.double {
            self.measure_in::<f64>()
        } else {
            self.measure_in::<f32>()
        }
    }

    fn measure_in<T: Number>(&self) -> Result<f64, Failure> {
        let (m, k, n) = (self.m, self.k, self.n);
        let wave = |count: usize, phase: f64| -> Vec<T> {
            (0..count)
                .map(|i| T::of((0.7 * i as f64 + phase).sin()))
                .collect()
        };
        let (w, z, g) = (wave(m * k, 0.0), wave(k * n, 1.0), wave(m * n, 2.0));
        let operand = |data, rows, columns, transposed| Operand {
            data,
            rows,
            columns,
            transposed,
        };
        let (a, b) = match self.product {
            Product::Forward => (operand(&w, m, k, false), operand(&z, k, n, false)),
            Product::Weights => (operand(&g, m, n, false), operand(&z, n, k, true)),
            Product::Input => (operand(&w, k, m, true), operand(&g, m, n, false)),
        };
        let mut out = vec![T::zero(); a.rows * b.columns];
        self.by.multiply(&mut out, a, b);
        check(&out, a, b)?;
        let flops = 2.0 * (m * k * n) as f64;
        let mut times = 1_u64;
        loop {
            let start = Instant::now();
            for _ in 0..times {
                self.by.multiply(&mut out, a, b);
                std::hint::black_box(&mut out);
            }
            let elapsed = start.elapsed().as_secs_f64();
            if elapsed >= 0.5 * self.seconds {
                return Ok(flops * times as f64 / elapsed / 1e9);
            }
            times *= 2;
        }
    }
}

impl Library {
    fn multiply<T: Number>(self, out: &mut [T], a: Operand<'_, T>, b: Operand<'_, T>) {
        let ((ar, ac), (br, bc)) = (a.strides(), b.strides());
        let (m, k, n) = (a.rows, a.columns, b.columns);
        match self {
            Self::Layerwise => T::matmul(Write::Set(out), own(a), own(b)),
            Self::Nalgebra => {
                // Products with a transposed operand by the functions meant for it.
                let mut out = DMatrixViewMut::from_slice(out, m, n);
                match (a.transposed, b.transposed) {
                    (true, _) => out.gemm_tr(T::one(), &stored(a), &stored(b), T::zero()),
                    (_, true) => {
                        let b = DMatrixView::from_slice_with_strides_generic(
                            b.data,
                            Dyn(k),
                            Dyn(n),
                            Dyn(br),
                            Dyn(bc),
                        );
                        out.gemm(T::one(), &stored(a), &b, T::zero());
                    }
                    _ => out.gemm(T::one(), &stored(a), &stored(b), T::zero()),
                }
            }
            // SAFETY: the strides are those of the whole slices, whose lengths are rows times columns.
            Self::Matrixmultiply => unsafe { T::multiply(out, a, b) },
            // SAFETY: likewise; gemm dispatches on the type of the number.
            Self::Gemm => unsafe {
                gemm::gemm(
                    m,
                    n,
                    k,
                    out.as_mut_ptr(),
                    m as isize,
                    1,
                    false,
                    a.data.as_ptr(),
                    ac as isize,
                    ar as isize,
                    b.data.as_ptr(),
                    bc as isize,
                    br as isize,
                    T::zero(),
                    T::one(),
                    false,
                    false,
                    false,
                    gemm::Parallelism::None,
                );
            },
            Self::Faer => {
                faer::linalg::matmul::matmul(
                    faer::MatMut::from_column_major_slice_mut(out, m, n),
                    faer::Accum::Replace,
                    faer_view(a),
                    faer_view(b),
                    T::one(),
                    faer::Par::Seq,
                );
            }
        }
    }
}

/// The matrix as it is stored.
fn stored<T: Scalar>(o: Operand<'_, T>) -> DMatrixView<'_, T> {
    let (rows, columns) = if o.transposed {
        (o.columns, o.rows)
    } else {
        (o.rows, o.columns)
    };
    DMatrixView::from_slice(o.data, rows, columns)
}

fn faer_view<T>(o: Operand<'_, T>) -> faer::MatRef<'_, T> {
    if o.transposed {
        faer::MatRef::from_column_major_slice(o.data, o.columns, o.rows).transpose()
    } else {
        faer::MatRef::from_column_major_slice(o.data, o.rows, o.columns)
    }
}

fn own<T>(o: Operand<'_, T>) -> Matrix<'_, T> {
    if o.transposed {
        Matrix::new(o.data, o.columns, o.rows).t()
    } else {
        Matrix::new(o.data, o.rows, o.columns)
    }
}

/// Some entries of the product against sums in f64.
fn check<T: Number>(out: &[T], a: Operand<'_, T>, b: Operand<'_, T>) -> Result<(), Failure> {
    let ((ar, ac), (br, bc)) = (a.strides(), b.strides());
    for index in (0..out.len()).step_by(out.len() / 97 + 1) {
        let (i, j) = (index % a.rows, index / a.rows);
        let terms = (0..a.columns)
            .map(|l| a.data[i * ar + l * ac].as_f64() * b.data[l * br + j * bc].as_f64());
        let (expected, found): (f64, f64) = (terms.sum(), out[index].as_f64());
        if (expected - found).abs() > 1e-5 * a.columns as f64 {
            return Err(format!("entry ({i}, {j}) is {found}, not {expected}").into());
        }
    }
    Ok(())
}
