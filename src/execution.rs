//! Who evaluates the layers.

/// How the independent problems of the layers are scheduled. The bits of every result are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Execution {
    /// One layer after another, on the calling thread.
    #[default]
    Sequential,
    /// Layers in parallel, in the rayon pool that the call is made from.
    #[cfg(feature = "rayon")]
    Layers,
}

impl Execution {
    /// Calls `work(i, &mut items[i])` for every i.
    pub(crate) fn for_each<A: Send>(self, items: &mut [A], work: impl Fn(usize, &mut A) + Sync) {
        match self {
            Self::Sequential => {
                for (i, item) in items.iter_mut().enumerate() {
                    work(i, item);
                }
            }
            #[cfg(feature = "rayon")]
            Self::Layers => {
                use rayon::prelude::*;
                items
                    .par_iter_mut()
                    .with_max_len(1)
                    .enumerate()
                    .for_each(|(i, item)| work(i, item));
            }
        }
    }

    /// Calls `work(i, chunk)` for the i-th chunk of `size` items; the last may be shorter.
    pub(crate) fn for_each_chunk<A: Send>(
        self,
        items: &mut [A],
        size: usize,
        work: impl Fn(usize, &mut [A]) + Sync,
    ) {
        match self {
            Self::Sequential => {
                for (i, chunk) in items.chunks_mut(size).enumerate() {
                    work(i, chunk);
                }
            }
            #[cfg(feature = "rayon")]
            Self::Layers => {
                use rayon::prelude::*;
                items
                    .par_chunks_mut(size)
                    .with_max_len(1)
                    .enumerate()
                    .for_each(|(i, chunk)| work(i, chunk));
            }
        }
    }

    /// Calls `work(i, &mut a[i], &mut b[i])` for every i of both.
    pub(crate) fn for_each_pair<A: Send, B: Send>(
        self,
        a: &mut [A],
        b: &mut [B],
        work: impl Fn(usize, &mut A, &mut B) + Sync,
    ) {
        match self {
            Self::Sequential => {
                for (i, (a, b)) in a.iter_mut().zip(b).enumerate() {
                    work(i, a, b);
                }
            }
            #[cfg(feature = "rayon")]
            Self::Layers => {
                use rayon::prelude::*;
                a.par_iter_mut()
                    .zip(b)
                    .with_max_len(1)
                    .enumerate()
                    .for_each(|(i, (a, b))| work(i, a, b));
            }
        }
    }
}
