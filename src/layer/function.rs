//! Layers from plain functions, by automatic differentiation.

use std::fmt::Debug;

use echidna::tape::TapeThreadLocal;
use echidna::{Dual, Float, Reverse, jvp, vjp};
use rand::Rng;

use super::{Context, Layer, ParameterGroup, Point, Scratch, Shape};
use crate::description::Description;
use crate::init::Initializer;
use crate::kernel::{Columns, PLAIN_TERMS, Scalar, Write, add_to, add_to_halves};

/// A function ẑ = f(z, θ) of one example, written once for any number type. [`FromFunction`] turns it
/// into a [`Layer`].
///
/// # Examples
/// A layer ẑ_k = sin(θ_k z_k):
/// ```
/// use layerwise::gradcheck::GradCheck;
/// use layerwise::layer::{FromFunction, Function, ParameterGroup, Shape};
///
/// #[derive(Debug)]
/// struct Waves(usize);
///
/// impl Function for Waves {
///     fn input_shape(&self) -> Shape { self.0.into() }
///     fn output_shape(&self) -> Shape { self.0.into() }
///     fn parameters(&self) -> Vec<ParameterGroup> {
///         ParameterGroup::tile([ParameterGroup::new("frequencies", [self.0])])
///     }
///     fn call<F: layerwise::num_traits::Float>(&self, z: &[F], theta: &[F], output: &mut [F]) {
///         for ((output, &z), &theta) in output.iter_mut().zip(z).zip(theta) {
///             *output = (theta * z).sin();
///         }
///     }
/// }
///
/// let layer = FromFunction::new(Waves(3));
/// let check = GradCheck::new().layer(&layer, &[1.0, 2.0, -0.5], &[0.3, 0.1, 2.0, -1.0, 0.7, 0.2])?;
/// check.require(1e-6)?;
/// # Ok::<(), layerwise::Error>(())
/// ```
pub trait Function: Debug + Send + Sync {
    /// The shape of one example's z.
    fn input_shape(&self) -> Shape;

    /// The shape of one example's ẑ.
    fn output_shape(&self) -> Shape;

    /// The blocks of θ; none by default.
    fn parameters(&self) -> Vec<ParameterGroup> {
        Vec::new()
    }

    /// Draws every value of the initial parameters. By default from N(0, 1/m) in groups of two axes with
    /// m columns, as for a matrix that is multiplied by the input, and 0 in other groups.
    fn initialize<T: Scalar>(&self, parameters: &mut [T], rng: &mut dyn Rng) {
        for group in self.parameters() {
            let own = &mut parameters[group.range.clone()];
            match group.shape[..] {
                [rows, columns] => Initializer::lecun_normal().fill(own, rows, columns, rng),
                _ => own.fill(T::zero()),
            }
        }
    }

    /// `output ← f(z, θ)` for one example; `output` holds zeros on entry. Write constants as `F::from(0.5).unwrap()`. If
    /// the code branches on values, the branch taken is differentiated.
    fn call<F: num_traits::Float>(&self, z: &[F], parameters: &[F], output: &mut [F]);

    /// See [`Layer::curvature_bound`]: an upper bound on ‖∂f/∂z‖² for every z, if one is known; `None` by default.
    fn curvature_bound<T: Scalar>(&self, _parameters: &[T]) -> Option<T> {
        None
    }

    /// See [`Layer::description`]; `None` by default.
    fn description(&self) -> Option<Description> {
        None
    }
}

/// A [`Function`] as a layer, in `f32` and `f64`: ẑ = f(z, θ), differentiated by [`echidna`].
///
/// A `jvp` evaluates f once per example in dual numbers; a `vjp` records f's operations on a tape and traverses
/// it backwards. For a dense layer of width 16, 64 or 256 written as loops, a `jvp` took as long as 5, 9 or 12
/// evaluations of f, and a `vjp` as long as 50, 100 or 200: plain loops are vectorised, tapes are not. Both
/// allocate memory, unlike the derivatives of other layers. For a hot path, write the derivatives by hand and
/// compare them with these.
///
/// Without a [`Function::curvature_bound`], sweeps need
/// [`StepSize::Checked`](crate::target_solver::StepSize::Checked) if it is above the first layer. Columns are
/// not shared among threads.
#[derive(Debug, Clone, PartialEq)]
pub struct FromFunction<F>(F);

impl<F: Function> FromFunction<F> {
    /// The layer of a function.
    pub fn new(function: F) -> Self {
        Self(function)
    }

    /// The function.
    pub fn function(&self) -> &F {
        &self.0
    }

    /// Work values for the gradient in θ over this many examples.
    fn low_halves(&self, batch: usize) -> usize {
        match batch > PLAIN_TERMS {
            true => self
                .0
                .parameters()
                .last()
                .map_or(0, |group| group.range.end),
            false => 0,
        }
    }

    /// f as a function of z, then θ.
    fn joint<N: num_traits::Float>(&self, x: &[N]) -> Vec<N> {
        let (z, parameters) = x.split_at(self.0.input_shape().size());
        self.with(z, parameters)
    }

    fn with<N: num_traits::Float>(&self, z: &[N], parameters: &[N]) -> Vec<N> {
        let mut output = vec![N::zero(); self.0.output_shape().size()];
        self.0.call(z, parameters, &mut output);
        output
    }
}

impl<T: Scalar + Float + TapeThreadLocal, F: Function> Layer<T> for FromFunction<F> {
    fn input_shape(&self) -> Shape {
        self.0.input_shape()
    }

    fn output_shape(&self) -> Shape {
        self.0.output_shape()
    }

    fn parameters(&self) -> Vec<ParameterGroup> {
        self.0.parameters()
    }

    fn initialize(&self, parameters: &mut [T], rng: &mut dyn Rng) {
        self.0.initialize(parameters, rng);
    }

    fn scratch(&self, batch: usize) -> Scratch {
        Scratch::new(0, self.low_halves(batch))
    }

    fn curvature_bound(&self, parameters: &[T], _work: &mut [T]) -> Option<T> {
        self.0.curvature_bound(parameters)
    }

    fn description(&self) -> Option<Description> {
        self.0.description()
    }

    fn forward(
        &self,
        context: &Context<'_>,
        parameters: &[T],
        input: &[T],
        output: &mut [T],
        _tape: Option<&mut [T]>,
        _work: &mut [T],
    ) {
        let (inputs, outputs) = (self.0.input_shape().size(), self.0.output_shape().size());
        let n = input.len() / inputs;
        let cost = inputs + parameters.len() + outputs;
        let data = Columns::new(output, outputs);
        context
            .execution
            .for_each_block(n, cost, data, |range, output| {
                let own = &input[range.start * inputs..range.end * inputs];
                let columns = own.chunks_exact(inputs);
                for (z, output) in columns.zip(output.values.chunks_exact_mut(outputs)) {
                    // The derivatives find zeros in `output` too.
                    output.fill(<T as num_traits::Zero>::zero());
                    self.0.call(z, parameters, output);
                }
            });
    }

    fn vjp(
        &self,
        at: &Point<'_, T>,
        cotangent: &[T],
        mut d_input: Write<'_, T>,
        d_parameters: Write<'_, T>,
        work: &mut [T],
    ) {
        let (inputs, outputs) = (self.0.input_shape().size(), self.0.output_shape().size());
        let mut sums = d_parameters.accumulate();
        if sums.is_none() && d_input.is_skip() {
            return;
        }
        let low = &mut work[..self.low_halves(at.input.len() / inputs)];
        low.fill(<T as num_traits::Zero>::zero());
        let columns = at.input.chunks_exact(inputs);
        for (i, (z, g)) in columns.zip(cotangent.chunks_exact(outputs)).enumerate() {
            let own = i * inputs..(i + 1) * inputs;
            let gradient = match &mut sums {
                // θ is constant.
                None => {
                    let fixed = |&p: &T| Reverse::constant(p);
                    let fixed: Vec<Reverse<T>> = at.parameters.iter().map(fixed).collect();
                    vjp(|z: &[Reverse<T>]| self.with(z, &fixed), z, g).1
                }
                Some(sums) => {
                    let joint = [z, at.parameters].concat();
                    let gradient = vjp(|x: &[Reverse<T>]| self.joint(x), &joint, g).1;
                    let own = &gradient[inputs..];
                    match low.is_empty() {
                        true => add_to(sums, own),
                        false => add_to_halves(sums, low, own),
                    }
                    gradient
                }
            };
            d_input.part(own).each(|k| gradient[k]);
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
        let (inputs, outputs) = (self.0.input_shape().size(), self.0.output_shape().size());
        let zeros = vec![<T as num_traits::Zero>::zero(); inputs.max(at.parameters.len())];
        let columns = at.input.chunks_exact(inputs);
        for (i, (z, tangent)) in columns.zip(tangent.chunks_exact_mut(outputs)).enumerate() {
            let own = i * inputs..(i + 1) * inputs;
            let v_input = v_input.map_or(&zeros[..inputs], |v| &v[own]);
            let v_parameters = v_parameters.unwrap_or(&zeros[..at.parameters.len()]);
            let (at, along) = (
                [z, at.parameters].concat(),
                [v_input, v_parameters].concat(),
            );
            tangent.copy_from_slice(&jvp(|x: &[Dual<T>]| self.joint(x), &at, &along).1);
        }
    }
}
