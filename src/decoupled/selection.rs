//! Which examples a computation works on.

use std::ops::Range;

/// A choice among the examples of a [`DecoupledCircuit`](crate::decoupled::DecoupledCircuit).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Selection<'a> {
    /// All of them.
    #[default]
    All,
    /// The examples in these columns, used in place.
    Columns(Range<usize>),
    /// The examples with these ids, in this order, each at most once; they are copied.
    Examples(&'a [u64]),
}
