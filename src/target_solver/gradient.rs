//! Synchronous gradient steps on all targets at once.

use std::sync::Arc;

use super::acceptance::{Acceptance, Check, Verdict};
use super::curvature::Curvature;
use super::{Convergence, SolveReport, StepSize, TargetProblem, TargetSolver};
use crate::error::Error;
use crate::kernel::Scalar;
use crate::optimizer::{GradientDescent, Optimizer, Step};

/// K synchronous steps z_t ← z_t − η ∂E/∂z_t, all layers at once.
///
/// Information moves one layer a step: from the forward pass, K steps give parameter gradients in
/// the last K + 1 layers only. η is fixed, or `margin` over a bound of λ_max of the whole
/// Gauss-Newton matrix (block Gershgorin); or it is the factor of the learning rate of another rule
/// ([`SynchronousDescent::with_rule`]). Within the steps of one call the rule's state (momentum,
/// Adam's moments) is carried; it starts at zero in every call, and for an example whose step was
/// drawn back ([`StepSize`]: adaptive restart, O'Donoghue & Candès 2015).
///
/// # Examples
/// ```
/// use layerwise::optimizer::GradientDescent;
/// use layerwise::target_solver::{StepSize, SynchronousDescent};
///
/// let bounded = StepSize::Bounded { margin: 1.0 };
/// let plain: SynchronousDescent<f64> = SynchronousDescent::new(10, bounded)?;
/// // Bounded steps with momentum: the rule's own rate, 1, leaves the step as it is.
/// let heavy_ball = GradientDescent::new(1.0)?.with_momentum(0.9)?;
/// let momentum = plain.with_rule(heavy_ball);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct SynchronousDescent<T: Scalar> {
    steps: u64,
    step: StepSize,
    rule: Arc<dyn Optimizer<T>>,
    /// The rule's state, `slots()` arrays of d_t for one example after another.
    states: Vec<Vec<T>>,
    /// The step at which each example's state was last zero.
    starts: Vec<u64>,
    curvature: Curvature<T>,
    acceptance: Acceptance<T>,
}

impl<T: Scalar> SynchronousDescent<T> {
    /// K = `steps` plain gradient steps.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a step out of range.
    pub fn new(steps: u64, step: StepSize) -> Result<Self, Error> {
        Ok(Self {
            steps,
            step: step.validate::<T>()?,
            rule: Arc::new(GradientDescent::new(1.0)?),
            states: Vec::new(),
            starts: Vec::new(),
            curvature: Curvature::new(),
            acceptance: Acceptance::new(),
        })
    }

    /// The same steps by another rule, whose learning rate the step multiplies: momentum with
    /// rate 1 and a bounded step, or Adam with its own rate and `StepSize::Checked(1.0)`.
    ///
    /// The rule's own rate multiplies the step: a rate of 0.1 leaves a tenth of the bound.
    /// A curvature bound holds for gradient steps and for momentum (which is stable up to
    /// 2(1 + β)/λ_max), not for rules that scale the gradient unit by unit, such as Adam: there the
    /// check alone keeps E from rising.
    pub fn with_rule(mut self, rule: impl Optimizer<T> + 'static) -> Self {
        self.rule = Arc::new(rule);
        self
    }

    /// The same with the bounds computed anew in every k-th call (default 10): 1 follows the
    /// weights exactly, more saves time when they change slowly.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for 0.
    pub fn with_bound_every(mut self, calls: u64) -> Result<Self, Error> {
        let option = "SynchronousDescent::bound_every";
        self.curvature = self.curvature.with_every(option, calls)?;
        Ok(self)
    }

    /// The same with an earlier end for examples at rest, which then stay.
    pub fn with_convergence(mut self, convergence: Convergence) -> Self {
        self.acceptance.set_convergence(convergence);
        self
    }
}

impl<T: Scalar> TargetSolver<T> for SynchronousDescent<T> {
    fn reset(&mut self) {
        self.curvature.reset();
    }

    fn solve(&mut self, problem: &mut TargetProblem<'_, '_, T>) -> Result<SolveReport, Error> {
        let hidden = problem.circuit.depth() - 1;
        let n = problem.batch.ids.len();
        if hidden == 0 || self.steps == 0 {
            return Ok(SolveReport::new(0, n));
        }
        if self.step.is_bounded() {
            self.curvature.refresh(problem.circuit)?;
        }
        let factor = self.step.length(|| self.curvature.whole());
        let dims = &problem.circuit.dims()[1..=hidden];
        let (rule, slots) = (&self.rule, self.rule.slots());
        let (states, acceptance) = (&mut self.states, &mut self.acceptance);
        states.resize(hidden, Vec::new());
        for (state, &dim) in states.iter_mut().zip(dims) {
            state.clear();
            state.resize(slots * dim * n, T::zero());
        }
        let starts = &mut self.starts;
        starts.clear();
        starts.resize(n, 0);
        acceptance.begin(n, self.step.check());
        for k in 0..self.steps {
            problem.evaluate(false, true);
            problem.workspace.check_energies(k)?;
            if k == 0 {
                acceptance.start_all(problem)?;
            }
            for t in 1..=hidden {
                problem.check_target_gradient(t, k)?;
                acceptance.meet(t, problem);
            }
            acceptance.rest();
            if acceptance.is_over() {
                break;
            }
            let weights = problem.example_weights();
            problem.trial(|problem| {
                problem.update_all(states, |z, gradient, state| {
                    let dim = z.len() / n;
                    let columns = z.chunks_exact_mut(dim).zip(gradient.chunks_exact(dim));
                    for (i, (z, gradient)) in columns.enumerate() {
                        let share = acceptance.share(i);
                        if share.is_zero() {
                            continue;
                        }
                        let weight = weights.map_or(1.0, |weights| weights[i].as_f64());
                        let step = Step::new(k + 1 - starts[i], (factor * share).as_f64())
                            .with_gradient_factor(1.0 / weight);
                        let own = &mut state[i * slots * dim..(i + 1) * slots * dim];
                        rule.update(step, z, gradient, own);
                    }
                });
                match self.step.check() {
                    Check::Rounding | Check::Strict => Ok(()),
                    Check::None => problem.check_targets(k),
                }
            })?;
            acceptance.judge(problem, |i, verdict| {
                if verdict != Verdict::Whole {
                    starts[i] = k + 1;
                    for (state, &dim) in states.iter_mut().zip(dims) {
                        state[i * slots * dim..(i + 1) * slots * dim].fill(T::zero());
                    }
                }
            });
        }
        Ok(acceptance.report())
    }
}
