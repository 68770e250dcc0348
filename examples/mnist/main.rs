//! Minibatches and per-example targets on MNIST (or any data in its format): compares backprop with
//! schemes that refresh, keep, or carry over the auxiliary targets.
//!
//! `cargo run --release --example mnist -- --data DIR`; `--help` lists the options.

mod ideas;
#[path = "../digits/resumed.rs"]
mod resumed;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, ValueEnum};
use ideas::{Carried, Idea};
use layerwise::data::{Dataset, Idx, Standardizer, TargetEncoding, metrics};
use layerwise::decoupled::{TargetInit, TargetUse};
use layerwise::energy::Energy;
use layerwise::layer::{Activation, Dense};
use layerwise::loss::{LabelSmoothing, SoftmaxCrossEntropy};
use layerwise::nalgebra::DMatrix;
use layerwise::optimizer::{Adam, AdamW};
use layerwise::schedule::Schedule;
use layerwise::target_solver::{ReverseSweep, StepSize};
use layerwise::training::{Amortized, Backprop, Decoupling, Phase, Targets, Trainer, ZStep};
use layerwise::{Circuit, DecoupledCircuit, Error};
use serde::Serialize;

/// Trains tanh circuits on images in the IDX format by several schemes. Prints one line per scheme
/// and seed: accuracy in per cent after each epoch, on the test images (or on those held out by
/// `--validation`), the gap before and after the Z-steps of the last epoch, and the training time
/// in seconds.
#[derive(Parser)]
struct Options {
    /// Folder with the uncompressed files train-images-idx3-ubyte, train-labels-idx1-ubyte,
    /// t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte; see examples/data/README.md.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Seeds of weights and shuffling.
    #[arg(long, value_delimiter = ',', default_value = "0")]
    seeds: Vec<u64>,
    /// Schemes to run.
    #[arg(long, value_delimiter = ',', default_values_t = SchemeName::DEFAULT)]
    scheme: Vec<SchemeName>,
    /// Share of an example's residuals that the residual scheme keeps at the start.
    #[arg(long, default_value_t = 1.0)]
    keep: f64,
    /// Share kept at the end, as a fraction of `--keep`; changes linearly over the run.
    #[arg(long, default_value_t = 0.0)]
    keep_end: f64,
    /// What the scheme `idea` keeps of an example's targets z_t; `--keep` sets the share γ. h_t is the
    /// plain forward pass, ẑ_t the prediction from z_{t−1}, and s_t = atanh z_t − atanh ẑ_t what was
    /// kept at the last visit.
    #[arg(long, default_value = "offset")]
    idea: Idea,
    /// Reverse sweeps per visit, for all schemes with a solver: `refreshed`, `residual`, `persistent` and `amortized`.
    #[arg(long, default_value_t = 1)]
    sweeps: u64,
    /// Step length of sweeps, in units of 1/(curvature bound).
    #[arg(long, default_value_t = 1.0)]
    margin: f64,
    /// Number of epochs.
    #[arg(long, default_value_t = 10)]
    epochs: u64,
    /// Examples per batch.
    #[arg(long, default_value_t = 128)]
    batch: usize,
    /// Widths of the hidden layers.
    #[arg(long, value_delimiter = ',', default_value = "512,512")]
    widths: Vec<usize>,
    /// Learning rate of Adam.
    #[arg(long, default_value_t = 1e-3)]
    rate: f64,
    /// Learning rate at the end, as a fraction of `--rate`; it falls along a cosine from visit to
    /// visit.
    #[arg(long, default_value_t = 0.0)]
    rate_end: f64,
    /// Weight decay, decoupled from the gradient (AdamW).
    #[arg(long, default_value_t = 0.0)]
    weight_decay: f64,
    /// Label smoothing: the share of the uniform distribution in the targets of the output
    /// loss.
    #[arg(long, default_value_t = 0.1)]
    label_smoothing: f64,
    /// Factor that multiplies the centred pixels. The default is 1/0.3081, one over the standard
    /// deviation of all MNIST pixels.
    #[arg(long, default_value_t = 1.0 / 0.3081)]
    scale: f64,
    /// Hold out this many training images, from the end of the file, and measure accuracy on them
    /// instead of on the test images. Choose options this way.
    #[arg(long, value_name = "IMAGES", default_value_t = 0)]
    validation: usize,
    /// Use only this many training images, from the start of the file.
    #[arg(long)]
    limit: Option<usize>,
    /// Number of threads that share the layers' local problems, at most one per layer.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Folder for checkpoints, one per scheme and seed; written every 100 batches and resumed from if
    /// present. Needs the feature `storage`.
    #[arg(long, value_name = "DIR")]
    resume: Option<PathBuf>,
    /// Print one JSON object per row.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum SchemeName {
    /// Ordinary backprop, the baseline.
    Backprop,
    /// Targets set by a forward pass on each visit; nothing is kept.
    Refreshed,
    /// Residuals kept per example.
    Residual,
    /// Targets kept per example.
    Persistent,
    /// The same as `refreshed`, but θ takes its gradients along the sweep.
    Along,
    /// The same as `persistent`, but θ takes its gradients along the sweep.
    AlongPersistent,
    /// Targets proposed by a second net with one hidden layer, which sees the image.
    Amortized,
    /// One of several other ideas, with one reverse sweep (see --idea).
    Idea,
}

impl SchemeName {
    const DEFAULT: [Self; 4] = [
        Self::Backprop,
        Self::Refreshed,
        Self::Residual,
        Self::Persistent,
    ];

    fn phase(self, options: &Options, inputs: usize) -> Result<Phase<f32>, Error> {
        let rule = AdamW::new(Adam::new(options.rate)?).with_weight_decay(options.weight_decay)?;
        let step = StepSize::Bounded {
            margin: options.margin,
        };
        let sweep = ReverseSweep::new(options.sweeps).with_step(step)?;
        match self {
            Self::Backprop => Phase::new(Backprop, rule),
            Self::Refreshed => Phase::new(Decoupling::refreshed(sweep), rule),
            Self::Residual => {
                let share = Schedule::linear(options.keep_end)?;
                let targets = Targets::Residual {
                    keep: options.keep,
                    schedule: share,
                };
                let scheme = Decoupling::new(targets, ZStep::Solver(Arc::new(sweep)))?;
                Phase::new(scheme, rule)
            }
            Self::Persistent => Phase::new(Decoupling::persistent(sweep), rule),
            Self::Along | Self::AlongPersistent => {
                let targets = match self {
                    Self::Along => Targets::Refreshed,
                    _ => Targets::Persistent,
                };
                Phase::new(Decoupling::new(targets, ZStep::Along(step))?, rule)
            }
            Self::Amortized => {
                let width = 256;
                let hidden = Dense::new(inputs, width, Activation::Relu)?;
                let targets = Dense::new(width, options.widths.iter().sum(), Activation::Identity)?;
                let proposer = Circuit::builder().layer(hidden).layer(targets).build()?;
                Phase::new(
                    Amortized::new(proposer, Adam::new(options.rate)?, sweep)?,
                    rule,
                )
            }
            Self::Idea => Phase::new(Carried::new(options.idea, options.keep), rule),
        }
        .with_epochs(options.epochs)
        .with_schedule(Schedule::cosine(options.rate_end)?)
        .with_batch_size(options.batch)
    }
}

impl std::fmt::Display for SchemeName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = self.to_possible_value().expect("no variant is hidden");
        f.pad(value.get_name())
    }
}

/// Images (pixels × n, in 0..=1) and their one-hot classes.
struct Images {
    pixels: DMatrix<f32>,
    classes: DMatrix<f32>,
}

const CLASSES: usize = 10;

impl Images {
    fn read(folder: &Path, name: &str, limit: Option<usize>) -> Result<Self, Error> {
        let images = folder.join(format!("{name}-images-idx3-ubyte"));
        let labels = folder.join(format!("{name}-labels-idx1-ubyte"));
        let classes = TargetEncoding::OneHot { classes: CLASSES };
        let data = Idx::open(images, labels, classes)?.with_scale(1.0 / 255.0)?;
        let rows: Vec<usize> = (0..data.len()).take(limit.unwrap_or(usize::MAX)).collect();
        let (pixels, classes) = data.matrices(&rows)?;
        Ok(Self { pixels, classes })
    }

    /// The last `count` images, which are no longer here.
    fn split_off(&mut self, count: usize) -> Result<Self, String> {
        let all = self.pixels.ncols();
        let kept = all.checked_sub(count).filter(|&kept| kept > 0);
        let kept = kept.ok_or(format!(
            "{count} of {all} training images cannot be held out"
        ))?;
        let part = |start, count| Self {
            pixels: self.pixels.columns(start, count).into_owned(),
            classes: self.classes.columns(start, count).into_owned(),
        };
        let (first, last) = (part(0, kept), part(kept, count));
        *self = first;
        Ok(last)
    }
}

/// One line of the output.
#[derive(Serialize)]
struct Row {
    scheme: SchemeName,
    seed: u64,
    /// Per epoch, in 0..=1; on the images held out, if there are any.
    accuracy: Vec<f64>,
    /// Per epoch; empty for backprop.
    gap_before: Vec<Option<f32>>,
    gap_after: Vec<Option<f32>>,
    /// Of training, testing included; since the last start, if resumed.
    seconds: f64,
}

fn run(
    scheme: SchemeName,
    seed: u64,
    options: &Options,
    (train, test): (&Images, &Images),
) -> Result<Row, Box<dyn std::error::Error>> {
    let mut builder = Circuit::builder().seed(seed);
    let mut input = train.pixels.nrows();
    for &width in &options.widths {
        builder = builder.layer(Dense::new(input, width, Activation::Tanh)?);
        input = width;
    }
    let circuit = builder
        .layer(Dense::new(input, CLASSES, Activation::Identity)?)
        .build()?;
    let loss = LabelSmoothing::new(SoftmaxCrossEntropy, options.label_smoothing)?;
    let mut model = DecoupledCircuit::new(circuit, Energy::new(loss))?;
    let phase = scheme.phase(options, train.pixels.nrows())?;
    let init = match phase.scheme().targets() {
        TargetUse::Kept => TargetInit::ForwardPass,
        _ => TargetInit::Computed,
    };
    model.add_examples(&train.pixels, &train.classes, &init)?;
    let trainer = Trainer::new(phase)
        .with_seed(seed)
        .with_threads(options.threads)?
        // After every epoch; nothing is chosen by them here.
        .with_validation(test.pixels.clone(), test.classes.clone())
        .with_metric(|classes, outputs| metrics::accuracy(classes, outputs));
    let mut session = resumed::session(
        &trainer,
        model,
        options.resume.as_deref(),
        &format!("{scheme}-{seed}"),
        100,
    )?;
    let report = session.run()?;
    Ok(Row {
        scheme,
        seed,
        accuracy: report.history.iter().filter_map(|own| own.metric).collect(),
        gap_before: report
            .history
            .iter()
            .map(|record| record.gap_before)
            .collect(),
        gap_after: report
            .history
            .iter()
            .map(|record| record.gap_after)
            .collect(),
        seconds: report.seconds,
    })
}

fn compare(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    let mut train = Images::read(&options.data, "train", options.limit)?;
    let mut test = match options.validation {
        0 => Images::read(&options.data, "t10k", None)?,
        count => train.split_off(count)?,
    };
    let measured = match options.validation {
        0 => "test %",
        _ => "validation %",
    };
    if test.pixels.nrows() != train.pixels.nrows() {
        return Err("training and test images differ in size".into());
    }
    let centre = Standardizer::fit_mean_only(&train.pixels)?;
    train.pixels = centre.transform(&train.pixels)?;
    test.pixels = centre.transform(&test.pixels)?;
    train.pixels *= options.scale as f32;
    test.pixels *= options.scale as f32;
    for &seed in &options.seeds {
        for &scheme in &options.scheme {
            let row = run(scheme, seed, options, (&train, &test))?;
            if options.json {
                println!("{}", serde_json::to_string(&row)?);
                continue;
            }
            print!("{scheme:<10} seed {seed:<3} {measured}");
            for accuracy in &row.accuracy {
                print!(" {:>6.2}", 100.0 * accuracy);
            }
            let last = |gaps: &[Option<f32>]| gaps.last().copied().flatten();
            if let (Some(met), Some(left)) = (last(&row.gap_before), last(&row.gap_after)) {
                print!("   gap {met:.3} before, {left:.3} after the Z-steps");
            }
            println!("   {:.1} s", row.seconds);
        }
    }
    Ok(())
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
