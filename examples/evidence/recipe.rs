//! The recipe: one setting for every activation, depth and initial scale.
//!
//! 1. Initial targets: a chain of random orthogonal projections of the input, scaled to half the
//!    width of each layer's range.
//! 2. One pass of W-steps with these targets fixed: every hidden layer in closed form, the last one
//!    by Adam. All layers are independent, and the initial hidden weights no longer matter.
//! 3. Targets refreshed by a forward pass on every visit, two reverse sweeps with margin 1.9, one
//!    step of Adam.
//! 4. Optionally, a short finish by backprop.

use layerwise::decoupled::{Projection, TargetInit};
use layerwise::nalgebra::DMatrix;
use layerwise::optimizer::{Adam, Optimizer};
use layerwise::parameter_solver::LeastSquares;
use layerwise::schedule::Schedule;
use layerwise::target_solver::{ReverseSweep, StepSize};
use layerwise::training::{Backprop, Decoupling, Phase, WStep};
use layerwise::{Circuit, Error};
use serde::Serialize;

/// Examples per visit, unless a scheme visits all at once.
pub const BATCH: usize = 128;

/// Spread of projected targets, as a fraction of each layer's range.
pub const SPREAD: f64 = 0.5;

/// Weight of the closed form's ridge, which is almost negligible.
pub const RIDGE: f64 = 1e-6;

/// Number of warm-up visits, in which the learning rate rises.
const WARM_UP: u64 = 24;

/// Epochs of the recipe's phases.
#[derive(Clone, Copy, PartialEq, Serialize)]
pub struct Recipe {
    /// Every layer on its own, with fixed targets; parallel over the layers.
    pub fit: u64,
    /// Refreshed targets, reverse sweeps.
    pub alternate: u64,
    /// Backprop.
    pub finish: u64,
}

impl Recipe {
    const FULL: Self = Self {
        fit: 1,
        alternate: 50,
        finish: 15,
    };
    const QUICK: Self = Self {
        fit: 1,
        alternate: 10,
        finish: 1,
    };

    /// The lengths for a study; short in a quick run.
    pub fn of(quick: bool) -> Self {
        if quick { Self::QUICK } else { Self::FULL }
    }

    /// The same total length without a finish.
    pub fn unfinished(self) -> Self {
        Self {
            alternate: self.alternate + self.finish,
            finish: 0,
            ..self
        }
    }

    /// Epochs of all phases.
    pub fn epochs(self) -> u64 {
        self.fit + self.alternate + self.finish
    }

    /// The phases before the finish.
    pub fn decoupled(self) -> Result<Vec<Phase<f32>>, Error> {
        Ok(vec![
            closed_form(self.fit, RIDGE)?,
            alternate(self.alternate)?,
        ])
    }

    /// The recipe with Adam's W-steps in place of the closed form: ten times as many, which are
    /// taken from the steps of the next phase.
    pub fn by_gradients(self) -> Result<Vec<Phase<f32>>, Error> {
        let fit = Phase::new(Decoupling::weights_only(), Adam::new(1e-2)?);
        let fit = fit.with_epochs(10 * self.fit).with_batch_size(BATCH)?;
        Ok(vec![fit, alternate(self.alternate - 9 * self.fit)?])
    }

    pub fn finish(self) -> Result<Phase<f32>, Error> {
        warmed(Phase::new(Backprop, Adam::new(2e-3)?), self.finish)
    }
}

/// A learning-rate schedule with warm-up that ends at 5 %.
fn warmed(phase: Phase<f32>, epochs: u64) -> Result<Phase<f32>, Error> {
    Ok(phase
        .with_epochs(epochs)
        .with_batch_size(BATCH)?
        .with_schedule(Schedule::cosine(0.05)?.with_warm_up(WARM_UP)))
}

fn alternate(epochs: u64) -> Result<Phase<f32>, Error> {
    let phase = Phase::new(Decoupling::refreshed(sweeps(2)?), Adam::new(5e-3)?);
    warmed(phase, epochs)
}

/// The backprop baseline: constant batch size, cosine schedule down to 5 %.
pub fn backprop(rule: impl Optimizer<f32> + 'static, epochs: u64) -> Result<Phase<f32>, Error> {
    Ok(Phase::new(Backprop, rule)
        .with_epochs(epochs)
        .with_batch_size(BATCH)?
        .with_schedule(Schedule::cosine(0.05)?))
}

/// Reverse sweeps with steps close to the stability limit; the signal of shorter steps fades with
/// depth.
pub fn sweeps(number: u64) -> Result<ReverseSweep, Error> {
    ReverseSweep::new(number).with_step(StepSize::Bounded { margin: 1.9 })
}

/// The projected targets of the recipe.
pub fn projected(
    circuit: &Circuit<f32>,
    inputs: &DMatrix<f32>,
    seed: u64,
) -> Result<TargetInit<f32>, Error> {
    let projection = Projection::fit(circuit, inputs, seed)?.with_spread(SPREAD)?;
    Ok(TargetInit::Given(projection.apply(inputs)?))
}

/// Every hidden layer in closed form with its targets fixed, from the sums of all batches so far;
/// the last one, whose softmax loss has no closed form, by Adam. The initial hidden weights do not
/// matter.
pub fn closed_form(epochs: u64, ridge: f64) -> Result<Phase<f32>, Error> {
    let solver = LeastSquares::ridge(ridge)?.with_forgetting_factor(1.0)?;
    let w_step = WStep::solver(solver).with_optimizer(Adam::new(5e-2)?);
    Phase::with_w_step(Decoupling::weights_only(), w_step)?
        .with_epochs(epochs)
        .with_batch_size(BATCH)
}
