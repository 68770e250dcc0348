//! Random sequences of public calls, valid and not, after each of which the model must be sound.
//!
//! With the feature `storage`, every model is also saved and opened, and every run in two parts goes
//! through a file's bytes. A short run is part of the tests. For a long one, with other seeds:
//! `FUZZ_SECONDS=7200 FUZZ_SEED=1 cargo test --release --features "$(.ci/features)" --test features fuzz -- --nocapture`.
//! What fails is shrunk to the shortest list of calls, and printed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use layerwise::decoupled::{Selection, TargetInit};
use layerwise::energy::Energy;
use layerwise::inference::Evidence;
use layerwise::layer::{
    Activate, Activation, Attention, AveragePool2d, Branch, Carry, Conv2d, ConvTranspose2d, Dense,
    Dropout, Embedding, GlobalAveragePool, Layer, LayerNorm, MaxPool2d, Merge, PositionBias,
    PositionWise, Reshape, Residual, RmsNorm, Scale, Sequential, Softmax, Window2d,
};
use layerwise::loss::{
    BinaryCrossEntropy, Gaussian, Huber, LabelSmoothing, Loss, Poisson, PseudoHuber, Quantile,
    SoftmaxCrossEntropy, SquaredError, WeightedBinaryCrossEntropy, WeightedCrossEntropy,
};
use layerwise::optimizer::{Adam, AdamW, GradientDescent, RmsProp};
use layerwise::parameter_solver::{LeastSquares, LevenbergMarquardt};
use layerwise::rand::rngs::ChaCha8Rng;
use layerwise::rand::{RngExt, SeedableRng};
use layerwise::regularizer::Regularizer;
use layerwise::schedule::Schedule;
use layerwise::target_solver::{
    Convergence, ErrorDescent, GaussNewton, RedBlack, ReverseSweep, StepSize, SynchronousDescent,
    TargetSolver,
};
use layerwise::training::{
    Backprop, CreditTiming, Decoupling, ErrorShare, FixedPrediction, PcAlm, PenaltyGrowth, Phase,
    Session, Stopping, Targets, Trainer, WStep, ZIl, ZStep,
};
use layerwise::{Circuit, DecoupledCircuit, Error, Scalar};
use nalgebra::DMatrix;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{RngSeed, TestRunner};

/// The scalars of the programs: with the feature `storage` those that files can hold.
#[cfg(not(feature = "storage"))]
use layerwise::Scalar as Number;
#[cfg(feature = "storage")]
use layerwise::storage::Stored as Number;

/// A model and what is done to it.
#[derive(Debug, Clone)]
struct Program {
    network: Network,
    /// Examples that it starts with.
    examples: usize,
    calls: Vec<Call>,
}

#[derive(Debug, Clone)]
struct Network {
    blocks: Vec<Block>,
    inputs: usize,
    /// Whether the inputs are tokens.
    embeds: bool,
    output_loss: usize,
    hidden_loss: usize,
    penalty: f64,
    regularisers: (f64, f64),
    seed: u64,
}

/// Some layers with this many outputs.
#[derive(Debug, Clone, Copy)]
struct Block {
    kind: Kind,
    outputs: usize,
    activation: Activation,
    bias: bool,
    /// Whether they are a single unit.
    whole: bool,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Dense,
    Deep,
    Image,
    Upsampled,
    Residual,
    Sequence,
    Skip,
}

/// Tokens that an embedding knows.
const VOCABULARY: usize = 3;

/// What is wrong with an argument, if anything.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Spoil {
    Nothing,
    Nan,
    Infinite,
    Rows,
    Columns,
}

#[derive(Debug, Clone)]
enum Call {
    Add(usize, f64, Start, Spoil),
    Remove(Vec<u64>),
    Parameters(usize, f64, Spoil),
    Targets(usize, f64, Spoil),
    Penalties(Vec<f64>),
    Weights(Vec<u64>, f64),
    Predict(usize, f64, Spoil),
    Local(usize, usize, usize),
    Evaluate(usize, usize),
    /// Solver, number of examples, size of the numbers, and what is wrong with them.
    Infer(ZSolver, usize, f64, Spoil),
    MoveTargets(ZSolver, Vec<u64>),
    MoveParameters(usize, WSolver, Vec<u64>),
    Train(Plan),
}

#[derive(Debug, Clone, Copy)]
enum Start {
    Forward,
    Noise(f64),
    Normal(f64),
    Projected,
}

#[derive(Debug, Clone, Copy)]
struct ZSolver {
    kind: usize,
    step: f64,
    steps: u64,
    tolerance: Option<f64>,
}

#[derive(Debug, Clone, Copy)]
struct WSolver {
    kind: usize,
    weight: f64,
    steps: u64,
}

#[derive(Debug, Clone, Copy)]
struct Plan {
    scheme: usize,
    solver: ZSolver,
    rule: usize,
    rate: f64,
    parameters: Option<WSolver>,
    batch: usize,
    epochs: u64,
    clip: Option<f64>,
    schedule: usize,
    stopping: usize,
    multipliers: Option<f64>,
    /// Where the run is cut in two.
    cut: usize,
}

/// Numbers as users have them, and the ends of the range.
fn size() -> impl Strategy<Value = f64> {
    prop_oneof![
        6 => Just(1.0),
        2 => select(vec![1e-3, 30.0, 1e3]),
        1 => select(vec![0.0, 1e-30, 1e-200, 1e9, 1e18, 1e30, 1e37, 1e150, 1e300]),
    ]
}

/// Options as they should be, and as they should not.
fn option() -> impl Strategy<Value = f64> {
    prop_oneof![
        24 => select(vec![0.1, 0.01, 0.5, 1.0, 0.9]),
        3 => select(vec![0.0, -1.0, 2.0, 1e-12, 1e3]),
        1 => select(vec![f64::NAN, f64::INFINITY, 1e-320, 1e-60, 1e60, 1e300, -0.0]),
    ]
}

fn spoil() -> impl Strategy<Value = Spoil> {
    prop_oneof![
        16 => Just(Spoil::Nothing),
        1 => select(vec![Spoil::Nan, Spoil::Infinite, Spoil::Rows, Spoil::Columns]),
    ]
}

fn ids() -> impl Strategy<Value = Vec<u64>> {
    prop_oneof![
        2 => Just(Vec::new()),
        4 => vec(0_u64..6, 1..3),
        1 => vec(prop_oneof![0_u64..20, Just(u64::MAX)], 0..6),
    ]
}

/// A layer's number, mostly one that exists.
fn layer() -> impl Strategy<Value = usize> {
    prop_oneof![12 => 0_usize..6, 1 => Just(usize::MAX)]
}

fn z_solver() -> impl Strategy<Value = ZSolver> {
    let tolerance = proptest::option::of(prop_oneof![Just(1e-6), option()]);
    (0_usize..15, option(), 0_u64..4, tolerance).prop_map(|(kind, step, steps, tolerance)| {
        ZSolver {
            kind,
            step,
            steps,
            tolerance,
        }
    })
}

fn w_solver() -> impl Strategy<Value = WSolver> {
    (0_usize..5, option(), 0_u64..4).prop_map(|(kind, weight, steps)| WSolver {
        kind,
        weight,
        steps,
    })
}

fn plan() -> impl Strategy<Value = Plan> {
    let scheme = (0_usize..12, z_solver(), 0_usize..6, option());
    let w_step = (
        proptest::option::weighted(0.25, w_solver()),
        proptest::option::weighted(0.1, option()),
        proptest::option::weighted(0.1, option()),
    );
    let run = (1_usize..9, 0_u64..4, 0_usize..8, 0_usize..5, 0_usize..12);
    (scheme, w_step, run).prop_map(|(scheme, w_step, run)| Plan {
        scheme: scheme.0,
        solver: scheme.1,
        rule: scheme.2,
        rate: scheme.3,
        parameters: w_step.0,
        clip: w_step.1,
        multipliers: w_step.2,
        batch: run.0,
        epochs: run.1,
        schedule: run.2,
        stopping: run.3,
        cut: run.4,
    })
}

fn call() -> impl Strategy<Value = Call> {
    let start = prop_oneof![
        Just(Start::Forward),
        option().prop_map(Start::Noise),
        option().prop_map(Start::Normal),
        Just(Start::Projected),
    ];
    prop_oneof![
        3 => (0_usize..6, size(), start, spoil()).prop_map(|(n, s, i, p)| Call::Add(n, s, i, p)),
        1 => ids().prop_map(Call::Remove),
        1 => (layer(), size(), spoil()).prop_map(|(t, s, p)| Call::Parameters(t, s, p)),
        1 => (layer(), size(), spoil()).prop_map(|(t, s, p)| Call::Targets(t, s, p)),
        1 => vec(option(), 0..4).prop_map(Call::Penalties),
        1 => (ids(), option()).prop_map(|(ids, w)| Call::Weights(ids, w)),
        1 => (0_usize..6, size(), spoil()).prop_map(|(n, s, p)| Call::Predict(n, s, p)),
        1 => (layer(), 0_usize..7, 0_usize..7).prop_map(|(t, a, b)| Call::Local(t, a, b)),
        1 => (0_usize..7, 0_usize..7).prop_map(|(a, b)| Call::Evaluate(a, b)),
        2 => (z_solver(), 0_usize..5, size(), spoil())
            .prop_map(|(s, n, size, p)| Call::Infer(s, n, size, p)),
        3 => (z_solver(), ids()).prop_map(|(s, ids)| Call::MoveTargets(s, ids)),
        3 => (layer(), w_solver(), ids()).prop_map(|(t, s, ids)| Call::MoveParameters(t, s, ids)),
        5 => plan().prop_map(Call::Train),
    ]
}

fn program() -> impl Strategy<Value = Program> {
    let activation = select(vec![
        Activation::Identity,
        Activation::Tanh,
        Activation::Sigmoid,
        Activation::Relu,
        Activation::LeakyRelu { slope: 0.1 },
        Activation::Gelu,
        Activation::Silu,
        Activation::Softplus,
    ]);
    let kind = prop_oneof![
        5 => Just(Kind::Dense),
        5 => select(vec![
            Kind::Deep,
            Kind::Image,
            Kind::Upsampled,
            Kind::Residual,
            Kind::Sequence,
            Kind::Skip,
        ]),
    ];
    let block = (kind, 1_usize..5, activation, any::<bool>(), any::<bool>());
    let block = block.prop_map(|(kind, outputs, activation, bias, whole)| Block {
        kind,
        outputs,
        activation,
        bias,
        whole,
    });
    let inputs = (1_usize..5, prop_oneof![5 => Just(false), 1 => Just(true)]);
    let penalty = prop_oneof![4 => Just(1.0), 1 => select(vec![1e-3, 100.0, 1e-30, 1e30])];
    let weight = prop_oneof![4 => Just(0.0), 1 => select(vec![0.1, 1e-3])];
    let terms = (0_usize..11, 0_usize..4, penalty, (weight.clone(), weight));
    let network = (vec(block, 1..5), inputs, terms, 0_u64..1000).prop_map(
        |(blocks, (inputs, embeds), (output_loss, hidden_loss, penalty, regularisers), seed)| {
            Network {
                blocks,
                inputs,
                embeds,
                output_loss,
                hidden_loss,
                penalty,
                regularisers,
                seed,
            }
        },
    );
    let calls = vec(call(), 1..9);
    (network, 1_usize..8, calls).prop_map(|(network, examples, calls)| Program {
        network,
        examples,
        calls,
    })
}

impl Network {
    fn build<T: Scalar>(&self) -> Result<DecoupledCircuit<T>, Error> {
        let mut builder = Circuit::builder().seed(self.seed);
        let mut width = self.inputs;
        if self.embeds {
            let (embedding, shape) = (Embedding::new(VOCABULARY, 2, width)?, [2, width]);
            builder = builder.layer(Sequential::new(vec![
                Box::new(embedding),
                Box::new(PositionBias::new(shape)?),
            ])?);
            width *= 2;
        }
        for block in &self.blocks {
            let layers = block.layers(width)?;
            builder = match block.whole {
                true => builder.layer(Sequential::new(layers)?),
                false => builder.layers(layers),
            };
            width = block.outputs;
        }
        let output: Box<dyn Loss<T>> = match self.output_loss {
            0 => Box::new(SoftmaxCrossEntropy),
            1 => Box::new(BinaryCrossEntropy),
            2 => Box::new(Huber::new(0.5)?),
            3 => Box::new(PseudoHuber::new(1e-3)?),
            4 => Box::new(Poisson),
            5 => Box::new(Gaussian::learned(T::one(), T::of(0.01))?),
            6 => Box::new(LabelSmoothing::new(SoftmaxCrossEntropy, 0.1)?),
            7 => Box::new(WeightedCrossEntropy::new(vec![T::of(2.0); width])?),
            8 => Box::new(WeightedBinaryCrossEntropy::new(vec![T::of(3.0); width])?),
            9 => Box::new(Quantile::new(0.3)?),
            _ => Box::new(SquaredError),
        };
        let hidden: Box<dyn Loss<T>> = match self.hidden_loss {
            0 => Box::new(Huber::new(1.0)?),
            1 => Box::new(PseudoHuber::new(1.0)?),
            _ => Box::new(SquaredError),
        };
        let energy = Energy::new(output)
            .with_hidden_loss(hidden)
            .with_penalty(T::of(self.penalty))
            .with_parameter_regularizer(Regularizer::elastic(
                self.regularisers.0,
                self.regularisers.1,
            )?)
            .with_target_regularizer(Regularizer::l2(self.regularisers.1)?);
        DecoupledCircuit::new(builder.build()?, energy)
    }

    /// Whether a Z-step drops values, and so lowers another E than the model's own.
    fn drops(&self) -> bool {
        self.blocks
            .iter()
            .any(|block| matches!(block.kind, Kind::Residual))
    }

    /// Inputs that the first layer takes.
    fn inputs<T: Scalar>(&self, n: usize, size: f64, seed: u64) -> DMatrix<T> {
        let mut values = matrix::<T>(self.inputs, n, size, seed);
        if self.embeds {
            let token = |v: T| (4.0 * v.as_f64()).abs().floor() % VOCABULARY as f64;
            values.apply(|v| *v = T::of(token(*v)));
        }
        values
    }

    /// Output targets that the loss takes.
    fn outputs<T: Scalar>(&self, rows: usize, n: usize, size: f64, seed: u64) -> DMatrix<T> {
        let mut values = matrix::<T>(rows, n, size, seed);
        match self.output_loss {
            0 | 6 | 7 => {
                for (j, mut column) in values.column_iter_mut().enumerate() {
                    column.fill(T::zero());
                    column[(j + seed as usize) % rows] = T::one();
                }
            }
            1 | 8 => values.apply(|v| *v = if *v > T::zero() { T::one() } else { T::zero() }),
            4 => values.apply(|v| *v = v.abs().floor()),
            _ => {}
        }
        values
    }
}

impl Block {
    /// From this many inputs.
    fn layers<T: Scalar>(self, inputs: usize) -> Result<Vec<Box<dyn Layer<T>>>, Error> {
        let (outputs, activation) = (self.outputs, self.activation);
        let dense = |inputs, outputs, activation| {
            Dense::new(inputs, outputs, activation).map(|layer| match self.bias {
                true => layer,
                false => layer.without_bias(),
            })
        };
        let last = |inputs| dense(inputs, outputs, activation);
        Ok(match self.kind {
            Kind::Dense => vec![Box::new(last(inputs)?)],
            Kind::Deep => vec![
                Box::new(dense(inputs, 3, Activation::Tanh)?),
                Box::new(last(3)?),
            ],
            Kind::Image => {
                let window = Window2d::new([2, 3]).with_stride([2, 1]).with_padding(1);
                let grouped = Window2d::new(2).with_dilation([1, 2]);
                vec![
                    Box::new(dense(inputs, 12, Activation::Identity)?),
                    Box::new(Conv2d::new([2, 3, 2], 4, window, activation)?),
                    Box::new(Conv2d::new([4, 2, 2], 2, [1, 2], activation)?.with_groups(2)?),
                    Box::new(Reshape::new([2, 2, 1], [1, 2, 2])?),
                    Box::new(AveragePool2d::new(
                        [1, 2, 2],
                        Window2d::new(2).with_stride(1).with_padding(1),
                    )?),
                    Box::new(Conv2d::new([1, 3, 3], outputs, grouped, activation)?),
                    Box::new(GlobalAveragePool::new([outputs, 2, 1])?),
                ]
            }
            Kind::Upsampled => {
                let window = Window2d::new([3, 2]).with_stride(2).with_padding([1, 0]);
                let up = ConvTranspose2d::new([2, 2, 1], 2, window, activation)?
                    .with_output_padding([1, 0])?;
                vec![
                    Box::new(dense(inputs, 4, activation)?),
                    Box::new(match self.bias {
                        true => up,
                        false => up.without_bias(),
                    }),
                    Box::new(MaxPool2d::new(
                        [2, 4, 2],
                        Window2d::new(2).with_padding([1, 0]),
                    )?),
                    Box::new(last(6)?),
                ]
            }
            Kind::Residual => {
                let branch: Vec<Box<dyn Layer<T>>> = vec![
                    Box::new(LayerNorm::new(outputs)?.with_epsilon(0.1)?),
                    Box::new(Activate::new(outputs, activation)?),
                    Box::new(dense(outputs, outputs, Activation::Identity)?),
                    Box::new(Dropout::new(outputs, 0.3)?),
                ];
                vec![
                    Box::new(last(inputs)?),
                    Box::new(Residual::new(Sequential::new(branch)?)?.with_branch_scale(0.5)?),
                ]
            }
            Kind::Sequence => {
                let shape = [2, 3];
                let attention = Attention::new(2, 3, if self.bias { 2 } else { 1 })?;
                vec![
                    Box::new(dense(inputs, 6, Activation::Identity)?),
                    Box::new(PositionBias::new(shape)?),
                    Box::new(RmsNorm::new(shape)?.with_epsilon(0.1)?),
                    Box::new(match self.bias {
                        true => attention.causal(),
                        false => attention.without_bias(),
                    }),
                    Box::new(PositionWise::new(2, 3, 2, activation)?),
                    Box::new(Softmax::new(shape)?),
                    Box::new(last(6)?),
                ]
            }
            Kind::Skip => vec![
                Box::new(Branch::new(inputs)?),
                Box::new(Carry::new(last(inputs)?, inputs)?),
                Box::new(Carry::new(dense(outputs, inputs, activation)?, inputs)?),
                Box::new(Merge::new(inputs)?.with_branch_scale(-0.5)?),
                Box::new(Scale::new(inputs, 0.7)?),
                Box::new(last(inputs)?),
            ],
        })
    }
}

/// Draws from U(−1, 1).
fn uniform<T: Scalar>(seed: u64, count: usize) -> Vec<T> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let draws = (0..count).map(|_| T::of(rng.random_range(-1.0..1.0)));
    draws.collect()
}

fn matrix<T: Scalar>(rows: usize, columns: usize, size: f64, seed: u64) -> DMatrix<T> {
    let mut values = uniform::<T>(seed, rows * columns);
    // A size that the scalar cannot hold becomes one that it can.
    let size = if T::of(size).is_finite() {
        T::of(size)
    } else {
        T::of(1e30)
    };
    values.iter_mut().for_each(|v| *v *= size);
    DMatrix::from_vec(rows, columns, values)
}

/// `values`, spoilt; `true` if an error must come of it.
fn spoilt<T: Scalar>(values: DMatrix<T>, how: Spoil) -> (DMatrix<T>, bool) {
    let (rows, columns) = values.shape();
    match how {
        Spoil::Nothing => (values, false),
        Spoil::Nan | Spoil::Infinite if values.is_empty() => (values, false),
        Spoil::Nan | Spoil::Infinite => {
            let mut values = values;
            let last = values.len() - 1;
            values[last] = T::of(if how == Spoil::Nan {
                f64::NAN
            } else {
                f64::NEG_INFINITY
            });
            (values, true)
        }
        Spoil::Rows => (values.resize(rows + 1, columns, T::zero()), true),
        Spoil::Columns => (values.resize(rows, columns + 1, T::zero()), false),
    }
}

impl ZSolver {
    fn build<T: Scalar>(self) -> Result<Box<dyn TargetSolver<T>>, Error> {
        let mut convergence = Convergence::default();
        if let Some(tolerance) = self.tolerance {
            convergence = convergence
                .with_tolerance(tolerance)?
                .with_stagnation(1e-9)?;
        }
        let step = match self.kind % 3 {
            0 => StepSize::Fixed(self.step),
            1 => StepSize::Checked(self.step),
            _ => StepSize::Bounded { margin: self.step },
        };
        let steps = self.steps;
        Ok(match self.kind {
            0..=2 => Box::new(
                ReverseSweep::new(steps)
                    .with_step(step)?
                    .with_convergence(convergence),
            ),
            3..=5 => Box::new(
                RedBlack::new(steps)
                    .with_step(step)?
                    .with_convergence(convergence),
            ),
            6..=8 => Box::new(SynchronousDescent::new(steps, step)?.with_convergence(convergence)),
            9 => Box::new(
                GaussNewton::direct(steps)
                    .with_damping(self.step)?
                    .with_convergence(convergence),
            ),
            10 => Box::new(GaussNewton::new(steps, 5).with_convergence(convergence)),
            11 => Box::new(
                SynchronousDescent::new(steps, StepSize::Fixed(0.01))?.with_noise(self.step, 7)?,
            ),
            _ => Box::new(
                ErrorDescent::new(steps)
                    .with_step(step)?
                    .with_convergence(convergence),
            ),
        })
    }

    /// Whether E must not rise for any example.
    fn is_checked(self) -> bool {
        let of_any_step = self.kind < 9 || self.kind > 11;
        !(of_any_step && self.kind.is_multiple_of(3) || self.is_noisy())
    }

    fn is_noisy(self) -> bool {
        self.kind == 11
    }
}

impl WSolver {
    fn build<T: Scalar>(self) -> Result<WStep<T>, Error> {
        Ok(match self.kind {
            0 => WStep::solver(LeastSquares::ridge(self.weight)?),
            1 => WStep::solver(LeastSquares::proximal(self.weight)?.with_forgetting_factor(0.9)?),
            2 => WStep::solver(LevenbergMarquardt::new(self.steps, 5).with_damping(self.weight)?),
            3 => WStep::solver_of_layer(0, LevenbergMarquardt::new(self.steps, 2))
                .with_optimizer(GradientDescent::new(0.01)?),
            _ => WStep::none(),
        })
    }
}

impl Plan {
    fn phase<T: Scalar>(self) -> Result<Phase<T>, Error> {
        let solver = || self.solver.build::<T>();
        let mut w_step = match (self.parameters, self.rule) {
            (Some(parameters), _) => parameters.build()?,
            (None, 0) => WStep::optimizer(GradientDescent::new(self.rate)?),
            (None, 1) => WStep::optimizer(GradientDescent::new(self.rate)?.with_momentum(0.9)?),
            (None, 2) => WStep::optimizer(GradientDescent::new(self.rate)?.with_nesterov(0.9)?),
            (None, 3) => WStep::optimizer(AdamW::new(Adam::new(self.rate)?)),
            (None, 4) => WStep::optimizer(RmsProp::new(self.rate)?),
            (None, _) => WStep::optimizer(Adam::new(self.rate)?),
        };
        if let Some(norm) = self.clip {
            w_step = w_step.with_max_gradient_norm(norm)?;
        }
        let mut decoupling = match self.scheme {
            0 => return self.limited(Phase::with_w_step(Backprop, w_step)?),
            1 => return self.limited(Phase::with_w_step(ZIl, w_step)?),
            2 => return self.limited(Phase::with_w_step(FixedPrediction::new(), w_step)?),
            11 => {
                let rate = self.multipliers.unwrap_or(1.0);
                let scheme = PcAlm::new(self.batch as u64 % 4, solver()?, rate)?;
                let credit = [CreditTiming::BeforeDualStep, CreditTiming::AfterDualStep];
                let mut scheme = scheme.with_credit(credit[self.batch % 2]);
                if self.epochs > 1 {
                    scheme = scheme.with_acceleration(self.rule % 3)?;
                }
                return self.limited(Phase::with_w_step(scheme, w_step)?);
            }
            3 => Decoupling::joint(Adam::new(self.solver.step)?),
            4 => Decoupling::joint(GradientDescent::new(self.solver.step)?.with_momentum(0.5)?),
            5 => Decoupling::persistent(solver()?),
            6 => Decoupling::refreshed(solver()?),
            7 => Decoupling::residual(solver()?),
            8 => Decoupling::weights_only(),
            9 => Decoupling::new(
                [Targets::Persistent, Targets::Refreshed][self.batch % 2],
                ZStep::Along(StepSize::Fixed(self.solver.step)),
            )?,
            _ => Decoupling::new(
                Targets::Projected { seed: 3 },
                ZStep::Solver(solver()?.into()),
            )?,
        };
        if let Some(rate) = self.multipliers {
            decoupling = decoupling.with_multipliers(rate)?;
        }
        self.limited(Phase::with_w_step(decoupling, w_step)?)
    }

    fn limited<T: Scalar>(self, phase: Phase<T>) -> Result<Phase<T>, Error> {
        let phase = phase.with_epochs(self.epochs).with_batch_size(self.batch)?;
        let phase = match self.schedule {
            0 => phase.with_schedule(Schedule::cosine(0.1)?),
            1 => phase.with_schedule(Schedule::linear(0.0)?.with_warm_up(2)),
            2 => phase.with_penalty_schedule(Schedule::geometric(10.0)?)?,
            3 => phase.with_penalty_growth(PenaltyGrowth::new(2)?)?,
            4 => phase.with_error_share(ErrorShare::new(0.7)?.with_every(2)?)?,
            _ => phase,
        };
        match self.stopping {
            0 => phase.with_stopping(Stopping::Objective { at_most: 1e-3 }),
            1 => phase.with_stopping(Stopping::Stagnation {
                patience: 1,
                improvement: 1e-3,
            }),
            2 => phase.with_stopping(Stopping::Validation {
                patience: 1,
                improvement: 0.0,
            }),
            _ => Ok(phase),
        }
    }
}

/// All numbers of a model, as bits.
fn bits<T: Scalar>(model: &DecoupledCircuit<T>) -> Vec<u64> {
    let depth = model.circuit().depth();
    let mut values = model.terms().penalties().to_vec();
    values.extend(model.example_weights().into_iter().flatten());
    for t in 0..depth {
        values.extend(model.circuit().parameters(t));
    }
    for t in 0..=depth {
        values.extend(model.z(t).unwrap().iter());
    }
    let ids = model.examples().iter().copied();
    ids.chain(values.into_iter().map(|v| v.as_f64().to_bits()))
        .collect()
}

fn same_bits<T: Scalar>(a: &[T], b: &[T]) -> bool {
    a.len() == b.len()
        && a.iter()
            .zip(b)
            .all(|(a, b)| a.as_f64().to_bits() == b.as_f64().to_bits())
}

/// E of every example by itself, where it fits the scalar.
fn energies<T: Scalar>(model: &DecoupledCircuit<T>) -> Vec<Option<T>> {
    let own = |id: &u64| model.gradients(&Selection::Examples(&[*id])).ok();
    let examples = model.examples().iter();
    examples.map(|id| own(id).map(|own| own.energy)).collect()
}

/// Fails with the words of an invariant.
macro_rules! must {
    ($holds:expr, $($words:tt)*) => {
        if !$holds {
            return Err(format!($($words)*));
        }
    };
}

fn check_sound<T: Number>(model: &DecoupledCircuit<T>) -> Result<(), String> {
    let depth = model.circuit().depth();
    for t in 0..depth {
        let finite = model.circuit().parameters(t).iter().all(|v| v.is_finite());
        must!(finite, "θ_{t} is not finite");
    }
    for t in 0..=depth {
        must!(
            model.z(t).unwrap().iter().all(|v| v.is_finite()),
            "z_{t} is not finite"
        );
    }
    if let Ok(energy) = model.energy() {
        must!(energy.is_finite(), "Ok with E = {energy}");
    }
    #[cfg(feature = "storage")]
    check_saved(model)?;
    Ok(())
}

/// The model of its own file is the same.
#[cfg(feature = "storage")]
fn check_saved<T: Number>(model: &DecoupledCircuit<T>) -> Result<(), String> {
    let bytes = model.to_bytes().map_err(|error| error.to_string())?;
    let registry = layerwise::registry::Registry::<T>::new();
    let opened = DecoupledCircuit::from_bytes(&bytes, &registry);
    let opened = opened.map_err(|error| format!("a saved model cannot be opened: {error}"))?;
    must!(bits(&opened) == bits(model), "saving changes bits");
    must!(
        format!("{opened:?}") == format!("{model:?}"),
        "saving changes the model"
    );
    Ok(())
}

/// An example's results, alone and beside others.
fn check_columns<T: Scalar>(model: &DecoupledCircuit<T>) -> Result<(), String> {
    let all = model.gradients(&Selection::All).map_err(|e| e.to_string());
    let (Ok(all), false) = (all, model.examples().is_empty()) else {
        return Ok(());
    };
    for (column, &id) in model.examples().iter().enumerate() {
        let alone = model
            .gradients(&Selection::Examples(&[id]))
            .map_err(|e| e.to_string())?;
        for (t, (alone, all)) in (1..).zip(alone.targets.iter().zip(&all.targets)) {
            let all = all.column(column);
            let same = same_bits(alone.as_slice(), all.as_slice());
            must!(
                same,
                "∂E/∂z_{t} of example {id}: {alone} alone, {all} beside others"
            );
        }
    }
    Ok(())
}

/// Runs of a trainer on one and two threads and in two parts: all must agree.
fn train<T: Number>(
    plan: Plan,
    network: &Network,
    model: &mut DecoupledCircuit<T>,
) -> Result<Result<(), Error>, String> {
    let phase = match plan.phase::<T>() {
        Ok(phase) => phase,
        Err(error) => return Ok(Err(error)),
    };
    let dims = model.circuit().dims().to_vec();
    let (x, y) = (
        network.inputs::<T>(2, 1.0, 5),
        network.outputs::<T>(dims[dims.len() - 1], 2, 1.0, 5),
    );
    let trainer = Trainer::new(phase).with_seed(4).with_validation(x, y);
    let (mut one, mut two) = (model.clone(), model.clone());
    let first = trainer.run(&mut one);
    let second = trainer
        .clone()
        .with_threads(if cfg!(feature = "rayon") { 2 } else { 1 })
        .map_err(|e| e.to_string())?
        .run(&mut two);
    must!(
        first.is_ok() == second.is_ok(),
        "one thread: {first:?}; two: {second:?}"
    );
    must!(
        bits(&one) == bits(&two),
        "bits depend on the number of threads"
    );
    if let (Ok(first), Ok(second)) = (&first, &second) {
        must!(
            format!("{:?}", first.history) == format!("{:?}", second.history),
            "the histories of one and two threads differ"
        );
        must!(
            first
                .history
                .iter()
                .all(|record| record.objective.is_finite()),
            "Ok with an objective that is not finite"
        );
    }

    if trainer.check(model).is_ok() {
        let parted = in_two_parts(&trainer, model.clone(), plan.cut)?;
        match (&first, parted) {
            (Ok(_), Ok(parted)) => must!(bits(&one) == bits(&parted), "resuming changes bits"),
            (Err(_), Err(_)) => {}
            (whole, parted) => {
                return Err(format!(
                    "whole: {:?}; resumed: {:?}",
                    whole.is_ok(),
                    parted.is_ok()
                ));
            }
        }
    }
    if first.is_err() && trainer.check(model).is_err() {
        must!(bits(&one) == bits(model), "a refused run changes the model");
    }
    *model = one;
    Ok(first.map(|_| ()).map_err(Error::from))
}

/// A run that is left after `cut` events, and goes on from its model and state.
fn in_two_parts<T: Number>(
    trainer: &Trainer<T>,
    model: DecoupledCircuit<T>,
    cut: usize,
) -> Result<Result<DecoupledCircuit<T>, Error>, String> {
    let mut session = Session::new(trainer, model).map_err(|e| e.to_string())?;
    for _ in 0..cut {
        match session.advance() {
            Err(error) => return Ok(Err(error)),
            Ok(None) => break,
            Ok(Some(_)) => {}
        }
    }
    #[cfg(not(feature = "storage"))]
    let resumed = {
        let state = session.state().clone();
        Session::resume(trainer, session.finish().0, state)
    };
    #[cfg(feature = "storage")]
    let resumed = {
        let bytes = session.to_bytes().map_err(|error| error.to_string())?;
        let mut model = session.finish().0;
        // Nothing but the bytes is to be left of it.
        let ids = model.examples().to_vec();
        model.remove_examples(&ids).map_err(|e| e.to_string())?;
        for t in 0..model.circuit().depth() {
            let zeros = vec![T::zero(); model.circuit().parameters(t).len()];
            model.set_parameters(t, &zeros).map_err(|e| e.to_string())?;
        }
        Session::from_bytes(trainer, model, &bytes)
    };
    let mut session = match resumed {
        Ok(session) => session,
        Err(error) => return Err(format!("a state does not fit its own run: {error}")),
    };
    Ok(match session.run() {
        Ok(_) => Ok(session.finish().0),
        Err(error) => Err(error),
    })
}

/// Free entries, in a pattern that depends on the example alone.
fn mask(rows: usize, n: usize, number: u64) -> DMatrix<bool> {
    let free =
        |row: usize, column: usize| (3 * row + 5 * column + number as usize / 10).is_multiple_of(4);
    DMatrix::from_fn(rows, n, free)
}

/// Inference of all examples, and of each alone.
fn infer<T: Scalar>(
    solver: ZSolver,
    model: &DecoupledCircuit<T>,
    (x, y): (&DMatrix<T>, &DMatrix<T>),
    number: u64,
) -> Result<Result<(), Error>, String> {
    let built = match solver.build::<T>() {
        Ok(built) => built,
        Err(error) => return Ok(Err(error)),
    };
    let free_inputs = mask(x.nrows(), x.ncols(), number);
    let free_targets = mask(y.nrows(), y.ncols(), number + 10);
    let of = |from: usize, n: usize| {
        let part = |values: &DMatrix<T>| values.columns(from, n).into_owned();
        let mut evidence = Evidence::new(part(x), part(y))?;
        // With other programs, all inputs or all targets are given.
        if !number.is_multiple_of(3) {
            evidence = evidence.with_free_inputs(free_inputs.columns(from, n).into_owned())?;
        }
        if !number.is_multiple_of(4) {
            evidence = evidence.with_free_targets(free_targets.columns(from, n).into_owned())?;
        }
        model.infer(&evidence, &*built)
    };
    if x.ncols() != y.ncols() {
        return Ok(
            of(0, x.ncols().min(y.ncols())).and(Evidence::new(x.clone(), y.clone()).map(|_| ()))
        );
    }
    let all = match of(0, x.ncols()) {
        Ok(all) => all,
        Err(error) => return Ok(Err(error)),
    };
    for i in 0..x.ncols() {
        if solver.is_noisy() && i > 0 {
            // The noise is that of example 0.
            break;
        }
        let alone = of(i, 1).map_err(|error| format!("example {i} alone: {error}"))?;
        let pairs = [(&alone.inputs, &all.inputs), (&alone.outputs, &all.outputs)];
        for (alone, all) in pairs
            .into_iter()
            .chain(alone.hidden.iter().zip(&all.hidden))
        {
            let own = all.column(i);
            must!(
                same_bits(alone.as_slice(), own.as_slice()),
                "example {i} is inferred otherwise alone"
            );
            must!(
                own.iter().all(|v| v.is_finite()),
                "Ok with values that are not finite"
            );
        }
        let [before, after] = alone.energy;
        let room = before.abs() * T::default_epsilon() * T::of(64.0 * (1 + solver.steps) as f64);
        must!(
            !solver.is_checked() || after <= before + room,
            "E of an inference rose from {before} to {after}"
        );
    }
    Ok(Ok(()))
}

fn perform<T: Number>(
    call: &Call,
    number: u64,
    network: &Network,
    model: &mut DecoupledCircuit<T>,
) -> Result<(), String> {
    let before = bits(model);
    let dims = model.circuit().dims().to_vec();
    let depth = model.circuit().depth();
    let n = model.examples().len();
    // Of these calls an error leaves everything as it was.
    let result: Result<(), Error> = match call {
        &Call::Add(n, size, start, how) => {
            let (x, wrong) = spoilt(network.inputs::<T>(n, size, number), how);
            let y = network.outputs::<T>(dims[depth], n, size, number + 1);
            let init = match start {
                Start::Forward => TargetInit::ForwardPass,
                Start::Noise(std) => TargetInit::NoisyForwardPass { std, seed: number },
                Start::Normal(std) => TargetInit::RandomNormal { std, seed: number },
                Start::Projected => TargetInit::Projected { seed: number },
            };
            let added = model.add_examples(&x, &y, &init).map(|_| ());
            let wrong = wrong || how == Spoil::Columns;
            must!(!(wrong && added.is_ok()), "wrong examples were added");
            added
        }
        Call::Remove(ids) => model.remove_examples(ids),
        &Call::Parameters(t, size, how) => {
            let count = if t < depth {
                model.circuit().parameters(t).len()
            } else {
                2
            };
            let (values, wrong) = spoilt(matrix::<T>(count, 1, size, number), how);
            let set = model.set_parameters(t, values.as_slice());
            must!(!(wrong && set.is_ok()), "wrong parameters were taken");
            set
        }
        &Call::Targets(t, size, how) => {
            let rows = dims.get(t).copied().unwrap_or(1);
            let (values, wrong) = spoilt(matrix::<T>(rows, n, size, number), how);
            let set = model.set_targets(t, &Selection::All, &values);
            must!(!(wrong && set.is_ok()), "wrong targets were taken");
            set
        }
        Call::Penalties(values) => {
            let values: Vec<T> = values.iter().map(|&v| T::of(v)).collect();
            model.set_penalties(&values)
        }
        Call::Weights(ids, weight) => {
            let weights = vec![T::of(*weight); ids.len()];
            model.set_example_weights(&Selection::Examples(ids), &weights)
        }
        &Call::Predict(n, size, how) => {
            let (x, wrong) = spoilt(network.inputs::<T>(n, size, number), how);
            match model.predict(&x) {
                Ok(y) => {
                    must!(!wrong, "wrong inputs were predicted");
                    for j in 0..y.ncols() {
                        let alone = model.predict(&x.columns(j, 1).into_owned());
                        let alone = alone.map_err(|e| e.to_string())?;
                        let same = same_bits(alone.as_slice(), y.column(j).as_slice());
                        must!(same, "column {j} is predicted otherwise alone");
                    }
                    Ok(())
                }
                Err(error) => Err(error),
            }
        }
        &Call::Local(t, start, end) => model.local_problem(t, start..end).map(|problem| {
            problem.gradients();
        }),
        &Call::Evaluate(start, end) => {
            let selection = Selection::Columns(start..end);
            let decoupled = model.gradients(&selection).map(|_| ());
            decoupled.and(model.backprop(&selection).map(|_| ()))
        }
        &Call::Infer(solver, n, size, how) => {
            let (x, wrong) = spoilt(network.inputs::<T>(n, size, number), how);
            let y = network.outputs::<T>(dims[depth], n, 1.0, number + 1);
            let inferred = infer(solver, model, (&x, &y), number)?;
            let wrong = wrong || how == Spoil::Columns;
            must!(!(wrong && inferred.is_ok()), "wrong inputs were taken");
            must!(bits(model) == before, "inference changes the model");
            inferred
        }
        Call::MoveTargets(solver, ids) => match solver.build::<T>() {
            Err(error) => Err(error),
            Ok(built) => {
                let selection = match ids.is_empty() {
                    true => Selection::All,
                    false => Selection::Examples(ids),
                };
                let before = energies(model);
                let solved = model.solve_targets(&*built, &selection);
                let now = energies(model);
                if solved.is_ok() && solver.is_checked() && !network.drops() {
                    let steps = 64.0 * (1 + solver.steps) as f64;
                    for (before, after) in before.into_iter().zip(now) {
                        let Some(before) = before else { continue };
                        let room = before.abs() * T::default_epsilon() * T::of(steps);
                        let kept = after.is_some_and(|after| after <= before + room);
                        must!(kept, "E rose from {before} to {after:?}");
                    }
                }
                // The steps that were completed are kept.
                check_sound(model)?;
                return check_columns(model);
            }
        },
        Call::MoveParameters(t, solver, ids) => {
            let selection = match ids.is_empty() {
                true => Selection::All,
                false => Selection::Examples(ids),
            };
            let (weight, steps) = (solver.weight, solver.steps);
            match solver.kind {
                0 => LeastSquares::ridge(weight)
                    .and_then(|s| model.solve_parameters(*t, &s, &selection)),
                1 => LeastSquares::proximal(weight)
                    .and_then(|s| model.solve_parameters(*t, &s, &selection)),
                _ => LevenbergMarquardt::new(steps, 5)
                    .with_damping(weight)
                    .and_then(|s| model.solve_parameters(*t, &s, &selection)),
            }
            .map(|_| ())
        }
        &Call::Train(plan) => {
            // An error leaves what the last visit left.
            let _ = train(plan, network, model)?;
            check_sound(model)?;
            return check_columns(model);
        }
    };
    if result.is_err() {
        must!(
            bits(model) == before,
            "an error changed the model: {result:?}"
        );
    }
    check_sound(model)?;
    check_columns(model)
}

fn run<T: Number>(program: &Program) -> Result<(), String> {
    let Ok(mut model) = program.network.build::<T>() else {
        return Ok(());
    };
    let first = Call::Add(program.examples, 1.0, Start::Noise(0.3), Spoil::Nothing);
    for (number, call) in [&first].into_iter().chain(&program.calls).enumerate() {
        let seed = program.network.seed + 10 * number as u64;
        let done = catch_unwind(AssertUnwindSafe(|| {
            perform(call, seed, &program.network, &mut model)
        }));
        match done {
            Err(_) => return Err(format!("call {number} panicked")),
            Ok(Err(words)) => return Err(format!("call {number}: {words}")),
            Ok(Ok(())) => {}
        }
    }
    Ok(())
}

fn fuzz(cases: u32, seed: u64) {
    let config = ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..ProptestConfig::default()
    };
    let tested = TestRunner::new(config).run(&program(), |program| {
        run::<f64>(&program).map_err(|e| TestCaseError::fail(format!("f64: {e}")))?;
        run::<f32>(&program).map_err(|e| TestCaseError::fail(format!("f32: {e}")))
    });
    if let Err(failure) = tested {
        panic!("seed {seed}: {failure}");
    }
}

/// `FUZZ_SECONDS` asks for a run of that length from the seed `FUZZ_SEED`.
#[test]
fn random_calls_leave_a_sound_model() {
    let number = |name| std::env::var(name).ok().map(|v| v.parse::<u64>().unwrap());
    let first = number("FUZZ_SEED").unwrap_or(1);
    let Some(seconds) = number("FUZZ_SECONDS") else {
        return fuzz(150, first);
    };
    let (start, limit) = (Instant::now(), Duration::from_secs(seconds));
    let mut programs = 0_u64;
    for seed in first.. {
        if start.elapsed() > limit {
            break;
        }
        fuzz(200, seed);
        programs += 200;
    }
    println!("{programs} programs in each scalar, from seed {first}");
}
