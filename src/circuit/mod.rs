//! Feed-forward circuits: layers and their parameters, without an objective.

mod residual_stack;

use std::sync::Arc;

use nalgebra::DMatrix;

pub use residual_stack::ResidualStack;

use crate::check::{check_finite, check_length, check_result, check_room, check_rows, room};
use crate::error::{Error, Quantity};
use crate::init::{Purpose, generator};
use crate::kernel::{LEAST_WORK, Scalar};
use crate::layer::{Context, Layer, ParameterGroup, check_chain, check_layout, parameter_count};
use crate::loss::Loss;

/// A feed-forward circuit of depth T: layers f_0, …, f_{T−1} and their parameters θ_0, …, θ_{T−1}.
///
/// ẑ_{t+1} = f_t(z_t, θ_t)
///
/// It contains neither losses nor examples. [`Energy`](crate::energy::Energy) describes what it is
/// trained on, and [`DecoupledCircuit`](crate::decoupled::DecoupledCircuit) combines both with
/// examples. Cloning copies the parameters and shares the layers, which are immutable.
///
/// # Examples
/// ```
/// use layerwise::prelude::*;
///
/// let circuit = Circuit::<f64>::builder()
///     .layer(Dense::new(2, 3, Activation::Tanh)?)
///     .layer(Dense::new(3, 1, Activation::Identity)?)
///     .build()?;
/// let outputs = circuit.predict(&DMatrix::zeros(2, 5))?;
/// assert_eq!(outputs.shape(), (1, 5));
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Circuit<T: Scalar> {
    layers: Vec<Arc<dyn Layer<T>>>,
    groups: Vec<Groups>,
    /// θ_t: the layer's parameters, then those of its loss.
    parameters: Vec<Vec<T>>,
    /// d_0, …, d_T.
    dims: Vec<usize>,
    seed: u64,
}

/// The blocks of one θ_t.
#[derive(Debug, Clone)]
struct Groups {
    all: Vec<ParameterGroup>,
    /// Number of the layer's own parameters, which come first in θ_t.
    own: usize,
}

impl<T: Scalar> Circuit<T> {
    /// Starts the description of a circuit.
    pub fn builder() -> CircuitBuilder<T> {
        CircuitBuilder {
            layers: Vec::new(),
            seed: 0,
        }
    }

    /// A placeholder without layers, later replaced by a real circuit.
    pub(crate) fn hollow() -> Self {
        Self {
            layers: Vec::new(),
            groups: Vec::new(),
            parameters: Vec::new(),
            dims: vec![0],
            seed: 0,
        }
    }

    /// T, the number of layers.
    pub fn depth(&self) -> usize {
        self.layers.len()
    }

    /// d_0, …, d_T: the dimensions of z_0, …, z_T.
    pub fn dims(&self) -> &[usize] {
        &self.dims
    }

    /// The seed of the initial parameters and of stochastic layers.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Layer t. Panics if t ≥ T.
    pub fn layer(&self, t: usize) -> &dyn Layer<T> {
        self.layers[t].as_ref()
    }

    pub(crate) fn layers(&self) -> impl Iterator<Item = &dyn Layer<T>> {
        self.layers.iter().map(AsRef::as_ref)
    }

    pub(crate) fn shared_layers(&self) -> impl Iterator<Item = &Arc<dyn Layer<T>>> {
        self.layers.iter()
    }

    /// θ_t as a flat slice, laid out as [`Circuit::parameter_groups`] describes. Panics if t ≥ T.
    #[doc(alias("save", "weights"))]
    pub fn parameters(&self, t: usize) -> &[T] {
        &self.parameters[t]
    }

    /// The blocks of θ_t: those of the layer, then those of its loss, if the loss has parameters.
    /// Panics if t ≥ T.
    pub fn parameter_groups(&self, t: usize) -> &[ParameterGroup] {
        &self.groups[t].all
    }

    /// Number of the layer's own parameters, which come first in θ_t.
    pub(crate) fn own_parameters(&self, t: usize) -> usize {
        self.groups[t].own
    }

    /// The layer's own part of θ_t.
    pub(crate) fn layer_parameters(&self, t: usize) -> &[T] {
        &self.parameters[t][..self.groups[t].own]
    }

    /// The loss's part of θ_t.
    pub(crate) fn loss_parameters(&self, t: usize) -> &[T] {
        &self.parameters[t][self.groups[t].own..]
    }

    /// Replaces all θ_t, which have been checked already, and the seed.
    #[cfg(feature = "storage")]
    pub(crate) fn put(&mut self, parameters: Vec<Vec<T>>, seed: u64) {
        (self.parameters, self.seed) = (parameters, seed);
    }

    /// Appends a group of a loss's parameters to θ_t.
    #[cfg(feature = "storage")]
    pub(crate) fn append(&mut self, t: usize, group: ParameterGroup, values: &[T]) {
        let start = self.parameters[t].len();
        self.parameters[t].extend_from_slice(values);
        let range = start..self.parameters[t].len();
        self.groups[t].all.push(ParameterGroup { range, ..group });
    }

    /// All θ_t, for steps that have been checked already.
    pub(crate) fn parameters_mut(&mut self) -> &mut [Vec<T>] {
        &mut self.parameters
    }

    /// Number of parameters of all layers.
    pub fn parameter_count(&self) -> usize {
        self.parameters.iter().map(Vec::len).sum()
    }

    /// Replaces θ_t.
    ///
    /// # Errors
    /// [`Error::UnknownLayer`], [`Error::Length`], [`Error::NonFiniteData`].
    #[doc(alias("load", "weights"))]
    pub fn set_parameters(&mut self, t: usize, parameters: &[T]) -> Result<(), Error> {
        let depth = self.depth();
        let own = self.parameters.get_mut(t);
        let own = own.ok_or_else(|| Error::unknown_layer(t, 0..depth))?;
        if parameters.len() != own.len() {
            check_length(&format!("parameters of layer {t}"), parameters, own.len())?;
        }
        check_finite(Quantity::Parameter, t, parameters.len().max(1), parameters)?;
        own.copy_from_slice(parameters);
        Ok(())
    }

    /// Makes room for the losses' parameters after those of the layers. Values are kept where a loss
    /// has the same groups as before, in whatever order.
    pub(crate) fn attach<'l>(
        &mut self,
        loss: impl Fn(usize) -> &'l dyn Loss<T>,
    ) -> Result<(), Error> {
        let mut attached = Vec::with_capacity(self.depth());
        for t in 0..self.depth() {
            let loss = loss(t);
            let dim = self.dims[t + 1];
            let own = self.groups[t].own;
            let of_loss = loss.parameters(dim);
            check_layout(&of_loss, t)?;
            let count = of_loss.last().map_or(0, |group| group.range.end);
            let length = own.saturating_add(count);
            let mut values = parameter_vector(length)?;
            let all = all_groups(self.layer(t), loss);
            values.extend_from_slice(self.layer_parameters(t));
            values.resize(length, T::zero());
            let layers = all.len() - of_loss.len();
            let before = &self.groups[t].all[layers..];
            let place = |group: &ParameterGroup| {
                let alike =
                    |old: &&ParameterGroup| (&old.name, &old.shape) == (&group.name, &group.shape);
                before.iter().find(alike).map(|old| old.range.clone())
            };
            let places: Option<Vec<_>> = all[layers..].iter().map(place).collect();
            match places.filter(|places| places.len() == before.len()) {
                _ if all == self.groups[t].all => values.copy_from_slice(&self.parameters[t]),
                Some(places) => {
                    for (group, place) in all[layers..].iter().zip(places) {
                        values[group.range.clone()].copy_from_slice(&self.parameters[t][place]);
                    }
                }
                None => loss.initialize(dim, &mut values[own..]),
            }
            check_finite(Quantity::Parameter, t, length.max(1), &values)?;
            attached.push((all, values));
        }
        for (t, (all, values)) in attached.into_iter().enumerate() {
            self.groups[t].all = all;
            self.parameters[t] = values;
        }
        Ok(())
    }

    /// The plain forward pass: ẑ_T for every column of `inputs` (d_0 × n).
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::NonFiniteData`], [`Error::TooLarge`], the errors of layer 0's
    /// [`Layer::check_input`], or [`Error::Overflow`].
    #[doc(alias("forward", "inference"))]
    pub fn predict(&self, inputs: &DMatrix<T>) -> Result<DMatrix<T>, Error> {
        self.check_inputs(inputs)?;
        self.check_output(inputs.ncols())?;
        let output = self.output(inputs);
        check_result(Quantity::Prediction, self.depth() - 1, output.as_slice())?;
        Ok(output)
    }

    /// [`Circuit::predict`] without checks.
    pub(crate) fn output(&self, inputs: &DMatrix<T>) -> DMatrix<T> {
        let (n, dim) = (inputs.ncols(), self.dims[self.depth()]);
        let mut output = Vec::with_capacity(dim * n);
        // In blocks: the hidden layers of all columns together may need far more memory.
        let block = self.output_block();
        for start in (0..n).step_by(block) {
            let count = block.min(n - start);
            let rows = inputs.nrows();
            let block = &inputs.as_slice()[start * rows..][..count * rows];
            output.extend(self.forward(block, count, self.depth(), |_, _| {}));
        }
        DMatrix::from_vec(dim, n, output)
    }

    /// The output of layer t alone for every column of `inputs` (d_t × n).
    pub(crate) fn output_of(&self, t: usize, inputs: &DMatrix<T>) -> Result<DMatrix<T>, Error> {
        let (layer, n) = (self.layer(t), inputs.ncols());
        let mut output = DMatrix::zeros(layer.output_dim(), n);
        let mut work = vec![T::zero(); layer.scratch(n).work];
        let context = Context::inference(self.seed, t);
        let (parameters, inputs) = (self.layer_parameters(t), inputs.as_slice());
        let to = output.as_mut_slice();
        layer.forward(&context, parameters, inputs, to, None, &mut work);
        check_result(Quantity::Prediction, t, output.as_slice())?;
        Ok(output)
    }

    /// Rejects more columns than [`Circuit::output`] can hold in memory.
    pub(crate) fn check_output(&self, n: usize) -> Result<(), Error> {
        self.check_forward(n.min(self.output_block()))?;
        check_room::<T>("predictions", self.dims[self.depth()], n)
    }

    /// Columns of a block of [`Circuit::output`]: fewer where layers are wide.
    fn output_block(&self) -> usize {
        const VALUES: usize = 1 << 23;
        (VALUES / self.values_per_column().max(1)).clamp(1, BLOCK)
    }

    /// The most values that one layer of a forward pass holds at a time for each column.
    fn values_per_column(&self) -> usize {
        let values = |layer: &dyn Layer<T>| {
            let ends = layer.input_dim().saturating_add(layer.output_dim());
            ends.saturating_add(layer.scratch(1).work)
        };
        self.layers().map(values).max().unwrap_or(0)
    }

    /// Rejects more columns than [`Circuit::forward`] can hold in memory.
    pub(crate) fn check_forward(&self, n: usize) -> Result<(), Error> {
        check_room::<T>("a forward pass", self.values_per_column(), n)
    }

    /// The output of layer `layers` − 1 in the plain forward pass over n columns; `each` is called
    /// with every earlier t and ẑ_t.
    pub(crate) fn forward(
        &self,
        inputs: &[T],
        n: usize,
        layers: usize,
        mut each: impl FnMut(usize, &[T]),
    ) -> Vec<T> {
        let mut current = inputs.to_vec();
        for (t, layer) in self.layers().enumerate().take(layers) {
            let mut output = vec![T::zero(); layer.output_dim() * n];
            let mut work = vec![T::zero(); layer.scratch(n).work];
            let context = Context::inference(self.seed, t);
            let parameters = self.layer_parameters(t);
            layer.forward(&context, parameters, &current, &mut output, None, &mut work);
            current = output;
            each(t + 1, &current);
        }
        current
    }

    pub(crate) fn check_inputs(&self, inputs: &DMatrix<T>) -> Result<(), Error> {
        let what = "inputs, one column per example";
        check_rows(what, inputs, self.dims[0], inputs.ncols())?;
        check_finite(Quantity::Input, 0, self.dims[0], inputs.as_slice())?;
        self.layers[0].check_input(inputs.as_slice())
    }

    /// Multiply-adds of one product of each layer on `n` examples, estimated if unknown.
    pub(crate) fn work(&self, n: usize) -> impl Iterator<Item = usize> + Clone {
        let layers = self.layers.iter().zip(&self.parameters);
        layers.map(move |(layer, own)| match layer.cost() {
            Some(cost) => cost.saturating_mul(n),
            // The cost is unknown, so assume that it is large.
            None => own.len().saturating_mul(n).max(LEAST_WORK),
        })
    }
}

/// Number of examples per block when all examples are evaluated.
pub(crate) const BLOCK: usize = 1024;

/// Description of a [`Circuit`]; [`CircuitBuilder::build`] checks it. The default seed is 0.
#[derive(Debug)]
pub struct CircuitBuilder<T: Scalar> {
    layers: Vec<Arc<dyn Layer<T>>>,
    seed: u64,
}

impl<T: Scalar> CircuitBuilder<T> {
    /// Appends a layer, which may also be a `Box<dyn Layer<T>>` or an `Arc<dyn Layer<T>>`.
    pub fn layer(mut self, layer: impl Layer<T> + 'static) -> Self {
        self.layers.push(Arc::new(layer));
        self
    }

    /// Appends several layers, in order.
    pub fn layers<L: Layer<T> + 'static>(self, layers: impl IntoIterator<Item = L>) -> Self {
        layers.into_iter().fold(self, Self::layer)
    }

    /// Sets the seed of the initial parameters (each layer has a separate stream) and of stochastic
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
        let seed = self.seed;
        self.build_with(|t, layer| {
            let own = parameter_count(layer);
            let mut values = parameter_vector(own)?;
            values.resize(own, T::zero());
            let mut rng = generator(seed, Purpose::Parameters, t as u64);
            layer.initialize(&mut values, &mut rng);
            Ok(values)
        })
    }

    /// [`CircuitBuilder::build`] with other initial `parameters` of every layer.
    pub(crate) fn build_with(
        self,
        parameters: impl Fn(usize, &dyn Layer<T>) -> Result<Vec<T>, Error>,
    ) -> Result<Circuit<T>, Error> {
        check_chain(&self.layers, "circuit")?;
        let mut dims = vec![self.layers[0].input_dim()];
        dims.extend(self.layers.iter().map(|layer| layer.output_dim()));
        let mut groups = Vec::with_capacity(self.layers.len());
        let mut all_values = Vec::with_capacity(self.layers.len());
        for (t, layer) in self.layers.iter().enumerate() {
            let values = parameters(t, layer.as_ref())?;
            let own = values.len();
            check_finite(Quantity::Parameter, t, own.max(1), &values)?;
            all_values.push(values);
            let all = layer.parameters();
            groups.push(Groups { all, own });
        }
        Ok(Circuit {
            layers: self.layers,
            groups,
            parameters: all_values,
            dims,
            seed: self.seed,
        })
    }
}

/// The blocks of the complete θ_t: the layer's, then its loss's.
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

/// Memory for a θ_t of `length` parameters.
fn parameter_vector<T>(length: usize) -> Result<Vec<T>, Error> {
    room("a parameter vector", length, 1)
}
