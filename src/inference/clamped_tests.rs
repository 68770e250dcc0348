//! A layer with both ends held: its derivatives, and columns alone and together.

use super::*;
use crate::layer::{Activation, Dense};

const N: usize = 3;

/// Numbers without a pattern.
fn numbers(count: usize, seed: usize) -> Vec<f64> {
    let number = |i: usize| (((i + seed) * 7919 + 13) % 101) as f64 / 50.0 - 1.0;
    (0..count).map(number).collect()
}

fn held(dim: usize, seed: usize) -> Held<f64> {
    let values = DMatrix::from_vec(dim, N, numbers(dim * N, seed));
    Held::new(&values, (0..dim * N).map(|i| i % 3 != 1).collect())
}

fn layer() -> Clamped<f64> {
    let dense = Dense::new(4, 5, Activation::Tanh).unwrap();
    Clamped::new(0, Arc::new(dense))
        .with_inputs(held(4, 1))
        .with_outputs(held(5, 2))
}

/// The output and the tape.
fn forward(ids: &[u64], parameters: &[f64], input: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let (layer, n) = (layer(), ids.len());
    let scratch = layer.scratch(n);
    let (mut output, mut tape) = (vec![0.0; 5 * n], vec![0.0; scratch.tape]);
    let mut work = vec![f64::NAN; scratch.work];
    let context = Context::training(0, 1, 0, ids);
    let kept = Some(&mut tape[..]);
    layer.forward(&context, parameters, input, &mut output, kept, &mut work);
    (output, tape)
}

#[test]
fn held_values_are_used_and_nothing_else() {
    let (parameters, input) = (numbers(25, 3), numbers(4 * N, 4));
    let (output, _) = forward(&[0, 1, 2], &parameters, &input);
    let (inputs, outputs) = (held(4, 1), held(5, 2));
    for i in (0..5 * N).filter(|i| outputs.free[*i]) {
        assert_eq!(output[i], outputs.values[i]);
    }
    let mut other = input.clone();
    for i in (0..4 * N).filter(|i| !inputs.free[*i]) {
        other[i] = 9.0;
    }
    assert_eq!(forward(&[0, 1, 2], &parameters, &other).0, output);
    for i in 0..N {
        let own = forward(&[i as u64], &parameters, &input[4 * i..4 * i + 4]).0;
        assert_eq!(own, output[5 * i..5 * i + 5]);
    }
}

#[test]
fn derivatives_are_those_of_what_is_free() {
    let ids = [0, 1, 2];
    let (parameters, input) = (numbers(25, 3), numbers(4 * N, 4));
    let (output, tape) = forward(&ids, &parameters, &input);
    let layer = layer();
    let context = Context::training(0, 1, 0, &ids);
    let at = Point::new(context, &parameters, &input, &output, &tape);
    let mut work = vec![f64::NAN; layer.scratch(N).work];
    let (v, w, u) = (numbers(4 * N, 5), numbers(25, 6), numbers(5 * N, 7));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();

    let (mut d_input, mut d_parameters) = (vec![1.0; 4 * N], vec![f64::NAN; 25]);
    let (add, set) = (Write::Add(&mut d_input), Write::Set(&mut d_parameters));
    layer.vjp(&at, &u, add, set, &mut work);
    d_input.iter_mut().for_each(|d| *d -= 1.0);
    let mut tangent = vec![f64::NAN; 5 * N];
    layer.jvp(&at, Some(&v), Some(&w), &mut tangent, &mut work);
    let (left, right) = (
        dot(&u, &tangent),
        dot(&v, &d_input) + dot(&w, &d_parameters),
    );
    assert!((left - right).abs() < 1e-12, "{left}, not {right}");

    let along = |h: f64| {
        let moved = |x: &[f64], v: &[f64]| -> Vec<f64> {
            x.iter().zip(v).map(|(x, v)| x + h * v).collect()
        };
        forward(&ids, &moved(&parameters, &w), &moved(&input, &v)).0
    };
    for ((plus, minus), own) in along(1e-6).iter().zip(along(-1e-6)).zip(&tangent) {
        let slope = (plus - minus) / 2e-6;
        assert!((slope - own).abs() < 1e-8, "{own}, not {slope}");
    }
}
