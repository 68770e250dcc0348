//! Statements 11 and 12: examples and layers are independent of one another.

use crate::check::check_examples;
use crate::decoupled::{DecoupledCircuit, Selection};
use crate::error::Error;
use crate::kernel::Scalar;
use crate::target_solver::TargetSolver;

/// Statement 11: moves (copies of) the targets of the selected examples by `solver`, once all in
/// one batch and once each alone. Returns the id of the first example whose targets differ in any
/// bit;
/// `None` if the statement holds.
///
/// It fails for a layer whose output for one column depends on other columns, and for a solver that
/// uses anything computed over the whole batch, such as a common step size. With the feature `blas`,
/// rounding can make it fail too: a BLAS adds in an order that depends on the batch.
///
/// # Errors
/// Errors of the selection and of the solver, and [`Error::NoExamples`].
pub fn batch_dependent_example<T: Scalar>(
    model: &DecoupledCircuit<T>,
    selection: &Selection<'_>,
    solver: &dyn TargetSolver<T>,
) -> Result<Option<u64>, Error> {
    let chosen = model.examples.resolve(selection)?.into_places();
    check_examples(chosen.len(), "statement 11")?;
    let (mut together, mut alone) = (model.clone(), model.clone());
    model.examples.in_memory("statement 11")?;
    model.examples.check_stored("statement 11")?;
    together.solve_targets(solver, selection)?;
    for column in chosen {
        let id = model.examples()[column];
        alone.solve_targets(solver, &Selection::Examples(&[id]))?;
        for (t, &dim) in model.circuit().dims().iter().enumerate() {
            let own = dim * column..dim * (column + 1);
            let of = |model: &DecoupledCircuit<T>| model.examples.z[t][own.clone()].to_vec();
            if !same_bits(&of(&together), &of(&alone)) {
                return Ok(Some(id));
            }
        }
    }
    Ok(None)
}

/// Statement 12: the layers t whose ℓ_t, or any of its gradients, changes in any bit when θ_s is
/// replaced by `parameters` (in a copy of the model), in increasing order. The result must be
/// `[s]`, or empty if not even ℓ_s depends on the change.
///
/// # Errors
/// [`Error::UnknownLayer`], [`Error::Length`], [`Error::NonFiniteData`] as
/// [`DecoupledCircuit::set_parameters`]; errors of the selection, and [`Error::NoExamples`].
pub fn layers_changed_by<T: Scalar>(
    model: &DecoupledCircuit<T>,
    selection: &Selection<'_>,
    s: usize,
    parameters: &[T],
) -> Result<Vec<usize>, Error> {
    let mut moved = model.clone();
    moved.set_parameters(s, parameters)?;
    let [before, after] = model.with_problem(selection, "statement 12", |problem| {
        // With the same targets, even if those of the model are computed from θ.
        [model, &moved].map(|own| {
            let problem = own.layers().on(problem.batch());
            let locals = (0..problem.layers().depth()).map(|t| {
                let own = problem.local(t).gradients();
                [vec![own.energy], own.parameters, own.input, own.target].concat()
            });
            locals.collect::<Vec<_>>()
        })
    })?;
    let pairs = before.into_iter().zip(after).enumerate();
    let changed = pairs.filter(|(_, (before, after))| !same_bits(before, after));
    Ok(changed.map(|(t, _)| t).collect())
}

/// Whether all values have the same bits.
fn same_bits<T: Scalar>(a: &[T], b: &[T]) -> bool {
    // The first comparison also covers the derivatives of a dual number; the second distinguishes
    // −0 from 0, and lets NaN equal itself.
    let same = |(a, b): (&T, &T)| {
        (a == b || a.as_f64().is_nan()) && a.as_f64().to_bits() == b.as_f64().to_bits()
    };
    a.len() == b.len() && a.iter().zip(b).all(same)
}
