//! The crate's problems as functions of one flat vector, for external optimisers.

#[cfg(feature = "argmin")]
mod argmin_traits;
mod flat;
mod local;
mod whole;

use std::fmt::Debug;

pub use local::LocalObjective;
pub use whole::{ComposedObjective, JointObjective, TargetObjective};

use crate::check::check_length;
use crate::energy::Workspace;
use crate::error::Error;
use crate::kernel::Scalar;

/// A function φ of one flat vector x with its gradient, as external optimisers need it.
///
/// | type | x | φ |
/// |---|---|---|
/// | [`LocalObjective`] | θ_t | ℓ_t(θ_t, z_t, z_{t+1}): the W-step of one layer |
/// | [`TargetObjective`] | z_1, …, z_{T−1} | E at fixed θ: the Z-step |
/// | [`JointObjective`] | θ_0, …, θ_{T−1}, z_1, …, z_{T−1} | E |
/// | [`ComposedObjective`] | θ_0, …, θ_{T−1} | the composed loss: backprop's problem |
///
/// φ is the crate's own sum over examples, with μ, example weights and regularisers. Value and gradient
/// have the bits of [`LocalProblem::gradients`](crate::energy::LocalProblem::gradients),
/// [`DecoupledCircuit::gradients`](crate::decoupled::DecoupledCircuit::gradients) and
/// [`DecoupledCircuit::backprop`](crate::decoupled::DecoupledCircuit::backprop) at the same point. With
/// examples of weight 0 they agree only up to rounding: [`TargetObjective`] and [`JointObjective`] add such
/// examples as zeros, while the model's gradients leave them out.
/// Layers are evaluated as in inference, so φ is deterministic. If a regulariser has an L1 part, φ
/// has kinks.
///
/// Objectives borrow the model and do not change it. Write the optimiser's result back with
/// [`DecoupledCircuit::set_parameters`](crate::decoupled::DecoupledCircuit::set_parameters),
/// [`set_parameter_point`](crate::decoupled::DecoupledCircuit::set_parameter_point),
/// [`set_target_point`](crate::decoupled::DecoupledCircuit::set_target_point) or
/// [`set_joint_point`](crate::decoupled::DecoupledCircuit::set_joint_point), each of which writes
/// all of it or, after an error, nothing.
///
/// # With argmin
///
/// With the feature `argmin` the four types are problems for argmin's optimisers: `CostFunction`
/// and `Gradient` over `Vec<f32>` or `Vec<f64>`. argmin gets +∞ for a cost that is not finite, so that a backtracking line search shortens
/// its step; every other error ends the run. argmin requests costs and gradients separately, so
/// each of them runs its own forward pass and allocates its own memory.
///
/// With argmin 0.11, after an error in the line search L-BFGS ends without reporting an error and
/// without a current point: read `get_best_param`, not `get_param`. `max_iters` does not limit the
/// steps of the line search. `BacktrackingLineSearch` with Armijo's condition always ends.
/// `MoreThuenteLineSearch` and `HagerZhangLineSearch` may not; to end them, let the cost function
/// return an error after a maximum number of calls, as in `examples/lbfgs.rs`.
///
/// # Examples
/// Gradient descent with halving, on E in θ and z together:
/// ```
/// use layerwise::energy::Workspace;
/// use layerwise::prelude::*;
/// use layerwise::objective::Objective;
///
/// fn descend(objective: &dyn Objective<f64>, steps: usize) -> Result<Vec<f64>, Error> {
///     let mut x = objective.point();
///     let mut gradient = x.clone();
///     let mut workspace = Workspace::new();
///     let mut step = 1.0;
///     for _ in 0..steps {
///         let value = objective.evaluate(&x, Some(&mut gradient), &mut workspace)?;
///         let moved: Vec<f64> = x.iter().zip(&gradient).map(|(x, g)| x - step * g).collect();
///         match objective.evaluate(&moved, None, &mut workspace)? < value {
///             true => x = moved,
///             false => step /= 2.0,
///         }
///     }
///     Ok(x)
/// }
///
/// let layer = |inputs, outputs| Dense::new(inputs, outputs, Activation::Tanh);
/// let circuit = Circuit::builder().layer(layer(2, 4)?).layer(layer(4, 1)?).build()?;
/// let x = DMatrix::from_fn(2, 6, |i, j| (i * j) as f64 / 5.0);
/// let y = DMatrix::from_fn(1, 6, |_, j| j as f64 / 5.0);
/// let mut model = DecoupledCircuit::new(circuit, Energy::default())?;
/// model.add_examples(&x, &y, &TargetInit::ForwardPass)?;
/// let before = model.energy()?;
/// let found = descend(&model.joint_objective(&Selection::All)?, 40)?;
/// model.set_joint_point(&Selection::All, &found)?;
/// assert!(model.energy()? < before);
/// # Ok::<(), layerwise::Error>(())
/// ```
pub trait Objective<T: Scalar>: Debug + Send + Sync {
    /// The length of x.
    fn dimension(&self) -> usize;

    /// The current x of the model.
    fn point(&self) -> Vec<T>;

    /// Returns φ(x), and overwrites `gradient`, if given, with ∇φ(x). Any workspace works, and
    /// grows as needed; with one that this objective has used before, nothing is allocated.
    ///
    /// # Errors
    /// [`Error::Length`], [`Error::NonFiniteData`] for an x that is not finite, and
    /// [`Error::NonFinite`] (with step 0) if φ or its gradient is not. `gradient` is unchanged then.
    fn evaluate(
        &self,
        point: &[T],
        gradient: Option<&mut [T]>,
        workspace: &mut Workspace<T>,
    ) -> Result<T, Error>;

    /// φ(x), with a new workspace.
    ///
    /// # Errors
    /// Those of [`Objective::evaluate`].
    fn value(&self, point: &[T]) -> Result<T, Error> {
        self.evaluate(point, None, &mut Workspace::new())
    }

    /// ∇φ(x), with a new workspace.
    ///
    /// # Errors
    /// Those of [`Objective::evaluate`].
    fn gradient(&self, point: &[T]) -> Result<Vec<T>, Error> {
        let mut gradient = vec![T::zero(); self.dimension()];
        self.evaluate(point, Some(&mut gradient), &mut Workspace::new())?;
        Ok(gradient)
    }
}

/// Checks that the gradient's array, if given, is as long as x.
fn check_gradient<T>(gradient: Option<&[T]>, dimension: usize) -> Result<(), Error> {
    gradient.map_or(Ok(()), |own| check_length("gradient", own, dimension))
}
