//! The edges of the toolbox: numbers that nearly overflow, parts that do not fit together, steps
//! that fail half-way. Each is a typed error that changes nothing, or the right number.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use layerwise::decoupled::{Selection, TargetInit};
use layerwise::diagnostics::Diagnostics;
use layerwise::energy::{All, Energy, LocalProblem};
use layerwise::error::Quantity;
use layerwise::kernel::Write;
use layerwise::layer::{Activation, Context, Dense, ParameterGroup, Point, Scratch, Shape};
use layerwise::loss::{
    Gaussian, Huber, Pair, Poisson, PseudoHuber, SoftmaxCrossEntropy, SquaredError,
    WeightedSquaredError,
};
use layerwise::nalgebra::DMatrix;
use layerwise::optimizer::{Adam, AdamW, GradientDescent, Optimizer, RmsProp, Step};
use layerwise::rand::Rng;
use layerwise::schedule::Schedule;
use layerwise::state::State;
use layerwise::target_solver::{ReverseSweep, StepSize, SynchronousDescent};
use layerwise::training::{
    Backprop, Decoupling, Phase, Scheme, StopReason, Stopping, Targets, Trainer, Visit, ZStep,
};
use layerwise::{Circuit, DecoupledCircuit, Error, Layer, Loss, Scalar};

fn dense(input: usize, output: usize, activation: Activation) -> Dense {
    Dense::new(input, output, activation).unwrap()
}

fn model_from<T: Scalar>(
    circuit: Result<Circuit<T>, Error>,
    energy: Energy<T>,
) -> Result<DecoupledCircuit<T>, Error> {
    DecoupledCircuit::new(circuit?, energy)
}

/// Widths 2, 3, 1 with six examples.
fn model_of<T: Scalar>(loss: impl Loss<T> + 'static) -> DecoupledCircuit<T> {
    let builder = Circuit::builder()
        .layer(dense(2, 3, Activation::Tanh))
        .layer(dense(3, 1, Activation::Identity));
    let mut model = model_from(builder.build(), Energy::new(loss)).unwrap();
    let x = DMatrix::from_fn(2, 6, |i, j| T::of((i + 2 * j) as f64 / 6.0 - 1.0));
    let y = DMatrix::from_fn(1, 6, |_, j| T::of(j as f64 / 3.0));
    let init = TargetInit::NoisyForwardPass { std: 0.3, seed: 1 };
    model.add_examples(&x, &y, &init).unwrap();
    model
}

/// θ, z and μ, bit for bit.
fn state<T: Scalar>(model: &DecoupledCircuit<T>) -> Vec<u64> {
    let circuit = model.circuit();
    let depth = circuit.depth();
    let parameters = (0..depth).flat_map(|t| circuit.parameters(t).to_vec());
    let targets = (1..depth).flat_map(|t| model.z(t).unwrap().iter().copied().collect::<Vec<T>>());
    let all = parameters
        .chain(targets)
        .chain(model.terms().penalties().to_vec());
    all.map(|v| v.as_f64().to_bits()).collect()
}

/// The error of a run that changes nothing.
fn refused<T: Scalar>(mut model: DecoupledCircuit<T>, phase: Phase<T>) -> Error {
    let before = state(&model);
    let error = Trainer::new(phase.with_epochs(3))
        .run(&mut model)
        .unwrap_err()
        .error;
    assert!(state(&model) == before, "{error}");
    error
}

/// The Poisson loss has no curvature bound, which the sweep finds out when the targets are set.
#[test]
fn a_visit_that_fails_leaves_the_targets_as_they_were() {
    let rule = || Adam::new(0.01).unwrap();
    let sweep = || ReverseSweep::new(1);
    for batch in [2, 6] {
        for scheme in [
            Decoupling::persistent(sweep()),
            Decoupling::refreshed(sweep()),
            Decoupling::residual(sweep()),
        ] {
            let error = refused(
                model_of::<f64>(Poisson),
                Phase::new(scheme, rule()).with_batch_size(batch).unwrap(),
            );
            assert!(
                matches!(error, Error::NoCurvatureBound { layer: 1, .. }),
                "{error}"
            );
        }
        // The targets have moved when θ's step overflows.
        let far = || GradientDescent::new(1e300).unwrap();
        let joint = Decoupling::joint(GradientDescent::new(0.1).unwrap());
        let sweep = || ReverseSweep::new(1);
        for phase in [
            Phase::new(Decoupling::persistent(sweep()), far()),
            Phase::new(Decoupling::refreshed(sweep()), far()),
            Phase::new(Decoupling::residual(sweep()), far()),
            Phase::new(
                Decoupling::persistent(sweep())
                    .with_multipliers(1.0)
                    .unwrap(),
                far(),
            ),
            Phase::new(joint, far()),
        ] {
            let growing = phase
                .with_penalty_schedule(Schedule::geometric(4.0).unwrap().with_warm_up(2))
                .unwrap();
            let error = refused(
                model_of::<f32>(SquaredError),
                growing.with_batch_size(batch).unwrap(),
            );
            assert!(matches!(error, Error::NonFinite { step: 0, .. }), "{error}");
        }
    }
}

/// A rule that puts the weights where one example's prediction overflows.
#[derive(Debug)]
struct Jump;

impl Optimizer<f32> for Jump {
    fn slots(&self) -> usize {
        0
    }

    fn update(&self, _: Step, values: &mut [f32], _: &[f32], _: &mut [f32]) {
        values.fill(1e38);
    }
}

/// The end of a phase brings the targets of all examples up to date, or of none.
#[test]
fn an_end_that_fails_leaves_all_targets_as_they_were() {
    let layer = || dense(1, 1, Activation::Identity).without_bias();
    let circuit = Circuit::<f32>::builder()
        .layer(layer())
        .layer(layer())
        .build();
    let mut model = model_from(circuit, Energy::default()).unwrap();
    // Beyond the first block that is evaluated at once.
    let x = DMatrix::from_fn(1, 1500, |_, j| if j == 1400 { 10.0 } else { 1e-30 });
    // Targets beside the forward pass, so that bringing some of them up to date would show.
    let given = TargetInit::Given(vec![DMatrix::from_element(1, 1500, 0.25)]);
    model
        .add_examples(&x, &DMatrix::zeros(1, 1500), &given)
        .unwrap();
    let sweep = || {
        let step = StepSize::Fixed(0.1);
        ReverseSweep::new(1).with_step(step).unwrap()
    };
    for scheme in [
        Decoupling::residual(sweep()),
        Decoupling::refreshed(sweep()),
    ] {
        let mut model = model.clone();
        let phase = Phase::new(scheme, Jump).with_epochs(1);
        let trainer = Trainer::new(phase).with_measure_every(0);
        let error = trainer.run(&mut model).unwrap_err().error;
        let expected = matches!(
            error,
            Error::NonFinite {
                layer: 1,
                step: 1,
                ..
            }
        );
        assert!(expected, "{error}");
        // Parameters are those of the completed step.
        for t in 0..2 {
            assert_eq!(model.circuit().parameters(t), [1e38]);
        }
        assert!(model.z(1).unwrap().iter().all(|&z| z == 0.25));
    }
}

#[test]
fn penalty_schedules_that_cannot_be_are_refused_before_anything_is_done() {
    let schedule = || Schedule::steps(1, 0.1).unwrap();
    let scheme = || Decoupling::persistent(ReverseSweep::new(1));
    let rule = || GradientDescent::new(0.1).unwrap();
    // μ vanishes in f32 by the 46th visit of the second phase's hundred.
    let phase = |epochs| Phase::new(scheme(), rule()).with_epochs(epochs);
    let mut model = model_of::<f32>(SquaredError);
    let before = state(&model);
    let trainer =
        Trainer::new(phase(2)).then(phase(100).with_penalty_schedule(schedule()).unwrap());
    let error = trainer.run(&mut model).unwrap_err().error;
    let option = "penalty μ under its schedule";
    assert!(
        matches!(error, Error::InvalidOption { option: o, value: 0.0, .. } if o == option),
        "{error}"
    );
    assert!(state(&model) == before);
    // Where μ has no part a schedule of it would be ignored.
    let growing = phase_of(rule()).with_penalty_schedule(Schedule::geometric(10.0).unwrap());
    assert_eq!(
        growing.unwrap_err(),
        Error::Combination {
            what: "a penalty schedule",
            reason: "the scheme does not use μ, or requires μ = 1",
        }
    );
    let nan = Stopping::Objective { at_most: f64::NAN };
    let error = phase_of(rule()).with_stopping(nan).unwrap_err();
    assert!(error.to_string().contains("at_most is NaN"), "{error}");
}

fn phase_of(rule: GradientDescent) -> Phase<f64> {
    Phase::new(Backprop, rule)
}

/// A share above 1 would let residuals grow from visit to visit.
#[test]
fn shares_stay_below_one() {
    let scheduled = |keep, schedule: Schedule| {
        let solver: ZStep<f64> = ZStep::Solver(Arc::new(ReverseSweep::new(1)));
        Decoupling::new(Targets::Residual { keep, schedule }, solver)
    };
    let linear = |end| Schedule::linear(end).unwrap();
    assert!(scheduled(0.5, linear(2.0)).is_ok());
    for (keep, schedule) in [
        (0.5, linear(3.0)),
        (1.0, Schedule::geometric(1.5).unwrap()),
        (0.1, Schedule::steps(5, 1.1).unwrap()),
    ] {
        let error = scheduled(keep, schedule).unwrap_err();
        assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
    }
    for end in [-0.1, f64::NAN, f64::INFINITY] {
        assert!(matches!(
            Schedule::linear(end),
            Err(Error::InvalidOption { .. })
        ));
    }
}

/// A scheme that wraps another and forgets to begin it.
#[derive(Debug)]
struct Careless<S>(S);

impl<S: Scheme<f64>> Scheme<f64> for Careless<S> {
    fn visit(&self, state: &mut State<f64>, visit: &mut Visit<'_, f64>) -> Result<f64, Error> {
        self.0.visit(state, visit)
    }
}

#[test]
fn a_scheme_that_was_not_begun_says_so() {
    let model = || model_of::<f64>(SquaredError);
    let rule = || GradientDescent::new(0.1).unwrap();
    let errors = [
        refused(
            model(),
            Phase::new(Careless(Decoupling::residual(ReverseSweep::new(1))), rule()),
        ),
        refused(
            model(),
            Phase::new(Careless(Decoupling::joint(rule())), rule()),
        ),
    ];
    for error in errors {
        assert_eq!(
            error,
            Error::Length {
                what: "parts of the scheme's state".into(),
                expected: 3,
                found: 0
            }
        );
    }
}

/// A scheme that wraps another and begins it on a circuit without hidden layers.
#[derive(Debug)]
struct Elsewhere<S>(S);

impl<S: Scheme<f64>> Scheme<f64> for Elsewhere<S> {
    fn start(&self, model: &mut DecoupledCircuit<f64>) -> Result<State<f64>, Error> {
        let builder = Circuit::builder().layer(dense(2, 1, Activation::Identity));
        let mut other = model_from(builder.build(), Energy::default())?;
        let (x, y) = (DMatrix::zeros(2, 6), DMatrix::zeros(1, 6));
        assert_eq!(model.examples().len(), x.ncols());
        other.add_examples(&x, &y, &TargetInit::ForwardPass)?;
        self.0.start(&mut other)
    }

    fn visit(&self, state: &mut State<f64>, visit: &mut Visit<'_, f64>) -> Result<f64, Error> {
        self.0.visit(state, visit)
    }
}

#[test]
fn a_scheme_that_was_begun_on_another_circuit_says_so() {
    let rule = || GradientDescent::new(0.1).unwrap();
    let residual = Elsewhere(Decoupling::residual(ReverseSweep::new(1)));
    let joint = Elsewhere(Decoupling::joint(rule().with_momentum(0.5).unwrap()));
    for phase in [Phase::new(residual, rule()), Phase::new(joint, rule())] {
        assert_eq!(
            refused(model_of::<f64>(SquaredError), phase),
            Error::Length {
                what: "arrays by layer in the scheme's state".into(),
                expected: 1,
                found: 0
            }
        );
    }
}

/// The workspace of another problem of the same shapes: nothing of that problem is used.
#[test]
fn workspaces_of_other_problems_do_no_harm() {
    let (plain, curved) = (
        dense(2, 2, Activation::Identity),
        dense(2, 2, Activation::Gelu),
    );
    let parameters = [0.5, -0.3, 0.2, 0.9, 0.1, 0.0];
    let learned = Gaussian::learned(2.0, 0.1).unwrap();
    let with_precision = [&parameters[..], &[0.7, 0.2]].concat();
    let (input, target) = ([0.4, -0.6], [0.3, 0.7]);
    let problem = |layer, parameters, loss| {
        LocalProblem::<f64>::new(layer, parameters, loss, 1.0, &input, &target).unwrap()
    };
    let first = problem(&plain, &parameters, &SquaredError);
    let others = [
        problem(&plain, &parameters, &SoftmaxCrossEntropy),
        problem(&plain, &with_precision, &learned),
        problem(&curved, &parameters, &SquaredError),
    ];
    for other in others {
        let (mut workspace, mut fresh) = (first.workspace(), other.workspace());
        first.linearize(&mut workspace);
        let products = |workspace| {
            let mut at = other.linearize(workspace);
            let (mut tangent, mut d_input) = ([0.0; 2], [0.0; 2]);
            at.jvp(Some(&[1.0, 0.0]), None, &mut tangent).unwrap();
            at.vjp(&[1.0, 0.0], Write::Set(&mut d_input), Write::Skip)
                .unwrap();
            (at.prediction().to_vec(), tangent, d_input)
        };
        assert_eq!(products(&mut workspace), products(&mut fresh));
        first.evaluate(All, &mut workspace);
        let gradients = other.gradients();
        let evaluation = other.evaluate(All, &mut workspace);
        assert_eq!(evaluation.energy(), gradients.energy);
        assert_eq!(evaluation.parameter_gradient(), gradients.parameters);
    }
}

/// A layer of one unit without maths, but with groups of one's choice.
#[derive(Debug)]
struct Odd(Vec<ParameterGroup>);

impl Layer<f64> for Odd {
    fn input_shape(&self) -> Shape {
        1.into()
    }

    fn output_shape(&self) -> Shape {
        1.into()
    }

    fn parameters(&self) -> Vec<ParameterGroup> {
        self.0.clone()
    }

    fn initialize(&self, _: &mut [f64], _: &mut dyn Rng) {}

    fn scratch(&self, _: usize) -> Scratch {
        Scratch::NONE
    }

    fn forward(
        &self,
        _: &Context<'_>,
        _: &[f64],
        input: &[f64],
        output: &mut [f64],
        _: Option<&mut [f64]>,
        _: &mut [f64],
    ) {
        output.copy_from_slice(input);
    }

    fn vjp(
        &self,
        _: &Point<'_, f64>,
        g: &[f64],
        d_input: Write<'_, f64>,
        d_parameters: Write<'_, f64>,
        _: &mut [f64],
    ) {
        d_input.each(|i| g[i]);
        d_parameters.each(|_| 0.0);
    }

    fn jvp(
        &self,
        _: &Point<'_, f64>,
        _: Option<&[f64]>,
        _: Option<&[f64]>,
        tangent: &mut [f64],
        _: &mut [f64],
    ) {
        tangent.fill(0.0);
    }
}

/// [`SquaredError`] with groups of one's choice, whose gradient it forgets.
#[derive(Debug, Clone)]
struct Forgetful(Vec<ParameterGroup>);

impl Loss<f64> for Forgetful {
    fn parameters(&self, _: usize) -> Vec<ParameterGroup> {
        self.0.clone()
    }

    fn initialize(&self, _: usize, parameters: &mut [f64]) {
        parameters.fill(3.0);
    }

    fn free_target(&self) -> bool {
        true
    }

    fn scratch(&self, _: usize, _: usize) -> usize {
        0
    }

    valued_by!(SquaredError);
}

fn group(shape: &[usize], range: [usize; 2]) -> ParameterGroup {
    let mut group = ParameterGroup::new("odd", shape).decaying();
    group.range = range[0]..range[1];
    group
}

#[test]
fn groups_that_do_not_tile_are_refused_in_layers_and_losses() {
    let backwards = vec![group(&[2], [0, 2]), group(&[0], [2, 0])];
    let endless = vec![group(&[usize::MAX], [0, usize::MAX])];
    let of_layer = |groups| Circuit::builder().layer(Odd(groups)).build().unwrap_err();
    let of_loss = |groups| {
        let builder = Circuit::builder().layer(dense(1, 1, Activation::Identity));
        model_from(builder.build(), Energy::new(Forgetful(groups))).unwrap_err()
    };
    for error in [of_layer(backwards.clone()), of_loss(backwards)] {
        assert!(
            matches!(
                error,
                Error::ParameterLayout {
                    start: 2,
                    end: 0,
                    ..
                }
            ),
            "{error}"
        );
    }
    for error in [of_layer(endless.clone()), of_loss(endless.clone())] {
        assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    }
    let layer = dense(1, 1, Activation::Identity);
    let loss = Forgetful(endless);
    let error = LocalProblem::new(&layer, &[1.0; 2], &loss, 1.0, &[1.0], &[1.0]);
    assert!(
        matches!(error, Err(Error::Length { found: 2, .. })),
        "{error:?}"
    );
}

/// The gradient that a loss does not give is zero, whatever stood in memory, and R comes on top of it.
#[test]
fn a_forgotten_gradient_is_zero() {
    let circuit = Circuit::builder()
        .layer(dense(1, 1, Activation::Identity))
        .build();
    let energy = Energy::new(Forgetful(vec![group(&[1], [0, 1])]))
        .with_parameter_regularizer(layerwise::regularizer::Regularizer::l2(1.0).unwrap());
    let mut model = model_from(circuit, energy).unwrap();
    let one = DMatrix::from_element(1, 1, 1.0);
    model
        .add_examples(&one, &one, &TargetInit::ForwardPass)
        .unwrap();
    let problem = model.local_problem(0, 0..1).unwrap();
    let mut workspace = problem.workspace();
    for _ in 0..3 {
        let evaluation = problem.evaluate(All, &mut workspace);
        assert_eq!(evaluation.parameter_gradient()[2], 3.0);
    }
}

/// Squares of these gradients overflow; their direction does not.
#[test]
fn long_gradients_are_clipped_all_the_same() {
    let layer = dense(2, 1, Activation::Identity).without_bias();
    let circuit = Circuit::<f64>::builder().layer(layer).build();
    let mut model = model_from(circuit, Energy::default()).unwrap();
    model.set_parameters(0, &[0.0, 0.0]).unwrap();
    let x = DMatrix::from_column_slice(2, 1, &[3.0, 4.0]);
    let far = DMatrix::from_element(1, 1, 1e154);
    model
        .add_examples(&x, &far, &TargetInit::ForwardPass)
        .unwrap();
    // ½ y² is still a number, (5 y)² is not.
    let phase = Phase::new(Backprop, GradientDescent::new(1.0).unwrap())
        .with_max_gradient_norm(1.0)
        .unwrap();
    Trainer::new(phase.with_epochs(1)).run(&mut model).unwrap();
    let found = model.circuit().parameters(0);
    assert!(
        (found[0] - 0.6).abs() < 1e-12 && (found[1] - 0.8).abs() < 1e-12,
        "{found:?}"
    );
}

/// So are gradients whose norm, or whose factor, is no number of the scalar: the step has the length
/// of the rate, not 0.
#[test]
fn the_longest_gradients_are_clipped_too() {
    fn check<T: Scalar>(size: f64, weight: f64, norm: f64) {
        let layer = dense(9, 1, Activation::Identity).without_bias();
        let circuit = Circuit::<T>::builder().layer(layer).build();
        let energy = Energy::new(Poisson);
        let mut model = model_from(circuit, energy).unwrap();
        model.set_parameters(0, &[T::zero(); 9]).unwrap();
        // L = e^0 − y·0 = 1 is small, ∂L/∂θ = (1 − y) x huge.
        let x = DMatrix::from_element(9, 1, T::of(size));
        let y = DMatrix::from_element(1, 1, T::of(weight));
        model
            .add_examples(&x, &y, &TargetInit::ForwardPass)
            .unwrap();
        let phase = Phase::new(Backprop, GradientDescent::new(1.0).unwrap())
            .with_max_gradient_norm(norm)
            .unwrap();
        Trainer::new(phase.with_epochs(1)).run(&mut model).unwrap();
        for found in model.circuit().parameters(0) {
            let found = 3.0 * found.as_f64() / norm;
            assert!(
                (found - 1.0).abs() < 1e-5,
                "{size:e}: {found} of the length"
            );
        }
    }
    check::<f64>(1.0, 1.7e308, 1.0);
    check::<f64>(1e150, 1e158, 1e-3);
    check::<f32>(1e19, 1e19, 1.0);
    check::<f32>(1.0, 3e38, 1e-12);
    check::<f32>(1e-5, 1e25, 1e-20);
}

/// A raw column of 10¹², whose squared gradients are no f32.
#[test]
fn raw_columns_train_in_f32() {
    let rules: [Box<dyn Optimizer<f32>>; 3] = [
        Box::new(Adam::new(0.01).unwrap()),
        Box::new(AdamW::new(Adam::new(0.01).unwrap())),
        Box::new(RmsProp::new(0.01).unwrap()),
    ];
    for rule in rules {
        let name = format!("{rule:?}");
        let layer = dense(1, 1, Activation::Identity).without_bias();
        let circuit = Circuit::<f32>::builder().layer(layer).build();
        let mut model = model_from(circuit, Energy::default()).unwrap();
        model.set_parameters(0, &[1.0]).unwrap();
        let x = DMatrix::from_fn(1, 8, |_, i| 1e12 * (1.0 + i as f32));
        let y = DMatrix::from_fn(1, 8, |_, i| i as f32);
        model
            .add_examples(&x, &y, &TargetInit::ForwardPass)
            .unwrap();
        let before = model.composed_loss().unwrap();
        let phase = Phase::new(Backprop, rule).with_epochs(300);
        Trainer::new(phase).run(&mut model).unwrap();
        let after = model.composed_loss().unwrap();
        assert!(after < 0.01 * before, "{name}: {before:e} to {after:e}");
    }
}

#[test]
fn options_hold_in_the_scalar_too() {
    // 1/w would overflow.
    let mut model = model_of::<f32>(SquaredError);
    let error = model
        .set_example_weights(&Selection::Columns(0..1), &[1e-42])
        .unwrap_err();
    assert!(
        matches!(
            error,
            Error::InvalidOption {
                option: "example weight",
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(model.example_weights(), None);
    model
        .set_example_weights(&Selection::Examples(&[]), &[])
        .unwrap();
    assert_eq!(model.example_weights(), None);
    // δ would vanish, or overflow.
    for delta in [1e-60, 1e60] {
        let layer = || dense(1, 1, Activation::Tanh);
        let huber = Energy::new(Huber::new(delta).unwrap());
        let pseudo = Energy::new(PseudoHuber::new(delta).unwrap());
        for energy in [huber, pseudo] {
            let circuit = Circuit::<f32>::builder().layer(layer()).build();
            let error = model_from(circuit, energy).unwrap_err();
            assert!(
                matches!(error, Error::InvalidOption { value, .. } if value == delta),
                "{error}"
            );
        }
        let wide = Circuit::<f64>::builder().layer(layer()).build();
        assert!(model_from(wide, Energy::new(Huber::new(delta).unwrap())).is_ok());
    }
    // An ε that vanishes would make 0/0 of a value without gradient.
    let (mut x, mut state) = ([1.0_f32], [0.0; 2]);
    let adam = Adam::new(0.1).unwrap().with_epsilon(1e-60).unwrap();
    adam.update(Step::new(1, 1.0), &mut x, &[0.0], &mut state);
    let rms = RmsProp::new(0.1).unwrap().with_epsilon(1e-60).unwrap();
    rms.update(Step::new(1, 1.0), &mut x, &[0.0], &mut state[..1]);
    assert_eq!(x, [1.0]);
    // A decay of more than everything takes everything, and no more.
    let decay = AdamW::new(Adam::new(1000.0).unwrap());
    decay.update(Step::new(1, 1.0), &mut x, &[0.0], &mut [0.0; 2]);
    assert_eq!(x, [0.0]);
}

#[test]
fn pseudo_huber_reaches_far() {
    let value = |delta: f64, r: f32| {
        let mut value = [0.0];
        let target = [r];
        let at = Pair::new(1, &target, &[0.0]);
        let loss = PseudoHuber::new(delta).unwrap();
        loss.evaluate(&at, &mut value, Write::Skip, Write::Skip, &mut []);
        f64::from(value[0])
    };
    let exact = |delta: f64, r: f64| r * r / (1.0 + 1f64.hypot(r / delta));
    for (delta, r) in [
        (1e20, 1e19),
        (3e38, 1.0),
        (1.0, 1e30),
        (1e-30, 1.0),
        (1e10, 1e-10),
    ] {
        let (found, expected) = (value(delta, r), exact(delta, r.into()));
        assert!(
            (found - expected).abs() <= 1e-6 * expected,
            "δ = {delta}, r = {r}: {found}"
        );
    }
}

/// Where nothing is curved there is nowhere to go: no step, not ∞ · 0.
#[test]
fn targets_without_curvature_stay() {
    let none = || WeightedSquaredError::new(vec![0.0]).unwrap();
    let layer = || dense(1, 1, Activation::Identity);
    let circuit = Circuit::<f64>::builder().layer(layer()).layer(layer());
    let energy = Energy::new(none()).with_hidden_loss(none());
    let mut model = model_from(circuit.build(), energy).unwrap();
    let one = DMatrix::from_element(1, 1, 1.0);
    let given = TargetInit::Given(vec![DMatrix::from_element(1, 1, 0.3)]);
    model.add_examples(&one, &one, &given).unwrap();
    let bounded = StepSize::Bounded { margin: 1.0 };
    model
        .solve_targets(&ReverseSweep::new(2), &Selection::All)
        .unwrap();
    let synchronous = SynchronousDescent::new(2, bounded).unwrap();
    model.solve_targets(&synchronous, &Selection::All).unwrap();
    assert_eq!(model.z(1).unwrap()[(0, 0)], 0.3);
    assert_eq!(Pair::<f64>::new(0, &[], &[]).examples(), 0);
}

/// Takes finite gradients alone.
#[derive(Debug)]
struct Strict;

impl Optimizer<f64> for Strict {
    fn slots(&self) -> usize {
        0
    }

    fn update(&self, _step: Step, values: &mut [f64], gradient: &[f64], _state: &mut [f64]) {
        assert!(gradient.iter().all(|g| g.is_finite()), "{gradient:?}");
        values.fill(0.0);
    }
}

#[test]
fn a_gradient_that_overflows_never_reaches_the_rule_of_the_parameters() {
    let circuit = Circuit::builder()
        .layer(dense(1, 1, Activation::Identity))
        .layer(dense(1, 1, Activation::Identity));
    let mut model = model_from(circuit.build(), Energy::default()).unwrap();
    // E = ½ 10³⁰⁰, ∂E/∂W_0 = 10¹⁵⁰ · 10²⁰⁰.
    model.set_parameters(0, &[1e-50, 0.0]).unwrap();
    model.set_parameters(1, &[1.0, 0.0]).unwrap();
    let input = DMatrix::from_element(1, 1, 1e200);
    model
        .add_examples(&input, &DMatrix::zeros(1, 1), &TargetInit::ForwardPass)
        .unwrap();
    let error = Trainer::new(Phase::new(Backprop, Strict))
        .run(&mut model)
        .unwrap_err();
    let text = error.to_string();
    assert!(text.contains("parameter gradient of layer 0"), "{text}");
    assert_eq!(model.circuit().parameters(1), [1.0, 0.0]);
}

/// Every ℓ_t fits, or θ and z do, but not what is asked for.
#[test]
fn a_result_beyond_the_scalar_is_an_error() {
    let layer = || dense(1, 1, Activation::Identity).without_bias();
    let circuit = Circuit::<f64>::builder()
        .layer(layer())
        .layer(layer())
        .layer(layer());
    let mut model = model_from(circuit.build(), Energy::default()).unwrap();
    for t in 0..3 {
        model.set_parameters(t, &[1.0]).unwrap();
    }
    // Three times ½ (1.3e154)² = 8.4e307.
    let size = 1.3e154;
    let given = vec![DMatrix::from_element(1, 1, size), DMatrix::zeros(1, 1)];
    let (x, y) = (DMatrix::zeros(1, 1), DMatrix::from_element(1, 1, size));
    model
        .add_examples(&x, &y, &TargetInit::Given(given))
        .unwrap();
    assert!(
        model
            .energies()
            .unwrap()
            .iter()
            .all(|energy| energy.is_finite())
    );
    let refused = |result: Result<f64, Error>, quantity| match result {
        Err(Error::Overflow {
            quantity: found, ..
        }) => assert_eq!(found, quantity),
        other => panic!("{other:?}"),
    };
    refused(model.energy(), Quantity::Energy);
    let all = Selection::All;
    refused(
        model.gradients(&all).map(|own| own.energy),
        Quantity::Energy,
    );

    // From ∞ no step would be uphill.
    let before = state(&model);
    let checked = ReverseSweep::new(1)
        .with_step(StepSize::Checked(0.1))
        .unwrap();
    let solved = model.solve_targets(&checked, &all);
    assert!(
        matches!(
            solved,
            Err(Error::NonFinite {
                quantity: Quantity::Energy,
                ..
            })
        ),
        "{solved:?}"
    );
    let phases = [
        Phase::new(
            Decoupling::weights_only(),
            GradientDescent::new(1e-9).unwrap(),
        ),
        Phase::new(
            Decoupling::joint(GradientDescent::new(1e-9).unwrap()),
            GradientDescent::new(1e-9).unwrap(),
        ),
    ];
    for phase in phases {
        let error = Trainer::new(phase).run(&mut model).unwrap_err().error;
        assert!(
            matches!(
                error,
                Error::NonFinite {
                    quantity: Quantity::Energy,
                    ..
                }
            ),
            "{error:?}"
        );
    }
    assert_eq!(state(&model), before);

    let far = DMatrix::from_element(1, 1, 1e200);
    model.set_targets(2, &all, &far).unwrap();
    assert!(matches!(
        model.energies(),
        Err(Error::Overflow { layer: 1, .. })
    ));
    let loss = model.composed_loss_of(&far, &y);
    refused(loss, Quantity::ComposedLoss);
    model.set_parameters(0, &[1e200]).unwrap();
    refused(model.predict(&far).map(|y| y[0]), Quantity::Prediction);
    assert_eq!(
        model.predict(&DMatrix::from_element(1, 1, 1e100)).unwrap()[0],
        1e300
    );

    let model = model_of::<f64>(SquaredError);
    assert!(
        model.energy().is_ok() && model.gradients(&all).is_ok() && model.backprop(&all).is_ok()
    );
}

/// Objectives of several batches whose sum is no number, though their mean is.
#[test]
fn the_mean_of_large_objectives_is_a_number() {
    let circuit = Circuit::builder().layer(dense(1, 1, Activation::Identity));
    let mut model = model_from::<f64>(circuit.build(), Energy::new(SquaredError)).unwrap();
    model.set_parameters(0, &[0.0, 0.0]).unwrap();
    // ½·(1.2e154)² = 7.2e307.
    let y = DMatrix::from_element(1, 4, 1.2e154);
    model
        .add_examples(&DMatrix::zeros(1, 4), &y, &TargetInit::ForwardPass)
        .unwrap();
    let phase = Phase::new(Backprop, GradientDescent::new(1e-300).unwrap());
    let phase = phase.with_batch_size(1).unwrap().with_epochs(1);
    let report = Trainer::new(phase).run(&mut model).unwrap();
    let objective = report.history[0].objective;
    assert!((objective / 7.2e307 - 1.0).abs() < 1e-12, "{objective}");
}

#[test]
fn a_gap_beyond_the_scalar_is_an_error() {
    // A Huber loss of 1e20 fits f32; the gap's square does not, and need not.
    let circuit = Circuit::<f32>::builder()
        .layer(dense(1, 1, Activation::Identity))
        .layer(dense(1, 1, Activation::Identity));
    let energy = Energy::default().with_hidden_loss(Huber::new(1.0).unwrap());
    let mut model = model_from(circuit.build(), energy).unwrap();
    let one = |value| DMatrix::from_element(1, 1, value);
    let init = TargetInit::Given(vec![one(1e20)]);
    model.add_examples(&one(1.0), &one(1.0), &init).unwrap();
    model.set_parameters(1, &[0.0, 0.0]).unwrap();
    for gap in [1e20, 1e38, 1e15] {
        model.set_targets(1, &Selection::All, &one(gap)).unwrap();
        assert!((model.gap().unwrap()[0] / gap - 1.0).abs() < 1e-6);
        let report = model.diagnose(&Diagnostics::new()).unwrap();
        assert!((report.gap / gap - 1.0).abs() < 1e-6, "{report}");
    }
    model.set_parameters(0, &[0.0, 0.0]).unwrap();
    model.set_targets(1, &Selection::All, &one(1e-30)).unwrap();
    assert!((model.gap().unwrap()[0] / 1e-30 - 1.0).abs() < 1e-6);
    model.set_parameters(0, &[-3e38, 0.0]).unwrap();
    model.set_targets(1, &Selection::All, &one(3e38)).unwrap();
    let overflow = Error::Overflow {
        quantity: Quantity::Prediction,
        layer: 1,
    };
    assert_eq!(model.gap(), Err(overflow));
}

/// Squared error that refuses targets after so many checks.
#[derive(Debug)]
struct Fickle(AtomicUsize);

impl Loss<f64> for Fickle {
    fn check_target(&self, _: usize, _: &[f64]) -> Result<(), Error> {
        match self.0.fetch_sub(1, Ordering::SeqCst) {
            1 => Err(Error::NothingCompared),
            _ => Ok(()),
        }
    }

    valued_by!(SquaredError);
}

#[test]
fn a_check_that_fails_during_validation_is_an_error() {
    // Building, adding and the check before the run ask three times; then every epoch asks once.
    for checks in 4..7 {
        let mut model = model_of::<f64>(Fickle(AtomicUsize::new(checks)));
        let (x, y) = (DMatrix::zeros(2, 1), DMatrix::zeros(1, 1));
        let rule = GradientDescent::new(0.1).unwrap();
        let trainer = Trainer::new(Phase::new(Backprop, rule).with_epochs(9)).with_validation(x, y);
        let failed = trainer.run(&mut model).unwrap_err();
        assert_eq!(failed.error, Error::NothingCompared, "{checks}");
        let report = failed.report;
        assert_eq!(report.stop, StopReason::Failed, "{checks}");
        assert_eq!(report.phases[0].steps, checks as u64 - 3, "{checks}");
    }
}

/// Where every validation loss overflows, the parameters of the first epoch are the best.
#[test]
fn validation_losses_that_overflow_keep_the_first_epoch() {
    let layer = Dense::new(1, 1, Activation::Identity)
        .unwrap()
        .without_bias();
    let circuit = Circuit::<f32>::builder().layer(layer).build().unwrap();
    let mut model = DecoupledCircuit::new(circuit, Energy::default()).unwrap();
    model.set_parameters(0, &[3.0]).unwrap();
    let one = DMatrix::from_element(1, 1, 1.0);
    model
        .add_examples(&one, &one, &TargetInit::ForwardPass)
        .unwrap();
    let stopping = Stopping::Validation {
        patience: 5,
        improvement: 0.0,
    };
    let phase = Phase::new(Backprop, GradientDescent::new(2.5).unwrap());
    let phase = phase.with_epochs(4).with_stopping(stopping).unwrap();
    let far = DMatrix::from_element(1, 1, 1e20_f32);
    let trainer = Trainer::new(phase).with_validation(far.clone(), far);
    let report = trainer.run(&mut model).unwrap();
    assert!(
        report
            .history
            .iter()
            .all(|own| own.validation_loss == Some(f32::INFINITY))
    );
    assert_eq!(report.phases[0].best_epoch, Some(1));
    // W = 3 − 2.5 (3 − 1).
    assert_eq!(model.circuit().parameters(0), [-2.0]);
}
