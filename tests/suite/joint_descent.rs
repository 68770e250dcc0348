//! Joint descent makes its new values in the gradients' memory, layer after layer: it is, bit for bit,
//! what its public parts make of it, for every batch, rule, weight and number of threads, and leaves
//! everything as it was after an error.

#![cfg(feature = "rayon")]

use layerwise::decoupled::{Selection, TargetInit};
use layerwise::energy::{All, Energy};
use layerwise::kernel::Execution;
use layerwise::layer::{Activation, Dense};
use layerwise::loss::Gaussian;
use layerwise::optimizer::{Adam, GradientDescent, Optimizer, Step};
use layerwise::state::State;
use layerwise::target_solver::ReverseSweep;
use layerwise::training::{Decoupling, Phase, Scheme, Trainer, Visit};
use layerwise::{Circuit, DecoupledCircuit, Error};
use nalgebra::DMatrix;

/// Joint descent by an evaluation, updates example by example, and a step of θ along the gradients
/// from before them.
///
/// Its state: the steps of every example, and of z_1, …, z_{T−1} (parts) the rule's state, by example.
#[derive(Debug)]
struct Plain<O>(O);

impl<O: Optimizer<f64>> Scheme<f64> for Plain<O> {
    fn start(&self, model: &mut DecoupledCircuit<f64>) -> Result<State<f64>, Error> {
        let (count, slots) = (model.examples().len(), self.0.slots());
        let mut state = State::new();
        state.counts = vec![0; count];
        for dim in &model.circuit().dims()[1..model.circuit().depth()] {
            let mut own = State::new();
            own.values = vec![vec![0.0; slots * dim]; count];
            state.parts.push(own);
        }
        Ok(state)
    }

    fn visit(&self, state: &mut State<f64>, visit: &mut Visit<'_, f64>) -> Result<f64, Error> {
        let columns = visit.columns();
        let mut problem = visit.target_problem();
        let depth = problem.layers().depth();
        let evaluation = problem.evaluate(All);
        let energy = evaluation.energy();
        let gradients = (0..depth).map(|t| evaluation.parameter_gradient(t).to_vec());
        let gradients: Vec<_> = gradients.collect();
        let weights = problem.example_weights().map(<[f64]>::to_vec);
        for &column in columns {
            state.counts[column] += 1;
        }
        for (t, own) in (1..).zip(&mut state.parts) {
            let dim = problem.layers().dims()[t];
            let (z, gradient) = problem.target_and_gradient(t);
            let examples = z.chunks_exact_mut(dim).zip(gradient.chunks_exact(dim));
            for (i, (z, gradient)) in examples.enumerate() {
                let weight = weights.as_ref().map_or(1.0, |weights| weights[i]);
                let step = Step::new(state.counts[columns[i]], 1.0);
                let step = step.with_gradient_factor(1.0 / weight);
                self.0
                    .update(step, z, gradient, &mut own.values[columns[i]]);
            }
        }
        let along = visit.along(energy, |t, place| place.copy_from_slice(&gradients[t]))?;
        along.step()
    }
}

/// Every third layer has no bias; with a `learned` precision the losses have parameters too.
fn model(dims: &[usize], n: usize, learned: bool) -> DecoupledCircuit<f64> {
    let mut builder = Circuit::builder().seed(3);
    let mut energy = Energy::default();
    if learned {
        let output = Gaussian::learned(1.0, 1e-3).unwrap();
        let hidden = Gaussian::learned(1.5, 1e-3).unwrap();
        energy = Energy::new(output).with_hidden_loss(hidden);
    }
    for (t, pair) in dims.windows(2).enumerate() {
        let layer = Dense::new(pair[0], pair[1], Activation::Tanh).unwrap();
        builder = builder.layer(match t % 3 {
            1 => layer.without_bias(),
            _ => layer,
        });
    }
    let mut model = DecoupledCircuit::new(builder.build().unwrap(), energy).unwrap();
    add(&mut model, n);
    model
}

fn add(model: &mut DecoupledCircuit<f64>, n: usize) {
    let dims = model.circuit().dims();
    let wave = |rows: usize, k: usize| {
        DMatrix::from_fn(rows, n, |i, j| ((i * 7 + j * k) % 13) as f64 / 7.0 - 0.9)
    };
    let (x, y) = (wave(dims[0], 11), wave(dims[dims.len() - 1], 3));
    let init = TargetInit::NoisyForwardPass { std: 0.2, seed: 4 };
    model.add_examples(&x, &y, &init).unwrap();
}

fn bits(values: &[f64]) -> Vec<u64> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn targets(model: &DecoupledCircuit<f64>) -> Vec<Vec<u64>> {
    let hidden = 1..model.circuit().depth();
    hidden
        .map(|t| bits(model.z(t).unwrap().into_owned().as_slice()))
        .collect()
}

/// All parameters and auxiliary targets.
fn state(model: &DecoupledCircuit<f64>) -> Vec<Vec<u64>> {
    let layers = 0..model.circuit().depth();
    let parameters = layers.map(|t| bits(model.circuit().parameters(t)));
    parameters.chain(targets(model)).collect()
}

#[derive(Debug, Clone, Copy)]
struct Case {
    dims: &'static [usize],
    examples: usize,
    batch: usize,
    adam: bool,
    bounded_norm: bool,
    weighted: bool,
}

impl Case {
    fn all() -> impl Iterator<Item = Self> {
        let shapes: [&[usize]; 7] = [
            &[4, 3],
            &[4, 3, 2],
            &[5, 5, 5, 5, 5, 5, 5, 5, 5],
            &[3, 300, 2, 70, 1, 17, 4],
            &[20, 20, 20, 7, 7, 7, 20, 20],
            &[1, 1, 1, 1],
            &[130, 260, 40],
        ];
        let sizes = [(1, 1), (17, 17), (17, 16), (17, 5), (37, 37), (37, 16)];
        // A third of all combinations: each pair of settings occurs.
        shapes.into_iter().enumerate().flat_map(move |(k, dims)| {
            let sizes = sizes.into_iter().enumerate();
            sizes.flat_map(move |(l, (examples, batch))| {
                let options = (0..8).filter(move |options| (options + k + l) % 3 == 0);
                options.map(move |options| Self {
                    dims,
                    examples,
                    batch,
                    adam: options & 1 != 0,
                    bounded_norm: options & 2 != 0,
                    weighted: options & 4 != 0,
                })
            })
        })
    }

    /// What two runs leave, of which the second begins with other examples.
    fn outcome(
        self,
        scheme: impl Scheme<f64> + 'static,
        threads: usize,
        execution: Execution,
    ) -> Vec<Vec<u64>> {
        let mut model = model(self.dims, self.examples, self.examples == 17);
        if self.weighted {
            let weights: Vec<f64> = (0..self.examples).map(|i| 0.5 + i as f64 / 8.0).collect();
            model
                .set_example_weights(&Selection::All, &weights)
                .unwrap();
        }
        let phase = Phase::new(scheme, Adam::new(0.01).unwrap());
        let mut phase = phase.with_epochs(3).with_batch_size(self.batch).unwrap();
        if self.bounded_norm {
            phase = phase.with_max_gradient_norm(0.05).unwrap();
        }
        let trainer = Trainer::new(phase)
            .with_threads(threads)
            .unwrap()
            .with_execution(execution);
        trainer.run(&mut model).unwrap();
        if self.examples > 1 {
            let first = model.examples()[0];
            model.remove_examples(&[first]).unwrap();
        }
        add(&mut model, 3);
        trainer.run(&mut model).unwrap();
        state(&model)
    }

    fn check(self, rule: impl Optimizer<f64> + Copy + 'static) {
        let expected = self.outcome(Plain(rule), 1, Execution::Sequential);
        let mut ways = vec![
            (1, Execution::Sequential),
            (2, Execution::Layers),
            (3, Execution::Columns),
            (5, Execution::Automatic),
        ];
        if self.batch == 5 {
            ways.truncate(1);
        }
        for (threads, execution) in ways {
            let found = self.outcome(Decoupling::joint(rule), threads, execution);
            assert!(found == expected, "{self:?}, {threads}, {execution:?}");
        }
    }
}

#[test]
fn joint_descent_is_what_its_public_parts_make() {
    for case in Case::all() {
        if case.adam {
            case.check(Adam::new(0.02).unwrap());
        } else {
            case.check(
                GradientDescent::new(0.05)
                    .unwrap()
                    .with_momentum(0.9)
                    .unwrap(),
            );
        }
    }
}

#[test]
fn a_later_phase_finds_a_workspace_that_it_can_use() {
    for batch in [37, 16] {
        let run = |plain: bool, threads| {
            let mut model = model(&[20, 20, 20, 7, 7, 20, 3], 37, false);
            let rule = || Adam::new(0.01).unwrap();
            let first = match plain {
                true => Phase::new(Plain(rule()), rule()),
                false => Phase::new(Decoupling::joint(rule()), rule()),
            };
            let second = Phase::new(Decoupling::persistent(ReverseSweep::new(1)), rule());
            Trainer::new(first.with_epochs(2).with_batch_size(batch).unwrap())
                .then(second.with_epochs(2).with_batch_size(9).unwrap())
                .with_threads(threads)
                .unwrap()
                .run(&mut model)
                .unwrap();
            state(&model)
        };
        let expected = run(true, 1);
        for threads in [1, 2, 4] {
            assert!(run(false, threads) == expected, "{batch}, {threads}");
        }
    }
}

/// A scheme that makes another step of θ after a visit, whether that failed or not.
#[derive(Debug)]
struct StepsAgain(Decoupling<f64>);

impl Scheme<f64> for StepsAgain {
    fn start(&self, model: &mut DecoupledCircuit<f64>) -> Result<State<f64>, Error> {
        self.0.start(model)
    }

    fn visit(&self, state: &mut State<f64>, visit: &mut Visit<'_, f64>) -> Result<f64, Error> {
        let visited = self.0.visit(state, visit);
        visit.evaluate()?.step()?;
        visited
    }
}

#[test]
fn a_step_after_joint_descent_is_along_new_gradients() {
    let rule = || GradientDescent::new(0.05).unwrap();
    let fresh = || model(&[4, 3, 3, 2], 5, false);
    let run = |model: &mut DecoupledCircuit<f64>, phase: Phase<f64>| {
        Trainer::new(phase.with_epochs(1)).run(model)
    };
    // Joint descent wrote new values over its gradients.
    let (mut again, mut parted) = (fresh(), fresh());
    let joint = || Decoupling::joint(rule());
    run(&mut again, Phase::new(StepsAgain(joint()), rule())).unwrap();
    run(&mut parted, Phase::new(joint(), rule())).unwrap();
    let weights_only = || Phase::new(Decoupling::weights_only(), rule());
    run(&mut parted, weights_only()).unwrap();
    assert!(state(&again) == state(&parted));

    // A visit that failed changed nothing: the step after it stands, the targets are those before.
    let (mut broken, mut expected) = (fresh(), fresh());
    let breaks = StepsAgain(Decoupling::joint(Breaks(0)));
    let error = run(&mut broken, Phase::new(breaks, rule()))
        .unwrap_err()
        .error;
    assert!(matches!(error, Error::NonFinite { step: 1, .. }), "{error}");
    run(&mut expected, weights_only()).unwrap();
    assert!(state(&broken) == state(&expected));
    assert!(targets(&broken) == targets(&fresh()));
}

/// Descent whose steps after so many give NaN.
#[derive(Debug)]
struct Breaks(u64);

impl Optimizer<f64> for Breaks {
    fn slots(&self) -> usize {
        0
    }

    fn update(&self, step: Step, values: &mut [f64], gradient: &[f64], _state: &mut [f64]) {
        for (value, g) in values.iter_mut().zip(gradient) {
            *value -= 0.01 * step.gradient_factor * g;
        }
        if step.number > self.0 {
            values[0] = f64::NAN;
        }
    }
}

#[test]
fn a_step_that_fails_leaves_parameters_and_targets() {
    for batch in [7, 3] {
        for in_targets in [false, true] {
            let phase = |steps: u64| {
                let (z, theta) = match in_targets {
                    true => (steps, u64::MAX),
                    false => (u64::MAX, steps),
                };
                Phase::new(Decoupling::joint(Breaks(z)), Breaks(theta))
                    .with_batch_size(batch)
                    .unwrap()
            };
            let fresh = || model(&[4, 3, 3, 2], 7, false);
            let (mut good, mut bad) = (fresh(), fresh());
            Trainer::new(phase(u64::MAX).with_epochs(2))
                .run(&mut good)
                .unwrap();
            // Two whole epochs: an example's steps, or those of θ.
            let steps = match in_targets {
                true => 2,
                false => 2 * 7_u64.div_ceil(batch as u64),
            };
            let result = Trainer::new(phase(steps).with_epochs(5)).run(&mut bad);
            let error = result.unwrap_err().error;
            assert!(matches!(error, Error::NonFinite { .. }), "{error}");
            assert!(state(&good) == state(&bad), "{batch}, {in_targets}");
        }
    }
}

/// Fails from its third visit on, after it has moved targets in the ways that its bits say: before a
/// visit of joint descent, by a second visit, and after them.
#[derive(Debug)]
struct Fails {
    scheme: Decoupling<f64>,
    ways: u8,
}

impl Scheme<f64> for Fails {
    fn start(&self, model: &mut DecoupledCircuit<f64>) -> Result<State<f64>, Error> {
        let mut state = State::new();
        state.counts.push(0);
        state.parts.push(self.scheme.start(model)?);
        Ok(state)
    }

    fn visit(&self, state: &mut State<f64>, visit: &mut Visit<'_, f64>) -> Result<f64, Error> {
        state.counts[0] += 1;
        let own = &mut state.parts[0];
        if state.counts[0] < 3 {
            return self.scheme.visit(own, visit);
        }
        if self.ways & 1 != 0 {
            visit.target_problem().target_mut(1)[0] += 1.0;
        }
        self.scheme.visit(own, visit)?;
        if self.ways & 2 != 0 {
            self.scheme.visit(own, visit)?;
        }
        if self.ways & 4 != 0 {
            visit.target_problem().target_mut(2)[0] += 1.0;
            visit.target_problem().refresh()?;
        }
        Err(Error::NoExamples { operation: "this" })
    }
}

#[test]
fn a_visit_that_fails_after_joint_descent_gets_its_targets_back() {
    let rule = || GradientDescent::new(0.05).unwrap();
    for batch in [7, 3] {
        for ways in 0..8 {
            let run = |scheme: Fails| {
                let mut model = model(&[4, 3, 3, 2], 7, false);
                let phase = Phase::new(scheme, rule()).with_batch_size(batch).unwrap();
                let result = Trainer::new(phase.with_epochs(9))
                    .run(&mut model)
                    .map_err(Error::from);
                assert!(matches!(result, Err(Error::NoExamples { .. })));
                targets(&model)
            };
            let fails = |ways| Fails {
                scheme: Decoupling::joint(rule()),
                ways,
            };
            // Whatever the third visit did, the targets are those that it found.
            let found = run(fails(ways));
            assert!(found == run(fails(0)), "{batch}, {ways}");
            if batch == 7 {
                let mut twice = model(&[4, 3, 3, 2], 7, false);
                let phase = Phase::new(Decoupling::joint(rule()), rule()).with_epochs(2);
                Trainer::new(phase).run(&mut twice).unwrap();
                assert!(found == targets(&twice), "{ways}");
            }
        }
    }
}
