//! Placeholder
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod backprop;
mod circuit;
mod decoupled;
mod error;
mod execution;
mod gradcheck;
mod init;
mod kernel;
mod layer;
mod loss;
mod optimizer;
mod scalar;
mod schedule;
mod selection;
mod target_solver;
mod training;

pub use circuit::{
    Batch, BatchMut, Circuit, CircuitBuilder, LocalGradients, LocalProblem, LocalWorkspace, Wanted,
    Workspace,
};
pub use decoupled::{DecoupledCircuit, Gradients, MemoryEstimate, Projection, TargetInit};
pub use error::{Error, Quantity};
pub use execution::Execution;
pub use gradcheck::{GradCheck, GradEntry, GradReport};
pub use init::{Fan, Initializer, Shape};
pub use kernel::{Matrix, Write};
pub use layer::{
    Activation, Affine, Context, Dense, Layer, ParameterGroup, Point, Scratch, Sequential,
};
pub use loss::{Loss, Pair, SoftmaxCrossEntropy, SquaredError};
pub use optimizer::{Adam, GradientDescent, Optimizer, Step};
pub use scalar::Scalar;
pub use schedule::Schedule;
pub use selection::Selection;
pub use target_solver::{
    ReverseSweep, SolveReport, StepSize, SynchronousDescent, TargetProblem, TargetSolver,
};
pub use training::{
    Alternating, Backprop, EpochRecord, JointDescent, Progress, Scheme, StopReason, TargetPolicy,
    Trainer, TrainingReport, Visit,
};

pub use nalgebra;
pub use rand;
