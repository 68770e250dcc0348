//! Penalties by the share of the error that the Z-step leaves.

use super::z_il::check_terms;
use crate::check::{at_least_one, option, positive};
use crate::energy::{Layers, Problem, Workspace};
use crate::error::Error;
use crate::kernel::Scalar;
use crate::target_solver::SurvivingError;

/// Sets μ so that the equilibrium of the Z-step leaves a given share of the error, and updates it as θ
/// moves.
///
/// At the equilibrium of a Z-step the output error r = ∂L/∂ẑ_T of the forward pass has become e = S⁻¹ r:
/// targets that move to lower the output loss take the rest of it, and what they take reaches no
/// parameter. In deep circuits with μ = 1 they take most of it. With P_t = J_{T−1} ⋯ J_t, C the curvature
/// of L (I for squared error) and K = Σ_t P_t P_tᵀ/μ_t,
///
/// ```math
/// S = I + C K,   share = ∥S^{-1} r∥_K / ∥r∥_K,   ∥r∥_K^2 = r^T K r = ∑_t ∥P_t^T r∥^2 / μ_t
/// ```
///
/// P_tᵀ r is backprop's error δ_t, and P_tᵀ e is what is left of it: the share is that of the signal that
/// the hidden layers learn from. (‖S⁻¹r‖/‖r‖ itself can be close to 1 although the hidden layers get
/// next to nothing, since it also counts what they cannot change;
/// [`Diagnostics::with_error_share`](crate::diagnostics::Diagnostics::with_error_share) reports both.) It
/// never falls as μ grows, and tends to 1, for every L; where L has no curvature, as in
/// [`Quantile`](crate::loss::Quantile), it is 1 for every μ. Multiplying μ by c is the same as dividing L by c, up
/// to a factor c of E.
///
/// In visit 0, k, 2k, … of the phase, every μ_t becomes s times its value when the phase began, with the
/// s at which the share, summed over the visit's batch, has the given value. (If no error reaches a hidden
/// layer, μ stays as it was.) The shares for all s come from one Lanczos process of m steps, at the plain
/// forward pass: 1 + 2m products with each layer, where a backprop step makes 3. With the defaults, m = 4
/// and k = 10, that is .3 backprop steps per visit. m = d_T steps are exact; fewer are close where few
/// directions of the output matter. Multipliers λ_t do not change.
///
/// The share is that of the Gauss-Newton model at its minimum. Z-steps that go only part of the way
/// leave more.
///
/// # Examples
/// ```
/// use layerwise::optimizer::Adam;
/// use layerwise::target_solver::GaussNewton;
/// use layerwise::training::{Decoupling, ErrorShare, Phase};
///
/// let scheme = Decoupling::refreshed(GaussNewton::chained(1, 5));
/// let phase: Phase<f64> = Phase::new(scheme, Adam::new(1e-2)?).with_error_share(ErrorShare::new(0.9)?)?;
/// # Ok::<(), layerwise::Error>(())
/// ```
#[doc(alias("mu", "penalty", "spectrum"))]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ErrorShare {
    share: f64,
    visits: u64,
    steps: u64,
    least: f64,
    most: f64,
}

/// Halvings of the range of ln s.
const HALVINGS: usize = 40;

impl ErrorShare {
    /// The rule for a share, every 10 visits, by 4 Lanczos steps, with s from 0.01 to 1e6.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless the share is above 0 and below 1.
    pub fn new(share: f64) -> Result<Self, Error> {
        let fits = share > 0.0 && share < 1.0;
        let allowed = "above 0 and below 1";
        Ok(Self {
            share: option("ErrorShare::share", share, fits, allowed)?,
            visits: 10,
            steps: 4,
            least: 0.01,
            most: 1e6,
        })
    }

    /// Sets k, the number of visits from one update to the next.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for 0.
    pub fn with_every(mut self, visits: u64) -> Result<Self, Error> {
        self.visits = at_least_one("ErrorShare::every", visits)?;
        Ok(self)
    }

    /// Sets m, the most Lanczos steps of an update.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for 0.
    pub fn with_steps(mut self, steps: u64) -> Result<Self, Error> {
        self.steps = at_least_one("ErrorShare::steps", steps)?;
        Ok(self)
    }

    /// Sets the range of s. Where its share is out of reach, s is at one end. In a circuit whose signal
    /// vanishes, and under a loss without curvature, the share is nearly 1 for every μ, so s falls to the
    /// least, and targets move far.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless 0 < `least` ≤ `most` < ∞.
    pub fn with_range(mut self, least: f64, most: f64) -> Result<Self, Error> {
        self.least = positive("ErrorShare::range's least", least)?;
        self.most = positive("ErrorShare::range's most", most)?;
        let allowed = "at least ErrorShare::range's least";
        option("ErrorShare::range's most", most, least <= most, allowed)?;
        Ok(self)
    }

    /// The range of s.
    pub(super) fn range(self) -> [f64; 2] {
        [self.least, self.most]
    }

    /// Whether μ is updated in this visit of the phase.
    pub(super) fn is_due(self, visit: u64) -> bool {
        visit.is_multiple_of(self.visits)
    }

    /// Checks that the share is defined.
    pub(super) fn check<T: Scalar>(layers: Layers<'_, T>) -> Result<(), Error> {
        let operation = "ErrorShare (Phase::with_error_share)";
        check_terms(operation, "target regulariser under ErrorShare", layers)
    }

    /// s for the batch of a problem with s = 1; `None` if no error reaches a hidden layer.
    ///
    /// # Errors
    /// [`Error::NonFinite`], in step 0, for a product that is not finite.
    pub(super) fn factor<T: Scalar>(
        self,
        problem: Problem<'_, T>,
        workspace: &mut Workspace<T>,
        surviving: &mut SurvivingError<T>,
    ) -> Result<Option<f64>, Error> {
        surviving.run(self.steps, problem, workspace)?;
        let least = surviving.hidden(self.least);
        if least.is_empty() {
            return Ok(None);
        }
        if least.share() >= self.share {
            return Ok(Some(self.least));
        }
        let [mut low, mut high] = self.range().map(f64::ln);
        for _ in 0..HALVINGS {
            let middle = low + 0.5 * (high - low);
            match surviving.hidden(middle.exp()).share() < self.share {
                true => low = middle,
                false => high = middle,
            }
        }
        Ok(Some(high.exp().clamp(self.least, self.most)))
    }
}
