//! Trains on handwritten digits by argmin's L-BFGS with three objectives of one circuit: layer by
//! layer, jointly in parameters and targets, and on the composed loss.
//!
//! `cargo run --release --features argmin --example lbfgs`; `-- --help` lists the options.

#[path = "digits/data.rs"]
mod data;

use std::cell::Cell;
use std::process::ExitCode;
use std::time::Instant;

use argmin::core::{CostFunction, Error as ArgminError, Executor, Gradient, State};
use argmin::solver::linesearch::MoreThuenteLineSearch;
use argmin::solver::quasinewton::LBFGS;
use clap::Parser;
use data::Digits;
use layerwise::data::metrics;
use layerwise::decoupled::{Selection, TargetInit};
use layerwise::energy::Energy;
use layerwise::layer::{Activation, Dense};
use layerwise::loss::SoftmaxCrossEntropy;
use layerwise::nalgebra::DMatrix;
use layerwise::objective::{LocalObjective, Objective};
use layerwise::regularizer::Regularizer;
use layerwise::target_solver::GaussNewton;
use layerwise::{Circuit, DecoupledCircuit};
use serde::Serialize;

/// Trains a tanh circuit on 8×8 handwritten digits by L-BFGS on three objectives and prints one
/// table.
///
/// alternating: Z-steps by Gauss-Newton, then one W-step by L-BFGS for each layer, all layers in
/// parallel. joint: L-BFGS on E in θ and z together. composed: L-BFGS on the composed loss,
/// the ordinary baseline. Columns: composed loss, E (both with the regulariser) and gap, per training
/// example; accuracy on training and test images; how often L-BFGS requested values and
/// gradients (for alternating: summed over the layers, each of whose evaluations costs only a part
/// of the circuit's, and not counting Z-steps); seconds. For composed, E and gap are those of
/// forward-pass targets.
#[derive(Parser)]
struct Options {
    /// Seed of the initial weights.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Seed of the split into 1437 training and 360 test images.
    #[arg(long, default_value_t = 2)]
    split_seed: u64,
    /// Iterations of L-BFGS for joint and composed; for alternating, the iterations in each layer
    /// over all W-steps, rounded up to whole W-steps.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..))]
    iterations: u64,
    /// Maximum number of L-BFGS iterations in one W-step.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    w_iterations: u64,
    /// Widths of the hidden layers.
    #[arg(long, value_delimiter = ',', default_value = "32,32", value_parser = positive)]
    widths: Vec<usize>,
    /// Number of past steps that L-BFGS keeps.
    #[arg(long, default_value_t = 10, value_parser = positive)]
    memory: usize,
    /// Weight of the L2 regulariser on W.
    #[arg(long, default_value_t = 1e-3)]
    l2: f64,
    /// Penalty μ, the weight of every hidden layer's error.
    #[arg(long, default_value_t = 1.0)]
    penalty: f64,
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

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// How many values and gradients L-BFGS requested.
#[derive(Debug, Clone, Copy, Default)]
struct Asked {
    values: u64,
    gradients: u64,
}

impl Asked {
    fn plus(self, other: Self) -> Self {
        Self {
            values: self.values + other.values,
            gradients: self.gradients + other.gradients,
        }
    }
}

/// An objective that counts requests, since argmin's own counts leave out failed line searches.
/// After
/// `limit` values it ends the run, since nothing else would stop a line search that does not end.
struct Counted<'a, O> {
    objective: &'a O,
    asked: &'a Cell<Asked>,
    limit: u64,
}

impl<O: CostFunction<Param = Vec<f64>, Output = f64>> CostFunction for Counted<'_, O> {
    type Param = Vec<f64>;
    type Output = f64;

    fn cost(&self, point: &Vec<f64>) -> Result<f64, ArgminError> {
        let mut asked = self.asked.get();
        if asked.values == self.limit {
            return Err(ArgminError::msg("the line search does not end"));
        }
        asked.values += 1;
        self.asked.set(asked);
        self.objective.cost(point)
    }
}

impl<O: Gradient<Param = Vec<f64>, Gradient = Vec<f64>>> Gradient for Counted<'_, O> {
    type Param = Vec<f64>;
    type Gradient = Vec<f64>;

    fn gradient(&self, point: &Vec<f64>) -> Result<Vec<f64>, ArgminError> {
        let mut asked = self.asked.get();
        asked.gradients += 1;
        self.asked.set(asked);
        Gradient::gradient(self.objective, point)
    }
}

/// The best point that L-BFGS finds within `iterations` iterations, starting from the model's
/// point.
fn minimize<O>(objective: &O, iterations: u64, memory: usize) -> Result<(Vec<f64>, Asked), AnyError>
where
    O: Objective<f64>
        + CostFunction<Param = Vec<f64>, Output = f64>
        + Gradient<Param = Vec<f64>, Gradient = Vec<f64>>,
{
    let start = objective.point();
    let asked = Cell::new(Asked::default());
    let counted = Counted {
        objective,
        asked: &asked,
        limit: iterations.saturating_mul(4).saturating_add(40),
    };
    let run = Executor::new(counted, LBFGS::new(MoreThuenteLineSearch::new(), memory))
        .configure(|state| state.param(start).max_iters(iterations))
        .run()?;
    // Not the current point: there is none after a failed line search.
    let best = run.state.get_best_param().cloned();
    Ok((best.ok_or("L-BFGS found no point")?, asked.get()))
}

/// The W-step: solves every layer's local problem on its own thread.
fn step_parameters(
    model: &mut DecoupledCircuit<f64>,
    options: &Options,
) -> Result<Asked, AnyError> {
    let (depth, n) = (model.circuit().depth(), model.examples().len());
    let problems = (0..depth)
        .map(|t| model.local_problem(t, 0..n))
        .collect::<Result<Vec<_>, _>>()?;
    let found: Vec<Result<(Vec<f64>, Asked), AnyError>> = std::thread::scope(|scope| {
        let threads: Vec<_> = problems
            .into_iter()
            .map(|problem| {
                scope.spawn(move || {
                    let objective = LocalObjective::new(problem);
                    minimize(&objective, options.w_iterations, options.memory)
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no thread panics"))
            .collect()
    });
    let mut asked = Asked::default();
    for (t, found) in found.into_iter().enumerate() {
        let (parameters, own) = found?;
        model.set_parameters(t, &parameters)?;
        asked = asked.plus(own);
    }
    Ok(asked)
}

/// Trains the model from the forward pass, and returns how much was requested.
type Method = fn(&mut DecoupledCircuit<f64>, &Options) -> Result<Asked, AnyError>;

fn alternating(model: &mut DecoupledCircuit<f64>, options: &Options) -> Result<Asked, AnyError> {
    let mut asked = Asked::default();
    let solver = GaussNewton::new(1, 10);
    for _ in 0..options.iterations.div_ceil(options.w_iterations) {
        model.solve_targets(&solver, &Selection::All)?;
        asked = asked.plus(step_parameters(model, options)?);
    }
    Ok(asked)
}

fn joint(model: &mut DecoupledCircuit<f64>, options: &Options) -> Result<Asked, AnyError> {
    let objective = model.joint_objective(&Selection::All)?;
    let (point, asked) = minimize(&objective, options.iterations, options.memory)?;
    model.set_joint_point(&Selection::All, &point)?;
    Ok(asked)
}

fn composed(model: &mut DecoupledCircuit<f64>, options: &Options) -> Result<Asked, AnyError> {
    let objective = model.composed_objective(&Selection::All)?;
    let (point, asked) = minimize(&objective, options.iterations, options.memory)?;
    model.set_parameter_point(&point)?;
    Ok(asked)
}

/// One row of the table. Losses, energy and gap are per training example.
#[derive(Serialize)]
struct Row {
    method: &'static str,
    composed_loss: f64,
    energy: f64,
    gap: f64,
    train_accuracy: f64,
    test_accuracy: f64,
    values: u64,
    gradients: u64,
    seconds: f64,
}

fn circuit(options: &Options) -> Result<Circuit<f64>, layerwise::Error> {
    let mut builder = Circuit::builder().seed(options.seed);
    let mut input = 64;
    for &width in &options.widths {
        builder = builder.layer(Dense::new(input, width, Activation::Tanh)?);
        input = width;
    }
    builder
        .layer(Dense::new(input, data::CLASSES, Activation::Identity)?)
        .build()
}

fn run(
    name: &'static str,
    method: Method,
    options: &Options,
    (train, test): &(Digits, Digits),
) -> Result<Row, AnyError> {
    let double = |matrix: &DMatrix<f32>| matrix.map(f64::from);
    let mut model = DecoupledCircuit::new(
        circuit(options)?,
        Energy::new(SoftmaxCrossEntropy)
            .with_penalty(options.penalty)
            .with_parameter_regularizer(Regularizer::l2(options.l2)?),
    )?;
    let (images, classes) = (double(&train.images), double(&train.classes));
    model.add_examples(&images, &classes, &TargetInit::ForwardPass)?;
    let start = Instant::now();
    let asked = method(&mut model, options)?;
    let seconds = start.elapsed().as_secs_f64();
    if name == "composed" {
        // Its targets do not move: report E and gap of the forward pass.
        model.initialize_targets(&TargetInit::ForwardPass)?;
    }
    let n = train.labels.len() as f64;
    let accuracy = |digits: &Digits| {
        let outputs = model.predict(&double(&digits.images))?;
        metrics::accuracy(&digits.labels, &outputs)
    };
    Ok(Row {
        method: name,
        composed_loss: model.backprop(&Selection::All)?.energy / n,
        energy: model.energy()? / n,
        gap: model.gap()?.iter().map(|g| g * g).sum::<f64>().sqrt(),
        train_accuracy: accuracy(train)?,
        test_accuracy: accuracy(test)?,
        values: asked.values,
        gradients: asked.gradients,
        seconds,
    })
}

const METHODS: [(&str, Method); 3] = [
    ("alternating", alternating),
    ("joint", joint),
    ("composed", composed),
];

fn compare(options: &Options) -> Result<(), AnyError> {
    let data = data::load(options.split_seed).map_err(|error| error.to_string())?;
    if !options.json {
        println!(
            "{:<12} {:>9} {:>9} {:>8} {:>8} {:>8} {:>7} {:>9} {:>8}",
            "L-BFGS on", "loss", "E", "gap", "train %", "test %", "values", "gradients", "seconds"
        );
    }
    for (name, method) in METHODS {
        let row = run(name, method, options, &data)?;
        if options.json {
            println!("{}", serde_json::to_string(&row)?);
        } else {
            println!(
                "{:<12} {:>9.5} {:>9.5} {:>8.4} {:>8.2} {:>8.2} {:>7} {:>9} {:>8.2}",
                row.method,
                row.composed_loss,
                row.energy,
                row.gap,
                100.0 * row.train_accuracy,
                100.0 * row.test_accuracy,
                row.values,
                row.gradients,
                row.seconds
            );
        }
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
