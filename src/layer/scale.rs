//! A fixed factor.

use rand::Rng;

use super::{
    Context, Layer, ParameterGroup, Point, Scratch, Shape, bound_of_norm, check_dimension,
    described_shape,
};
use crate::check::finite;
use crate::description::Description;
use crate::error::Error;
use crate::kernel::{Scalar, Write};

/// ẑ = s z with a fixed factor s, for any shape; there are no parameters.
///
/// # Examples
/// ```
/// use layerwise::Circuit;
/// use layerwise::layer::Scale;
/// use layerwise::nalgebra::DMatrix;
///
/// let circuit = Circuit::<f64>::builder().layer(Scale::new([2, 3], 0.5)?).build()?;
/// let z = DMatrix::from_element(6, 1, 4.0);
/// assert_eq!(circuit.predict(&z)?, DMatrix::from_element(6, 1, 2.0));
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Scale {
    shape: Shape,
    factor: f64,
}

impl Scale {
    /// A layer that multiplies values of this shape by `factor`.
    ///
    /// # Errors
    /// [`Error::ZeroDimension`], or [`Error::InvalidOption`] for a factor that is not finite.
    pub fn new(shape: impl Into<Shape>, factor: f64) -> Result<Self, Error> {
        let shape = shape.into();
        check_dimension("the size of a scale layer", shape.size())?;
        let factor = finite("Scale::factor", factor)?;
        Ok(Self { shape, factor })
    }

    pub(crate) fn described(own: &Description) -> Result<Self, Error> {
        Self::new(described_shape(own, "shape")?, own.number("factor")?)
    }
}

impl<T: Scalar> Layer<T> for Scale {
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
        Some(self.shape.size())
    }

    fn forward(
        &self,
        _context: &Context<'_>,
        _parameters: &[T],
        input: &[T],
        output: &mut [T],
        _tape: Option<&mut [T]>,
        _work: &mut [T],
    ) {
        let s = T::of(self.factor);
        Write::Set(output).each(|i| s * input[i]);
    }

    fn vjp(
        &self,
        _at: &Point<'_, T>,
        cotangent: &[T],
        d_input: Write<'_, T>,
        _d_parameters: Write<'_, T>,
        _work: &mut [T],
    ) {
        let s = T::of(self.factor);
        d_input.each(|i| s * cotangent[i]);
    }

    fn jvp(
        &self,
        _at: &Point<'_, T>,
        v_input: Option<&[T]>,
        _v_parameters: Option<&[T]>,
        tangent: &mut [T],
        _work: &mut [T],
    ) {
        let s = T::of(self.factor);
        match v_input {
            Some(v) => Write::Set(tangent).each(|i| s * v[i]),
            None => tangent.fill(T::zero()),
        }
    }

    /// s².
    fn curvature_bound(&self, _parameters: &[T], _work: &mut [T]) -> Option<T> {
        Some(bound_of_norm(T::of(self.factor)))
    }

    fn description(&self) -> Option<Description> {
        let own = Description::new("Scale").with("shape", self.shape.extents());
        Some(own.with("factor", self.factor))
    }
}
