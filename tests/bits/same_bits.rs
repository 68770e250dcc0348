//! The same computation has the same bits: on any number of threads, on threads of the caller's
//! own, in any blocks of examples, and in every run with the same seed.

use layerwise::decoupled::{Selection, TargetInit};
use layerwise::energy::{All, Energy, LocalGradients, Workspace};
use layerwise::kernel::Execution;
use layerwise::layer::{Activation, Dense};
use layerwise::loss::SoftmaxCrossEntropy;
use layerwise::optimizer::{Adam, GradientDescent};
use layerwise::parameter_solver::{LeastSquares, LevenbergMarquardt};
use layerwise::target_solver::{
    ErrorDescent, GaussNewton, RedBlack, ReverseSweep, StepSize, SynchronousDescent,
};
use layerwise::training::{
    Amortized, Backprop, Decoupling, ErrorShare, FixedPrediction, PcAlm, Phase, Targets, Trainer,
    WStep, ZIl, ZStep,
};
use layerwise::{Circuit, DecoupledCircuit, Scalar};
use nalgebra::DMatrix;

const EXAMPLES: usize = 13;

/// Widths on both sides of those at which matrix products change their path.
const DIMS: [usize; 6] = [20, 70, 33, 6, 1, 5];

fn model<T: Scalar>() -> DecoupledCircuit<T> {
    let mut builder = Circuit::builder().seed(3);
    for pair in DIMS.windows(2) {
        builder = builder.layer(Dense::new(pair[0], pair[1], Activation::Tanh).unwrap());
    }
    let penalties = [0.5, 1.0, 1.5, 2.0].map(T::of).to_vec();
    let energy = Energy::new(SoftmaxCrossEntropy).with_penalties(penalties);
    let mut model = DecoupledCircuit::new(builder.build().unwrap(), energy).unwrap();
    let x = DMatrix::from_fn(DIMS[0], EXAMPLES, |i, j| {
        T::of(((i * 7 + j * 11) % 13) as f64 / 7.0 - 0.9)
    });
    let y = DMatrix::from_fn(DIMS[5], EXAMPLES, |i, j| {
        if j % 5 == i { T::one() } else { T::zero() }
    });
    let init = TargetInit::NoisyForwardPass { std: 0.2, seed: 4 };
    model.add_examples(&x, &y, &init).unwrap();
    model
}

fn bits<T: Scalar>(values: &[T]) -> Vec<u64> {
    values.iter().map(|v| v.as_f64().to_bits()).collect()
}

/// All parameters and auxiliary targets.
fn state<T: Scalar>(model: &DecoupledCircuit<T>) -> Vec<Vec<u64>> {
    let depth = model.circuit().depth();
    let parameters = (0..depth).map(|t| bits(model.circuit().parameters(t)));
    let targets = (1..depth).map(|t| bits(model.z(t).unwrap().into_owned().as_slice()));
    parameters.chain(targets).collect()
}

fn sweep() -> ReverseSweep {
    ReverseSweep::new(2)
}

fn synchronous<T: Scalar>() -> SynchronousDescent<T> {
    SynchronousDescent::new(2, StepSize::Bounded { margin: 1.0 }).unwrap()
}

/// Heavy enough for a batch of one example.
fn squares() -> LeastSquares {
    let ridge = LeastSquares::ridge(0.1).unwrap();
    ridge.with_forgetting_factor(0.5).unwrap()
}

/// Targets from a circuit wide enough for several threads.
fn amortized<T: Scalar>(dims: &[usize]) -> Amortized<T> {
    let last = dims.len() - 1;
    let proposer = Circuit::builder()
        .layer(Dense::new(dims[0] + dims[last], 40, Activation::Tanh).unwrap())
        .layer(Dense::new(40, dims[1..last].iter().sum(), Activation::Identity).unwrap());
    let rule = Adam::new(1e-2).unwrap();
    Amortized::new(proposer.build().unwrap(), rule, sweep()).unwrap()
}

fn along<T: Scalar>(targets: Targets) -> Decoupling<T> {
    let step = StepSize::Bounded { margin: 1.0 };
    Decoupling::new(targets, ZStep::Along(step)).unwrap()
}

/// Every scheme, with a rule for θ that keeps state.
fn phases<T: Scalar>(dims: &[usize]) -> Vec<(&'static str, Phase<T>)> {
    let rule = || Adam::new(1e-2).unwrap();
    let momentum = GradientDescent::new(0.05).unwrap();
    let joint = Decoupling::joint(momentum.with_momentum(0.9).unwrap());
    vec![
        ("backprop", Phase::new(Backprop, rule())),
        ("joint descent", Phase::new(joint, rule())),
        (
            "joint descent by Adam",
            Phase::new(Decoupling::joint(rule()), rule()),
        ),
        (
            "persistent, sweep",
            Phase::new(Decoupling::persistent(sweep()), rule()),
        ),
        (
            "persistent, synchronous",
            Phase::new(Decoupling::persistent(synchronous()), rule()),
        ),
        (
            "refreshed, sweep",
            Phase::new(Decoupling::refreshed(sweep()), rule()),
        ),
        (
            "refreshed, synchronous",
            Phase::new(Decoupling::refreshed(synchronous()), rule()),
        ),
        (
            "persistent, along the sweep",
            Phase::new(along(Targets::Persistent), rule()),
        ),
        (
            "refreshed, along the sweep",
            Phase::new(along(Targets::Refreshed), rule()),
        ),
        (
            "shares of the error",
            Phase::new(Decoupling::refreshed(sweep()), rule())
                .with_error_share(ErrorShare::new(0.9).unwrap())
                .unwrap(),
        ),
        ("amortised", Phase::new(amortized(dims), rule())),
        (
            "weights only",
            Phase::new(Decoupling::weights_only(), rule()),
        ),
        (
            "residual",
            Phase::new(Decoupling::residual(sweep()), rule())
                .with_max_gradient_norm(0.01)
                .unwrap(),
        ),
        (
            "multipliers",
            Phase::new(
                Decoupling::persistent(sweep())
                    .with_multipliers(1.0)
                    .unwrap(),
                rule(),
            ),
        ),
        (
            "Gauss-Newton",
            Phase::new(Decoupling::persistent(GaussNewton::new(2, 3)), rule()),
        ),
        (
            "Gauss-Newton, chained",
            Phase::new(Decoupling::refreshed(GaussNewton::chained(1, 3)), rule()),
        ),
        (
            "direct",
            Phase::new(Decoupling::persistent(GaussNewton::direct(2)), rule()),
        ),
        (
            "cyclic reduction, multipliers",
            Phase::new(
                Decoupling::persistent(GaussNewton::cyclic_reduction(1))
                    .with_multipliers(1.0)
                    .unwrap(),
                rule(),
            ),
        ),
        (
            "least squares",
            Phase::with_w_step(
                Decoupling::persistent(sweep()),
                WStep::solver(squares()).with_optimizer(rule()),
            )
            .unwrap(),
        ),
        (
            "red-black",
            Phase::new(Decoupling::residual(RedBlack::new(2)), rule()),
        ),
        (
            "Levenberg-Marquardt",
            Phase::with_w_step(
                Decoupling::refreshed(sweep()),
                WStep::solver(LevenbergMarquardt::new(2, 3)).with_optimizer(rule()),
            )
            .unwrap(),
        ),
        (
            "errors",
            Phase::new(Decoupling::residual(ErrorDescent::new(2)), rule()),
        ),
        (
            "PC-ALM",
            Phase::new(PcAlm::new(3, ErrorDescent::new(1), 0.5).unwrap(), rule()),
        ),
        (
            "PC-ALM, accelerated",
            Phase::new(
                PcAlm::new(4, GaussNewton::direct(1), 1.0)
                    .unwrap()
                    .with_acceleration(2)
                    .unwrap(),
                rule(),
            ),
        ),
        ("Z-IL", Phase::new(ZIl, rule())),
        (
            "fixed prediction",
            Phase::new(FixedPrediction::new(), rule()),
        ),
    ]
}

/// What a run leaves, and what it reports.
fn outcome<T: Scalar>(
    phase: Phase<T>,
    change: impl Fn(Trainer<T>) -> Trainer<T>,
) -> (Vec<Vec<u64>>, Vec<Vec<u64>>) {
    let mut model = model::<T>();
    // What Z-IL and fixed prediction ask for.
    model.set_penalties(&[T::one(); 4]).unwrap();
    let before = state(&model);
    let report = change(Trainer::new(phase.with_epochs(3)))
        .run(&mut model)
        .unwrap();
    assert_ne!(state(&model), before, "nothing was trained");
    let history = report.history.iter().map(|record| {
        // Backprop reports no gap.
        let gap = record.gap.unwrap_or(T::zero());
        bits(&[record.composed_loss.unwrap(), gap, record.objective])
    });
    (state(&model), history.collect())
}

#[cfg(feature = "rayon")]
fn threads_on<T: Scalar>() {
    for batch in [EXAMPLES, 4, 1] {
        let alone = phases::<T>(&DIMS).into_iter();
        for (k, (name, phase)) in alone.enumerate() {
            let expected = outcome(phase.with_batch_size(batch).unwrap(), |trainer| trainer);
            let least = if batch == EXAMPLES { 2 } else { 3 };
            for threads in least..=3 {
                let phase = phases::<T>(&DIMS).swap_remove(k).1;
                let shared = outcome(phase.with_batch_size(batch).unwrap(), |trainer| {
                    trainer.with_threads(threads).unwrap()
                });
                assert!(
                    shared == expected,
                    "{name}, batches of {batch}, {threads} threads"
                );
            }
        }
    }
}

#[cfg(feature = "rayon")]
#[test]
#[cfg_attr(feature = "blas", ignore = "a BLAS sums by shape")]
fn any_number_of_threads_gives_the_same_bits() {
    threads_on::<f64>();
    threads_on::<f32>();
}

/// Layers so large that their columns are shared among threads.
#[cfg(feature = "rayon")]
fn large<T: Scalar>() -> DecoupledCircuit<T> {
    let circuit = Circuit::builder()
        .layer(Dense::new(200, 300, Activation::Tanh).unwrap())
        .layer(Dense::new(300, 170, Activation::Gelu).unwrap())
        .layer(Dense::new(170, 10, Activation::Identity).unwrap());
    let mut model = DecoupledCircuit::new(circuit.build().unwrap(), Energy::default()).unwrap();
    let wave = |rows| DMatrix::from_fn(rows, 210, |i, j| T::of(((i * 3 + j * 5) as f64).sin()));
    let init = TargetInit::NoisyForwardPass { std: 0.2, seed: 4 };
    model.add_examples(&wave(200), &wave(10), &init).unwrap();
    model
}

#[cfg(feature = "rayon")]
fn shared_columns_on<T: Scalar>() {
    let names = [
        "backprop",
        "joint descent",
        "joint descent by Adam",
        "persistent, sweep",
        "Gauss-Newton, chained",
    ];
    let ways = [
        (Execution::Layers, 2),
        (Execution::Columns, 2),
        (Execution::Columns, 5),
        (Execution::Automatic, 5),
    ];
    let start = large::<T>();
    let run = |name, change: &dyn Fn(Trainer<T>) -> Trainer<T>| {
        let mut model = start.clone();
        let mut phases = phases::<T>(&DIMS).into_iter();
        let phase = phases.find(|own| own.0 == name).unwrap().1;
        change(Trainer::new(phase.with_epochs(2)).with_measure_every(2))
            .run(&mut model)
            .unwrap();
        state(&model)
    };
    for name in names {
        let expected = run(name, &|trainer| trainer);
        for (execution, threads) in ways {
            let shared = run(name, &|trainer| {
                trainer
                    .with_threads(threads)
                    .unwrap()
                    .with_execution(execution)
            });
            assert!(shared == expected, "{name}, {execution:?}, {threads}");
        }
    }
}

#[cfg(feature = "rayon")]
#[test]
#[cfg_attr(feature = "blas", ignore = "a BLAS sums by shape")]
fn columns_that_threads_share_have_the_same_bits() {
    shared_columns_on::<f64>();
    shared_columns_on::<f32>();
}

/// Narrow, wide and long layers, whose columns any number of threads shares; and calls from outside
/// any pool.
#[cfg(feature = "rayon")]
#[test]
#[cfg_attr(feature = "blas", ignore = "a BLAS sums by shape")]
fn blocks_of_columns_of_any_shape_have_the_same_bits() {
    for (inputs, outputs, n) in [
        (64, 1, 20_000),
        (1, 64, 20_000),
        (700, 2, 2000),
        (2, 900, 2000),
        (301, 77, 333),
        (3, 1, 100_000),
        (1500, 1500, 33),
        (4000, 1, 500),
        (1, 4000, 500),
    ] {
        let circuit = Circuit::builder()
            .layer(Dense::new(inputs, outputs, Activation::Tanh).unwrap())
            .layer(Dense::new(outputs, 1, Activation::Identity).unwrap());
        let mut model =
            DecoupledCircuit::<f32>::new(circuit.build().unwrap(), Energy::default()).unwrap();
        let wave = |rows| {
            DMatrix::from_fn(rows, n, |i, j| {
                ((i * 7 + j * 11) % 1013) as f32 / 700.0 - 0.7
            })
        };
        let init = TargetInit::NoisyForwardPass { std: 0.2, seed: 4 };
        model.add_examples(&wave(inputs), &wave(1), &init).unwrap();
        let run = |execution| {
            let problem = model.problem(0..n).unwrap().with_execution(execution);
            let mut workspace = Workspace::new();
            let evaluation = problem.evaluate(All, &mut workspace);
            let mut found = vec![bits(&[evaluation.energy()])];
            for t in 0..2 {
                found.push(bits(evaluation.parameter_gradient(t)));
                found.push(bits(evaluation.local(t).prediction()));
            }
            found.push(bits(evaluation.target_gradient(1)));
            let composed = problem.backprop(&mut workspace);
            found.push(bits(composed.parameter_gradient(0)));
            found.push(bits(composed.error(1)));
            found
        };
        let expected = run(Execution::Sequential);
        for threads in [2, 7] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let found = pool.unwrap().install(|| run(Execution::Columns));
            assert!(found == expected, "{inputs} x {outputs} x {n}, {threads}");
        }
        for execution in [Execution::Layers, Execution::Columns, Execution::Automatic] {
            assert!(run(execution) == expected, "{inputs} x {outputs} x {n}");
        }
    }
}

/// A classifier on many examples.
#[cfg(feature = "rayon")]
fn many<T: Scalar>(dims: &[usize], n: usize) -> DecoupledCircuit<T> {
    let mut builder = Circuit::builder().seed(3);
    for pair in dims.windows(2) {
        builder = builder.layer(Dense::new(pair[0], pair[1], Activation::Tanh).unwrap());
    }
    let energy = Energy::new(SoftmaxCrossEntropy);
    let mut model = DecoupledCircuit::new(builder.build().unwrap(), energy).unwrap();
    let x = DMatrix::from_fn(dims[0], n, |i, j| {
        T::of(((i * 7 + j * 11) % 1013) as f64 / 700.0 - 0.7)
    });
    let classes = dims[dims.len() - 1];
    let y = DMatrix::from_fn(classes, n, |i, j| {
        if j % classes == i {
            T::one()
        } else {
            T::zero()
        }
    });
    let init = TargetInit::NoisyForwardPass { std: 0.2, seed: 4 };
    model.add_examples(&x, &y, &init).unwrap();
    model
}

/// What one epoch leaves of θ and z.
#[cfg(feature = "rayon")]
fn after<T: Scalar>(start: &DecoupledCircuit<T>, phase: Phase<T>, threads: usize) -> Vec<Vec<u64>> {
    let mut model = start.clone();
    let trainer = Trainer::new(phase.with_epochs(1)).with_measure_every(0);
    let trainer = trainer.with_threads(threads).unwrap();
    trainer
        .with_execution(Execution::Columns)
        .run(&mut model)
        .unwrap();
    state(&model)
}

/// Sums over examples with few rows, which threads divide by the inputs: the kernel of a part is that
/// of the whole.
#[cfg(feature = "rayon")]
fn narrow_outputs_on<T: Scalar>() {
    for dims in [[32, 2], [64, 2], [67, 1], [48, 3], [130, 2]] {
        let start = many::<T>(&dims, 16384);
        let run = |threads| after(&start, phases(&DIMS).swap_remove(0).1, threads);
        let expected = run(1);
        for threads in [2, 3, 8] {
            assert!(run(threads) == expected, "{dims:?}, {threads} threads");
        }
    }
    let dims = [10, 32, 2];
    let start = many::<T>(&dims, 4000);
    for k in 0..phases::<T>(&dims).len() {
        let run = |threads| {
            let (name, phase) = phases::<T>(&dims).swap_remove(k);
            (name, after(&start, phase, threads))
        };
        let expected = run(1);
        assert!(run(3) == expected, "{}", expected.0);
    }
}

/// So few examples, with so much work each, that blocks are narrower than the kernels' tiles.
#[cfg(feature = "rayon")]
#[test]
#[cfg_attr(feature = "blas", ignore = "a BLAS sums by shape")]
fn few_heavy_examples_have_the_same_bits_on_any_number_of_threads() {
    let dims = [700, 800, 3];
    for n in [2, 5, 16, 31] {
        let start = many::<f32>(&dims, n);
        let run = |threads| after(&start, phases(&dims).swap_remove(0).1, threads);
        let expected = run(1);
        for threads in [2, 3, 8] {
            assert!(run(threads) == expected, "{n} examples, {threads} threads");
        }
    }
}

#[cfg(feature = "rayon")]
#[test]
#[cfg_attr(feature = "blas", ignore = "a BLAS sums by shape")]
fn narrow_outputs_have_the_same_bits_on_any_number_of_threads() {
    narrow_outputs_on::<f64>();
    narrow_outputs_on::<f32>();
}

#[test]
fn a_seed_decides_a_run() {
    let run = |k: usize, seed| {
        let phase = phases::<f64>(&DIMS).swap_remove(k).1;
        outcome(phase.with_batch_size(4).unwrap(), |trainer| {
            trainer.with_seed(seed)
        })
    };
    for (k, (name, _)) in phases::<f64>(&DIMS).iter().enumerate() {
        assert!(run(k, 1) == run(k, 1), "{name}: two runs differ");
        assert!(run(k, 1) != run(k, 2), "{name}: the seed has no effect");
    }
    // The circuit's own seed decides its parameters.
    let parameters = |seed| {
        let layer = Dense::new(3, 4, Activation::Tanh).unwrap();
        let circuit = Circuit::<f64>::builder().layer(layer).seed(seed);
        bits(circuit.build().unwrap().parameters(0))
    };
    assert_eq!(parameters(1), parameters(1));
    assert_ne!(parameters(1), parameters(2));
}

fn scoped_threads_on<T: Scalar>() {
    let model = model::<T>();
    let depth = model.circuit().depth();
    let whole = model.gradients(&Selection::All).unwrap();
    let energies = model.energies().unwrap();
    let locals: Vec<LocalGradients<T>> = std::thread::scope(|scope| {
        let model = &model;
        let threads: Vec<_> = (0..depth)
            .map(|t| scope.spawn(move || model.local_problem(t, 0..EXAMPLES).unwrap().gradients()))
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join().unwrap());
        joined.collect()
    });
    let mut sum = T::zero();
    for (t, local) in locals.iter().enumerate() {
        assert_eq!(bits(&[local.energy]), bits(&[energies[t]]), "ℓ_{t}");
        assert_eq!(bits(&local.parameters), bits(&whole.parameters[t]), "θ_{t}");
        sum += local.energy;
        if t > 0 {
            // The target part first, then the input part.
            let parts = locals[t - 1].target.iter().zip(&local.input);
            let total: Vec<T> = parts.map(|(&target, &input)| target + input).collect();
            assert_eq!(bits(&total), bits(whole.targets[t - 1].as_slice()), "z_{t}");
        }
    }
    assert_eq!(bits(&[sum]), bits(&[whole.energy]));
    assert_eq!(bits(&[sum]), bits(&[model.energy().unwrap()]));

    let mut workspace = Workspace::new();
    let problem = model.problem(0..EXAMPLES).unwrap();
    let evaluation = problem
        .with_execution(Execution::Sequential)
        .evaluate(All, &mut workspace);
    assert_eq!(bits(&[evaluation.energy()]), bits(&[sum]));
    for t in 0..depth {
        let own = evaluation.parameter_gradient(t);
        assert_eq!(bits(own), bits(&whole.parameters[t]), "θ_{t}");
    }
}

#[test]
#[cfg_attr(feature = "blas", ignore = "a BLAS sums by shape")]
fn local_problems_on_threads_of_ones_own_are_the_circuit() {
    scoped_threads_on::<f64>();
    scoped_threads_on::<f32>();
}

fn blocks_on<T: Scalar>() {
    let model = model::<T>();
    let depth = model.circuit().depth();
    let whole = model.gradients(&Selection::All).unwrap();
    let inputs = model.z(0).unwrap().into_owned();
    let outputs = model.predict(&inputs).unwrap();
    for size in 1..=EXAMPLES {
        for start in (0..EXAMPLES).step_by(size) {
            let count = size.min(EXAMPLES - start);
            let block = model
                .predict(&inputs.columns(start, count).into_owned())
                .unwrap();
            assert_eq!(
                bits(block.as_slice()),
                bits(outputs.columns(start, count).into_owned().as_slice()),
                "predictions of {start}..{}",
                start + count
            );
            let ids: Vec<u64> = (start..start + count).map(|i| i as u64).collect();
            for selection in [
                Selection::Columns(start..start + count),
                Selection::Examples(&ids),
            ] {
                let own = model.gradients(&selection).unwrap();
                for t in 1..depth {
                    let expected = whole.targets[t - 1].columns(start, count).into_owned();
                    assert_eq!(
                        bits(own.targets[t - 1].as_slice()),
                        bits(expected.as_slice()),
                        "∂E/∂z_{t} of {selection:?}"
                    );
                }
            }
        }
    }
}

#[test]
#[cfg_attr(feature = "blas", ignore = "a BLAS sums by shape")]
fn blocks_of_examples_of_any_size_have_the_same_bits() {
    blocks_on::<f64>();
    blocks_on::<f32>();
}
