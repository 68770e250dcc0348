//! The solvers of all layers of a circuit.

use super::ParameterSolver;
use crate::circuit::Circuit;
use crate::decoupled::DecoupledCircuit;
use crate::energy::{LocalProblem, LocalWorkspace};
use crate::error::{Error, Quantity};
use crate::kernel::Execution;
use crate::kernel::Scalar;
use crate::kernel::all_finite;

/// A copy of one [`ParameterSolver`] for every layer of a circuit that it fits: what a
/// [`Scheme`](crate::training::Scheme) hands to [`Visit::solve_parameters`](crate::training::Visit::solve_parameters).
#[derive(Debug)]
pub struct ParameterSolvers<T: Scalar> {
    slots: Vec<Slot<T>>,
    /// θ_t as last solved; `None` for a layer without a solver. Apart from the solvers, which
    /// threads must not share.
    solutions: Vec<Option<Vec<T>>>,
}

#[derive(Debug)]
struct Slot<T: Scalar> {
    solver: Option<Box<dyn ParameterSolver<T>>>,
    /// θ_t of the solution under way.
    parameters: Vec<T>,
    error: Option<Error>,
}

impl<T: Scalar> ParameterSolvers<T> {
    /// Fresh copies of `solver` for the layers that [`ParameterSolver::check`] finds it fits.
    ///
    /// # Errors
    /// [`Error::ParameterSolver`] if it fits none: what it says of the last layer.
    pub fn new(
        solver: &dyn ParameterSolver<T>,
        model: &DecoupledCircuit<T>,
    ) -> Result<Self, Error> {
        let circuit = &model.circuit;
        let mut refused = None;
        let slots: Vec<_> = (0..circuit.depth())
            .map(|t| {
                let none = model.examples.run(0..0, 0, true);
                let checked = solver.check(&circuit.local_problem(t, none));
                let own = checked.map_err(|error| refused = Some(error)).ok();
                Slot {
                    solver: own.map(|()| {
                        let mut own = solver.copy();
                        own.reset();
                        own
                    }),
                    parameters: circuit.parameters(t).to_vec(),
                    error: None,
                }
            })
            .collect();
        match refused {
            Some(error) if slots.iter().all(|slot| slot.solver.is_none()) => Err(error),
            _ => {
                let solved =
                    |slot: &Slot<T>| slot.solver.is_some().then(|| slot.parameters.clone());
                let solutions = slots.iter().map(solved).collect();
                Ok(Self { slots, solutions })
            }
        }
    }

    /// Whether layer t has a solver.
    pub fn solves(&self, t: usize) -> bool {
        self.slots.get(t).is_some_and(|slot| slot.solver.is_some())
    }

    /// Fails if these are not solvers of this circuit's layers.
    pub(crate) fn check(&self, circuit: &Circuit<T>) -> Result<(), Error> {
        let length = |what: &str, expected, found| match expected == found {
            true => Ok(()),
            false => Err(Error::Length {
                what: what.into(),
                expected,
                found,
            }),
        };
        length("parameter solvers", circuit.depth(), self.slots.len())?;
        for (t, slot) in self.slots.iter().enumerate() {
            let expected = circuit.parameters(t).len();
            length("parameters of a solver", expected, slot.parameters.len())?;
        }
        Ok(())
    }

    /// New θ_t of every layer with a solver, kept as [`ParameterSolvers::solutions`]; `other` is
    /// called for the other layers. `problem` gives layer t's problem, `step` is for errors, of
    /// which the first layer's is given.
    pub(crate) fn solve<'a>(
        &mut self,
        locals: &mut [LocalWorkspace<T>],
        execution: Execution,
        step: u64,
        problem: impl Fn(usize) -> LocalProblem<'a, T> + Sync,
        other: impl Fn(&LocalProblem<'a, T>, &mut LocalWorkspace<T>) + Sync,
    ) -> Result<(), Error> {
        execution.for_each_pair(locals, &mut self.slots, |t, local, slot| {
            let problem = problem(t);
            let Some(solver) = &mut slot.solver else {
                return other(&problem, local);
            };
            slot.parameters.copy_from_slice(problem.parameters);
            let solved = solver.solve(&problem, local, &mut slot.parameters);
            slot.error = solved.err();
        });
        let slots = self.slots.iter_mut().zip(&mut self.solutions);
        for (layer, (slot, solution)) in slots.enumerate() {
            if let Some(error) = slot.error.take() {
                return Err(error);
            }
            if slot.solver.is_some() && !all_finite(&slot.parameters) {
                return Err(Error::NonFinite {
                    quantity: Quantity::Parameter,
                    layer,
                    step,
                });
            }
            if let Some(solution) = solution {
                std::mem::swap(solution, &mut slot.parameters);
            }
        }
        Ok(())
    }

    /// θ_t by layer, as the last [`ParameterSolvers::solve`] left them; `None` for a layer without a
    /// solver.
    pub(crate) fn solutions(&self) -> &[Option<Vec<T>>] {
        &self.solutions
    }
}
