//! Layers as elementwise functions of linear maps, for closed-form W-steps.

use std::ops::Range;

use super::Activation;

/// Describes a layer as Ẑ = a(W U(z) + b 1ᵀ), for closed-form W-steps. W is channels × patch_len,
/// and U(z) is the patch_len × positions matrix of one example's patches. With several groups, each
/// group of channels has its own rows of W and its own U.
///
/// For least squares in (W, b), a batch of n examples becomes a batch of positions · n columns. Its
/// inputs are the result of [`Layer::unfold`](super::Layer::unfold). Its targets are the layer's (channels · positions) ×
/// n targets, read as a channels × (positions · n) matrix; the slice is the same. The weight of an
/// example applies to each of its positions. Each group is a separate least-squares problem.
///
/// # Examples
/// ```
/// use layerwise::layer::{Activation, Affine};
///
/// // ẑ = tanh(W z + b) with W 2 × 3.
/// let affine = Affine::new(0..6, Some(6..8), Activation::Tanh, 3);
/// assert_eq!((affine.channels(), affine.positions, affine.unfolds), (2, 1, false));
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Affine {
    /// Range of W in the flat parameter vector.
    pub weights: Range<usize>,
    /// The order of W's entries in that range.
    pub order: WeightOrder,
    /// Range of b, if there is one: one value per channel.
    pub bias: Option<Range<usize>>,
    /// The elementwise function a.
    pub activation: Activation,
    /// Columns of W.
    pub patch_len: usize,
    /// Patches per example.
    pub positions: usize,
    /// Whether [`Layer::unfold`](super::Layer::unfold) must make the patches; otherwise the patches are the input itself.
    pub unfolds: bool,
    /// The number of groups into which the channels are divided evenly; more than one requires `unfolds`.
    pub groups: usize,
}

/// The order of the entries of W in a parameter vector; part of [`Affine`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WeightOrder {
    /// channels × patch_len, column-major.
    Columns,
    /// One column-major inputs × (channels / groups) matrix for each place of a patch. A place holds
    /// inputs / groups consecutive values. This is the order of a transposed convolution.
    Places {
        /// The number of inputs at a place, over all groups.
        inputs: usize,
    },
}

impl Affine {
    /// ẑ = a(W z + b), with one patch: the whole input of `patch_len` values.
    pub fn new(
        weights: Range<usize>,
        bias: Option<Range<usize>>,
        activation: Activation,
        patch_len: usize,
    ) -> Self {
        Self {
            weights,
            order: WeightOrder::Columns,
            bias,
            activation,
            patch_len,
            positions: 1,
            unfolds: false,
            groups: 1,
        }
    }

    /// Splits the input itself into `positions` contiguous patches.
    pub fn with_positions(self, positions: usize) -> Self {
        Self { positions, ..self }
    }

    /// Sets the number of patches, which are made by [`Layer::unfold`](super::Layer::unfold).
    pub fn unfolding(self, positions: usize) -> Self {
        Self {
            positions,
            unfolds: true,
            ..self
        }
    }

    /// Divides the channels evenly among this many groups.
    pub fn with_groups(self, groups: usize) -> Self {
        Self { groups, ..self }
    }

    /// Sets the order of W.
    pub fn with_order(self, order: WeightOrder) -> Self {
        Self { order, ..self }
    }

    /// Rows of W.
    pub fn channels(&self) -> usize {
        self.weights.len().checked_div(self.patch_len).unwrap_or(0)
    }

    /// Rows of W that belong to a group; 0 if the channels cannot be divided evenly.
    pub(crate) fn rows(&self) -> usize {
        let channels = self.channels();
        match self.groups > 0 && channels.is_multiple_of(self.groups) {
            true => channels / self.groups,
            false => 0,
        }
    }

    /// Whether the order of W is possible for its size.
    pub(crate) fn is_ordered(&self) -> bool {
        match self.order {
            WeightOrder::Columns => true,
            WeightOrder::Places { inputs } => {
                let own = inputs.checked_div(self.groups).unwrap_or(0);
                inputs.is_multiple_of(self.groups.max(1))
                    && own > 0
                    && self.patch_len.is_multiple_of(own)
            }
        }
    }

    /// The indices of a group's rows of W in the parameter vector, column by column.
    pub(crate) fn places(&self, group: usize) -> impl Iterator<Item = usize> {
        let (start, rows, channels) = (self.weights.start, self.rows(), self.channels());
        let (groups, order) = (self.groups, self.order);
        let place = move |row: usize, column: usize| match order {
            WeightOrder::Columns => group * rows + row + channels * column,
            WeightOrder::Places { inputs } => {
                let own = inputs / groups;
                let (input, at) = (group * own + column % own, column / own);
                input + inputs * (row + rows * at)
            }
        };
        (0..self.patch_len)
            .flat_map(move |column| (0..rows).map(move |row| start + place(row, column)))
    }
}
