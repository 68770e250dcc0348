//! Schemes from the literature, by name, as complete [`Phase`]s that include the optimiser of θ.
//!
//! | preset | what a visit does | paper |
//! |---|---|---|
//! | [`proposal`] | θ and z descend E together, μ = 1 | Mertens Velasquez, Layer-wise Gradient Decoupling |
//! | [`mac`] | Z-step on persistent targets, W-step, growing μ | Carreira-Perpiñán & Wang 2014 |
//! | [`admm`] | Z-step, W-step, multiplier step | Taylor et al. 2016 |
//! | [`carried_residuals`] | Z-step on residuals carried through minibatches, W-step | this crate |
//! | [`predictive_coding`] | forward pass, K synchronous Z-steps, W-step | Whittington & Bogacz 2017 |
//! | [`incremental_pc`] | one synchronous Z-step on persistent targets, W-step | Salvatori et al. 2024 |
//! | [`epc`] | forward pass, K steps of the errors z − ẑ, W-step | Goemaere et al. 2025 |
//! | [`pc_alm`] | forward pass, K rounds of a Z-step and a multiplier step, W-step | Seely & Gould 2026 |
//! | [`z_il`] | predictive coding with backprop's gradients | Song et al. 2020 |
//! | [`fixed_prediction`] | predictions and Jacobians held at the forward pass | Millidge et al. 2022 |
//!
//! The caller sets epochs and other limits; losses and the initial μ_t come from the circuit.
//!
//! # Examples
//! ```
//! use layerwise::prelude::*;
//!
//! let (adam, sweep) = (Adam::new(1e-3)?, ReverseSweep::new(3));
//! let phases: [Phase<f64>; 10] = [
//!     presets::proposal(GradientDescent::new(0.1)?.with_momentum(0.9)?, adam).with_epochs(600),
//!     presets::mac(sweep, adam, 100.0)?.with_epochs(300),
//!     presets::admm(sweep, adam),
//!     presets::carried_residuals(sweep, adam).with_batch_size(128)?,
//!     presets::predictive_coding(20, 0.1, adam)?,
//!     presets::incremental_pc(0.1, adam)?,
//!     presets::epc(5, 0.1, adam)?,
//!     presets::pc_alm(64, 0.25, adam)?,
//!     presets::z_il(adam),
//!     presets::fixed_prediction(adam),
//! ];
//! # Ok::<(), layerwise::Error>(())
//! ```

use crate::check::option;
use crate::error::Error;
use crate::kernel::Scalar;
use crate::optimizer::Optimizer;
use crate::schedule::Schedule;
use crate::target_solver::{ErrorDescent, StepSize, SynchronousDescent, TargetSolver};
use crate::training::{Decoupling, FixedPrediction, PcAlm, Phase, ZIl};

/// *Layer-wise Gradient Decoupling* (Mertens Velasquez): joint descent on E(θ, Z). `target_rule`
/// moves z and `rule` moves θ, both from one evaluation of all layers' independent gradients.
pub fn proposal<T: Scalar>(
    target_rule: impl Optimizer<T> + 'static,
    rule: impl Optimizer<T> + 'static,
) -> Phase<T> {
    Phase::new(Decoupling::joint(target_rule), rule)
}

/// The method of auxiliary coordinates with the quadratic penalty: alternating Z-steps by `solver`
/// and W-steps by `rule` on persistent targets. Every μ_t grows by [`Schedule::geometric`] towards
/// `growth` times its initial value, which it would reach just after the last visit of the phase.
///
/// Carreira-Perpiñán & Wang 2014. Stationary points tend to those of the composed loss as μ → ∞.
/// The gap shows whether μ is large enough.
///
/// # Errors
/// [`Error::InvalidOption`] unless `growth` is at least 1 and finite.
#[doc(alias("MAC", "method of auxiliary coordinates"))]
pub fn mac<T: Scalar>(
    solver: impl TargetSolver<T> + 'static,
    rule: impl Optimizer<T> + 'static,
    growth: f64,
) -> Result<Phase<T>, Error> {
    let fits = growth >= 1.0 && growth.is_finite();
    let allowed = "at least 1 and finite";
    option("presets::mac's growth", growth, fits, allowed)?;
    let phase = Phase::new(Decoupling::persistent(solver), rule);
    phase.with_penalty_schedule(Schedule::geometric(growth)?)
}

/// The alternating direction method of multipliers: Z-steps by `solver`, W-steps by `rule`, then
/// one multiplier step with rate 1 per example and hidden unit ([`Decoupling::with_multipliers`]).
///
/// Taylor, Burmeister, Xu, Singh, Patel & Goldstein 2016, with gradient steps in place of their
/// closed-form sub-steps, and with multipliers for every hidden layer instead of only the last one.
/// At a fixed point the parameter gradients are those of backprop, for any μ.
#[doc(alias = "ADMM")]
pub fn admm<T: Scalar>(
    solver: impl TargetSolver<T> + 'static,
    rule: impl Optimizer<T> + 'static,
) -> Phase<T> {
    let scheme = Decoupling::persistent(solver).with_multipliers(1.0);
    Phase::new(scheme.expect("a rate of 1 is valid"), rule)
}

/// Per-example targets that survive minibatches: every example keeps its residuals
/// r_t = z_t − f(z_{t−1}) from visit to visit ([`Decoupling::residual`]). Each visit rebuilds the
/// targets from these residuals at the current θ, and `solver` then moves them.
///
/// Targets that are kept unchanged become stale between visits, because θ changes. Residuals
/// carried from visit to visit follow θ.
pub fn carried_residuals<T: Scalar>(
    solver: impl TargetSolver<T> + 'static,
    rule: impl Optimizer<T> + 'static,
) -> Phase<T> {
    Phase::new(Decoupling::residual(solver), rule)
}

/// Predictive coding. The targets (activities) start at the forward pass and relax by K = `steps`
/// synchronous gradient steps of size `rate` (inference). Then θ makes one step (learning).
///
/// Whittington & Bogacz 2017. With relaxed targets the gradients differ from backprop's by O(1/μ).
///
/// # Errors
/// [`Error::InvalidOption`] unless the rate is above 0 and finite.
#[doc(alias("PCN", "predictive coding", "PC"))]
pub fn predictive_coding<T: Scalar>(
    steps: u64,
    rate: f64,
    rule: impl Optimizer<T> + 'static,
) -> Result<Phase<T>, Error> {
    let inference = SynchronousDescent::new(steps, StepSize::Fixed(rate))?;
    Ok(Phase::new(Decoupling::refreshed(inference), rule))
}

/// Incremental predictive coding: every visit makes one synchronous gradient step of size `rate` on its
/// examples' targets, which persist, and then one step of θ at the new targets. There is no inference phase:
/// targets relax over the visits, while θ already learns.
///
/// Salvatori, Song, Yordanov, Millidge, Xu, Sha, Emde, Bogacz & Lukasiewicz 2024: a partial E-step and a
/// partial M-step of incremental expectation maximisation, both in the same time step. Here θ's gradient sees
/// the targets that have just moved; with both gradients at the same point the scheme is [`proposal`] with
/// `GradientDescent::new(rate)` for the targets. In minibatches an example's targets wait for its next
/// visit, while θ moves on (see the guide on persistent targets).
///
/// # Errors
/// [`Error::InvalidOption`] unless the rate is above 0 and finite.
#[doc(alias("iPC", "incremental predictive coding"))]
pub fn incremental_pc<T: Scalar>(
    rate: f64,
    rule: impl Optimizer<T> + 'static,
) -> Result<Phase<T>, Error> {
    let step = SynchronousDescent::new(1, StepSize::Fixed(rate))?;
    Ok(Phase::new(Decoupling::persistent(step), rule))
}

/// Predictive coding in error coordinates (ePC): the targets start at the forward pass, and make K = `steps`
/// gradient steps of size `rate` in c_t = z_t − f(z_{t−1}) ([`ErrorDescent`]), each of which reaches every
/// layer. Then θ makes one step.
///
/// Goemaere, Oliviers, Bogacz & Demeester 2025. With one step of a small rate the hidden layers' gradients are
/// backprop's times μ · `rate`; with many they are those of relaxed [`predictive_coding`].
///
/// # Errors
/// [`Error::InvalidOption`] unless the rate is above 0 and finite.
#[doc(alias("ePC", "error optimisation"))]
pub fn epc<T: Scalar>(
    steps: u64,
    rate: f64,
    rule: impl Optimizer<T> + 'static,
) -> Result<Phase<T>, Error> {
    let inference = ErrorDescent::new(steps).with_step(StepSize::Fixed(rate))?;
    Ok(Phase::new(Decoupling::refreshed(inference), rule))
}

/// Predictive coding with an augmented Lagrangian ([`PcAlm`]): from the forward pass, K = `rounds` times one
/// synchronous gradient step of size `rate` and a dual step with α = 1; then one step of θ, with the
/// multipliers before the last dual step.
///
/// Seely & Gould 2026, who use μ = 1, a rate of 1/4, and 64 rounds for 32 layers.
///
/// # Errors
/// [`Error::InvalidOption`] for no rounds, and unless the rate is above 0 and finite.
#[doc(alias("PC-ALM", "augmented Lagrangian"))]
pub fn pc_alm<T: Scalar>(
    rounds: u64,
    rate: f64,
    rule: impl Optimizer<T> + 'static,
) -> Result<Phase<T>, Error> {
    let step = SynchronousDescent::new(1, StepSize::Fixed(rate))?;
    Ok(Phase::new(PcAlm::new(rounds, step, 1.0)?, rule))
}

/// Inference learning with backprop's gradients: see [`ZIl`]. Song, Lukasiewicz, Xu & Bogacz 2020.
#[doc(alias = "Z-IL")]
pub fn z_il<T: Scalar>(rule: impl Optimizer<T> + 'static) -> Phase<T> {
    Phase::new(ZIl, rule)
}

/// Predictive coding under the fixed-prediction assumption: see [`FixedPrediction`]. Millidge,
/// Tschantz & Buckley 2022.
pub fn fixed_prediction<T: Scalar>(rule: impl Optimizer<T> + 'static) -> Phase<T> {
    Phase::new(FixedPrediction::new(), rule)
}
