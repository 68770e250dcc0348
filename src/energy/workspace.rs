//! The memory that evaluations work in: allocated once, then reused.

use crate::circuit::Circuit;
use crate::error::{Error, Quantity};
use crate::kernel::Scalar;
use crate::kernel::squared_distance;
use crate::layer::{Context, Layer};
use crate::loss::Loss;

/// Memory and results of one layer's local problem.
#[derive(Debug, Clone)]
pub struct LocalWorkspace<T> {
    /// ẑ_{t+1}.
    pub(crate) prediction: Vec<T>,
    pub(crate) tape: Vec<T>,
    pub(crate) work: Vec<T>,
    /// g = ∂ℓ_t/∂ẑ_{t+1}.
    pub(crate) cotangent: Vec<T>,
    /// One an example.
    pub(crate) energies: Vec<T>,
    /// μ times each example's weight.
    pub(crate) factors: Vec<T>,
    pub(crate) energy: T,
    /// Σᵢ ‖zⁱ − ẑⁱ‖², where it is known.
    pub(crate) squared_gap: Option<T>,
    pub(crate) d_parameters: Vec<T>,
    pub(crate) d_input: Vec<T>,
    pub(crate) d_target: Vec<T>,
}

impl<T: Scalar> LocalWorkspace<T> {
    pub(crate) fn new() -> Self {
        Self {
            prediction: Vec::new(),
            tape: Vec::new(),
            work: Vec::new(),
            cotangent: Vec::new(),
            energies: Vec::new(),
            factors: Vec::new(),
            energy: T::zero(),
            squared_gap: None,
            d_parameters: Vec::new(),
            d_input: Vec::new(),
            d_target: Vec::new(),
        }
    }

    /// Fits the buffers to a layer and a batch; allocates only where they were never so large.
    pub(crate) fn fit(
        &mut self,
        layer: &dyn Layer<T>,
        loss: &dyn Loss<T>,
        parameters: usize,
        batch: usize,
    ) {
        let (inputs, outputs) = (layer.input_dim() * batch, layer.output_dim() * batch);
        let scratch = layer.scratch(batch);
        let work = scratch.work.max(loss.scratch(layer.output_dim(), batch));
        for (buffer, length) in [
            (&mut self.prediction, outputs),
            (&mut self.cotangent, outputs),
            (&mut self.d_target, outputs),
            (&mut self.d_input, inputs),
            (&mut self.d_parameters, parameters),
            (&mut self.tape, scratch.tape),
            (&mut self.work, work),
            (&mut self.energies, batch),
            (&mut self.factors, batch),
        ] {
            buffer.resize(length, T::zero());
        }
    }

    /// Whether the buffers are those that `fit` makes.
    pub(crate) fn fits(
        &self,
        layer: &dyn Layer<T>,
        loss: &dyn Loss<T>,
        parameters: usize,
        batch: usize,
    ) -> bool {
        let (inputs, outputs) = (layer.input_dim() * batch, layer.output_dim() * batch);
        let scratch = layer.scratch(batch);
        let work = scratch.work.max(loss.scratch(layer.output_dim(), batch));
        self.prediction.len() == outputs
            && self.d_input.len() == inputs
            && self.d_parameters.len() == parameters
            && self.tape.len() == scratch.tape
            && self.work.len() == work
            && self.energies.len() == batch
    }

    /// Lets the memory that one evaluation needs for itself go on to the next layer's, where it is
    /// still in the cache: all but the gradients, and d_input only if `with_input`.
    pub(crate) fn hand_on(&mut self, next: &mut Self, with_input: bool) {
        for (own, other) in [
            (&mut self.prediction, &mut next.prediction),
            (&mut self.tape, &mut next.tape),
            (&mut self.work, &mut next.work),
            (&mut self.cotangent, &mut next.cotangent),
        ] {
            swap_alike(own, other);
        }
        if with_input {
            swap_alike(&mut self.d_input, &mut next.d_input);
        }
    }

    /// Σᵢ ‖zⁱ − ẑⁱ‖² to the targets z, unless the loss has told it.
    pub(crate) fn measure_gap(&mut self, target: &[T]) {
        let prediction = &self.prediction;
        let measure = || squared_distance(target, prediction);
        self.squared_gap.get_or_insert_with(measure);
    }

    pub(crate) fn forward(
        &mut self,
        layer: &dyn Layer<T>,
        context: &Context<'_>,
        parameters: &[T],
        input: &[T],
    ) {
        let tape = Some(&mut self.tape[..]);
        layer.forward(
            context,
            parameters,
            input,
            &mut self.prediction,
            tape,
            &mut self.work,
        );
    }

    /// ẑ_{t+1} of the last prediction, output_dim × n column-major.
    pub fn prediction(&self) -> &[T] {
        &self.prediction
    }

    /// ℓ_t of the last evaluation, μ, weights and regularisers included.
    pub fn energy(&self) -> T {
        self.energy
    }

    /// ℓ_t by example, with the same factors.
    pub fn energies(&self) -> &[T] {
        &self.energies
    }

    /// ∂ℓ_t/∂θ_t of the last evaluation that wanted it.
    pub fn parameter_gradient(&self) -> &[T] {
        &self.d_parameters
    }

    /// ∂ℓ_t/∂z_t of the last evaluation that wanted it, input_dim × n column-major.
    pub fn input_gradient(&self) -> &[T] {
        &self.d_input
    }

    /// ∂ℓ_t/∂z_{t+1} of the last evaluation that wanted it, output_dim × n column-major. After
    /// [`Circuit::evaluate`] the next layer's part is added to it: it is ∂E/∂z_{t+1} then.
    pub fn target_gradient(&self) -> &[T] {
        &self.d_target
    }
}

/// Exchanges buffers of one length, and of one capacity: nobody gets less room than it had.
fn swap_alike<T>(a: &mut Vec<T>, b: &mut Vec<T>) {
    if a.len() == b.len() && a.capacity() == b.capacity() {
        std::mem::swap(a, b);
    }
}

/// Memory and results of a whole circuit: one [`LocalWorkspace`] a layer, none shared.
///
/// The first use for a larger batch than before allocates; every other use does not.
#[derive(Debug, Clone)]
pub struct Workspace<T> {
    pub(crate) locals: Vec<LocalWorkspace<T>>,
    /// Targets before the step of a solver that is under way.
    pub(crate) previous: Vec<Vec<T>>,
    /// Whether joint descent has used the gradients' memory since they were computed.
    pub(crate) spent: bool,
}

impl<T: Scalar> Workspace<T> {
    /// Memory for batches of up to `batch` examples of `circuit`; it grows if others are met.
    pub fn new(circuit: &Circuit<T>, batch: usize) -> Self {
        let mut workspace = Self::empty();
        workspace.fit(circuit);
        for (t, local) in workspace.locals.iter_mut().enumerate() {
            let parameters = circuit.parameters(t).len();
            local.fit(circuit.layer(t), circuit.loss(t), parameters, batch);
        }
        workspace
    }

    /// Memory that will grow to what it meets.
    pub(crate) fn empty() -> Self {
        Self {
            locals: Vec::new(),
            previous: Vec::new(),
            spent: false,
        }
    }

    /// One local workspace for each layer of `circuit`.
    pub(crate) fn fit(&mut self, circuit: &Circuit<T>) {
        self.locals
            .resize_with(circuit.depth(), LocalWorkspace::new);
    }

    /// Results of layer t.
    ///
    /// # Panics
    /// If the circuit has no layer t.
    pub fn local(&self, t: usize) -> &LocalWorkspace<T> {
        &self.locals[t]
    }

    /// ∂E/∂θ_t of the last evaluation that wanted it, or backprop's gradient after
    /// [`Circuit::backprop`].
    ///
    /// # Panics
    /// If the circuit has no layer t.
    pub fn parameter_gradient(&self, t: usize) -> &[T] {
        &self.locals[t].d_parameters
    }

    /// ∂E/∂z_t, t in 1..T, of the last [`Circuit::evaluate`] that wanted it, d_t × n column-major.
    ///
    /// # Panics
    /// If t is not in 1..T.
    pub fn target_gradient(&self, t: usize) -> &[T] {
        assert!(
            0 < t && t < self.locals.len(),
            "z_{t} is not an auxiliary target"
        );
        &self.locals[t - 1].d_target
    }

    /// Norm of ∂E/∂θ over the layers that `wanted` names, added up in f64 in one order and without
    /// overflow.
    pub(crate) fn parameter_gradient_norm(&self, wanted: impl Fn(usize) -> bool) -> f64 {
        let wanted = |&(t, _): &(usize, _)| wanted(t);
        let own = || self.locals.iter().enumerate().filter(&wanted);
        let all = || own().flat_map(|(_, local)| &local.d_parameters);
        let top = all().fold(0.0, |top: f64, g| top.max(g.as_f64().abs()));
        if top == 0.0 {
            return 0.0;
        }
        let squares = all().map(|g| (g.as_f64() / top).powi(2));
        top * squares.sum::<f64>().sqrt()
    }

    /// Σ_t Σᵢ ‖z_tⁱ − ẑ_tⁱ‖² over the hidden layers, where they were measured.
    pub(crate) fn squared_gap(&self) -> T {
        let hidden = &self.locals[..self.locals.len() - 1];
        let gaps = hidden.iter().filter_map(|local| local.squared_gap);
        gaps.fold(T::zero(), |sum, gap| sum + gap)
    }

    /// Total of the layers' energies, in order.
    pub(crate) fn energy(&self) -> T {
        self.locals
            .iter()
            .fold(T::zero(), |sum, local| sum + local.energy)
    }

    pub(crate) fn check_energies(&self, step: u64) -> Result<(), Error> {
        self.check(Quantity::Energy, step, |_, local| local.energy.is_finite())
    }

    /// Whether ∂E/∂θ_t is finite for the layers that `wanted` names.
    pub(crate) fn check_parameter_gradients(
        &self,
        step: u64,
        wanted: impl Fn(usize) -> bool,
    ) -> Result<(), Error> {
        self.check(Quantity::ParameterGradient, step, |t, local| {
            !wanted(t) || crate::kernel::all_finite(&local.d_parameters)
        })
    }

    fn check(
        &self,
        quantity: Quantity,
        step: u64,
        finite: impl Fn(usize, &LocalWorkspace<T>) -> bool,
    ) -> Result<(), Error> {
        let mut locals = self.locals.iter().enumerate();
        match locals.position(|(t, local)| !finite(t, local)) {
            None => Ok(()),
            Some(layer) => Err(Error::NonFinite {
                quantity,
                layer,
                step,
            }),
        }
    }
}
