//! Training: schemes, the phases and the loop that run them, and what it reports.

mod alternating;
mod augmented_lagrangian;
mod backprop_scheme;
mod example_memory;
mod fixed_prediction;
mod joint;
mod parameter_optimizer;
mod penalties;
mod penalty_growth;
mod phase;
mod report;
mod residuals;
mod stopping;
mod trainer;
mod visit;
mod z_il;

pub use alternating::{Alternating, TargetPolicy};
pub use augmented_lagrangian::AugmentedLagrangian;
pub use backprop_scheme::Backprop;
pub use fixed_prediction::FixedPrediction;
pub use joint::JointDescent;
pub use penalty_growth::PenaltyGrowth;
pub use phase::Phase;
pub use report::{EpochRecord, PhaseReport, Progress, StopReason, TrainingReport};
pub use stopping::Stopping;
pub use trainer::Trainer;
pub use visit::{Scheme, Visit};
pub use z_il::ZIl;

pub(crate) use fixed_prediction::infer_fixed_prediction;
pub(crate) use z_il::{check_no_target_regularizer, check_squared_hidden_losses, infer_z_il};
