//! Steps that the curvature of E bounds.

use crate::circuit::{Circuit, Workspace};
use crate::{Error, Scalar};

/// Length of a gradient step on z.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum StepSize {
    /// The same step for every layer, above 0. Gradient steps are stable only below 2/λ_max.
    Fixed(f64),
    /// `margin` divided by a bound of the Gauss-Newton curvature, `margin` in (0, 2): stable on
    /// the Gauss-Newton model below 2, and without overshoot up to 1.
    Bounded {
        /// Share of the step 1/bound.
        margin: f64,
    },
}

impl StepSize {
    pub(crate) fn validate(self) -> Result<Self, Error> {
        let (option, value, allowed, valid) = match self {
            Self::Fixed(step) => (
                "StepSize::Fixed",
                step,
                "above 0 and finite",
                step > 0.0 && step.is_finite(),
            ),
            Self::Bounded { margin } => (
                "StepSize::Bounded::margin",
                margin,
                "above 0 and below 2",
                margin > 0.0 && margin < 2.0,
            ),
        };
        if valid {
            return Ok(self);
        }
        Err(Error::InvalidOption {
            option,
            value,
            allowed,
        })
    }
}

/// Bounds of the blocks of E's Gauss-Newton matrix in z, for squared or other L_h of bounded
/// curvature c_t:
///
/// diagonal block of z_t: μ_t c_t + μ_{t+1} c_{t+1} ‖J_t‖² (μ_T = 1 with L);
/// coupling of z_t and z_{t+1}: μ_{t+1} c_{t+1} ‖J_t‖.
#[derive(Debug, Clone)]
pub(crate) struct Curvature<T> {
    /// Diagonal bounds of z_1, …, z_{T−1}.
    pub(crate) blocks: Vec<T>,
    /// Couplings of (z_1, z_2), …, (z_{T−2}, z_{T−1}).
    couplings: Vec<T>,
}

impl<T: Scalar> Curvature<T> {
    /// Before the first update.
    pub(crate) fn new() -> Self {
        Self {
            blocks: Vec::new(),
            couplings: Vec::new(),
        }
    }

    /// Computes the bounds at the circuit's parameters.
    pub(crate) fn update(
        &mut self,
        circuit: &Circuit<T>,
        workspace: &mut Workspace<T>,
    ) -> Result<(), Error> {
        self.blocks.clear();
        self.couplings.clear();
        workspace.fit(circuit);
        let missing = |of, layer| Error::NoCurvatureBound { of, layer };
        let loss_bound = |t: usize| {
            let bound = circuit.loss(t).curvature_bound();
            Ok(circuit.weight(t) * bound.ok_or(missing("the loss", t))?)
        };
        for t in 1..circuit.depth() {
            let layer = circuit.layer(t);
            let own = &mut workspace.bound[..layer.bound_scratch()];
            let jacobian = layer
                .curvature_bound(circuit.parameters(t), own)
                .ok_or(missing("the layer", t))?;
            let (below, above) = (loss_bound(t - 1)?, loss_bound(t)?);
            self.blocks.push(below + above * jacobian);
            if t + 1 < circuit.depth() {
                self.couplings.push(above * jacobian.sqrt());
            }
        }
        Ok(())
    }

    /// Bound of λ_max of the whole matrix: the largest sum of a block row (block Gershgorin).
    pub(crate) fn whole(&self) -> T {
        (0..self.blocks.len()).fold(T::zero(), |top, i| {
            let mut row = self.blocks[i];
            if i > 0 {
                row += self.couplings[i - 1];
            }
            if let Some(&next) = self.couplings.get(i) {
                row += next;
            }
            if row > top { row } else { top }
        })
    }
}
