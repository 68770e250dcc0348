//! The examples of a decoupled circuit: z_0, …, z_T by column, with ids.

use std::borrow::Cow;
use std::ops::Range;

use super::read_ahead::ReadAhead;
use super::streamed::{Loaded, Streamed};
use crate::check::refuse;
use crate::energy::{Batch, BatchMut, Draft, Layers, Workspace, columns};
use crate::error::Error;
use crate::kernel::{Execution, Scalar};

/// z_0, …, z_T of n examples, each d_t × n column-major, and the examples' ids in increasing order.
#[derive(Debug, Clone)]
pub(crate) struct Examples<T> {
    pub(crate) dims: Vec<usize>,
    /// All empty if the examples are streamed; z_1, …, z_{T−1} also if they are computed.
    pub(crate) z: Vec<Vec<T>>,
    pub(crate) hidden: Hidden,
    pub(crate) streamed: Option<Streamed<T>>,
    pub(crate) ids: Vec<u64>,
    /// One weight per example; empty if all are 1.
    pub(crate) weights: Vec<T>,
    next: u64,
}

/// What z_1, …, z_{T−1} are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hidden {
    /// Arrays of their own.
    Stored,
    /// Those of the forward pass through the current parameters.
    Computed,
}

/// Where the z_0, …, z_T of restored examples are.
#[cfg(feature = "storage")]
pub(crate) enum Place<T> {
    Memory(Vec<Vec<T>>),
    Streamed(Streamed<T>),
}

/// A selection of the examples of a [`DecoupledCircuit`](crate::decoupled::DecoupledCircuit).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Selection<'a> {
    /// All examples.
    #[default]
    All,
    /// The examples in these columns, used in place.
    Columns(Range<usize>),
    /// The examples with these ids, in this order, each at most once; they are copied.
    Examples(&'a [u64]),
}

/// A checked selection: a range of columns, or a list of columns to copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Chosen<'a> {
    Run(Range<usize>),
    Scattered(Cow<'a, [usize]>),
}

impl Chosen<'_> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Run(run) => run.len(),
            Self::Scattered(columns) => columns.len(),
        }
    }

    /// The selected columns, as a list.
    pub(crate) fn into_places(self) -> Vec<usize> {
        match self {
            Self::Run(run) => run.collect(),
            Self::Scattered(columns) => columns.into_owned(),
        }
    }

    /// The i-th of the selected columns.
    fn place(&self, i: usize) -> usize {
        match self {
            Self::Run(run) => run.start + i,
            Self::Scattered(columns) => columns[i],
        }
    }

    /// A range of the selected columns.
    pub(super) fn part(&self, places: Range<usize>) -> Chosen<'_> {
        match self {
            Self::Run(run) => Chosen::Run(run.start + places.start..run.start + places.end),
            Self::Scattered(columns) => Chosen::Scattered(columns[places].into()),
        }
    }
}

/// How a computation uses the auxiliary targets of its examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TargetUse {
    /// It does not use them. Their values on entry have no meaning, values left behind are not
    /// stored, and penalties play no role.
    None,
    /// It computes its own targets and does not keep them: their initial values have no meaning,
    /// and their final values are not stored.
    Transient,
    /// It starts from the stored targets of the examples, and stores the result.
    Kept,
}

impl<T: Scalar> Examples<T> {
    pub(crate) fn new(dims: &[usize]) -> Self {
        Self {
            dims: dims.to_vec(),
            z: vec![Vec::new(); dims.len()],
            hidden: Hidden::Stored,
            streamed: None,
            ids: Vec::new(),
            weights: Vec::new(),
            next: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    /// The id that the next example will get.
    #[cfg(feature = "storage")]
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Examples with these z_0, …, z_T, ids and weights, which have been checked.
    #[cfg(feature = "storage")]
    pub(crate) fn restored(
        dims: &[usize],
        place: Place<T>,
        hidden: Hidden,
        ids: Vec<u64>,
        weights: Vec<T>,
        next: u64,
    ) -> Self {
        let (z, streamed) = match place {
            Place::Memory(z) => (z, None),
            Place::Streamed(streamed) => (vec![Vec::new(); dims.len()], Some(streamed)),
        };
        Self {
            dims: dims.to_vec(),
            z,
            hidden,
            streamed,
            ids,
            weights,
            next,
        }
    }

    /// z_0, …, z_T of all examples, which must be in memory.
    pub(crate) fn in_memory(&self, operation: &'static str) -> Result<&[Vec<T>], Error> {
        match self.streamed {
            None => Ok(&self.z),
            Some(_) => Err(Error::NotInMemory { operation }),
        }
    }

    /// Checks that z_1, …, z_{T−1} are stored.
    pub(crate) fn check_stored(&self, operation: &'static str) -> Result<(), Error> {
        match self.hidden {
            Hidden::Stored => Ok(()),
            Hidden::Computed => Err(Error::TargetsNotStored { operation }),
        }
    }

    /// Checks that examples with such targets can be added.
    pub(crate) fn check_alike(&self, hidden: Hidden) -> Result<(), Error> {
        match self.len() == 0 || self.hidden == hidden {
            true => Ok(()),
            false => refuse(
                "computed targets with stored ones",
                "the targets of a model's examples are all of one kind",
            ),
        }
    }

    /// Checks that there are no examples, and never were any.
    pub(crate) fn check_unused(&self) -> Result<(), Error> {
        match self.streamed.is_none() && self.next == 0 {
            true => Ok(()),
            false => refuse(
                "a streamed data set with other examples",
                "column i of its model is row i of the data set",
            ),
        }
    }

    /// Takes the examples of a data set, as the only ones; `ids` has room for their ids.
    pub(crate) fn stream(
        &mut self,
        streamed: Streamed<T>,
        hidden: Hidden,
        mut ids: Vec<u64>,
    ) -> Range<u64> {
        self.hidden = hidden;
        let count = streamed.source().len() as u64;
        ids.extend(0..count);
        self.ids = ids;
        self.next = count;
        self.streamed = Some(streamed);
        0..count
    }

    /// Appends examples, given as complete arrays of z_0, …, z_T that must fit.
    pub(crate) fn append(&mut self, z: Vec<Vec<T>>, hidden: Hidden) -> Range<u64> {
        self.hidden = hidden;
        let count = z[0].len() / self.dims[0];
        for (own, new) in self.z.iter_mut().zip(z) {
            match own.is_empty() {
                // Nothing is copied.
                true => *own = new,
                false => own.extend(new),
            }
        }
        if !self.weights.is_empty() {
            self.weights.resize(self.len() + count, T::one());
        }
        let first = self.next;
        self.next += count as u64;
        self.ids.extend(first..self.next);
        first..self.next
    }

    /// The column of the example with this id.
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
            remove_columns(z, dim, gone);
        }
        remove_columns(&mut self.ids, 1, gone);
        remove_columns(&mut self.weights, 1, gone);
    }

    /// Writes z_t for the examples in the given columns.
    pub(crate) fn put(&mut self, t: usize, chosen: &[usize], new: &[T]) -> Result<(), Error> {
        self.check_stored("setting targets")?;
        if let Some(streamed) = &mut self.streamed {
            return streamed.put(&self.dims, t, chosen, new);
        }
        put_columns(&mut self.z[t], self.dims[t], chosen, new);
        Ok(())
    }

    /// The weights of all examples, mutably.
    pub(crate) fn weights_mut(&mut self) -> &mut [T] {
        self.weights.resize(self.ids.len(), T::one());
        &mut self.weights
    }

    /// The columns of the examples that training visits: those whose weight is not 0.
    pub(crate) fn visited(&self) -> Vec<usize> {
        self.by_weight().0
    }

    /// The columns of the examples that training visits, and of those of weight 0.
    pub(crate) fn by_weight(&self) -> (Vec<usize>, Vec<usize>) {
        (0..self.len()).partition(|&column| !self.is_left_out(column))
    }

    /// Whether the weight of this example is 0.
    pub(crate) fn is_left_out(&self, column: usize) -> bool {
        let weight = self.weights.get(column);
        weight.is_some_and(|weight| weight.is_zero())
    }

    pub(crate) fn resolve(&self, selection: &Selection<'_>) -> Result<Chosen<'static>, Error> {
        let count = self.len();
        match selection {
            Selection::All => Ok(Chosen::Run(0..count)),
            Selection::Columns(range) if range.start <= range.end && range.end <= count => {
                Ok(Chosen::Run(range.clone()))
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
                Ok(Chosen::Scattered(found.into()))
            }
        }
    }

    /// Copies of the chosen examples, with their targets.
    pub(crate) fn gathered(
        &self,
        layers: Layers<'_, T>,
        chosen: &Chosen<'_>,
    ) -> Result<Self, Error> {
        let (mut working, mut workspace) = (Working::new(layers.depth()), Workspace::new());
        let batch = working.view_targets(layers, self, chosen, false, &mut workspace)?;
        Ok(Self {
            z: (0..self.dims.len()).map(|t| batch.z(t).to_vec()).collect(),
            ids: batch.ids.to_vec(),
            weights: batch.weights.to_vec(),
            ..Self::new(&self.dims)
        })
    }

    /// A copy without anything but the targets.
    pub(crate) fn targets_alone(&self) -> Self {
        let last = self.dims.len() - 1;
        let own = self.z.iter().enumerate();
        let own = own.map(|(t, z)| match t == 0 || t == last {
            true => Vec::new(),
            false => z.clone(),
        });
        Self {
            z: own.collect(),
            hidden: self.hidden,
            streamed: self.streamed.clone(),
            ..Self::new(&self.dims)
        }
    }

    /// Replaces the targets by those of such a copy.
    pub(crate) fn take_targets(&mut self, mut changed: Self) {
        let last = self.dims.len() - 1;
        for t in 1..last {
            std::mem::swap(&mut self.z[t], &mut changed.z[t]);
        }
        self.streamed = changed.streamed;
    }

    /// Whether all of z_0, …, z_T is in memory.
    pub(crate) fn are_at_hand(&self) -> bool {
        self.streamed.is_none() && self.hidden == Hidden::Stored
    }

    /// A range of examples, which are in memory, or without their z.
    pub(crate) fn run(&self, run: Range<usize>, visit: u64, training: bool) -> Batch<'_, T> {
        Batch {
            dims: &self.dims,
            z: &self.z,
            start: run.start,
            drafts: &[],
            offset: 0,
            ids: &self.ids[run.clone()],
            weights: self.weights.get(run).unwrap_or(&[]),
            visit,
            training,
            execution: Execution::Sequential,
        }
    }
}

/// Memory for working on a batch: copies of scattered columns, and drafts of new targets.
///
/// The examples do not change until [`Working::commit`], so an error before it leaves them intact.
#[derive(Debug)]
pub(crate) struct Working<T> {
    /// z_0 and z_T of columns that are copied; z_1, …, z_{T−1} are drafts.
    z: Vec<Vec<T>>,
    ids: Vec<u64>,
    weights: Vec<T>,
    drafts: Vec<Draft<T>>,
    /// How many calls on the batch lent last have drawn noise.
    calls: u64,
    /// For streamed examples: the columns, what was read, and what is being read.
    columns: Vec<usize>,
    loaded: Loaded<T>,
    ahead: Option<ReadAhead<T>>,
}

impl<T: Scalar> Working<T> {
    pub(crate) fn new(depth: usize) -> Self {
        Self {
            z: vec![Vec::new(); depth + 1],
            ids: Vec::new(),
            weights: Vec::new(),
            drafts: (1..depth).map(|_| Draft::default()).collect(),
            calls: 0,
            columns: Vec::new(),
            loaded: Loaded::new(),
            ahead: None,
        }
    }

    /// A batch whose targets can be changed.
    pub(crate) fn lend<'a>(
        &'a mut self,
        examples: &'a Examples<T>,
        chosen: &Chosen<'_>,
        visit: u64,
        targets: TargetUse,
    ) -> Result<BatchMut<'a, T>, Error> {
        self.lend_before(&[], examples, chosen, visit, targets)
    }

    /// [`Working::lend`], while the columns of the batch that will be lent `next`, if there are any, are
    /// read on a thread if need be.
    pub(crate) fn lend_before<'a>(
        &'a mut self,
        next: &[usize],
        examples: &'a Examples<T>,
        chosen: &Chosen<'_>,
        visit: u64,
        targets: TargetUse,
    ) -> Result<BatchMut<'a, T>, Error> {
        for draft in &mut self.drafts {
            (draft.written, draft.finite) = (false, false);
        }
        self.calls = 0;
        let targets = match examples.hidden {
            Hidden::Computed => TargetUse::Transient,
            Hidden::Stored => targets,
        };
        let in_place = match (chosen, &examples.streamed) {
            (Chosen::Run(run), None) => {
                if examples.hidden == Hidden::Computed {
                    self.make_drafts(&examples.dims, run.len());
                }
                Some(run.clone())
            }
            (Chosen::Scattered(columns), None) => {
                self.gather(examples, columns, targets);
                None
            }
            (_, Some(streamed)) => {
                self.load(examples, streamed, chosen, targets)?;
                if !next.is_empty() {
                    self.read_ahead(examples, streamed, next, targets);
                }
                None
            }
        };
        let base = match in_place {
            Some(run) => examples.run(run, visit, true),
            None => Batch {
                z: &self.z,
                start: 0,
                ids: &self.ids,
                weights: &self.weights,
                ..examples.run(0..0, visit, true)
            },
        };
        Ok(BatchMut {
            base,
            drafts: &mut self.drafts,
            calls: &mut self.calls,
        })
    }

    /// A read-only batch.
    pub(crate) fn view<'a>(
        &'a mut self,
        examples: &'a Examples<T>,
        chosen: &Chosen<'_>,
        training: bool,
        targets: TargetUse,
    ) -> Result<Batch<'a, T>, Error> {
        let BatchMut { base, drafts, .. } = self.lend(examples, chosen, 0, targets)?;
        Ok(Batch {
            training,
            drafts,
            ..base
        })
    }

    /// A batch with its targets, stored or computed; the targets can be changed.
    pub(crate) fn lend_targets<'a>(
        &'a mut self,
        layers: Layers<'_, T>,
        examples: &'a Examples<T>,
        chosen: &Chosen<'_>,
        workspace: &mut Workspace<T>,
    ) -> Result<BatchMut<'a, T>, Error> {
        let mut batch = self.lend(examples, chosen, 0, TargetUse::Kept)?;
        if examples.hidden == Hidden::Computed {
            // As predictions are made, whatever the batch is for.
            let inference = Batch {
                training: false,
                ..batch.view()
            };
            layers.on(inference).forward_pass(workspace);
            for t in 1..layers.depth() {
                let prediction = &workspace.locals[t - 1].prediction;
                batch.target_mut(t).copy_from_slice(prediction);
            }
        }
        Ok(batch)
    }

    /// [`Working::lend_targets`], to read.
    pub(crate) fn view_targets<'a>(
        &'a mut self,
        layers: Layers<'_, T>,
        examples: &'a Examples<T>,
        chosen: &Chosen<'_>,
        training: bool,
        workspace: &mut Workspace<T>,
    ) -> Result<Batch<'a, T>, Error> {
        let BatchMut { base, drafts, .. } =
            self.lend_targets(layers, examples, chosen, workspace)?;
        Ok(Batch {
            training,
            drafts,
            ..base
        })
    }

    /// Drafts of n examples, without values.
    fn make_drafts(&mut self, dims: &[usize], n: usize) {
        for (draft, dim) in self.drafts.iter_mut().zip(&dims[1..]) {
            draft.z.resize(dim * n, T::zero());
            draft.written = true;
        }
    }

    fn gather(&mut self, examples: &Examples<T>, chosen: &[usize], targets: TargetUse) {
        gather(&mut self.ids, &examples.ids, 1, chosen);
        gather(&mut self.weights, &examples.weights, 1, chosen);
        if targets != TargetUse::Kept {
            self.make_drafts(&examples.dims, chosen.len());
        }
        for (t, from) in examples.z.iter().enumerate() {
            let to = match self.drafts.get_mut(t.wrapping_sub(1)) {
                Some(_) if targets != TargetUse::Kept => continue,
                Some(draft) => {
                    (draft.written, draft.finite) = (true, true);
                    &mut draft.z
                }
                None => &mut self.z[t],
            };
            gather(to, from, examples.dims[t], chosen);
        }
    }

    /// [`Working::gather`] of streamed examples.
    fn load(
        &mut self,
        examples: &Examples<T>,
        streamed: &Streamed<T>,
        chosen: &Chosen<'_>,
        targets: TargetUse,
    ) -> Result<(), Error> {
        self.columns.clear();
        self.columns
            .extend((0..chosen.len()).map(|i| chosen.place(i)));
        let (columns, kept) = (&self.columns, targets == TargetUse::Kept);
        gather(&mut self.ids, &examples.ids, 1, columns);
        gather(&mut self.weights, &examples.weights, 1, columns);
        let loaded = &mut self.loaded;
        let read = self
            .ahead
            .as_mut()
            .and_then(|ahead| ahead.take(columns, kept, loaded));
        match read {
            Some(read) => read?,
            None => streamed
                .source()
                .read(&examples.dims, columns, kept, loaded)?,
        }
        let last = self.z.len() - 1;
        for (t, read) in self.loaded.z.iter_mut().enumerate() {
            match self.drafts.get_mut(t.wrapping_sub(1)) {
                Some(draft) if t < last => {
                    std::mem::swap(&mut draft.z, read);
                    (draft.written, draft.finite) = (true, kept);
                }
                _ => std::mem::swap(&mut self.z[t], read),
            }
        }
        Ok(())
    }

    fn read_ahead(
        &mut self,
        examples: &Examples<T>,
        streamed: &Streamed<T>,
        next: &[usize],
        targets: TargetUse,
    ) {
        if self.ahead.is_none() {
            self.ahead = ReadAhead::start(&examples.dims);
        }
        let kept = targets == TargetUse::Kept;
        let asked = self
            .ahead
            .as_mut()
            .is_some_and(|ahead| ahead.ask(streamed.source(), next, kept));
        if !asked {
            // Its thread is gone, after a panic of the data set; the next visit starts another.
            self.ahead = None;
        }
    }

    /// Ends an order of batches: what was read for the next one is forgotten.
    pub(crate) fn forget_next(&mut self) {
        if let Some(ahead) = &mut self.ahead {
            ahead.forget();
        }
    }

    /// Stores the drafts as the examples' targets.
    ///
    /// # Errors
    /// That of a store outside memory: some of the targets may have been stored.
    pub(crate) fn commit(
        &mut self,
        examples: &mut Examples<T>,
        chosen: &Chosen<'_>,
    ) -> Result<(), Error> {
        if let Some(streamed) = &mut examples.streamed {
            // What was lent had drafts of all targets.
            let targets = self.drafts.iter().map(|draft| draft.z.as_slice());
            let records = self.loaded.records();
            return streamed.put_all(&examples.dims, &self.columns, targets, records);
        }
        for (t, draft) in (1..).zip(&mut self.drafts) {
            if !std::mem::take(&mut draft.written) {
                continue;
            }
            let (dim, z) = (examples.dims[t], &mut examples.z[t]);
            match chosen {
                Chosen::Run(run) if run.len() * dim == z.len() => std::mem::swap(z, &mut draft.z),
                Chosen::Run(run) => {
                    z[columns(dim, run.start, run.len())].copy_from_slice(&draft.z);
                }
                Chosen::Scattered(chosen) => put_columns(z, dim, chosen, &draft.z),
            }
        }
        Ok(())
    }
}

/// Sets the chosen columns of `to`.
fn put_columns<A: Copy>(to: &mut [A], dim: usize, chosen: &[usize], from: &[A]) {
    for (&c, from) in chosen.iter().zip(from.chunks_exact(dim)) {
        to[columns(dim, c, 1)].copy_from_slice(from);
    }
}

/// Sets `to` to the chosen columns of `from`, or to nothing if `from` is empty.
fn gather<A: Copy>(to: &mut Vec<A>, from: &[A], dim: usize, chosen: &[usize]) {
    to.clear();
    for &c in chosen.iter().filter(|_| !from.is_empty()) {
        to.extend_from_slice(&from[columns(dim, c, 1)]);
    }
}

/// Removes the columns that `gone` marks, if the list is not empty.
fn remove_columns<A: Copy>(list: &mut Vec<A>, dim: usize, gone: &[bool]) {
    if list.is_empty() {
        return;
    }
    let kept = (0..gone.len()).filter(|&c| !gone[c]);
    let count = kept.clone().count();
    for (to, from) in kept.enumerate() {
        list.copy_within(columns(dim, from, 1), to * dim);
    }
    list.truncate(count * dim);
    list.shrink_to_fit();
}
