//! A diagonal layer whose scales are positive by construction.

use layerwise::kernel::Write;
use layerwise::layer::{Context, ParameterGroup, Point, Scratch, Shape};
use layerwise::rand::Rng;
use layerwise::{Layer, Scalar};

/// ẑᵢ = e^{θᵢ} zᵢ.
#[derive(Debug, Clone, Copy)]
pub struct ExpScaling {
    /// Rows of input and output.
    pub dim: usize,
}

impl<T: Scalar> Layer<T> for ExpScaling {
    fn input_shape(&self) -> Shape {
        self.dim.into()
    }

    fn output_shape(&self) -> Shape {
        self.dim.into()
    }

    fn parameters(&self) -> Vec<ParameterGroup> {
        ParameterGroup::tile([ParameterGroup::new("log scales", [self.dim])])
    }

    fn initialize(&self, parameters: &mut [T], _rng: &mut dyn Rng) {
        parameters.fill(T::zero());
    }

    fn scratch(&self, _batch: usize) -> Scratch {
        Scratch::NONE
    }

    fn forward(
        &self,
        _context: &Context<'_>,
        parameters: &[T],
        input: &[T],
        output: &mut [T],
        _tape: Option<&mut [T]>,
        _work: &mut [T],
    ) {
        let columns = output.chunks_exact_mut(self.dim);
        for (output, input) in columns.zip(input.chunks_exact(self.dim)) {
            for ((o, &z), &log_scale) in output.iter_mut().zip(input).zip(parameters) {
                *o = log_scale.exp() * z;
            }
        }
    }

    fn vjp(
        &self,
        at: &Point<'_, T>,
        cotangent: &[T],
        d_input: Write<'_, T>,
        d_parameters: Write<'_, T>,
        _work: &mut [T],
    ) {
        d_input.each(|i| at.parameters[i % self.dim].exp() * cotangent[i]);
        // ∂ẑ/∂θ is ẑ itself.
        d_parameters.each(|row| {
            let column = |c: usize| cotangent[c + row] * at.output[c + row];
            let starts = (0..at.output.len()).step_by(self.dim);
            starts.fold(T::zero(), |sum, start| sum + column(start))
        });
    }

    fn jvp(
        &self,
        at: &Point<'_, T>,
        v_input: Option<&[T]>,
        v_parameters: Option<&[T]>,
        tangent: &mut [T],
        _work: &mut [T],
    ) {
        for (i, t) in tangent.iter_mut().enumerate() {
            let row = i % self.dim;
            let from_input = v_input.map_or(T::zero(), |v| at.parameters[row].exp() * v[i]);
            let from_parameters = v_parameters.map_or(T::zero(), |v| at.output[i] * v[row]);
            *t = from_input + from_parameters;
        }
    }

    fn curvature_bound(&self, parameters: &[T], _work: &mut [T]) -> Option<T> {
        let scales = parameters.iter().map(|p| p.exp());
        let largest = scales.fold(T::zero(), |top, s| if s > top { s } else { top });
        Some(largest * largest)
    }
}
