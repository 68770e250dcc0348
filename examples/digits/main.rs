//! Trains on handwritten digits by backprop and by decoupled schemes, side by side.
//!
//! `cargo run --release --example digits -- --help` lists the options.

mod data;
mod resumed;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use data::Digits;
use indicatif::{ProgressBar, ProgressStyle};
use layerwise::data::metrics;
use layerwise::decoupled::{Selection, TargetInit};
use layerwise::diagnostics::{DiagnosticReport, Diagnostics};
use layerwise::energy::Energy;
use layerwise::layer::{Activation, Dense};
use layerwise::loss::SoftmaxCrossEntropy;
use layerwise::optimizer::{Adam, GradientDescent};
use layerwise::schedule::Schedule;
use layerwise::target_solver::{ReverseSweep, StepSize};
use layerwise::training::{Backprop, Decoupling, Event, Phase, Trainer};
use layerwise::{Circuit, DecoupledCircuit, Error};
use serde::Serialize;

/// Trains tanh circuits on 8×8 handwritten digits by several schemes and prints one table.
///
/// Columns: accuracy on training and test images; composed loss, E and gap, per training
/// example; cosine similarity of the scheme's next parameter gradient with backprop's; sweeps over
/// the targets per step of θ; training time in seconds. For backprop, E and gap are those of forward-pass targets.
#[derive(Parser)]
struct Options {
    /// Seeds of the initial weights.
    #[arg(long, value_delimiter = ',', default_value = "0,1,2,3,4")]
    seeds: Vec<u64>,
    /// Seed of the split into 1437 training and 360 test images.
    #[arg(long, default_value_t = 2)]
    split_seed: u64,
    /// Number of epochs [default: 300 for backprop, 600 for the other schemes].
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    epochs: Option<u64>,
    /// Widths of the hidden layers.
    #[arg(long, value_delimiter = ',', default_value = "64,64", value_parser = positive)]
    widths: Vec<usize>,
    /// Schemes to run.
    #[arg(long, value_delimiter = ',', default_values_t = SchemeName::ALL)]
    scheme: Vec<SchemeName>,
    /// Number of threads that share the layers' local problems, at most one per layer.
    #[arg(long, default_value = "1", value_parser = positive)]
    threads: usize,
    /// Folder for checkpoints, one per scheme and seed; written every 50 epochs and resumed from if present. Needs
    /// the feature `storage`.
    #[arg(long, value_name = "DIR")]
    resume: Option<PathBuf>,
    /// Print one JSON object per row instead of the table.
    #[arg(long)]
    json: bool,
    /// After every run, print diagnostics of each layer on the training images.
    #[arg(long, conflicts_with = "json")]
    diagnose: bool,
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".into()),
        Ok(number) => Ok(number),
        Err(error) => Err(error.to_string()),
    }
}

#[derive(Clone, Copy, PartialEq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum SchemeName {
    /// Ordinary backprop, the baseline.
    Backprop,
    /// Joint descent: θ and z together, z with momentum.
    Joint,
    /// Targets refreshed by a forward pass on each visit, one reverse sweep, one θ-step.
    Refreshed,
    /// Persistent targets, three reverse sweeps, one θ-step; at its default epochs it takes some ten times as long
    /// as backprop.
    Persistent,
}

impl SchemeName {
    const ALL: [Self; 4] = [
        Self::Backprop,
        Self::Joint,
        Self::Refreshed,
        Self::Persistent,
    ];

    /// The only difference between the schemes.
    fn phase(self) -> Result<Phase<f32>, Error> {
        Ok(match self {
            Self::Backprop => Phase::new(Backprop, Adam::new(1e-2)?).with_epochs(300),
            Self::Joint => {
                let targets = GradientDescent::new(0.1)?.with_momentum(0.9)?;
                Phase::new(Decoupling::joint(targets), Adam::new(1e-2)?).with_epochs(600)
            }
            Self::Refreshed => {
                let scheme = Decoupling::refreshed(ReverseSweep::new(1));
                Phase::new(scheme, Adam::new(1e-2)?).with_epochs(600)
            }
            Self::Persistent => {
                let scheme = Decoupling::persistent(persistent_sweeps()?);
                Phase::new(scheme, Adam::new(3e-3)?).with_epochs(600)
            }
        }
        .with_schedule(Schedule::cosine(0.05)?))
    }

    /// Sweeps over the targets per visit; joint descent makes none, as its targets step with θ.
    fn sweeps(self) -> u64 {
        match self {
            Self::Backprop | Self::Joint => 0,
            Self::Refreshed => 1,
            Self::Persistent => PERSISTENT_SWEEPS,
        }
    }

    /// The model with its targets moved as the scheme's next visit would move them.
    fn next_visit(self, model: &DecoupledCircuit<f32>) -> Result<DecoupledCircuit<f32>, Error> {
        let mut model = model.clone();
        match self {
            Self::Backprop | Self::Joint => {}
            Self::Refreshed => {
                model.initialize_targets(&TargetInit::ForwardPass)?;
                model.solve_targets(&ReverseSweep::new(1), &Selection::All)?;
            }
            Self::Persistent => {
                model.solve_targets(&persistent_sweeps()?, &Selection::All)?;
            }
        }
        Ok(model)
    }
}

/// Sweeps per visit of the persistent scheme.
const PERSISTENT_SWEEPS: u64 = 3;

/// Persistent targets lag behind the moving weights, so they need more and longer steps.
fn persistent_sweeps() -> Result<ReverseSweep, Error> {
    ReverseSweep::new(PERSISTENT_SWEEPS).with_step(StepSize::Bounded { margin: 1.8 })
}

impl std::fmt::Display for SchemeName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = self.to_possible_value().expect("no variant is hidden");
        f.pad(value.get_name())
    }
}

/// One row of the table. Losses, energy and gap are per training example.
#[derive(Serialize)]
struct Row {
    scheme: SchemeName,
    seed: u64,
    train_accuracy: f64,
    test_accuracy: f64,
    composed_loss: f64,
    energy: f64,
    gap: f64,
    bp_cosine: f64,
    sweeps: u64,
    seconds: f64,
    #[serde(skip)]
    diagnosis: Option<DiagnosticReport<f32>>,
}

fn circuit(widths: &[usize], seed: u64) -> Result<Circuit<f32>, Error> {
    let mut builder = Circuit::builder().seed(seed);
    let mut input = 64;
    for &width in widths {
        builder = builder.layer(Dense::new(input, width, Activation::Tanh)?);
        input = width;
    }
    builder
        .layer(Dense::new(input, data::CLASSES, Activation::Identity)?)
        .build()
}

fn run(
    scheme: SchemeName,
    seed: u64,
    options: &Options,
    (train, test): &(Digits, Digits),
) -> Result<Row, Box<dyn std::error::Error>> {
    let mut model = DecoupledCircuit::new(
        circuit(&options.widths, seed)?,
        Energy::new(SoftmaxCrossEntropy),
    )?;
    model.add_examples(&train.images, &train.classes, &TargetInit::ForwardPass)?;
    let mut phase = scheme.phase()?;
    if let Some(epochs) = options.epochs {
        phase = phase.with_epochs(epochs);
    }
    let trainer = Trainer::new(phase)
        .with_seed(seed)
        .with_threads(options.threads)?
        .with_measure_every(0);
    let style = ProgressStyle::with_template("{prefix:10} epoch {pos:>4} {wide_msg}");
    let bar = ProgressBar::no_length()
        .with_style(style.expect("the template is valid"))
        .with_prefix(scheme.to_string());
    let mut session = resumed::session(
        &trainer,
        model,
        options.resume.as_deref(),
        &format!("{scheme}-{seed}"),
        50,
    )?;
    while let Some(event) = session.advance()? {
        if let Event::Epoch(record) = event {
            bar.set_position(record.epoch);
            bar.set_message(format!("objective {:.4}", record.objective));
        }
    }
    bar.finish_and_clear();
    let (mut model, report) = session.finish();
    if scheme == SchemeName::Backprop {
        // Backprop does not use the targets: report E and gap of the forward pass.
        model.initialize_targets(&TargetInit::ForwardPass)?;
    }
    let n = train.labels.len() as f64;
    let next = scheme.next_visit(&model)?;
    let backprop = model.backprop(&Selection::All)?;
    let gradient = match scheme {
        SchemeName::Backprop => backprop.clone(),
        _ => next.gradients(&Selection::All)?,
    };
    if scheme == SchemeName::Refreshed {
        // Its targets are not kept: report E and gap of one more visit at the final parameters.
        model = next;
    }
    let gaps = model.gap()?;
    let diagnosis = options.diagnose.then(|| {
        let diagnostics = Diagnostics::new()
            .with_labels(&train.labels)
            .with_curvature(10);
        model.diagnose(&diagnostics)
    });
    let diagnosis = diagnosis.transpose()?;
    Ok(Row {
        scheme,
        seed,
        train_accuracy: metrics::accuracy(&train.labels, &model.predict(&train.images)?)?,
        test_accuracy: metrics::accuracy(&test.labels, &model.predict(&test.images)?)?,
        composed_loss: f64::from(model.composed_loss()?) / n,
        energy: f64::from(model.energy()?) / n,
        gap: gaps
            .iter()
            .map(|&gap| f64::from(gap).powi(2))
            .sum::<f64>()
            .sqrt(),
        bp_cosine: cosine(&gradient.parameters, &backprop.parameters),
        sweeps: scheme.sweeps(),
        seconds: report.seconds,
        diagnosis,
    })
}

fn cosine(a: &[Vec<f32>], b: &[Vec<f32>]) -> f64 {
    let dot = |a: &[Vec<f32>], b: &[Vec<f32>]| {
        let pairs = a.iter().flatten().zip(b.iter().flatten());
        pairs
            .map(|(&a, &b)| f64::from(a) * f64::from(b))
            .sum::<f64>()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let (low, high) = ((values.len() - 1) / 2, values.len() / 2);
    0.5 * (values[low] + values[high])
}

fn main() -> ExitCode {
    match compare(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    if !options.json {
        println!(
            "{:<10} {:>6} {:>8} {:>8} {:>10} {:>10} {:>8} {:>8} {:>7} {:>8}",
            "scheme",
            "seed",
            "train %",
            "test %",
            "loss",
            "E",
            "gap",
            "bp cos",
            "sweeps",
            "seconds"
        );
    }
    let mut rows = Vec::new();
    let data = data::load(options.split_seed)?;
    for &seed in &options.seeds {
        for &scheme in &options.scheme {
            let row = run(scheme, seed, options, &data)?;
            if options.json {
                println!("{}", serde_json::to_string(&row)?);
            } else {
                println!(
                    "{scheme:<10} {:>6} {:>8.2} {:>8.2} {:>10.5} {:>10.5} {:>8.4} {:>8.4} {:>7} {:>8.2}",
                    row.seed,
                    100.0 * row.train_accuracy,
                    100.0 * row.test_accuracy,
                    row.composed_loss,
                    row.energy,
                    row.gap,
                    row.bp_cosine,
                    row.sweeps,
                    row.seconds
                );
            }
            if let Some(diagnosis) = &row.diagnosis {
                println!("\n{diagnosis}\n");
            }
            rows.push(row);
        }
    }
    if !options.json && options.seeds.len() > 1 {
        println!("\nmedian over {} seeds", options.seeds.len());
        for &scheme in &options.scheme {
            let of = |value: fn(&Row) -> f64| {
                let own = rows.iter().filter(|row| row.scheme == scheme);
                median(own.map(value).collect())
            };
            println!(
                "{scheme:<10} {:>6} {:>8.2} {:>8.2}",
                "",
                100.0 * of(|row| row.train_accuracy),
                100.0 * of(|row| row.test_accuracy)
            );
        }
    }
    Ok(())
}
