//! E on one batch.

use nalgebra::DMatrix;

use crate::check::{check_finite, check_length, check_weights};
use crate::circuit::Circuit;
use crate::energy::batch::Batch;
use crate::energy::evaluation::{Composed, Evaluation};
use crate::energy::local_problem::{LocalProblem, Regularization};
use crate::energy::terms::Terms;
use crate::energy::wanted::{Ask, Wanted};
use crate::energy::workspace::{LocalWorkspace, Workspace};
use crate::error::{Error, Quantity};
use crate::kernel::{Execution, Scalar, Write, add_to, total};
use crate::layer::Layer;
use crate::loss::{Loss, Pair};
use crate::regularizer::Regularizer;

/// The layers of a circuit, each with its loss, weight and regularisers: E before a batch is
/// chosen.
#[derive(Debug, Clone, Copy)]
pub struct Layers<'a, T: Scalar> {
    circuit: &'a Circuit<T>,
    terms: &'a Terms<T>,
    /// μ_1, …, μ_{T−1}, from the terms or replaced.
    penalties: &'a [T],
    /// Which layers need no gradient in θ_t; empty if all need it.
    frozen: &'a [bool],
}

impl<'a, T: Scalar> Layers<'a, T> {
    pub(crate) fn new(circuit: &'a Circuit<T>, terms: &'a Terms<T>) -> Self {
        Self {
            circuit,
            terms,
            penalties: terms.penalties(),
            frozen: &[],
        }
    }

    /// Replaces the penalties; their number must fit.
    pub(crate) fn at_penalties(self, penalties: &'a [T]) -> Self {
        Self { penalties, ..self }
    }

    /// Skips the gradients in θ_t of `frozen` layers, whatever an evaluation requests: what the
    /// workspace holds for them is meaningless.
    pub(crate) fn without_gradients_of(self, frozen: &'a [bool]) -> Self {
        Self { frozen, ..self }
    }

    /// The circuit.
    pub fn circuit(&self) -> &'a Circuit<T> {
        self.circuit
    }

    /// T, the number of layers.
    pub fn depth(&self) -> usize {
        self.circuit.depth()
    }

    /// d_0, …, d_T.
    pub fn dims(&self) -> &'a [usize] {
        self.circuit.dims()
    }

    /// Layer t. Panics if t ≥ T.
    pub fn layer(&self, t: usize) -> &'a dyn Layer<T> {
        self.circuit.layer(t)
    }

    /// The loss of layer t's local problem: L_h for z_{t+1}, or L if t = T−1. Panics if t ≥ T.
    pub fn loss(&self, t: usize) -> &'a dyn Loss<T> {
        self.terms.loss(t)
    }

    /// μ_{t+1}, the weight of layer t's local problem: 1 if t = T−1. Panics if t ≥ T.
    pub fn weight(&self, t: usize) -> T {
        assert!(t < self.depth(), "layer {t} of {}", self.depth());
        self.penalties.get(t).copied().unwrap_or(T::one())
    }

    /// μ_1, …, μ_{T−1}.
    pub fn penalties(&self) -> &'a [T] {
        self.penalties
    }

    /// S_1, …, S_{T−1}.
    pub fn target_regularizers(&self) -> &'a [Regularizer] {
        self.terms.target_regularizers()
    }

    pub(crate) fn layer_parameters(&self, t: usize) -> &'a [T] {
        self.circuit.layer_parameters(t)
    }

    pub(crate) fn loss_parameters(&self, t: usize) -> &'a [T] {
        self.circuit.loss_parameters(t)
    }

    /// Σ_t R(θ_t), which is added to E once per example.
    pub(crate) fn parameter_regularization(&self) -> T {
        let mut sum = T::zero();
        for t in 0..self.depth() {
            let regularizer = self.terms.parameter_regularizer(t);
            let own = self.circuit.parameters(t);
            let groups = self.circuit.parameter_groups(t).iter();
            for group in groups.filter(|group| group.decays) {
                sum += regularizer.value(&own[group.range.clone()]);
            }
        }
        sum
    }

    /// The composed loss Σᵢ L(z_Tⁱ, ẑ_Tⁱ) of the plain forward pass: a sum over the columns,
    /// without regularisers.
    pub(crate) fn composed_loss(
        &self,
        inputs: &DMatrix<T>,
        targets: &DMatrix<T>,
    ) -> Result<T, Error> {
        Ok(total(&self.composed_losses(inputs, targets)?))
    }

    /// The mean of these losses, which may fit T although their sum does not.
    pub(crate) fn mean_composed_loss(
        &self,
        inputs: &DMatrix<T>,
        targets: &DMatrix<T>,
    ) -> Result<f64, Error> {
        let (losses, n) = (
            self.composed_losses(inputs, targets)?,
            inputs.ncols() as f64,
        );
        let mean = total(&losses) / T::of(n);
        Ok(match mean.is_finite() {
            true => mean.as_f64(),
            false => losses.iter().map(|loss| loss.as_f64() / n).sum(),
        })
    }

    /// The losses L(z_Tⁱ, ẑ_Tⁱ), column by column.
    fn composed_losses(&self, inputs: &DMatrix<T>, targets: &DMatrix<T>) -> Result<Vec<T>, Error> {
        self.terms
            .check_outputs(self.circuit, inputs.ncols(), targets)?;
        self.circuit.check_inputs(inputs)?;
        self.circuit.check_output(inputs.ncols())?;
        let prediction = self.circuit.output(inputs);
        let (dim, n) = prediction.shape();
        let last = self.depth() - 1;
        let loss = self.loss(last);
        let mut values = vec![T::zero(); n];
        let mut work = vec![T::zero(); loss.scratch(dim, n)];
        let pair = Pair::new(dim, targets.as_slice(), prediction.as_slice())
            .with_parameters(self.loss_parameters(last));
        loss.evaluate(&pair, &mut values, Write::Skip, Write::Skip, &mut work);
        Ok(values)
    }

    /// E on a batch.
    pub(crate) fn on(self, batch: Batch<'a, T>) -> Problem<'a, T> {
        Problem {
            layers: self,
            batch,
            multipliers: &[],
        }
    }
}

/// E on one batch: the layers with their terms, μ, the columns of z_0, …, z_T and the multipliers
/// λ, all borrowed.
///
/// E = Σ_t ℓ_t is a sum of [`LocalProblem`]s, each a function of θ_t, z_t and z_{t+1} alone. With
/// g_{t+1} = ∂ℓ_t/∂ẑ_{t+1} (μ included),
///
/// ∂E/∂θ_t = (∂f_t/∂θ_t)ᵀ g_{t+1},  ∂E/∂z_t = ∂ℓ_{t−1}/∂z_t (as target) + (∂f_t/∂z_t)ᵀ g_{t+1}.
///
/// # Examples
/// ```
/// use layerwise::energy::{All, Workspace};
/// use layerwise::prelude::*;
///
/// let circuit = Circuit::<f64>::builder()
///     .layer(Dense::new(2, 3, Activation::Tanh)?)
///     .layer(Dense::new(3, 1, Activation::Identity)?)
///     .build()?;
/// let mut model = DecoupledCircuit::new(circuit, Energy::default())?;
/// let (x, y) = (DMatrix::from_element(2, 4, 0.5), DMatrix::zeros(1, 4));
/// model.add_examples(&x, &y, &TargetInit::ForwardPass)?;
/// let mut workspace = Workspace::new();
/// let evaluation = model.problem(0..4)?.evaluate(All, &mut workspace);
/// // At the forward pass the hidden gradients are zero, and E is the composed loss.
/// assert!(evaluation.parameter_gradient(0).iter().all(|&g| g == 0.0));
/// assert_eq!(evaluation.energy(), model.composed_loss()?);
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Problem<'a, T: Scalar> {
    pub(crate) layers: Layers<'a, T>,
    pub(crate) batch: Batch<'a, T>,
    /// λ_1, …, λ_{T−1} of these examples; empty if there are none.
    pub(crate) multipliers: &'a [Vec<T>],
}

impl<'a, T: Scalar> Problem<'a, T> {
    /// The layers with their terms.
    pub fn layers(&self) -> Layers<'a, T> {
        self.layers
    }

    /// The columns of z_0, …, z_T.
    pub fn batch(&self) -> Batch<'a, T> {
        self.batch
    }

    /// Sets μ_1, …, μ_{T−1}.
    ///
    /// # Errors
    /// [`Error::Length`], or [`Error::InvalidOption`] unless every weight is above 0 and finite.
    pub fn with_penalties(self, penalties: &'a [T]) -> Result<Self, Error> {
        check_length("penalties μ", penalties, self.layers.depth() - 1)?;
        check_weights("penalty μ", penalties)?;
        let layers = self.layers.at_penalties(penalties);
        Ok(Self { layers, ..self })
    }

    /// Adds Lagrange multipliers: E gains wᵢ λ_tⁱ·(z_tⁱ − ẑ_tⁱ) for t = 1, …, T−1 and every
    /// example. Each λ_t is d_t × n column-major.
    ///
    /// # Errors
    /// [`Error::Length`] unless there are T − 1 arrays, each as large as the targets z_t;
    /// [`Error::NonFiniteData`].
    pub fn with_multipliers(self, multipliers: &'a [Vec<T>]) -> Result<Self, Error> {
        check_multipliers(self.layers, self.batch.len(), multipliers)?;
        Ok(Self {
            multipliers,
            ..self
        })
    }

    /// Sets how the work is scheduled; the results do not depend on it.
    pub fn with_execution(self, execution: Execution) -> Self {
        let batch = self.batch.with_execution(execution);
        Self { batch, ..self }
    }

    /// The local problem of layer t. Panics if t ≥ T.
    pub fn local(&self, t: usize) -> LocalProblem<'a, T> {
        let Layers { circuit, terms, .. } = self.layers;
        // S applies to auxiliary targets, not to z_T.
        let targets = terms.target_regularizers().get(t).copied();
        LocalProblem {
            layer: circuit.layer(t),
            parameters: circuit.parameters(t),
            own: circuit.own_parameters(t),
            loss: terms.loss(t),
            weight: self.layers.weight(t),
            input: self.batch.z(t),
            target: self.batch.z(t + 1),
            context: self.batch.context(circuit.seed(), t),
            example_weights: self.batch.weights,
            regularization: Regularization {
                parameters: terms.parameter_regularizer(t),
                groups: circuit.parameter_groups(t),
                targets: targets.unwrap_or_default(),
            },
            multipliers: self.multipliers.get(t).map_or(&[], |own| own),
            frozen: self.layers.frozen.get(t).copied().unwrap_or(false),
        }
    }

    /// Computes E, summed in the order of the layers, and the requested gradients, in `workspace`.
    /// They are sums over examples, without averaging.
    pub fn evaluate<'w, W: Wanted>(
        &self,
        _wanted: W,
        workspace: &'w mut Workspace<T>,
    ) -> Evaluation<'w, T, W> {
        self.differentiate(W::ASK, true, workspace);
        Evaluation::new(workspace)
    }

    /// Computes the composed objective Σᵢ wᵢ \[ L(z_Tⁱ, ẑ_Tⁱ) + Σ_t R(θ_t) \] of the plain forward
    /// pass, its gradients in θ_t and the errors δ_t, in `workspace`. They are sums over examples.
    /// Auxiliary targets are not used. Rumelhart, Hinton & Williams 1986.
    pub fn backprop<'w>(&self, workspace: &'w mut Workspace<T>) -> Composed<'w, T> {
        workspace.fit(self.layers.depth());
        compose(|t| self.local(t), true, workspace);
        Composed::new(workspace)
    }

    /// [`Problem::backprop`] for a workspace that already holds the forward pass of the batch.
    pub(crate) fn carry_back(&self, workspace: &mut Workspace<T>) {
        carry_back(|t| self.local(t), true, workspace);
    }

    /// [`LocalProblem::carry_error`] from the last layer to the first, with the current predictions in the
    /// workspace: ∂E/∂c_t is left as the gradient in z_t.
    pub(crate) fn carry_errors(&self, workspace: &mut Workspace<T>) {
        for t in (0..self.layers.depth()).rev() {
            let (here, above) = workspace.locals[t..].split_at_mut(1);
            let above = above.first().map(|above| &above.d_input[..]);
            self.local(t).carry_error(above, t > 0, &mut here[0]);
        }
    }

    /// Replaces [`Execution::Automatic`] by the execution that best suits a pass over these layers.
    pub(crate) fn scheduled(self) -> Self {
        let work = self.layers.circuit.work(self.batch.len());
        self.with_execution(self.batch.execution.fitted(work))
    }

    /// Writes every ẑ_{t+1} = f_t(z_t, θ_t) to the workspace.
    pub(crate) fn predict_locally(&self, workspace: &mut Workspace<T>) {
        workspace.fit(self.layers.depth());
        let problem = self.scheduled();
        let execution = problem.batch.execution;
        execution.for_each(&mut workspace.locals, |t, local| {
            problem.local(t).predict(local);
        });
    }

    /// [`Problem::evaluate`] in one pass over each layer's problem; computes predictions only if
    /// `predict`.
    pub(crate) fn differentiate(&self, ask: Ask, predict: bool, workspace: &mut Workspace<T>) {
        let depth = self.layers.depth();
        workspace.fit(depth);
        let problem = self.scheduled();
        let execution = problem.batch.execution;
        execution.for_each(&mut workspace.locals, |t, local| {
            let problem = problem.local(t);
            if predict {
                problem.predict(local);
            }
            problem.differentiate(ask.of_layer(t, depth), local);
        });
        if ask.target {
            add_input_parts(workspace, execution);
        }
    }

    /// [`Problem::differentiate`], but every layer's input is taken from the forward pass in the
    /// workspace as well. Only the targets of the losses may have changed since that pass.
    pub(crate) fn differentiate_frozen(&self, ask: Ask, workspace: &mut Workspace<T>) -> T {
        let depth = self.layers.depth();
        for t in 0..depth {
            let (before, after) = workspace.locals.split_at_mut(t);
            fed(self.local(t), before).differentiate(ask.of_layer(t, depth), &mut after[0]);
        }
        if ask.target {
            add_input_parts(workspace, self.batch.execution);
        }
        workspace.energy()
    }

    /// The composed loss Σᵢ wᵢ L(z_Tⁱ, ẑ_Tⁱ) of the plain forward pass, without regularisers.
    pub(crate) fn composed_loss(&self, workspace: &mut Workspace<T>) -> T {
        self.forward_pass(workspace);
        self.output_loss(workspace)
    }

    /// [`Problem::composed_loss`] for a workspace that already holds the forward pass of the batch.
    pub(crate) fn output_loss(&self, workspace: &mut Workspace<T>) -> T {
        let last = self.layers.depth() - 1;
        let (before, after) = workspace.locals.split_at_mut(last);
        let problem = LocalProblem {
            regularization: Regularization::default(),
            ..fed(self.local(last), before)
        };
        problem.differentiate(Ask::VALUE, &mut after[0])
    }

    /// Runs the plain forward pass on the batch's inputs z_0, and writes ẑ_1, …, ẑ_T and the data
    /// for derivatives to the workspace. It is bit-identical to the local predictions at z = ẑ.
    pub(crate) fn forward_pass(&self, workspace: &mut Workspace<T>) {
        workspace.fit(self.layers.depth());
        predict_in_chain(|t| self.local(t), workspace);
    }
}

/// Checks that λ_1, …, λ_{T−1} are T − 1 finite arrays, each as large as the targets of n examples.
pub(crate) fn check_multipliers<T: Scalar>(
    layers: Layers<'_, T>,
    n: usize,
    multipliers: &[Vec<T>],
) -> Result<(), Error> {
    let hidden = 1..layers.depth();
    check_length("multipliers λ_1, …, λ_{T−1}", multipliers, hidden.len())?;
    for (t, own) in hidden.zip(multipliers) {
        let dim = layers.dims()[t];
        check_length("multipliers λ_t", own, n * dim)?;
        check_finite(Quantity::Multiplier, t, dim, own)?;
    }
    Ok(())
}

/// Adds the input part to ∂E/∂z_t, whose target part is already in the workspace.
pub(crate) fn add_input_parts<T: Scalar>(workspace: &mut Workspace<T>, execution: Execution) {
    // Process adjacent pairs in two passes, so that no workspace is in two pairs of one pass.
    for first in 0..2.min(workspace.locals.len()) {
        execution.for_each_chunk(&mut workspace.locals[first..], 2, |_, pair| {
            if let [below, above] = pair {
                add_to(&mut below.d_target, &above.d_input);
            }
        });
    }
}

/// The plain forward pass through local problems 0, …, T−1, in a workspace that fits their circuit.
pub(crate) fn predict_in_chain<'a, T: Scalar>(
    problem: impl Fn(usize) -> LocalProblem<'a, T>,
    workspace: &mut Workspace<T>,
) {
    for t in 0..workspace.locals.len() {
        let (before, after) = workspace.locals.split_at_mut(t);
        fed(problem(t), before).predict(&mut after[0]);
    }
}

/// The problem with the previous layer's prediction as its input.
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

/// The composed objective of local problems 0, …, T−1, where each layer's input is the previous
/// prediction, with the gradients in θ_t if requested. `workspace` must fit the circuit.
pub(crate) fn compose<'a, T: Scalar>(
    problem: impl Fn(usize) -> LocalProblem<'a, T>,
    gradients: bool,
    workspace: &mut Workspace<T>,
) -> T {
    predict_in_chain(&problem, workspace);
    carry_back(problem, gradients, workspace);
    workspace.energy()
}

/// [`compose`] after its forward pass.
fn carry_back<'a, T: Scalar>(
    problem: impl Fn(usize) -> LocalProblem<'a, T>,
    gradients: bool,
    workspace: &mut Workspace<T>,
) {
    for t in (0..workspace.locals.len()).rev() {
        let (before, after) = workspace.locals.split_at_mut(t);
        let problem = fed(problem(t), before);
        let (here, above) = after.split_at_mut(1);
        let here = &mut here[0];
        let Some(above) = above.first() else {
            problem.differentiate(Ask::new(gradients, gradients && t > 0, false), here);
            continue;
        };
        if gradients {
            let (d_own, d_loss) = here.d_parameters.split_at_mut(problem.own);
            let d_input = (t > 0).then_some(&mut here.d_input[..]);
            let d_own = (!problem.frozen).then_some(d_own);
            let point = [&here.prediction[..], &here.tape];
            problem.transpose(&above.d_input, [d_input, d_own], point, &mut here.work);
            // The hidden losses do not enter the composed objective.
            d_loss.fill(T::zero());
        }
        here.energies.fill(T::zero());
        problem.regularize_parameters(gradients, here);
        here.energy = total(&here.energies);
    }
}
