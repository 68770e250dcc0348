//! PC-ALM: against a loop written out, backprop where it has come to rest, and its refusals.

use crate::property::{generator, uniform};
use layerwise::nalgebra::DVector;
use layerwise::prelude::*;
use layerwise::presets;
use layerwise::target_solver::{Convergence, SynchronousDescent};
use layerwise::training::{CreditTiming, PcAlm};

const N: usize = 5;
const DIMS: [usize; 5] = [3, 5, 4, 6, 2];
const DEPTH: usize = 4;

/// tanh layers, the last one linear.
fn model(penalties: [f64; 3]) -> DecoupledCircuit<f64> {
    model_of(Activation::Tanh, penalties)
}

fn model_of(hidden: Activation, penalties: [f64; 3]) -> DecoupledCircuit<f64> {
    let mut builder = Circuit::builder().seed(3);
    for (t, pair) in DIMS.windows(2).enumerate() {
        let activation = [hidden, Activation::Identity][t / 3];
        builder = builder.layer(Dense::new(pair[0], pair[1], activation).unwrap());
    }
    let energy = Energy::default().with_penalties(penalties.to_vec());
    let mut model = DecoupledCircuit::new(builder.build().unwrap(), energy).unwrap();
    let x = DMatrix::from_vec(3, N, uniform(&mut generator(1), 3 * N, 1.0));
    let y = DMatrix::from_vec(2, N, uniform(&mut generator(2), 2 * N, 1.0));
    // Targets that would matter if they were read.
    let init = TargetInit::RandomNormal { std: 1.0, seed: 3 };
    model.add_examples(&x, &y, &init).unwrap();
    model
}

/// The same circuit without the crate.
struct Net {
    weights: Vec<DMatrix<f64>>,
    biases: Vec<DVector<f64>>,
}

impl Net {
    fn of(model: &DecoupledCircuit<f64>) -> Self {
        let (mut weights, mut biases) = (Vec::new(), Vec::new());
        for (t, pair) in DIMS.windows(2).enumerate() {
            let (w, b) = model.circuit().parameters(t).split_at(pair[0] * pair[1]);
            weights.push(DMatrix::from_column_slice(pair[1], pair[0], w));
            biases.push(DVector::from_column_slice(b));
        }
        Self { weights, biases }
    }

    fn layer(&self, t: usize, z: &DVector<f64>) -> DVector<f64> {
        let before = &self.weights[t] * z + &self.biases[t];
        if t + 1 < DEPTH {
            before.map(f64::tanh)
        } else {
            before
        }
    }

    /// The gradient in the pre-activations of layer t from that in its output.
    fn inside(&self, t: usize, output: &DVector<f64>, gradient: &DVector<f64>) -> DVector<f64> {
        if t + 1 < DEPTH {
            gradient.zip_map(output, |g, f| g * (1.0 - f * f))
        } else {
            gradient.clone()
        }
    }
}

/// As published, for one example: K times `inner` synchronous steps of z, then λ ← λ + α μ (z − ẑ); the gradients
/// in θ before or after the last step of λ.
fn by_hand(
    net: &Net,
    (x, y): (DVector<f64>, DVector<f64>),
    penalties: [f64; 3],
    (rounds, inner, rate, alpha): (usize, usize, f64, f64),
    after: bool,
) -> Vec<(DMatrix<f64>, DVector<f64>)> {
    let mut z = vec![x];
    for t in 0..DEPTH - 1 {
        z.push(net.layer(t, &z[t]));
    }
    z.push(y);
    let mut lambda: Vec<DVector<f64>> = DIMS[1..DEPTH].iter().map(|&d| DVector::zeros(d)).collect();
    // g of layer t: −(μ (z − ẑ) + λ), for the last one ẑ − y.
    let cotangents = |z: &[DVector<f64>], lambda: &[DVector<f64>]| -> Vec<DVector<f64>> {
        (0..DEPTH)
            .map(|t| {
                let gap = &z[t + 1] - net.layer(t, &z[t]);
                match t + 1 < DEPTH {
                    true => -(gap * penalties[t] + &lambda[t]),
                    false => -gap,
                }
            })
            .collect()
    };
    for round in 0..rounds {
        for _ in 0..inner {
            let own = cotangents(&z, &lambda);
            for t in 1..DEPTH {
                let output = net.layer(t, &z[t]);
                // The layer above sees the old z_t: all gradients are from before the step.
                let pulled = net.weights[t].transpose() * net.inside(t, &output, &own[t]);
                let gradient = pulled - &own[t - 1];
                z[t] -= gradient * rate;
            }
        }
        if round + 1 < rounds || after {
            for t in 1..DEPTH {
                let gap = &z[t] - net.layer(t - 1, &z[t - 1]);
                lambda[t - 1] += gap * (alpha * penalties[t - 1]);
            }
        }
    }
    let own = cotangents(&z, &lambda);
    (0..DEPTH)
        .map(|t| {
            let inside = net.inside(t, &net.layer(t, &z[t]), &own[t]);
            (&inside * z[t].transpose(), inside)
        })
        .collect()
}

/// θ after one step along the mean gradient.
fn stepped(model: &DecoupledCircuit<f64>, phase: Phase<f64>) -> Vec<Vec<f64>> {
    let mut model = model.clone();
    Trainer::new(phase.with_epochs(1)).run(&mut model).unwrap();
    (0..DEPTH)
        .map(|t| model.circuit().parameters(t).to_vec())
        .collect()
}

fn plain() -> GradientDescent {
    GradientDescent::new(0.5).unwrap()
}

#[test]
fn a_visit_is_the_published_loop() {
    let penalties = [1.0, 2.0, 0.5];
    let start = model(penalties);
    let net = Net::of(&start);
    for (rounds, inner, rate, alpha) in [
        (1, 1, 0.25, 1.0),
        (2, 1, 0.2, 0.7),
        (9, 1, 0.25, 1.0),
        (4, 3, 0.1, 1.5),
    ] {
        for after in [false, true] {
            let solver = SynchronousDescent::new(inner as u64, StepSize::Fixed(rate)).unwrap();
            let scheme = PcAlm::new(rounds as u64, solver, alpha).unwrap();
            let scheme = match after {
                true => scheme.with_credit(CreditTiming::AfterDualStep),
                false => scheme,
            };
            let found = stepped(&start, Phase::new(scheme, plain()));
            let mut gradients = vec![Vec::new(); DEPTH];
            for i in 0..N {
                let column = |t: usize| start.z(t).unwrap().column(i).into_owned();
                let own = (column(0), column(DEPTH));
                let settings = (rounds, inner, rate, alpha);
                let all = by_hand(&net, own, penalties, settings, after);
                for (sum, (w, b)) in gradients.iter_mut().zip(all) {
                    let all: Vec<f64> = w.iter().chain(&b).copied().collect();
                    sum.resize(all.len(), 0.0);
                    sum.iter_mut().zip(all).for_each(|(sum, own)| *sum += own);
                }
            }
            for t in 0..DEPTH {
                let old = start.circuit().parameters(t);
                for (k, own) in found[t].iter().enumerate() {
                    let expected = old[k] - 0.5 * gradients[t][k] / N as f64;
                    let error = (own - expected).abs();
                    assert!(error < 1e-14, "{rounds} rounds, {after}: {error} in θ_{t}");
                }
            }
        }
    }
}

/// The preset's settings are the published ones: one inner step, α = 1, before the last dual step.
#[test]
fn the_preset_has_the_published_settings() {
    let start = model([1.0; 3]);
    let solver = SynchronousDescent::new(1, StepSize::Fixed(0.25)).unwrap();
    let scheme = PcAlm::new(8, solver, 1.0).unwrap();
    let expected = stepped(&start, Phase::new(scheme, plain()));
    let preset = presets::pc_alm(8, 0.25, plain()).unwrap();
    assert_eq!(stepped(&start, preset), expected);
    for rate in [0.0, -0.5, f64::INFINITY, f64::NAN] {
        let error = presets::pc_alm::<f64>(8, rate, plain());
        assert!(matches!(error, Err(Error::InvalidOption { .. })), "{rate}");
    }
}

/// Where the rounds come to rest, θ's gradients are backprop's at any μ, with either timing; predictive coding's
/// are not. The distance falls with the rounds.
#[test]
fn many_rounds_are_backprop() {
    for penalty in [3.0, 4.0] {
        let start = model([penalty; 3]);
        let expected = stepped(&start, Phase::new(Backprop, plain()));
        let error = |found: Vec<Vec<f64>>| {
            let pairs = found.concat().into_iter().zip(expected.concat());
            pairs.fold(0.0, |top, (a, b)| f64::max(top, (a - b).abs()))
        };
        let step = StepSize::Fixed(0.25 / penalty);
        let run = |rounds, credit| {
            let solver = SynchronousDescent::new(1, step).unwrap();
            let scheme = PcAlm::new(rounds, solver, 1.0).unwrap().with_credit(credit);
            error(stepped(&start, Phase::new(scheme, plain())))
        };
        let few = [40, 160, 640].map(|rounds| run(rounds, CreditTiming::BeforeDualStep));
        println!("μ = {penalty}: {few:?} after 40, 160, 640 rounds");
        assert!(few[1] < few[0] && few[2] < 0.3 * few[1], "{few:?}");
        for credit in [CreditTiming::BeforeDualStep, CreditTiming::AfterDualStep] {
            let rest = run(5000, credit);
            assert!(rest < 1e-12, "{rest} at μ = {penalty}, {credit:?}");
        }
        let relaxed = SynchronousDescent::new(4000, step).unwrap();
        let relaxed = Phase::new(Decoupling::refreshed(relaxed), plain());
        let relaxed = error(stepped(&start, relaxed));
        assert!(relaxed > 1e-3, "predictive coding differs by {relaxed}");
    }
}

/// Neither targets nor multipliers last from visit to visit: two runs of an epoch are one of two.
#[test]
fn nothing_is_kept_between_visits() {
    let step = SynchronousDescent::new(1, StepSize::Fixed(0.25)).unwrap();
    let scheme = PcAlm::new(6, step, 1.0).unwrap();
    for scheme in [scheme.clone(), scheme.with_acceleration(8).unwrap()] {
        let phase = |epochs| Phase::new(scheme.clone(), plain()).with_epochs(epochs);
        let (mut once, mut twice) = (model([1.0; 3]), model([1.0; 3]));
        Trainer::new(phase(2)).run(&mut once).unwrap();
        for _ in 0..2 {
            Trainer::new(phase(1)).run(&mut twice).unwrap();
            // They would matter if they were read.
            let zero = DMatrix::zeros(DIMS[2], N);
            twice.set_targets(2, &Selection::All, &zero).unwrap();
        }
        for t in 0..DEPTH {
            assert_eq!(once.circuit().parameters(t), twice.circuit().parameters(t));
        }
    }
}

#[test]
fn options_out_of_range_are_refused() {
    let sweep = || ReverseSweep::new(1);
    let none = PcAlm::<f64>::new(0, sweep(), 1.0);
    assert!(matches!(none, Err(Error::InvalidOption { value: 0.0, .. })));
    for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let error = PcAlm::<f64>::new(3, sweep(), rate);
        assert!(matches!(error, Err(Error::InvalidOption { .. })), "{rate}");
    }
    let scheme = PcAlm::<f64>::new(3, sweep(), 1.0).unwrap();
    let error = Phase::with_w_step(scheme, WStep::none());
    assert!(matches!(error, Err(Error::Combination { .. })), "{error:?}");
    // Of no size in f32: refused before the run.
    let scheme = PcAlm::<f32>::new(3, sweep(), 1e-60).unwrap();
    let phase = Phase::new(scheme, plain()).with_epochs(1);
    let dense = || Dense::new(2, 2, Activation::Tanh).unwrap();
    let circuit = Circuit::builder().layer(dense()).layer(dense());
    let mut model = DecoupledCircuit::new(circuit.build().unwrap(), Energy::default()).unwrap();
    let x = DMatrix::from_element(2, 3, 0.5_f32);
    model
        .add_examples(&x, &x, &TargetInit::ForwardPass)
        .unwrap();
    let error = Trainer::new(phase).run(&mut model).unwrap_err();
    assert!(error.to_string().contains("PcAlm::rate"), "{error}");
}

/// A dual step with a rate far above the stable ones ends the run with an error; the model keeps the last good θ.
#[test]
fn diverging_multipliers_end_the_run() {
    let mut trained = model([1.0; 3]);
    let solver = SynchronousDescent::new(1, StepSize::Fixed(0.25)).unwrap();
    let scheme = PcAlm::new(3000, solver, 1e9).unwrap();
    let phase = Phase::new(scheme, plain()).with_epochs(1);
    let before: Vec<f64> = trained.circuit().parameters(0).to_vec();
    let error = Trainer::new(phase).run(&mut trained).unwrap_err();
    assert!(error.to_string().contains("finite"), "{error}");
    assert_eq!(trained.circuit().parameters(0), before);
}

/// The report of a visit counts the work of all rounds, and an example once. Rounds that begin at rest are no
/// visit whose steps were all undone.
#[test]
fn a_visit_has_one_report() {
    let step = SynchronousDescent::new(3, StepSize::Fixed(0.1)).unwrap();
    let ends = Convergence::NEVER.with_tolerance(1e-12).unwrap();
    let newton = GaussNewton::direct(2).with_convergence(ends);
    let schemes = [
        PcAlm::new(4, step, 1.0).unwrap(),
        PcAlm::new(60, newton, 1.0).unwrap(),
    ];
    for (scheme, rounds) in schemes.into_iter().zip([4, 60]) {
        let phase = Phase::new(scheme, GradientDescent::new(1e-3).unwrap());
        let phase = phase.with_batch_size(1).unwrap();
        let mut model = model([4.0, 8.0, 3.0]);
        let report = Trainer::new(phase.with_epochs(1)).run(&mut model).unwrap();
        let solved = report.history[0].solved.unwrap();
        assert_eq!(solved.at_rest + solved.stagnated + solved.limited, N);
        match rounds {
            4 => assert_eq!((solved.steps, solved.limited), (4 * 3 * N as u64, N)),
            _ => assert!(solved.steps > 60 && solved.drawn_back > 0, "{solved}"),
        }
        assert_eq!(solved.stuck, 0, "{solved}");
        assert!(report.warnings.is_empty(), "{:?}", report.warnings);
    }
}

/// Everything composes: checked and exact solvers that end early, several W-steps, solvers of θ, minibatches.
#[test]
fn it_combines_with_other_solvers_and_w_steps() {
    use layerwise::parameter_solver::LevenbergMarquardt;
    use std::sync::Arc;
    let ends = Convergence::NEVER.with_tolerance(1e-4).unwrap();
    let solvers: [Arc<dyn TargetSolver<f64>>; 3] = [
        Arc::new(ReverseSweep::new(2).with_convergence(ends)),
        Arc::new(GaussNewton::chained(1, 3)),
        Arc::new(layerwise::target_solver::ErrorDescent::new(2)),
    ];
    for solver in solvers {
        let w_steps = [
            WStep::optimizer(Adam::new(1e-2).unwrap())
                .with_steps(3)
                .unwrap(),
            WStep::solver(LevenbergMarquardt::new(1, 3)),
        ];
        for w_step in w_steps {
            let mut model = model([1.0; 3]);
            let before = model.circuit().parameters(0).to_vec();
            let scheme = PcAlm::new(3, Arc::clone(&solver), 0.5).unwrap();
            let phase = Phase::with_w_step(scheme, w_step).unwrap();
            let phase = phase.with_batch_size(2).unwrap().with_epochs(30);
            let report = Trainer::new(phase).run(&mut model).unwrap();
            assert!(model.composed_loss().unwrap().is_finite());
            assert_ne!(model.circuit().parameters(0), before, "{solver:?}");
            assert!(report.history[0].gap_after.unwrap() > 0.0);
        }
    }
}

/// Exact Z-steps of a linear circuit and Anderson's method by dense least squares: λ after `rounds` rounds, and
/// θ's gradients before the last dual step.
fn accelerated_by_hand(
    net: &Net,
    (x, y): (DVector<f64>, DVector<f64>),
    penalties: [f64; 3],
    (rounds, alpha, most): (usize, f64, usize),
) -> Vec<(DMatrix<f64>, DVector<f64>)> {
    // A z − b is the gap of all hidden layers, and C z − d the output's error.
    let starts = [0, DIMS[1], DIMS[1] + DIMS[2]];
    let size = starts[2] + DIMS[3];
    let mut a = DMatrix::identity(size, size);
    let mut b = DVector::zeros(size);
    let mut m = DVector::zeros(size);
    for t in 1..DEPTH {
        let (rows, known) = (DIMS[t], &net.biases[t - 1]);
        let mut own = b.rows_mut(starts[t - 1], rows);
        own.copy_from(known);
        m.rows_mut(starts[t - 1], rows).fill(penalties[t - 1]);
        if t == 1 {
            own += &net.weights[0] * &x;
        } else {
            let w = -&net.weights[t - 1];
            a.view_mut((starts[t - 1], starts[t - 2]), w.shape())
                .copy_from(&w);
        }
    }
    let mut c = DMatrix::zeros(DIMS[4], size);
    c.columns_mut(starts[2], DIMS[3]).copy_from(&net.weights[3]);
    let d = &y - &net.biases[3];
    let mass = DMatrix::from_diagonal(&m);
    let hessian = a.transpose() * &mass * &a + c.transpose() * &c;
    let factor = hessian.cholesky().unwrap();
    let mut lambda = DVector::zeros(size);
    let mut secants: Vec<[DVector<f64>; 2]> = Vec::new();
    let mut last: Option<[DVector<f64>; 2]> = None;
    let mut z = DVector::zeros(size);
    for round in 0..rounds {
        let right = a.transpose() * (&mass * &b - &lambda) + c.transpose() * &d;
        z = factor.solve(&right);
        if round + 1 == rounds {
            break;
        }
        let f = (&mass * (&a * &z - &b)) * alpha;
        if let Some([old, before]) = last.take() {
            secants.push([&lambda - old, &f - before]);
        }
        let next = match secants.len() {
            0 => &lambda + &f,
            count => {
                let column = |k: usize| {
                    let columns: Vec<DVector<f64>> =
                        secants.iter().map(|own| own[k].clone()).collect();
                    DMatrix::from_columns(&columns)
                };
                let (steps, changes) = (column(0), column(1));
                let gamma = changes.clone().svd(true, true).solve(&f, 1e-9).unwrap();
                let next = &lambda + &f - (steps + changes) * gamma;
                if count == most {
                    secants.clear();
                    lambda = next;
                    continue;
                }
                next
            }
        };
        last = Some([std::mem::replace(&mut lambda, next), f]);
    }
    let gap = &a * &z - &b;
    let own = -(mass * gap + lambda);
    (0..DEPTH)
        .map(|t| {
            let cotangent = match t + 1 < DEPTH {
                true => own.rows(starts[t], DIMS[t + 1]).into_owned(),
                false => &c * &z - &d,
            };
            let input = match t {
                0 => x.clone(),
                _ => z.rows(starts[t - 1], DIMS[t]).into_owned(),
            };
            (&cotangent * input.transpose(), cotangent)
        })
        .collect()
}

fn exact() -> GaussNewton {
    GaussNewton::direct(1).with_damping(0.0).unwrap()
}

#[test]
fn acceleration_is_the_dense_least_squares() {
    let penalties = [1.0, 2.0, 0.5];
    let start = model_of(Activation::Identity, penalties);
    let net = Net::of(&start);
    for (alpha, most) in [(1.0, 1), (0.6, 1), (1.0, 2), (1.4, 3)] {
        for rounds in 1..6 {
            let scheme = PcAlm::new(rounds as u64, exact(), alpha).unwrap();
            let scheme = scheme.with_acceleration(most).unwrap();
            let found = stepped(&start, Phase::new(scheme, plain()));
            let mut gradients = vec![Vec::new(); DEPTH];
            for i in 0..N {
                let column = |t: usize| start.z(t).unwrap().column(i).into_owned();
                let own = (column(0), column(DEPTH));
                let all = accelerated_by_hand(&net, own, penalties, (rounds, alpha, most));
                for (sum, (w, b)) in gradients.iter_mut().zip(all) {
                    let all: Vec<f64> = w.iter().chain(&b).copied().collect();
                    sum.resize(all.len(), 0.0);
                    sum.iter_mut().zip(all).for_each(|(sum, own)| *sum += own);
                }
            }
            for t in 0..DEPTH {
                let old = start.circuit().parameters(t);
                for (k, own) in found[t].iter().enumerate() {
                    let expected = old[k] - 0.5 * gradients[t][k] / N as f64;
                    let error = (own - expected).abs();
                    let what = format!("{rounds} rounds, α {alpha}, {most} secants");
                    assert!(error < 1e-10, "{what}: {error} in θ_{t}");
                }
            }
        }
    }
}

/// In a linear circuit d_T + 2 rounds with d_T secants are backprop, where plain dual steps are still far from
/// it. With tanh acceleration saves rounds where plain ones converge.
#[test]
fn acceleration_saves_rounds() {
    let error = |activation, penalty, solver: GaussNewton, secants: usize, rounds: u64| {
        let start = model_of(activation, [penalty, 2.0 * penalty, 0.8 * penalty]);
        let expected = stepped(&start, Phase::new(Backprop, plain()));
        let scheme = PcAlm::new(rounds, solver, 1.0).unwrap();
        let scheme = match secants {
            0 => scheme,
            most => scheme.with_acceleration(most).unwrap(),
        };
        let found = stepped(&start, Phase::new(scheme, plain()));
        let pairs = found.concat().into_iter().zip(expected.concat());
        pairs.fold(0.0, |top, (a, b): (f64, f64)| f64::max(top, (a - b).abs()))
    };
    let outputs = DIMS[DEPTH];
    let rounds = outputs as u64 + 2;
    let linear = |secants, rounds| error(Activation::Identity, 1.0, exact(), secants, rounds);
    let [before, after] = [rounds - 1, rounds].map(|rounds| linear(outputs, rounds));
    let unaided = linear(0, rounds);
    println!("linear: {before:.1e}, {after:.1e} with {outputs} secants, {unaided:.1e} without");
    assert!(after < 1e-10 && before > 1e-6 && unaided > 1e-6);
    // With tanh a small μ keeps both from converging.
    for (penalty, saves) in [(4.0, true), (1.0, false)] {
        let curved = |secants| {
            let solver = GaussNewton::direct(6);
            let error = |rounds| error(Activation::Tanh, penalty, solver, secants, rounds);
            [2, 4, 8, 16].map(error)
        };
        let (unaided, accelerated) = (curved(0), curved(4));
        println!(
            "tanh, μ {penalty}, 2, 4, 8, 16 rounds: {unaided:?}, {accelerated:?} with 4 secants"
        );
        assert_eq!(accelerated[2] < 1e-2 * unaided[2], saves);
        assert_eq!(unaided[3] < 1e-4, saves);
    }
    let none = PcAlm::<f64>::new(3, exact(), 1.0)
        .unwrap()
        .with_acceleration(0);
    assert!(matches!(none, Err(Error::InvalidOption { value: 0.0, .. })));
}

/// Every round draws its own noise: without any pull, n steps of width s end √n s from where they began.
#[test]
fn every_round_draws_other_noise() {
    let layer = |inputs, outputs| Dense::new(inputs, outputs, Activation::Identity).unwrap();
    let circuit = Circuit::builder().layer(layer(1, 200)).layer(layer(200, 1));
    let energy = Energy::default().with_penalty(1e-6);
    let mut model = DecoupledCircuit::new(circuit.build().unwrap(), energy).unwrap();
    model.set_parameters(0, &[0.0; 400]).unwrap();
    model.set_parameters(1, &[0.0; 201]).unwrap();
    let zero = DMatrix::zeros(1, 1);
    model
        .add_examples(&zero, &zero, &TargetInit::ForwardPass)
        .unwrap();
    let gap = |rounds: u64, steps: u64| -> f64 {
        let noisy = SynchronousDescent::new(steps, StepSize::Fixed(0.01)).unwrap();
        let scheme = PcAlm::new(rounds, noisy.with_noise(1.0, 1).unwrap(), 1e-9).unwrap();
        let phase = Phase::new(scheme, GradientDescent::new(1e-9).unwrap()).with_epochs(1);
        let report = Trainer::new(phase).run(&mut model.clone()).unwrap();
        report.history[0].gap_after.unwrap()
    };
    // 16 independent steps go √16 times as far as one.
    let one = gap(1, 1);
    for sixteen in [gap(16, 1), gap(4, 4), gap(1, 16)] {
        assert!((sixteen / one - 4.0).abs() < 0.5, "{one}, {sixteen}");
    }
}
