//! Splitting and scaling data, and metrics.

pub mod metrics;
mod split;
mod standardizer;

mod rows;

pub use rows::from_rows;
pub use split::Split;
pub use standardizer::Standardizer;
