//! Seconds and passes over the data until a test accuracy is reached.

use std::cmp::Ordering;
use std::error::Error;
use std::path::Path;
use std::time::Instant;

use layerwise::Circuit;
use layerwise::data::{Dataset, Idx, Standardizer, TargetEncoding, metrics};
use layerwise::decoupled::TargetInit;
use layerwise::layer::{Activation, Dense};
use layerwise::nalgebra::DVector;
use layerwise::optimizer::Adam;
use layerwise::target_solver::ReverseSweep;
use layerwise::training::{Backprop, Decoupling, Phase, Trainer};
use serde::Serialize;

use crate::Options;
use crate::curve::curve;
use crate::digits::{self, Digits};
use crate::nets::{self, Start, Unit, accuracy};
use crate::recipe::{BATCH, RIDGE, closed_form, projected, sweeps};
use crate::statistics::{Spread, print_table};

#[derive(Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Net {
    /// Digits: 64, 64, 64, 10, tanh.
    Shallow,
    /// Digits: 10 tanh layers, hidden layers 32 wide.
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
        if self == Self::Fashion { 10 } else { 60 }
    }

    fn rates(self) -> &'static [f64] {
        if self == Self::Fashion {
            &[1.5e-3]
        } else {
            &[2e-3, 5e-3, 1e-2]
        }
    }

    /// Ridge of the closed form: neighbouring pixels of the larger images are almost equal.
    fn ridge(self) -> f64 {
        if self == Self::Fashion { 1e-3 } else { RIDGE }
    }

    fn deep(self) -> bool {
        matches!(self, Self::Tanh | Self::Sigmoid)
    }

    /// `start` applies to the deep circuits; the others have weights from N(0, 1/fan-in).
    fn circuit(self, start: Start, seed: u64) -> Result<Circuit<f32>, layerwise::Error> {
        let widths = match self {
            Self::Tanh => return nets::deep(Unit::Tanh, 10, start, seed),
            Self::Sigmoid => return nets::deep(Unit::Sigmoid, 10, start, seed),
            Self::Shallow => [digits::PIXELS, 64, 64, 10],
            Self::Fashion => [784, 256, 256, 10],
        };
        let mut builder = Circuit::builder().seed(seed);
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
    /// Backprop from orthogonal weights, only for deep circuits.
    Orthogonal,
    /// Refreshed targets, one reverse sweep per visit, with long steps in deep circuits.
    Refreshed,
    /// Closed-form W-steps on projected targets, then refreshed targets with two sweeps per visit.
    Projected,
    /// Closed-form W-steps on projected targets, then backprop.
    Started,
}

const SCHEMES: [(Scheme, &str); 5] = [
    (Scheme::Backprop, "backprop"),
    (Scheme::Orthogonal, "backprop from orthogonal weights"),
    (Scheme::Refreshed, "refreshed, 1 reverse sweep"),
    (Scheme::Projected, "projected, closed form, then 2 sweeps"),
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

/// For every goal, the passes and seconds (including the creation of the targets) until a pass
/// first ends at or above it.
type Outcome = [Option<(u64, f64)>; 3];

impl Task {
    fn run(&self, train: &Digits, test: &Digits) -> Result<Outcome, layerwise::Error> {
        let begin = Instant::now();
        let rule = Adam::new(self.rate)?;
        let visits = |phase: Phase<f32>| phase.with_epochs(self.passes).with_batch_size(BATCH);
        let backprop = || visits(Phase::new(Backprop, rule));
        let refreshed = |solver| visits(Phase::new(Decoupling::refreshed(solver), rule));
        let start = match self.scheme {
            Scheme::Orthogonal => Start::Orthogonal,
            _ => Start::Normal(1.0),
        };
        let circuit = self.net.circuit(start, self.seed)?;
        let projected = || projected(&circuit, &train.images, self.seed);
        // A single solution for all examples.
        let closed_form = || -> Result<Trainer<f32>, layerwise::Error> {
            let phase = closed_form(1, self.net.ridge())?;
            Ok(Trainer::new(phase.with_batch_size(train.labels.len())?))
        };
        let (targets, trainer) = match self.scheme {
            Scheme::Backprop | Scheme::Orthogonal => {
                (TargetInit::ForwardPass, Trainer::new(backprop()?))
            }
            Scheme::Refreshed => {
                let sweep = if self.net.deep() {
                    sweeps(1)?
                } else {
                    ReverseSweep::new(1)
                };
                (TargetInit::ForwardPass, Trainer::new(refreshed(sweep)?))
            }
            Scheme::Projected => {
                let phase = refreshed(sweeps(2)?)?;
                (projected()?, closed_form()?.then(phase))
            }
            Scheme::Started => (projected()?, closed_form()?.then(backprop()?)),
        };
        let mut model = nets::model(circuit, train, &targets)?;
        let goals = self.net.goals();
        let trainer = trainer
            .with_seed(self.seed)
            .with_threads(self.threads)?
            .with_measure_every(0);
        let points = curve(
            begin,
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
                println!(
                    "Fashion-MNIST is skipped: it needs `--data DIR` (see examples/data/README.md).\n"
                );
                continue;
            }
            (Net::Fashion, Some(folder)) => {
                loaded = fashion(folder)?;
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
        let schemes = SCHEMES.into_iter();
        let schemes: Vec<(Scheme, &str)> = schemes
            .filter(|&(scheme, _)| scheme != Scheme::Orthogonal || net.deep())
            .collect();
        let mut tasks = Vec::new();
        for &(scheme, _) in &schemes {
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
            "**{}**, mean ± sd over seeds {:?}, at the best of the rates {rates:?}\n",
            net.title(),
            options.seeds
        );
        let mut rows = Vec::new();
        for (goal, percent) in net.goals().into_iter().enumerate() {
            for &(scheme, name) in &schemes {
                let mut row = vec![format!("{percent} %"), name.to_owned()];
                for threads in thread_counts {
                    let of = |rate: f64| -> Vec<Option<(u64, f64)>> {
                        let own = tasks.iter().zip(&outcomes).filter(|(task, _)| {
                            (task.scheme, task.rate, task.threads) == (scheme, rate, threads)
                        });
                        own.map(|(_, outcome)| outcome[goal]).collect()
                    };
                    let arrivals = rates.iter().map(|&rate| (rate, Arrivals::of(&of(rate))));
                    let best = arrivals.min_by(|(_, a), (_, b)| a.order(b));
                    let (rate, arrivals) = best.expect("there are rates");
                    row.push(arrivals.show(rate, options.seeds.len()));
                }
                rows.push(row);
            }
        }
        print_table(&["test accuracy", "scheme", "1 thread", "2 threads"], &rows);
    }
    Ok(())
}

/// The runs that reached a goal.
struct Arrivals {
    count: usize,
    passes: Spread,
    seconds: Spread,
}

impl Arrivals {
    fn of(runs: &[Option<(u64, f64)>]) -> Self {
        let arrived: Vec<(u64, f64)> = runs.iter().flatten().copied().collect();
        let passes: Vec<f64> = arrived.iter().map(|&(passes, _)| passes as f64).collect();
        let seconds: Vec<f64> = arrived.iter().map(|&(_, seconds)| seconds).collect();
        Self {
            count: arrived.len(),
            passes: Spread::of(&passes),
            seconds: Spread::of(&seconds),
        }
    }

    /// Orders first by the number of seeds that reach the goal, then by speed.
    fn order(&self, other: &Self) -> Ordering {
        let more = other.count.cmp(&self.count);
        more.then(self.seconds.mean.total_cmp(&other.seconds.mean))
    }

    fn show(&self, rate: f64, seeds: usize) -> String {
        if self.count == 0 {
            return "not reached".into();
        }
        let of = match self.count == seeds {
            true => String::new(),
            false => format!("; {} of {seeds} seeds", self.count),
        };
        let (seconds, passes) = (self.seconds.show(3), self.passes.mean);
        format!("{seconds} s, {passes:.1} passes ({rate}{of})")
    }
}

/// Training and test images of Fashion-MNIST, with pixels in 0–1 centred by the training images'
/// means.
fn fashion(folder: &Path) -> Result<(Digits, Digits), Box<dyn Error>> {
    let (mut train, mut test) = (part(folder, "train")?, part(folder, "t10k")?);
    let centring = Standardizer::fit_mean_only(&train.images)?;
    for images in [&mut train.images, &mut test.images] {
        *images = centring.transform(images)?;
    }
    Ok((train, test))
}

fn part(folder: &Path, name: &str) -> Result<Digits, Box<dyn Error>> {
    let images = folder.join(format!("{name}-images-idx3-ubyte"));
    let labels = folder.join(format!("{name}-labels-idx1-ubyte"));
    let one_hot = TargetEncoding::OneHot {
        classes: digits::CLASSES,
    };
    let data = Idx::open(images, labels, one_hot)?.with_scale(1.0 / 255.0)?;
    if data.inputs() != 28 * 28 {
        return Err(format!("images of {} pixels, not 28×28", data.inputs()).into());
    }
    let rows: Vec<usize> = (0..data.len()).collect();
    let (images, classes) = data.matrices(&rows)?;
    Ok(Digits {
        mean: DVector::zeros(images.nrows()),
        images,
        labels: metrics::labels(&classes),
        classes,
    })
}
