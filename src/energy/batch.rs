//! The columns of z_0, …, z_T that one computation works on.

use std::ops::Range;

use crate::kernel::Execution;
use crate::layer::Context;

/// A view of z_0, …, z_T for the examples of one batch; nothing is copied.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a, T> {
    pub(crate) dims: &'a [usize],
    pub(crate) z: &'a [Vec<T>],
    pub(crate) start: usize,
    pub(crate) ids: &'a [u64],
    /// One an example; empty if all are 1.
    pub(crate) weights: &'a [T],
    /// λ_1, …, λ_{T−1} of these examples alone; empty if there are none.
    pub(crate) multipliers: &'a [Vec<T>],
    pub(crate) visit: u64,
    pub(crate) training: bool,
    pub(crate) execution: Execution,
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

    /// The lasting numbers of the examples, one a column.
    pub fn examples(&self) -> &'a [u64] {
        self.ids
    }

    /// The weights of the examples, one a column; `None` if every weight is 1.
    pub fn weights(&self) -> Option<&'a [T]> {
        (!self.weights.is_empty()).then_some(self.weights)
    }

    /// z_t, d_t × n column-major: the input for t = 0, the output target for t = T, else the
    /// auxiliary targets.
    ///
    /// # Panics
    /// If t > T.
    pub fn z(&self, t: usize) -> &'a [T] {
        &self.z[t][columns(self.dims[t], self.start, self.ids.len())]
    }

    /// The same batch, its columns computed as `execution` says: who shares the work of a chain
    /// such as [`Circuit::backprop`](crate::circuit::Circuit::backprop), in which layers must wait.
    pub fn with_execution(self, execution: Execution) -> Self {
        Self { execution, ..self }
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

/// A view of z_0, …, z_T through which the auxiliary targets can be changed.
#[derive(Debug)]
pub struct BatchMut<'a, T> {
    pub(crate) dims: &'a [usize],
    pub(crate) z: &'a mut [Vec<T>],
    pub(crate) start: usize,
    pub(crate) ids: &'a [u64],
    /// One an example; empty if all are 1.
    pub(crate) weights: &'a [T],
    pub(crate) visit: u64,
    pub(crate) training: bool,
    pub(crate) execution: Execution,
    /// Keeps the auxiliary targets before their first change, if they may have to be put back.
    pub(crate) undo: Option<&'a mut Undo<T>>,
}

/// Auxiliary targets as they were before their first change, by hidden layer.
#[derive(Debug, Clone)]
pub(crate) struct Undo<T> {
    pub(crate) layers: Vec<Kept<T>>,
}

/// z_t before its first change, if it has been changed.
#[derive(Debug, Clone)]
pub(crate) struct Kept<T> {
    pub(crate) z: Vec<T>,
    pub(crate) changed: bool,
}

impl<T: Copy> Undo<T> {
    pub(crate) fn new(hidden: usize) -> Self {
        let none = || Kept {
            z: Vec::new(),
            changed: false,
        };
        Self {
            layers: std::iter::repeat_with(none).take(hidden).collect(),
        }
    }

    /// Forgets what was kept.
    pub(crate) fn clear(&mut self) {
        for layer in &mut self.layers {
            layer.changed = false;
        }
    }
}

impl<T: Copy> Kept<T> {
    /// Keeps `z` unless an earlier state is kept already.
    pub(crate) fn keep(&mut self, z: &[T]) {
        if !self.changed {
            self.z.clear();
            self.z.extend_from_slice(z);
            self.changed = true;
        }
    }
}

impl<T: Copy> BatchMut<'_, T> {
    /// The same view, for reading.
    pub fn view(&self) -> Batch<'_, T> {
        Batch {
            dims: self.dims,
            z: self.z,
            start: self.start,
            ids: self.ids,
            weights: self.weights,
            multipliers: &[],
            visit: self.visit,
            training: self.training,
            execution: self.execution,
        }
    }

    /// The auxiliary targets z_t, d_t × n column-major.
    ///
    /// # Panics
    /// If t is not in 1..T: the input and the output target are given.
    pub fn target_mut(&mut self, t: usize) -> &mut [T] {
        assert!(
            0 < t && t + 1 < self.z.len(),
            "z_{t} is not an auxiliary target"
        );
        self.keep(t);
        &mut self.z[t][columns(self.dims[t], self.start, self.ids.len())]
    }

    /// Keeps z_t as it is before its first change.
    fn keep(&mut self, t: usize) {
        if let Some(undo) = &mut self.undo {
            let own = columns(self.dims[t], self.start, self.ids.len());
            undo.layers[t - 1].keep(&self.z[t][own]);
        }
    }

    /// The same for all auxiliary targets.
    pub(crate) fn keep_all(&mut self) {
        for t in 1..self.z.len() - 1 {
            self.keep(t);
        }
    }

    /// The whole arrays of z_1, …, z_{T−1}, and where the batch stands in the i-th of them.
    pub(crate) fn hidden_mut(
        &mut self,
    ) -> (&mut [Vec<T>], impl Fn(usize) -> Range<usize> + use<'_, T>) {
        let last = self.z.len() - 1;
        let (dims, start, count) = (&self.dims[1..], self.start, self.ids.len());
        let range = move |i: usize| columns(dims[i], start, count);
        (&mut self.z[1..last], range)
    }

    /// z_t ← `new`, which gets other memory of the same length for it.
    pub(crate) fn replace(&mut self, t: usize, new: &mut Vec<T>) {
        let whole = self.z[t].len() == new.len();
        match &mut self.undo {
            None if whole => std::mem::swap(&mut self.z[t], new),
            Some(undo) if whole && !undo.layers[t - 1].changed => {
                let kept = &mut undo.layers[t - 1];
                kept.z.resize(new.len(), new[0]);
                std::mem::swap(&mut self.z[t], &mut kept.z);
                std::mem::swap(&mut self.z[t], new);
                kept.changed = true;
            }
            _ => self.target_mut(t).copy_from_slice(new),
        }
    }
}

pub(crate) fn columns(dim: usize, start: usize, count: usize) -> Range<usize> {
    dim * start..dim * (start + count)
}
