//! The states of one solver for the layers of a circuit.

use super::ParameterSolver;
use crate::circuit::Circuit;
use crate::decoupled::DecoupledCircuit;
use crate::energy::{LocalProblem, LocalWorkspace};
use crate::error::{Error, Quantity};
use crate::kernel::Execution;
use crate::kernel::Scalar;
use crate::kernel::all_finite;
use crate::state::State;

/// The [`State`] of a [`ParameterSolver`] for every layer of a circuit that it fits: what a
/// [`Scheme`](crate::training::Scheme) hands with the solver to
/// [`Visit::solve_parameters`](crate::training::Visit::solve_parameters).
#[derive(Debug, Clone)]
pub struct ParameterStates<T> {
    layers: Vec<Layer<T>>,
}

#[derive(Debug, Clone)]
struct Layer<T> {
    /// `None` where the solver does not fit.
    state: Option<State<T>>,
    /// θ_t as solved.
    parameters: Vec<T>,
    error: Option<Error>,
}

impl<T: Scalar> ParameterStates<T> {
    /// New states for the layers that [`ParameterSolver::check`] finds the solver fits.
    ///
    /// # Errors
    /// What the check says of the last layer, such as [`Error::ParameterSolver`], if it fits none.
    pub fn new(
        solver: &dyn ParameterSolver<T>,
        model: &DecoupledCircuit<T>,
    ) -> Result<Self, Error> {
        let circuit = &model.circuit;
        let mut refused = None;
        let layers: Vec<_> = (0..circuit.depth())
            .map(|t| {
                let none = model.examples.run(0..0, 0, true);
                let checked = solver.check(&circuit.local_problem(t, none));
                let fits = checked.map_err(|error| refused = Some(error)).is_ok();
                Layer {
                    state: fits.then(|| solver.start()),
                    parameters: circuit.parameters(t).to_vec(),
                    error: None,
                }
            })
            .collect();
        match refused {
            Some(error) if layers.iter().all(|layer| layer.state.is_none()) => Err(error),
            _ => Ok(Self { layers }),
        }
    }

    /// Whether layer t is solved.
    pub fn solves(&self, t: usize) -> bool {
        self.layers.get(t).is_some_and(|own| own.state.is_some())
    }

    /// Fails if these are not states for this circuit's layers.
    pub(crate) fn check(&self, circuit: &Circuit<T>) -> Result<(), Error> {
        let length = |what: &str, expected, found| match expected == found {
            true => Ok(()),
            false => Err(Error::Length {
                what: what.into(),
                expected,
                found,
            }),
        };
        length("parameter solvers", circuit.depth(), self.layers.len())?;
        for (t, own) in self.layers.iter().enumerate() {
            let expected = circuit.parameters(t).len();
            length("parameters of a solver", expected, own.parameters.len())?;
        }
        Ok(())
    }

    /// New θ_t of every layer that `solver` solves, kept as [`ParameterStates::solution`]; `other`
    /// is called for the other layers. `problem` gives layer t's problem, `step` is for errors, of
    /// which the first layer's is given.
    pub(crate) fn solve<'a>(
        &mut self,
        solver: &dyn ParameterSolver<T>,
        locals: &mut [LocalWorkspace<T>],
        execution: Execution,
        step: u64,
        problem: impl Fn(usize) -> LocalProblem<'a, T> + Sync,
        other: impl Fn(&LocalProblem<'a, T>, &mut LocalWorkspace<T>) + Sync,
    ) -> Result<(), Error> {
        execution.for_each_pair(locals, &mut self.layers, |t, local, own| {
            let problem = problem(t);
            let Some(state) = &mut own.state else {
                return other(&problem, local);
            };
            own.parameters.copy_from_slice(problem.parameters);
            let solved = solver.solve(state, &problem, local, &mut own.parameters);
            own.error = solved.err();
        });
        for (layer, own) in self.layers.iter_mut().enumerate() {
            if let Some(error) = own.error.take() {
                return Err(error);
            }
            if own.state.is_some() && !all_finite(&own.parameters) {
                return Err(Error::NonFinite {
                    quantity: Quantity::Parameter,
                    layer,
                    step,
                });
            }
        }
        Ok(())
    }

    /// θ_t as the last [`ParameterStates::solve`] found it; `None` for a layer that is not solved.
    pub(crate) fn solution(&self, t: usize) -> Option<&[T]> {
        let own = self.layers.get(t)?;
        own.state.is_some().then_some(&own.parameters[..])
    }
}
