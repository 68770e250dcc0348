//! candle: autodiff over `Var`s.

use std::time::Instant;

use candle_core::{Device, Tensor, Var};

use crate::Failure;
use crate::problem::{Kind, Outcome, Peer, Problem, State};

pub struct Candle;

impl Peer for Candle {
    fn version(&self) -> String {
        "0.11.1".into()
    }

    fn kinds(&self) -> Vec<Kind> {
        vec![Kind::Step, Kind::Backprop]
    }

    fn run(&mut self, problem: &Problem, kind: Kind, steps: u64) -> Result<Outcome, Failure> {
        let (widths, n) = (&problem.description.widths, problem.description.examples);
        let depth = problem.depth();
        let cpu = &Device::Cpu;
        let mut weights = Vec::new();
        let mut biases = Vec::new();
        for (pair, theta) in widths.windows(2).zip(&problem.start.theta) {
            let (w, b) = theta.split_at(pair[0] * pair[1]);
            weights.push(Var::from_slice(w, (pair[0], pair[1]), cpu)?);
            biases.push(Var::from_slice(b, (1, pair[1]), cpu)?);
        }
        let mut targets = Vec::new();
        for (z, width) in problem.start.z.iter().zip(&widths[1..]) {
            targets.push(Var::from_slice(z, (n, *width), cpu)?);
        }
        let x = Tensor::from_slice(&problem.x, (n, widths[0]), cpu)?;
        let y = Tensor::from_slice(&problem.y, (n, widths[depth]), cpu)?;
        let rate = problem.description.rate / n as f64;
        let target_rate = problem.description.target_rate;

        let layer = |t: usize, input: &Tensor| -> Result<Tensor, candle_core::Error> {
            let affine = input.matmul(&weights[t])?.broadcast_add(&biases[t])?;
            if t + 1 == depth {
                Ok(affine)
            } else {
                affine.tanh()
            }
        };
        let half_square = |target: &Tensor, prediction: &Tensor| {
            prediction.sub(target)?.sqr()?.sum_all()?.affine(0.5, 0.0)
        };
        let step = || -> Result<f32, candle_core::Error> {
            let value = match kind {
                Kind::Step => {
                    let mut sum = half_square(
                        targets.first().map_or(&y, |z| z.as_tensor()),
                        &layer(0, &x)?,
                    )?;
                    for t in 1..depth {
                        let target = targets.get(t).map_or(&y, |z| z.as_tensor());
                        sum = (sum + half_square(target, &layer(t, &targets[t - 1])?)?)?;
                    }
                    sum
                }
                _ => {
                    let mut current = x.clone();
                    for t in 0..depth {
                        current = layer(t, &current)?;
                    }
                    half_square(&y, &current)?
                }
            };
            let gradients = value.backward()?;
            let descend = |var: &Var, rate: f64| {
                let gradient = gradients.get(var).expect("the loss depends on it");
                var.set(&var.sub(&gradient.affine(rate, 0.0)?)?)
            };
            for var in weights.iter().chain(&biases) {
                descend(var, rate)?;
            }
            if kind == Kind::Step {
                for var in &targets {
                    descend(var, target_rate)?;
                }
            }
            value.to_scalar()
        };

        let mut value = 0.0;
        let mut start = Instant::now();
        for number in 0..steps {
            value = step()?;
            if number == 0 {
                start = Instant::now();
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        let flat = |tensor: &Tensor| tensor.flatten_all()?.to_vec1::<f32>();
        let mut state = State {
            theta: Vec::new(),
            z: Vec::new(),
        };
        for (w, b) in weights.iter().zip(&biases) {
            state.theta.push([flat(w)?, flat(b)?].concat());
        }
        for z in &targets {
            state.z.push(flat(z)?);
        }
        Ok(Outcome {
            seconds,
            value: value.into(),
            state,
        })
    }
}
