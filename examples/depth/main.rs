//! A deep circuit on handwritten digits: compares Z-steps that reach every layer with backprop, at
//! the same number of θ-steps.
//!
//! `cargo run --release --example depth -- --help` lists the options.

#[path = "../digits/data.rs"]
mod data;

use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use clap::{Parser, ValueEnum};
use data::Digits;
use layerwise::data::metrics;
use layerwise::decoupled::{Selection, TargetInit};
use layerwise::energy::{Energy, Parameters, Workspace};
use layerwise::layer::{Activation, Dense};
use layerwise::loss::SoftmaxCrossEntropy;
use layerwise::optimizer::Adam;
use layerwise::parameter_solver::{LeastSquares, LevenbergMarquardt};
use layerwise::schedule::Schedule;
use layerwise::state::State;
use layerwise::target_solver::{GaussNewton, RedBlack, ReverseSweep, StepSize};
use layerwise::training::{Backprop, Decoupling, ErrorShare, Phase, Scheme, Trainer, Visit, WStep};
use layerwise::{Circuit, DecoupledCircuit, Error, Scalar};
use serde::Serialize;

/// Trains a deep tanh circuit on 8×8 handwritten digits by several schemes and prints one table.
///
/// Columns: accuracy on training and test images, composed loss per training example, gap, μ of the
/// last visit, training time in seconds.
#[derive(Parser)]
struct Options {
    /// Seeds of the initial weights.
    #[arg(long, value_delimiter = ',', default_value = "0,1,2,3,4")]
    seeds: Vec<u64>,
    /// Seed of the split into 1437 training and 360 test images.
    #[arg(long, default_value_t = 2)]
    split_seed: u64,
    /// Number of epochs; each is one θ-step on the whole training set.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    epochs: u64,
    /// Number of hidden layers.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u64).range(1..))]
    hidden: u64,
    /// Width of the hidden layers.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..))]
    width: u64,
    /// Penalty μ of every hidden layer [default: 1, or 100 for schemes with persistent targets].
    #[arg(long)]
    penalty: Option<f32>,
    /// Set μ so that a solved Z-step leaves this share of backprop's errors, from every 10th visit's
    /// images (`ErrorShare`).
    #[arg(long)]
    keep: Option<f64>,
    /// Learning rate of Adam where targets do not persist.
    #[arg(long, default_value_t = 1e-2)]
    rate: f64,
    /// Schemes to run.
    #[arg(long, value_delimiter = ',', default_values_t = SchemeName::ALL)]
    scheme: Vec<SchemeName>,
    /// Instead of training, iterate the multipliers to convergence at the initial weights of the
    /// first seed, and compare the gradients with backprop's.
    #[arg(long, conflicts_with_all = ["json", "scheme", "epochs", "rate", "keep"])]
    multipliers_at_rest: bool,
    /// Print one JSON object per row instead of the table.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum SchemeName {
    /// Ordinary backprop, the baseline.
    Backprop,
    /// Refreshed targets, one reverse sweep.
    Sweep,
    /// Refreshed targets, red-black sweeps.
    RedBlack,
    /// Refreshed targets, one Gauss-Newton step by conjugate gradients.
    GaussNewton,
    /// Refreshed targets, one full Gauss-Newton step by conjugate gradients, preconditioned by the
    /// chain of layers.
    Chained,
    /// Refreshed targets, one damped Gauss-Newton step by block Cholesky.
    Direct,
    /// Persistent targets, Gauss-Newton by conjugate gradients preconditioned by the chain of layers.
    Persistent,
    /// Persistent targets with Lagrange multipliers, Gauss-Newton as for persistent targets.
    Multipliers,
    /// Refreshed targets, one reverse sweep, hidden layers by least squares in closed form.
    LeastSquares,
    /// Refreshed targets, one reverse sweep, all layers by Levenberg-Marquardt.
    LevenbergMarquardt,
}

impl SchemeName {
    const ALL: [Self; 10] = [
        Self::Backprop,
        Self::Sweep,
        Self::RedBlack,
        Self::GaussNewton,
        Self::Chained,
        Self::Direct,
        Self::Persistent,
        Self::Multipliers,
        Self::LeastSquares,
        Self::LevenbergMarquardt,
    ];

    /// μ of every hidden layer.
    fn penalty(self) -> f32 {
        match self {
            Self::Persistent | Self::Multipliers => 100.0,
            _ => 1.0,
        }
    }

    /// The only difference between the schemes, apart from μ.
    fn phase(self, rate: f64) -> Result<Phase<f32>, Error> {
        let long = StepSize::Bounded { margin: 1.9 };
        let (fast, slow) = (Adam::new(rate)?, Adam::new(3e-3)?);
        Ok(match self {
            Self::Backprop => Phase::new(Backprop, fast),
            Self::Sweep => {
                let solver = ReverseSweep::new(3).with_step(long)?;
                Phase::new(Decoupling::refreshed(solver), fast)
            }
            Self::RedBlack => {
                let solver = RedBlack::new(6).with_step(long)?;
                Phase::new(Decoupling::refreshed(solver), fast)
            }
            Self::GaussNewton => Phase::new(Decoupling::refreshed(GaussNewton::new(1, 12)), fast),
            Self::Chained => Phase::new(Decoupling::refreshed(GaussNewton::chained(1, 5)), fast),
            Self::Direct => {
                // Damping equal to the penalty halves the step that the penalty alone would allow.
                let solver = GaussNewton::direct(1).with_damping(1.0)?;
                Phase::new(Decoupling::refreshed(solver), fast)
            }
            Self::Persistent => {
                // Several steps and a slow θ, so that the targets can follow.
                Phase::new(Decoupling::persistent(GaussNewton::chained(3, 4)), slow)
            }
            Self::Multipliers => Phase::new(
                Decoupling::persistent(GaussNewton::chained(2, 4)).with_multipliers(1.0)?,
                slow,
            ),
            Self::LeastSquares => {
                let held = LeastSquares::proximal(10.0)?;
                let scheme = Decoupling::refreshed(ReverseSweep::new(1));
                Phase::with_w_step(scheme, WStep::solver(held).with_optimizer(fast))?
            }
            Self::LevenbergMarquardt => {
                let held = LevenbergMarquardt::new(1, 4).with_damping(10.0)?;
                let scheme = Decoupling::refreshed(ReverseSweep::new(1));
                // It fits every layer, so there is no learning rate to schedule.
                return Phase::with_w_step(scheme, WStep::solver(held));
            }
        }
        .with_schedule(Schedule::cosine(0.05)?))
    }
}

impl std::fmt::Display for SchemeName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = self.to_possible_value().expect("no variant is hidden");
        f.pad(value.get_name())
    }
}

/// One row of the table. The loss is per training example.
#[derive(Serialize)]
struct Row {
    scheme: SchemeName,
    seed: u64,
    train_accuracy: f64,
    test_accuracy: f64,
    composed_loss: f64,
    /// None for backprop, which does not use the targets.
    gap: Option<f64>,
    /// μ of the last visit, the same for all hidden layers.
    penalty: Option<f64>,
    seconds: f64,
}

fn circuit<T: Scalar>(options: &Options, seed: u64) -> Result<Circuit<T>, Error> {
    let mut builder = Circuit::builder().seed(seed);
    let (mut input, width) = (64, options.width as usize);
    for _ in 0..options.hidden {
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
) -> Result<Row, Error> {
    let penalty = options.penalty.unwrap_or(scheme.penalty());
    let mut model = DecoupledCircuit::new(
        circuit(options, seed)?,
        Energy::new(SoftmaxCrossEntropy).with_penalty(penalty),
    )?;
    model.add_examples(&train.images, &train.classes, &TargetInit::ForwardPass)?;
    let mut phase = scheme.phase(options.rate)?.with_epochs(options.epochs);
    if let Some(keep) = options.keep {
        phase = phase.with_error_share(ErrorShare::new(keep)?)?;
    }
    let report = Trainer::new(phase)
        .with_seed(seed)
        .with_measure_every(0)
        .run(&mut model)?;
    let penalty = model.terms().penalties().first().copied();
    let squares = model.gap()?.into_iter().map(|gap| f64::from(gap).powi(2));
    Ok(Row {
        scheme,
        seed,
        train_accuracy: metrics::accuracy(&train.labels, &model.predict(&train.images)?)?,
        test_accuracy: metrics::accuracy(&test.labels, &model.predict(&test.images)?)?,
        composed_loss: f64::from(model.composed_loss()?) / train.labels.len() as f64,
        gap: (scheme != SchemeName::Backprop).then(|| squares.sum::<f64>().sqrt()),
        penalty: penalty
            .filter(|_| scheme != SchemeName::Backprop)
            .map(f64::from),
        seconds: report.seconds,
    })
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
    let data = data::load(options.split_seed)?;
    if options.multipliers_at_rest {
        return Ok(multipliers_at_rest(options, &data.0)?);
    }
    if !options.json {
        println!(
            "{:<20} {:>4} {:>8} {:>8} {:>10} {:>9} {:>8} {:>8}",
            "scheme", "seed", "train %", "test %", "loss", "gap", "μ", "seconds"
        );
    }
    let mut means: Vec<(SchemeName, f64)> = Vec::new();
    for &scheme in &options.scheme {
        let mut sum = 0.0;
        for &seed in &options.seeds {
            let row = run(scheme, seed, options, &data)?;
            sum += row.test_accuracy;
            if options.json {
                println!("{}", serde_json::to_string(&row)?);
                continue;
            }
            println!(
                "{scheme:<20} {:>4} {:>8.2} {:>8.2} {:>10.5} {:>9} {:>8} {:>8.2}",
                row.seed,
                100.0 * row.train_accuracy,
                100.0 * row.test_accuracy,
                row.composed_loss,
                row.gap.map_or("-".into(), |gap| format!("{gap:.4}")),
                row.penalty.map_or("-".into(), |mu| format!("{mu:.1}")),
                row.seconds
            );
        }
        means.push((scheme, 100.0 * sum / options.seeds.len() as f64));
    }
    if !options.json {
        println!("\nmean test accuracy over {} seeds", options.seeds.len());
        for &(scheme, mean) in &means {
            println!("{scheme:<20} {mean:>8.2}");
        }
    }
    Ok(())
}

/// A scheme with multipliers that also records the parameter gradient of its last visit.
#[derive(Debug)]
struct Noted {
    scheme: Decoupling<f64>,
    gradient: Arc<Mutex<Vec<Vec<f64>>>>,
}

impl Scheme<f64> for Noted {
    fn start(&self, model: &mut DecoupledCircuit<f64>) -> Result<State<f64>, Error> {
        self.scheme.start(model)
    }

    fn visit(&self, state: &mut State<f64>, visit: &mut Visit<'_, f64>) -> Result<f64, Error> {
        let energy = self.scheme.visit(state, visit)?;
        // θ does not change, and the problem still contains the multipliers of this visit.
        let mut workspace = Workspace::new();
        let evaluation = visit.problem().evaluate(Parameters, &mut workspace);
        let layers = 0..visit.layers().depth();
        let gradient = layers.map(|t| evaluation.parameter_gradient(t).to_vec());
        *self.gradient.lock().expect("no thread panicked") = gradient.collect();
        Ok(energy)
    }
}

/// Iterates the multipliers to convergence at the initial θ, in `f64`, and compares the gradients
/// with backprop's.
fn multipliers_at_rest(options: &Options, train: &Digits) -> Result<(), Error> {
    println!(
        "{:>6} {:>10} {:>22} {:>22}",
        "visits", "gap", "largest ∂E/∂θ", "largest difference"
    );
    // Large enough at these weights to outweigh what λ·f″ takes from the curvature.
    let penalty = options.penalty.unwrap_or(10.0);
    let (images, classes) = (train.images.map(f64::from), train.classes.map(f64::from));
    let n = train.labels.len() as f64;
    for visits in [1, 3, 10, 30] {
        let circuit = circuit::<f64>(options, options.seeds[0])?;
        let mut model = DecoupledCircuit::new(
            circuit,
            Energy::new(SoftmaxCrossEntropy).with_penalty(penalty.into()),
        )?;
        model.add_examples(&images, &classes, &TargetInit::ForwardPass)?;
        let gradient = Arc::new(Mutex::new(Vec::new()));
        let scheme = Noted {
            scheme: Decoupling::persistent(GaussNewton::chained(2, 12)).with_multipliers(1.0)?,
            gradient: gradient.clone(),
        };
        let phase = Phase::with_w_step(scheme, WStep::none())?.with_epochs(visits);
        Trainer::new(phase).with_measure_every(0).run(&mut model)?;
        let backprop = model.backprop(&Selection::All)?.parameters.concat();
        let found = gradient.lock().expect("no thread panicked").concat();
        let largest = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max) / n;
        let size = largest(&mut backprop.iter().map(|a| a.abs()));
        let differences = backprop.iter().zip(&found).map(|(a, b)| (a - b).abs());
        let difference = largest(&mut { differences });
        let squares = model.gap()?.into_iter().map(|gap| gap * gap);
        let gap = squares.sum::<f64>().sqrt();
        println!("{visits:>6} {gap:>10.2e} {size:>22.6e} {difference:>22.2e}");
    }
    Ok(())
}
