//! E as a function of z.

use std::ops::Range;

use super::Objective;
use super::flat::{Flat, flat_objective};
use super::layout::Layout;
use crate::decoupled::{DecoupledCircuit, Selection};
use crate::energy::Workspace;
use crate::error::Error;
use crate::kernel::Scalar;

/// Z ↦ E on n selected examples at fixed θ, a sum over them, and its gradient ∂E/∂z_t: the Z-step
/// as one problem.
///
/// x = (z_1, …, z_{T−1}), one after another, each d_t × n column-major with the examples in the
/// order of the selection. The gradient is that of E: unlike a
/// [`TargetSolver`](crate::target_solver::TargetSolver)'s steps it is not divided by example weights, and an
/// optimiser that measures one step length for all of x couples the examples.
///
/// # Examples
/// ```
/// use layerwise::prelude::*;
/// use layerwise::objective::Objective;
///
/// let layer = |inputs, outputs| Dense::new(inputs, outputs, Activation::Tanh);
/// let circuit = Circuit::<f64>::builder().layer(layer(2, 3)?).layer(layer(3, 1)?).build()?;
/// let (x, y) = (DMatrix::from_element(2, 5, 0.5), DMatrix::from_element(1, 5, 1.0));
/// let mut model = DecoupledCircuit::new(circuit, Energy::default())?;
/// model.add_examples(&x, &y, &TargetInit::ForwardPass)?;
/// let objective = model.target_objective(&Selection::All)?;
/// let mut point = objective.point();
/// for (z, g) in point.iter_mut().zip(objective.gradient(&objective.point())?) {
///     *z -= 0.1 * g;
/// }
/// let expected = objective.value(&point)?;
/// model.set_target_point(&Selection::All, &point)?;
/// assert_eq!(model.energy()?, expected);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct TargetObjective<'a, T: Scalar>(Flat<'a, T>);

impl<T: Scalar> TargetObjective<'_, T> {
    /// Where z_t stands in x.
    ///
    /// # Panics
    /// If t is not in 1..T.
    pub fn target_range(&self, t: usize) -> Range<usize> {
        self.0.layout.target(t)
    }
}

flat_objective!(TargetObjective, energy);

impl<T: Scalar> DecoupledCircuit<T> {
    /// E on the selected examples as a function of their targets, θ fixed.
    ///
    /// # Errors
    /// Errors of the selection, or [`Error::NoExamples`] if it is empty.
    pub fn target_objective(
        &self,
        selection: &Selection<'_>,
    ) -> Result<TargetObjective<'_, T>, Error> {
        Flat::new(self, selection, Layout::of_targets).map(TargetObjective)
    }

    /// Replaces the targets of the selected examples by a point of their [`TargetObjective`].
    ///
    /// # Errors
    /// Those of [`DecoupledCircuit::set_joint_point`]. Nothing is changed then.
    pub fn set_target_point(
        &mut self,
        selection: &Selection<'_>,
        point: &[T],
    ) -> Result<(), Error> {
        self.set_point(selection, Layout::of_targets, point)
    }
}
