//! Statement 12: a local problem knows no other layer.

use super::probe::same_bits;
use crate::decoupled::{DecoupledCircuit, Selection};
use crate::error::Error;
use crate::kernel::Scalar;

/// Statement 12: the layers t whose ℓ_t, or any of its gradients, has other bits after θ_s is
/// replaced by `parameters` (in a copy of the model), in increasing order. It must be `[s]`, or
/// nothing where even ℓ_s does not see the change.
///
/// # Errors
/// [`Error::UnknownLayer`], [`Error::Length`], [`Error::NonFiniteData`] as
/// [`DecoupledCircuit::set_parameters`]; errors of the selection, and [`Error::NoExamples`].
///
/// # Examples
/// ```
/// use layerwise::prelude::*;
/// use layerwise::theory;
///
/// let circuit = Circuit::<f64>::builder()
///     .layer(Dense::new(2, 2, Activation::Tanh)?)
///     .layer(Dense::new(2, 2, Activation::Tanh)?)
///     .layer(Dense::new(2, 1, Activation::Identity)?)
///     .build()?;
/// let (x, y) = (DMatrix::from_element(2, 4, 0.5), DMatrix::from_element(1, 4, 1.0));
/// let mut model = DecoupledCircuit::new(circuit, Energy::default())?;
/// model.add_examples(&x, &y, &TargetInit::ForwardPass)?;
/// let changed = theory::layers_changed_by(&model, &Selection::All, 1, &[0.25; 6])?;
/// assert_eq!(changed, [1]);
/// # Ok::<(), layerwise::Error>(())
/// ```
pub fn layers_changed_by<T: Scalar>(
    model: &DecoupledCircuit<T>,
    selection: &Selection<'_>,
    s: usize,
    parameters: &[T],
) -> Result<Vec<usize>, Error> {
    let mut moved = model.clone();
    moved.set_parameters(s, parameters)?;
    let local_problems = |model: &DecoupledCircuit<T>| -> Result<Vec<Vec<T>>, Error> {
        model.with_problem(selection, "statement 12", |problem| {
            let locals = (0..problem.layers().depth()).map(|t| {
                let own = problem.local(t).gradients();
                [vec![own.energy], own.parameters, own.input, own.target].concat()
            });
            locals.collect()
        })
    };
    let pairs = local_problems(model)?.into_iter();
    let pairs = pairs.zip(local_problems(&moved)?).enumerate();
    let changed = pairs.filter(|(_, (before, after))| !same_bits(before, after));
    Ok(changed.map(|(t, _)| t).collect())
}
