//! Layers from plain functions: the same numbers as layers whose derivatives are written by hand.

use layerwise::gradcheck::GradCheck;
use layerwise::kernel::Write;
use layerwise::layer::{
    Activation, Context, Conv2d, Dense, FromFunction, Function, Layer, LayerNorm, ParameterGroup,
    Point, Sequential, Shape, Window2d,
};
use layerwise::num_traits::Float;
use layerwise::prelude::*;
use layerwise::target_solver::{GaussNewton, StepSize, TargetSolver};

/// ẑ = tanh(W z + b).
#[derive(Debug, Clone, PartialEq)]
struct Plain {
    inputs: usize,
    outputs: usize,
}

impl Function for Plain {
    fn input_shape(&self) -> Shape {
        self.inputs.into()
    }

    fn output_shape(&self) -> Shape {
        self.outputs.into()
    }

    fn parameters(&self) -> Vec<ParameterGroup> {
        ParameterGroup::tile([
            ParameterGroup::new("weights", [self.outputs, self.inputs]).decaying(),
            ParameterGroup::new("bias", [self.outputs]),
        ])
    }

    fn call<F: Float>(&self, z: &[F], parameters: &[F], output: &mut [F]) {
        let (weights, bias) = parameters.split_at(self.inputs * self.outputs);
        for (k, (output, &bias)) in output.iter_mut().zip(bias).enumerate() {
            let terms = z.iter().enumerate();
            let sum = terms.fold(bias, |sum, (j, &z)| sum + weights[k + j * self.outputs] * z);
            *output = sum.tanh();
        }
    }
}

const N: usize = 3;

fn numbers<T: Scalar>(count: usize, seed: usize) -> Vec<T> {
    let number = |i: usize| (((i + seed) * 7919 + 13) % 101) as f64 / 50.0 - 1.0;
    (0..count).map(|i| T::of(number(i))).collect()
}

/// Output, ∂/∂z and ∂/∂θ of u · ẑ together and alone, and the tangent along both directions and each.
fn results<T: Scalar>(layer: &dyn Layer<T>) -> Vec<Vec<T>> {
    let (inputs, outputs) = (layer.input_dim() * N, layer.output_dim() * N);
    let parameters = numbers::<T>(layer.parameters().last().unwrap().range.end, 1);
    let (z, u) = (numbers::<T>(inputs, 2), numbers::<T>(outputs, 3));
    let scratch = layer.scratch(N);
    let (mut tape, mut work) = (vec![T::zero(); scratch.tape], vec![T::zero(); scratch.work]);
    let context = Context::inference(0, 0);
    let mut output = vec![T::zero(); outputs];
    let kept = Some(&mut tape[..]);
    layer.forward(&context, &parameters, &z, &mut output, kept, &mut work);
    let at = Point::new(context, &parameters, &z, &output, &tape);
    let mut all = vec![output.clone()];
    for (of_input, of_parameters) in [(true, true), (true, false), (false, true)] {
        let (mut d_z, mut d_p) = (vec![T::one(); inputs], vec![T::one(); parameters.len()]);
        let d_input = Write::set(of_input.then_some(&mut d_z[..]));
        let add = match of_parameters {
            true => Write::Add(&mut d_p[..]),
            false => Write::Skip,
        };
        layer.vjp(&at, &u, d_input, add, &mut work);
        all.extend([d_z, d_p]);
    }
    let (v, w) = (numbers::<T>(inputs, 4), numbers::<T>(parameters.len(), 5));
    for (v, w) in [
        (Some(&v[..]), Some(&w[..])),
        (Some(&v[..]), None),
        (None, Some(&w[..])),
    ] {
        let mut tangent = vec![T::zero(); outputs];
        layer.jvp(&at, v, w, &mut tangent, &mut work);
        all.push(tangent);
    }
    all
}

fn is_the_layer<T: Scalar>(own: &dyn Layer<T>, layer: &dyn Layer<T>, tolerance: f64) {
    assert_eq!(own.input_shape(), layer.input_shape());
    assert_eq!(own.output_shape(), layer.output_shape());
    let (own, expected) = (results(own), results(layer));
    assert_eq!(own.len(), expected.len());
    for (own, expected) in own.iter().zip(&expected) {
        assert_eq!(own.len(), expected.len());
        for (&own, &expected) in own.iter().zip(expected) {
            let error = (own - expected).as_f64().abs();
            assert!(error < tolerance, "{own}, not {expected}");
        }
    }
}

#[test]
fn a_plain_function_is_the_dense_layer() {
    let layer = FromFunction::new(Plain {
        inputs: 4,
        outputs: 5,
    });
    let dense = Dense::new(4, 5, Activation::Tanh).unwrap();
    is_the_layer::<f64>(&layer, &dense, 1e-12);
    is_the_layer::<f32>(&layer, &dense, 1e-5);
    let (parameters, z) = (numbers::<f64>(25, 1), numbers(12, 2));
    let check = GradCheck::new().layer(&layer, &parameters, &z).unwrap();
    check.require(1e-6).unwrap();
}

/// A convolution written as loops over the channels, window and positions of its definition.
#[derive(Debug)]
struct PlainConvolution {
    image: [usize; 3],
    positions: [usize; 2],
    channels: usize,
    groups: usize,
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
    dilation: [usize; 2],
}

impl Function for PlainConvolution {
    fn input_shape(&self) -> Shape {
        self.image.into()
    }

    fn output_shape(&self) -> Shape {
        let [down, across] = self.positions;
        [self.channels, down, across].into()
    }

    fn parameters(&self) -> Vec<ParameterGroup> {
        let ([height, width], own) = (self.kernel, self.image[0] / self.groups);
        ParameterGroup::tile([
            ParameterGroup::new("weights", [self.channels, own, height, width]).decaying(),
            ParameterGroup::new("bias", [self.channels]),
        ])
    }

    fn call<F: Float>(&self, z: &[F], parameters: &[F], output: &mut [F]) {
        let ([all, height, width], [down, _]) = (self.image, self.positions);
        let own = all / self.groups;
        let bias = self.channels * own * self.kernel[0] * self.kernel[1];
        for (at, output) in output.iter_mut().enumerate() {
            let (m, position) = (at % self.channels, at / self.channels);
            let (p, q) = (position % down, position / down);
            let first = m / (self.channels / self.groups) * own;
            let mut sum = parameters[bias + m];
            for j in 0..self.kernel[1] {
                for i in 0..self.kernel[0] {
                    let y =
                        (self.stride[0] * p + self.dilation[0] * i).checked_sub(self.padding[0]);
                    let x =
                        (self.stride[1] * q + self.dilation[1] * j).checked_sub(self.padding[1]);
                    let (Some(y), Some(x)) = (y.filter(|&y| y < height), x.filter(|&x| x < width))
                    else {
                        continue;
                    };
                    for c in 0..own {
                        let weight = m + self.channels * (c + own * (i + self.kernel[0] * j));
                        sum = sum + parameters[weight] * z[first + c + all * (y + height * x)];
                    }
                }
            }
            *output = sum.tanh();
        }
    }
}

#[test]
fn plain_loops_are_the_convolution() {
    for groups in [1, 2] {
        let plain = PlainConvolution {
            image: [2, 5, 4],
            positions: [3, 2],
            channels: 4,
            groups,
            kernel: [2, 3],
            stride: [2, 1],
            padding: [1, 2],
            dilation: [2, 3],
        };
        let window = Window2d::new(plain.kernel).with_stride(plain.stride);
        let window = window
            .with_padding(plain.padding)
            .with_dilation(plain.dilation);
        let layer = Conv2d::new(plain.image, plain.channels, window, Activation::Tanh).unwrap();
        let layer = layer.with_groups(groups).unwrap();
        let plain = FromFunction::new(plain);
        is_the_layer::<f64>(&plain, &layer, 1e-12);
        is_the_layer::<f32>(&plain, &layer, 1e-5);
    }
}

/// Every column of a 4 x 2 array brought to mean 0 and variance 1, with a gain and a bias.
#[derive(Debug)]
struct PlainNorm;

impl Function for PlainNorm {
    fn input_shape(&self) -> Shape {
        [4, 2].into()
    }

    fn output_shape(&self) -> Shape {
        [4, 2].into()
    }

    fn parameters(&self) -> Vec<ParameterGroup> {
        ParameterGroup::tile(["gain", "bias"].map(|name| ParameterGroup::new(name, [4])))
    }

    fn call<F: Float>(&self, z: &[F], parameters: &[F], output: &mut [F]) {
        let (gain, bias) = parameters.split_at(4);
        let number = |x: f64| F::from(x).unwrap();
        for (z, output) in z.chunks_exact(4).zip(output.chunks_exact_mut(4)) {
            let mean = z.iter().fold(F::zero(), |sum, &z| sum + z) / number(4.0);
            let square = |sum, &z: &F| sum + (z - mean) * (z - mean);
            let variance = z.iter().fold(F::zero(), square) / number(4.0);
            let sigma = (variance + number(1e-5)).sqrt();
            for (k, output) in output.iter_mut().enumerate() {
                *output = gain[k] * (z[k] - mean) / sigma + bias[k];
            }
        }
    }
}

#[test]
fn plain_sums_are_the_layer_norm() {
    let (plain, layer) = (
        FromFunction::new(PlainNorm),
        LayerNorm::new([4, 2]).unwrap(),
    );
    is_the_layer::<f64>(&plain, &layer, 1e-12);
    is_the_layer::<f32>(&plain, &layer, 1e-4);
}

/// In a circuit, alone and in a unit, by Gauss-Newton's steps and by sweeps.
#[test]
fn it_trains_as_the_dense_layer_does() {
    let run = |first: Box<dyn Layer<f64>>, unit: Box<dyn Layer<f64>>| {
        let circuit = Circuit::builder()
            .layer(first)
            .layer(Sequential::new(vec![unit]).unwrap())
            .layer(Dense::new(4, 1, Activation::Identity).unwrap())
            .seed(2)
            .build()
            .unwrap();
        let mut model = DecoupledCircuit::new(circuit, Energy::default()).unwrap();
        let x = DMatrix::from_vec(3, 20, numbers(60, 6));
        let y = DMatrix::from_fn(1, 20, |_, j| x[(0, j)] * x[(1, j)]);
        model
            .add_examples(&x, &y, &TargetInit::ForwardPass)
            .unwrap();
        // It has no curvature bound.
        let sweep = ReverseSweep::new(2).with_step(StepSize::Checked(0.5));
        let solvers: [Box<dyn TargetSolver<f64>>; 2] =
            [Box::new(GaussNewton::direct(1)), Box::new(sweep.unwrap())];
        for solver in solvers {
            let scheme = Decoupling::refreshed(solver);
            let phase = Phase::new(scheme, Adam::new(0.01).unwrap()).with_epochs(20);
            Trainer::new(phase).run(&mut model).unwrap();
        }
        (0..3)
            .flat_map(|t| model.circuit().parameters(t).to_vec())
            .collect::<Vec<_>>()
    };
    let plain = |inputs, outputs| FromFunction::new(Plain { inputs, outputs });
    let dense = |inputs, outputs| Dense::new(inputs, outputs, Activation::Tanh).unwrap();
    let own = run(Box::new(plain(3, 5)), Box::new(plain(5, 4)));
    let expected = run(Box::new(dense(3, 5)), Box::new(dense(5, 4)));
    for (own, expected) in own.iter().zip(&expected) {
        assert!((own - expected).abs() < 1e-9, "{own}, not {expected}");
    }
}

/// A function that adds to its output adds to zeros, whatever was in memory.
#[test]
fn outputs_begin_with_zeros() {
    #[derive(Debug)]
    struct Total;

    impl Function for Total {
        fn input_shape(&self) -> Shape {
            3.into()
        }

        fn output_shape(&self) -> Shape {
            2.into()
        }

        fn call<F: Float>(&self, z: &[F], _: &[F], output: &mut [F]) {
            z.iter().for_each(|&z| output[0] = output[0] + z * z);
        }
    }

    let layer = FromFunction::new(Total);
    let check = GradCheck::new().layer(&layer, &[], &numbers::<f64>(6, 1));
    check.unwrap().require(1e-6).unwrap();
    let mut output = [f64::NAN; 4];
    let (z, context) = ([1.0, 2.0, 3.0, 0.0, 0.0, 1.0], Context::inference(0, 0));
    layer.forward(&context, &[], &z, &mut output, None, &mut []);
    assert_eq!(output, [14.0, 0.0, 1.0, 0.0]);
}

/// A branch that ignores its input has the derivative 0, and one on a value is differentiated as taken.
#[test]
fn constants_and_branches_have_their_derivatives() {
    #[derive(Debug)]
    struct Kinked;

    impl Function for Kinked {
        fn input_shape(&self) -> Shape {
            2.into()
        }

        fn output_shape(&self) -> Shape {
            3.into()
        }

        fn call<F: Float>(&self, z: &[F], _: &[F], output: &mut [F]) {
            let two = F::from(2.0).unwrap();
            output[0] = two;
            output[1] = if z[0] > z[1] { z[0] * z[0] } else { z[1] };
            output[2] = z[0].max(z[1]) + z[1].abs();
        }
    }

    let layer: &dyn Layer<f64> = &FromFunction::new(Kinked);
    let z = [3.0, -1.0, 1.0, 2.0];
    let mut output = [0.0; 6];
    let context = Context::inference(0, 0);
    layer.forward(&context, &[], &z, &mut output, None, &mut []);
    assert_eq!(output, [2.0, 9.0, 4.0, 2.0, 2.0, 4.0]);
    let at = Point::new(context, &[], &z, &output, &[]);
    let mut d_z = [0.0; 4];
    let set = Write::Set(&mut d_z[..]);
    layer.vjp(&at, &[1.0; 6], set, Write::Skip, &mut []);
    assert_eq!(d_z, [7.0, -1.0, 0.0, 3.0]);
}

/// A function's bound is its layer's, and `GradCheck` rejects one that is too small.
#[test]
fn a_function_may_know_its_curvature_bound() {
    #[derive(Debug)]
    struct Sine(f64);

    impl Function for Sine {
        fn input_shape(&self) -> Shape {
            3.into()
        }

        fn output_shape(&self) -> Shape {
            3.into()
        }

        fn call<F: Float>(&self, z: &[F], _: &[F], output: &mut [F]) {
            for (output, &z) in output.iter_mut().zip(z) {
                *output = z.sin();
            }
        }

        fn curvature_bound<T: Scalar>(&self, _parameters: &[T]) -> Option<T> {
            Some(T::of(self.0))
        }
    }

    let bound = |bound| {
        let layer: &dyn Layer<f64> = &FromFunction::new(Sine(bound));
        let check = GradCheck::new().layer(layer, &[], &[0.0, 0.3, -0.2, 1.0, 2.0, 0.5]);
        (
            layer.curvature_bound(&[], &mut []),
            check.unwrap().require(1e-6),
        )
    };
    let (known, checked) = bound(1.0);
    assert_eq!(known, Some(1.0));
    checked.unwrap();
    assert!(bound(0.5).1.unwrap_err().to_string().contains("bound"));
    let plain = FromFunction::new(Plain {
        inputs: 2,
        outputs: 2,
    });
    assert_eq!(
        Layer::<f64>::curvature_bound(&plain, &[0.0; 6], &mut []),
        None
    );
}

/// The gradient of a parameter over many examples is as exact in f32 as over few.
#[test]
fn gradients_over_many_examples_in_f32() {
    #[derive(Debug)]
    struct Factor;

    impl Function for Factor {
        fn input_shape(&self) -> Shape {
            1.into()
        }

        fn output_shape(&self) -> Shape {
            1.into()
        }

        fn parameters(&self) -> Vec<ParameterGroup> {
            ParameterGroup::tile([ParameterGroup::new("factor", [1])])
        }

        fn call<F: Float>(&self, z: &[F], parameters: &[F], output: &mut [F]) {
            output[0] = parameters[0] * z[0];
        }
    }

    let layer: &dyn Layer<f32> = &FromFunction::new(Factor);
    for n in [1000, 300_000] {
        let (z, u) = (vec![0.1_f32; n], vec![1.0; n]);
        let mut work = vec![f32::NAN; layer.scratch(n).work];
        let at = Point::new(Context::inference(0, 0), &[2.0], &z, &z, &[]);
        for (start, set) in [(0.0, true), (5.0, false)] {
            let mut gradient = [start];
            let write = match set {
                true => Write::Set(&mut gradient[..]),
                false => Write::Add(&mut gradient[..]),
            };
            layer.vjp(&at, &u, Write::Skip, write, &mut work);
            let expected = f64::from(start) + n as f64 * f64::from(0.1_f32);
            let error = (f64::from(gradient[0]) / expected - 1.0).abs();
            assert!(error < 1e-5, "{n}: {}, not {expected}", gradient[0]);
        }
    }
}
