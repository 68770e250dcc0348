//! Statements 7 and 8: inference that gives backprop's gradients.

use super::probe::{finite, on_a_copy};
use crate::decoupled::{DecoupledCircuit, Selection};
use crate::error::{Error, Quantity};
use crate::kernel::Scalar;
use crate::target_solver::TargetProblem;
use crate::training::{infer_fixed_prediction, infer_z_il};

/// Statement 7: ∂E/∂θ_t, t = 0, …, T−1, by Z-IL: (a copy of) the targets starts at the forward pass
/// and moves by synchronous steps of size 1; layer T−1−k takes its gradient after k steps.
///
/// They equal backprop's up to rounding (each δ is computed as (h − δ) − h). Sums over the selected
/// examples. Song, Lukasiewicz, Xu & Bogacz 2020.
///
/// # Errors
/// [`Error::NotSquaredError`] for another L_h, [`Error::InvalidOption`] unless μ = 1 and no target
/// has a regulariser; errors of the selection, [`Error::NoExamples`], [`Error::Overflow`].
pub fn z_il_gradients<T: Scalar>(
    model: &DecoupledCircuit<T>,
    selection: &Selection<'_>,
) -> Result<Vec<Vec<T>>, Error> {
    on_a_copy(model, selection, "statement 7", |problem| {
        infer_z_il(problem, 0)?;
        parameter_gradients(problem)
    })
}

/// Statement 8: ∂E/∂θ_t, t = 0, …, T−1, after `steps` synchronous steps of size 1 of (a copy of)
/// the targets from the forward pass, with predictions and Jacobians frozen there.
///
/// After T−1 or more steps they equal backprop's up to rounding; after k < T−1 steps those of the
/// last k + 1 layers do, and the others are 0. Sums over the selected examples. Millidge, Tschantz
/// & Buckley 2022; Whittington & Bogacz 2017.
///
/// # Errors
/// Those of [`z_il_gradients`].
pub fn fixed_prediction_gradients<T: Scalar>(
    model: &DecoupledCircuit<T>,
    selection: &Selection<'_>,
    steps: usize,
) -> Result<Vec<Vec<T>>, Error> {
    on_a_copy(model, selection, "statement 8", |problem| {
        infer_fixed_prediction(problem, Some(steps), 0)?;
        parameter_gradients(problem)
    })
}

/// The parameter gradients that a scheme left in the problem's workspace; all finite.
fn parameter_gradients<T: Scalar>(problem: &TargetProblem<'_, T>) -> Result<Vec<Vec<T>>, Error> {
    let locals = problem.workspace().locals.iter().enumerate();
    let gradients = locals.map(|(t, local)| {
        finite(Quantity::ParameterGradient, t, &local.d_parameters)?;
        Ok(local.d_parameters.clone())
    });
    gradients.collect()
}
