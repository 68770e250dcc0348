//! Every point of the product targets × Z-step × multipliers × W-step: it is refused with a reason, or
//! it trains, and its steps are those along ∂E, by finite differences.

use std::sync::{Arc, Mutex};

use layerwise::decoupled::{Selection, TargetInit, TargetUse};
use layerwise::energy::{Energy, Value, Workspace};
use layerwise::layer::{Activation, Dense};
use layerwise::optimizer::GradientDescent;
use layerwise::parameter_solver::{LeastSquares, LevenbergMarquardt};
use layerwise::schedule::Schedule;
use layerwise::state::State;
use layerwise::target_solver::{GaussNewton, ReverseSweep};
use layerwise::training::{Decoupling, Phase, Scheme, Targets, Trainer, Visit, WStep, ZStep};
use layerwise::{Circuit, DecoupledCircuit, Error};
use nalgebra::DMatrix;

const EXAMPLES: usize = 9;
const DEPTH: usize = 3;
/// Rates of θ, of z in joint descent, and of the multipliers; the share of residuals.
const RATE: f64 = 0.2;
const TARGET_RATE: f64 = 0.1;
const ALPHA: f64 = 0.6;
const KEEP: f64 = 0.7;
const PENALTIES: [f64; 2] = [0.8, 1.5];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Moves {
    Nothing,
    Joint,
    Sweep,
    GaussNewton,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Learns {
    Optimizer,
    LeastSquares,
    LevenbergMarquardt,
    Nothing,
}

const Z_STEPS: [Moves; 4] = [
    Moves::Nothing,
    Moves::Joint,
    Moves::Sweep,
    Moves::GaussNewton,
];

const W_STEPS: [Learns; 4] = [
    Learns::Optimizer,
    Learns::LeastSquares,
    Learns::LevenbergMarquardt,
    Learns::Nothing,
];

fn all_targets() -> [Targets; 4] {
    [
        Targets::Persistent,
        Targets::Refreshed,
        Targets::Residual {
            keep: KEEP,
            schedule: Schedule::CONSTANT,
        },
        Targets::Projected { seed: 4 },
    ]
}

/// One point of the product.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Point {
    targets: Targets,
    z: Moves,
    multipliers: bool,
    w: Learns,
}

impl Point {
    fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for targets in all_targets() {
            for z in Z_STEPS {
                for multipliers in [false, true] {
                    all.extend(W_STEPS.map(|w| Self {
                        targets,
                        z,
                        multipliers,
                        w,
                    }));
                }
            }
        }
        all
    }

    /// Those that are not refused.
    fn made() -> impl Iterator<Item = Self> {
        Self::all().into_iter().filter(|own| own.phase().is_ok())
    }

    fn scheme(self) -> Result<Decoupling<f64>, Error> {
        let rule = GradientDescent::new(TARGET_RATE)?;
        let z_step: ZStep<f64> = match self.z {
            Moves::Nothing => ZStep::None,
            Moves::Joint => ZStep::Joint(Arc::new(rule)),
            Moves::Sweep => ZStep::Solver(Arc::new(ReverseSweep::new(1))),
            Moves::GaussNewton => ZStep::Solver(Arc::new(GaussNewton::direct(1))),
        };
        let scheme = Decoupling::new(self.targets, z_step)?;
        match self.multipliers {
            true => scheme.with_multipliers(ALPHA),
            false => Ok(scheme),
        }
    }

    fn w_step(self) -> WStep<f64> {
        let rule = GradientDescent::new(RATE).unwrap();
        match self.w {
            Learns::Optimizer => WStep::optimizer(rule),
            // They do not fit layer 1.
            Learns::LeastSquares => WStep::solver(least_squares()).with_optimizer(rule),
            Learns::LevenbergMarquardt => {
                WStep::solver(LevenbergMarquardt::new(2, 20).with_damping(0.1).unwrap())
            }
            Learns::Nothing => WStep::none(),
        }
    }

    fn phase(self) -> Result<Phase<f64>, Error> {
        Phase::with_w_step(self.scheme()?, self.w_step())
    }
}

const RIDGE: f64 = 1e-3;
const PROXIMAL: f64 = 0.5;

fn least_squares() -> LeastSquares {
    let ridge = LeastSquares::ridge(RIDGE).unwrap();
    ridge.with_proximal(PROXIMAL).unwrap()
}

/// A refusal: what is to be combined, and why it has no meaning.
type Refused = Option<(&'static str, &'static str)>;

const NO_MOVE: Refused = Some(("no Z-step with no W-step", "nothing would move"));
const NO_LEARNING: Refused = Some((
    "refreshed targets with no W-step",
    "nothing that a visit changes would be kept",
));
const LAST_LAYER: Refused = Some((
    "refreshed targets without a Z-step",
    "every layer except the last already matches its target, so only the last would be trained",
));
const LOST: Refused = Some((
    "refreshed targets with a joint step",
    "the step of z is lost at the next visit, so only the last layer would be trained",
));
const NEVER_CLOSER: Refused = Some((
    "residual targets without a Z-step",
    "the targets move with the predictions, so no layer ever gets closer to them",
));
const AT_ONCE: Refused = Some((
    "joint descent with parameter solvers",
    "a solver fits θ to fixed targets, but joint descent moves both at once",
));

const OUT_OF_REACH: Refused = Some((
    "multipliers without a Z-step",
    "fixed targets may be out of θ's reach, and the multipliers of constraints that cannot \
     be satisfied grow without bound",
));

/// Without multipliers; W-steps in the order of [`W_STEPS`].
const TABLE: [[[Refused; 4]; 4]; 4] = [
    // Persistent targets.
    [
        [None, None, None, NO_MOVE],
        [None, AT_ONCE, AT_ONCE, None],
        [None, None, None, None],
        [None, None, None, None],
    ],
    // Refreshed targets.
    [
        [LAST_LAYER, LAST_LAYER, LAST_LAYER, LAST_LAYER],
        [LOST, LOST, LOST, LOST],
        [None, None, None, NO_LEARNING],
        [None, None, None, NO_LEARNING],
    ],
    // Residual targets.
    [
        [NEVER_CLOSER, NEVER_CLOSER, NEVER_CLOSER, NEVER_CLOSER],
        [None, AT_ONCE, AT_ONCE, None],
        [None, None, None, None],
        [None, None, None, None],
    ],
    // Projected targets.
    [
        [None, None, None, NO_MOVE],
        [None, AT_ONCE, AT_ONCE, None],
        [None, None, None, None],
        [None, None, None, None],
    ],
];

#[test]
fn what_has_no_meaning_is_refused_with_a_reason() {
    for point in Point::all() {
        let place = |found: Option<usize>| found.unwrap();
        let row = place(all_targets().iter().position(|own| *own == point.targets));
        let z = place(Z_STEPS.iter().position(|own| *own == point.z));
        let w = place(W_STEPS.iter().position(|own| *own == point.w));
        let alone = TABLE[row][z][w];
        // Before the W-step is looked at.
        let kept = [Targets::Persistent, Targets::Projected { seed: 4 }].contains(&point.targets);
        let unmet = point.multipliers && point.z == Moves::Nothing && kept;
        let expected = match if unmet { OUT_OF_REACH } else { alone } {
            None => Ok(()),
            Some((what, reason)) => Err(Error::Combination { what, reason }),
        };
        assert_eq!(point.phase().map(|_| ()), expected, "{point:?}");
    }
    let refused = TABLE.iter().flatten().flatten().flatten().count();
    assert_eq!(Point::made().count(), 2 * (64 - refused) - 6);
    assert_eq!(refused, 22);
}

/// Least squares fit the layers of tanh, but not that of GELU, which is not monotone.
fn model() -> DecoupledCircuit<f64> {
    let dense = |input, output, activation| Dense::new(input, output, activation).unwrap();
    let circuit = Circuit::builder()
        .layer(dense(2, 3, Activation::Tanh))
        .layer(dense(3, 2, Activation::Gelu))
        .layer(dense(2, 1, Activation::Identity))
        .seed(2)
        .build()
        .unwrap();
    let energy = Energy::default().with_penalties(PENALTIES.to_vec());
    let mut model = DecoupledCircuit::new(circuit, energy).unwrap();
    let x = DMatrix::from_fn(2, EXAMPLES, |i, j| (0.9 * j as f64 + 2.0 * i as f64).sin());
    let y = DMatrix::from_fn(1, EXAMPLES, |_, j| (0.9 * j as f64).sin() + 0.3);
    let init = TargetInit::NoisyForwardPass { std: 0.15, seed: 3 };
    model.add_examples(&x, &y, &init).unwrap();
    model
}

/// The model as the phase's first visit finds it.
fn begun(targets: Targets) -> DecoupledCircuit<f64> {
    let mut model = model();
    if let Targets::Projected { seed } = targets {
        let init = TargetInit::Projected { seed };
        model.initialize_targets(&init).unwrap();
    }
    model
}

fn parameters(model: &DecoupledCircuit<f64>) -> Vec<Vec<f64>> {
    let layers = 0..DEPTH;
    layers
        .map(|t| model.circuit().parameters(t).to_vec())
        .collect()
}

fn hidden(model: &DecoupledCircuit<f64>) -> Vec<DMatrix<f64>> {
    let hidden = 1..DEPTH;
    hidden.map(|t| model.z(t).unwrap().into_owned()).collect()
}

fn gap(model: &DecoupledCircuit<f64>) -> f64 {
    model.gap().unwrap().iter().map(|gap| gap * gap).sum()
}

/// E, the composed loss, the squared gap.
fn measures(model: &DecoupledCircuit<f64>) -> [f64; 3] {
    let (energy, loss) = (model.energy().unwrap(), model.composed_loss().unwrap());
    [energy, loss, gap(model)]
}

#[test]
fn what_is_made_trains() {
    for point in Point::made() {
        // Levenberg-Marquardt goes all the way to the minimum of the batch alone.
        let batches = match point.w {
            Learns::LevenbergMarquardt => &[EXAMPLES][..],
            _ => &[EXAMPLES, 4],
        };
        for &batch in batches {
            check_training(point, batch);
        }
    }
}

fn check_training(point: Point, batch: usize) {
    let name = format!("{point:?}, batches of {batch}");
    let (start, mut model) = (begun(point.targets), model());
    let phase = point.phase().unwrap().with_epochs(60);
    let trainer = Trainer::new(phase.with_batch_size(batch).unwrap());
    let report = trainer.run(&mut model);
    let history = report.unwrap().history;
    assert!(history.iter().all(|r| r.objective.is_finite()), "{name}");

    // What moves, and what stays.
    let learns = point.w != Learns::Nothing;
    let pairs = parameters(&start).into_iter().zip(parameters(&model));
    for (t, (before, after)) in pairs.enumerate() {
        assert_eq!(before != after, learns, "{name}: θ_{t}");
        assert!(after.iter().all(|theta| theta.is_finite()), "{name}");
    }
    for (before, after) in hidden(&start).iter().zip(hidden(&model)) {
        assert_eq!(*before != after, point.z != Moves::Nothing, "{name}: z");
        assert!(after.iter().all(|z| z.is_finite()), "{name}");
    }
    // Refreshed targets end as the forward pass.
    let refreshed = point.targets == Targets::Refreshed;
    assert_eq!(gap(&model) == 0.0, refreshed, "{name}");

    // What falls.
    let (before, after) = (measures(&start), measures(&model));
    let [energy, loss, gap] = [0, 1, 2].map(|i| after[i] / before[i]);
    let fallen = match (point.w, point.z, point.multipliers) {
        (Learns::Nothing, _, true) => gap,
        (Learns::Nothing, _, false) | (_, Moves::Nothing, false) => energy,
        // A solver that takes every ℓ_t far down fits the targets: L may rise while E falls.
        (Learns::LevenbergMarquardt, _, _) => energy,
        _ => loss,
    };
    assert!(fallen < 0.9, "{name}: E {energy}, L {loss}, gap {gap}");
    if !learns {
        assert_eq!(loss, 1.0, "{name}");
    }
}

/// What a visit did: θ before and after it, and the targets that it left.
#[derive(Debug)]
struct Seen {
    before: Vec<Vec<f64>>,
    after: Vec<Vec<f64>>,
    targets: Vec<DMatrix<f64>>,
}

type Log = Arc<Mutex<Vec<Seen>>>;

/// A scheme with a log.
#[derive(Debug)]
struct Watched(Decoupling<f64>, Log);

impl Scheme<f64> for Watched {
    fn targets(&self) -> TargetUse {
        Scheme::targets(&self.0)
    }

    fn check(&self, w_step: &WStep<f64>) -> Result<(), Error> {
        self.0.check(w_step)
    }

    fn start(&self, model: &mut DecoupledCircuit<f64>) -> Result<State<f64>, Error> {
        self.0.start(model)
    }

    fn visit(&self, state: &mut State<f64>, visit: &mut Visit<'_, f64>) -> Result<f64, Error> {
        let parameters = |visit: &Visit<'_, f64>| {
            let circuit = visit.layers().circuit();
            (0..DEPTH).map(|t| circuit.parameters(t).to_vec()).collect()
        };
        let before = parameters(visit);
        let objective = self.0.visit(state, visit)?;
        let (batch, dims) = (visit.batch(), visit.layers().dims().to_vec());
        let targets = (1..DEPTH).map(|t| DMatrix::from_column_slice(dims[t], EXAMPLES, batch.z(t)));
        self.1.lock().unwrap().push(Seen {
            before,
            after: parameters(visit),
            targets: targets.collect(),
        });
        Ok(objective)
    }

    fn finish(
        &self,
        state: &mut State<f64>,
        model: &mut DecoupledCircuit<f64>,
    ) -> Result<(), Error> {
        self.0.finish(state, model)
    }
}

/// The model with this θ and these targets.
fn at(parameters: &[Vec<f64>], targets: &[DMatrix<f64>]) -> DecoupledCircuit<f64> {
    let mut model = model();
    for (t, own) in parameters.iter().enumerate() {
        model.set_parameters(t, own).unwrap();
    }
    for (t, z) in (1..).zip(targets) {
        model.set_targets(t, &Selection::All, z).unwrap();
    }
    model
}

/// E with multipliers.
fn energy(model: &DecoupledCircuit<f64>, multipliers: &[Vec<f64>]) -> f64 {
    let problem = model.problem(0..EXAMPLES).unwrap();
    let problem = problem.with_multipliers(multipliers).unwrap();
    problem.evaluate(Value, &mut Workspace::new()).energy()
}

/// ẑ_t = f(z_{t−1}) of the model's targets.
fn prediction(model: &DecoupledCircuit<f64>, t: usize) -> DMatrix<f64> {
    let local = model.local_problem(t - 1, 0..EXAMPLES).unwrap();
    let mut workspace = local.workspace();
    let at = local.linearize(&mut workspace);
    DMatrix::from_column_slice(at.prediction().len() / EXAMPLES, EXAMPLES, at.prediction())
}

/// z_t − ẑ_t, t = 1, …, T−1.
fn residuals(model: &DecoupledCircuit<f64>) -> Vec<DMatrix<f64>> {
    let hidden = 1..DEPTH;
    hidden
        .map(|t| model.z(t).unwrap() - prediction(model, t))
        .collect()
}

/// The derivative at 0, of fourth order.
fn derivative(mut f: impl FnMut(f64) -> f64) -> f64 {
    let h = 1e-3;
    let mut difference = |h: f64| f(h) - f(-h);
    (8.0 * difference(h) - difference(2.0 * h)) / (12.0 * h)
}

/// ∂E/∂θ_t by differences.
fn parameter_gradient(
    model: &DecoupledCircuit<f64>,
    multipliers: &[Vec<f64>],
    t: usize,
) -> Vec<f64> {
    let own = model.circuit().parameters(t);
    let derivatives = (0..own.len()).map(|i| {
        derivative(|h| {
            let (mut moved, mut parameters) = (model.clone(), own.to_vec());
            parameters[i] += h;
            moved.set_parameters(t, &parameters).unwrap();
            energy(&moved, multipliers)
        })
    });
    derivatives.collect()
}

/// ∂E/∂z_t by differences.
fn target_gradient(model: &DecoupledCircuit<f64>, multipliers: &[Vec<f64>], t: usize) -> Vec<f64> {
    let own = model.z(t).unwrap().into_owned();
    let derivatives = (0..own.len()).map(|i| {
        derivative(|h| {
            let (mut moved, mut targets) = (model.clone(), own.clone());
            targets[i] += h;
            moved.set_targets(t, &Selection::All, &targets).unwrap();
            energy(&moved, multipliers)
        })
    });
    derivatives.collect()
}

fn near(name: &str, found: impl IntoIterator<Item = f64>, expected: &[f64]) {
    for (found, expected) in found.into_iter().zip(expected) {
        let error = (found - expected).abs() / (1.0 + expected.abs());
        assert!(error < 1e-9, "{name}: {found} for {expected}");
    }
}

/// The visits of a run on all examples at once, computed again by hand from what the options say.
fn check_visits(point: Point) {
    let log = Log::default();
    let scheme = Watched(point.scheme().unwrap(), log.clone());
    let phase = Phase::with_w_step(scheme, point.w_step()).unwrap();
    let trainer = Trainer::new(phase.with_epochs(3));
    trainer.run(&mut model()).unwrap();

    let start = begun(point.targets);
    let (mut targets, mut residual) = (hidden(&start), residuals(&start));
    let zeros = |z: &DMatrix<f64>| vec![0.0; z.len()];
    let mut multipliers: Vec<Vec<f64>> = targets.iter().map(zeros).collect();
    let mut fell = [false; DEPTH];
    for (k, seen) in log.lock().unwrap().iter().enumerate() {
        let name = format!("{point:?}, visit {k}");
        // Where the targets come from.
        let mut found = at(&seen.before, &targets);
        let share = match point.targets {
            Targets::Refreshed => Some(0.0),
            Targets::Residual { .. } => Some(KEEP),
            _ => None,
        };
        if let Some(share) = share {
            for t in 1..DEPTH {
                let z = prediction(&found, t) + share * &residual[t - 1];
                found.set_targets(t, &Selection::All, &z).unwrap();
            }
        }
        // How they move.
        let moved = at(&seen.before, &seen.targets);
        let before = energy(&found, &multipliers);
        match point.z {
            Moves::Nothing => assert_eq!(seen.targets, hidden(&found), "{name}"),
            Moves::Joint => {
                for (t, z) in (1..).zip(&seen.targets) {
                    let steps = (found.z(t).unwrap() - z) / TARGET_RATE;
                    let gradient = target_gradient(&found, &multipliers, t);
                    near(&name, steps.iter().copied(), &gradient);
                }
            }
            Moves::Sweep | Moves::GaussNewton => {
                let after = energy(&moved, &multipliers);
                assert!(after < before, "{name}: {before} to {after}");
            }
        }
        // How θ moves: along the gradient where the visit's targets stand, before a joint step.
        let stood = match point.z {
            Moves::Joint => &found,
            _ => &moved,
        };
        let after = at(&seen.after, &hidden(stood));
        for t in 0..DEPTH {
            let name = format!("{name}, θ_{t}");
            let along = || {
                let pairs = seen.before[t].iter().zip(&seen.after[t]);
                let steps = pairs.map(|(old, new)| (old - new) * EXAMPLES as f64 / RATE);
                near(&name, steps, &parameter_gradient(stood, &multipliers, t));
            };
            let fallen = || {
                let local = |model: &DecoupledCircuit<f64>| {
                    let mut workspace = Workspace::new();
                    let problem = model.problem(0..EXAMPLES).unwrap();
                    let problem = problem.with_multipliers(&multipliers).unwrap();
                    let evaluation = problem.evaluate(Value, &mut workspace);
                    evaluation.local(t).energy()
                };
                let (before, after) = (local(stood), local(&after));
                assert!(after <= before, "{name}: {before} to {after}");
                after < before
            };
            match (point.w, t) {
                (Learns::Optimizer, _) | (Learns::LeastSquares, 1) => along(),
                (Learns::LeastSquares, 2) => {
                    // Affine: at the minimum, with λ/2 ‖W‖² + ρ/2 ‖θ − θ_old‖² for every example.
                    let gradient = parameter_gradient(&after, &multipliers, t);
                    let pairs = seen.before[t].iter().zip(&seen.after[t]).enumerate();
                    let held = pairs.map(|(i, (old, new))| {
                        let ridge = if i < 2 { RIDGE * new } else { 0.0 };
                        -(EXAMPLES as f64) * (ridge + PROXIMAL * (new - old))
                    });
                    near(&name, held, &gradient);
                }
                (Learns::LeastSquares, _) => {
                    // By the solver alone, on targets that the multipliers shift.
                    let mut alone = stood.clone();
                    let mut z = stood.z(t + 1).unwrap().into_owned();
                    for (z, own) in z.iter_mut().zip(&multipliers[t]) {
                        *z += own / PENALTIES[t];
                    }
                    alone.set_targets(t + 1, &Selection::All, &z).unwrap();
                    let solver = least_squares();
                    alone.solve_parameters(t, &solver, &Selection::All).unwrap();
                    let solved = alone.circuit().parameters(t).iter().copied();
                    near(&name, solved, &seen.after[t]);
                    assert_ne!(seen.before[t], seen.after[t], "{name}");
                }
                (Learns::LevenbergMarquardt, _) => fell[t] |= fallen(),
                (Learns::Nothing, _) => assert_eq!(seen.before[t], seen.after[t], "{name}"),
            }
        }
        // What is kept.
        residual = residuals(&match point.z {
            Moves::Joint => at(&seen.after, &seen.targets),
            _ => moved,
        });
        targets = seen.targets.clone();
        if point.multipliers {
            let all = multipliers.iter_mut().zip(&residual).zip(PENALTIES);
            for ((own, residual), penalty) in all {
                for (own, r) in own.iter_mut().zip(residual.iter()) {
                    *own += ALPHA * penalty * r;
                }
            }
        }
    }
    assert_eq!(log.lock().unwrap().len(), 3);
    let solved = point.w == Learns::LevenbergMarquardt;
    assert_eq!(fell, [solved; DEPTH], "{point:?}");
}

#[test]
fn every_step_is_along_the_gradient_of_the_energy() {
    for point in Point::made() {
        check_visits(point);
    }
}
