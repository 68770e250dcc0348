//! What every solver does with a step after it was made: each example by itself.

use super::TargetProblem;
use super::report::{Convergence, SolveReport};
use crate::error::{Error, Quantity};
use crate::kernel::Scalar;

/// Checks steps example by example: draws those back that raise E, and ends those at rest.
#[derive(Debug, Clone)]
pub(super) struct Acceptance<T> {
    check: Check,
    /// Whether layers are met from the output down.
    downwards: bool,
    convergence: Convergence,
    examples: Vec<Example<T>>,
    report: SolveReport,
}

/// How an example's E is held to what it was.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Check {
    None,
    /// It may rise by rounding: small steps near rest would fail half of the time otherwise.
    Rounding,
    /// It may not rise at all.
    Strict,
}

#[derive(Debug, Clone, Copy)]
struct Example<T> {
    /// E before the step under way.
    energy: T,
    /// Share of the full step that the example tries.
    share: T,
    /// ‖∂E/∂z‖² as the step under way meets it.
    squares: T,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Going,
    /// Going, and its last step is still to be judged.
    Moved,
    AtRest,
    Stagnated,
}

/// What became of an example's step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Verdict {
    Whole,
    /// Drawn back to a part of it.
    Part,
    /// Taken back.
    None,
}

/// Times that a step is drawn back to a quarter before it is taken back.
const QUARTERS: usize = 3;

impl<T: Scalar> Acceptance<T> {
    pub(super) fn new() -> Self {
        Self {
            check: Check::None,
            downwards: false,
            convergence: Convergence::NEVER,
            examples: Vec::new(),
            report: SolveReport::default(),
        }
    }

    /// For a solver that meets the layers from the output down.
    pub(super) fn downwards() -> Self {
        Self {
            downwards: true,
            ..Self::new()
        }
    }

    pub(super) fn set_convergence(&mut self, convergence: Convergence) {
        self.convergence = convergence;
    }

    /// Begins a call of a solver on n examples.
    pub(super) fn begin(&mut self, n: usize, check: Check) {
        self.check = check;
        self.report = SolveReport::default();
        self.examples.clear();
        let example = Example {
            energy: T::zero(),
            share: T::one(),
            squares: T::zero(),
            state: State::Going,
        };
        self.examples.resize(n, example);
    }

    /// Takes layer t's part of the E that the call begins with, as the workspace has it: of every layer
    /// once, in the order in which [`Acceptance::energy`] adds them.
    ///
    /// # Errors
    /// [`Error::NonFinite`] for an energy that is not finite.
    pub(super) fn start(
        &mut self,
        t: usize,
        problem: &TargetProblem<'_, '_, T>,
    ) -> Result<(), Error> {
        if !self.needs_energies() {
            return Ok(());
        }
        let local = problem.workspace.local(t);
        if !local.energy.is_finite() {
            return Err(Error::NonFinite {
                quantity: Quantity::Energy,
                layer: t,
                step: 0,
            });
        }
        for (example, &energy) in self.examples.iter_mut().zip(local.energies()) {
            example.energy += energy;
        }
        Ok(())
    }

    /// [`Acceptance::start`] of every layer, at an evaluation of all.
    pub(super) fn start_all(&mut self, problem: &TargetProblem<'_, '_, T>) -> Result<(), Error> {
        let mut layers = 0..problem.circuit.depth();
        layers.try_for_each(|t| self.start(t, problem))
    }

    /// E of the i-th example at the last evaluation, summed as [`Acceptance::start`] does.
    fn energy(downwards: bool, problem: &TargetProblem<'_, '_, T>, i: usize) -> T {
        if !downwards {
            return problem.example_energy(i);
        }
        let layers = (0..problem.circuit.depth()).rev();
        let energies = layers.map(|t| problem.workspace.local(t).energies()[i]);
        energies.fold(T::zero(), |sum, energy| sum + energy)
    }

    /// Whether E has a part in judging steps.
    pub(super) fn needs_energies(&self) -> bool {
        self.check != Check::None || self.convergence.needs_energies()
    }

    /// Whether no example goes on.
    pub(super) fn is_over(&self) -> bool {
        let goes = |example: &Example<T>| example.state == State::Going;
        !self.examples.iter().any(goes)
    }

    /// Whether the i-th example goes on.
    pub(super) fn goes(&self, i: usize) -> bool {
        matches!(self.examples[i].state, State::Going | State::Moved)
    }

    /// The share of a full step that the i-th example makes now: 0 if it has ended.
    pub(super) fn share(&self, i: usize) -> T {
        match self.goes(i) {
            true => self.examples[i].share,
            false => T::zero(),
        }
    }

    /// Takes note of ∂E/∂z_t in the workspace, as the step under way meets it.
    pub(super) fn meet(&mut self, t: usize, problem: &TargetProblem<'_, '_, T>) {
        if !self.convergence.needs_gradients() {
            return;
        }
        for (i, example) in self.examples.iter_mut().enumerate() {
            example.squares += problem.squared_gradient(t, i);
        }
    }

    /// Ends the examples whose whole gradient, met before they moved, is within the tolerance.
    pub(super) fn rest(&mut self) {
        for example in &mut self.examples {
            if example.state == State::Going && self.convergence.rests(example.squares) {
                example.state = State::AtRest;
            }
            example.squares = T::zero();
        }
    }

    /// Judges the step made since the last trial began; `verdict` is told of each example.
    pub(super) fn judge(
        &mut self,
        problem: &mut TargetProblem<'_, '_, T>,
        mut verdict: impl FnMut(usize, Verdict),
    ) {
        self.report.steps += 1;
        for example in &mut self.examples {
            if example.state == State::Going {
                example.state = State::Moved;
            }
        }
        if self.needs_energies() {
            let mut round = 0;
            while self.judge_once(round, problem, &mut verdict) {
                round += 1;
            }
        }
        for example in &mut self.examples {
            if example.state == State::Moved {
                example.state = State::Going;
            }
        }
    }

    /// Judges every step that is not accepted yet; gives whether some must be judged again.
    fn judge_once(
        &mut self,
        round: usize,
        problem: &mut TargetProblem<'_, '_, T>,
        verdict: &mut impl FnMut(usize, Verdict),
    ) -> bool {
        problem.evaluate(false, false);
        // Before any target is drawn back: the energies are those of this evaluation.
        let quarter = T::of(0.25);
        let mut again = false;
        for (i, example) in self.examples.iter_mut().enumerate() {
            if example.state != State::Moved {
                continue;
            }
            let energy = Self::energy(self.downwards, problem, i);
            let accepted = match self.check {
                Check::None => true,
                Check::Rounding => {
                    let rounding = T::of(16.0) * T::default_epsilon();
                    energy <= example.energy + rounding * example.energy.abs()
                }
                Check::Strict => energy <= example.energy,
            };
            if accepted {
                let whole = round == 0;
                if whole {
                    example.share = (example.share / quarter).min(T::one());
                }
                verdict(i, if whole { Verdict::Whole } else { Verdict::Part });
                example.state = match self.convergence.stagnates(example.energy, energy) {
                    true => State::Stagnated,
                    false => State::Going,
                };
                example.energy = energy;
            } else if round < QUARTERS {
                self.report.drawn_back += u64::from(round == 0);
                problem.draw_back(i, quarter);
                example.share *= quarter;
                again = true;
            } else {
                problem.draw_back(i, T::zero());
                verdict(i, Verdict::None);
                example.state = State::Going;
            }
        }
        again
    }

    /// What was done in this call.
    pub(super) fn report(&self) -> SolveReport {
        let count = |state| {
            let states = self.examples.iter().map(|example| example.state);
            states.filter(|own| *own == state).count()
        };
        SolveReport {
            at_rest: count(State::AtRest),
            stagnated: count(State::Stagnated),
            limited: count(State::Going),
            ..self.report
        }
    }
}
