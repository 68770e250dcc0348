//! The crate's problems as functions of one flat vector: the circuit's own bits, derivatives that
//! differences confirm, the documented layout, and points put back as a whole or not at all.

use crate::property::{Tested, failed, for_all, generator, uniform};
use layerwise::decoupled::{Selection, TargetInit};
use layerwise::energy::{Energy, Workspace};
use layerwise::error::Quantity;
use layerwise::gradcheck::GradCheck;
use layerwise::kernel::Write;
use layerwise::layer::{Activation, Dense};
use layerwise::loss::{Gaussian, Pair, Poisson, SoftmaxCrossEntropy, SquaredError};
use layerwise::nalgebra::DMatrix;
use layerwise::objective::{JointObjective, LocalObjective, Objective};
use layerwise::regularizer::Regularizer;
use layerwise::{Circuit, DecoupledCircuit, Error, Loss, Scalar};
use proptest::prelude::*;

in_both_scalars!(
    values_and_gradients_have_the_circuits_bits,
    differences_confirm_every_gradient,
    objectives_are_sums_over_examples,
    a_wrong_gradient_is_seen,
    what_is_not_finite_or_not_a_target_is_refused,
);

/// A gradient in z beyond the scalar though E is not, a point that is no number, and targets that
/// the hidden loss does not take: errors, and nothing is written.
fn what_is_not_finite_or_not_a_target_is_refused<T: Tested>() {
    let dense = |activation| Dense::new(1, 1, activation).unwrap().without_bias();
    let layers = |first| {
        Circuit::builder()
            .layer(dense(first))
            .layer(dense(Activation::Identity))
    };
    let model = |energy, layers: layerwise::circuit::CircuitBuilder<T>, weight: f64| {
        let mut model = DecoupledCircuit::new(layers.build().unwrap(), energy).unwrap();
        model.set_parameters(1, &[T::of(weight)]).unwrap();
        let one = DMatrix::from_element(1, 1, T::one());
        let given = TargetInit::Given(vec![one.clone()]);
        model.add_examples(&one, &one, &given).unwrap();
        model
    };
    // ½ (1 − w z)² is finite at z = 0, and w (1 − w z) is not where w z is large.
    let largest = T::max_value().unwrap().as_f64();
    let weight = largest.powf(0.7);
    let steep = model(Energy::default(), layers(Activation::Identity), weight);
    let z = T::of(largest.powf(-0.25));
    let mut workspace = Workspace::new();
    let objective = steep.target_objective(&Selection::All).unwrap();
    let mut gradient = [T::of(7.0)];
    assert!(objective.value(&[z]).unwrap().is_finite());
    let error = objective.evaluate(&[z], Some(&mut gradient), &mut workspace);
    let Err(Error::NonFinite {
        quantity, layer, ..
    }) = error
    else {
        panic!("{error:?}");
    };
    assert_eq!((quantity, layer), (Quantity::TargetGradient, 1));
    assert_eq!(gradient, [T::of(7.0)]);
    for bad in [T::zero() / T::zero(), T::one() / T::zero()] {
        let both = steep.joint_objective(&Selection::All).unwrap();
        let mut point = both.point();
        point[2] = bad;
        let errors = [
            objective.evaluate(&[bad], Some(&mut gradient), &mut workspace),
            objective.evaluate(&[bad], None, &mut workspace),
            both.evaluate(&point, None, &mut workspace),
        ];
        for error in errors {
            let Err(Error::NonFiniteData { quantity, .. }) = error else {
                panic!("{error:?}");
            };
            assert_eq!(quantity, Quantity::Target);
        }
    }
    assert_eq!(gradient, [T::of(7.0)]);
    let energy = Energy::default().with_hidden_loss(NotNegative);
    let mut counts = model(energy, layers(Activation::Identity), 1.0);
    let point = [T::of(-0.5)];
    let error = counts.set_target_point(&Selection::All, &point);
    assert!(
        matches!(error, Err(Error::ZeroDimension { .. })),
        "{error:?}"
    );
    assert_eq!(counts.z(1).unwrap()[(0, 0)], T::one());
}

/// Squared error of targets that are not negative.
#[derive(Debug)]
struct NotNegative;

impl<T: Scalar> Loss<T> for NotNegative {
    fn free_target(&self) -> bool {
        true
    }

    fn check_target(&self, _: usize, target: &[T]) -> Result<(), Error> {
        match target.iter().all(|&z| z >= T::zero()) {
            true => Ok(()),
            // Any error will do.
            false => Err(Error::ZeroDimension { what: "a test" }),
        }
    }

    fn scratch(&self, dim: usize, n: usize) -> usize {
        Loss::<T>::scratch(&SquaredError, dim, n)
    }

    fn evaluate(
        &self,
        at: &Pair<'_, T>,
        values: &mut [T],
        d_target: Write<'_, T>,
        d_prediction: Write<'_, T>,
        work: &mut [T],
    ) {
        SquaredError.evaluate(at, values, d_target, d_prediction, work);
    }

    fn curvature(
        &self,
        at: &Pair<'_, T>,
        v_target: Option<&[T]>,
        v_prediction: Option<&[T]>,
        out_target: Write<'_, T>,
        out_prediction: Write<'_, T>,
        work: &mut [T],
    ) {
        let (target, prediction) = (out_target, out_prediction);
        SquaredError.curvature(at, v_target, v_prediction, target, prediction, work);
    }
}

const SMOOTH: [Activation; 6] = [
    Activation::Identity,
    Activation::Tanh,
    Activation::Sigmoid,
    Activation::Gelu,
    Activation::Silu,
    Activation::Softplus,
];

/// What a random model is made from: d_0, …, d_T, one activation a layer, losses, n.
#[derive(Debug, Clone)]
struct Case {
    widths: Vec<usize>,
    activations: Vec<Activation>,
    output: usize,
    /// A hidden loss with parameters of its own.
    learned: bool,
    weighted: bool,
    regularized: bool,
    n: usize,
    seed: u64,
}

fn any_case() -> impl Strategy<Value = Case> {
    (
        prop::collection::vec(1..6usize, 2..6),
        prop::collection::vec(prop::sample::select(&SMOOTH[..]), 4),
        0..3usize,
        any::<[bool; 3]>(),
        1..6usize,
        any::<u64>(),
    )
        .prop_map(
            |(widths, activations, output, [learned, weighted, regularized], n, seed)| Case {
                widths,
                activations,
                output,
                learned,
                weighted,
                regularized,
                n,
                seed,
            },
        )
}

/// Uneven widths and everything that a term may have.
fn rich_case() -> Case {
    Case {
        widths: vec![3, 5, 4, 2],
        activations: SMOOTH[1..5].to_vec(),
        output: 1,
        learned: true,
        weighted: true,
        regularized: true,
        n: 4,
        seed: 7,
    }
}

impl Case {
    fn model<T: Scalar>(&self) -> Result<DecoupledCircuit<T>, Error> {
        let mut builder = Circuit::builder().seed(self.seed);
        for (pair, &activation) in self.widths.windows(2).zip(&self.activations) {
            builder = builder.layer(Dense::new(pair[0], pair[1], activation)?);
        }
        let mut energy = match self.output {
            0 => Energy::new(SquaredError),
            1 => Energy::new(SoftmaxCrossEntropy),
            _ => Energy::new(Poisson),
        };
        let hidden = 0..self.widths.len() - 2;
        let losses = hidden.clone().map(|i| -> Result<Box<dyn Loss<T>>, Error> {
            match self.learned && i % 2 == 0 {
                true => Ok(Box::new(Gaussian::learned(T::of(1.5), T::of(0.1))?)),
                false => Ok(Box::new(SquaredError)),
            }
        });
        energy = energy
            .with_hidden_losses(losses.collect::<Result<_, _>>()?)
            .with_penalties(hidden.map(|i| T::of(0.5 + i as f64)).collect());
        if self.regularized {
            energy = energy
                .with_parameter_regularizer(Regularizer::l2(0.3)?)
                .with_target_regularizer(Regularizer::l2(0.2)?);
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
        let random = TargetInit::RandomNormal {
            std: 0.8,
            seed: self.seed,
        };
        model.add_examples(&x, &y, &random)?;
        if self.weighted {
            let weights: Vec<T> = (0..self.n).map(|i| T::of(0.5 + i as f64)).collect();
            model.set_example_weights(&Selection::All, &weights)?;
        }
        Ok(model)
    }

    /// All examples, a run of them, and some that are copied together in another order.
    fn selections<'a>(&self, backwards: &'a mut Vec<u64>) -> [Selection<'a>; 3] {
        *backwards = (self.n as u64 / 2..self.n as u64).rev().collect();
        [
            Selection::All,
            Selection::Columns(self.n - 1..self.n),
            Selection::Examples(backwards),
        ]
    }
}

/// The values' bits: of a finite number f64 keeps those of f32.
fn bits<T: Scalar>(values: &[T]) -> Vec<u64> {
    values.iter().map(|v| v.as_f64().to_bits()).collect()
}

/// z_t of a selection, column-major.
fn targets<T: Scalar>(model: &DecoupledCircuit<T>, t: usize, selection: &Selection) -> Vec<T> {
    let z = model.z(t).unwrap();
    match selection {
        Selection::All => z.iter().copied().collect(),
        Selection::Columns(run) => z.columns(run.start, run.len()).iter().copied().collect(),
        Selection::Examples(ids) => ids
            .iter()
            .flat_map(|&id| z.column(id as usize).iter().copied().collect::<Vec<T>>())
            .collect(),
    }
}

/// Asserts that an objective has this value and this gradient at a point, by every way to ask.
fn same<T: Scalar>(
    objective: &dyn Objective<T>,
    point: &[T],
    value: T,
    gradient: &[T],
    workspace: &mut Workspace<T>,
) -> Result<(), TestCaseError> {
    let found = objective.value(point).map_err(failed)?;
    prop_assert_eq!(bits(&[found]), bits(&[value]));
    let found = objective.gradient(point).map_err(failed)?;
    prop_assert_eq!(bits(&found), bits(gradient));
    // NaN, so that an entry which is not overwritten is seen.
    let mut kept = vec![T::zero() / T::zero(); objective.dimension()];
    let found = objective.evaluate(point, Some(&mut kept), workspace);
    prop_assert_eq!(bits(&[found.map_err(failed)?]), bits(&[value]));
    prop_assert_eq!(bits(&kept), bits(gradient));
    Ok(())
}

/// Compares all objectives of `model` with the circuit of `at`, which has their points.
fn compare<T: Scalar>(
    model: &DecoupledCircuit<T>,
    at: &DecoupledCircuit<T>,
    selection: &Selection,
    workspace: &mut Workspace<T>,
) -> Result<(), TestCaseError> {
    let depth = model.circuit().depth();
    let theta: Vec<T> = (0..depth)
        .flat_map(|t| at.circuit().parameters(t).to_vec())
        .collect();
    let z: Vec<T> = (1..depth).flat_map(|t| targets(at, t, selection)).collect();
    let decoupled = at.gradients(selection).map_err(failed)?;
    let d_theta = decoupled.parameters.concat();
    let d_z: Vec<T> = decoupled
        .targets
        .iter()
        .flat_map(|g| g.as_slice().to_vec())
        .collect();
    let joint = model.joint_objective(selection).map_err(failed)?;
    let both = [theta.clone(), z.clone()].concat();
    let d_both = [d_theta, d_z.clone()].concat();
    same(&joint, &both, decoupled.energy, &d_both, workspace)?;

    let composed = model.composed_objective(selection).map_err(failed)?;
    let backprop = at.backprop(selection).map_err(failed)?;
    let d_composed = backprop.parameters.concat();
    same(&composed, &theta, backprop.energy, &d_composed, workspace)?;

    // θ is fixed here: that of the point.
    let target = at.target_objective(selection).map_err(failed)?;
    same(&target, &z, decoupled.energy, &d_z, workspace)
}

fn values_and_gradients_have_the_circuits_bits<T: Tested>() {
    for_all(any_case(), |case| {
        let model = case.model::<T>().map_err(failed)?;
        let rng = &mut generator(case.seed ^ 1);
        // One for all objectives and all selections.
        let mut workspace = Workspace::new();
        let mut backwards = Vec::new();
        for selection in case.selections(&mut backwards) {
            let joint = model.joint_objective(&selection).map_err(failed)?;
            let mut point = joint.point();
            let mut moved = model.clone();
            compare(&model, &moved, &selection, &mut workspace)?;
            for (x, step) in point
                .iter_mut()
                .zip(uniform::<T>(rng, joint.dimension(), 0.1))
            {
                *x += step;
            }
            moved.set_joint_point(&selection, &point).map_err(failed)?;
            compare(&model, &moved, &selection, &mut workspace)?;
        }
        let depth = model.circuit().depth();
        for t in 0..depth {
            let problem = model.local_problem(t, 0..case.n).map_err(failed)?;
            let lambda: Vec<T> = uniform(rng, case.n * case.widths[t + 1], 1.0);
            let with_multipliers = problem.with_multipliers(&lambda).map_err(failed)?;
            for problem in [problem, with_multipliers] {
                let objective = LocalObjective::new(problem);
                let own = problem.gradients();
                let theta = model.circuit().parameters(t);
                prop_assert_eq!(bits(&objective.point()), bits(theta));
                same(
                    &objective,
                    theta,
                    own.energy,
                    &own.parameters,
                    &mut workspace,
                )?;
            }
            // At another point: the circuit of that point.
            let shift: Vec<T> = uniform(rng, model.circuit().parameters(t).len(), 0.1);
            let mut moved = model.clone();
            let own = model.circuit().parameters(t).iter();
            let theta: Vec<T> = own.zip(shift).map(|(&p, s)| p + s).collect();
            moved.set_parameters(t, &theta).map_err(failed)?;
            let own = moved
                .local_problem(t, 0..case.n)
                .map_err(failed)?
                .gradients();
            let objective = LocalObjective::new(model.local_problem(t, 0..case.n).unwrap());
            same(
                &objective,
                &theta,
                own.energy,
                &own.parameters,
                &mut workspace,
            )?;
        }
        Ok(())
    });
}

fn differences_confirm_every_gradient<T: Tested>() {
    for_all(any_case(), |case| {
        let model = case.model::<T>().map_err(failed)?;
        let mut objectives: Vec<Box<dyn Objective<T> + '_>> = Vec::new();
        let mut backwards = Vec::new();
        for selection in case.selections(&mut backwards) {
            objectives.push(Box::new(model.joint_objective(&selection).unwrap()));
            objectives.push(Box::new(model.target_objective(&selection).unwrap()));
            objectives.push(Box::new(model.composed_objective(&selection).unwrap()));
        }
        for t in 0..model.circuit().depth() {
            let problem = model.local_problem(t, 0..case.n).unwrap();
            objectives.push(Box::new(LocalObjective::new(problem)));
        }
        for objective in objectives {
            let check = GradCheck::new().objective(&*objective, &objective.point());
            let report = check.map_err(failed)?;
            prop_assert_eq!(report.compared, objective.dimension());
            match report.require(T::GRADIENT) {
                // A circuit of one layer has no targets.
                Err(Error::NothingCompared) if objective.dimension() == 0 => {}
                checked => checked.map_err(failed)?,
            }
        }
        Ok(())
    });
}

/// Not means, and with the regulariser once for every example: the examples' own objectives add up.
fn objectives_are_sums_over_examples<T: Tested>() {
    for_all(any_case(), |case| {
        let model = case.model::<T>().map_err(failed)?;
        let count = model.circuit().parameter_count();
        let answer = |objective: &dyn Objective<T>| {
            let point = objective.point();
            let gradient = objective.gradient(&point).unwrap();
            (objective.value(&point).unwrap(), gradient)
        };
        let ask = |selection: &Selection, composed| match composed {
            false => answer(&model.joint_objective(selection).unwrap()),
            true => answer(&model.composed_objective(selection).unwrap()),
        };
        for composed in [false, true] {
            let (value, gradient) = ask(&Selection::All, composed);
            // Value and gradient in θ, each with the sum of its terms' magnitudes.
            let mut sums = vec![(0.0, 0.0); 1 + count];
            for i in 0..case.n {
                let (value, gradient) = ask(&Selection::Columns(i..i + 1), composed);
                let terms = std::iter::once(&value).chain(&gradient[..count]);
                for ((sum, size), term) in sums.iter_mut().zip(terms) {
                    *sum += term.as_f64();
                    *size += term.as_f64().abs();
                }
            }
            let whole = std::iter::once(&value).chain(&gradient[..count]);
            // An entry's own terms may cancel within an example: the largest is the measure.
            let largest = sums.iter().fold(1.0, |top: f64, &(_, size)| top.max(size));
            for (&(sum, _), whole) in sums.iter().zip(whole) {
                let error = (sum - whole.as_f64()).abs();
                prop_assert!(error <= T::ROUNDING * largest, "{sum} and {whole}");
            }
        }
        Ok(())
    });
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    None,
    /// ∂E/∂z_t without its part as the next layer's input: its target part alone.
    NoInputPart,
    /// One μ forgotten.
    NoPenalty,
    /// An example's weight forgotten.
    NoWeight,
    /// z before θ.
    Swapped,
    /// z_t row by row.
    RowMajor,
    /// A gradient of another sign.
    Sign,
}

/// A joint objective whose gradient has one fault.
#[derive(Debug)]
struct Faulty<'a, T: Scalar> {
    inner: JointObjective<'a, T>,
    model: &'a DecoupledCircuit<T>,
    fault: Fault,
}

impl<T: Scalar> Objective<T> for Faulty<'_, T> {
    fn dimension(&self) -> usize {
        self.inner.dimension()
    }

    fn point(&self) -> Vec<T> {
        self.inner.point()
    }

    fn evaluate(
        &self,
        point: &[T],
        gradient: Option<&mut [T]>,
        workspace: &mut Workspace<T>,
    ) -> Result<T, Error> {
        let Some(gradient) = gradient else {
            return self.inner.evaluate(point, None, workspace);
        };
        let value = self.inner.evaluate(point, Some(gradient), workspace)?;
        let z_1 = self.inner.target_range(1);
        let n = self.model.examples().len();
        match self.fault {
            Fault::None => {}
            Fault::NoInputPart => {
                let problem = self.model.local_problem(1, 0..n).unwrap();
                for (g, part) in gradient[z_1].iter_mut().zip(problem.gradients().input) {
                    *g -= part;
                }
            }
            Fault::NoPenalty => {
                for g in &mut gradient[self.inner.parameter_range(1)] {
                    *g /= self.model.layers().weight(1);
                }
            }
            Fault::NoWeight => {
                let dim = self.model.circuit().dims()[1];
                for g in &mut gradient[z_1][..dim] {
                    *g /= self.model.example_weights().unwrap()[0];
                }
            }
            Fault::Swapped => gradient.rotate_left(z_1.start),
            Fault::RowMajor => {
                let dim = self.model.circuit().dims()[1];
                let own = DMatrix::from_column_slice(dim, n, &gradient[z_1.clone()]);
                gradient[z_1].copy_from_slice(own.transpose().as_slice());
            }
            Fault::Sign => gradient.iter_mut().for_each(|g| *g = -*g),
        }
        Ok(value)
    }
}

fn a_wrong_gradient_is_seen<T: Tested>() {
    let model = rich_case().model::<T>().unwrap();
    let check = |fault| {
        let faulty = Faulty {
            inner: model.joint_objective(&Selection::All).unwrap(),
            model: &model,
            fault,
        };
        let report = GradCheck::new().objective(&faulty, &faulty.point());
        report.unwrap().require(T::GRADIENT)
    };
    check(Fault::None).unwrap();
    for fault in [
        Fault::NoInputPart,
        Fault::NoPenalty,
        Fault::NoWeight,
        Fault::Swapped,
        Fault::RowMajor,
        Fault::Sign,
    ] {
        match check(fault) {
            Err(Error::WrongDerivative { entry, .. }) => {
                assert_eq!(entry.derivative, "∂φ/∂x");
                assert!(entry.error > 10.0 * T::GRADIENT, "{fault:?}: {entry}");
            }
            other => panic!("{fault:?}: {other:?}"),
        }
    }
}

/// θ_0, …, θ_{T−1}, z_1, …, z_{T−1}, z_t column by column in the order of the selection.
#[test]
fn the_layout_is_the_documented_one() {
    let model = rich_case().model::<f64>().unwrap();
    let counts: Vec<usize> = (0..3)
        .map(|t| model.circuit().parameters(t).len())
        .collect();
    // 3 → 5 and 5 → 4 with a learned precision each or not, 4 → 2.
    assert_eq!(counts, [20 + 5, 24, 10]);
    let chosen = [3, 0, 2];
    let selection = Selection::Examples(&chosen);
    let joint = model.joint_objective(&selection).unwrap();
    let target = model.target_objective(&selection).unwrap();
    let composed = model.composed_objective(&selection).unwrap();
    assert_eq!(composed.dimension(), 59);
    assert_eq!(target.dimension(), 3 * (5 + 4));
    assert_eq!(joint.dimension(), 59 + 27);
    let (point, z, theta) = (joint.point(), target.point(), composed.point());
    let mut end = 0;
    for (t, count) in counts.into_iter().enumerate() {
        let own = joint.parameter_range(t);
        assert_eq!(own, end..end + count);
        assert_eq!(composed.parameter_range(t), own);
        assert_eq!(point[own.clone()], *model.circuit().parameters(t));
        assert_eq!(theta[own.clone()], point[own.clone()]);
        end = own.end;
    }
    for t in 1..3 {
        let own = joint.target_range(t);
        let dim = [5, 4][t - 1];
        assert_eq!(own, end..end + 3 * dim);
        for (place, &id) in chosen.iter().enumerate() {
            let column = &point[own.start + place * dim..][..dim];
            let all = model.z(t).unwrap();
            assert_eq!(column, all.column(id as usize).as_slice());
        }
        assert_eq!(z[target.target_range(t)], point[own.clone()]);
        end = own.end;
    }
    assert_eq!(end, joint.dimension());
}

/// All numbers that a point can change.
fn state(model: &DecoupledCircuit<f64>) -> Vec<Vec<u64>> {
    let depth = model.circuit().depth();
    let theta = (0..depth).map(|t| bits(model.circuit().parameters(t)));
    let z = (0..=depth).map(|t| bits(model.z(t).unwrap().into_owned().as_slice()));
    theta.chain(z).collect()
}

#[test]
fn a_point_is_put_back_where_it_came_from() {
    let mut model = rich_case().model::<f64>().unwrap();
    let chosen = [2, 0];
    let selection = Selection::Examples(&chosen);
    let before = state(&model);
    let point = model.joint_objective(&selection).unwrap().point();
    model.set_joint_point(&selection, &point).unwrap();
    assert_eq!(state(&model), before);
    // Every entry has a place of its own, and the other examples keep theirs.
    let rest = [
        targets(&model, 1, &Selection::Examples(&[1, 3])),
        targets(&model, 2, &Selection::Examples(&[1, 3])),
    ];
    let numbered: Vec<f64> = (0..point.len()).map(|i| i as f64 / 100.0).collect();
    model.set_joint_point(&selection, &numbered).unwrap();
    let found = model.joint_objective(&selection).unwrap().point();
    assert_eq!(found, numbered);
    for (t, rest) in (1..).zip(&rest) {
        let now = targets(&model, t, &Selection::Examples(&[1, 3]));
        assert_eq!(bits(&now), bits(rest));
    }
    let z: Vec<f64> = numbered[59..].iter().map(|z| -z).collect();
    model.set_target_point(&selection, &z).unwrap();
    let theta: Vec<f64> = numbered[..59].iter().map(|p| -p).collect();
    model.set_parameter_point(&theta).unwrap();
    let found = model.joint_objective(&selection).unwrap().point();
    assert_eq!(found, [theta, z].concat());
}

#[test]
fn a_point_that_does_not_fit_changes_nothing() {
    let mut model = rich_case().model::<f64>().unwrap();
    let before = state(&model);
    let all = &Selection::All;
    let point = model.joint_objective(all).unwrap().point();
    let mut last_is_nan = point.clone();
    *last_is_nan.last_mut().unwrap() = f64::NAN;
    let (theta, z) = point.split_at(59);
    let mut theta_ends_in_infinity = theta.to_vec();
    theta_ends_in_infinity[58] = f64::INFINITY;

    let length = |expected, found| Error::Length {
        what: "point".into(),
        expected,
        found,
    };
    let short = model.set_joint_point(all, &point[1..]).unwrap_err();
    assert_eq!(short, length(59 + 36, 59 + 35));
    let long = model.set_target_point(all, &point).unwrap_err();
    assert_eq!(long, length(36, 59 + 36));
    assert_eq!(model.set_parameter_point(z).unwrap_err(), length(59, 36));
    match model.set_joint_point(all, &last_is_nan).unwrap_err() {
        Error::NonFiniteData {
            quantity,
            layer,
            row,
            column,
            value,
        } => {
            assert_eq!((quantity, layer), (Quantity::Target, 2));
            assert_eq!((row, column, value.is_nan()), (3, 3, true));
        }
        other => panic!("{other}"),
    }
    let error = model.set_target_point(all, &last_is_nan[59..]).unwrap_err();
    assert!(matches!(error, Error::NonFiniteData { .. }), "{error}");
    let error = model
        .set_parameter_point(&theta_ends_in_infinity)
        .unwrap_err();
    let expected = Error::NonFiniteData {
        quantity: Quantity::Parameter,
        layer: 2,
        row: 9,
        column: 0,
        value: f64::INFINITY,
    };
    assert_eq!(error, expected);
    for selection in [
        Selection::Columns(2..2),
        Selection::Columns(3..5),
        Selection::Examples(&[4]),
        Selection::Examples(&[1, 1]),
    ] {
        let errors = [
            model.joint_objective(&selection).unwrap_err(),
            model.target_objective(&selection).unwrap_err(),
            model.composed_objective(&selection).unwrap_err(),
            model.set_joint_point(&selection, theta).unwrap_err(),
            model.set_target_point(&selection, &[]).unwrap_err(),
        ];
        for error in errors {
            let fits = match selection {
                Selection::Columns(ref run) if run.is_empty() => {
                    matches!(error, Error::NoExamples { .. })
                }
                Selection::Columns(_) => matches!(error, Error::UnknownColumns { .. }),
                Selection::Examples(&[4]) => matches!(error, Error::UnknownExample { .. }),
                _ => matches!(error, Error::RepeatedExample { .. }),
            };
            assert!(fits, "{selection:?}: {error}");
        }
    }
    assert_eq!(state(&model), before);
}

/// Errors name layer and quantity, and leave the gradient's memory alone.
#[test]
fn evaluations_that_fail_say_why() {
    let model = rich_case().model::<f64>().unwrap();
    let joint = model.joint_objective(&Selection::All).unwrap();
    let composed = model.composed_objective(&Selection::All).unwrap();
    let local = LocalObjective::new(model.local_problem(1, 0..4).unwrap());
    let objectives: [&dyn Objective<f64>; 3] = [&joint, &composed, &local];
    for objective in objectives {
        let mut workspace = Workspace::new();
        let (dimension, mut point) = (objective.dimension(), objective.point());
        let mut gradient = vec![7.0; dimension];
        let untouched = gradient.clone();
        let length = |what: &str, found| Error::Length {
            what: what.into(),
            expected: dimension,
            found,
        };
        let error = objective.evaluate(&point[1..], Some(&mut gradient), &mut workspace);
        assert_eq!(error, Err(length("point", dimension - 1)));
        let error = objective.evaluate(&point, Some(&mut gradient[1..]), &mut workspace);
        assert_eq!(error, Err(length("gradient", dimension - 1)));
        point[0] = f64::NAN;
        let error = objective.evaluate(&point, Some(&mut gradient), &mut workspace);
        assert!(matches!(error, Err(Error::NonFiniteData { row: 0, .. })));
        assert_eq!(gradient, untouched);
    }
    let (last, mut point) = (local.dimension() - 1, local.point());
    point[last] = f64::NAN;
    let error = local.evaluate(&point, None, &mut Workspace::new());
    let Err(Error::NonFiniteData { row, column, .. }) = error else {
        panic!("{error:?}")
    };
    assert_eq!((row, column), (last, 0));

    // Squares that overflow: E, then the gradient alone.
    let circuit = Circuit::<f64>::builder()
        .layer(Dense::new(1, 1, Activation::Identity).unwrap())
        .layer(Dense::new(1, 1, Activation::Identity).unwrap());
    let mut model = DecoupledCircuit::new(circuit.build().unwrap(), Energy::default()).unwrap();
    let (x, y) = (DMatrix::from_element(1, 1, 1e200), DMatrix::zeros(1, 1));
    let zero = TargetInit::Given(vec![DMatrix::zeros(1, 1)]);
    model.add_examples(&x, &y, &zero).unwrap();
    let non_finite = |quantity, layer| Error::NonFinite {
        quantity,
        layer,
        step: 0,
    };
    let joint = model.joint_objective(&Selection::All).unwrap();
    let composed = model.composed_objective(&Selection::All).unwrap();
    let local = LocalObjective::new(model.local_problem(0, 0..1).unwrap());
    let energy = non_finite(Quantity::Energy, 0);
    // x = (w_0, b_0, w_1, b_1, z_1).
    let far = [1.0, 0.0, 1.0, 0.0, 0.0];
    assert_eq!(joint.value(&far), Err(energy.clone()));
    assert_eq!(local.value(&far[..2]), Err(energy));
    let loss = non_finite(Quantity::ComposedLoss, 1);
    assert_eq!(composed.value(&far[..4]), Err(loss));
    // ẑ_1 = 1e110: its square is 1e220, times x in the gradient 1e310.
    let near = [1e-90, 0.0, 1.0, 0.0, 0.0];
    let mut gradient = [7.0; 5];
    let mut workspace = Workspace::new();
    assert!(joint.value(&near).is_ok());
    let error = joint.evaluate(&near, Some(&mut gradient), &mut workspace);
    let slope = non_finite(Quantity::ParameterGradient, 0);
    assert_eq!(error, Err(slope.clone()));
    let error = local.evaluate(&near[..2], Some(&mut gradient[..2]), &mut workspace);
    assert_eq!(error, Err(slope));
    assert_eq!(gradient, [7.0; 5]);

    // E alone: its square overflows, and the gradient does not.
    let (x, y) = (DMatrix::from_element(1, 1, 1.0), DMatrix::zeros(1, 1));
    model.remove_examples(&[0]).unwrap();
    model.add_examples(&x, &y, &zero).unwrap();
    let joint = model.joint_objective(&Selection::All).unwrap();
    let composed = model.composed_objective(&Selection::All).unwrap();
    let local = LocalObjective::new(model.local_problem(0, 0..1).unwrap());
    let objectives: [&dyn Objective<f64>; 3] = [&joint, &composed, &local];
    for objective in objectives {
        let point = &[1e160, 0.0, 1.0, 0.0, 0.0][..objective.dimension()];
        let gradient = &mut gradient[..objective.dimension()];
        let error = objective.evaluate(point, Some(gradient), &mut Workspace::new());
        assert!(matches!(error, Err(Error::NonFinite { .. })), "{error:?}");
        assert!(gradient.iter().all(|&g| g == 7.0));
    }
}
