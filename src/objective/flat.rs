//! A circuit on some examples with θ, z or both taken from a flat vector.

use std::borrow::Cow;
use std::ops::Range;

use super::check_gradient;
use super::layout::Layout;
use crate::check::check_computed;
use crate::circuit::Circuit;
use crate::decoupled::examples::{Columns, Examples};
use crate::decoupled::{DecoupledCircuit, Selection};
use crate::energy::{Ask, Layers, LocalProblem, Problem, Workspace, add_input_parts, compose};
use crate::error::{Error, Quantity};
use crate::kernel::{Execution, Scalar};

/// What the objectives over a [`DecoupledCircuit`] are made of.
#[derive(Debug, Clone)]
pub(super) struct Flat<'a, T: Scalar> {
    layers: Layers<'a, T>,
    /// The model's, or copies of scattered ones.
    examples: Cow<'a, Examples<T>>,
    /// The columns of them that are selected.
    run: Range<usize>,
    pub(super) layout: Layout,
}

impl<'a, T: Scalar> Flat<'a, T> {
    /// `layout` is given the circuit and the number of examples.
    pub(super) fn new(
        model: &'a DecoupledCircuit<T>,
        selection: &Selection<'_>,
        layout: impl FnOnce(&Circuit<T>, usize) -> Layout,
    ) -> Result<Self, Error> {
        let (examples, run) = match model.examples.resolve(selection)? {
            Columns::Run(run) => (Cow::Borrowed(&model.examples), run),
            Columns::Scattered(columns) => {
                let gathered = model.examples.gathered(&columns);
                (Cow::Owned(gathered), 0..columns.len())
            }
        };
        if run.is_empty() {
            return Err(Error::NoExamples {
                operation: "an objective",
            });
        }
        Ok(Self {
            layers: model.layers(),
            layout: layout(&model.circuit, run.len()),
            examples,
            run,
        })
    }

    /// E at the model's own numbers.
    fn problem(&self) -> Problem<'_, T> {
        let batch = self.examples.run(self.run.clone(), 0, false);
        self.layers.on(batch)
    }

    /// ℓ_t with what the layout has of θ_t, z_t and z_{t+1} taken from a point.
    fn local<'b>(&'b self, t: usize, point: &'b [T]) -> LocalProblem<'b, T> {
        let mut problem = self.problem().local(t);
        let Layout {
            parameters,
            targets,
            ..
        } = &self.layout;
        if let Some(own) = parameters.get(t) {
            problem.parameters = &point[own.clone()];
        }
        // The i-th of the targets is z_{i+1}.
        if let Some(own) = t.checked_sub(1).and_then(|i| targets.get(i)) {
            problem.input = &point[own.clone()];
        }
        if let Some(own) = targets.get(t) {
            problem.target = &point[own.clone()];
        }
        problem
    }

    /// The point of the model.
    pub(super) fn point(&self) -> Vec<T> {
        let (problem, mut point) = (self.problem(), Vec::new());
        point.reserve_exact(self.layout.dimension());
        for t in 0..self.layout.parameters.len() {
            point.extend_from_slice(self.layers.circuit().parameters(t));
        }
        for t in 1..=self.layout.targets.len() {
            point.extend_from_slice(problem.batch().z(t));
        }
        point
    }

    /// E at a point, and its gradient in what the layout has if wanted.
    pub(super) fn energy(
        &self,
        point: &[T],
        gradient: Option<&mut [T]>,
        workspace: &mut Workspace<T>,
    ) -> Result<T, Error> {
        self.check(point, gradient.as_deref())?;
        let wants = |part: bool| gradient.is_some() && part;
        let (theta, z) = (&self.layout.parameters, &self.layout.targets);
        let (theta, z) = (wants(!theta.is_empty()), wants(!z.is_empty()));
        let (ask, depth) = (Ask::new(theta, z, z), self.layers.depth());
        workspace.fit(depth);
        for (t, local) in workspace.locals.iter_mut().enumerate() {
            let problem = self.local(t, point);
            problem.predict(local);
            problem.differentiate(ask.of_layer(t, depth), local);
        }
        if z {
            add_input_parts(workspace, Execution::Sequential);
        }
        workspace.check_energies(0)?;
        let energy = self.finite(Quantity::Energy, workspace.energy())?;
        self.write(gradient, workspace)?;
        Ok(energy)
    }

    /// The composed loss at a point, and its gradient in θ if wanted.
    pub(super) fn composed_loss(
        &self,
        point: &[T],
        gradient: Option<&mut [T]>,
        workspace: &mut Workspace<T>,
    ) -> Result<T, Error> {
        self.check(point, gradient.as_deref())?;
        workspace.fit(self.layers.depth());
        let local = |t| self.local(t, point);
        let loss = compose(local, gradient.is_some(), workspace);
        let loss = self.finite(Quantity::ComposedLoss, loss)?;
        self.write(gradient, workspace)?;
        Ok(loss)
    }

    fn check(&self, point: &[T], gradient: Option<&[T]>) -> Result<(), Error> {
        self.layout.check(point)?;
        check_gradient(gradient, self.layout.dimension())
    }

    fn finite(&self, quantity: Quantity, value: T) -> Result<T, Error> {
        let last = self.layers.depth() - 1;
        check_computed(quantity, last, 0, &[value]).map(|()| value)
    }

    /// The gradient, out of the workspace, if all of it is finite.
    fn write(&self, gradient: Option<&mut [T]>, workspace: &Workspace<T>) -> Result<(), Error> {
        let Some(gradient) = gradient else {
            return Ok(());
        };
        let (theta, z) = (&self.layout.parameters, &self.layout.targets);
        if !theta.is_empty() {
            workspace.check_parameter_gradients(0, |_| true)?;
        }
        for t in 1..=z.len() {
            check_computed(Quantity::TargetGradient, t, 0, workspace.target_gradient(t))?;
        }
        for (own, local) in theta.iter().zip(&workspace.locals) {
            gradient[own.clone()].copy_from_slice(&local.d_parameters);
        }
        for (own, local) in z.iter().zip(&workspace.locals) {
            gradient[own.clone()].copy_from_slice(&local.d_target);
        }
        Ok(())
    }
}

impl<T: Scalar> DecoupledCircuit<T> {
    /// Puts a point into the model, with the examples of the selection, if all of it fits.
    pub(super) fn set_point(
        &mut self,
        selection: &Selection<'_>,
        layout: impl FnOnce(&Circuit<T>, usize) -> Layout,
        point: &[T],
    ) -> Result<(), Error> {
        let chosen = self.examples.resolve(selection)?.into_places();
        if chosen.is_empty() {
            return Err(Error::NoExamples {
                operation: "the point of an objective",
            });
        }
        let layout = layout(&self.circuit, chosen.len());
        layout.check(point)?;
        for (t, own) in (1..).zip(&layout.targets) {
            let dim = self.circuit.dims()[t];
            let loss = self.terms.loss(t - 1);
            loss.check_target(dim, &point[own.clone()])?;
        }
        let theta = self.circuit.parameters_mut().iter_mut();
        for (theta, own) in theta.zip(&layout.parameters) {
            theta.copy_from_slice(&point[own.clone()]);
        }
        for (t, own) in (1..).zip(&layout.targets) {
            let dim = self.circuit.dims()[t];
            let columns = point[own.clone()].chunks_exact(dim);
            for (&place, from) in chosen.iter().zip(columns) {
                self.examples.z[t][place * dim..][..dim].copy_from_slice(from);
            }
        }
        Ok(())
    }
}

/// Makes an [`Objective`](super::Objective) of `$name`, a [`Flat`] whose φ is `$value`.
macro_rules! flat_objective {
    ($name:ident, $value:ident) => {
        impl<T: Scalar> Objective<T> for $name<'_, T> {
            fn dimension(&self) -> usize {
                self.0.layout.dimension()
            }

            fn point(&self) -> Vec<T> {
                self.0.point()
            }

            fn evaluate(
                &self,
                point: &[T],
                gradient: Option<&mut [T]>,
                workspace: &mut Workspace<T>,
            ) -> Result<T, Error> {
                self.0.$value(point, gradient, workspace)
            }
        }
    };
}
pub(super) use flat_objective;
