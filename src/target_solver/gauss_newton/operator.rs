//! Products with Gauss-Newton's matrix, layer by layer.

use crate::circuit::{Batch, Circuit, LocalWorkspace};
use crate::kernel::columns::scaled_difference;
use crate::kernel::scale;
use crate::loss::Pair;
use crate::{Point, Scalar, Write};

/// What layer t brings to H p, and the memory for it: with A = (p_{t+1}, J_t p_t) and C_t the curvature
/// of its loss, Aᵀ C_t A moves z_{t+1} by `in_target` and z_t by `in_input`.
#[derive(Debug, Clone)]
pub(crate) struct Link<T> {
    /// J_t p_t.
    tangent: Vec<T>,
    /// C_t A in ẑ_{t+1}.
    in_prediction: Vec<T>,
    /// The part of (H p)_{t+1}.
    pub(crate) in_target: Vec<T>,
    /// The part of (H p)_t.
    pub(crate) in_input: Vec<T>,
}

impl<T: Scalar> Link<T> {
    pub(crate) fn new() -> Self {
        Self {
            tangent: Vec::new(),
            in_prediction: Vec::new(),
            in_target: Vec::new(),
            in_input: Vec::new(),
        }
    }

    /// Fits layer t and n examples.
    pub(crate) fn fit(&mut self, circuit: &Circuit<T>, t: usize, n: usize) {
        let [input, output] = [circuit.dims()[t], circuit.dims()[t + 1]].map(|dim| dim * n);
        self.tangent.resize(output, T::zero());
        self.in_prediction.resize(output, T::zero());
        self.in_target.resize(output, T::zero());
        self.in_input.resize(input, T::zero());
    }

    /// The product of layer t with p_t = `own` and p_{t+1} = `above`, a missing one being zero, at the
    /// predictions in `local`; `in_target` is made if z_{t+1} is hidden, `in_input` if it is `wanted`.
    pub(crate) fn multiply(
        &mut self,
        circuit: &Circuit<T>,
        batch: Batch<'_, T>,
        t: usize,
        [own, above]: [Option<&[T]>; 2],
        wanted: bool,
        local: &mut LocalWorkspace<T>,
    ) {
        let layer = circuit.layer(t);
        let (at, work) = point(circuit, batch, t, local);
        if own.is_some() {
            layer.jvp(&at, own, None, &mut self.tangent, work);
        }
        let hidden_above = t + 1 < circuit.depth();
        let pair = Pair::new(layer.output_dim(), batch.z(t + 1), at.output)
            .with_parameters(circuit.loss_parameters(t));
        circuit.loss(t).curvature(
            &pair,
            above,
            own.map(|_| &self.tangent[..]),
            Write::set(hidden_above.then_some(&mut self.in_target[..])),
            Write::set(wanted.then_some(&mut self.in_prediction[..])),
            work,
        );
        let weight = circuit.weight(t);
        if weight != T::one() {
            if hidden_above {
                scale(&mut self.in_target, weight);
            }
            if wanted {
                scale(&mut self.in_prediction, weight);
            }
        }
        if wanted {
            let in_input = Write::Set(&mut self.in_input);
            layer.vjp(&at, &self.in_prediction, in_input, Write::Skip, work);
        }
    }
}

/// What layer t brings to H p where its loss is ½‖z − ẑ‖² itself: with g = μ (J_t p_t − p_{t+1}), −g
/// moves z_{t+1} and J_tᵀ g moves z_t, so that g alone is made. Otherwise a [`Link`].
#[derive(Debug, Clone)]
pub(super) struct Term<T> {
    squared: bool,
    link: Link<T>,
}

impl<T: Scalar> Term<T> {
    pub(super) fn new() -> Self {
        Self {
            squared: false,
            link: Link::new(),
        }
    }

    /// Fits layer t and n examples.
    pub(super) fn fit(&mut self, circuit: &Circuit<T>, t: usize, n: usize) {
        self.squared = circuit.loss(t).is_squared_error();
        if self.squared {
            self.link
                .tangent
                .resize(circuit.dims()[t + 1] * n, T::zero());
        } else {
            self.link.fit(circuit, t, n);
        }
    }

    /// The product of layer t with p_t = `own` and p_{t+1} = `above`, a missing one being zero, at the
    /// predictions in `local`; what moves z_t into `in_input`, unless z_t is given.
    pub(super) fn multiply(
        &mut self,
        circuit: &Circuit<T>,
        batch: Batch<'_, T>,
        t: usize,
        [own, above]: [Option<&[T]>; 2],
        in_input: &mut Vec<T>,
        local: &mut LocalWorkspace<T>,
    ) {
        if !self.squared {
            let wanted = own.is_some();
            self.link
                .multiply(circuit, batch, t, [own, above], wanted, local);
            if wanted {
                std::mem::swap(in_input, &mut self.link.in_input);
            }
            return;
        }
        // Without p_t, −g is μ p_{t+1}.
        if own.is_none() {
            return;
        }
        let layer = circuit.layer(t);
        let (at, work) = point(circuit, batch, t, local);
        let g = &mut self.link.tangent;
        layer.jvp(&at, own, None, g, work);
        let weight = circuit.weight(t);
        match above {
            Some(above) => scaled_difference(g, weight, above),
            None if weight != T::one() => scale(g, weight),
            None => {}
        }
        layer.vjp(&at, g, Write::Set(in_input), Write::Skip, work);
    }

    /// What moves z_{t+1}, as a multiple of an array; `above` is p_{t+1}.
    pub(super) fn in_target<'a>(
        &'a self,
        circuit: &Circuit<T>,
        t: usize,
        above: &'a [T],
    ) -> (T, &'a [T]) {
        match (self.squared, t) {
            (true, 0) => (circuit.weight(t), above),
            (true, _) => (-T::one(), &self.link.tangent),
            (false, _) => (T::one(), &self.link.in_target),
        }
    }
}

/// Where layer t is linearised, at the predictions in `local`, and its work memory.
pub(super) fn point<'a, T: Scalar>(
    circuit: &'a Circuit<T>,
    batch: Batch<'a, T>,
    t: usize,
    local: &'a mut LocalWorkspace<T>,
) -> (Point<'a, T>, &'a mut [T]) {
    let problem = circuit.local_problem(t, batch);
    let at = problem.point(&local.prediction, &local.tape);
    (at, &mut local.work)
}
