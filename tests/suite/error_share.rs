//! The share of the error that a solved Z-step leaves, against S formed densely; and the rule that
//! holds it by μ.

use layerwise::data::metrics;
use layerwise::decoupled::{Selection, TargetInit};
use layerwise::diagnostics::Diagnostics;
use layerwise::energy::Energy;
use layerwise::error::Quantity;
use layerwise::init::Initializer;
use layerwise::layer::{Activation, Dense};
use layerwise::loss::{Huber, Poisson, SoftmaxCrossEntropy, SquaredError};
use layerwise::nalgebra::{DMatrix, DVector};
use layerwise::optimizer::{Adam, GradientDescent};
use layerwise::rand::rngs::ChaCha8Rng;
use layerwise::rand::{RngExt, SeedableRng};
use layerwise::regularizer::Regularizer;
use layerwise::schedule::Schedule;
use layerwise::target_solver::{GaussNewton, ReverseSweep};
use layerwise::theory;
use layerwise::training::{
    Backprop, Decoupling, ErrorShare, Event, FixedPrediction, PenaltyGrowth, Phase, Session,
    Trainer, WStep, ZIl,
};
use layerwise::{Circuit, DecoupledCircuit, Error, Scalar};

const EXAMPLES: usize = 6;

/// A circuit whose μ_t, and whose examples' weights, all differ.
fn model<T: Scalar>(
    seed: u64,
    widths: &[usize],
    activation: Activation,
    classes: bool,
) -> DecoupledCircuit<T> {
    let rng = &mut ChaCha8Rng::seed_from_u64(seed);
    let depth = widths.len() - 1;
    let mut builder = Circuit::<T>::builder().seed(seed);
    for (t, pair) in widths.windows(2).enumerate() {
        let activation = match t + 1 < depth {
            true => activation,
            false => Activation::Identity,
        };
        let layer = Dense::new(pair[0], pair[1], activation).unwrap();
        let bias = Initializer::Constant { value: 0.1 };
        builder = builder.layer(layer.with_bias(bias).unwrap());
    }
    let mu = (1..depth).map(|t| T::of(0.4 + 0.3 * t as f64)).collect();
    let energy = match classes {
        true => Energy::new(SoftmaxCrossEntropy),
        false => Energy::new(SquaredError),
    };
    let circuit = builder.build().unwrap();
    let mut model = DecoupledCircuit::new(circuit, energy.with_penalties(mu)).unwrap();
    let x = DMatrix::from_fn(widths[0], EXAMPLES, |_, _| {
        T::of(rng.random_range(-1.0..1.0))
    });
    let labels: Vec<usize> = (0..EXAMPLES).map(|i| (5 * i + 1) % widths[depth]).collect();
    let y = match classes {
        true => metrics::one_hot(&labels, widths[depth]).unwrap(),
        false => DMatrix::from_fn(widths[depth], EXAMPLES, |_, _| {
            T::of(rng.random_range(-2.0..2.0))
        }),
    };
    // The share is that from the forward pass, wherever the targets are.
    let init = TargetInit::NoisyForwardPass { std: 0.4, seed };
    model.add_examples(&x, &y, &init).unwrap();
    let weights: Vec<T> = (0..EXAMPLES).map(|i| T::of(0.5 + i as f64)).collect();
    model
        .set_example_weights(&Selection::All, &weights)
        .unwrap();
    model
}

/// Errors planted in the dense computation.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    NoPenalty,
    NoWeights,
    /// K without the first hidden layer.
    NoFirst,
    /// C = I.
    NoCurvature,
}

/// e = S⁻¹ r, r and K of every example, with S formed densely.
fn dense<T: Scalar>(model: &DecoupledCircuit<T>, classes: bool, fault: Fault) -> Vec<Solved> {
    let circuit = model.circuit();
    let (depth, dims) = (circuit.depth(), circuit.dims());
    let matrix = |t: usize| {
        let values = circuit.parameters(t).iter().map(|v| v.as_f64());
        DMatrix::from_iterator(dims[t + 1], dims[t], values.take(dims[t] * dims[t + 1]))
    };
    let [x, y] = [0, depth].map(|t| model.z(t).unwrap().map(|v| v.as_f64()));
    let tanh = format!("{:?}", circuit.layer(0)).contains("Tanh");
    let predict = |i: usize| {
        let mut h = vec![x.column(i).into_owned()];
        for t in 0..depth {
            let bias = circuit.parameters(t)[dims[t] * dims[t + 1]..].iter();
            let bias = DVector::from_iterator(dims[t + 1], bias.map(|v| v.as_f64()));
            let a = matrix(t) * &h[t] + bias;
            h.push(match tanh && t + 1 < depth {
                true => a.map(f64::tanh),
                false => a,
            });
        }
        h
    };
    let one = |i: usize| {
        let h = predict(i);
        let (output, target) = (&h[depth], y.column(i));
        let exp = output.map(f64::exp);
        let p = &exp / exp.sum();
        let (r, curvature) = match classes {
            true => (&p - target, DMatrix::from_diagonal(&p) - &p * p.transpose()),
            false => (output - target, DMatrix::identity(dims[depth], dims[depth])),
        };
        let identity = DMatrix::<f64>::identity(dims[depth], dims[depth]);
        let mut below = identity.clone();
        let mut k = DMatrix::<f64>::zeros(dims[depth], dims[depth]);
        for t in (1..depth).rev() {
            let slope = match tanh && t + 1 < depth {
                true => h[t + 1].map(|z| 1.0 - z * z),
                false => DVector::from_element(dims[t + 1], 1.0),
            };
            below = below * DMatrix::from_diagonal(&slope) * matrix(t);
            let mu = match fault {
                Fault::NoPenalty => 1.0,
                _ => model.terms().penalties()[t - 1].as_f64(),
            };
            if fault != Fault::NoFirst || t > 1 {
                k += &below * below.transpose() / mu;
            }
        }
        let curvature = match fault {
            Fault::NoCurvature => identity.clone(),
            _ => curvature,
        };
        let s = identity + curvature * &k;
        let weight = model.example_weights().unwrap()[i].as_f64();
        Solved {
            e: s.lu().solve(&r).unwrap(),
            r,
            k,
            weight: if fault == Fault::NoWeights {
                1.0
            } else {
                weight
            },
        }
    };
    (0..x.ncols()).map(one).collect()
}

struct Solved {
    e: DVector<f64>,
    r: DVector<f64>,
    k: DMatrix<f64>,
    weight: f64,
}

/// The shares of the output error and of backprop's errors.
fn shares(all: &[Solved]) -> [f64; 2] {
    let sum =
        |of: &dyn Fn(&Solved) -> f64| -> f64 { all.iter().map(|own| own.weight * of(own)).sum() };
    [
        sum(&|own| own.e.norm_squared()) / sum(&|own| own.r.norm_squared()),
        sum(&|own| own.e.dot(&(&own.k * &own.e))) / sum(&|own| own.r.dot(&(&own.k * &own.r))),
    ]
    .map(f64::sqrt)
}

fn diagnosed<T: Scalar>(model: &DecoupledCircuit<T>, steps: u64) -> [f64; 2] {
    let report = model.diagnose(&Diagnostics::new().with_error_share(steps));
    let share = report.unwrap().error_share.unwrap();
    [share.output, share.hidden].map(|own| own.as_f64())
}

/// Widths, activation, and whether the output is a softmax's logits. Some K are singular: a hidden
/// layer or all of them are narrower than the output.
const CASES: [(u64, &[usize], Activation, bool); 8] = [
    (1, &[3, 5, 4, 3], Activation::Identity, false),
    (2, &[2, 4, 1], Activation::Identity, false),
    (3, &[4, 3, 6, 5, 2, 4], Activation::Identity, false),
    (4, &[2, 1, 2, 7], Activation::Identity, false),
    (5, &[3, 6, 6, 6, 6, 4], Activation::Tanh, false),
    (6, &[3, 5, 4, 3], Activation::Tanh, true),
    (7, &[4, 2, 3, 6], Activation::Tanh, true),
    (8, &[3, 2, 5], Activation::Identity, true),
];

fn closed_form<T: Scalar>(tolerance: f64) {
    for (seed, widths, activation, classes) in CASES {
        let mut model = model::<T>(seed, widths, activation, classes);
        let first = model.terms().penalties().to_vec();
        for factor in [1e-2, 1.0, 100.0] {
            let now: Vec<T> = first.iter().map(|&mu| mu * T::of(factor)).collect();
            model.set_penalties(&now).unwrap();
            let exact = shares(&dense(&model, classes, Fault::None));
            let found = diagnosed(&model, 20);
            for (found, exact) in found.into_iter().zip(exact) {
                let off = (found - exact).abs();
                assert!(
                    off < tolerance,
                    "case {seed}, {factor}: {found} for {exact}"
                );
            }
        }
    }
}

#[test]
fn the_shares_are_those_of_the_dense_matrix() {
    closed_form::<f64>(1e-10);
    closed_form::<f32>(2e-4);
}

#[test]
fn a_planted_error_is_caught() {
    for (seed, widths, activation, classes) in CASES {
        let model = model::<f64>(seed, widths, activation, classes);
        let found = diagnosed(&model, 20);
        for fault in [
            Fault::NoPenalty,
            Fault::NoWeights,
            Fault::NoFirst,
            Fault::NoCurvature,
        ] {
            // Without curvature squared error loses nothing, nor K all of it.
            let nothing = match fault {
                Fault::NoCurvature => !classes,
                Fault::NoFirst => widths.len() == 3,
                // Then every example has the same share.
                Fault::NoWeights => widths[widths.len() - 1] == 1,
                _ => false,
            };
            if nothing {
                continue;
            }
            let wrong = shares(&dense(&model, classes, fault));
            let off = found.iter().zip(wrong).map(|(a, b)| (a - b).abs());
            let off = off.fold(0.0, f64::max);
            assert!(off > 1e-4, "case {seed}, {fault:?}: {off}");
        }
    }
}

/// ẑ_T of a linear last layer at its own targets.
fn last_prediction(model: &DecoupledCircuit<f64>) -> DMatrix<f64> {
    let last = model.circuit().depth() - 1;
    let dims = &model.circuit().dims()[last..];
    let (weights, bias) = model.circuit().parameters(last).split_at(dims[0] * dims[1]);
    let mut output = DMatrix::from_column_slice(dims[1], dims[0], weights) * model.z(last).unwrap();
    let bias = DVector::from_column_slice(bias);
    output.column_iter_mut().for_each(|mut own| own += &bias);
    output
}

/// Where the minimiser is: its output error is S⁻¹ r.
#[test]
fn the_minimiser_of_a_linear_circuit_leaves_the_share() {
    for (seed, widths, activation, classes) in CASES {
        if activation != Activation::Identity || classes {
            continue;
        }
        let mut model = model::<f64>(seed, widths, activation, classes);
        let all = Selection::All;
        model.set_example_weights(&all, &[1.0; EXAMPLES]).unwrap();
        let depth = model.circuit().depth();
        let y = model.z(depth).unwrap().into_owned();
        let r = &y - model.predict(&model.z(0).unwrap().into_owned()).unwrap();
        let [output, _] = diagnosed(&model, 20);
        for (t, z) in (1..).zip(theory::linear_minimiser(&model, &all).unwrap()) {
            model.set_targets(t, &all, &z).unwrap();
        }
        let e = y - last_prediction(&model);
        let share = e.norm() / r.norm();
        assert!(
            (output - share).abs() < 1e-10,
            "case {seed}: {output} for {share}"
        );
    }
}

#[test]
fn a_share_grows_with_the_penalty_from_0_to_1() {
    for (seed, widths, activation, classes) in CASES {
        let mut model = model::<f64>(seed, widths, activation, classes);
        let first = model.terms().penalties().to_vec();
        let mut before = 0.0;
        for exponent in -12..=12 {
            let factor = 10f64.powi(exponent);
            let now: Vec<f64> = first.iter().map(|mu| mu * factor).collect();
            model.set_penalties(&now).unwrap();
            let [_, hidden] = diagnosed(&model, 20);
            assert!(
                hidden > before,
                "case {seed}, {factor}: {hidden} after {before}"
            );
            before = hidden;
            if exponent == -12 {
                assert!(hidden < 1e-6, "case {seed}: {hidden}");
            }
        }
        assert!(before > 1.0 - 1e-9, "case {seed}: {before}");
    }
}

/// Of the six directions of the output, three steps see the most important ones.
#[test]
fn a_few_steps_come_near() {
    let model = model::<f64>(9, &[4, 8, 8, 8, 6], Activation::Tanh, true);
    let exact = diagnosed(&model, 6);
    let off = |steps| {
        let found = diagnosed(&model, steps).into_iter().zip(exact);
        found.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
    };
    assert!(
        off(1) > off(3) && off(3) > off(5),
        "{} {} {}",
        off(1),
        off(3),
        off(5)
    );
    assert!(off(3) < 0.02, "{}", off(3));
    assert_eq!(diagnosed(&model, 6), diagnosed(&model, 600));
}

#[test]
fn an_example_has_its_own_share_in_every_batch() {
    let model = model::<f32>(6, &[3, 5, 4, 3], Activation::Tanh, true);
    let of = |selection| {
        let options = Diagnostics::new().with_error_share(3);
        let report = model.diagnose(&options.with_selection(selection)).unwrap();
        report.error_share.unwrap()
    };
    assert_eq!(of(Selection::Columns(2..3)), of(Selection::Examples(&[2])));
    assert_ne!(of(Selection::Columns(2..3)), of(Selection::Columns(3..4)));
}

#[test]
fn where_there_is_no_error_all_of_it_is_left() {
    // No hidden layer, then no error.
    let one = model::<f64>(1, &[3, 2], Activation::Identity, false);
    assert_eq!(diagnosed(&one, 4), [1.0; 2]);
    let mut model = model::<f64>(1, &[3, 4, 2], Activation::Identity, false);
    let x = model.z(0).unwrap().into_owned();
    let y = model.predict(&x).unwrap();
    let ids = model.examples().to_vec();
    model.remove_examples(&ids).unwrap();
    model
        .add_examples(&x, &y, &TargetInit::ForwardPass)
        .unwrap();
    assert_eq!(diagnosed(&model, 4), [1.0; 2]);
    assert!(
        model
            .diagnose(&Diagnostics::new())
            .unwrap()
            .error_share
            .is_none()
    );
}

#[test]
fn a_product_that_overflows_has_no_share() {
    let mut model = model::<f64>(1, &[3, 4, 4, 2], Activation::Identity, false);
    for t in 1..3 {
        let large = vec![1e160; model.circuit().parameters(t).len()];
        model.set_parameters(t, &large).unwrap();
    }
    let rule = GradientDescent::new(1e-6).unwrap();
    let phase = Phase::new(Decoupling::weights_only(), rule);
    let phase = phase.with_error_share(ErrorShare::new(0.9).unwrap());
    let trainer = Trainer::new(phase.unwrap()).with_measure_every(0);
    let before = model.terms().penalties().to_vec();
    let error = trainer.run(&mut model).unwrap_err().error;
    let fits = matches!(
        error,
        Error::NonFinite {
            quantity: Quantity::TargetGradient,
            ..
        }
    );
    assert!(fits, "{error}");
    assert_eq!(model.terms().penalties(), before);
}

/// Nor has one whose loss overflows in its curvature only.
#[test]
fn a_curvature_that_overflows_leaves_no_share() {
    let mut builder = Circuit::<f64>::builder().seed(3);
    for bias in [0.0, 700.0] {
        let weights = Initializer::Constant { value: 1.0 };
        let layer = Dense::new(1, 1, Activation::Identity).unwrap();
        let layer = layer.with_weights(weights).unwrap();
        let bias = Initializer::Constant { value: bias };
        builder = builder.layer(layer.with_bias(bias).unwrap());
    }
    // C is e^700, and C K v that divided by √μ.
    let energy = Energy::new(Poisson).with_penalty(1e-10);
    let mut model = DecoupledCircuit::new(builder.build().unwrap(), energy).unwrap();
    let (x, y) = (DMatrix::zeros(1, 1), DMatrix::zeros(1, 1));
    let init = TargetInit::ForwardPass;
    model.add_examples(&x, &y, &init).unwrap();
    let options = Diagnostics::new().with_error_share(1).without_backprop();
    let report = model.diagnose(&options).unwrap();
    assert_eq!(report.error_share, None);
}

/// A batch without an error, or with one that no hidden layer can change, says nothing about μ.
#[test]
fn a_batch_without_a_signal_keeps_the_penalties() {
    for weight in [0.5, 0.0] {
        let mut builder = Circuit::<f64>::builder();
        for _ in 0..2 {
            let weights = Initializer::Constant { value: weight };
            let layer = Dense::new(2, 2, Activation::Identity).unwrap();
            builder = builder.layer(layer.with_weights(weights).unwrap());
        }
        let energy = Energy::default().with_penalty(3.0);
        let mut model = DecoupledCircuit::new(builder.build().unwrap(), energy).unwrap();
        let x = DMatrix::from_vec(2, 1, vec![1.0, -2.0]);
        let y = match weight {
            0.0 => x.clone(),
            _ => model.predict(&x).unwrap(),
        };
        model
            .add_examples(&x, &y, &TargetInit::ForwardPass)
            .unwrap();
        let scheme = Decoupling::persistent(GaussNewton::chained(1, 2));
        let phase = Phase::with_w_step(scheme, WStep::none()).unwrap();
        let own = ErrorShare::new(0.9).unwrap();
        let phase = phase.with_epochs(2).with_error_share(own).unwrap();
        Trainer::new(phase).run(&mut model).unwrap();
        assert_eq!(model.terms().penalties(), [3.0], "{weight}");
    }
}

#[test]
fn a_share_without_a_closed_form_is_refused() {
    let circuit = || {
        let builder = Circuit::<f64>::builder();
        let builder = builder.layer(Dense::new(2, 3, Activation::Tanh).unwrap());
        let last = Dense::new(3, 1, Activation::Identity).unwrap();
        builder.layer(last).build().unwrap()
    };
    let x = DMatrix::from_element(2, 2, 0.5);
    let y = DMatrix::from_element(1, 2, 0.5);
    let made = |energy: Energy<f64>| {
        let mut model = DecoupledCircuit::new(circuit(), energy).unwrap();
        model
            .add_examples(&x, &y, &TargetInit::ForwardPass)
            .unwrap();
        model
    };
    let huber = made(Energy::default().with_hidden_loss(Huber::new(1.0).unwrap()));
    let l2 = Regularizer::l2(0.1).unwrap();
    let mut pulled = made(Energy::default().with_target_regularizer(l2));
    let options = Diagnostics::new().with_error_share(4);
    let trainer = || {
        let phase = Phase::new(
            Decoupling::refreshed(ReverseSweep::new(1)),
            Adam::new(1e-2).unwrap(),
        );
        Trainer::new(
            phase
                .with_error_share(ErrorShare::new(0.5).unwrap())
                .unwrap(),
        )
    };
    let not_squared = |error: Error, name: &str| {
        assert!(matches!(error, Error::NotSquaredError { .. }), "{error}");
        assert!(error.to_string().contains(name), "{error}");
    };
    let error = huber.diagnose(&options).unwrap_err();
    not_squared(error, "Diagnostics::with_error_share");
    not_squared(trainer().check(&huber).unwrap_err(), "ErrorShare");
    let named = |error: Error, name: &str| {
        let fits = matches!(&error, Error::InvalidOption { option, .. } if *option == name);
        assert!(fits, "{error}");
    };
    let error = pulled.diagnose(&options).unwrap_err();
    named(error, "target regulariser with an error share");
    let error = trainer().run(&mut pulled).unwrap_err().error;
    named(error, "target regulariser under ErrorShare");
    let none = Diagnostics::new().with_error_share(0);
    named(
        pulled.diagnose(&none).unwrap_err(),
        "Diagnostics::with_error_share's steps",
    );
}

/// As many steps as are exact.
fn rule(share: f64) -> ErrorShare {
    ErrorShare::new(share).unwrap().with_steps(20).unwrap()
}

/// At the θ of every visit, the share is the wanted one where μ is updated, and μ is kept elsewhere.
#[test]
fn the_rule_holds_the_share_as_parameters_move() {
    for (seed, widths, activation, classes) in CASES {
        for share in [0.5, 0.9] {
            let model = model::<f64>(seed, widths, activation, classes);
            let first = model.terms().penalties().to_vec();
            let solver = GaussNewton::chained(1, 5);
            let phase = Phase::new(Decoupling::refreshed(solver), Adam::new(2e-2).unwrap());
            let own = rule(share).with_every(3).unwrap();
            let own = own.with_range(1e-6, 1e6).unwrap();
            let phase = phase.with_epochs(8).with_error_share(own).unwrap();
            let mut session = Session::new(&Trainer::new(phase), model.clone()).unwrap();
            let mut before = model;
            let (mut visit, mut used): (u64, Vec<Vec<f64>>) = (0, Vec::new());
            while let Some(event) = session.advance().unwrap() {
                if let Event::Visit(_) = event {
                    let now = session.model().terms().penalties().to_vec();
                    before.set_penalties(&now).unwrap();
                    let [_, hidden] = diagnosed(&before, 20);
                    let at = format!("case {seed}, {share}, visit {visit}");
                    if visit % 3 == 0 {
                        assert!((hidden - share).abs() < 1e-9, "{at}: {hidden}");
                    } else {
                        assert_eq!(used.last(), Some(&now), "{at}");
                    }
                    let factor = now[0] / first[0];
                    for (now, first) in now.iter().zip(&first) {
                        assert!((now / first / factor - 1.0).abs() < 1e-14, "{at}");
                    }
                    used.push(now);
                    visit += 1;
                }
                before = session.model().clone();
            }
            assert_eq!(visit, 8);
            assert_ne!(used[0], used[7], "case {seed}, {share}");
            assert_eq!(session.report().phases[0].penalties, used[7]);
        }
    }
}

/// With an exact Z-step of a linear circuit: the output error after it is the share of that before.
#[test]
fn the_step_leaves_the_share_that_the_rule_wants() {
    let mut model = model::<f64>(2, &[2, 4, 4, 1], Activation::Identity, false);
    let all = Selection::All;
    model.set_example_weights(&all, &[1.0; EXAMPLES]).unwrap();
    let x = model.z(0).unwrap().into_owned();
    let y = model.z(3).unwrap().into_owned();
    let r = &y - model.predict(&x).unwrap();
    let solver = GaussNewton::direct(1).with_damping(0.0).unwrap();
    let phase = Phase::with_w_step(Decoupling::persistent(solver), WStep::none()).unwrap();
    let phase = phase.with_epochs(1).with_error_share(rule(0.8)).unwrap();
    Trainer::new(phase).run(&mut model).unwrap();
    let e = y - last_prediction(&model);
    // With one output the two shares are one.
    assert!(
        (e.norm() / r.norm() - 0.8).abs() < 1e-9,
        "{}",
        e.norm() / r.norm()
    );
}

#[test]
fn a_share_out_of_reach_ends_at_the_range() {
    let trained = |share: f64, least: f64, most: f64| {
        let mut model = model::<f32>(1, &[3, 5, 4, 3], Activation::Tanh, false);
        let scheme = Decoupling::refreshed(ReverseSweep::new(1));
        let own = ErrorShare::new(share)
            .unwrap()
            .with_range(least, most)
            .unwrap();
        let phase = Phase::new(scheme, Adam::new(1e-3).unwrap()).with_epochs(1);
        let phase = phase.with_error_share(own).unwrap();
        let first = model.terms().penalties()[0];
        Trainer::new(phase).run(&mut model).unwrap();
        model.terms().penalties()[0] / first
    };
    assert_eq!(trained(0.999, 0.5, 2.0), 2.0);
    assert_eq!(trained(0.001, 0.5, 2.0), 0.5);
    assert_eq!(trained(0.5, 3.0, 3.0), 3.0);
}

fn bits<T: Scalar>(model: &DecoupledCircuit<T>) -> Vec<u64> {
    let layers = 0..model.circuit().depth();
    let all = layers.flat_map(|t| model.circuit().parameters(t));
    let all = all.chain(model.terms().penalties());
    all.map(|v| v.as_f64().to_bits()).collect()
}

/// Minibatches, of which the last is smaller.
fn trained<T: Scalar>(threads: usize, share: Option<f64>) -> Vec<u64> {
    let mut model = model::<T>(3, &[4, 40, 30, 20, 4], Activation::Tanh, true);
    let scheme = Decoupling::refreshed(GaussNewton::chained(1, 3));
    let mut phase = Phase::new(scheme, Adam::new(1e-2).unwrap());
    phase = phase.with_epochs(4).with_batch_size(4).unwrap();
    if let Some(share) = share {
        let own = ErrorShare::new(share).unwrap().with_every(3).unwrap();
        phase = phase.with_error_share(own).unwrap();
    }
    let trainer = Trainer::new(phase).with_threads(threads).unwrap();
    trainer.run(&mut model).unwrap();
    bits(&model)
}

#[test]
fn every_option_has_an_effect() {
    let (plain, half) = (trained::<f64>(1, None), trained::<f64>(1, Some(0.5)));
    assert_ne!(plain, half);
    assert_ne!(half, trained::<f64>(1, Some(0.9)));
    assert_eq!(half, trained::<f64>(1, Some(0.5)));
}

#[cfg(feature = "rayon")]
#[test]
fn threads_change_no_bit() {
    assert_eq!(trained::<f64>(1, Some(0.5)), trained::<f64>(3, Some(0.5)));
    assert_eq!(trained::<f32>(1, Some(0.9)), trained::<f32>(2, Some(0.9)));
}

#[test]
fn what_does_not_go_together_is_refused() {
    let adam = || Adam::new(1e-2).unwrap();
    let share = || ErrorShare::new(0.5).unwrap();
    let phase = || Phase::<f64>::new(Decoupling::refreshed(ReverseSweep::new(1)), adam());
    let combination = |made: Result<Phase<f64>, Error>, named: &str| {
        let error = made.unwrap_err();
        let fits = matches!(error, Error::Combination { what, .. } if what == named);
        assert!(fits, "{error}");
    };
    let growth = || PenaltyGrowth::new(1).unwrap();
    let schedule = || Schedule::geometric(2.0).unwrap();
    let shared = || phase().with_error_share(share()).unwrap();
    let both = "penalty growth together with an error share";
    combination(shared().with_penalty_growth(growth()), both);
    combination(
        phase()
            .with_penalty_growth(growth())
            .unwrap()
            .with_error_share(share()),
        both,
    );
    let both = "a penalty schedule together with an error share";
    combination(shared().with_penalty_schedule(schedule()), both);
    for phase in [
        Phase::new(Backprop, adam()),
        Phase::new(ZIl, adam()),
        Phase::new(FixedPrediction::new(), adam()),
    ] {
        combination(phase.with_error_share(share()), "an error share");
    }
    let option = |error: Error| match error {
        Error::InvalidOption { option, .. } => option,
        other => panic!("{other}"),
    };
    for wrong in [0.0, 1.0, -0.5, 2.0, f64::NAN] {
        let error = ErrorShare::new(wrong).unwrap_err();
        assert_eq!(option(error), "ErrorShare::share");
    }
    assert_eq!(
        option(share().with_every(0).unwrap_err()),
        "ErrorShare::every"
    );
    assert_eq!(
        option(share().with_steps(0).unwrap_err()),
        "ErrorShare::steps"
    );
    let range = |least, most| option(share().with_range(least, most).unwrap_err());
    assert_eq!(range(0.0, 1.0), "ErrorShare::range's least");
    assert_eq!(range(1.0, f64::INFINITY), "ErrorShare::range's most");
    assert_eq!(range(2.0, 1.0), "ErrorShare::range's most");
    // μ must fit the scalar at both ends, in this phase and after it.
    let trainer = |least: f64, most: f64| {
        let own = share().with_range(least, most).unwrap();
        let phase = Phase::<f32>::new(Decoupling::refreshed(ReverseSweep::new(1)), adam());
        Trainer::new(phase.with_error_share(own).unwrap())
    };
    let small = model::<f32>(1, &[3, 5, 3], Activation::Tanh, false);
    let name = "penalty μ under ErrorShare::range";
    assert_eq!(option(trainer(1e-60, 1.0).check(&small).unwrap_err()), name);
    assert_eq!(option(trainer(1.0, 1e60).check(&small).unwrap_err()), name);
    let next = |most, growth: PenaltyGrowth| {
        let phase = Phase::new(Decoupling::refreshed(ReverseSweep::new(1)), adam());
        trainer(0.5, most).then(phase.with_penalty_growth(growth).unwrap())
    };
    let growth = |cap| growth().with_cap(cap).unwrap();
    // Without a signal μ keeps its value, .7, also beyond the range.
    for (most, cap) in [(2.0, 1.3), (0.5, 0.6)] {
        let error = next(most, growth(cap)).check(&small).unwrap_err();
        assert_eq!(option(error), "penalty μ");
    }
    next(2.0, growth(1.5)).check(&small).unwrap();
    next(0.5, growth(0.8)).check(&small).unwrap();
}

/// T orthogonal layers: K = (T−1)/μ I, so the share is 1/(1 + (T−1)/μ), and μ for σ is (T−1) σ/(1−σ).
#[test]
fn a_chain_of_orthogonal_layers_has_a_share_in_closed_form() {
    for depth in [2, 10, 30] {
        let mut builder = Circuit::<f64>::builder().seed(depth);
        for _ in 0..depth {
            let layer = Dense::new(4, 4, Activation::Identity).unwrap();
            let orthogonal = Initializer::Orthogonal { gain: 1.0 };
            builder = builder.layer(layer.with_weights(orthogonal).unwrap());
        }
        let energy = Energy::default().with_penalty(2.0);
        let mut model = DecoupledCircuit::new(builder.build().unwrap(), energy).unwrap();
        let x = DMatrix::from_fn(4, 5, |i, j| (i as f64 - j as f64).sin());
        let y = x.map(|x| 1.0 - 2.0 * x);
        model
            .add_examples(&x, &y, &TargetInit::ForwardPass)
            .unwrap();
        let hidden = (depth - 1) as f64;
        for share in diagnosed(&model, 4) {
            let exact = 1.0 / (1.0 + hidden / 2.0);
            assert!(
                (share - exact).abs() < 1e-10,
                "{depth}: {share} for {exact}"
            );
        }
        let rule = ErrorShare::new(0.9).unwrap().with_steps(1).unwrap();
        let phase = Phase::new(Decoupling::weights_only(), Adam::new(1e-6).unwrap());
        let phase = phase.with_epochs(1).with_error_share(rule).unwrap();
        Trainer::new(phase).run(&mut model).unwrap();
        for &mu in model.terms().penalties() {
            assert!((mu / (9.0 * hidden) - 1.0).abs() < 1e-9, "{depth}: {mu}");
        }
    }
}
