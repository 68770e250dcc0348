//! The [`Layer`] contract, and the layers that come with the crate.

mod activate;
mod affine;
mod attention;
mod carry;
mod conv2d;
mod conv_transpose2d;
mod dropout;
mod embedding;
#[cfg(feature = "autodiff")]
mod function;
mod group;
mod normalize;
mod patch_map;
mod patchwise;
mod pool2d;
mod position_bias;
mod position_wise;
mod reshape;
mod residual;
mod scale;
mod sequential;
mod softmax;
mod unfold;
mod window2d;
mod windows;

use std::fmt::Debug;

use rand::Rng;

pub use crate::kernel::{Activation, Shape};
pub use activate::Activate;
pub use affine::{Affine, WeightOrder};
pub use attention::Attention;
pub use carry::{Branch, Carry, Merge};
pub use conv_transpose2d::ConvTranspose2d;
pub use conv2d::Conv2d;
pub use dropout::Dropout;
pub use embedding::Embedding;
#[cfg(feature = "autodiff")]
pub use function::{FromFunction, Function};
pub use group::ParameterGroup;
pub use normalize::{LayerNorm, Norm, RmsNorm};
pub use patchwise::{Dense, Patchwise};
pub use pool2d::{AveragePool2d, GlobalAveragePool, MaxPool2d};
pub use position_bias::PositionBias;
pub use position_wise::{PositionWise, Positions};
pub use reshape::Reshape;
pub use residual::Residual;
pub use scale::Scale;
pub use sequential::Sequential;
pub(crate) use sequential::check_chain;
pub use softmax::Softmax;
pub use unfold::{Unfold, Whole};
pub use window2d::{Size2d, Window2d};
pub use windows::Windows;

use crate::description::Description;
use crate::error::Error;
use crate::kernel::{Execution, Scalar, Write, dot, extent_product, smallest};
use crate::pointers::through_pointers;

/// The circumstances of an evaluation of a layer.
///
/// The random draws of a stochastic layer, such as [`Dropout`], must be a function of these fields alone,
/// except `execution`. The same evaluation then gives the same bits, wherever and however often it
/// is made.
///
/// # Examples
/// ```
/// use layerwise::kernel::Execution;
/// use layerwise::layer::Context;
///
/// let context = Context::inference(0, 2).with_execution(Execution::Columns);
/// assert_eq!((context.layer, context.training), (2, false));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Context<'a> {
    /// The seed of the circuit.
    pub seed: u64,
    /// The index t of this layer.
    pub layer: usize,
    /// Number of the visit to this batch; it is the same for all Z-steps of one visit.
    pub visit: u64,
    /// Whether this evaluation is part of training.
    pub training: bool,
    /// The ids of the examples, one per column; empty for examples that the circuit does not own.
    pub examples: &'a [u64],
    /// How columns are scheduled. A layer may ignore this, or pass its columns to
    /// [`Execution::for_each_block`].
    pub execution: Execution,
}

impl<'a> Context<'a> {
    /// The context of a prediction on data outside the circuit, on the calling thread.
    pub fn inference(seed: u64, layer: usize) -> Self {
        Self {
            seed,
            layer,
            visit: 0,
            training: false,
            examples: &[],
            execution: Execution::Sequential,
        }
    }

    /// The context of a training visit to the examples with these ids, on the calling thread.
    pub fn training(seed: u64, layer: usize, visit: u64, examples: &'a [u64]) -> Self {
        Self {
            visit,
            training: true,
            examples,
            ..Self::inference(seed, layer)
        }
    }

    /// Sets how columns are scheduled.
    pub fn with_execution(self, execution: Execution) -> Self {
        Self { execution, ..self }
    }
}

/// Memory that a layer needs for one batch, counted in scalars.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Scratch {
    /// Memory kept from [`Layer::forward`] until the products with the Jacobian at the same point.
    pub tape: usize,
    /// Scratch memory for a single call of `forward`, `vjp` or `jvp`. Its contents are not kept
    /// between calls.
    pub work: usize,
    /// Scratch memory for one call of [`Layer::curvature_bound`]; it does not depend on the batch
    /// size.
    pub bound: usize,
}

impl Scratch {
    /// No memory.
    pub const NONE: Self = Self {
        tape: 0,
        work: 0,
        bound: 0,
    };

    /// Memory for tape and work, and none for the curvature bound.
    pub const fn new(tape: usize, work: usize) -> Self {
        Self {
            tape,
            work,
            bound: 0,
        }
    }

    /// Sets the memory for the curvature bound.
    pub const fn with_bound(self, bound: usize) -> Self {
        Self { bound, ..self }
    }
}

/// The point at which a layer is linearised: the arguments and results of [`Layer::forward`].
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Point<'a, T> {
    /// The context of the evaluation.
    pub context: Context<'a>,
    /// θ_t.
    pub parameters: &'a [T],
    /// z_t, input_dim × n.
    pub input: &'a [T],
    /// ẑ_{t+1} = f(z_t, θ_t), output_dim × n.
    pub output: &'a [T],
    /// What `forward` wrote for the derivatives. Its length is exactly that given by
    /// [`Layer::scratch`] for n examples.
    pub tape: &'a [T],
}

impl<'a, T> Point<'a, T> {
    /// The point at which `forward` was called with `context`, `parameters` and `input`, and wrote
    /// `output` and `tape`.
    pub fn new(
        context: Context<'a>,
        parameters: &'a [T],
        input: &'a [T],
        output: &'a [T],
        tape: &'a [T],
    ) -> Self {
        Self {
            context,
            parameters,
            input,
            output,
            tape,
        }
    }
}

/// One layer ẑ = f(z, θ) of a circuit, differentiable in z and θ.
///
/// A layer is a description: it holds shapes and options, never parameters or activations.
/// Parameters are one flat slice. A batch is a column-major `dimension × n` slice with one column
/// per example. Every column is mapped independently: an example's result has the same bits for any
/// other columns. Methods are called with shapes that have been checked; they cannot fail, and must
/// not allocate.
///
/// # Contract
/// - **Tape.** Its length is exactly `scratch(n).tape` for a batch of n. What `forward` writes
///   there is kept until the products at the same point, which only read it. Before `forward`, its
///   contents are arbitrary. At inference there may be no tape; the output must then have the same
///   bits.
/// - **Work** holds at least `scratch(n).work` values, which are arbitrary before and after a call.
/// - **Results.** Every value of `output` and `tangent` is overwritten. [`Write`] says for each
///   product whether it is set, added to existing values, or skipped. A skipped product is not
///   computed, and the other product has the same value either way.
///
/// [`GradCheck::layer`](crate::gradcheck::GradCheck::layer) checks all of this, and compares the
/// derivatives with finite differences. `examples/conv1d.rs` in the repository implements a convolution, a linear map
/// with an activation, in a few lines ([`Patchwise`]); `examples/custom_layer.rs` implements
/// another kind of layer.
///
/// `Box<dyn Layer<T>>`, `Arc<dyn Layer<T>>` and references to layers are layers too.
pub trait Layer<T: Scalar>: Debug + Send + Sync {
    /// The shape of one example's z_t; every extent is at least 1.
    ///
    /// The shapes of adjacent layers must match, but a shape with a single axis matches any shape of the
    /// same size: a dense layer after a convolution flattens its output. Between different shapes with
    /// several axes, put a [`Reshape`].
    fn input_shape(&self) -> Shape;

    /// The shape of one example's ẑ_{t+1}; every extent is at least 1.
    fn output_shape(&self) -> Shape;

    /// d_t, the size of the input shape.
    fn input_dim(&self) -> usize {
        self.input_shape().size()
    }

    /// d_{t+1}, the size of the output shape.
    fn output_dim(&self) -> usize {
        self.output_shape().size()
    }

    /// The blocks of the parameter vector, in order and without gaps; empty for a layer without
    /// parameters.
    fn parameters(&self) -> Vec<ParameterGroup>;

    /// Draws every value of the initial `parameters`.
    fn initialize(&self, parameters: &mut [T], rng: &mut dyn Rng);

    /// The memory needed for a batch of `batch` examples; must not decrease with the batch size.
    fn scratch(&self, batch: usize) -> Scratch;

    /// Multiply-adds per example for one product (forward, vjp or jvp). It is used to divide work
    /// among threads. `None` (the default) if unknown.
    fn cost(&self) -> Option<usize> {
        None
    }

    /// Checks a batch of inputs when data are added: for layer 0, and for a local problem that is
    /// built from arrays or from a shard.
    ///
    /// # Errors
    /// [`Error::InputDomain`] for inputs that the layer cannot accept, such as a fractional index.
    fn check_input(&self, _input: &[T]) -> Result<(), Error> {
        Ok(())
    }

    /// Whether ∂f/∂z exists (the default). A layer without it, such as an embedding, can only be
    /// layer 0.
    fn input_differentiable(&self) -> bool {
        true
    }

    /// `output ← f(input, θ)`, and `tape ← ` whatever the derivatives need.
    fn forward(
        &self,
        context: &Context<'_>,
        parameters: &[T],
        input: &[T],
        output: &mut [T],
        tape: Option<&mut [T]>,
        work: &mut [T],
    );

    /// Vector-Jacobian products with `cotangent` = g (output_dim × n): `d_input ← (∂f/∂z)ᵀ g` (one
    /// column per example) and `d_parameters ← Σᵢ (∂f/∂θ)ᵀ gᵢ` (a **sum** over the examples).
    fn vjp(
        &self,
        at: &Point<'_, T>,
        cotangent: &[T],
        d_input: Write<'_, T>,
        d_parameters: Write<'_, T>,
        work: &mut [T],
    );

    /// Jacobian-vector product `tangent ← (∂f/∂z) v_input + (∂f/∂θ) v_parameters`, where a missing
    /// direction counts as zero. Overwrites `tangent` (output_dim × n).
    ///
    /// The default uses vector-Jacobian products with unit vectors: output_dim calls of
    /// [`Layer::vjp`] on the whole batch for a direction in z, n · output_dim calls for one in θ.
    /// It also allocates. Gauss-Newton and Levenberg-Marquardt call `jvp` often, so implement it
    /// for layers that they train.
    fn jvp(
        &self,
        at: &Point<'_, T>,
        v_input: Option<&[T]>,
        v_parameters: Option<&[T]>,
        tangent: &mut [T],
        work: &mut [T],
    ) {
        tangent.fill(T::zero());
        let (inputs, outputs) = (self.input_dim(), self.output_dim());
        let mut unit = vec![T::zero(); tangent.len()];
        if let Some(v) = v_input {
            let mut row = vec![T::zero(); v.len()];
            for k in 0..outputs {
                // Row k of the Jacobian of every example.
                let rows = (k..tangent.len()).step_by(outputs);
                rows.clone().for_each(|i| unit[i] = T::one());
                self.vjp(at, &unit, Write::Set(&mut row), Write::Skip, work);
                rows.clone().for_each(|i| unit[i] = T::zero());
                let columns = row.chunks_exact(inputs).zip(v.chunks_exact(inputs));
                for (i, (row, v)) in rows.zip(columns) {
                    tangent[i] += dot(row, v);
                }
            }
        }
        if let Some(v) = v_parameters {
            let mut row = vec![T::zero(); v.len()];
            for (k, tangent) in tangent.iter_mut().enumerate() {
                unit[k] = T::one();
                self.vjp(at, &unit, Write::Skip, Write::Set(&mut row), work);
                unit[k] = T::zero();
                *tangent += dot(&row, v);
            }
        }
    }

    /// An upper bound on ‖∂f/∂z‖² (the squared spectral norm) for every z, if one is known; `None`
    /// by default. `work` holds at least `scratch(n).bound` values.
    fn curvature_bound(&self, _parameters: &[T], _work: &mut [T]) -> Option<T> {
        None
    }

    /// Centre and spread of outputs that the layer can represent well, for
    /// [`TargetInit::Projected`](crate::decoupled::TargetInit::Projected); (0, 1) by default.
    fn target_range(&self) -> (f64, f64) {
        (0.0, 1.0)
    }

    /// The layer as an elementwise function of a linear map of its input's patches, if it has that
    /// form (`None` by default). Closed-form W-steps need it.
    fn affine(&self) -> Option<Affine> {
        None
    }

    /// The layer's kind and settings, from which a [`Registry`](crate::registry::Registry) builds it
    /// again. With `None`, the default, a saved circuit cannot be opened from its file alone, only
    /// loaded into one built like it.
    fn description(&self) -> Option<Description> {
        None
    }

    /// `patches ← U(Z)`: the patch_len × (positions · n) matrix that the weights of
    /// [`Layer::affine`] multiply, with the positions of each example next to one another. With several
    /// [`Affine::groups`] there is one such matrix per group, one after another. By default this is a
    /// copy of the input, which is correct unless [`Affine::unfolds`] is set.
    fn unfold(&self, input: &[T], patches: &mut [T]) {
        patches.copy_from_slice(input);
    }
}

through_pointers!(Layer {
    fn input_shape(&self) -> Shape;
    fn output_shape(&self) -> Shape;
    fn input_dim(&self) -> usize;
    fn output_dim(&self) -> usize;
    fn parameters(&self) -> Vec<ParameterGroup>;
    fn initialize(&self, parameters: &mut [T], rng: &mut dyn Rng);
    fn scratch(&self, batch: usize) -> Scratch;
    fn cost(&self) -> Option<usize>;
    fn check_input(&self, input: &[T]) -> Result<(), Error>;
    fn input_differentiable(&self) -> bool;
    fn forward(
        &self,
        context: &Context<'_>,
        parameters: &[T],
        input: &[T],
        output: &mut [T],
        tape: Option<&mut [T]>,
        work: &mut [T],
    );
    fn vjp(
        &self,
        at: &Point<'_, T>,
        cotangent: &[T],
        d_input: Write<'_, T>,
        d_parameters: Write<'_, T>,
        work: &mut [T],
    );
    fn jvp(
        &self,
        at: &Point<'_, T>,
        v_input: Option<&[T]>,
        v_parameters: Option<&[T]>,
        tangent: &mut [T],
        work: &mut [T],
    );
    fn curvature_bound(&self, parameters: &[T], work: &mut [T]) -> Option<T>;
    fn target_range(&self) -> (f64, f64);
    fn affine(&self) -> Option<Affine>;
    fn description(&self) -> Option<Description>;
    fn unfold(&self, input: &[T], patches: &mut [T]);
});

/// Length of a layer's parameter vector.
pub(crate) fn parameter_count<T: Scalar>(layer: &dyn Layer<T>) -> usize {
    layer.parameters().last().map_or(0, |group| group.range.end)
}

/// Checks that dimensions are at least 1, and that the parameter groups tile the parameter vector.
pub(crate) fn validate<T: Scalar>(layer: &dyn Layer<T>, number: usize) -> Result<(), Error> {
    check_dimension("a layer's input dimension", layer.input_dim())?;
    check_dimension("a layer's output dimension", layer.output_dim())?;
    check_layout(&layer.parameters(), number)
}

/// Checks that a dimension is at least 1.
pub(crate) fn check_dimension(what: &'static str, size: usize) -> Result<(), Error> {
    match size {
        0 => Err(Error::ZeroDimension { what }),
        _ => Ok(()),
    }
}

/// The shape that a setting of a description holds.
pub(crate) fn described_shape(own: &Description, setting: &str) -> Result<Shape, Error> {
    Shape::of(&own.counts(setting)?)
        .ok_or_else(|| own.refuse(setting, "a shape of at most four axes"))
}

/// The square of a norm, with a margin for rounding; 0 only for a norm of 0.
fn bound_of_norm<T: Scalar>(norm: T) -> T {
    if norm.is_zero() {
        return norm;
    }
    let room = T::one() + T::of(8.0) * T::default_epsilon();
    (norm * norm * room).max(smallest())
}

/// The first extent of a shape, and the product of the others: its values are a matrix of these
/// dimensions.
fn rows_and_columns(shape: Shape) -> (usize, usize) {
    match shape.extents() {
        [rows, others @ ..] => (*rows, extent_product(others)),
        [] => (1, 1),
    }
}

/// Checks that the groups tile their parameter vector: in order, without gaps, each as large as its
/// shape.
pub(crate) fn check_layout(groups: &[ParameterGroup], number: usize) -> Result<(), Error> {
    let mut expected = 0;
    for group in groups {
        let size = extent_product(&group.shape);
        if group.range.start != expected || Some(group.range.end) != expected.checked_add(size) {
            return Err(Error::ParameterLayout {
                layer: number,
                group: group.name.clone(),
                start: group.range.start,
                end: group.range.end,
                expected,
                size,
            });
        }
        expected = group.range.end;
    }
    Ok(())
}
