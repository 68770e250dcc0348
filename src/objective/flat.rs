//! A circuit on selected examples, with θ, z or both taken from a flat vector.

use std::borrow::Cow;
use std::ops::Range;

use super::check_gradient;
use crate::check::{check_computed, check_finite, check_length};
use crate::circuit::Circuit;
use crate::decoupled::examples::{Chosen, Examples};
use crate::decoupled::{DecoupledCircuit, Selection};
use crate::energy::{Ask, Layers, LocalProblem, Problem, Workspace, add_input_parts, compose};
use crate::error::{Error, Quantity};
use crate::kernel::{Execution, Scalar};

/// Which variables a flat vector holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Variables {
    Parameters,
    Targets,
    Both,
}

/// The positions of θ_0, …, θ_{T−1}, then z_1, …, z_{T−1} (each d_t × n column-major) in a flat
/// vector.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    /// Ranges of θ_0, …, θ_{T−1}; empty if they are not variables.
    pub(super) parameters: Vec<Range<usize>>,
    /// Ranges of z_1, …, z_{T−1}; empty if they are not variables.
    targets: Vec<Range<usize>>,
    /// d_1, …, d_{T−1}.
    dims: Vec<usize>,
    pub(super) dimension: usize,
}

impl Layout {
    pub(super) fn new<T: Scalar>(circuit: &Circuit<T>, n: usize, variables: Variables) -> Self {
        let (mut dimension, dims) = (0, &circuit.dims()[1..circuit.depth()]);
        let mut next = |length: usize| {
            dimension += length;
            dimension - length..dimension
        };
        let (mut parameters, mut targets) = (Vec::new(), Vec::new());
        if variables != Variables::Targets {
            let lengths = (0..circuit.depth()).map(|t| circuit.parameters(t).len());
            parameters.extend(lengths.map(&mut next));
        }
        if variables != Variables::Parameters {
            targets.extend(dims.iter().map(|dim| next(dim * n)));
        }
        Self {
            parameters,
            targets,
            dims: dims.to_vec(),
            dimension,
        }
    }

    /// The range of z_t, t in 1..T.
    pub(super) fn target(&self, t: usize) -> Range<usize> {
        assert!(
            0 < t && t <= self.targets.len(),
            "z_{t} is not an auxiliary target"
        );
        self.targets[t - 1].clone()
    }

    /// Writes the θ of a checked point to the circuit.
    pub(super) fn put_parameters<T: Scalar>(&self, circuit: &mut Circuit<T>, point: &[T]) {
        let theta = circuit.parameters_mut().iter_mut();
        for (theta, own) in theta.zip(&self.parameters) {
            theta.copy_from_slice(&point[own.clone()]);
        }
    }

    /// Checks the length of a point, and that it is finite.
    pub(super) fn check<T: Scalar>(&self, point: &[T]) -> Result<(), Error> {
        check_length("point", point, self.dimension)?;
        for (t, range) in self.parameters.iter().enumerate() {
            let rows = range.len().max(1);
            check_finite(Quantity::Parameter, t, rows, &point[range.clone()])?;
        }
        for ((t, range), &rows) in (1..).zip(&self.targets).zip(&self.dims) {
            check_finite(Quantity::Target, t, rows, &point[range.clone()])?;
        }
        Ok(())
    }
}

/// The common part of the objectives over a [`DecoupledCircuit`].
#[derive(Debug, Clone)]
pub(super) struct Flat<'a, T: Scalar> {
    layers: Layers<'a, T>,
    /// The model's examples, or copies of scattered ones.
    examples: Cow<'a, Examples<T>>,
    /// The selected columns of these examples.
    run: Range<usize>,
    pub(super) layout: Layout,
}

impl<'a, T: Scalar> Flat<'a, T> {
    pub(super) fn new(
        model: &'a DecoupledCircuit<T>,
        selection: &Selection<'_>,
        variables: Variables,
    ) -> Result<Self, Error> {
        let mut chosen = model.chosen(selection, "an objective")?;
        if variables == Variables::Parameters {
            chosen = model.weighty(&chosen);
        }
        model.check_batch(chosen.len())?;
        let (examples, run) = match chosen {
            Chosen::Run(run) if model.examples.are_at_hand() => {
                (Cow::Borrowed(&model.examples), run)
            }
            chosen => {
                let gathered = model.examples.gathered(model.layers(), &chosen)?;
                (Cow::Owned(gathered), 0..chosen.len())
            }
        };
        Ok(Self {
            layers: model.layers(),
            layout: Layout::new(&model.circuit, run.len(), variables),
            examples,
            run,
        })
    }

    /// E at the model's current θ and z.
    fn problem(&self) -> Problem<'_, T> {
        let batch = self.examples.run(self.run.clone(), 0, false);
        self.layers.on(batch)
    }

    /// ℓ_t, with those of θ_t, z_t and z_{t+1} that are in the layout taken from a point.
    fn local<'b>(&'b self, t: usize, point: &'b [T]) -> LocalProblem<'b, T> {
        let mut problem = self.problem().local(t);
        let (parameters, targets) = (&self.layout.parameters, &self.layout.targets);
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

    /// The point at which the model currently is.
    pub(super) fn point(&self) -> Vec<T> {
        let (problem, mut point) = (self.problem(), Vec::with_capacity(self.layout.dimension));
        for t in 0..self.layout.parameters.len() {
            point.extend_from_slice(self.layers.circuit().parameters(t));
        }
        for t in 1..=self.layout.targets.len() {
            point.extend_from_slice(problem.batch().z(t));
        }
        point
    }

    /// E at a point, and on request its gradient in the layout's variables.
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

    /// The composed loss at a point, and on request its gradient in θ.
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
        check_gradient(gradient, self.layout.dimension)
    }

    fn finite(&self, quantity: Quantity, value: T) -> Result<T, Error> {
        let last = self.layers.depth() - 1;
        check_computed(quantity, last, 0, &[value]).map(|()| value)
    }

    /// Copies the gradient from the workspace if all of it is finite.
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
    /// Writes a point back to the model and the selected examples, if all of it fits.
    pub(super) fn set_point(
        &mut self,
        selection: &Selection<'_>,
        variables: Variables,
        point: &[T],
    ) -> Result<(), Error> {
        let chosen = self.chosen(selection, "setting the point of an objective")?;
        let chosen = chosen.into_places();
        let layout = Layout::new(&self.circuit, chosen.len(), variables);
        layout.check(point)?;
        for (t, own) in (1..).zip(&layout.targets) {
            let dim = self.circuit.dims()[t];
            let loss = self.terms.loss(t - 1);
            loss.check_target(dim, &point[own.clone()])?;
        }
        for (t, own) in (1..).zip(&layout.targets) {
            self.examples.put(t, &chosen, &point[own.clone()])?;
        }
        layout.put_parameters(&mut self.circuit, point);
        Ok(())
    }
}

/// Makes an [`Objective`](super::Objective) of `$name`, a [`Flat`] whose φ is `$value`.
macro_rules! flat_objective {
    ($name:ident, $value:ident) => {
        impl<T: Scalar> Objective<T> for $name<'_, T> {
            fn dimension(&self) -> usize {
                self.0.layout.dimension
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
