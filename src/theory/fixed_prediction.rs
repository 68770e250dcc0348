//! Statement 8: fixed predictions give backprop in every layer.

use super::probe::{on_a_copy, parameter_gradients};
use crate::decoupled::{DecoupledCircuit, Selection};
use crate::error::Error;
use crate::kernel::Scalar;
use crate::training::infer_fixed_prediction;

/// Statement 8: ∂E/∂θ_t, t = 0, …, T−1, after `steps` synchronous steps of size 1 of (a copy of)
/// the targets from the forward pass, predictions and Jacobians frozen there.
///
/// After T−1 steps or more they equal backprop's, to rounding; after k < T−1 steps those of the
/// last k + 1 layers do, and the others are 0. Sums over the selected examples. Millidge, Tschantz
/// & Buckley 2022; Whittington & Bogacz 2017.
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
/// let found = theory::fixed_prediction_gradients(&model, &Selection::All, 1)?;
/// for (found, exact) in found.iter().flatten().zip(exact.iter().flatten()) {
///     assert!((found - exact).abs() < 1e-12);
/// }
/// # Ok::<(), layerwise::Error>(())
/// ```
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
