//! Data on its way in and out: splits, scaling, metrics.

pub mod metrics;
mod split;
mod standardizer;

pub use split::Split;
pub use standardizer::Standardizer;

use crate::error::Error;

/// An empty list with room for a matrix, or the error that memory cannot hold it.
fn room<A>(what: &'static str, rows: usize, columns: usize) -> Result<Vec<A>, Error> {
    let mut list = Vec::new();
    // No list is as long as usize::MAX, which stands for a product beyond it.
    match list.try_reserve_exact(rows.saturating_mul(columns)) {
        Ok(()) => Ok(list),
        Err(_) => Err(Error::TooLarge {
            what,
            rows,
            columns,
        }),
    }
}
