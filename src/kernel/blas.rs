//! Products by the CBLAS that the user's program links; this crate only calls its two functions.
//!
//! The only file with `unsafe` code, since the functions are foreign.

#![allow(unsafe_code)]

use std::ffi::c_int;

use cblas_sys::CBLAS_LAYOUT::{self, CblasColMajor};
use cblas_sys::CBLAS_TRANSPOSE::{self, CblasNoTrans, CblasTrans};

use super::product::Element;
use super::{Matrix, Write};

/// `cblas_sgemm` or `cblas_dgemm`, `C ← α A B + β C`: the layout; whether A and B are transposed; m, n, k;
/// α; A and B, each with the distance between its columns; β; C likewise.
pub(crate) type Gemm<T> = unsafe extern "C" fn(
    CBLAS_LAYOUT,
    CBLAS_TRANSPOSE,
    CBLAS_TRANSPOSE,
    c_int,
    c_int,
    c_int,
    T,
    *const T,
    c_int,
    *const T,
    c_int,
    T,
    *mut T,
    c_int,
);

/// A product for the BLAS, with sizes as it takes them.
pub(super) struct Call<'a, T> {
    rows: c_int,
    terms: c_int,
    columns: c_int,
    left: Factor<'a, T>,
    right: Factor<'a, T>,
}

/// A factor that lies within its slice.
struct Factor<'a, T> {
    data: &'a [T],
    stride: c_int,
    transposed: CBLAS_TRANSPOSE,
}

impl<'a, T: Element> Call<'a, T> {
    /// `None` if a BLAS cannot express the product, which this crate's kernels then compute.
    ///
    /// # Panics
    /// If the inner dimensions differ.
    pub(super) fn new(a: &Matrix<'a, T>, b: &Matrix<'a, T>) -> Option<Self> {
        assert_eq!(a.columns(), b.rows(), "inner dimensions of a product");
        Some(Self {
            rows: a.rows().try_into().ok()?,
            terms: a.columns().try_into().ok()?,
            columns: b.columns().try_into().ok()?,
            left: Factor::new(a)?,
            right: Factor::new(b)?,
        })
    }

    /// # Panics
    /// If the result does not have the product's size.
    pub(super) fn write(&self, out: Write<'_, T>) {
        // With β = 0, a BLAS does not read what was there.
        let (out, beta) = match out {
            Write::Skip => return,
            Write::Set(out) => (out, T::zero()),
            Write::Add(out) => (out, T::one()),
        };
        let size = self.rows as usize * self.columns as usize;
        assert_eq!(out.len(), size, "the result of a product");
        // SAFETY: `Factor::new` has checked that the columns of both factors lie within their slices, and
        // `Call::new` that their sizes are those handed over. `out` has rows × columns numbers, by the check
        // above, and is borrowed mutably, so it overlaps neither factor. No size is 0, and every stride is at
        // least the stored rows, as BLAS demands. That the linked functions are those declared, with integers
        // of 32 bits, is up to the user (docs/guide/blas.md).
        unsafe {
            T::GEMM(
                CblasColMajor,
                self.left.transposed,
                self.right.transposed,
                self.rows,
                self.columns,
                self.terms,
                T::one(),
                self.left.data.as_ptr(),
                self.left.stride,
                self.right.data.as_ptr(),
                self.right.stride,
                beta,
                out.as_mut_ptr(),
                self.rows,
            );
        }
    }
}

impl<'a, T> Factor<'a, T> {
    /// `None` if a BLAS cannot take this matrix: it is empty, its columns overlap, or a size does not fit
    /// `c_int`.
    fn new(matrix: &Matrix<'a, T>) -> Option<Self> {
        let (rows, columns) = (matrix.stored_rows, matrix.stored_columns);
        let apart = matrix.is_even() && rows > 0 && matrix.stride >= rows;
        let end = columns.checked_sub(1)? * matrix.stride + rows;
        (apart && end <= matrix.data.len()).then_some(())?;
        Some(Self {
            data: matrix.data,
            stride: matrix.stride.try_into().ok()?,
            transposed: match matrix.transposed {
                true => CblasTrans,
                false => CblasNoTrans,
            },
        })
    }
}
