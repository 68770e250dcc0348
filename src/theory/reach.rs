//! Statement 2: the light cone.

use super::probe::{gradients, on_a_copy};
use crate::decoupled::{DecoupledCircuit, Selection};
use crate::diagnostics::norm;
use crate::error::Error;
use crate::kernel::Scalar;
use crate::target_solver::TargetSolver;

/// Statement 2: the norms ‖∂E/∂θ_t‖, t = 0, …, T−1, after `solver` moved (a copy of) the targets
/// once, from the forward pass.
///
/// The norms are of gradients summed over the selected examples; a norm is 0 only if every entry
/// is. k synchronous steps leave it 0, exactly, for t < T−1−k; one reverse sweep reaches every
/// layer. For L_h that vanish with their gradients at z = ẑ, and no regularisers.
///
/// # Errors
/// Errors of the selection and of the solver, [`Error::NoExamples`], [`Error::NonFinite`].
///
/// # Examples
/// ```
/// use layerwise::prelude::*;
/// use layerwise::theory;
/// use layerwise::target_solver::SynchronousDescent;
///
/// let mut builder = Circuit::<f64>::builder();
/// for _ in 0..4 {
///     builder = builder.layer(Dense::new(2, 2, Activation::Tanh)?);
/// }
/// let mut model = DecoupledCircuit::new(builder.build()?, Energy::default())?;
/// let (x, y) = (DMatrix::from_element(2, 1, 0.5), DMatrix::from_element(2, 1, 1.0));
/// model.add_examples(&x, &y, &TargetInit::ForwardPass)?;
///
/// let one_step = SynchronousDescent::new(1, StepSize::Fixed(0.1))?;
/// let reach = theory::gradient_reach(&model, &Selection::All, &one_step)?;
/// assert_eq!(reach[..2], [0.0, 0.0]);
/// assert!(reach[2] > 0.0 && reach[3] > 0.0);
/// let reach = theory::gradient_reach(&model, &Selection::All, &ReverseSweep::new(1))?;
/// assert!(reach.iter().all(|&norm| norm > 0.0));
/// # Ok::<(), layerwise::Error>(())
/// ```
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
