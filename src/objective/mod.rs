//! The crate's problems as functions of one flat vector, for optimisers from elsewhere.

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

/// A function φ of one flat vector x with its gradient: what an optimiser from elsewhere needs.
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
/// [`DecoupledCircuit::backprop`](crate::decoupled::DecoupledCircuit::backprop) at the same numbers. Layers see
/// it as inference sees them, so that φ is one function however often it is asked. Where a regulariser
/// has an L1 part, φ has kinks.
///
/// Objectives borrow the model and change nothing in it: what the optimiser found is put back by
/// [`DecoupledCircuit::set_parameters`](crate::decoupled::DecoupledCircuit::set_parameters),
/// [`set_parameter_point`](crate::decoupled::DecoupledCircuit::set_parameter_point),
/// [`set_target_point`](crate::decoupled::DecoupledCircuit::set_target_point) or
/// [`set_joint_point`](crate::decoupled::DecoupledCircuit::set_joint_point), as a whole or not at all.
///
/// # With argmin
///
/// With the feature `argmin` the four types are problems of argmin's optimisers: `CostFunction` and
/// `Gradient` over `Vec<f32>` or `Vec<f64>`, for which the optimisers need argmin-math's feature
/// `vec`. A cost that is not finite is +∞ to argmin, so that a backtracking line search shortens
/// its step; every other error ends the run. argmin asks for costs and gradients one by one, so each
/// runs its own forward pass, in new memory.
///
/// Of argmin 0.11: after an error in the line search L-BFGS ends without an error of its own and
/// with no present point: read `get_best_param`, not `get_param`. `max_iters` does not reach the
/// steps of the line search. `BacktrackingLineSearch` with Armijo's condition always ends;
/// `MoreThuenteLineSearch` and `HagerZhangLineSearch` need not, but a cost function that returns an
/// error after so many calls ends them, as in `examples/lbfgs.rs`.
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

    /// x as it stands in the model.
    fn point(&self) -> Vec<T>;

    /// φ(x), and ∇φ(x) into `gradient` if given, overwritten. Any workspace will do, and grows where
    /// it must; nothing is allocated with one that this objective has used before.
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

    /// φ(x), in new memory.
    ///
    /// # Errors
    /// Those of [`Objective::evaluate`].
    fn value(&self, point: &[T]) -> Result<T, Error> {
        self.evaluate(point, None, &mut Workspace::new())
    }

    /// ∇φ(x), in new memory.
    ///
    /// # Errors
    /// Those of [`Objective::evaluate`].
    fn gradient(&self, point: &[T]) -> Result<Vec<T>, Error> {
        let mut gradient = vec![T::zero(); self.dimension()];
        self.evaluate(point, Some(&mut gradient), &mut Workspace::new())?;
        Ok(gradient)
    }
}

/// The gradient's memory, if there is any, is as long as x.
fn check_gradient<T>(gradient: Option<&[T]>, dimension: usize) -> Result<(), Error> {
    gradient.map_or(Ok(()), |own| check_length("gradient", own, dimension))
}
