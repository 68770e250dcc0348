//! One weight matrix applied to every patch of the input: fully connected layers and convolutions.

use std::ops::Range;

use rand::Rng;

use super::{
    Activation, Affine, Context, Layer, ParameterGroup, Point, Scratch, Shape, Unfold, Whole,
    check_dimension, described_shape,
};
use crate::check::room;
use crate::description::Description;
use crate::error::Error;
use crate::init::Initializer;
use crate::kernel::{
    Columns, Execution, Matrix, Scalar, Write, WriteColumns, add_to_columns, dot, fill_columns,
    multiply, multiply_by, row_sums, scale, smallest,
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
/// patches are the input itself, they need patch_len · positions values of work memory per example.
#[derive(Debug, Clone, PartialEq)]
pub struct Patchwise<U> {
    unfold: U,
    channels: usize,
    activation: Activation,
    weights: Initializer,
    bias: Option<Initializer>,
    inputs: usize,
    patch_len: usize,
    positions: usize,
    /// The largest number of patch entries that read the same entry of the input: ‖U‖².
    multiplicity: usize,
    /// Whether the patches are the input itself, so that nothing is copied.
    whole: bool,
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
        Self::with_counts(Whole::new(input_dim), output_dim, activation, (1, true))
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
        Self::with_counts(Whole::new(inputs), channels, activation, (1, true))?
            .with_initializers(own)
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
        let (inputs, patch_len) = (unfold.input_shape().size(), unfold.patch_len());
        let positions = unfold.positions().size();
        check_dimension("the input of a patchwise layer", inputs)?;
        check_dimension("the patch of a patchwise layer", patch_len)?;
        check_dimension("the number of positions of a patchwise layer", positions)?;
        check_dimension("the number of channels of a patchwise layer", channels)?;
        let too_large = |what, rows, columns| Error::TooLarge {
            what,
            rows,
            columns,
        };
        let patches = patch_len.checked_mul(positions);
        let outputs = channels.checked_mul(positions);
        if patches.zip(outputs).is_none_or(|(a, b)| a.max(b) > MOST) {
            let rows = patch_len.max(channels);
            return Err(too_large("the patches of an example", rows, positions));
        }
        let mut readers = room("an input", inputs, 1)?;
        readers.resize(inputs, 0_usize);
        let mut whole = patches == Some(inputs);
        for position in 0..positions {
            for entry in 0..patch_len {
                let source = unfold.source(entry, position);
                whole = whole && source == Some(entry + patch_len * position);
                let Some(source) = source else { continue };
                *readers.get_mut(source).ok_or(Error::Source {
                    entry,
                    position,
                    source_entry: source,
                    inputs,
                })? += 1;
            }
        }
        let multiplicity = readers.into_iter().max().unwrap_or(0);
        Self::with_counts(unfold, channels, activation, (multiplicity, whole))
    }

    fn with_counts(
        unfold: U,
        channels: usize,
        activation: Activation,
        (multiplicity, whole): (usize, bool),
    ) -> Result<Self, Error> {
        let patch_len = unfold.patch_len();
        let size = patch_len
            .checked_add(1)
            .and_then(|columns| columns.checked_mul(channels));
        if size.is_none_or(|size| size > MOST) {
            return Err(Error::TooLarge {
                what: "the weights of a dense layer",
                rows: channels,
                columns: patch_len,
            });
        }
        let weights = match activation {
            Activation::Relu
            | Activation::LeakyRelu { .. }
            | Activation::Gelu
            | Activation::Silu => Initializer::he_normal(),
            _ => Initializer::lecun_normal(),
        };
        Ok(Self {
            inputs: unfold.input_shape().size(),
            patch_len,
            positions: unfold.positions().size(),
            unfold,
            channels,
            activation: activation.validate()?,
            weights,
            bias: Some(Initializer::Zeros),
            multiplicity,
            whole,
        })
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
    pub fn unfolding(&self) -> &U {
        &self.unfold
    }

    // These do not depend on the scalar, so callers that describe or wrap a layer do not need
    // `Layer::<f64>::`.

    /// [`Layer::input_shape`].
    pub fn input_shape(&self) -> Shape {
        self.unfold.input_shape()
    }

    /// [`Layer::output_shape`]: `[channels, positions…]`.
    pub fn output_shape(&self) -> Shape {
        self.unfold.positions().behind(self.channels)
    }

    /// [`Layer::input_dim`].
    pub fn input_dim(&self) -> usize {
        self.inputs
    }

    /// [`Layer::output_dim`]: channels · positions.
    pub fn output_dim(&self) -> usize {
        self.channels * self.positions
    }

    /// [`Layer::parameters`]: "weights", then "bias" if there is one.
    pub fn parameters(&self) -> Vec<ParameterGroup> {
        let weights = ParameterGroup::new("weights", [self.channels, self.patch_len]).decaying();
        let bias = ParameterGroup::new("bias", [self.channels]);
        ParameterGroup::tile([weights].into_iter().chain(self.bias.map(|_| bias)))
    }

    /// [`Layer::scratch`].
    pub fn scratch(&self, batch: usize) -> Scratch {
        let slopes = match self.activation {
            Activation::Identity => 0,
            _ => self.output_dim().saturating_mul(batch),
        };
        let patches = self.patches_len().saturating_mul(batch);
        let side = self.channels.min(self.patch_len);
        Scratch::new(slopes, slopes.saturating_add(patches))
            .with_bound(side.saturating_mul(side).saturating_mul(2))
    }

    /// [`Layer::cost`].
    pub fn cost(&self) -> Option<usize> {
        let bias = self.bias.map_or(0, |_| self.channels);
        let parameters = self.weight_count().saturating_add(bias);
        Some(parameters.saturating_mul(self.positions))
    }

    /// [`Layer::target_range`]: that of the activation.
    pub fn target_range(&self) -> (f64, f64) {
        self.activation.target_range()
    }

    /// [`Layer::description`]: a `Dense` for a [`Whole`] input, otherwise a `Patchwise` with its
    /// unfold as a part.
    pub fn description(&self) -> Option<Description> {
        let unfold = self.unfold.description()?;
        let own = match (self.unfold.is_whole(), unfold.get("inputs")) {
            (true, Some(inputs)) => Description::new("Dense").with("inputs", inputs.clone()),
            _ => Description::new("Patchwise").with("unfold", unfold),
        };
        let own = own
            .with("channels", self.channels)
            .with("activation", self.activation.to_string())
            .with("weights", self.weights.description());
        Some(match self.bias {
            Some(bias) => own.with("bias", bias.description()),
            None => own,
        })
    }

    /// The layer over `unfold` with the other settings of a description.
    pub(crate) fn described(unfold: U, own: &Description) -> Result<Self, Error> {
        let activation = own.text("activation")?.parse()?;
        Self::over(unfold, own.count("channels")?, activation)?.with_initializers(own)
    }

    fn with_initializers(self, own: &Description) -> Result<Self, Error> {
        let layer = self.with_weights(Initializer::described(own.part("weights")?)?)?;
        match own.get("bias") {
            Some(_) => layer.with_bias(Initializer::described(own.part("bias")?)?),
            None => Ok(layer.without_bias()),
        }
    }

    /// [`Layer::affine`].
    pub fn affine(&self) -> Option<Affine> {
        let weights = self.weight_count();
        let bias = self.bias.map(|_| weights..weights + self.channels);
        let affine = Affine::new(0..weights, bias, self.activation, self.patch_len);
        Some(match self.whole {
            true => affine.with_positions(self.positions),
            false => affine.unfolding(self.positions),
        })
    }

    fn weight_count(&self) -> usize {
        self.patch_len * self.channels
    }

    /// Number of values copied into one example's patches; 0 if the patches are the input itself.
    fn patches_len(&self) -> usize {
        if self.whole {
            0
        } else {
            self.patch_len * self.positions
        }
    }

    fn batch<T>(&self, input: &[T]) -> usize {
        input.len() / self.inputs
    }

    fn matrix<'a, T>(&self, parameters: &'a [T]) -> Matrix<'a, T> {
        let weights = &parameters[..self.weight_count()];
        Matrix::new(weights, self.channels, self.patch_len)
    }

    /// U(z) for the examples `range`, patch_len × (positions · examples): a part of `input`, or a
    /// copy in `patches`.
    fn patches<'a, T: Scalar>(
        &self,
        input: &'a [T],
        range: Range<usize>,
        patches: &'a mut [T],
    ) -> Matrix<'a, T> {
        let columns = self.positions * range.len();
        let own = &input[range.start * self.inputs..range.end * self.inputs];
        if self.whole {
            return Matrix::new(own, self.patch_len, columns);
        }
        let examples = own.chunks_exact(self.inputs);
        for (z, patches) in examples.zip(patches.chunks_exact_mut(self.patches_len())) {
            self.unfold.unfold(z, patches);
        }
        Matrix::new(patches, self.patch_len, columns)
    }
}

/// The largest number of values of a matrix.
pub(super) const MOST: usize = isize::MAX as usize / 16;

/// Number of values that stay in the L1 cache between two passes over them.
const NEAR: usize = 2048;

/// `out` ← G Zᵀ, the sum of the outer products of the columns of G and Z, in parallel.
pub(super) fn sum_outer_products<T: Scalar>(
    execution: Execution,
    out: Write<'_, T>,
    g: Matrix<'_, T>,
    z: Matrix<'_, T>,
) {
    // The columns of G Zᵀ are rows of Z, not examples.
    let cost = g.rows() * g.columns();
    let data = WriteColumns::new(out, g.rows());
    execution.for_each_block(z.rows(), cost, data, |range, part| {
        T::matmul(part.write, g, z.t().column_range(range));
    });
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
        let (weights, bias) = parameters.split_at_mut(self.weight_count());
        self.weights
            .fill(weights, self.channels, self.patch_len, rng);
        if let Some(initializer) = self.bias {
            initializer.fill(bias, self.channels, 1, rng);
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
        let n = self.batch(input);
        let (weights, bias) = parameters.split_at(self.weight_count());
        let w = self.matrix(weights);
        let has_bias = self.bias.is_some();
        let (size, copied) = (self.output_dim(), self.patches_len());
        let data = (
            Columns::new(output, size),
            Columns::new(tape.unwrap_or_default(), size),
            Columns::new(&mut work[..copied * n], copied),
        );
        let cost = self.weight_count() * self.positions;
        let execution = context.execution;
        execution.for_each_block(n, cost, data, |range, (output, tape, patches)| {
            let patches = self.patches(input, range, patches.values);
            T::matmul(Write::Set(&mut *output.values), w, patches);
            // A few columns at a time, so that they are still in the cache for the activation.
            let near = NEAR / self.channels.min(NEAR) * self.channels;
            let mut tapes = tape.values.chunks_mut(near);
            for output in output.values.chunks_mut(near) {
                if has_bias {
                    add_to_columns(output, bias);
                }
                // The derivative of the identity needs no tape.
                if self.activation != Activation::Identity {
                    T::activate(self.activation, output, tapes.next());
                }
            }
        });
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
        let n = self.batch(at.input);
        let execution = at.context.execution;
        let (size, copied) = (self.output_dim(), self.patches_len());
        let (w, weights) = (self.matrix(at.parameters), self.weight_count());
        let linear = self.activation == Activation::Identity;
        // G = cotangent ⊙ a′(pre-activation), in `work` unless a′ is 1 everywhere, and Uᵀ(Wᵀ G).
        let (shaped, work) = work.split_at_mut(if linear { 0 } else { size * n });
        let patches = &mut work[..copied * n];
        let data = (
            Columns::new(&mut *shaped, size),
            WriteColumns::new(d_input, self.inputs),
            Columns::new(&mut *patches, copied),
        );
        let cost = weights * self.positions;
        execution.for_each_block(n, cost, data, |range, (shaped, mut d_input, patches)| {
            let own = range.start * size..range.end * size;
            let g = if linear {
                &cotangent[own]
            } else {
                multiply(shaped.values, &cotangent[own.clone()], &at.tape[own]);
                shaped.values
            };
            let g = Matrix::new(g, self.channels, self.positions * range.len());
            if self.whole || d_input.write.is_skip() {
                return T::matmul(d_input.write, w.t(), g);
            }
            T::matmul(Write::Set(&mut *patches.values), w.t(), g);
            for (i, patches) in patches.values.chunks_exact(copied).enumerate() {
                let own = i * self.inputs..(i + 1) * self.inputs;
                self.unfold.fold(patches, d_input.write.part(own));
            }
        });
        if d_parameters.is_skip() {
            return;
        }
        let g = if linear { cotangent } else { shaped };
        if !self.whole {
            let data = Columns::new(&mut *patches, copied);
            execution.for_each_block(n, copied, data, |range, patches| {
                self.patches(at.input, range, patches.values);
            });
        }
        let z = if self.whole { at.input } else { patches };
        let columns = self.positions * n;
        let z = Matrix::new(z, self.patch_len, columns);
        let g_matrix = Matrix::new(g, self.channels, columns);
        sum_outer_products(execution, d_parameters.part(0..weights), g_matrix, z);
        if self.bias.is_some() {
            row_sums(d_parameters.part(weights..weights + self.channels), g);
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
        let n = self.batch(at.input);
        let (size, copied) = (self.output_dim(), self.patches_len());
        let linear = self.activation == Activation::Identity;
        let data = (
            Columns::new(tangent, size),
            Columns::new(&mut work[..copied * n], copied),
        );
        let cost = self.weight_count() * self.positions;
        let execution = at.context.execution;
        execution.for_each_block(n, cost, data, |range, (tangent, patches)| {
            let tangent = tangent.values;
            let bias = v_parameters.filter(|_| self.bias.is_some());
            if let Some(v) = bias {
                fill_columns(tangent, &v[self.weight_count()..]);
            }
            let mut first = bias.is_none();
            if first && v_parameters.is_none() && v_input.is_none() {
                tangent.fill(T::zero());
            }
            let mut add = |a: Matrix<'_, T>, b: &[T], tangent: &mut [T]| {
                let columns = self.patches(b, range.clone(), &mut *patches.values);
                let write = if first {
                    Write::Set(tangent)
                } else {
                    Write::Add(tangent)
                };
                T::matmul(write, a, columns);
                first = false;
            };
            if let Some(v) = v_parameters {
                add(self.matrix(v), at.input, tangent);
            }
            if let Some(v) = v_input {
                add(self.matrix(at.parameters), v, tangent);
            }
            if !linear {
                multiply_by(tangent, &at.tape[range.start * size..range.end * size]);
            }
        });
    }

    /// sup |a′|² · ‖W‖² · ‖U‖², with ‖W‖² = λ_max(B) ≤ (tr B⁸)^⅛, where B is the smaller of W Wᵀ
    /// and Wᵀ W. The bound on ‖W‖² is too large by a factor of at most (side)^⅛.
    fn curvature_bound(&self, parameters: &[T], work: &mut [T]) -> Option<T> {
        let w = self.matrix(parameters);
        let side = self.channels.min(self.patch_len);
        let (b, square) = work[..2 * side * side].split_at_mut(side * side);
        let (left, right) = if self.channels <= self.patch_len {
            (w, w.t())
        } else {
            (w.t(), w)
        };
        T::matmul(Write::Set(b), left, right);
        // Scale before every squaring, so that nothing overflows or underflows. With scales c_k,
        // ‖B⁴‖_F^¼ = c_0 c_1^½ c_2^¼ for norms, and likewise for the largest entries.
        let mut bound = T::one();
        let mut power = T::one();
        let (mut current, mut next) = (b, square);
        for k in 0..3 {
            let largest = current.iter().fold(T::zero(), |top, b| top.max(b.abs()));
            if !largest.is_finite() {
                // On overflow, return infinity rather than no bound.
                return Some(largest);
            }
            if largest < smallest::<T>() / T::default_epsilon() {
                // Squares of such weights underflow: use ‖W‖² ≤ rows · columns · max w², kept above
                // 0.
                let all = &parameters[..self.weight_count()];
                let top = all.iter().fold(T::zero(), |top, w| top.max(w.abs()));
                if top.is_zero() {
                    return Some(top);
                }
                let size = top * T::of(all.len() as f64).sqrt();
                bound = (size * size).max(smallest());
                break;
            }
            scale(current, T::one() / largest);
            let norm = dot(current, current).sqrt();
            bound *= (largest * norm).powf(power);
            power *= T::of(0.5);
            if k < 2 {
                scale(current, T::one() / norm);
                let b = Matrix::new(current, side, side);
                T::matmul(Write::Set(&mut *next), b, b);
                std::mem::swap(&mut current, &mut next);
            }
        }
        let slope = T::of(self.activation.lipschitz());
        // Add a margin for rounding errors in the sums above.
        let terms = T::of(8.0 * (self.patch_len + self.channels) as f64);
        let room = T::one() + terms * T::default_epsilon();
        Some(bound * slope * slope * room * T::of(self.multiplicity as f64))
    }

    fn unfold(&self, input: &[T], patches: &mut [T]) {
        if self.whole {
            patches.copy_from_slice(input);
        } else {
            self.patches(input, 0..self.batch(input), patches);
        }
    }
}
