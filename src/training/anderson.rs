//! Anderson acceleration of the multipliers' fixed-point iteration.

use crate::energy::default_fields;
use crate::kernel::{Scalar, add_scaled, add_to, dot, scale};

/// λ ← λ + f(λ), accelerated with what the last rounds say about f, example by example.
///
/// From the differences Δλ and Δf of successive rounds, the step is the one that a linear model of f with
/// these secants takes to its zero:
///
/// λ ← λ + f − Σ_j γ_j (Δλ_j + Δf_j), γ the least-squares solution of Σ_j γ_j Δf_j ≈ f.
///
/// The secants are kept as q_j, the orthonormalised Δf, and u_j, the same combinations of Δλ + Δf, so that
/// γ_j = q_j·f. When their number has reached the limit they are all dropped.
#[derive(Debug)]
pub(super) struct Anderson<T> {
    /// Rounds since the secants were dropped; there is a pair of each but the first.
    rounds: usize,
    /// λ and f of the last round, by hidden layer.
    last: [Vec<Vec<T>>; 2],
    /// q_j and u_j, by hidden layer. Those from `rounds` on are memory.
    pairs: Vec<[Vec<Vec<T>>; 2]>,
}

default_fields!(Anderson: rounds last pairs);

/// The numbers of the i-th example in arrays by layer, and the dimensions of the layers.
type Example<'a> = (usize, &'a [usize]);

impl<T: Scalar> Anderson<T> {
    /// Drops what is known about f.
    pub(super) fn restart(&mut self) {
        self.rounds = 0;
    }

    /// Makes one step of λ, with `most` secants at most. `dims` are d_1, …, d_{T−1}, and both arrays d_t × n by
    /// hidden layer.
    pub(super) fn step(
        &mut self,
        most: usize,
        dims: &[usize],
        lambda: &mut [Vec<T>],
        residual: &[Vec<T>],
    ) {
        let n = residual.first().map_or(0, |own| own.len() / dims[0]);
        if self.rounds > 0 {
            self.add_pair(dims, n, lambda, residual);
        }
        for (last, now) in self.last.iter_mut().zip([&*lambda, residual]) {
            last.resize_with(now.len(), Vec::new);
            for (last, now) in last.iter_mut().zip(now) {
                last.clone_from(now);
            }
        }
        for (lambda, residual) in lambda.iter_mut().zip(residual) {
            add_to(lambda, residual);
        }
        for [q, u] in &self.pairs[..self.rounds] {
            for example in (0..n).map(|i| (i, dims)) {
                let along = inner(example, q, residual);
                subtract(example, along, u, lambda);
            }
        }
        self.rounds = match self.rounds == most {
            true => 0,
            false => self.rounds + 1,
        };
    }

    /// Appends the secant from the last round to this one. Where rounding hides what is new in it, it is 0.
    fn add_pair(&mut self, dims: &[usize], n: usize, lambda: &[Vec<T>], residual: &[Vec<T>]) {
        let place = self.rounds - 1;
        if self.pairs.len() == place {
            self.pairs.push([Vec::new(), Vec::new()]);
        }
        let (earlier, own) = self.pairs.split_at_mut(place);
        let [q, u] = &mut own[0];
        let [last_lambda, last_residual] = &self.last;
        difference(residual, last_residual, q);
        difference(lambda, last_lambda, u);
        for (u, q) in u.iter_mut().zip(&*q) {
            add_to(u, q);
        }
        for example in (0..n).map(|i| (i, dims)) {
            let first = inner(example, q, q).sqrt();
            // Twice: the first time leaves rounding errors along the others.
            for _ in 0..2 {
                for [other_q, other_u] in earlier.iter() {
                    let along = inner(example, other_q, q);
                    subtract(example, along, other_q, q);
                    subtract(example, along, other_u, u);
                }
            }
            let norm = inner(example, q, q).sqrt();
            let inverse = norm.recip();
            let new = norm > T::default_epsilon().sqrt() * first && inverse.is_finite();
            for own in [&mut *q, &mut *u] {
                for (own, &dim) in own.iter_mut().zip(dims) {
                    let own = &mut own[example.0 * dim..(example.0 + 1) * dim];
                    match new {
                        true => scale(own, inverse),
                        false => own.fill(T::zero()),
                    }
                }
            }
        }
    }
}

/// `to` ← a − b.
fn difference<T: Scalar>(a: &[Vec<T>], b: &[Vec<T>], to: &mut Vec<Vec<T>>) {
    to.resize_with(a.len(), Vec::new);
    for ((a, b), to) in a.iter().zip(b).zip(to) {
        to.clear();
        to.extend(a.iter().zip(b).map(|(&a, &b)| a - b));
    }
}

/// a·b of one example.
fn inner<T: Scalar>((i, dims): Example<'_>, a: &[Vec<T>], b: &[Vec<T>]) -> T {
    let layers = a.iter().zip(b).zip(dims);
    layers.fold(T::zero(), |sum, ((a, b), &dim)| {
        let own = i * dim..(i + 1) * dim;
        sum + dot(&a[own.clone()], &b[own])
    })
}

/// b ← b − factor · a for one example.
fn subtract<T: Scalar>((i, dims): Example<'_>, factor: T, a: &[Vec<T>], b: &mut [Vec<T>]) {
    for ((a, b), &dim) in a.iter().zip(b).zip(dims) {
        let own = i * dim..(i + 1) * dim;
        add_scaled(&mut b[own.clone()], -factor, &a[own]);
    }
}
