//! The recipe: one setting for every activation, depth and initial scale.
//!
//! 1. Targets: a chain of random orthogonal projections of the input, half as wide as each layer's range.
//! 2. One pass of W-steps on them as they are: every hidden layer in closed form, the last by Adam. All
//!    layers at once; what the hidden weights were does not matter any more.
//! 3. Targets refreshed by a forward pass on every visit, two reverse sweeps at margin 1.9, one step of
//!    Adam.
//! 4. If wanted, a short finish by backprop.

use layerwise::decoupled::{Projection, TargetInit};
use layerwise::nalgebra::DMatrix;
use layerwise::optimizer::{Adam, Optimizer};
use layerwise::parameter_solver::LeastSquares;
use layerwise::schedule::Schedule;
use layerwise::target_solver::{ReverseSweep, StepSize};
use layerwise::training::{Backprop, Decoupling, Phase, WStep};
use layerwise::{Circuit, Error};
use serde::Serialize;

/// Examples a visit, unless a scheme visits all.
pub const BATCH: usize = 128;

/// Spread of projected targets, in shares of each layer's range.
pub const SPREAD: f64 = 0.5;

/// Weight of the closed form's ridge: next to nothing.
pub const RIDGE: f64 = 1e-6;

/// Visits in which the learning rate rises.
const WARM_UP: u64 = 24;

/// Epochs of its phases.
#[derive(Clone, Copy, PartialEq, Serialize)]
pub struct Recipe {
    /// Every layer by itself on its targets as they are, which is parallel over the layers.
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

    /// That of a study: short for a look.
    pub fn of(quick: bool) -> Self {
        if quick { Self::QUICK } else { Self::FULL }
    }

    /// The same length without a finish.
    pub fn unfinished(self) -> Self {
        Self {
            alternate: self.alternate + self.finish,
            finish: 0,
            ..self
        }
    }

    /// Of all phases.
    pub fn epochs(self) -> u64 {
        self.fit + self.alternate + self.finish
    }

    /// The phases without the finish.
    pub fn decoupled(self) -> Result<Vec<Phase<f32>>, Error> {
        Ok(vec![
            closed_form(self.fit, RIDGE)?,
            alternate(self.alternate)?,
        ])
    }

    /// The same with Adam's W-steps in place of the closed form: ten times as many, at the cost of as
    /// many steps of the next phase.
    pub fn by_gradients(self) -> Result<Vec<Phase<f32>>, Error> {
        let fit = Phase::new(Decoupling::weights_only(), Adam::new(1e-2)?);
        let fit = fit.with_epochs(10 * self.fit).with_batch_size(BATCH)?;
        Ok(vec![fit, alternate(self.alternate - 9 * self.fit)?])
    }

    pub fn finish(self) -> Result<Phase<f32>, Error> {
        warmed(Phase::new(Backprop, Adam::new(2e-3)?), self.finish)
    }
}

/// A rate that rises at first and ends at 5 %.
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

/// Backprop beside it: constant batches, a cosine down to 5 %.
pub fn backprop(rule: impl Optimizer<f32> + 'static, epochs: u64) -> Result<Phase<f32>, Error> {
    Ok(Phase::new(Backprop, rule)
        .with_epochs(epochs)
        .with_batch_size(BATCH)?
        .with_schedule(Schedule::cosine(0.05)?))
}

/// Reverse sweeps whose steps are as long as they may be: shorter ones fade with depth.
pub fn sweeps(number: u64) -> Result<ReverseSweep, Error> {
    ReverseSweep::new(number).with_step(StepSize::Bounded { margin: 1.9 })
}

/// Projected targets of the recipe.
pub fn projected(
    circuit: &Circuit<f32>,
    inputs: &DMatrix<f32>,
    seed: u64,
) -> Result<TargetInit<f32>, Error> {
    let projection = Projection::fit(circuit, inputs, seed)?.with_spread(SPREAD)?;
    Ok(TargetInit::Given(projection.apply(inputs)?))
}

/// Every hidden layer in closed form on its targets as they are, from the sums of all batches so far;
/// the last one, whose softmax has no closed form, by Adam. The hidden layers forget where they began.
pub fn closed_form(epochs: u64, ridge: f64) -> Result<Phase<f32>, Error> {
    let solver = LeastSquares::ridge(ridge)?.with_forgetting(1.0)?;
    let w_step = WStep::solver(solver).with_optimizer(Adam::new(5e-2)?);
    Phase::with_w_step(Decoupling::weights_only(), w_step)?
        .with_epochs(epochs)
        .with_batch_size(BATCH)
}
