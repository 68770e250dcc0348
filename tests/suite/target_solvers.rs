//! Target solvers beside one another: none goes uphill on any random circuit, the exact ones agree
//! and reach the minimum of a linear circuit at once, steps are checked and end example by example.

use std::sync::Arc;

use crate::property::{Tested, failed, for_all, generator, uniform};
use layerwise::decoupled::{Selection, TargetInit};
use layerwise::energy::{Energy, Value, Workspace};
use layerwise::gradcheck::GradCheck;
use layerwise::init::Initializer;
use layerwise::kernel::Write;
use layerwise::layer::{Activation, Dense, Sequential};
use layerwise::loss::{Huber, Loss, Pair, SoftmaxCrossEntropy, WeightedSquaredError};
use layerwise::nalgebra::{DMatrix, DVector};
use layerwise::optimizer::{Adam, GradientDescent};
use layerwise::rand::RngExt;
use layerwise::regularizer::Regularizer;
use layerwise::state::State;
use layerwise::target_solver::{
    Check, Convergence, Descent, ErrorDescent, GaussNewton, Iterate, RedBlack, ReverseSweep,
    SolveReport, SolveStop, StepSize, SynchronousDescent, TargetProblem, TargetSolver, Trial,
};
use layerwise::training::{Decoupling, Phase, Trainer};
use layerwise::{Circuit, DecoupledCircuit, Error, Layer, Scalar};
use proptest::prelude::*;

in_both_scalars!(
    the_direct_solvers_agree,
    red_black_sweeps_by_hand,
    examples_end_by_themselves,
    a_step_that_fails_is_drawn_back,
    an_endless_step_leaves_examples_at_rest_alone,
    steps_are_accepted_within_rounding_and_drawn_back_three_times,
    the_step_after_a_shortened_one_is_as_short,
    no_step_ends_at_infinity,
    a_false_bound_is_told,
    stagnation_begins_at_its_threshold,
    the_work_of_an_example_is_that_of_any_number,
    bounds_that_give_no_step_are_refused,
    a_bound_without_an_inverse_is_refused,
    conjugate_gradients_need_no_bound,
    negative_zeros_are_alike_in_any_company,
    what_has_ended_stays_to_the_bit,
    what_no_target_changes_judges_no_step,
    weights_at_the_ends_of_the_scalar_do_not_change_the_step,
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

const BOUNDED: StepSize = StepSize::Bounded { margin: 1.0 };

fn descent<T: Scalar>(steps: u64, step: StepSize) -> SynchronousDescent<T> {
    SynchronousDescent::new(steps, step).unwrap()
}

/// Every solver that promises a falling E, on its own settings.
fn safe_solvers<T: Scalar>() -> Vec<Box<dyn TargetSolver<T>>> {
    let heavy_ball = || {
        let rule = GradientDescent::new(1.0).unwrap();
        rule.with_momentum(0.9).unwrap()
    };
    vec![
        Box::new(descent(3, BOUNDED)),
        Box::new(descent(3, StepSize::Checked(0.3))),
        Box::new(descent(3, BOUNDED).with_rule(heavy_ball())),
        Box::new(descent(3, StepSize::Checked(1.0)).with_rule(Adam::new(0.1).unwrap())),
        Box::new(ReverseSweep::new(2)),
        Box::new(
            ReverseSweep::new(2)
                .with_step(StepSize::Bounded { margin: 1.9 })
                .unwrap(),
        ),
        Box::new(RedBlack::new(2)),
        Box::new(GaussNewton::new(2, 6)),
        Box::new(GaussNewton::new(2, 6).with_damping(0.0).unwrap()),
        Box::new(GaussNewton::chained(2, 3)),
        Box::new(GaussNewton::direct(1)),
        Box::new(GaussNewton::cyclic_reduction(1)),
    ]
}

/// E of every example.
fn energies<T: Scalar>(model: &DecoupledCircuit<T>) -> Vec<f64> {
    let n = model.examples().len();
    let mut sums = vec![0.0; n];
    for t in 0..model.circuit().depth() {
        let problem = model.local_problem(t, 0..n).unwrap();
        let mut workspace = problem.workspace();
        let found = problem.evaluate(Value, &mut workspace);
        for (sum, &energy) in sums.iter_mut().zip(found.energies()) {
            *sum += energy.as_f64();
        }
    }
    sums
}

/// Widths 1 to 64, depth 2 to 30, every activation in turn, weights N(0, σ²/fan-in) with σ from .1 to
/// 4, three examples, squared error or cross entropy.
fn random_circuit(case: u64) -> DecoupledCircuit<f64> {
    let rng = &mut generator(case);
    let depth = rng.random_range(2..=30);
    let activation = ACTIVATIONS[case as usize % ACTIVATIONS.len()];
    let scale: f64 = 0.1 * 40f64.powf(rng.random_range(0.0..=1.0));
    let widths: Vec<usize> = (0..=depth).map(|_| rng.random_range(1..=64)).collect();
    let mut builder = Circuit::builder().seed(case);
    for (t, pair) in widths.windows(2).enumerate() {
        let own = match t + 1 < depth {
            true => activation,
            false => Activation::Identity,
        };
        let weights = Initializer::VarianceScaling {
            scale: scale * scale,
            fan: layerwise::init::Fan::In,
            distribution: layerwise::init::Distribution::Normal,
        };
        let layer = Dense::new(pair[0], pair[1], own).unwrap();
        builder = builder.layer(layer.with_weights(weights).unwrap());
    }
    let classes = case % 2 == 1;
    let energy = match classes {
        true => Energy::new(SoftmaxCrossEntropy),
        false => Energy::default(),
    };
    let energy = energy.with_penalty(10f64.powf(rng.random_range(-1.0..=1.0)));
    let mut model = DecoupledCircuit::new(builder.build().unwrap(), energy).unwrap();
    let x = DMatrix::from_vec(widths[0], 3, uniform(rng, widths[0] * 3, 1.7));
    let last = widths[depth];
    let y = match classes {
        true => DMatrix::from_fn(last, 3, |i, j| f64::from(u8::from(i == j % last))),
        false => DMatrix::from_vec(last, 3, uniform(rng, last * 3, 1.0)),
    };
    let init = match case % 3 {
        0 => TargetInit::ForwardPass,
        1 => TargetInit::Projected { seed: case },
        _ => TargetInit::RandomNormal {
            std: 1.0,
            seed: case,
        },
    };
    model.add_examples(&x, &y, &init).unwrap();
    model
}

#[test]
fn no_solver_goes_uphill_on_any_of_100_random_circuits() {
    let (mut moved, mut by_errors) = (0, 0);
    for case in 0..100 {
        let start = random_circuit(case);
        let before = energies(&start);
        // Where the bound leaves only a tiny step, E changes by the rounding that the check allows in each.
        for step in [BOUNDED, StepSize::Checked(0.3)] {
            let solver = ErrorDescent::new(3).with_step(step).unwrap();
            let (model, _) = solved(&start, solver);
            for (before, after) in before.iter().zip(energies(&model)) {
                let rounding = 48.0 * f64::EPSILON * before.abs();
                assert!(
                    after.is_finite() && after <= before + rounding,
                    "case {case}: {before} to {after} by {solver:?}"
                );
                by_errors += usize::from(after < before - rounding);
            }
        }
        for solver in safe_solvers() {
            let mut model = start.clone();
            model.solve_targets(&*solver, &Selection::All).unwrap();
            for (before, after) in before.iter().zip(energies(&model)) {
                assert!(
                    after.is_finite() && after <= *before,
                    "case {case}: {before} to {after} by {solver:?}"
                );
                moved += usize::from(after < *before);
            }
        }
    }
    // A solver that never moved would pass too.
    assert!(by_errors > 300, "{by_errors} of 600");
    let made = 100 * 3 * safe_solvers::<f64>().len();
    assert!(moved > made * 9 / 10, "{moved} of {made}");
}

/// Without the check the same steps diverge.
#[test]
fn without_the_check_some_do() {
    let diverges = |case: &u64| {
        let start = random_circuit(*case);
        let before: f64 = energies(&start).iter().sum();
        let mut model = start.clone();
        let solver = descent(3, StepSize::Fixed(0.3));
        match model.solve_targets(&solver, &Selection::All) {
            Ok(_) => {
                let after = energies(&model).iter().sum::<f64>();
                after.is_nan() || after > before
            }
            Err(_) => true,
        }
    };
    assert!((0..100).filter(diverges).count() > 30);
}

fn curved_model<T: Scalar>(depth: usize, n: usize) -> DecoupledCircuit<T> {
    let widths: Vec<usize> = (0..=depth).map(|t| 3 + (t * 5) % 4).collect();
    let mut builder = Circuit::builder().seed(4);
    for (t, pair) in widths.windows(2).enumerate() {
        builder = builder.layer(Dense::new(pair[0], pair[1], ACTIVATIONS[1 + t % 2]).unwrap());
    }
    let penalties = (1..depth).map(|t| T::of(0.5 + (t % 3) as f64)).collect();
    let energy = Energy::default()
        .with_penalties(penalties)
        .with_target_regularizer(Regularizer::l2(0.1).unwrap());
    let mut model = DecoupledCircuit::new(builder.build().unwrap(), energy).unwrap();
    let x = DMatrix::from_fn(widths[0], n, |i, j| {
        T::of(((3 * i + 5 * j) % 11) as f64 / 5.0 - 1.0)
    });
    let y = DMatrix::from_fn(widths[depth], n, |i, j| T::of(((i + j) % 3) as f64 / 3.0));
    let noisy = TargetInit::NoisyForwardPass { std: 0.3, seed: 8 };
    model.add_examples(&x, &y, &noisy).unwrap();
    // Not in step with the parts of a batch that are worked on at a time.
    let weights: Vec<T> = (0..n).map(|i| T::of(0.5 + (i % 5) as f64)).collect();
    model
        .set_example_weights(&Selection::All, &weights)
        .unwrap();
    model
}

/// The largest distance between the targets of two models.
fn distance<T: Scalar>(a: &DecoupledCircuit<T>, b: &DecoupledCircuit<T>) -> f64 {
    (1..a.circuit().depth()).fold(0.0, |top, t| {
        let difference = (a.z(t).unwrap() - b.z(t).unwrap()).amax();
        f64::max(top, difference.as_f64())
    })
}

fn solved<T: Scalar>(
    start: &DecoupledCircuit<T>,
    solver: impl TargetSolver<T>,
) -> (DecoupledCircuit<T>, SolveReport) {
    let mut model = start.clone();
    let report = model.solve_targets(&solver, &Selection::All).unwrap();
    (model, report)
}

/// Conjugate gradients to the end, with either preconditioner, block Cholesky and cyclic reduction
/// make the same step, over every number of layers and more examples than are worked on at a time.
fn the_direct_solvers_agree<T: Tested>() {
    let cases = (2..14usize, 1..40usize);
    for_all(cases, |(depth, n)| {
        let start = curved_model::<T>(depth, n);
        let (by_cholesky, report) = solved(&start, GaussNewton::direct(1));
        prop_assert_eq!((report.steps, report.limited), (1, n));
        prop_assert!(distance(&start, &by_cholesky) > 0.01);
        let (by_reduction, _) = solved(&start, GaussNewton::cyclic_reduction(1));
        let error = distance(&by_cholesky, &by_reduction);
        prop_assert!(error < 10.0 * T::ROUNDING, "cyclic reduction: {}", error);
        for solver in [GaussNewton::new(1, 400), GaussNewton::chained(1, 400)] {
            let solver = solver.with_residual_tolerance(0.0).map_err(failed)?;
            let (by_iterations, _) = solved(&start, solver);
            let error = distance(&by_cholesky, &by_iterations);
            prop_assert!(error < T::GRADIENT, "conjugate gradients: {}", error);
        }
        Ok(())
    });
}

/// Preconditioned by the hidden terms, the iterations end after the output loss's rank plus one,
/// whatever the depth; without, they take some for every layer.
#[test]
fn chained_iterations_end_with_the_rank_of_the_output() {
    for depth in [3, 12, 30] {
        let penalties = (1..depth).map(|t| 0.5 + (t % 3) as f64).collect();
        let energy = Energy::default().with_penalties(penalties);
        let mut builder = Circuit::<f64>::builder().seed(9);
        for _ in 1..depth {
            builder = builder.layer(Dense::new(7, 7, Activation::Tanh).unwrap());
        }
        let last = Dense::new(7, 2, Activation::Identity).unwrap();
        let mut start =
            DecoupledCircuit::new(builder.layer(last).build().unwrap(), energy).unwrap();
        let x = DMatrix::from_fn(7, 5, |i, j| ((3 * i + j) % 5) as f64 / 2.0 - 1.0);
        let y = DMatrix::from_fn(2, 5, |i, j| (i + j) as f64 / 5.0);
        let noisy = TargetInit::NoisyForwardPass { std: 0.3, seed: 1 };
        start.add_examples(&x, &y, &noisy).unwrap();
        let undamped = |solver: GaussNewton| solver.with_damping(0.0).unwrap();
        let (exact, _) = solved(&start, undamped(GaussNewton::direct(1)));
        let (chained, report) = solved(&start, undamped(GaussNewton::chained(1, 100)));
        assert!(report.products <= 3, "{} at depth {depth}", report.products);
        let error = distance(&exact, &chained);
        assert!(error < 1e-9, "depth {depth}: {error}");
        let (_, plain) = solved(&start, undamped(GaussNewton::new(1, 100)));
        assert!(plain.products > depth as u64, "{}", plain.products);
    }
}

/// Statements 5 and 6: one undamped step reaches min E = ½ rᵀ S⁻¹ r, r = y − forward pass,
/// S = I + Σ_t P_t P_tᵀ/μ_t, P_t = W_{T−1} ⋯ W_t.
#[test]
fn a_linear_circuit_takes_one_step() {
    let widths = [3, 5, 4, 6, 2, 3, 2];
    let depth = widths.len() - 1;
    let penalties = [0.5, 2.0, 1.0, 3.0, 0.7];
    let energy = Energy::default().with_penalties(penalties.to_vec());
    let mut builder = Circuit::<f64>::builder().seed(7);
    for pair in widths.windows(2) {
        builder = builder.layer(Dense::new(pair[0], pair[1], Activation::Identity).unwrap());
    }
    let mut start = DecoupledCircuit::new(builder.build().unwrap(), energy).unwrap();
    let x = DMatrix::from_fn(3, 40, |i, j| (i as f64 - (j % 7) as f64) / 3.0);
    let y = DMatrix::from_fn(2, 40, |i, j| (2 * i + j % 5) as f64 / 4.0);
    let random = TargetInit::RandomNormal { std: 1.0, seed: 2 };
    start.add_examples(&x, &y, &random).unwrap();
    let w = |t: usize| {
        let own = &start.circuit().parameters(t)[..widths[t] * widths[t + 1]];
        DMatrix::from_column_slice(widths[t + 1], widths[t], own)
    };
    let mut s = DMatrix::<f64>::identity(2, 2);
    let mut p = DMatrix::<f64>::identity(2, 2);
    for t in (1..depth).rev() {
        p *= w(t);
        s += &p * p.transpose() / penalties[t - 1];
    }
    let residual = &y - start.predict(&x).unwrap();
    let inverse = s.try_inverse().unwrap();
    for solver in [GaussNewton::direct(1), GaussNewton::cyclic_reduction(1)] {
        let (model, _) = solved(&start, solver.with_damping(0.0).unwrap());
        for (energy, r) in energies(&model).into_iter().zip(residual.column_iter()) {
            let expected = 0.5 * (r.transpose() * &inverse * r)[0];
            assert!((energy - expected).abs() < 1e-10, "{energy}, {expected}");
        }
        // And ∂E/∂z = 0 there.
        for gradient in model.gradients(&Selection::All).unwrap().targets {
            assert!(gradient.amax() < 1e-10, "{}", gradient.amax());
        }
    }
}

/// The work of block Cholesky stands on one chain; that of cyclic reduction in levels, one more for
/// twice the depth.
#[test]
fn the_critical_path_of_cyclic_reduction_is_logarithmic() {
    let work = |hidden: usize, solver: GaussNewton| {
        let mut builder = Circuit::builder().seed(1);
        for _ in 0..=hidden {
            builder = builder.layer(Dense::new(6, 6, Activation::Tanh).unwrap());
        }
        let mut model = DecoupledCircuit::new(builder.build().unwrap(), Energy::default()).unwrap();
        let x = DMatrix::from_element(6, 1, 0.5);
        model
            .add_examples(&x, &x, &TargetInit::ForwardPass)
            .unwrap();
        let (_, report) = solved(&model, solver);
        (report.operations, report.critical_path)
    };
    let sizes = [7, 15, 31, 63];
    let direct = sizes.map(|hidden| work(hidden, GaussNewton::direct(1)));
    let cyclic = sizes.map(|hidden| work(hidden, GaussNewton::cyclic_reduction(1)));
    for (hidden, (total, chain)) in sizes.into_iter().zip(direct) {
        assert_eq!(total, chain);
        // Each block of 6 is factored, and solved for r forwards and back; between two of them, 6
        // more columns are solved for, the next block and its r are lessened, and r is on the way back.
        let (factor, triangle) = (6 * 7 * 8 / 6, 6 * 7 / 2);
        let link = 6 * triangle + (6 * 6 * 6 + 6 * 6) + 6 * 6;
        let expected = hidden * (factor + 2 * triangle) + (hidden - 1) * link;
        assert_eq!(total, expected as u64);
    }
    let growth = |k: usize| cyclic[k + 1].1 - cyclic[k].1;
    // The same number of operations for each level more.
    assert!(growth(0) > 0 && growth(0) == growth(1) && growth(1) == growth(2));
    assert!(direct[3].1 > 8 * direct[0].1);
    assert!(cyclic[3].1 < 3 * cyclic[0].1 && cyclic[3].1 * 5 < direct[3].1);
    // About twice the work in all.
    assert!(2 * direct[3].0 < cyclic[3].0 + direct[0].0 && cyclic[3].0 * 4 < direct[3].0 * 9);
}

/// A chain of units with J = μ = 1: one iteration without damping, whatever the depth; with it more for
/// every depth, since the preconditioner sees λ ‖A⁻¹‖², not λ.
#[test]
fn damping_costs_chained_iterations() {
    let products = |depth: usize, damping: f64| {
        let mut builder = Circuit::<f64>::builder();
        for _ in 0..depth {
            let link = Dense::new(1, 1, Activation::Identity).unwrap();
            let one = Initializer::Constant { value: 1.0 };
            builder = builder.layer(link.without_bias().with_weights(one).unwrap());
        }
        let mut start = DecoupledCircuit::new(builder.build().unwrap(), Energy::default()).unwrap();
        let one = |value| DMatrix::from_element(1, 1, value);
        start
            .add_examples(&one(0.0), &one(1.0), &TargetInit::ForwardPass)
            .unwrap();
        let damped = |solver: GaussNewton| solver.with_damping(damping).unwrap();
        let (exact, _) = solved(&start, damped(GaussNewton::direct(1)));
        let (model, report) = solved(&start, damped(GaussNewton::chained(1, 100)));
        let error = distance(&model, &exact);
        assert!(error < 1e-8, "{error} at depth {depth}");
        report.products
    };
    let depths = [10, 50, 100, 200, 400];
    assert_eq!(depths.map(|depth| products(depth, 0.0)), [1; 5]);
    assert_eq!(depths.map(|depth| products(depth, 1e-3)), [4, 7, 8, 10, 15]);
}

/// z_t of one half at once, then of the other, each by its gradient at the present targets.
fn red_black_sweeps_by_hand<T: Tested>() {
    for depth in [2, 3, 4, 7] {
        let start = curved_model::<T>(depth, 5);
        let step = 0.2;
        let fixed = RedBlack::new(2).with_step(StepSize::Fixed(step)).unwrap();
        let (swept, _) = solved(&start, fixed);
        let mut model = start.clone();
        let weights = model.example_weights().unwrap().to_vec();
        for _ in 0..2 {
            for half in [1, 2] {
                let gradients = model.gradients(&Selection::All).unwrap().targets;
                for t in (1..depth).rev().skip(half - 1).step_by(2) {
                    let mut gradient = gradients[t - 1].clone();
                    for (mut column, &weight) in gradient.column_iter_mut().zip(&weights) {
                        column /= weight;
                    }
                    let z = model.z(t).unwrap() - gradient * T::of(step);
                    model.set_targets(t, &Selection::All, &z).unwrap();
                }
            }
        }
        let error = distance(&swept, &model);
        assert!(error < T::ROUNDING, "depth {depth}: {error}");
        assert!(distance(&swept, &start) > 0.01);
    }
}

/// The stopping rules count examples, and end each where it would end alone.
fn examples_end_by_themselves<T: Tested>() {
    let start = curved_model::<T>(4, 6);
    let tolerance = 3e-3;
    let norms = |model: &DecoupledCircuit<T>| -> Vec<f64> {
        let gradients = model.gradients(&Selection::All).unwrap().targets;
        let weights = model.example_weights().unwrap();
        (0..6)
            .map(|i| {
                let squares = gradients
                    .iter()
                    .map(|g| g.column(i).norm_squared().as_f64());
                squares.sum::<f64>().sqrt() / weights[i].as_f64()
            })
            .collect()
    };
    let at_rest = Convergence::NEVER.with_tolerance(tolerance).unwrap();
    let stagnant = Convergence::NEVER.with_stagnation(1e-2).unwrap();
    type Make<T> = fn(u64, Convergence) -> Box<dyn TargetSolver<T>>;
    let makes: [Make<T>; 5] = [
        |k, c| Box::new(descent(k, BOUNDED).with_convergence(c)),
        |k, c| Box::new(ReverseSweep::new(k).with_convergence(c)),
        |k, c| Box::new(RedBlack::new(k).with_convergence(c)),
        |k, c| Box::new(GaussNewton::new(k, 8).with_convergence(c)),
        |k, c| Box::new(GaussNewton::direct(k).with_convergence(c)),
    ];
    for make in makes {
        let mut model = start.clone();
        let solver = make(10_000, at_rest);
        let report = model.solve_targets(&*solver, &Selection::All).unwrap();
        assert_eq!(report.stop(), SolveStop::Tolerance, "{solver:?}");
        assert_eq!((report.at_rest, report.limited), (6, 0));
        assert!(0 < report.steps && report.steps < 10_000);
        for norm in norms(&model) {
            assert!(norm <= 1.01 * tolerance, "{norm} by {solver:?}");
        }
        // Alone every example ends at the same bits, though others need more steps.
        let mut each = start.clone();
        for i in 0..6 {
            let one = Selection::Columns(i..i + 1);
            each.solve_targets(&*solver, &one).unwrap();
        }
        assert_eq!(distance(&model, &each), 0.0, "{solver:?}");
        // Nothing moves what is at rest, but a sweep may once more.
        let mut again = model.clone();
        let report = again.solve_targets(&*solver, &Selection::All).unwrap();
        assert!(report.steps <= 1 && report.at_rest == 6, "{solver:?}");

        let mut model = start.clone();
        let solver = make(10_000, stagnant);
        let report = model.solve_targets(&*solver, &Selection::All).unwrap();
        assert_eq!(report.stop(), SolveStop::Stagnation, "{solver:?}");
        assert_eq!((report.stagnated, report.limited), (6, 0));

        // It is relative to E, which a weight scales.
        let mut light = start.clone();
        let weights: Vec<T> = light
            .example_weights()
            .unwrap()
            .iter()
            .map(|&w| w * T::of(1.0 / 1024.0))
            .collect();
        light
            .set_example_weights(&Selection::All, &weights)
            .unwrap();
        let scaled = light.solve_targets(&*solver, &Selection::All).unwrap();
        assert_eq!((scaled.steps, scaled.stagnated), (report.steps, 6));

        let mut model = start.clone();
        let solver = make(1, Convergence::NEVER);
        let report = model.solve_targets(&*solver, &Selection::All).unwrap();
        assert_eq!(report.stop(), SolveStop::Steps);
        assert_eq!((report.steps, report.limited), (1, 6));
    }
    for value in [-1.0, f64::NAN, f64::INFINITY] {
        let tolerance = Convergence::NEVER.with_tolerance(value);
        let stagnation = Convergence::NEVER.with_stagnation(value);
        for result in [tolerance, stagnation] {
            let error = result.unwrap_err();
            assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
        }
    }
}

/// E = ½ (z − 0)² + ½ (y − w z)² of one unit, h = 1 + w²: a step η moves z to the minimum times
/// ηh. Beyond 2/h it fails, and is drawn back to a quarter, for the example that needs it alone.
fn a_step_that_fails_is_drawn_back<T: Tested>() {
    let unit = || {
        let dense = Dense::new(1, 1, Activation::Identity).unwrap();
        dense.without_bias()
    };
    let mut model = DecoupledCircuit::new(
        Circuit::<T>::builder()
            .layer(unit())
            .layer(unit())
            .build()
            .unwrap(),
        Energy::default(),
    )
    .unwrap();
    model.set_parameters(0, &[T::one()]).unwrap();
    model.set_parameters(1, &[T::one()]).unwrap();
    let row = |values: [f64; 2]| DMatrix::from_row_slice(1, 2, &values.map(T::of));
    // The first example is at its minimum, z = (x + y)/2; the second starts at x.
    let given = TargetInit::Given(vec![row([1.0, 0.0])]);
    model
        .add_examples(&row([0.0, 0.0]), &row([2.0, 2.0]), &given)
        .unwrap();
    // h = 2: η = 1.5 overshoots threefold, its quarter comes to 0.75 of the way.
    let checked = descent(1, StepSize::Checked(1.5));
    let report = model.solve_targets(&checked, &Selection::All).unwrap();
    assert_eq!(report.drawn_back, 1);
    let z = model.z(1).unwrap().map(|z| z.as_f64());
    assert_eq!((z[0], z[1]), (1.0, 0.75));
    // As it is, the step would have been taken.
    let fixed = descent(1, StepSize::Fixed(1.5));
    model.solve_targets(&fixed, &Selection::All).unwrap();
    assert_eq!(model.z(1).unwrap()[1].as_f64(), 0.75 + 3.0 * 0.25);
    // The share that was found is where the next step begins.
    model
        .set_targets(1, &Selection::All, &row([1.0, 0.0]))
        .unwrap();
    let two = descent(2, StepSize::Checked(1.5));
    let report = model.solve_targets(&two, &Selection::All).unwrap();
    assert_eq!((report.steps, report.drawn_back), (2, 1));
    let expected = 1.0 - 0.25 * 0.25;
    assert_eq!(model.z(1).unwrap()[1].as_f64(), expected);
    // A step no part of which helps is taken back: 64 times too long, and more.
    model
        .set_targets(1, &Selection::All, &row([1.0, 0.0]))
        .unwrap();
    let far = descent(1, StepSize::Checked(1e3));
    model.solve_targets(&far, &Selection::All).unwrap();
    assert_eq!(model.z(1).unwrap()[1].as_f64(), 0.0);
}

/// Momentum starts anew for an example whose step was drawn back, and for no other.
#[test]
fn momentum_starts_anew_where_a_step_failed() {
    let start = curved_model::<f64>(3, 4);
    let heavy_ball = || {
        let rule = GradientDescent::new(1.0).unwrap();
        rule.with_momentum(0.9).unwrap()
    };
    let make = |k| descent::<f64>(k, StepSize::Checked(0.35)).with_rule(heavy_ball());
    let mut together = start.clone();
    let report = together.solve_targets(&make(12), &Selection::All).unwrap();
    assert!(
        report.drawn_back > 0 && report.drawn_back < 48,
        "{report:?}"
    );
    let mut each = start.clone();
    for i in 0..4 {
        let one = Selection::Columns(i..i + 1);
        each.solve_targets(&make(12), &one).unwrap();
    }
    assert_eq!(distance(&together, &each), 0.0);
    let (before, after) = (energies(&start), energies(&together));
    assert!(before.iter().zip(&after).all(|(b, a)| a < b));
}

#[test]
fn a_direct_solver_has_no_residual() {
    let error = GaussNewton::direct(1).with_residual_tolerance(1e-3);
    assert!(matches!(error, Err(Error::InvalidOption { .. })));
    for step in [0.0, -1.0, f64::NAN] {
        let sweep = RedBlack::new(1).with_step(StepSize::Checked(step));
        assert!(matches!(sweep, Err(Error::InvalidOption { .. })));
        let every = RedBlack::new(1).with_bound_every(0);
        assert!(matches!(every, Err(Error::InvalidOption { .. })));
    }
}

/// Unless it is set, bounds are recomputed every 10th call.
#[test]
fn bounds_are_recomputed_every_tenth_call() {
    let trained = |sweep: ReverseSweep| {
        let mut model = curved_model::<f64>(4, 5);
        let phase = Phase::new(Decoupling::persistent(sweep), Adam::new(1e-2).unwrap());
        Trainer::new(phase.with_epochs(15)).run(&mut model).unwrap();
        model.z(1).unwrap().into_owned()
    };
    let every = |calls| trained(ReverseSweep::new(1).with_bound_every(calls).unwrap());
    assert_eq!(trained(ReverseSweep::new(1)), every(10));
    assert_ne!(every(10), every(9));
}

/// Steps that need no bounds refuse to be told how often these are computed, in either order.
#[test]
fn only_bounded_steps_have_bounds_to_recompute() {
    fn check(result: Result<(), Error>, step: StepSize) {
        let bounded = matches!(step, StepSize::Bounded { .. });
        match result {
            Ok(()) => assert!(bounded, "{step:?}"),
            Err(error) => {
                assert!(!bounded && matches!(error, Error::Combination { .. }));
                let text = error.to_string();
                assert!(text.contains("with_bound_every") && text.contains("StepSize::"));
            }
        }
    }
    for step in [StepSize::Fixed(0.1), StepSize::Checked(0.1), BOUNDED] {
        let descent = SynchronousDescent::<f64>::new(1, step).unwrap();
        check(descent.with_bound_every(3).map(drop), step);
        let sweep = ReverseSweep::new(1);
        let first = sweep.with_bound_every(3).unwrap().with_step(step);
        check(first.map(drop), step);
        let last = sweep.with_step(step).unwrap().with_bound_every(3);
        check(last.map(drop), step);
        let halves = RedBlack::new(1).with_step(step).unwrap();
        check(halves.with_bound_every(3).map(drop), step);
        let errors = ErrorDescent::new(1).with_step(step).unwrap();
        check(errors.with_bound_every(3).map(drop), step);
    }
}

/// A dense reference of one Gauss-Newton step with cross entropy: H from unit vectors' finite
/// differences of the model would be no reference, so J and C are written out.
#[test]
fn one_step_is_that_of_the_written_out_system() {
    let (d, h, c) = (2, 3, 3);
    let mut builder = Circuit::<f64>::builder().seed(3);
    builder = builder
        .layer(Dense::new(d, h, Activation::Tanh).unwrap())
        .layer(Dense::new(h, h, Activation::Tanh).unwrap())
        .layer(Dense::new(h, c, Activation::Identity).unwrap());
    let energy = Energy::new(SoftmaxCrossEntropy).with_penalty(0.8);
    let mut model = DecoupledCircuit::new(builder.build().unwrap(), energy).unwrap();
    let (x, y) = (
        DMatrix::from_column_slice(d, 1, &[0.7, -0.4]),
        DMatrix::from_column_slice(c, 1, &[0.0, 1.0, 0.0]),
    );
    let noisy = TargetInit::NoisyForwardPass { std: 0.2, seed: 8 };
    model.add_examples(&x, &y, &noisy).unwrap();
    let w = |t: usize, rows: usize, columns: usize| {
        let (w, b) = model.circuit().parameters(t).split_at(rows * columns);
        (
            DMatrix::from_column_slice(rows, columns, w),
            DVector::from_column_slice(b),
        )
    };
    let z = |t: usize| DVector::from_column_slice(model.z(t).unwrap().into_owned().as_slice());
    let (w1, b1) = w(1, h, h);
    let (w2, b2) = w(2, c, h);
    let slope = (&w1 * z(1) + b1).map(|a| 1.0 - a.tanh().powi(2));
    let j1 = DMatrix::from_diagonal(&slope) * w1;
    let logits = &w2 * z(2) + b2;
    let e = logits.map(f64::exp);
    let p = &e / e.sum();
    let curvature = DMatrix::from_diagonal(&p) - &p * p.transpose();
    let (mu, lambda) = (0.8, 1e-3);
    let mut system = DMatrix::<f64>::identity(2 * h, 2 * h) * (mu + lambda);
    let first = j1.transpose() * &j1 * mu;
    let second = w2.transpose() * curvature * &w2;
    for i in 0..h {
        for j in 0..h {
            system[(i, j)] += first[(i, j)];
            system[(h + i, h + j)] += second[(i, j)];
            system[(h + i, j)] -= mu * j1[(i, j)];
            system[(j, h + i)] -= mu * j1[(i, j)];
        }
    }
    let gradients = model.gradients(&Selection::All).unwrap().targets;
    let right = DVector::from_iterator(2 * h, gradients.iter().flat_map(|g| g.iter().map(|g| -g)));
    let step = system.lu().solve(&right).unwrap();
    for solver in [GaussNewton::direct(1), GaussNewton::cyclic_reduction(1)] {
        let (moved, report) = solved(&model, solver);
        assert_eq!(report.drawn_back, 0);
        for t in 1..3 {
            let difference = moved.z(t).unwrap() - model.z(t).unwrap();
            for i in 0..h {
                let error = (difference[(i, 0)] - step[(t - 1) * h + i]).abs();
                assert!(error < 1e-12, "z_{t}, unit {i}: {error}");
            }
        }
    }
}

/// After a step that was drawn back Adam begins anew, its count of steps too: the next step has the
/// whole length of its rate times the share that was found.
#[test]
fn adam_starts_anew_where_a_step_failed() {
    let unit = || {
        let dense = Dense::new(1, 1, Activation::Identity).unwrap();
        dense.without_bias()
    };
    let circuit = Circuit::<f64>::builder().layer(unit()).layer(unit());
    let mut model = DecoupledCircuit::new(circuit.build().unwrap(), Energy::default()).unwrap();
    for t in 0..2 {
        model.set_parameters(t, &[1.0]).unwrap();
    }
    let one = |value| DMatrix::from_element(1, 1, value);
    let given = TargetInit::Given(vec![one(0.0)]);
    model.add_examples(&one(0.0), &one(2.0), &given).unwrap();
    // E = ½ z² + ½ (2 − z)²: 0 to 3 fails, 0.75 does not; 0.75 to 1.5 fails, 0.9375 does not.
    let rule = Adam::new(3.0).unwrap().with_epsilon(1e-300).unwrap();
    let solver = descent(2, StepSize::Checked(1.0)).with_rule(rule);
    let report = model.solve_targets(&solver, &Selection::All).unwrap();
    assert_eq!(report.drawn_back, 2);
    let z = model.z(1).unwrap()[(0, 0)];
    assert!((z - 0.9375).abs() < 1e-12, "{z}");
}

/// Solves, and compares the gap that the problem tells before and after with the targets' own.
#[derive(Debug)]
struct Measures<S>(S);

impl<S: TargetSolver<f64>> TargetSolver<f64> for Measures<S> {
    fn start(&self) -> State<f64> {
        self.0.start()
    }

    fn solve(
        &self,
        state: &mut State<f64>,
        problem: &mut TargetProblem<'_, f64>,
    ) -> Result<SolveReport, Error> {
        problem.gap();
        let report = self.0.solve(state, problem)?;
        let found = problem.gap();
        let (batch, mut workspace) = (problem.batch(), Workspace::new());
        let evaluation = problem.problem().evaluate(Value, &mut workspace);
        let layers = 1..problem.layers().depth();
        let squares = layers.flat_map(|t| {
            let predictions = evaluation.local(t - 1).prediction();
            batch
                .z(t)
                .iter()
                .zip(predictions)
                .map(|(z, p)| (z - p).powi(2))
        });
        let expected = squares.sum::<f64>().sqrt();
        assert!(
            (found - expected).abs() <= 1e-12 * expected,
            "{found}, not {expected}"
        );
        Ok(report)
    }
}

#[test]
fn the_gap_is_that_of_the_targets_after_every_solver() {
    let circuit = Circuit::<f64>::builder()
        .layer(Dense::new(3, 5, Activation::Tanh).unwrap())
        .layer(Dense::new(5, 4, Activation::Tanh).unwrap())
        .layer(Dense::new(4, 6, Activation::Sigmoid).unwrap())
        .layer(Dense::new(6, 2, Activation::Identity).unwrap());
    let mut model = DecoupledCircuit::new(circuit.build().unwrap(), Energy::default()).unwrap();
    let wave = |rows| DMatrix::from_fn(rows, 7, |i, j| ((i * 3 + j * 5) as f64).sin());
    let init = TargetInit::NoisyForwardPass { std: 0.3, seed: 1 };
    model.add_examples(&wave(3), &wave(2), &init).unwrap();
    let plain = StepSize::Bounded { margin: 1.0 };
    let synchronous = SynchronousDescent::new(2, plain).unwrap();
    let mut run = |scheme| {
        let phase = Phase::new(scheme, Adam::new(1e-2).unwrap()).with_epochs(3);
        Trainer::new(phase).run(&mut model).unwrap();
    };
    let unchecked = RedBlack::new(2).with_step(StepSize::Fixed(0.2)).unwrap();
    run(Decoupling::persistent(Measures(unchecked)));
    run(Decoupling::persistent(Measures(RedBlack::new(2))));
    run(Decoupling::persistent(Measures(ReverseSweep::new(2))));
    run(Decoupling::persistent(Measures(ErrorDescent::new(2))));
    let fixed = ErrorDescent::new(2)
        .with_step(StepSize::Fixed(0.2))
        .unwrap();
    run(Decoupling::residual(Measures(fixed)));
    run(Decoupling::persistent(Measures(synchronous)));
    run(Decoupling::refreshed(Measures(GaussNewton::new(2, 3))));
    run(Decoupling::refreshed(Measures(GaussNewton::direct(2))));
}

/// One step along ∂E/∂z_1, without a word about predictions.
#[derive(Debug)]
struct Straight;

impl TargetSolver<f64> for Straight {
    fn solve(
        &self,
        _: &mut State<f64>,
        problem: &mut TargetProblem<'_, f64>,
    ) -> Result<SolveReport, Error> {
        problem.target_gradient(1);
        problem.descend(1, 0.25);
        Ok(SolveReport::new(1, problem.batch().len()))
    }
}

/// The first gradient is made of predictions for these targets and parameters, not of those of a call
/// before.
#[test]
fn the_first_gradient_of_a_solver_has_predictions() {
    let mut model = unit_chain::<f64>([0.0, 0.5], [2.0, 2.0]);
    for weight in [1.0, 3.0] {
        model.set_parameters(1, &[weight]).unwrap();
        let before = model.z(1).unwrap().into_owned();
        let gradient = model.gradients(&Selection::All).unwrap().targets[0].clone();
        model.solve_targets(&Straight, &Selection::All).unwrap();
        assert_eq!(model.z(1).unwrap(), before - gradient * 0.25, "{weight}");
    }
}

/// One hidden unit between identities of weight 1: E = ½ (z − x)² + ½ (y − z)².
fn unit_chain<T: Scalar>(z: [f64; 2], y: [f64; 2]) -> DecoupledCircuit<T> {
    let unit = || {
        let dense = Dense::new(1, 1, Activation::Identity).unwrap();
        dense.without_bias()
    };
    let circuit = Circuit::builder().layer(unit()).layer(unit());
    let mut model = DecoupledCircuit::new(circuit.build().unwrap(), Energy::default()).unwrap();
    for t in 0..2 {
        model.set_parameters(t, &[T::one()]).unwrap();
    }
    let row = |values: [f64; 2]| DMatrix::from_row_slice(1, 2, &values.map(T::of));
    let given = TargetInit::Given(vec![row(z)]);
    model
        .add_examples(&row([0.0, 0.0]), &row(y), &given)
        .unwrap();
    model
}

/// Steps of this length along the gradient.
#[derive(Debug, Clone, Copy)]
struct Along(f64);

impl<T: Scalar> Descent<T> for Along {
    fn step(
        &self,
        _: &mut State<T>,
        problem: &mut TargetProblem<'_, T>,
        trial: &mut Trial<T>,
    ) -> Result<(), Error> {
        trial.descend(1, T::of(self.0), problem);
        Ok(())
    }
}

/// ∞ · 0 and NaN · 0 are no steps of an example at rest.
fn an_endless_step_leaves_examples_at_rest_alone<T: Tested>() {
    let ends = Convergence::NEVER.with_tolerance(1e-3).unwrap();
    for step in [f64::INFINITY, f64::NAN] {
        let start = unit_chain::<T>([1.0, 0.0], [2.0, 2.0]);
        let solver = Iterate::new(3, Along(step)).with_convergence(ends);
        let mut model = start.clone();
        let report = model
            .solve_targets(&solver.with_check(Check::Rounding), &Selection::All)
            .unwrap();
        assert_eq!((report.at_rest, report.limited), (1, 1));
        assert_eq!(report.drawn_back, 3);
        assert_eq!(model.z(1).unwrap(), start.z(1).unwrap());
        // Unchecked it is an error for the one that moves, and moves nothing.
        let error = model.solve_targets(&solver, &Selection::All);
        assert!(matches!(error, Err(Error::NonFinite { .. })), "{error:?}");
        assert_eq!(model.z(1).unwrap(), start.z(1).unwrap());
    }
}

/// Adds a number to every z_1.
#[derive(Debug, Clone, Copy)]
struct Shift(f64);

impl<T: Scalar> Descent<T> for Shift {
    fn step(
        &self,
        _: &mut State<T>,
        problem: &mut TargetProblem<'_, T>,
        trial: &mut Trial<T>,
    ) -> Result<(), Error> {
        trial.for_each(1, problem, |share, z, _| z[0] += T::of(self.0) * share);
        Ok(())
    }
}

/// From z = 1, the minimum, a shift by δ raises E = 1 by δ²: 16 ε are allowed, and a step is drawn
/// back to a sixty-fourth before it is undone.
fn steps_are_accepted_within_rounding_and_drawn_back_three_times<T: Tested>() {
    let unit = (8.0 * T::default_epsilon().as_f64()).sqrt();
    for (factor, share, back, stuck) in [
        (1.0, 1.0, 0, 0),
        (3.0, 0.25, 2, 0),
        (12.0, 1.0 / 16.0, 2, 0),
        (48.0, 1.0 / 64.0, 2, 0),
        (192.0, 0.0, 2, 2),
    ] {
        let mut model = unit_chain::<T>([1.0, 1.0], [2.0, 2.0]);
        let solver = Iterate::new(1, Shift(factor * unit)).with_check(Check::Rounding);
        let report = model.solve_targets(&solver, &Selection::All).unwrap();
        assert_eq!((report.drawn_back, report.stuck), (back, stuck), "{factor}");
        let moved = model.z(1).unwrap()[(0, 0)].as_f64() - 1.0;
        let error = (moved - share * factor * unit).abs();
        assert!(error < T::default_epsilon().as_f64(), "{factor}: {moved}");
    }
}

/// From z = 0, E = ½ z² + ½ (2 − z)², 6/16 of the gradient go three quarters of the way to 1.
fn the_step_after_a_shortened_one_is_as_short<T: Tested>() {
    let start = unit_chain::<T>([0.0, 0.0], [2.0, 2.0]);
    let solver = Iterate::new(2, Along(6.0)).with_check(Check::Rounding);
    let mut weighted = start.clone();
    let twice = [T::of(2.0); 2];
    weighted
        .set_example_weights(&Selection::All, &twice)
        .unwrap();
    for start in [start, weighted] {
        let (model, report) = solved(&start, solver);
        // Of both examples the first step alone.
        assert_eq!(report.drawn_back, 2);
        let expected = T::of(15.0 / 16.0);
        assert_eq!(model.z(1).unwrap(), DMatrix::from_element(1, 2, expected));
    }
}

/// From z = 0, E = ½ z² + ½ (r − z)² is so large that E and rounding do not fit, and 6/16 of the gradient
/// are the first step whose E does.
fn no_step_ends_at_infinity<T: Tested>() {
    let most = T::max_value().unwrap().as_f64();
    let root = most.sqrt() * 2_f64.sqrt() * (1.0 - 4.0 * T::default_epsilon().as_f64());
    let mut model = unit_chain::<T>([0.0, 0.0], [root, 2.0]);
    let solver = Iterate::new(1, Along(6.0)).with_check(Check::Rounding);
    let report = model.solve_targets(&solver, &Selection::All).unwrap();
    assert_eq!((report.drawn_back, report.stuck), (2, 0));
    assert!(model.energy().unwrap().is_finite());
    let moved = model.z(1).unwrap()[(0, 0)].as_f64();
    assert!((moved / root - 0.375).abs() < 1e-6, "{moved}");
}

/// ẑ = 100 z, and a bound that is far too small.
#[derive(Debug)]
struct FalselyBounded(Dense, f64);

impl<T: Scalar> Layer<T> for FalselyBounded {
    described_by!(0: T);

    evaluated_by!(0: T);

    fn curvature_bound(&self, _: &[T], _: &mut [T]) -> Option<T> {
        Some(T::of(self.1))
    }
}

/// [`unit_chain`] with 100 z above, and that layer's bound.
fn bounded_by<T: Scalar>(bound: f64) -> DecoupledCircuit<T> {
    let unit = || {
        let dense = Dense::new(1, 1, Activation::Identity).unwrap();
        dense.without_bias()
    };
    let circuit = Circuit::builder()
        .layer(unit())
        .layer(FalselyBounded(unit(), bound));
    let mut model = DecoupledCircuit::new(circuit.build().unwrap(), Energy::default()).unwrap();
    model.set_parameters(0, &[T::one()]).unwrap();
    model.set_parameters(1, &[T::of(100.0)]).unwrap();
    let row = |values: [f64; 3]| DMatrix::from_row_slice(1, 3, &values.map(T::of));
    let given = TargetInit::Given(vec![row([1.0, 1.0, 0.5])]);
    model
        .add_examples(&row([1.0, 1.0, 0.5]), &row([4.0, 30.0, 50.0]), &given)
        .unwrap();
    model
}

/// Steps ten thousand times too long leave every example where it is: the report says so, per example,
/// and so does that of a run; the gradient check finds the bound.
fn a_false_bound_is_told<T: Tested>() {
    let solvers: [Box<dyn TargetSolver<T>>; 4] = [
        Box::new(ReverseSweep::new(2)),
        Box::new(RedBlack::new(2)),
        Box::new(ErrorDescent::new(2)),
        Box::new(descent(2, BOUNDED)),
    ];
    for solver in solvers {
        for (bound, stuck) in [(0.01, 2), (1e4, 0)] {
            let mut model = bounded_by::<T>(bound);
            let report = model.solve_targets(&solver, &Selection::All).unwrap();
            // The third example is at its minimum.
            assert_eq!(report.stuck, stuck, "{bound}: {solver:?}");
            if stuck > 0 {
                assert_eq!(report.drawn_back, 4);
                assert_eq!(model.z(1).unwrap()[(0, 0)], T::one());
            }
        }
    }
    // Shares shrink from step to step, and the third moves.
    let mut model = bounded_by::<T>(0.01);
    let report = model.solve_targets(&ReverseSweep::new(3), &Selection::All);
    let report = report.unwrap();
    assert_eq!((report.stuck, report.drawn_back), (0, 6));
    let mut model = bounded_by::<T>(0.01);
    let phase = Phase::new(
        Decoupling::persistent(ReverseSweep::new(2)),
        Adam::new(1e-9).unwrap(),
    );
    let report = Trainer::new(phase.with_epochs(1)).run(&mut model).unwrap();
    assert_eq!(report.history[0].solved.unwrap().stuck, 2);
    for bound in [0.01, 0.0] {
        let dense = Dense::new(1, 1, Activation::Identity).unwrap();
        let layer = FalselyBounded(dense.without_bias(), bound);
        let check = GradCheck::new().layer(&layer, &[T::of(100.0)], &[T::one(), T::of(0.3)]);
        let found = check.unwrap().require(T::GRADIENT).unwrap_err().to_string();
        assert!(found.contains("bound"), "{bound}: {found}");
    }
}

/// A decrease of exactly the given share of E ends an example, a larger one does not.
fn stagnation_begins_at_its_threshold<T: Tested>() {
    // E falls from 1.25 to 1: z from 0.5 to 1, all of it exact.
    for (share, ends) in [(0.2, true), (0.25, true), (0.1875, false)] {
        let mut model = unit_chain::<T>([0.5, 0.5], [2.0, 2.0]);
        let ending = Convergence::NEVER.with_stagnation(share).unwrap();
        let solver = Iterate::new(1, Shift(0.5)).with_convergence(ending);
        let report = model.solve_targets(&solver, &Selection::All).unwrap();
        assert_eq!(report.stagnated, if ends { 2 } else { 0 }, "{share}");
    }
}

/// Direct solvers work through the batch in parts; their report counts one example's work.
fn the_work_of_an_example_is_that_of_any_number<T: Tested>() {
    for solver in [GaussNewton::direct(2), GaussNewton::cyclic_reduction(2)] {
        let reports = [1, 32, 33, 70].map(|n| {
            let mut model = curved_model::<T>(4, n);
            model.solve_targets(&solver, &Selection::All).unwrap()
        });
        assert!(reports[0].operations > 0);
        for report in reports {
            assert_eq!(report.operations, reports[0].operations);
            assert_eq!(report.critical_path, reports[0].critical_path);
        }
    }
}

/// A bound below zero, or so small that its inverse overflows; one that is not finite has diverged.
fn bounds_that_give_no_step_are_refused<T: Tested>() {
    // With μ = 1 the block is 1 + bound.
    for bound in [-1.0, -3.0, f64::INFINITY, f64::NAN] {
        let solvers: [Box<dyn TargetSolver<T>>; 2] =
            [Box::new(ReverseSweep::new(1)), Box::new(RedBlack::new(1))];
        for solver in solvers {
            let mut model = bounded_by::<T>(bound);
            let before = model.z(1).unwrap().into_owned();
            let error = model.solve_targets(&solver, &Selection::All);
            let diverged = matches!(error, Err(Error::NonFinite { layer: 1, .. }));
            let refused = matches!(error, Err(Error::InvalidOption { .. }));
            assert_eq!(
                [refused, diverged],
                [bound.is_finite(), !bound.is_finite()],
                "{bound}: {error:?}"
            );
            assert_eq!(model.z(1).unwrap(), before);
        }
    }
}

/// Nor one so near to zero that its inverse overflows.
fn a_bound_without_an_inverse_is_refused<T: Tested>() {
    let tiny = if T::ROUNDING < 1e-10 { 1e-310 } else { 1e-40 };
    let loss = || WeightedSquaredError::new(vec![T::of(tiny)]).unwrap();
    let unit = || {
        let dense = Dense::new(1, 1, Activation::Identity).unwrap();
        dense.without_bias()
    };
    let circuit = Circuit::builder().layer(unit()).layer(unit());
    let energy = Energy::new(loss()).with_hidden_loss(loss());
    let mut start = DecoupledCircuit::new(circuit.build().unwrap(), energy).unwrap();
    for t in 0..2 {
        start.set_parameters(t, &[T::one()]).unwrap();
    }
    // The first example is at rest, the second is not.
    let row = |values: [f64; 2]| DMatrix::from_row_slice(1, 2, &values.map(T::of));
    let given = TargetInit::Given(vec![row([-0.0, 0.5])]);
    start
        .add_examples(&row([0.0, 0.0]), &row([0.0, 2.0]), &given)
        .unwrap();
    let ends = Convergence::NEVER.with_tolerance(0.0).unwrap();
    let solvers: [Box<dyn TargetSolver<T>>; 3] = [
        Box::new(ReverseSweep::new(3).with_convergence(ends)),
        Box::new(RedBlack::new(3).with_convergence(ends)),
        // Squares of such gradients are 0, and would be at rest.
        Box::new(descent(3, BOUNDED)),
    ];
    for solver in solvers {
        let mut model = start.clone();
        let error = model.solve_targets(&solver, &Selection::All);
        assert!(
            matches!(error, Err(Error::InvalidOption { .. })),
            "{error:?} by {solver:?}"
        );
        assert_eq!(model.z(1).unwrap(), start.z(1).unwrap());
    }
}

/// Gradients whose squares are 0 in `f32` are compared with a tolerance all the same.
#[test]
fn gradients_without_a_square_know_their_tolerance() {
    for size in [1e-30_f32, 1e-10, 1e10] {
        for (tolerance, at_rest) in [(1e-2, false), (1e2, true)] {
            let dense = || Dense::new(1, 1, Activation::Identity).unwrap();
            let circuit = Circuit::builder().layer(dense()).layer(dense());
            let energy = Energy::new(Huber::new(f64::from(size)).unwrap())
                .with_hidden_loss(Huber::new(f64::from(size)).unwrap());
            let mut model = DecoupledCircuit::new(circuit.build().unwrap(), energy).unwrap();
            for t in 0..2 {
                model.set_parameters(t, &[1.0, 0.0]).unwrap();
            }
            let one = |z| DMatrix::from_element(1, 1, z);
            let given = TargetInit::Given(vec![one(size * 0.5)]);
            model
                .add_examples(&one(0.0), &one(size * 0.2), &given)
                .unwrap();
            let tolerance = f64::from(size) * tolerance;
            let ends = Convergence::NEVER.with_tolerance(tolerance).unwrap();
            let solver = ReverseSweep::new(1).with_convergence(ends);
            let report = model.solve_targets(&solver, &Selection::All).unwrap();
            let found = report.at_rest == 1;
            assert_eq!(found, at_rest, "{size:e}, {tolerance:e}: {report:?}");
        }
    }
}

/// Of what is no bound their preconditioner makes none, and one iteration ends at the minimum.
fn conjugate_gradients_need_no_bound<T: Tested>() {
    let solver = GaussNewton::new(1, 1).with_damping(0.0).unwrap();
    for bound in [-1.0, -3.0, f64::INFINITY, f64::NAN] {
        let (model, report) = solved(&bounded_by::<T>(bound), solver);
        assert_eq!(report.drawn_back, 0, "{bound}");
        for (i, (x, y)) in [(1.0, 4.0), (1.0, 30.0), (0.5, 50.0)].iter().enumerate() {
            let expected = (x + 100.0 * y) / 10_001.0;
            let found = model.z(1).unwrap()[(0, i)].as_f64();
            let error = (found - expected).abs();
            assert!(error < 10.0 * T::ROUNDING, "{bound}: {found}, {expected}");
        }
    }
}

/// An example with −0 has the same bits alone and beside one that goes on, whatever solves it.
fn negative_zeros_are_alike_in_any_company<T: Tested>() {
    let ends = Convergence::NEVER.with_tolerance(1e-3).unwrap();
    let momentum = GradientDescent::new(1.0).unwrap().with_momentum(0.5);
    let checked = ReverseSweep::new(3)
        .with_step(StepSize::Checked(0.3))
        .unwrap();
    let solvers: [Box<dyn TargetSolver<T>>; 10] = [
        Box::new(ReverseSweep::new(3).with_convergence(ends)),
        Box::new(checked.with_convergence(ends)),
        Box::new(RedBlack::new(3).with_convergence(ends)),
        Box::new(ErrorDescent::new(3).with_convergence(ends)),
        Box::new(descent(3, BOUNDED).with_convergence(ends)),
        Box::new(
            descent(3, BOUNDED)
                .with_rule(momentum.unwrap())
                .with_convergence(ends),
        ),
        Box::new(GaussNewton::new(3, 2).with_convergence(ends)),
        Box::new(GaussNewton::chained(3, 2).with_convergence(ends)),
        Box::new(GaussNewton::direct(3).with_convergence(ends)),
        Box::new(GaussNewton::cyclic_reduction(3).with_convergence(ends)),
    ];
    // At rest from the start, and soon.
    for (z, y) in [([-0.0, 0.5], [0.0, 2.0]), ([-0.0, 0.9], [-0.0, -3.0])] {
        for solver in &solvers {
            let solved = |selection| {
                let mut model = unit_chain::<T>(z, y);
                model.solve_targets(solver, &selection).unwrap();
                model.z(1).unwrap()[(0, 0)].as_f64().to_bits()
            };
            let alone = solved(Selection::Columns(0..1));
            assert_eq!(solved(Selection::All), alone, "{solver:?}");
        }
    }
}

/// Computes its gradients during the step, and records no energies.
#[derive(Debug, Clone, Copy)]
struct Forgetful;

impl Descent<f64> for Forgetful {
    fn look(
        &self,
        _: &mut State<f64>,
        problem: &mut TargetProblem<'_, f64>,
        _: &mut Trial<f64>,
    ) -> Result<(), Error> {
        problem.predict();
        Ok(())
    }

    fn step(
        &self,
        _: &mut State<f64>,
        problem: &mut TargetProblem<'_, f64>,
        trial: &mut Trial<f64>,
    ) -> Result<(), Error> {
        problem.target_gradient(1);
        trial.descend(1, 0.1, problem);
        Ok(())
    }
}

#[test]
fn steps_are_not_judged_without_energies() {
    let start = unit_chain::<f64>([1.0, 0.5], [2.0, 2.0]);
    let (mut model, solver) = (start.clone(), Iterate::new(3, Forgetful));
    let error = model.solve_targets(&solver.with_check(Check::Strict), &Selection::All);
    assert!(matches!(error, Err(Error::Combination { .. })), "{error:?}");
    assert_eq!(model.z(1).unwrap(), start.z(1).unwrap());
    // Nor do examples rest without gradients.
    let ends = Convergence::NEVER.with_tolerance(1e-3).unwrap();
    let error = model.solve_targets(&solver.with_convergence(ends), &Selection::All);
    assert!(matches!(error, Err(Error::Combination { .. })), "{error:?}");
    assert_eq!(model.z(1).unwrap(), start.z(1).unwrap());
    // Unchecked steps need none.
    let report = model.solve_targets(&solver, &Selection::All).unwrap();
    assert_eq!(report.steps, 3);
    assert_ne!(model.z(1).unwrap(), start.z(1).unwrap());
}

/// Sweeps that record the gradient of some layers.
#[derive(Debug, Clone, Copy)]
struct Partly(&'static [usize]);

impl Descent<f64> for Partly {
    fn look(
        &self,
        _: &mut State<f64>,
        problem: &mut TargetProblem<'_, f64>,
        _: &mut Trial<f64>,
    ) -> Result<(), Error> {
        problem.predict();
        Ok(())
    }

    fn step(
        &self,
        _: &mut State<f64>,
        problem: &mut TargetProblem<'_, f64>,
        trial: &mut Trial<f64>,
    ) -> Result<(), Error> {
        for t in (1..problem.layers().depth()).rev() {
            problem.target_gradient(t);
            if self.0.contains(&t) {
                trial.record_gradient(t, problem)?;
            }
            trial.descend(t, 0.1, problem);
        }
        Ok(())
    }
}

/// From the forward pass, only the last targets of three layers have a gradient.
#[test]
fn examples_rest_by_the_gradients_of_all_layers() {
    let unit = || Dense::new(1, 1, Activation::Identity).unwrap();
    let circuit = Circuit::builder().layers((0..3).map(|_| unit()));
    let mut start = DecoupledCircuit::new(circuit.build().unwrap(), Energy::default()).unwrap();
    let x = DMatrix::from_element(1, 2, 0.5);
    start
        .add_examples(&x, &x.map(|x| x + 3.0), &TargetInit::ForwardPass)
        .unwrap();
    let ends = Convergence::NEVER.with_tolerance(1e-6).unwrap();
    let solve = |recorded| {
        let mut model = start.clone();
        let solver = Iterate::new(5, Partly(recorded)).with_convergence(ends);
        let report = model.solve_targets(&solver, &Selection::All);
        (report, model.z(2).unwrap() != start.z(2).unwrap())
    };
    for recorded in [&[][..], &[1], &[2]] {
        let (error, moved) = solve(recorded);
        assert!(matches!(error, Err(Error::Combination { .. })), "{error:?}");
        assert!(!moved);
    }
    let (report, moved) = solve(&[1, 2]);
    assert_eq!(report.unwrap().steps, 5);
    assert!(moved);
}

/// |z − ẑ|, whose curvature is 0 where it has any.
#[derive(Debug)]
struct Bent;

impl Loss<f32> for Bent {
    fn free_target(&self) -> bool {
        true
    }

    fn scratch(&self, _: usize, _: usize) -> usize {
        0
    }

    fn evaluate(
        &self,
        at: &Pair<'_, f32>,
        values: &mut [f32],
        d_target: Write<'_, f32>,
        d_prediction: Write<'_, f32>,
        _: &mut [f32],
    ) {
        let error = |i: usize| at.target[i] - at.prediction[i];
        let columns = values.iter_mut().enumerate();
        for (j, value) in columns {
            *value = (j * at.dim..(j + 1) * at.dim).map(|i| error(i).abs()).sum();
        }
        d_target.each(|i| error(i).signum());
        d_prediction.each(|i| -error(i).signum());
    }

    fn curvature(
        &self,
        _: &Pair<'_, f32>,
        _: Option<&[f32]>,
        _: Option<&[f32]>,
        out_target: Write<'_, f32>,
        out_prediction: Write<'_, f32>,
        _: &mut [f32],
    ) {
        out_target.each(|_| 0.0);
        out_prediction.each(|_| 0.0);
    }

    fn curvature_bound(&self, _: &[f32]) -> Option<f32> {
        Some(0.0)
    }
}

/// A bound of 0 · ∞, of a unit of two layers with weights 1e-30 and 1e30, gives no step.
#[test]
fn a_bound_that_is_no_number_is_refused() {
    let unit = || {
        let dense = Dense::new(1, 1, Activation::Identity).unwrap();
        dense.without_bias()
    };
    let pair = Sequential::new(vec![Box::new(unit()), Box::new(unit())]).unwrap();
    let circuit = Circuit::<f32>::builder().layer(unit()).layer(pair);
    let mut start = DecoupledCircuit::new(circuit.build().unwrap(), Energy::default()).unwrap();
    start.set_parameters(0, &[1.0]).unwrap();
    start.set_parameters(1, &[1e-30, 1e30]).unwrap();
    let row = |values: [f32; 2]| DMatrix::from_row_slice(1, 2, &values);
    // The first example is at rest, the second is not.
    let given = TargetInit::Given(vec![row([0.0, 0.5])]);
    let (x, y) = (row([0.0, 0.0]), row([0.0, 2.0]));
    start.add_examples(&x, &y, &given).unwrap();
    let ends = Convergence::NEVER.with_tolerance(1e-3).unwrap();
    let solvers: [Box<dyn TargetSolver<f32>>; 3] = [
        Box::new(ReverseSweep::new(2).with_convergence(ends)),
        Box::new(RedBlack::new(2).with_convergence(ends)),
        Box::new(descent(2, BOUNDED).with_convergence(ends)),
    ];
    for solver in solvers {
        let mut model = start.clone();
        let error = model.solve_targets(&solver, &Selection::All);
        assert!(
            matches!(error, Err(Error::NonFinite { layer: 1, .. })),
            "{error:?} by {solver:?}"
        );
        assert_eq!(model.z(1).unwrap(), start.z(1).unwrap());
    }
    // So is a bound of 0 beside a gradient, of a kinked loss.
    let flat = Circuit::<f32>::builder().layer(unit()).layer(unit());
    let bent = Energy::new(Bent).with_hidden_loss(Bent);
    let mut model = DecoupledCircuit::new(flat.build().unwrap(), bent).unwrap();
    let given = TargetInit::Given(vec![row([0.5, 0.5])]);
    model.add_examples(&x, &y, &given).unwrap();
    let error = model.solve_targets(&ReverseSweep::new(1), &Selection::All);
    assert!(matches!(
        error,
        Err(Error::InvalidOption { value: 0.0, .. })
    ));
    // Checked steps need no bound.
    let checked = ReverseSweep::new(2).with_step(StepSize::Checked(0.1));
    start
        .solve_targets(&checked.unwrap(), &Selection::All)
        .unwrap();
}

/// −0 stays −0 in an example that has ended, whatever the others do.
fn what_has_ended_stays_to_the_bit<T: Tested>() {
    let ends = Convergence::NEVER.with_tolerance(1e-3).unwrap();
    // A sweep moves what it finds at rest once more, alone as beside others.
    let solvers: [Box<dyn TargetSolver<T>>; 6] = [
        Box::new(descent(3, BOUNDED).with_convergence(ends)),
        Box::new(ErrorDescent::new(3).with_convergence(ends)),
        Box::new(GaussNewton::new(3, 2).with_convergence(ends)),
        Box::new(GaussNewton::chained(3, 2).with_convergence(ends)),
        Box::new(GaussNewton::direct(3).with_convergence(ends)),
        Box::new(GaussNewton::cyclic_reduction(3).with_convergence(ends)),
    ];
    for solver in solvers {
        let mut model = unit_chain::<T>([-0.0, 0.5], [0.0, 2.0]);
        model.solve_targets(&solver, &Selection::All).unwrap();
        let z = model.z(1).unwrap().map(|z| z.as_f64());
        assert_eq!(z[0].to_bits(), (-0.0f64).to_bits(), "{solver:?}");
        assert!(z[1] > 0.9, "{z} by {solver:?}");
    }
}

/// Solves twice, the second time from a copy of state and targets.
#[derive(Debug)]
struct Resumes<S>(S);

impl<S: TargetSolver<f64>> TargetSolver<f64> for Resumes<S> {
    fn solve(
        &self,
        state: &mut State<f64>,
        problem: &mut TargetProblem<'_, f64>,
    ) -> Result<SolveReport, Error> {
        let hidden = 1..problem.layers().depth();
        let targets = |problem: &TargetProblem<'_, f64>| -> Vec<Vec<f64>> {
            hidden
                .clone()
                .map(|t| problem.batch().z(t).to_vec())
                .collect()
        };
        let (mut copy, before) = (state.clone(), targets(problem));
        let report = self.0.solve(state, problem)?;
        let after = targets(problem);
        for (t, before) in (1..).zip(before) {
            problem.target_mut(t).copy_from_slice(&before);
        }
        assert_eq!(self.0.solve(&mut copy, problem)?, report);
        assert_eq!((copy, targets(problem)), (state.clone(), after));
        Ok(report)
    }
}

/// All that a solver keeps from call to call is in its state; boxes and references are solvers too.
#[test]
fn a_copied_state_goes_on_alike() {
    let bounded = || descent(2, BOUNDED).with_bound_every(3).unwrap();
    let sweep = ReverseSweep::new(1).with_bound_every(2).unwrap();
    let errors = ErrorDescent::new(2).with_bound_every(3).unwrap();
    let solvers: [Box<dyn TargetSolver<f64>>; 5] = [
        Box::new(bounded()),
        Box::new(errors),
        Box::new(Arc::new(sweep)),
        Box::new(RedBlack::new(2)),
        Box::new(GaussNewton::new(2, 3)),
    ];
    for solver in solvers {
        let mut model = curved_model::<f64>(4, 5);
        let scheme = Decoupling::persistent(Resumes(solver));
        let phase = Phase::new(scheme, Adam::new(1e-2).unwrap()).with_epochs(12);
        Trainer::new(phase).run(&mut model).unwrap();
    }
    let options = sweep.with_convergence(Convergence::NEVER);
    assert_eq!(options, sweep);
    assert_ne!(RedBlack::new(1), RedBlack::new(2));
}

/// Σ_t R(θ_t) is a constant in z: however large, every target and every report is the same.
fn what_no_target_changes_judges_no_step<T: Tested>() {
    let build = |regularizer| {
        let dense = |a, b, activation| Dense::new(a, b, activation).unwrap();
        let circuit = Circuit::builder()
            .layer(dense(3, 5, Activation::Tanh))
            .layer(dense(5, 4, Activation::Tanh))
            .layer(dense(4, 2, Activation::Identity))
            .seed(3);
        let energy = Energy::default()
            .with_parameter_regularizer(regularizer)
            .with_target_regularizer(Regularizer::l2(0.1).unwrap());
        let mut model = DecoupledCircuit::new(circuit.build().unwrap(), energy).unwrap();
        let x = DMatrix::from_fn(3, 7, |i, j| {
            T::of(((3 * i + 5 * j) % 11) as f64 / 5.0 - 1.0)
        });
        let y = DMatrix::from_fn(2, 7, |i, j| T::of(((i + j) % 3) as f64));
        let noisy = TargetInit::NoisyForwardPass { std: 0.3, seed: 8 };
        model.add_examples(&x, &y, &noisy).unwrap();
        model
    };
    let (plain, heavy) = (
        build(Regularizer::NONE),
        build(Regularizer::l2(1e6).unwrap()),
    );
    let constant = heavy.energy().unwrap() - plain.energy().unwrap();
    assert!(constant > T::of(1e6), "E still contains it");
    let slow = Convergence::NEVER.with_stagnation(1e-3).unwrap();
    let solvers: [Box<dyn TargetSolver<T>>; 7] = [
        Box::new(ReverseSweep::new(20)),
        Box::new(ErrorDescent::new(20).with_convergence(slow)),
        Box::new(ReverseSweep::new(20).with_convergence(slow)),
        Box::new(RedBlack::new(20).with_convergence(slow)),
        Box::new(descent(20, BOUNDED)),
        Box::new(GaussNewton::new(10, 20)),
        Box::new(GaussNewton::new(10, 20).with_convergence(slow)),
    ];
    for solver in solvers {
        let (expected, report) = solved(&plain, &solver);
        let (found, own) = solved(&heavy, &solver);
        assert_eq!(own, report, "{solver:?}");
        assert!(report.steps > 1, "{solver:?}");
        assert_eq!(distance(&found, &expected), 0.0, "{solver:?}");
    }
}

/// From z = 0, E = w (½ z² + ½ (2 − z)²), a fixed step goes 2 step, also where step / w does not fit T.
fn weights_at_the_ends_of_the_scalar_do_not_change_the_step<T: Tested>() {
    let least = match T::default_epsilon().as_f64() < 1e-10 {
        true => f64::MIN_POSITIVE,
        false => f64::from(f32::MIN_POSITIVE),
    };
    for (weight, step) in [(least, 4.0), (1.0 / least, 0.7e-3), (1.0, 0.7e-3)] {
        let mut model = unit_chain::<T>([0.0, 0.0], [2.0, 2.0]);
        let weights = [T::of(weight); 2];
        model
            .set_example_weights(&Selection::All, &weights)
            .unwrap();
        let solver = ReverseSweep::new(1)
            .with_step(StepSize::Fixed(step))
            .unwrap();
        let (model, _) = solved(&model, solver);
        let moved = model.z(1).unwrap()[(0, 1)].as_f64();
        let error = (moved / (2.0 * step) - 1.0).abs();
        assert!(error < T::ROUNDING, "{weight}: {moved}");
    }
}

#[test]
fn a_report_prints_itself_on_one_line() {
    let mut report = SolveReport::new(3, 40);
    assert_eq!(
        report.to_string(),
        "3 steps, 40 examples, 40 took all steps"
    );
    (report.at_rest, report.stagnated, report.limited) = (30, 8, 2);
    (report.drawn_back, report.stuck, report.products) = (5, 1, 12);
    (report.operations, report.critical_path) = (900, 100);
    assert_eq!(
        report.to_string(),
        "3 steps, 40 examples, 30 at rest, 8 stagnated, 2 took all steps, 5 steps shortened or \
         undone, 1 stuck, 12 products, 900 operations, 100 on the critical path"
    );
    report.at_rest = usize::MAX;
    assert!(
        report
            .to_string()
            .contains(" 18446744073709551615 examples")
    );
}
