//! Dead ReLU units, which no example activates: their gradients are zero, whatever the layers
//! above.

use std::error::Error;

use layerwise::Circuit;
use layerwise::decoupled::TargetInit;
use layerwise::init::Initializer;
use layerwise::layer::{Activation, Dense};
use layerwise::nalgebra::DMatrix;
use layerwise::optimizer::Adam;
use layerwise::training::Trainer;
use serde::{Deserialize, Serialize};

use crate::Options;
use crate::digits::{self, Digits};
use crate::nets::{self, accuracy};
use crate::recipe::{Recipe, backprop, projected};
use crate::results::Results;
use crate::statistics::{Spread, print_table};

const DEPTH: usize = 5;
const WIDTH: usize = 32;

#[derive(Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Way {
    Backprop {
        rate: f64,
    },
    /// The recipe with only Adam's W-steps.
    Gradients,
    /// The recipe, which begins with W-steps in closed form.
    ClosedForm,
}

#[derive(Serialize)]
struct Task {
    dead_units: Way,
    /// Initial bias of every hidden unit.
    bias: f64,
    recipe: Recipe,
    seed: u64,
    split_seed: u64,
}

/// Per cent.
#[derive(Serialize, Deserialize)]
struct Outcome {
    dead_before: f64,
    dead: f64,
    test: f64,
}

impl Task {
    fn run(&self, train: &Digits, test: &Digits) -> Result<Outcome, layerwise::Error> {
        let mut builder = Circuit::builder().seed(self.seed);
        for t in 0..DEPTH {
            let input = if t == 0 { digits::PIXELS } else { WIDTH };
            let layer = if t + 1 < DEPTH {
                Dense::new(input, WIDTH, Activation::Relu)?
                    .with_bias(Initializer::Constant { value: self.bias })?
            } else {
                Dense::new(input, digits::CLASSES, Activation::Identity)?
            };
            builder = builder.layer(layer.with_weights(Initializer::he_normal())?);
        }
        let circuit = builder.build()?;
        let dead_before = dead(&circuit, train)?;
        let (targets, phases) = match self.dead_units {
            Way::Backprop { rate } => {
                let phase = backprop(Adam::new(rate)?, self.recipe.epochs())?;
                (TargetInit::ForwardPass, vec![phase])
            }
            Way::Gradients => {
                let targets = projected(&circuit, &train.images, self.seed)?;
                (targets, self.recipe.by_gradients()?)
            }
            Way::ClosedForm => {
                let targets = projected(&circuit, &train.images, self.seed)?;
                (targets, self.recipe.decoupled()?)
            }
        };
        let mut model = nets::model(circuit, train, &targets)?;
        for phase in phases {
            Trainer::new(phase)
                .with_seed(self.seed)
                .with_measure_every(0)
                .run(&mut model)?;
        }
        Ok(Outcome {
            dead_before,
            dead: dead(model.circuit(), train)?,
            test: accuracy(&model, test)?,
        })
    }
}

/// Percentage of hidden units whose output is 0 for every example.
fn dead(circuit: &Circuit<f32>, on: &Digits) -> Result<f64, layerwise::Error> {
    let hidden = nets::representations(circuit, on)?;
    let units = hidden.iter().map(DMatrix::nrows).sum::<usize>();
    let rows = hidden.iter().flat_map(|z| z.row_iter());
    let dead = rows.filter(|row| row.iter().all(|&z| z == 0.0)).count();
    Ok(100.0 * dead as f64 / units as f64)
}

pub fn table(
    options: &Options,
    results: &Results,
    (train, test): &(Digits, Digits),
) -> Result<(), Box<dyn Error>> {
    let coupled = [1e-3, 3e-3, 1e-2].map(|rate| Way::Backprop { rate });
    let ways: [(&[Way], &str); 3] = [
        (&coupled, "backprop, best of 3 rates"),
        (&[Way::Gradients], "projected targets, W-steps by Adam"),
        (
            &[Way::ClosedForm],
            "projected targets, first W-steps in closed form",
        ),
    ];
    let recipe = Recipe::of(options.quick).unfinished();
    let mut rows = Vec::new();
    for bias in [0.0, -1.0, -2.0, -4.0] {
        for (rates, name) in ways {
            let mut best: Option<[Spread; 3]> = None;
            for &dead_units in rates {
                let tasks: Vec<Task> = options
                    .seeds
                    .iter()
                    .map(|&seed| Task {
                        dead_units,
                        bias,
                        recipe,
                        seed,
                        split_seed: options.split_seed,
                    })
                    .collect();
                let outcomes =
                    results.of(&tasks, options.runs as usize, |task| task.run(train, test))?;
                let of = |value: fn(&Outcome) -> f64| {
                    Spread::of(&outcomes.iter().map(value).collect::<Vec<_>>())
                };
                let own = [of(|o| o.dead_before), of(|o| o.dead), of(|o| o.test)];
                if best.is_none_or(|best| own[2].mean > best[2].mean) {
                    best = Some(own);
                }
            }
            let best = best.expect("there is a rate").map(|own| own.show(1));
            let names = [bias.to_string(), name.to_owned()];
            rows.push(names.into_iter().chain(best).collect());
        }
    }
    println!(
        "**Dead ReLU units.** {DEPTH} layers, {WIDTH} wide, He's weights, {} passes.\n",
        recipe.epochs()
    );
    print_table(
        &[
            "bias at the start",
            "scheme",
            "dead units before, %",
            "after, %",
            "test, %",
        ],
        &rows,
    );
    Ok(())
}
