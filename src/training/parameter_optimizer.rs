//! The optimiser of θ with its state, and steps that are made as a whole or not at all.

use std::sync::Arc;

use crate::circuit::{Circuit, Workspace};
use crate::execution::{Columns, Execution};
use crate::kernel::all_finite;
use crate::layer::ParameterGroup;
use crate::optimizer::{Optimizer, Step};
use crate::{Error, Quantity, Scalar};

/// The optimiser of θ with its state.
#[derive(Debug, Clone)]
pub(crate) struct ParameterOptimizer<T: Scalar> {
    rule: Arc<dyn Optimizer<T>>,
    layers: Vec<LayerStep<T>>,
    max_norm: Option<f64>,
    /// Completed steps.
    pub(crate) steps: u64,
}

/// One layer's step under way: it is made beside θ_t, which takes it when every layer's is known
/// to be sound.
#[derive(Debug, Clone)]
pub(crate) struct LayerStep<T> {
    /// θ_t after the step.
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
const BLOCK: usize = 2048;

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
                next: vec![T::zero(); count],
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

    /// Gives every layer its step, if all are finite.
    ///
    /// # Errors
    /// [`Error::NonFinite`] otherwise; no θ_t is changed then.
    pub(crate) fn commit(&mut self, circuit: &mut Circuit<T>) -> Result<(), Error> {
        let layers = &mut self.layers;
        let gradient = layers.iter().position(|own| !own.finite.gradient);
        let next = || layers.iter().position(|own| !own.finite.next);
        let gradient = gradient.map(|layer| (Quantity::ParameterGradient, layer));
        let fault = gradient.or_else(|| next().map(|layer| (Quantity::Parameter, layer)));
        if let Some((quantity, layer)) = fault {
            return Err(Error::NonFinite {
                quantity,
                layer,
                step: self.steps,
            });
        }
        for (own, layer) in circuit.parameters_mut().iter_mut().zip(layers) {
            std::mem::swap(own, &mut layer.next);
        }
        self.steps += 1;
        Ok(())
    }
}

impl<T: Scalar> LayerStep<T> {
    /// A step to a given θ_t.
    pub(crate) fn take(&mut self, solution: &[T]) {
        self.next.copy_from_slice(solution);
        self.finite = Finite {
            gradient: true,
            next: all_finite(solution),
        };
    }

    /// A step of `rule` from `own` along ∂ℓ_t/∂θ_t, group by group, so that only those that decay
    /// do.
    pub(crate) fn step(
        &mut self,
        rule: &dyn Optimizer<T>,
        step: Step,
        (own, groups): (&[T], &[ParameterGroup]),
        gradient: &[T],
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
            let (own, gradient) = (&own[range.clone()], &gradient[range.clone()]);
            let data = (
                Columns {
                    values: &mut self.next[range],
                    size: 1,
                },
                Columns {
                    values: state,
                    size: slots,
                },
            );
            let finite = execution.map_blocks(
                own.len(),
                COST,
                BLOCK,
                data,
                |range, (next, state): (Columns<'_, T>, Columns<'_, T>)| {
                    let (own, gradient) = (&own[range.clone()], &gradient[range]);
                    let mut states = state.values;
                    let mut finite = Finite::ALL;
                    let blocks = own.chunks(BLOCK).zip(gradient.chunks(BLOCK));
                    for ((own, gradient), next) in blocks.zip(next.values.chunks_mut(BLOCK)) {
                        let (state, rest) = states.split_at_mut(slots * own.len());
                        states = rest;
                        next.copy_from_slice(own);
                        rule.update(step, next, gradient, state);
                        finite = finite.and(Finite {
                            gradient: all_finite(gradient),
                            next: all_finite(next),
                        });
                    }
                    finite
                },
                Finite::and,
            );
            self.finite = self.finite.and(finite);
        }
    }
}
