//! Training: schemes, the loop that runs them, and what it reports.

mod alternating;
mod backprop_scheme;
mod joint;
mod report;
mod trainer;
mod visit;

pub use alternating::{Alternating, TargetPolicy};
pub use backprop_scheme::Backprop;
pub use joint::JointDescent;
pub use report::{EpochRecord, Progress, StopReason, TrainingReport};
pub use trainer::Trainer;
pub use visit::{Scheme, Visit};
