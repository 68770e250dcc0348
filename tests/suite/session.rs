//! A run as a value: loops of one's own are the trainer's run, and a run that is taken up again from a
//! copy of its model and state goes on bit for bit, wherever it was broken off.

use std::sync::Arc;

use layerwise::data::metrics;
use layerwise::decoupled::TargetInit;
use layerwise::energy::Energy;
use layerwise::layer::{Activation, Dense};
use layerwise::optimizer::{Adam, AdamW, GradientDescent, RmsProp};
use layerwise::parameter_solver::{LeastSquares, LevenbergMarquardt};
use layerwise::schedule::Schedule;
use layerwise::target_solver::{
    ErrorDescent, GaussNewton, RedBlack, ReverseSweep, StepSize, SynchronousDescent,
};
use layerwise::training::{
    Backprop, Decoupling, ErrorShare, Event, FixedPrediction, PcAlm, PenaltyGrowth, Phase, Scheme,
    Session, StopReason, Stopping, Targets, Trainer, TrainingReport, WStep, ZIl, ZStep,
};
use layerwise::{Circuit, DecoupledCircuit, Error, Scalar};
use nalgebra::DMatrix;

const EXAMPLES: usize = 11;
/// Visits of an epoch in batches of 4: of 4, 4 and 3 examples.
const BATCH: usize = 4;
const VISITS: usize = 3;

fn wave(rows: usize, n: usize, step: f64) -> DMatrix<f64> {
    DMatrix::from_fn(rows, n, |i, j| (step * (j as f64 + 1.3 * i as f64)).sin())
}

/// Two tanh layers and a linear one, targets beside the forward pass.
fn model() -> DecoupledCircuit<f64> {
    let dense = |input, output, activation| Dense::new(input, output, activation).unwrap();
    let circuit = Circuit::builder()
        .layer(dense(2, 4, Activation::Tanh))
        .layer(dense(4, 3, Activation::Tanh))
        .layer(dense(3, 1, Activation::Identity))
        .seed(6)
        .build()
        .unwrap();
    let mut model = DecoupledCircuit::new(circuit, Energy::default()).unwrap();
    let init = TargetInit::NoisyForwardPass { std: 0.2, seed: 3 };
    let (x, y) = (wave(2, EXAMPLES, 0.7), wave(1, EXAMPLES, 1.1));
    model.add_examples(&x, &y, &init).unwrap();
    model
}

/// θ, z and μ, bit for bit.
fn bits(model: &DecoupledCircuit<f64>) -> Vec<u64> {
    let mut values = model.terms().penalties().to_vec();
    for t in 0..model.circuit().depth() {
        values.extend(model.circuit().parameters(t));
        values.extend(model.z(t).unwrap().iter());
    }
    values.into_iter().map(f64::to_bits).collect()
}

/// What a run leaves: the model's bits, and the report without its time.
type Outcome = (Vec<u64>, TrainingReport<f64>);

fn outcome(model: &DecoupledCircuit<f64>, mut report: TrainingReport<f64>) -> Outcome {
    report.seconds = 0.0;
    (bits(model), report)
}

fn end(session: Session<f64>) -> Outcome {
    let (model, report) = session.finish();
    outcome(&model, report)
}

fn whole(trainer: &Trainer<f64>) -> Outcome {
    let mut model = model();
    let report = trainer.run(&mut model).unwrap();
    outcome(&model, report)
}

fn adam() -> Adam {
    Adam::new(1e-2).unwrap()
}

fn descent(rate: f64) -> GradientDescent {
    GradientDescent::new(rate).unwrap()
}

fn momentum() -> GradientDescent {
    descent(0.05).with_momentum(0.9).unwrap()
}

type Shared = Arc<dyn Scheme<f64>>;

/// Every scheme, with solvers and rules that keep state from visit to visit.
fn schemes() -> Vec<(String, Shared)> {
    let fixed = StepSize::Fixed(0.1);
    let synchronous = SynchronousDescent::new(2, fixed)
        .unwrap()
        .with_rule(momentum());
    let bounded = StepSize::Bounded { margin: 1.2 };
    let solvers: [(&str, ZStep<f64>); 8] = [
        ("none", ZStep::None),
        ("joint descent", ZStep::Joint(Arc::new(momentum()))),
        ("joint Adam", ZStep::Joint(Arc::new(adam()))),
        ("along the sweep", ZStep::Along(bounded)),
        (
            "sweep",
            ZStep::Solver(Arc::new(ReverseSweep::new(1).with_bound_every(4).unwrap())),
        ),
        (
            "red and black",
            ZStep::Solver(Arc::new(RedBlack::new(2).with_bound_every(3).unwrap())),
        ),
        ("synchronous", ZStep::Solver(Arc::new(synchronous))),
        (
            "Gauss-Newton",
            ZStep::Solver(Arc::new(GaussNewton::new(2, 5))),
        ),
    ];
    let schedule = Schedule::linear(0.0).unwrap();
    let targets = [
        Targets::Persistent,
        Targets::Refreshed,
        Targets::Residual {
            keep: 0.9,
            schedule,
        },
        Targets::Projected { seed: 5 },
    ];
    let mut all: Vec<(String, Shared)> = vec![
        ("backprop".into(), Arc::new(Backprop)),
        ("Z-IL".into(), Arc::new(ZIl)),
        ("fixed prediction".into(), Arc::new(FixedPrediction::new())),
        (
            "PC-ALM".into(),
            Arc::new(
                PcAlm::new(2, ErrorDescent::new(1).with_bound_every(3).unwrap(), 0.5).unwrap(),
            ),
        ),
    ];
    for targets in targets {
        for (name, z_step) in &solvers {
            let Ok(scheme) = Decoupling::new(targets, z_step.clone()) else {
                continue;
            };
            if let Ok(with) = scheme.clone().with_multipliers(0.5) {
                all.push((format!("{targets:?}, {name}, λ"), Arc::new(with)));
            }
            all.push((format!("{targets:?}, {name}"), Arc::new(scheme)));
        }
    }
    // 4 · 8 without the 4 that are refused, and with multipliers without 2 more.
    assert_eq!(all.len(), 4 + 28 + 26);
    all
}

fn w_steps() -> Vec<(&'static str, WStep<f64>)> {
    let squares = || {
        LeastSquares::ridge(1e-2)
            .unwrap()
            .with_proximal(1.0)
            .unwrap()
    };
    let rms = RmsProp::new(1e-2).unwrap();
    vec![
        ("momentum", WStep::optimizer(momentum())),
        ("Adam", WStep::optimizer(adam())),
        ("AdamW", WStep::optimizer(AdamW::new(adam()))),
        ("RMSProp", WStep::optimizer(rms)),
        (
            "three steps",
            WStep::optimizer(adam()).with_steps(3).unwrap(),
        ),
        (
            "bounded norm",
            WStep::optimizer(momentum())
                .with_max_gradient_norm(0.05)
                .unwrap(),
        ),
        ("least squares", WStep::solver(squares())),
        (
            "least squares that forget",
            WStep::solver_of_layer(1, squares().with_forgetting_factor(0.7).unwrap())
                .with_optimizer(adam()),
        ),
        (
            "Levenberg-Marquardt",
            WStep::solver(LevenbergMarquardt::new(1, 6)),
        ),
        ("none", WStep::none()),
    ]
}

/// Every scheme with every W-step that it works with.
fn combinations() -> Vec<(String, Phase<f64>)> {
    let mut all = Vec::new();
    for (scheme_name, scheme) in schemes() {
        for (name, w_step) in w_steps() {
            if let Ok(phase) = Phase::with_w_step(scheme.clone(), w_step) {
                all.push((format!("{scheme_name}; {name}"), phase));
            }
        }
    }
    all
}

/// Batches, schedules, and a second phase that begins where the first one ended.
fn run_of(phase: Phase<f64>) -> Trainer<f64> {
    let phase = phase.with_epochs(2).with_batch_size(BATCH).unwrap();
    let scheduled = phase.clone().with_schedule(Schedule::cosine(0.3).unwrap());
    // Where some layer has an optimiser.
    let phase = match Trainer::new(scheduled.clone()).check(&model()) {
        Ok(()) => scheduled,
        Err(_) => phase,
    };
    let next = Decoupling::persistent(ReverseSweep::new(1));
    let next = Phase::new(next, adam())
        .with_epochs(1)
        .with_batch_size(6)
        .unwrap();
    let trainer = Trainer::new(phase).then(next).with_seed(8);
    trainer.measure_relaxation()
}

#[test]
fn loops_of_ones_own_are_the_run_of_the_trainer() {
    for (name, phase) in combinations() {
        let trainer = run_of(phase);
        let expected = whole(&trainer);
        let session = || Session::new(&trainer, model()).unwrap();

        let mut events = session();
        let mut counts = [0; 3];
        while let Some(event) = events.advance().unwrap() {
            match event {
                Event::Visit(visit) => {
                    counts[0] += 1;
                    assert_eq!(visit.visit, counts[0], "{name}");
                }
                Event::Epoch(record) => {
                    assert_eq!(events.history().last(), Some(&record), "{name}");
                    counts[1] += 1;
                }
                Event::Phase(report) => {
                    assert_eq!(events.report().phases.last(), Some(&report), "{name}");
                    counts[2] += 1;
                }
                Event::Stop(reason) => assert_eq!(reason, events.report().stop, "{name}"),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(counts, [2 * VISITS as u64 + 2, 3, 2], "{name}");
        assert!(events.is_over() && events.advance().unwrap().is_none());

        let mut epochs = session();
        let mut history = Vec::new();
        while let Some(record) = epochs.epoch().unwrap() {
            history.push(record);
        }
        assert_eq!(history, expected.1.history, "{name}");

        let mut phases = session();
        let mut reports = Vec::new();
        while let Some(report) = phases.finish_phase().unwrap() {
            reports.push(report);
        }
        assert_eq!(reports, expected.1.phases, "{name}");

        let mut at_once = session();
        at_once.run().unwrap();

        // All ways in one run.
        let mut mixed = session();
        mixed.advance().unwrap();
        mixed.epoch().unwrap();
        mixed.advance().unwrap();
        mixed.finish_phase().unwrap();
        mixed.run().unwrap();

        for session in [&events, &epochs, &phases, &at_once, &mixed] {
            assert_eq!(session.state(), events.state(), "{name}");
        }
        for session in [events, epochs, phases, at_once, mixed] {
            assert!(end(session) == expected, "{name}");
        }
    }
}

/// A new session from copies of another one's model and state.
fn resumed(trainer: &Trainer<f64>, session: &Session<f64>) -> Session<f64> {
    Session::resume(trainer, session.model().clone(), session.state().clone()).unwrap()
}

/// Breaks a run off after every event, and takes it up in a new session: the same states on the way,
/// the same end.
fn check_resumed(name: &str, trainer: &Trainer<f64>) -> TrainingReport<f64> {
    let expected = whole(trainer);
    let mut session = Session::new(trainer, model()).unwrap();
    let mut chain = resumed(trainer, &session);
    let mut places = 0;
    loop {
        // Straight on from here to the end.
        let mut rest = resumed(trainer, &session);
        assert_eq!(rest.state(), session.state(), "{name}, {places}");
        rest.run().unwrap();
        assert!(end(rest) == expected, "{name}, resumed at {places}");
        // Broken off at every event.
        let (own, other) = (session.advance().unwrap(), chain.advance().unwrap());
        assert_eq!(own, other, "{name}, {places}");
        assert_eq!(chain.state(), session.state(), "{name}, {places}");
        assert!(bits(chain.model()) == bits(session.model()), "{name}");
        if own.is_none() {
            break;
        }
        chain = resumed(trainer, &chain);
        places += 1;
    }
    assert!(end(chain) == expected, "{name}");
    assert!(end(session) == expected, "{name}");
    expected.1
}

#[test]
fn a_run_that_is_taken_up_again_goes_on_bit_for_bit() {
    for (name, phase) in combinations() {
        let report = check_resumed(&name, &run_of(phase));
        assert_eq!(report.phases.len(), 2, "{name}");
    }
}

#[test]
fn penalties_that_change_are_taken_up_again() {
    // How μ changes does not depend on how θ moves, so each way of changing μ is tried with a different way of
    // moving θ. Some schemes have no μ that could change.
    let (mut grown, mut shared, mut scheduled) = (0, 0, 0);
    for (name, phase) in combinations() {
        if name.ends_with("; momentum") {
            let growth = PenaltyGrowth::new(2).unwrap().with_factor(1.5).unwrap();
            let Ok(phase) = phase.with_penalty_growth(growth) else {
                continue;
            };
            let report = check_resumed(&name, &run_of(phase));
            assert_eq!(report.phases[0].penalties.len(), 2, "{name}");
            grown += 1;
        } else if name.ends_with("; least squares") {
            let share = ErrorShare::new(0.7).unwrap().with_every(2).unwrap();
            let Ok(phase) = phase.with_error_share(share) else {
                continue;
            };
            let report = check_resumed(&name, &run_of(phase));
            assert_ne!(report.phases[0].penalties, [1.0; 2], "{name}");
            shared += 1;
        } else if name.ends_with("; Levenberg-Marquardt") {
            let schedule = Schedule::geometric(4.0).unwrap().with_warm_up(2);
            let Ok(phase) = phase.with_penalty_schedule(schedule) else {
                continue;
            };
            let report = check_resumed(&name, &run_of(phase));
            assert!(report.phases[0].penalties[0] > 1.0, "{name}");
            scheduled += 1;
        }
    }
    assert!(
        grown > 3 && shared > 3 && scheduled > 3,
        "{grown}, {shared}, {scheduled}"
    );
    // The gap stays where nothing moves targets: μ grows in the visits behind two windows.
    let phase = Phase::new(Decoupling::weights_only(), descent(1e-6));
    let growth = PenaltyGrowth::new(1).unwrap();
    let trainer = run_of(phase.with_penalty_growth(growth).unwrap());
    let report = check_resumed("growth", &trainer);
    assert!(report.phases[0].penalties.iter().all(|&mu| mu > 1.0));
}

/// μ above the cap of a phase that is over, or that a schedule would raise again, is no obstacle.
#[test]
fn penalties_of_later_phases_are_taken_up_again() {
    let phase = || Phase::new(Decoupling::weights_only(), descent(1e-6)).with_epochs(3);
    let growth = |cap| PenaltyGrowth::new(1).unwrap().with_cap(cap).unwrap();
    let growing = |cap| phase().with_penalty_growth(growth(cap)).unwrap();
    let schedule = Schedule::geometric(8.0).unwrap();
    let scheduled = phase().with_penalty_schedule(schedule).unwrap();
    let first = growing(2.0).with_batch_size(BATCH).unwrap();
    let trainers = [
        Trainer::new(first).then(growing(4.0)),
        Trainer::new(scheduled).then(growing(9.0)),
    ];
    for trainer in trainers {
        let report = check_resumed("caps", &trainer);
        assert!(report.phases[1].penalties[0] > report.phases[0].penalties[0]);
    }
}

#[test]
fn early_stopping_is_taken_up_again() {
    let (patience, improvement) = (2, 0.0);
    let rules = [
        Stopping::Validation {
            patience,
            improvement,
        },
        Stopping::Stagnation {
            patience,
            improvement,
        },
    ];
    let mut stops = Vec::new();
    for stopping in rules {
        for (name, scheme) in schemes() {
            // Long steps: some epoch does not improve on the best.
            let phase = Phase::new(scheme, descent(0.6).with_momentum(0.8).unwrap())
                .with_epochs(6)
                .with_batch_size(BATCH)
                .unwrap()
                .with_stopping(stopping)
                .unwrap();
            let trainer = Trainer::new(phase)
                .then(Phase::new(Backprop, adam()).with_epochs(1))
                .with_validation(wave(2, 5, 0.9), wave(1, 5, 0.4))
                .with_measure_every(2);
            let report = check_resumed(&name, &trainer);
            let validates = matches!(stopping, Stopping::Validation { .. });
            assert_eq!(report.phases[0].best_epoch.is_some(), validates, "{name}");
            stops.push(report.phases[0].stop);
        }
    }
    for reason in [StopReason::Validation, StopReason::Stagnation] {
        assert!(stops.contains(&reason), "{stops:?}");
    }
}

#[cfg(feature = "rayon")]
#[test]
fn a_run_is_taken_up_again_with_other_threads() {
    for (name, scheme) in schemes() {
        let trainer = run_of(Phase::new(scheme, adam()));
        let threads = trainer.clone().with_threads(3).unwrap();
        let mut session = Session::new(&trainer, model()).unwrap();
        for _ in 0..VISITS + 2 {
            session.advance().unwrap();
        }
        let mut rest = resumed(&threads, &session);
        rest.run().unwrap();
        assert!(end(rest) == whole(&trainer), "{name}");
    }
}

/// Otherwise some examples of the epoch would be visited twice, and others never.
#[test]
fn an_epoch_is_finished_in_the_order_in_which_it_began() {
    let trainer = run_of(Phase::new(Backprop, adam()));
    let mut session = Session::new(&trainer, model()).unwrap();
    // The last epoch has begun: nothing is drawn by the other seed any more.
    while session.progress().epochs < session.progress().planned {
        session.advance().unwrap();
    }
    // One of its two batches is left.
    assert_eq!(session.state().visits(), 2 * VISITS as u64 + 1);
    let mut other = resumed(&trainer.clone().with_seed(9), &session);
    other.run().unwrap();
    assert!(end(other) == whole(&trainer));
}

#[test]
fn a_phase_that_has_ended_takes_no_further_epochs() {
    let trainer = |epochs| Trainer::new(Phase::new(Backprop, adam()).with_epochs(epochs));
    let mut session = Session::new(&trainer(5), model()).unwrap();
    session.run().unwrap();
    let (model, state) = (session.model().clone(), session.state().clone());
    let error = Session::resume(&trainer(50), model, state).unwrap_err();
    let what = "epochs of phase 0, which has ended (add a phase to go on)".into();
    let (expected, found) = (5, 50);
    assert_eq!(
        error,
        Error::Length {
            what,
            expected,
            found
        }
    );
    resumed(&trainer(5), &session);
}

/// The share done of a run that was stopped is that of the visits it made, not of whole phases.
#[test]
fn a_stopped_run_is_not_done() {
    let phase = |epochs| Phase::new(Backprop, adam()).with_epochs(epochs);
    let phase = |epochs| phase(epochs).with_batch_size(BATCH).unwrap();
    let trainer = Trainer::new(phase(1)).then(phase(3));
    let all = 4.0 * VISITS as f64;
    for stop in 0..4 * VISITS as u64 {
        let mut session = Session::new(&trainer, model()).unwrap();
        while session.state().visits() < stop {
            session.advance().unwrap();
        }
        let before = session.progress().fraction;
        assert!(
            (before - stop as f64 / all).abs() < 1e-12,
            "{stop}: {before}"
        );
        session.stop();
        session.run().unwrap();
        assert!(session.is_over());
        let after = session.progress().fraction;
        assert!(
            (after - before).abs() < 1e-12,
            "{stop}: {after} after {before}"
        );
    }
    let mut session = Session::new(&trainer, model()).unwrap();
    session.run().unwrap();
    assert_eq!(session.progress().fraction, 1.0);
    // A phase that ended early for a reason of its own counts as whole.
    let early = phase(9).with_stopping(Stopping::Objective { at_most: 1e9 });
    let mut session = Session::new(&Trainer::new(early.unwrap()), model()).unwrap();
    session.run().unwrap();
    assert_eq!(session.progress().fraction, 1.0);
}

/// The last record of a run that was stopped has no composed loss; its report has the last measured.
#[test]
fn a_stopped_run_reports_what_was_measured() {
    let phase = Phase::new(Backprop, adam()).with_epochs(9);
    let trainer = Trainer::new(phase.with_batch_size(BATCH).unwrap());
    let mut session = Session::new(&trainer, model()).unwrap();
    assert_eq!(session.report().last_measured(), None);
    while session.state().visits() < 2 * VISITS as u64 + 1 {
        session.advance().unwrap();
    }
    session.stop();
    let report = session.run().unwrap();
    assert_eq!((report.last().unwrap().epoch, report.history.len()), (3, 3));
    assert_eq!(report.last().unwrap().composed_loss, None);
    let measured = report.last_measured().unwrap();
    assert_eq!(measured, &report.history[1]);
    let shown = format!(
        "last measured in epoch 2: objective {:.3e}",
        measured.objective
    );
    let loss = format!("composed loss {:.3e}", measured.composed_loss.unwrap());
    let text = report.to_string();
    assert!(text.contains(&shown) && text.contains(&loss), "{text}");
    // A whole run says nothing twice.
    let mut session = Session::new(&trainer, model()).unwrap();
    let text = session.run().unwrap().to_string();
    assert!(!text.contains("last measured"), "{text}");
}

#[test]
fn equal_states_are_of_runs_that_stand_alike() {
    let phase = || Phase::new(Decoupling::joint(adam()), adam());
    let trainer = run_of(phase());
    let mut session = Session::new(&trainer, model()).unwrap();
    let mut states = vec![session.state().clone()];
    while session.advance().unwrap().is_some() {
        states.push(session.state().clone());
    }
    // Each is equal to itself and to no other.
    for (i, a) in states.iter().enumerate() {
        for (j, b) in states.iter().enumerate() {
            assert_eq!(a == b, i == j, "{i} {j}");
        }
    }
    // Another run of the same options on the same model passes the same states, another does not.
    let after_two = |trainer: &Trainer<f64>| {
        let mut session = Session::new(trainer, model()).unwrap();
        session.advance().unwrap();
        session.advance().unwrap();
        session.state().clone()
    };
    assert_eq!(after_two(&trainer), states[2]);
    assert_ne!(after_two(&trainer.clone().with_seed(9)), states[2]);
}

#[test]
fn stop_in_the_middle_of_an_epoch_closes_it() {
    for (name, scheme) in schemes() {
        let trainer = run_of(Phase::new(scheme, adam()));
        // 1 or 2 of the second epoch's 3 visits.
        for visits in 1..VISITS {
            let mut session = Session::new(&trainer, model()).unwrap();
            session.epoch().unwrap();
            let mut objective = 0.0;
            for _ in 0..visits {
                let Some(Event::Visit(visit)) = session.advance().unwrap() else {
                    panic!("{name}: no visit");
                };
                objective += visit.objective;
            }
            session.stop();
            assert!(!session.is_over());
            let before = bits(session.model());
            // A run that was stopped is taken up as one.
            let mut other = resumed(&trainer, &session);
            let Some(Event::Epoch(record)) = session.advance().unwrap() else {
                panic!("{name}: no end of the epoch");
            };
            assert_eq!(record.objective, objective / (BATCH * visits) as f64);
            let measured = (record.composed_loss, record.validation_loss, record.gap);
            assert_eq!(measured, (None, None, None), "{name}");
            assert!(bits(session.model()) == before, "{name}: another visit");
            let Some(Event::Phase(report)) = session.advance().unwrap() else {
                panic!("{name}: no end of the phase");
            };
            let told = (report.stop, report.epochs, report.steps as usize);
            assert_eq!(told, (StopReason::Requested, 2, VISITS + visits), "{name}");
            let stop = Event::Stop(StopReason::Requested);
            assert_eq!(session.advance().unwrap(), Some(stop), "{name}");
            assert_eq!(session.advance().unwrap(), None, "{name}");
            assert!(session.is_over());
            other.run().unwrap();
            let own = end(session);
            assert_eq!((own.1.stop, own.1.history.len()), (told.0, 2), "{name}");
            assert!(end(other) == own, "{name}");
        }
    }
}

#[test]
fn stop_after_an_epoch_leaves_what_a_shorter_run_leaves() {
    for (name, scheme) in schemes() {
        // One visit an epoch: the first factor of the residuals' schedule is 1 in either run.
        let phase = |epochs| {
            Phase::new(scheme.clone(), adam())
                .with_epochs(epochs)
                .with_batch_size(EXAMPLES)
                .unwrap()
        };
        let trainer = Trainer::new(phase(2)).then(Phase::new(Backprop, adam()));
        let mut session = Session::new(&trainer, model()).unwrap();
        session.epoch().unwrap();
        session.stop();
        session.run().unwrap();
        let (bits, report) = end(session);
        let (expected, mut shorter) = whole(&Trainer::new(phase(1)));
        assert!(bits == expected, "{name}");
        assert_eq!(report.stop, StopReason::Requested, "{name}");
        shorter.stop = StopReason::Requested;
        shorter.phases[0].stop = StopReason::Requested;
        assert_eq!(report, shorter, "{name}");
    }
}

#[test]
fn stop_before_anything_and_between_phases_ends_at_once() {
    let trainer = run_of(Phase::new(Backprop, adam()));
    let mut session = Session::new(&trainer, model()).unwrap();
    session.stop();
    let stop = Event::Stop(StopReason::Requested);
    assert_eq!(session.advance().unwrap(), Some(stop));
    assert!(session.is_over());
    assert_eq!(session.advance().unwrap(), None);
    let (left, report) = end(session);
    assert!(left == bits(&model()));
    assert_eq!((report.steps, report.stop), (0, StopReason::Requested));
    assert!(report.phases.is_empty() && report.history.is_empty());

    let mut session = Session::new(&trainer, model()).unwrap();
    session.finish_phase().unwrap();
    let between = bits(session.model());
    session.stop();
    session.stop();
    let report = session.run().unwrap();
    assert_eq!((report.phases.len(), report.history.len()), (1, 2));
    assert!(bits(session.model()) == between);
}

#[test]
fn a_state_of_other_phases_is_refused() {
    let phase = || Phase::new(Decoupling::persistent(ReverseSweep::new(1)), adam()).with_epochs(2);
    let trainer =
        |phases: usize| (1..phases).fold(Trainer::new(phase()), |trainer, _| trainer.then(phase()));
    for (own, events, stops) in [(1, 1, false), (2, 2, false), (2, 4, false), (2, 1, true)] {
        let mut session = Session::new(&trainer(own), model()).unwrap();
        for _ in 0..events {
            session.advance().unwrap();
        }
        if stops {
            session.stop();
        }
        for other in 1..4 {
            let (model, state) = (session.model().clone(), session.state().clone());
            let resumed = Session::resume(&trainer(other), model, state).map(|_| ());
            let expected = match other == own {
                true => Ok(()),
                false => Err(Error::Length {
                    what: "phases of the trainer that resumes a run".into(),
                    expected: own,
                    found: other,
                }),
            };
            assert_eq!(resumed, expected, "{own}, {other}, {events}");
        }
    }
    // What a new session is refused for, a resumed one is too.
    let session = Session::new(&trainer(1), model()).unwrap();
    let mut empty = model();
    empty
        .remove_examples(&(0..EXAMPLES as u64).collect::<Vec<_>>())
        .unwrap();
    let error = Session::resume(&trainer(1), empty, session.state().clone());
    assert!(matches!(error, Err(Error::NoExamples { .. })));
}

#[test]
fn a_session_that_has_not_ended_says_so() {
    let phase = || Phase::new(Decoupling::joint(descent(0.1)), adam()).with_epochs(1);
    let trainer = Trainer::new(phase()).then(phase());
    let mut session = Session::new(&trainer, model()).unwrap();
    assert_eq!(session.report().stop, StopReason::InProgress);
    session.finish_phase().unwrap();
    let report = session.report();
    assert_eq!(
        (report.phases.len(), report.stop),
        (1, StopReason::InProgress)
    );
    session.advance().unwrap();
    let report = session.report();
    assert_eq!(report.phases[1].stop, StopReason::InProgress);
    session.run().unwrap();
    let report = session.report();
    assert_eq!((report.phases.len(), report.stop), (2, StopReason::Epochs));
}

/// Under a cross entropy predictions are logits, which metrics of probabilities refuse.
fn metrics_of_probabilities<T: Scalar>() {
    let dense = |i, o| Dense::new(i, o, Activation::Identity).unwrap();
    let circuit = Circuit::<T>::builder()
        .layer(dense(2, 3))
        .layer(dense(3, 4));
    let energy = Energy::new(layerwise::loss::SoftmaxCrossEntropy);
    let mut model = DecoupledCircuit::new(circuit.build().unwrap(), energy).unwrap();
    let x = DMatrix::from_fn(2, 9, |i, j| T::of((1.3 * (i + 2 * j) as f64).sin()));
    let labels: Vec<usize> = (0..9).map(|j| j % 4).collect();
    let y = metrics::one_hot(&labels, 4).unwrap();
    model
        .add_examples(&x, &y, &TargetInit::ForwardPass)
        .unwrap();
    let phase = || Phase::new(Backprop, Adam::new(0.1).unwrap()).with_epochs(3);
    let trainer = || Trainer::new(phase()).with_validation(x.clone(), y.clone());
    let mut own = model.clone();
    let report = trainer()
        .with_metric_of_probabilities(|y, p| metrics::log_loss(y, p))
        .run(&mut own)
        .unwrap();
    let expected = metrics::log_loss(&y, &own.predict_proba(&x).unwrap()).unwrap();
    assert_eq!(report.history[2].metric, Some(expected));
    let logits = trainer().with_metric(|y, p| metrics::log_loss(y, p));
    let error = logits.run(&mut model).unwrap_err().error;
    assert!(
        matches!(
            error,
            Error::NotProbability { .. } | Error::NotDistribution { .. }
        ),
        "{error}"
    );
}

#[test]
fn a_metric_may_get_probabilities() {
    metrics_of_probabilities::<f64>();
    metrics_of_probabilities::<f32>();
}

/// A phase that is taken up again under another rule is judged by what it does from then on: an
/// objective is no validation loss, and there is no best epoch without validation.
#[test]
fn another_stopping_rule_counts_anew() {
    let (x, y) = (wave(2, 9, 0.31) * 1.5, wave(1, 9, 0.9) * 3.0);
    let trainer = |stopping, epochs| {
        let phase = Phase::new(Backprop, GradientDescent::new(0.02).unwrap());
        let phase = phase.with_epochs(epochs).with_stopping(stopping).unwrap();
        Trainer::new(phase).with_validation(x.clone(), y.clone())
    };
    let (patience, improvement) = (3, 0.0);
    let validation = Stopping::Validation {
        patience,
        improvement,
    };
    let stagnation = Stopping::Stagnation {
        patience,
        improvement,
    };
    for (before, after) in [
        (stagnation, validation),
        (Stopping::AtLimits, validation),
        (validation, stagnation),
        (validation, Stopping::AtLimits),
    ] {
        let mut session = Session::new(&trainer(before, 60), model()).unwrap();
        for _ in 0..5 {
            session.epoch().unwrap();
        }
        let mut rest = resumed(&trainer(after, 60), &session);
        let found = rest.run().unwrap();
        let mut anew = Session::new(&trainer(after, 55), session.model().clone()).unwrap();
        let expected = anew.run().unwrap();
        let (own, other) = (&found.phases[0], &expected.phases[0]);
        let name = format!("{before:?}, then {after:?}");
        assert_eq!(
            (own.stop, own.epochs),
            (other.stop, other.epochs + 5),
            "{name}"
        );
        assert_eq!(
            own.best_epoch,
            other.best_epoch.map(|own| own + 5),
            "{name}"
        );
        assert!(bits(rest.model()) == bits(anew.model()), "{name}");
    }
}

/// A run whose next visit will overflow can be saved and resumed; then that visit fails.
#[test]
fn a_run_that_is_about_to_fail_is_taken_up_again() {
    let layer = |activation| Dense::new(1, 1, activation).unwrap();
    let circuit = Circuit::builder()
        .layer(layer(Activation::Identity))
        .layer(layer(Activation::Identity));
    let mut model =
        DecoupledCircuit::<f32>::new(circuit.build().unwrap(), Energy::default()).unwrap();
    let x = DMatrix::from_element(1, 2, 10.0);
    model
        .add_examples(&x, &x, &TargetInit::ForwardPass)
        .unwrap();
    let scheme = Decoupling::residual(ReverseSweep::new(0));
    let phase = Phase::new(scheme, Adam::new(0.01).unwrap())
        .with_batch_size(1)
        .unwrap();
    let trainer = Trainer::new(phase);
    let mut session = Session::new(&trainer, model).unwrap();
    session.advance().unwrap();
    let state = session.state().clone();
    let mut model = session.finish().0;
    model.set_parameters(0, &[3e38, 0.0]).unwrap();
    let mut session = Session::resume(&trainer, model, state).unwrap();
    let failed = session.advance().unwrap_err();
    assert!(
        matches!(failed, Error::NonFinite { layer: 1, .. }),
        "{failed}"
    );
}
