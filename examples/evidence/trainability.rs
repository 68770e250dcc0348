//! Trainability: initial scale of the weights × depth × activation, by backprop and by decoupled
//! schemes.

use std::error::Error;

use layerwise::decoupled::{Projection, Selection, TargetInit};
use layerwise::energy::Energy;
use layerwise::loss::SoftmaxCrossEntropy;
use layerwise::nalgebra::DMatrix;
use layerwise::optimizer::Adam;
use layerwise::plot::{Axis, Band, Line, Page, Panel};
use layerwise::training::{Phase, Trainer};
use layerwise::{Circuit, DecoupledCircuit};
use serde::{Deserialize, Serialize};

use crate::Options;
use crate::digits::{self, Digits};
use crate::heat_maps::{HeatMap, heat_maps};
use crate::nets::{self, Start, Unit, accuracy};
use crate::recipe::{Recipe, SPREAD, backprop, projected};
use crate::statistics::{Spread, print_table};

const UNITS: [Unit; 3] = [Unit::Tanh, Unit::Sigmoid, Unit::Relu];
const DEPTHS: [usize; 5] = [3, 10, 30, 64, 100];
const SCALES: [f64; 5] = [0.3, 0.5, 1.0, 2.0, 4.0];
/// Backprop's learning rates; a cell shows the mean at the best rate.
const RATES: [f64; 4] = [3e-4, 1e-3, 3e-3, 1e-2];

/// The initial targets of a decoupled run, and its first W-steps.
#[derive(Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Targets {
    Forward,
    Random,
    Projected,
    /// Projected, with the hidden layers first fitted in closed form: the recipe.
    ClosedForm,
}

impl Targets {
    const ALL: [Self; 4] = [
        Self::Forward,
        Self::Random,
        Self::Projected,
        Self::ClosedForm,
    ];

    fn init(
        self,
        unit: Unit,
        circuit: &Circuit<f32>,
        inputs: &DMatrix<f32>,
        seed: u64,
    ) -> Result<TargetInit<f32>, layerwise::Error> {
        match self {
            Self::Forward => Ok(TargetInit::ForwardPass),
            Self::Random => Ok(TargetInit::RandomNormal {
                // With the same spread as projected targets.
                std: SPREAD * unit.activation().target_range().1,
                seed,
            }),
            Self::Projected | Self::ClosedForm => projected(circuit, inputs, seed),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Method {
    Backprop { rate: f64 },
    Decoupled { targets: Targets },
}

impl Method {
    /// Whether it is a control, which shows what one part of the recipe contributes; controls run
    /// with fewer seeds.
    fn is_control(self) -> bool {
        let recipe = Targets::ClosedForm;
        matches!(self, Self::Decoupled { targets } if targets != recipe)
    }
}

/// Number of seeds, from the first on, with which the controls run.
const CONTROLS: usize = 2;

/// A run.
#[derive(Clone, Copy, PartialEq, Serialize)]
struct Task {
    unit: Unit,
    start: Start,
    depth: usize,
    method: Method,
    recipe: Recipe,
    seed: u64,
    split_seed: u64,
}

/// Accuracies in per cent, and the composed loss per training example. A run that diverged to
/// non-finite values gets the results from before the phase in which it did, or chance level if
/// there are none.
#[derive(Clone, Serialize, Deserialize)]
struct Outcome {
    /// Test accuracy before backprop's finish.
    before: Option<f64>,
    test: f64,
    train: f64,
    loss: Option<f64>,
    diverged: Option<String>,
}

/// Per cent.
const CHANCE: f64 = 10.0;

impl Task {
    fn run(&self, train: &Digits, test: &Digits) -> Result<Outcome, layerwise::Error> {
        match self.train(train, test) {
            Err(error) if diverges(&error) => Ok(Outcome {
                before: matches!(self.method, Method::Decoupled { .. }).then_some(CHANCE),
                test: CHANCE,
                train: CHANCE,
                loss: None,
                diverged: Some(error.to_string()),
            }),
            outcome => outcome,
        }
    }

    fn train(&self, train: &Digits, test: &Digits) -> Result<Outcome, layerwise::Error> {
        let circuit = nets::deep(self.unit, self.depth, self.start, self.seed)?;
        let (targets, phases, finish) = match self.method {
            Method::Backprop { rate } => {
                let phase = backprop(Adam::new(rate)?, self.recipe.epochs())?;
                (TargetInit::ForwardPass, vec![phase], None)
            }
            Method::Decoupled { targets } => (
                targets.init(self.unit, &circuit, &train.images, self.seed)?,
                match targets {
                    Targets::ClosedForm => self.recipe.decoupled()?,
                    _ => self.recipe.by_gradients()?,
                },
                Some(self.recipe.finish()?),
            ),
        };
        let mut model = nets::model(circuit, train, &targets)?;
        let mut diverged = None;
        let mut before = None;
        for phase in phases {
            go_on(&mut model, phase, self.seed, &mut diverged)?;
        }
        if let Some(finish) = finish {
            before = Some(accuracy(&model, test)?);
            go_on(&mut model, finish, self.seed, &mut diverged)?;
        }
        Ok(Outcome {
            before,
            test: accuracy(&model, test)?,
            train: accuracy(&model, train)?,
            loss: Some(f64::from(model.composed_loss()?) / train.labels.len() as f64)
                .filter(|loss| loss.is_finite()),
            diverged,
        })
    }
}

/// Trains, unless the model has already diverged. Divergence is an outcome, not an error.
fn go_on(
    model: &mut DecoupledCircuit<f32>,
    phase: Phase<f32>,
    seed: u64,
    diverged: &mut Option<String>,
) -> Result<(), layerwise::Error> {
    if diverged.is_some() {
        return Ok(());
    }
    let run = Trainer::new(phase)
        .with_seed(seed)
        .with_measure_every(0)
        .run(model);
    match run {
        Err(error) if diverges(&error.error) => *diverged = Some(error.to_string()),
        other => drop(other?),
    }
    Ok(())
}

/// Whether the circuit diverged to non-finite values, during training or before.
fn diverges(error: &layerwise::Error) -> bool {
    use layerwise::Error::{NonFinite, NonFiniteData};
    matches!(error, NonFinite { .. } | NonFiniteData { .. })
}

/// Which of a cell's runs a map shows.
#[derive(Clone, Copy)]
struct Shown {
    title: &'static str,
    /// `None`: backprop at its best rate.
    targets: Option<Targets>,
    finished: bool,
}

const SHOWN: [Shown; 9] = {
    const fn of(title: &'static str, targets: Option<Targets>, finished: bool) -> Shown {
        Shown {
            title,
            targets,
            finished,
        }
    }
    [
        of("backprop, best rate", None, true),
        of("recipe + finish", Some(Targets::ClosedForm), true),
        of("recipe", Some(Targets::ClosedForm), false),
        of("forward pass", Some(Targets::Forward), false),
        of("random", Some(Targets::Random), false),
        of("projected", Some(Targets::Projected), false),
        of("forward pass + finish", Some(Targets::Forward), true),
        of("random + finish", Some(Targets::Random), true),
        of("projected + finish", Some(Targets::Projected), true),
    ]
};

pub fn study(options: &Options) -> Result<(), Box<dyn Error>> {
    let (train, test) = digits::load(options.split_seed)?;
    let results = options.results()?;
    let (depths, scales, rates, recipe) = match options.quick {
        false => (&DEPTHS[..], &SCALES[..], &RATES[..], Recipe::of(false)),
        true => (&DEPTHS[..2], &SCALES[2..3], &RATES[1..2], Recipe::of(true)),
    };
    let starts: Vec<Start> = scales
        .iter()
        .map(|&s| Start::Normal(s))
        .chain([Start::Orthogonal])
        .collect();
    let backprop = rates.iter().map(|&rate| Method::Backprop { rate });
    let decoupled = Targets::ALL.map(|targets| Method::Decoupled { targets });
    let methods: Vec<Method> = backprop.chain(decoupled).collect();
    let mut tasks = Vec::new();
    // One seed after another, so that an interrupted study can already show maps with fewer
    // `--seeds`.
    for (number, &seed) in options.seeds.iter().enumerate() {
        for &unit in &UNITS {
            for &depth in depths {
                for &start in &starts {
                    let own = methods
                        .iter()
                        .filter(|method| !method.is_control() || number < CONTROLS);
                    tasks.extend(own.map(|&method| Task {
                        unit,
                        start,
                        depth,
                        method,
                        recipe,
                        seed,
                        split_seed: options.split_seed,
                    }));
                }
            }
        }
    }
    let outcomes = results.of(&tasks, options.runs as usize, |task| {
        task.run(&train, &test)
    })?;
    let rows: Vec<(&Task, &Outcome)> = tasks.iter().zip(&outcomes).collect();

    println!(
        "Test accuracy in per cent, mean ± sd over seeds {:?} (targets other than the recipe's: the first {CONTROLS}); {} passes each, {} of them before the finish.\n",
        options.seeds,
        recipe.epochs(),
        recipe.fit + recipe.alternate
    );
    for &unit in &UNITS {
        let cell = |shown: Shown, start: Start, depth: usize| -> (Spread, Option<f64>) {
            let of = |method: Method| -> Spread {
                let own = rows.iter().filter(|(task, _)| {
                    (task.unit, task.start, task.depth, task.method) == (unit, start, depth, method)
                });
                let values: Vec<f64> = own
                    .map(|(_, outcome)| match outcome.before {
                        Some(before) if !shown.finished => before,
                        _ => outcome.test,
                    })
                    .collect();
                Spread::of(&values)
            };
            match shown.targets {
                Some(targets) => (of(Method::Decoupled { targets }), None),
                None => {
                    let all = rates
                        .iter()
                        .map(|&rate| (of(Method::Backprop { rate }), Some(rate)));
                    all.max_by(|a, b| a.0.mean.total_cmp(&b.0.mean))
                        .expect("there are rates")
                }
            }
        };
        let names: Vec<String> = starts.iter().map(|start| start.to_string()).collect();
        let columns: Vec<String> = depths.iter().map(usize::to_string).collect();
        let mut maps = Vec::new();
        for shown in SHOWN {
            println!("**{}, {}**\n", unit.name(), shown.title);
            let mut values = Vec::new();
            let mut lines = Vec::new();
            for (&start, name) in starts.iter().zip(&names) {
                let cells: Vec<_> = depths
                    .iter()
                    .map(|&depth| cell(shown, start, depth))
                    .collect();
                values.push(cells.iter().map(|(spread, _)| spread.mean).collect());
                let texts = cells.iter().map(|(spread, rate)| match rate {
                    Some(rate) => format!("{} ({rate})", spread.show(1)),
                    None => spread.show(1),
                });
                lines.push([name.clone()].into_iter().chain(texts).collect());
            }
            let head = ["start \\ depth"]
                .into_iter()
                .chain(columns.iter().map(String::as_str));
            print_table(&head.collect::<Vec<_>>(), &lines);
            maps.push(HeatMap {
                title: shown.title.into(),
                values,
            });
        }
        let name = unit.name().to_lowercase();
        let path = options.figure(&format!("trainability-{name}.svg"))?;
        let title = format!(
            "{}: test accuracy on digits, %, by start and depth",
            unit.name()
        );
        heat_maps(&path, &title, ("σ_w", &names), ("depth", &columns), &maps)?;
    }
    let diverged = outcomes
        .iter()
        .filter(|outcome| outcome.diverged.is_some())
        .count();
    println!(
        "{diverged} of {} runs diverged to non-finite values.\n",
        outcomes.len()
    );
    gradients(options, &train, &starts)
}

/// Norms of the parameter gradients by layer before any step, at depth 30, for the first seed.
fn gradients(options: &Options, train: &Digits, starts: &[Start]) -> Result<(), Box<dyn Error>> {
    const DEPTH: usize = 30;
    let layers = [0, 5, 10, 15, 20, 25, 29];
    let (images, classes) = (train.images.map(f64::from), train.classes.map(f64::from));
    for &unit in &UNITS {
        println!(
            "**{}, gradients in θ_t per example at the start, depth {DEPTH}**\n",
            unit.name()
        );
        let mut rows = Vec::new();
        let x = Axis::counted("layer t");
        let y = Axis::logarithmic("norm of the gradient in θ_t, per example");
        let mut panel = Panel::new(x, y);
        let mut range = [[f64::INFINITY, 0.0]; DEPTH];
        for &start in starts {
            let circuit = nets::deep::<f64>(unit, DEPTH, start, options.seeds[0])?;
            let mut model = DecoupledCircuit::new(circuit, Energy::new(SoftmaxCrossEntropy))?;
            let projection = Projection::fit(model.circuit(), &images, options.seeds[0])?;
            let projection = projection.with_spread(SPREAD)?;
            let projected = TargetInit::Given(projection.apply(&images)?);
            model.add_examples(&images, &classes, &projected)?;
            let backprop = model.backprop(&Selection::All)?.parameters;
            let own = model.gradients(&Selection::All)?.parameters;
            for (what, gradients) in [("backprop", backprop), ("projected", own)] {
                let norms: Vec<f64> = gradients
                    .iter()
                    .map(|g| g.iter().map(|g| g * g).sum::<f64>().sqrt() / images.ncols() as f64)
                    .collect();
                let shown = layers.iter().map(|&t| format!("{:.1e}", norms[t]));
                rows.push(
                    [format!("{start}, {what}")]
                        .into_iter()
                        .chain(shown)
                        .collect(),
                );
                if what == "backprop" {
                    let name = format!("backprop, {}", described(start));
                    let points = norms.iter().enumerate();
                    let points = points.map(|(t, &norm)| (t as f64, positive(norm)));
                    panel = panel.with_line(Line::new(name, points));
                    continue;
                }
                for ([low, high], &norm) in range.iter_mut().zip(&norms) {
                    (*low, *high) = (low.min(norm), high.max(norm));
                }
            }
        }
        let names: Vec<String> = layers.iter().map(|t| format!("t = {t}")).collect();
        let head = ["start"]
            .into_iter()
            .chain(names.iter().map(String::as_str));
        print_table(&head.collect::<Vec<_>>(), &rows);
        let edges = range.iter().enumerate();
        let edges = edges.map(|(t, own)| (t as f64, own.map(positive)));
        let band = Band::new("projected targets, from all weights", edges);
        let title = format!("{}: gradients before any step, depth {DEPTH}", unit.name());
        let path = options.figure(&format!("gradients-{}.svg", unit.name().to_lowercase()))?;
        let page = Page::new(title).with_panel(panel.with_band(band));
        page.save(path)?;
    }
    Ok(())
}

/// A gap where a logarithmic axis cannot show a norm: of dead layers, it is 0.
fn positive(norm: f64) -> f64 {
    if norm > 0.0 { norm } else { f64::NAN }
}

fn described(start: Start) -> String {
    match start {
        Start::Normal(sigma) => format!("σ_w = {sigma}"),
        Start::Orthogonal => "orthogonal weights".into(),
    }
}
