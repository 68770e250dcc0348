//! Examples that are not in memory: z_0 and z_T in a data set, z_1, …, z_{T−1} in a store.

use std::fmt::Debug;
use std::sync::Arc;

use crate::check::{check_finite, make_room};
use crate::data::Dataset;
use crate::error::{Error, Quantity};
use crate::kernel::Scalar;

/// The auxiliary targets of all examples, kept outside memory: one record for each example, with its
/// z_1, …, z_{T−1} one after another.
pub(crate) trait TargetStore<T>: Debug + Send + Sync {
    /// Fills `records` with those from number `first` on.
    fn read(&self, first: usize, records: &mut [T]) -> Result<(), Error>;

    /// Overwrites the records from number `first` on.
    fn write(&self, first: usize, records: &[T]) -> Result<(), Error>;

    /// Another store for as many records, which have no meaning yet.
    fn another(&self) -> Result<Arc<dyn TargetStore<T>>, Error>;
}

/// Where z_0, …, z_T of all examples are: column i is row i of the data set, and record i.
///
/// Copies share the records until one of them changes: it then gets a store of its own.
#[derive(Debug)]
pub(crate) struct Streamed<T> {
    source: Source<T>,
    /// One handle for each copy that shares the store.
    copies: Arc<()>,
}

/// What is read; a thread can have it too.
#[derive(Debug)]
pub(crate) struct Source<T> {
    data: Arc<dyn Dataset<T>>,
    /// The number of its rows when they were added. It may have got more.
    count: usize,
    store: Arc<dyn TargetStore<T>>,
}

/// z_0, …, z_T of some examples, each d_t × n, and memory for reading them.
#[derive(Debug)]
pub(crate) struct Loaded<T> {
    pub(crate) z: Vec<Vec<T>>,
    records: Vec<T>,
}

impl<T> Clone for Source<T> {
    fn clone(&self) -> Self {
        Self {
            data: Arc::clone(&self.data),
            count: self.count,
            store: Arc::clone(&self.store),
        }
    }
}

impl<T> Clone for Streamed<T> {
    fn clone(&self) -> Self {
        Self {
            source: self.source.clone(),
            copies: Arc::clone(&self.copies),
        }
    }
}

/// The most records that are read or written at once.
const RECORDS: usize = 64;

impl<T: Scalar> Streamed<T> {
    pub(crate) fn new(
        data: Arc<dyn Dataset<T>>,
        count: usize,
        store: Arc<dyn TargetStore<T>>,
    ) -> Self {
        Self {
            source: Source { data, count, store },
            copies: Arc::new(()),
        }
    }

    pub(crate) fn source(&self) -> &Source<T> {
        &self.source
    }

    /// The same data set with another store, for new targets of the same examples.
    pub(crate) fn renewed(&self) -> Result<Self, Error> {
        let Source { data, count, store } = &self.source;
        Ok(Self::new(Arc::clone(data), *count, store.another()?))
    }

    /// Makes the records this copy's own, before they are changed.
    fn own(&mut self, dims: &[usize]) -> Result<(), Error> {
        if Arc::strong_count(&self.copies) == 1 {
            return Ok(());
        }
        let new = self.renewed()?;
        let (n, length) = (self.source.len(), record_len(dims));
        let mut records = Vec::new();
        for first in (0..n).step_by(RECORDS) {
            records.resize(RECORDS.min(n - first) * length, T::zero());
            self.source.store.read(first, &mut records)?;
            new.source.store.write(first, &records)?;
        }
        *self = new;
        Ok(())
    }

    /// Writes z_t of the examples in these columns.
    pub(crate) fn put(
        &mut self,
        dims: &[usize],
        t: usize,
        columns: &[usize],
        new: &[T],
    ) -> Result<(), Error> {
        self.own(dims)?;
        let (start, length) = (start_of(dims, t), record_len(dims));
        let mut new = new.chunks_exact(dims[t]);
        let mut records = Vec::new();
        for run in runs(columns) {
            records.resize(run.len() * length, T::zero());
            self.source.store.read(run[0], &mut records)?;
            for (record, new) in records.chunks_exact_mut(length).zip(&mut new) {
                record[start..start + new.len()].copy_from_slice(new);
            }
            self.source.store.write(run[0], &records)?;
        }
        Ok(())
    }

    /// Passes z_t of the first n examples on, some columns at a time.
    #[cfg(feature = "storage")]
    pub(crate) fn each(
        &self,
        dims: &[usize],
        t: usize,
        n: usize,
        to: &mut dyn FnMut(&[T]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (length, start) = (record_len(dims), start_of(dims, t));
        let (mut records, mut values) = (Vec::new(), Vec::new());
        for first in (0..n).step_by(RECORDS) {
            records.resize(RECORDS.min(n - first) * length, T::zero());
            self.source.store.read(first, &mut records)?;
            values.clear();
            for record in records.chunks_exact(length) {
                values.extend_from_slice(&record[start..start + dims[t]]);
            }
            to(&values)?;
        }
        Ok(())
    }

    /// Writes z_1, …, z_{T−1} of the examples in these columns.
    pub(crate) fn put_all<'z>(
        &mut self,
        dims: &[usize],
        columns: &[usize],
        targets: impl Iterator<Item = &'z [T]> + Clone,
        records: &mut Vec<T>,
    ) -> Result<(), Error> {
        self.own(dims)?;
        let mut first = 0;
        for run in runs(columns) {
            records.clear();
            for i in first..first + run.len() {
                for (z, &dim) in targets.clone().zip(hidden(dims)) {
                    records.extend_from_slice(&z[i * dim..(i + 1) * dim]);
                }
            }
            self.source.store.write(run[0], records)?;
            first += run.len();
        }
        Ok(())
    }
}

impl<T: Scalar> Source<T> {
    /// The number of examples.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Reads z_0 and z_T of these columns, and z_1, …, z_{T−1} if they are `kept`; otherwise those
    /// only get their size.
    pub(crate) fn read(
        &self,
        dims: &[usize],
        columns: &[usize],
        kept: bool,
        loaded: &mut Loaded<T>,
    ) -> Result<(), Error> {
        let (n, last) = (columns.len(), dims.len() - 1);
        loaded.z.resize_with(dims.len(), Vec::new);
        for (z, &dim) in loaded.z.iter_mut().zip(dims) {
            make_room(z, "streamed examples", dim, n)?;
            z.resize(n * dim, T::zero());
        }
        let (inputs, rest) = loaded.z.split_at_mut(1);
        let (targets, outputs) = rest.split_at_mut(last - 1);
        let (inputs, outputs) = (&mut inputs[0], &mut outputs[0]);
        // A value that is not written cannot be taken for one that is.
        inputs.fill(T::of(f64::NAN));
        outputs.fill(T::of(f64::NAN));
        self.data.read(columns, inputs, outputs)?;
        // What the circuit and the loss accept was checked when the examples were added. The source may
        // have changed, and what is not finite would spoil θ.
        check_read(Quantity::Input, 0, dims[0], columns, inputs)?;
        check_read(Quantity::Target, last, dims[last], columns, outputs)?;
        if !kept || last == 1 {
            return Ok(());
        }
        let (length, records) = (record_len(dims), &mut loaded.records);
        let mut first = 0;
        for run in runs(columns) {
            records.resize(run.len() * length, T::zero());
            self.store.read(run[0], records)?;
            for (i, record) in (first..).zip(records.chunks_exact(length)) {
                let mut rest = record;
                for (z, &dim) in targets.iter_mut().zip(hidden(dims)) {
                    let (own, more) = rest.split_at(dim);
                    z[i * dim..(i + 1) * dim].copy_from_slice(own);
                    rest = more;
                }
            }
            first += run.len();
        }
        Ok(())
    }
}

impl<T> Loaded<T> {
    pub(crate) fn new() -> Self {
        Self {
            z: Vec::new(),
            records: Vec::new(),
        }
    }

    /// Memory for records.
    pub(crate) fn records(&mut self) -> &mut Vec<T> {
        &mut self.records
    }
}

/// Returns [`Error::NonFiniteData`] for the first value that is not finite; its column is the row of the
/// data set.
fn check_read<T: Scalar>(
    quantity: Quantity,
    layer: usize,
    dim: usize,
    rows: &[usize],
    values: &[T],
) -> Result<(), Error> {
    let mut checked = check_finite(quantity, layer, dim, values);
    if let Err(Error::NonFiniteData { column, .. }) = &mut checked {
        *column = rows[*column];
    }
    checked
}

fn hidden(dims: &[usize]) -> &[usize] {
    &dims[1..dims.len() - 1]
}

/// Σ_{t=1}^{T−1} d_t.
pub(crate) fn record_len(dims: &[usize]) -> usize {
    let add = |sum: usize, &dim: &usize| sum.saturating_add(dim);
    hidden(dims).iter().fold(0, add)
}

/// Where z_t begins in a record.
fn start_of(dims: &[usize], t: usize) -> usize {
    hidden(dims)[..t - 1].iter().sum()
}

/// Runs of adjacent columns, none of them long.
fn runs(columns: &[usize]) -> impl Iterator<Item = &[usize]> {
    let adjacent = columns.chunk_by(|a, b| a + 1 == *b);
    adjacent.flat_map(|run| run.chunks(RECORDS))
}
