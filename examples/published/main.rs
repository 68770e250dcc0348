//! Published results on MNIST and Fashion-MNIST, beside what this crate reaches on the same task.
//!
//! Settings (learning rates of Adam; with several `--keep`, also the share) are chosen by the same rule for every
//! scheme, on the last sixth of the training images with the first seed; the test images are used once per seed.
//!
//! `cargo run --release --example published -- --row mu-pc --data DIR`; without `--data`, on a small sample of
//! Fashion-MNIST that is bundled, which is only good for trying the program.

#[path = "../lenet/data.rs"]
mod data;
mod paired;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use data::{CLASSES, Images, SIDE};
use layerwise::circuit::ResidualStack;
use layerwise::data::metrics;
use layerwise::decoupled::Selection;
use layerwise::diagnostics::Diagnostics;
use layerwise::loss::LabelSmoothing;
use layerwise::prelude::*;
use layerwise::schedule::Schedule;
use layerwise::target_solver::{
    ErrorDescent, GaussNewton, StepSize, SynchronousDescent, TargetSolver,
};
use layerwise::training::{ErrorShare, PcAlm, Targets, ZStep};
use serde::Serialize;

/// Trains the circuit of a published result by several schemes.
#[derive(Parser)]
struct Options {
    /// The result.
    #[arg(long, default_value = "mu-pc")]
    row: RowName,
    /// Folder with the four uncompressed files of MNIST or Fashion-MNIST, as the row says; see
    /// examples/data/README.md.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Seeds of the initial weights and of the order of the batches.
    #[arg(long, value_delimiter = ',', default_value = "0,1,2")]
    seeds: Vec<u64>,
    /// Schemes to run; by default, those that the row names.
    #[arg(long, value_delimiter = ',')]
    scheme: Vec<SchemeName>,
    /// Numbers of layers, instead of the row's; only for residual circuits.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u64).range(3..))]
    depths: Vec<u64>,
    /// Learning rates to choose from, instead of the row's. A single one is used as it is.
    #[arg(long, value_delimiter = ',')]
    rates: Vec<f64>,
    /// Most batches of a run, instead of the row's.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    batches: Option<u64>,
    /// Shares of backprop's errors that a solved Z-step of the scheme `chained` leaves (`ErrorShare`), to choose
    /// from together with the learning rate.
    #[arg(long, value_delimiter = ',', default_value = "0.9")]
    keep: Vec<f64>,
    /// Print one JSON object per run instead of the table.
    #[arg(long)]
    json: bool,
}

/// A published result.
#[derive(Clone, Copy, PartialEq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum RowName {
    /// MNIST, residual circuits of width 32 with ReLU, one epoch. Seely & Gould 2026.
    DepthScaling,
    /// Fashion-MNIST, the same with 32 layers. Seely & Gould 2026.
    Fashion,
    /// MNIST, 30 layers of width 128, 900 batches. Innocenti, Achour & Buckley 2025, in jpc's notebook.
    MuPc,
    /// MNIST, 10 layers of width 128, 300 batches. Goemaere et al. 2025, in jpc's notebook.
    Epc,
    /// MNIST, 784-256-64-10, 20 epochs. FabricPC.
    Fabric,
    /// MNIST, 784-1500-1500-1500-10; published for 50 epochs, run here for 2. Lau, Zeng, Wu & Yao 2018.
    Bcd,
}

#[derive(Clone, Copy, PartialEq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum SchemeName {
    /// Ordinary backprop, the baseline.
    Backprop,
    /// Refreshed targets, one reverse sweep.
    Sweep,
    /// Refreshed targets, one Gauss-Newton step along the gradient preconditioned by the chain of layers, with μ
    /// by `--keep`.
    Chained,
    /// Five gradient steps in the errors.
    Epc,
    /// As published: 64 rounds of one synchronous step and one dual step.
    PcAlm,
}

/// Layers, unless the circuit is residual.
const DENSE: [(RowName, &[usize]); 2] = [
    (RowName::Fabric, &[256, 64]),
    (RowName::Bcd, &[1500, 1500, 1500]),
];

impl RowName {
    /// Numbers of layers, and what was published for backprop and for the decoupled scheme, in per cent.
    fn cells(self) -> &'static [(u64, Option<f64>, f64)] {
        match self {
            Self::DepthScaling => &[
                (4, Some(90.5), 90.5),
                (8, Some(89.8), 89.7),
                (16, Some(88.9), 88.3),
                (32, Some(87.8), 87.3),
                (64, Some(85.4), 84.7),
                (128, Some(83.9), 83.1),
            ],
            Self::Fashion => &[(32, Some(78.66), 77.75)],
            Self::MuPc => &[(30, None, 93.26)],
            Self::Epc => &[(10, None, 91.61)],
            Self::Fabric => &[(3, None, 98.14)],
            Self::Bcd => &[(4, None, 94.9)],
        }
    }

    fn schemes(self) -> &'static [SchemeName] {
        match self {
            Self::Epc => &[SchemeName::Backprop, SchemeName::Chained, SchemeName::Epc],
            Self::Fabric | Self::Bcd => &[SchemeName::Backprop, SchemeName::Sweep],
            _ => &[SchemeName::Backprop, SchemeName::Chained],
        }
    }

    fn rates(self) -> &'static [f64] {
        match self.widths() {
            Some(_) => &[3e-4, 1e-3, 3e-3],
            None => &[0.003, 0.01, 0.03, 0.1],
        }
    }

    fn batches(self, epoch: usize) -> usize {
        match self {
            Self::DepthScaling | Self::Fashion => epoch,
            Self::MuPc => 900,
            Self::Epc => 300,
            Self::Fabric => 20 * epoch,
            Self::Bcd => 2 * epoch,
        }
    }

    fn batch_size(self) -> usize {
        if self.widths().is_some() { 128 } else { 64 }
    }

    /// The widths of the hidden layers of a dense circuit.
    fn widths(self) -> Option<&'static [usize]> {
        let mut all = DENSE.iter().filter(|(row, _)| *row == self);
        all.next().map(|(_, widths)| *widths)
    }

    fn circuit(self, depth: u64, seed: u64) -> Result<Circuit<f32>, Error> {
        let Some(hidden) = self.widths() else {
            let width = match self {
                Self::DepthScaling | Self::Fashion => 32,
                _ => 128,
            };
            return ResidualStack::new(SIDE * SIDE, CLASSES)
                .with_width(width)?
                .with_blocks(depth as usize - 2)?
                .build(seed);
        };
        let mut builder = Circuit::builder().seed(seed);
        let mut inputs = SIDE * SIDE;
        for &width in hidden {
            builder = builder.layer(Dense::new(inputs, width, Activation::Relu)?);
            inputs = width;
        }
        builder
            .layer(Dense::new(inputs, CLASSES, Activation::Identity)?)
            .build()
    }

    fn energy(self) -> Result<Energy<f32>, Error> {
        Ok(match self.widths() {
            Some(_) => Energy::new(LabelSmoothing::new(SoftmaxCrossEntropy, 0.1)?),
            None => Energy::default(),
        })
    }
}

impl SchemeName {
    /// What moves refreshed targets.
    fn solver(self) -> Result<Option<Arc<dyn TargetSolver<f32>>>, Error> {
        Ok(match self {
            Self::Backprop | Self::PcAlm => None,
            Self::Sweep => Some(Arc::new(ReverseSweep::new(1))),
            Self::Chained => Some(Arc::new(GaussNewton::chained(1, 1))),
            Self::Epc => {
                let descent = ErrorDescent::new(5).with_step(StepSize::Checked(0.1))?;
                Some(Arc::new(descent))
            }
        })
    }

    fn phase(self, rule: Adam, keep: Option<f64>) -> Result<Phase<f32>, Error> {
        Ok(match self {
            Self::Backprop => Phase::new(Backprop, rule),
            Self::PcAlm => {
                let step = SynchronousDescent::new(1, StepSize::Fixed(0.25))?;
                Phase::new(PcAlm::new(64, step, 1.0)?, rule)
            }
            Self::Sweep | Self::Chained | Self::Epc => {
                let z_step = self.solver()?.map_or(ZStep::None, ZStep::Solver);
                let phase = Phase::new(Decoupling::new(Targets::Refreshed, z_step)?, rule);
                match keep {
                    Some(keep) => phase.with_error_share(ErrorShare::new(keep)?)?,
                    None => phase,
                }
            }
        })
    }
}

macro_rules! display_as_argument {
    ($($name:ty),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let value = self.to_possible_value().expect("no variant is hidden");
                f.pad(value.get_name())
            }
        }
    )*};
}

display_as_argument!(RowName, SchemeName);

/// What is chosen on held-out images.
#[derive(Clone, Copy, Serialize)]
struct Setting {
    rate: f64,
    /// Of the scheme `chained`.
    keep: Option<f64>,
}

/// One run.
#[derive(Serialize)]
struct Run {
    row: RowName,
    scheme: SchemeName,
    depth: u64,
    #[serde(flatten)]
    setting: Setting,
    seed: u64,
    /// In per cent, as is what was published.
    test_accuracy: f64,
    published: Option<f64>,
    seconds: f64,
    /// After training, where θ's gradients would be computed.
    regime: Option<Regime>,
}

/// How far from backprop the targets are, on the first training images.
#[derive(Serialize)]
struct Regime {
    /// f̄, from 0 at the forward pass to 1 at the equilibrium of a Z-step.
    relaxation: Option<f64>,
    /// The share of backprop's errors that this equilibrium leaves.
    error_share: Option<f32>,
    /// The cosine to backprop's gradient in the quarter of the layers next to the input.
    input_cosine: Option<f32>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options::parse();
    let row = options.row;
    let [train, test] = data::load(options.data.as_deref())?;
    let mut cells: Vec<(u64, Option<f64>, Option<f64>)> = (row.cells().iter())
        .map(|&(depth, backprop, ours)| (depth, backprop, Some(ours)))
        .collect();
    if !options.depths.is_empty() {
        if row.widths().is_some() {
            return Err(format!("the depth of {row} is given").into());
        }
        let known = cells;
        let find = |&depth: &u64| known.iter().find(|cell| cell.0 == depth).copied();
        let all = options.depths.iter();
        cells = all.map(|d| find(d).unwrap_or((*d, None, None))).collect();
    }
    let schemes = match &options.scheme[..] {
        [] => row.schemes(),
        chosen => chosen,
    };
    if !options.json {
        println!(
            "| layers | scheme | rate | share | test, % | beside backprop, points | published, % | seconds | f̄ \
             | share left | cos, input quarter |"
        );
        println!("|{}", "---|".repeat(11));
    }
    for (depth, backprop, decoupled) in cells {
        let mut baseline = Vec::new();
        for &scheme in schemes {
            let published = match scheme {
                SchemeName::Backprop => backprop,
                _ => decoupled,
            };
            let setting = chosen_setting(&train, scheme, depth, &options)?;
            let mut runs = Vec::new();
            for &seed in &options.seeds {
                let begun = Instant::now();
                let model = trained(&train, scheme, (depth, setting, seed), &options)?;
                let seconds = begun.elapsed().as_secs_f64();
                let run = Run {
                    row,
                    scheme,
                    depth,
                    setting,
                    seed,
                    test_accuracy: accuracy(&model, &test)?,
                    published,
                    seconds,
                    regime: regime(&model, &train, scheme, row)?,
                };
                if options.json {
                    println!("{}", serde_json::to_string(&run)?);
                }
                runs.push(run);
            }
            if !options.json {
                print_line(&runs, &baseline);
            }
            if scheme == SchemeName::Backprop {
                baseline = runs.iter().map(|run| run.test_accuracy).collect();
            }
        }
    }
    Ok(())
}

/// A line of the table: means over the seeds, and the difference from backprop paired by seed.
fn print_line(runs: &[Run], baseline: &[f64]) {
    let Some(first) = runs.first() else { return };
    let mean = |of: &dyn Fn(&Run) -> f64| runs.iter().map(of).sum::<f64>() / runs.len() as f64;
    let accuracies: Vec<f64> = runs.iter().map(|run| run.test_accuracy).collect();
    let beside = match baseline {
        [] => String::new(),
        _ => {
            let (mean, half) = paired::difference(&accuracies, baseline);
            format!("{mean:+.2} ± {half:.2}")
        }
    };
    let published = first.published.map_or(String::new(), |own| own.to_string());
    let keep = (first.setting.keep).map_or(String::new(), |own| own.to_string());
    let regime = |of: &dyn Fn(&Regime) -> Option<f64>| {
        let all: Option<Vec<f64>> = runs
            .iter()
            .map(|run| run.regime.as_ref().and_then(of))
            .collect();
        let mean = |all: Vec<f64>| all.iter().sum::<f64>() / all.len() as f64;
        all.map_or(String::new(), |all| format!("{:.3}", mean(all)))
    };
    let relaxation = regime(&|own| own.relaxation);
    let share = regime(&|own| own.error_share.map(f64::from));
    let cosine = regime(&|own| own.input_cosine.map(f64::from));
    println!(
        "| {} | {} | {} | {keep} | {:.2} | {beside} | {published} | {:.1} | {relaxation} | {share} | {cosine} |",
        first.depth,
        first.scheme,
        first.setting.rate,
        mean(&|run| run.test_accuracy),
        mean(&|run| run.seconds),
    );
}

/// The setting with the highest accuracy on the last sixth of the training images, for the first seed.
fn chosen_setting(
    train: &Images,
    scheme: SchemeName,
    depth: u64,
    options: &Options,
) -> Result<Setting, Error> {
    let rates = match &options.rates[..] {
        [] => options.row.rates(),
        chosen => chosen,
    };
    let shares: Vec<Option<f64>> = match scheme {
        SchemeName::Chained => options.keep.iter().map(|&keep| Some(keep)).collect(),
        _ => vec![None],
    };
    let settings: Vec<Setting> = (shares.iter())
        .flat_map(|&keep| rates.iter().map(move |&rate| Setting { rate, keep }))
        .collect();
    let n = train.labels.len();
    let (own, held_out) = (train.part(0..n - n / 6), train.part(n - n / 6..n));
    let mut best = (f64::NEG_INFINITY, settings[0]);
    for &setting in settings.iter().filter(|_| settings.len() > 1) {
        let run = (depth, setting, options.seeds.first().copied().unwrap_or(0));
        // A run that diverges counts as accuracy 0.
        let accuracy =
            trained(&own, scheme, run, options).and_then(|own| accuracy(&own, &held_out));
        let accuracy = accuracy.unwrap_or(0.0);
        if accuracy > best.0 {
            best = (accuracy, setting);
        }
    }
    Ok(best.1)
}

fn trained(
    train: &Images,
    scheme: SchemeName,
    (depth, setting, seed): (u64, Setting, u64),
    options: &Options,
) -> Result<DecoupledCircuit<f32>, Error> {
    let row = options.row;
    let mut model = DecoupledCircuit::new(row.circuit(depth, seed)?, row.energy()?)?;
    let batch = row.batch_size().min(train.labels.len());
    let epoch = train.labels.len().div_ceil(batch);
    let batches = row.batches(epoch);
    let batches = options
        .batches
        .map_or(batches, |most| batches.min(most as usize));
    // Whole epochs, with that number of batches at most. The last batch of an epoch may be a short one.
    let visited = (batches * batch).min(train.labels.len());
    let own = train.part(0..visited);
    model.add_examples(&own.pixels, &own.classes, &TargetInit::Computed)?;
    let epochs = (batches / visited.div_ceil(batch)) as u64;
    let mut phase = scheme
        .phase(Adam::new(setting.rate)?, setting.keep)?
        .with_epochs(epochs)
        .with_batch_size(batch)?;
    if row.widths().is_some() {
        phase = phase.with_schedule(Schedule::cosine(0.0)?);
    }
    let trainer = Trainer::new(phase).with_seed(seed);
    trainer.with_measure_every(0).run(&mut model)?;
    Ok(model)
}

/// Images on which the regime is diagnosed.
const DIAGNOSED: usize = 1000;

/// Moves targets as a visit would, and compares with backprop.
fn regime(
    trained: &DecoupledCircuit<f32>,
    train: &Images,
    scheme: SchemeName,
    row: RowName,
) -> Result<Option<Regime>, Error> {
    let Some(solver) = scheme.solver()? else {
        return Ok(None);
    };
    let mut model = DecoupledCircuit::new(trained.circuit().clone(), row.energy()?)?;
    // Those that the training ended with.
    model.set_penalties(trained.layers().penalties())?;
    let images = train.part(0..DIAGNOSED.min(train.labels.len()));
    model.add_examples(&images.pixels, &images.classes, &TargetInit::ForwardPass)?;
    model.solve_targets(&*solver, &Selection::All)?;
    let report = model.diagnose(&Diagnostics::new().with_error_share(8))?;
    Ok(Some(Regime {
        relaxation: report.relaxation,
        error_share: report.error_share.map(|share| share.hidden),
        input_cosine: report.quarters[0].cosine,
    }))
}

/// In per cent.
fn accuracy(model: &DecoupledCircuit<f32>, images: &Images) -> Result<f64, Error> {
    Ok(100.0 * metrics::accuracy(&images.labels, &model.predict(&images.pixels)?)?)
}
