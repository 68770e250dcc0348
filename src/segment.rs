//! A run of consecutive layers of the decoupled problem: the unit that one thread, one process or
//! one machine works on.

use std::ops::Range;

use crate::energy::{Ask, LocalProblem, LocalWorkspace, Problem, Workspace};
use crate::kernel::{Columns, Scalar, add_to};

/// Layers a, …, b−1 of a problem, with the memory needed to evaluate them.
///
/// At each end it exchanges only two messages with its neighbour. It reads z_a and z_b, and
/// computes its parts of ∂E/∂z_a and ∂E/∂z_b. The parts of the two segments at a boundary add up to
/// the gradient there.
///
/// # Examples
/// ```
/// use layerwise::energy::{All, Workspace};
/// use layerwise::prelude::*;
/// use layerwise::segment::Segment;
///
/// let circuit = Circuit::<f64>::builder()
///     .layer(Dense::new(2, 3, Activation::Tanh)?)
///     .layer(Dense::new(3, 3, Activation::Tanh)?)
///     .layer(Dense::new(3, 1, Activation::Identity)?)
///     .build()?;
/// let mut model = DecoupledCircuit::new(circuit, Energy::default())?;
/// let (x, y) = (DMatrix::from_element(2, 4, 0.5), DMatrix::zeros(1, 4));
/// model.add_examples(&x, &y, &TargetInit::RandomNormal { std: 0.5, seed: 0 })?;
/// let problem = model.problem(0..4)?;
///
/// let (mut lower, mut upper) = (Workspace::new(), Workspace::new());
/// let (mut first, mut second) = (
///     Segment::new(problem, 0..2, &mut lower),
///     Segment::new(problem, 2..3, &mut upper),
/// );
/// let (first, second) = (first.evaluate(), second.evaluate());
/// let parts = first.upper_gradient().iter().zip(second.lower_gradient());
/// let sum: Vec<f64> = parts.map(|(below, above)| below + above).collect();
///
/// let mut workspace = Workspace::new();
/// let whole = problem.evaluate(All, &mut workspace);
/// assert_eq!(first.energy() + second.energy(), whole.energy());
/// assert_eq!(sum, whole.target_gradient(2));
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug)]
pub struct Segment<'s, 'a, T: Scalar> {
    problem: Problem<'a, T>,
    first: usize,
    locals: &'s mut [LocalWorkspace<T>],
}

impl<'s, 'a, T: Scalar> Segment<'s, 'a, T> {
    /// Layers `layers` of `problem`, evaluated in `workspace`. Panics if the problem has no such
    /// layers.
    pub fn new(
        problem: Problem<'a, T>,
        layers: Range<usize>,
        workspace: &'s mut Workspace<T>,
    ) -> Self {
        let depth = problem.layers().depth();
        assert!(
            layers.start < layers.end && layers.end <= depth,
            "layers {layers:?} are not a non-empty range within 0..{depth}"
        );
        workspace.fit(layers.len());
        Self {
            problem,
            first: layers.start,
            locals: &mut workspace.locals,
        }
    }

    /// The range a..b.
    pub fn layers(&self) -> Range<usize> {
        self.first..self.first + self.locals.len()
    }

    /// Σ ℓ_t over these layers, with all gradients, which stay in the segment's memory.
    pub fn evaluate(&mut self) -> SegmentEvaluation<'_, T> {
        let depth = self.problem.layers().depth();
        for (k, local) in self.locals.iter_mut().enumerate() {
            let t = self.first + k;
            let problem = self.problem.local(t);
            problem.predict(local);
            problem.differentiate(Ask::ALL.of_layer(t, depth), local);
        }
        for k in 1..self.locals.len() {
            let (before, own) = self.locals.split_at_mut(k);
            add_to(&mut before[k - 1].d_target, &own[0].d_input);
        }
        SegmentEvaluation {
            first: self.first,
            locals: self.locals,
        }
    }

    /// One pass from layer a to layer b−1 that uses every result while it is in the cache. It calls
    /// `layer` once ℓ_t and its gradients are known, and `target` once both parts of ∂E/∂z_t are
    /// known, a < t < b. Intermediate memory is passed from layer to layer, so afterwards only the
    /// gradients and energies are valid, as the calls left them.
    fn stream(
        &mut self,
        mut layer: impl FnMut(usize, &LocalProblem<'a, T>, &mut LocalWorkspace<T>),
        mut target: impl FnMut(usize, [&mut [T]; 2]),
    ) {
        let depth = self.problem.layers().depth();
        for k in 0..self.locals.len() {
            let t = self.first + k;
            let (before, own) = self.locals.split_at_mut(k);
            let own = &mut own[0];
            if let Some(below) = before.last_mut() {
                // The segment below still needs the first input gradient.
                below.hand_on(own, k > 1 || self.first == 0);
            }
            let problem = self.problem.local(t);
            problem.predict(own);
            problem.differentiate(Ask::ALL.of_layer(t, depth), own);
            layer(t, &problem, own);
            if let Some(below) = before.last_mut() {
                target(t, [&mut below.d_target[..], &mut own.d_input[..]]);
            }
        }
    }
}

/// The results of a segment: Σ ℓ_t over its layers and all gradients, as sums over examples.
#[derive(Debug, Clone, Copy)]
pub struct SegmentEvaluation<'s, T> {
    first: usize,
    locals: &'s [LocalWorkspace<T>],
}

impl<'s, T: Scalar> SegmentEvaluation<'s, T> {
    /// Σ ℓ_t, a ≤ t < b, added in the order of the layers.
    pub fn energy(&self) -> T {
        let energies = self.locals.iter().map(|local| local.energy);
        energies.fold(T::zero(), |sum, energy| sum + energy)
    }

    /// ∂E/∂θ_t. Panics if layer t is not in this segment.
    pub fn parameter_gradient(&self, t: usize) -> &'s [T] {
        &self.locals[t - self.first].d_parameters
    }

    /// The complete ∂E/∂z_t, a < t < b, d_t × n column-major. Panics if z_t is not inside this
    /// segment.
    pub fn target_gradient(&self, t: usize) -> &'s [T] {
        assert!(
            self.first < t && t < self.first + self.locals.len(),
            "z_{t} is not inside this segment"
        );
        &self.locals[t - 1 - self.first].d_target
    }

    /// This segment's part of ∂E/∂z_a, with z_a as its input: the message to the segment below.
    /// It has no meaning if a = 0.
    pub fn lower_gradient(&self) -> &'s [T] {
        &self.locals[0].d_input
    }

    /// This segment's part of ∂E/∂z_b, with z_b as its target: the message to the segment above.
    /// It has no meaning if b = T.
    pub fn upper_gradient(&self) -> &'s [T] {
        &self.locals[self.locals.len() - 1].d_target
    }
}

/// Memory for the boundaries between segments of a problem.
#[derive(Debug, Clone)]
pub(crate) struct Boundaries<T> {
    /// Both parts of ∂E/∂z_t where two segments meet: z_t as a target, and z_t as an input.
    all: Vec<[Vec<T>; 2]>,
}

impl<T> Default for Boundaries<T> {
    fn default() -> Self {
        Self { all: Vec::new() }
    }
}

impl<T: Scalar> Boundaries<T> {
    /// Streams all layers of `problem` in segments, as its execution schedules them, and then the
    /// boundaries between them. `layer` receives item t of both `layers`; `target` receives item
    /// t−1 of both `targets`.
    pub(crate) fn stream<A: Send, B: Send, C: Send, D: Send>(
        &mut self,
        problem: Problem<'_, T>,
        workspace: &mut Workspace<T>,
        layers: (&mut [A], &mut [B]),
        targets: (&mut [C], &mut [D]),
        layer: impl Fn(usize, &LocalProblem<'_, T>, &mut LocalWorkspace<T>, &mut A, &mut B) + Sync,
        target: impl Fn(usize, [&mut [T]; 2], &mut C, &mut D) + Sync,
    ) {
        let (depth, execution) = (problem.layers().depth(), problem.batch().execution);
        workspace.fit(depth);
        let size = execution.neighbours(depth);
        let columns = (
            Columns::new(&mut workspace.locals, size),
            (Columns::new(layers.0, size), Columns::new(layers.1, size)),
            (
                Columns::new(&mut *targets.0, size),
                Columns::new(&mut *targets.1, size),
            ),
        );
        let segments = depth.div_ceil(size);
        execution.for_each_item(segments, columns, |r, (locals, (a, b), (c, d))| {
            let first = r * size;
            let mut segment = Segment {
                problem,
                first,
                locals: locals.values,
            };
            let (a, b, c, d) = (a.values, b.values, c.values, d.values);
            segment.stream(
                |t, problem, local| {
                    let k = t - first;
                    layer(t, problem, local, &mut a[k], &mut b[k]);
                },
                |t, parts| {
                    let k = t - 1 - first;
                    target(t, parts, &mut c[k], &mut d[k]);
                },
            );
        });
        let places = || (size..depth).step_by(size);
        self.all.resize_with(places().count(), Default::default);
        self.exchange(places(), &mut workspace.locals);
        let data = (
            &mut self.all[..],
            Columns::new(targets.0, size),
            Columns::new(targets.1, size),
        );
        execution.for_each_item(places().count(), data, |r, (own, c, d)| {
            let parts = own[0].each_mut().map(|part| &mut part[..]);
            let (c, d) = (&mut c.values[size - 1], &mut d.values[size - 1]);
            target((r + 1) * size, parts, c, d);
        });
        self.exchange(places(), &mut workspace.locals);
    }

    /// Moves the parts out of the layers' workspaces, or back into them.
    fn exchange(&mut self, places: impl Iterator<Item = usize>, locals: &mut [LocalWorkspace<T>]) {
        for ([target_part, input_part], t) in self.all.iter_mut().zip(places) {
            std::mem::swap(target_part, &mut locals[t - 1].d_target);
            std::mem::swap(input_part, &mut locals[t].d_input);
        }
    }
}
