//! Checks of derivatives against central finite differences.

use std::fmt;

use nalgebra::DMatrix;

use crate::check::{at_least_one, check_length, option};
use crate::decoupled::{DecoupledCircuit, Gradients, Selection};
use crate::energy::{All, LocalProblem, Problem, Value as ValueAlone, Workspace};
use crate::error::Error;
pub use crate::error::GradEntry;
use crate::init::{Purpose, add_noise, generator};
use crate::kernel::{
    Execution, LEAST_COLUMNS, Matrix, Scalar, Write, add_scaled, add_to_columns, all_finite, dot,
};
use crate::layer::{
    Context, Layer, Point, WeightOrder, check_dimension, parameter_count, validate,
};
use crate::loss::{Loss, Pair, SquaredError};
use crate::objective::Objective;

/// Compares derivatives with central differences (φ(x + h) − φ(x − h)) / 2h, and checks the rest of
/// the contract of a [`Layer`] or a [`Loss`].
///
/// The step is h = ε^⅓ max(1, |x|), which balances truncation (∝ h²) against rounding (∝ ε/h). With
/// values and derivatives of order 1, the attainable error is about ε^⅔: 4e-11 in `f64` and 2e-5 in
/// `f32`. Safe tolerances are 1e-6 and 5e-3 for single coordinates, and 1e-5 and 1e-2 along
/// directions, which move many coordinates at once.
///
/// The error of an entry is |analytic − numeric| divided by the largest entry of the same
/// derivative (or by 1 % of φ's magnitude, if that is larger). A small entry therefore cannot fail
/// because of rounding in φ alone, and any error that is significant relative to the largest entry
/// is detected.
///
/// Besides derivatives, [`GradCheck::layer`], [`GradCheck::loss`] and [`GradCheck::curvature`]
/// check
/// - that a column gives the same bits alone and in a batch (with the feature `blas`, the same values within the
///   tolerance): a layer must not mix examples (give at least two different examples; identical ones reveal little);
/// - that a curvature bound is not below the largest curvature that power iteration finds at the
///   point; otherwise the error is (found − bound) / found;
/// - that results are set, added or skipped as requested, in memory that holds NaN before every
///   call;
/// - that forward gives the same bits with and without a tape;
/// - that a layer gives the same bits when [`Execution::for_each_block`] divides its columns, and when
///   [`Unfold::unfold`](crate::layer::Unfold::unfold) makes patches in parts (with the feature `blas`, the same
///   values within the tolerance);
/// - that a layer's [`Layer::affine`] agrees with its outputs, and that the scratch memory that it
///   requests does not shrink for a larger batch;
/// - that a loss's curvature is positive semidefinite at the point;
/// - that a loss that claims [`Loss::is_squared_error`] is ½‖z − ẑ‖² at the point, with its gradients;
/// - that in a loss that claims [`Loss::is_sum_over_units`] the gradients of each unit do not change with
///   other units.
///
/// Cost: two evaluations of φ per coordinate (or direction). The check can fail for a correct
/// derivative near a kink (ReLU within h of 0, or a parameter within h of 0 under an L1 penalty), or
/// if φ is so large that ε φ/h swamps the derivative. It also fails for layers that are not
/// deterministic.
///
/// # Examples
/// ```
/// use layerwise::prelude::*;
/// use layerwise::gradcheck::GradCheck;
///
/// let layer = Dense::new(3, 2, Activation::Gelu)?;
/// let parameters = [0.1, -0.4, 0.8, 0.3, -0.7, 0.2, 0.0, 0.5_f64];
/// let input = [1.0, -2.0, 0.5, 0.3, 0.9, -1.1];
/// let report = GradCheck::new().layer(&layer, &parameters, &input)?;
/// report.require(1e-6)?;
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GradCheck {
    /// Number of random directions; `None` checks every coordinate.
    directions: Option<usize>,
    seed: u64,
}

/// The outcome of a check.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct GradReport {
    /// Number of values compared.
    pub compared: usize,
    /// How many of them are derivatives compared with finite differences.
    pub derivatives: usize,
    /// The entry with the largest error, for each kind of check.
    pub worst: Vec<GradEntry>,
}

/// The name of the curvature bound's entry in a report.
const BOUND: &str = "curvature bound";

/// The fewest columns with which the check divides a batch into blocks, whatever the layer.
const LEAST: usize = 2 * LEAST_COLUMNS;

/// Steps of the iterations that search for the largest and the lowest curvature.
const POWERS: usize = 30;

impl GradReport {
    /// The entry with the largest error; `None` if there was nothing to compare.
    pub fn worst_entry(&self) -> Option<&GradEntry> {
        self.worst.iter().max_by(|a, b| a.error.total_cmp(&b.error))
    }

    /// The largest error; 0 if there was nothing to compare.
    pub fn error(&self) -> f64 {
        self.worst_entry().map_or(0.0, |entry| entry.error)
    }

    /// Passes if derivatives were compared and no error exceeds `tolerance`.
    ///
    /// # Errors
    /// [`Error::NothingCompared`] if no derivative was compared (a layer without parameters whose
    /// input is not differentiable has none). [`Error::WrongDerivative`] with the worst entry and
    /// both of its values, an entry of a `jvp` only if the others are right. A column that depends on its neighbours counts as worse than any inexact
    /// derivative; [`GradReport::worst`] has the other entries.
    pub fn require(&self, tolerance: f64) -> Result<(), Error> {
        if self.derivatives == 0 {
            return Err(Error::NothingCompared);
        }
        // A `jvp` by default is made of `vjp`s: the fault is theirs then.
        let wrong = self.worst.iter().filter(|entry| entry.error > tolerance);
        let first = wrong
            .filter(|entry| !entry.derivative.contains("jvp"))
            .max_by(|a, b| a.error.total_cmp(&b.error));
        match first.or(self.worst_entry()) {
            Some(worst) if worst.error > tolerance || tolerance.is_nan() => {
                Err(Error::WrongDerivative {
                    entry: worst.clone(),
                    tolerance,
                })
            }
            _ => Ok(()),
        }
    }

    /// Says that the entries from number `first` on are of a visit in training.
    fn name_training(&mut self, first: usize) {
        for entry in &mut self.worst[first..] {
            entry.training = true;
        }
    }

    /// Sets the layer of the entry added last.
    fn name_layer(&mut self, t: usize) {
        if let Some(entry) = self.worst.last_mut() {
            entry.layer = Some(t);
        }
    }

    /// Compares values that must be equal: any difference counts as an infinite error.
    fn add_exact<T: Scalar>(&mut self, derivative: &'static str, found: &[T], expected: &[T]) {
        self.add(derivative, found, expected, 0.0);
        let worst = self.worst.last_mut();
        if let Some(entry) = worst.filter(|entry| !found.is_empty() && entry.error > 0.0) {
            entry.error = f64::INFINITY;
        }
    }

    /// Compares columns alone with the same columns in a batch: bit for bit, unless a BLAS adds in an order
    /// that depends on the batch.
    fn add_columns<T: Scalar>(&mut self, derivative: &'static str, alone: &[T], together: &[T]) {
        if cfg!(feature = "blas") {
            self.add(derivative, alone, together, 0.0);
        } else {
            self.add_exact(derivative, alone, together);
        }
    }

    /// Compares what `product` adds to a vector of ones with 1 + `gradient`.
    fn add_sum<T: Scalar>(
        &mut self,
        derivative: &'static str,
        gradient: &[T],
        product: impl FnOnce(Write<'_, T>),
    ) {
        let mut sum = vec![T::one(); gradient.len()];
        product(Write::Add(&mut sum));
        let expected: Vec<T> = gradient.iter().map(|&d| d + T::one()).collect();
        self.add(derivative, &sum, &expected, 0.0);
    }

    /// Adds a bound and the largest value found, which must not exceed it.
    fn add_bound<T: Scalar>(&mut self, bound: T, found: f64) {
        let bound = bound.as_f64();
        let error = match (found - bound) / found.max(bound.abs()) {
            _ if bound == f64::INFINITY || found == bound => 0.0,
            excess if excess.is_nan() => f64::INFINITY,
            excess => excess.max(0.0),
        };
        self.compared += 1;
        self.worst.push(GradEntry {
            derivative: BOUND,
            layer: None,
            training: false,
            index: 0,
            analytic: bound,
            numeric: found,
            error,
        });
    }

    /// Compares a derivative with its finite differences.
    fn add_derivative<T: Scalar>(
        &mut self,
        derivative: &'static str,
        [analytic, numeric]: [Vec<T>; 2],
        magnitude: f64,
    ) {
        self.derivatives += numeric.len();
        self.add(derivative, &analytic, &numeric, magnitude);
    }

    fn add<T: Scalar>(
        &mut self,
        derivative: &'static str,
        analytic: &[T],
        numeric: &[T],
        magnitude: f64,
    ) {
        let pairs = analytic.iter().zip(numeric);
        let pairs = pairs.map(|(a, n)| (a.as_f64(), n.as_f64()));
        let sizes = pairs.clone().flat_map(|(a, n)| [a.abs(), n.abs()]);
        let largest = sizes
            .filter(|size| size.is_finite())
            .fold(0.01 * magnitude, f64::max);
        let entries = pairs.enumerate().map(|(index, (analytic, numeric))| {
            let error = match (analytic - numeric).abs() {
                0.0 => 0.0,
                difference if difference.is_finite() => difference / largest,
                _ => f64::INFINITY,
            };
            GradEntry {
                derivative,
                layer: None,
                training: false,
                index,
                analytic,
                numeric,
                error,
            }
        });
        self.compared += entries.len();
        let worst = entries.max_by(|a, b| a.error.total_cmp(&b.error));
        self.worst.extend(worst);
    }
}

impl fmt::Display for GradReport {
    /// The largest error, then one line per kind of check with its worst entry and both values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} values compared, largest error {:.1e}; the worst of each kind:",
            self.compared,
            self.error()
        )?;
        for entry in &self.worst {
            writeln!(f, "  {entry}")?;
        }
        Ok(())
    }
}

impl Default for GradCheck {
    fn default() -> Self {
        Self::new()
    }
}

/// (φ(x), Σ |terms of φ|).
type Value<T> = (T, f64);

/// A function of a problem whose gradient is checked.
type Phi<'a, T> = &'a mut dyn FnMut(Problem<'_, T>) -> T;

/// Gives access to every θ_t, or every z_t.
type Values<T> = fn(&mut DecoupledCircuit<T>) -> &mut [Vec<T>];

impl GradCheck {
    /// A check of every coordinate, with seed 0 for the random cotangents.
    pub fn new() -> Self {
        Self {
            directions: None,
            seed: 0,
        }
    }

    /// Checks along `count` random directions instead of every coordinate, for large problems.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for 0 directions, which would compare nothing.
    pub fn with_directions(self, count: usize) -> Result<Self, Error> {
        at_least_one("GradCheck::directions", count as u64)?;
        Ok(Self {
            directions: Some(count),
            ..self
        })
    }

    /// Sets the seed of the random cotangents and directions.
    pub fn with_seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    fn normal<T: Scalar>(&self, stream: u64, length: usize) -> Vec<T> {
        let mut rng = generator(self.seed, Purpose::Check, stream);
        let mut values = vec![T::zero(); length];
        add_noise(&mut values, 1.0, &mut rng);
        values
    }

    /// The directions in which to probe `x`, each with its step h. They are generated one at a
    /// time: all unit vectors at once would take memory proportional to the square of x's length.
    fn directions<T: Scalar>(&self, x: &[T]) -> impl Iterator<Item = (Vec<T>, T)> {
        let cube_root = T::default_epsilon().as_f64().cbrt();
        // There are no directions either if there are no coordinates.
        let count = match (self.directions, x.is_empty()) {
            (Some(count), false) => count,
            _ => x.len(),
        };
        (0..count).map(move |k| match self.directions {
            None => {
                let mut v = vec![T::zero(); x.len()];
                v[k] = T::one();
                (v, T::of(cube_root * x[k].as_f64().abs().max(1.0)))
            }
            Some(_) => {
                let v: Vec<T> = self.normal(1000 + k as u64, x.len());
                // Many coordinates move at once, so limit the total length to 10 steps.
                let length = dot(&v, &v).as_f64().sqrt();
                let h = cube_root * largest(x).max(1.0) / (length / 10.0).max(1.0);
                (v, T::of(h))
            }
        })
    }

    /// Compares `gradient`, the gradient of φ at x, with finite differences.
    fn gradient<T: Scalar>(
        &self,
        report: &mut GradReport,
        derivative: &'static str,
        x: &[T],
        gradient: &[T],
        mut phi: impl FnMut(&[T]) -> Value<T>,
    ) {
        // Also near x, since φ and its gradient may both be zero at x itself.
        let (_, mut magnitude) = phi(x);
        let [mut analytic, mut numeric] = [Vec::new(), Vec::new()];
        for (v, h) in self.directions(x) {
            numeric.extend(difference(x, &v, h, |x| {
                let (value, size) = phi(x);
                magnitude = magnitude.max(size);
                vec![value]
            }));
            analytic.push(dot(gradient, &v));
        }
        report.add_derivative(derivative, [analytic, numeric], magnitude);
    }

    /// Compares the Jacobian products at x with finite differences of the vector function `f`.
    fn jacobian<T: Scalar>(
        &self,
        report: &mut GradReport,
        derivative: &'static str,
        x: &[T],
        mut product: impl FnMut(&[T]) -> Vec<T>,
        mut f: impl FnMut(&[T]) -> Vec<T>,
    ) {
        let magnitude = largest(&f(x));
        let [mut analytic, mut numeric] = [Vec::new(), Vec::new()];
        for (v, h) in self.directions(x) {
            numeric.extend(difference(x, &v, h, &mut f));
            analytic.extend(product(&v));
        }
        report.add_derivative(derivative, [analytic, numeric], magnitude);
    }

    /// Checks a layer at one point, in a prediction and in a visit of training: its VJP and JVP in
    /// input and parameters, and the rest of the [`Layer`] contract as listed at [`GradCheck`].
    ///
    /// # Errors
    /// [`Error::Length`] if the slices do not fit the layer, or if its [`Layer::affine`] does not
    /// fit its dimensions; [`Error::NoExamples`] for an empty input; and the errors of
    /// [`Layer::check_input`].
    ///
    /// # Panics
    /// If the layer uses more memory than its [`Layer::scratch`] requests.
    pub fn layer<T: Scalar>(
        &self,
        layer: &dyn Layer<T>,
        parameters: &[T],
        input: &[T],
    ) -> Result<GradReport, Error> {
        validate(layer, 0)?;
        let count = parameter_count(layer);
        check_length("parameters", parameters, count)?;
        let inputs = layer.input_dim();
        let n = input.len() / inputs;
        check_length("input", input, input.len().div_ceil(inputs) * inputs)?;
        if n == 0 {
            return Err(Error::NoExamples {
                operation: "a gradient check",
            });
        }
        layer.check_input(input)?;
        let mut report = GradReport::default();
        let ids: Vec<u64> = (0..2 * n.max(LEAST) as u64).collect();
        let subject = LayerSubject {
            layer,
            parameters,
            seed: self.seed,
            training: true,
            execution: Execution::Sequential,
            ids: &ids,
        };
        self.products(&mut report, &subject, input)?;
        report.name_training(0);
        let training = false;
        let subject = LayerSubject {
            training,
            ..subject
        };
        self.products(&mut report, &subject, input)?;
        self.memory(&mut report, layer, n);
        Ok(report)
    }

    /// The checks of a layer in one context.
    fn products<T: Scalar>(
        &self,
        report: &mut GradReport,
        subject: &LayerSubject<'_, T>,
        input: &[T],
    ) -> Result<(), Error> {
        let LayerSubject {
            layer, parameters, ..
        } = *subject;
        let (n, count) = (subject.batch(input), parameters.len());
        let wants_input = layer.input_differentiable();
        let u: Vec<T> = self.normal(0, n * layer.output_dim());

        let output = subject.forward(input);
        report.add_exact("f without tape", &subject.call(input, None), &output);
        let (mut d_input, mut d_parameters) = (nans(input.len()), nans(count));
        let set_input = Write::set(wants_input.then_some(&mut d_input[..]));
        subject.vjp(input, &u, set_input, Write::Set(&mut d_parameters));

        let phi = |output: Vec<T>| {
            let terms = output.iter().zip(&u).map(|(o, u)| (*o * *u).as_f64().abs());
            (dot(&output, &u), terms.sum::<f64>())
        };
        if wants_input {
            self.gradient(report, "∂f/∂z by vjp", input, &d_input, |z| {
                phi(subject.forward(z))
            });
            let vjp = |d_input: Write<'_, T>| subject.vjp(input, &u, d_input, Write::Skip);
            report.add_sum("∂f/∂z added by vjp", &d_input, vjp);
            let mut alone = nans(input.len());
            vjp(Write::Set(&mut alone));
            report.add("∂f/∂z set alone by vjp", &alone, &d_input, 0.0);
            let jvp = |v: &[T]| subject.jvp(input, Some(v), None);
            let forward = |z: &[T]| subject.forward(z);
            self.jacobian(report, "∂f/∂z by jvp", input, jvp, forward);
        }
        let moved = |parameters: &[T]| {
            LayerSubject {
                parameters,
                ..*subject
            }
            .forward(input)
        };
        let name = "∂f/∂θ by vjp";
        self.gradient(report, name, parameters, &d_parameters, |p| phi(moved(p)));
        let vjp = |d_parameters: Write<'_, T>| subject.vjp(input, &u, Write::Skip, d_parameters);
        report.add_sum("∂f/∂θ added by vjp", &d_parameters, vjp);
        let mut alone = nans(count);
        vjp(Write::Set(&mut alone));
        report.add("∂f/∂θ set alone by vjp", &alone, &d_parameters, 0.0);
        let jvp = |v: &[T]| subject.jvp(input, None, Some(v));
        self.jacobian(report, "∂f/∂θ by jvp", parameters, jvp, moved);

        let v_input: Vec<T> = self.normal(1, input.len());
        let v_input = wants_input.then_some(&v_input[..]);
        let v_parameters: Vec<T> = self.normal(2, count);
        let nothing = subject.jvp(input, None, None);
        let zeros = vec![T::zero(); nothing.len()];
        report.add_exact("no direction by jvp", &nothing, &zeros);
        let both = subject.jvp(input, v_input, Some(&v_parameters));
        let mut sum = subject.jvp(input, None, Some(&v_parameters));
        if let Some(v) = v_input {
            let other = subject.jvp(input, Some(v), None);
            sum.iter_mut().zip(other).for_each(|(s, o)| *s += o);
        }
        report.add("both directions by jvp", &both, &sum, 0.0);

        self.columns(report, subject, input, &u, &d_parameters);
        if wants_input {
            self.layer_bound(report, subject, input);
        }
        self.affine(report, subject, input, output)
    }

    /// Compares columns alone with the same columns in a batch; the parameter gradient must be their sum.
    /// Then compares that batch, which is large enough to be divided, with the same batch in blocks.
    fn columns<T: Scalar>(
        &self,
        report: &mut GradReport,
        subject: &LayerSubject<'_, T>,
        input: &[T],
        u: &[T],
        d_parameters: &[T],
    ) {
        let layer = subject.layer;
        let (inputs, outputs) = (layer.input_dim(), layer.output_dim());
        let wants_input = layer.input_differentiable();
        let copies = LEAST.div_ceil(input.len() / inputs).max(2) - 1;
        let moved = self.normal::<T>(3, copies * input.len()).into_iter();
        let moved = moved.zip(input.iter().cycle());
        let mut others: Vec<T> = moved.map(|(noise, &z)| z + noise).collect();
        if layer.check_input(&others).is_err() {
            others = input.repeat(copies);
        }
        let mut together = [input, &others].concat();
        let cotangent = [u, &self.normal(4, copies * u.len())].concat();
        let v_input: Vec<T> = self.normal(5, together.len());
        let v_parameters: Vec<T> = self.normal(6, subject.parameters.len());
        let products = |subject: &LayerSubject<'_, T>, z: &[T], u: &[T], v: &[T]| {
            let (mut d_input, mut d_parameters) = (nans(z.len()), nans(v_parameters.len()));
            let set_input = Write::set(wants_input.then_some(&mut d_input[..]));
            subject.vjp(z, u, set_input, Write::Set(&mut d_parameters));
            let v = wants_input.then_some(v);
            let tangent = subject.jvp(z, v, Some(&v_parameters));
            (subject.forward(z), d_input, tangent, d_parameters)
        };
        let mut whole = products(subject, &together, &cotangent, &v_input);
        if ![&whole.0, &whole.2, &whole.3]
            .into_iter()
            .all(|own| all_finite(own))
        {
            // The layer is not defined everywhere, such as a logarithm.
            together = input.repeat(1 + copies);
            whole = products(subject, &together, &cotangent, &v_input);
        }
        let mut sum = vec![T::zero(); d_parameters.len()];
        let (mut f, mut vjp, mut jvp) = (Vec::new(), Vec::new(), Vec::new());
        for i in 0..input.len() / inputs {
            let (own, out) = (i * inputs..(i + 1) * inputs, i * outputs..(i + 1) * outputs);
            let ids = &subject.ids[i..];
            let alone = LayerSubject { ids, ..*subject };
            let one = products(&alone, &input[own.clone()], &u[out], &v_input[own]);
            f.extend(one.0);
            vjp.extend(one.1);
            jvp.extend(one.2);
            sum.iter_mut().zip(one.3).for_each(|(s, d)| *s += d);
        }
        report.add_columns("f of columns alone", &f, &whole.0);
        if wants_input {
            report.add_columns("∂f/∂z of columns alone", &vjp, &whole.1);
        }
        report.add_columns("jvp of columns alone", &jvp, &whole.2);
        report.add("∂f/∂θ of columns alone", &sum, d_parameters, 0.0);

        let execution = Execution::Divided;
        let divided = LayerSubject {
            execution,
            ..*subject
        };
        let blocks = products(&divided, &together, &cotangent, &v_input);
        report.add_columns("f in blocks", &blocks.0, &whole.0);
        if wants_input {
            report.add_columns("∂f/∂z in blocks", &blocks.1, &whole.1);
        }
        report.add_columns("jvp in blocks", &blocks.2, &whole.2);
        report.add_columns("∂f/∂θ in blocks", &blocks.3, &whole.3);
    }

    /// Checks that a larger batch never needs less memory, and that the bound's memory stays the
    /// same.
    fn memory<T: Scalar>(&self, report: &mut GradReport, layer: &dyn Layer<T>, n: usize) {
        let (own, larger) = (layer.scratch(n), layer.scratch(2 * n));
        // Not in T, which may not tell large lengths apart.
        let numbers = |lengths: [usize; 3]| lengths.map(|length| length as f64);
        let least = [
            own.tape.min(larger.tape),
            own.work.min(larger.work),
            larger.bound,
        ];
        let own = [own.tape, own.work, own.bound];
        report.add_exact("scratch of a larger batch", &numbers(least), &numbers(own));
    }

    /// Checks that ‖J v‖² never exceeds the bound for unit directions v, one per column. The
    /// directions come from power iteration with the VJP. J v comes from finite differences, less
    /// their rounding error, so the check is valid even if the layer's products are wrong.
    fn layer_bound<T: Scalar>(
        &self,
        report: &mut GradReport,
        subject: &LayerSubject<'_, T>,
        input: &[T],
    ) {
        let layer = subject.layer;
        let mut work = nans(layer.scratch(1).bound);
        let Some(bound) = layer.curvature_bound(subject.parameters, &mut work) else {
            return;
        };
        let (inputs, outputs) = (layer.input_dim(), layer.output_dim());
        let h = T::default_epsilon().as_f64().cbrt() * largest(input).max(1.0);
        let rounding = 4.0 * T::default_epsilon().as_f64() * (outputs as f64).sqrt() / h;
        let rounding = rounding * largest(&subject.forward(input));
        let mut v: Vec<T> = self.normal(7, input.len());
        let mut found = 0.0_f64;
        for _ in 0..POWERS {
            normalise(&mut v, inputs);
            let pushed = difference(input, &v, T::of(h), |z| subject.forward(z));
            for column in pushed.chunks_exact(outputs) {
                let length = dot(column, column).as_f64().sqrt();
                found = found.max((length - rounding).max(0.0).powi(2));
            }
            subject.vjp(input, &pushed, Write::Set(&mut v), Write::Skip);
        }
        report.add_bound(bound, found);
    }

    /// Checks the output against [`Layer::affine`].
    fn affine<T: Scalar>(
        &self,
        report: &mut GradReport,
        subject: &LayerSubject<'_, T>,
        input: &[T],
        output: Vec<T>,
    ) -> Result<(), Error> {
        let (layer, parameters) = (subject.layer, subject.parameters);
        let Some(affine) = layer.affine() else {
            return Ok(());
        };
        let n = input.len() / layer.input_dim();
        let (channels, patch_len) = (affine.channels(), affine.patch_len);
        let part = |range: std::ops::Range<usize>| parameters.get(range).unwrap_or(&[]);
        let weights = part(affine.weights.clone());
        check_length("the weights of `affine`", weights, channels * patch_len)?;
        let (rows, groups) = (affine.rows(), affine.groups);
        check_equal(
            "the channels of all groups of `affine`",
            [rows * groups, channels],
        )?;
        if let WeightOrder::Places { inputs } = affine.order {
            let allowed = format!("{groups} times a divisor of the {patch_len} values of a patch");
            let (name, fits) = ("WeightOrder::Places::inputs", affine.is_ordered());
            option(name, inputs as f64, fits, allowed)?;
        }
        let dims = [channels * affine.positions, layer.output_dim()];
        check_equal("the outputs of `affine`", dims)?;
        let bias = affine.bias.clone().map(part);
        let bias_len = bias.map_or(channels, <[T]>::len);
        check_equal("the bias of `affine`", [bias_len, channels])?;
        let size = patch_len * affine.positions;
        if !affine.unfolds {
            check_equal("the groups of `affine`", [groups, 1])?;
            check_equal("the patches of `affine`", [size, layer.input_dim()])?;
        }
        let mut patches = nans(size * n * groups);
        layer.unfold(input, &mut patches);
        let mut expected = nans(output.len());
        for (group, patches) in patches.chunks_exact(size * n).enumerate() {
            let patches = Matrix::new(patches, patch_len, affine.positions * n);
            let weights: Vec<T> = affine
                .places(group)
                .map(|place| parameters[place])
                .collect();
            let mut own = nans(rows * affine.positions * n);
            T::matmul(
                Write::Set(&mut own),
                Matrix::new(&weights, rows, patch_len),
                patches,
            );
            let columns = expected
                .chunks_exact_mut(channels)
                .zip(own.chunks_exact(rows));
            for (column, own) in columns {
                column[group * rows..(group + 1) * rows].copy_from_slice(own);
            }
        }
        if let Some(bias) = bias {
            add_to_columns(&mut expected, bias);
        }
        T::activate(affine.activation, &mut expected, None);
        report.add("f by `affine`", &expected, &output, 0.0);
        Ok(())
    }

    /// Checks a loss's gradients in its target, its prediction and its own parameters; that results
    /// are overwritten, added or skipped as [`Write`] says; that values are the same with and without
    /// gradients; that examples do not mix; and what the loss claims.
    ///
    /// # Errors
    /// [`Error::ZeroDimension`], [`Error::Length`] or [`Error::NoExamples`] unless the slices are
    /// two matrices of `at.dim` rows and the loss's parameters; and the errors of the loss's check
    /// of its target.
    pub fn loss<T: Scalar>(
        &self,
        loss: &dyn Loss<T>,
        at: &Pair<'_, T>,
    ) -> Result<GradReport, Error> {
        let n = check_pair(loss, at)?;
        let mut report = GradReport::default();
        let [d_target, d_prediction] = &loss_gradients(loss, at);
        let phi = |at: Pair<'_, T>| total(&loss_values(loss, &at));
        let of_target = |target: &[T]| phi(Pair { target, ..*at });
        let of_prediction = |prediction: &[T]| phi(Pair { prediction, ..*at });
        self.gradient(&mut report, "∂L/∂z", at.target, d_target, of_target);
        report.add_sum("∂L/∂z added", d_target, |sum| {
            evaluate_loss(loss, at, sum, Write::Skip);
        });
        let x = at.prediction;
        self.gradient(&mut report, "∂L/∂ẑ", x, d_prediction, of_prediction);
        report.add_sum("∂L/∂ẑ added", d_prediction, |sum| {
            evaluate_loss(loss, at, Write::Skip, sum);
        });
        let [mut a, mut b] = [nans(at.target.len()), nans(at.target.len())];
        let beside = [
            evaluate_loss(loss, at, Write::Set(&mut a), Write::Set(&mut b)),
            evaluate_loss(loss, at, Write::Set(&mut a), Write::Skip),
            evaluate_loss(loss, at, Write::Skip, Write::Set(&mut b)),
        ];
        let alone = loss_values(loss, at).repeat(3);
        report.add("L beside gradients", &beside.concat(), &alone, 0.0);
        if !at.parameters.is_empty() {
            let factors: Vec<T> = self.normal(0, n);
            let write = |out: Write<'_, T>| {
                let mut work = nans(loss.scratch(at.dim, n));
                loss.parameter_gradient(at, &factors, out, &mut work);
            };
            let mut gradient = nans(at.parameters.len());
            write(Write::Set(&mut gradient));
            let weighted = |parameters: &[T]| {
                let values = loss_values(loss, &Pair { parameters, ..*at });
                let values = values.into_iter().zip(&factors);
                total(&values.map(|(v, &f)| v * f).collect::<Vec<T>>())
            };
            self.gradient(&mut report, "∂L/∂φ", at.parameters, &gradient, weighted);
            report.add_sum("∂L/∂φ added", &gradient, write);
        }
        if loss.is_squared_error() {
            let [found, expected] = [loss, &SquaredError].map(|loss| loss_values(loss, at));
            let [of_target, of_prediction] = &loss_gradients(&SquaredError, at);
            report.add("L as squared error", &found, &expected, 0.0);
            report.add("∂L/∂z as squared error", d_target, of_target, 0.0);
            report.add("∂L/∂ẑ as squared error", d_prediction, of_prediction, 0.0);
        }
        if loss.is_sum_over_units() {
            self.units(&mut report, loss, at, [d_target, d_prediction]);
        }
        let mut alone = Vec::new();
        for i in 0..n {
            let own = i * at.dim..(i + 1) * at.dim;
            let one = Pair {
                target: &at.target[own.clone()],
                prediction: &at.prediction[own],
                ..*at
            };
            alone.extend(loss_values(loss, &one));
            alone.extend(loss_gradients(loss, &one).concat());
        }
        let mut together = Vec::new();
        for (i, value) in loss_values(loss, at).into_iter().enumerate() {
            let own = i * at.dim..(i + 1) * at.dim;
            together.push(value);
            together.extend_from_slice(&d_target[own.clone()]);
            together.extend_from_slice(&d_prediction[own]);
        }
        report.add_exact("L of columns alone", &alone, &together);
        Ok(report)
    }

    /// Compares the gradients of some units with those of the same units beside others that differ: the
    /// units whose numbers have one binary digit in common keep their values. Any two units differ in
    /// some digit.
    fn units<T: Scalar>(
        &self,
        report: &mut GradReport,
        loss: &dyn Loss<T>,
        at: &Pair<'_, T>,
        gradients: [&[T]; 2],
    ) {
        let (dim, length) = (at.dim, at.target.len());
        let noise: [Vec<T>; 2] = [self.normal(12, length), self.normal(13, length)];
        let digits = usize::BITS - (dim - 1).leading_zeros();
        let mut found = [Vec::new(), Vec::new()];
        let mut expected = found.clone();
        for (digit, value) in (0..digits).flat_map(|digit| [(digit, 0), (digit, 1)]) {
            let keeps = |k: &usize| (k % dim) >> digit & 1 == value;
            let others = |own: &[T], other: &dyn Fn(usize) -> T| -> Vec<T> {
                let units = own.iter().enumerate();
                let units = units.map(|(k, &own)| if keeps(&k) { own } else { other(k) });
                units.collect()
            };
            let [of_target, of_prediction] = &noise;
            let prediction = others(at.prediction, &|k| at.prediction[k] + of_prediction[k]);
            let noisy = others(at.target, &|k| at.target[k] + of_target[k]);
            // A unit's target may have a domain, in which that of the next unit probably is.
            let next = |k: usize| at.target[k - k % dim + (k % dim + 1) % dim];
            let targets = [noisy, others(at.target, &next)];
            let fits = |own: &&Vec<T>| loss.check_target(dim, own).is_ok();
            let target = targets.iter().find(fits).map_or(at.target, |own| &own[..]);
            let prediction = &prediction[..];
            let beside = Pair {
                target,
                prediction,
                ..*at
            };
            let own = loss_gradients(loss, &beside);
            for (i, own) in own.iter().enumerate() {
                let kept = || (0..length).filter(keeps);
                found[i].extend(kept().map(|k| own[k]));
                expected[i].extend(kept().map(|k| gradients[i][k]));
            }
        }
        let names = ["∂L/∂z beside other units", "∂L/∂ẑ beside other units"];
        for (name, (found, expected)) in names.into_iter().zip(found.iter().zip(&expected)) {
            report.add(name, found, expected, 0.0);
        }
    }

    /// Checks a loss's curvature product against finite differences of its gradient: the
    /// prediction's block or, with `joint`, the whole Hessian in target and prediction. Checks that it
    /// is positive semidefinite, and its curvature bound: against power iteration in both blocks, and
    /// against differences of the gradient in ẑ over distances of 1e-3 to 1, which detect kinks.
    ///
    /// A loss whose curvature product is only the positive semidefinite part of its Hessian fails
    /// this check, as it should, in the blocks where the two differ.
    ///
    /// # Errors
    /// The errors of [`GradCheck::loss`].
    pub fn curvature<T: Scalar>(
        &self,
        loss: &dyn Loss<T>,
        at: &Pair<'_, T>,
        joint: bool,
    ) -> Result<GradReport, Error> {
        let n = check_pair(loss, at)?;
        let mut report = GradReport::default();
        // Index 0 stands for the target, 1 for the prediction.
        let product = |by: usize, v: &[T]| {
            let [mut a, mut b] = [nans(v.len()), nans(v.len())];
            let mut work = nans(loss.scratch(at.dim, n));
            let (in_target, in_prediction) = ((by == 0).then_some(v), (by == 1).then_some(v));
            let (out_target, out_prediction) = (Write::Set(&mut a[..]), Write::Set(&mut b[..]));
            loss.curvature(
                at,
                in_target,
                in_prediction,
                out_target,
                out_prediction,
                &mut work,
            );
            [a, b]
        };
        let gradients = |by: usize, x: &[T]| {
            let (target, prediction) = [(x, at.prediction), (at.target, x)][by];
            loss_gradients(
                loss,
                &Pair {
                    target,
                    prediction,
                    ..*at
                },
            )
        };
        let blocks = [
            ("∂²L/∂ẑ²", 1, 1),
            ("∂²L/∂z∂ẑ", 0, 1),
            ("∂²L/∂z²", 0, 0),
            ("∂²L/∂ẑ∂z", 1, 0),
        ];
        for (derivative, of, by) in blocks.into_iter().take(if joint { 4 } else { 1 }) {
            let products = |v: &[T]| product(by, v)[of].clone();
            let moved = |x: &[T]| gradients(by, x)[of].clone();
            let x = [at.target, at.prediction][by];
            self.jacobian(&mut report, derivative, x, products, moved);
        }
        self.curvature_parts(&mut report, loss, at);
        self.semidefinite(&mut report, loss, at);
        let Some(bound) = loss.curvature_bound(at.parameters) else {
            return Ok(report);
        };
        let mut found = 0.0_f64;
        for by in [0, 1] {
            let mut v: Vec<T> = self.normal(7, at.dim * n);
            for _ in 0..POWERS {
                normalise(&mut v, at.dim);
                let next = product(by, &v)[by].clone();
                let columns = v.chunks_exact(at.dim).zip(next.chunks_exact(at.dim));
                for (v, next) in columns {
                    found = found.max(dot(v, next).as_f64());
                }
                v = next;
            }
        }
        let [_, gradient] = loss_gradients(loss, at);
        let mut v: Vec<T> = self.normal(8, at.dim * n);
        normalise(&mut v, at.dim);
        for distance in [-1.0, -0.1, -1e-2, -1e-3, 1e-3, 1e-2, 0.1, 1.0] {
            let steps = at.prediction.iter().zip(&v);
            let prediction: Vec<T> = steps.map(|(&z, &v)| z + T::of(distance) * v).collect();
            let [_, there] = gradients(1, &prediction);
            let columns = there.chunks_exact(at.dim);
            for (there, here) in columns.zip(gradient.chunks_exact(at.dim)) {
                let change: Vec<T> = there.iter().zip(here).map(|(&a, &b)| a - b).collect();
                let size = dot(there, there).sqrt() + dot(here, here).sqrt();
                let rounding = T::of(4.0) * T::default_epsilon() * (size + T::one());
                let slope = (dot(&change, &change).sqrt() - rounding).as_f64() / distance.abs();
                found = found.max(slope);
            }
        }
        report.add_bound(bound, found);
        Ok(report)
    }

    /// Compares each part of C v, set or added without the other, with both set together, for a
    /// direction in the target, in the prediction and in both.
    fn curvature_parts<T: Scalar>(
        &self,
        report: &mut GradReport,
        loss: &dyn Loss<T>,
        at: &Pair<'_, T>,
    ) {
        let length = at.target.len();
        let [z, p]: [Vec<T>; 2] = [self.normal(10, length), self.normal(11, length)];
        let directions = [
            (Some(&z[..]), None),
            (None, Some(&p[..])),
            (Some(&z[..]), Some(&p[..])),
        ];
        let names = [
            ["C v in z set alone", "C v in z added"],
            ["C v in ẑ set alone", "C v in ẑ added"],
        ];
        for (of, [name_alone, name_added]) in names.into_iter().enumerate() {
            let [mut alone, mut added, mut together] = [Vec::new(), Vec::new(), Vec::new()];
            for (z, p) in directions {
                let curve = |to_z: Write<'_, T>, to_p: Write<'_, T>| {
                    let mut work = nans(loss.scratch(at.dim, at.examples()));
                    loss.curvature(at, z, p, to_z, to_p, &mut work);
                };
                let part = |out: Write<'_, T>| match of {
                    0 => curve(out, Write::Skip),
                    _ => curve(Write::Skip, out),
                };
                let mut both = [nans(length), nans(length)];
                let [a, b] = &mut both;
                curve(Write::Set(a), Write::Set(b));
                together.extend_from_slice(&both[of]);
                let mut own = nans(length);
                part(Write::Set(&mut own));
                alone.append(&mut own);
                own.resize(length, T::one());
                part(Write::Add(&mut own));
                added.append(&mut own);
            }
            report.add(name_alone, &alone, &together, 0.0);
            together.iter_mut().for_each(|c| *c += T::one());
            report.add(name_added, &added, &together, 0.0);
        }
    }

    /// Checks that vᵀ C v is not below 0 for any direction v = (v_target, v_prediction), with C the
    /// curvature. The directions are those of a Lanczos iteration: it finds the lowest eigenvalue of C,
    /// even a small one, in few steps.
    fn semidefinite<T: Scalar>(
        &self,
        report: &mut GradReport,
        loss: &dyn Loss<T>,
        at: &Pair<'_, T>,
    ) {
        let (dim, n) = (at.dim, at.examples());
        // One column per example: first its part in the target, then that in the prediction.
        let halves = |v: &[T]| {
            let part = |from: usize| -> Vec<T> {
                let columns = v.chunks_exact(2 * dim);
                columns.flat_map(|v| v[from..from + dim].to_vec()).collect()
            };
            [part(0), part(dim)]
        };
        let product = |v: &[T]| -> Vec<T> {
            let [of_target, of_prediction] = halves(v);
            let [mut a, mut b] = [nans(dim * n), nans(dim * n)];
            let (to_a, to_b) = (Write::Set(&mut a[..]), Write::Set(&mut b[..]));
            let mut work = nans(loss.scratch(dim, n));
            let (z, p) = (Some(&of_target[..]), Some(&of_prediction[..]));
            loss.curvature(at, z, p, to_a, to_b, &mut work);
            let columns = a.chunks_exact(dim).zip(b.chunks_exact(dim));
            columns.flat_map(|(a, b)| [a, b].concat()).collect()
        };
        let mut v: Vec<T> = self.normal(9, 2 * dim * n);
        normalise(&mut v, 2 * dim);
        let mut before = vec![T::zero(); v.len()];
        let steps = POWERS.min(2 * dim);
        let mut forms = vec![DMatrix::<f64>::zeros(steps, steps); n];
        for k in 0..steps {
            let mut next = product(&v);
            let columns = v.chunks_exact_mut(2 * dim).zip(&mut forms);
            let rest = before.chunks_exact_mut(2 * dim);
            let rest = rest.zip(next.chunks_exact_mut(2 * dim));
            for ((v, form), (before, next)) in columns.zip(rest) {
                let own = dot(v, next);
                form[(k, k)] = own.as_f64();
                add_scaled(next, -own, v);
                if k > 0 {
                    add_scaled(next, -T::of(form[(k, k - 1)]), before);
                }
                before.copy_from_slice(v);
                // Once no direction is left there is only rounding; 0 adds nothing.
                let coupling = dot(next, next).sqrt();
                let size = T::of(form.amax());
                let ended = coupling <= T::of(4.0) * T::default_epsilon() * size;
                if k + 1 < steps && !ended {
                    form[(k + 1, k)] = coupling.as_f64();
                    form[(k, k + 1)] = coupling.as_f64();
                }
                for (v, &next) in v.iter_mut().zip(&*next) {
                    *v = if ended { T::zero() } else { next / coupling };
                }
            }
        }
        let finite = |form: &DMatrix<f64>| form.iter().all(|value| value.is_finite());
        let (mut size, mut lowest) = (T::zero(), T::zero());
        for form in forms.into_iter().filter(finite) {
            let values = form.symmetric_eigenvalues();
            size = size.max(T::of(values.amax()));
            lowest = lowest.min(T::of(values.min()));
        }
        // Less what may be rounding.
        let rounding = T::of(4.0) * T::default_epsilon() * (size + T::one());
        let lowest = (lowest + rounding).min(T::zero());
        report.add("vᵀ C v below 0", &[lowest, size], &[T::zero(), size], 0.0);
    }

    /// Checks the three gradients of a local problem: in θ_t, in z_t (its input) and in z_{t+1}
    /// (its target).
    pub fn local_problem<T: Scalar>(&self, problem: &LocalProblem<'_, T>) -> GradReport {
        let mut report = GradReport::default();
        let gradients = problem.gradients();
        let mut workspace = problem.workspace();
        let mut phi = |problem: LocalProblem<'_, T>| {
            total(problem.evaluate(ValueAlone, &mut workspace).energies())
        };
        let (own, gradient) = (problem.parameters, &gradients.parameters);
        self.gradient(&mut report, "∂ℓ/∂θ", own, gradient, |parameters| {
            phi(LocalProblem {
                parameters,
                ..*problem
            })
        });
        if problem.layer.input_differentiable() {
            let (own, gradient) = (problem.input, &gradients.input);
            self.gradient(&mut report, "∂ℓ/∂z (input)", own, gradient, |input| {
                phi(LocalProblem { input, ..*problem })
            });
        }
        let (own, gradient) = (problem.target, &gradients.target);
        let phi = |target: &[T]| phi(LocalProblem { target, ..*problem });
        self.gradient(&mut report, "∂ℓ/∂z (target)", own, gradient, phi);
        report
    }

    /// Checks the gradient of an objective at a point.
    ///
    /// # Errors
    /// The errors of [`Objective::evaluate`], at the point or near it.
    pub fn objective<T: Scalar>(
        &self,
        objective: &dyn Objective<T>,
        point: &[T],
    ) -> Result<GradReport, Error> {
        let mut report = GradReport::default();
        let gradient = objective.gradient(point)?;
        let mut workspace = Workspace::new();
        let mut failure = None;
        let phi = |x: &[T]| match objective.evaluate(x, None, &mut workspace) {
            Ok(value) => (value, value.as_f64().abs()),
            Err(error) => {
                failure.get_or_insert(error);
                (T::zero(), 0.0)
            }
        };
        self.gradient(&mut report, "∂φ/∂x", point, &gradient, phi);
        failure.map_or(Ok(report), Err)
    }

    /// Checks all gradients of a decoupled circuit on all its examples: ∂E/∂θ_t and ∂E/∂z_t for
    /// every t, and backprop's gradients of the composed loss, in training and not.
    ///
    /// With targets from the forward pass, all gradients of E but those of the last layer are 0, and
    /// the check says little: use [`TargetInit::NoisyForwardPass`](crate::decoupled::TargetInit) or
    /// random targets.
    ///
    /// # Errors
    /// [`Error::NoExamples`], [`Error::NotInMemory`], [`Error::TargetsNotStored`].
    pub fn circuit<T: Scalar>(&self, model: &DecoupledCircuit<T>) -> Result<GradReport, Error> {
        let mut report = GradReport::default();
        let n = model.chosen(&Selection::All, "a gradient check")?.len();
        model.check_batch(n)?;
        model.examples.in_memory("a gradient check")?;
        model.examples.check_stored("a gradient check")?;
        self.circuit_in(&mut report, model, true);
        report.name_training(0);
        self.circuit_in(&mut report, model, false);
        Ok(report)
    }

    /// The checks of a circuit in training or not.
    fn circuit_in<T: Scalar>(
        &self,
        report: &mut GradReport,
        model: &DecoupledCircuit<T>,
        training: bool,
    ) {
        let (n, depth) = (model.examples().len(), model.circuit.depth());
        let (mut workspace, mut composed) = (Workspace::new(), Workspace::new());
        let whole = model.layers().on(model.examples.run(0..n, 0, training));
        let evaluation = whole.evaluate(All, &mut workspace);
        let gradients = Gradients::of(model.layers(), n, evaluation);
        let backprop = whole.backprop(&mut composed);
        let own = |t| backprop.parameter_gradient(t).to_vec();
        let backprop: Vec<Vec<T>> = (0..depth).map(own).collect();
        let mut energy =
            |problem: Problem<'_, T>| problem.evaluate(ValueAlone, &mut workspace).energy();
        let mut loss = |problem: Problem<'_, T>| problem.backprop(&mut composed).loss();
        let probe = &mut model.clone();
        let theta: Values<T> = |probe| probe.circuit.parameters_mut();
        let z: Values<T> = |probe| &mut probe.examples.z;
        let mut check = |derivative, of: Values<T>, t: usize, gradient: &[T], phi: Phi<'_, T>| {
            if gradient.is_empty() {
                return;
            }
            let own = of(probe)[t].clone();
            self.gradient(report, derivative, &own, gradient, |x| {
                of(probe)[t].copy_from_slice(x);
                let batch = probe.examples.run(0..n, 0, training);
                let value = phi(probe.layers().on(batch));
                (value, value.as_f64().abs())
            });
            report.name_layer(t);
            of(probe)[t].copy_from_slice(&own);
        };
        for (t, gradient) in gradients.parameters.iter().enumerate() {
            check("∂E/∂θ", theta, t, gradient, &mut energy);
        }
        for (t, gradient) in (1..).zip(&gradients.targets) {
            check("∂E/∂z", z, t, gradient.as_slice(), &mut energy);
        }
        for (t, gradient) in backprop.iter().enumerate() {
            check("∂L/∂θ by backprop", theta, t, gradient, &mut loss);
        }
    }
}

/// (f(x + h v) − f(x − h v)) / 2h, where h is the step that x + h v actually made after rounding.
fn difference<T: Scalar>(x: &[T], v: &[T], h: T, mut f: impl FnMut(&[T]) -> Vec<T>) -> Vec<T> {
    let moved = |sign: T| -> Vec<T> { x.iter().zip(v).map(|(&x, &v)| x + sign * h * v).collect() };
    let (plus, minus) = (moved(T::one()), moved(-T::one()));
    // For a single coordinate, divide by the step as rounded.
    let mut nonzero = v.iter().enumerate().filter(|(_, v)| !v.is_zero());
    let width = match (nonzero.next(), nonzero.next()) {
        (Some((j, &v)), None) => (plus[j] - minus[j]) / v,
        _ => h + h,
    };
    let (up, down) = (f(&plus), f(&minus));
    let slope = up.into_iter().zip(down).map(|(a, b)| (a - b) / width);
    slope.collect()
}

/// (Σ values, Σ |values|).
fn total<T: Scalar>(values: &[T]) -> Value<T> {
    let sum = values.iter().fold(T::zero(), |s, &v| s + v);
    (sum, values.iter().map(|v| v.as_f64().abs()).sum())
}

/// The largest |x_i|.
fn largest<T: Scalar>(x: &[T]) -> f64 {
    x.iter().fold(0.0, |top, v| top.max(v.as_f64().abs()))
}

fn nans<T: Scalar>(length: usize) -> Vec<T> {
    vec![T::zero() / T::zero(); length]
}

/// Divides every column of `v` by its length, unless that is 0.
fn normalise<T: Scalar>(v: &mut [T], dim: usize) {
    for column in v.chunks_exact_mut(dim) {
        let length = dot(column, column).sqrt();
        if length > T::zero() {
            column.iter_mut().for_each(|v| *v /= length);
        }
    }
}

fn check_equal(what: &str, [found, expected]: [usize; 2]) -> Result<(), Error> {
    if found == expected {
        return Ok(());
    }
    Err(Error::Length {
        what: what.into(),
        expected,
        found,
    })
}

fn check_pair<T: Scalar>(loss: &dyn Loss<T>, at: &Pair<'_, T>) -> Result<usize, Error> {
    let dim = at.dim;
    check_dimension("the dimension of a loss", dim)?;
    let n = at.examples();
    let groups = loss.parameters(dim);
    let parameters = groups.iter().map(|group| group.range.len()).sum();
    check_length("target", at.target, n * dim)?;
    check_length("prediction", at.prediction, n * dim)?;
    check_length("the loss's parameters", at.parameters, parameters)?;
    if n == 0 {
        return Err(Error::NoExamples {
            operation: "a gradient check",
        });
    }
    loss.check_target(dim, at.target)?;
    Ok(n)
}

/// The values of the loss, written to memory that held NaN, so that skipped values are noticed.
fn evaluate_loss<T: Scalar>(
    loss: &dyn Loss<T>,
    at: &Pair<'_, T>,
    d_target: Write<'_, T>,
    d_prediction: Write<'_, T>,
) -> Vec<T> {
    let n = at.examples();
    let (mut values, mut work) = (nans(n), nans(loss.scratch(at.dim, n)));
    loss.evaluate(at, &mut values, d_target, d_prediction, &mut work);
    values
}

fn loss_values<T: Scalar>(loss: &dyn Loss<T>, at: &Pair<'_, T>) -> Vec<T> {
    evaluate_loss(loss, at, Write::Skip, Write::Skip)
}

/// The gradients in target and prediction.
fn loss_gradients<T: Scalar>(loss: &dyn Loss<T>, at: &Pair<'_, T>) -> [Vec<T>; 2] {
    let [mut a, mut b] = [nans(at.target.len()), nans(at.target.len())];
    evaluate_loss(loss, at, Write::Set(&mut a), Write::Set(&mut b));
    [a, b]
}

/// A layer with its parameters, called with memory that holds NaN before every call.
struct LayerSubject<'a, T: Scalar> {
    layer: &'a dyn Layer<T>,
    parameters: &'a [T],
    seed: u64,
    training: bool,
    execution: Execution,
    /// Of the examples in a visit of training, and perhaps more.
    ids: &'a [u64],
}

impl<T: Scalar> LayerSubject<'_, T> {
    fn batch(&self, input: &[T]) -> usize {
        input.len() / self.layer.input_dim()
    }

    fn context(&self, input: &[T]) -> Context<'_> {
        let context = match self.training {
            true => Context::training(self.seed, 0, 0, &self.ids[..self.batch(input)]),
            false => Context::inference(self.seed, 0),
        };
        context.with_execution(self.execution)
    }

    fn work(&self, input: &[T]) -> Vec<T> {
        nans(self.layer.scratch(self.batch(input)).work)
    }

    fn call(&self, input: &[T], tape: Option<&mut [T]>) -> Vec<T> {
        let mut output = nans(self.layer.output_dim() * self.batch(input));
        let (context, work) = (self.context(input), &mut self.work(input));
        self.layer
            .forward(&context, self.parameters, input, &mut output, tape, work);
        output
    }

    fn forward(&self, input: &[T]) -> Vec<T> {
        self.at(input, |_, _| ()).0
    }

    /// The output, and the result of `product` with the tape.
    fn at<R>(
        &self,
        input: &[T],
        product: impl FnOnce(&Point<'_, T>, &mut [T]) -> R,
    ) -> (Vec<T>, R) {
        let mut tape = nans(self.layer.scratch(self.batch(input)).tape);
        let output = self.call(input, Some(&mut tape));
        let at = Point::new(self.context(input), self.parameters, input, &output, &tape);
        let made = product(&at, &mut self.work(input));
        (output, made)
    }

    fn vjp(&self, input: &[T], cotangent: &[T], d_input: Write<'_, T>, d_parameters: Write<'_, T>) {
        self.at(input, |at, work| {
            self.layer.vjp(at, cotangent, d_input, d_parameters, work);
        });
    }

    fn jvp(&self, input: &[T], v_input: Option<&[T]>, v_parameters: Option<&[T]>) -> Vec<T> {
        let mut tangent = nans(self.layer.output_dim() * self.batch(input));
        self.at(input, |at, work| {
            self.layer
                .jvp(at, v_input, v_parameters, &mut tangent, work);
        });
        tangent
    }
}
