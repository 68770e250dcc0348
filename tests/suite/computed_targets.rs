//! Targets that are computed where they are needed: the same numbers as with stored ones, for every
//! scheme that keeps none, and refusals of whatever needs stored ones.

use std::sync::Arc;

use layerwise::data::InMemory;
use layerwise::decoupled::TargetUse;
use layerwise::diagnostics::Diagnostics;
use layerwise::gradcheck::GradCheck;
use layerwise::layer::{Activation, Dense};
use layerwise::objective::Objective;
use layerwise::optimizer::{Adam, GradientDescent};
use layerwise::prelude::*;
use layerwise::schedule::Schedule;
use layerwise::state::State;
use layerwise::target_solver::{GaussNewton, ReverseSweep, StepSize};
use layerwise::theory;
use layerwise::training::{
    Backprop, Decoupling, FixedPrediction, Scheme, Targets, TrainingReport, Visit, ZIl, ZStep,
};
use layerwise::{Error, Scalar};

use crate::amortized::amortized;
use crate::property::{Tested, generator, uniform};

in_both_scalars!(schemes_end_with_the_same_numbers);

const DIMS: [usize; 5] = [3, 6, 4, 5, 2];
const N: usize = 23;

fn data<T: Tested>() -> (DMatrix<T>, DMatrix<T>) {
    let draw = |seed, rows| {
        let values = uniform::<T>(&mut generator(seed), rows * N, 1.0);
        DMatrix::from_vec(rows, N, values)
    };
    (draw(1, DIMS[0]), draw(2, DIMS[4]))
}

fn model<T: Tested>(init: &TargetInit<T>) -> DecoupledCircuit<T> {
    let mut builder = Circuit::builder().seed(2);
    for (t, pair) in DIMS.windows(2).enumerate() {
        let activation = [Activation::Tanh, Activation::Identity][t / 3];
        builder = builder.layer(Dense::new(pair[0], pair[1], activation).unwrap());
    }
    let energy = Energy::default();
    let mut model = DecoupledCircuit::new(builder.build().unwrap(), energy).unwrap();
    let (x, y) = data();
    model.add_examples(&x, &y, init).unwrap();
    model
}

fn computed<T: Tested>() -> DecoupledCircuit<T> {
    model(&TargetInit::Computed)
}

fn schemes<T: Scalar>() -> Vec<(&'static str, Arc<dyn Scheme<T>>)> {
    let along = ZStep::Along(StepSize::Bounded { margin: 1.2 });
    let along = Decoupling::new(Targets::Refreshed, along).unwrap();
    let sweep = || Decoupling::refreshed(ReverseSweep::new(2));
    vec![
        ("backprop", Arc::new(Backprop)),
        ("Z-IL", Arc::new(ZIl)),
        ("fixed prediction", Arc::new(FixedPrediction::new())),
        ("sweep", Arc::new(sweep())),
        ("λ", Arc::new(sweep().with_multipliers(0.5).unwrap())),
        ("along", Arc::new(along)),
        (
            "Gauss-Newton",
            Arc::new(Decoupling::refreshed(GaussNewton::chained(1, 2))),
        ),
    ]
}

fn run<T: Tested>(
    model: &mut DecoupledCircuit<T>,
    scheme: Arc<dyn Scheme<T>>,
    batch: usize,
) -> TrainingReport<T> {
    let phase = Phase::new(scheme, Adam::new(0.02).unwrap()).with_epochs(3);
    let trainer = Trainer::new(phase.with_batch_size(batch).unwrap()).with_seed(4);
    let mut report = trainer.run(model).unwrap();
    report.seconds = 0.0;
    report
}

fn parameters<T: Tested>(model: &DecoupledCircuit<T>) -> Vec<Vec<T>> {
    let depth = model.circuit().depth();
    (0..depth)
        .map(|t| model.circuit().parameters(t).to_vec())
        .collect()
}

/// In batches and of all examples at once. What can be asked of the model afterwards is the same too:
/// schemes that refresh their targets leave stored ones at the forward pass.
fn schemes_end_with_the_same_numbers<T: Tested>() {
    for (name, scheme) in schemes::<T>() {
        for batch in [7, N] {
            let [mut stored, mut own] = [model(&TargetInit::ForwardPass), computed()];
            let expected = run(&mut stored, Arc::clone(&scheme), batch);
            let report = run(&mut own, Arc::clone(&scheme), batch);
            assert_eq!(report, expected, "{name}");
            assert_eq!(parameters(&own), parameters(&stored), "{name}");
            if name == "backprop" {
                // It leaves stored targets as they were.
                stored.initialize_targets(&TargetInit::ForwardPass).unwrap();
            }
            asked(name, &own, &stored);
        }
    }
    // What these leave in stored targets has no place here.
    let residual = Targets::Residual {
        keep: 0.5,
        schedule: Schedule::cosine(0.0).unwrap(),
    };
    let sweep = ZStep::Solver(Arc::new(ReverseSweep::new(1)));
    let schemes: [Arc<dyn Scheme<T>>; 2] = [
        Arc::new(amortized(&DIMS)),
        Arc::new(Decoupling::new(residual, sweep).unwrap()),
    ];
    for scheme in schemes {
        let [mut stored, mut own] = [model::<T>(&TargetInit::ForwardPass), computed()];
        run(&mut stored, Arc::clone(&scheme), 7);
        run(&mut own, scheme, 7);
        assert_eq!(parameters(&own), parameters(&stored));
    }
}

fn asked<T: Tested>(name: &str, own: &DecoupledCircuit<T>, stored: &DecoupledCircuit<T>) {
    let some = Selection::Examples(&[20, 3, 11]);
    for t in 0..DIMS.len() {
        let expected = stored.z_of(t, &some).unwrap();
        assert_eq!(own.z_of(t, &some).unwrap(), expected, "{name}");
        let all = own.z_of(t, &Selection::All).unwrap();
        assert_eq!(all, stored.z(t).unwrap(), "{name}");
    }
    assert_eq!(own.energies(), stored.energies(), "{name}");
    assert!(own.gap().unwrap().iter().all(|gap| gap.is_zero()), "{name}");
    assert_eq!(own.gradients(&some), stored.gradients(&some), "{name}");
    assert_eq!(own.backprop(&some), stored.backprop(&some), "{name}");
    let [a, b] = [own, stored].map(|model| model.diagnose(&Diagnostics::new()).unwrap());
    assert_eq!(format!("{a:?}"), format!("{b:?}"), "{name}");
    let [a, b] = [own, stored].map(|model| theory::stationarity(model, &some).unwrap());
    assert_eq!(format!("{a:?}"), format!("{b:?}"), "{name}");
    for (s, pair) in DIMS.windows(2).enumerate() {
        let new = vec![T::of(0.25); pair[1] * (pair[0] + 1)];
        let changed = |model| theory::layers_changed_by(model, &some, s, &new).unwrap();
        // The targets do not follow θ_s.
        assert_eq!(changed(own), [s], "{name}");
        assert_eq!(changed(stored), [s], "{name}");
    }
    let of = |model: &DecoupledCircuit<T>, selection: &Selection<'_>| {
        let objective = model.joint_objective(selection).unwrap();
        let point = objective.point();
        let value = objective.value(&point).unwrap();
        (value, objective.gradient(&point).unwrap(), point)
    };
    for selection in [&Selection::All, &some] {
        assert_eq!(of(own, selection), of(stored, selection), "{name}");
    }
}

#[test]
fn none_are_stored() {
    let own = computed::<f64>();
    let (own, stored) = (
        own.memory(7),
        model::<f64>(&TargetInit::ForwardPass).memory(7),
    );
    let (own, stored) = (own.unwrap(), stored.unwrap());
    assert_eq!(own.targets, 0);
    assert_eq!(stored.targets, N * (6 + 4 + 5) * 8);
    assert_eq!(own.data, stored.data);
    assert_eq!(own.data, N * (3 + 2) * 8);
}

#[test]
fn what_needs_stored_targets_says_so() {
    let mut own = computed::<f64>();
    let before = format!("{own:?}");
    let sweep = || ReverseSweep::new(1);
    let phase = |scheme| Phase::new(scheme, Adam::new(0.1).unwrap());
    let persistent = Trainer::new(phase(Decoupling::persistent(sweep())));
    let joint = Trainer::new(phase(Decoupling::joint(GradientDescent::new(0.1).unwrap())));
    let zeros = DMatrix::zeros(6, N);
    let all = Selection::All;
    let point = own.joint_objective(&all).unwrap().point();
    let point: Vec<f64> = point.iter().map(|x| x + 0.1).collect();
    let errors = [
        own.z(1).map(drop).unwrap_err(),
        own.batch(0..3).map(drop).unwrap_err(),
        own.problem(0..3).map(drop).unwrap_err(),
        own.local_problem(1, 0..3).map(drop).unwrap_err(),
        own.set_targets(1, &all, &zeros).unwrap_err(),
        own.solve_targets(&sweep(), &all).map(drop).unwrap_err(),
        GradCheck::new().circuit(&own).map(drop).unwrap_err(),
        theory::batch_dependent_example(&own, &all, &sweep()).unwrap_err(),
        own.set_target_point(&all, &vec![0.1; 15 * N]).unwrap_err(),
        own.set_target_point(&Selection::Columns(0..2), &[0.1; 30])
            .unwrap_err(),
        own.set_joint_point(&all, &point).unwrap_err(),
        persistent.run(&mut own).unwrap_err().error,
        joint.run(&mut own).unwrap_err().error,
    ];
    for error in errors {
        assert!(matches!(error, Error::TargetsNotStored { .. }), "{error:?}");
    }
    assert_eq!(format!("{own:?}"), before);
    assert_eq!(own.z(0).unwrap().shape(), (3, N));
    assert_eq!(own.z(4).unwrap().shape(), (2, N));
    let error = persistent.run(&mut own).unwrap_err().error.to_string();
    let expected = "a phase whose scheme keeps targets needs stored targets, but those of this model \
                    are computed where they are needed (TargetInit::Computed)";
    assert_eq!(error, expected);
}

/// Examples come and go; those of one model are of one kind, which can be changed as a whole.
#[test]
fn a_model_has_targets_of_one_kind() {
    let (x, y) = data::<f64>();
    let pass = TargetInit::ForwardPass;
    let both = [
        (TargetInit::Computed, pass.clone()),
        (pass.clone(), TargetInit::Computed),
    ];
    for (first, second) in both {
        let mut own = model(&first);
        let error = own.add_examples(&x, &y, &second).unwrap_err();
        assert!(matches!(error, Error::Combination { .. }), "{error:?}");
        let set = InMemory::new(x.clone(), y.clone()).unwrap();
        let error = own.add_dataset(&set, &second).unwrap_err();
        assert!(matches!(error, Error::Combination { .. }), "{error:?}");
        assert_eq!(own.examples().len(), N);

        own.add_examples(&x, &y, &first).unwrap();
        own.remove_examples(&[0, 5, 30]).unwrap();
        let mut other = model(&pass);
        other.add_examples(&x, &y, &pass).unwrap();
        other.remove_examples(&[0, 5, 30]).unwrap();
        assert_eq!(
            own.gradients(&Selection::All),
            other.gradients(&Selection::All)
        );
        own.initialize_targets(&second).unwrap();
        assert_eq!(
            own.gradients(&Selection::All),
            other.gradients(&Selection::All)
        );
        own.add_examples(&x, &y, &second).unwrap();

        let ids = own.examples().to_vec();
        own.remove_examples(&ids).unwrap();
        own.add_examples(&x, &y, &first).unwrap();
        assert_eq!(
            own.memory(1).unwrap().targets == 0,
            first == TargetInit::Computed
        );
    }
}

/// A scheme that keeps targets, but starts its phase by having none.
#[derive(Debug)]
struct Forgets;

impl Scheme<f64> for Forgets {
    fn targets(&self) -> TargetUse {
        TargetUse::Kept
    }

    fn start(&self, model: &mut DecoupledCircuit<f64>) -> Result<State<f64>, Error> {
        model.initialize_targets(&TargetInit::Computed)?;
        Ok(State::new())
    }

    fn visit(&self, _: &mut State<f64>, visit: &mut Visit<'_, f64>) -> Result<f64, Error> {
        visit.target_problem().refresh()?;
        visit.evaluate()?.step()
    }
}

#[test]
fn a_scheme_cannot_keep_targets_that_it_gave_up() {
    for batch in [7, N] {
        let mut own = model::<f64>(&TargetInit::ForwardPass);
        let phase = Phase::new(Forgets, Adam::new(0.1).unwrap());
        let phase = phase.with_batch_size(batch).unwrap();
        let error = Trainer::new(phase).run(&mut own).unwrap_err().error;
        assert!(matches!(error, Error::TargetsNotStored { .. }), "{error:?}");
    }
}

/// Targets that overflow are told, as predictions are; of examples of weight 0 only where they are shown.
#[test]
fn computed_targets_may_overflow() {
    let layer = || {
        Dense::new(1, 1, Activation::Identity)
            .unwrap()
            .without_bias()
    };
    let layers = [layer(), layer(), layer()];
    let circuit = Circuit::builder().layers(layers).build().unwrap();
    let mut own = DecoupledCircuit::new(circuit, Energy::default()).unwrap();
    let x = DMatrix::from_row_slice(1, 2, &[1e200, 1.0]);
    let y = DMatrix::from_row_slice(1, 2, &[1.0, 1.0]);
    own.add_examples(&x, &y, &TargetInit::Computed).unwrap();
    own.set_parameters(0, &[1e200]).unwrap();
    let all = Selection::All;
    for error in [own.z_of(1, &all).map(drop), own.gap().map(drop)] {
        assert!(matches!(error, Err(Error::Overflow { .. })), "{error:?}");
    }
    own.set_example_weights(&all, &[0.0, 1.0]).unwrap();
    assert_eq!(own.gap().unwrap(), [0.0, 0.0]);
    let error = own.z_of(1, &all).unwrap_err();
    assert!(matches!(error, Error::Overflow { .. }), "{error:?}");
    assert_eq!(own.z_of(1, &Selection::Columns(1..2)).unwrap()[0], 1e200);
}
