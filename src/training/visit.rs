//! One visit of a training scheme to one batch.

use super::accumulation::Draft;
use super::motion::pull;
use super::per_example::measure;
use super::w_step::{self, LayerStep, WState, WStep};
use crate::check::{check_computed, refuse};
use crate::circuit::Circuit;
use crate::energy::{Batch, BatchMut, Layers, Problem, Terms, Workspace, check_multipliers};
use crate::error::{Error, Quantity};
use crate::kernel::{Scalar, Squares};
use crate::schedule::Schedule;
use crate::target_solver::{
    Predictions, Relaxation, Relaxed, SolveReport, TargetProblem, size_of_block,
};

/// Totals over the visits of an epoch.
#[derive(Debug, Clone, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Statistics {
    /// Σ of the visits' objectives, each divided first by a power of 2 that is at least the number of examples,
    /// since the sum itself might overflow.
    pub(super) objective: f64,
    /// Σᵢ Σ_t ‖z_tⁱ − ẑ_tⁱ‖² before and after the visits moved targets.
    pub(super) gap_before: Option<Squares>,
    pub(super) gap_after: Option<Squares>,
    /// f̄ in the first visit that measured it.
    pub(super) relaxed: Option<Relaxed>,
    pub(super) solved: Option<SolveReport>,
    /// Whether a visit undid every step of its targets, and whether the first visit raised E
    /// tenfold.
    pub(super) undone: bool,
    pub(super) raised: bool,
}

/// Everything that a [`Scheme`](crate::training::Scheme) works with during one visit.
///
/// Targets move through [`Visit::target_problem`], parameters through the value that
/// [`Visit::evaluate`] or [`Visit::backprop`] returns. A step consumes that value, so no step can use
/// stale gradients.
///
/// ```compile_fail,E0382
/// use layerwise::training::Visit;
///
/// fn wrong(visit: &mut Visit<'_, f64>) -> Result<(), layerwise::Error> {
///     let evaluated = visit.evaluate()?;
///     evaluated.step()?;
///     evaluated.step()?; // along gradients from before the first step
///     Ok(())
/// }
/// ```
///
/// Nor can targets move between an evaluation and its step:
/// ```compile_fail,E0499
/// use layerwise::training::Visit;
///
/// fn wrong(visit: &mut Visit<'_, f64>) -> Result<(), layerwise::Error> {
///     let evaluated = visit.evaluate()?;
///     visit.target_problem().refresh()?;
///     evaluated.step()?;
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct Visit<'a, T: Scalar> {
    pub(super) circuit: &'a mut Circuit<T>,
    pub(super) terms: &'a Terms<T>,
    /// μ_1, …, μ_{T−1} of this visit.
    pub(super) penalties: &'a [T],
    pub(super) batch: BatchMut<'a, T>,
    pub(super) columns: &'a [usize],
    /// λ_1, …, λ_{T−1}; only the first `multiplied` are used.
    pub(super) multipliers: &'a mut [Vec<T>],
    pub(super) multiplied: usize,
    pub(super) predictions: Predictions,
    pub(super) workspace: &'a mut Workspace<T>,
    pub(super) w_step: &'a WStep<T>,
    pub(super) w_state: &'a mut WState<T>,
    pub(super) steps: &'a mut [LayerStep<T>],
    pub(super) draft: &'a mut Draft,
    /// Which layers need no gradient in θ_t.
    pub(super) frozen: &'a [bool],
    pub(super) statistics: &'a mut Statistics,
    /// If f̄ is to be measured.
    pub(super) relaxation: Option<&'a mut Relaxation<T>>,
    pub(super) factor: f64,
    /// The number of the visit in its phase, from 0, and the phase's maximum number of visits.
    pub(super) number: (u64, u64),
}

/// E on a visit's batch, with its multipliers. A macro, since it borrows only some of the fields.
macro_rules! problem {
    ($visit:expr) => {
        $crate::energy::Problem {
            layers: $crate::energy::Layers::new($visit.circuit, $visit.terms)
                .at_penalties($visit.penalties),
            batch: $visit.batch.view(),
            multipliers: &$visit.multipliers[..$visit.multiplied],
        }
    };
}

/// The same, without the gradients of frozen layers.
macro_rules! gradient_problem {
    ($visit:expr) => {{
        let problem = $crate::training::visit::problem!($visit);
        $crate::energy::Problem {
            layers: problem.layers.without_gradients_of($visit.frozen),
            ..problem
        }
    }};
}
pub(super) use {gradient_problem, problem};

const GIVEN: &str = "gradients computed by the scheme itself";

/// What was evaluated, which says how to evaluate it again.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind<T> {
    Energy,
    Composed,
    /// Gradients from the scheme, and its objective.
    Given(T),
}

impl<'a, T: Scalar> Visit<'a, T> {
    /// The circuit and the terms of E, at the current θ and with the μ of this visit.
    pub fn layers(&self) -> Layers<'_, T> {
        Layers::new(self.circuit, self.terms).at_penalties(self.penalties)
    }

    /// E on the batch, with the multipliers of this visit.
    pub fn problem(&self) -> Problem<'_, T> {
        problem!(self)
    }

    /// The batch.
    pub fn batch(&self) -> Batch<'_, T> {
        self.batch.view()
    }

    /// The columns of the batch's examples among the model's examples: the index for a scheme's
    /// per-example state.
    pub fn columns(&self) -> &'a [usize] {
        self.columns
    }

    /// The factor of the learning rate of the phase's optimiser in this visit, by its schedule.
    /// (For a quantity of your own scheme, use [`Visit::scheduled`].)
    pub fn factor(&self) -> f64 {
        self.factor
    }

    /// The factor of `schedule` at this visit of the phase.
    pub fn scheduled(&self, schedule: Schedule) -> f64 {
        let (number, count) = self.number;
        schedule.factor(number, count)
    }

    /// Parameter steps completed in this phase.
    pub fn steps(&self) -> u64 {
        self.w_state.steps
    }

    /// Adds Lagrange multipliers for the rest of this visit: E gains wᵢ λ_tⁱ·(z_tⁱ − ẑ_tⁱ) for
    /// t = 1, …, T−1 and every example, in every problem and every step.
    ///
    /// # Errors
    /// [`Error::Length`] if they are not T − 1 arrays the size of the targets,
    /// [`Error::NonFiniteData`].
    pub fn set_multipliers(&mut self, multipliers: &[Vec<T>]) -> Result<(), Error> {
        check_multipliers(self.layers(), self.columns.len(), multipliers)?;
        self.fill_multipliers(|t, own| own.extend_from_slice(&multipliers[t - 1]));
        Ok(())
    }

    /// [`Visit::set_multipliers`], filled array by array.
    pub(super) fn fill_multipliers(&mut self, mut fill: impl FnMut(usize, &mut Vec<T>)) {
        for (t, own) in (1..).zip(self.multipliers.iter_mut()) {
            own.clear();
            fill(t, own);
        }
        self.multiplied = self.multipliers.len();
    }

    /// The problem of moving the targets with θ fixed.
    pub fn target_problem(&mut self) -> TargetProblem<'_, T> {
        let layers = Layers::new(self.circuit, self.terms).at_penalties(self.penalties);
        TargetProblem::new(
            layers,
            self.batch.reborrow(),
            &self.multipliers[..self.multiplied],
            self.workspace,
            &mut self.predictions,
        )
    }

    /// Evaluates E on the batch, with what the phase's W-step needs: [`Evaluated::step`] makes that
    /// step.
    ///
    /// # Errors
    /// [`Error::NonFinite`] for an energy that is not finite.
    pub fn evaluate(&mut self) -> Result<Evaluated<'_, 'a, T>, Error> {
        self.make(Kind::Energy)
    }

    /// Evaluates the composed objective of the plain forward pass on the batch
    /// ([`Problem::backprop`]: weights and regularisers included, a sum over its examples), with its
    /// gradients in θ.
    ///
    /// # Errors
    /// [`Error::NonFinite`] for a loss that is not finite; [`Error::Combination`] for a W-step by
    /// solvers, which fit targets.
    pub fn backprop(&mut self) -> Result<Evaluated<'_, 'a, T>, Error> {
        if self.w_step.solves() {
            needs_gradients(self.w_step, "backprop with parameter solvers")?;
        }
        self.make(Kind::Composed)
    }

    /// Your own objective and gradients: `fill` gets zeroed arrays, and writes into them the
    /// gradient of every θ_t, summed over the examples.
    ///
    /// # Errors
    /// [`Error::Combination`] for a W-step with solvers or with several steps, since these evaluate
    /// E themselves.
    pub fn along(
        &mut self,
        objective: T,
        mut fill: impl FnMut(usize, &mut [T]),
    ) -> Result<Evaluated<'_, 'a, T>, Error> {
        needs_gradients(self.w_step, GIVEN)?;
        self.forget();
        let problem = problem!(self);
        self.workspace.fit(problem.layers().depth());
        for (t, local) in self.workspace.locals.iter_mut().enumerate() {
            problem.local(t).fit(local);
            local.energy = T::zero();
            local.d_parameters.fill(T::zero());
            fill(t, &mut local.d_parameters);
        }
        self.given(objective)
    }

    /// Like [`Visit::along`], for gradients that are already in the workspace.
    pub(super) fn given(&mut self, objective: T) -> Result<Evaluated<'_, 'a, T>, Error> {
        needs_gradients(self.w_step, GIVEN)?;
        Ok(Evaluated {
            visit: self,
            kind: Kind::Given(objective),
        })
    }

    /// Adds the batch's gap (Σᵢ Σ_t ‖z_tⁱ − ẑ_tⁱ‖²)^½ before this visit's Z-step
    /// ([`TargetProblem::gap`]) to the epoch's statistics.
    pub fn record_gap_before(&mut self, gap: f64) {
        let before = &mut self.statistics.gap_before;
        before.get_or_insert(Squares::zero()).add(gap);
    }

    /// Records f̄ at the present targets, if the trainer measures it
    /// ([`Trainer::measure_relaxation`](crate::training::Trainer::measure_relaxation)) and no visit of the
    /// epoch has recorded it; otherwise does nothing. Call it where θ's gradients are about to be computed.
    pub fn record_relaxation(&mut self) {
        let first = self.statistics.relaxed.is_none();
        let problem = problem!(self);
        if let Some(relaxation) = self.relaxation.as_mut().filter(|_| first) {
            // Not part of the step: where it overflows, it is unknown, but the step may be sound.
            let relaxed = relaxation.of(problem, self.workspace);
            self.statistics.relaxed = Some(relaxed.unwrap_or(Relaxed::none()));
            self.predictions = Predictions::None;
        }
    }

    /// Like [`Visit::record_gap_before`], for the gap after this visit's Z-step.
    pub fn record_gap_after(&mut self, gap: f64) {
        let after = &mut self.statistics.gap_after;
        after.get_or_insert(Squares::zero()).add(gap);
    }

    /// Adds the report of this visit's target solver to the epoch's statistics.
    pub fn record_solve(&mut self, report: SolveReport) {
        self.statistics.undone |= report.stuck > 0 && report.stuck == self.columns.len();
        self.statistics.solved.get_or_insert_default().add(report);
    }

    /// Before a Z-step, copies the targets that have not moved in the phase yet, and measures what pulls
    /// them if `pulls`.
    pub(super) fn watch_targets(&mut self, pulls: bool) {
        for t in 1..self.circuit.depth() {
            let mut before = std::mem::take(&mut self.steps[t - 1].target);
            if self.w_state.layers[t - 1].target.has_moved() {
                continue;
            }
            before.clear();
            before.extend_from_slice(self.batch.view().z(t));
            self.steps[t - 1].pull = 0.0;
            if pulls {
                let mut problem = self.target_problem();
                problem.predict();
                let (dim, weights) = (problem.layers().dims()[t], problem.example_weights());
                let gradient = problem.target_gradient(t);
                let pull = pull(dim, &before, gradient, weights.unwrap_or(&[]));
                self.steps[t - 1].pull = pull;
            }
            self.steps[t - 1].target = before;
        }
    }

    /// Records which targets the Z-step since [`Visit::watch_targets`] has moved; and, if it has `tried`
    /// to move all, what pulled the others.
    pub(super) fn record_motion(&mut self, tried: bool) {
        for t in 1..self.circuit.depth() {
            let (motion, step) = (&mut self.w_state.layers[t - 1].target, &self.steps[t - 1]);
            if !motion.has_moved() {
                motion.moved = self.batch.view().z(t) != step.target;
                if !motion.moved && tried {
                    self.record_pull(t, step.pull);
                }
            }
        }
    }

    /// Records that the Z-step has not moved z_t, which has this [`pull`].
    pub(super) fn record_pull(&mut self, t: usize, pull: f64) {
        if pull == 0.0 {
            return;
        }
        let layers = Layers::new(self.circuit, self.terms).at_penalties(self.penalties);
        let size = size_of_block(layers, t, &mut self.steps[t - 1].target);
        // Where Newton steps are this short, targets are at rest up to rounding.
        let rounding = 64.0 * T::default_epsilon().as_f64();
        self.w_state.layers[t - 1].target.pulled |= pull > rounding * size.as_f64();
    }

    /// Whether no Z-step of this epoch has been recorded yet.
    pub(super) fn is_first_of_epoch(&self) -> bool {
        self.statistics.solved.is_none()
    }

    /// Records that a Z-step took E, whose terms have this size, from `before` to `after`.
    pub(super) fn record_rise(&mut self, size: T, before: T, after: T) {
        let rounding = T::default_epsilon() * size;
        let rise = after - before;
        self.statistics.raised |= rise > T::of(9.0) * before.abs() && rise > rounding;
    }

    /// Marks the workspace as out of date for the current θ and z.
    pub(super) fn forget(&mut self) {
        self.predictions = Predictions::None;
    }

    fn make(&mut self, kind: Kind<T>) -> Result<Evaluated<'_, 'a, T>, Error> {
        self.differentiate(kind)?;
        Ok(Evaluated { visit: self, kind })
    }

    fn differentiate(&mut self, kind: Kind<T>) -> Result<(), Error> {
        match kind {
            Kind::Energy => {
                let ask = self.w_step.ask();
                let layers = Layers::new(self.circuit, self.terms).at_penalties(self.penalties);
                let mut problem = TargetProblem::new(
                    layers.without_gradients_of(self.frozen),
                    self.batch.reborrow(),
                    &self.multipliers[..self.multiplied],
                    self.workspace,
                    &mut self.predictions,
                );
                problem.differentiate(ask);
                self.workspace.check_energies(self.w_state.steps)
            }
            Kind::Composed => {
                self.forget();
                let problem = Problem {
                    multipliers: &[],
                    ..gradient_problem!(self)
                };
                let loss = problem.backprop(self.workspace).loss();
                let (last, step) = (self.circuit.depth() - 1, self.w_state.steps);
                check_computed(Quantity::ComposedLoss, last, step, &[loss])
            }
            Kind::Given(_) => Ok(()),
        }
    }

    fn step(&mut self) -> Result<(), Error> {
        if self.w_step.is_none() {
            return Ok(());
        }
        // Even if it fails: solvers use the memory of the predictions.
        self.forget();
        let problem = gradient_problem!(self).scheduled();
        let stepped = w_step::prepare(
            self.w_step,
            self.w_state,
            (self.steps, self.draft),
            problem,
            self.workspace,
            self.factor,
        )?;
        if stepped {
            let steps = (&mut *self.steps, &mut *self.draft);
            w_step::commit(self.w_step, self.w_state, steps, self.circuit);
        }
        Ok(())
    }
}

/// An objective on the batch, evaluated at the current θ and z, with everything the phase's W-step
/// needs.
#[derive(Debug)]
pub struct Evaluated<'v, 'a, T: Scalar> {
    visit: &'v mut Visit<'a, T>,
    kind: Kind<T>,
}

impl<T: Scalar> Evaluated<'_, '_, T> {
    /// The objective: E, the composed objective, or the scheme's own. A sum over examples.
    pub fn energy(&self) -> T {
        match self.kind {
            Kind::Given(objective) => objective,
            _ => self.visit.workspace.energy(),
        }
    }

    /// ẑ_{t+1}, d_{t+1} × n column-major; meaningless if the scheme supplied the gradients.
    ///
    /// # Panics
    /// If t ≥ T.
    pub fn prediction(&self, t: usize) -> &[T] {
        &self.visit.workspace.locals[t].prediction
    }

    /// E on the batch, for reading.
    pub fn problem(&self) -> Problem<'_, T> {
        self.visit.problem()
    }

    /// The columns of the batch's examples among the model's examples.
    pub fn columns(&self) -> &[usize] {
        self.visit.columns
    }

    /// [`Visit::record_gap_after`] with [`Evaluated::gap`].
    pub fn record_gap_after(&mut self) {
        let gap = self.gap();
        self.visit.record_gap_after(gap);
    }

    /// Records by how much the Z-step changed E, whose terms have this size, and which was `start`
    /// before it.
    pub(super) fn record_rise(&mut self, size: T, start: T) {
        let energy = self.energy();
        self.visit.record_rise(size, start, energy);
    }

    /// (Σᵢ Σ_t ‖z_tⁱ − ẑ_tⁱ‖²)^½ over the hidden layers, without weights or μ. ẑ is
    /// [`Evaluated::prediction`]; for backprop that is the forward pass.
    pub fn gap(&self) -> f64 {
        let problem = self.visit.problem();
        let hidden = 0..problem.layers().depth() - 1;
        let squares = hidden.map(|t| {
            let (local, own) = (problem.local(t), &self.visit.workspace.locals[t]);
            match self.kind {
                Kind::Energy => local.squared_gap(own),
                // The losses in this workspace are not those of these targets.
                _ => Squares::of_distance(local.target, &own.prediction),
            }
        });
        Squares::all(squares).root()
    }

    /// z_t − ẑ_t, t = 1, …, T−1.
    pub(super) fn measure(&self, gaps: &mut Vec<Vec<T>>) {
        measure(self.visit.problem(), self.visit.workspace, gaps);
    }

    /// Makes all steps of the phase's W-step, each of them completely or not at all. Returns the
    /// objective before the last one.
    ///
    /// # Errors
    /// [`Error::NonFinite`] for an energy, gradient or new parameter that is not finite, and those of
    /// parameter solvers; the failing step then changes no θ_t.
    pub fn step(self) -> Result<T, Error> {
        let mut objective = self.energy();
        let Self { visit, kind } = self;
        for k in 0..visit.w_step.steps() {
            if k > 0 {
                visit.differentiate(kind)?;
                objective = Evaluated { visit, kind }.energy();
            }
            visit.step()?;
        }
        Ok(objective)
    }
}

/// Refuses a W-step that evaluates E itself.
pub(super) fn needs_gradients<T: Scalar>(
    w_step: &WStep<T>,
    what: &'static str,
) -> Result<(), Error> {
    let reason = if w_step.solves() {
        "parameter solvers fit a layer to its targets and use no gradients"
    } else if w_step.steps() > 1 {
        "each of several steps needs new gradients, but the scheme computes them only once per visit"
    } else {
        return Ok(());
    };
    refuse(what, reason)
}
