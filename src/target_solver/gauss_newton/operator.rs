//! Products with the Gauss-Newton matrix, layer by layer.

use crate::energy::{Batch, Layers, LocalWorkspace, default_fields};
use crate::kernel::{Scalar, Write, scale};
use crate::layer::Point;
use crate::loss::Pair;

/// Layer t's contribution to H p, and the memory for it: C_t (p_{t+1}, J_t p_t), with C_t the
/// curvature of its loss, adds `in_target` to (H p)_{t+1} and, through J_tᵀ, `in_input` to (H p)_t.
#[derive(Debug, Clone)]
pub(crate) struct Link<T> {
    /// J_t p_t, unless it was known.
    pub(super) tangent: Vec<T>,
    /// C_t A in ẑ_{t+1}.
    pub(super) in_prediction: Vec<T>,
    /// The part of (H p)_{t+1}.
    pub(crate) in_target: Vec<T>,
    /// The part of (H p)_t.
    pub(crate) in_input: Vec<T>,
}

/// p_t of the target below a layer, with J_t p_t where it is known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Direction<'a, T> {
    pub(crate) p: &'a [T],
    pub(crate) tangent: Option<&'a [T]>,
}

impl<'a, T> From<&'a [T]> for Direction<'a, T> {
    fn from(p: &'a [T]) -> Self {
        Self { p, tangent: None }
    }
}

default_fields!(Link: tangent in_prediction in_target in_input);

impl<T: Scalar> Link<T> {
    /// Resizes the memory for layer t and n examples.
    pub(crate) fn fit(&mut self, layers: Layers<'_, T>, t: usize, n: usize) {
        let [input, output] = [layers.dims()[t], layers.dims()[t + 1]].map(|dim| dim * n);
        self.tangent.resize(output, T::zero());
        self.in_prediction.resize(output, T::zero());
        self.in_target.resize(output, T::zero());
        self.in_input.resize(input, T::zero());
    }

    /// The product of layer t with p_t = `own` and p_{t+1} = `above` (zero if missing), at the
    /// predictions in `local`. Computes `in_target` if z_{t+1} is hidden, and `in_input` if
    /// `wanted`.
    pub(crate) fn multiply(
        &mut self,
        layers: Layers<'_, T>,
        batch: Batch<'_, T>,
        t: usize,
        directions: (Option<Direction<'_, T>>, Option<&[T]>),
        wanted: bool,
        local: &mut LocalWorkspace<T>,
    ) {
        self.curve(layers, batch, t, directions, wanted, local);
        if wanted {
            let (at, work) = point(layers, batch, t, local);
            let in_input = Write::Set(&mut self.in_input);
            let layer = layers.layer(t);
            layer.vjp(&at, &self.in_prediction, in_input, Write::Skip, work);
        }
    }

    /// [`Link::multiply`] before J_tᵀ.
    pub(super) fn curve(
        &mut self,
        layers: Layers<'_, T>,
        batch: Batch<'_, T>,
        t: usize,
        (own, above): (Option<Direction<'_, T>>, Option<&[T]>),
        wanted: bool,
        local: &mut LocalWorkspace<T>,
    ) {
        let layer = layers.layer(t);
        let (at, work) = point(layers, batch, t, local);
        let tangent = own.map(|own| {
            own.tangent.unwrap_or_else(|| {
                layer.jvp(&at, Some(own.p), None, &mut self.tangent, work);
                &self.tangent
            })
        });
        let hidden_above = t + 1 < layers.depth();
        let pair = Pair::new(layer.output_dim(), batch.z(t + 1), at.output)
            .with_parameters(layers.loss_parameters(t));
        layers.loss(t).curvature(
            &pair,
            above,
            tangent,
            Write::set(hidden_above.then_some(&mut self.in_target[..])),
            Write::set(wanted.then_some(&mut self.in_prediction[..])),
            work,
        );
        let weight = layers.weight(t);
        if weight != T::one() {
            if hidden_above {
                scale(&mut self.in_target, weight);
            }
            if wanted {
                scale(&mut self.in_prediction, weight);
            }
        }
    }
}

/// The point at which layer t is linearised, with the predictions in `local`, and its scratch
/// memory.
pub(super) fn point<'a, T: Scalar>(
    layers: Layers<'a, T>,
    batch: Batch<'a, T>,
    t: usize,
    local: &'a mut LocalWorkspace<T>,
) -> (Point<'a, T>, &'a mut [T]) {
    let problem = layers.on(batch).local(t);
    let at = problem.point(&local.prediction, &local.tape);
    (at, &mut local.work)
}
