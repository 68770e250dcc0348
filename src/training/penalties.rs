//! The penalties μ_t of a phase: constant, scheduled, growing, or by the share of the error.

use super::error_share::ErrorShare;
use super::penalty_growth::{PenaltyGrowth, Windows};
use crate::check::{check_computed, check_length, check_weights};
use crate::energy::{Layers, Problem, Workspace};
use crate::error::{Error, Quantity};
use crate::kernel::Scalar;
use crate::kernel::Squares;
use crate::schedule::Schedule;
use crate::target_solver::SurvivingError;

/// How the μ_t of a phase change.
#[derive(Debug, Clone, Copy)]
pub(super) enum PenaltyRule {
    Scheduled(Schedule),
    Growing(PenaltyGrowth),
    Sharing(ErrorShare),
}

/// The penalties μ_t of a phase in progress.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Penalties<T> {
    /// As they were when the phase began.
    first: Vec<T>,
    /// Those of the last visit, or of the next one unless they have a schedule.
    now: Vec<T>,
    /// Used only if they grow.
    windows: Windows,
}

impl<T: Scalar> Penalties<T> {
    pub(super) fn new(penalties: &[T]) -> Self {
        Self {
            first: penalties.to_vec(),
            now: penalties.to_vec(),
            windows: Windows::new(penalties.len()),
        }
    }

    /// As they were when the phase began.
    pub(super) fn first(&self) -> &[T] {
        &self.first
    }

    /// Checks that there is one per hidden layer, and that all are valid penalties.
    pub(super) fn check(&self, hidden: usize) -> Result<(), Error> {
        for own in [&self.first, &self.now] {
            check_length("penalties μ of the phase in progress", own, hidden)?;
            check_weights("penalty μ of the phase in progress", own)?;
        }
        self.windows.check(hidden)
    }

    /// Visits in the window in progress.
    pub(super) fn visits(&self) -> u64 {
        self.windows.visits()
    }

    /// The μ_t of visit number `visit` out of `visits`: above 0 and finite, since this was checked
    /// before the run.
    pub(super) fn of_visit(&mut self, rule: PenaltyRule, visit: u64, visits: u64) -> &[T] {
        // A constant μ must keep its exact bits.
        if let PenaltyRule::Scheduled(schedule) = rule
            && schedule != Schedule::CONSTANT
        {
            scheduled(schedule, visit, visits, &self.first, &mut self.now);
        }
        &self.now
    }

    /// After a visit with the penalties `used` to this many examples with these squared gaps: keeps those
    /// set by the share of the error, and lets growing ones grow for the next visit.
    pub(super) fn pass(
        &mut self,
        rule: PenaltyRule,
        used: &[T],
        gaps: &[Squares],
        examples: usize,
    ) {
        match rule {
            PenaltyRule::Scheduled(_) => {}
            PenaltyRule::Growing(growth) => {
                self.windows.add(growth, gaps, examples, &mut self.now);
            }
            PenaltyRule::Sharing(_) => self.now.copy_from_slice(used),
        }
    }
}

impl PenaltyRule {
    /// Checks that the rule is defined on these layers.
    pub(super) fn check<T: Scalar>(self, layers: Layers<'_, T>) -> Result<(), Error> {
        match self {
            Self::Sharing(_) => ErrorShare::check(layers),
            Self::Scheduled(_) | Self::Growing(_) => Ok(()),
        }
    }

    /// If μ is set by the share of the error, in this visit of the phase: sets the penalties of the visit
    /// to those of `problem`, with which the phase began, times one factor.
    ///
    /// # Errors
    /// [`Error::NonFinite`], in step 0, for a product that is not finite.
    pub(super) fn share<T: Scalar>(
        self,
        visit: u64,
        problem: Problem<'_, T>,
        workspace: &mut Workspace<T>,
        surviving: &mut SurvivingError<T>,
        penalties: &mut [T],
    ) -> Result<(), Error> {
        let Self::Sharing(rule) = self else {
            return Ok(());
        };
        if rule.is_due(visit)
            && let Some(factor) = rule.factor(problem, workspace, surviving)?
        {
            let factor = T::of(factor);
            for (own, &first) in penalties.iter_mut().zip(problem.layers().penalties()) {
                *own = first * factor;
            }
        }
        Ok(())
    }

    /// If μ grows: measures the squared gaps of the hidden layers after a visit, with one more
    /// prediction.
    ///
    /// # Errors
    /// [`Error::NonFinite`] for a gap that is not finite.
    pub(super) fn measure<T: Scalar>(
        self,
        problem: Problem<'_, T>,
        workspace: &mut Workspace<T>,
        gaps: &mut Vec<Squares>,
    ) -> Result<(), Error> {
        gaps.clear();
        if !matches!(self, Self::Growing(_)) {
            return Ok(());
        }
        problem.predict_locally(workspace);
        for t in 1..problem.layers().depth() {
            let prediction = &workspace.locals[t - 1].prediction;
            let gap = Squares::of_distance(problem.batch().z(t), prediction);
            check_computed(Quantity::Prediction, t, 0, &[gap.root()])?;
            gaps.push(gap);
        }
        Ok(())
    }
}

/// `now` ← `first` times the schedule's factor at this visit.
fn scheduled<T: Scalar>(schedule: Schedule, visit: u64, visits: u64, first: &[T], now: &mut [T]) {
    let factor = T::of(schedule.factor(visit, visits));
    for (now, &first) in now.iter_mut().zip(first) {
        *now = first * factor;
    }
}

/// Bounds of the μ_t with which a phase can begin.
#[derive(Debug)]
pub(super) struct PenaltyRange<T> {
    least: Vec<T>,
    most: Vec<T>,
}

impl<T: Scalar> PenaltyRange<T> {
    /// The μ_t that a run begins with.
    pub(super) fn new(penalties: &[T]) -> Self {
        Self {
            least: penalties.to_vec(),
            most: penalties.to_vec(),
        }
    }

    /// Updates the bounds for a phase of `visits` visits, or possibly fewer if it `may_end` early.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] if a μ_t might become 0 or non-finite, or might start above the cap
    /// of its growth.
    pub(super) fn pass(
        &mut self,
        rule: PenaltyRule,
        visits: u64,
        may_end: bool,
    ) -> Result<(), Error> {
        let schedule = match rule {
            PenaltyRule::Scheduled(schedule) => schedule,
            PenaltyRule::Sharing(share) => {
                if visits == 0 {
                    return Ok(());
                }
                // Without a visit, or a signal, μ stays as it was.
                let [least, most] = share.range();
                let [least, most] = [least.min(1.0), most.max(1.0)];
                for (bounds, factor) in [(&mut self.least, least), (&mut self.most, most)] {
                    let factor = T::of(factor);
                    bounds.iter_mut().for_each(|own| *own *= factor);
                    check_weights("penalty μ under ErrorShare::range", bounds)?;
                }
                return Ok(());
            }
            PenaltyRule::Growing(growth) => {
                let cap = growth.check(&self.most)?;
                // The first growth takes effect in the visit after two windows.
                if visits.saturating_sub(1) / 2 >= growth.visits() {
                    self.most.fill(cap);
                }
                return Ok(());
            }
        };
        let Some(last) = visits.checked_sub(1) else {
            return Ok(());
        };
        let wider: [fn(T, T) -> T; 2] = [|a, b| a.min(b), |a, b| a.max(b)];
        for (bound, wider) in [&mut self.least, &mut self.most].into_iter().zip(wider) {
            let first = bound.clone();
            let mut reached = first.clone();
            // A schedule is monotone up to the end of its warm-up, and again after it.
            for visit in [0, schedule.warm_up().min(last), last] {
                scheduled(schedule, visit, visits, &first, bound);
                check_weights("penalty μ under its schedule", bound)?;
                for (reached, &own) in reached.iter_mut().zip(&*bound) {
                    *reached = wider(*reached, own);
                }
            }
            if may_end {
                *bound = reached;
            }
        }
        Ok(())
    }
}
