//! The problem of a Z-step.

use std::ops::Range;

use crate::check::check_computed;
use crate::energy::{
    Ask, Batch, BatchMut, Evaluation, Layers, LocalWorkspace, Problem, Wanted, Workspace,
};
use crate::error::{Error, Quantity};
use crate::kernel::{Execution, Scalar, Squares, add_scaled, add_to, quick_norm, smallest};

/// The problem of a Z-step: E over z_1, …, z_{T−1} of one batch, with θ fixed.
///
/// Predictions are recomputed only if those in the workspace do not belong to the current targets.
#[derive(Debug)]
pub struct TargetProblem<'a, T: Scalar> {
    layers: Layers<'a, T>,
    batch: BatchMut<'a, T>,
    /// λ_1, …, λ_{T−1}; empty if there are none.
    multipliers: &'a [Vec<T>],
    workspace: &'a mut Workspace<T>,
    predictions: &'a mut Predictions,
}

/// What the predictions in a workspace belong to; code that moves targets or θ must update this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Predictions {
    /// Not to this batch and θ.
    None,
    /// To this batch and θ, but to targets that have changed since.
    Earlier,
    /// To the current targets.
    Current,
    /// To the current targets, and so do the energies.
    Evaluated,
}

impl Predictions {
    fn are_current(self) -> bool {
        matches!(self, Self::Current | Self::Evaluated)
    }
}

impl<'a, T: Scalar> TargetProblem<'a, T> {
    pub(crate) fn new(
        layers: Layers<'a, T>,
        batch: BatchMut<'a, T>,
        multipliers: &'a [Vec<T>],
        workspace: &'a mut Workspace<T>,
        predictions: &'a mut Predictions,
    ) -> Self {
        Self {
            layers,
            batch,
            multipliers,
            workspace,
            predictions,
        }
    }

    /// The circuit with the terms of E; its parameters do not change.
    pub fn layers(&self) -> Layers<'a, T> {
        self.layers
    }

    /// E on the batch, with the multipliers, for read access.
    pub fn problem(&self) -> Problem<'_, T> {
        Problem {
            layers: self.layers,
            batch: self.batch.view(),
            multipliers: self.multipliers,
        }
    }

    /// How the layers' problems are scheduled.
    pub(super) fn execution(&self) -> Execution {
        self.batch.base.execution
    }

    /// z_0, …, z_T.
    pub fn batch(&self) -> Batch<'_, T> {
        self.batch.view()
    }

    /// What an evaluation reads, and the workspace that it writes.
    pub(super) fn split(&mut self) -> (Problem<'_, T>, &mut Workspace<T>) {
        let problem = Problem {
            layers: self.layers,
            batch: self.batch.view(),
            multipliers: self.multipliers,
        };
        (problem, self.workspace)
    }

    /// The targets, mutable. All mutable access goes through here.
    fn targets(&mut self) -> (&mut BatchMut<'a, T>, &Workspace<T>) {
        if self.predictions.are_current() {
            *self.predictions = Predictions::Earlier;
        }
        (&mut self.batch, self.workspace)
    }

    /// The auxiliary targets z_t, d_t × n column-major, mutable. Panics if t is not in 1..T.
    pub fn target_mut(&mut self, t: usize) -> &mut [T] {
        self.targets().0.target_mut(t)
    }

    /// z_t ← `new`, whose values must be finite.
    pub(crate) fn set(&mut self, t: usize, new: &[T]) {
        self.targets().0.set(t, new);
    }

    /// z_t, mutable, together with ∂E/∂z_t from the last [`TargetProblem::evaluate`] or
    /// [`TargetProblem::target_gradient`]. Panics if t is not in 1..T, or if no gradient was
    /// evaluated yet.
    pub fn target_and_gradient(&mut self, t: usize) -> (&mut [T], &[T]) {
        let (batch, workspace) = self.targets();
        (batch.target_mut(t), workspace.target_gradient(t))
    }

    /// Results of the last evaluation.
    pub(crate) fn workspace(&self) -> &Workspace<T> {
        self.workspace
    }

    /// Sets every z_t to ẑ_t of the plain forward pass.
    ///
    /// # Errors
    /// [`Error::NonFinite`] if a prediction is not finite; the targets then do not change.
    pub fn refresh(&mut self) -> Result<(), Error> {
        // If this fails, the workspace does not hold predictions from the targets.
        *self.predictions = Predictions::None;
        let (problem, workspace) = self.split();
        problem.forward_pass(workspace);
        let hidden = 1..self.layers.depth();
        for t in hidden.clone() {
            let prediction = &self.workspace.locals[t - 1].prediction;
            check_computed(Quantity::Prediction, t, 0, prediction)?;
        }
        for t in hidden {
            let (batch, workspace) = self.targets();
            let prediction = &workspace.locals[t - 1].prediction;
            batch.set(t, prediction);
        }
        *self.predictions = Predictions::Current;
        Ok(())
    }

    /// Sets z_t by `choose(t, ẑ_t, z_t)` for t = 1, …, T−1 in this order, where ẑ_t = f(z_{t−1}, θ)
    /// is the prediction from the target below, which was just set.
    ///
    /// # Errors
    /// [`Error::NonFinite`] if a target is not finite; all are then restored.
    pub fn chain(&mut self, mut choose: impl FnMut(usize, &[T], &mut [T])) -> Result<(), Error> {
        let depth = self.layers.depth();
        self.workspace.fit(depth);
        self.attempt(0, |problem| {
            *problem.predictions = Predictions::None;
            for t in 0..depth {
                let (problem_now, workspace) = problem.split();
                problem_now.local(t).predict(&mut workspace.locals[t]);
                if t + 1 < depth {
                    let (batch, workspace) = problem.targets();
                    let prediction = &workspace.locals[t].prediction;
                    choose(t + 1, prediction, batch.target_mut(t + 1));
                }
            }
            *problem.predictions = Predictions::Current;
            Ok(())
        })
    }

    /// Makes one step of a solver completely or not at all: if `step` fails, or makes a target
    /// non-finite, all targets are restored.
    ///
    /// # Errors
    /// That of `step`, or [`Error::NonFinite`] with `number` as its step.
    pub fn attempt(
        &mut self,
        number: u64,
        step: impl FnOnce(&mut Self) -> Result<(), Error>,
    ) -> Result<(), Error> {
        // Taken out, so that a nested attempt has its own memory.
        let mut before = std::mem::take(&mut self.workspace.previous);
        self.save(&mut before);
        let made = step(self).and_then(|()| self.check_targets(number));
        if made.is_err() {
            self.draw_back(&before, 0..self.batch.base.len(), T::zero());
        }
        self.workspace.previous = before;
        made
    }

    /// Copies z_1, …, z_{T−1} to `before`.
    pub(super) fn save(&self, before: &mut Vec<Vec<T>>) {
        let (batch, hidden) = (self.batch.view(), 1..self.layers.depth());
        before.resize_with(hidden.len(), Vec::new);
        for (t, before) in hidden.zip(before) {
            before.clear();
            before.extend_from_slice(batch.z(t));
        }
    }

    /// z ← z' + `share` · (z − z') for some examples, where z' are the targets in `before`.
    pub(super) fn draw_back(&mut self, before: &[Vec<T>], examples: Range<usize>, share: T) {
        let dims = self.layers.dims();
        let (batch, _) = self.targets();
        for (t, before) in (1..).zip(before) {
            let own = examples.start * dims[t]..examples.end * dims[t];
            let (z, before) = (&mut batch.target_mut(t)[own.clone()], &before[own]);
            if share.is_zero() {
                z.copy_from_slice(before);
                continue;
            }
            for (z, &before) in z.iter_mut().zip(before) {
                *z = before + share * (*z - before);
            }
        }
    }

    /// Checks that all targets are finite.
    pub(super) fn check_targets(&self, number: u64) -> Result<(), Error> {
        let batch = self.batch.view();
        (1..self.layers.depth())
            .try_for_each(|t| check_computed(Quantity::Target, t, number, batch.z(t)))
    }

    /// Computes every ẑ_{t+1} = f_t(z_t, θ_t), unless they are current.
    pub fn predict(&mut self) {
        if !self.predictions.are_current() {
            let (problem, workspace) = self.split();
            problem.predict_locally(workspace);
            *self.predictions = Predictions::Current;
        }
    }

    /// Like [`TargetProblem::predict`], but does nothing if the workspace has predictions for this
    /// batch, even if its targets have changed since.
    fn predict_once(&mut self) {
        if *self.predictions == Predictions::None {
            self.predict();
        }
    }

    /// Evaluates E and the requested gradients at the current targets.
    pub fn evaluate<W: Wanted>(&mut self, _wanted: W) -> Evaluation<'_, T, W> {
        self.differentiate(W::ASK);
        Evaluation::new(self.workspace)
    }

    /// Like [`TargetProblem::evaluate`], but leaves the results in the workspace and returns E.
    pub(crate) fn differentiate(&mut self, ask: Ask) -> T {
        let predict = !self.predictions.are_current();
        let (problem, workspace) = self.split();
        problem.differentiate(ask, predict, workspace);
        *self.predictions = Predictions::Evaluated;
        self.workspace.energy()
    }

    /// Like [`TargetProblem::differentiate`], but with the predictions and Jacobians of the last
    /// forward pass ([`TargetProblem::refresh`]), although the targets have moved since: the
    /// fixed-prediction assumption.
    pub(crate) fn evaluate_frozen(&mut self, ask: Ask) -> T {
        self.predict_once();
        let (problem, workspace) = self.split();
        problem.differentiate_frozen(ask, workspace)
    }

    /// Evaluates E, and its gradients in the errors c_t = z_t − ẑ_t instead of the targets, each with the
    /// other c fixed, so that the targets above z_t follow it: with ∂E/∂c_T counted as 0,
    ///
    /// ∂E/∂c_t = ∂E/∂z_t + J_tᵀ ∂E/∂c_{t+1}.
    ///
    /// They are left in the workspace as gradients in z_t: one VJP per layer above the first, in turn.
    pub(super) fn differentiate_errors(&mut self) {
        self.predict();
        let (problem, workspace) = self.split();
        problem.carry_errors(workspace);
        *self.predictions = Predictions::Evaluated;
    }

    /// c_t ← c_t − step · ∂E/∂c_t for t = 1, …, T−1, along the gradients of
    /// [`TargetProblem::differentiate_errors`], divided by each example's weight, and z_t = ẑ_t + c_t in this
    /// order: each ẑ_t is predicted from the new z_{t−1}. Every example makes its `share` of the step, which
    /// must be 0 if its weight is; with share 0 it keeps every bit.
    pub(super) fn descend_errors(&mut self, step: T, share: impl Fn(usize) -> T) {
        let moves = |i: usize| !share(i).is_zero();
        let depth = self.layers.depth();
        for t in 1..depth {
            // c_1 and z_1 differ by a constant.
            if t > 1 {
                self.add_prediction(t, -T::one(), moves);
                self.predict_layer(t - 1);
            }
            self.descend_by(t, step, &share);
            if t > 1 {
                self.add_prediction(t, T::one(), moves);
            }
        }
        self.predict_layer(depth - 1);
        *self.predictions = Predictions::Current;
    }

    /// z_t ← z_t + factor · ẑ_t for the examples that move, with the prediction in the workspace.
    fn add_prediction(&mut self, t: usize, factor: T, moves: impl Fn(usize) -> bool) {
        let dim = self.layers.dims()[t];
        let (batch, workspace) = self.targets();
        let z = batch.target_mut(t).chunks_exact_mut(dim);
        let predictions = workspace.locals[t - 1].prediction.chunks_exact(dim);
        for (_, (z, prediction)) in z.zip(predictions).enumerate().filter(|(i, _)| moves(*i)) {
            add_scaled(z, factor, prediction);
        }
    }

    /// ẑ_{t+1} from the current z_t.
    fn predict_layer(&mut self, t: usize) {
        let (problem, workspace) = self.split();
        problem.local(t).predict(&mut workspace.locals[t]);
    }

    /// E of the i-th example of the batch at the last evaluation, including its weight, but without
    /// Σ_t R(θ_t): beside a large constant, rounding would hide what a step of z changes.
    pub(super) fn example_energy(&self, i: usize) -> T {
        let locals = self.workspace.locals.iter();
        locals.fold(T::zero(), |sum, local| sum + local.energies_in_z[i])
    }

    /// The size of E's terms ([`LocalProblem::size`](crate::energy::LocalProblem)), summed.
    pub(crate) fn size(&mut self) -> T {
        if *self.predictions == Predictions::Evaluated {
            *self.predictions = Predictions::Current;
        }
        let (problem, workspace) = self.split();
        let depth = problem.layers.depth();
        workspace.fit(depth);
        let locals = (0..depth).zip(&mut workspace.locals);
        locals.fold(T::zero(), |sum, (t, local)| {
            sum + problem.local(t).size(local)
        })
    }

    /// (Σᵢ Σ_t ‖z_tⁱ − ẑ_tⁱ‖²)^½ over the hidden layers, without weights or μ. Squares that do not fit T
    /// do no harm.
    pub fn gap(&mut self) -> f64 {
        self.predict();
        let evaluated = *self.predictions == Predictions::Evaluated;
        let (problem, workspace) = self.split();
        let locals = &mut workspace.locals[..problem.layers.depth() - 1];
        problem.batch.execution.for_each(locals, |t, local| {
            local.squared_gap = match evaluated {
                true => problem.local(t).squared_gap(local),
                false => Squares::of_distance(problem.batch.z(t + 1), &local.prediction),
            };
        });
        Squares::all(locals.iter().map(|local| local.squared_gap)).root()
    }

    /// Returns ℓ_t, and writes only ∂E/∂θ_t to the workspace. Like
    /// [`TargetProblem::target_gradient`], it uses the predictions that are already there.
    pub(crate) fn parameter_gradient(&mut self, t: usize) -> T {
        self.predict_once();
        let (problem, workspace) = self.split();
        let local = &mut workspace.locals[t];
        problem.local(t).differentiate(Ask::PARAMETERS, local)
    }

    /// The ids of the examples, one per column, and the number of the visit: with the call and the step, all
    /// that a random draw may depend on.
    pub(super) fn draws(&self) -> (&'a [u64], u64) {
        (self.batch.base.ids, self.batch.base.visit)
    }

    /// The number of this call among the visit's calls that draw noise.
    pub(super) fn call_that_draws(&mut self) -> u64 {
        let number = *self.batch.calls;
        *self.batch.calls += 1;
        number
    }

    /// The weights of the examples, one per column; `None` if every weight is 1.
    ///
    /// A weight scales an example's energy and gradients, but must not change how its targets move,
    /// so a step along [`TargetProblem::target_gradient`] must divide by it. An example of weight 0
    /// must not move.
    pub fn example_weights(&self) -> Option<&'a [T]> {
        let weights: &'a [T] = self.batch.base.weights;
        (!weights.is_empty()).then_some(weights)
    }

    /// z_t ← z_t − step · ∂E/∂z_t, divided by each example's weight, along the gradient in the
    /// workspace; examples of weight 0 do not move. Panics if t is not in 1..T, or if no gradient was evaluated yet.
    pub fn descend(&mut self, t: usize, step: T) {
        self.descend_by(t, step, |_| T::one());
    }

    /// Like [`TargetProblem::descend`], with its own share of the step for each example; an example
    /// with share 0 does not move, even if the step is infinite.
    pub(super) fn descend_by(&mut self, t: usize, step: T, share: impl Fn(usize) -> T) {
        let weights = self.example_weights();
        let dim = self.layers.dims()[t];
        let (z, gradient) = self.target_and_gradient(t);
        let columns = z.chunks_exact_mut(dim).zip(gradient.chunks_exact(dim));
        for (i, (z, gradient)) in columns.enumerate() {
            let (share, weight) = (share(i), weights.map_or(T::one(), |weights| weights[i]));
            if share.is_zero() || weight.is_zero() {
                // An infinite step times 0 would be NaN, and so would 0/0.
                continue;
            }
            let whole = step * share;
            let step = whole / weight;
            if step.is_finite() && step.abs() >= smallest() {
                add_scaled(z, -step, gradient);
            } else if !whole.is_zero() {
                // The gradient contains the weight, so the step itself may fit.
                let columns = z.iter_mut().zip(gradient);
                columns.for_each(|(z, &gradient)| *z -= whole * (gradient / weight));
            }
        }
    }

    /// Computes only ∂E/∂z_t (target part plus input part), from the current targets and the
    /// predictions in the workspace. It does **not** recompute these: call
    /// [`TargetProblem::predict`] once before a sweep. During a sweep t = T−1, …, 1 the predictions
    /// that are yet to be read stay valid. Panics if t is not in 1..T.
    pub fn target_gradient(&mut self, t: usize) -> &[T] {
        assert!(
            0 < t && t < self.layers.depth(),
            "z_{t} is not an auxiliary target"
        );
        self.predict_once();
        let (problem, workspace) = self.split();
        gradient_of(problem, t, INPUT, &mut workspace.locals[t - 1..=t]);
        &self.workspace.locals[t - 1].d_target
    }

    /// ∂E/∂z_t, as [`TargetProblem::target_gradient`] computes it, and ∂ℓ_t/∂θ_t at the same point, with the
    /// same product. Panics if t is not in 1..T.
    pub(crate) fn both_gradients(&mut self, t: usize) {
        self.predict_once();
        let (problem, workspace) = self.split();
        let both = Ask::new(true, true, false);
        gradient_of(problem, t, both, &mut workspace.locals[t - 1..=t]);
    }

    /// [`TargetProblem::target_gradient`] for every t = `first`, `first` + 2, … below T, possibly
    /// in parallel: no two of them share a local problem.
    pub(super) fn alternate_gradients(&mut self, first: usize) {
        self.predict_once();
        let (problem, workspace) = self.split();
        let locals = &mut workspace.locals[first - 1..];
        problem
            .batch
            .execution
            .for_each_chunk(locals, 2, |i, pair| {
                if pair.len() == 2 {
                    gradient_of(problem, first + 2 * i, INPUT, pair);
                }
            });
    }

    /// Recomputes ẑ_{t+1} for t = `first`, `first` + 2, …, if only their z_t have moved since
    /// predictions were last current.
    pub(super) fn predict_alternate(&mut self, first: usize) {
        let (problem, workspace) = self.split();
        let locals = &mut workspace.locals[first..];
        problem
            .batch
            .execution
            .for_each_chunk(locals, 2, |i, pair| {
                problem.local(first + 2 * i).predict(&mut pair[0]);
            });
        *self.predictions = Predictions::Current;
    }

    /// ‖∂E/∂z_t‖ of the i-th example, divided by its weight, from the gradient in the workspace.
    pub(super) fn gradient_norm(&self, t: usize, i: usize) -> f64 {
        let dim = self.layers.dims()[t];
        let own = &self.workspace.target_gradient(t)[i * dim..(i + 1) * dim];
        let weight = self.example_weights().map_or(1.0, |own| own[i].as_f64());
        if weight == 0.0 {
            return 0.0;
        }
        quick_norm(own) / weight
    }

    /// Calls `change(t, z_t, ∂E/∂z_t, state)` for every t in 1..T, scheduled by `execution`, with one
    /// item of `states` per layer.
    pub(super) fn update_all<S: Send>(
        &mut self,
        states: &mut [S],
        change: impl Fn(usize, &mut [T], &[T], &mut S) + Sync,
    ) {
        let (batch, workspace) = self.targets();
        let execution = batch.base.execution;
        let (drafts, range) = batch.hidden_mut();
        execution.for_each_pair(drafts, states, |i, draft, state| {
            let gradient = &workspace.locals[i].d_target;
            change(i + 1, &mut draft.z[range(i)], gradient, state);
        });
    }

    /// Checks that ∂E/∂z_t in the workspace is finite.
    ///
    /// # Errors
    /// [`Error::NonFinite`] with `step`.
    ///
    /// # Panics
    /// If t is not in 1..T.
    pub fn check_target_gradient(&self, t: usize, step: u64) -> Result<(), Error> {
        let gradient = self.workspace.target_gradient(t);
        check_computed(Quantity::TargetGradient, t, step, gradient)
    }
}

const INPUT: Ask = Ask::new(false, true, false);

/// ∂E/∂z_t from the local problems of layers t − 1 and t, written to the workspace of layer t − 1; of layer t
/// what is `asked`, with ∂ℓ_t/∂z_t.
fn gradient_of<T: Scalar>(
    problem: Problem<'_, T>,
    t: usize,
    asked: Ask,
    pair: &mut [LocalWorkspace<T>],
) {
    let (below, above) = pair.split_at_mut(1);
    let (below, above) = (&mut below[0], &mut above[0]);
    let target = Ask::new(false, false, true);
    problem.local(t).differentiate(asked, above);
    problem.local(t - 1).differentiate(target, below);
    add_to(&mut below.d_target, &above.d_input);
}
