//! Momentum set by the spectrum: measured eigenvalues, and steps that grow with √κ instead of κ.

use crate::property::{generator, uniform};
use layerwise::optimizer::GradientDescent;
use layerwise::prelude::*;
use layerwise::target_solver::{Convergence, SolveStop, SynchronousDescent};
use layerwise::theory;

/// A linear chain of `depth` units with weight 1 and μ = 1; its Hessian in z is tridiagonal, with 2 on the
/// diagonal and −1 beside it.
fn chain(depth: usize) -> DecoupledCircuit<f64> {
    let mut builder = Circuit::builder();
    for _ in 0..depth {
        let dense = Dense::new(1, 1, Activation::Identity).unwrap();
        builder = builder.layer(dense.without_bias());
    }
    let mut model = DecoupledCircuit::new(builder.build().unwrap(), Energy::default()).unwrap();
    for t in 0..depth {
        model.set_parameters(t, &[1.0]).unwrap();
    }
    let x = DMatrix::from_row_slice(1, 3, &uniform::<f64>(&mut generator(1), 3, 1.0));
    let y = DMatrix::from_row_slice(1, 3, &uniform::<f64>(&mut generator(2), 3, 1.0));
    let init = TargetInit::RandomNormal { std: 1.0, seed: 5 };
    model.add_examples(&x, &y, &init).unwrap();
    model
}

/// 2 − 2 cos(kπ/T), k = 1, T − 1.
fn eigenvalues(depth: usize) -> [f64; 2] {
    let angle = std::f64::consts::PI / depth as f64;
    [1.0, (depth - 1) as f64].map(|k| 2.0 - 2.0 * (k * angle).cos())
}

#[test]
fn the_measured_range_is_that_of_the_matrix() {
    for depth in [2, 3, 10, 24] {
        let model = chain(depth);
        let ranges = theory::curvature_ranges(&model, &Selection::All, depth - 1, 3).unwrap();
        let largest = theory::largest_curvature(&model, &Selection::All, None, depth - 1, 3);
        let [least, most] = eigenvalues(depth);
        assert_eq!(ranges.len(), 3);
        for (own, largest) in ranges.iter().zip(largest.unwrap()) {
            assert!((own.start - least).abs() < 1e-10, "{own:?}, {least}");
            assert!((own.end - most).abs() < 1e-10, "{own:?}, {most}");
            assert_eq!(own.end, largest);
        }
        // Few iterations stay inside.
        let inside = theory::curvature_ranges(&model, &Selection::All, 1, 3).unwrap();
        for own in inside {
            assert!(own.start >= least - 1e-12 && own.end <= most + 1e-12);
        }
    }
    let model = chain(1);
    let none = theory::curvature_ranges(&model, &Selection::All, 1, 3).unwrap();
    assert_eq!(none, vec![0.0..0.0; 3]);
    let error = theory::curvature_ranges(&model, &Selection::All, 0, 3).unwrap_err();
    assert!(error.to_string().contains("curvature_ranges"), "{error}");
}

/// Steps until every example's gradient has fallen to 1e-8.
fn steps(depth: usize, step: StepSize, rule: GradientDescent) -> u64 {
    let mut model = chain(depth);
    let at_rest = Convergence::NEVER.with_tolerance(1e-8).unwrap();
    let solver = SynchronousDescent::new(1_000_000, step).unwrap();
    let solver = solver.with_rule(rule).with_convergence(at_rest);
    let report = model.solve_targets(&solver, &Selection::All).unwrap();
    assert_eq!(report.stop(), SolveStop::Tolerance, "{report}");
    let expected = theory::linear_minimiser(&model, &Selection::All).unwrap();
    for (t, expected) in (1..).zip(expected) {
        assert!((model.z(t).unwrap() - expected).amax() < 1e-5);
    }
    report.steps
}

/// Of the best plain step, about κ/2 · log; of the heavy ball √κ/2 · log.
#[test]
fn steps_grow_with_the_root_of_the_condition() {
    for depth in [8, 16, 32] {
        let model = chain(depth);
        let ranges = theory::curvature_ranges(&model, &Selection::All, depth - 1, 3).unwrap();
        let (least, most) = (ranges[0].start, ranges[0].end);
        let condition = most / least;
        let ball = GradientDescent::heavy_ball(least, most).unwrap();
        let best = GradientDescent::new(2.0 / (most + least)).unwrap();
        let one = StepSize::Fixed(1.0);
        let [heavy, plain] = [ball, best].map(|rule| steps(depth, one, rule));
        let checked = steps(depth, StepSize::Checked(1.0), ball);
        let [heavy_rate, plain_rate] = [heavy as f64 / condition.sqrt(), plain as f64 / condition];
        println!(
            "depth {depth}: κ {condition:.1}, {plain} plain steps ({plain_rate:.2} κ), {heavy} with \
             momentum ({heavy_rate:.2} √κ), {checked} checked"
        );
        assert!((7.0..13.0).contains(&plain_rate), "{plain_rate}");
        assert!((9.0..20.0).contains(&heavy_rate), "{heavy_rate}");
        assert!(checked < plain, "{checked} against {plain}");
    }
}

/// The error of one mode falls by √β per step in the end, and a curvature above λ_max + λ_min diverges.
#[test]
fn the_limits_are_those_of_polyak() {
    use layerwise::optimizer::{Optimizer, Step};
    let (least, most) = (0.5, 50.0);
    let rule = GradientDescent::heavy_ball(least, most).unwrap();
    let after = |curvature: f64, steps: u64| {
        let (mut x, mut state) = ([1.0_f64], [0.0]);
        for k in 1..=steps {
            let gradient = [curvature * x[0]];
            rule.update(Step::new(k, 1.0), &mut x, &gradient, &mut state);
        }
        x[0].abs()
    };
    let root = (100.0_f64.sqrt() - 1.0) / (100.0_f64.sqrt() + 1.0);
    for curvature in [least, 2.0, 20.0, most] {
        let rate = (after(curvature, 400) + 1e-300).powf(1.0 / 400.0);
        assert!(rate < root * 1.03, "{rate} against {root} at {curvature}");
    }
    assert!(after(most + 0.9 * least, 5000) < 1e-3);
    assert!(after(most + 1.1 * least, 5000) > 1e3);
    // Equal ends are one Newton step.
    let newton = GradientDescent::heavy_ball(4.0, 4.0).unwrap();
    assert_eq!(newton, GradientDescent::new(0.25).unwrap());
    for (least, most) in [
        (0.0, 1.0),
        (-1.0, 1.0),
        (2.0, 1.0),
        (1.0, f64::INFINITY),
        (f64::NAN, 1.0),
    ] {
        let error = GradientDescent::heavy_ball(least, most);
        assert!(
            matches!(error, Err(Error::InvalidOption { .. })),
            "{least}, {most}"
        );
    }
    // κ of 1e40 leaves a momentum of 1.
    let error = GradientDescent::heavy_ball(1e-20, 1e20).unwrap_err();
    assert!(error.to_string().contains("momentum"), "{error}");
}
