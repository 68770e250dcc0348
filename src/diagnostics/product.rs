//! Products with the Gauss-Newton matrix of E in z, or with its diagonal blocks.

use crate::Scalar;
use crate::circuit::{Batch, Circuit, Workspace};
use crate::kernel::{add_scaled, add_to};
use crate::target_solver::Link;

/// What of the matrix H is multiplied with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// All of H, on (z_1, …, z_{T−1}) together.
    Whole,
    /// The diagonal blocks H_tt, each on its z_t alone.
    Blocks,
}

/// Products H p of every example with a direction of its own, example weights left out.
#[derive(Debug)]
pub(crate) struct Product<T> {
    /// (H p)_t, t = 1, …, T−1, d_t × n column-major.
    pub(crate) results: Vec<Vec<T>>,
    link: Link<T>,
}

impl<T: Scalar> Product<T> {
    pub(crate) fn new() -> Self {
        Self {
            results: Vec::new(),
            link: Link::new(),
        }
    }

    /// `results` ← H p, p_t = `directions[t − 1]`, at the predictions in the workspace.
    pub(crate) fn multiply(
        &mut self,
        part: Part,
        circuit: &Circuit<T>,
        batch: Batch<'_, T>,
        directions: &[Vec<T>],
        workspace: &mut Workspace<T>,
    ) {
        self.results.resize_with(directions.len(), Vec::new);
        for (t, local) in workspace.locals.iter_mut().enumerate() {
            self.link.fit(circuit, t, batch.len());
            let own = t.checked_sub(1).map(|i| &directions[i][..]);
            let above = directions.get(t).map(|above| &above[..]);
            // The blocks leave out what the two directions have to do with one another.
            let joint = part == Part::Whole;
            if let Some(result) = self.results.get_mut(t) {
                let own = own.filter(|_| joint);
                self.link
                    .multiply(circuit, batch, t, [own, above], false, local);
                result.clear();
                result.extend_from_slice(&self.link.in_target);
            }
            if own.is_some() {
                let above = above.filter(|_| joint);
                self.link
                    .multiply(circuit, batch, t, [own, above], true, local);
                add_to(&mut self.results[t - 1], &self.link.in_input);
            }
        }
        for (i, own) in self.results.iter_mut().enumerate() {
            let curvature = circuit.target_regularizers()[i].curvature();
            add_scaled(own, curvature, &directions[i]);
        }
    }
}
