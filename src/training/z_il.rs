//! Inference learning with zero divergence from backprop.

use super::backprop_scheme::refuse_none;
use super::per_example::refresh_all;
use super::scheme::Scheme;
use super::visit::{Visit, needs_gradients};
use super::w_step::WStep;
use crate::decoupled::{DecoupledCircuit, TargetUse};
use crate::energy::{Ask, Layers};
use crate::error::Error;
use crate::kernel::Scalar;
use crate::state::State;
use crate::target_solver::TargetProblem;

/// Z-IL: the targets start at the forward pass and make T − 1 synchronous steps of size 1; layer
/// T−1−k takes its parameter gradient after k of them. Then all θ step.
///
/// By the time a step first moves z_t, layer t already has its gradient. Later moves of z_t could
/// not affect any gradient, so they are skipped (in deep circuits they may diverge).
///
/// With μ = 1, squared L_h and no target regulariser, every gradient equals backprop's up to
/// rounding. Song, Lukasiewicz, Xu & Bogacz 2020, with θ frozen until the targets have moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ZIl;

/// Checks the conditions for equality with backprop, again in every visit in case the circuit
/// changes during a phase: squared L_h, μ = 1 and no target regulariser.
pub(super) fn check_exactness<T: Scalar>(
    [operation, penalty, regularizer]: [&'static str; 3],
    layers: Layers<'_, T>,
) -> Result<(), Error> {
    check_terms(operation, regularizer, layers)?;
    let penalties = layers.penalties();
    if let Some(value) = penalties.iter().find(|&&penalty| penalty != T::one()) {
        return Err(Error::InvalidOption {
            option: penalty,
            value: value.as_f64(),
            allowed: "1".into(),
        });
    }
    Ok(())
}

/// Those of the conditions that a run cannot change.
pub(super) fn check_terms<T: Scalar>(
    operation: &'static str,
    regularizer: &'static str,
    layers: Layers<'_, T>,
) -> Result<(), Error> {
    check_squared_hidden_losses(operation, layers)?;
    check_no_target_regularizer(regularizer, layers)
}

pub(crate) fn check_squared_hidden_losses<T: Scalar>(
    operation: &'static str,
    layers: Layers<'_, T>,
) -> Result<(), Error> {
    for t in 0..layers.depth() - 1 {
        if !layers.loss(t).is_squared_error() {
            return Err(Error::NotSquaredError {
                loss: format!("{:?}", layers.loss(t)),
                layer: t + 1,
                operation,
            });
        }
    }
    Ok(())
}

pub(crate) fn check_no_target_regularizer<T: Scalar>(
    option: &'static str,
    layers: Layers<'_, T>,
) -> Result<(), Error> {
    let mut targets = layers.target_regularizers().iter();
    match targets.find(|own| !own.is_none()) {
        None => Ok(()),
        Some(own) => Err(Error::InvalidOption {
            option,
            value: own.largest_weight(),
            allowed: "none".into(),
        }),
    }
}

/// What messages call the scheme, and those of its options that must have a certain value.
const NAMES: [&str; 3] = [
    "Z-IL",
    "penalty μ under Z-IL",
    "target regulariser under Z-IL",
];

/// Computes every ∂E/∂θ_t of Z-IL in the problem's workspace, and returns E at the forward pass.
/// Errors report `number` as their step.
pub(crate) fn infer_z_il<T: Scalar>(
    problem: &mut TargetProblem<'_, T>,
    number: u64,
) -> Result<T, Error> {
    check_exactness(NAMES, problem.layers())?;
    problem.refresh()?;
    let last = problem.layers().depth() - 1;
    // At the forward pass E is the composed objective.
    let objective = problem.differentiate(Ask::VALUE);
    for t in (0..=last).rev() {
        problem.parameter_gradient(t);
        if t > 0 {
            problem.target_gradient(t);
            problem.check_target_gradient(t, number)?;
            problem.descend(t, T::one());
        }
    }
    Ok(objective)
}

impl<T: Scalar> Scheme<T> for ZIl {
    fn targets(&self) -> TargetUse {
        TargetUse::Transient
    }

    fn uses_penalties(&self) -> bool {
        false
    }

    fn check(&self, w_step: &WStep<T>) -> Result<(), Error> {
        refuse_none(w_step, "Z-IL with no W-step")?;
        needs_gradients(w_step, "the gradients of Z-IL")
    }

    fn check_model(&self, model: &DecoupledCircuit<T>) -> Result<(), Error> {
        check_terms(NAMES[0], NAMES[2], model.layers())
    }

    fn start(&self, model: &mut DecoupledCircuit<T>) -> Result<State<T>, Error> {
        check_exactness(NAMES, model.layers()).map(|()| State::new())
    }

    fn visit(&self, _state: &mut State<T>, visit: &mut Visit<'_, T>) -> Result<T, Error> {
        let number = visit.steps();
        let objective = infer_z_il(&mut visit.target_problem(), number)?;
        visit.given(objective)?.step()
    }

    /// The model's targets become those of the forward pass.
    fn finish(&self, _: &mut State<T>, model: &mut DecoupledCircuit<T>) -> Result<(), Error> {
        refresh_all(model)
    }
}
