//! Initial values follow their formulas: moments, bounds, orthogonality, the same draws in `f32`
//! and `f64`, reproducible from the seed; options out of range are typed errors.

use layerwise::init::{Distribution, Fan, Initializer};
use layerwise::layer::{Activation, Dense};
use layerwise::nalgebra::DMatrix;
use layerwise::rand::SeedableRng;
use layerwise::rand::rngs::ChaCha8Rng;
use layerwise::{Circuit, Error, Scalar};

fn draw<T: Scalar>(initializer: Initializer, rows: usize, columns: usize, seed: u64) -> Vec<T> {
    // NaN, so that a value that is not drawn is seen.
    let mut values = vec![T::zero() / T::zero(); rows * columns];
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    initializer.fill(&mut values, rows, columns, &mut rng);
    values
}

const ROWS: usize = 300;
const COLUMNS: usize = 500;

/// The named initialisers and the options, with the variance that their papers give for a
/// 300 × 500 matrix (fan-in 500, fan-out 300).
fn scalings() -> [(Initializer, Distribution, f64); 10] {
    let options = |scale, fan, distribution| Initializer::VarianceScaling {
        scale,
        fan,
        distribution,
    };
    use Distribution::{Normal, Uniform};
    [
        (Initializer::lecun_normal(), Normal, 1.0 / 500.0),
        (Initializer::lecun_uniform(), Uniform, 1.0 / 500.0),
        (Initializer::he_normal(), Normal, 2.0 / 500.0),
        (Initializer::he_uniform(), Uniform, 2.0 / 500.0),
        (Initializer::glorot_normal(), Normal, 2.0 / 800.0),
        (Initializer::glorot_uniform(), Uniform, 2.0 / 800.0),
        (options(3.0, Fan::In, Normal), Normal, 3.0 / 500.0),
        (options(3.0, Fan::Out, Normal), Normal, 3.0 / 300.0),
        (options(3.0, Fan::Out, Uniform), Uniform, 3.0 / 300.0),
        (options(3.0, Fan::Average, Uniform), Uniform, 3.0 / 400.0),
    ]
}

/// Mean, variance and fourth moment within 5 standard errors of the distribution's.
#[test]
fn moments_are_those_of_the_formulas() {
    for (initializer, shape, variance) in scalings() {
        let values = draw::<f64>(initializer, ROWS, COLUMNS, 1);
        let n = values.len() as f64;
        let moment = |k: i32| values.iter().map(|x| x.powi(k)).sum::<f64>() / n;
        // E x⁴ and E x⁸ over the powers of the variance.
        let (fourth, eighth) = match shape {
            Distribution::Normal => (3.0, 105.0),
            Distribution::Uniform => (9.0 / 5.0, 9.0),
        };
        let near = |k: i32, expected: f64, variance_of_term: f64| {
            let error = (moment(k) - expected).abs();
            let room = 5.0 * (variance_of_term / n).sqrt();
            assert!(
                error <= room,
                "{initializer:?}: moment {k}, error {error} > {room}"
            );
        };
        near(1, 0.0, variance);
        near(2, variance, (fourth - 1.0) * variance.powi(2));
        let square = fourth * fourth;
        near(
            4,
            fourth * variance.powi(2),
            (eighth - square) * variance.powi(4),
        );
    }
}

/// Uniform draws fill ±√(3v) and never leave it.
#[test]
fn uniform_draws_fill_their_interval() {
    for (initializer, shape, variance) in scalings() {
        if shape == Distribution::Normal {
            continue;
        }
        let bound = (3.0 * variance).sqrt();
        let values = draw::<f64>(initializer, ROWS, COLUMNS, 2);
        let largest = values.iter().fold(f64::MIN, |a, &b| a.max(b));
        let least = values.iter().fold(f64::MAX, |a, &b| a.min(b));
        assert!(largest <= bound * (1.0 + 1e-15) && least >= -bound * (1.0 + 1e-15));
        assert!(largest > 0.999 * bound && least < -0.999 * bound);
    }
}

/// QᵀQ = gain² I of the shorter side, for tall, wide and square matrices.
#[test]
fn orthogonal_matrices_are_orthogonal() {
    let gain = 1.5;
    for (rows, columns) in [(40, 7), (7, 40), (20, 20), (1, 5), (5, 1), (1, 1)] {
        let values = draw::<f64>(Initializer::Orthogonal { gain }, rows, columns, 3);
        let q = DMatrix::from_vec(rows, columns, values);
        let product = if rows >= columns {
            q.transpose() * &q
        } else {
            &q * q.transpose()
        };
        let side = rows.min(columns);
        let error = (product - DMatrix::identity(side, side) * (gain * gain)).amax();
        assert!(error <= 1e-12, "{rows} x {columns}: {error}");
    }
}

/// Without the signs of R's diagonal the first entry of Q would always have the same sign.
#[test]
fn orthogonal_matrices_take_both_signs() {
    let entry = |seed| draw::<f64>(Initializer::Orthogonal { gain: 1.0 }, 4, 4, seed);
    for i in 0..16 {
        let positive = (0..400).filter(|&seed| entry(seed)[i] > 0.0).count();
        // Half of 400, within 5 standard errors.
        assert!(
            (150..=250).contains(&positive),
            "entry {i}: {positive} of 400"
        );
    }
}

#[test]
fn zeros_and_constants() {
    assert_eq!(draw::<f64>(Initializer::Zeros, 2, 3, 4), [0.0; 6]);
    let value = 0.1;
    let constant = Initializer::Constant { value };
    assert_eq!(draw::<f64>(constant, 2, 3, 4), [0.1; 6]);
    assert_eq!(draw::<f32>(constant, 2, 3, 4), [0.1_f32; 6]);
}

fn all() -> impl Iterator<Item = Initializer> {
    let scalings = scalings().into_iter().map(|(initializer, ..)| initializer);
    scalings.chain([Initializer::Orthogonal { gain: 0.7 }])
}

/// A seed gives the same draws again, another seed others, and `f32` the rounded draws of `f64`.
#[test]
fn draws_follow_the_seed_in_both_scalars() {
    for initializer in all() {
        let double = draw::<f64>(initializer, 9, 14, 5);
        assert_eq!(
            double,
            draw::<f64>(initializer, 9, 14, 5),
            "{initializer:?}"
        );
        let other = draw::<f64>(initializer, 9, 14, 6);
        assert!(
            double.iter().zip(&other).all(|(a, b)| a != b),
            "{initializer:?}"
        );
        let rounded: Vec<f32> = double.iter().map(|&x| x as f32).collect();
        assert_eq!(
            rounded,
            draw::<f32>(initializer, 9, 14, 5),
            "{initializer:?}"
        );
    }
}

/// W and b come from the initialisers that the layer was given; the default depends on the
/// activation. Layers draw from streams of their own, all of the circuit's seed.
#[test]
fn circuits_draw_by_layer_and_seed() {
    let dense = |activation| Dense::new(500, 300, activation).unwrap();
    let build = |layer: Dense, seed| {
        let circuit = Circuit::<f64>::builder().layer(layer).seed(seed).build();
        circuit.unwrap().parameters(0).to_vec()
    };
    let leaky = Activation::LeakyRelu { slope: 0.1 };
    for (activation, variance) in [
        (Activation::Identity, 1.0 / 500.0),
        (Activation::Tanh, 1.0 / 500.0),
        (Activation::Sigmoid, 1.0 / 500.0),
        (Activation::Softplus, 1.0 / 500.0),
        (Activation::Relu, 2.0 / 500.0),
        (leaky, 2.0 / 500.0),
        (Activation::Gelu, 2.0 / 500.0),
        (Activation::Silu, 2.0 / 500.0),
    ] {
        let parameters = build(dense(activation), 7);
        let (weights, bias) = parameters.split_at(150_000);
        let found = weights.iter().map(|w| w * w).sum::<f64>() / 150_000.0;
        let room = 5.0 * variance * (2.0_f64 / 150_000.0).sqrt();
        assert!((found - variance).abs() <= room, "{activation:?}: {found}");
        assert_eq!(bias, [0.0; 300]);
    }
    let chosen = dense(Activation::Tanh)
        .with_weights(Initializer::Constant { value: 0.25 })
        .unwrap()
        .with_bias(Initializer::Constant { value: -2.0 })
        .unwrap();
    let parameters = build(chosen, 7);
    assert!(parameters[..150_000].iter().all(|&w| w == 0.25));
    assert!(parameters[150_000..].iter().all(|&b| b == -2.0));

    let square = || Dense::new(5, 5, Activation::Tanh).unwrap();
    let builder = |seed| {
        Circuit::<f64>::builder()
            .layer(square())
            .layer(square())
            .seed(seed)
    };
    let (one, again, other) = (builder(1).build(), builder(1).build(), builder(2).build());
    let (one, again, other) = (one.unwrap(), again.unwrap(), other.unwrap());
    for t in 0..2 {
        assert_eq!(one.parameters(t), again.parameters(t));
        assert_ne!(one.parameters(t)[..25], other.parameters(t)[..25]);
    }
    assert_ne!(one.parameters(0)[..25], one.parameters(1)[..25]);
}

#[test]
fn options_out_of_range_are_errors() {
    let scaling = |scale| Initializer::VarianceScaling {
        scale,
        fan: Fan::In,
        distribution: Distribution::Normal,
    };
    let scale = "Initializer::VarianceScaling::scale";
    let (value, gain) = (
        "Initializer::Constant::value",
        "Initializer::Orthogonal::gain",
    );
    for (initializer, name) in [
        (scaling(0.0), scale),
        (scaling(-1.0), scale),
        (scaling(f64::NAN), scale),
        (scaling(f64::INFINITY), scale),
        (Initializer::Constant { value: f64::NAN }, value),
        (
            Initializer::Constant {
                value: f64::INFINITY,
            },
            value,
        ),
        (Initializer::Orthogonal { gain: f64::NAN }, gain),
        (
            Initializer::Orthogonal {
                gain: f64::NEG_INFINITY,
            },
            gain,
        ),
    ] {
        let layer = || Dense::new(2, 2, Activation::Tanh).unwrap();
        for result in [
            layer().with_weights(initializer),
            layer().with_bias(initializer),
        ] {
            assert!(
                matches!(&result, Err(Error::InvalidOption { option, .. }) if *option == name),
                "{initializer:?}: {result:?}"
            );
        }
    }
}
