//! Where auxiliary targets start, and that they stand where they were put.

use layerwise::decoupled::{Projection, Selection, TargetInit};
use layerwise::energy::Energy;
use layerwise::init::{Distribution, Fan, Initializer};
use layerwise::layer::{Activation, Dense};
use layerwise::loss::SoftmaxCrossEntropy;
use layerwise::parameter_solver::LeastSquares;
use layerwise::{Circuit, DecoupledCircuit, Error};
use nalgebra::{DMatrix, DVector};
use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;
use rand_distr::{Distribution as _, StandardNormal};

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

/// Hidden layers of the given activations, then a linear one.
fn circuit(dims: &[usize], hidden: &[Activation]) -> Circuit<f64> {
    let mut builder = Circuit::builder().seed(1);
    for (t, pair) in dims.windows(2).enumerate() {
        let activation = hidden.get(t).copied().unwrap_or(Activation::Identity);
        builder = builder.layer(Dense::new(pair[0], pair[1], activation).unwrap());
    }
    builder.build().unwrap()
}

fn normal(rows: usize, columns: usize, seed: u64) -> DMatrix<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    DMatrix::from_fn(rows, columns, |_, _| StandardNormal.sample(&mut rng))
}

fn classes(rows: usize, columns: usize) -> DMatrix<f64> {
    DMatrix::from_fn(rows, columns, |i, j| f64::from(u8::from(j % rows == i)))
}

/// The circuit, trained to tell classes apart.
fn classifier(circuit: Circuit<f64>) -> DecoupledCircuit<f64> {
    DecoupledCircuit::new(circuit, Energy::new(SoftmaxCrossEntropy)).unwrap()
}

fn model(circuit: Circuit<f64>, n: usize, init: &TargetInit<f64>) -> DecoupledCircuit<f64> {
    let dims = circuit.dims().to_vec();
    let mut model = classifier(circuit);
    let (x, y) = (normal(dims[0], n, 7), classes(dims[dims.len() - 1], n));
    model.add_examples(&x, &y, init).unwrap();
    model
}

fn z(model: &DecoupledCircuit<f64>, t: usize) -> DMatrix<f64> {
    model.z(t).unwrap().into_owned()
}

#[test]
fn the_forward_pass_has_no_gap() {
    let circuit = circuit(&[6, 9, 5, 3], &[Activation::Gelu, Activation::Sigmoid]);
    let model = model(circuit, 20, &TargetInit::ForwardPass);
    assert_eq!(model.gap().unwrap(), [0.0, 0.0]);
    assert_eq!(model.energy().unwrap(), model.composed_loss().unwrap());
    // z_{T−1} leads to the prediction.
    let (w, b) = model.circuit().parameters(2).split_at(15);
    let w = DMatrix::from_column_slice(3, 5, w);
    let mut expected = w * z(&model, 2);
    for mut column in expected.column_iter_mut() {
        column += DVector::from_column_slice(b);
    }
    let difference = model.predict(&z(&model, 0)).unwrap() - expected;
    assert!(difference.amax() < 1e-14);
}

/// Mean, standard deviation and kurtosis of many normal draws, within five standard errors.
fn check_normal(draws: &DMatrix<f64>, std: f64) {
    let n = draws.len() as f64;
    let moment = |power| draws.iter().map(|x| (x / std).powi(power)).sum::<f64>() / n;
    for (power, expected, variance) in [(1, 0.0, 1.0), (2, 1.0, 2.0), (4, 3.0, 96.0)] {
        let error = moment(power) - expected;
        let limit = 5.0 * f64::sqrt(variance / n);
        assert!(error.abs() < limit, "moment {power}: {error} of {limit}");
    }
}

fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let (a_mean, b_mean) = (mean(a), mean(b));
    let product = |x: &[f64], x_mean: f64, y: &[f64], y_mean: f64| -> f64 {
        let terms = x.iter().zip(y).map(|(x, y)| (x - x_mean) * (y - y_mean));
        terms.sum()
    };
    product(a, a_mean, b, b_mean)
        / (product(a, a_mean, a, a_mean) * product(b, b_mean, b, b_mean)).sqrt()
}

#[test]
fn noise_is_normal_and_of_the_width_asked_for() {
    let circuit = circuit(&[6, 30, 30, 3], &[Activation::Tanh, Activation::Tanh]);
    let n = 400;
    let with = |init: TargetInit<f64>| model(circuit.clone(), n, &init);
    let forward = with(TargetInit::ForwardPass);
    let noisy = |seed| with(TargetInit::NoisyForwardPass { std: 0.3, seed });
    let random = |seed| with(TargetInit::RandomNormal { std: 2.5, seed });
    let noise = |seed, t| z(&noisy(seed), t) - z(&forward, t);
    for t in [1, 2] {
        check_normal(&noise(4, t), 0.3);
        check_normal(&z(&random(4), t), 2.5);
    }
    assert_eq!(z(&random(4), 1), z(&random(4), 1));
    assert_eq!(z(&noisy(4), 2), z(&noisy(4), 2));
    // Layers and seeds draw from streams of their own.
    for (a, b) in [
        (z(&random(4), 1), z(&random(4), 2)),
        (z(&random(4), 1), z(&random(5), 1)),
        (noise(4, 1), noise(4, 2)),
        (noise(4, 1), noise(5, 1)),
    ] {
        let r = correlation(a.as_slice(), b.as_slice());
        assert!(r.abs() < 5.0 / f64::sqrt((30 * n) as f64), "{r}");
    }
    let none = with(TargetInit::NoisyForwardPass { std: 0.0, seed: 4 });
    assert_eq!(z(&none, 1), z(&forward, 1));
}

#[test]
fn given_targets_are_taken_as_they_are() {
    let circuit = circuit(&[6, 4, 5, 3], &[Activation::Tanh, Activation::Tanh]);
    let (first, second) = (normal(4, 8, 1), normal(5, 8, 2));
    let init = TargetInit::Given(vec![first.clone(), second.clone()]);
    let mut model = model(circuit, 8, &init);
    assert_eq!((z(&model, 1), z(&model, 2)), (first, second));

    // Anew for all.
    let (first, second) = (normal(4, 8, 3), normal(5, 8, 4));
    let (x, y) = (z(&model, 0), z(&model, 3));
    let init = TargetInit::Given(vec![first.clone(), second.clone()]);
    model.initialize_targets(&init).unwrap();
    assert_eq!(
        (z(&model, 1), z(&model, 2)),
        (first.clone(), second.clone())
    );
    assert_eq!((z(&model, 0), z(&model, 3)), (x, y));

    // Anew for some, by column and by number, in the order of the selection.
    let part = normal(5, 3, 5);
    model
        .set_targets(2, &Selection::Columns(4..7), &part)
        .unwrap();
    let mut expected = second;
    expected.columns_mut(4, 3).copy_from(&part);
    assert_eq!(z(&model, 2), expected);
    model
        .set_targets(2, &Selection::Examples(&[7, 0, 5]), &part)
        .unwrap();
    for (i, column) in [7, 0, 5].into_iter().enumerate() {
        expected.set_column(column, &part.column(i));
    }
    assert_eq!(z(&model, 2), expected);
    assert_eq!(z(&model, 1), first);
}

#[test]
fn projected_targets_lie_in_the_range_of_every_activation() {
    for activation in ACTIVATIONS {
        let circuit = circuit(&[12, 12, 7, 15, 3], &[activation; 3]);
        let model = model(circuit, 150, &TargetInit::Projected { seed: 3 });
        let (centre, spread) = activation.target_range();
        for t in 1..4 {
            let mut squares = 0.0;
            for row in z(&model, t).row_iter() {
                let mean = row.mean();
                assert!((mean - centre).abs() < 1e-12, "{activation:?}: mean {mean}");
                squares += row.variance() / row.nrows() as f64;
            }
            let units = z(&model, t).nrows() as f64;
            let rms = (squares / units).sqrt();
            assert!((rms - spread).abs() < 1e-12, "{activation:?}: spread {rms}");
        }
    }
}

/// z_t without the range of its layer: s_t.
fn standard(model: &DecoupledCircuit<f64>, t: usize, activation: Activation) -> DMatrix<f64> {
    let (centre, spread) = activation.target_range();
    z(model, t).map(|z| (z - centre) / spread)
}

#[test]
fn projected_targets_are_orthogonal_projections_one_of_the_other() {
    let activation = Activation::Sigmoid;
    let circuit = circuit(&[12, 12, 9, 4, 3], &[activation; 3]);
    let model = model(circuit, 200, &TargetInit::Projected { seed: 3 });
    for t in 2..4 {
        let (from, to) = (
            standard(&model, t - 1, activation),
            standard(&model, t, activation),
        );
        // s_t = Q s_{t−1} / r; the map is found by least squares.
        let inverse = (&from * from.transpose()).try_inverse().unwrap();
        let mut map = &to * from.transpose() * inverse;
        assert!((&map * from - to).amax() < 1e-10, "z_{t} is no linear map");
        map.unscale_mut(map.row(0).norm());
        let gram = &map * map.transpose();
        let size = gram.nrows();
        let error = (gram - DMatrix::identity(size, size)).amax();
        assert!(
            error < 1e-10,
            "the rows of Q_{t} are not orthonormal: {error}"
        );
    }
}

fn distances(points: &DMatrix<f64>) -> Vec<f64> {
    let n = points.ncols();
    (0..n)
        .flat_map(|i| (0..i).map(move |j| (i, j)))
        .map(|(i, j)| (points.column(i) - points.column(j)).norm())
        .collect()
}

#[test]
fn projected_targets_carry_the_distances_of_the_inputs_through_depth() {
    let depth = 20;
    let mut dims = vec![16; depth];
    dims.push(3);
    let circuit = circuit(&dims, &vec![Activation::Tanh; depth - 1]);
    let carried = |init: TargetInit<f64>, t: usize| {
        let model = model(circuit.clone(), 120, &init);
        correlation(&distances(&z(&model, 0)), &distances(&z(&model, t)))
    };
    let last = depth - 1;
    for t in [1, last] {
        let r = carried(TargetInit::Projected { seed: 3 }, t);
        assert!(r > 0.9, "z_{t}: {r}");
    }
    // What it is for: random targets carry nothing.
    let r = carried(TargetInit::RandomNormal { std: 0.4, seed: 3 }, last);
    assert!(r.abs() < 0.1, "{r}");
}

#[test]
fn between_layers_of_one_width_projected_targets_keep_distances() {
    let circuit = circuit(&[20, 16, 16, 16, 3], &[Activation::Tanh; 3]);
    let model = model(circuit, 50, &TargetInit::Projected { seed: 3 });
    let first = distances(&z(&model, 1));
    for t in [2, 3] {
        let own = distances(&z(&model, t));
        let far = first.iter().zip(&own).map(|(a, b)| (a - b).abs());
        assert!(far.fold(0.0, f64::max) < 1e-12, "z_{t}");
    }
}

#[test]
fn one_closed_form_pass_on_projected_targets_makes_a_deep_circuit_carry_its_input() {
    let depth = 30;
    for sigma in [0.3, 4.0] {
        let weights = Initializer::VarianceScaling {
            scale: sigma * sigma,
            fan: Fan::In,
            distribution: Distribution::Normal,
        };
        let mut builder = Circuit::<f64>::builder();
        for _ in 0..depth {
            let layer = Dense::new(16, 16, Activation::Tanh).unwrap();
            builder = builder.layer(layer.with_weights(weights).unwrap());
        }
        let circuit = builder.build().unwrap();
        let x = normal(16, 200, 5);
        let projection = Projection::fit(&circuit, &x, 3).unwrap();
        let projection = projection.with_spread(0.25).unwrap();
        let mut model = DecoupledCircuit::new(circuit, Energy::default()).unwrap();
        let targets = TargetInit::Given(projection.apply(&x).unwrap());
        model.add_examples(&x, &(0.1 * &x), &targets).unwrap();
        let carried = |model: &DecoupledCircuit<f64>| {
            let mut forward = model.clone();
            forward
                .initialize_targets(&TargetInit::ForwardPass)
                .unwrap();
            correlation(&distances(&x), &distances(&z(&forward, depth - 1)))
        };
        let before = carried(&model);
        assert!(before < 0.6, "σ = {sigma}: {before}");
        let solver = LeastSquares::ridge(1e-9).unwrap();
        for t in 0..depth - 1 {
            model.solve_parameters(t, &solver, &Selection::All).unwrap();
        }
        let after = carried(&model);
        assert!(after > 0.9, "σ = {sigma}: {after}");
    }
}

#[test]
fn a_spread_scales_projected_targets_around_their_centres() {
    let circuit = circuit(&[8, 6, 5, 3], &[Activation::Sigmoid, Activation::Tanh]);
    let x = normal(8, 30, 9);
    let whole = Projection::fit(&circuit, &x, 3).unwrap();
    let half = whole.clone().with_spread(0.5).unwrap();
    let targets = whole
        .apply(&x)
        .unwrap()
        .into_iter()
        .zip(half.apply(&x).unwrap());
    for ((whole, half), centre) in targets.zip([0.5, 0.0]) {
        let expected = whole.map(|z| centre + 0.5 * (z - centre));
        assert!((half - expected).amax() < 1e-15);
    }
    for factor in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let error = Projection::fit(&circuit, &x, 3)
            .unwrap()
            .with_spread(factor);
        assert!(
            matches!(error, Err(layerwise::Error::InvalidOption { .. })),
            "{factor}"
        );
    }
}

#[test]
#[cfg_attr(feature = "blas", ignore = "a BLAS sums by shape")]
fn a_fitted_projection_serves_examples_that_come_later() {
    let circuit = circuit(&[8, 70, 5, 3], &[Activation::Tanh, Activation::Sigmoid]);
    let x = normal(8, 40, 9);
    let projection = Projection::fit(&circuit, &x, 3).unwrap();
    let whole = projection.apply(&x).unwrap();

    let mut model = classifier(circuit.clone());
    let y = classes(3, 40);
    model
        .add_examples(&x, &y, &TargetInit::Projected { seed: 3 })
        .unwrap();
    for t in [1, 2] {
        assert_eq!(z(&model, t), whole[t - 1]);
    }
    for start in [0, 7, 39] {
        let count = (40 - start).min(11);
        let part = projection
            .apply(&x.columns(start, count).into_owned())
            .unwrap();
        for t in [1, 2] {
            assert_eq!(part[t - 1], whole[t - 1].columns(start, count));
        }
    }
    assert_ne!(projection, Projection::fit(&circuit, &x, 4).unwrap());
    // Later examples do not move the fit: another mean stays another mean.
    let shifted = projection.apply(&x.add_scalar(2.0)).unwrap();
    assert!((shifted[0].clone() - &whole[0]).amax() > 0.1);
}

#[test]
fn pixels_that_never_change_play_no_part() {
    let circuit = circuit(&[8, 6, 5, 3], &[Activation::Tanh, Activation::Tanh]);
    let project = |constant: f64| {
        let mut x = normal(8, 30, 9);
        x.row_mut(2).fill(constant);
        x.row_mut(5).fill(-constant);
        Projection::fit(&circuit, &x, 3).unwrap().apply(&x).unwrap()
    };
    let zero = project(0.0);
    assert!(zero.iter().flat_map(|z| z.iter()).all(|z| z.is_finite()));
    // 0.1 is no binary fraction: its mean rounds, and the rounding must not be standardised.
    for constant in [1.0, 0.1, 1e6, 1.0 / 3.0] {
        for (own, expected) in project(constant).iter().zip(&zero) {
            assert!((own - expected).amax() < 1e-10, "{constant}");
        }
    }
}

/// The largest |a − c b| over the entries, c the factor that fits best, beside the largest |a|.
fn distance_from_multiple(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let factor = dot(a, b) / dot(b, b);
    let rest = a.iter().zip(b).map(|(a, b)| (a - factor * b).abs());
    rest.fold(0.0, f64::max) / a.iter().map(|a| a.abs()).fold(0.0, f64::max)
}

#[test]
fn equal_seeds_do_not_make_targets_equal_weights() {
    // Square layers and as many examples as units, so that draws could coincide one by one.
    let square = |initializer| {
        let dense = || Dense::new(8, 8, Activation::Tanh).unwrap();
        let first = dense().with_weights(initializer).unwrap();
        let second = dense().with_weights(initializer).unwrap();
        Circuit::<f64>::builder()
            .layer(first)
            .layer(second)
            .layer(dense())
            .seed(5)
            .build()
            .unwrap()
    };
    let random = square(Initializer::lecun_normal());
    let mut model = DecoupledCircuit::new(random, Energy::default()).unwrap();
    let init = TargetInit::RandomNormal { std: 1.0, seed: 5 };
    model
        .add_examples(&normal(8, 8, 1), &normal(8, 8, 2), &init)
        .unwrap();
    for t in 1..3 {
        for layer in 0..3 {
            let weights = &model.circuit().parameters(layer)[..64];
            let far = distance_from_multiple(z(&model, t).as_slice(), weights);
            assert!(far > 0.1, "z_{t} is a multiple of W_{layer}");
        }
    }
    // Q_1 s_0 of whitened inputs, against W_0 s_0 of orthogonal weights.
    let orthogonal = square(Initializer::Orthogonal { gain: 1.0 });
    let inputs = normal(8, 500, 3);
    let projection = Projection::fit(&orthogonal, &inputs, 5).unwrap();
    let targets = projection.apply(&inputs).unwrap();
    for layer in 0..2 {
        let w = DMatrix::from_column_slice(8, 8, &orthogonal.parameters(layer)[..64]);
        let far = distance_from_multiple(targets[0].as_slice(), (w * &inputs).as_slice());
        assert!(far > 0.1, "the projection is W_{layer}");
    }
}

#[test]
fn constant_inputs_play_no_part_in_f32_and_small_units_do() {
    let circuit = Circuit::<f32>::builder()
        .layer(Dense::new(3, 4, Activation::Tanh).unwrap())
        .layer(Dense::new(4, 1, Activation::Identity).unwrap())
        .build()
        .unwrap();
    // Row 0 never changes, at a value that no f32 holds exactly.
    let wave = |scale: f32| {
        DMatrix::from_fn(3, 1000, |i, j| match i {
            0 => 0.1f32,
            _ => scale * ((i * j) as f32 * 0.7).sin(),
        })
    };
    let fitted = Projection::fit(&circuit, &wave(1.0), 0).unwrap();
    let mut other = wave(1.0);
    other.row_mut(0).fill(0.2);
    let moved = &fitted.apply(&other).unwrap()[0] - &fitted.apply(&wave(1.0)).unwrap()[0];
    assert_eq!(moved.amax(), 0.0);
    // The same inputs in units of 1e-8 give the same targets.
    let tiny = Projection::fit(&circuit, &wave(1e-8), 0).unwrap();
    let difference = &tiny.apply(&wave(1e-8)).unwrap()[0] - &fitted.apply(&wave(1.0)).unwrap()[0];
    assert!(difference.amax() < 1e-5, "{}", difference.amax());
}

/// Inputs at the end of the range, whose centred values overflow.
#[test]
fn projections_that_overflow_are_an_error() {
    let layer = |input, output| Dense::new(input, output, Activation::Tanh).unwrap();
    let circuit = Circuit::builder().layer(layer(1, 2)).layer(layer(2, 1));
    let circuit: Circuit<f32> = circuit.build().unwrap();
    let inputs = DMatrix::from_row_slice(1, 3, &[3.4e38, -3.4e38, -3.4e38]);
    let projection = Projection::fit(&circuit, &inputs, 0).unwrap();
    let overflow = projection.apply(&inputs).unwrap_err();
    assert!(matches!(overflow, Error::Overflow { .. }), "{overflow}");
}
