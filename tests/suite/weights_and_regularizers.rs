//! Example weights and regularisers: values and gradients by finite differences and by hand, what
//! weights and R scale and what they leave alone, and weight decay in a run.

use std::sync::{Arc, Mutex};

use crate::property::{Tested, failed, for_all, generator, uniform};
use layerwise::decoupled::{Selection, TargetInit};
use layerwise::energy::{All, Energy, LocalProblem};
use layerwise::gradcheck::GradCheck;
use layerwise::layer::{Activation, Dense};
use layerwise::loss::{SoftmaxCrossEntropy, SquaredError};
use layerwise::nalgebra::DMatrix;
use layerwise::optimizer::{Adam, AdamW, GradientDescent, Optimizer, Step};
use layerwise::regularizer::Regularizer;
use layerwise::state::State;
use layerwise::target_solver::{ReverseSweep, StepSize, SynchronousDescent, TargetSolver};
use layerwise::training::{Backprop, Decoupling, Phase, Scheme, Trainer, Visit};
use layerwise::{Circuit, DecoupledCircuit, Error, Scalar};
use proptest::prelude::*;

in_both_scalars!(
    gradients_are_those_of_the_energy,
    regularizers_add_their_own_part,
    composed_loss_has_weights_and_no_regularizers,
    local_problems_have_weights,
);

/// λ₁ and λ₂ of λ₁ Σ|x| + ½ λ₂ Σx², computed here once more.
#[derive(Debug, Clone, Copy)]
struct Elastic(f64, f64);

const NONE: Elastic = Elastic(0.0, 0.0);

impl Elastic {
    fn regularizer(self) -> Regularizer {
        Regularizer::elastic(self.0, self.1).unwrap()
    }

    fn value<T: Scalar>(self, x: &[T]) -> f64 {
        let each = x.iter().map(|x| x.as_f64());
        each.map(|x| self.0 * x.abs() + 0.5 * self.1 * x * x).sum()
    }

    fn slope<T: Scalar>(self, x: T) -> f64 {
        let x = x.as_f64();
        self.0 * x.signum() + self.1 * x
    }
}

/// What a random circuit is made from.
#[derive(Debug, Clone)]
struct Case {
    widths: Vec<usize>,
    activations: Vec<Activation>,
    entropy: bool,
    n: usize,
    parameters: Elastic,
    targets: Elastic,
    seed: u64,
}

fn any_elastic() -> impl Strategy<Value = Elastic> {
    let ends = [Elastic(0.4, 0.0), Elastic(0.0, 0.8), Elastic(0.3, 0.6)];
    prop::sample::select(ends.to_vec())
}

fn any_case() -> impl Strategy<Value = Case> {
    let smooth = [
        Activation::Identity,
        Activation::Tanh,
        Activation::Sigmoid,
        Activation::Gelu,
        Activation::Softplus,
    ];
    (
        prop::collection::vec(1..5usize, 2..5),
        prop::collection::vec(prop::sample::select(smooth.to_vec()), 3),
        any::<bool>(),
        1..5usize,
        any_elastic(),
        any_elastic(),
        any::<u64>(),
    )
        .prop_map(
            |(widths, activations, entropy, n, parameters, targets, seed)| Case {
                widths,
                activations,
                entropy,
                n,
                parameters,
                targets,
                seed,
            },
        )
}

/// Uniform draws of order 1 that keep away from 0, where |x| has a kink.
fn away_from_zero<T: Scalar>(seed: u64, count: usize) -> Vec<T> {
    let draws: Vec<f64> = uniform(&mut generator(seed), count, 0.9);
    let pushed = draws.into_iter().map(|x| T::of(x + 0.1f64.copysign(x)));
    pushed.collect()
}

fn matrix<T: Scalar>(seed: u64, rows: usize, n: usize) -> DMatrix<T> {
    DMatrix::from_vec(rows, n, away_from_zero(seed, rows * n))
}

/// Weights from 0.2 to 2.2.
fn draw_weights<T: Scalar>(seed: u64, n: usize) -> Vec<T> {
    let draws: Vec<f64> = uniform(&mut generator(seed), n, 1.0);
    draws.into_iter().map(|x| T::of(1.2 + x)).collect()
}

impl Case {
    fn depth(&self) -> usize {
        self.widths.len() - 1
    }

    /// The circuit with its weighted examples, under these regularisers.
    fn model<T: Scalar>(&self, parameters: Elastic, targets: Elastic) -> DecoupledCircuit<T> {
        let mut builder = Circuit::<T>::builder();
        for (pair, &activation) in self.widths.windows(2).zip(&self.activations) {
            builder = builder.layer(Dense::new(pair[0], pair[1], activation).unwrap());
        }
        let energy = match self.entropy {
            true => Energy::new(SoftmaxCrossEntropy),
            false => Energy::new(SquaredError),
        };
        let penalties = (1..self.depth()).map(|t| T::of(0.5 + 0.4 * t as f64));
        let energy = energy
            .with_penalties(penalties.collect())
            .with_parameter_regularizer(parameters.regularizer())
            .with_target_regularizer(targets.regularizer());
        let mut model = DecoupledCircuit::new(builder.build().unwrap(), energy).unwrap();
        for t in 0..self.depth() {
            let count = model.circuit().parameters(t).len();
            let own = away_from_zero(self.seed ^ t as u64, count);
            model.set_parameters(t, &own).unwrap();
        }
        let z = |t: usize| matrix(!self.seed ^ t as u64, self.widths[t], self.n);
        let mut y = z(self.depth());
        if self.entropy {
            // Distributions.
            for mut column in y.column_iter_mut() {
                let sum = column.iter().fold(T::zero(), |sum, y: &T| sum + y.abs());
                column.iter_mut().for_each(|y| *y = y.abs() / sum);
            }
        }
        let given = TargetInit::Given((1..self.depth()).map(z).collect());
        model.add_examples(&z(0), &y, &given).unwrap();
        model
            .set_example_weights(&Selection::All, &draw_weights(self.seed, self.n))
            .unwrap();
        model
    }

    fn regularized<T: Scalar>(&self) -> DecoupledCircuit<T> {
        self.model(self.parameters, self.targets)
    }

    fn plain<T: Scalar>(&self) -> DecoupledCircuit<T> {
        self.model(NONE, NONE)
    }
}

fn gradients_are_those_of_the_energy<T: Tested>() {
    for_all(any_case(), |case| {
        let model = case.regularized::<T>();
        let report = GradCheck::new().circuit(&model).map_err(failed)?;
        report.require(T::GRADIENT).map_err(failed)
    });
}

/// Which parameters of layer t count in R: those of groups that decay.
fn counted<T: Scalar>(circuit: &Circuit<T>, t: usize) -> Vec<bool> {
    let mut counted = vec![false; circuit.parameters(t).len()];
    for group in circuit.parameter_groups(t) {
        counted[group.range.clone()].fill(group.name == "weights");
    }
    counted
}

fn near<T: Tested>(what: &str, found: f64, expected: f64, scale: f64) -> Result<(), TestCaseError> {
    let error = (found - expected).abs();
    let allowed = 10.0 * T::ROUNDING * (1.0 + scale);
    prop_assert!(error <= allowed, "{what}: {found} for {expected}");
    Ok(())
}

/// The regularised energy and gradients are the plain ones plus Σᵢ wᵢ [Σ_t R(θ_t) + Σ_t S(z_tⁱ)]
/// and its gradients by hand, R over weights without biases; backprop's have R alone.
fn regularizers_add_their_own_part<T: Tested>() {
    for_all(any_case(), |case| {
        let (model, plain) = (case.regularized::<T>(), case.plain::<T>());
        let circuit = model.circuit();
        let weights: Vec<f64> = model
            .example_weights()
            .unwrap()
            .iter()
            .map(|w| w.as_f64())
            .collect();
        let total: f64 = weights.iter().sum();
        let all = Selection::All;
        let (full, bare) = (
            model.gradients(&all).unwrap(),
            plain.gradients(&all).unwrap(),
        );
        let (coupled, bare_coupled) =
            (model.backprop(&all).unwrap(), plain.backprop(&all).unwrap());

        let mut of_parameters = 0.0;
        for t in 0..case.depth() {
            let counted = counted(circuit, t);
            for (j, &x) in circuit.parameters(t).iter().enumerate() {
                let (value, slope) = match counted[j] {
                    true => (case.parameters.value(&[x]), case.parameters.slope(x)),
                    false => (0.0, 0.0),
                };
                of_parameters += total * value;
                for (full, bare) in [
                    (&full.parameters, &bare.parameters),
                    (&coupled.parameters, &bare_coupled.parameters),
                ] {
                    let (full, bare) = (full[t][j].as_f64(), bare[t][j].as_f64());
                    near::<T>("∂R/∂θ", full - bare, total * slope, full.abs() + bare.abs())?;
                }
            }
        }
        let mut of_targets = 0.0;
        for t in 1..case.depth() {
            let z = model.z(t).unwrap();
            for (i, weight) in weights.iter().enumerate() {
                for (j, &x) in z.column(i).iter().enumerate() {
                    of_targets += weight * case.targets.value(&[x]);
                    let full = full.targets[t - 1][(j, i)].as_f64();
                    let bare = bare.targets[t - 1][(j, i)].as_f64();
                    let expected = weight * case.targets.slope(x);
                    near::<T>("∂S/∂z", full - bare, expected, full.abs() + bare.abs())?;
                }
            }
        }
        let (energy, bare) = (full.energy.as_f64(), bare.energy.as_f64());
        near::<T>(
            "R + S",
            energy - bare,
            of_parameters + of_targets,
            energy + bare,
        )?;
        let (energy, bare) = (coupled.energy.as_f64(), bare_coupled.energy.as_f64());
        near::<T>("R", energy - bare, of_parameters, energy + bare)
    });
}

fn composed_loss_has_weights_and_no_regularizers<T: Tested>() {
    for_all(any_case(), |case| {
        let model = case.regularized::<T>();
        let (x, y) = (model.z(0).unwrap(), model.z(case.depth()).unwrap());
        let weights = model.example_weights().unwrap().iter().enumerate();
        let expected: f64 = weights
            .map(|(i, weight)| {
                let one = |z: DMatrix<T>| z.columns(i, 1).into_owned();
                let (x, y) = (one(x.into_owned()), one(y.into_owned()));
                weight.as_f64() * model.composed_loss_of(&x, &y).unwrap().as_f64()
            })
            .sum();
        let found = model.composed_loss().unwrap().as_f64();
        near::<T>("the composed loss", found, expected, expected)
    });
}

fn local_problems_have_weights<T: Tested>() {
    let cases = (1..5usize, 1..5usize, 1..5usize, any::<u64>());
    for_all(cases, |(input, output, n, seed)| {
        let layer = Dense::new(input, output, Activation::Tanh).unwrap();
        let parameters = away_from_zero::<T>(seed, output * (input + 1));
        let z = away_from_zero::<T>(!seed, input * n);
        let target = away_from_zero::<T>(seed ^ 1, output * n);
        let weights = draw_weights::<T>(seed, n);
        let mu = T::of(1.7);
        let plain = LocalProblem::new(&layer, &parameters, &SquaredError, mu, &z, &target);
        let plain = plain.map_err(failed)?;
        let weighted = plain.with_example_weights(&weights).map_err(failed)?;
        let report = GradCheck::new().local_problem(&weighted);
        report.require(T::GRADIENT).map_err(failed)?;

        let (mut a, mut b) = (plain.workspace(), weighted.workspace());
        let (a, b) = (plain.evaluate(All, &mut a), weighted.evaluate(All, &mut b));
        for (i, weight) in weights.iter().map(|w| w.as_f64()).enumerate() {
            let pairs = [
                (a.energies(), b.energies(), 1),
                (a.target_gradient(), b.target_gradient(), output),
                (a.input_gradient(), b.input_gradient(), input),
            ];
            for (plain, weighted, dim) in pairs {
                let own = i * dim..(i + 1) * dim;
                for (plain, weighted) in plain[own.clone()].iter().zip(&weighted[own]) {
                    let expected = weight * plain.as_f64();
                    near::<T>("example i", weighted.as_f64(), expected, expected.abs())?;
                }
            }
        }
        Ok(())
    });
}

/// One example of weight 2 in a linear circuit of one neuron a layer.
#[test]
fn values_by_hand() {
    let linear = || Dense::new(1, 1, Activation::Identity).unwrap();
    let circuit = Circuit::builder().layer(linear()).layer(linear()).build();
    let energy = Energy::default()
        .with_penalty(3.0)
        .with_parameter_regularizer(Regularizer::elastic(0.1, 0.2).unwrap())
        .with_target_regularizer(Regularizer::elastic(0.5, 0.25).unwrap());
    let mut model = DecoupledCircuit::<f64>::new(circuit.unwrap(), energy).unwrap();
    // Weight and bias.
    model.set_parameters(0, &[2.0, 0.5]).unwrap();
    model.set_parameters(1, &[-3.0, 1.0]).unwrap();
    let one = |value| DMatrix::from_element(1, 1, value);
    let given = TargetInit::Given(vec![one(4.0)]);
    model.add_examples(&one(1.0), &one(-10.0), &given).unwrap();
    let all = Selection::All;
    model.set_example_weights(&all, &[2.0]).unwrap();
    // ẑ_1 = 2.5, ẑ_2 = −11; R(2) = 0.2 + 0.4, R(−3) = 0.3 + 0.9, S(4) = 2 + 2.
    let close = |found: &[f64], expected: &[f64]| {
        assert_eq!(found.len(), expected.len());
        let pairs = found.iter().zip(expected);
        let error = pairs.fold(0.0, |top: f64, (f, e)| top.max((f - e).abs()));
        assert!(error < 1e-13, "{found:?} for {expected:?}");
    };
    let layers = [2.0 * (3.0 * 1.125 + 0.6 + 4.0), 2.0 * (0.5 + 1.2)];
    close(&model.energies().unwrap(), &layers);
    let gradients = model.gradients(&all).unwrap();
    close(&[gradients.energy], &[layers[0] + layers[1]]);
    // (∂f/∂θ)ᵀ g is 3 · (−1.5) and −1 (times 4 in v); ∇R(2) = 0.5, ∇R(−3) = −0.7.
    close(&gradients.parameters[0], &[2.0 * (-4.5 + 0.5), 2.0 * -4.5]);
    close(&gradients.parameters[1], &[2.0 * (-4.0 - 0.7), -2.0]);
    // Target part 4.5, input part −3 · −1, ∇S(4) = 1.5.
    close(gradients.targets[0].as_slice(), &[2.0 * (4.5 + 3.0 + 1.5)]);
    // Forward: ẑ_2 = −6.5, g = 3.5.
    let coupled = model.backprop(&all).unwrap();
    close(&[coupled.energy], &[2.0 * (6.125 + 0.6 + 1.2)]);
    close(&coupled.parameters[0], &[2.0 * (-10.5 + 0.5), 2.0 * -10.5]);
    close(&coupled.parameters[1], &[2.0 * (8.75 - 0.7), 2.0 * 3.5]);
    close(&[model.composed_loss().unwrap()], &[2.0 * 6.125]);
}

#[test]
fn l1_has_no_slope_at_zero() {
    let mut gradient = [1.0, 1.0, 1.0, 1.0];
    let x = [0.0, -0.0, 2.0, -2.0];
    Regularizer::l1(0.5)
        .unwrap()
        .add_gradient(&x, 2.0, &mut gradient);
    assert_eq!(gradient, [1.0, 1.0, 2.0, 0.0]);
}

#[test]
fn regularizers_are_not_negative() {
    type Make = fn(f64) -> Result<Regularizer, Error>;
    let makes: [(Make, &str); 4] = [
        (Regularizer::l1, "Regularizer::l1"),
        (Regularizer::l2, "Regularizer::l2"),
        (|x| Regularizer::elastic(x, 1.0), "Regularizer::l1"),
        (|x| Regularizer::elastic(1.0, x), "Regularizer::l2"),
    ];
    for (make, name) in makes {
        for bad in [-0.5, f64::NAN, f64::INFINITY] {
            let error = make(bad).unwrap_err();
            let Error::InvalidOption { option, value, .. } = error else {
                panic!("{error}");
            };
            assert_eq!((option, value.to_bits()), (name, bad.to_bits()));
        }
    }
}

const EXAMPLES: usize = 12;
/// Batches of 5, 5 and 2 examples.
const BATCH: usize = 5;

const R: Elastic = Elastic(0.05, 0.1);
const S: Elastic = Elastic(0.02, 0.1);

/// The energy of [`fixed_model`].
fn energy(parameters: Elastic, targets: Elastic) -> Energy<f64> {
    Energy::default()
        .with_penalties(vec![0.5, 1.5])
        .with_parameter_regularizer(parameters.regularizer())
        .with_target_regularizer(targets.regularizer())
}

/// Two tanh layers and a linear one with examples of weight 1.
fn fixed_model(n: usize, parameters: Elastic, targets: Elastic) -> DecoupledCircuit<f64> {
    let dense = |input, output, activation| Dense::new(input, output, activation).unwrap();
    let circuit = Circuit::builder()
        .layer(dense(2, 5, Activation::Tanh))
        .layer(dense(5, 4, Activation::Tanh))
        .layer(dense(4, 2, Activation::Identity))
        .build();
    let mut model = DecoupledCircuit::new(circuit.unwrap(), energy(parameters, targets)).unwrap();
    // Biases too are far from 0.
    for t in 0..3 {
        let own = away_from_zero(t as u64, model.circuit().parameters(t).len());
        model.set_parameters(t, &own).unwrap();
    }
    let (x, y) = (matrix(10, 2, n), matrix(11, 2, n));
    let init = TargetInit::NoisyForwardPass { std: 0.3, seed: 2 };
    model.add_examples(&x, &y, &init).unwrap();
    model
}

fn weighted(model: DecoupledCircuit<f64>) -> DecoupledCircuit<f64> {
    let mut model = model;
    let weights = draw_weights(7, model.examples().len());
    model
        .set_example_weights(&Selection::All, &weights)
        .unwrap();
    model
}

fn targets(model: &DecoupledCircuit<f64>) -> Vec<f64> {
    let hidden = 1..model.circuit().depth();
    let columns = hidden.map(|t| model.z(t).unwrap().iter().copied().collect::<Vec<_>>());
    columns.flatten().collect()
}

fn largest_difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let pairs = a.iter().zip(b);
    pairs.fold(0.0, |top: f64, (a, b)| top.max((a - b).abs()))
}

fn descent(rate: f64) -> GradientDescent {
    GradientDescent::new(rate).unwrap()
}

#[test]
fn a_step_follows_the_mean_gradient_and_one_r() {
    let rate = 0.1;
    let schemes: [fn() -> Phase<f64>; 2] = [
        || Phase::new(Decoupling::weights_only(), descent(0.1)),
        || Phase::new(Backprop, descent(0.1)),
    ];
    for n in [1, 4, EXAMPLES] {
        for (k, phase) in schemes.iter().enumerate() {
            let plain = fixed_model(n, NONE, NONE);
            let gradients = match k {
                0 => plain.gradients(&Selection::All),
                _ => plain.backprop(&Selection::All),
            };
            let gradients = gradients.unwrap().parameters;
            let mut model = fixed_model(n, R, NONE);
            Trainer::new(phase().with_epochs(1))
                .run(&mut model)
                .unwrap();
            for (t, gradient) in gradients.iter().enumerate() {
                let counted = counted(plain.circuit(), t);
                let old = plain.circuit().parameters(t);
                for (j, new) in model.circuit().parameters(t).iter().enumerate() {
                    let r = if counted[j] { R.slope(old[j]) } else { 0.0 };
                    let expected = old[j] - rate * (gradient[j] / n as f64 + r);
                    assert!((new - expected).abs() < 1e-14, "{n}: {new} for {expected}");
                }
            }
        }
    }
}

#[test]
fn r_counts_once_for_every_example_of_a_batch() {
    let (full, bare) = (fixed_model(EXAMPLES, R, S), fixed_model(EXAMPLES, NONE, S));
    let value: f64 = (0..3)
        .map(|t| {
            let own = full.circuit().parameters(t);
            let weights = full.circuit().parameter_groups(t)[0].range.clone();
            R.value(&own[weights])
        })
        .sum();
    for run in [0..1, 3..7, 0..EXAMPLES] {
        let n = run.len() as f64;
        let energy = |model: &DecoupledCircuit<f64>| {
            let selection = Selection::Columns(run.clone());
            model.gradients(&selection).unwrap().energy
        };
        let found = energy(&full) - energy(&bare);
        assert!((found - n * value).abs() < 1e-12, "{n}: {found}");
    }
}

#[test]
fn whole_weights_are_repeated_examples() {
    let mut counted = fixed_model(EXAMPLES, R, S);
    let times: Vec<usize> = (0..EXAMPLES).map(|i| 1 + i % 3).collect();
    let weights: Vec<f64> = times.iter().map(|&k| k as f64).collect();
    counted
        .set_example_weights(&Selection::All, &weights)
        .unwrap();
    let columns: Vec<usize> = times
        .iter()
        .enumerate()
        .flat_map(|(i, &k)| vec![i; k])
        .collect();
    let z = |t| counted.z(t).unwrap().into_owned().select_columns(&columns);
    let mut repeated = DecoupledCircuit::new(counted.circuit().clone(), energy(R, S)).unwrap();
    let given = TargetInit::Given(vec![z(1), z(2)]);
    repeated.add_examples(&z(0), &z(3), &given).unwrap();

    let all = Selection::All;
    for (a, b) in [
        (counted.gradients(&all), repeated.gradients(&all)),
        (counted.backprop(&all), repeated.backprop(&all)),
    ] {
        let (a, b) = (a.unwrap(), b.unwrap());
        assert!((a.energy - b.energy).abs() < 1e-12 * b.energy);
        let parameters = (a.parameters.concat(), b.parameters.concat());
        assert!(largest_difference(&parameters.0, &parameters.1) < 1e-12);
        // Every copy has the gradient of its example over its weight.
        for (a, b) in a.targets.iter().zip(&b.targets) {
            for (copy, &i) in columns.iter().enumerate() {
                let error = (a.column(i) / weights[i] - b.column(copy)).amax();
                assert!(error < 1e-12, "{error}");
            }
        }
    }
    let losses = [&counted, &repeated].map(|m| m.composed_loss().unwrap());
    assert!((losses[0] - losses[1]).abs() < 1e-12 * losses[0]);
}

/// (E(x + h) − E(x − h)) / 2h, x being what `set` sets.
fn slope_of_energy(
    model: &DecoupledCircuit<f64>,
    x: f64,
    set: impl Fn(&mut DecoupledCircuit<f64>, f64),
) -> f64 {
    let h = 1e-5;
    let energy = |x| {
        let mut model = model.clone();
        set(&mut model, x);
        model.energy().unwrap()
    };
    (energy(x + h) - energy(x - h)) / (2.0 * h)
}

/// Differences agree with the gradient, and would not with one whose regulariser has the wrong
/// sign, or is missing.
#[test]
fn differences_see_the_sign_of_a_regularizer() {
    let tolerance = 1e-6;
    let model = weighted(fixed_model(EXAMPLES, R, S));
    let weights = model.example_weights().unwrap();
    let gradients = model.gradients(&Selection::All).unwrap();
    let check = |gradient: f64, part: f64, numeric: f64, largest: f64| {
        let error = |gradient: f64| (gradient - numeric).abs() / largest;
        assert!(error(gradient) < tolerance, "{gradient} for {numeric}");
        assert!(error(gradient - part) > 100.0 * tolerance, "{part}");
        assert!(error(gradient - 2.0 * part) > 100.0 * tolerance, "{part}");
    };
    let largest = |values: &[f64]| values.iter().fold(0.0, |top: f64, g| top.max(g.abs()));
    for t in 0..3 {
        let own = model.circuit().parameters(t).to_vec();
        let gradient = &gradients.parameters[t];
        for (j, _) in counted(model.circuit(), t)
            .iter()
            .enumerate()
            .filter(|(_, c)| **c)
        {
            let numeric = slope_of_energy(&model, own[j], |model, x| {
                let mut own = own.clone();
                own[j] = x;
                model.set_parameters(t, &own).unwrap();
            });
            let part = weights.iter().sum::<f64>() * R.slope(own[j]);
            check(gradient[j], part, numeric, largest(gradient));
        }
    }
    for t in 1..3 {
        let own = model.z(t).unwrap().into_owned();
        let gradient = &gradients.targets[t - 1];
        for (i, weight) in weights.iter().enumerate() {
            let numeric = slope_of_energy(&model, own[(0, i)], |model, x| {
                let mut own = own.clone();
                own[(0, i)] = x;
                model.set_targets(t, &Selection::All, &own).unwrap();
            });
            let part = weight * S.slope(own[(0, i)]);
            check(
                gradient[(0, i)],
                part,
                numeric,
                largest(gradient.as_slice()),
            );
        }
    }
}

/// θ stands still.
#[derive(Debug)]
struct Frozen;

impl Optimizer<f64> for Frozen {
    fn slots(&self) -> usize {
        0
    }

    fn update(&self, _step: Step, _values: &mut [f64], _gradient: &[f64], _state: &mut [f64]) {}
}

/// `moves` moves the targets alike whatever the weights.
fn check_weightless(name: &str, moves: impl Fn(&mut DecoupledCircuit<f64>)) {
    let start = fixed_model(EXAMPLES, R, S);
    let (mut plain, mut weighted) = (start.clone(), weighted(start.clone()));
    moves(&mut plain);
    moves(&mut weighted);
    let moved = largest_difference(&targets(&plain), &targets(&start));
    assert!(moved > 1e-2, "{name}: moved by {moved}");
    let error = largest_difference(&targets(&plain), &targets(&weighted));
    assert!(error < 1e-12, "{name}: differs by {error}");
}

#[test]
fn targets_move_whatever_their_example_weighs() {
    type Make = fn() -> Box<dyn TargetSolver<f64>>;
    fn momentum() -> GradientDescent {
        descent(0.1).with_momentum(0.9).unwrap()
    }
    fn adam() -> Adam {
        Adam::new(0.05).unwrap()
    }
    let solvers: [(&str, Make); 6] = [
        ("sweep", || Box::new(ReverseSweep::new(3))),
        ("fixed sweep", || {
            let sweep = ReverseSweep::new(3).with_step(StepSize::Fixed(0.1));
            Box::new(sweep.unwrap())
        }),
        ("bounded", || {
            let step = StepSize::Bounded { margin: 1.0 };
            Box::new(SynchronousDescent::new(5, step).unwrap())
        }),
        ("fixed", || {
            Box::new(SynchronousDescent::new(5, StepSize::Fixed(0.1)).unwrap())
        }),
        ("momentum", || {
            Box::new(
                SynchronousDescent::new(5, StepSize::Fixed(1.0))
                    .unwrap()
                    .with_rule(momentum()),
            )
        }),
        ("adam", || {
            Box::new(
                SynchronousDescent::new(5, StepSize::Fixed(1.0))
                    .unwrap()
                    .with_rule(adam()),
            )
        }),
    ];
    for (name, solver) in solvers {
        check_weightless(name, |model| {
            let all = Selection::All;
            model.solve_targets(solver().as_ref(), &all).unwrap();
        });
    }
    let rules: [fn() -> Decoupling<f64>; 3] = [
        || Decoupling::joint(descent(0.1)),
        || Decoupling::joint(momentum()),
        || Decoupling::joint(adam()),
    ];
    for (k, scheme) in rules.into_iter().enumerate() {
        check_weightless(&format!("joint descent {k}"), |model| {
            let phase = Phase::new(scheme(), Frozen)
                .with_epochs(5)
                .with_batch_size(BATCH)
                .unwrap();
            Trainer::new(phase).run(model).unwrap();
        });
    }
}

#[test]
fn a_run_tells_the_weighted_loss_over_the_number_of_examples() {
    let mut model = weighted(fixed_model(EXAMPLES, R, S));
    let start = model.clone();
    let phase = Phase::new(Backprop, descent(0.01)).with_epochs(1);
    let report = Trainer::new(phase).run(&mut model).unwrap();
    let record = &report.history[0];
    let n = EXAMPLES as f64;
    let loss = model.composed_loss().unwrap() / n;
    assert!((record.composed_loss.unwrap() - loss).abs() < 1e-13);
    let objective = start.backprop(&Selection::All).unwrap().energy / n;
    assert_eq!(record.objective, objective);
    assert!(objective > start.composed_loss().unwrap() / n + 0.01);
}

/// Checks that every example of a batch stands beside its own weight.
#[derive(Debug)]
struct Weighs {
    weights: Vec<f64>,
    seen: Arc<Mutex<Vec<u64>>>,
}

impl Scheme<f64> for Weighs {
    fn visit(&self, state: &mut State<f64>, visit: &mut Visit<'_, f64>) -> Result<f64, Error> {
        let batch = visit.batch();
        let own = batch.examples().iter().map(|&i| self.weights[i as usize]);
        assert!(own.eq(batch.weights().unwrap().iter().copied()));
        self.seen.lock().unwrap().extend(batch.examples());
        Backprop.visit(state, visit)
    }
}

#[test]
fn minibatches_have_the_weights_of_their_examples() {
    for batch in [EXAMPLES, BATCH, 1] {
        let mut model = weighted(fixed_model(EXAMPLES, R, S));
        let weights = model.example_weights().unwrap().to_vec();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let scheme = Weighs {
            weights,
            seen: seen.clone(),
        };
        let phase = Phase::new(scheme, descent(0.01)).with_epochs(1);
        let trainer = Trainer::new(phase.with_batch_size(batch).unwrap());
        trainer.run(&mut model).unwrap();
        let mut seen = seen.lock().unwrap();
        assert!(batch == EXAMPLES || !seen.is_sorted(), "not shuffled");
        seen.sort_unstable();
        assert_eq!(*seen, model.examples());
    }
}

#[test]
fn selections_have_the_weights_of_their_examples() {
    let model = weighted(fixed_model(EXAMPLES, R, S));
    let alone = fixed_model(EXAMPLES, R, S);
    let weights = model.example_weights().unwrap();
    let (scattered, run) = ([9, 2, 7], [4, 5, 6]);
    for (selection, ids) in [
        (Selection::Examples(&scattered), scattered),
        (Selection::Columns(4..7), run),
    ] {
        let found = model.gradients(&selection).unwrap();
        let (mut energy, mut sums) = (0.0, vec![0.0; found.parameters.concat().len()]);
        for (place, id) in ids.into_iter().enumerate() {
            let one = alone.gradients(&Selection::Examples(&[id])).unwrap();
            let weight = weights[id as usize];
            energy += weight * one.energy;
            for (sum, g) in sums.iter_mut().zip(one.parameters.concat()) {
                *sum += weight * g;
            }
            for (found, one) in found.targets.iter().zip(&one.targets) {
                assert!((found.column(place) - one * weight).amax() < 1e-13);
            }
        }
        assert!((found.energy - energy).abs() < 1e-13 * energy);
        assert!(largest_difference(&found.parameters.concat(), &sums) < 1e-12);
    }
}

#[test]
fn weights_are_set_by_selection_and_stay_with_their_examples() {
    let mut model = fixed_model(6, R, S);
    assert_eq!(model.example_weights(), None);
    let some = Selection::Examples(&[4, 1]);
    model.set_example_weights(&some, &[5.0, 2.0]).unwrap();
    let expected = [1.0, 2.0, 1.0, 1.0, 5.0, 1.0];
    assert_eq!(model.example_weights(), Some(&expected[..]));
    let columns = Selection::Columns(2..4);
    model.set_example_weights(&columns, &[3.0, 4.0]).unwrap();
    let expected = [1.0, 2.0, 3.0, 4.0, 5.0, 1.0];
    assert_eq!(model.example_weights(), Some(&expected[..]));

    model.remove_examples(&[3, 0]).unwrap();
    let expected = [2.0, 3.0, 5.0, 1.0];
    assert_eq!(model.example_weights(), Some(&expected[..]));
    let init = TargetInit::ForwardPass;
    let added = model.add_examples(&matrix(20, 2, 2), &matrix(21, 2, 2), &init);
    assert_eq!(added.unwrap(), 6..8);
    let expected = [2.0, 3.0, 5.0, 1.0, 1.0, 1.0];
    assert_eq!(model.example_weights(), Some(&expected[..]));
    model
        .set_example_weights(&Selection::Examples(&[7, 2]), &[8.0, 0.5])
        .unwrap();
    let expected = [2.0, 0.5, 5.0, 1.0, 1.0, 8.0];
    assert_eq!(model.example_weights(), Some(&expected[..]));
}

#[test]
fn weights_that_cannot_be_are_refused() {
    let not_set = fixed_model(4, R, S);
    let set = weighted(fixed_model(4, R, S));
    let invalid = |value| Error::InvalidOption {
        option: "example weight",
        value,
        allowed: "0, or above 0 and finite, with a finite inverse".into(),
    };
    let length = |expected, found| Error::Length {
        what: "example weights".into(),
        expected,
        found,
    };
    let (two, unknown, repeated) = ([1, 3], [1, 9], [1, 1]);
    for (selection, weights, expected) in [
        (Selection::All, vec![1.0, 2.0, -0.5, 1.0], invalid(-0.5)),
        (Selection::Examples(&two), vec![2.0, -3.0], invalid(-3.0)),
        (Selection::Columns(0..1), vec![f64::NAN], invalid(f64::NAN)),
        (
            Selection::Columns(0..1),
            vec![f64::INFINITY],
            invalid(f64::INFINITY),
        ),
        (Selection::All, vec![2.0; 3], length(4, 3)),
        (Selection::Examples(&two), vec![2.0; 4], length(2, 4)),
        (
            Selection::Examples(&unknown),
            vec![2.0; 2],
            Error::UnknownExample {
                example: 9,
                count: 4,
            },
        ),
        (
            Selection::Examples(&repeated),
            vec![2.0; 2],
            Error::RepeatedExample { example: 1 },
        ),
        (
            Selection::Columns(2..5),
            vec![2.0; 3],
            Error::UnknownColumns {
                start: 2,
                end: 5,
                count: 4,
            },
        ),
    ] {
        for before in [&not_set, &set] {
            let mut model = before.clone();
            let error = model.set_example_weights(&selection, &weights).unwrap_err();
            // NaN is equal to itself here.
            assert_eq!(format!("{error:?}"), format!("{expected:?}"));
            assert_eq!(model.example_weights(), before.example_weights());
        }
    }

    let layer = Dense::new(1, 1, Activation::Tanh).unwrap();
    let values = [0.5, 0.1, -0.2];
    let problem = LocalProblem::new(&layer, &values[1..], &SquaredError, 1.0, &values, &values);
    let problem = problem.unwrap();
    let error = |weights| problem.with_example_weights(weights).unwrap_err();
    assert_eq!(error(&[1.0, 2.0]), length(3, 2));
    assert_eq!(error(&[1.0, -0.0625, 2.0]), invalid(-0.0625));
    assert_eq!(error(&[1.0, -1.5, 2.0]), invalid(-1.5));
}

/// From forward-pass targets hidden layers have no gradient in the first step: their weights decay
/// and their biases stay.
#[test]
fn without_a_gradient_only_weights_decay() {
    let mut model = fixed_model(EXAMPLES, NONE, NONE);
    model.initialize_targets(&TargetInit::ForwardPass).unwrap();
    let before = model.circuit().clone();
    let rule = AdamW::new(Adam::new(0.1).unwrap()).with_weight_decay(0.5);
    let phase = Phase::new(Decoupling::weights_only(), rule.unwrap()).with_epochs(1);
    Trainer::new(phase).run(&mut model).unwrap();
    for t in 0..2 {
        let groups = before.parameter_groups(t);
        let (weights, bias) = (groups[0].range.clone(), groups[1].range.clone());
        let (old, new) = (before.parameters(t), model.circuit().parameters(t));
        for (old, new) in old[weights.clone()].iter().zip(&new[weights]) {
            assert_eq!(*new, old - 0.05 * old);
        }
        assert_eq!(old[bias.clone()], new[bias]);
    }
}

/// Three steps of AdamW on every weight and bias by the formulas.
#[test]
fn weight_decay_by_hand() {
    let (rate, decay, epsilon) = (0.1, 0.5, 1e-8);
    let mut model = fixed_model(EXAMPLES, NONE, NONE);
    let mut by_hand = model.clone();
    let rule = AdamW::new(Adam::new(rate).unwrap()).with_weight_decay(decay);
    let phase = Phase::new(Backprop, rule.unwrap()).with_epochs(3);
    Trainer::new(phase).run(&mut model).unwrap();

    let mut moments: Vec<Vec<(f64, f64)>> = (0..3)
        .map(|t| vec![(0.0, 0.0); by_hand.circuit().parameters(t).len()])
        .collect();
    for k in 1..=3 {
        let gradients = by_hand.backprop(&Selection::All).unwrap().parameters;
        for t in 0..3 {
            let decays = counted(by_hand.circuit(), t);
            let mut own = by_hand.circuit().parameters(t).to_vec();
            for (j, x) in own.iter_mut().enumerate() {
                let g = gradients[t][j] / EXAMPLES as f64;
                let (m, v) = &mut moments[t][j];
                *m = 0.9 * *m + 0.1 * g;
                *v = 0.999 * *v + 0.001 * g * g;
                let m = *m / (1.0 - 0.9f64.powi(k));
                let v = *v / (1.0 - 0.999f64.powi(k));
                let factor = if decays[j] { 1.0 - rate * decay } else { 1.0 };
                *x = factor * *x - rate * m / (v.sqrt() + epsilon);
            }
            by_hand.set_parameters(t, &own).unwrap();
        }
    }
    for t in 0..3 {
        let own = [&model, &by_hand].map(|m| m.circuit().parameters(t));
        let error = largest_difference(own[0], own[1]);
        assert!(error < 1e-10, "layer {t}: {error}");
    }
}

/// One regulariser a layer: R_t of θ_t alone, S_t of z_t alone.
#[test]
fn every_layer_may_have_its_own() {
    let [none, l1, l2] = [NONE, Elastic(0.3, 0.0), Elastic(0.0, 0.7)];
    let build = |parameters: [Elastic; 3], targets: [Elastic; 2]| {
        let own = |list: &[Elastic]| list.iter().map(|r| r.regularizer()).collect::<Vec<_>>();
        let dense = |input, output| Dense::new(input, output, Activation::Tanh).unwrap();
        let builder = Circuit::<f64>::builder()
            .layer(dense(2, 3))
            .layer(dense(3, 2))
            .layer(dense(2, 1));
        let energy = Energy::default()
            .with_parameter_regularizers(own(&parameters))
            .with_target_regularizers(own(&targets));
        let mut model = DecoupledCircuit::new(builder.build().unwrap(), energy).unwrap();
        let given = TargetInit::Given(vec![matrix(3, 3, 4), matrix(4, 2, 4)]);
        let (x, y) = (matrix(1, 2, 4), matrix(2, 1, 4));
        model.add_examples(&x, &y, &given).unwrap();
        model
    };
    let plain = build([none; 3], [none; 2]);
    let own = build([none, l1, l2], [l2, l1]);
    GradCheck::new()
        .circuit(&own)
        .unwrap()
        .require(1e-6)
        .unwrap();
    let (before, after) = (plain.energies().unwrap(), own.energies().unwrap());
    let weights = |t: usize| {
        &plain.circuit().parameters(t)[plain.circuit().parameter_groups(t)[0].range.clone()]
    };
    let z = |t: usize| plain.z(t).unwrap().iter().copied().collect::<Vec<_>>();
    let added = [
        l2.value(&z(1)),
        4.0 * l1.value(weights(1)) + l1.value(&z(2)),
        4.0 * l2.value(weights(2)),
    ];
    for t in 0..3 {
        let difference: f64 = after[t] - before[t] - added[t];
        assert!(difference.abs() < 1e-14, "t = {t}: {difference}");
    }
    // A list must have one for each.
    let builder = Circuit::<f64>::builder().layer(Dense::new(1, 1, Activation::Tanh).unwrap());
    let energy = Energy::default().with_parameter_regularizers(Vec::new());
    let error = DecoupledCircuit::new(builder.build().unwrap(), energy).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Length {
                expected: 1,
                found: 0,
                ..
            }
        ),
        "{error}"
    );
}

/// A part of weight 0 has no value, not even where its sum overflows.
#[test]
fn a_part_of_weight_zero_is_not_made() {
    let far = [1e25_f32];
    assert_eq!(Regularizer::l1(0.5).unwrap().value(&far), 5e24);
    let mut gradient = [1.0_f32];
    Regularizer::l1(0.5)
        .unwrap()
        .add_gradient(&far, 1.0, &mut gradient);
    assert_eq!(gradient, [1.5]);
    // Each magnitude is a number, their sum is not.
    let wide = [3e38_f32, 3e38];
    assert_eq!(Regularizer::NONE.value(&wide), 0.0);
}

/// ½ λ₂ x² fits although x² does not.
#[test]
fn squares_beyond_the_scalar_have_a_value() {
    fn check<T: Scalar>(weight: f64, x: f64, expected: f64, tolerance: f64) {
        let regularizer = Regularizer::l2(weight).unwrap();
        // Alone, and in sums of few and of many terms.
        for count in [1, 40, 3000] {
            let found = regularizer.value(&vec![T::of(x); count]).as_f64();
            let error = found / (expected * count as f64) - 1.0;
            assert!(error.abs() < tolerance, "{weight}, {x}, {count}: {found}");
        }
    }
    check::<f32>(1e-10, 1e20, 5e29, 1e-5);
    check::<f32>(1e20, 1e-25, 5e-31, 1e-5);
    check::<f64>(1e-200, 1e160, 5e119, 1e-13);
    check::<f64>(1e200, 1e-180, 5e-161, 1e-13);
}
