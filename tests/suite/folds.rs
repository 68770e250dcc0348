//! Folds of groups, of classes and of time, and splits into three parts.

use crate::property::for_all;
use layerwise::Error;
use layerwise::data::{Split, ThreeWaySplit};
use proptest::prelude::*;

fn in_order(mut columns: Vec<usize>) -> Vec<usize> {
    columns.sort_unstable();
    columns
}

/// Whether every column is in the training or the test set of each fold, and in one test set.
fn are_folds(folds: &[Split], count: usize) -> bool {
    let tests = folds.iter().flat_map(|fold| &fold.test).copied().collect();
    let whole = |fold: &Split| in_order([&fold.train[..], &fold.test].concat());
    let mut all = folds.iter().map(whole).chain([in_order(tests)]);
    all.all(|columns| columns.into_iter().eq(0..count))
}

fn counts(columns: &[usize], labels: &[usize], classes: usize) -> Vec<usize> {
    let of = |class| columns.iter().filter(|&&c| labels[c] == class).count();
    (0..classes).map(of).collect()
}

/// The largest number less the smallest.
fn spread(counts: impl Iterator<Item = usize> + Clone) -> usize {
    counts.clone().max().unwrap() - counts.min().unwrap()
}

fn labels() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0..5usize, 2..60)
}

#[test]
fn stratified_folds_keep_the_classes_shares() {
    let cases = (labels(), any::<prop::sample::Index>(), any::<u64>());
    for_all(cases, |(labels, k, seed)| {
        let k = 2 + k.index(labels.len() - 1);
        let folds = Split::stratified_folds(&labels, k, seed).unwrap();
        prop_assert!(folds.len() == k && are_folds(&folds, labels.len()));
        prop_assert!(spread(folds.iter().map(|fold| fold.test.len())) <= 1);
        let tested = folds.iter().map(|fold| counts(&fold.test, &labels, 5));
        for class in 0..5 {
            prop_assert!(spread(tested.clone().map(|own| own[class])) <= 1);
        }
        Ok(())
    });
}

#[test]
fn groups_stay_together() {
    let cases = (labels(), any::<prop::sample::Index>(), any::<u64>());
    for_all(cases, |(groups, k, seed)| {
        let mut distinct = in_order(groups.clone());
        distinct.dedup();
        prop_assume!(distinct.len() > 1);
        let k = 2 + k.index(distinct.len() - 1);
        let folds = Split::group_folds(&groups, k, seed).unwrap();
        prop_assert!(folds.len() == k && are_folds(&folds, groups.len()));
        let sizes = counts(&in_order((0..groups.len()).collect()), &groups, 5);
        let largest = *sizes.iter().max().unwrap();
        prop_assert!(spread(folds.iter().map(|fold| fold.test.len())) <= largest);
        for fold in folds {
            for &column in &fold.test {
                let seen = fold.train.iter().any(|&own| groups[own] == groups[column]);
                prop_assert!(!seen, "group {}", groups[column]);
            }
        }
        Ok(())
    });
}

#[test]
fn the_past_is_trained_on() {
    for (count, k) in [(3, 2), (7, 2), (10, 3), (100, 7), (5, 4)] {
        let folds = Split::time_folds(count, k).unwrap();
        let size = count / (k + 1);
        let mut end = count - k * size;
        for fold in &folds {
            assert!(fold.train.iter().copied().eq(0..end));
            assert!(fold.test.iter().copied().eq(end..end + size));
            end += size;
        }
        assert_eq!((folds.len(), end), (k, count));
    }
}

#[test]
fn three_parts_keep_the_classes_shares() {
    let cases = (
        prop::collection::vec(0..4usize, 12..90),
        0.1..0.4,
        0.1..0.4,
        any::<u64>(),
    );
    for_all(cases, |(labels, v, f, seed)| {
        let n = labels.len();
        let split = ThreeWaySplit::stratified(&labels, v, f, seed).unwrap();
        let parts = [&split.train[..], &split.validation, &split.test];
        prop_assert!(in_order(parts.concat()).into_iter().eq(0..n));
        let rounded = |share: f64| (share * n as f64).round() as usize;
        prop_assert_eq!(split.validation.len(), rounded(v));
        prop_assert_eq!(split.test.len(), rounded(f));
        let all = counts(&(0..n).collect::<Vec<_>>(), &labels, 4);
        let test = counts(&split.test, &labels, 4);
        let own = counts(&split.validation, &labels, 4);
        let share = split.validation.len() as f64 / (n - split.test.len()) as f64;
        for class in 0..4 {
            let expected = f * all[class] as f64;
            prop_assert!((test[class] as f64 - expected).abs() < 1.0 + 1e-9);
            let expected = share * (all[class] - test[class]) as f64;
            prop_assert!((own[class] as f64 - expected).abs() < 1.0 + 1e-9);
        }
        // The test part is that of a plain split.
        let plain = Split::stratified(&labels, f, seed).unwrap();
        prop_assert_eq!(split.test, plain.test);
        Ok(())
    });
}

#[test]
fn a_seed_decides() {
    let labels: Vec<usize> = (0..40).map(|i| i % 7).collect();
    let draw = |seed| {
        (
            Split::stratified_folds(&labels, 4, seed).unwrap(),
            Split::group_folds(&labels, 4, seed).unwrap(),
            ThreeWaySplit::stratified(&labels, 0.25, 0.25, seed).unwrap(),
        )
    };
    let (first, again, other) = (draw(1), draw(1), draw(2));
    assert_eq!(first, again);
    assert!(first.0 != other.0 && first.1 != other.1 && first.2 != other.2);
    // In random order, not by column, class or group.
    let sorted = |columns: &[usize]| columns.is_sorted_by_key(|&column| labels[column]);
    for fold in first.0.iter().chain(&first.1) {
        assert!(!fold.train.is_sorted() && !fold.test.is_sorted());
        assert!(!sorted(&fold.train));
    }
}

#[test]
fn wrong_options() {
    #[track_caller]
    fn check<R: std::fmt::Debug>(result: Result<R, Error>, text: &[&str]) {
        let error = result.unwrap_err().to_string();
        for part in text {
            assert!(error.contains(part), "{part:?}: {error}");
        }
    }
    let labels = [0, 0, 1, 1, 2];
    for k in [0, 1, 6] {
        let text = [format!("k is {k}"), "number of examples".into()];
        let text = [&text[0][..], &text[1]];
        check(Split::stratified_folds(&labels, k, 0), &text);
    }
    check(
        Split::group_folds(&labels, 4, 0),
        &["k is 4", "number of groups"],
    );
    check(
        Split::group_folds(&[3, 3], 2, 0),
        &["k is 2", "number of groups"],
    );
    check(
        Split::time_folds(4, 4),
        &["k is 4", "below the number of examples"],
    );
    check(Split::time_folds(4, 1), &["k is 1", "at least 2"]);
    let none = "at least one example";
    check(Split::stratified_folds(&[], 2, 0), &[none]);
    check(Split::group_folds(&[], 2, 0), &[none]);
    check(Split::time_folds(0, 2), &[none]);
    check(ThreeWaySplit::stratified(&[], 0.1, 0.1, 0), &[none]);
    for fraction in [0.0, -0.5, 1.0, f64::NAN, f64::INFINITY] {
        let text = format!("validation_fraction is {fraction}");
        let found = ThreeWaySplit::stratified(&labels, fraction, 0.2, 0);
        check(found, &[&text]);
        let text = format!("test_fraction is {fraction}");
        let found = ThreeWaySplit::stratified(&labels, 0.2, fraction, 0);
        check(found, &[&text]);
    }
    // Nothing would be left to train on.
    let found = ThreeWaySplit::stratified(&labels, 0.6, 0.4, 0);
    check(found, &["validation_fraction + test_fraction is 1"]);
    let huge = Split::time_folds(1 << 40, 1 << 39);
    assert!(matches!(huge, Err(Error::TooLarge { .. })), "{huge:?}");
}
