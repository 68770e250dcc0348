//! Damped Gauss-Newton steps.

mod block_tridiagonal;
mod conjugate_gradients;
mod elimination;
mod linear_solver;
mod operator;
mod preconditioner;
mod run;

use std::ops::Range;

use super::descent::{Descent, Iterate, first_part};
use super::trial::{Check, Trial, Verdict};
use super::{Convergence, SolveReport, TargetProblem, TargetSolver, iterated};
use crate::check::{in_scalar, option, serde_checked};
use crate::energy::{Layers, Problem, Workspace, columns, default_fields};
use crate::error::Error;
use crate::kernel::{Scalar, scale, unit_of};
use crate::state::State;
use block_tridiagonal::{BlockTridiagonal, Work};
use conjugate_gradients::Iterations;
use elimination::Order;
pub use linear_solver::{ConjugateGradients, LinearSolver};
pub(crate) use operator::Link;

/// K damped Gauss-Newton steps on z = (z_1, …, z_{T−1}) of every example at once, each solving
/// (H + λ I) δ = −∂E/∂z.
///
/// With J_t = ∂f_t/∂z_t and C_t the curvature of layer t's loss
/// ([`Loss::curvature`](crate::loss::Loss::curvature), μ included) in (z_{t+1}, ẑ_{t+1}), δᵀ H δ is the
/// sum over the layers of v_tᵀ C_t v_t, v_t = (δ_{t+1}, J_t δ_t): block tridiagonal, and positive
/// semidefinite for every loss. Four ways to solve it, each a [`LinearSolver`]:
///
/// | | method | cost of a step |
/// |---|---|---|
/// | [`GaussNewton::new`] | m matrix-free iterations of conjugate gradients, all layers at once | m JVPs and m − 1 VJPs per layer |
/// | [`GaussNewton::chained`] | conjugate gradients, preconditioned by the hidden terms in sweeps over the layers | m JVPs and 2m − 1 VJPs per layer |
/// | [`GaussNewton::direct`] | block Cholesky, layer by layer: exact | d JVPs and VJPs per layer, and about 5/3 d³ multiply-adds per layer and example |
/// | [`GaussNewton::cyclic_reduction`] | cyclic reduction, all odd layers at once, then every other remaining layer, …: exact | about 2½ times as many, in ⌊log₂ (T−1)⌋ + 1 levels instead of T − 1 |
///
/// An iteration of [`GaussNewton::new`] carries a signal over one layer: if m is well below the
/// depth, the targets of the first layers do not move. An iteration of [`GaussNewton::chained`]
/// reaches every layer. With A x = (x_{t+1} − J_t x_t) and D the bound on the hidden losses'
/// curvature plus λ, its preconditioner is (Aᵀ D A)⁻¹: one sweep of VJPs and one of JVPs. With
/// squared L_h and λ = 0 the rest of H is the output loss, of rank at most d_T, so d_T + 1
/// iterations solve the system at any depth. With damping about as many are enough as long as λ
/// ‖A⁻¹‖² is small compared with μ (`docs/theory.md`). The two direct methods suit small widths;
/// they process 32 examples at a time, and store 5 d² numbers per layer for each.
///
/// Every example has its own λ and conjugate-gradient step sizes, and its step is accepted or
/// rejected on its own (Levenberg-Marquardt). A step that would raise the example's E at all is
/// shortened as [`Iterate`] describes, and its λ is multiplied by 8; a full step divides λ by 4. So
/// E never rises for any example. (Since E is known only up to rounding, ε, the gradient cannot
/// fall much below √ε.) Nocedal & Wright 2006, ch. 7 and 10; Martens 2010; Golub & Van Loan 2013,
/// §4.5 (cyclic reduction).
///
/// # Examples
/// ```
/// use layerwise::target_solver::{ConjugateGradients, GaussNewton};
///
/// let solver = GaussNewton::new(1, 8);
/// let exact = GaussNewton::direct(1);
/// // The long form of the first, with a tolerance for the iterations.
/// let loose = ConjugateGradients::new(8).with_tolerance(1e-2)?;
/// let solver = GaussNewton::solved_by(1, loose);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(remote = "Self", deny_unknown_fields))]
pub struct GaussNewton(Iterate<DampedStep>);

serde_checked!(GaussNewton);

/// One step. The first part of its state is that of the preconditioner's bounds.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(remote = "Self", deny_unknown_fields))]
struct DampedStep {
    /// λ at the start of a call.
    damping: f64,
    linear: LinearSolver,
}

/// Number of examples that solvers with stored matrices process at a time.
const PART: usize = 32;

/// The memory of a step.
#[derive(Debug)]
struct Memory<T> {
    system: System<T>,
    iterations: Iterations<T>,
    matrix: BlockTridiagonal<T>,
    /// For one part of the batch.
    part: Workspace<T>,
}

default_fields!(Memory: system iterations matrix part);

/// (H + λ I) δ = r, one system per example, its vectors by hidden layer.
#[derive(Debug)]
struct System<T> {
    /// d_1, …, d_{T−1}.
    dims: Vec<usize>,
    /// The unit of r and δ by example, a power of two: products of vectors in it do not over- or
    /// underflow as soon as those of gradients would.
    units: Vec<T>,
    right: Vec<Vec<T>>,
    step: Vec<Vec<T>>,
    /// λ by example.
    damping: Vec<T>,
    /// Examples whose solution is needed.
    wanted: Vec<bool>,
}

default_fields!(System: dims units right step damping wanted);

impl GaussNewton {
    /// K = `steps` steps (0 leaves the targets unchanged), each by [`ConjugateGradients::new`]. λ starts
    /// at 1e-3 in every call; no example ends early.
    pub fn new(steps: u64, iterations: u64) -> Self {
        Self::solved_by(steps, ConjugateGradients::new(iterations))
    }

    /// Like [`GaussNewton::new`], but by [`ConjugateGradients::chained`].
    pub fn chained(steps: u64, iterations: u64) -> Self {
        Self::solved_by(steps, ConjugateGradients::chained(iterations))
    }

    /// Like [`GaussNewton::new`], but by [`LinearSolver::BlockCholesky`]. If memory cannot hold the
    /// blocks, the solver returns [`Error::TooLarge`].
    pub fn direct(steps: u64) -> Self {
        Self::solved_by(steps, LinearSolver::BlockCholesky)
    }

    /// Like [`GaussNewton::new`], but by [`LinearSolver::CyclicReduction`]: the solution of
    /// [`GaussNewton::direct`] up to rounding, parallel over the depth.
    pub fn cyclic_reduction(steps: u64) -> Self {
        Self::solved_by(steps, LinearSolver::CyclicReduction)
    }

    /// Like [`GaussNewton::new`], but by any [`LinearSolver`].
    pub fn solved_by(steps: u64, linear: impl Into<LinearSolver>) -> Self {
        let step = DampedStep {
            damping: 1e-3,
            linear: linear.into(),
        };
        Self(Iterate::new(steps, step).with_check(Check::Strict))
    }

    /// Sets λ at the start of every call; 0 is plain Gauss-Newton until a step is rejected.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless λ is finite and not negative. A λ that is infinite only in the
    /// circuit's scalar type is reported when the solver is called.
    pub fn with_damping(mut self, damping: f64) -> Result<Self, Error> {
        self.0.descent.damping = damping;
        self.0.descent.checked()?;
        Ok(self)
    }

    /// Sets the tolerance of the conjugate gradients ([`ConjugateGradients::with_tolerance`]).
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless it is finite and not negative, or if the solver is a direct one.
    pub fn with_residual_tolerance(mut self, tolerance: f64) -> Result<Self, Error> {
        let LinearSolver::ConjugateGradients(linear) = &mut self.0.descent.linear else {
            let name = "GaussNewton::residual_tolerance";
            let allowed = "left unset: a direct solver has no residual";
            return option(name, tolerance, false, allowed).map(|_| self);
        };
        *linear = linear.with_tolerance(tolerance)?;
        Ok(self)
    }

    #[cfg(feature = "serde")]
    fn checked(self) -> Result<Self, Error> {
        self.0.expect_check(Check::Strict).map(|()| self)
    }
}

iterated!(GaussNewton);

impl DampedStep {
    fn checked(self) -> Result<Self, Error> {
        self.damping::<f64>().map(|_| self)
    }

    fn damping<T: Scalar>(&self) -> Result<T, Error> {
        in_scalar("GaussNewton::damping", self.damping)
    }
}

serde_checked!(DampedStep);

impl<T: Scalar> Descent<T> for DampedStep {
    fn check(&self, _layers: Layers<'_, T>) -> Result<(), Error> {
        self.damping::<T>().map(drop)
    }

    fn begin(&self, state: &mut State<T>, problem: &mut TargetProblem<'_, T>) -> Result<(), Error> {
        let damping = self.damping()?;
        let (numbers, memory) = state.split::<Memory<T>>();
        let (layers, n) = (problem.layers(), problem.batch().len());
        let hidden = &layers.dims()[1..layers.depth()];
        memory.system.fit(hidden, n, damping);
        let bounds = first_part(numbers.parts);
        // Once per call: if their age were counted in steps, it would depend on the slowest
        // example.
        match self.linear {
            LinearSolver::ConjugateGradients(options) => {
                memory.iterations.prepare(options, bounds, layers, n)
            }
            _ => memory.matrix.make_room(hidden, n.min(PART)),
        }
    }

    fn step(
        &self,
        state: &mut State<T>,
        problem: &mut TargetProblem<'_, T>,
        trial: &mut Trial<T>,
    ) -> Result<(), Error> {
        let memory = state.scratch::<Memory<T>>();
        memory.system.load(trial, problem);
        match self.linear {
            LinearSolver::ConjugateGradients(options) => {
                let Memory {
                    iterations, system, ..
                } = memory;
                trial.report_mut().products += iterations.solve(options, problem, system);
            }
            LinearSolver::BlockCholesky => memory.solve(Order::Sequential, problem, trial),
            LinearSolver::CyclicReduction => memory.solve(Order::Cyclic, problem, trial),
        }
        memory.system.restore();
        for (t, step) in (1..).zip(&memory.system.step) {
            trial.add(t, step, problem);
        }
        Ok(())
    }

    fn judged(&self, state: &mut State<T>, verdicts: &[Verdict]) {
        let damping = &mut state.scratch::<Memory<T>>().system.damping;
        for (damping, verdict) in damping.iter_mut().zip(verdicts) {
            *damping = match verdict {
                Verdict::Whole => *damping * T::of(0.25),
                Verdict::Part | Verdict::Refused => (*damping * T::of(8.0)).max(T::of(1e-3)),
                Verdict::Ended => *damping,
            };
        }
    }
}

impl<T: Scalar> Memory<T> {
    /// Solves the system directly, one part of the batch at a time, since the matrices of all
    /// examples might not fit into memory.
    fn solve(&mut self, order: Order, problem: &mut TargetProblem<'_, T>, trial: &mut Trial<T>) {
        let Self {
            system,
            matrix,
            part,
            ..
        } = self;
        let n = system.wanted.len();
        let mut work = Work::default();
        for start in (0..n).step_by(PART) {
            let columns = start..(start + PART).min(n);
            if !system.wanted[columns.clone()].contains(&true) {
                continue;
            }
            let (Problem { layers, batch, .. }, mut workspace) = problem.split();
            // Without multipliers: they are linear in z and ẑ, and add no curvature.
            let problem = layers.on(batch.part(columns.clone()));
            if n > PART {
                workspace = &mut *part;
                problem.predict_locally(workspace);
            }
            // The work per example, which is the same in every part.
            work = matrix.solve(order, problem, &mut workspace.locals, system, columns);
        }
        let report = trial.report_mut();
        report.operations += work.total;
        report.critical_path += work.chain;
    }
}

impl<T: Scalar> System<T> {
    fn fit(&mut self, dims: &[usize], n: usize, damping: T) {
        self.dims.clear();
        self.dims.extend_from_slice(dims);
        for arrays in [&mut self.right, &mut self.step] {
            fit(arrays, dims.iter().map(|dim| dim * n));
        }
        self.damping.clear();
        self.damping.resize(n, damping);
        self.wanted.resize(n, true);
    }

    /// r = −∂E/∂z, divided by each example's weight, in its unit.
    fn load(&mut self, trial: &Trial<T>, problem: &TargetProblem<'_, T>) {
        for (i, wanted) in self.wanted.iter_mut().enumerate() {
            *wanted = trial.goes(i);
        }
        for ((t, right), dim) in (1..).zip(&mut self.right).zip(&self.dims) {
            right.copy_from_slice(problem.workspace().target_gradient(t));
            for (i, own) in right.chunks_exact_mut(*dim).enumerate() {
                let weight = problem.example_weights().map_or(T::one(), |all| all[i]);
                // The gradient of an example of weight 0 is 0.
                if !weight.is_zero() {
                    // Divide: the inverse of a weight near the largest number is subnormal and has
                    // few digits.
                    own.iter_mut().for_each(|r| *r = -*r / weight);
                }
            }
        }
        self.units.clear();
        for i in 0..self.wanted.len() {
            let layers = || self.dims.iter().map(|&dim| columns(dim, i, 1));
            let own = self.right.iter().zip(layers());
            let unit = unit_of(own.flat_map(|(right, own)| &right[own]));
            for (right, own) in self.right.iter_mut().zip(layers()) {
                right[own].iter_mut().for_each(|r| *r /= unit);
            }
            self.units.push(unit);
        }
    }

    /// δ without its unit.
    fn restore(&mut self) {
        for (step, &dim) in self.step.iter_mut().zip(&self.dims) {
            for (own, &unit) in step.chunks_exact_mut(dim).zip(&self.units) {
                scale(own, unit);
            }
        }
    }

    /// Makes the i-th example's step non-finite, so that it gets undone.
    fn spoil(&mut self, i: usize) {
        for (step, &dim) in self.step.iter_mut().zip(&self.dims) {
            step[columns(dim, i, 1)].fill(T::zero() / T::zero());
        }
    }

    /// The range of some examples in the arrays of hidden layer h, from 0.
    fn columns(&self, h: usize, examples: &Range<usize>) -> Range<usize> {
        columns(self.dims[h], examples.start, examples.len())
    }
}

/// Resizes the arrays to `sizes`.
fn fit<T: Scalar>(arrays: &mut Vec<Vec<T>>, sizes: impl ExactSizeIterator<Item = usize>) {
    arrays.resize_with(sizes.len(), Vec::new);
    for (own, size) in arrays.iter_mut().zip(sizes) {
        own.resize(size, T::zero());
    }
}
