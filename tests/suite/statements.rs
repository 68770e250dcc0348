//! The statements of the method, checked on random circuits: what is exact is compared bit by bit,
//! what is a limit by the rate at which it is approached.
//!
//! Every case is drawn from its number, which the message of a failure names.

use layerwise::decoupled::{Selection, TargetInit};
use layerwise::energy::Energy;
use layerwise::init::Initializer;
use layerwise::kernel::Write;
use layerwise::layer::{Activation, Dense};
use layerwise::loss::SoftmaxCrossEntropy;
use layerwise::optimizer::GradientDescent;
use layerwise::target_solver::{
    ErrorDescent, GaussNewton, RedBlack, ReverseSweep, StepSize, SynchronousDescent, TargetSolver,
};
use layerwise::{Circuit, DecoupledCircuit, Scalar};
use nalgebra::{DMatrix, DVector};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Output {
    Squared,
    CrossEntropy,
}

const OUTPUTS: [Output; 2] = [Output::Squared, Output::CrossEntropy];

const SMOOTH: [Activation; 6] = [
    Activation::Identity,
    Activation::Tanh,
    Activation::Sigmoid,
    Activation::Gelu,
    Activation::Silu,
    Activation::Softplus,
];

/// What a case's model is made of.
#[derive(Debug, Clone)]
struct Plan {
    dims: Vec<usize>,
    activations: Vec<Activation>,
    examples: usize,
    output: Output,
    seed: u64,
}

impl Plan {
    /// Depth 1 to 6, widths 1 to 9 (the output 2 to 5), 1 to 7 examples, any smooth activations.
    fn random(seed: u64, output: Output) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let depth = rng.random_range(1..=6);
        let mut dims: Vec<usize> = (0..depth).map(|_| rng.random_range(1..=9)).collect();
        dims.push(rng.random_range(2..=5));
        let activations = (1..depth)
            .map(|_| SMOOTH[rng.random_range(0..SMOOTH.len())])
            .chain([Activation::Identity])
            .collect();
        Self {
            dims,
            activations,
            examples: rng.random_range(1..=7),
            output,
            seed,
        }
    }

    /// All hidden layers alike, the last linear.
    fn uniform(dims: &[usize], hidden: Activation, output: Output, seed: u64) -> Self {
        let mut activations = vec![hidden; dims.len() - 2];
        activations.push(Activation::Identity);
        Self {
            dims: dims.to_vec(),
            activations,
            examples: 3,
            output,
            seed,
        }
    }

    fn depth(&self) -> usize {
        self.activations.len()
    }

    fn circuit<T: Scalar>(&self) -> Circuit<T> {
        let mut builder = Circuit::builder().seed(self.seed);
        for (t, &activation) in self.activations.iter().enumerate() {
            let bias = Initializer::VarianceScaling {
                scale: 0.1,
                fan: layerwise::init::Fan::In,
                distribution: layerwise::init::Distribution::Uniform,
            };
            let layer = Dense::new(self.dims[t], self.dims[t + 1], activation).unwrap();
            builder = builder.layer(layer.with_bias(bias).unwrap());
        }
        builder.build().unwrap()
    }

    fn energy<T: Scalar>(&self) -> Energy<T> {
        match self.output {
            Output::Squared => Energy::default(),
            Output::CrossEntropy => Energy::new(SoftmaxCrossEntropy),
        }
    }

    fn data<T: Scalar>(&self) -> (DMatrix<T>, DMatrix<T>) {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ 0xdada);
        let n = self.examples;
        let x = DMatrix::from_fn(self.dims[0], n, |_, _| T::of(rng.random_range(-1.5..1.5)));
        let classes = self.dims[self.depth()];
        let y = match self.output {
            Output::Squared => {
                DMatrix::from_fn(classes, n, |_, _| T::of(rng.random_range(-1.0..1.0)))
            }
            Output::CrossEntropy => {
                let mut y = DMatrix::zeros(classes, n);
                for j in 0..n {
                    y[(rng.random_range(0..classes), j)] = T::one();
                }
                y
            }
        };
        (x, y)
    }

    fn model<T: Scalar>(&self, init: &TargetInit<T>) -> DecoupledCircuit<T> {
        let mut model = DecoupledCircuit::new(self.circuit(), self.energy()).unwrap();
        let (x, y) = self.data();
        model.add_examples(&x, &y, init).unwrap();
        model
    }
}

fn synchronous<T: Scalar>(steps: u64, step: f64) -> SynchronousDescent<T> {
    SynchronousDescent::new(steps, StepSize::Fixed(step)).unwrap()
}

fn bits<T: Scalar>(values: &[T]) -> Vec<u64> {
    values.iter().map(|v| v.as_f64().to_bits()).collect()
}

fn all_zero<T: Scalar>(values: &[T]) -> bool {
    values.iter().all(|v| v.is_zero())
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum::<f64>().sqrt()
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).powi(2))
        .sum::<f64>()
        .sqrt()
}

/// Sweeps until no entry of ∂E/∂z exceeds `tolerance`.
fn settle(model: &mut DecoupledCircuit<f64>, tolerance: f64) {
    let solver = ReverseSweep::new(100);
    for _ in 0..2000 {
        let targets = model.gradients(&Selection::All).unwrap().targets;
        if targets.iter().all(|g| g.amax() <= tolerance) {
            return;
        }
        model.solve_targets(&solver, &Selection::All).unwrap();
    }
    panic!("the sweeps did not reach a stationary point");
}

fn statement_1_on<T: Scalar>(plan: &Plan) {
    let mut model = plan.model::<T>(&TargetInit::ForwardPass);
    let last = plan.depth() - 1;
    let penalties: Vec<T> = (0..last).map(|t| T::of(0.3 + t as f64)).collect();
    model.set_penalties(&penalties).unwrap();
    let energies = model.energies().unwrap();
    let composed = model.composed_loss().unwrap();
    let local = model.gradients(&Selection::All).unwrap();
    let backprop = model.backprop(&Selection::All).unwrap();
    assert!(composed > T::zero(), "nothing to compare in {plan:?}");
    assert!(all_zero(&energies[..last]), "{plan:?}");
    for energy in [
        energies[last],
        local.energy,
        backprop.energy,
        model.energy().unwrap(),
    ] {
        assert_eq!(bits(&[energy]), bits(&[composed]), "{plan:?}");
    }
    for t in 0..last {
        assert!(all_zero(&local.parameters[t]), "layer {t} of {plan:?}");
    }
    assert!(!all_zero(&local.parameters[last]), "{plan:?}");
    assert_eq!(
        bits(&local.parameters[last]),
        bits(&backprop.parameters[last]),
        "{plan:?}"
    );
    for t in 1..=last {
        let (own, delta) = (&local.targets[t - 1], &backprop.targets[t - 1]);
        if t < last {
            assert!(all_zero(own.as_slice()), "z_{t} of {plan:?}");
        } else {
            assert_eq!(own, delta, "z_{t} of {plan:?}");
        }
    }
}

#[test]
fn statement_1_at_the_forward_pass_the_energy_is_the_composed_loss() {
    for case in 0..60 {
        for output in OUTPUTS {
            let plan = Plan::random(case, output);
            statement_1_on::<f64>(&plan);
            statement_1_on::<f32>(&plan);
        }
    }
    // Widths at which the products take their main path.
    for seed in 0..3 {
        let plan = Plan::uniform(&[70, 65, 33, 20], Activation::Tanh, OUTPUTS[1], seed);
        statement_1_on::<f64>(&plan);
        statement_1_on::<f32>(&plan);
    }
}

fn statement_2_on<T: Scalar>(plan: &Plan) {
    let last = plan.depth() - 1;
    let reached = |model: &DecoupledCircuit<T>| -> Vec<bool> {
        let gradients = model.gradients(&Selection::All).unwrap();
        gradients.parameters.iter().map(|g| !all_zero(g)).collect()
    };
    for k in 0..=last {
        let mut model = plan.model::<T>(&TargetInit::ForwardPass);
        let solver = synchronous(k as u64, 0.3);
        let report = model.solve_targets(&solver, &Selection::All).unwrap();
        if last > 0 {
            assert_eq!(report.steps, k as u64);
        }
        let expected: Vec<bool> = (0..=last).map(|t| t + k >= last).collect();
        assert_eq!(reached(&model), expected, "after {k} steps of {plan:?}");
    }
    let mut model = plan.model::<T>(&TargetInit::ForwardPass);
    let sweep = ReverseSweep::new(1);
    model.solve_targets(&sweep, &Selection::All).unwrap();
    assert_eq!(reached(&model), vec![true; last + 1], "sweep of {plan:?}");
}

#[test]
fn statement_2_information_moves_one_layer_a_synchronous_step() {
    for case in 0..40 {
        for output in OUTPUTS {
            statement_2_on::<f64>(&Plan::random(case, output));
        }
    }
    // f32 sees the signal of a few layers before rounding swallows it.
    for seed in 0..4 {
        let plan = Plan::uniform(&[5, 6, 6, 6, 3], Activation::Tanh, OUTPUTS[0], seed);
        statement_2_on::<f32>(&plan);
    }
}

/// A stationary model at μ_t = `penalty`, reached from the forward pass.
fn stationary(plan: &Plan, penalty: f64) -> DecoupledCircuit<f64> {
    let mut model = plan.model(&TargetInit::ForwardPass);
    model
        .set_penalties(&vec![penalty; plan.depth() - 1])
        .unwrap();
    // μ(z − ẑ) cannot be known better than μ times the rounding of z.
    settle(&mut model, 1e-12_f64.max(penalty * 2e-15));
    model
}

fn small_plans() -> impl Iterator<Item = Plan> {
    (0..4).flat_map(|seed| {
        OUTPUTS.into_iter().flat_map(move |output| {
            [&[3, 4, 4, 3][..], &[2, 5, 4, 4, 2]]
                .map(|dims| Plan::uniform(dims, Activation::Tanh, output, seed))
        })
    })
}

#[test]
fn statement_3_stationary_targets_carry_backprop_at_shifted_activations() {
    for plan in small_plans() {
        let depth = plan.depth();
        let relative_differences = [100.0, 200.0, 400.0].map(|penalty| {
            let model = stationary(&plan, penalty);
            let own = model.gradients(&Selection::All).unwrap();
            let backprop = model.backprop(&Selection::All).unwrap();
            let n = model.examples().len();

            // λ_T = ∂L/∂ẑ_T, by hand.
            let mut lambda = {
                let problem = model.local_problem(depth - 1, 0..n).unwrap();
                let mut workspace = problem.workspace();
                let at = problem.linearize(&mut workspace);
                let y = model.z(depth).unwrap();
                let output = DMatrix::from_column_slice(plan.dims[depth], n, at.prediction());
                let mut estimate = output.clone();
                if plan.output == Output::CrossEntropy {
                    for mut column in estimate.column_iter_mut() {
                        column.apply(|x| *x = x.exp());
                        let total = column.sum();
                        column /= total;
                    }
                }
                (estimate - y).as_slice().to_vec()
            };
            for t in (0..depth).rev() {
                let problem = model.local_problem(t, 0..n).unwrap();
                let mut workspace = problem.workspace();
                let mut at = problem.linearize(&mut workspace);
                let mut d_parameters = vec![0.0; own.parameters[t].len()];
                let mut pulled_back = vec![0.0; plan.dims[t] * n];
                at.vjp(
                    &lambda,
                    Write::Set(&mut pulled_back),
                    Write::Set(&mut d_parameters),
                )
                .unwrap();
                assert!(
                    distance(&d_parameters, &own.parameters[t]) < 1e-9,
                    "∂E/∂θ_{t} of {plan:?}"
                );
                if t > 0 {
                    let below = model.local_problem(t - 1, 0..n).unwrap();
                    let mut workspace = below.workspace();
                    let at = below.linearize(&mut workspace);
                    let z = model.z(t).unwrap();
                    lambda = at
                        .prediction()
                        .iter()
                        .zip(z.iter())
                        .map(|(estimate, z)| penalty * (estimate - z))
                        .collect();
                    assert!(distance(&lambda, &pulled_back) < 1e-9, "λ_{t} of {plan:?}");
                }
            }
            distance(&own.parameters.concat(), &backprop.parameters.concat())
                / norm(&backprop.parameters.concat())
        });
        for pair in relative_differences.windows(2) {
            let ratio = pair[1] / pair[0];
            assert!(
                (0.45..0.55).contains(&ratio),
                "{relative_differences:?} do not halve in {plan:?}"
            );
        }
    }
}

#[test]
fn statement_4_the_minimum_is_the_loss_less_the_squared_errors() {
    for plan in small_plans() {
        let remainders = [200.0, 400.0, 800.0].map(|penalty| {
            let model = stationary(&plan, penalty);
            let backprop = model.backprop(&Selection::All).unwrap();
            let squares: f64 = backprop.targets.iter().map(DMatrix::norm_squared).sum();
            model.energy().unwrap() - (backprop.energy - squares / (2.0 * penalty))
        });
        for pair in remainders.windows(2) {
            let ratio = pair[0] / pair[1];
            assert!(
                (3.5..4.5).contains(&ratio),
                "{remainders:?} do not fall fourfold in {plan:?}"
            );
        }
    }
}

/// W_t and b_t of a dense layer.
fn affine(model: &DecoupledCircuit<f64>, plan: &Plan, t: usize) -> (DMatrix<f64>, DVector<f64>) {
    let (rows, columns) = (plan.dims[t + 1], plan.dims[t]);
    let (w, b) = model.circuit().parameters(t).split_at(rows * columns);
    (
        DMatrix::from_column_slice(rows, columns, w),
        DVector::from_column_slice(b),
    )
}

fn linear_models() -> impl Iterator<Item = (Plan, Vec<f64>, DecoupledCircuit<f64>)> {
    (0..5).map(|seed| {
        let plan = Plan::uniform(&[3, 4, 2, 3, 2], Activation::Identity, OUTPUTS[0], seed);
        let penalties = vec![0.5, 2.0, 1.0 + seed as f64];
        let mut model = plan.model(&TargetInit::RandomNormal { std: 1.0, seed });
        model.set_penalties(&penalties).unwrap();
        settle(&mut model, 1e-12);
        (plan, penalties, model)
    })
}

#[test]
fn statement_5_the_minimum_of_a_linear_circuit_is_in_closed_form() {
    for (plan, penalties, model) in linear_models() {
        let depth = plan.depth();
        let size = plan.dims[depth];
        let mut s = DMatrix::<f64>::identity(size, size);
        let mut product = DMatrix::<f64>::identity(size, size);
        for t in (1..depth).rev() {
            product *= affine(&model, &plan, t).0;
            s += &product * product.transpose() / penalties[t - 1];
        }
        let (x, y) = plan.data();
        let residual: DMatrix<f64> = y - model.predict(&x).unwrap();
        let inverse = s.try_inverse().unwrap();
        let expected = 0.5 * (residual.transpose() * inverse * &residual).trace();
        let energy = model.energy().unwrap();
        assert!(expected > 0.01, "nothing to compare in {plan:?}");
        assert!((energy - expected).abs() < 1e-10, "{energy} of {plan:?}");
    }
}

#[test]
fn statement_6_the_minimiser_of_a_linear_circuit_solves_the_block_tridiagonal_system() {
    for (plan, mut penalties, model) in linear_models() {
        let depth = plan.depth();
        penalties.push(1.0);
        let mu = |t: usize| penalties[t - 1];
        let starts: Vec<usize> = (1..=depth).map(|t| plan.dims[1..t].iter().sum()).collect();
        let size = starts[depth - 1];
        let (x, y) = plan.data::<f64>();
        for example in 0..plan.examples {
            let mut h = DMatrix::zeros(size, size);
            let mut right = DVector::zeros(size);
            for t in 1..depth {
                let (w, b) = affine(&model, &plan, t);
                let (below, c) = affine(&model, &plan, t - 1);
                let (at, d) = (starts[t - 1], plan.dims[t]);
                let block = DMatrix::identity(d, d) * mu(t) + w.transpose() * &w * mu(t + 1);
                h.view_mut((at, at), (d, d)).copy_from(&block);
                let mut known = &c * mu(t) - w.transpose() * b * mu(t + 1);
                if t + 1 < depth {
                    let (next, above) = (starts[t], plan.dims[t + 1]);
                    let coupling = &w * -mu(t + 1);
                    h.view_mut((next, at), (above, d)).copy_from(&coupling);
                    h.view_mut((at, next), (d, above))
                        .copy_from(&coupling.transpose());
                } else {
                    known += w.transpose() * y.column(example) * mu(t + 1);
                }
                if t == 1 {
                    known += below * x.column(example) * mu(t);
                }
                right.rows_mut(at, d).copy_from(&known);
            }
            let solution = h.lu().solve(&right).unwrap();
            for t in 1..depth {
                let z = model.z(t).unwrap();
                let expected = solution.rows(starts[t - 1], plan.dims[t]);
                let error = (z.column(example) - expected).amax();
                assert!(error < 1e-10, "z_{t} of {plan:?}: {error}");
            }
        }
    }
}

fn statement_7_on<T: Scalar>(plan: &Plan, tolerance: f64) {
    let last = plan.depth() - 1;
    let start = plan.model::<T>(&TargetInit::ForwardPass);
    let backprop = start.backprop(&Selection::All).unwrap();
    let size: f64 = (0..plan.depth())
        .flat_map(|t| {
            start
                .z(t)
                .unwrap()
                .into_owned()
                .iter()
                .copied()
                .collect::<Vec<_>>()
        })
        .map(|h| h.as_f64().powi(2))
        .sum();
    for k in 0..=last {
        let mut model = start.clone();
        let solver = synchronous(k as u64, 1.0);
        model.solve_targets(&solver, &Selection::All).unwrap();
        let gradients = model.gradients(&Selection::All).unwrap();
        let own = &gradients.parameters[last - k];
        for (own, expected) in own.iter().zip(&backprop.parameters[last - k]) {
            let error = (*own - *expected).as_f64().abs();
            assert!(
                error <= tolerance * (1.0 + size.sqrt()),
                "layer {} of {plan:?}: {own} for {expected}",
                last - k
            );
        }
    }
}

#[test]
fn statement_7_unit_steps_give_backprop_layer_by_layer() {
    for case in 0..60 {
        for output in OUTPUTS {
            let plan = Plan::random(case, output);
            statement_7_on::<f64>(&plan, 1e-12);
            statement_7_on::<f32>(&plan, 5e-4);
        }
    }
}

#[test]
fn statement_8_fixed_predictions_give_backprop_in_every_layer() {
    for case in 0..40 {
        for output in OUTPUTS {
            let plan = Plan::random(case, output);
            let model = plan.model::<f64>(&TargetInit::ForwardPass);
            let (depth, n) = (plan.depth(), plan.examples);
            let backprop = model.backprop(&Selection::All).unwrap();
            // Predictions, and with them the points of the Jacobians, stay those of z = h.
            let problems: Vec<_> = (0..depth)
                .map(|t| model.local_problem(t, 0..n).unwrap())
                .collect();
            let mut workspaces: Vec<_> = problems.iter().map(|p| p.workspace()).collect();
            let mut points: Vec<_> = problems
                .iter()
                .zip(&mut workspaces)
                .map(|(problem, workspace)| problem.linearize(workspace))
                .collect();
            let h: Vec<Vec<f64>> = (0..depth)
                .map(|t| model.z(t).unwrap().iter().copied().collect())
                .collect();
            let mut z = h.clone();
            let y = model.z(depth).unwrap();
            let prediction = points[depth - 1].prediction();
            let mut error = DMatrix::from_column_slice(plan.dims[depth], n, prediction);
            if output == Output::CrossEntropy {
                for mut column in error.column_iter_mut() {
                    column.apply(|x| *x = x.exp());
                    let total = column.sum();
                    column /= total;
                }
            }
            error -= y;
            let cotangent = |z: &[Vec<f64>], t: usize| -> Vec<f64> {
                if t == depth - 1 {
                    return error.as_slice().to_vec();
                }
                h[t + 1].iter().zip(&z[t + 1]).map(|(h, z)| h - z).collect()
            };
            // One step more than needed: the result must stay.
            for _ in 0..depth {
                let before = z.clone();
                for t in 1..depth {
                    let mut pulled_back = vec![0.0; h[t].len()];
                    let back = Write::Set(&mut pulled_back);
                    points[t]
                        .vjp(&cotangent(&before, t), back, Write::Skip)
                        .unwrap();
                    for (i, g) in pulled_back.into_iter().enumerate() {
                        z[t][i] -= (before[t][i] - h[t][i]) + g;
                    }
                }
            }
            for (t, point) in points.iter_mut().enumerate() {
                let mut own = vec![0.0; backprop.parameters[t].len()];
                point
                    .vjp(&cotangent(&z, t), Write::Skip, Write::Set(&mut own))
                    .unwrap();
                let error = distance(&own, &backprop.parameters[t]);
                assert!(
                    error < 1e-12 * (1.0 + norm(&backprop.parameters[t])),
                    "layer {t} of {plan:?}: {error}"
                );
            }
        }
    }
}

/// A linear chain of T = 50 layers with J = μ = 1: input 0, output target 1, so min E = ½/50.
fn chain(depth: usize) -> DecoupledCircuit<f64> {
    let mut builder = Circuit::builder();
    for _ in 0..depth {
        let link = Dense::new(1, 1, Activation::Identity).unwrap();
        let one = Initializer::Constant { value: 1.0 };
        builder = builder.layer(link.without_bias().with_weights(one).unwrap());
    }
    let mut model = DecoupledCircuit::new(builder.build().unwrap(), Energy::default()).unwrap();
    let (x, y) = (DMatrix::zeros(1, 1), DMatrix::from_element(1, 1, 1.0));
    model
        .add_examples(&x, &y, &TargetInit::ForwardPass)
        .unwrap();
    model
}

#[test]
fn statement_10_a_step_that_suffices_for_a_sweep_diverges_synchronously() {
    let energy = |depth, solver: &dyn TargetSolver<f64>| {
        let mut model = chain(depth);
        assert_eq!(model.energy().unwrap(), 0.5);
        model.solve_targets(solver, &Selection::All).unwrap();
        model.energy().unwrap()
    };
    assert!(energy(50, &synchronous(200, 0.75)) > 1e6);

    let at_rest = |depth: usize, solver: &dyn TargetSolver<f64>| {
        let (found, expected) = (energy(depth, solver), 0.5 / depth as f64);
        let close = (found - expected).abs() < 1e-6;
        assert!(close, "{found} at depth {depth} by {solver:?}");
    };
    let sweeps = |number, step| ReverseSweep::new(number).with_step(step).unwrap();
    at_rest(50, &sweeps(8000, StepSize::Fixed(0.75)));
    let bounded = StepSize::Bounded { margin: 1.0 };
    for step in [bounded, StepSize::Bounded { margin: 1.5 }] {
        at_rest(20, &sweeps(1500, step));
    }
    // The bound of synchronous steps holds λ_max: those converge too, more slowly.
    at_rest(20, &SynchronousDescent::new(4000, bounded).unwrap());
}

#[test]
fn statement_10_bounded_steps_never_raise_the_energy() {
    for case in 0..100 {
        let mut plan = Plan::random(case, Output::Squared);
        for activation in &mut plan.activations {
            if *activation != Activation::Identity {
                *activation = Activation::Tanh;
            }
        }
        let inits = [
            TargetInit::ForwardPass,
            TargetInit::RandomNormal {
                std: 0.7,
                seed: case,
            },
        ];
        for init in inits {
            let bounded = StepSize::Bounded { margin: 1.0 };
            let mut solvers: [Box<dyn TargetSolver<f64>>; 2] = [
                Box::new(SynchronousDescent::new(1, bounded).unwrap()),
                Box::new(ReverseSweep::new(1)),
            ];
            for solver in &mut solvers {
                let mut model = plan.model(&init);
                let penalties: Vec<f64> = (1..plan.depth()).map(|t| 0.4 * t as f64).collect();
                model.set_penalties(&penalties).unwrap();
                let mut before = model.energy().unwrap();
                let start = before;
                for step in 0..30 {
                    model.solve_targets(&**solver, &Selection::All).unwrap();
                    let after = model.energy().unwrap();
                    assert!(
                        after <= before * (1.0 + 1e-13),
                        "step {step}: {before} to {after} by {solver:?} in {plan:?}"
                    );
                    before = after;
                }
                assert!(plan.depth() == 1 || before < start, "{plan:?}");
            }
        }
    }
}

fn solvers<T: Scalar>() -> Vec<Box<dyn TargetSolver<T>>> {
    let bounded = StepSize::Bounded { margin: 1.0 };
    let momentum = GradientDescent::new(0.05).unwrap();
    vec![
        Box::new(synchronous(3, 0.1)),
        Box::new(SynchronousDescent::new(3, bounded).unwrap()),
        Box::new(synchronous(3, 1.0).with_rule(momentum.with_momentum(0.9).unwrap())),
        Box::new(RedBlack::new(2)),
        Box::new(ErrorDescent::new(2)),
        Box::new(GaussNewton::new(2, 3)),
        Box::new(GaussNewton::direct(2)),
        Box::new(GaussNewton::cyclic_reduction(2)),
        Box::new(ReverseSweep::new(2)),
        Box::new(
            ReverseSweep::new(2)
                .with_step(StepSize::Fixed(0.1))
                .unwrap(),
        ),
    ]
}

fn statement_11_on<T: Scalar>(plan: &Plan, examples: &[usize]) {
    let start = plan.model::<T>(&TargetInit::RandomNormal { std: 0.5, seed: 1 });
    let (x, y) = plan.data::<T>();
    let n = plan.examples;
    let trajectory = |model: &DecoupledCircuit<T>, column: usize| -> Vec<u64> {
        (1..plan.depth())
            .flat_map(|t| bits(model.z(t).unwrap().into_owned().column(column).as_slice()))
            .collect()
    };
    for solver in &mut solvers::<T>() {
        let mut together = start.clone();
        together.solve_targets(&**solver, &Selection::All).unwrap();
        let moved = plan.depth() > 1;
        for &i in examples {
            let expected = trajectory(&together, i);
            assert_eq!(moved, expected != trajectory(&start, i));
            let rotated: Vec<u64> = (0..n).map(|k| ((i + k) % n) as u64).collect();
            let pair = [i as u64, ((i + 2) % n) as u64];
            let mut selections = vec![
                Selection::Columns(i..i + 1),
                Selection::Columns(0..i + 1),
                Selection::Columns(i..n),
                Selection::Examples(&rotated),
                Selection::Examples(&pair[..1]),
            ];
            if pair[0] != pair[1] {
                selections.push(Selection::Examples(&pair));
            }
            for selection in selections {
                let mut model = start.clone();
                model.solve_targets(&**solver, &selection).unwrap();
                assert_eq!(
                    trajectory(&model, i),
                    expected,
                    "example {i} in {selection:?} by {solver:?} in {plan:?}"
                );
            }
            // Alone in the circuit.
            let mut alone = DecoupledCircuit::new(start.circuit().clone(), plan.energy()).unwrap();
            let column = |m: &DMatrix<T>| m.columns(i, 1).into_owned();
            let own = (1..plan.depth())
                .map(|t| column(&start.z(t).unwrap().into_owned()))
                .collect();
            alone
                .add_examples(&column(&x), &column(&y), &TargetInit::Given(own))
                .unwrap();
            alone.solve_targets(&**solver, &Selection::All).unwrap();
            assert_eq!(trajectory(&alone, 0), expected, "example {i} of {plan:?}");
        }
    }
}

#[test]
#[cfg_attr(feature = "blas", ignore = "a BLAS sums by shape")]
fn statement_11_a_trajectory_does_not_depend_on_the_batch() {
    for case in 0..8 {
        let plan = Plan::random(case, OUTPUTS[case as usize % 2]);
        let examples: Vec<usize> = (0..plan.examples).step_by(1 + plan.examples / 6).collect();
        statement_11_on::<f64>(&plan, &examples);
        statement_11_on::<f32>(&plan, &examples);
    }
    // Widths at which libraries change their algorithm with the number of columns.
    for dims in [
        [70, 65, 130, 10],
        [17, 200, 3, 2],
        [1, 64, 129, 5],
        [1, 1, 1, 2],
    ] {
        let mut plan = Plan::uniform(&dims, Activation::Tanh, Output::CrossEntropy, 5);
        plan.examples = 9;
        // The first, and one that selections begin and end with at an uneven number.
        statement_11_on::<f64>(&plan, &[0, 6]);
        statement_11_on::<f32>(&plan, &[0, 6]);
    }
}

#[test]
fn statement_12_a_local_problem_knows_no_other_layer() {
    for case in 0..40 {
        let plan = Plan::random(case, OUTPUTS[case as usize % 2]);
        let model = plan.model::<f64>(&TargetInit::RandomNormal {
            std: 0.5,
            seed: case,
        });
        let n = plan.examples;
        let at = |model: &DecoupledCircuit<f64>, t: usize| {
            let local = model.local_problem(t, 0..n).unwrap().gradients();
            let parts = [
                vec![local.energy],
                local.parameters,
                local.input,
                local.target,
            ];
            bits(&parts.concat())
        };
        for s in 0..plan.depth() {
            let mut moved = model.clone();
            let shifted: Vec<f64> = model
                .circuit()
                .parameters(s)
                .iter()
                .map(|p| p + 0.1)
                .collect();
            moved.set_parameters(s, &shifted).unwrap();
            for t in 0..plan.depth() {
                assert_eq!(
                    at(&moved, t) == at(&model, t),
                    s != t,
                    "{s}, {t} of {plan:?}"
                );
            }
        }
    }
}
