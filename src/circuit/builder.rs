//! How a circuit is described and checked.

use std::sync::Arc;

use super::{Circuit, Groups};
use crate::check::check_finite;
use crate::error::{Error, Quantity};
use crate::init::{Purpose, generator};
use crate::kernel::Scalar;
use crate::layer::{Layer, ParameterGroup, check_chain, parameter_count};
use crate::loss::Loss;

/// Description of a [`Circuit`]; [`CircuitBuilder::build`] checks it. The default seed is 0.
#[derive(Debug)]
pub struct CircuitBuilder<T: Scalar> {
    layers: Vec<Arc<dyn Layer<T>>>,
    seed: u64,
}

impl<T: Scalar> CircuitBuilder<T> {
    pub(super) fn new() -> Self {
        Self {
            layers: Vec::new(),
            seed: 0,
        }
    }

    /// Appends a layer, which may also be a `Box<dyn Layer<T>>` or an `Arc<dyn Layer<T>>`.
    pub fn layer(mut self, layer: impl Layer<T> + 'static) -> Self {
        self.layers.push(Arc::new(layer));
        self
    }

    /// The seed of the initial parameters (with a separate stream for every layer) and of stochastic
    /// layers.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Checks the description and draws the initial parameters.
    ///
    /// # Errors
    /// [`Error::NoLayers`], [`Error::LayerMismatch`], [`Error::ZeroDimension`],
    /// [`Error::InputNotDifferentiable`], [`Error::ParameterLayout`], [`Error::TooLarge`], or
    /// [`Error::NonFiniteData`] if a layer draws non-finite parameters.
    pub fn build(self) -> Result<Circuit<T>, Error> {
        check_chain(&self.layers, "circuit")?;
        let mut dims = vec![self.layers[0].input_dim()];
        dims.extend(self.layers.iter().map(|layer| layer.output_dim()));
        let mut groups = Vec::with_capacity(self.layers.len());
        let mut parameters = Vec::with_capacity(self.layers.len());
        for (t, layer) in self.layers.iter().enumerate() {
            let own = parameter_count(layer.as_ref());
            let mut values = Vec::new();
            values.try_reserve_exact(own).map_err(|_| Error::TooLarge {
                what: "a parameter vector",
                rows: own,
                columns: 1,
            })?;
            values.resize(own, T::zero());
            let mut rng = generator(self.seed, Purpose::Parameters, t as u64);
            layer.initialize(&mut values, &mut rng);
            check_finite(Quantity::Parameter, t, own.max(1), &values)?;
            parameters.push(values);
            let all = layer.parameters();
            groups.push(Groups { all, own });
        }
        Ok(Circuit {
            layers: self.layers,
            groups,
            parameters,
            dims,
            seed: self.seed,
        })
    }
}

/// The blocks of a whole θ_t: the layer's, then its loss's.
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
