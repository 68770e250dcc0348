//! The outcome of every example's step.

use super::TargetProblem;
use super::report::{Convergence, SolveReport};
use crate::check::check_computed;
use crate::energy::{Ask, default_fields};
use crate::error::{Error, Quantity};
use crate::kernel::{Scalar, add_to};

/// How an example's E after a step is compared with its E before. Neither contains the regularisers
/// R_t(θ_t), which no target changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Check {
    /// Not at all: every step is accepted if its targets are finite.
    #[default]
    None,
    /// E may rise by rounding, 16 ε |E|. Without this, small steps near the minimum would be
    /// rejected half of the time.
    Rounding,
    /// E may not rise.
    Strict,
}

/// The outcome of an example's step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// Accepted as proposed.
    Whole,
    /// Shortened, and then accepted.
    Part,
    /// Undone.
    Refused,
    /// The example had already ended.
    Ended,
}

/// The examples of one call of [`Iterate`](super::Iterate): how far each goes in the current step,
/// what has been recorded for it, and whether it has ended.
///
/// A [`Descent`](super::Descent) moves targets by [`Trial::descend`], [`Trial::add`] or
/// [`Trial::for_each`], which skip examples that have ended, or in its own loop with
/// [`Trial::share`].
#[derive(Debug)]
pub struct Trial<T> {
    pub(super) number: u64,
    check: Check,
    convergence: Convergence,
    examples: Vec<Example<T>>,
    /// ℓ_t by layer and example at the start of the call, without R_t; empty where they are not
    /// recorded.
    first: Vec<Vec<T>>,
    /// Whether ∂E/∂z_t was recorded in the current step, t = 1, …, T−1; only for a tolerance.
    recorded: Vec<bool>,
    /// z_1, …, z_{T−1} before the current step.
    before: Vec<Vec<T>>,
    verdicts: Vec<Verdict>,
    report: SolveReport,
}

#[derive(Debug, Clone, Copy)]
struct Example<T> {
    /// E before the current step.
    energy: T,
    /// Share of a full step that the example tries next.
    share: T,
    /// ‖∂E/∂z‖ over the layers recorded so far.
    gradient: Option<f64>,
    progress: Progress,
    /// Whether a step was undone; and whether one was made whole, or lowered E by more than rounding.
    refused: bool,
    moved: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Progress {
    Going,
    /// Whether the example is active and its last step has not been judged yet.
    Moved,
    AtRest,
    Stagnated,
}

/// How often a step is shortened to a quarter before it is undone.
const QUARTERS: usize = 3;

default_fields!(Trial: number check convergence examples first recorded before verdicts report);

impl<T: Scalar> Trial<T> {
    /// The number of the current step, from 0.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whether the i-th example is still active. Panics if the batch has no such example.
    pub fn goes(&self, i: usize) -> bool {
        matches!(self.examples[i].progress, Progress::Going | Progress::Moved)
    }

    /// The share of a full step that the i-th example takes now, in 0..=1: 0 if it has ended. Its
    /// targets must then not move: skip it instead of multiplying by 0, since ∞ · 0 is NaN. Panics
    /// if the batch has no such example.
    pub fn share(&self, i: usize) -> T {
        match self.goes(i) {
            true => self.examples[i].share,
            false => T::zero(),
        }
    }

    /// The report of the call, to which a descent can add its own counts.
    pub fn report_mut(&mut self) -> &mut SolveReport {
        &mut self.report
    }

    /// Evaluates E and every ∂E/∂z_t at the current targets, and records both.
    ///
    /// # Errors
    /// [`Error::NonFinite`] for an energy or a gradient that is not finite.
    pub fn evaluate(&mut self, problem: &mut TargetProblem<'_, T>) -> Result<(), Error> {
        problem.differentiate(Ask::TARGETS);
        self.record(problem)
    }

    /// Records E and every gradient from the workspace.
    pub(super) fn record(&mut self, problem: &TargetProblem<'_, T>) -> Result<(), Error> {
        problem.workspace().check_energies(self.number)?;
        for t in 0..problem.layers().depth() {
            self.record_energy(t, problem)?;
        }
        (1..problem.layers().depth()).try_for_each(|t| self.record_gradient(t, problem))
    }

    /// Evaluates and records E at the start of the call. It does this only before the first step,
    /// and only if E is needed to judge steps.
    ///
    /// # Errors
    /// [`Error::NonFinite`] for an energy that is not finite.
    pub fn record_energies(&mut self, problem: &mut TargetProblem<'_, T>) -> Result<(), Error> {
        if self.number > 0 || !self.needs_energies() {
            return Ok(());
        }
        problem.differentiate(Ask::VALUE);
        (0..problem.layers().depth()).try_for_each(|t| self.record_energy(t, problem))
    }

    /// Records ℓ_t of every example from the workspace. It must belong to the targets at the start
    /// of the call: call this before the first step, or during it as long as neither z_t nor
    /// z_{t+1} has moved. In later steps it does nothing.
    ///
    /// # Errors
    /// [`Error::NonFinite`] for an energy that is not finite.
    ///
    /// # Panics
    /// If t ≥ T.
    pub fn record_energy(&mut self, t: usize, problem: &TargetProblem<'_, T>) -> Result<(), Error> {
        if self.number > 0 || !self.needs_energies() {
            return Ok(());
        }
        let local = &problem.workspace().locals[t];
        check_computed(Quantity::Energy, t, 0, &[local.energy])?;
        self.first[t].clear();
        self.first[t].extend_from_slice(&local.energies_in_z);
        Ok(())
    }

    /// Checks ∂E/∂z_t in the workspace, and records it for the tolerance of [`Convergence`]. Call it
    /// once for every t in 1..T, before z_t moves.
    ///
    /// # Errors
    /// [`Error::NonFinite`] for a gradient that is not finite.
    ///
    /// # Panics
    /// If t is not in 1..T.
    pub fn record_gradient(
        &mut self,
        t: usize,
        problem: &TargetProblem<'_, T>,
    ) -> Result<(), Error> {
        problem.check_target_gradient(t, self.number)?;
        if self.convergence.tolerance.is_some() {
            self.recorded[t - 1] = true;
            for (i, example) in self.examples.iter_mut().enumerate() {
                let length = example.gradient.get_or_insert(0.0);
                *length = length.hypot(problem.gradient_norm(t, i));
            }
        }
        Ok(())
    }

    /// z_t ← z_t − share · step · ∂E/∂z_t, divided by the example's weight, for every active
    /// example, along the gradient in the workspace. Panics if t is not in 1..T, or if no gradient
    /// was evaluated yet.
    pub fn descend(&self, t: usize, step: T, problem: &mut TargetProblem<'_, T>) {
        problem.descend_by(t, step, |i| self.share(i));
    }

    /// z_t ← z_t + `step` (d_t × n) for every active example, ignoring its share: for directions
    /// that determine their own length. Panics if t is not in 1..T, or if the step has the wrong
    /// size.
    pub fn add(&self, t: usize, step: &[T], problem: &mut TargetProblem<'_, T>) {
        let z = problem.target_mut(t);
        assert_eq!(step.len(), z.len(), "size of a step of z_{t}");
        let dim = z.len() / self.examples.len();
        let columns = z.chunks_exact_mut(dim).zip(step.chunks_exact(dim));
        // Examples that have ended must keep every bit, but −0 + 0 is 0.
        for (_, (z, step)) in columns.enumerate().filter(|(i, _)| self.goes(*i)) {
            add_to(z, step);
        }
    }

    /// Calls `change(share, z_t, ∂E/∂z_t)` for every active example; the gradient includes the
    /// example's weight. Panics if t is not in 1..T, or if no gradient was evaluated yet.
    pub fn for_each(
        &self,
        t: usize,
        problem: &mut TargetProblem<'_, T>,
        mut change: impl FnMut(T, &mut [T], &[T]),
    ) {
        let (z, gradient) = problem.target_and_gradient(t);
        let dim = z.len() / self.examples.len();
        let columns = z.chunks_exact_mut(dim).zip(gradient.chunks_exact(dim));
        for (i, (z, gradient)) in columns.enumerate().filter(|(i, _)| self.goes(*i)) {
            change(self.share(i), z, gradient);
        }
    }

    /// Begins a call on the problem's examples. Those of weight 0 have ended: no step moves them.
    pub(super) fn begin(
        &mut self,
        problem: &TargetProblem<'_, T>,
        check: Check,
        convergence: Convergence,
    ) {
        let (n, depth) = (problem.batch().len(), problem.layers().depth());
        (self.check, self.convergence) = (check, convergence);
        self.report = SolveReport::default();
        self.examples.clear();
        let example = Example {
            energy: T::zero(),
            share: T::one(),
            gradient: None,
            progress: Progress::Going,
            refused: false,
            moved: false,
        };
        self.examples.resize(n, example);
        let weights = problem.example_weights().unwrap_or(&[]);
        for (example, weight) in self.examples.iter_mut().zip(weights) {
            if weight.is_zero() {
                example.progress = Progress::AtRest;
            }
        }
        self.first.resize_with(depth, Vec::new);
        self.first.iter_mut().for_each(Vec::clear);
        self.recorded.resize(depth - 1, false);
    }

    /// Begins step `number`.
    pub(super) fn begin_step(&mut self, number: u64) {
        self.number = number;
        self.recorded.fill(false);
    }

    /// Makes step `number` completely or, after an error, not at all.
    pub(super) fn attempt(
        &mut self,
        problem: &mut TargetProblem<'_, T>,
        step: impl FnOnce(&mut Self, &mut TargetProblem<'_, T>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        problem.save(&mut self.before);
        let step = step(self, problem).and_then(|()| self.check_recorded());
        let made = step.and_then(|()| match self.check {
            // Non-finite targets make E non-finite.
            Check::Rounding | Check::Strict => Ok(()),
            Check::None => problem.check_targets(self.number),
        });
        made.inspect_err(|_| {
            problem.draw_back(&self.before, 0..self.examples.len(), T::zero());
        })
    }

    /// Whether E is needed to judge steps.
    fn needs_energies(&self) -> bool {
        self.check != Check::None || self.convergence.stagnation.is_some()
    }

    /// Ends examples whose gradient was recorded since the last call and is within the tolerance, and
    /// returns whether all have ended.
    pub(super) fn rest(&mut self) -> bool {
        for example in &mut self.examples {
            let length = example.gradient.take();
            let rests = length.is_some_and(|length| self.convergence.rests(length));
            if rests && example.progress == Progress::Going {
                example.progress = Progress::AtRest;
            }
        }
        (0..self.examples.len()).all(|i| !self.goes(i))
    }

    /// Judges the last step, shortens it where it raises E, and returns the outcomes.
    pub(super) fn judge(&mut self, problem: &mut TargetProblem<'_, T>) -> &[Verdict] {
        self.report.steps += 1;
        self.verdicts.clear();
        let verdicts = self.examples.iter().map(|example| match example.progress {
            Progress::Going => Verdict::Whole,
            _ => Verdict::Ended,
        });
        self.verdicts.extend(verdicts);
        if self.needs_energies() {
            // E at the start of the call, summed as in `TargetProblem::example_energy`.
            for energies in self.first.iter().filter(|_| self.number == 0) {
                for (example, &energy) in self.examples.iter_mut().zip(energies) {
                    example.energy += energy;
                }
            }
            for example in &mut self.examples {
                if example.progress == Progress::Going {
                    example.progress = Progress::Moved;
                }
            }
            let mut round = 0;
            while self.judge_once(round, problem) {
                round += 1;
            }
        }
        &self.verdicts
    }

    /// Checks that the descent recorded what its steps are judged by: every gradient, if there is a
    /// tolerance, and the energies, whose sums must be finite: from E = ∞ no step would count as uphill.
    fn check_recorded(&self) -> Result<(), Error> {
        if self.convergence.tolerance.is_some() && self.recorded.contains(&false) {
            return Err(Error::Combination {
                what: "a tolerance with a descent that does not record its gradients",
                reason: "in every step, its `look` or `step` must call Trial::record_gradient for \
                         every t in 1..T",
            });
        }
        let n = self.examples.len();
        if !self.needs_energies() || self.number > 0 {
            return Ok(());
        }
        if self.first.iter().all(|energies| energies.len() == n) {
            let energy = |i| self.first.iter().fold(T::zero(), |sum, own| sum + own[i]);
            let last = self.first.len() - 1;
            return (0..n)
                .try_for_each(|i| check_computed(Quantity::Energy, last, 0, &[energy(i)]));
        }
        Err(Error::Combination {
            what: "checked steps with a descent that does not record its energies",
            reason: "its `look` must call Trial::record_energies, or its first step \
                     Trial::record_energy for every layer",
        })
    }

    /// Judges every step that is not accepted yet; returns whether any must be judged again.
    fn judge_once(&mut self, round: usize, problem: &mut TargetProblem<'_, T>) -> bool {
        problem.differentiate(Ask::VALUE);
        // Before any step is shortened: the energies are those of this evaluation.
        let quarter = T::of(0.25);
        let mut again = false;
        for (i, example) in self.examples.iter_mut().enumerate() {
            if example.progress != Progress::Moved {
                continue;
            }
            let energy = problem.example_energy(i);
            let rounding = T::of(16.0) * T::default_epsilon() * example.energy.abs();
            let accepted = match self.check {
                Check::None => true,
                // Near the largest number, E plus rounding is ∞, and so might be the new E.
                Check::Rounding => energy.is_finite() && energy <= example.energy + rounding,
                Check::Strict => energy <= example.energy,
            };
            if accepted {
                // Any step is accepted once it is so short that rounding in E hides whether it
                // descends.
                let whole = round == 0 && example.share == T::one();
                example.moved |= whole || energy < example.energy - rounding;
                if round == 0 {
                    example.share = (example.share / quarter).min(T::one());
                } else {
                    self.verdicts[i] = Verdict::Part;
                }
                example.progress = match self.convergence.stagnates(example.energy, energy) {
                    true => Progress::Stagnated,
                    false => Progress::Going,
                };
                example.energy = energy;
            } else if round < QUARTERS {
                self.report.drawn_back += u64::from(round == 0);
                problem.draw_back(&self.before, i..i + 1, quarter);
                example.share *= quarter;
                again = true;
            } else {
                problem.draw_back(&self.before, i..i + 1, T::zero());
                self.verdicts[i] = Verdict::Refused;
                example.refused = true;
                example.progress = Progress::Going;
            }
        }
        again
    }

    /// The report of this call.
    pub(super) fn report(&self) -> SolveReport {
        let count_if =
            |own: &dyn Fn(&&Example<T>) -> bool| self.examples.iter().filter(own).count();
        let count = |progress| count_if(&|example| example.progress == progress);
        SolveReport {
            at_rest: count(Progress::AtRest),
            stagnated: count(Progress::Stagnated),
            limited: count(Progress::Going),
            stuck: count_if(&|example| example.refused && !example.moved),
            ..self.report
        }
    }
}
