//! burn: autodiff over its backend `flex`.

use std::time::Instant;

use burn_tensor::{Device, Tensor, TensorData};

use crate::Failure;
use crate::problem::{Kind, Outcome, Peer, Problem, State};

pub struct Burn;

impl Peer for Burn {
    fn version(&self) -> String {
        "0.22.1 (flex)".into()
    }

    fn kinds(&self) -> Vec<Kind> {
        vec![Kind::Step, Kind::Backprop]
    }

    fn run(&mut self, problem: &Problem, kind: Kind, steps: u64) -> Result<Outcome, Failure> {
        let (widths, n) = (&problem.description.widths, problem.description.examples);
        let depth = problem.depth();
        let device = Device::flex().autodiff();
        let tensor = |values: &[f32], rows: usize, columns: usize| {
            Tensor::<2>::from_data(TensorData::new(values.to_vec(), [rows, columns]), &device)
        };
        let mut weights = Vec::new();
        let mut biases = Vec::new();
        for (pair, theta) in widths.windows(2).zip(&problem.start.theta) {
            let (w, b) = theta.split_at(pair[0] * pair[1]);
            weights.push(tensor(w, pair[0], pair[1]).require_grad());
            biases.push(tensor(b, 1, pair[1]).require_grad());
        }
        let hidden = problem.start.z.iter().zip(&widths[1..]);
        let mut targets: Vec<_> = hidden
            .map(|(z, &width)| tensor(z, n, width).require_grad())
            .collect();
        let (x, y) = (
            tensor(&problem.x, n, widths[0]),
            tensor(&problem.y, n, widths[depth]),
        );
        let rate = problem.description.rate / n as f64;
        let target_rate = problem.description.target_rate;

        let mut value = 0.0_f32;
        let mut start = Instant::now();
        for number in 0..steps {
            let layer = |t: usize, input: Tensor<2>| {
                let affine = input.matmul(weights[t].clone()) + biases[t].clone();
                if t + 1 == depth {
                    affine
                } else {
                    affine.tanh()
                }
            };
            let half_square = |target: &Tensor<2>, prediction: Tensor<2>| {
                let residual = prediction - target.clone();
                (residual.clone() * residual).sum() * 0.5
            };
            let energy = match kind {
                Kind::Step => {
                    let mut sum = half_square(targets.first().unwrap_or(&y), layer(0, x.clone()));
                    for t in 1..depth {
                        let prediction = layer(t, targets[t - 1].clone());
                        sum = sum + half_square(targets.get(t).unwrap_or(&y), prediction);
                    }
                    sum
                }
                _ => {
                    let output = (0..depth).fold(x.clone(), |current, t| layer(t, current));
                    half_square(&y, output)
                }
            };
            let mut gradients = energy.backward();
            let mut descend = |parameter: &mut Tensor<2>, rate: f64| {
                let gradient = parameter
                    .grad_remove(&mut gradients)
                    .expect("the loss depends on it");
                let moved = parameter.clone().inner() - gradient * rate;
                *parameter = Tensor::from_inner(moved).require_grad();
            };
            for parameter in weights.iter_mut().chain(&mut biases) {
                descend(parameter, rate);
            }
            if kind == Kind::Step {
                for target in &mut targets {
                    descend(target, target_rate);
                }
            }
            value = energy.into_scalar();
            if number == 0 {
                start = Instant::now();
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        let flat = |tensor: &Tensor<2>| tensor.to_data().try_to_vec::<f32>();
        let mut state = State {
            theta: Vec::new(),
            z: Vec::new(),
        };
        for (w, b) in weights.iter().zip(&biases) {
            let (w, b) = (flat(w), flat(b));
            let w = w.map_err(|e| format!("{e:?}"))?;
            let b = b.map_err(|e| format!("{e:?}"))?;
            state.theta.push([w, b].concat());
        }
        for z in &targets {
            state.z.push(flat(z).map_err(|e| format!("{e:?}"))?);
        }
        Ok(Outcome {
            seconds,
            value: value.into(),
            state,
        })
    }
}
