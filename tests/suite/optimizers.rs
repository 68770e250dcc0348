//! Update rules and schedules against values worked out by hand from their published formulas.

use std::sync::Arc;

use layerwise::optimizer::{Adam, AdamW, GradientDescent, Optimizer, RmsProp, Step};
use layerwise::schedule::Schedule;
use layerwise::{Error, Scalar};

/// Values after each step of `rule` from `start` along `gradients`, with a factor each.
fn run<T: Scalar>(
    rule: &impl Optimizer<T>,
    start: &[f64],
    gradients: &[(&[f64], f64)],
) -> Vec<Vec<f64>> {
    let mut values: Vec<T> = start.iter().map(|&x| T::of(x)).collect();
    let mut state = vec![T::zero(); rule.slots() * values.len()];
    let steps = (1..).zip(gradients).map(|(number, &(gradient, factor))| {
        let gradient: Vec<T> = gradient.iter().map(|&g| T::of(g)).collect();
        rule.update(
            Step::new(number, factor),
            &mut values,
            &gradient,
            &mut state,
        );
        values.iter().map(|x| x.as_f64()).collect()
    });
    steps.collect()
}

/// Asserts the same trajectory in `f64` to 1e-12 and in `f32` to 1e-6.
fn assert_trajectory(
    rule: &(impl Optimizer<f64> + Optimizer<f32>),
    start: &[f64],
    gradients: &[(&[f64], f64)],
    expected: &[&[f64]],
) {
    for (found, tolerance) in [
        (run::<f64>(rule, start, gradients), 1e-12),
        (run::<f32>(rule, start, gradients), 1e-6),
    ] {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            for (found, expected) in found.iter().zip(*expected) {
                let error = (found - expected).abs();
                assert!(error <= tolerance, "{rule:?}: {found}, not {expected}");
            }
        }
    }
}

/// x ← x − η g: 1 − 0.1·2, then + 0.1·1, then − 0.1·½·4 with the factor ½.
#[test]
fn plain_descent() {
    let rule = GradientDescent::new(0.1).unwrap();
    let gradients: [(&[f64], f64); 3] = [
        (&[2.0, 0.0], 1.0),
        (&[-1.0, 5.0], 1.0),
        (&[4.0, -10.0], 0.5),
    ];
    let expected: [&[f64]; 3] = [&[0.8, -3.0], &[0.9, -3.5], &[0.7, -3.0]];
    assert_trajectory(&rule, &[1.0, -3.0], &gradients, &expected);
    assert_eq!(Optimizer::<f64>::slots(&rule), 0);
}

/// v = 2, then ½·2 − 1 = 0, then ½·0 + 4 = 4, then ½·4 + 0 = 2 at half the rate; a second value
/// has a state of its own: v = 0, 1, ½, ¼.
#[test]
fn momentum() {
    let rule = GradientDescent::new(0.1)
        .unwrap()
        .with_momentum(0.5)
        .unwrap();
    let gradients: [(&[f64], f64); 4] = [
        (&[2.0, 0.0], 1.0),
        (&[-1.0, 1.0], 1.0),
        (&[4.0, 0.0], 1.0),
        (&[0.0, 0.0], 0.5),
    ];
    let expected: [&[f64]; 4] = [&[0.8, 1.0], &[0.8, 0.9], &[0.4, 0.85], &[0.3, 0.8375]];
    assert_trajectory(&rule, &[1.0, 1.0], &gradients, &expected);
    assert_eq!(Optimizer::<f64>::slots(&rule), 1);
}

/// v as with momentum, 2, 0, 4, 2, but each step goes along g + ½ v: 3, −1, 6, 1.
#[test]
fn nesterov_momentum() {
    let rule = GradientDescent::new(0.1)
        .unwrap()
        .with_nesterov(0.5)
        .unwrap();
    let gradients: [(&[f64], f64); 4] =
        [(&[2.0], 1.0), (&[-1.0], 1.0), (&[4.0], 1.0), (&[0.0], 0.5)];
    let expected: [&[f64]; 4] = [&[0.7], &[0.8], &[0.2], &[0.15]];
    assert_trajectory(&rule, &[1.0], &gradients, &expected);
    assert_eq!(Optimizer::<f64>::slots(&rule), 1);
}

/// α = ¾ and ε = ½: v = 4, then ¾·4 + ¼·4 = 4, then 3 at a gradient of 0; the second step at half
/// the rate.
#[test]
fn rms_prop() {
    let rule = RmsProp::new(0.1).unwrap();
    let rule = rule.with_alpha(0.75).unwrap().with_epsilon(0.5).unwrap();
    let gradients: [(&[f64], f64); 3] = [(&[4.0], 1.0), (&[-2.0], 0.5), (&[0.0], 1.0)];
    let expected: [&[f64]; 3] = [&[0.84], &[0.88], &[0.88]];
    assert_trajectory(&rule, &[1.0], &gradients, &expected);
    assert_eq!(Optimizer::<f64>::slots(&rule), 1);
}

/// Adam's first step, 0.1·2/(2 + ¼) at ε = ¼, after a decay by 1 − 0.1·0.5·½; without decay it is
/// Adam's alone.
#[test]
fn adam_w_decays_apart_from_the_moments() {
    let adam = Adam::new(0.1).unwrap().with_epsilon(0.25).unwrap();
    let rule = AdamW::new(adam).with_weight_decay(0.5).unwrap();
    let step = 0.05 * 2.0 / 2.25;
    assert_trajectory(&rule, &[3.0], &[(&[2.0], 0.5)], &[&[3.0 * 0.975 - step]]);
    let (mut x, mut state) = ([3.0], [0.0; 2]);
    let no_decay = Step::new(1, 0.5).with_decay(0.0);
    rule.update(no_decay, &mut x, &[2.0], &mut state);
    assert!((x[0] - (3.0 - step)).abs() < 1e-12, "{x:?}");
    assert!(no_decay.gradient_factor == 1.0 && Step::new(1, 0.5).decay == 1.0);
}

/// Kingma & Ba's formulas in 40 digits; and a value without gradient stays.
#[test]
fn adam_with_its_defaults() {
    let rule = Adam::new(0.1).unwrap();
    let gradients: [(&[f64], f64); 4] = [
        (&[2.0, 0.0], 1.0),
        (&[-1.0, 0.0], 1.0),
        (&[0.5, 0.0], 1.0),
        (&[3.0, 0.0], 1.0),
    ];
    let expected: [&[f64]; 4] = [
        &[0.900_000_000_5, 7.0],
        &[0.873_366_296_702_431_4, 7.0],
        &[0.839_323_382_138_942_4, 7.0],
        &[0.776_205_321_092_695_8, 7.0],
    ];
    assert_trajectory(&rule, &[1.0, 7.0], &gradients, &expected);
    assert_eq!(Optimizer::<f64>::slots(&rule), 2);
}

/// β₁ = ½, β₂ = ¾, ε = ¼ and a falling rate. The first step by hand is 0.1·2/(2 + ¼); in the
/// second m = ½·1 − ½·1 = 0, and nothing moves.
#[test]
fn adam_with_options_and_factors() {
    let rule = Adam::new(0.1).unwrap();
    let rule = rule
        .with_betas(0.5, 0.75)
        .unwrap()
        .with_epsilon(0.25)
        .unwrap();
    let gradients: [(&[f64], f64); 4] = [
        (&[2.0], 1.0),
        (&[-1.0], 0.5),
        (&[0.5], 0.25),
        (&[3.0], 0.125),
    ];
    let expected: [&[f64]; 4] = [
        &[1.0 - 0.2 / 2.25],
        &[1.0 - 0.2 / 2.25],
        &[0.906_135_236_983_682_9],
        &[0.896_695_260_458_936_3],
    ];
    assert_trajectory(&rule, &[1.0], &gradients, &expected);
}

/// Behind a pointer of any kind a rule does what it does itself.
#[test]
fn pointers_are_optimizers() {
    let rule = Adam::new(0.1).unwrap();
    let gradients: [(&[f64], f64); 2] = [(&[2.0, 1.0], 1.0), (&[-1.0, 3.0], 0.5)];
    let expected = run::<f64>(&rule, &[1.0, -3.0], &gradients);
    let boxed: Box<dyn Optimizer<f64>> = Box::new(rule);
    let shared: Arc<dyn Optimizer<f64>> = Arc::new(rule);
    assert_eq!(run(&boxed, &[1.0, -3.0], &gradients), expected);
    assert_eq!(run(&shared, &[1.0, -3.0], &gradients), expected);
    assert_eq!(run::<f64>(&&rule, &[1.0, -3.0], &gradients), expected);
    assert_eq!((boxed.slots(), shared.slots()), (2, 2));
}

#[test]
fn schedules() {
    let near = |a: f64, b: f64| assert!((a - b).abs() <= 1e-15, "{a}, not {b}");
    for k in [0, 3, 10, 11] {
        near(Schedule::CONSTANT.factor(k, 10), 1.0);
    }
    // cos 60° = ½, cos 120° = −½; steps beyond the last stay at the end.
    let cosine = Schedule::cosine(0.2).unwrap();
    for (k, factor) in [(0, 1.0), (4, 0.8), (6, 0.6), (8, 0.4), (12, 0.2), (13, 0.2)] {
        near(cosine.factor(k, 12), factor);
    }
    let geometric = Schedule::geometric(0.0625).unwrap();
    for (k, factor) in [(0, 1.0), (2, 0.5), (4, 0.25), (8, 0.0625), (9, 0.0625)] {
        near(geometric.factor(k, 8), factor);
    }
    near(Schedule::geometric(16.0).unwrap().factor(3, 4), 8.0);
    let steps = Schedule::steps(3, 0.5).unwrap();
    for (k, factor) in [(0, 1.0), (2, 1.0), (3, 0.5), (5, 0.5), (6, 0.25)] {
        near(steps.factor(k, 7), factor);
    }
    // Behind a warm-up the rest is what it was, over the steps that remain.
    for schedule in [Schedule::CONSTANT, cosine, geometric, steps] {
        let warm = schedule.with_warm_up(4);
        for (k, factor) in [(0, 0.25), (1, 0.5), (2, 0.75), (3, 1.0)] {
            near(warm.factor(k, 16), factor);
        }
        for k in 4..18 {
            near(warm.factor(k, 16), schedule.factor(k - 4, 12));
        }
        assert!(schedule.with_warm_up(9).factor(9, 9).is_finite());
    }
}

fn assert_invalid<A: std::fmt::Debug>(result: Result<A, Error>, name: &str) {
    assert!(
        matches!(&result, Err(Error::InvalidOption { option, .. }) if *option == name),
        "{name}: {result:?}"
    );
}

#[test]
fn options_out_of_range_are_errors() {
    for value in [0.0, -0.1, f64::NAN, f64::INFINITY] {
        assert_invalid(GradientDescent::new(value), "GradientDescent::rate");
        assert_invalid(Adam::new(value), "Adam::rate");
        assert_invalid(Adam::new(0.1).unwrap().with_epsilon(value), "Adam::epsilon");
        assert_invalid(RmsProp::new(value), "RmsProp::rate");
        let rms = RmsProp::new(0.1).unwrap();
        assert_invalid(rms.with_epsilon(value), "RmsProp::epsilon");
    }
    for value in [-0.1, 1.0, f64::NAN] {
        let descent = GradientDescent::new(0.1).unwrap();
        assert_invalid(descent.with_momentum(value), "GradientDescent::momentum");
        let adam = Adam::new(0.1).unwrap();
        assert_invalid(adam.with_betas(value, 0.9), "Adam::beta1");
        assert_invalid(adam.with_betas(0.9, value), "Adam::beta2");
        let nesterov = descent.with_nesterov(value);
        assert_invalid(nesterov, "GradientDescent::momentum");
        let rms = RmsProp::new(0.1).unwrap();
        assert_invalid(rms.with_alpha(value), "RmsProp::alpha");
    }
}

#[test]
fn weight_decay_out_of_range_is_an_error() {
    let rule = AdamW::new(Adam::new(0.5).unwrap());
    for value in [-0.1, f64::NAN, f64::INFINITY] {
        assert_invalid(rule.with_weight_decay(value), "AdamW::weight_decay");
    }
}

#[test]
fn schedules_out_of_range_are_errors() {
    for end in [-0.1, 1.1, f64::NAN] {
        assert_invalid(Schedule::cosine(end), "Schedule::cosine's end");
    }
    for value in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert_invalid(Schedule::geometric(value), "Schedule::geometric's end");
        assert_invalid(Schedule::steps(1, value), "Schedule::steps' ratio");
    }
    for end in [-0.1, f64::NAN, f64::INFINITY] {
        assert_invalid(Schedule::linear(end), "Schedule::linear's end");
    }
    assert_invalid(Schedule::steps(0, 0.5), "Schedule::steps' every");
}

/// Rules that divide by a root of mean squares, with ε.
fn adaptive<T: Scalar>(epsilon: f64) -> [Box<dyn Optimizer<T>>; 3] {
    let adam = Adam::new(0.125).unwrap().with_epsilon(epsilon).unwrap();
    let rms = RmsProp::new(0.125).unwrap().with_epsilon(epsilon).unwrap();
    let decaying = AdamW::new(adam).with_weight_decay(0.5).unwrap();
    [Box::new(adam), Box::new(decaying), Box::new(rms)]
}

/// Magnitudes over four decades and both signs, and now and then none.
const GRADIENTS: [f64; 12] = [
    1.0, -0.3, 0.02, 0.0, -40.0, 7.0, 0.6, -0.001, 0.0, 3.0, 2.0, -9.0,
];

/// Values after each of 60 steps along the gradients times `scale`, which `factor` divides.
fn scaled<T: Scalar>(rule: &dyn Optimizer<T>, scale: f64, factor: f64) -> Vec<T> {
    let (mut x, mut state) = ([T::one()], vec![T::zero(); rule.slots()]);
    let steps = (1..=60).map(|number| {
        let gradient = T::of(GRADIENTS[number as usize % 12] * scale);
        let step = Step::new(number, 1.0).with_gradient_factor(factor);
        rule.update(step, &mut x, &[gradient], &mut state);
        assert!(state.iter().all(|s| s.is_finite()), "{scale:e}: {state:?}");
        x[0]
    });
    steps.collect()
}

/// Scaled by a power of two with their ε, gradients give the same bits.
#[test]
fn adaptive_steps_do_not_know_the_gradients_unit() {
    fn check<T: Scalar>(powers: &[i32]) {
        let epsilon = 2f64.powi(-20);
        for (k, rule) in adaptive::<T>(epsilon).iter().enumerate() {
            let expected = scaled(&**rule, 1.0, 1.0);
            for &power in powers {
                let scale = 2f64.powi(power);
                let own = &adaptive::<T>(epsilon * scale)[k];
                assert_eq!(scaled(&**own, scale, 1.0), expected, "{rule:?}, 2^{power}");
            }
        }
    }
    check::<f32>(&[-80, -60, 40, 62, 90, 121]);
    check::<f64>(&[-900, -500, 400, 511, 700, 1000, 1017]);
}

/// So do all scales but for rounding, to the ends of the numbers, if ε is negligible.
#[test]
fn adaptive_steps_reach_from_the_smallest_to_the_largest_gradients() {
    fn check<T: Scalar>(decades: i32, epsilon: f64, tolerance: f64) {
        for rule in adaptive::<T>(epsilon) {
            let expected = scaled(&*rule, 1.0, 1.0);
            for decade in (-decades..=decades).step_by(decades as usize / 12) {
                let scale = 10f64.powi(decade);
                let found = scaled(&*rule, scale, 1.0);
                for (x, expected) in found.iter().zip(&expected) {
                    let error = (*x - *expected).as_f64().abs();
                    assert!(
                        error <= tolerance,
                        "{rule:?}, {scale:e}: {x}, not {expected}"
                    );
                }
            }
        }
    }
    // 40 · 10³⁶ and 40 · 10³⁰⁶ are numbers; .001 · 10⁻³³ has all its digits, squared or not.
    check::<f32>(36, 1e-45, 1e-4);
    check::<f64>(300, 1e-322, 1e-11);
}

/// The first step has the length of the rate, and those that follow are the exact ones.
#[test]
fn one_huge_gradient_freezes_nothing() {
    fn check<T: Scalar>(huge: f64, tolerance: f64) {
        for rule in adaptive::<T>(1e-8) {
            let (mut x, mut state) = ([T::zero()], vec![T::zero(); rule.slots()]);
            let mut last = x;
            for number in 1..5000 {
                let gradient = if number == 1 { T::of(huge) } else { T::one() };
                let step = Step::new(number, 1.0).with_decay(0.0);
                rule.update(step, &mut x, &[gradient], &mut state);
                let root = state[state.len() - 1];
                let exact = huge * (0.001 * 0.999f64.powf(number as f64 - 1.0)).sqrt();
                if rule.slots() == 2 {
                    assert!(
                        (root.as_f64() / exact - 1.0).abs() < tolerance,
                        "{number}: {root}"
                    );
                    if number < 100 {
                        assert!(x[0] < last[0], "{rule:?} stands still at {x:?}");
                    }
                }
                last = x;
            }
            assert!(state.iter().all(|s| s.is_finite()), "{state:?}");
        }
        let adam = Adam::new(0.1).unwrap();
        let mut x = [T::one()];
        adam.update(
            Step::new(1, 1.0),
            &mut x,
            &[T::of(huge)],
            &mut [T::zero(); 2],
        );
        assert!((x[0].as_f64() - 0.9).abs() < 1e-6, "{x:?}");
    }
    for huge in [2e19, 1e30, 3e38] {
        check::<f32>(huge, 1e-2);
    }
    for huge in [1.4e154, 1e250, 1.7e308] {
        check::<f64>(huge, 1e-9);
    }
}

/// Rounding carries no mean beyond the largest number.
#[test]
fn the_largest_gradient_for_ever() {
    fn check<T: Scalar>(largest: f64) {
        for rule in adaptive::<T>(1e-8) {
            let (mut x, mut state) = ([T::zero()], vec![T::zero(); rule.slots()]);
            for number in 1..=3000 {
                let before = x[0];
                let step = Step::new(number, 1.0).with_decay(0.0);
                rule.update(step, &mut x, &[T::of(largest)], &mut state);
                assert!(
                    x[0] < before && x[0].is_finite(),
                    "{rule:?}, {number}: {x:?}"
                );
            }
            assert!(state.iter().all(|s| s.is_finite()), "{state:?}");
        }
    }
    check::<f32>(f32::MAX.into());
    check::<f64>(f64::MAX);
}

/// Without memory s is |g|, be it a 10⁶⁰th of the last one.
#[test]
fn a_root_without_memory_forgets() {
    let rule = RmsProp::new(0.5).unwrap().with_alpha(0.0).unwrap();
    let rule = rule.with_epsilon(1e-45).unwrap();
    let (mut x, mut state) = ([0.0_f32], [0.0_f32]);
    for (number, gradient) in (1..).zip([1e30, 1e-30, -1e30, 1e-30]) {
        rule.update(Step::new(number, 1.0), &mut x, &[gradient], &mut state);
        assert_eq!(state[0], gradient.abs());
    }
    assert_eq!(x, [-1.0]);
}

/// Neither NaN nor ∞ is hidden.
#[test]
fn gradients_that_are_no_numbers_are_seen() {
    fn check<T: Scalar>() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            for rule in adaptive::<T>(1e-8) {
                for before in [0.0, 1.0] {
                    let (mut x, mut state) = ([T::one()], vec![T::of(before); rule.slots()]);
                    rule.update(Step::new(3, 1.0), &mut x, &[T::of(bad)], &mut state);
                    assert!(!x[0].is_finite(), "{rule:?}, {bad}: {x:?}");
                }
            }
        }
    }
    check::<f32>();
    check::<f64>();
}

/// A factor that the scalar cannot hold, as clipping gives for gradients near the largest number.
#[test]
fn a_tiny_factor_of_a_huge_gradient() {
    let descent = GradientDescent::new(0.5).unwrap();
    let momentum = descent.with_momentum(0.5).unwrap();
    let step = Step::new(1, 1.0).with_gradient_factor(2e-47);
    for rule in [descent, momentum] {
        let mut x = [0.0_f32];
        rule.update(step, &mut x, &[1e38], &mut [0.0]);
        assert!((x[0] / -1e-9 - 1.0).abs() < 1e-5, "{rule:?}: {x:?}");
    }
    let tiny = 1e-46;
    for rule in adaptive::<f32>(1e-30) {
        let (found, expected) = (scaled(&*rule, 1e36, tiny), scaled(&*rule, 1e-10, 1.0));
        for (x, expected) in found.iter().zip(&expected) {
            assert!((x - expected).abs() < 1e-4, "{rule:?}: {x}, not {expected}");
        }
    }
}

/// Any part of a vector has the bits that it has in the whole, whatever stands beside it.
#[test]
fn parts_of_a_vector_are_updated_alike() {
    fn check<T: Scalar>(decades: f64) {
        let n = 75;
        let gradient = |k: usize| {
            let size = 10f64.powf(decades * (0.37 * k as f64).sin());
            T::of(if k % 9 == 4 {
                0.0
            } else {
                size * (1.3 * k as f64).cos()
            })
        };
        for rule in adaptive::<T>(1e-8) {
            let run = |ends: &[usize]| {
                let mut x = vec![T::one(); n];
                for range in ends.windows(2).map(|ends| ends[0]..ends[1]) {
                    let mut state = vec![T::zero(); rule.slots() * range.len()];
                    for number in 1..=5 {
                        let own = range.clone().map(|k| gradient(k + 7 * number as usize));
                        let own: Vec<T> = own.collect();
                        rule.update(
                            Step::new(number, 1.0),
                            &mut x[range.clone()],
                            &own,
                            &mut state,
                        );
                    }
                }
                x
            };
            let whole = run(&[0, n]);
            assert_eq!(run(&[0, 1, 18, 50, n]), whole, "{rule:?}");
            assert!(whole.iter().all(|x| x.is_finite()));
        }
    }
    check::<f32>(37.0);
    check::<f64>(300.0);
}

#[test]
fn a_slow_decay_in_f32_is_that_of_f64() {
    // 1 − 1e-6 keeps one digit of 1e-6 in f32.
    fn decayed<T: Scalar>() -> Vec<f64> {
        let rule = AdamW::new(Adam::new(1e-4).unwrap());
        let mut x: Vec<T> = (0..64).map(|i| T::of(1.0 + f64::from(i) / 64.0)).collect();
        let (zeros, mut state) = (vec![T::zero(); 64], vec![T::zero(); 128]);
        for number in 1..=20_000 {
            rule.update(Step::new(number, 1.0), &mut x, &zeros, &mut state);
        }
        x.into_iter().map(T::as_f64).collect()
    }
    let lost = |x: Vec<f64>| 96.0 - 0.5 - x.into_iter().sum::<f64>();
    let (expected, found) = (lost(decayed::<f64>()), lost(decayed::<f32>()));
    assert!(
        (found / expected - 1.0).abs() < 0.02,
        "{found}, not {expected}"
    );
}

/// With a constant gradient the second moment comes to rest at its square, however slowly it moves.
#[test]
fn slow_second_moments_come_to_rest_at_the_gradient() {
    for (beta, tolerance) in [(0.999, 1e-4), (0.9999, 1e-3), (0.99999, 6e-3)] {
        let adam = Adam::new(1e-3).unwrap().with_betas(0.9, beta).unwrap();
        let (mut x, mut state) = ([0.0_f32], [0.0_f32; 2]);
        let steps = (30.0 / (1.0 - beta)) as u64;
        for number in 1..=steps {
            adam.update(Step::new(number, 1.0), &mut x, &[3.0], &mut state);
        }
        let root = state[0].max(state[1]);
        let error = (f64::from(root) / 3.0 - 1.0).abs();
        assert!(error < tolerance, "{beta}: {state:?}");
    }
}
