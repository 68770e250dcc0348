//! Least squares on data as they come: far from zero, in any units, in endless streams, and where
//! rounding is all that tells one column from another.

use crate::parameter_solvers::by_singular_values;
use crate::property::{Tested, generator, uniform};
use layerwise::decoupled::{Selection, TargetInit};
use layerwise::energy::Energy;
use layerwise::layer::{Activation, Affine, Dense, ParameterGroup, Scratch, Shape};
use layerwise::nalgebra::DMatrix;
use layerwise::parameter_solver::{LeastSquares, NormalEquations};
use layerwise::rand::Rng;
use layerwise::regularizer::Regularizer;
use layerwise::training::{Decoupling, Phase, Trainer, WStep};
use layerwise::{Circuit, DecoupledCircuit, Error, Layer, Scalar};

in_both_scalars!(
    a_line_far_from_zero_keeps_its_slope,
    a_long_batch_far_from_zero_keeps_its_slope,
    offsets_and_held_biases_are_the_closed_form,
    a_long_stream_does_not_drift,
    a_trained_stream_does_not_drift,
    units_do_not_matter,
    a_batch_in_other_units_is_forgotten,
    units_of_weights_do_not_matter,
    rounding_is_no_column,
    hardly_independent_columns_are_solved,
    a_decaying_bias_decays,
);

fn solved<T: Scalar>(equations: &mut NormalEquations<T>, count: usize) -> Vec<T> {
    let mut parameters = vec![T::zero(); count];
    equations.solve(0.0, 0.0, &mut parameters).unwrap();
    parameters
}

fn is_f32<T: Scalar>() -> bool {
    T::default_epsilon().as_f64() > 1e-10
}

/// A slope of 2 at ten places far from zero, with outputs there or near zero, in batches of any size,
/// weighted or not.
fn a_line_far_from_zero_keeps_its_slope<T: Tested>() {
    let offsets = match is_f32::<T>() {
        true => [0.0, 2500.0, -1e5, 4e6],
        false => [2500.0, 2e7, -1e10, 1e15],
    };
    let cases = offsets.into_iter().flat_map(|own| [(own, own), (own, 0.0)]);
    for (offset, of_outputs) in cases {
        let x: Vec<T> = (0..10).map(|i| T::of(offset + f64::from(i))).collect();
        let y: Vec<T> = (0..10)
            .map(|i| T::of(2.0 * (of_outputs + f64::from(i)) + 1.0))
            .collect();
        let weights: Vec<T> = (0..10)
            .map(|i| T::of(0.5 + f64::from(i % 3) / 4.0))
            .collect();
        for batch in [10, 4, 1] {
            for weighted in [false, true] {
                let mut equations = NormalEquations::new(1, 1, true).unwrap();
                for i in (0..10).step_by(batch) {
                    let own = i..(i + batch).min(10);
                    let weights = weighted.then_some(&weights[own.clone()]);
                    equations.add(&x[own.clone()], &y[own], weights).unwrap();
                }
                let [slope, bias] = solved(&mut equations, 2)[..] else {
                    unreachable!();
                };
                let error = (slope.as_f64() - 2.0).abs();
                assert!(error < T::ROUNDING, "{error} at {offset}, {batch}");
                // What the fit returns, relative to its own terms.
                let found = slope.as_f64() * x[3].as_f64() + bias.as_f64();
                let error = (found - y[3].as_f64()).abs() / (1.0 + offset.abs());
                assert!(error < T::ROUNDING, "{error} at {offset}, {batch}");
            }
        }
    }
}

/// The sum of a long batch far from zero is rounded, and its mean off by far more than its spread, unless
/// a value of its own is taken off first.
fn a_long_batch_far_from_zero_keeps_its_slope<T: Tested>() {
    let offset = if is_f32::<T>() { 4e6 } else { 2e15 + 12_345.0 };
    let places = || (0..10_000).map(|i| f64::from(i % 10));
    let x: Vec<T> = places().map(|place| T::of(offset + place)).collect();
    let y: Vec<T> = places().map(|place| T::of(2.0 * place)).collect();
    let mut equations = NormalEquations::new(1, 1, true).unwrap();
    equations.add(&x, &y, None).unwrap();
    let error = (solved(&mut equations, 2)[0].as_f64() - 2.0).abs();
    assert!(error < T::ROUNDING, "{error}");
}

/// Ridge and proximal terms mean the same far from zero, where ρ couples W and b.
fn offsets_and_held_biases_are_the_closed_form<T: Tested>() {
    let (d, m, n) = (3, 2, 24);
    let draw = |rows: usize, count: usize, seed, size: f64, offset: f64| {
        let own: Vec<f64> = uniform(&mut generator(seed), rows * count, size);
        let rounded = own.iter().map(|x| T::of(x + offset));
        DMatrix::from_vec(rows, count, rounded.collect::<Vec<T>>())
    };
    let wide = |a: &DMatrix<T>| a.map(|x| x.as_f64());
    let offset = 300.0;
    let (z, p) = (draw(d, n, 1, 2.0, offset), draw(m, n, 2, 1.0, -40.0));
    let old = draw(m, d + 1, 3, 1.0, 0.0);
    for (ridge, proximal) in [(0.0, 0.0), (0.2, 0.0), (0.0, 0.5), (0.1, 2.0), (0.0, 1e-3)] {
        let mut found = old.clone();
        let mut equations = NormalEquations::new(d, m, true).unwrap();
        for (z, p) in z.as_slice().chunks(7 * d).zip(p.as_slice().chunks(7 * m)) {
            equations.add(z, p, None).unwrap();
        }
        equations
            .solve(ridge, proximal, found.as_mut_slice())
            .unwrap();
        let data = (&wide(&z), &wide(&p), &vec![1.0; n][..]);
        let expected = by_singular_values(data, true, (ridge, proximal), &wide(&old));
        let error = wide(&found) - expected;
        // Rounding of the offsets themselves; b holds W times them.
        let tolerance = 30.0 * T::ROUNDING;
        let (weights, bias) = (error.columns(0, d).amax(), error.column(d).amax());
        assert!(weights < tolerance, "{weights}: {ridge}, {proximal}");
        assert!(bias < offset * tolerance, "{bias}: {ridge}, {proximal}");
    }
}

/// 17,000 batches, in `f32` of a greater weight than it can count one by one.
fn a_long_stream_does_not_drift<T: Tested>() {
    let (size, weight) = (128, if is_f32::<T>() { 8.0 } else { 1.0 });
    let weights = vec![T::of(weight); size];
    let x: Vec<T> = uniform(&mut generator(1), 8 * size, 1.0);
    let x: Vec<T> = x.into_iter().map(|x| x + T::of(2.0)).collect();
    let noise: Vec<T> = uniform(&mut generator(2), 8 * size, 0.1);
    let of = |x: T, noise: T| T::of(3.0) * x + T::of(1.2) + noise;
    let y: Vec<T> = x.iter().zip(&noise).map(|(&x, &e)| of(x, e)).collect();
    let add = |equations: &mut NormalEquations<T>, k: usize| {
        let own = k % 8 * size..(k % 8 + 1) * size;
        let (x, y) = (&x[own.clone()], &y[own]);
        equations.add(x, y, Some(&weights)).unwrap();
    };
    let mut once = NormalEquations::new(1, 1, true).unwrap();
    let mut stream = once.clone();
    let mut forgetful = once.clone();
    (0..8).for_each(|k| add(&mut once, k));
    let batches = 17_000;
    for k in 0..batches {
        add(&mut stream, k);
        forgetful.forget(0.9999).unwrap();
        add(&mut forgetful, k);
    }
    let expected = solved(&mut once, 2);
    assert!((expected[0].as_f64() - 3.0).abs() < 0.02);
    for (name, equations) in [("all", &mut stream), ("recent", &mut forgetful)] {
        let found = solved(equations, 2);
        for (found, expected) in found.iter().zip(&expected) {
            let error = (found.as_f64() / expected.as_f64() - 1.0).abs();
            // The newest count a little more.
            let tolerance = if name == "all" { T::ROUNDING } else { 2e-5 };
            assert!(error < tolerance, "{name}: {error}");
        }
    }
    let total = (batches * size) as f64 * weight;
    assert!((stream.weight().as_f64() / total - 1.0).abs() < T::ROUNDING);
    // The count goes on where ones alone would be lost.
    stream
        .add(&x[..1], &y[..1], Some(&[T::of(16_777_216.0)]))
        .unwrap();
    let before = stream.weight().as_f64();
    (0..1000).for_each(|i| stream.add(&x[i..=i], &y[i..=i], None).unwrap());
    assert!((stream.weight().as_f64() - before - 1000.0).abs() <= 4.0);
}

/// The same in a trainer: a weight of 17 million in `f32`, all of which counts.
fn a_trained_stream_does_not_drift<T: Tested>() {
    let layer = Dense::new(2, 1, Activation::Identity).unwrap();
    let circuit = Circuit::<T>::builder().layer(layer).build().unwrap();
    let mut start = DecoupledCircuit::new(circuit, Energy::default()).unwrap();
    let n = 125;
    let own: Vec<T> = uniform(&mut generator(3), 2 * n, 1.0);
    let x = DMatrix::from_fn(2, n, |i, j| own[2 * j + i] + T::of(5.0));
    let y = DMatrix::from_fn(1, n, |_, j| {
        let wave = T::of((j as f64).sin());
        x[(0, j)] - T::of(2.0) * x[(1, j)] + wave
    });
    start
        .add_examples(&x, &y, &TargetInit::ForwardPass)
        .unwrap();
    let weights = vec![T::of(8.0); n];
    start
        .set_example_weights(&Selection::All, &weights)
        .unwrap();
    let trained = |visits: u64| {
        let mut model = start.clone();
        let solver = LeastSquares::ridge(1e-3).unwrap();
        let w_step = WStep::solver(solver.with_forgetting_factor(1.0).unwrap());
        let phase = Phase::with_w_step(Decoupling::weights_only(), w_step).unwrap();
        let trainer = Trainer::new(phase.with_epochs(visits)).with_measure_every(visits);
        trainer.run(&mut model).unwrap();
        model.circuit().parameters(0).to_vec()
    };
    let visits = if is_f32::<T>() { 17_000 } else { 1700 };
    let (once, often) = (trained(1), trained(visits));
    for (once, often) in once.iter().zip(&often) {
        let error = (once.as_f64() / often.as_f64() - 1.0).abs();
        assert!(error < 3.0 * T::ROUNDING, "{error}");
    }
}

/// Inputs in other units have weights in other units, to the bit if they are powers of two.
fn units_do_not_matter<T: Tested>() {
    let (d, m, n) = (4, 2, 30);
    let (z, p): (Vec<T>, Vec<T>) = (
        uniform(&mut generator(5), d * n, 1.0),
        uniform(&mut generator(6), m * n, 1.0),
    );
    let exponents = match is_f32::<T>() {
        true => [-30, 0, 13, 40],
        false => [-300, 0, 100, 400],
    };
    for bias in [true, false] {
        let count = m * (d + usize::from(bias));
        let solved = |units: [f64; 4]| {
            let own = z.iter().enumerate();
            let z: Vec<T> = own.map(|(i, &z)| z * T::of(units[i % d])).collect();
            let mut equations = NormalEquations::new(d, m, bias).unwrap();
            equations.add(&z, &p, None).unwrap();
            let found = solved(&mut equations, count);
            let unit = |k: usize| units.get(k / m).map_or(T::one(), |&unit| T::of(unit));
            let scaled = found.iter().enumerate().map(|(k, &w)| w * unit(k));
            scaled.collect::<Vec<T>>()
        };
        let units = exponents.map(|k| 2.0_f64.powi(k));
        assert_eq!(solved(units), solved([1.0; 4]));
    }
    // A column whose squares do not fit.
    let all_tiny = match is_f32::<T>() {
        true => [1e-17, 1e-22, 1e30],
        false => [1e-150, 1e-160, 1e300],
    };
    for tiny in all_tiny {
        let mut equations = NormalEquations::new(1, 1, false).unwrap();
        let (z, p) = ([tiny, 2.0 * tiny].map(T::of), [T::one(), T::of(2.0)]);
        equations.add(&z, &p, None).unwrap();
        let mut found = [T::zero()];
        equations.solve(0.0, 0.0, &mut found).unwrap();
        assert!((found[0].as_f64() * tiny - 1.0).abs() < 1e-6, "{found:?}");
    }
}

/// With forgetting, a batch in far larger units has no more say after a while than one weighted as
/// little in the units of the others.
fn a_batch_in_other_units_is_forgotten<T: Tested>() {
    let (large, count) = match is_f32::<T>() {
        true => (2.0_f64.powi(70), 320),
        false => (2.0_f64.powi(540), 2300),
    };
    let mut equations = NormalEquations::new(2, 1, true).unwrap();
    let solve = |equations: &mut NormalEquations<T>| {
        let mut found = [T::zero(); 3];
        equations.solve(0.0, 0.0, &mut found).unwrap();
        found.map(|v| v.as_f64())
    };
    let scaled = |own: &[f64], unit: f64| own.iter().map(|x| T::of(unit * x)).collect::<Vec<_>>();
    let z = [1.0, -1.0, 2.0, 0.5, -1.0, 3.0, 0.0, -2.0];
    let p = |w: f64| [0, 1, 2, 3].map(|i| w * z[2 * i] + 2.0 * z[2 * i + 1] + 0.25);
    equations
        .add(&scaled(&z, large), &scaled(&p(-9.0), large), None)
        .unwrap();
    let first = solve(&mut equations)[0];
    assert!((first + 9.0).abs() < 1e-4, "{first}");
    for _ in 0..count {
        equations.forget(0.5).unwrap();
        equations
            .add(&scaled(&z, 1.0), &scaled(&p(3.0), 1.0), None)
            .unwrap();
    }
    let found = solve(&mut equations);
    for (found, expected) in found.iter().zip([3.0, 2.0, 0.25]) {
        assert!((found - expected).abs() < 1e-4, "{found}, {expected}");
    }
}

/// Weights in any unit that they have, in batches of one unit or of several, with forgetting or
/// without: bit by bit the solution for weights near 1.
fn units_of_weights_do_not_matter<T: Tested>() {
    let (d, m, n) = (3, 2, 20);
    let z: Vec<T> = uniform(&mut generator(5), d * n, 1e-3);
    let p: Vec<T> = uniform(&mut generator(6), m * n, 1e-3);
    let w: Vec<T> = uniform(&mut generator(7), n, 0.4);
    let exponents: &[i32] = match is_f32::<T>() {
        true => &[-122, -60, 60, 127],
        false => &[-1015, -600, 600, 1023],
    };
    for bias in [true, false] {
        for forgetting in [1.0, 0.7, 1e-30] {
            let found = |exponent: i32| {
                let unit = T::of(2.0_f64.powi(exponent));
                let mut equations = NormalEquations::new(d, m, bias).unwrap();
                for batch in [0..8, 8..n] {
                    let own = w[batch.clone()].iter();
                    let weights: Vec<T> = own.map(|&w| (w + T::of(0.5)) * unit).collect();
                    let (z, p) = (
                        &z[d * batch.start..d * batch.end],
                        &p[m * batch.start..m * batch.end],
                    );
                    equations.add(z, p, Some(&weights)).unwrap();
                    equations.forget(forgetting).unwrap();
                }
                solved(&mut equations, m * (d + usize::from(bias)))
            };
            let expected = found(0);
            for &exponent in exponents {
                assert_eq!(found(exponent), expected, "2^{exponent}, {bias}");
            }
        }
        // What weighs next to nothing beside another batch changes nothing, whichever comes first.
        let found = |units: [f64; 2]| {
            let mut equations = NormalEquations::new(d, m, bias).unwrap();
            for (batch, unit) in [0..8, 8..n].into_iter().zip(units) {
                let weights = vec![T::of(unit); batch.len()];
                let (z, p) = (
                    &z[d * batch.start..d * batch.end],
                    &p[m * batch.start..m * batch.end],
                );
                equations.add(z, p, Some(&weights)).unwrap();
            }
            solved(&mut equations, m * (d + usize::from(bias)))
        };
        for [light, heavy] in [[1e-37, 1.0], [1.0, 1e37], [1e-37, 1e37]] {
            for (units, plain) in [
                ([light, heavy], [1e-12, 1e18]),
                ([heavy, light], [1e18, 1e-12]),
            ] {
                let (a, b) = (found(units), found(plain));
                for (a, b) in a.iter().zip(&b) {
                    let error = (*a - *b).abs().as_f64();
                    assert!(
                        error < 1e3 * T::default_epsilon().as_f64(),
                        "{units:?}: {a}, {b}"
                    );
                }
            }
        }
    }
    let mut equations = NormalEquations::<T>::new(1, 1, false).unwrap();
    equations
        .add(&[T::one()], &[T::one()], Some(&[T::of(3e-38)]))
        .unwrap();
    assert_eq!(equations.weight(), T::of(3e-38));
    equations.add(&[T::one()], &[T::one()], None).unwrap();
    assert_eq!(equations.weight(), T::one());
    equations.forget(0.0).unwrap();
    assert_eq!(equations.weight(), T::zero());
}

/// The two inputs of an example.
type Column<'a, T> = &'a dyn Fn(usize) -> [T; 2];

/// A column that is constant, or that follows from others, but for rounding: never a solution.
fn rounding_is_no_column<T: Tested>() {
    let epsilon = T::default_epsilon();
    let ulp_off = T::of(14.62) * (T::one() + epsilon);
    let n = 40;
    let base: Vec<T> = uniform(&mut generator(7), n, 1.0);
    let y: Vec<T> = uniform(&mut generator(8), n, 1.0);
    let third = T::of(1.0) / T::of(3.0);
    let far = |x: T| x + T::of(if is_f32::<T>() { 1e5 } else { 1e13 });
    let cases: [(&str, Column<'_, T>); 6] = [
        ("an ulp off once", &|i| {
            [base[i], if i == 7 { ulp_off } else { T::of(14.62) }]
        }),
        ("an ulp off at times, first", &|i| {
            [if i % 3 == 0 { ulp_off } else { T::of(14.62) }, base[i]]
        }),
        ("constant", &|i| [base[i], T::of(0.7)]),
        ("a third", &|i| [base[i], base[i] * third]),
        ("a third far from zero", &|i| {
            let x = far(base[i]);
            [x, x * third]
        }),
        ("shifted", &|i| [base[i], base[i] + T::of(1000.0)]),
    ];
    for (name, column) in cases {
        let z: Vec<T> = (0..n).flat_map(column).collect();
        for batch in [n, 9, 1] {
            let mut equations = NormalEquations::new(2, 1, true).unwrap();
            for (z, y) in z.chunks(2 * batch).zip(y.chunks(batch)) {
                equations.add(z, y, None).unwrap();
            }
            let mut parameters = [T::one(); 3];
            let error = equations.solve(0.0, 0.0, &mut parameters);
            assert!(
                matches!(error, Err(Error::Singular { .. })),
                "{name}, {batch}: {error:?}, {parameters:?}"
            );
            assert_eq!(parameters, [T::one(); 3]);
        }
    }
}

/// The threshold of singular equations is no higher than rounding asks for.
fn hardly_independent_columns_are_solved<T: Tested>() {
    // x and x + δ e with 1 − r² = 20 ε, of which 4 ε would be refused.
    let epsilon = T::default_epsilon().as_f64();
    let delta = (20.0 * epsilon).sqrt();
    let z: Vec<T> = [[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]
        .iter()
        .flat_map(|[x, e]| [T::of(*x), T::of(x + delta * e)])
        .collect();
    let p: Vec<T> = z.chunks(2).map(|z| z[0] + z[1]).collect();
    for bias in [true, false] {
        let mut equations = NormalEquations::new(2, 1, bias).unwrap();
        equations.add(&z, &p, None).unwrap();
        let found = solved(&mut equations, 2 + usize::from(bias));
        // Few digits of each are left, but of their sum all.
        let sum = (found[0] + found[1]).as_f64();
        assert!((sum - 2.0).abs() < 1e3 * epsilon.sqrt(), "{found:?}");
        assert!((found[0].as_f64() - 1.0).abs() < 0.5, "{found:?}");
    }
}

/// A dense layer whose bias decays too.
#[derive(Debug)]
struct Decaying(Dense);

impl<T: Scalar> Layer<T> for Decaying {
    fn input_shape(&self) -> Shape {
        Layer::<T>::input_shape(&self.0)
    }

    fn output_shape(&self) -> Shape {
        Layer::<T>::output_shape(&self.0)
    }

    fn parameters(&self) -> Vec<ParameterGroup> {
        let groups = Layer::<T>::parameters(&self.0).into_iter();
        groups.map(ParameterGroup::decaying).collect()
    }

    fn initialize(&self, parameters: &mut [T], rng: &mut dyn Rng) {
        self.0.initialize(parameters, rng);
    }

    fn scratch(&self, batch: usize) -> Scratch {
        Layer::<T>::scratch(&self.0, batch)
    }

    evaluated_by!(0: T);

    fn affine(&self) -> Option<Affine> {
        Layer::<T>::affine(&self.0)
    }
}

/// An L2 regulariser holds a bias that decays as it holds the weights, near zero and far from it.
fn a_decaying_bias_decays<T: Tested>() {
    let (n, dense) = (20, || Dense::new(3, 2, Activation::Identity).unwrap());
    for offset in [0.0, 30.0] {
        let x = DMatrix::from_vec(3, n, uniform::<T>(&mut generator(1), 3 * n, 1.0));
        let y = DMatrix::from_vec(2, n, uniform::<T>(&mut generator(2), 2 * n, 1.0));
        let x = x.map(|x| x + T::of(offset));
        // ½ λ₂ ‖θ‖² beside a sum over examples.
        let energy = Energy::default().with_parameter_regularizer(Regularizer::l2(8.0).unwrap());
        let circuit = Circuit::builder().layer(Decaying(dense())).build().unwrap();
        let mut model = DecoupledCircuit::new(circuit, energy).unwrap();
        model
            .add_examples(&x, &y, &TargetInit::ForwardPass)
            .unwrap();
        let solver = LeastSquares::ridge(0.0).unwrap();
        model.solve_parameters(0, &solver, &Selection::All).unwrap();
        let slopes = &model.gradients(&Selection::All).unwrap().parameters[0];
        let size = n as f64 * (1.0 + offset) * (1.0 + offset);
        for (k, slope) in slopes.iter().enumerate() {
            let slope = slope.as_f64() / size;
            assert!(slope.abs() < T::ROUNDING, "{k} at {offset}: {slope}");
        }
    }
}
