//! How far targets are on the way from the forward pass to the equilibrium of a Z-step.

use crate::check::{check_computed, finite, not_negative};
use crate::energy::{Problem, Workspace, default_fields};
use crate::error::{Error, Quantity};
use crate::kernel::{Scalar, Squares, Sum, norm};

/// The share f̄ of the way, weighted by backprop's errors δ_t, and what it compares.
#[derive(Debug)]
pub(crate) struct Relaxation<T> {
    /// ∂E/∂c_t at the targets, by hidden layer.
    gradients: Vec<Vec<T>>,
    /// Which layers need no gradient in θ: all.
    frozen: Vec<bool>,
}

default_fields!(Relaxation: gradients frozen);

/// f̄ over examples.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Relaxed {
    /// Of backprop's errors.
    all: Squares,
    /// Σ⟨δ, ∂E/∂c⟩ divided by the root of their sum, and so no larger than the gradients; 0 if there are none.
    along: f64,
}

impl Relaxed {
    pub(crate) fn none() -> Self {
        Self {
            all: Squares::zero(),
            along: 0.0,
        }
    }

    pub(crate) fn add_all(&mut self, other: Self) {
        let mut all = self.all;
        all.add_all(other.all);
        let part = |own: Self| own.all.root() / all.root() * own.along;
        if all.root() > 0.0 {
            self.along = part(*self) + part(other);
        }
        self.all = all;
    }

    /// Checks numbers that were read.
    pub(crate) fn check(self) -> Result<(), Error> {
        not_negative("backprop's errors in the state", self.all.root())?;
        finite("the relaxation in the state", self.along).map(|_| ())
    }

    /// f̄; `None` if backprop has no errors in hidden layers, or none to speak of beside the gradients.
    pub(crate) fn share(self) -> Option<f64> {
        let share = 1.0 - self.along / self.all.root();
        share.is_finite().then_some(share)
    }
}

impl<T: Scalar> Relaxation<T> {
    /// f̄ of a batch, without its multipliers. Leaves the plain forward pass in the workspace.
    ///
    /// # Errors
    /// Those of [`Self::look`] and [`Self::compare`].
    pub(crate) fn of(
        &mut self,
        problem: Problem<'_, T>,
        workspace: &mut Workspace<T>,
    ) -> Result<Relaxed, Error> {
        self.look(problem, workspace)?;
        self.frozen.resize(problem.layers.depth(), true);
        let layers = problem.layers.without_gradients_of(&self.frozen);
        Problem { layers, ..problem }.backprop(workspace);
        self.compare(problem, workspace)
    }

    /// Takes ∂E/∂c_t at the targets, without multipliers.
    ///
    /// # Errors
    /// [`Error::NonFinite`], in step 0, for a gradient that is not finite.
    pub(crate) fn look(
        &mut self,
        problem: Problem<'_, T>,
        workspace: &mut Workspace<T>,
    ) -> Result<(), Error> {
        let multipliers = &[];
        let problem = Problem {
            multipliers,
            ..problem
        };
        problem.predict_locally(workspace);
        problem.carry_errors(workspace);
        let hidden = problem.layers.depth() - 1;
        self.gradients.resize_with(hidden, Vec::new);
        for (t, (own, local)) in (1..).zip(self.gradients.iter_mut().zip(&workspace.locals)) {
            check_computed(Quantity::TargetGradient, t, 0, &local.d_target)?;
            own.clone_from(&local.d_target);
        }
        Ok(())
    }

    /// f̄ by these gradients, with backprop's errors in the workspace.
    ///
    /// # Errors
    /// [`Error::NonFinite`], in step 0, for an error or a sum that is not finite.
    pub(crate) fn compare(
        &self,
        problem: Problem<'_, T>,
        workspace: &Workspace<T>,
    ) -> Result<Relaxed, Error> {
        let (layers, batch) = (problem.layers, problem.batch);
        let (depth, dims) = (layers.depth(), layers.dims());
        let mut relaxed = Relaxed::none();
        for (t, &dim) in (1..depth).zip(&dims[1..]) {
            let (error, gradient) = (&workspace.locals[t].d_input, &self.gradients[t - 1]);
            check_computed(Quantity::TargetGradient, t, 0, error)?;
            let penalty = layers.weight(t - 1).as_f64().sqrt();
            let columns = error.chunks_exact(dim).zip(gradient.chunks_exact(dim));
            for (i, (error, gradient)) in columns.enumerate() {
                // Both gradients contain the example's weight.
                let weight = batch.weights().map_or(1.0, |all| all[i].as_f64());
                let length = norm(error);
                if weight == 0.0 || length == 0.0 {
                    continue;
                }
                let scale = weight.sqrt() * penalty;
                let products = error.iter().zip(gradient);
                let products = products.map(|(d, g)| d.as_f64() / length * (g.as_f64() / scale));
                let mut own = Relaxed::none();
                own.all.add(length / scale);
                own.along = Sum::of(products);
                relaxed.add_all(own);
            }
        }
        check_computed(Quantity::TargetGradient, depth - 1, 0, &[relaxed.along])?;
        Ok(relaxed)
    }
}
