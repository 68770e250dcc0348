//! Training on the handwritten digits to a test accuracy, with the settings of the example `digits`.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use layerwise::nalgebra::DMatrix;
use layerwise::{Circuit, DecoupledCircuit};
use layerwise::data::metrics;
use layerwise::decoupled::TargetInit;
use layerwise::energy::Energy;
use layerwise::layer::{Activation, Dense};
use layerwise::loss::SoftmaxCrossEntropy;
use layerwise::optimizer::{Adam, GradientDescent};
use layerwise::schedule::Schedule;
use layerwise::target_solver::{ReverseSweep, StepSize};
use layerwise::training::{Backprop, Decoupling, Phase, Trainer};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Failure;
use crate::problem::read_array;

/// One training run.
#[derive(Deserialize)]
pub struct Request {
    /// Where the data are.
    data: PathBuf,
    /// Where the initial weights of this seed are.
    start: PathBuf,
    seed: u64,
    widths: Vec<usize>,
    #[serde(rename = "variant")]
    scheme: Scheme,
    /// Examples a step.
    batch: usize,
    /// Epochs of the cosine schedule.
    total: u64,
    /// Epochs to make.
    epochs: u64,
    /// Tell the test accuracy after every epoch, up to the first that reaches this one; else only
    /// the time is told.
    until: Option<f64>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Scheme {
    Backprop,
    Joint,
    Refreshed,
    Persistent,
}

impl Scheme {
    fn phase(self) -> Result<Phase<f32>, layerwise::Error> {
        Ok(match self {
            Self::Backprop => Phase::new(Backprop, Adam::new(1e-2)?),
            Self::Joint => {
                let targets = GradientDescent::new(0.1)?.with_momentum(0.9)?;
                Phase::new(Decoupling::joint(targets), Adam::new(1e-2)?)
            }
            Self::Refreshed => {
                let scheme = Decoupling::refreshed(ReverseSweep::new(1));
                Phase::new(scheme, Adam::new(1e-2)?)
            }
            Self::Persistent => {
                let sweeps = ReverseSweep::new(3).with_step(StepSize::Bounded { margin: 1.8 })?;
                Phase::new(Decoupling::persistent(sweeps), Adam::new(3e-3)?)
            }
        })
    }
}

impl Request {
    pub fn run(&self, threads: usize) -> Result<Value, Failure> {
        let outputs = self.widths[self.widths.len() - 1];
        let mut model = DecoupledCircuit::new(self.circuit()?, Energy::new(SoftmaxCrossEntropy))?;
        let images = matrix(&self.data.join("train_x.f32"), self.widths[0])?;
        let classes = matrix(&self.data.join("train_y.f32"), outputs)?;
        model.add_examples(&images, &classes, &TargetInit::ForwardPass)?;
        let test = matrix(&self.data.join("test_x.f32"), self.widths[0])?;
        let labels = read_array(&self.data.join("test_labels.f32"))?;
        let labels: Vec<usize> = labels.iter().map(|&label| label as usize).collect();

        let phase = self.scheme.phase()?.with_epochs(self.total);
        let phase = phase.with_batch_size(self.batch)?;
        let trainer = Trainer::new(phase.with_schedule(Schedule::cosine(0.05)?))
            .with_seed(self.seed)
            .with_threads(threads)?
            .with_measure_every(0);
        let mut accuracies = Vec::new();
        let mut failure = None;
        let start = Instant::now();
        let report = trainer.run_with(&mut model, |record, model| {
            let mut enough = record.epoch >= self.epochs;
            if let Some(until) = self.until {
                let outputs = model.predict(&test);
                match outputs.and_then(|outputs| metrics::accuracy(&labels, &outputs)) {
                    Ok(accuracy) => {
                        accuracies.push(accuracy);
                        enough |= accuracy >= until;
                    }
                    Err(error) => {
                        failure = Some(error);
                        enough = true;
                    }
                }
            }
            if enough {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        let seconds = start.elapsed().as_secs_f64();
        if let Some(error) = failure {
            return Err(error.into());
        }
        Ok(json!({ "seconds": seconds, "steps": report.steps, "accuracies": accuracies }))
    }

    fn circuit(&self) -> Result<Circuit<f32>, Failure> {
        let mut builder = Circuit::builder();
        let depth = self.widths.len() - 1;
        for (t, pair) in self.widths.windows(2).enumerate() {
            let activation = if t + 1 == depth {
                Activation::Identity
            } else {
                Activation::Tanh
            };
            builder = builder.layer(Dense::new(pair[0], pair[1], activation)?);
        }
        let mut circuit = builder.build()?;
        for t in 0..depth {
            let theta = read_array(&self.start.join(format!("theta{t}.f32")))?;
            circuit.set_parameters(t, &theta)?;
        }
        Ok(circuit)
    }
}

fn matrix(path: &Path, rows: usize) -> Result<DMatrix<f32>, Failure> {
    let values = read_array(path)?;
    Ok(DMatrix::from_vec(rows, values.len() / rows, values))
}
