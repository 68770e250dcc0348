//! Who evaluates the layers, and who the columns within them.

use std::ops::Range;

use crate::kernel::Write;

/// How independent work is scheduled: the problems of the layers, and the examples (columns)
/// within a layer. The bits of every result are the same. Without the feature `rayon` all of them
/// mean `Sequential`.
///
/// All but `Sequential` share the rayon pool that the call is made from, and cost one entry of it
/// each time they are called from outside: a loop of steps belongs inside the pool's `install`, as
/// [`Trainer`](crate::training::Trainer) does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Execution {
    /// One layer after another, on the calling thread.
    #[default]
    Sequential,
    /// Layers in parallel, each on one thread: best for many small layers.
    Layers,
    /// One layer after another, the columns of each in parallel where its work repays it
    /// ([`Dense`](crate::layer::Dense) does so): best for few large layers, and the only parallelism of a
    /// chain, such as backprop.
    Columns,
    /// Whichever fits the circuit and the batch: layers in parallel, and columns within them where
    /// the layers alone do not occupy every thread; nothing in parallel where the whole is too small
    /// to repay it. It goes by the numbers of parameters and examples.
    Automatic,
}

/// Fewest multiply-adds that repay handing them to another thread: some ten microseconds.
pub(crate) const LEAST_WORK: usize = 1 << 19;

/// Blocks begin at multiples of this: of what the products' kernels compute at once.
#[cfg(feature = "rayon")]
const UNIT: usize = 8;

/// Fewest columns of a block.
#[cfg(feature = "rayon")]
const LEAST_COLUMNS: usize = 2 * UNIT;

impl Execution {
    #[cfg(feature = "rayon")]
    fn has_parallel_layers(self) -> bool {
        matches!(self, Self::Layers | Self::Automatic)
    }

    #[cfg(feature = "rayon")]
    fn has_parallel_columns(self) -> bool {
        matches!(self, Self::Columns | Self::Automatic)
    }

    /// `Automatic` turned to `Sequential` where layers of these multiply-adds in one product do not
    /// repay several threads: the others mean what they say.
    pub(crate) fn repaid(self, work: impl Iterator<Item = usize>) -> Self {
        #[cfg(feature = "rayon")]
        if self == Self::Automatic {
            let total = work.fold(0, usize::saturating_add);
            if rayon::current_num_threads() == 1 || total < LEAST_WORK / 4 {
                return Self::Sequential;
            }
            return self;
        }
        let _ = work;
        self
    }

    /// What `Automatic` means for a pass over independent layers of these multiply-adds.
    pub(crate) fn fitted(self, work: impl Iterator<Item = usize> + Clone) -> Self {
        #[cfg(feature = "rayon")]
        if self.repaid(work.clone()) == Self::Automatic {
            let total = work.clone().fold(0, usize::saturating_add);
            let threads = rayon::current_num_threads();
            // Where no layer repays a second thread, or is more than a quarter of a thread's share,
            // whole products are the fastest, and whole layers balance.
            let largest = work.max().unwrap_or(0);
            let balanced = largest.saturating_mul(4 * threads) <= total;
            return match balanced || largest < 2 * LEAST_WORK {
                true => Self::Layers,
                false => Self::Automatic,
            };
        }
        self.repaid(work)
    }

    /// Of so many layers, those that one thread computes one after another: all, or as many as make
    /// two such runs a thread, for balance.
    pub(crate) fn neighbours(self, layers: usize) -> usize {
        #[cfg(feature = "rayon")]
        if self.has_parallel_layers() {
            return layers.div_ceil(2 * rayon::current_num_threads()).max(1);
        }
        layers.max(1)
    }

    /// Calls `work(i, item i of data)` for i = 0, …, `count` − 1.
    pub(crate) fn for_each_item<D: Cut>(
        self,
        count: usize,
        data: D,
        work: impl Fn(usize, D) + Sync,
    ) {
        #[cfg(feature = "rayon")]
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
            let (item, others) = rest.cut(1);
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
        let columns = Columns {
            values: items,
            size,
        };
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

    /// Calls `work(range, those columns of data)` for blocks that make up 0..`columns`, as many as
    /// a work of `each` multiply-adds a column repays.
    pub(crate) fn for_each_block<D: Cut>(
        self,
        columns: usize,
        each: usize,
        data: D,
        work: impl Fn(Range<usize>, D) + Sync,
    ) {
        self.map_blocks(columns, each, 1, data, work, |(), ()| ());
    }

    /// [`Execution::for_each_block`] in blocks that begin at multiples of `unit`; what the blocks
    /// give is combined.
    pub(crate) fn map_blocks<D: Cut, R: Send>(
        self,
        columns: usize,
        each: usize,
        unit: usize,
        data: D,
        work: impl Fn(Range<usize>, D) -> R + Sync,
        combine: impl Fn(R, R) -> R + Sync,
    ) -> R {
        #[cfg(feature = "rayon")]
        if self.has_parallel_columns() {
            let repaid = columns.saturating_mul(each) / LEAST_WORK;
            let blocks = repaid.min(columns / LEAST_COLUMNS.max(unit));
            let blocks = blocks.min(rayon::current_num_threads());
            let unit = unit.max(UNIT);
            return halve(0..columns, blocks, unit, data, &work, &combine);
        }
        let _ = (each, unit, combine);
        work(0..columns, data)
    }
}

/// Halves the range until there are `blocks` blocks, each to be done by whichever thread is free.
#[cfg(feature = "rayon")]
fn halve<D: Cut, R: Send>(
    range: Range<usize>,
    blocks: usize,
    unit: usize,
    data: D,
    work: &(impl Fn(Range<usize>, D) -> R + Sync),
    combine: &(impl Fn(R, R) -> R + Sync),
) -> R {
    if blocks <= 1 {
        return work(range, data);
    }
    let left = blocks / 2;
    // Whole units to the left; what is no whole unit goes to the last block. No block is narrower
    // than (units / blocks) units: products that are very narrow may sum in another order.
    let at = range.len() / unit * left / blocks * unit;
    let (first, second) = data.cut(at);
    let (start, middle) = (range.start, range.start + at);
    let (a, b) = rayon::join(
        || halve(start..middle, left, unit, first, work, combine),
        || {
            let right = blocks - left;
            halve(middle..range.end, right, unit, second, work, combine)
        },
    );
    combine(a, b)
}

/// A sequence of columns (or items) that can be cut in two, for threads that write their own each.
pub(crate) trait Cut: Sized + Send {
    /// The first `count` columns, or all if there are fewer, and the others.
    fn cut(self, count: usize) -> (Self, Self);
}

impl<A: Send> Cut for &mut [A] {
    fn cut(self, count: usize) -> (Self, Self) {
        let at = count.min(self.len());
        self.split_at_mut(at)
    }
}

/// Columns of `size` values each, one after another.
pub(crate) struct Columns<'a, A> {
    pub(crate) values: &'a mut [A],
    pub(crate) size: usize,
}

impl<A: Send> Cut for Columns<'_, A> {
    fn cut(self, count: usize) -> (Self, Self) {
        let size = self.size;
        let at = count.saturating_mul(size).min(self.values.len());
        let (first, second) = self.values.split_at_mut(at);
        let columns = |values| Self { values, size };
        (columns(first), columns(second))
    }
}

/// [`Columns`] to be set, added to, or skipped.
pub(crate) struct WriteColumns<'a, A> {
    pub(crate) write: Write<'a, A>,
    pub(crate) size: usize,
}

impl<A: Send> Cut for WriteColumns<'_, A> {
    fn cut(self, count: usize) -> (Self, Self) {
        let size = self.size;
        let (first, second) = self.write.split_at(count.saturating_mul(size));
        let columns = |write| Self { write, size };
        (columns(first), columns(second))
    }
}

impl<A: Cut, B: Cut> Cut for (A, B) {
    fn cut(self, count: usize) -> (Self, Self) {
        let (a, c) = self.0.cut(count);
        let (b, d) = self.1.cut(count);
        ((a, b), (c, d))
    }
}

impl<A: Cut, B: Cut, C: Cut> Cut for (A, B, C) {
    fn cut(self, count: usize) -> (Self, Self) {
        let (a, d) = self.0.cut(count);
        let ((b, c), (e, f)) = (self.1, self.2).cut(count);
        ((a, b, c), (d, e, f))
    }
}

#[cfg(all(test, feature = "rayon"))]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// The ranges that were worked on, in order, and what was written.
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
            let data = Columns {
                values: &mut written,
                size: 3,
            };
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
        let mut most = 0;
        for threads in [2, 3, 5, 8] {
            for columns in [1, 15, 16, 31, 32, 33, 95, 100, 128, 257] {
                let (ranges, written) = blocks(Execution::Columns, threads, columns, LEAST_WORK);
                let expected: Vec<usize> = (1..=columns).flat_map(|c| [c; 3]).collect();
                assert_eq!(written, expected);
                let mut end = 0;
                for range in &ranges {
                    assert_eq!(range.start, end);
                    assert!(range.len() >= LEAST_COLUMNS || ranges.len() == 1);
                    assert!(range.start.is_multiple_of(UNIT));
                    end = range.end;
                }
                assert_eq!(end, columns);
                assert!(ranges.len() <= threads);
                most = most.max(ranges.len());
            }
        }
        assert_eq!(most, 8, "one block a thread");
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
