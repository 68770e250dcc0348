//! Strategies for [`proptest`] that draw circuits, data and targets (feature `proptest`), for
//! property tests of your own layers, losses, solvers and schemes.
//!
//! Proptest draws the shapes and options; all numbers come from one seed. So a failing case shrinks
//! to few, narrow layers and few examples, but single numbers do not shrink. The `Debug` output of
//! a case is complete: layers with their options, seed, parameters, and z.
//!
//! # Examples
//! Sweeps with steps bounded by the curvature never raise E:
//! ```
//! use layerwise::prelude::*;
//! use layerwise::strategies::proptest::{prelude::*, test_runner::RngSeed};
//! use layerwise::strategies::{Shapes, models};
//!
//! let config = ProptestConfig {
//!     rng_seed: RngSeed::Fixed(1),
//!     ..ProptestConfig::default()
//! };
//! proptest!(config, |(mut model in models::<f64>(Shapes::new().with_depth(3)))| {
//!     let before = model.energy()?;
//!     model.solve_targets(&ReverseSweep::new(1), &Selection::All)?;
//!     prop_assert!(model.energy()? <= before * (1.0 + 1e-12));
//! });
//! ```

use std::ops::RangeInclusive;

use nalgebra::DMatrix;
use rand::Rng;
use rand_distr::Uniform;

/// The version of proptest that these strategies are built with.
pub use proptest;
use proptest::arbitrary::any;
use proptest::collection::vec;
use proptest::sample::select;
use proptest::strategy::Strategy;

use crate::circuit::Circuit;
use crate::decoupled::{DecoupledCircuit, TargetInit};
use crate::energy::{Energy, Layers};
use crate::error::Error;
use crate::init::{Distribution, Fan, Initializer, Purpose, draw, generator};
use crate::kernel::Scalar;
use crate::layer::{Activation, Dense, Layer, parameter_count};
use crate::loss::{Loss, Pair, SoftmaxCrossEntropy};

/// Every activation; the leaky ReLU has slope 0.1.
const ACTIVATIONS: [Activation; 8] = [
    Activation::Identity,
    Activation::Tanh,
    Activation::Sigmoid,
    Activation::Relu,
    Activation::LeakyRelu { slope: 0.1 },
    Activation::Gelu,
    Activation::Silu,
    Activation::Softplus,
];

/// Inputs, targets and predictions lie in ±SIZE.
const SIZE: f64 = 1.5;

/// The range of circuits to draw from. A case shrinks towards the smallest numbers and the first
/// entries of the lists.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Shapes {
    /// The largest number of layers, at least 1; 4 by default.
    pub max_depth: usize,
    /// The largest dimension, at least 1; 6 by default.
    pub max_width: usize,
    /// The largest number of examples, at least 1; 5 by default.
    pub max_examples: usize,
    /// The activations, one of which is drawn for every layer. Default: all 8, the leaky ReLU with
    /// slope 0.1.
    pub activations: Vec<Activation>,
    /// Whether layers have a bias, drawn for every layer. Default: both.
    pub biases: Vec<bool>,
    /// The range of every μ_t, whose logarithm is drawn uniformly; 0.1..=10 by default.
    pub penalties: RangeInclusive<f64>,
    /// The output losses to draw from. Default: both.
    pub outputs: Vec<Output>,
}

/// The output loss of a drawn model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Output {
    /// [`SquaredError`](crate::loss::SquaredError).
    SquaredError,
    /// [`SoftmaxCrossEntropy`].
    SoftmaxCrossEntropy,
}

impl Default for Shapes {
    fn default() -> Self {
        Self {
            max_depth: 4,
            max_width: 6,
            max_examples: 5,
            activations: ACTIVATIONS.to_vec(),
            biases: vec![true, false],
            penalties: 0.1..=10.0,
            outputs: vec![Output::SquaredError, Output::SoftmaxCrossEntropy],
        }
    }
}

impl Shapes {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the largest number of layers.
    pub fn with_depth(self, max_depth: usize) -> Self {
        Self { max_depth, ..self }
    }

    /// Sets the largest dimension.
    pub fn with_width(self, max_width: usize) -> Self {
        Self { max_width, ..self }
    }

    /// Sets the largest number of examples.
    pub fn with_examples(mut self, max_examples: usize) -> Self {
        self.max_examples = max_examples;
        self
    }

    /// Sets the activations to draw from.
    pub fn with_activations(mut self, activations: impl Into<Vec<Activation>>) -> Self {
        self.activations = activations.into();
        self
    }

    /// Sets whether layers have a bias: `true`, `false`, or both to draw from.
    pub fn with_biases(mut self, biases: impl Into<Vec<bool>>) -> Self {
        self.biases = biases.into();
        self
    }

    /// Sets the range of μ_t.
    pub fn with_penalties(self, penalties: RangeInclusive<f64>) -> Self {
        Self { penalties, ..self }
    }

    /// Sets the output losses to draw from.
    pub fn with_outputs(mut self, outputs: impl Into<Vec<Output>>) -> Self {
        self.outputs = outputs.into();
        self
    }

    /// Excludes ReLU and leaky ReLU. Everything drawn is then differentiable everywhere, and
    /// [`GradCheck`](crate::gradcheck::GradCheck) meets no kinks.
    pub fn smooth(mut self) -> Self {
        let kinked = |a: &Activation| matches!(a, Activation::Relu | Activation::LeakyRelu { .. });
        self.activations.retain(|activation| !kinked(activation));
        self
    }

    fn checked(self) -> Self {
        for (what, max) in [
            ("max_depth", self.max_depth),
            ("max_width", self.max_width),
            ("max_examples", self.max_examples),
        ] {
            assert!(max > 0, "Shapes::{what} is 0, but must be at least 1");
        }
        for (what, count) in [
            ("activations", self.activations.len()),
            ("biases", self.biases.len()),
            ("outputs", self.outputs.len()),
        ] {
            assert!(
                count > 0,
                "Shapes::{what} is empty, so there is nothing to draw from"
            );
        }
        let (least, most) = (*self.penalties.start(), *self.penalties.end());
        assert!(
            0.0 < least && least <= most && most.is_finite(),
            "Shapes::penalties are {least}..={most}, but must be a non-empty range above 0 and finite"
        );
        self
    }
}

/// Any activation: one of the 8, the leaky ReLU with slope 0.1.
pub fn activations() -> impl Strategy<Value = Activation> {
    select(&ACTIVATIONS[..])
}

/// A dense layer with dimensions in 1..=`max_width`, and with activation and bias from `shapes`.
/// Initial weights are uniform with variance 1/fan_in, and biases are uniform in [−1, 1].
///
/// # Panics
/// If `shapes` leaves nothing to draw from, or has a leaky ReLU with a slope outside 0..=1.
pub fn dense(shapes: Shapes) -> impl Strategy<Value = Dense> {
    let shapes = shapes.checked();
    let width = 1..=shapes.max_width;
    let (activation, bias) = (select(shapes.activations), select(shapes.biases));
    (width.clone(), width, activation, bias).prop_map(|(input, output, activation, bias)| {
        dense_of(input, output, activation, bias).expect("valid activations")
    })
}

fn dense_of(
    input: usize,
    output: usize,
    activation: Activation,
    bias: bool,
) -> Result<Dense, Error> {
    // A bias is a matrix with one column, so its variance is the scale: that of U(−1, 1).
    let unit = Initializer::VarianceScaling {
        scale: 1.0 / 3.0,
        fan: Fan::In,
        distribution: Distribution::Uniform,
    };
    let layer = Dense::new(input, output, activation)?;
    let layer = layer.with_weights(Initializer::lecun_uniform())?;
    match bias {
        true => layer.with_bias(unit),
        false => Ok(layer.without_bias()),
    }
}

/// A circuit of 1..=`max_depth` layers drawn like those of [`dense`], with any seed.
///
/// # Panics
/// In the same cases as [`dense`].
pub fn circuits<T: Scalar>(shapes: Shapes) -> impl Strategy<Value = Circuit<T>> {
    empty_models(shapes).prop_map(DecoupledCircuit::into_circuit)
}

/// A model without examples: a circuit like those of [`circuits`], with μ_t and output loss from
/// `shapes` and squared errors between the layers.
fn empty_models<T: Scalar>(shapes: Shapes) -> impl Strategy<Value = DecoupledCircuit<T>> {
    let shapes = shapes.checked();
    let width = 1..=shapes.max_width;
    let (activation, bias) = (select(shapes.activations), select(shapes.biases));
    let layers = vec((width.clone(), activation, bias), 1..=shapes.max_depth);
    let penalties = shapes.penalties;
    (width, layers, select(shapes.outputs), any::<u64>()).prop_map(
        move |(input, layers, output, seed)| {
            let mut builder = Circuit::builder().seed(seed);
            let hidden = layers.len() - 1;
            let mut dim = input;
            for (width, activation, bias) in layers {
                let layer = dense_of(dim, width, activation, bias).expect("valid activations");
                builder = builder.layer(layer);
                dim = width;
            }
            let (least, most) = (*penalties.start(), *penalties.end());
            let rng = &mut generator(seed, Purpose::Cases, 0);
            let logarithms = uniform::<f64>(hidden, least.ln()..=most.ln(), rng).into_iter();
            // Rounding may take e^ln out of the range.
            let penalties = logarithms.map(|l| T::of(l.exp().clamp(least, most)));
            let energy = match output {
                Output::SquaredError => Energy::default(),
                Output::SoftmaxCrossEntropy => Energy::new(SoftmaxCrossEntropy),
            };
            let energy = energy.with_penalties(penalties.collect());
            let circuit = builder.build().expect("the layers fit together");
            DecoupledCircuit::new(circuit, energy).expect("the energy fits the circuit")
        },
    )
}

/// Inputs (d_0 × n) and output targets (d_T × n) for a model, with n in `examples`. Both are
/// uniform in [−1.5, 1.5]. If the output loss refuses either end of this range, the targets are
/// probability distributions without zeros instead.
///
/// # Panics
/// If `examples` is empty. While drawing, with the model's error, if it refuses these inputs, or
/// both kinds of targets.
pub fn data<T: Scalar>(
    model: &DecoupledCircuit<T>,
    examples: RangeInclusive<usize>,
) -> impl Strategy<Value = (DMatrix<T>, DMatrix<T>)> + use<T> {
    let (circuit, terms) = (model.circuit().clone(), model.terms().clone());
    (examples, any::<u64>())
        .prop_map(move |(n, seed)| fitting(Layers::new(&circuit, &terms), n, seed))
}

/// A [`DecoupledCircuit`]: a circuit like those of [`circuits`], with μ_t and output loss from
/// `shapes` and squared errors between the layers, 1..=`max_examples` examples like those of
/// [`data`], and auxiliary targets from N(0, 1).
///
/// # Panics
/// In the same cases as [`dense`].
///
/// # Examples
/// ```
/// use layerwise::gradcheck::GradCheck;
/// use layerwise::strategies::{Shapes, models, proptest::prelude::*, proptest::test_runner::TestRunner};
///
/// let smooth = Shapes::new().with_depth(2).with_width(3).with_examples(2).smooth();
/// TestRunner::deterministic()
///     .run(&models::<f64>(smooth), |model| {
///         Ok(GradCheck::new().circuit(&model)?.require(1e-6)?)
///     })
///     .unwrap();
/// ```
pub fn models<T: Scalar>(shapes: Shapes) -> impl Strategy<Value = DecoupledCircuit<T>> {
    let shapes = shapes.checked();
    let examples = 1..=shapes.max_examples;
    (empty_models(shapes), examples, any::<u64>()).prop_map(|(mut model, n, seed)| {
        let (inputs, targets) = fitting(model.layers(), n, seed);
        let init = TargetInit::RandomNormal { std: 1.0, seed };
        let added = model.add_examples(&inputs, &targets, &init);
        added.expect("the data fit the circuit");
        model
    })
}

/// A point at which a layer can be checked.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LayerPoint<T> {
    /// θ.
    pub parameters: Vec<T>,
    /// z, input_dim × n column-major.
    pub input: Vec<T>,
}

/// Parameters and n inputs for a layer, with n in `examples`; all are uniform in `values`.
///
/// # Panics
/// If a range is empty, or `values` are not finite.
///
/// # Examples
/// ```
/// use layerwise::prelude::*;
/// use layerwise::strategies::{layer_points, proptest::prelude::*, proptest::test_runner::TestRunner};
/// use layerwise::gradcheck::GradCheck;
///
/// let layer = Dense::new(3, 2, Activation::Gelu)?;
/// TestRunner::deterministic()
///     .run(&layer_points::<f64>(&layer, 1..=4, -1.0..=1.0), |at| {
///         let report = GradCheck::new().layer(&layer, &at.parameters, &at.input)?;
///         Ok(report.require(1e-6)?)
///     })
///     .unwrap();
/// # Ok::<(), layerwise::Error>(())
/// ```
pub fn layer_points<T: Scalar>(
    layer: &dyn Layer<T>,
    examples: RangeInclusive<usize>,
    values: RangeInclusive<f64>,
) -> impl Strategy<Value = LayerPoint<T>> + use<T> {
    let (count, dim) = (parameter_count(layer), layer.input_dim());
    (examples, any::<u64>()).prop_map(move |(n, seed)| {
        let rng = &mut generator(seed, Purpose::Cases, 2);
        LayerPoint {
            parameters: uniform(count, values.clone(), rng),
            input: uniform(dim * n, values.clone(), rng),
        }
    })
}

/// A point at which a loss can be checked.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LossPoint<T> {
    /// Number of rows of target and prediction.
    pub dim: usize,
    /// z, `dim` × n column-major.
    pub target: Vec<T>,
    /// ẑ, `dim` × n column-major.
    pub prediction: Vec<T>,
    /// φ.
    pub parameters: Vec<T>,
}

impl<T> LossPoint<T> {
    /// Borrows the point as a [`Pair`].
    pub fn pair(&self) -> Pair<'_, T> {
        Pair::new(self.dim, &self.target, &self.prediction).with_parameters(&self.parameters)
    }
}

/// n targets and predictions for a loss, with n in `examples` and the number of rows in `dims`.
/// Predictions are uniform in [−1.5, 1.5], and so are targets, unless the loss refuses either end
/// of this range; then targets are probability distributions without zeros. φ lies within ½ of the
/// loss's initial value.
///
/// # Panics
/// If a range is empty. While drawing, with the loss's error, if it refuses both kinds of targets.
pub fn loss_points<T: Scalar>(
    loss: &dyn Loss<T>,
    dims: RangeInclusive<usize>,
    examples: RangeInclusive<usize>,
) -> impl Strategy<Value = LossPoint<T>> {
    (dims, examples, any::<u64>()).prop_map(|(dim, n, seed)| {
        let rng = &mut generator(seed, Purpose::Cases, 3);
        let groups = loss.parameters(dim);
        let mut parameters = vec![T::zero(); groups.last().map_or(0, |g| g.range.end)];
        loss.initialize(dim, &mut parameters);
        let moves = uniform::<T>(parameters.len(), -0.5..=0.5, rng);
        parameters.iter_mut().zip(moves).for_each(|(p, m)| *p += m);
        LossPoint {
            dim,
            target: target_of(loss, dim, n, rng),
            prediction: uniform(dim * n, -SIZE..=SIZE, rng),
            parameters,
        }
    })
}

/// Inputs and output targets that fit a model.
fn fitting<T: Scalar>(layers: Layers<'_, T>, n: usize, seed: u64) -> (DMatrix<T>, DMatrix<T>) {
    let rng = &mut generator(seed, Purpose::Cases, 1);
    let (input, last) = (layers.dims()[0], layers.depth() - 1);
    let output = layers.dims()[last + 1];
    let inputs = uniform(input * n, -SIZE..=SIZE, rng);
    if let Err(error) = layers.layer(0).check_input(&inputs) {
        panic!("layer 0 does not accept inputs drawn from ±{SIZE}: {error}");
    }
    let targets = target_of(layers.loss(last), output, n, rng);
    (
        DMatrix::from_vec(input, n, inputs),
        DMatrix::from_vec(output, n, targets),
    )
}

/// Targets that a loss accepts: any values if it accepts both ends of their range, otherwise
/// distributions.
fn target_of<T: Scalar>(loss: &dyn Loss<T>, dim: usize, n: usize, rng: &mut dyn Rng) -> Vec<T> {
    let ends = [-SIZE, SIZE].map(|end| vec![T::of(end); dim]);
    let free = ends.iter().all(|end| loss.check_target(dim, end).is_ok());
    let range = if free { -SIZE..=SIZE } else { 0.1..=1.0 };
    let mut values = uniform::<f64>(dim * n, range, rng);
    for column in values.chunks_exact_mut(dim).filter(|_| !free) {
        let total: f64 = column.iter().sum();
        column.iter_mut().for_each(|share| *share /= total);
    }
    let targets: Vec<T> = values.into_iter().map(T::of).collect();
    match loss.check_target(dim, &targets) {
        Ok(()) => targets,
        Err(error) => panic!("{loss:?} takes neither values in ±{SIZE} nor distributions: {error}"),
    }
}

fn uniform<T: Scalar>(count: usize, values: RangeInclusive<f64>, rng: &mut dyn Rng) -> Vec<T> {
    let (least, most) = (*values.start(), *values.end());
    let distribution = Uniform::new_inclusive(least, most)
        .unwrap_or_else(|error| panic!("cannot draw values from {least}..={most}: {error}"));
    let mut drawn = vec![T::zero(); count];
    draw(&mut drawn, rng, distribution, 1.0);
    drawn
}
