//! Statement 1: at the forward pass E is the composed loss.

use super::probe::{backprop, gradients, largest, minus, on_a_copy};
use crate::decoupled::{DecoupledCircuit, Selection};
use crate::error::Error;
use crate::kernel::Scalar;

/// Deviations from what must hold at z = h, where h_t = ẑ_t of the plain forward pass. Every number
/// is exactly 0 if a layer's predictions are bit for bit the same in the forward pass and in the
/// local problems, and if the losses L_h and their gradients vanish at z = ẑ.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct ForwardPassDeviations {
    /// |E − L|.
    pub energy: f64,
    /// The largest entry of |∂E/∂θ_t|, t < T−1.
    pub hidden_parameters: f64,
    /// The largest entry of |∂E/∂θ_{T−1} − ∂L/∂θ_{T−1}|.
    pub last_parameters: f64,
    /// The largest entry of |∂E/∂z_t|, 0 < t < T−1.
    pub hidden_targets: f64,
    /// The largest entry of |∂E/∂z_{T−1} − δ_{T−1}|.
    pub last_targets: f64,
}

impl ForwardPassDeviations {
    /// The largest of these deviations.
    pub fn largest(&self) -> f64 {
        largest([
            self.energy,
            self.hidden_parameters,
            self.last_parameters,
            self.hidden_targets,
            self.last_targets,
        ])
    }
}

/// Statement 1: sets (a copy of) the targets to the forward pass, z = h, and compares E and its
/// gradients with backprop's:
///
/// E = L;  ∂E/∂θ_t = 0 (t < T−1), ∂E/∂θ_{T−1} = ∂L/∂θ_{T−1};  ∂E/∂z_t = 0 (t < T−1),
/// ∂E/∂z_{T−1} = δ_{T−1}.
///
/// Regularisers of θ_t and z_t also have gradients at z = h, which count as deviations. Sums over
/// the selected examples.
///
/// # Errors
/// Errors of the selection, [`Error::NoExamples`], [`Error::Overflow`].
pub fn forward_pass_deviations<T: Scalar>(
    model: &DecoupledCircuit<T>,
    selection: &Selection<'_>,
) -> Result<ForwardPassDeviations, Error> {
    // Examples of weight 0 are left out, as in backprop: a sum's rounding depends on the number of its terms.
    let counted = model.weighty(&model.chosen(selection, "statement 1")?);
    let places = counted.into_places().into_iter();
    let ids: Vec<u64> = places.map(|place| model.examples()[place]).collect();
    let selection = &Selection::Examples(&ids);
    let own = on_a_copy(model, selection, "statement 1", |problem| {
        problem.refresh()?;
        gradients(problem)
    })?;
    let exact = backprop(model, selection)?;
    let last = model.circuit().depth() - 1;
    let (hidden, top) = own.targets.split_at(last.saturating_sub(1));
    let (_, delta) = exact.targets.split_at(last.saturating_sub(1));
    let last_targets = top.iter().zip(delta);
    Ok(ForwardPassDeviations {
        energy: largest([own.energy - exact.energy]),
        hidden_parameters: largest(own.parameters[..last].iter().flatten().copied()),
        last_parameters: largest(minus(&own.parameters[last], &exact.parameters[last])),
        hidden_targets: largest(hidden.iter().flatten().copied()),
        last_targets: largest(last_targets.flat_map(|(a, b)| minus(a.as_slice(), b.as_slice()))),
    })
}
