//! Statement 9: how fast multipliers may move.

use std::ops::Range;

use nalgebra::DMatrix;

use super::linear::Linear;
use crate::check::{finite, positive};
use crate::energy::Layers;
use crate::error::{Error, Quantity};
use crate::kernel::Scalar;

/// When the multipliers are updated in a step z ← z − η ∂E/∂z, λ ← λ + α μ (z − ẑ).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MultiplierUpdate {
    /// After the targets, with the new z, as in
    /// [`Decoupling::with_multipliers`](crate::training::Decoupling::with_multipliers).
    AfterTargets,
    /// Together with the targets, with the old z.
    WithTargets,
}

/// Statement 9: the rates α > 0 at which one linear mode is stable, between `start` and `end`
/// (both excluded; empty if there is none).
///
/// The mode has residual σ z and curvature h = ρσ² + b, where `penalized` is ρσ² (ρ = μ) and b is
/// the rest. It steps by z ← z − η (h z + ρσ u), u ← u + ασ z with ρu = λ. By Jury's criterion this
/// is stable if and only if
///
/// after the targets: 0 < ηh < 2 and η (2h + αρσ²) < 4;
/// with the targets: αρσ² < h and η (2h − αρσ²) < 4.
///
/// # Errors
/// [`Error::InvalidOption`] unless η and ρσ² are above 0 and h is finite.
///
/// # Examples
/// ```
/// use layerwise::theory::{MultiplierUpdate, stable_rates};
///
/// // η = 1/h and b = 0, the case of a step within the curvature bound: α up to 2.
/// assert_eq!(stable_rates(MultiplierUpdate::AfterTargets, 0.5, 2.0, 2.0)?, 0.0..2.0);
/// assert_eq!(stable_rates(MultiplierUpdate::WithTargets, 0.5, 2.0, 2.0)?, 0.0..1.0);
/// // No α stabilises a step that already diverges without multipliers.
/// assert!(stable_rates(MultiplierUpdate::AfterTargets, 1.0, 2.0, 2.0)?.is_empty());
/// # Ok::<(), layerwise::Error>(())
/// ```
pub fn stable_rates(
    update: MultiplierUpdate,
    step: f64,
    curvature: f64,
    penalized: f64,
) -> Result<Range<f64>, Error> {
    positive("step η of multipliers", step)?;
    positive("theory::stable_rates::penalized", penalized)?;
    finite("theory::stable_rates::curvature", curvature)?;
    let room = 4.0 / step - 2.0 * curvature;
    Ok(match update {
        MultiplierUpdate::AfterTargets if curvature > 0.0 => interval(0.0, room / penalized),
        MultiplierUpdate::AfterTargets => interval(0.0, 0.0),
        MultiplierUpdate::WithTargets => interval(-room / penalized, curvature / penalized),
    })
}

/// Statement 9 for the synchronous steps z ← z − η ∂E/∂z of a whole linear circuit of any depth,
/// whose modes are coupled: rates α > 0 at which multipliers converge, between `start` and `end`
/// (both excluded; empty if there is none).
///
/// With A z = (z_t − W_{t−1} z_{t−1})_t, M = diag(μ_t I), G = AᵀMA and H = G + B, where B is the
/// output loss's part of E's Hessian:
///
/// after the targets: stable if **and only if** η (2H + αG) ≺ 4;
/// with the targets: stable **if** αG ≺ H and η (2H − αG) ≺ 4 (and only if, when G and B commute).
///
/// The cost is computing the eigenvalues of a dense (Σ_t d_t) × (Σ_t d_t) matrix twice. A circuit
/// of one layer has no multipliers: any rate is stable.
///
/// # Errors
/// [`Error::NotLinear`] as [`linear_minimum`](super::linear_minimum), [`Error::InvalidOption`]
/// unless η is above 0 and finite, [`Error::Overflow`].
///
/// # Examples
/// ```
/// use layerwise::prelude::*;
/// use layerwise::theory::{MultiplierUpdate, linear_stable_rates};
///
/// let unit = || Dense::new(1, 1, Activation::Identity).map(Dense::without_bias);
/// let circuit = Circuit::<f64>::builder().layer(unit()?).layer(unit()?).build()?;
/// let model = DecoupledCircuit::new(circuit, Energy::default().with_penalty(2.0))?;
/// let w = model.circuit().parameters(1)[0];
/// let rates = linear_stable_rates(model.layers(), MultiplierUpdate::AfterTargets, 0.1)?;
/// assert!((rates.end - (40.0 - 2.0 * (2.0 + w * w)) / 2.0).abs() < 1e-12);
/// # Ok::<(), layerwise::Error>(())
/// ```
pub fn linear_stable_rates<T: Scalar>(
    layers: Layers<'_, T>,
    update: MultiplierUpdate,
    step: f64,
) -> Result<Range<f64>, Error> {
    positive("step η of multipliers", step)?;
    let (penalty, output) = Linear::of(layers)?.hessian();
    let size = penalty.nrows();
    if size == 0 {
        return Ok(0.0..f64::INFINITY);
    }
    let layer = layers.depth() - 1;
    let penalty: DMatrix<f64> = penalty.map(T::as_f64);
    let hessian = &penalty + output.map(T::as_f64);
    let room = DMatrix::from_diagonal_element(size, size, 4.0 / step) - &hessian * 2.0;
    let not_finite = || Error::Overflow {
        quantity: Quantity::Energy,
        layer,
    };
    if !(hessian.iter().chain(&room)).all(|v| v.is_finite()) {
        return Err(not_finite());
    }
    // In coordinates where G is the identity.
    let factor = penalty.cholesky().ok_or_else(not_finite)?.unpack();
    let smallest = |matrix: &DMatrix<f64>| -> Result<f64, Error> {
        let half = factor.solve_lower_triangular(matrix);
        let whole = half.and_then(|half| factor.solve_lower_triangular(&half.transpose()));
        let whole = whole.filter(|whole| whole.iter().all(|v| v.is_finite()));
        let whole = whole.ok_or_else(not_finite)?;
        Ok(((&whole + whole.transpose()) * 0.5)
            .symmetric_eigenvalues()
            .min())
    };
    let room = smallest(&room)?;
    Ok(match update {
        MultiplierUpdate::AfterTargets => interval(0.0, room),
        MultiplierUpdate::WithTargets => interval(-room, smallest(&hessian)?),
    })
}

/// The rates above 0 and above `low`, and below `high`.
fn interval(low: f64, high: f64) -> Range<f64> {
    let low = low.max(0.0);
    if high > low { low..high } else { 0.0..0.0 }
}
