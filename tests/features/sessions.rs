//! The state of a run goes through JSON and back whole, at every place where a run can be broken off.

use layerwise::decoupled::TargetInit;
use layerwise::energy::Energy;
use layerwise::layer::{Activation, Dense};
use layerwise::nalgebra::DMatrix;
use layerwise::optimizer::Adam;
use layerwise::parameter_solver::LevenbergMarquardt;
use layerwise::state::State;
use layerwise::target_solver::ReverseSweep;
use layerwise::training::{
    Decoupling, PenaltyGrowth, Phase, Session, SessionState, Stopping, Trainer, WStep,
};
use layerwise::{Circuit, DecoupledCircuit, Error, Scalar};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn model<T: Scalar>() -> DecoupledCircuit<T> {
    let circuit = Circuit::builder()
        .layer(Dense::new(2, 4, Activation::Tanh).unwrap())
        .layer(Dense::new(4, 1, Activation::Identity).unwrap())
        .build()
        .unwrap();
    let mut model = DecoupledCircuit::new(circuit, Energy::default()).unwrap();
    let init = TargetInit::NoisyForwardPass { std: 0.2, seed: 3 };
    model.add_examples(&wave(2), &wave(1), &init).unwrap();
    model
}

fn wave<T: Scalar>(rows: usize) -> DMatrix<T> {
    DMatrix::from_fn(rows, 7, |i, j| T::of((0.8 * j as f64 + i as f64).sin()))
}

fn trainer<T: Scalar>(scheme: Decoupling<T>, w_step: WStep<T>) -> Trainer<T> {
    let stopping = Stopping::Validation {
        patience: 2,
        improvement: 0.0,
    };
    let phase = Phase::with_w_step(scheme, w_step).unwrap();
    let phase = phase.with_epochs(3).with_batch_size(3).unwrap();
    let growth = PenaltyGrowth::new(2).unwrap();
    let phase = phase.with_stopping(stopping).unwrap();
    Trainer::new(phase.with_penalty_growth(growth).unwrap()).with_validation(wave(2), wave(1))
}

fn there_and_back<T: Scalar + Serialize + DeserializeOwned>() {
    let adam = || Adam::new(1e-2).unwrap();
    let sweep = || ReverseSweep::new(1);
    let damped = || LevenbergMarquardt::new(1, 5);
    for trainer in [
        trainer(Decoupling::joint(adam()), WStep::optimizer(adam())),
        trainer(
            Decoupling::persistent(sweep()),
            WStep::optimizer(adam()).with_accumulation(2).unwrap(),
        ),
        trainer(
            Decoupling::residual(sweep()).with_multipliers(1.0).unwrap(),
            WStep::solver_of_layer(1, damped()).with_optimizer(adam()),
        ),
    ] {
        let mut session = Session::new(&trainer, model::<T>()).unwrap();
        let mut places = 0;
        loop {
            let text = serde_json::to_string(session.state()).unwrap();
            let back: SessionState<T> = serde_json::from_str(&text).unwrap();
            assert_eq!(&back, session.state(), "{places}");
            let model = session.model().clone();
            let mut resumed = Session::resume(&trainer, model, back).unwrap();
            let (own, other) = (session.advance().unwrap(), resumed.advance().unwrap());
            assert_eq!(own, other, "{places}");
            assert_eq!(session.state(), resumed.state(), "{places}");
            if own.is_none() {
                break;
            }
            places += 1;
        }
        // Three visits an epoch and its end, and the ends of the phase and of the run.
        assert_eq!(places, 3 * 4 + 2);
    }
}

#[test]
fn a_state_survives_json() {
    there_and_back::<f64>();
    there_and_back::<f32>();
}

/// Calls `change` with every count of a state that was written.
fn for_each_count(value: &mut Value, change: &mut dyn FnMut(&mut Value)) {
    match value {
        Value::Number(number) if number.is_u64() => change(value),
        Value::Array(values) => values.iter_mut().for_each(|v| for_each_count(v, change)),
        Value::Object(values) => values.values_mut().for_each(|v| for_each_count(v, change)),
        _ => {}
    }
}

#[test]
fn counts_that_no_run_reaches_are_refused_or_do_no_harm() {
    let adam = || Adam::new(1e-2).unwrap();
    let trainers = [
        trainer(Decoupling::joint(adam()), WStep::optimizer(adam())),
        trainer(
            Decoupling::persistent(ReverseSweep::new(1)),
            WStep::solver_of_layer(1, LevenbergMarquardt::new(1, 5)).with_optimizer(adam()),
        ),
    ];
    let mut refused = 0;
    for trainer in trainers {
        let mut session = Session::new(&trainer, model::<f64>()).unwrap();
        for _ in 0..2 {
            session.advance().unwrap();
        }
        let written = serde_json::to_value(session.state()).unwrap();
        let mut counts = 0;
        for_each_count(&mut written.clone(), &mut |_| counts += 1);
        for place in 0..counts {
            let (mut damaged, mut next) = (written.clone(), 0);
            for_each_count(&mut damaged, &mut |count| {
                if next == place {
                    *count = u64::MAX.into();
                }
                next += 1;
            });
            let Ok(state) = serde_json::from_value(damaged) else {
                continue;
            };
            match Session::resume(&trainer, session.model().clone(), state) {
                Err(_) => refused += 1,
                // What it counts on for a while must not overflow.
                Ok(mut resumed) => {
                    for _ in 0..20 {
                        let _ = resumed.advance();
                    }
                }
            }
        }
    }
    assert!(refused > 20, "{refused}");
}

/// A damaged file cannot nest states so deep that reading them ends the process.
#[test]
fn states_within_states_have_a_limit() {
    let nested = |depth: usize| -> Vec<Value> {
        let node = |parts| json!({"counts": [1], "values": [[0.5]], "parts": parts});
        (0..depth)
            .map(|level| node(usize::from(level + 1 < depth)))
            .collect()
    };
    let read = |nodes: Vec<Value>| serde_json::from_value::<State<f64>>(Value::Array(nodes));
    let state = read(nested(32)).unwrap();
    assert_eq!(state.parts[0].parts[0].counts, [1]);
    let again = serde_json::to_value(&state).unwrap();
    assert_eq!(again, Value::Array(nested(32)));
    for (nodes, told) in [
        (nested(33), "nested"),
        (nested(100_000), "nested"),
        (nested(3)[..2].to_vec(), "lacks"),
        ([nested(2), nested(2)].concat(), "not one state"),
        (vec![], "not one state"),
    ] {
        let error = read(nodes).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
}

/// A best epoch that is not a number does not become the parameters.
#[test]
fn a_damaged_best_epoch_is_refused() {
    let adam = || Adam::new(1e-2).unwrap();
    let trainer = trainer(Decoupling::joint(adam()), WStep::optimizer(adam()));
    let mut session = Session::new(&trainer, model::<f32>()).unwrap();
    session.epoch().unwrap();
    let written = serde_json::to_value(session.state()).unwrap();
    let edited = |pointer: &str, value: Value| {
        let mut state = written.clone();
        *state.pointer_mut(pointer).expect(pointer) = value;
        let state: SessionState<f32> = serde_json::from_value(state).unwrap();
        Session::resume(&trainer, session.model().clone(), state).map(|_| ())
    };
    edited("/within/tracker/best/1/0/0", json!(0.5)).unwrap();
    // Beyond f32, and so infinite in it.
    edited("/within/tracker/best/1/0/0", json!(1e300)).unwrap_err();
    edited("/within/tracker/since", json!(u64::MAX)).unwrap_err();
}

/// Where a damaged state contradicts itself, the error says what, with its numbers.
#[test]
fn states_that_contradict_themselves_are_refused() {
    let adam = || Adam::new(1e-2).unwrap();
    let scheme = Decoupling::persistent(ReverseSweep::new(1));
    let w_step = WStep::optimizer(adam()).with_accumulation(3).unwrap();
    let phase = Phase::with_w_step(scheme, w_step).unwrap();
    let phase = phase.with_epochs(3).with_batch_size(2).unwrap();
    // It warns that nothing reaches the first layer.
    let still = Decoupling::refreshed(ReverseSweep::new(0));
    let trainer = Trainer::new(Phase::new(still, adam()).with_epochs(1)).then(phase);
    let trainer = trainer.measure_relaxation();
    let mut session = Session::new(&trainer, model::<f64>()).unwrap();
    // The first phase, an epoch of four visits, and two visits.
    session.finish_phase().unwrap();
    session.epoch().unwrap();
    for _ in 0..2 {
        session.advance().unwrap();
    }
    let written = serde_json::to_value(session.state()).unwrap();
    let resumed = |pointer: &str, value: Value| {
        let mut state = written.clone();
        *state.pointer_mut(pointer).expect(pointer) = value;
        let state: SessionState<f64> = serde_json::from_value(state).unwrap();
        Session::resume(&trainer, session.model().clone(), state).map(|_| ())
    };
    assert_eq!(written["within"]["w_step"]["pending_visits"], json!(2));
    assert_eq!(written["within"]["w_step"]["pending_examples"], json!(4));
    resumed("/within/w_step/pending_visits", json!(2)).unwrap();
    let pending = "gradients wait for a step";
    let huge = json!(u64::MAX >> 8);
    let mut accepted = Vec::new();
    for (pointer, value, told) in [
        ("/within/w_step/pending_visits", json!(1), pending),
        ("/within/w_step/pending_visits", json!(0), pending),
        ("/within/w_step/pending_visits", json!(3), pending),
        ("/within/w_step/pending_examples", json!(3), pending),
        ("/within/w_step/pending_examples", json!(0), pending),
        ("/warnings/0/count", huge.clone(), "a count"),
        ("/warnings/0/epochs", json!([3, 2]), "of a warning"),
        ("/warnings/0/epochs", json!([1, u64::MAX]), "of a warning"),
        ("/phases/0/epochs", huge.clone(), "a count"),
        ("/phases/0/steps", huge.clone(), "a count"),
        ("/visits", huge, "a count"),
        ("/within/epoch/count", json!(4), "epoch in progress"),
        ("/within/epoch/count", json!(0), "epoch in progress"),
        (
            "/within/epoch/statistics/gap_before/sum/rounded",
            json!(-1.0),
            "a gap",
        ),
        (
            "/within/epoch/statistics/gap_after/unit",
            json!(-1.0),
            "a gap",
        ),
        (
            "/within/epoch/statistics/relaxed/all/unit",
            json!(-1.0),
            "backprop's errors",
        ),
    ] {
        let Err(error) = resumed(pointer, value.clone()) else {
            accepted.push((pointer, value));
            continue;
        };
        let typed = matches!(error, Error::Length { .. } | Error::InvalidOption { .. });
        assert!(typed, "{pointer}, {value}: {error}");
        assert!(
            error.to_string().contains(told),
            "{pointer}, {value}: {error}"
        );
    }
    assert_eq!(accepted, []);
    // JSON has no number that is not finite; a binary format has.
    let mut session = Session::new(&trainer, model::<f64>()).unwrap();
    for _ in 0..5 {
        session.advance().unwrap();
    }
    let objective = serde_json::to_value(session.state()).unwrap();
    let objective = &objective["within"]["epoch"]["statistics"]["objective"];
    let objective = objective.as_f64().unwrap().to_le_bytes();
    let bytes = postcard::to_stdvec(session.state()).unwrap();
    let mut places = bytes.windows(8).enumerate();
    let (at, _) = places.find(|(_, own)| *own == objective).unwrap();
    let mut damaged = bytes.clone();
    damaged[at..at + 8].copy_from_slice(&f64::INFINITY.to_le_bytes());
    let state: SessionState<f64> = postcard::from_bytes(&damaged).unwrap();
    let error = Session::resume(&trainer, session.model().clone(), state).unwrap_err();
    assert!(error.to_string().contains("an objective"), "{error}");
}
