//! Long sums as pairs of numbers, high + low, with about twice the digits of a single number.
//!
//! An array of n pairs is a slice of 2n numbers: first all high parts, then all low parts.

use super::vectorise;
use crate::kernel::Scalar;

/// Terms of a gradient's sum that are added in plain arithmetic; more are added to pairs.
pub(crate) const PLAIN_TERMS: usize = 1 << 14;

/// The sum of a pair and a number (Knuth, TAOCP 4.2.2: the error of high + x is exact).
#[inline(always)]
pub(crate) fn pair_plus<T: Scalar>((high, low): (T, T), x: T) -> (T, T) {
    let sum = high + x;
    let of_x = sum - high;
    normal(sum, low + ((high - (sum - of_x)) + (x - of_x)))
}

/// The pair of a number and a small correction; infinity is left unchanged.
#[inline(always)]
fn normal<T: Scalar>(sum: T, low: T) -> (T, T) {
    let high = if low.is_finite() { sum + low } else { sum };
    (high, low - (high - sum))
}

/// pairs ← pairs + values.
pub(crate) fn add_to_pairs<T: Scalar>(pairs: &mut [T], values: &[T]) {
    let (high, low) = pairs.split_at_mut(pairs.len() / 2);
    add_to_halves(high, low, values);
}

/// (high, low) ← (high, low) + values, for pairs whose halves are kept apart.
pub(crate) fn add_to_halves<T: Scalar>(high: &mut [T], low: &mut [T], values: &[T]) {
    vectorise(
        #[inline(always)]
        move || {
            for ((high, low), &x) in high.iter_mut().zip(low).zip(values) {
                (*high, *low) = pair_plus((*high, *low), x);
            }
        },
    );
}

/// pairs ← factor · pairs.
pub(crate) fn scale_pairs<T: Scalar>(pairs: &mut [T], factor: T) {
    let (high, low) = pairs.split_at_mut(pairs.len() / 2);
    vectorise(
        #[inline(always)]
        move || {
            for (high, low) in high.iter_mut().zip(low) {
                let product = *high * factor;
                let error = high.mul_add(factor, -product);
                (*high, *low) = normal(product, *low * factor + error);
            }
        },
    );
}

/// The i-th pair, rounded to one number.
pub(crate) fn of_pair<T: Scalar>(pairs: &[T], i: usize) -> T {
    pairs[i] + pairs[pairs.len() / 2 + i]
}

#[cfg(test)]
#[path = "pairs_tests.rs"]
mod tests;
