//! The composed loss as a function of θ.

use std::ops::Range;

use super::Objective;
use super::flat::{Flat, flat_objective};
use super::layout::Layout;
use crate::circuit::Circuit;
use crate::decoupled::{DecoupledCircuit, Selection};
use crate::energy::Workspace;
use crate::error::Error;
use crate::kernel::Scalar;

/// θ ↦ Σᵢ wᵢ \[ L(z_Tⁱ, ẑ_Tⁱ) + Σ_t R(θ_t) \] of the plain forward pass on selected examples, and
/// its gradient by backprop: the coupled baseline, for the same optimiser.
///
/// x = (θ_0, …, θ_{T−1}), one after another, flat as
/// [`Circuit::parameters`](crate::circuit::Circuit::parameters). Value and gradient are those of
/// [`Problem::backprop`](crate::energy::Problem::backprop); auxiliary targets play no part.
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
/// let objective = model.composed_objective(&Selection::All)?;
/// let mut point = objective.point();
/// assert_eq!(objective.value(&point)?, model.composed_loss()?);
/// for (p, g) in point.iter_mut().zip(objective.gradient(&objective.point())?) {
///     *p -= 0.01 * g;
/// }
/// let expected = objective.value(&point)?;
/// model.set_parameter_point(&point)?;
/// assert_eq!(model.composed_loss()?, expected);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct ComposedObjective<'a, T: Scalar>(Flat<'a, T>);

impl<T: Scalar> ComposedObjective<'_, T> {
    /// Where θ_t stands in x.
    ///
    /// # Panics
    /// If t ≥ T.
    pub fn parameter_range(&self, t: usize) -> Range<usize> {
        self.0.layout.parameters[t].clone()
    }
}

flat_objective!(ComposedObjective, composed_loss);

impl<T: Scalar> DecoupledCircuit<T> {
    /// The composed loss on the selected examples, with regularisers, as a function of θ.
    ///
    /// # Errors
    /// Errors of the selection, or [`Error::NoExamples`] if it is empty.
    pub fn composed_objective(
        &self,
        selection: &Selection<'_>,
    ) -> Result<ComposedObjective<'_, T>, Error> {
        let layout = |circuit: &Circuit<T>, _| Layout::of_parameters(circuit);
        Flat::new(self, selection, layout).map(ComposedObjective)
    }

    /// [`Circuit::set_parameter_point`].
    ///
    /// # Errors
    /// Those of [`Circuit::set_parameter_point`].
    pub fn set_parameter_point(&mut self, point: &[T]) -> Result<(), Error> {
        self.circuit.set_parameter_point(point)
    }
}

impl<T: Scalar> Circuit<T> {
    /// Replaces θ_0, …, θ_{T−1} by a point of a [`ComposedObjective`], one after another.
    ///
    /// # Errors
    /// [`Error::Length`], [`Error::NonFiniteData`]. Nothing is changed then.
    pub fn set_parameter_point(&mut self, point: &[T]) -> Result<(), Error> {
        let layout = Layout::of_parameters(self);
        layout.check(point)?;
        for (theta, own) in self.parameters_mut().iter_mut().zip(&layout.parameters) {
            theta.copy_from_slice(&point[own.clone()]);
        }
        Ok(())
    }
}
