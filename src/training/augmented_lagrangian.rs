//! Alternating descent with Lagrange multipliers.

use super::example_memory::ExampleMemory;
use super::visit::{Scheme, Visit};
use crate::decoupled::DecoupledCircuit;
use crate::error::Error;
use crate::kernel::Scalar;
use crate::target_solver::TargetSolver;

/// The method of multipliers: on every visit the persistent targets move (Z-step), then θ (W-step),
/// then one multiplier per example and hidden unit, λ_tⁱ ← λ_tⁱ + α μ_t (z_tⁱ − ẑ_tⁱ), on
///
/// E(θ, Z) + Σᵢ Σ_{t=1}^{T−1} λ_tⁱ·(z_tⁱ − ẑ_tⁱ)
///
/// (times the example's weight). All λ are 0 when a phase begins, and are kept by example through
/// minibatches. For any L_h that is least at z = ẑ; one of bounded slope (Huber) holds multipliers
/// up to μ times that slope, beyond which nothing bounds z, and the run ends in
/// [`Error::NonFinite`].
///
/// At a fixed point z = ẑ and λ_t = −δ_t: the parameter gradients are backprop's for any μ > 0,
/// where the penalty alone would need μ → ∞. But for curved layers a small μ may not lead there:
/// λ·f″ takes from the curvature in z what μ must make up for (seen at μ = ½, not at 1). With
/// squared L_h and a Z-step along the gradient of a mode with curvature h = μσ² + b, step η, the
/// updates are stable if 0 < ηh < 2 and η (2h + αμσ²) < 4: steps within the curvature bound, of
/// margin 1, allow α up to 2 where b ≥ 0. Hestenes 1969; Powell 1969; for nets in the form of ADMM
/// Taylor et al. 2016.
///
/// # Examples
/// ```
/// use layerwise::optimizer::Adam;
/// use layerwise::target_solver::ReverseSweep;
/// use layerwise::training::{AugmentedLagrangian, Phase};
///
/// let scheme = AugmentedLagrangian::new(ReverseSweep::new(3));
/// let phase: Phase<f64> = Phase::new(scheme, Adam::new(1e-3)?);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug)]
pub struct AugmentedLagrangian<T: Scalar> {
    solver: Box<dyn TargetSolver<T>>,
    rate: f64,
    /// λ_t of all examples.
    memory: ExampleMemory<T>,
    /// λ_t of the batch under way.
    multipliers: Vec<Vec<T>>,
}

impl<T: Scalar> AugmentedLagrangian<T> {
    /// Multipliers with α = 1, targets moved by `solver`.
    pub fn new(solver: impl TargetSolver<T> + 'static) -> Self {
        Self {
            solver: Box::new(solver),
            rate: 1.0,
            memory: ExampleMemory::new(),
            multipliers: Vec::new(),
        }
    }

    /// The same with another α.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless α is above 0 and finite.
    pub fn with_rate(mut self, rate: f64) -> Result<Self, Error> {
        self.rate = crate::check::positive("AugmentedLagrangian::rate", rate)?;
        Ok(self)
    }
}

impl<T: Scalar> Scheme<T> for AugmentedLagrangian<T> {
    fn start(&mut self, model: &DecoupledCircuit<T>) -> Result<(), Error> {
        self.solver.reset();
        self.memory.start(model, 1);
        let hidden = model.circuit().depth() - 1;
        self.multipliers.resize_with(hidden, Vec::new);
        Ok(())
    }

    fn visit(&mut self, visit: &mut Visit<'_, '_, T>) -> Result<T, Error> {
        self.memory.locate(visit.batch().examples())?;
        for (t, own) in (1..).zip(&mut self.multipliers) {
            own.clear();
            self.memory.batch(t).for_each(|lambda| own.extend(lambda));
        }
        let mut problem = visit.target_problem().with_multipliers(&self.multipliers)?;
        let met = problem.squared_gap();
        let solved = self.solver.solve(&mut problem)?;
        // Along these gradients θ sees μ (ẑ − z) − λ: what −λ will be with α = 1.
        let energy = problem.evaluate(true, false);
        let left = problem.squared_gap();
        visit.record_solve(solved);
        visit.record_gap_met(met);
        visit.record_gap_left(left);
        visit.step_parameters()?;
        for t in 1..=self.multipliers.len() {
            let rate = T::of(self.rate) * visit.circuit().penalties()[t - 1];
            let (batch, workspace) = (visit.batch(), visit.workspace());
            let (z, prediction) = (batch.z(t), workspace.local(t - 1).prediction());
            self.memory.update(t, |i, lambda| {
                let own = i * lambda.len()..(i + 1) * lambda.len();
                let terms = z[own.clone()].iter().zip(&prediction[own]);
                for (lambda, (&z, &p)) in lambda.iter_mut().zip(terms) {
                    *lambda += rate * (z - p);
                }
            });
        }
        Ok(energy)
    }
}
