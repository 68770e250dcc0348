//! Penalties that grow when the gap stops falling.

use crate::check::{
    at_least_one, below_one, check_length, check_weights, not_negative, option, positive,
};
use crate::error::Error;
use crate::kernel::{Scalar, Squares};

/// Automatic penalty continuation, separately for every hidden layer t = 1, …, T−1.
///
/// The visits of a phase are divided into windows of k visits. Let z_t be the targets after a
/// visit, and ẑ_t their predictions with the θ after it. The gap of a window is
///
/// g_t = (Σ ‖z_tⁱ − ẑ_tⁱ‖² / Σ 1)^½,
///
/// both sums over the examples i of its visits, without weights or μ. After every window except the
/// first, with g_t′ the gap of the previous window,
///
/// μ_t ← min(factor · μ_t, cap)  unless  g_t ≤ (1 − decrease) g_t′.
///
/// The new μ_t applies from the next visit on; multipliers λ_t do not change. A gap that stays 0
/// does not make μ_t grow.
///
/// Once the gap has almost converged, it falls by less than any `decrease` from window to window,
/// so in a long phase every μ_t reaches the cap. Choose as the cap the largest μ that the Z-step
/// still solves well, and make windows long enough for the targets to settle.
///
/// Every visit costs one more prediction of the local problems, but no extra memory. Gaps differ
/// from batch to batch: with minibatches make a window at least one epoch (k = ⌈n / batch size⌉),
/// so that each covers the same examples. Searching for a large enough μ_t is standard in penalty
/// methods (Nocedal & Wright 2006, ch. 17; for neural networks Carreira-Perpiñán & Wang 2014).
///
/// # Examples
/// ```
/// use layerwise::optimizer::Adam;
/// use layerwise::target_solver::ReverseSweep;
/// use layerwise::training::{Decoupling, PenaltyGrowth, Phase};
///
/// let growth = PenaltyGrowth::new(20)?.with_cap(64.0)?;
/// let scheme = Decoupling::persistent(ReverseSweep::new(1));
/// let phase: Phase<f64> = Phase::new(scheme, Adam::new(1e-3)?).with_penalty_growth(growth)?;
/// # Ok::<(), layerwise::Error>(())
/// ```
#[doc(alias("mu", "penalty continuation"))]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PenaltyGrowth {
    visits: u64,
    factor: f64,
    decrease: f64,
    cap: f64,
}

impl PenaltyGrowth {
    /// Growth with windows of k = `visits` visits.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for 0.
    pub fn new(visits: u64) -> Result<Self, Error> {
        at_least_one("PenaltyGrowth::visits", visits)?;
        Ok(Self {
            visits,
            factor: 2.0,
            decrease: 0.1,
            cap: 1000.0,
        })
    }

    /// Sets the factor by which μ_t grows each time; 2 unless set.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless it is above 1 and finite.
    pub fn with_factor(mut self, factor: f64) -> Result<Self, Error> {
        let fits = factor > 1.0 && factor.is_finite();
        self.factor = option("PenaltyGrowth::factor", factor, fits, "above 1 and finite")?;
        Ok(self)
    }

    /// Sets the relative decrease of the gap that keeps μ_t from growing; 0.1 unless set.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless it is at least 0 and below 1.
    pub fn with_decrease(mut self, decrease: f64) -> Result<Self, Error> {
        self.decrease = below_one("PenaltyGrowth::decrease", decrease)?;
        Ok(self)
    }

    /// Sets the largest μ_t; 1000 unless set. The phase must not begin with a larger one, even if
    /// an earlier phase ends early (by [`Stopping`](crate::training::Stopping) or a time limit).
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless it is above 0 and finite.
    pub fn with_cap(mut self, cap: f64) -> Result<Self, Error> {
        self.cap = positive("PenaltyGrowth::cap", cap)?;
        Ok(self)
    }

    /// k.
    pub(super) fn visits(self) -> u64 {
        self.visits
    }

    /// Checks that a phase may begin with these μ_t; returns the cap in the circuit's scalar.
    pub(super) fn check<T: Scalar>(self, penalties: &[T]) -> Result<T, Error> {
        let cap = T::of(self.cap);
        let grows = T::of(self.factor) > T::one();
        let allowed = "above 1 and finite in the circuit's scalar";
        option("PenaltyGrowth::factor", self.factor, grows, allowed)?;
        check_weights("PenaltyGrowth::cap", &[cap])?;
        let allowed = "at most PenaltyGrowth::cap whenever its phase can begin";
        for &penalty in penalties {
            option("penalty μ", penalty.as_f64(), penalty <= cap, allowed)?;
        }
        Ok(cap)
    }
}

/// The windows of a phase in progress.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Windows {
    /// Visits in the current window, and their examples.
    visits: u64,
    examples: f64,
    /// Σ ‖z_tⁱ − ẑ_tⁱ‖² of the current window, by hidden layer.
    squares: Vec<Squares>,
    /// Gaps of the previous window; empty in the first.
    before: Vec<f64>,
}

impl Windows {
    pub(super) fn new(hidden: usize) -> Self {
        Self {
            visits: 0,
            examples: 0.0,
            squares: vec![Squares::zero(); hidden],
            before: Vec::with_capacity(hidden),
        }
    }

    /// Checks that they belong to a circuit with this many hidden layers.
    pub(super) fn check(&self, hidden: usize) -> Result<(), Error> {
        let what = "gaps of a window";
        check_length(what, &self.squares, hidden)?;
        let gaps = self.squares.iter().map(|own| own.root());
        for gap in gaps.chain(self.before.iter().copied()) {
            not_negative("a gap in the state", gap)?;
        }
        match self.before.is_empty() {
            true => Ok(()),
            false => check_length(what, &self.before, hidden),
        }
    }

    /// Visits in the window in progress.
    pub(super) fn visits(&self) -> u64 {
        self.visits
    }

    /// Adds a visit's squared gaps, one per hidden layer, and lets `penalties` grow if the visit
    /// ends a window.
    pub(super) fn add<T: Scalar>(
        &mut self,
        rule: PenaltyGrowth,
        squares: &[Squares],
        examples: usize,
        penalties: &mut [T],
    ) {
        for (sum, &square) in self.squares.iter_mut().zip(squares) {
            sum.add_all(square);
        }
        self.examples += examples as f64;
        self.visits += 1;
        if self.visits < rule.visits {
            return;
        }
        let gap = |sum: &Squares| sum.root_mean(self.examples);
        let (factor, cap) = (T::of(rule.factor), T::of(rule.cap));
        let windows = self.squares.iter().map(gap).zip(&self.before);
        for (penalty, (now, before)) in penalties.iter_mut().zip(windows) {
            if now > (1.0 - rule.decrease) * before {
                let grown = factor * *penalty;
                // It never falls, even if the phase began above the cap.
                *penalty = if grown < cap {
                    grown
                } else {
                    cap.max(*penalty)
                };
            }
        }
        self.before.clear();
        self.before.extend(self.squares.iter().map(gap));
        self.squares.fill(Squares::zero());
        self.examples = 0.0;
        self.visits = 0;
    }
}
