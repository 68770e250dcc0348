//! Levenberg-Marquardt's damping: when it grows, falls, rests and wakes.

use crate::property::{Tested, generator, uniform};
use layerwise::decoupled::{Selection, TargetInit};
use layerwise::energy::{Energy, LocalProblem, Value};
use layerwise::kernel::Write;
use layerwise::layer::{Activation, Dense};
use layerwise::loss::{Loss, Pair, SquaredError};
use layerwise::nalgebra::DMatrix;
use layerwise::parameter_solver::{
    LeastSquares, LevenbergMarquardt, ParameterReport, ParameterSolver,
};
use layerwise::regularizer::Regularizer;
use layerwise::state::State;
use layerwise::{Circuit, DecoupledCircuit, Error, Scalar};

in_both_scalars!(
    a_layer_at_rest_keeps_its_damping_and_wakes,
    damping_falls_where_steps_succeed_and_grows_where_they_fail,
    damping_alone_brings_no_layer_to_rest,
    the_scale_of_the_energy_does_not_matter,
    inputs_of_any_unit_are_fitted,
    an_l1_regulariser_is_solved_to_its_kinks,
);

/// A layer of 3 to 2 units on 12 examples.
struct Fit<T> {
    layer: Dense,
    input: Vec<T>,
    target: Vec<T>,
    parameters: Vec<T>,
    state: State<T>,
}

impl<T: Scalar> Fit<T> {
    fn new(activation: Activation) -> Self {
        let mut rng = generator(3);
        Self {
            layer: Dense::new(3, 2, activation).unwrap(),
            input: uniform(&mut rng, 36, 1.0),
            target: uniform(&mut rng, 24, 0.5),
            parameters: uniform(&mut rng, 8, 0.5),
            state: State::new(),
        }
    }

    /// Targets that the layer can reach.
    fn reach(&mut self, seed: u64) {
        let parameters = uniform(&mut generator(seed), 8, 0.7);
        let loss = SquaredError;
        let problem = LocalProblem::new(
            &self.layer,
            &parameters,
            &loss,
            T::one(),
            &self.input,
            &self.target,
        )
        .unwrap();
        let mut workspace = problem.workspace();
        let there = problem.evaluate(Value, &mut workspace);
        self.target = there.prediction().to_vec();
    }

    /// One call, and ℓ after it.
    fn visit(&mut self, solver: LevenbergMarquardt) -> (ParameterReport, f64) {
        let mut own = self.parameters.clone();
        let problem = self.problem();
        let mut workspace = problem.workspace();
        let mut state = self.state.clone();
        let report = solver.solve(&mut state, &problem, &mut workspace, &mut own);
        (self.parameters, self.state) = (own, state);
        let problem = self.problem();
        let energy = problem.evaluate(Value, &mut workspace);
        (report.unwrap(), energy.energy().as_f64())
    }

    fn problem(&self) -> LocalProblem<'_, T> {
        let (layer, theta) = (&self.layer, &self.parameters);
        LocalProblem::new(
            layer,
            theta,
            &SquaredError,
            T::one(),
            &self.input,
            &self.target,
        )
        .unwrap()
    }

    fn damping(&self) -> f64 {
        self.state.values[0][0].as_f64()
    }
}

/// At convergence, with and without a residual, nothing moves, the damping least of all; new targets
/// are reached as fast as from a new state.
fn a_layer_at_rest_keeps_its_damping_and_wakes<T: Tested>() {
    for activation in [Activation::Identity, Activation::Tanh] {
        for reachable in [false, true] {
            let mut fit = Fit::<T>::new(activation);
            let name = format!("{activation:?}, {reachable}");
            if reachable {
                fit.reach(7);
            }
            let solver = LevenbergMarquardt::new(50, 20);
            let (report, least) = fit.visit(solver);
            assert!(report.steps < 25, "{name}: {report:?}");
            let (damping, at) = (fit.damping(), fit.parameters.clone());
            assert!(damping <= 1e-3, "{name}: {damping}");
            for _ in 0..50 {
                let (report, energy) = fit.visit(solver);
                // Rounding may leave a step or two.
                assert!(report.steps <= 3, "{name}: {report:?}");
                assert!(energy <= least);
            }
            assert!(
                fit.damping() <= damping.max(1e-3),
                "{name}: {}",
                fit.damping()
            );
            let moved = fit.parameters.iter().zip(&at).map(|(a, b)| (*a - *b).abs());
            let moved = moved.fold(T::zero(), T::max).as_f64();
            assert!(
                moved < 1e3 * T::default_epsilon().as_f64(),
                "{name}: {moved}"
            );

            fit.reach(11);
            let single = LevenbergMarquardt::new(1, 20);
            let before = fit.visit(LevenbergMarquardt::new(0, 20)).1;
            let visits = (1..20).find(|_| fit.visit(single).1 < 1e-6 * before);
            assert!(
                visits.is_some_and(|visits| visits <= 4),
                "{name}: {visits:?}"
            );
        }
    }
}

/// λ is divided by 4 where ℓ falls and multiplied by 8 where it does not.
fn damping_falls_where_steps_succeed_and_grows_where_they_fail<T: Tested>() {
    let mut fit = Fit::<T>::new(Activation::Tanh);
    let damped = |steps| {
        LevenbergMarquardt::new(steps, 20)
            .with_damping(1.0)
            .unwrap()
    };
    for (k, expected) in [0.25, 0.0625, 0.015_625].into_iter().enumerate() {
        let (report, _) = fit.visit(damped(1));
        assert_eq!((report.steps, report.accepted), (1, 1), "{k}");
        assert_eq!(fit.damping(), expected);
    }
    // Units that saturate: the whole step overshoots.
    let mut fit = Fit::<T>::new(Activation::Sigmoid);
    fit.parameters.iter_mut().for_each(|x| *x *= T::of(12.0));
    let plain = LevenbergMarquardt::new(1, 20).with_damping(0.0).unwrap();
    let mut expected = T::zero();
    let mut failed = 0;
    for _ in 0..12 {
        let (report, _) = fit.visit(plain);
        if report.steps == 0 {
            break;
        }
        expected = match report.accepted {
            0 => {
                failed += 1;
                (expected * T::of(8.0)).max(T::of(1e-3))
            }
            _ => expected * T::of(0.25),
        };
        assert_eq!(fit.damping(), expected.as_f64());
    }
    assert!(failed > 1, "{failed}");
}

/// Steps damped so far that rounding nearly hides them are steps all the same.
fn damping_alone_brings_no_layer_to_rest<T: Tested>() {
    let mut fit = Fit::<T>::new(Activation::Identity);
    let damping = 0.1 / T::default_epsilon().as_f64();
    let solver = LevenbergMarquardt::new(40, 20).with_damping(damping);
    let before = fit.visit(LevenbergMarquardt::new(0, 20)).1;
    fit.state = State::new();
    let (report, after) = fit.visit(solver.unwrap());
    assert!(report.accepted > 10 && after < 0.9 * before, "{report:?}");
}

/// |z − ẑ|, which has no curvature.
#[derive(Debug)]
struct Straight;

impl<T: Scalar> Loss<T> for Straight {
    fn free_target(&self) -> bool {
        true
    }

    fn scratch(&self, _: usize, _: usize) -> usize {
        0
    }

    fn evaluate(
        &self,
        at: &Pair<'_, T>,
        values: &mut [T],
        d_target: Write<'_, T>,
        d_prediction: Write<'_, T>,
        _: &mut [T],
    ) {
        let error = |i: usize| at.target[i] - at.prediction[i];
        for (j, value) in values.iter_mut().enumerate() {
            let own = j * at.dim..(j + 1) * at.dim;
            *value = own.fold(T::zero(), |sum, i| sum + error(i).abs());
        }
        d_target.each(|i| error(i).signum());
        d_prediction.each(|i| -error(i).signum());
    }

    fn curvature(
        &self,
        _: &Pair<'_, T>,
        _: Option<&[T]>,
        _: Option<&[T]>,
        out_target: Write<'_, T>,
        out_prediction: Write<'_, T>,
        _: &mut [T],
    ) {
        out_target.each(|_| T::zero());
        out_prediction.each(|_| T::zero());
    }
}

/// θ after some steps at μ.
fn moved_by<T: Scalar>(loss: &dyn Loss<T>, weight: f64, solver: LevenbergMarquardt) -> Vec<T> {
    let fit = Fit::<T>::new(Activation::Tanh);
    let theta = &fit.parameters;
    let problem = LocalProblem::new(
        &fit.layer,
        theta,
        loss,
        T::of(weight),
        &fit.input,
        &fit.target,
    )
    .unwrap();
    let (mut own, mut workspace) = (theta.clone(), problem.workspace());
    let report: Result<ParameterReport, Error> =
        solver.solve(&mut State::new(), &problem, &mut workspace, &mut own);
    assert!(report.unwrap().accepted > 0);
    own
}

/// μ scales ℓ, its gradient and G alike: a power of two changes no bit of θ, whatever ends the
/// iterations, and whether there is curvature or not.
fn the_scale_of_the_energy_does_not_matter<T: Tested>() {
    let solver = LevenbergMarquardt::new(3, 20);
    let cases: [(&dyn Loss<T>, LevenbergMarquardt); 3] = [
        (&SquaredError, solver),
        (&SquaredError, solver.with_tolerance(0.3).unwrap()),
        (&Straight, solver.with_damping(3.0).unwrap()),
    ];
    for (loss, solver) in cases {
        let expected = moved_by(loss, 1.0, solver);
        for exponent in [-20, -3, 5, 20] {
            let found = moved_by(loss, 2.0_f64.powi(exponent), solver);
            assert_eq!(found, expected, "2^{exponent}, {solver:?}");
        }
    }
}

/// The lasso: values at 0 stay while the gradient of the rest is within λ₁ n, the others balance it,
/// and the damping stays where it was.
fn an_l1_regulariser_is_solved_to_its_kinks<T: Tested>() {
    let (n, l1) = (30, 0.05);
    for activation in [Activation::Identity, Activation::Tanh] {
        let dense = Dense::new(8, 3, activation).unwrap();
        let circuit = Circuit::<T>::builder().layer(dense).seed(4).build();
        let regularizer = Regularizer::elastic(l1, 0.01).unwrap();
        let energy = Energy::new(SquaredError).with_parameter_regularizer(regularizer);
        let mut model = DecoupledCircuit::new(circuit.unwrap(), energy).unwrap();
        let mut rng = generator(9);
        let x = DMatrix::from_vec(8, n, uniform::<T>(&mut rng, 8 * n, 1.0));
        let y = DMatrix::from_vec(3, n, uniform::<T>(&mut rng, 3 * n, 0.8));
        model
            .add_examples(&x, &y, &TargetInit::ForwardPass)
            .unwrap();
        let (solver, mut state) = (LevenbergMarquardt::new(60, 30), State::new());
        let mut visit = |model: &mut DecoupledCircuit<T>| {
            let mut theta = model.circuit().parameters(0).to_vec();
            let problem = model.local_problem(0, 0..n).unwrap();
            let mut workspace = problem.workspace();
            let report = solver.solve(&mut state, &problem, &mut workspace, &mut theta);
            model.set_parameters(0, &theta).unwrap();
            (report.unwrap(), state.values[0][0].as_f64())
        };
        let (first, damping) = visit(&mut model);
        assert!(first.accepted > 2, "{first:?}");
        let again = (0..10).map(|_| visit(&mut model)).last().unwrap();
        assert!(again.0.steps <= 2, "{again:?}");
        assert!(again.1 <= damping.max(1e-3), "{again:?} after {damping}");
        let theta = model.circuit().parameters(0);
        let gradient = model.gradients(&Selection::All).unwrap().parameters;
        let (jump, near) = (l1 * n as f64, 30.0 * T::default_epsilon().as_f64().sqrt());
        // W; the bias has no regulariser.
        let (mut zeros, weights) = (0, 8 * 3);
        for (k, (&x, &g)) in theta.iter().zip(&gradient[0]).enumerate() {
            let most = if x.is_zero() && k < weights {
                jump
            } else {
                near
            };
            assert!(g.as_f64().abs() <= most + near, "θ_{k} = {x}: {g}");
            zeros += usize::from(x.is_zero());
        }
        assert!(
            (3..weights).contains(&zeros),
            "{activation:?}: {zeros} zeros"
        );
    }
}

#[test]
fn steps_in_f32_do_not_know_the_unit_of_the_data() {
    // A line through noise, its inputs and outputs in units of 2ᵏ: the slope has none.
    let slope = |k: i32| {
        let unit = 2_f32.powi(k);
        let layer = Dense::new(1, 1, Activation::Identity).unwrap();
        let circuit = Circuit::builder().layer(layer.without_bias());
        let mut model = DecoupledCircuit::new(circuit.build().unwrap(), Energy::default()).unwrap();
        let x = DMatrix::from_fn(1, 10, |_, j| j as f32 - 4.5);
        let y = DMatrix::from_fn(1, 10, |_, j| 2.0 * x[j] + (j % 3) as f32 - 1.0);
        let init = TargetInit::ForwardPass;
        model.add_examples(&(x * unit), &(y * unit), &init).unwrap();
        let solver = LevenbergMarquardt::new(4, 5);
        let report = model.solve_parameters(0, &solver, &Selection::All).unwrap();
        (model.circuit().parameters(0)[0], report)
    };
    let expected = slope(0);
    assert!((expected.0 - 2.0).abs() < 0.1 && expected.1.accepted > 0);
    for k in [-40, -20, 17, 40] {
        assert_eq!(slope(k), expected, "2^{k}");
    }
}

/// A line through the origin, its inputs in any unit that they have: the slope times the unit is 2,
/// though its curvature, the square of the unit, does not fit the scalar.
fn inputs_of_any_unit_are_fitted<T: Tested>() {
    let exponents = match T::default_epsilon().as_f64() > 1e-10 {
        true => [-18, -9, 0, 9, 18, 25, 34],
        false => [-153, -80, 0, 80, 153, 250, 303],
    };
    for exponent in exponents {
        for (weight, decay) in [(1.0, false), (1e-10, false), (1.0, true)] {
            let unit = 10.0_f64.powi(exponent);
            if T::of(weight * unit * unit.min(1.0)) < T::of(8.0) / T::max_value().unwrap() {
                continue; // The curvature underflows.
            }
            let layer = Dense::new(1, 1, Activation::Identity).unwrap();
            let circuit = Circuit::builder().layer(layer.without_bias());
            let mut energy = Energy::default();
            if decay {
                // As strong as the data, unless it does not fit.
                let largest = T::max_value().unwrap().as_f64().sqrt() / 100.0;
                if !(1.0 / largest..largest).contains(&unit) {
                    continue;
                }
                let l2 = Regularizer::l2(unit * unit * 10.41).unwrap();
                energy = energy.with_parameter_regularizer(l2);
            }
            let mut model = DecoupledCircuit::new(circuit.build().unwrap(), energy).unwrap();
            let at = |i: usize| ((7 * i) % 11) as f64 - 3.3;
            let x = DMatrix::from_fn(1, 20, |_, i| T::of(unit * at(i)));
            let y = DMatrix::from_fn(1, 20, |_, i| T::of(2.0 * at(i)));
            model
                .add_examples(&x, &y, &TargetInit::ForwardPass)
                .unwrap();
            model
                .set_example_weights(&Selection::All, &[T::of(weight); 20])
                .unwrap();
            model.set_parameters(0, &[T::zero()]).unwrap();
            let solver = LevenbergMarquardt::new(15, 10);
            let report = model.solve_parameters(0, &solver, &Selection::All);
            let slope = model.circuit().parameters(0)[0].as_f64() * unit;
            let square = (0..20).map(|i| at(i) * at(i)).sum::<f64>() / 20.0;
            let expected = 2.0 * square / (square + if decay { 10.41 } else { 0.0 });
            let name = format!("1e{exponent}, {weight}, {decay}: {report:?}");
            assert!(report.unwrap().accepted > 0, "{name}");
            assert!(
                (slope / expected - 1.0).abs() < 1e-3,
                "{slope}, {expected}: {name}"
            );
        }
    }
}

/// Weights beside a bias of another size, and strong damping beside weak curvature, keep no layer
/// from its minimum.
#[test]
fn scales_that_differ_bring_no_layer_to_rest() {
    fn residual<T: Scalar>(offset: f64, unit: f64, solver: &dyn ParameterSolver<T>) -> f64 {
        let mut rng = generator(12);
        let noise: Vec<f64> = uniform(&mut rng, 4 * 40, 1.0);
        let x = DMatrix::from_fn(3, 40, |i, j| T::of((noise[4 * j + i] + offset) * unit));
        let y = DMatrix::from_fn(1, 40, |_, j| {
            let own = &noise[4 * j..];
            T::of((own[0] - 2.0 * own[1] + 0.1 * own[3] + 0.5) * unit)
        });
        let dense = Dense::new(3, 1, Activation::Identity).unwrap();
        let circuit = Circuit::builder().layer(dense).build().unwrap();
        let mut model = DecoupledCircuit::new(circuit, Energy::default()).unwrap();
        model
            .add_examples(&x, &y, &TargetInit::ForwardPass)
            .unwrap();
        model.solve_parameters(0, solver, &Selection::All).unwrap();
        model.energy().unwrap().as_f64() / unit / unit
    }
    let solver = LevenbergMarquardt::new(200, 100);
    let exact = || LeastSquares::ridge(0.0).unwrap();
    for (offset, unit) in [(0.0, 1.0), (1e4, 1.0), (0.0, 1e-8), (0.0, 1e8)] {
        let found = residual::<f64>(offset, unit, &solver);
        let least = residual::<f64>(offset, unit, &exact());
        assert!(
            found < 1.00001 * least,
            "{offset}, {unit}: {found}, {least}"
        );
    }
    for (offset, unit) in [(0.0, 1.0), (30.0, 1.0), (0.0, 1e-8), (0.0, 1e6)] {
        let found = residual::<f32>(offset, unit, &solver);
        let least = residual::<f32>(offset, unit, &exact());
        assert!(found < 1.0001 * least, "{offset}, {unit}: {found}, {least}");
    }
}

/// At the kink of a ReLU no step lowers ℓ; new targets are reached as fast as from a new state.
#[test]
fn a_layer_at_the_kink_of_its_activation_wakes() {
    let layer = Dense::new(1, 1, Activation::Relu).unwrap().without_bias();
    let visit = |steps, state: &mut State<f64>, theta: &mut [f64], y: [f64; 2]| {
        let before = theta.to_vec();
        let x = [1.0, -1.0];
        let problem = LocalProblem::new(&layer, &before, &SquaredError, 1.0, &x, &y).unwrap();
        let mut workspace = problem.workspace();
        let solver = LevenbergMarquardt::new(steps, 10);
        solver
            .solve(state, &problem, &mut workspace, theta)
            .unwrap()
    };
    let (mut state, mut theta) = (State::new(), [0.7]);
    // The first call goes there; later ones find that no step helps.
    visit(200, &mut state, &mut theta, [-1.0, -1.0]);
    for _ in 0..5 {
        let report = visit(50, &mut state, &mut theta, [-1.0, -1.0]);
        assert!(report.steps < 30, "{report:?}");
    }
    assert!(state.values[0][0] <= 1.0, "{}", state.values[0][0]);
    assert!(theta[0] > 0.0 && theta[0] < 1e-6, "{}", theta[0]);
    (0..4).for_each(|_| {
        visit(1, &mut state, &mut theta, [3.0, -1.0]);
    });
    assert!((theta[0] - 3.0).abs() < 0.1, "{}", theta[0]);
}
