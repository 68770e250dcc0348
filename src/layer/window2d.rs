//! The options of a window that moves over an image.

use std::ops::Range;

use crate::check::option;
use crate::description::Description;
use crate::error::Error;

/// A height and a width; a single number stands for both.
///
/// # Examples
/// ```
/// use layerwise::layer::Size2d;
///
/// assert_eq!(Size2d::from(3), Size2d::from([3, 3]));
/// assert_eq!(Size2d::from([5, 2]).height, 5);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Size2d {
    /// Along the axis y, the second one of an image `[channels, height, width]`.
    pub height: usize,
    /// Along the axis x, the third.
    pub width: usize,
}

impl Size2d {
    fn pair(self) -> [usize; 2] {
        [self.height, self.width]
    }
}

impl From<usize> for Size2d {
    fn from(side: usize) -> Self {
        [side, side].into()
    }
}

impl From<[usize; 2]> for Size2d {
    fn from([height, width]: [usize; 2]) -> Self {
        Self { height, width }
    }
}

/// The size of a window, and how it moves over an image: the options of [`Conv2d`](super::Conv2d),
/// [`ConvTranspose2d`](super::ConvTranspose2d), [`MaxPool2d`](super::MaxPool2d) and
/// [`AveragePool2d`](super::AveragePool2d), with the same meaning as in PyTorch.
///
/// Along each axis, an input of size n has
/// ⌊(n + 2 padding − dilation (kernel − 1) − 1) / stride⌋ + 1 positions of the window. Entry k of the
/// window at position p reads input value stride · p + dilation · k − padding; what lies outside is
/// padding.
///
/// A number stands for a square window, `[height, width]` for any other. Nothing is checked until a
/// layer is built with it.
///
/// # Examples
/// ```
/// use layerwise::layer::{Activation, Conv2d, Window2d};
///
/// let window = Window2d::new([5, 3]).with_stride(2).with_padding([2, 1]);
/// let layer = Conv2d::new([3, 32, 24], 8, window, Activation::Relu)?;
/// assert_eq!(layer.output_shape().extents(), [8, 16, 12]);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window2d {
    kernel: Size2d,
    /// `None`: 1 for convolutions, the kernel for pooling.
    stride: Option<Size2d>,
    padding: Size2d,
    dilation: Size2d,
}

impl Window2d {
    /// A window of this size, without padding or dilation. The stride is 1 for convolutions and the
    /// window's size for pooling.
    pub fn new(kernel: impl Into<Size2d>) -> Self {
        Self {
            kernel: kernel.into(),
            stride: None,
            padding: 0.into(),
            dilation: 1.into(),
        }
    }

    /// Sets the distance between neighbouring positions.
    pub fn with_stride(self, stride: impl Into<Size2d>) -> Self {
        let stride = Some(stride.into());
        Self { stride, ..self }
    }

    /// Sets the number of rows added above and below the image, and of columns added on either side.
    pub fn with_padding(self, padding: impl Into<Size2d>) -> Self {
        let padding = padding.into();
        Self { padding, ..self }
    }

    /// Sets the distance between neighbouring entries of the window.
    pub fn with_dilation(self, dilation: impl Into<Size2d>) -> Self {
        let dilation = dilation.into();
        Self { dilation, ..self }
    }

    /// The window, with this stride unless it already has one.
    pub(super) fn or_stride(self, stride: Size2d) -> Self {
        Self {
            stride: Some(self.stride.unwrap_or(stride)),
            ..self
        }
    }

    pub(super) fn kernel(&self) -> Size2d {
        self.kernel
    }

    /// The window along both axes.
    pub(super) fn axes(&self) -> Result<[Axis; 2], Error> {
        let [kernel, padding, dilation] =
            [self.kernel, self.padding, self.dilation].map(Size2d::pair);
        let stride = self.stride.unwrap_or(1.into()).pair();
        let axis = |i: usize| Axis {
            kernel: kernel[i],
            stride: stride[i],
            padding: padding[i],
            dilation: dilation[i],
        };
        let axes = [axis(0), axis(1)];
        for axis in &axes {
            axis.check()?;
        }
        Ok(axes)
    }

    /// The mean number of windows that read a value, far from the edges, but at least 1 along each
    /// axis.
    pub(super) fn overlap(&self) -> f64 {
        let [stride, kernel] = [self.stride.unwrap_or(1.into()), self.kernel].map(Size2d::pair);
        let along = |i: usize| (kernel[i] as f64 / stride[i] as f64).max(1.0);
        along(0) * along(1)
    }

    /// Adds the settings to a description.
    pub(super) fn describe(&self, own: Description) -> Description {
        let stride = self.stride.unwrap_or(1.into());
        let own = own.with("kernel", &self.kernel.pair()[..]);
        own.with("stride", &stride.pair()[..])
            .with("padding", &self.padding.pair()[..])
            .with("dilation", &self.dilation.pair()[..])
    }

    /// The window with the settings of a description.
    pub(super) fn described(own: &Description) -> Result<Self, Error> {
        let pair = |name: &str| match own.counts(name)?[..] {
            [height, width] => Ok(Size2d { height, width }),
            _ => Err(own.refuse(name, "a height and a width")),
        };
        Ok(Self {
            kernel: pair("kernel")?,
            stride: Some(pair("stride")?),
            padding: pair("padding")?,
            dilation: pair("dilation")?,
        })
    }
}

impl From<Size2d> for Window2d {
    fn from(kernel: Size2d) -> Self {
        Self::new(kernel)
    }
}

impl From<usize> for Window2d {
    fn from(side: usize) -> Self {
        Self::new(side)
    }
}

impl From<[usize; 2]> for Window2d {
    fn from(kernel: [usize; 2]) -> Self {
        Self::new(kernel)
    }
}

/// A window along one axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Axis {
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) padding: usize,
    pub(super) dilation: usize,
}

/// The largest value of an option or side: sums and products of a few do not overflow.
const MOST: usize = 1 << 24;

impl Axis {
    fn check(&self) -> Result<(), Error> {
        for (name, value, least) in [
            ("Window2d::kernel", self.kernel, 1),
            ("Window2d::stride", self.stride, 1),
            ("Window2d::padding", self.padding, 0),
            ("Window2d::dilation", self.dilation, 1),
        ] {
            let fits = (least..=MOST).contains(&value);
            option(name, value as f64, fits, format!("in {least}..={MOST}"))?;
        }
        Ok(())
    }

    /// The values from the first to the last entry of a window.
    pub(super) fn reach(&self) -> usize {
        self.dilation
            .saturating_mul(self.kernel - 1)
            .saturating_add(1)
    }

    /// The positions over a side of an image.
    pub(super) fn count(&self, side: usize) -> Result<usize, Error> {
        option(
            "side of an image",
            side as f64,
            side <= MOST,
            format!("in 1..={MOST}"),
        )?;
        let padded = side + 2 * self.padding;
        let allowed = || {
            format!(
                "at most {padded}, the padded height or width of the image [channels, height, width]"
            )
        };
        let reach = self.reach();
        if reach > padded {
            option("Window2d::kernel (dilated)", reach as f64, false, allowed())?;
        }
        Ok((padded - reach) / self.stride + 1)
    }

    /// The side of the image that a transposed convolution of `count` positions gives.
    pub(super) fn transposed(&self, count: usize, more: usize) -> Result<usize, Error> {
        option(
            "side of an image",
            count as f64,
            count <= MOST,
            format!("in 1..={MOST}"),
        )?;
        let least = self.stride.max(self.dilation);
        let allowed = format!("below {least}, the stride or the dilation");
        option(
            "ConvTranspose2d::output_padding",
            more as f64,
            more < least,
            allowed,
        )?;
        let whole = (count - 1).saturating_mul(self.stride);
        let whole = whole.saturating_add(self.reach()).saturating_add(more);
        let allowed =
            format!("so small that it leaves an output: {whole} values less twice the padding");
        option(
            "Window2d::padding",
            self.padding as f64,
            whole > 2 * self.padding,
            allowed,
        )?;
        Ok(whole - 2 * self.padding)
    }

    /// The entries of the window at a position that lie within a side of the image.
    pub(super) fn inside(&self, position: usize, side: usize) -> Range<usize> {
        let start = position * self.stride;
        let first = self.padding.saturating_sub(start).div_ceil(self.dilation);
        let room = (side + self.padding).saturating_sub(start);
        let last = room.div_ceil(self.dilation).min(self.kernel);
        first.min(last)..last
    }

    /// The values that these entries of the window at a position read.
    pub(super) fn reads(&self, position: usize, side: usize) -> impl Iterator<Item = usize> {
        let Self {
            stride,
            padding,
            dilation,
            ..
        } = *self;
        let inside = self.inside(position, side);
        inside.map(move |entry| position * stride + entry * dilation - padding)
    }

    /// A bound on the number of windows that read the same value, out of `count`.
    pub(super) fn most_readers(&self, count: usize) -> usize {
        // Solutions (p, k) of stride p + dilation k = const are this far from one another.
        let common = gcd(self.stride, self.dilation);
        let (of_entries, of_positions) = (self.stride / common, self.dilation / common);
        let entries = self.kernel.div_ceil(of_entries);
        entries.min(count.div_ceil(of_positions))
    }
}

fn gcd(a: usize, b: usize) -> usize {
    match b {
        0 => a,
        _ => gcd(b, a % b),
    }
}
