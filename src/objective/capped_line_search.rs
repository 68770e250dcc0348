//! A line search that ends.

use argmin::core::{
    ArgminError, Error as CoreError, IterState, KV, LineSearch, Problem, Solver, State,
    TerminationStatus,
};

use crate::error::Error;

/// One of argmin's line searches, ended with an error after so many steps.
///
/// argmin 0.11 runs a line search to its own end, which `max_iters` of the optimiser does not hasten.
/// With this around it the optimiser ends (L-BFGS with `TerminationReason::SolverExit`), and the
/// best point found stands in `get_best_param`. An end without an error would not do: a search that
/// has no point yet makes L-BFGS panic.
///
/// # Examples
/// ```
/// use argmin::core::{Executor, State};
/// use argmin::solver::linesearch::MoreThuenteLineSearch;
/// use argmin::solver::quasinewton::LBFGS;
/// use layerwise::energy::LocalProblem;
/// use layerwise::layer::{Activation, Dense};
/// use layerwise::loss::SquaredError;
/// use layerwise::objective::{CappedLineSearch, LocalObjective, Objective};
///
/// let layer = Dense::new(1, 1, Activation::Identity)?;
/// let (theta, input, target) = ([0.0_f64; 2], [1.0, 2.0, 4.0], [3.0, 5.0, 9.0]);
/// let problem = LocalProblem::new(&layer, &theta, &SquaredError, 1.0, &input, &target)?;
/// let objective = LocalObjective::new(problem);
/// let line_search = CappedLineSearch::new(MoreThuenteLineSearch::new(), 50)?;
/// let run = Executor::new(objective, LBFGS::new(line_search, 5))
///     .configure(|state| state.param(objective.point()).max_iters(100))
///     .run()?;
/// // The line through the three points.
/// let found = run.state().get_best_param().expect("a start gives a point");
/// assert!((found[0] - 2.0).abs() < 1e-6 && (found[1] - 1.0).abs() < 1e-6);
/// # Ok::<(), argmin::core::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct CappedLineSearch<L> {
    inner: L,
    steps: u64,
}

impl<L> CappedLineSearch<L> {
    /// A line search of at most `steps` steps.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] if `steps` is 0.
    pub fn new(inner: L, steps: u64) -> Result<Self, Error> {
        if steps == 0 {
            return Err(Error::InvalidOption {
                option: "CappedLineSearch::steps",
                value: 0.0,
                allowed: "at least 1",
            });
        }
        Ok(Self { inner, steps })
    }
}

impl<L: LineSearch<D, F>, D, F> LineSearch<D, F> for CappedLineSearch<L> {
    fn search_direction(&mut self, direction: D) {
        self.inner.search_direction(direction);
    }

    fn initial_step_length(&mut self, length: F) -> Result<(), CoreError> {
        self.inner.initial_step_length(length)
    }
}

impl<O, P, G, J, H, R, F, L> Solver<O, IterState<P, G, J, H, R, F>> for CappedLineSearch<L>
where
    L: Solver<O, IterState<P, G, J, H, R, F>>,
    IterState<P, G, J, H, R, F>: State,
{
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn init(
        &mut self,
        problem: &mut Problem<O>,
        state: IterState<P, G, J, H, R, F>,
    ) -> Result<(IterState<P, G, J, H, R, F>, Option<KV>), CoreError> {
        self.inner.init(problem, state)
    }

    fn next_iter(
        &mut self,
        problem: &mut Problem<O>,
        state: IterState<P, G, J, H, R, F>,
    ) -> Result<(IterState<P, G, J, H, R, F>, Option<KV>), CoreError> {
        if state.get_iter() >= self.steps {
            let name = self.inner.name();
            let text = format!("{name}: no end after {} steps", self.steps);
            return Err(ArgminError::ConditionViolated { text }.into());
        }
        self.inner.next_iter(problem, state)
    }

    fn terminate(&mut self, state: &IterState<P, G, J, H, R, F>) -> TerminationStatus {
        self.inner.terminate(state)
    }
}
