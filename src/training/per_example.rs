//! What a scheme keeps per example and hidden layer: arrays in a [`State`](crate::state::State)
//! with one column for each of the model's examples.

use crate::decoupled::DecoupledCircuit;
use crate::kernel::Scalar;

/// Examples in a group.
const GROUP: usize = 16;

/// Zeros for `slots` arrays of d_t for every example and hidden layer.
pub(super) fn zeros<T: Scalar>(model: &DecoupledCircuit<T>, slots: usize) -> Vec<Vec<T>> {
    let n = model.examples().len();
    let hidden = &model.circuit().dims()[1..model.circuit().depth()];
    let layer = |dim: &usize| vec![T::zero(); slots * dim * n];
    hidden.iter().map(layer).collect()
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
