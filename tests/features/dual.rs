//! The generic defaults of `Scalar`: a number type without its own kernels gives the values of
//! `f64`, and dual numbers give its derivatives.

use approx::relative_eq;
use layerwise::kernel::Write;
use layerwise::layer::{
    Activation, Attention, AveragePool2d, Context, Conv2d, ConvTranspose2d, Dense, Layer,
    LayerNorm, MaxPool2d, Point, PositionBias, PositionWise, Residual, RmsNorm, Softmax, Window2d,
};
use layerwise::loss::{
    BinaryCrossEntropy, Huber, Loss, Pair, Poisson, Quantile, SoftmaxCrossEntropy, SquaredError,
    WeightedCrossEntropy,
};
use num_dual::Dual64;

const ACTIVATIONS: [Activation; 8] = [
    Activation::Identity,
    Activation::Tanh,
    Activation::Sigmoid,
    Activation::Relu,
    Activation::LeakyRelu { slope: 0.1 },
    Activation::Gelu,
    Activation::Silu,
    Activation::Softplus,
];

fn near(found: f64, expected: f64, what: &str) {
    assert!(
        relative_eq!(found, expected, epsilon = 1e-12, max_relative = 1e-12),
        "{what}: {found}, not {expected}"
    );
}

/// x with the derivative 1 in the direction v.
fn seeded(x: &[f64], v: &[f64]) -> Vec<Dual64> {
    x.iter().zip(v).map(|(&x, &v)| Dual64::new(x, v)).collect()
}

/// Deterministic numbers of order 1, different for every array.
fn numbers(count: usize, start: f64) -> Vec<f64> {
    (0..count).map(|i| (start + 1.7 * i as f64).sin()).collect()
}

/// f and f′ of the generic formulas agree with the `f64` kernels, and f′ agrees with the derivative
/// of f by dual numbers, at saturated ends and at 0 too.
#[test]
fn activations_of_dual_numbers() {
    for activation in ACTIVATIONS {
        for step in -800..=800 {
            let x = 0.05 * f64::from(step) + 0.01;
            let what = format!("{activation:?} at {x}");
            let (mut value, mut slope) = ([x], [0.0]);
            activation.evaluate(&mut value, Some(&mut slope));
            let mut dual = [Dual64::new(x, 1.0)];
            let mut dual_slope = [Dual64::from_re(0.0)];
            activation.evaluate(&mut dual, Some(&mut dual_slope));
            near(dual[0].re, value[0], &what);
            near(dual[0].eps, slope[0], &what);
            near(dual_slope[0].re, slope[0], &what);
            let mut alone = [Dual64::new(x, 1.0)];
            activation.evaluate(&mut alone, None);
            assert_eq!((alone[0].re, alone[0].eps), (dual[0].re, dual[0].eps));
        }
        // Near 0, to a few ulp: tanh x ≈ x has as many digits as x.
        for x in (1..=12).flat_map(|k| [1.0, -1.0].map(|sign| sign * 10f64.powi(-k) / 3.0)) {
            let (mut value, mut dual) = ([x], [Dual64::new(x, 1.0)]);
            activation.evaluate(&mut value, None);
            activation.evaluate(&mut dual, None);
            let off = (dual[0].re - value[0]).abs();
            assert!(
                off <= 1e-15 * value[0].abs(),
                "{activation:?} at {x}: {off}"
            );
        }
    }
}

/// A dense layer on dual numbers gives the values of the `f64` layer, and its J v in input and
/// parameters.
#[test]
fn dense_layers_of_dual_numbers() {
    const N: usize = 3;
    for activation in ACTIVATIONS {
        let layer = Dense::new(4, 5, activation).unwrap();
        let (parameters, z) = (numbers(25, 0.3), numbers(4 * N, 1.1));
        let (v_parameters, v_z) = (numbers(25, 2.2), numbers(4 * N, 3.4));
        let context = Context::inference(0, 0);

        let mut output = vec![0.0; 5 * N];
        let mut tape = vec![0.0; layer.scratch(N).tape];
        let kept = Some(&mut tape[..]);
        layer.forward(&context, &parameters, &z, &mut output, kept, &mut []);
        let at = Point::new(context, &parameters, &z, &output, &tape);
        let mut tangent = vec![0.0; 5 * N];
        layer.jvp(&at, Some(&v_z), Some(&v_parameters), &mut tangent, &mut []);

        let mut dual = vec![Dual64::from_re(0.0); 5 * N];
        let (parameters, z) = (seeded(&parameters, &v_parameters), seeded(&z, &v_z));
        layer.forward(&context, &parameters, &z, &mut dual, None, &mut []);
        for ((dual, output), tangent) in dual.iter().zip(&output).zip(&tangent) {
            near(dual.re, *output, "ẑ");
            near(dual.eps, *tangent, "J v");
        }
    }
}

/// The other layers on dual numbers, in inference, give the values and J v of the `f64` layers too.
#[test]
fn other_layers_of_dual_numbers() {
    fn check<L: Layer<f64> + Layer<Dual64>>(layer: &L) {
        check_layer(layer, layer);
    }
    let window = Window2d::new([2, 3]).with_stride([2, 1]).with_padding(1);
    let (image, activation) = ([2, 4, 4], Activation::Gelu);
    check(&Conv2d::new(image, 4, window, activation).unwrap());
    let groups = Conv2d::new(image, 4, window, activation).unwrap();
    check(&groups.with_groups(2).unwrap());
    check(&ConvTranspose2d::new(image, 3, window, activation).unwrap());
    check(&MaxPool2d::new(image, window).unwrap());
    check(&AveragePool2d::new(image, window).unwrap());
    check(&LayerNorm::new([4, 3]).unwrap());
    check(&RmsNorm::new([4, 3]).unwrap());
    check(&Softmax::new([4, 3]).unwrap());
    check(&PositionWise::new(4, 3, 2, activation).unwrap());
    check(&PositionBias::new([4, 3]).unwrap());
    check(&Attention::new(4, 3, 2).unwrap());
    // The scores of later positions are -∞, and constant.
    check(&Attention::new(4, 3, 2).unwrap().causal());
    let branch = || Attention::new(4, 3, 1).unwrap().causal();
    let (real, dual) = (Residual::new(branch()), Residual::new(branch()));
    check_layer(&real.unwrap(), &dual.unwrap());
}

/// Compares a layer on dual numbers with the `f64` layer.
fn check_layer(real: &dyn Layer<f64>, dual: &dyn Layer<Dual64>) {
    const N: usize = 3;
    let (inputs, outputs) = (N * real.input_dim(), N * real.output_dim());
    let count = real.parameters().last().map_or(0, |own| own.range.end);
    let (parameters, z) = (numbers(count, 0.3), numbers(inputs, 1.1));
    let (v_parameters, v_z) = (numbers(count, 2.2), numbers(inputs, 3.4));
    let context = Context::inference(0, 0);

    let scratch = real.scratch(N);
    let [mut tape, mut work] = [scratch.tape, scratch.work].map(|length| vec![0.0; length]);
    let (mut output, mut tangent) = (vec![0.0; outputs], vec![0.0; outputs]);
    let kept = Some(&mut tape[..]);
    real.forward(&context, &parameters, &z, &mut output, kept, &mut work);
    let at = Point::new(context, &parameters, &z, &output, &tape);
    real.jvp(
        &at,
        Some(&v_z),
        Some(&v_parameters),
        &mut tangent,
        &mut work,
    );

    let zero = Dual64::from_re(0.0);
    let (mut found, mut work) = (vec![zero; outputs], vec![zero; scratch.work]);
    let (parameters, z) = (seeded(&parameters, &v_parameters), seeded(&z, &v_z));
    dual.forward(&context, &parameters, &z, &mut found, None, &mut work);
    for ((found, output), tangent) in found.iter().zip(&output).zip(&tangent) {
        near(found.re, *output, &format!("ẑ of {real:?}"));
        near(found.eps, *tangent, &format!("J v of {real:?}"));
    }
}

/// The losses on dual numbers give the values of the `f64` losses, their gradients along v, and the
/// curvature as the derivative of the gradient.
#[test]
fn losses_of_dual_numbers() {
    check_loss(&SoftmaxCrossEntropy);
    check_loss(&SquaredError);
}

fn check_loss<L: Loss<f64> + Loss<Dual64>>(loss: &L) {
    const DIM: usize = 4;
    let (real, dual): (&dyn Loss<f64>, &dyn Loss<Dual64>) = (loss, loss);
    let target = [0.1, 0.2, 0.3, 0.4, 0.0, 1.0, 0.0, 0.0];
    let prediction: Vec<f64> = numbers(2 * DIM, 0.9).iter().map(|x| 3.0 * x).collect();
    let v = numbers(2 * DIM, 2.7);
    let at = Pair::new(DIM, &target, &prediction);
    let mut work = vec![0.0; real.scratch(DIM, 2)];
    let (mut values, mut gradient) = ([0.0; 2], [0.0; 2 * DIM]);
    let set = Write::Set(&mut gradient[..]);
    real.evaluate(&at, &mut values, Write::Skip, set, &mut work);
    let mut product = [0.0; 2 * DIM];
    let set = Write::Set(&mut product[..]);
    real.curvature(&at, None, Some(&v), Write::Skip, set, &mut work);

    let zero = Dual64::from_re(0.0);
    let (target, prediction) = (target.map(Dual64::from_re), seeded(&prediction, &v));
    let at = Pair::new(DIM, &target, &prediction);
    let mut work = vec![zero; dual.scratch(DIM, 2)];
    let (mut dual_values, mut dual_gradient) = ([zero; 2], [zero; 2 * DIM]);
    let set = Write::Set(&mut dual_gradient[..]);
    dual.evaluate(&at, &mut dual_values, Write::Skip, set, &mut work);
    for (i, value) in values.iter().enumerate() {
        near(dual_values[i].re, *value, "L");
        let column = i * DIM..(i + 1) * DIM;
        let terms = gradient[column.clone()].iter().zip(&v[column]);
        let slope: f64 = terms.map(|(g, v)| g * v).sum();
        near(dual_values[i].eps, slope, "∂L/∂ẑ v");
    }
    for ((dual, gradient), product) in dual_gradient.iter().zip(&gradient).zip(&product) {
        near(dual.re, *gradient, "∂L/∂ẑ");
        near(dual.eps, *product, "∂²L/∂ẑ² v");
    }
}

/// The derivative in a target that is 0, as the unlikely classes of a label are.
#[test]
fn targets_of_zero_have_derivatives() {
    fn check(real: &dyn Loss<f64>, dual: &dyn Loss<Dual64>) {
        const DIM: usize = 3;
        let (target, prediction) = ([0.0, 1.0, 0.0], [0.4, -1.1, 2.3]);
        let v = [0.7, -0.3, 1.9];
        let mut work = vec![0.0; real.scratch(DIM, 1)];
        let (mut value, mut gradient) = ([0.0], [0.0; DIM]);
        let set = Write::Set(&mut gradient[..]);
        let at = Pair::new(DIM, &target, &prediction);
        real.evaluate(&at, &mut value, set, Write::Skip, &mut work);
        let slope: f64 = gradient.iter().zip(&v).map(|(g, v)| g * v).sum();

        let zero = Dual64::from_re(0.0);
        let (target, prediction) = (seeded(&target, &v), prediction.map(Dual64::from_re));
        let mut work = vec![zero; dual.scratch(DIM, 1)];
        let mut found = [zero];
        let at = Pair::new(DIM, &target, &prediction);
        dual.evaluate(&at, &mut found, Write::Skip, Write::Skip, &mut work);
        near(found[0].re, value[0], "L");
        near(found[0].eps, slope, "∂L/∂z v");
    }
    check(&SoftmaxCrossEntropy, &SoftmaxCrossEntropy);
    check(&BinaryCrossEntropy, &BinaryCrossEntropy);
    check(&Poisson, &Poisson);
    check(&SquaredError, &SquaredError);
    let weights = [1.0, 2.0, 3.0];
    let dual = weights.map(Dual64::from_re).to_vec();
    check(
        &WeightedCrossEntropy::new(weights.to_vec()).unwrap(),
        &WeightedCrossEntropy::new(dual).unwrap(),
    );
    // Of an impossible class, too, the value stays finite.
    let impossible = [0.0, f64::NEG_INFINITY];
    let (mut value, mut work) = ([1.0], [0.0; 2]);
    let at = Pair::new(2, &[1.0, 0.0], &impossible);
    SoftmaxCrossEntropy.evaluate(&at, &mut value, Write::Skip, Write::Skip, &mut work);
    near(value[0], 0.0, "L");
}

/// At a kink a dual number has the slope that the activation or loss itself gives.
#[test]
fn kinks_have_one_slope() {
    let kinked = [Activation::Relu, Activation::LeakyRelu { slope: 0.1 }];
    for activation in kinked {
        for x in [0.0, -0.0, -3.0, 3.0] {
            let (mut value, mut slope) = ([x], [0.0]);
            activation.evaluate(&mut value, Some(&mut slope));
            let mut dual = [Dual64::new(x, 1.0)];
            activation.evaluate(&mut dual, None);
            assert_eq!(
                (dual[0].re, dual[0].eps),
                (value[0], slope[0]),
                "{activation:?} at {x}"
            );
        }
        let mut nan = [f64::NAN];
        activation.evaluate(&mut nan, None);
        assert!(nan[0].is_nan());
    }
    let quantile = Quantile::new(0.3).unwrap();
    for loss in [&quantile as &dyn Loss<Dual64>, &Huber::new(0.5).unwrap()] {
        let (target, prediction) = ([Dual64::from_re(0.4)], [Dual64::new(0.4, 1.0)]);
        let at = Pair::new(1, &target, &prediction);
        let [mut value, mut slope] = [[Dual64::from_re(9.0)]; 2];
        let set = Write::Set(&mut slope[..]);
        loss.evaluate(&at, &mut value, Write::Skip, set, &mut []);
        assert_eq!((value[0].re, value[0].eps, slope[0].re), (0.0, 0.0, 0.0));
    }
}
