//! A one-block transformer sorts sequences of digits: backprop and two decoupled schemes.
//!
//! The output at every position says which digit belongs there, so its class depends on all tokens. Embedding,
//! attention, position-wise layers and readout are four units, and the targets between them have the shape of a
//! sequence.
//!
//! `cargo run --release --example attention`; `--task reverse` for a task that needs only positions.

use clap::{Parser, ValueEnum};
use layerwise::data::metrics;
use layerwise::layer::{Attention, Embedding, LayerNorm, PositionBias, PositionWise, Residual};
use layerwise::loss::SumOverPositions;
use layerwise::prelude::*;
use layerwise::rand::rngs::ChaCha8Rng;
use layerwise::rand::{RngExt, SeedableRng};
use layerwise::target_solver::StepSize;
use serde::Serialize;

/// Trains a one-block transformer to sort or reverse sequences of digits.
#[derive(Parser)]
struct Options {
    /// What to do to a sequence.
    #[arg(long, default_value = "sort")]
    task: Task,
    /// Seeds of the initial weights and of the order of the batches.
    #[arg(long, value_delimiter = ',', default_value = "0,1,2")]
    seeds: Vec<u64>,
    /// Schemes to run, in this order for every seed.
    #[arg(long, value_delimiter = ',', default_values_t = SchemeName::ALL)]
    schemes: Vec<SchemeName>,
    /// Number of training sequences.
    #[arg(long, default_value_t = 2400)]
    sequences: usize,
    /// Number of epochs.
    #[arg(long, default_value_t = 6)]
    epochs: u64,
    /// Sequences per batch.
    #[arg(long, default_value_t = 32)]
    batch: usize,
    /// Learning rates of Adam to choose from: every scheme gets the one with the highest accuracy on the last
    /// sixth of the training sequences with the first seed. A single one is used as it is.
    #[arg(long, value_delimiter = ',', default_value = "0.003,0.01")]
    rates: Vec<f64>,
    /// Step size of the sweep. Attention on normalised inputs has steep slopes: at 0.02 training fails.
    #[arg(long, default_value_t = 0.003)]
    step: f64,
    /// Print one JSON object per row instead of the table.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Task {
    /// Digits in ascending order.
    Sort,
    /// The last digit first.
    Reverse,
}

#[derive(Debug, Clone, Copy, PartialEq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum SchemeName {
    /// Ordinary backprop, the baseline.
    Backprop,
    /// Targets set by a forward pass on each visit, and one reverse sweep.
    Refreshed,
    /// Residuals kept per example, and one reverse sweep.
    Residual,
}

impl SchemeName {
    const ALL: [Self; 3] = [Self::Backprop, Self::Refreshed, Self::Residual];
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
    task: Task,
    rate: f64,
    seed: u64,
    /// Of the tokens of unseen sequences, in per cent.
    test_accuracy: f64,
    /// Of training.
    seconds: f64,
}

const DIGITS: usize = 10;
/// Digits per sequence.
const LENGTH: usize = 8;
/// Values per position.
const WIDTH: usize = 32;
const HEADS: usize = 4;
const TEST_SEQUENCES: usize = 1000;
/// Seeds of the training and of the test sequences. Of 10⁸ sequences, few can be in both.
const TRAIN_SEED: u64 = 1;
const TEST_SEED: u64 = 2;

/// Tokens (8 × n), and the one-hot digits of every position of the answers (80 × n).
struct Sequences {
    tokens: DMatrix<f32>,
    answers: DMatrix<f32>,
}

impl Sequences {
    fn draw(count: usize, task: Task, seed: u64) -> Result<Self, Error> {
        let random = &mut ChaCha8Rng::seed_from_u64(seed);
        let (mut tokens, mut answers) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let mut digits: [usize; LENGTH] =
                std::array::from_fn(|_| random.random_range(0..DIGITS));
            tokens.extend(digits.map(|digit| digit as f32));
            match task {
                Task::Sort => digits.sort_unstable(),
                Task::Reverse => digits.reverse(),
            }
            answers.extend(digits);
        }
        let one_hot: DMatrix<f32> = metrics::one_hot(&answers, DIGITS)?;
        Ok(Self {
            tokens: DMatrix::from_vec(LENGTH, count, tokens),
            answers: DMatrix::from_column_slice(DIGITS * LENGTH, count, one_hot.as_slice()),
        })
    }

    fn part(&self, range: std::ops::Range<usize>) -> Self {
        let columns = |of: &DMatrix<f32>| of.columns(range.start, range.len()).into_owned();
        Self {
            tokens: columns(&self.tokens),
            answers: columns(&self.answers),
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options::parse();
    let train = Sequences::draw(options.sequences, options.task, TRAIN_SEED)?;
    let test = Sequences::draw(TEST_SEQUENCES, options.task, TEST_SEED)?;
    let mut rates = Vec::new();
    for &scheme in &options.schemes {
        rates.push(chosen_rate(&train, scheme, &options)?);
    }
    if !options.json {
        println!("scheme     rate   seed  test accuracy  seconds");
    }
    for &seed in &options.seeds {
        for (&scheme, &rate) in options.schemes.iter().zip(&rates) {
            let (model, seconds) = trained(&train, scheme, (rate, seed), &options)?;
            let row = Row {
                scheme,
                task: options.task,
                rate,
                seed,
                test_accuracy: accuracy(&model, &test)?,
                seconds,
            };
            match options.json {
                true => println!("{}", serde_json::to_string(&row)?),
                false => println!(
                    "{scheme:<9}  {rate:<5}  {seed:<4}  {:<13.2}  {seconds:.1}",
                    row.test_accuracy
                ),
            }
        }
    }
    Ok(())
}

/// Of several rates, the one with the highest accuracy on the last sixth of the training sequences, for the first
/// seed.
fn chosen_rate(train: &Sequences, scheme: SchemeName, options: &Options) -> Result<f64, Error> {
    let n = options.sequences;
    let (own, held_out) = (train.part(0..n - n / 6), train.part(n - n / 6..n));
    let mut best = (f64::NEG_INFINITY, options.rates[0]);
    for &rate in options.rates.iter().filter(|_| options.rates.len() > 1) {
        // A run that diverges counts as accuracy 0.
        let accuracy = trained(&own, scheme, (rate, options.seeds[0]), options)
            .and_then(|(model, _)| accuracy(&model, &held_out))
            .unwrap_or(0.0);
        if !options.json {
            println!("{scheme:<9}  {rate:<5}  held-out accuracy {accuracy:.2}");
        }
        if accuracy > best.0 {
            best = (accuracy, rate);
        }
    }
    Ok(best.1)
}

/// The trained model, and the seconds of training.
fn trained(
    train: &Sequences,
    scheme: SchemeName,
    (rate, seed): (f64, u64),
    options: &Options,
) -> Result<(DecoupledCircuit<f32>, f64), Error> {
    let loss = SumOverPositions::new(LENGTH, SoftmaxCrossEntropy)?;
    let mut model = DecoupledCircuit::new(transformer(seed)?, Energy::new(loss))?;
    model.add_examples(&train.tokens, &train.answers, &TargetInit::Computed)?;
    let rule = Adam::new(rate)?;
    let sweep = ReverseSweep::new(1).with_step(StepSize::Checked(options.step))?;
    let phase = match scheme {
        SchemeName::Backprop => Phase::new(Backprop, rule),
        SchemeName::Refreshed => Phase::new(Decoupling::refreshed(sweep), rule),
        SchemeName::Residual => Phase::new(Decoupling::residual(sweep), rule),
    };
    let phase = phase
        .with_epochs(options.epochs)
        .with_batch_size(options.batch)?
        .with_schedule(Schedule::cosine(0.0)?);
    let trainer = Trainer::new(phase).with_seed(seed).with_measure_every(0);
    let report = trainer.run(&mut model)?;
    Ok((model, report.seconds))
}

/// Embedding and positions; attention; a dense layer at every position; readout: four units.
fn transformer(seed: u64) -> Result<Circuit<f32>, Error> {
    let shape = [WIDTH, LENGTH];
    let embedding = Sequential::new(vec![
        Box::new(Embedding::new(DIGITS, WIDTH, LENGTH)?),
        Box::new(PositionBias::new(shape)?),
    ])?;
    let attention = Sequential::new(vec![
        Box::new(LayerNorm::new(shape)?),
        Box::new(Attention::new(WIDTH, LENGTH, HEADS)?),
    ])?;
    let position_wise = Sequential::new(vec![
        Box::new(LayerNorm::new(shape)?),
        Box::new(PositionWise::new(
            WIDTH,
            LENGTH,
            4 * WIDTH,
            Activation::Gelu,
        )?),
        Box::new(PositionWise::new(
            4 * WIDTH,
            LENGTH,
            WIDTH,
            Activation::Identity,
        )?),
    ])?;
    let readout = Sequential::new(vec![
        Box::new(LayerNorm::new(shape)?),
        Box::new(PositionWise::new(
            WIDTH,
            LENGTH,
            DIGITS,
            Activation::Identity,
        )?),
    ])?;
    Circuit::builder()
        .layer(embedding)
        .layer(Residual::new(attention)?)
        .layer(Residual::new(position_wise)?)
        .layer(readout)
        .seed(seed)
        .build()
}

/// Accuracy per token, in per cent: a column of the outputs holds the logits of one position after another.
fn accuracy(model: &DecoupledCircuit<f32>, sequences: &Sequences) -> Result<f64, Error> {
    let outputs = model.predict(&sequences.tokens)?;
    let by_token =
        |of: &DMatrix<f32>| DMatrix::from_column_slice(DIGITS, of.len() / DIGITS, of.as_slice());
    let labels = metrics::labels(&by_token(&sequences.answers));
    Ok(100.0 * metrics::accuracy(&labels, &by_token(&outputs))?)
}
