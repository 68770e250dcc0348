//! Synchronous gradient steps on all targets at once.

use std::sync::Arc;

use rand::rngs::ChaCha8Rng;

use super::descent::{Descent, Iterate, first_part};
use super::step_size::StepRule;
use super::trial::{Trial, Verdict};
use super::{Convergence, SolveReport, StepSize, TargetProblem, TargetSolver, iterated};
use crate::check::{not_negative, refuse};
use crate::energy::{Layers, default_fields};
use crate::error::Error;
use crate::init::{Purpose, add_noise, generator, key_of};
use crate::kernel::Scalar;
use crate::optimizer::{GradientDescent, Optimizer, Step};
use crate::state::State;

/// K synchronous steps z_t ← z_t − η ∂E/∂z_t, all layers at once.
///
/// Information moves one layer per step: from the forward pass, K steps give parameter gradients
/// only in the last K + 1 layers. η is fixed, or `margin` divided by a bound on λ_max of the whole
/// Gauss-Newton matrix (block Gershgorin). With another rule ([`SynchronousDescent::with_rule`]) η
/// multiplies the rule's learning rate. The rule's state (momentum, Adam's moments) is kept over
/// the steps of one call. It is reset to zero at the start of every call, and for an example whose
/// step was shortened ([`StepSize`]: adaptive restart, O'Donoghue & Candès 2015).
///
/// # Examples
/// ```
/// use layerwise::optimizer::GradientDescent;
/// use layerwise::target_solver::{StepSize, SynchronousDescent};
///
/// let bounded = StepSize::Bounded { margin: 1.0 };
/// let plain = SynchronousDescent::<f64>::new(10, bounded)?;
/// // Bounded steps with momentum: the rule's own rate is 1, which leaves the step size unchanged.
/// let heavy_ball = GradientDescent::new(1.0)?.with_momentum(0.9)?;
/// let momentum = plain.with_rule(heavy_ball);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct SynchronousDescent<T: Scalar>(Iterate<Rule<T>>);

/// One step of a rule. The first part of its state is that of the bounds.
#[derive(Debug, Clone)]
struct Rule<T: Scalar> {
    step: StepRule,
    rule: Arc<dyn Optimizer<T>>,
    noise: Option<Noise>,
}

/// Langevin noise.
#[derive(Debug, Clone, Copy)]
struct Noise {
    temperature: f64,
    seed: u64,
}

/// The rule's memory within one call.
#[derive(Debug)]
struct Moments<T> {
    /// By hidden layer, `slots()` arrays of d_t for each example in turn.
    layers: Vec<Vec<T>>,
    /// How many steps each example has made since its moments were reset.
    ages: Vec<u64>,
    /// The number of the call in its visit, if it draws noise.
    call: u64,
}

default_fields!(Moments: layers ages call);

impl Noise {
    /// The draws of one example for a step of z_t. No call makes 2³² steps.
    fn stream(&self, example: u64, [visit, call, step]: [u64; 3], t: usize) -> ChaCha8Rng {
        let key = key_of([self.seed, example, visit, call << 32 | step]);
        generator(key, Purpose::Langevin, t as u64)
    }
}

impl<T: Scalar> SynchronousDescent<T> {
    /// K = `steps` plain gradient steps (0 leaves the targets unchanged).
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a step out of range. One that is out of range only in the
    /// circuit's scalar type is reported when the solver is called.
    pub fn new(steps: u64, step: StepSize) -> Result<Self, Error> {
        let rule = Rule {
            step: StepRule::new(step.checked()?),
            rule: Arc::new(GradientDescent::new(1.0)?),
            noise: None,
        };
        Ok(Self(Iterate::new(steps, rule).with_check(step.check())))
    }

    /// Steps by another rule, whose learning rate is multiplied by the step size: for example
    /// momentum with rate 1 and a bounded step, or Adam with its own rate and
    /// `StepSize::Checked(1.0)`. A curvature bound holds for gradient steps and for momentum (which is
    /// stable up to 2(1 + β)/λ_max), but not for rules that scale the gradient elementwise, such as
    /// Adam. For these only the check keeps E from rising.
    pub fn with_rule(mut self, rule: impl Optimizer<T> + 'static) -> Self {
        self.0.descent.rule = Arc::new(rule);
        self
    }

    /// Adds noise to every step, so that the targets become samples instead of converging to a minimum:
    ///
    /// z_t ← z_t − η ∂E/∂z_t + √(2 η τ) ξ, ξ from N(0, 1),
    ///
    /// where τ is the `temperature` (0: no noise) and η the step size. For small η, long runs of plain gradient
    /// steps sample from a density proportional to exp(−E/τ); the noise is not adapted to the step sizes of
    /// another [rule](Self::with_rule). Used in training in place of [`ReverseSweep`](super::ReverseSweep),
    /// this is Monte Carlo predictive coding (Oliviers, Bogacz & Meulemans 2024).
    ///
    /// ξ is a function of `seed`, the id of the example, the visit, the layer, the call within the
    /// visit and the step. Another call of [`solve_targets`](crate::DecoupledCircuit::solve_targets) repeats
    /// the same noise unless the seed is different.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a temperature that is negative or not finite; [`Error::Combination`]
    /// unless steps are [`StepSize::Fixed`], since a check of E would reject the noise.
    #[doc(alias("langevin", "sample", "mcpc"))]
    pub fn with_noise(mut self, temperature: f64, seed: u64) -> Result<Self, Error> {
        let temperature = not_negative("SynchronousDescent::temperature", temperature)?;
        if self.0.is_checked() {
            return refuse(
                "noise in checked steps",
                "the check would refuse every step that raises the energy: use StepSize::Fixed",
            );
        }
        self.0.descent.noise = Some(Noise { temperature, seed });
        Ok(self)
    }

    /// Recomputes the bounds every k-th call (default 10); 1 follows the weights exactly.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for 0; [`Error::Combination`] unless steps are [`StepSize::Bounded`].
    pub fn with_bound_every(mut self, calls: u64) -> Result<Self, Error> {
        let option = "SynchronousDescent::bound_every";
        self.0.descent.step = self.0.descent.step.with_bound_every(option, calls)?;
        Ok(self)
    }
}

iterated!(SynchronousDescent<T>, T);

impl<T: Scalar> Descent<T> for Rule<T> {
    fn check(&self, layers: Layers<'_, T>) -> Result<(), Error> {
        self.step.check(layers)
    }

    fn begin(&self, state: &mut State<T>, problem: &mut TargetProblem<'_, T>) -> Result<(), Error> {
        let (layers, n) = (problem.layers(), problem.batch().len());
        let hidden = &layers.dims()[1..layers.depth()];
        let (numbers, moments) = state.split::<Moments<T>>();
        self.step.begin(first_part(numbers.parts), layers)?;
        moments.layers.resize_with(hidden.len(), Vec::new);
        for (own, &dim) in moments.layers.iter_mut().zip(hidden) {
            own.clear();
            own.resize(self.rule.slots() * dim * n, T::zero());
        }
        moments.ages.clear();
        moments.ages.resize(n, 0);
        moments.call = self.noise.map_or(0, |_| problem.call_that_draws());
        Ok(())
    }

    fn step(
        &self,
        state: &mut State<T>,
        problem: &mut TargetProblem<'_, T>,
        trial: &mut Trial<T>,
    ) -> Result<(), Error> {
        let (numbers, moments) = state.split::<Moments<T>>();
        let bounds = &numbers.parts[0];
        let full = self
            .step
            .of_all(bounds, problem.workspace(), trial.number)?;
        let (slots, weights) = (self.rule.slots(), problem.example_weights());
        let Moments { layers, ages, call } = moments;
        let (ids, visit) = problem.draws();
        problem.update_all(layers, |t, z, gradient, own| {
            let dim = z.len() / ages.len();
            let columns = z.chunks_exact_mut(dim).zip(gradient.chunks_exact(dim));
            for (i, (z, gradient)) in columns.enumerate() {
                let share = trial.share(i);
                if share.is_zero() {
                    continue;
                }
                let weight = weights.map_or(1.0, |weights| weights[i].as_f64());
                let step = Step::new(ages[i] + 1, (full * share).as_f64())
                    .with_gradient_factor(1.0 / weight);
                let own = &mut own[i * slots * dim..(i + 1) * slots * dim];
                self.rule.update(step, z, gradient, own);
                if let Some(noise) = self.noise {
                    let std = (2.0 * full.as_f64() * noise.temperature).sqrt();
                    let at = [visit, *call, ages[i]];
                    add_noise(z, std, &mut noise.stream(ids[i], at, t));
                }
            }
        });
        Ok(())
    }

    fn judged(&self, state: &mut State<T>, verdicts: &[Verdict]) {
        let Moments::<T> { layers, ages, .. } = state.scratch();
        for (i, verdict) in verdicts.iter().enumerate() {
            ages[i] += 1;
            if matches!(verdict, Verdict::Part | Verdict::Refused) {
                ages[i] = 0;
                for own in &mut *layers {
                    let size = own.len() / verdicts.len();
                    own[i * size..(i + 1) * size].fill(T::zero());
                }
            }
        }
    }
}
