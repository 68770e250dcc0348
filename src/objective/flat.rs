//! A circuit on some examples with θ, z or both taken from a flat vector.

use super::check_gradient;
use super::layout::Layout;
use crate::circuit::{Circuit, add_input_parts};
use crate::decoupled::DecoupledCircuit;
use crate::decoupled::Selection;
use crate::decoupled::examples::{Columns, Gathered};
use crate::energy::compose;
use crate::energy::{Batch, LocalProblem, Wanted, Workspace};
use crate::error::{Error, Quantity};
use crate::kernel::Execution;
use crate::kernel::Scalar;
use crate::kernel::all_finite;

/// What the objectives over a [`DecoupledCircuit`] are made of.
#[derive(Debug, Clone)]
pub(super) struct Flat<'a, T: Scalar> {
    circuit: &'a Circuit<T>,
    source: Source<'a, T>,
    pub(super) layout: Layout,
}

/// The examples, where they lie or copied together.
#[derive(Debug, Clone)]
enum Source<'a, T> {
    Lying(Batch<'a, T>),
    Gathered(Gathered<T>),
}

impl<'a, T: Scalar> Flat<'a, T> {
    /// `layout` is told the circuit and the number of examples.
    pub(super) fn new(
        model: &'a DecoupledCircuit<T>,
        selection: &Selection<'_>,
        layout: impl FnOnce(&Circuit<T>, usize) -> Layout,
    ) -> Result<Self, Error> {
        let circuit = model.circuit();
        let source = match model.examples.resolve(selection)? {
            Columns::Run(run) => Source::Lying(model.examples.run(run, 0, false)),
            Columns::Scattered(columns) => {
                let mut gathered = Gathered::new(circuit.depth());
                gathered.load(&model.examples, &columns, true);
                Source::Gathered(gathered)
            }
        };
        let mut flat = Self {
            circuit,
            source,
            layout: Layout::of_parameters(circuit),
        };
        let n = flat.batch().len();
        if n == 0 {
            return Err(Error::NoExamples {
                operation: "an objective",
            });
        }
        flat.layout = layout(circuit, n);
        Ok(flat)
    }

    fn batch(&self) -> Batch<'_, T> {
        match &self.source {
            Source::Lying(batch) => *batch,
            Source::Gathered(gathered) => gathered.view(self.circuit.dims(), false),
        }
    }

    /// ℓ_t with what the layout has of θ_t, z_t and z_{t+1} taken from a point.
    fn problem<'b>(&'b self, t: usize, point: &'b [T]) -> LocalProblem<'b, T> {
        let mut problem = self.circuit.local_problem(t, self.batch());
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
        let (batch, mut point) = (self.batch(), Vec::new());
        point.reserve_exact(self.layout.dimension());
        for t in 0..self.layout.parameters.len() {
            point.extend_from_slice(self.circuit.parameters(t));
        }
        for t in 1..=self.layout.targets.len() {
            point.extend_from_slice(batch.z(t));
        }
        point
    }

    pub(super) fn workspace(&self) -> Workspace<T> {
        Workspace::new(self.circuit, self.batch().len())
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
        workspace.fit(self.circuit);
        for (t, local) in workspace.locals.iter_mut().enumerate() {
            let wanted = Wanted {
                parameters: theta,
                input: z && t > 0,
                target: z && t + 1 < self.circuit.depth(),
            };
            self.problem(t, point).evaluate(wanted, local);
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
        workspace.fit(self.circuit);
        let problem = |t| self.problem(t, point);
        let loss = compose(problem, gradient.is_some(), workspace);
        let loss = self.finite(Quantity::ComposedLoss, loss)?;
        self.write(gradient, workspace)?;
        Ok(loss)
    }

    fn check(&self, point: &[T], gradient: Option<&[T]>) -> Result<(), Error> {
        self.layout.check(point)?;
        check_gradient(gradient, self.layout.dimension())
    }

    fn finite(&self, quantity: Quantity, value: T) -> Result<T, Error> {
        match value.is_finite() {
            true => Ok(value),
            false => Err(Error::NonFinite {
                quantity,
                layer: self.circuit.depth() - 1,
                step: 0,
            }),
        }
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
            if !all_finite(workspace.target_gradient(t)) {
                return Err(Error::NonFinite {
                    quantity: Quantity::TargetGradient,
                    layer: t,
                    step: 0,
                });
            }
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
            let loss = self.circuit.loss(t - 1);
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
