//! The mean of the free inputs.

use rand::Rng;

use crate::kernel::{Scalar, Write};
use crate::layer::{Context, Layer, ParameterGroup, Point, Scratch, Shape};

/// ẑ = m for any input. The input is a single value that is never read.
#[derive(Debug)]
pub(super) struct Prior<T> {
    mean: Vec<T>,
}

impl<T> Prior<T> {
    pub(super) fn new(mean: Vec<T>) -> Self {
        Self { mean }
    }
}

impl<T: Scalar> Layer<T> for Prior<T> {
    fn input_shape(&self) -> Shape {
        1.into()
    }

    fn output_shape(&self) -> Shape {
        self.mean.len().into()
    }

    fn parameters(&self) -> Vec<ParameterGroup> {
        Vec::new()
    }

    fn initialize(&self, _parameters: &mut [T], _rng: &mut dyn Rng) {}

    fn scratch(&self, _batch: usize) -> Scratch {
        Scratch::NONE
    }

    fn cost(&self) -> Option<usize> {
        Some(self.mean.len())
    }

    fn forward(
        &self,
        _context: &Context<'_>,
        _parameters: &[T],
        _input: &[T],
        output: &mut [T],
        _tape: Option<&mut [T]>,
        _work: &mut [T],
    ) {
        for column in output.chunks_exact_mut(self.mean.len()) {
            column.copy_from_slice(&self.mean);
        }
    }

    fn vjp(
        &self,
        _at: &Point<'_, T>,
        _cotangent: &[T],
        d_input: Write<'_, T>,
        _d_parameters: Write<'_, T>,
        _work: &mut [T],
    ) {
        d_input.each(|_| T::zero());
    }

    fn jvp(
        &self,
        _at: &Point<'_, T>,
        _v_input: Option<&[T]>,
        _v_parameters: Option<&[T]>,
        tangent: &mut [T],
        _work: &mut [T],
    ) {
        tangent.fill(T::zero());
    }

    fn curvature_bound(&self, _parameters: &[T], _work: &mut [T]) -> Option<T> {
        Some(T::zero())
    }
}
