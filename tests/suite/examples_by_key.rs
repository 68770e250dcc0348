//! Whatever belongs to an example, its targets and the optimiser's memory of them, stays with its
//! id: through removal, addition, and any order or size of batches.

use layerwise::decoupled::{Selection, TargetInit};
use layerwise::energy::Energy;
use layerwise::layer::{Activation, Dense};
use layerwise::optimizer::{Adam, GradientDescent, Optimizer};
use layerwise::target_solver::ReverseSweep;
use layerwise::training::{Backprop, Decoupling, Phase, Trainer};
use layerwise::{Circuit, DecoupledCircuit};
use nalgebra::DMatrix;

const DIMS: [usize; 4] = [3, 5, 4, 2];

fn empty_model() -> DecoupledCircuit<f64> {
    let mut builder = Circuit::builder().seed(2);
    for pair in DIMS.windows(2) {
        builder = builder.layer(Dense::new(pair[0], pair[1], Activation::Tanh).unwrap());
    }
    DecoupledCircuit::new(builder.build().unwrap(), Energy::default()).unwrap()
}

/// z_t of the example with id `key`: nobody else's.
fn own(t: usize, key: u64) -> Vec<f64> {
    let value = |i| ((10 * key + t as u64) as f64 + i as f64 / 8.0) / 100.0;
    (0..DIMS[t]).map(value).collect()
}

/// Adds examples whose data show their ids.
fn add(model: &mut DecoupledCircuit<f64>, keys: std::ops::Range<u64>) {
    let z = |t: usize| {
        let columns: Vec<f64> = keys.clone().flat_map(|key| own(t, key)).collect();
        DMatrix::from_vec(DIMS[t], columns.len() / DIMS[t], columns)
    };
    let given = model.add_examples(&z(0), &z(3), &TargetInit::Given(vec![z(1), z(2)]));
    assert_eq!(given, Ok(keys));
}

fn check_all(model: &DecoupledCircuit<f64>) {
    for (t, &dim) in DIMS.iter().enumerate() {
        let z = model.z(t).unwrap();
        assert_eq!(z.shape(), (dim, model.examples().len()));
        for (column, &key) in z.column_iter().zip(model.examples()) {
            let column: Vec<f64> = column.iter().copied().collect();
            assert_eq!(column, own(t, key), "z_{t} of example {key}");
        }
    }
}

#[test]
fn ids_and_targets_outlast_removal_and_addition() {
    let mut model = empty_model();
    add(&mut model, 0..6);
    model.remove_examples(&[4, 1]).unwrap();
    assert_eq!(model.examples(), [0, 2, 3, 5]);
    check_all(&model);
    add(&mut model, 6..8);
    assert_eq!(model.examples(), [0, 2, 3, 5, 6, 7]);
    check_all(&model);
    // The last id is not given again, nor any when all have gone.
    model.remove_examples(&[7]).unwrap();
    add(&mut model, 8..9);
    check_all(&model);
    model.remove_examples(&[8, 0, 6, 2, 5, 3]).unwrap();
    assert!(model.examples().is_empty());
    check_all(&model);
    add(&mut model, 9..12);
    check_all(&model);
}

#[test]
fn shuffled_minibatches_leave_targets_in_their_place() {
    let mut model = empty_model();
    add(&mut model, 0..11);
    model.remove_examples(&[0, 7, 3]).unwrap();
    let before = model.circuit().parameters(0).to_vec();
    let rule = GradientDescent::new(0.1).unwrap();
    let backprop = Trainer::new(Phase::new(Backprop, rule));
    let weights = Trainer::new(Phase::new(Decoupling::weights_only(), rule));
    for trainer in [&backprop, &weights] {
        trainer.run(&mut model).unwrap();
        check_all(&model);
    }
    let backprop = Trainer::new(
        Phase::new(Backprop, rule)
            .with_batch_size(3)
            .unwrap()
            .with_epochs(5),
    );
    backprop.run(&mut model).unwrap();
    assert_ne!(model.circuit().parameters(0), before);
    check_all(&model);
}

/// z_1, …, z_{T−1} of one example, bit by bit.
fn trajectory(model: &DecoupledCircuit<f64>, key: u64) -> Vec<u64> {
    let column = model.examples().binary_search(&key).unwrap();
    (1..3)
        .flat_map(|t| {
            let z = model.z(t).unwrap();
            z.column(column)
                .iter()
                .map(|z| z.to_bits())
                .collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn solved_in_parts_or_together_the_targets_are_the_same() {
    let mut start = empty_model();
    add(&mut start, 0..9);
    start.remove_examples(&[2, 5]).unwrap();
    let mut together = start.clone();
    let solver = ReverseSweep::new(3);
    together.solve_targets(&solver, &Selection::All).unwrap();
    let mut in_parts = start.clone();
    for part in [&[8, 0, 4][..], &[1], &[7, 6, 3]] {
        let selection = Selection::Examples(part);
        in_parts.solve_targets(&solver, &selection).unwrap();
    }
    for &key in start.examples() {
        let expected = trajectory(&together, key);
        assert_ne!(expected, trajectory(&start, key));
        assert_eq!(trajectory(&in_parts, key), expected, "example {key}");
    }
    // Those that are not selected do not move.
    let mut some = start.clone();
    let selection = Selection::Examples(&[6, 1]);
    some.solve_targets(&solver, &selection).unwrap();
    for &key in start.examples() {
        let moved = [1, 6].contains(&key);
        assert_eq!(trajectory(&some, key) != trajectory(&start, key), moved);
    }
}

/// A rate of θ below every rounding: z moves alone.
fn frozen() -> GradientDescent {
    GradientDescent::new(1e-300).unwrap()
}

/// Joint descent by `rule` on z: an example's trajectory is the same in every company.
fn memory_is_by_example(rule: impl Optimizer<f64> + Clone + 'static) {
    let mut start = empty_model();
    add(&mut start, 0..10);
    // A bias of 0 would follow even the smallest step.
    for (t, pair) in DIMS.windows(2).enumerate() {
        let mut parameters = start.circuit().parameters(t).to_vec();
        parameters[pair[0] * pair[1]..].fill(0.125);
        start.set_parameters(t, &parameters).unwrap();
    }
    start.remove_examples(&[1, 6]).unwrap();
    let n = start.examples().len();
    let train = |start: &DecoupledCircuit<f64>, batch: usize, seed: u64| {
        let mut model = start.clone();
        let trainer = Trainer::new(
            Phase::new(Decoupling::joint(rule.clone()), frozen())
                .with_epochs(7)
                .with_batch_size(batch)
                .unwrap(),
        )
        .with_seed(seed);
        trainer.run(&mut model).unwrap();
        for t in 0..3 {
            assert_eq!(model.circuit().parameters(t), start.circuit().parameters(t));
        }
        model
    };
    let full = train(&start, n, 0);
    for (batch, seed) in [(1, 0), (1, 1), (3, 0), (3, 5), (n - 1, 2)] {
        let parts = train(&start, batch, seed);
        for &key in start.examples() {
            assert_eq!(
                trajectory(&parts, key),
                trajectory(&full, key),
                "example {key} in batches of {batch}, seed {seed}, by {rule:?}"
            );
        }
    }
    for &key in start.examples() {
        let others: Vec<u64> = start
            .examples()
            .iter()
            .copied()
            .filter(|k| *k != key)
            .collect();
        let mut alone = start.clone();
        alone.remove_examples(&others).unwrap();
        let alone = train(&alone, 1, 0);
        assert_eq!(
            trajectory(&alone, key),
            trajectory(&full, key),
            "{key} alone"
        );
        assert_ne!(trajectory(&full, key), trajectory(&start, key));
    }
}

#[test]
fn joint_descent_remembers_momentum_by_example() {
    let rule = GradientDescent::new(0.1).unwrap();
    memory_is_by_example(rule.with_momentum(0.9).unwrap());
}

#[test]
fn joint_descent_remembers_adams_moments_and_steps_by_example() {
    memory_is_by_example(Adam::new(0.05).unwrap());
}

#[test]
fn joint_descent_without_memory_moves_each_example_by_its_own_gradient() {
    memory_is_by_example(GradientDescent::new(0.1).unwrap());
}

#[test]
fn persistent_targets_in_minibatches_are_those_of_the_full_batch() {
    let mut start = empty_model();
    add(&mut start, 0..8);
    start.remove_examples(&[3]).unwrap();
    let train = |batch: usize| {
        let mut model = start.clone();
        let scheme = Decoupling::persistent(ReverseSweep::new(1));
        let trainer = Trainer::new(
            Phase::new(scheme, frozen())
                .with_epochs(6)
                .with_batch_size(batch)
                .unwrap(),
        );
        trainer.run(&mut model).unwrap();
        model
    };
    let full = train(7);
    for batch in [1, 2, 5] {
        let parts = train(batch);
        for &key in start.examples() {
            let (own, expected) = (trajectory(&parts, key), trajectory(&full, key));
            assert_eq!(own, expected, "example {key} in batches of {batch}");
            assert_ne!(own, trajectory(&start, key));
        }
    }
}
