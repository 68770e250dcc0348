//! Inference of free inputs and outputs with θ fixed.

use std::ops::Range;

use crate::property::{generator, uniform};
use layerwise::decoupled::{DecoupledCircuit, Selection, TargetInit};
use layerwise::energy::Energy;
use layerwise::inference::Evidence;
use layerwise::layer::{Activation, Attention, Dense, Embedding};
use layerwise::loss::{Loss, Poisson, SoftmaxCrossEntropy, SquaredError};
use layerwise::nalgebra::{DMatrix, DVector};
use layerwise::target_solver::{
    ErrorDescent, GaussNewton, RedBlack, ReverseSweep, StepSize, SynchronousDescent, TargetSolver,
};
use layerwise::{Circuit, Error};

const N: usize = 4;

fn circuit(widths: &[usize], activation: Activation) -> Circuit<f64> {
    let last = widths.len() - 2;
    let layers = widths.windows(2).enumerate().map(|(t, pair)| {
        let activation = if t == last {
            Activation::Identity
        } else {
            activation
        };
        Dense::new(pair[0], pair[1], activation).unwrap()
    });
    Circuit::builder().layers(layers).seed(3).build().unwrap()
}

fn model(
    widths: &[usize],
    activation: Activation,
    loss: impl Loss<f64> + 'static,
) -> DecoupledCircuit<f64> {
    let hidden = widths.len() - 2;
    let penalties = (0..hidden).map(|t| 0.5 + t as f64).collect();
    let energy = Energy::new(loss).with_penalties(penalties);
    DecoupledCircuit::new(circuit(widths, activation), energy).unwrap()
}

/// Values, and a mask in which about half of the entries are free.
fn values(rows: usize, seed: u64) -> (DMatrix<f64>, DMatrix<bool>) {
    let rng = &mut generator(seed);
    let values = DMatrix::from_vec(rows, N, uniform(rng, rows * N, 1.0));
    let free = DMatrix::from_vec(rows, N, uniform::<f64>(rng, rows * N, 1.0));
    (values, free.map(|u| u > 0.0))
}

/// Evidence in which about half of everything is free.
fn evidence(widths: &[usize]) -> (Evidence<f64>, [DMatrix<bool>; 2]) {
    let (x, free_x) = values(widths[0], 1);
    let (y, free_y) = values(widths[widths.len() - 1], 2);
    let mean: Vec<f64> = (0..widths[0]).map(|k| 0.1 * k as f64).collect();
    let own = Evidence::new(x, y).unwrap();
    let own = own.with_free_inputs(free_x.clone()).unwrap();
    let own = own.with_free_targets(free_y.clone()).unwrap();
    (own.with_prior(0.7, &mean).unwrap(), [free_x, free_y])
}

/// E of one example, from its definition.
fn energy(
    model: &DecoupledCircuit<f64>,
    free: [&[bool]; 2],
    z: &[DVector<f64>],
    (precision, mean): (f64, &[f64]),
) -> f64 {
    let depth = model.circuit().depth();
    let prior: f64 = (0..z[0].len())
        .filter(|&k| free[0][k])
        .map(|k| 0.5 * precision * (z[0][k] - mean[k]).powi(2))
        .sum();
    let mut total = prior;
    for t in 0..depth {
        let own = DMatrix::from_column_slice(z[t].len(), 1, z[t].as_slice());
        let mut layer = Circuit::builder()
            .layer(model_layer(model, t))
            .build()
            .unwrap();
        layer
            .set_parameters(0, model.circuit().parameters(t))
            .unwrap();
        let predicted = layer.predict(&own).unwrap();
        let last = t == depth - 1;
        let squares = (0..predicted.nrows())
            .filter(|&k| !last || !free[1][k])
            .map(|k| 0.5 * (z[t + 1][k] - predicted[(k, 0)]).powi(2));
        let weight = if last {
            1.0
        } else {
            model.terms().penalties()[t]
        };
        total += weight * squares.sum::<f64>();
    }
    total
}

/// A copy of layer t.
fn model_layer(model: &DecoupledCircuit<f64>, t: usize) -> Dense {
    let layer = model.circuit().layer(t);
    let activation = layer.affine().unwrap().activation;
    Dense::new(layer.input_dim(), layer.output_dim(), activation).unwrap()
}

/// Solvers that never raise E.
fn solvers(steps: u64) -> Vec<Box<dyn TargetSolver<f64>>> {
    let checked = StepSize::Checked(0.5);
    vec![
        Box::new(ReverseSweep::new(steps).with_step(checked).unwrap()),
        Box::new(RedBlack::new(steps).with_step(checked).unwrap()),
        Box::new(SynchronousDescent::new(steps, checked).unwrap()),
        Box::new(ErrorDescent::new(steps).with_step(checked).unwrap()),
        Box::new(GaussNewton::new(steps, 20)),
        Box::new(GaussNewton::chained(steps, 20)),
        Box::new(GaussNewton::direct(steps)),
        Box::new(GaussNewton::cyclic_reduction(steps)),
    ]
}

/// What was inferred is a stationary point of E over all that is free: from its definition, by
/// central differences.
#[test]
fn every_solver_finds_a_stationary_point() {
    let widths = [5, 4, 6, 3];
    let model = model(&widths, Activation::Tanh, SquaredError);
    let (evidence, [free_x, free_y]) = evidence(&widths);
    let mean: Vec<f64> = (0..widths[0]).map(|k| 0.1 * k as f64).collect();
    let (x, _) = values(widths[0], 1);
    let (y, _) = values(widths[3], 2);
    for solver in solvers(1500) {
        let found = model.infer(&evidence, &*solver).unwrap();
        let mut sum = 0.0;
        for i in 0..N {
            let masks = [free_x.column(i), free_y.column(i)];
            let masks = [0, 1].map(|k| masks[k].iter().copied().collect::<Vec<bool>>());
            let masks = [&masks[0][..], &masks[1][..]];
            let mut z = vec![found.inputs.column(i).into_owned()];
            z.extend(found.hidden.iter().map(|z| z.column(i).into_owned()));
            z.push(found.outputs.column(i).into_owned());
            let of = |z: &[DVector<f64>]| energy(&model, masks, z, (0.7, &mean));
            sum += of(&z);
            for t in 0..3 {
                for k in 0..z[t].len() {
                    if t == 0 && !masks[0][k] {
                        assert_eq!(z[0][k], x[(k, i)], "clamped");
                        continue;
                    }
                    let slope = [1e-5, -1e-5].map(|h| {
                        let mut moved = z.clone();
                        moved[t][k] += h;
                        of(&moved)
                    });
                    let slope = (slope[0] - slope[1]) / 2e-5;
                    assert!(slope.abs() < 1e-5, "{solver:?}: {slope} at z_{t}, {k}");
                }
            }
            for k in 0..3 {
                if !masks[1][k] {
                    assert_eq!(z[3][k], y[(k, i)], "clamped");
                }
            }
        }
        let error = (sum - found.energy[1]).abs();
        assert!(
            error < 1e-12,
            "{solver:?}: E is {sum}, not {:?}",
            found.energy
        );
    }
}

/// Whatever the steps, E does not rise, and an example's result is its own.
#[test]
fn no_checked_solver_raises_the_energy() {
    let widths = [5, 4, 6, 3];
    let model = model(&widths, Activation::Tanh, SquaredError);
    let (all, [free_x, free_y]) = evidence(&widths);
    for steps in [1, 2, 7] {
        for solver in solvers(steps) {
            let found = model.infer(&all, &*solver).unwrap();
            let [before, after] = found.energy;
            assert!(after < before, "{solver:?}: {before} to {after}");
            for i in 0..N {
                let column = |m: &DMatrix<f64>| m.columns(i, 1).into_owned();
                let mask = |m: &DMatrix<bool>| m.columns(i, 1).into_owned();
                let (x, y) = (values(5, 1).0, values(3, 2).0);
                let mean: Vec<f64> = (0..5).map(|k| 0.1 * k as f64).collect();
                let alone = Evidence::new(column(&x), column(&y)).unwrap();
                let alone = alone.with_free_inputs(mask(&free_x)).unwrap();
                let alone = alone.with_free_targets(mask(&free_y)).unwrap();
                let alone = alone.with_prior(0.7, &mean).unwrap();
                let alone = model.infer(&alone, &*solver).unwrap();
                // A BLAS sums by shape.
                if cfg!(not(feature = "blas")) {
                    assert_eq!(alone.inputs, column(&found.inputs), "{solver:?}");
                    assert_eq!(alone.outputs, column(&found.outputs), "{solver:?}");
                }
            }
        }
    }
}

/// One linear layer: the posterior mean of Gaussian inputs.
#[test]
fn a_linear_layer_gives_the_posterior_mean() {
    let model = model(&[4, 3], Activation::Identity, SquaredError);
    let w = DMatrix::from_column_slice(3, 4, &model.circuit().parameters(0)[..12]);
    let (y, _) = values(3, 5);
    let free = DMatrix::from_element(4, N, true);
    let evidence = Evidence::new(DMatrix::zeros(4, N), y.clone()).unwrap();
    let evidence = evidence.with_free_inputs(free).unwrap();
    let evidence = evidence.with_prior(0.3, &[1.0, 0.0, -1.0, 2.0]).unwrap();
    // Undamped, a single step is exact; damped ones end where E falls by less than its rounding.
    let solver = GaussNewton::direct(1).with_damping(0.0).unwrap();
    let found = model.infer(&evidence, &solver).unwrap();
    let mean = DVector::from_row_slice(&[1.0, 0.0, -1.0, 2.0]);
    let precision: DMatrix<f64> = w.transpose() * &w + 0.3 * DMatrix::identity(4, 4);
    for i in 0..N {
        let right: DVector<f64> = w.transpose() * y.column(i) + 0.3 * &mean;
        let expected: DVector<f64> = precision.clone().cholesky().unwrap().solve(&right);
        let error = (expected - found.inputs.column(i)).amax();
        // By the rounding of E, a solver may refuse a last step, √ε long.
        assert!(error < 1e-12, "{error}");
    }
}

/// With nothing free, the hidden targets are those that a Z-step of the model itself gives.
#[test]
fn nothing_free_is_a_plain_z_step() {
    let widths = [3, 4, 2];
    let mut plain = model(&widths, Activation::Tanh, SquaredError);
    let (x, y) = (values(3, 1).0, values(2, 2).0);
    let evidence = Evidence::new(x.clone(), y.clone()).unwrap();
    let solver = ReverseSweep::new(3);
    let found = plain.infer(&evidence, &solver).unwrap();
    plain
        .add_examples(&x, &y, &TargetInit::ForwardPass)
        .unwrap();
    let before = plain.energy().unwrap();
    plain.solve_targets(&solver, &Selection::All).unwrap();
    assert_eq!(found.hidden[0], plain.z(1).unwrap());
    assert_eq!(found.energy, [before, plain.energy().unwrap()]);
    assert_eq!((found.inputs, found.outputs), (x, y));
}

/// Long Langevin runs on E = ½ κ z² + ½ (w z − y)² have its Gaussian's mean and variance.
#[test]
fn noise_samples_from_the_gaussian() {
    let mut model = model(&[1, 1], Activation::Identity, SquaredError);
    model.set_parameters(0, &[2.0, 0.0]).unwrap();
    let n = 4000;
    let ones = DMatrix::from_element(1, n, 3.0);
    let evidence = Evidence::new(DMatrix::zeros(1, n), ones).unwrap();
    let evidence = evidence
        .with_free_inputs(DMatrix::from_element(1, n, true))
        .unwrap();
    let solver = |temperature, seed| {
        let plain = SynchronousDescent::new(100, StepSize::Fixed(0.05)).unwrap();
        plain.with_noise(temperature, seed).unwrap()
    };
    let found = model.infer(&evidence, &solver(0.5, 1)).unwrap().inputs;
    let (mean, variance) = (found.mean(), found.variance());
    // Curvature 1 + 2² = 5; the chain's own variance is τ/5 / (1 − 0.05 · 5/2).
    assert!((mean - 6.0 / 5.0).abs() < 0.02, "{mean}");
    assert!((variance - 0.1 / (1.0 - 0.125)).abs() < 0.01, "{variance}");
    let again = model.infer(&evidence, &solver(0.5, 1)).unwrap().inputs;
    assert_eq!(found, again);
    let other = model.infer(&evidence, &solver(0.5, 2)).unwrap().inputs;
    assert!(found.iter().zip(&other).all(|(a, b)| a != b));
    let still = model.infer(&evidence, &solver(0.0, 1)).unwrap().inputs;
    assert!(still.iter().all(|z| (z - 1.2).abs() < 1e-8), "{still}");
}

/// Noise also moves what is clamped, but E is that of what is free.
#[test]
fn noise_on_clamped_inputs_is_no_part_of_the_energy() {
    let widths = [3, 4, 2];
    let model = model(&widths, Activation::Tanh, SquaredError);
    let (evidence, [free_x, free_y]) = evidence(&widths);
    let noisy = SynchronousDescent::new(20, StepSize::Fixed(0.05)).unwrap();
    let noisy = noisy.with_noise(0.5, 1).unwrap();
    let found = model.infer(&evidence, &noisy).unwrap();
    let whole: f64 = (0..N)
        .map(|i| {
            let (free_x, free_y) = (free_x.column(i), free_y.column(i));
            let z = [&found.inputs, &found.hidden[0], &found.outputs];
            let z = z.map(|z| z.column(i).into_owned());
            let free = [free_x.as_slice(), free_y.as_slice()];
            energy(&model, free, &z, (0.7, &[0.0, 0.1, 0.2]))
        })
        .sum();
    let difference = found.energy[1] - whole;
    assert!(difference.abs() < 1e-12 * whole, "{found:?}, not {whole}");
}

/// The value of a free target plays no role, large as it may be: e^800 is infinite.
#[test]
fn values_of_free_targets_play_no_role() {
    let widths = [3, 4, 2];
    let model = model(&widths, Activation::Tanh, Poisson);
    let x = values(3, 1).0;
    let y = |hidden: f64| DMatrix::from_fn(2, N, |k, i| if k == i % 2 { 2.0 } else { hidden });
    let free = DMatrix::from_fn(2, N, |k, i| k != i % 2);
    let checked = ReverseSweep::new(5)
        .with_step(StepSize::Checked(0.5))
        .unwrap();
    let infer = |hidden| {
        let evidence = Evidence::new(x.clone(), y(hidden)).unwrap();
        let evidence = evidence.with_free_targets(free.clone()).unwrap();
        model.infer(&evidence, &checked).unwrap()
    };
    let found = infer(1.0);
    assert!(found.energy[1] < found.energy[0]);
    for hidden in [0.0, 50.0, 800.0, 1e300] {
        assert_eq!(infer(hidden), found, "{hidden}");
    }
}

/// A first layer without a curvature bound needs none unless an input is free.
#[test]
fn clamped_inputs_need_no_bound() {
    let circuit = Circuit::<f64>::builder()
        .layer(Embedding::new(3, 2, 2).unwrap())
        .layer(Dense::new(4, 3, Activation::Tanh).unwrap())
        .layer(Dense::new(3, 2, Activation::Identity).unwrap());
    let mut model = DecoupledCircuit::new(circuit.build().unwrap(), Energy::default()).unwrap();
    let tokens = DMatrix::from_fn(2, N, |k, i| ((k + i) % 3) as f64);
    let y = values(2, 2).0;
    let evidence = Evidence::new(tokens.clone(), y.clone()).unwrap();
    let sweep = ReverseSweep::new(3);
    let found = model.infer(&evidence, &sweep).unwrap();
    let init = TargetInit::ForwardPass;
    model.add_examples(&tokens, &y, &init).unwrap();
    model.solve_targets(&sweep, &Selection::All).unwrap();
    for (t, own) in (1..).zip(&found.hidden) {
        assert!((own - model.z(t).unwrap()).amax() < 1e-12);
    }
    let all = DMatrix::from_element(2, N, true);
    let free = evidence.with_free_inputs(all).unwrap();
    let error = model.infer(&free, &sweep).unwrap_err();
    assert_eq!(error, Error::InputNotDifferentiable { layer: 0 });
}

/// A Poisson loss that rejects the target (1, 0).
#[derive(Debug)]
struct Counts;

impl Loss<f64> for Counts {
    fn check_target(&self, dim: usize, target: &[f64]) -> Result<(), Error> {
        match target.chunks(dim).any(|own| own == [1.0, 0.0]) {
            true => Err(Error::NothingCompared),
            false => Poisson.check_target(dim, target),
        }
    }

    fn is_sum_over_units(&self) -> bool {
        true
    }

    valued_by!(Poisson);
}

/// The loss rejects the second example with 0 as its free target, so that example keeps its own. The first
/// one must not keep its 800, which would be read as a log-rate.
#[test]
fn a_target_that_must_stay_stays_alone() {
    let model = model(&[2, 3, 2], Activation::Tanh, Counts);
    let x = DMatrix::from_row_slice(2, 2, &[0.3, -0.2, 0.5, 0.1]);
    let y = DMatrix::from_row_slice(2, 2, &[3.0, 1.0, 800.0, 2.0]);
    let free = DMatrix::from_row_slice(2, 2, &[false, false, true, true]);
    let solver = ReverseSweep::new(3)
        .with_step(StepSize::Checked(0.1))
        .unwrap();
    let inferred = |examples: Range<usize>| {
        let (from, n) = (examples.start, examples.len());
        let part = |values: &DMatrix<f64>| values.columns(from, n).into_owned();
        let evidence = Evidence::new(part(&x), part(&y)).unwrap();
        let free = free.columns(from, n).into_owned();
        model.infer(&evidence.with_free_targets(free).unwrap(), &solver)
    };
    let both = inferred(0..2).unwrap();
    for i in 0..2 {
        let alone = inferred(i..i + 1).unwrap();
        assert_eq!(alone.hidden[0], both.hidden[0].columns(i, 1).into_owned());
        assert_eq!(alone.outputs, both.outputs.columns(i, 1).into_owned());
    }
}

/// Attention has no curvature bound. An example whose inputs are clamped needs none, and gives the same
/// result alone and beside one with free inputs.
#[test]
fn an_example_does_not_depend_on_what_is_free_in_another() {
    let circuit = Circuit::builder()
        .layer(Attention::new(2, 2, 1).unwrap())
        .layer(Dense::new(4, 3, Activation::Tanh).unwrap())
        .layer(Dense::new(3, 2, Activation::Identity).unwrap())
        .seed(3);
    let energy = Energy::default().with_penalty(3.0);
    let model = DecoupledCircuit::new(circuit.build().unwrap(), energy).unwrap();
    let (x, y) = (values(4, 1).0, values(2, 2).0);
    let free = DMatrix::from_fn(4, N, |k, i| i % 2 == 1 && k < 2);
    let together = Evidence::new(x.clone(), y.clone()).unwrap();
    let together = together.with_free_inputs(free.clone()).unwrap();
    for solver in [GaussNewton::new(2, 3), GaussNewton::direct(2)] {
        let found = model.infer(&together, &solver).unwrap();
        for i in 0..N {
            let column = |values: &DMatrix<f64>| values.columns(i, 1).into_owned();
            let alone = Evidence::new(column(&x), column(&y)).unwrap();
            let alone = alone.with_free_inputs(free.columns(i, 1).into_owned());
            let alone = model.infer(&alone.unwrap(), &solver).unwrap();
            assert_eq!(alone.inputs, column(&found.inputs), "{solver:?}");
            for (own, all) in alone.hidden.iter().zip(&found.hidden) {
                assert_eq!(*own, column(all), "{solver:?}");
            }
        }
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let softmax = model(&[3, 4, 2], Activation::Tanh, SoftmaxCrossEntropy);
    let x = values(3, 1).0;
    let y = DMatrix::from_fn(2, N, |k, i| f64::from(u8::from(k == i % 2)));
    let all = Evidence::new(x.clone(), y.clone()).unwrap();
    let sweep = ReverseSweep::new(1);
    let part = DMatrix::from_fn(2, N, |k, i| k == 0 && i == 1);
    let partly = all.clone().with_free_targets(part).unwrap();
    let error = softmax.infer(&partly, &sweep).unwrap_err();
    assert!(matches!(error, Error::Combination { .. }), "{error}");
    // All of an example's targets may be free.
    let whole = DMatrix::from_fn(2, N, |_, i| i == 1);
    let whole = all.clone().with_free_targets(whole).unwrap();
    let found = softmax.infer(&whole, &sweep).unwrap();
    let own = softmax.predict(&x).unwrap();
    let difference = (found.outputs.column(1) - own.column(1)).amax();
    assert!(difference < 1e-12, "{difference}");
    assert_eq!(found.outputs.column(0), y.column(0));

    let shape = all
        .clone()
        .with_free_inputs(DMatrix::from_element(2, N, true));
    assert!(matches!(shape.unwrap_err(), Error::Shape { .. }));
    for precision in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let prior = all.clone().with_prior(precision, &[0.0; 3]);
        assert!(matches!(prior.unwrap_err(), Error::InvalidOption { .. }));
    }
    let mean = all.clone().with_prior(1.0, &[0.0; 2]);
    assert!(matches!(mean.unwrap_err(), Error::Length { .. }));
    let count = Evidence::new(x.clone(), y.columns(0, 2).into_owned());
    assert!(matches!(count.unwrap_err(), Error::ExampleCount { .. }));
    let rows = Evidence::new(values(4, 1).0, y).unwrap();
    assert!(matches!(
        softmax.infer(&rows, &sweep).unwrap_err(),
        Error::Shape { .. }
    ));
    let checked = SynchronousDescent::<f64>::new(1, StepSize::Checked(0.1)).unwrap();
    let noisy = checked.with_noise(1.0, 0);
    assert!(matches!(noisy.unwrap_err(), Error::Combination { .. }));
    let fixed = SynchronousDescent::<f64>::new(1, StepSize::Fixed(0.1)).unwrap();
    let negative = fixed.with_noise(-1.0, 0);
    assert!(matches!(negative.unwrap_err(), Error::InvalidOption { .. }));
}
