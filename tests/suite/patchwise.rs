//! Layers made of an unfolding: a convolution is what its formula says, in every way that layers are
//! called; and what holds of layers of every kind, pointers and chains of them.

use std::sync::Arc;

use layerwise::decoupled::TargetInit;
use layerwise::energy::Energy;
use layerwise::gradcheck::GradCheck;
use layerwise::kernel::Write;
use layerwise::layer::{
    Activation, Affine, Context, Dense, ParameterGroup, Patchwise, Point, Scratch, Sequential,
    Shape, Unfold,
};
use layerwise::nalgebra::DMatrix;
use layerwise::optimizer::GradientDescent;
use layerwise::rand::rngs::ChaCha8Rng;
use layerwise::rand::{Rng, RngExt, SeedableRng};
use layerwise::training::{Backprop, Phase, Trainer};
use layerwise::{Circuit, DecoupledCircuit, Error, Layer, Scalar};

fn uniform<T: Scalar>(seed: u64, count: usize) -> Vec<T> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let draws = (0..count).map(|_| T::of(rng.random_range(-1.0..1.0)));
    draws.collect()
}

/// Windows of 3 × 2 in an image of [channels, height, width], in steps of (2, 1), with one row of
/// padding above and below.
#[derive(Debug, Clone, PartialEq)]
struct Image {
    channels: usize,
    height: usize,
    width: usize,
}

impl Unfold for Image {
    fn input_shape(&self) -> Shape {
        [self.channels, self.height, self.width].into()
    }

    fn patch_len(&self) -> usize {
        self.channels * 3 * 2
    }

    fn positions(&self) -> Shape {
        [(self.height - 1) / 2 + 1, self.width - 1].into()
    }

    fn source(&self, entry: usize, position: usize) -> Option<usize> {
        let (channel, y, x) = (
            entry % self.channels,
            entry / self.channels % 3,
            entry / self.channels / 3,
        );
        let rows = self.positions().extents()[0];
        let (row, column) = (2 * (position % rows) + y, position / rows + x);
        let row = row.checked_sub(1).filter(|&row| row < self.height)?;
        Some(channel + self.channels * (row + self.height * column))
    }
}

const IMAGE: Image = Image {
    channels: 2,
    height: 5,
    width: 4,
};

fn convolution(activation: Activation) -> Patchwise<Image> {
    Patchwise::over(IMAGE, 3, activation).unwrap()
}

#[test]
fn a_convolution_is_its_formula_and_passes_every_check() {
    for (activation, bias) in [
        (Activation::Tanh, true),
        (Activation::Tanh, false),
        (Activation::Identity, true),
        (Activation::Identity, false),
    ] {
        let mut layer = convolution(activation);
        if !bias {
            layer = layer.without_bias();
        }
        assert_eq!(layer.output_shape(), Shape::from([3, 3, 3]));
        assert_eq!(layer.cost(), Some((36 + if bias { 3 } else { 0 }) * 9));
        let parameters = uniform::<f64>(1, if bias { 39 } else { 36 });
        let input = uniform::<f64>(2, 2 * 40);
        let report = GradCheck::new().layer(&layer, &parameters, &input).unwrap();
        report.require(1e-6).unwrap();
        assert!(
            report
                .worst
                .iter()
                .any(|entry| entry.derivative == "f by `affine`")
        );
        assert!(
            report
                .worst
                .iter()
                .any(|entry| entry.derivative == "curvature bound")
        );

        let mut output = vec![f64::NAN; 2 * 27];
        let (context, mut work) = (
            Context::inference(0, 0),
            vec![f64::NAN; layer.scratch(2).work],
        );
        layer.forward(&context, &parameters, &input, &mut output, None, &mut work);
        for (i, z) in input.chunks_exact(40).enumerate() {
            for (c, row, column) in (0..27).map(|k| (k % 3, k / 3 % 3, k / 9)) {
                let mut sum = if bias { parameters[36 + c] } else { 0.0 };
                for (k, y, x) in (0..12).map(|k| (k % 2, k / 2 % 3, k / 6)) {
                    let (from, to) = ((2 * row + y) as isize - 1, column + x);
                    if (0..5).contains(&from) {
                        let w = parameters[c + 3 * (k + 2 * (y + 3 * x))];
                        sum += w * z[k + 2 * (from as usize + 5 * to)];
                    }
                }
                let value = if activation == Activation::Tanh {
                    sum.tanh()
                } else {
                    sum
                };
                let found = output[27 * i + c + 3 * (row + 3 * column)];
                assert!((found - value).abs() < 1e-14, "{found} is not {value}");
            }
        }
    }
}

/// A 1 × 1 convolution needs no copy, and is a dense layer of the pixels.
#[test]
#[cfg_attr(feature = "blas", ignore = "a BLAS sums by shape")]
fn patches_that_are_the_input_are_not_copied() {
    #[derive(Debug)]
    struct Pixels;

    impl Unfold for Pixels {
        fn input_shape(&self) -> Shape {
            [2, 6].into()
        }

        fn patch_len(&self) -> usize {
            2
        }

        fn positions(&self) -> Shape {
            6.into()
        }

        fn source(&self, entry: usize, position: usize) -> Option<usize> {
            Some(entry + 2 * position)
        }
    }

    let layer = Patchwise::over(Pixels, 3, Activation::Tanh).unwrap();
    let dense = Dense::new(2, 3, Activation::Tanh).unwrap();
    assert_eq!(layer.scratch(5), dense.scratch(30));
    let affine = layer.affine().unwrap();
    assert_eq!((affine.positions, affine.unfolds), (6, false));
    let (parameters, input) = (uniform::<f64>(1, 9), uniform::<f64>(2, 12 * 5));
    let run = |layer: &dyn Layer<f64>, n| {
        let (mut output, mut tape) = (vec![0.0; 90], vec![0.0; 90]);
        let (context, mut work) = (Context::inference(0, 0), vec![0.0; layer.scratch(n).work]);
        let kept = Some(&mut tape[..]);
        layer.forward(&context, &parameters, &input, &mut output, kept, &mut work);
        let at = Point::new(context, &parameters, &input, &output, &tape);
        let (mut d_input, mut d_parameters) = ([1.0; 60], [1.0; 9]);
        let (add, set) = (Write::Add(&mut d_input), Write::Set(&mut d_parameters));
        layer.vjp(&at, &uniform(3, 90), add, set, &mut work);
        (output, d_input.to_vec(), d_parameters.to_vec())
    };
    assert_eq!(run(&layer, 5), run(&dense, 30));
}

#[test]
fn a_patch_shape_of_another_size_is_refused() {
    #[derive(Debug)]
    struct Misshapen;

    impl Unfold for Misshapen {
        fn input_shape(&self) -> Shape {
            4.into()
        }

        fn patch_len(&self) -> usize {
            2
        }

        fn patch_shape(&self) -> Shape {
            3.into()
        }

        fn positions(&self) -> Shape {
            2.into()
        }

        fn source(&self, entry: usize, position: usize) -> Option<usize> {
            Some(entry + 2 * position)
        }
    }

    let layer = Patchwise::over(Misshapen, 2, Activation::Identity);
    let expected = Error::Length {
        what: "the shape of a patch".into(),
        expected: 2,
        found: 3,
    };
    assert_eq!(layer.unwrap_err(), expected);
}

#[test]
fn unfoldings_that_are_none_are_refused() {
    #[derive(Debug, Clone, Copy)]
    struct Odd([usize; 3], usize);

    impl Unfold for Odd {
        fn input_shape(&self) -> Shape {
            self.0[0].into()
        }

        fn patch_len(&self) -> usize {
            self.0[1]
        }

        fn positions(&self) -> Shape {
            self.0[2].into()
        }

        fn source(&self, entry: usize, position: usize) -> Option<usize> {
            Some(entry + position + self.1)
        }
    }

    let error = |odd, channels| {
        let layer = Patchwise::over(odd, channels, Activation::Identity);
        layer.unwrap_err()
    };
    let outside = Error::Source {
        entry: 1,
        position: 2,
        source_entry: 4,
        inputs: 4,
    };
    assert_eq!(error(Odd([4, 2, 3], 1), 1), outside);
    for (odd, channels) in [
        (Odd([0, 2, 3], 0), 1),
        (Odd([4, 0, 3], 0), 1),
        (Odd([4, 2, 0], 0), 1),
        (Odd([4, 2, 3], 0), 0),
    ] {
        let error = error(odd, channels);
        assert!(matches!(error, Error::ZeroDimension { .. }), "{error}");
    }
    for (odd, channels) in [
        (Odd([4, usize::MAX, 2], 0), 1),
        (Odd([4, 2, 3], 0), usize::MAX / 2),
        (Odd([usize::MAX / 2, 2, 3], 0), 1),
    ] {
        let error = error(odd, channels);
        assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    }
}

#[test]
fn layers_that_do_not_fit_name_their_shapes() {
    let builder = Circuit::<f64>::builder().layer(convolution(Activation::Tanh));
    let builder = builder.layer(Dense::new(28, 1, Activation::Identity).unwrap());
    let error = builder.build().unwrap_err();
    let expected = Error::LayerMismatch {
        owner: "circuit",
        layer: 1,
        expected: vec![3, 3, 3],
        found: vec![28],
    };
    assert_eq!(error, expected);
    for word in ["dimension 28", "shape 3 x 3 x 3 (dimension 27)"] {
        assert!(error.to_string().contains(word), "{error}");
    }
}

/// θ after one epoch, with so many threads.
fn trained<T: Scalar>(circuit: Circuit<T>, n: usize, threads: usize) -> Vec<Vec<T>> {
    let (inputs, outputs) = (circuit.dims()[0], circuit.dims()[circuit.depth()]);
    let x = DMatrix::from_vec(inputs, n, uniform(1, inputs * n));
    let y = DMatrix::from_vec(outputs, n, uniform(2, outputs * n));
    let mut model = DecoupledCircuit::new(circuit, Energy::default()).unwrap();
    model
        .add_examples(&x, &y, &TargetInit::ForwardPass)
        .unwrap();
    let phase = Phase::new(Backprop, GradientDescent::new(0.1).unwrap()).with_epochs(1);
    let trainer = Trainer::new(phase)
        .with_threads(threads)
        .unwrap()
        .with_measure_every(0);
    trainer.run(&mut model).unwrap();
    let depth = model.circuit().depth();
    (0..depth)
        .map(|t| model.circuit().parameters(t).to_vec())
        .collect()
}

fn bits_of_threads<T: Scalar>() {
    // 32 columns of G Zᵀ with 2 rows: halves of 16 would take another path than the whole.
    let narrow = || {
        let layer = Dense::new(32, 2, Activation::Identity).unwrap();
        Circuit::<T>::builder().layer(layer).build().unwrap()
    };
    let wide = || {
        let layer = convolution(Activation::Tanh);
        let builder = Circuit::<T>::builder().layer(layer);
        let last = Dense::new(27, 2, Activation::Identity).unwrap();
        builder.layer(last).build().unwrap()
    };
    for (circuit, n) in [(narrow(), 16384), (wide(), 4096)] {
        let one = trained(circuit.clone(), n, 1);
        for threads in if cfg!(feature = "rayon") {
            2..=3
        } else {
            1..=1
        } {
            assert!(
                trained(circuit.clone(), n, threads) == one,
                "{threads} threads"
            );
        }
    }
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    bits_of_threads::<f64>();
    bits_of_threads::<f32>();
}

/// A layer that says something of its own in every method.
#[derive(Debug)]
struct Telling;

impl Layer<f64> for Telling {
    fn input_shape(&self) -> Shape {
        [2, 3].into()
    }

    fn output_shape(&self) -> Shape {
        [3, 1, 2].into()
    }

    // Neither is the product of its shape: that a pointer asks for the dimension itself is seen.
    fn input_dim(&self) -> usize {
        7
    }

    fn output_dim(&self) -> usize {
        8
    }

    fn parameters(&self) -> Vec<ParameterGroup> {
        ParameterGroup::tile([ParameterGroup::new("own", [5])])
    }

    fn initialize(&self, parameters: &mut [f64], _: &mut dyn Rng) {
        parameters.fill(0.25);
    }

    fn scratch(&self, batch: usize) -> Scratch {
        Scratch::new(batch, 2).with_bound(3)
    }

    fn cost(&self) -> Option<usize> {
        Some(11)
    }

    fn check_input(&self, _: &[f64]) -> Result<(), Error> {
        Err(Error::NothingCompared)
    }

    fn input_differentiable(&self) -> bool {
        false
    }

    fn forward(
        &self,
        _: &Context<'_>,
        _: &[f64],
        _: &[f64],
        output: &mut [f64],
        _: Option<&mut [f64]>,
        _: &mut [f64],
    ) {
        output.fill(1.5);
    }

    fn vjp(
        &self,
        _: &Point<'_, f64>,
        _: &[f64],
        d_input: Write<'_, f64>,
        _: Write<'_, f64>,
        _: &mut [f64],
    ) {
        d_input.each(|_| 2.5);
    }

    fn jvp(
        &self,
        _: &Point<'_, f64>,
        _: Option<&[f64]>,
        _: Option<&[f64]>,
        tangent: &mut [f64],
        _: &mut [f64],
    ) {
        tangent.fill(3.5);
    }

    fn curvature_bound(&self, _: &[f64], _: &mut [f64]) -> Option<f64> {
        Some(4.5)
    }

    fn target_range(&self) -> (f64, f64) {
        (5.5, 6.5)
    }

    fn affine(&self) -> Option<Affine> {
        Some(Affine::new(0..2, None, Activation::Tanh, 2))
    }

    fn unfold(&self, _: &[f64], patches: &mut [f64]) {
        patches.fill(7.5);
    }
}

/// What a layer says in all its methods.
fn said(layer: impl Layer<f64>) -> String {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let (mut parameters, mut values) = ([0.0], [0.0; 4]);
    layer.initialize(&mut parameters, &mut rng);
    let [output, input, tangent, patches] = &mut values;
    let context = Context::inference(0, 0);
    let one = std::slice::from_mut;
    layer.forward(&context, &[], &[], one(output), None, &mut []);
    let at = Point::new(context, &[], &[], &[], &[]);
    layer.vjp(&at, &[], Write::Set(one(input)), Write::Skip, &mut []);
    layer.jvp(&at, None, None, one(tangent), &mut []);
    layer.unfold(&[], one(patches));
    let shapes = (layer.input_shape(), layer.output_shape());
    let sizes = (
        layer.input_dim(),
        layer.output_dim(),
        layer.scratch(9),
        layer.cost(),
    );
    let checks = (layer.check_input(&[]), layer.input_differentiable());
    let others = (
        layer.curvature_bound(&[], &mut []),
        layer.target_range(),
        layer.affine(),
        layer.parameters(),
    );
    format!("{layer:?} {parameters:?} {values:?} {shapes:?} {sizes:?} {checks:?} {others:?}")
}

#[test]
fn pointers_to_layers_say_what_the_layers_say() {
    let expected = said(Telling);
    assert_eq!(said(&Telling), expected);
    assert_eq!(said(Box::new(Telling)), expected);
    assert_eq!(said(Box::new(Telling) as Box<dyn Layer<f64>>), expected);
    assert_eq!(said(Arc::new(Telling) as Arc<dyn Layer<f64>>), expected);
}

/// A layer with the default JVP: that of the layer within, to rounding.
#[test]
fn the_default_jvp_is_made_of_vjps() {
    #[derive(Debug)]
    struct Bare(Patchwise<Image>);

    impl<T: Scalar> Layer<T> for Bare {
        described_by!(0: T);

        fn forward(
            &self,
            context: &Context<'_>,
            parameters: &[T],
            input: &[T],
            output: &mut [T],
            tape: Option<&mut [T]>,
            work: &mut [T],
        ) {
            self.0
                .forward(context, parameters, input, output, tape, work);
        }

        fn vjp(
            &self,
            at: &Point<'_, T>,
            cotangent: &[T],
            d_input: Write<'_, T>,
            d_parameters: Write<'_, T>,
            work: &mut [T],
        ) {
            self.0.vjp(at, cotangent, d_input, d_parameters, work);
        }
    }

    let layer = Bare(convolution(Activation::Tanh));
    let (parameters, input) = (uniform::<f64>(1, 39), uniform::<f64>(2, 2 * 40));
    let report = GradCheck::new().layer(&layer, &parameters, &input);
    let report = report.unwrap();
    report.require(1e-6).unwrap();
    for name in ["∂f/∂z by jvp", "∂f/∂θ by jvp"] {
        assert!(report.worst.iter().any(|entry| entry.derivative == name));
    }
}

/// Bounds that over- or underflow make no NaN, and none too small.
#[test]
fn the_bound_of_a_chain_is_never_too_small() {
    let bound = |weights: &[f32]| {
        let scale = || {
            let layer = Dense::new(1, 1, Activation::Identity).unwrap();
            Box::new(layer.without_bias()) as Box<dyn Layer<f32>>
        };
        let unit = Sequential::new(weights.iter().map(|_| scale()).collect()).unwrap();
        let mut work = vec![0.0; unit.scratch(1).bound];
        unit.curvature_bound(weights, &mut work).unwrap()
    };
    assert_eq!(bound(&[1e-30, 1e30]), f32::INFINITY);
    assert_eq!(bound(&[1e30, 1e-30]), f32::INFINITY);
    assert_eq!(bound(&[1e30, 0.0]), f32::INFINITY);
    assert_eq!(bound(&[3.0, 0.0]), 0.0);
    for weights in [&[1e-30][..], &[1e-15, 1e-15], &[1e-30, 1e-30]] {
        let bound = bound(weights);
        assert!(bound > 0.0 && bound < 1e-29, "{weights:?}: {bound}");
    }
    let found = bound(&[2.0, 3.0]);
    assert!((36.0..36.01).contains(&found), "{found}");
}

/// Forty units, each within another: were a unit to ask its layers twice, 2⁴⁰ questions.
#[test]
fn units_within_units_cost_what_their_layers_cost() {
    let dense = |activation| Dense::new(2, 2, activation).unwrap();
    let mut unit = Sequential::<f64>::new(vec![Box::new(dense(Activation::Tanh))]).unwrap();
    for _ in 0..40 {
        unit = Sequential::new(vec![Box::new(unit), Box::new(dense(Activation::Tanh))]).unwrap();
    }
    assert_eq!(unit.cost(), Some(41 * 6));
    let count = 41 * 6;
    let input = uniform::<f64>(2, 4);
    let check = GradCheck::new().with_directions(2).unwrap();
    let report = check.layer(&unit, &uniform(1, count), &input).unwrap();
    report.require(1e-5).unwrap();
}

/// So wide that its products are computed by halves.
fn the_bound_of_a_wide_layer_is_that_of_its_trace<T: Scalar>() {
    for (inputs, outputs) in [(259, 300), (301, 270)] {
        let layer = Dense::new(inputs, outputs, Activation::Identity).unwrap();
        let layer: &dyn Layer<T> = &layer;
        let parameters = uniform::<T>(3, (inputs + 1) * outputs);
        let mut work = vec![T::zero(); layer.scratch(1).bound];
        let bound = layer.curvature_bound(&parameters, &mut work).unwrap();
        let weights = parameters[..inputs * outputs].iter().map(|w| w.as_f64());
        let w = DMatrix::from_iterator(outputs, inputs, weights);
        let b = match outputs <= inputs {
            true => &w * w.transpose(),
            false => w.tr_mul(&w),
        };
        let square = &b * &b;
        let expected = (&square * &square).norm().powf(0.25);
        let error = bound.as_f64() / expected - 1.0;
        let room = 16.0 * (inputs + outputs) as f64 * T::default_epsilon().as_f64();
        assert!(error.abs() < room, "{bound}, not {expected}");
    }
}

#[test]
fn bounds_of_wide_layers_are_those_of_their_traces() {
    the_bound_of_a_wide_layer_is_that_of_its_trace::<f64>();
    the_bound_of_a_wide_layer_is_that_of_its_trace::<f32>();
}
