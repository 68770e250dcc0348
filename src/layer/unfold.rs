//! The parts of the input to which a layer's weights are applied.

use std::fmt::Debug;
use std::ops::Range;

use super::Shape;
use crate::description::Description;
use crate::kernel::{Matrix, Scalar};

/// A parameter-free rearrangement of one example's input z into patches, to which a
/// [`Patchwise`](super::Patchwise) layer applies its weights.
///
/// Entry k of the patch at position p is z_{source(k, p)}, or 0 (padding). The patches form a
/// patch_len × positions matrix U z, column-major, where U has at most one 1 per row. Convolutions
/// have this form. [`Whole`], a single patch with the whole input, gives a [`Dense`](super::Dense)
/// layer.
///
/// # Examples
/// ```
/// use layerwise::layer::{Shape, Unfold};
///
/// /// Pairs of neighbours in a sequence.
/// #[derive(Debug)]
/// struct Pairs(usize);
///
/// impl Unfold for Pairs {
///     fn input_shape(&self) -> Shape { self.0.into() }
///     fn patch_len(&self) -> usize { 2 }
///     fn positions(&self) -> Shape { (self.0 - 1).into() }
///     fn source(&self, entry: usize, position: usize) -> Option<usize> { Some(entry + position) }
/// }
///
/// let (mut patches, mut sums) = ([0.0; 4], [0.0; 3]);
/// Pairs(3).unfold(&[5.0, 6.0, 7.0], 0..2, 0..2, &mut patches);
/// assert_eq!(patches, [5.0, 6.0, 6.0, 7.0]);
/// Pairs(3).fold(&patches, 0..2, &mut sums);
/// assert_eq!(sums, [5.0, 12.0, 7.0]);
/// ```
pub trait Unfold: Debug + Send + Sync {
    /// The shape of the input.
    fn input_shape(&self) -> Shape;

    /// The number of entries of every patch, at least 1.
    fn patch_len(&self) -> usize;

    /// The shape of a patch, which is that of a channel's weights: by default `[patch_len]`. Its size
    /// is the number of entries.
    fn patch_shape(&self) -> Shape {
        self.patch_len().into()
    }

    /// The shape of the positions, such as `[width, height]`; its size is the number of patches, at
    /// least 1.
    fn positions(&self) -> Shape;

    /// The index of the input value that entry `entry` of the patch at `position` reads; `None` for
    /// padding, which is 0.
    fn source(&self, entry: usize, position: usize) -> Option<usize>;

    /// Its kind and settings; see [`Layer::description`](super::Layer::description). `None` by
    /// default.
    fn description(&self) -> Option<Description> {
        None
    }

    /// The description of a layer over it: the kind, with the settings that come from the unfold.
    #[doc(hidden)]
    fn layer_description(&self) -> Option<Description> {
        Some(Description::new("Patchwise").with("unfold", self.description()?))
    }

    /// `patches ←` a part of U z for one example: the entries `entries` of the patches at
    /// `positions`, an entries × positions matrix, column-major. By default it is copied entry by
    /// entry. Override this if patches are made of contiguous ranges, which can be copied faster.
    ///
    /// A layer goes through the positions in small blocks, which stay in the cache until they
    /// are multiplied.
    fn unfold<T: Scalar>(
        &self,
        input: &[T],
        entries: Range<usize>,
        positions: Range<usize>,
        patches: &mut [T],
    ) {
        let columns = patches.chunks_exact_mut(entries.len());
        for (position, patch) in positions.zip(columns) {
            for (entry, value) in entries.clone().zip(patch) {
                let source = self.source(entry, position);
                *value = source.map_or(T::zero(), |i| input[i]);
            }
        }
    }

    /// The unfold of a group of channels, where number 0 is this one; `None` if there are no others.
    #[doc(hidden)]
    fn group(&self, _number: usize) -> Option<Self>
    where
        Self: Sized,
    {
        None
    }

    /// Whether the patches are the input itself, so that no entry needs to be checked.
    #[doc(hidden)]
    fn is_input(&self) -> bool {
        false
    }

    /// Positions and values of blocks whose patches share memory, of at most about `most` values;
    /// `None` if there is nothing to share.
    #[doc(hidden)]
    fn shared_block(&self, _most: usize) -> Option<(usize, usize)> {
        None
    }

    /// The patches at the positions of such a block, in memory that they share.
    #[doc(hidden)]
    fn unfold_shared<'a, T: Scalar>(
        &self,
        input: &[T],
        positions: Range<usize>,
        shared: &'a mut [T],
    ) -> Matrix<'a, T> {
        let size = self.patch_len() * positions.len();
        let (entries, count) = (0..self.patch_len(), positions.len());
        self.unfold(input, entries, positions, &mut shared[..size]);
        Matrix::new(&shared[..size], self.patch_len(), count)
    }

    /// `sums ← sums + Uᵀ patches` for the patches at `positions` of one example, the adjoint of
    /// [`Unfold::unfold`]: each entry of a patch is added to the entry of the input that it reads.
    fn fold<T: Scalar>(&self, patches: &[T], positions: Range<usize>, sums: &mut [T]) {
        let columns = patches.chunks_exact(self.patch_len());
        for (position, patch) in positions.zip(columns) {
            for (entry, &value) in patch.iter().enumerate() {
                if let Some(i) = self.source(entry, position) {
                    sums[i] += value;
                }
            }
        }
    }
}

/// A single patch: the whole input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whole(pub(super) Shape);

impl Whole {
    /// A single patch with the whole input of this shape.
    pub fn new(input: impl Into<Shape>) -> Self {
        Self(input.into())
    }
}

impl Unfold for Whole {
    fn input_shape(&self) -> Shape {
        self.0
    }

    fn patch_len(&self) -> usize {
        self.0.size()
    }

    fn positions(&self) -> Shape {
        [].into()
    }

    fn source(&self, entry: usize, _position: usize) -> Option<usize> {
        Some(entry)
    }

    fn is_input(&self) -> bool {
        true
    }

    fn description(&self) -> Option<Description> {
        Some(Description::new("Whole").with("inputs", self.0.extents()))
    }

    fn layer_description(&self) -> Option<Description> {
        Some(Description::new("Dense").with("inputs", self.0.extents()))
    }
}
