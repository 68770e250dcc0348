//! Statement 7: unit steps give backprop layer by layer.

use super::probe::{on_a_copy, parameter_gradients};
use crate::decoupled::{DecoupledCircuit, Selection};
use crate::error::Error;
use crate::kernel::Scalar;
use crate::training::infer_z_il;

/// Statement 7: ∂E/∂θ_t, t = 0, …, T−1, by Z-IL: (a copy of) the targets starts at the forward pass
/// and moves by synchronous steps of size 1; layer T−1−k takes its gradient after k of them.
///
/// They equal backprop's, to rounding (the step makes (h − δ) − h of δ). Sums over the selected
/// examples. Song, Lukasiewicz, Xu & Bogacz 2020.
///
/// # Errors
/// [`Error::NotSquaredError`] for another L_h, [`Error::InvalidOption`] unless μ = 1 and no target
/// has a regulariser; errors of the selection, [`Error::NoExamples`], [`Error::NonFinite`].
///
/// # Examples
/// ```
/// use layerwise::prelude::*;
/// use layerwise::theory;
///
/// let circuit = Circuit::<f64>::builder()
///     .layer(Dense::new(2, 3, Activation::Tanh)?)
///     .layer(Dense::new(3, 1, Activation::Identity)?)
///     .build()?;
/// let (x, y) = (DMatrix::from_element(2, 4, 0.5), DMatrix::from_element(1, 4, 1.0));
/// let mut model = DecoupledCircuit::new(circuit, Energy::default())?;
/// model.add_examples(&x, &y, &TargetInit::ForwardPass)?;
/// let exact = model.backprop(&Selection::All)?.parameters;
/// let found = theory::z_il_gradients(&model, &Selection::All)?;
/// for (found, exact) in found.iter().flatten().zip(exact.iter().flatten()) {
///     assert!((found - exact).abs() < 1e-12);
/// }
/// # Ok::<(), layerwise::Error>(())
/// ```
pub fn z_il_gradients<T: Scalar>(
    model: &DecoupledCircuit<T>,
    selection: &Selection<'_>,
) -> Result<Vec<Vec<T>>, Error> {
    on_a_copy(model, selection, "statement 7", |problem| {
        infer_z_il(problem, 0)?;
        parameter_gradients(problem)
    })
}
