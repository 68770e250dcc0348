//! Targets that a second circuit proposes.

use std::ops::Range;
use std::sync::Arc;

use super::per_example::change_all;
use super::scheme::Scheme;
use super::solve_and_step::solve_and_step;
use super::visit::Visit;
use super::w_step::{Fault, WStep};
use crate::check::{check_computed, check_count, check_length};
use crate::circuit::Circuit;
use crate::decoupled::{DecoupledCircuit, TargetUse};
use crate::energy::{Batch, Energy, Layers, Problem, Terms, Workspace};
use crate::error::{Error, Quantity};
use crate::kernel::Scalar;
use crate::optimizer::{Optimizer, Step};
use crate::state::State;
use crate::target_solver::{TargetProblem, TargetSolver};

/// Targets from a network: a second circuit q, the proposer, is trained alongside the first and
/// computes every example's starting targets, so that none are stored per example.
///
/// A visit sets (z_1, …, z_{T−1}) = q(z_0, z_T; φ), moves them to z* with a solver, and takes a step of θ
/// there. Then φ takes a step by its own rule, with the gradient of
///
/// ```math
/// \frac 1 n ∑_i w_i ½ ‖q(z_0^i, z_T^i; φ) - z^{*i}‖²
/// ```
///
/// in which z* is a constant: the proposer learns where the solver ends, so that the solver may start
/// closer to that point in the next epoch. If the solver makes one gradient step of size η, then
/// z* = q − η ∂E/∂z, and this gradient is η/n times that of E in φ: θ and φ descend the same objective,
/// with Z tied to φ.
///
/// The proposer's input is z_0, or z_0 stacked above z_T, depending on its input dimension; its output is
/// z_1, …, z_{T−1}, stacked. From z_0 alone it can propose only one set of targets for all examples with
/// the same input; with z_T it cannot be used where the outputs are not known. The learning-rate schedule of
/// the phase applies to φ as well as to θ; options of the [`WStep`] do not.
///
/// When a phase ends, the model's targets become the proposals. φ is part of the scheme's state:
/// [`Amortized::proposer`] reads it while the phase is in progress; afterwards
/// [`SessionState::scheme`](super::SessionState::scheme) is `None`.
///
/// A run refuses a proposer with other dimensions ([`Error::Length`]), and inputs that its first layer does
/// not take. Proposals, gradients or parameters of the proposer that are not finite end it with
/// [`Error::NonFinite`], which names the layer and the step; the visit then changes neither θ nor φ.
///
/// Tschantz, Millidge, Seth & Buckley 2023 (hybrid predictive coding).
///
/// # Examples
/// ```
/// use layerwise::prelude::*;
/// use layerwise::training::{Amortized, Event, Session};
///
/// let circuit = Circuit::<f64>::builder()
///     .layer(Dense::new(2, 4, Activation::Tanh)?)
///     .layer(Dense::new(4, 3, Activation::Tanh)?)
///     .layer(Dense::new(3, 1, Activation::Identity)?)
///     .build()?;
/// let x = DMatrix::from_fn(2, 8, |i, j| ((3 * i + j) as f64).sin());
/// let y = DMatrix::from_fn(1, 8, |_, j| (j as f64).cos());
/// let mut model = DecoupledCircuit::new(circuit, Energy::default())?;
/// model.add_examples(&x, &y, &TargetInit::ForwardPass)?;
///
/// // From z_0 and z_T, 2 + 1 values, to z_1 and z_2, 4 + 3 values.
/// let proposer = Circuit::<f64>::builder()
///     .layer(Dense::new(3, 16, Activation::Tanh)?)
///     .layer(Dense::new(16, 7, Activation::Identity)?)
///     .build()?;
/// let scheme = Amortized::new(proposer, Adam::new(0.01)?, ReverseSweep::new(1))?;
/// let phase = Phase::new(scheme.clone(), Adam::new(0.01)?).with_epochs(20);
///
/// let mut session = Session::new(&Trainer::new(phase), model)?;
/// let mut learned = None;
/// while let Some(event) = session.advance()? {
///     if let (Event::Epoch(_), Some(state)) = (event, session.state().scheme()) {
///         learned = Some(scheme.proposer(state)?);
///     }
/// }
/// let learned = learned.expect("there were 20 epochs");
/// assert_eq!(learned.predict(&DMatrix::zeros(3, 1))?.nrows(), 7);
/// # Ok::<(), Error>(())
/// ```
#[doc(alias("amortised", "proposer", "hybrid predictive coding"))]
#[derive(Debug, Clone)]
pub struct Amortized<T: Scalar> {
    proposer: Circuit<T>,
    /// Squared error, nothing else.
    terms: Terms<T>,
    rule: WStep<T>,
    solver: Arc<dyn TargetSolver<T>>,
}

impl<T: Scalar> Amortized<T> {
    /// Targets that `proposer` proposes and `solver` then moves. The proposer starts from its own
    /// parameters, and `rule` trains it.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if memory cannot hold another copy of the proposer's parameters.
    pub fn new(
        mut proposer: Circuit<T>,
        rule: impl Optimizer<T> + 'static,
        solver: impl TargetSolver<T> + 'static,
    ) -> Result<Self, Error> {
        let terms = Energy::default().terms(&mut proposer)?;
        Ok(Self {
            proposer,
            terms,
            rule: WStep::optimizer(rule),
            solver: Arc::new(solver),
        })
    }

    /// The proposer with the parameters φ in `state`, the state of this scheme in a run
    /// ([`SessionState::scheme`](crate::training::SessionState::scheme)).
    ///
    /// # Errors
    /// [`Error::Length`] or [`Error::NonFiniteData`] for the state of another scheme.
    pub fn proposer(&self, state: &State<T>) -> Result<Circuit<T>, Error> {
        let [_, own] = self.parts(&state.parts)?;
        let mut proposer = self.proposer.clone();
        load(&mut proposer, &own.values)?;
        Ok(proposer)
    }

    /// The states of the solver and of the proposer.
    fn parts<'s>(&self, parts: &'s [State<T>]) -> Result<&'s [State<T>; 2], Error> {
        check_length("parts of the scheme's state", parts, 2)?;
        let two: &[State<T>; 2] = parts.try_into().expect("the length is 2");
        let (own, depth) = (&two[PROPOSER], self.proposer.depth());
        check_length("counts of the proposer's state", &own.counts, 1)?;
        check_length("arrays of the proposer's state", &own.values, 2 * depth)?;
        let (_, moments) = own.values.split_at(depth);
        for (t, moments) in moments.iter().enumerate() {
            let expected = self.slots() * self.proposer.parameters(t).len();
            check_length("moments of a layer of the proposer", moments, expected)?;
        }
        Ok(two)
    }

    fn slots(&self) -> usize {
        self.rule.rule().map_or(0, |rule| rule.slots())
    }

    /// Checks that the proposer maps an example of these dimensions to its targets.
    fn check_dims(&self, dims: &[usize]) -> Result<(), Error> {
        let own = self.proposer.dims();
        let [(first, last), (found, outputs)] =
            [dims, own].map(|dims| (dims[0], dims[dims.len() - 1]));
        if found != first && found != first + last {
            let what = format!("inputs of the proposer, z_0 and z_T ({first} for z_0 alone)");
            check_count(&what, false, first + last, found)?;
        }
        let expected = dims[1..dims.len() - 1].iter().sum();
        let what = "outputs of the proposer, z_1, …, z_{T−1}";
        check_count(what, outputs == expected, expected, outputs)
    }

    /// Sets the targets to the proposals with the parameters `phi`. Errors report `number` as their step.
    fn propose(
        &self,
        phi: &[Vec<T>],
        memory: &mut Memory<T>,
        problem: &mut TargetProblem<'_, T>,
        number: u64,
    ) -> Result<(), Error> {
        let proposer = memory.proposer.get_or_insert_with(|| self.proposer.clone());
        load(proposer, phi)?;
        let (batch, last) = (problem.batch(), proposer.depth());
        memory.z.resize_with(last + 1, Vec::new);
        gather(batch, proposer.dims()[0], &mut memory.z[0]);
        proposer.layer(0).check_input(&memory.z[0])?;
        // Its target is not known yet.
        memory.z[last].clear();
        self.regression(proposer, batch, &memory.z)
            .forward_pass(&mut memory.workspace);
        let proposals = &memory.workspace.locals[last - 1].prediction;
        for (t, rows) in blocks(problem.layers().dims()) {
            let columns = proposals.chunks_exact(proposer.dims()[last]);
            let own = columns.flat_map(|column| &column[rows.clone()]).copied();
            memory.part.clear();
            memory.part.extend(own);
            check_computed(Quantity::Proposal, t, number, &memory.part)?;
            problem.set(t, &memory.part);
        }
        Ok(())
    }

    /// Prepares the step of φ towards the targets of `problem`, in the proposer's next state.
    fn learn(
        &self,
        state: &State<T>,
        memory: &mut Memory<T>,
        problem: Problem<'_, T>,
        factor: f64,
    ) -> Result<(), Error> {
        let Memory {
            proposer: Some(proposer),
            z,
            workspace,
            next,
            faults,
            ..
        } = memory
        else {
            unreachable!("targets are proposed before the proposer learns")
        };
        let (batch, depth) = (problem.batch(), proposer.depth());
        z[depth].clear();
        for i in 0..batch.len() {
            for (t, rows) in blocks(problem.layers().dims()) {
                let dim = rows.len();
                z[depth].extend_from_slice(&batch.z(t)[i * dim..(i + 1) * dim]);
            }
        }
        self.regression(proposer, batch, z).carry_back(workspace);
        next.clone_from(state);
        let number = state.counts[0];
        let mean = 1.0 / batch.len() as f64;
        let step = Step::new(number + 1, factor).with_gradient_factor(mean);
        let (phi, moments) = next.values.split_at_mut(depth);
        faults.clear();
        for (t, (phi, moments)) in phi.iter_mut().zip(moments).enumerate() {
            let own = (t, proposer.parameters(t), proposer.parameter_groups(t));
            let gradient = Some(&workspace.locals[t].d_parameters[..]);
            let execution = batch.execution;
            faults.push(
                self.rule
                    .step_into(step, own, moments, gradient, phi, execution),
            );
        }
        let quantities = [Quantity::ProposerGradient, Quantity::ProposerParameter];
        Fault::check(faults.iter().copied().enumerate(), quantities, number)?;
        next.counts[0] += 1;
        Ok(())
    }

    /// The proposer's objective: its inputs are z[0], its targets the last of z.
    fn regression<'a>(
        &'a self,
        proposer: &'a Circuit<T>,
        batch: Batch<'a, T>,
        z: &'a [Vec<T>],
    ) -> Problem<'a, T> {
        Layers::new(proposer, &self.terms).on(Batch {
            dims: proposer.dims(),
            z,
            start: 0,
            drafts: &[],
            offset: 0,
            ..batch
        })
    }
}

/// Indices of the parts of the scheme's state.
const SOLVER: usize = 0;
/// Its values are φ by layer, then the moments of its rule by layer; its count is that of its steps.
const PROPOSER: usize = 1;

/// Memory of a visit.
struct Memory<T: Scalar> {
    proposer: Option<Circuit<T>>,
    /// The proposer's inputs first, its targets last, and nothing in between.
    z: Vec<Vec<T>>,
    workspace: Workspace<T>,
    /// The proposals of one layer.
    part: Vec<T>,
    /// What is wrong with the proposer's next parameters, by layer.
    faults: Vec<Option<Fault>>,
    /// The next states of solver and proposer, which a visit keeps only if it succeeds.
    solver: State<T>,
    next: State<T>,
}

impl<T: Scalar> Default for Memory<T> {
    fn default() -> Self {
        Self {
            proposer: None,
            z: Vec::new(),
            workspace: Workspace::new(),
            part: Vec::new(),
            faults: Vec::new(),
            solver: State::new(),
            next: State::new(),
        }
    }
}

/// Sets the proposer's parameters to φ, the first of these arrays.
fn load<T: Scalar>(proposer: &mut Circuit<T>, values: &[Vec<T>]) -> Result<(), Error> {
    let depth = proposer.depth();
    (0..depth)
        .zip(values)
        .try_for_each(|(t, phi)| proposer.set_parameters(t, phi))
}

/// Writes z_0 of every example, with z_T below it if there is room in `dim`.
fn gather<T: Scalar>(batch: Batch<'_, T>, dim: usize, inputs: &mut Vec<T>) {
    let ends = [0, batch.dims.len() - 1];
    let ends = if dim == batch.dims[0] {
        &ends[..1]
    } else {
        &ends[..]
    };
    inputs.clear();
    for i in 0..batch.len() {
        for &t in ends {
            let own = batch.dims[t];
            inputs.extend_from_slice(&batch.z(t)[i * own..(i + 1) * own]);
        }
    }
}

/// The rows of z_1, …, z_{T−1} in a proposal, with t.
fn blocks(dims: &[usize]) -> impl Iterator<Item = (usize, Range<usize>)> {
    let mut end = 0;
    (1..dims.len() - 1).map(move |t| {
        end += dims[t];
        (t, end - dims[t]..end)
    })
}

impl<T: Scalar> Scheme<T> for Amortized<T> {
    fn targets(&self) -> TargetUse {
        TargetUse::Transient
    }

    fn uses_schedule(&self) -> bool {
        true
    }

    fn check_model(&self, model: &DecoupledCircuit<T>) -> Result<(), Error> {
        self.check_dims(model.circuit().dims())?;
        self.solver.check(model.layers())
    }

    fn start(&self, model: &mut DecoupledCircuit<T>) -> Result<State<T>, Error> {
        self.check_dims(model.circuit().dims())?;
        let mut proposer = State::new();
        let phi = (0..self.proposer.depth()).map(|t| self.proposer.parameters(t).to_vec());
        proposer.values.extend(phi);
        let sizes: Vec<usize> = proposer.values.iter().map(Vec::len).collect();
        let moments = sizes
            .iter()
            .map(|size| vec![T::zero(); self.slots() * size]);
        proposer.values.extend(moments);
        proposer.counts.push(0);
        let mut state = State::new();
        state.parts = vec![self.solver.start(), proposer];
        Ok(state)
    }

    fn visit(&self, state: &mut State<T>, visit: &mut Visit<'_, T>) -> Result<T, Error> {
        let (numbers, memory) = state.split::<Memory<T>>();
        self.check_dims(visit.layers().dims())?;
        self.parts(numbers.parts)?;
        let (solver, proposer) = numbers.parts.split_at_mut(PROPOSER);
        let (solver, proposer) = (&mut solver[SOLVER], &mut proposer[0]);
        let (number, factor) = (visit.steps(), visit.factor());
        self.propose(
            &proposer.values,
            memory,
            &mut visit.target_problem(),
            number,
        )?;
        let mut next = std::mem::take(&mut memory.solver);
        let own = Some(self.solver.as_ref());
        let stepped = solve_and_step(own, solver, &mut next, false, visit, |evaluated| {
            self.learn(proposer, memory, evaluated.problem(), factor)
        });
        memory.solver = next;
        let energy = stepped?;
        proposer.swap_numbers(&mut memory.next);
        Ok(energy)
    }

    fn finish(&self, state: &mut State<T>, model: &mut DecoupledCircuit<T>) -> Result<(), Error> {
        let (numbers, memory) = state.split::<Memory<T>>();
        self.check_dims(model.circuit().dims())?;
        let [_, proposer] = self.parts(numbers.parts)?;
        change_all(model, false, |problem| {
            self.propose(&proposer.values, memory, problem, proposer.counts[0])
        })
    }
}
