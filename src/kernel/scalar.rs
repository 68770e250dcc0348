//! The number type of a circuit, and its kernels.

use nalgebra::RealField;

use crate::kernel::Activation;
use crate::kernel::{self, Matrix, Write};

/// A real field with the kernels that circuits need.
///
/// `f32` and `f64` have fast kernels. Any other `Copy` real field, such as dual numbers, becomes a
/// scalar with `impl Scalar for MyNumber {}` in the crate that defines it: every method has a
/// generic default.
///
/// With the feature `dual`, `Dual32` and `Dual64` of num-dual are scalars: predictions, losses,
/// energies and gradients carry derivatives. Quantities that are measured in `f64` do not: gaps,
/// norms (and so a clipped step), diagnostics, metrics, and the losses in a run's records. At a
/// kink the derivative is the one that the layer or loss itself gives.
pub trait Scalar: RealField + Copy {
    /// The value nearest to `x`.
    fn of(x: f64) -> Self {
        nalgebra::convert(x)
    }

    /// This value as `f64`; for a dual number, its real part.
    fn as_f64(self) -> f64 {
        nalgebra::convert_unchecked(self)
    }

    /// Matrix product, `out ← A B` or `out ← out + A B`, all column-major.
    ///
    /// A column of the result has the same bits for any other columns of `B`, unless the feature `blas` leaves
    /// the product to a BLAS.
    ///
    /// # Panics
    /// If the shapes do not match: kernels expect shapes that have been checked before.
    fn matmul(out: Write<'_, Self>, a: Matrix<'_, Self>, b: Matrix<'_, Self>) {
        kernel::product::by_loops(out, a, b);
    }

    /// Exponential of every value, in place.
    fn exp_all(values: &mut [Self]) {
        for v in values {
            *v = v.exp();
        }
    }

    /// `values ← f(values)`, and `derivatives ← f′(old values)` if given (with the same length).
    fn activate(activation: Activation, values: &mut [Self], derivatives: Option<&mut [Self]>) {
        kernel::activate::by_formula(activation, values, derivatives);
    }
}

macro_rules! native {
    ($float:ty) => {
        impl Scalar for $float {
            fn of(x: f64) -> Self {
                x as Self
            }

            fn as_f64(self) -> f64 {
                self.into()
            }

            fn matmul(out: Write<'_, Self>, a: Matrix<'_, Self>, b: Matrix<'_, Self>) {
                kernel::product::by_tiles(out, a, b);
            }

            fn exp_all(values: &mut [Self]) {
                // std's functions are optimised whatever this crate is.
                if cfg!(unoptimized) {
                    values.iter_mut().for_each(|v| *v = v.exp());
                } else {
                    kernel::elementary::apply::<kernel::elementary::Exp, Self>(values, None);
                }
            }

            fn activate(
                activation: Activation,
                values: &mut [Self],
                derivatives: Option<&mut [Self]>,
            ) {
                // The formulas of these two cancel in places.
                let cancels = matches!(activation, Activation::Gelu | Activation::Silu);
                if cfg!(unoptimized) && !cancels {
                    kernel::activate::by_formula(activation, values, derivatives);
                } else {
                    kernel::activate::vectorised(activation, values, derivatives);
                }
            }
        }
    };
}

native!(f32);
native!(f64);
