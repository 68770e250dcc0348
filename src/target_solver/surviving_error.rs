//! What the equilibrium of a Z-step leaves of the output error.

use crate::check::check_computed;
use crate::energy::{Problem, Workspace, default_fields, fed};
use crate::error::{Error, Quantity};
use crate::kernel::{Scalar, Squares, Tridiagonal, Write, add_to, norm};
use crate::loss::Pair;

/// The output error that the equilibrium of a Z-step leaves, for every example of a batch and any
/// common factor of the μ_t.
///
/// With r = ∂L/∂ẑ_T at the plain forward pass, C the curvature of L there, P_t = J_{T−1} ⋯ J_t and K =
/// Σ_t P_t P_tᵀ/μ_t, the Gauss-Newton model of E is least where the output error is e = S⁻¹ r, S = I +
/// C K. C K is self-adjoint and positive semidefinite in the inner product ⟨a, b⟩ = aᵀ K b, in which
/// ‖a‖² = Σ_t ‖P_tᵀ a‖²/μ_t. So the Lanczos process of r gives a tridiagonal matrix 𝒯 and a basis V with
/// e ≈ V (I + 𝒯/s)⁻¹ Vᵀ K r, for every factor s of the μ_t. (`docs/theory.md` has the proofs.)
#[derive(Debug)]
pub(crate) struct SurvivingError<T> {
    /// v_j and K v_j, d_T × n, with ⟨v_i, v_j⟩ = 1 if i = j, otherwise 0.
    basis: Vec<[Vec<f64>; 2]>,
    /// What remains of C K v_j beside the basis, for the last j of every example; r itself if K r = 0.
    rest: Vec<f64>,
    /// The first `count` are those of the batch.
    examples: Vec<Example>,
    count: usize,
    chain: Chain<T>,
    solution: Vec<f64>,
    error: Vec<f64>,
}

default_fields!(SurvivingError: basis rest examples count chain solution error);

/// One example's process.
#[derive(Debug, Clone, Default)]
struct Example {
    /// The root of its weight.
    weight: f64,
    /// ‖r‖, and the norm of r/‖r‖ in K.
    norm: f64,
    hidden_norm: f64,
    process: Tridiagonal,
    /// The last diagonal entry, until its coupling is known.
    alpha: f64,
}

/// Two sums over examples, with their weights.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kept {
    /// Of the squares of what is kept, and of all.
    kept: Squares,
    all: Squares,
}

impl Kept {
    pub(crate) fn none() -> Self {
        Self {
            kept: Squares::zero(),
            all: Squares::zero(),
        }
    }

    pub(crate) fn add_all(&mut self, other: Self) {
        self.kept.add_all(other.kept);
        self.all.add_all(other.all);
    }

    /// Whether there is nothing to keep.
    pub(crate) fn is_empty(self) -> bool {
        self.all.root() == 0.0
    }

    /// The root of their ratio; 1 if there is nothing to keep.
    pub(crate) fn share(self) -> f64 {
        match self.is_empty() {
            true => 1.0,
            false => self.kept.root() / self.all.root(),
        }
    }
}

impl<T: Scalar> SurvivingError<T> {
    /// Runs a process of at most `steps` steps for every example, with full reorthogonalisation: a
    /// forward pass, then one VJP and one JVP per layer above the first for each step. d_T steps are
    /// exact.
    ///
    /// # Errors
    /// [`Error::NonFinite`], in step 0, for a product that is not finite.
    pub(crate) fn run(
        &mut self,
        steps: u64,
        problem: Problem<'_, T>,
        workspace: &mut Workspace<T>,
    ) -> Result<(), Error> {
        let (layers, batch) = (problem.layers(), problem.batch());
        let (depth, n) = (layers.depth(), batch.len());
        let dim = layers.dims()[depth];
        let hidden: usize = layers.dims()[1..depth].iter().sum();
        let steps = usize::try_from(steps).unwrap_or(usize::MAX);
        let dimension = steps.min(dim).min(hidden);
        let epsilon = T::default_epsilon().as_f64();
        let column = |i: usize| i * dim..(i + 1) * dim;
        let finite = |values: &[f64]| check_computed(Quantity::TargetGradient, depth, 0, values);
        problem.forward_pass(workspace);
        self.chain.loss_gradient(problem, workspace);
        self.rest.clear();
        self.rest
            .extend(self.chain.output.iter().map(|v| v.as_f64()));
        finite(&self.rest)?;
        // Examples beyond a smaller batch keep their memory.
        let most = self.examples.len().max(n);
        self.examples.resize_with(most, Example::default);
        self.count = n;
        let examples = &mut self.examples[..n];
        for (i, example) in examples.iter_mut().enumerate() {
            let weight = batch.weights().map_or(1.0, |own| own[i].as_f64());
            example.weight = weight.sqrt();
            example.norm = norm(&self.rest[column(i)]);
            example.hidden_norm = 0.0;
            example.process.begin(dimension);
            if example.norm > 0.0 {
                let own = &mut self.rest[column(i)];
                own.iter_mut().for_each(|r| *r /= example.norm);
            }
        }
        self.basis.resize_with(dimension, Default::default);
        for j in 0..dimension {
            if examples.iter().all(|own| own.process.ended()) {
                break;
            }
            let (before, own) = self.basis.split_at_mut(j);
            let [own, image] = &mut own[0];
            own.clear();
            own.extend_from_slice(&self.rest);
            self.chain.multiply(problem, workspace, own, image);
            finite(image)?;
            for (i, example) in examples.iter_mut().enumerate() {
                let (own, image) = (&mut own[column(i)], &mut image[column(i)]);
                // A vector whose product with K is only rounding counts as in the kernel of K.
                let size = norm(&*own) * norm(&*image);
                let norm = match self.chain.norms[i] {
                    norm if norm * norm > 64.0 * epsilon * size => norm,
                    _ => 0.0,
                };
                if j == 0 {
                    example.hidden_norm = norm;
                    if norm == 0.0 {
                        example.process.end();
                    }
                } else if !example.process.ended() {
                    example.process.push(example.alpha, norm, epsilon);
                }
                // 0 for an example whose process has ended: its products are not used any more.
                let inverse = match example.process.ended() {
                    true => 0.0,
                    false => norm.recip(),
                };
                let both = own.iter_mut().chain(image);
                both.for_each(|v| *v *= inverse);
            }
            self.chain.curve(problem, workspace, image);
            check_computed(Quantity::TargetGradient, depth, 0, &self.chain.output)?;
            for (i, example) in examples.iter_mut().enumerate() {
                if example.process.ended() {
                    continue;
                }
                let rest = &mut self.rest[column(i)];
                let curved = self.chain.output[column(i)].iter();
                for (rest, new) in rest.iter_mut().zip(curved) {
                    *rest = new.as_f64();
                }
                example.alpha = inner(rest, &image[column(i)]);
                // Twice: the first time leaves rounding errors along the basis.
                for _ in 0..2 {
                    let all = before.iter().map(|[v, image]| (v, image));
                    for (v, image) in all.chain([(&*own, &*image)]) {
                        let along = inner(rest, &image[column(i)]);
                        for (rest, v) in rest.iter_mut().zip(&v[column(i)]) {
                            *rest -= along * v;
                        }
                    }
                }
            }
        }
        for example in examples {
            if !example.process.ended() {
                example.process.push(example.alpha, 0.0, epsilon);
            }
        }
        Ok(())
    }

    /// The share of backprop's errors that survives if every μ_t is multiplied by `factor`: the squares
    /// Σ_t ‖P_tᵀ e‖²/μ_t and Σ_t ‖P_tᵀ r‖²/μ_t.
    pub(crate) fn hidden(&mut self, factor: f64) -> Kept {
        let mut sums = Kept::none();
        for example in &self.examples[..self.count] {
            let size = example.weight * example.norm * example.hidden_norm;
            example.process.solve(factor, &mut self.solution);
            let share = inner(&self.solution, &self.solution).sqrt();
            sums.kept.add(size * share);
            sums.all.add(size);
        }
        sums
    }

    /// The share of the output error that survives: the squares ‖e‖² and ‖r‖².
    pub(crate) fn output(&mut self, factor: f64) -> Kept {
        let mut sums = Kept::none();
        let dim = self.rest.len() / self.count.max(1);
        for (i, example) in self.examples[..self.count].iter().enumerate() {
            let column = i * dim..(i + 1) * dim;
            example.process.solve(factor, &mut self.solution);
            self.error.clear();
            self.error.resize(dim, 0.0);
            for (y, [v, _]) in self.solution.iter().zip(&self.basis) {
                let y = y * example.hidden_norm;
                for (e, v) in self.error.iter_mut().zip(&v[column.clone()]) {
                    *e += y * v;
                }
            }
            // e ← r − C K e, which is exact also in the directions that K does not see.
            let last = match self.solution.last() {
                Some(y) => -y * example.hidden_norm / factor,
                None => 1.0,
            };
            for (e, rest) in self.error.iter_mut().zip(&self.rest[column]) {
                *e += last * rest;
            }
            let size = example.weight * example.norm;
            sums.kept.add(size * norm(&self.error));
            sums.all.add(size);
        }
        sums
    }
}

/// The memory of products with K and C.
#[derive(Debug)]
struct Chain<T> {
    /// P_tᵀ v, then what the disturbances P_sᵀ v/μ_s, s ≤ t, make of z_t; by hidden layer.
    parts: Vec<Vec<T>>,
    input: Vec<T>,
    output: Vec<T>,
    tangent: Vec<T>,
    values: Vec<T>,
    units: Vec<f64>,
    /// (vᵀ K v)^½ by example. As a sum of squares it is exact up to ε, not √ε.
    norms: Vec<f64>,
}

default_fields!(Chain: parts input output tangent values units norms);

impl<T: Scalar> Chain<T> {
    /// `output` ← ∂L/∂ẑ_T at the forward pass in the workspace, without example weights.
    fn loss_gradient(&mut self, problem: Problem<'_, T>, workspace: &mut Workspace<T>) {
        let layers = problem.layers();
        let last = layers.depth() - 1;
        let local = &mut workspace.locals[last];
        self.output.resize(local.prediction.len(), T::zero());
        self.values.resize(problem.batch().len(), T::zero());
        let (dim, target) = (layers.dims()[last + 1], problem.batch().z(last + 1));
        let pair =
            Pair::new(dim, target, &local.prediction).with_parameters(layers.loss_parameters(last));
        let gradient = Write::Set(&mut self.output[..]);
        let loss = layers.loss(last);
        let (values, work) = (&mut self.values, &mut local.work);
        loss.evaluate(&pair, values, Write::Skip, gradient, work);
    }

    /// `output` ← C v.
    fn curve(&mut self, problem: Problem<'_, T>, workspace: &mut Workspace<T>, v: &[f64]) {
        let layers = problem.layers();
        let last = layers.depth() - 1;
        let local = &mut workspace.locals[last];
        self.input.clear();
        self.input.extend(v.iter().map(|&v| T::of(v)));
        let (dim, target) = (layers.dims()[last + 1], problem.batch().z(last + 1));
        let pair =
            Pair::new(dim, target, &local.prediction).with_parameters(layers.loss_parameters(last));
        let curved = Write::Set(&mut self.output[..]);
        let loss = layers.loss(last);
        let (along, work) = (Some(&self.input[..]), &mut local.work);
        loss.curvature(&pair, None, along, Write::Skip, curved, work);
    }

    /// `product` ← K v, and `norms`: one sweep of VJPs, one of JVPs.
    fn multiply(
        &mut self,
        problem: Problem<'_, T>,
        workspace: &mut Workspace<T>,
        v: &[f64],
        product: &mut Vec<f64>,
    ) {
        let layers = problem.layers();
        let (depth, dims, n) = (layers.depth(), layers.dims(), problem.batch().len());
        // In units of their own, v and K v fit the scalar.
        let dim = dims[depth];
        self.units.clear();
        self.input.clear();
        for own in v.chunks_exact(dim) {
            let unit = norm(own);
            let unit = if unit > 0.0 { unit } else { 1.0 };
            self.units.push(unit);
            self.input.extend(own.iter().map(|v| T::of(v / unit)));
        }
        self.norms.clear();
        self.norms.resize(n, 0.0);
        self.parts.resize_with(depth - 1, Vec::new);
        for t in (1..depth).rev() {
            let (own, above) = self.parts.split_at_mut(t);
            let own = &mut own[t - 1];
            own.resize(dims[t] * n, T::zero());
            let above = above.first().unwrap_or(&self.input);
            let (before, here) = workspace.locals.split_at_mut(t);
            let (local, here) = (fed(problem.local(t), before), &mut here[0]);
            let at = local.point(&here.prediction, &here.tape);
            local
                .layer
                .vjp(&at, above, Write::Set(own), Write::Skip, &mut here.work);
            let root = layers.weight(t - 1).as_f64().sqrt();
            for (own, all) in own.chunks_exact(dims[t]).zip(&mut self.norms) {
                *all = all.hypot(norm(own) / root);
            }
        }
        for t in 1..depth {
            let own = &mut self.parts[t - 1];
            let weight = layers.weight(t - 1);
            own.iter_mut().for_each(|c| *c /= weight);
            if t > 1 {
                add_to(own, &self.tangent);
            }
            self.tangent.resize(dims[t + 1] * n, T::zero());
            let (before, here) = workspace.locals.split_at_mut(t);
            let (local, here) = (fed(problem.local(t), before), &mut here[0]);
            let at = local.point(&here.prediction, &here.tape);
            let own = Some(&own[..]);
            local
                .layer
                .jvp(&at, own, None, &mut self.tangent, &mut here.work);
        }
        product.clear();
        let columns = self.tangent.chunks_exact(dim).zip(&self.units);
        for ((own, unit), norm) in columns.zip(&mut self.norms) {
            product.extend(own.iter().map(|v| v.as_f64() * unit));
            *norm *= unit;
        }
    }
}

/// aᵀ b.
fn inner(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
