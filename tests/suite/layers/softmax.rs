//! Columns turned into probabilities.

use layerwise::layer::Softmax;
use layerwise::{Error, Layer};

use super::checked::{Call, holds};
use crate::property::{Tested, generator, uniform};

in_both_scalars!(passes_every_check, columns_are_distributions);

fn passes_every_check<T: Tested>() {
    for shape in [[4, 1], [3, 2], [1, 3], [2, 5]] {
        holds::<T>(Softmax::new(shape).unwrap());
    }
}

/// Also for inputs whose exponentials overflow, and unchanged by a shift of a column.
fn columns_are_distributions<T: Tested>() {
    let layer = Softmax::new([3, 4]).unwrap();
    for size in [1.0, 100.0, 1e30] {
        let z = uniform::<T>(&mut generator(1), 24, size);
        let call = Call::new(&layer, &[], &z);
        for p in call.output.chunks_exact(3) {
            let sum: f64 = p.iter().map(|p| p.as_f64()).sum();
            assert!((sum - 1.0).abs() < T::ROUNDING, "{p:?}");
            assert!(p.iter().all(|&p| p >= T::zero()), "{p:?}");
        }
        let (d, _) = call.vjp(&z);
        assert!(d.iter().all(|d| d.is_finite()), "{d:?}");
    }
    let z = [0.0, 1.0, 2.0].map(T::of);
    let moved = z.map(|z| z + T::of(64.0));
    let layer = Softmax::new(3).unwrap();
    let [one, other] = [z, moved].map(|z| Call::new(&layer, &[], &z).output);
    assert_eq!(one, other);
}

/// ¼: at (½, ½), where the Jacobian is ½ on (1, −1)/√2.
#[test]
fn the_bound_is_attained() {
    let layer = Softmax::new(2).unwrap();
    let call = Call::<f64>::new(&layer, &[], &[3.0, 3.0]);
    let bound = call.bound().unwrap();
    assert!((0.25..0.25 + 1e-14).contains(&bound), "{bound}");
    assert_eq!(call.jvp(Some(&[1.0, -1.0]), None), [0.5, -0.5]);
}

#[test]
fn refuses_nothing_to_divide() {
    let error = Softmax::new([0, 3]).unwrap_err();
    assert!(matches!(error, Error::ZeroDimension { .. }), "{error}");
    assert!(Layer::<f64>::parameters(&Softmax::new(2).unwrap()).is_empty());
}
