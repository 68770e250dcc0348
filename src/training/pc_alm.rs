//! Predictive coding with an augmented Lagrangian.

use std::num::NonZeroUsize;
use std::sync::Arc;

use super::anderson::Anderson;
use super::backprop_scheme::refuse_none;
use super::per_example::{measure, refresh_all};
use super::scheme::Scheme;
use super::visit::Visit;
use super::w_step::WStep;
use crate::check::{at_least_one, check_length, positive, positive_in_scalar};
use crate::decoupled::{DecoupledCircuit, TargetUse};
use crate::energy::{Ask, default_fields};
use crate::error::Error;
use crate::kernel::{Scalar, add_to, scale};
use crate::state::State;
use crate::target_solver::{SolveReport, TargetSolver};

/// With which multipliers [`PcAlm`] takes θ's gradient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum CreditTiming {
    /// With those before the last dual step, which is then left out. As published; the default.
    #[default]
    BeforeDualStep,
    /// With those after it: the last gaps count 1 + α times.
    AfterDualStep,
}

/// Predictive coding with an augmented Lagrangian (PC-ALM): a visit starts from the forward pass with all
/// multipliers 0, and makes K rounds of
///
/// ```math
/// Z: the solver moves z on E(θ, Z) + ∑_i ∑_t λ_t^i · (z_t^i - ẑ_t^i),
/// λ_t ← λ_t + α μ_t (z_t - ẑ_t)
/// ```
///
/// with θ fixed, and ẑ at the new z. Then the W-step moves θ on the same function. So the
/// multipliers carry backprop's errors within one visit, where those of
/// [`Decoupling::with_multipliers`](super::Decoupling::with_multipliers) do so over many: nothing is kept per
/// example. At a fixed point of the rounds z = ẑ, and θ's gradients are backprop's for any μ > 0.
/// [`stable_rates`](crate::theory::stable_rates) says which α get there in a linear circuit; with nonlinear
/// layers the rounds may not converge if μ is small. With one synchronous step in each round, K rounds give gradients to the
/// last K + 1 layers only.
///
/// Seely & Gould 2026 (arXiv 2605.31022), whose settings [`presets::pc_alm`](crate::presets::pc_alm) has. Their
/// dual step is λ ← λ + α (z − ẑ), so that their α is αμ here; the gradient in θ is taken before the last dual
/// step unless [`PcAlm::with_credit`] sets another.
///
/// # Examples
/// ```
/// use layerwise::prelude::*;
/// use layerwise::training::PcAlm;
///
/// // Whole sweeps instead of synchronous steps.
/// let scheme = PcAlm::new(8, ReverseSweep::new(1), 1.0)?;
/// let phase = Phase::<f64>::new(scheme, Adam::new(1e-3)?);
/// # Ok::<(), Error>(())
/// ```
#[doc(alias("augmented Lagrangian", "PC-ALM"))]
#[derive(Debug, Clone)]
pub struct PcAlm<T: Scalar> {
    rounds: u64,
    solver: Arc<dyn TargetSolver<T>>,
    /// α.
    rate: f64,
    credit: CreditTiming,
    /// The largest number of secants, if the dual steps are accelerated.
    acceleration: Option<NonZeroUsize>,
}

impl<T: Scalar> PcAlm<T> {
    /// K = `rounds` rounds, each of one call of `solver` and one dual step of rate α = `rate`.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for no rounds, and unless the rate is above 0 and finite.
    pub fn new(
        rounds: u64,
        solver: impl TargetSolver<T> + 'static,
        rate: f64,
    ) -> Result<Self, Error> {
        Ok(Self {
            rounds: at_least_one("PcAlm::rounds", rounds)?,
            solver: Arc::new(solver),
            rate: positive("PcAlm::rate", rate)?,
            credit: CreditTiming::default(),
            acceleration: None,
        })
    }

    /// Sets with which multipliers θ's gradient is taken.
    pub fn with_credit(self, credit: CreditTiming) -> Self {
        Self { credit, ..self }
    }

    /// Accelerates the dual steps by Anderson's method. For every example, from λ and its step
    /// f = α μ (z − ẑ) in the last rounds of the visit, with their differences Δλ_j and Δf_j,
    ///
    /// ```math
    /// λ ← λ + f - ∑_j γ_j (Δλ_j + Δf_j),  γ = \arg\min_γ ‖f - ∑_j γ_j Δf_j‖
    /// ```
    ///
    /// When there are `secants` of them, all are dropped, and the next round begins anew. It suits rounds
    /// that nearly minimise over z, where f is a function of λ. In a linear circuit with exact Z-steps this
    /// function is affine, all λ of a visit lie in a space of d_T dimensions, and d_T + 2 rounds with d_T
    /// secants give backprop's gradients. With nonlinear layers it saves rounds where plain dual steps
    /// converge. On a small tanh circuit, θ after a step was 6e-4 off backprop's in eight rounds, and 4e-7
    /// with four secants, at μ of 3.2 to 8; at a quarter of these μ neither converged
    /// (`acceleration_saves_rounds` in `tests/suite/pc_alm.rs`). After few gradient steps f depends on the
    /// earlier z as well, and secants mislead. Nothing keeps E from rising by a dual step, accelerated or
    /// not. Anderson 1965; Walker & Ni 2011.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for 0 secants.
    #[doc(alias = "Anderson")]
    pub fn with_acceleration(self, secants: usize) -> Result<Self, Error> {
        at_least_one("PcAlm::acceleration", secants as u64)?;
        let acceleration = NonZeroUsize::new(secants);
        Ok(Self {
            acceleration,
            ..self
        })
    }
}

/// Memory of a visit.
#[derive(Debug)]
struct Memory<T> {
    /// The new state of the target solver, which a visit keeps only if it succeeds.
    solver: State<T>,
    /// α μ_t (z_t − ẑ_t) by hidden layer.
    steps: Vec<Vec<T>>,
    acceleration: Anderson<T>,
}

default_fields!(Memory: solver steps acceleration);

impl<T: Scalar> PcAlm<T> {
    /// λ_t ← λ_t + α μ_t (z_t − ẑ_t) for all of the visit's examples, or an accelerated step.
    fn step_multipliers(&self, memory: &mut Memory<T>, visit: &mut Visit<'_, T>) {
        visit.target_problem().predict();
        measure(visit.problem(), visit.workspace, &mut memory.steps);
        for (own, &penalty) in memory.steps.iter_mut().zip(visit.penalties) {
            scale(own, T::of(self.rate) * penalty);
        }
        let (steps, multipliers) = (&memory.steps, &mut *visit.multipliers);
        if let Some(secants) = self.acceleration {
            let dims = visit.batch.base.dims;
            let (most, hidden) = (secants.get(), &dims[1..dims.len() - 1]);
            let acceleration = &mut memory.acceleration;
            acceleration.step(most, hidden, multipliers, steps);
            return;
        }
        for (own, step) in multipliers.iter_mut().zip(steps) {
            add_to(own, step);
        }
    }
}

impl<T: Scalar> Scheme<T> for PcAlm<T> {
    fn targets(&self) -> TargetUse {
        TargetUse::Transient
    }

    fn check(&self, w_step: &WStep<T>) -> Result<(), Error> {
        refuse_none(w_step, "PC-ALM with no W-step")
    }

    fn check_model(&self, model: &DecoupledCircuit<T>) -> Result<(), Error> {
        positive_in_scalar::<T>("PcAlm::rate", self.rate)?;
        self.solver.check(model.layers())
    }

    fn start(&self, _: &mut DecoupledCircuit<T>) -> Result<State<T>, Error> {
        let mut state = State::new();
        state.parts.push(self.solver.start());
        Ok(state)
    }

    fn visit(&self, state: &mut State<T>, visit: &mut Visit<'_, T>) -> Result<T, Error> {
        let (numbers, memory) = state.split::<Memory<T>>();
        check_length("parts of the scheme's state", numbers.parts, 1)?;
        memory.solver.clone_from(&numbers.parts[0]);
        memory.acceleration.restart();
        visit.target_problem().refresh()?;
        let (dims, n) = (visit.batch.base.dims, visit.columns().len());
        visit.fill_multipliers(|t, own| own.resize(dims[t] * n, T::zero()));
        let looks = visit.is_first_of_epoch();
        visit.watch_targets(looks);
        let (mut tried, mut whole) = (false, None::<SolveReport>);
        for round in 1..=self.rounds {
            let mut problem = visit.target_problem();
            // Later rounds change E by their multipliers.
            let looks = looks && round == 1;
            let start = looks.then(|| (problem.size(), problem.differentiate(Ask::VALUE)));
            let report = self.solver.solve(&mut memory.solver, &mut problem)?;
            if let Some((size, start)) = start {
                let energy = problem.differentiate(Ask::VALUE);
                visit.record_rise(size, start, energy);
            }
            tried |= report.steps > 0 && report.at_rest < n && report.stuck < n;
            whole = Some(whole.map_or(report, |whole| whole.then(report)));
            if round < self.rounds || self.credit == CreditTiming::AfterDualStep {
                self.step_multipliers(memory, visit);
            }
        }
        visit.record_gap_before(0.0);
        visit.record_motion(tried);
        if let Some(report) = whole {
            visit.record_solve(report);
        }
        visit.record_relaxation();
        let mut evaluated = visit.evaluate()?;
        evaluated.record_gap_after();
        let energy = evaluated.step()?;
        numbers.parts[0].swap_numbers(&mut memory.solver);
        Ok(energy)
    }

    /// The model's targets become those of the forward pass.
    fn finish(&self, _: &mut State<T>, model: &mut DecoupledCircuit<T>) -> Result<(), Error> {
        refresh_all(model)
    }
}
