//! What the losses say: values, gradients and bounds by hand, their limits and relations to one
//! another, extreme predictions, and the errors of their constructors and domains.

use crate::property::{Tested, generator};
use layerwise::kernel::Write;
use layerwise::loss::{
    BinaryCrossEntropy, ClassWeights, Gaussian, Huber, KullbackLeibler, LabelSmoothing, Pair,
    Poisson, PseudoHuber, Quantile, SoftmaxCrossEntropy, SquaredError, SumOverPositions,
    WeightedBinaryCrossEntropy, WeightedCrossEntropy, WeightedSquaredError,
};
use layerwise::rand::RngExt;
use layerwise::{Error, Loss, Scalar};

in_both_scalars!(a_small_divergence_keeps_its_sign,);

/// (L of every example, ∂L/∂z, ∂L/∂ẑ).
type Outcome = (Vec<f64>, Vec<f64>, Vec<f64>);

/// A loss of two units with z, ẑ, L, ∂L/∂z and ∂L/∂ẑ.
type Known = (
    Box<dyn Loss<f64>>,
    [f64; 2],
    [f64; 2],
    f64,
    [f64; 2],
    [f64; 2],
);

fn evaluate_at(loss: &dyn Loss<f64>, at: &Pair<'_, f64>) -> Outcome {
    let mut values = vec![f64::NAN; at.examples()];
    let mut gradients = [
        vec![f64::NAN; at.target.len()],
        vec![f64::NAN; at.target.len()],
    ];
    let [dz, dp] = &mut gradients;
    let mut work = vec![f64::NAN; loss.scratch(at.dim, at.examples())];
    let (set_z, set_p) = (Write::Set(&mut dz[..]), Write::Set(&mut dp[..]));
    loss.evaluate(at, &mut values, set_z, set_p, &mut work);
    let [dz, dp] = gradients;
    (values, dz, dp)
}

fn evaluate(loss: &dyn Loss<f64>, dim: usize, target: &[f64], prediction: &[f64]) -> Outcome {
    evaluate_at(loss, &Pair::new(dim, target, prediction))
}

/// L of one example.
fn value(loss: &dyn Loss<f64>, target: &[f64], prediction: &[f64]) -> f64 {
    evaluate(loss, target.len(), target, prediction).0[0]
}

/// Asserts that two outcomes differ by no more than `tolerance`, relative to numbers above 1.
fn assert_close(what: &str, found: &Outcome, expected: &Outcome, tolerance: f64) {
    let flat = |o: &Outcome| [&o.0[..], &o.1, &o.2].concat();
    let (a, b) = (flat(found), flat(expected));
    assert_eq!(a.len(), b.len(), "{what}");
    for (x, y) in a.iter().zip(&b) {
        let error = (x - y).abs() / y.abs().max(1.0);
        assert!(error <= tolerance, "{what}: {found:?}, not {expected:?}");
    }
}

fn huber(delta: f64) -> Huber {
    Huber::new(delta).unwrap()
}

fn pseudo_huber(delta: f64) -> PseudoHuber {
    PseudoHuber::new(delta).unwrap()
}

fn weighted(weights: &[f64]) -> WeightedSquaredError<f64> {
    WeightedSquaredError::new(weights.to_vec()).unwrap()
}

fn gaussian(precision: &[f64]) -> Gaussian<f64> {
    Gaussian::new(precision.to_vec()).unwrap()
}

fn smoothed<L>(loss: L, epsilon: f64) -> LabelSmoothing<L> {
    LabelSmoothing::new(loss, epsilon).unwrap()
}

fn classes<L: Loss<f64>>(weights: &[f64], loss: L) -> ClassWeights<f64, L> {
    ClassWeights::new(weights.to_vec(), loss).unwrap()
}

fn positive(weights: &[f64]) -> WeightedBinaryCrossEntropy<f64> {
    WeightedBinaryCrossEntropy::new(weights.to_vec()).unwrap()
}

fn by_class(weights: &[f64]) -> WeightedCrossEntropy<f64> {
    WeightedCrossEntropy::new(weights.to_vec()).unwrap()
}

fn smoothed_units<L>(loss: L, epsilon: f64) -> LabelSmoothing<L> {
    LabelSmoothing::binary(loss, epsilon).unwrap()
}

fn at_positions<L: Loss<f64>>(positions: usize, loss: L) -> SumOverPositions<L> {
    SumOverPositions::new(positions, loss).unwrap()
}

fn quantile(level: f64) -> Quantile {
    Quantile::new(level).unwrap()
}

/// Everything by hand, on two units.
#[test]
fn known_values() {
    let (e, ln_2, ln_3) = (std::f64::consts::E, 2f64.ln(), 3f64.ln());
    // p = (¼, ¾) for logits (0, ln 3).
    let quarter = [7.0, 7.0 + ln_3];
    let cases: Vec<Known> = vec![
        (
            Box::new(weighted(&[2.0, 0.5])),
            [3.0, 1.0],
            [1.0, 5.0],
            8.0,
            [4.0, -2.0],
            [-4.0, 2.0],
        ),
        (
            Box::new(huber(2.0)),
            [1.0, -6.0],
            [0.0, -1.0],
            8.5,
            [1.0, -2.0],
            [-1.0, 2.0],
        ),
        // At |r| = δ itself: ½ δ² and δ.
        (
            Box::new(huber(2.0)),
            [2.0, 0.0],
            [0.0, 2.0],
            4.0,
            [2.0, -2.0],
            [-2.0, 2.0],
        ),
        // r/δ = ¾ and −4/3, whose roots √(1 + (r/δ)²) are 5/4 and 5/3.
        (
            Box::new(pseudo_huber(12.0)),
            [9.0, 0.0],
            [0.0, 16.0],
            144.0 * (0.25 + 2.0 / 3.0),
            [7.2, -9.6],
            [-7.2, 9.6],
        ),
        (
            Box::new(gaussian(&[4.0, 0.5])),
            [2.0, 1.0],
            [1.0, 3.0],
            3.0 - 0.5 * ln_2,
            [4.0, -1.0],
            [-4.0, 1.0],
        ),
        (
            Box::new(gaussian(&[e])),
            [1.0, 0.0],
            [0.0, 0.0],
            0.5 * e - 1.0,
            [e, 0.0],
            [-e, 0.0],
        ),
        (
            Box::new(SoftmaxCrossEntropy),
            [1.0, 0.0],
            quarter,
            2.0 * ln_2,
            [2.0 * ln_2, (4.0 / 3f64).ln()],
            [-0.75, 0.75],
        ),
        (
            Box::new(KullbackLeibler),
            [0.5, 0.5],
            quarter,
            ln_2 - 0.5 * ln_3,
            [1.0 + ln_2, 1.0 + ln_2 - ln_3],
            [-0.25, 0.25],
        ),
        // σ(ln 3) = ¾: −¼ ln ¾ − ¾ ln ¼ for y = ¼, ln 2 for the other unit.
        (
            Box::new(BinaryCrossEntropy),
            [0.25, 1.0],
            [ln_3, 0.0],
            2.0 * ln_2 - 0.25 * ln_3 + ln_2,
            [-ln_3, 0.0],
            [0.5, -0.5],
        ),
        (
            Box::new(Poisson),
            [2.0, 0.0],
            [1.0, ln_3],
            e - 2.0 + 3.0,
            [-1.0, -ln_3],
            [e - 2.0, 3.0],
        ),
        // y′ = (¾, ¼): ¾ ln 4 + ¼ ln 4/3.
        (
            Box::new(smoothed(SoftmaxCrossEntropy, 0.5)),
            [1.0, 0.0],
            quarter,
            2.0 * ln_2 - 0.25 * ln_3,
            [ln_2, ln_2 - 0.5 * ln_3],
            [-0.5, 0.5],
        ),
        // c = 3 for y = (½, ½): CE is 2 ln 2 − ½ ln 3.
        (
            Box::new(classes(&[2.0, 4.0], SoftmaxCrossEntropy)),
            [0.5, 0.5],
            quarter,
            6.0 * ln_2 - 1.5 * ln_3,
            [
                6.0 * ln_2 + 2.0 * (2.0 * ln_2 - 0.5 * ln_3),
                3.0 * (2.0 * ln_2 - ln_3) + 4.0 * (2.0 * ln_2 - 0.5 * ln_3),
            ],
            [-0.75, 0.75],
        ),
        // σ(ln 3) = ¾: ½ · 4 ln 4/3 + ½ ln 4, and 8 ln 2 for the other unit.
        (
            Box::new(positive(&[4.0, 8.0])),
            [0.5, 1.0],
            [ln_3, 0.0],
            2.0 * (2.0 * ln_2 - ln_3) + ln_2 + 8.0 * ln_2,
            [4.0 * (2.0 * ln_2 - ln_3) - 2.0 * ln_2, 7.0 * ln_2],
            [0.5 * 0.75 - 4.0 * 0.5 * 0.25, -4.0],
        ),
        // w y = (1, 2) and m = 3: 2 ln 2 + 2 (2 ln 2 − ln 3).
        (
            Box::new(by_class(&[2.0, 4.0])),
            [0.5, 0.5],
            quarter,
            2.0 * ln_2 + 2.0 * (2.0 * ln_2 - ln_3),
            [4.0 * ln_2, 4.0 * (2.0 * ln_2 - ln_3)],
            [0.75 - 1.0, 2.25 - 2.0],
        ),
        // y′ = (¾, ½).
        (
            Box::new(smoothed_units(BinaryCrossEntropy, 0.5)),
            [1.0, 0.5],
            [ln_3, 0.0],
            2.0 * ln_2 - 0.75 * ln_3 + ln_2,
            [-0.5 * ln_3, 0.0],
            [0.0, 0.0],
        ),
        (
            Box::new(quantile(0.25)),
            [3.0, -1.0],
            [1.0, 3.0],
            0.5 + 3.0,
            [0.25, -0.75],
            [-0.25, 0.75],
        ),
        // An exact prediction is at rest.
        (
            Box::new(quantile(0.25)),
            [3.0, 3.0],
            [3.0, 7.0],
            3.0,
            [0.0, -0.75],
            [0.0, 0.75],
        ),
    ];
    for (loss, target, prediction, value, dz, dp) in cases {
        let found = evaluate(&*loss, 2, &target, &prediction);
        let expected = (vec![value], dz.to_vec(), dp.to_vec());
        assert_close(&format!("{loss:?}"), &found, &expected, 1e-15);
    }
}

#[test]
fn learned_precision_by_hand() {
    // ½ [4 (1 + ½) − ln 4] + ½ [½ (4 + ½) + ln 2], one φ each.
    let loss = Gaussian::learned(1.0, 0.5).unwrap();
    let phi = [4f64.ln(), -2f64.ln()];
    let at = Pair::new(2, &[2.0, 1.0], &[1.0, 3.0]).with_parameters(&phi);
    let expected = (
        vec![3.0 + 1.125 - 0.5 * 2f64.ln()],
        vec![4.0, -1.0],
        vec![-4.0, 1.0],
    );
    assert_close("one each", &evaluate_at(&loss, &at), &expected, 1e-15);
    assert_close(
        "one each",
        &(phi_gradient(&loss, &at, &[3.0]), vec![], vec![]),
        &(vec![7.5, 1.875], vec![], vec![]),
        1e-15,
    );
    assert!((loss.curvature_bound(&phi).unwrap() - 4.0).abs() < 1e-15);

    let loss = Gaussian::learned_shared(1.0, 0.5).unwrap();
    let at = Pair::new(2, &[2.0, 1.0], &[1.0, 3.0]).with_parameters(&phi[..1]);
    let expected = (vec![12.0 - 4f64.ln()], vec![4.0, -8.0], vec![-4.0, 8.0]);
    assert_close("shared", &evaluate_at(&loss, &at), &expected, 1e-15);
    assert_close(
        "shared",
        &(phi_gradient(&loss, &at, &[3.0]), vec![], vec![]),
        &(vec![33.0], vec![], vec![]),
        1e-15,
    );
}

/// Σ factorᵢ ∂Lᵢ/∂φ.
fn phi_gradient(loss: &dyn Loss<f64>, at: &Pair<'_, f64>, factors: &[f64]) -> Vec<f64> {
    let mut gradient = vec![f64::NAN; at.parameters.len()];
    let mut work = vec![f64::NAN; loss.scratch(at.dim, at.examples())];
    loss.parameter_gradient(at, factors, Write::Set(&mut gradient), &mut work);
    gradient
}

#[test]
fn learned_precision_has_its_parameters() {
    for (loss, count) in [
        (Gaussian::learned(4.0, 0.0).unwrap(), 3),
        (Gaussian::learned_shared(4.0, 0.0).unwrap(), 1),
        (gaussian(&[4.0]), 0),
    ] {
        let groups = loss.parameters(3);
        assert_eq!(groups.len(), usize::from(count > 0), "{loss:?}");
        for group in groups {
            assert_eq!(
                (group.name.as_str(), group.range),
                ("log precision", 0..count)
            );
            assert_eq!((group.shape, group.decays), (vec![count], false));
        }
        let mut phi = vec![9.0; count];
        loss.initialize(3, &mut phi);
        assert_eq!(phi, vec![4f64.ln(); count], "{loss:?}");
    }
}

/// At π = 1 / (mean r² + ε) nothing pulls at φ, and at a closed gap π stays at 1/ε.
#[test]
fn learned_precision_is_least_at_the_inverse_variance() {
    let target = [1.0, -2.0, 0.5, 0.3, -0.7, 1.9];
    let prediction = [0.4, -1.0, 0.6, 0.9, 1.1, 1.2];
    let squares: Vec<f64> = target
        .iter()
        .zip(prediction)
        .map(|(z, p)| (z - p) * (z - p))
        .collect();
    let (third, factors) = (1.0 / 3.0, [1.0; 3]);
    for floor in [0.0, 0.1] {
        let variance = |unit: usize| third * (0..3).map(|i| squares[2 * i + unit]).sum::<f64>();
        let phi = [0, 1].map(|unit| -(variance(unit) + floor).ln());
        let each = Gaussian::learned(1.0, floor).unwrap();
        let at = Pair::new(2, &target, &prediction).with_parameters(&phi);
        for pull in phi_gradient(&each, &at, &factors) {
            assert!(pull.abs() < 1e-14, "{pull}");
        }
        let phi = [-(squares.iter().sum::<f64>() / 6.0 + floor).ln()];
        let shared = Gaussian::learned_shared(1.0, floor).unwrap();
        let at = Pair::new(2, &target, &prediction).with_parameters(&phi);
        let pull = phi_gradient(&shared, &at, &factors)[0];
        assert!(pull.abs() < 1e-14, "{pull}");
    }
    let closed = Gaussian::learned(1.0, 0.25).unwrap();
    let at = Pair::new(1, &[2.0], &[2.0]);
    let phi = [4f64.ln()];
    let pull = phi_gradient(&closed, &at.with_parameters(&phi), &[1.0])[0];
    assert!(pull.abs() < 1e-15, "{pull}");
    // Without a floor a closed gap pulls φ up by ½ an example for ever.
    let free = Gaussian::learned(1.0, 0.0).unwrap();
    assert_eq!(
        phi_gradient(&free, &at.with_parameters(&[50.0]), &[1.0]),
        [-0.5]
    );
}

#[test]
fn curvature_bounds() {
    let ce = 0.5 * (1.0 + 1e-4);
    let bounds: [(&dyn Loss<f64>, Option<f64>); 21] = [
        (&SquaredError, Some(1.0)),
        (&weighted(&[0.5, 3.0, 2.0]), Some(3.0)),
        (&huber(0.1), Some(1.0)),
        (&pseudo_huber(0.1), Some(1.0)),
        (&gaussian(&[0.5, 3.0]), Some(3.0)),
        // What the precisions are is not known without φ.
        (&Gaussian::learned(1.0, 0.0).unwrap(), None),
        (&SoftmaxCrossEntropy, Some(ce)),
        (&KullbackLeibler, Some(ce)),
        (&BinaryCrossEntropy, Some(0.25)),
        (&Poisson, None),
        (&smoothed(BinaryCrossEntropy, 0.1), Some(0.25)),
        (&smoothed(Poisson, 0.1), None),
        (&classes(&[2.0, 4.0], BinaryCrossEntropy), Some(1.0 + 1e-4)),
        (&classes(&[2.0, 4.0], Poisson), None),
        (&positive(&[0.5, 3.0]), Some(0.75)),
        // The negative class has weight 1.
        (&positive(&[0.5, 0.25]), Some(0.25)),
        (&by_class(&[0.5, 3.0]), Some(3.0 * ce)),
        (&by_class(&[0.0, 0.0]), Some(0.0)),
        (&smoothed_units(BinaryCrossEntropy, 0.1), Some(0.25)),
        (&quantile(0.5), None),
        (&at_positions(3, BinaryCrossEntropy), Some(0.25)),
    ];
    for (loss, bound) in bounds {
        assert_eq!(loss.curvature_bound(&[]), bound, "{loss:?}");
    }
}

#[test]
fn only_residual_losses_have_free_targets() {
    let free: [&dyn Loss<f64>; 8] = [
        &SquaredError,
        &weighted(&[1.0]),
        &huber(1.0),
        &pseudo_huber(1.0),
        &gaussian(&[1.0]),
        &Gaussian::learned(1.0, 0.0).unwrap(),
        &quantile(0.5),
        &at_positions(2, SquaredError),
    ];
    assert!(free.iter().all(|loss| loss.free_target()));
    let fixed: [&dyn Loss<f64>; 10] = [
        &SoftmaxCrossEntropy,
        &KullbackLeibler,
        &BinaryCrossEntropy,
        &Poisson,
        &smoothed(SquaredError, 0.1),
        &classes(&[1.0], SquaredError),
        &positive(&[1.0]),
        &by_class(&[1.0]),
        &smoothed_units(SquaredError, 0.1),
        &at_positions(2, SoftmaxCrossEntropy),
    ];
    assert!(!fixed.iter().any(|loss| loss.free_target()));
}

const TARGET: [f64; 6] = [0.9, -0.3, 0.2, 0.4, 1.2, -0.8];
const PREDICTION: [f64; 6] = [0.1, 0.5, -0.6, 1.3, 0.7, -0.1];
/// Two distributions over three classes.
const SOFT: [f64; 6] = [0.5, 0.25, 0.25, 0.0, 0.125, 0.875];

#[test]
fn residual_losses_that_are_squared_error() {
    let expected = evaluate(&SquaredError, 3, &TARGET, &PREDICTION);
    let same: [(&dyn Loss<f64>, f64); 6] = [
        (&weighted(&[1.0; 3]), 1e-15),
        (&gaussian(&[1.0]), 1e-15),
        (&gaussian(&[1.0; 3]), 1e-15),
        // No residual exceeds 1.
        (&huber(1.0), 1e-15),
        (&huber(1e300), 1e-15),
        (&pseudo_huber(1e9), 1e-15),
    ];
    for (loss, tolerance) in same {
        let found = evaluate(loss, 3, &TARGET, &PREDICTION);
        assert_close(&format!("{loss:?}"), &found, &expected, tolerance);
    }
}

/// Columns on both sides of every change of path, each pair of gradients set, added to or skipped, and
/// one example that is not finite: the values are the same bits, and no other example's.
#[test]
fn squared_errors_are_the_same_whatever_is_wanted() {
    fn write(kind: usize, buffer: &mut [f64]) -> Write<'_, f64> {
        match kind {
            0 => Write::Skip,
            1 => Write::Set(buffer),
            _ => Write::Add(buffer),
        }
    }
    let same = |a: f64, b: f64| a == b || a.is_nan() && b.is_nan();
    for dim in [1, 7, 15, 16, 17, 31, 33, 63, 64, 65, 1000, 1025] {
        for last in [0.5, f64::NAN, f64::INFINITY] {
            let n = 3;
            let wave = |k: usize| (0..dim * n).map(move |i| ((i * k) % 101) as f64 / 17.0);
            let (z, mut p): (Vec<_>, Vec<_>) = (wave(37).collect(), wave(53).collect());
            p[dim * n - 1] = last;
            let at = Pair::new(dim, &z, &p);
            let mut expected = None;
            for (first, second) in (0..9).map(|k| (k % 3, k / 3)) {
                let mut values = vec![0.0; n];
                let (mut d_z, mut d_p) = (vec![1.0; dim * n], vec![1.0; dim * n]);
                let (in_z, in_p) = (write(first, &mut d_z), write(second, &mut d_p));
                SquaredError.evaluate(&at, &mut values, in_z, in_p, &mut []);
                for (i, &value) in values.iter().enumerate() {
                    let column = i * dim..(i + 1) * dim;
                    let squares = column.map(|k| (z[k] - p[k]).powi(2));
                    let sum = squares.sum::<f64>() / 2.0;
                    let near = same(value, sum) || (value - sum).abs() <= 1e-12 * sum;
                    assert!(near, "{dim}, {first}, {second}: {value}, not {sum}");
                }
                let bits: Vec<u64> = values.iter().map(|value| value.to_bits()).collect();
                if !last.is_nan() {
                    assert_eq!(*expected.get_or_insert(bits.clone()), bits, "{dim}");
                }
                let start = |kind| if kind == 1 { 0.0 } else { 1.0 };
                for k in 0..dim * n {
                    let (d, e) = (z[k] - p[k], p[k] - z[k]);
                    let (d, e) = (
                        if first > 0 { d } else { 0.0 },
                        if second > 0 { e } else { 0.0 },
                    );
                    assert!(same(d_z[k], start(first) + d), "{dim}, {first}: {k}");
                    assert!(same(d_p[k], start(second) + e), "{dim}, {second}: {k}");
                }
            }
        }
    }
}

/// ½ r² at small residuals and δ |r| − δ² at large ones, to the last digits.
#[test]
fn pseudo_huber_neither_cancels_nor_overflows() {
    for (delta, r) in [(1.0, 1e-9), (2.5, 1e-9), (1.0, 1e-100), (1e100, 1.0)] {
        let found = value(&pseudo_huber(delta), &[r], &[0.0]) / (0.5 * r * r);
        assert!(
            (found - 1.0).abs() < 1e-14,
            "δ = {delta}, r = {r}: {found} of ½ r²"
        );
    }
    for (delta, r) in [(1.0_f64, 1e300_f64), (1e-5, -1e300), (1e-50, 1e200)] {
        let (value, dz, _) = evaluate(&pseudo_huber(delta), 1, &[r], &[0.0]);
        let found = value[0] / (delta * r.abs());
        assert!(
            (found - 1.0).abs() < 1e-14,
            "δ = {delta}, r = {r}: {found} of δ |r|"
        );
        assert!((dz[0] / (delta * r.signum()) - 1.0).abs() < 1e-14, "{dz:?}");
    }
}

/// Unit by unit it is the cross entropy of two classes with logits (x, 0).
#[test]
fn binary_cross_entropy_is_that_of_two_classes() {
    for x in [-700.0, -30.0, -1.5, 0.0, 0.3, 2.0, 40.0, 700.0] {
        for y in [0.0, 0.3, 1.0] {
            let (found, dz, dp) = evaluate(&BinaryCrossEntropy, 1, &[y], &[x]);
            let (expected, by_class, in_logits) =
                evaluate(&SoftmaxCrossEntropy, 2, &[y, 1.0 - y], &[x, 0.0]);
            let found = (found, dz, dp);
            let expected = (
                expected,
                vec![by_class[0] - by_class[1]],
                vec![in_logits[0]],
            );
            assert_close(&format!("x = {x}, y = {y}"), &found, &expected, 1e-12);
        }
    }
}

#[test]
fn binary_cross_entropy_keeps_the_digits_of_small_losses() {
    for (y, x) in [(1.0, 40.0), (0.0, -40.0), (1.0, 700.0), (0.0, -700.0)] {
        let (value, _, dp) = evaluate(&BinaryCrossEntropy, 1, &[y], &[x]);
        let expected = (-x.abs()).exp();
        assert!((value[0] / expected - 1.0).abs() < 1e-15, "{value:?}");
        assert!((dp[0].abs() / expected - 1.0).abs() < 1e-15, "{dp:?}");
    }
}

#[test]
fn divergence_is_cross_entropy_less_entropy() {
    let found = evaluate(&KullbackLeibler, 3, &SOFT, &PREDICTION);
    let (mut values, mut dz, dp) = evaluate(&SoftmaxCrossEntropy, 3, &SOFT, &PREDICTION);
    for (value, y) in values.iter_mut().zip(SOFT.chunks_exact(3)) {
        let entropy: f64 = y.iter().filter(|y| **y > 0.0).map(|y| -y * y.ln()).sum();
        *value -= entropy;
    }
    assert_eq!(found.1[3], f64::NEG_INFINITY, "at a probability of 0");
    for (d, y) in dz.iter_mut().zip(SOFT) {
        *d += y.ln() + 1.0;
    }
    assert_eq!(found.2, dp);
    let finite = |mut dz: Vec<f64>| {
        dz.remove(3);
        dz
    };
    let found = (found.0, finite(found.1), found.2);
    assert_close("KL", &found, &(values, finite(dz), dp), 1e-15);
    // Of a softmax from itself, whatever the common shift.
    let y = [0.1, 0.2, 0.7];
    let logits = y.map(|y: f64| y.ln() + 5.0);
    assert!(value(&KullbackLeibler, &y, &logits).abs() < 1e-15);
    // A class that the target excludes may have any logit.
    assert_eq!(value(&KullbackLeibler, &[0.0, 1.0], &[-1e300, 3.0]), 0.0);
}

/// Between distributions that are almost equal, the divergence is not negative, and has the digits that
/// its arguments determine: a logarithm with an error of ε changes it by ε Σ y |ln y − ln p|.
fn a_small_divergence_keeps_its_sign<T: Tested>() {
    let unit = T::default_epsilon().as_f64();
    // The expected value is computed in f64, too.
    let digits = if T::ROUNDING < 1e-10 { 30.0 } else { 10.0 };
    let mut random = generator(3);
    for near in [1e-9, 1e-7, 1e-5, 1e-3, 1e-2, 0.1, 0.4, 1.0, 5.0] {
        for dim in [2, 3, 10, 100] {
            for _ in 0..20 {
                let x: Vec<T> = (0..dim)
                    .map(|_| T::of(random.random_range(-3.0..3.0)))
                    .collect();
                let exponentials: Vec<f64> = x
                    .iter()
                    .map(|x| (x.as_f64() + near * random.random_range(-1.0..1.0)).exp())
                    .collect();
                let total: f64 = exponentials.iter().sum();
                // Multiples of the unit, so that T holds them and their sum is exactly 1.
                let mut parts: Vec<f64> = exponentials
                    .iter()
                    .map(|e| (e / total / unit).round())
                    .collect();
                let top = (0..dim)
                    .max_by(|&i, &j| parts[i].total_cmp(&parts[j]))
                    .unwrap();
                parts[top] += 1.0 / unit - parts.iter().sum::<f64>();
                let y: Vec<T> = parts.iter().map(|part| T::of(part * unit)).collect();
                let (mut values, mut work) = ([T::zero()], vec![T::zero(); dim]);
                let at = Pair::new(dim, &y, &x);
                KullbackLeibler.evaluate(&at, &mut values, Write::Skip, Write::Skip, &mut work);
                let found = values[0].as_f64();
                assert!(found >= 0.0, "{near:e}, {dim}: {found:e}");
                let total: f64 = x.iter().map(|x| x.as_f64().exp()).sum();
                let terms = x.iter().zip(&y).map(|(x, y)| {
                    let (y, p) = (y.as_f64(), x.as_f64().exp() / total);
                    let q = (y / p).ln();
                    // y q − y + p, by its series where its terms cancel.
                    let power = |k: i32| (-q).powi(k) / (1..=k).map(f64::from).product::<f64>();
                    let term = match q.abs() < 0.5 {
                        true => y * (2..20).map(power).sum::<f64>(),
                        false => y * q - y + p,
                    };
                    (term, y * q.abs())
                });
                let [exact, slope] = terms.fold([0.0; 2], |[a, b], (c, d)| [a + c, b + d]);
                let error = (found - exact).abs();
                let allowed = digits * unit * (slope + exact + unit);
                assert!(
                    error <= allowed,
                    "{near:e}, {dim}: {found:e}, not {exact:e}"
                );
            }
        }
    }
}

#[test]
fn wrappers_that_change_nothing_have_the_same_bits() {
    fn unchanged(inner: impl Loss<f64> + Copy) {
        let expected = evaluate(&inner, 3, &SOFT, &PREDICTION);
        let smooth = smoothed(inner, 0.0);
        assert_eq!(evaluate(&smooth, 3, &SOFT, &PREDICTION), expected);
        let weighted = classes(&[1.0; 3], inner);
        let (values, dz, dp) = evaluate(&weighted, 3, &SOFT, &PREDICTION);
        assert_eq!((&values, &dp), (&expected.0, &expected.2));
        // The product rule adds L.
        for (k, d) in dz.iter().enumerate() {
            assert_eq!(*d, expected.1[k] + values[k / 3]);
        }
    }
    unchanged(SoftmaxCrossEntropy);
    unchanged(KullbackLeibler);
}

/// Two examples of three positions are six columns of the inner loss, in the same bits, and an example's
/// value is the sum of three. With parameters, all positions share them.
#[test]
fn positions_are_columns_of_the_inner_loss() {
    fn check(loss: impl Loss<f64> + Clone, target: &[f64], phi: &[f64]) {
        let prediction: Vec<f64> = (0..12).map(|k| f64::from(k * 7 % 12) / 4.0 - 1.0).collect();
        let own = at_positions(3, loss.clone());
        let (own, loss): (&dyn Loss<f64>, &dyn Loss<f64>) = (&own, &loss);
        let (whole, parts) = (
            Pair::new(6, target, &prediction),
            Pair::new(2, target, &prediction),
        );
        let (whole, parts) = (whole.with_parameters(phi), parts.with_parameters(phi));
        let (values, dz, dp) = evaluate_at(own, &whole);
        let (terms, expected_dz, expected_dp) = evaluate_at(loss, &parts);
        assert_eq!((dz, dp), (expected_dz, expected_dp));
        let sums: Vec<f64> = terms.chunks(3).map(|own| own.iter().sum()).collect();
        assert_close(
            "sums",
            &(values, vec![], vec![]),
            &(sums, vec![], vec![]),
            1e-15,
        );
        let product = |loss: &dyn Loss<f64>, at: &Pair<'_, f64>| {
            let mut out = [[0.0; 12]; 2];
            let [z, p] = &mut out;
            let mut work = vec![f64::NAN; loss.scratch(at.dim, at.examples())];
            let v = Some(&prediction[..]);
            loss.curvature(
                at,
                v,
                v,
                Write::Set(&mut z[..]),
                Write::Set(&mut p[..]),
                &mut work,
            );
            out
        };
        assert_eq!(product(own, &whole), product(loss, &parts));
        let means = |loss: &dyn Loss<f64>, dim| {
            let mut means = prediction.clone();
            loss.mean(dim, &mut means);
            means
        };
        assert_eq!(means(own, 6), means(loss, 2));
        assert_eq!(own.parameters(6), loss.parameters(2));
        if !phi.is_empty() {
            let found = phi_gradient(own, &whole, &[2.0, 3.0]);
            let expected = phi_gradient(loss, &parts, &[2.0, 2.0, 2.0, 3.0, 3.0, 3.0]);
            assert_eq!(found, expected);
        }
        assert_eq!(own.takes_logits(), loss.takes_logits());
        assert_eq!(own.is_squared_error(), loss.is_squared_error());
        assert_eq!(own.is_sum_over_units(), loss.is_sum_over_units());
    }
    let soft: Vec<f64> = (0..6)
        .flat_map(|k| [0.125 * f64::from(k), 1.0 - 0.125 * f64::from(k)])
        .collect();
    check(SoftmaxCrossEntropy, &soft, &[]);
    check(SquaredError, &soft, &[]);
    check(Gaussian::learned(1.0, 0.0).unwrap(), &soft, &[0.5, -0.25]);
}

#[test]
fn weights_of_one_change_nothing() {
    let plain = evaluate(&SoftmaxCrossEntropy, 3, &SOFT, &PREDICTION);
    assert_eq!(evaluate(&by_class(&[1.0; 3]), 3, &SOFT, &PREDICTION), plain);
    let plain = evaluate(&BinaryCrossEntropy, 3, &SOFT, &PREDICTION);
    let weighted = evaluate(&positive(&[1.0; 3]), 3, &SOFT, &PREDICTION);
    // ∂L/∂y is a difference of two logarithms, not −x.
    assert_close("positive weights", &weighted, &plain, 1e-15);
    let smooth = smoothed_units(BinaryCrossEntropy, 0.0);
    assert_eq!(evaluate(&smooth, 3, &SOFT, &PREDICTION), plain);
}

/// Of one-hot targets the weight of the class is that of the example.
#[test]
fn weights_of_classes_and_of_examples_agree_on_labels() {
    let weights = [0.5, 2.0, 3.0];
    let labels = [0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
    let (values, _, dp) = evaluate(&by_class(&weights), 3, &labels, &PREDICTION);
    let (expected, _, expected_dp) = evaluate(
        &classes(&weights, SoftmaxCrossEntropy),
        3,
        &labels,
        &PREDICTION,
    );
    let expected = (expected, vec![], expected_dp);
    assert_close("labels", &(values, vec![], dp), &expected, 1e-15);
}

/// More units than one block, and several columns: unit by unit it is a loss of one unit.
#[test]
fn positive_weights_of_many_units() {
    for dim in [1, 255, 256, 257, 1000] {
        let n = 3;
        let wave = |k: usize| (0..dim * n).map(move |i| ((i * k) % 101) as f64 / 101.0);
        let (y, x): (Vec<_>, Vec<_>) = (
            wave(37).collect(),
            wave(53).map(|x| 9.0 * x - 4.0).collect(),
        );
        let weights: Vec<f64> = wave(17).take(dim).map(|w| 5.0 * w).collect();
        let (values, dz, dp) = evaluate(&positive(&weights), dim, &y, &x);
        let mut sums = vec![0.0; n];
        for k in 0..dim * n {
            let unit = positive(&weights[k % dim..=k % dim]);
            let (value, z, p) = evaluate(&unit, 1, &y[k..=k], &x[k..=k]);
            sums[k / dim] += value[0];
            assert_eq!((dz[k], dp[k]), (z[0], p[0]), "{dim}: {k}");
        }
        for (value, sum) in values.iter().zip(&sums) {
            assert!((value - sum).abs() <= 1e-13 * sum, "{dim}: {value}, {sum}");
        }
    }
}

/// The level as a share of the targets below the best constant prediction.
#[test]
fn the_best_constant_is_the_quantile() {
    let targets: Vec<f64> = (0..101).map(|i| f64::from(i * 37 % 101)).collect();
    for level in [0.1, 0.25, 0.5, 0.9] {
        let total = |c: f64| -> f64 {
            let of = targets.iter().map(|&z| value(&quantile(level), &[z], &[c]));
            of.sum()
        };
        let best = (0..101)
            .min_by(|&a, &b| total(f64::from(a)).total_cmp(&total(f64::from(b))))
            .unwrap();
        assert!((f64::from(best) - 101.0 * level).abs() <= 1.0, "{best}");
    }
}

/// (L, ∂L/∂ẑ) of one example with two classes.
/// Scale, class, −ln p of the class and p of the first class, of 40 logits: by mpmath 1.3 in 60 digits.
const SURPRISES: [(f64, usize, f64, f64); 8] = [
    (0.0009765625, 3, 3.6872944171511186, 0.024507433674885545),
    (0.0009765625, 20, 3.6970600421511186, 0.024507433674885545),
    (0.375, 3, 7.219051505874903, 1.9137107246910145e-07),
    (0.375, 20, 10.969051505874903, 1.9137107246910145e-07),
    (4.0, 3, 64.69315343728792, 4.855187851205774e-67),
    (4.0, 20, 104.69315343728792, 4.855187851205774e-67),
    (32.0, 3, 512.6931471805599, 0.0),
    (32.0, 20, 832.6931471805599, 0.0),
];

#[test]
fn cross_entropy_agrees_with_the_reference() {
    fn check<T: Scalar>(limit: f64) {
        for (scale, class, surprise, first) in SURPRISES {
            let logits: [T; 40] =
                std::array::from_fn(|j| T::of((((j * j * 7) % 41) as f64 - 20.0) * scale));
            let mut target = [T::zero(); 40];
            target[class] = T::one();
            let (mut value, mut work) = ([T::zero()], [T::zero(); 40]);
            let (mut dz, mut dp) = ([T::zero(); 40], [T::zero(); 40]);
            let (set_z, set_p) = (Write::Set(&mut dz[..]), Write::Set(&mut dp[..]));
            let at = Pair::new(40, &target, &logits);
            SoftmaxCrossEntropy.evaluate(&at, &mut value, set_z, set_p, &mut work);
            let epsilon = T::default_epsilon().as_f64();
            let least = if epsilon < 1e-10 {
                f64::MIN_POSITIVE
            } else {
                f64::from(f32::MIN_POSITIVE)
            };
            for (found, truth) in [(value[0], surprise), (dz[class], surprise), (dp[0], first)] {
                let error = (found.as_f64() - truth).abs() / (epsilon * truth.max(least));
                assert!(
                    error <= limit,
                    "{scale} {class}: {found}, not {truth}: {error} epsilon"
                );
            }
        }
    }
    check::<f64>(4.0);
    check::<f32>(4.0);
}

fn two_classes(target: [f64; 2], prediction: [f64; 2]) -> (f64, Vec<f64>) {
    let (value, _, dp) = evaluate(&SoftmaxCrossEntropy, 2, &target, &prediction);
    (value[0], dp)
}

#[test]
fn no_spread_of_logits_overflows() {
    for prediction in [[0.0, 2000.0], [-2000.0, 0.0], [1e300, 1.5e300]] {
        let spread = prediction[1] - prediction[0];
        assert_eq!(two_classes([0.0, 1.0], prediction), (0.0, vec![0.0, 0.0]));
        assert_eq!(
            two_classes([1.0, 0.0], prediction),
            (spread, vec![-1.0, 1.0])
        );
        let swapped = [prediction[1], prediction[0]];
        assert_eq!(two_classes([1.0, 0.0], swapped), (0.0, vec![0.0, 0.0]));
        assert_eq!(two_classes([0.0, 1.0], swapped), (spread, vec![1.0, -1.0]));
    }
}

#[test]
fn extreme_logits_give_finite_numbers() {
    let losses: [&dyn Loss<f64>; 8] = [
        &positive(&[2.0, 0.5]),
        &by_class(&[2.0, 0.0]),
        &smoothed_units(BinaryCrossEntropy, 0.1),
        &SoftmaxCrossEntropy,
        &KullbackLeibler,
        &BinaryCrossEntropy,
        &smoothed(SoftmaxCrossEntropy, 0.1),
        &classes(&[1.0, 2.0], SoftmaxCrossEntropy),
    ];
    for loss in losses {
        for logits in [
            [1e300, -1e300],
            [-1e300, 1e300],
            [1e300, 1e300],
            [-750.0, 750.0],
        ] {
            let (values, dz, dp) = evaluate(loss, 2, &[0.25, 0.75], &logits);
            let mut all = values.iter().chain(&dz).chain(&dp);
            assert!(all.all(|x| x.is_finite()), "{loss:?} {logits:?}");
        }
    }
}

/// Every error has its numbers in its message.
#[test]
fn errors() {
    fn error<T>(result: Result<T, Error>) -> Error {
        result.err().expect("an error")
    }
    let check = |loss: &dyn Loss<f64>, dim, target: &[f64]| error(loss.check_target(dim, target));
    let nan = f64::NAN;
    let cases: Vec<(Error, &[&str])> = vec![
        (
            error(WeightedSquaredError::new(vec![1.0, -0.5])),
            &["weights", "-0.5", "not negative"],
        ),
        (
            error(WeightedSquaredError::new(vec![f64::INFINITY])),
            &["weights", "inf", "finite"],
        ),
        (
            error(WeightedSquaredError::<f64>::new(vec![])),
            &["weights", "length 1", "found 0"],
        ),
        (
            check(&weighted(&[1.0, 2.0]), 3, &TARGET),
            &["weights", "length 3", "found 2"],
        ),
        (error(Huber::new(0.0)), &["delta", "is 0,", "above 0"]),
        (error(Huber::new(nan)), &["delta", "NaN", "above 0"]),
        (error(PseudoHuber::new(-2.0)), &["delta", "-2", "above 0"]),
        (
            error(PseudoHuber::new(f64::INFINITY)),
            &["delta", "inf", "finite"],
        ),
        (
            check(&BinaryCrossEntropy, 2, &[0.0, 1.0, 0.5, 1.25]),
            &[
                "BinaryCrossEntropy",
                "column 1",
                "unit 1",
                "1.25",
                "from 0 to 1",
            ],
        ),
        (
            check(&BinaryCrossEntropy, 2, &[-0.5, 1.0]),
            &["column 0", "unit 0", "-0.5"],
        ),
        (check(&BinaryCrossEntropy, 1, &[nan]), &["NaN"]),
        (
            check(&KullbackLeibler, 2, &[0.5, 0.5, 0.5, 0.25]),
            &["KullbackLeibler", "column 1", "0.75"],
        ),
        (
            check(&KullbackLeibler, 2, &[1.5, -0.5]),
            &["column 0", "class 1", "-0.5"],
        ),
        (
            check(&Poisson, 2, &[0.0, 1.5, -1.0, 2.0]),
            &["Poisson", "column 1", "unit 0", "-1", "at least 0"],
        ),
        (check(&Poisson, 1, &[f64::INFINITY]), &["inf", "finite"]),
        (
            error(LabelSmoothing::new(SoftmaxCrossEntropy, 1.0)),
            &["LabelSmoothing::epsilon", "is 1,", "at least 0 and below 1"],
        ),
        (
            error(LabelSmoothing::new(SoftmaxCrossEntropy, -0.1)),
            &["LabelSmoothing::epsilon", "-0.1", "at least 0 and below 1"],
        ),
        (
            error(SumOverPositions::new(0, SoftmaxCrossEntropy)),
            &["the number of positions of a loss", "0"],
        ),
        (
            check(&at_positions(2, SoftmaxCrossEntropy), 3, &SOFT),
            &[
                "SumOverPositions::positions",
                "is 2",
                "a divisor of the 3 outputs",
            ],
        ),
        (
            check(&at_positions(8, SquaredError), 3, &SOFT),
            &[
                "SumOverPositions::positions",
                "is 8",
                "a divisor of the 3 outputs",
            ],
        ),
        (
            check(
                &at_positions(2, SoftmaxCrossEntropy),
                4,
                &[1.0, 0.0, 0.5, 0.5, 0.25, 0.75, 0.5, 0.25],
            ),
            &["SoftmaxCrossEntropy", "column 1", "at position 1", "0.75"],
        ),
        // What the inner loss accepts may still be no distribution.
        (
            check(&smoothed(SquaredError, 0.1), 2, &[0.5, 0.25]),
            &["LabelSmoothing", "column 0", "0.75"],
        ),
        (
            check(&smoothed(BinaryCrossEntropy, 0.1), 1, &[2.0]),
            &["BinaryCrossEntropy", "unit 0", "2"],
        ),
        (
            error(ClassWeights::new(vec![-1.0], SoftmaxCrossEntropy)),
            &["weights", "-1", "not negative"],
        ),
        (
            error(ClassWeights::<f64, _>::new(vec![], SoftmaxCrossEntropy)),
            &["weights", "found 0"],
        ),
        (
            check(&classes(&[1.0; 2], SoftmaxCrossEntropy), 3, &SOFT),
            &["class weights", "length 3", "found 2"],
        ),
        (
            check(&classes(&[1.0; 2], SquaredError), 2, &[0.5, 0.25]),
            &["ClassWeights", "column 0", "0.75"],
        ),
        (
            check(&classes(&[1.0], BinaryCrossEntropy), 1, &[2.0]),
            &["BinaryCrossEntropy", "unit 0", "2"],
        ),
        (
            error(Gaussian::new(vec![1.0, 0.0])),
            &["precision", "is 0,", "above 0"],
        ),
        (
            error(Gaussian::<f64>::new(vec![])),
            &["precision", "found 0"],
        ),
        (
            check(&gaussian(&[1.0, 2.0]), 3, &TARGET),
            &["precisions", "length 3", "found 2"],
        ),
        (
            error(Gaussian::learned(0.0, 0.1)),
            &["initial_precision", "is 0,", "above 0"],
        ),
        (
            error(Gaussian::learned(1.0, -0.1)),
            &["variance_floor", "-0.1", "not negative"],
        ),
        (
            error(Gaussian::learned_shared(nan, 0.1)),
            &["initial_precision", "NaN"],
        ),
        (
            error(WeightedBinaryCrossEntropy::new(vec![1.0, -2.0])),
            &["WeightedBinaryCrossEntropy::weights", "-2", "not negative"],
        ),
        (
            error(WeightedBinaryCrossEntropy::<f64>::new(vec![])),
            &["weights", "found 0"],
        ),
        (
            check(&positive(&[1.0; 2]), 3, &SOFT),
            &["positive class", "length 3", "found 2"],
        ),
        (
            check(&positive(&[1.0; 2]), 2, &[0.5, 0.0, 0.5, 1.5]),
            &["WeightedBinaryCrossEntropy", "column 1", "unit 1", "1.5"],
        ),
        (
            error(WeightedCrossEntropy::new(vec![nan])),
            &["WeightedCrossEntropy::weights", "NaN", "finite"],
        ),
        (
            error(WeightedCrossEntropy::<f64>::new(vec![])),
            &["weights", "found 0"],
        ),
        (
            check(&by_class(&[1.0; 2]), 3, &SOFT),
            &["class weights", "length 3", "found 2"],
        ),
        (
            check(&by_class(&[1.0; 2]), 2, &[0.5, 0.25]),
            &["WeightedCrossEntropy", "column 0", "0.75"],
        ),
        (
            error(LabelSmoothing::binary(BinaryCrossEntropy, 1.5)),
            &["LabelSmoothing::epsilon", "1.5", "at least 0 and below 1"],
        ),
        // What the inner loss accepts may still be no probability.
        (
            check(&smoothed_units(SquaredError, 0.1), 2, &[0.5, -0.25]),
            &["LabelSmoothing", "unit 1", "-0.25", "from 0 to 1"],
        ),
        (
            error(Quantile::new(0.0)),
            &["Quantile::level", "is 0,", "above 0 and below 1"],
        ),
        (
            error(Quantile::new(1.0)),
            &["Quantile::level", "is 1,", "above 0 and below 1"],
        ),
        (error(Quantile::new(nan)), &["Quantile::level", "NaN"]),
        // 1 in f32.
        (
            error(Loss::<f32>::check_target(&quantile(1.0 - 1e-12), 1, &[])),
            &["Quantile::level", "below 1", "scalar type"],
        ),
    ];
    for (error, texts) in cases {
        let message = error.to_string();
        for text in texts {
            assert!(message.contains(text), "'{text}' is not in '{message}'");
        }
    }
}

#[test]
fn targets_of_the_domain_are_accepted() {
    let accepted: [(&dyn Loss<f64>, usize, &[f64]); 13] = [
        (&weighted(&[0.0, 1.0, 2.0]), 3, &TARGET),
        (&gaussian(&[2.0]), 3, &TARGET),
        (&Gaussian::learned(1.0, 0.0).unwrap(), 3, &TARGET),
        (&BinaryCrossEntropy, 3, &SOFT),
        (&KullbackLeibler, 3, &SOFT),
        (&Poisson, 2, &[0.0, 2.5]),
        (&smoothed(SoftmaxCrossEntropy, 0.1), 3, &SOFT),
        (&classes(&[0.0, 1.0, 2.0], KullbackLeibler), 3, &SOFT),
        (&by_class(&[0.0, 1.0, 2.0]), 3, &SOFT),
        (&positive(&[0.0, 1.0]), 2, &[1.0, 1.0]),
        (&smoothed_units(BinaryCrossEntropy, 0.1), 2, &[1.0, 1.0]),
        (&quantile(0.9), 3, &TARGET),
        (&at_positions(2, SoftmaxCrossEntropy), 6, &SOFT),
    ];
    for (loss, dim, target) in accepted {
        assert_eq!(loss.check_target(dim, target), Ok(()), "{loss:?}");
    }
}

/// Value, ∂L/∂z, ∂L/∂ẑ and the product of the curvature with (0, 1) in ẑ, of one example.
fn everything<T: Scalar>(loss: &dyn Loss<T>, target: &[f64], prediction: &[f64]) -> Vec<f64> {
    let of = |values: &[f64]| -> Vec<T> { values.iter().map(|&v| T::of(v)).collect() };
    let (target, prediction, dim) = (of(target), of(prediction), target.len());
    let at = Pair::new(dim, &target, &prediction);
    let mut work = vec![T::zero(); loss.scratch(dim, 1)];
    let (mut value, ones) = ([T::zero()], vec![T::one(); dim]);
    let mut all = vec![vec![T::zero(); dim]; 3];
    let [dz, dp, product] = &mut all[..] else {
        unreachable!()
    };
    let (set_z, set_p) = (Write::Set(&mut dz[..]), Write::Set(&mut dp[..]));
    loss.evaluate(&at, &mut value, set_z, set_p, &mut work);
    let to = Write::Set(&mut product[..]);
    loss.curvature(&at, None, Some(&ones), Write::Skip, to, &mut work);
    let all = all.iter().flatten().chain(&value);
    all.map(|v| v.as_f64()).collect()
}

/// δ, r and their multiples by powers of two: the value by the square, the gradient by the power,
/// the curvature not at all, all in bits.
#[test]
fn robust_losses_do_not_know_their_unit() {
    fn check<T: Scalar>(powers: &[i32]) {
        for delta in [0.75, 3.0] {
            for r in [0.1, 0.75, 1.0, 2.9, 3.1, 1000.0] {
                let losses = |scale: f64| -> [Box<dyn Loss<T>>; 2] {
                    [
                        Box::new(huber(delta * scale)),
                        Box::new(pseudo_huber(delta * scale)),
                    ]
                };
                let plain = losses(1.0);
                for &power in powers {
                    let scale = 2f64.powi(power);
                    for (loss, plain) in losses(scale).iter().zip(&plain) {
                        let [dz, dp, product, value] =
                            [0, 1, 2, 3].map(|k| everything(&**loss, &[r * scale], &[0.0])[k]);
                        let expected = everything(&**plain, &[r], &[0.0]);
                        let found = [dz / scale, dp / scale, product, value / scale / scale];
                        assert_eq!(found[..], expected[..], "{loss:?}, r = {r} · 2^{power}");
                    }
                }
            }
        }
    }
    check::<f32>(&[-50, -20, 10, 50]);
    check::<f64>(&[-480, -100, 50, 300, 500]);
}

/// Residuals so far out of scale that r/δ is no number.
#[test]
fn robust_losses_are_linear_however_far() {
    fn check<T: Scalar>(pairs: &[(f64, f64)], tolerance: f64) {
        for &(delta, r) in pairs {
            let (delta, r) = (T::of(delta).as_f64(), T::of(r).as_f64());
            let losses: [Box<dyn Loss<T>>; 2] =
                [Box::new(huber(delta)), Box::new(pseudo_huber(delta))];
            for loss in losses {
                for sign in [1.0, -1.0] {
                    let found = everything(&*loss, &[sign * r], &[0.0]);
                    let near = |found: f64, expected: f64| {
                        let error = (found / expected - 1.0).abs();
                        assert!(error <= tolerance, "{loss:?} at {r:e}: {found:e}");
                    };
                    near(found[0], sign * delta);
                    near(found[1], -sign * delta);
                    assert!((0.0..1e-9).contains(&found[2]), "{found:?}");
                    near(found[3], delta * r);
                }
            }
        }
    }
    check::<f64>(
        &[
            (1e-10, 1e300),
            (1e-100, 1e305),
            (1e-300, 1e300),
            (1e-5, 1.7e308),
            (1.0, 1e308),
        ],
        1e-14,
    );
    check::<f32>(
        &[(1e-3, 1e36), (1e-30, 1e37), (1e-10, 3e38), (0.5, 1e38)],
        1e-6,
    );
}

/// Squares of the residual that over- or underflow where weight · r² does not.
#[test]
fn weights_and_precisions_reach_squares_that_do_not_fit() {
    fn check<T: Scalar>(pairs: &[(f64, f64)], tolerance: f64) {
        for &(weight, r) in pairs {
            let expected = 0.5 * (weight.sqrt() * r).powi(2);
            let losses: [(Box<dyn Loss<T>>, f64); 2] = [
                (
                    Box::new(WeightedSquaredError::new(vec![T::of(weight)]).unwrap()),
                    expected,
                ),
                (
                    Box::new(Gaussian::new(vec![T::of(weight)]).unwrap()),
                    expected - 0.5 * weight.ln(),
                ),
            ];
            for (loss, expected) in losses {
                let found = everything(&*loss, &[0.0], &[r])[3];
                let error = (found / expected - 1.0).abs();
                assert!(
                    error <= tolerance,
                    "{loss:?} at {r:e}: {found:e}, not {expected:e}"
                );
            }
        }
    }
    let wide = [
        (1e-200, 1e200),
        (1e-300, 1e290),
        (1e300, 1e-155),
        (1e-10, 1e158),
    ];
    check::<f64>(&wide, 1e-13);
    check::<f32>(
        &[(1e-20, 1e25), (1e-37, 1e37), (1e37, 1e-19), (1e-10, 1e23)],
        1e-5,
    );
    // φ's gradient ½ (π (r² + ε) − 1).
    for (precision, r) in [(1e-200, 1e200), (1e-300, 1e290)] {
        let loss = Gaussian::learned(precision, 0.5).unwrap();
        let mut phi = [0.0];
        loss.initialize(1, &mut phi);
        let (target, prediction) = ([r], [0.0]);
        let at = Pair::new(1, &target, &prediction).with_parameters(&phi);
        let found = phi_gradient(&loss, &at, &[1.0])[0];
        let expected = 0.5 * (precision * r) * r;
        assert!((found / expected - 1.0).abs() < 1e-12, "{found:e}");
    }
}

/// Every loss in `f32` is what it is in `f64`, over 60 decades of both arguments, wherever that is a
/// number of `f32`.
#[test]
fn losses_in_f32_are_those_in_f64() {
    fn losses<T: Scalar>() -> Vec<(Box<dyn Loss<T>>, bool)> {
        let precision = || vec![T::of(1e-8)];
        vec![
            (Box::new(SquaredError), true),
            (
                Box::new(WeightedSquaredError::new(vec![T::of(1e-6); 2]).unwrap()),
                true,
            ),
            (Box::new(huber(1e-3)), true),
            (Box::new(huber(1e10)), true),
            (Box::new(pseudo_huber(1e-3)), true),
            (Box::new(pseudo_huber(1e10)), true),
            (Box::new(Gaussian::new(precision()).unwrap()), true),
            (Box::new(Poisson), true),
            (Box::new(BinaryCrossEntropy), false),
            (Box::new(SoftmaxCrossEntropy), false),
            (Box::new(KullbackLeibler), false),
            (Box::new(smoothed(SoftmaxCrossEntropy, 0.1)), false),
            (
                Box::new(WeightedCrossEntropy::new(vec![T::of(0.25), T::of(0.5)]).unwrap()),
                false,
            ),
            (
                Box::new(WeightedBinaryCrossEntropy::new(vec![T::of(0.25), T::of(0.5)]).unwrap()),
                false,
            ),
            (Box::new(quantile(0.3)), true),
        ]
    }
    let mut sizes = vec![0.0, 1.0, -1.0, 30.0, -30.0, 88.0, -88.0];
    sizes.extend(
        (-30..=30)
            .step_by(3)
            .flat_map(|d| [1.7, -0.9].map(|s| s * 10f64.powi(d))),
    );
    let sizes: Vec<f64> = sizes.into_iter().map(|s| f64::from(s as f32)).collect();
    for ((wide, any), (narrow, _)) in losses::<f64>().into_iter().zip(losses::<f32>()) {
        for &p in &sizes {
            for &z in &sizes {
                let poisson = format!("{wide:?}") == "Poisson";
                let targets = match any {
                    true if poisson => vec![[z.abs(), 1.0]],
                    true => vec![[z, 0.5 * z]],
                    // Distributions, and what they say.
                    false => vec![[1.0, 0.0], [0.25, 0.75]],
                };
                for target in targets {
                    let prediction = [p, if any { p } else { z }];
                    let expected = everything(&*wide, &target, &prediction);
                    let found = everything(&*narrow, &target, &prediction);
                    // Terms that may cancel.
                    let logits = prediction[0].abs().max(prediction[1].abs()).max(1.0);
                    let size = match any {
                        true if poisson => target[0] * p.abs() + p.min(700.0).exp() + target[0],
                        true => 20.0,
                        false => logits,
                    };
                    for (k, (&found, &expected)) in found.iter().zip(&expected).enumerate() {
                        let least = f64::from(f32::MIN_POSITIVE);
                        let cancels = k == 6 || poisson || !any;
                        let allowed =
                            1e-5 * expected.abs() + if cancels { 1e-5 * size } else { 0.0 } + least;
                        if expected.abs() < 1e38 && size < 1e38 {
                            let error = (found - expected).abs();
                            assert!(
                                error <= allowed,
                                "{narrow:?}: {target:?}, {prediction:?}, {k}: {found:e}, not {expected:e}"
                            );
                        }
                    }
                }
            }
        }
    }
}

/// Losses of the uniform distribution, and of logits alike, over many classes.
#[test]
fn many_classes_in_f32() {
    for dim in [1000, 50_000, 1_000_000] {
        let uniform = vec![1.0 / dim as f32; dim];
        let logits = vec![0.3_f32; dim];
        let value = |loss: &dyn Loss<f32>| {
            assert_eq!(loss.check_target(dim, &uniform), Ok(()), "{loss:?}, {dim}");
            let at = Pair::new(dim, &uniform, &logits);
            let (mut value, mut work) = ([0.0], vec![0.0; loss.scratch(dim, 1)]);
            loss.evaluate(&at, &mut value, Write::Skip, Write::Skip, &mut work);
            f64::from(value[0])
        };
        let entropy = (dim as f64).ln();
        let close = |found: f64, expected: f64| {
            assert!(
                (found - expected).abs() < 1e-6 * entropy,
                "{dim}: {found}, not {expected}"
            );
        };
        close(value(&SoftmaxCrossEntropy), entropy);
        close(value(&KullbackLeibler), 0.0);
        let weighted = ClassWeights::new(vec![0.7; dim], SoftmaxCrossEntropy).unwrap();
        close(value(&weighted), 0.7 * entropy);
    }
    // What is no distribution is refused as before.
    let dim = 50_000;
    let heavy = vec![1.001 / dim as f32; dim];
    assert!(SoftmaxCrossEntropy.check_target(dim, &heavy).is_err());
}

/// ½ r² may fit where r² does not.
#[test]
fn a_squared_error_overflows_only_where_it_must() {
    fn check<T: Scalar>() {
        let largest = T::max_value().unwrap();
        let [zero, one, half] = [0.0, 1.0, 0.5].map(T::of);
        for dim in [1, 3, 20, 64, 1500] {
            // r² = 1.5 times the largest number; then 3 times.
            for (factor, fits) in [(1.5, true), (3.0, false)] {
                let r = largest.sqrt() * T::of(f64::sqrt(factor));
                let (mut z, estimate) = (vec![zero; 2 * dim], vec![zero; 2 * dim]);
                (z[0], z[dim]) = (one, r);
                let at = Pair::new(dim, &z, &estimate);
                for set in [0, 1, 2] {
                    let (mut values, mut buffer) = ([zero; 2], vec![zero; 2 * dim]);
                    let mut own = Some(&mut buffer[..]);
                    let [in_z, in_estimate] = [1, 2].map(|k| Write::set(own.take_if(|_| set == k)));
                    SquaredError.evaluate(&at, &mut values, in_z, in_estimate, &mut []);
                    assert_eq!(values[0], half);
                    assert_eq!(values[1].is_finite(), fits, "{dim}, {factor}, {set}");
                    let ratio = values[1].as_f64() / largest.as_f64();
                    assert!(!fits || (ratio - 0.75).abs() < 1e-5, "{ratio}");
                }
            }
        }
    }
    check::<f64>();
    check::<f32>();
}

/// The loss of a residual that itself does not fit the scalar.
#[test]
fn losses_of_residuals_that_do_not_fit() {
    fn check<T: Scalar>() {
        let top = T::max_value().unwrap() * T::of(0.6);
        let [small, half, zero] = [1.0 / 1024.0, 0.5, 0.0].map(T::of);
        let weight = T::of(0.25) / top;
        let delta = small.as_f64();
        // L and ∂L/∂z of r = 2 top.
        let cases: [(Box<dyn Loss<T>>, T, T); 5] = [
            (
                Box::new(Huber::new(delta).unwrap()),
                (small + small) * top,
                small,
            ),
            (
                Box::new(PseudoHuber::new(delta).unwrap()),
                (small + small) * top,
                small,
            ),
            (Box::new(Quantile::new(0.5).unwrap()), top, half),
            (
                Box::new(WeightedSquaredError::new(vec![weight]).unwrap()),
                half * top,
                half,
            ),
            (
                Box::new(Gaussian::new(vec![weight]).unwrap()),
                half * top,
                half,
            ),
        ];
        for (loss, expected, slope) in &cases {
            for sign in [T::one(), -T::one()] {
                let (z, estimate) = ([sign * top], [-sign * top]);
                let (mut value, mut d) = ([zero], [[zero]; 2]);
                let [in_z, in_estimate] = d.each_mut().map(|d| Write::Set(&mut d[..]));
                let at = Pair::new(1, &z, &estimate);
                loss.evaluate(&at, &mut value, in_z, in_estimate, &mut []);
                for (found, expected) in [
                    (value[0], *expected),
                    (d[0][0], sign * *slope),
                    (d[1][0], -sign * *slope),
                ] {
                    let error = (found / expected - T::one()).abs();
                    assert!(error.as_f64() < 1e-4, "{loss:?}: {found}, not {expected}");
                }
            }
        }
        let learned = Gaussian::learned(weight, zero).unwrap();
        let (mut d, mut work) = ([zero], [zero; 3]);
        let phi = [weight.ln()];
        let (z, estimate) = ([top], [-top]);
        let mut at = Pair::new(1, &z, &estimate);
        at.parameters = &phi;
        learned.parameter_gradient(&at, &[T::one()], Write::Set(&mut d), &mut work);
        let error = (d[0] / (half * top) - T::one()).abs();
        assert!(error.as_f64() < 1e-4, "{}", d[0]);
    }
    check::<f64>();
    check::<f32>();
}
