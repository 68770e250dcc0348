//! Descent × acceptance: one loop for every direction.

use std::fmt::Debug;

use super::report::{Convergence, SolveReport};
use super::trial::{Check, Trial, Verdict};
use super::{TargetProblem, TargetSolver};
use crate::energy::Layers;
use crate::error::Error;
use crate::kernel::Scalar;
use crate::pointers::through_pointers;
use crate::state::State;

/// A descent direction: proposes one step for all targets, of which each example takes its own
/// share. [`Iterate`] turns it into a [`TargetSolver`].
///
/// A descent holds only options. What it keeps between calls is in the [`State`], which is empty at
/// the start of a run. An example's step must not depend on which other examples share its batch.
///
/// # Examples
/// Steps along the normalised gradient, of the same length in every layer:
/// ```
/// use layerwise::state::State;
/// use layerwise::target_solver::{Check, Convergence, Descent, Iterate, TargetProblem, Trial};
/// use layerwise::{Error, Scalar};
///
/// #[derive(Debug)]
/// struct Normalised(f64);
///
/// impl<T: Scalar> Descent<T> for Normalised {
///     fn step(
///         &self,
///         _: &mut State<T>,
///         problem: &mut TargetProblem<'_, T>,
///         trial: &mut Trial<T>,
///     ) -> Result<(), Error> {
///         for t in 1..problem.layers().depth() {
///             trial.for_each(t, problem, |share, z, gradient| {
///                 let norm = gradient.iter().fold(T::zero(), |sum, &g| sum + g * g).sqrt();
///                 if norm > T::zero() {
///                     let step = T::of(self.0) * share / norm;
///                     z.iter_mut().zip(gradient).for_each(|(z, &g)| *z -= step * g);
///                 }
///             });
///         }
///         Ok(())
///     }
/// }
///
/// // With checked steps, early stopping, and a report:
/// # use layerwise::prelude::*;
/// # let circuit = Circuit::<f64>::builder()
/// #     .layer(Dense::new(2, 3, Activation::Tanh)?)
/// #     .layer(Dense::new(3, 1, Activation::Identity)?);
/// # let mut model = DecoupledCircuit::new(circuit.build()?, Energy::default())?;
/// # let (x, y) = (DMatrix::from_element(2, 4, 0.5), DMatrix::from_element(1, 4, 1.0));
/// # model.add_examples(&x, &y, &TargetInit::ForwardPass)?;
/// let solver = Iterate::new(100, Normalised(0.1))
///     .with_check(Check::Rounding)
///     .with_convergence(Convergence::NEVER.with_stagnation(1e-6)?);
/// let before = model.energy()?;
/// let report = model.solve_targets(&solver, &Selection::All)?;
/// assert!(model.energy()? < before && report.steps < 100 && report.stagnated == 4);
/// # Ok::<(), layerwise::Error>(())
/// ```
pub trait Descent<T: Scalar>: Debug + Send + Sync {
    /// Checks, before a run, whether the descent can work with these layers and losses. The default
    /// accepts all.
    ///
    /// # Errors
    /// The error that [`Descent::begin`] would return.
    fn check(&self, _layers: Layers<'_, T>) -> Result<(), Error> {
        Ok(())
    }

    /// Begins a call: updates bounds and allocates memory.
    ///
    /// # Errors
    /// If the descent cannot work on this problem. No target has moved then.
    fn begin(
        &self,
        _state: &mut State<T>,
        _problem: &mut TargetProblem<'_, T>,
    ) -> Result<(), Error> {
        Ok(())
    }

    /// Evaluates the starting point of the next step, without moving anything. By default E and
    /// every ∂E/∂z_t are evaluated and recorded ([`Trial::evaluate`]), so that examples at rest end
    /// before they move.
    ///
    /// A descent that computes its gradients during the step, such as a sweep, only computes
    /// predictions here. It must record the energies at the start of the call, either here
    /// ([`Trial::record_energies`]) or during the step ([`Trial::record_energy`]), and each
    /// gradient during the step ([`Trial::record_gradient`]; examples at rest then end after it). Where
    /// steps need what it has not recorded, the call ends with [`Error::Combination`].
    ///
    /// # Errors
    /// [`Error::NonFinite`] for an energy or a gradient that is not finite.
    fn look(
        &self,
        _state: &mut State<T>,
        problem: &mut TargetProblem<'_, T>,
        trial: &mut Trial<T>,
    ) -> Result<(), Error> {
        trial.evaluate(problem)
    }

    /// Moves the targets by one step, each example by its share. The targets of an example that has
    /// ended must not change.
    ///
    /// # Errors
    /// [`Error::NonFinite`], and the descent's own errors; the targets are then restored.
    fn step(
        &self,
        state: &mut State<T>,
        problem: &mut TargetProblem<'_, T>,
        trial: &mut Trial<T>,
    ) -> Result<(), Error>;

    /// Receives the outcome of the step for each example.
    fn judged(&self, _state: &mut State<T>, _verdicts: &[Verdict]) {}
}

through_pointers!(Descent {
    fn check(&self, layers: Layers<'_, T>) -> Result<(), Error>;
    fn begin(&self, state: &mut State<T>, problem: &mut TargetProblem<'_, T>) -> Result<(), Error>;
    fn look(
        &self,
        state: &mut State<T>,
        problem: &mut TargetProblem<'_, T>,
        trial: &mut Trial<T>,
    ) -> Result<(), Error>;
    fn step(
        &self,
        state: &mut State<T>,
        problem: &mut TargetProblem<'_, T>,
        trial: &mut Trial<T>,
    ) -> Result<(), Error>;
    fn judged(&self, state: &mut State<T>, verdicts: &[Verdict]);
});

/// K steps of a [`Descent`], each judged example by example.
///
/// A step that the [`Check`] rejects is shortened for that example alone: to a quarter, a
/// sixteenth, a sixty-fourth, and finally to nothing. The example's next step first tries the share
/// that was accepted; after a step that was accepted at once it tries four times the last share, at
/// most a full step. [`Convergence`] decides when an example ends. Its targets then stay fixed, and
/// the loop ends when all examples have ended. After an error the targets are those of the last
/// completed step.
///
/// [`ReverseSweep`](super::ReverseSweep), [`RedBlack`](super::RedBlack),
/// [`SynchronousDescent`](super::SynchronousDescent), [`ErrorDescent`](super::ErrorDescent) and
/// [`GaussNewton`](super::GaussNewton) run through it. The state of the descent is the first of [`State::parts`].
///
/// # Examples
/// See [`Descent`].
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
pub struct Iterate<D> {
    steps: u64,
    check: Check,
    convergence: Convergence,
    pub(super) descent: D,
}

impl<D> Iterate<D> {
    /// K = `steps` steps of `descent` (0 leaves the targets unchanged), unchecked and without early
    /// stopping.
    pub fn new(steps: u64, descent: D) -> Self {
        Self {
            steps,
            check: Check::None,
            convergence: Convergence::NEVER,
            descent,
        }
    }

    /// Sets how steps are checked against E.
    pub fn with_check(self, check: Check) -> Self {
        Self { check, ..self }
    }

    /// Whether steps are checked against E.
    pub(super) fn is_checked(&self) -> bool {
        self.check != Check::None
    }

    /// Checks that steps are checked in this way, which follows from the descent.
    #[cfg(feature = "serde")]
    pub(super) fn expect_check(&self, check: Check) -> Result<(), Error> {
        match self.check == check {
            true => Ok(()),
            false => crate::check::refuse(
                "another check of a solver's steps",
                "its kind of step decides how they are checked",
            ),
        }
    }

    /// Sets when examples end early.
    pub fn with_convergence(self, convergence: Convergence) -> Self {
        Self {
            convergence,
            ..self
        }
    }
}

impl<T: Scalar, D: Descent<T>> TargetSolver<T> for Iterate<D> {
    fn check(&self, layers: Layers<'_, T>) -> Result<(), Error> {
        match self.steps == 0 || layers.depth() == 1 {
            true => Ok(()),
            false => self.descent.check(layers),
        }
    }

    fn solve(
        &self,
        state: &mut State<T>,
        problem: &mut TargetProblem<'_, T>,
    ) -> Result<SolveReport, Error> {
        let (n, depth) = (problem.batch().len(), problem.layers().depth());
        if self.steps == 0 || depth == 1 {
            return Ok(SolveReport::new(0, n));
        }
        let (numbers, trial) = state.split::<Trial<T>>();
        let (descent, state) = (&self.descent, first_part(numbers.parts));
        descent.begin(state, problem)?;
        trial.begin(problem, self.check, self.convergence);
        for number in 0..self.steps {
            trial.begin_step(number);
            descent.look(state, problem, trial)?;
            if trial.rest() {
                break;
            }
            trial.attempt(problem, |trial, problem| {
                descent.step(state, problem, trial)
            })?;
            descent.judged(state, trial.judge(problem));
            if trial.rest() {
                break;
            }
        }
        Ok(trial.report())
    }
}

/// The first of a state's parts, created if it does not exist.
pub(super) fn first_part<T: Scalar>(parts: &mut Vec<State<T>>) -> &mut State<T> {
    if parts.is_empty() {
        parts.push(State::new());
    }
    &mut parts[0]
}
