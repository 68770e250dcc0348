//! Memory for evaluations, allocated once and then reused.

use crate::check::check_computed;
use crate::error::{Error, Quantity};
use crate::kernel::{Scalar, Squares, norm_in_units};
use crate::layer::{Context, Layer};
use crate::loss::Loss;

/// Reusable memory for one layer's local problem.
#[derive(Debug, Clone)]
pub struct LocalWorkspace<T> {
    /// ẑ_{t+1}.
    pub(crate) prediction: Vec<T>,
    pub(crate) tape: Vec<T>,
    pub(crate) work: Vec<T>,
    /// g = ∂ℓ_t/∂ẑ_{t+1}.
    pub(crate) cotangent: Vec<T>,
    /// One per example.
    pub(crate) energies: Vec<T>,
    /// The part of each that targets can change: without R_t(θ_t).
    pub(crate) energies_in_z: Vec<T>,
    /// μ times each example's weight.
    pub(crate) factors: Vec<T>,
    pub(crate) energy: T,
    /// Σᵢ L(zⁱ, ẑⁱ) of the last evaluation, without factors.
    pub(crate) loss: T,
    /// Σᵢ ‖zⁱ − ẑⁱ‖², if it was just measured.
    pub(crate) squared_gap: Squares,
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
            energies_in_z: Vec::new(),
            factors: Vec::new(),
            energy: T::zero(),
            loss: T::zero(),
            squared_gap: Squares::zero(),
            d_parameters: Vec::new(),
            d_input: Vec::new(),
            d_target: Vec::new(),
        }
    }

    /// Fits the buffers to a layer and a batch; allocates only if they were never this large
    /// before. New memory holds NaN. This reveals a custom layer or loss that adds where it must
    /// set, or reads memory that it did not write.
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
            (&mut self.energies_in_z, batch),
            (&mut self.factors, batch),
        ] {
            buffer.resize(length, T::zero() / T::zero());
        }
    }

    /// Passes temporary memory to the next layer while it is still in the cache: everything except
    /// the gradients, and d_input only if `with_input`.
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

    pub(crate) fn forward(
        &mut self,
        layer: &dyn Layer<T>,
        context: &Context<'_>,
        parameters: &[T],
        input: &[T],
    ) {
        let (output, tape) = (&mut self.prediction, Some(&mut self.tape[..]));
        layer.forward(context, parameters, input, output, tape, &mut self.work);
    }
}

/// Swaps buffers that have the same length and capacity, so that neither shrinks.
fn swap_alike<T>(a: &mut Vec<T>, b: &mut Vec<T>) {
    if a.len() == b.len() && a.capacity() == b.capacity() {
        std::mem::swap(a, b);
    }
}

/// Memory for a whole circuit: a separate [`LocalWorkspace`] for each layer.
///
/// It allocates only when it is first used for a larger batch than before.
#[derive(Debug, Clone)]
pub struct Workspace<T> {
    pub(crate) locals: Vec<LocalWorkspace<T>>,
    /// Targets before the solver step in progress.
    pub(crate) previous: Vec<Vec<T>>,
}

impl<T: Scalar> Workspace<T> {
    /// An empty workspace, which grows as needed.
    pub fn new() -> Self {
        Self {
            locals: Vec::new(),
            previous: Vec::new(),
        }
    }

    /// One local workspace for each layer.
    pub(crate) fn fit(&mut self, depth: usize) {
        self.locals.resize_with(depth, LocalWorkspace::new);
    }

    /// ∂E/∂z_t, t in 1..T, of an evaluation that computed it.
    pub(crate) fn target_gradient(&self, t: usize) -> &[T] {
        assert!(
            0 < t && t < self.locals.len(),
            "no ∂E/∂z_{t}: t must be in 1..T, and the evaluation must include target gradients"
        );
        &self.locals[t - 1].d_target
    }

    /// Norm of ∂E/∂θ over the layers that `wanted` selects, as two factors.
    pub(crate) fn parameter_gradient_norm(&self, wanted: impl Fn(usize) -> bool) -> [f64; 2] {
        let own = self.locals.iter().enumerate().filter(|&(t, _)| wanted(t));
        norm_in_units(own.flat_map(|(_, local)| &local.d_parameters))
    }

    /// Total of the layers' energies, in order.
    pub(crate) fn energy(&self) -> T {
        self.locals
            .iter()
            .fold(T::zero(), |sum, local| sum + local.energy)
    }

    pub(crate) fn check_energies(&self, step: u64) -> Result<(), Error> {
        let mut energy = T::zero();
        let mut locals = self.locals.iter().enumerate();
        locals.try_for_each(|(t, own)| {
            energy += own.energy;
            // Each energy may fit the scalar while their sum overflows.
            check_computed(Quantity::Energy, t, step, &[own.energy, energy])
        })
    }

    /// Checks that ∂E/∂θ_t is finite for the layers that `wanted` selects.
    pub(crate) fn check_parameter_gradients(
        &self,
        step: u64,
        wanted: impl Fn(usize) -> bool,
    ) -> Result<(), Error> {
        let mut locals = self.locals.iter().enumerate().filter(|(t, _)| wanted(*t));
        let quantity = Quantity::ParameterGradient;
        locals.try_for_each(|(t, own)| check_computed(quantity, t, step, &own.d_parameters))
    }
}

impl<T: Scalar> Default for Workspace<T> {
    fn default() -> Self {
        Self::new()
    }
}
