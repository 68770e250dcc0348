//! Pooling agrees with its formula and its derivatives, for any window.

use layerwise::Error;
use layerwise::kernel::Execution;
use layerwise::layer::{AveragePool2d, GlobalAveragePool, Layer, MaxPool2d, Shape, Window2d};

use super::laws::{self, uniform};
use crate::property::Tested;

/// Input, kernel, stride, padding, dilation.
type Case = ([usize; 3], [[usize; 2]; 4]);

const CASES: [Case; 5] = [
    ([3, 4, 6], [[2, 2], [2, 2], [0, 0], [1, 1]]),
    ([2, 5, 4], [[3, 2], [2, 1], [1, 0], [1, 1]]),
    ([1, 6, 5], [[2, 3], [1, 2], [1, 1], [2, 1]]),
    ([17, 3, 2], [[3, 2], [1, 1], [1, 1], [1, 1]]),
    ([2, 7, 5], [[3, 3], [3, 2], [2, 1], [1, 2]]),
];

fn window([kernel, stride, padding, dilation]: [[usize; 2]; 4]) -> Window2d {
    let window = Window2d::new(kernel).with_stride(stride);
    window.with_padding(padding).with_dilation(dilation)
}

/// For every output, (values of the window within the image row by row, size of the window).
fn windows(([c, h, w], [k, s, p, d]): Case, z: &[f64]) -> Vec<(Vec<f64>, usize)> {
    let count = |i: usize, side: usize| (side + 2 * p[i] - d[i] * (k[i] - 1) - 1) / s[i] + 1;
    let (rows, columns) = (count(0, h), count(1, w));
    let mut all = Vec::new();
    for (channel, row, column) in
        (0..c * rows * columns).map(|i| (i % c, i / c % rows, i / c / rows))
    {
        let mut values = Vec::new();
        for (i, j) in (0..k[0] * k[1]).map(|e| (e / k[1], e % k[1])) {
            let y = (s[0] * row + d[0] * i).wrapping_sub(p[0]);
            let x = (s[1] * column + d[1] * j).wrapping_sub(p[1]);
            if y < h && x < w {
                values.push(z[channel + c * (y + h * x)]);
            }
        }
        all.push((values, k[0] * k[1]));
    }
    all
}

fn output(layer: &dyn Layer<f64>, z: &[f64]) -> Vec<f64> {
    let (u, v) = (
        vec![0.0; z.len() / layer.input_dim() * layer.output_dim()],
        vec![0.0; z.len()],
    );
    laws::products(layer, Execution::Sequential, &[], z, &u, (&v, &[])).output
}

#[test]
fn pooling_is_its_formula() {
    for case in CASES {
        let max = MaxPool2d::new(case.0, window(case.1)).unwrap();
        let mean = AveragePool2d::new(case.0, window(case.1)).unwrap();
        let inner = mean.clone().excluding_padding();
        let z = uniform::<f64>(1, Layer::<f64>::input_dim(&max));
        let all = windows(case, &z);
        let top = |own: &[f64]| own.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let tops: Vec<f64> = all.iter().map(|(own, _)| top(own)).collect();
        assert_eq!(output(&max, &z), tops);
        let sum = |own: &[f64]| own.iter().sum::<f64>();
        let near = |found: Vec<f64>, expected: Vec<f64>| {
            let close = found
                .iter()
                .zip(&expected)
                .all(|(a, b)| (a - b).abs() < 1e-14);
            assert!(
                close && found.len() == expected.len(),
                "{found:?} is not {expected:?}"
            );
        };
        near(
            output(&mean, &z),
            all.iter().map(|(own, m)| sum(own) / *m as f64).collect(),
        );
        near(
            output(&inner, &z),
            all.iter()
                .map(|(own, _)| sum(own) / own.len() as f64)
                .collect(),
        );
    }
}

/// Images whose channels have no two values that are nearly equal: a maximum has a kink there.
fn apart<T: Tested>([channels, height, width]: [usize; 3], n: usize) -> Vec<T> {
    let size = channels * height * width;
    let rank = |i: usize| (i % size / channels * 8 + i % channels * 3 + i / size * 11) % 37;
    let values = (0..n * size).map(|i| T::of(rank(i) as f64 / 18.5 - 1.0));
    values.collect()
}

fn laws_of_layers_hold<T: Tested>() {
    for (input, settings) in CASES {
        let window = window(settings);
        let pool = MaxPool2d::new(input, window).unwrap();
        laws::hold_at(pool, &apart::<T>(input, 3));
        let mean = AveragePool2d::new(input, window).unwrap();
        laws::hold::<T>(mean.clone(), 2);
        laws::hold::<T>(mean.excluding_padding(), 2);
    }
    for shape in [
        Shape::from([3, 2, 4]),
        Shape::from([5]),
        Shape::from([2, 3, 2, 2]),
    ] {
        laws::hold::<T>(GlobalAveragePool::new(shape).unwrap(), 2);
    }
}

fn bits_do_not_depend_on_the_threads<T: Tested>() {
    #[cfg(feature = "rayon")]
    {
        let window = Window2d::new(3).with_stride(2).with_padding(1);
        laws::same_bits_on_threads::<T>(&MaxPool2d::new([8, 24, 24], window).unwrap(), 64);
        laws::same_bits_on_threads::<T>(&AveragePool2d::new([8, 24, 24], window).unwrap(), 64);
    }
}

in_both_scalars!(laws_of_layers_hold, bits_do_not_depend_on_the_threads);

/// Among equal values the first in reading order has the derivative, also of zeros of either sign; NaN
/// reaches the output, and keeps the derivative.
#[test]
fn the_first_maximum_has_the_derivative() {
    // Two rows of two: entries are down the columns.
    let pool = MaxPool2d::new([1, 2, 2], 2).unwrap();
    for (z, top, place) in [
        ([1.0, 1.0, 1.0, 1.0], 1.0, 0),
        ([0.0, 1.0, 1.0, 1.0], 1.0, 2),
        ([0.0, 1.0, 0.5, 1.0], 1.0, 1),
        ([-0.0, 0.0, 0.0, 0.0], 0.0, 0),
        ([-1.0, f64::NEG_INFINITY, -2.0, -3.0], -1.0, 0),
        ([f64::NEG_INFINITY; 4], f64::NEG_INFINITY, 0),
        ([9.0, 1.0, f64::NAN, 1.0], f64::NAN, 2),
        ([9.0, f64::NAN, 3.0, f64::NAN], f64::NAN, 1),
        ([f64::NAN, 1.0, 3.0, 1.0], f64::NAN, 0),
    ] {
        let v = [1.0, 2.0, 4.0, 8.0];
        let found = laws::products(&pool, Execution::Sequential, &[], &z, &[3.0], (&v, &[]));
        assert!(
            found.output[0] == top || (found.output[0].is_nan() && top.is_nan()),
            "{z:?}"
        );
        let mut expected = [0.0; 4];
        expected[place] = 3.0;
        assert_eq!(found.d_input, expected, "{z:?}");
        assert_eq!(found.tangent, [v[place]], "{z:?}");
    }
}

/// Means of numbers whose sum overflows.
#[test]
fn means_do_not_overflow() {
    let z = [f32::MAX; 8];
    let pool = AveragePool2d::new([1, 4, 2], [4, 2]).unwrap();
    let global = GlobalAveragePool::new([2, 4]).unwrap();
    for layer in [&pool as &dyn Layer<f32>, &global] {
        let u = vec![0.0; layer.output_dim()];
        let found = laws::products(layer, Execution::Sequential, &[], &z, &u, (&z, &[]));
        assert!(found.output.iter().all(|&mean| mean == f32::MAX));
    }
}

/// The bounds are those of windows side by side and of windows that overlap.
#[test]
fn bounds_are_exact_for_windows_side_by_side() {
    let bound = |layer: &dyn Layer<f64>| layer.curvature_bound(&[], &mut []).unwrap();
    let near = |found: f64, expected: f64| assert!((found / expected - 1.0).abs() < 1e-12);
    let overlapping = Window2d::new(3).with_stride([1, 2]);
    near(bound(&MaxPool2d::new([2, 9, 9], 3).unwrap()), 1.0);
    near(bound(&MaxPool2d::new([2, 9, 9], overlapping).unwrap()), 6.0);
    near(bound(&AveragePool2d::new([2, 9, 9], 3).unwrap()), 1.0 / 9.0);
    near(
        bound(&AveragePool2d::new([2, 9, 9], overlapping).unwrap()),
        6.0 / 9.0,
    );
    near(
        bound(&GlobalAveragePool::new([2, 9, 9]).unwrap()),
        1.0 / 81.0,
    );
    // Seven rows of windows but one column: three share a value.
    let tall = Window2d::new(3).with_stride(1);
    near(bound(&MaxPool2d::new([1, 9, 3], tall).unwrap()), 3.0);
    near(bound(&MaxPool2d::new([1, 3, 9], tall).unwrap()), 3.0);
    // The first windows hang over the edge by one row: 2 · 2 of their values are not padding.
    let padded = Window2d::new([3, 2])
        .with_stride([3, 2])
        .with_padding([1, 0]);
    let layer = AveragePool2d::new([1, 5, 4], padded).unwrap();
    near(bound(&layer.excluding_padding()), 1.0 / 4.0);
}

/// Sums of many terms are rounded: in `f32`, 630 equal shares gave 1 + 8e-6, above the bound.
#[test]
fn bounds_leave_room_for_rounding() {
    let image = [1, 30, 21];
    let v = [1.0 / 630_f32.sqrt(); 630];
    let layers: [Box<dyn Layer<f32>>; 2] = [
        Box::new(GlobalAveragePool::new(image).unwrap()),
        Box::new(AveragePool2d::new(image, [30, 21]).unwrap()),
    ];
    for layer in layers {
        let found = laws::products(&*layer, Execution::Sequential, &[], &v, &[1.0], (&v, &[]));
        let bound = layer.curvature_bound(&[], &mut []).unwrap();
        let found = found.tangent[0] * found.tangent[0];
        assert!(found <= bound, "{layer:?}: {found} is above {bound}");
    }
}

#[test]
fn windows_without_a_value_are_refused() {
    let refused = |window: Window2d| MaxPool2d::new([1, 2, 3], window).unwrap_err();
    for window in [
        Window2d::new(2).with_padding([2, 0]),
        Window2d::new(2)
            .with_dilation(3)
            .with_padding([1, 1])
            .with_stride(1),
        Window2d::new(4),
        Window2d::new(1).with_stride(0),
    ] {
        let error = refused(window);
        assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
    }
    let error = AveragePool2d::new([1, 0, 3], 1).unwrap_err();
    assert!(matches!(error, Error::ZeroDimension { .. }), "{error}");
    let error = GlobalAveragePool::new([3, 0]).unwrap_err();
    assert!(matches!(error, Error::ZeroDimension { .. }), "{error}");
}
