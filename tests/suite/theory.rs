//! The functions of `layerwise::theory`: they find their statements to hold on random circuits,
//! agree with independent computations, and see a planted fault.
//!
//! Every case is drawn from its number, which the message of a failure names.

mod case;
mod faulty;
mod limit;
mod multipliers;

use self::case::{Case, distance, noise, norm, settle, settle_unchecked};
use self::faulty::{Fault, Faulty};
use layerwise::decoupled::{Selection, TargetInit};
use layerwise::energy::{Energy, Targets};
use layerwise::error::Quantity;
use layerwise::gradcheck::GradCheck;
use layerwise::init::Initializer;
use layerwise::kernel::Write;
use layerwise::layer::{Activation, Affine, Context, Dense, Point, Sequential, WeightOrder};
use layerwise::loss::{Gaussian, Huber, Pair, WeightedSquaredError};
use layerwise::nalgebra::DMatrix;
use layerwise::regularizer::Regularizer;
use layerwise::state::State;
use layerwise::target_solver::{
    GaussNewton, ReverseSweep, SolveReport, StepSize, SynchronousDescent, TargetProblem,
    TargetSolver,
};
use layerwise::{Circuit, DecoupledCircuit, Error, Layer, Loss, Scalar, theory};

const ALL: Selection<'static> = Selection::All;

const LINEAR: Activation = Activation::Identity;
const TANH: Activation = Activation::Tanh;

fn synchronous<T: Scalar>(steps: u64, step: f64) -> SynchronousDescent<T> {
    SynchronousDescent::new(steps, StepSize::Fixed(step)).unwrap()
}

fn statement_1_on<T: Scalar>(case: &Case) {
    let model = case.model::<T>(&noise());
    for selection in [ALL, Selection::Columns(0..1)] {
        let found = theory::forward_pass_deviations(&model, &selection).unwrap();
        assert_eq!(found.largest(), 0.0, "{found:?} of {case:?}");
    }
}

#[test]
fn statement_1_has_no_deviations() {
    for case in (0..60).map(Case::random) {
        statement_1_on::<f64>(&case);
        statement_1_on::<f32>(&case);
    }
}

#[test]
fn statement_1_sees_what_breaks_it() {
    let case = Case::uniform(&[3, 4, 3, 4, 2], TANH, 1);
    let drifting = case
        .clone()
        .with_fault(1, Fault::Drifts)
        .model::<f64>(&noise());
    let found = theory::forward_pass_deviations(&drifting, &ALL).unwrap();
    assert!(
        found.energy > 1e-6 && found.last_parameters > 1e-6,
        "{found:?}"
    );
    assert!(found.last_targets > 1e-6, "{found:?}");
    // What is no part of the statement: ∇R of θ_t, ∇S of z_t, the gradient of L_h's precision.
    let weight = Regularizer::l2(0.5).unwrap();
    let energy = case.energy::<f64>().with_parameter_regularizer(weight);
    let model = case.model_on(energy, &noise());
    let found = theory::forward_pass_deviations(&model, &ALL).unwrap();
    let steepest = (0..3).map(|t| {
        let dense = &model.circuit().parameters(t)[..case.dims[t] * case.dims[t + 1]];
        let weights: f64 = model.example_weights().unwrap().iter().sum();
        weights * 0.5 * distance(dense, &vec![0.0; dense.len()])
    });
    let expected = steepest.fold(0.0, f64::max);
    assert!(
        (found.hidden_parameters - expected).abs() < 1e-12,
        "{found:?}"
    );
    assert_eq!((found.hidden_targets, found.last_parameters), (0.0, 0.0));
    let energy = case.energy::<f64>().with_target_regularizer(weight);
    let model = case.model_on(energy, &noise());
    let found = theory::forward_pass_deviations(&model, &ALL).unwrap();
    assert!(
        found.hidden_targets > 1e-3 && found.last_targets > 1e-3,
        "{found:?}"
    );
    assert_eq!(
        found.largest(),
        found
            .energy
            .max(found.hidden_targets)
            .max(found.last_targets)
    );
}

fn statement_2_on<T: Scalar>(case: &Case) {
    let model = case.model::<T>(&noise());
    let last = case.depth() - 1;
    for k in 0..=last {
        let steps = k as u64;
        let reach = theory::gradient_reach(&model, &ALL, &synchronous(steps, 0.3)).unwrap();
        let reached: Vec<bool> = reach.iter().map(|&norm| norm > 0.0).collect();
        let expected: Vec<bool> = (0..=last).map(|t| t + k >= last).collect();
        assert_eq!(reached, expected, "{k} steps of {case:?}");
        // An iteration of conjugate gradients carries no further than a gradient step.
        let solver = GaussNewton::new(1, steps);
        let reach = theory::gradient_reach(&model, &ALL, &solver).unwrap();
        assert!(
            reach.iter().take(last - k).all(|&norm| norm == 0.0),
            "{k}, {case:?}"
        );
        assert!(reach[last - k] > 0.0, "{k} iterations of {case:?}");
    }
    let reach = theory::gradient_reach(&model, &ALL, &ReverseSweep::new(1)).unwrap();
    assert!(
        reach.iter().all(|&norm| norm > 0.0),
        "{reach:?} of {case:?}"
    );
}

/// Two half-sweeps of every other layer, from z_{T−1} down, predictions renewed between them.
#[derive(Debug)]
struct RedBlack(usize);

impl<T: Scalar> TargetSolver<T> for RedBlack {
    fn solve(
        &self,
        _: &mut State<T>,
        problem: &mut TargetProblem<'_, T>,
    ) -> Result<SolveReport, Error> {
        let last = problem.layers().depth() - 1;
        for half in 0..2 * self.0 {
            problem.predict();
            for t in (1..=last).filter(|t| (last - t) % 2 == half % 2) {
                problem.target_gradient(t);
                problem.descend(t, T::of(0.3));
            }
        }
        Ok(SolveReport::new(self.0 as u64, problem.batch().len()))
    }
}

/// The solvers' table in `docs/theory.md`: a red-black sweep reaches two layers.
#[test]
fn statement_2_of_a_red_black_sweep() {
    for seed in 0..4 {
        let case = Case::uniform(&[3, 4, 3, 4, 3, 4, 2], TANH, seed);
        for sweeps in 0..=3 {
            let model = case.model::<f64>(&noise());
            let reach = theory::gradient_reach(&model, &ALL, &RedBlack(sweeps)).unwrap();
            let reached: Vec<bool> = reach.iter().map(|&norm| norm > 0.0).collect();
            let expected: Vec<bool> = (0..6).map(|t| t + 2 * sweeps >= 5).collect();
            assert_eq!(reached, expected, "{sweeps} sweeps of {case:?}");
        }
    }
}

#[test]
fn statement_2_is_a_light_cone() {
    for case in (0..30).map(Case::random) {
        statement_2_on::<f64>(&case);
    }
    for seed in 0..4 {
        statement_2_on::<f32>(&Case::uniform(&[5, 6, 6, 6, 3], TANH, seed));
    }
}

/// The norms are those of gradients after the same steps by hand.
#[test]
fn statement_2_gives_norms() {
    for case in (0..10).map(Case::random) {
        let mut model = case.model::<f64>(&TargetInit::ForwardPass);
        let reach = theory::gradient_reach(&model, &ALL, &ReverseSweep::new(2)).unwrap();
        model.solve_targets(&ReverseSweep::new(2), &ALL).unwrap();
        let gradients = model.gradients(&ALL).unwrap().parameters;
        let expected: Vec<f64> = gradients.iter().map(|own| norm(own)).collect();
        assert!(
            distance(&reach, &expected) <= 1e-14 * (1.0 + norm(&expected)),
            "{case:?}"
        );
    }
}

fn statement_3_on<T: Scalar>(case: &Case, tolerance: f64) {
    let model = case.model::<T>(&noise());
    let found = theory::stationarity(&model, &ALL).unwrap();
    let own = model.gradients(&ALL).unwrap();
    let exact = model.backprop(&ALL).unwrap();
    let scale = 1.0 + norm(&own.parameters.concat());
    assert_eq!(found.recursion.len(), case.depth() - 1);
    assert_eq!(found.parameters.len(), case.depth());
    for residual in &found.parameters {
        assert!(*residual <= tolerance * scale, "{found:?} of {case:?}");
    }
    // λ_t by its definition; away from rest the recursion misses by ∂E/∂z_t.
    for t in 1..case.depth() {
        let local = model.local_problem(t - 1, 0..case.examples).unwrap();
        let mut workspace = local.workspace();
        let at = local.linearize(&mut workspace);
        let z = model.z(t).unwrap();
        let penalty = model.terms().penalties()[t - 1];
        let expected = DMatrix::from_fn(z.nrows(), z.ncols(), |i, j| {
            let weight = model
                .example_weights()
                .map_or(T::one(), |weights| weights[j]);
            let prediction = at.prediction()[i + j * z.nrows()];
            weight * penalty * (prediction - z[(i, j)])
        });
        let error = distance(found.multipliers[t - 1].as_slice(), expected.as_slice());
        assert!(error <= tolerance, "λ_{t} of {case:?}: {error}");
        let residual = norm(own.targets[t - 1].as_slice());
        let error = (found.recursion[t - 1] - residual).abs();
        assert!(
            error <= tolerance * (1.0 + residual),
            "z_{t} of {case:?}: {error}"
        );
    }
    let difference = distance(&own.parameters.concat(), &exact.parameters.concat());
    assert!(found.difference >= difference * (1.0 - 1e-6), "{case:?}");
    let backprop = norm(&exact.parameters.concat());
    assert!(
        (found.backprop - backprop).abs() <= tolerance * backprop,
        "{case:?}"
    );
    assert_eq!(
        found.relative_difference(),
        found.difference / found.backprop
    );
}

#[test]
fn statement_3_finds_multipliers_and_residuals() {
    for case in (0..40).map(Case::random) {
        statement_3_on::<f64>(&case, 1e-12);
        statement_3_on::<f32>(&case, 1e-4);
    }
}

fn settled(case: &Case, penalty: f64) -> DecoupledCircuit<f64> {
    let mut model = case.model(&TargetInit::ForwardPass);
    let penalties: Vec<f64> = (1..case.depth()).map(|t| penalty * t as f64).collect();
    model.set_penalties(&penalties).unwrap();
    // μ(z − ẑ) cannot be known better than μ times the rounding of z.
    settle(&mut model, 1e-12_f64.max(penalty * 1e-14));
    model
}

fn small_cases() -> impl Iterator<Item = Case> {
    (0..4).map(|seed| {
        let mut case = Case::uniform(&[2, 4, 3, 2], TANH, seed);
        case.classifies = seed % 2 == 1;
        case
    })
}

#[test]
fn statement_3_holds_at_rest_with_a_difference_of_order_one_over_mu() {
    for case in small_cases() {
        let differences = [100.0, 200.0, 400.0].map(|penalty| {
            let found = theory::stationarity(&settled(&case, penalty), &ALL).unwrap();
            assert!(
                found.recursion.iter().all(|r| *r < 1e-10),
                "{found:?}, {case:?}"
            );
            found.relative_difference()
        });
        for pair in differences.windows(2) {
            let ratio = pair[1] / pair[0];
            assert!((0.45..0.55).contains(&ratio), "{differences:?} of {case:?}");
        }
    }
}

/// L_h = ½‖z − ẑ‖² + ½‖ẑ‖², which is no function of z − ẑ.
#[derive(Debug)]
struct Shrinking;

impl Loss<f64> for Shrinking {
    fn free_target(&self) -> bool {
        true
    }

    fn scratch(&self, _: usize, _: usize) -> usize {
        0
    }

    fn evaluate(
        &self,
        at: &Pair<'_, f64>,
        values: &mut [f64],
        d_target: Write<'_, f64>,
        d_prediction: Write<'_, f64>,
        _: &mut [f64],
    ) {
        for (i, value) in values.iter_mut().enumerate() {
            let own = i * at.dim..(i + 1) * at.dim;
            let pairs = at.target[own.clone()].iter().zip(&at.prediction[own]);
            *value = pairs.map(|(z, p)| 0.5 * ((z - p).powi(2) + p * p)).sum();
        }
        d_target.each(|i| at.target[i] - at.prediction[i]);
        d_prediction.each(|i| 2.0 * at.prediction[i] - at.target[i]);
    }

    fn curvature(
        &self,
        _: &Pair<'_, f64>,
        v_target: Option<&[f64]>,
        v_prediction: Option<&[f64]>,
        out_target: Write<'_, f64>,
        out_prediction: Write<'_, f64>,
        _: &mut [f64],
    ) {
        let of = |v: Option<&[f64]>, i: usize| v.map_or(0.0, |v| v[i]);
        out_target.each(|i| of(v_target, i) - of(v_prediction, i));
        out_prediction.each(|i| 2.0 * of(v_prediction, i) - of(v_target, i));
    }
}

#[test]
fn statement_3_sees_what_breaks_it() {
    let case = Case::uniform(&[3, 4, 3, 2], TANH, 2);
    let shrinking = case.energy().with_hidden_loss(Shrinking);
    let found = theory::stationarity(&case.model_on(shrinking, &noise()), &ALL).unwrap();
    assert!(
        found.parameters[0] > 1e-3 && found.parameters[1] > 1e-3,
        "{found:?}"
    );
    assert!(found.parameters[2] < 1e-12, "{found:?}");
    // Huber's loss, and one with a parameter, are functions of z − ẑ.
    let gaussian = Gaussian::learned_shared(2.0, 1e-3).unwrap();
    let energies = [
        case.energy().with_hidden_loss(Huber::new(0.3).unwrap()),
        case.energy().with_hidden_loss(gaussian),
    ];
    for energy in energies {
        let found = theory::stationarity(&case.model_on(energy, &noise()), &ALL).unwrap();
        assert!(found.parameters.iter().all(|r| *r < 1e-12), "{found:?}");
    }
}

#[test]
fn statement_4_misses_the_minimum_by_the_square_of_one_over_mu() {
    for case in small_cases() {
        let remainders = [200.0, 400.0, 800.0].map(|penalty| {
            let model = settled(&case, penalty);
            model.energy().unwrap() - theory::expanded_minimum(&model, &ALL).unwrap()
        });
        for pair in remainders.windows(2) {
            let ratio = pair[0] / pair[1];
            assert!((3.5..4.5).contains(&ratio), "{remainders:?} of {case:?}");
        }
        // An example at a time, weights and all.
        let model = settled(&case, 200.0);
        let each = (0..case.examples).map(|i| {
            let selection = Selection::Columns(i..i + 1);
            theory::expanded_minimum(&model, &selection).unwrap()
        });
        let sum: f64 = each.sum();
        let whole = theory::expanded_minimum(&model, &ALL).unwrap();
        assert!((sum - whole).abs() < 1e-13, "{sum}, {whole}");
        let reversed = theory::expanded_minimum(&model, &Selection::Examples(&[2, 0, 1]));
        assert!((reversed.unwrap() - whole).abs() < 1e-13);
        // With half the derivative the sweeps rest elsewhere.
        let faulty = case.clone().with_fault(1, Fault::HalfVjp);
        let remainders = [200.0, 400.0].map(|penalty| {
            let model = settled(&faulty, penalty);
            model.energy().unwrap() - theory::expanded_minimum(&model, &ALL).unwrap()
        });
        let ratio = remainders[0] / remainders[1];
        assert!(ratio < 2.5, "{remainders:?} of {case:?}");
    }
}

#[test]
fn statement_4_agrees_with_the_closed_form_of_a_linear_circuit() {
    let case = Case::uniform(&[3, 4, 2, 3, 2], LINEAR, 3);
    let errors = [1e3, 1e4].map(|penalty| {
        let weight = Regularizer::l2(0.1).unwrap();
        let energy = case.energy::<f64>().with_parameter_regularizer(weight);
        let mut model = case.model_on(energy, &noise());
        model.set_penalties(&[penalty; 3]).unwrap();
        let exact = theory::linear_minimum(&model, &ALL).unwrap();
        theory::expanded_minimum(&model, &ALL).unwrap() - exact
    });
    let ratio = errors[0] / errors[1];
    assert!((90.0..110.0).contains(&ratio), "{errors:?}");
}

/// Errors whose squares do not fit, where a large μ makes their term small.
#[test]
fn the_expansion_needs_no_squares() {
    fn check<T: Scalar>(steep: f64, penalty: f64) {
        let dense = || Dense::new(1, 1, Activation::Identity).unwrap();
        let unit = || dense().without_bias();
        let circuit = Circuit::<T>::builder().layer(unit()).layer(unit());
        let energy = Energy::default().with_penalty(T::of(penalty));
        let mut model = DecoupledCircuit::new(circuit.build().unwrap(), energy).unwrap();
        model.set_parameters(1, &[T::of(steep)]).unwrap();
        let one = |value| DMatrix::from_element(1, 1, T::of(value));
        model
            .add_examples(&one(0.0), &one(1e5), &TargetInit::ForwardPass)
            .unwrap();
        let found = theory::expanded_minimum(&model, &ALL).unwrap().as_f64();
        // δ²/(2μ) = ¼ L.
        assert!((found / 3.75e9 - 1.0).abs() < 1e-5, "{found}");
    }
    check::<f32>(2e15, 1.6e31);
    check::<f64>(2e150, 1.6e301);
}

/// Nor does it need the product of μ and a weight, or its inverse.
#[test]
fn the_expansion_needs_no_product_of_weights() {
    fn check<T: Scalar>(weight: f64, penalty: f64, tolerance: f64) {
        let dense = || Dense::new(1, 1, Activation::Identity).unwrap();
        let unit = || dense().without_bias();
        let circuit = Circuit::<T>::builder().layer(unit()).layer(unit());
        let energy = Energy::default().with_penalty(T::of(penalty));
        let mut model = DecoupledCircuit::new(circuit.build().unwrap(), energy).unwrap();
        model.set_parameters(1, &[T::one()]).unwrap();
        let one = |value| DMatrix::from_element(1, 1, T::of(value));
        model
            .add_examples(&one(0.0), &one(1.0), &TargetInit::ForwardPass)
            .unwrap();
        model.set_example_weights(&ALL, &[T::of(weight)]).unwrap();
        let found = theory::expanded_minimum(&model, &ALL).unwrap().as_f64();
        // w (L − δ²/(2μ)), L = ½ and δ = 1.
        let expected = weight * (0.5 - 0.5 / penalty);
        assert!(
            (found / expected - 1.0).abs() < tolerance,
            "{found}, {expected}"
        );
    }
    check::<f32>(1e36, 1e3, 1e-6);
    check::<f32>(1e-36, 1e-3, 1e-6);
    check::<f64>(1e300, 1e9, 1e-12);
    check::<f64>(1e-300, 1e-9, 1e-12);
}

/// Linear cases of depth 1 to 6, with weights and biases.
fn linear_cases() -> impl Iterator<Item = Case> {
    (0..30).map(|seed| {
        let mut case = Case::random(seed);
        case.activations.fill(LINEAR);
        case.classifies = false;
        case
    })
}

/// E at the dense solution is the closed form, and its gradient there is zero.
fn statements_5_and_6_on<T: Scalar>(case: &Case, tolerance: f64) {
    let mut model = case.model::<T>(&noise());
    let minimum = theory::linear_minimum(&model, &ALL).unwrap();
    let minimiser = theory::linear_minimiser(&model, &ALL).unwrap();
    assert_eq!(minimiser.len(), case.depth() - 1);
    for (t, z) in (1..).zip(&minimiser) {
        model.set_targets(t, &ALL, z).unwrap();
    }
    let gradients = model.gradients(&ALL).unwrap();
    for (t, gradient) in (1..).zip(&gradients.targets) {
        let error = gradient.amax().as_f64();
        assert!(error < tolerance, "∂E/∂z_{t} = {error} of {case:?}");
    }
    let error = (gradients.energy - minimum).as_f64().abs();
    assert!(error < tolerance, "{error} of {case:?}");
    // Some columns, in another order.
    if case.examples > 1 {
        let some = Selection::Examples(&[1, 0]);
        let z = theory::linear_minimiser(&model, &some).unwrap();
        for (own, whole) in z.iter().zip(&minimiser) {
            assert_eq!(own.column(0), whole.column(1));
            assert_eq!(own.column(1), whole.column(0));
        }
        let each =
            [1, 0].map(|id| theory::linear_minimum(&model, &Selection::Examples(&[id])).unwrap());
        let whole = theory::linear_minimum(&model, &some).unwrap();
        let error = (each[0] + each[1] - whole).as_f64().abs();
        assert!(error < tolerance, "{error}");
    }
}

#[test]
fn statements_5_and_6_give_the_minimum_and_where_it_is() {
    for case in linear_cases() {
        statements_5_and_6_on::<f64>(&case, 1e-10);
        statements_5_and_6_on::<f32>(&case, 1e-4);
    }
}

/// Sweeps come to the same point, unless a derivative is wrong.
#[test]
fn statements_5_and_6_are_where_sweeps_rest() {
    for seed in 0..4 {
        let case = Case::uniform(&[3, 4, 2, 3, 2], LINEAR, seed);
        let errors = |case: &Case| {
            let mut model = case.model::<f64>(&noise());
            settle_unchecked(&mut model, 1e-13);
            let energy = model.energy().unwrap();
            let minimum = theory::linear_minimum(&model, &ALL).unwrap();
            let z = theory::linear_minimiser(&model, &ALL).unwrap();
            let own = (1..4).map(|t| model.z(t).unwrap().into_owned());
            let apart = own.zip(&z).map(|(own, z)| (own - z).amax());
            [energy - minimum, apart.fold(0.0, f64::max)]
        };
        let [energy, z] = errors(&case);
        assert!(
            energy.abs() < 1e-10 && z < 1e-10,
            "{energy}, {z} of {case:?}"
        );
        let [energy, z] = errors(&case.clone().with_fault(2, Fault::HalfVjp));
        assert!(energy > 1e-6 && z > 1e-3, "{energy}, {z} of {case:?}");
    }
}

#[test]
fn statements_5_and_6_include_regularisers_of_parameters() {
    let case = Case::uniform(&[3, 4, 2], LINEAR, 4);
    let weight = Regularizer::elastic(0.2, 0.3).unwrap();
    let energy = case.energy::<f64>().with_parameter_regularizer(weight);
    let mut model = case.model_on(energy, &noise());
    settle(&mut model, 1e-13);
    let minimum = theory::linear_minimum(&model, &ALL).unwrap();
    let energy = model.energy().unwrap();
    assert!((minimum - energy).abs() < 1e-10, "{minimum}, {energy}");
}

/// A dense layer without a bias, whose weights are stored row by row.
#[derive(Debug)]
struct ByRows(Dense);

impl ByRows {
    /// Weights or their gradient, row by row, in the order of the dense layer; or back, with the two
    /// numbers exchanged.
    fn reordered(weights: &[f64], inputs: usize, outputs: usize) -> Vec<f64> {
        let by_rows = DMatrix::from_column_slice(inputs, outputs, weights);
        by_rows.transpose().as_slice().to_vec()
    }

    fn weights(&self, own: &[f64]) -> Vec<f64> {
        Self::reordered(own, self.0.input_dim(), self.0.output_dim())
    }
}

impl Layer<f64> for ByRows {
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
        let weights = self.weights(parameters);
        self.0.forward(context, &weights, input, output, tape, work);
    }

    fn vjp(
        &self,
        at: &Point<'_, f64>,
        cotangent: &[f64],
        d_input: Write<'_, f64>,
        d_parameters: Write<'_, f64>,
        work: &mut [f64],
    ) {
        let (weights, mut gradient) = (self.weights(at.parameters), at.parameters.to_vec());
        let at = Point::new(at.context, &weights, at.input, at.output, at.tape);
        let to_gradient = Write::Set(&mut gradient[..]);
        self.0.vjp(&at, cotangent, d_input, to_gradient, work);
        let own = Self::reordered(&gradient, self.0.output_dim(), self.0.input_dim());
        d_parameters.each(|k| own[k]);
    }

    fn affine(&self) -> Option<Affine> {
        let inputs = self.0.input_dim();
        let affine = self.0.affine()?;
        Some(affine.with_order(WeightOrder::Places { inputs }))
    }
}

/// Of weights in another order, the closed forms are the same.
#[test]
fn statements_5_6_and_9_read_weights_in_their_order() {
    let dense = |inputs, outputs| Dense::new(inputs, outputs, LINEAR).unwrap().without_bias();
    let layers = || [dense(3, 2), dense(2, 4), dense(4, 2)];
    let plain = Circuit::<f64>::builder().layers(layers()).seed(3);
    let mut plain = DecoupledCircuit::new(plain.build().unwrap(), Energy::default()).unwrap();
    let by_rows = Circuit::builder().layers(layers().map(ByRows));
    let mut by_rows = DecoupledCircuit::new(by_rows.build().unwrap(), Energy::default()).unwrap();
    for (t, layer) in layers().iter().enumerate() {
        let own = plain.circuit().parameters(t);
        let own = ByRows::reordered(own, layer.output_dim(), layer.input_dim());
        by_rows.set_parameters(t, &own).unwrap();
    }
    let x = DMatrix::from_fn(3, 5, |k, i| ((3 * k + i) as f64).sin());
    let y = DMatrix::from_fn(2, 5, |k, i| ((k + 2 * i) as f64).cos());
    for model in [&mut plain, &mut by_rows] {
        model.add_examples(&x, &y, &noise()).unwrap();
    }
    let parameters = by_rows.circuit().parameters(1);
    let check = GradCheck::new().layer(by_rows.circuit().layer(1), parameters, &[0.3, -0.8]);
    check.unwrap().require(1e-6).unwrap();
    let found = |model: &DecoupledCircuit<f64>| {
        let after = theory::MultiplierUpdate::AfterTargets;
        (
            theory::linear_minimum(model, &ALL).unwrap(),
            theory::linear_minimiser(model, &ALL).unwrap(),
            theory::linear_stable_rates(model.layers(), after, 0.1).unwrap(),
        )
    };
    assert_eq!(found(&by_rows), found(&plain));
    let lowest = theory::linear_minimum(&by_rows, &ALL).unwrap();
    by_rows
        .solve_targets(&GaussNewton::direct(3), &ALL)
        .unwrap();
    assert!((by_rows.energy().unwrap() - lowest).abs() < 1e-10);
}

#[test]
fn statements_5_and_6_refuse_what_is_not_linear() {
    let case = Case::uniform(&[3, 4, 3, 2], LINEAR, 5);
    let mut curved = case.clone();
    curved.activations[1] = TANH;
    let mut classifying = case.clone();
    classifying.classifies = true;
    let block = Sequential::<f64>::new(vec![
        Box::new(case.dense(0)),
        Box::new(Dense::new(4, 4, LINEAR).unwrap()),
    ]);
    let nested = Circuit::builder()
        .layer(block.unwrap())
        .layer(case.dense(1))
        .layer(case.dense(2));
    let affine = |weights, bias| {
        let activation = LINEAR;
        Fault::Affine(Affine::new(weights, bias, activation, 2))
    };
    let whole = || Affine::new(0..12, None, LINEAR, 4);
    let places = |inputs| WeightOrder::Places { inputs };
    let wrong = |layer, fault: Fault| case.clone().with_fault(layer, fault).model(&noise());
    let huber = case.energy().with_hidden_loss(Huber::new(1.0).unwrap());
    let regularizer = Regularizer::l2(0.1).unwrap();
    let regularized = case.energy().with_target_regularizer(regularizer);
    let mut nested_model =
        DecoupledCircuit::new(nested.build().unwrap(), Energy::default()).unwrap();
    let (x, y) = (DMatrix::zeros(3, 2), DMatrix::zeros(2, 2));
    nested_model.add_examples(&x, &y, &noise()).unwrap();
    for (model, layer, word) in [
        (curved.model(&noise()), 1, "Tanh"),
        (classifying.model(&noise()), 2, "SoftmaxCrossEntropy"),
        (case.model_on(huber, &noise()), 0, "Huber"),
        (case.model_on(regularized, &noise()), 0, "regulariser"),
        (nested_model, 0, "is not affine"),
        (wrong(1, affine(0..12, Some(12..16))), 1, "12..16"),
        (wrong(1, affine(0..10, None)), 1, "0..10"),
        (wrong(2, affine(5..100, None)), 2, "5..100"),
        (
            wrong(1, Fault::Affine(whole().with_groups(2))),
            1,
            "is not a map from 4",
        ),
        (
            wrong(1, Fault::Affine(whole().with_order(places(3)))),
            1,
            "is not a map from 4",
        ),
        (wrong(1, affine(0..12, None)), 1, "is not a map from 4"),
    ] {
        let errors = [
            theory::linear_minimum(&model, &ALL).unwrap_err(),
            theory::linear_minimiser(&model, &ALL).unwrap_err(),
            theory::linear_stable_rates(
                model.layers(),
                theory::MultiplierUpdate::AfterTargets,
                0.1,
            )
            .unwrap_err(),
        ];
        for error in errors {
            assert!(error.to_string().contains(word), "{error}, not {word}");
            assert!(
                matches!(error, Error::NotLinear { layer: l, .. } if l == layer),
                "{error}"
            );
        }
    }
}

fn statements_7_and_8_on<T: Scalar>(case: &Case, tolerance: f64) {
    let model = case.model::<T>(&noise());
    let last = case.depth() - 1;
    let exact = model.backprop(&ALL).unwrap().parameters;
    let size = 1.0 + norm(&exact.concat()) + norm(model.z(0).unwrap().into_owned().as_slice());
    let found = theory::z_il_gradients(&model, &ALL).unwrap();
    for (t, (found, exact)) in found.iter().zip(&exact).enumerate() {
        let error = distance(found, exact);
        assert!(
            error <= tolerance * size,
            "Z-IL, layer {t} of {case:?}: {error}"
        );
    }
    for k in 0..=last + 1 {
        let found = theory::fixed_prediction_gradients(&model, &ALL, k).unwrap();
        for (t, (found, exact)) in found.iter().zip(&exact).enumerate() {
            if t + k < last {
                assert!(
                    found.iter().all(|g| g.is_zero()),
                    "{k}, layer {t} of {case:?}"
                );
                continue;
            }
            let error = distance(found, exact);
            assert!(
                error <= tolerance * size,
                "{k}, layer {t} of {case:?}: {error}"
            );
        }
    }
}

#[test]
fn statements_7_and_8_give_backprop() {
    for mut case in (0..40).map(Case::random) {
        case.weighted = false;
        statements_7_and_8_on::<f64>(&case, 1e-12);
        statements_7_and_8_on::<f32>(&case, 5e-4);
    }
}

#[test]
fn statements_7_and_8_see_a_layer_that_is_no_function() {
    let case = Case::uniform(&[3, 4, 3, 2], TANH, 6).unweighted();
    let model = case.with_fault(1, Fault::Drifts).model::<f64>(&noise());
    let exact = model.backprop(&ALL).unwrap().parameters.concat();
    let z_il = theory::z_il_gradients(&model, &ALL).unwrap().concat();
    let fixed = theory::fixed_prediction_gradients(&model, &ALL, 2)
        .unwrap()
        .concat();
    for found in [z_il, fixed] {
        let error = distance(&found, &exact);
        assert!(error > 1e-5, "{error}");
    }
}

#[test]
fn statements_4_7_and_8_refuse_what_they_do_not_hold_for() {
    let case = Case::uniform(&[3, 4, 3, 2], TANH, 7).unweighted();
    let model = |energy| case.model_on::<f64>(energy, &noise());
    let huber = model(case.energy().with_hidden_loss(Huber::new(1.0).unwrap()));
    let regularizer = Regularizer::l1(0.1).unwrap();
    let regularized = model(case.energy().with_target_regularizer(regularizer));
    let stiff = model(case.energy().with_penalty(2.0));
    type Check = fn(&DecoupledCircuit<f64>) -> Result<(), Error>;
    let expansion: Check = |model| theory::expanded_minimum(model, &ALL).map(|_| ());
    let checks: [(&str, Check); 3] = [
        ("theory::expanded_minimum", expansion),
        ("Z-IL", |model| {
            theory::z_il_gradients(model, &ALL).map(|_| ())
        }),
        ("fixed prediction", |model| {
            theory::fixed_prediction_gradients(model, &ALL, 1).map(|_| ())
        }),
    ];
    for (i, (name, check)) in checks.into_iter().enumerate() {
        let error = check(&huber).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
        assert!(
            matches!(error, Error::NotSquaredError { layer: 1, .. }),
            "{error}"
        );
        let error = check(&regularized).unwrap_err();
        assert!(
            matches!(error, Error::InvalidOption { value: 0.1, .. }),
            "{error}"
        );
        match check(&stiff) {
            Ok(()) => assert_eq!(i, 0),
            Err(error) => {
                assert!(
                    i > 0 && matches!(error, Error::InvalidOption { value: 2.0, .. }),
                    "{error}"
                );
            }
        }
    }
}

/// The Hessian of one example's E in z, by differences of its gradient.
fn hessian(model: &DecoupledCircuit<f64>, example: usize, h: f64) -> DMatrix<f64> {
    let selection = Selection::Columns(example..example + 1);
    let depth = model.circuit().depth();
    let weight = model
        .example_weights()
        .map_or(1.0, |weights| weights[example]);
    let gradient = |model: &DecoupledCircuit<f64>| -> Vec<f64> {
        let gradients = model.gradients(&selection).unwrap();
        gradients
            .targets
            .iter()
            .flat_map(|g| g.iter().map(|g| g / weight))
            .collect()
    };
    let mut columns = Vec::new();
    for t in 1..depth {
        let z = model.z(t).unwrap().columns(example, 1).into_owned();
        for i in 0..z.nrows() {
            let moved = |by: f64| {
                let mut model = model.clone();
                let mut z = z.clone();
                z[i] += by;
                model.set_targets(t, &selection, &z).unwrap();
                gradient(&model)
            };
            let (plus, minus) = (moved(h), moved(-h));
            let slope = plus.iter().zip(minus).map(|(p, m)| (p - m) / (2.0 * h));
            columns.push(slope.collect::<Vec<f64>>());
        }
    }
    DMatrix::from_fn(columns.len(), columns.len(), |i, j| columns[j][i])
}

fn largest_eigenvalue(matrix: DMatrix<f64>) -> f64 {
    if matrix.is_empty() {
        return 0.0;
    }
    ((&matrix + matrix.transpose()) * 0.5)
        .symmetric_eigenvalues()
        .max()
}

#[test]
fn statement_10_estimates_the_largest_eigenvalue() {
    for mut case in (0..30).map(Case::random) {
        // Where E is quadratic in z, or convex with linear layers, or its residuals are zero, the
        // Gauss-Newton matrix is the Hessian.
        let mut models = Vec::new();
        let curved = case.model::<f64>(&TargetInit::ForwardPass);
        if !case.classifies {
            let penalties = curved.terms().penalties().to_vec();
            let energy = Energy::default().with_penalties(penalties);
            let mut fitted = DecoupledCircuit::new(curved.circuit().clone(), energy).unwrap();
            let x = curved.z(0).unwrap().into_owned();
            let y = fitted.predict(&x).unwrap();
            fitted
                .add_examples(&x, &y, &TargetInit::ForwardPass)
                .unwrap();
            models.push((fitted, 1e-5, 1e-7));
        }
        case.activations.fill(LINEAR);
        let (h, tolerance) = if case.classifies {
            (1e-4, 1e-7)
        } else {
            (1.0, 1e-10)
        };
        models.push((case.model(&noise()), h, tolerance));
        for (model, h, tolerance) in models {
            let estimates = theory::largest_curvature(&model, &ALL, None, 60, 1).unwrap();
            assert_eq!(estimates.len(), case.examples);
            for (i, &estimate) in estimates.iter().enumerate() {
                let hessian = hessian(&model, i, h);
                let expected = largest_eigenvalue(hessian.clone());
                let error = (estimate - expected).abs() / (1.0 + expected);
                assert!(error < tolerance, "{estimate}, not {expected}, of {case:?}");
                let alone = Selection::Columns(i..i + 1);
                let alone = theory::largest_curvature(&model, &alone, None, 60, 1).unwrap();
                assert_eq!(alone, [estimate], "example {i} of {case:?}");
                let mut start = 0;
                for t in 1..case.depth() {
                    let d = case.dims[t];
                    let block = hessian.view((start, start), (d, d)).into_owned();
                    let expected = largest_eigenvalue(block);
                    let found = theory::largest_curvature(&model, &ALL, Some(t), 60, 1).unwrap();
                    let error = (found[i] - expected).abs() / (1.0 + expected);
                    assert!(error < tolerance, "z_{t}: {error} of {case:?}");
                    start += d;
                }
            }
        }
    }
}

#[test]
fn statement_10_counts_regularisers_of_targets() {
    let case = Case::uniform(&[3, 4, 4, 2], TANH, 15);
    let plain = case.model::<f64>(&noise());
    let weight = Regularizer::l2(0.7).unwrap();
    let energy = case.energy::<f64>().with_target_regularizer(weight);
    let regularized = case.model_on(energy, &noise());
    let of = |model| theory::largest_curvature(model, &ALL, None, 40, 2).unwrap();
    for (plain, regularized) in of(&plain).into_iter().zip(of(&regularized)) {
        assert!(
            (regularized - plain - 0.7).abs() < 1e-10,
            "{plain}, {regularized}"
        );
    }
}

fn statement_10_brackets_on<T: Scalar>(case: &Case, rounding: f64) {
    let model = case.model::<T>(&noise());
    let bounds = theory::curvature_bounds(model.layers()).unwrap();
    let mut before = vec![0.0; case.examples];
    for iterations in [1, 2, 4, 8, 40] {
        let found = theory::largest_curvature(&model, &ALL, None, iterations, 3).unwrap();
        for (found, before) in found.iter().zip(&before) {
            assert!(
                *found >= before * (1.0 - rounding),
                "fewer from more, {case:?}"
            );
            assert!(
                *found <= bounds.whole() * (1.0 + rounding),
                "{found} of {case:?}"
            );
        }
        before = found;
    }
    for t in 1..case.depth() {
        let found = theory::largest_curvature(&model, &ALL, Some(t), 40, 3).unwrap();
        let bound = 2.0 / bounds.sweep_limit(t).unwrap();
        assert!(
            found.iter().all(|f| *f <= bound * (1.0 + rounding)),
            "z_{t} of {case:?}"
        );
        assert!(
            found
                .iter()
                .zip(&before)
                .all(|(own, all)| *own <= all * (1.0 + rounding))
        );
    }
    assert_eq!(bounds.synchronous_limit(), 2.0 / bounds.whole());
}

#[test]
fn statement_10_has_the_curvature_between_estimate_and_bound() {
    for mut case in (0..40).map(Case::random) {
        for activation in &mut case.activations {
            if *activation != LINEAR {
                *activation = TANH;
            }
        }
        statement_10_brackets_on::<f64>(&case, 1e-12);
        statement_10_brackets_on::<f32>(&case, 1e-5);
    }
    // A layer's bound that is too small is seen.
    let case = Case::uniform(&[3, 4, 4, 2], LINEAR, 8).with_fault(1, Fault::SmallBound);
    let model = case.model::<f64>(&noise());
    let bound = theory::curvature_bounds(model.layers())
        .unwrap()
        .sweep_limit(1)
        .unwrap();
    let found = theory::largest_curvature(&model, &ALL, Some(1), 40, 3).unwrap();
    assert!(found[0] > 1.01 * 2.0 / bound, "{found:?}, {bound}");
}

/// The bounds are those that the solvers step by.
#[test]
fn statement_10_bounds_are_those_of_the_solvers() {
    for seed in 0..5 {
        let case = Case::uniform(&[3, 4, 5, 3, 2], TANH, seed);
        let weight = Regularizer::l2(0.2).unwrap();
        let energy = case.energy::<f64>().with_target_regularizer(weight);
        let start = case.model_on(energy, &noise());
        let bounds = theory::curvature_bounds(start.layers()).unwrap();
        let moved = |solver: &dyn TargetSolver<f64>| {
            let mut model = start.clone();
            model.solve_targets(solver, &ALL).unwrap();
            (1..4)
                .flat_map(|t| model.z(t).unwrap().iter().copied().collect::<Vec<_>>())
                .collect()
        };
        let bounded = StepSize::Bounded { margin: 1.0 };
        let expected: Vec<f64> = moved(&SynchronousDescent::new(1, bounded).unwrap());
        let found: Vec<f64> = moved(&synchronous(1, 1.0 / bounds.whole()));
        assert!(distance(&found, &expected) < 1e-14);
        let expected: Vec<f64> = moved(&ReverseSweep::new(1));
        let found: Vec<f64> = moved(&Sweep(bounds.blocks.clone()));
        assert!(distance(&found, &expected) < 1e-14);
    }
}

/// A reverse sweep with given curvatures.
#[derive(Debug)]
struct Sweep(Vec<f64>);

impl<T: Scalar> TargetSolver<T> for Sweep {
    fn solve(
        &self,
        _: &mut State<T>,
        problem: &mut TargetProblem<'_, T>,
    ) -> Result<SolveReport, Error> {
        problem.predict();
        for t in (1..problem.layers().depth()).rev() {
            problem.target_gradient(t);
            problem.descend(t, T::of(1.0 / self.0[t - 1]));
        }
        Ok(SolveReport::new(1, problem.batch().len()))
    }
}

/// A linear chain with J = μ = 1.
fn chain(depth: usize) -> DecoupledCircuit<f64> {
    let mut builder = Circuit::builder();
    for _ in 0..depth {
        builder = builder.layer(Dense::new(1, 1, LINEAR).unwrap().without_bias());
    }
    let mut model = DecoupledCircuit::new(builder.build().unwrap(), Energy::default()).unwrap();
    for t in 0..depth {
        model.set_parameters(t, &[1.0]).unwrap();
    }
    let (x, y) = (DMatrix::zeros(1, 1), DMatrix::from_element(1, 1, 1.0));
    model
        .add_examples(&x, &y, &TargetInit::ForwardPass)
        .unwrap();
    model
}

#[test]
fn statement_10_is_sharp() {
    let model = chain(30);
    let estimate = theory::largest_curvature(&model, &ALL, None, 29, 0).unwrap()[0];
    let exact = 2.0 + 2.0 * (std::f64::consts::PI / 30.0).cos();
    assert!((estimate - exact).abs() < 1e-12, "{estimate}");
    let bounds = theory::curvature_bounds(model.layers()).unwrap();
    assert!((bounds.whole() - 4.0).abs() < 1e-10, "{bounds:?}");
    assert!((bounds.blocks[7] - 2.0).abs() < 1e-10, "{bounds:?}");
    let after = |step: f64| {
        let mut model = model.clone();
        model.solve_targets(&synchronous(2200, step), &ALL).unwrap();
        model.energy().unwrap()
    };
    let (inside, outside) = (after(0.99 * 2.0 / exact), after(1.01 * 2.0 / exact));
    assert!(inside < 0.0183, "{inside}");
    assert!(outside > 1e6, "{outside}");
    // By sweeps almost twice that step converges.
    let limit = bounds.sweep_limit(7).unwrap();
    let mut sweeps = model.clone();
    let solver = ReverseSweep::new(2200)
        .with_step(StepSize::Fixed(0.95 * limit))
        .unwrap();
    sweeps.solve_targets(&solver, &ALL).unwrap();
    assert!(sweeps.energy().unwrap() < 0.0183);
}

#[test]
fn an_unknown_curvature_limits_no_step() {
    // A unit whose bound overflows, under a loss without curvature: 0 · ∞.
    let unit = |weight| {
        let layer = Dense::new(1, 1, Activation::Identity).unwrap();
        let value = Initializer::Constant { value: weight };
        layer.without_bias().with_weights(value).unwrap()
    };
    let long = Sequential::new(vec![Box::new(unit(1e100)) as Box<_>, Box::new(unit(1e100))]);
    let circuit = Circuit::<f64>::builder()
        .layer(unit(1.0))
        .layer(long.unwrap());
    let loss = WeightedSquaredError::new(vec![0.0]).unwrap();
    let model = DecoupledCircuit::new(circuit.build().unwrap(), Energy::new(loss)).unwrap();
    let bounds = theory::curvature_bounds(model.layers()).unwrap();
    assert!(bounds.whole().is_nan() && bounds.synchronous_limit().is_nan());
}

#[test]
fn statement_10_refuses() {
    let case = Case::uniform(&[3, 4, 4, 2], TANH, 9);
    let model = case
        .clone()
        .with_fault(2, Fault::NoBound)
        .model::<f64>(&noise());
    let error = theory::curvature_bounds(model.layers()).unwrap_err();
    assert!(
        matches!(
            error,
            Error::NoCurvatureBound {
                of: "the layer",
                layer: 2
            }
        ),
        "{error}"
    );
    for layer in [0, 3, 4] {
        let error = theory::largest_curvature(&model, &ALL, Some(layer), 1, 0).unwrap_err();
        assert!(
            matches!(error, Error::UnknownLayer { layer: l, .. } if l == layer),
            "{error}"
        );
        let bounds = theory::curvature_bounds(case.model::<f64>(&noise()).layers()).unwrap();
        let error = bounds.sweep_limit(layer).unwrap_err();
        assert!(
            matches!(error, Error::UnknownLayer { layer: l, .. } if l == layer),
            "{error}"
        );
    }
    let error = theory::largest_curvature(&model, &ALL, None, 0, 0).unwrap_err();
    assert!(
        matches!(error, Error::InvalidOption { value: 0.0, .. }),
        "{error}"
    );
}

/// One step for the whole batch, by its steepest example.
#[derive(Debug)]
struct BatchWide;

impl<T: Scalar> TargetSolver<T> for BatchWide {
    fn solve(
        &self,
        _: &mut State<T>,
        problem: &mut TargetProblem<'_, T>,
    ) -> Result<SolveReport, Error> {
        let steepest = problem
            .evaluate(Targets)
            .target_gradient(1)
            .iter()
            .fold(0.0, |top: f64, g| top.max(g.as_f64().abs()));
        problem.descend(1, T::of(0.1 / (1.0 + steepest)));
        Ok(SolveReport::new(1, problem.batch().len()))
    }
}

fn statement_11_on<T: Scalar>(case: &Case) {
    let model = case.model::<T>(&noise());
    let bounded = StepSize::Bounded { margin: 1.0 };
    let mut solvers: Vec<Box<dyn TargetSolver<T>>> = vec![
        Box::new(synchronous(3, 0.1)),
        Box::new(ReverseSweep::new(2)),
        Box::new(GaussNewton::new(2, 3)),
    ];
    if theory::curvature_bounds(model.layers()).is_ok() {
        solvers.push(Box::new(SynchronousDescent::new(3, bounded).unwrap()));
    }
    for solver in &mut solvers {
        let found = theory::batch_dependent_example(&model, &ALL, &**solver).unwrap();
        assert_eq!(found, None, "{solver:?} on {case:?}");
    }
}

#[test]
#[cfg_attr(feature = "blas", ignore = "a BLAS sums by shape")]
fn statement_11_finds_no_example() {
    for mut case in (0..20).map(Case::random) {
        statement_11_on::<f64>(&case);
        statement_11_on::<f32>(&case);
        // Widths at which products change their algorithm.
        case.dims[0] = 70;
        case.examples = 9;
        statement_11_on::<f32>(&case);
    }
}

#[test]
fn statement_11_sees_what_breaks_it() {
    let case = Case::uniform(&[3, 4, 3, 2], TANH, 10);
    let model = case.model::<f64>(&noise());
    let found = theory::batch_dependent_example(&model, &ALL, &BatchWide).unwrap();
    assert!(found.is_some());
    let alone = Selection::Columns(1..2);
    let found = theory::batch_dependent_example(&model, &alone, &BatchWide).unwrap();
    assert_eq!(found, None);
    let seeing = case
        .with_fault(1, Fault::SeesTheBatch)
        .model::<f64>(&noise());
    let order = Selection::Examples(&[2, 0]);
    let found = theory::batch_dependent_example(&seeing, &order, &ReverseSweep::new(1));
    assert_eq!(found.unwrap(), Some(2));
}

fn statement_12_on<T: Scalar>(case: &Case) {
    let model = case.model::<T>(&noise());
    for s in 0..case.depth() {
        let moved: Vec<T> = model
            .circuit()
            .parameters(s)
            .iter()
            .map(|&p| p + T::of(0.1))
            .collect();
        let found = theory::layers_changed_by(&model, &ALL, s, &moved).unwrap();
        assert_eq!(found, [s], "{case:?}");
        let same = model.circuit().parameters(s).to_vec();
        let found = theory::layers_changed_by(&model, &ALL, s, &same).unwrap();
        assert!(found.is_empty(), "{found:?} of {case:?}");
    }
}

#[test]
fn statement_12_finds_the_layer_that_moved() {
    for case in (0..40).map(Case::random) {
        statement_12_on::<f64>(&case);
        statement_12_on::<f32>(&case);
    }
}

#[test]
fn statement_12_sees_what_breaks_it() {
    let case = Case::uniform(&[3, 4, 3, 2], TANH, 11);
    let writer = Faulty::new(case.dense(0), Fault::Writes);
    let mut reader = Faulty::new(case.dense(2), Fault::Reads);
    reader.shared = writer.shared.clone();
    let builder = Circuit::builder()
        .layer(writer)
        .layer(case.dense(1))
        .layer(reader);
    let model = DecoupledCircuit::new(builder.build().unwrap(), Energy::default());
    let model = case.with_examples::<f64>(model.unwrap(), &noise());
    let mut moved = model.circuit().parameters(0).to_vec();
    moved[0] += 0.5;
    let found = theory::layers_changed_by(&model, &ALL, 0, &moved).unwrap();
    assert_eq!(found, [0, 2]);
    let error = theory::layers_changed_by(&model, &ALL, 3, &moved).unwrap_err();
    assert!(
        matches!(error, Error::UnknownLayer { layer: 3, .. }),
        "{error}"
    );
    let error = theory::layers_changed_by(&model, &ALL, 1, &moved).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Length {
                expected: 15,
                found: 16,
                ..
            }
        ),
        "{error}"
    );
}

/// Every function, as what it says of a model alone.
fn every_function<T: Scalar>(
    model: &DecoupledCircuit<T>,
    selection: &Selection<'_>,
) -> Vec<(&'static str, Result<(), Error>)> {
    let multipliers: Vec<DMatrix<T>> = (1..model.circuit().depth())
        .map(|t| DMatrix::zeros(model.circuit().dims()[t], model.examples().len()))
        .collect();
    let solver = ReverseSweep::new(1);
    let parameters = model.circuit().parameters(0).to_vec();
    vec![
        (
            "1",
            theory::forward_pass_deviations(model, selection).map(|_| ()),
        ),
        (
            "2",
            theory::gradient_reach(model, selection, &solver).map(|_| ()),
        ),
        ("3", theory::stationarity(model, selection).map(|_| ())),
        ("4", theory::expanded_minimum(model, selection).map(|_| ())),
        ("5", theory::linear_minimum(model, selection).map(|_| ())),
        ("6", theory::linear_minimiser(model, selection).map(|_| ())),
        ("7", theory::z_il_gradients(model, selection).map(|_| ())),
        (
            "8",
            theory::fixed_prediction_gradients(model, selection, 2).map(|_| ()),
        ),
        (
            "9",
            theory::multiplier_rest(model, selection, &multipliers).map(|_| ()),
        ),
        (
            "10",
            theory::largest_curvature(model, selection, None, 3, 0).map(|_| ()),
        ),
        (
            "11",
            theory::batch_dependent_example(model, selection, &solver).map(|_| ()),
        ),
        (
            "12",
            theory::layers_changed_by(model, selection, 0, &parameters).map(|_| ()),
        ),
    ]
}

#[test]
fn no_examples_and_unknown_ones_are_errors() {
    let case = Case::uniform(&[3, 4, 3, 2], LINEAR, 12).unweighted();
    let model = case.model::<f64>(&noise());
    for (function, result) in every_function(&model, &Selection::All) {
        assert!(result.is_ok(), "{function}: {result:?}");
    }
    let empty = DecoupledCircuit::new(model.circuit().clone(), Energy::default()).unwrap();
    for (function, result) in every_function(&empty, &Selection::All) {
        assert!(
            matches!(result, Err(Error::NoExamples { .. })),
            "{function}: {result:?}"
        );
    }
    for (function, result) in every_function(&model, &Selection::Columns(2..9)) {
        let unknown = matches!(result, Err(Error::UnknownColumns { end: 9, .. }));
        assert!(unknown, "{function}: {result:?}");
    }
}

/// One layer: nothing is hidden, and every statement is empty or trivial.
#[test]
fn a_circuit_of_one_layer_is_no_exception() {
    let case = Case::uniform(&[3, 2], LINEAR, 13).unweighted();
    let model = case.model::<f64>(&noise());
    for (function, result) in every_function(&model, &Selection::All) {
        assert!(result.is_ok(), "{function}: {result:?}");
    }
    let loss = model.composed_loss().unwrap();
    for minimum in [
        theory::linear_minimum(&model, &ALL).unwrap(),
        theory::expanded_minimum(&model, &ALL).unwrap(),
    ] {
        assert!((minimum - loss).abs() < 1e-12, "{minimum}, {loss}");
    }
    assert_eq!(
        theory::largest_curvature(&model, &ALL, None, 3, 0).unwrap(),
        [0.0; 3]
    );
    assert_eq!(
        theory::stationarity(&model, &ALL)
            .unwrap()
            .relative_difference(),
        0.0
    );
    assert_eq!(
        theory::curvature_bounds(model.layers()).unwrap().whole(),
        0.0
    );
}

/// Neither S nor the residuals overflow, but their squares.
#[test]
fn a_minimum_that_overflows_is_an_error() {
    let case = Case::uniform(&[3, 4, 2], LINEAR, 15).unweighted();
    let circuit = case.model::<f64>(&noise()).into_circuit();
    let mut model = DecoupledCircuit::new(circuit, Energy::default()).unwrap();
    let (x, y) = (DMatrix::zeros(3, 1), DMatrix::from_element(2, 1, 1e200));
    model.add_examples(&x, &y, &noise()).unwrap();
    assert!(theory::linear_minimiser(&model, &ALL).is_ok());
    let error = theory::linear_minimum(&model, &ALL).unwrap_err();
    let expected = Error::Overflow {
        quantity: Quantity::Energy,
        layer: 1,
    };
    assert_eq!(error, expected);
}

#[test]
fn overflow_is_an_error() {
    fn check<T: Scalar>(huge: f64) {
        let case = Case::uniform(&[3, 4, 4, 4, 2], LINEAR, 14).unweighted();
        let mut model = case.model::<T>(&noise());
        for t in 0..4 {
            let own = vec![T::of(huge); model.circuit().parameters(t).len()];
            model.set_parameters(t, &own).unwrap();
        }
        for (function, result) in every_function(&model, &Selection::All) {
            match function {
                // Compares bits, whatever they stand for.
                "12" => assert!(result.is_ok(), "{result:?}"),
                _ => assert!(
                    matches!(
                        result,
                        Err(Error::Overflow { .. } | Error::NonFinite { .. })
                    ),
                    "{function}: {result:?}"
                ),
            }
        }
        let update = theory::MultiplierUpdate::AfterTargets;
        let rates = theory::linear_stable_rates(model.layers(), update, 0.1);
        // In f64 the squares of f32 are finite, and no rate is stable.
        assert!(
            rates.as_ref().is_ok_and(|rates| rates.is_empty())
                || matches!(
                    rates,
                    Err(Error::Overflow {
                        quantity: Quantity::Energy,
                        ..
                    })
                ),
            "{rates:?}"
        );
    }
    check::<f64>(1e200);
    check::<f32>(1e25);
}
