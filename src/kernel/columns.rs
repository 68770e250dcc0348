//! Steps of conjugate gradients for all columns at once, where every column has its own
//! coefficients.
//!
//! Each function is a single vectorised pass. The result of a column depends only on that column.

use super::reduction::{sum, sum_of_pairs, update};
use super::vectorise;
use crate::kernel::Scalar;

/// product ← product + share · part + (common + dampingⱼ) direction for every column j, and dotsⱼ ←
/// direction · product.
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
            let columns = product.chunks_exact_mut(dim).zip(dots);
            for (j, (product, dot)) in columns.enumerate() {
                let own = j * dim..(j + 1) * dim;
                let (part, direction) = (&part[own.clone()], &direction[own]);
                let factor = common + damping[j];
                for (q, (&part, &p)) in product.iter_mut().zip(part.iter().zip(direction)) {
                    *q = *q + share * part + factor * p;
                }
                *dot = sum_of_pairs(product, direction, |q, p| q * p);
            }
        },
    );
}

/// right ← right − lengthⱼ · product for every column j that has a length, and squaresⱼ ← right ·
/// right for all columns.
pub(crate) fn lessen_and_square<T: Scalar>(
    right: &mut [T],
    lengths: &[Option<T>],
    product: &[T],
    squares: &mut [T],
) {
    let results = squares.iter_mut();
    lessen(right, lengths, product, results, |right, square| {
        *square = sum(right, |r| r * r);
    });
}

/// right ← right − lengthⱼ · product for every column j that has a length, and copy ← right for
/// all.
pub(crate) fn lessen_and_copy<T: Scalar>(
    right: &mut [T],
    lengths: &[Option<T>],
    product: &[T],
    copy: &mut [T],
) {
    let dim = right.len() / lengths.len();
    let results = copy.chunks_exact_mut(dim);
    lessen(right, lengths, product, results, |right, copy| {
        copy.copy_from_slice(right);
    });
}

/// right ← right − lengthⱼ · product for every column j that has a length, then calls `then` with
/// every column and its result.
#[inline(always)]
fn lessen<T: Scalar, R>(
    right: &mut [T],
    lengths: &[Option<T>],
    product: &[T],
    results: impl Iterator<Item = R>,
    then: impl Fn(&[T], R),
) {
    let dim = right.len() / lengths.len();
    vectorise(
        #[inline(always)]
        move || {
            let columns = right.chunks_exact_mut(dim).zip(product.chunks_exact(dim));
            for ((right, product), (length, result)) in columns.zip(lengths.iter().zip(results)) {
                if let &Some(length) = length {
                    for (r, &q) in right.iter_mut().zip(product) {
                        *r -= length * q;
                    }
                }
                then(right, result);
            }
        },
    );
}

/// values ← values / (diagonal + dampingⱼ) + above (0 if missing), and dotsⱼ ← right · values, for
/// every column j.
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
            let columns = values.chunks_exact_mut(dim).zip(dots);
            for (j, (values, dot)) in columns.enumerate() {
                let own = j * dim..(j + 1) * dim;
                let inverse = (diagonal + damping[j]).recip();
                if let Some(above) = above {
                    for (v, &above) in values.iter_mut().zip(&above[own.clone()]) {
                        *v = *v * inverse + above;
                    }
                } else {
                    for v in values.iter_mut() {
                        *v *= inverse;
                    }
                }
                *dot = sum_of_pairs(values, &right[own], |v, r| v * r);
            }
        },
    );
}

/// dotsⱼ ← factor ‖tangent − above‖² + (common + dampingⱼ) ‖above‖² for every column j; a missing array
/// is 0.
pub(crate) fn squared_terms<T: Scalar>(
    tangent: Option<&[T]>,
    above: Option<&[T]>,
    factor: T,
    (common, damping): (T, &[T]),
    dots: &mut [T],
) {
    let dim = tangent.or(above).map_or(0, <[T]>::len) / dots.len();
    vectorise(
        #[inline(always)]
        move || {
            for (j, dot) in dots.iter_mut().enumerate() {
                let own = j * dim..(j + 1) * dim;
                let tangent = tangent.map(|values| &values[own.clone()]);
                let above = above.map(|values| &values[own]);
                let square = above.map_or(T::zero(), |above| sum(above, |p| p * p));
                let link = match (tangent, above) {
                    (Some(tangent), Some(above)) => {
                        sum_of_pairs(tangent, above, |j, p| (j - p) * (j - p))
                    }
                    (Some(tangent), None) => sum(tangent, |j| j * j),
                    (None, _) => square,
                };
                *dot = factor * link + (common + damping[j]) * square;
            }
        },
    );
}

/// direction ← source + turnⱼ · direction for every column j that has a turn.
pub(crate) fn turn<T: Scalar>(direction: &mut [T], turns: &[Option<T>], source: &[T]) {
    let dim = direction.len() / turns.len();
    vectorise(
        #[inline(always)]
        move || {
            let columns = direction
                .chunks_exact_mut(dim)
                .zip(source.chunks_exact(dim));
            for ((direction, source), turn) in columns.zip(turns) {
                let Some(turn) = *turn else { continue };
                for (p, &source) in direction.iter_mut().zip(source) {
                    *p = source + turn * *p;
                }
            }
        },
    );
}

/// step ← step + lengthⱼ · direction for every column j that has a length; then direction ←
/// factor(j) · source + turnⱼ · direction for those that also have a turn.
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
            for (j, (step, direction)) in columns.enumerate() {
                let Some(length) = lengths[j] else { continue };
                let own = step.iter_mut().zip(direction);
                if let Some(turn) = turns[j] {
                    let factor = factor(j);
                    for ((s, p), &source) in own.zip(&source[j * dim..(j + 1) * dim]) {
                        *s += length * *p;
                        *p = factor * source + turn * *p;
                    }
                } else {
                    for (s, p) in own {
                        *s += length * *p;
                    }
                }
            }
        },
    );
}

/// values ← factor · (values − other).
pub(crate) fn scaled_difference<T: Scalar>(values: &mut [T], factor: T, other: &[T]) {
    update(values, other, move |v, o| factor * (v - o));
}
