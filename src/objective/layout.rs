//! Where θ and z stand in a flat vector.

use std::ops::Range;

use crate::check::{check_finite, check_length};
use crate::circuit::Circuit;
use crate::error::{Error, Quantity};
use crate::kernel::Scalar;

/// θ_0, …, θ_{T−1}, then z_1, …, z_{T−1}, each d_t × n column-major, one after another; one of the
/// two parts may be missing.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    /// Of θ_0, …, θ_{T−1}; empty if they are no part.
    pub(super) parameters: Vec<Range<usize>>,
    /// Of z_1, …, z_{T−1}; empty if they are no part.
    pub(super) targets: Vec<Range<usize>>,
    /// d_1, …, d_{T−1}.
    dims: Vec<usize>,
    dimension: usize,
}

impl Layout {
    /// θ alone.
    pub(super) fn of_parameters<T: Scalar>(circuit: &Circuit<T>) -> Self {
        let mut layout = Self::empty(circuit);
        for t in 0..circuit.depth() {
            let range = layout.next(circuit.parameters(t).len());
            layout.parameters.push(range);
        }
        layout
    }

    /// z of n examples alone.
    pub(super) fn of_targets<T: Scalar>(circuit: &Circuit<T>, n: usize) -> Self {
        let mut layout = Self::empty(circuit);
        layout.add_targets(n);
        layout
    }

    /// θ, then z of n examples.
    pub(super) fn joint<T: Scalar>(circuit: &Circuit<T>, n: usize) -> Self {
        let mut layout = Self::of_parameters(circuit);
        layout.add_targets(n);
        layout
    }

    fn empty<T: Scalar>(circuit: &Circuit<T>) -> Self {
        Self {
            parameters: Vec::new(),
            targets: Vec::new(),
            dims: circuit.dims()[1..circuit.depth()].to_vec(),
            dimension: 0,
        }
    }

    fn add_targets(&mut self, n: usize) {
        for i in 0..self.dims.len() {
            let range = self.next(self.dims[i] * n);
            self.targets.push(range);
        }
    }

    fn next(&mut self, length: usize) -> Range<usize> {
        let start = self.dimension;
        self.dimension += length;
        start..self.dimension
    }

    /// The length of the vector.
    pub(super) fn dimension(&self) -> usize {
        self.dimension
    }

    /// The range of z_t, t in 1..T.
    pub(super) fn target(&self, t: usize) -> Range<usize> {
        assert!(
            0 < t && t <= self.targets.len(),
            "z_{t} is not an auxiliary target"
        );
        self.targets[t - 1].clone()
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
