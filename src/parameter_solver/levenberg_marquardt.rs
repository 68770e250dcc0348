//! W-steps by damped Gauss-Newton, for any layer and loss.

use super::{ParameterReport, ParameterSolver};
use crate::check::{check_computed, check_length, in_scalar, serde_checked};
use crate::energy::{Ask, LocalProblem, LocalWorkspace, Parameters, Value};
use crate::error::{Error, Quantity};
use crate::kernel::{
    Scalar, add_scaled, all_finite, dot, exponent, scale, scale_by_power, unit_of,
};
use crate::layer::ParameterGroup;
use crate::state::State;

/// K steps of Levenberg-Marquardt on ℓ_t(θ_t), for any layer and loss:
///
/// (G + λ s I) d = −g,  g = ∂ℓ_t/∂θ_t,  G the Gauss-Newton matrix of
/// [`Linearization::gauss_newton_product`](crate::energy::Linearization::gauss_newton_product),
///
/// each solved by at most m iterations of conjugate gradients from d = 0, with one JVP and one VJP
/// in θ per iteration. s = gᵀGg/gᵀg is the curvature along the gradient (μ Σᵢ wᵢ if that is 0), so
/// λ = 1 means damping as strong as that curvature, whatever the scale of ℓ_t and the number of
/// examples. μ, example weights and the circuit's regulariser R_t are all part of ℓ_t and G (an L1
/// part only of ℓ_t).
///
/// A step that does not lower ℓ_t is undone, and λ is multiplied by 8 (up to 1e8; a step that fails
/// even then, as at the kink of a ReLU, ends the call and resets λ; if G
/// does not fit the scalar, or ℓ_t underflows, [`ParameterReport::stuck`] says so). A step that does divides λ by 4
/// (Marquardt's rule). So ℓ_t never rises. A layer is at rest if g = 0, or if
/// rounding would decide about the step: the decrease that the model predicts, −gᵀd − ½dᵀGd, is at
/// most 16 ε |ℓ_t|, or |d_k| is at most 4 ε |θ_k| for every k, and an undamped step would do no
/// better. The call then ends and leaves θ_t and λ unchanged, ready for new targets. If it is only
/// the damping that makes the step so short, λ is divided by 4 until the step is long enough.
///
/// A step ends at the kink of an L1 part instead of crossing it, and a value that is 0 stays 0
/// until the rest of its derivative exceeds λ₁ Σᵢ wᵢ. So many values become exactly 0 (orthant-wise
/// steps, Andrew & Gao 2007).
///
/// λ is kept between calls in the layer's [`State`], and is reset in every phase. The loss's parameters
/// do not change. If ℓ_t is quadratic, one undamped step with enough iterations reaches the minimum.
/// Levenberg 1944; Marquardt 1963; Madsen, Nielsen & Tingleff 2004, §3.2 (stopping criteria); with
/// products instead of matrices Martens 2010.
///
/// # Examples
/// ```
/// use layerwise::parameter_solver::LevenbergMarquardt;
/// use layerwise::prelude::*;
///
/// let circuit = Circuit::<f64>::builder()
///     .layer(Dense::new(2, 3, Activation::Identity)?)
///     .build()?;
/// let x = DMatrix::from_fn(2, 9, |i, j| ((i + 2 * j) % 5) as f64 / 5.0);
/// let y = DMatrix::from_fn(3, 9, |i, j| if j % 3 == i { 1.0 } else { 0.0 });
/// let mut model = DecoupledCircuit::new(circuit, Energy::new(SoftmaxCrossEntropy))?;
/// model.add_examples(&x, &y, &TargetInit::ForwardPass)?;
/// let before = model.energy()?;
/// let report = model.solve_parameters(0, &LevenbergMarquardt::new(3, 10), &Selection::All)?;
/// assert!(report.accepted > 0 && model.energy()? < before);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(remote = "Self", deny_unknown_fields))]
pub struct LevenbergMarquardt {
    steps: u64,
    iterations: u64,
    tolerance: f64,
    damping: f64,
}

serde_checked!(LevenbergMarquardt);

/// Vectors as long as the layer's own parameters, and two as long as θ_t.
#[derive(Debug, Default)]
struct Memory<V> {
    /// θ_t as accepted, and as tried.
    accepted: V,
    trial: V,
    gradient: V,
    step: V,
    residual: V,
    direction: V,
    product: V,
    /// Whether G along the gradient is 0, or does not fit the scalar.
    flat: bool,
}

/// The smallest λ after a rejected step, and the largest λ.
const LEAST_REJECTED: f64 = 1e-3;
const MOST: f64 = 1e8;

impl LevenbergMarquardt {
    /// K = `steps` steps per call, each with at most m = `iterations` iterations. Defaults: λ
    /// starts at 1e-3, and the iterations of a step end when the residual has fallen below 1e-10
    /// times its initial value.
    pub fn new(steps: u64, iterations: u64) -> Self {
        Self {
            steps,
            iterations,
            tolerance: 1e-10,
            damping: 1e-3,
        }
    }

    /// Sets the initial λ; 0 is plain Gauss-Newton until a step is rejected.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless λ is finite and not negative.
    pub fn with_damping(self, damping: f64) -> Result<Self, Error> {
        Self { damping, ..self }.checked()
    }

    /// Sets the relative tolerance of the residual.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless it is finite and not negative.
    pub fn with_tolerance(self, tolerance: f64) -> Result<Self, Error> {
        Self { tolerance, ..self }.checked()
    }

    fn checked(self) -> Result<Self, Error> {
        self.numbers::<f64>()?;
        Ok(self)
    }

    /// The initial λ and the tolerance, in the scalar type.
    fn numbers<T: Scalar>(&self) -> Result<[T; 2], Error> {
        Ok([
            in_scalar("LevenbergMarquardt::damping", self.damping)?,
            in_scalar("LevenbergMarquardt::tolerance", self.tolerance)?,
        ])
    }
}

impl<T: Scalar> Memory<Vec<T>> {
    fn start(&mut self, parameters: &[T], own: usize) {
        for whole in [&mut self.accepted, &mut self.trial] {
            whole.clear();
            whole.extend_from_slice(parameters);
        }
        let (gradient, step, residual) = (&mut self.gradient, &mut self.step, &mut self.residual);
        for vector in [
            gradient,
            step,
            residual,
            &mut self.direction,
            &mut self.product,
        ] {
            vector.resize(own, T::zero());
        }
    }

    /// `step` ← (G + λ s I)⁻¹ (−gradient), approximately. Returns the predicted decrease of ℓ_t, or
    /// `None` if the gradient is 0. The prediction in the workspace must be current.
    fn solve(
        &mut self,
        problem: &LocalProblem<'_, T>,
        workspace: &mut LocalWorkspace<T>,
        damping: T,
        iterations: u64,
        tolerance: T,
    ) -> Result<Option<T>, Error> {
        self.step.fill(T::zero());
        if self.gradient.iter().all(|g| g.is_zero()) {
            return Ok(None);
        }
        // The gradient and G, which has the square of the inputs' unit and would soon overflow, are in
        // units of their own. Powers of two cost no bit.
        let unit = unit_of(&self.gradient);
        let mut units_of_g = [T::one(); 4];
        for (r, &g) in self.residual.iter_mut().zip(&self.gradient) {
            *r = -(g / unit);
        }
        self.direction.copy_from_slice(&self.residual);
        let first = dot(&self.residual, &self.residual);
        let (mut square, mut damping) = (first, damping);
        for k in 0..iterations {
            if square.is_zero() || !square.is_finite() {
                break;
            }
            let mut at = problem.linearized(workspace);
            let own = at.product_in_units(&self.direction, &mut self.product)?;
            if k == 0 {
                let along = dot(&self.direction, &self.product) / square;
                self.flat = !(along > T::zero() && along.is_finite());
                let [outer, of_terms, of_examples] = own;
                let (size, outer) = match self.flat {
                    true => {
                        let terms = problem.weight / of_terms;
                        (terms * (problem.total_weight() / of_examples), T::one())
                    }
                    false => (along, outer),
                };
                units_of_g = [outer, of_terms, of_examples, unit_of(&[size])];
                damping *= size / units_of_g[3];
            }
            // One after the other, since the product of both may overflow.
            scale(&mut self.product, own[0] / units_of_g[0] / units_of_g[3]);
            let mut curvature = dot(&self.direction, &self.product);
            add_scaled(&mut self.product, damping, &self.direction);
            // Values that rest at a kink stay there.
            for_each_kink(problem, |k, _| {
                if problem.parameters[k].is_zero() && self.gradient[k].is_zero() {
                    self.product[k] = T::zero();
                }
            });
            curvature += damping * dot(&self.direction, &self.direction);
            let length = square / curvature;
            if !(curvature > T::zero() && length.is_finite()) {
                break;
            }
            add_scaled(&mut self.step, length, &self.direction);
            add_scaled(&mut self.residual, -length, &self.product);
            let before = square;
            square = dot(&self.residual, &self.residual);
            if square <= tolerance * tolerance * first {
                break;
            }
            let beta = square / before;
            for (p, &r) in self.direction.iter_mut().zip(&self.residual) {
                *p = r + beta * *p;
            }
        }
        // −gᵀd − ½ dᵀG d, where G d = −g − r − λ s d.
        for (r, &g) in self.residual.iter_mut().zip(&self.gradient) {
            *r -= g / unit;
        }
        let of_gradient = dot(&self.residual, &self.step);
        let decrease = T::of(0.5) * (of_gradient + damping * dot(&self.step, &self.step));
        // Their product one after the other may not fit, though it does as a whole.
        let [of_gradient, of_g] = [exponent(&[unit]), exponent(&units_of_g)];
        scale_by_power(&mut self.step, of_gradient - of_g);
        let mut decrease = [decrease];
        scale_by_power(&mut decrease, 2.0 * of_gradient - of_g);
        Ok(Some(decrease[0]))
    }

    /// Solves for `step`, and returns whether it would change ℓ_t and some θ_k by more than rounding;
    /// `None` if the gradient is 0.
    fn find(
        &mut self,
        problem: &LocalProblem<'_, T>,
        workspace: &mut LocalWorkspace<T>,
        damping: T,
        (iterations, tolerance): (u64, T),
        energy: T,
    ) -> Result<Option<bool>, Error> {
        let Some(decrease) = self.solve(problem, workspace, damping, iterations, tolerance)? else {
            return Ok(None);
        };
        let epsilon = T::default_epsilon();
        let moves = |(d, x): (&T, &T)| d.abs() > T::of(4.0) * epsilon * x.abs();
        let judged = decrease > T::of(16.0) * epsilon * energy.abs()
            && self.step.iter().zip(problem.parameters).any(moves);
        // A step of length 0 does not count, and waits for more damping.
        Ok(Some(judged || self.step.iter().all(|d| d.is_zero())))
    }
}

/// Calls `at(k, λ₁ Σᵢ wᵢ)` for every θ_k at which an L1 regulariser has a kink at 0.
fn for_each_kink<T: Scalar>(problem: &LocalProblem<'_, T>, mut at: impl FnMut(usize, T)) {
    let regularization = &problem.regularization;
    if regularization.parameters.is_smooth() {
        return;
    }
    let jump = problem.total_weight() * regularization.parameters.kink();
    let own = |group: &&ParameterGroup| group.decays && group.range.end <= problem.own;
    for group in regularization.groups.iter().filter(own) {
        group.range.clone().for_each(|k| at(k, jump));
    }
}

impl<T: Scalar> ParameterSolver<T> for LevenbergMarquardt {
    fn check(&self, problem: &LocalProblem<'_, T>) -> Result<(), Error> {
        self.numbers::<T>()?;
        if problem.own > 0 {
            return Ok(());
        }
        Err(Error::ParameterSolver {
            solver: "LevenbergMarquardt",
            layer: problem.layer(),
            reason: format!("{:?} has no parameters", problem.layer),
        })
    }

    /// [`State::values`] hold one number, λ.
    fn solve(
        &self,
        state: &mut State<T>,
        problem: &LocalProblem<'_, T>,
        workspace: &mut LocalWorkspace<T>,
        parameters: &mut [T],
    ) -> Result<ParameterReport, Error> {
        self.check(problem)?;
        let [initial_damping, tolerance] = self.numbers()?;
        check_length("parameters", parameters, problem.parameters.len())?;
        let own = problem.own;
        let (numbers, memory) = state.split::<Memory<Vec<T>>>();
        if !numbers.values.iter().map(Vec::len).eq([1]) {
            *numbers.values = vec![vec![initial_damping]];
        }
        let damping = &mut numbers.values[0][0];
        in_scalar::<T>(
            "the damping in LevenbergMarquardt's state",
            damping.as_f64(),
        )?;
        memory.start(problem.parameters, own);
        let layer = problem.layer();
        let mut report = ParameterReport::default();
        let mut energy = problem.evaluate(Parameters, workspace).energy();
        let mut moved = true;
        for number in 0..self.steps {
            check_computed(Quantity::Energy, layer, number, &[energy])?;
            // Taken out, so that the rest of the memory can be written in the meantime.
            let accepted = std::mem::take(&mut memory.accepted);
            let here = problem.moved_to(&accepted);
            if moved {
                let gradient = &workspace.d_parameters[..own];
                memory.gradient.copy_from_slice(gradient);
                for_each_kink(&here, |k, jump| {
                    if accepted[k].is_zero() {
                        let g = memory.gradient[k];
                        memory.gradient[k] = g - g.clamp(-jump, jump);
                    }
                });
            } else {
                // The workspace still belongs to the step that was undone.
                here.predict(workspace);
            }
            // Where ℓ_t underflows, no step can be judged.
            let unseen =
                energy.is_zero() && moved && workspace.cotangent.iter().any(|g| !g.is_zero());
            let (quantity, gradient) = (Quantity::ParameterGradient, &memory.gradient);
            let going = check_computed(quantity, layer, number, gradient).and_then(|()| {
                let limits = (self.iterations, tolerance);
                let mut solve = |damping| memory.find(&here, workspace, damping, limits, energy);
                let mut going = solve(*damping)?;
                // Strong damping makes steps too short to be judged. A step that has just failed was
                // not too short.
                if going == Some(false) && moved && solve(T::zero())? == Some(true) {
                    while going == Some(false) {
                        *damping *= T::of(0.25);
                        going = solve(*damping)?;
                    }
                }
                Ok(going)
            });
            memory.accepted = accepted;
            let going = going?;
            if going != Some(true) {
                report.stuck = unseen || going == Some(false) && memory.flat;
                break;
            }
            let trial = memory.trial[..own].iter_mut().zip(&memory.accepted);
            for ((to, &from), &step) in trial.zip(&memory.step) {
                *to = from + step;
            }
            for_each_kink(problem, |k, _| {
                let (from, to) = (memory.accepted[k], &mut memory.trial[k]);
                // A value may leave 0 only against the gradient.
                let side = if from.is_zero() {
                    -memory.gradient[k]
                } else {
                    from
                };
                if side.is_sign_positive() != to.is_sign_positive() {
                    *to = T::zero();
                }
            });
            let there = problem.moved_to(&memory.trial);
            let tried = there.evaluate(Value, workspace).energy();
            report.steps += 1;
            // NaN does not count as lower.
            moved = tried < energy && all_finite(&memory.trial);
            if moved {
                report.accepted += 1;
                energy = tried;
                *damping *= T::of(0.25);
                memory.accepted.copy_from_slice(&memory.trial);
                if number + 1 < self.steps {
                    problem
                        .moved_to(&memory.accepted)
                        .differentiate(Ask::PARAMETERS, workspace);
                }
            } else if *damping >= T::of(MOST) {
                // At a kink, such as that of a ReLU, no step however short lowers ℓ_t. Elsewhere G or ℓ_t
                // does not fit the scalar.
                report.stuck = memory.trial == memory.accepted || !tried.is_finite();
                *damping = initial_damping;
                break;
            } else {
                let larger = (*damping * T::of(8.0)).max(T::of(LEAST_REJECTED));
                *damping = larger.min(T::of(MOST));
            }
        }
        parameters.copy_from_slice(&memory.accepted);
        Ok(report)
    }
}
