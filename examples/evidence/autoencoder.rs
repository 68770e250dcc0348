//! The deep sigmoid autoencoder of Carreira-Perpiñán & Wang 2014, which is hard to train with
//! first-order backprop: reconstruction error against passes and seconds.

use std::error::Error;
use std::time::Instant;

use layerwise::decoupled::{Projection, TargetInit};
use layerwise::energy::Energy;
use layerwise::init::Initializer;
use layerwise::layer::{Activation, Dense};
use layerwise::nalgebra::DMatrix;
use layerwise::optimizer::Adam;
use layerwise::parameter_solver::LeastSquares;
use layerwise::plot::{Axis, Band, Line, Page, Panel};
use layerwise::rand::SeedableRng;
use layerwise::rand::rngs::ChaCha8Rng;
use layerwise::target_solver::GaussNewton;
use layerwise::training::{Backprop, Decoupling, PenaltyGrowth, Phase, Trainer, WStep};
use layerwise::{Circuit, DecoupledCircuit};
use serde::Serialize;

use crate::Options;
use crate::curve::{Point, curve};
use crate::digits::{self, Digits};
use crate::nets::{Start, Unit};
use crate::recipe::{BATCH, SPREAD};
use crate::statistics::{Spread, print_table};

/// Hidden widths, all sigmoid; input and (linear) output are the pixels.
const WIDTHS: [usize; 5] = [300, 100, 20, 100, 300];
/// The narrowest of them, counted from 0.
const CODE: usize = 2;

#[derive(Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Way {
    /// Backprop, Adam at a constant rate, minibatches.
    Backprop { rate: f64, start: Start },
    /// The method of auxiliary coordinates (MAC): persistent targets, Gauss-Newton Z-steps, W-steps
    /// by least squares on the whole training set, growing μ.
    Mac { start: Coordinates },
    /// One W-step in closed form, then refreshed targets, Gauss-Newton Z-steps, Adam; minibatches.
    GaussNewton { rate: f64 },
    /// The same closed form, then backprop.
    Started { rate: f64 },
}

/// Where the targets start.
#[derive(Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Coordinates {
    Forward,
    /// Random orthogonal projections, except that the code layer gets one of the principal
    /// components.
    Principal,
}

const WAYS: [(Way, &str); 12] = [
    (
        Way::Backprop {
            rate: 1e-3,
            start: Start::Normal(1.0),
        },
        "backprop, Adam 1e-3",
    ),
    (
        Way::Backprop {
            rate: 3e-3,
            start: Start::Normal(1.0),
        },
        "backprop, Adam 3e-3",
    ),
    (
        Way::Backprop {
            rate: 5e-3,
            start: Start::Normal(1.0),
        },
        "backprop, Adam 5e-3",
    ),
    (
        Way::Backprop {
            rate: 1e-2,
            start: Start::Normal(1.0),
        },
        "backprop, Adam 1e-2",
    ),
    (
        Way::Backprop {
            rate: 3e-3,
            start: Start::Orthogonal,
        },
        "backprop from orthogonal weights, Adam 3e-3",
    ),
    (
        Way::Backprop {
            rate: 5e-3,
            start: Start::Orthogonal,
        },
        "backprop from orthogonal weights, Adam 5e-3",
    ),
    (
        Way::Mac {
            start: Coordinates::Forward,
        },
        "MAC from the forward pass",
    ),
    (
        Way::Mac {
            start: Coordinates::Principal,
        },
        "MAC from principal components and the closed form",
    ),
    (
        Way::GaussNewton { rate: 3e-3 },
        "closed form, then Gauss-Newton and Adam 3e-3",
    ),
    (
        Way::GaussNewton { rate: 5e-3 },
        "closed form, then Gauss-Newton and Adam 5e-3",
    ),
    (
        Way::Started { rate: 3e-3 },
        "closed form, then backprop, Adam 3e-3",
    ),
    (
        Way::Started { rate: 5e-3 },
        "closed form, then backprop, Adam 5e-3",
    ),
];

#[derive(Clone, Copy, PartialEq, Serialize)]
struct Task {
    autoencoder: Way,
    seconds: f64,
    /// How many runs shared the machine.
    at_a_time: u64,
    seed: u64,
    split_seed: u64,
}

/// Reconstruction error ½‖x − x̂‖² per training and per test image, along the run.
type Outcome = Vec<Point<[f64; 2]>>;

fn circuit(start: Start, seed: u64) -> Result<Circuit<f64>, layerwise::Error> {
    let mut builder = Circuit::builder().seed(seed);
    let mut input = digits::PIXELS;
    for width in WIDTHS {
        let layer = Dense::new(input, width, Activation::Sigmoid)?;
        builder = builder.layer(layer.with_weights(start.weights(Unit::Sigmoid))?);
        input = width;
    }
    let last = Dense::new(input, digits::PIXELS, Activation::Identity)?;
    let mut circuit = builder
        .layer(last.with_weights(start.weights(Unit::Sigmoid))?)
        .build()?;
    start.centre(Unit::Sigmoid, &mut circuit)?;
    Ok(circuit)
}

impl Coordinates {
    fn targets(
        self,
        circuit: &Circuit<f64>,
        images: &DMatrix<f64>,
        seed: u64,
    ) -> Result<TargetInit<f64>, layerwise::Error> {
        if self == Self::Forward {
            return Ok(TargetInit::ForwardPass);
        }
        let projection = Projection::fit(circuit, images, seed)?.with_spread(SPREAD)?;
        let mut targets = projection.apply(images)?;
        let mut current = principal_components(images, WIDTHS[CODE]);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for t in CODE..WIDTHS.len() {
            let (rows, columns) = (WIDTHS[t], current.nrows());
            let mut q = DMatrix::<f64>::zeros(rows, columns);
            let orthogonal = Initializer::Orthogonal { gain: 1.0 };
            orthogonal.fill(q.as_mut_slice(), rows, columns, &mut rng);
            current = q * current;
            current /= (current.norm_squared() / current.len() as f64).sqrt();
            let (centre, spread) = circuit.layer(t).target_range();
            targets[t] = current.map(|s| centre + SPREAD * spread * s);
        }
        Ok(TargetInit::Given(targets))
    }
}

/// Scores of the leading components, number × n.
fn principal_components(images: &DMatrix<f64>, number: usize) -> DMatrix<f64> {
    let mean = images.column_mean();
    let mut centred = images.clone();
    for mut column in centred.column_iter_mut() {
        column -= &mean;
    }
    let eigen = (&centred * centred.transpose()).symmetric_eigen();
    let mut order: Vec<usize> = (0..images.nrows()).collect();
    order.sort_by(|&a, &b| eigen.eigenvalues[b].total_cmp(&eigen.eigenvalues[a]));
    eigen
        .eigenvectors
        .select_columns(&order[..number])
        .transpose()
        * centred
}

impl Task {
    fn run(&self, train: &Digits, test: &Digits) -> Result<Outcome, layerwise::Error> {
        let begin = Instant::now();
        let start = match self.autoencoder {
            Way::Backprop { start, .. } => start,
            _ => Start::Normal(1.0),
        };
        let circuit = circuit(start, self.seed)?;
        let (train, test) = (&train.images.map(f64::from), &test.images.map(f64::from));
        let principal = || Coordinates::Principal.targets(&circuit, train, self.seed);
        let batches = |phase: Phase<f64>| {
            Ok::<_, layerwise::Error>(phase.with_batch_size(BATCH)?.with_epochs(u64::MAX))
        };
        // Every layer has a closed form.
        let closed_form = || -> Result<Trainer<f64>, layerwise::Error> {
            let solver = LeastSquares::ridge(1e-6)?;
            let phase = Phase::with_w_step(Decoupling::weights_only(), WStep::solver(solver))?;
            Ok(Trainer::new(phase.with_epochs(1)))
        };
        let (targets, trainer) = match self.autoencoder {
            Way::Backprop { rate, .. } => {
                let phase = batches(Phase::new(Backprop, Adam::new(rate)?))?;
                (TargetInit::ForwardPass, Trainer::new(phase))
            }
            Way::Mac { start } => {
                let least_squares = LeastSquares::ridge(1e-6)?.with_proximal(1e-3)?;
                let scheme = Decoupling::persistent(GaussNewton::chained(1, 5));
                let phase = Phase::with_w_step(scheme, WStep::solver(least_squares))?
                    .with_epochs(u64::MAX)
                    .with_penalty_growth(PenaltyGrowth::new(20)?)?;
                (
                    start.targets(&circuit, train, self.seed)?,
                    Trainer::new(phase),
                )
            }
            Way::GaussNewton { rate } => {
                let scheme = Decoupling::refreshed(GaussNewton::chained(1, 3));
                (
                    principal()?,
                    closed_form()?.then(batches(Phase::new(scheme, Adam::new(rate)?))?),
                )
            }
            Way::Started { rate } => (
                principal()?,
                closed_form()?.then(batches(Phase::new(Backprop, Adam::new(rate)?))?),
            ),
        };
        let mut model = DecoupledCircuit::new(circuit, Energy::default())?;
        model.add_examples(train, train, &targets)?;
        let error = |model: &DecoupledCircuit<f64>, on: &DMatrix<f64>| {
            Ok::<_, layerwise::Error>(model.composed_loss_of(on, on)? / on.ncols() as f64)
        };
        let trainer = trainer.with_seed(self.seed).with_measure_every(0);
        let measure =
            |model: &DecoupledCircuit<f64>| Ok([error(model, train)?, error(model, test)?]);
        curve(begin, trainer, &mut model, 1.15, measure, |point| {
            point.seconds >= self.seconds
        })
    }
}

pub fn study(options: &Options) -> Result<(), Box<dyn Error>> {
    let (train, test) = digits::load(options.split_seed)?;
    let results = options.results()?;
    let times: &[f64] = if options.quick {
        &[0.5]
    } else {
        &[1.0, 2.0, 5.0, 10.0]
    };
    let longest = times[times.len() - 1];
    let ways = if options.quick {
        &WAYS[4..9]
    } else {
        &WAYS[..]
    };
    let mut tasks = Vec::new();
    for &seed in &options.seeds {
        tasks.extend(ways.iter().map(|&(autoencoder, _)| Task {
            autoencoder,
            seconds: longest,
            at_a_time: options.runs,
            seed,
            split_seed: options.split_seed,
        }));
    }
    let outcomes = results.of(&tasks, options.runs as usize, |task| {
        task.run(&train, &test)
    })?;
    println!(
        "Autoencoder {WIDTHS:?}, sigmoid, `f64`, {} run(s) at a time: ½‖x − x̂‖² per test image (per training image), mean ± sd over seeds {:?}\n",
        options.runs, options.seeds
    );
    let mut rows = Vec::new();
    let mut curves = Vec::new();
    for &(way, name) in ways {
        let runs: Vec<&Outcome> = tasks
            .iter()
            .zip(&outcomes)
            .filter(|(task, _)| task.autoencoder == way)
            .map(|(_, outcome)| outcome)
            .collect();
        // The last measurement within the time, or the first one if there is none.
        let at = |run: &Outcome, time: f64| {
            *run.iter()
                .take_while(|p| p.seconds <= time)
                .last()
                .unwrap_or(&run[0])
        };
        let mut row = vec![name.to_owned()];
        for &time in times {
            let of = |which: usize| {
                Spread::of(
                    &runs
                        .iter()
                        .map(|run| at(run, time).value[which])
                        .collect::<Vec<_>>(),
                )
            };
            row.push(format!("{} ({:.3})", of(1).show(3), of(0).mean));
        }
        let passes = runs.iter().map(|run| at(run, longest).passes as f64);
        row.push(format!(
            "{:.0}",
            Spread::of(&passes.collect::<Vec<_>>()).mean
        ));
        rows.push(row);
        // From the first time at which every seed has a measurement.
        let first = runs.iter().map(|run| run[0].seconds).fold(0.1, f64::max);
        let grid = (0..=60).map(|i| longest * 100f64.powf(f64::from(i) / 60.0 - 1.0));
        let mean = |time: f64| {
            let errors: Vec<f64> = runs.iter().map(|run| at(run, time).value[1]).collect();
            (time, Spread::of(&errors).mean)
        };
        let points: Vec<(f64, f64)> = grid.filter(|&time| time >= first).map(mean).collect();
        if !points.is_empty() {
            curves.push((way, name, points));
        }
    }
    let names: Vec<String> = times.iter().map(|time| format!("after {time} s")).collect();
    let mut head = vec!["scheme"];
    head.extend(names.iter().map(String::as_str));
    head.push("passes");
    print_table(&head, &rows);
    // A quick run on a slow machine may end before any scheme's first measurement.
    if curves.is_empty() {
        println!("Nothing to plot: no scheme was measured within {longest} s.");
        return Ok(());
    }
    // The best and the worst of backprop's lines at every time that they have.
    let is_backprop = |way: Way| matches!(way, Way::Backprop { .. });
    let mut range: Vec<(f64, [f64; 2])> = Vec::new();
    for (_, _, points) in curves.iter().filter(|curve| is_backprop(curve.0)) {
        for &(time, error) in points {
            match range.iter_mut().find(|own| own.0 == time) {
                Some((_, [low, high])) => (*low, *high) = (low.min(error), high.max(error)),
                None => range.push((time, [error; 2])),
            }
        }
    }
    range.sort_by(|a, b| a.0.total_cmp(&b.0));
    let panel = |backprop: bool| {
        let own = curves
            .iter()
            .filter(|curve| is_backprop(curve.0) == backprop);
        let axes = ["seconds of training", "½‖x − x̂‖² per test image"].map(Axis::logarithmic);
        let [x, y] = axes;
        own.fold(Panel::new(x, y), |panel, (_, name, points)| {
            panel.with_line(Line::new(*name, points.iter().copied()))
        })
    };
    let title = format!(
        "Deep sigmoid autoencoder: test error by time, mean over seeds {:?}",
        options.seeds
    );
    // In a quick run, not every scheme comes to a measurement.
    let mut page = Page::new(title).with_shared_scales();
    if curves.iter().any(|curve| is_backprop(curve.0)) {
        page = page.with_panel(panel(true).with_title("backprop"));
    }
    if curves.iter().any(|curve| !is_backprop(curve.0)) {
        let mut decoupled = panel(false).with_title("decoupled");
        if !range.is_empty() {
            let name = "backprop, from the best to the worst of its lines";
            decoupled = decoupled.with_band(Band::new(name, range));
        }
        page = page.with_panel(decoupled);
    }
    page.save(options.figure("autoencoder.svg")?)?;
    Ok(())
}
