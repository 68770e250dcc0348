//! Statement 4: the minimum over z for large μ.

use super::probe::{backprop, finite};
use crate::decoupled::{DecoupledCircuit, Selection};
use crate::error::{Error, Quantity};
use crate::kernel::{Scalar, Sum, half_weighted_square};
use crate::training::{check_no_target_regularizer, check_squared_hidden_losses};

/// Statement 4: the minimum of E over z near the forward pass, to second order in 1/μ,
///
/// min_z E = L − Σᵢ Σ_{t=1}^{T−1} ‖δ_tⁱ‖² / (2 μ_t) + O(μ⁻²),  δ_t = ∂L/∂ẑ_t by backprop.
///
/// For an example of weight wᵢ both E and δ_tⁱ (as backprop gives it) contain wᵢ, so its term is
/// ‖δ_tⁱ‖²/(2 wᵢ μ_t). Regularisers of θ, which are constant in z, are included, as in
/// [`DecoupledCircuit::energy`]. A sum over the selected examples.
///
/// # Errors
/// [`Error::NotSquaredError`] for another L_h, [`Error::InvalidOption`] for a regulariser of
/// targets; errors of the selection, [`Error::NoExamples`], [`Error::Overflow`].
///
/// # Examples
/// ```
/// use layerwise::prelude::*;
/// use layerwise::theory;
///
/// // Two units of weight 1: the output is 1, the target is 3, and both errors are −2.
/// let unit = || Dense::new(1, 1, Activation::Identity).map(Dense::without_bias);
/// let circuit = Circuit::<f64>::builder().layer(unit()?).layer(unit()?).build()?;
/// let mut model = DecoupledCircuit::new(circuit, Energy::default().with_penalty(100.0))?;
/// model.set_parameters(0, &[1.0])?;
/// model.set_parameters(1, &[1.0])?;
/// let one = |value| DMatrix::from_element(1, 1, value);
/// model.add_examples(&one(1.0), &one(3.0), &TargetInit::ForwardPass)?;
/// let minimum = theory::expanded_minimum(&model, &Selection::All)?;
/// assert!((minimum - (2.0 - 4.0 / 200.0)).abs() < 1e-15);
/// # Ok::<(), layerwise::Error>(())
/// ```
pub fn expanded_minimum<T: Scalar>(
    model: &DecoupledCircuit<T>,
    selection: &Selection<'_>,
) -> Result<T, Error> {
    let layers = model.layers();
    check_squared_hidden_losses("theory::expanded_minimum", layers)?;
    check_no_target_regularizer("target regulariser under the expansion in 1/μ", layers)?;
    let exact = backprop(model, selection)?;
    let places = model.examples.resolve(selection)?.into_places();
    let weight = |i: usize| {
        let weights = model.example_weights();
        weights.map_or(T::one(), |weights| weights[places[i]])
    };
    let mut minimum = Sum::zero();
    minimum.add(exact.energy);
    for (delta, &penalty) in exact.targets.iter().zip(layers.penalties()) {
        // δ contains the weight: an example of weight 0 has no term.
        let columns = delta.column_iter().enumerate();
        for (i, delta) in columns.filter(|&(i, _)| !weight(i).is_zero()) {
            // By their roots: the product w μ, or its inverse, may not fit the scalar.
            let root = weight(i).sqrt() * penalty.sqrt();
            minimum.add(-half_weighted_square(T::one(), (delta / root).as_slice()));
        }
    }
    let minimum = minimum.value();
    finite(Quantity::Energy, layers.depth() - 1, &[minimum])?;
    Ok(minimum)
}
