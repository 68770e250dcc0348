//! One visit of a training scheme to one batch.

use std::fmt::Debug;
use std::sync::Arc;

use crate::circuit::{Batch, BatchMut, Circuit, Workspace};
use crate::execution::Execution;
use crate::kernel::all_finite;
use crate::optimizer::{Optimizer, Step};
use crate::target_solver::TargetProblem;
use crate::{Error, Quantity, Scalar};

/// What a training scheme does with a batch: the one line by which schemes differ.
///
/// # Errors
/// A scheme checks that energies and gradients are finite before it changes anything
/// ([`Error::NonFinite`]), so that an error leaves the last completed step's state.
pub trait Scheme<T: Scalar>: Debug + Send {
    /// Forgets what was kept from earlier runs.
    fn reset(&mut self);

    /// Whether the scheme moves auxiliary targets at all; without them a gap means nothing.
    fn uses_targets(&self) -> bool {
        true
    }

    /// Moves parameters, auxiliary targets, or both, once, and returns the objective on the batch
    /// (a sum over its examples) before the last parameter step: E, or the composed loss.
    ///
    /// # Errors
    /// [`Error::NonFinite`], and errors of a target solver.
    fn visit(&mut self, visit: &mut Visit<'_, '_, T>) -> Result<T, Error>;
}

/// The optimiser of θ with its state.
#[derive(Debug, Clone)]
pub(crate) struct ParameterOptimizer<T: Scalar> {
    rule: Arc<dyn Optimizer<T>>,
    /// Of each layer the rule's state, then room for the parameters before a step.
    states: Vec<Vec<T>>,
    /// Completed steps.
    pub(crate) steps: u64,
}

impl<T: Scalar> ParameterOptimizer<T> {
    pub(crate) fn new(rule: Arc<dyn Optimizer<T>>, circuit: &Circuit<T>) -> Self {
        let states = (0..circuit.depth())
            .map(|t| vec![T::zero(); (rule.slots() + 1) * circuit.parameters(t).len()])
            .collect();
        Self {
            rule,
            states,
            steps: 0,
        }
    }
}

/// Everything a [`Scheme`] works with during one visit.
#[derive(Debug)]
pub struct Visit<'a, 'b, T: Scalar> {
    pub(crate) circuit: &'a mut Circuit<T>,
    pub(crate) batch: &'a mut BatchMut<'b, T>,
    pub(crate) workspace: &'a mut Workspace<T>,
    pub(crate) optimizer: &'a mut ParameterOptimizer<T>,
    pub(crate) factor: f64,
    pub(crate) execution: Execution,
}

impl<'b, T: Scalar> Visit<'_, 'b, T> {
    /// The circuit at its present parameters.
    pub fn circuit(&self) -> &Circuit<T> {
        self.circuit
    }

    /// The batch.
    pub fn batch(&self) -> Batch<'_, T> {
        self.batch.view()
    }

    /// Results of the last evaluation.
    pub fn workspace(&self) -> &Workspace<T> {
        self.workspace
    }

    /// The factor of the learning rates that the schedule gives for this visit.
    pub fn factor(&self) -> f64 {
        self.factor
    }

    /// Parameter steps completed in this run.
    pub fn steps(&self) -> u64 {
        self.optimizer.steps
    }

    /// The problem of moving the targets, θ fixed; with
    /// [`TargetProblem::evaluate`] also the way to the parameter gradients.
    pub fn target_problem(&mut self) -> TargetProblem<'_, 'b, T> {
        TargetProblem::new(self.circuit, self.batch, self.workspace, self.execution)
    }

    /// The composed loss on the batch, and its parameter gradients into the workspace.
    ///
    /// # Errors
    /// [`Error::NonFinite`] for a loss that is not finite.
    pub fn backprop(&mut self) -> Result<T, Error> {
        let loss = self.circuit.backprop(self.batch.view(), self.workspace);
        if loss.is_finite() {
            return Ok(loss);
        }
        Err(Error::NonFinite {
            quantity: Quantity::ComposedLoss,
            layer: self.circuit.depth() - 1,
            step: self.optimizer.steps,
        })
    }

    /// One step of the optimiser on every θ_t along the gradient in the workspace divided by the
    /// number of examples, so that the learning rate means the same for every batch size.
    ///
    /// # Errors
    /// [`Error::NonFinite`] for an energy, gradient or new parameter that is not finite; no θ_t is
    /// changed then.
    pub fn step_parameters(&mut self) -> Result<(), Error> {
        let steps = self.optimizer.steps;
        self.workspace.check_energies(steps)?;
        self.workspace.check_parameter_gradients(steps)?;
        let mean = 1.0 / self.batch.ids.len() as f64;
        let step = Step::new(steps + 1, self.factor).with_gradient_factor(mean);
        let (rule, locals) = (&self.optimizer.rule, &self.workspace.locals);
        let states = &mut self.optimizer.states;
        let all = self.circuit.parameters_mut();
        self.execution.for_each_pair(all, states, |t, own, state| {
            let (state, previous) = state.split_at_mut(rule.slots() * own.len());
            previous.copy_from_slice(own);
            rule.update(step, own, &locals[t].d_parameters, state);
        });
        if let Some(layer) = all.iter().position(|own| !all_finite(own)) {
            for (own, state) in all.iter_mut().zip(states) {
                let start = rule.slots() * own.len();
                own.copy_from_slice(&state[start..]);
            }
            return Err(Error::NonFinite {
                quantity: Quantity::Parameter,
                layer,
                step: steps,
            });
        }
        self.optimizer.steps += 1;
        Ok(())
    }
}
