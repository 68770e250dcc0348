//! Multi-head self-attention.

use layerwise::init::Initializer;
use layerwise::kernel::Write;
use layerwise::layer::{Attention, Context, LayerNorm, Point, Sequential};
use layerwise::{Error, Layer};

use super::checked::{Call, count, holds};
use crate::property::{Tested, generator, uniform};

in_both_scalars!(
    passes_every_check,
    is_its_formula,
    scores_beyond_the_scalar_have_a_softmax,
);

pub(crate) fn small(dim: usize, length: usize, heads: usize) -> Attention {
    Attention::new(dim, length, heads).unwrap()
}

fn passes_every_check<T: Tested>() {
    holds::<T>(small(4, 3, 2));
    holds::<T>(small(2, 4, 1).causal());
    holds::<T>(small(3, 2, 3).without_bias());
    holds::<T>(small(2, 1, 2).causal().without_bias());
    let unit: Vec<Box<dyn Layer<T>>> = vec![
        Box::new(LayerNorm::new([2, 3]).unwrap().with_epsilon(0.1).unwrap()),
        Box::new(small(2, 3, 2).causal()),
    ];
    holds::<T>(Sequential::new(unit).unwrap());
}

/// Keys and queries whose products overflow: every position takes the value with the largest score.
fn scores_beyond_the_scalar_have_a_softmax<T: Tested>() {
    let unit = T::max_value().unwrap().sqrt();
    let (dim, length) = (4, 3);
    for causal in [false, true] {
        let layer = small(dim, length, 1).without_bias();
        let layer = if causal { layer.causal() } else { layer };
        // All weight matrices are the identity.
        let mut parameters = vec![T::zero(); 4 * dim * dim];
        for j in 0..dim {
            for kind in 0..3 {
                parameters[j * 3 * dim + kind * dim + j] = T::one();
            }
            parameters[3 * dim * dim + j * dim + j] = T::one();
        }
        // Partial sums of the score between columns 0 and 1 overflow to -∞, but the score is 0.
        let z = [
            [1.0, 1.0, 1.0, 1.0],
            [-1.0, -1.0, 1.0, 1.0],
            [2.0, 2.0, 2.0, 2.0],
        ];
        let expected = match causal {
            false => [z[2], z[1], z[2]],
            true => [z[0], z[1], z[2]],
        };
        for size in [2.0, 1000.0, 1e6] {
            let size = unit * T::of(size);
            let input: Vec<T> = z.iter().flatten().map(|&z| T::of(z) * size).collect();
            let scratch = Layer::<T>::scratch(&layer, 1);
            let [mut tape, mut work] =
                [scratch.tape, scratch.work].map(|length| vec![T::zero(); length]);
            let mut output = vec![T::zero(); dim * length];
            let context = Context::inference(0, 0);
            let kept = Some(&mut tape[..]);
            layer.forward(&context, &parameters, &input, &mut output, kept, &mut work);
            let found: Vec<f64> = output.iter().map(|&z| (z / size).as_f64()).collect();
            assert_eq!(found, expected.concat(), "{size}, causal {causal}");
            // A one-hot softmax has the derivative 0, so the gradient flows only through the values.
            let at = Point::new(context, &parameters, &input, &output, &tape);
            let cotangent = vec![T::one(); dim * length];
            let mut gradient = vec![T::zero(); dim * length];
            let set = Write::Set(&mut gradient[..]);
            layer.vjp(&at, &cotangent, set, Write::Skip, &mut work);
            let total: f64 = gradient.iter().map(|g| g.as_f64()).sum();
            assert_eq!(total, (dim * length) as f64);
        }
    }
}

/// One example by plain loops in f64.
fn by_loops(layer: (usize, usize, usize, bool), parameters: &[f64], z: &[f64]) -> Vec<f64> {
    let (dim, length, heads, causal) = layer;
    let (w_in, rest) = parameters.split_at(3 * dim * dim);
    let (b_in, rest) = rest.split_at(3 * dim);
    let (w_out, b_out) = rest.split_at(dim * dim);
    let affine = |w: &[f64], b: &[f64], z: &[f64], row: usize, column: usize| {
        let terms = (0..dim).map(|j| w[row + j * b.len()] * z[j + column * dim]);
        b[row] + terms.sum::<f64>()
    };
    let rows = dim / heads;
    let mut o = vec![0.0; dim * length];
    for (h, query) in (0..heads).flat_map(|h| (0..length).map(move |query| (h, query))) {
        let seen = if causal { query + 1 } else { length };
        let of = |kind: usize, row: usize, column: usize| {
            affine(w_in, b_in, z, kind * dim + h * rows + row, column)
        };
        let score = |key: usize| {
            let terms = (0..rows).map(|row| of(0, row, query) * of(1, row, key));
            (terms.sum::<f64>() / (rows as f64).sqrt()).exp()
        };
        let sum: f64 = (0..seen).map(score).sum();
        for row in 0..rows {
            let terms = (0..seen).map(|key| of(2, row, key) * score(key) / sum);
            o[h * rows + row + query * dim] = terms.sum();
        }
    }
    let places = (0..length).flat_map(|column| (0..dim).map(move |row| (row, column)));
    places
        .map(|(row, column)| affine(w_out, b_out, &o, row, column))
        .collect()
}

fn is_its_formula<T: Tested>() {
    for (dim, length, heads, causal) in [(4, 3, 2, false), (6, 5, 3, true), (5, 2, 1, false)] {
        let mut layer = small(dim, length, heads);
        if causal {
            layer = layer.causal();
        }
        let parameters = uniform::<T>(&mut generator(1), count::<T>(&layer), 1.0);
        let input = uniform::<T>(&mut generator(2), 2 * dim * length, 1.0);
        let found = Call::new(&layer, &parameters, &input).output;
        let exact = |values: &[T]| values.iter().map(|v| v.as_f64()).collect::<Vec<_>>();
        let examples = input.chunks_exact(dim * length);
        let setting = (dim, length, heads, causal);
        let expected = examples.flat_map(|z| by_loops(setting, &exact(&parameters), &exact(z)));
        for (found, expected) in found.iter().zip(expected) {
            let error = (found.as_f64() - expected).abs();
            assert!(error < 20.0 * T::ROUNDING, "{found}, not {expected}");
        }
    }
}

/// Bit for bit: what comes later is not read, in outputs and in derivatives.
#[test]
fn a_causal_position_does_not_read_later_ones() {
    let layer = small(4, 5, 2).causal();
    let parameters = uniform::<f64>(&mut generator(1), count::<f64>(&layer), 1.0);
    let input = uniform::<f64>(&mut generator(2), 20, 1.0);
    let mut moved = input.clone();
    moved[12..].iter_mut().for_each(|z| *z += 1e3);
    let [one, other] = [&input, &moved].map(|z| Call::new(&layer, &parameters, z).output);
    assert_eq!(one[..12], other[..12]);
    assert_ne!(one[12..], other[12..]);
    let mut u = vec![0.0; 20];
    u[8..12].fill(1.0);
    let (d_input, _) = Call::new(&layer, &parameters, &input).vjp(&u);
    assert_eq!(d_input[12..], [0.0; 8]);
    assert!(d_input[..12].iter().all(|d| *d != 0.0));
}

/// Scores whose exponentials overflow.
#[test]
fn large_scores_are_sound() {
    let layer = small(2, 3, 1);
    let parameters = vec![100.0_f32; count::<f32>(&layer)];
    let input = [1.0, -1.0, 5.0, 3.0, 100.0, 0.0];
    let call = Call::new(&layer, &parameters, &input);
    let (d_input, d_parameters) = call.vjp(&[1.0; 6]);
    let all = call.output.iter().chain(&d_input).chain(&d_parameters);
    assert!(all.into_iter().all(|v| v.is_finite()));
    // The last position has by far the largest score, so all read its value alone.
    assert_eq!(call.output[..2], call.output[4..]);
}

#[test]
fn parameters_are_as_documented() {
    let layer = small(4, 3, 2);
    let groups = Layer::<f64>::parameters(&layer);
    let shown: Vec<_> = groups
        .iter()
        .map(|group| (group.name.as_str(), group.shape.clone(), group.decays))
        .collect();
    let expected = [
        ("in_weights", vec![12, 4], true),
        ("in_bias", vec![12], false),
        ("out_weights", vec![4, 4], true),
        ("out_bias", vec![4], false),
    ];
    assert_eq!(shown, expected);
    let bare = small(4, 3, 2).without_bias();
    assert_eq!(count::<f64>(&bare), 48 + 16);
    let mut drawn = vec![f64::NAN; count::<f64>(&layer)];
    let constant = Initializer::Constant { value: 0.5 };
    let layer = layer.with_weights(constant).unwrap();
    layer.initialize(&mut drawn, &mut generator(0));
    let expected = [vec![0.5; 48], vec![0.0; 12], vec![0.5; 16], vec![0.0; 4]].concat();
    assert_eq!(drawn, expected);
    assert_eq!(Layer::<f64>::cost(&layer), Some(4 * 16 * 3 + 2 * 4 * 9));
    assert_eq!(Call::new(&layer, &drawn, &[0.0; 12]).bound(), None);
}

#[test]
fn refuses_with_the_numbers() {
    let told = Attention::new(6, 3, 4).unwrap_err().to_string();
    assert_eq!(
        told,
        "option Attention::heads is 4, but must be a divisor of the dimension 6"
    );
    for (dim, length, heads) in [(0, 1, 1), (1, 0, 1), (1, 1, 0)] {
        let error = Attention::new(dim, length, heads).unwrap_err();
        assert!(matches!(error, Error::ZeroDimension { .. }), "{error}");
    }
    for (dim, length, heads) in [(1, usize::MAX, 1), (usize::MAX, 1, 1), (4, 1 << 31, 4)] {
        let error = Attention::new(dim, length, heads).unwrap_err();
        assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    }
}

#[cfg(feature = "rayon")]
#[test]
#[cfg_attr(feature = "blas", ignore = "a BLAS sums by shape")]
fn has_the_same_bits_on_threads() {
    fn same<T: layerwise::Scalar>() {
        super::checked::is_the_same_on_threads::<T>(&small(24, 10, 3).causal(), 48);
    }
    same::<f32>();
    same::<f64>();
}
