//! The gradient check guards the whole contract of layers and losses: every fault but those of the
//! derivatives themselves (`planted_errors`) is caught under its own name, and nothing else is.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::property::Tested;
use layerwise::decoupled::{DecoupledCircuit, TargetInit};
use layerwise::energy::Energy;
use layerwise::gradcheck::{GradCheck, GradReport};
use layerwise::kernel::{Execution, Write, WriteColumns};
use layerwise::layer::{
    Activation, Affine, Context, Dense, ParameterGroup, Patchwise, Point, Scratch, Shape, Unfold,
};
use layerwise::loss::{Pair, SquaredError};
use layerwise::nalgebra::DMatrix;
use layerwise::rand::Rng;
use layerwise::{Circuit, Error, Layer, Loss, Scalar};

const BOUND: &str = "curvature bound";

fn failing(report: &GradReport) -> BTreeSet<&'static str> {
    let failing = report.worst.iter().filter(|entry| entry.error > 1e-6);
    failing.map(|entry| entry.derivative).collect()
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// The bound of ‖∂f/∂z‖² times this.
    Bound(f64),
    /// Work memory is read in the VJP as if `forward` had left something there.
    StaleWork,
    /// Less memory for a larger batch.
    ShrinkingScratch,
    /// Work memory for the bound that grows with the batch.
    GrowingBound,
    /// `∂f/∂z` is doubled if the parameters' product is skipped.
    SkipDoubles,
    /// J v without the part of θ, if both directions are given.
    OneOfBoth,
    /// J v is not written without a direction.
    NothingUnwritten,
    /// The wrong activation.
    WrongAffine,
}

/// A dense layer with the default JVP, or a fault.
#[derive(Debug)]
struct Faulty {
    inner: Dense,
    fault: Fault,
}

impl Faulty {
    fn new(fault: Fault) -> Self {
        let inner = Dense::new(2, 3, Activation::Tanh).unwrap();
        Self { inner, fault }
    }

    fn report(fault: Fault) -> GradReport {
        let parameters = [0.4, -0.7, 0.3, 0.9, 0.2, -0.5, 0.1, -0.3, 0.6];
        let input = [0.3, -0.8, 1.1, 0.5, -0.2, 0.7];
        let report = GradCheck::new().layer(&Self::new(fault), &parameters, &input);
        report.unwrap()
    }
}

impl Layer<f64> for Faulty {
    fn input_shape(&self) -> Shape {
        self.inner.input_shape()
    }

    fn output_shape(&self) -> Shape {
        self.inner.output_shape()
    }

    fn parameters(&self) -> Vec<ParameterGroup> {
        self.inner.parameters()
    }

    fn initialize(&self, parameters: &mut [f64], rng: &mut dyn Rng) {
        self.inner.initialize(parameters, rng);
    }

    fn scratch(&self, batch: usize) -> Scratch {
        let own = self.inner.scratch(batch);
        match self.fault {
            Fault::ShrinkingScratch => Scratch::new(own.tape, own.work + 90 / batch).with_bound(8),
            Fault::GrowingBound => own.with_bound(own.bound + batch),
            _ => own,
        }
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
        let inner = &self.inner;
        inner.forward(context, parameters, input, output, tape, work);
        work[0] = 1.0;
    }

    fn vjp(
        &self,
        at: &Point<'_, f64>,
        cotangent: &[f64],
        mut d_input: Write<'_, f64>,
        d_parameters: Write<'_, f64>,
        work: &mut [f64],
    ) {
        let factor = match self.fault {
            Fault::StaleWork => work[0],
            Fault::SkipDoubles if d_parameters.is_skip() => 2.0,
            _ => 1.0,
        };
        let g: Vec<f64> = cotangent.iter().map(|g| factor * g).collect();
        let own = d_input.part(0..d_input.len());
        self.inner.vjp(at, &g, own, Write::Skip, work);
        self.inner
            .vjp(at, cotangent, Write::Skip, d_parameters, work);
    }

    fn jvp(
        &self,
        at: &Point<'_, f64>,
        v_input: Option<&[f64]>,
        v_parameters: Option<&[f64]>,
        tangent: &mut [f64],
        work: &mut [f64],
    ) {
        let (z, p) = (v_input, v_parameters);
        match self.fault {
            Fault::OneOfBoth if z.is_some() => self.inner.jvp(at, z, None, tangent, work),
            Fault::NothingUnwritten if z.is_none() && p.is_none() => {}
            _ => self.inner.jvp(at, z, p, tangent, work),
        }
    }

    fn curvature_bound(&self, parameters: &[f64], work: &mut [f64]) -> Option<f64> {
        let bound = self.inner.curvature_bound(parameters, work);
        match self.fault {
            Fault::Bound(factor) => bound.map(|bound| factor * bound),
            _ => bound,
        }
    }

    fn affine(&self) -> Option<Affine> {
        let mut affine = self.inner.affine()?;
        if self.fault == Fault::WrongAffine {
            affine.activation = Activation::Identity;
        }
        Some(affine)
    }
}

#[test]
fn every_fault_of_a_layer_is_caught() {
    let z = [
        "∂f/∂z by vjp",
        "∂f/∂z added by vjp",
        "∂f/∂z set alone by vjp",
    ];
    let faults: [(Fault, &[&str]); 11] = [
        (Fault::None, &[]),
        (Fault::Bound(1e-4), &[BOUND]),
        (Fault::Bound(0.0), &[BOUND]),
        (Fault::Bound(-1.0), &[BOUND]),
        (Fault::Bound(f64::NAN), &[BOUND]),
        (Fault::ShrinkingScratch, &["scratch of a larger batch"]),
        (Fault::GrowingBound, &["scratch of a larger batch"]),
        (Fault::SkipDoubles, &z[1..]),
        (Fault::OneOfBoth, &["both directions by jvp"]),
        (Fault::NothingUnwritten, &["no direction by jvp"]),
        (Fault::WrongAffine, &["f by `affine`"]),
    ];
    for (fault, wrong) in faults {
        let report = Faulty::report(fault);
        let expected: BTreeSet<&str> = wrong.iter().copied().collect();
        assert_eq!(failing(&report), expected, "{fault:?}: {report}");
        assert_eq!(report.require(1e-6).is_ok(), wrong.is_empty());
    }
    let stale = failing(&Faulty::report(Fault::StaleWork));
    assert!(z.iter().all(|name| stale.contains(name)), "{stale:?}");
}

/// ẑ = 10 z, with the bound .01, and ẑᵢ = zᵢ − mean of the batch, rightly differentiated.
#[derive(Debug)]
enum Planted {
    Tenfold {
        bound: f64,
    },
    Centring,
    /// In training, twice the inputs of even examples and none of the odd ones; the VJP perhaps
    /// forgets this.
    Dropout {
        forgets: bool,
    },
    /// Without anything to differentiate.
    Constant,
}

impl Planted {
    fn apply(&self, context: &Context<'_>, from: &[f64], to: Write<'_, f64>) {
        let mean = from.iter().sum::<f64>() / from.len() as f64;
        to.each(|i| match self {
            Self::Tenfold { .. } => 10.0 * from[i],
            Self::Centring => from[i] - mean,
            Self::Dropout { .. } if !context.training => from[i],
            Self::Dropout { .. } if context.examples[i].is_multiple_of(2) => 2.0 * from[i],
            Self::Dropout { .. } => 0.0,
            Self::Constant => 0.0,
        });
    }
}

impl Layer<f64> for Planted {
    fn input_shape(&self) -> Shape {
        1.into()
    }

    fn output_shape(&self) -> Shape {
        1.into()
    }

    fn parameters(&self) -> Vec<ParameterGroup> {
        Vec::new()
    }

    fn initialize(&self, _: &mut [f64], _: &mut dyn Rng) {}

    fn scratch(&self, _: usize) -> Scratch {
        Scratch::NONE
    }

    fn input_differentiable(&self) -> bool {
        !matches!(self, Self::Constant)
    }

    fn forward(
        &self,
        context: &Context<'_>,
        _: &[f64],
        input: &[f64],
        output: &mut [f64],
        _: Option<&mut [f64]>,
        _: &mut [f64],
    ) {
        self.apply(context, input, Write::Set(output));
    }

    // All of these maps are symmetric.
    fn vjp(
        &self,
        at: &Point<'_, f64>,
        cotangent: &[f64],
        d_input: Write<'_, f64>,
        _: Write<'_, f64>,
        _: &mut [f64],
    ) {
        match self {
            Self::Dropout { forgets: true } => d_input.each(|i| cotangent[i]),
            _ => self.apply(&at.context, cotangent, d_input),
        }
    }

    fn jvp(
        &self,
        at: &Point<'_, f64>,
        v_input: Option<&[f64]>,
        _: Option<&[f64]>,
        tangent: &mut [f64],
        _: &mut [f64],
    ) {
        match v_input {
            None => tangent.fill(0.0),
            Some(v) => self.apply(&at.context, v, Write::Set(tangent)),
        }
    }

    fn curvature_bound(&self, _: &[f64], _: &mut [f64]) -> Option<f64> {
        match self {
            Self::Tenfold { bound } => Some(*bound),
            _ => None,
        }
    }
}

/// sin z, in blocks. In one of its functions, every block reads from the beginning.
#[derive(Debug)]
struct Blocks {
    wrong: &'static str,
}

impl Blocks {
    fn write(
        &self,
        name: &str,
        execution: Execution,
        out: Write<'_, f64>,
        value: impl Fn(usize) -> f64 + Sync,
    ) {
        let (n, data) = (out.len() / 3, WriteColumns::new(out, 3));
        execution.for_each_block(n, 3, data, |range, out| {
            // Layers often share out scratch memory on this assumption.
            assert!(range.len() >= 16 || range.len() == n);
            let start = if name == self.wrong { 0 } else { range.start };
            out.write.each(|i| value(3 * start + i));
        });
    }
}

impl Layer<f64> for Blocks {
    fn input_shape(&self) -> Shape {
        3.into()
    }

    fn output_shape(&self) -> Shape {
        3.into()
    }

    fn parameters(&self) -> Vec<ParameterGroup> {
        Vec::new()
    }

    fn initialize(&self, _: &mut [f64], _: &mut dyn Rng) {}

    fn scratch(&self, _: usize) -> Scratch {
        Scratch::NONE
    }

    fn forward(
        &self,
        context: &Context<'_>,
        _: &[f64],
        input: &[f64],
        output: &mut [f64],
        _: Option<&mut [f64]>,
        _: &mut [f64],
    ) {
        let out = Write::Set(output);
        self.write("f", context.execution, out, |i| input[i].sin());
    }

    fn vjp(
        &self,
        at: &Point<'_, f64>,
        cotangent: &[f64],
        d_input: Write<'_, f64>,
        _: Write<'_, f64>,
        _: &mut [f64],
    ) {
        let value = |i: usize| at.input[i].cos() * cotangent[i];
        self.write("∂f/∂z", at.context.execution, d_input, value);
    }

    fn jvp(
        &self,
        at: &Point<'_, f64>,
        v_input: Option<&[f64]>,
        _: Option<&[f64]>,
        tangent: &mut [f64],
        _: &mut [f64],
    ) {
        let value = |i: usize| v_input.map_or(0.0, |v| at.input[i].cos() * v[i]);
        let out = Write::Set(tangent);
        self.write("jvp", at.context.execution, out, value);
    }
}

#[test]
fn a_block_that_forgets_where_it_begins_is_caught() {
    let faults = [
        ("", None),
        ("f", Some("f in blocks")),
        ("∂f/∂z", Some("∂f/∂z in blocks")),
        ("jvp", Some("jvp in blocks")),
    ];
    for (wrong, name) in faults {
        for n in [1, 2, 40] {
            let input: Vec<f64> = (0..3 * n).map(|i| (0.7 * i as f64).cos()).collect();
            let report = GradCheck::new().layer(&Blocks { wrong }, &[], &input);
            let report = report.unwrap();
            assert_eq!(failing(&report), name.into_iter().collect(), "{report}");
        }
    }
}

/// Windows of 4 neighbours, copied as ranges; the copies may ignore where the entries or positions begin.
#[derive(Debug)]
struct Copied {
    entries: bool,
    positions: bool,
}

impl Unfold for Copied {
    fn input_shape(&self) -> Shape {
        9.into()
    }

    fn patch_len(&self) -> usize {
        4
    }

    fn positions(&self) -> Shape {
        6.into()
    }

    fn source(&self, entry: usize, position: usize) -> Option<usize> {
        Some(entry + position)
    }

    fn unfold<T: Scalar>(
        &self,
        input: &[T],
        entries: Range<usize>,
        positions: Range<usize>,
        patches: &mut [T],
    ) {
        let of = |range: &Range<usize>, heeded| if heeded { range.start } else { 0 };
        let start = of(&entries, self.entries) + of(&positions, self.positions);
        for (p, patch) in patches.chunks_exact_mut(entries.len()).enumerate() {
            patch.copy_from_slice(&input[start + p..][..entries.len()]);
        }
    }
}

/// ẑ = ln z, which is NaN for other columns that the check might choose.
#[derive(Debug)]
struct Logarithm;

impl Layer<f64> for Logarithm {
    fn input_shape(&self) -> Shape {
        1.into()
    }

    fn output_shape(&self) -> Shape {
        1.into()
    }

    fn parameters(&self) -> Vec<ParameterGroup> {
        Vec::new()
    }

    fn scratch(&self, _: usize) -> Scratch {
        Scratch::NONE
    }

    fn initialize(&self, _: &mut [f64], _: &mut dyn Rng) {}

    fn forward(
        &self,
        _: &Context<'_>,
        _: &[f64],
        input: &[f64],
        output: &mut [f64],
        _: Option<&mut [f64]>,
        _: &mut [f64],
    ) {
        output.iter_mut().zip(input).for_each(|(y, z)| *y = z.ln());
    }

    fn vjp(
        &self,
        at: &Point<'_, f64>,
        cotangent: &[f64],
        d_input: Write<'_, f64>,
        _: Write<'_, f64>,
        _: &mut [f64],
    ) {
        d_input.each(|i| cotangent[i] / at.input[i]);
    }

    fn jvp(
        &self,
        at: &Point<'_, f64>,
        v_input: Option<&[f64]>,
        _: Option<&[f64]>,
        tangent: &mut [f64],
        _: &mut [f64],
    ) {
        tangent.fill(0.0);
        let pairs = v_input.unwrap_or_default().iter().zip(at.input);
        for (t, (v, z)) in tangent.iter_mut().zip(pairs) {
            *t = v / z;
        }
    }
}

#[test]
fn a_layer_that_is_not_defined_everywhere_passes() {
    for n in [1, 2, 20, 40] {
        let input: Vec<f64> = (0..n).map(|i| 0.5 + 0.05 * f64::from(i)).collect();
        let report = GradCheck::new().layer(&Logarithm, &[], &input).unwrap();
        assert!(failing(&report).is_empty(), "{n}: {report}");
    }
}

#[test]
fn patches_that_forget_where_a_part_begins_are_caught() {
    for (entries, positions, names) in [
        (true, true, &[][..]),
        (false, true, &["∂f/∂θ in blocks"]),
        (true, false, &["f in blocks", "jvp in blocks"]),
    ] {
        let unfold = Copied { entries, positions };
        let layer = Patchwise::over(unfold, 2, Activation::Identity).unwrap();
        let parameters: Vec<f64> = (0..10).map(|i| (1.3 * f64::from(i)).sin()).collect();
        let input: Vec<f64> = (0..18).map(|i| (0.7 * f64::from(i)).cos()).collect();
        let report = GradCheck::new().layer(&layer, &parameters, &input).unwrap();
        assert_eq!(
            failing(&report),
            names.iter().copied().collect(),
            "{report}"
        );
    }
}

#[test]
fn a_false_bound_of_a_layer_is_caught_with_both_numbers() {
    let check = |bound| GradCheck::new().layer(&Planted::Tenfold { bound }, &[], &[0.5, -2.0]);
    let error = check(0.01).unwrap().require(1e-6).unwrap_err();
    let Error::WrongDerivative { entry, .. } = error else {
        panic!("{error}");
    };
    assert_eq!((entry.derivative, entry.analytic), (BOUND, 0.01));
    assert!((entry.numeric - 100.0).abs() < 1e-6, "{entry}");
    check(100.0).unwrap().require(1e-6).unwrap();
    check(99.0).unwrap().require(1e-6).unwrap_err();
    check(f64::INFINITY).unwrap().require(1e-6).unwrap();
}

#[test]
fn a_layer_that_mixes_examples_is_caught() {
    // One example, or several that are alike, are put beside others.
    for input in [&[0.5, -2.0, 0.25][..], &[1.0, 1.0], &[0.7]] {
        let report = GradCheck::new().layer(&Planted::Centring, &[], input);
        let failing = failing(&report.unwrap());
        assert!(failing.contains("f of columns alone"), "{failing:?}");
        assert!(!failing.contains("∂f/∂z by vjp"), "{failing:?}");
    }
}

#[test]
fn a_mask_that_is_forgotten_in_training_is_caught() {
    let wrong = |report: GradReport| -> BTreeSet<_> {
        let wrong = report.worst.into_iter().filter(|entry| entry.error > 1e-6);
        let wrong = wrong.map(|entry| (entry.derivative, entry.layer, entry.training));
        wrong.collect()
    };
    let input = [0.5, -2.0, 0.25];
    let layer = |forgets| {
        let dropout = Planted::Dropout { forgets };
        wrong(GradCheck::new().layer(&dropout, &[], &input).unwrap())
    };
    assert_eq!(layer(false), BTreeSet::new());
    assert_eq!(layer(true), [("∂f/∂z by vjp", None, true)].into());
    let circuit = |forgets| {
        let dense = || Dense::new(1, 1, Activation::Tanh).unwrap();
        let circuit = Circuit::builder().layer(dense());
        let circuit = circuit.layer(Planted::Dropout { forgets }).layer(dense());
        let circuit = circuit.build().unwrap();
        let mut model = DecoupledCircuit::new(circuit, Energy::default()).unwrap();
        let x = DMatrix::from_row_slice(1, 3, &input);
        let init = TargetInit::NoisyForwardPass { std: 0.5, seed: 1 };
        model.add_examples(&x, &x, &init).unwrap();
        wrong(GradCheck::new().circuit(&model).unwrap())
    };
    assert_eq!(circuit(false), BTreeSet::new());
    let own = ("∂E/∂z", Some(1), true);
    let backprop = ("∂L/∂θ by backprop", Some(0), true);
    assert_eq!(circuit(true), [own, backprop].into());
}

#[test]
fn comparing_nothing_is_an_error() {
    let none = GradCheck::new().with_directions(0).unwrap_err();
    assert!(matches!(none, Error::InvalidOption { .. }), "{none}");
    let empty = GradReport::default().require(1.0);
    assert_eq!(empty, Err(Error::NothingCompared));
    let report = GradCheck::new().layer(&Planted::Constant, &[], &[1.0, 2.0]);
    let report = report.unwrap();
    assert!(report.compared > 0 && report.derivatives == 0);
    assert_eq!(report.require(1.0), Err(Error::NothingCompared));
    // Nor is a tolerance that no error exceeds a pass.
    let good = Faulty::report(Fault::None);
    assert!(good.require(f64::NAN).is_err());
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum LossFault {
    None,
    /// The bound ½ of a squared error.
    Bound,
    /// |z − ẑ| with the bound 0: right beside the kink, not across it.
    Kink,
    /// Each example's value is the mean of the batch.
    Mixing,
    /// The values are doubled if the gradient in ẑ is wanted.
    Doubling,
    /// C v is 0 in ẑ if its part in z is skipped.
    Skipping,
    /// C v in ẑ replaces what it should be added to.
    Replacing,
}

#[derive(Debug)]
struct FaultyLoss(LossFault);

impl Loss<f64> for FaultyLoss {
    fn free_target(&self) -> bool {
        true
    }

    fn scratch(&self, _: usize, _: usize) -> usize {
        0
    }

    fn evaluate(
        &self,
        at: &Pair<'_, f64>,
        values: &mut [f64],
        d_target: Write<'_, f64>,
        d_prediction: Write<'_, f64>,
        work: &mut [f64],
    ) {
        if self.0 == LossFault::Kink {
            let residual = |i: usize| at.target[i] - at.prediction[i];
            for (i, value) in values.iter_mut().enumerate() {
                *value = (i * at.dim..(i + 1) * at.dim)
                    .map(|i| residual(i).abs())
                    .sum();
            }
            d_target.each(|i| residual(i).signum());
            return d_prediction.each(|i| -residual(i).signum());
        }
        let doubles = self.0 == LossFault::Doubling && !d_prediction.is_skip();
        SquaredError.evaluate(at, values, d_target, d_prediction, work);
        if doubles {
            values.iter_mut().for_each(|value| *value *= 2.0);
        }
        if self.0 == LossFault::Mixing {
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            values.fill(mean);
        }
    }

    fn curvature(
        &self,
        at: &Pair<'_, f64>,
        v_target: Option<&[f64]>,
        v_prediction: Option<&[f64]>,
        out_target: Write<'_, f64>,
        out_prediction: Write<'_, f64>,
        work: &mut [f64],
    ) {
        if self.0 == LossFault::Kink {
            out_target.each(|_| 0.0);
            return out_prediction.each(|_| 0.0);
        }
        let (target, mut prediction) = (out_target, out_prediction);
        if self.0 == LossFault::Skipping && target.is_skip() {
            return prediction.each(|_| 0.0);
        }
        if let (LossFault::Replacing, Write::Add(sum)) =
            (self.0, prediction.part(0..at.target.len()))
        {
            let set = Write::Set(sum);
            return SquaredError.curvature(at, v_target, v_prediction, target, set, work);
        }
        SquaredError.curvature(at, v_target, v_prediction, target, prediction, work);
    }

    fn curvature_bound(&self, _: &[f64]) -> Option<f64> {
        Some(match self.0 {
            LossFault::Bound => 0.5,
            LossFault::Kink => 0.0,
            _ => 1.0,
        })
    }
}

#[test]
fn faults_of_a_loss_are_caught() {
    let (target, prediction) = ([0.3, -0.5, 0.2, 0.9], [0.35, -0.45, 0.15, 0.95]);
    let at = Pair::new(2, &target, &prediction);
    let parts = ["C v in ẑ set alone", "C v in ẑ added"];
    let faults: [(LossFault, &[&str], &[&str]); 7] = [
        (LossFault::None, &[], &[]),
        (LossFault::Bound, &[], &[BOUND]),
        (LossFault::Kink, &[], &[BOUND]),
        (LossFault::Mixing, &["L of columns alone"], &[]),
        (LossFault::Doubling, &["L beside gradients"], &[]),
        (LossFault::Skipping, &[], &parts),
        (LossFault::Replacing, &[], &parts[1..]),
    ];
    for (fault, of_loss, of_curvature) in faults {
        let (check, loss) = (GradCheck::new(), FaultyLoss(fault));
        let reports = [
            (check.loss(&loss, &at), of_loss),
            (check.curvature(&loss, &at, true), of_curvature),
        ];
        for (report, wrong) in reports {
            let report = report.unwrap();
            let expected: BTreeSet<&str> = wrong.iter().copied().collect();
            assert_eq!(failing(&report), expected, "{fault:?}: {report}");
        }
    }
}

/// ½ ‖z − ẑ‖² times a factor, called squared error.
#[derive(Debug)]
struct Scaled(f64);

impl<T: Scalar> Loss<T> for Scaled {
    fn is_squared_error(&self) -> bool {
        true
    }

    fn evaluate(
        &self,
        at: &Pair<'_, T>,
        values: &mut [T],
        d_target: Write<'_, T>,
        d_prediction: Write<'_, T>,
        _: &mut [T],
    ) {
        let factor = T::of(self.0);
        let error = |i: usize| factor * (at.target[i] - at.prediction[i]);
        for (j, value) in values.iter_mut().enumerate() {
            let own = j * at.dim..(j + 1) * at.dim;
            let squares = own.map(|i| error(i) * (at.target[i] - at.prediction[i]));
            *value = T::of(0.5) * squares.fold(T::zero(), |sum, square| sum + square);
        }
        d_target.each(&error);
        d_prediction.each(|i| -error(i));
    }

    fn curvature(
        &self,
        _: &Pair<'_, T>,
        v_target: Option<&[T]>,
        v_prediction: Option<&[T]>,
        out_target: Write<'_, T>,
        out_prediction: Write<'_, T>,
        _: &mut [T],
    ) {
        let of = |v: Option<&[T]>, i: usize| v.map_or(T::zero(), |v| v[i]);
        let difference = |i| T::of(self.0) * (of(v_target, i) - of(v_prediction, i));
        out_target.each(&difference);
        out_prediction.each(|i| -difference(i));
    }
}

fn a_false_squared_error<T: Tested>() {
    let [target, prediction] = [[0.3, -0.5, 0.2, 0.9], [0.1, -0.1, 0.6, 0.95]];
    let [target, prediction] = [target, prediction].map(|all| all.map(T::of));
    let at = Pair::new(2, &target, &prediction);
    let report = |factor| GradCheck::new().loss::<T>(&Scaled(factor), &at).unwrap();
    report(1.0).require(T::GRADIENT).unwrap();
    let report = report(3.0);
    let wrong = report.worst.iter().filter(|own| own.error > T::GRADIENT);
    let wrong: BTreeSet<_> = wrong.map(|own| own.derivative).collect();
    let claims = [
        "L as squared error",
        "∂L/∂z as squared error",
        "∂L/∂ẑ as squared error",
    ];
    assert_eq!(wrong, BTreeSet::from(claims), "{report}");
    assert!(report.require(0.5).is_err());
}

in_both_scalars!(a_false_squared_error);

/// ½ ‖r‖² + ½ (c·r)², or ½ ‖r‖² + ½ (c·z)² of the `targets` alone, which depend on units together, called a sum
/// over the units. The couplings c are 0 in all but two `units`.
#[derive(Debug)]
struct Coupled {
    units: [usize; 2],
    targets: bool,
}

impl<T: Scalar> Loss<T> for Coupled {
    fn is_sum_over_units(&self) -> bool {
        true
    }

    fn evaluate(
        &self,
        at: &Pair<'_, T>,
        values: &mut [T],
        mut d_target: Write<'_, T>,
        mut d_prediction: Write<'_, T>,
        work: &mut [T],
    ) {
        let all = 0..at.target.len();
        let to_target = d_target.part(all.clone());
        let to_prediction = d_prediction.part(all);
        SquaredError.evaluate(at, values, to_target, to_prediction, work);
        for (i, value) in values.iter_mut().enumerate() {
            let places = self.units.map(|j| i * at.dim + j);
            let factor = T::of(if self.targets { 0.0 } else { 1.0 });
            let [a, b] = places.map(|k| at.target[k] - factor * at.prediction[k]);
            let sum = if places[0] == places[1] { a } else { a + b };
            *value += T::of(0.5) * sum * sum;
            let mut add = |place: usize| {
                let of_unit = |out: &mut Write<'_, T>, slope: T| {
                    if let Write::Set(own) | Write::Add(own) = out {
                        own[place] += slope;
                    }
                };
                of_unit(&mut d_target, sum);
                of_unit(&mut d_prediction, -factor * sum);
            };
            add(places[0]);
            if places[0] != places[1] {
                add(places[1]);
            }
        }
    }

    fn curvature(
        &self,
        _: &Pair<'_, T>,
        _: Option<&[T]>,
        _: Option<&[T]>,
        _: Write<'_, T>,
        _: Write<'_, T>,
        _: &mut [T],
    ) {
        unreachable!("only the gradients are checked")
    }
}

/// Any two units that depend on each other are seen, in one example too, and where all targets are equal.
fn a_false_sum_over_units<T: Tested>() {
    let wave = |k: usize, by: f64| T::of((by * k as f64).sin());
    let cases = [2, 3, 6].map(|dim| [true, false].map(|equal| (dim, equal)));
    for (dim, equal) in cases.into_iter().flatten() {
        let [mut target, prediction]: [Vec<T>; 2] =
            [0.9, 1.7].map(|by| (0..dim).map(|k| wave(k, by)).collect());
        if equal {
            target.fill(T::of(0.5));
        }
        let at = Pair::new(dim, &target, &prediction);
        let pairs = (0..dim).flat_map(|a| (a..dim).map(move |b| [a, b]));
        for (units, targets) in pairs.flat_map(|own| [(own, true), (own, false)]) {
            let loss = Coupled { units, targets };
            let report = GradCheck::new().loss::<T>(&loss, &at).unwrap();
            let wrong = report.worst.iter().filter(|own| own.error > T::GRADIENT);
            let wrong: BTreeSet<_> = wrong.map(|own| own.derivative).collect();
            let mut claims = BTreeSet::from(["∂L/∂z beside other units"]);
            if !targets {
                claims.insert("∂L/∂ẑ beside other units");
            }
            match units[0] == units[1] {
                true => assert!(wrong.is_empty(), "{loss:?} {report}"),
                false => assert_eq!(wrong, claims, "{loss:?} {report}"),
            }
        }
    }
}

in_both_scalars!(a_false_sum_over_units);

/// ½ ln(1 + r²), whose Hessian is below 0 beyond r = 1; curved as that, or as its part above 0.
#[derive(Debug)]
struct Cauchy {
    clipped: bool,
}

impl<T: Scalar> Loss<T> for Cauchy {
    fn evaluate(
        &self,
        at: &Pair<'_, T>,
        values: &mut [T],
        d_target: Write<'_, T>,
        d_prediction: Write<'_, T>,
        _: &mut [T],
    ) {
        let error = |i: usize| at.target[i] - at.prediction[i];
        let slope = |i: usize| error(i) / (T::one() + error(i) * error(i));
        for (j, value) in values.iter_mut().enumerate() {
            let own = j * at.dim..(j + 1) * at.dim;
            let each = own.map(|i| T::of(0.5) * (error(i) * error(i)).ln_1p());
            *value = each.fold(T::zero(), |sum, term| sum + term);
        }
        d_target.each(slope);
        d_prediction.each(|i| -slope(i));
    }

    fn curvature(
        &self,
        at: &Pair<'_, T>,
        v_target: Option<&[T]>,
        v_prediction: Option<&[T]>,
        out_target: Write<'_, T>,
        out_prediction: Write<'_, T>,
        _: &mut [T],
    ) {
        let curvature = |i: usize| {
            let square = (at.target[i] - at.prediction[i]).powi(2);
            let own = (T::one() - square) / (T::one() + square).powi(2);
            if self.clipped {
                own.max(T::zero())
            } else {
                own
            }
        };
        let of = |v: Option<&[T]>, i: usize| v.map_or(T::zero(), |v| v[i]);
        let product = |i| curvature(i) * (of(v_target, i) - of(v_prediction, i));
        out_target.each(product);
        out_prediction.each(|i| -product(i));
    }
}

fn a_curvature_below_zero<T: Tested>() {
    let failing = |clipped: bool, far: f64| {
        let target = [0.3, far, 0.2, 0.9].map(T::of);
        let prediction = [0.1, 0.0, 0.6, 0.95].map(T::of);
        let at = Pair::new(2, &target, &prediction);
        let report = GradCheck::new().curvature::<T>(&Cauchy { clipped }, &at, true);
        let worst = report.unwrap().worst.into_iter();
        let wrong = worst.filter(|own| own.error > T::GRADIENT);
        wrong.map(|own| own.derivative).collect::<Vec<_>>()
    };
    assert_eq!(failing(false, 0.5), [""; 0]);
    assert_eq!(failing(false, 1.6), ["vᵀ C v below 0"]);
    // The part above 0 is no Hessian, which the check says as well.
    assert!(!failing(true, 1.6).contains(&"vᵀ C v below 0"));
}

in_both_scalars!(a_curvature_below_zero);

/// A dense layer that asks for one number less for a large batch, among more than `f32` can count.
#[derive(Debug)]
struct OneLess(Dense);

impl Layer<f32> for OneLess {
    fn input_shape(&self) -> Shape {
        Layer::<f32>::input_shape(&self.0)
    }

    fn output_shape(&self) -> Shape {
        Layer::<f32>::output_shape(&self.0)
    }

    fn parameters(&self) -> Vec<ParameterGroup> {
        Layer::<f32>::parameters(&self.0)
    }

    fn initialize(&self, parameters: &mut [f32], rng: &mut dyn Rng) {
        self.0.initialize(parameters, rng);
    }

    fn scratch(&self, batch: usize) -> Scratch {
        let own = Layer::<f32>::scratch(&self.0, batch);
        Scratch::new(own.tape, own.work).with_bound((1 << 24) + usize::from(batch < 4))
    }

    fn forward(
        &self,
        context: &Context<'_>,
        parameters: &[f32],
        input: &[f32],
        output: &mut [f32],
        tape: Option<&mut [f32]>,
        work: &mut [f32],
    ) {
        let inner = &self.0;
        inner.forward(context, parameters, input, output, tape, work);
    }

    fn vjp(
        &self,
        at: &Point<'_, f32>,
        cotangent: &[f32],
        d_input: Write<'_, f32>,
        d_parameters: Write<'_, f32>,
        work: &mut [f32],
    ) {
        self.0.vjp(at, cotangent, d_input, d_parameters, work);
    }
}

#[test]
fn memory_is_counted_exactly() {
    let layer = OneLess(Dense::new(1, 1, Activation::Identity).unwrap());
    let check = GradCheck::new().layer(&layer, &[0.5, 0.25], &[0.5, -0.25]);
    let report = check.unwrap();
    let infinite = report
        .worst
        .iter()
        .filter(|entry| entry.error.is_infinite());
    let names: Vec<&str> = infinite.map(|entry| entry.derivative).collect();
    assert_eq!(names, ["scratch of a larger batch"], "{report}");
}

/// ½ Σ_j c_j (z_j − ẑ_j)², with its true curvature.
#[derive(Debug)]
struct Diagonal(Vec<f64>);

impl Loss<f64> for Diagonal {
    fn evaluate(
        &self,
        at: &Pair<'_, f64>,
        values: &mut [f64],
        mut d_target: Write<'_, f64>,
        mut d_prediction: Write<'_, f64>,
        _: &mut [f64],
    ) {
        for (i, value) in values.iter_mut().enumerate() {
            let own = i * at.dim..(i + 1) * at.dim;
            let (z, p) = (&at.target[own.clone()], &at.prediction[own.clone()]);
            let slope = |j: usize| self.0[j] * (z[j] - p[j]);
            *value = (0..at.dim).map(|j| 0.5 * slope(j) * (z[j] - p[j])).sum();
            d_target.part(own.clone()).each(slope);
            d_prediction.part(own).each(|j| -slope(j));
        }
    }

    fn curvature(
        &self,
        at: &Pair<'_, f64>,
        v_target: Option<&[f64]>,
        v_prediction: Option<&[f64]>,
        target: Write<'_, f64>,
        prediction: Write<'_, f64>,
        _: &mut [f64],
    ) {
        let of = |v: Option<&[f64]>, k: usize| v.map_or(0.0, |v| v[k]);
        let product = |k: usize| self.0[k % at.dim] * (of(v_target, k) - of(v_prediction, k));
        target.each(product);
        prediction.each(|k| -product(k));
    }
}

/// One small negative eigenvalue beside many positive ones, from any start.
#[test]
fn an_indefinite_curvature_is_caught_however_small() {
    for (small, count, lowest) in [
        (0.01, 50, -0.01),
        (0.01, 50, -1e-3),
        (0.1, 20, -0.02),
        (0.1, 3, -0.01),
        (0.5, 50, -0.2),
        (0.5, 50, 0.2),
    ] {
        let mut eigenvalues = vec![1.0];
        eigenvalues.extend(vec![small; count]);
        eigenvalues.push(lowest);
        let dim = eigenvalues.len();
        let loss = Diagonal(eigenvalues);
        let z: Vec<f64> = (0..dim * 2).map(|k| (k as f64 * 0.7).sin()).collect();
        let p: Vec<f64> = (0..dim * 2).map(|k| (k as f64 * 1.1).cos()).collect();
        for seed in 0..20 {
            let check = GradCheck::new().with_seed(seed);
            let report = check.curvature(&loss, &Pair::new(dim, &z, &p), true);
            let passes = report.unwrap().require(1e-5).is_ok();
            assert_eq!(passes, lowest > 0.0, "{small} × {count}, {lowest}, {seed}");
        }
    }
}
