//! Elementwise operations and sums over slices; each adds in one fixed order.

use std::ops::Range;

use super::pairs::pair_plus;
use super::{Write, vectorise};
use crate::kernel::Scalar;

/// Number of partial sums in a reduction: two of the widest `f32` vectors, so that additions can
/// overlap. It is the same on every machine.
const LANES: usize = 32;

/// Fewer terms than this are added one after another, since most lanes would stay empty.
const FEW: usize = 16;

/// Σ_i term(aᵢ), as [`sum_of_pairs`].
#[inline(always)]
pub(super) fn sum<T: Scalar>(a: &[T], term: impl Fn(T) -> T) -> T {
    sum_of_pairs(a, a, |a, _| term(a))
}

/// Σ_i term(aᵢ, bᵢ) over slices of the same length, in [`LANES`] interleaved partial sums, which
/// are then added by halves.
#[inline(always)]
pub(super) fn sum_of_pairs<T: Scalar>(a: &[T], b: &[T], term: impl Fn(T, T) -> T) -> T {
    let [sum] = sums_of_pairs(a, b, |a, b| [term(a, b)]);
    sum
}

/// Several sums in one pass, each computed as by [`sum_of_pairs`].
#[inline(always)]
fn sums_of_pairs<T: Scalar, const N: usize>(
    a: &[T],
    b: &[T],
    terms: impl Fn(T, T) -> [T; N],
) -> [T; N] {
    if a.len() < FEW {
        let mut sums = [T::zero(); N];
        for (&a, &b) in a.iter().zip(b) {
            let terms = terms(a, b);
            for k in 0..N {
                sums[k] += terms[k];
            }
        }
        return sums;
    }
    // Chunks are arrays: without bounds checks, the compiler keeps the lanes in registers.
    let (chunks, rest) = a.as_chunks::<LANES>();
    let (others, other_rest) = b.as_chunks::<LANES>();
    let mut lanes = [[T::zero(); LANES]; N];
    for (chunk, other) in chunks.iter().zip(others) {
        // Not a range: in an unoptimised build every turn of one is several calls.
        let mut j = 0;
        while j < LANES {
            let terms = terms(chunk[j], other[j]);
            let mut k = 0;
            while k < N {
                lanes[k][j] += terms[k];
                k += 1;
            }
            j += 1;
        }
    }
    if !rest.is_empty() {
        // Pad with zeros, so that this is an addition of whole vectors too.
        let mut last = [[T::zero(); LANES]; N];
        for (j, (&a, &b)) in rest.iter().zip(other_rest).enumerate() {
            let terms = terms(a, b);
            for k in 0..N {
                last[k][j] = terms[k];
            }
        }
        for k in 0..N {
            for j in 0..LANES {
                lanes[k][j] += last[k][j];
            }
        }
    }
    lanes.map(by_halves)
}

/// Σ of the lanes.
#[inline(always)]
fn by_halves<T: Scalar>(lanes: [T; LANES]) -> T {
    across(lanes, |sum, lane| sum + lane)
}

/// (a − b)².
#[inline(always)]
fn squared_difference<T: Scalar>(a: T, b: T) -> T {
    let d = a - b;
    d * d
}

/// A sum with twice the digits of T: a sum of 10⁷ terms is as accurate as a sum of two,
/// wherever the large terms are.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Sum<T> {
    rounded: T,
    /// The rounding error of `rounded`; NaN if `rounded` is infinite.
    lost: T,
}

impl<T: Scalar> Sum<T> {
    /// The empty sum.
    #[inline(always)]
    pub(crate) fn zero() -> Self {
        Self {
            rounded: T::zero(),
            lost: T::zero(),
        }
    }

    #[inline(always)]
    pub(crate) fn add(&mut self, term: T) {
        (self.rounded, self.lost) = pair_plus((self.rounded, self.lost), term);
    }

    /// Adds term(j) for every j in `terms`. Small groups of terms are first added in plain
    /// arithmetic.
    #[inline(always)]
    pub(crate) fn add_terms(&mut self, terms: Range<usize>, term: impl Fn(usize) -> T) {
        for start in terms.clone().step_by(LANES) {
            let few = start..terms.end.min(start + LANES);
            self.add(few.fold(T::zero(), |sum, j| sum + term(j)));
        }
    }

    pub(crate) fn of(terms: impl IntoIterator<Item = T>) -> T {
        let mut sum = Self::zero();
        terms.into_iter().for_each(|term| sum.add(term));
        sum.value()
    }

    /// The sum, rounded.
    pub(crate) fn value(self) -> T {
        self.rounded
    }
}

/// Σ aᵢ; for many terms, each of [`LANES`] lanes is a [`Sum`].
pub(crate) fn total<T: Scalar>(a: &[T]) -> T {
    if a.len() <= BLOCK {
        return sum_in_pass(a, a, |a, _| a);
    }
    vectorise(
        #[inline(always)]
        move || {
            let (chunks, rest) = a.as_chunks::<LANES>();
            let mut lanes = [Sum::zero(); LANES];
            for chunk in chunks {
                for j in 0..LANES {
                    lanes[j].add(chunk[j]);
                }
            }
            Sum::of(
                lanes
                    .iter()
                    .map(|lane| lane.value())
                    .chain(rest.iter().copied()),
            )
        },
    )
}

/// ‖v‖ in f64, always added in the same order; not finite if any value is not.
pub(crate) fn norm<'a, T: Scalar>(values: impl IntoIterator<Item = &'a T, IntoIter: Clone>) -> f64 {
    let [unit, length] = norm_in_units(values);
    unit * length
}

/// [`norm`] as two factors, since the norm itself may overflow.
pub(crate) fn norm_in_units<'a, T: Scalar>(
    values: impl IntoIterator<Item = &'a T, IntoIter: Clone>,
) -> [f64; 2] {
    let (unit, squares, _) = squares(values.into_iter().map(|v| v.as_f64()));
    [unit, squares.sqrt()]
}

/// [`norm`] at the speed of plain squares, which it sums wherever they fit.
pub(crate) fn quick_norm<T: Scalar>(values: &[T]) -> f64 {
    let squares = dot(values, values).as_f64();
    match (1e-30..1e30).contains(&squares) {
        true => squares.sqrt(),
        false => norm(values),
    }
}

/// The root mean square of at least one value, computed like [`norm`].
pub(crate) fn root_mean_square(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let (unit, squares, count) = squares(values);
    unit * (squares / count as f64).sqrt()
}

/// A unit in which squares neither overflow nor underflow, Σ (v/unit)², and the number of values.
pub(crate) fn squares(values: impl Iterator<Item = f64> + Clone) -> (f64, f64, usize) {
    let unit = power_of_two(values.clone().map(f64::abs).fold(0.0, larger));
    let mut count = 0;
    let sum = Sum::of(values.inspect(|_| count += 1).map(|v| (v / unit).powi(2)));
    (unit, sum, count)
}

/// A sum of squares in a unit that grows with them, so that the root of their mean neither overflows
/// nor underflows before it must.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Squares {
    unit: f64,
    sum: Sum<f64>,
}

impl Squares {
    /// The empty sum.
    pub(crate) fn zero() -> Self {
        Self {
            unit: f64::MIN_POSITIVE,
            sum: Sum::zero(),
        }
    }

    /// Adds size².
    pub(crate) fn add(&mut self, size: f64) {
        let unit = power_of_two(size.abs());
        self.add_in(unit, (size / unit).powi(2));
    }

    /// Adds another sum.
    pub(crate) fn add_all(&mut self, other: Self) {
        self.add_in(other.unit, other.sum.value());
    }

    /// The sum of several.
    pub(crate) fn all(of: impl IntoIterator<Item = Self>) -> Self {
        let mut all = Self::zero();
        of.into_iter().for_each(|own| all.add_all(own));
        all
    }

    /// ‖a − b‖².
    pub(crate) fn of_distance<T: Scalar>(a: &[T], b: &[T]) -> Self {
        let mut own = Self::zero();
        own.add_distance(a, b);
        own
    }

    /// Adds ‖a − b‖².
    pub(crate) fn add_distance<T: Scalar>(&mut self, a: &[T], b: &[T]) {
        self.add_known(squared_distance(a, b), a, b);
    }

    /// Adds ‖a − b‖², which is `square` unless that over- or underflowed.
    pub(crate) fn add_known<T: Scalar>(&mut self, square: T, a: &[T], b: &[T]) {
        let square = square.as_f64();
        if square > 1e-30 && square < 1e30 {
            return self.add_in(1.0, square);
        }
        // Infinite values have no distance.
        if square == 0.0 && a == b {
            return;
        }
        let pairs = a.iter().zip(b);
        let (unit, square, _) = squares(pairs.map(|(a, b)| a.as_f64() - b.as_f64()));
        self.add_in(unit, square);
    }

    /// Adds unit² · square.
    fn add_in(&mut self, unit: f64, square: f64) {
        if unit > self.unit {
            let ratio = self.unit / unit;
            let sum = self.sum.value() * ratio * ratio;
            (self.unit, self.sum) = (unit, Sum::zero());
            self.sum.add(sum);
        }
        let ratio = unit / self.unit;
        self.sum.add(square * ratio * ratio);
    }

    /// (Σ size² / count)^½; ∞ if a size is.
    pub(crate) fn root_mean(self, count: f64) -> f64 {
        match self.unit.is_finite() {
            true => self.unit * (self.sum.value() / count).sqrt(),
            false => self.unit,
        }
    }

    /// (Σ size²)^½.
    pub(crate) fn root(self) -> f64 {
        self.root_mean(1.0)
    }
}

/// The largest power of 2 not above `size`, but not subnormal; not finite if `size` is not.
/// Division by it is exact unless the result underflows.
pub(crate) fn power_of_two(size: f64) -> f64 {
    match size.is_finite() {
        true => f64::from_bits(size.to_bits() & f64::INFINITY.to_bits()).max(f64::MIN_POSITIVE),
        false => size,
    }
}

/// [`power_of_two`] of the largest |v|, apart from NaN; 1 if it is 0.
pub(crate) fn unit_of<'a, T: Scalar>(values: impl IntoIterator<Item = &'a T>) -> T {
    let largest = values
        .into_iter()
        .fold(T::zero(), |top, v| top.max(v.abs()));
    match largest.is_zero() {
        true => T::one(),
        false => T::of(power_of_two(largest.as_f64())),
    }
}

/// log₂ of a product of powers of two, which may not fit the scalar.
pub(crate) fn exponent<T: Scalar>(units: &[T]) -> f64 {
    units.iter().map(|unit| unit.as_f64().log2().round()).sum()
}

/// values ← 2ᵏ · values, where 2ᵏ itself may not fit the scalar.
pub(crate) fn scale_by_power<T: Scalar>(values: &mut [T], k: f64) {
    let half = (k / 2.0).trunc();
    for k in [half, k - half] {
        scale(values, T::of(2.0_f64.powi(k as i32)));
    }
}

/// The larger of two numbers; NaN if either is NaN.
pub(crate) fn larger(top: f64, value: f64) -> f64 {
    match top >= value || top.is_nan() {
        true => top,
        false => value,
    }
}

/// Number of pairs that are summed in lanes alone; the error of a longer sum would grow with its
/// length.
const BLOCK: usize = 1024;

/// [`sum_of_pairs`], block by block, for the body of a vectorised pass.
#[inline(always)]
pub(crate) fn sum_of_blocks<T: Scalar>(a: &[T], b: &[T], term: impl Fn(T, T) -> T) -> T {
    let [sum] = sums_of_blocks(a, b, |a, b| [term(a, b)]);
    sum
}

/// Several sums in one pass, each computed as by [`sum_of_blocks`].
#[inline(always)]
pub(crate) fn sums_of_blocks<T: Scalar, const N: usize>(
    a: &[T],
    b: &[T],
    terms: impl Fn(T, T) -> [T; N],
) -> [T; N] {
    if a.len() <= BLOCK {
        return sums_of_pairs(a, b, terms);
    }
    let mut sums = [Sum::zero(); N];
    for (a, b) in a.chunks(BLOCK).zip(b.chunks(BLOCK)) {
        let of_block = sums_of_pairs(a, b, &terms);
        sums.iter_mut()
            .zip(of_block)
            .for_each(|(sum, own)| sum.add(own));
    }
    sums.map(Sum::value)
}

/// [`sum_of_blocks`] as a separate vectorised pass, over the length of the shorter slice.
#[inline(always)]
pub(crate) fn sum_in_pass<T: Scalar>(a: &[T], b: &[T], term: impl Fn(T, T) -> T) -> T {
    let n = a.len().min(b.len());
    let (a, b) = (&a[..n], &b[..n]);
    vectorise(
        #[inline(always)]
        move || sum_of_blocks(a, b, term),
    )
}

/// Σ |aᵢ|.
pub(crate) fn total_magnitude<T: Scalar>(a: &[T]) -> T {
    sum_in_pass(a, a, |a, _| a.abs())
}

/// Σ aᵢ bᵢ.
pub(crate) fn dot<T: Scalar>(a: &[T], b: &[T]) -> T {
    sum_in_pass(a, b, |a, b| a * b)
}

/// ½ weight Σ aᵢ², without aᵢ², which may overflow or underflow although the result does not.
pub(crate) fn half_weighted_square<T: Scalar>(weight: T, a: &[T]) -> T {
    let half = T::of(0.5);
    sum_in_pass(a, a, move |a, _| weight * (half * a) * a)
}

/// Σ (aᵢ − bᵢ)².
pub(crate) fn squared_distance<T: Scalar>(a: &[T], b: &[T]) -> T {
    sum_in_pass(a, b, squared_difference)
}

/// Whether no value is NaN or infinite.
pub(crate) fn all_finite<T: Scalar>(values: &[T]) -> bool {
    // x·0 is 0 for finite x and NaN otherwise, and a sum preserves NaN.
    sum_in_pass(values, values, |value, _| value * T::zero()).is_finite()
}

/// Whether two slices of the same length contain neither NaN nor infinity.
pub(crate) fn both_finite<T: Scalar>(a: &[T], b: &[T]) -> bool {
    sum_in_pass(a, b, |a, b| a * T::zero() + b * T::zero()).is_finite()
}

/// Number of elements that [`half_squared_distances`] can read again while they are in the cache.
const NEAR: usize = 1024;
/// Columns with fewer rows are too short for sums of pairs to pay off.
const SHORT: usize = 64;

/// values_i ← ½ ‖aᵢ − bᵢ‖² for the columns aᵢ and bᵢ of `dim` rows; in_a ← a − b and in_b ← b − a
/// (set or added).
pub(crate) fn half_squared_distances<T: Scalar>(
    values: &mut [T],
    [a, b]: [&[T]; 2],
    dim: usize,
    in_a: Write<'_, T>,
    in_b: Write<'_, T>,
) {
    squares_and_differences(values, [a, b], dim, in_a, in_b);
    if all_finite(values) {
        return;
    }
    // A square may overflow where half of it does not.
    let half = T::of(0.5);
    let columns = a.chunks_exact(dim).zip(b.chunks_exact(dim));
    for (value, (a, b)) in values.iter_mut().zip(columns) {
        if !value.is_finite() {
            *value = sum_in_pass(a, b, |a, b| half * (a - b) * (a - b));
        }
    }
}

/// [`half_squared_distances`], as half the sum of the squares.
fn squares_and_differences<T: Scalar>(
    values: &mut [T],
    [a, b]: [&[T]; 2],
    dim: usize,
    mut in_a: Write<'_, T>,
    mut in_b: Write<'_, T>,
) {
    // Use separately compiled passes: combined, the compiler vectorises neither of them well.
    if dim < SHORT
        && let Write::Set(difference) = &mut in_a
    {
        half_squares_of(difference, values, [a, b], dim);
        return subtract(in_b, b, a);
    }
    if dim < SHORT
        && let Write::Set(difference) = &mut in_b
    {
        half_squares_of(difference, values, [b, a], dim);
        return subtract(in_a, a, b);
    }
    let half = T::of(0.5);
    vectorise(
        #[inline(always)]
        move || {
            let columns = (NEAR / dim).max(1);
            let length = columns * dim;
            let pairs = a.chunks(length).zip(b.chunks(length));
            for (k, (values, (a, b))) in values.chunks_mut(columns).zip(pairs).enumerate() {
                let sides = a.chunks_exact(dim).zip(b.chunks_exact(dim));
                for (value, (a, b)) in values.iter_mut().zip(sides) {
                    *value = half * sum_of_blocks(a, b, squared_difference);
                }
                let range = k * length..k * length + a.len();
                map_pairs(in_a.part(range.clone()), a, b, |a, b| a - b);
                map_pairs(in_b.part(range), b, a, |b, a| b - a);
            }
        },
    );
}

/// difference ← a − b, and values_i ← half the squared length of column i. Faster for columns that
/// are too short for sums of pairs to pay off.
fn half_squares_of<T: Scalar>(
    difference: &mut [T],
    values: &mut [T],
    [a, b]: [&[T]; 2],
    dim: usize,
) {
    let half = T::of(0.5);
    vectorise(
        #[inline(always)]
        move || {
            map_pairs(Write::Set(&mut *difference), a, b, |a, b| a - b);
            for (value, column) in values.iter_mut().zip(difference.chunks_exact(dim)) {
                *value = half * sum(column, |d| d * d);
            }
        },
    );
}

/// out ← a − b (set or added).
pub(crate) fn subtract<T: Scalar>(out: Write<'_, T>, a: &[T], b: &[T]) {
    vectorise(
        #[inline(always)]
        move || map_pairs(out, a, b, |a, b| a - b),
    );
}

/// out ← a ⊙ b.
pub(crate) fn multiply<T: Scalar>(out: &mut [T], a: &[T], b: &[T]) {
    vectorise(
        #[inline(always)]
        move || map_pairs(Write::Set(out), a, b, |a, b| a * b),
    );
}

/// out ← value(a, b) (set or added), for use in the body of a vectorised pass.
#[inline(always)]
pub(crate) fn map_pairs<T: Scalar>(out: Write<'_, T>, a: &[T], b: &[T], value: impl Fn(T, T) -> T) {
    match out {
        Write::Skip => {}
        Write::Set(out) => {
            for ((o, &a), &b) in out.iter_mut().zip(a).zip(b) {
                *o = value(a, b);
            }
        }
        Write::Add(out) => {
            for ((o, &a), &b) in out.iter_mut().zip(a).zip(b) {
                *o += value(a, b);
            }
        }
    }
}

/// The largest |aᵢ|, apart from NaN; 0 if there are none.
#[inline(always)]
pub(crate) fn largest_magnitude<T: Scalar>(a: &[T]) -> T {
    let greater = |top: T, a: T| if a.abs() > top { a.abs() } else { top };
    let (chunks, rest) = a.as_chunks::<LANES>();
    let mut lanes = [T::zero(); LANES];
    for chunk in chunks {
        for j in 0..LANES {
            lanes[j] = greater(lanes[j], chunk[j]);
        }
    }
    let top = across(lanes, greater);
    rest.iter().copied().fold(top, greater)
}

/// The largest value. NaN is ignored, but the result is NaN if the first value is NaN.
#[inline(always)]
pub(crate) fn largest<T: Scalar>(a: &[T]) -> T {
    let greater = |top: T, a: T| if a > top { a } else { top };
    let (chunks, Some(last)) = (a.as_chunks::<LANES>().0, a.last_chunk::<LANES>()) else {
        return a.iter().copied().fold(a[0], greater);
    };
    let mut lanes = [a[0]; LANES];
    // The last chunk may overlap the one before it.
    for chunk in chunks.iter().chain([last]) {
        for j in 0..LANES {
            lanes[j] = greater(lanes[j], chunk[j]);
        }
    }
    across(lanes, greater)
}

/// Combines all lanes with `op`, halving their number each time.
#[inline(always)]
fn across<T: Copy>(mut lanes: [T; LANES], op: impl Fn(T, T) -> T) -> T {
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for j in 0..width {
            lanes[j] = op(lanes[j], lanes[j + width]);
        }
    }
    lanes[0]
}

/// The index of the first largest value. NaN is ignored, but the index is 0 if the first value is
/// NaN.
#[inline(always)]
pub(crate) fn place_of_largest<T: Scalar>(a: &[T]) -> usize {
    let top = largest(a);
    let before = (a.as_chunks::<LANES>().0)
        .iter()
        .take_while(|chunk| !chunk.iter().fold(false, |found, &a| found | (a == top)))
        .count()
        * LANES;
    a[before..]
        .iter()
        .position(|&a| a == top)
        .map_or(0, |place| before + place)
}

/// Applies values ← value(values, other) elementwise.
#[inline(always)]
pub(super) fn update<T: Scalar>(values: &mut [T], other: &[T], value: impl Fn(T, T) -> T) {
    vectorise(
        #[inline(always)]
        move || {
            for (v, &o) in values.iter_mut().zip(other) {
                *v = value(*v, o);
            }
        },
    );
}

/// values ← values ⊙ other.
pub(crate) fn multiply_by<T: Scalar>(values: &mut [T], other: &[T]) {
    update(values, other, |v, o| v * o);
}

/// values ← values + other.
pub(crate) fn add_to<T: Scalar>(values: &mut [T], other: &[T]) {
    update(values, other, |v, o| v + o);
}

/// values ← values − other.
pub(crate) fn subtract_from<T: Scalar>(values: &mut [T], other: &[T]) {
    update(values, other, |v, o| v - o);
}

/// values ← values + factor · other.
pub(crate) fn add_scaled<T: Scalar>(values: &mut [T], factor: T, other: &[T]) {
    update(values, other, move |v, o| v + factor * o);
}

/// values ← factor · values.
pub(crate) fn scale<T: Scalar>(values: &mut [T], factor: T) {
    vectorise(
        #[inline(always)]
        move || {
            for v in values.iter_mut() {
                *v *= factor;
            }
        },
    );
}

/// Values of short columns that are taken side by side.
const SIDE_BY_SIDE: usize = 64;

/// Adds `column` to every column of `matrix`.
pub(crate) fn add_to_columns<T: Scalar>(matrix: &mut [T], column: &[T]) {
    if column.len() <= SIDE_BY_SIDE / 2 && matrix.len() > SIDE_BY_SIDE {
        let mut several = [T::zero(); SIDE_BY_SIDE];
        let several = &mut several[..SIDE_BY_SIDE / column.len() * column.len()];
        fill_columns(several, column);
        return add_to_columns(matrix, several);
    }
    vectorise(
        #[inline(always)]
        move || {
            for own in matrix.chunks_mut(column.len()) {
                for (v, &c) in own.iter_mut().zip(column) {
                    *v += c;
                }
            }
        },
    );
}

/// Multiplies every column of `matrix` by its factor. A factor of 0 clears its column, whatever it
/// holds.
pub(crate) fn scale_columns<T: Scalar>(matrix: &mut [T], factors: &[T]) {
    let dim = matrix.len() / factors.len();
    vectorise(
        #[inline(always)]
        move || {
            for (column, &factor) in matrix.chunks_exact_mut(dim).zip(factors) {
                if factor.is_zero() {
                    column.fill(T::zero());
                    continue;
                }
                for v in column {
                    *v *= factor;
                }
            }
        },
    );
}

/// Sets every column of `matrix` to `column`.
pub(crate) fn fill_columns<T: Scalar>(matrix: &mut [T], column: &[T]) {
    let mut filled = column.len().min(matrix.len());
    matrix[..filled].copy_from_slice(&column[..filled]);
    // Double the filled part each time: a few long copies instead of many short ones.
    while filled < matrix.len() {
        let count = filled.min(matrix.len() - filled);
        matrix.copy_within(..count, filled);
        filled += count;
    }
}

/// Number of columns of a long sum that are first added in plain arithmetic.
const FEW_COLUMNS: usize = 128;

/// out_r ← Σ over the columns of matrix_{r,·} (set or added), in the order of the columns. For many
/// columns, blocks of them are added in a [`Sum`].
pub(crate) fn row_sums<T: Scalar>(out: Write<'_, T>, matrix: &[T]) {
    let dim = out.len();
    row_sums_in(out, matrix, dim, 0..dim);
}

/// [`row_sums`] of some rows of a matrix of `dim` rows.
pub(crate) fn row_sums_in<T: Scalar>(
    out: Write<'_, T>,
    matrix: &[T],
    dim: usize,
    rows: Range<usize>,
) {
    let Some(out) = out.accumulate() else {
        return;
    };
    vectorise(
        #[inline(always)]
        move || {
            if matrix.len() <= BLOCK * dim {
                return add_columns(out, matrix, dim, rows);
            }
            add_blocks(out, [matrix; 2], dim, rows, |_, value, _| value);
        },
    );
}

/// out_r ← Σ a_{r,i} b_{r,i} over the columns i (set or added), summed as by [`row_sums`], for each r in
/// `rows`. Both matrices have `dim` rows.
pub(crate) fn row_sums_of_products<T: Scalar>(
    out: Write<'_, T>,
    [a, b]: [&[T]; 2],
    dim: usize,
    rows: Range<usize>,
) {
    let Some(out) = out.accumulate() else {
        return;
    };
    vectorise(
        #[inline(always)]
        move || {
            if a.len() <= BLOCK * dim {
                return add_products(out, [a, b], dim, rows);
            }
            add_blocks(out, [a, b], dim, rows, |_, a, b| a * b);
        },
    );
}

/// [`row_sums`] of short columns: of several side by side, whose sums are then added.
pub(crate) fn row_sums_of_many<T: Scalar>(out: Write<'_, T>, matrix: &[T]) {
    let dim = out.len().max(1);
    let columns = matrix.len() / dim;
    let most = SIDE_BY_SIDE / dim.min(SIDE_BY_SIDE);
    let Some(several) = (2..=most)
        .rev()
        .find(|&count| columns.is_multiple_of(count))
    else {
        return row_sums(out, matrix);
    };
    let mut sums = [T::zero(); SIDE_BY_SIDE];
    let sums = &mut sums[..several * dim];
    row_sums(Write::Set(&mut *sums), matrix);
    row_sums(out, sums);
}

/// out_r ← Σ over the columns of w matrix_{r,·}, added like [`row_sums`].
pub(crate) fn weighted_row_sums<T: Scalar>(out: &mut [T], matrix: &[T], weights: &[T]) {
    out.fill(T::zero());
    if weights.len() <= BLOCK {
        for (column, &weight) in matrix.chunks_exact(out.len()).zip(weights) {
            add_scaled(out, weight, column);
        }
        return;
    }
    vectorise(
        #[inline(always)]
        move || {
            let dim = out.len();
            add_blocks(out, [matrix; 2], dim, 0..dim, |i, value, _| {
                weights[i] * value
            });
        },
    );
}

/// out_r ← out_r + Σ term(i, a_{r,i}, b_{r,i}) over the columns i, as a [`Sum`] of blocks of columns, for
/// each r in `rows`. Both matrices have `dim` rows.
#[inline(always)]
fn add_blocks<T: Scalar>(
    out: &mut [T],
    [a, b]: [&[T]; 2],
    dim: usize,
    rows: Range<usize>,
    term: impl Fn(usize, T, T) -> T,
) {
    for (start, out) in rows.step_by(LANES).zip(out.chunks_mut(LANES)) {
        let mut sums = [Sum::zero(); LANES];
        let blocks = a.chunks(FEW_COLUMNS * dim).zip(b.chunks(FEW_COLUMNS * dim));
        for (k, (a, b)) in blocks.enumerate() {
            let mut few = [T::zero(); LANES];
            let columns = a.chunks_exact(dim).zip(b.chunks_exact(dim));
            for (i, (a, b)) in (k * FEW_COLUMNS..).zip(columns) {
                let (a, b) = (&a[start..], &b[start..]);
                // Whole arrays stay in registers.
                if let (true, Some(a), Some(b)) =
                    (out.len() == LANES, a.first_chunk(), b.first_chunk())
                {
                    let (a, b): (&[T; LANES], &[T; LANES]) = (a, b);
                    for j in 0..LANES {
                        few[j] += term(i, a[j], b[j]);
                    }
                    continue;
                }
                for (sum, (&a, &b)) in few.iter_mut().take(out.len()).zip(a.iter().zip(b)) {
                    *sum += term(i, a, b);
                }
            }
            sums.iter_mut().zip(few).for_each(|(sum, few)| sum.add(few));
        }
        for (out, sum) in out.iter_mut().zip(sums) {
            *out += sum.value();
        }
    }
}

/// out ← out + Σ of the columns of a ⊙ b, for each row in `rows`. Both matrices have `dim` rows.
#[inline(always)]
fn add_products<T: Scalar>(out: &mut [T], [a, b]: [&[T]; 2], dim: usize, rows: Range<usize>) {
    // Two columns per pass, added one after another, as in `add_columns`.
    let (twos, others) = (a.chunks_exact(2 * dim), b.chunks_exact(2 * dim));
    let rest = twos
        .remainder()
        .iter()
        .zip(others.remainder())
        .skip(rows.start);
    for (a, b) in twos.zip(others) {
        let ((a, c), (b, d)) = (a.split_at(dim), b.split_at(dim));
        let [a, b, c, d] = [a, b, c, d].map(|column| &column[rows.clone()]);
        let products = a.iter().zip(b).zip(c.iter().zip(d));
        for (o, ((&a, &b), (&c, &d))) in out.iter_mut().zip(products) {
            *o = *o + a * b + c * d;
        }
    }
    for (o, (&a, &b)) in out.iter_mut().zip(rest) {
        *o += a * b;
    }
}

/// out ← out + Σ of the columns, for each row in `rows`. The matrix has `dim` rows.
#[inline(always)]
fn add_columns<T: Scalar>(out: &mut [T], matrix: &[T], dim: usize, rows: Range<usize>) {
    // Four columns per pass, added one after another: the same bits as one column per pass.
    let fours = matrix.chunks_exact(4 * dim);
    let rest = fours.remainder();
    for four in fours {
        let (ab, cd) = four.split_at(2 * dim);
        let ((a, b), (c, d)) = (ab.split_at(dim), cd.split_at(dim));
        let [a, b, c, d] = [a, b, c, d].map(|column| &column[rows.clone()]);
        let columns = a.iter().zip(b).zip(c.iter().zip(d));
        for (o, ((&a, &b), (&c, &d))) in out.iter_mut().zip(columns) {
            *o = *o + a + b + c + d;
        }
    }
    for column in rest.chunks_exact(dim) {
        for (o, &c) in out.iter_mut().zip(&column[rows.clone()]) {
            *o += c;
        }
    }
}

#[cfg(test)]
#[path = "reduction_tests.rs"]
mod tests;
