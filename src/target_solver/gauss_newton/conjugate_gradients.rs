//! Matrix-free conjugate gradients on the systems of all examples at once.

use super::linear_solver::ConjugateGradients;
use super::preconditioner::Preconditioner;
use super::run::{Product, Run, Shared};
use super::{System, fit};
use crate::energy::{Layers, Problem, default_fields};
use crate::error::Error;
use crate::kernel::columns::{self, lessen_and_copy, lessen_and_square, move_and_turn};
use crate::kernel::{Columns, Scalar, add_to};
use crate::state::State;
use crate::target_solver::TargetProblem;
use crate::target_solver::curvature::{self, Missing};

/// The memory of [`ConjugateGradients`].
///
/// An iteration processes all columns of a layer at once, and avoids reading any array twice.
#[derive(Debug)]
pub(super) struct Iterations<T> {
    /// The directions p_1, …, p_{T−1}.
    directions: Vec<Vec<T>>,
    /// By t.
    products: Vec<Product<T>>,
    runs: Vec<Run<T>>,
    /// The preconditioner's scalar for each hidden layer.
    diagonal: Vec<T>,
    /// M⁻¹ r, unless it is a multiple of r.
    preconditioned: Vec<Vec<T>>,
    /// J_t M⁻¹ r and J_t p_t by t, for the layers between hidden ones, if the preconditioner computes them.
    preconditioned_tangents: Vec<Vec<T>>,
    tangents: Vec<Vec<T>>,
    /// Each layer's part of every example's sum; the first T − 1 are also those of the hidden ones.
    parts: Vec<Vec<T>>,
    sums: Vec<T>,
    examples: Vec<Example<T>>,
    /// How far each example goes along its direction; `None` if it does not move.
    lengths: Vec<Option<T>>,
    /// How much of the last direction the next one keeps; `None` if the example's iterations have
    /// ended.
    turns: Vec<Option<T>>,
}

/// Number of calls that share the same bounds.
const BOUND_EVERY: u64 = 10;

/// One example's numbers.
#[derive(Debug, Clone, Copy)]
struct Example<T> {
    /// r·M⁻¹r now, and at the start.
    square: T,
    first: T,
    /// Whether its iterations continue.
    active: bool,
}

default_fields!(Iterations: directions products runs diagonal preconditioned preconditioned_tangents
    tangents parts sums examples lengths turns);

impl<T: Scalar> Iterations<T> {
    /// Updates the preconditioner; `bounds` is the state of its bounds.
    pub(super) fn prepare(
        &mut self,
        options: ConjugateGradients,
        bounds: &mut State<T>,
        layers: Layers<'_, T>,
        n: usize,
    ) -> Result<(), Error> {
        let hidden = layers.depth() - 1;
        let bounded = options.preconditioner == Preconditioner::Blocks;
        let bounds = match bounded {
            true => curvature::refresh(bounds, BOUND_EVERY, layers, Missing::Counted)?.0,
            false => &[],
        };
        options
            .preconditioner
            .diagonal(layers, bounds, &mut self.diagonal);
        let sizes = layers.dims()[1..=hidden].iter().map(|dim| dim * n);
        fit(&mut self.directions, sizes.clone());
        self.products.resize_with(hidden + 1, Product::default);
        for (own, size) in self.products[1..].iter_mut().zip(sizes.clone()) {
            own.values.resize(size, T::zero());
            own.dots.resize(n, T::zero());
        }
        fit(&mut self.parts, (0..hidden + 1).map(|_| n));
        if bounded {
            self.tangents.clear();
        } else {
            fit(&mut self.preconditioned, sizes.clone());
            // By layer: none of layer 0, whose input is fixed.
            let sizes = sizes.enumerate();
            let sizes = sizes.map(|(t, size)| if t == 0 { 0 } else { size });
            fit(&mut self.preconditioned_tangents, sizes.clone());
            fit(&mut self.tangents, sizes);
        }
        self.sums.resize(n, T::zero());
        self.lengths.resize(n, None);
        self.turns.resize(n, None);
        Ok(())
    }

    /// Solves `system` from δ = 0 and overwrites its right-hand side. Returns the number of products.
    pub(super) fn solve(
        &mut self,
        options: ConjugateGradients,
        problem: &mut TargetProblem<'_, T>,
        system: &mut System<T>,
    ) -> u64 {
        let depth = problem.layers().depth();
        let runs = depth.div_ceil(problem.execution().neighbours(depth));
        self.runs.resize_with(runs, Run::new);
        for run in &mut self.runs {
            let locals = &problem.workspace().locals;
            run.fit(problem.layers(), self.sums.len(), locals);
        }
        // Also of what overflowed in the last solve: 0 · ∞ is NaN.
        let arrays = self.directions.iter_mut().chain(&mut self.tangents);
        for own in arrays.chain(&mut system.step) {
            own.fill(T::zero());
        }
        self.lengths.fill(None);
        self.lessen(options, problem, system);
        self.examples.clear();
        for (i, &square) in self.sums.iter().enumerate() {
            let active = system.wanted[i] && square > T::zero() && square.is_finite();
            self.examples.push(Example {
                square,
                first: square,
                active,
            });
            if system.wanted[i] && !square.is_finite() {
                // No step at all: one of length 0 would count as a success.
                system.spoil(i);
            }
            // p ← M⁻¹ r.
            self.lengths[i] = active.then_some(T::zero());
            self.turns[i] = self.lengths[i];
        }
        self.turn(options, problem, system);
        for iteration in 1..=options.iterations {
            if self.examples.iter().all(|example| !example.active) {
                return iteration - 1;
            }
            // Of the last product only p·(H + λ I) p is needed.
            match iteration == options.iterations {
                true => self.curvatures(problem, system),
                false => self.multiply(problem, system),
            }
            let products = self.examples.iter().zip(&self.sums).enumerate();
            for (i, _) in products.filter(|(_, (own, dot))| own.active && !dot.is_finite()) {
                system.spoil(i);
            }
            self.choose_lengths();
            if iteration == options.iterations {
                self.turns.fill(None);
            } else {
                self.lessen(options, problem, system);
                self.choose_turns(options);
            }
            self.turn(options, problem, system);
        }
        options.iterations
    }

    /// (H + λ I) p for the directions p, without example weights, and p·(H + λ I) p.
    fn multiply(&mut self, problem: &mut TargetProblem<'_, T>, system: &System<T>) {
        let execution = problem.execution();
        let (Problem { layers, batch, .. }, workspace) = problem.split();
        let shared = Shared {
            layers,
            batch,
            directions: &self.directions,
            tangents: &self.tangents,
            damping: &system.damping,
        };
        let size = execution.neighbours(layers.depth());
        let count = self.runs.len();
        let locals = Columns::new(&mut workspace.locals, size);
        let products = Columns::new(&mut self.products, size);
        let data = (locals, products, &mut self.runs[..]);
        execution.for_each_item(count, data, |i, (locals, products, run)| {
            let (products, locals) = (products.values, locals.values);
            run[0].multiply(i * size, products, locals, shared);
        });
        let runs = &self.runs;
        execution.for_each_chunk(&mut self.products, size, |i, products| {
            if i > 0 {
                runs[i - 1].complete(i * size, &mut products[0], shared);
            }
        });
        let dots = self.products[1..].iter().map(|own| &own.dots);
        sum_up(&mut self.sums, dots);
    }

    /// p·(H + λ I) p for the directions p, without example weights.
    fn curvatures(&mut self, problem: &mut TargetProblem<'_, T>, system: &System<T>) {
        let execution = problem.execution();
        let (Problem { layers, batch, .. }, workspace) = problem.split();
        let shared = Shared {
            layers,
            batch,
            directions: &self.directions,
            tangents: &self.tangents,
            damping: &system.damping,
        };
        let size = execution.neighbours(layers.depth());
        let count = self.runs.len();
        let locals = Columns::new(&mut workspace.locals, size);
        let parts = Columns::new(&mut self.parts, size);
        let data = (locals, parts, &mut self.runs[..]);
        execution.for_each_item(count, data, |i, (locals, parts, run)| {
            run[0].curvatures(i * size, parts.values, locals.values, shared);
        });
        sum_up(&mut self.sums, self.parts.iter());
    }

    /// r ← r − α (H + λ I) p, and r·M⁻¹r.
    fn lessen(
        &mut self,
        options: ConjugateGradients,
        problem: &mut TargetProblem<'_, T>,
        system: &mut System<T>,
    ) {
        let execution = problem.execution();
        let (lengths, products) = (&self.lengths, &self.products[1..]);
        let hidden = products.len();
        match options.preconditioner {
            Preconditioner::Blocks => {
                let (diagonal, damping) = (&self.diagonal, &system.damping);
                let parts = &mut self.parts[..hidden];
                execution.for_each_pair(&mut system.right, parts, |h, right, squares| {
                    lessen_and_square(right, lengths, &products[h].values, squares);
                    for (square, &damping) in squares.iter_mut().zip(damping) {
                        *square *= (diagonal[h] + damping).recip();
                    }
                });
            }
            Preconditioner::Chain => {
                let y = &mut self.preconditioned;
                execution.for_each_pair(&mut system.right, y, |h, right, y| {
                    lessen_and_copy(right, lengths, &products[h].values, y);
                });
                let (diagonal, y) = (&self.diagonal, &mut self.preconditioned);
                let tangents = &mut self.preconditioned_tangents;
                let parts = &mut self.parts[..hidden];
                Preconditioner::chain(problem, system, diagonal, tangents, y, parts);
            }
        }
        sum_up(&mut self.sums, self.parts[..hidden].iter());
    }

    /// α = r·M⁻¹r / p·(H + λ I) p.
    fn choose_lengths(&mut self) {
        let examples = self.examples.iter_mut().zip(&self.sums);
        for ((example, &curvature), to) in examples.zip(&mut self.lengths) {
            let length = example.square / curvature;
            example.active &= curvature > T::zero() && length.is_finite();
            *to = example.active.then_some(length);
        }
    }

    /// β = new r·M⁻¹r / old, unless the example's iterations have ended.
    fn choose_turns(&mut self, options: ConjugateGradients) {
        // Below rounding level only the recursive residual still falls, not the true one.
        let tolerance = T::of(options.tolerance).max(T::default_epsilon());
        let examples = self.examples.iter_mut().zip(&self.sums);
        for ((example, &square), to) in examples.zip(&mut self.turns) {
            let turn = square / example.square;
            example.square = square;
            example.active &= square > tolerance * tolerance * example.first && square.is_finite();
            *to = example.active.then_some(turn);
        }
    }

    /// δ ← δ + α p and p ← M⁻¹ r + β p.
    fn turn(
        &mut self,
        options: ConjugateGradients,
        problem: &TargetProblem<'_, T>,
        system: &mut System<T>,
    ) {
        let (lengths, turns) = (&self.lengths[..], &self.turns[..]);
        let (right, damping) = (&system.right, &system.damping);
        let (diagonal, preconditioned) = (&self.diagonal, &self.preconditioned);
        let blocks = options.preconditioner == Preconditioner::Blocks;
        let data = (&mut system.step[..], &mut self.directions[..]);
        let count = right.len();
        let turn = |h: usize, (step, direction): (&mut [Vec<T>], &mut [Vec<T>])| {
            let (step, direction) = ((&mut step[0][..], lengths), (&mut direction[0][..], turns));
            if blocks {
                let inverse = |i: usize| (diagonal[h] + damping[i]).recip();
                move_and_turn(step, direction, &right[h], inverse);
            } else {
                move_and_turn(step, direction, &preconditioned[h], |_| T::one());
            }
        };
        problem.execution().for_each_item(count, data, turn);
        if !blocks {
            // Layer 0 has none.
            let [own, new] = [&mut self.tangents, &mut self.preconditioned_tangents];
            let (own, new) = (&mut own[1..], &mut new[1..]);
            problem
                .execution()
                .for_each_pair(own, new, |_, own, new| columns::turn(own, turns, new));
        }
    }
}

/// Every example's sum over the layers, always in layer order.
fn sum_up<'a, T: Scalar>(sums: &mut [T], parts: impl Iterator<Item = &'a Vec<T>>) {
    sums.fill(T::zero());
    for part in parts {
        add_to(sums, part);
    }
}
