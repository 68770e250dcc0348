//! A learned array added to the input.

use rand::Rng;

use super::{
    Context, Layer, ParameterGroup, Point, Scratch, Shape, check_dimension, described_shape,
};
use crate::description::Description;
use crate::error::Error;
use crate::init::Initializer;
use crate::kernel::{Scalar, Write, add_to_columns, fill_columns, row_sums};

/// ẑ = z + p with a learned array p of the shape of the input, such as one vector for each position
/// of a `[dim, length]` sequence: learned position embeddings.
///
/// Attention treats all positions alike, so a transformer adds this array to the embedded tokens.
///
/// Parameters: "positions" (of the input's shape), initially from N(0, 1) like the vectors of an
/// [`Embedding`](super::Embedding), and without weight decay. ‖∂ẑ/∂z‖ = 1. If p starts at 0
/// ([`with_positions`](Self::with_positions)), positions become distinct only late, above all in decoupled schemes.
///
/// # Examples
/// ```
/// use layerwise::layer::{Embedding, PositionBias, Sequential};
/// use layerwise::Layer;
///
/// // 10 tokens of a vocabulary of 50, as vectors of 16 values, with their positions added.
/// let unit: Sequential<f32> = Sequential::new(vec![
///     Box::new(Embedding::new(50, 16, 10)?),
///     Box::new(PositionBias::new([16, 10])?),
/// ])?;
/// assert_eq!(unit.output_dim(), 160);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct PositionBias {
    shape: Shape,
    initial: Initializer,
}

impl PositionBias {
    /// A layer for values of this shape.
    ///
    /// # Errors
    /// [`Error::ZeroDimension`].
    pub fn new(shape: impl Into<Shape>) -> Result<Self, Error> {
        let shape = shape.into();
        check_dimension("the size of a position bias", shape.size())?;
        let initial = Initializer::lecun_normal();
        Ok(Self { shape, initial })
    }

    /// Sets the initializer of p, which is drawn as a size × 1 matrix: variance scaling by fan-in gives every value
    /// the variance `scale`.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for an option of the initializer that is out of range.
    pub fn with_positions(mut self, initializer: Initializer) -> Result<Self, Error> {
        self.initial = initializer.validate()?;
        Ok(self)
    }

    pub(crate) fn described(own: &Description) -> Result<Self, Error> {
        Self::new(described_shape(own, "shape")?)?
            .with_positions(Initializer::described(own.part("positions")?)?)
    }
}

impl<T: Scalar> Layer<T> for PositionBias {
    fn input_shape(&self) -> Shape {
        self.shape
    }

    fn output_shape(&self) -> Shape {
        self.shape
    }

    fn parameters(&self) -> Vec<ParameterGroup> {
        ParameterGroup::tile([ParameterGroup::new("positions", self.shape.extents())])
    }

    fn initialize(&self, parameters: &mut [T], rng: &mut dyn Rng) {
        self.initial.fill(parameters, self.shape.size(), 1, rng);
    }

    fn scratch(&self, _batch: usize) -> Scratch {
        Scratch::NONE
    }

    fn cost(&self) -> Option<usize> {
        Some(self.shape.size())
    }

    fn forward(
        &self,
        _context: &Context<'_>,
        parameters: &[T],
        input: &[T],
        output: &mut [T],
        _tape: Option<&mut [T]>,
        _work: &mut [T],
    ) {
        output.copy_from_slice(input);
        add_to_columns(output, parameters);
    }

    fn vjp(
        &self,
        _at: &Point<'_, T>,
        cotangent: &[T],
        d_input: Write<'_, T>,
        d_parameters: Write<'_, T>,
        _work: &mut [T],
    ) {
        d_input.each(|i| cotangent[i]);
        row_sums(d_parameters, cotangent);
    }

    fn jvp(
        &self,
        _at: &Point<'_, T>,
        v_input: Option<&[T]>,
        v_parameters: Option<&[T]>,
        tangent: &mut [T],
        _work: &mut [T],
    ) {
        match v_parameters {
            Some(v) => fill_columns(tangent, v),
            None => tangent.fill(T::zero()),
        }
        if let Some(v) = v_input {
            Write::Add(tangent).each(|i| v[i]);
        }
    }

    /// 1.
    fn curvature_bound(&self, _parameters: &[T], _work: &mut [T]) -> Option<T> {
        Some(T::one())
    }

    fn description(&self) -> Option<Description> {
        let own = Description::new("PositionBias").with("shape", self.shape.extents());
        Some(own.with("positions", self.initial.description()))
    }
}
