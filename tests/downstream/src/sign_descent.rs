//! An optimiser that looks at signs alone.

use layerwise::Scalar;
use layerwise::optimizer::{Optimizer, Step};

/// m ← (m + ḡ)/2, x ← x − η sign(m), ḡ the mean gradient.
#[derive(Debug, Clone, Copy)]
pub struct SignDescent(pub f64);

impl<T: Scalar> Optimizer<T> for SignDescent {
    fn slots(&self) -> usize {
        1
    }

    fn update(&self, step: Step, values: &mut [T], gradient: &[T], state: &mut [T]) {
        let rate = T::of(self.0 * step.factor);
        let factor = T::of(step.gradient_factor);
        for ((x, &g), mean) in values.iter_mut().zip(gradient).zip(state) {
            *mean = (*mean + factor * g) * T::of(0.5);
            *x -= rate * mean.signum();
        }
    }
}
