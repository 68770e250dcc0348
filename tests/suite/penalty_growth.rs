//! Penalties grow layer by layer, exactly where a window's gap did not fall enough, up to the cap,
//! and from the next visit on.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use layerwise::decoupled::{TargetInit, TargetUse};
use layerwise::energy::Energy;
use layerwise::error::Quantity;
use layerwise::init::Initializer;
use layerwise::layer::{Activation, Dense};
use layerwise::nalgebra::DMatrix;
use layerwise::optimizer::{Adam, GradientDescent};
use layerwise::schedule::Schedule;
use layerwise::state::State;
use layerwise::target_solver::ReverseSweep;
use layerwise::training::{
    Backprop, Decoupling, FixedPrediction, PenaltyGrowth, Phase, Scheme, Stopping, Trainer, Visit,
    ZIl,
};
use layerwise::{Circuit, DecoupledCircuit, Error, Scalar};

/// μ_1, …, μ_{T−1} of every visit, in order.
type Log = Arc<Mutex<Vec<Seen>>>;

#[derive(Debug, Clone, PartialEq)]
struct Seen {
    penalties: Vec<f64>,
    /// Σ ‖z_tⁱ − ẑ_tⁱ‖² by hidden layer, as the visit left it, and its examples.
    squares: Vec<f64>,
    examples: usize,
}

fn penalties<T: Scalar>(model: &DecoupledCircuit<T>) -> Vec<f64> {
    numbers(model.terms().penalties())
}

fn numbers<T: Scalar>(penalties: &[T]) -> Vec<f64> {
    penalties.iter().map(|mu| mu.as_f64()).collect()
}

/// Leaves θ, and in visit v the targets z_t = ẑ_t + gaps[v][t − 1] in the first unit.
#[derive(Debug)]
struct Scripted {
    gaps: Vec<Vec<f64>>,
    log: Log,
    /// Fails in the visit of this number.
    fails: Option<usize>,
}

impl<T: Scalar> Scheme<T> for Scripted {
    fn visit(&self, _: &mut State<T>, visit: &mut Visit<'_, T>) -> Result<T, Error> {
        let mut log = self.log.lock().unwrap();
        let own = &self.gaps[log.len()];
        let dims = visit.layers().dims().to_vec();
        visit.target_problem().chain(|t, prediction, z| {
            z.copy_from_slice(prediction);
            for z in z.iter_mut().step_by(dims[t]) {
                *z += T::of(own[t - 1]);
            }
        })?;
        if self.fails == Some(log.len()) {
            return Err(Error::NoExamples {
                operation: "a planted error",
            });
        }
        log.push(Seen {
            penalties: numbers(visit.layers().penalties()),
            squares: Vec::new(),
            examples: visit.batch().len(),
        });
        Ok(T::zero())
    }
}

/// Another scheme, with a log of what it left: predicted anew at the new θ.
#[derive(Debug)]
struct Watched<S> {
    scheme: S,
    log: Log,
}

impl<T: Scalar, S: Scheme<T>> Scheme<T> for Watched<S> {
    fn targets(&self) -> TargetUse {
        self.scheme.targets()
    }

    fn start(&self, model: &mut DecoupledCircuit<T>) -> Result<State<T>, Error> {
        self.scheme.start(model)
    }

    fn visit(&self, state: &mut State<T>, visit: &mut Visit<'_, T>) -> Result<T, Error> {
        let value = self.scheme.visit(state, visit)?;
        // In memory of its own: the visit's holds what the scheme left there.
        let problem = visit.problem();
        let squares = (1..problem.layers().depth()).map(|t| {
            let local = problem.local(t - 1);
            let mut workspace = local.workspace();
            let at = local.linearize(&mut workspace);
            let pairs = problem.batch().z(t).iter().zip(at.prediction());
            pairs
                .map(|(z, p)| (z.as_f64() - p.as_f64()).powi(2))
                .sum::<f64>()
        });
        let seen = Seen {
            penalties: numbers(visit.layers().penalties()),
            squares: squares.collect(),
            examples: visit.batch().len(),
        };
        self.log.lock().unwrap().push(seen);
        Ok(value)
    }

    fn finish(&self, state: &mut State<T>, model: &mut DecoupledCircuit<T>) -> Result<(), Error> {
        self.scheme.finish(state, model)
    }
}

/// Predictions are 0 everywhere: a scripted gap is met without rounding.
fn zero_model<T: Scalar>(start: [f64; 2]) -> DecoupledCircuit<T> {
    let dense = |input, output| {
        let layer = Dense::new(input, output, Activation::Identity).unwrap();
        layer.with_weights(Initializer::Zeros).unwrap()
    };
    let circuit = Circuit::builder()
        .layer(dense(2, 3))
        .layer(dense(3, 2))
        .layer(dense(2, 1))
        .build();
    let energy = Energy::default().with_penalties(start.map(T::of).to_vec());
    let mut model = DecoupledCircuit::new(circuit.unwrap(), energy).unwrap();
    let x = DMatrix::from_fn(2, 5, |i, j| T::of((i + j) as f64));
    let y = DMatrix::from_fn(1, 5, |_, j| T::of(j as f64));
    model
        .add_examples(&x, &y, &TargetInit::ForwardPass)
        .unwrap();
    model
}

/// A phase whose visits leave these gaps, one list a visit.
fn scripted<T: Scalar>(gaps: &[[f64; 2]], growth: PenaltyGrowth) -> (Phase<T>, Log) {
    let log = Log::default();
    let scheme = Scripted {
        gaps: gaps.iter().map(|own| own.to_vec()).collect(),
        log: log.clone(),
        fails: None,
    };
    let rule = GradientDescent::new(0.1).unwrap();
    let phase = Phase::new(scheme, rule).with_epochs(gaps.len() as u64);
    (phase.with_penalty_growth(growth).unwrap(), log)
}

/// The μ of every visit of a run with these gaps, from μ = (1, 1), and those that the run left.
fn run<T: Scalar>(gaps: &[[f64; 2]], growth: PenaltyGrowth) -> (Vec<Vec<f64>>, Vec<f64>) {
    let mut model = zero_model::<T>([1.0, 1.0]);
    let (phase, log) = scripted(gaps, growth);
    let report = Trainer::new(phase).run(&mut model).unwrap();
    let left = penalties(&model);
    assert_eq!(report.phases[0].penalties, left);
    let log = log.lock().unwrap();
    (
        log.iter().map(|seen| seen.penalties.clone()).collect(),
        left,
    )
}

fn growth(visits: u64) -> PenaltyGrowth {
    PenaltyGrowth::new(visits).unwrap()
}

fn by_hand<T: Scalar>() {
    // Windows of 2. Mean squares of layer 1: 2.5, 2.5, .25, .25, .01; of layer 2: 4, 9, 9, 1, 1.
    let gaps = [
        [1.0, 2.0],
        [2.0, 2.0],
        [2.0, 3.0],
        [1.0, 3.0],
        [0.5, 3.0],
        [0.5, 3.0],
        [0.5, 1.0],
        [-0.5, -1.0],
        [0.1, 1.0],
        [0.1, 1.0],
        [0.1, 1.0],
    ];
    let (seen, left) = run::<T>(&gaps, growth(2));
    let expected = [
        [1.0, 1.0], // the first window
        [1.0, 1.0],
        [1.0, 1.0], // nothing to compare it with
        [1.0, 1.0],
        [2.0, 2.0], // layer 1: the same gap; layer 2: a larger one
        [2.0, 2.0],
        [2.0, 4.0], // layer 1 fell; layer 2 stayed
        [2.0, 4.0],
        [4.0, 4.0], // layer 1 stayed; layer 2 fell
        [4.0, 4.0],
        [4.0, 8.0], // layer 1 fell; layer 2 stayed
    ];
    assert_eq!(seen, expected.map(|own| own.to_vec()));
    assert_eq!(left, [4.0, 8.0]);
    // What the last window says would hold from the next visit on: there is none.
    let (_, left) = run::<T>(&gaps[..10], growth(2));
    assert_eq!(left, [4.0, 4.0]);
}

#[test]
fn by_hand_in_f64() {
    by_hand::<f64>();
}

#[test]
fn by_hand_in_f32() {
    by_hand::<f32>();
}

/// The last μ_1 where the gap of layer 1 takes these values in windows of 1 visit.
fn last(gaps: &[f64], growth: PenaltyGrowth) -> f64 {
    let gaps: Vec<_> = gaps.iter().chain(&[0.0]).map(|&gap| [gap, 0.0]).collect();
    let (seen, left) = run::<f64>(&gaps, growth);
    // The other layer's gap is 0 throughout: nothing is left to enforce.
    assert!(seen.iter().all(|own| own[1] == 1.0));
    left[0]
}

#[test]
fn a_tenth_is_enough() {
    assert_eq!(last(&[1.0, 0.899], growth(1)), 1.0);
    assert_eq!(last(&[1.0, 0.901], growth(1)), 2.0);
    // Against the window just before, not against the first, nor the least.
    assert_eq!(last(&[1.0, 0.1, 0.099, 0.098], growth(1)), 4.0);
    assert_eq!(last(&[0.1, 1.0, 0.8, 0.7, 0.6], growth(1)), 2.0);
    // Exactly the share that is asked for is enough.
    let half = growth(1).with_decrease(0.5).unwrap();
    assert_eq!(last(&[1.0, 0.5, 0.25], half), 1.0);
    assert_eq!(last(&[1.0, 0.5 + 1e-9, 0.25], half), 2.0);
    // Any fall at all.
    let any = growth(1).with_decrease(0.0).unwrap();
    assert_eq!(last(&[1.0, 1.0, 1.0 - 1e-12, 1.0], any), 2.0);
}

#[test]
fn a_gap_is_that_of_an_example_not_of_a_batch() {
    // 5 examples in batches of 3 and 2, every one with the same gap: it does not fall.
    let mut model = zero_model::<f64>([1.0, 1.0]);
    let (phase, log) = scripted(&[[1.0, 1.0]; 6], growth(1));
    let phase = phase.with_epochs(2).with_batch_size(3).unwrap();
    Trainer::new(phase).run(&mut model).unwrap();
    let log = log.lock().unwrap();
    let seen: Vec<_> = log.iter().map(|s| (s.examples, s.penalties[0])).collect();
    assert_eq!(seen, [(3, 1.0), (2, 1.0), (3, 2.0), (2, 4.0)]);
}

#[test]
fn growth_ends_at_the_cap() {
    let flat = [1.0; 12];
    assert_eq!(last(&flat, growth(1)), 1000.0);
    assert_eq!(last(&flat[..10], growth(1)), 512.0);
    let capped = growth(1).with_cap(5.0).unwrap();
    assert_eq!(last(&flat[..4], capped), 5.0);
    assert_eq!(last(&flat, capped), 5.0);
    assert_eq!(last(&flat, growth(1).with_cap(1.0).unwrap()), 1.0);
    let slow = growth(1).with_factor(1.5).unwrap();
    assert_eq!(last(&flat[..4], slow), 3.375);
}

/// A small curved problem, example weights included: they have no part in the gap.
fn model<T: Scalar>(mu: f64) -> DecoupledCircuit<T> {
    let dense = |input, output, activation| Dense::new(input, output, activation).unwrap();
    let circuit = Circuit::builder()
        .layer(dense(1, 6, Activation::Tanh))
        .layer(dense(6, 5, Activation::Tanh))
        .layer(dense(5, 1, Activation::Identity))
        .seed(4);
    let energy = Energy::default().with_penalty(T::of(mu));
    let mut model = DecoupledCircuit::new(circuit.build().unwrap(), energy).unwrap();
    let x = DMatrix::from_fn(1, 17, |_, j| T::of(j as f64 / 8.0 - 1.0));
    let y = x.map(|x| T::of((3.0 * x.as_f64()).sin()));
    let init = TargetInit::NoisyForwardPass { std: 0.3, seed: 2 };
    model.add_examples(&x, &y, &init).unwrap();
    let weights: Vec<T> = (0..17).map(|i| T::of(0.5 + i as f64 / 8.0)).collect();
    let all = layerwise::decoupled::Selection::All;
    model.set_example_weights(&all, &weights).unwrap();
    model
}

/// The μ of every visit, computed from the log alone.
fn expected(log: &[Seen], start: &[f64], k: usize, cap: f64) -> Vec<Vec<f64>> {
    let mut now = start.to_vec();
    let mut all: Vec<Vec<f64>> = Vec::new();
    let mut before: Option<Vec<f64>> = None;
    for window in log.chunks(k) {
        all.extend(window.iter().map(|_| now.clone()));
        let examples: usize = window.iter().map(|seen| seen.examples).sum();
        let gap = |t: usize| {
            let squares: f64 = window.iter().map(|seen| seen.squares[t]).sum();
            (squares / examples as f64).sqrt()
        };
        let gaps: Vec<f64> = (0..now.len()).map(gap).collect();
        if let Some(before) = before {
            for t in 0..now.len() {
                if gaps[t] > 0.9 * before[t] {
                    now[t] = (2.0 * now[t]).min(cap);
                }
            }
        }
        before = Some(gaps);
    }
    all
}

fn follows_the_log<T: Scalar, S: Scheme<T> + 'static>(scheme: S, batch: usize, k: u64) {
    let log = Log::default();
    let watched = Watched {
        scheme,
        log: log.clone(),
    };
    let growth = growth(k).with_cap(20.0).unwrap();
    let phase = Phase::new(watched, Adam::new(1e-2).unwrap())
        .with_epochs(30)
        .with_batch_size(batch)
        .unwrap()
        .with_penalty_growth(growth)
        .unwrap();
    let mut model = model::<T>(0.5);
    Trainer::new(phase).with_seed(3).run(&mut model).unwrap();
    let log = log.lock().unwrap();
    let seen: Vec<_> = log.iter().map(|seen| seen.penalties.clone()).collect();
    assert_eq!(seen, expected(&log, &[0.5, 0.5], k as usize, 20.0));
    // The test would pass on a run in which nothing grows, or both layers alike.
    assert!(seen.last() != seen.first(), "{seen:?}");
    assert!(seen.iter().any(|own| own[0] != own[1]), "{seen:?}");
}

#[test]
fn schemes_in_batches_grow_as_their_gaps_say() {
    let sweep = || ReverseSweep::new(1);
    // 17 examples: 5, 5, 5, 2 an epoch.
    follows_the_log::<f64, _>(Decoupling::persistent(sweep()), 5, 4);
    follows_the_log::<f64, _>(Decoupling::persistent(sweep()), 17, 3);
    follows_the_log::<f64, _>(Decoupling::persistent(sweep()), 5, 3);
    follows_the_log::<f64, _>(Decoupling::refreshed(sweep()), 5, 4);
    follows_the_log::<f64, _>(Decoupling::residual(sweep()), 17, 1);
    follows_the_log::<f64, _>(
        Decoupling::persistent(sweep())
            .with_multipliers(1.0)
            .unwrap(),
        5,
        4,
    );
    let descent = GradientDescent::new(0.05).unwrap();
    follows_the_log::<f64, _>(Decoupling::joint(descent), 5, 4);
    follows_the_log::<f32, _>(Decoupling::persistent(ReverseSweep::new(1)), 5, 4);
}

fn trained(growth: Option<PenaltyGrowth>, threads: usize) -> (DecoupledCircuit<f64>, [f64; 2]) {
    let scheme = Decoupling::persistent(ReverseSweep::new(1));
    let mut phase = Phase::new(scheme, Adam::new(1e-2).unwrap())
        .with_epochs(120)
        .with_batch_size(6)
        .unwrap();
    if let Some(growth) = growth {
        phase = phase.with_penalty_growth(growth).unwrap();
    }
    let mut model = model(0.2);
    let trainer = Trainer::new(phase).with_threads(threads).unwrap();
    let report = trainer.run(&mut model).unwrap();
    let last = report.history.last().unwrap();
    let told = [last.gap.unwrap(), last.composed_loss.unwrap()];
    assert_eq!(report.phases[0].penalties, model.terms().penalties());
    (model, told)
}

#[test]
fn the_gap_is_smaller_with_growth() {
    let (plain, [gap, loss]) = trained(None, 1);
    let (grown, [grown_gap, grown_loss]) = trained(Some(growth(9)), 1);
    assert_eq!(plain.terms().penalties(), [0.2; 2]);
    assert!(grown.terms().penalties().iter().all(|&mu| mu > 1.0));
    assert!(grown_gap < 0.5 * gap, "{gap} to {grown_gap}");
    assert!(grown_loss < loss, "{loss} to {grown_loss}");
}

#[cfg(feature = "rayon")]
#[test]
fn threads_change_no_bit() {
    let ((one, told), (three, again)) = (trained(Some(growth(6)), 1), trained(Some(growth(6)), 3));
    assert_eq!(one.terms().penalties(), three.terms().penalties());
    assert_eq!(told, again);
    for t in 0..3 {
        assert_eq!(one.circuit().parameters(t), three.circuit().parameters(t));
    }
}

/// The error of a run that fails in this visit, the μ that it leaves, and its visits.
fn failing(visit: usize) -> (Error, Vec<f64>, usize) {
    let mut model = zero_model::<f64>([1.0, 3.0]);
    let log = Log::default();
    let scheme = Scripted {
        gaps: vec![vec![1.0, 1.0]; 9],
        log: log.clone(),
        fails: Some(visit),
    };
    let phase = Phase::new(scheme, GradientDescent::new(0.1).unwrap())
        .with_epochs(9)
        .with_penalty_growth(growth(2))
        .unwrap();
    let error = Trainer::new(phase).run(&mut model).unwrap_err().error;
    let visits = log.lock().unwrap().len();
    (error, penalties(&model), visits)
}

#[test]
fn a_failed_visit_leaves_the_penalties_of_the_one_before() {
    for (visit, factor) in [(0, 1.0), (3, 1.0), (4, 1.0), (5, 2.0), (6, 2.0), (7, 4.0)] {
        let (error, left, visits) = failing(visit);
        assert!(matches!(error, Error::NoExamples { .. }), "{error}");
        assert_eq!(left, [factor, 3.0 * factor], "visit {visit}");
        assert_eq!(visits, visit);
    }
}

#[test]
fn a_gap_that_is_not_finite_is_an_error() {
    let mut model = zero_model::<f64>([1.0, 1.0]);
    let gaps = [[1.0, 1.0], [1.0, 1.0], [1.0, f64::MAX], [1.0, 1.0]];
    let (phase, log) = scripted(&gaps, growth(1));
    let error = Trainer::new(phase).run(&mut model).unwrap_err().error;
    assert_eq!(
        error,
        Error::NonFinite {
            quantity: Quantity::Prediction,
            layer: 2,
            step: 0
        }
    );
    assert_eq!(log.lock().unwrap().len(), 3);
    // The targets, and μ, of the visit before.
    assert_eq!(model.gap().unwrap(), [1.0, 1.0]);
    assert_eq!(penalties(&model), [1.0, 1.0]);
}

fn refused<T: Scalar>(trainer: Trainer<T>, option: &str) {
    let mut model = zero_model::<T>([1.0, 3.0]);
    let error = trainer.run(&mut model).unwrap_err().error;
    let named = matches!(error, Error::InvalidOption { option: own, .. } if own == option);
    assert!(named, "{error}");
    assert_eq!(penalties(&model), [1.0, 3.0]);
}

#[test]
fn what_does_not_go_together_is_refused_before_anything_is_done() {
    let rule = || GradientDescent::new(0.1).unwrap();
    let alternating = || Phase::<f64>::new(Decoupling::persistent(ReverseSweep::new(1)), rule());
    let growing = |own| {
        alternating()
            .with_epochs(3)
            .with_penalty_growth(own)
            .unwrap()
    };
    let combination = |made: Result<Phase<f64>, Error>, named: &str| {
        let error = made.unwrap_err();
        let fits = matches!(error, Error::Combination { what, .. } if what == named);
        assert!(fits, "{error}");
    };
    let schedule = || Schedule::geometric(2.0).unwrap();
    let both = "a penalty schedule together with penalty growth";
    combination(growing(growth(1)).with_penalty_schedule(schedule()), both);
    let scheduled = alternating().with_penalty_schedule(schedule()).unwrap();
    combination(scheduled.with_penalty_growth(growth(1)), both);
    for phase in [
        Phase::<f64>::new(Backprop, rule()),
        Phase::new(ZIl, rule()),
        Phase::new(FixedPrediction::new(), rule()),
    ] {
        combination(phase.with_penalty_growth(growth(1)), "penalty growth");
    }
    let cap = |cap| growth(1).with_cap(cap).unwrap();
    refused(Trainer::new(growing(cap(2.9))), "penalty μ");
    // μ may have grown to the first cap when the second phase begins, but not in two visits.
    let two = |epochs| Trainer::new(growing(cap(8.0)).with_epochs(epochs)).then(growing(cap(4.0)));
    refused(two(3), "penalty μ");
    two(2).run(&mut zero_model([1.0, 3.0])).unwrap();
    // What a schedule then makes of the cap counts too.
    let doubled = |factor| {
        let schedule = Schedule::geometric(factor).unwrap();
        let later = alternating()
            .with_epochs(4000)
            .with_penalty_schedule(schedule)
            .unwrap();
        Trainer::new(growing(cap(1e300))).then(later)
    };
    refused(doubled(1e10), "penalty μ under its schedule");

    let single = || Phase::<f32>::new(Decoupling::weights_only(), rule());
    let growing = |own| Trainer::new(single().with_penalty_growth(own).unwrap());
    refused(growing(cap(1e300)), "PenaltyGrowth::cap");
    let least = growth(1).with_factor(1.0 + 1e-12).unwrap();
    refused(growing(least), "PenaltyGrowth::factor");
}

#[test]
fn options_out_of_range_are_errors() {
    let option = |error: Error| match error {
        Error::InvalidOption { option, .. } => option,
        other => panic!("{other}"),
    };
    let own = growth(1);
    assert_eq!(
        option(PenaltyGrowth::new(0).unwrap_err()),
        "PenaltyGrowth::visits"
    );
    for value in [f64::NAN, f64::INFINITY, -1.0, 1.0] {
        let error = own.with_factor(value).unwrap_err();
        assert_eq!(option(error), "PenaltyGrowth::factor");
    }
    for value in [f64::NAN, -0.1, 1.0] {
        let error = own.with_decrease(value).unwrap_err();
        assert_eq!(option(error), "PenaltyGrowth::decrease");
    }
    for value in [f64::NAN, f64::INFINITY, -1.0, 0.0] {
        let error = own.with_cap(value).unwrap_err();
        assert_eq!(option(error), "PenaltyGrowth::cap");
    }
}

/// A phase that may end early hands on any μ_t on its way, and all of them are checked.
fn early_ends_count<T: Scalar>() {
    let phase = || {
        let rule = GradientDescent::new(0.1).unwrap();
        Phase::<T>::new(Decoupling::persistent(ReverseSweep::new(1)), rule).with_epochs(9)
    };
    let falls = |by| {
        phase()
            .with_penalty_schedule(Schedule::geometric(by).unwrap())
            .unwrap()
    };
    let stagnates = Stopping::Stagnation {
        patience: 1,
        improvement: 0.5,
    };
    type Early<T> = fn(Phase<T>, Stopping) -> Phase<T>;
    let early: [Early<T>; 2] = [
        |phase, stopping| phase.with_stopping(stopping).unwrap(),
        |phase, _| phase.with_time_limit(Duration::from_secs(9)),
    ];
    let grows = || {
        phase()
            .with_penalty_growth(growth(1).with_cap(2.5).unwrap())
            .unwrap()
    };
    // μ_2 = 3 falls below 2.5 by the ninth visit, but not if the phase ends before.
    Trainer::new(falls(0.5))
        .then(grows())
        .check(&zero_model::<T>([1.0, 3.0]))
        .unwrap();
    // It leaves the scalar's range only after an early end.
    let steep = Schedule::linear(0.09 * T::max_value().unwrap().as_f64()).unwrap();
    let rises = || phase().with_penalty_schedule(steep).unwrap();
    Trainer::new(falls(1e-2))
        .then(rises())
        .check(&zero_model::<T>([1.0, 30.0]))
        .unwrap();
    for early in early {
        let ends = |phase| early(phase, stagnates);
        refused(Trainer::new(ends(falls(0.5))).then(grows()), "penalty μ");
        let trainer = Trainer::new(ends(falls(1e-2))).then(rises());
        let error = trainer.check(&zero_model::<T>([1.0, 30.0])).unwrap_err();
        let option = "penalty μ under its schedule";
        let named = matches!(error, Error::InvalidOption { option: own, .. } if own == option);
        assert!(named, "{error}");
        // What a phase has on its way counts too, of a warm-up as well.
        let warm = Schedule::geometric(1.5).unwrap().with_warm_up(4);
        let warm = || phase().with_penalty_schedule(warm).unwrap();
        Trainer::new(ends(warm()))
            .then(ends(warm()))
            .check(&zero_model::<T>([1.0, 1.0]))
            .unwrap();
        refused(Trainer::new(ends(warm())).then(grows()), "penalty μ");
    }
}

#[test]
fn a_phase_that_ended_early_hands_on_no_penalty_above_the_cap() {
    early_ends_count::<f64>();
    early_ends_count::<f32>();
}

/// A scheme that starts its phase with penalties of its own.
#[derive(Debug)]
struct Starts(f64);

impl<T: Scalar> Scheme<T> for Starts {
    fn start(&self, model: &mut DecoupledCircuit<T>) -> Result<State<T>, Error> {
        model.set_penalties(&[T::of(self.0), T::one()])?;
        Ok(State::new())
    }

    fn visit(&self, _: &mut State<T>, visit: &mut Visit<'_, T>) -> Result<T, Error> {
        visit.target_problem().chain(|_, prediction, z| {
            z.iter_mut()
                .zip(prediction)
                .for_each(|(z, &p)| *z = p + T::one());
        })?;
        Ok(T::zero())
    }
}

/// However a phase came to begin above its cap, μ stays there.
fn never_lowered<T: Scalar>() {
    let rule = GradientDescent::new(0.1).unwrap();
    let growth = growth(1).with_cap(10.0).unwrap();
    let phase = Phase::new(Starts(1000.0), rule).with_epochs(12);
    let mut model = zero_model::<T>([1.0, 1.0]);
    let phase = phase.with_penalty_growth(growth).unwrap();
    let report = Trainer::new(phase).run(&mut model).unwrap();
    assert_eq!(report.phases[0].penalties, [1000.0, 10.0]);
}

#[test]
fn growth_lowers_no_penalty() {
    never_lowered::<f64>();
    never_lowered::<f32>();
}
