//! The tests of the crate, a module each, in one program: what they share is compiled once.

#[macro_use]
mod doubles;
#[macro_use]
mod property;

mod activations;
mod along_sweep;
mod amortized;
mod bad_parts;
mod class_metrics;
mod computed_targets;
mod damaged_states;
mod datasets;
mod defaults;
mod derivatives;
mod diagnostics;
mod edges;
mod equivalences;
mod error_descent;
mod error_share;
mod errors;
/// What the tables of `examples/evidence` are summed up by, with its tests.
#[path = "../../examples/evidence/statistics.rs"]
#[expect(dead_code, reason = "its tests alone are wanted here")]
mod evidence_statistics;
mod examples_by_key;
mod failed_runs;
mod floors;
mod folds;
mod gauss_newton;
mod grid;
mod heavy_ball;
mod inference;
mod initializers;
mod joint_descent;
mod layers;
mod learned_precision;
mod least_squares;
mod levenberg_marquardt;
mod losses;
mod magnitudes;
mod metrics;
mod multipliers;
#[cfg(feature = "rayon")]
mod nested_threads;
mod objectives;
mod optimizers;
/// Differences paired by seed in the tables of `examples/published`, with their tests.
#[path = "../../examples/published/paired.rs"]
mod paired;
mod parameter_solvers;
mod patchwise;
mod pc_alm;
mod penalty_growth;
mod phases;
mod pinned;
mod planted_contract;
mod planted_errors;
mod precision;
mod predictions;
mod presets;
mod reach;
mod recovery;
mod residual_stack;
mod residual_targets;
mod segments;
mod semantics;
mod sequential;
mod session;
mod sizes;
mod statements;
mod sums;
mod target_solvers;
mod targets;
mod theory;
mod training;
mod w_step_options;
mod warnings;
mod weight_zero;
mod weights_and_regularizers;
