//! Results of evaluations, which give access only to what was computed.

use std::marker::PhantomData;

use crate::check::check_length;
use crate::energy::local_problem::LocalProblem;
use crate::energy::wanted::{Parameters, Wanted, WithInput, WithParameters, WithTarget};
use crate::energy::workspace::{LocalWorkspace, Workspace};
use crate::error::Error;
use crate::kernel::{Scalar, Write, add_scaled, exponent, scale, scale_by_power, unit_of};
use crate::layer::ParameterGroup;

/// f_t at one point (z_t, θ_t): the prediction, and the data for products with its Jacobians
/// ([`LocalProblem::linearize`]).
///
/// # Examples
/// ```
/// use layerwise::energy::LocalProblem;
/// use layerwise::kernel::Write;
/// use layerwise::layer::{Activation, Dense};
/// use layerwise::loss::SquaredError;
///
/// let layer = Dense::new(2, 1, Activation::Identity)?;
/// let (weights, input, target) = ([3.0, 4.0, 0.0], [1.0, 2.0], [0.0]);
/// let problem = LocalProblem::new(&layer, &weights, &SquaredError, 1.0, &input, &target)?;
/// let mut workspace = problem.workspace();
/// let mut at = problem.linearize(&mut workspace);
/// assert_eq!(at.prediction(), [11.0]);
/// let mut d_input = [0.0; 2];
/// at.vjp(&[2.0], Write::Set(&mut d_input), Write::Skip)?;
/// assert_eq!(d_input, [6.0, 8.0]);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug)]
pub struct Linearization<'w, 'a, T: Scalar> {
    problem: LocalProblem<'a, T>,
    workspace: &'w mut LocalWorkspace<T>,
}

impl<'w, 'a, T: Scalar> Linearization<'w, 'a, T> {
    pub(super) fn new(problem: LocalProblem<'a, T>, workspace: &'w mut LocalWorkspace<T>) -> Self {
        Self { problem, workspace }
    }

    /// ẑ_{t+1} = f_t(z_t, θ_t), output_dim × n column-major.
    pub fn prediction(&self) -> &[T] {
        &self.workspace.prediction
    }

    /// ℓ_t and the requested gradients at this point.
    pub fn evaluate<W: Wanted>(&mut self, _wanted: W) -> LocalEvaluation<'_, T, W> {
        self.problem.differentiate(W::ASK, self.workspace);
        LocalEvaluation::new(self.workspace)
    }

    /// `tangent ← (∂f/∂z) v_input + (∂f/∂θ) v_parameters`, where θ are the layer's own parameters.
    /// A missing direction counts as zero.
    ///
    /// # Errors
    /// [`Error::Length`] for a slice that does not fit.
    pub fn jvp(
        &mut self,
        v_input: Option<&[T]>,
        v_parameters: Option<&[T]>,
        tangent: &mut [T],
    ) -> Result<(), Error> {
        let (problem, w) = (&self.problem, &mut *self.workspace);
        if let Some(v) = v_input {
            check_length("v_input", v, problem.input.len())?;
        }
        if let Some(v) = v_parameters {
            check_length("v_parameters", v, problem.own)?;
        }
        check_length("tangent", tangent, problem.target.len())?;
        let at = problem.point(&w.prediction, &w.tape);
        let work = &mut w.work;
        problem.layer.jvp(&at, v_input, v_parameters, tangent, work);
        Ok(())
    }

    /// `d_input ← (∂f/∂z)ᵀ g` and `d_parameters ← (∂f/∂θ)ᵀ g`, where θ are the layer's own
    /// parameters. The former is 0 if the layer is not differentiable in its input.
    ///
    /// # Errors
    /// [`Error::Length`] for a slice that does not fit.
    pub fn vjp(
        &mut self,
        cotangent: &[T],
        mut d_input: Write<'_, T>,
        d_parameters: Write<'_, T>,
    ) -> Result<(), Error> {
        let (problem, w) = (&self.problem, &mut *self.workspace);
        check_length("cotangent", cotangent, problem.target.len())?;
        for (what, write, expected) in [
            ("d_input", &d_input, problem.input.len()),
            ("d_parameters", &d_parameters, problem.own),
        ] {
            if !write.is_skip() && write.len() != expected {
                return Err(Error::Length {
                    what: what.into(),
                    expected,
                    found: write.len(),
                });
            }
        }
        let at = problem.point(&w.prediction, &w.tape);
        let (layer, work) = (problem.layer, &mut w.work);
        if !layer.input_differentiable() {
            if let Write::Set(own) = d_input {
                own.fill(T::zero());
            }
            d_input = Write::Skip;
        }
        layer.vjp(&at, cotangent, d_input, d_parameters, work);
        Ok(())
    }

    /// `product ← G v` with the Gauss-Newton matrix of ℓ_t in the layer's own parameters:
    ///
    /// G = Σᵢ wᵢ \[ μ_{t+1} (∂f/∂θ)ᵀ Cᵢ (∂f/∂θ) + λ₂ on the groups that R_t decays \],
    ///
    /// where Cᵢ is the loss's curvature in ẑ_{t+1}
    /// ([`Loss::curvature`](crate::loss::Loss::curvature)) and λ₂ the L2 weight of R_t. It costs
    /// one JVP and one VJP. G is a sum over examples, like ℓ_t, and positive semidefinite. It is
    /// the Hessian if f is linear in θ, C is the loss's Hessian and R_t has no L1 part.
    /// Schraudolph 2002. Gradients that were evaluated before this call are no longer valid.
    ///
    /// # Errors
    /// [`Error::Length`] for a slice that does not fit.
    pub fn gauss_newton_product(
        &mut self,
        v_parameters: &[T],
        product: &mut [T],
    ) -> Result<(), Error> {
        let units = self.product_in_units(v_parameters, product)?;
        scale_by_power(product, exponent(&units));
        Ok(())
    }

    /// `product ← G v` in units whose product is the unit of G v, all powers of two. G v has the square
    /// of the inputs' unit, and would over- or underflow long before ℓ_t and its gradient do. Only the
    /// first depends on v; the others are those of μ or λ₂, and of the examples' weights.
    pub(crate) fn product_in_units(
        &mut self,
        v_parameters: &[T],
        product: &mut [T],
    ) -> Result<[T; 3], Error> {
        let (problem, w) = (&self.problem, &mut *self.workspace);
        check_length("v_parameters", v_parameters, problem.own)?;
        check_length("product", product, problem.own)?;
        let at = problem.point(&w.prediction, &w.tape);
        let (tangent, curved, work) = (&mut w.d_target[..], &mut w.cotangent[..], &mut w.work);
        let (layer, loss, pair) = (problem.layer, problem.loss, problem.pair(&w.prediction));
        layer.jvp(&at, None, Some(v_parameters), tangent, work);
        problem.leave_out(tangent);
        let regularizer = problem.regularization.parameters.curvature::<T>();
        let of_examples = unit_of(problem.example_weights);
        let of_terms = unit_of(&[problem.weight, regularizer]);
        let factor = regularizer / of_terms * (problem.total_weight() / of_examples);
        let of_v = unit_of(v_parameters);
        // At least that of the inputs, or 1: a saturated layer, whose G v underflows, would have next to no
        // curvature, and leap.
        let least = (unit_of(problem.input) * of_v).min(T::one());
        let mut unit = unit_of(&*tangent).max(least);
        if factor > T::zero() {
            unit = unit.max(unit_of(&[factor]) * of_v);
        }
        tangent.iter_mut().for_each(|v| *v /= unit);
        let to = Write::Set(&mut *curved);
        loss.curvature(&pair, None, Some(tangent), Write::Skip, to, work);
        let weight = problem.weight / of_terms;
        if weight != T::one() {
            scale(curved, weight);
        }
        if !problem.example_weights.is_empty() {
            let columns = curved.chunks_exact_mut(problem.layer.output_dim());
            for (own, &weight) in columns.zip(problem.example_weights) {
                scale(own, weight / of_examples);
            }
            problem.leave_out(curved);
        }
        let (made, point) = ([None, Some(&mut *product)], [&w.prediction[..], &w.tape]);
        problem.transpose(curved, made, point, work);
        if factor > T::zero() {
            let own = |group: &&ParameterGroup| group.decays && group.range.end <= problem.own;
            let groups = problem.regularization.groups.iter().filter(own);
            for range in groups.map(|group| group.range.clone()) {
                let (own, v) = (&mut product[range.clone()], &v_parameters[range]);
                add_scaled(own, factor / unit, v);
            }
        }
        Ok([unit, of_terms, of_examples])
    }
}

/// ℓ_t and its requested gradients: sums over examples, including μ, weights and regularisers.
#[derive(Debug, Clone, Copy)]
pub struct LocalEvaluation<'w, T, W> {
    workspace: &'w LocalWorkspace<T>,
    wanted: PhantomData<W>,
}

impl<'w, T: Scalar, W: Wanted> LocalEvaluation<'w, T, W> {
    pub(super) fn new(workspace: &'w LocalWorkspace<T>) -> Self {
        Self {
            workspace,
            wanted: PhantomData,
        }
    }

    /// ℓ_t.
    pub fn energy(&self) -> T {
        self.workspace.energy
    }

    /// ℓ_t of each example, including the same factors.
    pub fn energies(&self) -> &'w [T] {
        &self.workspace.energies
    }

    /// ẑ_{t+1}, output_dim × n column-major.
    pub fn prediction(&self) -> &'w [T] {
        &self.workspace.prediction
    }

    /// ∂ℓ_t/∂θ_t.
    pub fn parameter_gradient(&self) -> &'w [T]
    where
        W: WithParameters,
    {
        &self.workspace.d_parameters
    }

    /// ∂ℓ_t/∂z_t, input_dim × n column-major. It is zero if the layer is not differentiable in its
    /// input.
    pub fn input_gradient(&self) -> &'w [T]
    where
        W: WithInput,
    {
        &self.workspace.d_input
    }

    /// ∂ℓ_t/∂z_{t+1}, output_dim × n column-major.
    pub fn target_gradient(&self) -> &'w [T]
    where
        W: WithTarget,
    {
        &self.workspace.d_target
    }
}

/// E on a batch and its requested gradients: sums over examples, including μ, weights, multipliers
/// and regularisers.
#[derive(Debug, Clone, Copy)]
pub struct Evaluation<'w, T, W> {
    workspace: &'w Workspace<T>,
    wanted: PhantomData<W>,
}

impl<'w, T: Scalar, W: Wanted> Evaluation<'w, T, W> {
    pub(crate) fn new(workspace: &'w Workspace<T>) -> Self {
        Self {
            workspace,
            wanted: PhantomData,
        }
    }

    /// E = Σ_t ℓ_t, added in the order of the layers.
    pub fn energy(&self) -> T {
        self.workspace.energy()
    }

    /// The part of layer t, without gradients: ℓ_t and ẑ_{t+1}. Panics if t ≥ T.
    pub fn local(&self, t: usize) -> LocalEvaluation<'w, T, super::wanted::Value> {
        LocalEvaluation::new(&self.workspace.locals[t])
    }

    /// E of the i-th example of the batch, including its weight. Panics if the batch has no such
    /// example.
    pub fn example_energy(&self, i: usize) -> T {
        let locals = self.workspace.locals.iter();
        locals.fold(T::zero(), |sum, local| sum + local.energies[i])
    }

    /// ∂E/∂θ_t. Panics if t ≥ T.
    pub fn parameter_gradient(&self, t: usize) -> &'w [T]
    where
        W: WithParameters,
    {
        &self.workspace.locals[t].d_parameters
    }

    /// ∂E/∂z_t, d_t × n column-major. Panics if t is not in 1..T.
    pub fn target_gradient(&self, t: usize) -> &'w [T]
    where
        W: WithInput + WithTarget,
    {
        self.workspace.target_gradient(t)
    }
}

/// The composed objective of backprop on a batch, with its gradients; sums over examples.
#[derive(Debug, Clone, Copy)]
pub struct Composed<'w, T> {
    evaluation: Evaluation<'w, T, Parameters>,
}

impl<'w, T: Scalar> Composed<'w, T> {
    pub(super) fn new(workspace: &'w Workspace<T>) -> Self {
        Self {
            evaluation: Evaluation::new(workspace),
        }
    }

    /// Σᵢ wᵢ \[ L(z_Tⁱ, ẑ_Tⁱ) + Σ_t R(θ_t) \].
    pub fn loss(&self) -> T {
        self.evaluation.energy()
    }

    /// ẑ_{t+1} of the plain forward pass, d_{t+1} × n column-major. Panics if t ≥ T.
    pub fn prediction(&self, t: usize) -> &'w [T] {
        self.evaluation.local(t).prediction()
    }

    /// The gradient of the objective in θ_t. Panics if t ≥ T.
    pub fn parameter_gradient(&self, t: usize) -> &'w [T] {
        self.evaluation.parameter_gradient(t)
    }

    /// The errors δ_t = ∂L/∂ẑ_t, d_t × n column-major. Panics if t is not in 1..T.
    pub fn error(&self, t: usize) -> &'w [T] {
        let locals = &self.evaluation.workspace.locals;
        assert!(0 < t && t < locals.len(), "there is no δ_{t}");
        &locals[t].d_input
    }
}
