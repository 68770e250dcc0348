//! Approximate inverses of Gauss-Newton's matrix.

use super::System;
use super::operator::point;
use crate::Write;
use crate::kernel::add_to;
use crate::target_solver::TargetProblem;
use crate::target_solver::problem::view;
use crate::{Scalar, circuit::Circuit};

/// What the conjugate gradients go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Preconditioner {
    /// Each layer's block divided by the bound of its diagonal block plus λ, where layers and losses
    /// give bounds.
    Blocks,
    /// (Aᵀ D A)⁻¹, the hidden terms of H: A x = (x_{t+1} − J_t x_t), D_t = μ_t times the bound of L_h's
    /// curvature, plus λ.
    Chain,
}

impl Preconditioner {
    /// D_1, …, D_{T−1} or the bounds of the blocks, without λ: above 0 and finite.
    pub(super) fn diagonal<T: Scalar>(
        self,
        circuit: &Circuit<T>,
        blocks: &[T],
        diagonal: &mut Vec<T>,
    ) {
        diagonal.clear();
        match self {
            // Any positive numbers will do; without bounds the identity.
            Self::Blocks if blocks.is_empty() => diagonal.resize(circuit.depth() - 1, T::one()),
            Self::Blocks => diagonal.extend_from_slice(blocks),
            Self::Chain => diagonal.extend((0..circuit.depth() - 1).map(|t| {
                let bound = circuit.loss(t).curvature_bound(circuit.loss_parameters(t));
                let regularizer = circuit.target_regularizers()[t].curvature();
                circuit.weight(t) * bound.unwrap_or(T::one()) + regularizer
            })),
        }
        for own in diagonal {
            if !(own.is_finite() && *own > T::zero()) {
                *own = T::one();
            }
        }
    }

    /// y ← M⁻¹ r of every example, r the right sides of `system`.
    pub(super) fn apply<T: Scalar>(
        self,
        problem: &mut TargetProblem<'_, '_, T>,
        system: &System<T>,
        diagonal: &[T],
        tangent: &mut Vec<T>,
        y: &mut [Vec<T>],
    ) {
        for (y, right) in y.iter_mut().zip(&system.right) {
            y.copy_from_slice(right);
        }
        let circuit = problem.circuit;
        let batch = view(problem.batch, problem.multipliers);
        let locals = &mut problem.workspace.locals;
        let last = y.len();
        if self == Self::Chain {
            for t in (1..last).rev() {
                let (at, work) = point(circuit, batch, t, &mut locals[t]);
                let (own, above) = y.split_at_mut(t);
                let own = Write::Add(&mut own[t - 1]);
                circuit.layer(t).vjp(&at, &above[0], own, Write::Skip, work);
            }
        }
        for ((y, &diagonal), &dim) in y.iter_mut().zip(diagonal).zip(&system.dims) {
            for (y, &damping) in y.chunks_exact_mut(dim).zip(&system.damping) {
                let inverse = (diagonal + damping).recip();
                for y in y {
                    *y *= inverse;
                }
            }
        }
        if self == Self::Chain {
            for t in 1..last {
                let (at, work) = point(circuit, batch, t, &mut locals[t]);
                let (own, above) = y.split_at_mut(t);
                tangent.resize(above[0].len(), T::zero());
                let own = Some(&own[t - 1][..]);
                circuit.layer(t).jvp(&at, own, None, tangent, work);
                add_to(&mut above[0], tangent);
            }
        }
    }
}
