//! What holds of every layer.

use layerwise::Scalar;
use layerwise::gradcheck::GradCheck;
use layerwise::kernel::{Execution, Write};
use layerwise::layer::{Context, Layer, Point, Sequential};
use layerwise::rand::rngs::ChaCha8Rng;
use layerwise::rand::{RngExt, SeedableRng};
use layerwise::registry::Registry;

use crate::property::Tested;

/// Numbers from −1 to 1.
pub fn uniform<T: Scalar>(seed: u64, count: usize) -> Vec<T> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let draws = (0..count).map(|_| T::of(rng.random_range(-1.0..1.0)));
    draws.collect()
}

/// The length of θ.
pub fn parameter_count<T: Scalar>(layer: &dyn Layer<T>) -> usize {
    layer.parameters().last().map_or(0, |group| group.range.end)
}

/// Everything that a layer computes at one point.
#[derive(Debug, Clone, PartialEq)]
pub struct Products<T> {
    pub output: Vec<T>,
    pub d_input: Vec<T>,
    pub d_parameters: Vec<T>,
    pub tangent: Vec<T>,
}

/// The products at `input`, with `cotangent` and the directions v.
pub fn products<T: Scalar>(
    layer: &dyn Layer<T>,
    execution: Execution,
    parameters: &[T],
    input: &[T],
    cotangent: &[T],
    (v_input, v_parameters): (&[T], &[T]),
) -> Products<T> {
    let n = input.len() / layer.input_dim();
    let nan = T::zero() / T::zero();
    let (scratch, size) = (layer.scratch(n), n * layer.output_dim());
    let (mut tape, mut work) = (vec![nan; scratch.tape], vec![nan; scratch.work]);
    let (mut output, mut tangent) = (vec![nan; size], vec![nan; size]);
    let (mut d_input, mut d_parameters) = (vec![nan; input.len()], vec![nan; parameters.len()]);
    let context = Context::inference(1, 0).with_execution(execution);
    let kept = Some(&mut tape[..]);
    layer.forward(&context, parameters, input, &mut output, kept, &mut work);
    work.fill(nan);
    let at = Point::new(context, parameters, input, &output, &tape);
    let (set, also) = (Write::Set(&mut d_input), Write::Set(&mut d_parameters));
    layer.vjp(&at, cotangent, set, also, &mut work);
    work.fill(nan);
    let v = (Some(v_input), Some(v_parameters));
    layer.jvp(&at, v.0, v.1, &mut tangent, &mut work);
    Products {
        output,
        d_input,
        d_parameters,
        tangent,
    }
}

/// Derivatives against finite differences, of the layer and within a unit of itself; the adjoint
/// identity; the same bits alone and in a batch of `n`; and a layer built again from its description.
pub fn hold<T: Tested>(layer: impl Layer<T> + Clone + 'static, n: usize) {
    let input = uniform::<T>(2, n * layer.input_dim());
    hold_at(layer, &input);
}

/// [`hold`] at an input.
pub fn hold_at<T: Tested>(layer: impl Layer<T> + Clone + 'static, input: &[T]) {
    let n = input.len() / layer.input_dim();
    let parameters = uniform::<T>(1, parameter_count(&layer));
    let unit = Sequential::<T>::new(vec![Box::new(layer.clone())]).unwrap();
    let along = GradCheck::new().with_directions(3).unwrap();
    let checks = [
        (&layer as &dyn Layer<T>, GradCheck::new(), 1.0),
        (&unit, along, 10.0),
    ];
    for (layer, check, room) in checks {
        let report = check.layer(layer, &parameters, input);
        let found = report.and_then(|report| report.require(room * T::GRADIENT));
        found.unwrap_or_else(|error| panic!("{layer:?}: {error}"));
    }
    law_of_the_adjoint(&layer, n);
    // A BLAS sums by shape.
    if cfg!(not(feature = "blas")) {
        same_bits_alone(&layer, n);
    }
    let own = layer.description().expect("a description");
    let again = Registry::<T>::new().layer(&own).unwrap();
    assert_eq!(format!("{again:?}"), format!("{layer:?}"));
}

/// ⟨u, J v⟩ = ⟨Jᵀ u, v⟩.
pub fn law_of_the_adjoint<T: Tested>(layer: &dyn Layer<T>, n: usize) {
    let all = random_products(layer, Execution::Sequential, n);
    let dot = |a: &[T], b: &[T]| -> (f64, f64) {
        let terms = a.iter().zip(b).map(|(a, b)| a.as_f64() * b.as_f64());
        terms.fold((0.0, 0.0), |(sum, size), x| (sum + x, size + x.abs()))
    };
    let (left, size) = dot(&all.0.tangent, &all.1);
    let right = dot(&all.0.d_input, &all.2).0 + dot(&all.0.d_parameters, &all.3).0;
    let error = (left - right).abs();
    assert!(
        error <= 100.0 * T::ROUNDING * size,
        "{layer:?}: {left} is not {right}"
    );
}

/// The products at random arguments, with u, v_z and v_θ.
fn random_products<T: Scalar>(
    layer: &dyn Layer<T>,
    execution: Execution,
    n: usize,
) -> (Products<T>, Vec<T>, Vec<T>, Vec<T>) {
    let (count, dim) = (parameter_count(layer), layer.input_dim());
    let (parameters, input) = (uniform::<T>(1, count), uniform::<T>(2, n * dim));
    let (u, v) = (uniform(3, n * layer.output_dim()), uniform(4, n * dim));
    let w = uniform(5, count);
    let all = products(layer, execution, &parameters, &input, &u, (&v, &w));
    (all, u, v, w)
}

/// Each example has the same bits alone and among n.
pub fn same_bits_alone<T: Tested>(layer: &dyn Layer<T>, n: usize) {
    let (count, dim, size) = (
        parameter_count(layer),
        layer.input_dim(),
        layer.output_dim(),
    );
    let (parameters, input) = (uniform::<T>(1, count), uniform::<T>(2, n * dim));
    let (u, v, w) = (uniform(3, n * size), uniform(4, n * dim), uniform(5, count));
    let run = |i: std::ops::Range<usize>| {
        let (own, out) = (i.start * dim..i.end * dim, i.start * size..i.end * size);
        let execution = Execution::Sequential;
        let v = (&v[own.clone()], &w[..]);
        products(layer, execution, &parameters, &input[own], &u[out], v)
    };
    let together = run(0..n);
    for i in 0..n {
        let alone = run(i..i + 1);
        let (own, out) = (i * dim..(i + 1) * dim, i * size..(i + 1) * size);
        assert!(alone.output == together.output[out.clone()], "{layer:?}: f");
        assert!(alone.tangent == together.tangent[out], "{layer:?}: jvp");
        assert!(alone.d_input == together.d_input[own], "{layer:?}: vjp");
    }
}

/// All products of n examples have the same bits on 1, 2 and 3 threads.
#[cfg(feature = "rayon")]
pub fn same_bits_on_threads<T: Tested>(layer: &dyn Layer<T>, n: usize) {
    let one = random_products(layer, Execution::Sequential, n).0;
    for threads in [2, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let run = || random_products(layer, Execution::Columns, n).0;
        assert!(
            pool.unwrap().install(run) == one,
            "{layer:?}: {threads} threads"
        );
    }
}
