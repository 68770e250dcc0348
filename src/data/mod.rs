//! Data on its way in and out: splits, scaling, metrics.

pub mod metrics;
mod split;
mod standardizer;

pub use split::Split;
pub use standardizer::Standardizer;

use crate::error::Error;

/// Refuses an `operation` on no examples.
fn check_examples(count: usize, operation: &'static str) -> Result<(), Error> {
    match count {
        0 => Err(Error::NoExamples { operation }),
        _ => Ok(()),
    }
}
