//! Lagrange multipliers of the constraints z = ẑ: their term is differentiated, kept by example,
//! makes backprop's gradients for any μ, and is stable within the bound of the method and no further.

use std::sync::{Arc, Mutex};

use layerwise::decoupled::{Selection, TargetInit};
use layerwise::energy::{Energy, LocalProblem, LocalWorkspace, Value};
use layerwise::error::Quantity;
use layerwise::gradcheck::GradCheck;
use layerwise::layer::{Activation, Dense};
use layerwise::loss::{Gaussian, Huber, PseudoHuber, SquaredError};
use layerwise::nalgebra::DMatrix;
use layerwise::optimizer::{Adam, GradientDescent, Optimizer, Step};
use layerwise::parameter_solver::{ParameterReport, ParameterSolver};
use layerwise::state::State;
use layerwise::target_solver::{
    GaussNewton, ReverseSweep, SolveReport, StepSize, TargetProblem, TargetSolver,
};
use layerwise::training::{Decoupling, Phase, Scheme, Session, Trainer, Visit, WStep};
use layerwise::{Circuit, DecoupledCircuit, Error, Loss, Scalar, presets};

const EXAMPLES: usize = 9;

/// θ stays.
#[derive(Debug, Clone, Copy)]
struct Frozen;

impl<T: Scalar> Optimizer<T> for Frozen {
    fn slots(&self) -> usize {
        0
    }

    fn update(&self, _: Step, _: &mut [T], _: &[T], _: &mut [T]) {}
}

fn dense(input: usize, output: usize, activation: Activation) -> Dense {
    Dense::new(input, output, activation).unwrap()
}

fn model(penalty: f64) -> DecoupledCircuit<f64> {
    model_of(Activation::Tanh, penalty)
}

/// Widths 2, 4, 3, 1, every example with a weight of its own.
fn model_of(activation: Activation, penalty: f64) -> DecoupledCircuit<f64> {
    let circuit = Circuit::builder()
        .layer(dense(2, 4, activation))
        .layer(dense(4, 3, activation))
        .layer(dense(3, 1, Activation::Identity))
        .seed(2)
        .build()
        .unwrap();
    let energy = Energy::default().with_penalty(penalty);
    let mut model = DecoupledCircuit::new(circuit, energy).unwrap();
    let x = DMatrix::from_fn(2, EXAMPLES, |i, j| ((2 * i + 3 * j) % 7) as f64 / 3.5 - 1.0);
    let y = DMatrix::from_fn(1, EXAMPLES, |_, j| (j % 4) as f64 / 2.0 - 0.8);
    let init = TargetInit::NoisyForwardPass { std: 0.2, seed: 3 };
    model.add_examples(&x, &y, &init).unwrap();
    let weights: Vec<f64> = (0..EXAMPLES).map(|i| 0.5 + i as f64 / 5.0).collect();
    model
        .set_example_weights(&Selection::All, &weights)
        .unwrap();
    model
}

fn differentiated<T: Scalar>(tolerance: f64) {
    let layer = dense(3, 2, Activation::Sigmoid);
    let values = |count: usize, seed: usize| -> Vec<T> {
        let entry = |i: usize| ((seed + 7 * i) % 13) as f64 / 6.5 - 1.0;
        (0..count).map(|i| T::of(entry(i))).collect()
    };
    let (parameters, input, target) = (values(8, 1), values(12, 2), values(8, 3));
    let (multipliers, weights) = (values(8, 5), [0.5, 1.0, 2.0, 3.0].map(T::of));
    let problem = |multipliers| {
        let penalty = T::of(1.7);
        LocalProblem::new(&layer, &parameters, &SquaredError, penalty, &input, &target)
            .and_then(|problem| problem.with_example_weights(&weights))
            .and_then(|problem| problem.with_multipliers(multipliers))
            .unwrap()
    };
    let shifted = problem(&multipliers);
    let report = GradCheck::new().local_problem(&shifted);
    report.require(tolerance).unwrap();
    // The term itself: Σᵢ wᵢ λᵢ·(zᵢ − ẑᵢ).
    let mut workspace = shifted.workspace();
    let prediction = shifted.linearize(&mut workspace).prediction().to_vec();
    let zero = vec![T::zero(); 8];
    let term = (0..8).fold(0.0, |sum, k| {
        let gap = (target[k] - prediction[k]).as_f64();
        sum + (weights[k / 2] * multipliers[k]).as_f64() * gap
    });
    let difference = (shifted.energy() - problem(&zero).energy()).as_f64();
    assert!(
        (difference - term).abs() < tolerance,
        "{difference}, {term}"
    );
}

#[test]
fn their_term_agrees_with_differences() {
    differentiated::<f64>(1e-6);
    differentiated::<f32>(5e-3);
}

/// θ stays, and the gradients that the last step got are noted: on one thread, layer after layer.
#[derive(Debug, Clone, Default)]
struct Noting {
    /// The number of the step, and its gradient.
    last: Arc<Mutex<(u64, Vec<f64>)>>,
}

impl Optimizer<f64> for Noting {
    fn slots(&self) -> usize {
        0
    }

    fn update(&self, step: Step, _: &mut [f64], gradient: &[f64], _: &mut [f64]) {
        let mut last = self.last.lock().unwrap();
        if last.0 != step.number {
            *last = (step.number, Vec::new());
        }
        last.1.extend_from_slice(gradient);
    }
}

/// Statement 9: at the fixed point z is the forward pass, and the gradients are backprop's.
#[test]
fn at_rest_the_gradients_are_those_of_backprop_for_any_penalty() {
    // On a linear circuit any μ will do. On a curved one a small μ does not make up for what
    // λ·f″ takes from the curvature, and the steps do not come to rest.
    let (linear, curved) = (Activation::Identity, Activation::Tanh);
    for (activation, penalty) in [
        (linear, 0.1),
        (linear, 4.0),
        (curved, 1.0),
        (curved, 2.0),
        (curved, 16.0),
    ] {
        let mut model = model_of(activation, penalty);
        let scheme = Decoupling::persistent(ReverseSweep::new(4))
            .with_multipliers(1.0)
            .unwrap();
        let rule = Noting::default();
        let phase = Phase::new(scheme, rule.clone()).with_epochs(3000);
        Trainer::new(phase)
            .with_measure_every(0)
            .run(&mut model)
            .unwrap();
        let gaps = model.gap().unwrap();
        assert!(
            gaps.iter().all(|gap| *gap < 1e-9),
            "μ = {penalty}: {gaps:?}"
        );
        let backprop = model.backprop(&Selection::All).unwrap().parameters.concat();
        let (_, found) = &*rule.last.lock().unwrap();
        assert_eq!(found.len(), backprop.len());
        for (found, exact) in found.iter().zip(&backprop) {
            let error = (found - exact).abs();
            assert!(error < 1e-8, "μ = {penalty}: {found}, not {exact}");
        }
    }
}

/// For other hidden losses too, and with Gauss-Newton steps: all that counts is that L_h is least at z = ẑ.
#[test]
fn at_rest_the_gradients_are_those_of_backprop_for_any_hidden_loss() {
    type Make = fn() -> Box<dyn Loss<f64>>;
    let losses: [Make; 3] = [
        || Box::new(PseudoHuber::new(1.0).unwrap()),
        || Box::new(Gaussian::new(vec![1.5]).unwrap()),
        || Box::new(Huber::new(0.8).unwrap()),
    ];
    for loss in losses {
        let circuit = Circuit::builder()
            .layer(dense(2, 4, Activation::Tanh))
            .layer(dense(4, 3, Activation::Tanh))
            .layer(dense(3, 1, Activation::Identity))
            .seed(2)
            .build()
            .unwrap();
        let energy = Energy::default()
            .with_hidden_losses(vec![loss(), loss()])
            .with_penalty(4.0);
        let mut model = DecoupledCircuit::new(circuit, energy).unwrap();
        let x = DMatrix::from_fn(2, EXAMPLES, |i, j| ((2 * i + 3 * j) % 7) as f64 / 3.5 - 1.0);
        let y = DMatrix::from_fn(1, EXAMPLES, |_, j| (j % 4) as f64 / 2.0 - 0.8);
        let init = TargetInit::NoisyForwardPass { std: 0.2, seed: 3 };
        model.add_examples(&x, &y, &init).unwrap();
        let scheme = Decoupling::persistent(GaussNewton::direct(3))
            .with_multipliers(1.0)
            .unwrap();
        let rule = Noting::default();
        let phase = Phase::new(scheme, rule.clone()).with_epochs(300);
        Trainer::new(phase)
            .with_measure_every(0)
            .run(&mut model)
            .unwrap();
        let gaps = model.gap().unwrap();
        let name = format!("{:?}", loss());
        assert!(gaps.iter().all(|gap| *gap < 1e-9), "{name}: {gaps:?}");
        let backprop = model.backprop(&Selection::All).unwrap().parameters.concat();
        let (_, found) = &*rule.last.lock().unwrap();
        assert_eq!(found.len(), backprop.len());
        for (found, exact) in found.iter().zip(&backprop) {
            let error = (found - exact).abs();
            assert!(error < 1e-8, "{name}: {found}, not {exact}");
        }
    }
}

/// A chain of two linear units with one example: the mode has σ = 1 and b = v².
fn chain(penalty: f64, v: f64) -> DecoupledCircuit<f64> {
    let unit = || dense(1, 1, Activation::Identity).without_bias();
    let builder = Circuit::builder().layer(unit()).layer(unit());
    let energy = Energy::default().with_penalty(penalty);
    let mut model = DecoupledCircuit::new(builder.build().unwrap(), energy).unwrap();
    let one = |value| DMatrix::from_element(1, 1, value);
    model.set_parameters(0, &[1.0]).unwrap();
    model.set_parameters(1, &[v]).unwrap();
    let given = TargetInit::Given(vec![one(1.5)]);
    model.add_examples(&one(1.0), &one(3.0), &given).unwrap();
    model
}

fn phase(step: f64, rate: f64) -> Phase<f64> {
    let sweep = ReverseSweep::new(1)
        .with_step(StepSize::Fixed(step))
        .unwrap();
    let scheme = Decoupling::persistent(sweep)
        .with_multipliers(rate)
        .unwrap();
    Phase::new(scheme, Frozen)
}

/// z ← z − η (μ (z − ẑ) + λ − v (y − v z)), then λ ← λ + α μ (z − ẑ).
#[test]
fn three_visits_by_hand() {
    let (penalty, v, step, rate) = (2.0, 1.5, 0.1, 0.7);
    let mut model = chain(penalty, v);
    Trainer::new(phase(step, rate).with_epochs(3))
        .run(&mut model)
        .unwrap();
    let (mut z, mut lambda) = (1.5, 0.0);
    for _ in 0..3 {
        z -= step * (penalty * (z - 1.0) + lambda - v * (3.0 - v * z));
        lambda += rate * penalty * (z - 1.0);
    }
    let found = model.z(1).unwrap()[(0, 0)];
    assert!((found - z).abs() < 1e-14, "{found}, not {z}");
}

/// The bound η (2h + αμσ²) < 4 with h = μσ² + b: within it the gap closes, beyond it it grows.
#[test]
fn the_bound_on_the_rate_is_sharp() {
    let (penalty, v) = (2.0, 1.5);
    let h = penalty + v * v;
    for share in [0.2, 0.45] {
        let step = 2.0 * share / h;
        let bound = (4.0 / step - 2.0 * h) / penalty;
        let gap = |rate: f64| {
            let mut model = chain(penalty, v);
            match Trainer::new(phase(step, rate).with_epochs(2000))
                .run(&mut model)
                .map_err(Error::from)
            {
                Ok(_) => model.gap().unwrap()[0],
                Err(Error::NonFinite { .. }) => f64::INFINITY,
                Err(other) => panic!("{other}"),
            }
        };
        let (inside, outside) = (gap(0.95 * bound), gap(1.05 * bound));
        assert!(inside < 1e-9, "ηh = {}: gap {inside}", 2.0 * share);
        assert!(outside > 1e3, "ηh = {}: gap {outside}", 2.0 * share);
    }
}

/// With θ held an example's targets take the same way in any minibatches: its λ are its own.
#[test]
fn they_are_kept_by_example() {
    let train = |batch: usize, seed: u64| {
        let mut model = model(1.0);
        let scheme = Decoupling::persistent(ReverseSweep::new(1))
            .with_multipliers(1.0)
            .unwrap();
        let phase = Phase::new(scheme, Frozen)
            .with_epochs(6)
            .with_batch_size(batch)
            .unwrap();
        Trainer::new(phase).with_seed(seed).run(&mut model).unwrap();
        [
            model.z(1).unwrap().into_owned(),
            model.z(2).unwrap().into_owned(),
        ]
    };
    let whole = train(EXAMPLES, 0);
    for (batch, seed) in [(1, 1), (4, 2), (4, 3)] {
        assert_eq!(train(batch, seed), whole, "batches of {batch}");
    }
}

/// Also where the solver works on parts of the batch: 40 examples, 32 at a time.
#[test]
fn they_are_those_of_the_part() {
    let train = |batch: usize| {
        let circuit = Circuit::builder()
            .layer(dense(2, 4, Activation::Tanh))
            .layer(dense(4, 3, Activation::Tanh))
            .layer(dense(3, 1, Activation::Identity));
        let energy = Energy::default().with_penalty(2.0);
        let mut model = DecoupledCircuit::new(circuit.build().unwrap(), energy).unwrap();
        let x = DMatrix::from_fn(2, 40, |i, j| ((2 * i + 3 * j) % 41) as f64 / 20.0 - 1.0);
        let y = DMatrix::from_fn(1, 40, |_, j| (j % 37) as f64 / 20.0 - 0.8);
        model
            .add_examples(&x, &y, &TargetInit::ForwardPass)
            .unwrap();
        let scheme = Decoupling::persistent(GaussNewton::direct(1))
            .with_multipliers(1.0)
            .unwrap();
        let phase = Phase::new(scheme, Frozen)
            .with_epochs(4)
            .with_batch_size(batch)
            .unwrap();
        Trainer::new(phase).run(&mut model).unwrap();
        [
            model.z(1).unwrap().into_owned(),
            model.z(2).unwrap().into_owned(),
        ]
    };
    let whole = train(40);
    assert_eq!(train(7), whole);
    assert_eq!(train(1), whole);
}

/// Where the penalty alone leaves a gap, the multipliers close it, and the circuit learns.
#[test]
fn admm_closes_the_gap_that_the_penalty_leaves() {
    let train = |phase: Phase<f64>| {
        let mut model = model(1.0);
        let before = model.composed_loss().unwrap();
        Trainer::new(phase.with_epochs(1500))
            .run(&mut model)
            .unwrap();
        let loss = model.composed_loss().unwrap();
        assert!(loss < 0.5 * before, "{before} to {loss}");
        let gaps = model.gap().unwrap();
        gaps.iter().map(|gap| gap * gap).sum::<f64>().sqrt()
    };
    let rule = || Adam::new(1e-3).unwrap();
    let sweep = || ReverseSweep::new(3);
    let penalty = train(Phase::new(Decoupling::persistent(sweep()), rule()));
    let multipliers = train(presets::admm(sweep(), rule()));
    assert!(multipliers < 0.3 * penalty, "{penalty} to {multipliers}");
}

#[test]
fn what_does_not_fit_is_refused() {
    for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let error = Decoupling::<f64>::persistent(ReverseSweep::new(1)).with_multipliers(rate);
        let option = "Decoupling::multipliers";
        assert!(
            matches!(&error, Err(Error::InvalidOption { option: o, .. }) if *o == option),
            "{error:?}"
        );
    }
    let layer = dense(1, 2, Activation::Tanh);
    let parameters = [0.5; 4];
    let problem = LocalProblem::new(&layer, &parameters, &SquaredError, 1.0, &[1.0], &[0.0; 2]);
    let problem = problem.unwrap();
    let length = problem.with_multipliers(&[1.0]).unwrap_err();
    assert!(
        matches!(
            length,
            Error::Length {
                expected: 2,
                found: 1,
                ..
            }
        ),
        "{length}"
    );
    let finite = problem.with_multipliers(&[1.0, f64::NAN]).unwrap_err();
    let multiplier = Quantity::Multiplier;
    assert!(
        matches!(finite, Error::NonFiniteData { quantity, row: 1, column: 0, .. } if quantity == multiplier),
        "{finite}"
    );
    assert!(
        finite
            .to_string()
            .contains("multiplier of layer 1 at row 1, column 0 is NaN"),
        "{finite}"
    );
}

/// λ takes the new z and the ẑ that the Z-step saw, as in Algorithm 1 of Taylor et al. 2016, where W_L, z_L
/// and λ follow in a circle: three visits by hand in which θ moves, and what would come of the ẑ after.
fn the_order_by_hand<T: Scalar>(tolerance: f64) {
    let unit = || dense(1, 1, Activation::Identity).without_bias();
    let builder = Circuit::<T>::builder().layer(unit()).layer(unit());
    let mut model = DecoupledCircuit::new(builder.build().unwrap(), Energy::default()).unwrap();
    let one = |value| DMatrix::from_element(1, 1, T::of(value));
    model.set_parameters(0, &[T::one()]).unwrap();
    model.set_parameters(1, &[T::one()]).unwrap();
    model
        .add_examples(&one(1.0), &one(2.0), &TargetInit::ForwardPass)
        .unwrap();
    let sweep = ReverseSweep::new(1)
        .with_step(StepSize::Fixed(0.25))
        .unwrap();
    let scheme = Decoupling::persistent(sweep).with_multipliers(1.0).unwrap();
    let rate = 0.5;
    let phase = Phase::new(scheme, GradientDescent::new(rate).unwrap()).with_epochs(3);
    let trainer = Trainer::new(phase);
    let mut session = Session::new(&trainer, model).unwrap();
    let by_hand = |after: bool| {
        let (mut w, mut v, mut z, mut lambda) = (1.0, 1.0, 1.0, 0.0);
        [0; 3].map(|_| {
            z -= 0.25 * ((z - w) + lambda - v * (2.0 - v * z));
            let (seen, slopes) = (w, [(z - w) + lambda, (2.0 - v * z) * z]);
            w += rate * slopes[0];
            v += rate * slopes[1];
            lambda += z - if after { w } else { seen };
            z
        })
    };
    let (expected, other) = (by_hand(false), by_hand(true));
    assert!((expected[1] - 1.21649).abs() < 1e-5 && (other[1] - 1.24774).abs() < 1e-5);
    for z in expected {
        session.epoch().unwrap();
        let found = session.model().z(1).unwrap()[(0, 0)].as_f64();
        assert!((found - z).abs() < tolerance, "{found}, not {z}");
    }
}

#[test]
fn their_step_takes_the_prediction_that_the_z_step_saw() {
    the_order_by_hand::<f64>(1e-14);
    the_order_by_hand::<f32>(1e-6);
}

/// Solvers of targets and of parameters that note the energies that they are given.
#[derive(Debug, Clone, Default)]
struct Energies(Arc<Mutex<Vec<f64>>>);

impl<T: Scalar> TargetSolver<T> for Energies {
    fn solve(
        &self,
        _: &mut State<T>,
        problem: &mut TargetProblem<'_, T>,
    ) -> Result<SolveReport, Error> {
        let energy = problem.evaluate(Value).energy().as_f64();
        self.0.lock().unwrap().push(energy);
        Ok(SolveReport::new(1, problem.batch().len()))
    }
}

impl<T: Scalar> ParameterSolver<T> for Energies {
    fn check(&self, _: &LocalProblem<'_, T>) -> Result<(), Error> {
        Ok(())
    }

    fn solve(
        &self,
        _: &mut State<T>,
        problem: &LocalProblem<'_, T>,
        _: &mut LocalWorkspace<T>,
        _: &mut [T],
    ) -> Result<ParameterReport, Error> {
        self.0.lock().unwrap().push(problem.energy().as_f64());
        Ok(ParameterReport::default())
    }
}

/// Gives the visit multipliers, and lets both solvers see its problem.
#[derive(Debug)]
struct Given<T>(Energies, Vec<Vec<T>>);

impl<T: Scalar> Scheme<T> for Given<T> {
    fn visit(&self, state: &mut State<T>, visit: &mut Visit<'_, T>) -> Result<T, Error> {
        visit.set_multipliers(&self.1)?;
        TargetSolver::solve(&self.0, state, &mut visit.target_problem())?;
        visit.evaluate()?.step()
    }
}

fn seen_by_all<T: Scalar>(tolerance: f64) {
    let unit = |input, output| dense(input, output, Activation::Tanh);
    let builder = Circuit::<T>::builder().layer(unit(2, 3)).layer(unit(3, 1));
    let mut model = DecoupledCircuit::new(builder.build().unwrap(), Energy::default()).unwrap();
    let x = DMatrix::from_fn(2, 4, |i, j| T::of((i + j) as f64 / 4.0));
    let given = TargetInit::RandomNormal { std: 1.0, seed: 1 };
    model
        .add_examples(&x, &DMatrix::zeros(1, 4), &given)
        .unwrap();
    let lambda = vec![
        (0..12)
            .map(|i| T::of((2.1 * i as f64).cos()))
            .collect::<Vec<T>>(),
    ];
    let (targets, parameters) = (Energies::default(), Energies::default());
    let w_step = WStep::solver(parameters.clone()).with_steps(2).unwrap();
    let scheme = Given(targets.clone(), lambda.clone());
    let phase = Phase::with_w_step(scheme, w_step).unwrap().with_epochs(1);
    let problem = model
        .problem(0..4)
        .unwrap()
        .with_multipliers(&lambda)
        .unwrap();
    let own = [0, 1].map(|t| problem.local(t).energy().as_f64());
    let without = model.problem(0..4).unwrap().local(0).energy().as_f64();
    assert!((own[0] - without).abs() > 0.1);
    Trainer::new(phase).run(&mut model).unwrap();
    let close = |found: &[f64], expected: &[f64]| {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!(
                (found - expected).abs() < tolerance,
                "{found}, not {expected}"
            );
        }
    };
    close(&targets.0.lock().unwrap(), &[own[0] + own[1]]);
    close(&parameters.0.lock().unwrap(), &[own, own].concat());
}

/// Multipliers that a visit was given are in every problem and every step of it, of solvers too.
#[test]
fn solvers_see_the_multipliers_of_the_visit() {
    seen_by_all::<f64>(1e-12);
    seen_by_all::<f32>(1e-4);
}

/// A rate is refused where it is 0 or ∞ in the circuit's scalar.
#[test]
fn a_rate_must_fit_the_scalar() {
    fn check<T: Scalar>(rate: f64) -> Result<(), Error> {
        let circuit = Circuit::<T>::builder()
            .layer(dense(1, 2, Activation::Tanh))
            .layer(dense(2, 1, Activation::Identity));
        let mut model = DecoupledCircuit::new(circuit.build()?, Energy::default())?;
        let one = DMatrix::from_element(1, 3, T::one());
        model.add_examples(&one, &one, &TargetInit::ForwardPass)?;
        let scheme = Decoupling::persistent(ReverseSweep::new(1)).with_multipliers(rate)?;
        Trainer::new(Phase::new(scheme, Adam::new(1e-3)?)).check(&model)
    }
    for rate in [1e-50, 1e39] {
        let refused = check::<f32>(rate);
        let named = matches!(&refused, Err(Error::InvalidOption { value, .. }) if *value == rate);
        assert!(named, "{rate}: {refused:?}");
        check::<f64>(rate).unwrap();
    }
    check::<f32>(1.0).unwrap();
}
