//! Every kind of check catches a planted error: layers and losses that delegate to real ones but
//! for one fault. The derivatives that the report finds wrong are exactly those that the fault
//! spoils, and without the fault the same wrapper passes.

use std::collections::BTreeSet;

use layerwise::nalgebra::DMatrix;
use layerwise::rand::rngs::ChaCha8Rng;
use layerwise::rand::{Rng, RngExt, SeedableRng};
use layerwise::{
    Activation, Circuit, Context, DecoupledCircuit, Dense, Error, GradCheck, GradReport, Layer,
    LocalProblem, Loss, Pair, ParameterGroup, Point, Scalar, Scratch, SoftmaxCrossEntropy,
    SquaredError, TargetInit, Write,
};

/// A scalar, with the tolerance that suits it and the error that every fault must exceed.
trait Tested: Scalar {
    const TOLERANCE: f64;
    const LEAST: f64;
}

impl Tested for f64 {
    const TOLERANCE: f64 = 1e-6;
    const LEAST: f64 = 100.0 * Self::TOLERANCE;
}

impl Tested for f32 {
    const TOLERANCE: f64 = 5e-3;
    /// Errors are relative to the larger number, ½ for a missing factor of 2: 100 tolerances
    /// cannot be asked for.
    const LEAST: f64 = 20.0 * Self::TOLERANCE;
}

macro_rules! in_both_scalars {
    ($($test:ident),* $(,)?) => {$(
        mod $test {
            #[test]
            fn in_f64() {
                super::$test::<f64>();
            }

            #[test]
            fn in_f32() {
                super::$test::<f32>();
            }
        }
    )*};
}

in_both_scalars!(
    faults_of_layers,
    faults_of_losses,
    faults_of_curvature,
    faults_in_local_problems,
    faults_in_circuits,
    faults_along_directions,
);

/// Asserts that exactly the `wrong` derivatives fail, and by how much; none for no fault.
fn assert_wrong<T: Tested>(report: &GradReport, wrong: &[&str], fault: impl std::fmt::Debug) {
    let failing = report.worst.iter().filter(|e| e.error > T::TOLERANCE);
    let failing: BTreeSet<&str> = failing.map(|entry| entry.derivative).collect();
    let expected: BTreeSet<&str> = wrong.iter().copied().collect();
    assert_eq!(failing, expected, "{fault:?}: {report}");
    match report.require(T::TOLERANCE) {
        Ok(()) => assert!(wrong.is_empty(), "{fault:?} passed"),
        Err(Error::WrongDerivative { entry, tolerance }) => {
            assert!(wrong.contains(&entry.derivative), "{fault:?}: {entry}");
            assert!(entry.error > T::LEAST, "{fault:?}: {entry}");
            assert_eq!(tolerance, T::TOLERANCE);
        }
        Err(other) => panic!("{fault:?}: {other}"),
    }
}

fn uniform<T: Scalar>(seed: u64, count: usize) -> Vec<T> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let draws = (0..count).map(|_| T::of(rng.random_range(-1.0..1.0)));
    draws.collect()
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum LayerFault {
    None,
    /// (∂f/∂z)ᵀ g with the wrong sign.
    InputSign,
    /// (∂f/∂θ)ᵀ g with the wrong sign.
    ParameterSign,
    /// The bias's gradient is zero.
    BiasDropped,
    /// W g instead of Wᵀ g.
    Transposed,
    /// Half of (∂f/∂θ)ᵀ g.
    Half,
    /// a′ = 1 in the VJP.
    ActivationIgnored,
    /// SiLU with a′ = σ + xσ.
    WrongSilu,
    /// J v without the part of θ.
    TangentWithoutParameters,
    /// J v without the part of z.
    TangentWithoutInput,
    /// `Write::Add` overwrites.
    AddOverwrites,
    /// `Write::Set` adds.
    SetAdds,
    /// Another output without a tape.
    OtherWithoutTape,
}

use LayerFault as L;

const IN_Z: &str = "∂f/∂z by vjp";
const IN_PARAMETERS: &str = "∂f/∂θ by vjp";
const TANGENT_IN_Z: &str = "∂f/∂z by jvp";
const TANGENT_IN_PARAMETERS: &str = "∂f/∂θ by jvp";
const ADDED_IN_Z: &str = "∂f/∂z added by vjp";
const ADDED_IN_PARAMETERS: &str = "∂f/∂θ added by vjp";
const TAPELESS: &str = "f without tape";

/// Every fault, with the derivatives that it spoils.
const LAYER_FAULTS: [(LayerFault, &[&str]); 13] = [
    (L::None, &[]),
    (L::InputSign, &[IN_Z]),
    (L::ParameterSign, &[IN_PARAMETERS]),
    (L::BiasDropped, &[IN_PARAMETERS]),
    (L::Transposed, &[IN_Z]),
    (L::Half, &[IN_PARAMETERS]),
    (L::ActivationIgnored, &[IN_Z, IN_PARAMETERS]),
    (
        L::WrongSilu,
        &[IN_Z, IN_PARAMETERS, TANGENT_IN_Z, TANGENT_IN_PARAMETERS],
    ),
    (L::TangentWithoutParameters, &[TANGENT_IN_PARAMETERS]),
    (L::TangentWithoutInput, &[TANGENT_IN_Z]),
    (L::AddOverwrites, &[ADDED_IN_Z, ADDED_IN_PARAMETERS]),
    // Added to NaN, a result stays NaN.
    (
        L::SetAdds,
        &[IN_Z, IN_PARAMETERS, ADDED_IN_Z, ADDED_IN_PARAMETERS],
    ),
    (L::OtherWithoutTape, &[TAPELESS]),
];

/// A square SiLU layer with a fault.
#[derive(Debug, Clone)]
struct FaultyLayer {
    inner: Dense,
    fault: LayerFault,
}

const SIDE: usize = 3;
const WEIGHTS: usize = SIDE * SIDE;

impl FaultyLayer {
    fn new(fault: LayerFault) -> Self {
        let inner = Dense::new(SIDE, SIDE, Activation::Silu).unwrap();
        Self { inner, fault }
    }

    /// Parameters of order 1, W far from symmetric.
    fn parameters<T: Scalar>() -> Vec<T> {
        [
            1.0, 0.3, -0.8, -0.6, 0.9, 0.4, 0.2, -1.1, 0.7, 0.3, -0.2, 0.5,
        ]
        .map(T::of)
        .to_vec()
    }
}

impl<T: Scalar> Layer<T> for FaultyLayer {
    fn input_dim(&self) -> usize {
        SIDE
    }

    fn output_dim(&self) -> usize {
        SIDE
    }

    fn parameters(&self) -> Vec<ParameterGroup> {
        Layer::<T>::parameters(&self.inner)
    }

    fn initialize(&self, parameters: &mut [T], rng: &mut dyn Rng) {
        self.inner.initialize(parameters, rng);
    }

    fn scratch(&self, batch: usize) -> Scratch {
        Layer::<T>::scratch(&self.inner, batch)
    }

    fn forward(
        &self,
        context: &Context<'_>,
        parameters: &[T],
        input: &[T],
        output: &mut [T],
        mut tape: Option<&mut [T]>,
        work: &mut [T],
    ) {
        let kept = tape.as_deref_mut();
        self.inner
            .forward(context, parameters, input, output, kept, work);
        match (self.fault, tape) {
            (L::OtherWithoutTape, None) => output[0] *= T::of(1.5),
            (L::WrongSilu, Some(tape)) => {
                let linear = Dense::new(SIDE, SIDE, Activation::Identity).unwrap();
                linear.forward(context, parameters, input, tape, None, work);
                for x in tape {
                    let sigmoid = T::one() / (T::one() + (-*x).exp());
                    *x = sigmoid + *x * sigmoid;
                }
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
        let ones = vec![T::one(); at.tape.len()];
        let mut point = *at;
        if self.fault == L::ActivationIgnored {
            point.tape = &ones;
        }
        let mut dz = vec![T::zero(); at.input.len()];
        let mut dp = vec![T::zero(); at.parameters.len()];
        let (set_z, set_p) = (Write::Set(&mut dz[..]), Write::Set(&mut dp[..]));
        self.inner.vjp(&point, cotangent, set_z, set_p, work);
        match self.fault {
            L::InputSign => dz.iter_mut().for_each(|d| *d = -*d),
            L::ParameterSign => dp.iter_mut().for_each(|d| *d = -*d),
            L::BiasDropped => dp[WEIGHTS..].fill(T::zero()),
            L::Half => dp.iter_mut().for_each(|d| *d *= T::of(0.5)),
            L::Transposed => {
                let w = DMatrix::from_column_slice(SIDE, SIDE, &at.parameters[..WEIGHTS]);
                let mut parameters = at.parameters.to_vec();
                parameters[..WEIGHTS].copy_from_slice(w.transpose().as_slice());
                point.parameters = &parameters;
                let set = Write::Set(&mut dz[..]);
                self.inner.vjp(&point, cotangent, set, Write::Skip, work);
            }
            _ => {}
        }
        self.write(d_input, &dz);
        self.write(d_parameters, &dp);
    }

    fn jvp(
        &self,
        at: &Point<'_, T>,
        v_input: Option<&[T]>,
        v_parameters: Option<&[T]>,
        tangent: &mut [T],
        work: &mut [T],
    ) {
        let v_input = v_input.filter(|_| self.fault != L::TangentWithoutInput);
        let v_parameters = v_parameters.filter(|_| self.fault != L::TangentWithoutParameters);
        self.inner.jvp(at, v_input, v_parameters, tangent, work);
    }
}

impl FaultyLayer {
    fn write<T: Scalar>(&self, write: Write<'_, T>, values: &[T]) {
        let write = match (self.fault, write) {
            (L::AddOverwrites, Write::Add(buffer)) => Write::Set(buffer),
            (L::SetAdds, Write::Set(buffer)) => Write::Add(buffer),
            (_, write) => write,
        };
        write.each(|i| values[i]);
    }
}

fn faults_of_layers<T: Tested>() {
    let parameters = FaultyLayer::parameters::<T>();
    let input = uniform::<T>(1, 4 * SIDE);
    for (fault, wrong) in LAYER_FAULTS {
        let layer = FaultyLayer::new(fault);
        let report = GradCheck::new().layer(&layer, &parameters, &input);
        assert_wrong::<T>(&report.unwrap(), wrong, fault);
    }
}

fn faults_along_directions<T: Tested>() {
    let parameters = FaultyLayer::parameters::<T>();
    let input = uniform::<T>(1, 4 * SIDE);
    for (fault, wrong) in LAYER_FAULTS {
        let layer = FaultyLayer::new(fault);
        let check = GradCheck::new().with_directions(6);
        let report = check.layer(&layer, &parameters, &input);
        assert_wrong::<T>(&report.unwrap(), wrong, fault);
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum LossFault {
    None,
    /// ∂L/∂z with the wrong sign.
    TargetSign,
    /// ∂L/∂ẑ with the wrong sign.
    PredictionSign,
    /// ‖z − ẑ‖² with the gradient of its half.
    ValueWithoutHalf,
    /// e^(x − max) − y instead of p − y.
    WithoutNormalisation,
    /// Gradients of the mean over the units.
    MeanGradient,
    /// Twice the curvature.
    CurvatureDoubled,
    /// The coupling of target and prediction with the wrong sign.
    CouplingSign,
}

use LossFault as F;

#[derive(Debug, Clone, Copy)]
struct FaultyLoss<A> {
    inner: A,
    fault: LossFault,
}

impl<T: Scalar, A: Loss<T>> Loss<T> for FaultyLoss<A> {
    fn check_target(&self, dim: usize, target: &[T]) -> Result<(), Error> {
        self.inner.check_target(dim, target)
    }

    fn free_target(&self) -> bool {
        self.inner.free_target()
    }

    fn scratch(&self, dim: usize, batch: usize) -> usize {
        self.inner.scratch(dim, batch)
    }

    fn evaluate(
        &self,
        at: &Pair<'_, T>,
        values: &mut [T],
        d_target: Write<'_, T>,
        d_prediction: Write<'_, T>,
        work: &mut [T],
    ) {
        let mut dz = vec![T::zero(); at.target.len()];
        let mut dp = dz.clone();
        let (set_z, set_p) = (Write::Set(&mut dz[..]), Write::Set(&mut dp[..]));
        self.inner.evaluate(at, values, set_z, set_p, work);
        let all = |d: &mut [T], factor: f64| d.iter_mut().for_each(|d| *d *= T::of(factor));
        match self.fault {
            F::TargetSign => all(&mut dz, -1.0),
            F::PredictionSign => all(&mut dp, -1.0),
            F::ValueWithoutHalf => all(values, 2.0),
            F::WithoutNormalisation => {
                let columns = at
                    .prediction
                    .chunks_exact(at.dim)
                    .zip(at.target.chunks_exact(at.dim));
                for (d, (x, y)) in dp.chunks_exact_mut(at.dim).zip(columns) {
                    let top = x.iter().fold(x[0], |top, &x| top.max(x));
                    for ((d, &x), &y) in d.iter_mut().zip(x).zip(y) {
                        *d = (x - top).exp() - y;
                    }
                }
            }
            F::MeanGradient => {
                all(&mut dz, 1.0 / at.dim as f64);
                all(&mut dp, 1.0 / at.dim as f64);
            }
            _ => {}
        }
        d_target.each(|i| dz[i]);
        d_prediction.each(|i| dp[i]);
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
        let mut product = |v_target, v_prediction| {
            let mut z = vec![T::zero(); at.target.len()];
            let mut p = z.clone();
            let (set_z, set_p) = (Write::Set(&mut z[..]), Write::Set(&mut p[..]));
            self.inner
                .curvature(at, v_target, v_prediction, set_z, set_p, work);
            (z, p)
        };
        let (z_of_z, p_of_z) = product(v_target, None);
        let (z_of_p, p_of_p) = product(None, v_prediction);
        let factor = T::of(if self.fault == F::CurvatureDoubled {
            2.0
        } else {
            1.0
        });
        let coupling = T::of(if self.fault == F::CouplingSign {
            -1.0
        } else {
            1.0
        });
        out_target.each(|i| factor * (z_of_z[i] + coupling * z_of_p[i]));
        out_prediction.each(|i| factor * (p_of_p[i] + coupling * p_of_z[i]));
    }

    fn curvature_bound(&self, parameters: &[T]) -> Option<T> {
        self.inner.curvature_bound(parameters)
    }
}

const DIM: usize = 4;

/// Three distributions, one of them one-hot.
fn distributions<T: Scalar>() -> Vec<T> {
    [
        0.1, 0.2, 0.3, 0.4, 0.0, 1.0, 0.0, 0.0, 0.25, 0.5, 0.125, 0.125,
    ]
    .map(T::of)
    .to_vec()
}

const IN_TARGET: &str = "∂L/∂z";
const IN_PREDICTION: &str = "∂L/∂ẑ";

fn faults_of_losses<T: Tested>() {
    let prediction = uniform::<T>(2, 3 * DIM);
    let target = uniform::<T>(3, 3 * DIM);
    let squared: [(LossFault, &[&str]); 5] = [
        (F::None, &[]),
        (F::TargetSign, &[IN_TARGET]),
        (F::PredictionSign, &[IN_PREDICTION]),
        (F::ValueWithoutHalf, &[IN_TARGET, IN_PREDICTION]),
        (F::MeanGradient, &[IN_TARGET, IN_PREDICTION]),
    ];
    for (fault, wrong) in squared {
        let inner = SquaredError;
        let loss = FaultyLoss { inner, fault };
        let report = GradCheck::new().loss(&loss, &Pair::new(DIM, &target, &prediction));
        assert_wrong::<T>(&report.unwrap(), wrong, loss);
    }
    let entropy: [(LossFault, &[&str]); 5] = [
        (F::None, &[]),
        (F::TargetSign, &[IN_TARGET]),
        (F::PredictionSign, &[IN_PREDICTION]),
        (F::WithoutNormalisation, &[IN_PREDICTION]),
        (F::MeanGradient, &[IN_TARGET, IN_PREDICTION]),
    ];
    for (fault, wrong) in entropy {
        let inner = SoftmaxCrossEntropy;
        let loss = FaultyLoss { inner, fault };
        let report =
            GradCheck::new().loss(&loss, &Pair::new(DIM, &distributions::<T>(), &prediction));
        assert_wrong::<T>(&report.unwrap(), wrong, loss);
    }
}

fn faults_of_curvature<T: Tested>() {
    let prediction = uniform::<T>(2, 3 * DIM);
    let (own, coupling) = (["∂²L/∂ẑ²", "∂²L/∂z²"], ["∂²L/∂z∂ẑ", "∂²L/∂ẑ∂z"]);
    let all = [own, coupling].concat();
    let squared: [(LossFault, &[&str]); 3] = [
        (F::None, &[]),
        (F::CurvatureDoubled, &all),
        (F::CouplingSign, &coupling),
    ];
    for (fault, wrong) in squared {
        let inner = SquaredError;
        let loss = FaultyLoss { inner, fault };
        let target = uniform::<T>(3, 3 * DIM);
        let report = GradCheck::new().curvature(&loss, &Pair::new(DIM, &target, &prediction), true);
        assert_wrong::<T>(&report.unwrap(), wrong, loss);
    }
    let entropy: [(LossFault, &[&str]); 2] = [(F::None, &[]), (F::CurvatureDoubled, &own[..1])];
    for (fault, wrong) in entropy {
        let inner = SoftmaxCrossEntropy;
        let loss = FaultyLoss { inner, fault };
        let target = distributions::<T>();
        let report =
            GradCheck::new().curvature(&loss, &Pair::new(DIM, &target, &prediction), false);
        assert_wrong::<T>(&report.unwrap(), wrong, loss);
    }
}

/// The faults of a VJP that a local problem and a circuit can see.
const PRODUCT_FAULTS: [(LayerFault, bool, bool); 7] = [
    // The fault, and whether it spoils the gradient in θ, in z.
    (L::None, false, false),
    (L::InputSign, false, true),
    (L::ParameterSign, true, false),
    (L::BiasDropped, true, false),
    (L::Transposed, false, true),
    (L::ActivationIgnored, true, true),
    (L::WrongSilu, true, true),
];

fn faults_in_local_problems<T: Tested>() {
    let parameters = FaultyLayer::parameters::<T>();
    let (input, target) = (uniform::<T>(4, 2 * SIDE), uniform::<T>(5, 2 * SIDE));
    let check = |layer: &dyn Layer<T>, loss: &dyn Loss<T>| {
        let weight = T::of(0.7);
        let problem = LocalProblem::new(layer, &parameters, loss, weight, &input, &target);
        GradCheck::new().local_problem(&problem.unwrap())
    };
    for (fault, in_parameters, in_input) in PRODUCT_FAULTS {
        let mut wrong = Vec::new();
        wrong.extend(in_parameters.then_some("∂ℓ/∂θ"));
        wrong.extend(in_input.then_some("∂ℓ/∂z (input)"));
        let report = check(&FaultyLayer::new(fault), &SquaredError);
        assert_wrong::<T>(&report, &wrong, fault);
    }
    let layer = FaultyLayer::new(L::None);
    let inner = SquaredError;
    let faults: [(LossFault, &[&str]); 3] = [
        (F::TargetSign, &["∂ℓ/∂z (target)"]),
        (F::PredictionSign, &["∂ℓ/∂θ", "∂ℓ/∂z (input)"]),
        (
            F::ValueWithoutHalf,
            &["∂ℓ/∂θ", "∂ℓ/∂z (input)", "∂ℓ/∂z (target)"],
        ),
    ];
    for (fault, wrong) in faults {
        let report = check(&layer, &FaultyLoss { inner, fault });
        assert_wrong::<T>(&report, wrong, fault);
    }
}

/// Three layers, the faulty one in the middle, with a faulty hidden loss.
fn check_circuit<T: Tested>(layer: LayerFault, loss: LossFault) -> GradReport {
    let outer = |i, o| Dense::new(i, o, Activation::Tanh).unwrap();
    let inner = SquaredError;
    let circuit = Circuit::<T>::builder()
        .layer(outer(2, SIDE))
        .layer(FaultyLayer::new(layer))
        .layer(outer(SIDE, 2))
        .hidden_loss(FaultyLoss { inner, fault: loss })
        .penalties(vec![T::of(0.8), T::of(1.3)])
        .seed(9)
        .build();
    let mut circuit = circuit.unwrap();
    circuit
        .set_parameters(1, &FaultyLayer::parameters())
        .unwrap();
    let mut model = DecoupledCircuit::new(circuit);
    let inputs = DMatrix::from_vec(2, 3, uniform(6, 6));
    let targets = DMatrix::from_vec(2, 3, uniform(7, 6));
    let init = TargetInit::RandomNormal { std: 1.0, seed: 8 };
    model.add_examples(&inputs, &targets, &init).unwrap();
    GradCheck::new().circuit(&model).unwrap()
}

fn faults_in_circuits<T: Tested>() {
    let (in_parameters, in_targets, by_backprop) = ("∂E/∂θ", "∂E/∂z", "∂L/∂θ by backprop");
    for (fault, spoils_parameters, spoils_targets) in PRODUCT_FAULTS {
        let mut wrong = Vec::new();
        wrong.extend(spoils_parameters.then_some(in_parameters));
        wrong.extend(spoils_targets.then_some(in_targets));
        // Backprop passes through the same product, and shows either.
        wrong.extend((spoils_parameters || spoils_targets).then_some(by_backprop));
        let report = check_circuit::<T>(fault, F::None);
        assert_wrong::<T>(&report, &wrong, fault);
    }
    // The hidden loss plays no part in backprop.
    for (fault, wrong) in [
        (F::TargetSign, &[in_targets][..]),
        (F::PredictionSign, &[in_parameters, in_targets]),
        (F::ValueWithoutHalf, &[in_parameters, in_targets]),
    ] {
        let report = check_circuit::<T>(L::None, fault);
        assert_wrong::<T>(&report, wrong, fault);
    }
}

/// Without a tape the output must have the same *bits*: a difference in the last bit, which would
/// break the exact zeros of the forward-pass start, is an error that no tolerance covers.
#[test]
fn a_last_bit_without_a_tape_is_caught() {
    #[derive(Debug)]
    struct LastBit(Dense);

    impl Layer<f64> for LastBit {
        fn input_dim(&self) -> usize {
            Layer::<f64>::input_dim(&self.0)
        }

        fn output_dim(&self) -> usize {
            Layer::<f64>::output_dim(&self.0)
        }

        fn parameters(&self) -> Vec<ParameterGroup> {
            Layer::<f64>::parameters(&self.0)
        }

        fn initialize(&self, parameters: &mut [f64], rng: &mut dyn Rng) {
            self.0.initialize(parameters, rng);
        }

        fn scratch(&self, batch: usize) -> Scratch {
            Layer::<f64>::scratch(&self.0, batch)
        }

        fn forward(
            &self,
            context: &Context<'_>,
            parameters: &[f64],
            input: &[f64],
            output: &mut [f64],
            tape: Option<&mut [f64]>,
            work: &mut [f64],
        ) {
            let tapeless = tape.is_none();
            self.0
                .forward(context, parameters, input, output, tape, work);
            if tapeless {
                output[0] = output[0].next_up();
            }
        }

        fn vjp(
            &self,
            at: &Point<'_, f64>,
            cotangent: &[f64],
            d_input: Write<'_, f64>,
            d_parameters: Write<'_, f64>,
            work: &mut [f64],
        ) {
            self.0.vjp(at, cotangent, d_input, d_parameters, work);
        }

        fn jvp(
            &self,
            at: &Point<'_, f64>,
            v_input: Option<&[f64]>,
            v_parameters: Option<&[f64]>,
            tangent: &mut [f64],
            work: &mut [f64],
        ) {
            self.0.jvp(at, v_input, v_parameters, tangent, work);
        }
    }

    let layer = LastBit(Dense::new(SIDE, SIDE, Activation::Silu).unwrap());
    let parameters = FaultyLayer::parameters::<f64>();
    let report = GradCheck::new().layer(&layer, &parameters, &uniform(1, SIDE));
    let error = report.unwrap().require(f64::TOLERANCE);
    assert!(
        matches!(&error, Err(Error::WrongDerivative { entry, .. }) if entry.derivative == TAPELESS),
        "{error:?}"
    );
}
