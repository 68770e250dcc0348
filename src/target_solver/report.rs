//! When a solver stops, and what it reports.

use std::fmt;

use crate::check::{in_scalar, serde_checked};
use crate::error::Error;
use crate::kernel::Scalar;

/// When an example stops before all steps have been made. Each example is judged on its own, so
/// that its targets do not depend on the batch. By default no example stops early.
///
/// # Examples
/// ```
/// use layerwise::target_solver::{Convergence, GaussNewton};
///
/// let at_rest = Convergence::NEVER.with_tolerance(1e-8)?.with_stagnation(1e-12)?;
/// let solver = GaussNewton::new(50, 10).with_convergence(at_rest);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(remote = "Self", deny_unknown_fields))]
pub struct Convergence {
    pub(super) tolerance: Option<f64>,
    pub(super) stagnation: Option<f64>,
}

impl Convergence {
    /// All steps are made. The default.
    pub const NEVER: Self = Self {
        tolerance: None,
        stagnation: None,
    };

    /// Also ends an example when ‖∂E/∂z‖ over all its units, divided by its weight, is at most
    /// `gradient`; it is the gradient that the step computes. The tolerance is absolute, so choose
    /// it relative to the size of the circuit's gradients. Rounding sets a lower limit: about √ε
    /// for Gauss-Newton steps (1e-8 in `f64`, 3e-4 in `f32`, for gradients of order 1).
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless `gradient` is finite and not negative.
    pub fn with_tolerance(mut self, gradient: f64) -> Result<Self, Error> {
        self.tolerance = Some(gradient);
        self.checked()
    }

    /// Also ends an example when an accepted step, whether full or shortened, lowers its E by at
    /// most `decrease` times |E|. Here E leaves out the regularisers R_t(θ_t), which do not depend
    /// on targets.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless `decrease` is finite and not negative.
    pub fn with_stagnation(mut self, decrease: f64) -> Result<Self, Error> {
        self.stagnation = Some(decrease);
        self.checked()
    }

    fn checked(self) -> Result<Self, Error> {
        let [tolerance, stagnation] =
            [self.tolerance, self.stagnation].map(|own| own.unwrap_or(0.0));
        in_scalar::<f64>("Convergence::tolerance", tolerance)?;
        in_scalar::<f64>("Convergence::stagnation", stagnation)?;
        Ok(self)
    }

    /// Whether an example with a gradient of this norm is at rest.
    pub(super) fn rests(self, norm: f64) -> bool {
        self.tolerance.is_some_and(|tolerance| norm <= tolerance)
    }

    /// Whether an example whose E fell from `before` to `after` stagnates.
    pub(super) fn stagnates<T: Scalar>(self, before: T, after: T) -> bool {
        let at_most = |decrease| before - after <= T::of(decrease) * before.abs();
        self.stagnation.is_some_and(at_most)
    }
}

serde_checked!(Convergence);

/// Why a solver ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum SolveStop {
    /// Every example came to rest ([`Convergence::with_tolerance`]).
    Tolerance,
    /// Every example came to rest or stagnated ([`Convergence::with_stagnation`]).
    Stagnation,
    /// All steps were made.
    Steps,
}

/// What a solver reports about its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct SolveReport {
    /// Completed steps: synchronous steps, sweeps, or Gauss-Newton steps.
    pub steps: u64,
    /// Examples that came to rest.
    pub at_rest: usize,
    /// Examples that stagnated.
    pub stagnated: usize,
    /// Examples that made all their steps.
    pub limited: usize,
    /// Steps shortened or undone because they would have raised an example's E; summed over examples.
    pub drawn_back: u64,
    /// Examples for which a checked step was undone, and whose other steps were all shortened and
    /// lowered E by no more than rounding: either even a sixty-fourth of the step was too long (for
    /// example because a curvature bound is too small, or a derivative is wrong), or the example
    /// was at rest up to rounding.
    pub stuck: usize,
    /// Products with the Gauss-Newton matrix: the conjugate-gradient iterations over all steps.
    /// Each takes one JVP and one VJP per layer, and as many again for the preconditioner of
    /// [`GaussNewton::chained`](crate::target_solver::GaussNewton::chained). 0 for other solvers.
    pub products: u64,
    /// Multiply-adds of the factorisations and substitutions per example, over all steps, not
    /// counting the products that form the matrix. 0 for solvers that do not factor a matrix.
    pub operations: u64,
    /// The part of `operations` on the critical path, that is, those that must be done one after
    /// another even if every layer has its own processor.
    pub critical_path: u64,
}

impl fmt::Display for SolveReport {
    /// Steps, examples, and every other number that is not 0, on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ended = [self.at_rest, self.stagnated, self.limited];
        // A deserialised report may hold any numbers.
        let examples = ended.iter().fold(0_usize, |sum, &n| sum.saturating_add(n));
        write!(f, "{} steps, {examples} examples", self.steps)?;
        let [at_rest, stagnated, limited] = ended.map(|n| n as u64);
        for (count, what) in [
            (at_rest, "at rest"),
            (stagnated, "stagnated"),
            (limited, "took all steps"),
            (self.drawn_back, "steps shortened or undone"),
            (self.stuck as u64, "stuck"),
            (self.products, "products"),
            (self.operations, "operations"),
            (self.critical_path, "on the critical path"),
        ] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        Ok(())
    }
}

impl SolveReport {
    /// A report of `steps` completed steps on `examples` examples, without stopping rules.
    pub fn new(steps: u64, examples: usize) -> Self {
        Self {
            steps,
            limited: examples,
            ..Self::default()
        }
    }

    /// Why the solver ended.
    pub fn stop(&self) -> SolveStop {
        match (self.limited, self.stagnated) {
            (0, 0) => SolveStop::Tolerance,
            (0, _) => SolveStop::Stagnation,
            _ => SolveStop::Steps,
        }
    }

    /// The report of this call and the `next` one on the same examples: they have ended as the last says.
    pub(crate) fn then(mut self, next: Self) -> Self {
        let stuck = self.stuck.min(next.stuck);
        self.add(next);
        Self {
            at_rest: next.at_rest,
            stagnated: next.stagnated,
            limited: next.limited,
            stuck,
            ..self
        }
    }

    /// Adds the report of another call.
    pub(crate) fn add(&mut self, other: Self) {
        // The counts may come from a damaged state.
        let counts = [
            (&mut self.steps, other.steps),
            (&mut self.drawn_back, other.drawn_back),
            (&mut self.products, other.products),
            (&mut self.operations, other.operations),
            (&mut self.critical_path, other.critical_path),
        ];
        for (own, other) in counts {
            *own = own.saturating_add(other);
        }
        let examples = [
            (&mut self.at_rest, other.at_rest),
            (&mut self.stagnated, other.stagnated),
            (&mut self.limited, other.limited),
            (&mut self.stuck, other.stuck),
        ];
        for (own, other) in examples {
            *own = own.saturating_add(other);
        }
    }
}
