//! Circuits, models and runs that files are read into.

use layerwise::data::Standardizer;
use layerwise::decoupled::{Selection, TargetInit};
use layerwise::energy::Energy;
use layerwise::layer::{Activation, Dense, Sequential};
use layerwise::loss::{Gaussian, Huber, LabelSmoothing, SoftmaxCrossEntropy};
use layerwise::nalgebra::DMatrix;
use layerwise::optimizer::Adam;
use layerwise::parameter_solver::LevenbergMarquardt;
use layerwise::regularizer::Regularizer;
use layerwise::storage::Stored;
use layerwise::target_solver::ReverseSweep;
use layerwise::training::{Decoupling, PenaltyGrowth, Phase, Stopping, Trainer, WStep};
use layerwise::{Circuit, DecoupledCircuit};

pub fn wave<T: Stored>(rows: usize, n: usize) -> DMatrix<T> {
    DMatrix::from_fn(rows, n, |i, j| T::of((0.8 * j as f64 + i as f64).sin()))
}

/// A circuit of layers of each kind.
pub fn circuit<T: Stored>() -> Circuit<T> {
    let dense = |inputs, outputs| Dense::new(inputs, outputs, Activation::Tanh).unwrap();
    let pair = Sequential::<T>::new(vec![Box::new(dense(3, 2)), Box::new(dense(2, 2))]);
    Circuit::builder()
        .layer(dense(2, 3))
        .layer(pair.unwrap())
        .layer(Dense::new(2, 3, Activation::Identity).unwrap())
        .build()
        .unwrap()
}

/// A model with examples, weights, regularisers, and losses with options and parameters.
pub fn model<T: Stored>() -> DecoupledCircuit<T> {
    let classes = LabelSmoothing::new(SoftmaxCrossEntropy, 0.1).unwrap();
    let gaussian = Gaussian::learned(T::of(2.0), T::of(0.1)).unwrap();
    let energy = Energy::new(classes)
        .with_hidden_losses(vec![Box::new(gaussian), Box::new(Huber::new(0.5).unwrap())])
        .with_parameter_regularizer(Regularizer::elastic(0.01, 0.1).unwrap())
        .with_target_regularizer(Regularizer::l2(0.1).unwrap());
    let mut model = DecoupledCircuit::new(circuit(), energy).unwrap();
    let y = DMatrix::from_fn(3, 4, |i, j| T::of(f64::from(u8::from(i == j % 3))));
    let init = TargetInit::NoisyForwardPass { std: 0.2, seed: 3 };
    model.add_examples(&wave(2, 4), &y, &init).unwrap();
    let weights = [1.0, 0.5, 2.0, 1.0].map(T::of);
    model
        .set_example_weights(&Selection::All, &weights)
        .unwrap();
    model
}

/// A model of two dense layers without examples.
pub fn empty() -> DecoupledCircuit<f64> {
    let circuit = Circuit::builder()
        .layer(Dense::new(2, 3, Activation::Tanh).unwrap())
        .layer(Dense::new(3, 1, Activation::Identity).unwrap())
        .build()
        .unwrap();
    DecoupledCircuit::new(circuit, Energy::default()).unwrap()
}

/// The same with seven examples.
pub fn small() -> DecoupledCircuit<f64> {
    let mut model = empty();
    let init = TargetInit::NoisyForwardPass { std: 0.2, seed: 3 };
    model.add_examples(&wave(2, 7), &wave(1, 7), &init).unwrap();
    model
}

/// Trainers of [`small`] whose states differ in kind.
pub fn trainers() -> Vec<Trainer<f64>> {
    let adam = || Adam::new(1e-2).unwrap();
    let sweep = || ReverseSweep::new(1);
    let trainer = |scheme, w_step| {
        let stopping = Stopping::Validation {
            patience: 2,
            improvement: 0.0,
        };
        let phase = Phase::with_w_step(scheme, w_step).unwrap();
        let phase = phase.with_epochs(3).with_batch_size(3).unwrap();
        let phase = phase.with_stopping(stopping).unwrap();
        let phase = phase.with_penalty_growth(PenaltyGrowth::new(2).unwrap());
        let second = Phase::new(Decoupling::refreshed(sweep()), adam()).with_epochs(1);
        let trainer = Trainer::new(phase.unwrap()).then(second);
        trainer.with_validation(wave(2, 3), wave(1, 3))
    };
    vec![
        trainer(Decoupling::joint(adam()), WStep::optimizer(adam())),
        trainer(
            Decoupling::persistent(sweep()),
            WStep::optimizer(adam()).with_accumulation(2).unwrap(),
        ),
        trainer(
            Decoupling::residual(sweep()).with_multipliers(1.0).unwrap(),
            WStep::solver_of_layer(1, LevenbergMarquardt::new(1, 5)).with_optimizer(adam()),
        ),
    ]
}

/// A standardiser.
pub fn standardizer() -> Standardizer<f64> {
    Standardizer::fit(&wave(2, 7)).unwrap()
}
