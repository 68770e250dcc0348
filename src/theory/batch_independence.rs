//! Statement 11: an example's targets move alike in every batch.

use super::probe::same_bits;
use crate::decoupled::{DecoupledCircuit, Selection};
use crate::error::Error;
use crate::kernel::Scalar;
use crate::target_solver::TargetSolver;

/// Statement 11: moves (a copy of) the targets of the selected examples by `solver`, all in one
/// batch and each alone, and returns the id of the first example whose targets then
/// have other bits; `None` if the statement holds.
///
/// It fails for a layer that maps a column differently beside others, and for a solver that uses
/// anything of the whole batch, such as one step for all examples.
///
/// # Errors
/// Errors of the selection and of the solver, and [`Error::NoExamples`].
///
/// # Examples
/// ```
/// use layerwise::prelude::*;
/// use layerwise::theory;
///
/// let circuit = Circuit::<f32>::builder()
///     .layer(Dense::new(2, 3, Activation::Tanh)?)
///     .layer(Dense::new(3, 1, Activation::Identity)?)
///     .build()?;
/// let x = DMatrix::from_fn(2, 4, |i, j| (i + j) as f32 / 4.0);
/// let mut model = DecoupledCircuit::new(circuit, Energy::default())?;
/// model.add_examples(&x, &DMatrix::zeros(1, 4), &TargetInit::ForwardPass)?;
/// let solver = ReverseSweep::new(3);
/// let differing = theory::batch_dependent_example(&model, &Selection::All, &solver)?;
/// assert_eq!(differing, None);
/// # Ok::<(), layerwise::Error>(())
/// ```
pub fn batch_dependent_example<T: Scalar>(
    model: &DecoupledCircuit<T>,
    selection: &Selection<'_>,
    solver: &dyn TargetSolver<T>,
) -> Result<Option<u64>, Error> {
    let chosen = model.examples.resolve(selection)?.into_places();
    if chosen.is_empty() {
        return Err(Error::NoExamples {
            operation: "statement 11",
        });
    }
    let (mut together, mut alone) = (model.clone(), model.clone());
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
