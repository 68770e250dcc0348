//! A diagnosis against plain computations example by example: every number of the report, λ_max
//! and λ_min against dense eigenvalues, staleness against the distance that it bounds; and what a planted error
//! does to the comparison.

use layerwise::data::metrics;
use layerwise::decoupled::{Selection, TargetInit};
use layerwise::diagnostics::{CurvatureDiagnostics, DiagnosticReport, Diagnostics};
use layerwise::energy::Energy;
use layerwise::error::Quantity;
use layerwise::init::Initializer;
use layerwise::layer::{Activation, Dense};
use layerwise::loss::{
    Huber, Poisson, SoftmaxCrossEntropy, SquaredError, SumOverPositions, WeightedSquaredError,
};
use layerwise::nalgebra::{DMatrix, DVector};
use layerwise::optimizer::{Adam, GradientDescent};
use layerwise::rand::rngs::ChaCha8Rng;
use layerwise::rand::{RngExt, SeedableRng};
use layerwise::regularizer::Regularizer;
use layerwise::target_solver::{ErrorDescent, ReverseSweep, StepSize};
use layerwise::theory;
use layerwise::training::{Backprop, Decoupling, Phase, Scheme, Trainer};
use layerwise::{Circuit, DecoupledCircuit, Error, Scalar};

/// λ₂ of R and of S.
const R: f64 = 0.03;
const S: f64 = 0.2;

fn uniform<T: Scalar>(rng: &mut ChaCha8Rng, rows: usize, columns: usize) -> DMatrix<T> {
    DMatrix::from_fn(rows, columns, |_, _| T::of(rng.random_range(-1.0..1.0)))
}

/// The default energy on a circuit, without examples.
fn decoupled(circuit: Circuit<f64>) -> DecoupledCircuit<f64> {
    DecoupledCircuit::new(circuit, Energy::default()).unwrap()
}

/// Tanh layers and a linear one, with everything that may weigh: μ by layer, example weights,
/// regularisers. The output is a softmax's logits, or, if `squared`, fitted itself.
fn model<T: Scalar>(seed: u64, widths: &[usize], n: usize, squared: bool) -> DecoupledCircuit<T> {
    let rng = &mut ChaCha8Rng::seed_from_u64(seed);
    let depth = widths.len() - 1;
    let mut builder = Circuit::<T>::builder().seed(seed);
    for (t, pair) in widths.windows(2).enumerate() {
        let activation = match t + 1 < depth {
            true => Activation::Tanh,
            false => Activation::Identity,
        };
        let layer = Dense::new(pair[0], pair[1], activation).unwrap();
        let gain = Initializer::Orthogonal { gain: 1.3 };
        let bias = Initializer::Constant { value: 0.1 };
        let layer = layer.with_weights(gain).unwrap().with_bias(bias).unwrap();
        builder = builder.layer(layer);
    }
    let mu = (1..depth).map(|t| T::of(0.4 + 0.7 * t as f64)).collect();
    let energy = match squared {
        true => Energy::new(SquaredError),
        false => Energy::new(SoftmaxCrossEntropy),
    };
    let energy = energy
        .with_penalties(mu)
        .with_parameter_regularizer(Regularizer::l2(R).unwrap())
        .with_target_regularizer(Regularizer::l2(S).unwrap());
    let mut model = DecoupledCircuit::new(builder.build().unwrap(), energy).unwrap();
    let x = uniform(rng, widths[0], n);
    let classes: Vec<usize> = (0..n).map(|i| (5 * i + 1) % widths[depth]).collect();
    let y = metrics::one_hot(&classes, widths[depth]).unwrap();
    let init = TargetInit::NoisyForwardPass { std: 0.4, seed };
    model.add_examples(&x, &y, &init).unwrap();
    let weights: Vec<T> = (0..n).map(|i| T::of(0.5 + (i % 4) as f64 / 2.0)).collect();
    model
        .set_example_weights(&Selection::All, &weights)
        .unwrap();
    model
}

/// Errors planted in the plain computation.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    NoPenalty,
    NoWeights,
    NoRegularizer,
    /// H_tt without the part of layer t.
    NoInputPart,
    /// Layers in reverse order.
    Reversed,
    /// H without the couplings of z_t and z_{t+1}.
    Uncoupled,
}

/// The same circuit and examples as plain matrices.
struct Plain {
    weights: Vec<DMatrix<f64>>,
    biases: Vec<DVector<f64>>,
    /// μ_1, …, μ_{T−1}, and 1.
    mu: Vec<f64>,
    /// z_0, …, z_T.
    z: Vec<DMatrix<f64>>,
    example_weights: Vec<f64>,
    squared: bool,
    fault: Fault,
    r: f64,
    s: f64,
}

/// What it computes; gradients of θ_t are (∂W, ∂b), and norms are over both.
struct Numbers {
    energies: Vec<f64>,
    composed: f64,
    accuracy: f64,
    gaps: Vec<f64>,
    /// Of every layer, flat.
    gradients: Vec<DVector<f64>>,
    backprop: Vec<DVector<f64>>,
    target_gradients: Vec<f64>,
    staleness: Vec<f64>,
    blocks: Vec<Eigenvalues>,
    whole: Eigenvalues,
    /// Σ⟨δ_t, ∂E/∂c_t⟩/μ_t and Σ‖δ_t‖²/μ_t.
    left: f64,
    errors: f64,
}

/// λ_max, λ_min and 1/κ: the extremes over the examples.
#[derive(Debug, Clone, Copy)]
struct Eigenvalues {
    largest: f64,
    smallest: f64,
    inverse_condition: f64,
}

impl Eigenvalues {
    const NONE: Self = Self {
        largest: 0.0,
        smallest: f64::INFINITY,
        inverse_condition: f64::INFINITY,
    };

    fn add(&mut self, matrix: &DMatrix<f64>) {
        let all = matrix.symmetric_eigenvalues();
        let (largest, smallest) = (all.max(), all.min());
        self.largest = self.largest.max(largest);
        self.smallest = self.smallest.min(smallest);
        self.inverse_condition = self.inverse_condition.min(smallest / largest);
    }
}

impl Plain {
    fn new<T: Scalar>(model: &DecoupledCircuit<T>, squared: bool, fault: Fault) -> Self {
        let circuit = model.circuit();
        let depth = circuit.depth();
        let dims = circuit.dims();
        let values = |t: usize| circuit.parameters(t).iter().map(|v| v.as_f64());
        let regularized = if fault == Fault::NoRegularizer {
            0.0
        } else {
            1.0
        };
        let mu = |t: usize| match fault {
            Fault::NoPenalty => 1.0,
            _ => model.layers().weight(t).as_f64(),
        };
        let weights = model.example_weights().unwrap();
        let weight = |w: &T| {
            if fault == Fault::NoWeights {
                1.0
            } else {
                w.as_f64()
            }
        };
        Self {
            weights: (0..depth)
                .map(|t| {
                    DMatrix::from_iterator(
                        dims[t + 1],
                        dims[t],
                        values(t).take(dims[t] * dims[t + 1]),
                    )
                })
                .collect(),
            biases: (0..depth)
                .map(|t| DVector::from_iterator(dims[t + 1], values(t).skip(dims[t] * dims[t + 1])))
                .collect(),
            mu: (0..depth).map(mu).collect(),
            z: (0..=depth)
                .map(|t| model.z(t).unwrap().map(|v| v.as_f64()))
                .collect(),
            example_weights: weights.iter().map(weight).collect(),
            squared,
            fault,
            r: R * regularized,
            s: S * regularized,
        }
    }

    fn depth(&self) -> usize {
        self.weights.len()
    }

    fn layer(&self, t: usize, z: &DVector<f64>) -> DVector<f64> {
        let a = &self.weights[t] * z + &self.biases[t];
        if t + 1 < self.depth() {
            a.map(f64::tanh)
        } else {
            a
        }
    }

    /// ∂f_t/∂z_t where f_t(z) = `prediction`.
    fn jacobian(&self, t: usize, prediction: &DVector<f64>) -> DMatrix<f64> {
        let slope = self.slope(t, prediction);
        DMatrix::from_diagonal(&slope) * &self.weights[t]
    }

    fn slope(&self, t: usize, prediction: &DVector<f64>) -> DVector<f64> {
        match t + 1 < self.depth() {
            true => prediction.map(|p| 1.0 - p * p),
            false => prediction.map(|_| 1.0),
        }
    }

    /// Value, gradient and curvature of layer t's loss in its prediction, μ included.
    fn loss(
        &self,
        t: usize,
        z: &DVector<f64>,
        prediction: &DVector<f64>,
    ) -> (f64, DVector<f64>, DMatrix<f64>) {
        let d = z.len();
        let mu = self.mu[t];
        if t + 1 < self.depth() || self.squared {
            let r = prediction - z;
            return (
                0.5 * mu * r.norm_squared(),
                mu * r,
                mu * DMatrix::identity(d, d),
            );
        }
        let top = prediction.max();
        let e = prediction.map(|x| (x - top).exp());
        let p = &e / e.sum();
        let value = -(0..d).map(|j| z[j] * p[j].ln()).sum::<f64>();
        (
            value,
            &p - z,
            DMatrix::from_diagonal(&p) - &p * p.transpose(),
        )
    }

    /// (∂W, ∂b) of layer t, flat, for ∂ℓ/∂ẑ = g.
    fn outer(
        &self,
        t: usize,
        z: &DVector<f64>,
        prediction: &DVector<f64>,
        g: &DVector<f64>,
    ) -> DVector<f64> {
        let g = g.component_mul(&self.slope(t, prediction));
        let w = &g * z.transpose();
        DVector::from_iterator(w.len() + g.len(), w.iter().chain(g.iter()).copied())
    }

    /// Biases do not decay.
    fn decayed(&self, t: usize) -> DVector<f64> {
        let zeros = std::iter::repeat_n(&0.0, self.biases[t].len());
        let (w, total) = (
            &self.weights[t],
            self.weights[t].len() + self.biases[t].len(),
        );
        DVector::from_iterator(total, w.iter().chain(zeros).copied())
    }

    /// The Gauss-Newton matrix in z of one example, with where each z_t's block starts.
    fn matrix(&self, i: usize) -> (DMatrix<f64>, Vec<usize>) {
        let depth = self.depth();
        let mut starts = vec![0];
        for t in 1..depth {
            starts.push(starts[t - 1] + self.z[t].nrows());
        }
        let size = starts[depth - 1];
        let mut h = DMatrix::zeros(size, size);
        for t in 0..depth {
            let input = self.z[t].column(i).into_owned();
            let target = self.z[t + 1].column(i).into_owned();
            let prediction = self.layer(t, &input);
            let (_, _, c) = self.loss(t, &target, &prediction);
            let j = self.jacobian(t, &prediction);
            if t + 1 < depth {
                // Squared L_h: μ in the target.
                let d = target.len();
                let mut own = h.view_mut((starts[t], starts[t]), (d, d));
                own += &c + self.s * DMatrix::identity(d, d);
            }
            if t > 0 && self.fault != Fault::NoInputPart {
                let d = input.len();
                let mut own = h.view_mut((starts[t - 1], starts[t - 1]), (d, d));
                own += j.transpose() * &c * &j;
            }
            if t > 0 && t + 1 < depth && self.fault != Fault::Uncoupled {
                let cross = -(&c * &j);
                let shape = cross.shape();
                let mut own = h.view_mut((starts[t], starts[t - 1]), shape);
                own.copy_from(&cross);
                let mut own = h.view_mut((starts[t - 1], starts[t]), (shape.1, shape.0));
                own.copy_from(&cross.transpose());
            }
        }
        (h, starts)
    }

    fn block(&self, i: usize, t: usize) -> DMatrix<f64> {
        let (h, starts) = self.matrix(i);
        let d = self.z[t].nrows();
        h.view((starts[t - 1], starts[t - 1]), (d, d)).into_owned()
    }

    /// ∂E/∂z_t of one example, without its weight.
    fn target_gradient(&self, i: usize, t: usize) -> DVector<f64> {
        let column = |t: usize| self.z[t].column(i).into_owned();
        let below = self.layer(t - 1, &column(t - 1));
        let above = self.layer(t, &column(t));
        let (_, g, _) = self.loss(t, &column(t + 1), &above);
        self.mu[t - 1] * (column(t) - below)
            + self.s * column(t)
            + self.jacobian(t, &above).transpose() * g
    }

    /// ∂E/∂c_1, …, ∂E/∂c_{T−1} of one example, without its weight: by ∂E/∂z and the chain.
    fn error_gradients(&self, i: usize) -> Vec<DVector<f64>> {
        let depth = self.depth();
        let mut all: Vec<DVector<f64>> = Vec::new();
        for t in (1..depth).rev() {
            let mut own = self.target_gradient(i, t);
            if let Some(above) = all.last() {
                let prediction = self.layer(t, &self.z[t].column(i).into_owned());
                own += self.jacobian(t, &prediction).transpose() * above;
            }
            all.push(own);
        }
        all.reverse();
        all
    }

    fn numbers(&self) -> Numbers {
        let (depth, n) = (self.depth(), self.z[0].ncols());
        let zeros = |t: usize| DVector::zeros(self.weights[t].len() + self.biases[t].len());
        let mut numbers = Numbers {
            energies: vec![0.0; depth],
            composed: 0.0,
            accuracy: 0.0,
            gaps: vec![0.0; depth - 1],
            gradients: (0..depth).map(zeros).collect(),
            backprop: (0..depth).map(zeros).collect(),
            target_gradients: vec![0.0; depth - 1],
            staleness: vec![0.0; depth - 1],
            blocks: vec![Eigenvalues::NONE; depth - 1],
            whole: Eigenvalues::NONE,
            left: 0.0,
            errors: 0.0,
        };
        for i in 0..n {
            let weight = self.example_weights[i];
            let column = |t: usize| self.z[t].column(i).into_owned();
            for t in 0..depth {
                let prediction = self.layer(t, &column(t));
                let (value, g, _) = self.loss(t, &column(t + 1), &prediction);
                let decay = self.r * self.decayed(t);
                let mut energy = value + 0.5 * self.r * self.weights[t].norm_squared();
                let own = self.outer(t, &column(t), &prediction, &g) + &decay;
                numbers.gradients[t] += weight * own;
                if t + 1 < depth {
                    energy += 0.5 * self.s * column(t + 1).norm_squared();
                    numbers.gaps[t] += (column(t + 1) - prediction).norm_squared() / n as f64;
                }
                numbers.energies[t] += weight * energy;
            }
            for t in 1..depth {
                let g = self.target_gradient(i, t);
                numbers.target_gradients[t - 1] += g.norm_squared() / n as f64;
                let h = self.block(i, t);
                let staleness = g.norm_squared() / (&h * &g).norm();
                numbers.staleness[t - 1] += staleness.powi(2) / n as f64;
                numbers.blocks[t - 1].add(&h);
            }
            numbers.whole.add(&self.matrix(i).0);
            // The plain forward pass, and backprop through it.
            let mut h = vec![column(0)];
            for t in 0..depth {
                h.push(self.layer(t, &h[t]));
            }
            let (value, mut delta, _) = self.loss(depth - 1, &column(depth), &h[depth]);
            numbers.composed += weight * value;
            let right = h[depth].imax() == column(depth).imax();
            numbers.accuracy += f64::from(u8::from(right)) / n as f64;
            for t in (0..depth).rev() {
                let own = self.outer(t, &h[t], &h[t + 1], &delta) + self.r * self.decayed(t);
                numbers.backprop[t] += weight * own;
                delta = self.jacobian(t, &h[t + 1]).transpose() * delta;
                if t > 0 {
                    let gradient = &self.error_gradients(i)[t - 1];
                    numbers.left += weight * delta.dot(gradient) / self.mu[t - 1];
                    numbers.errors += weight * delta.norm_squared() / self.mu[t - 1];
                }
            }
        }
        for squares in [
            &mut numbers.gaps,
            &mut numbers.target_gradients,
            &mut numbers.staleness,
        ] {
            squares.iter_mut().for_each(|own| *own = own.sqrt());
        }
        if self.fault == Fault::Reversed {
            numbers.energies.reverse();
            numbers.gaps.reverse();
            numbers.staleness.reverse();
        }
        numbers
    }
}

fn root(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// The largest difference of a report from the plain numbers, relative to each number or 1: of λ_max,
/// and of everything else.
fn deviations<T: Scalar>(report: &DiagnosticReport<T>, plain: &Numbers) -> (f64, f64) {
    let relative = |found: T, expected: f64| {
        let found = found.as_f64();
        assert!(found.is_finite());
        (found - expected).abs() / expected.abs().max(1.0)
    };
    let mut pairs = vec![
        (report.energy, plain.energies.iter().sum()),
        (report.composed_loss, plain.composed),
        (T::of(report.accuracy.unwrap()), plain.accuracy),
        (report.gap, root(&plain.gaps)),
        (report.target_gradient, root(&plain.target_gradients)),
        (
            T::of(report.relaxation.unwrap()),
            1.0 - plain.left / plain.errors,
        ),
    ];
    let spectrum = |own: Option<CurvatureDiagnostics<T>>, plain: Eigenvalues| {
        let own = own.unwrap();
        [
            (own.estimate.unwrap(), plain.largest),
            (own.smallest.unwrap(), plain.smallest),
            (T::one() / own.condition.unwrap(), plain.inverse_condition),
        ]
    };
    let mut curvatures = spectrum(report.curvature, plain.whole).to_vec();
    let join = |parts: &[DVector<f64>]| -> DVector<f64> {
        let all: Vec<f64> = parts.iter().flat_map(|own| own.iter().copied()).collect();
        DVector::from_vec(all)
    };
    let depth = report.layers.len();
    assert_eq!(depth, plain.energies.len());
    let layers = report.layers.iter().map(|own| own.parameters).zip(1..);
    let mut parts: Vec<_> = layers.map(|(own, t)| (own, t - 1..t)).collect();
    parts.push((report.parameters, 0..depth));
    let bounds: &[usize] = match depth {
        2 => &[0, 1, 2],
        3 => &[0, 1, 2, 3],
        4 => &[0, 1, 2, 3, 4],
        5 => &[0, 1, 2, 3, 5],
        9 => &[0, 2, 4, 6, 9],
        _ => panic!("a circuit of {depth} layers"),
    };
    assert_eq!(report.quarters.len(), bounds.len() - 1);
    let quarters = report.quarters.iter().zip(bounds.windows(2));
    parts.extend(quarters.map(|(own, bounds)| (*own, bounds[0]..bounds[1])));
    for (found, parts) in parts {
        let own = join(&plain.gradients[parts.clone()]);
        let backprop = join(&plain.backprop[parts]);
        let cosine = own.dot(&backprop) / (own.norm() * backprop.norm());
        pairs.push((found.norm, own.norm()));
        pairs.push((found.cosine.unwrap(), cosine));
        pairs.push((found.norm_ratio.unwrap(), own.norm() / backprop.norm()));
    }
    for (t, layer) in report.layers.iter().enumerate() {
        pairs.push((layer.energy, plain.energies[t]));
        let Some(target) = layer.target else {
            assert_eq!(t + 1, depth);
            continue;
        };
        pairs.push((target.gap, plain.gaps[t]));
        pairs.push((target.gradient, plain.target_gradients[t]));
        pairs.push((target.staleness.unwrap(), plain.staleness[t]));
        curvatures.extend(spectrum(target.curvature, plain.blocks[t]));
    }
    let worst = |pairs: &[(T, f64)]| {
        let each = pairs
            .iter()
            .map(|&(found, expected)| relative(found, expected));
        each.fold(0.0, f64::max)
    };
    (worst(&curvatures), worst(&pairs))
}

/// Widths, examples and output of the random circuits.
const CASES: [(u64, &[usize], usize, bool); 6] = [
    (1, &[3, 5, 4, 3], 6, false),
    (2, &[2, 7, 2], 5, false),
    (3, &[4, 3, 6, 5, 2], 7, true),
    (4, &[1, 2, 1, 3, 2], 4, true),
    (5, &[5, 1, 4, 6, 3, 3], 9, false),
    (6, &[3, 2, 4, 2, 3, 2, 3, 4, 2, 3], 4, false),
];

/// Everything, with as many iterations as the largest z has units.
fn everything() -> Diagnostics<'static> {
    Diagnostics::new().accuracy().with_curvature(40)
}

fn every_number<T: Scalar>(tolerance: f64) {
    for (seed, widths, n, squared) in CASES {
        let model = model::<T>(seed, widths, n, squared);
        let report = model.diagnose(&everything()).unwrap();
        assert_eq!(report.examples, n);
        let plain = Plain::new(&model, squared, Fault::None).numbers();
        let (curvature, others) = deviations(&report, &plain);
        assert!(
            curvature < tolerance,
            "case {seed}: eigenvalues off by {curvature}"
        );
        assert!(others < tolerance, "case {seed}: off by {others}");
    }
}

#[test]
fn every_number_in_f64() {
    every_number::<f64>(1e-10);
}

#[test]
fn every_number_in_f32() {
    every_number::<f32>(1e-4);
}

#[test]
fn a_planted_error_is_caught() {
    for (seed, widths, n, squared) in CASES {
        let model = model::<f64>(seed, widths, n, squared);
        let report = model.diagnose(&everything()).unwrap();
        for fault in [
            Fault::NoPenalty,
            Fault::NoWeights,
            Fault::NoRegularizer,
            Fault::NoInputPart,
            Fault::Reversed,
            Fault::Uncoupled,
        ] {
            let plain = Plain::new(&model, squared, fault).numbers();
            let (curvature, others) = deviations(&report, &plain);
            // Weights have no part in the eigenvalues; two layers have no coupling.
            let caught = match fault {
                Fault::Uncoupled if widths.len() == 3 => continue,
                Fault::Uncoupled => curvature,
                Fault::NoInputPart => curvature.min(others),
                Fault::NoPenalty | Fault::NoRegularizer => curvature.min(others),
                _ => others,
            };
            assert!(caught > 1e-3, "case {seed}, {fault:?}: {caught}");
        }
    }
}

/// 0 at the forward pass, 1 at the equilibrium. Between them, on a linear circuit, what gradient steps in
/// the errors leave: Σ g_i² (1 − ηλ_i)^K / Σ g_i² by the eigenvalues λ_i of E's Hessian in c.
#[test]
fn targets_go_from_the_forward_pass_to_the_equilibrium() {
    let mut model = linear(&[3, 4, 3, 5, 2], 6);
    model.set_penalties(&[2.0, 2.0, 2.0]).unwrap();
    model.initialize_targets(&TargetInit::ForwardPass).unwrap();
    let of = |model: &DecoupledCircuit<f64>| {
        let report = model.diagnose(&Diagnostics::new()).unwrap();
        report.relaxation.unwrap()
    };
    assert!(of(&model).abs() < 1e-14);
    // E = ½μ‖c‖² + ½‖P c + r‖², P = (P_1 P_2 P_3), P_t = W_3 ⋯ W_t and r = ẑ_4 − z_4.
    let plain = Plain::new(&model, true, Fault::NoRegularizer);
    let w = &plain.weights;
    let parts = [&w[3] * &w[2] * &w[1], &w[3] * &w[2], w[3].clone()];
    let columns: Vec<_> = parts.iter().flat_map(|own| own.column_iter()).collect();
    let p = DMatrix::from_columns(&columns);
    let hessian = DMatrix::identity(12, 12) * 2.0 + p.transpose() * &p;
    let spectrum = hessian.symmetric_eigen();
    let (rate, steps) = (0.9 / spectrum.eigenvalues.max(), 3);
    let x = model.z(0).unwrap().into_owned();
    let residuals = model.predict(&x).unwrap() - model.z(4).unwrap();
    let (mut left, mut all) = (0.0, 0.0);
    for (r, weight) in residuals.column_iter().zip(&plain.example_weights) {
        let g = spectrum.eigenvectors.transpose() * p.transpose() * r;
        for (g, value) in g.iter().zip(spectrum.eigenvalues.iter()) {
            left += weight * g * g * (1.0 - rate * value).powi(steps);
            all += weight * g * g;
        }
    }
    let solver = ErrorDescent::new(steps as u64).with_step(StepSize::Fixed(rate));
    model
        .solve_targets(&solver.unwrap(), &Selection::All)
        .unwrap();
    let (found, expected) = (of(&model), 1.0 - left / all);
    assert!((0.2..0.99).contains(&expected), "{expected}");
    assert!((found - expected).abs() < 1e-12, "{found} for {expected}");
    let z = theory::linear_minimiser(&model, &Selection::All).unwrap();
    for (t, z) in (1..).zip(z) {
        model.set_targets(t, &Selection::All, &z).unwrap();
    }
    assert!((of(&model) - 1.0).abs() < 1e-12, "{}", of(&model));
}

/// Errors, weights and penalties near the limits of the range: an example without errors to speak of leaves f̄ to
/// the others, and where all errors are that small it is not defined.
#[test]
fn how_far_targets_have_gone_does_not_overflow() {
    let chain = |weights: [f64; 3], y: &[f64]| {
        let mut builder = Circuit::builder();
        for _ in 0..3 {
            let layer = Dense::new(1, 1, Activation::Identity).unwrap();
            builder = builder.layer(layer.without_bias());
        }
        let circuit = builder.build().unwrap();
        let mut model = DecoupledCircuit::new(circuit, Energy::default()).unwrap();
        for (t, weight) in weights.into_iter().enumerate() {
            model.set_parameters(t, &[weight]).unwrap();
        }
        let x = DMatrix::from_fn(1, y.len(), |_, i| 0.5 * i as f64);
        let y = DMatrix::from_row_slice(1, y.len(), y);
        model
            .add_examples(&x, &y, &TargetInit::ForwardPass)
            .unwrap();
        model
    };
    let of =
        |model: &DecoupledCircuit<f64>| model.diagnose(&Diagnostics::new()).unwrap().relaxation;
    let far = DMatrix::from_element(1, 1, 1e10);
    let first = Selection::Columns(0..1);
    let mut small = chain([1.0; 3], &[1e-300, 2.0]);
    small.set_targets(1, &first, &far).unwrap();
    let found = of(&small);
    assert!(found.is_some_and(|own| own.abs() < 1e-14), "{found:?}");
    let mut light = chain([1.0; 3], &[1.0, 2.0]);
    light.set_penalties(&[1e-200; 2]).unwrap();
    light
        .set_example_weights(&Selection::All, &[1e-200; 2])
        .unwrap();
    let found = of(&light);
    assert!(found.is_some_and(|own| own.abs() < 1e-14), "{found:?}");
    let mut vanishing = chain([1.0, 1.0, 1e-310], &[2.0]);
    for t in [1, 2] {
        vanishing.set_targets(t, &Selection::All, &far).unwrap();
    }
    assert_eq!(of(&vanishing), None);
}

/// In the first visit of every measured epoch, where θ's gradients are computed; the run keeps its bits.
#[test]
fn epochs_tell_how_far_targets_have_gone() {
    let start = model::<f64>(3, &[4, 3, 6, 5, 2], 7, true);
    let sweep = || {
        ReverseSweep::new(2)
            .with_step(StepSize::Checked(0.1))
            .unwrap()
    };
    let descent = || GradientDescent::new(0.05).unwrap();
    let relaxed = |model: &DecoupledCircuit<f64>| {
        let report = model.diagnose(&Diagnostics::new()).unwrap();
        report.relaxation.unwrap()
    };
    let mut solved = start.clone();
    solved.solve_targets(&sweep(), &Selection::All).unwrap();
    let schemes: [(Box<dyn Scheme<f64>>, Option<f64>); 4] = [
        (
            Box::new(Decoupling::persistent(sweep())),
            Some(relaxed(&solved)),
        ),
        (
            Box::new(Decoupling::joint(descent())),
            Some(relaxed(&start)),
        ),
        (Box::new(Decoupling::weights_only()), Some(relaxed(&start))),
        (Box::new(Backprop), None),
    ];
    for (scheme, expected) in schemes {
        let phase = Phase::new(scheme, Adam::new(0.01).unwrap()).with_epochs(3);
        let trainer = Trainer::new(phase).with_measure_every(2);
        let (mut plain, mut measured) = (start.clone(), start.clone());
        let report = trainer.run(&mut plain).unwrap();
        assert!(report.history.iter().all(|own| own.relaxation.is_none()));
        let report = trainer
            .clone()
            .measure_relaxation()
            .run(&mut measured)
            .unwrap();
        let told: Vec<bool> = report
            .history
            .iter()
            .map(|own| own.relaxation.is_some())
            .collect();
        assert_eq!(told, [false, expected.is_some(), false]);
        for t in 0..4 {
            assert_eq!(
                plain.circuit().parameters(t),
                measured.circuit().parameters(t)
            );
        }
        let trainer = trainer.with_measure_every(1).measure_relaxation();
        let report = trainer.run(&mut start.clone()).unwrap();
        match (report.history[0].relaxation, expected) {
            (Some(found), Some(expected)) => {
                assert!((found - expected).abs() < 1e-12, "{found} for {expected}");
            }
            (found, expected) => assert_eq!(found, expected),
        }
    }
}

#[test]
fn numbers_that_stand_elsewhere_have_the_same_bits() {
    let model = model::<f32>(5, &[5, 1, 4, 6, 3, 3], 9, false);
    let report = model.diagnose(&Diagnostics::new()).unwrap();
    assert_eq!(report.energy, model.energy().unwrap());
    assert_eq!(report.composed_loss, model.composed_loss().unwrap());
    let energies: Vec<_> = report.layers.iter().map(|own| own.energy).collect();
    assert_eq!(energies, model.energies().unwrap());
    let targets = report.layers.iter().filter_map(|own| own.target);
    let gaps: Vec<_> = targets.map(|own| own.gap).collect();
    assert_eq!(gaps, model.gap().unwrap());
}

/// λ_max of the blocks, then of the whole: estimate and bound.
fn curvatures<T: Scalar>(model: &DecoupledCircuit<T>, options: &Diagnostics<'_>) -> Vec<[f64; 2]> {
    let report = model.diagnose(options).unwrap();
    let targets = report.layers.iter().filter_map(|own| own.target);
    let all = targets.map(|own| own.curvature).chain([report.curvature]);
    let both = |own: CurvatureDiagnostics<T>| {
        [own.estimate.unwrap().as_f64(), own.bound.unwrap().as_f64()]
    };
    all.map(|own| both(own.unwrap())).collect()
}

fn between<T: Scalar>(rounding: f64) {
    for (seed, widths, n, squared) in CASES {
        let model = model::<T>(seed, widths, n, squared);
        let plain = Plain::new(&model, squared, Fault::None).numbers();
        let all = plain.blocks.iter().chain([&plain.whole]);
        let exact: Vec<f64> = all.map(|own| own.largest).collect();
        let mut before = vec![0.0; exact.len()];
        for iterations in [1, 2, 3, 5, 8, 12, 40] {
            let options = Diagnostics::new()
                .with_curvature(iterations)
                .with_seed(seed);
            for (k, [estimate, bound]) in curvatures(&model, &options).into_iter().enumerate() {
                let at = format!("case {seed}, {k}, {iterations} iterations");
                let upper = exact[k] * (1.0 + rounding);
                assert!(estimate <= upper, "{at}: {estimate} above {}", exact[k]);
                assert!(
                    exact[k] <= bound * (1.0 + rounding),
                    "{at}: {bound} below {}",
                    exact[k]
                );
                assert!(
                    estimate >= before[k] * (1.0 - rounding),
                    "{at}: {estimate} fell"
                );
                if iterations >= 8 {
                    assert!(
                        estimate > 0.99 * exact[k],
                        "{at}: {estimate} of {}",
                        exact[k]
                    );
                }
                before[k] = estimate;
            }
        }
    }
}

#[test]
fn an_estimate_is_below_the_eigenvalue_and_that_below_the_bound() {
    between::<f64>(1e-13);
    between::<f32>(1e-5);
}

#[test]
fn another_seed_starts_elsewhere() {
    let model = model::<f64>(3, &[4, 3, 6, 5, 2], 7, true);
    let at = |seed, iterations| {
        let options = Diagnostics::new()
            .with_curvature(iterations)
            .with_seed(seed);
        curvatures(&model, &options)
    };
    assert_eq!(at(1, 2), at(1, 2));
    for (one, two) in at(1, 1).iter().zip(at(2, 1)) {
        assert_ne!(one[0], two[0]);
    }
    for (one, two) in at(1, 40).iter().zip(at(2, 40)) {
        assert!((one[0] / two[0] - 1.0).abs() < 1e-12);
    }
}

/// Every weight times c makes every curvature c times as large, and nothing else.
fn curvatures_have_the_unit_of_the_weights<T: Scalar>(units: &[f64], tolerance: f64) {
    let ratios = |c: f64| -> Vec<f64> {
        let unit = T::of(c);
        let circuit = Circuit::<T>::builder()
            .layer(Dense::new(2, 5, Activation::Tanh).unwrap())
            .layer(Dense::new(5, 5, Activation::Tanh).unwrap())
            .layer(Dense::new(5, 2, Activation::Tanh).unwrap())
            .seed(3);
        let loss = WeightedSquaredError::new(vec![unit; 2]).unwrap();
        let energy = Energy::new(loss).with_penalty(unit);
        let mut model = DecoupledCircuit::new(circuit.build().unwrap(), energy).unwrap();
        let rng = &mut ChaCha8Rng::seed_from_u64(8);
        let (x, y) = (uniform(rng, 2, 6), uniform(rng, 2, 6));
        let init = TargetInit::NoisyForwardPass { std: 0.3, seed: 1 };
        model.add_examples(&x, &y, &init).unwrap();
        let all = curvatures(&model, &Diagnostics::new().with_curvature(8));
        let own = all.iter().flatten();
        own.map(|own| own / unit.as_f64()).collect()
    };
    let expected = ratios(1.0);
    for &c in units {
        for (found, expected) in ratios(c).iter().zip(&expected) {
            let error = found / expected - 1.0;
            assert!(error.abs() < tolerance, "{c:e}: {found} for {expected}");
        }
    }
}

#[test]
fn curvatures_have_the_unit_of_the_weights_in_both_scalars() {
    curvatures_have_the_unit_of_the_weights::<f32>(&[1e-25, 1e-12, 1e12, 1e20], 1e-5);
    // Here products are subnormal, and the inverse of a coupling does not fit.
    curvatures_have_the_unit_of_the_weights::<f32>(&[1e-36, 1e-37, 2e-38], 1e-3);
    let units = [1e-170, 1e-100, 1e-12, 1e12, 1e100, 1e160];
    curvatures_have_the_unit_of_the_weights::<f64>(&units, 1e-13);
}

/// A chain of equal linear layers, J = μ = 1, T = 50: a block's λ_max is 2, the whole's 3.996.
#[test]
fn a_long_chain_has_the_curvature_of_its_couplings() {
    let depth = 50;
    let mut builder = Circuit::<f64>::builder();
    for _ in 0..depth {
        let one = Initializer::Constant { value: 1.0 };
        let layer = Dense::new(1, 1, Activation::Identity)
            .unwrap()
            .without_bias();
        builder = builder.layer(layer.with_weights(one).unwrap());
    }
    let mut model = decoupled(builder.build().unwrap());
    let one = DMatrix::from_element(1, 1, 1.0);
    model
        .add_examples(&one, &one, &TargetInit::ForwardPass)
        .unwrap();
    let all = curvatures(&model, &Diagnostics::new().with_curvature(49));
    for block in &all[..49] {
        assert!((block[0] - 2.0).abs() < 1e-12, "{block:?}");
        assert!((block[1] - 2.0).abs() < 1e-3, "{block:?}");
    }
    let exact = 2.0 + 2.0 * (std::f64::consts::PI / 50.0).cos();
    let [estimate, bound] = all[49];
    assert!((estimate - exact).abs() < 1e-10, "{estimate} for {exact}");
    assert!((bound - 4.0).abs() < 1e-3, "{bound}");
    // The smallest eigenvalue is 1000 times smaller.
    let report = model.diagnose(&Diagnostics::new().with_curvature(49));
    let whole = report.unwrap().curvature.unwrap();
    let least = 2.0 - 2.0 * (std::f64::consts::PI / 50.0).cos();
    let (smallest, condition) = (whole.smallest.unwrap(), whole.condition.unwrap());
    assert!((smallest - least).abs() < 1e-12, "{smallest} for {least}");
    assert!(
        (condition / (exact / least) - 1.0).abs() < 1e-10,
        "{condition}"
    );
    // A few iterations come near.
    let all = curvatures(&model, &Diagnostics::new().with_curvature(15));
    assert!((3.9..exact).contains(&all[49][0]), "{}", all[49][0]);
}

#[test]
fn an_example_has_its_own_curvature_in_every_batch() {
    let model = model::<f64>(1, &[3, 5, 4, 3], 9, false);
    let of = |selection| {
        let options = Diagnostics::new()
            .with_curvature(3)
            .with_selection(selection);
        let all = curvatures(&model, &options);
        all.iter().map(|own| own[0]).collect::<Vec<_>>()
    };
    let alone: Vec<Vec<f64>> = (0..9).map(|i| of(Selection::Columns(i..i + 1))).collect();
    let top = |places: &[usize]| -> Vec<f64> {
        let each = |k: usize| places.iter().map(move |&i| (i, k));
        (0..3)
            .map(|k| each(k).map(|(i, k)| alone[i][k]).fold(0.0, f64::max))
            .collect()
    };
    assert_eq!(of(Selection::All), top(&[0, 1, 2, 3, 4, 5, 6, 7, 8]));
    assert_eq!(of(Selection::Columns(2..6)), top(&[2, 3, 4, 5]));
    assert_eq!(of(Selection::Examples(&[8, 0, 5])), top(&[8, 0, 5]));
    // And not all the same.
    assert_ne!(alone[0], alone[1]);
}

#[test]
fn more_examples_than_a_block_are_added_up() {
    let n = 1500;
    let model = model::<f64>(6, &[2, 3, 2, 3], n, false);
    let plain = Plain::new(&model, false, Fault::None).numbers();
    let whole = model.diagnose(&everything()).unwrap();
    let (curvature, others) = deviations(&whole, &plain);
    assert!(curvature < 1e-10 && others < 1e-10, "{curvature}, {others}");
    // In another order, gathered: the same but for rounding.
    let backwards: Vec<u64> = (0..n as u64).rev().collect();
    let labels: Vec<usize> = (0..n).rev().map(|i| (5 * i + 1) % 3).collect();
    let options = everything()
        .with_selection(Selection::Examples(&backwards))
        .with_labels(&labels);
    let (curvature, others) = deviations(&model.diagnose(&options).unwrap(), &plain);
    assert!(curvature < 1e-10 && others < 1e-10, "{curvature}, {others}");
}

#[test]
fn at_the_forward_pass_only_the_last_layer_has_a_gradient() {
    let dense = |input, output| Dense::new(input, output, Activation::Tanh).unwrap();
    let circuit = Circuit::<f64>::builder()
        .layer(dense(3, 5))
        .layer(dense(5, 4))
        .layer(dense(4, 6))
        .layer(dense(6, 2))
        .build();
    let mut model = decoupled(circuit.unwrap());
    let rng = &mut ChaCha8Rng::seed_from_u64(3);
    let (x, y) = (uniform(rng, 3, 7), uniform(rng, 2, 7));
    model
        .add_examples(&x, &y, &TargetInit::ForwardPass)
        .unwrap();
    let report = model.diagnose(&Diagnostics::new()).unwrap();
    assert_eq!(report.energy, report.composed_loss);
    assert_eq!(report.gap, 0.0);
    for t in 0..3 {
        let layer = &report.layers[t];
        let target = layer.target.unwrap();
        assert_eq!(
            (layer.energy, layer.parameters.norm, target.gap),
            (0.0, 0.0, 0.0)
        );
        assert_eq!(layer.parameters.cosine, None);
        assert_eq!(layer.parameters.norm_ratio, Some(0.0));
        let moved = t == 2;
        assert_eq!(target.staleness.unwrap() > 0.0, moved, "z_{}", t + 1);
        assert_eq!(target.gradient > 0.0, moved, "z_{}", t + 1);
    }
    let last = report.layers[3].parameters;
    assert!((last.cosine.unwrap() - 1.0).abs() < 1e-12);
    assert!((last.norm_ratio.unwrap() - 1.0).abs() < 1e-12);
    // The rest of backprop's gradient is missing.
    assert!(report.parameters.norm_ratio.unwrap() < 1.0);
    assert!(report.parameters.cosine.unwrap() < 1.0);
}

/// Linear layers of these widths, squared losses, μ = ½, and targets away from the forward pass.
fn linear(widths: &[usize], n: usize) -> DecoupledCircuit<f64> {
    let mut builder = Circuit::<f64>::builder().seed(8);
    for pair in widths.windows(2) {
        let layer = Dense::new(pair[0], pair[1], Activation::Identity).unwrap();
        builder = builder.layer(layer);
    }
    let energy = Energy::default().with_penalty(0.5);
    let mut model = DecoupledCircuit::new(builder.build().unwrap(), energy).unwrap();
    let rng = &mut ChaCha8Rng::seed_from_u64(5);
    let x = uniform(rng, widths[0], n);
    let y = uniform(rng, widths[widths.len() - 1], n);
    let random = TargetInit::RandomNormal { std: 1.0, seed: 4 };
    model.add_examples(&x, &y, &random).unwrap();
    let weights: Vec<f64> = (0..n).map(|i| 0.5 + i as f64).collect();
    model
        .set_example_weights(&Selection::All, &weights)
        .unwrap();
    model
}

fn staleness(model: &DecoupledCircuit<f64>, t: usize) -> f64 {
    let report = model.diagnose(&Diagnostics::new()).unwrap();
    report.layers[t - 1].target.unwrap().staleness.unwrap()
}

/// Root mean square over examples of the distance of z_t from its minimiser of E, all else fixed, and
/// of the weaker bound ‖g‖/λ_max.
fn distance(model: &DecoupledCircuit<f64>, t: usize) -> (f64, f64) {
    let mut plain = Plain::new(model, true, Fault::None);
    (plain.r, plain.s) = (0.0, 0.0);
    // No tanh here.
    let n = plain.z[0].ncols();
    let (mut squares, mut weaker) = (0.0, 0.0);
    let column = |t: usize, i: usize| plain.z[t].column(i).into_owned();
    let affine = |t: usize, z: &DVector<f64>| &plain.weights[t] * z + &plain.biases[t];
    for i in 0..n {
        let (below, w) = (affine(t - 1, &column(t - 1, i)), &plain.weights[t]);
        let g = plain.mu[t - 1] * (column(t, i) - below)
            + plain.mu[t] * w.transpose() * (affine(t, &column(t, i)) - column(t + 1, i));
        let d = g.len();
        let h = plain.mu[t - 1] * DMatrix::identity(d, d) + plain.mu[t] * w.transpose() * w;
        let away = h.clone().cholesky().unwrap().solve(&g);
        squares += away.norm_squared() / n as f64;
        weaker += (g.norm() / h.symmetric_eigenvalues().max()).powi(2) / n as f64;
    }
    (squares.sqrt(), weaker.sqrt())
}

#[test]
fn staleness_is_the_distance_from_the_minimiser_where_widths_are_1() {
    let model = linear(&[2, 1, 1, 1, 3], 5);
    for t in 1..4 {
        let (expected, _) = distance(&model, t);
        let found = staleness(&model, t);
        assert!(
            (found - expected).abs() < 1e-12,
            "z_{t}: {found} for {expected}"
        );
        assert!(expected > 0.1);
    }
}

#[test]
fn staleness_is_between_two_bounds_elsewhere() {
    let model = linear(&[2, 4, 3, 6, 2], 5);
    for t in 1..4 {
        let (distance, weaker) = distance(&model, t);
        let found = staleness(&model, t);
        assert!(
            weaker < found && found < distance,
            "z_{t}: {weaker}, {found}, {distance}"
        );
    }
}

#[test]
fn targets_at_rest_go_stale_as_parameters_move() {
    // One hidden layer: the minimiser in z_1 alone is that of E.
    let mut model = linear(&[2, 4, 3], 5);
    let solver = layerwise::target_solver::GaussNewton::new(3, 20);
    model.solve_targets(&solver, &Selection::All).unwrap();
    let rest = staleness(&model, 1);
    assert!(rest < 1e-9, "{rest}");
    let before = model.circuit().parameters(0).to_vec();
    let mut last = rest;
    for step in [0.01, 0.1, 1.0] {
        let moved: Vec<f64> = before.iter().map(|v| v + step).collect();
        model.set_parameters(0, &moved).unwrap();
        let found = staleness(&model, 1);
        assert!(found > 5.0 * last, "{last} to {found}");
        last = found;
    }
}

/// Four weights of 1e100 overflow in backprop's chain, and in no local problem.
#[test]
fn a_gradient_that_is_left_out_may_overflow() {
    let mut builder = Circuit::builder();
    for _ in 0..5 {
        let unit = Dense::new(1, 1, Activation::Identity).unwrap();
        builder = builder.layer(unit.without_bias());
    }
    let mut model = decoupled(builder.build().unwrap());
    for t in 1..5 {
        model.set_parameters(t, &[1e100]).unwrap();
    }
    let (x, y) = (DMatrix::zeros(1, 1), DMatrix::from_element(1, 1, 1.0));
    model
        .add_examples(&x, &y, &TargetInit::ForwardPass)
        .unwrap();
    let error = model.diagnose(&Diagnostics::new()).unwrap_err();
    let quantity = Quantity::ParameterGradient;
    assert_eq!(error, Error::Overflow { quantity, layer: 0 });
    let report = model
        .diagnose(&Diagnostics::new().without_backprop())
        .unwrap();
    assert_eq!(report.composed_loss, 0.5);
}

#[test]
fn what_is_left_out_or_not_defined_is_none() {
    let model = model::<f64>(1, &[3, 5, 4, 3], 6, false);
    let all = model.diagnose(&everything()).unwrap();
    let some = model
        .diagnose(&Diagnostics::new().without_backprop())
        .unwrap();
    let mut expected = all.clone();
    (expected.accuracy, expected.curvature) = (None, None);
    expected.relaxation = None;
    for gradients in expected
        .layers
        .iter_mut()
        .map(|layer| &mut layer.parameters)
        .chain([&mut expected.parameters])
        .chain(&mut expected.quarters)
    {
        (gradients.cosine, gradients.norm_ratio) = (None, None);
    }
    for target in expected
        .layers
        .iter_mut()
        .filter_map(|own| own.target.as_mut())
    {
        target.curvature = None;
    }
    assert_eq!(some, expected);

    // One layer: no z at all.
    let one = self::model::<f64>(2, &[3, 2], 4, false);
    let report = one.diagnose(&everything()).unwrap();
    assert_eq!((report.gap, report.target_gradient), (0.0, 0.0));
    assert_eq!((report.layers.len(), report.curvature), (1, None));
    assert_eq!(report.layers[0].target, None);
    assert!((report.parameters.cosine.unwrap() - 1.0).abs() < 1e-12);

    // No bound, and a valid estimate.
    let dense = |input, output| Dense::new(input, output, Activation::Identity).unwrap();
    let circuit = Circuit::<f64>::builder()
        .layer(dense(2, 3))
        .layer(dense(3, 1))
        .build();
    let mut model = DecoupledCircuit::new(circuit.unwrap(), Energy::new(Poisson)).unwrap();
    let ones = DMatrix::from_element(2, 1, 1.0);
    let count = DMatrix::from_element(1, 1, 2.0);
    model
        .add_examples(&ones, &count, &TargetInit::ForwardPass)
        .unwrap();
    let report = model
        .diagnose(&Diagnostics::new().with_curvature(5))
        .unwrap();
    let own = report.layers[0].target.unwrap().curvature.unwrap();
    assert_eq!(own.bound, None);
    assert_eq!(report.curvature.unwrap().bound, None);
    let (w, rate) = (
        model.circuit().parameters(1),
        model.predict(&ones).unwrap()[0].exp(),
    );
    let exact = 1.0 + rate * w[..3].iter().map(|w| w * w).sum::<f64>();
    assert!((own.estimate.unwrap() / exact - 1.0).abs() < 1e-12);
}

#[test]
fn a_slope_without_curvature_has_no_staleness() {
    // Far out, Huber's loss is straight, and layer 1 does not feel its input.
    let dense = |input, output| {
        let layer = Dense::new(input, output, Activation::Identity).unwrap();
        layer.with_weights(Initializer::Zeros).unwrap()
    };
    let circuit = Circuit::<f64>::builder()
        .layer(dense(1, 2))
        .layer(dense(2, 1))
        .build();
    let energy = Energy::default().with_hidden_loss(Huber::new(0.5).unwrap());
    let mut model = DecoupledCircuit::new(circuit.unwrap(), energy).unwrap();
    let zero = DMatrix::zeros(1, 2);
    model
        .add_examples(&zero, &zero, &TargetInit::ForwardPass)
        .unwrap();
    let staleness = |model: &DecoupledCircuit<f64>| {
        let report = model
            .diagnose(&Diagnostics::new().with_curvature(2))
            .unwrap();
        let target = report.layers[0].target.unwrap();
        (
            target.staleness,
            target.curvature.unwrap().estimate.unwrap(),
        )
    };
    assert_eq!(staleness(&model).0, Some(0.0));
    let far = DMatrix::from_row_slice(2, 2, &[0.0, 9.0, 0.0, 9.0]);
    model.set_targets(1, &Selection::All, &far).unwrap();
    // The other example has a curvature still.
    assert_eq!(staleness(&model), (None, 1.0));
}

#[test]
fn accuracy_is_of_labels_or_of_targets() {
    let model = model::<f64>(1, &[3, 5, 4, 3], 8, false);
    let predictions = model.predict(&model.z(0).unwrap().into_owned()).unwrap();
    let found = metrics::labels(&predictions);
    let accuracy = |options: Diagnostics<'_>| model.diagnose(&options).unwrap().accuracy;
    assert_eq!(accuracy(Diagnostics::new().with_labels(&found)), Some(1.0));
    let mut labels = found.clone();
    labels[6] = (labels[6] + 1) % 3;
    assert_eq!(
        accuracy(Diagnostics::new().with_labels(&labels)),
        Some(7.0 / 8.0)
    );
    // In the order of the selection.
    let own = [labels[6], labels[2]];
    let two = Selection::Examples(&[6, 2]);
    let options = Diagnostics::new().with_selection(two.clone());
    assert_eq!(accuracy(options.with_labels(&own)), Some(0.5));
    let expected = metrics::accuracy(
        &metrics::labels(&model.z(3).unwrap().into_owned()),
        &predictions,
    );
    assert_eq!(accuracy(Diagnostics::new().accuracy()), expected.ok());
    // The last call counts.
    let options = Diagnostics::new().accuracy().with_labels(&found);
    assert_eq!(accuracy(options), Some(1.0));
}

/// Under a loss over positions every position has a class, as in `predict_labels`.
#[test]
fn accuracy_is_of_positions_too() {
    let (positions, classes, n) = (2, 3, 2500);
    let circuit = Circuit::<f64>::builder()
        .layer(Dense::new(2, positions * classes, Activation::Identity).unwrap());
    let loss = SumOverPositions::new(positions, SoftmaxCrossEntropy).unwrap();
    let mut model = DecoupledCircuit::new(circuit.build().unwrap(), Energy::new(loss)).unwrap();
    let x = uniform(&mut ChaCha8Rng::seed_from_u64(3), 2, n);
    let found = model.predict_labels(&x).unwrap();
    // The second position of every fourth example has another class.
    let mut labels = found.clone();
    for i in (0..n).step_by(4) {
        labels[positions * i + 1] = (found[positions * i + 1] + 1) % classes;
    }
    let y = metrics::one_hot(&labels, classes).unwrap();
    let y = DMatrix::from_column_slice(positions * classes, n, y.as_slice());
    model
        .add_examples(&x, &y, &TargetInit::ForwardPass)
        .unwrap();
    let accuracy = |options: Diagnostics<'_>| model.diagnose(&options).map(|own| own.accuracy);
    assert_eq!(accuracy(Diagnostics::new().accuracy()), Ok(Some(0.875)));
    assert_eq!(
        accuracy(Diagnostics::new().with_labels(&labels)),
        Ok(Some(0.875))
    );
    assert_eq!(
        accuracy(Diagnostics::new().with_labels(&found)),
        Ok(Some(1.0))
    );
    let wrong = accuracy(Diagnostics::new().with_labels(&labels[..n]));
    assert!(matches!(
        wrong,
        Err(Error::Length {
            expected: 5000,
            found: 2500,
            ..
        })
    ));
    // A class of another position.
    labels[7] = classes;
    let unknown = accuracy(Diagnostics::new().with_labels(&labels));
    assert!(matches!(unknown, Err(Error::UnknownClass { .. })));
}

/// λ_max of one example is beyond the numbers: so is the largest, whatever that of the others is.
#[test]
fn an_unknown_curvature_is_not_passed_over() {
    let far = |order: [usize; 2]| {
        let layer = |activation| Dense::new(1, 1, activation).unwrap().without_bias();
        let circuit = Circuit::<f64>::builder()
            .layer(layer(Activation::Identity))
            .layer(layer(Activation::Relu));
        let mut model = decoupled(circuit.build().unwrap());
        model.set_parameters(0, &[1.0]).unwrap();
        model.set_parameters(1, &[1e160]).unwrap();
        // Active at 10⁻¹⁷⁰, with the curvature 10³²⁰; not active at −1.
        let z = DMatrix::from_row_slice(1, 2, &order.map(|i| [1e-170, -1.0][i]));
        let given = TargetInit::Given(vec![z.clone()]);
        model
            .add_examples(&z, &DMatrix::zeros(1, 2), &given)
            .unwrap();
        model
            .diagnose(&Diagnostics::new().with_curvature(3))
            .unwrap()
    };
    for order in [[0, 1], [1, 0], [0, 0]] {
        let report = far(order);
        let of_layer = report.layers[0].target.unwrap().curvature.unwrap();
        assert_eq!(of_layer.estimate, None, "{order:?}");
        assert_eq!(report.curvature.unwrap().estimate, None, "{order:?}");
    }
    let report = far([1, 1]);
    let known = report.curvature.unwrap().estimate.unwrap();
    assert!((known - 1.0).abs() < 1e-14, "{known}");
}

/// One output is no class's, whoever gives the classes.
#[test]
fn one_output_has_no_accuracy() {
    let model = model::<f64>(1, &[3, 5, 1], 4, true);
    for options in [
        Diagnostics::new().accuracy(),
        Diagnostics::new().with_labels(&[0; 4]),
    ] {
        let error = model.diagnose(&options).unwrap_err();
        assert!(
            matches!(error, Error::InvalidOption { value: 1.0, .. }),
            "{error}"
        );
    }
}

#[test]
fn what_cannot_be_diagnosed_is_an_error() {
    let model = model::<f64>(1, &[3, 5, 4, 3], 6, false);
    let error = |options: Diagnostics<'_>| model.diagnose(&options).unwrap_err();
    let none = Error::NoExamples {
        operation: "diagnostics",
    };
    assert_eq!(
        error(Diagnostics::new().with_selection(Selection::Columns(2..2))),
        none
    );
    let empty = decoupled(model.circuit().clone());
    assert_eq!(empty.diagnose(&Diagnostics::new()).unwrap_err(), none);
    assert_eq!(
        error(Diagnostics::new().with_selection(Selection::Examples(&[7]))),
        Error::UnknownExample {
            example: 7,
            count: 6
        }
    );
    assert_eq!(
        error(Diagnostics::new().with_labels(&[0; 5])),
        Error::Length {
            what: "labels".into(),
            expected: 6,
            found: 5
        }
    );
    assert_eq!(
        error(Diagnostics::new().with_labels(&[0, 1, 2, 3, 0, 0])),
        Error::UnknownClass {
            column: 3,
            class: 3,
            classes: 3
        }
    );
    let invalid = |error: Error, name: &str| match error {
        Error::InvalidOption { option, .. } => assert!(option.contains(name), "{option}"),
        other => panic!("{other}"),
    };
    invalid(error(Diagnostics::new().with_curvature(0)), "iterations");
    let one = linear(&[2, 3, 1], 4);
    invalid(
        one.diagnose(&Diagnostics::new().accuracy()).unwrap_err(),
        "accuracy",
    );
}

#[test]
fn numbers_beyond_the_scalar_are_named() {
    let mut model = linear(&[2, 3, 1], 4);
    let huge = vec![1e200; 9];
    model.set_parameters(0, &huge).unwrap();
    let error = model
        .diagnose(&Diagnostics::new().with_curvature(3))
        .unwrap_err();
    let expected = Error::Overflow {
        quantity: Quantity::Energy,
        layer: 0,
    };
    assert_eq!(error, expected);
}

#[test]
fn the_table_has_a_line_a_layer_and_one_for_the_whole() {
    let model = model::<f32>(1, &[3, 5, 4, 3], 6, false);
    let report = model.diagnose(&everything()).unwrap();
    let table = report.to_string();
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 1 + 3 + 1 + 2, "{table}");
    let width = lines[0].chars().count();
    assert!(lines[..5].iter().all(|line| line.chars().count() == width));
    let cells = |line: usize| lines[line].split_whitespace().collect::<Vec<_>>();
    for t in 0..3 {
        let (layer, cells) = (&report.layers[t], cells(1 + t));
        assert_eq!(cells.len(), 10, "{table}");
        assert_eq!(cells[0], t.to_string());
        assert_eq!(cells[1], format!("{:.3e}", layer.energy));
        assert_eq!(cells[3], format!("{:.3e}", layer.parameters.norm));
        assert_eq!(cells[4], format!("{:.4}", layer.parameters.cosine.unwrap()));
        let Some(target) = layer.target else {
            assert_eq!([cells[2], cells[6], cells[7], cells[8], cells[9]], ["-"; 5]);
            continue;
        };
        assert_eq!(cells[2], format!("{:.3e}", target.gap));
        assert_eq!(cells[6], format!("{:.3e}", target.gradient));
        assert_eq!(cells[7], format!("{:.3e}", target.staleness.unwrap()));
        let curvature = target.curvature.unwrap();
        assert_eq!(cells[8], format!("{:.3e}", curvature.estimate.unwrap()));
        assert_eq!(cells[9], format!("{:.3e}", curvature.bound.unwrap()));
    }
    let whole = cells(4);
    assert_eq!(whole[..2], ["all", &format!("{:.3e}", report.energy)]);
    assert_eq!(whole[7], "-");
    let accuracy = 100.0 * report.accuracy.unwrap();
    let last = format!(
        "composed loss {:.3e} ({:.5} per example), accuracy {accuracy:.2} %, 6 examples",
        report.composed_loss,
        report.composed_loss / 6.0
    );
    let way = 100.0 * report.relaxation.unwrap();
    let way = format!(
        "targets: {way:.1} % of the way from the forward pass to the equilibrium of a Z-step"
    );
    assert_eq!((lines[5], lines[6]), (&way[..], &last[..]));
    let plain = model.diagnose(&Diagnostics::new()).unwrap().to_string();
    assert!(!plain.contains("accuracy"));

    // Where a quarter is not a layer.
    let deep = self::model::<f64>(6, CASES[5].1, 4, false);
    let report = deep.diagnose(&Diagnostics::new()).unwrap();
    let cosines = report.quarters.iter().map(|own| own.cosine.unwrap());
    let cosines: Vec<String> = cosines.map(|own| format!("{own:.4}")).collect();
    let line = format!(
        "cos BP by quarters of the layers, input first: {}",
        cosines.join(", ")
    );
    let table = report.to_string();
    assert_eq!(table.lines().nth(1 + 9 + 1), Some(&line[..]), "{table}");
}

/// Totals and norms may overflow where their parts do not; root mean squares, which a report has,
/// may fit where norms over all examples do not.
#[test]
fn totals_that_do_not_fit() {
    let layer = |outputs| Dense::new(1, outputs, Activation::Identity).unwrap();
    let one = |value: f32| DMatrix::from_element(1, 1, value);
    let overflow = |quantity, layer| Some(Error::Overflow { quantity, layer });

    let circuit = Circuit::builder()
        .layer(layer(1))
        .layer(layer(1))
        .layer(layer(1));
    let mut model = DecoupledCircuit::new(circuit.build().unwrap(), Energy::default()).unwrap();
    (0..3).for_each(|t| model.set_parameters(t, &[0.0; 2]).unwrap());
    let y = one(1.8e19);
    let given = TargetInit::Given(vec![y.clone(), y.clone()]);
    model.add_examples(&one(1.0), &y, &given).unwrap();
    assert!(model.energies().unwrap().iter().all(|own| own.is_finite()));
    let found = model.diagnose(&Diagnostics::new()).err();
    assert_eq!(found, overflow(Quantity::Energy, 2));

    let circuit = Circuit::builder().layer(layer(4)).build().unwrap();
    let mut model = DecoupledCircuit::new(circuit, Energy::default()).unwrap();
    model.set_parameters(0, &[0.0; 8]).unwrap();
    let y = DMatrix::from_element(4, 1, 3e18);
    let init = TargetInit::ForwardPass;
    model.add_examples(&one(1e20), &y, &init).unwrap();
    let found = model.diagnose(&Diagnostics::new()).err();
    assert_eq!(found, overflow(Quantity::ParameterGradient, 0));

    let circuit = Circuit::builder()
        .layer(layer(1))
        .layer(layer(1))
        .build()
        .unwrap();
    let energy = Energy::default().with_hidden_loss(Huber::new(1e-3).unwrap());
    let mut model = DecoupledCircuit::new(circuit, energy).unwrap();
    (0..2).for_each(|t| model.set_parameters(t, &[0.0; 2]).unwrap());
    let row = |value: f32| DMatrix::from_element(1, 4, value);
    let given = TargetInit::Given(vec![row(2e38)]);
    model.add_examples(&row(1.0), &row(0.0), &given).unwrap();
    let report = model.diagnose(&Diagnostics::new()).unwrap();
    assert!((report.gap / 2e38 - 1.0).abs() < 1e-6, "{}", report.gap);
}
