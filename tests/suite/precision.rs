//! Losses with parameters of their own inside a circuit: a Gaussian whose precision is learned by
//! layer. Their parameters stand behind those of the layer, are differentiated, trained, bounded
//! and left alone like them.

use layerwise::decoupled::{Selection, TargetInit};
use layerwise::energy::Energy;
use layerwise::gradcheck::GradCheck;
use layerwise::layer::{Activation, Dense};
use layerwise::loss::Gaussian;
use layerwise::nalgebra::DMatrix;
use layerwise::optimizer::{Adam, AdamW, GradientDescent};
use layerwise::regularizer::Regularizer;
use layerwise::target_solver::ReverseSweep;
use layerwise::training::{Backprop, Decoupling, Phase, Trainer};
use layerwise::{Circuit, DecoupledCircuit, Loss, Scalar};

const FLOOR: f64 = 0.01;

fn learned<T: Scalar>(precision: f64) -> Gaussian<T> {
    Gaussian::learned(T::of(precision), T::of(FLOOR)).unwrap()
}

/// Widths 2, 3, 2, 1; learned precisions everywhere, one for the whole of z_2.
fn model<T: Scalar>(regularizer: Regularizer) -> DecoupledCircuit<T> {
    let shared = Gaussian::learned_shared(T::of(0.8), T::of(FLOOR)).unwrap();
    let hidden: Vec<Box<dyn Loss<T>>> = vec![Box::new(learned::<T>(1.5)), Box::new(shared)];
    let circuit = Circuit::builder()
        .layer(Dense::new(2, 3, Activation::Tanh).unwrap())
        .layer(Dense::new(3, 2, Activation::Sigmoid).unwrap())
        .layer(Dense::new(2, 1, Activation::Identity).unwrap())
        .seed(4)
        .build()
        .unwrap();
    let energy = Energy::new(learned::<T>(2.0))
        .with_hidden_losses(hidden)
        .with_penalties(vec![T::of(1.3), T::of(0.7)])
        .with_parameter_regularizer(regularizer);
    let mut model = DecoupledCircuit::new(circuit, energy).unwrap();
    let x = DMatrix::from_fn(2, 20, |i, j| {
        T::of(((i + 1) * (j + 2) % 7) as f64 / 3.5 - 1.0)
    });
    let y = DMatrix::from_fn(1, 20, |_, j| T::of((j % 5) as f64 / 5.0));
    let init = TargetInit::NoisyForwardPass { std: 0.4, seed: 5 };
    model.add_examples(&x, &y, &init).unwrap();
    model
}

/// φ_t: what stands behind the layer's own parameters.
fn log_precisions<T: Scalar>(model: &DecoupledCircuit<T>, t: usize) -> Vec<f64> {
    let groups = model.circuit().parameter_groups(t);
    let group = groups.last().unwrap();
    assert_eq!(
        (group.name.as_str(), group.decays),
        ("log precision", false)
    );
    let own = &model.circuit().parameters(t)[group.range.clone()];
    own.iter().map(|x| x.as_f64()).collect()
}

#[test]
fn they_start_where_the_loss_says() {
    let model = model::<f64>(Regularizer::NONE);
    for (t, count, precision) in [(0, 3, 1.5_f64), (1, 1, 0.8), (2, 1, 2.0)] {
        let found = log_precisions(&model, t);
        assert_eq!(found, vec![precision.ln(); count], "t = {t}");
    }
    assert_eq!(model.circuit().parameters(0).len(), 3 * 2 + 3 + 3);
}

fn differentiated<T: Scalar>(tolerance: f64) {
    for regularizer in [Regularizer::NONE, Regularizer::l2(0.3).unwrap()] {
        let report = GradCheck::new().circuit(&model::<T>(regularizer)).unwrap();
        report.require(tolerance).unwrap();
    }
}

#[test]
fn all_gradients_agree_with_differences() {
    differentiated::<f64>(1e-6);
    differentiated::<f32>(5e-3);
}

/// Backprop trains the output's precision; those of hidden losses have no part in its objective.
#[test]
fn backprop_leaves_hidden_precisions_alone() {
    let mut model = model::<f64>(Regularizer::NONE);
    let before: Vec<_> = (0..3).map(|t| log_precisions(&model, t)).collect();
    let phase = Phase::new(Backprop, Adam::new(0.01).unwrap()).with_epochs(20);
    Trainer::new(phase).run(&mut model).unwrap();
    for (t, before) in before.into_iter().enumerate() {
        let moved = log_precisions(&model, t) != before;
        assert_eq!(moved, t == 2, "t = {t}");
    }
}

/// With targets held, every unit's precision comes to 1/(mean r² + ε).
#[test]
fn w_steps_find_the_precisions() {
    let mut model = model::<f64>(Regularizer::NONE);
    let phase = Phase::new(Decoupling::weights_only(), Adam::new(0.02).unwrap()).with_epochs(3000);
    Trainer::new(phase).run(&mut model).unwrap();
    for t in 0..3 {
        let circuit = model.circuit();
        let problem = model.local_problem(t, 0..20).unwrap();
        let mut workspace = problem.workspace();
        let at = problem.linearize(&mut workspace);
        let dim = circuit.dims()[t + 1];
        let prediction = DMatrix::from_column_slice(dim, 20, at.prediction());
        let residual = model.z(t + 1).unwrap() - prediction;
        let squares: Vec<f64> = residual
            .row_iter()
            .map(|row| row.norm_squared() / 20.0 + FLOOR)
            .collect();
        let found = log_precisions(&model, t);
        let expected = match found.len() == dim {
            true => squares,
            false => vec![squares.iter().sum::<f64>() / dim as f64],
        };
        for (found, variance) in found.iter().zip(expected) {
            let product = found.exp() * variance;
            assert!((product - 1.0).abs() < 1e-3, "t = {t}: {product}");
        }
    }
}

/// One sweep on a chain of single units, by hand: the step is 1/(π_1 + π_2 J²).
#[test]
fn bounded_steps_know_the_precisions() {
    let circuit = Circuit::<f64>::builder()
        .layer(
            Dense::new(1, 1, Activation::Identity)
                .unwrap()
                .without_bias(),
        )
        .layer(
            Dense::new(1, 1, Activation::Identity)
                .unwrap()
                .without_bias(),
        )
        .build()
        .unwrap();
    let energy = Energy::new(learned::<f64>(0.5)).with_hidden_loss(learned::<f64>(4.0));
    let mut model = DecoupledCircuit::new(circuit, energy).unwrap();
    let one = |value| DMatrix::from_element(1, 1, value);
    model.set_parameters(0, &[2.0, 4f64.ln()]).unwrap();
    model.set_parameters(1, &[3.0, 0.5f64.ln()]).unwrap();
    let given = TargetInit::Given(vec![one(2.5)]);
    model.add_examples(&one(1.0), &one(6.0), &given).unwrap();
    let sweep = ReverseSweep::new(1);
    model.solve_targets(&sweep, &Selection::All).unwrap();
    // π_1 (z − 2) + 3 π_2 (3z − 6) at z = 2.5.
    let gradient = 4.0 * 0.5 + 3.0 * 0.5 * 1.5;
    let expected = 2.5 - gradient / (4.0 + 0.5 * 9.0);
    let found = model.z(1).unwrap()[(0, 0)];
    // The layer's bound is above J² by a little, for rounding.
    assert!((found - expected).abs() < 1e-6, "{found}, not {expected}");
}

/// Neither a regulariser nor weight decay pulls at log precisions: they are no weights.
#[test]
fn they_do_not_decay() {
    // At its minimum of φ the precision has no gradient: r² + ε = 1/π.
    let circuit = Circuit::<f64>::builder()
        .layer(Dense::new(1, 1, Activation::Identity).unwrap())
        .build()
        .unwrap();
    let energy =
        Energy::new(learned::<f64>(4.0)).with_parameter_regularizer(Regularizer::l2(0.5).unwrap());
    let mut model = DecoupledCircuit::new(circuit, energy).unwrap();
    let one = |value| DMatrix::from_element(1, 1, value);
    let distance = (0.25f64 - FLOOR).sqrt();
    model.set_parameters(0, &[0.0, 0.0, 4f64.ln()]).unwrap();
    let forward = TargetInit::ForwardPass;
    model
        .add_examples(&one(0.0), &one(distance), &forward)
        .unwrap();
    let gradient = model.gradients(&Selection::All).unwrap();
    assert!(gradient.parameters[0][2].abs() < 1e-15);
    let decay = AdamW::new(Adam::new(0.1).unwrap())
        .with_weight_decay(0.5)
        .unwrap();
    let plain = Adam::new(0.1).unwrap();
    let mut decayed = model.clone();
    for (model, phase) in [
        (&mut model, Phase::new(Backprop, plain)),
        (&mut decayed, Phase::new(Backprop, decay)),
    ] {
        Trainer::new(phase.with_epochs(1)).run(model).unwrap();
    }
    assert_eq!(log_precisions(&model, 0), log_precisions(&decayed, 0));
    let still = GradientDescent::new(0.1).unwrap();
    let before = log_precisions(&model, 0);
    let mut moved = model.clone();
    Trainer::new(Phase::new(Backprop, still).with_epochs(1))
        .run(&mut moved)
        .unwrap();
    assert_ne!(log_precisions(&moved, 0), before, "a gradient moves them");
}
