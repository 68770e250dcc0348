//! How layers, and columns within layers, are scheduled on threads.

use std::ops::Range;

#[cfg(feature = "rayon")]
use rayon::{current_num_threads, join};

use crate::kernel::Write;

/// How independent work is scheduled: the problems of the layers, and the examples (columns) within
/// a layer. The results are bit-identical for every choice.
///
/// All choices except `Sequential` use the caller's rayon pool. A call from outside the pool has to
/// enter it each time, so run a loop of steps inside the pool's `install`, as
/// [`Trainer`](crate::training::Trainer) does. Without the feature `rayon`, every choice computes
/// on the calling thread, like `Sequential`.
///
/// Custom layers can divide their columns among threads with [`Execution::for_each_block`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Execution {
    /// One layer after another, on the calling thread.
    #[default]
    Sequential,
    /// Layers in parallel, each on one thread. Best for many small layers.
    Layers,
    /// One layer after another, with the columns of each in parallel if there is enough work and
    /// the layer supports it ([`Dense`](crate::layer::Dense) does). Best for few large layers, and
    /// the only parallelism in a chain such as backprop.
    Columns,
    /// Whichever suits the circuit and the batch: layers in parallel, also with columns in parallel
    /// if the layers alone do not occupy every thread, or nothing in parallel if there is too
    /// little work. The choice depends on the layers' costs
    /// ([`Layer::cost`](crate::layer::Layer::cost)) and the number of examples.
    Automatic,
    /// Like `Sequential`, but in two blocks wherever columns may be divided, so that a check sees on one
    /// thread what a division changes.
    #[doc(hidden)]
    Divided,
}

/// The smallest number of multiply-adds worth sending to another thread: about ten microseconds.
pub(crate) const LEAST_WORK: usize = 1 << 19;

/// Blocks begin at multiples of this, the width that the product kernels compute at once, unless there are
/// few columns.
const UNIT: usize = 8;

/// The smallest number of columns in a block, unless fewer are enough work.
pub(crate) const LEAST_COLUMNS: usize = 2 * UNIT;

#[cfg(not(feature = "rayon"))]
fn current_num_threads() -> usize {
    1
}

#[cfg(not(feature = "rayon"))]
fn join<A, B>(first: impl FnOnce() -> A, second: impl FnOnce() -> B) -> (A, B) {
    (first(), second())
}

impl Execution {
    fn has_parallel_layers(self) -> bool {
        cfg!(feature = "rayon") && matches!(self, Self::Layers | Self::Automatic)
    }

    fn has_parallel_columns(self) -> bool {
        cfg!(feature = "rayon") && matches!(self, Self::Columns | Self::Automatic)
    }

    /// Turns `Automatic` into `Sequential` if layers with these numbers of multiply-adds per
    /// product are too small for several threads to pay off. Other values are unchanged.
    pub(crate) fn repaid(self, work: impl Iterator<Item = usize>) -> Self {
        if self == Self::Automatic {
            let total = work.fold(0, usize::saturating_add);
            if current_num_threads() == 1 || total < LEAST_WORK / 4 {
                return Self::Sequential;
            }
        }
        self
    }

    /// Resolves `Automatic` for a pass over independent layers with these numbers of multiply-adds.
    pub(crate) fn fitted(self, work: impl Iterator<Item = usize> + Clone) -> Self {
        let resolved = self.repaid(work.clone());
        if resolved != Self::Automatic {
            return resolved;
        }
        // Whole layers balance well if none takes more than a quarter of a thread's share. Whole
        // products are fastest if no layer has enough work for a second thread.
        let total = work.clone().fold(0, usize::saturating_add);
        let largest = work.max().unwrap_or(0);
        let balanced = largest.saturating_mul(4 * current_num_threads()) <= total;
        match balanced || largest < 2 * LEAST_WORK {
            true => Self::Layers,
            false => Self::Automatic,
        }
    }

    /// How many consecutive layers one thread computes: all `layers`, or so many that each thread
    /// gets two such groups, for load balance.
    pub(crate) fn neighbours(self, layers: usize) -> usize {
        if self.has_parallel_layers() {
            return layers.div_ceil(2 * current_num_threads()).max(1);
        }
        layers.max(1)
    }

    /// Calls `work(i, item i of data)` for i = 0, …, `count` − 1.
    pub(crate) fn for_each_item<D: Divide>(
        self,
        count: usize,
        data: D,
        work: impl Fn(usize, D) + Sync,
    ) {
        if self.has_parallel_layers() {
            let item = |range: Range<usize>, data| {
                if !range.is_empty() {
                    work(range.start, data);
                }
            };
            return halve(0..count, count, 1, data, &item, &|(), ()| ());
        }
        let mut rest = data;
        for i in 0..count {
            let (item, others) = rest.divide(1);
            work(i, item);
            rest = others;
        }
    }

    /// Calls `work(i, &mut items[i])` for every i.
    pub(crate) fn for_each<A: Send>(self, items: &mut [A], work: impl Fn(usize, &mut A) + Sync) {
        self.for_each_item(items.len(), items, |i, item: &mut [A]| {
            work(i, &mut item[0])
        });
    }

    /// Calls `work(i, chunk)` for the i-th chunk of `size` items; the last may be shorter.
    pub(crate) fn for_each_chunk<A: Send>(
        self,
        items: &mut [A],
        size: usize,
        work: impl Fn(usize, &mut [A]) + Sync,
    ) {
        let chunks = items.len().div_ceil(size);
        let columns = Columns::new(items, size);
        self.for_each_item(chunks, columns, |i, chunk: Columns<'_, A>| {
            work(i, chunk.values);
        });
    }

    /// Calls `work(i, &mut a[i], &mut b[i])` for every i of both.
    pub(crate) fn for_each_pair<A: Send, B: Send>(
        self,
        a: &mut [A],
        b: &mut [B],
        work: impl Fn(usize, &mut A, &mut B) + Sync,
    ) {
        let count = a.len().min(b.len());
        self.for_each_item(count, (a, b), |i, (a, b): (&mut [A], &mut [B])| {
            work(i, &mut a[0], &mut b[0]);
        });
    }

    /// Calls `work(range, those columns of data)` for blocks of columns that together cover
    /// 0..`columns`. There is one block, or one per thread for as many threads as a cost of `cost`
    /// multiply-adds per column justifies. If there are several blocks, each is at least 16 columns
    /// wide and begins at a multiple of 8. Where fewer columns are already enough work for a thread,
    /// blocks may have any width, down to a single column; a gradient check makes such blocks whatever the cost.
    ///
    /// `data` is what the blocks write: [`Columns`], [`WriteColumns`], slices of one value per
    /// column, or a tuple of up to four of these. `work` captures the data that it only reads, and
    /// uses the part of it in `range`. Each column must be computed independently, so that its bits
    /// do not depend on the blocks; a sum over columns must not be split.
    /// [`GradCheck::layer`](crate::gradcheck::GradCheck::layer) checks that dividing the columns changes nothing.
    ///
    /// # Examples
    /// ```
    /// use layerwise::kernel::{Columns, Execution};
    ///
    /// // The squared length of every column, and the column divided by its length.
    /// let (dim, input) = (2, [3.0, 4.0, 0.6, 0.8]);
    /// let (mut unit, mut squares) = ([0.0; 4], [0.0; 2]);
    /// let data = (Columns::new(&mut unit, dim), &mut squares[..]);
    /// Execution::Columns.for_each_block(2, 2 * dim, data, |range, (unit, squares)| {
    ///     let z = input[range.start * dim..range.end * dim].chunks_exact(dim);
    ///     let columns = unit.values.chunks_exact_mut(dim).zip(squares);
    ///     for (z, (unit, square)) in z.zip(columns) {
    ///         *square = z.iter().map(|z| z * z).sum();
    ///         unit.iter_mut().zip(z).for_each(|(u, z)| *u = z / f64::sqrt(*square));
    ///     }
    /// });
    /// assert_eq!((unit, squares), ([0.6, 0.8, 0.6, 0.8], [25.0, 1.0]));
    /// ```
    pub fn for_each_block<D: Divide>(
        self,
        columns: usize,
        cost: usize,
        data: D,
        work: impl Fn(Range<usize>, D) + Sync,
    ) {
        self.map_blocks(columns, cost, 1, data, work, |(), ()| ());
    }

    /// [`Execution::for_each_block`] in blocks that begin at multiples of `unit` and are at least
    /// `unit` wide. The results of the blocks are combined.
    pub(crate) fn map_blocks<D: Divide, R: Send>(
        self,
        columns: usize,
        each: usize,
        unit: usize,
        data: D,
        work: impl Fn(Range<usize>, D) -> R + Sync,
        combine: impl Fn(R, R) -> R + Sync,
    ) -> R {
        if self.has_parallel_columns() {
            let repaid = columns.saturating_mul(each) / LEAST_WORK;
            // Columns that are worth a thread by themselves need no others beside them.
            let least = (LEAST_WORK / each.max(1)).clamp(1, LEAST_COLUMNS);
            let blocks = repaid.min(columns / least.max(unit));
            let blocks = blocks.min(current_num_threads());
            let unit = match columns < blocks * LEAST_COLUMNS {
                true => unit,
                false => unit.max(UNIT),
            };
            return halve(0..columns, blocks, unit, data, &work, &combine);
        }
        if self == Self::Divided {
            let unit = match columns < 2 * LEAST_COLUMNS {
                true => unit,
                false => unit.max(UNIT),
            };
            let at = columns / unit / 2 * unit;
            if at > 0 {
                let (first, second) = data.divide(at);
                let first = work(0..at, first);
                return combine(first, work(at..columns, second));
            }
        }
        work(0..columns, data)
    }
}

/// Halves the range recursively into `blocks` blocks, each computed by whichever thread is free.
fn halve<D: Divide, R: Send>(
    range: Range<usize>,
    blocks: usize,
    unit: usize,
    data: D,
    work: &(dyn Fn(Range<usize>, D) -> R + Sync),
    combine: &(dyn Fn(R, R) -> R + Sync),
) -> R {
    if blocks <= 1 {
        return work(range, data);
    }
    let left = blocks / 2;
    // The left half consists of whole units; a remainder goes to the last block.
    let at = range.len() / unit * left / blocks * unit;
    let (first, second) = data.divide(at);
    let (start, middle) = (range.start, range.start + at);
    let (a, b) = join(
        || halve(start..middle, left, unit, first, work, combine),
        || {
            let right = blocks - left;
            halve(middle..range.end, right, unit, second, work, combine)
        },
    );
    combine(a, b)
}

/// Columns (or single values) that can be split in two, so that each thread writes its own part:
/// the `data` of [`Execution::for_each_block`].
pub trait Divide: Sized + Send {
    /// The first `count` columns (or all, if there are fewer), and the rest.
    fn divide(self, count: usize) -> (Self, Self);
}

/// One value per column.
impl<A: Send> Divide for &mut [A] {
    fn divide(self, count: usize) -> (Self, Self) {
        let at = count.min(self.len());
        self.split_at_mut(at)
    }
}

/// Columns of `size` values each, one after another. Empty `values` mean that the columns are not
/// needed.
#[derive(Debug)]
#[non_exhaustive]
pub struct Columns<'a, A> {
    /// The values of all columns.
    pub values: &'a mut [A],
    /// Values per column.
    pub size: usize,
}

impl<'a, A> Columns<'a, A> {
    /// Splits `values` into columns of `size` values each.
    pub fn new(values: &'a mut [A], size: usize) -> Self {
        Self { values, size }
    }
}

impl<A: Send> Divide for Columns<'_, A> {
    fn divide(self, count: usize) -> (Self, Self) {
        let at = count.saturating_mul(self.size).min(self.values.len());
        let (first, second) = self.values.split_at_mut(at);
        let columns = |values| Columns::new(values, self.size);
        (columns(first), columns(second))
    }
}

/// [`Columns`] that are set, added to, or skipped.
#[derive(Debug)]
#[non_exhaustive]
pub struct WriteColumns<'a, A> {
    /// Where to write, and how.
    pub write: Write<'a, A>,
    /// Values per column.
    pub size: usize,
}

impl<'a, A> WriteColumns<'a, A> {
    /// Columns of `size` values each.
    pub fn new(write: Write<'a, A>, size: usize) -> Self {
        Self { write, size }
    }
}

impl<A: Send> Divide for WriteColumns<'_, A> {
    fn divide(self, count: usize) -> (Self, Self) {
        let (first, second) = self.write.split_at(count.saturating_mul(self.size));
        let columns = |write| WriteColumns::new(write, self.size);
        (columns(first), columns(second))
    }
}

impl<A: Divide, B: Divide> Divide for (A, B) {
    fn divide(self, count: usize) -> (Self, Self) {
        let (a, c) = self.0.divide(count);
        let (b, d) = self.1.divide(count);
        ((a, b), (c, d))
    }
}

impl<A: Divide, B: Divide, C: Divide> Divide for (A, B, C) {
    fn divide(self, count: usize) -> (Self, Self) {
        let (a, d) = self.0.divide(count);
        let ((b, c), (e, f)) = (self.1, self.2).divide(count);
        ((a, b, c), (d, e, f))
    }
}

impl<A: Divide, B: Divide, C: Divide, D: Divide> Divide for (A, B, C, D) {
    fn divide(self, count: usize) -> (Self, Self) {
        let ((a, b), (e, f)) = (self.0, self.1).divide(count);
        let ((c, d), (g, h)) = (self.2, self.3).divide(count);
        ((a, b, c, d), (e, f, g, h))
    }
}

#[cfg(all(test, feature = "rayon"))]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// The ranges of the blocks, in order, and the values written.
    fn blocks(
        execution: Execution,
        threads: usize,
        columns: usize,
        each: usize,
    ) -> (Vec<Range<usize>>, Vec<usize>) {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let mut written = vec![0; 3 * columns];
        let ranges = Mutex::new(Vec::new());
        pool.unwrap().install(|| {
            let data = Columns::new(&mut written, 3);
            let work = |range: Range<usize>, part: Columns<'_, usize>| {
                let places = range.clone().flat_map(|column| [column; 3]);
                for (to, column) in part.values.iter_mut().zip(places) {
                    *to = column + 1;
                }
                ranges.lock().unwrap().push(range);
            };
            execution.for_each_block(columns, each, data, work);
        });
        let mut ranges = ranges.into_inner().unwrap();
        ranges.sort_by_key(|range| range.start);
        (ranges, written)
    }

    #[test]
    fn blocks_tile_the_columns_and_none_is_narrow() {
        // Columns of so little work that a block needs many, and columns of which one is enough.
        for least in [LEAST_COLUMNS, 4, 1] {
            let mut most = 0;
            for threads in [2, 3, 5, 8] {
                for columns in [1, 2, 5, 15, 16, 31, 32, 33, 95, 100, 128, 257] {
                    let each = LEAST_WORK / least;
                    let (ranges, written) = blocks(Execution::Columns, threads, columns, each);
                    let expected: Vec<usize> = (1..=columns).flat_map(|c| [c; 3]).collect();
                    assert_eq!(written, expected);
                    let mut end = 0;
                    for range in &ranges {
                        assert_eq!(range.start, end);
                        assert!(range.len() >= least || ranges.len() == 1);
                        let narrow = columns < ranges.len() * LEAST_COLUMNS;
                        assert!(narrow || range.start.is_multiple_of(UNIT));
                        end = range.end;
                    }
                    assert_eq!(end, columns);
                    assert_eq!(ranges.len(), threads.min(columns / least).max(1));
                    most = most.max(ranges.len());
                }
            }
            assert_eq!(most, 8, "one block per thread");
        }
    }

    #[test]
    fn work_that_repays_no_second_thread_stays_whole() {
        for execution in [Execution::Columns, Execution::Automatic] {
            assert_eq!(blocks(execution, 4, 128, LEAST_WORK / 128).0.len(), 1);
            assert_eq!(blocks(execution, 4, 128, LEAST_WORK / 64).0.len(), 2);
        }
        for execution in [Execution::Sequential, Execution::Layers] {
            assert_eq!(blocks(execution, 4, 128, LEAST_WORK).0.len(), 1);
        }
    }

    #[test]
    fn the_automatic_choice_goes_by_the_layers() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build();
        pool.unwrap().install(|| {
            let fitted = |work: &[usize]| Execution::Automatic.fitted(work.iter().copied());
            assert_eq!(fitted(&[2 * LEAST_WORK; 8]), Execution::Layers);
            assert_eq!(fitted(&[2 * LEAST_WORK; 7]), Execution::Automatic);
            assert_eq!(fitted(&[2 * LEAST_WORK - 1; 7]), Execution::Layers);
            assert_eq!(fitted(&[100; 32]), Execution::Sequential);
            let chosen = Execution::Columns.fitted([1].into_iter());
            assert_eq!(chosen, Execution::Columns);
        });
    }
}
