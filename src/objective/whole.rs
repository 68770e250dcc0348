//! E and the composed loss of a decoupled circuit as functions of θ, z or both.

use std::ops::Range;

use super::Objective;
use super::flat::{Flat, Layout, Variables, flat_objective};
use crate::circuit::Circuit;
use crate::decoupled::{DecoupledCircuit, Selection};
use crate::energy::Workspace;
use crate::error::Error;
use crate::kernel::Scalar;

/// Z ↦ E on n selected examples (a sum over them) at fixed θ, and its gradient ∂E/∂z_t: the Z-step
/// as a single problem.
///
/// x = (z_1, …, z_{T−1}), one after another, each d_t × n column-major with the examples in the
/// order of the selection. The gradient is that of E: unlike the steps of a
/// [`TargetSolver`](crate::target_solver::TargetSolver) it is not divided by example weights. An
/// optimiser that uses one step length for all of x couples the examples.
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
    /// The range of z_t in x. Panics if t is not in 1..T.
    pub fn target_range(&self, t: usize) -> Range<usize> {
        self.0.layout.target(t)
    }
}

flat_objective!(TargetObjective, energy);

/// (θ, Z) ↦ E on n selected examples (a sum over them), and its gradients ∂E/∂θ_t and ∂E/∂z_t.
///
/// x = (θ_0, …, θ_{T−1}, z_1, …, z_{T−1}), one after another: θ_t flat as
/// [`Circuit::parameters`](crate::circuit::Circuit::parameters), z_t d_t × n column-major with the examples
/// in the order of the selection. Its length is Σ_t dim θ_t + n Σ_{t=1}^{T−1} d_t. Contiguous
/// examples are not copied.
///
/// The simultaneous descent in θ and z of Carreira-Perpiñán & Wang 2014, by an optimiser of your
/// choice.
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
///
/// let objective = model.joint_objective(&Selection::All)?;
/// let mut point = objective.point();
/// assert_eq!(point.len(), 9 + 4 + 5 * 3);
/// assert_eq!(objective.value(&point)?, model.energy()?);
/// // At the forward pass, only the output loss has a gradient in the hidden layer's targets.
/// let pull = &objective.gradient(&point)?[objective.target_range(1)];
/// for (z, g) in point[9 + 4..].iter_mut().zip(pull) {
///     *z -= 0.1 * g;
/// }
/// let before = model.energy()?;
/// model.set_joint_point(&Selection::All, &point)?;
/// assert!(model.energy()? < before);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct JointObjective<'a, T: Scalar>(Flat<'a, T>);

impl<T: Scalar> JointObjective<'_, T> {
    /// The range of θ_t in x. Panics if t ≥ T.
    pub fn parameter_range(&self, t: usize) -> Range<usize> {
        self.0.layout.parameters[t].clone()
    }

    /// The range of z_t in x. Panics if t is not in 1..T.
    pub fn target_range(&self, t: usize) -> Range<usize> {
        self.0.layout.target(t)
    }
}

flat_objective!(JointObjective, energy);

/// θ ↦ Σᵢ wᵢ \[ L(z_Tⁱ, ẑ_Tⁱ) + Σ_t R(θ_t) \] of the plain forward pass on selected examples, and
/// its gradient by backprop: the ordinary baseline, for use with the same optimiser.
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
    /// The range of θ_t in x. Panics if t ≥ T.
    pub fn parameter_range(&self, t: usize) -> Range<usize> {
        self.0.layout.parameters[t].clone()
    }
}

flat_objective!(ComposedObjective, composed_loss);

impl<T: Scalar> DecoupledCircuit<T> {
    /// E on the selected examples as a function of their targets, with θ fixed.
    ///
    /// # Errors
    /// Errors of the selection, or [`Error::NoExamples`] if it is empty.
    pub fn target_objective(
        &self,
        selection: &Selection<'_>,
    ) -> Result<TargetObjective<'_, T>, Error> {
        Flat::new(self, selection, Variables::Targets).map(TargetObjective)
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
        self.set_point(selection, Variables::Targets, point)
    }

    /// E on the selected examples as a function of θ and their targets together.
    ///
    /// # Errors
    /// Errors of the selection, or [`Error::NoExamples`] if it is empty.
    pub fn joint_objective(
        &self,
        selection: &Selection<'_>,
    ) -> Result<JointObjective<'_, T>, Error> {
        Flat::new(self, selection, Variables::Both).map(JointObjective)
    }

    /// Replaces θ and the targets of the selected examples by a point of their [`JointObjective`].
    ///
    /// # Errors
    /// Errors of the selection, [`Error::NoExamples`], [`Error::Length`],
    /// [`Error::NonFiniteData`], [`Error::TargetsNotStored`], and what L_h says of its targets. Nothing is
    /// changed then.
    pub fn set_joint_point(&mut self, selection: &Selection<'_>, point: &[T]) -> Result<(), Error> {
        self.set_point(selection, Variables::Both, point)
    }

    /// The composed loss on the selected examples, with regularisers, as a function of θ.
    ///
    /// # Errors
    /// Errors of the selection, or [`Error::NoExamples`] if it is empty.
    pub fn composed_objective(
        &self,
        selection: &Selection<'_>,
    ) -> Result<ComposedObjective<'_, T>, Error> {
        Flat::new(self, selection, Variables::Parameters).map(ComposedObjective)
    }

    /// [`Circuit::set_parameter_point`], with its errors.
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
        let layout = Layout::new(self, 0, Variables::Parameters);
        layout.check(point)?;
        layout.put_parameters(self, point);
        Ok(())
    }
}
