//! Targets from a second circuit: what it learns, what it costs, and what it refuses.

use layerwise::decoupled::{Selection, TargetInit};
use layerwise::energy::Energy;
use layerwise::error::Quantity;
use layerwise::layer::{Activation, Dense};
use layerwise::nalgebra::DMatrix;
use layerwise::optimizer::{Adam, GradientDescent, Optimizer, Step};
use layerwise::parameter_solver::LeastSquares;
use layerwise::schedule::Schedule;
use layerwise::target_solver::{GaussNewton, ReverseSweep, StepSize, SynchronousDescent};
use layerwise::training::{Amortized, Decoupling, Event, Phase, Session, Trainer, WStep};
use layerwise::{Circuit, DecoupledCircuit, Error, Scalar};

use crate::property::{generator, uniform};

/// A scheme for circuits of these dimensions, whose proposer sees z_0 and z_T.
pub(crate) fn amortized<T: Scalar>(dims: &[usize]) -> Amortized<T> {
    let sweep = ReverseSweep::new(2);
    Amortized::new(proposer(dims, true), Adam::new(0.02).unwrap(), sweep).unwrap()
}

fn proposer<T: Scalar>(dims: &[usize], sees_outputs: bool) -> Circuit<T> {
    let last = dims.len() - 1;
    let inputs = dims[0] + if sees_outputs { dims[last] } else { 0 };
    Circuit::builder()
        .layer(Dense::new(inputs, 5, Activation::Tanh).unwrap())
        .layer(Dense::new(5, dims[1..last].iter().sum(), Activation::Identity).unwrap())
        .seed(11)
        .build()
        .unwrap()
}

const DIMS: [usize; 4] = [2, 4, 3, 2];
const N: usize = 6;

fn model(activation: Activation) -> DecoupledCircuit<f64> {
    let circuit = Circuit::builder()
        .layer(Dense::new(2, 4, activation).unwrap())
        .layer(Dense::new(4, 3, activation).unwrap())
        .layer(Dense::new(3, 2, Activation::Identity).unwrap());
    let energy = Energy::default().with_penalties(vec![0.7, 1.3]);
    let mut model = DecoupledCircuit::new(circuit.build().unwrap(), energy).unwrap();
    let x = DMatrix::from_vec(2, N, uniform(&mut generator(1), 2 * N, 1.0));
    let y = DMatrix::from_vec(2, N, uniform(&mut generator(2), 2 * N, 1.0));
    model
        .add_examples(&x, &y, &TargetInit::ForwardPass)
        .unwrap();
    let weights = [1.0, 0.5, 2.0, 1.0, 0.25, 3.0];
    model
        .set_example_weights(&Selection::All, &weights)
        .unwrap();
    model
}

/// z_0 above z_T, or z_0 alone.
fn inputs(model: &DecoupledCircuit<f64>, proposer: &Circuit<f64>) -> DMatrix<f64> {
    let (x, y) = (model.z(0).unwrap(), model.z(3).unwrap());
    let rows = proposer.dims()[0];
    DMatrix::from_fn(
        rows,
        N,
        |i, j| if i < 2 { x[(i, j)] } else { y[(i - 2, j)] },
    )
}

/// E with the targets that a proposer computes.
fn energy(model: &DecoupledCircuit<f64>, proposer: &Circuit<f64>) -> f64 {
    let all = proposer.predict(&inputs(model, proposer)).unwrap();
    let mut model = model.clone();
    for (t, first, dim) in [(1, 0, 4), (2, 4, 3)] {
        let own = all.rows(first, dim).into_owned();
        model.set_targets(t, &Selection::All, &own).unwrap();
    }
    model.energy().unwrap()
}

/// The proposer after one visit to all examples, with θ at rest.
fn after_a_visit(model: &DecoupledCircuit<f64>, scheme: &Amortized<f64>) -> Circuit<f64> {
    scheduled(model, scheme, WStep::none(), Schedule::CONSTANT)
}

/// The proposer after one visit to all examples.
fn scheduled(
    model: &DecoupledCircuit<f64>,
    scheme: &Amortized<f64>,
    w_step: WStep<f64>,
    schedule: Schedule,
) -> Circuit<f64> {
    let phase = Phase::with_w_step(scheme.clone(), w_step).unwrap();
    let trainer = Trainer::new(phase.with_epochs(1).with_schedule(schedule));
    let mut session = Session::new(&trainer, model.clone()).unwrap();
    while let Some(event) = session.advance().unwrap() {
        if let Event::Visit(_) = event {
            return scheme.proposer(session.state().scheme().unwrap()).unwrap();
        }
    }
    panic!("no visit")
}

/// A schedule also acts on φ where no layer of the circuit has an optimiser.
#[test]
fn a_schedule_acts_on_the_proposer() {
    let model = model(Activation::Tanh);
    let of = |rate| {
        let rule = GradientDescent::new(rate).unwrap();
        Amortized::new(proposer(&DIMS, true), rule, ReverseSweep::new(1)).unwrap()
    };
    let solver = || WStep::solver(LeastSquares::ridge(0.1).unwrap());
    let warm = Schedule::CONSTANT.with_warm_up(2);
    for w_step in [WStep::none, solver] {
        let halved = scheduled(&model, &of(0.5), w_step(), warm);
        let slow = scheduled(&model, &of(0.25), w_step(), Schedule::CONSTANT);
        for t in 0..2 {
            assert_eq!(halved.parameters(t), slow.parameters(t));
        }
    }
}

/// After one gradient step of size η in z, φ steps along η/n ∂E(θ, q(φ))/∂φ: central differences of E
/// as a function of φ.
#[test]
fn with_one_gradient_step_it_descends_on_e() {
    let (eta, rate) = (0.05, 0.3);
    let model = model(Activation::Tanh);
    for sees_outputs in [false, true] {
        let own = proposer::<f64>(&DIMS, sees_outputs);
        let solver = SynchronousDescent::new(1, StepSize::Fixed(eta)).unwrap();
        let rule = GradientDescent::new(rate).unwrap();
        let scheme = Amortized::new(own.clone(), rule, solver).unwrap();
        let stepped = after_a_visit(&model, &scheme);
        for t in 0..2 {
            for i in 0..own.parameters(t).len() {
                let moved = |h: f64| {
                    let mut moved = own.clone();
                    let mut phi = own.parameters(t).to_vec();
                    phi[i] += h;
                    moved.set_parameters(t, &phi).unwrap();
                    energy(&model, &moved)
                };
                let h = 1e-5;
                let slope = (moved(h) - moved(-h)) / (2.0 * h);
                let expected = own.parameters(t)[i] - rate * eta / N as f64 * slope;
                let found = stepped.parameters(t)[i];
                // The solver divides an example's gradient by its weight, and the proposer multiplies
                // by it.
                assert!(
                    (found - expected).abs() < 1e-10,
                    "{t}, {i}: {found}, {expected}"
                );
            }
        }
    }
}

/// Where the solver does not move the targets, there is nothing to learn.
#[test]
fn without_steps_it_stays() {
    let own = proposer::<f64>(&DIMS, true);
    let rule = GradientDescent::new(0.1).unwrap();
    let scheme = Amortized::new(own.clone(), rule, ReverseSweep::new(0)).unwrap();
    let stepped = after_a_visit(&model(Activation::Tanh), &scheme);
    for t in 0..2 {
        assert_eq!(own.parameters(t), stepped.parameters(t));
    }
}

/// In a linear circuit with θ fixed, the best targets are a linear function of z_0 and z_T, which a
/// linear proposer learns.
#[test]
fn it_learns_to_infer() {
    let mut model = model(Activation::Identity);
    let linear = Dense::new(4, 7, Activation::Identity).unwrap();
    let proposer = Circuit::builder().layer(linear).build().unwrap();
    let exact = GaussNewton::direct(2).with_damping(0.0).unwrap();
    let rule = GradientDescent::new(0.6).unwrap();
    let scheme = Amortized::new(proposer, rule, exact).unwrap();
    let phase = Phase::with_w_step(scheme, WStep::none()).unwrap();
    let trainer = Trainer::new(phase.with_epochs(3000)).with_measure_every(0);
    let mut rest = model.clone();
    rest.solve_targets(&exact, &Selection::All).unwrap();
    trainer.run(&mut model).unwrap();
    // A phase leaves the proposals behind.
    for t in 1..3 {
        let error = (model.z(t).unwrap() - rest.z(t).unwrap()).amax();
        assert!(error < 1e-9, "z_{t}: {error:e}");
    }
}

/// Nothing depends on the targets that the model had before, and nothing is kept by example.
#[test]
fn nothing_is_stored_by_example() {
    let scheme = amortized::<f64>(&DIMS);
    let trainer = || {
        let phase = Phase::new(scheme.clone(), Adam::new(0.01).unwrap());
        Trainer::new(phase.with_batch_size(2).unwrap().with_epochs(3))
    };
    let (mut one, mut other) = (model(Activation::Tanh), model(Activation::Tanh));
    let init = TargetInit::RandomNormal { std: 3.0, seed: 1 };
    other.initialize_targets(&init).unwrap();
    trainer().run(&mut one).unwrap();
    trainer().run(&mut other).unwrap();
    for t in 0..3 {
        assert_eq!(one.circuit().parameters(t), other.circuit().parameters(t));
    }
    let size = |copies: usize| {
        let mut model = model(Activation::Tanh);
        for _ in 1..copies {
            let (x, y) = (model.z(0).unwrap(), model.z(3).unwrap());
            let (x, y) = (x.columns(0, N).into_owned(), y.columns(0, N).into_owned());
            model
                .add_examples(&x, &y, &TargetInit::ForwardPass)
                .unwrap();
        }
        let mut session = Session::new(&trainer(), model).unwrap();
        session.advance().unwrap();
        let state = session.state().scheme().unwrap();
        state
            .parts
            .iter()
            .flat_map(|part| &part.values)
            .map(Vec::len)
            .sum::<usize>()
    };
    assert_eq!(size(1), size(5));
}

/// With θ trained too, E at the proposals falls below E at the forward pass, where refreshed targets
/// start.
#[test]
fn proposals_improve_on_the_forward_pass() {
    let mut model = model(Activation::Tanh);
    let phase = Phase::with_w_step(amortized(&DIMS), WStep::none()).unwrap();
    Trainer::new(phase.with_epochs(400))
        .run(&mut model)
        .unwrap();
    let proposed = model.energy().unwrap();
    model.initialize_targets(&TargetInit::ForwardPass).unwrap();
    let forward = model.energy().unwrap();
    assert!(proposed < 0.9 * forward, "{proposed}, {forward}");
}

#[test]
fn refuses_with_the_numbers() {
    let rule = || GradientDescent::new(0.1).unwrap();
    let refused = |inputs: usize, outputs: usize| {
        let layer = Dense::new(inputs, outputs, Activation::Identity).unwrap();
        let proposer = Circuit::builder().layer(layer).build().unwrap();
        let scheme = Amortized::new(proposer, rule(), ReverseSweep::new(1)).unwrap();
        let phase = Phase::new(scheme, rule());
        let run = Trainer::new(phase).run(&mut model(Activation::Tanh));
        run.unwrap_err().error.to_string()
    };
    let inputs = refused(3, 7);
    assert!(inputs.contains("2 for z_0 alone"), "{inputs}");
    assert!(inputs.contains("expected length 4, found 3"), "{inputs}");
    let outputs = refused(4, 8);
    assert!(outputs.contains("expected length 7, found 8"), "{outputs}");

    // The state of another scheme, and numbers that are none.
    let scheme = amortized::<f64>(&DIMS);
    let foreign = layerwise::state::State::new();
    let error = scheme.proposer(&foreign).unwrap_err();
    assert!(matches!(error, Error::Length { .. }), "{error}");
    let phase = Phase::new(Decoupling::refreshed(ReverseSweep::new(1)), rule());
    let mut session = Session::new(&Trainer::new(phase), model(Activation::Tanh)).unwrap();
    session.advance().unwrap();
    let error = scheme
        .proposer(session.state().scheme().unwrap())
        .unwrap_err();
    assert!(matches!(error, Error::Length { .. }), "{error}");
}

/// Sets every value to this one.
#[derive(Debug)]
struct Sets(f64);

impl Optimizer<f64> for Sets {
    fn slots(&self) -> usize {
        0
    }

    fn update(&self, _step: Step, values: &mut [f64], _gradient: &[f64], _state: &mut [f64]) {
        values.fill(self.0);
    }
}

/// A proposer that diverges ends the run with the quantity, its layer and the step, and a failing visit
/// changes nothing.
#[test]
fn a_proposer_that_diverges_is_an_error() {
    let failing = |sets: f64| {
        let linear = |input, output| Dense::new(input, output, Activation::Identity).unwrap();
        let proposer = Circuit::builder().layer(linear(4, 5)).layer(linear(5, 7));
        let proposer = proposer.build().unwrap();
        let scheme = Amortized::new(proposer, Sets(sets), ReverseSweep::new(1)).unwrap();
        let phase = Phase::new(scheme.clone(), GradientDescent::new(0.01).unwrap()).with_epochs(3);
        let trainer = Trainer::new(phase);
        let mut session = Session::new(&trainer, model(Activation::Tanh)).unwrap();
        let error = loop {
            let before = session.model().clone();
            match session.advance() {
                Ok(event) => assert!(event.is_some()),
                Err(error) => {
                    let theta = |model: &DecoupledCircuit<f64>| {
                        let all = (0..3).map(|t| model.circuit().parameters(t).to_vec());
                        all.collect::<Vec<_>>()
                    };
                    assert_eq!(theta(session.model()), theta(&before));
                    break error;
                }
            }
        };
        let Error::NonFinite {
            quantity,
            layer,
            step,
        } = error
        else {
            panic!("{error}")
        };
        let state = session.state().scheme().unwrap();
        let proposer = scheme.proposer(state).unwrap();
        let largest = proposer
            .parameters(1)
            .iter()
            .fold(0.0, |top: f64, own| top.max(own.abs()));
        ((quantity, layer, step), largest)
    };
    let (failed, largest) = failing(f64::NAN);
    assert_eq!(failed, (Quantity::ProposerParameter, 0, 0));
    assert!(largest < 10.0);
    assert_eq!(failing(1e200), ((Quantity::Proposal, 1, 1), 1e200));
}
