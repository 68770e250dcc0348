//! θ steps along the sweep that moves z: against backprop, against its definition, and counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use layerwise::energy::LocalProblem;
use layerwise::kernel::Write;
use layerwise::layer::{Activation, Context, Dense, Point};
use layerwise::loss::SquaredError;
use layerwise::optimizer::{Adam, GradientDescent};
use layerwise::parameter_solver::LeastSquares;
use layerwise::prelude::*;
use layerwise::target_solver::{GaussNewton, StepSize};
use layerwise::training::{Backprop, Decoupling, Part, Targets, WStep, ZStep};
use layerwise::{Error, Layer};

use crate::property::{Tested, generator, uniform};

in_both_scalars!(
    a_step_of_1_over_mu_is_backprop,
    one_layer_steps_as_backprop_does,
    it_is_its_definition,
);

const DIMS: [usize; 5] = [3, 6, 4, 5, 2];
const N: usize = 7;

fn model<T: Tested>(penalty: f64) -> DecoupledCircuit<T> {
    let mut builder = Circuit::builder().seed(2);
    for (t, pair) in DIMS.windows(2).enumerate() {
        let activation = [Activation::Tanh, Activation::Identity][t / 3];
        builder = builder.layer(Dense::new(pair[0], pair[1], activation).unwrap());
    }
    let energy = Energy::new(SoftmaxCrossEntropy).with_penalty(T::of(penalty));
    let mut model = DecoupledCircuit::new(builder.build().unwrap(), energy).unwrap();
    let x = DMatrix::from_vec(
        DIMS[0],
        N,
        uniform::<T>(&mut generator(1), DIMS[0] * N, 1.0),
    );
    let y = DMatrix::from_fn(DIMS[4], N, |i, j| T::of(f64::from(u8::from(i == j % 2))));
    let init = TargetInit::NoisyForwardPass { std: 0.3, seed: 4 };
    model.add_examples(&x, &y, &init).unwrap();
    let weights: Vec<T> = (0..N).map(|i| T::of([1.0, 0.5, 0.0, 3.0][i % 4])).collect();
    model
        .set_example_weights(&Selection::All, &weights)
        .unwrap();
    model
}

fn along<T: Tested>(targets: Targets, step: StepSize) -> Decoupling<T> {
    Decoupling::new(targets, ZStep::Along(step)).unwrap()
}

/// One step of θ by plain gradient descent.
fn stepped<T: Tested>(model: &mut DecoupledCircuit<T>, scheme: impl Scheme<T> + 'static) {
    let rule = GradientDescent::new(0.5).unwrap();
    let phase = Phase::new(scheme, rule).with_epochs(1);
    Trainer::new(phase).run(model).unwrap();
}

/// With refreshed targets and squared L_h, θ_t steps along (μη)^(T−1−t) times backprop's gradient.
fn a_step_of_1_over_mu_is_backprop<T: Tested>() {
    for (penalty, product) in [(1.0, 1.0), (4.0, 1.0), (1.0, 0.25), (2.0, 0.5)] {
        let start = model::<T>(penalty);
        let (mut own, mut other) = (start.clone(), start.clone());
        let step = StepSize::Fixed(product / penalty);
        stepped(&mut own, along(Targets::Refreshed, step));
        stepped(&mut other, Backprop);
        let last = DIMS.len() - 2;
        for t in 0..=last {
            let factor = product.powi((last - t) as i32);
            let parameters = [&start, &own, &other].map(|model| model.circuit().parameters(t));
            let [start, own, other] = parameters;
            let triples = start.iter().zip(own).zip(other);
            for ((start, own), other) in triples {
                let (own, other) = ((*own - *start).as_f64(), (*other - *start).as_f64());
                let error = (own - factor * other).abs();
                assert!(
                    error < 10.0 * T::ROUNDING,
                    "θ_{t}: {own}, not {factor} · {other}"
                );
            }
        }
    }
}

/// A circuit of one layer has no targets to move: every step of θ is backprop's.
fn one_layer_steps_as_backprop_does<T: Tested>() {
    let run = |scheme: Arc<dyn Scheme<T>>| {
        let dense = Dense::new(3, 2, Activation::Tanh).unwrap();
        let circuit = Circuit::builder().layer(dense).build().unwrap();
        let mut model = DecoupledCircuit::new(circuit, Energy::default()).unwrap();
        let x = DMatrix::from_vec(3, N, uniform::<T>(&mut generator(1), 3 * N, 1.0));
        let y = DMatrix::from_vec(2, N, uniform::<T>(&mut generator(2), 2 * N, 1.0));
        let init = TargetInit::ForwardPass;
        model.add_examples(&x, &y, &init).unwrap();
        let phase = Phase::new(scheme, Adam::new(0.1).unwrap()).with_epochs(20);
        let trainer = Trainer::new(phase.with_batch_size(3).unwrap());
        trainer.run(&mut model).unwrap();
        model.circuit().parameters(0).to_vec()
    };
    let backprop = run(Arc::new(Backprop));
    for targets in [Targets::Refreshed, Targets::Persistent] {
        for step in [StepSize::Fixed(0.5), StepSize::Bounded { margin: 1.0 }] {
            assert_eq!(run(Arc::new(along(targets, step))), backprop, "{step:?}");
        }
    }
}

/// Persistent targets: by loops over the layers' own problems.
fn it_is_its_definition<T: Tested>() {
    let (penalty, step) = (2.0, 0.15);
    let start = model::<T>(penalty);
    let mut own = start.clone();
    stepped(&mut own, along(Targets::Persistent, StepSize::Fixed(step)));
    let depth = DIMS.len() - 1;
    let mut z: Vec<Vec<T>> = (0..=depth)
        .map(|t| start.z(t).unwrap().into_owned().as_slice().to_vec())
        .collect();
    let weights: Vec<T> = (0..N).map(|i| T::of([1.0, 0.5, 0.0, 3.0][i % 4])).collect();
    for t in (0..depth).rev() {
        let local = |t: usize, z: &[Vec<T>]| {
            let (layer, theta) = (start.circuit().layer(t), start.circuit().parameters(t));
            let loss: &dyn Loss<T> = if t + 1 == depth {
                &SoftmaxCrossEntropy
            } else {
                &SquaredError
            };
            let mu = if t + 1 == depth { 1.0 } else { penalty };
            let problem = LocalProblem::new(layer, theta, loss, T::of(mu), &z[t], &z[t + 1]);
            problem
                .unwrap()
                .with_example_weights(&weights)
                .unwrap()
                .gradients()
        };
        let at = local(t, &z);
        let expected = start.circuit().parameters(t).iter().zip(&at.parameters);
        // Along the mean over the five examples that have a weight.
        let expected = expected.map(|(&theta, &g)| theta - T::of(0.5 / 5.0) * g);
        for (found, expected) in own.circuit().parameters(t).iter().zip(expected) {
            let error = (*found - expected).as_f64().abs();
            assert!(error < 10.0 * T::ROUNDING, "θ_{t}: {found}, not {expected}");
        }
        if t > 0 {
            let below = local(t - 1, &z).target;
            let dim = DIMS[t];
            for (k, (z, (&a, b))) in z[t].iter_mut().zip(at.input.iter().zip(below)).enumerate() {
                let weight = weights[k / dim];
                if weight > T::zero() {
                    *z -= T::of(step) * (a + b) / weight;
                }
            }
            let found = own.z(t).unwrap().into_owned();
            for (found, expected) in found.iter().zip(&z[t]) {
                let error = (*found - *expected).as_f64().abs();
                assert!(error < 10.0 * T::ROUNDING, "z_{t}: {found}, not {expected}");
            }
        }
    }
}

/// The calls of a layer's methods.
#[derive(Debug, Default)]
struct Calls {
    forward: AtomicUsize,
    input: AtomicUsize,
    parameters: AtomicUsize,
    vjp: AtomicUsize,
    jvp: AtomicUsize,
}

#[derive(Debug)]
struct Counted(Dense, Arc<Calls>);

impl Layer<f64> for Counted {
    described_by!(0: f64);

    fn forward(
        &self,
        context: &Context<'_>,
        parameters: &[f64],
        input: &[f64],
        output: &mut [f64],
        tape: Option<&mut [f64]>,
        work: &mut [f64],
    ) {
        self.1.forward.fetch_add(1, Ordering::Relaxed);
        self.0
            .forward(context, parameters, input, output, tape, work);
    }

    fn vjp(
        &self,
        at: &Point<'_, f64>,
        cotangent: &[f64],
        d_input: Write<'_, f64>,
        d_parameters: Write<'_, f64>,
        work: &mut [f64],
    ) {
        let calls = &self.1;
        calls.vjp.fetch_add(1, Ordering::Relaxed);
        calls
            .input
            .fetch_add(usize::from(!d_input.is_skip()), Ordering::Relaxed);
        let parameters = usize::from(!d_parameters.is_skip());
        calls.parameters.fetch_add(parameters, Ordering::Relaxed);
        self.0.vjp(at, cotangent, d_input, d_parameters, work);
    }

    fn jvp(
        &self,
        at: &Point<'_, f64>,
        input: Option<&[f64]>,
        parameters: Option<&[f64]>,
        tangent: &mut [f64],
        work: &mut [f64],
    ) {
        self.1.jvp.fetch_add(1, Ordering::Relaxed);
        self.0.jvp(at, input, parameters, tangent, work);
    }

    fn curvature_bound(&self, parameters: &[f64], work: &mut [f64]) -> Option<f64> {
        Layer::<f64>::curvature_bound(&self.0, parameters, work)
    }
}

/// Forward passes, products for z, products for θ, calls of vjp and of jvp that one more visit takes.
fn calls_of_a_visit(scheme: impl Fn() -> Arc<dyn Scheme<f64>>) -> [usize; 5] {
    calls_of(|| Phase::new(scheme(), Adam::new(1e-3).unwrap()))
}

fn calls_of(phase: impl Fn() -> Phase<f64>) -> [usize; 5] {
    let calls = |epochs: u64| {
        let calls = Arc::new(Calls::default());
        let mut builder = Circuit::builder();
        for _ in 0..10 {
            let dense = Dense::new(3, 3, Activation::Tanh).unwrap();
            builder = builder.layer(Counted(dense, calls.clone()));
        }
        let mut model = DecoupledCircuit::new(builder.build().unwrap(), Energy::default()).unwrap();
        let x = DMatrix::from_fn(3, 4, |i, j| ((i + 3 * j) as f64).sin());
        model
            .add_examples(&x, &x.map(f64::cos), &TargetInit::ForwardPass)
            .unwrap();
        let trainer = Trainer::new(phase().with_epochs(epochs)).with_measure_every(0);
        trainer.run(&mut model).unwrap();
        let Calls {
            forward,
            input,
            parameters,
            vjp,
            jvp,
        } = &*calls;
        [forward, input, parameters, vjp, jvp].map(|own| own.load(Ordering::Relaxed))
    };
    let (few, more) = (calls(5), calls(6));
    std::array::from_fn(|k| more[k] - few[k])
}

/// At depth 10: backprop and a step along the sweep take 29 products, a sweep and a W-step 39.
#[test]
fn a_visit_makes_as_many_products_as_backprop() {
    let fixed = StepSize::Fixed(0.1);
    let backprop = calls_of_a_visit(|| Arc::new(Backprop));
    assert_eq!(backprop, [10, 9, 10, 10, 0]);
    let along = calls_of_a_visit(|| Arc::new(along(Targets::Refreshed, fixed)));
    assert_eq!(along, backprop);
    let persistent = calls_of_a_visit(|| Arc::new(along_persistent()));
    assert_eq!(persistent, backprop);
}

/// At depth 10, a chained step of one iteration from refreshed targets: the forward pass; ∂E/∂z, of which only
/// the output layer's part is not 0; 8 products with Jᵀ and 8 with J to precondition, and one with the last
/// J, since the others are known; E at the new targets; and θ's products. A second iteration multiplies by H
/// in between: Jᵀ of every layer but the first, and J of the last.
#[test]
fn a_chained_step_makes_few_products() {
    let counted = |iterations| {
        let solver = move || GaussNewton::chained(1, iterations);
        calls_of_a_visit(|| Arc::new(Decoupling::refreshed(solver())))
    };
    let (once, twice) = (counted(1), counted(2));
    assert_eq!(once, [20, 1 + 8, 10, 19, 8 + 1]);
    let more: Vec<usize> = twice.iter().zip(&once).map(|(a, b)| a - b).collect();
    assert_eq!(more, [0, 9 + 8, 0, 17, 8 + 1]);
    // With all layers but the last frozen, whose gradients in θ are never taken.
    let tuned = calls_of(|| {
        let scheme = Decoupling::refreshed(GaussNewton::chained(1, 1));
        let adam = WStep::optimizer(Adam::new(1e-3).unwrap());
        let w_step = (0..9).fold(adam, |own, t| own.with_frozen(Part::layer(t)));
        Phase::with_w_step(scheme, w_step).unwrap()
    });
    assert_eq!(tuned, [20, 1 + 8, 1, 10, 8 + 1]);
}

fn along_persistent() -> Decoupling<f64> {
    along(Targets::Persistent, StepSize::Fixed(0.1))
}

#[test]
fn what_does_not_fit_is_refused() {
    let step = |step| Decoupling::<f64>::new(Targets::Refreshed, ZStep::Along(step));
    let error = step(StepSize::Checked(0.1)).unwrap_err();
    assert!(
        error.to_string().contains("checked steps along the sweep"),
        "{error}"
    );
    for wrong in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let error = step(StepSize::Fixed(wrong)).unwrap_err();
        assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
    }
    let own = || along::<f64>(Targets::Persistent, StepSize::Fixed(0.1));
    let solver = WStep::solver(LeastSquares::ridge(0.1).unwrap());
    let error = Phase::with_w_step(own(), solver).unwrap_err();
    assert!(error.to_string().contains("along the sweep"), "{error}");
    let twice = WStep::optimizer(Adam::new(0.1).unwrap())
        .with_steps(2)
        .unwrap();
    let error = Phase::with_w_step(own(), twice).unwrap_err();
    assert!(error.to_string().contains("along the sweep"), "{error}");
}
