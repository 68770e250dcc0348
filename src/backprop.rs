//! Backprop on the same circuit: the coupled baseline.

use crate::circuit::{Batch, Circuit, Workspace};
use crate::kernel::total;
use crate::layer::Point;
use crate::loss::Pair;
use crate::{Scalar, Write};

impl<T: Scalar> Circuit<T> {
    /// The composed loss Σᵢ L(z_Tⁱ, ẑ_Tⁱ) of the plain forward pass over a batch, and its
    /// gradients ∂L/∂θ_t into the workspace ([`Workspace::parameter_gradient`]); sums over
    /// examples. Auxiliary targets play no part.
    ///
    /// The errors δ_t = ∂L/∂ẑ_t, t = 1, …, T−1, stand in `workspace.local(t).input_gradient()`
    /// afterwards. Source: Rumelhart, Hinton & Williams 1986.
    pub fn backprop(&self, batch: Batch<'_, T>, workspace: &mut Workspace<T>) -> T {
        self.forward_pass(batch, workspace);
        let loss = self.output_error(batch, workspace);
        for t in (0..self.depth()).rev() {
            let (before, after) = workspace.locals.split_at_mut(t);
            let input = match before.last() {
                None => batch.z(0),
                Some(local) => &local.prediction,
            };
            let (here, next) = after.split_at_mut(1);
            let here = &mut here[0];
            let cotangent = match next.first() {
                None => &here.cotangent,
                Some(next) => &next.d_input,
            };
            let at = Point {
                context: batch.context(self.seed(), t),
                parameters: self.parameters(t),
                input,
                output: &here.prediction,
                tape: &here.tape,
            };
            let d_input = Write::set((t > 0).then_some(&mut here.d_input[..]));
            let d_parameters = Write::Set(&mut here.d_parameters);
            self.layer(t)
                .vjp(&at, cotangent, d_input, d_parameters, &mut here.work);
        }
        loss
    }

    /// Σᵢ L and g = ∂L/∂ẑ_T at the workspace's prediction ẑ_T.
    pub(crate) fn output_error(&self, batch: Batch<'_, T>, workspace: &mut Workspace<T>) -> T {
        let last = self.depth() - 1;
        let local = &mut workspace.locals[last];
        let pair = Pair::new(
            self.layer(last).output_dim(),
            batch.z(last + 1),
            &local.prediction,
        );
        self.loss(last).evaluate(
            &pair,
            &mut local.energies,
            Write::Skip,
            Write::Set(&mut local.cotangent),
            &mut local.work,
        );
        let loss = total(&local.energies);
        // The only energy that this evaluation has.
        for local in &mut workspace.locals {
            local.energy = T::zero();
        }
        workspace.locals[last].energy = loss;
        loss
    }
}
