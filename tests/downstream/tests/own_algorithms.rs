//! Ways to move parameters and targets that are one's own serve like those of the crate.

use downstream::{GradientStep, Normalised, Pairs, Rosenbrock, SignDescent, Sweep, Twice};
use layerwise::gradcheck::GradCheck;
use layerwise::layer::Patchwise;
use layerwise::nalgebra::DMatrix;
use layerwise::objective::Objective;
use layerwise::parameter_solver::ParameterSolver;
use layerwise::prelude::*;
use layerwise::target_solver::{Check, Convergence, Iterate};
use layerwise::training::WStep;

fn model() -> DecoupledCircuit<f64> {
    let circuit = Circuit::builder()
        .layer(Dense::new(2, 6, Activation::Tanh).unwrap())
        .layer(Dense::new(6, 4, Activation::Tanh).unwrap())
        .layer(Dense::new(4, 1, Activation::Identity).unwrap())
        .build()
        .unwrap();
    let x = DMatrix::from_fn(2, 20, |i, j| ((i + 1) * j % 9) as f64 / 4.0 - 1.0);
    let y = DMatrix::from_fn(1, 20, |_, j| (x[(0, j)] * x[(1, j)]).sin());
    let mut model = DecoupledCircuit::new(circuit, Energy::default()).unwrap();
    let init = TargetInit::NoisyForwardPass { std: 0.3, seed: 1 };
    model.add_examples(&x, &y, &init).unwrap();
    model
}

/// The composed loss before and after a run.
fn losses(phase: Phase<f64>) -> (f64, f64) {
    let mut model = model();
    let before = model.composed_loss().unwrap();
    Trainer::new(phase).run(&mut model).unwrap();
    (before, model.composed_loss().unwrap())
}

#[test]
fn a_convolution_over_ones_own_patches_passes_the_gradient_check() {
    let layer = Patchwise::over(Pairs(4), 3, Activation::Tanh).unwrap();
    let parameters: Vec<f64> = (0..9).map(|i| (i as f64 * 1.3).sin()).collect();
    let input: Vec<f64> = (0..8).map(|i| (i as f64 * 0.7).cos()).collect();
    let report = GradCheck::new().layer(&layer, &parameters, &input).unwrap();
    assert!(report.compared > 0);
    report.require(1e-6).unwrap();
}

#[test]
fn the_optimiser_moves_parameters_and_targets() {
    let joint = Decoupling::joint(SignDescent(1e-3));
    let (before, after) = losses(Phase::new(joint, SignDescent(3e-3)).with_epochs(300));
    assert!(after < 0.5 * before, "{before} to {after}");
}

#[test]
fn the_target_solver_lowers_the_energy() {
    let mut model = model();
    let before = model.energy().unwrap();
    let report = model.solve_targets(&Sweep(0.2), &Selection::All).unwrap();
    assert_eq!((report.steps, report.limited), (1, 20));
    assert!(model.energy().unwrap() < before);
    let scheme = Decoupling::refreshed(Sweep(0.2));
    let (before, after) = losses(Phase::new(scheme, Adam::new(1e-2).unwrap()).with_epochs(200));
    assert!(after < 0.3 * before, "{before} to {after}");
}

#[test]
fn the_descent_runs_in_the_crates_loop() {
    let mut model = model();
    let ends = Convergence::NEVER.with_stagnation(1e-6).unwrap();
    let solver = Iterate::new(100, Normalised(0.1))
        .with_check(Check::Rounding)
        .with_convergence(ends);
    let before = model.energy().unwrap();
    let report = model.solve_targets(&solver, &Selection::All).unwrap();
    assert!(model.energy().unwrap() < before);
    assert!(report.steps < 100 && report.stagnated == 20, "{report:?}");
}

#[test]
fn the_parameter_solver_solves_and_trains() {
    let mut model = model();
    let energy = model.energies().unwrap()[0];
    let solver = GradientStep(0.1);
    let report = model.solve_parameters(0, &solver, &Selection::All).unwrap();
    assert_eq!((report.steps, report.accepted), (1, 1));
    assert!(model.energies().unwrap()[0] < energy);

    // A state of one's own goes on from batch to batch.
    let (mut state, mut own) = (solver.start(), model.circuit().parameters(1).to_vec());
    for columns in [0..10, 10..20] {
        let problem = model.local_problem(1, columns).unwrap();
        let problem = problem.at_parameters(&own).unwrap();
        let (mut workspace, mut moved) = (problem.workspace(), own.clone());
        let report = solver.solve(&mut state, &problem, &mut workspace, &mut moved);
        assert_eq!(report.unwrap().accepted, 1);
        own = moved;
    }
    assert_eq!(state.values, [[0.4]]);

    let scheme = Decoupling::refreshed(ReverseSweep::new(1));
    let phase = Phase::with_w_step(scheme, WStep::solver(solver)).unwrap();
    let (before, after) = losses(phase.with_epochs(200));
    assert!(after < 0.5 * before, "{before} to {after}");
}

#[test]
fn the_scheme_trains() {
    let scheme = Twice(Sweep(0.2));
    let (before, after) = losses(Phase::new(scheme, Adam::new(1e-2).unwrap()).with_epochs(100));
    assert!(after < 0.3 * before, "{before} to {after}");
}

#[test]
fn the_scheme_refuses_what_it_cannot_do() {
    let refused = Phase::<f64>::with_w_step(Twice(Sweep(0.2)), WStep::none());
    assert!(matches!(refused, Err(Error::Combination { .. })));
}

#[test]
fn the_objective_passes_the_gradient_check() {
    let point = Objective::<f64>::point(&Rosenbrock);
    let report = GradCheck::new().objective(&Rosenbrock, &point).unwrap();
    assert_eq!(report.compared, 2);
    report.require(1e-6).unwrap();
    let error = Objective::<f64>::value(&Rosenbrock, &[1.0]);
    assert!(matches!(error, Err(Error::Length { .. })));
}
