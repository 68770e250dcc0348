//! Predictive coding with fixed predictions.

use super::backprop_scheme::refuse_none;
use super::per_example::refresh_all;
use super::scheme::Scheme;
use super::visit::{Visit, needs_gradients};
use super::w_step::WStep;
use super::z_il::{check_exactness, check_terms};
use crate::decoupled::{DecoupledCircuit, TargetUse};
use crate::energy::Ask;
use crate::error::Error;
use crate::kernel::Scalar;
use crate::state::State;
use crate::target_solver::TargetProblem;

/// The fixed-prediction assumption: the targets move by synchronous steps of size 1 while
/// predictions and Jacobians stay those of the forward pass; then all θ step along
/// (∂f_t/∂θ_t)ᵀ g_{t+1} at the forward pass.
///
/// With μ = 1, squared L_h and no target regulariser, T − 1 or more steps give backprop's gradients
/// up to rounding. Millidge, Tschantz & Buckley 2022; Whittington & Bogacz 2017.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FixedPrediction {
    steps: Option<usize>,
}

impl FixedPrediction {
    /// T − 1 steps, the number needed for backprop's gradients.
    pub fn new() -> Self {
        Self { steps: None }
    }

    /// Sets the number of steps; with fewer than T − 1 the first layers get no gradient.
    pub fn with_steps(self, steps: usize) -> Self {
        Self { steps: Some(steps) }
    }
}

/// What messages call the scheme, and those of its options that must have a certain value.
const NAMES: [&str; 3] = [
    "fixed prediction",
    "penalty μ under fixed prediction",
    "target regulariser under fixed prediction",
];

/// Computes every ∂E/∂θ_t after `steps` steps (`None`: T − 1) in the problem's workspace, and returns
/// E at the forward pass. Errors report `number` as their step.
pub(crate) fn infer_fixed_prediction<T: Scalar>(
    problem: &mut TargetProblem<'_, T>,
    steps: Option<usize>,
    number: u64,
) -> Result<T, Error> {
    check_exactness(NAMES, problem.layers())?;
    problem.refresh()?;
    let last = problem.layers().depth() - 1;
    let mut objective = None;
    for _ in 0..steps.unwrap_or(last) {
        let energy = problem.evaluate_frozen(Ask::TARGETS);
        // At the forward pass E is the composed objective.
        objective.get_or_insert(energy);
        for t in 1..=last {
            problem.check_target_gradient(t, number)?;
        }
        for t in 1..=last {
            problem.descend(t, T::one());
        }
    }
    let energy = problem.evaluate_frozen(Ask::PARAMETERS);
    Ok(objective.unwrap_or(energy))
}

impl<T: Scalar> Scheme<T> for FixedPrediction {
    fn targets(&self) -> TargetUse {
        TargetUse::Transient
    }

    fn uses_penalties(&self) -> bool {
        false
    }

    fn check(&self, w_step: &WStep<T>) -> Result<(), Error> {
        refuse_none(w_step, "fixed prediction with no W-step")?;
        needs_gradients(w_step, "the gradients of fixed prediction")
    }

    fn check_model(&self, model: &DecoupledCircuit<T>) -> Result<(), Error> {
        check_terms(NAMES[0], NAMES[2], model.layers())
    }

    fn start(&self, model: &mut DecoupledCircuit<T>) -> Result<State<T>, Error> {
        check_exactness(NAMES, model.layers()).map(|()| State::new())
    }

    fn visit(&self, _state: &mut State<T>, visit: &mut Visit<'_, T>) -> Result<T, Error> {
        let number = visit.steps();
        let objective = infer_fixed_prediction(&mut visit.target_problem(), self.steps, number)?;
        visit.given(objective)?.step()
    }

    /// The model's targets become those of the forward pass.
    fn finish(&self, _: &mut State<T>, model: &mut DecoupledCircuit<T>) -> Result<(), Error> {
        refresh_all(model)
    }
}
