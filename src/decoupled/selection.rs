//! Which examples a computation works on.

use std::ops::Range;

/// A choice among the examples of a [`DecoupledCircuit`](crate::decoupled::DecoupledCircuit).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Selection<'a> {
    /// All of them.
    #[default]
    All,
    /// The examples in these columns, used where they lie.
    Columns(Range<usize>),
    /// The examples with these lasting numbers, in this order, each at most once; copied together.
    Examples(&'a [u64]),
}
