//! Backprop on the same circuit: the coupled baseline.

use crate::circuit::{Circuit, fed, predict_in_chain};
use crate::energy::{Batch, LocalProblem, Wanted, Workspace};
use crate::kernel::total;
use crate::kernel::{Scalar, Write};

impl<T: Scalar> Circuit<T> {
    /// The composed objective Σᵢ wᵢ \[ L(z_Tⁱ, ẑ_Tⁱ) + Σ_t R(θ_t) \] of the plain forward pass over
    /// a batch (weights and regularisers where there are any), and its gradients in θ_t into the
    /// workspace ([`Workspace::parameter_gradient`]); sums over examples. Auxiliary targets play
    /// no part.
    ///
    /// The errors δ_t = ∂L/∂ẑ_t, t = 1, …, T−1, stand in `workspace.local(t).input_gradient()`
    /// afterwards. Source: Rumelhart, Hinton & Williams 1986.
    pub fn backprop(&self, batch: Batch<'_, T>, workspace: &mut Workspace<T>) -> T {
        workspace.fit(self);
        workspace.spent = false;
        compose(|t| self.local_problem(t, batch), true, workspace)
    }
}

/// The composed objective of local problems 0, …, T−1, each fed with the prediction of the one
/// before it instead of its own input, and the gradients in θ_t if wanted; `workspace` fits the
/// circuit.
pub(crate) fn compose<'a, T: Scalar>(
    problem: impl Fn(usize) -> LocalProblem<'a, T>,
    gradients: bool,
    workspace: &mut Workspace<T>,
) -> T {
    predict_in_chain(&problem, workspace);
    for t in (0..workspace.locals.len()).rev() {
        let (before, after) = workspace.locals.split_at_mut(t);
        let problem = fed(problem(t), before);
        let (here, above) = after.split_at_mut(1);
        let here = &mut here[0];
        let Some(above) = above.first() else {
            let wanted = Wanted {
                parameters: gradients,
                input: gradients && t > 0,
                target: false,
            };
            problem.differentiate(wanted, here);
            continue;
        };
        if gradients {
            let at = problem.point(&here.prediction, &here.tape);
            let (d_own, d_loss) = here.d_parameters.split_at_mut(at.parameters.len());
            let d_input = Write::set((t > 0).then_some(&mut here.d_input[..]));
            let d_own = Write::Set(d_own);
            let layer = problem.layer;
            layer.vjp(&at, &above.d_input, d_input, d_own, &mut here.work);
            // The hidden losses play no part.
            d_loss.fill(T::zero());
        }
        here.energies.fill(T::zero());
        problem.regularize_parameters(gradients, here);
        here.energy = total(&here.energies);
    }
    workspace.energy()
}
