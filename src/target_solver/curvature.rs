//! Bounds of the curvature of E in z.

use crate::circuit::Circuit;
use crate::error::Error;
use crate::kernel::Scalar;

/// Bounds of the blocks of E's Gauss-Newton matrix in z, for squared or other L_h of bounded
/// curvature c_t:
///
/// diagonal block of z_t: μ_t c_t + μ_{t+1} c_{t+1} ‖J_t‖² + λ₂ of S (μ_T = 1 with L);
/// coupling of z_t and z_{t+1}: μ_{t+1} c_{t+1} ‖J_t‖.
#[derive(Debug, Clone)]
pub(crate) struct Curvature<T> {
    /// Diagonal bounds of z_1, …, z_{T−1}.
    pub(crate) blocks: Vec<T>,
    /// Couplings of (z_1, z_2), …, (z_{T−2}, z_{T−1}).
    pub(crate) couplings: Vec<T>,
    /// What the bounds were computed for.
    penalties: Vec<T>,
    dims: Vec<usize>,
    work: Vec<T>,
    /// The bounds are computed in every so many calls of `refresh`.
    every: u64,
    calls: u64,
}

impl<T: Scalar> Curvature<T> {
    /// Bounds that are computed anew in every 10th call.
    pub(crate) fn new() -> Self {
        Self {
            blocks: Vec::new(),
            couplings: Vec::new(),
            penalties: Vec::new(),
            dims: Vec::new(),
            work: Vec::new(),
            every: 10,
            calls: 0,
        }
    }

    pub(crate) fn with_every(mut self, option: &'static str, calls: u64) -> Result<Self, Error> {
        if calls == 0 {
            return Err(Error::InvalidOption {
                option,
                value: 0.0,
                allowed: "at least 1",
            });
        }
        self.every = calls;
        Ok(self)
    }

    /// Forgets the bounds.
    pub(crate) fn reset(&mut self) {
        self.calls = 0;
    }

    /// Brings the bounds up to date: in every so many calls, and whenever μ or the widths changed.
    pub(crate) fn refresh(&mut self, circuit: &Circuit<T>) -> Result<(), Error> {
        let stale = self.calls.is_multiple_of(self.every);
        let other = self.penalties != circuit.penalties() || self.dims != circuit.dims();
        if stale || other {
            self.calls = 0;
            self.compute(circuit)?;
        }
        self.calls += 1;
        Ok(())
    }

    fn compute(&mut self, circuit: &Circuit<T>) -> Result<(), Error> {
        self.blocks.clear();
        self.couplings.clear();
        self.penalties.clear();
        self.penalties.extend_from_slice(circuit.penalties());
        self.dims.clear();
        self.dims.extend_from_slice(circuit.dims());
        let longest = circuit.layers().map(|layer| layer.scratch(1).bound).max();
        self.work.resize(longest.unwrap_or(0), T::zero());
        let missing = |of, layer| Error::NoCurvatureBound { of, layer };
        let loss_bound = |t: usize| {
            let bound = circuit.loss(t).curvature_bound(circuit.loss_parameters(t));
            Ok(circuit.weight(t) * bound.ok_or(missing("the loss", t))?)
        };
        for t in 1..circuit.depth() {
            let layer = circuit.layer(t);
            let own = &mut self.work[..layer.scratch(1).bound];
            let jacobian = layer
                .curvature_bound(circuit.layer_parameters(t), own)
                .ok_or(missing("the layer", t))?;
            let (below, above) = (loss_bound(t - 1)?, loss_bound(t)?);
            self.blocks
                .push(below + above * jacobian + circuit.target_regularizers()[t - 1].curvature());
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
