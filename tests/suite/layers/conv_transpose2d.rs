//! A transposed convolution is the adjoint of a convolution, with a bias and an activation.

use layerwise::Error;
use layerwise::init::Initializer;
use layerwise::kernel::Execution;
use layerwise::layer::{Activation, Conv2d, ConvTranspose2d, Layer, Window2d};
use layerwise::rand::SeedableRng;
use layerwise::rand::rngs::ChaCha8Rng;

use super::laws::{self, uniform};
use crate::property::Tested;

/// Input, out channels, kernel, stride, padding, dilation, output padding, groups.
type Case = ([usize; 3], usize, [[usize; 2]; 5], usize);

const CASES: [Case; 7] = [
    ([2, 3, 2], 3, [[3, 2], [2, 1], [1, 0], [1, 1], [0, 0]], 1),
    ([3, 2, 3], 2, [[2, 3], [2, 3], [0, 1], [1, 1], [1, 2]], 1),
    ([2, 3, 3], 1, [[3, 2], [1, 2], [2, 1], [2, 1], [1, 0]], 1),
    ([4, 2, 3], 6, [[2, 2], [2, 1], [1, 1], [1, 2], [0, 1]], 2),
    ([4, 2, 2], 4, [[3, 3], [2, 1], [1, 0], [1, 1], [1, 0]], 4),
    ([3, 2, 2], 2, [[1, 1], [1, 1], [0, 0], [1, 1], [0, 0]], 1),
    ([2, 2, 2], 2, [[1, 2], [3, 1], [0, 0], [1, 3], [2, 2]], 1),
];

fn window([kernel, stride, padding, dilation, _]: [[usize; 2]; 5]) -> Window2d {
    let window = Window2d::new(kernel).with_stride(stride);
    window.with_padding(padding).with_dilation(dilation)
}

fn layer((input, out, sizes, groups): Case, activation: Activation) -> ConvTranspose2d {
    let layer = ConvTranspose2d::new(input, out, window(sizes), activation).unwrap();
    let layer = layer.with_output_padding(sizes[4]).unwrap();
    layer.with_groups(groups).unwrap()
}

fn laws_of_layers_hold<T: Tested>() {
    for case in CASES {
        laws::hold::<T>(layer(case, Activation::Tanh), 2);
    }
    laws::hold::<T>(layer(CASES[0], Activation::Identity).without_bias(), 3);
}

fn bits_do_not_depend_on_the_batch_or_the_threads<T: Tested>() {
    let window = Window2d::new([3, 2]).with_stride([2, 1]).with_padding(1);
    for (side, channels, n) in [(24, 2, 3), (4, 3, 70), (12, 9, 34)] {
        let input = [channels, side, side];
        let layer = ConvTranspose2d::new(input, 5, window, Activation::Tanh).unwrap();
        laws::same_bits_alone::<T>(&layer, n);
        #[cfg(feature = "rayon")]
        laws::same_bits_on_threads::<T>(&layer, n);
    }
}

in_both_scalars!(
    laws_of_layers_hold,
    #[cfg_attr(feature = "blas", ignore = "a BLAS sums by shape")]
    bits_do_not_depend_on_the_batch_or_the_threads,
);

/// Where the sizes are those of a convolution, its vector-Jacobian product.
#[test]
fn it_is_the_adjoint_of_a_convolution() {
    for case in CASES {
        let (input, out, sizes, groups) = case;
        let layer = layer(case, Activation::Identity).without_bias();
        let shape = Layer::<f64>::output_shape(&layer);
        let image: [usize; 3] = shape.extents().try_into().unwrap();
        let convolution = Conv2d::new(image, input[0], window(sizes), Activation::Identity);
        let convolution = convolution
            .unwrap()
            .with_groups(groups)
            .unwrap()
            .without_bias();
        if convolution.output_shape() != Layer::<f64>::input_shape(&layer) {
            continue; // more output padding than the stride
        }
        assert_eq!(convolution.output_shape().extents()[0], input[0]);
        assert_eq!(image[0], out);
        let weights = uniform::<f64>(1, laws::parameter_count::<f64>(&layer));
        let (z, v) = (
            uniform::<f64>(2, convolution.output_dim()),
            uniform::<f64>(3, shape.size()),
        );
        let run = |layer: &dyn Layer<f64>, input: &[f64], u: &[f64]| {
            let v = (input, &weights[..]);
            laws::products(layer, Execution::Sequential, &weights, input, u, v)
        };
        let (ours, theirs) = (run(&layer, &z, &v), run(&convolution, &v, &z));
        assert_eq!(ours.output, theirs.d_input);
        assert_eq!(ours.d_input, theirs.output);
        assert_eq!(ours.d_parameters, theirs.d_parameters);
    }
}

/// Outputs of random inputs are about as large as these, also where windows overlap.
#[test]
fn initial_weights_keep_the_size_of_values() {
    for window in [
        Window2d::new(2).with_stride(2),
        Window2d::new(6).with_stride(2),
    ] {
        let layer = ConvTranspose2d::new([64, 12, 12], 4, window, Activation::Identity).unwrap();
        let mut parameters = vec![0.0; laws::parameter_count::<f64>(&layer)];
        layer.initialize(&mut parameters, &mut ChaCha8Rng::seed_from_u64(1));
        let z = uniform::<f64>(2, 64 * 144);
        let u = vec![0.0; Layer::<f64>::output_dim(&layer)];
        let v = (&z[..], &parameters[..]);
        let found = laws::products(&layer, Execution::Sequential, &parameters, &z, &u, v).output;
        let mean = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>() / v.len() as f64;
        let ratio = mean(&found) / mean(&z);
        assert!((0.6..1.3).contains(&ratio), "{window:?}: {ratio}");
    }
}

#[test]
fn biases_begin_as_their_initialiser_says() {
    let layer = ConvTranspose2d::new([2, 3, 4], 5, 2, Activation::Tanh).unwrap();
    let layer = layer
        .with_bias(Initializer::Constant { value: 0.25 })
        .unwrap();
    let mut parameters = vec![0.0; 5 * 2 * 2 * 2 + 5];
    layer.initialize(&mut parameters, &mut ChaCha8Rng::seed_from_u64(1));
    assert_eq!(parameters[40..], [0.25; 5]);
}

#[test]
fn wrong_sizes_are_refused_with_their_numbers() {
    let new = |window: Window2d| ConvTranspose2d::new([2, 3, 3], 2, window, Activation::Identity);
    let error = new(Window2d::new(2).with_padding(2))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("padding is 2") && error.contains("4 values"),
        "{error}"
    );
    let layer = new(Window2d::new(3).with_stride([2, 1])).unwrap();
    let error = layer
        .clone()
        .with_output_padding([0, 1])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("output_padding is 1") && error.contains("below 1"),
        "{error}"
    );
    let error = layer.with_groups(4).unwrap_err();
    assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
    let error = ConvTranspose2d::new([2, 3, 3], 0, 1, Activation::Identity).unwrap_err();
    assert!(matches!(error, Error::ZeroDimension { .. }), "{error}");
}
