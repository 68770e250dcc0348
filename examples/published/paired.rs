//! Differences between two schemes that ran on the same seeds.

/// Student's t at 97.5 %, for 1, 2, … degrees of freedom.
const STUDENT: [f64; 9] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262,
];

/// The mean difference of pairs, with half the width of its 95 % interval; infinitely wide for one pair.
pub fn difference(ours: &[f64], theirs: &[f64]) -> (f64, f64) {
    let pairs = ours.iter().zip(theirs);
    let all: Vec<f64> = pairs.map(|(a, b)| a - b).collect();
    let n = all.len() as f64;
    let mean = all.iter().sum::<f64>() / n;
    let squares: f64 = all.iter().map(|own| (own - mean).powi(2)).sum();
    let freedom = all.len() - 1;
    let half = match freedom {
        0 => f64::INFINITY,
        // Beyond the table, a little too wide.
        _ => STUDENT[freedom.min(STUDENT.len()) - 1] * (squares / (freedom as f64 * n)).sqrt(),
    };
    (mean, half)
}

#[cfg(test)]
mod tests {
    use super::difference;

    #[test]
    fn what_pairs_share_cancels() {
        let (mean, half) = difference(&[91.0, 95.0, 93.0], &[90.0, 93.0, 93.0]);
        assert!((mean - 1.0).abs() < 1e-12);
        // sd 1, three pairs: 4.303/√3.
        assert!((half - 4.303 / 3f64.sqrt()).abs() < 1e-12);
        assert_eq!(difference(&[2.0], &[1.0]), (1.0, f64::INFINITY));
    }
}
