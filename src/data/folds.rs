//! The splits of a cross-validation.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom;

use super::split::{Split, draws, list, permutation};
use crate::check::{check_examples, check_room, option};
use crate::error::Error;

impl Split {
    /// The k splits of a k-fold cross-validation of `count` columns. Every column is in exactly one
    /// test set, and the sizes of the test sets differ by at most 1.
    ///
    /// # Errors
    /// [`Error::NoExamples`], [`Error::InvalidOption`] unless 2 ≤ `k` ≤ `count`,
    /// [`Error::TooLarge`].
    ///
    /// # Examples
    /// ```
    /// use layerwise::data::Split;
    ///
    /// let folds = Split::folds(7, 3, 0)?;
    /// let sizes = folds.iter().map(|fold| fold.test.len());
    /// assert_eq!(sizes.collect::<Vec<_>>(), [3, 2, 2]);
    /// # Ok::<(), layerwise::Error>(())
    /// ```
    #[doc(alias("k-fold", "cross-validation"))]
    pub fn folds(count: usize, k: usize, seed: u64) -> Result<Vec<Self>, Error> {
        check_folds(count, k)?;
        // Before any is made: the system may promise memory fold by fold that it does not have.
        check_room::<usize>("the columns of all folds", count, k)?;
        let columns = permutation(count, &mut draws(seed))?;
        let start = |fold: usize| fold * (count / k) + fold.min(count % k);
        let mut folds = list(k)?;
        for fold in 0..k {
            let (before, rest) = columns.split_at(start(fold));
            let (test, after) = rest.split_at(start(fold + 1) - start(fold));
            let mut train = list(before.len() + after.len())?;
            train.extend(before.iter().chain(after));
            folds.push(Self {
                train,
                test: test.to_vec(),
            });
        }
        Ok(folds)
    }

    /// The k splits of a k-fold cross-validation that keep the classes' shares: of every class, the
    /// numbers of examples in two test sets differ by at most 1, and so do the sizes of the test
    /// sets. Every column is in exactly one of them.
    ///
    /// `labels` holds the class of every column. A class with fewer than k examples is absent from
    /// some test sets.
    ///
    /// # Errors
    /// Those of [`Split::folds`].
    ///
    /// # Examples
    /// ```
    /// use layerwise::data::Split;
    ///
    /// let labels = [0, 0, 0, 0, 1, 1];
    /// for fold in Split::stratified_folds(&labels, 2, 0)? {
    ///     let ones = fold.test.iter().filter(|&&column| labels[column] == 1);
    ///     assert_eq!((fold.test.len(), ones.count()), (3, 1));
    /// }
    /// # Ok::<(), layerwise::Error>(())
    /// ```
    #[doc(alias("StratifiedKFold", "cross-validation"))]
    pub fn stratified_folds(labels: &[usize], k: usize, seed: u64) -> Result<Vec<Self>, Error> {
        check_folds(labels.len(), k)?;
        let mut rng = draws(seed);
        let mut columns = permutation(labels.len(), &mut rng)?;
        columns.sort_by_key(|&column| labels[column]);
        // Dealt out like cards, class by class.
        let mut tests = empty_tests(labels.len(), k)?;
        for (place, &column) in columns.iter().enumerate() {
            tests[place % k].push(column);
        }
        tests.iter_mut().for_each(|test| test.shuffle(&mut rng));
        from_tests(tests, labels.len(), &mut rng)
    }

    /// The k splits of a k-fold cross-validation that keep groups together: examples of one group,
    /// such as one patient's, are all in the training set or all in the test set. Every column is in
    /// exactly one test set.
    ///
    /// `groups` holds the group of every column, any numbers. As in scikit-learn, the largest group
    /// goes first, each to the test set that has the fewest columns yet, so that their sizes differ
    /// by at most the size of the largest group. Groups of equal size are taken in random order.
    ///
    /// # Errors
    /// [`Error::NoExamples`], [`Error::InvalidOption`] unless 2 ≤ `k` ≤ the number of groups,
    /// [`Error::TooLarge`].
    ///
    /// # Examples
    /// ```
    /// use layerwise::data::Split;
    ///
    /// let patients = [7, 7, 7, 4, 4, 9];
    /// for fold in Split::group_folds(&patients, 2, 0)? {
    ///     assert_eq!(fold.test.len(), 3);
    ///     let seen = |i: &usize| fold.train.iter().any(|&j| patients[j] == patients[*i]);
    ///     assert!(!fold.test.iter().any(seen));
    /// }
    /// # Ok::<(), layerwise::Error>(())
    /// ```
    #[doc(alias("GroupKFold", "cross-validation"))]
    pub fn group_folds(groups: &[usize], k: usize, seed: u64) -> Result<Vec<Self>, Error> {
        check_examples(groups.len(), "a split")?;
        let mut rng = draws(seed);
        let mut columns = permutation(groups.len(), &mut rng)?;
        columns.sort_by_key(|&column| groups[column]);
        let mut members = Vec::from_iter(columns.chunk_by(|&a, &b| groups[a] == groups[b]));
        let fits = (2..=members.len()).contains(&k);
        let allowed = "at least 2 and at most the number of groups";
        option("k", k as f64, fits, allowed)?;
        members.shuffle(&mut rng);
        members.sort_by_key(|own| Reverse(own.len()));
        let mut tests = empty_tests(groups.len(), k)?;
        // The test sets by size, then by number.
        let mut lightest = BinaryHeap::from_iter((0..k).map(|fold| Reverse((0, fold))));
        for own in members {
            if let Some(Reverse((size, fold))) = lightest.pop() {
                tests[fold].extend_from_slice(own);
                lightest.push(Reverse((size + own.len(), fold)));
            }
        }
        tests.iter_mut().for_each(|test| test.shuffle(&mut rng));
        from_tests(tests, groups.len(), &mut rng)
    }

    /// The k splits of a cross-validation of columns in the order of time: every test set comes
    /// after its training set. The last k m columns are tested, m = ⌊count/(k + 1)⌋ at a time, and
    /// each is trained on everything before it:
    ///
    /// test_f = s_f, …, s_f + m − 1 and train_f = 0, …, s_f − 1 with s_f = count − (k − f) m,
    /// f = 0, …, k − 1.
    ///
    /// Both lists are in order, unlike those of other splits.
    ///
    /// # Errors
    /// [`Error::NoExamples`], [`Error::InvalidOption`] unless 2 ≤ `k` < `count`, [`Error::TooLarge`].
    ///
    /// # Examples
    /// ```
    /// use layerwise::data::Split;
    ///
    /// let folds = Split::time_folds(7, 2)?;
    /// assert_eq!((&folds[0].train[..], &folds[0].test[..]), (&[0, 1, 2][..], &[3, 4][..]));
    /// assert_eq!((&folds[1].train[..], &folds[1].test[..]), (&[0, 1, 2, 3, 4][..], &[5, 6][..]));
    /// # Ok::<(), layerwise::Error>(())
    /// ```
    #[doc(alias("TimeSeriesSplit", "cross-validation"))]
    pub fn time_folds(count: usize, k: usize) -> Result<Vec<Self>, Error> {
        check_examples(count, "a split")?;
        let allowed = format!("at least 2 and below the number of examples, {count}");
        option("k", k as f64, (2..count).contains(&k), allowed)?;
        check_room::<usize>("the columns of all folds", count, k)?;
        let size = count / (k + 1);
        let starts = (0..k).map(|fold| count - (k - fold) * size);
        Ok(Vec::from_iter(starts.map(|start| Self {
            train: (0..start).collect(),
            test: (start..start + size).collect(),
        })))
    }
}

fn check_folds(count: usize, k: usize) -> Result<(), Error> {
    check_examples(count, "a split")?;
    let allowed = format!("at least 2 and at most the number of examples, {count}");
    option("k", k as f64, (2..=count).contains(&k), allowed).map(|_| ())
}

/// Lists for the test sets, once it is known that memory can hold all folds.
fn empty_tests(count: usize, k: usize) -> Result<Vec<Vec<usize>>, Error> {
    // Before any is made: the system may promise memory fold by fold that it does not have.
    check_room::<usize>("the columns of all folds", count, k)?;
    Ok(vec![Vec::new(); k])
}

/// The folds with these test sets, which are a partition of the columns.
fn from_tests(
    tests: Vec<Vec<usize>>,
    count: usize,
    rng: &mut ChaCha8Rng,
) -> Result<Vec<Split>, Error> {
    let mut folds = list(tests.len())?;
    for fold in 0..tests.len() {
        let mut train = list(count - tests[fold].len())?;
        let others = tests.iter().enumerate().filter(|&(other, _)| other != fold);
        others.for_each(|(_, own)| train.extend_from_slice(own));
        train.shuffle(rng);
        folds.push(train);
    }
    let folds = folds.into_iter().zip(tests);
    Ok(folds.map(|(train, test)| Split { train, test }).collect())
}
