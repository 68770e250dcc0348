//! What holds of every layer: alone, inside a `Sequential` and inside a `Residual`.

use std::sync::Arc;

use layerwise::gradcheck::GradCheck;
use layerwise::kernel::Write;
use layerwise::layer::{Activation, Context, Dense, Point, Residual, Sequential};
use layerwise::registry::Registry;
use layerwise::{Layer, Scalar};

use crate::property::{Tested, generator, uniform};

/// Examples in a batch.
pub(crate) const EXAMPLES: usize = 3;

pub(crate) fn count<T: Scalar>(layer: &dyn Layer<T>) -> usize {
    layer.parameters().last().map_or(0, |group| group.range.end)
}

/// Passes the gradient check at random parameters, alone and within other layers, in training and not; its
/// products are adjoint; and its description builds it again.
pub(crate) fn holds<T: Tested>(layer: impl Layer<T> + 'static) {
    let input = uniform(&mut generator(3), EXAMPLES * layer.input_dim(), 1.0);
    holds_at(layer, &input);
}

/// [`holds`], at these inputs.
pub(crate) fn holds_at<T: Tested>(layer: impl Layer<T> + 'static, input: &[T]) {
    let layer: Arc<dyn Layer<T>> = Arc::new(layer);
    passes(&layer, input);
    let (inputs, outputs) = (layer.input_dim(), layer.output_dim());
    let dense = |from, to| Box::new(Dense::new(from, to, Activation::Tanh).unwrap()) as _;
    let own = || Box::new(layer.clone()) as _;
    let before = layer.input_differentiable();
    let chain = match before {
        true => vec![dense(inputs, inputs), own(), dense(outputs, 2)],
        false => vec![own(), dense(outputs, 2)],
    };
    passes(&Sequential::new(chain).unwrap(), input);
    if before && layer.input_shape() == layer.output_shape() {
        let residual = Residual::new(layer.clone()).unwrap();
        let residual = residual.with_branch_scale(-0.75).unwrap();
        passes(&residual.with_skip_scale(0.5).unwrap(), input);
    }
    rebuilt(&*layer, input);
}

/// The gradient check, and ⟨u, J v⟩ = ⟨Jᵀ u, v⟩.
pub(crate) fn passes<T: Tested>(layer: &dyn Layer<T>, input: &[T]) {
    let parameters = uniform(&mut generator(4), count(layer), 1.0);
    let report = GradCheck::new().layer(layer, &parameters, input).unwrap();
    if report.derivatives > 0 {
        report.require(T::GRADIENT).unwrap();
    }
    let call = Call::new(layer, &parameters, input);
    let rng = &mut generator(5);
    let u = uniform::<T>(rng, call.output.len(), 1.0);
    let (v, w) = (
        uniform::<T>(rng, input.len(), 1.0),
        uniform::<T>(rng, parameters.len(), 1.0),
    );
    let v = layer.input_differentiable().then_some(&v[..]);
    let (d_input, d_parameters) = call.vjp(&u);
    let (left, size) = product(&u, &call.jvp(v, Some(&w)));
    let right = v.map_or(0.0, |v| product(&d_input, v).0) + product(&d_parameters, &w).0;
    let room = 50.0 * T::ROUNDING * size;
    assert!(
        (left - right).abs() <= room,
        "{layer:?}: {left} and {right}"
    );
}

/// The layer's description builds a layer with the same description and outputs.
fn rebuilt<T: Scalar>(layer: &dyn Layer<T>, input: &[T]) {
    let description = layer.description().unwrap();
    let again = Registry::<T>::new().layer(&description).unwrap();
    assert_eq!(again.description(), Some(description));
    assert_eq!(again.parameters(), layer.parameters());
    assert_eq!(again.output_shape(), layer.output_shape());
    let parameters = uniform(&mut generator(4), count(layer), 1.0);
    let one = Call::new(layer, &parameters, input);
    assert_eq!(one.output, Call::new(&again, &parameters, input).output);
}

/// Σ aᵢ bᵢ in f64, and Σ |aᵢ bᵢ|.
fn product<T: Scalar>(a: &[T], b: &[T]) -> (f64, f64) {
    let terms = a.iter().zip(b).map(|(a, b)| a.as_f64() * b.as_f64());
    let size = terms.clone().map(f64::abs).sum();
    (terms.sum(), size)
}

/// A layer called at one point in memory that held NaN.
pub(crate) struct Call<'a, T: Scalar> {
    pub(crate) layer: &'a dyn Layer<T>,
    pub(crate) context: Context<'a>,
    pub(crate) parameters: &'a [T],
    pub(crate) input: &'a [T],
    pub(crate) output: Vec<T>,
    tape: Vec<T>,
}

fn nan<T: Scalar>(length: usize) -> Vec<T> {
    vec![T::zero() / T::zero(); length]
}

impl<'a, T: Scalar> Call<'a, T> {
    pub(crate) fn new(layer: &'a dyn Layer<T>, parameters: &'a [T], input: &'a [T]) -> Self {
        Self::in_context(Context::inference(0, 0), layer, parameters, input)
    }

    pub(crate) fn in_context(
        context: Context<'a>,
        layer: &'a dyn Layer<T>,
        parameters: &'a [T],
        input: &'a [T],
    ) -> Self {
        let n = input.len() / layer.input_dim();
        let (mut output, mut tape) = (nan(n * layer.output_dim()), nan(layer.scratch(n).tape));
        let mut work = nan(layer.scratch(n).work);
        let kept = Some(&mut tape[..]);
        layer.forward(&context, parameters, input, &mut output, kept, &mut work);
        Self {
            layer,
            context,
            parameters,
            input,
            output,
            tape,
        }
    }

    fn point(&self) -> Point<'_, T> {
        let (input, output) = (self.input, &self.output);
        Point::new(self.context, self.parameters, input, output, &self.tape)
    }

    fn work(&self) -> Vec<T> {
        let n = self.input.len() / self.layer.input_dim();
        nan(self.layer.scratch(n).work)
    }

    /// (Jᵀ u in the input, in the parameters); NaN in an input without a derivative.
    pub(crate) fn vjp(&self, u: &[T]) -> (Vec<T>, Vec<T>) {
        let (mut dz, mut dp) = (nan(self.input.len()), nan(self.parameters.len()));
        let wanted = self.layer.input_differentiable();
        let set_z = Write::set(wanted.then_some(&mut dz[..]));
        let set_p = Write::Set(&mut dp[..]);
        let work = &mut self.work();
        self.layer.vjp(&self.point(), u, set_z, set_p, work);
        (dz, dp)
    }

    pub(crate) fn jvp(&self, v_input: Option<&[T]>, v_parameters: Option<&[T]>) -> Vec<T> {
        let (mut tangent, work) = (nan(self.output.len()), &mut self.work());
        self.layer
            .jvp(&self.point(), v_input, v_parameters, &mut tangent, work);
        tangent
    }

    pub(crate) fn bound(&self) -> Option<f64> {
        let mut work = nan(self.layer.scratch(1).bound);
        let bound = self.layer.curvature_bound(self.parameters, &mut work);
        bound.map(|bound| bound.as_f64())
    }
}

/// The outputs, derivatives and tangents of a batch of `n` examples on so many threads.
#[cfg(feature = "rayon")]
fn on_threads<T: Scalar>(layer: &dyn Layer<T>, n: usize, threads: usize) -> [Vec<T>; 4] {
    let rng = &mut generator(9);
    let parameters = uniform::<T>(rng, count(layer), 1.0);
    let input = uniform::<T>(rng, n * layer.input_dim(), 1.0);
    let u = uniform::<T>(rng, n * layer.output_dim(), 1.0);
    let ids: Vec<u64> = (0..n as u64).collect();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    pool.unwrap().install(|| {
        let context = Context::training(0, 0, 0, &ids);
        let context = context.with_execution(layerwise::kernel::Execution::Columns);
        let call = Call::in_context(context, layer, &parameters, &input);
        let (d_input, d_parameters) = call.vjp(&u);
        let tangent = call.jvp(Some(&input), Some(&parameters));
        [call.output, d_input, d_parameters, tangent]
    })
}

/// The same bits on one thread and on two, for a batch that is divided among them.
#[cfg(feature = "rayon")]
pub(crate) fn is_the_same_on_threads<T: Scalar>(layer: &dyn Layer<T>, n: usize) {
    assert!(
        layer.cost().unwrap() * n > 1 << 20,
        "too little work for two"
    );
    assert!(
        on_threads(layer, n, 1) == on_threads(layer, n, 2),
        "{layer:?}"
    );
}
