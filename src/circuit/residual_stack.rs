//! Deep residual circuits whose scale does not depend on their depth.

use super::{Circuit, CircuitBuilder};
use crate::check::{at_least_one, check_room};
use crate::error::Error;
use crate::init::{Distribution, Fan, Initializer};
use crate::kernel::Scalar;
use crate::layer::{Activate, Activation, Dense, Layer, Residual, Scale, Sequential};

/// A residual circuit in the depth-scaled parametrisation (Depth-μP; for predictive coding μPC):
///
/// ```math
/// ẑ_1 = W_0 z_0/√d_0, \qquad ẑ_{t+1} = z_t + W_t a(z_t)/√{N L}, \qquad ẑ_T = W_{T-1} a(z_{T-1})/N
/// ```
///
/// with L residual blocks of width N, so that T = L + 2. All weights are drawn from N(0, 1), and there are no
/// biases. The factors are part of the layers, not of the weights. So z_t has the same size at every depth, all
/// hidden layers of a circuit have about the same energy, and a step of Adam changes the output of every block by
/// about the same amount, in proportion to 1/√L. This is meant to let a learning rate found on a small circuit
/// carry over to a large one. Since the weights have unit scale, rates can be larger than usual: on MNIST,
/// the best of those tried for Adam were 0.003 to 0.1, depending on depth and scheme.
///
/// Every block is one unit with a target of its own. Refreshed targets moved by
/// [`GaussNewton::chained(1, 1)`](crate::target_solver::GaussNewton::chained) train deep stacks; a sweep with the default
/// step fades before it reaches the first blocks. Innocenti, Achour & Buckley 2025 (μPC); Yang, Yu, Zhu &
/// Hayou 2023 (Depth-μP).
///
/// # Examples
/// ```
/// use layerwise::circuit::ResidualStack;
/// use layerwise::layer::Activation;
///
/// let stack = ResidualStack::new(64, 10).with_blocks(30)?.with_width(128)?;
/// let circuit = stack.with_activation(Activation::Relu).build::<f32>(0)?;
/// assert_eq!(circuit.depth(), 32);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ResidualStack {
    inputs: usize,
    outputs: usize,
    width: usize,
    blocks: usize,
    activation: Activation,
}

impl ResidualStack {
    /// A stack of 8 blocks of width 64 with ReLU, from `inputs` = d_0 to `outputs` = d_T values.
    pub fn new(inputs: usize, outputs: usize) -> Self {
        Self {
            inputs,
            outputs,
            width: 64,
            blocks: 8,
            activation: Activation::Relu,
        }
    }

    /// Sets N, the number of units of every block.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for 0.
    pub fn with_width(mut self, width: usize) -> Result<Self, Error> {
        at_least_one("ResidualStack::width", width as u64)?;
        self.width = width;
        Ok(self)
    }

    /// Sets L, the number of blocks.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for 0.
    pub fn with_blocks(mut self, blocks: usize) -> Result<Self, Error> {
        at_least_one("ResidualStack::blocks", blocks as u64)?;
        self.blocks = blocks;
        Ok(self)
    }

    /// Sets the activation a.
    pub fn with_activation(mut self, activation: Activation) -> Self {
        self.activation = activation;
        self
    }

    /// The layers: input, L blocks, readout.
    ///
    /// # Errors
    /// [`Error::ZeroDimension`] for a stack without inputs or outputs, [`Error::TooLarge`],
    /// [`Error::InvalidOption`] for a leaky ReLU whose slope is outside 0..=1.
    pub fn layers<T: Scalar>(&self) -> Result<Vec<Box<dyn Layer<T>>>, Error> {
        let Self { inputs, width, .. } = *self;
        check_room::<Block<T>>("the blocks of a residual stack", self.blocks, 1)?;
        let factor = |size: usize| 1.0 / (size as f64).sqrt();
        let activate = || Activate::new(width, self.activation);
        let input = Sequential::new(vec![
            Box::new(linear(inputs, width)?),
            Box::new(Scale::new(width, factor(inputs))?),
        ])?;
        let mut layers: Vec<Box<dyn Layer<T>>> = vec![Box::new(input)];
        for _ in 0..self.blocks {
            let branch =
                Sequential::new(vec![Box::new(activate()?), Box::new(linear(width, width)?)])?;
            let scale = factor(width) * factor(self.blocks);
            layers.push(Box::new(Residual::new(branch)?.with_branch_scale(scale)?));
        }
        layers.push(Box::new(Sequential::new(vec![
            Box::new(activate()?),
            Box::new(linear(width, self.outputs)?),
            Box::new(Scale::new(self.outputs, 1.0 / width as f64)?),
        ])?));
        Ok(layers)
    }

    /// The circuit, with initial weights drawn from `seed`.
    ///
    /// # Errors
    /// Those of [`ResidualStack::layers`].
    pub fn build<T: Scalar>(&self, seed: u64) -> Result<Circuit<T>, Error> {
        let builder: CircuitBuilder<T> = Circuit::builder();
        builder.layers(self.layers()?).seed(seed).build()
    }
}

/// The objects of one block, for the check that memory can hold them all.
type Block<T> = (
    Box<dyn Layer<T>>,
    Residual<T>,
    Sequential<T>,
    Activate,
    Dense,
);

/// W z, with W from N(0, 1).
fn linear(inputs: usize, outputs: usize) -> Result<Dense, Error> {
    let layer = Dense::new(inputs, outputs, Activation::Identity)?.without_bias();
    layer.with_weights(Initializer::VarianceScaling {
        scale: inputs as f64,
        fan: Fan::In,
        distribution: Distribution::Normal,
    })
}
