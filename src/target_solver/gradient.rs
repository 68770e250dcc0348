//! Synchronous gradient steps on all targets at once.

use std::sync::Arc;

use super::curvature::{Curvature, bounded};
use super::{SolveReport, StepSize, TargetProblem, TargetSolver};
use crate::optimizer::{GradientDescent, Optimizer, Step};
use crate::{Error, Scalar};

/// K synchronous steps z_t ← z_t − η ∂E/∂z_t, all layers at once.
///
/// Information moves one layer a step: from the forward pass, K steps give parameter gradients in
/// the last K + 1 layers only. Within the steps of one call the rule's state (momentum, Adam's
/// moments) is carried; it starts at zero in every call.
///
/// # Examples
/// ```
/// use layerwise::{StepSize, SynchronousDescent};
///
/// let solver: SynchronousDescent<f64> =
///     SynchronousDescent::new(10, StepSize::Bounded { margin: 1.0 })?;
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct SynchronousDescent<T: Scalar> {
    steps: u64,
    step: Option<StepSize>,
    rule: Arc<dyn Optimizer<T>>,
    states: Vec<Vec<T>>,
    curvature: Curvature<T>,
}

impl<T: Scalar> SynchronousDescent<T> {
    /// K = `steps` plain gradient steps of length η: fixed, or `margin` over a bound of λ_max of
    /// the whole Gauss-Newton matrix (block Gershgorin).
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a step out of range.
    pub fn new(steps: u64, step: StepSize) -> Result<Self, Error> {
        Ok(Self {
            steps,
            step: Some(step.validate()?),
            rule: Arc::new(GradientDescent::new(1.0)?),
            states: Vec::new(),
            curvature: Curvature::new(),
        })
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

    /// K = `steps` steps of another rule, whose own learning rate is the step: momentum, Adam, ….
    pub fn with_rule(steps: u64, rule: impl Optimizer<T> + 'static) -> Self {
        Self {
            steps,
            step: None,
            rule: Arc::new(rule),
            states: Vec::new(),
            curvature: Curvature::new(),
        }
    }
}

impl<T: Scalar> TargetSolver<T> for SynchronousDescent<T> {
    fn reset(&mut self) {
        self.curvature.reset();
    }

    fn solve(&mut self, problem: &mut TargetProblem<'_, '_, T>) -> Result<SolveReport, Error> {
        let hidden = problem.circuit.depth() - 1;
        let factor = match self.step {
            _ if hidden == 0 || self.steps == 0 => return Ok(SolveReport::default()),
            None => 1.0,
            Some(StepSize::Fixed(step)) => step,
            Some(StepSize::Bounded { margin }) => {
                self.curvature.refresh(problem.circuit)?;
                bounded(margin, self.curvature.whole().as_f64())
            }
        };
        let n = problem.batch.ids.len();
        let weights = problem.example_weights();
        self.states.resize(hidden, Vec::new());
        for (state, &dim) in self.states.iter_mut().zip(&problem.circuit.dims()[1..]) {
            state.clear();
            state.resize(self.rule.slots() * dim * n, T::zero());
        }
        for k in 0..self.steps {
            problem.evaluate(false, true);
            problem.workspace.check_energies(k)?;
            for t in 1..=hidden {
                problem.check_target_gradient(t, k)?;
            }
            let step = Step::new(k + 1, factor);
            let (rule, states) = (&self.rule, &mut self.states);
            problem.attempt(k, |problem| {
                problem.update_all(states, |z, gradient, state| match weights {
                    None => rule.update(step, z, gradient, state),
                    Some(weights) => {
                        let dim = z.len() / weights.len();
                        let slots = rule.slots() * dim;
                        let columns = z.chunks_exact_mut(dim).zip(gradient.chunks_exact(dim));
                        for (i, (z, gradient)) in columns.enumerate() {
                            let own = &mut state[i * slots..(i + 1) * slots];
                            let weight = 1.0 / weights[i].as_f64();
                            rule.update(step.with_gradient_factor(weight), z, gradient, own);
                        }
                    }
                });
                Ok(())
            })?;
        }
        Ok(SolveReport { steps: self.steps })
    }
}
