//! Learning rates, weight decay and freezing by part, and gradients accumulated over visits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use layerwise::decoupled::TargetUse;
use layerwise::kernel::Write;
use layerwise::layer::{Context, ParameterGroup, Point, Scratch, Shape};
use layerwise::nalgebra::DMatrix;
use layerwise::parameter_solver::{LeastSquares, LevenbergMarquardt};
use layerwise::prelude::*;
use layerwise::schedule::Schedule;
use layerwise::state::State;
use layerwise::training::{
    Event, FixedPrediction, Part, Scheme, Session, StopReason, Visit, Warning, ZIl,
};
use rand::Rng;

const N: usize = 13;

fn model() -> DecoupledCircuit<f64> {
    let circuit = Circuit::builder()
        .layer(Dense::new(3, 5, Activation::Tanh).unwrap())
        .layer(Dense::new(5, 4, Activation::Tanh).unwrap())
        .layer(Dense::new(4, 2, Activation::Identity).unwrap());
    with_examples(circuit.build().unwrap())
}

fn with_examples(circuit: Circuit<f64>) -> DecoupledCircuit<f64> {
    let (rows, outputs) = (circuit.dims()[0], *circuit.dims().last().unwrap());
    let wave = |rows: usize, k: usize| {
        DMatrix::from_fn(rows, N, |i, j| ((i + 3 * j) * k % 11) as f64 / 5.0 - 1.0)
    };
    let mut model = DecoupledCircuit::new(circuit, Energy::default()).unwrap();
    model
        .add_examples(&wave(rows, 5), &wave(outputs, 7), &TargetInit::ForwardPass)
        .unwrap();
    model
}

fn sgd() -> WStep<f64> {
    WStep::optimizer(GradientDescent::new(0.125).unwrap())
}

fn phase(scheme: impl Scheme<f64> + 'static, w_step: WStep<f64>, epochs: u64) -> Phase<f64> {
    let phase = Phase::with_w_step(scheme, w_step).unwrap();
    phase.with_epochs(epochs)
}

fn theta(model: &DecoupledCircuit<f64>) -> Vec<Vec<f64>> {
    let circuit = model.circuit();
    (0..circuit.depth())
        .map(|t| circuit.parameters(t).to_vec())
        .collect()
}

/// θ after training.
fn trained(phase: Phase<f64>) -> Vec<Vec<f64>> {
    let mut model = model();
    Trainer::new(phase).run(&mut model).unwrap();
    theta(&model)
}

/// By how much one step of backprop moves every parameter.
fn moves(w_step: WStep<f64>) -> Vec<Vec<f64>> {
    let start = theta(&model());
    let mut after = trained(phase(Backprop, w_step, 1));
    for (after, start) in after.iter_mut().flatten().zip(start.iter().flatten()) {
        *after -= start;
    }
    after
}

/// The indices of the weights of layer t, which come before its bias.
fn weights(t: usize) -> usize {
    [15, 20, 8][t]
}

#[track_caller]
fn assert_close(found: &[Vec<f64>], expected: &[Vec<f64>], tolerance: f64) {
    for (t, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found.len(), expected.len());
        for (j, (a, b)) in found.iter().zip(expected).enumerate() {
            assert!((a - b).abs() <= tolerance, "layer {t}, {j}: {a}, not {b}");
        }
    }
}

#[test]
fn rates_by_part() {
    let plain = moves(sgd());
    let w_step = sgd()
        .with_rate_factor(Part::layer(1), 0.5)
        .unwrap()
        .with_rate_factor(Part::group("bias"), 2.0)
        .unwrap()
        .with_rate_factor(Part::group_of_layer(2, "weights"), 4.0)
        .unwrap()
        // The last factor for the same parameters counts.
        .with_rate_factor(Part::group_of_layer(0, "bias"), 3.0)
        .unwrap();
    let factor = |t: usize, j: usize| match (t, j < weights(t)) {
        (0, true) => 1.0,
        (1, true) => 0.5,
        (2, true) => 4.0,
        (0, false) => 3.0,
        _ => 2.0,
    };
    let expected: Vec<Vec<f64>> = (0..3)
        .map(|t| {
            (0..)
                .zip(&plain[t])
                .map(|(j, d)| factor(t, j) * d)
                .collect()
        })
        .collect();
    assert_close(&moves(w_step), &expected, 1e-14);
}

/// AdamW's step is the same whatever decays, so that θ differs by ηλ f θ.
#[test]
fn decay_by_part() {
    let rule = || {
        let adam = AdamW::new(Adam::new(0.01).unwrap());
        WStep::optimizer(adam.with_weight_decay(0.5).unwrap())
    };
    let everywhere = |w_step: WStep<f64>, factor| {
        let layers = (0..3).map(Part::layer);
        layers.fold(w_step, |w_step, part| {
            w_step.with_decay_factor(part, factor).unwrap()
        })
    };
    let none = moves(everywhere(rule(), 0.0));
    let start = theta(&model());
    let check = |w_step: WStep<f64>, factor: &dyn Fn(usize, usize) -> f64| {
        let mut expected = none.clone();
        for (t, own) in expected.iter_mut().enumerate() {
            for (j, d) in own.iter_mut().enumerate() {
                *d -= 0.01 * 0.5 * factor(t, j) * start[t][j];
            }
        }
        assert_close(&moves(w_step), &expected, 1e-15);
    };
    // By default weights decay, and biases do not.
    check(rule(), &|t, j| f64::from(u8::from(j < weights(t))));
    let all = everywhere(rule(), 3.0);
    check(all, &|_, _| 3.0);
    let some = rule()
        .with_decay_factor(Part::group_of_layer(1, "weights"), 0.25)
        .unwrap();
    check(some, &|t, j| match (t, j < weights(t)) {
        (_, false) => 0.0,
        (1, true) => 0.25,
        _ => 1.0,
    });
}

fn schemes() -> Vec<Arc<dyn Scheme<f64>>> {
    let sweep = || ReverseSweep::new(2);
    vec![
        Arc::new(Backprop),
        Arc::new(Decoupling::refreshed(sweep())),
        Arc::new(
            Decoupling::persistent(sweep())
                .with_multipliers(0.5)
                .unwrap(),
        ),
        Arc::new(Decoupling::residual(sweep())),
        Arc::new(Decoupling::joint(GradientDescent::new(0.1).unwrap())),
        Arc::new(ZIl),
        Arc::new(FixedPrediction::new()),
    ]
}

/// Bit for bit, whatever moves the others, whether or not a norm or a sum of gradients is needed.
#[test]
fn frozen_parameters_rest() {
    for scheme in schemes() {
        for kind in 0..3 {
            let rule = AdamW::new(Adam::new(0.01).unwrap())
                .with_weight_decay(0.1)
                .unwrap();
            let mut w_step = WStep::optimizer(rule)
                .with_frozen(Part::layer(1))
                .with_frozen(Part::group_of_layer(2, "bias"));
            if kind == 1 {
                w_step = w_step.with_max_gradient_norm(0.01).unwrap();
            }
            if kind == 2 {
                w_step = w_step.with_accumulation(2).unwrap();
            }
            let mut model = model();
            let start = theta(&model);
            let phase = Phase::with_w_step(scheme.clone(), w_step).unwrap();
            let phase = phase.with_epochs(4).with_batch_size(4).unwrap();
            let report = Trainer::new(phase).run(&mut model).unwrap();
            let end = theta(&model);
            assert_eq!(end[1], start[1], "{scheme:?}");
            assert_eq!(end[2][8..], start[2][8..], "{scheme:?}");
            for (t, own) in [(0, 0..20), (2, 0..8)] {
                let mut all = own.map(|j| end[t][j] != start[t][j]);
                assert!(all.all(|moved| moved), "{scheme:?}, {kind}, layer {t}");
            }
            // What was asked for is nothing to warn about.
            let mut told = report.warnings.iter().map(|own| own.warning);
            let of_layer =
                |own| own == Warning::Frozen { layer: 1 } || own == Warning::Unreached { layer: 1 };
            assert!(!told.any(of_layer), "{scheme:?}: {:?}", report.warnings);
        }
    }
}

/// Freezing changes no other layer's step.
#[test]
fn the_others_step_as_before() {
    let plain = moves(sgd());
    let frozen = moves(
        sgd()
            .with_frozen(Part::layer(0))
            .with_frozen(Part::group("bias")),
    );
    assert!(frozen[0].iter().all(|d| *d == 0.0));
    for t in [1, 2] {
        let (own, rest) = frozen[t].split_at(weights(t));
        assert_eq!(own, &plain[t][..weights(t)]);
        assert!(rest.iter().all(|d| *d == 0.0));
    }
}

#[test]
fn a_maximum_norm_does_not_count_what_is_frozen() {
    let w_step = sgd()
        .with_frozen(Part::layer(0))
        .with_frozen(Part::group("weights"))
        .with_max_gradient_norm(1e-3)
        .unwrap();
    let moved = moves(w_step);
    let norm = moved.iter().flatten().map(|d| d * d).sum::<f64>().sqrt();
    assert!((norm / (0.125 * 1e-3) - 1.0).abs() < 1e-10, "{norm}");
}

/// z ↦ a z. It refuses to compute a gradient in a.
#[derive(Debug)]
struct Guarded;

impl Layer<f64> for Guarded {
    fn input_shape(&self) -> Shape {
        3.into()
    }

    fn output_shape(&self) -> Shape {
        3.into()
    }

    fn parameters(&self) -> Vec<ParameterGroup> {
        ParameterGroup::tile([ParameterGroup::new("scale", [1]).decaying()])
    }

    fn initialize(&self, parameters: &mut [f64], _rng: &mut dyn Rng) {
        parameters.fill(0.5);
    }

    fn scratch(&self, _batch: usize) -> Scratch {
        Scratch::NONE
    }

    fn forward(
        &self,
        _context: &Context<'_>,
        parameters: &[f64],
        input: &[f64],
        output: &mut [f64],
        _tape: Option<&mut [f64]>,
        _work: &mut [f64],
    ) {
        for (o, z) in output.iter_mut().zip(input) {
            *o = parameters[0] * z;
        }
    }

    fn vjp(
        &self,
        at: &Point<'_, f64>,
        cotangent: &[f64],
        d_input: Write<'_, f64>,
        d_parameters: Write<'_, f64>,
        _work: &mut [f64],
    ) {
        assert!(d_parameters.is_skip(), "nobody needs this gradient");
        d_input.each(|i| at.parameters[0] * cotangent[i]);
    }
}

#[test]
fn the_gradient_of_a_frozen_layer_is_not_computed() {
    let sweep = || {
        let step = StepSize::Checked(0.5);
        ReverseSweep::new(1).with_step(step).unwrap()
    };
    let schemes: [Arc<dyn Scheme<f64>>; 4] = [
        Arc::new(Backprop),
        Arc::new(Decoupling::refreshed(sweep())),
        Arc::new(Decoupling::persistent(sweep())),
        Arc::new(Decoupling::joint(GradientDescent::new(0.1).unwrap())),
    ];
    for scheme in schemes {
        for place in [0, 1] {
            let dense = |input| Dense::new(input, 3, Activation::Tanh).unwrap();
            let builder = Circuit::builder();
            let builder = match place {
                0 => builder.layer(Guarded).layer(dense(3)),
                _ => builder.layer(dense(3)).layer(Guarded),
            };
            let circuit = builder.layer(dense(3)).build().unwrap();
            let energy =
                Energy::default().with_parameter_regularizer(Regularizer::l2(0.1).unwrap());
            let mut model = with_examples(circuit.clone());
            let (x, y) = (
                model.z(0).unwrap().into_owned(),
                model.z(3).unwrap().into_owned(),
            );
            model = DecoupledCircuit::new(circuit, energy).unwrap();
            model
                .add_examples(&x, &y, &TargetInit::ForwardPass)
                .unwrap();
            let w_step = sgd().with_frozen(Part::layer(place));
            let phase = Phase::with_w_step(scheme.clone(), w_step).unwrap();
            let before = theta(&model);
            Trainer::new(phase.with_epochs(2)).run(&mut model).unwrap();
            let after = theta(&model);
            assert_eq!(before[place], after[place]);
            assert_ne!(before[2], after[2]);
        }
    }
}

#[test]
fn unknown_parts_are_named() {
    #[track_caller]
    fn check(w_step: WStep<f64>, expected: Error, text: &[&str]) {
        let mut model = model();
        let start = theta(&model);
        let trainer = Trainer::new(phase(Backprop, w_step, 1));
        assert_eq!(trainer.check(&model), Err(expected.clone()));
        let error = Session::new(&trainer, model.clone())
            .map(|_| ())
            .unwrap_err();
        assert_eq!(error, expected);
        let failed = trainer.run(&mut model).unwrap_err();
        assert_eq!(failed.error, expected);
        assert_eq!(theta(&model), start);
        for part in text {
            assert!(error.to_string().contains(part), "{part:?}: {error}");
        }
    }
    let unknown = |group: &str, layer| Error::UnknownGroup {
        group: group.into(),
        layer,
        groups: vec!["weights".into(), "bias".into()],
    };
    check(
        sgd().with_frozen(Part::group("wieghts")),
        unknown("wieghts", None),
        &["'wieghts'", "any layer", "'weights', 'bias'"],
    );
    check(
        sgd()
            .with_rate_factor(Part::group_of_layer(1, "scale"), 0.5)
            .unwrap(),
        unknown("scale", Some(1)),
        &["'scale'", "layer 1", "'weights', 'bias'"],
    );
    let layer = Error::UnknownLayer {
        layer: 3,
        allowed: "0 to 2".into(),
    };
    check(
        sgd().with_frozen(Part::layer(3)),
        layer.clone(),
        &["layer 3"],
    );
    let part = Part::group_of_layer(3, "bias");
    check(sgd().with_frozen(part), layer, &["layer 3"]);
}

#[test]
fn options_without_effect_are_refused() {
    #[track_caller]
    fn check(result: Result<Phase<f64>, Error>, text: &str) {
        let error = result.unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
    }
    let with = |w_step| Phase::with_w_step(Decoupling::persistent(ReverseSweep::new(1)), w_step);
    let bias = || Part::group("bias");
    let none = WStep::<f64>::none;
    let solver = || WStep::<f64>::solver(LeastSquares::ridge(0.1).unwrap());
    check(
        with(none().with_frozen(bias())),
        "frozen parameters with no W-step",
    );
    check(
        with(none().with_accumulation(2).unwrap()),
        "accumulated gradients without",
    );
    check(
        with(solver().with_rate_factor(bias(), 0.5).unwrap()),
        "learning rate",
    );
    let phase = with(solver()).unwrap();
    check(phase.with_max_gradient_norm(0.1), "maximum gradient norm");
    // Gradient descent has no weight decay.
    check(
        with(sgd().with_decay_factor(bias(), 0.5).unwrap()),
        "optimiser that has none",
    );
    let plain = AdamW::new(Adam::new(0.1).unwrap()).with_weight_decay(0.0);
    let plain = WStep::optimizer(plain.unwrap());
    check(
        with(plain.with_decay_factor(bias(), 0.5).unwrap()),
        "optimiser that has none",
    );
    let both = sgd().with_accumulation(2).unwrap().with_steps(2).unwrap();
    check(with(both), "several parameter steps");
    let both = sgd().with_accumulation(2).unwrap();
    check(
        with(both.with_solver_of_layer(0, LevenbergMarquardt::new(1, 2))),
        "parameter solvers",
    );

    let run = |w_step| Trainer::new(with(w_step).unwrap()).check(&model());
    let refused = |w_step, text: &str| {
        let error = run(w_step).unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
    };
    let all = sgd()
        .with_frozen(Part::group("weights"))
        .with_frozen(bias());
    refused(all, "every parameter frozen");
    let levenberg = || LevenbergMarquardt::new(1, 2);
    refused(
        sgd()
            .with_solver_of_layer(0, levenberg())
            .with_frozen(Part::layer(0)),
        "solver",
    );
    refused(WStep::solver(levenberg()).with_frozen(bias()), "solver");
    // A solver for every layer leaves out the frozen ones.
    assert_eq!(
        run(WStep::solver(levenberg()).with_frozen(Part::layer(0))),
        Ok(())
    );
    assert_eq!(
        run(sgd()
            .with_solver_of_layer(0, levenberg())
            .with_frozen(Part::layer(1))),
        Ok(())
    );

    // The optimiser moves only what is neither solved nor frozen.
    let halved = |w_step: WStep<f64>, part| w_step.with_rate_factor(part, 0.5).unwrap();
    let beside = || sgd().with_solver_of_layer(0, levenberg());
    let rested = || sgd().with_frozen(Part::layer(1)).with_frozen(bias());
    for w_step in [
        halved(beside(), Part::layer(0)),
        halved(beside(), Part::group_of_layer(0, "bias")),
        halved(solver().with_optimizer(Adam::new(0.1).unwrap()), bias()),
        halved(rested(), Part::layer(1)),
        halved(rested(), bias()),
        // A factor that has an effect does not excuse another that has none.
        halved(halved(beside(), Part::layer(1)), Part::layer(0)),
    ] {
        refused(
            w_step,
            "a factor of the learning rate where the optimiser moves nothing",
        );
    }
    let decaying = WStep::optimizer(AdamW::new(Adam::new(0.1).unwrap()));
    let decaying = decaying.with_frozen(Part::layer(2));
    let decaying = decaying.with_decay_factor(Part::layer(2), 0.5).unwrap();
    refused(decaying, "a factor of the weight decay where");
    for w_step in [
        halved(beside(), bias()),
        halved(beside(), Part::layer(1)),
        halved(rested(), Part::group("weights")),
        halved(rested(), Part::layer(2)),
    ] {
        assert_eq!(run(w_step), Ok(()));
    }

    for (result, text) in [
        (sgd().with_rate_factor(bias(), 0.0), "rate_factor is 0"),
        (
            sgd().with_rate_factor(bias(), f64::NAN),
            "rate_factor is NaN",
        ),
        (sgd().with_decay_factor(bias(), -1.0), "decay_factor is -1"),
        (sgd().with_accumulation(0), "accumulation is 0"),
    ] {
        let error = result.map(|_| ()).unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
    }
}

/// A schedule of the learning rate, or a clipped gradient, where every layer is solved.
#[test]
fn a_schedule_needs_an_optimiser() {
    let solver = || WStep::<f64>::solver(LeastSquares::ridge(0.1).unwrap());
    let of_layer = |t| WStep::solver_of_layer(t, LevenbergMarquardt::new(1, 2));
    let both = |solver: WStep<f64>| solver.with_optimizer(Adam::new(0.1).unwrap());
    let run = |w_step, schedule| {
        let scheme = Decoupling::persistent(ReverseSweep::new(1));
        let phase = phase(scheme, w_step, 2).with_schedule(schedule);
        Trainer::new(phase).run(&mut model()).map(|_| ())
    };
    let cosine = Schedule::cosine(0.1).unwrap();
    let warm = Schedule::CONSTANT.with_warm_up(2);
    for (w_step, schedule, refused) in [
        (solver(), cosine, true),
        (solver(), warm, true),
        (of_layer(1), cosine, true),
        (WStep::none(), cosine, true),
        // The solver fits every layer, so Adam moves none.
        (both(solver()), cosine, true),
        (both(solver()), Schedule::CONSTANT, false),
        (both(solver().with_frozen(Part::layer(0))), cosine, false),
        (both(of_layer(1)), cosine, false),
        (solver(), Schedule::CONSTANT, false),
    ] {
        let name = format!("{w_step:?}, {schedule:?}");
        match run(w_step, schedule).map_err(|failed| failed.error) {
            Err(Error::Combination { what, .. }) if refused => {
                assert!(what.contains("a learning-rate schedule"), "{what}");
            }
            result => assert!(result == Ok(()) && !refused, "{name}: {result:?}"),
        }
    }
    let clipped = both(solver()).with_max_gradient_norm(1.0).unwrap();
    let error = run(clipped, Schedule::CONSTANT).unwrap_err().error;
    assert!(error.to_string().contains("a maximum gradient norm where"));
}

/// A frozen bias conflicts with a solver only where the solver would move it.
#[test]
fn a_part_may_be_frozen_beside_a_solver_of_other_layers() {
    let build = || {
        let circuit = Circuit::builder()
            .layer(Dense::new(3, 4, Activation::Identity).unwrap())
            .layer(Dense::new(4, 2, Activation::Identity).unwrap())
            .build()
            .unwrap();
        let energy = Energy::new(SoftmaxCrossEntropy);
        let mut model = DecoupledCircuit::new(circuit, energy).unwrap();
        let x = DMatrix::from_fn(3, N, |i, j| ((i + 3 * j) * 5 % 11) as f64 / 5.0 - 1.0);
        let labels: Vec<usize> = (0..N).map(|j| j % 2).collect();
        let y = layerwise::data::metrics::one_hot(&labels, 2).unwrap();
        model
            .add_examples(&x, &y, &TargetInit::ForwardPass)
            .unwrap();
        model
    };
    let ridge = || LeastSquares::ridge(0.1).unwrap();
    let run = |w_step| {
        let phase = phase(Decoupling::persistent(ReverseSweep::new(1)), w_step, 2);
        let mut own = build();
        let report = Trainer::new(phase).run(&mut own).map_err(Error::from)?;
        assert_eq!(report.steps, 2);
        Ok::<_, Error>(theta(&own))
    };
    let before = theta(&build());
    // Least squares cannot solve a softmax, so the optimiser moves the last layer's weights.
    let both = || WStep::solver(ridge()).with_optimizer(GradientDescent::new(0.125).unwrap());
    let end = run(both().with_frozen(Part::group_of_layer(1, "bias"))).unwrap();
    assert_ne!(end[0], before[0]);
    assert_ne!(end[1][..8], before[1][..8]);
    assert_eq!(end[1][8..], before[1][8..]);
    for part in [Part::group_of_layer(0, "bias"), Part::group("bias")] {
        let error = run(both().with_frozen(part)).unwrap_err();
        assert!(matches!(error, Error::Combination { .. }), "{error}");
    }
}

#[test]
fn a_frozen_layer_has_no_solver() {
    let solver = WStep::solver(LevenbergMarquardt::new(1, 2)).with_frozen(Part::layer(1));
    let start = theta(&model());
    let end = trained(phase(
        Decoupling::persistent(ReverseSweep::new(1)),
        solver,
        2,
    ));
    assert_eq!(end[1], start[1]);
    assert!(end[0] != start[0] && end[2] != start[2]);
}

/// k visits of m examples and one of k·m, over epochs with and without a remainder.
#[test]
fn accumulated_visits_are_one_visit() {
    // The bound of a sweep's steps is kept for some visits, unless it is asked for at each.
    let sweep = ReverseSweep::new(2).with_bound_every(1).unwrap();
    let schemes: [Arc<dyn Scheme<f64>>; 4] = [
        Arc::new(Backprop),
        Arc::new(Decoupling::refreshed(sweep)),
        Arc::new(ZIl),
        Arc::new(FixedPrediction::new()),
    ];
    for scheme in schemes {
        for (k, size) in [(2, 3), (3, 2), (4, 1), (100, 5)] {
            for clipped in [false, true] {
                let run = |k, size: usize| {
                    let mut w_step = sgd().with_accumulation(k).unwrap();
                    if clipped {
                        w_step = w_step.with_max_gradient_norm(0.05).unwrap();
                    }
                    let mut model = model();
                    let phase = Phase::with_w_step(scheme.clone(), w_step).unwrap();
                    let phase = phase.with_epochs(3).with_batch_size(size).unwrap();
                    // A batch of all examples would not be shuffled.
                    let report = Trainer::new(phase).run(&mut model).unwrap();
                    (theta(&model), report.steps)
                };
                let whole = (k as usize * size).min(N);
                let (found, steps) = run(k, size);
                let (expected, fewer) = run(1, whole);
                assert_eq!(steps, fewer, "{scheme:?}");
                assert_close(&found, &expected, 1e-13);
            }
        }
    }
}

/// Where targets persist, they move at every visit, and θ at every second.
#[test]
fn targets_move_while_gradients_accumulate() {
    let schemes: [Arc<dyn Scheme<f64>>; 2] = [
        Arc::new(Decoupling::persistent(ReverseSweep::new(1))),
        Arc::new(Decoupling::joint(GradientDescent::new(0.1).unwrap())),
    ];
    for scheme in schemes {
        let w_step = sgd().with_accumulation(2).unwrap();
        let phase = Phase::with_w_step(scheme, w_step).unwrap();
        let trainer = Trainer::new(phase.with_epochs(2).with_batch_size(3).unwrap());
        let mut session = Session::new(&trainer, model()).unwrap();
        let mut before = session.model().clone();
        let mut stepped = Vec::new();
        while let Some(event) = session.advance().unwrap() {
            if let Event::Visit(_) = event {
                let now = session.model().clone();
                assert_ne!(now.z(2).unwrap(), before.z(2).unwrap());
                stepped.push(theta(&now) != theta(&before));
                before = now;
            }
        }
        // Five visits an epoch, the last of which takes the rest.
        let epoch = [false, true, false, true, true];
        assert_eq!(stepped, [epoch, epoch].concat());
    }
}

fn accumulating(visits: u64) -> Trainer<f64> {
    let rule = Adam::new(0.01).unwrap();
    let w_step = WStep::optimizer(rule).with_accumulation(visits).unwrap();
    let phase = phase(Decoupling::refreshed(ReverseSweep::new(1)), w_step, 3);
    Trainer::new(phase.with_batch_size(2).unwrap())
}

#[test]
fn sums_in_progress_are_part_of_the_state() {
    let trainer = accumulating(3);
    let mut whole = Session::new(&trainer, model()).unwrap();
    whole.run().unwrap();
    for pause in [1, 2, 4, 8] {
        let mut first = Session::new(&trainer, model()).unwrap();
        for _ in 0..pause {
            first.advance().unwrap();
        }
        let (state, half) = (first.state().clone(), first.model().clone());
        let mut second = Session::resume(&trainer, half.clone(), state.clone()).unwrap();
        second.run().unwrap();
        assert_eq!(theta(second.model()), theta(whole.model()), "{pause}");
        assert_eq!(second.state(), whole.state());
        // A state with sums is none of a run without.
        let other = Session::resume(&accumulating(1), half, state).unwrap_err();
        assert!(matches!(other, Error::Length { .. }), "{other}");
    }
}

/// A run goes on with other layers frozen, where that does not change the size of its state.
#[test]
fn layers_are_frozen_and_thawed_in_the_middle_of_a_run() {
    let trainer = |w_step| {
        let scheme = Decoupling::refreshed(ReverseSweep::new(1));
        Trainer::new(phase(scheme, w_step, 3).with_batch_size(5).unwrap())
    };
    let adam = || WStep::optimizer(Adam::new(0.01).unwrap());
    let least = || WStep::solver(LeastSquares::ridge(0.1).unwrap());
    let resumed = |first, second| {
        let mut session = Session::new(&trainer(first), model()).unwrap();
        for _ in 0..4 {
            session.advance().unwrap();
        }
        let (state, half) = (session.state().clone(), session.model().clone());
        let mut session = Session::resume(&trainer(second), half.clone(), state)?;
        session.run()?;
        let (before, after) = (theta(&half), theta(session.model()));
        Ok([0, 1].map(|t| before[t] != after[t]))
    };
    let frozen = |w_step: WStep<f64>| w_step.with_frozen(Part::layer(0));
    for w_step in [adam, least] {
        assert_eq!(resumed(w_step(), frozen(w_step())), Ok([false, true]));
        assert_eq!(resumed(frozen(w_step()), w_step()), Ok([true, true]));
    }
    // A frozen layer has no sum of gradients, and no damping.
    let summing = adam().with_accumulation(2).unwrap();
    let damped = WStep::solver(LevenbergMarquardt::new(1, 2));
    for w_step in [summing, damped] {
        let Err(Error::Length {
            expected, found, ..
        }) = resumed(w_step.clone(), frozen(w_step))
        else {
            panic!("not refused for its size")
        };
        assert!(expected < found, "{expected}, {found}");
    }
}

/// Backprop that fails once, after its gradient was handed over.
#[derive(Debug)]
struct Failing {
    visits: AtomicU64,
    at: u64,
    panics: bool,
}

impl Scheme<f64> for Failing {
    fn targets(&self) -> TargetUse {
        TargetUse::None
    }

    fn visit(&self, _: &mut State<f64>, visit: &mut Visit<'_, f64>) -> Result<f64, Error> {
        let objective = visit.backprop()?.step()?;
        match self.visits.fetch_add(1, Ordering::Relaxed) == self.at {
            true if self.panics => panic!("as planned"),
            true => Err(Error::NothingCompared),
            false => Ok(objective),
        }
    }
}

#[test]
fn a_repeated_visit_counts_once() {
    // Of every three visits the first two only add.
    for (at, panics) in [(0, false), (1, false), (4, false), (0, true), (4, true)] {
        let trainer = |at| {
            let visits = AtomicU64::new(0);
            let scheme = Failing { visits, at, panics };
            let w_step = sgd().with_accumulation(3).unwrap();
            Trainer::new(phase(scheme, w_step, 3).with_batch_size(2).unwrap())
        };
        let mut undisturbed = Session::new(&trainer(u64::MAX), model()).unwrap();
        undisturbed.run().unwrap();
        let mut session = Session::new(&trainer(at), model()).unwrap();
        let mut failures = 0;
        loop {
            let state = session.state().clone();
            let advance = std::panic::AssertUnwindSafe(|| session.advance());
            match std::panic::catch_unwind(advance) {
                Ok(Ok(None)) => break,
                Ok(Ok(_)) => {}
                Ok(Err(_)) | Err(_) => {
                    failures += 1;
                    // The first event also begins the phase.
                    assert!(at == 0 || *session.state() == state);
                }
            }
        }
        assert_eq!(failures, 1);
        assert_eq!(theta(session.model()), theta(undisturbed.model()), "{at}");
    }
}

/// A new phase starts without the rest of an interrupted one.
#[test]
fn an_interrupted_sum_is_dropped() {
    let trainer = accumulating(3);
    let mut session = Session::new(&trainer, model()).unwrap();
    let start = theta(session.model());
    session.advance().unwrap();
    session.stop();
    while session.advance().unwrap().is_some() {}
    let (model, report) = session.finish();
    assert_eq!((theta(&model), report.steps), (start, 0));
    assert_eq!(report.stop, StopReason::Requested);
}
