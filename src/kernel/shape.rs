//! The shape of one example's values.

use std::fmt;

/// The largest number of axes of a [`Shape`].
const MOST_AXES: usize = 4;

/// The shape of one example's values, such as `[channels, height, width]`: at most four axes, with
/// the first index fastest (column-major).
///
/// Value (c, y, x) of `[C, H, W]` is entry c + C (y + H x) of the example's column.
///
/// # Examples
/// ```
/// use layerwise::layer::Shape;
///
/// let image = Shape::from([3, 8, 10]);
/// assert_eq!((image.size(), image.extents()), (240, &[3, 8, 10][..]));
/// assert_eq!(Shape::from(5), Shape::from([5]));
/// assert_eq!(image.to_string(), "3 x 8 x 10");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    /// 1 for axes that are not used.
    extents: [usize; MOST_AXES],
    axes: usize,
}

impl Shape {
    /// A shape with these extents; `None` if there are more than four.
    pub fn of(extents: &[usize]) -> Option<Self> {
        let mut own = [1; MOST_AXES];
        own.get_mut(..extents.len())?.copy_from_slice(extents);
        Some(Self {
            extents: own,
            axes: extents.len(),
        })
    }

    /// The extents, one per axis.
    pub fn extents(&self) -> &[usize] {
        &self.extents[..self.axes]
    }

    /// The number of values: the product of the extents, or `usize::MAX` if that overflows.
    pub fn size(&self) -> usize {
        extent_product(&self.extents)
    }

    /// This shape with another axis in front. If there are four axes already, they are merged into
    /// one.
    pub(crate) fn behind(&self, first: usize) -> Self {
        let [a, b, c, _] = self.extents;
        match self.axes {
            0 => first.into(),
            1 => [first, a].into(),
            2 => [first, a, b].into(),
            3 => [first, a, b, c].into(),
            _ => [first, self.size()].into(),
        }
    }
}

/// The product of the extents, or `usize::MAX` if that overflows.
pub(crate) fn extent_product(extents: &[usize]) -> usize {
    let times = |size: usize, &extent| size.saturating_mul(extent);
    extents.iter().fold(1, times)
}

impl From<usize> for Shape {
    fn from(length: usize) -> Self {
        Self::from([length])
    }
}

impl<const AXES: usize> From<[usize; AXES]> for Shape {
    /// More than four axes fail to compile.
    fn from(own: [usize; AXES]) -> Self {
        const { assert!(AXES <= MOST_AXES, "a shape has at most four axes") };
        let mut extents = [1; MOST_AXES];
        extents[..AXES].copy_from_slice(&own);
        Self {
            extents,
            axes: AXES,
        }
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.extents().fmt(f)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, extent) in self.extents().iter().enumerate() {
            let cross = if i > 0 { " x " } else { "" };
            write!(f, "{cross}{extent}")?;
        }
        Ok(())
    }
}
