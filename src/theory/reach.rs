//! Statement 2: the light cone.

use super::probe::{gradients, on_a_copy};
use crate::decoupled::{DecoupledCircuit, Selection};
use crate::error::Error;
use crate::kernel::{Scalar, norm};
use crate::target_solver::TargetSolver;

/// Statement 2: the norms ‖∂E/∂θ_t‖, t = 0, …, T−1, after one call of `solver` on (a copy of) the
/// targets at the forward pass.
///
/// The norms are those of gradients summed over the selected examples; a norm is 0 only if every
/// entry is 0. After k synchronous steps it is exactly 0 for t < T−1−k; one reverse sweep reaches
/// every layer. This holds for L_h that vanish together with their gradients at z = ẑ, and without
/// regularisers.
///
/// # Errors
/// Errors of the selection and of the solver, [`Error::NoExamples`], [`Error::Overflow`].
pub fn gradient_reach<T: Scalar>(
    model: &DecoupledCircuit<T>,
    selection: &Selection<'_>,
    solver: &dyn TargetSolver<T>,
) -> Result<Vec<f64>, Error> {
    let own = on_a_copy(model, selection, "statement 2", |problem| {
        problem.refresh()?;
        solver.solve(&mut solver.start(), problem)?;
        gradients(problem)
    })?;
    Ok(own.parameters.iter().map(norm).collect())
}
