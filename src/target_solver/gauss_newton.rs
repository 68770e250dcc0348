//! Damped Gauss-Newton steps, solved by conjugate gradients without a matrix.

use super::curvature::Curvature;
use super::{SolveReport, TargetProblem, TargetSolver, view};
use crate::circuit::LocalWorkspace;
use crate::kernel::{add_scaled, add_to, all_finite, dot, scale};
use crate::loss::Pair;
use crate::{Error, Scalar, Write};

/// K steps of Gauss-Newton on every example's z = (z_1, …, z_{T−1}) at once, each
/// (H + λ I) δ = −∂E/∂z by at most m iterations of preconditioned conjugate gradients.
///
/// With J_t = ∂f_t/∂z_t and C_t the curvature of layer t's loss ([`Loss::curvature`](crate::Loss::curvature), μ
/// included) in (z_{t+1}, ẑ_{t+1}), H is the sum over the layers of Aᵀ C_t A, A = (δ_{t+1}, J_t δ_t):
/// block tridiagonal, and positive semidefinite for every loss. An iteration makes one JVP and one
/// VJP a layer, all layers at once. The preconditioner divides each layer's block by the bound
/// of its diagonal block plus λ, where layers and losses give bounds.
///
/// λ, the scalars of the conjugate gradients, and the acceptance are every example's own
/// (Levenberg-Marquardt): a step that does not lower the example's E is taken back and tried again
/// with 8 times its λ; one that does divides λ by 4. So E rises for no example, and its targets
/// do not depend on the examples beside it. Costs, beside 2Km products with Jacobians a layer, K + 1
/// predictions if every step is accepted. An iteration carries a signal over one layer: m well
/// below the depth leaves the first layers' targets where they are. Nocedal & Wright 2006, ch. 7
/// and 10; Martens 2010.
///
/// # Examples
/// ```
/// use layerwise::GaussNewton;
///
/// let solver: GaussNewton<f64> = GaussNewton::new(1, 8);
/// ```
#[derive(Debug, Clone)]
pub struct GaussNewton<T: Scalar> {
    steps: u64,
    iterations: u64,
    damping: f64,
    tolerance: f64,
    bounds: Curvature<T>,
    memory: Memory<T>,
}

/// Arrays by hidden layer or by layer, and scalars by example.
#[derive(Debug, Clone)]
struct Memory<T> {
    /// δ_t, the residual r_t, the direction p_t, H p_t and z_t before the step.
    hidden: Vec<Hidden<T>>,
    /// What layer t brings to H p.
    links: Vec<Link<T>>,
    /// Factors of the preconditioner, by hidden layer: bounds of the diagonal blocks.
    blocks: Vec<T>,
    examples: Vec<Example<T>>,
}

#[derive(Debug, Clone)]
struct Hidden<T> {
    step: Vec<T>,
    residual: Vec<T>,
    direction: Vec<T>,
    product: Vec<T>,
    before: Vec<T>,
}

#[derive(Debug, Clone)]
struct Link<T> {
    /// J_t p_t, then the curvature's product in ẑ_{t+1}.
    tangent: Vec<T>,
    in_prediction: Vec<T>,
    /// The parts of (H p)_{t+1} and of (H p)_t.
    in_target: Vec<T>,
    in_input: Vec<T>,
}

/// One example's numbers.
#[derive(Debug, Clone, Copy)]
struct Example<T> {
    /// λ.
    damping: T,
    /// E before the step.
    energy: T,
    /// r·M⁻¹r now, and at the start.
    square: T,
    first: T,
    /// Whether its conjugate gradients go on.
    active: bool,
}

impl<T: Scalar> GaussNewton<T> {
    /// K = `steps` steps of at most m = `iterations` iterations each. Defaults: λ starts at 1e-3 in
    /// every call; an example's iterations end where its residual fell by 1e-10.
    pub fn new(steps: u64, iterations: u64) -> Self {
        Self {
            steps,
            iterations,
            damping: 1e-3,
            tolerance: 1e-10,
            bounds: Curvature::new(),
            memory: Memory {
                hidden: Vec::new(),
                links: Vec::new(),
                blocks: Vec::new(),
                examples: Vec::new(),
            },
        }
    }

    /// The same with another λ at the start of every call; 0 is plain Gauss-Newton until a step
    /// fails.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless λ is finite and not negative.
    pub fn with_damping(mut self, damping: f64) -> Result<Self, Error> {
        self.damping = not_negative("GaussNewton::damping", damping)?;
        Ok(self)
    }

    /// The same with another relative tolerance of the residual, in the preconditioner's norm.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless it is finite and not negative.
    pub fn with_tolerance(mut self, tolerance: f64) -> Result<Self, Error> {
        self.tolerance = not_negative("GaussNewton::tolerance", tolerance)?;
        Ok(self)
    }
}

fn not_negative(option: &'static str, value: f64) -> Result<f64, Error> {
    if value.is_finite() && value >= 0.0 {
        return Ok(value);
    }
    Err(Error::InvalidOption {
        option,
        value,
        allowed: "finite and not negative",
    })
}

impl<T: Scalar> Memory<T> {
    fn fit(&mut self, problem: &TargetProblem<'_, '_, T>, damping: T) {
        let (n, dims) = (problem.batch.ids.len(), problem.circuit.dims());
        let last = dims.len() - 1;
        let empty = || Hidden {
            step: Vec::new(),
            residual: Vec::new(),
            direction: Vec::new(),
            product: Vec::new(),
            before: Vec::new(),
        };
        self.hidden.resize_with(last - 1, empty);
        for (own, &dim) in self.hidden.iter_mut().zip(&dims[1..]) {
            for array in [
                &mut own.step,
                &mut own.residual,
                &mut own.direction,
                &mut own.product,
                &mut own.before,
            ] {
                array.resize(dim * n, T::zero());
            }
        }
        let empty = || Link {
            tangent: Vec::new(),
            in_prediction: Vec::new(),
            in_target: Vec::new(),
            in_input: Vec::new(),
        };
        self.links.resize_with(last, empty);
        for (t, own) in self.links.iter_mut().enumerate() {
            own.tangent.resize(dims[t + 1] * n, T::zero());
            own.in_prediction.resize(dims[t + 1] * n, T::zero());
            own.in_target.resize(dims[t + 1] * n, T::zero());
            own.in_input.resize(dims[t] * n, T::zero());
        }
        self.examples.clear();
        let example = Example {
            damping,
            energy: T::zero(),
            square: T::zero(),
            first: T::zero(),
            active: true,
        };
        self.examples.resize(n, example);
    }

    /// (H p) for the directions p, undamped, without example weights.
    fn multiply(&mut self, problem: &mut TargetProblem<'_, '_, T>) {
        let (circuit, execution) = (problem.circuit, problem.execution);
        let batch = view(problem.batch, problem.multipliers);
        let hidden = &self.hidden;
        let locals = &mut problem.workspace.locals;
        execution.for_each_pair(locals, &mut self.links, |t, local, link| {
            let layer = circuit.layer(t);
            let LocalWorkspace {
                prediction,
                tape,
                work,
                ..
            } = local;
            let own = t.checked_sub(1).map(|i| &hidden[i].direction[..]);
            let above = hidden.get(t).map(|above| &above.direction[..]);
            let at = crate::Point {
                context: batch.context(circuit.seed(), t),
                parameters: circuit.layer_parameters(t),
                input: batch.z(t),
                output: prediction,
                tape,
            };
            if own.is_some() {
                layer.jvp(&at, own, None, &mut link.tangent, work);
            }
            let pair = Pair::new(layer.output_dim(), batch.z(t + 1), prediction)
                .with_parameters(circuit.loss_parameters(t));
            circuit.loss(t).curvature(
                &pair,
                above,
                own.map(|_| &link.tangent[..]),
                Write::set(above.map(|_| &mut link.in_target[..])),
                Write::set(own.map(|_| &mut link.in_prediction[..])),
                work,
            );
            let weight = circuit.weight(t);
            if weight != T::one() {
                scale(&mut link.in_target, weight);
                scale(&mut link.in_prediction, weight);
            }
            if own.is_some() {
                let in_input = Write::Set(&mut link.in_input);
                layer.vjp(&at, &link.in_prediction, in_input, Write::Skip, work);
            }
        });
        for (i, own) in self.hidden.iter_mut().enumerate() {
            own.product.copy_from_slice(&self.links[i].in_target);
            add_to(&mut own.product, &self.links[i + 1].in_input);
            let regularizer = circuit.target_regularizers()[i].curvature();
            add_scaled(&mut own.product, regularizer, &own.direction);
        }
    }

    /// Solves (H + λ I) δ = r for every example by conjugate gradients from δ = 0.
    fn solve(&mut self, iterations: u64, tolerance: T, problem: &mut TargetProblem<'_, '_, T>) {
        for own in &mut self.hidden {
            own.step.fill(T::zero());
            own.direction.fill(T::zero());
        }
        for i in 0..self.examples.len() {
            let square = self.precondition(i, T::zero());
            let example = &mut self.examples[i];
            (example.square, example.first) = (square, square);
            example.active = square > T::zero() && square.is_finite();
        }
        for _ in 0..iterations {
            if self.examples.iter().all(|example| !example.active) {
                return;
            }
            self.multiply(problem);
            for i in 0..self.examples.len() {
                if self.examples[i].active {
                    self.advance(i, tolerance);
                }
            }
        }
    }

    /// One iteration of one example, from its H p.
    fn advance(&mut self, i: usize, tolerance: T) {
        let damping = self.examples[i].damping;
        let mut curvature = T::zero();
        for own in &mut self.hidden {
            let column = own.column(i, self.examples.len());
            let (direction, product) = (&own.direction[column.clone()], &mut own.product[column]);
            add_scaled(product, damping, direction);
            curvature += dot(direction, product);
        }
        let length = self.examples[i].square / curvature;
        if !(curvature > T::zero() && length.is_finite()) {
            self.examples[i].active = false;
            return;
        }
        for own in &mut self.hidden {
            let column = own.column(i, self.examples.len());
            let direction = &own.direction[column.clone()];
            add_scaled(&mut own.step[column.clone()], length, direction);
            let product = &own.product[column.clone()];
            add_scaled(&mut own.residual[column], -length, product);
        }
        let before = self.examples[i].square;
        let square = self.residual_square(i);
        let example = &mut self.examples[i];
        example.square = square;
        let small = square <= tolerance * tolerance * example.first;
        if small || !square.is_finite() {
            example.active = false;
            return;
        }
        self.precondition(i, square / before);
    }

    /// p ← M⁻¹ r + β p for one example; gives r·M⁻¹r.
    fn precondition(&mut self, i: usize, beta: T) -> T {
        let square = self.residual_square(i);
        let damping = self.examples[i].damping;
        for (own, &block) in self.hidden.iter_mut().zip(&self.blocks) {
            let column = own.column(i, self.examples.len());
            let residual = &own.residual[column.clone()];
            let inverse = (block + damping).recip();
            for (p, &r) in own.direction[column].iter_mut().zip(residual) {
                *p = inverse * r + beta * *p;
            }
        }
        square
    }

    /// r·M⁻¹r of one example.
    fn residual_square(&self, i: usize) -> T {
        let damping = self.examples[i].damping;
        let parts = self.hidden.iter().zip(&self.blocks);
        parts.fold(T::zero(), |sum, (own, &block)| {
            let residual = &own.residual[own.column(i, self.examples.len())];
            sum + dot(residual, residual) / (block + damping)
        })
    }
}

impl<T: Scalar> Hidden<T> {
    /// Where an example stands.
    fn column(&self, i: usize, examples: usize) -> std::ops::Range<usize> {
        let dim = self.step.len() / examples;
        i * dim..(i + 1) * dim
    }
}

impl<T: Scalar> TargetSolver<T> for GaussNewton<T> {
    fn reset(&mut self) {
        self.bounds.reset();
    }

    fn solve(&mut self, problem: &mut TargetProblem<'_, '_, T>) -> Result<SolveReport, Error> {
        let depth = problem.circuit.depth();
        if depth == 1 {
            return Ok(SolveReport::default());
        }
        self.memory.fit(problem, T::of(self.damping));
        let memory = &mut self.memory;
        // Any positive blocks will do; without bounds the identity.
        memory.blocks.clear();
        match self.bounds.refresh(problem.circuit) {
            Ok(()) => memory.blocks.extend_from_slice(&self.bounds.blocks),
            Err(Error::NoCurvatureBound { .. }) => memory.blocks.resize(depth - 1, T::one()),
            Err(other) => return Err(other),
        }
        for block in &mut memory.blocks {
            if !(block.is_finite() && *block > T::zero()) {
                *block = T::one();
            }
        }
        for number in 0..self.steps {
            problem.evaluate(false, true);
            problem.workspace.check_energies(number)?;
            for t in 1..depth {
                problem.check_target_gradient(t, number)?;
            }
            let weights = problem.example_weights();
            for (i, example) in memory.examples.iter_mut().enumerate() {
                example.energy = problem.example_energy(i);
            }
            for (t, own) in (1..).zip(&mut memory.hidden) {
                own.before.copy_from_slice(problem.batch.view().z(t));
                let gradient = problem.workspace.target_gradient(t);
                for (r, &g) in own.residual.iter_mut().zip(gradient) {
                    *r = -g;
                }
                if let Some(weights) = weights {
                    let dim = own.residual.len() / weights.len();
                    for (r, &weight) in own.residual.chunks_exact_mut(dim).zip(weights) {
                        scale(r, weight.recip());
                    }
                }
            }
            memory.solve(self.iterations, T::of(self.tolerance), problem);
            for (t, own) in (1..).zip(&memory.hidden) {
                add_to(problem.target_mut(t), &own.step);
            }
            // The energy of the new targets decides, example by example.
            problem.evaluate(false, false);
            let n = memory.examples.len();
            for i in 0..n {
                let energy = problem.example_energy(i);
                let example = &mut memory.examples[i];
                let finite = memory
                    .hidden
                    .iter()
                    .all(|own| all_finite(&own.step[own.column(i, n)]));
                if finite && energy <= example.energy {
                    example.damping *= T::of(0.25);
                    continue;
                }
                example.damping = (example.damping * T::of(8.0)).max(T::of(1e-3));
                for (t, own) in (1..).zip(&memory.hidden) {
                    let column = own.column(i, n);
                    let before = &own.before[column.clone()];
                    problem.target_mut(t)[column].copy_from_slice(before);
                }
            }
        }
        Ok(SolveReport { steps: self.steps })
    }
}
