//! Products with the Gauss-Newton matrix over consecutive layers, one after another.

use super::operator::{Link, point};
use crate::energy::{Batch, Layers, LocalWorkspace, default_fields};
use crate::kernel::columns::{complete_products, scaled_difference};
use crate::kernel::{Scalar, Write, scale};

/// The memory for consecutive layers on one thread, where one layer's results are still in the
/// cache when the next layer needs them.
///
/// A layer with loss ½‖z − ẑ‖² needs no [`Link`]: with g = μ (J_t p_t − p_{t+1}), it adds −g to
/// (H p)_{t+1} and J_tᵀ g to (H p)_t.
#[derive(Debug, Clone)]
pub(super) struct Run<T> {
    /// g of the current layer.
    g: Vec<T>,
    link: Link<T>,
    work: Vec<T>,
    /// The last layer's contribution to (H p)_{t+1}.
    part: Part<T>,
    /// The array of `part`, unless it is a direction.
    array: Vec<T>,
}

/// A multiple of an array.
#[derive(Debug, Clone, Copy)]
enum Part<T> {
    OfArray(T),
    OfDirection(T),
}

/// What all layers share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shared<'a, T: Scalar> {
    pub(super) layers: Layers<'a, T>,
    pub(super) batch: Batch<'a, T>,
    /// p_1, …, p_{T−1}.
    pub(super) directions: &'a [Vec<T>],
    /// λ by example.
    pub(super) damping: &'a [T],
}

/// (H + λ I) p of one t, and p·(H + λ I) p by example; nothing for t = 0.
#[derive(Debug, Clone)]
pub(super) struct Product<T> {
    pub(super) values: Vec<T>,
    pub(super) dots: Vec<T>,
}

default_fields!(Product: values dots);

impl<T: Scalar> Run<T> {
    pub(super) fn new() -> Self {
        Self {
            g: Vec::new(),
            link: Link::default(),
            work: Vec::new(),
            part: Part::OfArray(T::one()),
            array: Vec::new(),
        }
    }

    /// Allocates memory for the widest layer of `circuit` and n examples.
    pub(super) fn fit(&mut self, layers: Layers<'_, T>, n: usize, locals: &[LocalWorkspace<T>]) {
        let size = n * layers.dims()[1..].iter().max().unwrap_or(&0);
        let work = locals.iter().map(|local| local.work.len()).max();
        for (own, size) in [
            (&mut self.g, size),
            (&mut self.array, size),
            (&mut self.work, work.unwrap_or(0)),
        ] {
            if own.len() < size {
                own.resize(size, T::zero());
            }
        }
    }

    /// The products of the layers from `first` on. The first lacks the contribution of the layer
    /// below, which is in another run; the others are complete.
    pub(super) fn multiply(
        &mut self,
        first: usize,
        products: &mut [Product<T>],
        locals: &mut [LocalWorkspace<T>],
        shared: Shared<'_, T>,
    ) {
        for (i, (product, local)) in products.iter_mut().zip(locals).enumerate() {
            let t = first + i;
            let squared = shared.layers.loss(t).is_squared_error();
            match squared {
                true => self.multiply_squared(t, product, local, shared),
                false => self.multiply_any(t, product, local, shared),
            }
            if i > 0 {
                self.complete(t, product, shared);
            }
            if squared && t == 0 {
                self.part = Part::OfDirection(shared.layers.weight(0));
            } else if squared {
                std::mem::swap(&mut self.array, &mut self.g);
                self.part = Part::OfArray(-T::one());
            } else if t + 1 < shared.layers.depth() {
                let in_target = &self.link.in_target;
                self.array[..in_target.len()].copy_from_slice(in_target);
                self.part = Part::OfArray(T::one());
            }
        }
    }

    /// J_tᵀ g, where layer t has a p_t.
    fn multiply_squared(
        &mut self,
        t: usize,
        product: &mut Product<T>,
        local: &mut LocalWorkspace<T>,
        shared: Shared<'_, T>,
    ) {
        let Shared { layers, batch, .. } = shared;
        let Some(below) = t.checked_sub(1) else {
            return;
        };
        let layer = layers.layer(t);
        let (at, _) = point(layers, batch, t, local);
        let g = &mut self.g[..at.output.len()];
        let own = Some(&shared.directions[below][..]);
        layer.jvp(&at, own, None, g, &mut self.work);
        let weight = layers.weight(t);
        match shared.directions.get(t) {
            Some(above) => scaled_difference(g, weight, above),
            None if weight != T::one() => scale(g, weight),
            None => {}
        }
        let to = Write::Set(&mut product.values);
        layer.vjp(&at, g, to, Write::Skip, &mut self.work);
    }

    fn multiply_any(
        &mut self,
        t: usize,
        product: &mut Product<T>,
        local: &mut LocalWorkspace<T>,
        shared: Shared<'_, T>,
    ) {
        let Shared { layers, batch, .. } = shared;
        let own = t.checked_sub(1).map(|h| &shared.directions[h][..]);
        let above = shared.directions.get(t).map(|above| &above[..]);
        self.link.fit(layers, t, shared.damping.len());
        let link = &mut self.link;
        link.multiply(layers, batch, t, [own, above], own.is_some(), local);
        if own.is_some() {
            product.values.copy_from_slice(&self.link.in_input);
        }
    }

    /// Completes the product of t: adds the contribution of t − 1, the last layer of this run, and the diagonal terms.
    pub(super) fn complete(&self, t: usize, product: &mut Product<T>, shared: Shared<'_, T>) {
        let direction = &shared.directions[t - 1][..];
        let part = match self.part {
            Part::OfDirection(share) => (share, direction),
            Part::OfArray(share) => (share, &self.array[..direction.len()]),
        };
        let regularizer = shared.layers.target_regularizers()[t - 1].curvature();
        let factor = (regularizer, shared.damping);
        let Product { values, dots } = product;
        complete_products(values, part, factor, direction, dots);
    }
}
