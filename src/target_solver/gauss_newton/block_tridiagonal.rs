//! Direct solution of every example's block tridiagonal system.

use std::ops::Range;

use super::elimination::{Elimination, Order};
use super::operator::Link;
use super::{Linearised, System};
use crate::energy::Layers;
use crate::kernel::cholesky::{divide_transposed, factor, solve_lower, solve_lower_transposed};
use crate::kernel::{Execution, Matrix, Scalar, Write};
use crate::kernel::{add_to, subtract_from};

/// Block Cholesky of H + λ I in one of two orders.
///
/// Eliminating block e, with neighbours a below and b above: let S_e = L Lᵀ be its current diagonal
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
    /// Those on the critical path.
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

impl<T: Scalar> BlockTridiagonal<T> {
    pub(super) fn new() -> Self {
        Self {
            order: None,
            levels: Vec::new(),
            blocks: Vec::new(),
            factors: Vec::new(),
        }
    }

    /// Solves `system` for some of its examples, at their linearisation, and returns the work per
    /// example. If a system is not positive definite, its solution is not finite.
    pub(super) fn solve(
        &mut self,
        order: Order,
        execution: Execution,
        at: Linearised<'_, T>,
        system: &mut System<T>,
        examples: Range<usize>,
    ) -> Work {
        self.fit(order, at.layers, &system.dims, examples.len());
        self.assemble(execution, at, system, &examples);
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
                    if elimination.above == Some(b) {
                        own.lose_below(b, &factors[elimination.block], elimination, dims, wanted);
                    }
                }
                for elimination in level {
                    if elimination.below == Some(b) {
                        own.lose_above(b, &factors[elimination.block], elimination, dims, wanted);
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
            for elimination in level {
                let e = elimination.block;
                self.blocks[e]
                    .solution
                    .copy_from_slice(&self.factors[e].right);
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

    fn fit(&mut self, order: Order, layers: Layers<'_, T>, dims: &[usize], n: usize) {
        let m = dims.len();
        let blocks: usize = self.levels.iter().map(Vec::len).sum();
        if self.order != Some(order) || blocks != m {
            self.order = Some(order);
            self.levels = order.levels(m);
        }
        let widest = dims.iter().copied().max().unwrap_or(0);
        self.blocks.resize_with(m, Block::new);
        self.factors.resize_with(m, Factor::new);
        for (h, own) in self.blocks.iter_mut().enumerate() {
            let d = dims[h];
            own.diagonal.resize(d * d * n, T::zero());
            // Later neighbours may be wider than the first.
            own.coupling.resize(widest * d * n, T::zero());
            own.right.resize(d * n, T::zero());
            own.solution.resize(d * n, T::zero());
            own.scratch.resize(d * d, T::zero());
            own.unit.resize(d * n, T::zero());
            own.link.fit(layers, h + 1, n);
        }
        for (h, own) in self.factors.iter_mut().enumerate() {
            let d = dims[h];
            own.lower.resize(d * d * n, T::zero());
            own.below.resize(d * widest * n, T::zero());
            own.above.resize(d * widest * n, T::zero());
            own.right.resize(d * n, T::zero());
            own.scratch.resize(d, T::zero());
        }
    }

    /// The blocks of H + λ I, column by column: a product with a unit vector for all examples at once.
    fn assemble(
        &mut self,
        execution: Execution,
        at: Linearised<'_, T>,
        system: &System<T>,
        examples: &Range<usize>,
    ) {
        let Linearised {
            layers,
            batch,
            locals,
        } = at;
        let n = examples.len();
        // C_t in z_{t+1}, of the layer below each block.
        execution.for_each_pair(&mut self.blocks, locals, |h, own, local| {
            let d = system.dims[h];
            own.link.fit(layers, h, n);
            for j in 0..d {
                own.set_unit(d, j);
                let above = Some(&own.unit[..]);
                own.link
                    .multiply(layers, batch, h, [None, above], false, local);
                for i in 0..n {
                    let to = (i * d + j) * d;
                    let column = &own.link.in_target[i * d..(i + 1) * d];
                    own.diagonal[to..to + d].copy_from_slice(column);
                }
            }
            own.link.fit(layers, h + 1, n);
        });
        // J_tᵀ C_t J_t, and the coupling, of the layer above.
        execution.for_each_pair(&mut self.blocks, &mut locals[1..], |h, own, local| {
            let (d, t) = (system.dims[h], h + 1);
            let next = system.dims.get(t).copied().unwrap_or(0);
            for j in 0..d {
                own.set_unit(d, j);
                let unit = Some(&own.unit[..]);
                own.link
                    .multiply(layers, batch, t, [unit, None], true, local);
                for i in 0..n {
                    let to = (i * d + j) * d;
                    let column = &own.link.in_input[i * d..(i + 1) * d];
                    add_to(&mut own.diagonal[to..to + d], column);
                    if next > 0 {
                        let to = (i * d + j) * next;
                        let column = &own.link.in_target[i * next..(i + 1) * next];
                        own.coupling[to..to + next].copy_from_slice(column);
                    }
                }
            }
            let regularizer = layers.target_regularizers()[h].curvature::<T>();
            for (i, &damping) in system.damping[examples.clone()].iter().enumerate() {
                let block = &mut own.diagonal[i * d * d..(i + 1) * d * d];
                for j in 0..d {
                    block[j * d + j] += regularizer + damping;
                }
            }
            let columns = system.columns(h, examples);
            own.right.copy_from_slice(&system.right[h][columns]);
        });
    }
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
    fn new() -> Self {
        Self {
            diagonal: Vec::new(),
            coupling: Vec::new(),
            right: Vec::new(),
            solution: Vec::new(),
            scratch: Vec::new(),
            unit: Vec::new(),
            link: Link::new(),
            operations: 0,
        }
    }

    fn set_unit(&mut self, d: usize, j: usize) {
        self.unit.fill(T::zero());
        for unit in self.unit.chunks_exact_mut(d) {
            unit[j] = T::one();
        }
    }

    /// After e below is eliminated: S ← S − Bᵀ B, r ← r − Bᵀ y.
    fn lose_below(
        &mut self,
        b: usize,
        gone: &Factor<T>,
        elimination: &Elimination,
        dims: &[usize],
        wanted: &[bool],
    ) {
        let (d, e) = (dims[b], dims[elimination.block]);
        for i in (0..wanted.len()).filter(|&i| wanted[i]) {
            let links = Matrix::new(&gone.above[i * e * d..(i + 1) * e * d], d, e);
            self.lose(i, d, links, &gone.right[i * e..(i + 1) * e]);
        }
        self.operations += (d * d * e + d * e) as u64;
    }

    /// After e above is eliminated: S ← S − Aᵀ A, r ← r − Aᵀ y, and H_ba ← −Bᵀ A for the next block.
    fn lose_above(
        &mut self,
        b: usize,
        gone: &Factor<T>,
        elimination: &Elimination,
        dims: &[usize],
        wanted: &[bool],
    ) {
        let (d, e) = (dims[b], dims[elimination.block]);
        let next = elimination.above.map_or(0, |above| dims[above]);
        for i in (0..wanted.len()).filter(|&i| wanted[i]) {
            let links = Matrix::new(&gone.below[i * e * d..(i + 1) * e * d], d, e);
            self.lose(i, d, links, &gone.right[i * e..(i + 1) * e]);
            if next > 0 {
                let above = Matrix::new(&gone.above[i * e * next..(i + 1) * e * next], next, e);
                let coupling = &mut self.coupling[i * next * d..(i + 1) * next * d];
                T::matmul(Write::Set(coupling), above, links.t());
                for value in coupling {
                    *value = -*value;
                }
            }
        }
        self.operations += (d * d * e + d * e + next * e * d) as u64;
    }

    fn lose(&mut self, i: usize, d: usize, links: Matrix<'_, T>, y: &[T]) {
        let scratch = &mut self.scratch[..d * d];
        T::matmul(Write::Set(scratch), links, links.t());
        subtract_from(&mut self.diagonal[i * d * d..(i + 1) * d * d], scratch);
        let scratch = &mut self.scratch[..d];
        T::matmul(Write::Set(scratch), links, Matrix::new(y, y.len(), 1));
        subtract_from(&mut self.right[i * d..(i + 1) * d], scratch);
    }
}

impl<T: Scalar> Factor<T> {
    fn new() -> Self {
        Self {
            lower: Vec::new(),
            below: Vec::new(),
            above: Vec::new(),
            right: Vec::new(),
            scratch: Vec::new(),
            operations: 0,
        }
    }

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
            let lower = &mut self.lower[i * d * d..(i + 1) * d * d];
            lower.copy_from_slice(&own.diagonal[i * d * d..(i + 1) * d * d]);
            let definite = factor(lower, d);
            if let Some(b) = elimination.below {
                let to = &mut self.below[i * d * below..(i + 1) * d * below];
                let coupling = &blocks[b].coupling[i * d * below..(i + 1) * d * below];
                for (column, to) in to.chunks_exact_mut(below).enumerate() {
                    for (row, to) in to.iter_mut().enumerate() {
                        *to = coupling[row * d + column];
                    }
                }
                divide_transposed(lower, d, to);
            }
            let to = &mut self.above[i * d * above..(i + 1) * d * above];
            to.copy_from_slice(&own.coupling[i * d * above..(i + 1) * d * above]);
            divide_transposed(lower, d, to);
            let right = &mut self.right[i * d..(i + 1) * d];
            right.copy_from_slice(&own.right[i * d..(i + 1) * d]);
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
                let links = Matrix::new(&links[i * d * other..(i + 1) * d * other], other, d);
                let known = &blocks[b].solution[i * other..(i + 1) * other];
                T::matmul(
                    Write::Set(&mut *scratch),
                    links.t(),
                    Matrix::new(known, other, 1),
                );
                subtract_from(&mut self.right[i * d..(i + 1) * d], scratch);
            }
        }
        for i in (0..wanted.len()).filter(|&i| wanted[i]) {
            let lower = &self.lower[i * d * d..(i + 1) * d * d];
            solve_lower_transposed(lower, d, &mut self.right[i * d..(i + 1) * d]);
        }
        self.operations += (d * width + d * (d + 1) / 2) as u64;
    }
}
