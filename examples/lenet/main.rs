//! LeNet-5 on Fashion-MNIST: backprop and three decoupled schemes, in which a convolution with its
//! activation and pooling is one unit.
//!
//! `cargo run --release --example lenet -- --data DIR`; without `--data`, on a bundled sample of 150 images,
//! which is too small to compare schemes.

mod data;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use data::{CLASSES, Images, SIDE};
use layerwise::data::metrics;
use layerwise::decoupled::TargetUse;
use layerwise::layer::{AveragePool2d, Conv2d, Window2d};
use layerwise::prelude::*;
use layerwise::target_solver::StepSize;
use serde::Serialize;

/// Trains LeNet-5 on images of 28×28 pixels with several schemes.
#[derive(Parser)]
struct Options {
    /// Folder with Fashion-MNIST's four uncompressed files; see examples/data/README.md.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Seeds of the initial weights and of the order of the batches.
    #[arg(long, value_delimiter = ',', default_value = "0,1,2")]
    seeds: Vec<u64>,
    /// Schemes to run, in this order for every seed.
    #[arg(long, value_delimiter = ',', default_values_t = SchemeName::ALL)]
    schemes: Vec<SchemeName>,
    /// Number of epochs.
    #[arg(long, default_value_t = 5)]
    epochs: u64,
    /// Images per batch.
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// Learning rates of Adam to choose from: every scheme gets the one with the highest accuracy on the last
    /// sixth of the training images with the first seed. A single one is used as it is. The default was chosen in
    /// this way on Fashion-MNIST, for `backprop` and `refreshed`.
    #[arg(long, value_delimiter = ',', default_value = "0.004")]
    rates: Vec<f64>,
    /// Learning rate at the end, as a fraction of the first; it falls along a cosine from visit to visit.
    #[arg(long, default_value_t = 0.0)]
    rate_end: f64,
    /// Number of epochs in the runs that choose a rate.
    #[arg(long, default_value_t = 5)]
    trial_epochs: u64,
    /// Step size of the sweep in `refreshed` and `residual`.
    #[arg(long, default_value_t = 0.03)]
    step: f64,
    /// Step size of the targets in `joint`, whose momentum is 0.9.
    #[arg(long, default_value_t = 0.5)]
    joint_step: f64,
    /// μ, the weight of the hidden losses.
    #[arg(long, default_value_t = 1.0)]
    penalty: f32,
    /// Print one JSON object per row instead of the table.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum SchemeName {
    /// Ordinary backprop, the baseline.
    Backprop,
    /// Targets set by a forward pass on each visit, and one reverse sweep.
    Refreshed,
    /// Joint descent on targets that are kept per example.
    Joint,
    /// Residuals kept per example, and one reverse sweep.
    Residual,
}

impl SchemeName {
    const ALL: [Self; 4] = [Self::Backprop, Self::Refreshed, Self::Joint, Self::Residual];

    fn phase(self, rate: f64, options: &Options) -> Result<Phase<f32>, Error> {
        let rule = Adam::new(rate)?;
        let sweep = ReverseSweep::new(1).with_step(StepSize::Checked(options.step))?;
        Ok(match self {
            Self::Backprop => Phase::new(Backprop, rule),
            Self::Refreshed => Phase::new(Decoupling::refreshed(sweep), rule),
            Self::Joint => {
                let of_targets = GradientDescent::new(options.joint_step)?.with_momentum(0.9)?;
                Phase::new(Decoupling::joint(of_targets), rule)
            }
            Self::Residual => Phase::new(Decoupling::residual(sweep), rule),
        })
    }
}

impl std::fmt::Display for SchemeName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = self.to_possible_value().expect("no variant is hidden");
        f.pad(value.get_name())
    }
}

/// One run.
#[derive(Serialize)]
struct Row {
    scheme: SchemeName,
    rate: f64,
    seed: u64,
    /// In per cent.
    test_accuracy: f64,
    /// Of training.
    seconds: f64,
}

fn main() -> ExitCode {
    match compare(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let hint = match error.downcast_ref() {
                Some(Error::File { .. }) => "; see examples/data/README.md for how to get the data",
                _ => "",
            };
            eprintln!("error: {error}{hint}");
            ExitCode::FAILURE
        }
    }
}

fn compare(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    let [train, test] = data::load(options.data.as_deref())?;
    let mut rates = Vec::new();
    for &scheme in &options.schemes {
        rates.push(chosen_rate(&train, scheme, options)?);
    }
    if !options.json {
        println!("scheme     rate    seed  test accuracy  seconds");
    }
    for &seed in &options.seeds {
        for (&scheme, &rate) in options.schemes.iter().zip(&rates) {
            let run = (rate, seed, options.epochs);
            let (model, seconds) = trained(&train, scheme, run, options)?;
            let row = Row {
                scheme,
                rate,
                seed,
                test_accuracy: accuracy(&model, &test)?,
                seconds,
            };
            match options.json {
                true => println!("{}", serde_json::to_string(&row)?),
                false => println!(
                    "{scheme:<9}  {rate:<6}  {seed:<4}  {:<13.2}  {seconds:.1}",
                    row.test_accuracy
                ),
            }
        }
    }
    Ok(())
}

/// Of several rates, the one with the highest accuracy on the last sixth of the training images, for the first
/// seed.
fn chosen_rate(train: &Images, scheme: SchemeName, options: &Options) -> Result<f64, Error> {
    let n = train.labels.len();
    let (own, held_out) = (train.part(0..n - n / 6), train.part(n - n / 6..n));
    let mut best = (f64::NEG_INFINITY, options.rates[0]);
    for &rate in options.rates.iter().filter(|_| options.rates.len() > 1) {
        let run = (rate, options.seeds[0], options.trial_epochs);
        // A run that diverges counts as accuracy 0.
        let accuracy = trained(&own, scheme, run, options)
            .and_then(|(model, _)| accuracy(&model, &held_out))
            .unwrap_or(0.0);
        if !options.json {
            println!("{scheme:<9}  {rate:<6}  held-out accuracy {accuracy:.2}");
        }
        if accuracy > best.0 {
            best = (accuracy, rate);
        }
    }
    Ok(best.1)
}

/// The trained model, and the seconds of training.
fn trained(
    train: &Images,
    scheme: SchemeName,
    (rate, seed, epochs): (f64, u64, u64),
    options: &Options,
) -> Result<(DecoupledCircuit<f32>, f64), Error> {
    let energy = Energy::new(SoftmaxCrossEntropy).with_penalty(options.penalty);
    let mut model = DecoupledCircuit::new(lenet(seed)?, energy)?;
    let phase = scheme.phase(rate, options)?.with_epochs(epochs);
    let init = match phase.scheme().targets() {
        TargetUse::Kept => TargetInit::ForwardPass,
        _ => TargetInit::Computed,
    };
    model.add_examples(&train.pixels, &train.classes, &init)?;
    let phase = phase.with_schedule(Schedule::cosine(options.rate_end)?);
    let trainer = Trainer::new(phase.with_batch_size(options.batch)?)
        .with_seed(seed)
        .with_measure_every(0);
    let report = trainer.run(&mut model)?;
    Ok((model, report.seconds))
}

/// LeNet-5 with five units, and so with targets of 1176, 400, 120 and 84 values per image: a convolution's
/// output has no targets before it is pooled.
fn lenet(seed: u64) -> Result<Circuit<f32>, Error> {
    // The rows of the files are the columns here. For a net with square windows this only transposes every
    // image.
    let first = Conv2d::new(
        [1, SIDE, SIDE],
        6,
        Window2d::new(5).with_padding(2),
        Activation::Tanh,
    )?;
    let second = Conv2d::new([6, 14, 14], 16, 5, Activation::Tanh)?;
    Circuit::builder()
        .layer(Sequential::new(vec![
            Box::new(first),
            Box::new(AveragePool2d::new([6, SIDE, SIDE], 2)?),
        ])?)
        .layer(Sequential::new(vec![
            Box::new(second),
            Box::new(AveragePool2d::new([16, 10, 10], 2)?),
        ])?)
        .layer(Dense::new(400, 120, Activation::Tanh)?)
        .layer(Dense::new(120, 84, Activation::Tanh)?)
        .layer(Dense::new(84, CLASSES, Activation::Identity)?)
        .seed(seed)
        .build()
}

/// In per cent.
fn accuracy(model: &DecoupledCircuit<f32>, images: &Images) -> Result<f64, Error> {
    Ok(100.0 * metrics::accuracy(&images.labels, &model.predict(&images.pixels)?)?)
}
