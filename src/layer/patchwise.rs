//! One weight matrix applied to every patch of the input: fully connected layers and convolutions.

use rand::Rng;

use super::patch_map::PatchMap;
use super::{
    Activation, Affine, Context, Layer, ParameterGroup, Point, Scratch, Shape, Unfold, Whole,
    check_dimension, described_shape,
};
use crate::description::Description;
use crate::error::Error;
use crate::init::Initializer;
use crate::kernel::{
    Columns, Scalar, Write, WriteColumns, add_to_columns, fill_columns, multiply, multiply_by,
    row_sums, row_sums_of_many,
};

/// Fully connected layer with a fused activation, ẑ = a(W z + b): a [`Patchwise`] layer with a
/// single patch, the whole input.
///
/// The activation is fused because a separate activation layer would get its own auxiliary targets.
///
/// # Examples
/// ```
/// use layerwise::layer::{Activation, Dense};
///
/// let layer = Dense::new(64, 10, Activation::Tanh)?;
/// assert_eq!((layer.input_dim(), layer.output_dim()), (64, 10));
/// let groups = layer.parameters();
/// assert_eq!(groups[0].shape, [10, 64]);
/// assert_eq!(groups[1].range, 640..650);
/// # Ok::<(), layerwise::Error>(())
/// ```
pub type Dense = Patchwise<Whole>;

/// A linear map shared by all patches of the input, with a fused activation: Ẑ = a(W U(z) + b 1ᵀ),
/// where U(z) is the patch_len × positions matrix of an [`Unfold`].
///
/// [`Dense`] layers and convolutions are such layers. For a convolution written outside the crate,
/// it provides parallel columns, activations, derivatives, a curvature bound, initial values, and
/// closed-form W-steps (`examples/conv1d.rs`).
///
/// An example's output is the channels × positions matrix Ẑ, column-major, with the shape
/// `[channels, positions…]`.
///
/// Parameters: W (channels × patch_len, column-major), then b (channels) unless the layer has no
/// bias. Weight decay applies to W, but not to b. Initial values: W from N(0, 1/fan_in), or N(0,
/// 2/fan_in) for ReLU, leaky ReLU, GELU and SiLU, where fan_in is patch_len and fan_out is the
/// number of channels; b is 0.
///
/// It costs channels · patch_len · positions multiply-adds per example and product. Unless the
/// patches are the input itself, they are copied in small blocks that stay in the cache.
#[derive(Debug, Clone, PartialEq)]
pub struct Patchwise<U> {
    pub(super) map: PatchMap<U>,
    activation: Activation,
    weights: Initializer,
    bias: Option<Initializer>,
}

impl Dense {
    /// A fully connected layer with a bias.
    ///
    /// # Errors
    /// [`Error::ZeroDimension`], [`Error::TooLarge`], or [`Error::InvalidOption`] for a leaky ReLU
    /// whose slope is outside 0..=1.
    pub fn new(input_dim: usize, output_dim: usize, activation: Activation) -> Result<Self, Error> {
        check_dimension("the input dimension of a dense layer", input_dim)?;
        check_dimension("the output dimension of a dense layer", output_dim)?;
        Self::whole(Whole::new(input_dim), output_dim, activation)
    }

    fn whole(input: Whole, channels: usize, activation: Activation) -> Result<Self, Error> {
        let map = PatchMap::over(input, channels)?;
        Self::with_map(map, activation)
    }
}

impl Dense {
    /// The dense layer that [`Layer::description`] describes.
    pub(crate) fn dense_described(own: &Description) -> Result<Self, Error> {
        let inputs = described_shape(own, "inputs")?;
        let channels = own.count("channels")?;
        check_dimension("the input dimension of a dense layer", inputs.size())?;
        check_dimension("the output dimension of a dense layer", channels)?;
        let activation = own.text("activation")?.parse()?;
        Self::whole(Whole::new(inputs), channels, activation)?.with_initializers(own)
    }
}

impl<U: Unfold> Patchwise<U> {
    /// A layer with `channels` outputs at every position of `unfold`, and a bias.
    ///
    /// # Errors
    /// [`Error::ZeroDimension`], [`Error::TooLarge`], [`Error::Source`] for a patch entry that
    /// reads outside the input, or [`Error::InvalidOption`] for a leaky ReLU whose slope is outside
    /// 0..=1.
    pub fn over(unfold: U, channels: usize, activation: Activation) -> Result<Self, Error> {
        Self::with_map(PatchMap::over(unfold, channels)?, activation)
    }

    pub(super) fn with_map(map: PatchMap<U>, activation: Activation) -> Result<Self, Error> {
        Ok(Self {
            map,
            activation: activation.validate()?,
            weights: default_weights(activation),
            bias: Some(Initializer::Zeros),
        })
    }

    /// The layer over another map.
    pub(super) fn replaced(self, map: PatchMap<U>) -> Self {
        Self { map, ..self }
    }

    /// Sets the initializer of W.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for an option of the initializer that is out of range.
    pub fn with_weights(mut self, initializer: Initializer) -> Result<Self, Error> {
        self.weights = initializer.validate()?;
        Ok(self)
    }

    /// Sets the initializer of b, which is drawn as a channels × 1 matrix.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for an option of the initializer that is out of range.
    pub fn with_bias(mut self, initializer: Initializer) -> Result<Self, Error> {
        self.bias = Some(initializer.validate()?);
        Ok(self)
    }

    /// Removes the bias: Ẑ = a(W U(z)).
    pub fn without_bias(mut self) -> Self {
        self.bias = None;
        self
    }

    /// The fused activation.
    pub fn activation(&self) -> Activation {
        self.activation
    }

    /// How the input is unfolded into patches.
    ///
    /// With groups ([`Patchwise::with_groups`]), this is the first one's.
    pub fn unfolding(&self) -> &U {
        &self.map.unfold
    }

    // These do not depend on the scalar, so callers that describe or wrap a layer do not need
    // `Layer::<f64>::`.

    /// [`Layer::input_shape`].
    pub fn input_shape(&self) -> Shape {
        self.unfolding().input_shape()
    }

    /// [`Layer::output_shape`]: `[channels, positions…]`.
    pub fn output_shape(&self) -> Shape {
        self.unfolding().positions().behind(self.map.channels)
    }

    /// [`Layer::input_dim`].
    pub fn input_dim(&self) -> usize {
        self.map.inputs
    }

    /// [`Layer::output_dim`]: channels · positions.
    pub fn output_dim(&self) -> usize {
        self.map.channels * self.map.positions
    }

    /// [`Layer::parameters`]: "weights", then "bias" if there is one.
    pub fn parameters(&self) -> Vec<ParameterGroup> {
        let channels = [self.map.channels];
        let patch = self.unfolding().patch_shape();
        let shape = [&channels[..], patch.extents()].concat();
        let weights = ParameterGroup::new("weights", shape).decaying();
        let bias = ParameterGroup::new("bias", channels);
        ParameterGroup::tile([weights].into_iter().chain(self.bias.map(|_| bias)))
    }

    /// [`Layer::scratch`].
    pub fn scratch(&self, batch: usize) -> Scratch {
        let slopes = match self.activation {
            Activation::Identity => 0,
            _ => self.output_dim().saturating_mul(batch),
        };
        let work = slopes.saturating_add(self.map.work(batch));
        Scratch::new(slopes, work).with_bound(self.map.bound())
    }

    /// [`Layer::cost`].
    pub fn cost(&self) -> Option<usize> {
        let bias = self.bias.map_or(0, |_| self.map.channels);
        let parameters = self.map.weights().saturating_add(bias);
        Some(parameters.saturating_mul(self.map.positions))
    }

    /// [`Layer::target_range`]: that of the activation.
    pub fn target_range(&self) -> (f64, f64) {
        self.activation.target_range()
    }

    /// [`Layer::description`]: a `Dense` for a [`Whole`] input, a `Conv2d` for
    /// [`Windows`](super::Windows), otherwise a `Patchwise` with its unfold as a part.
    pub fn description(&self) -> Option<Description> {
        let own = self.unfolding().layer_description()?;
        Some(self.describe(own.with("channels", self.map.channels)))
    }

    /// Adds the activation and the initializers to a description.
    pub(super) fn describe(&self, own: Description) -> Description {
        let own = own
            .with("activation", self.activation.to_string())
            .with("weights", self.weights.description());
        match self.bias {
            Some(bias) => own.with("bias", bias.description()),
            None => own,
        }
    }

    /// The layer over `unfold` with the other settings of a description.
    pub(crate) fn described(unfold: U, own: &Description) -> Result<Self, Error> {
        let activation = own.text("activation")?.parse()?;
        Self::over(unfold, own.count("channels")?, activation)?.with_initializers(own)
    }

    pub(super) fn with_initializers(self, own: &Description) -> Result<Self, Error> {
        let layer = self.with_weights(Initializer::described(own.part("weights")?)?)?;
        match own.get("bias") {
            Some(_) => layer.with_bias(Initializer::described(own.part("bias")?)?),
            None => Ok(layer.without_bias()),
        }
    }

    /// [`Layer::affine`].
    pub fn affine(&self) -> Option<Affine> {
        let weights = self.map.weights();
        let bias = self.bias.map(|_| weights..weights + self.map.channels);
        let affine = Affine::new(0..weights, bias, self.activation, self.map.patch_len);
        Some(match self.map.whole {
            true => affine.with_positions(self.map.positions),
            false => affine
                .unfolding(self.map.positions)
                .with_groups(self.map.groups),
        })
    }

    fn batch<T>(&self, input: &[T]) -> usize {
        input.len() / self.map.inputs
    }
}

/// The initial W: N(0, 2/fan_in) for ReLU and similar activations, otherwise N(0, 1/fan_in).
pub(super) fn default_weights(activation: Activation) -> Initializer {
    match activation {
        Activation::Relu | Activation::LeakyRelu { .. } | Activation::Gelu | Activation::Silu => {
            Initializer::he_normal()
        }
        _ => Initializer::lecun_normal(),
    }
}

/// Number of values that stay in the L1 cache between two passes over them.
const NEAR: usize = 2048;

/// `output ← a(output + bias)` for columns of one value per channel, and `tape ← a′` unless that is 1
/// everywhere.
pub(super) fn finish<T: Scalar>(
    activation: Activation,
    channels: usize,
    bias: &[T],
    output: &mut [T],
    tape: &mut [T],
) {
    // A few columns at a time, so that they are still in the cache for the activation.
    let near = NEAR / channels.min(NEAR) * channels;
    let mut tapes = tape.chunks_mut(near);
    for output in output.chunks_mut(near) {
        if !bias.is_empty() {
            add_to_columns(output, bias);
        }
        // The derivative of the identity needs no tape.
        if activation != Activation::Identity {
            T::activate(activation, output, tapes.next());
        }
    }
}

/// Implements methods of the trait by calling the type's own methods of the same name.
macro_rules! own_methods {
    ($(fn $name:ident(&$self:ident $(, $argument:ident: $type:ty)?) -> $result:ty;)*) => {
        $(fn $name(&$self $(, $argument: $type)?) -> $result {
            $self.$name($($argument)?)
        })*
    };
}

impl<T: Scalar, U: Unfold> Layer<T> for Patchwise<U> {
    own_methods! {
        fn input_shape(&self) -> Shape;
        fn output_shape(&self) -> Shape;
        fn input_dim(&self) -> usize;
        fn output_dim(&self) -> usize;
        fn parameters(&self) -> Vec<ParameterGroup>;
        fn scratch(&self, batch: usize) -> Scratch;
        fn cost(&self) -> Option<usize>;
        fn target_range(&self) -> (f64, f64);
        fn affine(&self) -> Option<Affine>;
        fn description(&self) -> Option<Description>;
    }

    fn initialize(&self, parameters: &mut [T], rng: &mut dyn Rng) {
        let (weights, bias) = parameters.split_at_mut(self.map.weights());
        let (channels, patch_len) = (self.map.channels, self.map.patch_len);
        self.weights.fill(weights, channels, patch_len, rng);
        if let Some(initializer) = self.bias {
            initializer.fill(bias, channels, 1, rng);
        }
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
        let (map, n) = (&self.map, self.batch(input));
        let (weights, bias) = parameters.split_at(map.weights());
        let size = self.output_dim();
        let data = (
            Columns::new(output, size),
            Columns::new(tape.unwrap_or_default(), size),
        );
        map.for_each_block(
            context.execution,
            n,
            data,
            work,
            |range, (output, tape), work| {
                let input = &input[range.start * map.inputs..range.end * map.inputs];
                for block in map.blocks(context.execution, range.len()) {
                    let own = block.of(map.channels);
                    let out = &mut output.values[own.clone()];
                    map.apply(weights, input, &block, Write::Set(&mut *out), work);
                    let tape = tape.values.get_mut(own).unwrap_or_default();
                    finish(self.activation, map.channels, bias, out, tape);
                }
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
        let (map, n) = (&self.map, self.batch(at.input));
        let execution = at.context.execution;
        let size = self.output_dim();
        let (weights, linear) = (map.weights(), self.activation == Activation::Identity);
        // G = cotangent ⊙ a′(pre-activation), in `work` unless a′ is 1 everywhere.
        let (shaped, work) = work.split_at_mut(if linear { 0 } else { size * n });
        let data = (
            Columns::new(&mut *shaped, size),
            WriteColumns::new(d_input, map.inputs),
        );
        map.for_each_block(
            execution,
            n,
            data,
            work,
            |range, (shaped, d_input), work| {
                let own = range.start * size..range.end * size;
                let g = if linear {
                    &cotangent[own]
                } else {
                    multiply(shaped.values, &cotangent[own.clone()], &at.tape[own]);
                    shaped.values
                };
                if !d_input.write.is_skip() {
                    map.adjoint(at.parameters, g, range.len(), d_input.write, work);
                }
            },
        );
        if d_parameters.is_skip() {
            return;
        }
        let g = if linear { cotangent } else { shaped };
        map.outer(execution, g, at.input, d_parameters.part(0..weights), work);
        if self.bias.is_some() {
            let sums = d_parameters.part(weights..weights + map.channels);
            match map.positions {
                1 => row_sums(sums, g),
                _ => row_sums_of_many(sums, g),
            }
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
        let (map, n) = (&self.map, self.batch(at.input));
        let size = self.output_dim();
        let data = Columns::new(tangent, size);
        let bias = v_parameters.map_or(&[][..], |v| &v[map.weights()..]);
        let execution = at.context.execution;
        map.for_each_block(execution, n, data, work, |range, tangent, work| {
            let own = range.start * map.inputs..range.end * map.inputs;
            for block in map.blocks(execution, range.len()) {
                let out = &mut tangent.values[block.of(map.channels)];
                let mut filled = !bias.is_empty();
                if filled {
                    fill_columns(out, bias);
                }
                let of_weights = v_parameters.map(|v| (v, at.input));
                let of_input = v_input.map(|v| (at.parameters, v));
                for (weights, z) in [of_weights, of_input].into_iter().flatten() {
                    let write = match filled {
                        true => Write::Add(&mut *out),
                        false => Write::Set(&mut *out),
                    };
                    map.apply(weights, &z[own.clone()], &block, write, work);
                    filled = true;
                }
                if !filled {
                    out.fill(T::zero());
                }
            }
            if self.activation != Activation::Identity {
                multiply_by(
                    tangent.values,
                    &at.tape[range.start * size..range.end * size],
                );
            }
        });
    }

    /// sup |a′|² · ‖W‖² · ‖U‖², with a bound on ‖W‖² that is too large by a factor of at most
    /// (side)^⅛, where W or one of its groups has `side` rows or columns, whichever are fewer.
    fn curvature_bound(&self, parameters: &[T], work: &mut [T]) -> Option<T> {
        let slope = T::of(self.activation.lipschitz());
        Some(self.map.curvature_bound(parameters, work) * slope * slope)
    }

    fn unfold(&self, input: &[T], patches: &mut [T]) {
        let map = &self.map;
        if map.whole {
            return patches.copy_from_slice(input);
        }
        let size = map.patch_len * map.positions;
        let of_group = size * self.batch(input);
        map.for_each_group(|g, unfold| {
            let own = &mut patches[g * of_group..(g + 1) * of_group];
            let examples = input.chunks_exact(map.inputs);
            for (z, patches) in examples.zip(own.chunks_exact_mut(size)) {
                unfold.unfold(z, 0..map.patch_len, 0..map.positions, patches);
            }
        });
    }
}
