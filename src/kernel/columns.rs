//! What conjugate gradients do to all columns at once, every column with numbers of its own.
//!
//! One pass and one dispatch each; a column's result depends on that column alone.

use super::reduction::{LANES, add_to_lanes, by_halves, sum};
use super::vectorise;
use crate::Scalar;

/// Terms of a dot product that are kept before they are added up, as in `sum_of_pairs`.
const TERMS: usize = 8 * LANES;

/// product ← product + share · part + (common + dampingⱼ) direction for every column j, and
/// dotsⱼ ← direction · product.
pub(crate) fn complete_products<T: Scalar>(
    product: &mut [T],
    (share, part): (T, &[T]),
    (common, damping): (T, &[T]),
    direction: &[T],
    dots: &mut [T],
) {
    let dim = product.len() / dots.len();
    vectorise(
        #[inline(always)]
        move || {
            let parts = part.chunks_exact(dim).zip(direction.chunks_exact(dim));
            let columns = product.chunks_exact_mut(dim).zip(parts);
            for ((product, (part, direction)), (dot, &damping)) in
                columns.zip(dots.iter_mut().zip(damping))
            {
                let factor = common + damping;
                let mut lanes = [T::zero(); LANES];
                let mut terms = [T::zero(); TERMS];
                let chunks = part.chunks(TERMS).zip(direction.chunks(TERMS));
                for (product, (part, direction)) in product.chunks_mut(TERMS).zip(chunks) {
                    let n = product.len();
                    let own = product.iter_mut().zip(terms.iter_mut());
                    for ((q, term), (&part, &p)) in own.zip(part.iter().zip(direction)) {
                        *q = *q + share * part + factor * p;
                        *term = *q * p;
                    }
                    add_to_lanes(&mut lanes, &terms[..n], |x| x);
                }
                *dot = by_halves(lanes);
            }
        },
    );
}

/// right ← right − lengthⱼ · product for every column j that has a length, and squaresⱼ ← right · right
/// of all.
pub(crate) fn lessen_and_square<T: Scalar>(
    right: &mut [T],
    lengths: &[Option<T>],
    product: &[T],
    squares: &mut [T],
) {
    let dim = right.len() / squares.len();
    vectorise(
        #[inline(always)]
        move || {
            let columns = right.chunks_exact_mut(dim).zip(product.chunks_exact(dim));
            for ((right, product), (square, length)) in columns.zip(squares.iter_mut().zip(lengths))
            {
                lessen(right, *length, product);
                *square = sum(right, |r| r * r);
            }
        },
    );
}

/// right ← right − lengthⱼ · product for every column j that has a length, and copy ← right of all.
pub(crate) fn lessen_and_copy<T: Scalar>(
    right: &mut [T],
    lengths: &[Option<T>],
    product: &[T],
    copy: &mut [T],
) {
    let dim = right.len() / lengths.len();
    vectorise(
        #[inline(always)]
        move || {
            let columns = right.chunks_exact_mut(dim).zip(product.chunks_exact(dim));
            for ((right, product), (copy, length)) in
                columns.zip(copy.chunks_exact_mut(dim).zip(lengths))
            {
                lessen(right, *length, product);
                copy.copy_from_slice(right);
            }
        },
    );
}

#[inline(always)]
fn lessen<T: Scalar>(right: &mut [T], length: Option<T>, product: &[T]) {
    let Some(length) = length else { return };
    for (r, &q) in right.iter_mut().zip(product) {
        *r -= length * q;
    }
}

/// values ← values / (diagonal + dampingⱼ) + above, `above` missing being zero, and
/// dotsⱼ ← right · values, for every column j.
pub(crate) fn divide_and_add<T: Scalar>(
    values: &mut [T],
    (diagonal, damping): (T, &[T]),
    above: Option<&[T]>,
    right: &[T],
    dots: &mut [T],
) {
    let dim = values.len() / dots.len();
    vectorise(
        #[inline(always)]
        move || {
            let columns = values.chunks_exact_mut(dim).zip(right.chunks_exact(dim));
            let numbers = dots.iter_mut().zip(damping);
            for (i, ((values, right), (dot, &damping))) in columns.zip(numbers).enumerate() {
                let inverse = (diagonal + damping).recip();
                let above = above.map(|above| &above[i * dim..(i + 1) * dim]);
                let mut lanes = [T::zero(); LANES];
                let mut terms = [T::zero(); TERMS];
                let chunks = values.chunks_mut(TERMS).zip(right.chunks(TERMS));
                for (k, (values, right)) in chunks.enumerate() {
                    let n = values.len();
                    match above {
                        None => {
                            let own = values.iter_mut().zip(terms.iter_mut());
                            for ((v, term), &r) in own.zip(right) {
                                *v *= inverse;
                                *term = *v * r;
                            }
                        }
                        Some(above) => {
                            let own = values.iter_mut().zip(terms.iter_mut());
                            let above = &above[k * TERMS..k * TERMS + n];
                            for ((v, term), (&r, &above)) in own.zip(right.iter().zip(above)) {
                                *v = *v * inverse + above;
                                *term = *v * r;
                            }
                        }
                    }
                    add_to_lanes(&mut lanes, &terms[..n], |x| x);
                }
                *dot = by_halves(lanes);
            }
        },
    );
}

/// step ← step + lengthⱼ · direction for every column j that has a length, and then direction ←
/// factor(j) · source + turnⱼ · direction for every one of them that has a turn.
pub(crate) fn move_and_turn<T: Scalar>(
    (step, lengths): (&mut [T], &[Option<T>]),
    (direction, turns): (&mut [T], &[Option<T>]),
    source: &[T],
    factor: impl Fn(usize) -> T,
) {
    let dim = step.len() / lengths.len();
    vectorise(
        #[inline(always)]
        move || {
            let columns = step
                .chunks_exact_mut(dim)
                .zip(direction.chunks_exact_mut(dim));
            let columns = columns.zip(source.chunks_exact(dim));
            let numbers = lengths.iter().zip(turns).enumerate();
            for (((step, direction), source), (i, numbers)) in columns.zip(numbers) {
                let own = step.iter_mut().zip(direction);
                match numbers {
                    (None, _) => {}
                    (&Some(length), None) => {
                        for (s, p) in own {
                            *s += length * *p;
                        }
                    }
                    (&Some(length), &Some(turn)) => {
                        let factor = factor(i);
                        for ((s, p), &source) in own.zip(source) {
                            *s += length * *p;
                            *p = factor * source + turn * *p;
                        }
                    }
                }
            }
        },
    );
}

/// values ← factor · (values − other).
pub(crate) fn scaled_difference<T: Scalar>(values: &mut [T], factor: T, other: &[T]) {
    vectorise(
        #[inline(always)]
        move || {
            for (v, &o) in values.iter_mut().zip(other) {
                *v = factor * (*v - o);
            }
        },
    );
}
