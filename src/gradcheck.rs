//! Derivatives checked against central finite differences.

use std::fmt;

use crate::decoupled::{DecoupledCircuit, Selection};
use crate::energy::{LocalProblem, Value as ValueAlone, Workspace};
use crate::error::Error;
pub use crate::error::GradEntry;
use crate::init::{Purpose, add_noise, generator};
use crate::kernel::{Scalar, Write, dot};
use crate::layer::{Context, Layer, Point, parameter_count};
use crate::loss::{Loss, Pair};
use crate::objective::Objective;

/// Compares derivatives with central differences (φ(x + h) − φ(x − h)) / 2h.
///
/// The step is h = ε^⅓ max(1, |x|), which balances truncation (∝ h²) against rounding (∝ ε/h): with
/// values and derivatives of order 1 the attainable error is about ε^⅔, 4e-11 in `f64` and 2e-5 in
/// `f32`; 1e-6 and 5e-3 are safe tolerances for single coordinates, 1e-5 and 1e-2 along directions,
/// which move many coordinates at once.
///
/// The error of an entry is |analytic − numeric| divided by the largest entry of the same
/// derivative (or 1 % of φ's magnitude, if that is larger): a small entry cannot fail for the
/// rounding of φ alone, and an error that matters beside the largest entry is seen.
///
/// Cost: two evaluations of φ per coordinate (or a direction). It fails, rightly or not, at kinks
/// (ReLU within h of 0), where φ is so large that ε φ/h swamps the derivative, and for layers that
/// are not deterministic.
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
    /// `None`: every coordinate.
    directions: Option<usize>,
    seed: u64,
}

/// The outcome of a check.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GradReport {
    /// Numbers compared.
    pub compared: usize,
    /// The worst entry of every derivative that was checked.
    pub worst: Vec<GradEntry>,
}

impl GradReport {
    /// The worst entry of all; `None` if there was nothing to compare.
    pub fn worst_entry(&self) -> Option<&GradEntry> {
        self.worst.iter().max_by(|a, b| a.error.total_cmp(&b.error))
    }

    /// The largest error; 0 if there was nothing to compare.
    pub fn error(&self) -> f64 {
        self.worst_entry().map_or(0.0, |entry| entry.error)
    }

    /// Passes if no error exceeds `tolerance`.
    ///
    /// # Errors
    /// [`Error::WrongDerivative`] with the worst entry and both numbers.
    pub fn require(&self, tolerance: f64) -> Result<(), Error> {
        match self.worst_entry() {
            Some(worst) if worst.error > tolerance => Err(Error::WrongDerivative {
                entry: worst.clone(),
                tolerance,
            }),
            _ => Ok(()),
        }
    }

    /// Says of which layer the last derivative is.
    fn name_layer(&mut self, t: usize) {
        if let Some(entry) = self.worst.last_mut() {
            entry.layer = Some(t);
        }
    }

    /// Numbers that must be equal: any difference is an infinite error.
    fn add_exact<T: Scalar>(
        &mut self,
        derivative: &'static str,
        pairs: impl Iterator<Item = (T, T)>,
    ) {
        let before = self.worst.len();
        self.add(derivative, pairs, 0.0);
        for entry in &mut self.worst[before..] {
            if entry.error > 0.0 {
                entry.error = f64::INFINITY;
            }
        }
    }

    fn add<T: Scalar>(
        &mut self,
        derivative: &'static str,
        pairs: impl Iterator<Item = (T, T)>,
        magnitude: f64,
    ) {
        let pairs: Vec<(f64, f64)> = pairs.map(|(a, n)| (a.as_f64(), n.as_f64())).collect();
        let largest = pairs
            .iter()
            .flat_map(|&(a, n)| [a.abs(), n.abs()])
            .filter(|size| size.is_finite())
            .fold(0.01 * magnitude, f64::max);
        let entries = pairs
            .iter()
            .enumerate()
            .map(|(index, &(analytic, numeric))| {
                let difference = (analytic - numeric).abs();
                let error = if difference == 0.0 {
                    0.0
                } else if difference.is_finite() {
                    difference / largest
                } else {
                    f64::INFINITY
                };
                GradEntry {
                    derivative,
                    layer: None,
                    index,
                    analytic,
                    numeric,
                    error,
                }
            });
        self.worst
            .extend(entries.max_by(|a, b| a.error.total_cmp(&b.error)));
        self.compared += pairs.len();
    }
}

impl fmt::Display for GradReport {
    /// One line per derivative: its worst entry with both numbers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} numbers compared; the worst of each derivative:",
            self.compared
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

impl GradCheck {
    /// A check of every coordinate, with seed 0 for the random cotangents.
    pub fn new() -> Self {
        Self {
            directions: None,
            seed: 0,
        }
    }

    /// The same along `count` random directions instead of every coordinate: for large problems.
    pub fn with_directions(self, count: usize) -> Self {
        Self {
            directions: Some(count),
            ..self
        }
    }

    /// The same with another seed of cotangents and directions.
    pub fn with_seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    fn normal<T: Scalar>(&self, stream: u64, length: usize) -> Vec<T> {
        let mut rng = generator(self.seed, Purpose::Check, stream);
        let mut values = vec![T::zero(); length];
        add_noise(&mut values, 1.0, &mut rng);
        values
    }

    /// The directions to probe `x` along, each with the step h in it, one at a time: all unit
    /// vectors at once would take the square of x's memory.
    fn directions<T: Scalar>(&self, x: &[T]) -> impl Iterator<Item = (Vec<T>, T)> {
        let cube_root = T::default_epsilon().as_f64().cbrt();
        let size = |x: &[T]| x.iter().fold(0.0, |top: f64, v| top.max(v.as_f64().abs()));
        let count = self.directions.unwrap_or(x.len());
        (0..count).map(move |k| match self.directions {
            None => {
                let mut v = vec![T::zero(); x.len()];
                v[k] = T::one();
                (v, T::of(cube_root * x[k].as_f64().abs().max(1.0)))
            }
            Some(_) => {
                let v: Vec<T> = self.normal(1000 + k as u64, x.len());
                // Many coordinates move at once: the whole way stays within 10 steps.
                let length = dot(&v, &v).as_f64().sqrt();
                let h = cube_root * size(x).max(1.0) / (length / 10.0).max(1.0);
                (v, T::of(h))
            }
        })
    }

    /// Compares `gradient` of φ at x with differences.
    fn gradient<T: Scalar>(
        &self,
        report: &mut GradReport,
        derivative: &'static str,
        x: &[T],
        gradient: &[T],
        mut phi: impl FnMut(&[T]) -> Value<T>,
    ) {
        // Beside x too: at x itself φ and its gradient may both be zero.
        let (_, mut magnitude) = phi(x);
        let mut pairs = Vec::new();
        for (v, h) in self.directions(x) {
            let numeric = difference(x, &v, h, |x| {
                let (value, size) = phi(x);
                magnitude = magnitude.max(size);
                vec![value]
            });
            pairs.push((dot(gradient, &v), numeric[0]));
        }
        report.add(derivative, pairs.into_iter(), magnitude);
    }

    /// Compares the products of `jacobian` at x with differences of the vector function `f`.
    fn jacobian<T: Scalar>(
        &self,
        report: &mut GradReport,
        derivative: &'static str,
        x: &[T],
        mut product: impl FnMut(&[T]) -> Vec<T>,
        mut f: impl FnMut(&[T]) -> Vec<T>,
    ) {
        let at_x = f(x);
        let magnitude = at_x
            .iter()
            .fold(0.0, |top: f64, v| top.max(v.as_f64().abs()));
        let mut pairs = Vec::new();
        for (v, h) in self.directions(x) {
            let numeric = difference(x, &v, h, &mut f);
            pairs.extend(product(&v).into_iter().zip(numeric));
        }
        report.add(derivative, pairs.into_iter(), magnitude);
    }

    /// Checks a layer's VJP and JVP in input and parameters at one point, and that the products
    /// overwrite, add and skip as they are asked to, and that the output has the same bits without a
    /// tape.
    ///
    /// # Errors
    /// [`Error::Length`] if the slices do not fit the layer, [`Error::NoExamples`] for an empty
    /// input, and what the layer says of its input.
    pub fn layer<T: Scalar>(
        &self,
        layer: &dyn Layer<T>,
        parameters: &[T],
        input: &[T],
    ) -> Result<GradReport, Error> {
        crate::layer::validate(layer, 0)?;
        let length = |what: &str, expected, found| Error::Length {
            what: what.into(),
            expected,
            found,
        };
        let count = parameter_count(layer);
        if parameters.len() != count {
            return Err(length("parameters", count, parameters.len()));
        }
        let n = input.len() / layer.input_dim();
        if n * layer.input_dim() != input.len() {
            return Err(length("input", (n + 1) * layer.input_dim(), input.len()));
        }
        if n == 0 {
            return Err(Error::NoExamples {
                operation: "a gradient check",
            });
        }
        layer.check_input(input)?;
        let mut subject = LayerSubject::new(layer, n);
        let mut report = GradReport::default();
        let nan = T::zero() / T::zero();
        let wants_input = layer.input_differentiable();
        let u: Vec<T> = self.normal(0, n * layer.output_dim());

        let output = subject.forward(parameters, input);
        let tapeless = subject.forward_without_tape(parameters, input);
        report.add_exact("f without tape", tapeless.into_iter().zip(output));

        // Set, over whatever stood there.
        let mut d_input = vec![nan; input.len()];
        let mut d_parameters = vec![nan; count];
        let set_input = wants_input.then_some(&mut d_input[..]);
        subject.vjp(
            parameters,
            input,
            &u,
            Write::set(set_input),
            Write::Set(&mut d_parameters),
        );
        // Add to ones, each alone.
        let mut added_input = vec![T::one(); input.len()];
        let mut added_parameters = vec![T::one(); count];
        let add_parameters = Write::Add(&mut added_parameters[..]);
        subject.vjp(parameters, input, &u, Write::Skip, add_parameters);
        if wants_input {
            let add_input = Write::Add(&mut added_input[..]);
            subject.vjp(parameters, input, &u, add_input, Write::Skip);
        }

        let phi = |output: Vec<T>| {
            let terms = output.iter().zip(&u).map(|(o, u)| (*o * *u).as_f64().abs());
            (dot(&output, &u), terms.sum::<f64>())
        };
        if wants_input {
            self.gradient(&mut report, "∂f/∂z by vjp", input, &d_input, |z| {
                phi(subject.forward(parameters, z))
            });
            let sums = d_input.iter().map(|&d| d + T::one());
            report.add("∂f/∂z added by vjp", added_input.into_iter().zip(sums), 0.0);
            let jvp = |subject: &mut LayerSubject<'_, T>, v: &[T]| {
                subject.jvp(parameters, input, Some(v), None)
            };
            let mut other = LayerSubject::new(layer, n);
            self.jacobian(
                &mut report,
                "∂f/∂z by jvp",
                input,
                |v| jvp(&mut subject, v),
                |z| other.forward(parameters, z),
            );
        }
        self.gradient(
            &mut report,
            "∂f/∂θ by vjp",
            parameters,
            &d_parameters,
            |p| phi(subject.forward(p, input)),
        );
        let sums = d_parameters.iter().map(|&d| d + T::one());
        let added = added_parameters.into_iter().zip(sums);
        report.add("∂f/∂θ added by vjp", added, 0.0);
        let mut other = LayerSubject::new(layer, n);
        self.jacobian(
            &mut report,
            "∂f/∂θ by jvp",
            parameters,
            |v| subject.jvp(parameters, input, None, Some(v)),
            |p| other.forward(p, input),
        );
        Ok(report)
    }

    /// Checks a loss's gradients in target, prediction and its own parameters, and that they
    /// overwrite, add and skip as they are asked to.
    ///
    /// # Errors
    /// [`Error::ZeroDimension`], [`Error::Length`] or [`Error::NoExamples`] for slices that are not
    /// two matrices of `at.dim` rows and the loss's parameters, and what the loss says of its target.
    pub fn loss<T: Scalar>(
        &self,
        loss: &dyn Loss<T>,
        at: &Pair<'_, T>,
    ) -> Result<GradReport, Error> {
        let n = check_pair(loss, at)?;
        let mut report = GradReport::default();
        let (d_target, d_prediction) = loss_gradients(loss, at);
        let (added_target, added_prediction) = loss_gradients_added(loss, at);
        let added = |report: &mut GradReport, derivative, added: Vec<T>, gradient: &[T]| {
            let sums = gradient.iter().map(|&d| d + T::one());
            report.add(derivative, added.into_iter().zip(sums), 0.0);
        };
        let phi = |at: Pair<'_, T>| total(&loss_values(loss, &at));
        self.gradient(&mut report, "∂L/∂z", at.target, &d_target, |target| {
            phi(Pair { target, ..*at })
        });
        added(&mut report, "∂L/∂z added", added_target, &d_target);
        self.gradient(
            &mut report,
            "∂L/∂ẑ",
            at.prediction,
            &d_prediction,
            |prediction| phi(Pair { prediction, ..*at }),
        );
        added(&mut report, "∂L/∂ẑ added", added_prediction, &d_prediction);
        if !at.parameters.is_empty() {
            let factors: Vec<T> = self.normal(0, n);
            // NaN, so that a gradient which does not overwrite is seen.
            let nan = T::zero() / T::zero();
            let mut gradient = vec![nan; at.parameters.len()];
            let mut work = vec![T::zero(); loss.scratch(at.dim, n)];
            loss.parameter_gradient(at, &factors, Write::Set(&mut gradient), &mut work);
            let mut sum = vec![T::one(); gradient.len()];
            loss.parameter_gradient(at, &factors, Write::Add(&mut sum), &mut work);
            let weighted = |at: Pair<'_, T>| {
                let values = loss_values(loss, &at).into_iter().zip(&factors);
                total(&values.map(|(v, &f)| v * f).collect::<Vec<T>>())
            };
            self.gradient(
                &mut report,
                "∂L/∂φ",
                at.parameters,
                &gradient,
                |parameters| weighted(Pair { parameters, ..*at }),
            );
            added(&mut report, "∂L/∂φ added", sum, &gradient);
        }
        Ok(report)
    }

    /// Checks a loss's curvature product against differences of its gradient: the prediction's
    /// block, and with `joint` the whole Hessian in target and prediction.
    ///
    /// A loss whose curvature is only a semidefinite part of its Hessian fails this, rightly, in
    /// the blocks where it differs.
    ///
    /// # Errors
    /// Those of [`GradCheck::loss`].
    pub fn curvature<T: Scalar>(
        &self,
        loss: &dyn Loss<T>,
        at: &Pair<'_, T>,
        joint: bool,
    ) -> Result<GradReport, Error> {
        let n = check_pair(loss, at)?;
        let mut report = GradReport::default();
        let product = |v_target: Option<&[T]>, v_prediction: Option<&[T]>| {
            let length = at.dim * n;
            let (mut a, mut b) = (vec![T::zero(); length], vec![T::zero(); length]);
            let mut work = vec![T::zero(); loss.scratch(at.dim, n)];
            let (out_target, out_prediction) = (Write::Set(&mut a[..]), Write::Set(&mut b[..]));
            loss.curvature(
                at,
                v_target,
                v_prediction,
                out_target,
                out_prediction,
                &mut work,
            );
            (a, b)
        };
        let moved = |prediction: &[T]| loss_gradients(loss, &Pair { prediction, ..*at });
        self.jacobian(
            &mut report,
            "∂²L/∂ẑ²",
            at.prediction,
            |v| product(None, Some(v)).1,
            |z| moved(z).1,
        );
        if joint {
            self.jacobian(
                &mut report,
                "∂²L/∂z∂ẑ",
                at.prediction,
                |v| product(None, Some(v)).0,
                |z| moved(z).0,
            );
            let moved = |target: &[T]| loss_gradients(loss, &Pair { target, ..*at });
            self.jacobian(
                &mut report,
                "∂²L/∂z²",
                at.target,
                |v| product(Some(v), None).0,
                |z| moved(z).0,
            );
            self.jacobian(
                &mut report,
                "∂²L/∂ẑ∂z",
                at.target,
                |v| product(Some(v), None).1,
                |z| moved(z).1,
            );
        }
        Ok(report)
    }

    /// Checks the three gradients of a local problem: in θ_t, in z_t as input, in z_{t+1} as
    /// target.
    pub fn local_problem<T: Scalar>(&self, problem: &LocalProblem<'_, T>) -> GradReport {
        let mut report = GradReport::default();
        let gradients = problem.gradients();
        let mut workspace = problem.workspace();
        let mut phi = |problem: LocalProblem<'_, T>| {
            total(problem.evaluate(ValueAlone, &mut workspace).energies())
        };
        self.gradient(
            &mut report,
            "∂ℓ/∂θ",
            problem.parameters,
            &gradients.parameters,
            |parameters| {
                phi(LocalProblem {
                    parameters,
                    ..*problem
                })
            },
        );
        if problem.layer.input_differentiable() {
            self.gradient(
                &mut report,
                "∂ℓ/∂z (input)",
                problem.input,
                &gradients.input,
                |input| phi(LocalProblem { input, ..*problem }),
            );
        }
        self.gradient(
            &mut report,
            "∂ℓ/∂z (target)",
            problem.target,
            &gradients.target,
            |target| phi(LocalProblem { target, ..*problem }),
        );
        report
    }

    /// Checks the gradient of an objective at a point.
    ///
    /// # Errors
    /// Those of [`Objective::evaluate`], at the point or beside it.
    pub fn objective<T: Scalar>(
        &self,
        objective: &dyn Objective<T>,
        point: &[T],
    ) -> Result<GradReport, Error> {
        let mut report = GradReport::default();
        let gradient = objective.gradient(point)?;
        let mut workspace = Workspace::new();
        let mut failure = None;
        self.gradient(
            &mut report,
            "∂φ/∂x",
            point,
            &gradient,
            |x| match objective.evaluate(x, None, &mut workspace) {
                Ok(value) => (value, value.as_f64().abs()),
                Err(error) => {
                    failure.get_or_insert(error);
                    (T::zero(), 0.0)
                }
            },
        );
        failure.map_or(Ok(report), Err)
    }

    /// Checks all gradients of a decoupled circuit on all its examples: ∂E/∂θ_t and ∂E/∂z_t for
    /// every t, and backprop's gradients of the composed loss.
    ///
    /// # Errors
    /// [`Error::NoExamples`].
    pub fn circuit<T: Scalar>(&self, model: &DecoupledCircuit<T>) -> Result<GradReport, Error> {
        let mut report = GradReport::default();
        let n = model.examples().len();
        let gradients = model.gradients(&Selection::All)?;
        let backprop = model.backprop(&Selection::All)?;
        let (mut workspace, mut composed) = (Workspace::new(), Workspace::new());
        let mut probe = model.clone();
        let mut energy = |probe: &DecoupledCircuit<T>| {
            let problem = probe.layers().on(probe.examples.run(0..n, 0, false));
            let value = problem.evaluate(ValueAlone, &mut workspace).energy();
            (value, value.as_f64().abs())
        };
        for t in 0..model.circuit.depth() {
            let own = model.circuit.parameters(t);
            self.gradient(
                &mut report,
                "∂E/∂θ",
                own,
                &gradients.parameters[t],
                |p| {
                    probe.circuit.parameters_mut()[t].copy_from_slice(p);
                    energy(&probe)
                },
            );
            report.name_layer(t);
            probe.circuit.parameters_mut()[t].copy_from_slice(own);
        }
        for t in 1..model.circuit.depth() {
            let own = &model.examples.z[t];
            let gradient = gradients.targets[t - 1].as_slice();
            self.gradient(&mut report, "∂E/∂z", own, gradient, |z| {
                probe.examples.z[t].copy_from_slice(z);
                energy(&probe)
            });
            report.name_layer(t);
            probe.examples.z[t].copy_from_slice(own);
        }
        for t in 0..model.circuit.depth() {
            let own = model.circuit.parameters(t);
            let gradient = &backprop.parameters[t];
            self.gradient(&mut report, "∂L/∂θ by backprop", own, gradient, |p| {
                probe.circuit.parameters_mut()[t].copy_from_slice(p);
                let problem = probe.layers().on(probe.examples.run(0..n, 0, false));
                let loss = problem.backprop(&mut composed).loss();
                (loss, loss.as_f64().abs())
            });
            report.name_layer(t);
            probe.circuit.parameters_mut()[t].copy_from_slice(own);
        }
        Ok(report)
    }
}

/// (f(x + h v) − f(x − h v)) / 2h, with the h that x + h v really moved by.
fn difference<T: Scalar>(x: &[T], v: &[T], h: T, mut f: impl FnMut(&[T]) -> Vec<T>) -> Vec<T> {
    let moved = |sign: T| -> Vec<T> { x.iter().zip(v).map(|(&x, &v)| x + sign * h * v).collect() };
    let (plus, minus) = (moved(T::one()), moved(-T::one()));
    // For one coordinate, divide by the step as it was rounded.
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

fn check_pair<T: Scalar>(loss: &dyn Loss<T>, at: &Pair<'_, T>) -> Result<usize, Error> {
    let dim = at.dim;
    if dim == 0 {
        return Err(Error::ZeroDimension {
            what: "the dimension of a loss",
        });
    }
    let n = at.examples();
    let groups = loss.parameters(dim);
    let parameters = groups.iter().map(|group| group.range.len()).sum();
    for (what, expected, found) in [
        ("target", n * dim, at.target.len()),
        ("prediction", n * dim, at.prediction.len()),
        ("the loss's parameters", parameters, at.parameters.len()),
    ] {
        if found != expected {
            return Err(Error::Length {
                what: what.into(),
                expected,
                found,
            });
        }
    }
    if n == 0 {
        return Err(Error::NoExamples {
            operation: "a gradient check",
        });
    }
    loss.check_target(dim, at.target)?;
    Ok(n)
}

fn loss_values<T: Scalar>(loss: &dyn Loss<T>, at: &Pair<'_, T>) -> Vec<T> {
    let n = at.examples();
    // NaN, so that values which are not overwritten are seen.
    let mut values = vec![T::zero() / T::zero(); n];
    let mut work = vec![T::zero(); loss.scratch(at.dim, n)];
    loss.evaluate(at, &mut values, Write::Skip, Write::Skip, &mut work);
    values
}

fn loss_gradients<T: Scalar>(loss: &dyn Loss<T>, at: &Pair<'_, T>) -> (Vec<T>, Vec<T>) {
    let n = at.examples();
    let nan = T::zero() / T::zero();
    let (mut a, mut b) = (vec![nan; at.dim * n], vec![nan; at.dim * n]);
    let mut values = vec![T::zero(); n];
    let mut work = vec![T::zero(); loss.scratch(at.dim, n)];
    let (d_target, d_prediction) = (Write::Set(&mut a[..]), Write::Set(&mut b[..]));
    loss.evaluate(at, &mut values, d_target, d_prediction, &mut work);
    (a, b)
}

/// Both gradients added to ones, each alone.
fn loss_gradients_added<T: Scalar>(loss: &dyn Loss<T>, at: &Pair<'_, T>) -> (Vec<T>, Vec<T>) {
    let n = at.examples();
    let (mut a, mut b) = (vec![T::one(); at.dim * n], vec![T::one(); at.dim * n]);
    let mut values = vec![T::zero(); n];
    let mut work = vec![T::zero(); loss.scratch(at.dim, n)];
    loss.evaluate(at, &mut values, Write::Add(&mut a), Write::Skip, &mut work);
    loss.evaluate(at, &mut values, Write::Skip, Write::Add(&mut b), &mut work);
    (a, b)
}

/// A layer with memory to call it in.
struct LayerSubject<'a, T: Scalar> {
    layer: &'a dyn Layer<T>,
    output: Vec<T>,
    tape: Vec<T>,
    work: Vec<T>,
}

impl<'a, T: Scalar> LayerSubject<'a, T> {
    fn new(layer: &'a dyn Layer<T>, n: usize) -> Self {
        let scratch = layer.scratch(n);
        Self {
            layer,
            output: vec![T::zero(); layer.output_dim() * n],
            tape: vec![T::zero(); scratch.tape],
            work: vec![T::zero(); scratch.work],
        }
    }

    fn context(&self) -> Context<'static> {
        Context::inference(0, 0)
    }

    fn forward(&mut self, parameters: &[T], input: &[T]) -> Vec<T> {
        let context = self.context();
        let tape = Some(&mut self.tape[..]);
        self.layer.forward(
            &context,
            parameters,
            input,
            &mut self.output,
            tape,
            &mut self.work,
        );
        self.output.clone()
    }

    fn forward_without_tape(&mut self, parameters: &[T], input: &[T]) -> Vec<T> {
        let mut output = vec![T::zero(); self.output.len()];
        let context = self.context();
        self.layer.forward(
            &context,
            parameters,
            input,
            &mut output,
            None,
            &mut self.work,
        );
        output
    }

    fn vjp(
        &mut self,
        parameters: &[T],
        input: &[T],
        cotangent: &[T],
        d_input: Write<'_, T>,
        d_parameters: Write<'_, T>,
    ) {
        self.forward(parameters, input);
        let at = Point {
            context: self.context(),
            parameters,
            input,
            output: &self.output,
            tape: &self.tape,
        };
        self.layer
            .vjp(&at, cotangent, d_input, d_parameters, &mut self.work);
    }

    fn jvp(
        &mut self,
        parameters: &[T],
        input: &[T],
        v_input: Option<&[T]>,
        v_parameters: Option<&[T]>,
    ) -> Vec<T> {
        self.forward(parameters, input);
        // NaN, so that a product which does not overwrite is seen.
        let mut tangent = vec![T::zero() / T::zero(); self.output.len()];
        let at = Point {
            context: self.context(),
            parameters,
            input,
            output: &self.output,
            tape: &self.tape,
        };
        self.layer
            .jvp(&at, v_input, v_parameters, &mut tangent, &mut self.work);
        tangent
    }
}
