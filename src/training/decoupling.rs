//! Descent on E(θ, Z): combines where targets come from, how they move, and multipliers.

use std::sync::Arc;

use super::along_sweep;
use super::joint;
use super::per_example::{change_all, check_columns, measure, refresh_all, zeros};
use super::scheme::Scheme;
use super::solve_and_step::solve_and_step;
use super::visit::{Visit, needs_gradients};
use super::w_step::WStep;
use crate::check::{check_computed, check_length, option, positive, positive_in_scalar, refuse};
use crate::decoupled::{DecoupledCircuit, Selection, TargetInit, TargetUse};
use crate::energy::{Ask, Value};
use crate::error::{Error, Quantity};
use crate::kernel::{Scalar, add_scaled};
use crate::optimizer::Optimizer;
use crate::schedule::Schedule;
use crate::state::State;
use crate::target_solver::{StepRule, StepSize, TargetProblem, TargetSolver};

/// Where the targets of a batch come from when it is visited.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
pub enum Targets {
    /// From the last visit: every example keeps its targets z_t. The default.
    #[default]
    Persistent,
    /// From a new forward pass; the targets carry nothing from visit to visit. When a phase ends,
    /// the model's targets become the forward pass, which must be finite.
    Refreshed,
    /// Every example keeps its residuals r_t = z_t − f(z_{t−1}); a visit starts from
    /// z_t = f(z_{t−1}) + γ r_t, for t = 1, …, T−1 in order, at the current θ. With r = 0 or γ = 0
    /// this is `Refreshed`. γ is `keep` times the schedule's factor at the visit.
    ///
    /// The residuals are computed from the model's targets when a phase begins, and the targets are
    /// rebuilt from the residuals when it ends. This needs a second array as large as the targets.
    Residual {
        /// The share of the residual that is kept at the start, in 0..=1.
        keep: f64,
        /// How the share changes over the visits of the phase.
        schedule: Schedule,
    },
    /// When a phase begins, the targets of all examples that it visits become projections of their
    /// inputs ([`Projection`](crate::decoupled::Projection)); from then on they persist.
    Projected {
        /// Seed of the projections.
        seed: u64,
    },
}

/// How targets move in a visit.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ZStep<T: Scalar> {
    /// They do not move: every layer is fitted to the targets as they are.
    None,
    /// By a step of this rule, at the same time as θ and from gradients at the same point. The
    /// rule's state (momentum, Adam's moments and its step count) is kept per example, so that it
    /// survives shuffled minibatches. The rate applies to each example's own gradient; schedules
    /// scale only θ's rate.
    Joint(Arc<dyn Optimizer<T>>),
    /// By a solver with θ fixed; then θ moves with z fixed.
    Solver(Arc<dyn TargetSolver<T>>),
    /// By one reverse sweep, t = T−1, …, 1, of which θ's gradients are taken along the way: that of θ_t when
    /// z_{t+1} has moved and z_t has not. Then all θ_t step. Both gradients of a layer come from one product
    /// with its Jacobian, so a visit costs what one of backprop does, where a [`ReverseSweep`] and its W-step
    /// cost one more pass of predictions.
    ///
    /// With refreshed targets, squared L_h and the step η of [`StepSize::Fixed`], θ_t steps along backprop's
    /// gradient times (μη)^(T−1−t); at η = 1/μ this is backprop. Steps are not checked, since that
    /// needs E at the new targets: [`StepSize::Bounded`] only sets their length, and [`StepSize::Checked`] is
    /// refused. The scheme's objective is Σ_t ℓ_t, each at the point of its gradients.
    ///
    /// [`ReverseSweep`]: crate::target_solver::ReverseSweep
    Along(StepSize),
}

/// Descent on E(θ, Z), one batch at a time, as a combination of
///
/// | where targets come from | × how they move | × multipliers | × how θ moves |
/// |---|---|---|---|
/// | [`Targets`] | [`ZStep`] | none, or λ ([`Decoupling::with_multipliers`]) | the phase's [`WStep`] |
///
/// [`presets`](crate::presets) names combinations from the literature. A meaningless combination is
/// refused when it is constructed, or, if the W-step does not fit, when the phase is constructed.
///
/// # Multipliers
/// The method of multipliers descends on
///
/// E(θ, Z) + Σᵢ Σ_{t=1}^{T−1} λ_tⁱ·(z_tⁱ − ẑ_tⁱ)
///
/// (times the example's weight). After the Z-step, λ and θ step from the same point. The step
/// λ_tⁱ ← λ_tⁱ + α μ_t (z_tⁱ − ẑ_tⁱ) uses the new z, and the ẑ from before the W-step; the W-step
/// uses the old λ. So after an exact Z-step with α = 1, λ_t = −∂(E − μ_t L_h)/∂z_t, which balances
/// the rest of E exactly. This is the order of Taylor et al. 2016, Algorithm 1 (W_L, z_L, then λ
/// with that W_L and z_L), starting at its Z-step. (With a joint step, or one
/// along the sweep, λ uses the z and ẑ after it.) All λ are 0 when a phase begins, and are kept per
/// example across minibatches. Any L_h that has its minimum at z = ẑ works. The term is computed as
/// λ·z − λ·ẑ, so E loses digits where z is far from 0 compared with the gap; its gradients do not. If its slope is bounded (Huber), it balances
/// multipliers only up to μ times that slope; beyond that nothing bounds z, and the run ends with
/// [`Error::NonFinite`].
///
/// At a fixed point z = ẑ and λ_t = −δ_t ([`multiplier_rest`](crate::theory::multiplier_rest)): the
/// parameter gradients are backprop's for any μ > 0, whereas the penalty alone would need μ → ∞. But
/// with nonlinear layers a small μ may fail to converge: λ·f″ reduces the curvature in z, and μ
/// must compensate (observed at μ = ½, not at μ = 1). With squared L_h, steps within the curvature
/// bound allow α up to 2 ([`stable_rates`](crate::theory::stable_rates)). Hestenes 1969; Powell
/// 1969; for neural networks, as ADMM, Taylor et al. 2016.
///
/// # Examples
/// ```
/// use layerwise::prelude::*;
/// use layerwise::training::{Decoupling, Targets, ZStep};
///
/// let persistent: Decoupling<f64> = Decoupling::persistent(ReverseSweep::new(1));
/// let refreshed: Decoupling<f64> = Decoupling::refreshed(ReverseSweep::new(1));
/// let joint: Decoupling<f64> = Decoupling::joint(GradientDescent::new(0.1)?.with_momentum(0.9)?);
/// let carried: Decoupling<f64> =
///     Decoupling::residual(ReverseSweep::new(1)).with_multipliers(1.0)?;
/// // Refused, since no layer except the last would have anything to learn:
/// assert!(Decoupling::<f64>::new(Targets::Refreshed, ZStep::None).is_err());
/// # Ok::<(), Error>(())
/// ```
#[doc(alias("target propagation", "predictive coding", "PCN"))]
#[derive(Debug, Clone)]
pub struct Decoupling<T: Scalar> {
    targets: Targets,
    z_step: ZStep<T>,
    /// α.
    multipliers: Option<f64>,
}

impl<T: Scalar> Decoupling<T> {
    /// Combines `targets` and `z_step`, without multipliers.
    ///
    /// # Errors
    /// [`Error::Combination`] for refreshed or residual targets without a Z-step, for refreshed targets with a
    /// joint step, and for checked steps along the sweep; [`Error::InvalidOption`] for an invalid option of
    /// `targets`, or an invalid step along the sweep.
    pub fn new(targets: Targets, z_step: ZStep<T>) -> Result<Self, Error> {
        if let Targets::Residual { keep, schedule } = targets {
            // 0 · ∞ is NaN, and is refused too.
            for value in [keep, keep * schedule.largest()] {
                let allowed =
                    "in 0..=1, also after multiplication by the schedule's largest factor";
                let fits = (0.0..=1.0).contains(&value);
                option("Targets::Residual::keep", value, fits, allowed)?;
            }
        }
        if let ZStep::Along(step) = z_step {
            step.checked()?;
        }
        match (targets, &z_step) {
            (_, ZStep::Along(StepSize::Checked(_))) => refuse(
                "checked steps along the sweep",
                "a check needs E at the new targets, and so another pass of predictions; a ReverseSweep makes it",
            ),
            (Targets::Refreshed, ZStep::None) => refuse(
                "refreshed targets without a Z-step",
                "every layer except the last already matches its target, so only the last would be trained",
            ),
            (Targets::Residual { .. }, ZStep::None) => refuse(
                "residual targets without a Z-step",
                "the targets move with the predictions, so no layer ever gets closer to them",
            ),
            (Targets::Refreshed, ZStep::Joint(_)) => refuse(
                "refreshed targets with a joint step",
                "the step of z is lost at the next visit, so only the last layer would be trained",
            ),
            _ => Ok(Self::of(targets, z_step)),
        }
    }

    /// Joint descent on persistent targets, as in [`presets::proposal`](crate::presets::proposal): θ and
    /// z step simultaneously, along gradients of E at the same point; `rule` moves the targets.
    pub fn joint(rule: impl Optimizer<T> + 'static) -> Self {
        Self::of(Targets::Persistent, ZStep::Joint(Arc::new(rule)))
    }

    /// Targets that persist between visits, moved by `solver`.
    pub fn persistent(solver: impl TargetSolver<T> + 'static) -> Self {
        Self::of(Targets::Persistent, ZStep::Solver(Arc::new(solver)))
    }

    /// Targets refreshed by a forward pass on every visit, then moved by `solver`.
    pub fn refreshed(solver: impl TargetSolver<T> + 'static) -> Self {
        Self::of(Targets::Refreshed, ZStep::Solver(Arc::new(solver)))
    }

    /// Targets that each example's residuals carry to the current θ ([`Targets::Residual`]), moved
    /// by `solver`. The share γ of the residuals falls linearly from 1 to 0 over the phase: residuals
    /// from an example's last visit help early and are noise late (`docs/evidence.md` has the
    /// comparison).
    pub fn residual(solver: impl TargetSolver<T> + 'static) -> Self {
        let targets = Targets::Residual {
            keep: 1.0,
            schedule: Schedule::TO_ZERO,
        };
        Self::of(targets, ZStep::Solver(Arc::new(solver)))
    }

    /// Persistent targets without a Z-step: every layer is fitted to the targets as they are. With
    /// projected targets this trains every layer. With forward-pass targets it trains only the last
    /// layer, since every other layer already matches its target.
    pub fn weights_only() -> Self {
        Self::of(Targets::Persistent, ZStep::None)
    }

    fn of(targets: Targets, z_step: ZStep<T>) -> Self {
        Self {
            targets,
            z_step,
            multipliers: None,
        }
    }

    /// Adds multipliers of rate α.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless α is above 0 and finite; [`Error::Combination`] without a Z-step.
    #[doc(alias("ADMM", "augmented Lagrangian"))]
    pub fn with_multipliers(mut self, rate: f64) -> Result<Self, Error> {
        positive("Decoupling::multipliers", rate)?;
        if let ZStep::None = self.z_step {
            return refuse(
                "multipliers without a Z-step",
                "fixed targets may be out of θ's reach, and the multipliers of constraints \
                 that cannot be satisfied grow without bound",
            );
        }
        self.multipliers = Some(rate);
        Ok(self)
    }

    /// Where targets come from.
    pub fn targets(&self) -> Targets {
        self.targets
    }

    /// How they move.
    pub fn z_step(&self) -> &ZStep<T> {
        &self.z_step
    }

    /// The rate α of the multipliers, if there are any.
    pub fn multipliers(&self) -> Option<f64> {
        self.multipliers
    }

    /// Steps z and θ, and returns E before the last step of θ.
    fn step(
        &self,
        parts: &mut [State<T>],
        Memory { gaps, solver: own }: &mut Memory<T>,
        visit: &mut Visit<'_, T>,
    ) -> Result<T, Error> {
        // Targets and predictions are bit for bit the same then.
        let at_prediction = self.targets == Targets::Refreshed;
        let state = &mut parts[Z_STEP];
        let (solver, moved) = match &self.z_step {
            ZStep::None => (None, None),
            ZStep::Solver(solver) => (Some(solver.as_ref()), None),
            ZStep::Joint(rule) => (None, Some(joint::visit(rule.as_ref(), state, visit)?)),
            ZStep::Along(step) => {
                let energy = along_sweep::visit(*step, state, own, at_prediction, visit)?;
                (None, Some(energy))
            }
        };
        if let Some(energy) = moved {
            if self.keeps() {
                visit.target_problem().differentiate(Ask::VALUE);
                visit.workspace.check_energies(visit.steps())?;
                measure(visit.problem(), visit.workspace, gaps);
                self.keep(parts, gaps, visit);
            }
            return Ok(energy);
        }
        let energy = solve_and_step(
            solver,
            &mut parts[Z_STEP],
            own,
            at_prediction,
            visit,
            |evaluated| {
                // Before the step, which may take the memory of the predictions, and kept if it is made.
                if self.keeps() {
                    evaluated.measure(gaps);
                }
                Ok(())
            },
        )?;
        if self.keeps() {
            self.keep(parts, gaps, visit);
        }
        Ok(energy)
    }

    /// Whether anything besides z is kept per example.
    fn keeps(&self) -> bool {
        self.multipliers.is_some() || matches!(self.targets, Targets::Residual { .. })
    }

    /// Takes residuals and new multipliers from z − ẑ.
    fn keep(&self, parts: &mut [State<T>], gaps: &[Vec<T>], visit: &Visit<'_, T>) {
        let residual = matches!(self.targets, Targets::Residual { .. });
        let layers = visit.layers();
        for (i, (gaps, &penalty)) in gaps.iter().zip(layers.penalties()).enumerate() {
            let dim = layers.dims()[i + 1];
            for (&column, gaps) in visit.columns().iter().zip(gaps.chunks_exact(dim)) {
                let own = column * dim..(column + 1) * dim;
                if residual {
                    parts[RESIDUALS].values[i][own.clone()].copy_from_slice(gaps);
                }
                if let Some(rate) = self.multipliers {
                    let multipliers = &mut parts[MULTIPLIERS].values[i][own];
                    add_scaled(multipliers, T::of(rate) * penalty, gaps);
                }
            }
        }
    }
}

/// Memory of a visit.
struct Memory<T> {
    /// z − ẑ by hidden layer.
    gaps: Vec<Vec<T>>,
    /// The new state of the target solver, which a visit keeps only if it succeeds.
    solver: State<T>,
}

impl<T> Default for Memory<T> {
    fn default() -> Self {
        Self {
            gaps: Vec::new(),
            solver: State::default(),
        }
    }
}

/// Places in the parts of the scheme's state.
const Z_STEP: usize = 0;
const RESIDUALS: usize = 1;
const MULTIPLIERS: usize = 2;

impl<T: Scalar> Scheme<T> for Decoupling<T> {
    fn targets(&self) -> TargetUse {
        match self.targets {
            Targets::Persistent | Targets::Projected { .. } => TargetUse::Kept,
            Targets::Refreshed | Targets::Residual { .. } => TargetUse::Transient,
        }
    }

    fn check(&self, w_step: &WStep<T>) -> Result<(), Error> {
        match (&self.z_step, self.targets) {
            (ZStep::Joint(_), _) if w_step.solves() => refuse(
                "joint descent with parameter solvers",
                "a solver fits θ to fixed targets, but joint descent moves both at once",
            ),
            (ZStep::Joint(_), _) if w_step.steps() > 1 => refuse(
                "joint descent with several parameter steps",
                "θ and z step together, once per visit",
            ),
            (ZStep::None, _) if w_step.is_none() => {
                refuse("no Z-step with no W-step", "nothing would move")
            }
            (_, Targets::Refreshed) if w_step.is_none() => refuse(
                "refreshed targets with no W-step",
                "nothing that a visit changes would be kept",
            ),
            (ZStep::Along(_), _) => needs_gradients(w_step, "a Z-step along the sweep"),
            _ => Ok(()),
        }
    }

    fn check_model(&self, model: &DecoupledCircuit<T>) -> Result<(), Error> {
        if let Targets::Projected { .. } = self.targets {
            model.examples.in_memory("projected targets")?;
        }
        if let Some(rate) = self.multipliers {
            positive_in_scalar::<T>("Decoupling::multipliers", rate)?;
        }
        match &self.z_step {
            ZStep::Solver(solver) => solver.check(model.layers()),
            ZStep::Along(step) => StepRule::new(*step).check(model.layers()),
            ZStep::None | ZStep::Joint(_) => Ok(()),
        }
    }

    fn start(&self, model: &mut DecoupledCircuit<T>) -> Result<State<T>, Error> {
        let mut state = State::new();
        state.parts.push(match &self.z_step {
            ZStep::None | ZStep::Along(_) => State::new(),
            ZStep::Joint(rule) => joint::start(rule.as_ref(), model),
            ZStep::Solver(solver) => solver.start(),
        });
        let mut residuals = State::new();
        match self.targets {
            Targets::Residual { .. } => {
                residuals.values = zeros(model, 1);
                let (mut gaps, mut checked, mut first) = (Vec::new(), Ok(()), 0);
                let visited = model.weighty(&model.chosen(&Selection::All, "residuals")?);
                let columns = visited.clone().into_places();
                // In the same context as the visits.
                model.for_each_block(&visited, true, |problem, workspace| {
                    problem.evaluate(Value, workspace);
                    measure(problem, workspace, &mut gaps);
                    let n = problem.batch().len();
                    for (t, (all, own)) in residuals.values.iter_mut().zip(&gaps).enumerate() {
                        if checked.is_ok() {
                            checked = check_computed(Quantity::Prediction, t, 0, own);
                        }
                        let dim = own.len() / n;
                        let places = columns[first..first + n].iter();
                        for (&column, own) in places.zip(own.chunks_exact(dim)) {
                            all[column * dim..(column + 1) * dim].copy_from_slice(own);
                        }
                    }
                    first += n;
                })?;
                checked?;
            }
            Targets::Projected { seed } => {
                let visited = model.examples.visited();
                let inputs = model.z(0)?.select_columns(&visited);
                let init = TargetInit::Projected { seed };
                let targets = init.targets(model.layers(), &inputs)?;
                for (t, targets) in (1..).zip(targets) {
                    model.examples.put(t, &visited, &targets)?;
                }
            }
            Targets::Persistent | Targets::Refreshed => {}
        }
        state.parts.push(residuals);
        let mut multipliers = State::new();
        if self.multipliers.is_some() {
            multipliers.values = zeros(model, 1);
        }
        state.parts.push(multipliers);
        Ok(state)
    }

    fn visit(&self, state: &mut State<T>, visit: &mut Visit<'_, T>) -> Result<T, Error> {
        let (numbers, memory) = state.split::<Memory<T>>();
        let parts = numbers.parts;
        check_length("parts of the scheme's state", parts, 3)?;
        let (columns, dims) = (visit.columns(), visit.batch.base.dims);
        if let Targets::Residual { .. } = self.targets {
            check_columns(&parts[RESIDUALS].values, dims, 1, columns)?;
        }
        if self.multipliers.is_some() {
            let all = &parts[MULTIPLIERS].values;
            check_columns(all, dims, 1, columns)?;
            visit.fill_multipliers(|t, own| {
                let dim = dims[t];
                for &column in columns {
                    own.extend_from_slice(&all[t - 1][column * dim..(column + 1) * dim]);
                }
            });
        }
        match self.targets {
            Targets::Persistent | Targets::Projected { .. } => {}
            Targets::Refreshed => visit.target_problem().refresh()?,
            Targets::Residual { keep, schedule } => {
                let share = T::of(keep * visit.scheduled(schedule));
                let residuals = &parts[RESIDUALS].values;
                load_residuals(share, residuals, columns, &mut visit.target_problem())?;
            }
        }
        self.step(parts, memory, visit)
    }

    fn finish(&self, state: &mut State<T>, model: &mut DecoupledCircuit<T>) -> Result<(), Error> {
        let refreshed = self.targets == Targets::Refreshed;
        if !refreshed && !matches!(self.targets, Targets::Residual { .. }) {
            return Ok(());
        }
        check_length("parts of the scheme's state", &state.parts, 3)?;
        if refreshed {
            return refresh_all(model);
        }
        let visited = model.examples.visited();
        let residuals = &state.parts[RESIDUALS].values;
        check_columns(residuals, model.circuit().dims(), 1, &visited)?;
        let mut first = 0;
        change_all(model, true, |problem| {
            let columns = &visited[first..first + problem.batch().len()];
            first += columns.len();
            load_residuals(T::one(), residuals, columns, problem)
        })
    }
}

/// z_t ← f(z_{t−1}) + share · r_t, t = 1, …, T−1, in this order.
fn load_residuals<T: Scalar>(
    share: T,
    residuals: &[Vec<T>],
    columns: &[usize],
    problem: &mut TargetProblem<'_, T>,
) -> Result<(), Error> {
    problem.chain(|t, prediction, z| {
        let dim = z.len() / columns.len();
        let targets = z.chunks_exact_mut(dim).zip(prediction.chunks_exact(dim));
        for ((z, prediction), &column) in targets.zip(columns) {
            let residual = &residuals[t - 1][column * dim..(column + 1) * dim];
            for ((z, &p), &r) in z.iter_mut().zip(prediction).zip(residual) {
                *z = p + share * r;
            }
        }
    })
}
