//! The crate's generic code in `f32` and in `f64`, compiled together with the crate.
//!
//! At the tests' level of optimisation, a program links the code that a crate it depends on has
//! already compiled. So tests and examples share this copy, where each would otherwise compile its
//! own. Nobody calls it, and `build.rs` leaves it out for users.

use std::fmt::Debug;
use std::hint::black_box;

use nalgebra::DMatrix;

use crate::circuit::Circuit;
use crate::data::metrics;
use crate::decoupled::{DecoupledCircuit, Selection, TargetInit};
use crate::diagnostics::Diagnostics;
use crate::energy::Energy;
use crate::error::Error;
use crate::gradcheck::GradCheck;
use crate::kernel::Scalar;
use crate::layer::{Activation, Dense, Layer, Sequential};
use crate::loss::{
    BinaryCrossEntropy, ClassWeights, Gaussian, Huber, KullbackLeibler, LabelSmoothing, Loss, Pair,
    Poisson, PseudoHuber, SoftmaxCrossEntropy, SquaredError, WeightedSquaredError,
};
use crate::objective::{LocalObjective, Objective};
use crate::optimizer::{Adam, AdamW, GradientDescent, RmsProp};
use crate::parameter_solver::{LeastSquares, LevenbergMarquardt, ParameterSolver};
use crate::target_solver::{
    ErrorDescent, GaussNewton, RedBlack, ReverseSweep, StepSize, SynchronousDescent, TargetSolver,
};
use crate::theory;
use crate::training::{
    Backprop, Decoupling, FixedPrediction, PcAlm, Phase, Session, Trainer, WStep, ZIl,
};

/// What is compiled in `f32`.
pub fn in_f32(data: &DMatrix<f32>) -> Result<(), Error> {
    uses(data)
}

/// What is compiled in `f64`.
pub fn in_f64(data: &DMatrix<f64>) -> Result<(), Error> {
    uses(data)
}

/// Keeps what was computed, with all that it takes to print it.
fn shown(value: &dyn Debug) {
    black_box(format!("{value:?}"));
}

/// A program that uses most of the crate.
fn uses<T: Scalar>(data: &DMatrix<T>) -> Result<(), Error> {
    let mut model = model(data)?;
    for phase in phases()? {
        shown(&Trainer::new(phase).run(&mut model.clone()));
    }
    let backprop = Trainer::new(Phase::new(Backprop, Adam::new(0.1)?));
    shown(&Session::new(&backprop, model.clone())?.run()?);
    shown(&model.diagnose(&Diagnostics::new())?.to_string());
    shown(&(metrics::rmse(data, data)?, metrics::r_squared(data, data)?));
    for solver in target_solvers()? {
        model.solve_targets(&*solver, &Selection::All)?;
        theorems(&model, &*solver)?;
    }
    for solver in parameter_solvers()? {
        model.solve_parameters(0, &*solver, &Selection::All)?;
    }
    checks(&model, data)?;
    let predicted = [model.predict(data)?, model.predict_proba(data)?];
    shown(&(predicted, model.predict_labels(data)?));
    shown(&(model.energies()?, model.gap()?, &model));
    model.set_parameters(0, &[])?;
    model.set_targets(0, &Selection::All, data)?;
    model.set_joint_point(&Selection::All, &[])
}

fn model<T: Scalar>(data: &DMatrix<T>) -> Result<DecoupledCircuit<T>, Error> {
    let dense = Dense::new(2, 2, Activation::Tanh)?;
    let layers: Vec<Box<dyn Layer<T>>> = vec![Box::new(dense.clone())];
    let circuit = Circuit::builder()
        .layer(dense)
        .layer(Sequential::new(layers)?);
    let energy = Energy::default().with_hidden_losses(losses()?);
    let mut model = DecoupledCircuit::new(circuit.build()?, energy)?;
    model.add_examples(data, data, &TargetInit::ForwardPass)?;
    model.set_example_weights(&Selection::All, &[])?;
    Ok(model)
}

fn checks<T: Scalar>(model: &DecoupledCircuit<T>, data: &DMatrix<T>) -> Result<(), Error> {
    let check = GradCheck::new();
    check.circuit(model)?.require(0.1)?;
    let values = data.as_slice();
    check.layer(model.circuit().layer(0), values, values)?;
    let pair = Pair {
        dim: 1,
        target: values,
        prediction: values,
        parameters: values,
    };
    check.loss(model.terms().loss(1), &pair)?;
    check.curvature(model.terms().loss(1), &pair, true)?;
    let local = model.local_problem(0, 0..1)?;
    shown(&check.local_problem(&local).to_string());
    let all = Selection::All;
    let objectives: [&dyn Objective<T>; 4] = [
        &LocalObjective::new(local),
        &model.target_objective(&all)?,
        &model.joint_objective(&all)?,
        &model.composed_objective(&all)?,
    ];
    for objective in objectives {
        check.objective(objective, values)?;
    }
    Ok(())
}

fn theorems<T: Scalar>(
    model: &DecoupledCircuit<T>,
    solver: &dyn TargetSolver<T>,
) -> Result<(), Error> {
    let all = Selection::All;
    shown(&theory::linear_minimum(model, &all)?);
    shown(&theory::expanded_minimum(model, &all)?);
    shown(&theory::stationarity(model, &all)?);
    shown(&theory::forward_pass_deviations(model, &all)?);
    shown(&theory::batch_dependent_example(model, &all, solver)?);
    shown(&theory::layers_changed_by(model, &all, 0, &[])?);
    shown(&theory::gradient_reach(model, &all, solver)?);
    shown(&theory::z_il_gradients(model, &all)?);
    shown(&theory::fixed_prediction_gradients(model, &all, 1)?);
    shown(&theory::multiplier_rest(model, &all, &[])?);
    Ok(())
}

fn losses<T: Scalar>() -> Result<Vec<Box<dyn Loss<T>>>, Error> {
    let one = vec![T::one()];
    Ok(vec![
        Box::new(SquaredError),
        Box::new(WeightedSquaredError::new(one.clone())?),
        Box::new(Huber::new(1.0)?),
        Box::new(PseudoHuber::new(1.0)?),
        Box::new(Gaussian::new(one.clone())?),
        Box::new(SoftmaxCrossEntropy),
        Box::new(BinaryCrossEntropy),
        Box::new(KullbackLeibler),
        Box::new(Poisson),
        Box::new(LabelSmoothing::new(SoftmaxCrossEntropy, 0.1)?),
        Box::new(ClassWeights::new(one, SoftmaxCrossEntropy)?),
    ])
}

fn target_solvers<T: Scalar>() -> Result<Vec<Box<dyn TargetSolver<T>>>, Error> {
    Ok(vec![
        Box::new(ReverseSweep::new(1)),
        Box::new(RedBlack::new(1)),
        Box::new(ErrorDescent::new(1)),
        Box::new(SynchronousDescent::new(1, StepSize::Fixed(0.1))?),
        Box::new(GaussNewton::new(1, 1)),
    ])
}

fn parameter_solvers<T: Scalar>() -> Result<Vec<Box<dyn ParameterSolver<T>>>, Error> {
    Ok(vec![
        Box::new(LeastSquares::ridge(0.1)?),
        Box::new(LevenbergMarquardt::new(1, 1)),
    ])
}

fn phases<T: Scalar>() -> Result<Vec<Phase<T>>, Error> {
    let mut phases = vec![
        Phase::new(Backprop, Adam::new(0.1)?),
        Phase::new(FixedPrediction::new(), AdamW::new(Adam::new(0.1)?)),
        Phase::new(ZIl, RmsProp::new(0.1)?),
        Phase::new(PcAlm::new(1, ErrorDescent::new(1), 1.0)?, Adam::new(0.1)?),
    ];
    let schemes = [
        Decoupling::weights_only(),
        Decoupling::joint(GradientDescent::new(0.1)?),
        Decoupling::refreshed(SynchronousDescent::new(1, StepSize::Fixed(0.1))?),
        Decoupling::persistent(RedBlack::new(1)),
        Decoupling::residual(GaussNewton::new(1, 1)),
    ];
    for scheme in schemes {
        phases.push(Phase::with_w_step(
            scheme,
            WStep::solver(LeastSquares::ridge(0.1)?),
        )?);
    }
    Ok(phases)
}
