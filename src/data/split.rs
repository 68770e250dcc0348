//! Splitting a data set into training and test examples.

use std::cmp::Reverse;

use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom;

use crate::check::{check_examples, option, room};
use crate::error::Error;
use crate::init::{Purpose, generator};

/// The columns 0, …, n−1 of a data set, split at random into training and test columns; neither
/// part is empty.
///
/// Both lists are in random order, so the first m entries of each are a random sample of it. The
/// same seed gives the same split on every platform.
///
/// # Examples
/// ```
/// use layerwise::prelude::*;
///
/// let x = DMatrix::from_fn(3, 10, |i, j| (i + j) as f64);
/// let split = Split::shuffled(x.ncols(), 2, 0)?;
/// let (train, test) = (x.select_columns(&split.train), x.select_columns(&split.test));
/// assert_eq!((train.shape(), test.shape()), ((3, 8), (3, 2)));
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// Training columns.
    pub train: Vec<usize>,
    /// Test columns.
    pub test: Vec<usize>,
}

impl Split {
    /// Draws `test_count` of `count` columns as the test set; every such set is equally likely.
    ///
    /// # Errors
    /// [`Error::NoExamples`], [`Error::InvalidOption`] unless 1 ≤ `test_count` < `count`,
    /// [`Error::TooLarge`].
    #[doc(alias = "train_test_split")]
    pub fn shuffled(count: usize, test_count: usize, seed: u64) -> Result<Self, Error> {
        check_examples(count, "a split")?;
        let fits = (1..count).contains(&test_count);
        let allowed = format!("at least 1 and below the number of examples, {count}");
        option("test_count", test_count as f64, fits, allowed)?;
        let mut test = permutation(count, &mut draws(seed))?;
        let train = test.split_off(test_count);
        Ok(Self { train, test })
    }

    /// Draws a fraction f = `test_fraction` of every class as the test set. The test set holds the
    /// integer nearest to f n of all n examples. Of the n_c examples labelled c, it holds at least
    /// ⌊f n_c⌋ and at most ⌈f n_c⌉. The classes with the largest remainders f n_c − ⌊f n_c⌋ get one
    /// example more than ⌊f n_c⌋. Ties are broken at random, so no class is preferred among many
    /// small ones.
    ///
    /// `labels` holds the class of every column.
    ///
    /// # Errors
    /// [`Error::NoExamples`], [`Error::InvalidOption`] for a fraction that leaves the training or
    /// the test set empty.
    ///
    /// # Examples
    /// ```
    /// use layerwise::data::Split;
    ///
    /// let labels = [0, 1, 0, 1, 0, 1, 0, 1, 0, 1];
    /// let split = Split::stratified(&labels, 0.4, 0)?;
    /// let ones = split.test.iter().filter(|&&column| labels[column] == 1);
    /// assert_eq!((split.test.len(), ones.count()), (4, 2));
    /// # Ok::<(), layerwise::Error>(())
    /// ```
    pub fn stratified(labels: &[usize], test_fraction: f64, seed: u64) -> Result<Self, Error> {
        check_examples(labels.len(), "a split")?;
        let test_count = part("test_fraction", test_fraction, labels.len(), 1)?;
        Self::stratified_by(labels, test_fraction, test_count, &mut draws(seed))
    }

    /// Draws `test_count` columns, of every class a fraction that rounds to `test_fraction`.
    pub(super) fn stratified_by(
        labels: &[usize],
        test_fraction: f64,
        test_count: usize,
        rng: &mut ChaCha8Rng,
    ) -> Result<Self, Error> {
        // ⌊f n_c⌋ and the remainder, in units so coarse that rounding cannot break a tie.
        let share = |class: &[usize]| {
            let units = (test_fraction * class.len() as f64 * UNITS).round();
            ((units / UNITS) as usize, (units % UNITS) as u64)
        };
        let mut columns = permutation(labels.len(), rng)?;
        columns.sort_by_key(|&column| labels[column]);
        let mut classes = Vec::from_iter(columns.chunk_by(|&a, &b| labels[a] == labels[b]));
        classes.shuffle(rng);
        classes.sort_by_key(|class| Reverse(share(class).1));
        let whole: usize = classes.iter().map(|class| share(class).0).sum();
        let odd = test_count.saturating_sub(whole);
        let (mut train, mut test) = (Vec::new(), Vec::new());
        for (place, class) in classes.into_iter().enumerate() {
            let (own, rest) = class.split_at(share(class).0 + usize::from(place < odd));
            test.extend_from_slice(own);
            train.extend_from_slice(rest);
        }
        train.shuffle(rng);
        test.shuffle(rng);
        Ok(Self { train, test })
    }

    /// Applies the split to other columns: every index i in this split becomes `columns[i]`. Use it
    /// to split one part of another split again.
    ///
    /// # Errors
    /// [`Error::UnknownColumns`] if an index of this split is outside `columns`.
    ///
    /// # Examples
    /// ```
    /// use layerwise::data::Split;
    ///
    /// // 60 for training, 20 for validation, 20 for testing.
    /// let outer = Split::shuffled(100, 20, 0)?;
    /// let inner = Split::shuffled(80, 20, 1)?.of(&outer.train)?;
    /// assert_eq!((inner.train.len(), inner.test.len(), outer.test.len()), (60, 20, 20));
    /// assert!(inner.test.iter().all(|column| outer.train.contains(column)));
    /// # Ok::<(), layerwise::Error>(())
    /// ```
    pub fn of(&self, columns: &[usize]) -> Result<Self, Error> {
        let at = |&place: &usize| {
            columns.get(place).copied().ok_or(Error::UnknownColumns {
                start: place,
                end: place.saturating_add(1),
                count: columns.len(),
            })
        };
        Ok(Self {
            train: self.train.iter().map(at).collect::<Result<_, _>>()?,
            test: self.test.iter().map(at).collect::<Result<_, _>>()?,
        })
    }
}

/// Number of units per example in which remainders are compared.
const UNITS: f64 = 1e9;

/// The number of examples nearest to a fraction of all, which must be at least 1 and leave `rest`.
pub(super) fn part(
    name: &'static str,
    fraction: f64,
    count: usize,
    rest: usize,
) -> Result<usize, Error> {
    // Casts saturate and NaN becomes 0, so every fraction outside (0, 1) leaves one side empty.
    let own = (fraction * count as f64).round() as usize;
    let fits = own > 0 && own.saturating_add(rest) <= count;
    let allowed = "between 0 and 1, and leave at least one example on each side";
    option(name, fraction, fits, allowed).map(|_| own)
}

pub(super) fn draws(seed: u64) -> ChaCha8Rng {
    generator(seed, Purpose::Split, 0)
}

/// The numbers 0, …, count − 1 in random order.
pub(super) fn permutation(count: usize, rng: &mut ChaCha8Rng) -> Result<Vec<usize>, Error> {
    let mut columns = list(count)?;
    columns.extend(0..count);
    columns.shuffle(rng);
    Ok(columns)
}

pub(super) fn list<A>(count: usize) -> Result<Vec<A>, Error> {
    room("a list of columns", count, 1)
}
