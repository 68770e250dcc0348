//! Random cases: every scalar's tolerances, a runner with a recorded seed, dense layers with
//! parameters and inputs of order 1 and away from the kinks of their activations.

use layerwise::rand::rngs::ChaCha8Rng;
use layerwise::rand::{RngExt, SeedableRng};
use layerwise::{Activation, Context, Dense, Error, Layer, Scalar, Sequential};
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestCaseResult, TestRunner};

/// A scalar, with what can be asked of central differences in it.
pub(crate) trait Tested: Scalar {
    /// Error that `GradCheck` may report.
    const GRADIENT: f64;
    /// Distance of pre-activations from the kink at 0, well above the step of the differences.
    const KINK: f64;
    /// Rounding of a short sum, relative to the sum of its terms' magnitudes.
    const ROUNDING: f64;
    /// Logits that saturate a softmax, but whose differences still resolve its curvature.
    const LARGE_LOGIT: f64;
    /// The same along random directions of a deep circuit, whose step is divided by the direction's
    /// largest entry, about 3, and whose slope may be small beside the rounding of the whole loss.
    const ALONG_DIRECTIONS: f64;
}

impl Tested for f64 {
    const GRADIENT: f64 = 1e-6;
    const KINK: f64 = 0.05;
    const ROUNDING: f64 = 1e-13;
    const LARGE_LOGIT: f64 = 20.0;
    const ALONG_DIRECTIONS: f64 = 1e-6;
}

impl Tested for f32 {
    const GRADIENT: f64 = 5e-3;
    const KINK: f64 = 0.1;
    const ROUNDING: f64 = 1e-5;
    const LARGE_LOGIT: f64 = 8.0;
    const ALONG_DIRECTIONS: f64 = 1e-2;
}

/// Runs `test` on 256 draws of `strategy`. The seed is fixed, so a failure comes back by running
/// the same test again; proptest prints the smallest failing case.
pub(crate) fn for_all<S: Strategy>(strategy: S, test: impl Fn(S::Value) -> TestCaseResult) {
    let config = ProptestConfig {
        cases: 256,
        rng_seed: RngSeed::Fixed(0x6c61_7965),
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    if let Err(failure) = TestRunner::new(config).run(&strategy, test) {
        panic!("{failure}");
    }
}

/// Turns the crate's errors into failures of a case.
pub(crate) fn failed(error: Error) -> TestCaseError {
    TestCaseError::fail(error.to_string())
}

/// The same test in every scalar.
macro_rules! in_both_scalars {
    ($($test:ident),* $(,)?) => {$(
        mod $test {
            #[test]
            fn in_f64() {
                super::$test::<f64>();
            }

            #[test]
            fn in_f32() {
                super::$test::<f32>();
            }
        }
    )*};
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

pub(crate) fn generator(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

/// `count` draws from U(−size, size).
pub(crate) fn uniform<T: Scalar>(rng: &mut ChaCha8Rng, count: usize, size: f64) -> Vec<T> {
    let draws = (0..count).map(|_| T::of(rng.random_range(-size..size)));
    draws.collect()
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
    pub(crate) fn smooth_output<T: Tested>(self, parameters: &[T], input: &[T]) -> Option<Vec<T>> {
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
pub(crate) fn smooth_point<T: Tested>(
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
