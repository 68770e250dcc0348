//! A `Sequential` is its layers, bit for bit: the same forward pass, products and bound as the
//! layers chained by hand; and a circuit of one such unit has backprop's gradients.

use layerwise::decoupled::{Selection, TargetInit};
use layerwise::energy::Energy;
use layerwise::kernel::Write;
use layerwise::layer::{
    Activation, Context, Dense, ParameterGroup, Point, Scratch, Sequential, Shape,
};
use layerwise::loss::SoftmaxCrossEntropy;
use layerwise::nalgebra::DMatrix;
use layerwise::rand::rngs::ChaCha8Rng;
use layerwise::rand::{Rng, RngExt, SeedableRng};
use layerwise::{Circuit, DecoupledCircuit, Layer, Scalar};
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};

/// Two to four dense layers, n examples, and a seed for the numbers.
#[derive(Debug, Clone)]
struct Case {
    layers: Vec<Dense>,
    n: usize,
    seed: u64,
}

fn any_case() -> impl Strategy<Value = Case> {
    let activations = [
        Activation::Identity,
        Activation::Tanh,
        Activation::Relu,
        Activation::Gelu,
        Activation::Softplus,
    ];
    let activations = prop::collection::vec(prop::sample::select(activations.to_vec()), 4);
    let widths = prop::collection::vec(1..9usize, 3..6);
    let biases = any::<[bool; 4]>();
    (widths, activations, biases, 1..6usize, any::<u64>()).prop_map(
        |(widths, activations, biases, n, seed)| {
            let pairs = widths.windows(2).zip(activations).zip(biases);
            let layers = pairs.map(|((pair, activation), bias)| {
                let layer = Dense::new(pair[0], pair[1], activation).unwrap();
                if bias { layer } else { layer.without_bias() }
            });
            let layers = layers.collect();
            Case { layers, n, seed }
        },
    )
}

/// Runs `test` on 256 cases; the seed is fixed, so running the test again replays a failure.
fn for_all(test: impl Fn(Case)) {
    let config = ProptestConfig {
        cases: 256,
        rng_seed: RngSeed::Fixed(0x756e_6974),
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let result = TestRunner::new(config).run(&any_case(), |case| {
        test(case);
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
}

fn uniform<T: Scalar>(rng: &mut ChaCha8Rng, count: usize) -> Vec<T> {
    let draws = (0..count).map(|_| T::of(rng.random_range(-1.0..1.0)));
    draws.collect()
}

fn count<T: Scalar>(layer: &dyn Layer<T>) -> usize {
    layer
        .parameters()
        .iter()
        .map(|group| group.range.len())
        .sum()
}

impl Case {
    fn rng(&self) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(self.seed)
    }

    fn flat<T: Scalar>(&self) -> Sequential<T> {
        let layers = self.layers.iter().map(|layer| Box::new(layer.clone()) as _);
        Sequential::new(layers.collect()).unwrap()
    }

    /// The first layer, then the others as a unit within the unit.
    fn nested<T: Scalar>(&self) -> Sequential<T> {
        let rest = self.layers[1..]
            .iter()
            .map(|layer| Box::new(layer.clone()) as _);
        let rest = Sequential::new(rest.collect()).unwrap();
        Sequential::new(vec![Box::new(self.layers[0].clone()), Box::new(rest)]).unwrap()
    }

    fn parameters<T: Scalar>(&self, rng: &mut ChaCha8Rng) -> Vec<Vec<T>> {
        let layers = self.layers.iter();
        layers
            .map(|layer| uniform(rng, count::<T>(layer)))
            .collect()
    }

    fn input_dim(&self) -> usize {
        self.layers[0].input_dim()
    }

    fn output_dim(&self) -> usize {
        self.layers[self.layers.len() - 1].output_dim()
    }
}

/// A layer called at one point, with the memory that it asks for, filled with NaN.
struct Call<'a, T: Scalar> {
    layer: &'a dyn Layer<T>,
    parameters: &'a [T],
    input: Vec<T>,
    output: Vec<T>,
    tape: Vec<T>,
}

fn nan<T: Scalar>(length: usize) -> Vec<T> {
    vec![T::zero() / T::zero(); length]
}

impl<'a, T: Scalar> Call<'a, T> {
    fn new(layer: &'a dyn Layer<T>, parameters: &'a [T], input: Vec<T>) -> Self {
        let n = input.len() / layer.input_dim();
        let scratch = layer.scratch(n);
        let (mut output, mut tape) = (nan(layer.output_dim() * n), nan(scratch.tape));
        let (context, mut work) = (Context::inference(0, 0), nan(scratch.work));
        let kept = Some(&mut tape[..]);
        layer.forward(&context, parameters, &input, &mut output, kept, &mut work);
        let mut tapeless = nan(output.len());
        layer.forward(&context, parameters, &input, &mut tapeless, None, &mut work);
        assert!(
            tapeless == output,
            "without a tape: {tapeless:?}, with: {output:?}"
        );
        Self {
            layer,
            parameters,
            input,
            output,
            tape,
        }
    }

    fn point(&self) -> Point<'_, T> {
        let context = Context::inference(0, 0);
        let (input, output) = (&self.input, &self.output);
        Point::new(context, self.parameters, input, output, &self.tape)
    }

    fn work(&self) -> Vec<T> {
        nan(self
            .layer
            .scratch(self.input.len() / self.layer.input_dim())
            .work)
    }

    /// (Jᵀ g in the input, in the parameters).
    fn vjp(&self, g: &[T]) -> (Vec<T>, Vec<T>) {
        let (mut dz, mut dp) = (nan(self.input.len()), nan(self.parameters.len()));
        let (set_z, set_p) = (Write::Set(&mut dz[..]), Write::Set(&mut dp[..]));
        self.layer
            .vjp(&self.point(), g, set_z, set_p, &mut self.work());
        (dz, dp)
    }

    fn jvp(&self, v_input: Option<&[T]>, v_parameters: Option<&[T]>) -> Vec<T> {
        let mut tangent = nan(self.output.len());
        let work = &mut self.work();
        self.layer
            .jvp(&self.point(), v_input, v_parameters, &mut tangent, work);
        tangent
    }

    fn curvature_bound(&self) -> T {
        let mut work = nan(self.layer.scratch(1).bound);
        let bound = self.layer.curvature_bound(self.parameters, &mut work);
        bound.expect("dense layers have a bound")
    }
}

fn equals_its_parts<T: Scalar>(case: &Case, unit: &Sequential<T>) {
    let rng = &mut case.rng();
    let parts = case.parameters::<T>(rng);
    let whole = parts.concat();
    let z = uniform::<T>(rng, case.input_dim() * case.n);
    let mut calls: Vec<Call<'_, T>> = Vec::new();
    for (layer, own) in case.layers.iter().zip(&parts) {
        let input = calls.last().map_or(z.clone(), |call| call.output.clone());
        calls.push(Call::new(layer, own, input));
    }
    let unit = Call::new(unit, &whole, z.clone());
    let last = &calls[calls.len() - 1];
    assert_eq!(unit.output, last.output, "forward");

    let g = uniform::<T>(rng, unit.output.len());
    let mut through = g.clone();
    let mut d_parameters = Vec::new();
    for call in calls.iter().rev() {
        let (dz, dp) = call.vjp(&through);
        through = dz;
        d_parameters.splice(0..0, dp);
    }
    assert_eq!(unit.vjp(&g), (through, d_parameters), "vjp");

    let v_input = uniform::<T>(rng, z.len());
    let v_parameters = uniform::<T>(rng, whole.len());
    for (in_input, in_parameters) in [(true, false), (false, true), (true, true)] {
        let mut tangent = in_input.then(|| v_input.clone());
        let mut rest = &v_parameters[..];
        for call in &calls {
            let (own, later) = rest.split_at(call.parameters.len());
            rest = later;
            let own = in_parameters.then_some(own);
            tangent = Some(call.jvp(tangent.as_deref(), own));
        }
        let v_input = in_input.then_some(&v_input[..]);
        let v_parameters = in_parameters.then_some(&v_parameters[..]);
        let whole = unit.jvp(v_input, v_parameters);
        assert_eq!(Some(whole), tangent, "jvp");
    }

    let product = calls
        .iter()
        .fold(1.0, |p, call| p * call.curvature_bound().as_f64());
    let bound = unit.curvature_bound().as_f64();
    let room = 8.0 * T::default_epsilon().as_f64() * product;
    assert!(
        (bound - product).abs() <= room,
        "bound {bound}, product {product}"
    );
}

#[test]
fn a_unit_equals_its_parts() {
    for_all(|case| {
        equals_its_parts::<f64>(&case, &case.flat());
        equals_its_parts::<f32>(&case, &case.flat());
    });
}

#[test]
fn a_nested_unit_equals_its_parts() {
    for_all(|case| {
        equals_its_parts::<f64>(&case, &case.nested());
        equals_its_parts::<f32>(&case, &case.nested());
    });
}

/// `Skip` computes nothing, `Add` adds: what the unit passes on to its layers.
#[test]
fn a_unit_writes_as_it_is_told() {
    for_all(|case| {
        let rng = &mut case.rng();
        let parameters = case.parameters::<f64>(rng).concat();
        let input = uniform(rng, case.input_dim() * case.n);
        let unit = case.flat();
        let call = Call::new(&unit, &parameters, input);
        let g = uniform(rng, call.output.len());
        let (dz, dp) = call.vjp(&g);
        let (mut sum_z, mut sum_p) = (vec![1.0; dz.len()], vec![1.0; dp.len()]);
        let add = Write::Add(&mut sum_z[..]);
        unit.vjp(&call.point(), &g, add, Write::Skip, &mut call.work());
        let add = Write::Add(&mut sum_p[..]);
        unit.vjp(&call.point(), &g, Write::Skip, add, &mut call.work());
        for (sum, d) in sum_z.iter().zip(&dz).chain(sum_p.iter().zip(&dp)) {
            assert!((sum - (d + 1.0)).abs() <= 1e-13 * (1.0 + d.abs()));
        }
    });
}

/// The groups of a unit tile its parameters, named after the layers.
#[test]
fn parameters_are_named_by_layer() {
    let dense = |i, o| Dense::new(i, o, Activation::Tanh).unwrap();
    let inner = Sequential::<f64>::new(vec![Box::new(dense(3, 4).without_bias())]).unwrap();
    let unit = Sequential::<f64>::new(vec![Box::new(dense(2, 3)), Box::new(inner)]).unwrap();
    let groups: Vec<_> = unit
        .parameters()
        .into_iter()
        .map(|g| (g.name, g.range))
        .collect();
    let expected = [
        ("0.weights", 0..6),
        ("0.bias", 6..9),
        ("1.0.weights", 9..21),
    ];
    assert_eq!(
        groups,
        expected.map(|(name, range)| (name.to_string(), range))
    );
}

fn one_unit_is_backprop<T: Scalar>(case: &Case) {
    let rng = &mut case.rng();
    let parts = case.parameters::<T>(rng);
    let inputs = DMatrix::from_vec(
        case.input_dim(),
        case.n,
        uniform(rng, case.input_dim() * case.n),
    );
    // Distributions, so that one circuit serves both output losses.
    let mut targets = DMatrix::from_vec(
        case.output_dim(),
        case.n,
        uniform::<T>(rng, case.output_dim() * case.n),
    );
    for mut column in targets.column_iter_mut() {
        let total = column.iter().fold(T::zero(), |sum, &x| sum + x.abs());
        column.apply(|x| *x = x.abs() / total);
    }
    for entropy in [false, true] {
        let build = |layers: Vec<Box<dyn Layer<T>>>, parameters: &[Vec<T>]| {
            let mut builder = Circuit::<T>::builder();
            for layer in layers {
                builder = builder.layer(layer);
            }
            let energy = match entropy {
                true => Energy::new(SoftmaxCrossEntropy),
                false => Energy::default(),
            };
            let mut model = DecoupledCircuit::new(builder.build().unwrap(), energy).unwrap();
            for (t, own) in parameters.iter().enumerate() {
                model.set_parameters(t, own).unwrap();
            }
            let init = TargetInit::RandomNormal { std: 1.0, seed: 5 };
            model.add_examples(&inputs, &targets, &init).unwrap();
            model
        };
        let separate = case.layers.iter().map(|layer| Box::new(layer.clone()) as _);
        let separate = build(separate.collect(), &parts);
        let unit = build(vec![Box::new(case.flat::<T>())], &[parts.concat()]);
        let backprop = separate.backprop(&Selection::All).unwrap();
        for gradients in [
            unit.gradients(&Selection::All).unwrap(),
            unit.backprop(&Selection::All).unwrap(),
        ] {
            assert_eq!(gradients.energy, backprop.energy);
            assert_eq!(gradients.parameters, [backprop.parameters.concat()]);
        }
        assert_eq!(
            unit.predict(&inputs).unwrap(),
            separate.predict(&inputs).unwrap()
        );
    }
}

/// One unit of all layers has no auxiliary targets: its decoupled gradients are backprop's of the
/// same layers one by one, in every bit.
#[test]
fn a_circuit_of_one_unit_has_the_gradients_of_backprop() {
    for_all(|case| {
        one_unit_is_backprop::<f64>(&case);
        one_unit_is_backprop::<f32>(&case);
    });
}

/// ẑ = z + a, with a in 0..1 drawn from the context's seed: what a stochastic layer would do.
#[derive(Debug)]
struct Drawn;

impl Layer<f64> for Drawn {
    fn input_shape(&self) -> Shape {
        1.into()
    }

    fn output_shape(&self) -> Shape {
        1.into()
    }

    fn parameters(&self) -> Vec<ParameterGroup> {
        Vec::new()
    }

    fn initialize(&self, _: &mut [f64], _: &mut dyn Rng) {}

    fn scratch(&self, batch: usize) -> Scratch {
        Scratch::new(3 * batch, 5 * batch)
    }

    fn forward(
        &self,
        context: &Context<'_>,
        _: &[f64],
        input: &[f64],
        output: &mut [f64],
        _: Option<&mut [f64]>,
        _: &mut [f64],
    ) {
        let mut rng = ChaCha8Rng::seed_from_u64(context.seed);
        let drawn: f64 = rng.random();
        output.copy_from_slice(input);
        output.iter_mut().for_each(|out| *out += drawn);
    }

    fn vjp(
        &self,
        _: &Point<'_, f64>,
        cotangent: &[f64],
        d_input: Write<'_, f64>,
        _: Write<'_, f64>,
        _: &mut [f64],
    ) {
        d_input.each(|i| cotangent[i]);
    }

    fn jvp(
        &self,
        _: &Point<'_, f64>,
        v_input: Option<&[f64]>,
        _: Option<&[f64]>,
        tangent: &mut [f64],
        _: &mut [f64],
    ) {
        Write::Set(tangent).each(|i| v_input.map_or(0.0, |v| v[i]));
    }
}

#[test]
fn every_layer_of_a_unit_draws_for_itself() {
    // What the k-th layer of a unit draws: what it adds to the unit of the layers before it.
    let total = |seed: u64, count: usize| {
        let layers = (0..count).map(|_| Box::new(Drawn) as Box<dyn Layer<f64>>);
        let unit = Sequential::new(layers.collect()).unwrap();
        let context = Context::inference(seed, 0);
        let (mut out, mut work) = ([0.0], vec![0.0; unit.scratch(1).work]);
        unit.forward(&context, &[], &[0.0], &mut out, None, &mut work);
        out[0]
    };
    let draws = |seed| -> Vec<f64> {
        let totals: Vec<f64> = (1..5).map(|count| total(seed, count)).collect();
        let steps = totals.windows(2).map(|pair| pair[1] - pair[0]);
        std::iter::once(totals[0]).chain(steps).collect()
    };
    let first = draws(1);
    assert_eq!(first, draws(1), "a draw is a function of the seed");
    let all = [first, draws(2)].concat();
    for (i, a) in all.iter().enumerate() {
        for b in &all[..i] {
            assert!((a - b).abs() > 1e-6, "two layers, or two seeds, drew {a}");
        }
    }
}

#[test]
fn a_unit_asks_for_the_memory_it_uses() {
    let layers = (0..3).map(|_| Box::new(Drawn) as Box<dyn Layer<f64>>);
    let unit = Sequential::new(layers.collect()).unwrap();
    // Two outputs between the layers and three tapes; two arrays to alternate, and one layer's work.
    assert_eq!(unit.scratch(7).tape, 7 * (2 + 3 * 3));
    assert_eq!(unit.scratch(7).work, 7 * (2 + 5));
}

#[test]
fn a_unit_has_the_target_range_of_its_last_layer() {
    let dense = |activation| Box::new(Dense::new(2, 2, activation).unwrap()) as Box<dyn Layer<f64>>;
    let unit = Sequential::new(vec![dense(Activation::Tanh), dense(Activation::Sigmoid)]).unwrap();
    assert_eq!(unit.target_range(), (0.5, 0.15));
    assert!(unit.input_differentiable());
}

/// The product of the bounds, though a part of it may not fit the scalar.
#[test]
fn a_bound_is_right_wherever_it_fits() {
    fn check<T: Scalar>(small: f64) {
        let large = 1.0 / small;
        let layer = || {
            let dense = Dense::new(1, 1, Activation::Identity).unwrap();
            Box::new(dense.without_bias()) as Box<dyn Layer<T>>
        };
        let unit = Sequential::new((0..4).map(|_| layer()).collect()).unwrap();
        let mut work: Vec<T> = nan(unit.scratch(1).bound);
        let mut bound = |weights: [f64; 4]| {
            let weights = weights.map(T::of);
            unit.curvature_bound(&weights, &mut work).unwrap().as_f64()
        };
        for weights in [
            [small, small, large, large],
            [large, large, small, small],
            [small, large, small, large],
        ] {
            let found = bound(weights);
            assert!((found - 1.0).abs() < 1e-5, "{weights:?}: {found}");
        }
        // Those that do not fit are not too small, nor 0.
        assert_eq!(bound([large; 4]), f64::INFINITY);
        assert!(bound([small; 4]) > 0.0);
        assert_eq!(bound([large, large, 0.0, large]), 0.0);
    }
    check::<f64>(2.0_f64.powi(-400));
    check::<f32>(2.0_f64.powi(-50));
}
