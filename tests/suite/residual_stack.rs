//! The depth-scaled residual circuit: what it computes, and that its scale does not depend on depth.

use layerwise::circuit::ResidualStack;
use layerwise::decoupled::{DecoupledCircuit, Selection, TargetInit};
use layerwise::energy::Energy;
use layerwise::layer::Activation;
use layerwise::nalgebra::DMatrix;
use layerwise::optimizer::Adam;
use layerwise::target_solver::GaussNewton;
use layerwise::training::{Decoupling, Phase, Trainer};
use layerwise::{Circuit, Error};

use crate::property::{generator, uniform};

fn stack(width: usize, blocks: usize) -> ResidualStack {
    let stack = ResidualStack::new(20, 5).with_width(width).unwrap();
    stack.with_blocks(blocks).unwrap()
}

#[test]
fn it_is_its_equation() {
    let stack = stack(6, 3).with_activation(Activation::Tanh);
    let circuit: Circuit<f64> = stack.build(4).unwrap();
    let x = DMatrix::from_vec(20, 7, uniform(&mut generator(1), 140, 1.0));
    let w = |t: usize, rows: usize| {
        let own = circuit.parameters(t);
        DMatrix::from_column_slice(rows, own.len() / rows, own)
    };
    let mut z = w(0, 6) * &x / 20f64.sqrt();
    for t in 1..4 {
        z += w(t, 6) * z.map(f64::tanh) / 18f64.sqrt();
    }
    let expected = w(4, 5) * z.map(f64::tanh) / 6.0;
    let error = (circuit.predict(&x).unwrap() - expected).amax();
    assert!(error < 1e-14, "{error}");
}

/// The weights of all layers are drawn from N(0, 1).
#[test]
fn weights_start_with_unit_variance() {
    let circuit: Circuit<f64> = stack(50, 4).build(1).unwrap();
    for t in 0..6 {
        let own = circuit.parameters(t);
        let square = own.iter().map(|w| w * w).sum::<f64>() / own.len() as f64;
        assert!((square - 1.0).abs() < 0.3, "layer {t}: {square}");
    }
}

/// Root mean squares, per layer: of z_t, of the hidden energies at rest, and of the change of θ_t's
/// output by a step of Adam.
fn sizes(blocks: usize) -> [Vec<f64>; 3] {
    let circuit: Circuit<f64> = stack(64, blocks).build(2).unwrap();
    let mut model = DecoupledCircuit::new(circuit, Energy::default()).unwrap();
    let n = 8;
    let x = DMatrix::from_vec(20, n, uniform(&mut generator(3), 20 * n, 3f64.sqrt()));
    let y = DMatrix::from_vec(5, n, uniform(&mut generator(4), 5 * n, 1.0));
    model
        .add_examples(&x, &y, &TargetInit::ForwardPass)
        .unwrap();
    let depth = model.circuit().depth();
    let hidden = 1..depth;
    let rms = |z: &[f64]| (z.iter().map(|z| z * z).sum::<f64>() / z.len() as f64).sqrt();
    let z = hidden
        .clone()
        .map(|t| rms(model.z(t).unwrap().into_owned().as_slice()));
    let z: Vec<f64> = z.collect();

    let mut moved = model.clone();
    let at_rest = GaussNewton::chained(4, 20);
    moved.solve_targets(&at_rest, &Selection::All).unwrap();
    let energies = moved.energies().unwrap()[..depth - 1].to_vec();

    let before = model.clone();
    let phase = Phase::new(Decoupling::refreshed(at_rest), Adam::new(0.1).unwrap()).with_epochs(1);
    let trainer = Trainer::new(phase).with_threads(1).unwrap();
    trainer.run(&mut model).unwrap();
    let changes = hidden.map(|t| {
        // Layer t at the old inputs, with the new parameters.
        let layers = |of: &DecoupledCircuit<f64>| {
            let local = before.batch(0..n).unwrap();
            let layer = of.circuit().layer(t);
            let mut out = vec![0.0; layer.output_dim() * n];
            let mut work = vec![0.0; layer.scratch(n).work];
            let context = layerwise::layer::Context::inference(0, t);
            let own = of.circuit().parameters(t);
            layer.forward(&context, own, local.z(t), &mut out, None, &mut work);
            out
        };
        let (old, new) = (layers(&before), layers(&model));
        let change: Vec<f64> = old.iter().zip(&new).map(|(a, b)| b - a).collect();
        rms(&change)
    });
    [z, energies, changes.collect()]
}

/// From 8 to 128 blocks, z keeps its size from the first layer to the last. With targets at rest, all hidden
/// energies of a circuit are similar, and so are the changes that a step of Adam makes to the blocks' outputs;
/// those shrink no faster than 1/√L.
#[test]
fn sizes_do_not_depend_on_depth() {
    let range = |own: &[f64]| {
        let low = own.iter().copied().fold(f64::MAX, f64::min);
        (low, own.iter().copied().fold(0.0, f64::max))
    };
    for blocks in [8, 32, 128] {
        let [z, energies, changes] = sizes(blocks);
        let (low, high) = range(&z);
        assert!(0.8 < low && high < 1.6, "{blocks}: {low} to {high}");
        let (low, high) = range(&energies[1..]);
        assert!(high < 10.0 * low, "{blocks}: {low:e} to {high:e}");
        // All but the readout.
        let (low, high) = range(&changes[..changes.len() - 1]);
        let root = (blocks as f64).sqrt();
        assert!(
            root * low > 0.2 && root * high < 0.5,
            "{blocks}: {low} to {high}"
        );
    }
}

/// The composed loss per example after 30 steps of Adam on the same 24 examples.
fn trained(blocks: usize, rate: f64) -> f64 {
    let circuit: Circuit<f64> = stack(16, blocks).build(5).unwrap();
    let teacher: Circuit<f64> = stack(16, 2).build(6).unwrap();
    let x = DMatrix::from_vec(20, 24, uniform(&mut generator(7), 20 * 24, 3f64.sqrt()));
    let y = teacher.predict(&x).unwrap() * 4.0;
    let mut model = DecoupledCircuit::new(circuit, Energy::default()).unwrap();
    model
        .add_examples(&x, &y, &TargetInit::ForwardPass)
        .unwrap();
    let scheme = Decoupling::refreshed(GaussNewton::chained(1, 1));
    let phase = Phase::new(scheme, Adam::new(rate).unwrap()).with_epochs(30);
    let trainer = Trainer::new(phase).with_threads(1).unwrap();
    trainer.run(&mut model).unwrap();
    model.composed_loss().unwrap() / 24.0
}

/// The rate of Adam that learns fastest with 8 blocks does so with 128 too, or almost, and learns about as much there.
#[test]
fn a_rate_found_at_depth_8_serves_at_128() {
    let losses = |blocks| [0.01, 0.03, 0.1, 0.3].map(|rate| trained(blocks, rate));
    let (shallow, deep) = (losses(8), losses(128));
    let best = (0..4).min_by(|&a, &b| shallow[a].total_cmp(&shallow[b]));
    let own = deep.into_iter().fold(f64::MAX, f64::min);
    let (found, served) = (shallow[best.unwrap()], deep[best.unwrap()]);
    assert!(served < 1.2 * own, "{shallow:?}, {deep:?}");
    assert!(served < 3.0 * found, "{shallow:?}, {deep:?}");
}

#[test]
fn refuses_with_the_numbers() {
    let error = ResidualStack::new(2, 1).with_blocks(0).unwrap_err();
    assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
    let error = ResidualStack::new(2, 1).with_width(0).unwrap_err();
    assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
    let error = ResidualStack::new(0, 1).build::<f64>(0).unwrap_err();
    assert!(matches!(error, Error::ZeroDimension { .. }), "{error}");
    // More blocks than memory can hold.
    for blocks in [1 << 44, usize::MAX] {
        let error = stack(1, blocks).build::<f32>(0).unwrap_err();
        let Error::TooLarge { rows, columns, .. } = error else {
            panic!("{error}")
        };
        assert_eq!((rows, columns), (blocks, 1));
    }
}
