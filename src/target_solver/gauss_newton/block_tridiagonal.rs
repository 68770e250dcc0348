//! Direct solution of every example's block tridiagonal system.

use std::ops::Range;

use super::System;
use super::elimination::{Elimination, Order};
use super::operator::Link;
use crate::check::make_room;
use crate::energy::{Layers, LocalWorkspace, Problem, columns, default_fields};
use crate::error::Error;
use crate::kernel::cholesky::{divide_transposed, factor, solve_lower, solve_lower_transposed};
use crate::kernel::{Matrix, Scalar, Write, add_to, subtract_from};

/// Block Cholesky of H + λ I in one of two orders.
///
/// To eliminate block e with neighbours a below and b above, let S_e = L Lᵀ be its current diagonal
/// block, A = L⁻¹ H_ea and B = L⁻¹ H_eb. Then Aᵀ A and Bᵀ B are subtracted from the diagonal blocks
/// of a and b, and a and b become neighbours with H_ba = −Bᵀ A.
#[derive(Debug)]
pub(super) struct BlockTridiagonal<T> {
    /// The last order used, if there was one.
    order: Option<Order>,
    levels: Vec<Vec<Elimination>>,
    blocks: Vec<Block<T>>,
    factors: Vec<Factor<T>>,
}

/// Multiply-adds of the factorisations and substitutions, for one example.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Work {
    pub(super) total: u64,
    /// The part on the critical path.
    pub(super) chain: u64,
}

/// The block of z_t, for each example in turn.
#[derive(Debug)]
struct Block<T> {
    /// d_t × d_t.
    diagonal: Vec<T>,
    /// Coupling of the next remaining block with this one, d_next × d_t.
    coupling: Vec<T>,
    right: Vec<T>,
    solution: Vec<T>,
    scratch: Vec<T>,
    /// A unit vector for every example, and products with it.
    unit: Vec<T>,
    link: Link<T>,
    operations: u64,
}

/// What an elimination stores for the substitution.
#[derive(Debug)]
struct Factor<T> {
    /// L, Aᵀ and Bᵀ.
    lower: Vec<T>,
    below: Vec<T>,
    above: Vec<T>,
    /// L⁻¹ r, then δ.
    right: Vec<T>,
    scratch: Vec<T>,
    operations: u64,
}

default_fields!(BlockTridiagonal: order levels blocks factors);
default_fields!(Block: diagonal coupling right solution scratch unit link operations);
default_fields!(Factor: lower below above right scratch operations);

impl<T: Scalar> BlockTridiagonal<T> {
    /// Solves `system` for the subset of its examples that `problem` holds, with current
    /// predictions in
    /// `locals`, and returns the work per example. If a system is not positive definite, its
    /// solution is not finite.
    pub(super) fn solve(
        &mut self,
        order: Order,
        problem: Problem<'_, T>,
        locals: &mut [LocalWorkspace<T>],
        system: &mut System<T>,
        examples: Range<usize>,
    ) -> Work {
        self.fit(order, problem.layers, &system.dims, examples.len());
        self.assemble(problem, locals, system, &examples);
        let execution = problem.batch.execution;
        let mut work = Work::default();
        let dims = &system.dims;
        let wanted = &system.wanted[examples.clone()];
        for level in &self.levels {
            let blocks = &self.blocks;
            execution.for_each(&mut self.factors, |e, own| {
                if let Some(elimination) = level.iter().find(|own| own.block == e) {
                    own.eliminate(*elimination, blocks, dims, wanted);
                }
            });
            work.add(self.factors.iter_mut().map(|own| &mut own.operations));
            let factors = &self.factors;
            execution.for_each(&mut self.blocks, |b, own| {
                for elimination in level {
                    if elimination.above == Some(b) || elimination.below == Some(b) {
                        own.lose(b, &factors[elimination.block], elimination, dims, wanted);
                    }
                }
            });
            work.add(self.blocks.iter_mut().map(|own| &mut own.operations));
        }
        for level in self.levels.iter().rev() {
            let blocks = &self.blocks;
            execution.for_each(&mut self.factors, |e, own| {
                if let Some(elimination) = level.iter().find(|own| own.block == e) {
                    own.substitute(*elimination, blocks, dims, wanted);
                }
            });
            work.add(self.factors.iter_mut().map(|own| &mut own.operations));
            for e in level.iter().map(|own| own.block) {
                let solution = &mut self.blocks[e].solution;
                solution.copy_from_slice(&self.factors[e].right);
            }
        }
        for (h, block) in self.blocks.iter().enumerate() {
            let columns = system.columns(h, &examples);
            let step = &mut system.step[h][columns];
            step.copy_from_slice(&block.solution);
            for (own, wanted) in step.chunks_exact_mut(dims[h]).zip(wanted) {
                if !wanted {
                    own.fill(T::zero());
                }
            }
        }
        work
    }

    /// Allocates memory for n examples at a time, or fails if there is not enough for their
    /// matrices.
    pub(super) fn make_room(&mut self, dims: &[usize], n: usize) -> Result<(), Error> {
        let widest = dims.iter().copied().max().unwrap_or(0);
        self.blocks.resize_with(dims.len(), Block::default);
        self.factors.resize_with(dims.len(), Factor::default);
        let both = self.blocks.iter_mut().zip(&mut self.factors);
        for (&d, (block, factor)) in dims.iter().zip(both) {
            let (own, other) = (d.saturating_mul(n), widest.saturating_mul(n));
            for (array, columns) in [
                (&mut block.diagonal, own),
                (&mut block.coupling, other),
                (&mut block.scratch, d),
                (&mut factor.lower, own),
                (&mut factor.below, other),
                (&mut factor.above, other),
            ] {
                make_room(array, "the blocks of the Gauss-Newton matrix", d, columns)?;
            }
        }
        Ok(())
    }

    /// Resizes everything for n examples, within the allocated memory.
    fn fit(&mut self, order: Order, layers: Layers<'_, T>, dims: &[usize], n: usize) {
        let m = dims.len();
        let blocks: usize = self.levels.iter().map(Vec::len).sum();
        if self.order != Some(order) || blocks != m {
            self.order = Some(order);
            self.levels = order.levels(m);
        }
        // Later neighbours may be wider than the first one.
        let widest = dims.iter().copied().max().unwrap_or(0);
        let both = self.blocks.iter_mut().zip(&mut self.factors);
        for ((h, &d), (block, factor)) in dims.iter().enumerate().zip(both) {
            block.link.fit(layers, h + 1, n);
            for (array, size) in [
                (&mut block.diagonal, d * d * n),
                (&mut block.coupling, widest * d * n),
                (&mut block.right, d * n),
                (&mut block.solution, d * n),
                (&mut block.scratch, d * d),
                (&mut block.unit, d * n),
                (&mut factor.lower, d * d * n),
                (&mut factor.below, d * widest * n),
                (&mut factor.above, d * widest * n),
                (&mut factor.right, d * n),
                (&mut factor.scratch, d),
            ] {
                array.resize(size, T::zero());
            }
        }
    }

    /// The blocks of H + λ I, column by column: a product with a unit vector for all examples at once.
    fn assemble(
        &mut self,
        problem: Problem<'_, T>,
        locals: &mut [LocalWorkspace<T>],
        system: &System<T>,
        examples: &Range<usize>,
    ) {
        let (Problem { layers, batch, .. }, n) = (problem, examples.len());
        // C_t in z_{t+1}, of the layer below each block.
        let execution = batch.execution;
        execution.for_each_pair(&mut self.blocks, &mut *locals, |h, own, local| {
            let d = system.dims[h];
            let Block { link, unit, .. } = own;
            link.fit(layers, h, n);
            for j in 0..d {
                set_unit(unit, d, j);
                link.multiply(layers, batch, h, (None, Some(unit)), false, local);
                for i in 0..n {
                    let column = &link.in_target[columns(d, i, 1)];
                    own.diagonal[columns(d, i * d + j, 1)].copy_from_slice(column);
                }
            }
            link.fit(layers, h + 1, n);
        });
        // J_tᵀ C_t J_t, and the coupling, of the layer above.
        execution.for_each_pair(&mut self.blocks, &mut locals[1..], |h, own, local| {
            let (d, t) = (system.dims[h], h + 1);
            let next = system.dims.get(t).copied().unwrap_or(0);
            let Block { link, unit, .. } = own;
            for j in 0..d {
                set_unit(unit, d, j);
                link.multiply(layers, batch, t, (Some(unit[..].into()), None), true, local);
                for i in 0..n {
                    let column = &link.in_input[columns(d, i, 1)];
                    add_to(&mut own.diagonal[columns(d, i * d + j, 1)], column);
                    if next > 0 {
                        let column = &link.in_target[columns(next, i, 1)];
                        own.coupling[columns(next, i * d + j, 1)].copy_from_slice(column);
                    }
                }
            }
            let regularizer = layers.target_regularizers()[h].curvature::<T>();
            for (i, &damping) in system.damping[examples.clone()].iter().enumerate() {
                let block = &mut own.diagonal[columns(d * d, i, 1)];
                for j in 0..d {
                    block[j * d + j] += regularizer + damping;
                }
            }
            let columns = system.columns(h, examples);
            own.right.copy_from_slice(&system.right[h][columns]);
        });
    }
}

/// e_j for every example.
fn set_unit<T: Scalar>(unit: &mut [T], d: usize, j: usize) {
    unit.fill(T::zero());
    unit.chunks_exact_mut(d).for_each(|own| own[j] = T::one());
}

impl Work {
    /// Adds the work of one level, and clears its counters.
    fn add<'a>(&mut self, operations: impl Iterator<Item = &'a mut u64>) {
        let mut longest = 0;
        for own in operations {
            self.total += *own;
            longest = longest.max(*own);
            *own = 0;
        }
        self.chain += longest;
    }
}

impl<T: Scalar> Block<T> {
    /// After a neighbour e is eliminated, with M = B if it was below, else A: S ← S − Mᵀ M and
    /// r ← r − Mᵀ y, and if e was above also H_ba ← −Bᵀ A for the next block.
    fn lose(
        &mut self,
        b: usize,
        gone: &Factor<T>,
        elimination: &Elimination,
        dims: &[usize],
        wanted: &[bool],
    ) {
        let (d, e) = (dims[b], dims[elimination.block]);
        let (links, next) = match elimination.above {
            Some(above) if above == b => (&gone.above, 0),
            above => (&gone.below, above.map_or(0, |above| dims[above])),
        };
        for i in (0..wanted.len()).filter(|&i| wanted[i]) {
            let links = Matrix::new(&links[columns(e * d, i, 1)], d, e);
            let y = Matrix::new(&gone.right[columns(e, i, 1)], e, 1);
            let scratch = &mut self.scratch[..d * d];
            T::matmul(Write::Set(scratch), links, links.t());
            subtract_from(&mut self.diagonal[columns(d * d, i, 1)], scratch);
            let scratch = &mut self.scratch[..d];
            T::matmul(Write::Set(scratch), links, y);
            subtract_from(&mut self.right[columns(d, i, 1)], scratch);
            if next > 0 {
                let above = Matrix::new(&gone.above[columns(e * next, i, 1)], next, e);
                let coupling = &mut self.coupling[columns(next * d, i, 1)];
                T::matmul(Write::Set(coupling), above, links.t());
                coupling.iter_mut().for_each(|value| *value = -*value);
            }
        }
        self.operations += (d * d * e + d * e + next * e * d) as u64;
    }
}

impl<T: Scalar> Factor<T> {
    /// S = L Lᵀ, Aᵀ = H_eaᵀ L⁻ᵀ, Bᵀ = H_be L⁻ᵀ, y = L⁻¹ r.
    fn eliminate(
        &mut self,
        elimination: Elimination,
        blocks: &[Block<T>],
        dims: &[usize],
        wanted: &[bool],
    ) {
        let own = &blocks[elimination.block];
        let d = dims[elimination.block];
        let below = elimination.below.map_or(0, |b| dims[b]);
        let above = elimination.above.map_or(0, |b| dims[b]);
        for i in (0..wanted.len()).filter(|&i| wanted[i]) {
            let lower = &mut self.lower[columns(d * d, i, 1)];
            lower.copy_from_slice(&own.diagonal[columns(d * d, i, 1)]);
            let definite = factor(lower, d);
            if let Some(b) = elimination.below {
                let to = &mut self.below[columns(d * below, i, 1)];
                let coupling = &blocks[b].coupling[columns(d * below, i, 1)];
                for (column, to) in to.chunks_exact_mut(below).enumerate() {
                    for (row, to) in to.iter_mut().enumerate() {
                        *to = coupling[row * d + column];
                    }
                }
                divide_transposed(lower, d, to);
            }
            let to = &mut self.above[columns(d * above, i, 1)];
            to.copy_from_slice(&own.coupling[columns(d * above, i, 1)]);
            divide_transposed(lower, d, to);
            let right = &mut self.right[columns(d, i, 1)];
            right.copy_from_slice(&own.right[columns(d, i, 1)]);
            solve_lower(lower, d, right);
            if !definite {
                right.fill(T::zero() / T::zero());
            }
        }
        let triangle = d * (d + 1) / 2;
        let columns = below + above + 1;
        self.operations += (triangle * (d + 2) / 3 + triangle * columns) as u64;
    }

    /// δ = L⁻ᵀ (y − A δ_a − B δ_b).
    fn substitute(
        &mut self,
        elimination: Elimination,
        blocks: &[Block<T>],
        dims: &[usize],
        wanted: &[bool],
    ) {
        let d = dims[elimination.block];
        let scratch = &mut self.scratch[..d];
        let mut width = 0;
        for (neighbour, links) in [
            (elimination.below, &self.below),
            (elimination.above, &self.above),
        ] {
            let Some(b) = neighbour else { continue };
            let other = dims[b];
            width += other;
            for i in (0..wanted.len()).filter(|&i| wanted[i]) {
                let links = Matrix::new(&links[columns(d * other, i, 1)], other, d);
                let known = Matrix::new(&blocks[b].solution[columns(other, i, 1)], other, 1);
                T::matmul(Write::Set(&mut *scratch), links.t(), known);
                subtract_from(&mut self.right[columns(d, i, 1)], scratch);
            }
        }
        for i in (0..wanted.len()).filter(|&i| wanted[i]) {
            let lower = &self.lower[columns(d * d, i, 1)];
            solve_lower_transposed(lower, d, &mut self.right[columns(d, i, 1)]);
        }
        self.operations += (d * width + d * (d + 1) / 2) as u64;
    }
}
