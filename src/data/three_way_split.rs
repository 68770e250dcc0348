//! Splitting a data set into training, validation and test examples.

use super::split::{Split, draws, part};
use crate::check::check_examples;
use crate::error::Error;

/// The columns 0, …, n−1 of a data set, split at random into training, validation and test columns;
/// no part is empty.
///
/// The lists are in random order, so the first m entries of each are a random sample of it. The same
/// seed gives the same split on every platform.
///
/// # Examples
/// ```
/// use layerwise::prelude::*;
///
/// let labels: Vec<usize> = (0..100).map(|i| i % 4).collect();
/// let split = ThreeWaySplit::stratified(&labels, 0.2, 0.1, 0)?;
/// let parts = [&split.train, &split.validation, &split.test];
/// assert_eq!(parts.map(Vec::len), [70, 20, 10]);
///
/// let x = DMatrix::from_fn(3, 100, |i, j| (i + j) as f64);
/// assert_eq!(x.select_columns(&split.validation).shape(), (3, 20));
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThreeWaySplit {
    /// Training columns.
    pub train: Vec<usize>,
    /// Validation columns, for choices such as when to stop.
    pub validation: Vec<usize>,
    /// Test columns.
    pub test: Vec<usize>,
}

impl ThreeWaySplit {
    /// Draws the fractions v = `validation_fraction` and f = `test_fraction` of every class as the
    /// validation and the test set. They hold the integers nearest to v n and f n of all n examples.
    /// The test set is drawn as by [`Split::stratified`], and then the validation set in the same
    /// way from the rest.
    ///
    /// `labels` holds the class of every column.
    ///
    /// # Errors
    /// [`Error::NoExamples`], [`Error::InvalidOption`] for a fraction that leaves a part empty.
    #[doc(alias = "train_test_split")]
    pub fn stratified(
        labels: &[usize],
        validation_fraction: f64,
        test_fraction: f64,
        seed: u64,
    ) -> Result<Self, Error> {
        let n = labels.len();
        check_examples(n, "a split")?;
        let test_count = part("test_fraction", test_fraction, n, 2)?;
        let sum = validation_fraction + test_fraction;
        if validation_fraction < 1.0 && test_fraction < 1.0 && sum >= 1.0 {
            return Err(Error::InvalidOption {
                option: "validation_fraction + test_fraction",
                value: sum,
                allowed: "below 1".into(),
            });
        }
        let rest = 1 + test_count;
        let validation_count = part("validation_fraction", validation_fraction, n, rest)?;
        let mut rng = draws(seed);
        let outer = Split::stratified_by(labels, test_fraction, test_count, &mut rng)?;
        let own: Vec<usize> = outer.train.iter().map(|&column| labels[column]).collect();
        let share = validation_count as f64 / own.len() as f64;
        let inner = Split::stratified_by(&own, share, validation_count, &mut rng)?;
        let inner = inner.of(&outer.train)?;
        Ok(Self {
            train: inner.train,
            validation: inner.test,
            test: outer.test,
        })
    }
}
