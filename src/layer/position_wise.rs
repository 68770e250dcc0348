//! The same dense layer at every position of a sequence.

use super::{Activation, Patchwise, Shape, Unfold, check_dimension};
use crate::description::Description;
use crate::error::Error;

/// One dense layer applied to every column of a `[dim, length]` array, Ẑ = a(W Z + b 1ᵀ): a
/// [`Patchwise`] layer whose patches are the columns of the input, which are not copied.
///
/// It has what [`Dense`](super::Dense) has: parameters (W, channels × dim, then b), initial values,
/// options, a curvature bound that does not depend on the length, and closed-form W-steps. The output
/// has the shape `[channels, length]`. In a transformer it makes up the feed-forward blocks.
///
/// # Examples
/// ```
/// use layerwise::Layer;
/// use layerwise::layer::{Activation, PositionWise};
///
/// let layer = PositionWise::new(16, 10, 64, Activation::Gelu)?;
/// assert_eq!(layer.output_shape().extents(), [64, 10]);
/// assert_eq!(layer.parameters()[0].shape, [64, 16]);
/// # Ok::<(), layerwise::Error>(())
/// ```
pub type PositionWise = Patchwise<Positions>;

/// The columns of a `[dim, length]` array as patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Positions {
    dim: usize,
    length: usize,
}

impl PositionWise {
    /// A layer with `channels` outputs at each of `length` positions of `dim` values, and a bias.
    ///
    /// # Errors
    /// [`Error::ZeroDimension`], [`Error::TooLarge`], or [`Error::InvalidOption`] for a leaky ReLU
    /// whose slope is outside 0..=1.
    pub fn new(
        dim: usize,
        length: usize,
        channels: usize,
        activation: Activation,
    ) -> Result<Self, Error> {
        Self::over(Positions::new(dim, length)?, channels, activation)
    }
}

impl Positions {
    /// `length` patches of `dim` values.
    ///
    /// # Errors
    /// [`Error::ZeroDimension`].
    pub fn new(dim: usize, length: usize) -> Result<Self, Error> {
        check_dimension("the dimension of a position-wise layer", dim)?;
        check_dimension("the length of a position-wise layer", length)?;
        Ok(Self { dim, length })
    }

    pub(crate) fn described(own: &Description) -> Result<Self, Error> {
        Self::new(own.count("dim")?, own.count("length")?)
    }
}

impl Unfold for Positions {
    fn input_shape(&self) -> Shape {
        [self.dim, self.length].into()
    }

    fn patch_len(&self) -> usize {
        self.dim
    }

    fn positions(&self) -> Shape {
        self.length.into()
    }

    fn source(&self, entry: usize, position: usize) -> Option<usize> {
        Some(entry + self.dim * position)
    }

    fn is_input(&self) -> bool {
        true
    }

    fn description(&self) -> Option<Description> {
        let own = Description::new("Positions").with("dim", self.dim);
        Some(own.with("length", self.length))
    }
}
