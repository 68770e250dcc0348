//! A layer with some of its inputs or outputs held at given values.

use std::sync::Arc;

use nalgebra::DMatrix;
use rand::Rng;

use crate::kernel::{Scalar, Write};
use crate::layer::{Context, Layer, ParameterGroup, Point, Scratch, Shape};

/// f with clamped inputs held at v and free outputs held at y: with masks c (clamped) and e (free),
///
/// ẑ = (1 − e) f((1 − c) z + c v, θ) + e y.
///
/// Examples are looked up by their ids, which are 0, 1, … in the model that this layer is made for.
/// The layer is evaluated as in a prediction.
#[derive(Debug)]
pub(super) struct Clamped<T: Scalar> {
    t: usize,
    layer: Arc<dyn Layer<T>>,
    inputs: Option<Held<T>>,
    outputs: Option<Held<T>>,
}

/// Values of all examples, and which of them are free.
#[derive(Debug)]
pub(super) struct Held<T> {
    dim: usize,
    values: Vec<T>,
    free: Vec<bool>,
}

impl<T: Scalar> Held<T> {
    pub(super) fn new(values: &DMatrix<T>, free: Vec<bool>) -> Self {
        Self {
            dim: values.nrows(),
            values: values.as_slice().to_vec(),
            free,
        }
    }

    /// Calls `change` with every entry of `columns` that is free (or, if `free` is false, clamped) and
    /// its held value.
    fn each(&self, free: bool, ids: &[u64], columns: &mut [T], change: impl Fn(&mut T, T)) {
        for (&id, column) in ids.iter().zip(columns.chunks_exact_mut(self.dim)) {
            let own = id as usize * self.dim..(id as usize + 1) * self.dim;
            let held = self.values[own.clone()].iter().zip(&self.free[own]);
            for (entry, (&value, &is_free)) in column.iter_mut().zip(held) {
                if is_free == free {
                    change(entry, value);
                }
            }
        }
    }
}

impl<T: Scalar> Clamped<T> {
    /// Layer t, with nothing held.
    pub(super) fn new(t: usize, layer: Arc<dyn Layer<T>>) -> Self {
        Self {
            t,
            layer,
            inputs: None,
            outputs: None,
        }
    }

    /// Holds the clamped entries of its input.
    pub(super) fn with_inputs(self, held: Held<T>) -> Self {
        Self {
            inputs: Some(held),
            ..self
        }
    }

    /// Holds the free entries of its output.
    pub(super) fn with_outputs(self, held: Held<T>) -> Self {
        Self {
            outputs: Some(held),
            ..self
        }
    }

    fn context(&self, context: &Context<'_>) -> Context<'static> {
        Context::inference(context.seed, self.t).with_execution(context.execution)
    }

    /// Lengths of the copies of a batch's input and output; 0 where nothing is held, so that no copy is kept.
    fn kept(&self, batch: usize) -> [usize; 2] {
        let kept = |held: &Option<Held<T>>, dim: usize| match held {
            Some(_) => dim.saturating_mul(batch),
            None => 0,
        };
        [
            kept(&self.inputs, self.layer.input_dim()),
            kept(&self.outputs, self.layer.output_dim()),
        ]
    }

    /// The point of the layer itself.
    fn point<'a>(&self, at: &Point<'a, T>) -> Point<'a, T> {
        let [inputs, outputs] = self.kept(at.context.examples.len());
        let (input, rest) = at.tape.split_at(inputs);
        let (output, tape) = rest.split_at(outputs);
        let input = if inputs == 0 { at.input } else { input };
        let output = if outputs == 0 { at.output } else { output };
        let context = Context {
            examples: &[],
            ..self.context(&at.context)
        };
        Point::new(context, at.parameters, input, output, tape)
    }
}

impl<T: Scalar> Layer<T> for Clamped<T> {
    fn input_shape(&self) -> Shape {
        self.layer.input_shape()
    }

    fn output_shape(&self) -> Shape {
        self.layer.output_shape()
    }

    fn parameters(&self) -> Vec<ParameterGroup> {
        self.layer.parameters()
    }

    fn initialize(&self, parameters: &mut [T], rng: &mut dyn Rng) {
        self.layer.initialize(parameters, rng);
    }

    fn scratch(&self, batch: usize) -> Scratch {
        let own = self.layer.scratch(batch);
        let [inputs, outputs] = self.kept(batch);
        let kept = inputs.saturating_add(outputs);
        Scratch::new(own.tape.saturating_add(kept), own.work.saturating_add(kept))
            .with_bound(own.bound)
    }

    fn cost(&self) -> Option<usize> {
        self.layer.cost()
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
        let ids = context.examples;
        let [inputs, outputs] = self.kept(ids.len());
        let (kept, work) = work.split_at_mut(inputs + outputs);
        let (kept, tape) = match tape {
            Some(tape) => {
                let (kept, tape) = tape.split_at_mut(inputs + outputs);
                (kept, Some(tape))
            }
            None => (kept, None),
        };
        let (kept_input, kept_output) = kept.split_at_mut(inputs);
        let input = match &self.inputs {
            Some(held) => {
                kept_input.copy_from_slice(input);
                held.each(false, ids, kept_input, |z, value| *z = value);
                &*kept_input
            }
            None => input,
        };
        let context = self.context(context);
        self.layer
            .forward(&context, parameters, input, output, tape, work);
        if let Some(held) = &self.outputs {
            kept_output.copy_from_slice(output);
            held.each(true, ids, output, |z, value| *z = value);
        }
    }

    fn vjp(
        &self,
        at: &Point<'_, T>,
        cotangent: &[T],
        d_input: Write<'_, T>,
        d_parameters: Write<'_, T>,
        work: &mut [T],
    ) {
        let ids = at.context.examples;
        let [inputs, outputs] = self.kept(ids.len());
        let (gradient, work) = work.split_at_mut(inputs);
        let (masked, work) = work.split_at_mut(outputs);
        let cotangent = match &self.outputs {
            Some(held) => {
                masked.copy_from_slice(cotangent);
                held.each(true, ids, masked, |g, _| *g = T::zero());
                &*masked
            }
            None => cotangent,
        };
        let point = self.point(at);
        match &self.inputs {
            Some(held) if !d_input.is_skip() => {
                let whole = Write::Set(&mut *gradient);
                self.layer.vjp(&point, cotangent, whole, d_parameters, work);
                held.each(false, ids, gradient, |g, _| *g = T::zero());
                d_input.each(|i| gradient[i]);
            }
            _ => self
                .layer
                .vjp(&point, cotangent, d_input, d_parameters, work),
        }
    }

    fn jvp(
        &self,
        at: &Point<'_, T>,
        v_input: Option<&[T]>,
        v_parameters: Option<&[T]>,
        tangent: &mut [T],
        work: &mut [T],
    ) {
        let ids = at.context.examples;
        let [inputs, outputs] = self.kept(ids.len());
        let (direction, work) = work.split_at_mut(inputs);
        let (_, work) = work.split_at_mut(outputs);
        let v_input = match (&self.inputs, v_input) {
            (Some(held), Some(v)) => {
                direction.copy_from_slice(v);
                held.each(false, ids, direction, |v, _| *v = T::zero());
                Some(&*direction)
            }
            (_, v) => v,
        };
        let point = self.point(at);
        self.layer.jvp(&point, v_input, v_parameters, tangent, work);
        if let Some(held) = &self.outputs {
            held.each(true, ids, tangent, |v, _| *v = T::zero());
        }
    }

    fn curvature_bound(&self, parameters: &[T], work: &mut [T]) -> Option<T> {
        // A layer's own bound comes first, so that an example's step does not depend on whether others
        // have free inputs.
        let own = self.layer.curvature_bound(parameters, work);
        match &self.inputs {
            Some(held) if !held.free.contains(&true) => own.or(Some(T::zero())),
            _ => own,
        }
    }
}

#[cfg(test)]
#[path = "clamped_tests.rs"]
mod tests;
