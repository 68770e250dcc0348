//! What a circuit is trained on: losses, penalties, regularisers.

use std::sync::Arc;

use nalgebra::DMatrix;

use crate::check::{check_finite, check_length, check_rows, check_weights};
use crate::circuit::Circuit;
use crate::error::{Error, Quantity};
use crate::kernel::Scalar;
use crate::loss::{Loss, SquaredError};
use crate::regularizer::Regularizer;

/// Description of a circuit's energy E: the output loss L, a hidden loss L_h with a weight μ_t for
/// every hidden layer t = 1, …, T−1, and regularisers.
///
/// ```math
/// E(θ, Z) = ∑_i w_i [ L(z_T^i, ẑ_T^i) + ∑_{t=1}^{T-1} μ_t L_h(z_t^i, ẑ_t^i) + ∑_t R_t(θ_t) + ∑_t S_t(z_t^i) ]
/// ```
///
/// with example weights wᵢ (1 unless set).
///
/// | option | default |
/// |---|---|
/// | output loss | [`SquaredError`] |
/// | hidden losses | [`SquaredError`] |
/// | penalties μ_t | 1 |
/// | regularisers R_t of θ_t, S_t of z_t | none |
///
/// It is checked when it is combined with a circuit, in
/// [`DecoupledCircuit::new`](crate::decoupled::DecoupledCircuit::new).
///
/// # Examples
/// ```
/// use layerwise::prelude::*;
///
/// let energy = Energy::new(SoftmaxCrossEntropy).with_penalty(2.0_f64);
/// # let _ = energy;
/// ```
#[derive(Debug, Clone)]
pub struct Energy<T: Scalar> {
    output_loss: Arc<dyn Loss<T>>,
    hidden: PerLayer<Arc<dyn Loss<T>>>,
    penalty: PerLayer<T>,
    parameter_regularizers: PerLayer<Regularizer>,
    target_regularizers: PerLayer<Regularizer>,
}

/// One value for all layers, or one per layer.
#[derive(Debug, Clone)]
enum PerLayer<A> {
    All(A),
    Each(Vec<A>),
}

impl<A: Clone> PerLayer<A> {
    fn expand(self, count: usize, what: &str) -> Result<Vec<A>, Error> {
        match self {
            Self::All(one) => Ok(vec![one; count]),
            Self::Each(list) => check_length(what, &list, count).map(|()| list),
        }
    }
}

impl<T: Scalar> Default for Energy<T> {
    fn default() -> Self {
        Self::new(SquaredError)
    }
}

impl<T: Scalar> Energy<T> {
    /// An energy with output loss L = `output_loss`.
    pub fn new(output_loss: impl Loss<T> + 'static) -> Self {
        Self {
            output_loss: Arc::new(output_loss),
            hidden: PerLayer::All(Arc::new(SquaredError)),
            penalty: PerLayer::All(T::one()),
            parameter_regularizers: PerLayer::All(Regularizer::NONE),
            target_regularizers: PerLayer::All(Regularizer::NONE),
        }
    }

    /// Sets L_h for all hidden layers.
    pub fn with_hidden_loss(mut self, loss: impl Loss<T> + 'static) -> Self {
        self.hidden = PerLayer::All(Arc::new(loss));
        self
    }

    /// Sets L_h for each hidden layer t = 1, …, T−1.
    pub fn with_hidden_losses(mut self, losses: Vec<Box<dyn Loss<T>>>) -> Self {
        self.hidden = PerLayer::Each(losses.into_iter().map(Arc::from).collect());
        self
    }

    /// Sets μ_t for all hidden layers.
    #[doc(alias("mu", "loss weight"))]
    pub fn with_penalty(mut self, penalty: T) -> Self {
        self.penalty = PerLayer::All(penalty);
        self
    }

    /// Sets μ_t for each hidden layer t = 1, …, T−1.
    #[doc(alias("mu", "loss weight"))]
    pub fn with_penalties(mut self, penalties: Vec<T>) -> Self {
        self.penalty = PerLayer::Each(penalties);
        self
    }

    /// Sets R for the parameters of every layer. It applies to groups that decay
    /// ([`ParameterGroup::decays`](crate::layer::ParameterGroup::decays): weights, not biases), and
    /// is counted once per example.
    pub fn with_parameter_regularizer(mut self, regularizer: Regularizer) -> Self {
        self.parameter_regularizers = PerLayer::All(regularizer);
        self
    }

    /// Sets R_t for each layer t = 0, …, T−1; see [`Energy::with_parameter_regularizer`].
    pub fn with_parameter_regularizers(mut self, regularizers: Vec<Regularizer>) -> Self {
        self.parameter_regularizers = PerLayer::Each(regularizers);
        self
    }

    /// Sets S for every auxiliary target z_1, …, z_{T−1}; it is not multiplied by μ.
    pub fn with_target_regularizer(mut self, regularizer: Regularizer) -> Self {
        self.target_regularizers = PerLayer::All(regularizer);
        self
    }

    /// Sets S_t for each hidden layer t = 1, …, T−1; it is not multiplied by μ.
    pub fn with_target_regularizers(mut self, regularizers: Vec<Regularizer>) -> Self {
        self.target_regularizers = PerLayer::Each(regularizers);
        self
    }

    /// The terms of this energy on `circuit`. Appends the losses' parameters to its θ_t.
    pub(crate) fn terms(self, circuit: &mut Circuit<T>) -> Result<Terms<T>, Error> {
        let depth = circuit.depth();
        let hidden = depth - 1;
        let mut losses = self.hidden.expand(hidden, "hidden losses")?;
        for (i, loss) in losses.iter().enumerate() {
            if !loss.free_target() {
                return Err(Error::FixedTargetLoss {
                    loss: format!("{loss:?}"),
                    layer: i + 1,
                });
            }
        }
        losses.push(self.output_loss);
        let penalties = self.penalty.expand(hidden, "penalties μ")?;
        check_weights("penalty μ", &penalties)?;
        let parameter_regularizers = self
            .parameter_regularizers
            .expand(depth, "regularisers of parameters")?;
        let target_regularizers = self
            .target_regularizers
            .expand(hidden, "regularisers of targets")?;
        for (t, loss) in losses.iter().enumerate() {
            // There are no targets yet, but the loss may reject the dimension.
            loss.check_target(circuit.dims()[t + 1], &[])?;
        }
        circuit.attach(|t| losses[t].as_ref())?;
        Ok(Terms {
            losses,
            penalties,
            parameter_regularizers,
            target_regularizers,
        })
    }
}

/// The terms of E on one circuit: a loss, a weight and regularisers for every layer.
#[derive(Debug, Clone)]
pub struct Terms<T: Scalar> {
    /// L_h of z_1, …, z_{T−1}, then L.
    losses: Vec<Arc<dyn Loss<T>>>,
    /// μ_1, …, μ_{T−1}.
    penalties: Vec<T>,
    /// R_0, …, R_{T−1}.
    parameter_regularizers: Vec<Regularizer>,
    /// S_1, …, S_{T−1}.
    target_regularizers: Vec<Regularizer>,
}

impl<T: Scalar> Terms<T> {
    pub(crate) fn hollow() -> Self {
        Self {
            losses: Vec::new(),
            penalties: Vec::new(),
            parameter_regularizers: Vec::new(),
            target_regularizers: Vec::new(),
        }
    }

    /// The loss of layer t's local problem: L_h for z_{t+1}, or L if t = T−1. Panics if t ≥ T.
    pub fn loss(&self, t: usize) -> &dyn Loss<T> {
        self.losses[t].as_ref()
    }

    pub(crate) fn shared_loss(&self, t: usize) -> Arc<dyn Loss<T>> {
        Arc::clone(&self.losses[t])
    }

    /// μ_1, …, μ_{T−1}.
    pub fn penalties(&self) -> &[T] {
        &self.penalties
    }

    /// R_t, t = 0, …, T−1. Panics if t ≥ T.
    pub fn parameter_regularizer(&self, t: usize) -> Regularizer {
        self.parameter_regularizers[t]
    }

    /// S_1, …, S_{T−1}.
    pub fn target_regularizers(&self) -> &[Regularizer] {
        &self.target_regularizers
    }

    /// Replaces μ_1, …, μ_{T−1}.
    ///
    /// # Errors
    /// [`Error::Length`], or [`Error::InvalidOption`] unless every weight is above 0 and finite.
    pub fn set_penalties(&mut self, penalties: &[T]) -> Result<(), Error> {
        check_length("penalties μ", penalties, self.penalties.len())?;
        check_weights("penalty μ", penalties)?;
        self.penalties.copy_from_slice(penalties);
        Ok(())
    }

    /// Sets penalties that have been checked already.
    pub(crate) fn put_penalties(&mut self, penalties: &[T]) {
        self.penalties.copy_from_slice(penalties);
    }

    /// Checks output targets for n inputs.
    pub(crate) fn check_outputs(
        &self,
        circuit: &Circuit<T>,
        n: usize,
        targets: &DMatrix<T>,
    ) -> Result<(), Error> {
        let depth = circuit.depth();
        let dim = circuit.dims()[depth];
        check_rows("targets, one column per example", targets, dim, n)?;
        if targets.ncols() != n {
            return Err(Error::ExampleCount {
                inputs: n,
                targets: targets.ncols(),
            });
        }
        check_finite(Quantity::Target, depth, dim, targets.as_slice())?;
        self.loss(depth - 1).check_target(dim, targets.as_slice())
    }
}
