//! Regression on real data: predicts the progression of diabetes in 442 patients, by backprop and
//! by decoupled schemes, with cross-validation and early stopping.
//!
//! `cargo run --release --example regression`; `-- --help` lists the options.

use std::io::Read;
use std::process::ExitCode;

use clap::Parser;
use flate2::read::GzDecoder;
use layerwise::data::{Split, Standardizer, metrics};
use layerwise::decoupled::TargetInit;
use layerwise::energy::Energy;
use layerwise::layer::{Activation, Dense};
use layerwise::nalgebra::DMatrix;
use layerwise::optimizer::{Adam, GradientDescent};
use layerwise::regularizer::Regularizer;
use layerwise::target_solver::ReverseSweep;
use layerwise::training::{Backprop, Decoupling, Phase, Stopping, Trainer};
use layerwise::{Circuit, DecoupledCircuit, Error};

/// Trains tanh circuits of widths 10, 16, 16, 1 by several schemes on the same folds and prints the
/// mean RMSE (in units of the target) and R² on test folds, and the RMSE relative to backprop's.
#[derive(Parser)]
struct Options {
    /// Seeds of folds, weights and shuffling; one cross-validation is run per seed.
    #[arg(long, value_delimiter = ',', default_value = "0,1,2,3,4")]
    seeds: Vec<u64>,
    /// Number of folds of each cross-validation.
    #[arg(long, default_value_t = 5)]
    folds: usize,
    /// Maximum number of epochs.
    #[arg(long, default_value_t = 300)]
    epochs: u64,
    /// Early stopping: epochs without a lower validation loss before a run ends.
    #[arg(long, default_value_t = 30)]
    patience: u64,
    /// Weight of the L2 regulariser on the weights.
    #[arg(long, default_value_t = 0.03)]
    l2: f64,
    /// Learning rate of Adam.
    #[arg(long, default_value_t = 3e-3)]
    rate: f64,
}

/// Features (10 × n) and targets (1 × n).
struct Data {
    features: DMatrix<f64>,
    targets: DMatrix<f64>,
}

fn load() -> Result<Data, Box<dyn std::error::Error>> {
    let packed = include_bytes!("data/diabetes.csv.gz");
    let mut text = String::new();
    GzDecoder::new(&packed[..]).read_to_string(&mut text)?;
    let mut rows = csv::Reader::from_reader(text.as_bytes());
    let rows: Vec<Vec<f64>> = rows.deserialize().collect::<Result<_, _>>()?;
    let features = rows.first().map_or(0, Vec::len).saturating_sub(1);
    Ok(Data {
        features: DMatrix::from_fn(features, rows.len(), |i, j| rows[j][i]),
        targets: DMatrix::from_fn(1, rows.len(), |_, j| rows[j][features]),
    })
}

impl Data {
    fn select(&self, columns: &[usize]) -> Self {
        Self {
            features: self.features.select_columns(columns),
            targets: self.targets.select_columns(columns),
        }
    }
}

const SCHEMES: [&str; 5] = ["backprop", "refreshed", "residual", "persistent", "joint"];

fn phase(scheme: &str, rate: f64) -> Result<Phase<f64>, Error> {
    let rule = Adam::new(rate)?;
    let sweep = || ReverseSweep::new(1);
    Ok(match scheme {
        "backprop" => Phase::new(Backprop, rule),
        "refreshed" => Phase::new(Decoupling::refreshed(sweep()), rule),
        "residual" => Phase::new(Decoupling::residual(sweep()), rule),
        "persistent" => Phase::new(Decoupling::persistent(sweep()), rule),
        _ => {
            let targets = GradientDescent::new(0.1)?.with_momentum(0.9)?;
            Phase::new(Decoupling::joint(targets), rule)
        }
    })
}

/// RMSE and R² on the test fold, in the units of the data.
fn score(
    scheme: &str,
    data: &Data,
    split: &Split,
    seed: u64,
    options: &Options,
) -> Result<(f64, f64), Error> {
    // One eighth of the training folds is used for early stopping; the test fold only for
    // evaluation.
    let inner = Split::shuffled(split.train.len(), split.train.len() / 8, seed)?;
    let inner = inner.of(&split.train)?;
    let (train, validation) = (data.select(&inner.train), data.select(&inner.test));
    let test = data.select(&split.test);
    let features = Standardizer::fit(&train.features)?;
    let targets = Standardizer::fit(&train.targets)?;

    let circuit = Circuit::builder()
        .layer(Dense::new(data.features.nrows(), 16, Activation::Tanh)?)
        .layer(Dense::new(16, 16, Activation::Tanh)?)
        .layer(Dense::new(16, 1, Activation::Identity)?)
        .seed(seed)
        .build()?;
    let mut model = DecoupledCircuit::new(
        circuit,
        Energy::default().with_parameter_regularizer(Regularizer::l2(options.l2)?),
    )?;
    model.add_examples(
        &features.transform(&train.features)?,
        &targets.transform(&train.targets)?,
        &TargetInit::ForwardPass,
    )?;
    let stopping = Stopping::Validation {
        patience: options.patience,
        improvement: 0.0,
    };
    let phase = phase(scheme, options.rate)?
        .with_epochs(options.epochs)
        .with_batch_size(32)?
        .with_stopping(stopping)?;
    Trainer::new(phase)
        .with_seed(seed)
        .with_measure_every(0)
        .with_validation(
            features.transform(&validation.features)?,
            targets.transform(&validation.targets)?,
        )
        .run(&mut model)?;
    let outputs = model.predict(&features.transform(&test.features)?)?;
    let outputs = targets.inverse_transform(&outputs)?;
    let rmse = metrics::rmse(&test.targets, &outputs)?;
    Ok((rmse, metrics::r_squared(&test.targets, &outputs)?[0]))
}

fn compare(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    let data = load()?;
    println!(
        "{:<10} {:>8} {:>8} {:>8} {:>22}",
        "scheme", "RMSE", "R²", "ratio", "range over seeds"
    );
    let mut baseline = None;
    for scheme in SCHEMES {
        let mut by_seed = Vec::new();
        for &seed in &options.seeds {
            let (mut rmse, mut r_squared) = (0.0, 0.0);
            for split in Split::folds(data.targets.ncols(), options.folds, seed)? {
                let (error, explained) = score(scheme, &data, &split, seed, options)?;
                rmse += error / options.folds as f64;
                r_squared += explained / options.folds as f64;
            }
            by_seed.push((rmse, r_squared));
        }
        let count = by_seed.len() as f64;
        let rmse = by_seed.iter().map(|(rmse, _)| rmse).sum::<f64>() / count;
        let r_squared = by_seed.iter().map(|(_, r)| r).sum::<f64>() / count;
        let low = by_seed.iter().map(|s| s.0).fold(f64::INFINITY, f64::min);
        let high = by_seed.iter().map(|s| s.0).fold(0.0, f64::max);
        let ratio = rmse / *baseline.get_or_insert(rmse);
        println!("{scheme:<10} {rmse:>8.3} {r_squared:>8.4} {ratio:>8.4} {low:>12.3} – {high:.3}");
    }
    Ok(())
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
