//! The extreme eigenvalues of E's Gauss-Newton matrix in z, estimated from inside.

use std::ops::Range;

use rand_distr::StandardNormal;

use super::product::{Part, Product};
use crate::energy::{Problem, Workspace};
use crate::init::{Purpose, draw, generator};
use crate::kernel::{Scalar, Tridiagonal, add_scaled, dot, norm, power_of_two, scale};

/// Ritz values of one example's matrix; both NaN if a product overflows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Extremes {
    /// The largest, at most λ_max up to rounding.
    pub(crate) largest: f64,
    /// The smallest, at least λ_min up to rounding.
    pub(crate) smallest: f64,
}

/// Number of examples whose Lanczos vectors are stored at a time.
const EXAMPLES: usize = 32;

/// Estimates λ_max and λ_min of every example's Gauss-Newton matrix at the batch's targets, without
/// example weights. Returns one list (for the whole matrix) or T − 1 lists (for the diagonal blocks of
/// z_1, …, z_{T−1}), with one item per example. There is no list if there are no auxiliary targets.
///
/// Runs at most `iterations` Lanczos steps, each with one JVP and one VJP per layer. The results are
/// the extreme Ritz values, which lie in [λ_min, λ_max] (up to rounding), and never move inwards from
/// step to step. A multiple eigenvalue does no harm; only a start vector orthogonal to its
/// eigenvectors can miss it. The start vector is drawn from `seed` and is the same for every
/// example, so that an estimate has the same bits in every batch. Lanczos 1950, with full
/// reorthogonalisation, so that as many steps as z has numbers give the eigenvalues themselves (Golub
/// & Van Loan 2013, §10.3): all vectors of 32 examples are stored.
pub(crate) fn spectrum<T: Scalar>(
    part: Part,
    iterations: u64,
    seed: u64,
    problem: Problem<'_, T>,
) -> Vec<Vec<Extremes>> {
    let (layers, batch) = (problem.layers(), problem.batch());
    let hidden = layers.depth() - 1;
    let dims = &layers.dims()[1..=hidden];
    // All layers form one group, or each its own. Without hidden layers there is no group.
    let size = if part == Part::Whole { hidden } else { 1 };
    let groups = (0..hidden).step_by(size.max(1)).map(|i| i..i + size);
    let groups: Vec<Range<usize>> = groups.collect();
    let start = starts(seed, dims, &groups);
    let mut all = vec![Vec::with_capacity(batch.len()); groups.len()];
    let (mut workspace, mut product) = (Workspace::new(), Product::new());
    for first in (0..batch.len()).step_by(EXAMPLES) {
        let examples = first..(first + EXAMPLES).min(batch.len());
        let n = examples.len();
        let problem = layers.on(batch.part(examples));
        problem.predict_locally(&mut workspace);
        let dimension = |group: &Range<usize>| dims[group.clone()].iter().sum();
        let processes = groups
            .iter()
            .map(|group| vec![Tridiagonal::new(dimension(group)); n]);
        let mut processes: Vec<Vec<Tridiagonal>> = processes.collect();
        let mut basis: Vec<Vec<Vec<T>>> = Vec::new();
        let mut next: Vec<Vec<T>> = start.iter().map(|own| own.repeat(n)).collect();
        for _ in 0..iterations {
            if processes.iter().flatten().all(Tridiagonal::ended) {
                break;
            }
            product.multiply(part, problem, &next, &mut workspace);
            basis.push(next);
            for (group, processes) in groups.iter().zip(&mut processes) {
                for (i, process) in processes.iter_mut().enumerate() {
                    if !process.ended() {
                        let products = &mut product.results[group.clone()];
                        advance(
                            &basis,
                            group.start,
                            products,
                            i,
                            &dims[group.clone()],
                            process,
                        );
                    }
                }
            }
            // Where a process has ended, no product is used any more.
            next = product.results.clone();
        }
        for (all, processes) in all.iter_mut().zip(&processes) {
            all.extend(processes.iter().map(|own| Extremes {
                largest: own.largest(),
                smallest: own.smallest(),
            }));
        }
    }
    all
}

/// One Lanczos step for the i-th example in the layers of one group, from `first` on, given its H v_j,
/// which becomes v_{j+1}.
fn advance<T: Scalar>(
    basis: &[Vec<Vec<T>>],
    first: usize,
    products: &mut [Vec<T>],
    i: usize,
    dims: &[usize],
    process: &mut Tridiagonal,
) {
    let column = |t: usize| i * dims[t]..(i + 1) * dims[t];
    let along = |v: &[Vec<T>], products: &[Vec<T>]| {
        (0..dims.len()).fold(T::zero(), |sum, t| {
            sum + dot(&v[first + t][column(t)], &products[t][column(t)])
        })
    };
    let last = &basis[basis.len() - 1];
    let alpha = along(last, products);
    // The last two make the recurrence. What rounding leaves along all of them is taken once more.
    let recurrence = basis.iter().rev().take(2);
    for v in recurrence.chain(basis) {
        let along = along(v, products);
        for t in 0..dims.len() {
            add_scaled(
                &mut products[t][column(t)],
                -along,
                &v[first + t][column(t)],
            );
        }
    }
    let parts = products.iter().zip(dims);
    let parts = parts.flat_map(|(own, dim)| &own[i * dim..(i + 1) * dim]);
    let coupling = norm(parts);
    process.push(alpha.as_f64(), coupling, T::default_epsilon().as_f64());
    if process.ended() {
        return;
    }
    // In two factors, since the inverse of a tiny coupling may not fit the scalar.
    let unit = power_of_two(coupling);
    let [unit, rest] = [unit, unit / coupling].map(T::of);
    for t in 0..dims.len() {
        let own = &mut products[t][column(t)];
        own.iter_mut().for_each(|x| *x = *x / unit * rest);
    }
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
