//! Five schemes over three seeds, on handwritten digits.
//!
//! `cargo run --release --example compare`

#[path = "digits/data.rs"]
mod data;

use layerwise::prelude::*;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let epochs = std::env::args().nth(1).map_or(Ok(60), |own| own.parse())?;
    let (train, test) = data::load(2)?;
    let rule = Adam::new(1e-2)?;
    let momentum = GradientDescent::new(0.1)?.with_momentum(0.9)?;
    let long = ReverseSweep::new(3).with_step(StepSize::Bounded { margin: 1.8 })?;
    let schemes: [(&str, Phase<f32>); 5] = [
        ("backprop", Phase::new(Backprop, rule)),
        ("joint", Phase::new(Decoupling::joint(momentum), rule)),
        (
            "refreshed",
            Phase::new(Decoupling::refreshed(ReverseSweep::new(1)), rule),
        ),
        ("persistent", Phase::new(Decoupling::persistent(long), rule)),
        ("multipliers", presets::admm(ReverseSweep::new(3), rule)),
    ];
    for (name, phase) in schemes {
        let mut accuracies = Vec::new();
        for seed in 0..3 {
            let circuit = Circuit::builder()
                .layer(Dense::new(64, 64, Activation::Tanh)?)
                .layer(Dense::new(64, 64, Activation::Tanh)?)
                .layer(Dense::new(64, data::CLASSES, Activation::Identity)?)
                .seed(seed)
                .build()?;
            let mut model = DecoupledCircuit::new(circuit, Energy::new(SoftmaxCrossEntropy))?;
            model.add_examples(&train.images, &train.classes, &TargetInit::ForwardPass)?;
            let phase = phase.clone().with_epochs(epochs);
            Trainer::new(phase).with_measure_every(0).run(&mut model)?;
            accuracies.push(metrics::accuracy(
                &test.labels,
                &model.predict(&test.images)?,
            )?);
        }
        println!("{name:<12} {accuracies:.4?}");
    }
    Ok(())
}
