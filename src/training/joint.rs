//! Joint descent: θ and z move together.

use std::collections::HashMap;
use std::sync::Arc;

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
    memory: ExampleMemory<T>,
}

/// Optimiser state by example, in columns that are handed out as examples appear.
#[derive(Debug, Clone)]
struct ExampleMemory<T> {
    column_of: HashMap<u64, usize>,
    /// Steps of each column.
    steps: Vec<u64>,
    /// One array a hidden layer; an example's slots stand together.
    states: Vec<Vec<T>>,
    /// Columns of the batch under way.
    columns: Vec<usize>,
}

impl<T: Scalar> ExampleMemory<T> {
    fn new() -> Self {
        Self {
            column_of: HashMap::new(),
            steps: Vec::new(),
            states: Vec::new(),
            columns: Vec::new(),
        }
    }

    /// Finds the columns of `ids`, making room for examples not seen before. `lengths` are the
    /// state lengths of one example, by hidden layer.
    fn locate(&mut self, ids: &[u64], lengths: impl ExactSizeIterator<Item = usize>) {
        self.columns.clear();
        for &id in ids {
            let next = self.column_of.len();
            self.columns.push(*self.column_of.entry(id).or_insert(next));
        }
        let count = self.column_of.len();
        self.steps.resize(count, 0);
        self.states.resize_with(lengths.len(), Vec::new);
        for (state, length) in self.states.iter_mut().zip(lengths) {
            state.resize(count * length, T::zero());
        }
    }
}

impl<T: Scalar> JointDescent<T> {
    /// Joint descent in which `rule` moves the targets.
    pub fn new(rule: impl Optimizer<T> + 'static) -> Self {
        Self {
            rule: Arc::new(rule),
            memory: ExampleMemory::new(),
        }
    }
}

impl<T: Scalar> Scheme<T> for JointDescent<T> {
    fn start(&mut self, _model: &DecoupledCircuit<T>) -> Result<(), Error> {
        self.memory = ExampleMemory::new();
        Ok(())
    }

    fn visit(&mut self, visit: &mut Visit<'_, '_, T>) -> Result<T, Error> {
        let number = visit.steps();
        let mut problem = visit.target_problem();
        let energy = problem.evaluate(true, true);
        let gap = problem.squared_gap();
        let hidden = 1..problem.circuit().depth();
        for t in hidden.clone() {
            problem.check_target_gradient(t, number)?;
        }
        let (rule, slots) = (&self.rule, self.rule.slots());
        let lengths = problem.circuit().dims()[hidden].iter();
        let lengths = lengths.map(|&dim| slots * dim);
        self.memory.locate(problem.batch().examples(), lengths);
        let ExampleMemory {
            steps,
            states,
            columns,
            ..
        } = &mut self.memory;
        for &column in columns.iter() {
            steps[column] += 1;
        }
        let weights = problem.example_weights();
        // Both gradients stand in the workspace, so the order of the two updates is free.
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
        if let Err(error) = visit.step_parameters() {
            visit.target_problem().put_back();
            return Err(error);
        }
        visit.record_gap_met(gap);
        Ok(energy)
    }
}
