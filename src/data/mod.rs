//! Splitting and scaling data, and metrics.

mod folds;
pub mod metrics;
mod split;
mod standardizer;
mod three_way_split;

mod rows;

pub use rows::from_rows;
pub use split::Split;
pub use standardizer::Standardizer;
pub use three_way_split::ThreeWaySplit;
