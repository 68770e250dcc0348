//! Approximate inverses of the Gauss-Newton matrix.

use super::System;
use super::operator::point;
use crate::energy::{Layers, Problem};
use crate::kernel::columns::divide_and_add;
use crate::kernel::{Scalar, Write};
use crate::target_solver::TargetProblem;

/// The preconditioner of the conjugate gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) enum Preconditioner {
    /// Each layer's block divided by the bound on its diagonal block plus λ. A layer's missing bound counts
    /// as 0, a loss's as that of the squared error, and other bounds are kept: an example that clamps the
    /// inputs of such a layer needs no bound, and must not depend on examples that do.
    Blocks,
    /// (Aᵀ D A)⁻¹, the hidden terms of H: A x = (x_{t+1} − J_t x_t), D_t = μ_t times the bound of L_h's
    /// curvature, plus λ.
    Chain,
}

impl Preconditioner {
    /// D_1, …, D_{T−1} or the bounds on the blocks, without λ: above 0 and finite.
    pub(super) fn diagonal<T: Scalar>(
        self,
        layers: Layers<'_, T>,
        blocks: &[T],
        diagonal: &mut Vec<T>,
    ) {
        diagonal.clear();
        match self {
            Self::Blocks => diagonal.extend_from_slice(blocks),
            Self::Chain => diagonal.extend((0..layers.depth() - 1).map(|t| {
                let bound = layers.loss(t).curvature_bound(layers.loss_parameters(t));
                let regularizer = layers.target_regularizers()[t].curvature();
                layers.weight(t) * bound.unwrap_or(T::one()) + regularizer
            })),
        }
        // Any positive numbers work.
        for own in diagonal {
            if !(own.is_finite() && *own > T::zero()) {
                *own = T::one();
            }
        }
    }

    /// y ← M⁻¹ y for the chain, and each hidden layer's part of r·y, where r are the right-hand
    /// sides of `system`. Leaves J_t y_t of the layers below hidden ones in `tangents`, whose array of
    /// layer 0 is empty.
    pub(super) fn chain<T: Scalar>(
        problem: &mut TargetProblem<'_, T>,
        system: &System<T>,
        diagonal: &[T],
        tangents: &mut [Vec<T>],
        y: &mut [Vec<T>],
        parts: &mut [Vec<T>],
    ) {
        let (Problem { layers, batch, .. }, workspace) = problem.split();
        let locals = &mut workspace.locals;
        let last = y.len();
        for t in (1..last).rev() {
            let (at, work) = point(layers, batch, t, &mut locals[t]);
            let (own, above) = y.split_at_mut(t);
            let own = Write::Add(&mut own[t - 1]);
            layers.layer(t).vjp(&at, &above[0], own, Write::Skip, work);
        }
        for h in 0..last {
            let pushed = (h > 0).then_some(&tangents[h][..]);
            let (own, damping) = (&mut y[h][..], (diagonal[h], &system.damping[..]));
            divide_and_add(own, damping, pushed, &system.right[h], &mut parts[h]);
            if h + 1 < last {
                let (at, work) = point(layers, batch, h + 1, &mut locals[h + 1]);
                let own = Some(&y[h][..]);
                let tangent = &mut tangents[h + 1];
                layers.layer(h + 1).jvp(&at, own, None, tangent, work);
            }
        }
    }
}
