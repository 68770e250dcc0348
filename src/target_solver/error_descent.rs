//! Gradient steps in the errors instead of the targets.

use super::descent::{Descent, Iterate};
use super::step_size::{StepRule, step_options};
use super::trial::Trial;
use super::{Convergence, SolveReport, StepSize, TargetProblem, TargetSolver, iterated};
use crate::check::serde_checked;
use crate::energy::Layers;
use crate::error::Error;
use crate::kernel::Scalar;
use crate::state::State;

/// K gradient steps in error coordinates c_t = z_t − f(z_{t−1}), t = 1, …, T−1:
///
/// ```math
/// c_t ← c_t - η ∂E/∂c_t,  z_t = f(z_{t-1}) + c_t in the order of t,
/// ∂E/∂c_t = ∂E/∂z_t + J_tᵀ ∂E/∂c_{t+1},  ∂E/∂c_T = 0
/// ```
///
/// Every ∂E/∂c_t holds the other c fixed, so that z_{t+1}, …, z_{T−1} follow z_t. One pass of VJPs down the
/// chain gives all of them, and one pass of predictions up the chain rebuilds z: a step reaches all layers
/// and costs as much as one of backprop would without the gradients in θ. The stationary points are those of a
/// descent in z. The errors are taken from the targets at every step, so that nothing is kept between calls,
/// and targets may come from anywhere.
///
/// With squared L_h the Gauss-Newton matrix in c is diag(μ_t I) plus a matrix of rank d_T at most, at any
/// depth; in z its condition grows with the depth. The first step from the forward pass gives c_t = −η δ_t,
/// with δ_t of backprop. The gradient of θ_t is then μ_{t+1} η times backprop's for t < T − 1: exactly for
/// t = 0, and up to a relative error of O(η) for the others. To first order in η a step moves z by
/// −η (AᵀA)⁻¹ ∂E/∂z, A x = (x_{t+1} − J_t x_t): a gradient step that is preconditioned by the chain, as in
/// [`GaussNewton::chained`](super::GaussNewton::chained) if all μ_t are equal. In a linear circuit this is
/// exact.
///
/// η is fixed, or `margin` divided by a bound on λ_max in c: with a_t the bound on the loss's curvature,
///
/// max_t μ_t a_t + a_T Σ_t ‖J_{T−1}‖² ⋯ ‖J_t‖², and a similar sum for regularised targets,
///
/// which holds for hidden losses of z − ẑ. It has products over the layers: where ‖J_t‖ > 1 in a deep
/// circuit, bounded steps are far shorter than they need to be, or the bound overflows
/// ([`Error::NonFinite`]), and [`StepSize::Checked`] suits better. A
/// checked step that would raise an example's E is shortened along the straight line in z. The tolerance of
/// [`Convergence`] is compared with ‖∂E/∂c‖.
///
/// Goemaere, Oliviers, Bogacz & Demeester 2025 (ePC).
///
/// # Examples
/// ```
/// use layerwise::prelude::*;
/// use layerwise::target_solver::ErrorDescent;
///
/// let solver = ErrorDescent::new(5).with_step(StepSize::Checked(0.2))?;
/// let scheme: Decoupling<f64> = Decoupling::refreshed(solver);
/// # Ok::<(), Error>(())
/// ```
#[doc(alias("ePC", "error optimisation", "error coordinates"))]
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(remote = "Self", deny_unknown_fields))]
pub struct ErrorDescent(Iterate<ErrorStep>);

serde_checked!(ErrorDescent);

/// One step.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct ErrorStep(StepRule);

step_options!(ErrorDescent, ErrorStep, steps, "ErrorDescent::bound_every");

iterated!(ErrorDescent);

impl<T: Scalar> Descent<T> for ErrorStep {
    fn check(&self, layers: Layers<'_, T>) -> Result<(), Error> {
        self.0.check(layers)
    }

    fn begin(&self, state: &mut State<T>, problem: &mut TargetProblem<'_, T>) -> Result<(), Error> {
        self.0.begin_in_errors(state, problem.layers())
    }

    fn look(
        &self,
        _: &mut State<T>,
        problem: &mut TargetProblem<'_, T>,
        trial: &mut Trial<T>,
    ) -> Result<(), Error> {
        problem.differentiate_errors();
        trial.record(problem)
    }

    fn step(
        &self,
        state: &mut State<T>,
        problem: &mut TargetProblem<'_, T>,
        trial: &mut Trial<T>,
    ) -> Result<(), Error> {
        let step = self
            .0
            .of_errors(state, problem.workspace(), trial.number())?;
        problem.descend_errors(step, |i| trial.share(i));
        Ok(())
    }
}
