//! W-steps: how θ moves in a visit, and the state that this requires.

use std::sync::Arc;

use super::accumulation::Draft;
use super::motion::Motion;
use super::parts::{Change, Part, PartOptions};
use crate::check::{at_least_one, not_negative, positive, refuse};
use crate::circuit::Circuit;
use crate::decoupled::DecoupledCircuit;
use crate::energy::{Ask, LocalWorkspace, Problem, Workspace};
use crate::error::{Error, Quantity};
use crate::kernel::{Columns, Execution, Scalar, Squares, all_finite, both_finite};
use crate::layer::ParameterGroup;
use crate::optimizer::{Optimizer, Step};
use crate::parameter_solver::ParameterSolver;
use crate::state::State;

/// How the parameters move in a visit: by an [`Optimizer`] along their gradients, by a
/// [`ParameterSolver`] that solves a layer's local problem, by both, or not at all.
///
/// An optimiser steps along the gradient divided by the number of examples in the batch, so that a
/// learning rate means the same for every batch size. Each parameter group is updated separately, so
/// that weight decay applies only where it should. Every layer has its own solver state, which is
/// reset in every phase.
///
/// A solver that lowers ℓ_t a lot fits the targets, not the composed loss, which may rise while E
/// falls (on digits at depth 10 it stays far above backprop's; `docs/evidence.md`). Monitor
/// [`composed_loss`](crate::training::EpochRecord::composed_loss), and restrain θ by a proximal
/// weight or damping. Solvers work best for a single pass over projected targets at the start:
/// after it deep tanh and sigmoid circuits carry their input, whatever their initial weights were.
///
/// # Examples
/// ```
/// use layerwise::parameter_solver::LeastSquares;
/// use layerwise::prelude::*;
/// use layerwise::training::{Decoupling, WStep};
///
/// // Adam moves the layers that least squares cannot handle, such as one with a softmax loss.
/// let solver = LeastSquares::ridge(1e-3)?.with_proximal(0.1)?;
/// let w_step = WStep::solver(solver).with_optimizer(Adam::new(1e-2)?);
/// let phase: Phase<f64> =
///     Phase::with_w_step(Decoupling::persistent(ReverseSweep::new(1)), w_step)?;
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct WStep<T: Scalar> {
    rule: Option<Arc<dyn Optimizer<T>>>,
    solvers: Solvers<T>,
    steps: u64,
    max_norm: Option<f64>,
    accumulation: u64,
    parts: PartOptions,
}

/// Which layers are solved.
#[derive(Debug, Clone)]
enum Solvers<T: Scalar> {
    None,
    WhereItFits(Arc<dyn ParameterSolver<T>>),
    Of(Vec<(usize, Arc<dyn ParameterSolver<T>>)>),
}

impl<T: Scalar> WStep<T> {
    /// Steps of `rule` in every layer.
    pub fn optimizer(rule: impl Optimizer<T> + 'static) -> Self {
        Self::none().with_optimizer(rule)
    }

    /// Every layer that `solver` can handle ([`ParameterSolver::check`]) gets its solution; the others
    /// do not move, unless there is also an optimiser.
    pub fn solver(solver: impl ParameterSolver<T> + 'static) -> Self {
        Self {
            solvers: Solvers::WhereItFits(Arc::new(solver)),
            ..Self::none()
        }
    }

    /// Only layer t gets the solution of `solver`; solvers for other layers can be added.
    pub fn solver_of_layer(t: usize, solver: impl ParameterSolver<T> + 'static) -> Self {
        Self::none().with_solver_of_layer(t, solver)
    }

    /// θ does not move; only targets do.
    pub fn none() -> Self {
        Self {
            rule: None,
            solvers: Solvers::None,
            steps: 1,
            max_norm: None,
            accumulation: 1,
            parts: PartOptions::default(),
        }
    }

    /// Layers without a solver step by `rule`.
    pub fn with_optimizer(mut self, rule: impl Optimizer<T> + 'static) -> Self {
        self.rule = Some(Arc::new(rule));
        self
    }

    /// Adds a solver for layer t, besides those of other layers. This removes a solver that was set
    /// for all layers.
    pub fn with_solver_of_layer(
        mut self,
        t: usize,
        solver: impl ParameterSolver<T> + 'static,
    ) -> Self {
        let mut own = match self.solvers {
            Solvers::Of(own) => own,
            _ => Vec::new(),
        };
        own.retain(|(layer, _)| *layer != t);
        own.push((t, Arc::new(solver)));
        self.solvers = Solvers::Of(own);
        self
    }

    /// Makes `steps` steps per visit instead of one, each from a new evaluation.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for 0.
    pub fn with_steps(mut self, steps: u64) -> Result<Self, Error> {
        self.steps = at_least_one("WStep::steps", steps)?;
        Ok(self)
    }

    /// Clips the mean gradient to this norm, taken over all parameters that the optimiser moves.
    /// Pascanu, Mikolov & Bengio 2013. Since the norm covers all layers, a step waits for every
    /// layer. With [`WStep::with_accumulation`] the mean over all accumulated visits is clipped,
    /// once per step.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless the norm is above 0 and finite.
    #[doc(alias("clip", "gradient clipping"))]
    pub fn with_max_gradient_norm(mut self, norm: f64) -> Result<Self, Error> {
        self.max_norm = Some(positive("WStep::max_gradient_norm", norm)?);
        Ok(self)
    }

    /// Makes the optimiser step once every k visits, k = `visits`, along the mean gradient of their
    /// examples:
    ///
    /// (1/n) Σ_v Σᵢ ∂E/∂θ over the k visits v with n examples in total.
    ///
    /// With schemes that move no targets, or refresh them, k visits of m examples make the step of
    /// one visit of k·m examples, up to rounding, in the memory of m. As the last batch of an epoch
    /// may be smaller, so the last step of an epoch takes what has been accumulated. Between steps θ
    /// rests, while targets move at every visit. Sums in progress are part of the session's state; a
    /// visit that fails adds nothing to them, and sums of a phase that is interrupted are dropped
    /// with its state. The learning rate's schedule counts visits; the factor of the visit that
    /// steps is the one that counts.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for 0.
    ///
    /// # Examples
    /// ```
    /// use layerwise::prelude::*;
    ///
    /// // 8 examples at a time, a step every 32.
    /// let w_step = WStep::optimizer(Adam::new(1e-3)?).with_accumulation(4)?;
    /// let phase: Phase<f64> = Phase::with_w_step(Backprop, w_step)?.with_batch_size(8)?;
    /// # Ok::<(), Error>(())
    /// ```
    #[doc(alias("gradient accumulation", "micro-batch"))]
    pub fn with_accumulation(mut self, visits: u64) -> Result<Self, Error> {
        self.accumulation = at_least_one("WStep::accumulation", visits)?;
        Ok(self)
    }

    /// Multiplies the optimiser's learning rate by `factor` for the parameters of `part`. Of
    /// several factors for the same parameters, the last counts. It applies in addition to the
    /// phase's schedule. A run refuses a factor for parameters that the optimiser does not move,
    /// because all of them are frozen or in layers with a solver ([`Error::Combination`]).
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless the factor is above 0 and finite.
    #[doc(alias("learning rate", "discriminative", "param_groups"))]
    pub fn with_rate_factor(mut self, part: Part, factor: f64) -> Result<Self, Error> {
        let factor = positive("WStep::rate_factor", factor)?;
        self.parts.push(part, Change::Rate(factor));
        Ok(self)
    }

    /// Multiplies the optimiser's weight decay by `factor` for the parameters of `part`, also for
    /// groups that do not decay otherwise, such as biases; 0 means no decay. Of several factors for
    /// the same parameters, the last counts.
    ///
    /// Only a rule that decays ([`Optimizer::decays`], such as
    /// [`AdamW`](crate::optimizer::AdamW)) can have a factor. An L2 term of E by layer is
    /// [`Energy::with_parameter_regularizers`](crate::energy::Energy::with_parameter_regularizers).
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless the factor is at least 0 and finite.
    #[doc(alias = "weight decay")]
    pub fn with_decay_factor(mut self, part: Part, factor: f64) -> Result<Self, Error> {
        let factor = not_negative("WStep::decay_factor", factor)?;
        self.parts.push(part, Change::Decay(factor));
        Ok(self)
    }

    /// Freezes the parameters of `part`: they do not move or decay, and a maximum gradient norm does
    /// not count them. Of a layer that is frozen as a whole, the gradient in θ_t is not computed. Its
    /// targets, and those around it, move as before.
    ///
    /// A solver for all layers leaves out those that are frozen as a whole. A run refuses a solver that
    /// would move a layer of which only a part is frozen ([`Error::Combination`]).
    #[doc(alias("fine-tuning", "requires_grad", "transfer learning"))]
    pub fn with_frozen(mut self, part: Part) -> Self {
        self.parts.push(part, Change::Freeze);
        self
    }

    /// Refuses options that would have no effect.
    pub(super) fn check(&self) -> Result<(), Error> {
        let parts = &self.parts;
        let what = match &self.rule {
            None if !self.solves() && self.steps > 1 => "several parameter steps with no W-step",
            None if self.max_norm.is_some() => "a maximum gradient norm without an optimiser",
            None if self.accumulation > 1 => "accumulated gradients without an optimiser",
            None if parts.any(|own| own != Change::Freeze) => {
                "a factor of the learning rate or weight decay without an optimiser"
            }
            None if !self.solves() && parts.any(|_| true) => "frozen parameters with no W-step",
            Some(rule) if !rule.decays() && parts.any(|own| matches!(own, Change::Decay(_))) => {
                "a factor of the weight decay with an optimiser that has none"
            }
            Some(_) if self.accumulation > 1 && self.steps > 1 => {
                return refuse(
                    "accumulated gradients with several parameter steps",
                    "one asks for fewer steps than visits, and the other for more",
                );
            }
            Some(_) if self.accumulation > 1 && self.solves() => {
                return refuse(
                    "accumulated gradients with parameter solvers",
                    "a solver fits the targets of one batch",
                );
            }
            _ => return Ok(()),
        };
        refuse(what, "it would have no effect")
    }

    /// Checks that the circuit has every part that the options name, that no solver would move what is
    /// frozen, and that every option of the optimiser has an effect, and so has the schedule if it acts on
    /// nothing but the optimiser's rate (`schedules`).
    pub(super) fn check_on(
        &self,
        model: &DecoupledCircuit<T>,
        schedules: bool,
    ) -> Result<(), Error> {
        self.parts.check(model)?;
        let circuit = model.circuit();
        let none = model.layers().on(model.examples.run(0..0, 0, true));
        let mut stepped = Vec::with_capacity(circuit.depth());
        for t in 0..circuit.depth() {
            let [all, some] = self.parts.freezing(t, circuit.parameter_groups(t));
            let solved = self.solver_of(t).is_some_and(|solver| match &self.solvers {
                Solvers::WhereItFits(_) => !all && solver.check(&none.local(t)).is_ok(),
                _ => true,
            });
            if solved && some {
                return refuse(
                    "a parameter solver for a layer with frozen parameters",
                    "a solver moves all parameters of its layer",
                );
            }
            stepped.push(self.rule.is_some() && !solved);
        }
        self.parts.check_effect(circuit, &stepped)?;
        if stepped.contains(&true) {
            return Ok(());
        }
        let what = match self.max_norm {
            _ if schedules => "a learning-rate schedule where no layer has an optimiser",
            Some(_) => "a maximum gradient norm where no layer has an optimiser",
            None => return Ok(()),
        };
        refuse(
            what,
            "parameter solvers and empty W-steps have no learning rate and follow no gradient",
        )
    }

    /// Steps per visit.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Whether some layers have a solver.
    pub fn solves(&self) -> bool {
        !matches!(self.solvers, Solvers::None)
    }

    /// Whether θ does not move.
    pub fn is_none(&self) -> bool {
        self.rule.is_none() && !self.solves()
    }

    /// Whether a layer's step needs nothing but the visit's gradient of that layer.
    pub(super) fn is_layerwise(&self) -> bool {
        self.max_norm.is_none() && self.accumulation == 1
    }

    /// Visits per step.
    pub(super) fn accumulation(&self) -> u64 {
        self.accumulation
    }

    /// What an evaluation before the step must compute. Layers with a solver need no gradient, and
    /// a step with solvers computes the gradients of the other layers itself.
    pub(super) fn ask(&self) -> Ask {
        match self.rule.is_some() && !self.solves() {
            true => Ask::PARAMETERS,
            false => Ask::VALUE,
        }
    }

    /// The optimiser.
    pub(super) fn rule(&self) -> Option<&dyn Optimizer<T>> {
        self.rule.as_deref()
    }

    fn solver_of(&self, t: usize) -> Option<&dyn ParameterSolver<T>> {
        match &self.solvers {
            Solvers::None => None,
            Solvers::WhereItFits(solver) => Some(solver.as_ref()),
            Solvers::Of(own) => {
                let found = own.iter().find(|(layer, _)| *layer == t);
                found.map(|(_, solver)| solver.as_ref())
            }
        }
    }

    /// The state with which a phase on `model` begins.
    ///
    /// # Errors
    /// That of [`ParameterSolver::check`] if a solver can handle no layer at all, or cannot handle
    /// the layer it was set for; [`Error::UnknownLayer`].
    pub(super) fn start(&self, model: &DecoupledCircuit<T>) -> Result<WState<T>, Error> {
        let circuit = model.circuit();
        let depth = circuit.depth();
        if let Solvers::Of(own) = &self.solvers {
            for &(t, _) in own {
                model.check_layer(t)?;
            }
        }
        let none = model.layers().on(model.examples.run(0..0, 0, true));
        let slots = self.rule.as_ref().map_or(0, |rule| rule.slots());
        let (mut layers, mut refused) = (Vec::with_capacity(depth), None);
        for t in 0..depth {
            let [frozen, _] = self.parts.freezing(t, circuit.parameter_groups(t));
            let mut solver = None;
            if let Some(own) = self.solver_of(t).filter(|_| !frozen) {
                match (own.check(&none.local(t)), &self.solvers) {
                    (Ok(()), _) => solver = Some(own.start()),
                    (Err(error), Solvers::Of(_)) => return Err(error),
                    (Err(error), _) => refused = Some(error),
                }
            }
            let count = circuit.parameters(t).len();
            let sums = self.accumulation > 1 && !frozen;
            layers.push(LayerState {
                moments: vec![T::zero(); slots * count],
                sum: vec![T::zero(); if sums { 2 * count } else { 0 }],
                solver,
                frozen,
                motion: Motion::default(),
                target: Motion::default(),
            });
        }
        match refused {
            Some(error) if layers.iter().all(|own| own.solver.is_none()) => Err(match error {
                Error::ParameterSolver {
                    solver,
                    layer,
                    reason,
                } => Error::ParameterSolver {
                    solver,
                    layer,
                    reason: format!("{reason}; it can solve no layer of this circuit"),
                },
                error => error,
            }),
            _ => Ok(WState {
                steps: 0,
                pending_visits: 0,
                pending_examples: 0,
                layers,
            }),
        }
    }
}

/// What W-steps keep: the number of steps, and, by layer, the optimiser's moments and the solver's
/// state.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct WState<T> {
    /// Completed steps.
    pub(super) steps: u64,
    /// Visits, and their examples, whose gradients are in the layers' sums.
    pub(super) pending_visits: u64,
    pub(super) pending_examples: u64,
    pub(super) layers: Vec<LayerState<T>>,
}

impl<T: Scalar> WState<T> {
    /// Whether this can be a later state of what began as `start`, perhaps with other layers frozen, or
    /// with solvers for other layers, as long as the sizes stay the same.
    pub(super) fn fits(&self, start: &Self) -> bool {
        let mut layers = self.layers.iter().zip(&start.layers);
        self.layers.len() == start.layers.len()
            && layers.all(|(own, start)| {
                let solvers = match (&own.solver, &start.solver) {
                    (Some(own), Some(start)) => own.fits(start),
                    (own, start) => own.iter().chain(start).all(|one| one.size() == 0),
                };
                let sizes =
                    own.moments.len() == start.moments.len() && own.sum.len() == start.sum.len();
                solvers && sizes
            })
    }

    /// Takes over from `start`, which it must fit, which layers are frozen and which have a solver.
    pub(super) fn follow(&mut self, start: Self) {
        for (own, start) in self.layers.iter_mut().zip(start.layers) {
            own.frozen = start.frozen;
            if own.solver.is_some() != start.solver.is_some() {
                own.solver = start.solver;
            }
        }
    }

    /// The largest of its counts.
    pub(super) fn largest_count(&self) -> u64 {
        let solvers = self.layers.iter().flat_map(|own| &own.solver);
        let own = self
            .steps
            .max(self.pending_visits)
            .max(self.pending_examples);
        solvers.fold(own, |top, own| top.max(own.largest_count()))
    }

    /// The number of values it holds.
    pub(super) fn size(&self) -> usize {
        let solver = |own: &LayerState<T>| own.solver.as_ref().map_or(0, State::size);
        let layers = self.layers.iter();
        layers
            .map(|own| own.moments.len() + own.sum.len() + solver(own))
            .sum()
    }
}

/// One layer's part.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct LayerState<T> {
    /// The rule's state, block by block within each parameter group.
    pub(super) moments: Vec<T>,
    /// The sum of the gradients since the last step, as pairs; empty unless gradients are accumulated.
    pub(super) sum: Vec<T>,
    /// Whether the options freeze all of θ_t.
    pub(super) frozen: bool,
    /// `None` for a layer without a solver.
    solver: Option<State<T>>,
    /// θ_t is pulled by a gradient in an optimiser's step that is not 0, or by a solver that is stuck.
    pub(super) motion: Motion,
    /// That of z_{t+1}, if it is hidden: Z-steps pull it ([`pull`](super::motion::pull)).
    pub(super) target: Motion,
}

impl<T: Scalar> LayerState<T> {
    /// Whether an optimiser steps along the gradient of θ_t. (A solver may leave θ_t at rest.)
    pub(super) fn steps(&self, w_step: &WStep<T>) -> bool {
        self.solver.is_none() && w_step.rule.is_some() && !self.frozen
    }

    /// Whether `w_step` moves θ_t.
    fn moves(&self, w_step: &WStep<T>) -> bool {
        self.solver.is_some() || self.steps(w_step)
    }

    /// Records whether the gradient is nonzero.
    pub(super) fn feel(&mut self, gradient: &[T]) {
        self.motion.pulled = self.motion.pulled || gradient.iter().any(|g| !g.is_zero());
    }

    /// Swaps θ_t and the new θ_t.
    fn commit(&mut self, own: &mut Vec<T>, next: &mut Vec<T>) {
        self.motion.moved = self.motion.moved || own != next;
        std::mem::swap(own, next);
    }
}

/// One layer's step in progress: the new θ_t, and its solver's new state, are computed in separate
/// memory, and swapped in once every layer's θ_t is known to be finite.
#[derive(Debug, Clone)]
pub(super) struct LayerStep<T> {
    /// The new θ_t, unless it overwrites its gradient.
    next: Vec<T>,
    /// The new state of the layer's solver.
    solver: State<T>,
    /// The sum of gradients that the visit in progress has drafted, as pairs.
    pub(super) sum: Vec<T>,
    pub(super) fault: Option<Fault>,
    error: Option<Error>,
    /// Σᵢ ‖z_{t+1}ⁱ − ẑ_{t+1}ⁱ‖² before a joint step, for a hidden layer.
    pub(super) squared_gap: Squares,
    /// Until z_{t+1} has moved in the phase: its values before a Z-step, and its pull there, if that was
    /// measured.
    pub(super) target: Vec<T>,
    pub(super) pull: f64,
}

impl<T: Scalar> LayerStep<T> {
    pub(super) fn new() -> Self {
        Self {
            squared_gap: Squares::zero(),
            target: Vec::new(),
            pull: 0.0,
            next: Vec::new(),
            solver: State::default(),
            sum: Vec::new(),
            fault: None,
            error: None,
        }
    }
}

/// What is not finite in a step. A faulty gradient takes precedence over the values it leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    Value,
    Gradient,
}

impl Fault {
    pub(super) fn of<T: Scalar>(gradient: &[T], values: &[T]) -> Option<Self> {
        if both_finite(gradient, values) {
            None
        } else if !all_finite(gradient) {
            Some(Self::Gradient)
        } else {
            (!all_finite(values)).then_some(Self::Value)
        }
    }

    /// Refuses a step with faults, one entry per layer: the first faulty gradient, or else the first
    /// faulty value. `quantities` names the two.
    pub(super) fn check(
        layers: impl Iterator<Item = (usize, Option<Self>)> + Clone,
        quantities: [Quantity; 2],
        step: u64,
    ) -> Result<(), Error> {
        for (fault, quantity) in [Self::Gradient, Self::Value].into_iter().zip(quantities) {
            if let Some((layer, _)) = layers.clone().find(|&(_, own)| own == Some(fault)) {
                return Err(Error::NonFinite {
                    quantity,
                    layer,
                    step,
                });
            }
        }
        Ok(())
    }
}

/// Number of values updated at a time: few enough to be checked while they are in the L1 cache.
const BLOCK: usize = 1024;

/// Cost of updating one value, in multiply-adds of a product: it is memory-bound.
const COST: usize = 32;

/// One W-step on `problem`: computes the new θ and the solvers' new states in separate memory, and
/// changes only the optimisers' states.
/// Returns whether there is a new θ; there is none while gradients accumulate.
///
/// The workspace must hold the energies and predictions of `problem`, and the gradients that
/// [`WStep::ask`] requests; `factor` multiplies the learning rate.
pub(super) fn prepare<T: Scalar>(
    w_step: &WStep<T>,
    state: &mut WState<T>,
    (steps, draft): (&mut [LayerStep<T>], &mut Draft),
    problem: Problem<'_, T>,
    workspace: &mut Workspace<T>,
    factor: f64,
) -> Result<bool, Error> {
    let (number, execution) = (state.steps, problem.batch().execution);
    workspace.check_energies(number)?;
    // An earlier step may have failed.
    steps.iter_mut().for_each(|own| own.fault = None);
    if w_step.solves() {
        solve(w_step, state, steps, problem, workspace)?;
    }
    if w_step.rule.is_none() {
        return Ok(true);
    }
    let circuit = problem.layers().circuit();
    for (t, local) in workspace.locals.iter_mut().enumerate() {
        if state.layers[t].steps(w_step) {
            w_step.mask(t, circuit.parameter_groups(t), &mut local.d_parameters);
        }
    }
    let n = problem.batch().len();
    let Some(examples) = draft.add(w_step, state, steps, workspace, n)? else {
        return Ok(false);
    };
    let along = |t: usize| state.layers[t].steps(w_step);
    let step = begin(w_step, number, workspace, examples, factor, along);
    let gradients = &*workspace;
    execution.for_each_pair(&mut state.layers, steps, |t, state, own| {
        if state.steps(w_step) {
            let theta = (t, circuit.parameters(t), circuit.parameter_groups(t));
            let gradient = &gradients.locals[t].d_parameters;
            state.feel(gradient);
            own.next.resize(gradient.len(), T::zero());
            let (moments, next) = (&mut state.moments, &mut own.next);
            let gradient = Some(&gradient[..]);
            own.fault = w_step.step_into(step, theta, moments, gradient, next, execution);
        }
    });
    check(steps, number).map(|()| true)
}

/// The solutions of the layers with a solver, and the gradients of those without.
fn solve<T: Scalar>(
    w_step: &WStep<T>,
    state: &mut WState<T>,
    steps: &mut [LayerStep<T>],
    problem: Problem<'_, T>,
    workspace: &mut Workspace<T>,
) -> Result<(), Error> {
    let number = state.steps;
    let along = w_step.rule().is_some();
    let items = (
        &mut workspace.locals[..],
        (&mut state.layers[..], &mut *steps),
    );
    let solve = |t: usize, (local, (state, own)): LayerItems<'_, T>| {
        let (local, state, own) = (&mut local[0], &mut state[0], &mut own[0]);
        let problem = problem.local(t);
        match (&state.solver, w_step.solver_of(t)) {
            (Some(before), Some(solver)) => {
                own.next.clear();
                own.next.extend_from_slice(problem.parameters);
                own.solver.clone_from(before);
                let solved = solver.solve(&mut own.solver, &problem, local, &mut own.next);
                state.motion.pulled |= solved.as_ref().is_ok_and(|report| report.stuck);
                own.error = solved.err();
                own.fault = (!all_finite(&own.next)).then_some(Fault::Value);
            }
            _ if along && !state.frozen => {
                problem.differentiate(Ask::PARAMETERS, local);
            }
            _ => {}
        }
    };
    let execution = problem.batch().execution;
    execution.for_each_item(problem.layers().depth(), items, solve);
    match steps.iter_mut().find_map(|own| own.error.take()) {
        Some(error) => Err(error),
        None => check(steps, number),
    }
}

type LayerItems<'a, T> = (
    &'a mut [LocalWorkspace<T>],
    (&'a mut [LayerState<T>], &'a mut [LayerStep<T>]),
);

/// The step along the mean of the gradients in the workspace, clipped to the maximum norm over the
/// layers that `along` selects.
pub(super) fn begin<T: Scalar>(
    w_step: &WStep<T>,
    number: u64,
    gradients: &Workspace<T>,
    examples: u64,
    factor: f64,
    along: impl Fn(usize) -> bool,
) -> Step {
    let mut mean = 1.0 / examples as f64;
    if let Some(max) = w_step.max_norm {
        let [unit, length] = gradients.parameter_gradient_norm(along);
        if mean * unit * length > max {
            mean = max / unit / length;
        }
    }
    Step::new(number + 1, factor).with_gradient_factor(mean)
}

/// Checks that every layer's step is finite.
pub(super) fn check<T>(steps: &[LayerStep<T>], number: u64) -> Result<(), Error> {
    let faults = steps.iter().map(|own| own.fault).enumerate();
    let quantities = [Quantity::ParameterGradient, Quantity::Parameter];
    Fault::check(faults, quantities, number)
}

/// Gives every layer that moves its new θ_t, and counts the step.
pub(super) fn commit<T: Scalar>(
    w_step: &WStep<T>,
    state: &mut WState<T>,
    (steps, draft): (&mut [LayerStep<T>], &mut Draft),
    circuit: &mut Circuit<T>,
) {
    draft.clear(state);
    let layers = state.layers.iter_mut().zip(steps);
    for (own, (state, step)) in circuit.parameters_mut().iter_mut().zip(layers) {
        if state.moves(w_step) {
            state.commit(own, &mut step.next);
        }
        if let Some(solver) = &mut state.solver {
            solver.swap_numbers(&mut step.solver);
        }
    }
    state.steps += 1;
}

/// Like [`commit`], for new θ_t that overwrote their gradients.
pub(super) fn commit_over<T: Scalar>(
    state: &mut WState<T>,
    circuit: &mut Circuit<T>,
    workspace: &mut Workspace<T>,
) {
    let layers = state.layers.iter_mut().zip(&mut workspace.locals);
    for (own, (state, local)) in circuit.parameters_mut().iter_mut().zip(layers) {
        if !state.frozen {
            state.commit(own, &mut local.d_parameters);
        }
    }
    state.steps += 1;
}

impl<T: Scalar> WStep<T> {
    /// Sets the gradient of frozen groups of layer t to zero, so that no norm and no sum counts it.
    pub(super) fn mask(&self, t: usize, groups: &[ParameterGroup], gradient: &mut [T]) {
        self.parts.mask(t, groups, gradient);
    }

    /// A step of the optimiser that writes the new θ_t to `place`, group by group, since each may
    /// have its own options. `theta` is t, θ_t and its groups. If `gradient` is `None`, `place` holds
    /// the gradient, which saves a third of the memory traffic.
    pub(super) fn step_into(
        &self,
        step: Step,
        (t, own, groups): (usize, &[T], &[ParameterGroup]),
        moments: &mut [T],
        gradient: Option<&[T]>,
        place: &mut [T],
        execution: Execution,
    ) -> Option<Fault> {
        let rule = self.rule()?;
        let slots = rule.slots();
        let mut worst = None;
        let mut states = moments;
        for group in groups {
            let range = group.range.clone();
            let (state, rest) = states.split_at_mut(slots * range.len());
            states = rest;
            let own = &own[range.clone()];
            let Some(step) = self.parts.step(step, t, group) else {
                place[range].copy_from_slice(own);
                continue;
            };
            let gradient = gradient.map(|gradient| &gradient[range.clone()]);
            let columns = |values, size| Columns { values, size };
            let data = (columns(&mut place[range], 1), columns(state, slots));
            let fault = execution.map_blocks(
                own.len(),
                COST,
                BLOCK,
                data,
                |range, (place, state)| {
                    let gradient = gradient.map(|gradient| &gradient[range.clone()]);
                    let (place, state) = (place.values, state.values);
                    step_blocks(rule, step, &own[range], gradient, place, state)
                },
                Ord::max,
            );
            worst = worst.max(fault);
        }
        worst
    }
}

/// Steps in blocks of values that fit into the L1 cache.
fn step_blocks<T: Scalar>(
    rule: &dyn Optimizer<T>,
    step: Step,
    own: &[T],
    gradient: Option<&[T]>,
    place: &mut [T],
    mut states: &mut [T],
) -> Option<Fault> {
    let slots = rule.slots();
    let mut room = [T::zero(); BLOCK];
    let mut worst = None;
    let mut gradients = gradient.map(|gradient| gradient.chunks(BLOCK));
    for (own, place) in own.chunks(BLOCK).zip(place.chunks_mut(BLOCK)) {
        let gradient = gradients.as_mut().and_then(Iterator::next);
        let gradient = gradient.unwrap_or(place);
        let (state, rest) = states.split_at_mut(slots * own.len());
        states = rest;
        let next = &mut room[..own.len()];
        next.copy_from_slice(own);
        rule.update(step, next, gradient, state);
        worst = worst.max(Fault::of(gradient, next));
        place.copy_from_slice(next);
    }
    worst
}
