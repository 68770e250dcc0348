//! Every kind of check catches a planted error: layers and losses that delegate to real ones but
//! for one fault. The derivatives that the report finds wrong are exactly those that the fault
//! spoils, and without the fault the same wrapper passes.

use std::collections::BTreeSet;
use std::sync::Arc;

use layerwise::decoupled::TargetInit;
use layerwise::energy::{Energy, LocalProblem};
use layerwise::gradcheck::{GradCheck, GradReport};
use layerwise::kernel::Write;
use layerwise::layer::{Activation, Context, Dense, ParameterGroup, Point};
use layerwise::loss::{
    BinaryCrossEntropy, ClassWeights, Gaussian, Huber, KullbackLeibler, LabelSmoothing, Pair,
    Poisson, PseudoHuber, Quantile, SoftmaxCrossEntropy, SquaredError, SumOverPositions,
    WeightedBinaryCrossEntropy, WeightedCrossEntropy, WeightedSquaredError,
};
use layerwise::nalgebra::DMatrix;
use layerwise::rand::rngs::ChaCha8Rng;
use layerwise::rand::{RngExt, SeedableRng};
use layerwise::{Circuit, DecoupledCircuit, Error, Layer, Loss, Scalar};

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
const IN_BLOCKS: [&str; 2] = ["∂f/∂z in blocks", "∂f/∂θ in blocks"];
const ADDED_IN_Z: &str = "∂f/∂z added by vjp";
const ADDED_IN_PARAMETERS: &str = "∂f/∂θ added by vjp";
const TAPELESS: &str = "f without tape";
const ALONE: [&str; 4] = [
    "∂f/∂z set alone by vjp",
    "∂f/∂θ set alone by vjp",
    "∂f/∂z of columns alone",
    "∂f/∂θ of columns alone",
];

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
        &[
            IN_Z,
            IN_PARAMETERS,
            ADDED_IN_Z,
            ADDED_IN_PARAMETERS,
            ALONE[0],
            ALONE[1],
            ALONE[2],
            ALONE[3],
            IN_BLOCKS[0],
            IN_BLOCKS[1],
        ],
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
    described_by!(inner: T);

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
        let check = GradCheck::new().with_directions(6).unwrap();
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
    /// The residual itself for the slope, where it should be clipped.
    Unclipped,
    /// The curvature of a squared error.
    UnitCurvature,
    /// c(y) ∂L/∂y without L times the class weights.
    ProductRule,
    /// The inner gradient in y′ without 1 − ε.
    SmoothingDropped,
    /// The gradients of the cross entropy without weights, of units or of classes.
    UnweightedUnits,
    UnweightedClasses,
    /// ½ π r² for ∂L/∂φ, without the −½ of the logarithm.
    LogarithmDropped,
    /// ∂L/∂φ with the wrong sign.
    ParameterSign,
    /// `Write::Add` overwrites.
    AddOverwrites,
    /// `Write::Set` adds.
    SetAdds,
}

use LossFault as F;

#[derive(Debug, Clone)]
struct FaultyLoss<T: Scalar> {
    inner: Arc<dyn Loss<T>>,
    fault: LossFault,
}

impl<T: Scalar> FaultyLoss<T> {
    fn new(inner: impl Loss<T> + 'static, fault: LossFault) -> Self {
        let inner = Arc::new(inner);
        Self { inner, fault }
    }

    fn write(&self, write: Write<'_, T>, values: &[T]) {
        let write = match (self.fault, write) {
            (F::AddOverwrites, Write::Add(buffer)) => Write::Set(buffer),
            (F::SetAdds, Write::Set(buffer)) => Write::Add(buffer),
            (_, write) => write,
        };
        write.each(|i| values[i]);
    }
}

impl<T: Scalar> Loss<T> for FaultyLoss<T> {
    fn parameters(&self, dim: usize) -> Vec<ParameterGroup> {
        self.inner.parameters(dim)
    }

    fn parameter_gradient(
        &self,
        at: &Pair<'_, T>,
        factors: &[T],
        d_parameters: Write<'_, T>,
        work: &mut [T],
    ) {
        let mut d = vec![T::zero(); at.parameters.len()];
        let set = Write::Set(&mut d[..]);
        self.inner.parameter_gradient(at, factors, set, work);
        let half = T::of(0.5) * factors.iter().fold(T::zero(), |sum, &f| sum + f);
        for d in &mut d {
            match self.fault {
                F::LogarithmDropped => *d += half,
                F::ParameterSign => *d = -*d,
                _ => {}
            }
        }
        self.write(d_parameters, &d);
    }

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
            F::Unclipped => {
                for (k, (dz, dp)) in dz.iter_mut().zip(&mut dp).enumerate() {
                    *dz = at.target[k] - at.prediction[k];
                    *dp = -*dz;
                }
            }
            F::ProductRule => {
                let weights = CLASS_WEIGHTS.map(T::of);
                let columns = dz.chunks_exact_mut(DIM).zip(at.target.chunks_exact(DIM));
                for ((dz, y), &value) in columns.zip(&*values) {
                    let terms = y.iter().zip(weights);
                    let factor = terms.fold(T::zero(), |sum, (&y, w)| sum + w * y);
                    for (d, w) in dz.iter_mut().zip(weights) {
                        *d -= value / factor * w;
                    }
                }
            }
            F::UnweightedUnits | F::UnweightedClasses => {
                let (set_z, set_p) = (Write::Set(&mut dz[..]), Write::Set(&mut dp[..]));
                let plain: &dyn Loss<T> = match self.fault {
                    F::UnweightedUnits => &BinaryCrossEntropy,
                    _ => &SoftmaxCrossEntropy,
                };
                let mut values = vec![T::zero(); at.examples()];
                plain.evaluate(at, &mut values, set_z, set_p, work);
            }
            F::SmoothingDropped => all(&mut dz, 1.0 / (1.0 - EPSILON)),
            _ => {}
        }
        self.write(d_target, &dz);
        self.write(d_prediction, &dp);
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
        if self.fault == F::UnitCurvature {
            let inner = SquaredError;
            return inner.curvature(at, v_target, v_prediction, out_target, out_prediction, work);
        }
        let if_fault = |fault, factor| T::of(if self.fault == fault { factor } else { 1.0 });
        let factor = if_fault(F::CurvatureDoubled, 2.0);
        let coupling = if_fault(F::CouplingSign, -1.0);
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

const CLASS_WEIGHTS: [f64; DIM] = [0.5, 1.0, 2.0, 3.0];
const EPSILON: f64 = 0.3;

const IN_TARGET: &str = "∂L/∂z";
const IN_PREDICTION: &str = "∂L/∂ẑ";
const IN_PHI: &str = "∂L/∂φ";
const ADDED: [&str; 3] = ["∂L/∂z added", "∂L/∂ẑ added", "∂L/∂φ added"];

/// A loss, its targets and parameters, and the faults of its own kind with what they spoil.
struct LossSubject<T: Scalar> {
    loss: Arc<dyn Loss<T>>,
    target: Vec<T>,
    parameters: Vec<T>,
    own: &'static [(LossFault, &'static [&'static str])],
}

/// Every loss on three examples of [`DIM`] units.
fn loss_subjects<T: Tested>() -> Vec<LossSubject<T>> {
    fn subject<T: Tested>(
        loss: impl Loss<T> + 'static,
        target: &[T],
        own: &'static [(LossFault, &'static [&'static str])],
    ) -> LossSubject<T> {
        LossSubject {
            loss: Arc::new(loss),
            target: target.to_vec(),
            parameters: Vec::new(),
            own,
        }
    }
    let free = uniform::<T>(3, 3 * DIM);
    let fixed = distributions::<T>();
    // Where ln y exists, with room for differences.
    let inside: Vec<T> = fixed
        .iter()
        .map(|&y| T::of(0.5) * y + T::of(0.125))
        .collect();
    let weights = CLASS_WEIGHTS.map(T::of).to_vec();
    let floor = T::of(0.1);
    let learned = subject(
        Gaussian::learned(T::one(), floor).unwrap(),
        &free,
        &[
            (F::ValueWithoutHalf, &[IN_TARGET, IN_PREDICTION, IN_PHI]),
            (F::LogarithmDropped, &[IN_PHI]),
            (F::ParameterSign, &[IN_PHI]),
        ],
    );
    let shared = subject(
        Gaussian::learned_shared(T::one(), floor).unwrap(),
        &free,
        &[(F::ParameterSign, &[IN_PHI])],
    );
    let without_half: &[(LossFault, &[&str])] =
        &[(F::ValueWithoutHalf, &[IN_TARGET, IN_PREDICTION])];
    let clipped: &[(LossFault, &[&str])] = &[(F::Unclipped, &[IN_TARGET, IN_PREDICTION])];
    let softmax: &[(LossFault, &[&str])] = &[(F::WithoutNormalisation, &[IN_PREDICTION])];
    let smoothing = LabelSmoothing::new(SoftmaxCrossEntropy, EPSILON).unwrap();
    let classes = ClassWeights::new(weights.clone(), SoftmaxCrossEntropy).unwrap();
    vec![
        subject(SquaredError, &free, without_half),
        subject(
            WeightedSquaredError::new(weights.clone()).unwrap(),
            &free,
            without_half,
        ),
        subject(Huber::new(0.4).unwrap(), &free, clipped),
        subject(PseudoHuber::new(0.4).unwrap(), &free, clipped),
        subject(Gaussian::new(weights.clone()).unwrap(), &free, without_half),
        LossSubject {
            parameters: uniform(10, DIM),
            ..learned
        },
        LossSubject {
            parameters: uniform(10, 1),
            ..shared
        },
        subject(SoftmaxCrossEntropy, &fixed, softmax),
        subject(KullbackLeibler, &inside, softmax),
        subject(BinaryCrossEntropy, &fixed, &[]),
        subject(Poisson, &fixed, &[]),
        subject(smoothing, &fixed, &[(F::SmoothingDropped, &[IN_TARGET])]),
        subject(classes, &fixed, &[(F::ProductRule, &[IN_TARGET])]),
        subject(
            WeightedBinaryCrossEntropy::new(weights.clone()).unwrap(),
            &fixed,
            &[(F::UnweightedUnits, &[IN_TARGET, IN_PREDICTION])],
        ),
        subject(
            WeightedCrossEntropy::new(weights).unwrap(),
            &fixed,
            &[(F::UnweightedClasses, &[IN_TARGET, IN_PREDICTION])],
        ),
        subject(
            LabelSmoothing::binary(BinaryCrossEntropy, EPSILON).unwrap(),
            &fixed,
            &[(F::SmoothingDropped, &[IN_TARGET])],
        ),
        subject(Quantile::new(0.3).unwrap(), &free, clipped),
        subject(
            SumOverPositions::new(2, SquaredError).unwrap(),
            &free,
            without_half,
        ),
    ]
}

impl<T: Tested> LossSubject<T> {
    fn at<'a>(&'a self, prediction: &'a [T]) -> Pair<'a, T> {
        Pair::new(DIM, &self.target, prediction).with_parameters(&self.parameters)
    }

    fn with(&self, fault: LossFault) -> FaultyLoss<T> {
        let inner = self.loss.clone();
        FaultyLoss { inner, fault }
    }
}

fn faults_of_losses<T: Tested>() {
    let prediction = uniform::<T>(2, 3 * DIM);
    for subject in loss_subjects::<T>() {
        let kinds = if subject.parameters.is_empty() { 2 } else { 3 };
        let all = [
            &[IN_TARGET, IN_PREDICTION, IN_PHI][..kinds],
            &ADDED[..kinds],
            &["L of columns alone"],
        ]
        .concat();
        let common: [(LossFault, &[&str]); 6] = [
            (F::None, &[]),
            (F::TargetSign, &[IN_TARGET]),
            (F::PredictionSign, &[IN_PREDICTION]),
            (F::MeanGradient, &[IN_TARGET, IN_PREDICTION]),
            (F::AddOverwrites, &ADDED[..kinds]),
            // Added to NaN, a result stays NaN.
            (F::SetAdds, &all),
        ];
        for (fault, wrong) in common.iter().chain(subject.own) {
            let loss = subject.with(*fault);
            let report = GradCheck::new().loss(&loss, &subject.at(&prediction));
            assert_wrong::<T>(&report.unwrap(), wrong, loss);
        }
    }
}

fn faults_of_curvature<T: Tested>() {
    let prediction = uniform::<T>(2, 3 * DIM);
    let (own, coupling) = (["∂²L/∂ẑ²", "∂²L/∂z²"], ["∂²L/∂z∂ẑ", "∂²L/∂ẑ∂z"]);
    let all = [own, coupling].concat();
    for subject in loss_subjects::<T>() {
        // Where the target is fixed, the curvature has the prediction's block alone.
        let joint = subject.loss.free_target();
        let spoiled = if joint { &all[..] } else { &own[..1] };
        let mut faults: Vec<(LossFault, &[&str])> = vec![(F::None, &[])];
        let name = format!("{:?}", subject.loss);
        // Twice nothing, and its negative, are nothing.
        if !name.starts_with("Quantile") {
            faults.push((F::CurvatureDoubled, spoiled));
            if joint {
                faults.push((F::CouplingSign, &coupling));
            }
        }
        // Of squared error it is the right one.
        if !subject.loss.is_squared_error() {
            faults.push((F::UnitCurvature, spoiled));
        }
        for (fault, wrong) in faults {
            let loss = subject.with(fault);
            let report = GradCheck::new().curvature(&loss, &subject.at(&prediction), joint);
            let mut report = report.unwrap();
            if fault != F::None {
                // A wrong curvature may lie above the bound, too.
                report.worst.retain(|e| e.derivative != "curvature bound");
            }
            assert_wrong::<T>(&report, wrong, loss);
        }
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
    let faults: [(LossFault, &[&str]); 3] = [
        (F::TargetSign, &["∂ℓ/∂z (target)"]),
        (F::PredictionSign, &["∂ℓ/∂θ", "∂ℓ/∂z (input)"]),
        (
            F::ValueWithoutHalf,
            &["∂ℓ/∂θ", "∂ℓ/∂z (input)", "∂ℓ/∂z (target)"],
        ),
    ];
    for (fault, wrong) in faults {
        let report = check(&layer, &FaultyLoss::new(SquaredError, fault));
        assert_wrong::<T>(&report, wrong, fault);
    }
}

/// Three layers, the faulty one in the middle, with a faulty hidden loss.
fn check_circuit<T: Tested>(layer: LayerFault, loss: LossFault) -> GradReport {
    let outer = |i, o| Dense::new(i, o, Activation::Tanh).unwrap();
    let circuit = Circuit::<T>::builder()
        .layer(outer(2, SIDE))
        .layer(FaultyLayer::new(layer))
        .layer(outer(SIDE, 2))
        .seed(9)
        .build();
    let energy = Energy::default()
        .with_hidden_loss(FaultyLoss::new(SquaredError, loss))
        .with_penalties(vec![T::of(0.8), T::of(1.3)]);
    let mut circuit = circuit.unwrap();
    circuit
        .set_parameters(1, &FaultyLayer::parameters())
        .unwrap();
    let mut model = DecoupledCircuit::new(circuit, energy).unwrap();
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
