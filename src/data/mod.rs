//! Splitting and scaling data, and metrics.

pub mod metrics;
mod split;
mod standardizer;

pub use split::Split;
pub use standardizer::Standardizer;
