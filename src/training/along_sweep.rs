//! The visit along a sweep: θ_t's gradient is taken when z_{t+1} has moved and z_t has not.

use super::visit::Visit;
use crate::energy::Layers;
use crate::error::Error;
use crate::kernel::Scalar;
use crate::state::State;
use crate::target_solver::{StepRule, StepSize, TargetProblem};

/// Moves z_{T−1}, …, z_1, then steps θ along the gradients taken on the way, and returns Σ_t ℓ_t, each at the
/// point of its gradients. After an error θ and `state` are unchanged.
///
/// One product with layer t's Jacobian gives both ∂ℓ_t/∂z_t and ∂ℓ_t/∂θ_t. The steps' next state is
/// prepared in `next`, and becomes `state` if θ has moved. `at_prediction` says that the gap is 0 at the start.
pub(super) fn visit<T: Scalar>(
    step: StepSize,
    state: &mut State<T>,
    next: &mut State<T>,
    at_prediction: bool,
    visit: &mut Visit<'_, T>,
) -> Result<T, Error> {
    let (rule, number) = (StepRule::new(step), visit.steps());
    let gap = if at_prediction {
        0.0
    } else {
        visit.target_problem().gap()
    };
    let looks = visit.statistics.gap_before.is_none();
    visit.watch_targets(looks);
    next.clone_from(state);
    let layers = Layers::new(visit.circuit, visit.terms).at_penalties(visit.penalties);
    let mut problem = TargetProblem::new(
        layers.without_gradients_of(visit.frozen),
        visit.batch.reborrow(),
        &visit.multipliers[..visit.multiplied],
        visit.workspace,
        &mut visit.predictions,
    );
    rule.begin(next, problem.layers())?;
    problem.predict();
    for t in (1..problem.layers().depth()).rev() {
        problem.both_gradients(t);
        problem.check_target_gradient(t, number)?;
        let step = rule.of_layer(next, t, problem.workspace(), number)?;
        problem.descend(t, step);
    }
    problem.parameter_gradient(0);
    visit.workspace.check_energies(number)?;
    visit.record_gap_before(gap);
    visit.record_motion(true);
    let energy = visit.workspace.energy();
    visit.given(energy)?.step()?;
    state.swap_numbers(next);
    Ok(energy)
}
