//! Training: schemes, phases, and the session that runs them.
//!
//! | options | state | step |
//! |---|---|---|
//! | [`Scheme`], such as [`Decoupling`] | [`State`](crate::state::State) | [`Scheme::visit`] |
//! | [`WStep`] | [`WState`] | [`Evaluated::step`] |
//! | [`Trainer`], a list of [`Phase`]s | [`SessionState`] | [`Session::advance`] |

mod accumulation;
mod along_sweep;
mod amortized;
mod anderson;
mod backprop_scheme;
mod decoupling;
mod error_share;
mod fixed_prediction;
mod joint;
mod motion;
mod observer;
mod parts;
mod pc_alm;
mod penalties;
mod penalty_growth;
mod per_example;
mod phase;
mod report;
mod scheme;
mod session;
mod solve_and_step;
mod stopping;
mod trainer;
mod visit;
mod w_step;
mod z_il;

pub use amortized::Amortized;
pub use backprop_scheme::Backprop;
pub use decoupling::{Decoupling, Targets, ZStep};
pub use error_share::ErrorShare;
pub use fixed_prediction::FixedPrediction;
pub use observer::{Observer, Progress, Saver};
pub use parts::Part;
pub use pc_alm::{CreditTiming, PcAlm};
pub use penalty_growth::PenaltyGrowth;
pub use phase::Phase;
pub use report::{
    CheckpointRecord, EpochRecord, Event, Failure, PhaseReport, RunError, StopReason,
    TrainingReport, VisitRecord, Warned, Warning,
};
pub use scheme::Scheme;
pub use session::{Session, SessionState};
pub use stopping::Stopping;
pub use trainer::Trainer;
pub use visit::{Evaluated, Visit};
pub use w_step::{WState, WStep};
pub use z_il::ZIl;

pub(crate) use fixed_prediction::infer_fixed_prediction;
pub(crate) use z_il::{check_no_target_regularizer, check_squared_hidden_losses, infer_z_il};
