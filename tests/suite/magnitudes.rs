//! Data of any magnitude that the scalar has: the same results in another unit, or an error.

use crate::property::{Tested, generator, uniform};
use layerwise::kernel::Write;
use layerwise::loss::{Loss, Pair, SoftmaxCrossEntropy};
use layerwise::parameter_solver::{LevenbergMarquardt, NormalEquations, ParameterReport};
use layerwise::prelude::*;
use layerwise::rand::RngExt;

/// R² = 1 − (1 − outputs/targets)², though neither square may fit; it is an error where R² does not.
#[test]
fn r_squared_of_targets_and_outputs_far_apart() {
    for (target, output) in [
        (1e-3, 1e3),
        (1e-170, 1e-40),
        (1e-310, 1e-200),
        (1e160, 1e300),
    ] {
        let (y, outputs) = ([0.0, target, -target], [0.0, output, -output]);
        let of = |own: [f64; 3]| DMatrix::from_row_slice(1, 3, &own);
        let found = metrics::r_squared(&of(y), &of(outputs)).unwrap()[0];
        let ratio = 1.0 - output / target;
        assert!(
            (found / (1.0 - ratio * ratio) - 1.0).abs() < 1e-9,
            "{target:e}, {output:e}: {found}"
        );
    }
    for (target, output) in [(1e-200, 1e200), (1e-100, 1e100), (5e-324, 1.0)] {
        let of = |own: f64| DMatrix::from_row_slice(1, 2, &[0.0, own]);
        let error = metrics::r_squared(&of(target), &of(output)).unwrap_err();
        let quantity = layerwise::error::Quantity::MetricOutput;
        assert_eq!(error, Error::Overflow { quantity, layer: 0 });
    }
}

in_both_scalars!(
    normal_equations_know_no_unit,
    levenberg_marquardt_knows_no_unit,
    weights_too_small_for_the_scalar_are_an_error,
    a_loss_too_small_for_the_scalar_is_not_rest,
    logits_at_the_ends_of_the_scalar,
);

/// 2ᵏ x, in steps that do not overflow before the result does.
fn shifted(x: f64, k: i32) -> f64 {
    (0..4).fold(x, |x, i| x * 2.0_f64.powi((k + i) >> 2))
}

/// The largest exponent of data, and the exponents that a result may have.
fn exponents<T: Tested>() -> (i32, std::ops::RangeInclusive<f64>) {
    match T::default_epsilon().as_f64() > 1e-10 {
        true => (112, -125.9..=127.9),
        false => (1008, -1021.9..=1023.9),
    }
}

/// Rows of inputs and outputs, weights and ridges in any units, powers of two: W has theirs, and no
/// other bits; or it does not fit.
fn normal_equations_know_no_unit<T: Tested>() {
    let mut rng = generator(71);
    let (most, fits) = exponents::<T>();
    let (mut solved, mut refused) = (0, 0);
    for case in 0..3000 {
        let (d, m) = (rng.random_range(1..5), rng.random_range(1..4));
        let n = d + rng.random_range(3..9);
        let (bias, ridged) = (case % 2 == 0, case % 3 == 0);
        // λ has the square of the inputs' unit. ρ holds b in another, and W_old has a unit too.
        let (ridge, proximal) = (
            if ridged { 0.4 } else { 0.0 },
            if ridged && !bias { 0.3 } else { 0.0 },
        );
        let mut draw = |most: i32| rng.random_range(-most..=most);
        let common = draw(most / 2);
        let of_z: Vec<i32> = (0..d)
            .map(|_| if ridged { common } else { draw(most) })
            .collect();
        let of_p: Vec<i32> = (0..m)
            .map(|_| {
                if proximal > 0.0 {
                    draw(most / 2)
                } else {
                    draw(most)
                }
            })
            .collect();
        let of_weights = draw(most / 2);
        let (z, p): (Vec<f64>, Vec<f64>) =
            (uniform(&mut rng, d * n, 1.0), uniform(&mut rng, m * n, 1.0));
        let weights: Vec<f64> = uniform(&mut rng, n, 1.0)
            .iter()
            .map(|w: &f64| w.abs())
            .collect();
        let old: Vec<f64> = uniform(&mut rng, m * (d + 1), 1.0);
        let solve = |of_z: &[i32], of_p: &[i32], of_weights: i32| {
            let of = |x: f64, k: i32| shifted(T::of(x).as_f64(), k);
            let scaled = |values: &[f64], units: &[i32]| -> Vec<T> {
                let unit = |i: usize| units[i % units.len()];
                values
                    .iter()
                    .enumerate()
                    .map(|(i, &x)| T::of(of(x, unit(i))))
                    .collect()
            };
            let (z, p) = (scaled(&z, of_z), scaled(&p, of_p));
            let weights: Vec<T> = scaled(&weights, &[of_weights]);
            let mut own: Vec<T> = (0..d * m)
                .map(|i| T::of(of(old[i], of_p[i % m] - of_z[i / m])))
                .collect();
            own.extend(
                old[d * m..]
                    .iter()
                    .take(if bias { m } else { 0 })
                    .map(|&b| T::of(b)),
            );
            let mut equations = NormalEquations::<T>::new(d, m, bias).unwrap();
            // The units of the second batch are not those of the first.
            let half = n / 2;
            equations
                .add(&z[..d * half], &p[..m * half], Some(&weights[..half]))
                .unwrap();
            equations
                .add(&z[d * half..], &p[m * half..], Some(&weights[half..]))
                .unwrap();
            let square = |x: f64| of(x, 2 * of_z[0]);
            let found = equations.solve(square(ridge), square(proximal), &mut own);
            found.map(|()| own)
        };
        let Ok(expected) = solve(&vec![0; d], &vec![0; m], 0) else {
            continue; // Nearly singular.
        };
        let name = format!("{case}: {of_z:?} {of_p:?} {of_weights} {bias} {ridged}");
        let unit = |i: usize| match i < d * m {
            true => of_p[i % m] - of_z[i / m],
            false => of_p[i - d * m],
        };
        let exponent = |i: usize| expected[i].as_f64().abs().log2() + f64::from(unit(i));
        match solve(&of_z, &of_p, of_weights) {
            Ok(found) => {
                solved += 1;
                for (i, own) in found.iter().enumerate() {
                    let back = shifted(own.as_f64(), -unit(i));
                    let wanted = expected[i].as_f64();
                    let rest = (back - wanted).abs();
                    let exact = fits.contains(&exponent(i));
                    let largest = expected
                        .iter()
                        .fold(0.0, |top: f64, v| top.max(v.as_f64().abs()));
                    let least = 8.0 * T::default_epsilon().as_f64() * largest;
                    let subnormal = of_p[i % m] <= -most;
                    assert!(
                        rest == 0.0 || !exact && (rest <= least || subnormal),
                        "{name}: {back}, {wanted}"
                    );
                }
            }
            Err(error) => {
                refused += 1;
                assert!(
                    (0..expected.len()).any(|i| !fits.contains(&exponent(i))),
                    "{name}: {error}"
                );
            }
        }
    }
    assert!(solved > 1500 && refused > 300, "{solved}, {refused}");
}

/// f32: 2¹¹² wide inputs, targets of 2⁻⁶⁰; f64 accordingly.
fn weights_too_small_for_the_scalar_are_an_error<T: Tested>() {
    let (most, _) = exponents::<T>();
    let [large, small] = [most, -most / 2].map(|k| shifted(1.0, k));
    let (z, p) = (
        [1.0, 2.0, 3.0].map(|x| T::of(large * x)),
        [2.0, 4.0, 6.0].map(|y| T::of(small * y)),
    );
    let mut equations = NormalEquations::<T>::new(1, 1, false).unwrap();
    equations.add(&z, &p, None).unwrap();
    let mut own = [T::of(7.0)];
    let error = equations.solve(0.0, 0.0, &mut own).unwrap_err();
    assert!(
        error.to_string().contains("too small for the scalar"),
        "{error}"
    );
    assert_eq!(own, [T::of(7.0)]);
    // Targets of 0 have weights of 0.
    equations.forget(0.0).unwrap();
    equations.add(&z, &[T::zero(); 3], None).unwrap();
    equations.solve(0.0, 0.0, &mut own).unwrap();
    assert_eq!(own, [T::zero()]);
    // An example without weight does not count, however large.
    equations.forget(0.0).unwrap();
    let (z, p) = (
        [T::of(large), T::of(small)],
        [T::of(large), T::of(2.0 * small)],
    );
    equations
        .add(&z, &p, Some(&[T::zero(), T::of(0.5)]))
        .unwrap();
    equations.solve(0.0, 0.0, &mut own).unwrap();
    assert_eq!(own, [T::of(2.0)]);
}

fn line<T: Tested>(
    of_z: f64,
    of_p: f64,
    of_weights: f64,
) -> (DecoupledCircuit<T>, ParameterReport) {
    let layer = Dense::new(1, 1, Activation::Identity)
        .unwrap()
        .without_bias();
    let circuit = Circuit::builder().layer(layer).build().unwrap();
    let mut model = DecoupledCircuit::new(circuit, Energy::default()).unwrap();
    let x = DMatrix::from_fn(1, 3, |_, i| T::of(of_z * (i + 1) as f64));
    let y = DMatrix::from_fn(1, 3, |_, i| T::of(2.0 * of_p * (i + 1) as f64));
    model
        .add_examples(&x, &y, &TargetInit::ForwardPass)
        .unwrap();
    model
        .set_example_weights(&Selection::All, &[T::of(of_weights); 3])
        .unwrap();
    model.set_parameters(0, &[T::zero()]).unwrap();
    let solver = LevenbergMarquardt::new(60, 20);
    let report = model.solve_parameters(0, &solver, &Selection::All).unwrap();
    (model, report)
}

/// y = 2x, with x, y and the weights in units of their own: G has the square of x's unit.
fn levenberg_marquardt_knows_no_unit<T: Tested>() {
    let (most, fits) = exponents::<T>();
    let fits = |k: i32| fits.contains(&f64::from(k));
    let mut seen = 0;
    for z in (-most..=most).step_by(most as usize / 8) {
        for p in (-most / 2..=most / 2).step_by(most as usize / 8) {
            for w in [-most / 2, 0, most / 2] {
                // The gradient and ℓ are within the scalar's range, with all digits that are needed.
                let gradient = z + p + w;
                if !(fits(p - z - 3)
                    && fits(gradient - 28)
                    && fits(gradient + 9)
                    && fits(2 * p + w - 28)
                    && fits(2 * p + w + 9))
                {
                    continue;
                }
                let [of_z, of_p, of_w] = [z, p, w].map(|k| shifted(1.0, k));
                let (model, report) = line::<T>(of_z, of_p, of_w);
                let slope = shifted(model.circuit().parameters(0)[0].as_f64(), z - p);
                assert!(
                    (slope - 2.0).abs() < 1e-3,
                    "2^{z}, 2^{p}, 2^{w}: {slope}, {report:?}"
                );
                seen += 1;
            }
        }
    }
    assert!(seen > 50, "{seen}");
}

/// Where ℓ underflows, and its gradient with it, a layer that does not fit is not at rest.
fn a_loss_too_small_for_the_scalar_is_not_rest<T: Tested>() {
    let (most, _) = exponents::<T>();
    let small = shifted(1.0, -most);
    let (_, report) = line::<T>(small, small, 1.0);
    assert!(report.stuck && report.accepted == 0, "{report:?}");
    let (_, report) = line::<T>(small, 0.0, 1.0);
    assert!(!report.stuck, "{report:?}");
}

/// Logits at both ends of the scalar: a loss that fits is right, another one is infinite.
fn logits_at_the_ends_of_the_scalar<T: Tested>() {
    let top = T::max_value().unwrap() * T::of(0.9);
    let logits = [top, -top, T::zero()];
    let value = |target: [f64; 3]| {
        let target = target.map(T::of);
        let (mut value, mut work) = ([T::zero()], [T::zero(); 3]);
        let at = Pair::new(3, &target, &logits);
        SoftmaxCrossEntropy.evaluate(&at, &mut value, Write::Skip, Write::Skip, &mut work);
        (value[0] / top).as_f64()
    };
    for (target, expected) in [
        ([1.0, 0.0, 0.0], 0.0),
        ([0.75, 0.25, 0.0], 0.5),
        ([0.5, 0.375, 0.125], 0.875),
        ([0.0, 0.0, 1.0], 1.0),
    ] {
        let found = value(target);
        assert!((found - expected).abs() < 1e-6, "{target:?}: {found}");
    }
    assert_eq!(value([0.0, 1.0, 0.0]), f64::INFINITY);
}
