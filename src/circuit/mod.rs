//! The feed-forward circuit and its decoupled objective.

mod builder;

use std::sync::Arc;

use nalgebra::DMatrix;

pub use builder::CircuitBuilder;
pub(crate) use builder::all_groups;

use crate::check::{check_finite, check_length, check_weights};
use crate::energy::local_problem::Regularization;
use crate::energy::{Batch, LocalProblem, LocalWorkspace, Wanted, Workspace};
use crate::error::{Error, Quantity};
use crate::kernel::Scalar;
use crate::kernel::{Execution, LEAST_WORK};
use crate::kernel::{add_to, total};
use crate::layer::{Context, Layer, ParameterGroup};
use crate::loss::{Loss, Pair};
use crate::regularizer::Regularizer;

/// A feed-forward circuit of depth T with its objective: layers f_t, parameters θ_t, the output
/// loss L, and a hidden loss L_h with a weight μ_t for every hidden layer t = 1, …, T−1.
///
/// E(θ, Z) = Σᵢ [ L(z_Tⁱ, ẑ_Tⁱ) + Σ_{t=1}^{T−1} μ_t L_h(z_tⁱ, ẑ_tⁱ) ],  ẑ_{t+1} = f_t(z_t, θ_t)
///
/// Where asked for, each example i counts with a weight wᵢ, and brings Σ_t R(θ_t) + Σ_t S(z_tⁱ) of
/// a [`Regularizer`] each with it.
///
/// It holds no examples: [`DecoupledCircuit`](crate::decoupled::DecoupledCircuit) adds those and their
/// auxiliary targets. Cloning copies the parameters and shares the layers, which are immutable.
///
/// # Examples
/// ```
/// use layerwise::Circuit;
/// use layerwise::layer::{Activation, Dense};
/// use layerwise::loss::SquaredError;
/// use nalgebra::DMatrix;
///
/// let circuit = Circuit::<f64>::builder()
///     .layer(Dense::new(2, 3, Activation::Tanh)?)
///     .layer(Dense::new(3, 1, Activation::Identity)?)
///     .output_loss(SquaredError)
///     .build()?;
/// let outputs = circuit.predict(&DMatrix::zeros(2, 5))?;
/// assert_eq!(outputs.shape(), (1, 5));
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Circuit<T: Scalar> {
    layers: Vec<Arc<dyn Layer<T>>>,
    groups: Vec<Groups>,
    /// θ_t: the layer's parameters, then those of its loss.
    parameters: Vec<Vec<T>>,
    /// R_0, …, R_{T−1}.
    parameter_regularizers: Vec<Regularizer>,
    /// S_1, …, S_{T−1}.
    target_regularizers: Vec<Regularizer>,
    output_loss: Arc<dyn Loss<T>>,
    /// L_h of z_1, …, z_{T−1}.
    hidden_losses: Vec<Arc<dyn Loss<T>>>,
    /// μ_1, …, μ_{T−1}.
    penalties: Vec<T>,
    /// d_0, …, d_T.
    dims: Vec<usize>,
    seed: u64,
}

/// The blocks of one θ_t.
#[derive(Debug, Clone)]
pub(crate) struct Groups {
    pub(crate) all: Vec<ParameterGroup>,
    /// Number of the layer's own parameters, which come first.
    own: usize,
}

impl<T: Scalar> Circuit<T> {
    /// Starts the description of a circuit.
    pub fn builder() -> CircuitBuilder<T> {
        CircuitBuilder::new()
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

    /// Layer t.
    ///
    /// # Panics
    /// If t ≥ T.
    pub fn layer(&self, t: usize) -> &dyn Layer<T> {
        self.layers[t].as_ref()
    }

    pub(crate) fn layers(&self) -> impl Iterator<Item = &dyn Layer<T>> {
        self.layers.iter().map(AsRef::as_ref)
    }

    /// θ_t, flat: what [`Circuit::parameter_groups`] describes.
    ///
    /// # Panics
    /// If t ≥ T.
    pub fn parameters(&self, t: usize) -> &[T] {
        &self.parameters[t]
    }

    /// The blocks of θ_t: those of the layer, then those of its loss, if it has parameters.
    ///
    /// # Panics
    /// If t ≥ T.
    pub fn parameter_groups(&self, t: usize) -> &[ParameterGroup] {
        &self.groups[t].all
    }

    /// The layer's own part of θ_t.
    pub(crate) fn layer_parameters(&self, t: usize) -> &[T] {
        &self.parameters[t][..self.groups[t].own]
    }

    /// The loss's part of θ_t.
    pub(crate) fn loss_parameters(&self, t: usize) -> &[T] {
        &self.parameters[t][self.groups[t].own..]
    }

    /// S_1, …, S_{T−1}.
    pub(crate) fn target_regularizers(&self) -> &[Regularizer] {
        &self.target_regularizers
    }

    /// Σ_t R(θ_t), what every example brings to E with it.
    pub(crate) fn parameter_regularization(&self) -> T {
        let layers = self.parameters.iter().zip(&self.groups);
        let mut sum = T::zero();
        for ((own, groups), regularizer) in layers.zip(&self.parameter_regularizers) {
            for group in groups.all.iter().filter(|group| group.decays) {
                sum += regularizer.value(&own[group.range.clone()]);
            }
        }
        sum
    }

    /// All θ_t, for an optimiser that has checked its step.
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
    pub fn set_parameters(&mut self, t: usize, parameters: &[T]) -> Result<(), Error> {
        let depth = self.depth();
        let own = self.parameters.get_mut(t).ok_or(Error::UnknownLayer {
            layer: t,
            allowed: format!("0..{depth}"),
        })?;
        check_length(&format!("parameters of layer {t}"), parameters, own.len())?;
        check_finite(Quantity::Parameter, t, parameters.len().max(1), parameters)?;
        own.copy_from_slice(parameters);
        Ok(())
    }

    /// The loss of layer t's local problem: L_h for z_{t+1}, or L if t = T−1.
    ///
    /// # Panics
    /// If t ≥ T.
    pub fn loss(&self, t: usize) -> &dyn Loss<T> {
        assert!(t < self.depth(), "layer {t} of {}", self.depth());
        match self.hidden_losses.get(t) {
            Some(loss) => loss.as_ref(),
            None => self.output_loss.as_ref(),
        }
    }

    /// μ_{t+1}, the weight of layer t's local problem: 1 if t = T−1.
    ///
    /// # Panics
    /// If t ≥ T.
    pub fn weight(&self, t: usize) -> T {
        assert!(t < self.depth(), "layer {t} of {}", self.depth());
        self.penalties.get(t).copied().unwrap_or(T::one())
    }

    /// μ_1, …, μ_{T−1}.
    pub fn penalties(&self) -> &[T] {
        &self.penalties
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

    /// The plain forward pass: ẑ_T for every column of `inputs` (d_0 × n).
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::NonFiniteData`], or what layer 0 says of its input.
    pub fn predict(&self, inputs: &DMatrix<T>) -> Result<DMatrix<T>, Error> {
        self.check_inputs(inputs)?;
        let n = inputs.ncols();
        let mut current = inputs.as_slice().to_vec();
        for (t, layer) in self.layers().enumerate() {
            let mut output = vec![T::zero(); layer.output_dim() * n];
            let mut work = vec![T::zero(); layer.scratch(n).work];
            let context = Context::inference(self.seed, t);
            let parameters = self.layer_parameters(t);
            layer.forward(&context, parameters, &current, &mut output, None, &mut work);
            current = output;
        }
        Ok(DMatrix::from_vec(self.dims[self.depth()], n, current))
    }

    /// The composed loss Σᵢ L(z_Tⁱ, ẑ_Tⁱ) of the plain forward pass, a sum over the columns,
    /// without regularisers.
    ///
    /// # Errors
    /// Those of [`Circuit::predict`], [`Error::ExampleCount`], and what the loss says of its
    /// targets.
    pub fn composed_loss(&self, inputs: &DMatrix<T>, targets: &DMatrix<T>) -> Result<T, Error> {
        self.check_outputs(inputs.ncols(), targets)?;
        let prediction = self.predict(inputs)?;
        let (dim, n) = prediction.shape();
        let mut values = vec![T::zero(); n];
        let mut work = vec![T::zero(); self.output_loss.scratch(dim, n)];
        self.output_loss.evaluate(
            &Pair::new(dim, targets.as_slice(), prediction.as_slice())
                .with_parameters(self.loss_parameters(self.depth() - 1)),
            &mut values,
            crate::kernel::Write::Skip,
            crate::kernel::Write::Skip,
            &mut work,
        );
        Ok(total(&values))
    }

    pub(crate) fn check_inputs(&self, inputs: &DMatrix<T>) -> Result<(), Error> {
        check_rows(
            "inputs, one example a column",
            inputs,
            self.dims[0],
            inputs.ncols(),
        )?;
        check_finite(Quantity::Input, 0, self.dims[0], inputs.as_slice())?;
        self.layers[0].check_input(inputs.as_slice())
    }

    pub(crate) fn check_outputs(&self, n: usize, targets: &DMatrix<T>) -> Result<(), Error> {
        let depth = self.depth();
        check_rows(
            "targets, one example a column",
            targets,
            self.dims[depth],
            n,
        )?;
        if targets.ncols() != n {
            return Err(Error::ExampleCount {
                inputs: n,
                targets: targets.ncols(),
            });
        }
        let values = targets.as_slice();
        check_finite(Quantity::Target, depth, self.dims[depth], values)?;
        self.output_loss.check_target(self.dims[depth], values)
    }

    /// The local problem of layer t on a batch.
    ///
    /// # Panics
    /// If t ≥ T, or the batch is of a circuit with other dimensions.
    pub fn local_problem<'a>(&'a self, t: usize, batch: Batch<'a, T>) -> LocalProblem<'a, T> {
        assert_eq!(batch.dims, self.dims, "a batch of this circuit");
        self.local_problem_at(t, batch, batch.z(t))
    }

    /// The local problem of layer t with another input than z_t, such as ẑ_t.
    pub(crate) fn local_problem_at<'a>(
        &'a self,
        t: usize,
        batch: Batch<'a, T>,
        input: &'a [T],
    ) -> LocalProblem<'a, T> {
        // S belongs to auxiliary targets, not to z_T.
        let targets = self.target_regularizers.get(t).copied();
        LocalProblem {
            layer: self.layer(t),
            parameters: &self.parameters[t],
            own: self.groups[t].own,
            loss: self.loss(t),
            weight: self.weight(t),
            input,
            target: batch.z(t + 1),
            context: batch.context(self.seed, t),
            example_weights: batch.weights,
            regularization: Regularization {
                parameters: self.parameter_regularizers[t],
                groups: &self.groups[t].all,
                targets: targets.unwrap_or_default(),
            },
            multipliers: batch.multipliers.get(t).map_or(&[], |own| own),
        }
    }

    /// E on a batch, and the gradients that are wanted, into the workspace: ∂E/∂θ_t, and for
    /// `targets` ∂E/∂z_t, t = 1, …, T−1, its target part plus its input part.
    ///
    /// Every layer's problem is evaluated alone, in an order that `execution` chooses; E is summed
    /// in the order of the layers. Sums over examples, nothing is averaged.
    pub fn evaluate(
        &self,
        batch: Batch<'_, T>,
        parameters: bool,
        targets: bool,
        workspace: &mut Workspace<T>,
        execution: Execution,
    ) -> T {
        let batch = batch.with_execution(execution);
        self.differentiate(batch, true, [parameters, targets], workspace);
        workspace.energy()
    }

    /// The batch with the execution that fits a pass over this circuit's layers best, where that is
    /// left open.
    pub(crate) fn fitted<'a>(&self, batch: Batch<'a, T>) -> Batch<'a, T> {
        let execution = batch.execution.fitted(self.work(batch.len()));
        batch.with_execution(execution)
    }

    /// Multiply-adds of one product of each layer on `n` examples, as far as they are known.
    pub(crate) fn work(&self, n: usize) -> impl Iterator<Item = usize> + Clone {
        let layers = self.layers.iter().zip(&self.parameters);
        layers.map(move |(layer, own)| match layer.cost() {
            Some(cost) => cost.saturating_mul(n),
            // Unknown: much, perhaps.
            None => own.len().saturating_mul(n).max(LEAST_WORK),
        })
    }

    /// Every ẑ_{t+1} = f_t(z_t, θ_t) of a batch, into the workspace.
    pub(crate) fn predict_locally(&self, batch: Batch<'_, T>, workspace: &mut Workspace<T>) {
        workspace.fit(self);
        let batch = self.fitted(batch);
        batch.execution.for_each(&mut workspace.locals, |t, local| {
            self.local_problem(t, batch).predict(local);
        });
    }

    /// [`Circuit::evaluate`] as the batch's execution says, without predictions unless `predict`:
    /// one pass over each layer's problem.
    pub(crate) fn differentiate(
        &self,
        batch: Batch<'_, T>,
        predict: bool,
        [parameters, targets]: [bool; 2],
        workspace: &mut Workspace<T>,
    ) {
        workspace.fit(self);
        workspace.spent = false;
        let batch = self.fitted(batch);
        let execution = batch.execution;
        execution.for_each(&mut workspace.locals, |t, local| {
            let problem = self.local_problem(t, batch);
            if predict {
                problem.predict(local);
            }
            problem.differentiate(self.wanted(t, parameters, targets), local);
        });
        if targets {
            add_input_parts(workspace, execution);
        }
    }

    /// [`Circuit::differentiate`] with the inputs too taken from the predictions in the workspace,
    /// those of a forward pass: only the targets of the losses have moved.
    pub(crate) fn differentiate_frozen(
        &self,
        batch: Batch<'_, T>,
        parameters: bool,
        targets: bool,
        workspace: &mut Workspace<T>,
    ) -> T {
        workspace.spent = false;
        for t in 0..self.depth() {
            let (before, after) = workspace.locals.split_at_mut(t);
            let input = forward_input(batch, before);
            let wanted = self.wanted(t, parameters, targets);
            self.local_problem_at(t, batch, input)
                .differentiate(wanted, &mut after[0]);
        }
        if targets {
            add_input_parts(workspace, batch.execution);
        }
        workspace.energy()
    }

    /// What layer t's problem brings to gradients in θ and z.
    pub(crate) fn wanted(&self, t: usize, parameters: bool, targets: bool) -> Wanted {
        Wanted {
            parameters,
            input: targets && t > 0,
            target: targets && t + 1 < self.depth(),
        }
    }

    /// The composed loss Σᵢ wᵢ L(z_Tⁱ, ẑ_Tⁱ) of the plain forward pass over a batch, without
    /// regularisers.
    pub(crate) fn composed_loss_on(&self, batch: Batch<'_, T>, workspace: &mut Workspace<T>) -> T {
        self.forward_pass(batch, workspace);
        self.output_loss_on(batch, workspace)
    }

    /// The same for a workspace that holds the forward pass over the batch.
    pub(crate) fn output_loss_on(&self, batch: Batch<'_, T>, workspace: &mut Workspace<T>) -> T {
        let last = self.depth() - 1;
        let (before, after) = workspace.locals.split_at_mut(last);
        let input = forward_input(batch, before);
        let problem = LocalProblem {
            regularization: Regularization::default(),
            ..self.local_problem_at(last, batch, input)
        };
        problem.differentiate(Wanted::NONE, &mut after[0])
    }

    /// The plain forward pass over a batch's inputs z_0: ẑ_1, …, ẑ_T, with what the derivatives
    /// need, into the workspace. Its bits are those of the local predictions at z = ẑ.
    pub(crate) fn forward_pass(&self, batch: Batch<'_, T>, workspace: &mut Workspace<T>) {
        workspace.fit(self);
        predict_in_chain(|t| self.local_problem(t, batch), workspace);
    }
}

/// ∂E/∂z_t: the target part stands in the workspace, the input part is added to it.
pub(crate) fn add_input_parts<T: Scalar>(workspace: &mut Workspace<T>, execution: Execution) {
    // Pairs of neighbours in two passes, so that no workspace is in two pairs of one pass.
    for first in 0..2.min(workspace.locals.len()) {
        execution.for_each_chunk(&mut workspace.locals[first..], 2, |_, pair| {
            if let [below, above] = pair {
                add_to(&mut below.d_target, &above.d_input);
            }
        });
    }
}

/// The plain forward pass through local problems 0, …, T−1: ẑ_1, …, ẑ_T, with what the derivatives
/// need, into a workspace that fits their circuit.
pub(crate) fn predict_in_chain<'a, T: Scalar>(
    problem: impl Fn(usize) -> LocalProblem<'a, T>,
    workspace: &mut Workspace<T>,
) {
    for t in 0..workspace.locals.len() {
        let (before, after) = workspace.locals.split_at_mut(t);
        fed(problem(t), before).predict(&mut after[0]);
    }
}

/// The problem with the prediction of the layer before it as its input.
pub(crate) fn fed<'a, T: Scalar>(
    problem: LocalProblem<'a, T>,
    before: &'a [LocalWorkspace<T>],
) -> LocalProblem<'a, T> {
    match before.last() {
        None => problem,
        Some(local) => LocalProblem {
            input: &local.prediction,
            ..problem
        },
    }
}

/// What the plain forward pass feeds to the layer behind these.
pub(crate) fn forward_input<'a, T: Scalar>(
    batch: Batch<'a, T>,
    before: &'a [LocalWorkspace<T>],
) -> &'a [T] {
    match before.last() {
        None => batch.z(0),
        Some(local) => &local.prediction,
    }
}

/// `columns` is only told: what it must be has an error of its own.
fn check_rows<T: Scalar>(
    what: &str,
    matrix: &DMatrix<T>,
    rows: usize,
    columns: usize,
) -> Result<(), Error> {
    if matrix.nrows() == rows {
        return Ok(());
    }
    Err(Error::Shape {
        what: what.into(),
        expected: (rows, columns),
        found: matrix.shape(),
    })
}
