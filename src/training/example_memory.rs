//! What a scheme keeps of every example, by hidden layer.

use crate::decoupled::DecoupledCircuit;
use crate::error::Error;
use crate::kernel::Scalar;

/// Values of every example of a model for each hidden layer, found by the examples' lasting
/// numbers, so that they survive shuffled minibatches.
#[derive(Debug, Clone)]
pub(super) struct ExampleMemory<T> {
    /// The examples' numbers in increasing order, one a column.
    ids: Vec<u64>,
    layers: Vec<LayerMemory<T>>,
    /// Columns of the batch under way.
    columns: Vec<usize>,
}

/// The values of one hidden layer: for every example `slots` arrays of d_t.
///
/// They stand in groups of [`GROUP`] examples: of each group first the first array of all its
/// examples, then the second, and so on, so that an optimiser can update a whole group at once. With
/// one slot the values of an example simply follow those of the example before it.
#[derive(Debug, Clone)]
pub(super) struct LayerMemory<T> {
    slots: usize,
    dim: usize,
    values: Vec<T>,
    /// The arrays of one example, where they do not stand together.
    example: Vec<T>,
}

/// Examples that stand together.
const GROUP: usize = 16;

impl<T: Scalar> ExampleMemory<T> {
    pub(super) fn new() -> Self {
        Self {
            ids: Vec::new(),
            layers: Vec::new(),
            columns: Vec::new(),
        }
    }

    /// `slots` values for every unit of every hidden layer, all zero.
    pub(super) fn start(&mut self, model: &DecoupledCircuit<T>, slots: usize) {
        self.ids = model.examples().to_vec();
        let count = self.ids.len();
        let layer = |&dim: &usize| LayerMemory {
            slots,
            dim,
            values: vec![T::zero(); slots * dim * count],
            example: vec![T::zero(); slots * dim],
        };
        let hidden = 1..model.circuit().depth();
        self.layers = model.circuit().dims()[hidden].iter().map(layer).collect();
        self.columns = Vec::with_capacity(count);
    }

    /// Finds the columns of a batch's examples.
    ///
    /// # Errors
    /// [`Error::UnknownExample`] for one that was not among the model's when the phase began (or if
    /// it never began: a scheme that wraps another must forward [`Scheme::start`](crate::training::Scheme)).
    pub(super) fn locate(&mut self, examples: &[u64]) -> Result<(), Error> {
        self.columns.clear();
        if examples == self.ids {
            self.columns.extend(0..self.ids.len());
            return Ok(());
        }
        for &example in examples {
            let found = self.ids.binary_search(&example);
            let count = self.ids.len();
            let column = found.map_err(|_| Error::UnknownExample { example, count })?;
            self.columns.push(column);
        }
        Ok(())
    }

    /// The columns of the batch, and the values of all examples, by hidden layer.
    pub(super) fn parts(&mut self) -> (&[usize], &mut [LayerMemory<T>]) {
        (&self.columns, &mut self.layers)
    }

    /// Whether the batch is all examples, in their order.
    pub(super) fn is_whole(&self) -> bool {
        self.columns.len() == self.ids.len() && self.columns.is_sorted()
    }

    /// Number of hidden layers.
    pub(super) fn hidden(&self) -> usize {
        self.layers.len()
    }

    /// The values of z_t's layer for each example of the batch, in order, of a memory of one slot.
    pub(super) fn batch(&self, t: usize) -> impl Iterator<Item = &[T]> {
        let LayerMemory { dim, values, .. } = &self.layers[t - 1];
        let columns = self.columns.iter();
        columns.map(move |&column| &values[column * dim..(column + 1) * dim])
    }

    /// Calls `change` on the values of z_t's layer for each example of the batch, in order.
    pub(super) fn update(&mut self, t: usize, mut change: impl FnMut(usize, &mut [T])) {
        for (i, &column) in self.columns.iter().enumerate() {
            self.layers[t - 1].update(column, |own| change(i, own));
        }
    }
}

impl<T: Scalar> LayerMemory<T> {
    /// Calls `change` on the arrays of the example in `column`, one after another.
    pub(super) fn update(&mut self, column: usize, change: impl FnOnce(&mut [T])) {
        let (slots, dim) = (self.slots, self.dim);
        if slots <= 1 {
            return change(&mut self.values[slots * column * dim..slots * (column + 1) * dim]);
        }
        let mut example = std::mem::take(&mut self.example);
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
        self.example = example;
    }

    /// How many examples can be updated at once, for about `values` values.
    pub(super) fn examples_at_once(&self, values: usize) -> usize {
        match self.slots {
            // Without a second array there are no groups to keep to.
            0 | 1 => (values / self.dim).max(1),
            _ => GROUP,
        }
    }

    /// The arrays of the p-th part of `examples` examples, one after another: of a group, or of any
    /// number where there is one slot at most.
    pub(super) fn part(&mut self, p: usize, examples: usize) -> &mut [T] {
        let size = examples * self.slots * self.dim;
        let end = ((p + 1) * size).min(self.values.len());
        &mut self.values[p * size..end]
    }
}
