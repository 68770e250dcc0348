//! Gradients added up over several visits.

use super::w_step::{LayerStep, WState, WStep};
use crate::energy::Workspace;
use crate::error::Error;
use crate::kernel::{Scalar, add_to_pairs};

/// What the visit in progress has added to the gradients of earlier visits. It becomes part of the
/// state only when the visit has succeeded, so that a failed visit can be repeated without counting
/// twice.
#[derive(Debug)]
pub(super) struct Draft {
    /// Visits and examples whose gradients are in the drafted sums; 0 if none are.
    visits: u64,
    examples: u64,
    /// Whether this is the last visit of its epoch, whose step takes what there is.
    last: bool,
}

impl Draft {
    /// Nothing yet, in a visit that may be the last of its epoch.
    pub(super) fn new(last: bool) -> Self {
        Self {
            visits: 0,
            examples: 0,
            last,
        }
    }

    /// Adds the gradients in the workspace, over n examples, to those of earlier visits. Returns the
    /// number of examples of a step along the sums, which are then in the workspace, or `None` if
    /// more visits must be added first.
    pub(super) fn add<T: Scalar>(
        &mut self,
        w_step: &WStep<T>,
        state: &WState<T>,
        steps: &mut [LayerStep<T>],
        workspace: &mut Workspace<T>,
        n: usize,
    ) -> Result<Option<u64>, Error> {
        let along = |t: usize| state.layers[t].steps(w_step);
        let drafted = self.visits > 0;
        let (mut visits, mut examples) = match drafted {
            true => (self.visits, self.examples),
            false => (state.pending_visits, state.pending_examples),
        };
        if visits > 0 {
            let layers = state.layers.iter().zip(&mut *steps).enumerate();
            for ((t, (own, step)), local) in layers.zip(&mut workspace.locals) {
                if along(t) {
                    if !drafted {
                        step.sum.clone_from(&own.sum);
                    }
                    add_to_pairs(&mut step.sum, &local.d_parameters);
                    let rounded = &step.sum[..local.d_parameters.len()];
                    local.d_parameters.copy_from_slice(rounded);
                }
            }
        }
        let first = visits == 0;
        visits += 1;
        examples += n as u64;
        // Before an optimiser or a sum gets them, which would retain non-finite values.
        workspace.check_parameter_gradients(state.steps, along)?;
        if visits >= w_step.accumulation() || self.last {
            return Ok(Some(examples));
        }
        let layers = steps.iter_mut().zip(&workspace.locals).enumerate();
        for (_, (step, local)) in layers.filter(|&(t, _)| first && along(t)) {
            step.sum.clear();
            step.sum.extend_from_slice(&local.d_parameters);
            step.sum.resize(2 * local.d_parameters.len(), T::zero());
        }
        (self.visits, self.examples) = (visits, examples);
        Ok(None)
    }

    /// After a step along the sums: a new sum begins.
    pub(super) fn clear<T>(&mut self, state: &mut WState<T>) {
        (self.visits, self.examples) = (0, 0);
        (state.pending_visits, state.pending_examples) = (0, 0);
    }

    /// After a visit that succeeded: what it added becomes part of the state.
    pub(super) fn keep<T>(&mut self, state: &mut WState<T>, steps: &mut [LayerStep<T>]) {
        if self.visits == 0 {
            return;
        }
        (state.pending_visits, state.pending_examples) = (self.visits, self.examples);
        for (own, step) in state.layers.iter_mut().zip(steps) {
            if !own.sum.is_empty() {
                std::mem::swap(&mut own.sum, &mut step.sum);
            }
        }
    }
}
