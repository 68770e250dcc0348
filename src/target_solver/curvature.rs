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
pub(super) fn refresh<'a, T: Scalar>(
    state: &'a mut State<T>,
    every: u64,
    layers: Layers<'_, T>,
    missing: Missing,
) -> Result<(&'a [T], &'a [T]), Error> {
    let couplings = layers.depth().saturating_sub(2);
    let kept = ("the couplings in a state", couplings);
    refresh_with(state, every, layers, kept, |bounds, work| {
        compute(layers, missing, bounds, work)
    })
}

/// Updates the bounds in the errors c_t = z_t − ẑ_t: on ‖∂ẑ_{t+1}/∂c‖² by layer, and on λ_max.
pub(super) fn refresh_in_errors<T: Scalar>(
    state: &mut State<T>,
    every: u64,
    layers: Layers<'_, T>,
) -> Result<(), Error> {
    let kept = ("the bound in a state", 1);
    let compute = |[spreads, whole]: [&mut Vec<T>; 2], work: &mut Vec<T>| {
        whole.clear();
        whole.push(compute_in_errors(layers, spreads, work)?);
        Ok(())
    };
    refresh_with(state, every, layers, kept, compute).map(drop)
}

/// The state holds, as counts, the widths and the number of calls since the bounds were computed,
/// and, as values, two arrays of bounds and μ. The first has a number for each hidden layer, the second as
/// many as `kept` says.
fn refresh_with<'a, T: Scalar>(
    state: &'a mut State<T>,
    every: u64,
    layers: Layers<'_, T>,
    (what, length): (&str, usize),
    compute: impl FnOnce([&mut Vec<T>; 2], &mut Vec<T>) -> Result<(), Error>,
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
        check_length(what, &values[1], length)?;
    }
    if !same || counts[0] % every == 0 {
        counts.clear();
        values.resize_with(3, Vec::new);
        let [first, second, penalties] = &mut values[..] else {
            unreachable!("three arrays");
        };
        compute([first, second], work)?;
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
    make_room(layers, work);
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

/// Memory for the bounds of all layers.
fn make_room<T: Scalar>(layers: Layers<'_, T>, work: &mut Vec<T>) {
    let longest = layers
        .circuit()
        .layers()
        .map(|layer| layer.scratch(1).bound)
        .max();
    work.resize(longest.unwrap_or(0), T::zero());
}

/// The bound on λ_max of E's Gauss-Newton matrix in the errors c_t = z_t − ẑ_t, for hidden losses of
/// z − ẑ. With P_ts = ∂z_t/∂c_s = J_{t−1} ⋯ J_s, it is
///
/// max_t μ_t a_t + Σ_t λ₂ of S_t Σ_{s≤t} ‖P_ts‖² + a_T Σ_s ‖J_{T−1} P_{T−1,s}‖²,
///
/// with a_t the bound on the loss's curvature.
///
/// `spreads` become the bounds on Σ_{s≤t} ‖J_t P_ts‖² by hidden layer t.
fn compute_in_errors<T: Scalar>(
    layers: Layers<'_, T>,
    spreads: &mut Vec<T>,
    work: &mut Vec<T>,
) -> Result<T, Error> {
    spreads.clear();
    make_room(layers, work);
    let loss = |t: usize| -> Result<T, Error> {
        let of = "the loss";
        let bound = layers.loss(t).curvature_bound(layers.loss_parameters(t));
        Ok(layers.weight(t) * bound.ok_or(Error::NoCurvatureBound { of, layer: t })?)
    };
    let (mut largest, mut sum, mut spread) = (T::zero(), T::zero(), T::zero());
    for t in 1..layers.depth() {
        let (of, layer) = ("the layer", layers.layer(t));
        let own = &mut work[..layer.scratch(1).bound];
        let jacobian = layer.curvature_bound(layers.layer_parameters(t), own);
        let jacobian = jacobian.ok_or(Error::NoCurvatureBound { of, layer: t })?;
        largest = larger_or_odd(largest, loss(t - 1)?);
        let below = spread + T::one();
        sum += layers.target_regularizers()[t - 1].curvature::<T>() * below;
        spread = jacobian * below;
        spreads.push(spread);
    }
    Ok(largest + sum + loss(layers.depth() - 1)? * spread)
}

/// The larger of two numbers, or the first that is not finite.
fn larger_or_odd<T: Scalar>(a: T, b: T) -> T {
    match a.is_finite() && (b > a || !b.is_finite()) {
        true => b,
        false => a,
    }
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
        larger_or_odd(top, row)
    })
}
