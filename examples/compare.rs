//! Five schemes over three seeds, on handwritten digits.
//!
//! `cargo run --release --example compare`; with `--features plot`, `-- --plot FILE.svg` plots
//! them.

#[path = "digits/data.rs"]
mod data;

use clap::Parser;
#[cfg(feature = "plot")]
use layerwise::plot::{Axis, Measure, Page, Runs};
use layerwise::prelude::*;

/// Trains five schemes with three seeds each on handwritten digits, and prints each scheme's test
/// accuracies, one per seed.
#[derive(Parser)]
struct Options {
    /// Number of epochs of every run.
    #[arg(default_value_t = 60)]
    epochs: u64,
    /// SVG file for a plot of all runs.
    #[cfg(feature = "plot")]
    #[arg(long, value_name = "FILE")]
    plot: Option<std::path::PathBuf>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options::parse();
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
    println!("{:<12} test accuracy with seeds 0, 1, 2", "scheme");
    #[cfg(feature = "plot")]
    let mut runs = Runs::new();
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
            let trainer = Trainer::new(phase.clone().with_epochs(options.epochs));
            #[cfg(not(feature = "plot"))]
            trainer.with_measure_every(0).run(&mut model)?;
            #[cfg(feature = "plot")]
            {
                let trainer = match options.plot {
                    None => trainer.with_measure_every(0),
                    Some(_) => trainer
                        .with_validation(test.images.clone(), test.classes.clone())
                        .with_metric(|y, logits| Ok(100.0 - 100.0 * metrics::accuracy(y, logits)?)),
                };
                let report = trainer.run(&mut model)?;
                runs = runs.with_run(name, &report.history);
            }
            accuracies.push(metrics::accuracy(
                &test.labels,
                &model.predict(&test.images)?,
            )?);
        }
        println!("{name:<12} {accuracies:.4?}");
    }
    #[cfg(feature = "plot")]
    if let Some(path) = options.plot {
        let loss = Axis::logarithmic("composed loss per training image");
        Page::new("Handwritten digits: five schemes")
            .with_panel(runs.panel(Measure::ComposedLoss, loss)?)
            .with_panel(runs.panel(Measure::Metric, Axis::logarithmic("test error, %"))?)
            .with_panel(runs.panel(Measure::Gap, Axis::logarithmic("gap"))?)
            .save(path)?;
    }
    Ok(())
}
