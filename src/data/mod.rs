//! Data on its way in and out: splits, scaling, metrics.

pub mod metrics;
mod split;
mod standardizer;

pub use split::Split;
pub use standardizer::Standardizer;
