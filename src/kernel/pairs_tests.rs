use super::*;

#[test]
fn a_pair_counts_far_beyond_the_digits_of_one_number() {
    let mut pairs = [16_777_216.0_f32, 0.1, 0.0, 0.0];
    for _ in 0..5 {
        add_to_pairs(&mut pairs, &[1.0, 1e-9]);
    }
    assert_eq!(f64::from(pairs[0]) + f64::from(pairs[2]), 16_777_221.0);
    let sum = f64::from(pairs[1]) + f64::from(pairs[3]);
    assert!((sum - f64::from(0.1_f32) - 5e-9).abs() < 1e-14);
    assert_eq!(of_pair(&pairs, 1), 0.1_f32 + 5e-9);
    // Divide by 3 twice, then multiply by 9.
    for factor in [1.0 / 3.0, 1.0 / 3.0, 9.0] {
        scale_pairs(&mut pairs, factor);
    }
    let third = f64::from(1.0_f32 / 3.0);
    let expected = 16_777_221.0 * third * third * 9.0;
    let found = f64::from(pairs[0]) + f64::from(pairs[2]);
    assert!((found / expected - 1.0).abs() < 1e-13, "{found}");
    add_to_pairs(&mut pairs, &[f32::INFINITY, f32::NAN]);
    assert!(!of_pair(&pairs, 0).is_finite() && !of_pair(&pairs, 1).is_finite());
}
