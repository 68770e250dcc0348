//! Steps do not allocate: a counter stands in for the global allocator.
//!
//! With the default kernels only: with other roundings, Levenberg-Marquardt runs after a minimum at
//! infinity on one of these problems, and the run ends in an error.
#![cfg(feature = "fast-kernels")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use layerwise::circuit::CircuitBuilder;
use layerwise::data::InMemory;
use layerwise::decoupled::{Selection, TargetInit};
use layerwise::energy::{All, Energy, LocalProblem, LocalWorkspace, Workspace};
use layerwise::kernel::{Bytes, Write};
use layerwise::layer::{
    Activation, Attention, AveragePool2d, Branch, Carry, Context, Conv2d, ConvTranspose2d, Dense,
    Dropout, Embedding, GlobalAveragePool, Layer, LayerNorm, MaxPool2d, Merge, Point, PositionBias,
    PositionWise, Residual, RmsNorm, Scale, Sequential, Softmax, Window2d,
};
use layerwise::loss::{
    ClassWeights, Gaussian, LabelSmoothing, PseudoHuber, SoftmaxCrossEntropy, SquaredError,
};
use layerwise::objective::{LocalObjective, Objective};
use layerwise::optimizer::{Adam, AdamW, GradientDescent, RmsProp};
use layerwise::parameter_solver::{
    LeastSquares, LevenbergMarquardt, NormalEquations, ParameterSolver,
};
use layerwise::regularizer::Regularizer;
use layerwise::schedule::Schedule;
use layerwise::state::State;
use layerwise::target_solver::{
    Convergence, ErrorDescent, GaussNewton, RedBlack, ReverseSweep, StepSize, SynchronousDescent,
};
use layerwise::training::{
    Amortized, Backprop, CreditTiming, Decoupling, ErrorShare, FixedPrediction, Part, PcAlm,
    PenaltyGrowth, Phase, Scheme, Targets, Trainer, WStep, ZIl, ZStep,
};
use layerwise::{Circuit, DecoupledCircuit, Error, Loss, Scalar};
use nalgebra::DMatrix;

/// The system's allocator, counting the requests of each thread: tests run beside one another.
struct Counting;

thread_local! {
    static REQUESTS: Cell<u64> = const { Cell::new(0) };
    /// Bytes held: what was allocated less what was freed.
    static BYTES: Cell<isize> = const { Cell::new(0) };
    /// The most bytes held since it was set.
    static PEAK: Cell<isize> = const { Cell::new(0) };
    /// The largest request that is granted.
    static MOST: Cell<usize> = const { Cell::new(usize::MAX) };
}

fn count(bytes: isize) {
    REQUESTS.set(REQUESTS.get() + 1);
    BYTES.set(BYTES.get() + bytes);
    PEAK.set(PEAK.get().max(BYTES.get()));
}

// SAFETY: every call is handed to the system's allocator as it came, or fails; the counters are plain cells
// that need neither an allocation nor a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() > MOST.get() {
            return std::ptr::null_mut();
        }
        count(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.size() > MOST.get() {
            return std::ptr::null_mut();
        }
        count(layout.size() as isize);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if size > MOST.get() {
            return std::ptr::null_mut();
        }
        count(size as isize - layout.size() as isize);
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        BYTES.set(BYTES.get() - layout.size() as isize);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations that `work` makes on this thread.
fn allocations<R>(work: impl FnOnce() -> R) -> u64 {
    let before = REQUESTS.get();
    std::hint::black_box(work());
    REQUESTS.get() - before
}

const EXAMPLES: usize = 11;

fn model<T: Scalar>() -> DecoupledCircuit<T> {
    let energy = Energy::new(SoftmaxCrossEntropy).with_penalty(T::of(0.5));
    examples_of(layers(), energy)
}

/// Everything that a term may have beside its layer: a learned precision, other losses, wrapped
/// ones, regularisers, example weights.
fn rich_model<T: Scalar>() -> DecoupledCircuit<T> {
    enrich(layers())
}

/// The same where widths are small, for solvers whose work grows with their cube.
fn narrow_model<T: Scalar>() -> DecoupledCircuit<T> {
    let dense = |input, output| Dense::new(input, output, Activation::Sigmoid).unwrap();
    let builder = Circuit::builder().layer(dense(6, 7)).layer(dense(7, 1));
    enrich(builder.layer(dense(1, 3)).layer(dense(3, 4)))
}

fn enrich<T: Scalar>(builder: CircuitBuilder<T>) -> DecoupledCircuit<T> {
    let learned = || Gaussian::learned(T::of(2.0), T::of(0.1)).unwrap();
    let hidden: Vec<Box<dyn Loss<T>>> = vec![
        Box::new(learned()),
        Box::new(PseudoHuber::new(0.7).unwrap()),
        Box::new(learned()),
    ];
    let smooth = LabelSmoothing::new(SoftmaxCrossEntropy, 0.1).unwrap();
    let weights = [1.0, 2.0, 0.5, 1.5].map(T::of).to_vec();
    let energy = Energy::new(ClassWeights::new(weights, smooth).unwrap())
        .with_hidden_losses(hidden)
        .with_parameter_regularizer(Regularizer::elastic(1e-3, 1e-2).unwrap())
        .with_target_regularizer(Regularizer::l2(1e-3).unwrap());
    let mut model = examples_of(builder, energy);
    let weights: Vec<T> = (0..EXAMPLES).map(|i| T::of(0.5 + i as f64 / 4.0)).collect();
    model
        .set_example_weights(&Selection::All, &weights)
        .unwrap();
    model
}

/// ReLU layers with squared errors between two that least squares do not fit, an L2 regulariser and
/// example weights.
fn weighted_model<T: Scalar>() -> DecoupledCircuit<T> {
    let dense = |input, output| Dense::new(input, output, Activation::Relu).unwrap();
    let builder = Circuit::builder()
        .layer(Dense::new(90, 20, Activation::Gelu).unwrap())
        .layer(dense(20, 7))
        .layer(dense(7, 3).without_bias())
        .layer(dense(3, 4));
    let energy =
        Energy::new(SoftmaxCrossEntropy).with_parameter_regularizer(Regularizer::l2(1e-2).unwrap());
    let mut model = examples_of(builder, energy);
    let weights: Vec<T> = (0..EXAMPLES).map(|i| T::of(0.5 + i as f64 / 4.0)).collect();
    model
        .set_example_weights(&Selection::All, &weights)
        .unwrap();
    model
}

/// Dense layers on every path of the products, and a unit of two.
fn layers<T: Scalar>() -> CircuitBuilder<T> {
    let dense = |input, output| Dense::new(input, output, Activation::Sigmoid).unwrap();
    let unit = Sequential::new(vec![Box::new(dense(3, 5)), Box::new(dense(5, 4))]).unwrap();
    Circuit::builder()
        .layer(dense(90, 70))
        .layer(dense(70, 1))
        .layer(dense(1, 3))
        .layer(unit)
}

fn examples_of<T: Scalar>(builder: CircuitBuilder<T>, energy: Energy<T>) -> DecoupledCircuit<T> {
    let mut model = DecoupledCircuit::new(builder.build().unwrap(), energy).unwrap();
    let rows = model.circuit().dims()[0];
    let x = DMatrix::from_fn(rows, EXAMPLES, |i, j| T::of(((i + 3 * j) % 7) as f64 / 7.0));
    let y = DMatrix::from_fn(
        4,
        EXAMPLES,
        |i, j| {
            if j % 4 == i { T::one() } else { T::zero() }
        },
    );
    model
        .add_examples(&x, &y, &TargetInit::Projected { seed: 1 })
        .unwrap();
    model
}

/// The examples of a model, streamed.
fn streamed_model<T: Bytes>() -> DecoupledCircuit<T> {
    let memory = model::<T>();
    let [x, y] = [0, memory.circuit().depth()].map(|t| memory.z(t).unwrap().into_owned());
    let mut own = DecoupledCircuit::new(
        memory.circuit().clone(),
        Energy::new(SoftmaxCrossEntropy).with_penalty(T::of(0.5)),
    )
    .unwrap();
    let data = Arc::new(InMemory::new(x, y).unwrap());
    own.stream_dataset(data, std::env::temp_dir(), &TargetInit::ForwardPass)
        .unwrap();
    own
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| vec![0u8; 100]), 1);
    assert_eq!(allocations(|| 1 + 1), 0);
}

fn training_on<T: Scalar, S: Scheme<T> + 'static>(name: &str, scheme: fn() -> S) {
    let phase = || Phase::new(scheme(), Adam::new(1e-3).unwrap());
    phases_on(name, model::<T>, phase);
}

fn phases_on<T: Scalar>(
    name: &str,
    model: fn() -> DecoupledCircuit<T>,
    phase: impl Fn() -> Phase<T>,
) {
    phases_within(0, name, model, phase);
}

/// [`phases_on`] of runs with `spare` allocations that may come late.
fn phases_within<T: Scalar>(
    spare: u64,
    name: &str,
    model: fn() -> DecoupledCircuit<T>,
    phase: impl Fn() -> Phase<T>,
) {
    for batch in [EXAMPLES, 4, 1] {
        for measure in [0, 1] {
            let run = |epochs| {
                let mut model = model();
                let phase = phase().with_epochs(epochs).with_batch_size(batch).unwrap();
                let trainer = Trainer::new(phase).with_measure_every(measure);
                let trainer = match measure {
                    0 => trainer,
                    _ => trainer.measure_relaxation(),
                };
                let mut warned = 0;
                let count = allocations(|| {
                    let report = trainer.run(&mut model).unwrap();
                    let records = report.history.iter();
                    warned = records.filter(|own| !own.warnings.is_empty()).count() as u64;
                });
                (count, warned)
            };
            let name = format!("{name}, batches of {batch}, measured every {measure}");
            let ((long, more), (short, fewer)) = (run(16), run(8));
            // The list of records doubles its room once between 8 and 16 epochs, and an epoch that
            // warns has a list of its own: in its event, in the records, and in the report.
            let expected = short + 1 + 3 * (more - fewer);
            assert!(
                long.abs_diff(expected) <= spare,
                "{name}: {long}, {expected}"
            );
        }
    }
}

fn training<T: Bytes>() {
    let adam = || Adam::new(1e-3).unwrap();
    for scheme in [
        Decoupling::persistent as fn(ReverseSweep) -> Decoupling<T>,
        Decoupling::refreshed,
    ] {
        // A channel makes room for threads that wait when the first one does.
        phases_within::<T>(4, "streamed", streamed_model, || {
            Phase::new(scheme(ReverseSweep::new(1)), adam())
        });
    }
    training_on::<T, _>("backprop", || Backprop);
    training_on::<T, _>("weights only", Decoupling::weights_only);
    training_on::<T, _>("joint, plain", || {
        Decoupling::joint(GradientDescent::new(0.05).unwrap())
    });
    training_on::<T, _>("joint, Adam", || {
        Decoupling::joint(Adam::new(0.05).unwrap())
    });
    training_on::<T, _>("along the sweep", || {
        let step = StepSize::Bounded { margin: 1.0 };
        Decoupling::new(Targets::Refreshed, ZStep::Along(step)).unwrap()
    });
    training_on::<T, _>("persistent, sweep", || {
        Decoupling::persistent(ReverseSweep::new(2))
    });
    phases_on::<T>("refreshed, sweep", model, || {
        let sweep = ReverseSweep::new(2).with_bound_every(1).unwrap();
        let twice = WStep::optimizer(adam()).with_steps(2).unwrap();
        Phase::with_w_step(Decoupling::refreshed(sweep), twice).unwrap()
    });
    training_on::<T, _>("persistent, synchronous", || {
        let step = StepSize::Bounded { margin: 1.0 };
        Decoupling::persistent(SynchronousDescent::new(2, step).unwrap())
    });
    training_on::<T, _>("refreshed, synchronous momentum", || {
        let rule = GradientDescent::new(0.05).unwrap();
        let rule = rule.with_momentum(0.9).unwrap();
        Decoupling::refreshed(
            SynchronousDescent::new(2, StepSize::Checked(1.0))
                .unwrap()
                .with_rule(rule),
        )
    });
    training_on::<T, _>("amortised", || {
        let dims = model::<T>().circuit().dims().to_vec();
        let (first, last) = (dims[0], dims.len() - 1);
        let proposer = Circuit::builder()
            .layer(Dense::new(first + dims[last], 9, Activation::Tanh).unwrap())
            .layer(Dense::new(9, dims[1..last].iter().sum(), Activation::Identity).unwrap());
        let rule = Adam::new(0.01).unwrap();
        Amortized::new(proposer.build().unwrap(), rule, ReverseSweep::new(1)).unwrap()
    });
    training_on::<T, _>("residual", || Decoupling::residual(ReverseSweep::new(1)));
    training_on::<T, _>("multipliers", || {
        Decoupling::persistent(ReverseSweep::new(2))
            .with_multipliers(1.0)
            .unwrap()
    });
    phases_on::<T>("Levenberg-Marquardt", model, || {
        let solver = WStep::solver(LevenbergMarquardt::new(2, 3)).with_optimizer(adam());
        let twice = solver.with_steps(2).unwrap();
        Phase::with_w_step(Decoupling::refreshed(ReverseSweep::new(1)), twice).unwrap()
    });
    let decayed = || AdamW::new(adam());
    phases_on::<T>("rich, residual", rich_model, || {
        let step = StepSize::Fixed(0.05);
        let sweep = ReverseSweep::new(2).with_step(step).unwrap();
        Phase::new(Decoupling::residual(sweep), decayed())
            .with_schedule(Schedule::cosine(0.1).unwrap().with_warm_up(3))
            .with_penalty_schedule(Schedule::geometric(4.0).unwrap())
            .unwrap()
            .with_max_gradient_norm(0.1)
            .unwrap()
    });
    phases_on::<T>("rich, growing penalties", rich_model, || {
        let growth = PenaltyGrowth::new(2).unwrap().with_cap(8.0).unwrap();
        let step = StepSize::Fixed(0.05);
        let sweep = ReverseSweep::new(1).with_step(step).unwrap();
        Phase::new(Decoupling::persistent(sweep), decayed())
            .with_penalty_growth(growth)
            .unwrap()
    });
    phases_on::<T>("shares of the error", model, || {
        let share = ErrorShare::new(0.8).unwrap().with_every(2).unwrap();
        let phase = Phase::new(Decoupling::refreshed(GaussNewton::chained(1, 3)), adam());
        phase.with_error_share(share).unwrap()
    });
    phases_on::<T>("rich, Gauss-Newton", rich_model, || {
        Phase::new(Decoupling::refreshed(GaussNewton::new(2, 3)), decayed())
    });
    phases_on::<T>("rich, direct, multipliers", narrow_model, || {
        Phase::new(
            Decoupling::persistent(GaussNewton::direct(2))
                .with_multipliers(1.0)
                .unwrap(),
            decayed(),
        )
    });
    phases_on::<T>("rich, cyclic reduction", narrow_model, || {
        let ends = Convergence::NEVER.with_stagnation(1e-3).unwrap();
        let solver = GaussNewton::cyclic_reduction(3).with_convergence(ends);
        Phase::new(Decoupling::persistent(solver), decayed())
    });
    phases_on::<T>("rich, chained", rich_model, || {
        Phase::new(Decoupling::residual(GaussNewton::chained(1, 3)), decayed())
    });
    phases_on::<T>("rich, red-black", rich_model, || {
        let ends = Convergence::NEVER.with_tolerance(1e-3).unwrap();
        let far = StepSize::Checked(2.0);
        let solver = RedBlack::new(3).with_step(far).unwrap();
        Phase::new(
            Decoupling::persistent(solver.with_convergence(ends)),
            decayed(),
        )
    });
    phases_on::<T>("rich, errors", rich_model, || {
        let ends = Convergence::NEVER.with_tolerance(1e-3).unwrap();
        let solver = ErrorDescent::new(3)
            .with_step(StepSize::Checked(2.0))
            .unwrap();
        Phase::new(
            Decoupling::persistent(solver.with_convergence(ends)),
            decayed(),
        )
    });
    phases_on::<T>("rich, PC-ALM", rich_model, || {
        let step = SynchronousDescent::new(2, StepSize::Fixed(0.1)).unwrap();
        let scheme = PcAlm::new(3, step, 0.5).unwrap();
        Phase::new(scheme.with_credit(CreditTiming::AfterDualStep), decayed())
    });
    phases_on::<T>("rich, accelerated PC-ALM", rich_model, || {
        let scheme = PcAlm::new(5, ReverseSweep::new(1), 0.5).unwrap();
        Phase::new(scheme.with_acceleration(2).unwrap(), decayed())
    });
    phases_on::<T>("weighted least squares", weighted_model, || {
        let ridge = LeastSquares::ridge(0.1).unwrap();
        let kept = ridge.with_forgetting_factor(0.5).unwrap();
        let solver = kept.with_proximal(0.1).unwrap();
        let scheme = Decoupling::persistent(ReverseSweep::new(1));
        let w_step = WStep::solver(solver).with_optimizer(decayed());
        let phase = Phase::with_w_step(scheme, w_step).unwrap();
        phase.with_max_gradient_norm(0.1).unwrap()
    });
    phases_on::<T>("rich, Levenberg-Marquardt", rich_model, || {
        let solver = LevenbergMarquardt::new(2, 2);
        let w_step = WStep::solver(solver).with_optimizer(decayed());
        Phase::with_w_step(Decoupling::weights_only(), w_step).unwrap()
    });
    phases_on::<T>("rich, joint", rich_model, || {
        let targets = RmsProp::new(1e-3).unwrap();
        Phase::new(Decoupling::joint(targets), RmsProp::new(1e-3).unwrap())
    });
    phases_on::<T>("rich, synchronous by Adam", rich_model, || {
        let solver = SynchronousDescent::new(2, StepSize::Fixed(1.0))
            .unwrap()
            .with_rule(Adam::new(1e-3).unwrap());
        Phase::new(Decoupling::persistent(solver), decayed())
    });
    phases_on::<T>("rich, backprop", rich_model, || {
        let rule = GradientDescent::new(0.01).unwrap();
        Phase::new(Backprop, rule.with_nesterov(0.9).unwrap())
    });
    phases_on::<T>("rich, accumulated, some frozen", rich_model, || {
        let w_step = WStep::optimizer(decayed())
            .with_accumulation(2)
            .unwrap()
            .with_frozen(Part::layer(1))
            .with_frozen(Part::group_of_layer(2, "bias"))
            .with_rate_factor(Part::group("weights"), 0.5)
            .unwrap();
        Phase::with_w_step(
            Decoupling::refreshed(
                ReverseSweep::new(1)
                    .with_step(StepSize::Fixed(0.05))
                    .unwrap(),
            ),
            w_step,
        )
        .unwrap()
    });
    phases_on::<T>("joint, accumulated, some frozen", model, || {
        let w_step = WStep::optimizer(Adam::new(1e-3).unwrap())
            .with_accumulation(3)
            .unwrap()
            .with_frozen(Part::layer(0));
        let scheme = Decoupling::joint(GradientDescent::new(0.05).unwrap());
        Phase::with_w_step(scheme, w_step).unwrap()
    });
    let unit = || examples_of(layers(), Energy::new(SoftmaxCrossEntropy));
    phases_on::<T>("Z-IL", unit, || Phase::new(ZIl, decayed()));
    phases_on::<T>("fixed prediction", unit, || {
        Phase::new(FixedPrediction::new(), decayed())
    });
}

#[test]
fn training_in_f64_allocates_nothing_after_its_start() {
    training::<f64>();
}

#[test]
#[cfg_attr(
    feature = "blas",
    ignore = "Levenberg-Marquardt runs after a minimum at infinity"
)]
fn training_in_f32_allocates_nothing_after_its_start() {
    training::<f32>();
}

/// Eight examples and then three, on layers of 8 and of 3 units: buffers of one length, but not of
/// one layer, meet.
#[test]
fn a_short_last_batch_takes_no_memory_from_later_ones() {
    let dense = |input, output| Dense::new(input, output, Activation::Tanh).unwrap();
    let run = |epochs| {
        let layers = Circuit::builder().layer(dense(6, 8)).layer(dense(8, 3));
        let mut model = examples_of::<f64>(layers.layer(dense(3, 4)), Energy::default());
        let rule = || GradientDescent::new(0.01).unwrap();
        let phase = Phase::new(Decoupling::joint(rule()), rule()).with_epochs(epochs);
        let trainer = Trainer::new(phase.with_batch_size(8).unwrap()).with_measure_every(0);
        allocations(|| trainer.run(&mut model).unwrap())
    };
    assert_eq!(run(4), run(1));
}

/// Products in several blocks of rows, of columns and of terms.
#[test]
fn large_layers_allocate_nothing_after_their_start() {
    let dense = |input, output| Dense::new(input, output, Activation::Tanh).unwrap();
    let layers = Circuit::builder().layer(dense(260, 300));
    let circuit = layers.layer(dense(300, 4)).build().unwrap();
    let mut model = DecoupledCircuit::<f32>::new(circuit, Energy::default()).unwrap();
    let wave = |rows| DMatrix::from_fn(rows, 520, |i, j| ((i + 3 * j) % 7) as f32 / 7.0);
    let targets = TargetInit::Projected { seed: 1 };
    model.add_examples(&wave(260), &wave(4), &targets).unwrap();
    let mut workspace = Workspace::new();
    let mut evaluate = || {
        let problem = model.problem(0..520).unwrap();
        problem.evaluate(All, &mut workspace).energy()
    };
    evaluate();
    assert_eq!(allocations(evaluate), 0);
}

fn evaluation<T: Scalar>() {
    let model = model::<T>();
    let mut workspace = Workspace::new();
    let whole = model.problem(0..EXAMPLES).unwrap();
    whole.evaluate(All, &mut workspace);
    // Smaller batches reuse the memory of larger ones, in any order.
    for columns in [0..EXAMPLES, 0..1, 3..7, 0..EXAMPLES, 5..6] {
        let problem = model.problem(columns.clone()).unwrap();
        let evaluated = allocations(|| problem.evaluate(All, &mut workspace).energy());
        assert_eq!(evaluated, 0, "evaluate on {columns:?}");
        let propagated = allocations(|| problem.backprop(&mut workspace).loss());
        assert_eq!(propagated, 0, "backprop on {columns:?}");
    }
    for t in 0..model.circuit().depth() {
        let problem = model.local_problem(t, 0..EXAMPLES).unwrap();
        let mut workspace = problem.workspace();
        let part = model.local_problem(t, 2..5).unwrap();
        for problem in [problem, part, problem] {
            let evaluated = allocations(|| problem.evaluate(All, &mut workspace).energy());
            assert_eq!(evaluated, 0, "local problem {t}");
        }
    }
}

#[test]
fn evaluations_in_kept_memory_allocate_nothing() {
    evaluation::<f64>();
    evaluation::<f32>();
}

fn objectives<T: Scalar>() {
    let model = rich_model::<T>();
    let run = Selection::Columns(2..7);
    let scattered = Selection::Examples(&[3, 1, 4]);
    let joint = model.joint_objective(&Selection::All).unwrap();
    let part = model.joint_objective(&scattered).unwrap();
    let target = model.target_objective(&run).unwrap();
    let composed = model.composed_objective(&Selection::All).unwrap();
    let local = LocalObjective::new(model.local_problem(1, 0..EXAMPLES).unwrap());
    let all: [&dyn Objective<T>; 5] = [&joint, &part, &target, &composed, &local];
    for (i, objective) in all.into_iter().enumerate() {
        let mut workspace = Workspace::new();
        let point = objective.point();
        let mut gradient = vec![T::zero(); objective.dimension()];
        let first = objective.evaluate(&point, Some(&mut gradient), &mut workspace);
        first.unwrap();
        let evaluated = allocations(|| {
            objective.evaluate(&point, None, &mut workspace).unwrap();
            let gradient = Some(&mut gradient[..]);
            objective.evaluate(&point, gradient, &mut workspace)
        });
        assert_eq!(evaluated, 0, "objective {i}");
    }
}

#[test]
fn objectives_in_kept_memory_allocate_nothing() {
    objectives::<f64>();
    objectives::<f32>();
}

/// Every layer but the dense ones of the other tests.
fn other_layers<T: Scalar>() -> Vec<Box<dyn Layer<T>>> {
    let dense = || Dense::new(6, 6, Activation::Gelu).unwrap();
    vec![
        Box::new(Scale::new(6, 0.5).unwrap()),
        Box::new(Residual::new(dense()).unwrap()),
        Box::new(LayerNorm::new([3, 2]).unwrap()),
        Box::new(RmsNorm::new([3, 2]).unwrap()),
        Box::new(Softmax::new([3, 2]).unwrap()),
        Box::new(PositionWise::new(3, 2, 4, Activation::Tanh).unwrap()),
        Box::new(PositionBias::new([3, 2]).unwrap()),
        Box::new(Dropout::new([3, 2], 0.5).unwrap()),
        Box::new(Embedding::new(2, 3, 2).unwrap()),
        Box::new(Attention::new(4, 3, 2).unwrap().causal()),
        Box::new(Branch::new(3).unwrap()),
        Box::new(Carry::new(dense(), 2).unwrap()),
        Box::new(Merge::new(3).unwrap()),
    ]
}

fn products_on<T: Scalar>() {
    for layer in other_layers::<T>() {
        let (n, ids) = (2, [3, 7]);
        let count = layer.parameters().last().map_or(0, |own| own.range.end);
        let ones = |length: usize| vec![T::one(); length];
        let (parameters, input) = (ones(count), ones(n * layer.input_dim()));
        let (mut output, memory) = (ones(n * layer.output_dim()), layer.scratch(n));
        let (mut tape, mut work, mut bound) =
            (ones(memory.tape), ones(memory.work), ones(memory.bound));
        let (u, mut tangent) = (output.clone(), output.clone());
        let (mut d_input, mut d_parameters) = (input.clone(), parameters.clone());
        let context = Context::training(0, 0, 0, &ids);
        let wanted = layer.input_differentiable();
        let made = allocations(|| {
            for kept in [None, Some(&mut tape[..])] {
                layer.forward(&context, &parameters, &input, &mut output, kept, &mut work);
            }
            let at = Point::new(context, &parameters, &input, &output, &tape);
            let d_input = Write::set(wanted.then_some(&mut d_input[..]));
            layer.vjp(&at, &u, d_input, Write::Set(&mut d_parameters), &mut work);
            let v_input = wanted.then_some(&input[..]);
            layer.jvp(&at, v_input, Some(&parameters), &mut tangent, &mut work);
            layer.curvature_bound(&parameters, &mut bound)
        });
        assert_eq!(made, 0, "{layer:?}");
    }
}

#[test]
fn products_of_layers_allocate_nothing() {
    products_on::<f64>();
    products_on::<f32>();
}

#[test]
fn more_steps_of_a_solver_allocate_nothing_more() {
    let run = |steps| {
        let mut model = model::<f64>();
        let bounded = StepSize::Bounded { margin: 1.0 };
        let synchronous = SynchronousDescent::new(steps, bounded).unwrap();
        let sweep = ReverseSweep::new(steps);
        [
            allocations(|| model.solve_targets(&synchronous, &Selection::All)),
            allocations(|| model.solve_targets(&sweep, &Selection::Examples(&[3, 1, 4]))),
        ]
    };
    assert_eq!(run(1), run(50));
}

fn memory_on<T: Scalar>() {
    let mut model = model::<T>();
    let [x, y] = [0, model.circuit().depth()].map(|t| model.z(t).unwrap().into_owned());
    while model.examples().len() < 100 {
        model
            .add_examples(&x, &y, &TargetInit::ForwardPass)
            .unwrap();
    }
    for batch in [5, EXAMPLES, 100] {
        let problem = model.problem(0..batch).unwrap();
        let before = BYTES.get();
        let mut workspace = Workspace::new();
        problem.evaluate(All, &mut workspace);
        let taken = (BYTES.get() - before) as usize;
        // Beside the arrays that the estimate counts: one header a layer.
        let headers = model.circuit().depth() * size_of::<LocalWorkspace<T>>();
        assert_eq!(taken, model.memory(batch).unwrap().workspace + headers);
        drop(workspace);
        assert_eq!(BYTES.get(), before);
    }
}

#[test]
fn the_memory_estimate_is_what_a_workspace_takes() {
    memory_on::<f64>();
    memory_on::<f32>();
}

/// A run whose targets are computed holds its data, θ, the optimiser's numbers, and one batch.
#[test]
fn computed_targets_take_no_memory() {
    let (dims, n, batch) = ([40, 100, 100, 10], 8000, 64);
    let circuit = || {
        let mut builder = Circuit::<f32>::builder();
        for pair in dims.windows(2) {
            builder = builder.layer(Dense::new(pair[0], pair[1], Activation::Tanh).unwrap());
        }
        builder.build().unwrap()
    };
    let peak = |init: &TargetInit<f32>| {
        let mut model = DecoupledCircuit::new(circuit(), Energy::default()).unwrap();
        let x = DMatrix::from_fn(dims[0], n, |i, j| ((i * j) as f32).sin());
        let y = DMatrix::from_fn(dims[3], n, |i, j| ((i + j) as f32).cos());
        let scheme = Decoupling::refreshed(ReverseSweep::new(1));
        let phase = Phase::new(scheme, Adam::new(1e-3).unwrap()).with_epochs(2);
        let trainer = Trainer::new(phase.with_batch_size(batch).unwrap());
        let trainer = trainer.with_threads(1).unwrap();
        model.add_examples(&x, &y, init).unwrap();
        drop((x, y));
        let memory = model.memory(batch).unwrap();
        // Of the model, and of what comes on top.
        let held = (memory.data + memory.targets + memory.parameters) as isize;
        let before = BYTES.get();
        PEAK.set(before);
        trainer.run(&mut model).unwrap();
        let needed = memory.data + 3 * memory.parameters + memory.workspace;
        (held + PEAK.get() - before) as f64 / needed as f64
    };
    let own = peak(&TargetInit::Computed);
    assert!(own < 1.3, "{own}");
    let stored = peak(&TargetInit::ForwardPass);
    assert!(stored > 2.0 * own, "{stored}, {own}");
}

/// What belonged to removed examples is freed: inputs, targets, ids and weights.
fn removed<T: Scalar>() {
    let mut model = model::<T>();
    let dims: usize = model.circuit().dims().iter().sum();
    let before = BYTES.get();
    let many = 2000;
    let x = DMatrix::from_element(90, many, T::zero());
    let y = DMatrix::from_fn(4, many, |i, _| T::of(f64::from(u8::from(i == 0))));
    let ids = model
        .add_examples(&x, &y, &TargetInit::ForwardPass)
        .unwrap();
    let weights = vec![T::of(2.0); many + EXAMPLES];
    model
        .set_example_weights(&Selection::All, &weights)
        .unwrap();
    let given = (x.len() + y.len() + weights.len()) * size_of::<T>();
    drop((x, y, weights));
    let held = (BYTES.get() - before) as usize;
    let least = many * (dims + 1) * size_of::<T>() + many * size_of::<u64>();
    assert!(held >= least && least > given, "{held}, {least}");
    // All but one of them: beside the eleven of before one example stays, and twelve weights.
    model
        .remove_examples(&(ids.start + 1..ids.end).collect::<Vec<_>>())
        .unwrap();
    let own = (dims + 12) * size_of::<T>() + size_of::<u64>();
    assert!(
        BYTES.get() - before <= own as isize,
        "{}",
        BYTES.get() - before
    );
    let all = model.examples().to_vec();
    model.remove_examples(&all).unwrap();
    drop(all);
    assert!(BYTES.get() < before);
    let left = model.z(1).unwrap().len() + model.example_weights().map_or(0, <[T]>::len);
    assert_eq!(left, 0);
}

#[test]
fn the_memory_of_removed_examples_is_freed() {
    removed::<f64>();
    removed::<f32>();
}

/// Layers of images, each in memory of its own.
#[test]
fn layers_of_images_allocate_nothing() {
    let (image, window) = ([2, 9, 8], Window2d::new(3).with_padding(1));
    let convolution = Conv2d::new(image, 4, window, Activation::Tanh).unwrap();
    let transposed = ConvTranspose2d::new(image, 4, window, Activation::Tanh).unwrap();
    let maximum = MaxPool2d::new(image, 2).unwrap();
    let mean = AveragePool2d::new(image, 2).unwrap();
    let global = GlobalAveragePool::new(image).unwrap();
    let grouped = convolution.clone().with_groups(2).unwrap();
    let layers: [&dyn Layer<f32>; 6] = [
        &convolution,
        &grouped,
        &transposed,
        &maximum,
        &mean,
        &global,
    ];
    for layer in layers {
        let count = layer.parameters().last().map_or(0, |group| group.range.end);
        let (n, scratch) = (3, layer.scratch(3));
        let (parameters, z) = (vec![0.5; count], vec![0.25; n * layer.input_dim()]);
        let (mut tape, mut work) = (vec![0.0; scratch.tape], vec![0.0; scratch.work]);
        let mut output = vec![0.0; n * layer.output_dim()];
        let (mut tangent, u) = (output.clone(), output.clone());
        let (mut d_z, mut d_parameters) = (z.clone(), parameters.clone());
        let context = Context::inference(0, 0);
        let found = allocations(|| {
            let kept = Some(&mut tape[..]);
            layer.forward(&context, &parameters, &z, &mut output, kept, &mut work);
            let at = Point::new(context, &parameters, &z, &output, &tape);
            let (d_z, d_parameters) = (Write::Set(&mut d_z), Write::Add(&mut d_parameters));
            layer.vjp(&at, &u, d_z, d_parameters, &mut work);
            let v = (Some(&z[..]), Some(&parameters[..]));
            layer.jvp(&at, v.0, v.1, &mut tangent, &mut work);
        });
        assert_eq!(found, 0, "{layer:?}");
    }
}

/// Copies of a batch that memory cannot hold are an error, where an allocation that fails would end the process.
#[test]
fn closed_forms_beyond_memory_are_refused() {
    fn tried(
        sizes: impl Iterator<Item = usize>,
        mut call: impl FnMut() -> Result<(), Error>,
    ) -> usize {
        for (refused, most) in sizes.enumerate() {
            MOST.set(most);
            let result = call();
            MOST.set(usize::MAX);
            match result {
                Ok(()) => return refused,
                Err(error) => assert!(matches!(error, Error::TooLarge { .. }), "{error}"),
            }
        }
        panic!("refused whatever the memory");
    }
    let wave = |count: usize| -> Vec<f64> { (0..count).map(|i| (i as f64).sin()).collect() };
    let (n, z, p) = (5000, wave(15000), wave(10000));
    let weights = vec![0.5; n];
    for bias in [false, true] {
        for weights in [None, Some(&weights[..])] {
            let mut first = NormalEquations::<f64>::new(3, 2, bias).unwrap();
            first.add(&z[..30], &p[..20], None).unwrap();
            let mut equations = first.clone();
            let sizes = [n, 2 * n, 3 * n, 3 * n + 1, 3 * n + 6].map(|count| 8 * count);
            let sizes = sizes.into_iter().chain([usize::MAX]);
            let refused = tried(sizes, || {
                // Without memory from the call before.
                equations = first.clone();
                let added = equations.add(&z, &p, weights);
                assert!(added.is_ok() || equations == first);
                added
            });
            assert!(refused >= 3, "{refused}");
        }
    }
    let layer = Conv2d::new([4, 8, 8], 4, 3, Activation::Tanh).unwrap();
    let layer = layer.with_groups(2).unwrap();
    let start = wave(76);
    let (z, p) = (wave(20 * 256), wave(20 * 144));
    let problem = LocalProblem::new(&layer, &start, &SquaredError, 1.0, &z, &p).unwrap();
    let problem = problem.with_example_weights(&weights[..20]).unwrap();
    let solver = LeastSquares::ridge(0.1).unwrap();
    let mut workspace = problem.workspace();
    let mut found = start.clone();
    solver
        .solve(&mut State::new(), &problem, &mut workspace, &mut found)
        .unwrap();
    // Their patches are 18 x 720 for each group.
    let sizes = [720, 2 * 720, 18 * 720, 18 * 722, 36 * 720].map(|count| 8 * count);
    let refused = tried(sizes.into_iter(), || {
        let mut again = start.clone();
        let state = &mut State::new();
        let solved = solver.solve(state, &problem, &mut workspace, &mut again);
        assert_eq!(again, if solved.is_ok() { &found } else { &start }[..]);
        solved.map(drop)
    });
    assert_eq!(refused, 4);
}
