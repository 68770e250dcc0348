//! Several layers as one decoupled unit.

use std::sync::Arc;

use rand::Rng;

use super::{Context, Layer, ParameterGroup, Point, Scratch, parameter_count, validate};
use crate::error::Error;
use crate::kernel::{Scalar, Write};

/// Layers composed into one: f = f_{k−1} ∘ … ∘ f_0, with ordinary backprop inside.
///
/// The unit has no auxiliary targets between its layers. A circuit made of one unit of all its
/// layers is trained exactly as by backprop; units of a few layers each lie between that and the
/// fully decoupled circuit.
///
/// Parameters: those of the layers, one after another, with names "0.weights", "1.weights", ….
///
/// # Examples
/// ```
/// use layerwise::Layer;
/// use layerwise::layer::{Activation, Dense, Sequential};
///
/// let unit: Sequential<f64> = Sequential::new(vec![
///     Box::new(Dense::new(8, 16, Activation::Relu)?),
///     Box::new(Dense::new(16, 4, Activation::Tanh)?),
/// ])?;
/// assert_eq!((unit.input_dim(), unit.output_dim()), (8, 4));
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Sequential<T: Scalar> {
    layers: Vec<Arc<dyn Layer<T>>>,
    /// Where layer i's parameters start; one more entry for the end.
    offsets: Vec<usize>,
}

/// Where a layer's values stand in the unit's tape: its output (but for the last layer), its tape.
struct Place {
    output: std::ops::Range<usize>,
    tape: std::ops::Range<usize>,
}

impl<T: Scalar> Sequential<T> {
    /// The composition of `layers`, first applied first.
    ///
    /// # Errors
    /// [`Error::NoLayers`], [`Error::LayerMismatch`], [`Error::InputNotDifferentiable`] for such a
    /// layer behind another, or [`Error::ParameterLayout`]; layers are counted within the unit.
    pub fn new(layers: Vec<Box<dyn Layer<T>>>) -> Result<Self, Error> {
        check_chain(&layers, "sequential layer")?;
        let mut offsets = vec![0];
        for layer in &layers {
            offsets.push(offsets[offsets.len() - 1] + parameter_count(layer.as_ref()));
        }
        let layers = layers.into_iter().map(Arc::from).collect();
        Ok(Self { layers, offsets })
    }

    fn last(&self) -> usize {
        self.layers.len() - 1
    }

    fn batch(&self, input: &[T]) -> usize {
        input.len() / self.layers[0].input_dim()
    }

    fn own<'a>(&self, i: usize, parameters: &'a [T]) -> &'a [T] {
        &parameters[self.offsets[i]..self.offsets[i + 1]]
    }

    /// Every layer draws from a stream of its own.
    fn context<'a>(&self, i: usize, context: &Context<'a>) -> Context<'a> {
        Context {
            seed: context.seed.rotate_left(17) ^ (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            ..*context
        }
    }

    fn places(&self, batch: usize) -> impl Iterator<Item = Place> {
        let mut end = 0;
        self.layers.iter().enumerate().map(move |(i, layer)| {
            let start = end;
            if i < self.last() {
                end += layer.output_dim() * batch;
            }
            let tape = end..end + layer.scratch(batch).tape;
            let output = start..end;
            end = tape.end;
            Place { output, tape }
        })
    }

    fn place(&self, i: usize, batch: usize) -> Place {
        self.places(batch).nth(i).expect("the layer exists")
    }

    /// The largest array between two layers.
    fn widest(&self, batch: usize) -> usize {
        let hidden = &self.layers[..self.last()];
        let widest = hidden.iter().map(|layer| layer.output_dim()).max();
        widest.unwrap_or(0) * batch
    }

    /// The point at which layer i of the unit stands.
    fn point<'a>(&self, i: usize, at: &Point<'a, T>) -> Point<'a, T> {
        let batch = self.batch(at.input);
        let place = self.place(i, batch);
        Point {
            context: self.context(i, &at.context),
            parameters: self.own(i, at.parameters),
            input: match i {
                0 => at.input,
                _ => &at.tape[self.place(i - 1, batch).output],
            },
            output: if i == self.last() {
                at.output
            } else {
                &at.tape[place.output]
            },
            tape: &at.tape[place.tape],
        }
    }
}

/// Checks that layers follow one another; `what` names their owner in the error.
pub(crate) fn check_chain<T: Scalar>(
    layers: &[Box<dyn Layer<T>>],
    what: &'static str,
) -> Result<(), Error> {
    if layers.is_empty() {
        return Err(Error::NoLayers { what });
    }
    for (number, layer) in layers.iter().enumerate() {
        validate(layer.as_ref(), number)?;
        if number == 0 {
            continue;
        }
        let expected = layers[number - 1].output_dim();
        let found = layer.input_dim();
        if expected != found {
            return Err(Error::LayerMismatch {
                layer: number,
                expected,
                found,
            });
        }
        if !layer.input_differentiable() {
            return Err(Error::InputNotDifferentiable { layer: number });
        }
    }
    Ok(())
}

impl<T: Scalar> Layer<T> for Sequential<T> {
    fn input_dim(&self) -> usize {
        self.layers[0].input_dim()
    }

    fn output_dim(&self) -> usize {
        self.layers[self.last()].output_dim()
    }

    fn parameters(&self) -> Vec<ParameterGroup> {
        let mut groups = Vec::new();
        for (i, layer) in self.layers.iter().enumerate() {
            for mut group in layer.parameters() {
                group.name = format!("{i}.{}", group.name);
                group.range.start += self.offsets[i];
                group.range.end += self.offsets[i];
                groups.push(group);
            }
        }
        groups
    }

    fn initialize(&self, parameters: &mut [T], rng: &mut dyn Rng) {
        for (i, layer) in self.layers.iter().enumerate() {
            layer.initialize(&mut parameters[self.offsets[i]..self.offsets[i + 1]], rng);
        }
    }

    fn scratch(&self, batch: usize) -> Scratch {
        let work = self.layers.iter().map(|layer| layer.scratch(batch).work);
        Scratch {
            tape: self.place(self.last(), batch).tape.end,
            work: 2 * self.widest(batch) + work.max().unwrap_or(0),
        }
    }

    fn check_input(&self, input: &[T]) -> Result<(), Error> {
        self.layers[0].check_input(input)
    }

    fn input_differentiable(&self) -> bool {
        self.layers[0].input_differentiable()
    }

    fn forward(
        &self,
        context: &Context<'_>,
        parameters: &[T],
        input: &[T],
        output: &mut [T],
        mut tape: Option<&mut [T]>,
        work: &mut [T],
    ) {
        let batch = self.batch(input);
        let widest = self.widest(batch);
        let (mut from, rest) = work.split_at_mut(widest);
        let (mut to, work) = rest.split_at_mut(widest);
        for (i, layer) in self.layers.iter().enumerate() {
            let context = self.context(i, context);
            let own = self.own(i, parameters);
            let inputs = layer.input_dim() * batch;
            let outputs = layer.output_dim() * batch;
            if let Some(tape) = tape.as_deref_mut() {
                let place = self.place(i, batch);
                let (before, rest) = tape.split_at_mut(place.output.start);
                let (result, rest) = rest.split_at_mut(place.output.len());
                let input = match i {
                    0 => input,
                    _ => &before[self.place(i - 1, batch).output],
                };
                let result = if i == self.last() {
                    &mut *output
                } else {
                    result
                };
                let tape = &mut rest[..place.tape.len()];
                layer.forward(&context, own, input, result, Some(tape), work);
            } else {
                let input = if i == 0 { input } else { &from[..inputs] };
                let result = if i == self.last() {
                    &mut *output
                } else {
                    &mut to[..outputs]
                };
                layer.forward(&context, own, input, result, None, work);
                std::mem::swap(&mut from, &mut to);
            }
        }
    }

    fn vjp(
        &self,
        at: &Point<'_, T>,
        cotangent: &[T],
        mut d_input: Write<'_, T>,
        mut d_parameters: Write<'_, T>,
        work: &mut [T],
    ) {
        if d_input.is_skip() && d_parameters.is_skip() {
            return;
        }
        let batch = self.batch(at.input);
        let widest = self.widest(batch);
        let (mut from, rest) = work.split_at_mut(widest);
        let (mut to, work) = rest.split_at_mut(widest);
        for (i, layer) in self.layers.iter().enumerate().rev() {
            let g = if i == self.last() {
                cotangent
            } else {
                &from[..layer.output_dim() * batch]
            };
            let inputs = layer.input_dim() * batch;
            let d_own = d_parameters.part(self.offsets[i]..self.offsets[i + 1]);
            let dz = if i == 0 {
                std::mem::replace(&mut d_input, Write::Skip)
            } else {
                Write::Set(&mut to[..inputs])
            };
            layer.vjp(&self.point(i, at), g, dz, d_own, work);
            std::mem::swap(&mut from, &mut to);
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
        let batch = self.batch(at.input);
        let widest = self.widest(batch);
        let (mut from, rest) = work.split_at_mut(widest);
        let (mut to, work) = rest.split_at_mut(widest);
        for (i, layer) in self.layers.iter().enumerate() {
            let v = match i {
                0 => v_input,
                _ => Some(&from[..layer.input_dim() * batch]),
            };
            let own = v_parameters.map(|v| self.own(i, v));
            let out = if i == self.last() {
                &mut *tangent
            } else {
                &mut to[..layer.output_dim() * batch]
            };
            layer.jvp(&self.point(i, at), v, own, out, work);
            std::mem::swap(&mut from, &mut to);
        }
    }

    fn bound_scratch(&self) -> usize {
        let lengths = self.layers.iter().map(|layer| layer.bound_scratch());
        lengths.max().unwrap_or(0)
    }

    /// The product of the layers' bounds.
    fn curvature_bound(&self, parameters: &[T], work: &mut [T]) -> Option<T> {
        let mut bound = T::one();
        for (i, layer) in self.layers.iter().enumerate() {
            bound *= layer.curvature_bound(self.own(i, parameters), work)?;
        }
        Some(bound)
    }

    fn target_range(&self) -> (f64, f64) {
        self.layers[self.last()].target_range()
    }
}
