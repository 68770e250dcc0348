//! Sums over many examples: in `f32` as exact as over few, wherever a large term stands, and in any
//! number of threads.

use layerwise::decoupled::{Selection, TargetInit};
use layerwise::diagnostics::Diagnostics;
use layerwise::energy::Energy;
use layerwise::layer::{Activation, Dense};
use layerwise::loss::{Gaussian, Huber, SquaredError};
use layerwise::nalgebra::DMatrix;
use layerwise::optimizer::GradientDescent;
use layerwise::training::{Decoupling, Phase, Trainer};
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
