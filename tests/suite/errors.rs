//! Every error that a caller can cause: its variant, the numbers in its message, and that the
//! object it came from is bit for bit what it was before.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::ControlFlow;

use layerwise::decoupled::{Projection, Selection, TargetInit};
use layerwise::energy::{Energy, Linearization, LocalProblem};
use layerwise::error::Quantity;
use layerwise::gradcheck::GradCheck;
use layerwise::init::Initializer;
use layerwise::kernel::Write;
use layerwise::layer::{
    Activation, Context, Dense, ParameterGroup, Point, Scratch, Sequential, Shape,
};
use layerwise::loss::{Huber, Pair, Quantile, SoftmaxCrossEntropy, SquaredError};
use layerwise::optimizer::{Adam, GradientDescent, Optimizer};
use layerwise::parameter_solver::LeastSquares;
use layerwise::schedule::Schedule;
use layerwise::target_solver::{
    ErrorDescent, RedBlack, ReverseSweep, StepSize, SynchronousDescent, TargetSolver,
};
use layerwise::training::{
    Backprop, Decoupling, Event, FixedPrediction, Phase, Scheme, Session, StopReason, Stopping,
    Trainer, WStep, ZIl,
};
use layerwise::{Circuit, DecoupledCircuit, Error, Layer};
use nalgebra::DMatrix;
use rand::Rng;

/// ẑ = slope · z, with whatever is wrong with it.
#[derive(Debug, Clone)]
struct Odd {
    dims: (usize, usize),
    slope: f64,
    /// What the VJP takes for the slope.
    claimed_slope: f64,
    groups: Vec<ParameterGroup>,
    initial: f64,
    differentiable: bool,
    only_positive: bool,
}

fn odd(input: usize, output: usize) -> Odd {
    Odd {
        dims: (input, output),
        slope: 1.0,
        claimed_slope: 1.0,
        groups: Vec::new(),
        initial: 0.0,
        differentiable: true,
        only_positive: false,
    }
}

fn group(name: &str, shape: &[usize], range: std::ops::Range<usize>) -> ParameterGroup {
    let mut group = ParameterGroup::new(name, shape);
    group.range = range;
    group
}

impl Layer<f64> for Odd {
    fn input_shape(&self) -> Shape {
        self.dims.0.into()
    }

    fn output_shape(&self) -> Shape {
        self.dims.1.into()
    }

    fn parameters(&self) -> Vec<ParameterGroup> {
        self.groups.clone()
    }

    fn initialize(&self, parameters: &mut [f64], _rng: &mut dyn Rng) {
        parameters.fill(self.initial);
    }

    fn scratch(&self, _batch: usize) -> Scratch {
        Scratch::NONE
    }

    fn check_input(&self, input: &[f64]) -> Result<(), Error> {
        match input.iter().position(|x| *x < 0.0) {
            Some(i) if self.only_positive => Err(Error::InputDomain {
                column: i / self.dims.0,
                reason: format!("{} is negative", input[i]),
            }),
            _ => Ok(()),
        }
    }

    fn input_differentiable(&self) -> bool {
        self.differentiable
    }

    fn forward(
        &self,
        _context: &Context<'_>,
        _parameters: &[f64],
        input: &[f64],
        output: &mut [f64],
        _tape: Option<&mut [f64]>,
        _work: &mut [f64],
    ) {
        for (o, z) in output.iter_mut().zip(input) {
            *o = self.slope * z;
        }
    }

    fn vjp(
        &self,
        _at: &Point<'_, f64>,
        cotangent: &[f64],
        d_input: Write<'_, f64>,
        d_parameters: Write<'_, f64>,
        _work: &mut [f64],
    ) {
        d_input.each(|i| self.claimed_slope * cotangent[i]);
        d_parameters.each(|_| 0.0);
    }

    fn jvp(
        &self,
        _at: &Point<'_, f64>,
        v_input: Option<&[f64]>,
        _v_parameters: Option<&[f64]>,
        tangent: &mut [f64],
        _work: &mut [f64],
    ) {
        for (i, t) in tangent.iter_mut().enumerate() {
            *t = v_input.map_or(0.0, |v| self.slope * v[i]);
        }
    }
}

fn dense(input: usize, output: usize) -> Dense {
    Dense::new(input, output, Activation::Tanh).unwrap()
}

fn circuit() -> Circuit<f64> {
    let builder = Circuit::builder().layer(dense(3, 4)).layer(dense(4, 2));
    builder.layer(dense(2, 2)).build().unwrap()
}

/// The default energy on a circuit, without examples.
fn decoupled(circuit: Circuit<f64>) -> DecoupledCircuit<f64> {
    DecoupledCircuit::new(circuit, Energy::default()).unwrap()
}

fn empty() -> DecoupledCircuit<f64> {
    decoupled(circuit())
}

fn inputs() -> DMatrix<f64> {
    DMatrix::from_fn(3, 5, |i, j| (i as f64 - j as f64) / 3.0)
}

fn targets() -> DMatrix<f64> {
    DMatrix::from_fn(2, 5, |i, j| (i * j) as f64 / 8.0)
}

/// Five examples with the numbers 0, 1, 2, 4, 5: number 3 was removed.
fn model() -> DecoupledCircuit<f64> {
    let mut model = empty();
    let init = TargetInit::RandomNormal { std: 0.5, seed: 1 };
    model.add_examples(&inputs(), &targets(), &init).unwrap();
    let one = |m: &DMatrix<f64>| m.columns(0, 1).into_owned();
    model
        .add_examples(&one(&inputs()), &one(&targets()), &init)
        .unwrap();
    model.remove_examples(&[3]).unwrap();
    model
}

fn classifier() -> DecoupledCircuit<f64> {
    let builder = Circuit::builder().layer(dense(3, 4)).layer(dense(4, 2));
    DecoupledCircuit::new(builder.build().unwrap(), Energy::new(SoftmaxCrossEntropy)).unwrap()
}

/// Parameters, z_0, …, z_T, penalties and the ids of the examples, bit by bit.
fn state(model: &DecoupledCircuit<f64>) -> u64 {
    let mut hash = DefaultHasher::new();
    let circuit = model.circuit();
    for t in 0..circuit.depth() {
        for p in circuit.parameters(t) {
            p.to_bits().hash(&mut hash);
        }
    }
    for t in 0..=circuit.depth() {
        for z in model.z(t).unwrap().iter() {
            z.to_bits().hash(&mut hash);
        }
    }
    for p in model.terms().penalties() {
        p.to_bits().hash(&mut hash);
    }
    model.examples().hash(&mut hash);
    hash.finish()
}

/// The error of an operation on a model, which must leave it as it was.
fn on<R>(
    mut model: DecoupledCircuit<f64>,
    operation: impl FnOnce(&mut DecoupledCircuit<f64>) -> Result<R, Error>,
) -> Result<R, Error> {
    let before = state(&model);
    let result = operation(&mut model);
    assert_eq!(state(&model), before, "the model was changed");
    result
}

fn with(matrix: DMatrix<f64>, row: usize, column: usize, value: f64) -> DMatrix<f64> {
    let mut matrix = matrix;
    matrix[(row, column)] = value;
    matrix
}

fn given(z1: DMatrix<f64>, z2: DMatrix<f64>) -> TargetInit<f64> {
    TargetInit::Given(vec![z1, z2])
}

fn add(
    inputs: &DMatrix<f64>,
    targets: &DMatrix<f64>,
    init: &TargetInit<f64>,
) -> Result<std::ops::Range<u64>, Error> {
    on(model(), |m| m.add_examples(inputs, targets, init))
}

fn solve(solver: &dyn TargetSolver<f64>, selection: &Selection<'_>) -> Result<(), Error> {
    on(model(), |m| m.solve_targets(solver, selection).map(|_| ()))
}

struct Row {
    cause: &'static str,
    how: fn() -> Error,
    fits: fn(&Error) -> bool,
    text: &'static [&'static str],
}

macro_rules! row {
    ($cause:literal, $how:expr, $variant:pat, $text:expr) => {
        Row {
            cause: $cause,
            how: || $how,
            fits: |error| matches!(error, $variant),
            text: &$text,
        }
    };
}

fn error<R>(result: Result<R, Error>) -> Error {
    result.err().expect("an error")
}

type Builder = layerwise::circuit::CircuitBuilder<f64>;

fn build(describe: impl FnOnce(Builder) -> Builder) -> Error {
    error(describe(Circuit::builder()).build())
}

/// The error of an energy on a circuit of two layers.
fn describe(describe: impl FnOnce(Energy<f64>) -> Energy<f64>) -> Error {
    let builder = Circuit::builder().layer(dense(3, 4)).layer(dense(4, 2));
    let circuit = builder.build().unwrap();
    error(DecoupledCircuit::new(circuit, describe(Energy::default())))
}

fn phase() -> Phase<f64> {
    Phase::new(Backprop, GradientDescent::new(0.1).unwrap())
}

#[rustfmt::skip] // A table.
fn construction() -> Vec<Row> {
    vec![
        row!(
            "a circuit without layers",
            build(|b| b),
            Error::NoLayers { what: "circuit" },
            ["circuit", "none was given"]
        ),
        row!(
            "a unit without layers",
            error(Sequential::<f64>::new(vec![])),
            Error::NoLayers { what: "sequential layer" },
            ["sequential layer"]
        ),
        row!(
            "no inputs",
            error(Dense::new(0, 2, Activation::Tanh)),
            Error::ZeroDimension { .. },
            ["input dimension", "is 0"]
        ),
        row!(
            "no outputs",
            error(Dense::new(2, 0, Activation::Tanh)),
            Error::ZeroDimension { .. },
            ["output dimension", "is 0"]
        ),
        row!(
            "a custom layer without inputs",
            build(|b| b.layer(odd(0, 2))),
            Error::ZeroDimension { .. },
            ["input dimension"]
        ),
        row!(
            "a custom layer without outputs",
            build(|b| b.layer(odd(2, 0))),
            Error::ZeroDimension { .. },
            ["output dimension"]
        ),
        row!(
            "a loss of no dimension",
            error(GradCheck::new().loss::<f64>(&SquaredError, &Pair::new(0, &[], &[]))),
            Error::ZeroDimension { .. },
            ["dimension of a loss"]
        ),
        row!(
            "weights beyond memory",
            error(Dense::new(1 << 40, 1 << 41, Activation::Tanh)),
            Error::TooLarge { rows: 0x200_0000_0000, columns: 0x100_0000_0000, .. },
            ["2199023255552 x 1099511627776"]
        ),
        row!(
            "the largest dimension",
            error(Dense::new(usize::MAX, 1, Activation::Tanh)),
            Error::TooLarge { rows: 1, columns: usize::MAX, .. },
            ["1 x 18446744073709551615"]
        ),
        row!(
            "weights that no memory holds",
            build(|b| b.layer(dense(1 << 29, 1 << 29))),
            Error::TooLarge { columns: 1, .. },
            ["parameter vector", "288230376688582656 x 1"]
        ),
        row!(
            "a batch that no memory holds",
            error(model().memory(usize::MAX)),
            Error::TooLarge { rows: 11, columns: usize::MAX, .. },
            ["a batch", "11 x 18446744073709551615"]
        ),
        row!(
            "layers that do not fit",
            build(|b| b.layer(dense(3, 4)).layer(dense(5, 2))),
            Error::LayerMismatch { layer: 1, .. },
            ["layer 1", "dimension 5", "layer 0", "dimension 4"]
        ),
        row!(
            "layers of a unit that do not fit",
            error(Sequential::<f64>::new(vec![
                Box::new(dense(1, 2)),
                Box::new(dense(2, 6)),
                Box::new(dense(7, 1)),
            ])),
            Error::LayerMismatch { layer: 2, .. },
            ["layer 2 of the sequential layer", "dimension 7", "layer 1", "dimension 6"]
        ),
        row!(
            "an undifferentiable layer behind another",
            build(|b| b.layer(dense(3, 4)).layer(Odd { differentiable: false, ..odd(4, 4) })),
            Error::InputNotDifferentiable { layer: 1 },
            ["layer 1", "first"]
        ),
        row!(
            "an undifferentiable layer inside a unit",
            error(Sequential::<f64>::new(vec![
                Box::new(dense(3, 4)),
                Box::new(Odd { differentiable: false, ..odd(4, 4) }),
            ])),
            Error::InputNotDifferentiable { layer: 1 },
            ["layer 1"]
        ),
        row!(
            "parameter groups with a gap",
            build(|b| b.layer(dense(3, 2)).layer(Odd {
                groups: vec![group("a", &[2, 3], 0..6), group("b", &[2], 7..9)],
                ..odd(2, 2)
            })),
            Error::ParameterLayout { layer: 1, start: 7, end: 9, expected: 6, size: 2, .. },
            ["layer 1", "'b'", "7..9", "at 6", "2 values"]
        ),
        row!(
            "a parameter group of another size than its shape",
            build(|b| b.layer(Odd { groups: vec![group("a", &[2, 3], 0..5)], ..odd(2, 2) })),
            Error::ParameterLayout { layer: 0, start: 0, end: 5, expected: 0, size: 6, .. },
            ["layer 0", "'a'", "0..5", "6 values"]
        ),
        row!(
            "a layer that draws NaN",
            build(|b| b.layer(dense(3, 2)).layer(Odd {
                groups: vec![group("a", &[2], 0..2)],
                initial: f64::NAN,
                ..odd(2, 2)
            })),
            Error::NonFiniteData { quantity: Quantity::Parameter, layer: 1, row: 0, .. },
            ["parameters of layer 1", "NaN", "row 0"]
        ),
        row!(
            "a hidden loss of fixed target",
            describe(|e| e.with_hidden_losses(vec![Box::new(SoftmaxCrossEntropy)])),
            Error::FixedTargetLoss { layer: 1, .. },
            ["SoftmaxCrossEntropy", "hidden layer 1"]
        ),
        row!(
            "too few hidden losses",
            describe(|e| e.with_hidden_losses(vec![])),
            Error::Length { expected: 1, found: 0, .. },
            ["hidden losses", "expected length 1", "found 0"]
        ),
        row!(
            "too many penalties",
            describe(|e| e.with_penalties(vec![1.0, 2.0, 3.0])),
            Error::Length { expected: 1, found: 3, .. },
            ["penalties", "expected length 1", "found 3"]
        ),
        row!(
            "a penalty of 0",
            describe(|e| e.with_penalty(0.0)),
            Error::InvalidOption { value: 0.0, .. },
            ["penalty", "is 0", "above 0"]
        ),
        row!(
            "a negative penalty",
            describe(|e| e.with_penalties(vec![-2.5])),
            Error::InvalidOption { value: -2.5, .. },
            ["penalty", "-2.5"]
        ),
        row!(
            "an infinite penalty",
            describe(|e| e.with_penalty(f64::INFINITY)),
            Error::InvalidOption { .. },
            ["penalty", "inf"]
        ),
        row!(
            "a penalty of NaN",
            describe(|e| e.with_penalty(f64::NAN)),
            Error::InvalidOption { .. },
            ["penalty", "NaN"]
        ),
    ]
}

#[rustfmt::skip] // A table.
fn options() -> Vec<Row> {
    vec![
        row!(
            "a leaky ReLU that grows",
            error(Dense::new(1, 1, Activation::LeakyRelu { slope: 1.5 })),
            Error::InvalidOption { option: "LeakyRelu::slope", .. },
            ["1.5", "0..=1"]
        ),
        row!(
            "a leaky ReLU of NaN",
            error(Dense::new(1, 1, Activation::LeakyRelu { slope: f64::NAN })),
            Error::InvalidOption { option: "LeakyRelu::slope", .. },
            ["NaN"]
        ),
        row!(
            "weights of infinite value",
            error(dense(1, 1).with_weights(Initializer::Constant { value: f64::INFINITY })),
            Error::InvalidOption { option: "Initializer::Constant::value", .. },
            ["inf"]
        ),
        row!(
            "weights of no variance",
            error(dense(1, 1).with_weights(Initializer::VarianceScaling {
                scale: 0.0,
                fan: layerwise::init::Fan::In,
                distribution: layerwise::init::Distribution::Normal,
            })),
            Error::InvalidOption { option: "Initializer::VarianceScaling::scale", .. },
            ["is 0"]
        ),
        row!(
            "a bias of gain NaN",
            error(dense(1, 1).with_bias(Initializer::Orthogonal { gain: f64::NAN })),
            Error::InvalidOption { option: "Initializer::Orthogonal::gain", .. },
            ["NaN"]
        ),
        row!(
            "a rate of 0",
            error(GradientDescent::new(0.0)),
            Error::InvalidOption { option: "GradientDescent::rate", .. },
            ["is 0"]
        ),
        row!(
            "momentum of 1",
            error(GradientDescent::new(0.1).unwrap().with_momentum(1.0)),
            Error::InvalidOption { option: "GradientDescent::momentum", .. },
            ["is 1", "at least 0 and below 1"]
        ),
        row!(
            "a negative rate",
            error(Adam::new(-0.25)),
            Error::InvalidOption { option: "Adam::rate", .. },
            ["-0.25"]
        ),
        row!(
            "an infinite rate",
            error(Adam::new(f64::INFINITY)),
            Error::InvalidOption { option: "Adam::rate", .. },
            ["inf"]
        ),
        row!(
            "beta1 of 1",
            error(Adam::new(0.1).unwrap().with_betas(1.0, 0.9)),
            Error::InvalidOption { option: "Adam::beta1", .. },
            ["is 1"]
        ),
        row!(
            "a negative beta2",
            error(Adam::new(0.1).unwrap().with_betas(0.9, -0.5)),
            Error::InvalidOption { option: "Adam::beta2", .. },
            ["-0.5"]
        ),
        row!(
            "epsilon of 0",
            error(Adam::new(0.1).unwrap().with_epsilon(0.0)),
            Error::InvalidOption { option: "Adam::epsilon", .. },
            ["is 0"]
        ),
        row!(
            "a step of 0",
            error(SynchronousDescent::<f64>::new(1, StepSize::Fixed(0.0))),
            Error::InvalidOption { option: "StepSize::Fixed", .. },
            ["is 0"]
        ),
        row!(
            "a step of NaN",
            error(ReverseSweep::new(1).with_step(StepSize::Fixed(f64::NAN))),
            Error::InvalidOption { option: "StepSize::Fixed", .. },
            ["NaN"]
        ),
        row!(
            "a margin of 2",
            error(ReverseSweep::new(1).with_step(StepSize::Bounded { margin: 2.0 })),
            Error::InvalidOption { option: "StepSize::Bounded::margin", .. },
            ["is 2", "below 2"]
        ),
        row!(
            "bounds never computed",
            error(ReverseSweep::new(1).with_bound_every(0)),
            Error::InvalidOption { option: "ReverseSweep::bound_every", .. },
            ["is 0"]
        ),
        row!(
            "no parameter steps",
            error(WStep::<f64>::none().with_steps(0)),
            Error::InvalidOption { option: "WStep::steps", .. },
            ["is 0"]
        ),
        row!(
            "batches of 0",
            error(phase().with_batch_size(0)),
            Error::InvalidOption { option: "Phase::batch_size", .. },
            ["is 0", "at least 1"]
        ),
        row!(
            "0 threads",
            error(Trainer::new(phase()).with_threads(0)),
            Error::InvalidOption { option: "Trainer::threads", .. },
            ["is 0", "at least 1"]
        ),
        row!(
            "a cosine that rises",
            error(Schedule::cosine(1.5)),
            Error::InvalidOption { option: "Schedule::cosine's end", .. },
            ["1.5"]
        ),
        row!(
            "a geometric schedule to 0",
            error(Schedule::geometric(0.0)),
            Error::InvalidOption { option: "Schedule::geometric's end", .. },
            ["is 0"]
        ),
        row!(
            "a step that needs a bound which the layer does not give",
            {
                let layers = Circuit::builder().layer(dense(3, 2)).layer(odd(2, 2));
                let mut model = decoupled(layers.build().unwrap());
                model.add_examples(&inputs(), &targets(), &TargetInit::ForwardPass).unwrap();
                error(on(model, |m| m.solve_targets(&ReverseSweep::new(1), &Selection::All)))
            },
            Error::NoCurvatureBound { of: "the layer", layer: 1 },
            ["but layer 1 gives none"]
        ),
        #[cfg(not(feature = "rayon"))]
        row!(
            "threads without their feature",
            error(Trainer::new(phase()).with_threads(2)),
            Error::FeatureDisabled { option: "Trainer::threads", feature: "rayon" },
            ["Trainer::threads", "'rayon'"]
        ),
    ]
}

#[rustfmt::skip] // A table.
fn data() -> Vec<Row> {
    vec![
        row!(
            "inputs of the wrong dimension",
            error(add(&DMatrix::zeros(4, 5), &targets(), &TargetInit::ForwardPass)),
            Error::Shape { expected: (3, 5), found: (4, 5), .. },
            ["inputs", "expected 3 x 5", "found 4 x 5"]
        ),
        row!(
            "inputs of no rows",
            error(circuit().predict(&DMatrix::zeros(0, 5))),
            Error::Shape { expected: (3, 5), found: (0, 5), .. },
            ["found 0 x 5"]
        ),
        row!(
            "targets of the wrong dimension",
            error(add(&inputs(), &DMatrix::zeros(1, 5), &TargetInit::ForwardPass)),
            Error::Shape { expected: (2, 5), found: (1, 5), .. },
            ["targets", "expected 2 x 5", "found 1 x 5"]
        ),
        row!(
            "more inputs than targets",
            error(add(&inputs(), &DMatrix::zeros(2, 4), &TargetInit::ForwardPass)),
            Error::ExampleCount { inputs: 5, targets: 4 },
            ["5 inputs", "4 targets"]
        ),
        row!(
            "fewer inputs than targets",
            error(empty().composed_loss_of(&inputs(), &DMatrix::zeros(2, 6))),
            Error::ExampleCount { inputs: 5, targets: 6 },
            ["5 inputs", "6 targets"]
        ),
        row!(
            "an input of NaN",
            error(add(&with(inputs(), 2, 3, f64::NAN), &targets(), &TargetInit::ForwardPass)),
            Error::NonFiniteData { quantity: Quantity::Input, layer: 0, row: 2, column: 3, .. },
            ["input of layer 0", "NaN", "row 2", "column 3"]
        ),
        row!(
            "an infinite input",
            error(circuit().predict(&with(inputs(), 1, 4, f64::NEG_INFINITY))),
            Error::NonFiniteData { quantity: Quantity::Input, row: 1, column: 4, .. },
            ["-inf", "row 1", "column 4"]
        ),
        row!(
            "an output target of infinity",
            error(add(&inputs(), &with(targets(), 1, 2, f64::INFINITY), &TargetInit::ForwardPass)),
            Error::NonFiniteData { quantity: Quantity::Target, layer: 3, row: 1, column: 2, .. },
            ["target of layer 3", "inf", "row 1", "column 2"]
        ),
        row!(
            "too few auxiliary targets",
            error(add(&inputs(), &targets(), &TargetInit::Given(vec![DMatrix::zeros(4, 5)]))),
            Error::Length { expected: 2, found: 1, .. },
            ["expected length 2", "found 1"]
        ),
        row!(
            "auxiliary targets of the wrong shape",
            error(add(&inputs(), &targets(), &given(DMatrix::zeros(4, 5), DMatrix::zeros(2, 4)))),
            Error::Shape { expected: (2, 5), found: (2, 4), .. },
            ["z_2", "2 x 5", "2 x 4"]
        ),
        row!(
            "an auxiliary target of NaN",
            error(add(
                &inputs(),
                &targets(),
                &given(DMatrix::zeros(4, 5), with(DMatrix::zeros(2, 5), 0, 4, f64::NAN))
            )),
            Error::NonFiniteData { quantity: Quantity::Target, layer: 2, row: 0, column: 4, .. },
            ["target of layer 2", "NaN", "row 0", "column 4"]
        ),
        row!(
            "all auxiliary targets anew, one infinite",
            error(on(model(), |m| m.initialize_targets(&given(
                with(DMatrix::zeros(4, 5), 3, 1, f64::INFINITY),
                DMatrix::zeros(2, 5)
            )))),
            Error::NonFiniteData { quantity: Quantity::Target, layer: 1, row: 3, column: 1, .. },
            ["target of layer 1", "inf"]
        ),
        row!(
            "noise of negative width",
            error(add(&inputs(), &targets(), &TargetInit::NoisyForwardPass { std: -0.5, seed: 0 })),
            Error::InvalidOption { option: "TargetInit::NoisyForwardPass::std", .. },
            ["-0.5"]
        ),
        row!(
            "random targets of width NaN",
            error(on(model(), |m| m
                .initialize_targets(&TargetInit::RandomNormal { std: f64::NAN, seed: 0 }))),
            Error::InvalidOption { option: "TargetInit::RandomNormal::std", .. },
            ["NaN"]
        ),
        row!(
            "targets set for the input",
            error(on(model(), |m| m.set_targets(0, &Selection::All, &inputs()))),
            Error::UnknownLayer { layer: 0, .. },
            ["layer 0", "1 to 2"]
        ),
        row!(
            "targets set for the output",
            error(on(model(), |m| m.set_targets(3, &Selection::All, &targets()))),
            Error::UnknownLayer { layer: 3, .. },
            ["layer 3", "1 to 2"]
        ),
        row!(
            "targets set in the wrong shape",
            error(on(model(), |m| m.set_targets(
                1,
                &Selection::Columns(0..2),
                &DMatrix::zeros(4, 3)
            ))),
            Error::Shape { expected: (4, 2), found: (4, 3), .. },
            ["z_1", "4 x 2", "4 x 3"]
        ),
        row!(
            "targets set to NaN",
            error(on(model(), |m| m.set_targets(
                1,
                &Selection::Columns(0..2),
                &with(DMatrix::zeros(4, 2), 3, 1, f64::NAN)
            ))),
            Error::NonFiniteData { quantity: Quantity::Target, layer: 1, row: 3, column: 1, .. },
            ["target of layer 1", "NaN", "row 3", "column 1"]
        ),
        row!(
            "parameters of no layer",
            error(on(model(), |m| m.set_parameters(3, &[]))),
            Error::UnknownLayer { layer: 3, .. },
            ["layer 3", "0 to 2"]
        ),
        row!(
            "too few parameters",
            error(on(model(), |m| m.set_parameters(1, &[1.0; 9]))),
            Error::Length { expected: 10, found: 9, .. },
            ["parameters of layer 1", "expected length 10", "found 9"]
        ),
        row!(
            "a parameter of NaN",
            error(on(model(), |m| {
                let mut p = [1.0; 10];
                p[7] = f64::NAN;
                m.set_parameters(1, &p)
            })),
            Error::NonFiniteData { quantity: Quantity::Parameter, layer: 1, row: 7, .. },
            ["parameters of layer 1", "NaN", "row 7"]
        ),
        row!(
            "a list of penalties that does not fit",
            error(on(model(), |m| m.set_penalties(&[1.0]))),
            Error::Length { expected: 2, found: 1, .. },
            ["expected length 2", "found 1"]
        ),
        row!(
            "a second penalty below 0",
            error(on(model(), |m| m.set_penalties(&[3.0, -1.0]))),
            Error::InvalidOption { value: -1.0, .. },
            ["-1"]
        ),
        row!(
            "a negative probability",
            error(on(classifier(), |m| {
                let y = DMatrix::from_fn(2, 5, |i, j| match (i, j) {
                    (0, 3) => -0.25,
                    (1, 3) => 1.25,
                    (0, _) => 1.0,
                    _ => 0.0,
                });
                m.add_examples(&inputs(), &y, &TargetInit::ForwardPass)
            })),
            Error::TargetDomain { column: 3, .. },
            ["SoftmaxCrossEntropy", "column 3", "class 0", "-0.25"]
        ),
        row!(
            "probabilities that do not sum to 1",
            error(classifier().composed_loss_of(&inputs(), &DMatrix::from_element(2, 5, 0.375))),
            Error::TargetDomain { column: 0, .. },
            ["column 0", "0.75", "not 1"]
        ),
        row!(
            "an input outside the layer's domain",
            {
                let layer = Odd { only_positive: true, ..odd(3, 3) };
                let built = Circuit::builder().layer(layer).layer(dense(3, 2)).build().unwrap();
                let x = with(DMatrix::zeros(3, 5), 1, 2, -0.5);
                error(on(decoupled(built), |m| {
                    m.add_examples(&x, &targets(), &TargetInit::ForwardPass)
                }))
            },
            Error::InputDomain { column: 2, .. },
            ["column 2", "-0.5"]
        ),
        row!(
            "a projection of nothing",
            error(Projection::fit(&circuit(), &DMatrix::zeros(3, 0), 0)),
            Error::NoExamples { .. },
            ["projected targets"]
        ),
        row!(
            "a projection of other inputs",
            error(Projection::fit(&circuit(), &inputs(), 0).unwrap().apply(&DMatrix::zeros(2, 7))),
            Error::Shape { expected: (3, 7), found: (2, 7), .. },
            ["3 x 7", "2 x 7"]
        ),
    ]
}

// Columns backwards are the cause under test.
#[allow(clippy::reversed_empty_ranges)]
#[rustfmt::skip] // A table.
fn selections() -> Vec<Row> {
    vec![
        row!(
            "the energy of nothing",
            error(empty().energy()),
            Error::NoExamples { .. },
            ["the energy"]
        ),
        row!(
            "the gap of nothing",
            error(empty().gap()),
            Error::NoExamples { .. },
            ["the constraint gap"]
        ),
        row!(
            "the composed loss of nothing",
            error(empty().composed_loss()),
            Error::NoExamples { .. },
            ["the composed loss"]
        ),
        row!(
            "gradients of nothing",
            error(model().gradients(&Selection::Columns(2..2))),
            Error::NoExamples { .. },
            ["gradients"]
        ),
        row!(
            "backprop over nothing",
            error(model().backprop(&Selection::Examples(&[]))),
            Error::NoExamples { .. },
            ["backprop"]
        ),
        row!(
            "a Z-step over nothing",
            error(solve(&ReverseSweep::new(1), &Selection::Examples(&[]))),
            Error::NoExamples { .. },
            ["Z-step"]
        ),
        row!(
            "training on nothing",
            error(on(empty(), |m| Trainer::new(Phase::new(Backprop, Adam::new(0.1).unwrap())).run(m).map_err(Error::from))),
            Error::NoExamples { .. },
            ["training"]
        ),
        row!(
            "an example that was removed",
            error(on(model(), |m| m.remove_examples(&[1, 3]))),
            Error::UnknownExample { example: 3, count: 5 },
            ["example 3", "5 examples"]
        ),
        row!(
            "an example that never was",
            error(model().gradients(&Selection::Examples(&[0, 6]))),
            Error::UnknownExample { example: 6, count: 5 },
            ["example 6"]
        ),
        row!(
            "an example removed twice",
            error(on(model(), |m| m.remove_examples(&[4, 0, 4]))),
            Error::RepeatedExample { example: 4 },
            ["example 4", "twice"]
        ),
        row!(
            "an example selected twice",
            error(solve(&ReverseSweep::new(1), &Selection::Examples(&[5, 2, 5]))),
            Error::RepeatedExample { example: 5 },
            ["example 5"]
        ),
        row!(
            "columns beyond the last",
            error(model().batch(3..6)),
            Error::UnknownColumns { start: 3, end: 6, count: 5 },
            ["3..6", "5 examples"]
        ),
        row!(
            "columns backwards",
            error(model().gradients(&Selection::Columns(4..2))),
            Error::UnknownColumns { start: 4, end: 2, count: 5 },
            ["4..2"]
        ),
        row!(
            "z of no layer",
            error(model().z(4)),
            Error::UnknownLayer { layer: 4, .. },
            ["layer 4", "0 to 3"]
        ),
        row!(
            "the problem of no layer",
            error(model().local_problem(3, 0..2)),
            Error::UnknownLayer { layer: 3, .. },
            ["layer 3", "0 to 2"]
        ),
        row!(
            "the problem of columns beyond the last",
            error(model().local_problem(0, 5..7)),
            Error::UnknownColumns { start: 5, end: 7, count: 5 },
            ["5..7"]
        ),
    ]
}

fn local(parameters: &[f64], weight: f64, input: &[f64], target: &[f64]) -> Error {
    let layer = dense(2, 1);
    error(LocalProblem::new(
        &layer,
        parameters,
        &SquaredError,
        weight,
        input,
        target,
    ))
}

fn product(of: impl FnOnce(&mut Linearization<'_, '_, f64>) -> Result<(), Error>) -> Error {
    let model = model();
    let problem = model.local_problem(0, 0..5).unwrap();
    let mut workspace = problem.workspace();
    error(of(&mut problem.linearize(&mut workspace)))
}

#[rustfmt::skip] // A table.
fn local_problems() -> Vec<Row> {
    vec![
        row!(
            "a local problem with too many parameters",
            local(&[1.0; 4], 1.0, &[0.0; 4], &[0.0; 2]),
            Error::Length { expected: 3, found: 4, .. },
            ["parameters", "length 3", "found 4"]
        ),
        row!(
            "half an example",
            local(&[1.0; 3], 1.0, &[0.0; 5], &[0.0; 2]),
            Error::Length { expected: 6, found: 5, .. },
            ["input", "length 6", "found 5"]
        ),
        row!(
            "more targets than inputs",
            local(&[1.0; 3], 1.0, &[0.0; 4], &[0.0; 3]),
            Error::ExampleCount { inputs: 2, targets: 3 },
            ["2 inputs", "3 targets"]
        ),
        row!(
            "a local problem of nothing",
            local(&[1.0; 3], 1.0, &[], &[]),
            Error::NoExamples { .. },
            ["a local problem"]
        ),
        row!(
            "a weight of NaN",
            local(&[1.0; 3], f64::NAN, &[0.0; 2], &[0.0]),
            Error::InvalidOption { .. },
            ["NaN"]
        ),
        row!(
            "a local parameter of NaN",
            local(&[1.0, f64::NAN, 1.0], 1.0, &[0.0; 2], &[0.0]),
            Error::NonFiniteData { quantity: Quantity::Parameter, row: 1, .. },
            ["row 1"]
        ),
        row!(
            "a local input of infinity",
            local(&[1.0; 3], 1.0, &[0.0, 0.0, 0.0, f64::INFINITY], &[0.0; 2]),
            Error::NonFiniteData { quantity: Quantity::Input, row: 1, column: 1, .. },
            ["inf"]
        ),
        row!(
            "a local target of NaN",
            local(&[1.0; 3], 1.0, &[0.0; 4], &[0.0, f64::NAN]),
            Error::NonFiniteData { quantity: Quantity::Target, row: 0, column: 1, .. },
            ["NaN"]
        ),
        row!(
            "a JVP of a short direction",
            product(|at| at.jvp(Some(&[0.0; 14]), None, &mut [0.0; 20])),
            Error::Length { expected: 15, found: 14, .. },
            ["v_input", "15", "14"]
        ),
        row!(
            "a JVP of a long parameter direction",
            product(|at| at.jvp(None, Some(&[0.0; 17]), &mut [0.0; 20])),
            Error::Length { expected: 16, found: 17, .. },
            ["v_parameters", "16", "17"]
        ),
        row!(
            "a JVP into too little",
            product(|at| at.jvp(None, None, &mut [0.0; 19])),
            Error::Length { expected: 20, found: 19, .. },
            ["tangent", "20", "19"]
        ),
        row!(
            "a VJP of a short cotangent",
            product(|at| at.vjp(&[0.0; 3], Write::Skip, Write::Skip)),
            Error::Length { expected: 20, found: 3, .. },
            ["cotangent", "20", "3"]
        ),
        row!(
            "a VJP into too much",
            product(|at| at.vjp(&[0.0; 20], Write::Set(&mut [0.0; 16]), Write::Skip)),
            Error::Length { expected: 15, found: 16, .. },
            ["d_input", "15", "16"]
        ),
        row!(
            "a VJP into too few parameters",
            product(|at| at.vjp(&[0.0; 20], Write::Skip, Write::Add(&mut [0.0; 15]))),
            Error::Length { expected: 16, found: 15, .. },
            ["d_parameters", "16", "15"]
        ),
        row!(
            "a gradient check of half an example",
            error(GradCheck::new().layer(&dense(2, 1), &[0.0; 3], &[0.0; 3])),
            Error::Length { expected: 4, found: 3, .. },
            ["input", "4", "3"]
        ),
        row!(
            "a gradient check of too few parameters",
            error(GradCheck::new().layer(&dense(2, 1), &[0.0; 2], &[0.0; 2])),
            Error::Length { expected: 3, found: 2, .. },
            ["parameters", "3", "2"]
        ),
        row!(
            "a gradient check of nothing",
            error(GradCheck::new().layer(&dense(2, 1), &[0.0; 3], &[])),
            Error::NoExamples { .. },
            ["gradient check"]
        ),
        row!(
            "a wrong derivative",
            {
                let layer = Odd { slope: 2.0, claimed_slope: 3.0, ..odd(2, 2) };
                error(GradCheck::new().layer(&layer, &[], &[1.0, 0.5]).unwrap().require(1e-3))
            },
            Error::WrongDerivative { .. },
            ["by vjp", "analytic", "numeric", "tolerance 1e-3"]
        ),
    ]
}

/// Memory of another problem was an error of its products; now it is made to fit.
#[test]
fn products_in_the_memory_of_another_problem_are_the_same() {
    let model = model();
    let problem = model.local_problem(0, 0..5).unwrap();
    let product = |mut workspace| {
        let mut at = problem.linearize(&mut workspace);
        let mut d_input = [0.0; 15];
        at.vjp(&[1.0; 20], Write::Set(&mut d_input), Write::Skip)
            .unwrap();
        (at.prediction().to_vec(), d_input)
    };
    let other = model.local_problem(2, 0..5).unwrap();
    let mut used = other.workspace();
    other.linearize(&mut used);
    let expected = product(problem.workspace());
    assert_eq!(expected.0.len(), 20);
    assert!(expected.1.iter().any(|&d| d != 0.0));
    assert_eq!(product(used), expected);
}

#[test]
fn every_cause_has_its_error_and_changes_nothing() {
    let tables = [
        construction(),
        options(),
        data(),
        selections(),
        local_problems(),
    ];
    for row in tables.iter().flatten() {
        let error = (row.how)();
        assert!((row.fits)(&error), "{}: {error:?}", row.cause);
        let message = error.to_string();
        for text in row.text {
            assert!(
                message.contains(text),
                "{}: '{text}' is not in '{message}'",
                row.cause
            );
        }
    }
}

/// A linear circuit of depth 3 whose forward pass is finite, with examples.
fn linear() -> DecoupledCircuit<f64> {
    let layer = |i, o| Dense::new(i, o, Activation::Identity).unwrap();
    let builder = Circuit::builder().layer(layer(3, 4)).layer(layer(4, 4));
    let mut model = decoupled(builder.layer(layer(4, 2)).build().unwrap());
    let init = TargetInit::NoisyForwardPass { std: 0.5, seed: 1 };
    model.add_examples(&inputs(), &targets(), &init).unwrap();
    model
}

fn is_finite(model: &DecoupledCircuit<f64>) -> bool {
    let depth = model.circuit().depth();
    (0..depth).all(|t| model.circuit().parameters(t).iter().all(|p| p.is_finite()))
        && (0..=depth).all(|t| model.z(t).unwrap().iter().all(|z| z.is_finite()))
}

/// Trains until the numbers overflow: the error names a layer and the step, and the model is that
/// of a session which has made as many visits.
fn overflow<S: Scheme<f64> + 'static>(
    name: &str,
    scheme: fn() -> S,
    rule: impl Optimizer<f64> + Clone + 'static,
) {
    let start = linear();
    let mut model = start.clone();
    let result = Trainer::new(Phase::new(scheme(), rule.clone()).with_epochs(50)).run(&mut model);
    let error = result
        .map_err(Error::from)
        .err()
        .unwrap_or_else(|| panic!("{name}: no error"));
    let Error::NonFinite {
        quantity,
        layer,
        step,
    } = error
    else {
        panic!("{name}: {error}");
    };
    assert!(step > 0, "{name}: {error}");
    let message = error.to_string();
    // The composed loss is that of all layers.
    let place = match quantity {
        Quantity::ComposedLoss => "composed loss became".into(),
        _ => format!("layer {layer}"),
    };
    for text in [place, format!("step {step}")] {
        assert!(message.contains(&text), "{name}: {message}");
    }
    assert!(
        is_finite(&model),
        "{name}: non-finite state after '{error}'"
    );
    let trainer = Trainer::new(Phase::new(scheme(), rule).with_epochs(50));
    let mut session = Session::new(&trainer, start).unwrap();
    let mut visits = 0;
    while visits < step {
        let event = session.advance().unwrap();
        visits += u64::from(matches!(event, Some(Event::Visit(_))));
    }
    assert_eq!(session.report().steps, step, "{name}");
    let before = session.model();
    assert_eq!(state(&model), state(before), "{name}: after '{error}'");
}

fn sweep() -> ReverseSweep {
    ReverseSweep::new(1)
        .with_step(StepSize::Fixed(0.1))
        .unwrap()
}

fn synchronous() -> SynchronousDescent<f64> {
    SynchronousDescent::new(2, StepSize::Fixed(0.1)).unwrap()
}

fn joint() -> Decoupling<f64> {
    Decoupling::joint(GradientDescent::new(0.1).unwrap())
}

/// At this rate the first step gives parameters that are huge but finite.
fn huge_rate() -> GradientDescent {
    GradientDescent::new(1e200).unwrap()
}

#[test]
fn backprop_that_overflows_stops_at_the_last_completed_step() {
    overflow("backprop", || Backprop, huge_rate());
}

#[test]
fn joint_descent_that_overflows_stops_at_the_last_completed_step() {
    overflow("joint", joint, huge_rate());
}

#[test]
fn weights_alone_that_overflow_stop_at_the_last_completed_step() {
    overflow("weights only", Decoupling::weights_only, huge_rate());
}

#[test]
fn persistent_targets_that_overflow_stop_at_the_last_completed_step() {
    overflow("sweep", || Decoupling::persistent(sweep()), huge_rate());
    overflow(
        "synchronous",
        || Decoupling::persistent(synchronous()),
        huge_rate(),
    );
}

#[test]
fn refreshed_targets_that_overflow_stop_at_the_last_completed_step() {
    overflow("sweep", || Decoupling::refreshed(sweep()), huge_rate());
    overflow(
        "synchronous",
        || Decoupling::refreshed(synchronous()),
        huge_rate(),
    );
}

/// When their phase ends, refreshed targets become the forward pass; where that overflows, they stay.
#[test]
fn the_end_of_a_phase_that_overflows_changes_no_target() {
    let start = linear();
    let mut model = start.clone();
    let phase = Phase::new(Decoupling::refreshed(sweep()), huge_rate()).with_epochs(1);
    // Unmeasured: whether the composed loss would be ∞ or NaN depends on how products are summed.
    let trainer = Trainer::new(phase).with_measure_every(0);
    let error = trainer.run(&mut model).unwrap_err().error;
    let expected = Error::NonFinite {
        quantity: Quantity::Prediction,
        layer: 2,
        step: 1,
    };
    assert_eq!(error, expected);
    for t in 1..3 {
        assert_eq!(model.z(t), start.z(t));
    }
    // The step before stands.
    assert!(is_finite(&model));
    assert_ne!(model.circuit().parameters(2), start.circuit().parameters(2));
}

#[test]
fn a_parameter_step_to_infinity_is_not_made() {
    // The gradient is finite, the step is not.
    let mut model = linear();
    model.set_parameters(2, &[1e3; 10]).unwrap();
    let before = state(&model);
    let rule = GradientDescent::new(1e308).unwrap();
    let result = Trainer::new(Phase::new(Backprop, rule).with_epochs(1))
        .run(&mut model)
        .map_err(Error::from);
    assert!(matches!(result, Err(Error::NonFinite { .. })), "{result:?}");
    assert_eq!(state(&model), before);
}

#[test]
fn a_target_step_to_infinity_is_not_made() {
    for solver in [
        &SynchronousDescent::new(1, StepSize::Fixed(1e308)).unwrap() as &dyn TargetSolver<f64>,
        &ReverseSweep::new(1)
            .with_step(StepSize::Fixed(1e308))
            .unwrap(),
    ] {
        let mut model = linear();
        model.set_parameters(2, &[1e3; 10]).unwrap();
        let before = state(&model);
        let result = model.solve_targets(solver, &Selection::All);
        assert!(
            matches!(result, Err(Error::NonFinite { .. })),
            "{solver:?}: {result:?}"
        );
        assert_eq!(state(&model), before, "{solver:?}");
    }
}

/// Parameters so large that their curvature overflows have diverged: no option is to blame.
#[test]
fn a_curvature_bound_that_overflows_names_its_layer() {
    let bounded = StepSize::Bounded { margin: 1.0 };
    let solvers: [Box<dyn TargetSolver<f64>>; 4] = [
        Box::new(ReverseSweep::new(1)),
        Box::new(RedBlack::new(1)),
        Box::new(ErrorDescent::new(1)),
        Box::new(SynchronousDescent::new(1, bounded).unwrap()),
    ];
    for solver in solvers {
        for t in [1, 2] {
            let mut builder = Circuit::<f64>::builder();
            for _ in 0..3 {
                let layer = Dense::new(1, 1, Activation::Identity).unwrap();
                builder = builder.layer(layer.without_bias());
            }
            let circuit = builder.build().unwrap();
            let mut model = DecoupledCircuit::new(circuit, Energy::default()).unwrap();
            // All predictions are 0.
            let zero = DMatrix::zeros(1, 2);
            model
                .add_examples(&zero, &zero, &TargetInit::ForwardPass)
                .unwrap();
            model.set_parameters(t, &[1e200]).unwrap();
            let error = model.solve_targets(&solver, &Selection::All).unwrap_err();
            let expected = Error::NonFinite {
                quantity: Quantity::CurvatureBound,
                layer: t,
                step: 0,
            };
            assert_eq!(error, expected, "{solver:?}");
            let text = format!("curvature bound of layer {t} became non-finite");
            assert!(error.to_string().contains(&text), "{error}");
        }
    }
}

#[test]
fn a_joint_step_to_infinity_moves_neither_targets_nor_parameters() {
    let gentle = || GradientDescent::new(1e-3).unwrap();
    let steep = || GradientDescent::new(1e308).unwrap();
    for (targets, parameters) in [(steep(), gentle()), (gentle(), steep())] {
        let mut model = linear();
        model.set_parameters(2, &[1e3; 10]).unwrap();
        let before = state(&model);
        let trainer =
            Trainer::new(Phase::new(Decoupling::joint(targets), parameters).with_epochs(1));
        let result = trainer.run(&mut model).map_err(Error::from);
        assert!(
            matches!(result, Err(Error::NonFinite { step: 0, .. })),
            "{targets:?}, {parameters:?}: {result:?}"
        );
        assert_eq!(state(&model), before, "{targets:?}, {parameters:?}");
    }
}

#[test]
fn a_sweep_that_overflows_half_way_is_not_made() {
    // z_2's gradient is about 1e200, z_1's behind the steep layer overflows.
    let steep = Odd {
        slope: 1e200,
        claimed_slope: 1e200,
        ..odd(2, 2)
    };
    let linear = |i, o| Dense::new(i, o, Activation::Identity).unwrap();
    let builder = Circuit::builder().layer(linear(3, 2)).layer(steep);
    let mut model = decoupled(builder.layer(linear(2, 2)).build().unwrap());
    let init = TargetInit::RandomNormal { std: 0.5, seed: 1 };
    model.add_examples(&inputs(), &targets(), &init).unwrap();
    let before = state(&model);
    let error = model.solve_targets(&sweep(), &Selection::All).unwrap_err();
    let expected = Error::NonFinite {
        quantity: Quantity::TargetGradient,
        layer: 1,
        step: 0,
    };
    assert_eq!(error, expected);
    assert_eq!(state(&model), before);
}

#[test]
fn a_callback_stops_the_run() {
    let mut model = model();
    let rule = GradientDescent::new(0.1).unwrap();
    let mut seen = Vec::new();
    let report = Trainer::new(Phase::new(Backprop, rule).with_epochs(10))
        .run_with(&mut model, |record, _| {
            seen.push(record.epoch);
            match record.epoch {
                4 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        })
        .unwrap();
    assert_eq!((report.stop, report.steps), (StopReason::Callback, 4));
    assert_eq!(seen, [1, 2, 3, 4]);
    assert_eq!(report.history.len(), 4);
}

#[test]
fn empty_data_is_no_panic() {
    let none = |rows| DMatrix::<f64>::zeros(rows, 0);
    let inits = [
        TargetInit::ForwardPass,
        TargetInit::NoisyForwardPass { std: 1.0, seed: 0 },
        TargetInit::RandomNormal { std: 1.0, seed: 0 },
        TargetInit::Projected { seed: 0 },
        given(none(4), none(2)),
    ];
    for init in inits {
        let mut model = model();
        let before = state(&model);
        // The next example gets number 6.
        assert_eq!(
            model.add_examples(&none(3), &none(2), &init),
            Ok(6..6),
            "{init:?}"
        );
        model
            .set_targets(1, &Selection::Columns(2..2), &none(4))
            .unwrap();
        model
            .set_targets(1, &Selection::Examples(&[]), &none(4))
            .unwrap();
        model.remove_examples(&[]).unwrap();
        assert_eq!(state(&model), before, "{init:?}");

        let mut empty = empty();
        empty.initialize_targets(&init).unwrap();
        assert_eq!(empty.z(1).unwrap().shape(), (4, 0));
        assert_eq!(empty.memory(0).unwrap().targets, 0);
    }
    assert_eq!(circuit().predict(&none(3)).unwrap().shape(), (2, 0));
    assert_eq!(empty().composed_loss_of(&none(3), &none(2)), Ok(0.0));
    let projection = Projection::fit(&circuit(), &inputs(), 0).unwrap();
    assert_eq!(projection.apply(&none(3)).unwrap()[1].shape(), (2, 0));

    // An epoch of no passes, and batches larger than the data.
    let mut model = model();
    let before = state(&model);
    let rule = GradientDescent::new(0.1).unwrap();
    let report = Trainer::new(Phase::new(Backprop, rule).with_epochs(0))
        .run(&mut model)
        .unwrap();
    assert_eq!((report.steps, report.history.len()), (0, 0));
    assert_eq!(state(&model), before);
    let report = Trainer::new(
        Phase::new(joint(), rule)
            .with_epochs(1)
            .with_batch_size(usize::MAX)
            .unwrap(),
    )
    .run(&mut model)
    .unwrap();
    assert_eq!(report.steps, 1);
}

#[test]
fn constant_and_extreme_inputs_give_finite_projected_targets() {
    for value in [0.0, 1e-300, 1e150] {
        let mut model = empty();
        let x = DMatrix::from_element(3, 5, value);
        let init = TargetInit::Projected { seed: 0 };
        model.add_examples(&x, &targets(), &init).unwrap();
        assert!(is_finite(&model), "{value}");
    }
}

/// The guide's page of errors names every variant.
#[test]
fn every_error_is_in_the_guide() {
    let read = |path: &str| {
        let root = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        std::fs::read_to_string(root.join(path)).unwrap()
    };
    let (source, page) = (read("src/error.rs"), read("docs/guide/errors.md"));
    let (_, variants) = source.split_once("pub enum Error {").unwrap();
    let (variants, _) = variants.split_once("\n}\n").unwrap();
    let mut count = 0;
    for line in variants.lines() {
        let name = line.strip_prefix("    ").unwrap_or_default();
        if name.starts_with(char::is_uppercase) {
            let name = name.trim_end_matches([' ', '{', ',']);
            assert!(page.contains(&format!("`{name}`")), "{name}");
            count += 1;
        }
    }
    assert!(count > 40, "{count}");
}

/// What a run would refuse is refused by `Trainer::check`, before anything is done.
#[test]
fn a_check_refuses_what_the_run_would() {
    let model = |energy| {
        let circuit = Circuit::<f64>::builder()
            .layer(Dense::new(2, 3, Activation::Tanh).unwrap())
            .layer(Dense::new(3, 1, Activation::Identity).unwrap());
        let mut model = DecoupledCircuit::new(circuit.build().unwrap(), energy).unwrap();
        let (x, y) = (
            DMatrix::from_element(2, 4, 0.5),
            DMatrix::from_element(1, 4, 1.0),
        );
        model
            .add_examples(&x, &y, &TargetInit::ForwardPass)
            .unwrap();
        model
    };
    let quantile = || model(Energy::new(Quantile::new(0.9).unwrap()));
    let adam = || Adam::new(1e-2).unwrap();
    let check = |model: &DecoupledCircuit<f64>, second| {
        let first = Phase::new(Backprop, adam()).with_epochs(1);
        let trainer = Trainer::new(first).then(second);
        let mut own = model.clone();
        let failed = trainer
            .run(&mut own)
            .map(|_| ())
            .map_err(|own| (own.error, own.report.steps));
        let checked = trainer.check(model);
        assert_eq!(failed, checked.clone().map_err(|error| (error, 0)));
        checked
    };
    let sweep = |step| ReverseSweep::new(1).with_step(step).unwrap();
    let bounded = StepSize::Bounded { margin: 1.0 };
    let descent = |step| SynchronousDescent::new(2, step).unwrap();
    let with = |step| {
        [
            Phase::new(Decoupling::persistent(sweep(step)), adam()),
            Phase::new(Decoupling::refreshed(descent(step)), adam()),
            Phase::new(Decoupling::residual(Box::new(sweep(step))), adam()),
        ]
    };
    for phase in with(bounded) {
        let missing = Error::NoCurvatureBound {
            of: "the loss",
            layer: 1,
        };
        assert_eq!(check(&quantile(), phase), Err(missing));
    }
    for phase in with(StepSize::Checked(0.1)) {
        assert_eq!(check(&quantile(), phase), Ok(()));
    }
    for phase in with(bounded) {
        assert_eq!(check(&model(Energy::default()), phase), Ok(()));
    }
    // A solver that fits no layer.
    let scheme = Decoupling::persistent(sweep(StepSize::Checked(0.1)));
    let last = WStep::solver_of_layer(1, LeastSquares::ridge(0.1).unwrap());
    let phase = Phase::with_w_step(scheme, last).unwrap();
    let refused = check(&quantile(), phase).unwrap_err();
    assert!(
        matches!(refused, Error::ParameterSolver { layer: 1, .. }),
        "{refused}"
    );
    // A scheme that is exact only for squared hidden losses.
    let huber = Energy::default().with_hidden_loss(Huber::new(1.0).unwrap());
    let exact = [
        ("Z-IL", Phase::new(ZIl, adam())),
        (
            "fixed prediction",
            Phase::new(FixedPrediction::new(), adam()),
        ),
    ];
    for (name, phase) in exact {
        let refused = check(&model(huber.clone()), phase).unwrap_err();
        assert!(refused.to_string().contains(name), "{refused}");
        assert!(
            matches!(refused, Error::NotSquaredError { layer: 1, .. }),
            "{refused}"
        );
    }
}

/// Messages about data say which data, and what the likely cause is.
#[test]
fn messages_about_data_name_the_cause() {
    let softmax = |outputs| {
        let circuit =
            Circuit::<f64>::builder().layer(Dense::new(2, outputs, Activation::Identity).unwrap());
        DecoupledCircuit::new(circuit.build().unwrap(), Energy::new(SoftmaxCrossEntropy)).unwrap()
    };
    let (x, labels) = (
        DMatrix::zeros(2, 4),
        DMatrix::from_row_slice(1, 4, &[0.0, 1.0, 1.0, 0.0]),
    );
    let error = softmax(1)
        .add_examples(&x, &labels, &TargetInit::ForwardPass)
        .unwrap_err();
    for part in [
        "only one class",
        "one_hot",
        "BinaryCrossEntropy",
        "sum to 0",
    ] {
        assert!(error.to_string().contains(part), "{error}");
    }
    let mut model = softmax(2);
    let y = DMatrix::from_element(2, 4, 0.5);
    model
        .add_examples(&x, &y, &TargetInit::ForwardPass)
        .unwrap();
    let validated = |x: &DMatrix<f64>, y: &DMatrix<f64>| {
        let phase = Phase::new(Backprop, Adam::new(1e-2).unwrap());
        let trainer = Trainer::new(phase).with_validation(x.clone(), y.clone());
        let error = trainer.check(&model).unwrap_err();
        if let Error::NonFiniteData { layer, .. } = error {
            assert_eq!(layer, 0);
        }
        error.to_string()
    };
    for (text, parts) in [
        (
            validated(&DMatrix::zeros(3, 4), &y),
            ["validation inputs", "expected 2 x 4, found 3 x 4"],
        ),
        (
            validated(&DMatrix::zeros(4, 2), &y),
            ["validation inputs", "transposed?"],
        ),
        (
            validated(&x, &labels),
            ["validation targets", "class numbers?"],
        ),
        (
            validated(&x, &DMatrix::zeros(2, 4)),
            ["sum to 0", "in the validation examples"],
        ),
        (
            validated(&DMatrix::from_element(2, 4, f64::NAN), &y),
            ["validation input", "at row 0, column 0 is NaN"],
        ),
        (
            validated(&x, &DMatrix::from_element(2, 4, f64::INFINITY)),
            ["validation target", "at row 0, column 0 is inf"],
        ),
        (
            validated(&x, &DMatrix::from_element(2, 3, 0.5)),
            ["validation targets", "expected 2 x 4, found 2 x 3"],
        ),
    ] {
        for part in parts {
            assert!(text.contains(part), "{text}: {part}");
        }
    }
    // Nothing would be measured on them.
    let phase = || Phase::new(Backprop, Adam::new(1e-2).unwrap()).with_epochs(2);
    let trainer = |phase| Trainer::new(phase).with_validation(x.clone(), y.clone());
    let refused = trainer(phase())
        .with_measure_every(0)
        .check(&model)
        .unwrap_err();
    assert!(matches!(refused, Error::Combination { .. }), "{refused}");
    assert!(
        refused.to_string().contains("with_measure_every(0)"),
        "{refused}"
    );
    let patience = Stopping::Validation {
        patience: 3,
        improvement: 0.0,
    };
    let stopping = phase().with_stopping(patience).unwrap();
    assert_eq!(
        trainer(stopping).with_measure_every(0).check(&model),
        Ok(())
    );
    assert_eq!(trainer(phase()).with_measure_every(2).check(&model), Ok(()));
    // Nor would f̄.
    let trainer = Trainer::new(phase()).measure_relaxation();
    assert_eq!(trainer.check(&model), Ok(()));
    let refused = trainer.with_measure_every(0).check(&model).unwrap_err();
    assert!(matches!(refused, Error::Combination { .. }), "{refused}");
    assert!(
        refused.to_string().contains("measure_relaxation"),
        "{refused}"
    );
}
