//! Statement 10: estimates of λ_max from below.

use super::probe::finite;
use crate::check::at_least_one;
use crate::decoupled::{DecoupledCircuit, Selection};
use crate::diagnostics::lambda_max::lambda_max;
use crate::diagnostics::product::Part;
use crate::energy::Workspace;
use crate::error::{Error, Quantity};
use crate::kernel::Scalar;

/// Statement 10: estimates of λ_max of the Gauss-Newton matrix of E in z = (z_1, …, z_{T−1}), at
/// the model's targets, one per selected example.
///
/// H v = Σ_t A_tᵀ C_t A_t v + λ₂ v of the regularisers, A_t v = (v_{t+1}, J_t v_t), C_t the
/// curvature of layer t's loss in (z_{t+1}, ẑ_{t+1}), μ included; without example weights, by which
/// steps on z divide. With `layer` = Some(t) the others are held: λ_max of z_t's own block.
///
/// `iterations` of Lanczos (1950), each one JVP and one VJP per layer, all examples at once, from a
/// direction drawn from `seed`, the same for every example. Each estimate is a Ritz value, at most
/// λ_max up to rounding: λ_max lies between it and [`curvature_bounds`](super::curvature_bounds), and
/// their ratio is the margin that the bounds give away. All 0 if T = 1.
/// [`Diagnostics`](crate::diagnostics::Diagnostics) reports the same numbers by layer.
///
/// # Errors
/// [`Error::InvalidOption`] for no iterations, [`Error::UnknownLayer`] unless 0 < t < T, errors of
/// the selection, [`Error::NoExamples`], [`Error::NonFinite`].
///
/// # Examples
/// ```
/// use layerwise::prelude::*;
/// use layerwise::theory;
///
/// let mut builder = Circuit::<f64>::builder();
/// for _ in 0..5 {
///     builder = builder.layer(Dense::new(3, 3, Activation::Tanh)?);
/// }
/// let mut model = DecoupledCircuit::new(builder.build()?, Energy::default())?;
/// let (x, y) = (DMatrix::from_element(3, 2, 0.5), DMatrix::from_element(3, 2, 1.0));
/// model.add_examples(&x, &y, &TargetInit::ForwardPass)?;
/// let estimates = theory::largest_curvature(&model, &Selection::All, None, 12, 0)?;
/// let bound = theory::curvature_bounds(model.layers())?.whole();
/// assert!(estimates.iter().all(|&estimate| 0.0 < estimate && estimate <= bound));
/// # Ok::<(), layerwise::Error>(())
/// ```
pub fn largest_curvature<T: Scalar>(
    model: &DecoupledCircuit<T>,
    selection: &Selection<'_>,
    layer: Option<usize>,
    iterations: usize,
    seed: u64,
) -> Result<Vec<f64>, Error> {
    let hidden = 1..model.circuit().depth();
    if let Some(t) = layer.filter(|t| !hidden.contains(t)) {
        return Err(Error::UnknownLayer {
            layer: t,
            allowed: format!("{hidden:?}"),
        });
    }
    at_least_one("theory::largest_curvature::iterations", iterations as u64)?;
    model.with_problem(selection, "statement 10", |problem| {
        let mut workspace = Workspace::new();
        problem.predict_locally(&mut workspace);
        for (t, local) in workspace.locals.iter().enumerate() {
            finite(Quantity::Prediction, t, &local.prediction)?;
        }
        let part = layer.map_or(Part::Whole, |_| Part::Blocks);
        let iterations = iterations as u64;
        let mut estimates = lambda_max(part, iterations, seed, problem, &mut workspace);
        let wanted = layer.map_or(0, |t| t - 1);
        if estimates.is_empty() {
            return Ok(vec![0.0; problem.batch().len()]);
        }
        let estimates = estimates.swap_remove(wanted);
        finite(Quantity::TargetGradient, wanted + 1, &estimates)?;
        Ok(estimates)
    })?
}
