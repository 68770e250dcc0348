//! How a circuit is described and checked.

use std::sync::Arc;

use super::{Circuit, Groups};
use crate::check::{check_finite, check_weights};
use crate::error::{Error, Quantity};
use crate::init::{Purpose, generator};
use crate::kernel::Scalar;
use crate::layer::{Layer, ParameterGroup, check_chain, check_layout, parameter_count};
use crate::loss::{Loss, SquaredError};
use crate::regularizer::Regularizer;

/// Description of a [`Circuit`]; [`CircuitBuilder::build`] checks it.
///
/// Defaults: output loss [`SquaredError`], hidden loss [`SquaredError`], every μ_t = 1, no
/// regularisers, seed 0.
#[derive(Debug)]
pub struct CircuitBuilder<T: Scalar> {
    layers: Vec<Arc<dyn Layer<T>>>,
    output_loss: Arc<dyn Loss<T>>,
    hidden: PerLayer<Arc<dyn Loss<T>>>,
    penalty: PerLayer<T>,
    parameter_regularizers: PerLayer<Regularizer>,
    target_regularizers: PerLayer<Regularizer>,
    seed: u64,
}

/// One for all layers (mostly hidden ones), or one each.
#[derive(Debug)]
enum PerLayer<A> {
    All(A),
    Each(Vec<A>),
}

impl<A: Clone> PerLayer<A> {
    fn expand(self, count: usize, what: &str) -> Result<Vec<A>, Error> {
        match self {
            Self::All(one) => Ok(vec![one; count]),
            Self::Each(list) if list.len() == count => Ok(list),
            Self::Each(list) => Err(Error::Length {
                what: what.into(),
                expected: count,
                found: list.len(),
            }),
        }
    }
}

impl<T: Scalar> CircuitBuilder<T> {
    pub(crate) fn new() -> Self {
        Self {
            layers: Vec::new(),
            output_loss: Arc::new(SquaredError),
            hidden: PerLayer::All(Arc::new(SquaredError)),
            penalty: PerLayer::All(T::one()),
            parameter_regularizers: PerLayer::All(Regularizer::NONE),
            target_regularizers: PerLayer::All(Regularizer::NONE),
            seed: 0,
        }
    }

    /// Appends a layer; a `Box<dyn Layer<T>>` or an `Arc<dyn Layer<T>>` is one too.
    pub fn layer(mut self, layer: impl Layer<T> + 'static) -> Self {
        self.layers.push(Arc::new(layer));
        self
    }

    /// L, the loss of the output.
    pub fn output_loss(mut self, loss: impl Loss<T> + 'static) -> Self {
        self.output_loss = Arc::new(loss);
        self
    }

    /// L_h of all hidden layers.
    pub fn hidden_loss(mut self, loss: impl Loss<T> + 'static) -> Self {
        self.hidden = PerLayer::All(Arc::new(loss));
        self
    }

    /// L_h of each hidden layer t = 1, …, T−1.
    pub fn hidden_losses(mut self, losses: Vec<Box<dyn Loss<T>>>) -> Self {
        self.hidden = PerLayer::Each(losses.into_iter().map(Arc::from).collect());
        self
    }

    /// μ_t of all hidden layers.
    pub fn penalty(mut self, penalty: T) -> Self {
        self.penalty = PerLayer::All(penalty);
        self
    }

    /// μ_t of each hidden layer t = 1, …, T−1.
    pub fn penalties(mut self, penalties: Vec<T>) -> Self {
        self.penalty = PerLayer::Each(penalties);
        self
    }

    /// R of every layer's parameters, those of groups that decay ([`ParameterGroup::decays`]:
    /// weights, not biases). It counts once for every example.
    pub fn regularize_parameters(mut self, regularizer: Regularizer) -> Self {
        self.parameter_regularizers = PerLayer::All(regularizer);
        self
    }

    /// R_t of each layer's parameters, t = 0, …, T−1, likewise.
    pub fn regularize_parameters_each(mut self, regularizers: Vec<Regularizer>) -> Self {
        self.parameter_regularizers = PerLayer::Each(regularizers);
        self
    }

    /// S of every auxiliary target z_1, …, z_{T−1}, without μ.
    pub fn regularize_targets(mut self, regularizer: Regularizer) -> Self {
        self.target_regularizers = PerLayer::All(regularizer);
        self
    }

    /// S_t of each hidden layer's auxiliary targets, t = 1, …, T−1, likewise.
    pub fn regularize_targets_each(mut self, regularizers: Vec<Regularizer>) -> Self {
        self.target_regularizers = PerLayer::Each(regularizers);
        self
    }

    /// The seed of the initial parameters (a stream of its own for every layer) and of stochastic
    /// layers.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Checks the description and draws the initial parameters.
    ///
    /// # Errors
    /// [`Error::NoLayers`], [`Error::LayerMismatch`], [`Error::ZeroDimension`],
    /// [`Error::InputNotDifferentiable`], [`Error::ParameterLayout`], [`Error::FixedTargetLoss`],
    /// [`Error::TooLarge`], [`Error::Length`] for a list with another length than T−1,
    /// [`Error::InvalidOption`] for μ_t not above 0 and finite, [`Error::NonFiniteData`] if a layer
    /// draws such parameters, and what a loss says of a dimension that it does not fit.
    pub fn build(self) -> Result<Circuit<T>, Error> {
        check_chain(&self.layers, "circuit")?;
        let hidden = self.layers.len() - 1;
        let hidden_losses = self.hidden.expand(hidden, "hidden losses")?;
        for (i, loss) in hidden_losses.iter().enumerate() {
            if !loss.free_target() {
                return Err(Error::FixedTargetLoss {
                    loss: format!("{loss:?}"),
                    layer: i + 1,
                });
            }
        }
        let penalties = self.penalty.expand(hidden, "penalties μ")?;
        check_weights("penalty μ", &penalties)?;
        let parameter_regularizers = self
            .parameter_regularizers
            .expand(self.layers.len(), "regularisers of parameters")?;
        let target_regularizers = self
            .target_regularizers
            .expand(hidden, "regularisers of targets")?;
        let mut dims = vec![self.layers[0].input_dim()];
        dims.extend(self.layers.iter().map(|layer| layer.output_dim()));
        let mut groups = Vec::with_capacity(self.layers.len());
        let mut parameters = Vec::with_capacity(self.layers.len());
        for (t, layer) in self.layers.iter().enumerate() {
            let loss = hidden_losses.get(t).unwrap_or(&self.output_loss);
            let dim = dims[t + 1];
            // No targets yet, but the loss may not fit the dimension.
            loss.check_target(dim, &[])?;
            let of_loss = loss.parameters(dim);
            check_layout(&of_loss, t)?;
            let of_loss = of_loss.last().map_or(0, |group| group.range.end);
            let own = parameter_count(layer.as_ref());
            let too_large = Error::TooLarge {
                what: "a parameter vector",
                rows: own.saturating_add(of_loss),
                columns: 1,
            };
            let count = own.checked_add(of_loss).ok_or(too_large.clone())?;
            let all = all_groups(layer.as_ref(), loss.as_ref());
            let mut values = Vec::new();
            values.try_reserve_exact(count).map_err(|_| too_large)?;
            values.resize(count, T::zero());
            let mut rng = generator(self.seed, Purpose::Parameters, t as u64);
            layer.initialize(&mut values[..own], &mut rng);
            loss.initialize(dim, &mut values[own..]);
            check_finite(Quantity::Parameter, t, values.len().max(1), &values)?;
            parameters.push(values);
            groups.push(Groups { all, own });
        }
        Ok(Circuit {
            layers: self.layers,
            groups,
            parameters,
            parameter_regularizers,
            target_regularizers,
            output_loss: self.output_loss,
            hidden_losses,
            penalties,
            dims,
            seed: self.seed,
        })
    }
}

/// The blocks of a whole θ_t: the layer's, then its loss's behind them.
pub(crate) fn all_groups<T: Scalar>(
    layer: &dyn Layer<T>,
    loss: &dyn Loss<T>,
) -> Vec<ParameterGroup> {
    let own = parameter_count(layer);
    let mut all = layer.parameters();
    let of_loss = loss.parameters(layer.output_dim()).into_iter();
    all.extend(of_loss.map(|group| ParameterGroup {
        range: own + group.range.start..own + group.range.end,
        ..group
    }));
    all
}
