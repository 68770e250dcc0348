//! Statement 10: estimates of λ_max from below.

use std::ops::Range;

use nalgebra::DMatrix;
use rand_distr::{Distribution, StandardNormal};

use super::probe::{finite, norm};
use crate::circuit::{Batch, Circuit, LocalWorkspace};
use crate::decoupled::DecoupledCircuit;
use crate::init::{Purpose, generator};
use crate::kernel::{add_scaled, add_to, dot, scale};
use crate::loss::Pair;
use crate::{Error, Quantity, Scalar, Selection, Write};

/// Statement 10: estimates of λ_max of the Gauss-Newton matrix of E in z = (z_1, …, z_{T−1}), at
/// the model's targets, one a selected example.
///
/// H v = Σ_t A_tᵀ C_t A_t v + λ₂ v of the regularisers, A_t v = (v_{t+1}, J_t v_t), C_t the
/// curvature of layer t's loss in (z_{t+1}, ẑ_{t+1}), μ included; without example weights, by which
/// steps on z divide. With `layer` = Some(t) the others are held: λ_max of z_t's own block.
///
/// `iterations` of Lanczos (1950) with full reorthogonalisation, each one JVP and one VJP a layer,
/// all examples at once, from a direction that is a function of `seed` and the example's lasting
/// number. Each estimate is a Rayleigh quotient, at most λ_max up to rounding: λ_max lies between
/// it and [`curvature_bounds`](super::curvature_bounds), and their ratio is the margin that the
/// bounds give away. Costs memory for `iterations` directions. All 0 if T = 1.
///
/// # Errors
/// [`Error::InvalidOption`] for no iterations, [`Error::UnknownLayer`] unless 0 < t < T, errors of
/// the selection, [`Error::NoExamples`], [`Error::NonFinite`].
///
/// # Examples
/// ```
/// use layerwise::{Activation, Circuit, DecoupledCircuit, Dense, Selection, TargetInit, theory};
/// use nalgebra::DMatrix;
///
/// let mut builder = Circuit::<f64>::builder();
/// for _ in 0..5 {
///     builder = builder.layer(Dense::new(3, 3, Activation::Tanh)?);
/// }
/// let mut model = DecoupledCircuit::new(builder.build()?);
/// let (x, y) = (DMatrix::from_element(3, 2, 0.5), DMatrix::from_element(3, 2, 1.0));
/// model.add_examples(&x, &y, &TargetInit::ForwardPass)?;
/// let estimates = theory::largest_curvature(&model, &Selection::All, None, 12, 0)?;
/// let bound = theory::curvature_bounds(model.circuit())?.whole();
/// assert!(estimates.iter().all(|&estimate| 0.0 < estimate && estimate <= bound));
/// # Ok::<(), layerwise::Error>(())
/// ```
pub fn largest_curvature<T: Scalar>(
    model: &DecoupledCircuit<T>,
    selection: &Selection<'_>,
    layer: Option<usize>,
    iterations: usize,
    seed: u64,
) -> Result<Vec<f64>, Error> {
    let circuit = model.circuit();
    let hidden = 1..circuit.depth();
    if let Some(t) = layer.filter(|t| !hidden.contains(t)) {
        return Err(Error::UnknownLayer {
            layer: t,
            allowed: format!("{hidden:?}"),
        });
    }
    if iterations == 0 {
        return Err(Error::InvalidOption {
            option: "theory::largest_curvature::iterations",
            value: 0.0,
            allowed: "at least 1",
        });
    }
    model.with_batch(selection, "statement 10", |batch| {
        if hidden.is_empty() {
            return Ok(vec![0.0; batch.len()]);
        }
        let layers = layer.map_or(hidden, |t| t..t + 1);
        let mut matrix = GaussNewtonMatrix::new(circuit, batch, layers)?;
        let size = matrix.size();
        let ids = batch.examples().iter();
        let mut examples: Vec<_> = ids.map(|&id| Lanczos::new(size, seed, id)).collect();
        // There are no more directions than dimensions.
        for _ in 0..iterations.min(size) {
            let directions: Vec<&[T]> = examples.iter().map(Lanczos::direction).collect();
            let products = matrix.times(&directions)?;
            for (own, product) in examples.iter_mut().zip(products) {
                own.advance(product);
            }
        }
        examples.iter().map(Lanczos::largest).collect()
    })?
}

/// The matrix of every example of a batch, in some of its layers.
struct GaussNewtonMatrix<'a, T: Scalar> {
    circuit: &'a Circuit<T>,
    batch: Batch<'a, T>,
    layers: Range<usize>,
    /// One a layer, predictions current.
    locals: Vec<LocalWorkspace<T>>,
}

impl<'a, T: Scalar> GaussNewtonMatrix<'a, T> {
    fn new(
        circuit: &'a Circuit<T>,
        batch: Batch<'a, T>,
        layers: Range<usize>,
    ) -> Result<Self, Error> {
        let mut locals = Vec::new();
        for t in 0..circuit.depth() {
            let problem = circuit.local_problem(t, batch);
            let mut local = problem.workspace();
            problem.predict(&mut local);
            finite(Quantity::Prediction, t, local.prediction())?;
            locals.push(local);
        }
        Ok(Self {
            circuit,
            batch,
            layers,
            locals,
        })
    }

    /// Dimension of one example's directions.
    fn size(&self) -> usize {
        self.circuit.dims()[self.layers.clone()].iter().sum()
    }

    /// H v of every example, for one direction an example.
    fn times(&mut self, directions: &[&[T]]) -> Result<Vec<Vec<T>>, Error> {
        let (circuit, n) = (self.circuit, self.batch.len());
        let (depth, dims) = (circuit.depth(), circuit.dims());
        let zeros = || -> Vec<Vec<T>> { dims.iter().map(|d| vec![T::zero(); d * n]).collect() };
        let (mut v, mut h) = (zeros(), zeros());
        let mut start = 0;
        for t in self.layers.clone() {
            for (column, from) in v[t].chunks_exact_mut(dims[t]).zip(directions) {
                column.copy_from_slice(&from[start..start + dims[t]]);
            }
            start += dims[t];
        }
        for t in 0..depth {
            let problem = circuit.local_problem(t, self.batch);
            let local = &mut self.locals[t];
            let (has_input, has_target) = (t > 0, t + 1 < depth);
            let length = dims[t + 1] * n;
            let mut tangent = vec![T::zero(); length];
            if has_input {
                problem.jvp(Some(&v[t]), None, &mut tangent, local)?;
            }
            let pair = Pair::new(dims[t + 1], self.batch.z(t + 1), &local.prediction)
                .with_parameters(circuit.loss_parameters(t));
            let mut in_target = vec![T::zero(); length];
            let mut in_prediction = vec![T::zero(); length];
            circuit.loss(t).curvature(
                &pair,
                has_target.then_some(&v[t + 1][..]),
                has_input.then_some(&tangent[..]),
                Write::set(has_target.then_some(&mut in_target[..])),
                Write::set(has_input.then_some(&mut in_prediction[..])),
                &mut local.work,
            );
            if has_target {
                add_scaled(&mut h[t + 1], circuit.weight(t), &in_target);
            }
            if has_input {
                scale(&mut in_prediction, circuit.weight(t));
                let mut pulled = vec![T::zero(); dims[t] * n];
                problem.vjp(&in_prediction, Write::Set(&mut pulled), Write::Skip, local)?;
                add_to(&mut h[t], &pulled);
            }
        }
        let mut products = vec![Vec::new(); n];
        for t in self.layers.clone() {
            let regularizer = circuit.target_regularizers()[t - 1].curvature();
            add_scaled(&mut h[t], regularizer, &v[t]);
            finite(Quantity::TargetGradient, t, &h[t])?;
            for (column, to) in h[t].chunks_exact(dims[t]).zip(&mut products) {
                to.extend_from_slice(column);
            }
        }
        Ok(products)
    }
}

/// One example's iterations.
struct Lanczos<T> {
    /// Orthonormal directions; the last is the next to be multiplied.
    basis: Vec<Vec<T>>,
    diagonal: Vec<f64>,
    beside: Vec<f64>,
    /// Whether the directions so far span an invariant space.
    done: bool,
}

impl<T: Scalar> Lanczos<T> {
    fn new(size: usize, seed: u64, example: u64) -> Self {
        let mut rng = generator(seed, Purpose::Check, example);
        let draw = |_| T::of(StandardNormal.sample(&mut rng));
        let mut first: Vec<T> = (0..size).map(draw).collect();
        let norm = dot(&first, &first).sqrt();
        scale(&mut first, norm.recip());
        Self {
            basis: vec![first],
            diagonal: Vec::new(),
            beside: Vec::new(),
            done: false,
        }
    }

    fn direction(&self) -> &[T] {
        &self.basis[self.basis.len() - 1]
    }

    /// Takes H times the direction.
    fn advance(&mut self, mut product: Vec<T>) {
        if self.done {
            return;
        }
        let before = norm(&product);
        self.diagonal.push(dot(&product, self.direction()).as_f64());
        // Twice is enough (Kahan, in Parlett 1980).
        for _ in 0..2 {
            for own in &self.basis {
                let along = dot(&product, own);
                add_scaled(&mut product, -along, own);
            }
        }
        let rest = norm(&product);
        let rounding = T::default_epsilon().as_f64() * product.len() as f64;
        self.done = rest <= 8.0 * rounding * before;
        if !self.done {
            self.beside.push(rest);
            scale(&mut product, T::of(rest).recip());
            self.basis.push(product);
        }
    }

    /// The largest eigenvalue of the tridiagonal matrix.
    fn largest(&self) -> Result<f64, Error> {
        finite(Quantity::TargetGradient, 1, &self.diagonal)?;
        let size = self.diagonal.len();
        let tridiagonal = DMatrix::from_fn(size, size, |i, j| match i.abs_diff(j) {
            0 => self.diagonal[i],
            1 => self.beside[i.min(j)],
            _ => 0.0,
        });
        Ok(tridiagonal.symmetric_eigenvalues().max())
    }
}
