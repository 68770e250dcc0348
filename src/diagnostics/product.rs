//! Products with the Gauss-Newton matrix of E in z, or with its diagonal blocks.

use crate::circuit::{Batch, Circuit, LocalWorkspace, Workspace};
use crate::kernel::{add_scaled, scale};
use crate::loss::Pair;
use crate::{Scalar, Write};

/// What of the matrix H is multiplied with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// All of H, on (z_1, …, z_{T−1}) together.
    Whole,
    /// The diagonal blocks H_tt, each on its z_t alone.
    Blocks,
}

/// Products H p of every example with a direction of its own, example weights left out.
///
/// With J_t = ∂f_t/∂z_t and C_t the curvature of layer t's loss in (z_{t+1}, ẑ_{t+1}), μ_{t+1} included,
/// H = Σ_t A_tᵀ C_t A_t + λ₂ of S, A_t p = (p_{t+1}, J_t p_t): block tridiagonal and positive semidefinite.
#[derive(Debug)]
pub(crate) struct Product<T> {
    /// (H p)_t, t = 1, …, T−1, d_t × n column-major.
    pub(crate) results: Vec<Vec<T>>,
    /// J_t p_t, and the curvature's product in ẑ_{t+1}.
    tangent: Vec<T>,
    in_prediction: Vec<T>,
}

impl<T: Scalar> Product<T> {
    pub(crate) fn new() -> Self {
        Self {
            results: Vec::new(),
            tangent: Vec::new(),
            in_prediction: Vec::new(),
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
            let (layer, loss) = (circuit.layer(t), circuit.loss(t));
            let LocalWorkspace {
                prediction,
                tape,
                work,
                ..
            } = local;
            let at = circuit.local_problem(t, batch).point(prediction, tape);
            let pair = Pair::new(layer.output_dim(), batch.z(t + 1), prediction)
                .with_parameters(circuit.loss_parameters(t));
            let own = t.checked_sub(1).map(|i| &directions[i][..]);
            let above = directions.get(t).map(|above| &above[..]);
            let (before, after) = self.results.split_at_mut(t);
            let mut in_target = after.first_mut();
            if let Some(in_target) = &mut in_target {
                in_target.resize(prediction.len(), T::zero());
            }
            self.tangent.resize(prediction.len(), T::zero());
            self.in_prediction.resize(prediction.len(), T::zero());
            if own.is_some() {
                layer.jvp(&at, own, None, &mut self.tangent, work);
            }
            let tangent = own.map(|_| &self.tangent[..]);
            let mut curvature = |v_target, v_prediction, target: bool, prediction: bool| {
                let into = in_target.as_mut().filter(|_| target);
                let in_target = Write::set(into.map(|into| &mut into[..]));
                let into = prediction.then_some(&mut self.in_prediction[..]);
                let in_prediction = Write::set(into);
                loss.curvature(
                    &pair,
                    v_target,
                    v_prediction,
                    in_target,
                    in_prediction,
                    work,
                );
            };
            match part {
                Part::Whole => curvature(above, tangent, true, own.is_some()),
                Part::Blocks => {
                    if above.is_some() {
                        curvature(above, None, true, false);
                    }
                    if own.is_some() {
                        curvature(None, tangent, false, true);
                    }
                }
            }
            let weight = circuit.weight(t);
            if let Some(in_target) = in_target {
                scale(in_target, weight);
            }
            if let Some(in_input) = before.last_mut() {
                scale(&mut self.in_prediction, weight);
                let in_input = Write::Add(in_input);
                layer.vjp(&at, &self.in_prediction, in_input, Write::Skip, work);
            }
        }
        for (i, own) in self.results.iter_mut().enumerate() {
            let curvature = circuit.target_regularizers()[i].curvature();
            add_scaled(own, curvature, &directions[i]);
        }
    }
}
