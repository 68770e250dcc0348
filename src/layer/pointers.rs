//! Pointers to layers are layers.

use std::sync::Arc;

use rand::Rng;

use super::{Affine, Context, Layer, ParameterGroup, Point, Scratch, Shape};
use crate::error::Error;
use crate::kernel::{Scalar, Write};

macro_rules! forwarded {
    ($($pointer:ty),*) => {$(
        /// Every method forwards to the layer.
        impl<T: Scalar, L: Layer<T> + ?Sized> Layer<T> for $pointer {
            fn input_shape(&self) -> Shape {
                (**self).input_shape()
            }

            fn output_shape(&self) -> Shape {
                (**self).output_shape()
            }

            fn input_dim(&self) -> usize {
                (**self).input_dim()
            }

            fn output_dim(&self) -> usize {
                (**self).output_dim()
            }

            fn parameters(&self) -> Vec<ParameterGroup> {
                (**self).parameters()
            }

            fn initialize(&self, parameters: &mut [T], rng: &mut dyn Rng) {
                (**self).initialize(parameters, rng);
            }

            fn scratch(&self, batch: usize) -> Scratch {
                (**self).scratch(batch)
            }

            fn cost(&self) -> Option<usize> {
                (**self).cost()
            }

            fn check_input(&self, input: &[T]) -> Result<(), Error> {
                (**self).check_input(input)
            }

            fn input_differentiable(&self) -> bool {
                (**self).input_differentiable()
            }

            fn forward(
                &self,
                context: &Context<'_>,
                parameters: &[T],
                input: &[T],
                output: &mut [T],
                tape: Option<&mut [T]>,
                work: &mut [T],
            ) {
                (**self).forward(context, parameters, input, output, tape, work);
            }

            fn vjp(
                &self,
                at: &Point<'_, T>,
                cotangent: &[T],
                d_input: Write<'_, T>,
                d_parameters: Write<'_, T>,
                work: &mut [T],
            ) {
                (**self).vjp(at, cotangent, d_input, d_parameters, work);
            }

            fn jvp(
                &self,
                at: &Point<'_, T>,
                v_input: Option<&[T]>,
                v_parameters: Option<&[T]>,
                tangent: &mut [T],
                work: &mut [T],
            ) {
                (**self).jvp(at, v_input, v_parameters, tangent, work);
            }

            fn curvature_bound(&self, parameters: &[T], work: &mut [T]) -> Option<T> {
                (**self).curvature_bound(parameters, work)
            }

            fn target_range(&self) -> (f64, f64) {
                (**self).target_range()
            }

            fn affine(&self) -> Option<Affine> {
                (**self).affine()
            }

            fn unfold(&self, input: &[T], patches: &mut [T]) {
                (**self).unfold(input, patches);
            }
        }
    )*};
}

forwarded!(&L, Box<L>, Arc<L>);
