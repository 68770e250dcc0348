//! A visit that moves the targets with a solver while θ is fixed, and then θ while the targets are
//! fixed.

use super::visit::{Evaluated, Visit};
use crate::energy::Ask;
use crate::error::Error;
use crate::kernel::Scalar;
use crate::state::State;
use crate::target_solver::TargetSolver;

/// Moves the visit's targets with `solver`, if there is one, then steps θ, and returns E before the
/// last step of θ. `check` sees E at the new targets before θ moves; if it fails, so does the visit.
///
/// The solver's next state is prepared in `next`, and becomes its `state` if θ has moved.
/// `at_prediction` says that the gap is 0 at the start.
pub(super) fn solve_and_step<T: Scalar>(
    solver: Option<&dyn TargetSolver<T>>,
    state: &mut State<T>,
    next: &mut State<T>,
    at_prediction: bool,
    visit: &mut Visit<'_, T>,
    check: impl FnOnce(&Evaluated<'_, '_, T>) -> Result<(), Error>,
) -> Result<T, Error> {
    let mut problem = visit.target_problem();
    let before = if at_prediction { 0.0 } else { problem.gap() };
    let looks = solver.is_some() && visit.is_first_of_epoch();
    if solver.is_some() {
        visit.watch_targets(looks);
    }
    let mut problem = visit.target_problem();
    let start = looks.then(|| (problem.size(), problem.differentiate(Ask::VALUE)));
    next.clone_from(state);
    let solved = solver
        .map(|solver| solver.solve(next, &mut problem))
        .transpose()?;
    visit.record_gap_before(before);
    if let Some(report) = solved {
        let n = visit.columns().len();
        // Steps that were undone have a warning of their own.
        let tried = report.steps > 0 && report.at_rest < n && report.stuck < n;
        visit.record_motion(tried);
        visit.record_solve(report);
    }
    visit.record_relaxation();
    let mut evaluated = visit.evaluate()?;
    evaluated.record_gap_after();
    if let Some((size, start)) = start {
        evaluated.record_rise(size, start);
    }
    check(&evaluated)?;
    let energy = evaluated.step()?;
    state.swap_numbers(next);
    Ok(energy)
}
