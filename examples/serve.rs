//! What must be saved for a classifier to be used elsewhere: the circuit with its loss, the scaling of its
//! inputs, and what its classes mean. One process trains and saves them; another opens them and predicts.
//!
//! `cargo run --release --features storage --example serve -- DIR` is the first process, which
//! starts the second.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

use layerwise::data::{Standardizer, metrics};
use layerwise::prelude::*;
use layerwise::registry::Registry;
use serde::{Deserialize, Serialize};

type Failed = Box<dyn std::error::Error>;

/// What a classifier needs besides its circuit.
#[derive(Serialize, Deserialize)]
struct Around {
    scaling: Standardizer<f32>,
    /// The classes, in the order of the outputs.
    classes: Vec<String>,
}

const CIRCUIT: &str = "classifier.safetensors";
const AROUND: &str = "classifier.json";

fn train(folder: &Path) -> Result<(), Failed> {
    // Length and weight of three kinds of animals, in millimetres and grams.
    let kinds = [
        ("mouse", 90.0, 20.0),
        ("rat", 240.0, 350.0),
        ("hamster", 150.0, 130.0),
    ];
    let spread = |i: usize| 1.0 + 0.1 * ((i * 37 % 101) as f32 / 50.0 - 1.0);
    let x = DMatrix::from_fn(2, 300, |row, i| {
        let (_, length, weight) = kinds[i % 3];
        [length * spread(i), weight * spread(7 * i)][row]
    });
    let labels: Vec<usize> = (0..300).map(|i| i % 3).collect();
    let scaling = Standardizer::fit(&x)?;

    let circuit = Circuit::builder()
        .layer(Dense::new(2, 16, Activation::Tanh)?)
        .layer(Dense::new(16, 3, Activation::Identity)?)
        .build()?;
    let mut model = DecoupledCircuit::new(circuit, Energy::new(SoftmaxCrossEntropy))?;
    let y = metrics::one_hot(&labels, 3)?;
    model.add_examples(&scaling.transform(&x)?, &y, &TargetInit::ForwardPass)?;
    let phase = Phase::new(Backprop, Adam::new(1e-2)?).with_epochs(200);
    println!("{}", Trainer::new(phase).run(&mut model)?);

    // The examples need not go with it.
    let classifier = DecoupledCircuit::new(model.into_circuit(), Energy::new(SoftmaxCrossEntropy))?;
    fs::create_dir_all(folder)?;
    classifier.save(folder.join(CIRCUIT))?;
    let classes = kinds.map(|(name, ..)| name.to_owned()).to_vec();
    let around = serde_json::to_string(&Around { scaling, classes })?;
    fs::write(folder.join(AROUND), around)?;
    Ok(())
}

fn predict(folder: &Path, example: [f32; 2]) -> Result<(), Failed> {
    let classifier = DecoupledCircuit::<f32>::open(folder.join(CIRCUIT), &Registry::default())?;
    let around: Around = serde_json::from_str(&fs::read_to_string(folder.join(AROUND))?)?;
    let x = around
        .scaling
        .transform(&DMatrix::from_column_slice(2, 1, &example))?;
    let (label, p) = (
        classifier.predict_labels(&x)?[0],
        classifier.predict_proba(&x)?,
    );
    println!(
        "{example:?}: {}, with probability {:.3}",
        around.classes[label], p[label]
    );
    Ok(())
}

fn main() -> Result<(), Failed> {
    let given: Vec<String> = env::args().skip(1).collect();
    let folder = Path::new(given.first().ok_or("usage: serve DIR [LENGTH WEIGHT]")?);
    if let [_, length, weight] = &given[..] {
        return predict(folder, [length.parse()?, weight.parse()?]);
    }
    train(folder)?;
    for example in [["95", "23"], ["230", "310"]] {
        let other = Command::new(env::current_exe()?)
            .arg(folder)
            .args(example)
            .status()?;
        other
            .success()
            .then_some(())
            .ok_or("the other process failed")?;
    }
    Ok(())
}
