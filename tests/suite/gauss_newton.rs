//! Gauss-Newton steps: exact on linear circuits, never uphill for any example, at
//! rest where the gradient is zero, and the same for an example in every batch.

use crate::property::{Tested, failed, for_all, generator, uniform};
use layerwise::decoupled::{Selection, TargetInit};
use layerwise::energy::{Energy, Value};
use layerwise::init::Initializer;
use layerwise::kernel::Write;
use layerwise::layer::{Activation, Context, Dense, ParameterGroup, Point, Scratch, Shape};
use layerwise::loss::{Huber, Poisson, PseudoHuber, SoftmaxCrossEntropy, SquaredError};
use layerwise::nalgebra::DMatrix;
use layerwise::optimizer::{Optimizer, Step};
use layerwise::rand::Rng;
use layerwise::regularizer::Regularizer;
use layerwise::target_solver::{
    Convergence, GaussNewton, ReverseSweep, StepSize, SynchronousDescent, TargetSolver,
};
use layerwise::training::{Decoupling, Phase, Trainer};
use layerwise::{Circuit, DecoupledCircuit, Error, Layer, Loss, Scalar};
use proptest::prelude::*;

in_both_scalars!(
    no_example_goes_uphill,
    #[cfg_attr(feature = "blas", ignore = "a BLAS sums by shape")]
    an_example_goes_its_own_way,
    a_linear_circuit_takes_one_step,
    it_rests_where_the_gradient_is_zero,
    preconditioners_hold_the_regularizers,
    one_iteration_solves_for_one_unknown,
    steep_layers_are_solved,
    weights_do_not_change_a_step,
);

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

/// A step divides by an example's weight, of which the inverse has fewer digits, or few near the ends of the
/// scalar.
fn weights_do_not_change_a_step<T: Tested>() {
    let ends = match T::ROUNDING < 1e-10 {
        true => [1.5e307, 1e307, 49.0, 1e-300],
        false => [3e37, 1e37, 41.0, 3e-33],
    };
    for end in ends {
        let layer = || {
            let dense = Dense::new(1, 1, Activation::Identity).unwrap();
            dense.without_bias()
        };
        let circuit = Circuit::builder().layer(layer()).layer(layer());
        // E = 4 z²/2 and rounds nothing: one step leads to 0.
        let energy = Energy::default().with_penalty(T::of(4.0));
        let mut model = DecoupledCircuit::<T>::new(circuit.build().unwrap(), energy).unwrap();
        for t in 0..2 {
            model.set_parameters(t, &[T::zero()]).unwrap();
        }
        let (n, zeros) = (500, DMatrix::zeros(1, 500));
        let given = TargetInit::Given(vec![DMatrix::from_element(1, n, T::of(1.0 / 1024.0))]);
        model.add_examples(&zeros, &zeros, &given).unwrap();
        let weights: Vec<T> = (0..n)
            .map(|i| T::of(end * (1.0 + i as f64 / 300.0)))
            .collect();
        model
            .set_example_weights(&Selection::All, &weights)
            .unwrap();
        let solver = GaussNewton::direct(1).with_damping(0.0).unwrap();
        model.solve_targets(&solver, &Selection::All).unwrap();
        let z = model.z(1).unwrap();
        for (z, weight) in z.iter().zip(&weights) {
            assert!(
                z.is_zero(),
                "{:e} with weight {:e}",
                z.as_f64(),
                weight.as_f64()
            );
        }
    }
}

/// What a random circuit is made from: widths, one activation, the weights' scale, losses, n.
#[derive(Debug, Clone)]
struct Case {
    widths: Vec<usize>,
    activation: Activation,
    scale: f64,
    output: usize,
    huber: bool,
    n: usize,
    seed: u64,
}

fn any_case() -> impl Strategy<Value = Case> {
    (
        prop::collection::vec(1..9usize, 3..12),
        prop::sample::select(&ACTIVATIONS[..]),
        prop::sample::select(vec![0.1, 1.0, 2.0, 4.0]),
        0..3usize,
        any::<bool>(),
        1..5usize,
        any::<u64>(),
    )
        .prop_map(|(widths, activation, scale, output, huber, n, seed)| Case {
            widths,
            activation,
            scale,
            output,
            huber,
            n,
            seed,
        })
}

impl Case {
    /// One of the four ways to solve the system.
    fn solver(&self, steps: u64, iterations: u64) -> GaussNewton {
        match self.seed % 4 {
            0 => GaussNewton::new(steps, iterations),
            1 => GaussNewton::chained(steps, iterations),
            2 => GaussNewton::direct(steps),
            _ => GaussNewton::cyclic_reduction(steps),
        }
    }

    fn model<T: Scalar>(&self) -> Result<DecoupledCircuit<T>, Error> {
        let mut builder = Circuit::builder().seed(self.seed);
        for pair in self.widths.windows(2) {
            let gain = Initializer::Orthogonal { gain: self.scale };
            builder =
                builder.layer(Dense::new(pair[0], pair[1], self.activation)?.with_weights(gain)?);
        }
        let mut energy = match self.output {
            0 => Energy::new(SquaredError),
            1 => Energy::new(SoftmaxCrossEntropy),
            _ => Energy::new(Poisson),
        }
        .with_penalty(T::of(0.7));
        if self.huber {
            energy = energy.with_hidden_loss(Huber::new(0.5)?);
        }
        let mut model = DecoupledCircuit::new(builder.build()?, energy)?;
        let rng = &mut generator(self.seed);
        let (first, last) = (self.widths[0], self.widths[self.widths.len() - 1]);
        let x = DMatrix::from_vec(first, self.n, uniform(rng, first * self.n, 1.5));
        // The first class, or a count of 1: within every domain.
        let y = DMatrix::from_fn(
            last,
            self.n,
            |i, _| if i == 0 { T::one() } else { T::zero() },
        );
        model.add_examples(
            &x,
            &y,
            &TargetInit::RandomNormal {
                std: 0.8,
                seed: self.seed,
            },
        )?;
        let weights: Vec<T> = (0..self.n).map(|i| T::of(0.5 + i as f64)).collect();
        model.set_example_weights(&Selection::All, &weights)?;
        Ok(model)
    }
}

/// E of every example.
fn energies<T: Scalar>(model: &DecoupledCircuit<T>) -> Vec<T> {
    let n = model.examples().len();
    let mut sums = vec![T::zero(); n];
    for t in 0..model.circuit().depth() {
        let problem = model.local_problem(t, 0..n).unwrap();
        let mut workspace = problem.workspace();
        let found = problem.evaluate(Value, &mut workspace);
        for (sum, &energy) in sums.iter_mut().zip(found.energies()) {
            *sum += energy;
        }
    }
    sums
}

fn no_example_goes_uphill<T: Tested>() {
    for_all(any_case(), |case| {
        let mut model = case.model::<T>().map_err(failed)?;
        for _ in 0..3 {
            let before = energies(&model);
            // Poisson's e^x may be too large for the scalar to begin with.
            prop_assume!(before.iter().all(|energy| energy.is_finite()));
            let solver = case.solver(2, 4);
            let solved = model.solve_targets(&solver, &Selection::All);
            solved.map_err(failed)?;
            for (before, after) in before.iter().zip(energies(&model)) {
                prop_assert!(after.is_finite() && after <= *before, "{before} to {after}");
            }
        }
        Ok(())
    });
}

fn an_example_goes_its_own_way<T: Tested>() {
    for_all(any_case(), |case| {
        let mut together = case.model::<T>().map_err(failed)?;
        let mut alone = together.clone();
        prop_assume!(energies(&together).iter().all(|energy| energy.is_finite()));
        let solver = case.solver(3, 3);
        together
            .solve_targets(&solver, &Selection::All)
            .map_err(failed)?;
        for i in (0..case.n).rev() {
            let one = Selection::Columns(i..i + 1);
            alone.solve_targets(&solver, &one).map_err(failed)?;
        }
        for t in 1..together.circuit().depth() {
            prop_assert_eq!(together.z(t).unwrap(), alone.z(t).unwrap());
        }
        Ok(())
    });
}

/// A weight scales an example's E, and changes nothing else.
#[test]
fn weights_do_not_change_the_way() {
    let case = Case {
        widths: vec![3, 5, 4, 2],
        activation: Activation::Tanh,
        scale: 1.5,
        output: 0,
        huber: false,
        n: 4,
        seed: 11,
    };
    let mut weighted = case.model::<f64>().unwrap();
    let mut plain = weighted.clone();
    plain
        .set_example_weights(&Selection::All, &[1.0; 4])
        .unwrap();
    let start = plain.z(1).unwrap().into_owned();
    for model in [&mut weighted, &mut plain] {
        let solver = GaussNewton::new(3, 4);
        model.solve_targets(&solver, &Selection::All).unwrap();
    }
    for t in 1..3 {
        let difference = (weighted.z(t).unwrap() - plain.z(t).unwrap()).amax();
        assert!(difference < 1e-12, "z_{t}: {difference}");
    }
    assert!((plain.z(1).unwrap() - start).amax() > 0.1);
}

/// Statement 5: on a linear circuit with squared losses one undamped step reaches
/// min E = ½ rᵀ S⁻¹ r, S = I + Σ_t P_t P_tᵀ/μ_t, P_t = W_{T−1} ⋯ W_t, r = y − forward pass. Gives the
/// relative error.
fn error_on_a_linear_circuit<T: Scalar>() -> f64 {
    let widths = [3, 5, 4, 6, 2];
    let penalties = [0.5, 2.0, 1.0];
    let energy = Energy::default().with_penalties(penalties.map(T::of).to_vec());
    let mut builder = Circuit::<T>::builder();
    for pair in widths.windows(2) {
        let layer = Dense::new(pair[0], pair[1], Activation::Identity).unwrap();
        builder = builder.layer(layer.without_bias());
    }
    let mut model = DecoupledCircuit::new(builder.seed(7).build().unwrap(), energy).unwrap();
    let x = DMatrix::from_fn(3, 4, |i, j| T::of((i as f64 - j as f64) / 3.0));
    let y = DMatrix::from_fn(2, 4, |i, j| T::of((2 * i + j) as f64 / 4.0));
    let random = TargetInit::RandomNormal { std: 1.0, seed: 2 };
    model.add_examples(&x, &y, &random).unwrap();
    let w = |t: usize| {
        let own = model.circuit().parameters(t);
        DMatrix::from_iterator(widths[t + 1], widths[t], own.iter().map(|w| w.as_f64()))
    };
    let mut s = DMatrix::<f64>::identity(2, 2);
    let mut p = DMatrix::<f64>::identity(2, 2);
    for t in (1..4).rev() {
        p *= w(t);
        s += &p * p.transpose() / penalties[t - 1];
    }
    let residual = (&y - model.predict(&x).unwrap()).map(|r| r.as_f64());
    let inverse = s.try_inverse().unwrap();
    let each = residual.column_iter();
    let expected: f64 = each.map(|r| 0.5 * (r.transpose() * &inverse * r)[0]).sum();
    let solver = GaussNewton::new(1, 60).with_damping(0.0).unwrap();
    let solver = solver.with_residual_tolerance(0.0).unwrap();
    model.solve_targets(&solver, &Selection::All).unwrap();
    (model.energy().unwrap().as_f64() / expected - 1.0).abs()
}

fn a_linear_circuit_takes_one_step<T: Tested>() {
    let error = error_on_a_linear_circuit::<T>();
    assert!(error < T::GRADIENT, "{error}");
}

#[test]
fn the_step_on_a_linear_circuit_is_exact() {
    let error = error_on_a_linear_circuit::<f64>();
    assert!(error < 1e-12, "{error}");
}

/// On a curved circuit with cross entropy the steps come to rest where every ∂E/∂z is zero.
fn it_rests_where_the_gradient_is_zero<T: Tested>() {
    let dense = |input, output, activation| Dense::new(input, output, activation).unwrap();
    let circuit = Circuit::<T>::builder()
        .layer(dense(3, 6, Activation::Tanh))
        .layer(dense(6, 5, Activation::Sigmoid))
        .layer(dense(5, 3, Activation::Identity))
        .seed(1);
    let energy =
        Energy::new(SoftmaxCrossEntropy).with_target_regularizer(Regularizer::l2(0.05).unwrap());
    let mut model = DecoupledCircuit::new(circuit.build().unwrap(), energy).unwrap();
    let x = DMatrix::from_fn(3, 5, |i, j| T::of(((i + 2 * j) % 5) as f64 / 2.5 - 1.0));
    let y = DMatrix::from_fn(3, 5, |i, j| T::of(f64::from(u8::from(j % 3 == i))));
    let noisy = TargetInit::NoisyForwardPass { std: 0.5, seed: 3 };
    model.add_examples(&x, &y, &noisy).unwrap();
    let norm = |model: &DecoupledCircuit<T>| {
        let targets = model.gradients(&Selection::All).unwrap().targets;
        let all = targets.iter().flat_map(|g| g.iter());
        all.map(|g| g.as_f64().powi(2)).sum::<f64>().sqrt()
    };
    let before = norm(&model);
    let solver = GaussNewton::new(40, 30);
    model.solve_targets(&solver, &Selection::All).unwrap();
    let after = norm(&model);
    // Steps are accepted by E, which is known to rounding, and the gradient so to its square root.
    let least = 0.1 * T::ROUNDING.sqrt();
    assert!(before > 0.1 && after < least, "{before} to {after}");
}

/// From the forward pass m iterations move the last m hidden layers' targets, and no bit of the others.
#[test]
fn an_iteration_reaches_one_layer() {
    let depth = 6;
    let mut builder = Circuit::<f64>::builder().seed(5);
    for _ in 0..depth {
        builder = builder.layer(Dense::new(3, 3, Activation::Tanh).unwrap());
    }
    let mut start = DecoupledCircuit::new(builder.build().unwrap(), Energy::default()).unwrap();
    let x = DMatrix::from_fn(3, 4, |i, j| (i as f64 - j as f64) / 2.0);
    let y = DMatrix::from_element(3, 4, 0.5);
    start
        .add_examples(&x, &y, &TargetInit::ForwardPass)
        .unwrap();
    for iterations in 1..depth {
        let mut model = start.clone();
        let solver = GaussNewton::new(1, iterations as u64);
        model.solve_targets(&solver, &Selection::All).unwrap();
        for t in 1..depth {
            let moved = model.z(t).unwrap() != start.z(t).unwrap();
            assert_eq!(
                moved,
                t >= depth - iterations,
                "z_{t}, {iterations} iterations"
            );
        }
    }
}

#[test]
fn options_out_of_range_are_errors() {
    for value in [-1.0, f64::NAN, f64::INFINITY] {
        for error in [
            GaussNewton::new(1, 1).with_damping(value).unwrap_err(),
            GaussNewton::new(1, 1)
                .with_residual_tolerance(value)
                .unwrap_err(),
        ] {
            assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
        }
    }
}

/// ẑ = z³.
#[derive(Debug)]
struct Cube;

impl Layer<f64> for Cube {
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

    fn scratch(&self, _: usize) -> Scratch {
        Scratch::NONE
    }

    fn forward(
        &self,
        _: &Context<'_>,
        _: &[f64],
        z: &[f64],
        output: &mut [f64],
        _: Option<&mut [f64]>,
        _: &mut [f64],
    ) {
        for (output, z) in output.iter_mut().zip(z) {
            *output = z.powi(3);
        }
    }

    fn vjp(
        &self,
        at: &Point<'_, f64>,
        g: &[f64],
        d_input: Write<'_, f64>,
        _: Write<'_, f64>,
        _: &mut [f64],
    ) {
        d_input.each(|i| 3.0 * at.input[i].powi(2) * g[i]);
    }

    fn jvp(
        &self,
        at: &Point<'_, f64>,
        v: Option<&[f64]>,
        _: Option<&[f64]>,
        tangent: &mut [f64],
        _: &mut [f64],
    ) {
        for (i, tangent) in tangent.iter_mut().enumerate() {
            *tangent = v.map_or(0.0, |v| 3.0 * at.input[i].powi(2) * v[i]);
        }
    }
}

/// E = ½ μ (z − a³)² + ½ (y − z³)², step by step: λ falls by 4 after a whole step, and rises by 8
/// after one that had to be drawn back.
#[test]
fn damping_goes_by_what_becomes_of_a_step() {
    let (a, mu, y) = (0.1_f64.cbrt(), 0.01, 1.0);
    let energy = |z: f64| 0.5 * mu * (z - 0.1).powi(2) + 0.5 * (y - z.powi(3)).powi(2);
    for damping in [2e-3, 0.1, 0.0] {
        let mut verdicts = [0; 2];
        let (mut z, mut lambda) = (0.1, damping);
        let mut path = Vec::new();
        for _ in 0..6 {
            let slope = 3.0 * z * z;
            let gradient = mu * (z - 0.1) - slope * (y - z.powi(3));
            let step = -gradient / (mu + slope * slope + lambda);
            let shares = [1.0, 0.25, 0.0625, 0.015625];
            let found = shares.iter().find(|s| energy(z + *s * step) <= energy(z));
            if found == Some(&1.0) {
                verdicts[0] += 1;
                lambda *= 0.25;
            } else {
                verdicts[1] += 1;
                lambda = f64::max(8.0 * lambda, 1e-3);
            }
            z += found.unwrap_or(&0.0) * step;
            path.push(z);
        }
        assert!(verdicts[0] > 0 && (verdicts[1] > 0 || damping == 0.1));
        for (steps, expected) in (1..).zip(path) {
            let builder = Circuit::builder().layer(Cube).layer(Cube);
            let energy = Energy::default().with_penalty(mu);
            let mut model = DecoupledCircuit::new(builder.build().unwrap(), energy).unwrap();
            let one = |value| DMatrix::from_element(1, 1, value);
            let given = TargetInit::Given(vec![one(0.1)]);
            model.add_examples(&one(a), &one(y), &given).unwrap();
            let solver = GaussNewton::new(steps, 5).with_damping(damping);
            model
                .solve_targets(&solver.unwrap(), &Selection::All)
                .unwrap();
            let found = model.z(1).unwrap()[(0, 0)];
            let error = (found - expected).abs();
            assert!(
                error < 1e-9,
                "λ = {damping}, {steps} steps: {found}, not {expected}"
            );
        }
    }
}

/// θ goes its own way, whatever the data.
#[derive(Debug)]
struct Drift;

impl Optimizer<f64> for Drift {
    fn slots(&self) -> usize {
        0
    }

    fn update(&self, step: Step, values: &mut [f64], _: &[f64], _: &mut [f64]) {
        for (k, value) in values.iter_mut().enumerate() {
            *value += 0.3 * ((step.number as f64 + k as f64) * 0.7).sin();
        }
    }
}

/// Over a whole run too: when the preconditioner's bounds are refreshed does not depend on how many
/// steps the other examples make.
#[test]
#[cfg_attr(feature = "blas", ignore = "a BLAS sums by shape")]
fn an_example_goes_its_own_way_through_a_run() {
    let train = |columns: std::ops::Range<usize>| {
        let mut builder = Circuit::<f64>::builder().seed(6);
        for pair in [3, 6, 5, 2].windows(2) {
            builder = builder.layer(Dense::new(pair[0], pair[1], Activation::Tanh).unwrap());
        }
        let mut model = DecoupledCircuit::new(builder.build().unwrap(), Energy::default()).unwrap();
        let x = DMatrix::from_fn(3, 3, |i, j| ((2 * i + 5 * j) % 7) as f64 / 2.0 - 1.0);
        let y = DMatrix::from_fn(2, 3, |i, j| (i + j) as f64 / 2.0);
        let own = |m: &DMatrix<f64>| m.columns_range(columns.clone()).into_owned();
        model
            .add_examples(&own(&x), &own(&y), &TargetInit::ForwardPass)
            .unwrap();
        let ends = Convergence::NEVER.with_tolerance(0.1).unwrap();
        let solver = GaussNewton::new(9, 2).with_convergence(ends);
        let phase = Phase::new(Decoupling::persistent(solver), Drift).with_epochs(8);
        Trainer::new(phase).run(&mut model).unwrap();
        (1..3)
            .map(|t| model.z(t).unwrap().column(0).into_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(train(0..1), train(0..3));
}

/// With one hidden unit, one iteration is exact, for every loss and λ: it goes as far as a direct solve.
fn one_iteration_solves_for_one_unknown<T: Tested>() {
    let huber = PseudoHuber::new(0.5).unwrap();
    let losses: [Box<dyn Loss<T>>; 2] = [Box::new(SquaredError), Box::new(huber)];
    for (k, loss) in losses.into_iter().enumerate() {
        let dense = |input, output, activation| Dense::new(input, output, activation).unwrap();
        let circuit = Circuit::builder()
            .seed(3)
            .layer(dense(2, 1, Activation::Tanh))
            .layer(dense(1, 3, Activation::Tanh));
        let energy = Energy::new(SoftmaxCrossEntropy)
            .with_hidden_losses(vec![loss])
            .with_penalty(T::of(0.5))
            .with_target_regularizers(vec![Regularizer::l2(0.2).unwrap()]);
        let mut start = DecoupledCircuit::new(circuit.build().unwrap(), energy).unwrap();
        let x = DMatrix::from_vec(2, 5, uniform::<T>(&mut generator(1), 10, 1.0));
        let y = DMatrix::from_fn(3, 5, |i, j| T::of(f64::from(u8::from(i == j % 3))));
        let init = TargetInit::NoisyForwardPass { std: 0.3, seed: 2 };
        start.add_examples(&x, &y, &init).unwrap();
        for damping in [0.0, 0.7] {
            let moved = |solver: GaussNewton| {
                let mut model = start.clone();
                let solver = solver.with_damping(damping).unwrap();
                model.solve_targets(&solver, &Selection::All).unwrap();
                model.z(1).unwrap().into_owned()
            };
            let expected = moved(GaussNewton::direct(1));
            assert!((&expected - start.z(1).unwrap()).amax().as_f64() > 1e-3);
            for solver in [GaussNewton::new(1, 1), GaussNewton::chained(1, 1)] {
                let error = (moved(solver) - &expected).amax().as_f64();
                assert!(
                    error < 10.0 * T::ROUNDING,
                    "{solver:?}, loss {k}, λ {damping}: {error}"
                );
            }
        }
    }
}

/// One iteration is α M⁻¹ r, α = r·y / y·H y with y = M⁻¹ r: written out, with curvatures of S that
/// differ by layer.
fn preconditioners_hold_the_regularizers<T: Tested>() {
    let (mu, s, w) = ([0.5, 4.0], [8.0, 0.25], [0.5, -2.0, 1.5]);
    let unit = || {
        let dense = Dense::new(1, 1, Activation::Identity).unwrap();
        dense.without_bias()
    };
    let circuit = Circuit::builder().layer(unit()).layer(unit()).layer(unit());
    let energy = Energy::default()
        .with_penalties(mu.map(T::of).to_vec())
        .with_target_regularizers(s.map(|s| Regularizer::l2(s).unwrap()).to_vec());
    let mut start = DecoupledCircuit::new(circuit.build().unwrap(), energy).unwrap();
    for (t, w) in w.into_iter().enumerate() {
        start.set_parameters(t, &[T::of(w)]).unwrap();
    }
    let one = |value| DMatrix::from_element(1, 1, T::of(value));
    let z = [0.7, -0.4];
    let given = TargetInit::Given(z.map(one).to_vec());
    start.add_examples(&one(1.0), &one(0.5), &given).unwrap();
    let gradients = start.gradients(&Selection::All).unwrap().targets;
    let right = DMatrix::from_fn(2, 1, |t, _| -gradients[t][(0, 0)].as_f64());
    let diagonal = |own: [f64; 2]| DMatrix::from_fn(2, 2, |i, j| if i == j { own[i] } else { 0.0 });
    let chain = DMatrix::from_row_slice(2, 2, &[1.0, 0.0, -w[1], 1.0]);
    let hidden = |d: [f64; 2]| chain.transpose() * diagonal(d) * &chain;
    let hessian = hidden(mu) + diagonal(s) + diagonal([0.0, w[2] * w[2]]);
    let blocks = [
        mu[0] + mu[1] * w[1] * w[1] + s[0],
        mu[1] + w[2] * w[2] + s[1],
    ];
    for damping in [0.0, 3.0] {
        let both = [damping; 2];
        let hessian = &hessian + diagonal(both);
        for (solver, preconditioner) in [
            (GaussNewton::new(1, 1), diagonal(blocks) + diagonal(both)),
            (
                GaussNewton::chained(1, 1),
                hidden([mu[0] + s[0] + damping, mu[1] + s[1] + damping]),
            ),
        ] {
            let y = preconditioner.try_inverse().unwrap() * &right;
            let step = &y * (right.dot(&y) / y.dot(&(&hessian * &y)));
            let mut model = start.clone();
            let solver = solver.with_damping(damping).unwrap();
            model.solve_targets(&solver, &Selection::All).unwrap();
            for t in 0..2 {
                let found = model.z(t + 1).unwrap()[(0, 0)].as_f64() - z[t];
                let error = (found - step[t]).abs();
                assert!(error < 10.0 * T::ROUNDING, "{solver:?}: {found}, {step}");
            }
        }
    }
}

/// An error in one part of the batch leaves the targets of all as they were, and nothing in the
/// reports to come.
#[test]
fn after_an_error_nothing_has_moved() {
    let model = |bad: bool| {
        let dense = |activation| Dense::new(2, 2, activation).unwrap();
        let circuit = Circuit::<f32>::builder()
            .layer(dense(Activation::Tanh))
            .layer(dense(Activation::Tanh))
            .layer(dense(Activation::Identity));
        let mut model =
            DecoupledCircuit::new(circuit.seed(3).build().unwrap(), Energy::default()).unwrap();
        let x = DMatrix::from_fn(2, 40, |i, j| ((i + j) % 5) as f32 / 5.0);
        let mut y = DMatrix::from_element(2, 40, 0.5);
        if bad {
            y[(0, 35)] = 1e30;
        }
        let noisy = TargetInit::NoisyForwardPass { std: 0.3, seed: 1 };
        model.add_examples(&x, &y, &noisy).unwrap();
        model
    };
    for solver in [
        GaussNewton::new(2, 3),
        GaussNewton::chained(2, 3),
        GaussNewton::direct(2),
        GaussNewton::cyclic_reduction(2),
    ] {
        let mut good = model(false);
        let expected = good.solve_targets(&solver, &Selection::All).unwrap();
        let start = model(true);
        let mut failed = start.clone();
        let error = failed.solve_targets(&solver, &Selection::All);
        assert!(matches!(error, Err(Error::NonFinite { .. })), "{error:?}");
        for t in 1..3 {
            assert_eq!(failed.z(t).unwrap(), start.z(t).unwrap(), "z_{t}");
        }
        let mut again = model(false);
        let report = again.solve_targets(&solver, &Selection::All).unwrap();
        assert_eq!(report, expected);
        assert_eq!(again.z(1).unwrap(), good.z(1).unwrap());
    }
}

/// A chain of two linear units in `f32`.
fn chain(w: f32, y: f32, z: f32, weight: f32) -> DecoupledCircuit<f32> {
    let unit = || {
        let dense = Dense::new(1, 1, Activation::Identity).unwrap();
        dense.without_bias()
    };
    let circuit = Circuit::builder().layer(unit()).layer(unit()).layer(unit());
    let mut model = DecoupledCircuit::new(circuit.build().unwrap(), Energy::default()).unwrap();
    for t in 0..3 {
        model.set_parameters(t, &[w]).unwrap();
    }
    let one = |value| DMatrix::from_element(1, 1, value);
    let given = TargetInit::Given(vec![one(z), one(z)]);
    model.add_examples(&one(0.0), &one(y), &given).unwrap();
    model
        .set_example_weights(&Selection::All, &[weight])
        .unwrap();
    model
}

/// Steep layers and large or small residuals, of which products have the fourth power: whatever way
/// the system is solved, it is.
fn steep_layers_are_solved<T: Tested>() {
    let unit = || {
        let dense = Dense::new(1, 1, Activation::Identity).unwrap();
        dense.without_bias()
    };
    let one = |value| DMatrix::from_element(1, 1, T::of(value));
    let cases = [
        (1e7, 1e6),
        (1e8, 1e4),
        (1e10, 1.0),
        (1e3, 1e15),
        (1.0, 1e-25),
        (1e-3, 1e-30),
    ];
    for (steep, far) in cases {
        let solvers = [
            GaussNewton::new(20, 3),
            GaussNewton::chained(20, 3),
            GaussNewton::direct(20),
            GaussNewton::cyclic_reduction(20),
        ];
        for solver in solvers {
            let circuit = Circuit::builder().layer(unit()).layer(unit()).layer(unit());
            let mut model =
                DecoupledCircuit::new(circuit.build().unwrap(), Energy::default()).unwrap();
            for (t, w) in [1.0, 1.0, steep].into_iter().enumerate() {
                model.set_parameters(t, &[T::of(w)]).unwrap();
            }
            model
                .add_examples(&one(0.0), &one(far), &TargetInit::ForwardPass)
                .unwrap();
            let report = model.solve_targets(&solver, &Selection::All).unwrap();
            // ½ r²/(1 + 2J²), statement 5; z_2 = 2 J r/(1 + 2J²).
            let share = 1.0 / (1.0 + 2.0 * steep * steep);
            let (z, found) = (
                model.z(2).unwrap()[0].as_f64(),
                model.energy().unwrap().as_f64(),
            );
            let expected = 2.0 * steep * far * share;
            let name = format!("{steep:e}, {far:e}, {solver:?}: {report:?}");
            assert!((z / expected - 1.0).abs() < 1e-3, "{z}, {expected}: {name}");
            let least = 0.5 * far * far * share;
            if least > 1e-35 {
                assert!(
                    (found / least - 1.0).abs() < 1e-2,
                    "{found}, {least}: {name}"
                );
            }
        }
    }
}

#[test]
fn the_ends_of_f32_are_not_the_ends_of_a_solver() {
    // However small an example's weight is, it comes to rest like any other.
    for weight in [1.0, 1e-20, 1e-24, 1e-30, 1e-38] {
        let mut model = chain(1.0, 0.3, 0.1, weight);
        let ends = Convergence::NEVER.with_tolerance(1e-3).unwrap();
        let solver = GaussNewton::direct(50).with_convergence(ends);
        let report = model.solve_targets(&solver, &Selection::All).unwrap();
        assert!(
            report.at_rest == 1 && report.steps < 5,
            "{weight}: {report:?}"
        );
    }
    // Where the preconditioned residual overflows there is no step, and that is said.
    let mut model = chain(1e7, 1.0, 0.0, 1.0);
    let solver = GaussNewton::chained(1, 3);
    let report = model.solve_targets(&solver, &Selection::All).unwrap();
    assert_eq!(report.drawn_back, 1);
    // Options that are infinite or zero in the scalar are refused.
    let damping = GaussNewton::new(1, 1).with_damping(1e39).unwrap();
    let refused = model.solve_targets(&damping, &Selection::All);
    assert!(matches!(refused, Err(Error::InvalidOption { .. })));
    for step in [StepSize::Fixed(1e-50), StepSize::Checked(1e39)] {
        let sweep = ReverseSweep::new(1).with_step(step).unwrap();
        let synchronous = SynchronousDescent::new(1, step).unwrap();
        let solvers: [&dyn TargetSolver<f32>; 2] = [&sweep, &synchronous];
        for solver in solvers {
            let before = model.clone();
            let refused = model.solve_targets(solver, &Selection::All);
            assert!(matches!(refused, Err(Error::InvalidOption { .. })));
            assert_eq!(model.z(1).unwrap(), before.z(1).unwrap());
        }
    }
}

/// Directions of an undamped solve overflow, and their products with J; the damped solves after it are not
/// affected.
#[test]
fn directions_that_overflowed_are_forgotten() {
    for penalty in [4e-38_f32, 8e-38, 1.4e-37] {
        let mut builder = Circuit::<f32>::builder();
        for _ in 0..12 {
            let weights = Initializer::Constant { value: 1.0 };
            let layer = Dense::new(1, 1, Activation::Identity).unwrap();
            builder = builder.layer(layer.with_weights(weights).unwrap());
        }
        let energy = Energy::default().with_penalty(penalty);
        let mut model = DecoupledCircuit::new(builder.build().unwrap(), energy).unwrap();
        let x = DMatrix::from_element(1, 1, 1.0);
        model
            .add_examples(&x, &(2.0 * &x), &TargetInit::ForwardPass)
            .unwrap();
        let solver = GaussNewton::chained(6, 8).with_damping(0.0).unwrap();
        model.solve_targets(&solver, &Selection::All).unwrap();
        let energy = model.energy().unwrap();
        assert!(energy < 1e-30, "{penalty}: {energy}");
    }
}
