//! This crate, as a user would run it: a `Trainer` over the whole batch.

use std::ops::ControlFlow;
use std::time::Instant;

use layerwise::nalgebra::DMatrix;
use layerwise::{Circuit, DecoupledCircuit, Scalar};
use layerwise::decoupled::TargetInit;
use layerwise::energy::Energy;
use layerwise::kernel::Execution;
use layerwise::layer::{Activation, Dense};
use layerwise::optimizer::{Adam, GradientDescent};
use layerwise::training::{Backprop, Decoupling, Phase, Trainer};

use crate::Failure;
use crate::problem::{Kind, Outcome, Peer, Problem, State};

/// Adam's rate, for θ and z.
const ADAM_RATE: f64 = 1e-3;

pub struct Layerwise {
    threads: usize,
}

impl Layerwise {
    pub fn new(threads: usize) -> Self {
        Self { threads }
    }

    fn run_in<T: Scalar>(
        &self,
        problem: &Problem,
        kind: Kind,
        steps: u64,
    ) -> Result<Outcome, Failure> {
        let mut model = model::<T>(problem)?;
        let description = &problem.description;
        let rule = GradientDescent::new(description.rate)?;
        let phase = match kind {
            Kind::Step | Kind::Step64 | Kind::Layers | Kind::Columns | Kind::Sequential => {
                let targets = GradientDescent::new(description.target_rate)?;
                Phase::new(Decoupling::joint(targets), rule)
            }
            Kind::Backprop | Kind::Backprop64 => Phase::new(Backprop, rule),
            Kind::Adam => Phase::new(
                Decoupling::joint(Adam::new(ADAM_RATE)?),
                Adam::new(ADAM_RATE)?,
            ),
        };
        let trainer = Trainer::new(phase.with_epochs(steps))
            .with_threads(self.threads)?
            .with_execution(match kind {
                Kind::Layers => Execution::Layers,
                Kind::Columns => Execution::Columns,
                Kind::Sequential => Execution::Sequential,
                _ => Execution::Automatic,
            })
            .with_measure_every(0);
        let mut start = None;
        let report = trainer.run_with(&mut model, |_, _| {
            start.get_or_insert_with(Instant::now);
            ControlFlow::Continue(())
        })?;
        let seconds = start.map_or(0.0, |start| start.elapsed().as_secs_f64());
        let mean = report.history.last().ok_or("no step was made")?.objective;
        let depth = problem.depth();
        let z: Result<_, layerwise::Error> = (1..depth)
            .map(|t| Ok(model.z(t)?.iter().map(|v| v.as_f64() as f32).collect()))
            .collect();
        Ok(Outcome {
            seconds,
            value: mean.as_f64() * description.examples as f64,
            state: State {
                theta: (0..depth)
                    .map(|t| single(model.circuit().parameters(t)))
                    .collect(),
                z: z?,
            },
        })
    }
}

impl Peer for Layerwise {
    fn version(&self) -> String {
        "of this folder".into()
    }

    fn kinds(&self) -> Vec<Kind> {
        vec![
            Kind::Step,
            Kind::Backprop,
            Kind::Adam,
            Kind::Step64,
            Kind::Backprop64,
            Kind::Layers,
            Kind::Columns,
            Kind::Sequential,
        ]
    }

    fn run(&mut self, problem: &Problem, kind: Kind, steps: u64) -> Result<Outcome, Failure> {
        match kind {
            Kind::Step64 | Kind::Backprop64 => self.run_in::<f64>(problem, kind, steps),
            _ => self.run_in::<f32>(problem, kind, steps),
        }
    }
}

fn model<T: Scalar>(problem: &Problem) -> Result<DecoupledCircuit<T>, Failure> {
    let (widths, n) = (&problem.description.widths, problem.description.examples);
    let mut builder = Circuit::builder();
    for (t, pair) in widths.windows(2).enumerate() {
        let activation = if t + 1 == problem.depth() {
            Activation::Identity
        } else {
            Activation::Tanh
        };
        builder = builder.layer(Dense::new(pair[0], pair[1], activation)?);
    }
    let mut circuit = builder.build()?;
    for (t, theta) in problem.start.theta.iter().enumerate() {
        circuit.set_parameters(t, &of(theta))?;
    }
    let matrix = |rows: usize, values: &[f32]| DMatrix::from_vec(rows, n, of::<T>(values));
    let targets = (1..).zip(&problem.start.z);
    let targets = targets.map(|(t, z)| matrix(widths[t], z)).collect();
    let mut model = DecoupledCircuit::new(circuit, Energy::default())?;
    model.add_examples(
        &matrix(widths[0], &problem.x),
        &matrix(widths[problem.depth()], &problem.y),
        &TargetInit::Given(targets),
    )?;
    Ok(model)
}

fn of<T: Scalar>(values: &[f32]) -> Vec<T> {
    values.iter().map(|&v| T::of(f64::from(v))).collect()
}

fn single<T: Scalar>(values: &[T]) -> Vec<f32> {
    values.iter().map(|v| v.as_f64() as f32).collect()
}
