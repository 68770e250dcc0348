//! Pointers to layers are layers.

use rand::Rng;

use super::{Affine, Context, Layer, ParameterGroup, Point, Scratch, Shape};
use crate::error::Error;
use crate::kernel::{Scalar, Write};
use crate::pointers::through_pointers;

through_pointers!(Layer {
    fn input_shape(&self) -> Shape;
    fn output_shape(&self) -> Shape;
    fn input_dim(&self) -> usize;
    fn output_dim(&self) -> usize;
    fn parameters(&self) -> Vec<ParameterGroup>;
    fn initialize(&self, parameters: &mut [T], rng: &mut dyn Rng);
    fn scratch(&self, batch: usize) -> Scratch;
    fn cost(&self) -> Option<usize>;
    fn check_input(&self, input: &[T]) -> Result<(), Error>;
    fn input_differentiable(&self) -> bool;
    fn forward(
        &self,
        context: &Context<'_>,
        parameters: &[T],
        input: &[T],
        output: &mut [T],
        tape: Option<&mut [T]>,
        work: &mut [T],
    );
    fn vjp(
        &self,
        at: &Point<'_, T>,
        cotangent: &[T],
        d_input: Write<'_, T>,
        d_parameters: Write<'_, T>,
        work: &mut [T],
    );
    fn jvp(
        &self,
        at: &Point<'_, T>,
        v_input: Option<&[T]>,
        v_parameters: Option<&[T]>,
        tangent: &mut [T],
        work: &mut [T],
    );
    fn curvature_bound(&self, parameters: &[T], work: &mut [T]) -> Option<T>;
    fn target_range(&self) -> (f64, f64);
    fn affine(&self) -> Option<Affine>;
    fn unfold(&self, input: &[T], patches: &mut [T]);
});
