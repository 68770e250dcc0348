//! Statement 9: where multipliers rest, and how fast they may move.

use layerwise::decoupled::Selection;
use layerwise::layer::Activation;
use layerwise::nalgebra::{DMatrix, Matrix2};
use layerwise::optimizer::{Optimizer, Step};
use layerwise::target_solver::{StepSize, SynchronousDescent};
use layerwise::theory::{MultiplierUpdate, linear_stable_rates, multiplier_rest, stable_rates};
use layerwise::training::{Decoupling, Phase, Trainer};
use layerwise::{DecoupledCircuit, Error, Scalar, theory};

use super::case::{Case, noise, norm};

const ALL: Selection<'static> = Selection::All;

use MultiplierUpdate::{AfterTargets, WithTargets};

/// The spectral radius of one step of a mode, in the variables (z, u).
fn radius(update: MultiplierUpdate, rate: f64, step: f64, curvature: f64, penalized: f64) -> f64 {
    // σ = 1, ρ = ρσ².
    let z = [1.0 - step * curvature, -step * penalized];
    let u = match update {
        AfterTargets => [rate * z[0], 1.0 + rate * z[1]],
        WithTargets => [rate, 1.0],
    };
    let matrix = Matrix2::new(z[0], z[1], u[0], u[1]);
    let modes = matrix.complex_eigenvalues();
    modes.iter().map(|mode| mode.norm()).fold(0.0, f64::max)
}

#[test]
fn the_rates_of_a_mode_are_sharp() {
    for update in [AfterTargets, WithTargets] {
        let mut nonempty = 0;
        for step in [0.01, 0.1, 0.3, 0.7, 1.5] {
            for penalized in [0.2, 1.0, 3.0] {
                for rest in [-2.0, -0.1, 0.0, 0.5, 4.0] {
                    let curvature = penalized + rest;
                    let rates = stable_rates(update, step, curvature, penalized).unwrap();
                    let radius = |rate| radius(update, rate, step, curvature, penalized);
                    let of = format!("{update:?}, η = {step}, h = {curvature}, ρσ² = {penalized}");
                    if rates.is_empty() {
                        for k in 0..400 {
                            let rate = 1e-3 * 1.04_f64.powi(k);
                            assert!(radius(rate) > 1.0 - 1e-12, "{of}: α = {rate}");
                        }
                        continue;
                    }
                    nonempty += 1;
                    let width = rates.end - rates.start;
                    for share in [0.01, 0.05, 0.5, 0.95, 0.99] {
                        let rate = rates.start + share * width;
                        assert!(radius(rate) < 1.0, "{of}: α = {rate} of {rates:?}");
                    }
                    assert!(radius(1.05 * rates.end) > 1.0, "{of}: beyond {rates:?}");
                    if rates.start > 0.0 {
                        assert!(radius(0.95 * rates.start) > 1.0, "{of}: below {rates:?}");
                    }
                }
            }
        }
        assert!(nonempty > 25, "{nonempty}");
    }
}

/// α = 1 with b ≤ 0 fails together with the targets, as the method says.
#[test]
fn rate_one_needs_further_curvature() {
    let end = |rest: f64| stable_rates(WithTargets, 0.1, 2.0 + rest, 2.0).unwrap().end;
    assert!(end(0.1) > 1.0);
    assert!(end(0.0) <= 1.0 && end(-0.1) < 1.0);
}

/// θ stays.
#[derive(Debug, Clone, Copy)]
struct Frozen;

impl<T: Scalar> Optimizer<T> for Frozen {
    fn slots(&self) -> usize {
        0
    }

    fn update(&self, _: Step, _: &mut [T], _: &[T], _: &mut [T]) {}
}

/// The gap that the crate's own scheme leaves, infinite if it overflows.
fn gap_of_the_scheme(case: &Case, step: f64, rate: f64) -> f64 {
    let mut model = case.model::<f64>(&noise());
    let solver = SynchronousDescent::new(1, StepSize::Fixed(step)).unwrap();
    let scheme = Decoupling::persistent(solver)
        .with_multipliers(rate)
        .unwrap();
    let phase = Phase::new(scheme, Frozen).with_epochs(4000);
    match Trainer::new(phase)
        .with_measure_every(0)
        .run(&mut model)
        .map_err(Error::from)
    {
        Ok(_) => norm(&model.gap().unwrap()),
        Err(Error::NonFinite { .. }) => f64::INFINITY,
        Err(other) => panic!("{other}"),
    }
}

/// Targets and multipliers moved `steps` times by the local problems' gradients.
fn iterate(
    model: &mut DecoupledCircuit<f64>,
    multipliers: &mut [DMatrix<f64>],
    update: MultiplierUpdate,
    step: f64,
    rate: f64,
    steps: usize,
) {
    let depth = model.circuit().depth();
    let n = model.examples().len();
    let weights = model
        .example_weights()
        .map_or(vec![1.0; n], <[f64]>::to_vec);
    for _ in 0..steps {
        let mut gradients = Vec::new();
        for t in 0..depth {
            let mut problem = model.local_problem(t, 0..n).unwrap();
            if let Some(own) = multipliers.get(t) {
                problem = problem.with_multipliers(own.as_slice()).unwrap();
            }
            gradients.push(problem.gradients());
        }
        let gaps = |model: &DecoupledCircuit<f64>| -> Vec<DMatrix<f64>> {
            let gap = |t: usize| {
                let problem = model.local_problem(t - 1, 0..n).unwrap();
                let mut workspace = problem.workspace();
                let at = problem.linearize(&mut workspace);
                let z = model.z(t).unwrap().into_owned();
                let prediction = DMatrix::from_column_slice(z.nrows(), n, at.prediction());
                z - prediction
            };
            (1..depth).map(gap).collect()
        };
        let before = gaps(model);
        for t in 1..depth {
            let mut z = model.z(t).unwrap().into_owned();
            let d = z.nrows();
            for i in 0..d {
                for j in 0..n {
                    let k = i + j * d;
                    let gradient = gradients[t - 1].target[k] + gradients[t].input[k];
                    z[(i, j)] -= step * gradient / weights[j];
                }
            }
            if z.iter().any(|z| z.abs() > 1e100) {
                return;
            }
            model.set_targets(t, &ALL, &z).unwrap();
        }
        let gaps = match update {
            AfterTargets => gaps(model),
            WithTargets => before,
        };
        for (t, (own, gap)) in multipliers.iter_mut().zip(gaps).enumerate() {
            *own += gap * (rate * model.terms().penalties()[t]);
        }
    }
}

fn zero_multipliers(case: &Case) -> Vec<DMatrix<f64>> {
    let hidden = 1..case.depth();
    hidden
        .map(|t| DMatrix::zeros(case.dims[t], case.examples))
        .collect()
}

/// 1.4/λ_max: of the two conditions on η(2H + αG), neither is far.
fn step_of(case: &Case) -> f64 {
    let model = case.model::<f64>(&noise());
    1.4 / theory::largest_curvature(&model, &ALL, None, 100, 0).unwrap()[0]
}

#[test]
fn the_rates_of_a_linear_circuit_are_sharp() {
    for (dims, seed) in [
        (&[2, 3, 2][..], 0),
        (&[2, 3, 2, 3, 2][..], 1),
        (&[3, 2, 4, 3][..], 2),
    ] {
        let case = Case::uniform(dims, Activation::Identity, seed);
        let step = step_of(&case);
        let model = case.model::<f64>(&noise());
        let rates = linear_stable_rates(model.layers(), AfterTargets, step).unwrap();
        assert!(
            rates.start == 0.0 && rates.end > 0.1,
            "{rates:?} of {case:?}"
        );
        let inside = gap_of_the_scheme(&case, step, 0.95 * rates.end);
        let outside = gap_of_the_scheme(&case, step, 1.05 * rates.end);
        assert!(inside < 1e-9, "{inside} of {case:?}");
        assert!(outside > 1e6, "{outside} of {case:?}");
    }
}

/// One hidden layer has modes of its own: the whole is stable where each of them is.
#[test]
fn the_rates_of_one_hidden_layer_are_those_of_its_modes() {
    for seed in 0..5 {
        let case = Case::uniform(&[3, 4, 3], Activation::Identity, seed);
        let model = case.model::<f64>(&noise());
        let circuit = model.circuit();
        let w = DMatrix::from_column_slice(3, 4, &circuit.parameters(1)[..12]);
        let penalty = model.terms().penalties()[0];
        let modes = (w.transpose() * w).symmetric_eigenvalues();
        for update in [AfterTargets, WithTargets] {
            for step in [0.05, 0.3, 0.6] {
                let each = modes.iter().map(|mode| {
                    stable_rates(update, step, penalty + mode.max(0.0), penalty).unwrap()
                });
                let (low, high) = each.fold((0.0, f64::INFINITY), |(low, high), own| {
                    (own.start.max(low), own.end.min(high))
                });
                let found = linear_stable_rates(model.layers(), update, step).unwrap();
                if high <= low {
                    assert!(found.is_empty(), "{found:?}");
                    continue;
                }
                assert!(
                    (found.start - low).abs() < 1e-10,
                    "{found:?}, {low}..{high}"
                );
                assert!((found.end - high).abs() < 1e-10, "{found:?}, {low}..{high}");
            }
        }
    }
}

#[test]
fn rates_together_with_the_targets_suffice_and_are_sharp_for_one_hidden_layer() {
    for (dims, seed) in [(&[2, 3, 2][..], 3), (&[2, 3, 2, 3, 2][..], 4)] {
        let case = Case::uniform(dims, Activation::Identity, seed);
        let step = 0.5 * step_of(&case);
        let gap = |rate: f64| {
            let mut model = case.model::<f64>(&noise());
            let mut multipliers = zero_multipliers(&case);
            iterate(
                &mut model,
                &mut multipliers,
                WithTargets,
                step,
                rate,
                20_000,
            );
            norm(&model.gap().unwrap())
        };
        let model = case.model::<f64>(&noise());
        let rates = linear_stable_rates(model.layers(), WithTargets, step).unwrap();
        assert!(
            rates.start == 0.0 && rates.end > 0.5,
            "{rates:?} of {case:?}"
        );
        let inside = gap(0.95 * rates.end);
        assert!(inside < 1e-6, "{inside} of {case:?}");
        if dims.len() == 3 {
            let outside = gap(1.05 * rates.end);
            assert!(outside > 1e3, "{outside} of {case:?}");
        }
    }
}

#[test]
fn at_rest_the_gradients_are_those_of_backprop_for_any_penalty() {
    for (activation, penalty) in [
        (Activation::Identity, 0.1),
        (Activation::Identity, 4.0),
        (Activation::Tanh, 2.0),
        (Activation::Tanh, 8.0),
    ] {
        let case = Case::uniform(&[2, 3, 3, 2], activation, 6);
        let mut model = case.model::<f64>(&noise());
        model.set_penalties(&[penalty; 2]).unwrap();
        let mut multipliers = zero_multipliers(&case);
        let start = multiplier_rest(&model, &ALL, &multipliers).unwrap();
        assert!(start.gap > 0.1 && start.multipliers > 0.1, "{start:?}");
        assert!(start.targets > 1e-3 && start.gradient > 1e-3, "{start:?}");
        let step = 1.0 / theory::curvature_bounds(model.layers()).unwrap().whole();
        iterate(&mut model, &mut multipliers, AfterTargets, step, 1.0, 6000);
        let rest = multiplier_rest(&model, &ALL, &multipliers).unwrap();
        assert!(
            rest.gap < 1e-10 && rest.multipliers < 1e-9,
            "μ = {penalty}: {rest:?}"
        );
        assert!(
            rest.targets < 1e-9 && rest.gradient < 1e-9,
            "μ = {penalty}: {rest:?}"
        );
        // Beside the fixed point, in one number at a time.
        let mut other = multipliers.clone();
        other[0][(1, 2)] += 0.25;
        let beside = multiplier_rest(&model, &ALL, &other).unwrap();
        let weight = model.example_weights().unwrap()[2];
        assert!(
            (beside.multipliers - 0.25 * weight).abs() < 1e-8,
            "{beside:?}"
        );
        assert!(beside.gap < 1e-10 && beside.gradient > 1e-3, "{beside:?}");
        let mut z = model.z(1).unwrap().into_owned();
        z[(0, 0)] += 0.5;
        model.set_targets(1, &ALL, &z).unwrap();
        let beside = multiplier_rest(&model, &ALL, &multipliers).unwrap();
        assert!(beside.gap >= 0.5 && beside.multipliers < 1e-9, "{beside:?}");
        // Selected examples, with multipliers of their own.
        let one: Vec<_> = multipliers
            .iter()
            .map(|own| own.columns(2, 1).into_owned())
            .collect();
        let rest = multiplier_rest(&model, &Selection::Columns(2..3), &one).unwrap();
        assert!(rest.gap < 1e-10 && rest.gradient < 1e-9, "{rest:?}");
    }
}

#[test]
fn the_rest_in_f32_and_at_the_forward_pass() {
    for case in (0..20).map(Case::random) {
        let model = case.model::<f32>(&layerwise::decoupled::TargetInit::ForwardPass);
        let exact = model.backprop(&ALL).unwrap();
        let weights = model.example_weights().unwrap();
        let multipliers = exact.targets.iter().map(|delta| {
            DMatrix::from_fn(delta.nrows(), delta.ncols(), |i, j| {
                -delta[(i, j)] / weights[j]
            })
        });
        let rest = multiplier_rest(&model, &ALL, &multipliers.collect::<Vec<_>>()).unwrap();
        let scale = 1.0 + norm(&exact.parameters.concat());
        assert_eq!(rest.gap, 0.0);
        assert!(
            rest.multipliers < 1e-5 * scale && rest.targets < 1e-5 * scale,
            "{rest:?}"
        );
        assert!(rest.gradient < 1e-5 * scale, "{rest:?} of {case:?}");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let case = Case::uniform(&[2, 3, 3, 2], Activation::Tanh, 7);
    let model = case.model::<f64>(&noise());
    let fit = zero_multipliers(&case);
    let error = multiplier_rest(&model, &ALL, &fit[..1]).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Length {
                expected: 2,
                found: 1,
                ..
            }
        ),
        "{error}"
    );
    let error = multiplier_rest(&model, &Selection::Columns(0..1), &fit).unwrap_err();
    let (expected, found) = ((3, 1), (3, 3));
    assert!(
        matches!(&error, Error::Shape { expected: e, found: f, .. } if (*e, *f) == (expected, found)),
        "{error}"
    );
    let mut bad = fit.clone();
    bad[1][(2, 1)] = f64::NAN;
    let error = multiplier_rest(&model, &ALL, &bad).unwrap_err();
    assert!(
        matches!(
            error,
            Error::NonFiniteData {
                layer: 2,
                row: 2,
                column: 1,
                ..
            }
        ),
        "{error}"
    );
    for (step, curvature, penalized) in [
        (0.0, 1.0, 1.0),
        (f64::NAN, 1.0, 1.0),
        (f64::INFINITY, 1.0, 1.0),
        (0.1, f64::NAN, 1.0),
        (0.1, f64::INFINITY, 1.0),
        (0.1, 1.0, 0.0),
        (0.1, 1.0, f64::NAN),
    ] {
        let error = stable_rates(AfterTargets, step, curvature, penalized).unwrap_err();
        assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
    }
    let linear = Case::uniform(&[2, 3, 2], Activation::Identity, 7).model::<f64>(&noise());
    let error = linear_stable_rates(linear.layers(), AfterTargets, -1.0).unwrap_err();
    assert!(
        matches!(error, Error::InvalidOption { value: -1.0, .. }),
        "{error}"
    );
    let rates = linear_stable_rates(linear.layers(), AfterTargets, 1e3).unwrap();
    assert!(rates.is_empty(), "{rates:?}");
    let alone = Case::uniform(&[2, 2], Activation::Identity, 7).model::<f64>(&noise());
    let rates = linear_stable_rates(alone.layers(), AfterTargets, 1e3).unwrap();
    assert_eq!(rates, 0.0..f64::INFINITY);
}
