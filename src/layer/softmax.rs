//! Columns turned into probabilities.

use rand::Rng;

use super::{
    Context, Layer, ParameterGroup, Point, Scratch, Shape, bound_of_norm, check_dimension,
    described_shape, rows_and_columns,
};
use crate::description::Description;
use crate::error::Error;
use crate::kernel::{
    Columns, Scalar, Write, WriteColumns, dot, largest, scale_by_power, sum_of_blocks, vectorise,
};

/// Softmax of every column of the input, p_j = e^(z_j) / ∑_k e^(z_k); there are no parameters.
///
/// The first axis of the shape is normalised: a `[d, length]` array becomes `length` distributions
/// over d classes, and a plain vector of d values one. The largest value of a column is subtracted
/// first, so no finite input overflows.
///
/// The Jacobian of a column is diag p − p pᵀ, whose norm is at most ½ (Gao & Pavel 2017), so
/// ‖∂ẑ/∂z‖² ≤ ¼.
///
/// For classification, leave the last layer's outputs as they are, and let the loss
/// [`SoftmaxCrossEntropy`](crate::loss::SoftmaxCrossEntropy) do this. The layer is for hidden
/// distributions, inside a [`Sequential`](super::Sequential).
///
/// # Examples
/// ```
/// use layerwise::Circuit;
/// use layerwise::layer::Softmax;
/// use layerwise::nalgebra::DMatrix;
///
/// let circuit = Circuit::<f64>::builder().layer(Softmax::new([2, 2])?).build()?;
/// let z = DMatrix::from_column_slice(4, 1, &[0.0, 3f64.ln(), 900.0, 900.0]);
/// let p = circuit.predict(&z)?;
/// assert!((p - DMatrix::from_column_slice(4, 1, &[0.25, 0.75, 0.5, 0.5])).amax() < 1e-15);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Softmax {
    shape: Shape,
}

impl Softmax {
    /// A layer for values of this shape, whose first axis becomes a distribution.
    ///
    /// # Errors
    /// [`Error::ZeroDimension`].
    pub fn new(shape: impl Into<Shape>) -> Result<Self, Error> {
        let shape = shape.into();
        check_dimension("the size of a softmax", shape.size())?;
        Ok(Self { shape })
    }

    pub(crate) fn described(own: &Description) -> Result<Self, Error> {
        Self::new(described_shape(own, "shape")?)
    }

    /// (diag p − p pᵀ) v for the columns of a batch.
    fn product<T: Scalar>(&self, at: &Point<'_, T>, v: &[T], out: Write<'_, T>) {
        let (d, size) = (rows_and_columns(self.shape).0, self.shape.size());
        let (n, data) = (at.input.len() / size, WriteColumns::new(out, size));
        let execution = at.context.execution;
        execution.for_each_block(n, 4 * size, data, |range, mut out| {
            let first = range.start * size;
            for start in (0..out.write.len()).step_by(d) {
                let column = first + start..first + start + d;
                let (p, v) = (&at.output[column.clone()], &v[column]);
                let mean = dot(p, v);
                out.write
                    .part(start..start + d)
                    .each(|i| p[i] * (v[i] - mean));
            }
        });
    }
}

/// Every column of `dim` values ← its softmax.
pub(super) fn softmax<T: Scalar>(columns: &mut [T], dim: usize) {
    subtract_largest(columns, dim);
    exponentials(columns, dim);
}

/// Every column, in units of 2ᵏ, ← its softmax; the scalar may not hold 2ᵏ itself.
#[cold]
pub(super) fn softmax_in_units<T: Scalar>(columns: &mut [T], dim: usize, k: f64) {
    subtract_largest(columns, dim);
    scale_by_power(columns, k);
    exponentials(columns, dim);
}

fn subtract_largest<T: Scalar>(columns: &mut [T], dim: usize) {
    vectorise(
        #[inline(always)]
        move || {
            for column in columns.chunks_exact_mut(dim) {
                let top = largest(column);
                column.iter_mut().for_each(|x| *x -= top);
            }
        },
    );
}

/// Every column ← its exponentials, divided by their sum.
fn exponentials<T: Scalar>(columns: &mut [T], dim: usize) {
    T::exp_all(columns);
    vectorise(
        #[inline(always)]
        move || {
            for column in columns.chunks_exact_mut(dim) {
                let sum = sum_of_blocks(column, column, |x, _| x);
                column.iter_mut().for_each(|x| *x /= sum);
            }
        },
    );
}

impl<T: Scalar> Layer<T> for Softmax {
    fn input_shape(&self) -> Shape {
        self.shape
    }

    fn output_shape(&self) -> Shape {
        self.shape
    }

    fn parameters(&self) -> Vec<ParameterGroup> {
        Vec::new()
    }

    fn initialize(&self, _parameters: &mut [T], _rng: &mut dyn Rng) {}

    fn scratch(&self, _batch: usize) -> Scratch {
        Scratch::NONE
    }

    fn cost(&self) -> Option<usize> {
        Some(self.shape.size().saturating_mul(8))
    }

    fn forward(
        &self,
        context: &Context<'_>,
        _parameters: &[T],
        input: &[T],
        output: &mut [T],
        _tape: Option<&mut [T]>,
        _work: &mut [T],
    ) {
        let (d, size) = (rows_and_columns(self.shape).0, self.shape.size());
        output.copy_from_slice(input);
        let (n, data) = (input.len() / size, Columns::new(output, size));
        let execution = context.execution;
        execution.for_each_block(n, 8 * size, data, |_, output| softmax(output.values, d));
    }

    fn vjp(
        &self,
        at: &Point<'_, T>,
        cotangent: &[T],
        d_input: Write<'_, T>,
        _d_parameters: Write<'_, T>,
        _work: &mut [T],
    ) {
        self.product(at, cotangent, d_input);
    }

    fn jvp(
        &self,
        at: &Point<'_, T>,
        v_input: Option<&[T]>,
        _v_parameters: Option<&[T]>,
        tangent: &mut [T],
        _work: &mut [T],
    ) {
        match v_input {
            Some(v) => self.product(at, v, Write::Set(tangent)),
            None => tangent.fill(T::zero()),
        }
    }

    /// ¼.
    fn curvature_bound(&self, _parameters: &[T], _work: &mut [T]) -> Option<T> {
        Some(bound_of_norm(T::of(0.5)))
    }

    /// The mean of d probabilities, and a spread around it.
    fn target_range(&self) -> (f64, f64) {
        let mean = 1.0 / rows_and_columns(self.shape).0 as f64;
        (mean, 0.5 * mean)
    }

    fn description(&self) -> Option<Description> {
        Some(Description::new("Softmax").with("shape", self.shape.extents()))
    }
}
