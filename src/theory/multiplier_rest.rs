//! Statement 9: the fixed point of the multipliers.

use nalgebra::DMatrix;

use super::probe::{backprop, finite, minus};
use crate::check::check_shape;
use crate::decoupled::{DecoupledCircuit, Selection};
use crate::energy::{All, Workspace};
use crate::error::{Error, Quantity};
use crate::kernel::{Scalar, norm};

/// How far targets and multipliers are from the fixed point: norms over all hidden layers and the
/// selected examples.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct MultiplierRest {
    /// ‖z − ẑ‖.
    pub gap: f64,
    /// ‖w λ + δ‖, δ backprop's errors at the plain forward pass, w the examples' weights.
    pub multipliers: f64,
    /// ‖∂𝓛/∂z‖ of 𝓛 = E + Σᵢ wᵢ Σ_t λ_tⁱ·(z_tⁱ − ẑ_tⁱ).
    pub targets: f64,
    /// ‖∂𝓛/∂θ − ∂L/∂θ‖ over all layers.
    pub gradient: f64,
}

/// Statement 9: how far the model's targets, with multipliers λ_1, …, λ_{T−1} (d_t × n each, one
/// column per selected example), are from the fixed point
///
/// z_t = ẑ_t,  λ_t = −δ_t,
///
/// at which the parameter gradients are backprop's for any μ > 0. λ is defined as in
/// [`Decoupling::with_multipliers`](crate::training::Decoupling::with_multipliers), and is ρu in
/// the scaled form. Only there are both `gap` and `targets` 0, and then all four numbers are 0 up
/// to rounding.
///
/// # Errors
/// [`Error::Length`] or [`Error::Shape`] for multipliers that do not fit, [`Error::NonFiniteData`];
/// errors of the selection, [`Error::NoExamples`], [`Error::Overflow`].
pub fn multiplier_rest<T: Scalar>(
    model: &DecoupledCircuit<T>,
    selection: &Selection<'_>,
    multipliers: &[DMatrix<T>],
) -> Result<MultiplierRest, Error> {
    let exact = backprop(model, selection)?;
    let (depth, dims) = (model.circuit().depth(), model.circuit().dims());
    for ((t, lambda), delta) in (1..).zip(multipliers).zip(&exact.targets) {
        check_shape(&format!("multipliers λ_{t}"), lambda, delta.shape())?;
    }
    let own: Vec<Vec<T>> = (multipliers.iter())
        .map(|lambda| lambda.as_slice().to_vec())
        .collect();
    model.with_problem(selection, "statement 9", |problem| {
        let (batch, mut workspace) = (problem.batch(), Workspace::new());
        let problem = problem.with_multipliers(&own)?;
        let evaluation = problem.evaluate(All, &mut workspace);
        let (mut gap, mut rest, mut targets, mut gradient) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for t in 1..depth {
            let prediction = evaluation.local(t - 1).prediction();
            finite(Quantity::Prediction, t - 1, prediction)?;
            let gradient = evaluation.target_gradient(t);
            finite(Quantity::TargetGradient, t, gradient)?;
            gap.extend(minus(batch.z(t), prediction));
            targets.extend_from_slice(gradient);
            let columns = own[t - 1].chunks_exact(dims[t]);
            let errors = exact.targets[t - 1].as_slice().chunks_exact(dims[t]);
            for (i, (lambda, delta)) in columns.zip(errors).enumerate() {
                let weight = batch.weights().map_or(T::one(), |weights| weights[i]);
                rest.extend(lambda.iter().zip(delta).map(|(&l, &d)| weight * l + d));
            }
        }
        for (t, exact) in exact.parameters.iter().enumerate() {
            let own = evaluation.parameter_gradient(t);
            finite(Quantity::ParameterGradient, t, own)?;
            gradient.extend(minus(own, exact));
        }
        Ok(MultiplierRest {
            gap: norm(&gap),
            multipliers: norm(&rest),
            targets: norm(&targets),
            gradient: norm(&gradient),
        })
    })?
}
