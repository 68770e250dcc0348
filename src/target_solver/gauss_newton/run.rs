//! Products with the Gauss-Newton matrix over consecutive layers, one after another.

use super::operator::{Direction, Link, point};
use crate::energy::{Batch, Layers, LocalWorkspace, default_fields};
use crate::kernel::columns::{complete_products, scaled_difference, squared_terms};
use crate::kernel::{Scalar, Write, dot, scale};

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
    /// J_t p_t of layers t that end at a hidden one, where it is known.
    pub(super) tangents: &'a [Vec<T>],
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

impl<'a, T: Scalar> Shared<'a, T> {
    /// p_t and p_{t+1}, where these are hidden.
    fn directions_of(&self, t: usize) -> (Option<Direction<'a, T>>, Option<&'a [T]>) {
        let of = |h: usize| self.directions.get(h).map(|own| &own[..]);
        let known = self.tangents.get(t).filter(|own| !own.is_empty());
        let own = t.checked_sub(1).and_then(of).map(|p| Direction {
            p,
            tangent: known.map(|own| &own[..]),
        });
        (own, of(t))
    }
}

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
        let (Some(own), above) = shared.directions_of(t) else {
            return;
        };
        let layer = layers.layer(t);
        let (at, _) = point(layers, batch, t, local);
        let g = &mut self.g[..at.output.len()];
        match own.tangent {
            Some(tangent) => g.copy_from_slice(tangent),
            None => layer.jvp(&at, Some(own.p), None, g, &mut self.work),
        }
        let weight = layers.weight(t);
        match above {
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
        let (own, above) = shared.directions_of(t);
        self.link.fit(layers, t, shared.damping.len());
        let link = &mut self.link;
        link.multiply(layers, batch, t, (own, above), own.is_some(), local);
        if own.is_some() {
            product.values.copy_from_slice(&self.link.in_input);
        }
    }

    /// The layers' parts of p·(H + λ I) p from `first` on, by example, without any Jᵀ.
    pub(super) fn curvatures(
        &mut self,
        first: usize,
        parts: &mut [Vec<T>],
        locals: &mut [LocalWorkspace<T>],
        shared: Shared<'_, T>,
    ) {
        let Shared {
            layers,
            batch,
            damping,
            ..
        } = shared;
        for ((t, parts), local) in (first..).zip(parts).zip(locals) {
            let (own, above) = shared.directions_of(t);
            let regularizer = layers.target_regularizers().get(t);
            let regularizer = regularizer.map_or(T::zero(), |own| own.curvature());
            let diagonal = (regularizer, damping);
            if layers.loss(t).is_squared_error() {
                let (at, _) = point(layers, batch, t, local);
                let g = &mut self.g[..at.output.len()];
                let tangent = own.map(|own| {
                    own.tangent.unwrap_or_else(|| {
                        let layer = layers.layer(t);
                        layer.jvp(&at, Some(own.p), None, g, &mut self.work);
                        g
                    })
                });
                squared_terms(tangent, above, layers.weight(t), diagonal, parts);
            } else {
                self.link.fit(layers, t, damping.len());
                let link = &mut self.link;
                link.curve(layers, batch, t, (own, above), own.is_some(), local);
                squared_terms(None, above, T::zero(), diagonal, parts);
                let in_target = above.map(|above| (above, &link.in_target));
                let in_prediction = own.map(|own| {
                    let tangent = own.tangent.unwrap_or(&link.tangent);
                    (tangent, &link.in_prediction)
                });
                for (p, image) in in_target.into_iter().chain(in_prediction) {
                    let dim = p.len() / parts.len();
                    let columns = p.chunks_exact(dim).zip(image.chunks_exact(dim));
                    for (part, (p, image)) in parts.iter_mut().zip(columns) {
                        *part += dot(p, image);
                    }
                }
            }
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
