//! The columns of z_0, …, z_T in one batch.

use std::ops::Range;

use crate::error::{Error, Quantity};
use crate::kernel::{Execution, Scalar, Squares, all_finite};
use crate::layer::Context;

/// A view of z_0, …, z_T for the examples of one batch; nothing is copied.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a, T> {
    pub(crate) dims: &'a [usize],
    /// z_0, …, z_T; the batch consists of their columns from `start` on. Auxiliary targets that are
    /// not kept are empty.
    pub(crate) z: &'a [Vec<T>],
    pub(crate) start: usize,
    /// New values of z_1, …, z_{T−1} for this batch, if they were written; empty in a read-only
    /// view. The batch consists of their columns from `offset` on.
    pub(crate) drafts: &'a [Draft<T>],
    pub(crate) offset: usize,
    pub(crate) ids: &'a [u64],
    /// One per example; empty if all are 1.
    pub(crate) weights: &'a [T],
    pub(crate) visit: u64,
    pub(crate) training: bool,
    pub(crate) execution: Execution,
}

/// A new value of a batch's z_t, if one was written.
#[derive(Debug, Clone)]
pub(crate) struct Draft<T> {
    pub(crate) z: Vec<T>,
    pub(crate) written: bool,
    /// Whether its values are known to be finite.
    pub(crate) finite: bool,
}

super::default_fields!(Draft: z written finite);

impl<T: Scalar> Batch<'_, T> {
    /// How many examples have a weight other than 0.
    pub(crate) fn weighty(&self) -> usize {
        let zeros = self.weights.iter().filter(|&w| w.is_zero());
        self.len() - zeros.count()
    }

    /// Adds Σᵢ ‖z_tⁱ − ẑ_tⁱ‖² over the examples whose weight is not 0.
    pub(crate) fn add_gap(&self, t: usize, prediction: &[T], to: &mut Squares) {
        let z = self.z(t);
        if self.weighty() == self.len() {
            return to.add_distance(z, prediction);
        }
        let dim = z.len() / self.len();
        let columns = z.chunks_exact(dim).zip(prediction.chunks_exact(dim));
        for ((z, prediction), weight) in columns.zip(self.weights) {
            if !weight.is_zero() {
                to.add_distance(z, prediction);
            }
        }
    }
}

impl<'a, T> Batch<'a, T> {
    /// Number of examples.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are no examples.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The ids of the examples, one per column.
    pub fn examples(&self) -> &'a [u64] {
        self.ids
    }

    /// The weights of the examples, one per column; `None` if every weight is 1.
    pub fn weights(&self) -> Option<&'a [T]> {
        (!self.weights.is_empty()).then_some(self.weights)
    }

    /// z_t, d_t × n column-major: the input for t = 0, the output target for t = T, otherwise the
    /// auxiliary targets. If a scheme does not keep its targets, these have no meaning until its
    /// visit has computed them. Panics if t > T.
    pub fn z(&self, t: usize) -> &'a [T] {
        let (dim, n) = (self.dims[t], self.ids.len());
        match t.checked_sub(1).and_then(|i| self.drafts.get(i)) {
            Some(draft) if draft.written => &draft.z[columns(dim, self.offset, n)],
            _ if self.z[t].is_empty() => &[],
            _ => &self.z[t][columns(dim, self.start, n)],
        }
    }

    /// Sets how columns are scheduled. In a chain such as
    /// [`Problem::backprop`](crate::energy::Problem::backprop), layers must wait for one another,
    /// so columns are the only parallelism.
    pub fn with_execution(self, execution: Execution) -> Self {
        Self { execution, ..self }
    }

    /// A range of the batch's columns.
    pub(crate) fn part(self, run: Range<usize>) -> Self {
        Self {
            start: self.start + run.start,
            offset: self.offset + run.start,
            weights: match self.weights {
                [] => &[],
                weights => &weights[run.clone()],
            },
            ids: &self.ids[run],
            ..self
        }
    }

    pub(crate) fn context(&self, seed: u64, layer: usize) -> Context<'a> {
        Context {
            seed,
            layer,
            visit: self.visit,
            training: self.training,
            examples: self.ids,
            execution: self.execution,
        }
    }
}

/// A batch whose auxiliary targets can be changed. New values are drafts, kept apart from the old
/// ones until the owner of both commits them.
#[derive(Debug)]
pub struct BatchMut<'a, T> {
    /// The batch without drafts.
    pub(crate) base: Batch<'a, T>,
    pub(crate) drafts: &'a mut [Draft<T>],
    /// How many calls of this visit have drawn noise.
    pub(crate) calls: &'a mut u64,
}

impl<T: Copy> BatchMut<'_, T> {
    /// A read-only view.
    pub fn view(&self) -> Batch<'_, T> {
        Batch {
            drafts: self.drafts,
            ..self.base
        }
    }

    /// The same batch, borrowed for a shorter time.
    pub(crate) fn reborrow(&mut self) -> BatchMut<'_, T> {
        BatchMut {
            base: self.base,
            drafts: self.drafts,
            calls: self.calls,
        }
    }

    /// The auxiliary targets z_t, d_t × n column-major. Panics if t is not in 1..T, because the
    /// input and the output target are fixed.
    pub fn target_mut(&mut self, t: usize) -> &mut [T] {
        self.write(t);
        let own = columns(self.base.dims[t], self.base.offset, self.base.len());
        &mut self.drafts[t - 1].z[own]
    }

    /// Creates the draft of z_t as a copy of its current value, unless there is one.
    fn write(&mut self, t: usize) {
        assert!(
            0 < t && t + 1 < self.base.z.len(),
            "z_{t} is not an auxiliary target"
        );
        let draft = &mut self.drafts[t - 1];
        if !draft.written {
            draft.z.clear();
            draft.z.extend_from_slice(self.base.z(t));
            draft.written = true;
        }
        draft.finite = false;
    }

    /// z_t ← `new`, whose values must be finite; overwrites any draft.
    pub(crate) fn set(&mut self, t: usize, new: &[T]) {
        if self.drafts[t - 1].written {
            self.target_mut(t).copy_from_slice(new);
            return;
        }
        let draft = &mut self.drafts[t - 1];
        draft.z.clear();
        draft.z.extend_from_slice(new);
        (draft.written, draft.finite) = (true, true);
    }

    /// z_t ← `new`, whose values must be finite; the old memory is swapped into `new`.
    pub(crate) fn replace(&mut self, t: usize, new: &mut Vec<T>) {
        let draft = &mut self.drafts[t - 1];
        std::mem::swap(&mut draft.z, new);
        (draft.written, draft.finite) = (true, true);
        // The caller's buffer must keep its length.
        if let Some(&filler) = draft.z.first() {
            new.resize(draft.z.len(), filler);
        }
    }

    /// Checks that all drafts are finite, as required before they are committed.
    pub(crate) fn check(&self, step: u64) -> Result<(), Error>
    where
        T: Scalar,
    {
        let sound = |own: &Draft<T>| !own.written || own.finite || all_finite(&own.z);
        let unsound = self.drafts.iter().position(|own| !sound(own));
        unsound.map_or(Ok(()), |i| {
            Err(Error::NonFinite {
                quantity: Quantity::Target,
                layer: i + 1,
                step,
            })
        })
    }

    /// Drafts of all z_1, …, z_{T−1}, and the range of the batch in the i-th of them.
    pub(crate) fn hidden_mut(
        &mut self,
    ) -> (&mut [Draft<T>], impl Fn(usize) -> Range<usize> + use<'_, T>) {
        for t in 1..self.base.z.len() - 1 {
            self.write(t);
        }
        let (dims, offset, count) = (&self.base.dims[1..], self.base.offset, self.base.len());
        let range = move |i: usize| columns(dims[i], offset, count);
        (self.drafts, range)
    }
}

pub(crate) fn columns(dim: usize, start: usize, count: usize) -> Range<usize> {
    dim * start..dim * (start + count)
}
