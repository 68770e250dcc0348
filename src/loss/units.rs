//! Shared code of losses that are sums over the units, Σ_j ℓ_j(z_j, ẑ_j).

use std::fmt::Debug;

use super::Pair;
use crate::check::{check_length, option};
use crate::error::Error;
use crate::kernel::{Scalar, Sum, Write};

/// Writes `evaluate` and `curvature` for a loss that needs no work memory. They call two functions
/// like those below, with the loss's own closures.
macro_rules! over_units {
    ($self:ident, $evaluate:ident($($terms:expr),*), $curvature:ident($($second:expr)?)) => {
        fn evaluate(
            &$self,
            at: &Pair<'_, T>,
            values: &mut [T],
            d_target: Write<'_, T>,
            d_prediction: Write<'_, T>,
            _work: &mut [T],
        ) {
            $evaluate(at, values, d_target, d_prediction, $($terms),*);
        }

        fn curvature(
            &$self,
            at: &Pair<'_, T>,
            v_target: Option<&[T]>,
            v_prediction: Option<&[T]>,
            out_target: Write<'_, T>,
            out_prediction: Write<'_, T>,
            _work: &mut [T],
        ) {
            $curvature(at, [v_target, v_prediction], out_target, out_prediction, $($second)?);
        }
    };
}
pub(super) use over_units;

/// Writes `evaluate` and `curvature` for a loss of residuals whose targets may be trained. Its
/// method `unit` and the degree are as [`evaluate_residual`] expects.
macro_rules! over_residuals {
    ($self:ident, $degree:expr) => {
        fn free_target(&$self) -> bool {
            true
        }

        over_units!(
            $self,
            evaluate_residual($degree, |j, r| $self.unit(j, r)),
            residual_curvature(|j, r| $self.unit(j, r))
        );
    };
}
pub(super) use over_residuals;

/// Value and gradients of a loss whose units depend only on r_j = z_j − ẑ_j: `unit(j, r_j)` gives
/// the value of a unit with its first and second derivative. It grows like the power `degree` of
/// large residuals.
pub(super) fn evaluate_residual<T: Scalar>(
    at: &Pair<'_, T>,
    values: &mut [T],
    mut d_target: Write<'_, T>,
    mut d_prediction: Write<'_, T>,
    degree: i32,
    unit: impl Fn(usize, T) -> [T; 3],
) {
    let two = T::of(2.0);
    for (i, value) in values.iter_mut().enumerate() {
        let column = i * at.dim..(i + 1) * at.dim;
        let (z, estimate) = (&at.target[column.clone()], &at.prediction[column.clone()]);
        let unit = |j: usize| {
            let r = z[j] - estimate[j];
            if r.is_finite() {
                let [value, slope, _] = unit(j, r);
                return [value, slope];
            }
            // The loss may fit where r does not: the one of r/2, which fits, times a power of 2.
            let [value, slope, _] = unit(j, z[j] / two - estimate[j] / two);
            [value * two.powi(degree), slope * two.powi(degree - 1)]
        };
        let mut sum = Sum::zero();
        sum.add_terms(0..at.dim, |j| unit(j)[0]);
        *value = sum.value();
        d_target.part(column.clone()).each(|j| unit(j)[1]);
        d_prediction.part(column).each(|j| -unit(j)[1]);
    }
}

/// Product of (v_target, v_prediction) with the Hessian [[D, −D], [−D, D]] of these units, where D
/// is the diagonal matrix of their second derivatives.
pub(super) fn residual_curvature<T: Scalar>(
    at: &Pair<'_, T>,
    v: [Option<&[T]>; 2],
    mut out_target: Write<'_, T>,
    mut out_prediction: Write<'_, T>,
    unit: impl Fn(usize, T) -> [T; 3],
) {
    for i in 0..at.examples() {
        let column = i * at.dim..(i + 1) * at.dim;
        let product = |j: usize| {
            let k = column.start + j;
            let [of_target, of_prediction] = v.map(|v| v.map_or(T::zero(), |v| v[k]));
            unit(j, at.target[k] - at.prediction[k])[2] * (of_target - of_prediction)
        };
        out_target.part(column.clone()).each(product);
        out_prediction.part(column.clone()).each(|j| -product(j));
    }
}

/// Number of predictions for which elementary functions are computed at once, in buffers on the
/// stack.
pub(super) const BLOCK: usize = 256;

/// Value and gradients of a loss whose units have the derivative −ẑ_j in z_j and use N elementary
/// functions of ẑ_j. `functions` writes the N functions of its first argument to N slices. `value`
/// takes (z_j, ẑ_j, function values) and `in_prediction` takes (z_j, function values).
pub(super) fn evaluate_functions<T: Scalar, const N: usize>(
    at: &Pair<'_, T>,
    values: &mut [T],
    mut d_target: Write<'_, T>,
    mut d_prediction: Write<'_, T>,
    functions: impl Fn(&[T], [&mut [T]; N]),
    value: impl Fn(T, T, [T; N]) -> T,
    in_prediction: impl Fn(T, [T; N]) -> T,
) {
    let mut buffers = [[T::zero(); BLOCK]; N];
    let mut sum = Sum::zero();
    // Whole columns, or a part of one that begins at a multiple of `BLOCK` of its own units: how the
    // terms of a column are grouped in its sum must not depend on the columns before it.
    let (all, dim) = (at.prediction.len(), at.dim.max(1));
    let size = (BLOCK / dim).max(1) * dim;
    let blocks = (0..all).step_by(size).flat_map(|first| {
        let end = all.min(first + size);
        let starts = (first..end).step_by(BLOCK);
        starts.map(move |start| start..end.min(start + BLOCK))
    });
    for block in blocks {
        let start = block.start;
        let (z, estimate) = (&at.target[block.clone()], &at.prediction[block.clone()]);
        let results = buffers.each_mut().map(|b| &mut b[..estimate.len()]);
        functions(estimate, results);
        let of = |k: usize| (z[k], estimate[k], std::array::from_fn(|f| buffers[f][k]));

        // The range of each column that lies in the block.
        let mut from = 0;
        while from < z.len() {
            let column = (start + from) / at.dim;
            let end = (column + 1) * at.dim - start;
            let to = z.len().min(end);
            sum.add_terms(from..to, |k| {
                let (z, estimate, f) = of(k);
                value(z, estimate, f)
            });
            if to == end {
                values[column] = std::mem::replace(&mut sum, Sum::zero()).value();
            }
            from = to;
        }
        d_target.part(block.clone()).each(|k| -estimate[k]);
        d_prediction.part(block).each(|k| {
            let (z, _, f) = of(k);
            in_prediction(z, f)
        });
    }
}

/// The part of the direction that a curvature blockdiag(0, B) acts on, or `None` if the product is
/// skipped or zero. Writes the parts of the product that are zero.
pub(super) fn in_prediction<'a, T: Scalar>(
    [_, v_prediction]: [Option<&'a [T]>; 2],
    out_target: Write<'_, T>,
    out_prediction: &mut Write<'_, T>,
) -> Option<&'a [T]> {
    out_target.each(|_| T::zero());
    if v_prediction.is_none() {
        let all = 0..out_prediction.len();
        out_prediction.part(all).each(|_| T::zero());
    }
    v_prediction.filter(|_| !out_prediction.is_skip())
}

/// Product with blockdiag(0, diag(f(ẑ_j))); `second` writes f of its first slice to its second.
pub(super) fn prediction_curvature<T: Scalar>(
    at: &Pair<'_, T>,
    v: [Option<&[T]>; 2],
    out_target: Write<'_, T>,
    mut out_prediction: Write<'_, T>,
    second: impl Fn(&[T], &mut [T]),
) {
    let Some(v) = in_prediction(v, out_target, &mut out_prediction) else {
        return;
    };
    let mut buffer = [T::zero(); BLOCK];
    for start in (0..v.len()).step_by(BLOCK) {
        let block = start..v.len().min(start + BLOCK);
        let buffer = &mut buffer[..block.len()];
        second(&at.prediction[block.clone()], buffer);
        let v = &v[block.clone()];
        out_prediction.part(block).each(|k| buffer[k] * v[k]);
    }
}

/// Checks that every unit of every target is `allowed`; `within` is the condition in words.
pub(super) fn check_units<T: Scalar>(
    loss: &dyn Debug,
    dim: usize,
    target: &[T],
    allowed: impl Fn(f64) -> bool,
    within: &str,
) -> Result<(), Error> {
    for (k, y) in target.iter().map(|y| y.as_f64()).enumerate() {
        if !allowed(y) {
            return Err(Error::TargetDomain {
                loss: format!("{loss:?}"),
                column: k / dim,
                reason: format!("unit {} is {y}, but must be {within}", k % dim),
            });
        }
    }
    Ok(())
}

/// Checks every entry of a list with `check`; the list must not be empty.
pub(super) fn check_list<T: Scalar>(
    option: &'static str,
    list: &[T],
    check: impl Fn(&'static str, f64) -> Result<f64, Error>,
) -> Result<(), Error> {
    if list.is_empty() {
        return check_length(option, list, 1);
    }
    list.iter()
        .try_for_each(|value| check(option, value.as_f64()).map(|_| ()))
}

/// Checks that a positive option is still positive and finite in the scalar type.
pub(super) fn check_scalar<T: Scalar>(name: &'static str, value: f64) -> Result<(), Error> {
    let rounded = T::of(value);
    let fits = rounded > T::zero() && rounded.is_finite() && rounded.recip().is_finite();
    let allowed = "above 0 and finite, with a finite inverse, in the circuit's scalar type";
    option(name, value, fits, allowed).map(|_| ())
}

/// Writes a result of the inner loss to `buffer` if the outer loss needs it.
pub(super) fn inner<'a, T>(outer: &Write<'_, T>, buffer: &'a mut [T]) -> Write<'a, T> {
    Write::set((!outer.is_skip()).then_some(buffer))
}

/// The largest of some non-negative values.
pub(super) fn largest<T: Scalar>(values: &[T]) -> T {
    values.iter().fold(T::zero(), |top, &v| top.max(v))
}

/// A list of weights as numbers of a description.
pub(super) fn numbers<T: Scalar>(values: &[T]) -> Vec<f64> {
    values.iter().map(|value| value.as_f64()).collect()
}
