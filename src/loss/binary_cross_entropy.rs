//! Cross entropy of independent binary units, on logits.

use super::units::{BLOCK, check_units, evaluate_functions, over_units, prediction_curvature};
use super::{Loss, Pair};
use crate::description::Description;
use crate::error::Error;
use crate::kernel::{Scalar, Write};
use crate::layer::Activation;

/// Cross entropy of d independent probabilities: L(y, x) = Σ_j ln(1 + e^(x_j)) − y_j x_j, where x
/// is the prediction (logits) and y_j ∈ \[0, 1\] the probability that unit j is on.
///
/// ∂L/∂x = σ(x) − y with σ(x) = 1 / (1 + e^(−x)); ∂L/∂y = −x. The curvature is the Gauss-Newton
/// part blockdiag(0, diag(σ(1 − σ))), whose norm is at most ¼. The target is fixed, because the
/// joint Hessian is indefinite: the loss can serve as L, but not as L_h. It is a sum over the
/// units, not a mean. It is computed as y ln(1 + e^(−x)) + (1 − y) ln(1 + e^x), so that no finite
/// logit overflows and a loss near 0 keeps its digits. Cox 1958.
///
/// # Examples
/// ```
/// use layerwise::kernel::Write;
/// use layerwise::loss::{BinaryCrossEntropy, Loss, Pair};
///
/// let at = Pair::new(2, &[1.0_f64, 0.0], &[40.0, -1000.0]);
/// let mut value = [0.0];
/// BinaryCrossEntropy.evaluate(&at, &mut value, Write::Skip, Write::Skip, &mut []);
/// assert_eq!(value, [(-40.0_f64).exp()]);
/// ```
#[doc(alias("logits", "BCEWithLogitsLoss"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BinaryCrossEntropy;

/// ln(1 + e^x), ln(1 + e^(−x)) and their derivatives σ(x), σ(−x).
pub(super) fn functions<T: Scalar>(x: &[T], [up, down, on, off]: [&mut [T]; 4]) {
    for ((up, down), &x) in up.iter_mut().zip(&mut *down).zip(x) {
        (*up, *down) = (x, -x);
    }
    T::activate(Activation::Softplus, up, Some(on));
    T::activate(Activation::Softplus, down, Some(off));
}

/// σ(x) σ(−x) for a block of x.
pub(super) fn variance<T: Scalar>(x: &[T], out: &mut [T]) {
    let mean = &mut [T::zero(); BLOCK][..x.len()];
    mean.copy_from_slice(x);
    T::activate(Activation::Sigmoid, mean, Some(out));
}

impl<T: Scalar> Loss<T> for BinaryCrossEntropy {
    fn is_sum_over_units(&self) -> bool {
        true
    }

    fn check_target(&self, dim: usize, target: &[T]) -> Result<(), Error> {
        let probability = |y| (0.0..=1.0).contains(&y);
        check_units(self, dim, target, probability, "from 0 to 1")
    }

    fn takes_logits(&self) -> bool {
        true
    }

    fn mean(&self, _dim: usize, predictions: &mut [T]) {
        T::activate(Activation::Sigmoid, predictions, None);
    }

    over_units!(
        self,
        evaluate_functions(
            functions,
            |y, _, [up, down, ..]| y * down + (T::one() - y) * up,
            // σ(x) − y, rewritten: the plain difference loses digits for probabilities near 1.
            |y, [_, _, on, off]| (T::one() - y) * on - y * off
        ),
        prediction_curvature(variance)
    );

    fn curvature_bound(&self, _parameters: &[T]) -> Option<T> {
        Some(T::of(0.25))
    }

    fn description(&self) -> Option<Description> {
        Some(Description::new("BinaryCrossEntropy"))
    }
}
