//! Reports go through JSON and back whole.

use layerwise::data::metrics;
use layerwise::decoupled::TargetInit;
use layerwise::diagnostics::{DiagnosticReport, Diagnostics};
use layerwise::energy::Energy;
use layerwise::layer::{Activation, Dense};
use layerwise::loss::SoftmaxCrossEntropy;
use layerwise::nalgebra::DMatrix;
use layerwise::optimizer::GradientDescent;
use layerwise::training::{Backprop, Event, Phase, Session, SessionState, Trainer, TrainingReport};
use layerwise::{Circuit, DecoupledCircuit, Scalar};
use serde::Serialize;
use serde::de::DeserializeOwned;

fn there_and_back<T: Scalar + Serialize + DeserializeOwned>() {
    let dense = |input, output, activation| Dense::new(input, output, activation).unwrap();
    let circuit = Circuit::builder()
        .layer(dense(3, 5, Activation::Tanh))
        .layer(dense(5, 4, Activation::Tanh))
        .layer(dense(4, 3, Activation::Identity))
        .build()
        .unwrap();
    let mut model = DecoupledCircuit::<T>::new(circuit, Energy::new(SoftmaxCrossEntropy)).unwrap();
    let x = DMatrix::from_fn(3, 6, |i, j| T::of(((2 * i + 3 * j) % 7) as f64 / 7.0));
    let y = metrics::one_hot(&[0, 1, 2, 0, 1, 2], 3).unwrap();
    let targets = TargetInit::NoisyForwardPass { std: 0.4, seed: 1 };
    model.add_examples(&x, &y, &targets).unwrap();
    let everything = Diagnostics::new()
        .accuracy()
        .with_curvature(40)
        .with_error_share(3);
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

/// JSON has no ∞, but a validation loss may be infinite.
fn infinity_there_and_back<T: Scalar + Serialize + DeserializeOwned>() {
    let layer = Dense::new(1, 1, Activation::Identity).unwrap();
    let circuit = Circuit::<T>::builder().layer(layer).build().unwrap();
    let mut model = DecoupledCircuit::new(circuit, Energy::default()).unwrap();
    let one = DMatrix::from_element(1, 3, T::one());
    model
        .add_examples(&one, &one, &TargetInit::ForwardPass)
        .unwrap();
    let far = DMatrix::from_element(1, 2, T::max_value().unwrap());
    let phase = Phase::new(Backprop, GradientDescent::new(1e-3).unwrap()).with_epochs(2);
    let trainer = Trainer::new(phase).with_validation(far.clone(), -far);
    let mut session = Session::new(&trainer, model).unwrap();
    let record = session.epoch().unwrap().unwrap();
    assert_eq!(record.validation_loss, Some(T::of(f64::INFINITY)));
    let event = Event::Epoch(record);
    let text = serde_json::to_string(&event).unwrap();
    assert!(text.contains(r#""validation_loss":"inf""#), "{text}");
    assert!(text.contains(r#""gap":null"#), "{text}");
    assert_eq!(serde_json::from_str::<Event<T>>(&text).unwrap(), event);
    let text = serde_json::to_string(session.state()).unwrap();
    let state: SessionState<T> = serde_json::from_str(&text).unwrap();
    assert_eq!(&state, session.state());
    let report = session.report();
    let text = serde_json::to_string(&report).unwrap();
    let back: TrainingReport<T> = serde_json::from_str(&text).unwrap();
    assert_eq!(back, report);
    // A binary format holds ∞ itself.
    let bytes = postcard::to_stdvec(session.state()).unwrap();
    let state: SessionState<T> = postcard::from_bytes(&bytes).unwrap();
    assert_eq!(&state, session.state());
    let wrong = text.replace(r#""inf""#, r#""a lot""#);
    let error = serde_json::from_str::<TrainingReport<T>>(&wrong).unwrap_err();
    assert!(error.to_string().contains("'a lot'"), "{error}");
}

#[test]
fn an_infinite_loss_survives_json() {
    infinity_there_and_back::<f64>();
    infinity_there_and_back::<f32>();
}

/// Counts that no run has are printed as they are.
#[test]
fn a_report_that_was_read_can_be_printed() {
    let phase = serde_json::json!({
        "epochs": u64::MAX, "steps": 1, "stop": "Epochs", "best_epoch": null, "penalties": []
    });
    let warned = |epochs: [u64; 2]| serde_json::json!({"warning": "Undone", "phase": 0, "epochs": epochs, "count": 1});
    let value = serde_json::json!({
        "history": [], "warnings": [warned([3, 2]), warned([0, u64::MAX])], "failures": [],
        "phases": [phase, phase], "stop": "Epochs", "steps": 2, "seconds": 0.5
    });
    let report: TrainingReport<f64> = serde_json::from_value(value).unwrap();
    let told = report.to_string();
    assert!(told.starts_with(&format!("{} epochs", u64::MAX)), "{told}");
    assert!(told.contains("epoch 3: "), "{told}");
    assert!(
        told.contains(&format!("1 of epochs 0 to {}", u64::MAX)),
        "{told}"
    );
}
