//! Lower estimates of the largest eigenvalue of E's Gauss-Newton matrix in z.

use std::ops::Range;

use rand_distr::StandardNormal;

use super::product::{Part, Product};
use crate::energy::{Problem, Workspace};
use crate::init::{Purpose, draw, generator};
use crate::kernel::{Scalar, add_scaled, dot, norm, power_of_two, scale};

/// Estimates λ_max of every example's Gauss-Newton matrix with the predictions in the workspace,
/// without example weights. Returns one list (for the whole matrix) or T − 1 lists (for the
/// diagonal blocks of z_1, …, z_{T−1}), each with one number per example. The number is NaN if a
/// product overflows. There is no list if there are no auxiliary targets.
///
/// Runs at most `iterations` Lanczos steps, each with one JVP and one VJP per layer. The result is
/// the largest Ritz value, which is at most λ_max (up to rounding) and never falls from step to
/// step. A multiple eigenvalue λ_max does no harm; only a start vector orthogonal to its
/// eigenvectors can miss it. The start vector is drawn from `seed` and is the same for every
/// example, so that an estimate has the same bits in every batch. Lanczos 1950; without
/// reorthogonalisation, which the largest Ritz value does not need (Paige 1980).
pub(crate) fn lambda_max<T: Scalar>(
    part: Part,
    iterations: u64,
    seed: u64,
    problem: Problem<'_, T>,
    workspace: &mut Workspace<T>,
) -> Vec<Vec<f64>> {
    let (layers, n) = (problem.layers(), problem.batch().len());
    let hidden = layers.depth() - 1;
    let dims = &layers.dims()[1..=hidden];
    // All layers form one group, or each its own. Without hidden layers there is no group.
    let size = if part == Part::Whole { hidden } else { 1 };
    let groups = (0..hidden).step_by(size.max(1)).map(|i| i..i + size);
    let groups: Vec<Range<usize>> = groups.collect();
    let start = starts(seed, dims, &groups);
    let mut lanczos = Lanczos {
        current: start.iter().map(|own| own.repeat(n)).collect(),
        previous: dims.iter().map(|dim| vec![T::zero(); dim * n]).collect(),
        product: Product::new(),
    };
    let dimension = |group: &Range<usize>| dims[group.clone()].iter().sum();
    let chains = groups
        .iter()
        .map(|group| vec![Chain::new(dimension(group)); n]);
    let mut chains: Vec<Vec<Chain>> = chains.collect();
    for _ in 0..iterations {
        if chains.iter().flatten().all(|chain| chain.ended) {
            break;
        }
        let Lanczos {
            current, product, ..
        } = &mut lanczos;
        product.multiply(part, problem, current, workspace);
        for (group, chains) in groups.iter().zip(&mut chains) {
            for (i, chain) in chains.iter_mut().enumerate() {
                if !chain.ended {
                    lanczos.advance(group.clone(), i, dims, chain);
                }
            }
        }
    }
    let largest = |chains: Vec<Chain>| chains.iter().map(Chain::largest).collect();
    chains.into_iter().map(largest).collect()
}

/// A random unit vector for every group of layers, split into the parts of its layers.
fn starts<T: Scalar>(seed: u64, dims: &[usize], groups: &[Range<usize>]) -> Vec<Vec<T>> {
    let mut start: Vec<Vec<T>> = Vec::with_capacity(dims.len());
    for (t, &dim) in (1..).zip(dims) {
        let mut own = vec![T::zero(); dim];
        let mut rng = generator(seed, Purpose::Curvature, t);
        draw(&mut own, &mut rng, StandardNormal, 1.0);
        start.push(own);
    }
    for group in groups {
        let own = &mut start[group.clone()];
        let square: f64 = own.iter().map(|own| dot(own, own).as_f64()).sum();
        for own in own {
            scale(own, T::of(square.sqrt().recip()));
        }
    }
    start
}

/// Lanczos vectors v_j and v_{j−1} of all examples, and H v_j, by hidden layer.
struct Lanczos<T> {
    current: Vec<Vec<T>>,
    previous: Vec<Vec<T>>,
    product: Product<T>,
}

impl<T: Scalar> Lanczos<T> {
    /// One Lanczos step for one example in the layers of one group, given its H v_j.
    fn advance(&mut self, group: Range<usize>, i: usize, dims: &[usize], chain: &mut Chain) {
        let column = |t: usize| i * dims[t]..(i + 1) * dims[t];
        let products = &mut self.product.results;
        let beta = T::of(chain.coupling);
        let mut alpha = T::zero();
        for t in group.clone() {
            alpha += dot(&self.current[t][column(t)], &products[t][column(t)]);
        }
        for t in group.clone() {
            let next = &mut products[t][column(t)];
            add_scaled(next, -alpha, &self.current[t][column(t)]);
            add_scaled(next, -beta, &self.previous[t][column(t)]);
        }
        let parts = products[group.clone()].iter().zip(&dims[group.clone()]);
        let parts = parts.flat_map(|(own, dim)| &own[i * dim..(i + 1) * dim]);
        let coupling = norm(parts);
        chain.push(alpha.as_f64(), coupling, T::default_epsilon().as_f64());
        if chain.ended {
            return;
        }
        // In two factors, since the inverse of a tiny coupling may not fit the scalar.
        let unit = power_of_two(coupling);
        let [unit, rest] = [unit, unit / coupling].map(T::of);
        for t in group {
            let (current, column) = (&mut self.current[t], column(t));
            self.previous[t][column.clone()].copy_from_slice(&current[column.clone()]);
            let own = &mut current[column.clone()];
            own.copy_from_slice(&products[t][column]);
            own.iter_mut().for_each(|x| *x = *x / unit * rest);
        }
    }
}

/// The tridiagonal Lanczos matrix of one example and group.
#[derive(Debug, Clone, Default)]
struct Chain {
    diagonal: Vec<f64>,
    /// The off-diagonal; one entry fewer than the diagonal.
    couplings: Vec<f64>,
    /// The last coupling, for the next step.
    coupling: f64,
    /// The dimension of the Lanczos vectors, which bounds the number of steps.
    dimension: usize,
    /// Whether further steps cannot improve the estimate.
    ended: bool,
}

impl Chain {
    fn new(dimension: usize) -> Self {
        Self {
            dimension,
            ..Self::default()
        }
    }

    fn push(&mut self, alpha: f64, coupling: f64, epsilon: f64) {
        if !self.diagonal.is_empty() {
            self.couplings.push(self.coupling);
        }
        self.diagonal.push(alpha);
        self.coupling = coupling;
        // Once the Krylov space is exhausted, only rounding errors remain.
        let size = self.diagonal.iter().chain(&self.couplings);
        let size = size.fold(0.0, |top: f64, v| top.max(v.abs()));
        let goes_on = coupling.is_finite() && coupling > 4.0 * epsilon * size;
        self.ended = !goes_on || self.diagonal.len() == self.dimension;
    }

    /// The largest eigenvalue, by bisection, rounded down.
    fn largest(&self) -> f64 {
        let all = self.diagonal.iter().chain(&self.couplings);
        if !all.clone().all(|v| v.is_finite()) {
            return f64::NAN;
        }
        let row = |i: usize| {
            let before = i.checked_sub(1).map_or(0.0, |i| self.couplings[i]);
            let after = self.couplings.get(i).copied().unwrap_or(0.0);
            self.diagonal[i] + before + after
        };
        // Start from the largest Rayleigh quotient of a basis vector and from Gershgorin's bound.
        let mut low = self.diagonal.iter().copied().fold(f64::MIN, f64::max);
        let mut high = (0..self.diagonal.len()).map(row).fold(low, f64::max);
        loop {
            let middle = low + 0.5 * (high - low);
            if !(low < middle && middle < high) {
                return low;
            }
            match self.is_below(middle) {
                true => high = middle,
                false => low = middle,
            }
        }
    }

    /// Whether all eigenvalues are below x, that is, every pivot of the matrix minus x I is
    /// negative.
    fn is_below(&self, x: f64) -> bool {
        let mut pivot = self.diagonal[0] - x;
        for (alpha, beta) in self.diagonal[1..].iter().zip(&self.couplings) {
            if pivot >= 0.0 {
                return false;
            }
            // Not beta², which may overflow or underflow.
            pivot = alpha - x - beta / pivot * beta;
        }
        pivot < 0.0
    }
}
