//! The decoupled objective: E, layer by layer.
//!
//! [`Energy`] describes losses, penalties and regularisers. [`Problem`] is E on one batch, a sum of
//! [`LocalProblem`]s. Results are read from [`Evaluation`]s, which contain only what was
//! [`Wanted`].

/// Implements `Default` from the defaults of all fields. A derived one would also require it of T.
macro_rules! default_fields {
    ($name:ident: $($field:ident)*) => {
        impl<T: $crate::kernel::Scalar> Default for $name<T> {
            fn default() -> Self {
                Self { $($field: Default::default()),* }
            }
        }
    };
}
pub(crate) use default_fields;

pub(crate) mod batch;
mod evaluation;
pub(crate) mod local_problem;
mod problem;
mod terms;
mod wanted;
mod workspace;

pub use batch::{Batch, BatchMut};
pub(crate) use batch::{Draft, columns};
pub use evaluation::{Composed, Evaluation, Linearization, LocalEvaluation};
pub use local_problem::{LocalGradients, LocalProblem};
pub use problem::{Layers, Problem};
pub(crate) use problem::{add_input_parts, check_multipliers, compose, fed};
pub use terms::{Energy, Terms};
pub(crate) use wanted::Ask;
pub use wanted::{
    All, Input, Parameters, Target, Targets, Value, Wanted, WithInput, WithParameters, WithTarget,
};
pub use workspace::{LocalWorkspace, Workspace};
