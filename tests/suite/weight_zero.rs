//! An example of weight 0 changes nothing, and its own targets stay.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::amortized::amortized;
use crate::property::{Tested, generator, uniform};
use layerwise::data::{Dataset, InMemory};
use layerwise::decoupled::{DecoupledCircuit, Selection, TargetInit};
use layerwise::diagnostics::Diagnostics;
use layerwise::energy::{Energy, Workspace};
use layerwise::gradcheck::GradCheck;
use layerwise::layer::{Activation, Dense, LayerNorm, Sequential};
use layerwise::loss::SoftmaxCrossEntropy;
use layerwise::nalgebra::DMatrix;
use layerwise::objective::Objective;
use layerwise::optimizer::{Adam, AdamW, GradientDescent};
use layerwise::parameter_solver::{
    LeastSquares, LevenbergMarquardt, NormalEquations, ParameterSolver,
};
use layerwise::regularizer::Regularizer;
use layerwise::target_solver::{
    Convergence, ErrorDescent, GaussNewton, RedBlack, ReverseSweep, StepSize, SynchronousDescent,
    TargetSolver,
};
use layerwise::training::{
    Backprop, Decoupling, ErrorShare, FixedPrediction, PcAlm, PenaltyGrowth, Phase, Scheme,
    Session, Targets, Trainer, WStep, ZIl, ZStep,
};
use layerwise::{Circuit, Error, Layer, Scalar, theory};

const N: usize = 11;

const DIMS: [usize; 4] = [3, 4, 4, 2];

/// Columns of weight 0: the first, the last, and two between.
const LEFT_OUT: [usize; 4] = [0, 3, 4, N - 1];

fn model<T: Scalar>(softmax: bool, regularised: bool) -> DecoupledCircuit<T> {
    let dense = |input, output, activation| Dense::new(input, output, activation).unwrap();
    let circuit = Circuit::builder()
        .layer(dense(3, 4, Activation::Tanh))
        .layer(dense(4, 4, Activation::Tanh))
        .layer(dense(4, 2, Activation::Identity));
    let energy = match softmax {
        true => Energy::new(SoftmaxCrossEntropy),
        false => Energy::default(),
    };
    let energy = match regularised {
        true => energy
            .with_parameter_regularizer(Regularizer::l2(0.1).unwrap())
            .with_target_regularizer(Regularizer::l2(0.1).unwrap()),
        false => energy,
    };
    let mut model = DecoupledCircuit::new(circuit.build().unwrap(), energy).unwrap();
    let x = DMatrix::from_vec(3, N, uniform::<T>(&mut generator(1), 3 * N, 1.0));
    let y = DMatrix::from_fn(2, N, |i, j| T::of(f64::from(u8::from(j % 2 == i))));
    let init = TargetInit::NoisyForwardPass { std: 0.3, seed: 2 };
    model.add_examples(&x, &y, &init).unwrap();
    model
}

/// With the same positive weights: the examples left out by weight 0, and removed.
fn pair<T: Scalar>(softmax: bool, regularised: bool, ones: bool) -> [DecoupledCircuit<T>; 2] {
    let mut left_out = model::<T>(softmax, regularised);
    let mut removed = left_out.clone();
    removed
        .remove_examples(&LEFT_OUT.map(|i| i as u64))
        .unwrap();
    let weight = |i: usize| match LEFT_OUT.contains(&i) {
        true => T::zero(),
        false if ones => T::one(),
        false => T::of(0.5 + i as f64 / 4.0),
    };
    let weights: Vec<T> = (0..N).map(weight).collect();
    left_out
        .set_example_weights(&Selection::All, &weights)
        .unwrap();
    let kept: Vec<T> = weights.into_iter().filter(|w| !w.is_zero()).collect();
    removed.set_example_weights(&Selection::All, &kept).unwrap();
    [left_out, removed]
}

fn kept() -> Vec<usize> {
    (0..N).filter(|i| !LEFT_OUT.contains(i)).collect()
}

/// θ is the same in bits, and so are the targets of the examples that are not left out.
#[track_caller]
fn assert_same<T: Scalar>(
    left_out: &DecoupledCircuit<T>,
    removed: &DecoupledCircuit<T>,
    what: &str,
) {
    for t in 0..3 {
        let (own, other) = (left_out.circuit(), removed.circuit());
        assert_eq!(own.parameters(t), other.parameters(t), "{what}: layer {t}");
        let (own, other) = (left_out.z(t).unwrap(), removed.z(t).unwrap());
        assert_eq!(own.select_columns(&kept()), other, "{what}: z_{t}");
    }
    assert_eq!(
        left_out.terms().penalties(),
        removed.terms().penalties(),
        "{what}"
    );
}

/// The targets of the examples left out.
fn resting<T: Scalar>(model: &DecoupledCircuit<T>) -> Vec<DMatrix<T>> {
    (1..3)
        .map(|t| model.z(t).unwrap().select_columns(&LEFT_OUT))
        .collect()
}

type AnyScheme<T> = Arc<dyn Scheme<T>>;

fn schemes<T: Scalar>(dims: &[usize]) -> Vec<AnyScheme<T>> {
    let sweep = || ReverseSweep::new(2);
    let slow = || {
        GradientDescent::new(0.1)
            .unwrap()
            .with_momentum(0.5)
            .unwrap()
    };
    vec![
        Arc::new(Backprop) as AnyScheme<T>,
        Arc::new(Decoupling::refreshed(sweep())),
        Arc::new(amortized(dims)),
        Arc::new(Decoupling::persistent(sweep())),
        Arc::new(Decoupling::residual(sweep())),
        Arc::new(
            Decoupling::persistent(sweep())
                .with_multipliers(0.5)
                .unwrap(),
        ),
        Arc::new(Decoupling::joint(slow())),
        Arc::new(Decoupling::joint(Adam::new(0.05).unwrap())),
        Arc::new(Decoupling::weights_only()),
        Arc::new(Decoupling::new(Targets::Projected { seed: 5 }, ZStep::None).unwrap()),
        Arc::new(Decoupling::new(Targets::Persistent, ZStep::Along(StepSize::Fixed(0.2))).unwrap()),
        Arc::new(Decoupling::persistent(RedBlack::new(2))),
        Arc::new(Decoupling::persistent(ErrorDescent::new(2))),
        Arc::new(PcAlm::new(3, ErrorDescent::new(1), 0.5).unwrap()),
        Arc::new(
            PcAlm::new(4, ReverseSweep::new(2), 0.5)
                .unwrap()
                .with_acceleration(2)
                .unwrap(),
        ),
        Arc::new(Decoupling::persistent(GaussNewton::new(2, 3))),
        Arc::new(Decoupling::persistent(GaussNewton::direct(2))),
        Arc::new(ZIl),
        Arc::new(FixedPrediction::new()),
    ]
}

in_both_scalars!(
    training_is_that_without_them,
    solvers_of_targets_leave_them,
    solvers_of_parameters_ignore_them,
    sums_do_not_contain_them,
    means_do_not_contain_them,
);

/// In batches and as a whole, with every record.
fn training_is_that_without_them<T: Tested>() {
    for scheme in schemes::<T>(&DIMS) {
        for size in [N, 7, 3, 1] {
            let what = format!("{scheme:?}, batches of {size}");
            let [mut left_out, mut removed] = pair::<T>(false, false, size == 3);
            let rule = AdamW::new(Adam::new(0.01).unwrap());
            let phase = Phase::new(scheme.clone(), rule).with_epochs(3);
            let trainer = Trainer::new(phase.with_batch_size(size).unwrap());
            let before = resting(&left_out);
            let own = trainer.run(&mut left_out).unwrap();
            let other = trainer.run(&mut removed).unwrap();
            assert_same(&left_out, &removed, &what);
            assert_eq!(own.history, other.history, "{what}");
            assert_eq!(own.steps, other.steps, "{what}");
            assert_eq!(resting(&left_out), before, "{what}");
        }
    }
}

fn solvers_of_targets_leave_them<T: Tested>() {
    let ends = Convergence::NEVER
        .with_tolerance(1e-3)
        .unwrap()
        .with_stagnation(1e-3)
        .unwrap();
    let adam = Adam::new(0.05).unwrap();
    let fixed = StepSize::Fixed(0.1);
    let solvers: Vec<Box<dyn TargetSolver<T>>> = vec![
        Box::new(ReverseSweep::new(3)),
        Box::new(ReverseSweep::new(3).with_convergence(ends)),
        Box::new(RedBlack::new(3)),
        Box::new(ErrorDescent::new(3)),
        Box::new(SynchronousDescent::new(3, StepSize::Checked(0.5)).unwrap()),
        Box::new(SynchronousDescent::new(3, fixed).unwrap()),
        Box::new(SynchronousDescent::new(3, fixed).unwrap().with_rule(adam)),
        Box::new(GaussNewton::new(3, 4)),
        Box::new(GaussNewton::chained(3, 4).with_convergence(ends)),
        Box::new(GaussNewton::direct(3)),
        Box::new(GaussNewton::cyclic_reduction(3)),
    ];
    for solver in solvers {
        for softmax in [false, true] {
            let what = format!("{solver:?}");
            let [mut left_out, mut removed] = pair::<T>(softmax, true, false);
            let before = resting(&left_out);
            left_out.solve_targets(&*solver, &Selection::All).unwrap();
            removed.solve_targets(&*solver, &Selection::All).unwrap();
            assert_same(&left_out, &removed, &what);
            assert_eq!(resting(&left_out), before, "{what}");
            // Nothing but examples of weight 0.
            let ids = LEFT_OUT.map(|i| i as u64);
            let selection = Selection::Examples(&ids);
            left_out.solve_targets(&*solver, &selection).unwrap();
            assert_eq!(resting(&left_out), before, "{what}");
        }
    }
}

fn solvers_of_parameters_ignore_them<T: Tested>() {
    let squares = LeastSquares::ridge(0.1).unwrap();
    let solvers: Vec<Box<dyn ParameterSolver<T>>> = vec![
        Box::new(squares),
        Box::new(squares.with_proximal(0.5).unwrap()),
        Box::new(LevenbergMarquardt::new(2, 4)),
    ];
    for solver in solvers {
        for t in 0..3 {
            let [mut left_out, mut removed] = pair::<T>(false, true, false);
            left_out
                .solve_parameters(t, &*solver, &Selection::All)
                .unwrap();
            removed
                .solve_parameters(t, &*solver, &Selection::All)
                .unwrap();
            let own = left_out.circuit().parameters(t).iter();
            for (a, b) in own.zip(removed.circuit().parameters(t)) {
                let error = (*a - *b).as_f64().abs();
                assert!(error < 100.0 * T::ROUNDING, "{solver:?}, {t}: {a}, not {b}");
            }
        }
    }
    // Batches of nothing else.
    let mut equations = NormalEquations::<T>::new(1, 1, true).unwrap();
    let values = [1.0, 2.0, 4.0].map(T::of);
    equations
        .add(&values, &values, Some(&[T::zero(); 3]))
        .unwrap();
    let mut solution = [T::zero(); 2];
    let none = equations.solve(0.0, 0.0, &mut solution).unwrap_err();
    assert!(matches!(none, Error::NoExamples { .. }), "{none}");
    equations.add(&values, &values, None).unwrap();
    equations
        .add(&values[..1], &values[1..2], Some(&[T::zero()]))
        .unwrap();
    equations.solve(0.0, 0.0, &mut solution).unwrap();
    assert!(
        (solution[0].as_f64() - 1.0).abs() < 100.0 * T::ROUNDING,
        "{solution:?}"
    );
}

fn sums_do_not_contain_them<T: Tested>() {
    let [left_out, removed] = pair::<T>(true, true, false);
    let near = |a: T, b: T| {
        let size = b.as_f64().abs().max(1.0);
        assert!((a - b).as_f64().abs() <= T::ROUNDING * size, "{a}, not {b}");
    };
    near(left_out.energy().unwrap(), removed.energy().unwrap());
    near(
        left_out.composed_loss().unwrap(),
        removed.composed_loss().unwrap(),
    );
    let gradients = |model: &DecoupledCircuit<T>| model.gradients(&Selection::All).unwrap();
    let (own, other) = (gradients(&left_out), gradients(&removed));
    for (own, other) in own.parameters.iter().zip(&other.parameters) {
        own.iter().zip(other).for_each(|(a, b)| near(*a, *b));
    }
    for (own, other) in own.targets.iter().zip(&other.targets) {
        assert_eq!(own.select_columns(&kept()), *other);
        assert!(own.select_columns(&LEFT_OUT).iter().all(|g| g.is_zero()));
    }
    let [left_out, removed] = pair::<T>(true, false, false);
    let minimum = |model| theory::expanded_minimum(model, &Selection::All).unwrap();
    near(minimum(&left_out), minimum(&removed));
    let report = left_out.diagnose(&Diagnostics::new()).unwrap();
    assert!(!format!("{report:?}").contains("NaN"), "{report:?}");
}

/// The gap and the other means of a diagnosis, and the gap of an epoch.
fn means_do_not_contain_them<T: Tested>() {
    let near = |a: T, b: T| {
        let size = b.as_f64().abs().max(1.0);
        assert!(
            (a - b).as_f64().abs() <= 10.0 * T::ROUNDING * size,
            "{a}, not {b}"
        );
    };
    for ones in [true, false] {
        let [mut left_out, mut removed] = pair::<T>(false, false, ones);
        let gaps = [&left_out, &removed].map(|model| model.gap().unwrap());
        assert!(gaps[1].iter().all(|&gap| gap > T::of(0.01)));
        for (&own, &other) in gaps[0].iter().zip(&gaps[1]) {
            near(own, other);
        }
        let reports = [&left_out, &removed].map(|model| {
            let report = model.diagnose(&Diagnostics::new()).unwrap();
            let targets = report.layers.iter().filter_map(|own| own.target);
            let means = targets.flat_map(|own| [own.gap, own.gradient, own.staleness.unwrap()]);
            let whole = [report.gap, report.target_gradient];
            means.chain(whole).collect::<Vec<T>>()
        });
        for (&own, &other) in reports[0].iter().zip(&reports[1]) {
            near(own, other);
        }
        // An epoch without a step of θ ends with the gap of the model.
        for model in [&mut left_out, &mut removed] {
            let scheme = Decoupling::persistent(ReverseSweep::new(1));
            let phase = Phase::with_w_step(scheme, WStep::none())
                .unwrap()
                .with_epochs(1);
            let report = Trainer::new(phase).run(model).unwrap();
            let squares = model.gap().unwrap().into_iter().map(|gap| gap * gap);
            let own = squares.fold(T::zero(), |sum, square| sum + square).sqrt();
            near(report.history[0].gap.unwrap(), own);
        }
        left_out
            .set_example_weights(&Selection::All, &[T::zero(); N])
            .unwrap();
        let none = left_out.gap().unwrap_err();
        assert!(matches!(none, Error::NoExamples { .. }), "{none}");
        let report = left_out.diagnose(&Diagnostics::new()).unwrap();
        assert_eq!(report.gap, T::zero());
    }
}

#[test]
fn penalties_grow_as_without_them() {
    let [mut left_out, mut removed] = pair::<f64>(false, false, false);
    let growth = PenaltyGrowth::new(2).unwrap().with_cap(8.0).unwrap();
    let scheme = Decoupling::persistent(ReverseSweep::new(1));
    let phase = Phase::new(scheme, Adam::new(1e-3).unwrap()).with_epochs(20);
    let phase = phase
        .with_batch_size(2)
        .unwrap()
        .with_penalty_growth(growth)
        .unwrap();
    let trainer = Trainer::new(phase);
    trainer.run(&mut left_out).unwrap();
    trainer.run(&mut removed).unwrap();
    assert_same(&left_out, &removed, "growth");
    assert_ne!(left_out.terms().penalties(), [1.0, 1.0]);
}

#[test]
fn penalties_share_the_error_as_without_them() {
    let [mut left_out, mut removed] = pair::<f64>(false, false, false);
    let share = ErrorShare::new(0.6).unwrap().with_every(2).unwrap();
    let scheme = Decoupling::persistent(ReverseSweep::new(1));
    let phase = Phase::new(scheme, Adam::new(1e-3).unwrap()).with_epochs(5);
    let phase = phase
        .with_batch_size(2)
        .unwrap()
        .with_error_share(share)
        .unwrap();
    let trainer = Trainer::new(phase);
    trainer.run(&mut left_out).unwrap();
    trainer.run(&mut removed).unwrap();
    assert_same(&left_out, &removed, "shares");
    assert_ne!(left_out.terms().penalties(), [1.0, 1.0]);
}

#[test]
fn w_steps_are_those_without_them() {
    for accumulation in [1, 2] {
        let [mut left_out, mut removed] = pair::<f64>(false, false, false);
        let w_step = WStep::optimizer(Adam::new(0.01).unwrap());
        let w_step = w_step.with_accumulation(accumulation).unwrap();
        let phase =
            Phase::with_w_step(Decoupling::refreshed(ReverseSweep::new(1)), w_step).unwrap();
        let phase = phase.with_batch_size(2).unwrap().with_epochs(4);
        let trainer = Trainer::new(phase);
        trainer.run(&mut left_out).unwrap();
        trainer.run(&mut removed).unwrap();
        assert_same(&left_out, &removed, "accumulation");
    }
}

/// In the middle of an epoch, too.
#[test]
fn a_run_is_resumed_without_them() {
    let [left_out, _] = pair::<f64>(false, false, false);
    let scheme = Decoupling::joint(Adam::new(0.05).unwrap());
    let phase = Phase::new(scheme, Adam::new(0.01).unwrap()).with_epochs(3);
    let trainer = Trainer::new(phase.with_batch_size(3).unwrap());
    let mut whole = Session::new(&trainer, left_out.clone()).unwrap();
    whole.run().unwrap();
    let mut first = Session::new(&trainer, left_out).unwrap();
    for _ in 0..6 {
        first.advance().unwrap();
    }
    let (state, model) = (first.state().clone(), first.model().clone());
    let mut second = Session::resume(&trainer, model, state).unwrap();
    second.run().unwrap();
    for t in 0..3 {
        let (own, other) = (second.model().circuit(), whole.model().circuit());
        assert_eq!(own.parameters(t), other.parameters(t));
    }
}

/// Missing values that are marked by huge numbers, whose squares do not fit.
#[test]
fn overflow_in_them_is_no_overflow() {
    for missing in [1e20_f32, 9.97e36] {
        let layer = |input, output, of| Dense::new(input, output, of).unwrap();
        let circuit = Circuit::builder()
            .layer(layer(1, 2, Activation::Tanh))
            .layer(layer(2, 1, Activation::Identity));
        let regularizer = Regularizer::l2(0.1).unwrap();
        let energy = Energy::default().with_target_regularizer(regularizer);
        let mut removed = DecoupledCircuit::new(circuit.build().unwrap(), energy).unwrap();
        let x = DMatrix::from_row_slice(1, 3, &[0.1, 0.2, 0.3]);
        let y = DMatrix::from_row_slice(1, 3, &[0.1, 0.2, missing]);
        let init = TargetInit::NoisyForwardPass { std: 0.3, seed: 2 };
        removed.add_examples(&x, &y, &init).unwrap();
        let mut left_out = removed.clone();
        let weights = [1.0, 1.0, 0.0];
        left_out
            .set_example_weights(&Selection::All, &weights)
            .unwrap();
        removed.remove_examples(&[2]).unwrap();
        removed
            .set_example_weights(&Selection::All, &weights[..2])
            .unwrap();

        let both = [&left_out, &removed];
        let same = |of: &dyn Fn(&DecoupledCircuit<f32>) -> Vec<f32>| {
            let [own, expected] = both.map(of);
            assert_eq!(own, expected);
        };
        same(&|model| vec![model.energy().unwrap(), model.composed_loss().unwrap()]);
        same(&|model| {
            model
                .gradients(&Selection::All)
                .unwrap()
                .parameters
                .concat()
        });
        same(&|model| model.backprop(&Selection::All).unwrap().parameters.concat());
        same(&|model| {
            let diagnosis = model.diagnose(&Diagnostics::new()).unwrap();
            vec![diagnosis.energy, diagnosis.composed_loss]
        });
        let solvers: Vec<Box<dyn TargetSolver<f32>>> = vec![
            Box::new(ReverseSweep::new(2)),
            Box::new(GaussNewton::new(2, 3)),
            Box::new(GaussNewton::direct(2)),
            Box::new(SynchronousDescent::new(2, StepSize::Checked(0.5)).unwrap()),
        ];
        for solver in &solvers {
            let moved = both.map(|model| {
                let mut model = model.clone();
                model.solve_targets(&**solver, &Selection::All).unwrap();
                model.z(1).unwrap().columns(0, 2).into_owned()
            });
            assert_eq!(moved[0], moved[1], "{solver:?}");
        }
    }
}

/// The closed forms of a linear circuit leave them out too.
#[test]
fn overflow_in_them_is_no_overflow_in_a_linear_circuit() {
    let layer = |input, output| Dense::new(input, output, Activation::Identity).unwrap();
    let circuit = Circuit::builder().layer(layer(2, 3)).layer(layer(3, 1));
    let mut removed = DecoupledCircuit::new(circuit.build().unwrap(), Energy::default()).unwrap();
    let x = DMatrix::from_row_slice(2, 3, &[0.1, 0.2, 0.3, 0.5, -0.5, 0.1]);
    let y = DMatrix::from_row_slice(1, 3, &[1e200, 0.1, 0.2]);
    removed
        .add_examples(&x, &y, &TargetInit::ForwardPass)
        .unwrap();
    let mut left_out = removed.clone();
    let weights = [0.0, 1.0, 2.0];
    left_out
        .set_example_weights(&Selection::All, &weights)
        .unwrap();
    removed.remove_examples(&[0]).unwrap();
    removed
        .set_example_weights(&Selection::All, &weights[1..])
        .unwrap();
    let minimum = |model| theory::linear_minimum(model, &Selection::All).unwrap();
    assert_eq!(minimum(&left_out), minimum(&removed));
    // Nothing else is selected.
    let none = theory::linear_minimum(&left_out, &Selection::Columns(0..1)).unwrap();
    assert_eq!(none, 0.0);
}

/// An input so large that the forward pass overflows, in every scheme.
#[test]
fn an_input_that_overflows_is_no_overflow() {
    for scheme in schemes::<f32>(&[1, 2, 1]) {
        let layer = |input, output| Dense::new(input, output, Activation::Identity).unwrap();
        let circuit = Circuit::builder().layer(layer(1, 2)).layer(layer(2, 1));
        let circuit = circuit.seed(3).build().unwrap();
        let mut removed = DecoupledCircuit::new(circuit, Energy::default()).unwrap();
        removed.set_parameters(0, &[2.0, -3.0, 0.1, 0.2]).unwrap();
        let x = DMatrix::from_row_slice(1, 3, &[0.1, 3e38, 0.3]);
        let y = DMatrix::from_row_slice(1, 3, &[0.1, 0.2, 0.3]);
        let init = TargetInit::RandomNormal { std: 0.3, seed: 2 };
        removed.add_examples(&x, &y, &init).unwrap();
        let mut left_out = removed.clone();
        let weights = [1.0, 0.0, 1.0];
        left_out
            .set_example_weights(&Selection::All, &weights)
            .unwrap();
        removed.remove_examples(&[1]).unwrap();
        let rule = GradientDescent::new(0.01).unwrap();
        let trainer = Trainer::new(Phase::new(scheme.clone(), rule).with_epochs(2));
        let own = trainer.run(&mut left_out).unwrap();
        let other = trainer.run(&mut removed).unwrap();
        assert_eq!(own.history, other.history, "{scheme:?}");
        for t in 0..2 {
            let both = [&left_out, &removed].map(|model| model.circuit().parameters(t));
            assert_eq!(both[0], both[1], "{scheme:?}");
        }
    }
}

/// The same input, where parameters are solved for, and in gradients.
#[test]
fn an_input_that_overflows_counts_nowhere() {
    for (size, softmax) in [(3e38_f32, false), (3e38, true), (1e37, true)] {
        let layer = |activation| Dense::new(2, 2, activation).unwrap();
        let circuit = Circuit::builder()
            .layer(layer(Activation::Identity))
            .layer(layer(Activation::Gelu));
        let energy = match softmax {
            true => Energy::new(SoftmaxCrossEntropy),
            false => Energy::default(),
        };
        let mut removed = DecoupledCircuit::new(circuit.seed(3).build().unwrap(), energy).unwrap();
        for t in 0..2 {
            let own = [2.0, -3.0, 1.5, 0.5, 0.1, 0.2];
            removed.set_parameters(t, &own).unwrap();
        }
        let mut x = DMatrix::from_vec(2, 9, uniform::<f32>(&mut generator(1), 18, 1.0));
        x.column_mut(4).copy_from_slice(&[size, size / 2.0]);
        let y = DMatrix::from_fn(2, 9, |k, i| f32::from(u8::from(k == i % 2)));
        let init = TargetInit::RandomNormal { std: 0.3, seed: 2 };
        removed.add_examples(&x, &y, &init).unwrap();
        let mut left_out = removed.clone();
        let weights: Vec<f32> = (0..9_u8).map(|i| f32::from(u8::from(i != 4))).collect();
        left_out
            .set_example_weights(&Selection::All, &weights)
            .unwrap();
        removed.remove_examples(&[4]).unwrap();
        removed
            .set_example_weights(&Selection::All, &[1.0; 8])
            .unwrap();
        let both = [&left_out, &removed];
        let [own, expected] = both.map(|model| model.backprop(&Selection::All).unwrap());
        assert_eq!(own.parameters, expected.parameters);
        assert_eq!(own.targets[0].column(4).amax(), 0.0);
        let [own, expected] = both.map(|model| model.gradients(&Selection::All).unwrap());
        assert_eq!(own.parameters, expected.parameters);
        let own = own.targets[0].clone().remove_column(4);
        assert_eq!(own, expected.targets[0]);
        let objectives = both.map(|model| {
            let objective = model.composed_objective(&Selection::All).unwrap();
            let point = objective.point();
            let mut gradient = vec![0.0; point.len()];
            let value = objective.evaluate(&point, Some(&mut gradient), &mut Workspace::new());
            (value.unwrap(), gradient)
        });
        assert_eq!(objectives[0], objectives[1]);
        let solvers: [Box<dyn ParameterSolver<f32>>; 2] = [
            Box::new(LevenbergMarquardt::new(6, 10)),
            Box::new(LeastSquares::ridge(0.1).unwrap()),
        ];
        for solver in &solvers[..1 + usize::from(!softmax)] {
            let solved = both.map(|model| {
                let mut model = model.clone();
                let solved = model.solve_parameters(0, &**solver, &Selection::All);
                (solved.unwrap(), model.circuit().parameters(0).to_vec())
            });
            assert_eq!(solved[0], solved[1], "{solver:?}");
        }
    }
}

/// A unit that overflows inside: for the example left out its tape is NaN, and 0 times NaN is NaN.
fn overflowing_within(before: bool) -> [DecoupledCircuit<f32>; 2] {
    let dense = |inputs, outputs| Dense::new(inputs, outputs, Activation::Identity).unwrap();
    let unit = |inputs, outputs| {
        let norm = Box::new(LayerNorm::new(4).unwrap());
        let layers: Vec<Box<dyn Layer<f32>>> = vec![
            Box::new(dense(inputs, 4)),
            norm,
            Box::new(dense(4, outputs)),
        ];
        Sequential::new(layers).unwrap()
    };
    let circuit = match before {
        true => Circuit::builder().layer(unit(2, 4)).layer(dense(4, 1)),
        false => Circuit::builder().layer(dense(2, 4)).layer(unit(4, 1)),
    };
    let circuit = circuit.seed(3).build().unwrap();
    let mut removed = DecoupledCircuit::new(circuit, Energy::default()).unwrap();
    let x = DMatrix::from_row_slice(2, 3, &[0.1, 3e38, 0.3, 0.5, 3e38, 0.7]);
    let y = DMatrix::from_row_slice(1, 3, &[0.1, 0.2, 0.3]);
    let init = TargetInit::RandomNormal { std: 0.3, seed: 2 };
    removed.add_examples(&x, &y, &init).unwrap();
    for t in 0..2 {
        let own = removed.circuit().parameters(t).len();
        let own: Vec<f32> = (0..own)
            .map(|k| (1.0 + k as f32 * 0.7).sin() * 2.0)
            .collect();
        removed.set_parameters(t, &own).unwrap();
    }
    // Targets so large that the later unit overflows.
    let far = DMatrix::from_column_slice(4, 1, &[3e38, 3e38, -3e38, 3e38]);
    removed
        .set_targets(1, &Selection::Columns(1..2), &far)
        .unwrap();
    let mut left_out = removed.clone();
    left_out
        .set_example_weights(&Selection::All, &[1.0, 0.0, 1.0])
        .unwrap();
    removed.remove_examples(&[1]).unwrap();
    [left_out, removed]
}

#[track_caller]
fn assert_near(own: &[f32], other: &[f32]) {
    assert_eq!(own.len(), other.len());
    for (a, b) in own.iter().zip(other) {
        assert!((a - b).abs() <= 1e-4 * b.abs().max(1.0), "{a}, not {b}");
    }
}

/// The columns that are not left out, of 4 targets each.
fn others(targets: &[f32]) -> Vec<f32> {
    assert_eq!(targets[4..8], [0.0; 4]);
    [&targets[..4], &targets[8..]].concat()
}

#[test]
fn overflow_within_a_unit_counts_nowhere() {
    for before in [true, false] {
        let both = overflowing_within(before);
        let t = usize::from(!before);
        // Gradients in θ and z, of objectives and of one layer.
        let gradients = both.each_ref().map(|model| {
            let objective = model.joint_objective(&Selection::All).unwrap();
            let joint = objective.gradient(&objective.point()).unwrap();
            let objective = model.target_objective(&Selection::All).unwrap();
            let targets = objective.gradient(&objective.point()).unwrap();
            let parameters = model.circuit().parameter_count();
            assert_eq!(joint[parameters..], targets);
            (joint[..parameters].to_vec(), targets)
        });
        assert_near(&gradients[0].0, &gradients[1].0);
        assert_near(&others(&gradients[0].1), &gradients[1].1);
        let local = both.each_ref().map(|model| {
            let shard = model.shard(t, &Selection::All).unwrap();
            let (layer, loss) = (model.circuit().layer(t), model.terms().loss(t));
            shard.problem(layer, loss).unwrap().gradients().parameters
        });
        assert_near(&local[0], &local[1]);
        GradCheck::new()
            .circuit(&both[0])
            .unwrap()
            .require(1e-2)
            .unwrap();
        // Solvers of θ on a local problem, and of z.
        let solver = LevenbergMarquardt::new(2, 3);
        let solved = both.each_ref().map(|model| {
            let problem = model.local_problem(t, 0..model.examples().len()).unwrap();
            let mut own = problem.parameters().to_vec();
            let mut state = ParameterSolver::<f32>::start(&solver);
            let report = solver.solve(&mut state, &problem, &mut problem.workspace(), &mut own);
            assert!(report.unwrap().accepted > 0);
            own
        });
        assert_near(&solved[0], &solved[1]);
        let step = StepSize::Checked(0.1);
        let solvers: [Box<dyn TargetSolver<f32>>; 4] = [
            Box::new(ReverseSweep::new(1).with_step(step).unwrap()),
            Box::new(SynchronousDescent::new(1, step).unwrap()),
            Box::new(GaussNewton::new(1, 2)),
            Box::new(GaussNewton::direct(1)),
        ];
        for solver in solvers {
            let moved = both.clone().map(|mut model| {
                model.solve_targets(&*solver, &Selection::All).unwrap();
                model.z(1).unwrap().into_owned()
            });
            assert_eq!(moved[0].clone().remove_column(1), moved[1], "{solver:?}");
        }
    }
}

/// A data set with one row that can no longer be read.
#[derive(Debug)]
struct Damaged {
    data: InMemory<DMatrix<f64>>,
    row: usize,
    broken: AtomicBool,
}

impl Dataset<f64> for Damaged {
    fn len(&self) -> usize {
        Dataset::<f64>::len(&self.data)
    }

    fn inputs(&self) -> usize {
        Dataset::<f64>::inputs(&self.data)
    }

    fn targets(&self) -> usize {
        Dataset::<f64>::targets(&self.data)
    }

    fn read(&self, rows: &[usize], x: &mut [f64], y: &mut [f64]) -> Result<(), Error> {
        if rows.contains(&self.row) && self.broken.load(Ordering::Relaxed) {
            return Err(Error::UnknownRow {
                row: self.row,
                count: 0,
            });
        }
        self.data.read(rows, x, y)
    }
}

/// A run does not read the rows of such examples.
#[test]
fn streamed_rows_of_weight_zero_are_not_read() {
    for scheme in schemes::<f64>(&DIMS) {
        for row in [0, 4, N - 1] {
            let [model, _] = pair::<f64>(false, false, true);
            let (x, y) = (model.z(0).unwrap(), model.z(3).unwrap());
            let data = InMemory::new(x.into_owned(), y.into_owned()).unwrap();
            let broken = AtomicBool::new(false);
            let data = Arc::new(Damaged { data, row, broken });
            let mut streamed =
                DecoupledCircuit::new(model.circuit().clone(), Energy::default()).unwrap();
            let init = TargetInit::ForwardPass;
            let folder = std::env::temp_dir();
            streamed
                .stream_dataset(data.clone(), folder, &init)
                .unwrap();
            let weights = model.example_weights().unwrap();
            streamed
                .set_example_weights(&Selection::All, weights)
                .unwrap();
            data.broken.store(true, Ordering::Relaxed);
            let phase = Phase::new(scheme.clone(), Adam::new(0.01).unwrap()).with_epochs(2);
            let trainer = Trainer::new(phase.with_batch_size(3).unwrap());
            let run = trainer.run(&mut streamed);
            // Projections need all examples in memory.
            let what = format!("{scheme:?}");
            match run {
                Ok(_) => assert!(!what.contains("Projected"), "{what}"),
                Err(own) => {
                    let refused = matches!(
                        own.error,
                        Error::Combination { .. } | Error::NotInMemory { .. }
                    );
                    assert!(refused && what.contains("Projected"), "{what}: {own}");
                }
            }
        }
    }
}

#[test]
fn a_weight_can_come_back() {
    let [mut model, _] = pair::<f64>(false, false, true);
    let before = resting(&model);
    let scheme = Decoupling::persistent(ReverseSweep::new(1));
    let trainer = Trainer::new(Phase::new(scheme, Adam::new(0.01).unwrap()).with_epochs(2));
    trainer.run(&mut model).unwrap();
    assert_eq!(resting(&model), before);
    model
        .set_example_weights(&Selection::All, &[1.0; N])
        .unwrap();
    trainer.run(&mut model).unwrap();
    assert_ne!(resting(&model), before);
}

/// At the forward pass E and its gradients are backprop's to the last bit, whatever the weights.
fn statement_1_has_no_deviations<T: Tested>() {
    for n in 1..40 {
        let mut model = model::<T>(true, false);
        let x = DMatrix::from_vec(3, n, uniform::<T>(&mut generator(3), 3 * n, 1.0));
        let y = DMatrix::from_element(2, n, T::of(0.5));
        model
            .add_examples(&x, &y, &TargetInit::ForwardPass)
            .unwrap();
        let weight = |i: usize| T::of([0.0, 1.0, 2.5][(n + i * i) % 3]);
        let weights: Vec<T> = (0..N + n).map(weight).collect();
        model
            .set_example_weights(&Selection::All, &weights)
            .unwrap();
        for selection in [Selection::All, Selection::Columns(N..N + n)] {
            let found = theory::forward_pass_deviations(&model, &selection).unwrap();
            assert_eq!(found.largest(), 0.0, "{n}: {found:?}");
        }
    }
}

#[test]
fn statement_1_has_no_deviations_f32() {
    statement_1_has_no_deviations::<f32>();
}

#[test]
fn statement_1_has_no_deviations_f64() {
    statement_1_has_no_deviations::<f64>();
}

#[test]
fn a_run_needs_an_example_that_counts() {
    let mut model = model::<f64>(false, false);
    model
        .set_example_weights(&Selection::All, &[0.0; N])
        .unwrap();
    let trainer = Trainer::new(Phase::new(Backprop, Adam::new(0.01).unwrap()));
    let error = trainer.run(&mut model).unwrap_err().error;
    assert!(matches!(error, Error::NoExamples { .. }), "{error}");
    assert!(error.to_string().contains("have weight 0"), "{error}");
    assert_eq!(model.energy(), Ok(0.0));
}
