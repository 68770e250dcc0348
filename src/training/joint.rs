//! Joint descent: θ and z move together.

use std::sync::Arc;

use super::example_memory::{ExampleMemory, LayerMemory};
use super::visit::{Scheme, Visit};
use crate::circuit::Workspace;
use crate::circuit::batch::Kept;
use crate::decoupled::DecoupledCircuit;
use crate::kernel::{add_to_finite, all_finite};
use crate::optimizer::{Optimizer, Step};
use crate::{Error, Quantity, Scalar};

/// Joint descent on θ and z: both gradients of E at the same point, both updated at once.
///
/// The state of z's rule (momentum, Adam's moments and its count of steps) is kept by example, so
/// it survives shuffled minibatches. The rate of z applies to each example's own gradient, that of
/// θ to the mean over the batch; the schedule scales θ's rate alone.
///
/// # Examples
/// ```
/// use layerwise::{GradientDescent, JointDescent};
///
/// let scheme: JointDescent<f64> =
///     JointDescent::new(GradientDescent::new(0.1)?.with_momentum(0.9)?);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct JointDescent<T: Scalar> {
    rule: Arc<dyn Optimizer<T>>,
    /// The rule's state.
    memory: ExampleMemory<T>,
    /// Steps of each example, by column.
    steps: Vec<u64>,
    moves: Vec<Move<T>>,
}

/// One hidden layer's step under way.
#[derive(Debug, Clone)]
struct Move<T> {
    /// ∂E/∂z_t.
    gradient: Vec<T>,
    gradient_is_finite: bool,
    target_is_finite: bool,
}

impl<T: Scalar> JointDescent<T> {
    /// Joint descent in which `rule` moves the targets.
    pub fn new(rule: impl Optimizer<T> + 'static) -> Self {
        Self {
            rule: Arc::new(rule),
            memory: ExampleMemory::new(),
            steps: Vec::new(),
            moves: Vec::new(),
        }
    }
}

impl<T: Scalar> Scheme<T> for JointDescent<T> {
    fn start(&mut self, model: &DecoupledCircuit<T>) -> Result<(), Error> {
        self.memory.start(model, self.rule.slots());
        self.steps = vec![0; model.examples().len()];
        let moves = (1..model.circuit().depth()).map(|_| Move {
            gradient: Vec::new(),
            gradient_is_finite: true,
            target_is_finite: true,
        });
        self.moves = moves.collect();
        Ok(())
    }

    fn visit(&mut self, visit: &mut Visit<'_, '_, T>) -> Result<T, Error> {
        self.memory.locate(visit.batch().examples())?;
        let (energy, gap) = visit.evaluate_with_steps();
        // Both gradients were taken at the same point, so the order of the two updates is free. If
        // that of θ fails, the run puts the targets back.
        self.move_targets(visit)?;
        visit.commit_steps()?;
        visit.record_gap_met(gap);
        Ok(energy)
    }
}

impl<T: Scalar> JointDescent<T> {
    fn move_targets(&mut self, visit: &mut Visit<'_, '_, T>) -> Result<(), Error> {
        let number = visit.steps();
        let whole = self.memory.is_whole();
        let (columns, memory) = self.memory.parts();
        for &column in columns {
            self.steps[column] += 1;
        }
        let weights = visit.batch.weights;
        let alike = whole && weights.is_empty() && is_constant(&self.steps);
        let steps = Steps {
            rule: self.rule.as_ref(),
            columns,
            steps: &self.steps,
            weights,
            alike,
        };
        let execution = visit.execution();
        let moves = &mut self.moves;
        let swap_gradients = |moves: &mut [Move<T>], workspace: &mut Workspace<T>| {
            for (own, local) in moves.iter_mut().zip(&mut workspace.locals) {
                std::mem::swap(&mut own.gradient, &mut local.d_target);
            }
        };
        swap_gradients(moves, visit.workspace);
        let workspace = &*visit.workspace;
        let (z, range, kept) = visit.batch.hidden_mut();
        let count = z.len();
        let data = ((z, kept), (&mut moves[..], memory));
        execution.for_each_item(count, data, |i, ((z, kept), (own, memory))| {
            let input_part = workspace.local(i + 1).input_gradient();
            let (own, z, memory) = (&mut own[0], &mut z[0][range(i)], &mut memory[0]);
            steps.make(own, z, input_part, kept.first_mut(), memory);
        });
        swap_gradients(moves, visit.workspace);
        check(moves, number)
    }
}

fn is_constant(values: &[u64]) -> bool {
    values.windows(2).all(|pair| pair[0] == pair[1])
}

/// The steps of z that one visit makes.
struct Steps<'a, T: Scalar> {
    rule: &'a dyn Optimizer<T>,
    columns: &'a [usize],
    /// By column.
    steps: &'a [u64],
    weights: &'a [T],
    alike: bool,
}

impl<T: Scalar> Steps<'_, T> {
    /// Moves one z_t along its gradient, whose target part stands in `own`.
    fn make(
        &self,
        own: &mut Move<T>,
        z: &mut [T],
        input_part: &[T],
        kept: Option<&mut Kept<T>>,
        memory: &mut LayerMemory<T>,
    ) {
        if let Some(kept) = kept {
            kept.keep(z);
        }
        let dim = z.len() / self.columns.len();
        let at_once = memory.examples_at_once();
        (own.gradient_is_finite, own.target_is_finite) = (true, true);
        // Part by part, while its values are in the nearest cache.
        let size = at_once * dim;
        let gradients = own.gradient.chunks_mut(size).zip(input_part.chunks(size));
        for (p, (z, (gradient, input_part))) in z.chunks_mut(size).zip(gradients).enumerate() {
            own.gradient_is_finite &= add_to_finite(gradient, input_part);
            if self.alike {
                let step = Step::new(self.steps[0], 1.0);
                self.rule.update(step, z, gradient, memory.part(p));
            } else {
                let columns = z.chunks_exact_mut(dim).zip(gradient.chunks_exact(dim));
                for (i, (z, gradient)) in (p * at_once..).zip(columns) {
                    let column = self.columns[i];
                    let weight = self.weights.get(i).map_or(1.0, |w| w.as_f64());
                    let step = Step::new(self.steps[column], 1.0);
                    let step = step.with_gradient_factor(1.0 / weight);
                    memory.update(column, |state| self.rule.update(step, z, gradient, state));
                }
            }
            own.target_is_finite &= all_finite(z);
        }
    }
}

/// Whether all gradients and new targets are finite, z_1 first.
fn check<T>(moves: &[Move<T>], step: u64) -> Result<(), Error> {
    let fault = |quantity, at: Option<usize>| match at {
        None => Ok(()),
        Some(i) => Err(Error::NonFinite {
            quantity,
            layer: i + 1,
            step,
        }),
    };
    let gradient = moves.iter().position(|own| !own.gradient_is_finite);
    fault(Quantity::TargetGradient, gradient)?;
    let target = moves.iter().position(|own| !own.target_is_finite);
    fault(Quantity::Target, target)
}
