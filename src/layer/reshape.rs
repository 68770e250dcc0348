//! The same values in a different shape.

use rand::Rng;

use super::{Context, Layer, ParameterGroup, Point, Scratch, Shape, check_dimension};
use crate::description::Description;
use crate::error::Error;
use crate::kernel::{Scalar, Write};

/// ẑ = z, in a different shape of the same size.
///
/// A shape only says how the values of a column are read, so nothing moves: entry i stays entry i.
/// Layers that take a shape with one axis accept any shape of the same size
/// ([`Layer::input_shape`]); between shapes with several axes, `Reshape` says that the difference is
/// intended. There are no parameters, and ‖∂f/∂z‖² is 1.
///
/// # Examples
/// A decoder: from 32 numbers to an image.
/// ```
/// use layerwise::prelude::*;
/// use layerwise::layer::Reshape;
///
/// let circuit = Circuit::<f32>::builder()
///     .layer(Dense::new(32, 8 * 4 * 4, Activation::Relu)?)
///     .layer(Reshape::new(8 * 4 * 4, [8, 4, 4])?)
///     .layer(Conv2d::new([8, 4, 4], 1, 3, Activation::Identity)?)
///     .build()?;
/// assert_eq!(circuit.dims(), [32, 128, 128, 4]);
/// assert_eq!(Layer::<f32>::output_shape(&Reshape::flatten([8, 4, 4])?).extents(), [128]);
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Reshape {
    input: Shape,
    output: Shape,
}

impl Reshape {
    /// A layer from one shape to another.
    ///
    /// # Errors
    /// [`Error::ZeroDimension`], or [`Error::Length`] for shapes of different sizes.
    pub fn new(input: impl Into<Shape>, output: impl Into<Shape>) -> Result<Self, Error> {
        let (input, output) = (input.into(), output.into());
        check_dimension("the input of a reshaping layer", input.size())?;
        if input.size() != output.size() {
            return Err(Error::Length {
                what: format!("the values of the shape {output} of an input {input}"),
                expected: input.size(),
                found: output.size(),
            });
        }
        Ok(Self { input, output })
    }

    /// A layer from a shape to a single axis.
    ///
    /// # Errors
    /// [`Error::ZeroDimension`].
    pub fn flatten(input: impl Into<Shape>) -> Result<Self, Error> {
        let input = input.into();
        Self::new(input, input.size())
    }

    /// The layer that [`Layer::description`] describes.
    pub(crate) fn described(own: &Description) -> Result<Self, Error> {
        Self::new(
            described_shape(own, "input")?,
            described_shape(own, "output")?,
        )
    }
}

/// A shape in a description.
pub(super) fn described_shape(own: &Description, name: &str) -> Result<Shape, Error> {
    let shape = Shape::of(&own.counts(name)?);
    shape.ok_or_else(|| own.refuse(name, "a shape of at most four axes"))
}

impl<T: Scalar> Layer<T> for Reshape {
    fn input_shape(&self) -> Shape {
        self.input
    }

    fn output_shape(&self) -> Shape {
        self.output
    }

    fn parameters(&self) -> Vec<ParameterGroup> {
        Vec::new()
    }

    fn initialize(&self, _parameters: &mut [T], _rng: &mut dyn Rng) {}

    fn scratch(&self, _batch: usize) -> Scratch {
        Scratch::NONE
    }

    fn cost(&self) -> Option<usize> {
        Some(self.input.size())
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
        output.copy_from_slice(input);
    }

    fn vjp(
        &self,
        _at: &Point<'_, T>,
        cotangent: &[T],
        d_input: Write<'_, T>,
        _d_parameters: Write<'_, T>,
        _work: &mut [T],
    ) {
        d_input.each(|i| cotangent[i]);
    }

    fn jvp(
        &self,
        _at: &Point<'_, T>,
        v_input: Option<&[T]>,
        _v_parameters: Option<&[T]>,
        tangent: &mut [T],
        _work: &mut [T],
    ) {
        match v_input {
            Some(v) => tangent.copy_from_slice(v),
            None => tangent.fill(T::zero()),
        }
    }

    fn curvature_bound(&self, _parameters: &[T], _work: &mut [T]) -> Option<T> {
        Some(T::one())
    }

    fn description(&self) -> Option<Description> {
        let own = Description::new("Reshape").with("input", self.input.extents());
        Some(own.with("output", self.output.extents()))
    }
}
