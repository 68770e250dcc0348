//! The joint visit: θ and z step together, from gradients at the same point.

use super::motion::pull;
use super::per_example::{Moments, check_columns, zeros};
use super::visit::{Visit, gradient_problem};
use super::w_step::{self, Fault};
use crate::decoupled::DecoupledCircuit;
use crate::error::{Error, Quantity};
use crate::kernel::{Scalar, Squares, add_to};
use crate::optimizer::{Optimizer, Step};
use crate::segment::Boundaries;
use crate::state::State;

/// Each example's step count (counts), and the rule's moments by hidden layer (values).
pub(super) fn start<T: Scalar>(rule: &dyn Optimizer<T>, model: &DecoupledCircuit<T>) -> State<T> {
    let mut state = State::new();
    state.counts = vec![0; model.examples().len()];
    state.values = zeros(model, rule.slots());
    state
}

/// What the step of one z_t needs in addition to its moments.
struct Hidden<T> {
    fault: Option<Fault>,
    /// Whether z_t has never moved in the phase before; and whether it moves now, and its pull.
    watched: bool,
    moved: bool,
    pull: f64,
    /// The moments of one example, where they are not contiguous.
    example: Vec<T>,
}

/// Both steps of one visit, committed to θ and to the batch; returns E and the squared gap before
/// them. After an error θ, z and the counts of their steps are unchanged; the rules' moments are not.
///
/// Every new θ_t overwrites its gradient, and every new z_t its target gradient, segment by segment
/// ([`crate::segment`]): θ_t steps when layer t's problem is done, z_t when those of layers t − 1
/// and t are.
pub(super) fn visit<T: Scalar>(
    rule: &dyn Optimizer<T>,
    state: &mut State<T>,
    visit: &mut Visit<'_, T>,
) -> Result<T, Error> {
    let columns = visit.columns;
    visit.record_relaxation();
    // Even if the visit fails: the predictions' memory is passed from layer to layer.
    visit.forget();
    let (numbers, (scratch, boundaries)) = state.split::<(Vec<Hidden<T>>, Boundaries<T>)>();
    let steps = numbers.counts;
    check_columns(&[&*steps], &[1, 1, 1], 1, columns)?;
    check_columns(numbers.values, visit.batch.base.dims, rule.slots(), columns)?;
    let number = visit.w_state.steps;
    let weights = visit.batch.base.weights;
    let whole = columns.len() == steps.len() && columns.is_sorted();
    let moves = Moves {
        rule,
        columns,
        steps: &*steps,
        weights,
        alike: whole && weights.is_empty() && is_constant(steps),
    };
    let hidden = visit.circuit.depth() - 1;
    scratch.resize_with(hidden, || Hidden {
        fault: None,
        watched: true,
        moved: false,
        pull: 0.0,
        example: Vec::new(),
    });
    for (own, state) in scratch.iter_mut().zip(&visit.w_state.layers) {
        own.watched = !state.target.has_moved();
    }
    let w = visit.w_step;
    // Gradient clipping needs the norm of all gradients first, and accumulation those of more visits.
    let early = w.rule().is_some() && w.is_layerwise();
    let examples = columns.len() as u64;
    let none = |_| false;
    let step = w_step::begin(w, number, visit.workspace, examples, visit.factor, none);
    let problem = gradient_problem!(visit).scheduled();
    let (depth, execution) = (hidden + 1, problem.batch().execution);
    let circuit = problem.layers().circuit();
    let batch = problem.batch();
    boundaries.stream(
        problem,
        visit.workspace,
        (&mut visit.w_state.layers, visit.steps),
        (numbers.values, scratch),
        |t, problem, local, state, own| {
            if t + 1 < depth {
                own.squared_gap = problem.squared_gap(local);
            }
            own.fault = None;
            if early && !state.frozen {
                let theta = (t, problem.parameters, circuit.parameter_groups(t));
                w.mask(t, theta.2, &mut local.d_parameters);
                state.feel(&local.d_parameters);
                let (moments, place) = (&mut state.moments, &mut local.d_parameters);
                own.fault = w.step_into(step, theta, moments, None, place, execution);
            }
        },
        |t, parts, moments, own| moves.make(batch.z(t), parts, moments, own),
    );
    let faults = (1..).zip(scratch.iter().map(|own| own.fault));
    Fault::check(faults, [Quantity::TargetGradient, Quantity::Target], number)?;
    visit.workspace.check_energies(number)?;
    let mut late = false;
    if early {
        w_step::check(visit.steps, number)?;
    } else {
        late = w_step::prepare(
            w,
            visit.w_state,
            (visit.steps, visit.draft),
            problem,
            visit.workspace,
            visit.factor,
        )?;
    }
    for &column in columns {
        steps[column] += 1;
    }
    for (t, own) in (1..).zip(&*scratch).filter(|(_, own)| own.watched) {
        match own.moved {
            true => visit.w_state.layers[t - 1].target.moved = true,
            false => visit.record_pull(t, own.pull),
        }
    }
    let energy = visit.workspace.energy();
    let gaps = visit.steps[..hidden].iter();
    let gap = Squares::all(gaps.map(|own| own.squared_gap)).root();
    let locals = &mut visit.workspace.locals[..hidden];
    for (t, local) in (1..).zip(locals) {
        visit.batch.replace(t, &mut local.d_target);
    }
    if early {
        w_step::commit_over(visit.w_state, visit.circuit, visit.workspace);
    } else if late && !w.is_none() {
        let steps = (&mut *visit.steps, &mut *visit.draft);
        w_step::commit(w, visit.w_state, steps, visit.circuit);
    }
    visit.record_gap_before(gap);
    Ok(energy)
}

fn is_constant(values: &[u64]) -> bool {
    values.windows(2).all(|pair| pair[0] == pair[1])
}

/// The z-steps of one visit.
struct Moves<'a, T: Scalar> {
    rule: &'a dyn Optimizer<T>,
    columns: &'a [usize],
    /// Completed steps, by column.
    steps: &'a [u64],
    weights: &'a [T],
    /// Whether the batch is the whole data set, unweighted, and all columns have the same step
    /// count.
    alike: bool,
}

/// Number of values moved at a time.
const BLOCK: usize = 4096;

impl<T: Scalar> Moves<'_, T> {
    /// Overwrites the target part of z_t's gradient with the new z_t, after adding the target part
    /// to the input part.
    fn make(
        &self,
        z: &[T],
        [target_part, input_part]: [&mut [T]; 2],
        moments: &mut [T],
        own: &mut Hidden<T>,
    ) {
        (own.fault, own.moved, own.pull) = (None, false, 0.0);
        let dim = z.len() / self.columns.len();
        let mut moments = Moments {
            slots: self.rule.slots(),
            dim,
            values: moments,
            example: &mut own.example,
        };
        let at_once = moments.examples_at_once(BLOCK);
        // Part by part, while the values are in the L1 cache.
        let size = at_once * dim;
        let parts = target_part
            .chunks_mut(size)
            .zip(input_part.chunks_mut(size));
        for (p, (before, (new, gradient))) in z.chunks(size).zip(parts).enumerate() {
            add_to(gradient, new);
            new.copy_from_slice(before);
            if self.alike {
                let step = Step::new(self.steps[0] + 1, 1.0);
                let state = moments.part(p, at_once);
                self.rule.update(step, new, gradient, state);
            } else {
                let columns = new.chunks_exact_mut(dim).zip(gradient.chunks_exact(dim));
                for (i, (new, gradient)) in (p * at_once..).zip(columns) {
                    let column = self.columns[i];
                    let weight = self.weights.get(i).map_or(1.0, |w| w.as_f64());
                    let step = Step::new(self.steps[column] + 1, 1.0);
                    let step = step.with_gradient_factor(1.0 / weight);
                    moments.update(column, |state| self.rule.update(step, new, gradient, state));
                }
            }
            own.fault = own.fault.max(Fault::of(gradient, new));
            if own.watched {
                own.moved = own.moved || new != before;
                let weights = self.weights.get(p * at_once..).unwrap_or(&[]);
                own.pull = own.pull.max(pull(dim, before, gradient, weights));
            }
        }
    }
}
