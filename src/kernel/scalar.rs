//! The number type of a circuit, and the kernels that it carries.

use nalgebra::RealField;

use crate::kernel::Activation;
use crate::kernel::{self, Matrix, Write};

/// A real field with the kernels that circuits run on.
///
/// `f32` and `f64` bring fast kernels. Any other `Copy` real field becomes a scalar through
/// `impl Scalar for MyNumber {}` in the crate that defines it, dual numbers among them: every method
/// has a generic default.
pub trait Scalar: RealField + Copy {
    /// The value nearest to `x`.
    fn of(x: f64) -> Self {
        nalgebra::convert(x)
    }

    /// This value as `f64`; for a dual number its real part.
    fn as_f64(self) -> f64 {
        nalgebra::convert_unchecked(self)
    }

    /// Matrix product, `out ← A B` or `out ← out + A B`, all column-major.
    ///
    /// A column of the result has the same bits whatever other columns `B` has, unless `B` is read
    /// transposed: its columns are no examples then, and very few of them may be summed otherwise.
    ///
    /// # Panics
    /// If the shapes do not fit one another: kernels run on shapes that were validated before.
    fn matmul(out: Write<'_, Self>, a: Matrix<'_, Self>, b: Matrix<'_, Self>) {
        kernel::product::by_loops(out, a, b);
    }

    /// Exponential of every value, in place.
    fn exp_all(values: &mut [Self]) {
        for v in values {
            *v = v.exp();
        }
    }

    /// `values ← f(values)`, and `derivatives ← f′(old values)` if given (of the same length).
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
                kernel::product::by_library(out, a, b);
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
                if cfg!(unoptimized) {
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
