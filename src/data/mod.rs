//! Reading, splitting and scaling data, and metrics.

mod dataset;
mod folds;
pub mod metrics;
mod split;
mod standardizer;
mod three_way_split;

mod rows;

#[cfg(feature = "csv")]
pub use dataset::{Csv, CsvColumn, CsvOptions};
pub use dataset::{Dataset, Idx, InMemory, Npy, Subset, TargetEncoding};
pub use rows::from_rows;
pub use split::Split;
pub use standardizer::Standardizer;
pub use three_way_split::ThreeWaySplit;
