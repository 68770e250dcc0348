//! Damped Gauss-Newton steps.

mod block_tridiagonal;
mod conjugate_gradients;
mod elimination;
mod operator;
mod preconditioner;
mod run;

use std::ops::Range;

use super::acceptance::{Acceptance, Check, Verdict};
use super::report::not_negative;
use super::{Convergence, SolveReport, TargetProblem, TargetSolver};
use crate::energy::Workspace;
use crate::error::Error;
use crate::kernel::Scalar;
use crate::kernel::{add_to, scale};
use block_tridiagonal::BlockTridiagonal;
use conjugate_gradients::ConjugateGradients;
use elimination::Order;
pub(crate) use operator::Link;
use preconditioner::Preconditioner;

/// K steps of Gauss-Newton on every example's z = (z_1, …, z_{T−1}) at once, each
/// (H + λ I) δ = −∂E/∂z.
///
/// With J_t = ∂f_t/∂z_t and C_t the curvature of layer t's loss
/// ([`Loss::curvature`](crate::loss::Loss::curvature), μ included) in (z_{t+1}, ẑ_{t+1}), δᵀ H δ is the
/// sum over the layers of v_tᵀ C_t v_t, v_t = (δ_{t+1}, J_t δ_t): block tridiagonal, and positive
/// semidefinite for every loss. Four ways to solve it:
///
/// | | how | a step costs |
/// |---|---|---|
/// | [`GaussNewton::new`] | m iterations of conjugate gradients, without a matrix, all layers at once | m JVPs and VJPs a layer |
/// | [`GaussNewton::chained`] | the same with the hidden terms as preconditioner, in sweeps over the layers | 2m JVPs and VJPs a layer |
/// | [`GaussNewton::direct`] | block Cholesky, layer after layer: exact | d JVPs and VJPs a layer, and some 5/3 d³ multiply-adds a layer and example |
/// | [`GaussNewton::cyclic_reduction`] | the same solution, all odd layers at once, then every other of the rest, … | about 2½ times as many, in ⌊log₂ (T−1)⌋ + 1 levels instead of T − 1 |
///
/// An iteration of the first carries a signal over one layer: m well below the depth leaves the
/// first layers' targets where they are. Its preconditioner divides each layer's block by the bound
/// of its diagonal block plus λ, where layers and losses give bounds. The second reaches every
/// layer at once: with A x = (x_{t+1} − J_t x_t) and D the hidden losses' curvature it goes by (Aᵀ
/// D A)⁻¹, one sweep of VJPs and one of JVPs. With squared L_h and λ = 0 what is left of H is the
/// output loss, of rank d_T at most, so that d_T + 1 iterations solve the system, whatever the
/// depth. A damping changes little as long as λ ‖A⁻¹‖² is small beside μ; ‖A⁻¹‖ grows with the
/// depth, at least as T where ‖J_t‖ ≥ 1 (`docs/theory.md`). The last two solve the system of small
/// widths exactly; they work on 32 examples at a time, and keep 5 d² numbers a layer for each.
///
/// λ, the scalars of the conjugate gradients, and the acceptance are every example's own
/// (Levenberg-Marquardt). A step that would raise the example's E at all is drawn back as
/// [`StepSize`](crate::target_solver::StepSize) says, and the next has 8 times its λ; a whole step divides λ by 4.
/// So E rises for no example, and its targets do not depend on the examples beside it. (Since E is
/// known to rounding, ε, the gradient comes to rest at about √ε.) Nocedal & Wright 2006, ch. 7 and
/// 10; Martens 2010; Golub & Van Loan 2013, §4.5 (cyclic reduction).
///
/// # Examples
/// ```
/// use layerwise::target_solver::GaussNewton;
///
/// let solver: GaussNewton<f64> = GaussNewton::new(1, 8);
/// let exact: GaussNewton<f64> = GaussNewton::direct(1);
/// ```
#[derive(Debug, Clone)]
pub struct GaussNewton<T: Scalar> {
    steps: u64,
    damping: f64,
    linear: Linear<T>,
    acceptance: Acceptance<T>,
    system: System<T>,
    /// The workspace of a part of the batch, and its multipliers.
    part: Workspace<T>,
    multipliers: Vec<Vec<T>>,
}

/// How (H + λ I) δ = r is solved.
#[derive(Debug, Clone)]
enum Linear<T> {
    ConjugateGradients(Box<ConjugateGradients<T>>),
    BlockTridiagonal(BlockTridiagonal<T>),
}

/// Examples at a time, of solvers that store matrices.
const PART: usize = 32;

/// (H + λ I) δ = r, one system an example, its vectors by hidden layer.
#[derive(Debug, Clone)]
struct System<T> {
    /// d_1, …, d_{T−1}.
    dims: Vec<usize>,
    right: Vec<Vec<T>>,
    step: Vec<Vec<T>>,
    /// λ by example.
    damping: Vec<T>,
    /// Examples whose solution is wanted.
    wanted: Vec<bool>,
}

impl<T: Scalar> GaussNewton<T> {
    /// K = `steps` steps of at most m = `iterations` iterations of conjugate gradients each.
    /// Defaults: λ starts at 1e-3 in every call; an example's iterations end where its residual
    /// fell by 1e-10; all steps are made.
    pub fn new(steps: u64, iterations: u64) -> Self {
        let linear = ConjugateGradients::new(iterations);
        Self::of(steps, Linear::ConjugateGradients(Box::new(linear)))
    }

    /// K = `steps` steps by block Cholesky, otherwise with the defaults of [`GaussNewton::new`].
    pub fn direct(steps: u64) -> Self {
        let linear = BlockTridiagonal::new(Order::Sequential);
        Self::of(steps, Linear::BlockTridiagonal(linear))
    }

    /// K = `steps` steps by cyclic reduction, which is parallel over the depth: the solution of
    /// [`GaussNewton::direct`] to rounding.
    pub fn cyclic_reduction(steps: u64) -> Self {
        let linear = BlockTridiagonal::new(Order::Cyclic);
        Self::of(steps, Linear::BlockTridiagonal(linear))
    }

    fn of(steps: u64, linear: Linear<T>) -> Self {
        Self {
            steps,
            damping: 1e-3,
            linear,
            acceptance: Acceptance::new(),
            system: System {
                dims: Vec::new(),
                right: Vec::new(),
                step: Vec::new(),
                damping: Vec::new(),
                wanted: Vec::new(),
            },
            part: Workspace::empty(),
            multipliers: Vec::new(),
        }
    }

    /// The same with another λ at the start of every call; 0 is plain Gauss-Newton until a step
    /// fails.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless λ is finite in the circuit's scalar and not negative.
    pub fn with_damping(mut self, damping: f64) -> Result<Self, Error> {
        self.damping = not_negative::<T>("GaussNewton::damping", damping)?;
        Ok(self)
    }

    /// Conjugate gradients as by [`GaussNewton::new`], preconditioned by the hidden terms:
    /// without damping as many iterations as the output loss has rank, and one, whatever the depth.
    pub fn chained(steps: u64, iterations: u64) -> Self {
        let mut linear = ConjugateGradients::new(iterations);
        linear.preconditioner = Preconditioner::Chain;
        Self::of(steps, Linear::ConjugateGradients(Box::new(linear)))
    }

    /// The same with another relative tolerance of the conjugate gradients' residual, in the
    /// preconditioner's norm; below rounding, it counts as ε.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless it is finite and not negative, or if the solver is a direct one.
    pub fn with_residual_tolerance(mut self, tolerance: f64) -> Result<Self, Error> {
        let option = "GaussNewton::residual_tolerance";
        let tolerance = not_negative::<T>(option, tolerance)?;
        match &mut self.linear {
            Linear::ConjugateGradients(linear) => linear.tolerance = tolerance,
            Linear::BlockTridiagonal(_) => {
                return Err(Error::InvalidOption {
                    option,
                    value: tolerance,
                    allowed: "left alone: a direct solver has no residual",
                });
            }
        }
        Ok(self)
    }

    /// The same with an earlier end for examples at rest, which then stay.
    pub fn with_convergence(mut self, convergence: Convergence) -> Self {
        self.acceptance.set_convergence(convergence);
        self
    }

    /// All steps of all examples of `problem`.
    fn solve_all(&mut self, problem: &mut TargetProblem<'_, '_, T>) -> Result<SolveReport, Error> {
        let depth = problem.circuit.depth();
        let Self {
            linear,
            acceptance,
            system,
            ..
        } = self;
        system.fit(
            &problem.circuit.dims()[1..depth],
            problem.batch.ids.len(),
            T::of(self.damping),
        );
        // Once a call: bounds that grow old by steps would depend on how many the slowest example makes.
        linear.prepare(problem)?;
        acceptance.begin(problem.batch.ids.len(), Check::Strict);
        let mut products = 0;
        for number in 0..self.steps {
            problem.evaluate(false, true);
            if number == 0 {
                acceptance.start_all(problem)?;
            }
            for t in 1..depth {
                problem.check_target_gradient(t, number)?;
                acceptance.meet(t, problem);
            }
            acceptance.rest();
            if acceptance.is_over() {
                break;
            }
            system.load(acceptance, problem);
            match linear {
                Linear::ConjugateGradients(linear) => products += linear.solve(problem, system),
                Linear::BlockTridiagonal(linear) => linear.solve(problem, system),
            }
            problem.trial(|problem| {
                for (t, step) in (1..).zip(&system.step) {
                    add_to(problem.target_mut(t), step);
                }
                Ok(())
            })?;
            let damping = &mut system.damping;
            acceptance.judge(problem, |i, verdict| {
                damping[i] = match verdict {
                    Verdict::Whole => damping[i] * T::of(0.25),
                    _ => (damping[i] * T::of(8.0)).max(T::of(1e-3)),
                };
            });
        }
        let mut report = SolveReport {
            products,
            ..acceptance.report()
        };
        if let Linear::BlockTridiagonal(linear) = linear {
            let work = linear.take_work();
            (report.operations, report.critical_path) = (work.total, work.chain);
        }
        Ok(report)
    }
}

impl<T: Scalar> Linear<T> {
    fn prepare(&mut self, problem: &TargetProblem<'_, '_, T>) -> Result<(), Error> {
        match self {
            Self::ConjugateGradients(linear) => linear.prepare(problem),
            Self::BlockTridiagonal(linear) => {
                // What an earlier call counted before it failed.
                linear.take_work();
                Ok(())
            }
        }
    }
}

impl<T: Scalar> System<T> {
    fn fit(&mut self, dims: &[usize], n: usize, damping: T) {
        self.dims.clear();
        self.dims.extend_from_slice(dims);
        for arrays in [&mut self.right, &mut self.step] {
            arrays.resize_with(dims.len(), Vec::new);
            for (own, dim) in arrays.iter_mut().zip(dims) {
                own.resize(dim * n, T::zero());
            }
        }
        self.damping.clear();
        self.damping.resize(n, damping);
        self.wanted.resize(n, true);
    }

    /// r = −∂E/∂z, divided by each example's weight.
    fn load(&mut self, acceptance: &Acceptance<T>, problem: &TargetProblem<'_, '_, T>) {
        for (i, wanted) in self.wanted.iter_mut().enumerate() {
            *wanted = acceptance.goes(i);
        }
        for ((t, right), dim) in (1..).zip(&mut self.right).zip(&self.dims) {
            right.copy_from_slice(problem.workspace.target_gradient(t));
            for (i, own) in right.chunks_exact_mut(*dim).enumerate() {
                let weight = problem.example_weights().map_or(T::one(), |all| all[i]);
                scale(own, -weight.recip());
            }
        }
    }

    /// Makes the i-th example's step one that is not finite, and will be taken back.
    fn spoil(&mut self, i: usize) {
        for h in 0..self.dims.len() {
            let column = self.column(h, i);
            self.step[h][column].fill(T::zero() / T::zero());
        }
    }

    /// Where the i-th example stands in the arrays of hidden layer h, from 0.
    fn column(&self, h: usize, i: usize) -> Range<usize> {
        i * self.dims[h]..(i + 1) * self.dims[h]
    }
}

impl<T: Scalar> TargetSolver<T> for GaussNewton<T> {
    fn reset(&mut self) {
        if let Linear::ConjugateGradients(linear) = &mut self.linear {
            linear.reset();
        }
    }

    fn solve(&mut self, problem: &mut TargetProblem<'_, '_, T>) -> Result<SolveReport, Error> {
        let n = problem.batch.ids.len();
        if problem.circuit.depth() == 1 || self.steps == 0 {
            return Ok(SolveReport::new(0, n));
        }
        if let Linear::ConjugateGradients(_) = self.linear {
            return self.solve_all(problem);
        }
        let mut report = SolveReport::default();
        let mut workspace = std::mem::replace(&mut self.part, Workspace::empty());
        let mut multipliers = std::mem::take(&mut self.multipliers);
        // As a whole: after an error in one part no step is complete in all.
        let solved = problem.trial(|problem| {
            (0..n).step_by(PART).try_for_each(|start| {
                let columns = start..(start + PART).min(n);
                let solved =
                    problem.part(columns, &mut workspace, &mut multipliers, |problem| {
                        self.solve_all(problem)
                    })?;
                report.merge(solved);
                Ok(())
            })
        });
        (self.part, self.multipliers) = (workspace, multipliers);
        solved.map(|()| report)
    }
}
