//! Backprop through the same local problems: the coupled baseline.

use crate::energy::local_problem::LocalProblem;
use crate::energy::problem::{fed, predict_in_chain};
use crate::energy::wanted::Ask;
use crate::energy::workspace::Workspace;
use crate::kernel::{Scalar, Write, total};

/// The composed objective of local problems 0, …, T−1, where each gets the previous prediction
/// instead of its own input, and the gradients in θ_t if wanted; `workspace` must fit the circuit.
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
            problem.differentiate(Ask::new(gradients, gradients && t > 0, false), here);
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
