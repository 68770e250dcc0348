//! W-steps by solvers: least squares against independent closed forms, Gauss-Newton products against
//! JᵀCJ built column by column, never uphill, all layers or none, and what they bring in training.

use std::sync::Arc;

use crate::property::{Tested, failed, for_all, generator, uniform};
use layerwise::decoupled::{Selection, TargetInit};
use layerwise::energy::{Energy, LocalProblem, LocalWorkspace};
use layerwise::error::Quantity;
use layerwise::kernel::Write;
use layerwise::layer::{
    Activation, Affine, Context, Dense, Patchwise, Point, Sequential, Shape, Unfold,
};
use layerwise::loss::{Gaussian, Huber, Pair, Poisson, SoftmaxCrossEntropy, SquaredError};
use layerwise::nalgebra::{DMatrix, DVector};
use layerwise::optimizer::GradientDescent;
use layerwise::parameter_solver::{
    LeastSquares, LevenbergMarquardt, NormalEquations, ParameterReport, ParameterSolver,
};
use layerwise::regularizer::Regularizer;
use layerwise::state::State;
use layerwise::target_solver::ReverseSweep;
use layerwise::training::{Decoupling, Phase, Trainer, WStep};
use layerwise::{Circuit, DecoupledCircuit, Error, Layer, Loss, Scalar};
use proptest::prelude::*;

in_both_scalars!(
    ridge_and_proximal_are_the_closed_form,
    singular_equations_are_errors,
    constant_inputs_survive_a_small_ridge,
    the_local_energy_never_rises,
    products_are_the_matrix,
);

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

/// (d, m, n, bias): wide, tall, one of each.
const SHAPES: [(usize, usize, usize, bool); 5] = [
    (3, 2, 12, true),
    (2, 5, 9, false),
    (7, 1, 30, true),
    (1, 4, 6, true),
    (20, 6, 70, false),
];

fn random<T: Scalar>(rows: usize, columns: usize, seed: u64) -> DMatrix<T> {
    DMatrix::from_vec(
        rows,
        columns,
        uniform(&mut generator(seed), rows * columns, 1.0),
    )
}

fn weights<T: Scalar>(n: usize) -> Vec<T> {
    (0..n).map(|i| T::of(0.5 + (i % 5) as f64 / 2.0)).collect()
}

fn wide<T: Scalar>(values: &[T]) -> DVector<f64> {
    DVector::from_iterator(values.len(), values.iter().map(|v| v.as_f64()))
}

fn distance<T: Scalar>(found: &[T], expected: &[T]) -> f64 {
    (wide(found) - wide(expected)).amax()
}

/// Z with a row of ones below it if there is a bias.
fn augmented(z: &DMatrix<f64>, bias: bool) -> DMatrix<f64> {
    if bias {
        z.clone().insert_row(z.nrows(), 1.0)
    } else {
        z.clone()
    }
}

/// (W, b) by the singular values of the stacked rows of data, ridge and proximal term: no normal
/// equations.
pub(crate) fn by_singular_values(
    (z, p, w): (&DMatrix<f64>, &DMatrix<f64>, &[f64]),
    bias: bool,
    (ridge, proximal): (f64, f64),
    old: &DMatrix<f64>,
) -> DMatrix<f64> {
    let (d, n, m) = (z.nrows(), z.ncols(), p.nrows());
    let total: f64 = w.iter().sum();
    let z = augmented(z, bias);
    let side = z.nrows();
    let mut left = DMatrix::zeros(n + d + side, side);
    let mut right = DMatrix::zeros(n + d + side, m);
    for (i, w) in w.iter().enumerate() {
        let root = (w / total).sqrt();
        left.set_row(i, &(z.column(i).transpose() * root));
        right.set_row(i, &(p.column(i).transpose() * root));
    }
    for j in 0..d {
        left[(n + j, j)] = ridge.sqrt();
    }
    for j in 0..side {
        left[(n + d + j, j)] = proximal.sqrt();
        right.set_row(n + d + j, &(old.column(j).transpose() * proximal.sqrt()));
    }
    let svd = left.svd(true, true);
    svd.solve(&right, 0.0).unwrap().transpose()
}

fn ridge_and_proximal_are_the_closed_form<T: Tested>() {
    let tolerance = if T::ROUNDING < 1e-10 { 1e-10 } else { 2e-4 };
    for (k, (d, m, n, bias)) in (0..).zip(SHAPES) {
        let (z, p) = (random::<T>(d, n, 10 + k), random::<T>(m, n, 20 + k));
        let old = random::<T>(m, d + usize::from(bias), 30 + k);
        let wide = |a: &DMatrix<T>| a.map(|x| x.as_f64());
        for weighted in [false, true] {
            let own = weights::<T>(n);
            let (given, w) = match weighted {
                true => (Some(&own[..]), own.iter().map(|w| w.as_f64()).collect()),
                false => (None, vec![1.0; n]),
            };
            for (ridge, proximal) in [(0.0, 0.0), (0.3, 0.0), (0.0, 0.7), (1e-2, 2.0)] {
                let mut equations = NormalEquations::new(d, m, bias).unwrap();
                equations.add(z.as_slice(), p.as_slice(), given).unwrap();
                let mut found = old.clone();
                equations
                    .solve(ridge, proximal, found.as_mut_slice())
                    .unwrap();
                let data = (&wide(&z), &wide(&p), &w[..]);
                let expected = by_singular_values(data, bias, (ridge, proximal), &wide(&old));
                let error = (wide(&found) - expected).amax();
                assert!(
                    error < tolerance,
                    "{d} x {m} x {n}, {ridge}, {proximal}: {error}"
                );
            }
        }
    }
}

/// The objective itself, written out, has no slope at the solution in any parameter.
#[test]
fn the_objective_is_flat_at_the_solution() {
    let (d, m, n) = (4, 3, 15);
    let (z, p) = (random::<f64>(d, n, 1), random::<f64>(m, n, 2));
    let (old, w) = (random::<f64>(m, d + 1, 3), weights::<f64>(n));
    let total: f64 = w.iter().sum();
    let objective = |parameters: &DMatrix<f64>, ridge: f64, proximal: f64| {
        let residual = parameters * augmented(&z, true) - &p;
        let each = residual.column_iter().zip(&w);
        let fit: f64 = each.map(|(r, w)| w * 0.5 * r.norm_squared() / total).sum();
        let weights = parameters.columns(0, d).norm_squared();
        fit + 0.5 * ridge * weights + 0.5 * proximal * (parameters - &old).norm_squared()
    };
    for (ridge, proximal) in [(0.0, 0.0), (0.4, 0.0), (0.0, 0.2), (0.1, 1.5)] {
        let slopes = |faulty: bool| {
            let mut equations = NormalEquations::new(d, m, true).unwrap();
            // The planted fault: one example does not count.
            let used = if faulty { n - 1 } else { n };
            let (z, p) = (&z.as_slice()[..d * used], &p.as_slice()[..m * used]);
            equations.add(z, p, Some(&w[..used])).unwrap();
            let mut solution = old.clone();
            equations
                .solve(ridge, proximal, solution.as_mut_slice())
                .unwrap();
            let slope = |j: usize| {
                let moved = |step: f64| {
                    let mut at = solution.clone();
                    at[j] += step;
                    objective(&at, ridge, proximal)
                };
                // Exact for a quadratic, but for rounding.
                ((moved(1e-3) - moved(-1e-3)) / 2e-3).abs()
            };
            (0..solution.len()).map(slope).fold(0.0, f64::max)
        };
        assert!(
            slopes(false) < 1e-12,
            "{ridge}, {proximal}: {}",
            slopes(false)
        );
        assert!(slopes(true) > 1e-4, "{ridge}, {proximal}: {}", slopes(true));
    }
}

#[test]
fn a_proximal_term_holds_or_lets_go() {
    let (z, p) = (random::<f64>(3, 10, 1), random::<f64>(2, 10, 2));
    let old = random::<f64>(2, 4, 3);
    let mut equations = NormalEquations::new(3, 2, true).unwrap();
    equations.add(z.as_slice(), p.as_slice(), None).unwrap();
    let mut solved = |ridge: f64, proximal: f64| {
        let mut parameters = old.clone();
        equations
            .solve(ridge, proximal, parameters.as_mut_slice())
            .unwrap();
        parameters
    };
    let free = solved(0.1, 0.0);
    assert!((solved(0.1, 1e-12) - &free).amax() < 1e-10);
    assert!((solved(0.1, 1e12) - &old).amax() < 1e-10);
    assert!((&free - &old).amax() > 0.1);
    // Between, the closer the heavier.
    let distances = [0.1, 1.0, 10.0].map(|proximal| (solved(0.1, proximal) - &old).norm());
    assert!(distances[0] > distances[1] && distances[1] > distances[2]);
}

/// Batches of any sizes add up to the whole; with forgetting they count by their age.
#[test]
fn batches_add_up() {
    let (d, m, n) = (6, 4, 40);
    let (z, p, w) = (
        random::<f64>(d, n, 1),
        random::<f64>(m, n, 2),
        weights::<f64>(n),
    );
    let solved = |equations: &mut NormalEquations<f64>| {
        let mut parameters = vec![0.0; m * (d + 1)];
        equations.solve(0.0, 0.0, &mut parameters).unwrap();
        parameters
    };
    let mut whole = NormalEquations::new(d, m, true).unwrap();
    whole.add(z.as_slice(), p.as_slice(), Some(&w)).unwrap();
    let expected = solved(&mut whole);
    let parts = |forgetting: f64, sizes: &[usize]| {
        let mut parts = NormalEquations::new(d, m, true).unwrap();
        let mut start = 0;
        for &size in sizes {
            let run = start..start + size;
            let part = |a: &DMatrix<f64>| a.columns(run.start, size).into_owned();
            parts.forget(forgetting).unwrap();
            parts
                .add(
                    part(&z).as_slice(),
                    part(&p).as_slice(),
                    Some(&w[run.clone()]),
                )
                .unwrap();
            start += size;
        }
        assert_eq!(start, n);
        parts
    };
    for sizes in [&[40][..], &[1, 39], &[7, 7, 7, 7, 7, 5], &[13, 0, 27]] {
        let mut together = parts(1.0, sizes);
        assert!(
            distance(&solved(&mut together), &expected) < 1e-10,
            "{sizes:?}"
        );
        assert!((together.weight() - w.iter().sum::<f64>()).abs() < 1e-12);
    }
    // γ = ½: the first ten count an eighth.
    let aged: Vec<f64> = (0..n)
        .map(|i| w[i] * 0.5_f64.powi(3 - i as i32 / 10))
        .collect();
    let mut by_age = NormalEquations::new(d, m, true).unwrap();
    by_age.add(z.as_slice(), p.as_slice(), Some(&aged)).unwrap();
    let found = solved(&mut parts(0.5, &[10; 4]));
    assert!(distance(&found, &solved(&mut by_age)) < 1e-10);
    assert!(distance(&found, &expected) > 1e-3);
    // γ = 0: the last batch alone, though what came before has no solution that fits.
    let mut last = NormalEquations::new(d, m, true).unwrap();
    let tiny = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0].map(|x| 1e-200 * x);
    last.add(&tiny, &[1e200, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], None)
        .unwrap();
    let mut parameters = vec![0.5; m * (d + 1)];
    let error = last.solve(1e-320, 0.0, &mut parameters).unwrap_err();
    let expected_quantity = Quantity::Parameter;
    assert!(
        matches!(error, Error::NonFinite { quantity, .. } if quantity == expected_quantity),
        "{error}"
    );
    assert_eq!(parameters, vec![0.5; m * (d + 1)]);
    last.forget(0.0).unwrap();
    last.add(z.as_slice(), p.as_slice(), Some(&w)).unwrap();
    assert!(distance(&solved(&mut last), &expected) < 1e-10);
}

/// Fewer examples than inputs, repeated and constant inputs: always an error, never a large number.
fn singular_equations_are_errors<T: Tested>() {
    for d in [1, 2, 5, 17, 40, 90] {
        for seed in 0..6 {
            let n = 2 * d + 3;
            let few = random::<T>(d, d, seed);
            let mut repeated = random::<T>(d, n, seed);
            let first = repeated.row(0).into_owned();
            repeated.set_row(d - 1, &(first * T::of(if d == 1 { 0.0 } else { -0.7 })));
            let mut constant = random::<T>(d, n, seed);
            constant.row_mut(d / 2).fill(T::of(0.3));
            let mut nothing = random::<T>(d, n, seed);
            nothing.row_mut(seed as usize % d).fill(T::zero());
            for (z, name) in [
                (nothing, "zero"),
                (few, "few"),
                (repeated, "repeated"),
                (constant, "constant"),
            ] {
                let p = random::<T>(2, z.ncols(), seed + 50);
                let mut equations = NormalEquations::new(d, 2, true).unwrap();
                equations.add(z.as_slice(), p.as_slice(), None).unwrap();
                let before = random::<T>(2, d + 1, 7);
                let mut parameters = before.clone();
                let error = equations.solve(0.0, 0.0, parameters.as_mut_slice());
                let Err(error) = error else {
                    panic!("{name}, {d} inputs: solved");
                };
                assert!(
                    matches!(error, Error::Singular { .. }),
                    "{name}, {d}: {error}"
                );
                let Error::Singular { ridge, .. } = error else {
                    panic!("{name}, {d}: {error}");
                };
                let text = format!("a ridge or proximal weight of {ridge:.1e} or more");
                assert!(error.to_string().contains(&text), "{error}");
                // It is enough, and not far more than that.
                let mut own = before.clone();
                equations.solve(ridge, 0.0, own.as_mut_slice()).unwrap();
                equations.solve(0.0, ridge, own.as_mut_slice()).unwrap();
                let size = ridge / (d as f64 * T::default_epsilon().as_f64());
                assert!(ridge > 0.0 && size < 20.0, "{name}, {d}: {ridge}");
                assert_eq!(parameters, before);
                // What the message says helps.
                equations
                    .solve(0.0, 0.1, parameters.as_mut_slice())
                    .unwrap();
                equations
                    .solve(0.1, 0.0, parameters.as_mut_slice())
                    .unwrap();
                assert!(
                    parameters.iter().all(|x| x.as_f64().abs() < 10.0),
                    "{name}, {d}"
                );
            }
        }
    }
}

/// A circuit of one hidden layer of interest, 4 → 3, with everything that a local problem may have:
/// μ, example weights, R_0; the layer above takes z_1 on.
fn one_layer<T: Scalar>(
    activation: Activation,
    loss: Option<Box<dyn Loss<T>>>,
    regularizer: Regularizer,
    seed: u64,
) -> DecoupledCircuit<T> {
    let circuit = Circuit::builder()
        .layer(Dense::new(4, 3, activation).unwrap())
        .layer(Dense::new(3, 2, Activation::Identity).unwrap())
        .seed(seed);
    let mut energy = Energy::default()
        .with_parameter_regularizer(regularizer)
        .with_penalty(T::of(1.7));
    if let Some(loss) = loss {
        energy = energy.with_hidden_losses(vec![loss]);
    }
    let mut model = DecoupledCircuit::new(circuit.build().unwrap(), energy).unwrap();
    let n = 14;
    let (x, y) = (random(4, n, seed + 1), random(2, n, seed + 2));
    let targets = TargetInit::RandomNormal { std: 0.7, seed };
    model.add_examples(&x, &y, &targets).unwrap();
    model
        .set_example_weights(&Selection::All, &weights(n))
        .unwrap();
    model
}

/// For the identity the solution is the minimum of ℓ_t with all it may hold: μ, weights, multipliers
/// and a quadratic R_t.
#[test]
fn an_identity_layer_reaches_the_minimum() {
    let mut model = one_layer::<f64>(Activation::Identity, None, Regularizer::l2(0.3).unwrap(), 5);
    let gradient = |model: &DecoupledCircuit<f64>| {
        let gradients = model.gradients(&Selection::All).unwrap();
        DVector::from_vec(gradients.parameters[0].clone()).amax()
    };
    assert!(gradient(&model) > 0.1);
    let solver = LeastSquares::ridge(0.0).unwrap();
    let report = model.solve_parameters(0, &solver, &Selection::All).unwrap();
    assert_eq!(report, ParameterReport::new(1, 1));
    assert!(gradient(&model) < 1e-10, "{}", gradient(&model));

    // With multipliers, on arrays of the caller's own.
    let layer = Dense::new(3, 2, Activation::Identity).unwrap();
    let (z, p) = (random::<f64>(3, 9, 1), random::<f64>(2, 9, 2));
    let (lambda, start) = (random::<f64>(2, 9, 3), random::<f64>(2, 4, 4));
    let w = weights::<f64>(9);
    let problem = LocalProblem::new(
        &layer,
        start.as_slice(),
        &SquaredError,
        2.5,
        z.as_slice(),
        p.as_slice(),
    )
    .unwrap();
    let problem = problem.with_multipliers(lambda.as_slice()).unwrap();
    let problem = problem.with_example_weights(&w).unwrap();
    let mut parameters = start.as_slice().to_vec();
    let (mut state, mut workspace) = (solver.start(), problem.workspace());
    solver
        .solve(&mut state, &problem, &mut workspace, &mut parameters)
        .unwrap();
    let at = problem.at_parameters(&parameters).unwrap().gradients();
    assert!(at.parameters.iter().all(|g| g.abs() < 1e-10), "{at:?}");
    assert!(problem.gradients().parameters.iter().any(|g| g.abs() > 0.1));
}

/// For other activations it is the least-squares fit of the preimages, which the test makes itself.
#[test]
fn a_curved_layer_fits_its_preimages() {
    let margin = 0.05;
    for activation in ACTIVATIONS {
        let mut model = one_layer::<f64>(activation, None, Regularizer::NONE, 8);
        let mut solver = LeastSquares::ridge(0.02).unwrap();
        solver = solver.with_margin(margin).unwrap();
        let mut start = model.circuit().parameters(0).to_vec();
        // Whether a unit is inactive is told with its bias.
        start[12..].copy_from_slice(&[-0.5, 0.3, -0.2]);
        model.set_parameters(0, &start).unwrap();
        let solved = model.solve_parameters(0, &solver, &Selection::All);
        if matches!(activation, Activation::Gelu | Activation::Silu) {
            let error = solved.unwrap_err();
            assert!(
                matches!(error, Error::ParameterSolver { layer: 0, .. }),
                "{error}"
            );
            assert!(error.to_string().contains("monotone"), "{error}");
            assert_eq!(model.circuit().parameters(0), start);
            continue;
        }
        solved.unwrap();
        let (z, targets) = (model.z(0).unwrap(), model.z(1).unwrap());
        let old = DMatrix::from_vec(3, 5, start);
        let present = &old * augmented(&z.into_owned(), true);
        let p = targets.zip_map(&present, |y, present| {
            let logit = |y: f64| (y / (1.0 - y)).ln();
            match activation {
                Activation::Tanh => y.clamp(-1.0 + margin, 1.0 - margin).atanh(),
                Activation::Sigmoid => logit(y.clamp(margin, 1.0 - margin)),
                Activation::Relu if y <= 0.0 => present.min(0.0),
                Activation::LeakyRelu { slope } if y <= 0.0 => y / slope,
                Activation::Softplus => (y.max(margin).exp() - 1.0).ln(),
                _ => y,
            }
        });
        let w = weights::<f64>(14);
        let data = (&z.into_owned(), &p, &w[..]);
        let expected = by_singular_values(data, true, (0.02, 0.0), &old);
        let error = distance(model.circuit().parameters(0), expected.as_slice());
        assert!(error < 1e-10, "{activation:?}: {error}");
    }
}

/// Windows of a sequence, which are the input itself where they neither overlap nor skip.
#[derive(Debug)]
struct Windows {
    steps: usize,
    width: usize,
    stride: usize,
}

impl Unfold for Windows {
    fn input_shape(&self) -> Shape {
        self.steps.into()
    }

    fn patch_len(&self) -> usize {
        self.width
    }

    fn positions(&self) -> Shape {
        ((self.steps - self.width) / self.stride + 1).into()
    }

    fn source(&self, entry: usize, position: usize) -> Option<usize> {
        Some(self.stride * position + entry)
    }
}

/// Shared weights: the minimum of ℓ_t with all it may hold; and with a ridge, a proximal term and a
/// curved activation what singular values give for all patches, made by the test.
#[test]
fn a_layer_with_shared_weights_is_solved_over_all_positions() {
    let n = 9;
    for (width, stride, unfolds) in [(3, 1, true), (3, 2, true), (3, 3, false)] {
        let windows = |activation| {
            let steps = 9;
            let windows = Windows {
                steps,
                width,
                stride,
            };
            Patchwise::over(windows, 2, activation).unwrap()
        };
        let layer = windows(Activation::Identity);
        let affine = layer.affine().unwrap();
        let positions = affine.positions;
        assert_eq!(affine.unfolds, unfolds);
        let (z, p) = (random::<f64>(9, n, 1), random::<f64>(2 * positions, n, 2));
        let (lambda, start) = (
            random::<f64>(2 * positions, n, 3),
            random::<f64>(2, width + 1, 4),
        );
        let w = weights::<f64>(n);
        let solved = |solver: &LeastSquares, problem: &LocalProblem<'_, f64>| {
            let mut found = start.clone();
            let (mut state, mut workspace) = (State::new(), problem.workspace());
            solver
                .solve(&mut state, problem, &mut workspace, found.as_mut_slice())
                .unwrap();
            found
        };
        let (own, loss) = (start.as_slice(), &SquaredError);
        let plain = LocalProblem::new(&layer, own, loss, 2.5, z.as_slice(), p.as_slice()).unwrap();
        let problem = plain.with_multipliers(lambda.as_slice()).unwrap();
        let problem = problem.with_example_weights(&w).unwrap();
        let found = solved(&LeastSquares::ridge(0.0).unwrap(), &problem);
        let at = problem.at_parameters(found.as_slice()).unwrap().gradients();
        assert!(at.parameters.iter().all(|g| g.abs() < 1e-10), "{at:?}");
        assert!(problem.gradients().parameters.iter().any(|g| g.abs() > 0.1));

        let column = |c: usize| (c / positions, c % positions);
        let patches = DMatrix::from_fn(width, positions * n, |k, c| {
            let (i, position) = column(c);
            z[(stride * position + k, i)]
        });
        let targets = DMatrix::from_fn(2, positions * n, |k, c| {
            let (i, position) = column(c);
            p[(2 * position + k, i)].clamp(-0.9, 0.9).atanh()
        });
        let each: Vec<f64> = (0..positions * n).map(|c| w[column(c).0]).collect();
        let layer = windows(Activation::Tanh);
        let problem =
            LocalProblem::new(&layer, own, loss, 2.5, z.as_slice(), p.as_slice()).unwrap();
        let problem = problem.with_example_weights(&w).unwrap();
        let solver = LeastSquares::ridge(0.3).unwrap().with_margin(0.1).unwrap();
        let found = solved(&solver.with_proximal(0.7).unwrap(), &problem);
        // λ and ρ stand beside the sum over positions, of which the test's mean takes one.
        let weights = [0.3, 0.7].map(|weight| weight / positions as f64);
        let data = (&patches, &targets, &each[..]);
        let expected = by_singular_values(data, true, weights.into(), &start);
        assert!((found - expected).amax() < 1e-10);
    }
}

/// L2 on the weights of a circuit's convolution counts once per example, whatever the positions.
#[test]
fn a_regularised_convolution_reaches_its_minimum() {
    let windows = Windows {
        steps: 6,
        width: 3,
        stride: 1,
    };
    let circuit = Circuit::<f64>::builder()
        .layer(Patchwise::over(windows, 2, Activation::Identity).unwrap())
        .layer(Dense::new(8, 2, Activation::Identity).unwrap());
    let energy = Energy::default()
        .with_parameter_regularizer(Regularizer::l2(0.3).unwrap())
        .with_penalty(1.7);
    let mut model = DecoupledCircuit::new(circuit.build().unwrap(), energy).unwrap();
    let targets = TargetInit::RandomNormal { std: 0.7, seed: 5 };
    let (x, y) = (random(6, 14, 1), random(2, 14, 2));
    model.add_examples(&x, &y, &targets).unwrap();
    model
        .set_example_weights(&Selection::All, &weights(14))
        .unwrap();
    let solver = LeastSquares::ridge(0.0).unwrap();
    model.solve_parameters(0, &solver, &Selection::All).unwrap();
    let gradients = model.gradients(&Selection::All).unwrap();
    let largest = DVector::from_vec(gradients.parameters[0].clone()).amax();
    assert!(largest < 1e-10, "{largest}");
}

/// One undamped step of Gauss-Newton is the least-squares solution.
#[test]
fn one_undamped_step_is_exact_where_the_problem_is_quadratic() {
    for regularizer in [Regularizer::NONE, Regularizer::l2(0.2).unwrap()] {
        let mut by_steps = one_layer::<f64>(Activation::Identity, None, regularizer, 3);
        let mut closed = by_steps.clone();
        let mut solver = LevenbergMarquardt::new(1, 60).with_damping(0.0).unwrap();
        solver = solver.with_tolerance(0.0).unwrap();
        let report = by_steps
            .solve_parameters(0, &solver, &Selection::All)
            .unwrap();
        assert_eq!(report, ParameterReport::new(1, 1));
        let solver = LeastSquares::ridge(0.0).unwrap();
        closed
            .solve_parameters(0, &solver, &Selection::All)
            .unwrap();
        let (a, b) = (by_steps.circuit(), closed.circuit());
        let error = distance(a.parameters(0), b.parameters(0));
        assert!(error < 1e-10, "{error}");
        // At the minimum there is no lower step: nothing moves, and θ is the same to the bit.
        let before = closed.circuit().parameters(0).to_vec();
        let energy = closed.energies().unwrap()[0];
        closed
            .solve_parameters(0, &LevenbergMarquardt::new(4, 60), &Selection::All)
            .unwrap();
        assert!(closed.energies().unwrap()[0] <= energy);
        assert!(distance(closed.circuit().parameters(0), &before) < 1e-7);
    }
}

/// Loss number k of those a hidden layer may have; `None` is squared error.
fn hidden_loss<T: Scalar>(k: usize) -> Option<Box<dyn Loss<T>>> {
    match k {
        0 => None,
        1 => Some(Box::new(Huber::new(0.4).unwrap())),
        _ => Some(Box::new(Gaussian::learned(T::of(2.0), T::of(0.1)).unwrap())),
    }
}

/// What a random local problem of layer 0 or 1 is made from.
fn any_problem() -> impl Strategy<Value = (usize, usize, u64, bool)> {
    (0..ACTIVATIONS.len(), 0..3usize, 0..1000u64, any::<bool>())
}

fn the_local_energy_never_rises<T: Tested>() {
    for_all(any_problem(), |(activation, loss, seed, elastic)| {
        let regularizer = match elastic {
            true => Regularizer::elastic(0.05, 0.1).unwrap(),
            false => Regularizer::NONE,
        };
        let mut model = one_layer::<T>(
            ACTIVATIONS[activation],
            hidden_loss(loss),
            regularizer,
            seed,
        );
        // Weights of 30 saturate and overshoot.
        let large = |model: &mut DecoupledCircuit<T>| {
            let own: Vec<T> = model.circuit().parameters(0).to_vec();
            let groups = model.circuit().parameter_groups(0)[0].range.clone();
            let scale = |(i, &x): (usize, &T)| {
                if groups.contains(&i) {
                    x * T::of(30.0)
                } else {
                    x
                }
            };
            let own: Vec<T> = own.iter().enumerate().map(scale).collect();
            model.set_parameters(0, &own)
        };
        if seed % 3 == 0 {
            large(&mut model).map_err(failed)?;
        }
        for t in 0..2 {
            let precision = |model: &DecoupledCircuit<T>| {
                let groups = model.circuit().parameter_groups(t);
                let own = groups.iter().filter(|group| group.name == "log precision");
                let own = own.flat_map(|group| group.range.clone());
                let own = own.map(|i| model.circuit().parameters(t)[i]);
                own.collect::<Vec<T>>()
            };
            let (first, before) = (precision(&model), model.energies().unwrap()[t]);
            let mut last = before;
            // Rejected eight times, λ has grown from 1e-3 to 2e3.
            for (damping, steps) in [(0.0, 3), (1e-3, 8)] {
                let solver = LevenbergMarquardt::new(steps, 5)
                    .with_damping(damping)
                    .unwrap();
                let report = model
                    .solve_parameters(t, &solver, &Selection::All)
                    .map_err(failed)?;
                let energy = model.energies().unwrap()[t];
                prop_assert!(energy <= last, "{last} to {energy} in layer {t}");
                prop_assert_eq!(report.accepted > 0, energy < last);
                last = energy;
            }
            prop_assert!(last < before || seed % 3 == 0, "nothing moved in layer {t}");
            prop_assert_eq!(first, precision(&model));
        }
        Ok(())
    });
}

/// After a step that was taken back the next is made at the old θ, as a new solver with the larger λ
/// makes it.
#[test]
fn a_step_taken_back_leaves_nothing() {
    let mut found = 0;
    for seed in 0..100 {
        let mut start = one_layer::<f64>(Activation::Tanh, None, Regularizer::NONE, seed);
        let large: Vec<f64> = start
            .circuit()
            .parameters(0)
            .iter()
            .map(|x| x * 30.0)
            .collect();
        start.set_parameters(0, &large).unwrap();
        let solved = |steps, damping| {
            let mut model = start.clone();
            let solver = LevenbergMarquardt::new(steps, 5).with_damping(damping);
            let report = model
                .solve_parameters(0, &solver.unwrap(), &Selection::All)
                .unwrap();
            (report.accepted, model.circuit().parameters(0).to_vec())
        };
        if solved(1, 0.0) != (0, large.clone()) {
            continue;
        }
        found += 1;
        // From λ = 0 to 1e-3.
        assert_eq!(solved(2, 0.0), solved(1, 1e-3));
        assert_eq!(solved(3, 0.0), solved(2, 1e-3));
    }
    assert!(found > 3, "{found} steps were taken back");
}

/// A dense layer with a fault in its products in θ.
#[derive(Debug, Clone)]
struct Faulty {
    inner: Dense,
    fault: Fault,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// J v without the bias's part.
    TangentWithoutBias,
    /// Half of Jᵀ g.
    Half,
    /// J v of the first output with the wrong sign.
    TangentSign,
}

impl<T: Scalar> Layer<T> for Faulty {
    described_by!(inner: T);

    fn forward(
        &self,
        context: &Context<'_>,
        parameters: &[T],
        input: &[T],
        output: &mut [T],
        tape: Option<&mut [T]>,
        work: &mut [T],
    ) {
        let inner = &self.inner;
        inner.forward(context, parameters, input, output, tape, work);
    }

    fn vjp(
        &self,
        at: &Point<'_, T>,
        cotangent: &[T],
        d_input: Write<'_, T>,
        d_parameters: Write<'_, T>,
        work: &mut [T],
    ) {
        let half = T::of(if self.fault == Fault::Half { 0.5 } else { 1.0 });
        let cotangent: Vec<T> = cotangent.iter().map(|&g| half * g).collect();
        let inner = &self.inner;
        inner.vjp(at, &cotangent, d_input, d_parameters, work);
    }

    fn jvp(
        &self,
        at: &Point<'_, T>,
        v_input: Option<&[T]>,
        v_parameters: Option<&[T]>,
        tangent: &mut [T],
        work: &mut [T],
    ) {
        let m = self.inner.output_dim();
        let mut v = v_parameters.map(<[T]>::to_vec);
        if let (Some(v), Fault::TangentWithoutBias) = (&mut v, self.fault) {
            let start = v.len() - m;
            v[start..].fill(T::zero());
        }
        self.inner.jvp(at, v_input, v.as_deref(), tangent, work);
        if self.fault == Fault::TangentSign {
            tangent.iter_mut().step_by(m).for_each(|x| *x = -*x);
        }
    }
}

/// Column by column, JᵀCJ with J from differences of the layer's outputs, and C from the loss; then
/// the largest difference from the products, relative to the largest entry, and of the products'
/// matrix from its transpose.
fn product_errors<T: Tested>(problem: &LocalProblem<'_, T>, own: usize, l2: f64) -> (f64, f64) {
    let n = problem.examples();
    let m = problem.target().len() / n;
    let mut workspace = problem.workspace();
    let mut predicted = |parameters: &[T]| {
        let problem = problem.at_parameters(parameters).unwrap();
        wide(problem.linearize(&mut workspace).prediction())
    };
    let step = if T::ROUNDING < 1e-10 { 1e-5 } else { 1e-2 };
    let mut jacobian = DMatrix::zeros(m * n, own);
    for j in 0..own {
        let mut side = |sign: f64| {
            let mut parameters = problem.parameters().to_vec();
            parameters[j] += T::of(sign * step);
            let moved = parameters[j].as_f64();
            (predicted(&parameters), moved)
        };
        let ((up, above), (down, below)) = (side(1.0), side(-1.0));
        jacobian.set_column(j, &((up - down) / (above - below)));
    }
    let mut at = problem.linearize(&mut workspace);
    let prediction = at.prediction().to_vec();
    let pair =
        Pair::new(m, problem.target(), &prediction).with_parameters(&problem.parameters()[own..]);
    let mut work = vec![T::zero(); problem.loss().scratch(m, n)];
    let weight = |i: usize| problem.example_weights().map_or(1.0, |w| w[i].as_f64());
    let mut curvature = DMatrix::zeros(m * n, m * n);
    for k in 0..m * n {
        let mut unit = vec![T::zero(); m * n];
        unit[k] = T::one();
        let mut column = vec![T::zero(); m * n];
        let out = Write::Set(&mut column[..]);
        problem
            .loss()
            .curvature(&pair, None, Some(&unit), Write::Skip, out, &mut work);
        let factor = problem.weight().as_f64() * weight(k / m);
        curvature.set_column(k, &(wide(&column) * factor));
    }
    let mut expected = jacobian.transpose() * curvature * jacobian;
    let total: f64 = (0..n).map(weight).sum();
    for j in 0..own - m {
        expected[(j, j)] += total * l2;
    }
    let mut found = DMatrix::zeros(own, own);
    for j in 0..own {
        let mut unit = vec![T::zero(); own];
        unit[j] = T::one();
        let mut column = vec![T::one(); own];
        at.gauss_newton_product(&unit, &mut column).unwrap();
        found.set_column(j, &wide(&column));
    }
    let size = expected.amax();
    let asymmetry = (&found - found.transpose()).amax() / size;
    ((found - expected).amax() / size, asymmetry)
}

fn products_are_the_matrix<T: Tested>() {
    for activation in ACTIVATIONS {
        for loss in 0..3 {
            let l2 = 0.2;
            let regularizer = Regularizer::l2(l2).unwrap();
            let model = one_layer::<T>(activation, hidden_loss(loss), regularizer, 21);
            let problem = model.local_problem(0, 0..14).unwrap();
            let (error, asymmetry) = product_errors(&problem, 15, l2);
            assert!(error < T::GRADIENT, "{activation:?}, loss {loss}: {error}");
            assert!(
                asymmetry < T::ROUNDING,
                "{activation:?}, loss {loss}: {asymmetry}"
            );
        }
    }
    // The losses of outputs, on the caller's own arrays.
    let layer = Dense::new(4, 3, Activation::Tanh).unwrap();
    let (z, own) = (random::<T>(4, 7, 1), random::<T>(3, 5, 2));
    let y = DMatrix::from_fn(3, 7, |i, j| T::of(f64::from(u8::from(j % 3 == i))));
    for loss in [&SoftmaxCrossEntropy as &dyn Loss<T>, &Poisson] {
        let (z, own, y) = (z.as_slice(), own.as_slice(), y.as_slice());
        let problem = LocalProblem::new(&layer, own, loss, T::of(0.7), z, y).unwrap();
        let (error, asymmetry) = product_errors(&problem, 15, 0.0);
        assert!(
            error < T::GRADIENT && asymmetry < T::ROUNDING,
            "{loss:?}: {error}"
        );
    }
    for fault in [
        Fault::None,
        Fault::TangentWithoutBias,
        Fault::Half,
        Fault::TangentSign,
    ] {
        let inner = Dense::new(4, 3, Activation::Tanh).unwrap();
        let layer = Faulty { inner, fault };
        let (z, own, y) = (z.as_slice(), own.as_slice(), y.as_slice());
        let problem = LocalProblem::new(&layer, own, &SquaredError, T::of(0.7), z, y).unwrap();
        let (error, _) = product_errors(&problem, 15, 0.0);
        if fault == Fault::None {
            assert!(error < T::GRADIENT, "{error}");
        } else {
            assert!(error > 20.0 * T::GRADIENT, "{fault:?} passed: {error}");
        }
    }
}

/// For a model linear in θ with squared error and L2, G v is a difference of gradients.
#[test]
fn products_are_differences_of_gradients_of_a_linear_layer() {
    let regularizer = Regularizer::l2(0.4).unwrap();
    let model = one_layer::<f64>(Activation::Identity, None, regularizer, 2);
    let problem = model.local_problem(0, 0..14).unwrap();
    let v = random::<f64>(15, 1, 9);
    let moved: Vec<f64> = problem
        .parameters()
        .iter()
        .zip(&v)
        .map(|(x, v)| x + v)
        .collect();
    let gradient = |problem: &LocalProblem<'_, f64>| wide(&problem.gradients().parameters);
    let difference = gradient(&problem.at_parameters(&moved).unwrap()) - gradient(&problem);
    let mut workspace = problem.workspace();
    let mut product = vec![f64::NAN; 15];
    problem
        .linearize(&mut workspace)
        .gauss_newton_product(v.as_slice(), &mut product)
        .unwrap();
    assert!((wide(&product) - difference).amax() < 1e-11);
}

#[test]
fn options_out_of_range_are_errors() {
    let option = |result: Result<(), Error>| match result {
        Err(Error::InvalidOption { option, .. }) => option,
        other => panic!("{other:?}"),
    };
    for value in [-1.0, f64::NAN, f64::INFINITY] {
        assert_eq!(
            option(LeastSquares::ridge(value).map(|_| ())),
            "LeastSquares::ridge"
        );
        assert_eq!(
            option(LeastSquares::proximal(value).map(|_| ())),
            "LeastSquares::proximal"
        );
        let own = || LevenbergMarquardt::new(1, 1);
        assert_eq!(
            option(own().with_damping(value).map(|_| ())),
            "LevenbergMarquardt::damping"
        );
        assert_eq!(
            option(own().with_tolerance(value).map(|_| ())),
            "LevenbergMarquardt::tolerance"
        );
        let mut equations = NormalEquations::<f64>::new(1, 1, false).unwrap();
        equations.add(&[1.0], &[1.0], None).unwrap();
        for (ridge, proximal) in [(value, 0.0), (0.0, value)] {
            let mut parameters = [7.0];
            option(equations.solve(ridge, proximal, &mut parameters));
            assert_eq!(parameters, [7.0]);
        }
    }
    // What the scalar cannot hold.
    let layer = Dense::new(1, 1, Activation::Tanh).unwrap();
    let problem =
        LocalProblem::new(&layer, &[0.5_f32, 0.1], &SquaredError, 1.0, &[1.0], &[0.5]).unwrap();
    let squares = || LeastSquares::ridge(1.0).unwrap();
    let newton = || LevenbergMarquardt::new(1, 1);
    let solvers: [(Box<dyn ParameterSolver<f32>>, &str); 5] = [
        (
            Box::new(LeastSquares::ridge(1e300).unwrap()),
            "LeastSquares::ridge",
        ),
        (
            Box::new(squares().with_proximal(1e300).unwrap()),
            "LeastSquares::proximal",
        ),
        (
            Box::new(squares().with_margin(1e-60).unwrap()),
            "LeastSquares::margin",
        ),
        (
            Box::new(newton().with_damping(1e300).unwrap()),
            "LevenbergMarquardt::damping",
        ),
        (
            Box::new(newton().with_tolerance(1e300).unwrap()),
            "LevenbergMarquardt::tolerance",
        ),
    ];
    for (solver, name) in solvers {
        assert_eq!(option(solver.check(&problem)), name);
        let (mut state, mut workspace) = (solver.start(), problem.workspace());
        let mut parameters = [0.5, 0.1];
        let solved = solver.solve(&mut state, &problem, &mut workspace, &mut parameters);
        assert_eq!(option(solved.map(|_| ())), name);
        assert_eq!((parameters, state), ([0.5, 0.1], State::new()));
    }
    for value in [-0.1, 1.1, f64::NAN] {
        let solver = LeastSquares::ridge(0.0).unwrap();
        assert_eq!(
            option(solver.with_forgetting_factor(value).map(|_| ())),
            "LeastSquares::forgetting"
        );
        let mut equations = NormalEquations::<f64>::new(1, 1, false).unwrap();
        option(equations.forget(value));
    }
    for value in [0.0, -0.1, 0.5, f64::NAN] {
        let solver = LeastSquares::ridge(0.0).unwrap();
        assert_eq!(
            option(solver.with_margin(value).map(|_| ())),
            "LeastSquares::margin"
        );
    }
}

#[test]
fn arrays_that_do_not_fit_are_errors() {
    let mut equations = NormalEquations::<f64>::new(2, 3, true).unwrap();
    let (z, p) = ([1.0, 2.0, 0.5, 1.0], [1.0; 6]);
    for (z, p, w) in [
        (&z[..3], &p[..], None),
        (&z[..], &p[..5], None),
        (&z[..2], &p[..], None),
        (&z[..], &p[..], Some(&[1.0][..])),
        (&z[..], &p[..], Some(&[1.0, -1.0])),
        (&[1.0, f64::NAN], &p[..3], None),
        (&z[..2], &[1.0, f64::INFINITY, 0.0], None),
    ] {
        equations.add(z, p, w).unwrap_err();
        assert_eq!(equations.weight(), 0.0);
    }
    let error = equations.solve(1.0, 0.0, &mut [0.0; 9]).unwrap_err();
    assert!(matches!(error, Error::NoExamples { .. }), "{error}");
    equations.add(&z, &p, None).unwrap();
    let error = equations.solve(1.0, 0.0, &mut [0.0; 8]).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Length {
                expected: 9,
                found: 8,
                ..
            }
        ),
        "{error}"
    );
    for (d, m) in [(0, 1), (1, 0)] {
        let error = NormalEquations::<f64>::new(d, m, true).unwrap_err();
        assert!(matches!(error, Error::ZeroDimension { .. }), "{error}");
    }
    // More than numbers, or than any memory, can hold.
    for inputs in [usize::MAX, usize::MAX / 2, 1 << 28] {
        let error = NormalEquations::<f64>::new(inputs, 3, true).unwrap_err();
        assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    }

    let mut model = one_layer::<f64>(Activation::Tanh, None, Regularizer::NONE, 1);
    let before = model.circuit().parameters(0).to_vec();
    let problem = model.local_problem(0, 0..14).unwrap();
    let mut workspace = problem.workspace();
    let solvers: [Box<dyn ParameterSolver<f64>>; 2] = [
        Box::new(LeastSquares::ridge(0.1).unwrap()),
        Box::new(LevenbergMarquardt::new(1, 3)),
    ];
    for solver in solvers {
        let mut state = solver.start();
        let error = solver.solve(&mut state, &problem, &mut workspace, &mut [0.0; 14]);
        assert!(matches!(
            error.unwrap_err(),
            Error::Length {
                expected: 15,
                found: 14,
                ..
            }
        ));
        // The workspace of another problem, and the memory of another layer: no matter.
        let mut expected = before.clone();
        let mut fresh = solver.start();
        let mut own = problem.workspace();
        solver
            .solve(&mut fresh, &problem, &mut own, &mut expected)
            .unwrap();
        let other = model.local_problem(1, 3..9).unwrap();
        let mut parameters = other.parameters().to_vec();
        let mut foreign = other.workspace();
        solver
            .solve(&mut state, &other, &mut foreign, &mut parameters)
            .unwrap();
        let new = solver.start();
        (state.counts, state.values, state.parts) = (new.counts, new.values, new.parts);
        let mut parameters = before.clone();
        solver
            .solve(&mut state, &problem, &mut foreign, &mut parameters)
            .unwrap();
        assert_eq!(parameters, expected);
        assert_ne!(parameters, before);
    }
    let mut workspace = LocalProblem::workspace(&problem);
    let mut product = [0.0; 15];
    for (v, length) in [(14, 15), (15, 14)] {
        let v = vec![0.0; v];
        let mut at = problem.linearize(&mut workspace);
        let result = at.gauss_newton_product(&v, &mut product[..length]);
        assert!(matches!(result.unwrap_err(), Error::Length { .. }));
    }
    problem.at_parameters(&before[1..]).unwrap_err();
    problem.at_parameters(&[f64::NAN; 15]).unwrap_err();

    let solver = LeastSquares::ridge(0.1).unwrap();
    for (t, selection) in [
        (2, Selection::All),
        (0, Selection::Columns(3..3)),
        (0, Selection::Columns(3..15)),
        (0, Selection::Examples(&[1, 1])),
    ] {
        let result = model.solve_parameters(t, &solver, &selection);
        result.unwrap_err();
        assert_eq!(model.circuit().parameters(0), before);
    }
}

/// What [`LeastSquares`] cannot solve, it names.
#[test]
fn a_problem_that_does_not_fit_is_refused() {
    let refused = |model: &mut DecoupledCircuit<f64>, t: usize, word: &str| {
        let before = model.circuit().parameters(t).to_vec();
        let solver = LeastSquares::ridge(0.1).unwrap();
        let result = model.solve_parameters(t, &solver, &Selection::All);
        let error = result.unwrap_err();
        assert!(
            matches!(error, Error::ParameterSolver { layer, .. } if layer == t),
            "{error}"
        );
        assert!(error.to_string().contains(word), "{error}");
        assert_eq!(model.circuit().parameters(t), before);
    };
    let plain = |loss, regularizer| one_layer::<f64>(Activation::Tanh, loss, regularizer, 1);
    refused(&mut plain(hidden_loss(1), Regularizer::NONE), 0, "Huber");
    refused(
        &mut plain(None, Regularizer::l1(0.1).unwrap()),
        0,
        "quadratic",
    );
    let unit = |layers: Vec<Box<dyn Layer<f64>>>| Sequential::new(layers).unwrap();
    let dense = |input, output| Box::new(Dense::new(input, output, Activation::Tanh).unwrap()) as _;
    let builder = Circuit::builder().layer(unit(vec![dense(2, 3), dense(3, 2)]));
    let circuit = builder.build().unwrap();
    let mut model = DecoupledCircuit::new(circuit, Energy::default()).unwrap();
    let (x, y) = (random(2, 5, 1), random(2, 5, 2));
    model
        .add_examples(&x, &y, &TargetInit::ForwardPass)
        .unwrap();
    refused(&mut model, 0, "Sequential");

    // A layer whose `affine` contradicts its parameters.
    let affine = |weights, bias| Affine::new(weights, bias, Activation::Tanh, 2);
    for affine in [
        affine(0..3, Some(4..6)),
        affine(0..4, Some(5..7)),
        affine(0..4, Some(3..5)),
        affine(3..7, None),
        #[allow(clippy::reversed_empty_ranges)]
        affine(4..0, None),
        affine(0..4, Some(4..6)).with_positions(2),
        affine(0..4, Some(4..6)).with_positions(usize::MAX),
        affine(0..4, Some(4..6)).unfolding(0),
        affine(0..2, Some(4..5)).with_positions(2),
        Affine::new(0..4, Some(4..6), Activation::Tanh, 0),
        Affine::new(0..4, Some(4..6), Activation::Tanh, 4),
    ] {
        let layer = Misdescribed(Dense::new(2, 2, Activation::Tanh).unwrap(), affine);
        let circuit = Circuit::builder().layer(layer).build().unwrap();
        let mut model = DecoupledCircuit::new(circuit, Energy::default()).unwrap();
        model
            .add_examples(&x, &y, &TargetInit::ForwardPass)
            .unwrap();
        refused(&mut model, 0, "affine");
    }
}

/// A dense layer with an [`Affine`] of the test's.
#[derive(Debug)]
struct Misdescribed(Dense, Affine);

impl Layer<f64> for Misdescribed {
    described_by!(0: f64);

    evaluated_by!(0: f64);

    fn affine(&self) -> Option<Affine> {
        Some(self.1.clone())
    }
}

const EXAMPLES: usize = 60;

/// tanh, sigmoid, then an identity layer with softmax cross entropy, on projected targets.
fn classifier<T: Scalar>() -> DecoupledCircuit<T> {
    let dense = |input, output, activation| Dense::new(input, output, activation).unwrap();
    let circuit = Circuit::builder()
        .layer(dense(5, 8, Activation::Tanh))
        .layer(dense(8, 6, Activation::Sigmoid))
        .layer(dense(6, 3, Activation::Identity))
        .seed(4);
    let energy = Energy::new(SoftmaxCrossEntropy).with_penalty(T::of(1.5));
    let mut model = DecoupledCircuit::new(circuit.build().unwrap(), energy).unwrap();
    let x = random::<T>(5, EXAMPLES, 1);
    let class =
        |j: usize| (0..3).max_by(|&a: &usize, &b| x[(a, j)].partial_cmp(&x[(b, j)]).unwrap());
    let y = DMatrix::from_fn(3, EXAMPLES, |i, j| {
        if class(j) == Some(i) {
            T::one()
        } else {
            T::zero()
        }
    });
    model
        .add_examples(&x, &y, &TargetInit::Projected { seed: 2 })
        .unwrap();
    model
}

fn run<T: Scalar>(model: &mut DecoupledCircuit<T>, phase: Phase<T>) {
    Trainer::new(phase).run(model).unwrap();
}

/// θ by `w_step`, and where it solves nothing by gradient descent; targets stay.
fn weights_only(w_step: WStep<f64>) -> Phase<f64> {
    solved(Decoupling::weights_only(), w_step)
}

fn solved(scheme: Decoupling<f64>, w_step: WStep<f64>) -> Phase<f64> {
    Phase::with_w_step(scheme, w_step.with_optimizer(descent())).unwrap()
}

fn descent() -> GradientDescent {
    GradientDescent::new(0.3).unwrap()
}

/// E of the hidden layers.
fn hidden_energy(model: &DecoupledCircuit<f64>) -> f64 {
    let energies = model.energies().unwrap();
    energies[..energies.len() - 1].iter().sum()
}

/// As many visits: least squares and Levenberg-Marquardt bring the hidden layers far below where
/// gradient steps bring them.
#[test]
fn solved_layers_fit_their_targets_in_few_visits() {
    let trained = |w_step: WStep<f64>, batch: usize, epochs: u64| {
        let mut model = classifier();
        run(
            &mut model,
            weights_only(w_step)
                .with_batch_size(batch)
                .unwrap()
                .with_epochs(epochs),
        );
        hidden_energy(&model)
    };
    let start = hidden_energy(&classifier());
    let by_gradients = trained(WStep::none(), EXAMPLES, 3);
    let ridge = || LeastSquares::ridge(1e-6).unwrap();
    let squares = WStep::solver(ridge());
    let squares = trained(squares, EXAMPLES, 3);
    let newton = LevenbergMarquardt::new(3, 20);
    let newton = WStep::solver(newton);
    let newton = trained(newton, EXAMPLES, 3);
    // In minibatches of fewer examples than inputs, the sums over all of them.
    let kept = ridge().with_forgetting_factor(1.0).unwrap();
    let streamed = WStep::solver(kept);
    let streamed = trained(streamed, 7, 1);
    let gradients_in_batches = trained(WStep::none(), 7, 1);
    let all = [
        start,
        by_gradients,
        squares,
        newton,
        gradients_in_batches,
        streamed,
    ];
    assert!(by_gradients > 0.5 * start, "{all:?}");
    assert!(squares < 0.2 * by_gradients, "{all:?}");
    assert!(newton < 0.2 * by_gradients, "{all:?}");
    assert!(streamed < 0.2 * gradients_in_batches, "{all:?}");
}

/// One pass in minibatches with γ = 1 over fixed targets is the solution of the whole.
#[test]
fn one_streamed_epoch_is_the_whole_batch() {
    let trained = |batch: usize, forgetting: f64| {
        let mut model = classifier::<f64>();
        let solver = LeastSquares::ridge(1e-4).unwrap();
        let solver = solver.with_forgetting_factor(forgetting).unwrap();
        let w_step = WStep::solver(solver);
        run(
            &mut model,
            weights_only(w_step)
                .with_batch_size(batch)
                .unwrap()
                .with_epochs(1),
        );
        [0, 1].map(|t| model.circuit().parameters(t).to_vec())
    };
    let whole = trained(EXAMPLES, 0.0);
    for (batch, forgetting, close) in [(7, 1.0, true), (20, 1.0, true), (7, 0.0, false)] {
        let found = trained(batch, forgetting);
        for t in 0..2 {
            let error = distance(&found[t], &whole[t]);
            assert_eq!(
                error < 1e-10,
                close,
                "layer {t}, batches of {batch}: {error}"
            );
        }
    }
}

/// A solver where least squares fit, from a state of its own.
#[derive(Debug, Clone)]
struct HiddenOnly<S>(S);

impl<S: ParameterSolver<f64>> ParameterSolver<f64> for HiddenOnly<S> {
    fn start(&self) -> State<f64> {
        let mut state = self.0.start();
        state.counts.push(7);
        state
    }

    fn check(&self, problem: &LocalProblem<'_, f64>) -> Result<(), Error> {
        LeastSquares::ridge(0.0)?.check(problem)
    }

    fn solve(
        &self,
        state: &mut State<f64>,
        problem: &LocalProblem<'_, f64>,
        workspace: &mut LocalWorkspace<f64>,
        parameters: &mut [f64],
    ) -> Result<ParameterReport, Error> {
        assert_eq!(state.counts, [7]);
        self.0.solve(state, problem, workspace, parameters)
    }
}

/// A layer without a solver steps as it would alone, also under a bound of the gradient's norm.
#[test]
fn other_layers_take_the_optimisers_step() {
    let squares = || LeastSquares::ridge(1e-3).unwrap();
    let output = |w_step: WStep<f64>, epochs| {
        let mut model = classifier();
        run(
            &mut model,
            weights_only(w_step)
                .with_batch_size(11)
                .unwrap()
                .with_epochs(epochs),
        );
        model.circuit().parameters(2).to_vec()
    };
    let alone = output(WStep::none(), 5);
    let beside = output(WStep::solver(squares()), 5);
    assert_eq!(alone, beside);

    // Levenberg-Marquardt leaves gradients in the workspace, which must not count.
    let newton = || HiddenOnly(LevenbergMarquardt::new(2, 3));
    for w_step in [WStep::solver(squares()), WStep::solver(newton())] {
        let max = 1e-2;
        let mut model = classifier::<f64>();
        let before = wide(model.circuit().parameters(2));
        let gradient = wide(&model.gradients(&Selection::All).unwrap().parameters[2]);
        assert!(gradient.norm() / EXAMPLES as f64 > 2.0 * max);
        let phase = weights_only(w_step).with_epochs(1);
        run(&mut model, phase.with_max_gradient_norm(max).unwrap());
        let expected = before - &gradient * (0.3 * max / gradient.norm());
        assert!((wide(model.circuit().parameters(2)) - expected).amax() < 1e-14);
    }
}

/// Sums and damping are a phase's own: a second run with the same trainer forgets the first, and a
/// solver that was used is as good as a new one.
#[test]
fn a_phase_starts_anew() {
    let kept = LeastSquares::ridge(1e-3)
        .unwrap()
        .with_forgetting_factor(1.0)
        .unwrap();
    let w_step = || WStep::solver(kept);
    let again = Trainer::new(weights_only(w_step()).with_epochs(1));
    let mut model = classifier();
    again.run(&mut model).unwrap();
    let first = model.circuit().parameters(0).to_vec();
    model
        .initialize_targets(&TargetInit::Projected { seed: 77 })
        .unwrap();
    let mut fresh = model.clone();
    let used = kept;
    fresh
        .clone()
        .solve_parameters(1, &used, &Selection::Columns(0..40))
        .unwrap();
    let mut with_used = fresh.clone();
    let of_used = WStep::solver(used);
    run(&mut with_used, weights_only(of_used).with_epochs(1));
    again.run(&mut model).unwrap();
    run(&mut fresh, weights_only(w_step()).with_epochs(1));
    for t in 0..2 {
        let expected = fresh.circuit().parameters(t);
        assert_eq!(model.circuit().parameters(t), expected);
        assert_eq!(with_used.circuit().parameters(t), expected);
    }
    assert_ne!(model.circuit().parameters(0), first);
}

/// What a solver keeps is its state alone, and a state that cannot be one counts as new.
#[test]
fn a_state_is_all_that_is_kept() {
    let squares = LeastSquares::ridge(1e-3).unwrap();
    let kept = squares.with_forgetting_factor(0.5).unwrap();
    let newton = LevenbergMarquardt::new(1, 2);
    let model = classifier::<f64>();
    let solved = |solver: &dyn ParameterSolver<f64>, state: &mut State<f64>, start: usize| {
        let problem = model.local_problem(0, start..start + 20).unwrap();
        let mut parameters = problem.parameters().to_vec();
        let mut workspace = problem.workspace();
        solver
            .solve(state, &problem, &mut workspace, &mut parameters)
            .unwrap();
        parameters
    };
    for (solver, memory) in [
        (&squares as &dyn ParameterSolver<f64>, false),
        (&kept, true),
        (&newton, true),
    ] {
        let mut state = solver.start();
        solved(solver, &mut state, 0);
        assert_eq!(state != solver.start(), memory, "{solver:?}");
        // A copy goes on alike, without the scratch memory; a new state does not.
        let mut copy = state.clone();
        let expected = solved(solver, &mut state, 20);
        assert_eq!(solved(solver, &mut copy, 20), expected);
        assert_eq!(copy, state);
        let fresh = solved(solver, &mut solver.start(), 20);
        assert_eq!(fresh != expected, memory, "{solver:?}");
        for values in [vec![], vec![vec![]], vec![vec![1.0; 3]; 5]] {
            let mut strange = State::new();
            strange.values = values;
            assert_eq!(solved(solver, &mut strange, 20), fresh);
        }
    }
}

/// Behind a pointer of any kind a solver does what it does itself.
#[test]
fn pointers_are_solvers() {
    let trained = |w_step: WStep<f64>| {
        let mut model = classifier();
        let phase = weights_only(w_step).with_batch_size(20).unwrap();
        run(&mut model, phase.with_epochs(2));
        let circuit = model.circuit();
        [0, 1, 2].map(|t| circuit.parameters(t).to_vec())
    };
    let solver = LeastSquares::ridge(1e-3).unwrap();
    let solver = HiddenOnly(solver.with_forgetting_factor(0.9).unwrap());
    let expected = trained(WStep::solver(solver.clone()));
    let boxed: Box<dyn ParameterSolver<f64>> = Box::new(solver.clone());
    let shared: Arc<dyn ParameterSolver<f64>> = Arc::new(solver.clone());
    let lent: &'static HiddenOnly<LeastSquares> = Box::leak(Box::new(solver));
    for w_step in [
        WStep::solver(boxed),
        WStep::solver(shared),
        WStep::solver(lent),
    ] {
        assert_eq!(trained(w_step), expected);
    }
}

/// With moving targets and every policy, several parameter steps a visit.
#[test]
fn solvers_go_with_z_steps() {
    type Make = fn() -> Decoupling<f64>;
    let schemes: [(&str, Make); 3] = [
        ("persistent", || {
            Decoupling::persistent(ReverseSweep::new(2))
        }),
        ("refreshed", || Decoupling::refreshed(ReverseSweep::new(2))),
        ("residual", || Decoupling::residual(ReverseSweep::new(2))),
    ];
    for (name, scheme) in schemes {
        let proximal = LeastSquares::proximal(0.5).unwrap();
        let w_step = WStep::solver(proximal).with_steps(2).unwrap();
        let mut model = classifier();
        let before = model.composed_loss().unwrap();
        run(
            &mut model,
            solved(scheme(), w_step)
                .with_batch_size(20)
                .unwrap()
                .with_epochs(40),
        );
        let after = model.composed_loss().unwrap();
        assert!(after < 0.7 * before, "{name}: {before} to {after}");
    }
}

/// Fails in layer `at`, or leaves NaN there; elsewhere it moves every parameter.
#[derive(Debug, Clone)]
struct Failing {
    at: usize,
    nan: bool,
}

impl ParameterSolver<f64> for Failing {
    fn check(&self, problem: &LocalProblem<'_, f64>) -> Result<(), Error> {
        LeastSquares::ridge(0.0)?.check(problem)
    }

    fn solve(
        &self,
        _state: &mut State<f64>,
        problem: &LocalProblem<'_, f64>,
        _workspace: &mut LocalWorkspace<f64>,
        parameters: &mut [f64],
    ) -> Result<ParameterReport, Error> {
        assert_eq!(parameters, problem.parameters());
        parameters.iter_mut().for_each(|x| *x += 1.0);
        if problem.layer() != self.at {
            return Ok(ParameterReport::new(1, 1));
        }
        if self.nan {
            parameters[3] = f64::NAN;
            return Ok(ParameterReport::new(1, 1));
        }
        Err(Error::NoExamples {
            operation: "a test",
        })
    }
}

/// After a failure in any layer, no θ_t has moved.
#[test]
fn all_layers_are_solved_or_none() {
    for at in 0..2 {
        for nan in [false, true] {
            let mut model = classifier::<f64>();
            let parameters = |model: &DecoupledCircuit<f64>| {
                let circuit = model.circuit();
                (0..3)
                    .map(|t| circuit.parameters(t).to_vec())
                    .collect::<Vec<_>>()
            };
            let before = parameters(&model);
            let w_step = WStep::solver(Failing { at, nan });
            let trainer = Trainer::new(weights_only(w_step).with_epochs(1));
            match trainer.run(&mut model).unwrap_err().error {
                Error::NonFinite {
                    quantity,
                    layer,
                    step,
                } if nan => {
                    assert_eq!((quantity, layer, step), (Quantity::Parameter, at, 0));
                }
                Error::NoExamples {
                    operation: "a test",
                } if !nan => {}
                other => panic!("{other}"),
            }
            assert_eq!(parameters(&model), before);
            let result = model.solve_parameters(at, &Failing { at, nan }, &Selection::All);
            result.unwrap_err();
            assert_eq!(parameters(&model), before);
        }
    }
    // The output layer's step is part of it.
    let mut model = classifier::<f64>();
    let before = model.circuit().parameters(2).to_vec();
    let w_step = WStep::solver(Failing { at: 9, nan: false });
    run(&mut model, weights_only(w_step).with_epochs(1));
    assert_ne!(model.circuit().parameters(2), before);
    // And if it is the optimiser that diverges, the solved layers stay too.
    let mut model = classifier::<f64>();
    let before = model.circuit().parameters(0).to_vec();
    let solver = LeastSquares::ridge(0.1).unwrap();
    let w_step = WStep::solver(solver);
    let wild = GradientDescent::new(f64::MAX).unwrap();
    let w_step = w_step.with_optimizer(wild.with_momentum(0.9).unwrap());
    let phase = Phase::with_w_step(Decoupling::weights_only(), w_step).unwrap();
    let mut phase = phase.with_epochs(30);
    phase = phase.with_batch_size(EXAMPLES).unwrap();
    let error = Trainer::new(phase).run(&mut model).unwrap_err().error;
    assert!(matches!(error, Error::NonFinite { .. }), "{error}");
    // Full batches with fixed targets: every completed step leaves the same solution.
    let mut solved = classifier::<f64>();
    let solver = LeastSquares::ridge(0.1).unwrap();
    solved
        .solve_parameters(0, &solver, &Selection::All)
        .unwrap();
    let now = model.circuit().parameters(0);
    assert!(now == before || distance(now, solved.circuit().parameters(0)) < 1e-12);
}

#[test]
fn a_solver_that_fits_no_layer_is_refused_at_the_start() {
    let layer = Dense::new(2, 2, Activation::Gelu).unwrap();
    let circuit = Circuit::<f64>::builder().layer(layer.clone()).layer(layer);
    let circuit = circuit.build().unwrap();
    let mut model = DecoupledCircuit::new(circuit, Energy::default()).unwrap();
    let (x, y) = (random(2, 5, 1), random(2, 5, 2));
    model
        .add_examples(&x, &y, &TargetInit::ForwardPass)
        .unwrap();
    let before = model.circuit().parameters(0).to_vec();
    let solver = LeastSquares::ridge(0.1).unwrap();
    let w_step = WStep::solver(solver);
    let result = Trainer::new(weights_only(w_step)).run(&mut model);
    let error = result.unwrap_err().error;
    assert!(
        matches!(error, Error::ParameterSolver { layer: 1, .. }),
        "{error}"
    );
    assert_eq!(model.circuit().parameters(0), before);

    // One that is given to a layer must fit that layer, and the layer must exist.
    let mut model = classifier::<f64>();
    for (t, expected) in [(2, "layer 2"), (3, "layer 3")] {
        let w_step = WStep::solver_of_layer(t, LeastSquares::ridge(0.1).unwrap());
        let error = Trainer::new(weights_only(w_step))
            .run(&mut model)
            .unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

/// Each layer by a solver of its own; the others stay without an optimiser.
#[test]
fn layers_have_solvers_of_their_own() {
    let (ridge, newton) = (
        LeastSquares::ridge(0.1).unwrap(),
        LevenbergMarquardt::new(2, 3),
    );
    let start = classifier::<f64>();
    let mut alone = [0, 1].map(|_| start.clone());
    alone[0]
        .solve_parameters(0, &ridge, &Selection::All)
        .unwrap();
    alone[1]
        .solve_parameters(1, &newton, &Selection::All)
        .unwrap();
    let w_step = WStep::solver_of_layer(0, ridge).with_solver_of_layer(1, newton);
    let phase = Phase::with_w_step(Decoupling::weights_only(), w_step).unwrap();
    let mut model = start.clone();
    run(&mut model, phase.with_epochs(1));
    for (t, expected) in [(0, &alone[0]), (1, &alone[1]), (2, &start)] {
        assert_eq!(
            model.circuit().parameters(t),
            expected.circuit().parameters(t)
        );
        assert_eq!(
            t == 2,
            model.circuit().parameters(t) == start.circuit().parameters(t)
        );
    }
}

#[cfg(feature = "rayon")]
#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let kept = LeastSquares::ridge(1e-3)
        .unwrap()
        .with_forgetting_factor(0.9)
        .unwrap();
    let newton = LevenbergMarquardt::new(2, 4);
    for w_step in [WStep::solver(kept), WStep::solver(newton)] {
        let trained = |threads| {
            let mut model = classifier();
            let phase = solved(Decoupling::persistent(ReverseSweep::new(1)), w_step.clone())
                .with_batch_size(9)
                .unwrap()
                .with_epochs(3);
            Trainer::new(phase)
                .with_threads(threads)
                .unwrap()
                .run(&mut model)
                .unwrap();
            (0..3)
                .map(|t| model.circuit().parameters(t).to_vec())
                .collect::<Vec<_>>()
        };
        let alone = trained(1);
        assert_eq!(alone, trained(2));
        assert_eq!(alone, trained(3));
    }
}

/// A batch beyond the scalar is an error of its own visit: kept sums start anew behind it.
#[test]
fn sums_that_overflow_start_anew() {
    let layer = Dense::new(1, 1, Activation::Identity).unwrap();
    let parameters = [0.5_f32, 0.0];
    let solver = LeastSquares::ridge(0.1)
        .unwrap()
        .with_forgetting_factor(0.5)
        .unwrap();
    let mut state = State::new();
    let mut outcomes = Vec::new();
    for size in [1.0_f32, f32::MAX, 1.0, 1.0] {
        let (input, target) = ([1.0, -1.0, 0.5], [size, -size, 0.2]);
        let problem =
            LocalProblem::new(&layer, &parameters, &SquaredError, 1.0, &input, &target).unwrap();
        // They shift the targets.
        let problem = problem.with_multipliers(&target).unwrap();
        let mut own = parameters;
        let mut workspace = problem.workspace();
        let solved = solver.solve(&mut state, &problem, &mut workspace, &mut own);
        if solved.is_err() {
            assert!(matches!(solved, Err(Error::NonFinite { .. })), "{solved:?}");
            assert_eq!(own, parameters);
        }
        outcomes.push(solved.is_ok());
    }
    assert_eq!(outcomes, [true, false, true, true]);
}

/// A step that only its damping makes too short to be judged is made with less.
#[test]
fn no_step_is_lost_to_its_damping() {
    let layer = Dense::new(1, 1, Activation::Identity).unwrap();
    let layer = layer.without_bias();
    let parameters = [0.0_f64];
    let problem =
        LocalProblem::new(&layer, &parameters, &SquaredError, 1.0, &[1.0], &[1.0]).unwrap();
    let moved = |steps: u64, damping: f64| {
        let solver = LevenbergMarquardt::new(steps, 4).with_damping(damping);
        let mut own = parameters;
        let (mut state, mut workspace) = (State::new(), problem.workspace());
        let report = solver
            .unwrap()
            .solve(&mut state, &problem, &mut workspace, &mut own)
            .unwrap();
        (own[0], report.accepted)
    };
    // At 10¹⁷, θ would move by less than ℓ can tell.
    for damping in [1.0, 1e8, 1e17] {
        let (theta, accepted) = moved(1, damping);
        assert!(theta > 0.0 && accepted == 1, "{damping}: {theta}");
    }
    assert!(moved(5, 1.0).0 > 0.9 && moved(40, 1e17).0 > 0.9);
}

/// Inputs that do not vary beside some that do: any ridge decides about them, in f32 too.
fn constant_inputs_survive_a_small_ridge<T: Tested>() {
    for d in [8, 64] {
        let n = 3 * d;
        let constant = [0, 3, d - 1];
        for value in [0.0, 0.7, -30.0] {
            let mut z = random::<T>(d, n, 3);
            for row in constant {
                z.row_mut(row).fill(T::of(value));
            }
            let p = random::<T>(2, n, 4);
            let mut equations = NormalEquations::new(d, 2, true).unwrap();
            equations.add(z.as_slice(), p.as_slice(), None).unwrap();
            let mut found = DMatrix::from_element(2, d + 1, T::one());
            equations.solve(1e-6, 0.0, found.as_mut_slice()).unwrap();
            // Nothing is to be learnt from them, and the rest is as it would be without them.
            for row in constant {
                assert!(
                    found.column(row).iter().all(|w| w.is_zero()),
                    "{value}: {found}"
                );
            }
            let rest: Vec<usize> = (0..d).filter(|row| !constant.contains(row)).collect();
            let own = z.select_rows(&rest);
            let mut equations = NormalEquations::new(rest.len(), 2, true).unwrap();
            equations.add(own.as_slice(), p.as_slice(), None).unwrap();
            let mut expected = DMatrix::from_element(2, rest.len() + 1, T::one());
            equations.solve(1e-6, 0.0, expected.as_mut_slice()).unwrap();
            let columns = rest.into_iter().chain([d]);
            for (k, column) in columns.enumerate() {
                for row in 0..2 {
                    let gap = (found[(row, column)] - expected[(row, k)]).as_f64();
                    assert!(gap.abs() < 100.0 * T::ROUNDING, "{value}, {column}: {gap}");
                }
            }
        }
    }
    // Without a bias equal constants depend on one another, and the error says how much is enough.
    let mut z = random::<T>(4, 20, 3);
    z.row_mut(1).fill(T::of(0.7));
    z.row_mut(3).fill(T::of(0.7));
    let p = random::<T>(1, 20, 4);
    let mut equations = NormalEquations::new(4, 1, false).unwrap();
    equations.add(z.as_slice(), p.as_slice(), None).unwrap();
    let mut found = [T::zero(); 4];
    let error = equations.solve(1e-18, 0.0, &mut found).unwrap_err();
    let Error::Singular { row: 3, ridge, .. } = error else {
        panic!("{error}");
    };
    equations.solve(ridge, 0.0, &mut found).unwrap();
    assert!((found[1] - found[3]).as_f64().abs() < 0.2, "{found:?}");
}
