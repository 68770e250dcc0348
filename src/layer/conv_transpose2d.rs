//! Transposed two-dimensional convolutions, for decoders.

use rand::Rng;

use super::conv2d::{check_groups, described_image, map};
use super::patch_map::PatchMap;
use super::patchwise::{default_weights, finish};
use super::windows::check_image;
use super::{
    Activation, Affine, Context, Layer, ParameterGroup, Point, Scratch, Shape, Size2d, Unfold,
    WeightOrder, Window2d, Windows, check_dimension,
};
use crate::description::Description;
use crate::error::Error;
use crate::init::Initializer;
use crate::kernel::{
    Columns, Scalar, Write, WriteColumns, add_to_columns, multiply, multiply_by, row_sums_of_many,
};

/// Transposed two-dimensional convolution with a fused activation (PyTorch's `ConvTranspose2d`).
///
/// Its linear part is the adjoint of a [`Conv2d`](super::Conv2d) that maps its output to its input: every
/// value of the input adds a window of weights to the output,
///
/// ẑ\[m, s_y p + d_y i − π_y, s_x q + d_x j − π_x] += W\[c, m, i, j] · z\[c, p, q],
///
/// with stride s, dilation d and padding π of the [`Window2d`]; terms outside the output are
/// dropped. Then it adds b\[m] and applies the activation. Along each axis, an input of size n gives an
/// output of size (n − 1) stride − 2 padding + dilation (kernel − 1) + 1 + output padding. The
/// [output padding](Self::with_output_padding) (0 unless it is set) chooses among the sizes that a
/// convolution with this stride maps to n; values that no window reaches are a(b).
///
/// Input and output have the shape `[channels, height, width]`, with the first index fastest.
///
/// Parameters: W of shape `[channels, out_channels / groups, kernel height, kernel width]`, with the
/// first index fastest, then b (out_channels) unless the layer has none. Weight decay applies to W, but
/// not to b. Initial values: W from N(0, 1/fan_in), or N(0, 2/fan_in) for ReLU, leaky ReLU, GELU and
/// SiLU, where fan_in is channels / groups times the mean number of windows that reach a value of the
/// output (kernel / stride along each axis, but at least 1), and fan_out is out_channels / groups ·
/// kernel height · kernel width; b is 0.
///
/// Closed-form W-steps apply: the patch of an output position holds the inputs whose windows cover it.
///
/// It costs channels · out_channels / groups · kernel height · kernel width multiply-adds per input
/// pixel, in each product. The bound on ‖∂f/∂z‖² is that of the convolution.
///
/// # From PyTorch
/// Reverse the order of the axes in memory, as for [`Conv2d`](super::Conv2d):
/// `weight.permute(3, 2, 1, 0).reshape(-1)` is W.
///
/// # Examples
/// ```
/// use layerwise::Layer;
/// use layerwise::layer::{Activation, ConvTranspose2d, Window2d};
///
/// // Doubles the height and width.
/// let window = Window2d::new(4).with_stride(2).with_padding(1);
/// let layer = ConvTranspose2d::new([16, 7, 7], 8, window, Activation::Relu)?;
/// assert_eq!(Layer::<f32>::output_shape(&layer).extents(), [8, 14, 14]);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ConvTranspose2d {
    input: [usize; 3],
    window: Window2d,
    output_padding: Size2d,
    /// The convolution from the output to the input.
    map: PatchMap<Windows>,
    activation: Activation,
    weights: Initializer,
    bias: Option<Initializer>,
}

impl ConvTranspose2d {
    /// A transposed convolution of an image `[channels, height, width]`, with a bias.
    ///
    /// # Errors
    /// [`Error::ZeroDimension`], [`Error::TooLarge`], or [`Error::InvalidOption`] for a padding that
    /// leaves no output, a stride or dilation of 0, or a leaky ReLU whose slope is outside 0..=1.
    pub fn new(
        input: [usize; 3],
        out_channels: usize,
        window: impl Into<Window2d>,
        activation: Activation,
    ) -> Result<Self, Error> {
        check_image(input)?;
        check_dimension("the number of channels of a convolution", out_channels)?;
        let (window, output_padding) = (window.into().or_stride(1.into()), 0.into());
        Ok(Self {
            input,
            window,
            output_padding,
            map: adjoint_of(input, out_channels, window, output_padding, 1)?,
            activation: activation.validate()?,
            weights: default_weights(activation),
            bias: Some(Initializer::Zeros),
        })
    }

    /// Adds rows at the bottom of the output and columns at its right edge.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless both are smaller than the stride or the dilation.
    pub fn with_output_padding(self, padding: impl Into<Size2d>) -> Result<Self, Error> {
        let (output_padding, groups) = (padding.into(), self.map.groups);
        let out = self.out_channels();
        let map = adjoint_of(self.input, out, self.window, output_padding, groups)?;
        Ok(Self {
            output_padding,
            map,
            ..self
        })
    }

    /// Divides the channels into this many groups: each group of input channels gives one group of
    /// output channels.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a number that does not divide both numbers of channels.
    pub fn with_groups(self, groups: usize) -> Result<Self, Error> {
        let out = self.out_channels();
        check_groups("ConvTranspose2d::groups", groups, [self.input[0], out])?;
        let map = adjoint_of(self.input, out, self.window, self.output_padding, groups)?;
        Ok(Self { map, ..self })
    }

    /// Sets the initializer of W.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for an option of the initializer that is out of range.
    pub fn with_weights(self, initializer: Initializer) -> Result<Self, Error> {
        let weights = initializer.validate()?;
        Ok(Self { weights, ..self })
    }

    /// Sets the initializer of b, which is drawn as an out_channels × 1 matrix.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for an option of the initializer that is out of range.
    pub fn with_bias(self, initializer: Initializer) -> Result<Self, Error> {
        let bias = Some(initializer.validate()?);
        Ok(Self { bias, ..self })
    }

    /// Removes the bias.
    pub fn without_bias(self) -> Self {
        Self { bias: None, ..self }
    }

    /// The fused activation.
    pub fn activation(&self) -> Activation {
        self.activation
    }

    /// The transposed convolution that [`Layer::description`] describes.
    pub(crate) fn described(own: &Description) -> Result<Self, Error> {
        let (input, window) = (described_image(own, "input")?, Window2d::described(own)?);
        let activation = own.text("activation")?.parse()?;
        let padding = match own.counts("output padding")?[..] {
            [height, width] => Size2d { height, width },
            _ => return Err(own.refuse("output padding", "a height and a width")),
        };
        let layer = Self::new(input, own.count("channels")?, window, activation)?
            .with_output_padding(padding)?
            .with_groups(own.count("groups")?)?
            .with_weights(Initializer::described(own.part("weights")?)?)?;
        match own.get("bias") {
            Some(_) => layer.with_bias(Initializer::described(own.part("bias")?)?),
            None => Ok(layer.without_bias()),
        }
    }

    /// The shape of the output.
    fn output(&self) -> [usize; 3] {
        self.map.unfold.image()
    }

    fn out_channels(&self) -> usize {
        self.output()[0]
    }

    fn output_dim(&self) -> usize {
        self.map.inputs
    }

    fn input_dim(&self) -> usize {
        self.map.channels * self.map.positions
    }

    fn is_linear(&self) -> bool {
        self.activation == Activation::Identity
    }
}

/// The convolution from the output to the input.
fn adjoint_of(
    input: [usize; 3],
    out_channels: usize,
    window: Window2d,
    output_padding: Size2d,
    groups: usize,
) -> Result<PatchMap<Windows>, Error> {
    let [channels, height, width] = input;
    let [y, x] = window.axes()?;
    let output = [
        out_channels,
        y.transposed(height, output_padding.height)?,
        x.transposed(width, output_padding.width)?,
    ];
    let windows = Windows::with_counts(output, window, [height, width])?;
    map(windows.first_of(groups), groups, channels)
}

impl<T: Scalar> Layer<T> for ConvTranspose2d {
    fn input_shape(&self) -> Shape {
        self.input.into()
    }

    fn output_shape(&self) -> Shape {
        self.output().into()
    }

    fn parameters(&self) -> Vec<ParameterGroup> {
        let Size2d { height, width } = self.window.kernel();
        let [channels, out] = [self.input[0], self.out_channels()];
        let shape = [channels, out / self.map.groups, height, width];
        let weights = ParameterGroup::new("weights", shape).decaying();
        let bias = ParameterGroup::new("bias", [out]);
        ParameterGroup::tile([weights].into_iter().chain(self.bias.map(|_| bias)))
    }

    fn initialize(&self, parameters: &mut [T], rng: &mut dyn Rng) {
        let (weights, bias) = parameters.split_at_mut(self.map.weights());
        let (channels, patch_len) = (self.map.channels, self.map.patch_len);
        let fan_in = (channels / self.map.groups) as f64 * self.window.overlap();
        let fans = (fan_in, patch_len as f64);
        self.weights
            .fill_with_fans(weights, (channels, patch_len), fans, rng);
        if let Some(initializer) = self.bias {
            initializer.fill(bias, self.out_channels(), 1, rng);
        }
    }

    fn scratch(&self, batch: usize) -> Scratch {
        let slopes = match self.is_linear() {
            true => 0,
            false => self.output_dim().saturating_mul(batch),
        };
        let work = slopes.saturating_add(self.map.work(batch));
        Scratch::new(slopes, work).with_bound(self.map.bound())
    }

    fn cost(&self) -> Option<usize> {
        let bias = self.bias.map_or(0, |_| self.output_dim());
        Some(self.map.cost().saturating_add(bias))
    }

    fn forward(
        &self,
        context: &Context<'_>,
        parameters: &[T],
        input: &[T],
        output: &mut [T],
        tape: Option<&mut [T]>,
        work: &mut [T],
    ) {
        let (map, dim) = (&self.map, self.input_dim());
        let n = input.len() / dim;
        let (weights, bias) = parameters.split_at(map.weights());
        let data = (
            Columns::new(output, map.inputs),
            Columns::new(tape.unwrap_or_default(), map.inputs),
        );
        map.for_each_block(
            context.execution,
            n,
            data,
            work,
            |range, (output, tape), work| {
                let z = &input[range.start * dim..range.end * dim];
                let out = Write::Set(&mut *output.values);
                map.adjoint(weights, z, range.len(), out, work);
                let channels = self.out_channels();
                finish(self.activation, channels, bias, output.values, tape.values);
            },
        );
    }

    fn vjp(
        &self,
        at: &Point<'_, T>,
        cotangent: &[T],
        d_input: Write<'_, T>,
        mut d_parameters: Write<'_, T>,
        work: &mut [T],
    ) {
        if d_input.is_skip() && d_parameters.is_skip() {
            return;
        }
        let (map, dim, size) = (&self.map, self.input_dim(), self.output_dim());
        let n = at.input.len() / dim;
        let (weights, linear) = (map.weights(), self.is_linear());
        let execution = at.context.execution;
        // G = cotangent ⊙ a′, in `work` unless a′ is 1 everywhere.
        let (shaped, work) = work.split_at_mut(if linear { 0 } else { size * n });
        let data = (
            Columns::new(&mut *shaped, size),
            WriteColumns::new(d_input, dim),
        );
        map.for_each_block(
            execution,
            n,
            data,
            work,
            |range, (shaped, mut d_input), work| {
                let own = range.start * size..range.end * size;
                let g = if linear {
                    &cotangent[own]
                } else {
                    multiply(shaped.values, &cotangent[own.clone()], &at.tape[own]);
                    shaped.values
                };
                if d_input.write.is_skip() {
                    return;
                }
                for block in map.blocks(execution, range.len()) {
                    let write = d_input.write.part(block.of(map.channels));
                    map.apply(at.parameters, g, &block, write, work);
                }
            },
        );
        if d_parameters.is_skip() {
            return;
        }
        let g = if linear { cotangent } else { shaped };
        map.outer(execution, at.input, g, d_parameters.part(0..weights), work);
        if self.bias.is_some() {
            row_sums_of_many(d_parameters.part(weights..weights + self.out_channels()), g);
        }
    }

    fn jvp(
        &self,
        at: &Point<'_, T>,
        v_input: Option<&[T]>,
        v_parameters: Option<&[T]>,
        tangent: &mut [T],
        work: &mut [T],
    ) {
        let (map, dim, size) = (&self.map, self.input_dim(), self.output_dim());
        let n = at.input.len() / dim;
        let data = Columns::new(tangent, size);
        map.for_each_block(
            at.context.execution,
            n,
            data,
            work,
            |range, tangent, work| {
                let own = range.start * dim..range.end * dim;
                let tangent = tangent.values;
                tangent.fill(T::zero());
                let of_weights = v_parameters.map(|v| (v, at.input));
                let of_input = v_input.map(|v| (at.parameters, v));
                for (weights, z) in [of_weights, of_input].into_iter().flatten() {
                    let add = Write::Add(&mut *tangent);
                    map.adjoint(weights, &z[own.clone()], range.len(), add, work);
                }
                if let Some(v) = v_parameters.filter(|_| self.bias.is_some()) {
                    add_to_columns(tangent, &v[map.weights()..]);
                }
                if !self.is_linear() {
                    multiply_by(tangent, &at.tape[range.start * size..range.end * size]);
                }
            },
        );
    }

    /// sup |a′|² · ‖W‖² · ‖U‖², as for a convolution.
    fn curvature_bound(&self, parameters: &[T], work: &mut [T]) -> Option<T> {
        let slope = T::of(self.activation.lipschitz());
        Some(self.map.curvature_bound(parameters, work) * slope * slope)
    }

    fn target_range(&self) -> (f64, f64) {
        self.activation.target_range()
    }

    fn affine(&self) -> Option<Affine> {
        let (weights, out) = (self.map.weights(), self.out_channels());
        let bias = self.bias.map(|_| weights..weights + out);
        let Size2d { height, width } = self.window.kernel();
        let patch_len = self.map.channels / self.map.groups * height * width;
        let affine = Affine::new(0..weights, bias, self.activation, patch_len);
        let inputs = self.map.channels;
        let affine = affine
            .unfolding(self.output_dim() / out)
            .with_groups(self.map.groups);
        Some(affine.with_order(WeightOrder::Places { inputs }))
    }

    /// For each entry of the kernel, the patch of an output position holds the inputs that reach the position
    /// through it, or zeros if there are none.
    fn unfold(&self, input: &[T], patches: &mut [T]) {
        let (map, out, dim) = (&self.map, self.out_channels(), self.input_dim());
        let (n, windows) = (input.len() / dim, &map.unfold);
        let (own, places) = (map.channels / map.groups, map.patch_len * map.groups / out);
        let (patch_len, positions) = (own * places, self.output_dim() / out);
        patches.fill(T::zero());
        for (place, position) in
            (0..places).flat_map(|place| (0..map.positions).map(move |at| (place, at)))
        {
            let Some(reached) = windows.source(place * (out / map.groups), position) else {
                continue;
            };
            for (i, z) in input.chunks_exact(dim).enumerate() {
                let z = &z[position * map.channels..][..map.channels];
                for (group, z) in z.chunks_exact(own).enumerate() {
                    let column = (group * n + i) * positions + reached / out;
                    let start = column * patch_len + place * own;
                    patches[start..start + own].copy_from_slice(z);
                }
            }
        }
    }

    fn description(&self) -> Option<Description> {
        let Size2d { height, width } = self.output_padding;
        let own = Description::new("ConvTranspose2d")
            .with("input", &self.input[..])
            .with("channels", self.out_channels())
            .with("groups", self.map.groups)
            .with("output padding", &[height, width][..])
            .with("activation", self.activation.to_string())
            .with("weights", self.weights.description());
        let own = self.window.describe(own);
        Some(match self.bias {
            Some(bias) => own.with("bias", bias.description()),
            None => own,
        })
    }
}
