//! The objectives under argmin's optimisers: known optima are reached, and runs that go wrong end and
//! leave the model as it was.

use argmin::core::{
    ArgminFloat, CostFunction, Executor, IterState, Solver, State, TerminationReason,
};
use argmin::solver::linesearch::condition::ArmijoCondition;
use argmin::solver::linesearch::{BacktrackingLineSearch, MoreThuenteLineSearch};
use argmin::solver::quasinewton::LBFGS;
use layerwise::decoupled::{Selection, TargetInit};
use layerwise::energy::Energy;
use layerwise::layer::{Activation, Dense};
use layerwise::loss::Poisson;
use layerwise::nalgebra::{DMatrix, DVector};
use layerwise::objective::{LocalObjective, Objective};
use layerwise::regularizer::Regularizer;
use layerwise::{Circuit, DecoupledCircuit, Error, Scalar};

type Own<T> = IterState<Vec<T>, Vec<T>, (), (), (), T>;
type MoreThuente<T> = MoreThuenteLineSearch<Vec<T>, Vec<T>, T>;
type Minimizer<T> = LBFGS<MoreThuente<T>, Vec<T>, Vec<T>, T>;

/// L-BFGS with More and Thuente's line search, until the gradient's norm is below `tolerance`.
fn minimize<T, O>(objective: O, tolerance: f64) -> Own<T>
where
    T: Scalar + ArgminFloat,
    O: Objective<T>,
    Minimizer<T>: Solver<O, Own<T>>,
{
    let start = objective.point();
    let solver = LBFGS::new(MoreThuenteLineSearch::new(), 10)
        .with_tolerance_grad(T::of(tolerance))
        .unwrap()
        .with_tolerance_cost(T::of(0.0))
        .unwrap();
    Executor::new(objective, solver)
        .configure(|state| state.param(start).max_iters(400))
        .run()
        .unwrap()
        .state
}

fn best<T: Scalar + ArgminFloat>(state: &Own<T>) -> &[T] {
    state.get_best_param().expect("a start is a point")
}

/// Rectangular data whose least-squares problem is well posed.
fn data<T: Scalar>(inputs: usize, outputs: usize, n: usize) -> (DMatrix<T>, DMatrix<T>) {
    let wave = |i: usize, j: usize, k: f64| T::of((k * (1 + i) as f64 * (j + 1) as f64).sin());
    (
        DMatrix::from_fn(inputs, n, |i, j| wave(i, j, 0.71)),
        DMatrix::from_fn(outputs, n, |i, j| wave(i, j, 1.93)),
    )
}

fn linear<T: Scalar>(widths: &[usize], l2: f64, n: usize) -> DecoupledCircuit<T> {
    let mut builder = Circuit::builder().seed(3);
    for pair in widths.windows(2) {
        builder = builder.layer(Dense::new(pair[0], pair[1], Activation::Identity).unwrap());
    }
    let hidden = 1..widths.len() - 1;
    let energy = Energy::default()
        .with_penalties(hidden.map(|t| T::of(0.5 * t as f64)).collect())
        .with_parameter_regularizer(Regularizer::l2(l2).unwrap());
    let mut model = DecoupledCircuit::new(builder.build().unwrap(), energy).unwrap();
    let (x, y) = data(widths[0], widths[widths.len() - 1], n);
    let random = TargetInit::RandomNormal { std: 1.0, seed: 4 };
    model.add_examples(&x, &y, &random).unwrap();
    model
}

/// The distance of L-BFGS's end on a linear layer's local problem to the least-squares solution of
/// nalgebra's, example weights included.
fn error_of_a_linear_w_step<T>(tolerance: f64) -> f64
where
    T: Scalar + ArgminFloat,
    for<'a> Minimizer<T>: Solver<LocalObjective<'a, T>, Own<T>>,
{
    let (inputs, outputs, n) = (3, 2, 9);
    let mut model = linear::<T>(&[4, inputs, outputs], 0.0, n);
    let weights: Vec<T> = (0..n).map(|i| T::of(0.5 + i as f64 / 4.0)).collect();
    model
        .set_example_weights(&Selection::All, &weights)
        .unwrap();
    let run = minimize(
        LocalObjective::new(model.local_problem(1, 0..n).unwrap()),
        tolerance,
    );
    // Rows √w (z, 1), right-hand sides √w y.
    let number = |v: &T| v.as_f64();
    let root = |i: usize| number(&weights[i]).sqrt();
    let (z, y) = (model.z(1).unwrap(), model.z(2).unwrap());
    let a = DMatrix::<f64>::from_fn(n, inputs + 1, |i, j| {
        root(i)
            * z.column(i)
                .iter()
                .chain([&T::one()])
                .map(number)
                .nth(j)
                .unwrap()
    });
    let b = DMatrix::from_fn(n, outputs, |i, j| root(i) * number(&y[(j, i)]));
    let solution = a.svd(true, true).solve(&b, 1e-12).unwrap();
    let mut expected: Vec<f64> = solution.rows(0, inputs).transpose().as_slice().to_vec();
    expected.extend(solution.row(inputs).iter());
    let found: Vec<f64> = best(&run).iter().map(number).collect();
    assert_eq!(found.len(), expected.len());
    (DVector::from_vec(found) - DVector::from_vec(expected)).amax()
}

#[test]
fn a_linear_w_step_is_least_squares() {
    let error = error_of_a_linear_w_step::<f64>(1e-10);
    assert!(error < 1e-9, "f64: {error}");
    let error = error_of_a_linear_w_step::<f32>(1e-5);
    assert!(error < 1e-4, "f32: {error}");
}

/// Statement 5: the Z-step of a linear circuit ends at ½ rᵀ S⁻¹ r, S = I + Σ_t P_t P_tᵀ/μ_t,
/// P_t = W_{T−1} ⋯ W_t, r = y − forward pass.
#[test]
fn a_linear_z_step_ends_at_its_minimum() {
    let (widths, n) = ([3, 5, 4, 2], 6);
    let mut model = linear::<f64>(&widths, 0.0, n);
    let (x, y) = data(3, 2, n);
    let mut s = DMatrix::<f64>::identity(2, 2);
    let mut p = DMatrix::<f64>::identity(2, 2);
    for t in (1..3).rev() {
        let own = model.circuit().parameters(t);
        let weights = &own[..widths[t] * widths[t + 1]];
        p *= DMatrix::from_column_slice(widths[t + 1], widths[t], weights);
        s += &p * p.transpose() / model.terms().penalties()[t - 1];
    }
    let residual = y - model.predict(&x).unwrap();
    let inverse = s.try_inverse().unwrap();
    let expected = 0.5 * (residual.transpose() * inverse * &residual).trace();
    let run = minimize(model.target_objective(&Selection::All).unwrap(), 1e-10);
    let point = best(&run).to_vec();
    model.set_target_point(&Selection::All, &point).unwrap();
    let error = (model.energy().unwrap() / expected - 1.0).abs();
    assert!(error < 1e-10, "{error}");
}

/// With weight decay E has a minimum in θ and z together; there the circuit's own gradients vanish, and
/// by statement 5 E is that of the Z-step's minimum at the found θ.
#[test]
fn a_joint_run_comes_to_rest() {
    let (widths, n) = ([3, 4, 2], 7);
    let mut model = linear::<f64>(&widths, 0.05, n);
    let before = model.energy().unwrap();
    let run = minimize(model.joint_objective(&Selection::All).unwrap(), 1e-9);
    let point = best(&run).to_vec();
    model.set_joint_point(&Selection::All, &point).unwrap();
    let after = model.energy().unwrap();
    assert!(after < 0.9 * before, "{before} to {after}");
    assert!((after - run.get_best_cost()).abs() < 1e-12 * after);
    let gradients = model.gradients(&Selection::All).unwrap();
    let z = gradients.targets.iter().flat_map(|g| g.iter());
    let all = gradients.parameters.iter().flatten().chain(z);
    let largest = all.fold(0.0, |top: f64, g| top.max(g.abs()));
    assert!(largest < 1e-8, "{largest}");

    let (x, y) = data(3, 2, n);
    let w = DMatrix::from_column_slice(2, 4, &model.circuit().parameters(1)[..8]);
    let s = DMatrix::identity(2, 2) + &w * w.transpose() / model.terms().penalties()[0];
    let residual = y - model.predict(&x).unwrap();
    let decay: f64 = (0..2)
        .map(|t| {
            let weights = &model.circuit().parameters(t)[..widths[t] * widths[t + 1]];
            0.5 * 0.05 * weights.iter().map(|w| w * w).sum::<f64>()
        })
        .sum();
    let inverse = s.try_inverse().unwrap();
    let errors = 0.5 * (residual.transpose() * inverse * &residual).trace();
    let expected = errors + n as f64 * decay;
    assert!(
        (after / expected - 1.0).abs() < 1e-10,
        "{after}, {expected}"
    );
}

/// A circuit of one layer has no targets: its composed loss is its local problem.
#[test]
fn the_composed_objective_of_one_layer_is_its_local_one() {
    let model = linear::<f64>(&[3, 2], 0.1, 8);
    let composed = minimize(model.composed_objective(&Selection::All).unwrap(), 1e-9);
    let local = LocalObjective::new(model.local_problem(0, 0..8).unwrap());
    let local = minimize(local, 1e-9);
    assert_eq!(best(&composed), best(&local));
    assert_eq!(composed.get_best_cost(), local.get_best_cost());
}

/// A model whose loss e^ẑ overflows for a step along the whole gradient.
fn steep() -> DecoupledCircuit<f64> {
    let circuit = Circuit::builder()
        .layer(Dense::new(2, 1, Activation::Identity).unwrap())
        .build();
    let mut model = DecoupledCircuit::new(circuit.unwrap(), Energy::new(Poisson)).unwrap();
    let x = DMatrix::from_fn(2, 5, |i, j| 10.0 * (1 + i + j) as f64);
    let y = DMatrix::from_fn(1, 5, |_, j| 100.0 * (j + 1) as f64);
    model
        .add_examples(&x, &y, &TargetInit::ForwardPass)
        .unwrap();
    model.set_parameters(0, &[0.01, -0.01, 0.0]).unwrap();
    model
}

/// A cost that overflows is +∞: a backtracking search steps back from it, and the run goes on.
#[test]
fn a_backtracking_search_steps_back_from_an_overflow() {
    let model = steep();
    let objective = model.composed_objective(&Selection::All).unwrap();
    let (start, first) = (
        objective.point(),
        Objective::gradient(&objective, &objective.point()),
    );
    let step = start.iter().zip(first.unwrap()).map(|(x, g)| x - g);
    assert_eq!(objective.cost(&step.collect()).unwrap(), f64::INFINITY);
    let before = objective.value(&start).unwrap();
    let armijo = ArmijoCondition::new(1e-4).unwrap();
    let search = BacktrackingLineSearch::new(armijo).rho(0.5).unwrap();
    let run = Executor::new(objective, LBFGS::new(search, 5))
        .configure(|state| state.param(start).max_iters(30))
        .run()
        .unwrap()
        .state;
    let after = run.get_best_cost();
    assert!(after < 0.5 * before, "{before} to {after}");
}

/// Where the line search asks for a gradient that is not finite, the run ends at its best point, and
/// says why.
#[test]
fn an_overflow_in_the_gradient_ends_the_run() {
    let model = steep();
    let parameters = model.circuit().parameters(0).to_vec();
    let run = minimize(model.composed_objective(&Selection::All).unwrap(), 1e-9);
    match run.get_termination_reason() {
        Some(TerminationReason::SolverExit(reason)) => {
            assert!(reason.contains("became non-finite"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(best(&run), parameters);
    assert_eq!(model.circuit().parameters(0), parameters);
}

/// Errors that no line search can mend are the run's own.
#[test]
fn a_start_that_does_not_fit_is_an_error() {
    let model = steep();
    for (start, named) in [
        (vec![0.0; 2], "expected length 3, found 2"),
        (vec![0.0, f64::NAN, 0.0], "is NaN"),
    ] {
        let objective = model.composed_objective(&Selection::All).unwrap();
        let search = MoreThuenteLineSearch::new();
        let error = Executor::new(objective, LBFGS::new(search, 5))
            .configure(|state| state.param(start))
            .run()
            .map(|_| ())
            .unwrap_err();
        assert!(error.to_string().contains(named), "{error}");
        assert!(error.downcast_ref::<Error>().is_some());
    }
}
