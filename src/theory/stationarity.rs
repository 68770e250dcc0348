//! Statement 3: stationary targets satisfy backprop's equations at shifted activations.

use nalgebra::DMatrix;

use super::probe::{backprop, finite, minus};
use crate::decoupled::{DecoupledCircuit, Selection};
use crate::energy::local_problem::Regularization;
use crate::energy::{Ask, LocalProblem};
use crate::error::{Error, Quantity};
use crate::kernel::{Scalar, Write, norm};

/// How far targets are from satisfying backprop's equations.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Stationarity<T: Scalar> {
    /// λ_1, …, λ_{T−1}, d_t × n.
    pub multipliers: Vec<DMatrix<T>>,
    /// ‖λ_t − J_tᵀ λ_{t+1}‖, t = 1, …, T−1: 0 at a stationary z.
    pub recursion: Vec<f64>,
    /// ‖∂E/∂θ_t − (∂f_t/∂θ_t)ᵀ λ_{t+1}‖, t = 0, …, T−1: 0 at any z.
    pub parameters: Vec<f64>,
    /// ‖∂E/∂θ − ∂L/∂θ‖ over all layers: O(1/μ) at a stationary z.
    pub difference: f64,
    /// ‖∂L/∂θ‖ over all layers, by backprop.
    pub backprop: f64,
}

impl<T: Scalar> Stationarity<T> {
    /// ‖∂E/∂θ − ∂L/∂θ‖ / ‖∂L/∂θ‖, 0 if both vanish.
    pub fn relative_difference(&self) -> f64 {
        if self.difference == 0.0 {
            return 0.0;
        }
        self.difference / self.backprop
    }
}

/// Statement 3, at the model's targets: the multipliers
///
/// λ_t = −∂ℓ_{t−1}/∂z_t (for squared L_h μ_t (ẑ_t − z_t)), t = 1, …, T−1,  λ_T = ∂L/∂ẑ_T,
///
/// and how far they are from backprop's recursion at the activations z,
///
/// λ_t = J_tᵀ λ_{t+1},  ∂E/∂θ_t = (∂f_t/∂θ_t)ᵀ λ_{t+1},  J_t = ∂f_t/∂z_t.
///
/// If L_h depends only on z − ẑ, the second holds at every z, and the first if and only if z is
/// stationary. For any other L_h, ∂ℓ/∂ẑ ≠ −∂ℓ/∂z, and neither holds exactly. An example's weight is
/// contained in its λ. Regularisers and parameters of losses are left out, except in the difference
/// from backprop's gradients. A regulariser of targets shifts the stationary point, and its
/// gradient appears as a deviation from the recursion. Sums over the selected examples. LeCun 1988;
/// Carreira-Perpiñán & Wang 2014.
///
/// # Errors
/// Errors of the selection, [`Error::NoExamples`], [`Error::Overflow`].
pub fn stationarity<T: Scalar>(
    model: &DecoupledCircuit<T>,
    selection: &Selection<'_>,
) -> Result<Stationarity<T>, Error> {
    let exact = backprop(model, selection)?;
    let own = model.gradients(selection)?;
    let mut gap = Vec::new();
    for (t, (own, exact)) in own.parameters.iter().zip(&exact.parameters).enumerate() {
        finite(Quantity::ParameterGradient, t, own)?;
        gap.extend(minus(own, exact));
    }
    let (depth, dims) = (model.circuit().depth(), model.circuit().dims());
    let mut found = Stationarity {
        multipliers: Vec::new(),
        recursion: Vec::new(),
        parameters: Vec::new(),
        difference: norm(&gap),
        backprop: norm(&exact.parameters.concat()),
    };
    model.with_problem(selection, "statement 3", |whole| {
        // λ_{t+1}, from the layer above the current one.
        let mut above = Vec::new();
        for t in (0..depth).rev() {
            let problem = LocalProblem {
                regularization: Regularization::default(),
                ..whole.local(t)
            };
            let mut workspace = problem.workspace();
            problem.predict(&mut workspace);
            let ask = Ask::new(true, false, t + 1 < depth);
            let energy = problem.differentiate(ask, &mut workspace);
            finite(Quantity::Energy, t, &[energy])?;
            if t + 1 == depth {
                above.clone_from(&workspace.cotangent);
            } else {
                // λ_{t+1}, and J_{t+1}ᵀ λ_{t+2} in `above`.
                let lambda: Vec<T> = workspace.d_target.iter().map(|&g| -g).collect();
                finite(Quantity::TargetGradient, t + 1, &above)?;
                found.recursion.push(norm(&minus(&lambda, &above)));
                let matrix = DMatrix::from_column_slice(dims[t + 1], problem.examples(), &lambda);
                found.multipliers.push(matrix);
                above = lambda;
            }
            finite(Quantity::Multiplier, t + 1, &above)?;
            let mut pulled = vec![T::zero(); if t > 0 { problem.input.len() } else { 0 }];
            let mut parameters = vec![T::zero(); problem.own];
            let d_input = Write::set((t > 0).then_some(&mut pulled[..]));
            let mut at = problem.linearized(&mut workspace);
            at.vjp(&above, d_input, Write::Set(&mut parameters))?;
            let own = &workspace.d_parameters[..problem.own];
            finite(Quantity::ParameterGradient, t, &parameters)?;
            found.parameters.push(norm(&minus(own, &parameters)));
            above = pulled;
        }
        Ok::<_, Error>(())
    })??;
    found.multipliers.reverse();
    found.recursion.reverse();
    found.parameters.reverse();
    Ok(found)
}
