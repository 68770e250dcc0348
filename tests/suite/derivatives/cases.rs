//! Random cases: dense layers with parameters and inputs of order 1 and away from the kinks of
//! their activations.

use layerwise::layer::{Activation, Context, Dense, Sequential};
use layerwise::rand::rngs::ChaCha8Rng;
use layerwise::{Layer, Scalar};
use proptest::prelude::*;

use crate::property::{Tested, uniform};

/// What else layers ask of differences in a scalar.
pub(crate) trait Probed: Tested {
    /// Distance of pre-activations from the kink at 0, well above the step of the differences.
    const KINK: f64;
    /// Logits that saturate a softmax, but whose differences still resolve its curvature.
    const LARGE_LOGIT: f64;
    /// [`Tested::GRADIENT`] along random directions of a deep circuit, whose step is divided by the
    /// direction's largest entry, about 3, and whose slope may be small beside the rounding of the
    /// whole loss.
    const ALONG_DIRECTIONS: f64;
}

impl Probed for f64 {
    const KINK: f64 = 0.05;
    const LARGE_LOGIT: f64 = 20.0;
    const ALONG_DIRECTIONS: f64 = 1e-6;
}

impl Probed for f32 {
    const KINK: f64 = 0.1;
    const LARGE_LOGIT: f64 = 8.0;
    const ALONG_DIRECTIONS: f64 = 1e-2;
}

/// Every activation; of the leaky ReLU a slope inside its range.
pub(crate) const ACTIVATIONS: [Activation; 8] = [
    Activation::Identity,
    Activation::Tanh,
    Activation::Sigmoid,
    Activation::Relu,
    Activation::LeakyRelu { slope: 0.1 },
    Activation::Gelu,
    Activation::Silu,
    Activation::Softplus,
];

pub(crate) fn any_activation() -> impl Strategy<Value = Activation> {
    prop::sample::select(&ACTIVATIONS[..])
}

/// A dense layer: input and output dimension, activation, with a bias or not.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spec {
    pub(crate) input: usize,
    pub(crate) output: usize,
    pub(crate) activation: Activation,
    pub(crate) bias: bool,
}

impl Spec {
    pub(crate) fn layer(self) -> Dense {
        self.layer_with(self.activation)
    }

    fn layer_with(self, activation: Activation) -> Dense {
        let layer = Dense::new(self.input, self.output, activation).unwrap();
        if self.bias {
            layer
        } else {
            layer.without_bias()
        }
    }

    pub(crate) fn parameter_count(self) -> usize {
        self.output * (self.input + usize::from(self.bias))
    }

    /// Draws whose size makes outputs of order 1 from inputs of order 1.
    pub(crate) fn parameters<T: Scalar>(self, rng: &mut ChaCha8Rng) -> Vec<T> {
        let weights = self.input * self.output;
        let mut parameters = uniform(rng, weights, (3.0 / self.input as f64).sqrt());
        parameters.extend(uniform::<T>(rng, self.parameter_count() - weights, 1.0));
        parameters
    }

    /// The layer's output, or `None` if a pre-activation lies so close to a kink that a difference
    /// could step over it.
    pub(crate) fn smooth_output<T: Probed>(self, parameters: &[T], input: &[T]) -> Option<Vec<T>> {
        let pre_activation = forward(&self.layer_with(Activation::Identity), parameters, input);
        let kinked = matches!(
            self.activation,
            Activation::Relu | Activation::LeakyRelu { .. }
        );
        let near = |x: &T| x.as_f64().abs() < T::KINK;
        if kinked && pre_activation.iter().any(near) {
            return None;
        }
        Some(forward(&self.layer(), parameters, input))
    }
}

/// f(input, θ) by the layer itself.
pub(crate) fn forward<T: Scalar>(layer: &dyn Layer<T>, parameters: &[T], input: &[T]) -> Vec<T> {
    let n = input.len() / layer.input_dim();
    let mut output = vec![T::zero(); layer.output_dim() * n];
    let mut work = vec![T::zero(); layer.scratch(n).work];
    let context = Context::inference(0, 0);
    layer.forward(&context, parameters, input, &mut output, None, &mut work);
    output
}

/// A chain of dense layers of these widths.
pub(crate) fn chain(widths: &[usize], activations: &[Activation], bias: bool) -> Vec<Spec> {
    let pairs = widths.windows(2).zip(activations);
    pairs
        .map(|(widths, &activation)| Spec {
            input: widths[0],
            output: widths[1],
            activation,
            bias,
        })
        .collect()
}

pub(crate) fn sequential<T: Scalar>(specs: &[Spec]) -> Sequential<T> {
    let layers = specs.iter().map(|spec| Box::new(spec.layer()) as _);
    Sequential::new(layers.collect()).unwrap()
}

/// Parameters of every layer of a chain, and n inputs: drawn anew until no layer is near a kink.
pub(crate) fn smooth_point<T: Probed>(
    specs: &[Spec],
    n: usize,
    rng: &mut ChaCha8Rng,
) -> (Vec<Vec<T>>, Vec<T>) {
    for _ in 0..100_000 {
        let parameters: Vec<Vec<T>> = specs.iter().map(|spec| spec.parameters(rng)).collect();
        let input = uniform(rng, specs[0].input * n, 1.5);
        let end = specs
            .iter()
            .zip(&parameters)
            .try_fold(input.clone(), |z, (spec, own)| spec.smooth_output(own, &z));
        if end.is_some() {
            return (parameters, input);
        }
    }
    panic!("no point away from the kinks in {specs:?}");
}
