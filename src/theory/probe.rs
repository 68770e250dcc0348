//! What every statement needs: a copy of the targets to move, and checks that numbers are finite.

use crate::check::check_examples;
/// A NaN must not pass as a small deviation.
pub(super) use crate::check::check_result as finite;
use crate::decoupled::examples::Working;
use crate::decoupled::{DecoupledCircuit, Gradients, Selection};
use crate::energy::{All, Workspace};
use crate::error::{Error, Quantity};
use crate::kernel::Scalar;
use crate::target_solver::{Predictions, TargetProblem};

/// Lends a copy of the selected examples whose targets may be moved; the model does not change.
pub(super) fn on_a_copy<T: Scalar, R>(
    model: &DecoupledCircuit<T>,
    selection: &Selection<'_>,
    operation: &'static str,
    work: impl FnOnce(&mut TargetProblem<'_, T>) -> Result<R, Error>,
) -> Result<R, Error> {
    let columns = model.examples.resolve(selection)?;
    check_examples(columns.len(), operation)?;
    let layers = model.layers();
    // Drafts that are never committed.
    let mut working = Working::new(layers.depth());
    let (mut workspace, mut predictions) = (Workspace::new(), Predictions::None);
    let mut batch = working.lend_targets(layers, &model.examples, &columns, &mut workspace)?;
    batch.base.training = false;
    work(&mut TargetProblem::new(
        layers,
        batch,
        &[],
        &mut workspace,
        &mut predictions,
    ))
}

/// E and its gradients at the current targets; checks that all are finite.
pub(super) fn gradients<T: Scalar>(
    problem: &mut TargetProblem<'_, T>,
) -> Result<Gradients<T>, Error> {
    let (layers, n) = (problem.layers(), problem.batch().len());
    checked(Gradients::of(layers, n, problem.evaluate(All)))
}

/// [`DecoupledCircuit::backprop`]; checks that all numbers are finite.
pub(super) fn backprop<T: Scalar>(
    model: &DecoupledCircuit<T>,
    selection: &Selection<'_>,
) -> Result<Gradients<T>, Error> {
    checked(model.backprop(selection)?)
}

fn checked<T: Scalar>(gradients: Gradients<T>) -> Result<Gradients<T>, Error> {
    let last = gradients.parameters.len() - 1;
    finite(Quantity::Energy, last, &[gradients.energy])?;
    for (t, own) in gradients.parameters.iter().enumerate() {
        finite(Quantity::ParameterGradient, t, own)?;
    }
    for (t, own) in (1..).zip(&gradients.targets) {
        finite(Quantity::TargetGradient, t, own.as_slice())?;
    }
    Ok(gradients)
}

/// The largest |value|.
pub(super) fn largest<T: Scalar>(values: impl IntoIterator<Item = T>) -> f64 {
    let values = values.into_iter().map(|v| v.as_f64().abs());
    values.fold(0.0, |top, v| if v <= top { top } else { v })
}

/// a − b.
pub(super) fn minus<T: Scalar>(a: &[T], b: &[T]) -> Vec<T> {
    a.iter().zip(b).map(|(&a, &b)| a - b).collect()
}
