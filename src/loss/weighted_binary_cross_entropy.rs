//! Cross entropy of independent binary units, with a weight for the positive class of each.

use super::binary_cross_entropy::{functions, variance};
use super::units::{BLOCK, check_list, check_units, in_prediction, largest, numbers};
use super::{Loss, Pair};
use crate::check::{check_length, not_negative};
use crate::description::Description;
use crate::error::Error;
use crate::kernel::{Scalar, Sum, Write};
use crate::layer::Activation;

/// [`BinaryCrossEntropy`](crate::loss::BinaryCrossEntropy) with one weight per unit for the positive
/// class: L(y, x) = Σ_j w_j y_j ln(1 + e^(−x_j)) + (1 − y_j) ln(1 + e^(x_j)), where x is the
/// prediction (logits) and y_j ∈ \[0, 1\] the probability that unit j is on.
///
/// ∂L/∂x = (1 − y) σ(x) − w y σ(−x); ∂L/∂y = w ln(1 + e^(−x)) − ln(1 + e^x). The curvature is the
/// Gauss-Newton part blockdiag(0, diag((w y + 1 − y) σ(1 − σ))), whose norm is at most
/// ¼ max(1, max w). The target is fixed: the loss can serve as L, but not as L_h. It is a sum over
/// the units, not a mean, and weights are not normalised. It is `BCEWithLogitsLoss(pos_weight=w,
/// reduction="sum")` of PyTorch.
///
/// With w_j = (negative examples)/(positive examples) of unit j, both classes weigh the same.
/// [`mean`](Loss::mean) is σ(x), as without weights. It then estimates the probability among
/// examples weighted in this way, w p / (w p + 1 − p) for a true probability p.
///
/// The number of weights fixes the dimension: `check_target` rejects any other dimension with
/// [`Error::Length`].
///
/// # Examples
/// ```
/// use layerwise::kernel::Write;
/// use layerwise::loss::{Loss, Pair, WeightedBinaryCrossEntropy};
///
/// let loss = WeightedBinaryCrossEntropy::new(vec![3.0_f64, 3.0])?;
/// let at = Pair::new(2, &[1.0, 0.0], &[0.0, 0.0]);
/// let (mut value, mut gradient) = ([0.0], [0.0; 2]);
/// loss.evaluate(&at, &mut value, Write::Skip, Write::Set(&mut gradient), &mut []);
/// assert!((value[0] - 4.0 * 2f64.ln()).abs() < 1e-15);
/// assert_eq!(gradient, [-1.5, 0.5]);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[doc(alias("pos_weight", "BCEWithLogitsLoss", "imbalanced"))]
#[derive(Debug, Clone, PartialEq)]
pub struct WeightedBinaryCrossEntropy<T> {
    weights: Vec<T>,
}

impl<T: Scalar> WeightedBinaryCrossEntropy<T> {
    /// The loss with these weights of the positive class, one per unit.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a weight that is negative or not finite, [`Error::Length`] if
    /// there are no weights.
    pub fn new(weights: Vec<T>) -> Result<Self, Error> {
        let name = "WeightedBinaryCrossEntropy::weights";
        check_list(name, &weights, not_negative)?;
        Ok(Self { weights })
    }

    /// Calls `each` with the range of every block of units and its weights: a block is a part of
    /// one column.
    fn blocks(&self, at: &Pair<'_, T>, mut each: impl FnMut(std::ops::Range<usize>, &[T])) {
        for column in 0..at.examples() {
            for start in (0..at.dim).step_by(BLOCK) {
                let units = start..at.dim.min(start + BLOCK);
                let first = column * at.dim;
                each(first + units.start..first + units.end, &self.weights[units]);
            }
        }
    }
}

impl<T: Scalar> Loss<T> for WeightedBinaryCrossEntropy<T> {
    fn is_sum_over_units(&self) -> bool {
        true
    }

    fn check_target(&self, dim: usize, target: &[T]) -> Result<(), Error> {
        check_length("weights of the positive class", &self.weights, dim)?;
        let probability = |y| (0.0..=1.0).contains(&y);
        check_units(self, dim, target, probability, "from 0 to 1")
    }

    fn takes_logits(&self) -> bool {
        true
    }

    fn mean(&self, _dim: usize, predictions: &mut [T]) {
        T::activate(Activation::Sigmoid, predictions, None);
    }

    fn evaluate(
        &self,
        at: &Pair<'_, T>,
        values: &mut [T],
        mut d_target: Write<'_, T>,
        mut d_prediction: Write<'_, T>,
        _work: &mut [T],
    ) {
        let mut buffers = [[T::zero(); BLOCK]; 4];
        let mut sum = Sum::zero();
        self.blocks(at, |block, weights| {
            let y = &at.target[block.clone()];
            let results = buffers.each_mut().map(|b| &mut b[..y.len()]);
            functions(&at.prediction[block.clone()], results);
            let [up, down, on, off] = &buffers;
            let no = |k: usize| T::one() - y[k];
            sum.add_terms(0..y.len(), |k| weights[k] * y[k] * down[k] + no(k) * up[k]);
            if block.end % at.dim == 0 {
                let done = std::mem::replace(&mut sum, Sum::zero());
                values[block.end / at.dim - 1] = done.value();
            }
            let of_target = d_target.part(block.clone());
            of_target.each(|k| weights[k] * down[k] - up[k]);
            let of_prediction = d_prediction.part(block);
            of_prediction.each(|k| no(k) * on[k] - weights[k] * y[k] * off[k]);
        });
    }

    fn curvature(
        &self,
        at: &Pair<'_, T>,
        v_target: Option<&[T]>,
        v_prediction: Option<&[T]>,
        out_target: Write<'_, T>,
        mut out_prediction: Write<'_, T>,
        _work: &mut [T],
    ) {
        let v = [v_target, v_prediction];
        let Some(v) = in_prediction(v, out_target, &mut out_prediction) else {
            return;
        };
        let mut buffer = [T::zero(); BLOCK];
        self.blocks(at, |block, weights| {
            let (y, v) = (&at.target[block.clone()], &v[block.clone()]);
            let spread = &mut buffer[..y.len()];
            variance(&at.prediction[block.clone()], spread);
            let product = |k: usize| (weights[k] * y[k] + (T::one() - y[k])) * spread[k] * v[k];
            out_prediction.part(block).each(product);
        });
    }

    fn curvature_bound(&self, _parameters: &[T]) -> Option<T> {
        Some(T::of(0.25) * largest(&self.weights).max(T::one()))
    }

    fn description(&self) -> Option<Description> {
        let own = Description::new("WeightedBinaryCrossEntropy");
        Some(own.with("weights", numbers(&self.weights)))
    }
}
