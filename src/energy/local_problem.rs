//! The local problem of one layer, which depends only on that layer.

use crate::check::{check_example_weights, check_finite, check_length, check_weights};
use crate::energy::evaluation::{Linearization, LocalEvaluation};
use crate::energy::wanted::{All, Ask, Value, Wanted};
use crate::energy::workspace::LocalWorkspace;
use crate::error::{Error, Quantity};
use crate::kernel::{Scalar, Squares, Write};
use crate::kernel::{
    add_scaled, add_to, all_finite, dot, scale, scale_columns, squared_distance, total,
};
use crate::layer::{Context, Layer, ParameterGroup, Point, check_layout, parameter_count};
use crate::loss::{Loss, Pair};
use crate::regularizer::Regularizer;

/// The local problem of layer t:
///
/// ```math
/// ℓ_t(θ_t, z_t, z_{t+1}) = μ_{t+1} ∑_i L_h(z_{t+1}^i, f_t(z_t^i, θ_t))
/// ```
///
/// and for the last layer Σᵢ L(z_Tⁱ, f_{T−1}(z_{T−1}ⁱ, θ_{T−1})).
///
/// It borrows only θ_t (the layer's parameters, then the loss's), z_t, z_{t+1}, the layer and the
/// loss. E = Σ_t ℓ_t, and the T problems can be evaluated in parallel, in any order. Values and
/// gradients are sums over examples, without averaging, and include μ. With example weights wᵢ,
/// regularisers R_t and S_{t+1}, and multipliers λ of the constraints z = ẑ,
///
/// ```math
/// ℓ_t = ∑_i w_i [ μ_{t+1} L_h(z_{t+1}^i, ẑ_{t+1}^i) + R_t(θ_t) + S_{t+1}(z_{t+1}^i) + λ_{t+1}^i · (z_{t+1}^i - ẑ_{t+1}^i) ]
/// ```
///
/// # Examples
/// ```
/// use layerwise::energy::{All, LocalProblem};
/// use layerwise::layer::{Activation, Dense};
/// use layerwise::loss::SquaredError;
///
/// let layer = Dense::new(2, 1, Activation::Identity)?;
/// let (weights, input, target) = ([1.0, 1.0, 0.5], [1.0, 2.0], [3.0]);
/// let problem = LocalProblem::new(&layer, &weights, &SquaredError, 2.0, &input, &target)?;
/// let mut workspace = problem.workspace();
/// let evaluation = problem.evaluate(All, &mut workspace);
/// assert_eq!(evaluation.energy(), 2.0 * 0.5 * 0.5 * 0.5);
/// assert_eq!(evaluation.parameter_gradient(), [1.0, 2.0, 1.0]);
/// assert_eq!(evaluation.target_gradient(), [-1.0]);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct LocalProblem<'a, T: Scalar> {
    pub(crate) layer: &'a dyn Layer<T>,
    /// θ_t: the layer's `own` parameters, then the loss's.
    pub(crate) parameters: &'a [T],
    pub(crate) own: usize,
    pub(crate) loss: &'a dyn Loss<T>,
    /// μ_{t+1}.
    pub(crate) weight: T,
    pub(crate) input: &'a [T],
    pub(crate) target: &'a [T],
    pub(crate) context: Context<'a>,
    /// One per example; empty if all are 1.
    pub(crate) example_weights: &'a [T],
    pub(crate) regularization: Regularization<'a>,
    /// λ_{t+1}, in the shape of the target; empty if there are none.
    pub(crate) multipliers: &'a [T],
    /// Whether no gradient in θ_t is needed, even if an evaluation requests it.
    pub(crate) frozen: bool,
}

/// R_t, for those groups of θ_t that decay, and S_{t+1}.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Regularization<'a> {
    pub(crate) parameters: Regularizer,
    pub(crate) groups: &'a [ParameterGroup],
    pub(crate) targets: Regularizer,
}

/// The value and gradients of a local problem, in owned memory.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct LocalGradients<T> {
    /// ℓ_t.
    pub energy: T,
    /// ∂ℓ_t/∂θ_t.
    pub parameters: Vec<T>,
    /// ∂ℓ_t/∂z_t, d_t × n column-major; empty if the layer is not differentiable in its input.
    pub input: Vec<T>,
    /// ∂ℓ_t/∂z_{t+1}, d_{t+1} × n column-major.
    pub target: Vec<T>,
}

impl<'a, T: Scalar> LocalProblem<'a, T> {
    /// A local problem on the caller's own arrays, without regularisers. `parameters` are the
    /// layer's, then the loss's; `weight` is μ_{t+1}; `input` is z_t (input_dim × n column-major);
    /// `target` is z_{t+1} (output_dim × n).
    ///
    /// # Errors
    /// [`Error::Length`] or [`Error::ExampleCount`] for arrays that do not fit the layer,
    /// [`Error::NoExamples`], [`Error::InvalidOption`] unless the weight is above 0 and finite,
    /// [`Error::NonFiniteData`], and the errors of the layer's and the loss's checks of their data.
    pub fn new(
        layer: &'a dyn Layer<T>,
        parameters: &'a [T],
        loss: &'a dyn Loss<T>,
        weight: T,
        input: &'a [T],
        target: &'a [T],
    ) -> Result<Self, Error> {
        crate::layer::validate(layer, 0)?;
        let own = parameter_count(layer);
        let groups = loss.parameters(layer.output_dim());
        check_layout(&groups, 0)?;
        let of_loss = groups.last().map_or(0, |group| group.range.end);
        check_length("parameters", parameters, own.saturating_add(of_loss))?;
        let n = whole_columns("input", input, layer.input_dim())?;
        let m = whole_columns("target", target, layer.output_dim())?;
        if n != m {
            return Err(Error::ExampleCount {
                inputs: n,
                targets: m,
            });
        }
        if n == 0 {
            return Err(Error::NoExamples {
                operation: "a local problem",
            });
        }
        check_weights("penalty μ", &[weight])?;
        check_finite(Quantity::Parameter, 0, parameters.len(), parameters)?;
        check_finite(Quantity::Input, 0, layer.input_dim(), input)?;
        check_finite(Quantity::Target, 1, layer.output_dim(), target)?;
        layer.check_input(input)?;
        loss.check_target(layer.output_dim(), target)?;
        Ok(Self {
            layer,
            parameters,
            own,
            loss,
            weight,
            input,
            target,
            context: Context::inference(0, 0),
            example_weights: &[],
            regularization: Regularization::default(),
            multipliers: &[],
            frozen: false,
        })
    }

    /// Gives every example a weight; a weight of 2 counts the example twice, and 0 leaves it out.
    ///
    /// # Errors
    /// [`Error::Length`], or [`Error::InvalidOption`] unless every weight is finite and not
    /// negative.
    pub fn with_example_weights(self, weights: &'a [T]) -> Result<Self, Error> {
        check_length("example weights", weights, self.examples())?;
        check_example_weights(weights)?;
        Ok(Self {
            example_weights: weights,
            ..self
        })
    }

    /// Adds Lagrange multipliers λ of the constraint z = ẑ, output_dim × n.
    ///
    /// λ·(z − ẑ) is computed as λ·z − λ·ẑ, with an absolute error of about ε |λ·z|: where z and ẑ are
    /// far from 0 compared with their difference, ℓ_t loses digits. Its gradients do not.
    ///
    /// # Errors
    /// [`Error::Length`], [`Error::NonFiniteData`].
    pub fn with_multipliers(self, multipliers: &'a [T]) -> Result<Self, Error> {
        check_length("multipliers", multipliers, self.target.len())?;
        let rows = self.layer.output_dim();
        check_finite(
            Quantity::Multiplier,
            self.layer().saturating_add(1),
            rows,
            multipliers,
        )?;
        Ok(Self {
            multipliers,
            ..self
        })
    }

    /// Sets the context, which stochastic layers use.
    pub fn in_context(self, context: Context<'a>) -> Self {
        Self { context, ..self }
    }

    /// The same problem with other parameters θ_t: the layer's, then the loss's.
    ///
    /// # Errors
    /// [`Error::Length`], [`Error::NonFiniteData`].
    pub fn at_parameters(self, parameters: &'a [T]) -> Result<Self, Error> {
        check_length("parameters", parameters, self.parameters.len())?;
        let rows = parameters.len().max(1);
        check_finite(Quantity::Parameter, self.layer(), rows, parameters)?;
        Ok(self.moved_to(parameters))
    }

    /// [`LocalProblem::at_parameters`] without checks.
    pub(crate) fn moved_to(self, parameters: &'a [T]) -> Self {
        Self { parameters, ..self }
    }

    /// θ_t: the layer's own parameters, then the loss's.
    pub fn parameters(&self) -> &'a [T] {
        self.parameters
    }

    /// z_t, input_dim × n column-major.
    pub fn input(&self) -> &'a [T] {
        self.input
    }

    /// z_{t+1}, output_dim × n column-major.
    pub fn target(&self) -> &'a [T] {
        self.target
    }

    /// The layer f_t.
    pub fn function(&self) -> &'a dyn Layer<T> {
        self.layer
    }

    /// The loss L_h, or L if the layer is the last.
    pub fn loss(&self) -> &'a dyn Loss<T> {
        self.loss
    }

    /// μ_{t+1}; 1 if the layer is the last.
    pub fn weight(&self) -> T {
        self.weight
    }

    /// The examples' weights wᵢ; `None` if every weight is 1.
    pub fn example_weights(&self) -> Option<&'a [T]> {
        (!self.example_weights.is_empty()).then_some(self.example_weights)
    }

    /// The layer's index t.
    pub fn layer(&self) -> usize {
        self.context.layer
    }

    /// Number of examples n.
    pub fn examples(&self) -> usize {
        self.input.len() / self.layer.input_dim()
    }

    /// Memory for evaluating this problem. It can be used for any other problem too, and grows if
    /// that is larger.
    pub fn workspace(&self) -> LocalWorkspace<T> {
        let mut workspace = LocalWorkspace::new();
        self.fit(&mut workspace);
        workspace
    }

    pub(crate) fn fit(&self, workspace: &mut LocalWorkspace<T>) {
        let (parameters, n) = (self.parameters.len(), self.examples());
        workspace.fit(self.layer, self.loss, parameters, n);
    }

    /// Evaluates f_t at (z_t, θ_t) in `workspace`: the prediction ẑ_{t+1}, and the data for
    /// derivatives. ℓ_t, its gradients and Jacobian products can then be evaluated any number of
    /// times.
    pub fn linearize<'w>(&self, workspace: &'w mut LocalWorkspace<T>) -> Linearization<'w, 'a, T> {
        self.predict(workspace);
        self.linearized(workspace)
    }

    /// [`LocalProblem::linearize`] for a workspace that already holds the current prediction.
    pub(crate) fn linearized<'w>(
        &self,
        workspace: &'w mut LocalWorkspace<T>,
    ) -> Linearization<'w, 'a, T> {
        Linearization::new(*self, workspace)
    }

    /// Writes ẑ_{t+1} = f_t(z_t, θ_t) and the data for derivatives to the workspace.
    pub(crate) fn predict(&self, workspace: &mut LocalWorkspace<T>) {
        self.fit(workspace);
        let own = &self.parameters[..self.own];
        workspace.forward(self.layer, &self.context, own, self.input);
    }

    /// Computes ℓ_t and the requested gradients. The workspace must hold the prediction of
    /// [`LocalProblem::predict`] with the same θ_t and z_t; z_{t+1} may have changed since.
    pub(crate) fn differentiate(&self, wanted: Ask, workspace: &mut LocalWorkspace<T>) -> T {
        let w = workspace;
        let wanted = Ask {
            parameters: wanted.parameters && !self.frozen,
            ..wanted
        };
        let needs_cotangent = wanted.parameters || wanted.input;
        self.compare(wanted.target, needs_cotangent, w);
        if wanted.parameters && w.d_parameters.len() > self.own {
            let pair = self.pair(&w.prediction);
            w.factors.fill(self.weight);
            for (factor, &weight) in w.factors.iter_mut().zip(self.example_weights) {
                *factor *= weight;
            }
            let d_loss = Write::Set(&mut w.d_parameters[self.own..]);
            self.loss
                .parameter_gradient(&pair, &w.factors, d_loss, &mut w.work);
        }
        self.pull_back(wanted.parameters, wanted.input, w);
        self.regularize(wanted.parameters, wanted.target, w)
    }

    /// Computes ℓ_t, and the gradients of E in c_{t+1} = z_{t+1} − ẑ_{t+1} and in z_t along the chain,
    /// where later c stay and later z follow: with `above` = ∂E/∂z_{t+1} by way of the layers above,
    ///
    /// ∂E/∂c_{t+1} = ∂ℓ_t/∂z_{t+1} + `above`, written to the gradient in z_{t+1}, and
    ///
    /// J_tᵀ (∂ℓ_t/∂ẑ_{t+1} + ∂E/∂c_{t+1}), written to that in z_t if `input`.
    ///
    /// The last layer has nothing above. The workspace must hold the current prediction.
    pub(crate) fn carry_error(
        &self,
        above: Option<&[T]>,
        input: bool,
        workspace: &mut LocalWorkspace<T>,
    ) {
        let (w, hidden) = (workspace, above.is_some());
        self.compare(hidden, input, w);
        self.regularize(false, hidden, w);
        if let Some(above) = above {
            add_to(&mut w.d_target, above);
            if input {
                add_to(&mut w.cotangent, &w.d_target);
            }
        }
        self.pull_back(false, input, w);
    }

    /// The loss of every example, and its gradients in the `target` and the `prediction` if they are
    /// requested, with all factors and multipliers.
    fn compare(&self, target: bool, prediction: bool, w: &mut LocalWorkspace<T>) {
        let pair = self.pair(&w.prediction);
        self.loss.evaluate(
            &pair,
            &mut w.energies,
            Write::set(target.then_some(&mut w.d_target[..])),
            Write::set(prediction.then_some(&mut w.cotangent[..])),
            &mut w.work,
        );
        w.loss = total(&w.energies);
        self.apply_factors(target, prediction, w);
    }

    /// The requested gradients in the layer's own `parameters` and its `input`, from that in its
    /// prediction.
    fn pull_back(&self, parameters: bool, input: bool, w: &mut LocalWorkspace<T>) {
        if !parameters && !input {
            return;
        }
        // The cotangent is 0 below every target that was just refreshed. The layer is called once all the
        // same: if it does not overwrite its results, the NaN in new memory shows it.
        let written = |wanted: bool, own: &[T]| !wanted || own.first().is_none_or(T::is_finite);
        let was_called =
            written(input, &w.d_input) && written(parameters, &w.d_parameters[..self.own]);
        if was_called && w.cotangent.iter().all(T::is_zero) {
            if input {
                w.d_input.fill(T::zero());
            }
            if parameters {
                w.d_parameters[..self.own].fill(T::zero());
            }
            return;
        }
        let wants_input = input && self.layer.input_differentiable();
        if input && !wants_input {
            w.d_input.fill(T::zero());
        }
        let d_input = wants_input.then_some(&mut w.d_input[..]);
        let d_own = parameters.then_some(&mut w.d_parameters[..self.own]);
        let point = [&w.prediction[..], &w.tape];
        self.transpose(&w.cotangent, [d_input, d_own], point, &mut w.work);
    }

    /// Sets the layer's vector-Jacobian products in its input and its own parameters, at this prediction and
    /// tape. The `cotangent` must be 0 for every example of weight 0.
    ///
    /// Examples of weight 0 may have overflowed, and 0 times NaN would be NaN in the sum over all. In that case
    /// the products are computed again with the input of another example in place of theirs, which gives the 0
    /// that they should be.
    pub(super) fn transpose(
        &self,
        cotangent: &[T],
        [mut d_input, mut d_own]: [Option<&mut [T]>; 2],
        [prediction, tape]: [&[T]; 2],
        work: &mut [T],
    ) {
        let (layer, at) = (self.layer, self.point(prediction, tape));
        let to_input = Write::set(d_input.as_deref_mut());
        let to_own = Write::set(d_own.as_deref_mut());
        layer.vjp(&at, cotangent, to_input, to_own, work);
        let weights = self.example_weights;
        let finite = |own: &Option<&mut [T]>| own.as_ref().is_none_or(|own| all_finite(own));
        if !weights.iter().any(T::is_zero) || finite(&d_input) && finite(&d_own) {
            return;
        }
        let Some(other) = weights.iter().position(|weight| !weight.is_zero()) else {
            let made = [d_input, d_own].into_iter().flatten();
            return made.for_each(|own| own.fill(T::zero()));
        };
        let (dim, mut input) = (layer.input_dim(), self.input.to_vec());
        for (i, _) in weights.iter().enumerate().filter(|(_, w)| w.is_zero()) {
            input.copy_within(other * dim..(other + 1) * dim, i * dim);
        }
        let [mut output, mut tape] = [prediction, tape].map(<[T]>::to_vec);
        let (context, own) = (&self.context, at.parameters);
        layer.forward(context, own, &input, &mut output, Some(&mut tape), work);
        let at = Point {
            input: &input,
            ..self.point(&output, &tape)
        };
        layer.vjp(&at, cotangent, Write::set(d_input), Write::set(d_own), work);
    }

    /// Adds the regularisers to the energies, and to the requested gradients in θ_t and z_{t+1}. Returns
    /// ℓ_t.
    fn regularize(&self, parameters: bool, target: bool, w: &mut LocalWorkspace<T>) -> T {
        w.energies_in_z.copy_from_slice(&w.energies);
        self.regularize_parameters(parameters, w);
        self.regularize_target(target, w);
        w.energy = total(&w.energies);
        w.energy
    }

    /// Σᵢ wᵢ μ |L(z_{t+1}ⁱ, 0)|, the loss of the prediction 0: the size of the terms beside which ℓ_t
    /// is rounded, even where they cancel. 0 if it is not finite. It keeps the workspace's prediction,
    /// but not its energies.
    pub(crate) fn size(&self, w: &mut LocalWorkspace<T>) -> T {
        self.fit(w);
        w.cotangent.fill(T::zero());
        let pair = self.pair(&w.cotangent);
        let (values, work) = (&mut w.energies, &mut w.work);
        self.loss
            .evaluate(&pair, values, Write::Skip, Write::Skip, work);
        let values = w.energies.iter().enumerate();
        let size = values.fold(T::zero(), |sum, (i, value)| {
            sum + self.weighted(i, self.weight * value.abs())
        });
        match size.is_finite() {
            true => size,
            false => T::zero(),
        }
    }

    /// Multiplies the energies and the loss's computed gradients by μ and the example weights. Adds
    /// λ·(z − ẑ) for the multipliers, whose gradient is λ in z and −λ in ẑ.
    fn apply_factors(&self, target: bool, prediction: bool, w: &mut LocalWorkspace<T>) {
        let mut computed = [&mut w.energies[..], &mut [], &mut []];
        if target {
            computed[1] = &mut w.d_target;
        }
        if prediction {
            computed[2] = &mut w.cotangent;
        }
        if self.weight != T::one() {
            computed.iter_mut().for_each(|own| scale(own, self.weight));
        }
        if !self.multipliers.is_empty() {
            let [energies, d_target, d_prediction] = &mut computed;
            let dim = self.layer.output_dim();
            let columns = self.multipliers.chunks_exact(dim).enumerate();
            for ((i, lambda), energy) in columns.zip(&mut **energies) {
                let own = i * dim..(i + 1) * dim;
                *energy += dot(lambda, &self.target[own.clone()]) - dot(lambda, &w.prediction[own]);
            }
            if target {
                add_to(d_target, self.multipliers);
            }
            if prediction {
                add_scaled(d_prediction, -T::one(), self.multipliers);
            }
        }
        if !self.example_weights.is_empty() {
            for own in computed.iter_mut().filter(|own| !own.is_empty()) {
                scale_columns(own, self.example_weights);
            }
        }
    }

    /// Adds wᵢ R_t(θ_t) to every example's energy, and Σᵢ wᵢ ∇R_t to the gradient in θ_t if
    /// requested.
    pub(crate) fn regularize_parameters(&self, wanted: bool, w: &mut LocalWorkspace<T>) {
        let regularizer = self.regularization.parameters;
        if regularizer.is_none() {
            return;
        }
        let wanted = wanted && !self.frozen;
        let mut value = T::zero();
        let count = self.total_weight();
        let groups = self.regularization.groups.iter();
        for group in groups.filter(|group| group.decays) {
            let own = &self.parameters[group.range.clone()];
            value += regularizer.value(own);
            if wanted {
                regularizer.add_gradient(own, count, &mut w.d_parameters[group.range.clone()]);
            }
        }
        for (i, energy) in w.energies.iter_mut().enumerate() {
            *energy += self.example_weight(i) * value;
        }
    }

    /// Adds wᵢ S_{t+1}(z_{t+1}ⁱ) to every example's energy, and its gradient to the gradient in
    /// z_{t+1} if requested.
    fn regularize_target(&self, wanted: bool, w: &mut LocalWorkspace<T>) {
        let regularizer = self.regularization.targets;
        if regularizer.is_none() {
            return;
        }
        let dim = self.layer.output_dim();
        let columns = self.target.chunks_exact(dim);
        let gradients = w.d_target.chunks_exact_mut(dim);
        for (i, (z, gradient)) in columns.zip(gradients).enumerate() {
            let value = self.weighted(i, regularizer.value(z));
            w.energies[i] += value;
            w.energies_in_z[i] += value;
            let weight = self.example_weight(i);
            if wanted && !weight.is_zero() {
                regularizer.add_gradient(z, weight, gradient);
            }
        }
    }

    /// Σᵢ wᵢ.
    pub(crate) fn total_weight(&self) -> T {
        match self.example_weights {
            [] => T::of(self.examples() as f64),
            weights => total(weights),
        }
    }

    /// Sets the columns of examples of weight 0 to 0, which may have overflowed.
    pub(super) fn leave_out(&self, columns: &mut [T]) {
        let columns = columns.chunks_exact_mut(self.layer.output_dim());
        let own = columns.zip(self.example_weights);
        own.filter(|(_, weight)| weight.is_zero())
            .for_each(|(column, _)| column.fill(T::zero()));
    }

    fn example_weight(&self, i: usize) -> T {
        self.example_weights.get(i).copied().unwrap_or(T::one())
    }

    /// wᵢ times a value of the i-th example: 0 for a weight of 0, even if the value is not finite.
    fn weighted(&self, i: usize, value: T) -> T {
        let weight = self.example_weight(i);
        match weight.is_zero() {
            true => T::zero(),
            false => weight * value,
        }
    }

    /// Computes ℓ_t and the requested gradients. The results are in the workspace and are read
    /// through the returned value.
    pub fn evaluate<'w, W: Wanted>(
        &self,
        _wanted: W,
        workspace: &'w mut LocalWorkspace<T>,
    ) -> LocalEvaluation<'w, T, W> {
        self.predict(workspace);
        self.differentiate(W::ASK, workspace);
        LocalEvaluation::new(workspace)
    }

    /// Σᵢ ‖z_{t+1}ⁱ − ẑ_{t+1}ⁱ‖², for a workspace in which this problem has been evaluated.
    pub(crate) fn squared_gap(&self, workspace: &LocalWorkspace<T>) -> Squares {
        let prediction = &workspace.prediction;
        let square = match self.loss.is_squared_error() {
            // Squared error has measured it already: the loss is ½‖z − ẑ‖².
            true => T::of(2.0) * workspace.loss,
            false => squared_distance(self.target, prediction),
        };
        let mut squares = Squares::zero();
        squares.add_known(square, self.target, prediction);
        squares
    }

    /// ℓ_t.
    pub fn energy(&self) -> T {
        self.evaluate(Value, &mut self.workspace()).energy()
    }

    /// ℓ_t and its three gradients, in newly allocated memory.
    pub fn gradients(&self) -> LocalGradients<T> {
        let mut w = self.workspace();
        let energy = self.evaluate(All, &mut w).energy();
        if !self.layer.input_differentiable() {
            w.d_input.clear();
        }
        LocalGradients {
            energy,
            parameters: w.d_parameters,
            input: w.d_input,
            target: w.d_target,
        }
    }

    /// The target and the prediction `output`, as the loss compares them.
    pub(super) fn pair<'b>(&self, output: &'b [T]) -> Pair<'b, T>
    where
        'a: 'b,
    {
        Pair::new(self.layer.output_dim(), self.target, output)
            .with_parameters(&self.parameters[self.own..])
    }

    pub(crate) fn point<'b>(&self, output: &'b [T], tape: &'b [T]) -> Point<'b, T>
    where
        'a: 'b,
    {
        Point {
            context: self.context,
            parameters: &self.parameters[..self.own],
            input: self.input,
            output,
            tape,
        }
    }
}

fn whole_columns<T>(what: &str, values: &[T], dim: usize) -> Result<usize, Error> {
    let columns = values.len() / dim;
    check_length(what, values, values.len().div_ceil(dim) * dim)?;
    Ok(columns)
}
