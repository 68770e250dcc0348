//! Layers that learn in other processes: each local problem is sent as JSON to a child process,
//! which builds the layer itself, trains its parameters, and sends them back. The results are bit
//! for bit those of the same steps in this process.
//!
//! `cargo run --release --features serde --example remote_layer`

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, ExitCode, Stdio};

use layerwise::decoupled::{Selection, TargetInit};
use layerwise::energy::Energy;
use layerwise::energy::{LocalWorkspace, Parameters};
use layerwise::layer::{Activation, Dense};
use layerwise::loss::SquaredError;
use layerwise::nalgebra::DMatrix;
use layerwise::optimizer::{Adam, Optimizer, Step};
use layerwise::shard::Shard;
use layerwise::target_solver::ReverseSweep;
use layerwise::{Circuit, DecoupledCircuit, Error};

const WIDTHS: [usize; 4] = [1, 24, 24, 1];
const ROUNDS: usize = 60;
const STEPS: u64 = 10;

/// Both processes build the same layers.
fn layer(t: usize) -> Result<Dense, Error> {
    let activation = match t + 2 < WIDTHS.len() {
        true => Activation::Tanh,
        false => Activation::Identity,
    };
    Dense::new(WIDTHS[t], WIDTHS[t + 1], activation)
}

/// Adam on θ_t with z fixed: the shard contains everything that a layer needs.
fn learn(shard: &mut Shard<f64>) -> Result<(), Error> {
    let layer = layer(shard.layer())?;
    let rule = Adam::new(1e-3)?;
    let mut state = vec![0.0; Optimizer::<f64>::slots(&rule) * shard.parameters().len()];
    let mean = 1.0 / shard.examples().len() as f64;
    let mut workspace: Option<LocalWorkspace<f64>> = None;
    for number in 1..=STEPS {
        let problem = shard.problem(&layer, &SquaredError)?;
        let mut memory = workspace.take().unwrap_or_else(|| problem.workspace());
        let step = Step::new(number, 1.0).with_gradient_factor(mean);
        let gradient = problem
            .evaluate(Parameters, &mut memory)
            .parameter_gradient();
        rule.update(step, shard.parameters_mut(), gradient, &mut state);
        workspace = Some(memory);
    }
    Ok(())
}

type AnyError = Box<dyn std::error::Error>;

/// The child process: reads one shard per line, and writes one per line.
fn work() -> Result<(), AnyError> {
    for line in std::io::stdin().lock().lines() {
        let mut shard: Shard<f64> = serde_json::from_str(&line?)?;
        learn(&mut shard)?;
        println!("{}", serde_json::to_string(&shard)?);
    }
    Ok(())
}

/// A child process and its output.
struct Worker {
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
}

impl Worker {
    fn start() -> Result<Self, AnyError> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("worker")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let answers = BufReader::new(
            child
                .stdout
                .take()
                .ok_or("the worker has no standard output")?,
        );
        Ok(Self { child, answers })
    }

    fn send(&mut self, shard: &Shard<f64>) -> Result<(), AnyError> {
        let input = self
            .child
            .stdin
            .as_mut()
            .ok_or("the worker has no standard input")?;
        writeln!(input, "{}", serde_json::to_string(shard)?)?;
        Ok(input.flush()?)
    }

    fn receive(&mut self) -> Result<Shard<f64>, AnyError> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }

    fn end(mut self) -> Result<(), AnyError> {
        drop(self.child.stdin.take());
        match self.child.wait()?.success() {
            true => Ok(()),
            false => Err("the worker failed".into()),
        }
    }
}

fn model() -> Result<DecoupledCircuit<f64>, Error> {
    let x = DMatrix::from_fn(1, 100, |_, i| i as f64 / 50.0 - 1.0);
    let y = x.map(|x| (3.0 * x).sin());
    let mut builder = Circuit::builder().seed(1);
    for t in 0..WIDTHS.len() - 1 {
        builder = builder.layer(layer(t)?);
    }
    let mut model = DecoupledCircuit::new(builder.build()?, Energy::default())?;
    model.add_examples(&x, &y, &TargetInit::ForwardPass)?;
    Ok(model)
}

/// Prints the composed loss per example of both models.
fn tell(
    round: usize,
    here: &DecoupledCircuit<f64>,
    elsewhere: &DecoupledCircuit<f64>,
) -> Result<(), Error> {
    let mean = |model: &DecoupledCircuit<f64>| {
        let count = model.examples().len() as f64;
        Ok::<f64, Error>(model.composed_loss()? / count)
    };
    let (here, elsewhere) = (mean(here)?, mean(elsewhere)?);
    println!("round {round:>2}: loss {here:.6} here, {elsewhere:.6} elsewhere");
    Ok(())
}

fn compare() -> Result<(), AnyError> {
    let mut here = model()?;
    let mut elsewhere = model()?;
    // One worker per layer; all of them learn at the same time.
    let depth = here.circuit().depth();
    let mut workers = Vec::new();
    for _ in 0..depth {
        workers.push(Worker::start()?);
    }
    tell(0, &here, &elsewhere)?;
    for round in 1..=ROUNDS {
        for model in [&mut here, &mut elsewhere] {
            model.initialize_targets(&TargetInit::ForwardPass)?;
            model.solve_targets(&ReverseSweep::new(2), &Selection::All)?;
        }
        for t in 0..depth {
            let mut shard = here.shard(t, &Selection::All)?;
            learn(&mut shard)?;
            here.install(&shard)?;
        }
        for (t, worker) in workers.iter_mut().enumerate() {
            worker.send(&elsewhere.shard(t, &Selection::All)?)?;
        }
        for worker in &mut workers {
            elsewhere.install(&worker.receive()?)?;
        }
        if round % 20 == 0 {
            tell(round, &here, &elsewhere)?;
        }
    }
    for worker in workers {
        worker.end()?;
    }
    for t in 0..depth {
        if here.circuit().parameters(t) != elsewhere.circuit().parameters(t) {
            return Err(format!("the parameters of layer {t} differ").into());
        }
    }
    println!("{depth} processes gave the same bits as one");
    Ok(())
}

fn main() -> ExitCode {
    let result = match std::env::args().nth(1).as_deref() {
        Some("worker") => work(),
        _ => compare(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
