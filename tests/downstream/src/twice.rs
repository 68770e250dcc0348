//! A training scheme.

use layerwise::decoupled::{DecoupledCircuit, TargetUse};
use layerwise::state::State;
use layerwise::target_solver::TargetSolver;
use layerwise::training::{Scheme, Visit, WStep};
use layerwise::{Error, Scalar};

/// Targets from the forward pass, moved by a solver, and θ along the gradients there, twice a visit.
#[derive(Debug, Clone, Copy)]
pub struct Twice<S>(pub S);

impl<T: Scalar, S: TargetSolver<T>> Scheme<T> for Twice<S> {
    fn targets(&self) -> TargetUse {
        TargetUse::Transient
    }

    fn check(&self, w_step: &WStep<T>) -> Result<(), Error> {
        match w_step.is_none() {
            false => Ok(()),
            true => Err(Error::Combination {
                what: "two rounds without a W-step",
                reason: "the second would repeat the first",
            }),
        }
    }

    fn start(&self, _: &mut DecoupledCircuit<T>) -> Result<State<T>, Error> {
        Ok(self.0.start())
    }

    fn visit(&self, state: &mut State<T>, visit: &mut Visit<'_, T>) -> Result<T, Error> {
        for _ in 0..2 {
            let mut problem = visit.target_problem();
            problem.refresh()?;
            let report = self.0.solve(state, &mut problem)?;
            visit.record_solve(report);
            visit.evaluate()?.step()?;
        }
        Ok(visit.evaluate()?.energy())
    }
}
