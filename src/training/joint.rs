//! Joint descent: θ and z move together.

use std::sync::Arc;

use super::example_memory::ExampleMemory;
use super::visit::{Scheme, Visit};
use crate::decoupled::DecoupledCircuit;
use crate::optimizer::{Optimizer, Step};
use crate::{Error, Scalar};

/// Joint descent on θ and z: both gradients of E at the same point, both updated at once.
///
/// The state of z's rule (momentum, Adam's moments and its count of steps) is kept by example, so
/// it survives shuffled minibatches. The rate of z applies to each example's own gradient, that of
/// θ to the mean over the batch; the schedule scales θ's rate alone.
///
/// # Examples
/// ```
/// use layerwise::{GradientDescent, JointDescent};
///
/// let scheme: JointDescent<f64> =
///     JointDescent::new(GradientDescent::new(0.1)?.with_momentum(0.9)?);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct JointDescent<T: Scalar> {
    rule: Arc<dyn Optimizer<T>>,
    /// The rule's state.
    memory: ExampleMemory<T>,
    /// Steps of each example, by column.
    steps: Vec<u64>,
}

impl<T: Scalar> JointDescent<T> {
    /// Joint descent in which `rule` moves the targets.
    pub fn new(rule: impl Optimizer<T> + 'static) -> Self {
        Self {
            rule: Arc::new(rule),
            memory: ExampleMemory::new(),
            steps: Vec::new(),
        }
    }
}

impl<T: Scalar> Scheme<T> for JointDescent<T> {
    fn start(&mut self, model: &DecoupledCircuit<T>) -> Result<(), Error> {
        self.memory.start(model, self.rule.slots());
        self.steps = vec![0; model.examples().len()];
        Ok(())
    }

    fn visit(&mut self, visit: &mut Visit<'_, '_, T>) -> Result<T, Error> {
        let number = visit.steps();
        let mut problem = visit.target_problem();
        let energy = problem.evaluate(true, true);
        let gap = problem.squared_gap();
        for t in 1..problem.circuit().depth() {
            problem.check_target_gradient(t, number)?;
        }
        self.memory.locate(problem.batch().examples())?;
        let (columns, states) = self.memory.columns_and_values();
        for &column in columns {
            self.steps[column] += 1;
        }
        let (rule, steps) = (&self.rule, &self.steps);
        let slots = rule.slots();
        let weights = problem.example_weights();
        // Both gradients stand in the workspace, so the order of the two updates is free. If that of
        // θ fails, the run puts the targets back.
        problem.attempt(number, |problem| {
            problem.update_all(states, |z, gradient, state| {
                let dim = z.len() / columns.len();
                let targets = z.chunks_exact_mut(dim).zip(gradient.chunks_exact(dim));
                for (i, (z, gradient)) in targets.enumerate() {
                    let column = columns[i];
                    let own = &mut state[column * slots * dim..(column + 1) * slots * dim];
                    let weight = weights.map_or(1.0, |w| w[i].as_f64());
                    let step = Step::new(steps[column], 1.0).with_gradient_factor(1.0 / weight);
                    rule.update(step, z, gradient, own);
                }
            });
            Ok(())
        })?;
        visit.step_parameters()?;
        visit.record_gap_met(gap);
        Ok(energy)
    }
}
