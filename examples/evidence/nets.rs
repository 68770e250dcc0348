//! The circuits of the studies, and the settings that they share.

use std::fmt;

use layerwise::data::metrics;
use layerwise::decoupled::TargetInit;
use layerwise::energy::Energy;
use layerwise::init::{Distribution, Fan, Initializer};
use layerwise::layer::{Activation, Dense};
use layerwise::loss::SoftmaxCrossEntropy;
use layerwise::nalgebra::DMatrix;
use layerwise::{Circuit, DecoupledCircuit, Error, Scalar};
use serde::Serialize;

use crate::digits::{self, Digits};

/// Hidden activations that the studies compare.
#[derive(Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    Tanh,
    Sigmoid,
    Relu,
}

impl Unit {
    pub fn activation(self) -> Activation {
        match self {
            Self::Tanh => Activation::Tanh,
            Self::Sigmoid => Activation::Sigmoid,
            Self::Relu => Activation::Relu,
        }
    }

    /// The usual initial weights, which preserve the size of signals: N(0, 1/fan-in), and He's for
    /// ReLU.
    pub fn usual_start(self) -> Start {
        Start::Normal(if self == Self::Relu { 2f64.sqrt() } else { 1.0 })
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Tanh => "tanh",
            Self::Sigmoid => "sigmoid",
            Self::Relu => "ReLU",
        }
    }
}

/// How the weights are initialised.
#[derive(Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// N(0, σ_w²/fan-in), zero biases.
    Normal(f64),
    /// The best-known start of each activation: orthogonal weights, of gain 1 (tanh), √2 (ReLU) or 4
    /// (sigmoid, whose biases −½ W·1 centre it: 4σ(x − …) has slope 1 there). Saxe, McClelland &
    /// Ganguli 2014.
    Orthogonal,
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Normal(sigma) => f.pad(&sigma.to_string()),
            Self::Orthogonal => f.pad("orthogonal"),
        }
    }
}

/// A circuit for the digits with `depth` layers, hidden layers 32 wide and the last layer linear.
pub fn deep<T: Scalar>(
    unit: Unit,
    depth: usize,
    start: Start,
    seed: u64,
) -> Result<Circuit<T>, Error> {
    const WIDTH: usize = 32;
    let weights = start.weights(unit);
    let mut builder = Circuit::builder().seed(seed);
    for t in 0..depth {
        let input = if t == 0 { digits::PIXELS } else { WIDTH };
        let layer = if t + 1 < depth {
            Dense::new(input, WIDTH, unit.activation())?
        } else {
            Dense::new(input, digits::CLASSES, Activation::Identity)?
        };
        builder = builder.layer(layer.with_weights(weights)?);
    }
    let mut circuit = builder.build()?;
    start.centre(unit, &mut circuit)?;
    Ok(circuit)
}

impl Start {
    pub fn weights(self, unit: Unit) -> Initializer {
        match self {
            Self::Normal(sigma) => Initializer::VarianceScaling {
                scale: sigma * sigma,
                fan: Fan::In,
                distribution: Distribution::Normal,
            },
            Self::Orthogonal => Initializer::Orthogonal {
                gain: match unit {
                    Unit::Tanh => 1.0,
                    Unit::Relu => 2f64.sqrt(),
                    Unit::Sigmoid => 4.0,
                },
            },
        }
    }

    /// Sets the biases that belong to this initialisation, in a circuit of dense layers whose
    /// weights are already set.
    pub fn centre<T: Scalar>(self, unit: Unit, circuit: &mut Circuit<T>) -> Result<(), Error> {
        if (unit, self) == (Unit::Sigmoid, Self::Orthogonal) {
            // The inputs of the first layer are already centred.
            for t in 1..circuit.depth() {
                centre(circuit, t)?;
            }
        }
        Ok(())
    }
}

/// b ← −½ W·1 of a dense layer, which centres its inputs if they are sigmoid outputs around ½.
fn centre<T: Scalar>(circuit: &mut Circuit<T>, t: usize) -> Result<(), Error> {
    let (columns, rows) = (circuit.dims()[t], circuit.dims()[t + 1]);
    let mut parameters = circuit.parameters(t).to_vec();
    let (weights, bias) = parameters.split_at_mut(rows * columns);
    for (i, b) in bias.iter_mut().enumerate() {
        let row = weights.iter().skip(i).step_by(rows);
        *b = -T::of(0.5) * row.fold(T::zero(), |sum, &w| sum + w);
    }
    circuit.set_parameters(t, &parameters)
}

/// A model on the training images.
pub fn model(
    circuit: Circuit<f32>,
    train: &Digits,
    targets: &TargetInit<f32>,
) -> Result<DecoupledCircuit<f32>, Error> {
    let mut model = DecoupledCircuit::new(circuit, Energy::new(SoftmaxCrossEntropy))?;
    model.add_examples(&train.images, &train.classes, targets)?;
    Ok(model)
}

/// Classification accuracy in per cent.
pub fn accuracy(model: &DecoupledCircuit<f32>, on: &Digits) -> Result<f64, Error> {
    Ok(100.0 * metrics::accuracy(&on.labels, &model.predict(&on.images)?)?)
}

/// ẑ_1, …, ẑ_{T−1} of the forward pass.
pub fn representations(circuit: &Circuit<f32>, on: &Digits) -> Result<Vec<DMatrix<f64>>, Error> {
    let model = model(circuit.clone(), on, &TargetInit::ForwardPass)?;
    (1..circuit.depth())
        .map(|t| Ok(model.z(t)?.map(f64::from)))
        .collect()
}
