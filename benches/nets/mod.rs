//! The nets that the benches share.

use layerwise::decoupled::TargetInit;
use layerwise::energy::Energy;
use layerwise::layer::{Activation, Dense};
use layerwise::nalgebra::DMatrix;
use layerwise::{Circuit, DecoupledCircuit, Scalar};

/// Name, widths, examples.
pub fn nets() -> Vec<(&'static str, Vec<usize>, usize)> {
    vec![
        ("S", vec![64, 32, 32, 10], 100),
        ("M", vec![784, 512, 512, 512, 10], 128),
        ("D", vec![128; 33], 128),
        ("W", vec![1024; 9], 256),
    ]
}

/// A circuit of these widths, tanh except for a linear last layer, with `n` examples.
pub fn model<T: Scalar>(widths: &[usize], n: usize, init: &TargetInit<T>) -> DecoupledCircuit<T> {
    let mut builder = Circuit::builder();
    for (t, pair) in widths.windows(2).enumerate() {
        let last = t + 2 == widths.len();
        let activation = if last {
            Activation::Identity
        } else {
            Activation::Tanh
        };
        builder = builder.layer(Dense::new(pair[0], pair[1], activation).expect("valid"));
    }
    let mut model =
        DecoupledCircuit::new(builder.build().expect("the layers fit"), Energy::default())
            .expect("squared errors fit");
    let wave =
        |rows: usize| DMatrix::from_fn(rows, n, |i, j| T::of(((i * 3 + j * 5) as f64).sin()));
    let (inputs, targets) = (wave(widths[0]), wave(widths[widths.len() - 1]));
    model
        .add_examples(&inputs, &targets, init)
        .expect("the data fit");
    model
}
