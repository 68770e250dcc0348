//! Precision by unit: predictive coding weighted by diagonal precisions, which every visit updates, against the
//! loop written out.

use crate::property::{generator, uniform};
use layerwise::loss::Gaussian;
use layerwise::nalgebra::DVector;
use layerwise::prelude::*;
use layerwise::target_solver::SynchronousDescent;

const N: usize = 5;
const DIMS: [usize; 4] = [2, 4, 3, 1];
const FLOOR: f64 = 0.1;

/// W, b and φ = ln π of a layer.
type Layer = (DMatrix<f64>, DVector<f64>, DVector<f64>);

fn layers(model: &DecoupledCircuit<f64>) -> Vec<Layer> {
    let pairs = DIMS.windows(2).enumerate();
    pairs
        .map(|(t, pair)| {
            let (w, rest) = model.circuit().parameters(t).split_at(pair[0] * pair[1]);
            let (b, phi) = rest.split_at(pair[1]);
            (
                DMatrix::from_column_slice(pair[1], pair[0], w),
                DVector::from_column_slice(b),
                DVector::from_column_slice(phi),
            )
        })
        .collect()
}

/// The prediction of layer t: tanh below the last.
fn predict((w, b, _): &Layer, t: usize, z: &DVector<f64>) -> DVector<f64> {
    let before = w * z + b;
    if t < 2 { before.map(f64::tanh) } else { before }
}

/// π ∘ (z − ẑ), and the gradient in the pre-activations of layer t that it makes.
fn errors(layers: &[Layer], z: &[DVector<f64>]) -> Vec<[DVector<f64>; 2]> {
    let all = layers.iter().enumerate();
    all.map(|(t, layer)| {
        let prediction = predict(layer, t, &z[t]);
        let gap = &z[t + 1] - &prediction;
        let weighted = match t < 2 {
            true => gap.component_mul(&layer.2.map(f64::exp)),
            false => gap,
        };
        let inside = match t < 2 {
            true => -weighted.zip_map(&prediction, |e, f| e * (1.0 - f * f)),
            false => -weighted.clone(),
        };
        [weighted, inside]
    })
    .collect()
}

#[test]
fn every_visit_updates_the_precision_of_every_unit() {
    let mut builder = Circuit::builder().seed(3);
    for (t, pair) in DIMS.windows(2).enumerate() {
        let activation = [Activation::Tanh, Activation::Identity][t / 2];
        builder = builder.layer(Dense::new(pair[0], pair[1], activation).unwrap());
    }
    let energy = Energy::default().with_hidden_loss(Gaussian::learned(2.0, FLOOR).unwrap());
    let mut model = DecoupledCircuit::new(builder.build().unwrap(), energy).unwrap();
    let x = DMatrix::from_vec(2, N, uniform(&mut generator(1), 2 * N, 1.0));
    let y = DMatrix::from_vec(1, N, uniform(&mut generator(2), N, 2.0));
    model
        .add_examples(&x, &y, &TargetInit::ForwardPass)
        .unwrap();
    let mut expected = layers(&model);
    let (visits, steps, step, rate) = (4, 3, 0.1, 0.2);
    for _ in 0..visits {
        let mut sums: Vec<Layer> = expected
            .iter()
            .map(|(w, b, phi)| (w * 0.0, b * 0.0, phi * 0.0))
            .collect();
        for i in 0..N {
            let mut z = vec![x.column(i).into_owned()];
            for t in 0..2 {
                z.push(predict(&expected[t], t, &z[t]));
            }
            z.push(y.column(i).into_owned());
            for _ in 0..steps {
                let errors = errors(&expected, &z);
                for t in 1..3 {
                    let pulled = expected[t].0.transpose() * &errors[t][1];
                    z[t] -= (&errors[t - 1][0] + pulled) * step;
                }
            }
            let errors = errors(&expected, &z);
            for (t, (w, b, phi)) in sums.iter_mut().enumerate() {
                let [_, inside] = &errors[t];
                *w += inside * z[t].transpose();
                *b += inside;
                if t < 2 {
                    // ½ (π (r² + ε) − 1).
                    let gap = &z[t + 1] - predict(&expected[t], t, &z[t]);
                    let own = gap.zip_map(&expected[t].2, |r, phi: f64| {
                        0.5 * (phi.exp() * (r * r + FLOOR) - 1.0)
                    });
                    *phi += own;
                }
            }
        }
        for ((w, b, phi), (dw, db, dphi)) in expected.iter_mut().zip(sums) {
            let mean = rate / N as f64;
            *w -= dw * mean;
            *b -= db * mean;
            *phi -= dphi * mean;
        }
    }
    let inference = SynchronousDescent::new(steps, StepSize::Fixed(step)).unwrap();
    let rule = GradientDescent::new(rate).unwrap();
    let phase = Phase::new(Decoupling::refreshed(inference), rule).with_epochs(visits);
    Trainer::new(phase).run(&mut model).unwrap();
    for (t, (own, expected)) in layers(&model).iter().zip(&expected).enumerate() {
        assert!((&own.0 - &expected.0).amax() < 1e-13, "W_{t}");
        assert!((&own.1 - &expected.1).amax() < 1e-13, "b_{t}");
        if t < 2 {
            assert!((&own.2 - &expected.2).amax() < 1e-13, "φ_{t}");
            // Each unit has its own by now.
            assert!(own.2.max() - own.2.min() > 1e-4, "{}", own.2);
        }
    }
}
