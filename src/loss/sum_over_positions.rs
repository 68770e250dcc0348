//! One loss at every position of a sequence.

use super::{Loss, Pair};
use crate::check::option;
use crate::description::Description;
use crate::error::Error;
use crate::kernel::{Scalar, Sum, Write};
use crate::layer::{ParameterGroup, check_dimension};

/// A loss at each of P positions, summed: Σ_p L(z_p, ẑ_p), where L is the inner loss and z_p, ẑ_p are the
/// p-th of P equal parts of target and prediction.
///
/// It is for outputs of the shape `[channels, length]`, whose columns are the positions, such as the logits of
/// every token of a sequence ([`PositionWise`](crate::layer::PositionWise)). With
/// [`SoftmaxCrossEntropy`](crate::loss::SoftmaxCrossEntropy) it is PyTorch's `CrossEntropyLoss` of a sequence,
/// with `reduction="sum"`.
///
/// Gradients and curvature are those of the inner loss in every part, and the curvature has no blocks that
/// couple parts: its bound is that of the inner loss. All positions share the inner loss's parameters. The
/// target can be free if that of the inner loss can. The scaling is that of the inner loss at one position:
/// a sum over positions, not a mean.
///
/// [`DecoupledCircuit::predict_proba`](crate::DecoupledCircuit::predict_proba) gives the means of every
/// position, and [`predict_labels`](crate::DecoupledCircuit::predict_labels) the class of every position. To compute
/// class metrics from predictions, reshape them to one column per position:
///
/// ```
/// use layerwise::prelude::*;
///
/// // Three classes at each of two positions, of one sequence: predictions and one-hot labels.
/// let (outputs, y) = (DMatrix::from_vec(6, 1, vec![0.1, 2.0, 0.3, 1.5, 0.2, 0.4]), [1, 2]);
/// let by_position = DMatrix::from_column_slice(3, outputs.len() / 3, outputs.as_slice());
/// assert_eq!(metrics::labels(&by_position), [1, 0]);
/// assert_eq!(metrics::accuracy(&y[..], &by_position)?, 0.5);
/// # Ok::<(), layerwise::Error>(())
/// ```
///
/// P must divide the dimension: [`Loss::check_target`] rejects any other dimension with
/// [`Error::InvalidOption`].
///
/// # Examples
/// ```
/// use layerwise::kernel::Write;
/// use layerwise::loss::{Loss, Pair, SoftmaxCrossEntropy, SumOverPositions};
///
/// // Two tokens of two classes each.
/// let loss = SumOverPositions::new(2, SoftmaxCrossEntropy)?;
/// let at = Pair::new(4, &[1.0_f64, 0.0, 0.0, 1.0], &[0.0; 4]);
/// let (mut value, mut gradient) = ([0.0], [0.0; 4]);
/// let mut work = vec![0.0; Loss::<f64>::scratch(&loss, 4, 1)];
/// loss.evaluate(&at, &mut value, Write::Skip, Write::Set(&mut gradient), &mut work);
/// assert!((value[0] - 4f64.ln()).abs() < 1e-15);
/// assert_eq!(gradient, [-0.5, 0.5, 0.5, -0.5]);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[doc(alias("token", "sequence", "CrossEntropyLoss"))]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SumOverPositions<L> {
    positions: usize,
    loss: L,
}

impl<L> SumOverPositions<L> {
    /// The sum of `loss` over this many positions.
    ///
    /// # Errors
    /// [`Error::ZeroDimension`] for 0 positions.
    pub fn new(positions: usize, loss: L) -> Result<Self, Error> {
        check_dimension("the number of positions of a loss", positions)?;
        Ok(Self { positions, loss })
    }

    /// The units of a position.
    fn units(&self, dim: usize) -> usize {
        dim / self.positions
    }

    /// The same point with one column per position.
    fn by_position<'a, T>(&self, at: &Pair<'a, T>) -> Pair<'a, T> {
        let dim = self.units(at.dim);
        Pair { dim, ..*at }
    }
}

impl<T: Scalar, L: Loss<T>> Loss<T> for SumOverPositions<L> {
    fn parameters(&self, dim: usize) -> Vec<ParameterGroup> {
        self.loss.parameters(self.units(dim))
    }

    fn initialize(&self, dim: usize, parameters: &mut [T]) {
        self.loss.initialize(self.units(dim), parameters);
    }

    fn check_target(&self, dim: usize, target: &[T]) -> Result<(), Error> {
        let fits = dim.is_multiple_of(self.positions);
        let allowed = format!("a divisor of the {dim} outputs");
        let name = "SumOverPositions::positions";
        option(name, self.positions as f64, fits, allowed)?;
        let checked = self.loss.check_target(self.units(dim), target);
        checked.map_err(|error| match error {
            Error::TargetDomain {
                loss,
                column,
                reason,
            } => Error::TargetDomain {
                loss,
                column: column / self.positions,
                reason: format!("at position {}, {reason}", column % self.positions),
            },
            other => other,
        })
    }

    fn free_target(&self) -> bool {
        self.loss.free_target()
    }

    fn is_squared_error(&self) -> bool {
        self.loss.is_squared_error()
    }

    fn takes_logits(&self) -> bool {
        self.loss.takes_logits()
    }

    fn is_sum_over_units(&self) -> bool {
        self.loss.is_sum_over_units()
    }

    fn positions(&self) -> usize {
        self.positions.saturating_mul(self.loss.positions())
    }

    fn mean(&self, dim: usize, predictions: &mut [T]) {
        self.loss.mean(self.units(dim), predictions);
    }

    fn scratch(&self, dim: usize, batch: usize) -> usize {
        // One number per position: a value or a factor.
        let columns = self.positions.saturating_mul(batch);
        columns.saturating_add(self.loss.scratch(self.units(dim), columns))
    }

    fn evaluate(
        &self,
        at: &Pair<'_, T>,
        values: &mut [T],
        d_target: Write<'_, T>,
        d_prediction: Write<'_, T>,
        work: &mut [T],
    ) {
        let (own, rest) = work.split_at_mut(self.positions * values.len());
        self.loss
            .evaluate(&self.by_position(at), own, d_target, d_prediction, rest);
        for (value, own) in values.iter_mut().zip(own.chunks_exact(self.positions)) {
            *value = Sum::of(own.iter().copied());
        }
    }

    fn parameter_gradient(
        &self,
        at: &Pair<'_, T>,
        factors: &[T],
        d_parameters: Write<'_, T>,
        work: &mut [T],
    ) {
        let (own, rest) = work.split_at_mut(self.positions * factors.len());
        for (own, &factor) in own.chunks_exact_mut(self.positions).zip(factors) {
            own.fill(factor);
        }
        self.loss
            .parameter_gradient(&self.by_position(at), own, d_parameters, rest);
    }

    fn curvature(
        &self,
        at: &Pair<'_, T>,
        v_target: Option<&[T]>,
        v_prediction: Option<&[T]>,
        out_target: Write<'_, T>,
        out_prediction: Write<'_, T>,
        work: &mut [T],
    ) {
        let at = self.by_position(at);
        self.loss.curvature(
            &at,
            v_target,
            v_prediction,
            out_target,
            out_prediction,
            work,
        );
    }

    fn curvature_bound(&self, parameters: &[T]) -> Option<T> {
        self.loss.curvature_bound(parameters)
    }

    fn description(&self) -> Option<Description> {
        let own = Description::new("SumOverPositions").with("positions", self.positions);
        Some(own.with("loss", self.loss.description()?))
    }
}
