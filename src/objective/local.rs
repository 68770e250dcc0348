//! One layer's local problem as a function of θ_t.

use super::{Objective, check_gradient};
use crate::check::{check_computed, check_finite, check_length};
use crate::energy::{Ask, LocalProblem, Workspace};
use crate::error::{Error, Quantity};
use crate::kernel::Scalar;

/// θ_t ↦ ℓ_t(θ_t, z_t, z_{t+1}) and its gradient ∂ℓ_t/∂θ_t, with z_t and z_{t+1} fixed: the W-step
/// of one layer.
///
/// x = θ_t, flat: the layer's parameters, then those of its loss. Value and gradient are those of
/// the [`LocalProblem`], including weights, μ and regularisers. The T objectives of a circuit share
/// no mutable data: optimise them on T threads, and write each θ_t back with
/// [`DecoupledCircuit::set_parameters`](crate::decoupled::DecoupledCircuit::set_parameters).
///
/// # Examples
/// ```
/// use layerwise::prelude::*;
/// use layerwise::energy::LocalProblem;
/// use layerwise::objective::{LocalObjective, Objective};
///
/// let layer = Dense::new(2, 1, Activation::Identity)?;
/// let (theta, input, target) = ([1.0, 1.0, 0.5], [1.0, 2.0], [3.0]);
/// let problem = LocalProblem::new(&layer, &theta, &SquaredError, 2.0, &input, &target)?;
/// let objective = LocalObjective::new(problem);
/// assert_eq!(objective.point(), theta);
/// assert_eq!(objective.value(&[1.0, 1.0, 1.0])?, 2.0 * 0.5 * 1.0);
/// assert_eq!(objective.gradient(&[1.0, 1.0, 1.0])?, [2.0, 4.0, 2.0]);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct LocalObjective<'a, T: Scalar> {
    problem: LocalProblem<'a, T>,
}

impl<'a, T: Scalar> LocalObjective<'a, T> {
    /// The objective of a local problem, whose θ_t is the starting point.
    pub fn new(problem: LocalProblem<'a, T>) -> Self {
        Self { problem }
    }

    /// The local problem.
    pub fn problem(&self) -> &LocalProblem<'a, T> {
        &self.problem
    }
}

impl<T: Scalar> Objective<T> for LocalObjective<'_, T> {
    fn dimension(&self) -> usize {
        self.problem.parameters.len()
    }

    fn point(&self) -> Vec<T> {
        self.problem.parameters.to_vec()
    }

    fn evaluate(
        &self,
        point: &[T],
        gradient: Option<&mut [T]>,
        workspace: &mut Workspace<T>,
    ) -> Result<T, Error> {
        let (t, dimension) = (self.problem.layer(), self.dimension());
        check_length("point", point, dimension)?;
        check_finite(Quantity::Parameter, t, dimension.max(1), point)?;
        check_gradient(gradient.as_deref(), dimension)?;
        if workspace.locals.is_empty() {
            workspace.fit(1);
        }
        let local = &mut workspace.locals[0];
        let problem = self.problem.moved_to(point);
        problem.predict(local);
        let ask = Ask::new(gradient.is_some(), false, false);
        let energy = problem.differentiate(ask, local);
        check_computed(Quantity::Energy, t, 0, &[energy])?;
        if let Some(gradient) = gradient {
            let own = &local.d_parameters;
            check_computed(Quantity::ParameterGradient, t, 0, own)?;
            gradient.copy_from_slice(own);
        }
        Ok(energy)
    }
}
