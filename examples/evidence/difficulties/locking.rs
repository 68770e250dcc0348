//! Update locking: what a layer waits for.

use std::error::Error;
use std::time::{Duration, Instant};

use layerwise::decoupled::TargetInit;
use layerwise::energy::Energy;
use layerwise::kernel::{Execution, Write};
use layerwise::layer::{Activation, Context, Dense, ParameterGroup, Point, Scratch, Shape};
use layerwise::nalgebra::DMatrix;
use layerwise::optimizer::{Adam, GradientDescent};
use layerwise::rand::rngs::ChaCha8Rng;
use layerwise::rand::{Rng, RngExt, SeedableRng};
use layerwise::target_solver::{ReverseSweep, StepSize, SynchronousDescent};
use layerwise::training::{Backprop, Decoupling, Phase, Trainer};
use layerwise::{Circuit, DecoupledCircuit, Layer};
use serde::Serialize;

use crate::Options;
use crate::results::Results;
use crate::statistics::print_table;

/// A dense layer with an artificial delay, as if it ran on another machine.
#[derive(Debug)]
struct Slow {
    layer: Dense,
    delay: Duration,
}

impl Layer<f32> for Slow {
    fn input_shape(&self) -> Shape {
        self.layer.input_shape()
    }

    fn output_shape(&self) -> Shape {
        self.layer.output_shape()
    }

    fn parameters(&self) -> Vec<ParameterGroup> {
        self.layer.parameters()
    }

    fn initialize(&self, parameters: &mut [f32], rng: &mut dyn Rng) {
        self.layer.initialize(parameters, rng);
    }

    fn scratch(&self, batch: usize) -> Scratch {
        self.layer.scratch(batch)
    }

    fn forward(
        &self,
        context: &Context<'_>,
        parameters: &[f32],
        input: &[f32],
        output: &mut [f32],
        tape: Option<&mut [f32]>,
        work: &mut [f32],
    ) {
        std::thread::sleep(self.delay);
        self.layer
            .forward(context, parameters, input, output, tape, work);
    }

    fn vjp(
        &self,
        at: &Point<'_, f32>,
        cotangent: &[f32],
        d_input: Write<'_, f32>,
        d_parameters: Write<'_, f32>,
        work: &mut [f32],
    ) {
        std::thread::sleep(self.delay);
        self.layer.vjp(at, cotangent, d_input, d_parameters, work);
    }

    fn jvp(
        &self,
        at: &Point<'_, f32>,
        v_input: Option<&[f32]>,
        v_parameters: Option<&[f32]>,
        tangent: &mut [f32],
        work: &mut [f32],
    ) {
        self.layer.jvp(at, v_input, v_parameters, tangent, work);
    }

    fn curvature_bound(&self, parameters: &[f32], work: &mut [f32]) -> Option<f32> {
        self.layer.curvature_bound(parameters, work)
    }
}

#[derive(Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Locked {
    Backprop,
    Joint,
    WeightsOnly,
    Persistent,
    Sweep,
}

/// Seconds per θ-step when every call of a layer's function or vector-Jacobian product takes
/// `delay_ms`.
#[derive(Serialize)]
struct Locking {
    locking: Locked,
    depth: usize,
    delay_ms: u64,
    steps: u64,
}

impl Locking {
    fn run(&self) -> Result<f64, layerwise::Error> {
        let delay = Duration::from_millis(self.delay_ms);
        let mut builder = Circuit::<f32>::builder();
        for t in 0..self.depth {
            let last = t + 1 == self.depth;
            let activation = if last {
                Activation::Identity
            } else {
                Activation::Tanh
            };
            let layer = Dense::new(8, 8, activation)?;
            builder = builder.layer(Slow { layer, delay });
        }
        let mut model = DecoupledCircuit::new(builder.build()?, Energy::default())?;
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let x = DMatrix::from_fn(8, 32, |_, _| rng.random::<f32>());
        model.add_examples(&x, &x, &TargetInit::RandomNormal { std: 0.4, seed: 0 })?;
        let rule = Adam::new(1e-3)?;
        let phase = match self.locking {
            Locked::Backprop => Phase::new(Backprop, rule),
            Locked::Joint => Phase::new(Decoupling::joint(GradientDescent::new(0.1)?), rule),
            Locked::WeightsOnly => Phase::new(Decoupling::weights_only(), rule),
            Locked::Persistent => {
                let solver = SynchronousDescent::new(1, StepSize::Fixed(0.1))?;
                Phase::new(Decoupling::persistent(solver), rule)
            }
            Locked::Sweep => Phase::new(Decoupling::refreshed(ReverseSweep::new(1)), rule),
        };
        let start = Instant::now();
        Trainer::new(phase.with_epochs(self.steps))
            .with_threads(self.depth)?
            .with_execution(Execution::Layers)
            .with_measure_every(0)
            .run(&mut model)?;
        Ok(start.elapsed().as_secs_f64() / self.steps as f64)
    }
}

/// Seconds per step, divided by the seconds of one call.
pub fn table(options: &Options, results: &Results) -> Result<(), Box<dyn Error>> {
    let (depths, steps) = match options.quick {
        false => (&[4, 8, 16][..], 20),
        true => (&[4][..], 3),
    };
    let schemes = [
        (Locked::Backprop, "backprop"),
        (Locked::Joint, "joint descent"),
        (
            Locked::WeightsOnly,
            "W-steps on projected or other given targets",
        ),
        (
            Locked::Persistent,
            "persistent targets, one synchronous Z-step",
        ),
        (Locked::Sweep, "refreshed targets, one reverse sweep"),
    ];
    let delay_ms = 10;
    let mut rows = Vec::new();
    for (scheme, name) in schemes {
        let tasks: Vec<Locking> = depths
            .iter()
            .map(|&depth| Locking {
                locking: scheme,
                depth,
                delay_ms,
                steps,
            })
            .collect();
        let seconds = results.of(&tasks, 1, Locking::run)?;
        let calls = seconds
            .iter()
            .map(|s| format!("{:.1}", s * 1e3 / delay_ms as f64));
        rows.push([name.to_owned()].into_iter().chain(calls).collect());
    }
    println!(
        "**Update locking.** Time of a θ-step, in calls of a slow layer ({delay_ms} ms each), with one thread per layer.\n"
    );
    let names: Vec<String> = depths
        .iter()
        .map(|depth| format!("{depth} layers"))
        .collect();
    let head = ["scheme"]
        .into_iter()
        .chain(names.iter().map(String::as_str));
    print_table(&head.collect::<Vec<_>>(), &rows);
    Ok(())
}
