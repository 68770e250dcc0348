//! Sums over many examples: in `f32` as exact as over few, wherever a large term stands, and in any
//! number of threads.

use std::sync::Arc;

use crate::property::{generator, uniform};
use layerwise::decoupled::{Selection, TargetInit};
use layerwise::diagnostics::Diagnostics;
use layerwise::energy::Energy;
use layerwise::kernel::Write;
use layerwise::layer::{
    Activation, AveragePool2d, Context, Dense, Embedding, GlobalAveragePool, Layer, Point,
};
use layerwise::loss::{Gaussian, Huber, Pair, SquaredError};
use layerwise::nalgebra::DMatrix;
use layerwise::optimizer::{Adam, GradientDescent};
use layerwise::parameter_solver::NormalEquations;
use layerwise::schedule::Schedule;
use layerwise::target_solver::{StepSize, SynchronousDescent};
use layerwise::theory;
use layerwise::training::{
    Backprop, Decoupling, PenaltyGrowth, Phase, Targets, Trainer, WStep, ZStep,
};
use layerwise::{Circuit, DecoupledCircuit, Loss, Scalar};

const N: usize = 300_000;

/// Two linear layers that are 0, so that residuals are the targets: √.2, one of them √2·1000.
fn model<T: Scalar>(hidden: impl Loss<T> + 'static) -> DecoupledCircuit<T> {
    let layer = || Dense::new(1, 1, Activation::Identity).unwrap();
    let circuit = Circuit::builder().layer(layer()).layer(layer());
    let energy = Energy::new(SquaredError).with_hidden_loss(hidden);
    let mut model = DecoupledCircuit::new(circuit.build().unwrap(), energy).unwrap();
    model.set_parameters(0, &[T::zero(); 2]).unwrap();
    model.set_parameters(1, &[T::zero(); 2]).unwrap();
    let mut targets = DMatrix::from_element(1, N, T::of(0.2f64.sqrt()));
    targets[7] = T::of(2e6f64.sqrt());
    let zeros = DMatrix::zeros(1, N);
    let given = TargetInit::Given(vec![targets.clone()]);
    model.add_examples(&zeros, &targets, &given).unwrap();
    model
}

fn totals<T: Scalar>(tolerance: f64) {
    let size = T::of(0.2f64.sqrt()).as_f64().powi(2);
    let large = T::of(2e6f64.sqrt()).as_f64().powi(2);
    let squares = large + (N - 1) as f64 * size;
    let near = |found: T, expected: f64, what: &str| {
        let error = (found.as_f64() / expected - 1.0).abs();
        assert!(error <= tolerance, "{what}: {found}, not {expected}");
    };
    let root = (squares / N as f64).sqrt();
    let squared = model::<T>(SquaredError);
    for model in [&squared, &model(Huber::new(1e4).unwrap())] {
        for energy in model.energies().unwrap() {
            near(energy, 0.5 * squares, "energies");
        }
        near(model.energy().unwrap(), squares, "energy");
        near(
            model.composed_loss().unwrap(),
            0.5 * squares,
            "composed loss",
        );
        near(model.gap().unwrap()[0], root, "gap");
        let report = model.diagnose(&Diagnostics::new()).unwrap();
        near(report.energy, squares, "diagnosed energy");
        near(report.composed_loss, 0.5 * squares, "diagnosed loss");
        near(report.gap, root, "diagnosed gap");
    }
    let x = squared.z(0).unwrap().into_owned();
    let y = squared.z(2).unwrap().into_owned();
    let loss = squared.composed_loss_of(&x, &y).unwrap();
    near(loss, 0.5 * squares, "loss of others");
    let epoch = |threads: usize, batch: usize| {
        let tiny = GradientDescent::new(1e-30).unwrap();
        let phase = Phase::new(Decoupling::joint(tiny), tiny).with_batch_size(batch);
        let trainer = Trainer::new(phase.unwrap().with_epochs(1))
            .with_threads(threads)
            .unwrap();
        let report = trainer.run(&mut squared.clone()).unwrap();
        report.history[0].clone()
    };
    let whole = epoch(1, N);
    for record in [&whole, &epoch(1, 1000)] {
        near(record.objective, squares / N as f64, "objective");
        near(
            record.composed_loss.unwrap(),
            0.5 * squares / N as f64,
            "loss",
        );
        near(record.gap.unwrap(), root, "gap of an epoch");
        near(record.gap_before.unwrap(), root, "gap before");
    }
    let bits = |record: &layerwise::training::EpochRecord<T>| {
        let all = [
            Some(record.objective),
            record.composed_loss,
            record.gap,
            record.gap_before,
        ];
        all.map(|value| value.unwrap().as_f64().to_bits())
    };
    assert_eq!(
        bits(&epoch(1 + usize::from(cfg!(feature = "rayon")), N)),
        bits(&whole)
    );
}

#[test]
fn totals_in_f32() {
    totals::<f32>(1e-6);
}

#[test]
fn totals_in_f64() {
    totals::<f64>(1e-15);
}

/// 10⁶ units in one column.
#[test]
fn losses_of_many_units() {
    fn check<T: Scalar>(tolerance: f64) {
        use layerwise::kernel::Write;
        use layerwise::loss::{Pair, Poisson};
        let n = 1_000_000;
        let mut target = vec![T::of(0.3); n];
        target[5] = T::of(700.0);
        let prediction = vec![T::zero(); n];
        let at = Pair::new(n, &target, &prediction);
        let value = |loss: &dyn Loss<T>| {
            let mut value = [T::zero()];
            loss.evaluate(&at, &mut value, Write::Skip, Write::Skip, &mut []);
            value[0].as_f64()
        };
        let (small, large) = (T::of(0.3).as_f64(), 700.0);
        let squares = 0.5 * (large * large + (n - 1) as f64 * small * small);
        let huber = 100.0 * (large - 50.0) + 0.5 * (n - 1) as f64 * small * small;
        for (found, expected) in [
            (value(&SquaredError), squares),
            (value(&Huber::new(1e4).unwrap()), squares),
            (value(&Huber::new(100.0).unwrap()), huber),
            (value(&Poisson), n as f64),
        ] {
            assert!(
                (found / expected - 1.0).abs() < tolerance,
                "{found}, not {expected}"
            );
        }
    }
    check::<f32>(2e-6);
    check::<f64>(1e-14);
}

/// Gradients of weights, biases and learned precisions over many examples, one residual far larger
/// than the others, at scales of 10 decades: as exact as over few.
#[test]
fn gradients_over_many_examples() {
    fn check<T: Scalar>(tolerance: f64) {
        for (decade, place) in (-5..=5).zip([0, 7, 1023, N - 1].into_iter().cycle()) {
            let scale = T::of(10f64.powi(decade));
            let large = T::of(1000.0) * scale;
            // 40 rows: more than are added side by side.
            let (rows, zero) = (40, T::zero());
            let mut residuals = DMatrix::from_element(rows, N / 10, scale);
            let place = place.min(N / 10 - 1);
            residuals.column_mut(place).fill(large);
            let x = DMatrix::from_element(1, N / 10, T::of(0.5));
            let dense = Dense::new(1, rows, Activation::Identity).unwrap();
            let circuit = Circuit::builder().layer(dense).build().unwrap();
            let loss = Gaussian::learned(T::one(), T::zero()).unwrap();
            let mut model = DecoupledCircuit::new(circuit, Energy::new(loss)).unwrap();
            let mut parameters = model.circuit().parameters(0).to_vec();
            parameters.fill(zero);
            model.set_parameters(0, &parameters).unwrap();
            let init = TargetInit::ForwardPass;
            model.add_examples(&x, &residuals, &init).unwrap();
            let gradient = &model.gradients(&Selection::All).unwrap().parameters[0];
            let (small, large, n) = (scale.as_f64(), large.as_f64(), (N / 10) as f64);
            let sum = large + (n - 1.0) * small;
            let squares = large * large + (n - 1.0) * small * small;
            for r in 0..rows {
                let found = [r, rows + r, 2 * rows + r].map(|k| gradient[k].as_f64());
                let expected = [-0.5 * sum, -sum, 0.5 * (squares - n)];
                let sizes = [sum, sum, squares + n];
                for ((found, expected), size) in found.into_iter().zip(expected).zip(sizes) {
                    let error = (found - expected).abs();
                    assert!(error <= tolerance * size, "{found}, not {expected}");
                }
            }
        }
    }
    // One part is summed plainly.
    check::<f32>(5e-6);
    check::<f64>(1e-14);
}

/// A hidden loss whose values fit wherever its gaps do.
#[derive(Debug)]
struct Magnitude;

impl<T: Scalar> Loss<T> for Magnitude {
    fn free_target(&self) -> bool {
        true
    }

    fn evaluate(
        &self,
        at: &Pair<'_, T>,
        values: &mut [T],
        d_target: Write<'_, T>,
        d_prediction: Write<'_, T>,
        _: &mut [T],
    ) {
        let gaps = || at.target.iter().zip(at.prediction).map(|(&z, &p)| z - p);
        let columns = at.target.len() / values.len();
        for (i, value) in values.iter_mut().enumerate() {
            let own = gaps().skip(i * columns).take(columns);
            *value = own.fold(T::zero(), |sum, gap| sum + gap.abs());
        }
        let signs: Vec<T> = gaps().map(|gap| gap.signum()).collect();
        d_target.each(|k| signs[k]);
        d_prediction.each(|k| -signs[k]);
    }

    fn curvature(
        &self,
        _: &Pair<'_, T>,
        _: Option<&[T]>,
        _: Option<&[T]>,
        target: Write<'_, T>,
        prediction: Write<'_, T>,
        _: &mut [T],
    ) {
        target.each(|_| T::zero());
        prediction.each(|_| T::zero());
    }
}

/// Targets that are `gap` away from predictions of 0, in every scheme and for every loss.
fn gaps_whose_squares_do_not_fit<T: Scalar>(gap: f64, squared: bool) {
    for scheme in ["joint", "persistent", "weights", "residual"] {
        let layer = |i, o| Dense::new(i, o, Activation::Identity).unwrap();
        let circuit = Circuit::<T>::builder()
            .layer(layer(3, 2))
            .layer(layer(2, 1));
        let energy = match squared {
            true => Energy::default(),
            false => Energy::default().with_hidden_loss(Magnitude),
        };
        let mut model = DecoupledCircuit::new(circuit.build().unwrap(), energy).unwrap();
        model.set_parameters(0, &[T::zero(); 8]).unwrap();
        model.set_parameters(1, &[T::zero(); 3]).unwrap();
        let n = 5;
        let x = DMatrix::from_element(3, n, T::one());
        let y = DMatrix::from_element(1, n, T::zero());
        let z = DMatrix::from_element(2, n, T::of(gap));
        model
            .add_examples(&x, &y, &TargetInit::Given(vec![z]))
            .unwrap();
        let rest = || Adam::new(f64::MIN_POSITIVE).unwrap();
        let solver = || SynchronousDescent::new(0, StepSize::Fixed(0.1)).unwrap();
        let scheme = match scheme {
            "joint" => Decoupling::joint(rest()),
            "persistent" => Decoupling::persistent(solver()),
            "weights" => Decoupling::weights_only(),
            _ => {
                let schedule = Schedule::CONSTANT;
                let targets = Targets::Residual {
                    keep: 1.0,
                    schedule,
                };
                Decoupling::new(targets, ZStep::Solver(Arc::new(solver()))).unwrap()
            }
        };
        let name = format!("{scheme:?}, {gap}");
        let growth = PenaltyGrowth::new(1).unwrap();
        let phase = Phase::new(scheme, rest()).with_batch_size(2).unwrap();
        let phase = phase.with_penalty_growth(growth).unwrap();
        let report = Trainer::new(phase.with_epochs(1)).run(&mut model).unwrap();
        let record = &report.history[0];
        let expected = T::of(gap).as_f64() * 2.0_f64.sqrt();
        let near = |found: Option<T>| {
            let found = found.unwrap().as_f64();
            let rounding = 8.0 * T::default_epsilon().as_f64();
            assert!((found / expected - 1.0).abs() < rounding, "{name}: {found}");
        };
        near(record.gap_before);
        if !name.contains("Joint") {
            near(record.gap_after);
        }
        // A gap that stays lets μ grow for the third visit.
        assert_eq!(report.phases[0].penalties, [2.0], "{name}");
    }
}

#[test]
fn gaps_are_reported_wherever_they_fit_the_scalar() {
    for gap in [1e-200, 1e-160, 3.0] {
        gaps_whose_squares_do_not_fit::<f64>(gap, true);
    }
    gaps_whose_squares_do_not_fit::<f64>(1e200, false);
    for gap in [1e-30, 1e-22, 3.0] {
        gaps_whose_squares_do_not_fit::<f32>(gap, true);
    }
    gaps_whose_squares_do_not_fit::<f32>(1e25, false);
}

/// Two linear layers of one unit, with numbers that every scalar has.
fn exact_numbers<T: Scalar>(penalty: f64) -> DecoupledCircuit<T> {
    let layer = || Dense::new(1, 1, Activation::Identity).unwrap();
    let circuit = Circuit::builder().layer(layer()).layer(layer());
    let energy = Energy::default().with_penalty(T::of(penalty));
    let mut model = DecoupledCircuit::new(circuit.build().unwrap(), energy).unwrap();
    model.set_parameters(0, &[T::of(0.5), T::zero()]).unwrap();
    model.set_parameters(1, &[T::of(0.75), T::zero()]).unwrap();
    let x = DMatrix::from_fn(1, N, |_, j| T::of((j % 64) as f64 / 64.0));
    let y = DMatrix::from_fn(1, N, |_, j| T::of(1.0 + (j % 32) as f64 / 64.0));
    let init = TargetInit::ForwardPass;
    model.add_examples(&x, &y, &init).unwrap();
    model
}

#[test]
fn minima_over_many_examples() {
    for penalty in [1.0, 128.0] {
        let (short, long) = (exact_numbers::<f32>(penalty), exact_numbers::<f64>(penalty));
        let all = Selection::All;
        for (found, expected) in [
            (
                theory::linear_minimum(&short, &all).unwrap(),
                theory::linear_minimum(&long, &all).unwrap(),
            ),
            (
                theory::expanded_minimum(&short, &all).unwrap(),
                theory::expanded_minimum(&long, &all).unwrap(),
            ),
        ] {
            let error = (f64::from(found) / expected - 1.0).abs();
            assert!(error < 1e-6, "μ {penalty}: {found}, not {expected}");
        }
    }
}

/// One linear unit at 0, for the inputs 1 and the given targets.
fn constant(targets: &DMatrix<f32>) -> DecoupledCircuit<f32> {
    let layer = Dense::new(1, 1, Activation::Identity).unwrap();
    let circuit = Circuit::builder().layer(layer).build().unwrap();
    let mut model = DecoupledCircuit::new(circuit, Energy::default()).unwrap();
    model.set_parameters(0, &[0.0; 2]).unwrap();
    let x = DMatrix::from_element(1, targets.len(), 1.0);
    let init = TargetInit::ForwardPass;
    model.add_examples(&x, targets, &init).unwrap();
    model
}

#[test]
fn gradients_accumulated_over_many_visits() {
    let n = 100_000;
    let mut model = constant(&DMatrix::from_element(1, n, 0.1));
    let w_step = WStep::optimizer(GradientDescent::new(1.0).unwrap());
    let w_step = w_step.with_accumulation(n as u64).unwrap();
    let phase = Phase::with_w_step(Backprop, w_step).unwrap().with_epochs(1);
    let phase = phase.with_batch_size(1).unwrap();
    let trainer = Trainer::new(phase).with_measure_every(0);
    trainer.run(&mut model).unwrap();
    // A step of 1 along the mean gradient, −.1 in the weight and in the bias.
    for &found in model.circuit().parameters(0) {
        assert!((found / 0.1 - 1.0).abs() < 1e-6, "{found}, not .1");
    }
}

/// Large gradients of the first and of the last examples cancel, and leave those between.
#[test]
fn diagnosed_gradients_over_many_examples() {
    let third = 1 << 17;
    let targets = DMatrix::from_fn(1, 3 * third, |_, j| match j / third {
        0 => 8_388_608.0,
        1 => 1.0,
        _ => -8_388_608.0,
    });
    let report = constant(&targets).diagnose(&Diagnostics::new()).unwrap();
    let expected = 2.0_f32.sqrt() * third as f32;
    let norm = report.parameters.norm;
    assert!(
        (norm / expected - 1.0).abs() < 1e-6,
        "{norm}, not {expected}"
    );
    assert!((report.parameters.norm_ratio.unwrap() - 1.0).abs() < 1e-6);
}

/// Weights of 1 change nothing but the order of the sums; equal weights change no solution.
#[test]
fn weighted_least_squares_over_many_examples() {
    let n = 1_000_000;
    let rng = &mut generator(2);
    let mut x: Vec<f32> = uniform(rng, n, 0.5);
    x.iter_mut().for_each(|x| *x += 0.5);
    let noise: Vec<f32> = uniform(rng, n, 0.5);
    // An example far from the others, which all are centred about in the first pass.
    x[0] = -30.0;
    let y: Vec<f32> = x
        .iter()
        .zip(&noise)
        .map(|(x, noise)| (12.0 * x).sin() + x + noise)
        .collect();
    let cast = |values: &[f32]| -> Vec<f64> { values.iter().map(|&v| f64::from(v)).collect() };
    let mut equations = NormalEquations::<f64>::new(1, 1, true).unwrap();
    equations.add(&cast(&x), &cast(&y), None).unwrap();
    let mut expected = [0.0; 2];
    equations.solve(0.0, 0.0, &mut expected).unwrap();
    for weight in [None, Some(1.0), Some(0.1), Some(0.7)] {
        let weights = weight.map(|weight| vec![weight; n]);
        let mut equations = NormalEquations::<f32>::new(1, 1, true).unwrap();
        equations.add(&x, &y, weights.as_deref()).unwrap();
        let mut found = [0.0; 2];
        equations.solve(0.0, 0.0, &mut found).unwrap();
        for (found, expected) in found.iter().zip(expected) {
            let error = (f64::from(*found) / expected - 1.0).abs();
            assert!(error < 1e-5, "{weight:?}: {found}, not {expected}");
        }
    }
}

/// Means over a million values were off by one in a hundred.
#[test]
fn means_of_large_images_in_f32() {
    let (channels, side) = (3, 1000);
    let z: Vec<f32> = uniform(&mut generator(3), channels * side * side, 1.0);
    let z: Vec<f32> = z.into_iter().map(|z| z + 100.0).collect();
    let mean = |c: usize| {
        let own = z.iter().skip(c).step_by(channels);
        own.map(|&z| f64::from(z)).sum::<f64>() / (side * side) as f64
    };
    let image = [channels, side, side];
    let layers: [Box<dyn Layer<f32>>; 2] = [
        Box::new(GlobalAveragePool::new(image).unwrap()),
        Box::new(AveragePool2d::new(image, side).unwrap()),
    ];
    for layer in layers {
        let mut work = vec![f32::NAN; layer.scratch(1).work];
        let (mut output, mut tangent) = (vec![f32::NAN; channels], vec![f32::NAN; channels]);
        let context = Context::inference(0, 0);
        layer.forward(&context, &[], &z, &mut output, None, &mut work);
        let at = Point::new(context, &[], &z, &output, &[]);
        layer.jvp(&at, Some(&z), None, &mut tangent, &mut work);
        for found in [&output, &tangent] {
            for (c, &found) in found.iter().enumerate() {
                let error = (f64::from(found) / mean(c) - 1.0).abs();
                assert!(error < 1e-6, "{layer:?}: {found}, not {}", mean(c));
            }
        }
    }
}

/// A token that occurs in every example.
#[test]
fn the_gradient_of_a_token_in_f32() {
    let layer = Embedding::new(3, 2, 1).unwrap();
    let layer: &dyn Layer<f32> = &layer;
    let z: Vec<f32> = (0..N).map(|i| if i % 5 == 0 { 2.0 } else { 1.0 }).collect();
    let u: Vec<f32> = uniform(&mut generator(4), 2 * N, 0.1);
    let u: Vec<f32> = u.into_iter().map(|u| u + 1.0).collect();
    let (parameters, output) = ([0.0; 6], vec![0.0; 2 * N]);
    let mut d = [f32::NAN; 6];
    let mut work = vec![f32::NAN; layer.scratch(N).work];
    let at = Point::new(Context::inference(0, 0), &parameters, &z, &output, &[]);
    layer.vjp(&at, &u, Write::Skip, Write::Set(&mut d), &mut work);
    for (place, &found) in d.iter().enumerate() {
        let (token, row) = (place / 2, place % 2);
        let own = (0..N).filter(|&i| z[i] as usize == token);
        let expected: f64 = own.map(|i| f64::from(u[2 * i + row])).sum();
        let error = (f64::from(found) - expected).abs();
        assert!(error <= 1e-7 * expected, "{found}, not {expected}");
    }
}
