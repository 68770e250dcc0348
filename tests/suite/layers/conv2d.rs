//! A convolution agrees with its formula and its derivatives, for any window.

use layerwise::Error;
use layerwise::init::Initializer;
use layerwise::kernel::Execution;
use layerwise::layer::{Activation, Context, Conv2d, Dense, Layer, Size2d, Window2d};
use layerwise::rand::SeedableRng;
use layerwise::rand::rngs::ChaCha8Rng;

use super::laws::{self, uniform};
use crate::property::Tested;

/// Input, out channels, kernel, stride, padding, dilation, groups.
type Case = ([usize; 3], usize, [[usize; 2]; 4], usize);

/// Each runs through another part of what copies windows: across the edges of an image on all sides,
/// dilated, in groups, within one position.
const CASES: [Case; 10] = [
    ([2, 5, 4], 3, [[3, 2], [2, 1], [1, 0], [1, 1]], 1),
    ([1, 6, 5], 2, [[5, 3], [1, 2], [2, 1], [1, 1]], 1),
    ([3, 4, 6], 2, [[2, 3], [1, 1], [0, 2], [2, 2]], 1),
    ([2, 7, 3], 1, [[3, 2], [3, 2], [2, 1], [2, 1]], 1),
    ([4, 4, 3], 6, [[2, 2], [1, 1], [1, 1], [1, 1]], 2),
    ([4, 5, 4], 4, [[3, 3], [2, 1], [1, 2], [1, 2]], 4),
    ([3, 3, 2], 6, [[1, 1], [1, 1], [0, 0], [1, 1]], 3),
    ([3, 3, 4], 2, [[1, 1], [1, 1], [0, 0], [1, 1]], 1),
    ([2, 3, 3], 2, [[3, 3], [1, 1], [0, 0], [1, 1]], 1),
    ([2, 2, 2], 2, [[4, 3], [2, 3], [3, 4], [1, 1]], 1),
];

fn layer((input, out, [kernel, stride, padding, dilation], groups): Case) -> Conv2d {
    let window = Window2d::new(kernel).with_stride(stride);
    let window = window.with_padding(padding).with_dilation(dilation);
    let layer = Conv2d::new(input, out, window, Activation::Tanh).unwrap();
    layer.with_groups(groups).unwrap()
}

/// The formula of the documentation, by loops.
fn by_formula(case: Case, bias: bool, parameters: &[f64], z: &[f64]) -> Vec<f64> {
    let ([channels, height, width], out, [k, s, p, d], groups) = case;
    let count = |i: usize, side: usize| (side + 2 * p[i] - d[i] * (k[i] - 1) - 1) / s[i] + 1;
    let (rows, columns, own) = (count(0, height), count(1, width), channels / groups);
    let mut result = vec![0.0; out * rows * columns];
    for (m, row, column) in (0..result.len()).map(|i| (i % out, i / out % rows, i / out / rows)) {
        let bias = if bias {
            parameters[out * own * k[0] * k[1] + m]
        } else {
            0.0
        };
        let mut sum = bias;
        for (c, i, j) in (0..own * k[0] * k[1]).map(|e| (e % own, e / own % k[0], e / own / k[0])) {
            let (y, x) = (
                (s[0] * row + d[0] * i) as isize,
                (s[1] * column + d[1] * j) as isize,
            );
            let (y, x) = (y - p[0] as isize, x - p[1] as isize);
            if (0..height as isize).contains(&y) && (0..width as isize).contains(&x) {
                let channel = m / (out / groups) * own + c;
                let w = parameters[m + out * (c + own * (i + k[0] * j))];
                sum += w * z[channel + channels * (y as usize + height * x as usize)];
            }
        }
        result[m + out * (row + rows * column)] = sum.tanh();
    }
    result
}

#[test]
fn a_convolution_is_its_formula() {
    for case in CASES {
        for bias in [true, false] {
            let layer = if bias {
                layer(case)
            } else {
                layer(case).without_bias()
            };
            let parameters = uniform::<f64>(1, laws::parameter_count::<f64>(&layer));
            let z = uniform::<f64>(2, 2 * layer.input_dim());
            let mut found = vec![f64::NAN; 2 * layer.output_dim()];
            let mut work = vec![f64::NAN; layer.scratch(2).work];
            let context = Context::inference(0, 0);
            layer.forward(&context, &parameters, &z, &mut found, None, &mut work);
            let each = z.chunks_exact(layer.input_dim());
            let expected: Vec<f64> = each
                .flat_map(|z| by_formula(case, bias, &parameters, z))
                .collect();
            let near = found
                .iter()
                .zip(&expected)
                .all(|(a, b)| (a - b).abs() < 1e-13);
            assert!(near, "{case:?}: {found:?} is not {expected:?}");
        }
    }
}

fn laws_of_layers_hold<T: Tested>() {
    for case in CASES {
        laws::hold::<T>(layer(case), 2);
    }
    let linear = Conv2d::new([2, 4, 3], 3, [2, 3], Activation::Identity).unwrap();
    laws::hold::<T>(linear.without_bias(), 3);
}

/// Images of one block and of many, and blocks of several images.
fn bits_do_not_depend_on_the_batch_or_the_threads<T: Tested>() {
    let window = Window2d::new([3, 2]).with_padding(1);
    for (side, channels, n) in [(29, 2, 3), (4, 3, 70), (1, 2, 33), (12, 9, 34)] {
        let layer = Conv2d::new([channels, side, side], 5, window, Activation::Tanh).unwrap();
        laws::same_bits_alone::<T>(&layer, n);
        #[cfg(feature = "rayon")]
        laws::same_bits_on_threads::<T>(&layer, n);
    }
    let layer = Conv2d::new(
        [16, 9, 8],
        32,
        window.with_dilation(2),
        Activation::Identity,
    )
    .unwrap();
    for groups in [2, 16] {
        let layer = layer.clone().with_groups(groups).unwrap();
        laws::same_bits_alone::<T>(&layer, 3);
        #[cfg(feature = "rayon")]
        laws::same_bits_on_threads::<T>(&layer, 64);
    }
}

in_both_scalars!(
    laws_of_layers_hold,
    #[cfg_attr(feature = "blas", ignore = "a BLAS sums by shape")]
    bits_do_not_depend_on_the_batch_or_the_threads,
);

/// The sum over a batch whose positions are many blocks is that of the examples alone.
#[test]
fn the_gradient_of_weights_is_the_sum_over_examples() {
    let window = Window2d::new(3).with_padding(1);
    let layer = Conv2d::new([2, 30, 20], 4, window, Activation::Tanh).unwrap();
    for layer in [layer.clone(), layer.with_groups(2).unwrap()] {
        laws::law_of_the_adjoint::<f64>(&layer, 5);
        let count = laws::parameter_count::<f64>(&layer);
        let (dim, size, n) = (layer.input_dim(), layer.output_dim(), 5);
        let (parameters, z) = (uniform::<f64>(1, count), uniform::<f64>(2, n * dim));
        let (u, v) = (uniform::<f64>(3, n * size), vec![0.0; n * dim]);
        let run = |i: std::ops::Range<usize>| {
            let (own, out) = (i.start * dim..i.end * dim, i.start * size..i.end * size);
            let v = (&v[own.clone()], &parameters[..]);
            laws::products(
                &layer,
                Execution::Sequential,
                &parameters,
                &z[own],
                &u[out],
                v,
            )
            .d_parameters
        };
        let mut sum = vec![0.0; count];
        for i in 0..n {
            sum.iter_mut().zip(run(i..i + 1)).for_each(|(s, d)| *s += d);
        }
        let near = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-11;
        assert!(sum.iter().zip(&run(0..n)).all(near));
    }
}

/// Without groups, a 1 × 1 kernel needs no patches.
#[test]
fn a_convolution_is_affine() {
    let layer = layer(CASES[0]);
    let affine = layer.affine().unwrap();
    assert_eq!((affine.patch_len, affine.positions), (12, 9));
    assert!(affine.unfolds);
    assert_eq!(self::layer(CASES[4]).affine().unwrap().groups, 2);
    assert!(!self::layer(CASES[7]).affine().unwrap().unfolds);
}

/// A window over the whole image is a dense layer.
#[test]
fn a_window_of_the_whole_image_is_a_dense_layer() {
    let layer = Conv2d::new([2, 3, 4], 5, [3, 4], Activation::Tanh).unwrap();
    let dense = Dense::new(24, 5, Activation::Tanh).unwrap();
    let parameters = uniform::<f64>(1, 125);
    let (z, u) = (uniform::<f64>(2, 48), uniform::<f64>(3, 10));
    let execution = Execution::Sequential;
    let v = (&z[..], &parameters[..]);
    let of = |layer: &dyn Layer<f64>| laws::products(layer, execution, &parameters, &z, &u, v);
    assert_eq!(of(&layer), of(&dense));
}

/// NaN and infinity of one example stay within it.
#[test]
fn infinite_values_stay_in_their_example() {
    let layer = Conv2d::new([1, 4, 4], 2, 3, Activation::Identity).unwrap();
    let mut z = uniform::<f32>(1, 48);
    z[16] = f32::NAN;
    z[18] = f32::INFINITY;
    let (u, parameters) = (uniform::<f32>(2, 24), uniform::<f32>(3, 20));
    let execution = Execution::Sequential;
    let v = (&z[..], &parameters[..]);
    let found = laws::products(&layer, execution, &parameters, &z, &u, v);
    let finite = |values: &[f32]| values.iter().all(|v| v.is_finite());
    let (first, rest) = found.output.split_at(8);
    assert!(finite(first) && !finite(&rest[..8]) && finite(&rest[8..]));
    assert!(finite(&found.d_input) && !finite(&found.d_parameters));
}

#[test]
fn wrong_windows_are_refused_with_their_numbers() {
    let refused = |input, window: Window2d| {
        let error = Conv2d::new(input, 2, window, Activation::Identity).unwrap_err();
        error.to_string()
    };
    let window = Window2d::new([5, 1]);
    let message = refused([1, 3, 9], window);
    assert!(
        message.contains('5') && message.contains("at most 3"),
        "{message}"
    );
    let message = refused(
        [1, 9, 4],
        Window2d::new([1, 3]).with_dilation(3).with_padding([0, 1]),
    );
    assert!(
        message.contains('7') && message.contains("at most 6"),
        "{message}"
    );
    for (name, window) in [
        ("Window2d::kernel", Window2d::new([0, 1])),
        ("Window2d::stride", window.with_stride([1, 0])),
        ("Window2d::dilation", window.with_dilation(0)),
        ("Window2d::padding", window.with_padding(usize::MAX)),
        ("Window2d::kernel", Window2d::new(usize::MAX)),
    ] {
        let error = Conv2d::new([1, 5, 5], 2, window, Activation::Identity).unwrap_err();
        let expected = matches!(error, Error::InvalidOption { option, .. } if option == name);
        assert!(expected, "{name}: {error}");
    }
    for input in [[0, 5, 5], [1, 0, 5], [1, 5, 0]] {
        let error = Conv2d::new(input, 2, 1, Activation::Identity).unwrap_err();
        assert!(matches!(error, Error::ZeroDimension { .. }), "{error}");
    }
    let error = Conv2d::new([1, 5, 5], 0, 1, Activation::Identity).unwrap_err();
    assert!(matches!(error, Error::ZeroDimension { .. }), "{error}");
    let error = Conv2d::new([usize::MAX / 2, 5, 5], 1, 1, Activation::Identity).unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    let layer = Conv2d::new([4, 5, 5], 6, 1, Activation::Identity).unwrap();
    for groups in [0, 3, 4, 5] {
        let error = layer.clone().with_groups(groups).unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains("Conv2d::groups") && message.contains('6'),
            "{message}"
        );
    }
}

/// The bound is exact for a 1 × 1 convolution of one channel, and counts the windows that overlap.
#[test]
fn the_bound_counts_overlapping_windows() {
    let bound = |window: Window2d| {
        let layer = Conv2d::new([1, 12, 12], 1, window, Activation::Identity).unwrap();
        let layer = layer.without_bias();
        let weights = vec![1.0; laws::parameter_count::<f64>(&layer)];
        let mut work = vec![0.0; layer.scratch(1).bound];
        Layer::curvature_bound(&layer, &weights, &mut work).unwrap() / weights.len() as f64
    };
    let near = |window, expected: f64| {
        let found = bound(window);
        assert!(
            (found / expected - 1.0).abs() < 1e-6,
            "{found} is not {expected}"
        );
    };
    near(Window2d::new(1), 1.0);
    near(Window2d::new(3).with_stride(3), 1.0);
    near(Window2d::new(3), 9.0);
    near(Window2d::new([3, 2]).with_stride([2, 2]), 2.0);
    near(
        Window2d::new([3, 2])
            .with_stride([2, 1])
            .with_dilation([2, 1]),
        6.0,
    );
}

#[test]
fn settings_are_kept() {
    let window = Window2d::new(Size2d::from([3, 2]));
    let layer = Conv2d::new([2, 4, 4], 3, window, Activation::Relu).unwrap();
    assert_eq!(layer.parameters()[0].shape, [3, 2, 3, 2]);
    assert_eq!(layer.output_shape().extents(), [3, 2, 3]);
    assert_eq!(layer.unfolding().image(), [2, 4, 4]);
    let weights = Initializer::Constant { value: 0.5 };
    let layer = layer.with_weights(weights).unwrap();
    let mut values = vec![0.0_f64; 39];
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    layer.initialize(&mut values, &mut rng);
    assert_eq!(values[..36], [0.5; 36]);
    assert_eq!(values[36..], [0.0; 3]);
}

/// `cost` is the number of multiply-adds.
#[test]
fn groups_divide_the_cost() {
    let layer = Conv2d::new([4, 5, 5], 8, 3, Activation::Identity).unwrap();
    let layer = layer.without_bias();
    assert_eq!(layer.cost(), Some(8 * 36 * 9));
    assert_eq!(layer.with_groups(4).unwrap().cost(), Some(8 * 9 * 9));
}
