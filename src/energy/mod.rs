//! The decoupled objective, layer by layer.

mod backprop;
pub(crate) mod batch;
pub(crate) mod local_problem;
pub(crate) mod workspace;

pub(crate) use backprop::compose;
pub use batch::{Batch, BatchMut};
pub use local_problem::{LocalGradients, LocalProblem, Wanted};
pub use workspace::{LocalWorkspace, Workspace};
