//! Seconds and passes over the data to a test accuracy.

use std::error::Error;
use std::path::Path;

use layerwise::nalgebra::DMatrix;
use layerwise::{
    Activation, Adam, Alternating, Backprop, Circuit, Dense, Phase, SoftmaxCrossEntropy,
    TargetInit, Trainer, metrics,
};
use serde::Serialize;

use crate::Options;
use crate::curve::curve;
use crate::digits::{self, Digits};
use crate::idx::Idx;
use crate::nets::{self, Start, Unit, accuracy};
use crate::recipe::{BATCH, closed_form, projected, sweeps};
use crate::statistics::print_table;

#[derive(Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Net {
    /// Digits: 64, 64, 64, 10, tanh.
    Shallow,
    /// Digits: 10 tanh layers, hidden ones 32 wide.
    Tanh,
    /// Digits: the same with sigmoids.
    Sigmoid,
    /// Fashion-MNIST: 784, 256, 256, 10, tanh.
    Fashion,
}

impl Net {
    fn title(self) -> &'static str {
        match self {
            Self::Shallow => "Digits, widths 64, 64, 64, 10, tanh",
            Self::Tanh => "Digits, 10 layers, 32 wide, tanh",
            Self::Sigmoid => "Digits, 10 layers, 32 wide, sigmoid",
            Self::Fashion => "Fashion-MNIST, widths 784, 256, 256, 10, tanh",
        }
    }

    /// Test accuracies to reach, per cent.
    fn goals(self) -> [f64; 3] {
        match self {
            Self::Fashion => [85.0, 87.0, 88.0],
            _ => [95.0, 97.0, 98.0],
        }
    }

    fn passes(self) -> u64 {
        if self == Self::Fashion { 15 } else { 150 }
    }

    fn rates(self) -> &'static [f64] {
        if self == Self::Fashion {
            &[1e-3, 2e-3]
        } else {
            &[2e-3, 5e-3, 1e-2]
        }
    }

    fn circuit(self, seed: u64) -> Result<Circuit<f32>, layerwise::Error> {
        let widths = match self {
            Self::Tanh => return nets::deep(Unit::Tanh, 10, Start::Normal(1.0), seed),
            Self::Sigmoid => return nets::deep(Unit::Sigmoid, 10, Start::Normal(1.0), seed),
            Self::Shallow => [digits::PIXELS, 64, 64, 10],
            Self::Fashion => [784, 256, 256, 10],
        };
        let mut builder = Circuit::builder()
            .output_loss(SoftmaxCrossEntropy)
            .seed(seed);
        for (t, pair) in widths.windows(2).enumerate() {
            let activation = if t == 2 {
                Activation::Identity
            } else {
                Activation::Tanh
            };
            builder = builder.layer(Dense::new(pair[0], pair[1], activation)?);
        }
        builder.build()
    }
}

#[derive(Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Scheme {
    Backprop,
    /// Refreshed targets, one reverse sweep a visit.
    Sweep,
    /// Closed-form W-steps on projected targets, then refreshed targets as above.
    Projected,
    /// Closed-form W-steps on projected targets, then backprop.
    Started,
}

const SCHEMES: [(Scheme, &str); 4] = [
    (Scheme::Backprop, "backprop"),
    (Scheme::Sweep, "refreshed, 1 reverse sweep"),
    (Scheme::Projected, "projected, closed form, then the same"),
    (Scheme::Started, "projected, closed form, then backprop"),
];

#[derive(Clone, Copy, PartialEq, Serialize)]
struct Task {
    net: Net,
    scheme: Scheme,
    rate: f64,
    threads: usize,
    passes: u64,
    seed: u64,
    split_seed: u64,
}

/// For every goal, passes and seconds of training when a pass first ended at it or above.
type Outcome = [Option<(u64, f64)>; 3];

impl Task {
    fn run(&self, train: &Digits, test: &Digits) -> Result<Outcome, layerwise::Error> {
        let visits = |phase: Phase<f32>| phase.epochs(self.passes).batch_size(BATCH);
        let rule = Adam::new(self.rate)?;
        let sweep = Alternating::refreshed(sweeps(1)?);
        let circuit = self.net.circuit(self.seed)?;
        let (targets, trainer) = match self.scheme {
            Scheme::Backprop => (
                TargetInit::ForwardPass,
                Trainer::new(visits(Phase::new(Backprop, rule))),
            ),
            Scheme::Sweep => (
                TargetInit::ForwardPass,
                Trainer::new(visits(Phase::new(sweep, rule))),
            ),
            Scheme::Projected => {
                let phase = visits(Phase::new(sweep, rule));
                (
                    projected(&circuit, &train.images, self.seed)?,
                    Trainer::new(closed_form(1)?).then(phase),
                )
            }
            Scheme::Started => {
                let phase = visits(Phase::new(Backprop, rule));
                (
                    projected(&circuit, &train.images, self.seed)?,
                    Trainer::new(closed_form(1)?).then(phase),
                )
            }
        };
        let mut model = nets::model(circuit, train, &targets)?;
        let goals = self.net.goals();
        let trainer = trainer
            .seed(self.seed)
            .threads(self.threads)
            .measure_every(0);
        let points = curve(
            trainer,
            &mut model,
            1.0,
            |model| accuracy(model, test),
            |p| p.value >= goals[2],
        )?;
        Ok(goals.map(|goal| {
            let first = points.iter().find(|point| point.value >= goal);
            first.map(|point| (point.passes, point.seconds))
        }))
    }
}

pub fn study(options: &Options) -> Result<(), Box<dyn Error>> {
    let digits = digits::load(options.split_seed)?;
    let results = options.results()?;
    let thread_counts = [1, 2];
    for net in [Net::Shallow, Net::Tanh, Net::Sigmoid, Net::Fashion] {
        let loaded;
        let (train, test) = match (net, &options.data) {
            (Net::Fashion, None) => {
                println!("Without `--data DIR` no Fashion-MNIST (examples/data/README.md).\n");
                continue;
            }
            (Net::Fashion, Some(folder)) => {
                loaded = (fashion(folder, "train")?, fashion(folder, "t10k")?);
                (&loaded.0, &loaded.1)
            }
            _ => (&digits.0, &digits.1),
        };
        let passes = if options.quick { 3 } else { net.passes() };
        let rates = if options.quick {
            &net.rates()[..1]
        } else {
            net.rates()
        };
        let mut tasks = Vec::new();
        for (scheme, _) in SCHEMES {
            for &rate in rates {
                for threads in thread_counts {
                    tasks.extend(options.seeds.iter().map(|&seed| Task {
                        net,
                        scheme,
                        rate,
                        threads,
                        passes,
                        seed,
                        split_seed: options.split_seed,
                    }));
                }
            }
        }
        let outcomes = results.of(&tasks, 1, |task| task.run(train, test))?;
        println!(
            "**{}**, median over seeds {:?}, at the best of the rates {rates:?}\n",
            net.title(),
            options.seeds
        );
        let mut rows = Vec::new();
        for (goal, percent) in net.goals().into_iter().enumerate() {
            for (scheme, name) in SCHEMES {
                let mut row = vec![format!("{percent} %"), name.to_owned()];
                for threads in thread_counts {
                    let of = |rate: f64| -> Vec<Option<(u64, f64)>> {
                        let own = tasks.iter().zip(&outcomes).filter(|(task, _)| {
                            (task.scheme, task.rate, task.threads) == (scheme, rate, threads)
                        });
                        own.map(|(_, outcome)| outcome[goal]).collect()
                    };
                    let best = rates
                        .iter()
                        .map(|&rate| (rate, median(of(rate))))
                        .min_by(|a, b| a.1.1.total_cmp(&b.1.1))
                        .expect("there are rates");
                    row.push(match best {
                        (_, (_, seconds, _)) if seconds.is_infinite() => "not reached".into(),
                        (rate, (passes, seconds, reached)) => format!(
                            "{seconds:.3} s, {passes} passes ({rate}; {reached} of {} seeds)",
                            options.seeds.len()
                        ),
                    });
                }
                rows.push(row);
            }
        }
        print_table(&["test accuracy", "scheme", "1 thread", "2 threads"], &rows);
    }
    Ok(())
}

/// Medians of passes and of seconds, runs that did not arrive counting as infinite, and how many did.
fn median(arrivals: Vec<Option<(u64, f64)>>) -> (u64, f64, usize) {
    let reached = arrivals.iter().flatten().count();
    let mut passes: Vec<u64> = arrivals
        .iter()
        .map(|a| a.map_or(u64::MAX, |a| a.0))
        .collect();
    let mut seconds: Vec<f64> = arrivals
        .iter()
        .map(|a| a.map_or(f64::INFINITY, |a| a.1))
        .collect();
    passes.sort_unstable();
    seconds.sort_by(f64::total_cmp);
    let middle = arrivals.len() / 2;
    (passes[middle], seconds[middle], reached)
}

/// Images of Fashion-MNIST, pixels in 0–1 less ½, and their classes.
fn fashion(folder: &Path, part: &str) -> Result<Digits, Box<dyn Error>> {
    let images = Idx::<3>::read(&folder.join(format!("{part}-images-idx3-ubyte")))?;
    let labels = Idx::<1>::read(&folder.join(format!("{part}-labels-idx1-ubyte")))?;
    let [n, height, width] = images.extents;
    if (height, width) != (28, 28) || labels.extents[0] != n {
        return Err(format!(
            "{n} images of {height}×{width}, {} labels",
            labels.extents[0]
        )
        .into());
    }
    let pixels = height * width;
    let labels: Vec<usize> = labels
        .bytes
        .iter()
        .map(|&label| usize::from(label))
        .collect();
    Ok(Digits {
        images: DMatrix::from_fn(pixels, n, |i, j| {
            f32::from(images.bytes[j * pixels + i]) / 255.0 - 0.5
        }),
        classes: metrics::one_hot(&labels, digits::CLASSES)?,
        labels,
    })
}
