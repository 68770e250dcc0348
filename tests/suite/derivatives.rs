//! Every derivative of the crate against central differences, in `f64` and `f32`: layers, losses,
//! local problems and whole circuits, at random shapes, parameters and data away from kinks; and
//! the bounds that go with them, curvature and Lipschitz constants.

use std::ops::Range;

mod cases;
use self::cases::{
    ACTIVATIONS, Probed, Spec, any_activation, chain, forward, sequential, smooth_point,
};
use crate::property::{failed, for_all, generator, uniform};
use layerwise::decoupled::{Selection, TargetInit};
use layerwise::energy::{All, Energy, LocalProblem};
use layerwise::gradcheck::GradCheck;
use layerwise::kernel::Write;
use layerwise::layer::{Activation, Dense};
use layerwise::loss::{
    BinaryCrossEntropy, ClassWeights, Gaussian, Huber, KullbackLeibler, LabelSmoothing, Pair,
    Poisson, PseudoHuber, Quantile, SoftmaxCrossEntropy, SquaredError, SumOverPositions,
    WeightedBinaryCrossEntropy, WeightedCrossEntropy, WeightedSquaredError,
};
use layerwise::nalgebra::DMatrix;
use layerwise::rand::RngExt;
use layerwise::{Circuit, DecoupledCircuit, Layer, Loss, Scalar};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

in_both_scalars!(
    dense,
    composed,
    products_are_adjoint,
    losses,
    a_columns_loss_is_its_own,
    saturated_logits,
    curvatures_set_add_and_skip,
    cross_entropy_is_invariant_under_shifts,
    losses_are_semidefinite_and_bounded,
    local_problems,
    circuits,
    wide_circuits_along_directions,
);

/// Parameters of a whole chain as those of one `Sequential`.
fn flat<T: Scalar>(parameters: &[Vec<T>]) -> Vec<T> {
    parameters.concat()
}

fn dense<T: Probed>() {
    let cases = (1..7usize, 1..7usize, any::<bool>(), 1..5usize, any::<u64>());
    for_all(cases, |(input, output, bias, n, seed)| {
        let rng = &mut generator(seed);
        for activation in ACTIVATIONS {
            let spec = Spec {
                input,
                output,
                activation,
                bias,
            };
            let (parameters, z) = smooth_point::<T>(&[spec], n, rng);
            let check = GradCheck::new().with_seed(seed);
            let report = check.layer(&spec.layer(), &parameters[0], &z);
            let report = report.map_err(failed)?;
            report.require(T::GRADIENT).map_err(failed)?;
        }
        Ok(())
    });
}

/// Two or three layers with their activations, a bias or not, n, and a seed.
fn any_chain() -> impl Strategy<Value = (Vec<Spec>, usize, u64)> {
    let widths = prop::collection::vec(1..7usize, 3..5);
    let activations = prop::collection::vec(any_activation(), 3);
    (widths, activations, any::<bool>(), 1..4usize, any::<u64>()).prop_map(
        |(widths, activations, bias, n, seed)| (chain(&widths, &activations, bias), n, seed),
    )
}

fn composed<T: Probed>() {
    for_all(any_chain(), |(specs, n, seed)| {
        let (parameters, z) = smooth_point::<T>(&specs, n, &mut generator(seed));
        let unit = sequential(&specs);
        let check = GradCheck::new().with_seed(seed);
        let report = check.layer(&unit, &flat(&parameters), &z).map_err(failed)?;
        report.require(T::GRADIENT).map_err(failed)
    });
}

/// (Σ aᵢ bᵢ, Σ |aᵢ bᵢ|), summed in f64.
fn dot<T: Scalar>(a: &[T], b: &[T]) -> (f64, f64) {
    let terms = a.iter().zip(b).map(|(a, b)| a.as_f64() * b.as_f64());
    terms.fold((0.0, 0.0), |(sum, size), x| (sum + x, size + x.abs()))
}

/// ⟨u, J v⟩ = ⟨Jᵀ u, v⟩, with J v in input and parameters at once.
fn products_are_adjoint<T: Probed>() {
    for_all(any_chain(), |(specs, n, seed)| {
        let rng = &mut generator(seed);
        let unit = sequential::<T>(&specs);
        let single = specs[0].layer();
        let layers: [(&dyn Layer<T>, &[Spec]); 2] = [(&unit, &specs), (&single, &specs[..1])];
        for (layer, specs) in layers {
            let parameters: Vec<T> = specs.iter().flat_map(|s| s.parameters(rng)).collect();
            let z = uniform(rng, layer.input_dim() * n, 1.5);
            let target = uniform(rng, layer.output_dim() * n, 1.0);
            let loss = SquaredError;
            let problem = LocalProblem::new(layer, &parameters, &loss, T::one(), &z, &target);
            let problem = problem.map_err(failed)?;
            let mut workspace = problem.workspace();
            let mut at = problem.linearize(&mut workspace);

            let u = uniform::<T>(rng, target.len(), 1.0);
            let v_input = uniform::<T>(rng, z.len(), 1.0);
            let v_parameters = uniform::<T>(rng, parameters.len(), 1.0);
            let mut d_input = vec![T::zero(); z.len()];
            let mut d_parameters = vec![T::zero(); parameters.len()];
            let (set_input, set_parameters) =
                (Write::Set(&mut d_input), Write::Set(&mut d_parameters));
            at.vjp(&u, set_input, set_parameters).map_err(failed)?;
            for (in_input, in_parameters) in [(true, false), (false, true), (true, true)] {
                let v_input = in_input.then_some(&v_input[..]);
                let v_parameters = in_parameters.then_some(&v_parameters[..]);
                let mut tangent = vec![T::zero(); target.len()];
                at.jvp(v_input, v_parameters, &mut tangent)
                    .map_err(failed)?;
                let (forward, size) = dot(&u, &tangent);
                let input = v_input.map_or((0.0, 0.0), |v| dot(&d_input, v));
                let own = v_parameters.map_or((0.0, 0.0), |v| dot(&d_parameters, v));
                let scale = size + input.1 + own.1 + 1e-3;
                let difference = forward - (input.0 + own.0);
                prop_assert!(
                    difference.abs() <= T::ROUNDING * scale,
                    "⟨u, Jv⟩ = {forward}, ⟨Jᵀu, v⟩ = {}",
                    input.0 + own.0
                );
            }
        }
        Ok(())
    });
}

fn check_loss<T: Probed>(loss: &dyn Loss<T>, at: &Pair<'_, T>, joint: bool) -> TestCaseResult {
    let check = GradCheck::new();
    for report in [check.loss(loss, at), check.curvature(loss, at, joint)] {
        let outcome = report.and_then(|report| report.require(T::GRADIENT));
        prop_assert!(outcome.is_ok(), "{loss:?}: {outcome:?}");
    }
    Ok(())
}

/// A loss with targets in its domain, and parameters.
struct LossCase<T> {
    loss: Box<dyn Loss<T>>,
    target: Vec<T>,
    parameters: Vec<T>,
}

impl<T: Scalar> LossCase<T> {
    fn new(loss: impl Loss<T> + 'static, target: &[T]) -> Self {
        Self {
            loss: Box::new(loss),
            target: target.to_vec(),
            parameters: Vec::new(),
        }
    }

    fn with_parameters(self, parameters: &[T]) -> Self {
        let parameters = parameters.to_vec();
        Self { parameters, ..self }
    }

    fn at<'a>(&'a self, dim: usize, prediction: &'a [T]) -> Pair<'a, T> {
        Pair::new(dim, &self.target, prediction).with_parameters(&self.parameters)
    }
}

/// Where the losses that turn linear do so.
const DELTA: f64 = 1.0;

/// Every loss at targets of its domain; residuals keep clear of the kinks at ±[`DELTA`].
fn every_loss<T: Probed>(dim: usize, prediction: &[T], seed: u64) -> Vec<LossCase<T>> {
    let (n, rng) = (prediction.len() / dim, &mut generator(seed));
    let free = |rng: &mut _| -> Vec<T> {
        let residuals = uniform::<f64>(rng, dim * n, 2.0).into_iter();
        let clear = residuals.map(|r| {
            let near = (r.abs() - DELTA).abs() < T::KINK;
            if near { 1.5 * r } else { r }
        });
        clear.zip(prediction).map(|(r, &p)| p + T::of(r)).collect()
    };
    let above = |rng: &mut _, least: f64, count: usize| -> Vec<T> {
        let draws = uniform::<f64>(rng, count, 1.0).into_iter();
        draws.map(|w| T::of(least + w.abs())).collect()
    };
    // On either side of a kink at 0.
    let apart: Vec<T> = uniform::<f64>(rng, dim * n, 1.0)
        .into_iter()
        .zip(prediction)
        .map(|(r, &p)| p + T::of(r + r.signum() * T::KINK))
        .collect();
    let weights = above(rng, 0.5, dim);
    let phi = uniform::<T>(rng, dim, 1.0);
    let free = free(rng);
    let soft = distributions::<T>(seed, dim, n);
    let hard = one_hot::<T>(seed, dim, n);
    // ln y needs room for the differences, and a divergence near 0 is all rounding.
    let (most, rest) = (T::of(0.7), T::of(0.3 / dim as f64));
    let sure: Vec<T> = hard.iter().map(|&y| most * y + rest).collect();
    let counts = above(rng, 0.0, dim * n);
    let smoothing = |epsilon| LabelSmoothing::new(SoftmaxCrossEntropy, epsilon).unwrap();
    let classes = |loss| ClassWeights::new(weights.clone(), loss).unwrap();
    let one = || Gaussian::learned_shared(T::one(), T::of(0.1)).unwrap();
    let each = || Gaussian::learned(T::one(), T::of(0.1)).unwrap();
    let positions = [3, 2].into_iter().find(|&p| dim.is_multiple_of(p));
    let positions = positions.unwrap_or(1);
    let by_position = distributions::<T>(!seed, dim / positions, positions * n);
    vec![
        LossCase::new(SquaredError, &free),
        LossCase::new(WeightedSquaredError::new(weights.clone()).unwrap(), &free),
        LossCase::new(Huber::new(DELTA).unwrap(), &free),
        LossCase::new(PseudoHuber::new(DELTA).unwrap(), &free),
        LossCase::new(Gaussian::new(weights.clone()).unwrap(), &free),
        LossCase::new(Gaussian::new(vec![T::of(2.0)]).unwrap(), &free),
        LossCase::new(each(), &free).with_parameters(&phi),
        LossCase::new(one(), &free).with_parameters(&phi[..1]),
        LossCase::new(SoftmaxCrossEntropy, &soft),
        LossCase::new(SoftmaxCrossEntropy, &hard),
        LossCase::new(KullbackLeibler, &sure),
        LossCase::new(BinaryCrossEntropy, &soft),
        LossCase::new(BinaryCrossEntropy, &hard),
        LossCase::new(Poisson, &counts),
        LossCase::new(Quantile::new(0.3).unwrap(), &apart),
        LossCase::new(
            WeightedBinaryCrossEntropy::new(weights.clone()).unwrap(),
            &soft,
        ),
        LossCase::new(
            WeightedBinaryCrossEntropy::new(weights.clone()).unwrap(),
            &hard,
        ),
        LossCase::new(WeightedCrossEntropy::new(weights.clone()).unwrap(), &soft),
        LossCase::new(WeightedCrossEntropy::new(weights.clone()).unwrap(), &hard),
        LossCase::new(
            LabelSmoothing::binary(BinaryCrossEntropy, 0.2).unwrap(),
            &soft,
        ),
        LossCase::new(smoothing(0.2), &soft),
        LossCase::new(smoothing(0.0), &hard),
        LossCase::new(LabelSmoothing::new(one(), 0.2).unwrap(), &soft).with_parameters(&phi[..1]),
        LossCase::new(classes(SoftmaxCrossEntropy), &hard),
        LossCase::new(
            ClassWeights::new(weights.clone(), KullbackLeibler).unwrap(),
            &sure,
        ),
        LossCase::new(ClassWeights::new(weights.clone(), each()).unwrap(), &soft)
            .with_parameters(&phi),
        LossCase::new(
            ClassWeights::new(weights.clone(), smoothing(0.1)).unwrap(),
            &soft,
        ),
        LossCase::new(
            SumOverPositions::new(positions, SoftmaxCrossEntropy).unwrap(),
            &by_position,
        ),
        LossCase::new(
            SumOverPositions::new(positions, SquaredError).unwrap(),
            &free,
        ),
        LossCase::new(SumOverPositions::new(positions, each()).unwrap(), &free)
            .with_parameters(&phi[..dim / positions]),
    ]
}

fn losses<T: Probed>() {
    let cases = (1..7usize, 1..5usize, any::<u64>());
    for_all(cases, |(dim, n, seed)| {
        let prediction = uniform::<T>(&mut generator(!seed), dim * n, 1.5);
        for case in every_loss(dim, &prediction, seed) {
            // Where the target is free, the curvature is the whole Hessian.
            let joint = case.loss.free_target();
            check_loss(&*case.loss, &case.at(dim, &prediction), joint)?;
        }
        Ok(())
    });
}

/// The bits of a column's value and gradients do not depend on the columns before it, whatever its
/// place in the groups and buffers of a sum.
fn a_columns_loss_is_its_own<T: Probed>() {
    for (dim, n) in [(3, 200), (10, 120), (50, 25), (300, 5)] {
        let prediction = uniform::<T>(&mut generator(7), dim * n, 1.5);
        for case in every_loss(dim, &prediction, 8) {
            let evaluated = |columns: Range<usize>| {
                let own = columns.start * dim..columns.end * dim;
                let at = Pair::new(dim, &case.target[own.clone()], &prediction[own.clone()]);
                let at = at.with_parameters(&case.parameters);
                let mut values = vec![T::zero(); columns.len()];
                let (mut z, mut p) = (vec![T::zero(); own.len()], vec![T::zero(); own.len()]);
                let mut work = vec![T::zero(); case.loss.scratch(dim, columns.len())];
                let (d_z, d_p) = (Write::Set(&mut z[..]), Write::Set(&mut p[..]));
                case.loss.evaluate(&at, &mut values, d_z, d_p, &mut work);
                [values, z, p]
            };
            let together = evaluated(0..n);
            for i in 0..n {
                let alone = evaluated(i..i + 1);
                for (alone, together) in alone.iter().zip(&together) {
                    let size = alone.len();
                    let own = &together[i * size..(i + 1) * size];
                    assert_eq!(alone, own, "column {i} of {dim} units, {:?}", case.loss);
                }
            }
        }
    }
}

/// `Set` replaces what stood there, `Add` adds to it, and `Skip` changes nothing in the other.
fn curvatures_set_add_and_skip<T: Probed>() {
    let cases = (1..7usize, 1..5usize, any::<u64>());
    for_all(cases, |(dim, n, seed)| {
        let rng = &mut generator(!seed);
        let prediction = uniform::<T>(rng, dim * n, 1.5);
        let v = uniform::<T>(rng, dim * n, 1.0);
        for case in every_loss(dim, &prediction, seed) {
            let (loss, at) = (&case.loss, case.at(dim, &prediction));
            type Direction<'a, T> = Option<&'a [T]>;
            let product = |v_z: Direction<T>, v_p: Direction<T>, z: Write<T>, p: Write<T>| {
                // NaN in the work memory: what it holds means nothing.
                let mut work = vec![T::zero() / T::zero(); loss.scratch(dim, n)];
                loss.curvature(&at, v_z, v_p, z, p, &mut work);
            };
            let fill = |x: T| (vec![x; dim * n], vec![x; dim * n]);
            for (v_z, v_p) in [(None, None), (Some(&v[..]), None), (None, Some(&v[..]))] {
                let (mut z, mut p) = fill(T::zero() / T::zero());
                product(v_z, v_p, Write::Set(&mut z[..]), Write::Set(&mut p[..]));
                let (mut z_alone, mut p_alone) = fill(T::one());
                product(v_z, v_p, Write::Add(&mut z_alone[..]), Write::Skip);
                product(v_z, v_p, Write::Skip, Write::Add(&mut p_alone[..]));
                let sums = |out: Vec<T>| -> Vec<T> { out.iter().map(|&x| T::one() + x).collect() };
                prop_assert_eq!(&z_alone, &sums(z), "{:?}", loss);
                prop_assert_eq!(&p_alone, &sums(p), "{:?}", loss);
            }
        }
        Ok(())
    });
}

/// n distributions over `dim` classes.
fn distributions<T: Scalar>(seed: u64, dim: usize, n: usize) -> Vec<T> {
    let weights: Vec<f64> = uniform(&mut generator(seed), dim * n, 1.0);
    let columns = weights.chunks_exact(dim).flat_map(|column| {
        let total: f64 = column.iter().map(|w| w.abs()).sum();
        column.iter().map(move |w| T::of(w.abs() / total))
    });
    columns.collect()
}

/// n one-hot targets.
fn one_hot<T: Scalar>(seed: u64, dim: usize, n: usize) -> Vec<T> {
    let entry = |i: usize, j: usize| {
        let class = seed.rotate_right(7 * i as u32) as usize % dim;
        T::of(f64::from(u8::from(j == class)))
    };
    (0..n * dim).map(|k| entry(k / dim, k % dim)).collect()
}

/// Saturated, and wrong: where the target agrees, the loss is too small for differences.
fn saturated_logits<T: Probed>() {
    let cases = (1..7usize, 1..5usize, any::<u64>());
    for_all(cases, |(dim, n, seed)| {
        let logits = uniform::<T>(&mut generator(!seed), dim * n, T::LARGE_LOGIT);
        let target = least_likely(&logits, dim);
        check_loss(
            &SoftmaxCrossEntropy,
            &Pair::new(dim, &target, &logits),
            false,
        )?;
        let unlikely = |x: &T| T::of(f64::from(u8::from(*x < T::zero())));
        let target: Vec<T> = logits.iter().map(unlikely).collect();
        check_loss(
            &BinaryCrossEntropy,
            &Pair::new(dim, &target, &logits),
            false,
        )
    });
}

/// One-hot targets at the least of the logits.
fn least_likely<T: Scalar>(logits: &[T], dim: usize) -> Vec<T> {
    let mut target = vec![T::zero(); logits.len()];
    for (y, x) in target.chunks_exact_mut(dim).zip(logits.chunks_exact(dim)) {
        let least = (0..dim).fold(0, |least, j| if x[j] < x[least] { j } else { least });
        y[least] = T::one();
    }
    target
}

/// Value and both gradients of a loss.
fn evaluate<T: Scalar>(
    loss: &dyn Loss<T>,
    dim: usize,
    target: &[T],
    prediction: &[T],
) -> [Vec<T>; 3] {
    let at = Pair::new(dim, target, prediction);
    let n = target.len() / dim;
    let mut values = vec![T::zero(); n];
    let mut gradients = [vec![T::zero(); dim * n], vec![T::zero(); dim * n]];
    let [d_target, d_prediction] = &mut gradients;
    let mut work = vec![T::zero(); loss.scratch(dim, n)];
    let (d_target, d_prediction) = (
        Write::Set(&mut d_target[..]),
        Write::Set(&mut d_prediction[..]),
    );
    loss.evaluate(&at, &mut values, d_target, d_prediction, &mut work);
    let [d_target, d_prediction] = gradients;
    [values, d_target, d_prediction]
}

/// Logits far from 0, where e^x overflows or vanishes: the softmax does not change with a common
/// shift, and where the shifted logits are exact, not one bit does.
fn cross_entropy_is_invariant_under_shifts<T: Probed>() {
    let cases = (1..7usize, 1..5usize, any::<u64>());
    for_all(cases, |(dim, n, seed)| {
        let target = distributions::<T>(seed, dim, n);
        let draws = uniform::<f64>(&mut generator(!seed), dim * n, 20.0);
        let logits = |shift: f64| -> Vec<T> {
            let exact = draws
                .iter()
                .map(|x| T::of((x * 64.0).round() / 64.0 + shift));
            exact.collect()
        };
        let here = evaluate(&SoftmaxCrossEntropy, dim, &target, &logits(0.0));
        prop_assert!(here.iter().flatten().all(|x| x.is_finite()));
        for shift in [4096.0, -4096.0] {
            let there = evaluate(&SoftmaxCrossEntropy, dim, &target, &logits(shift));
            prop_assert_eq!(&here, &there, "shift {}", shift);
        }
        Ok(())
    });
}

/// The curvature of one example in (target, prediction), column by column.
fn curvature_matrix<T: Scalar>(loss: &dyn Loss<T>, at: &Pair<'_, T>) -> DMatrix<f64> {
    let dim = at.dim;
    let mut matrix = DMatrix::zeros(2 * dim, 2 * dim);
    for (j, mut column) in matrix.column_iter_mut().enumerate() {
        let mut v = vec![T::zero(); 2 * dim];
        v[j] = T::one();
        let (v_target, v_prediction) = v.split_at(dim);
        let mut out = vec![T::zero(); 2 * dim];
        let (out_target, out_prediction) = out.split_at_mut(dim);
        let mut work = vec![T::zero(); loss.scratch(dim, 1)];
        loss.curvature(
            at,
            Some(v_target),
            Some(v_prediction),
            Write::Set(out_target),
            Write::Set(out_prediction),
            &mut work,
        );
        for (entry, value) in column.iter_mut().zip(out) {
            *entry = value.as_f64();
        }
    }
    matrix
}

fn losses_are_semidefinite_and_bounded<T: Probed>() {
    let cases = (1..7usize, any::<u64>());
    for_all(cases, |(dim, seed)| {
        let prediction = uniform::<T>(&mut generator(!seed), dim, 2.0);
        // Two equal logits among very small ones come closest to the bound of a softmax, ½.
        let mut split = vec![T::of(-30.0); dim];
        split[0] = T::zero();
        split[dim - 1] = T::zero();
        for (prediction, case) in [prediction, split].iter().flat_map(|prediction| {
            let cases = every_loss(dim, prediction, seed).into_iter();
            cases.map(move |case| (prediction, case))
        }) {
            let loss = &case.loss;
            let matrix = curvature_matrix(&**loss, &case.at(dim, prediction));
            let asymmetry = (&matrix - matrix.transpose()).amax();
            prop_assert!(asymmetry <= T::ROUNDING, "{loss:?}: asymmetry {asymmetry}");
            let least = matrix.symmetric_eigenvalues().min();
            prop_assert!(least >= -T::ROUNDING, "{loss:?}: eigenvalue {least}");
            // Which losses have a bound, and which, is pinned in tests/suite/losses.rs.
            let Some(bound) = loss.curvature_bound(&case.parameters) else {
                continue;
            };
            let bound = bound.as_f64();
            for start in [0, dim] {
                let block = matrix.view((start, start), (dim, dim)).into_owned();
                let largest = block.symmetric_eigenvalues().max();
                prop_assert!(
                    largest <= bound + T::ROUNDING,
                    "{loss:?}: eigenvalue {largest} above the bound {bound}"
                );
            }
        }
        Ok(())
    });
}

/// The curvature bound of dense layers is above ‖W‖² sup|a′|² and by at most (side)^⅛, for random
/// W and for W of rank 1, where it is tight.
#[test]
fn curvature_bounds_of_dense_layers() {
    fn bounded<T: Probed>(spec: Spec, weights: &[f64]) -> TestCaseResult {
        let mut parameters: Vec<T> = weights.iter().map(|&w| T::of(w)).collect();
        let rounded = parameters.iter().map(|w| w.as_f64());
        let w = DMatrix::from_iterator(spec.output, spec.input, rounded);
        parameters.resize(spec.parameter_count(), T::zero());
        let layer = spec.layer();
        let mut work = vec![T::zero(); layer.scratch(1).bound];
        let bound = layer.curvature_bound(&parameters, &mut work);
        let bound = bound.expect("a bound").as_f64();
        let norm = w.singular_values()[0] * spec.activation.lipschitz();
        let exact = norm * norm;
        let side = spec.input.min(spec.output) as f64;
        let most = exact * side.powf(0.125) * (1.0 + 1e-4);
        prop_assert!(bound >= exact, "{bound} is below ‖J‖² = {exact}");
        prop_assert!(bound <= most, "{bound} is above {most}, ‖J‖² = {exact}");
        Ok(())
    }
    let cases = (
        1..40usize,
        1..40usize,
        any_activation(),
        -3..3i32,
        any::<u64>(),
    );
    for_all(cases, |(input, output, activation, decade, seed)| {
        let spec = Spec {
            input,
            output,
            activation,
            bias: true,
        };
        let rng = &mut generator(seed);
        let size = 10f64.powi(decade);
        let random: Vec<f64> = uniform(rng, input * output, size);
        let (column, row) = (
            uniform::<f64>(rng, output, size),
            uniform::<f64>(rng, input, 1.0),
        );
        let rank_one: Vec<f64> = row
            .iter()
            .flat_map(|r| column.iter().map(move |c| r * c))
            .collect();
        for weights in [random, rank_one] {
            bounded::<f64>(spec, &weights)?;
            bounded::<f32>(spec, &weights)?;
        }
        Ok(())
    });
}

/// No sampled |f′| exceeds the Lipschitz constant, and one comes within 1e-6 of it.
#[test]
fn lipschitz_constants_are_the_suprema() {
    let slopes = [0.0, 0.3, 1.0].map(|slope| Activation::LeakyRelu { slope });
    for activation in ACTIVATIONS.into_iter().chain(slopes) {
        let mut values: Vec<f64> = (-40_000..=40_000).map(|i| f64::from(i) * 1e-3).collect();
        let mut derivatives = vec![0.0; values.len()];
        activation.evaluate(&mut values, Some(&mut derivatives));
        let largest = derivatives.iter().fold(0.0, |top: f64, d| top.max(d.abs()));
        let constant = activation.lipschitz();
        assert!(
            largest <= constant,
            "{activation:?}: {largest} > {constant}"
        );
        assert!(
            largest >= constant - 1e-6,
            "{activation:?}: {largest}, {constant}"
        );
    }
}

/// Local problems of every loss with μ ≠ 1; μ scales energy and gradients.
fn local_problems<T: Probed>() {
    let cases = (any_chain(), 1..20u32);
    for_all(cases, |((specs, n, seed), tenths)| {
        let spec = specs[0];
        let rng = &mut generator(seed);
        let (parameters, z) = smooth_point::<T>(&[spec], n, rng);
        let layer = spec.layer();
        let prediction = forward(&layer, &parameters[0], &z);
        let weight = T::of(0.1 * f64::from(tenths) + 0.05);
        for case in every_loss(spec.output, &prediction, seed) {
            let (loss, target) = (&*case.loss, &case.target);
            let all = [&parameters[0][..], &case.parameters].concat();
            let new = |weight| LocalProblem::new(&layer, &all, loss, weight, &z, target);
            let problem = new(weight).map_err(failed)?;
            let report = GradCheck::new().local_problem(&problem);
            let outcome = report.require(T::GRADIENT);
            prop_assert!(outcome.is_ok(), "{loss:?}: {outcome:?}");
            let plain = new(T::one()).map_err(failed)?.energy().as_f64() * weight.as_f64();
            let energy = problem.energy().as_f64();
            prop_assert!((energy - plain).abs() <= T::ROUNDING * (1.0 + plain.abs()));
        }
        Ok(())
    });
}

/// A circuit of the chain with n examples and random targets, penalties other than 1.
fn model<T: Probed>(
    specs: &[Spec],
    parameters: &[Vec<T>],
    input: &[T],
    entropy: bool,
    seed: u64,
) -> DecoupledCircuit<T> {
    let n = input.len() / specs[0].input;
    let mut builder = Circuit::<T>::builder();
    for spec in specs {
        builder = builder.layer(spec.layer());
    }
    let energy = match entropy {
        true => Energy::new(SoftmaxCrossEntropy),
        false => Energy::default(),
    };
    let penalties = (1..specs.len()).map(|t| T::of(0.6 + 0.3 * t as f64));
    let energy = energy.with_penalties(penalties.collect());
    let mut circuit = builder.build().unwrap();
    for (t, own) in parameters.iter().enumerate() {
        circuit.set_parameters(t, own).unwrap();
    }
    let last = specs[specs.len() - 1].output;
    let target = if entropy {
        distributions(seed, last, n)
    } else {
        uniform(&mut generator(seed), last * n, 1.0)
    };
    let mut model = DecoupledCircuit::new(circuit, energy).unwrap();
    let inputs = DMatrix::from_column_slice(specs[0].input, n, input);
    let targets = DMatrix::from_vec(last, n, target);
    let init = TargetInit::RandomNormal { std: 1.0, seed };
    model.add_examples(&inputs, &targets, &init).unwrap();
    model
}

/// Whether no layer is near a kink at the circuit's own targets.
fn smooth_at_targets<T: Probed>(specs: &[Spec], model: &DecoupledCircuit<T>) -> bool {
    specs.iter().enumerate().all(|(t, spec)| {
        let z = model.z(t).unwrap().into_owned();
        let own = model.circuit().parameters(t);
        spec.smooth_output(own, z.as_slice()).is_some()
    })
}

fn circuits<T: Probed>() {
    let widths = prop::collection::vec(1..5usize, 2..6);
    let activations = prop::collection::vec(any_activation(), 4);
    let cases = (
        widths,
        activations,
        any::<[bool; 2]>(),
        1..3usize,
        any::<u64>(),
    );
    for_all(cases, |(widths, activations, [bias, entropy], n, seed)| {
        let specs = chain(&widths, &activations, bias);
        let rng = &mut generator(seed);
        // Inputs, parameters and targets anew until no layer is near a kink at its target either.
        let model = std::iter::repeat_with(|| {
            let (parameters, input) = smooth_point::<T>(&specs, n, rng);
            model(&specs, &parameters, &input, entropy, rng.random())
        })
        .find(|model| smooth_at_targets(&specs, model))
        .expect("an endless iterator");
        let report = GradCheck::new().circuit(&model).map_err(failed)?;
        report.require(T::GRADIENT).map_err(failed)
    });
}

/// Directions to probe wide circuits along: enough that one of them is not nearly level.
const DIRECTIONS: usize = 6;

fn wide_circuits_along_directions<T: Probed>() {
    let smooth = [
        Activation::Tanh,
        Activation::Sigmoid,
        Activation::Gelu,
        Activation::Silu,
        Activation::Softplus,
    ];
    let widths = prop::collection::vec(8..30usize, 4);
    let activations = prop::collection::vec(prop::sample::select(smooth.to_vec()), 3);
    let cases = (widths, activations, any::<bool>(), any::<u64>());
    for_all(cases, |(widths, activations, entropy, seed)| {
        let specs = chain(&widths, &activations, true);
        let (parameters, input) = smooth_point::<T>(&specs, 3, &mut generator(seed));
        let model = model(&specs, &parameters, &input, entropy, seed);
        let check = GradCheck::new()
            .with_directions(DIRECTIONS)
            .map_err(failed)?
            .with_seed(seed);
        let report = check.circuit(&model).map_err(failed)?;
        // Of each θ_t, each z_t, and of backprop's gradients, in training and not.
        prop_assert_eq!(report.compared, 2 * DIRECTIONS * (3 + 2 + 3));
        report.require(T::ALONG_DIRECTIONS).map_err(failed)
    });
}

/// ẑ = W z with W = (2 3), one example z = (5, 7), g = 10: Jᵀg = (20, 30) in z, (50, 70) in W.
/// `Set` replaces what stood there, `Add` adds to it, `Skip` leaves it alone.
#[test]
fn products_set_add_and_skip() {
    let layer = Dense::new(2, 1, Activation::Identity)
        .unwrap()
        .without_bias();
    let (weights, input, target, g) = ([2.0, 3.0], [5.0, 7.0], [0.0], [10.0]);
    let problem = LocalProblem::new(&layer, &weights, &SquaredError, 1.0, &input, &target).unwrap();
    let mut workspace = problem.workspace();
    let mut at = problem.linearize(&mut workspace);
    let (mut dz, mut dw) = ([1.0, 2.0], [3.0, 4.0]);
    let (add, set) = (Write::Add(&mut dz), Write::Set(&mut dw));
    at.vjp(&g, add, set).unwrap();
    assert_eq!((dz, dw), ([21.0, 32.0], [50.0, 70.0]));
    let (set, add) = (Write::Set(&mut dz), Write::Add(&mut dw));
    at.vjp(&g, set, add).unwrap();
    assert_eq!((dz, dw), ([20.0, 30.0], [100.0, 140.0]));
    at.vjp(&g, Write::Skip, Write::Add(&mut dw)).unwrap();
    assert_eq!((dz, dw), ([20.0, 30.0], [150.0, 210.0]));
}

/// The losses' gradients and curvature, by hand: ½‖z − ẑ‖² and the logistic loss of two equal
/// logits.
#[test]
fn losses_set_and_add() {
    let at = Pair::new(2, &[1.0, 5.0], &[3.0, 4.0]);
    let (mut value, mut dz, mut dp) = ([9.0], [100.0, 100.0], [9.0, 9.0]);
    let (add, set) = (Write::Add(&mut dz), Write::Set(&mut dp));
    SquaredError.evaluate(&at, &mut value, add, set, &mut []);
    assert_eq!((value, dz, dp), ([2.5], [98.0, 101.0], [2.0, -1.0]));

    let at = Pair::new(2, &[1.0, 0.0], &[7.0, 7.0]);
    let mut work = [0.0; 2];
    let (mut dz, mut dp) = ([10.0_f64, 20.0], [10.0, 20.0]);
    let (add_z, add_p) = (Write::Add(&mut dz), Write::Add(&mut dp));
    SoftmaxCrossEntropy.evaluate(&at, &mut value, add_z, add_p, &mut work);
    let ln_2 = std::f64::consts::LN_2;
    assert_eq!(
        (value, dz, dp),
        ([ln_2], [10.0 + ln_2, 20.0 + ln_2], [9.5, 20.5])
    );
    // diag p − ppᵀ = ¼ [[1, −1], [−1, 1]].
    let (mut out_z, mut out_p) = ([1.0, 1.0], [1.0, 1.0]);
    let v = [4.0, 0.0];
    let (add, set) = (Write::Add(&mut out_p), Write::Set(&mut out_z));
    SoftmaxCrossEntropy.curvature(&at, Some(&v), Some(&v), set, add, &mut work);
    assert_eq!((out_z, out_p), ([0.0, 0.0], [2.0, 0.0]));
}

/// ∂E/∂z_t of a circuit adds the part of z_t as a target to its part as an input.
#[test]
fn target_gradients_add_both_parts() {
    let specs = chain(&[3, 4, 2], &[Activation::Tanh, Activation::Gelu], true);
    let (parameters, input) = smooth_point::<f64>(&specs, 5, &mut generator(3));
    let model = model(&specs, &parameters, &input, false, 4);
    let whole = model.gradients(&Selection::All).unwrap();
    let [before, after] = [0, 1].map(|t| model.local_problem(t, 0..5).unwrap());
    let (mut below, mut above) = (before.workspace(), after.workspace());
    let targets = before.evaluate(All, &mut below).target_gradient();
    let inputs = after.evaluate(All, &mut above).input_gradient();
    let parts = targets.iter().zip(inputs);
    let sums: Vec<f64> = parts.map(|(target, input)| target + input).collect();
    assert_eq!(whole.targets[0].as_slice(), sums);
}

/// W of one value v everywhere has ‖W‖² = rows · columns · v² exactly, and no slack in the bound.
fn bound_of_equal_weights<T: Scalar>(v: f64, side: usize) {
    let layer = Dense::new(side, side, Activation::Identity).unwrap();
    let layer: &dyn Layer<T> = &layer.without_bias();
    let weights = vec![T::of(v); side * side];
    let mut work = vec![T::zero(); layer.scratch(1).bound];
    let bound = layer.curvature_bound(&weights, &mut work).unwrap();
    let exact = (side as f64 * T::of(v).as_f64()).powi(2);
    let ratio = bound.as_f64() / exact;
    assert!((1.0..1.01).contains(&ratio), "{v} {side}: {ratio}");
}

#[test]
fn the_bound_holds_without_slack_and_at_every_scale() {
    for (v, side) in [(0.3, 1024), (0.7, 512), (1e-12, 64), (1e10, 64)] {
        bound_of_equal_weights::<f32>(v, side);
        bound_of_equal_weights::<f64>(v, side);
    }
}
