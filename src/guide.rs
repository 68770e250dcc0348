// The pages of docs/guide as documentation, and their programs as doc tests. A page defines its links to
// other pages for readers of the repository. `guide/links.md` defines them for readers of this
// documentation; it comes first, and the first definition of a link is the one that counts.
#![doc = include_str!("guide/links.md")]
#![doc = include_str!("../docs/guide/README.md")]

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("../docs/guide/start.md")]
///
/// # Reference
///
/// [`Trainer`](crate::training::Trainer), [`Phase`](crate::training::Phase),
/// [`Decoupling`](crate::training::Decoupling), [`DecoupledCircuit`](crate::DecoupledCircuit),
/// [`Circuit`](crate::Circuit), [`Energy`](crate::energy::Energy),
/// [`TargetInit`](crate::decoupled::TargetInit), [`Split`](crate::data::Split),
/// [`Standardizer`](crate::data::Standardizer), [`metrics`](crate::data::metrics),
/// [`Stopping`](crate::training::Stopping).
pub mod start {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("../docs/guide/concepts.md")]
///
/// # Reference
///
/// [`DecoupledCircuit`](crate::DecoupledCircuit), [`Energy`](crate::energy::Energy),
/// [`TargetInit`](crate::decoupled::TargetInit), [`Targets`](crate::training::Targets),
/// [`LocalProblem`](crate::energy::LocalProblem), [`EpochRecord`](crate::training::EpochRecord).
pub mod concepts {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("../docs/guide/choosing_a_scheme.md")]
///
/// # Reference
///
/// [`Decoupling`](crate::training::Decoupling), [`Backprop`](crate::training::Backprop),
/// [`presets`](crate::presets), [`WStep`](crate::training::WStep),
/// [`Projection`](crate::decoupled::Projection),
/// [`LeastSquares`](crate::parameter_solver::LeastSquares),
/// [`Schedule`](crate::schedule::Schedule).
pub mod choosing_a_scheme {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("../docs/guide/choosing_mu.md")]
///
/// # Reference
///
/// [`Energy::with_penalty`](crate::energy::Energy::with_penalty),
/// [`Phase::with_penalty_schedule`](crate::training::Phase::with_penalty_schedule),
/// [`PenaltyGrowth`](crate::training::PenaltyGrowth),
/// [`ErrorShare`](crate::training::ErrorShare),
/// [`Decoupling::with_multipliers`](crate::training::Decoupling::with_multipliers),
/// [`expanded_minimum`](crate::theory::expanded_minimum).
pub mod choosing_mu {}

#[doc = include_str!("guide/links.md")]
#[cfg_attr(
    all(feature = "plot", feature = "storage"),
    doc = include_str!("../docs/guide/runs.md")
)]
#[cfg_attr(
    not(all(feature = "plot", feature = "storage")),
    doc = "Saving, resuming, watching: build this documentation with the features `plot` and `storage`."
)]
///
/// # Reference
///
/// [`Session`](crate::training::Session), [`Observer`](crate::training::Observer),
/// [`Event`](crate::training::Event), [`Registry`](crate::registry::Registry),
/// [`Description`](crate::description::Description).
pub mod runs {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("../docs/guide/your_own.md")]
///
/// # Reference
///
/// [`Layer`](crate::Layer), [`Patchwise`](crate::layer::Patchwise),
/// [`Unfold`](crate::layer::Unfold), [`Conv2d`](crate::layer::Conv2d),
/// [`Sequential`](crate::layer::Sequential), [`Residual`](crate::layer::Residual),
/// [`Attention`](crate::layer::Attention),
/// [`Loss`](crate::Loss), [`GradCheck`](crate::gradcheck::GradCheck),
/// [`Write`](crate::kernel::Write), [`Session`](crate::training::Session),
/// [`SessionState`](crate::training::SessionState), [`Scheme`](crate::training::Scheme),
/// [`Visit`](crate::training::Visit), [`Optimizer`](crate::optimizer::Optimizer),
/// [`Descent`](crate::target_solver::Descent), [`Iterate`](crate::target_solver::Iterate),
/// [`TargetSolver`](crate::target_solver::TargetSolver),
/// [`ParameterSolver`](crate::parameter_solver::ParameterSolver), [`Shard`](crate::shard::Shard),
/// [`Objective`](crate::objective::Objective).
pub mod your_own {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("../docs/guide/solvers.md")]
///
/// # Reference
///
/// [`ReverseSweep`](crate::target_solver::ReverseSweep),
/// [`RedBlack`](crate::target_solver::RedBlack),
/// [`SynchronousDescent`](crate::target_solver::SynchronousDescent),
/// [`ErrorDescent`](crate::target_solver::ErrorDescent),
/// [`GaussNewton`](crate::target_solver::GaussNewton),
/// [`StepSize`](crate::target_solver::StepSize),
/// [`Convergence`](crate::target_solver::Convergence), [`WStep`](crate::training::WStep),
/// [`Part`](crate::training::Part),
/// [`LeastSquares`](crate::parameter_solver::LeastSquares),
/// [`LevenbergMarquardt`](crate::parameter_solver::LevenbergMarquardt),
/// [`optimizer`](crate::optimizer).
pub mod solvers {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("../docs/guide/diagnostics.md")]
///
/// # Reference
///
/// [`EpochRecord`](crate::training::EpochRecord),
/// [`TrainingReport`](crate::training::TrainingReport), [`Warning`](crate::training::Warning),
/// [`SolveReport`](crate::target_solver::SolveReport),
/// [`Diagnostics`](crate::diagnostics::Diagnostics),
/// [`DiagnosticReport`](crate::diagnostics::DiagnosticReport).
pub mod diagnostics {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("../docs/guide/errors.md")]
///
/// # Reference
///
/// [`Error`](crate::Error), [`Quantity`](crate::error::Quantity),
/// [`RunError`](crate::training::RunError).
pub mod errors {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("../docs/guide/blas.md")]
///
/// # Reference
///
/// [`Scalar::matmul`](crate::Scalar::matmul), [`GradCheck`](crate::gradcheck::GradCheck),
/// [`theory`](crate::theory).
pub mod blas {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("../docs/guide/migrating.md")]
///
/// # Reference
///
/// [`Trainer`](crate::training::Trainer), [`Phase`](crate::training::Phase),
/// [`optimizer`](crate::optimizer), [`Schedule`](crate::schedule::Schedule),
/// [`Regularizer`](crate::regularizer::Regularizer), [`loss`](crate::loss),
/// [`init`](crate::init).
pub mod migrating {}

#[doc = include_str!("guide/links.md")]
#[doc = include_str!("../docs/guide/related.md")]
///
/// # Reference
///
/// [`presets`](crate::presets), [`theory`](crate::theory).
pub mod related {}
