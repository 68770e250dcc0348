//! Two-dimensional convolutions.

use super::patch_map::PatchMap;
use super::{Activation, Patchwise, Window2d, Windows, check_dimension};
use crate::check::option;
use crate::description::Description;
use crate::error::Error;

/// Two-dimensional convolution with a fused activation (a cross-correlation, as in PyTorch's
/// `Conv2d`): a [`Patchwise`] layer over the windows of an image.
///
/// ẑ\[m, p, q] = a(b\[m] + Σ_{c,i,j} W\[m, c, i, j] · z\[c, s_y p + d_y i − π_y, s_x q + d_x j − π_x])
///
/// with stride s, dilation d and padding π of the [`Window2d`]; z is 0 outside the image.
///
/// The input has the shape `[channels, height, width]`, with the first index fastest: value (c, y, x) is
/// entry c + C (y + H x) of the example's column. The output has the shape `[out_channels, p, q]`.
/// [`Window2d`] says how many positions there are.
///
/// Parameters: W of shape `[out_channels, channels / groups, kernel height, kernel width]`, with the
/// first index fastest, then b (out_channels) unless the layer has none. With
/// [groups](Patchwise::with_groups), output channel m sees only the input channels of its group.
/// Weight decay, initial values, bound and cost are those of [`Patchwise`]; fan_in is
/// channels / groups · kernel height · kernel width. Closed-form W-steps apply as for a dense layer,
/// group by group.
///
/// # From PyTorch
/// PyTorch stores an image as \[C]\[H]\[W] and weights as \[M]\[C/g]\[kh]\[kw], the last index fastest.
/// Reverse the order of the axes in memory: `image.permute(2, 1, 0).reshape(-1)` is an example's
/// column, and `weight.permute(3, 2, 1, 0).reshape(-1)` is W.
///
/// # Examples
/// ```
/// use layerwise::layer::{Activation, Conv2d, Window2d};
///
/// // The first layer of LeNet: 6 channels from 28 x 28 pixels.
/// let window = Window2d::new(5).with_padding(2);
/// let layer = Conv2d::new([1, 28, 28], 6, window, Activation::Tanh)?;
/// assert_eq!(layer.output_shape().extents(), [6, 28, 28]);
/// assert_eq!(layer.parameters()[0].shape, [6, 1, 5, 5]);
/// # Ok::<(), layerwise::Error>(())
/// ```
pub type Conv2d = Patchwise<Windows>;

impl Conv2d {
    /// A convolution of an image `[channels, height, width]`, with a bias.
    ///
    /// # Errors
    /// [`Error::ZeroDimension`], [`Error::TooLarge`], or [`Error::InvalidOption`] for a window that
    /// is larger than the padded image, a stride or dilation of 0, or a leaky ReLU whose slope is
    /// outside 0..=1.
    pub fn new(
        input: [usize; 3],
        out_channels: usize,
        window: impl Into<Window2d>,
        activation: Activation,
    ) -> Result<Self, Error> {
        check_dimension("the number of channels of a convolution", out_channels)?;
        let windows = Windows::new(input, window.into().or_stride(1.into()))?;
        Self::with_map(map(windows, 1, out_channels)?, activation)
    }

    /// Divides the channels into this many groups: each group of output channels sees one group of
    /// input channels. With as many groups as input channels, this is a depthwise convolution.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a number that does not divide both numbers of channels.
    pub fn with_groups(self, groups: usize) -> Result<Self, Error> {
        let windows = &self.map.unfold;
        check_groups(
            "Conv2d::groups",
            groups,
            [windows.image()[0], self.map.channels],
        )?;
        let map = map(windows.first_of(groups), groups, self.map.channels)?;
        Ok(self.replaced(map))
    }

    /// The convolution that [`Layer::description`](super::Layer::description) describes.
    pub(crate) fn conv2d_described(own: &Description) -> Result<Self, Error> {
        let (input, window) = (described_image(own, "input")?, Window2d::described(own)?);
        let activation = own.text("activation")?.parse()?;
        let layer = Self::new(input, own.count("channels")?, window, activation)?;
        layer
            .with_groups(own.count("groups")?)?
            .with_initializers(own)
    }
}

/// The shape of an image in a description.
pub(super) fn described_image(own: &Description, name: &str) -> Result<[usize; 3], Error> {
    let extents = own.counts(name)?;
    let refuse = |_| own.refuse(name, "channels, a height and a width");
    extents.try_into().map_err(refuse)
}

/// Checks that the number of groups divides both numbers of channels.
pub(super) fn check_groups(
    name: &'static str,
    groups: usize,
    channels: [usize; 2],
) -> Result<(), Error> {
    let divides = channels.iter().all(|c| c.is_multiple_of(groups)) && groups > 0;
    let [a, b] = channels;
    let allowed = format!("a divisor of both the {a} input and the {b} output channels");
    option(name, groups as f64, divides, allowed)?;
    Ok(())
}

/// The map of this many groups, whose channels are disjoint; `windows` are those of the first.
pub(super) fn map(
    windows: Windows,
    groups: usize,
    channels: usize,
) -> Result<PatchMap<Windows>, Error> {
    let (readers, whole) = (windows.most_readers(), windows.is_whole());
    PatchMap::with_counts(windows, groups, channels, readers, whole)
}
