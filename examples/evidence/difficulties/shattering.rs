//! Shattered gradients: how fast the first layer's training signal changes with the input.
//! Balduzzi, Frean, Leary, Lewis, Ma & McWilliams 2017.

use std::error::Error;

use layerwise::DecoupledCircuit;
use layerwise::decoupled::{Projection, Selection, TargetInit};
use layerwise::energy::Energy;
use layerwise::loss::SoftmaxCrossEntropy;
use layerwise::nalgebra::{DMatrix, DVector};
use serde::{Deserialize, Serialize};

use crate::Options;
use crate::digits::{self, Digits};
use crate::nets::{self, Unit};
use crate::results::Results;
use crate::statistics::{Spread, cosine, print_table};

/// Number of points on the line from one training image to another.
const POINTS: usize = 256;

#[derive(Serialize)]
struct Task {
    shattering: Unit,
    depth: usize,
    seed: u64,
    split_seed: u64,
}

/// Correlation of ∂L/∂ẑ_1 (backprop) and ∂ℓ_0/∂ẑ_1 (projected targets) at neighbouring points.
#[derive(Serialize, Deserialize)]
struct Outcome {
    backprop: f64,
    decoupled: f64,
}

impl Task {
    fn run(&self, train: &Digits) -> Result<Outcome, layerwise::Error> {
        let unit = self.shattering;
        let circuit = nets::deep::<f64>(unit, self.depth, unit.usual_start(), self.seed)?;
        let images = train.images.map(f64::from);
        let projection = Projection::fit(&circuit, &images, self.seed)?;
        let (from, to) = (
            image(&images, 2 * self.seed),
            image(&images, 2 * self.seed + 1),
        );
        let line = DMatrix::from_fn(digits::PIXELS, POINTS, |i, j| {
            from[i] + (to[i] - from[i]) * j as f64 / (POINTS - 1) as f64
        });
        // The same class throughout, so that only the input changes.
        let class = DMatrix::from_fn(digits::CLASSES, POINTS, |i, _| f64::from(u8::from(i == 0)));
        let mut model = DecoupledCircuit::new(circuit, Energy::new(SoftmaxCrossEntropy))?;
        let targets = TargetInit::Given(projection.apply(&line)?);
        model.add_examples(&line, &class, &targets)?;
        let chained = model.backprop(&Selection::All)?.targets.swap_remove(0);
        // The gradient of ½‖z − ẑ‖² in z is minus that in ẑ, so it has the same correlation.
        let own = model.local_problem(0, 0..POINTS)?.gradients().target;
        let own = DMatrix::from_vec(chained.nrows(), POINTS, own);
        Ok(Outcome {
            backprop: correlation(&chained),
            decoupled: correlation(&own),
        })
    }
}

fn image(images: &DMatrix<f64>, number: u64) -> DVector<f64> {
    images.column(number as usize % images.ncols()).into_owned()
}

/// Mean correlation of neighbouring columns, after centring over all columns.
fn correlation(gradients: &DMatrix<f64>) -> f64 {
    let mean = gradients.column_mean();
    let centred: Vec<DVector<f64>> = gradients.column_iter().map(|g| g - &mean).collect();
    let pairs = centred
        .windows(2)
        .map(|pair| cosine(pair[0].as_slice(), pair[1].as_slice()));
    pairs.sum::<f64>() / (centred.len() - 1) as f64
}

pub fn table(options: &Options, results: &Results, train: &Digits) -> Result<(), Box<dyn Error>> {
    let depths = if options.quick {
        &[3, 10][..]
    } else {
        &[3, 10, 30, 100][..]
    };
    let mut rows = Vec::new();
    for unit in [Unit::Relu, Unit::Tanh] {
        for &depth in depths {
            let tasks: Vec<Task> = options
                .seeds
                .iter()
                .map(|&seed| Task {
                    shattering: unit,
                    depth,
                    seed,
                    split_seed: options.split_seed,
                })
                .collect();
            let outcomes = results.of(&tasks, options.runs as usize, |task| task.run(train))?;
            let of = |value: fn(&Outcome) -> f64| {
                Spread::of(&outcomes.iter().map(value).collect::<Vec<_>>()).show(3)
            };
            rows.push(vec![
                unit.name().into(),
                depth.to_string(),
                of(|o| o.backprop),
                of(|o| o.decoupled),
            ]);
        }
    }
    println!(
        "**Shattered gradients.** Correlation of the first layer's signals at neighbouring inputs ({POINTS} on a line), before training.\n"
    );
    print_table(
        &["hidden units", "depth", "backprop", "projected targets"],
        &rows,
    );
    Ok(())
}
