//! The same numbers as PyTorch's layers for sequences (`tests/data/sequence_layers.py` made them): outputs,
//! and gradients in inputs and parameters.

use layerwise::Layer;
use layerwise::layer::{Attention, Embedding, LayerNorm, RmsNorm, Softmax};
use serde_json::Value;

use super::checked::Call;

const DIM: usize = 4;
const LENGTH: usize = 3;

fn numbers(value: &Value) -> Vec<f64> {
    let list = value.as_array().unwrap();
    list.iter().map(|v| v.as_f64().unwrap()).collect()
}

#[track_caller]
fn assert_close(what: &str, found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        let error = (found - expected).abs();
        assert!(
            error <= 1e-12 * expected.abs().max(1.0),
            "{what}: {found}, not {expected}"
        );
    }
}

#[test]
fn layers_of_pytorch() {
    let file = include_str!("../../data/sequence_layers.json");
    let reference: Value = serde_json::from_str(file).unwrap();
    let norm = || LayerNorm::new([DIM, LENGTH]).unwrap();
    let rms = || RmsNorm::new([DIM, LENGTH]).unwrap();
    let attention = || Attention::new(DIM, LENGTH, 2).unwrap();
    let layers: Vec<(&str, Box<dyn Layer<f64>>)> = vec![
        ("layer_norm", Box::new(norm())),
        (
            "layer_norm_options",
            Box::new(norm().with_epsilon(0.1).unwrap().without_bias()),
        ),
        (
            "layer_norm_bare",
            Box::new(norm().without_gain().without_bias()),
        ),
        (
            "rms_norm",
            Box::new(rms().with_epsilon(f64::EPSILON).unwrap()),
        ),
        (
            "rms_norm_options",
            Box::new(rms().with_epsilon(0.1).unwrap().without_gain()),
        ),
        ("softmax", Box::new(Softmax::new([DIM, LENGTH]).unwrap())),
        (
            "embedding",
            Box::new(Embedding::new(5, DIM, LENGTH).unwrap()),
        ),
        ("attention", Box::new(attention())),
        (
            "attention_causal",
            Box::new(attention().causal().without_bias()),
        ),
    ];
    for (name, layer) in layers {
        let case = &reference[name];
        let (parameters, input) = (numbers(&case["parameters"]), numbers(&case["input"]));
        let call = Call::new(&layer, &parameters, &input);
        assert_close(name, &call.output, &numbers(&case["output"]));
        let (d_input, d_parameters) = call.vjp(&numbers(&case["u"]));
        assert_close(name, &d_parameters, &numbers(&case["d_parameters"]));
        if layer.input_differentiable() {
            assert_close(name, &d_input, &numbers(&case["d_input"]));
        }
    }
}
