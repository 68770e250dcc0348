//! Predictive coding with an augmented Lagrangian.

use std::sync::Arc;

use super::backprop_scheme::refuse_none;
use super::per_example::refresh_all;
use super::scheme::Scheme;
use super::visit::Visit;
use super::w_step::WStep;
use crate::check::{at_least_one, check_length, positive, positive_in_scalar};
use crate::decoupled::{DecoupledCircuit, TargetUse};
use crate::energy::Ask;
use crate::error::Error;
use crate::kernel::Scalar;
use crate::state::State;
use crate::target_solver::TargetSolver;

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
/// with θ fixed, and ẑ at the new z. Then θ makes the step of the W-step on the same function. So the
/// multipliers carry backprop's errors within one visit, where those of
/// [`Decoupling::with_multipliers`](super::Decoupling::with_multipliers) do so over many: nothing is kept per
/// example. At a fixed point of the rounds z = ẑ, and θ's gradients are backprop's for any μ > 0.
/// [`stable_rates`](crate::theory::stable_rates) says which α get there in a linear circuit; with nonlinear
/// layers a small μ may fail to. With one synchronous step in each round, K rounds give gradients to the
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
        })
    }

    /// Sets with which multipliers θ's gradient is taken.
    pub fn with_credit(self, credit: CreditTiming) -> Self {
        Self { credit, ..self }
    }
}

/// λ_t ← λ_t + rate · μ_t (z_t − ẑ_t) for all of the visit's examples.
fn step_multipliers<T: Scalar>(rate: T, visit: &mut Visit<'_, T>) {
    visit.target_problem().predict();
    let batch = visit.batch.view();
    let multipliers = visit.multipliers.iter_mut().zip(visit.penalties);
    for ((t, (own, &penalty)), local) in (1..).zip(multipliers).zip(&visit.workspace.locals) {
        let pairs = batch.z(t).iter().zip(&local.prediction);
        for (lambda, (&z, &prediction)) in own.iter_mut().zip(pairs) {
            *lambda += rate * penalty * (z - prediction);
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
        let (numbers, next) = state.split::<State<T>>();
        check_length("parts of the scheme's state", numbers.parts, 1)?;
        // Kept only if the visit succeeds.
        next.clone_from(&numbers.parts[0]);
        visit.target_problem().refresh()?;
        let (dims, n) = (visit.batch.base.dims, visit.columns().len());
        visit.fill_multipliers(|t, own| own.resize(dims[t] * n, T::zero()));
        let looks = visit.is_first_of_epoch();
        visit.watch_targets(looks);
        let mut tried = false;
        for round in 1..=self.rounds {
            let mut problem = visit.target_problem();
            // Later rounds change E by their multipliers.
            let looks = looks && round == 1;
            let start = looks.then(|| (problem.size(), problem.differentiate(Ask::VALUE)));
            let report = self.solver.solve(next, &mut problem)?;
            if let Some((size, start)) = start {
                let energy = problem.differentiate(Ask::VALUE);
                visit.record_rise(size, start, energy);
            }
            tried |= report.steps > 0 && report.at_rest < n && report.stuck < n;
            visit.record_solve(report);
            if round < self.rounds || self.credit == CreditTiming::AfterDualStep {
                step_multipliers(T::of(self.rate), visit);
            }
        }
        visit.record_gap_before(0.0);
        visit.record_motion(tried);
        visit.record_relaxation();
        let mut evaluated = visit.evaluate()?;
        evaluated.record_gap_after();
        let energy = evaluated.step()?;
        numbers.parts[0].swap_numbers(next);
        Ok(energy)
    }

    /// The model's targets become those of the forward pass.
    fn finish(&self, _: &mut State<T>, model: &mut DecoupledCircuit<T>) -> Result<(), Error> {
        refresh_all(model)
    }
}
