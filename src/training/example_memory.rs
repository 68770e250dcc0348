//! What a scheme keeps of every example, by hidden layer.

use crate::decoupled::DecoupledCircuit;
use crate::{Error, Scalar};

/// Values of every example of a model for each hidden layer, found by the examples' lasting
/// numbers, so that they survive shuffled minibatches.
#[derive(Debug, Clone)]
pub(super) struct ExampleMemory<T> {
    /// The examples' numbers in increasing order, one a column.
    ids: Vec<u64>,
    /// Values of one example, by hidden layer.
    lengths: Vec<usize>,
    pub(super) values: Vec<Vec<T>>,
    /// Columns of the batch under way.
    columns: Vec<usize>,
}

impl<T: Scalar> ExampleMemory<T> {
    pub(super) fn new() -> Self {
        Self {
            ids: Vec::new(),
            lengths: Vec::new(),
            values: Vec::new(),
            columns: Vec::new(),
        }
    }

    /// `slots` values for every unit of every hidden layer, all zero.
    pub(super) fn start(&mut self, model: &DecoupledCircuit<T>, slots: usize) {
        let hidden = 1..model.circuit().depth();
        let dims = &model.circuit().dims()[hidden];
        self.ids = model.examples().to_vec();
        self.lengths = dims.iter().map(|dim| slots * dim).collect();
        let arrays = self.lengths.iter();
        let zeros = |length: &usize| vec![T::zero(); length * self.ids.len()];
        self.values = arrays.map(zeros).collect();
        self.columns = Vec::with_capacity(self.ids.len());
    }

    /// Finds the columns of a batch's examples.
    ///
    /// # Errors
    /// [`Error::UnknownExample`] for one that was not among the model's when the phase began (or if
    /// it never began: a scheme that wraps another must forward [`Scheme::start`](crate::Scheme)).
    pub(super) fn locate(&mut self, examples: &[u64]) -> Result<(), Error> {
        self.columns.clear();
        for &example in examples {
            let found = self.ids.binary_search(&example);
            let count = self.ids.len();
            let column = found.map_err(|_| Error::UnknownExample { example, count })?;
            self.columns.push(column);
        }
        Ok(())
    }

    /// The columns of the batch, and the values of all examples.
    pub(super) fn columns_and_values(&mut self) -> (&[usize], &mut [Vec<T>]) {
        (&self.columns, &mut self.values)
    }

    /// The values of z_t's layer for each example of the batch, in order.
    pub(super) fn batch(&self, t: usize) -> impl Iterator<Item = &[T]> {
        let (values, length) = (&self.values[t - 1], self.lengths[t - 1]);
        self.columns
            .iter()
            .map(move |&column| &values[column * length..(column + 1) * length])
    }

    /// Calls `change` on the values of z_t's layer for each example of the batch, in order.
    pub(super) fn update(&mut self, t: usize, mut change: impl FnMut(usize, &mut [T])) {
        let (values, length) = (&mut self.values[t - 1], self.lengths[t - 1]);
        for (i, &column) in self.columns.iter().enumerate() {
            change(i, &mut values[column * length..(column + 1) * length]);
        }
    }
}
