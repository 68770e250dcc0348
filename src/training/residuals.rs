//! The residuals r_t = z_t − ẑ_t of all examples, carried from visit to visit.

use super::example_memory::ExampleMemory;
use crate::decoupled::DecoupledCircuit;
use crate::energy::{Batch, Workspace};
use crate::error::Error;
use crate::kernel::Scalar;
use crate::target_solver::TargetProblem;

/// r_1, …, r_{T−1} of every example of a model.
///
/// θ moves between two visits to an example. An absolute target z_t stays where it was, and its
/// layer is pulled back to where θ was; a residual moves along with the predictions.
#[derive(Debug, Clone)]
pub(super) struct Residuals<T> {
    memory: ExampleMemory<T>,
}

impl<T: Scalar> Residuals<T> {
    pub(super) fn new() -> Self {
        Self {
            memory: ExampleMemory::new(),
        }
    }

    /// Takes the residuals of a model's targets at its present θ.
    pub(super) fn start(&mut self, model: &DecoupledCircuit<T>) -> Result<(), Error> {
        self.memory.start(model, 1);
        // As the visits will see it.
        model.for_each_evaluated("residuals", true, |batch, workspace| {
            let located = self.memory.locate(batch.examples());
            located.expect("examples of this model");
            self.store(batch, workspace);
        })
    }

    /// z_t ← f(z_{t−1}) + keep · r_t, t = 1, …, T−1, in this order.
    pub(super) fn load(
        &mut self,
        keep: T,
        problem: &mut TargetProblem<'_, '_, T>,
    ) -> Result<(), Error> {
        self.memory.locate(problem.batch().examples())?;
        problem.chain(|t, prediction, z| {
            for (i, residual) in self.memory.batch(t).enumerate() {
                let own = i * residual.len()..(i + 1) * residual.len();
                let targets = z[own.clone()].iter_mut().zip(&prediction[own]);
                for ((z, &p), &r) in targets.zip(residual) {
                    *z = p + keep * r;
                }
            }
        })
    }

    /// r_t ← z_t − f(z_{t−1}), for the batch of the last `load` and its current predictions.
    pub(super) fn store(&mut self, batch: Batch<'_, T>, workspace: &Workspace<T>) {
        for t in 1..=self.memory.hidden() {
            let (z, prediction) = (batch.z(t), workspace.local(t - 1).prediction());
            self.memory.update(t, |i, residual| {
                let own = i * residual.len()..(i + 1) * residual.len();
                let terms = z[own.clone()].iter().zip(&prediction[own]);
                for (r, (&z, &p)) in residual.iter_mut().zip(terms) {
                    *r = z - p;
                }
            });
        }
    }

    /// Brings the model's targets to what the residuals give at its present θ.
    pub(super) fn finish(&mut self, model: &mut DecoupledCircuit<T>) -> Result<(), Error> {
        model.solve_blocks(|problem| self.load(T::one(), problem))
    }
}
