//! An objective.

use layerwise::energy::Workspace;
use layerwise::objective::Objective;
use layerwise::{Error, Scalar};

/// φ(x, y) = (1 − x)² + 100 (y − x²)².
#[derive(Debug, Clone, Copy)]
pub struct Rosenbrock;

impl<T: Scalar> Objective<T> for Rosenbrock {
    fn dimension(&self) -> usize {
        2
    }

    fn point(&self) -> Vec<T> {
        vec![T::of(-1.2), T::one()]
    }

    fn evaluate(
        &self,
        point: &[T],
        gradient: Option<&mut [T]>,
        _: &mut Workspace<T>,
    ) -> Result<T, Error> {
        let &[x, y] = point else {
            return Err(Error::Length {
                what: "point".to_owned(),
                expected: 2,
                found: point.len(),
            });
        };
        let (left, bend) = (T::one() - x, y - x * x);
        if let Some([dx, dy]) = gradient {
            *dx = -(left + left) - T::of(400.0) * x * bend;
            *dy = T::of(200.0) * bend;
        }
        Ok(left * left + T::of(100.0) * bend * bend)
    }
}
