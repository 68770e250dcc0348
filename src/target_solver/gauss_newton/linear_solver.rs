//! How a Gauss-Newton step's linear systems are solved.

use super::preconditioner::Preconditioner;
use crate::check::{in_scalar, serde_checked};
use crate::error::Error;

/// How (H + λ I) δ = r is solved, one system per example. The table at
/// [`GaussNewton`](crate::target_solver::GaussNewton) compares the methods.
///
/// # Examples
/// ```
/// use layerwise::target_solver::{ConjugateGradients, GaussNewton, LinearSolver};
///
/// let ways: [LinearSolver; 4] = [
///     ConjugateGradients::new(8).into(),
///     ConjugateGradients::chained(4).into(),
///     LinearSolver::BlockCholesky,
///     LinearSolver::CyclicReduction,
/// ];
/// let solvers = ways.map(|linear| GaussNewton::solved_by(2, linear));
/// assert_eq!(solvers[2], GaussNewton::direct(2));
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum LinearSolver {
    /// Matrix-free and iterative, to a tolerance.
    ConjugateGradients(ConjugateGradients),
    /// Exactly, one layer's block after another from the input up: T − 1 levels.
    BlockCholesky,
    /// Exactly, repeatedly eliminating every other remaining block in parallel: ⌊log₂ (T−1)⌋ + 1
    /// levels.
    CyclicReduction,
}

impl From<ConjugateGradients> for LinearSolver {
    fn from(linear: ConjugateGradients) -> Self {
        Self::ConjugateGradients(linear)
    }
}

/// At most m iterations of preconditioned conjugate gradients, with separate step sizes for each
/// example (Hestenes & Stiefel 1952; Nocedal & Wright 2006, ch. 5).
///
/// # Examples
/// ```
/// use layerwise::target_solver::ConjugateGradients;
///
/// let linear = ConjugateGradients::chained(4).with_tolerance(1e-3)?;
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(remote = "Self", deny_unknown_fields))]
pub struct ConjugateGradients {
    pub(super) iterations: u64,
    pub(super) tolerance: f64,
    pub(super) preconditioner: Preconditioner,
}

impl ConjugateGradients {
    /// At most m = `iterations` iterations. The preconditioner divides each layer's block by the
    /// bound on its diagonal block plus λ; the bounds are recomputed every 10th call. A layer's missing
    /// bound counts as 0, a loss's as that of the squared error. An example's iterations end when its
    /// residual has fallen below 1e-10 times its initial value.
    pub fn new(iterations: u64) -> Self {
        Self {
            iterations,
            tolerance: 1e-10,
            preconditioner: Preconditioner::Blocks,
        }
    }

    /// Like [`ConjugateGradients::new`], but preconditioned by the hidden terms of H, (Aᵀ D A)⁻¹,
    /// as [`GaussNewton`](crate::target_solver::GaussNewton) describes.
    pub fn chained(iterations: u64) -> Self {
        Self {
            preconditioner: Preconditioner::Chain,
            ..Self::new(iterations)
        }
    }

    /// Sets the relative tolerance of the residual in the preconditioner's norm; values below ε are
    /// raised to ε.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless it is finite and not negative.
    pub fn with_tolerance(self, tolerance: f64) -> Result<Self, Error> {
        Self { tolerance, ..self }.checked()
    }

    fn checked(self) -> Result<Self, Error> {
        in_scalar::<f64>("ConjugateGradients::tolerance", self.tolerance).map(|_| self)
    }
}

serde_checked!(ConjugateGradients);
