//! Options of a W-step that apply to some of the parameters.

use crate::check::refuse;
use crate::circuit::Circuit;
use crate::decoupled::DecoupledCircuit;
use crate::error::Error;
use crate::kernel::Scalar;
use crate::layer::ParameterGroup;
use crate::optimizer::Step;

/// Parameters that an option of a [`WStep`](crate::training::WStep) applies to: a layer's, those of
/// every [group](ParameterGroup) of one name, or one group of one layer.
///
/// Names are those of [`Circuit::parameter_groups`](crate::Circuit::parameter_groups), such as
/// "weights" and "bias". A run refuses layers and names that the circuit does not have
/// ([`Error::UnknownLayer`], [`Error::UnknownGroup`]).
///
/// # Examples
/// ```
/// use layerwise::prelude::*;
/// use layerwise::training::Part;
///
/// // The first layer rests, and biases learn at half the rate.
/// let w_step = WStep::optimizer(Adam::new(1e-3)?)
///     .with_frozen(Part::layer(0))
///     .with_rate_factor(Part::group("bias"), 0.5)?;
/// let phase: Phase<f64> = Phase::with_w_step(Backprop, w_step)?;
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Part {
    layer: Option<usize>,
    group: Option<String>,
}

impl Part {
    /// All parameters of layer t.
    pub fn layer(t: usize) -> Self {
        Self {
            layer: Some(t),
            group: None,
        }
    }

    /// The groups of this name, in every layer that has one.
    pub fn group(name: impl Into<String>) -> Self {
        Self {
            layer: None,
            group: Some(name.into()),
        }
    }

    /// The group of this name in layer t.
    pub fn group_of_layer(t: usize, name: impl Into<String>) -> Self {
        Self {
            layer: Some(t),
            group: Some(name.into()),
        }
    }

    fn contains(&self, t: usize, group: &ParameterGroup) -> bool {
        let named = self.group.as_ref().is_none_or(|name| *name == group.name);
        named && self.layer.is_none_or(|layer| layer == t)
    }

    /// Checks that the circuit has such a layer and group.
    fn check<T: Scalar>(&self, model: &DecoupledCircuit<T>) -> Result<(), Error> {
        let circuit = model.circuit();
        let layers = match self.layer {
            Some(t) => model.check_layer(t).map(|()| t..t + 1)?,
            None => 0..circuit.depth(),
        };
        let Some(name) = &self.group else {
            return Ok(());
        };
        let mut names: Vec<String> = Vec::new();
        for group in layers.flat_map(|t| circuit.parameter_groups(t)) {
            if group.name == *name {
                return Ok(());
            }
            if !names.contains(&group.name) {
                names.push(group.name.clone());
            }
        }
        Err(Error::UnknownGroup {
            group: name.clone(),
            layer: self.layer,
            groups: names,
        })
    }
}

/// What an option does to the parameters it applies to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Change {
    /// Multiplies the learning rate.
    Rate(f64),
    /// Multiplies the rule's weight decay, also where a group does not decay by itself.
    Decay(f64),
    Freeze,
}

/// The options of a W-step by part. Of several rates or decays for the same parameters, the last
/// counts.
#[derive(Debug, Clone, Default)]
pub(super) struct PartOptions {
    all: Vec<(Part, Change)>,
}

impl PartOptions {
    pub(super) fn push(&mut self, part: Part, change: Change) {
        self.all.push((part, change));
    }

    /// Whether some option is one that `wanted` selects.
    pub(super) fn any(&self, wanted: impl Fn(Change) -> bool) -> bool {
        self.all.iter().any(|&(_, change)| wanted(change))
    }

    /// Checks that the circuit has every part, and that some parameters are not frozen.
    pub(super) fn check<T: Scalar>(&self, model: &DecoupledCircuit<T>) -> Result<(), Error> {
        self.all
            .iter()
            .try_for_each(|(part, _)| part.check(model))?;
        let circuit = model.circuit();
        let layers = (0..circuit.depth()).map(|t| (t, circuit.parameter_groups(t)));
        let mut groups = layers.flat_map(|(t, groups)| groups.iter().map(move |own| (t, own)));
        match self.any(|own| own == Change::Freeze) && groups.all(|(t, own)| self.freezes(t, own)) {
            true => refuse("a W-step with every parameter frozen", "nothing would move"),
            false => Ok(()),
        }
    }

    /// Checks that every factor applies to parameters that the optimiser moves: to some that are not
    /// frozen, in a layer that is `stepped`.
    pub(super) fn check_effect<T: Scalar>(
        &self,
        circuit: &Circuit<T>,
        stepped: &[bool],
    ) -> Result<(), Error> {
        let moves = |part: &Part, t: usize| {
            let mut groups = circuit.parameter_groups(t).iter();
            groups.any(|own| part.contains(t, own) && !self.freezes(t, own))
        };
        let layers = stepped.iter().enumerate();
        for (part, change) in &self.all {
            if *change == Change::Freeze
                || layers.clone().any(|(t, &steps)| steps && moves(part, t))
            {
                continue;
            }
            let what = match change {
                Change::Rate(_) => {
                    "a factor of the learning rate where the optimiser moves nothing"
                }
                _ => "a factor of the weight decay where the optimiser moves nothing",
            };
            return refuse(
                what,
                "its parameters are frozen, or a parameter solver moves them",
            );
        }
        Ok(())
    }

    /// Whether these parameters are frozen.
    pub(super) fn freezes(&self, t: usize, group: &ParameterGroup) -> bool {
        let mut own = self.all.iter();
        own.any(|(part, change)| *change == Change::Freeze && part.contains(t, group))
    }

    /// Whether all, and whether some, of a layer's groups are frozen.
    pub(super) fn freezing(&self, t: usize, groups: &[ParameterGroup]) -> [bool; 2] {
        let frozen = groups.iter().filter(|own| self.freezes(t, own)).count();
        [frozen > 0 && frozen == groups.len(), frozen > 0]
    }

    /// Sets the gradient of frozen groups to zero, so that no norm and no sum counts it.
    pub(super) fn mask<T: Scalar>(&self, t: usize, groups: &[ParameterGroup], gradient: &mut [T]) {
        if self.all.is_empty() {
            return;
        }
        for group in groups.iter().filter(|own| self.freezes(t, own)) {
            gradient[group.range.clone()].fill(T::zero());
        }
    }

    /// The step of one group; `None` if it is frozen.
    pub(super) fn step(&self, step: Step, t: usize, group: &ParameterGroup) -> Option<Step> {
        let mut own = step.with_decay(if group.decays { 1.0 } else { 0.0 });
        let changes = self.all.iter().filter(|(part, _)| part.contains(t, group));
        for &(_, change) in changes {
            match change {
                Change::Rate(factor) => own.factor = step.factor * factor,
                Change::Decay(factor) => own.decay = factor,
                Change::Freeze => return None,
            }
        }
        Some(own)
    }
}
