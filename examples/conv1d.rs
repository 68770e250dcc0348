//! A 1-D convolution written outside the crate. It states which entries of the input each patch
//! reads, and [`Patchwise`] does the rest: fused activations, derivatives, parallel columns, a
//! curvature bound, and initial values.
//!
//! ẑ[c, p] = a(Σ_{i,k} W[c, (i, k)] z[i, stride p + k − padding] + b[c]), 0 beyond the ends.

use std::ops::Range;

use layerwise::gradcheck::GradCheck;
use layerwise::layer::{Patchwise, Shape, Unfold};
use layerwise::parameter_solver::LeastSquares;
use layerwise::prelude::*;
use layerwise::training::{Targets, WStep, ZStep};

/// Windows of `width` steps of a sequence of `channels` values per step.
#[derive(Debug, Clone, PartialEq)]
struct Windows {
    channels: usize,
    steps: usize,
    width: usize,
    stride: usize,
    padding: usize,
}

impl Windows {
    fn count(&self) -> usize {
        (self.steps + 2 * self.padding - self.width) / self.stride + 1
    }

    /// The part of the window at a position that lies inside the input, as a range of patch
    /// entries, and the step of the input at which it begins.
    fn inside(&self, position: usize) -> (Range<usize>, usize) {
        let start = self.stride * position;
        let first = self.padding.saturating_sub(start);
        let last = (self.steps + self.padding - start).min(self.width);
        let read = self.channels * (start + first - self.padding);
        (self.channels * first..self.channels * last, read)
    }
}

impl Unfold for Windows {
    fn input_shape(&self) -> Shape {
        [self.channels, self.steps].into()
    }

    fn patch_len(&self) -> usize {
        self.channels * self.width
    }

    fn positions(&self) -> Shape {
        self.count().into()
    }

    fn source(&self, entry: usize, position: usize) -> Option<usize> {
        let (inside, read) = self.inside(position);
        inside.contains(&entry).then(|| read + entry - inside.start)
    }

    // Optional: the next two functions copy and add whole runs instead of single entries.
    fn unfold<T: Scalar>(
        &self,
        input: &[T],
        entries: Range<usize>,
        positions: Range<usize>,
        patches: &mut [T],
    ) {
        patches.fill(T::zero());
        for (position, patch) in positions.zip(patches.chunks_exact_mut(entries.len())) {
            let (inside, read) = self.inside(position);
            let own = inside.start.max(entries.start)..inside.end.min(entries.end);
            if !own.is_empty() {
                let input = &input[read + own.start - inside.start..][..own.len()];
                patch[own.start - entries.start..][..own.len()].copy_from_slice(input);
            }
        }
    }

    fn fold<T: Scalar>(&self, patches: &[T], positions: Range<usize>, sums: &mut [T]) {
        for (position, patch) in positions.zip(patches.chunks_exact(self.patch_len())) {
            let (inside, read) = self.inside(position);
            for (sum, &value) in sums[read..].iter_mut().zip(&patch[inside]) {
                *sum += value;
            }
        }
    }
}

fn convolution(
    channels: usize,
    steps: usize,
    out: usize,
    stride: usize,
) -> Result<Patchwise<Windows>, Error> {
    let windows = Windows {
        channels,
        steps,
        width: 3,
        stride,
        padding: 1,
    };
    Patchwise::over(windows, out, Activation::Softplus)
}

fn main() -> Result<(), Error> {
    // First check the layer's contract: derivatives, bound, columns, memory, closed-form
    // description.
    let layer = convolution(2, 5, 3, 2)?;
    println!("{} -> {}", layer.input_shape(), layer.output_shape());
    let number = |i: usize| ((7 * i + 3) % 11) as f64 / 5.0 - 1.0;
    let parameters: Vec<f64> = (0..21).map(number).collect();
    let input: Vec<f64> = (0..20).map(|i| number(i * i + 1)).collect();
    let check = GradCheck::new().layer(&layer, &parameters, &input)?;
    print!("{check}");
    check.require(1e-6)?;

    // Then classify three kinds of waves with random phases, by two convolutions and a dense layer.
    let (steps, n) = (32, 300);
    let wave = |j: usize, i: usize| {
        let (kind, phase) = (i % 3, (i * 37 % 100) as f64 / 100.0);
        let turn = (j as f64 / 8.0 + phase).fract();
        match kind {
            0 => (std::f64::consts::TAU * turn).sin(),
            1 => 2.0 * turn - 1.0,
            _ => {
                if turn < 0.5 {
                    1.0
                } else {
                    -1.0
                }
            }
        }
    };
    let x = DMatrix::from_fn(steps, n, wave);
    let y = DMatrix::from_fn(3, n, |k, i| if i % 3 == k { 1.0 } else { 0.0 });
    let circuit = Circuit::builder()
        .layer(convolution(1, steps, 6, 2)?)
        .layer(convolution(6, steps / 2, 6, 2)?)
        .layer(Dense::new(6 * steps / 4, 3, Activation::Identity)?)
        .build()?;
    let mut model = DecoupledCircuit::new(circuit, Energy::new(SoftmaxCrossEntropy))?;
    model.add_examples(&x, &y, &TargetInit::ForwardPass)?;
    // First fit both convolutions in closed form to projected targets, on two threads; then use
    // sweeps.
    let projected = Decoupling::new(Targets::Projected { seed: 0 }, ZStep::None)?;
    let solved = WStep::solver(LeastSquares::ridge(1e-6)?).with_optimizer(Adam::new(1e-2)?);
    let swept = Decoupling::refreshed(ReverseSweep::new(1));
    let trainer = Trainer::new(Phase::with_w_step(projected, solved)?.with_epochs(1))
        .then(Phase::new(swept, Adam::new(1e-2)?).with_epochs(200))
        .with_threads(if cfg!(feature = "rayon") { 2 } else { 1 })?
        .with_measure_every(50);
    for record in trainer.run(&mut model)?.history {
        if let (Some(loss), Some(gap)) = (record.composed_loss, record.gap_after) {
            println!(
                "epoch {:>3}: composed loss {loss:.4}, gap {gap:.4}",
                record.epoch
            );
        }
    }
    let outputs = model.predict(&x)?;
    let classes = outputs.column_iter().map(|column| column.imax());
    let right = classes.enumerate().filter(|(i, class)| i % 3 == *class);
    println!("{} of {n} waves classified correctly", right.count());
    Ok(())
}
