//! The parts of the input to which a layer's weights are applied.

use std::fmt::Debug;

use super::Shape;
use crate::description::Description;
use crate::kernel::{Scalar, Write};

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
/// use layerwise::kernel::Write;
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
/// Pairs(3).unfold(&[5.0, 6.0, 7.0], &mut patches);
/// assert_eq!(patches, [5.0, 6.0, 6.0, 7.0]);
/// Pairs(3).fold(&patches, Write::Set(&mut sums));
/// assert_eq!(sums, [5.0, 12.0, 7.0]);
/// ```
pub trait Unfold: Debug + Send + Sync {
    /// The shape of the input.
    fn input_shape(&self) -> Shape;

    /// The number of entries of every patch, at least 1.
    fn patch_len(&self) -> usize;

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

    /// Whether it is the crate's [`Whole`].
    #[doc(hidden)]
    fn is_whole(&self) -> bool {
        false
    }

    /// `patches ← U z` for one example; by default entry by entry. Override it if patches are
    /// copies of contiguous ranges, which is faster.
    fn unfold<T: Scalar>(&self, input: &[T], patches: &mut [T]) {
        let columns = patches.chunks_exact_mut(self.patch_len());
        for (position, patch) in columns.enumerate() {
            for (entry, value) in patch.iter_mut().enumerate() {
                let source = self.source(entry, position);
                *value = source.map_or(T::zero(), |i| input[i]);
            }
        }
    }

    /// `d_input ← Uᵀ patches` for one example, the adjoint of [`Unfold::unfold`]: every entry of
    /// the input gets the sum of the patch entries that read it.
    fn fold<T: Scalar>(&self, patches: &[T], d_input: Write<'_, T>) {
        let Some(sums) = d_input.accumulate() else {
            return;
        };
        let columns = patches.chunks_exact(self.patch_len());
        for (position, patch) in columns.enumerate() {
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

    fn description(&self) -> Option<Description> {
        Some(Description::new("Whole").with("inputs", self.0.extents()))
    }

    fn is_whole(&self) -> bool {
        true
    }
}
