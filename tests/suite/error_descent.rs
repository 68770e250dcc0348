//! Descent in the errors c_t = z_t − f(z_{t−1}): against loops written out, the closed form of a linear
//! circuit, backprop, and the chained preconditioner.

use std::ops::Range;

use crate::property::{Tested, generator, uniform};
use layerwise::energy::Workspace;
use layerwise::init::Initializer;
use layerwise::kernel::Write;
use layerwise::loss::{Huber, PseudoHuber};
use layerwise::prelude::*;
use layerwise::target_solver::{Convergence, ErrorDescent, SolveStop};
use layerwise::{presets, theory};

in_both_scalars!(
    a_step_is_its_definition,
    the_bound_is_that_of_the_chain,
    an_overflowing_chain_is_named,
);

const N: usize = 6;

fn fixed(steps: u64, step: f64) -> ErrorDescent {
    let solver = ErrorDescent::new(steps).with_step(StepSize::Fixed(step));
    solver.unwrap()
}

/// Widths 3, 5, 4, 6, …, the last layer linear, and targets off the forward pass.
fn model<T: Scalar>(
    depth: usize,
    activation: Activation,
    energy: Energy<T>,
    init: &TargetInit<T>,
) -> DecoupledCircuit<T> {
    let widths: Vec<usize> = (0..=depth).map(|t| 3 + (2 * t) % 5).collect();
    let mut builder = Circuit::builder().seed(4);
    for (t, pair) in widths.windows(2).enumerate() {
        let own = match t + 1 < depth {
            true => activation,
            false => Activation::Identity,
        };
        builder = builder.layer(Dense::new(pair[0], pair[1], own).unwrap());
    }
    let mut model = DecoupledCircuit::new(builder.build().unwrap(), energy).unwrap();
    let rng = &mut generator(7);
    let x = DMatrix::from_vec(widths[0], N, uniform(rng, widths[0] * N, 1.5));
    let y = DMatrix::from_vec(widths[depth], N, uniform(rng, widths[depth] * N, 1.0));
    model.add_examples(&x, &y, init).unwrap();
    model
}

fn noisy<T: Scalar>() -> TargetInit<T> {
    TargetInit::NoisyForwardPass { std: 0.3, seed: 8 }
}

fn solved<T: Scalar>(
    start: &DecoupledCircuit<T>,
    solver: impl TargetSolver<T>,
) -> DecoupledCircuit<T> {
    let mut model = start.clone();
    model.solve_targets(&solver, &Selection::All).unwrap();
    model
}

fn hidden<T: Scalar>(model: &DecoupledCircuit<T>) -> Vec<DMatrix<T>> {
    let layers = 1..model.circuit().depth();
    layers.map(|t| model.z(t).unwrap().into_owned()).collect()
}

fn largest<T: Scalar>(a: &[DMatrix<T>], b: &[DMatrix<T>]) -> f64 {
    let pairs = a.iter().zip(b);
    pairs.fold(0.0, |top, (a, b)| f64::max(top, (a - b).amax().as_f64()))
}

/// ẑ_{t+1} of the examples, at the model's targets.
fn prediction<T: Scalar>(model: &DecoupledCircuit<T>, t: usize) -> DMatrix<T> {
    let problem = model.local_problem(t, 0..N).unwrap();
    let mut workspace = problem.workspace();
    let found = problem.linearize(&mut workspace).prediction().to_vec();
    DMatrix::from_vec(model.circuit().dims()[t + 1], N, found)
}

/// ∂E/∂c_t for t = 1, …, T−1 by the recursion, from the model's gradients in z.
fn error_gradients<T: Scalar>(model: &DecoupledCircuit<T>) -> Vec<DMatrix<T>> {
    let mut all = model.gradients(&Selection::All).unwrap().targets;
    for t in (1..all.len()).rev() {
        let problem = model.local_problem(t, 0..N).unwrap();
        let mut workspace = problem.workspace();
        let mut pulled = vec![T::zero(); all[t - 1].len()];
        let above = all[t].as_slice().to_vec();
        let mut at = problem.linearize(&mut workspace);
        at.vjp(&above, Write::Set(&mut pulled), Write::Skip)
            .unwrap();
        all[t - 1] += DMatrix::from_vec(model.circuit().dims()[t], N, pulled);
    }
    all
}

/// With unequal μ, hidden losses, regularised targets, cross entropy and example weights, of which two are 0.
fn a_step_is_its_definition<T: Tested>() {
    let (step, steps) = (0.15, 3);
    for depth in [2, 3, 5] {
        let penalties = (1..depth).map(|t| T::of(0.5 + (t % 3) as f64)).collect();
        let losses = (1..depth).map(|t| -> Box<dyn Loss<T>> {
            match t % 3 {
                0 => Box::new(Huber::new(0.2).unwrap()),
                1 => Box::new(SquaredError),
                _ => Box::new(PseudoHuber::new(0.5).unwrap()),
            }
        });
        let energy = Energy::default()
            .with_hidden_losses(losses.collect())
            .with_penalties(penalties)
            .with_target_regularizer(Regularizer::l2(0.2).unwrap())
            .with_parameter_regularizer(Regularizer::l2(0.1).unwrap());
        let mut start = model(depth, Activation::Tanh, energy, &noisy());
        let weights = [1.0, 0.5, 0.0, 3.0, 0.0, 2.0].map(T::of);
        start
            .set_example_weights(&Selection::All, &weights)
            .unwrap();
        let mut expected = start.clone();
        for _ in 0..steps {
            let gradients = error_gradients(&expected);
            let errors: Vec<DMatrix<T>> = (1..depth)
                .map(|t| expected.z(t).unwrap() - prediction(&expected, t - 1))
                .collect();
            for t in 1..depth {
                let mut z = prediction(&expected, t - 1) + &errors[t - 1];
                for (i, mut column) in z.column_iter_mut().enumerate() {
                    if weights[i].is_zero() {
                        column.copy_from(&start.z(t).unwrap().column(i));
                    } else {
                        column -= gradients[t - 1].column(i) * (T::of(step) / weights[i]);
                    }
                }
                expected.set_targets(t, &Selection::All, &z).unwrap();
            }
        }
        let found = solved(&start, fixed(steps, step));
        let error = largest(&hidden(&found), &hidden(&expected));
        assert!(error < 10.0 * T::ROUNDING, "depth {depth}: {error}");
        assert!(largest(&hidden(&found), &hidden(&start)) > 0.05);
        // Those of weight 0 keep every bit.
        for (own, first) in hidden(&found).iter().zip(&hidden(&start)) {
            for i in [2, 4] {
                assert_eq!(own.column(i), first.column(i));
            }
        }
    }
}

/// ∂E/∂c against differences of E at targets that are rebuilt from changed errors.
#[test]
fn the_gradient_is_that_of_e_in_the_errors() {
    let energy = Energy::default()
        .with_penalty(0.7)
        .with_target_regularizer(Regularizer::l2(0.2).unwrap());
    let start = model::<f64>(4, Activation::Tanh, energy, &noisy());
    let errors: Vec<DMatrix<f64>> = (1..4)
        .map(|t| start.z(t).unwrap() - prediction(&start, t - 1))
        .collect();
    let energy_at = |errors: &[DMatrix<f64>]| {
        let mut model = start.clone();
        for t in 1..4 {
            let z = prediction(&model, t - 1) + &errors[t - 1];
            model.set_targets(t, &Selection::All, &z).unwrap();
        }
        model.energy().unwrap()
    };
    // What one step does to the errors.
    let after = solved(&start, fixed(1, 1e-3));
    for t in 1..4 {
        let own = after.z(t).unwrap() - prediction(&after, t - 1);
        let gradient = (&errors[t - 1] - own) / 1e-3;
        for k in [0, gradient.len() / 2, gradient.len() - 1] {
            let [above, below] = [1e-5, -1e-5].map(|h| {
                let mut errors = errors.clone();
                errors[t - 1][k] += h;
                energy_at(&errors)
            });
            let expected = (above - below) / 2e-5;
            assert!((gradient[k] - expected).abs() < 1e-8, "{k} of c_{t}");
        }
    }
}

/// A linear circuit: the minimiser in closed form, from any start and with unequal μ, by steps of any kind. E
/// falls with each of them.
#[test]
fn a_linear_circuit_ends_at_its_minimiser() {
    for init in [TargetInit::ForwardPass, noisy()] {
        let penalties = (1..6).map(|t| 0.5 + (t % 3) as f64).collect();
        let energy = Energy::default().with_penalties(penalties);
        let start = model::<f64>(6, Activation::Identity, energy, &init);
        let expected = theory::linear_minimiser(&start, &Selection::All).unwrap();
        let ends = Convergence::NEVER.with_tolerance(1e-12).unwrap();
        for step in [
            StepSize::Fixed(0.02),
            StepSize::Checked(0.02),
            StepSize::Bounded { margin: 1.0 },
        ] {
            let mut model = start.clone();
            let one = ErrorDescent::new(1).with_step(step).unwrap();
            let mut before = model.energy().unwrap();
            for _ in 0..20 {
                model.solve_targets(&one, &Selection::All).unwrap();
                let after = model.energy().unwrap();
                assert!(after < before, "{before} to {after} by {step:?}");
                before = after;
            }
            let many = ErrorDescent::new(100_000).with_step(step).unwrap();
            let many = many.with_convergence(ends);
            let report = model.solve_targets(&many, &Selection::All).unwrap();
            // Rounding in E hides the last checked steps.
            if let StepSize::Fixed(_) = step {
                assert_eq!(report.stop(), SolveStop::Tolerance, "{report}");
            }
            let error = largest(&hidden(&model), &expected);
            println!("{step:?}: {} steps, error {error:.1e}", report.steps);
            assert!(error < 1e-10, "{error} by {step:?}: {report}");
        }
    }
}

/// One step of size η from the forward pass: θ_0's gradient is μη times backprop's, and so is every other
/// hidden one up to a relative error that halves with η.
#[test]
fn the_first_step_is_backprop() {
    let (depth, penalty) = (6, 1.5);
    let energy = Energy::default().with_penalty(penalty);
    let start = model::<f64>(depth, Activation::Tanh, energy, &TargetInit::ForwardPass);
    let exact = start.backprop(&Selection::All).unwrap().parameters;
    let mut errors = Vec::new();
    for step in [2e-2, 1e-2, 5e-3] {
        let moved = solved(&start, fixed(1, step));
        let found = moved.gradients(&Selection::All).unwrap().parameters;
        let relative = |t: usize| {
            let pairs = found[t].iter().zip(&exact[t]);
            let (mut error, mut size) = (0.0_f64, 0.0_f64);
            for (own, exact) in pairs {
                error = error.hypot(own / (penalty * step) - exact);
                size = size.hypot(*exact);
            }
            assert!(size > 1e-3, "θ_{t} has a gradient of {size}");
            error / size
        };
        assert!(relative(0) < 1e-12, "θ_0: {}", relative(0));
        errors.push((1..depth - 1).map(relative).collect::<Vec<f64>>());
    }
    println!("relative differences from backprop: {errors:?}");
    for pair in errors.windows(2) {
        for (own, half) in pair[0].iter().zip(&pair[1]) {
            assert!((own / half - 2.0).abs() < 0.1, "{own} to {half}");
        }
    }
}

/// A⁻¹ D⁻¹ A⁻ᵀ ∂E/∂z with A x = (x_t − J_{t−1} x_{t−1}): down the chain by VJPs, up by JVPs.
fn preconditioned(start: &DecoupledCircuit<f64>, diagonal: &[f64]) -> Vec<DMatrix<f64>> {
    let mut direction = error_gradients(start);
    for t in 0..direction.len() {
        direction[t] /= diagonal[t];
        if t == 0 {
            continue;
        }
        let problem = start.local_problem(t, 0..N).unwrap();
        let mut workspace = problem.workspace();
        let below = direction[t - 1].as_slice().to_vec();
        let mut tangent = vec![0.0; direction[t].len()];
        let mut at = problem.linearize(&mut workspace);
        at.jvp(Some(&below), None, &mut tangent).unwrap();
        let rows = direction[t].nrows();
        direction[t] += DMatrix::from_vec(rows, N, tangent);
    }
    direction
}

/// Of a linear circuit: [`GaussNewton::chained`] without damping moves every example along
/// A⁻¹ D⁻¹ A⁻ᵀ ∂E/∂z, D = diag(μ_t), in its first iteration, and an error step along the same with D = 1. With equal μ
/// they are the same step, of the length that the iteration chooses.
#[test]
fn chained_descent_is_descent_in_the_errors() {
    let chained = GaussNewton::chained(1, 1).with_damping(0.0).unwrap();
    for penalties in [vec![2.5; 4], vec![1.0, 4.0, 0.5, 2.0]] {
        let equal = penalties[0] == penalties[1];
        let energy = Energy::default().with_penalties(penalties.clone());
        let start = model::<f64>(5, Activation::Identity, energy, &noisy());
        let newton = hidden(&solved(&start, chained));
        let [own, plain] = [&penalties[..], &[1.0; 4]].map(|own| preconditioned(&start, own));
        for i in 0..N {
            let column = |all: &[DMatrix<f64>]| -> Vec<f64> {
                let parts = all.iter();
                parts
                    .flat_map(|own| own.column(i).as_slice().to_vec())
                    .collect()
            };
            let product =
                |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
            let moved = column(&newton).into_iter().zip(column(&hidden(&start)));
            let moved: Vec<f64> = moved.map(|(z, first)| first - z).collect();
            let along = |direction: &[f64]| {
                let length = product(&moved, direction) / product(direction, direction);
                let errors = moved.iter().zip(direction);
                let error = errors.fold(0.0, |top, (a, b)| f64::max(top, (a - length * b).abs()));
                (length, error)
            };
            let (_, error) = along(&column(&own));
            assert!(error < 1e-10, "{error} in example {i}");
            let (length, error) = along(&column(&plain));
            assert_eq!(error < 1e-10, equal, "{error} in example {i}");
            if equal {
                let same = hidden(&solved(&start, fixed(1, length)));
                let pairs = column(&same).into_iter().zip(column(&newton));
                let error = pairs.fold(0.0, |top, (a, b)| f64::max(top, (a - b).abs()));
                assert!(error < 1e-10, "{error} in example {i}");
            }
        }
    }
}

/// With tanh an error step moves z along (AᵀA)⁻¹ ∂E/∂z to first order in its size.
#[test]
fn in_a_curved_circuit_they_agree_to_first_order() {
    let energy = Energy::default().with_penalty(2.0);
    let start = model::<f64>(5, Activation::Tanh, energy, &noisy());
    let direction = preconditioned(&start, &[1.0; 4]);
    let error = |step: f64| {
        let moved = hidden(&solved(&start, fixed(1, step)));
        let pairs = moved.iter().zip(hidden(&start)).zip(&direction);
        pairs.fold(0.0, |top, ((z, first), direction)| {
            f64::max(top, ((first - z) / step - direction).amax())
        })
    };
    let errors = [4e-3, 2e-3, 1e-3].map(error);
    println!("differences: {errors:?}");
    for pair in errors.windows(2) {
        assert!((pair[0] / pair[1] - 2.0).abs() < 0.1, "{errors:?}");
    }
}

/// T units with weight 1, and a bound that can be written down.
fn chain<T: Scalar>(depth: usize, weight: f64, energy: Energy<T>) -> DecoupledCircuit<T> {
    let mut builder = Circuit::builder();
    for _ in 0..depth {
        let dense = Dense::new(1, 1, Activation::Identity).unwrap();
        builder = builder.layer(dense.without_bias());
    }
    let mut model = DecoupledCircuit::new(builder.build().unwrap(), energy).unwrap();
    for t in 0..depth {
        model.set_parameters(t, &[T::of(weight)]).unwrap();
    }
    let one = |z| DMatrix::from_element(1, 1, T::of(z));
    model
        .add_examples(&one(0.5), &one(2.0), &TargetInit::ForwardPass)
        .unwrap();
    model
}

/// μ + Σ_t λ₂ Σ_{s≤t} w^{2(t−s)} + Σ_s w^{2(T−s)}: a bounded step is margin divided by it.
fn the_bound_is_that_of_the_chain<T: Tested>() {
    let (mu, weight, second, margin) = (1.7, 1.2, 0.3, 0.8);
    for depth in [2_i32, 3, 7] {
        let energy = Energy::default()
            .with_penalty(T::of(mu))
            .with_target_regularizer(Regularizer::l2(second).unwrap());
        let start = chain::<T>(depth as usize, weight, energy);
        let spread =
            |t: i32, from: i32| -> f64 { (1..=from).map(|s| weight.powi(2 * (t - s))).sum() };
        let own: f64 = (1..depth).map(|t| second * spread(t, t)).sum();
        let bound = mu + own + spread(depth, depth - 1);
        let bounded = ErrorDescent::new(1).with_step(StepSize::Bounded { margin });
        let found = solved(&start, bounded.unwrap());
        let expected = solved(&start, fixed(1, margin / bound));
        let error = largest(&hidden(&found), &hidden(&expected));
        assert!(error < 10.0 * T::ROUNDING, "depth {depth}: {error}");
        assert!(largest(&hidden(&found), &hidden(&start)) > 0.05);
    }
}

/// The bound is one: no step of margin 1 in a linear circuit is ever shortened, and a fixed one of twice
/// the bound's inverse is stable.
#[test]
fn bounded_steps_in_linear_circuits_are_never_shortened() {
    for depth in [2, 4, 9] {
        let energy = Energy::default()
            .with_penalties((1..depth).map(|t| 0.5 + (t % 3) as f64).collect())
            .with_target_regularizer(Regularizer::l2(0.2).unwrap());
        let mut model = model::<f64>(depth, Activation::Identity, energy, &noisy());
        let solver = ErrorDescent::new(50);
        let report = model.solve_targets(&solver, &Selection::All).unwrap();
        assert_eq!((report.drawn_back, report.steps), (0, 50), "{report}");
    }
}

fn an_overflowing_chain_is_named<T: Tested>() {
    let size = T::max_value().unwrap().as_f64().sqrt() * 2.0;
    for t in [1, 2] {
        let mut model = chain::<T>(3, 0.0, Energy::default());
        model.set_parameters(t, &[T::of(size)]).unwrap();
        let before = hidden(&model);
        let error = model.solve_targets(&ErrorDescent::new(1), &Selection::All);
        let error = error.unwrap_err();
        let text = error.to_string();
        assert!(
            matches!(error, Error::NonFinite { layer, .. } if layer == t),
            "{text}"
        );
        assert_eq!(hidden(&model), before);
    }
}

/// A depth at which gradients vanish in z: one synchronous step reaches one layer, one error step all.
#[test]
fn one_step_reaches_every_layer() {
    let reach = |solver: &dyn TargetSolver<f64>| {
        let start = model(
            8,
            Activation::Tanh,
            Energy::default(),
            &TargetInit::ForwardPass,
        );
        let moved = solved(&start, solver);
        let pairs = hidden(&moved).into_iter().zip(hidden(&start));
        pairs.filter(|(a, b)| a != b).count()
    };
    assert_eq!(reach(&fixed(1, 0.1)), 7);
    let model = model::<f64>(8, Activation::Tanh, Energy::default(), &noisy());
    let found = theory::gradient_reach(&model, &Selection::All, &fixed(1, 0.1)).unwrap();
    assert!(found.iter().all(|&norm| norm > 0.0), "{found:?}");
}

/// The preset is a forward pass, K steps, and one step of θ along the gradients there.
#[test]
fn the_preset_is_its_description() {
    let start = model::<f64>(4, Activation::Tanh, Energy::default(), &noisy());
    let mut trained = start.clone();
    let phase = presets::epc(3, 0.2, GradientDescent::new(0.5).unwrap()).unwrap();
    Trainer::new(phase.with_epochs(1))
        .run(&mut trained)
        .unwrap();
    let fresh = model::<f64>(
        4,
        Activation::Tanh,
        Energy::default(),
        &TargetInit::ForwardPass,
    );
    let relaxed = solved(&fresh, fixed(3, 0.2));
    let mut workspace = Workspace::new();
    let problem = relaxed.problem(0..N).unwrap();
    let found = problem.evaluate(layerwise::energy::All, &mut workspace);
    for t in 0..4 {
        let range: Range<usize> = 0..start.circuit().parameters(t).len();
        for k in range {
            let expected =
                start.circuit().parameters(t)[k] - 0.5 * found.parameter_gradient(t)[k] / N as f64;
            let own = trained.circuit().parameters(t)[k];
            assert!((own - expected).abs() < 1e-14, "{k} of θ_{t}");
        }
    }
    for rate in [0.0, -1.0, f64::NAN] {
        let error = presets::epc::<f64>(1, rate, GradientDescent::new(0.5).unwrap());
        assert!(matches!(error, Err(Error::InvalidOption { .. })));
    }
}

/// Weights so large that the steps must be shortened: E falls for every example all the same.
#[test]
fn checked_steps_of_any_length_never_raise_e() {
    for step in [0.1, 1.0, 30.0] {
        let mut builder = Circuit::<f64>::builder().seed(2);
        for _ in 0..12 {
            let weights = Initializer::Orthogonal { gain: 2.0 };
            let dense = Dense::new(4, 4, Activation::Tanh).unwrap();
            builder = builder.layer(dense.with_weights(weights).unwrap());
        }
        let mut model = DecoupledCircuit::new(builder.build().unwrap(), Energy::default()).unwrap();
        let x = DMatrix::from_vec(4, N, uniform(&mut generator(1), 4 * N, 1.0));
        let y = DMatrix::from_vec(4, N, uniform(&mut generator(2), 4 * N, 1.0));
        model.add_examples(&x, &y, &noisy()).unwrap();
        let solver = ErrorDescent::new(1).with_step(StepSize::Checked(step));
        let solver = solver.unwrap();
        let energies = |model: &DecoupledCircuit<f64>| -> Vec<f64> {
            (0..N)
                .map(|i| {
                    let problem = model.problem(i..i + 1).unwrap();
                    let mut workspace = Workspace::new();
                    problem
                        .evaluate(layerwise::energy::Value, &mut workspace)
                        .energy()
                })
                .collect()
        };
        let first = energies(&model);
        let mut before = first.clone();
        for _ in 0..30 {
            model.solve_targets(&solver, &Selection::All).unwrap();
            let after = energies(&model);
            for (before, after) in before.iter().zip(&after) {
                assert!(after <= &(before * (1.0 + 1e-14)), "{before} to {after}");
            }
            before = after;
        }
        assert!(before.iter().sum::<f64>() < first.iter().sum::<f64>());
    }
}
