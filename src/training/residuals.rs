//! The residuals r_t = z_t − ẑ_t of all examples, carried from visit to visit.

use crate::decoupled::DecoupledCircuit;
use crate::target_solver::TargetProblem;
use crate::{Error, Scalar};

/// r_1, …, r_{T−1} of every example of a model, in its columns.
///
/// θ moves between two visits to an example. An absolute target z_t stays where it was, and its
/// layer is pulled back to where θ was; a residual moves along with the predictions.
#[derive(Debug, Clone)]
pub(super) struct Residuals<T> {
    dims: Vec<usize>,
    /// The examples' numbers in increasing order, one a column.
    ids: Vec<u64>,
    values: Vec<Vec<T>>,
    /// Columns of the batch under way.
    columns: Vec<usize>,
}

impl<T: Scalar> Residuals<T> {
    pub(super) fn new() -> Self {
        Self {
            dims: Vec::new(),
            ids: Vec::new(),
            values: Vec::new(),
            columns: Vec::new(),
        }
    }

    /// Takes the residuals of a model's targets at its present θ.
    pub(super) fn start(&mut self, model: &DecoupledCircuit<T>) -> Result<(), Error> {
        let hidden = 1..model.circuit().depth();
        self.dims = model.circuit().dims()[hidden.clone()].to_vec();
        self.ids = model.examples().to_vec();
        self.values = vec![Vec::new(); hidden.len()];
        model.for_each_evaluated("residuals", |batch, workspace| {
            for (t, values) in hidden.clone().zip(&mut self.values) {
                let prediction = workspace.local(t - 1).prediction();
                values.extend(batch.z(t).iter().zip(prediction).map(|(&z, &p)| z - p));
            }
        })
    }

    /// z_t ← f(z_{t−1}) + keep · r_t, t = 1, …, T−1, in this order.
    pub(super) fn load(
        &mut self,
        keep: T,
        problem: &mut TargetProblem<'_, '_, T>,
    ) -> Result<(), Error> {
        let ids = &self.ids;
        let column = |id| ids.binary_search(id).expect("an example of the run");
        self.columns.clear();
        self.columns
            .extend(problem.batch().examples().iter().map(column));
        problem.chain(|t, prediction, z| {
            let dim = self.dims[t - 1];
            let predictions = prediction.chunks_exact(dim);
            let targets = z.chunks_exact_mut(dim).zip(predictions);
            for (&column, (z, prediction)) in self.columns.iter().zip(targets) {
                let residual = &self.values[t - 1][column * dim..(column + 1) * dim];
                for ((z, &p), &r) in z.iter_mut().zip(prediction).zip(residual) {
                    *z = p + keep * r;
                }
            }
        })
    }

    /// r_t ← z_t − f(z_{t−1}), for the batch of the last `load` and predictions that are current.
    pub(super) fn store(&mut self, problem: &TargetProblem<'_, '_, T>) {
        for (t, values) in (1..).zip(&mut self.values) {
            let dim = self.dims[t - 1];
            let prediction = problem.workspace().local(t - 1).prediction();
            let targets = problem.batch().z(t).chunks_exact(dim);
            let targets = targets.zip(prediction.chunks_exact(dim));
            for (&column, (z, prediction)) in self.columns.iter().zip(targets) {
                let residual = &mut values[column * dim..(column + 1) * dim];
                for ((r, &z), &p) in residual.iter_mut().zip(z).zip(prediction) {
                    *r = z - p;
                }
            }
        }
    }

    /// Brings the model's targets to what the residuals give at its present θ.
    pub(super) fn finish(&mut self, model: &mut DecoupledCircuit<T>) -> Result<(), Error> {
        model.solve_blocks(|problem| self.load(T::one(), problem))
    }
}
