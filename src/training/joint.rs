//! Joint descent: θ and z move together.

use std::sync::Arc;

use super::example_memory::{ExampleMemory, LayerMemory};
use super::visit::{Scheme, Visit};
use crate::decoupled::DecoupledCircuit;
use crate::energy::LocalWorkspace;
use crate::error::{Error, Quantity};
use crate::kernel::Columns;
use crate::kernel::Scalar;
use crate::kernel::{add_to, all_finite, both_finite};
use crate::optimizer::{Optimizer, Step};

/// Joint descent on θ and z: both gradients of E at the same point, both updated at once.
///
/// The state of z's rule (momentum, Adam's moments and its count of steps) is kept by example, so
/// it survives shuffled minibatches. The rate of z applies to each example's own gradient, that of
/// θ to the mean over the batch; the schedule scales θ's rate alone. A visit leaves no gradients in
/// the workspace: the new values are made in their place. After an error θ and z are what they were;
/// the rules' states are not.
///
/// # Examples
/// ```
/// use layerwise::optimizer::GradientDescent;
/// use layerwise::training::JointDescent;
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
    /// By hidden layer.
    finite: Vec<Finite>,
    meetings: Vec<Meeting<T>>,
}

/// Whether what one z_t's step met is finite.
#[derive(Debug, Clone, Copy)]
struct Finite {
    gradient: bool,
    target: bool,
}

impl Finite {
    const ALL: Self = Self {
        gradient: true,
        target: true,
    };
}

impl<T: Scalar> JointDescent<T> {
    /// Joint descent in which `rule` moves the targets.
    pub fn new(rule: impl Optimizer<T> + 'static) -> Self {
        Self {
            rule: Arc::new(rule),
            memory: ExampleMemory::new(),
            steps: Vec::new(),
            finite: Vec::new(),
            meetings: Vec::new(),
        }
    }
}

impl<T: Scalar> Scheme<T> for JointDescent<T> {
    fn start(&mut self, model: &DecoupledCircuit<T>) -> Result<(), Error> {
        self.memory.start(model, self.rule.slots());
        self.steps = vec![0; model.examples().len()];
        self.finite = vec![Finite::ALL; model.circuit().depth() - 1];
        Ok(())
    }

    fn visit(&mut self, visit: &mut Visit<'_, '_, T>) -> Result<T, Error> {
        self.memory.locate(visit.batch().examples())?;
        let number = visit.steps();
        self.descend(visit);
        visit.workspace.spent = true;
        check(&self.finite, number)?;
        visit.workspace.check_energies(number)?;
        visit.optimizer.check()?;
        let (energy, gap) = (visit.workspace.energy(), visit.workspace.squared_gap());
        let locals = &mut visit.workspace.locals[..self.finite.len()];
        for (t, local) in (1..).zip(locals) {
            visit.batch.replace(t, &mut local.d_target);
        }
        let early = visit.optimizer.is_layerwise();
        visit
            .optimizer
            .commit(visit.circuit, visit.workspace, early);
        visit.record_gap_met(gap);
        Ok(energy)
    }
}

impl<T: Scalar> JointDescent<T> {
    /// Makes both steps, from gradients at the same point: every new θ_t in the place of its
    /// gradient, every new z_t in that of its target gradient. Nothing of the model changes yet.
    ///
    /// Layers go in runs, each by one thread from its first layer to its last. Within a run all that
    /// is made is used while it is in the cache: θ_t steps when layer t's problem is done, z_t when
    /// those of layers t − 1 and t are, and the memory in between goes from layer to layer.
    fn descend(&mut self, visit: &mut Visit<'_, '_, T>) {
        let whole = self.memory.is_whole();
        let (columns, memory) = self.memory.parts();
        for &column in columns {
            self.steps[column] += 1;
        }
        let weights = visit.batch.weights;
        let moves = Moves {
            rule: self.rule.as_ref(),
            columns,
            steps: &self.steps,
            weights,
            alike: whole && weights.is_empty() && is_constant(&self.steps),
        };
        let execution = visit.execution();
        let circuit = &*visit.circuit;
        let depth = circuit.depth();
        let batch = visit.batch.view().with_execution(execution);
        // The norm of all gradients must be known first where it has a bound.
        let early = visit.optimizer.is_layerwise();
        let step = visit.step(|_| false);
        let workspace = &mut *visit.workspace;
        workspace.fit(circuit);
        let (rule, layers) = visit.optimizer.parts();
        let size = execution.neighbours(depth);
        let locals = Columns {
            values: &mut workspace.locals[..],
            size,
        };
        let layers = Columns {
            values: layers,
            size,
        };
        let finite = Columns {
            values: &mut self.finite[..],
            size,
        };
        let hidden = Columns {
            values: &mut *memory,
            size,
        };
        let data = ((locals, layers), (finite, hidden));
        execution.for_each_item(
            depth.div_ceil(size),
            data,
            |r, ((locals, layers), hidden)| {
                let (locals, layers) = (locals.values, layers.values);
                let (finite, memory) = (hidden.0.values, hidden.1.values);
                for k in 0..locals.len() {
                    let t = r * size + k;
                    let (before, own) = locals.split_at_mut(k);
                    let own = &mut own[0];
                    if let Some(below) = before.last_mut() {
                        // The first input gradient waits for the end of the run before this.
                        below.hand_on(own, k > 1 || r == 0);
                    }
                    let problem = circuit.local_problem(t, batch);
                    problem.evaluate(circuit.wanted(t, true, true), own);
                    if t + 1 < depth {
                        own.measure_gap(problem.target);
                    }
                    if early {
                        let theta = (problem.parameters, circuit.parameter_groups(t));
                        layers[k].step_over(rule, step, theta, &mut own.d_parameters, execution);
                    }
                    if let Some(below) = before.last_mut() {
                        let parts = [&mut below.d_target[..], &mut own.d_input[..]];
                        finite[k - 1] = moves.make(batch.z(t), parts, &mut memory[k - 1]);
                    }
                }
            },
        );
        // Where two runs meet.
        let meetings = || (size..depth).step_by(size);
        self.meetings.resize_with(meetings().count(), Meeting::new);
        exchange(&mut self.meetings, meetings(), &mut workspace.locals);
        let data = (
            &mut self.meetings[..],
            Columns {
                values: memory,
                size,
            },
        );
        execution.for_each_item(meetings().count(), data, |r, (own, memory)| {
            let own = &mut own[0];
            let parts = [&mut own.target_part[..], &mut own.input_part[..]];
            let memory = &mut memory.values[size - 1];
            own.finite = moves.make(batch.z((r + 1) * size), parts, memory);
        });
        exchange(&mut self.meetings, meetings(), &mut workspace.locals);
        for (own, t) in self.meetings.iter().zip(meetings()) {
            self.finite[t - 1] = own.finite;
        }
        if !early {
            visit.prepare_steps(|_| None);
        }
    }
}

/// Both parts of ∂E/∂z_t where z_t stands between two runs.
#[derive(Debug, Clone)]
struct Meeting<T> {
    target_part: Vec<T>,
    input_part: Vec<T>,
    finite: Finite,
}

impl<T> Meeting<T> {
    fn new() -> Self {
        Self {
            target_part: Vec::new(),
            input_part: Vec::new(),
            finite: Finite::ALL,
        }
    }
}

/// Takes the parts out of the layers' workspaces, or brings them back.
fn exchange<T>(
    meetings: &mut [Meeting<T>],
    places: impl Iterator<Item = usize>,
    locals: &mut [LocalWorkspace<T>],
) {
    for (own, t) in meetings.iter_mut().zip(places) {
        std::mem::swap(&mut own.target_part, &mut locals[t - 1].d_target);
        std::mem::swap(&mut own.input_part, &mut locals[t].d_input);
    }
}

fn is_constant(values: &[u64]) -> bool {
    values.windows(2).all(|pair| pair[0] == pair[1])
}

/// The steps of z that one visit makes.
struct Moves<'a, T: Scalar> {
    rule: &'a dyn Optimizer<T>,
    columns: &'a [usize],
    /// By column.
    steps: &'a [u64],
    weights: &'a [T],
    /// Whether one step is every column's, and the columns are all there are.
    alike: bool,
}

/// Values that are moved at once.
const BLOCK: usize = 4096;

impl<T: Scalar> Moves<'_, T> {
    /// Makes the new z_t in the place of the target part of its gradient, which is added to the
    /// input part.
    fn make(
        &self,
        z: &[T],
        [target_part, input_part]: [&mut [T]; 2],
        memory: &mut LayerMemory<T>,
    ) -> Finite {
        let dim = z.len() / self.columns.len();
        let at_once = memory.examples_at_once(BLOCK);
        let mut finite = Finite::ALL;
        // Part by part, while its values are in the nearest cache.
        let size = at_once * dim;
        let parts = target_part
            .chunks_mut(size)
            .zip(input_part.chunks_mut(size));
        for (p, (before, (new, gradient))) in z.chunks(size).zip(parts).enumerate() {
            add_to(gradient, new);
            new.copy_from_slice(before);
            if self.alike {
                let step = Step::new(self.steps[0], 1.0);
                self.rule
                    .update(step, new, gradient, memory.part(p, at_once));
            } else {
                let columns = new.chunks_exact_mut(dim).zip(gradient.chunks_exact(dim));
                for (i, (new, gradient)) in (p * at_once..).zip(columns) {
                    let column = self.columns[i];
                    let weight = self.weights.get(i).map_or(1.0, |w| w.as_f64());
                    let step = Step::new(self.steps[column], 1.0);
                    let step = step.with_gradient_factor(1.0 / weight);
                    memory.update(column, |state| self.rule.update(step, new, gradient, state));
                }
            }
            if !both_finite(gradient, new) {
                finite.gradient &= all_finite(gradient);
                finite.target &= all_finite(new);
            }
        }
        finite
    }
}

/// Whether all gradients and new targets are finite, z_1 first.
fn check(finite: &[Finite], step: u64) -> Result<(), Error> {
    let fault = |quantity, at: Option<usize>| match at {
        None => Ok(()),
        Some(i) => Err(Error::NonFinite {
            quantity,
            layer: i + 1,
            step,
        }),
    };
    let gradient = finite.iter().position(|own| !own.gradient);
    fault(Quantity::TargetGradient, gradient)?;
    let target = finite.iter().position(|own| !own.target);
    fault(Quantity::Target, target)
}
