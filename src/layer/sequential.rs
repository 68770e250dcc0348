//! Several layers as one decoupled unit.

use std::ops::Range;
use std::sync::Arc;

use rand::Rng;

use super::{Context, Layer, ParameterGroup, Point, Scratch, Shape, parameter_count, validate};
use crate::description::Description;
use crate::error::Error;
use crate::kernel::{Scalar, Write, exponent, scale_by_power, smallest, unit_of};

/// Layers composed into one: f = f_{k−1} ∘ … ∘ f_0, with ordinary backprop inside.
///
/// The unit has no auxiliary targets between its layers. A circuit that is a single unit of all its
/// layers trains exactly as with backprop. Units of a few layers each are intermediate between
/// backprop and the fully decoupled circuit.
///
/// Any layer can be inside, also one without parameters, such as pooling or [`Activate`](super::Activate).
///
/// Parameters: those of the layers, one after another, with the names "0.weights", "1.weights", ….
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
    /// Where layer i's parameters start; the last entry is the end.
    offsets: Vec<usize>,
    /// Dimension of layer i's input; the last entry is that of the output.
    dims: Vec<usize>,
}

/// The place of a layer's values in the unit's tape: its output (except for the last layer) and its
/// tape.
struct Place {
    output: Range<usize>,
    tape: Range<usize>,
}

impl<T: Scalar> Sequential<T> {
    /// The composition of `layers`, in the order in which they are applied.
    ///
    /// # Errors
    /// [`Error::NoLayers`], [`Error::LayerMismatch`], [`Error::InputNotDifferentiable`] for such a
    /// layer that is not the first, or [`Error::ParameterLayout`]. Layers are counted within the
    /// unit.
    pub fn new(layers: Vec<Box<dyn Layer<T>>>) -> Result<Self, Error> {
        Self::of(layers.into_iter().map(Arc::from).collect())
    }

    /// [`Sequential::new`] of shared layers.
    pub(crate) fn of(layers: Vec<Arc<dyn Layer<T>>>) -> Result<Self, Error> {
        check_chain(&layers, "sequential layer")?;
        let (mut offsets, mut dims) = (vec![0_usize], vec![layers[0].input_dim()]);
        for layer in &layers {
            let count = parameter_count(layer.as_ref());
            offsets.push(offsets[offsets.len() - 1].saturating_add(count));
            dims.push(layer.output_dim());
        }
        Ok(Self {
            layers,
            offsets,
            dims,
        })
    }

    fn last(&self) -> usize {
        self.layers.len() - 1
    }

    fn batch(&self, input: &[T]) -> usize {
        input.len() / self.dims[0]
    }

    fn own<'a>(&self, i: usize, parameters: &'a [T]) -> &'a [T] {
        &parameters[self.offsets[i]..self.offsets[i + 1]]
    }

    /// The context of layer i, which gives every layer its own random stream.
    fn context<'a>(&self, i: usize, context: &Context<'a>) -> Context<'a> {
        Context {
            // From 1, so that the first layer of a unit within a unit has a stream of its own too.
            seed: context.seed.rotate_left(17) ^ (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            ..*context
        }
    }

    /// How many values of layer i's output the unit's tape holds: none for the last layer, since
    /// its output is that of the unit.
    fn kept(&self, i: usize, batch: usize) -> usize {
        match i < self.last() {
            true => self.dims[i + 1].saturating_mul(batch),
            false => 0,
        }
    }

    /// The place that begins at `start`.
    fn place(&self, i: usize, batch: usize, start: usize) -> Place {
        let output = start..start + self.kept(i, batch);
        let tape = output.end..output.end + self.layers[i].scratch(batch).tape;
        Place { output, tape }
    }

    /// The size of the largest array between two layers.
    fn widest(&self, batch: usize) -> usize {
        let widest = self.dims[1..=self.last()].iter().max();
        widest.unwrap_or(&0).saturating_mul(batch)
    }

    /// The point of layer i of the unit, whose values end at `end` in the unit's tape; also returns
    /// where they begin.
    fn point<'a>(&self, i: usize, at: &Point<'a, T>, end: usize) -> (Point<'a, T>, usize) {
        let batch = self.batch(at.input);
        let tape = |i: usize| self.layers[i].scratch(batch).tape;
        let start = end - tape(i) - self.kept(i, batch);
        let place = self.place(i, batch, start);
        let input = match i {
            0 => at.input,
            _ => {
                let end = start - tape(i - 1);
                &at.tape[end - self.kept(i - 1, batch)..end]
            }
        };
        let output = match i < self.last() {
            true => &at.tape[place.output],
            false => at.output,
        };
        let (context, own) = (self.context(i, &at.context), self.own(i, at.parameters));
        let point = Point::new(context, own, input, output, &at.tape[place.tape]);
        (point, start)
    }
}

/// Whether the outputs of the first layer can be inputs of the second: the same shape, or one of a
/// single axis and the same size.
fn fits<T: Scalar>(first: &dyn Layer<T>, second: &dyn Layer<T>) -> bool {
    let (output, input) = (first.output_shape(), second.input_shape());
    let several = |shape: Shape| shape.extents().len() > 1;
    first.output_dim() == second.input_dim()
        && (output == input || !several(output) || !several(input))
}

/// Checks that the layers form a chain. `what` names their owner in errors.
pub(crate) fn check_chain<T: Scalar>(
    layers: &[Arc<dyn Layer<T>>],
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
        let (expected, found) = (&layers[number - 1], layer);
        if !fits(expected.as_ref(), found.as_ref()) {
            return Err(Error::LayerMismatch {
                owner: what,
                layer: number,
                expected: expected.output_shape().extents().to_vec(),
                found: found.input_shape().extents().to_vec(),
            });
        }
        if !layer.input_differentiable() {
            return Err(Error::InputNotDifferentiable { layer: number });
        }
    }
    Ok(())
}

impl<T: Scalar> Layer<T> for Sequential<T> {
    fn input_shape(&self) -> Shape {
        self.layers[0].input_shape()
    }

    fn output_shape(&self) -> Shape {
        self.layers[self.last()].output_shape()
    }

    fn input_dim(&self) -> usize {
        self.dims[0]
    }

    fn output_dim(&self) -> usize {
        self.dims[self.last() + 1]
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
        // Query each layer only once; otherwise nested units would be queried 2ᵏ times.
        let mut scratch = Scratch::NONE;
        for (i, layer) in self.layers.iter().enumerate() {
            let own = layer.scratch(batch);
            let held = self.kept(i, batch).saturating_add(own.tape);
            scratch.tape = scratch.tape.saturating_add(held);
            scratch.work = scratch.work.max(own.work);
            scratch.bound = scratch.bound.max(own.bound);
        }
        let between = self.widest(batch).saturating_mul(2);
        scratch.work = scratch.work.saturating_add(between);
        scratch
    }

    /// The sum of the layers' costs, if all are known.
    fn cost(&self) -> Option<usize> {
        let mut costs = self.layers.iter().map(|layer| layer.cost());
        costs.try_fold(0_usize, |sum, own| Some(sum.saturating_add(own?)))
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
        let (mut start, mut last_output) = (0, 0..0);
        for (i, layer) in self.layers.iter().enumerate() {
            let context = self.context(i, context);
            let own = self.own(i, parameters);
            let (inputs, outputs) = (self.dims[i] * batch, self.dims[i + 1] * batch);
            if let Some(tape) = tape.as_deref_mut() {
                let place = self.place(i, batch, start);
                let (before, rest) = tape.split_at_mut(start);
                let (result, rest) = rest.split_at_mut(place.output.len());
                let input = if i == 0 { input } else { &before[last_output] };
                let result = if i == self.last() {
                    &mut *output
                } else {
                    result
                };
                let tape = &mut rest[..place.tape.len()];
                layer.forward(&context, own, input, result, Some(tape), work);
                (start, last_output) = (place.tape.end, place.output);
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
        let mut end = at.tape.len();
        for (i, layer) in self.layers.iter().enumerate().rev() {
            let g = if i == self.last() {
                cotangent
            } else {
                &from[..self.dims[i + 1] * batch]
            };
            let inputs = self.dims[i] * batch;
            let (point, start) = self.point(i, at, end);
            end = start;
            let d_own = d_parameters.part(self.offsets[i]..self.offsets[i + 1]);
            let dz = if i == 0 {
                std::mem::replace(&mut d_input, Write::Skip)
            } else {
                Write::Set(&mut to[..inputs])
            };
            layer.vjp(&point, g, dz, d_own, work);
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
        let mut start = 0;
        for (i, layer) in self.layers.iter().enumerate() {
            let v = match i {
                0 => v_input,
                _ => Some(&from[..self.dims[i] * batch]),
            };
            let own = v_parameters.map(|v| self.own(i, v));
            let out = if i == self.last() {
                &mut *tangent
            } else {
                &mut to[..self.dims[i + 1] * batch]
            };
            start = self.place(i, batch, start).tape.end;
            let (point, _) = self.point(i, at, start);
            layer.jvp(&point, v, own, out, work);
            std::mem::swap(&mut from, &mut to);
        }
    }

    /// The product of the layers' bounds. It is infinite if any factor is, and 0 only if a factor
    /// is 0, so that overflow or underflow cannot make the bound too small. Nor can overflow or
    /// underflow in a partial product: powers of two are kept apart.
    fn curvature_bound(&self, parameters: &[T], work: &mut [T]) -> Option<T> {
        let (mut product, mut power) = (T::one(), 0.0);
        let (mut infinite, mut zero) = (false, false);
        for (i, layer) in self.layers.iter().enumerate() {
            let bound = layer.curvature_bound(self.own(i, parameters), work)?;
            infinite = infinite || !bound.is_finite();
            zero = zero || bound.is_zero();
            let unit = unit_of(&[bound]);
            product *= bound / unit;
            let carried = unit_of(&[product]);
            product /= carried;
            power += exponent(&[unit, carried]);
        }
        Some(match (infinite, zero) {
            (true, _) => T::one() / T::zero(),
            (false, true) => T::zero(),
            (false, false) => {
                let mut bound = [product];
                scale_by_power(&mut bound, power);
                bound[0].max(smallest())
            }
        })
    }

    fn target_range(&self) -> (f64, f64) {
        self.layers[self.last()].target_range()
    }

    fn description(&self) -> Option<Description> {
        let layers: Option<Vec<_>> = self.layers.iter().map(|own| own.description()).collect();
        Some(Description::new("Sequential").with("layers", layers?))
    }
}
