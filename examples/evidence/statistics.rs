//! Summary statistics of results.

use layerwise::nalgebra::DMatrix;

/// Mean and sample standard deviation (0 for a single value).
#[derive(Clone, Copy)]
pub struct Spread {
    pub mean: f64,
    pub sd: f64,
}

impl Spread {
    pub fn of(values: &[f64]) -> Self {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
        Self {
            mean,
            sd: (squares / (n - 1.0).max(1.0)).sqrt(),
        }
    }

    /// `mean ± sd` with `digits` decimal places.
    pub fn show(self, digits: usize) -> String {
        format!("{:.digits$} ± {:.digits$}", self.mean, self.sd)
    }
}

/// Linear centred kernel alignment of two representations of the same examples, d × n and d' × n,
/// in 0..=1: ‖X Yᵀ‖² / (‖X Xᵀ‖ ‖Y Yᵀ‖) after centring, or 0 if one is constant. Kornblith, Norouzi,
/// Lee & Hinton 2019.
pub fn linear_cka(x: &DMatrix<f64>, y: &DMatrix<f64>) -> f64 {
    let centred = |z: &DMatrix<f64>| {
        let mean = z.column_mean();
        let mut z = z.clone();
        for mut column in z.column_iter_mut() {
            column -= &mean;
        }
        z
    };
    let (x, y) = (centred(x), centred(y));
    let norm = |a: &DMatrix<f64>, b: &DMatrix<f64>| (a * b.transpose()).norm();
    let sizes = norm(&x, &x) * norm(&y, &y);
    if sizes > 0.0 {
        norm(&x, &y).powi(2) / sizes
    } else {
        0.0
    }
}

/// Cosine of the angle between two vectors; 0 if one of them is zero.
pub fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let norms = (dot(a, a) * dot(b, b)).sqrt();
    if norms > 0.0 { dot(a, b) / norms } else { 0.0 }
}

/// Prints a table in Markdown.
pub fn print_table(head: &[&str], rows: &[Vec<String>]) {
    let line = |cells: &[&str]| println!("| {} |", cells.join(" | "));
    line(head);
    println!("|{}", "---|".repeat(head.len()));
    for row in rows {
        line(&row.iter().map(String::as_str).collect::<Vec<_>>());
    }
    println!();
}

#[cfg(test)]
mod tests {
    use super::{Spread, cosine, linear_cka};
    use layerwise::nalgebra::DMatrix;

    #[test]
    fn spread_is_that_of_a_sample() {
        let spread = Spread::of(&[1.0, 3.0]);
        assert_eq!((spread.mean, spread.sd), (2.0, 2f64.sqrt()));
        assert_eq!(Spread::of(&[5.0]).show(1), "5.0 ± 0.0");
    }

    #[test]
    fn alignment_knows_rotations_and_scales_apart_from_noise() {
        let x = DMatrix::from_row_slice(2, 4, &[1.0, 2.0, -1.0, 0.5, 0.3, -0.7, 0.2, 1.0]);
        let turned =
            DMatrix::from_row_slice(2, 2, &[0.0, -3.0, 3.0, 0.0]) * &x + DMatrix::repeat(2, 4, 7.0);
        assert!((linear_cka(&x, &turned) - 1.0).abs() < 1e-12);
        // Two centred directions at a right angle.
        let row = |values: &[f64]| DMatrix::from_row_slice(1, 4, values);
        let (a, b) = (row(&[1.0, -1.0, 0.0, 0.0]), row(&[0.0, 0.0, 1.0, -1.0]));
        assert_eq!(linear_cka(&a, &b), 0.0);
        // By hand: the cosine of centred vectors, squared.
        let c = row(&[1.0, 0.0, -1.0, 0.0]);
        assert!((linear_cka(&a, &c) - 0.25).abs() < 1e-12);
        assert_eq!(linear_cka(&a, &DMatrix::repeat(1, 4, 2.0)), 0.0);
    }

    #[test]
    fn cosine_of_nothing_is_zero() {
        assert_eq!(cosine(&[0.0, 0.0], &[1.0, 2.0]), 0.0);
        assert!((cosine(&[1.0, 0.0], &[1.0, 1.0]) - 0.5f64.sqrt()).abs() < 1e-15);
    }
}
