//! The optimiser of θ with its state, and steps that are made as a whole or not at all.

use std::sync::Arc;

use crate::circuit::Circuit;
use crate::energy::Workspace;
use crate::error::{Error, Quantity};
use crate::kernel::Scalar;
use crate::kernel::{Columns, Execution};
use crate::kernel::{all_finite, both_finite};
use crate::layer::ParameterGroup;
use crate::optimizer::{Optimizer, Step};

/// The optimiser of θ with its state.
#[derive(Debug, Clone)]
pub(crate) struct ParameterOptimizer<T: Scalar> {
    rule: Arc<dyn Optimizer<T>>,
    layers: Vec<LayerStep<T>>,
    max_norm: Option<f64>,
    /// Completed steps.
    pub(crate) steps: u64,
}

/// One layer's step under way: the new θ_t is made beside θ_t, and exchanged with it when every
/// layer's is known to be sound.
#[derive(Debug, Clone)]
pub(crate) struct LayerStep<T> {
    /// The new θ_t, if it was not made in the place of its gradient.
    next: Vec<T>,
    /// The rule's state, for each group of parameters block by block.
    state: Vec<T>,
    finite: Finite,
}

/// Whether what a step met is finite.
#[derive(Debug, Clone, Copy)]
struct Finite {
    gradient: bool,
    next: bool,
}

impl Finite {
    const ALL: Self = Self {
        gradient: true,
        next: true,
    };

    fn and(self, other: Self) -> Self {
        Self {
            gradient: self.gradient && other.gradient,
            next: self.next && other.next,
        }
    }
}

/// Values that are updated at once: few enough to be checked while they are in the nearest cache.
const BLOCK: usize = 1024;

/// What the update of one value costs, in multiply-adds of a product: it waits for memory.
const COST: usize = 32;

impl<T: Scalar> ParameterOptimizer<T> {
    pub(crate) fn new(
        rule: Arc<dyn Optimizer<T>>,
        circuit: &Circuit<T>,
        max_norm: Option<f64>,
    ) -> Self {
        let slots = rule.slots();
        let layer = |t: usize| {
            let count = circuit.parameters(t).len();
            LayerStep {
                next: Vec::new(),
                state: vec![T::zero(); slots * count],
                finite: Finite::ALL,
            }
        };
        Self {
            layers: (0..circuit.depth()).map(layer).collect(),
            rule,
            max_norm,
            steps: 0,
        }
    }

    /// The step along the mean of the gradients in the workspace, shortened to the largest norm over
    /// the layers that `wanted` names.
    pub(crate) fn begin(
        &self,
        gradients: &Workspace<T>,
        examples: usize,
        factor: f64,
        wanted: impl Fn(usize) -> bool,
    ) -> Step {
        let mut mean = 1.0 / examples as f64;
        if let Some(max) = self.max_norm {
            let norm = mean * gradients.parameter_gradient_norm(wanted);
            if norm > max {
                mean *= max / norm;
            }
        }
        Step::new(self.steps + 1, factor).with_gradient_factor(mean)
    }

    /// Whether a step can be made layer by layer, before the gradients of the others are known.
    pub(crate) fn is_layerwise(&self) -> bool {
        self.max_norm.is_none()
    }

    /// The rule, and the layers' steps to be made.
    pub(crate) fn parts(&mut self) -> (&dyn Optimizer<T>, &mut [LayerStep<T>]) {
        (self.rule.as_ref(), &mut self.layers)
    }

    /// Whether every layer's step is finite.
    ///
    /// # Errors
    /// [`Error::NonFinite`].
    pub(crate) fn check(&self) -> Result<(), Error> {
        let layers = &self.layers;
        let gradient = layers.iter().position(|own| !own.finite.gradient);
        let next = || layers.iter().position(|own| !own.finite.next);
        let gradient = gradient.map(|layer| (Quantity::ParameterGradient, layer));
        let fault = gradient.or_else(|| next().map(|layer| (Quantity::Parameter, layer)));
        match fault {
            None => Ok(()),
            Some((quantity, layer)) => Err(Error::NonFinite {
                quantity,
                layer,
                step: self.steps,
            }),
        }
    }

    /// Gives every layer its new θ_t, made in its gradient's place if `over`.
    pub(crate) fn commit(
        &mut self,
        circuit: &mut Circuit<T>,
        workspace: &mut Workspace<T>,
        over: bool,
    ) {
        let parameters = circuit.parameters_mut().iter_mut();
        for (own, (layer, local)) in
            parameters.zip(self.layers.iter_mut().zip(&mut workspace.locals))
        {
            let next = if over {
                &mut local.d_parameters
            } else {
                &mut layer.next
            };
            std::mem::swap(own, next);
        }
        self.steps += 1;
    }
}

impl<T: Scalar> LayerStep<T> {
    /// A step to a given θ_t.
    pub(crate) fn take(&mut self, solution: &[T]) {
        self.next.clear();
        self.next.extend_from_slice(solution);
        self.finite = Finite {
            gradient: true,
            next: all_finite(solution),
        };
    }

    /// A step of `rule` from `own` along ∂ℓ_t/∂θ_t, which stays as it is.
    pub(crate) fn step(
        &mut self,
        rule: &dyn Optimizer<T>,
        step: Step,
        theta: (&[T], &[ParameterGroup]),
        gradient: &[T],
        execution: Execution,
    ) {
        let mut next = std::mem::take(&mut self.next);
        next.resize(gradient.len(), T::zero());
        self.step_into(rule, step, theta, Some(gradient), &mut next, execution);
        self.next = next;
    }

    /// The same with the new θ_t in the place of its gradient: a third of the memory is not touched.
    pub(crate) fn step_over(
        &mut self,
        rule: &dyn Optimizer<T>,
        step: Step,
        theta: (&[T], &[ParameterGroup]),
        gradient: &mut [T],
        execution: Execution,
    ) {
        self.step_into(rule, step, theta, None, gradient, execution);
    }

    /// Group by group, so that only those that decay do. Without a `gradient` it stands in `place`.
    fn step_into(
        &mut self,
        rule: &dyn Optimizer<T>,
        step: Step,
        (own, groups): (&[T], &[ParameterGroup]),
        gradient: Option<&[T]>,
        place: &mut [T],
        execution: Execution,
    ) {
        let slots = rule.slots();
        self.finite = Finite::ALL;
        let mut states = &mut self.state[..];
        for group in groups {
            let step = step.with_decay(group.decays);
            let range = group.range.clone();
            let (state, rest) = states.split_at_mut(slots * range.len());
            states = rest;
            let own = &own[range.clone()];
            let gradient = gradient.map(|gradient| &gradient[range.clone()]);
            let columns = |values, size| Columns { values, size };
            let data = (columns(&mut place[range], 1), columns(state, slots));
            let finite = execution.map_blocks(
                own.len(),
                COST,
                BLOCK,
                data,
                |range, (place, state)| {
                    let gradient = gradient.map(|gradient| &gradient[range.clone()]);
                    step_blocks(
                        rule,
                        step,
                        &own[range],
                        gradient,
                        place.values,
                        state.values,
                    )
                },
                Finite::and,
            );
            self.finite = self.finite.and(finite);
        }
    }
}

/// One step after another of as many values as stay in the nearest cache.
fn step_blocks<T: Scalar>(
    rule: &dyn Optimizer<T>,
    step: Step,
    own: &[T],
    gradient: Option<&[T]>,
    place: &mut [T],
    mut states: &mut [T],
) -> Finite {
    let slots = rule.slots();
    let mut room = [T::zero(); BLOCK];
    let mut finite = Finite::ALL;
    let mut gradients = gradient.map(|gradient| gradient.chunks(BLOCK));
    for (own, place) in own.chunks(BLOCK).zip(place.chunks_mut(BLOCK)) {
        let gradient = gradients.as_mut().and_then(Iterator::next);
        let gradient = gradient.unwrap_or(place);
        let (state, rest) = states.split_at_mut(slots * own.len());
        states = rest;
        let next = &mut room[..own.len()];
        next.copy_from_slice(own);
        rule.update(step, next, gradient, state);
        if !both_finite(gradient, next) {
            finite = finite.and(Finite {
                gradient: all_finite(gradient),
                next: all_finite(next),
            });
        }
        place.copy_from_slice(next);
    }
    finite
}
