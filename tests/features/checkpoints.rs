//! Runs in files: a run that was saved, left and reopened ends with the bits of one that was not.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use layerwise::decoupled::TargetInit;
use layerwise::energy::Energy;
use layerwise::layer::{Activation, Dense};
use layerwise::nalgebra::DMatrix;
use layerwise::optimizer::{Adam, AdamW, GradientDescent, RmsProp};
use layerwise::parameter_solver::{LeastSquares, LevenbergMarquardt};
use layerwise::schedule::Schedule;
use layerwise::state::State;
use layerwise::storage::Stored;
use layerwise::target_solver::{ErrorDescent, GaussNewton, ReverseSweep};
use layerwise::training::{
    Amortized, Backprop, Decoupling, Event, FixedPrediction, Observer, PcAlm, PenaltyGrowth, Phase,
    Progress, Saver, Scheme, Session, SessionState, StopReason, Stopping, Trainer, Visit, WStep,
    ZIl,
};
use layerwise::{Circuit, DecoupledCircuit, Error};

use crate::storage::Folder;

pub(crate) fn wave<T: Stored>(rows: usize, n: usize) -> DMatrix<T> {
    DMatrix::from_fn(rows, n, |i, j| T::of((0.8 * j as f64 + i as f64).sin()))
}

/// A model without examples.
pub(crate) fn empty<T: Stored>() -> DecoupledCircuit<T> {
    let circuit = Circuit::builder()
        .layer(Dense::new(2, 4, Activation::Tanh).unwrap())
        .layer(Dense::new(4, 3, Activation::Tanh).unwrap())
        .layer(Dense::new(3, 1, Activation::Identity).unwrap())
        .build()
        .unwrap();
    DecoupledCircuit::new(circuit, Energy::default()).unwrap()
}

pub fn model<T: Stored>() -> DecoupledCircuit<T> {
    let mut model = empty();
    let init = TargetInit::NoisyForwardPass { std: 0.2, seed: 3 };
    model
        .add_examples(&wave(2, 11), &wave(1, 11), &init)
        .unwrap();
    model
}

fn adam() -> Adam {
    Adam::new(1e-2).unwrap()
}

/// Targets from a circuit that maps z_0 and z_3 to z_1 and z_2.
fn amortized<T: Stored>() -> Amortized<T> {
    let proposer = Circuit::builder()
        .layer(Dense::new(3, 5, Activation::Tanh).unwrap())
        .layer(Dense::new(5, 7, Activation::Identity).unwrap());
    Amortized::new(proposer.build().unwrap(), adam(), ReverseSweep::new(2)).unwrap()
}

pub(crate) fn schemes<T: Stored>() -> Vec<Box<dyn Scheme<T>>> {
    let sweep = || ReverseSweep::new(2);
    let with = |scheme: Decoupling<T>| scheme.with_multipliers(0.6).unwrap();
    vec![
        Box::new(Backprop),
        Box::new(Decoupling::joint(adam())),
        Box::new(with(Decoupling::joint(RmsProp::new(1e-2).unwrap()))),
        Box::new(Decoupling::persistent(sweep())),
        Box::new(with(Decoupling::persistent(GaussNewton::new(2, 8)))),
        Box::new(Decoupling::refreshed(sweep())),
        Box::new(Decoupling::residual(sweep())),
        Box::new(with(Decoupling::residual(sweep()))),
        Box::new(amortized()),
        Box::new(PcAlm::new(2, ErrorDescent::new(1), 0.5).unwrap()),
        Box::new(FixedPrediction::new()),
        Box::new(ZIl),
    ]
}

pub(crate) fn w_steps<T: Stored>() -> Vec<WStep<T>> {
    let descent = GradientDescent::new(0.05).unwrap();
    vec![
        WStep::optimizer(adam()),
        WStep::optimizer(AdamW::new(adam())),
        WStep::optimizer(RmsProp::new(1e-2).unwrap()),
        WStep::optimizer(descent.with_nesterov(0.8).unwrap()),
        WStep::solver(LeastSquares::ridge(0.1).unwrap()),
        WStep::solver(LevenbergMarquardt::new(1, 5)),
        WStep::solver_of_layer(2, LeastSquares::ridge(0.1).unwrap()).with_optimizer(adam()),
    ]
}

/// A trainer of two phases with everything that has a state.
pub(crate) fn trainer<T: Stored>(
    scheme: Box<dyn Scheme<T>>,
    w_step: WStep<T>,
) -> Option<Trainer<T>> {
    let phase = Phase::with_w_step(scheme, w_step.clone()).ok()?;
    let stopping = Stopping::Validation {
        patience: 2,
        improvement: 0.0,
    };
    let schedule = Schedule::cosine(0.1).unwrap();
    let phase = phase.with_epochs(3).with_batch_size(4).unwrap();
    // Where some layer has an optimiser.
    let scheduled = phase.clone().with_schedule(schedule);
    let phase = match Trainer::new(scheduled.clone()).check(&model()) {
        Ok(()) => scheduled,
        Err(_) => phase,
    };
    let growth = PenaltyGrowth::new(2).unwrap();
    let phase = phase.clone().with_penalty_growth(growth).unwrap_or(phase);
    let phase = phase.with_stopping(stopping).unwrap();
    let second = Phase::new(Decoupling::refreshed(ReverseSweep::new(1)), adam());
    let second = second.with_epochs(2).with_batch_size(5).unwrap();
    let trainer = Trainer::new(phase).then(second).with_seed(4);
    Some(trainer.with_validation(wave(2, 3), wave(1, 3)))
}

pub fn assert_same<T: Stored>(a: &Session<T>, b: &Session<T>, place: &str) {
    assert_eq!(a.state(), b.state(), "{place}");
    assert_eq!(
        format!("{:?}", a.model()),
        format!("{:?}", b.model()),
        "{place}"
    );
}

fn halves_make_a_whole<T: Stored>() {
    let folder = Folder::new(&format!("halves-{}", T::NAME));
    let path = folder.file("run");
    let mut run = 0;
    for (i, w_step) in w_steps::<T>().into_iter().enumerate() {
        for (j, scheme) in schemes::<T>().into_iter().enumerate() {
            let place = format!("{} {i} {scheme:?}", T::NAME);
            let Some(trainer) = trainer(scheme, w_step.clone()) else {
                continue;
            };
            let Ok(mut whole) = Session::new(&trainer, model::<T>()) else {
                continue;
            };
            // Saved after a number of events that differs from case to case.
            for _ in 0..1 + (3 * i + 5 * j) % 14 {
                whole.advance().unwrap();
            }
            whole.save(&path).unwrap();
            let mut half = Session::reopen(&trainer, empty(), &path).unwrap();
            assert_same(&whole, &half, &place);
            while let Some(event) = whole.advance().unwrap() {
                assert_eq!(Some(event), half.advance().unwrap(), "{place}");
            }
            assert_eq!(half.advance().unwrap(), None);
            assert_same(&whole, &half, &place);
            run += 1;
        }
    }
    assert!(run >= 45, "{run}");
}

#[test]
fn a_run_in_two_halves_has_the_bits_of_a_whole_one() {
    halves_make_a_whole::<f32>();
    halves_make_a_whole::<f64>();
}

pub(crate) fn plain<T: Stored>() -> Trainer<T> {
    let scheme = Decoupling::persistent(ReverseSweep::new(2));
    let phase = Phase::new(scheme, adam()).with_epochs(3);
    Trainer::new(phase.with_batch_size(4).unwrap())
}

/// Notes the visits of every checkpoint.
#[derive(Debug, Clone, Default)]
struct Notes(Arc<std::sync::Mutex<Vec<String>>>);

impl Observer<f64> for Notes {
    fn observe(&mut self, event: &Event<f64>, run: &Progress<'_, f64>) -> Result<(), Error> {
        let visits = run.visits;
        let note = match event {
            Event::Visit(record) => {
                assert_eq!(record.visit, visits);
                assert!((run.fraction - visits as f64 / 9.0).abs() < 1e-12);
                return Ok(());
            }
            Event::Epoch(record) => format!("epoch {}", record.epoch),
            Event::Phase(_) => "phase".into(),
            Event::Checkpoint(record) => {
                assert_eq!(record.visits, visits);
                format!("saved {visits}")
            }
            Event::Stop(reason) => format!("{reason:?}"),
            _ => unreachable!(),
        };
        self.0.lock().unwrap().push(note);
        Ok(())
    }
}

#[test]
fn checkpoints_are_written_when_they_are_due() {
    let folder = Folder::new("due");
    let path = folder.file("run");
    let mut session = Session::new(&plain(), model::<f64>()).unwrap();
    let notes = Notes::default();
    session.observe(notes.clone());
    session.checkpoint_every(4, &path).unwrap();
    let report = session.run().unwrap();
    assert_eq!(report.stop, StopReason::Epochs);
    let notes = notes.0.lock().unwrap().join(", ");
    let expected = "epoch 1, saved 4, epoch 2, saved 8, epoch 3, phase, saved 9, Epochs";
    assert_eq!(notes, expected);
    // A finished run just reports.
    let mut again = Session::reopen(&plain(), empty(), &path).unwrap();
    again.checkpoint_every(4, &path).unwrap();
    assert_eq!(
        again.advance().unwrap(),
        Some(Event::Stop(StopReason::Epochs))
    );
    assert_eq!(again.advance().unwrap(), None);
    assert_eq!(again.report().history, report.history);
    assert!(session.checkpoint_every(0, &path).is_err());
}

/// How a run is stopped after its fifth visit.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Stops {
    Flag,
    Method,
    AtAnEpoch,
}

/// Sets a flag after five visits.
#[derive(Debug)]
struct After(Arc<AtomicBool>);

impl Observer<f64> for After {
    fn observe(&mut self, _: &Event<f64>, run: &Progress<'_, f64>) -> Result<(), Error> {
        self.0.store(run.visits >= 5, Ordering::Relaxed);
        Ok(())
    }
}

#[test]
fn a_stopped_run_continues_from_where_it_was() {
    let folder = Folder::new("stopped");
    let path = folder.file("run");
    let mut whole = Session::new(&plain(), model::<f64>()).unwrap();
    whole.run().unwrap();
    for stops in [Stops::Flag, Stops::Method, Stops::AtAnEpoch] {
        let flag = Arc::new(AtomicBool::new(false));
        let trainer = plain().with_stop_flag(flag.clone());
        let mut session = Session::new(&trainer, model::<f64>()).unwrap();
        session.checkpoint_every(1000, &path).unwrap();
        match stops {
            Stops::Flag => session.observe(After(flag)),
            Stops::Method => {
                for _ in 0..6 {
                    session.advance().unwrap();
                }
                session.stop();
            }
            Stops::AtAnEpoch => {
                session.epoch().unwrap();
                session.stop();
            }
        }
        let report = session.run().unwrap();
        assert_eq!(report.stop, StopReason::Requested);
        let mut rest = Session::reopen(&plain(), empty(), &path).unwrap();
        let visits = if stops == Stops::AtAnEpoch { 3 } else { 5 };
        assert_eq!(rest.state().visits(), visits);
        let rest_report = rest.run().unwrap();
        assert_eq!(rest_report.stop, StopReason::Epochs);
        assert_same(&whole, &rest, &format!("{stops:?}"));
        fs::remove_file(&path).unwrap();
    }
    // By the clock: at once, or after some visits.
    let trainer = plain().with_time_limit(Duration::from_micros(300));
    let mut session = Session::new(&trainer, model::<f64>()).unwrap();
    session.checkpoint_every(1000, &path).unwrap();
    let mut last = session.run().unwrap().stop;
    while last == StopReason::TimeLimit {
        let mut next = match path.exists() {
            true => Session::reopen(&plain(), empty(), &path).unwrap(),
            false => Session::new(&plain(), model::<f64>()).unwrap(),
        };
        last = next.run().unwrap().stop;
        assert_same(&whole, &next, "by the clock");
    }
}

/// A saver that fails, and an observer too.
#[derive(Debug, Default, Clone)]
struct Faulty(Arc<AtomicUsize>);

fn fault() -> Error {
    Error::File {
        file: "the disk".into(),
        doing: "written",
        reason: "full".into(),
    }
}

impl Saver<f64> for Faulty {
    fn save(
        &mut self,
        _: &Trainer<f64>,
        _: &DecoupledCircuit<f64>,
        _: &SessionState<f64>,
    ) -> Result<(), Error> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Err(fault())
    }
}

impl Observer<f64> for Faulty {
    fn observe(&mut self, event: &Event<f64>, _: &Progress<'_, f64>) -> Result<(), Error> {
        match event {
            Event::Epoch(_) => Err(fault()),
            _ => Ok(()),
        }
    }
}

/// Not at the first checkpoint, when hours may be lost.
#[test]
fn a_folder_that_is_missing_is_an_error_at_once() {
    let folder = Folder::new("missing");
    let mut session = Session::new(&plain(), model::<f64>()).unwrap();
    let file = folder.file("file");
    fs::write(&file, "not a folder").unwrap();
    for path in [folder.file("none/run"), file.join("run")] {
        let error = session.checkpoint_every(1, &path).unwrap_err();
        assert!(
            matches!(
                error,
                Error::File {
                    doing: "written",
                    ..
                }
            ),
            "{error}"
        );
        assert!(
            error.to_string().contains(path.to_str().unwrap()),
            "{error}"
        );
    }
    // Nothing was set.
    session.run().unwrap();
    // In the folder that is there, and in that of the process.
    for path in [folder.file("run"), PathBuf::from("not-written")] {
        session.checkpoint_every(1, path).unwrap();
    }
}

#[test]
fn failures_stop_the_run_or_are_reported() {
    let mut whole = Session::new(&plain(), model::<f64>()).unwrap();
    whole.run().unwrap();
    // The run stops, and can go on.
    let faulty = Faulty::default();
    let mut session = Session::new(&plain(), model::<f64>()).unwrap();
    session.save_with(4, faulty.clone()).unwrap();
    assert_eq!(session.run().unwrap_err(), fault());
    assert_eq!(session.state().visits(), 4);
    assert!(matches!(session.advance().unwrap(), Some(Event::Visit(_))));
    session.continue_after_failures();
    let report = session.run().unwrap();
    assert_same(&whole, &session, "after failures");
    let visits: Vec<u64> = report.failures.iter().map(|own| own.visits).collect();
    assert_eq!(visits, [8, 9]);
    assert_eq!(faulty.0.load(Ordering::Relaxed), 3);
    let told = report.to_string();
    assert!(
        told.contains("failed: after 8 visits: the disk could not be written: full"),
        "{told}"
    );
    // An observer.
    let mut session = Session::new(&plain(), model::<f64>()).unwrap();
    session.observe(Faulty::default());
    let mut failed = 0;
    while let Err(error) = session.run() {
        assert_eq!(error, fault());
        failed += 1;
    }
    assert_eq!(failed, 3);
    assert_same(&whole, &session, "after failures of an observer");
}

#[test]
fn a_file_is_not_reopened_as_another_run() {
    let folder = Folder::new("other");
    let path = folder.file("run");
    let mut session = Session::new(&plain(), model::<f64>()).unwrap();
    session.advance().unwrap();
    session.save(&path).unwrap();
    let refused = |trainer: &Trainer<f64>| {
        let error = Session::reopen(trainer, empty(), &path).unwrap_err();
        error.to_string()
    };
    let told = refused(&plain().with_seed(9));
    assert!(
        told.contains("the trainer's seed differs: 9 here, but 0 in"),
        "{told}"
    );
    let told = refused(&plain().then(Phase::new(Backprop, adam())));
    assert!(
        told.contains("the number of phases differs: 2 here, but 1 in"),
        "{told}"
    );
    // Another scheme, optimiser, rate, or batch size, also of the same sizes.
    let phase = || Phase::new(Decoupling::persistent(ReverseSweep::new(2)), adam());
    let batches = |phase: Phase<f64>| phase.with_epochs(3).with_batch_size(4).unwrap();
    for other in [
        batches(Phase::new(Backprop, adam())),
        batches(Phase::new(
            Decoupling::refreshed(ReverseSweep::new(2)),
            adam(),
        )),
        batches(Phase::new(
            Decoupling::persistent(ReverseSweep::new(2)),
            AdamW::new(adam()),
        )),
        batches(Phase::new(
            Decoupling::persistent(ReverseSweep::new(2)),
            Adam::new(2e-2).unwrap(),
        )),
        batches(phase()).with_batch_size(5).unwrap(),
        batches(phase()).with_epochs(4),
    ] {
        let told = refused(&Trainer::new(other));
        assert!(told.contains("phase 0 differs: "), "{told}");
        assert!(told.len() < 700, "only what differs: {told}");
    }
    // On purpose, by way of the state.
    let reopened = Session::reopen(&plain(), empty(), &path).unwrap();
    let longer = Trainer::new(batches(phase()).with_epochs(4));
    let (model_then, state) = (reopened.model().clone(), reopened.state().clone());
    let mut longer = Session::resume(&longer, model_then, state).unwrap();
    assert_eq!(longer.run().unwrap().history.len(), 4);
    model::<f64>().save(&path).unwrap();
    let told = refused(&plain());
    assert!(told.contains("it holds no run"), "{told}");
    // A model is read from a run, and a circuit.
    session.save(&path).unwrap();
    let read = DecoupledCircuit::<f64>::open(&path, &Default::default()).unwrap();
    assert_eq!(format!("{read:?}"), format!("{:?}", session.model()));
    Circuit::<f64>::open(&path, &Default::default()).unwrap();
    // Damage anywhere is told.
    let bytes = fs::read(&path).unwrap();
    for place in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[place] ^= 0x10;
        Session::from_bytes(&plain(), empty::<f64>(), &damaged).unwrap_err();
        Session::from_bytes(&plain(), empty::<f64>(), &bytes[..place]).unwrap_err();
    }
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    Session::reopen(&plain(), empty::<f64>(), &path).unwrap_err();
}

const CHILD: &str = "LAYERWISE_CHECKPOINT";

/// A long run that saves itself after every visit.
fn long() -> Trainer<f64> {
    let scheme = Decoupling::joint(adam());
    let phase = Phase::new(scheme, adam()).with_epochs(400);
    Trainer::new(phase.with_batch_size(4).unwrap())
}

/// In a child process of the next test: continues the run in the file.
#[test]
fn child() {
    let Some(path) = std::env::var_os(CHILD).map(PathBuf::from) else {
        return;
    };
    continued(&path).run().unwrap();
}

fn continued(path: &Path) -> Session<f64> {
    let mut session = match path.exists() {
        true => Session::reopen(&long(), empty(), path).unwrap(),
        false => Session::new(&long(), model()).unwrap(),
    };
    session.checkpoint_every(1, path).unwrap();
    session
}

/// Killed 50 times at random moments, and resumed each time in a new process.
#[test]
fn a_run_survives_being_killed() {
    let folder = Folder::new("killed");
    let path = folder.file("run");
    let (mut kills, mut visits) = (0, Vec::new());
    for round in 0_u64.. {
        let program = std::env::current_exe().unwrap();
        let mut child = Command::new(program)
            .args(["--exact", "checkpoints::child", "--nocapture"])
            .env(CHILD, &path)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        if kills < 50 {
            let wait = 4_000 + 7_919 * round % 31_000;
            std::thread::sleep(Duration::from_micros(wait));
            child.kill().unwrap();
            kills += 1;
            child.wait().unwrap();
            // There is no file yet, or one that is whole.
            if path.exists() {
                let left = Session::reopen(&long(), empty::<f64>(), &path).unwrap();
                visits.push(left.state().visits());
            }
        } else {
            assert!(child.wait().unwrap().success());
            break;
        }
    }
    println!("visits saved at each kill: {visits:?}");
    visits.dedup();
    assert!(visits.len() > 1, "the run got nowhere between the kills");
    let mut whole = Session::new(&long(), model::<f64>()).unwrap();
    whole.run().unwrap();
    let mut resumed = continued(&path);
    resumed.run().unwrap();
    assert_same(&whole, &resumed, "killed");
}

/// A file that is saved by hand continues too, stopped or not.
#[test]
fn a_run_that_is_saved_after_its_stop_continues() {
    let mut whole = Session::new(&plain(), model::<f64>()).unwrap();
    whole.run().unwrap();
    let mut session = Session::new(&plain(), model::<f64>()).unwrap();
    for _ in 0..3 {
        session.advance().unwrap();
    }
    session.stop();
    let bytes = session.to_bytes().unwrap();
    let mut rest = Session::from_bytes(&plain(), empty(), &bytes).unwrap();
    assert_eq!(rest.run().unwrap().stop, StopReason::Epochs);
    assert_same(&whole, &rest, "saved after a stop");
}

/// Wherever a run is stopped, and after whichever event it is saved before its phase is closed.
#[test]
fn a_run_that_is_saved_while_it_stops_continues() {
    let persistent = || Box::new(Decoupling::persistent(ReverseSweep::new(1)));
    let phase = || Phase::new(persistent(), adam()).with_batch_size(4).unwrap();
    let rule = |stopping| Trainer::new(phase().with_epochs(3).with_stopping(stopping).unwrap());
    let (patience, improvement) = (1, 0.9);
    for (number, trainer) in [
        plain(),
        trainer(persistent(), WStep::optimizer(adam())).unwrap(),
        rule(Stopping::Objective { at_most: 1e9 }),
        rule(Stopping::Stagnation {
            patience,
            improvement,
        }),
    ]
    .into_iter()
    .enumerate()
    {
        let mut whole = Session::new(&trainer, model::<f64>()).unwrap();
        whole.run().unwrap();
        let last = whole.state().visits();
        for (visit, by_flag) in (1..=last).flat_map(|visit| [(visit, false), (visit, true)]) {
            let flag = Arc::new(AtomicBool::new(false));
            let stoppable = trainer.clone().with_stop_flag(flag.clone());
            let mut session = Session::new(&stoppable, model::<f64>()).unwrap();
            while session.state().visits() < visit {
                session.advance().unwrap();
            }
            match by_flag {
                true => flag.store(true, Ordering::Relaxed),
                false => session.stop(),
            }
            loop {
                let bytes = session.to_bytes().unwrap();
                let mut rest = Session::from_bytes(&trainer, empty(), &bytes).unwrap();
                rest.run().unwrap();
                let place = format!("run {number}, stopped after visit {visit}, {by_flag}");
                assert_same(&whole, &rest, &place);
                if let Some(Event::Phase(_)) | None = session.advance().unwrap() {
                    break;
                }
            }
        }
    }
}

/// What follows the state in a file that is whole is no part of it.
#[test]
fn bytes_after_a_state_are_refused() {
    let mut session = Session::new(&plain(), model::<f64>()).unwrap();
    session.advance().unwrap();
    let bytes = session.to_bytes().unwrap();
    let reopened = |bytes: &[u8]| Session::<f64>::from_bytes(&plain(), empty(), bytes).map(|_| ());
    reopened(&crate::storage::sealed_with(&bytes, "", "", |_, _| {})).unwrap();
    let longer = |name: &str, array: &mut Vec<u8>| {
        if name == "run.state" {
            array.push(0);
        }
    };
    let longer = crate::storage::sealed_with(&bytes, "", "", longer);
    let error = reopened(&longer).unwrap_err();
    assert!(matches!(error, Error::Format { .. }), "{error}");
    assert!(
        error.to_string().contains("followed by something"),
        "{error}"
    );
    let shorter = |name: &str, array: &mut Vec<u8>| {
        if name == "run.state" {
            array.pop();
        }
    };
    let shorter = crate::storage::sealed_with(&bytes, "", "", shorter);
    let error = reopened(&shorter).unwrap_err();
    assert!(error.to_string().contains("cannot be read"), "{error}");
}

/// A phase that its own time limit ended stays ended, wherever the run is then left.
#[test]
fn the_time_limit_of_a_phase_is_not_given_again() {
    let folder = Folder::new("limited");
    let path = folder.file("run");
    let phase = || Phase::new(Backprop, adam()).with_batch_size(4).unwrap();
    let limited = || {
        let phase = phase().with_epochs(1_000_000);
        phase.with_time_limit(Duration::from_millis(20))
    };
    let trainer = Trainer::new(limited()).then(phase().with_epochs(2));
    for every in [1, 1_000_000] {
        let mut session = Session::new(&trainer, model::<f64>()).unwrap();
        session.checkpoint_every(every, &path).unwrap();
        let ended = session.finish_phase().unwrap().unwrap();
        assert_eq!(ended.stop, StopReason::PhaseTimeLimit);
        let visits = session.state().visits();
        // Left in the second phase.
        let mut again = Session::reopen(&trainer, empty(), &path).unwrap();
        assert_eq!(again.finish_phase().unwrap(), Some(ended));
        assert_eq!(again.state().visits(), visits);
        assert_eq!(again.run().unwrap().stop, StopReason::Epochs);
        assert_eq!(again.state().visits(), visits + 6);
        session.run().unwrap();
        assert_same(&session, &again, "in the second phase");
        // Nothing is left to do after a last phase that was limited.
        let trainer = Trainer::new(limited());
        let mut session = Session::new(&trainer, model::<f64>()).unwrap();
        session.checkpoint_every(every, &path).unwrap();
        session.run().unwrap();
        let mut again = Session::reopen(&trainer, empty(), &path).unwrap();
        again.run().unwrap();
        assert_same(&session, &again, "after the last phase");
        let bytes = session.to_bytes().unwrap();
        let mut again = Session::from_bytes(&trainer, empty(), &bytes).unwrap();
        again.run().unwrap();
        assert_same(&session, &again, "saved at the end");
    }
}

/// Also where the limit leaves no time for a visit: nothing else says that the limit was reached.
#[test]
fn a_limit_without_a_visit_is_saved() {
    let phase = || Phase::new(Backprop, adam()).with_batch_size(4).unwrap();
    let trainer = Trainer::new(phase().with_time_limit(Duration::ZERO)).then(phase());
    let saves = Faulty::default();
    let mut session = Session::new(&trainer, model::<f64>()).unwrap();
    session.save_with(1_000_000, saves.clone()).unwrap();
    session.continue_after_failures();
    let ended = session.finish_phase().unwrap().unwrap();
    assert_eq!(ended.stop, StopReason::PhaseTimeLimit);
    let visits = session.state().visits();
    assert_eq!((visits, saves.0.load(Ordering::Relaxed)), (0, 1));
}

/// Backprop without a step in the last visit of an epoch, which is the one with three examples.
#[derive(Debug)]
struct Sparing;

impl Scheme<f64> for Sparing {
    fn start(&self, _: &mut DecoupledCircuit<f64>) -> Result<State<f64>, Error> {
        Ok(State::new())
    }

    fn visit(&self, _: &mut State<f64>, visit: &mut Visit<'_, f64>) -> Result<f64, Error> {
        let evaluated = visit.backprop()?;
        match evaluated.columns().len() {
            3 => Ok(evaluated.energy()),
            _ => evaluated.step(),
        }
    }
}

#[test]
fn gradients_may_wait_for_a_step_of_the_next_epoch() {
    let w_step = WStep::optimizer(adam()).with_accumulation(3).unwrap();
    let phase = Phase::with_w_step(Sparing, w_step).unwrap();
    let trainer = Trainer::new(phase.with_epochs(4).with_batch_size(4).unwrap());
    let mut whole = Session::new(&trainer, model::<f64>()).unwrap();
    whole.run().unwrap();
    let mut session = Session::new(&trainer, model::<f64>()).unwrap();
    loop {
        let bytes = session.to_bytes().unwrap();
        session = Session::from_bytes(&trainer, empty(), &bytes).unwrap();
        if let Some(Event::Stop(_)) = session.advance().unwrap() {
            break;
        }
    }
    // Eight visits with a step each third.
    assert_eq!(session.report().steps, 2);
    assert_same(&whole, &session, "reopened at every event");
}
