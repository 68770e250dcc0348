//! The examples of a decoupled circuit: z_0, …, z_T by column, with lasting numbers.

use std::ops::Range;

use crate::decoupled::Selection;
use crate::energy::batch::{Batch, BatchMut, Undo, columns};
use crate::error::Error;
use crate::kernel::Execution;
use crate::kernel::Scalar;

/// z_0, …, z_T of n examples, d_t × n column-major each, and the examples' numbers in increasing
/// order.
#[derive(Debug, Clone)]
pub(crate) struct Examples<T> {
    pub(crate) dims: Vec<usize>,
    pub(crate) z: Vec<Vec<T>>,
    pub(crate) ids: Vec<u64>,
    /// One an example; empty if all are 1.
    pub(crate) weights: Vec<T>,
    next: u64,
}

/// A selection that was checked: one run of columns, or columns to gather.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Columns {
    Run(Range<usize>),
    Scattered(Vec<usize>),
}

impl Columns {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Run(run) => run.len(),
            Self::Scattered(columns) => columns.len(),
        }
    }

    /// The columns, one after another.
    pub(crate) fn into_places(self) -> Vec<usize> {
        match self {
            Self::Run(run) => run.collect(),
            Self::Scattered(columns) => columns,
        }
    }

    pub(crate) fn chosen(&self) -> Chosen<'_> {
        match self {
            Self::Run(run) => Chosen::Run(run.clone()),
            Self::Scattered(columns) => Chosen::Scattered(columns),
        }
    }
}

/// [`Columns`], borrowed.
#[derive(Debug, Clone)]
pub(crate) enum Chosen<'a> {
    Run(Range<usize>),
    Scattered(&'a [usize]),
}

impl<T: Scalar> Examples<T> {
    pub(crate) fn new(dims: &[usize]) -> Self {
        Self {
            dims: dims.to_vec(),
            z: vec![Vec::new(); dims.len()],
            ids: Vec::new(),
            weights: Vec::new(),
            next: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    /// Appends examples given as whole arrays of z_0, …, z_T, which must fit.
    pub(crate) fn append(&mut self, z: Vec<Vec<T>>) -> Range<u64> {
        let count = z[0].len() / self.dims[0];
        for (own, new) in self.z.iter_mut().zip(z) {
            own.extend(new);
        }
        if !self.weights.is_empty() {
            self.weights.resize(self.len() + count, T::one());
        }
        let first = self.next;
        self.next += count as u64;
        self.ids.extend(first..self.next);
        first..self.next
    }

    /// The column of an example.
    pub(crate) fn column(&self, example: u64) -> Result<usize, Error> {
        self.ids
            .binary_search(&example)
            .map_err(|_| Error::UnknownExample {
                example,
                count: self.len(),
            })
    }

    /// Removes the columns that `gone` marks.
    pub(crate) fn remove(&mut self, gone: &[bool]) {
        for (z, &dim) in self.z.iter_mut().zip(&self.dims) {
            let mut to = 0;
            for (from, &gone) in gone.iter().enumerate() {
                if !gone {
                    z.copy_within(columns(dim, from, 1), to * dim);
                    to += 1;
                }
            }
            z.truncate(to * dim);
        }
        let kept = |list: usize| !gone[list];
        retain_places(&mut self.ids, kept);
        retain_places(&mut self.weights, kept);
    }

    /// The weight of every example, to be changed.
    pub(crate) fn weights_mut(&mut self) -> &mut [T] {
        self.weights.resize(self.ids.len(), T::one());
        &mut self.weights
    }

    fn weights_of(&self, run: Range<usize>) -> &[T] {
        match self.weights.is_empty() {
            true => &[],
            false => &self.weights[run],
        }
    }

    pub(crate) fn resolve(&self, selection: &Selection<'_>) -> Result<Columns, Error> {
        let count = self.len();
        match selection {
            Selection::All => Ok(Columns::Run(0..count)),
            Selection::Columns(range) if range.start <= range.end && range.end <= count => {
                Ok(Columns::Run(range.clone()))
            }
            Selection::Columns(range) => Err(Error::UnknownColumns {
                start: range.start,
                end: range.end,
                count,
            }),
            Selection::Examples(ids) => {
                let found: Result<Vec<_>, _> = ids.iter().map(|&id| self.column(id)).collect();
                let found = found?;
                let mut seen = vec![false; count];
                for &column in &found {
                    if std::mem::replace(&mut seen[column], true) {
                        return Err(Error::RepeatedExample {
                            example: self.ids[column],
                        });
                    }
                }
                Ok(Columns::Scattered(found))
            }
        }
    }

    pub(crate) fn run(&self, run: Range<usize>, visit: u64, training: bool) -> Batch<'_, T> {
        Batch {
            dims: &self.dims,
            z: &self.z,
            start: run.start,
            ids: &self.ids[run.clone()],
            weights: self.weights_of(run),
            multipliers: &[],
            visit,
            training,
            execution: Execution::Sequential,
        }
    }

    pub(crate) fn run_mut(&mut self, run: Range<usize>, visit: u64) -> BatchMut<'_, T> {
        let weights = match self.weights.is_empty() {
            true => &[],
            false => &self.weights[run.clone()],
        };
        BatchMut {
            dims: &self.dims,
            z: &mut self.z,
            start: run.start,
            ids: &self.ids[run],
            weights,
            visit,
            training: true,
            execution: Execution::Sequential,
            undo: None,
        }
    }
}

/// A copy of scattered columns, kept to be filled again, and what undoes changes of columns in place.
#[derive(Debug, Clone)]
pub(crate) struct Gathered<T> {
    z: Vec<Vec<T>>,
    ids: Vec<u64>,
    weights: Vec<T>,
    /// Of columns that are lent in place.
    undo: Undo<T>,
}

impl<T: Scalar> Gathered<T> {
    pub(crate) fn new(layers: usize) -> Self {
        Self {
            z: vec![Vec::new(); layers + 1],
            ids: Vec::new(),
            weights: Vec::new(),
            undo: Undo::new(layers - 1),
        }
    }

    /// Copies the columns out of `examples`; of the auxiliary targets only if they are wanted, else
    /// they hold no meaning.
    pub(crate) fn load(&mut self, examples: &Examples<T>, chosen: &[usize], targets: bool) {
        self.ids.clear();
        self.ids.extend(chosen.iter().map(|&c| examples.ids[c]));
        self.weights.clear();
        if !examples.weights.is_empty() {
            let weights = chosen.iter().map(|&c| examples.weights[c]);
            self.weights.extend(weights);
        }
        let last = self.z.len() - 1;
        for (t, own) in self.z.iter_mut().enumerate() {
            let dim = examples.dims[t];
            if !targets && 0 < t && t < last {
                own.resize(dim * chosen.len(), T::zero());
                continue;
            }
            own.clear();
            for &c in chosen {
                own.extend_from_slice(&examples.z[t][columns(dim, c, 1)]);
            }
        }
    }

    /// Copies the auxiliary targets back.
    pub(crate) fn store(&self, examples: &mut Examples<T>, chosen: &[usize]) {
        let last = self.z.len() - 1;
        for t in 1..last {
            let dim = examples.dims[t];
            for (&c, from) in chosen.iter().zip(self.z[t].chunks_exact(dim)) {
                examples.z[t][columns(dim, c, 1)].copy_from_slice(from);
            }
        }
    }

    pub(crate) fn view<'a>(&'a self, dims: &'a [usize], training: bool) -> Batch<'a, T> {
        Batch {
            dims,
            z: &self.z,
            start: 0,
            ids: &self.ids,
            weights: &self.weights,
            multipliers: &[],
            visit: 0,
            training,
            execution: Execution::Sequential,
        }
    }

    pub(crate) fn view_mut<'a>(&'a mut self, dims: &'a [usize], visit: u64) -> BatchMut<'a, T> {
        BatchMut {
            dims,
            z: &mut self.z,
            start: 0,
            ids: &self.ids,
            weights: &self.weights,
            visit,
            training: true,
            execution: Execution::Sequential,
            undo: None,
        }
    }
}

/// Lends a batch of the examples for changes: in place for a run of columns, else gathered and
/// stored back. After an error the targets are what they were. Without `targets` the auxiliary
/// ones are neither gathered nor stored.
pub(crate) fn lend<T: Scalar, R>(
    examples: &mut Examples<T>,
    chosen: &Chosen<'_>,
    visit: u64,
    targets: bool,
    gathered: &mut Gathered<T>,
    work: impl FnOnce(BatchMut<'_, T>) -> Result<R, Error>,
) -> Result<R, Error> {
    match chosen {
        Chosen::Run(run) => {
            let undo = &mut gathered.undo;
            undo.clear();
            let result = work(BatchMut {
                undo: targets.then_some(&mut *undo),
                ..examples.run_mut(run.clone(), visit)
            });
            if result.is_err() {
                for (i, kept) in undo
                    .layers
                    .iter()
                    .enumerate()
                    .filter(|(_, own)| own.changed)
                {
                    let own = columns(examples.dims[i + 1], run.start, run.len());
                    examples.z[i + 1][own].copy_from_slice(&kept.z);
                }
            }
            result
        }
        Chosen::Scattered(columns) => {
            gathered.load(examples, columns, targets);
            let result = work(gathered.view_mut(&examples.dims, visit));
            if targets && result.is_ok() {
                gathered.store(examples, columns);
            }
            result
        }
    }
}

/// Keeps the items of a list in the places that `kept` says.
fn retain_places<A>(list: &mut Vec<A>, kept: impl Fn(usize) -> bool) {
    let mut place = 0;
    list.retain(|_| {
        place += 1;
        kept(place - 1)
    });
}
