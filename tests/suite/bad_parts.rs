//! A caller's own layers and losses that break their contract: the check names them, and in training they
//! give an error or a warning, never a wrong result in silence.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use layerwise::decoupled::Selection;
use layerwise::gradcheck::GradCheck;
use layerwise::kernel::Write;
use layerwise::layer::{Context, Dense, ParameterGroup, Point, Scratch, Shape};
use layerwise::loss::{Pair, SquaredError};
use layerwise::prelude::*;
use layerwise::target_solver::GaussNewton;
use layerwise::training::{Decoupling, FixedPrediction, Scheme, Warning, ZIl};
use layerwise::{Layer, Loss};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// NaN in the output, a product, or the bound.
    Output,
    InputGradient,
    ParameterGradient,
    Tangent,
    Bound,
    /// Each output gets a part of the batch's mean.
    Mixes,
    /// Half of the work memory, or of the tape, that is used.
    Work,
    Tape,
    /// Products are added to what they should replace.
    AddsInput,
    AddsParameters,
    /// The part for the bias is left as it was.
    LeavesBias,
    /// The first output is left as it was.
    LeavesOutput,
}

/// Two inputs, three outputs: a dense layer that copies its input to the tape, and works in `work`.
#[derive(Debug)]
struct Faulty(Dense, Fault);

impl Faulty {
    fn new(fault: Fault) -> Self {
        Self(Dense::new(2, 3, Activation::Tanh).unwrap(), fault)
    }
}

fn inner<T: Scalar>(dense: &Dense) -> &dyn Layer<T> {
    dense
}

impl<T: Scalar> Layer<T> for Faulty {
    fn input_shape(&self) -> Shape {
        inner::<T>(&self.0).input_shape()
    }

    fn output_shape(&self) -> Shape {
        inner::<T>(&self.0).output_shape()
    }

    fn parameters(&self) -> Vec<ParameterGroup> {
        inner::<T>(&self.0).parameters()
    }

    fn initialize(&self, parameters: &mut [T], rng: &mut dyn layerwise::rand::Rng) {
        inner::<T>(&self.0).initialize(parameters, rng);
    }

    fn scratch(&self, batch: usize) -> Scratch {
        let mut own = inner::<T>(&self.0).scratch(batch);
        own.tape += if self.1 == Fault::Tape {
            batch
        } else {
            2 * batch
        };
        own.work += if self.1 == Fault::Work { 3 } else { 6 * batch };
        own
    }

    fn forward(
        &self,
        context: &Context<'_>,
        parameters: &[T],
        input: &[T],
        output: &mut [T],
        tape: Option<&mut [T]>,
        work: &mut [T],
    ) {
        let first = output[0];
        let (inside, own) = work.split_at_mut(work.len() - input.len() * 3);
        own[..input.len()].copy_from_slice(input);
        let tape = tape.map(|tape| {
            let (inside, own) = tape.split_at_mut(tape.len() - input.len());
            own.copy_from_slice(input);
            inside
        });
        inner(&self.0).forward(context, parameters, input, output, tape, inside);
        match self.1 {
            Fault::Output => output[1] = T::zero() / T::zero(),
            Fault::LeavesOutput => output[0] = first,
            Fault::Mixes => {
                let n = T::of((output.len() / 3) as f64);
                let mean = output.iter().fold(T::zero(), |sum, &o| sum + o) / n;
                output.iter_mut().for_each(|o| *o += T::of(0.1) * mean);
            }
            _ => {}
        }
    }

    fn vjp(
        &self,
        at: &Point<'_, T>,
        cotangent: &[T],
        d_input: Write<'_, T>,
        d_parameters: Write<'_, T>,
        work: &mut [T],
    ) {
        let tape = &at.tape[..at.tape.len() - at.input.len()];
        let point = Point::new(at.context, at.parameters, at.input, at.output, tape);
        let adds = |bad: bool, write| match write {
            Write::Set(own) if bad => Write::Add(own),
            other => other,
        };
        let mut d_input = adds(self.1 == Fault::AddsInput, d_input);
        let mut d_parameters = adds(self.1 == Fault::AddsParameters, d_parameters);
        let bias = match &d_parameters {
            Write::Set(own) => own[6..].to_vec(),
            _ => Vec::new(),
        };
        let (a, b) = (d_input.part(0..at.input.len()), d_parameters.part(0..9));
        inner(&self.0).vjp(&point, cotangent, a, b, work);
        match (self.1, d_input, d_parameters) {
            (Fault::InputGradient, Write::Set(own), _) => own[0] = T::zero() / T::zero(),
            (Fault::ParameterGradient, _, Write::Set(own)) => own[0] = T::zero() / T::zero(),
            (Fault::LeavesBias, _, Write::Set(own)) => own[6..].copy_from_slice(&bias),
            _ => {}
        }
    }

    fn jvp(
        &self,
        at: &Point<'_, T>,
        v_input: Option<&[T]>,
        v_parameters: Option<&[T]>,
        tangent: &mut [T],
        work: &mut [T],
    ) {
        let tape = &at.tape[..at.tape.len() - at.input.len()];
        let point = Point::new(at.context, at.parameters, at.input, at.output, tape);
        inner(&self.0).jvp(&point, v_input, v_parameters, tangent, work);
        if self.1 == Fault::Tangent {
            tangent.fill(T::zero() / T::zero());
        }
    }

    fn curvature_bound(&self, parameters: &[T], work: &mut [T]) -> Option<T> {
        match self.1 {
            Fault::Bound => Some(T::zero() / T::zero()),
            _ => inner(&self.0).curvature_bound(parameters, work),
        }
    }
}

const FAULTS: [Fault; 12] = [
    Fault::Output,
    Fault::InputGradient,
    Fault::ParameterGradient,
    Fault::Tangent,
    Fault::Bound,
    Fault::Mixes,
    Fault::Work,
    Fault::Tape,
    Fault::AddsInput,
    Fault::AddsParameters,
    Fault::LeavesBias,
    Fault::LeavesOutput,
];

fn named<T: Scalar>() {
    let parameters: Vec<T> = (0..9).map(|i| T::of((1.7 * i as f64).sin())).collect();
    let input = [0.3, -0.8, 1.1, 0.4].map(T::of);
    for fault in FAULTS {
        let layer = Faulty::new(fault);
        let check = || GradCheck::new().layer(&layer, &parameters, &input);
        match catch_unwind(AssertUnwindSafe(check)) {
            // As documented: more memory than it asked for.
            Err(_) => assert!(matches!(fault, Fault::Work | Fault::Tape), "{fault:?}"),
            Ok(report) => {
                let error = report.unwrap().require(1e-2).unwrap_err();
                assert!(
                    matches!(error, Error::WrongDerivative { .. }),
                    "{fault:?}: {error}"
                );
            }
        }
    }
}

#[test]
fn the_check_of_a_layer_names_every_fault() {
    named::<f64>();
    named::<f32>();
}

/// The faulty layer between two others.
fn model<T: Scalar>(fault: Fault) -> DecoupledCircuit<T> {
    let dense = |input, output, activation| Dense::new(input, output, activation).unwrap();
    let circuit = Circuit::builder()
        .layer(dense(3, 2, Activation::Tanh))
        .layer(Faulty::new(fault))
        .layer(dense(3, 1, Activation::Identity));
    let mut model = DecoupledCircuit::new(circuit.build().unwrap(), Energy::default()).unwrap();
    let wave = |rows, step: f64| {
        DMatrix::from_fn(rows, 10, |i, j| {
            T::of((step * (j as f64 + 1.3 * i as f64)).sin())
        })
    };
    let zeros = TargetInit::Given(vec![DMatrix::zeros(2, 10), DMatrix::zeros(3, 10)]);
    model
        .add_examples(&wave(3, 0.7), &wave(1, 1.1), &zeros)
        .unwrap();
    model
}

fn never_in_silence<T: Scalar>() {
    let rule = || GradientDescent::new(0.05).unwrap();
    let gradients = [Fault::InputGradient, Fault::ParameterGradient];
    let adds = [
        Fault::AddsInput,
        Fault::AddsParameters,
        Fault::LeavesBias,
        Fault::LeavesOutput,
    ];
    let always = [Fault::Output, Fault::Mixes, Fault::Work, Fault::Tape];
    let all = [&gradients[..], &adds, &always].concat();
    // Sweeps use a bound, and no tangent; Gauss-Newton the other way round.
    let sweeps = [&all[..], &[Fault::Bound]].concat();
    let newton = [&all[..], &[Fault::Tangent]].concat();
    let iterative = || GaussNewton::new(2, 4);
    type Own<T> = Arc<dyn Scheme<T>>;
    let schemes: Vec<(Own<T>, &[Fault])> = vec![
        (Arc::new(Backprop), &all),
        (Arc::new(ZIl), &all),
        (Arc::new(FixedPrediction::new()), &all),
        (Arc::new(Decoupling::joint(rule())), &all),
        (
            Arc::new(Decoupling::refreshed(ReverseSweep::new(1))),
            &sweeps,
        ),
        (
            Arc::new(Decoupling::persistent(ReverseSweep::new(2))),
            &sweeps,
        ),
        (Arc::new(Decoupling::refreshed(iterative())), &newton),
        (
            Arc::new(Decoupling::persistent(GaussNewton::direct(2))),
            &newton,
        ),
    ];
    for (scheme, faults) in schemes {
        for &fault in faults {
            let phase = Phase::new(scheme.clone(), rule()).with_epochs(2);
            let phase = phase.with_batch_size(4).unwrap();
            let mut model = model::<T>(fault);
            let run = || Trainer::new(phase).run(&mut model);
            let name = format!("{fault:?} under {scheme:?}");
            match catch_unwind(AssertUnwindSafe(run)) {
                Err(_) => assert!(matches!(fault, Fault::Work | Fault::Tape), "{name}"),
                Ok(Err(failed)) => {
                    let error = &failed.error;
                    let told =
                        matches!(error, Error::NonFinite { .. } | Error::InvalidOption { .. });
                    assert!(told, "{name}: {error}");
                }
                Ok(Ok(report)) => {
                    let warning = match fault {
                        Fault::Mixes => Warning::Mixes { layer: 1 },
                        // No step is accepted whose energy is not a number.
                        Fault::Tangent => Warning::Undone,
                        _ => panic!("{name}: {report}"),
                    };
                    assert!(
                        report.history[0].warnings.contains(&warning),
                        "{name}: {report}"
                    );
                    assert!(
                        report.to_string().contains(&warning.to_string()),
                        "{report}"
                    );
                }
            }
            for t in 0..3 {
                let mut own = model.circuit().parameters(t).iter();
                assert!(own.all(|p| p.is_finite()), "{name}");
                let z = model.z(t).unwrap();
                assert!(z.iter().all(|z| z.is_finite()), "{name}");
            }
        }
    }
}

#[test]
fn no_fault_of_a_layer_passes_in_silence() {
    never_in_silence::<f64>();
    never_in_silence::<f32>();
}

/// A hidden loss whose targets must not be negative.
#[derive(Debug)]
struct NotNegative;

impl<T: Scalar> Loss<T> for NotNegative {
    fn free_target(&self) -> bool {
        true
    }

    fn check_target(&self, dim: usize, target: &[T]) -> Result<(), Error> {
        match target.iter().position(|&z| z < T::zero()) {
            None => Ok(()),
            Some(at) => Err(Error::TargetDomain {
                loss: "NotNegative".into(),
                column: at / dim,
                reason: "it is negative".into(),
            }),
        }
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
        target: Write<'_, T>,
        prediction: Write<'_, T>,
        work: &mut [T],
    ) {
        SquaredError.curvature(at, v_target, v_prediction, target, prediction, work);
    }
}

/// Wherever targets come from, they are checked against their own layer's loss, and nothing is changed.
fn given_targets<T: Scalar>() {
    let dense = |input, output| Dense::new(input, output, Activation::Tanh).unwrap();
    let circuit = Circuit::builder()
        .layer(dense(1, 2))
        .layer(dense(2, 3))
        .layer(dense(3, 1));
    let losses: Vec<Box<dyn Loss<T>>> = vec![Box::new(SquaredError), Box::new(NotNegative)];
    let energy = Energy::default().with_hidden_losses(losses);
    let mut model = DecoupledCircuit::new(circuit.build().unwrap(), energy).unwrap();
    let fill = |rows, value: f64| DMatrix::from_element(rows, 2, T::of(value));
    let given = |first, second| TargetInit::Given(vec![fill(2, first), fill(3, second)]);
    let (x, y) = (fill(1, 1.0), fill(1, 2.0));
    let refused = |result: Result<(), Error>| {
        let error = result.unwrap_err();
        assert!(
            matches!(error, Error::TargetDomain { column: 0, .. }),
            "{error}"
        );
    };
    for init in [
        given(1.0, -1.0),
        TargetInit::RandomNormal { std: 1.0, seed: 1 },
    ] {
        refused(model.add_examples(&x, &y, &init).map(|_| ()));
        assert!(model.examples().is_empty());
    }
    model.add_examples(&x, &y, &given(-1.0, 1.0)).unwrap();
    refused(model.initialize_targets(&given(1.0, -1.0)));
    refused(model.set_targets(2, &Selection::All, &fill(3, -1.0)));
    let column = DMatrix::from_element(3, 1, -T::one());
    refused(model.set_targets(2, &Selection::Columns(1..2), &column));
    assert_eq!(model.z(1).unwrap(), fill(2, -1.0));
    assert_eq!(model.z(2).unwrap(), fill(3, 1.0));
    model.initialize_targets(&given(-2.0, 0.0)).unwrap();
    assert_eq!(model.z(2).unwrap(), fill(3, 0.0));
}

#[test]
fn given_targets_are_checked_against_their_loss() {
    given_targets::<f64>();
    given_targets::<f32>();
}
