//! The fully connected layer.

use std::ops::Range;

use rand::Rng;

use super::{Activation, Affine, Context, Layer, ParameterGroup, Point, Scratch};
use crate::error::Error;
use crate::init::Initializer;
use crate::kernel::{Columns, WriteColumns};
use crate::kernel::{Matrix, Scalar, Write};
use crate::kernel::{add_to_columns, dot, fill_columns, multiply, multiply_by, row_sums, scale};

/// Fully connected layer with a fused activation, ẑ = a(W z + b).
///
/// The activation is fused because a separate activation layer would get auxiliary targets of its
/// own.
///
/// Parameters: W (output × input, column-major), then b (output) unless the layer has no bias. W
/// is marked as subject to weight decay, b is not. Initial values: W from N(0, 1/fan_in), or N(0, 2/fan_in)
/// for ReLU, leaky ReLU, GELU and SiLU; b zero.
///
/// # Examples
/// ```
/// use layerwise::Layer;
/// use layerwise::layer::{Activation, Dense};
///
/// let layer = Dense::new(64, 10, Activation::Tanh)?;
/// let groups = Layer::<f64>::parameters(&layer);
/// assert_eq!(groups[0].shape, [10, 64]);
/// assert_eq!(groups[1].range, 640..650);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Dense {
    input_dim: usize,
    output_dim: usize,
    activation: Activation,
    weights: Initializer,
    bias: Option<Initializer>,
}

impl Dense {
    /// A layer with a bias.
    ///
    /// # Errors
    /// [`Error::ZeroDimension`], [`Error::TooLarge`], or [`Error::InvalidOption`] for a leaky
    /// ReLU's slope outside 0..=1.
    pub fn new(input_dim: usize, output_dim: usize, activation: Activation) -> Result<Self, Error> {
        if input_dim == 0 {
            return Err(Error::ZeroDimension {
                what: "the input dimension of a dense layer",
            });
        }
        if output_dim == 0 {
            return Err(Error::ZeroDimension {
                what: "the output dimension of a dense layer",
            });
        }
        let size = input_dim
            .checked_add(1)
            .and_then(|columns| columns.checked_mul(output_dim));
        if size.is_none_or(|size| size > isize::MAX as usize / 16) {
            return Err(Error::TooLarge {
                what: "the weights of a dense layer",
                rows: output_dim,
                columns: input_dim,
            });
        }
        let weights = match activation {
            Activation::Relu
            | Activation::LeakyRelu { .. }
            | Activation::Gelu
            | Activation::Silu => Initializer::he_normal(),
            _ => Initializer::lecun_normal(),
        };
        Ok(Self {
            input_dim,
            output_dim,
            activation: activation.validate()?,
            weights,
            bias: Some(Initializer::Zeros),
        })
    }

    /// The same layer with W drawn from `initializer`.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a scale or gain out of range.
    pub fn with_weights(mut self, initializer: Initializer) -> Result<Self, Error> {
        self.weights = initializer.validate()?;
        Ok(self)
    }

    /// The same layer with b drawn from `initializer` (as an output × 1 matrix).
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a scale or gain out of range.
    pub fn with_bias(mut self, initializer: Initializer) -> Result<Self, Error> {
        self.bias = Some(initializer.validate()?);
        Ok(self)
    }

    /// The same layer without b: ẑ = a(W z).
    pub fn without_bias(mut self) -> Self {
        self.bias = None;
        self
    }

    /// The fused activation.
    pub fn activation(&self) -> Activation {
        self.activation
    }

    fn weight_count(&self) -> usize {
        self.input_dim * self.output_dim
    }

    fn batch<T>(&self, input: &[T]) -> usize {
        input.len() / self.input_dim
    }

    fn matrix<'a, T>(&self, parameters: &'a [T]) -> Matrix<'a, T> {
        let weights = &parameters[..self.weight_count()];
        Matrix::new(weights, self.output_dim, self.input_dim)
    }
}

/// Values that stay in the nearest cache between two passes over them.
const NEAR: usize = 2048;

impl<T: Scalar> Layer<T> for Dense {
    fn input_dim(&self) -> usize {
        self.input_dim
    }

    fn output_dim(&self) -> usize {
        self.output_dim
    }

    fn parameters(&self) -> Vec<ParameterGroup> {
        let weights = self.weight_count();
        let mut groups = vec![ParameterGroup {
            name: "weights".into(),
            shape: vec![self.output_dim, self.input_dim],
            range: 0..weights,
            fan_in: self.input_dim,
            fan_out: self.output_dim,
            decays: true,
        }];
        if self.bias.is_some() {
            groups.push(ParameterGroup {
                name: "bias".into(),
                shape: vec![self.output_dim],
                range: weights..weights + self.output_dim,
                fan_in: self.input_dim,
                fan_out: self.output_dim,
                decays: false,
            });
        }
        groups
    }

    fn initialize(&self, parameters: &mut [T], rng: &mut dyn Rng) {
        let (weights, bias) = parameters.split_at_mut(self.weight_count());
        self.weights
            .fill(weights, self.output_dim, self.input_dim, rng);
        if let Some(initializer) = self.bias {
            initializer.fill(bias, self.output_dim, 1, rng);
        }
    }

    fn scratch(&self, batch: usize) -> Scratch {
        let size = match self.activation {
            Activation::Identity => 0,
            _ => self.output_dim * batch,
        };
        Scratch {
            tape: size,
            work: size,
        }
    }

    fn forward(
        &self,
        context: &Context<'_>,
        parameters: &[T],
        input: &[T],
        output: &mut [T],
        tape: Option<&mut [T]>,
        _work: &mut [T],
    ) {
        let n = self.batch(input);
        let (weights, bias) = parameters.split_at(self.weight_count());
        let (w, z) = (self.matrix(weights), Matrix::new(input, self.input_dim, n));
        let has_bias = self.bias.is_some();
        let size = self.output_dim;
        let columns = |values| Columns { values, size };
        let data = (columns(output), columns(tape.unwrap_or_default()));
        let forward = |range, (output, tape): (Columns<'_, T>, Columns<'_, T>)| {
            T::matmul(Write::Set(&mut *output.values), w, z.column_range(range));
            // Some columns at a time, so that they are still near when the activation follows.
            let near = NEAR / size.min(NEAR) * size;
            let mut tapes = tape.values.chunks_mut(near);
            for output in output.values.chunks_mut(near) {
                if has_bias {
                    add_to_columns(output, bias);
                }
                // The identity's derivative needs no tape.
                if self.activation != Activation::Identity {
                    T::activate(self.activation, output, tapes.next());
                }
            }
        };
        let work = self.weight_count();
        context.execution.for_each_block(n, work, data, forward);
    }

    fn vjp(
        &self,
        at: &Point<'_, T>,
        cotangent: &[T],
        d_input: Write<'_, T>,
        mut d_parameters: Write<'_, T>,
        work: &mut [T],
    ) {
        if d_input.is_skip() && d_parameters.is_skip() {
            return;
        }
        let n = self.batch(at.input);
        let execution = at.context.execution;
        let (size, inputs) = (self.output_dim, self.input_dim);
        let (w, weights) = (self.matrix(at.parameters), self.weight_count());
        let linear = self.activation == Activation::Identity;
        // G = cotangent ⊙ a′(pre-activation), in `work` unless a′ is 1 everywhere, and Wᵀ G.
        let shaped = if linear {
            &mut [][..]
        } else {
            &mut work[..size * n]
        };
        let data = (
            Columns {
                values: &mut *shaped,
                size,
            },
            WriteColumns {
                write: d_input,
                size: inputs,
            },
        );
        let through =
            |range: Range<usize>, (shaped, d_input): (Columns<'_, T>, WriteColumns<'_, T>)| {
                let own = range.start * size..range.end * size;
                let g = if linear {
                    &cotangent[own]
                } else {
                    multiply(shaped.values, &cotangent[own.clone()], &at.tape[own]);
                    shaped.values
                };
                let g = Matrix::new(g, size, range.len());
                T::matmul(d_input.write, w.t(), g);
            };
        execution.for_each_block(n, weights, data, through);
        if d_parameters.is_skip() {
            return;
        }
        let g = if linear { cotangent } else { shaped };
        let z = Matrix::new(at.input, inputs, n).t();
        let g_matrix = Matrix::new(g, size, n);
        // Columns of G Zᵀ: inputs, not examples.
        let data = WriteColumns {
            write: d_parameters.part(0..weights),
            size,
        };
        execution.for_each_block(inputs, size * n, data, |range, part| {
            T::matmul(part.write, g_matrix, z.column_range(range));
        });
        if self.bias.is_some() {
            row_sums(d_parameters.part(weights..weights + size), g);
        }
    }

    fn jvp(
        &self,
        at: &Point<'_, T>,
        v_input: Option<&[T]>,
        v_parameters: Option<&[T]>,
        tangent: &mut [T],
        _work: &mut [T],
    ) {
        let (n, size) = (self.batch(at.input), self.output_dim);
        let linear = self.activation == Activation::Identity;
        let data = Columns {
            values: tangent,
            size,
        };
        let push = |range: Range<usize>, tangent: Columns<'_, T>| {
            let tangent = tangent.values;
            let bias = v_parameters.filter(|_| self.bias.is_some());
            if let Some(v) = bias {
                fill_columns(tangent, &v[self.weight_count()..]);
            }
            let mut first = bias.is_none();
            if first && v_parameters.is_none() && v_input.is_none() {
                tangent.fill(T::zero());
            }
            let mut add = |a: Matrix<'_, T>, b: &[T], tangent: &mut [T]| {
                let columns = Matrix::new(b, self.input_dim, n).column_range(range.clone());
                let write = if first {
                    Write::Set(tangent)
                } else {
                    Write::Add(tangent)
                };
                T::matmul(write, a, columns);
                first = false;
            };
            if let Some(v) = v_parameters {
                add(self.matrix(v), at.input, tangent);
            }
            if let Some(v) = v_input {
                add(self.matrix(at.parameters), v, tangent);
            }
            if !linear {
                multiply_by(tangent, &at.tape[range.start * size..range.end * size]);
            }
        };
        let execution = at.context.execution;
        execution.for_each_block(n, self.weight_count(), data, push);
    }

    fn bound_scratch(&self) -> usize {
        let side = self.input_dim.min(self.output_dim);
        2 * side * side
    }

    /// sup |a′|² · ‖W‖², with ‖W‖² = λ_max(B) ≤ (tr B⁸)^⅛ for B the smaller of W Wᵀ and Wᵀ W:
    /// always above the spectral norm, by a factor of at most (side)^⅛.
    fn curvature_bound(&self, parameters: &[T], work: &mut [T]) -> Option<T> {
        let w = self.matrix(parameters);
        let side = self.input_dim.min(self.output_dim);
        let (b, square) = work[..2 * side * side].split_at_mut(side * side);
        let (left, right) = if self.output_dim <= self.input_dim {
            (w, w.t())
        } else {
            (w.t(), w)
        };
        T::matmul(Write::Set(b), left, right);
        // Scaled before every squaring, so that nothing overflows or vanishes: with c_k the scales,
        // ‖B⁴‖_F^¼ = c_0 c_1^½ c_2^¼ for norms, and alike for the largest entries.
        let mut bound = T::one();
        let mut power = T::one();
        let (mut current, mut next) = (b, square);
        for k in 0..3 {
            let largest = current.iter().fold(T::zero(), |top, b| top.max(b.abs()));
            if !largest.is_finite() {
                // Overflow, not the lack of a bound.
                return Some(largest);
            }
            if largest.is_zero() {
                return Some(T::zero());
            }
            scale(current, T::one() / largest);
            let norm = dot(current, current).sqrt();
            bound *= (largest * norm).powf(power);
            power *= T::of(0.5);
            if k < 2 {
                scale(current, T::one() / norm);
                let b = Matrix::new(current, side, side);
                T::matmul(Write::Set(&mut *next), b, b);
                std::mem::swap(&mut current, &mut next);
            }
        }
        let slope = T::of(self.activation.lipschitz());
        // Room for the rounding of the sums above.
        let terms = T::of(8.0 * (self.input_dim + self.output_dim) as f64);
        let room = T::one() + terms * T::default_epsilon();
        Some(bound * slope * slope * room)
    }

    fn target_range(&self) -> (f64, f64) {
        self.activation.target_range()
    }

    fn affine(&self) -> Option<Affine> {
        let weights = self.weight_count();
        Some(Affine {
            weights: 0..weights,
            bias: self.bias.map(|_| weights..weights + self.output_dim),
            activation: self.activation,
        })
    }
}
