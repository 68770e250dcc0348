//! Numbers of fixed seeds, as they were when they were first recorded: a change of any of them is a
//! change of behaviour. And the defaults that the documentation promises.

use layerwise::decoupled::{Selection, TargetInit};
use layerwise::energy::Energy;
use layerwise::gradcheck::GradCheck;
use layerwise::init::Initializer;
use layerwise::kernel::Execution;
use layerwise::layer::{Activation, Dense};
use layerwise::loss::SoftmaxCrossEntropy;
use layerwise::optimizer::{Adam, AdamW, GradientDescent, RmsProp};
use layerwise::schedule::Schedule;
use layerwise::target_solver::{ReverseSweep, StepSize, SynchronousDescent};
use layerwise::training::{Backprop, Decoupling, Phase, Targets, Trainer, WStep};
use layerwise::{Circuit, DecoupledCircuit, Scalar};
use nalgebra::DMatrix;

const N: usize = 12;

fn model<T: Scalar>(init: &TargetInit<T>) -> DecoupledCircuit<T> {
    let orthogonal = Initializer::Orthogonal { gain: 1.2 };
    let first = Dense::new(5, 7, Activation::Tanh).unwrap();
    let second = Dense::new(7, 6, Activation::Gelu).unwrap();
    let third = Dense::new(6, 4, Activation::Sigmoid).unwrap();
    let last = Dense::new(4, 3, Activation::Identity).unwrap();
    let energy =
        Energy::new(SoftmaxCrossEntropy).with_penalties([0.5, 1.0, 2.0].map(T::of).to_vec());
    let circuit = Circuit::builder()
        .layer(first)
        .layer(second.with_bias(Initializer::he_uniform()).unwrap())
        .layer(third.with_weights(orthogonal).unwrap())
        .layer(last)
        .seed(42)
        .build()
        .unwrap();
    let mut model = DecoupledCircuit::new(circuit, energy).unwrap();
    let x = DMatrix::from_fn(5, N, |i, j| {
        T::of(((i * 5 + j * 3) % 11) as f64 / 8.0 - 0.625)
    });
    let y = DMatrix::from_fn(3, N, |i, j| if j % 3 == i { T::one() } else { T::zero() });
    model.add_examples(&x, &y, init).unwrap();
    model
}

fn sum<T: Scalar>(values: &[T]) -> f64 {
    values.iter().map(|v| v.as_f64()).sum()
}

fn squares<T: Scalar>(values: &[T]) -> f64 {
    values.iter().map(|v| v.as_f64().powi(2)).sum()
}

fn noisy<T: Scalar>() -> TargetInit<T> {
    TargetInit::NoisyForwardPass { std: 0.1, seed: 7 }
}

fn all_parameters<T: Scalar>(model: &DecoupledCircuit<T>) -> f64 {
    let layers = 0..model.circuit().depth();
    layers.map(|t| squares(model.circuit().parameters(t))).sum()
}

/// Every pinned number with its name.
fn numbers<T: Scalar>() -> Vec<(String, f64)> {
    let mut numbers = Vec::new();
    let mut pin = |name: &str, value: f64| numbers.push((name.to_owned(), value));
    let start = model::<T>(&noisy());
    for t in 0..4 {
        let parameters = start.circuit().parameters(t);
        pin(&format!("sum of θ_{t}"), sum(parameters));
        pin(&format!("squares of θ_{t}"), squares(parameters));
    }
    let inits: [(&str, TargetInit<T>); 4] = [
        ("forward", TargetInit::ForwardPass),
        ("noisy", noisy()),
        ("random", TargetInit::RandomNormal { std: 0.5, seed: 7 }),
        ("projected", TargetInit::Projected { seed: 7 }),
    ];
    for (name, init) in inits {
        let model = model(&init);
        pin(&format!("E, {name}"), model.energy().unwrap().as_f64());
        let z = model.z(2).unwrap().into_owned();
        pin(&format!("squares of z_2, {name}"), squares(z.as_slice()));
    }
    let gradients = start.gradients(&Selection::All).unwrap();
    let backprop = start.backprop(&Selection::All).unwrap();
    for t in 0..4 {
        pin(&format!("∂E/∂θ_{t}"), squares(&gradients.parameters[t]));
        pin(&format!("∂L/∂θ_{t}"), squares(&backprop.parameters[t]));
    }
    for t in 1..4 {
        pin(
            &format!("∂E/∂z_{t}"),
            squares(gradients.targets[t - 1].as_slice()),
        );
    }

    let momentum = GradientDescent::new(0.1).unwrap();
    let momentum = momentum.with_momentum(0.9).unwrap();
    let bounded = StepSize::Bounded { margin: 1.0 };
    let synchronous = SynchronousDescent::new(3, bounded).unwrap();
    let adam = || Adam::new(0.02).unwrap();
    let phases = [
        ("backprop", Phase::new(Backprop, adam())),
        ("joint", Phase::new(Decoupling::joint(momentum), adam())),
        (
            "sweep",
            Phase::new(Decoupling::persistent(ReverseSweep::new(2)), adam()),
        ),
        (
            "synchronous",
            Phase::new(Decoupling::refreshed(synchronous), momentum),
        ),
        (
            "weights only",
            Phase::new(Decoupling::weights_only(), momentum),
        ),
    ];
    for (name, phase) in phases {
        let mut model = start.clone();
        let phase = phase
            .with_epochs(5)
            .with_batch_size(5)
            .unwrap()
            .with_schedule(Schedule::cosine(0.1).unwrap());
        let trainer = Trainer::new(phase).with_seed(3);
        let report = trainer.run(&mut model).unwrap();
        let objective = report.history[4].objective.as_f64();
        pin(&format!("objective of {name}"), objective);
        let loss = model.composed_loss().unwrap().as_f64();
        pin(&format!("loss after {name}"), loss);
        pin(&format!("E after {name}"), model.energy().unwrap().as_f64());
        pin(&format!("θ after {name}"), all_parameters(&model));
    }
    numbers
}

#[rustfmt::skip]
const PINNED: &[(&str, f64)] = &[
    ("sum of θ_0", 0.6712110493568635),
    ("squares of θ_0", 8.325487201034896),
    ("sum of θ_1", 4.852646137158393),
    ("squares of θ_1", 20.361062067673775),
    ("sum of θ_2", -1.8343212366366115),
    ("squares of θ_2", 5.759999999999999),
    ("sum of θ_3", -0.28039233168760036),
    ("squares of θ_3", 1.432979323207669),
    ("E, forward", 13.412131116059582),
    ("squares of z_2, forward", 69.94890146095574),
    ("E, noisy", 15.040039463178676),
    ("squares of z_2, noisy", 68.91302718894082),
    ("E, random", 107.9541547308353),
    ("squares of z_2, random", 19.354355233730427),
    ("E, projected", 52.75792503683869),
    ("squares of z_2, projected", 83.52),
    ("∂E/∂θ_0", 0.32825280314247984),
    ("∂L/∂θ_0", 0.23480999993788543),
    ("∂E/∂θ_1", 3.4190202230340145),
    ("∂L/∂θ_1", 0.15388349608638624),
    ("∂E/∂θ_2", 0.487447872648386),
    ("∂L/∂θ_2", 0.1192533878839552),
    ("∂E/∂θ_3", 1.455970628757161),
    ("∂L/∂θ_3", 0.6033212661809442),
    ("∂E/∂z_1", 6.486705320266927),
    ("∂E/∂z_2", 2.2197219709718574),
    ("∂E/∂z_3", 7.069141207350293),
    ("objective of backprop", 1.0856480675708047),
    ("loss after backprop", 13.013580512457901),
    ("E after backprop", 15.511691350475427),
    ("θ after backprop", 35.38083326876151),
    ("objective of joint", 1.0674161124513952),
    ("loss after joint", 13.368545171797306),
    ("E after joint", 12.878569247852129),
    ("θ after joint", 33.878460118562714),
    ("objective of sweep", 0.9070725424959324),
    ("loss after sweep", 13.20522987507305),
    ("E after sweep", 10.844081368191041),
    ("θ after sweep", 38.563959060316705),
    ("objective of synchronous", 1.0252756026465037),
    ("loss after synchronous", 13.517947715152363),
    ("E after synchronous", 13.517947715152363),
    ("θ after synchronous", 36.450369733750826),
    ("objective of weights only", 1.2108271065833198),
    ("loss after weights only", 13.413761791684848),
    ("E after weights only", 14.506334942398306),
    ("θ after weights only", 34.62071341791012),
];

fn check<T: Scalar>(tolerance: f64) {
    let numbers = numbers::<T>();
    let names: Vec<&str> = numbers.iter().map(|(name, _)| name.as_str()).collect();
    let pinned: Vec<&str> = PINNED.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, pinned);
    for ((name, value), (_, expected)) in numbers.iter().zip(PINNED) {
        let error = (value - expected).abs() / (1.0 + expected.abs());
        assert!(error < tolerance, "{name}: {value:?}, pinned {expected:?}");
    }
}

#[test]
fn numbers_in_f64_are_those_recorded() {
    check::<f64>(1e-10);
}

#[test]
fn numbers_in_f32_are_those_recorded() {
    check::<f32>(1e-5);
}

#[test]
fn defaults_are_those_documented() {
    let contains = |value: String, parts: &[&str]| {
        for part in parts {
            assert!(value.contains(part), "'{part}' is not in {value}");
        }
    };
    let adam = Adam::new(0.1).unwrap();
    contains(
        format!("{adam:?}"),
        &["rate: 0.1", "beta1: 0.9,", "beta2: 0.999,", "epsilon: 1e-8"],
    );
    let plain = GradientDescent::new(0.1).unwrap();
    contains(
        format!("{plain:?}"),
        &["rate: 0.1", "momentum: 0.0", "nesterov: false"],
    );
    contains(
        format!("{:?}", ReverseSweep::new(3)),
        &[
            "steps: 3",
            "check: Rounding",
            "size: Bounded { margin: 1.0 }",
            "bound_every: None",
        ],
    );
    contains(
        format!("{:?}", Trainer::<f64>::new(Phase::new(Backprop, plain))),
        &[
            "epochs: 100,",
            "batch_size: None",
            "schedule: Schedule { shape: Constant, warm_up: 0 }",
            "penalty_schedule: Schedule { shape: Constant, warm_up: 0 }",
            "max_norm: None",
            "stopping: AtLimits",
            "time_limit: None",
            "seed: 0,",
            "threads: 1,",
            "measure_every: 1,",
            "validation: None",
            "stop_flag: None",
        ],
    );
    contains(format!("{:?}", Circuit::<f64>::builder()), &["seed: 0 "]);
    contains(
        format!("{:?}", Energy::<f64>::default()),
        &[
            "output_loss: SquaredError",
            "hidden: All(SquaredError)",
            "penalty: All(1.0)",
            "parameter_regularizers: All(Regularizer { l1: 0.0, l2: 0.0 })",
            "target_regularizers: All(Regularizer { l1: 0.0, l2: 0.0 })",
        ],
    );
    contains(
        format!("{:?}", AdamW::new(adam)),
        &["rate: 0.1", "decay: 0.01"],
    );
    contains(
        format!("{:?}", RmsProp::new(0.1).unwrap()),
        &["rate: 0.1", "alpha: 0.99", "epsilon: 1e-8"],
    );
    let weights_only = Decoupling::<f64>::weights_only();
    assert_eq!(weights_only.targets(), Targets::Persistent);
    assert_eq!(weights_only.multipliers(), None);
    assert_eq!(WStep::<f64>::none().steps(), 1);
    let refreshed = Decoupling::<f64>::refreshed(ReverseSweep::new(1));
    assert_eq!(refreshed.targets(), Targets::Refreshed);
    assert_eq!(Targets::default(), Targets::Persistent);
    assert_eq!(Schedule::default(), Schedule::CONSTANT);
    assert_eq!(Selection::default(), Selection::All);
    assert_eq!(Execution::default(), Execution::Sequential);
    assert_eq!(GradCheck::default(), GradCheck::new());
    contains(
        format!("{:?}", GradCheck::new()),
        &["directions: None", "seed: 0"],
    );

    // W from N(0, 1/fan-in), or N(0, 2/fan-in) for those that halve the signal; b zero.
    let twice = [
        Activation::Relu,
        Activation::LeakyRelu { slope: 0.1 },
        Activation::Gelu,
        Activation::Silu,
    ];
    let once = [
        Activation::Identity,
        Activation::Tanh,
        Activation::Sigmoid,
        Activation::Softplus,
    ];
    for (activations, initializer) in [
        (once, Initializer::lecun_normal()),
        (twice, Initializer::he_normal()),
    ] {
        for activation in activations {
            let layer = Dense::new(2, 3, activation).unwrap();
            let explicit = layer.clone().with_weights(initializer).unwrap();
            let explicit = explicit.with_bias(Initializer::Zeros).unwrap();
            assert_eq!(layer, explicit);
        }
    }
    contains(
        format!(
            "{:?} {:?}",
            Initializer::lecun_normal(),
            Initializer::he_normal()
        ),
        &[
            "scale: 1.0, fan: In, distribution: Normal",
            "scale: 2.0, fan: In, distribution: Normal",
        ],
    );
}
