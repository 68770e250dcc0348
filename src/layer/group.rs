//! The blocks of a flat parameter vector.

use std::ops::Range;

use crate::kernel::extent_product;

/// One block of a layer's flat parameter vector.
///
/// # Examples
/// ```
/// use layerwise::layer::ParameterGroup;
///
/// let groups = ParameterGroup::tile([
///     ParameterGroup::new("weights", [2, 3]).decaying(),
///     ParameterGroup::new("bias", [2]),
/// ]);
/// assert_eq!((groups[0].range.clone(), groups[1].range.clone()), (0..6, 6..8));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct ParameterGroup {
    /// Name within the layer, such as "weights".
    pub name: String,
    /// Shape; the block is stored with the first index fastest (column-major).
    pub shape: Vec<usize>,
    /// Range in the flat vector. Groups tile the vector in order, without gaps.
    pub range: Range<usize>,
    /// Whether an optimiser with weight decay should decay it; usually not for biases and scales.
    pub decays: bool,
}

impl ParameterGroup {
    /// A block at the start of the vector, without weight decay; [`ParameterGroup::tile`] moves it
    /// to its place.
    pub fn new(name: impl Into<String>, shape: impl Into<Vec<usize>>) -> Self {
        let shape = shape.into();
        Self {
            name: name.into(),
            range: 0..extent_product(&shape),
            shape,
            decays: false,
        }
    }

    /// The same block, with weight decay.
    pub fn decaying(mut self) -> Self {
        self.decays = true;
        self
    }

    /// Places the blocks one after another, beginning at 0, as
    /// [`Layer::parameters`](super::Layer::parameters) must list them.
    pub fn tile(groups: impl IntoIterator<Item = Self>) -> Vec<Self> {
        let mut end = 0_usize;
        let place = |mut group: Self| {
            let start = end;
            end = start.saturating_add(group.range.len());
            group.range = start..end;
            group
        };
        groups.into_iter().map(place).collect()
    }
}
