//! Cross entropy at logits whose exponentials no float holds.

use layerwise::{Loss, Pair, SoftmaxCrossEntropy, Write};

/// (L, ∂L/∂ẑ) of one example with two classes.
fn evaluate(target: [f64; 2], prediction: [f64; 2]) -> (f64, [f64; 2]) {
    let at = Pair::new(2, &target, &prediction);
    let (mut value, mut gradient, mut work) = ([0.0], [0.0; 2], [0.0; 2]);
    let wanted = Write::Set(&mut gradient[..]);
    SoftmaxCrossEntropy.evaluate(&at, &mut value, Write::Skip, wanted, &mut work);
    (value[0], gradient)
}

#[test]
fn no_spread_of_logits_overflows() {
    for prediction in [[0.0, 2000.0], [-2000.0, 0.0], [1e300, 1.5e300]] {
        let spread = prediction[1] - prediction[0];
        assert_eq!(evaluate([0.0, 1.0], prediction), (0.0, [0.0, 0.0]));
        assert_eq!(evaluate([1.0, 0.0], prediction), (spread, [-1.0, 1.0]));
        let swapped = [prediction[1], prediction[0]];
        assert_eq!(evaluate([1.0, 0.0], swapped), (0.0, [0.0, 0.0]));
        assert_eq!(evaluate([0.0, 1.0], swapped), (spread, [1.0, -1.0]));
    }
}
