//! Deep residual circuits in the depth-scaled parametrisation (μPC), trained by backprop and with
//! refreshed targets that one reverse sweep or one Gauss-Newton step moves. Every residual block is a unit
//! with targets of its own.
//!
//! A sweep halves what it passes to the previous layer, so in a deep circuit the first layers get almost
//! nothing. A Gauss-Newton step that is preconditioned by the chain of layers reaches all of them.
//!
//! Learning rates of Adam are chosen by the same rule for every scheme, on held-out training images; the
//! test images are used once per seed.
//!
//! `cargo run --release --example residual -- --data DIR` for MNIST; without `--data`, on the bundled digits.

#[path = "digits/data.rs"]
mod data;

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{Parser, ValueEnum};
use data::Digits;
use layerwise::circuit::ResidualStack;
use layerwise::data::{Dataset, Idx, TargetEncoding, metrics};
use layerwise::nalgebra::DVector;
use layerwise::prelude::*;
use layerwise::target_solver::{GaussNewton, StepSize};
use layerwise::training::ErrorShare;
use serde::Serialize;

/// Trains residual circuits with one unit per block on images of digits, with squared error on one-hot
/// classes.
#[derive(Parser)]
struct Options {
    /// Folder with MNIST's four uncompressed files; see examples/data/README.md.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Seeds of the initial weights and of the order of the batches.
    #[arg(long, value_delimiter = ',', default_value = "0,1,2")]
    seeds: Vec<u64>,
    /// Numbers of layers: the residual blocks plus two.
    #[arg(long, value_delimiter = ',', default_value = "30", value_parser = clap::value_parser!(u64).range(3..))]
    depths: Vec<u64>,
    /// Units per block.
    #[arg(long, default_value_t = 128)]
    width: usize,
    /// Number of batches.
    #[arg(long, default_value = "900", value_parser = positive)]
    batches: usize,
    /// Images per batch.
    #[arg(long, default_value = "64", value_parser = positive)]
    batch: usize,
    /// Learning rates to choose from. A single one is used as it is.
    #[arg(long, value_delimiter = ',', default_value = "0.003,0.01,0.03,0.1")]
    rates: Vec<f64>,
    /// Penalty μ of every hidden layer.
    #[arg(long, default_value_t = 1.0)]
    penalty: f32,
    /// Set μ so that a solved Z-step leaves this share of backprop's errors, from every 10th batch
    /// (`ErrorShare`).
    #[arg(long)]
    keep: Option<f64>,
    /// Schemes to run.
    #[arg(long, value_delimiter = ',', default_values_t = SchemeName::ALL)]
    scheme: Vec<SchemeName>,
    /// Print one JSON object per row instead of the table.
    #[arg(long)]
    json: bool,
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".into()),
        Ok(number) => Ok(number),
        Err(error) => Err(error.to_string()),
    }
}

/// One run.
#[derive(Serialize)]
struct Row {
    scheme: SchemeName,
    depth: u64,
    rate: f64,
    seed: u64,
    /// In per cent.
    test_accuracy: f64,
    seconds: f64,
}

#[derive(Clone, Copy, PartialEq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum SchemeName {
    /// Ordinary backprop, the baseline.
    Backprop,
    /// Refreshed targets, one reverse sweep.
    Sweep,
    /// Refreshed targets, one Gauss-Newton step along the gradient preconditioned by the chain of layers.
    Chained,
}

impl SchemeName {
    const ALL: [Self; 3] = [Self::Backprop, Self::Sweep, Self::Chained];

    fn phase(self, rule: Adam) -> Result<Phase<f32>, Error> {
        Ok(match self {
            Self::Backprop => Phase::new(Backprop, rule),
            Self::Sweep => {
                let sweep = ReverseSweep::new(1).with_step(StepSize::Checked(0.5))?;
                Phase::new(Decoupling::refreshed(sweep), rule)
            }
            Self::Chained => Phase::new(Decoupling::refreshed(GaussNewton::chained(1, 1)), rule),
        })
    }
}

impl std::fmt::Display for SchemeName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = self.to_possible_value().expect("no variant is hidden");
        f.pad(value.get_name())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options::parse();
    let (train, test) = match &options.data {
        Some(folder) => (read(folder, "train")?, read(folder, "t10k")?),
        None => data::load(2)?,
    };
    if !options.json {
        println!("scheme     depth  rate   seed  test accuracy  seconds");
    }
    for &depth in &options.depths {
        for &scheme in &options.scheme {
            let rate = chosen_rate(&train, scheme, depth, &options)?;
            for &seed in &options.seeds {
                let begun = Instant::now();
                let model = trained(&train, scheme, (depth, rate, seed), &options)?;
                let row = Row {
                    scheme,
                    depth,
                    rate,
                    seed,
                    seconds: begun.elapsed().as_secs_f64(),
                    test_accuracy: accuracy(&model, &test)?,
                };
                match options.json {
                    true => println!("{}", serde_json::to_string(&row)?),
                    false => println!(
                        "{scheme:<9}  {depth:<5}  {rate:<5}  {seed:<4}  {:<13.2}  {:.1}",
                        row.test_accuracy, row.seconds
                    ),
                }
            }
        }
    }
    Ok(())
}

/// The rate with the highest accuracy on the last sixth of the training images, for the first seed.
fn chosen_rate(
    train: &Digits,
    scheme: SchemeName,
    depth: u64,
    options: &Options,
) -> Result<f64, Error> {
    let n = train.labels.len();
    let (own, held_out) = (part(train, 0..n - n / 6), part(train, n - n / 6..n));
    let mut best = (f64::NEG_INFINITY, options.rates[0]);
    for &rate in options.rates.iter().filter(|_| options.rates.len() > 1) {
        let run = (depth, rate, options.seeds[0]);
        // A run that diverges counts as accuracy 0.
        let accuracy =
            trained(&own, scheme, run, options).and_then(|own| accuracy(&own, &held_out));
        let accuracy = accuracy.unwrap_or(0.0);
        if !options.json {
            println!("{scheme:<9}  {depth:<5}  {rate:<5}  held-out accuracy {accuracy:.2}");
        }
        if accuracy > best.0 {
            best = (accuracy, rate);
        }
    }
    Ok(best.1)
}

fn trained(
    train: &Digits,
    scheme: SchemeName,
    (depth, rate, seed): (u64, f64, u64),
    options: &Options,
) -> Result<DecoupledCircuit<f32>, Error> {
    let stack = ResidualStack::new(train.images.nrows(), data::CLASSES)
        .with_width(options.width)?
        .with_blocks(depth as usize - 2)?;
    let energy = Energy::default().with_penalty(options.penalty);
    let mut model = DecoupledCircuit::new(stack.build(seed)?, energy)?;
    // Whole epochs, with the requested number of batches at most. The last batch of an epoch may be a short one.
    let images = options.batches.saturating_mul(options.batch);
    let visited = images.min(train.labels.len());
    let own = part(train, 0..visited);
    model.add_examples(&own.images, &own.classes, &TargetInit::Computed)?;
    let epochs = (options.batches / visited.div_ceil(options.batch)) as u64;
    let mut phase = scheme.phase(Adam::new(rate)?)?.with_epochs(epochs);
    if let Some(keep) = options.keep {
        phase = phase.with_error_share(ErrorShare::new(keep)?)?;
    }
    let trainer = Trainer::new(phase.with_batch_size(options.batch.min(visited))?)
        .with_seed(seed)
        .with_measure_every(0);
    trainer.run(&mut model)?;
    Ok(model)
}

/// In per cent.
fn accuracy(model: &DecoupledCircuit<f32>, digits: &Digits) -> Result<f64, Error> {
    Ok(100.0 * metrics::accuracy(&digits.labels, &model.predict(&digits.images)?)?)
}

fn part(digits: &Digits, range: std::ops::Range<usize>) -> Digits {
    let columns = |of: &DMatrix<f32>| of.columns(range.start, range.len()).into_owned();
    Digits {
        images: columns(&digits.images),
        mean: digits.mean.clone(),
        classes: columns(&digits.classes),
        labels: digits.labels[range.clone()].to_vec(),
    }
}

/// The mean and the standard deviation of MNIST's pixels, from 0 to 1.
const PIXELS: (f32, f32) = (0.1307, 0.3081);

/// MNIST's images, standardised by [`PIXELS`].
fn read(folder: &Path, name: &str) -> Result<Digits, Error> {
    let [images, labels] =
        ["images-idx3", "labels-idx1"].map(|kind| folder.join(format!("{name}-{kind}-ubyte")));
    let one_hot = TargetEncoding::OneHot {
        classes: data::CLASSES,
    };
    let data = Idx::open(images, labels, one_hot)?.with_scale(1.0 / 255.0)?;
    let rows: Vec<usize> = (0..data.len()).collect();
    let (mut images, classes): (DMatrix<f32>, DMatrix<f32>) = data.matrices(&rows)?;
    images.apply(|x| *x = (*x - PIXELS.0) / PIXELS.1);
    Ok(Digits {
        mean: DVector::from_element(images.nrows(), PIXELS.0),
        images,
        labels: metrics::labels(&classes),
        classes,
    })
}
