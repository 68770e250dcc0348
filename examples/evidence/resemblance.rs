//! How similar circuits trained by decoupled schemes are to those trained by backprop.

use std::error::Error;

use layerwise::data::metrics;
use layerwise::decoupled::TargetInit;
use layerwise::optimizer::{Adam, GradientDescent};
use layerwise::plot::{Axis, Line, Page, Panel};
use layerwise::schedule::Schedule;
use layerwise::target_solver::GaussNewton;
use layerwise::training::{Decoupling, Phase, Trainer};
use layerwise::{Circuit, DecoupledCircuit};
use serde::{Deserialize, Serialize};

use crate::Options;
use crate::digits::{self, Digits};
use crate::nets::{self, Unit, accuracy};
use crate::recipe::{BATCH, Recipe, backprop, projected, sweeps};
use crate::statistics::{Spread, cosine, linear_cka, print_table};

const UNITS: [Unit; 2] = [Unit::Tanh, Unit::Relu];
const DEPTHS: [usize; 4] = [3, 5, 10, 20];

#[derive(Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Way {
    /// Backprop from the same weights, with the examples in another order.
    OtherOrder,
    /// Backprop from other weights.
    OtherWeights,
    /// Refreshed targets, three reverse sweeps.
    Sweeps,
    /// Refreshed targets, one damped Gauss-Newton step by block Cholesky.
    Direct,
    /// Residual targets, three reverse sweeps.
    Residual,
    /// The preset `proposal`: joint descent in θ and z on the whole training set.
    Joint,
    /// The recipe, without a finish.
    Recipe,
    /// The recipe, with a finish by backprop.
    Finished,
}

const WAYS: [(Way, &str); 8] = [
    (Way::OtherOrder, "backprop, examples in another order"),
    (Way::OtherWeights, "backprop from other weights"),
    (Way::Sweeps, "refreshed, 3 reverse sweeps"),
    (
        Way::Direct,
        "refreshed, Gauss-Newton, block Cholesky, λ = 1",
    ),
    (Way::Residual, "residuals, 3 reverse sweeps"),
    (Way::Joint, "joint descent"),
    (Way::Recipe, "projected targets, the recipe"),
    (Way::Finished, "the same, backprop at the end"),
];

/// A pair of runs: backprop, and another way from the same weights (except for `OtherWeights`).
#[derive(Clone, Copy, PartialEq, Serialize)]
struct Task {
    unit: Unit,
    depth: usize,
    way: Way,
    recipe: Recipe,
    seed: u64,
    split_seed: u64,
}

/// The results of both runs, and how similar the two circuits are on the test images.
#[derive(Serialize, Deserialize)]
struct Outcome {
    /// Test accuracy in per cent.
    backprop: f64,
    test: f64,
    /// Composed loss per training example.
    backprop_loss: Option<f64>,
    loss: Option<f64>,
    /// Percentage of test images to which both assign the same class.
    agreement: f64,
    /// Linear CKA of ẑ_1, …, ẑ_{T−1}.
    alignment: Vec<f64>,
    /// Cosine similarity of θ_t with backprop's, t = 0, …, T−1.
    parameters: Vec<f64>,
    /// Cosine similarity of the total changes θ_t − θ_t(0).
    travels: Vec<f64>,
}

/// Adam's learning rate at every depth, for backprop and for the other ways.
fn rate(depth: usize) -> f64 {
    if depth < 20 { 5e-3 } else { 2e-3 }
}

impl Task {
    fn run(&self, train: &Digits, test: &Digits) -> Result<Outcome, layerwise::Error> {
        let start = nets::deep(self.unit, self.depth, self.unit.usual_start(), self.seed)?;
        let reference = self.train(start.clone(), self.seed, train, true)?;
        let other = 1000 + self.seed;
        let trained = match self.way {
            Way::OtherOrder => self.train(start.clone(), other, train, true)?,
            Way::OtherWeights => {
                let start = nets::deep(self.unit, self.depth, self.unit.usual_start(), other)?;
                self.train(start, self.seed, train, true)?
            }
            _ => self.train(start.clone(), self.seed, train, false)?,
        };
        let labels = |model: &DecoupledCircuit<f32>| -> Result<Vec<usize>, layerwise::Error> {
            Ok(metrics::labels(&model.predict(&test.images)?))
        };
        let pairs = labels(&reference)?.into_iter().zip(labels(&trained)?);
        let same = pairs.filter(|(a, b)| a == b).count();
        // None instead of NaN, which JSON cannot hold.
        let loss = |model: &DecoupledCircuit<f32>| -> Result<Option<f64>, layerwise::Error> {
            let loss = f64::from(model.composed_loss()?) / train.labels.len() as f64;
            Ok(Some(loss).filter(|loss| loss.is_finite()))
        };
        let (a, b) = (reference.circuit(), trained.circuit());
        let hidden = nets::representations(a, test)?
            .into_iter()
            .zip(nets::representations(b, test)?);
        let of = |circuit: &Circuit<f32>, t: usize| -> Vec<f64> {
            circuit
                .parameters(t)
                .iter()
                .map(|&p| f64::from(p))
                .collect()
        };
        let travel = |circuit: &Circuit<f32>, t: usize| -> Vec<f64> {
            let pairs = of(circuit, t).into_iter().zip(of(&start, t));
            pairs.map(|(now, then)| now - then).collect()
        };
        let layers = 0..self.depth;
        Ok(Outcome {
            backprop: accuracy(&reference, test)?,
            test: accuracy(&trained, test)?,
            backprop_loss: loss(&reference)?,
            loss: loss(&trained)?,
            agreement: 100.0 * same as f64 / test.labels.len() as f64,
            alignment: hidden.map(|(a, b)| linear_cka(&a, &b)).collect(),
            parameters: layers
                .clone()
                .map(|t| cosine(&of(a, t), &of(b, t)))
                .collect(),
            travels: layers
                .map(|t| cosine(&travel(a, t), &travel(b, t)))
                .collect(),
        })
    }
}

impl Task {
    fn backprop(&self) -> Result<Phase<f32>, layerwise::Error> {
        backprop(Adam::new(rate(self.depth))?, self.recipe.epochs())
    }

    /// The same number of θ-steps as backprop.
    fn phase(&self, phase: Phase<f32>) -> Result<Phase<f32>, layerwise::Error> {
        Ok(phase
            .with_epochs(self.recipe.epochs())
            .with_batch_size(BATCH)?
            .with_schedule(Schedule::cosine(0.05)?))
    }

    fn phases(&self, examples: usize) -> Result<Vec<Phase<f32>>, layerwise::Error> {
        let rule = Adam::new(rate(self.depth))?;
        let sweeps = sweeps(3)?;
        let scheme = match self.way {
            Way::Sweeps => Decoupling::refreshed(sweeps),
            Way::Residual => Decoupling::residual(sweeps),
            Way::Direct => Decoupling::refreshed(GaussNewton::direct(1).with_damping(1.0)?),
            Way::Joint => {
                let scheme = Decoupling::joint(GradientDescent::new(0.1)?.with_momentum(0.9)?);
                let visits = examples.div_ceil(BATCH) as u64 * self.recipe.epochs();
                return Ok(vec![
                    self.phase(Phase::new(scheme, rule))?
                        .with_batch_size(examples)?
                        .with_epochs(visits),
                ]);
            }
            Way::Recipe => return self.recipe.unfinished().decoupled(),
            Way::Finished => {
                let mut phases = self.recipe.decoupled()?;
                phases.push(self.recipe.finish()?);
                return Ok(phases);
            }
            Way::OtherOrder | Way::OtherWeights => return Ok(vec![self.backprop()?]),
        };
        Ok(vec![self.phase(Phase::new(scheme, rule))?])
    }

    fn train(
        &self,
        circuit: Circuit<f32>,
        seed: u64,
        train: &Digits,
        coupled: bool,
    ) -> Result<DecoupledCircuit<f32>, layerwise::Error> {
        let targets = match self.way {
            Way::Recipe | Way::Finished if !coupled => {
                projected(&circuit, &train.images, self.seed)?
            }
            _ => TargetInit::ForwardPass,
        };
        let mut model = nets::model(circuit, train, &targets)?;
        let phases = if coupled {
            vec![self.backprop()?]
        } else {
            self.phases(train.labels.len())?
        };
        for phase in phases {
            Trainer::new(phase)
                .with_seed(seed)
                .with_measure_every(0)
                .run(&mut model)?;
        }
        Ok(model)
    }
}

pub fn study(options: &Options) -> Result<(), Box<dyn Error>> {
    let (train, test) = digits::load(options.split_seed)?;
    let results = options.results()?;
    let (units, depths, recipe) = match options.quick {
        false => (&UNITS[..], &DEPTHS[..], Recipe::of(false)),
        true => (&UNITS[..1], &DEPTHS[..1], Recipe::of(true)),
    };
    let mut tasks = Vec::new();
    for &unit in units {
        for &depth in depths {
            for (way, _) in WAYS {
                tasks.extend(options.seeds.iter().map(|&seed| Task {
                    unit,
                    depth,
                    way,
                    recipe,
                    seed,
                    split_seed: options.split_seed,
                }));
            }
        }
    }
    let outcomes = results.of(&tasks, options.runs as usize, |task| {
        task.run(&train, &test)
    })?;
    let mean = |values: &[f64]| Spread::of(values).mean;
    for &unit in units {
        for &depth in depths {
            println!(
                "**{}, depth {depth}**, mean ± sd over seeds {:?}\n",
                unit.name(),
                options.seeds
            );
            let of = |way: Way, value: &dyn Fn(&Outcome) -> f64| {
                let own = tasks
                    .iter()
                    .zip(&outcomes)
                    .filter(|(task, _)| (task.unit, task.depth, task.way) == (unit, depth, way));
                Spread::of(&own.map(|(_, outcome)| value(outcome)).collect::<Vec<_>>())
            };
            let reference = |value: &dyn Fn(&Outcome) -> f64| of(Way::OtherOrder, value);
            let mut rows = vec![vec![
                "backprop".to_owned(),
                reference(&|o| o.backprop).show(2),
                String::new(),
                format!(
                    "{:.4}",
                    reference(&|o| o.backprop_loss.unwrap_or(f64::INFINITY)).mean
                ),
                "100".into(),
                "1".into(),
                "1".into(),
                "1".into(),
            ]];
            for (way, name) in WAYS {
                rows.push(vec![
                    name.to_owned(),
                    of(way, &|o| o.test).show(2),
                    of(way, &|o| o.test - o.backprop).show(2),
                    format!("{:.4}", of(way, &|o| o.loss.unwrap_or(f64::INFINITY)).mean),
                    of(way, &|o| o.agreement).show(1),
                    of(way, &|o| mean(&o.alignment)).show(2),
                    of(way, &|o| mean(&o.parameters)).show(2),
                    of(way, &|o| mean(&o.travels)).show(2),
                ]);
            }
            print_table(
                &[
                    "scheme",
                    "test, %",
                    "against backprop, points",
                    "composed loss",
                    "same class, %",
                    "CKA",
                    "cos θ",
                    "cos Δθ",
                ],
                &rows,
            );
            if depth < depths[depths.len() - 1] {
                continue;
            }
            let panel = |title: &str, ways: &[Way]| {
                let x = Axis::counted("hidden layer t");
                let y = Axis::linear("linear CKA with backprop's ẑ_t");
                let own = WAYS.iter().filter(|(way, _)| ways.contains(way));
                own.fold(Panel::new(x, y).with_title(title), |panel, &(way, name)| {
                    let mean = |t: usize| of(way, &|o| o.alignment[t]).mean;
                    let points = (0..depth - 1).map(|t| ((t + 1) as f64, mean(t)));
                    panel.with_line(Line::new(name, points))
                })
            };
            // Backprop from itself, for comparison, in both.
            use Way::{
                Direct, Finished, Joint, OtherOrder, OtherWeights, Recipe, Residual, Sweeps,
            };
            let refreshed = [OtherOrder, OtherWeights, Sweeps, Direct];
            let others = [OtherOrder, OtherWeights, Residual, Joint, Recipe, Finished];
            let name = unit.name();
            let title = format!("{name}: representations compared with backprop's, depth {depth}");
            Page::new(title)
                .with_panel(panel("refreshed targets", &refreshed))
                .with_panel(panel("other schemes", &others))
                .with_shared_scales()
                .save(options.figure(&format!("resemblance-{}.svg", name.to_lowercase()))?)?;
        }
    }
    Ok(())
}
