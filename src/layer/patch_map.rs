//! The linear map z → W U(z) of a layer of patches, its adjoint, and its derivative in W.
//!
//! The patches are never all in memory at once: they are made in blocks of a few positions, and each
//! block is used while it is in the cache. A block is a part of one example or some whole examples,
//! divided in the same way for every example, batch and thread, so the order of every sum is the same too.

use std::ops::Range;

use super::{Unfold, check_dimension};
use crate::check::{check_count, room};
use crate::error::Error;
use crate::kernel::{
    Columns, Divide, Execution, Matrix, Scalar, Write, WriteColumns, add_to_halves, dot, scale,
    smallest,
};

/// The largest number of values of a matrix.
pub(super) const MOST: usize = isize::MAX as usize / 16;

/// Values of the patches of a block, unless that makes too few or too many positions: they fit in the
/// L2 cache, and are enough to repay the copy of W that a product makes.
const BLOCK: usize = 32768;
const FEWEST_POSITIONS: usize = 64;
const MOST_POSITIONS: usize = 512;
/// The number of columns that products compute at once.
const UNIT: usize = 8;

/// The fewest examples of a large batch for one thread: they repay its work memory.
const LEAST_EXAMPLES: usize = 16;
/// The most threads for a batch too small to give each of them `LEAST_EXAMPLES`.
const PARTS: usize = 16;

/// Terms of the derivative in W that are added in plain arithmetic. Sums of them are added in
/// twice the precision.
const TERMS: usize = 384;

/// Patches that an [`Unfold`] makes, or one for each group of channels, and the shape of W, whose rows are
/// divided evenly among the groups.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PatchMap<U> {
    /// The unfold of the first group. The others are made on use: there may be as many as channels.
    pub(super) unfold: U,
    pub(super) groups: usize,
    pub(super) channels: usize,
    pub(super) inputs: usize,
    pub(super) patch_len: usize,
    pub(super) positions: usize,
    /// Positions and values of blocks whose patches share memory.
    shared: Option<(usize, usize)>,
    /// The largest number of patch entries that read the same entry of the input: ‖U‖².
    multiplicity: usize,
    /// Whether the patches are the input itself, so that nothing is copied.
    pub(super) whole: bool,
}

/// Positions of some examples: all positions of several, or some positions of one.
pub(super) struct Block {
    examples: Range<usize>,
    positions: Range<usize>,
    /// The columns among those of all examples.
    columns: Range<usize>,
}

impl Block {
    /// Where the block is in columns of `size` values.
    pub(super) fn of(&self, size: usize) -> Range<usize> {
        self.columns.start * size..self.columns.end * size
    }
}

impl<U: Unfold> PatchMap<U> {
    /// The map of a single unfold.
    pub(super) fn over(unfold: U, channels: usize) -> Result<Self, Error> {
        let (inputs, patch_len) = (unfold.input_shape().size(), unfold.patch_len());
        let positions = unfold.positions().size();
        check_dimension("the input of a patchwise layer", inputs)?;
        check_dimension("the patch of a patchwise layer", patch_len)?;
        check_dimension("the number of positions of a patchwise layer", positions)?;
        check_dimension("the number of channels of a patchwise layer", channels)?;
        check_size(patch_len, positions, channels)?;
        let size = unfold.patch_shape().size();
        check_count("the shape of a patch", size == patch_len, patch_len, size)?;
        if unfold.is_input() {
            return Self::with_counts(unfold, 1, channels, 1, true);
        }
        let mut readers = room("an input", inputs, 1)?;
        readers.resize(inputs, 0_usize);
        let mut whole = patch_len * positions == inputs;
        for position in 0..positions {
            for entry in 0..patch_len {
                let source = unfold.source(entry, position);
                whole = whole && source == Some(entry + patch_len * position);
                let Some(source) = source else { continue };
                *readers.get_mut(source).ok_or(Error::Source {
                    entry,
                    position,
                    source_entry: source,
                    inputs,
                })? += 1;
            }
        }
        let multiplicity = readers.into_iter().max().unwrap_or(0);
        Self::with_counts(unfold, 1, channels, multiplicity, whole)
    }

    /// The map of this many groups, of which `unfold` is the first, with a given ‖U‖².
    pub(super) fn with_counts(
        unfold: U,
        groups: usize,
        channels: usize,
        multiplicity: usize,
        whole: bool,
    ) -> Result<Self, Error> {
        let (patch_len, positions) = (unfold.patch_len(), unfold.positions().size());
        check_size(patch_len, positions, channels)?;
        Ok(Self {
            channels,
            inputs: unfold.input_shape().size(),
            patch_len,
            positions,
            shared: unfold.shared_block(BLOCK).filter(|_| !whole),
            multiplicity,
            whole,
            unfold,
            groups,
        })
    }

    /// Values of W.
    pub(super) fn weights(&self) -> usize {
        self.channels * self.patch_len
    }

    /// Multiply-adds per example.
    pub(super) fn cost(&self) -> usize {
        self.weights().saturating_mul(self.positions)
    }

    /// Rows of W that belong to one unfold.
    fn rows(&self) -> usize {
        self.channels / self.groups
    }

    /// Calls `each` with the number and unfold of every group.
    pub(super) fn for_each_group(&self, mut each: impl FnMut(usize, &U)) {
        for g in 0..self.groups {
            let other = self.unfold.group(g);
            each(g, other.as_ref().unwrap_or(&self.unfold));
        }
    }

    /// Examples and positions of a block.
    fn at_once(&self) -> (usize, usize) {
        let most = (BLOCK / self.patch_len).clamp(FEWEST_POSITIONS, MOST_POSITIONS);
        if self.positions <= most {
            return ((most / self.positions).min(LEAST_EXAMPLES), self.positions);
        }
        let parts = self.positions.div_ceil(most);
        (1, self.positions.div_ceil(parts).next_multiple_of(UNIT))
    }

    /// The blocks of this many examples for [`apply`](Self::apply), in order. Patches that are the input
    /// itself form one block. Each column is computed by itself, so that blocks may be of any size.
    pub(super) fn blocks(
        &self,
        execution: Execution,
        examples: usize,
    ) -> impl Iterator<Item = Block> {
        let at_once = match (self.whole, self.shared) {
            (true, _) => (examples.max(1), self.positions),
            (false, Some((positions, _))) => (1, positions),
            (false, None) if execution == Execution::Divided => {
                let (_, positions) = self.at_once();
                (1, positions.min(self.positions.div_ceil(2)))
            }
            (false, None) => self.at_once(),
        };
        self.blocks_of(examples, at_once)
    }

    /// The blocks of this many examples, with at most the given examples and positions in each.
    fn blocks_of(
        &self,
        examples: usize,
        (examples_at_once, at_once): (usize, usize),
    ) -> impl Iterator<Item = Block> {
        let positions = self.positions;
        let firsts = (0..examples).step_by(examples_at_once);
        firsts.flat_map(move |first| {
            let own = first..(first + examples_at_once).min(examples);
            (0..positions).step_by(at_once).map(move |start| {
                let end = (start + at_once).min(positions);
                let columns = own.start * positions + start..(own.end - 1) * positions + end;
                Block {
                    examples: own.clone(),
                    positions: start..end,
                    columns,
                }
            })
        })
    }

    /// Work memory of one thread for [`apply`](Self::apply) and [`adjoint`](Self::adjoint).
    fn block_work(&self) -> usize {
        if self.whole {
            return 0;
        }
        let (examples, positions) = self.at_once();
        let rows = if self.groups > 1 { self.rows() } else { 0 };
        let columns = examples.saturating_mul(positions);
        let block = self.patch_len.saturating_mul(columns);
        let (positions, shared) = self.shared.unwrap_or((columns, 0));
        let rows = rows.saturating_mul(positions.max(columns));
        block.max(shared).saturating_add(rows)
    }

    /// Work memory of a batch for all its threads.
    fn shares(&self, batch: usize) -> usize {
        let own = self.block_work();
        if own == 0 {
            return 0;
        }
        let few = own.saturating_mul(batch.clamp(1, PARTS));
        let many = own.div_ceil(LEAST_EXAMPLES).saturating_mul(batch);
        // Each example's share is rounded up: by less than one value.
        few.max(many).saturating_add(batch)
    }

    /// [`Execution::for_each_block`] over the examples of a batch. The last argument of `each` is work memory
    /// that is enough for a block.
    pub(super) fn for_each_block<T: Scalar, D: Divide>(
        &self,
        execution: Execution,
        batch: usize,
        data: D,
        work: &mut [T],
        each: impl Fn(Range<usize>, D, &mut [T]) + Sync,
    ) {
        let least = batch.div_ceil(PARTS).clamp(1, LEAST_EXAMPLES);
        let share = self.block_work().div_ceil(least);
        let data = (data, Columns::new(work, share));
        let each = |range, (data, work): (D, Columns<'_, T>)| each(range, data, work.values);
        execution.map_blocks(batch, self.cost(), least, data, each, |(), ()| ());
    }

    /// Work memory of one entry of the patches for [`outer`](Self::outer).
    fn outer_share(&self) -> usize {
        if self.whole {
            return 0;
        }
        let (examples, positions) = self.at_once();
        let sums = self.channels.saturating_mul(3);
        sums.saturating_add(examples.saturating_mul(positions))
    }

    /// Work memory for any product of a batch.
    pub(super) fn work(&self, batch: usize) -> usize {
        let outer = self.outer_share().saturating_mul(self.patch_len);
        self.shares(batch).max(outer)
    }

    /// W of the group g.
    fn matrix<'a, T>(&self, weights: &'a [T], g: usize) -> Matrix<'a, T> {
        let all = Matrix::new(&weights[..self.weights()], self.channels, self.patch_len);
        self.rows_of(all, g)
    }

    /// The rows of the group g.
    fn rows_of<'a, T>(&self, all: Matrix<'a, T>, g: usize) -> Matrix<'a, T> {
        match (self.groups, self.rows()) {
            (1, _) => all,
            (_, rows) => all.t().column_range(g * rows..(g + 1) * rows).t(),
        }
    }

    /// The entries `entries` of the patches of a block, copied to `patches`.
    fn patches<'a, T: Scalar>(
        &self,
        unfold: &U,
        input: &[T],
        block: &Block,
        entries: &Range<usize>,
        patches: &'a mut [T],
    ) -> Matrix<'a, T> {
        let size = entries.len() * block.positions.len();
        let own = block.examples.start * self.inputs..block.examples.end * self.inputs;
        let patches = &mut patches[..size * block.examples.len()];
        let examples = input[own].chunks_exact(self.inputs);
        for (z, patches) in examples.zip(patches.chunks_exact_mut(size)) {
            unfold.unfold(z, entries.clone(), block.positions.clone(), patches);
        }
        Matrix::new(patches, entries.len(), block.columns.len())
    }

    /// `out ← W U(z)` for the columns of a block.
    pub(super) fn apply<T: Scalar>(
        &self,
        weights: &[T],
        input: &[T],
        block: &Block,
        mut out: Write<'_, T>,
        work: &mut [T],
    ) {
        let columns = block.columns.len();
        if self.whole {
            let z = Matrix::new(&input[block.of(self.patch_len)], self.patch_len, columns);
            return T::matmul(out, self.matrix(weights, 0), z);
        }
        if self.groups == 1 {
            let patches = self.block(&self.unfold, input, block, work);
            return T::matmul(out, self.matrix(weights, 0), patches);
        }
        let count = self.rows();
        let (rows, patches) = work.split_at_mut(count * columns);
        self.for_each_group(|g, unfold| {
            let patches = self.block(unfold, input, block, patches);
            T::matmul(Write::Set(&mut *rows), self.matrix(weights, g), patches);
            for (j, own) in rows.chunks_exact(count).enumerate() {
                let start = j * self.channels + g * count;
                out.part(start..start + count).each(|i| own[i]);
            }
        });
    }

    /// The patches of a block, in memory that they share if they can.
    fn block<'a, T: Scalar>(
        &self,
        unfold: &U,
        input: &[T],
        block: &Block,
        patches: &'a mut [T],
    ) -> Matrix<'a, T> {
        if self.shared.is_none() {
            return self.patches(unfold, input, block, &(0..self.patch_len), patches);
        }
        let z = &input[block.examples.start * self.inputs..][..self.inputs];
        unfold.unfold_shared(z, block.positions.clone(), patches)
    }

    /// `d_input ← Uᵀ(Wᵀ g)` for this many examples.
    pub(super) fn adjoint<T: Scalar>(
        &self,
        weights: &[T],
        g: &[T],
        examples: usize,
        d_input: Write<'_, T>,
        work: &mut [T],
    ) {
        if self.whole {
            let g = Matrix::new(g, self.channels, self.positions * examples);
            return T::matmul(d_input, self.matrix(weights, 0).t(), g);
        }
        let Some(sums) = d_input.accumulate() else {
            return;
        };
        for block in self.blocks_of(examples, self.at_once()) {
            let columns = block.columns.len();
            let own = Matrix::new(&g[block.of(self.channels)], self.channels, columns);
            let patches = &mut work[..self.patch_len * columns];
            let size = self.patch_len * block.positions.len();
            self.for_each_group(|i, unfold| {
                let w = self.matrix(weights, i).t();
                T::matmul(Write::Set(&mut *patches), w, self.rows_of(own, i));
                for (example, patches) in block.examples.clone().zip(patches.chunks_exact(size)) {
                    let sums = &mut sums[example * self.inputs..][..self.inputs];
                    unfold.fold(patches, block.positions.clone(), sums);
                }
            });
        }
    }

    /// `d_weights ← G U(Z)ᵀ`, a sum over all positions of all examples. The threads divide the
    /// columns, which are entries of the patches.
    pub(super) fn outer<T: Scalar>(
        &self,
        execution: Execution,
        g: &[T],
        input: &[T],
        d_weights: Write<'_, T>,
        work: &mut [T],
    ) {
        let columns = g.len() / self.channels;
        let share = self.outer_share();
        let data = (
            WriteColumns::new(d_weights, self.channels),
            Columns::new(&mut work[..share * self.patch_len], share),
        );
        let cost = self.channels * columns;
        execution.for_each_block(self.patch_len, cost, data, |entries, (d_weights, work)| {
            if !self.whole {
                return self.outer_of(entries, g, input, d_weights.write, work.values);
            }
            let z = Matrix::new(input, self.patch_len, columns).t();
            let g = Matrix::new(g, self.channels, columns);
            T::matmul(d_weights.write, g, z.column_range(entries));
        });
    }

    /// Some columns of G U(Z)ᵀ.
    fn outer_of<T: Scalar>(
        &self,
        entries: Range<usize>,
        g: &[T],
        input: &[T],
        d_weights: Write<'_, T>,
        work: &mut [T],
    ) {
        // One group after another, each with its own rows of these columns.
        let (rows, size) = (self.rows(), self.channels * entries.len());
        let (sums, rest) = work.split_at_mut(size);
        let (lost, rest) = rest.split_at_mut(size);
        let (part, patches) = rest.split_at_mut(size);
        sums.fill(T::zero());
        lost.fill(T::zero());
        let mut terms = 0;
        for block in self.blocks_of(input.len() / self.inputs, self.at_once()) {
            let columns = block.columns.len();
            let own = Matrix::new(&g[block.of(self.channels)], self.channels, columns);
            let size = rows * entries.len();
            self.for_each_group(|i, unfold| {
                let part = &mut part[i * size..(i + 1) * size];
                let patches = self.patches(unfold, input, &block, &entries, patches);
                let write = match terms {
                    0 => Write::Set(part),
                    _ => Write::Add(part),
                };
                T::matmul(write, self.rows_of(own, i), patches.t());
            });
            terms += columns;
            if terms >= TERMS {
                add_to_halves(sums, lost, part);
                terms = 0;
            }
        }
        if terms > 0 {
            add_to_halves(sums, lost, part);
        }
        if self.groups == 1 {
            return d_weights.each(|i| sums[i]);
        }
        d_weights.each(|i| {
            let (entry, row) = (i / self.channels, i % self.channels);
            sums[(row / rows * entries.len() + entry) * rows + row % rows]
        });
    }

    /// Work memory for [`curvature_bound`](Self::curvature_bound).
    pub(super) fn bound(&self) -> usize {
        let side = self.rows().min(self.patch_len);
        let panel = if side > UNMIRRORED { PANEL } else { 0 };
        side.saturating_mul(side.saturating_mul(2).saturating_add(panel))
    }

    /// A bound on the square of the map's norm, ‖W‖² ‖U‖². Unfolds that read the same entry of the
    /// input are counted in ‖U‖², and W then has the norm of its largest group.
    pub(super) fn curvature_bound<T: Scalar>(&self, weights: &[T], work: &mut [T]) -> T {
        let groups = 0..self.groups;
        let bounds = groups.map(|g| squared_norm(self.matrix(weights, g), work));
        // Parameters that are NaN give NaN.
        let largest = bounds.reduce(|top, bound| if bound <= top { top } else { bound });
        // Add a margin for rounding errors in the sums.
        let terms = T::of(8.0 * (self.patch_len + self.channels) as f64);
        let room = T::one() + terms * T::default_epsilon();
        largest.unwrap_or(T::zero()) * room * T::of(self.multiplicity as f64)
    }
}

/// Checks that there are not too many patches, outputs and weights.
fn check_size(patch_len: usize, positions: usize, channels: usize) -> Result<(), Error> {
    let too_large = |what, rows, columns| Error::TooLarge {
        what,
        rows,
        columns,
    };
    let fits = |rows: usize, columns| rows.checked_mul(columns).is_some_and(|size| size <= MOST);
    if !fits(channels, patch_len.saturating_add(1)) {
        let what = "the weights of a dense layer";
        return Err(too_large(what, channels, patch_len));
    }
    let rows = patch_len.max(channels);
    if !fits(rows, positions) {
        return Err(too_large("the patches of an example", rows, positions));
    }
    Ok(())
}

/// Columns of a symmetric product that are computed at once.
const PANEL: usize = 64;
/// The largest side of a symmetric product at which what mirroring saves would not repay its copies.
const UNMIRRORED: usize = 4 * PANEL;

/// `out ← A B`, which is symmetric: every panel of columns is computed from its diagonal down, and the rest
/// of its rows is mirrored.
fn symmetric<T: Scalar>(a: Matrix<'_, T>, b: Matrix<'_, T>, out: &mut [T], panel: &mut [T]) {
    let side = a.rows();
    if side <= UNMIRRORED {
        return T::matmul(Write::Set(out), a, b);
    }
    for start in (0..side).step_by(PANEL) {
        let (columns, rows) = (start..side.min(start + PANEL), side - start);
        let panel = &mut panel[..rows * columns.len()];
        let below = a.t().column_range(start..side).t();
        let to = Write::Set(&mut *panel);
        T::matmul(to, below, b.column_range(columns.clone()));
        for (j, column) in columns.clone().zip(panel.chunks_exact(rows)) {
            out[j * side + start..(j + 1) * side].copy_from_slice(column);
        }
        for i in columns.end..side {
            let row = panel.iter().skip(i - start).step_by(rows);
            for (to, &value) in out[i * side + start..].iter_mut().zip(row) {
                *to = value;
            }
        }
    }
}

/// ‖W‖² = λ_max(B) ≤ (tr B⁸)^⅛, where B is the smaller of W Wᵀ and Wᵀ W. The bound is too large by a
/// factor of at most (side)^⅛.
fn squared_norm<T: Scalar>(w: Matrix<'_, T>, work: &mut [T]) -> T {
    let side = w.rows().min(w.columns());
    let (b, work) = work.split_at_mut(side * side);
    let (square, panel) = work.split_at_mut(side * side);
    let (left, right) = if w.rows() <= w.columns() {
        (w, w.t())
    } else {
        (w.t(), w)
    };
    symmetric(left, right, b, panel);
    // Scale before every squaring, so that nothing overflows or underflows. With scales c_k,
    // ‖B⁴‖_F^¼ = c_0 c_1^½ c_2^¼ for norms, and likewise for the largest entries.
    let mut bound = T::one();
    let mut power = T::one();
    let (mut current, mut next) = (b, square);
    for k in 0..3 {
        let largest = current.iter().fold(T::zero(), |top, b| top.max(b.abs()));
        if !largest.is_finite() {
            // On overflow, return infinity rather than no bound.
            return largest;
        }
        if largest < smallest::<T>() / T::default_epsilon() {
            // Squares of such weights underflow: use ‖W‖² ≤ rows · columns · max w², kept above 0.
            let top = (0..w.columns()).fold(T::zero(), |top, j| {
                let column = w.column_range(j..j + 1).data;
                column.iter().fold(top, |top: T, w| top.max(w.abs()))
            });
            if top.is_zero() {
                return top;
            }
            let size = top * T::of((w.rows() * w.columns()) as f64).sqrt();
            return (size * size).max(smallest());
        }
        scale(current, T::one() / largest);
        let norm = dot(current, current).sqrt();
        bound *= (largest * norm).powf(power);
        power *= T::of(0.5);
        if k < 2 {
            scale(current, T::one() / norm);
            let b = Matrix::new(current, side, side);
            symmetric(b, b, next, panel);
            std::mem::swap(&mut current, &mut next);
        }
    }
    bound
}
