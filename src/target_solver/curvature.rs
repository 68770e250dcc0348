//! Bounds on the curvature of E in z.

use crate::check::check_length;
use crate::energy::Layers;
use crate::error::Error;
use crate::kernel::Scalar;
use crate::state::State;

/// Bounds on the blocks of E's Gauss-Newton matrix in z, for squared or other L_h of bounded
/// curvature c_t:
///
/// diagonal block of z_t: μ_t c_t + μ_{t+1} c_{t+1} ‖J_t‖² + λ₂ of S (μ_T = 1 with L);
/// coupling of z_t and z_{t+1}: μ_{t+1} c_{t+1} ‖J_t‖.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Curvature<T> {
    /// Diagonal bounds of z_1, …, z_{T−1}.
    pub(crate) blocks: Vec<T>,
    /// Couplings of (z_1, z_2), …, (z_{T−2}, z_{T−1}).
    pub(crate) couplings: Vec<T>,
}

impl<T: Scalar> Curvature<T> {
    /// The bounds at the current θ.
    pub(crate) fn new(layers: Layers<'_, T>) -> Result<Self, Error> {
        let [mut blocks, mut couplings] = [Vec::new(), Vec::new()];
        let arrays = [&mut blocks, &mut couplings];
        compute(layers, Missing::Refused, arrays, &mut Vec::new())?;
        Ok(Self { blocks, couplings })
    }

    /// Bound on λ_max of the whole matrix.
    pub(crate) fn whole(&self) -> T {
        whole(&self.blocks, &self.couplings)
    }
}

/// How a missing bound of a layer or loss is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// It is an error.
    Refused,
    /// A layer's counts as 0, a loss's as that of the squared error: the results are then only estimates.
    Counted,
}

/// Updates the bounds in a state, blocks and couplings: every `every` calls, and whenever μ or the
/// widths changed.
///
/// The state holds, as counts, the widths and the number of calls since the bounds were computed,
/// and, as values, blocks, couplings and μ.
pub(super) fn refresh<'a, T: Scalar>(
    state: &'a mut State<T>,
    every: u64,
    layers: Layers<'_, T>,
    missing: Missing,
) -> Result<(&'a [T], &'a [T]), Error> {
    let (numbers, work) = state.split::<Vec<T>>();
    let (counts, values) = (numbers.counts, numbers.values);
    let known = counts.len() == 1 + layers.dims().len()
        && values.len() == 3
        && values[0].len() + 1 == layers.depth();
    let widths = || layers.dims().iter().map(|&dim| dim as u64);
    let same = known && counts[1..].iter().copied().eq(widths()) && values[2] == layers.penalties();
    if same {
        // A damaged state would be read out of bounds.
        let couplings = values[0].len().saturating_sub(1);
        check_length("the couplings in a state", &values[1], couplings)?;
    }
    if !same || counts[0] % every == 0 {
        counts.clear();
        values.resize_with(3, Vec::new);
        let [blocks, couplings, penalties] = &mut values[..] else {
            unreachable!("three arrays");
        };
        compute(layers, missing, [blocks, couplings], work)?;
        penalties.clear();
        penalties.extend_from_slice(layers.penalties());
        counts.push(0);
        counts.extend(widths());
    }
    counts[0] += 1;
    Ok((&values[0], &values[1]))
}

fn compute<T: Scalar>(
    layers: Layers<'_, T>,
    missing: Missing,
    [blocks, couplings]: [&mut Vec<T>; 2],
    work: &mut Vec<T>,
) -> Result<(), Error> {
    blocks.clear();
    couplings.clear();
    let longest = layers
        .circuit()
        .layers()
        .map(|layer| layer.scratch(1).bound)
        .max();
    work.resize(longest.unwrap_or(0), T::zero());
    let or = |bound: Option<T>, of, layer, counted| match missing {
        Missing::Refused => bound.ok_or(Error::NoCurvatureBound { of, layer }),
        Missing::Counted => Ok(bound.unwrap_or(counted)),
    };
    let loss_bound = |t: usize| -> Result<T, Error> {
        let bound = layers.loss(t).curvature_bound(layers.loss_parameters(t));
        Ok(layers.weight(t) * or(bound, "the loss", t, T::one())?)
    };
    for t in 1..layers.depth() {
        let layer = layers.layer(t);
        let own = &mut work[..layer.scratch(1).bound];
        let jacobian = layer.curvature_bound(layers.layer_parameters(t), own);
        let jacobian = or(jacobian, "the layer", t, T::zero())?;
        let (below, above) = (loss_bound(t - 1)?, loss_bound(t)?);
        blocks.push(below + above * jacobian + layers.target_regularizers()[t - 1].curvature());
        if t + 1 < layers.depth() {
            couplings.push(above * jacobian.sqrt());
        }
    }
    Ok(())
}

/// The bound on z_t's diagonal block, t in 1..T, in which layers without a bound count as 0 and losses
/// as the squared error: what remains is the size of a curvature.
pub(crate) fn size_of_block<T: Scalar>(layers: Layers<'_, T>, t: usize, work: &mut Vec<T>) -> T {
    let layer = layers.layer(t);
    work.resize(layer.scratch(1).bound, T::zero());
    let jacobian = layer.curvature_bound(layers.layer_parameters(t), work);
    let loss = |t: usize| {
        let bound = layers.loss(t).curvature_bound(layers.loss_parameters(t));
        layers.weight(t) * bound.unwrap_or(T::one())
    };
    let above = jacobian.map_or(T::zero(), |jacobian| loss(t) * jacobian);
    loss(t - 1) + above + layers.target_regularizers()[t - 1].curvature()
}

/// Bound on λ_max of the whole matrix: the largest sum of a block row (block Gershgorin).
pub(super) fn whole<T: Scalar>(blocks: &[T], couplings: &[T]) -> T {
    (0..blocks.len()).fold(T::zero(), |top, i| {
        let mut row = blocks[i];
        if i > 0 {
            row += couplings[i - 1];
        }
        if let Some(&next) = couplings.get(i) {
            row += next;
        }
        // A NaN row must not be hidden by the other rows.
        match top.is_finite() && (row > top || !row.is_finite()) {
            true => row,
            false => top,
        }
    })
}
