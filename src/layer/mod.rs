//! The [`Layer`] contract, and the layers that come with the crate.

mod dense;
mod sequential;

use std::fmt::Debug;
use std::ops::Range;

pub use crate::kernel::Activation;
pub use dense::Dense;
pub use sequential::Sequential;
pub(crate) use sequential::check_chain;

use crate::error::Error;
use crate::kernel::Execution;
use crate::kernel::{Scalar, Write};
use rand::Rng;

/// Where and when a layer is evaluated.
///
/// A stochastic layer (dropout) must draw from a function of these fields alone, all but
/// `execution`, so that the same evaluation gives the same bits wherever and however often it is
/// made.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// Seed of the circuit.
    pub seed: u64,
    /// t of this layer.
    pub layer: usize,
    /// Number of the visit to this batch; constant during one visit, its Z-steps included.
    pub visit: u64,
    /// Whether this evaluation is part of training.
    pub training: bool,
    /// The lasting numbers of the examples, one a column; empty for examples that the circuit does
    /// not own.
    pub examples: &'a [u64],
    /// Who computes the columns; a layer may ignore it.
    pub execution: Execution,
}

impl Context<'_> {
    /// The context of a prediction on data that the circuit does not own.
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
}

/// One block of a layer's flat parameter vector.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ParameterGroup {
    /// Name within the layer, such as "weights".
    pub name: String,
    /// Shape; the block is stored with the first index fastest (column-major).
    pub shape: Vec<usize>,
    /// Place in the flat vector. Groups tile it in order, without gaps.
    pub range: Range<usize>,
    /// Units that each unit reads from.
    pub fan_in: usize,
    /// Units that read each unit.
    pub fan_out: usize,
    /// Whether an optimiser with weight decay should decay it (not biases and scales, usually).
    pub decays: bool,
}

/// Memory that a layer needs for one batch, in numbers of scalars.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scratch {
    /// Kept from [`Layer::forward`] to the products with the Jacobian at the same point.
    pub tape: usize,
    /// Free for any single call; its contents mean nothing between calls.
    pub work: usize,
}

/// The point at which a layer is linearised: what [`Layer::forward`] was called with, and gave.
#[derive(Debug, Clone, Copy)]
pub struct Point<'a, T> {
    /// Where and when.
    pub context: Context<'a>,
    /// θ_t.
    pub parameters: &'a [T],
    /// z_t, input_dim × n.
    pub input: &'a [T],
    /// ẑ_{t+1} = f(z_t, θ_t), output_dim × n.
    pub output: &'a [T],
    /// What `forward` left for the derivatives.
    pub tape: &'a [T],
}

/// One layer ẑ = f(z, θ) of a circuit, differentiable in z and θ.
///
/// A layer is a description: it holds dimensions and options, never parameters or activations.
/// Parameters are one flat slice; a batch is a column-major `dimension × n` slice with one example
/// a column, and every column is mapped alone (an example's result has the same bits whatever
/// other columns stand beside it). The kernels run on shapes that were validated before, cannot
/// fail, and must not allocate.
///
/// The derivative products overwrite or add to their results as the [`Write`] says, and compute
/// nothing that is skipped. `examples/custom_layer.rs` writes a layer of its own;
/// [`GradCheck::layer`](crate::gradcheck::GradCheck::layer) checks one against finite differences.
pub trait Layer<T: Scalar>: Debug + Send + Sync {
    /// d_t, at least 1.
    fn input_dim(&self) -> usize;

    /// d_{t+1}, at least 1.
    fn output_dim(&self) -> usize;

    /// The blocks of the parameter vector, in order and without gaps; empty for a layer without
    /// parameters.
    fn parameters(&self) -> Vec<ParameterGroup>;

    /// Draws initial parameters, every value of `parameters`.
    fn initialize(&self, parameters: &mut [T], rng: &mut dyn Rng);

    /// The memory that a batch of `batch` examples needs; never less for a larger batch.
    fn scratch(&self, batch: usize) -> Scratch;

    /// Checks one batch of inputs at the entry of the data: those of layer 0, and those of a local
    /// problem that is made from arrays or from a shard.
    ///
    /// # Errors
    /// [`Error::InputDomain`] for inputs that the layer cannot take, such as a fractional index.
    fn check_input(&self, _input: &[T]) -> Result<(), Error> {
        Ok(())
    }

    /// Whether ∂f/∂z exists (the default); a layer without it (an embedding) can only be layer 0.
    fn input_differentiable(&self) -> bool {
        true
    }

    /// `output ← f(input, θ)`, and `tape ← ` whatever the derivatives need.
    ///
    /// Without a tape the output must have the same bits as with one.
    fn forward(
        &self,
        context: &Context<'_>,
        parameters: &[T],
        input: &[T],
        output: &mut [T],
        tape: Option<&mut [T]>,
        work: &mut [T],
    );

    /// Vector-Jacobian products with `cotangent` = g (output_dim × n):
    /// `d_input ← (∂f/∂z)ᵀ g` (a column an example) and `d_parameters ← Σᵢ (∂f/∂θ)ᵀ gᵢ` (a **sum**
    /// over the examples).
    fn vjp(
        &self,
        at: &Point<'_, T>,
        cotangent: &[T],
        d_input: Write<'_, T>,
        d_parameters: Write<'_, T>,
        work: &mut [T],
    );

    /// Jacobian-vector product `tangent ← (∂f/∂z) v_input + (∂f/∂θ) v_parameters`, a missing
    /// direction being zero; overwrites `tangent` (output_dim × n).
    fn jvp(
        &self,
        at: &Point<'_, T>,
        v_input: Option<&[T]>,
        v_parameters: Option<&[T]>,
        tangent: &mut [T],
        work: &mut [T],
    );

    /// Length of the work memory of [`Layer::curvature_bound`]; 0 by default.
    fn bound_scratch(&self) -> usize {
        0
    }

    /// A number that is at least ‖∂f/∂z‖² (spectral norm, squared) for every z, if one is known; none
    /// by default.
    fn curvature_bound(&self, _parameters: &[T], _work: &mut [T]) -> Option<T> {
        None
    }

    /// Centre and spread of outputs that the layer gives well, for
    /// [`TargetInit::Projected`](crate::decoupled::TargetInit::Projected); (0, 1) by default.
    fn target_range(&self) -> (f64, f64) {
        (0.0, 1.0)
    }

    /// The layer as an elementwise function of an affine map, if it is one (none by
    /// default): what closed-form W-steps need.
    fn affine(&self) -> Option<Affine> {
        None
    }
}

/// f(z, θ) = activation(W z + b), with W and b in the flat parameter vector.
#[derive(Debug, Clone, PartialEq)]
pub struct Affine {
    /// Range of W, output_dim × input_dim column-major.
    pub weights: Range<usize>,
    /// Range of b, if there is one.
    pub bias: Option<Range<usize>>,
    /// The elementwise function.
    pub activation: Activation,
}

/// Length of a layer's parameter vector.
pub(crate) fn parameter_count<T: Scalar>(layer: &dyn Layer<T>) -> usize {
    layer.parameters().last().map_or(0, |group| group.range.end)
}

/// Checks what a circuit relies on: dimensions of at least 1 and parameter groups that tile.
pub(crate) fn validate<T: Scalar>(layer: &dyn Layer<T>, number: usize) -> Result<(), Error> {
    if layer.input_dim() == 0 {
        return Err(Error::ZeroDimension {
            what: "a layer's input dimension",
        });
    }
    if layer.output_dim() == 0 {
        return Err(Error::ZeroDimension {
            what: "a layer's output dimension",
        });
    }
    check_layout(&layer.parameters(), number)
}

/// Groups must tile their parameter vector: in order, without gaps, each of its shape's size.
pub(crate) fn check_layout(groups: &[ParameterGroup], number: usize) -> Result<(), Error> {
    let mut expected = 0;
    for group in groups {
        let product = |size: usize, &extent| size.saturating_mul(extent);
        let size = group.shape.iter().fold(1, product);
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
