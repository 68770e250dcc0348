//! Backprop on the same circuit: the coupled baseline.

use crate::circuit::{Batch, Circuit, Wanted, Workspace, forward_input};
use crate::kernel::total;
use crate::layer::Point;
use crate::{Scalar, Write};

impl<T: Scalar> Circuit<T> {
    /// The composed objective Σᵢ wᵢ \[ L(z_Tⁱ, ẑ_Tⁱ) + Σ_t R(θ_t) \] of the plain forward pass over
    /// a batch (weights and regularisers where there are any), and its gradients in θ_t into the
    /// workspace ([`Workspace::parameter_gradient`]); sums over examples. Auxiliary targets play
    /// no part.
    ///
    /// The errors δ_t = ∂L/∂ẑ_t, t = 1, …, T−1, stand in `workspace.local(t).input_gradient()`
    /// afterwards. Source: Rumelhart, Hinton & Williams 1986.
    pub fn backprop(&self, batch: Batch<'_, T>, workspace: &mut Workspace<T>) -> T {
        self.forward_pass(batch, workspace);
        let last = self.depth() - 1;
        for t in (0..=last).rev() {
            let (before, after) = workspace.locals.split_at_mut(t);
            let input = forward_input(batch, before);
            let problem = self.local_problem_at(t, batch, input);
            let (here, above) = after.split_at_mut(1);
            let here = &mut here[0];
            let Some(above) = above.first() else {
                let wanted = Wanted {
                    parameters: true,
                    input: t > 0,
                    target: false,
                };
                problem.differentiate(wanted, here);
                continue;
            };
            let at = Point {
                context: problem.context,
                parameters: self.layer_parameters(t),
                input,
                output: &here.prediction,
                tape: &here.tape,
            };
            let (d_own, d_loss) = here.d_parameters.split_at_mut(at.parameters.len());
            let d_input = Write::set((t > 0).then_some(&mut here.d_input[..]));
            let d_own = Write::Set(d_own);
            self.layer(t)
                .vjp(&at, &above.d_input, d_input, d_own, &mut here.work);
            // The hidden losses play no part.
            d_loss.fill(T::zero());
            here.energies.fill(T::zero());
            problem.regularize_parameters(true, here);
            here.energy = total(&here.energies);
        }
        workspace.energy()
    }
}
