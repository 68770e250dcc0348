//! Conjugate gradients on every example's system at once, without a matrix.

use super::System;
use super::operator::Link;
use super::preconditioner::Preconditioner;
use crate::kernel::{add_scaled, add_to, dot, scale};
use crate::target_solver::TargetProblem;
use crate::target_solver::curvature::Curvature;
use crate::target_solver::problem::view;
use crate::{Error, Scalar};

/// At most m iterations of preconditioned conjugate gradients, with every scalar an example's own.
#[derive(Debug, Clone)]
pub(super) struct ConjugateGradients<T> {
    pub(super) iterations: u64,
    pub(super) tolerance: f64,
    pub(super) preconditioner: Preconditioner,
    bounds: Curvature<T>,
    /// Of each hidden layer the direction p_t and H p_t.
    vectors: Vec<Vectors<T>>,
    links: Vec<Link<T>>,
    /// The preconditioner's number of each hidden layer.
    diagonal: Vec<T>,
    tangent: Vec<T>,
    /// M⁻¹ r.
    preconditioned: Vec<Vec<T>>,
    examples: Vec<Example<T>>,
}

#[derive(Debug, Clone)]
struct Vectors<T> {
    direction: Vec<T>,
    product: Vec<T>,
}

/// One example's numbers.
#[derive(Debug, Clone, Copy)]
struct Example<T> {
    /// r·M⁻¹r now, and at the start.
    square: T,
    first: T,
    /// Whether its iterations go on.
    active: bool,
}

impl<T: Scalar> ConjugateGradients<T> {
    pub(super) fn new(iterations: u64) -> Self {
        Self {
            iterations,
            tolerance: 1e-10,
            preconditioner: Preconditioner::Blocks,
            bounds: Curvature::new(),
            vectors: Vec::new(),
            links: Vec::new(),
            diagonal: Vec::new(),
            tangent: Vec::new(),
            preconditioned: Vec::new(),
            examples: Vec::new(),
        }
    }

    pub(super) fn reset(&mut self) {
        self.bounds.reset();
    }

    /// Brings the preconditioner up to date.
    pub(super) fn prepare(&mut self, problem: &TargetProblem<'_, '_, T>) -> Result<(), Error> {
        let (circuit, n) = (problem.circuit, problem.batch.ids.len());
        let hidden = circuit.depth() - 1;
        let bounded = self.preconditioner == Preconditioner::Blocks;
        let bounds = match bounded.then(|| self.bounds.refresh(circuit)) {
            Some(Ok(())) => &self.bounds.blocks[..],
            None | Some(Err(Error::NoCurvatureBound { .. })) => &[],
            Some(Err(other)) => return Err(other),
        };
        self.preconditioner
            .diagonal(circuit, bounds, &mut self.diagonal);
        self.preconditioned.resize_with(hidden, Vec::new);
        for (own, &dim) in self.preconditioned.iter_mut().zip(&circuit.dims()[1..]) {
            own.resize(dim * n, T::zero());
        }
        let empty = || Vectors {
            direction: Vec::new(),
            product: Vec::new(),
        };
        self.vectors.resize_with(hidden, empty);
        for (own, &dim) in self.vectors.iter_mut().zip(&circuit.dims()[1..]) {
            own.direction.resize(dim * n, T::zero());
            own.product.resize(dim * n, T::zero());
        }
        self.links.resize_with(hidden + 1, Link::new);
        for (t, link) in self.links.iter_mut().enumerate() {
            link.fit(circuit, t, n);
        }
        Ok(())
    }

    /// Solves `system` from δ = 0, leaving the residual in its right side; gives the products made.
    pub(super) fn solve(
        &mut self,
        problem: &mut TargetProblem<'_, '_, T>,
        system: &mut System<T>,
    ) -> u64 {
        for own in &mut self.vectors {
            own.direction.fill(T::zero());
        }
        for step in &mut system.step {
            step.fill(T::zero());
        }
        self.precondition(problem, system);
        self.examples.clear();
        for i in 0..system.wanted.len() {
            let square = self.residual_square(i, system);
            self.examples.push(Example {
                square,
                first: square,
                active: system.wanted[i] && square > T::zero() && square.is_finite(),
            });
            if system.wanted[i] && !square.is_finite() {
                // No step, rather than one of length 0 that would pass for a good one.
                system.spoil(i);
            }
            self.turn(i, T::zero(), system);
        }
        for iteration in 0..self.iterations {
            if self.examples.iter().all(|example| !example.active) {
                return iteration;
            }
            self.multiply(problem);
            for i in 0..self.examples.len() {
                if self.examples[i].active {
                    self.advance(i, system);
                }
            }
            if iteration + 1 == self.iterations {
                break;
            }
            self.precondition(problem, system);
            for i in 0..self.examples.len() {
                if self.examples[i].active {
                    self.go_on(i, system);
                }
            }
        }
        self.iterations
    }

    fn precondition(&mut self, problem: &mut TargetProblem<'_, '_, T>, system: &System<T>) {
        let (tangent, y) = (&mut self.tangent, &mut self.preconditioned);
        self.preconditioner
            .apply(problem, system, &self.diagonal, tangent, y);
    }

    /// H p for the directions p, undamped, without example weights.
    fn multiply(&mut self, problem: &mut TargetProblem<'_, '_, T>) {
        let (circuit, execution) = (problem.circuit, problem.execution());
        let batch = view(problem.batch, problem.multipliers);
        let vectors = &self.vectors;
        let locals = &mut problem.workspace.locals;
        execution.for_each_pair(locals, &mut self.links, |t, local, link| {
            let own = t.checked_sub(1).map(|i| &vectors[i].direction[..]);
            let above = vectors.get(t).map(|above| &above.direction[..]);
            link.multiply(circuit, batch, t, [own, above], t > 0, local);
        });
        for (i, own) in self.vectors.iter_mut().enumerate() {
            own.product.copy_from_slice(&self.links[i].in_target);
            add_to(&mut own.product, &self.links[i + 1].in_input);
            let regularizer = circuit.target_regularizers()[i].curvature();
            add_scaled(&mut own.product, regularizer, &own.direction);
        }
    }

    /// One example's step along its direction, from its H p.
    fn advance(&mut self, i: usize, system: &mut System<T>) {
        let mut curvature = T::zero();
        for (h, own) in self.vectors.iter_mut().enumerate() {
            let column = system.column(h, i);
            let (direction, product) = (&own.direction[column.clone()], &mut own.product[column]);
            add_scaled(product, system.damping[i], direction);
            curvature += dot(direction, product);
        }
        let length = self.examples[i].square / curvature;
        if !(curvature > T::zero() && length.is_finite()) {
            self.examples[i].active = false;
            return;
        }
        for (h, own) in self.vectors.iter().enumerate() {
            let column = system.column(h, i);
            add_scaled(
                &mut system.step[h][column.clone()],
                length,
                &own.direction[column.clone()],
            );
            let product = &own.product[column.clone()];
            add_scaled(&mut system.right[h][column], -length, product);
        }
    }

    /// Ends one example's iterations, or turns its direction for the next, from its new M⁻¹ r.
    fn go_on(&mut self, i: usize, system: &System<T>) {
        let before = self.examples[i].square;
        let square = self.residual_square(i, system);
        // Below rounding the recursion goes on where the residual itself does not.
        let tolerance = T::of(self.tolerance).max(T::default_epsilon());
        let example = &mut self.examples[i];
        example.square = square;
        example.active = square > tolerance * tolerance * example.first && square.is_finite();
        if example.active {
            self.turn(i, square / before, system);
        }
    }

    /// p ← M⁻¹ r + β p for one example.
    fn turn(&mut self, i: usize, beta: T, system: &System<T>) {
        for (h, own) in self.vectors.iter_mut().enumerate() {
            let column = system.column(h, i);
            let preconditioned = &self.preconditioned[h][column.clone()];
            let direction = &mut own.direction[column];
            scale(direction, beta);
            add_to(direction, preconditioned);
        }
    }

    /// r·M⁻¹r of one example.
    fn residual_square(&self, i: usize, system: &System<T>) -> T {
        let layers = self.preconditioned.iter().enumerate();
        layers.fold(T::zero(), |sum, (h, preconditioned)| {
            let column = system.column(h, i);
            sum + dot(&system.right[h][column.clone()], &preconditioned[column])
        })
    }
}
