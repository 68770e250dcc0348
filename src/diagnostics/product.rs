//! Products with the Gauss-Newton matrix of E in z, or with its diagonal blocks.

use crate::energy::{Problem, Workspace};
use crate::kernel::{Scalar, add_scaled, add_to};
use crate::target_solver::Link;

/// Which part of the matrix H to multiply with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// All of H, on (z_1, …, z_{T−1}) together.
    Whole,
    /// The diagonal blocks H_tt, each on its z_t alone.
    Blocks,
}

/// The products H p for every example, each with its own direction p, without example weights.
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
            link: Link::default(),
        }
    }

    /// `results` ← H p with p_t = `directions[t − 1]`, with the predictions in the workspace.
    pub(crate) fn multiply(
        &mut self,
        part: Part,
        problem: Problem<'_, T>,
        directions: &[Vec<T>],
        workspace: &mut Workspace<T>,
    ) {
        let (layers, batch) = (problem.layers(), problem.batch());
        self.results.resize_with(directions.len(), Vec::new);
        for (t, local) in workspace.locals.iter_mut().enumerate() {
            self.link.fit(layers, t, batch.len());
            let own = t.checked_sub(1).map(|i| directions[i][..].into());
            let above = directions.get(t).map(|above| &above[..]);
            match part {
                Part::Whole => {
                    let wanted = own.is_some();
                    self.link
                        .multiply(layers, batch, t, (own, above), wanted, local);
                    self.set_target_part(t);
                    self.add_input_part(t);
                }
                // Leave out the blocks that couple z_t with z_{t+1}.
                Part::Blocks => {
                    if above.is_some() {
                        self.link
                            .multiply(layers, batch, t, (None, above), false, local);
                        self.set_target_part(t);
                    }
                    if own.is_some() {
                        self.link
                            .multiply(layers, batch, t, (own, None), true, local);
                        self.add_input_part(t);
                    }
                }
            }
        }
        for (i, own) in self.results.iter_mut().enumerate() {
            let curvature = layers.target_regularizers()[i].curvature();
            add_scaled(own, curvature, &directions[i]);
        }
    }

    /// (H p)_{t+1} ← the part of layer t, which comes first. z_T has no product.
    fn set_target_part(&mut self, t: usize) {
        if let Some(result) = self.results.get_mut(t) {
            result.clear();
            result.extend_from_slice(&self.link.in_target);
        }
    }

    /// (H p)_t ← (H p)_t + the part of layer t. z_0 has no product.
    fn add_input_part(&mut self, t: usize) {
        if let Some(result) = t.checked_sub(1).map(|i| &mut self.results[i]) {
            add_to(result, &self.link.in_input);
        }
    }
}
