//! One visit of a training scheme to one batch.

use std::fmt::Debug;

use super::parameter_optimizer::ParameterOptimizer;
use crate::circuit::Circuit;
use crate::decoupled::DecoupledCircuit;
use crate::energy::Wanted;
use crate::energy::{Batch, BatchMut, Workspace};
use crate::error::{Error, Quantity};
use crate::kernel::Execution;
use crate::kernel::Scalar;
use crate::optimizer::Step;
use crate::parameter_solver::{ParameterSolver, ParameterStates};
use crate::schedule::Schedule;
use crate::target_solver::{SolveReport, TargetProblem};

/// What a training scheme does with a batch: the one line by which schemes differ.
///
/// # Errors
/// A scheme checks that energies and gradients are finite before it changes θ ([`Error::NonFinite`]).
/// After an error of a visit the run puts the batch's targets back to what the visit found.
pub trait Scheme<T: Scalar>: Debug + Send {
    /// Begins a phase on `model`: forgets what was kept from earlier ones.
    ///
    /// # Errors
    /// If the scheme cannot work on this circuit; nothing is done then.
    fn start(&mut self, _model: &DecoupledCircuit<T>) -> Result<(), Error> {
        Ok(())
    }

    /// Whether a visit reads or moves auxiliary targets at all: without them they are neither
    /// loaded nor stored, and a gap means nothing.
    fn uses_targets(&self) -> bool {
        true
    }

    /// Whether μ has a part in the scheme: a penalty schedule is refused otherwise.
    fn uses_penalties(&self) -> bool {
        self.uses_targets()
    }

    /// Moves parameters, auxiliary targets, or both, once, and returns the objective on the batch
    /// (a sum over its examples) before the last parameter step: E, or the composed loss.
    ///
    /// # Errors
    /// [`Error::NonFinite`], and errors of a target solver.
    fn visit(&mut self, visit: &mut Visit<'_, '_, T>) -> Result<T, Error>;

    /// Ends a phase that made a visit and was not broken off by an error, such as by bringing all
    /// targets up to date.
    ///
    /// # Errors
    /// [`Error::NonFinite`].
    fn finish(&mut self, _model: &mut DecoupledCircuit<T>) -> Result<(), Error> {
        Ok(())
    }
}

/// What the visits of an epoch tell: Σᵢ Σ_t ‖z_tⁱ − ẑ_tⁱ‖² as they met and as they left it, and what
/// their Z-steps did.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) met: Option<f64>,
    pub(crate) left: Option<f64>,
    pub(crate) solved: Option<SolveReport>,
}

/// Everything a [`Scheme`] works with during one visit.
#[derive(Debug)]
pub struct Visit<'a, 'b, T: Scalar> {
    pub(crate) circuit: &'a mut Circuit<T>,
    pub(crate) batch: &'a mut BatchMut<'b, T>,
    pub(crate) workspace: &'a mut Workspace<T>,
    pub(crate) optimizer: &'a mut ParameterOptimizer<T>,
    pub(crate) told: &'a mut Told,
    pub(crate) factor: f64,
    /// The number of the visit in its phase, from 0, and how many there are at most.
    pub(crate) number: (u64, u64),
}

impl<'b, T: Scalar> Visit<'_, 'b, T> {
    /// The circuit at its present parameters.
    pub fn circuit(&self) -> &Circuit<T> {
        self.circuit
    }

    /// The batch.
    pub fn batch(&self) -> Batch<'_, T> {
        self.batch.view()
    }

    /// Results of the last evaluation; they mean nothing after a visit of
    /// [`JointDescent`](crate::training::JointDescent), which uses their memory.
    pub fn workspace(&self) -> &Workspace<T> {
        self.workspace
    }

    /// The factor of the learning rates that the schedule gives for this visit.
    pub fn factor(&self) -> f64 {
        self.factor
    }

    /// The factor of `schedule` at this visit of the phase.
    pub fn scheduled(&self, schedule: Schedule) -> f64 {
        let (number, count) = self.number;
        schedule.factor(number, count)
    }

    /// Parameter steps completed in this phase.
    pub fn steps(&self) -> u64 {
        self.optimizer.steps
    }

    /// The problem of moving the targets, θ fixed; with
    /// [`TargetProblem::evaluate`] also the way to the parameter gradients.
    pub fn target_problem(&mut self) -> TargetProblem<'_, 'b, T> {
        TargetProblem::new(self.circuit, self.batch, self.workspace)
    }

    /// The composed objective on the batch ([`Circuit::backprop`]: weights and regularisers included,
    /// a sum over its examples), and its parameter gradients into the workspace.
    ///
    /// # Errors
    /// [`Error::NonFinite`] for a loss that is not finite.
    pub fn backprop(&mut self) -> Result<T, Error> {
        let loss = self.circuit.backprop(self.batch.view(), self.workspace);
        if loss.is_finite() {
            return Ok(loss);
        }
        Err(Error::NonFinite {
            quantity: Quantity::ComposedLoss,
            layer: self.circuit.depth() - 1,
            step: self.optimizer.steps,
        })
    }

    /// Tells the run the batch's squared gap Σᵢ Σ_t ‖z_tⁱ − ẑ_tⁱ‖² as this visit met it
    /// ([`TargetProblem::squared_gap`]), before it moved targets.
    pub fn record_gap_met(&mut self, squares: T) {
        *self.told.met.get_or_insert(0.0) += squares.as_f64();
    }

    /// The same after this visit moved targets.
    pub fn record_gap_left(&mut self, squares: T) {
        *self.told.left.get_or_insert(0.0) += squares.as_f64();
    }

    /// Tells the run what the solver of this visit's Z-step reported.
    pub fn record_solve(&mut self, report: SolveReport) {
        self.told.solved.get_or_insert_default().add(report);
    }

    /// One step of the optimiser on every θ_t along the gradient in the workspace divided by the
    /// number of examples, so that the learning rate means the same for every batch size; each
    /// parameter group by itself, so that only those that decay do.
    ///
    /// # Errors
    /// [`Error::NonFinite`] for an energy, gradient or new parameter that is not finite,
    /// [`Error::SpentGradients`] after a visit of [`JointDescent`](crate::training::JointDescent) without a new
    /// evaluation; no θ_t is changed then.
    pub fn step_parameters(&mut self) -> Result<(), Error> {
        if self.workspace.spent {
            return Err(Error::SpentGradients);
        }
        self.workspace.check_energies(self.optimizer.steps)?;
        self.update(|_| None)
    }

    /// One W-step: every layer with a state gets the θ_t that the solver finds, every other layer a
    /// step of the optimiser along its gradient, which is taken here, as in
    /// [`Visit::step_parameters`]; the bound of the gradient's norm is over those layers alone.
    ///
    /// Energies and predictions in the workspace must be current, as [`TargetProblem::evaluate`]
    /// leaves them (without gradients will do); afterwards the workspace means nothing.
    ///
    /// # Errors
    /// [`Error::Length`] for states of another circuit, those of the solver, and those of
    /// [`Visit::step_parameters`]; no θ_t is changed then.
    pub fn solve_parameters(
        &mut self,
        solver: &dyn ParameterSolver<T>,
        states: &mut ParameterStates<T>,
    ) -> Result<(), Error> {
        let steps = self.optimizer.steps;
        states.check(self.circuit)?;
        self.workspace.fit(self.circuit);
        self.workspace.check_energies(steps)?;
        let (circuit, batch) = (&*self.circuit, self.batch.view());
        let parameters = Wanted {
            parameters: true,
            ..Wanted::NONE
        };
        states.solve(
            solver,
            &mut self.workspace.locals,
            self.batch.execution,
            steps,
            |t| circuit.local_problem(t, batch),
            |problem, local| {
                problem.differentiate(parameters, local);
            },
        )?;
        self.update(|t| states.solution(t))
    }

    /// Gives every layer its solution, or a step along the gradient in the workspace if it has none.
    fn update<'s>(
        &mut self,
        solution: impl Fn(usize) -> Option<&'s [T]> + Sync,
    ) -> Result<(), Error> {
        // Before a rule meets them: its state would keep what is not finite.
        self.workspace
            .check_parameter_gradients(self.optimizer.steps, |t| solution(t).is_none())?;
        self.prepare_steps(solution);
        self.optimizer.check()?;
        self.optimizer.commit(self.circuit, self.workspace, false);
        Ok(())
    }

    /// Makes every layer's step beside its θ_t.
    pub(super) fn prepare_steps<'s>(&mut self, solution: impl Fn(usize) -> Option<&'s [T]> + Sync) {
        let (circuit, execution) = (&*self.circuit, self.execution());
        let step = self.step(|t| solution(t).is_none());
        let (rule, layers) = self.optimizer.parts();
        let gradients = &*self.workspace;
        execution.for_each(layers, |t, own| match solution(t) {
            Some(solution) => own.take(solution),
            None => {
                let theta = (circuit.parameters(t), circuit.parameter_groups(t));
                own.step(
                    rule,
                    step,
                    theta,
                    gradients.parameter_gradient(t),
                    execution,
                );
            }
        });
    }

    /// The step along the mean gradient, its norm bounded over the layers that `wanted` names.
    pub(super) fn step(&self, wanted: impl Fn(usize) -> bool) -> Step {
        let examples = self.batch.ids.len();
        self.optimizer
            .begin(self.workspace, examples, self.factor, wanted)
    }

    /// How this visit's work is scheduled.
    pub(super) fn execution(&self) -> Execution {
        self.circuit.fitted(self.batch.view()).execution
    }
}
