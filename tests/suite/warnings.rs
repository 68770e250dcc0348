//! What looks wrong in an epoch is told: layers that do not move, Z-steps that reach nothing, are undone, or
//! raise E. A sound run warns of nothing.

use std::sync::Arc;

use layerwise::energy::{LocalProblem, LocalWorkspace};
use layerwise::kernel::Write;
use layerwise::layer::{Context, Dense, ParameterGroup, Point, Scratch, Shape};
use layerwise::loss::{Gaussian, WeightedSquaredError};
use layerwise::optimizer::{Adam, GradientDescent, Optimizer, Step};
use layerwise::parameter_solver::{
    LeastSquares, LevenbergMarquardt, ParameterReport, ParameterSolver,
};
use layerwise::prelude::*;
use layerwise::state::State;
use layerwise::target_solver::{ErrorDescent, GaussNewton, RedBlack, StepSize, SynchronousDescent};
use layerwise::training::{
    Decoupling, EpochRecord, FixedPrediction, PcAlm, Scheme, Session, Targets, TrainingReport,
    WStep, Warning, ZIl, ZStep,
};
use layerwise::{Layer, presets};

const EPOCHS: u64 = 4;

fn wave<T: Scalar>(rows: usize, n: usize, step: f64) -> DMatrix<T> {
    DMatrix::from_fn(rows, n, |i, j| {
        T::of((step * (j as f64 + 1.3 * i as f64)).sin())
    })
}

fn dense(input: usize, output: usize, activation: Activation) -> Dense {
    Dense::new(input, output, activation).unwrap()
}

fn model<T: Scalar>(first: impl Layer<T> + 'static) -> DecoupledCircuit<T> {
    let circuit = Circuit::builder()
        .layer(first)
        .layer(dense(4, 3, Activation::Tanh))
        .layer(dense(3, 1, Activation::Identity))
        .seed(6);
    let mut model = DecoupledCircuit::new(circuit.build().unwrap(), Energy::default()).unwrap();
    model
        .add_examples(
            &wave(2, 12, 0.7),
            &wave(1, 12, 1.1),
            &TargetInit::ForwardPass,
        )
        .unwrap();
    model
}

fn run<T: Scalar>(model: &mut DecoupledCircuit<T>, phase: Phase<T>) -> TrainingReport<T> {
    let phase = phase.with_epochs(EPOCHS).with_batch_size(6).unwrap();
    Trainer::new(phase).run(model).unwrap()
}

/// The warnings of a run, all of every epoch.
fn told<T: Scalar>(model: &mut DecoupledCircuit<T>, phase: Phase<T>) -> Vec<Warning> {
    let report = run(model, phase);
    let all: Vec<Warning> = report.warnings.iter().map(|own| own.warning).collect();
    for record in &report.history {
        assert_eq!(record.warnings, all, "epoch {}", record.epoch);
    }
    for own in &report.warnings {
        assert_eq!((own.phase, own.epochs, own.count), (0, [1, EPOCHS], EPOCHS));
    }
    all
}

fn plain<T: Scalar>() -> DecoupledCircuit<T> {
    model(dense(2, 4, Activation::Tanh))
}

fn adam(rate: f64) -> Adam {
    Adam::new(rate).unwrap()
}

/// A layer without parameters: an activation of its own.
#[derive(Debug)]
struct Bare(Activation);

impl<T: Scalar> Layer<T> for Bare {
    fn input_shape(&self) -> Shape {
        2.into()
    }

    fn output_shape(&self) -> Shape {
        2.into()
    }

    fn parameters(&self) -> Vec<ParameterGroup> {
        Vec::new()
    }

    fn initialize(&self, _: &mut [T], _: &mut dyn layerwise::rand::Rng) {}

    fn scratch(&self, _: usize) -> Scratch {
        Scratch::NONE
    }

    fn forward(
        &self,
        _: &Context<'_>,
        _: &[T],
        input: &[T],
        output: &mut [T],
        _: Option<&mut [T]>,
        _: &mut [T],
    ) {
        output.copy_from_slice(input);
        T::activate(self.0, output, None);
    }

    fn vjp(
        &self,
        at: &Point<'_, T>,
        cotangent: &[T],
        d_input: Write<'_, T>,
        _: Write<'_, T>,
        _: &mut [T],
    ) {
        let slope = |i: usize| {
            let (mut value, mut slope) = ([at.input[i]], [T::zero()]);
            T::activate(self.0, &mut value, Some(&mut slope));
            slope[0]
        };
        d_input.each(|i| slope(i) * cotangent[i]);
    }
}

/// Nothing in it could move.
#[test]
fn a_layer_without_parameters_is_not_frozen() {
    let circuit = Circuit::<f64>::builder()
        .layer(dense(2, 2, Activation::Identity))
        .layer(Bare(Activation::Tanh))
        .layer(dense(2, 1, Activation::Identity));
    let mut model = DecoupledCircuit::new(circuit.build().unwrap(), Energy::default()).unwrap();
    let (x, y) = (wave(2, 12, 0.7), wave(1, 12, 1.1));
    model
        .add_examples(&x, &y, &TargetInit::ForwardPass)
        .unwrap();
    assert_eq!(told(&mut model, Phase::new(Backprop, adam(1e-2))), []);
}

fn frozen<T: Scalar>(rate: f64) {
    let schemes: [Arc<dyn Scheme<T>>; 5] = [
        Arc::new(Backprop),
        Arc::new(PcAlm::new(2, ReverseSweep::new(1), 0.5).unwrap()),
        Arc::new(ZIl),
        Arc::new(Decoupling::refreshed(ReverseSweep::new(1))),
        Arc::new(Decoupling::joint(adam(1e-3))),
    ];
    for scheme in schemes {
        let name = format!("{scheme:?}");
        // Biases begin at 0, which no step is too small for.
        let layer = |input, output, activation| dense(input, output, activation).without_bias();
        let circuit = Circuit::builder()
            .layer(layer(2, 4, Activation::Tanh))
            .layer(layer(4, 1, Activation::Identity));
        let circuit = circuit.build().unwrap();
        let mut model = DecoupledCircuit::new(circuit, Energy::default()).unwrap();
        let init = TargetInit::NoisyForwardPass { std: 0.1, seed: 1 };
        model
            .add_examples(&wave(2, 12, 0.7), &wave(1, 12, 1.1), &init)
            .unwrap();
        let found = told(&mut model, Phase::new(scheme, adam(rate)));
        let expected = [0, 1].map(|layer| Warning::Frozen { layer });
        assert_eq!(found, expected, "{name}");
    }
}

/// A rate that falls until θ no longer moves is no freeze: as is a run that has converged.
#[test]
fn a_layer_that_has_moved_may_rest() {
    let decay = Schedule::geometric(1e-60).unwrap();
    let phase = Phase::new(Backprop, adam(1e-2)).with_epochs(30);
    let mut model = plain::<f64>();
    let report = Trainer::new(phase.with_schedule(decay))
        .run(&mut model)
        .unwrap();
    assert_eq!(report.warnings, [], "{report}");
    let before = model.circuit().parameters(0).to_vec();
    let still = Phase::new(Backprop, adam(1e-60)).with_epochs(1);
    Trainer::new(still).run(&mut model).unwrap();
    assert_eq!(model.circuit().parameters(0), before);
}

/// A rate that vanishes beside θ in its scalar.
#[test]
fn a_frozen_optimiser_is_told() {
    frozen::<f64>(1e-22);
    frozen::<f32>(1e-13);
}

/// Z-steps of a size that vanishes beside z in its scalar.
fn frozen_targets<T: Scalar>(size: f64) {
    let [first, second] = [1, 2].map(|layer| Warning::FrozenTargets { layer });
    let fixed = StepSize::Fixed(size);
    let synchronous = || SynchronousDescent::new(2, fixed).unwrap();
    let checked = || {
        let sweep = ReverseSweep::new(2);
        sweep.with_step(StepSize::Checked(size)).unwrap()
    };
    let unreached = [0, 1].map(|layer| Warning::Unreached { layer });
    let along = Decoupling::new(Targets::Persistent, ZStep::Along(fixed)).unwrap();
    let schemes: [(Decoupling<T>, Vec<Warning>); 7] = [
        (Decoupling::joint(adam(size)), vec![first, second]),
        (Decoupling::persistent(synchronous()), vec![first, second]),
        (Decoupling::persistent(checked()), vec![first, second]),
        (along, vec![first, second]),
        (
            Decoupling::residual(RedBlack::new(1).with_step(fixed).unwrap()),
            vec![first, second],
        ),
        // At the forward pass only the last targets have a gradient.
        (
            Decoupling::refreshed(synchronous()),
            vec![unreached[0], unreached[1], second],
        ),
        // No step is no step that vanishes.
        (Decoupling::persistent(ReverseSweep::new(0)), vec![]),
    ];
    for (scheme, expected) in schemes {
        let name = format!("{scheme:?}");
        let mut model = plain::<T>();
        let init = TargetInit::NoisyForwardPass { std: 0.1, seed: 1 };
        model.initialize_targets(&init).unwrap();
        let found = told(&mut model, Phase::new(scheme, adam(1e-4)));
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn frozen_targets_are_told() {
    frozen_targets::<f64>(1e-22);
    frozen_targets::<f32>(1e-12);
}

/// Targets at their minimum up to rounding have nowhere to go; nor have those whose gradient is 0.
fn resting_targets<T: Scalar>(size: f64) {
    let mut model = plain::<T>();
    let to_rest = GaussNewton::direct(60);
    model.solve_targets(&to_rest, &Selection::All).unwrap();
    // They end at √ε; sweeps reach the last digits.
    let sweeps = ReverseSweep::new(2000);
    model.solve_targets(&sweeps, &Selection::All).unwrap();
    let mut exact = plain::<T>();
    let (x, y) = (wave(2, 12, 0.7), exact.predict(&wave(2, 12, 0.7)).unwrap());
    let ids = exact.examples().to_vec();
    exact.remove_examples(&ids).unwrap();
    exact
        .add_examples(&x, &y, &TargetInit::ForwardPass)
        .unwrap();
    let sweep = |size| ReverseSweep::new(1).with_step(size).unwrap();
    for start in [&model, &exact] {
        let schemes = [
            Decoupling::joint(GradientDescent::new(size).unwrap()),
            Decoupling::persistent(sweep(StepSize::Fixed(size))),
            Decoupling::persistent(sweep(StepSize::Bounded { margin: 1.0 })),
        ];
        for scheme in schemes {
            let name = format!("{scheme:?}");
            // θ does not move away from where the targets rest.
            let phase = Phase::with_w_step(scheme, WStep::none()).unwrap();
            let report = run(&mut start.clone(), phase);
            let frozen = |own: &&EpochRecord<T>| {
                let of_targets = |own: &Warning| matches!(own, Warning::FrozenTargets { .. });
                own.warnings.iter().any(of_targets)
            };
            assert!(!report.history.iter().any(|own| frozen(&own)), "{name}");
        }
    }
}

#[test]
fn targets_at_rest_are_not_frozen() {
    resting_targets::<f64>(1e-4);
    resting_targets::<f32>(1e-4);
}

/// Moves in its first steps only.
#[derive(Debug)]
struct Tires(u64);

impl Optimizer<f64> for Tires {
    fn slots(&self) -> usize {
        0
    }

    fn update(&self, step: Step, values: &mut [f64], gradient: &[f64], _: &mut [f64]) {
        if step.number <= self.0 {
            let rate = 1e-3 * step.gradient_factor;
            values
                .iter_mut()
                .zip(gradient)
                .for_each(|(v, g)| *v -= rate * g);
        }
    }
}

/// Whether targets have moved is part of a run's state, so that a resumed run says the same.
#[test]
fn a_resumed_run_remembers_what_moved() {
    let frozen = |own: &Warning| matches!(own, Warning::FrozenTargets { .. });
    for (steps, expected) in [(0, 2), (1, 0)] {
        let scheme = Decoupling::joint(Tires(steps));
        let phase = Phase::new(scheme, adam(1e-4)).with_epochs(3);
        let trainer = Trainer::new(phase);
        let mut model = plain::<f64>();
        let init = TargetInit::NoisyForwardPass { std: 0.1, seed: 1 };
        model.initialize_targets(&init).unwrap();
        let mut session = Session::new(&trainer, model).unwrap();
        for _ in 0..3 {
            let record = session.epoch().unwrap().unwrap();
            let found = record.warnings.iter().filter(|own| frozen(own)).count();
            assert_eq!(found, expected, "{steps}, epoch {}", record.epoch);
            let state = session.state().clone();
            let (model, _) = session.finish();
            session = Session::resume(&trainer, model, state).unwrap();
        }
    }
}

/// A solver that moves nothing, stuck or not.
#[derive(Debug)]
struct Rests {
    stuck: bool,
}

impl<T: Scalar> ParameterSolver<T> for Rests {
    fn solve(
        &self,
        _: &mut State<T>,
        _: &LocalProblem<'_, T>,
        _: &mut LocalWorkspace<T>,
        _: &mut [T],
    ) -> Result<ParameterReport, Error> {
        let report = ParameterReport::new(3, 0);
        Ok(if self.stuck { report.stuck() } else { report })
    }
}

fn stuck_solver<T: Scalar>() {
    for (stuck, expected) in [(true, &[Warning::Frozen { layer: 1 }][..]), (false, &[])] {
        let w_step = WStep::optimizer(adam(1e-3)).with_solver_of_layer(1, Rests { stuck });
        let scheme = Decoupling::refreshed(ReverseSweep::new(1));
        let phase = Phase::with_w_step(scheme, w_step).unwrap();
        assert_eq!(told(&mut plain::<T>(), phase), expected);
    }
    let phase = |steps| {
        let solver = LevenbergMarquardt::new(steps, 10);
        Phase::with_w_step(Decoupling::weights_only(), WStep::solver(solver)).unwrap()
    };
    // Layers that another phase has brought to rest.
    for steps in [1, 2, 5, 100] {
        let mut model = plain::<T>();
        model
            .initialize_targets(&TargetInit::Projected { seed: 1 })
            .unwrap();
        let whole = |steps, epochs| phase(steps).with_epochs(epochs);
        Trainer::new(whole(100, 50)).run(&mut model).unwrap();
        let report = Trainer::new(whole(steps, 30)).run(&mut model).unwrap();
        assert_eq!(report.warnings, [], "{steps}");
    }
    // A layer whose gradient fits, but whose curvature does not.
    let weight = T::max_value().unwrap() * T::of(0.25);
    let circuit = Circuit::builder().layer(dense(1, 1, Activation::Identity));
    let loss = WeightedSquaredError::new(vec![weight]).unwrap();
    let mut model = DecoupledCircuit::new(circuit.build().unwrap(), Energy::new(loss)).unwrap();
    model.set_parameters(0, &[T::zero(); 2]).unwrap();
    let (x, y) = (
        wave(1, 12, 0.7) * T::of(8.0),
        wave(1, 12, 0.7) * T::of(1e-6),
    );
    model
        .add_examples(&x, &y, &TargetInit::ForwardPass)
        .unwrap();
    let told: Vec<Warning> = run(&mut model, phase(20))
        .warnings
        .iter()
        .map(|own| own.warning)
        .collect();
    let [Warning::Frozen { layer: 0 }, Warning::Unscaled { size }] = told[..] else {
        panic!("{told:?}");
    };
    assert!((5.0..6.0).contains(&size));
}

/// Data whose squares underflow: the gradient is not 0, but ℓ is.
fn underflowing_solver<T: Scalar>(unit: f64) {
    let solver = LevenbergMarquardt::new(5, 10);
    let phase = || Phase::with_w_step(Decoupling::weights_only(), WStep::solver(solver)).unwrap();
    for (unit, expected) in [(unit, &[Warning::Frozen { layer: 0 }][..]), (1e-6, &[])] {
        let circuit = Circuit::builder().layer(dense(1, 1, Activation::Identity));
        let mut model = DecoupledCircuit::new(circuit.build().unwrap(), Energy::default()).unwrap();
        model.set_parameters(0, &[T::zero(); 2]).unwrap();
        let (x, y) = (wave(1, 12, 0.7), wave(1, 12, 0.7) * T::of(unit));
        model
            .add_examples(&x, &y, &TargetInit::ForwardPass)
            .unwrap();
        assert_eq!(told(&mut model, phase()), expected);
    }
}

#[test]
fn a_stuck_solver_is_told() {
    underflowing_solver::<f64>(1e-180);
    underflowing_solver::<f32>(1e-25);
    stuck_solver::<f64>();
    stuck_solver::<f32>();
}

fn unreached<T: Scalar>() {
    let weights_only = Phase::new(Decoupling::weights_only(), adam(1e-2));
    let [first, second] = [0, 1].map(|layer| Warning::Unreached { layer });
    assert_eq!(told(&mut plain::<T>(), weights_only), [first, second]);
    let synchronous = |steps| {
        let step = StepSize::Fixed(0.1);
        let solver = SynchronousDescent::new(steps, step).unwrap();
        Phase::new(Decoupling::refreshed(solver), adam(1e-2))
    };
    assert_eq!(told(&mut plain::<T>(), synchronous(1)), [first]);
    assert_eq!(told(&mut plain::<T>(), synchronous(2)), []);
    let fixed = |steps| Phase::new(FixedPrediction::new().with_steps(steps), adam(1e-2));
    assert_eq!(told(&mut plain::<T>(), fixed(1)), [first]);
    assert_eq!(told(&mut plain::<T>(), fixed(0)), [first, second]);
    let no_sweep = Phase::new(Decoupling::refreshed(ReverseSweep::new(0)), adam(1e-2));
    assert_eq!(told(&mut plain::<T>(), no_sweep), [first, second]);
}

#[test]
fn layers_that_no_step_reaches_are_told() {
    unreached::<f64>();
    unreached::<f32>();
}

/// A layer whose curvature bound is far below its curvature.
#[derive(Debug)]
struct Boasts(Dense);

impl<T: Scalar> Layer<T> for Boasts {
    described_by!(0: T);
    evaluated_by!(0: T);

    fn curvature_bound(&self, parameters: &[T], work: &mut [T]) -> Option<T> {
        let bound = self.0.curvature_bound(parameters, work)?;
        Some(T::of(1e-12) * bound)
    }
}

/// Two layers, a linear one above the other, whose targets have little curvature of their own.
fn steep<T: Scalar>(above: impl Layer<T> + 'static) -> DecoupledCircuit<T> {
    let circuit = Circuit::builder()
        .layer(dense(2, 4, Activation::Tanh))
        .layer(above)
        .seed(6);
    let energy = Energy::default().with_penalty(T::of(1e-12));
    let mut model = DecoupledCircuit::new(circuit.build().unwrap(), energy).unwrap();
    model
        .add_examples(
            &wave(2, 12, 0.7),
            &wave(1, 12, 1.1),
            &TargetInit::ForwardPass,
        )
        .unwrap();
    model
}

fn undone<T: Scalar>() {
    let above = || dense(4, 1, Activation::Identity);
    for sweeps in [1, 3] {
        let phase = || Phase::new(Decoupling::refreshed(ReverseSweep::new(sweeps)), adam(1e-3));
        let found = told(&mut steep::<T>(Boasts(above())), phase());
        assert_eq!(found, [Warning::Unreached { layer: 0 }, Warning::Undone]);
        assert_eq!(told(&mut steep::<T>(above()), phase()), []);
        let halves = Phase::new(Decoupling::persistent(RedBlack::new(sweeps)), adam(1e-3));
        let found = run(&mut steep::<T>(Boasts(above())), halves);
        assert_eq!(found.warnings.last().unwrap().warning, Warning::Undone);
    }
}

#[test]
fn z_steps_that_are_all_undone_are_told() {
    undone::<f64>();
    undone::<f32>();
}

fn raised<T: Scalar>() {
    let step = StepSize::Fixed(40.0);
    let solver = || SynchronousDescent::new(6, step).unwrap();
    for targets in [
        Decoupling::refreshed,
        Decoupling::residual,
        Decoupling::persistent,
    ] {
        let mut model = plain::<T>();
        let phase = Phase::new(targets(solver()), adam(1e-9));
        let report = Trainer::new(phase.with_epochs(1)).run(&mut model).unwrap();
        assert_eq!(report.warnings.last().unwrap().warning, Warning::Raised);
    }
    let preset = presets::predictive_coding(6, 40.0, adam(1e-9)).unwrap();
    let report = Trainer::new(preset.with_epochs(1))
        .run(&mut plain::<T>())
        .unwrap();
    assert_eq!(report.warnings.last().unwrap().warning, Warning::Raised);
}

#[test]
fn z_steps_that_raise_the_energy_are_told() {
    raised::<f64>();
    raised::<f32>();
}

fn worse<T: Scalar>() {
    let descent = |rate| GradientDescent::new(rate).unwrap();
    for (rate, expected) in [(3.0, true), (0.05, false)] {
        let phase = Phase::new(Backprop, descent(rate));
        let start = plain::<T>().composed_loss().unwrap() / T::of(12.0);
        let found = run(&mut plain::<T>(), phase);
        // One entry for all epochs, with the numbers of the last.
        assert_eq!(found.warnings.len(), usize::from(expected), "{rate}");
        if let Some(own) = found.warnings.first() {
            let Warning::Worse { loss, limit } = own.warning else {
                panic!("{own}");
            };
            let worse = |own: &&EpochRecord<T>| !own.warnings.is_empty();
            let last = found.history.iter().rev().find(worse).unwrap();
            assert_eq!(loss, last.composed_loss.unwrap().as_f64());
            assert!((limit / start.as_f64() - 2.0).abs() < 1e-6, "{limit}");
            for number in [format!("{loss:.3e}"), format!("{limit:.3e}")] {
                assert!(own.to_string().contains(&number), "{own}");
            }
        }
        let losses: Vec<T> = found
            .history
            .iter()
            .map(|own| own.composed_loss.unwrap())
            .collect();
        for (record, loss) in found.history.iter().zip(&losses) {
            let grown = *loss > T::of(2.0) * start;
            assert_eq!(!record.warnings.is_empty(), grown, "{rate}: {losses:?}");
        }
    }
}

/// A negative log density: ½ log(2πσ²) + (z − ẑ)²/2σ², which is below 0 for small σ.
fn worse_density<T: Scalar>() {
    let build = || {
        let circuit = Circuit::builder()
            .layer(dense(1, 1, Activation::Identity))
            .seed(6);
        let precision = Gaussian::new(vec![T::of(1e4)]).unwrap();
        let energy = Energy::new(precision);
        let mut model = DecoupledCircuit::new(circuit.build().unwrap(), energy).unwrap();
        let x = wave(1, 12, 0.7);
        model.set_parameters(0, &[T::one(), T::zero()]).unwrap();
        model
            .add_examples(&x, &x, &TargetInit::ForwardPass)
            .unwrap();
        model
    };
    let start = build().composed_loss().unwrap().as_f64() / 12.0;
    assert!(start < -3.0, "{start}");
    // The bias moves by one step in the first epoch: L rises by 1e4 b²/2.
    for (rise, expected) in [(0.9, false), (1.1, true)] {
        let bias = (2e-4 * rise * start.abs()).sqrt();
        let phase = Phase::new(Backprop, Jump(bias)).with_epochs(1);
        let report = Trainer::new(phase).run(&mut build()).unwrap();
        let found = report.history[0].composed_loss.unwrap().as_f64();
        assert!((found - start - rise * start.abs()).abs() < 1e-2, "{found}");
        let told = &report.history[0].warnings[..];
        assert_eq!(
            matches!(told, [Warning::Worse { .. }]),
            expected,
            "{told:?}"
        );
        assert_eq!(told.is_empty(), !expected, "{told:?}");
    }
}

/// Sets the last parameter of a group of one, a bias, and leaves others.
#[derive(Debug)]
struct Jump(f64);

impl<T: Scalar> Optimizer<T> for Jump {
    fn slots(&self) -> usize {
        0
    }

    fn update(&self, _: Step, values: &mut [T], _: &[T], _: &mut [T]) {
        if values[0].is_zero() {
            values[0] = T::of(self.0);
        }
    }
}

#[test]
fn losses_that_grow_are_told() {
    worse::<f64>();
    worse::<f32>();
    worse_density::<f64>();
    worse_density::<f32>();
}

fn sound<T: Scalar>() {
    let schemes: [Arc<dyn Scheme<T>>; 10] = [
        Arc::new(Backprop),
        Arc::new(ZIl),
        Arc::new(FixedPrediction::new()),
        Arc::new(Decoupling::refreshed(ErrorDescent::new(2))),
        Arc::new(PcAlm::new(4, ReverseSweep::new(1), 0.5).unwrap()),
        Arc::new(Decoupling::refreshed(ReverseSweep::new(1))),
        Arc::new(Decoupling::persistent(GaussNewton::new(2, 4))),
        Arc::new(Decoupling::residual(RedBlack::new(2))),
        Arc::new(
            Decoupling::persistent(ReverseSweep::new(1))
                .with_multipliers(1.0)
                .unwrap(),
        ),
        Arc::new(Decoupling::joint(adam(1e-2))),
    ];
    for scheme in schemes {
        let name = format!("{scheme:?}");
        let mut model = plain::<T>();
        let init = TargetInit::NoisyForwardPass { std: 0.1, seed: 1 };
        model.initialize_targets(&init).unwrap();
        let report = run(&mut model, Phase::new(scheme, adam(1e-3)));
        assert_eq!(report.warnings, [], "{name}");
        assert!(report.history.iter().all(|epoch| epoch.warnings.is_empty()));
    }
    // A layer without a W-step is not meant to move; nor is any at rest.
    let mut model = plain::<T>();
    model
        .initialize_targets(&TargetInit::Projected { seed: 1 })
        .unwrap();
    let w_step = WStep::solver_of_layer(1, LeastSquares::ridge(0.1).unwrap());
    let weights_only = Phase::with_w_step(Decoupling::weights_only(), w_step).unwrap();
    let report = Trainer::new(weights_only.with_epochs(1))
        .run(&mut model)
        .unwrap();
    assert_eq!(report.warnings, []);
    let mut rest = plain::<T>();
    let (x, y) = (wave(2, 12, 0.7), rest.predict(&wave(2, 12, 0.7)).unwrap());
    let ids = rest.examples().to_vec();
    rest.remove_examples(&ids).unwrap();
    rest.add_examples(&x, &y, &TargetInit::ForwardPass).unwrap();
    assert_eq!(
        run(&mut rest, Phase::new(Backprop, adam(1e-3))).warnings,
        []
    );
}

#[test]
fn a_sound_run_warns_of_nothing() {
    sound::<f64>();
    sound::<f32>();
}

#[test]
fn a_report_prints_each_warning_once() {
    let phase = || Phase::new(Decoupling::weights_only(), adam(1e-2)).with_epochs(3);
    let trainer = Trainer::new(phase()).then(phase());
    let mut report = trainer.run(&mut plain::<f64>()).unwrap();
    let lines: Vec<String> = report.to_string().lines().map(String::from).collect();
    assert_eq!(report.warnings.len(), 4);
    assert_eq!(lines.len(), 4, "{report}");
    assert!(
        lines[0].starts_with("6 epochs, 6 parameter steps, "),
        "{report}"
    );
    assert!(lines[0].ends_with(" s: all epochs done"), "{report}");
    let expected = "warning: phase 1, epochs 4 to 6: layer 0 did not move, as its gradient was 0: the \
                    Z-steps do not reach its target (a `ReverseSweep` reaches all), the signal fades \
                    to 0 with depth, or its units are saturated (layer 1 too)";
    assert!(lines[1].starts_with("epoch 6: objective "), "{report}");
    assert_eq!(lines[3], expected);

    // A warning of other epochs, of another kind, or about no layer has its own line.
    let warned = |warning, count| {
        let mut own = report.warnings[0];
        (own.warning, own.count) = (warning, count);
        own
    };
    let told = [0, 2, 3, 4, 7].map(|layer| warned(Warning::Frozen { layer }, 3));
    let mut all = told.to_vec();
    all.insert(1, warned(Warning::Undone, 3));
    all.push(warned(Warning::Frozen { layer: 9 }, 2));
    all.push(warned(Warning::Mixes { layer: 9 }, 3));
    report.warnings = all;
    let text = report.to_string();
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("warning"))
        .collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert!(lines[0].ends_with("(layers 2 to 4, 7 too)"), "{text}");
    assert!(
        lines[1..].iter().all(|line| !line.contains("too)")),
        "{text}"
    );
}

/// Records of chosen epochs, but every event, every warning and the same bits.
#[test]
fn the_history_can_be_thinned_or_left_out() {
    let phase = || Phase::new(Decoupling::weights_only(), adam(1e-2)).with_epochs(7);
    let trainer = Trainer::new(phase());
    let (mut model, mut thinned) = (plain::<f64>(), plain::<f64>());
    let whole = trainer.run(&mut model).unwrap();
    for (every, kept) in [
        (0, vec![]),
        (1, vec![1, 2, 3, 4, 5, 6, 7]),
        (3, vec![3, 6]),
        (9, vec![]),
    ] {
        let trainer = trainer.clone().with_history_every(every);
        let mut seen = Vec::new();
        let mut own = plain::<f64>();
        let report = trainer.run_with(&mut own, |record, _| {
            seen.push(record.clone());
            std::ops::ControlFlow::Continue(())
        });
        let report = report.unwrap();
        let epochs: Vec<u64> = report.history.iter().map(|record| record.epoch).collect();
        assert_eq!(epochs, kept);
        assert_eq!(seen, whole.history);
        assert_eq!(
            (report.warnings, report.phases),
            (whole.warnings.clone(), whole.phases.clone())
        );
        assert_eq!(own.circuit().parameters(2), model.circuit().parameters(2));
    }
    // So many epochs take no memory.
    let phase = Phase::new(Backprop, adam(1e-2)).with_epochs(5000);
    let trainer = Trainer::new(phase)
        .with_history_every(0)
        .with_measure_every(0);
    let report = trainer.run(&mut thinned).unwrap();
    assert_eq!(
        (report.history.capacity(), report.phases[0].epochs),
        (0, 5000)
    );
    let mut session = Session::new(&trainer, plain::<f64>()).unwrap();
    assert!(session.epoch().unwrap().is_some());
    assert!(session.history().is_empty());
}

/// Inputs far above unit scale are told of once in a run, where weights meet them at once.
fn unscaled<T: Scalar>() {
    let build = |scale: f64, first: Box<dyn Layer<T>>| {
        let circuit = Circuit::builder()
            .layer(first)
            .layer(Dense::new(3, 1, Activation::Identity).unwrap());
        let mut model = DecoupledCircuit::new(circuit.build().unwrap(), Energy::default()).unwrap();
        let x = wave::<T>(2, 12, 0.7).map(|x| T::of(scale) * x);
        let y = wave(1, 12, 0.3);
        model
            .add_examples(&x, &y, &TargetInit::ForwardPass)
            .unwrap();
        model
    };
    let dense = || Box::new(Dense::new(2, 3, Activation::Tanh).unwrap()) as Box<dyn Layer<T>>;
    let found = |mut model: DecoupledCircuit<T>| {
        let phase = || Phase::new(Backprop, Adam::new(1e-3).unwrap()).with_epochs(2);
        let trainer = Trainer::new(phase()).then(phase()).with_measure_every(0);
        let found = trainer.run(&mut model).unwrap().warnings;
        let sizes = found.into_iter().filter_map(|own| match own.warning {
            Warning::Unscaled { size } => Some((size, own.phase, own.epochs)),
            _ => None,
        });
        sizes.collect::<Vec<_>>()
    };
    let root_mean = |model: &DecoupledCircuit<T>| {
        let squares = model
            .z(0)
            .unwrap()
            .iter()
            .map(|x| x.as_f64().powi(2))
            .sum::<f64>();
        (squares / 24.0).sqrt()
    };
    let unit = root_mean(&build(1.0, dense()));
    for (size, told) in [(0.99, false), (1.01, true), (30.0, true)] {
        let model = build(size * Warning::UNIT_SCALE / unit, dense());
        let own = root_mean(&model);
        match &found(model)[..] {
            [] => assert!(!told, "{size}"),
            &[(found, 0, [1, 1])] => {
                assert!(
                    told && (found / own - 1.0).abs() < 1e-6,
                    "{found}, not {own}"
                );
                let warning = Warning::Unscaled { size: found };
                let text = warning.to_string();
                assert!(text.contains(&format!("{found:.3e}")) && text.contains("Standardizer"));
            }
            more => panic!("{more:?}"),
        }
    }
    // An example of weight 0 is not visited, and no reason to warn.
    let mut model = build(1.0, dense());
    let far = DMatrix::from_element(2, 1, T::of(1e3));
    let y = DMatrix::from_element(1, 1, T::zero());
    model
        .add_examples(&far, &y, &TargetInit::ForwardPass)
        .unwrap();
    assert_eq!(found(model.clone()).len(), 1);
    let own = [12];
    model
        .set_example_weights(&Selection::Examples(&own), &[T::zero()])
        .unwrap();
    assert_eq!(found(model), []);
    // A layer of another kind may well scale its inputs.
    let inner: Vec<Box<dyn Layer<T>>> = vec![dense()];
    assert_eq!(
        found(build(1e3, Box::new(Sequential::new(inner).unwrap()))),
        []
    );
}

#[test]
fn inputs_far_from_unit_scale_are_told() {
    unscaled::<f32>();
    unscaled::<f64>();
}

/// A layer with a wrong sign of ∂f/∂z.
#[derive(Debug)]
struct Flipped(Dense);

impl<T: Scalar> Layer<T> for Flipped {
    described_by!(0: T);

    fn forward(
        &self,
        context: &Context<'_>,
        parameters: &[T],
        input: &[T],
        output: &mut [T],
        tape: Option<&mut [T]>,
        work: &mut [T],
    ) {
        self.0
            .forward(context, parameters, input, output, tape, work);
    }

    fn vjp(
        &self,
        at: &Point<'_, T>,
        cotangent: &[T],
        d_input: Write<'_, T>,
        d_parameters: Write<'_, T>,
        work: &mut [T],
    ) {
        let minus: Vec<T> = cotangent.iter().map(|&g| -g).collect();
        self.0.vjp(at, &minus, d_input, Write::Skip, work);
        self.0.vjp(at, cotangent, Write::Skip, d_parameters, work);
    }

    fn curvature_bound(&self, parameters: &[T], work: &mut [T]) -> Option<T> {
        self.0.curvature_bound(parameters, work)
    }
}

/// Uphill steps are undone, or become so short that E cannot tell: both are told, however many there
/// are.
fn uphill<T: Scalar>() {
    for sweeps in [1, 2, 3, 5, 10, 20, 50] {
        let circuit = Circuit::builder()
            .layer(dense(2, 4, Activation::Tanh))
            .layer(Flipped(dense(4, 1, Activation::Identity)))
            .seed(6);
        let mut model =
            DecoupledCircuit::<T>::new(circuit.build().unwrap(), Energy::default()).unwrap();
        let (x, y) = (wave(2, 12, 0.7), wave(1, 12, 1.1));
        model
            .add_examples(&x, &y, &TargetInit::ForwardPass)
            .unwrap();
        let phase = Phase::new(Decoupling::refreshed(ReverseSweep::new(sweeps)), adam(1e-3));
        let report = Trainer::new(phase.with_epochs(1)).run(&mut model).unwrap();
        assert_eq!(report.history[0].solved.unwrap().stuck, 12, "{sweeps}");
        let told = report.warnings.iter().map(|own| own.warning);
        assert!(told.clone().any(|own| own == Warning::Undone), "{sweeps}");
    }
}

#[test]
fn steps_too_short_to_tell_are_told() {
    uphill::<f64>();
    uphill::<f32>();
}

/// A linear circuit's inputs and outputs in another unit: the same steps, and the same warning.
fn raised_in_any_unit<T: Scalar>() {
    for power in [0, -12, -20, -24, 12] {
        let unit = T::of(2f64.powi(power));
        let circuit = Circuit::builder()
            .layer(dense(2, 4, Activation::Identity))
            .layer(dense(4, 3, Activation::Identity))
            .layer(dense(3, 1, Activation::Identity))
            .seed(6);
        let mut model = DecoupledCircuit::new(circuit.build().unwrap(), Energy::default()).unwrap();
        let (x, y) = (wave::<T>(2, 12, 0.7) * unit, wave::<T>(1, 12, 1.1) * unit);
        model
            .add_examples(&x, &y, &TargetInit::ForwardPass)
            .unwrap();
        for (length, expected) in [(4.0, true), (0.01, false)] {
            let solver = SynchronousDescent::new(2, StepSize::Fixed(length)).unwrap();
            let rule = GradientDescent::new(1e-9).unwrap();
            let phase = Phase::new(Decoupling::refreshed(solver), rule).with_epochs(1);
            let report = Trainer::new(phase).run(&mut model.clone()).unwrap();
            let mut told = report.warnings.iter().map(|own| own.warning);
            let found = told.any(|own| own == Warning::Raised);
            assert_eq!(found, expected, "2^{power}, {length}");
        }
    }
}

#[test]
fn a_raised_energy_is_told_in_any_unit() {
    raised_in_any_unit::<f64>();
    raised_in_any_unit::<f32>();
}

/// A run that begins at an exact fit moves by rounding, which is nothing worse.
fn at_rest<T: Scalar>() {
    let random = |seed: u64, k: usize| {
        let mixed = (seed * 131 + k as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    for seed in 0..50 {
        let circuit = Circuit::builder().layer(dense(3, 1, Activation::Identity));
        let mut model = DecoupledCircuit::new(circuit.build().unwrap(), Energy::default()).unwrap();
        let x = DMatrix::from_fn(3, 20, |i, j| T::of(random(seed, 3 * j + i)));
        let fit = [0.3, -0.7, 0.21, 0.1];
        let y = DMatrix::from_fn(1, 20, |_, j| {
            let terms = (0..3).map(|i| fit[i] * x[(i, j)].as_f64());
            T::of(fit[3] + terms.sum::<f64>())
        });
        model
            .add_examples(&x, &y, &TargetInit::ForwardPass)
            .unwrap();
        model.set_parameters(0, &fit.map(T::of)).unwrap();
        let phase = Phase::new(Backprop, GradientDescent::new(0.3).unwrap()).with_epochs(30);
        let phase = phase.with_batch_size(5).unwrap();
        let report = Trainer::new(phase).run(&mut model).unwrap();
        let mut told = report.warnings.iter();
        let worse = told.find(|own| matches!(own.warning, Warning::Worse { .. }));
        assert!(worse.is_none(), "{seed}: {worse:?}");
    }
}

#[test]
fn rounding_is_nothing_worse() {
    at_rest::<f64>();
    at_rest::<f32>();
}

/// Adds to an example's outputs those of the example before it, or subtracts the batch's mean.
#[derive(Debug)]
struct Mixes {
    own: Dense,
    neighbour: bool,
}

impl Layer<f64> for Mixes {
    described_by!(own: f64);

    fn forward(
        &self,
        context: &Context<'_>,
        parameters: &[f64],
        input: &[f64],
        output: &mut [f64],
        tape: Option<&mut [f64]>,
        work: &mut [f64],
    ) {
        self.own
            .forward(context, parameters, input, output, tape, work);
        let dim = Layer::<f64>::output_dim(&self.own);
        if self.neighbour {
            for k in (dim..output.len()).rev() {
                output[k] += 0.3 * output[k - dim];
            }
            return;
        }
        for j in 0..dim {
            let own = output.iter().skip(j).step_by(dim);
            let mean = own.sum::<f64>() / (output.len() / dim) as f64;
            let own = output.iter_mut().skip(j).step_by(dim);
            own.for_each(|x| *x -= mean);
        }
    }

    fn vjp(
        &self,
        at: &Point<'_, f64>,
        cotangent: &[f64],
        d_input: Write<'_, f64>,
        d_parameters: Write<'_, f64>,
        work: &mut [f64],
    ) {
        self.own.vjp(at, cotangent, d_input, d_parameters, work);
    }
}

/// Whichever of two examples the other one changes, and even if some are alike.
#[test]
fn mixed_examples_are_told_wherever_they_are() {
    for (neighbour, alike) in [(false, 0), (false, 9), (true, 0), (true, 9)] {
        let circuit = Circuit::builder()
            .layer(Mixes {
                own: dense(2, 3, Activation::Identity),
                neighbour,
            })
            .layer(dense(3, 1, Activation::Identity))
            .seed(2);
        let mut model = DecoupledCircuit::new(circuit.build().unwrap(), Energy::default()).unwrap();
        let mut x: DMatrix<f64> = wave(2, 12, 0.7);
        for column in 12 - alike..12 {
            let first = x.column(0).into_owned();
            x.set_column(column, &first);
        }
        model
            .add_examples(&x, &wave(1, 12, 1.1), &TargetInit::ForwardPass)
            .unwrap();
        let phase = Phase::new(Backprop, adam(1e-3)).with_epochs(1);
        let report = Trainer::new(phase).run(&mut model).unwrap();
        let mut told = report.warnings.iter().map(|own| own.warning);
        let found = told.any(|own| own == Warning::Mixes { layer: 0 });
        assert!(found, "{neighbour}, {alike}");
    }
}
