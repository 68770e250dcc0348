//! A diagnostic report goes through JSON and back whole.

use layerwise::data::metrics;
use layerwise::decoupled::TargetInit;
use layerwise::diagnostics::{DiagnosticReport, Diagnostics};
use layerwise::energy::Energy;
use layerwise::layer::{Activation, Dense};
use layerwise::loss::SoftmaxCrossEntropy;
use layerwise::nalgebra::DMatrix;
use layerwise::{Circuit, DecoupledCircuit, Scalar};
use serde::Serialize;
use serde::de::DeserializeOwned;

fn there_and_back<T: Scalar + Serialize + DeserializeOwned>() {
    let dense = |input, output, activation| Dense::new(input, output, activation).unwrap();
    let circuit = Circuit::builder()
        .layer(dense(3, 5, Activation::Tanh))
        .layer(dense(5, 4, Activation::Tanh))
        .layer(dense(4, 3, Activation::Identity))
        .build();
    let energy = Energy::new(SoftmaxCrossEntropy);
    let mut model = DecoupledCircuit::<T>::new(circuit.unwrap(), energy).unwrap();
    let x = DMatrix::from_fn(3, 6, |i, j| T::of(((2 * i + 3 * j) % 7) as f64 / 7.0));
    let y = metrics::one_hot(&[0, 1, 2, 0, 1, 2], 3).unwrap();
    let targets = TargetInit::NoisyForwardPass { std: 0.4, seed: 1 };
    model.add_examples(&x, &y, &targets).unwrap();
    let everything = Diagnostics::new().accuracy().curvature(40);
    for options in [everything, Diagnostics::new().without_backprop()] {
        let report = model.diagnose(&options).unwrap();
        let text = serde_json::to_string(&report).unwrap();
        let back: DiagnosticReport<T> = serde_json::from_str(&text).unwrap();
        assert_eq!(back, report);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(value["layers"][0]["target"]["gap"].is_f64());
        assert!(value["layers"][2]["target"].is_null());
    }
}

#[test]
fn a_report_survives_json() {
    there_and_back::<f64>();
    there_and_back::<f32>();
}
