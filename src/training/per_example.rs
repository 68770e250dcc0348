//! What a scheme keeps per example and hidden layer: arrays in a [`State`](crate::state::State)
//! with one column for each of the model's examples.

use crate::check::{check_count, check_length};
use crate::decoupled::DecoupledCircuit;
use crate::decoupled::examples::Hidden;
use crate::energy::{Problem, Workspace};
use crate::error::Error;
use crate::kernel::Scalar;
use crate::target_solver::{Predictions, TargetProblem};

/// Number of examples in a group.
const GROUP: usize = 16;

/// Zeros for `slots` arrays of d_t for every example and hidden layer.
pub(super) fn zeros<T: Scalar>(model: &DecoupledCircuit<T>, slots: usize) -> Vec<Vec<T>> {
    let n = model.examples().len();
    let hidden = &model.circuit().dims()[1..model.circuit().depth()];
    let layer = |dim: &usize| vec![T::zero(); slots * dim * n];
    hidden.iter().map(layer).collect()
}

/// Changes the stored targets of all examples whose weight is not 0, block by block; there is nothing
/// to do if targets are computed. After an error none of them has changed.
pub(super) fn change_all<T: Scalar>(
    model: &mut DecoupledCircuit<T>,
    training: bool,
    mut change: impl FnMut(&mut TargetProblem<'_, T>) -> Result<(), Error>,
) -> Result<(), Error> {
    if model.examples.hidden == Hidden::Computed {
        return Ok(());
    }
    let mut workspace = Workspace::new();
    model.change_blocks(|layers, batch| {
        let (mut batch, mut predictions) = (batch.reborrow(), Predictions::None);
        batch.base.training = training;
        let memory = &mut workspace;
        change(&mut TargetProblem::new(
            layers,
            batch,
            &[],
            memory,
            &mut predictions,
        ))
    })
}

/// Sets the stored targets of all examples whose weight is not 0 to the forward pass that
/// [`Circuit::predict`](crate::circuit::Circuit::predict) computes.
pub(super) fn refresh_all<T: Scalar>(model: &mut DecoupledCircuit<T>) -> Result<(), Error> {
    change_all(model, false, |problem| problem.refresh())
}

/// z_t − ẑ_t of a batch, for a workspace in which the problem was evaluated.
pub(super) fn measure<T: Scalar>(
    problem: Problem<'_, T>,
    workspace: &Workspace<T>,
    gaps: &mut Vec<Vec<T>>,
) {
    gaps.resize_with(problem.layers().depth() - 1, Vec::new);
    for (t, gaps) in (1..).zip(gaps) {
        let prediction = &workspace.locals[t - 1].prediction;
        let terms = problem.batch().z(t).iter().zip(prediction);
        gaps.clear();
        gaps.extend(terms.map(|(&z, &p)| z - p));
    }
}

/// Checks that `values` have the shape that [`zeros`] gives for a circuit of these dimensions, with
/// all of `columns` among its examples: the state they come from may belong to another run.
///
/// # Errors
/// [`Error::Length`].
pub(super) fn check_columns<A>(
    values: &[impl AsRef<[A]>],
    dims: &[usize],
    slots: usize,
    columns: &[usize],
) -> Result<(), Error> {
    let hidden = &dims[1..dims.len() - 1];
    let what = "arrays by layer in the scheme's state";
    check_length(what, values, hidden.len())?;
    let least = columns.iter().max().map_or(0, |last| last + 1);
    for (own, dim) in values.iter().zip(hidden) {
        let (expected, found) = (slots * dim * least, own.as_ref().len());
        let what = "an array by example in the scheme's state";
        check_count(what, found >= expected, expected, found)?;
    }
    Ok(())
}

/// The values of one hidden layer: for every example `slots` arrays of `dim`.
///
/// They are stored in groups of [`GROUP`] examples. Each group holds the first array of all its
/// examples, then the second, and so on, so that an optimiser can update a whole group at once. With
/// one slot the values are simply stored example by example.
#[derive(Debug)]
pub(super) struct Moments<'a, T> {
    pub(super) slots: usize,
    pub(super) dim: usize,
    pub(super) values: &'a mut [T],
    /// The arrays of one example, where they are not contiguous.
    pub(super) example: &'a mut Vec<T>,
}

impl<T: Scalar> Moments<'_, T> {
    /// Calls `change` on the arrays of the example in `column`, one after another.
    pub(super) fn update(&mut self, column: usize, change: impl FnOnce(&mut [T])) {
        let (slots, dim) = (self.slots, self.dim);
        if slots <= 1 {
            return change(&mut self.values[slots * column * dim..slots * (column + 1) * dim]);
        }
        let mut example = std::mem::take(self.example);
        example.resize(slots * dim, T::zero());
        let group = self.part(column / GROUP, GROUP);
        let place = column % GROUP;
        let own = place * dim..(place + 1) * dim;
        let length = group.len() / slots;
        let arrays = example.chunks_exact_mut(dim);
        for (to, from) in arrays.zip(group.chunks_exact(length)) {
            to.copy_from_slice(&from[own.clone()]);
        }
        change(&mut example);
        let arrays = example.chunks_exact(dim);
        for (from, to) in arrays.zip(group.chunks_exact_mut(length)) {
            to[own.clone()].copy_from_slice(from);
        }
        *self.example = example;
    }

    /// How many examples can be updated at once, for about `values` values.
    pub(super) fn examples_at_once(&self, values: usize) -> usize {
        match self.slots {
            // Without a second array, grouping has no effect.
            0 | 1 => (values / self.dim).max(1),
            _ => GROUP,
        }
    }

    /// The arrays of the p-th part of `examples` examples, one after another: a group, or, with at
    /// most one slot, any number of examples.
    pub(super) fn part(&mut self, p: usize, examples: usize) -> &mut [T] {
        let size = examples * self.slots * self.dim;
        let end = ((p + 1) * size).min(self.values.len());
        &mut self.values[p * size..end]
    }
}
