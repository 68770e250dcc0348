//! Label smoothing for any loss.

use super::cross_entropy::check_distributions;
use super::units::{check_units, inner};
use super::{Loss, Pair};
use crate::check::below_one;
use crate::description::Description;
use crate::error::Error;
use crate::kernel::{Scalar, Write};
use crate::layer::ParameterGroup;

/// A loss with targets mixed with the uniform distribution: L(y′, x), where L is the inner loss.
/// With [`LabelSmoothing::new`], y′ = (1 − ε) y + ε/d for a distribution y over d classes. With
/// [`LabelSmoothing::binary`], y′_j = (1 − ε) y_j + ε/2 for every unit j of its own, y_j ∈ \[0, 1\].
///
/// ∂/∂y is 1 − ε times the inner gradient at y′, and ∂/∂x is the inner gradient. The curvature is
/// blockdiag(0, B), where B is the prediction's block of the inner loss at y′; the bound is that of
/// the inner loss. Targets must be distributions, or from 0 to 1 in every unit for `binary`, and the
/// inner loss must accept them. They are data and cannot be trained: the loss can serve as L, but
/// not as L_h, whatever the inner loss is. The scaling is that of the inner loss. Szegedy et al.
/// 2016.
///
/// [`ClassWeights`](crate::loss::ClassWeights) around this loss weight by the original label;
/// inside it, they weight by the smoothed label.
///
/// # Examples
/// ```
/// use layerwise::kernel::Write;
/// use layerwise::loss::{LabelSmoothing, Loss, Pair, SoftmaxCrossEntropy};
///
/// let loss = LabelSmoothing::new(SoftmaxCrossEntropy, 0.5)?;
/// let at = Pair::new(2, &[1.0_f64, 0.0], &[0.0, 0.0]);
/// let (mut value, mut gradient) = ([0.0], [0.0; 2]);
/// let mut work = vec![0.0; Loss::<f64>::scratch(&loss, 2, 1)];
/// loss.evaluate(&at, &mut value, Write::Skip, Write::Set(&mut gradient), &mut work);
/// assert_eq!(gradient, [-0.25, 0.25]);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LabelSmoothing<L> {
    loss: L,
    epsilon: f64,
    over: Over,
}

/// What the uniform distribution is over.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Over {
    /// The classes, one per unit.
    Classes,
    /// Both values of every unit.
    Units,
}

impl<L> LabelSmoothing<L> {
    /// The loss with targets mixed with a fraction `epsilon` of the uniform distribution.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless `epsilon` is at least 0 and below 1.
    pub fn new(loss: L, epsilon: f64) -> Result<Self, Error> {
        Self::over(loss, epsilon, Over::Classes)
    }

    /// The loss with every unit's target mixed with a fraction `epsilon` of ½, for independent
    /// binary units.
    ///
    /// # Errors
    /// Those of [`LabelSmoothing::new`].
    ///
    /// # Examples
    /// ```
    /// use layerwise::kernel::Write;
    /// use layerwise::loss::{BinaryCrossEntropy, LabelSmoothing, Loss, Pair};
    ///
    /// let loss = LabelSmoothing::binary(BinaryCrossEntropy, 0.5)?;
    /// let at = Pair::new(2, &[1.0_f64, 1.0], &[0.0, 0.0]);
    /// let (mut value, mut gradient) = ([0.0], [0.0; 2]);
    /// let mut work = vec![0.0; Loss::<f64>::scratch(&loss, 2, 1)];
    /// loss.evaluate(&at, &mut value, Write::Skip, Write::Set(&mut gradient), &mut work);
    /// assert_eq!(gradient, [-0.25, -0.25]);
    /// # Ok::<(), layerwise::Error>(())
    /// ```
    pub fn binary(loss: L, epsilon: f64) -> Result<Self, Error> {
        Self::over(loss, epsilon, Over::Units)
    }

    fn over(loss: L, epsilon: f64, over: Over) -> Result<Self, Error> {
        below_one("LabelSmoothing::epsilon", epsilon)?;
        Ok(Self {
            loss,
            epsilon,
            over,
        })
    }

    fn kept<T: Scalar>(&self) -> T {
        T::of(1.0 - self.epsilon)
    }

    /// The same point with target y′, and the rest of the work memory.
    fn smoothed<'a, T: Scalar>(
        &self,
        at: &Pair<'a, T>,
        work: &'a mut [T],
    ) -> (Pair<'a, T>, &'a mut [T]) {
        let (target, rest) = work.split_at_mut(at.target.len());
        let outcomes = match self.over {
            Over::Classes => at.dim,
            Over::Units => 2,
        };
        let (kept, floor) = (self.kept::<T>(), T::of(self.epsilon / outcomes as f64));
        for (smooth, &y) in target.iter_mut().zip(at.target) {
            *smooth = kept * y + floor;
        }
        (Pair { target, ..*at }, rest)
    }
}

impl<T: Scalar, L: Loss<T>> Loss<T> for LabelSmoothing<L> {
    fn parameters(&self, dim: usize) -> Vec<ParameterGroup> {
        self.loss.parameters(dim)
    }

    fn initialize(&self, dim: usize, parameters: &mut [T]) {
        self.loss.initialize(dim, parameters);
    }

    fn check_target(&self, dim: usize, target: &[T]) -> Result<(), Error> {
        self.loss.check_target(dim, target)?;
        match self.over {
            Over::Classes => check_distributions(self, dim, target),
            Over::Units => {
                let probability = |y| (0.0..=1.0).contains(&y);
                check_units(self, dim, target, probability, "from 0 to 1")
            }
        }
    }

    fn is_sum_over_units(&self) -> bool {
        self.loss.is_sum_over_units()
    }

    fn takes_logits(&self) -> bool {
        self.loss.takes_logits()
    }

    fn positions(&self) -> usize {
        self.loss.positions()
    }

    fn mean(&self, dim: usize, predictions: &mut [T]) {
        self.loss.mean(dim, predictions);
    }

    fn scratch(&self, dim: usize, batch: usize) -> usize {
        // y′, and the inner gradient in it.
        let own = dim.saturating_mul(batch).saturating_mul(2);
        own.saturating_add(self.loss.scratch(dim, batch))
    }

    fn evaluate(
        &self,
        at: &Pair<'_, T>,
        values: &mut [T],
        d_target: Write<'_, T>,
        d_prediction: Write<'_, T>,
        work: &mut [T],
    ) {
        let (smoothed, rest) = self.smoothed(at, work);
        let (gradient, rest) = rest.split_at_mut(at.target.len());
        let to_gradient = inner(&d_target, gradient);
        self.loss
            .evaluate(&smoothed, values, to_gradient, d_prediction, rest);
        let kept = self.kept::<T>();
        d_target.each(|i| kept * gradient[i]);
    }

    fn parameter_gradient(
        &self,
        at: &Pair<'_, T>,
        factors: &[T],
        d_parameters: Write<'_, T>,
        work: &mut [T],
    ) {
        let (smoothed, rest) = self.smoothed(at, work);
        self.loss
            .parameter_gradient(&smoothed, factors, d_parameters, rest);
    }

    fn curvature(
        &self,
        at: &Pair<'_, T>,
        _v_target: Option<&[T]>,
        v_prediction: Option<&[T]>,
        out_target: Write<'_, T>,
        out_prediction: Write<'_, T>,
        work: &mut [T],
    ) {
        out_target.each(|_| T::zero());
        let (smoothed, rest) = self.smoothed(at, work);
        let none = Write::Skip;
        self.loss
            .curvature(&smoothed, None, v_prediction, none, out_prediction, rest);
    }

    fn curvature_bound(&self, parameters: &[T]) -> Option<T> {
        self.loss.curvature_bound(parameters)
    }

    fn description(&self) -> Option<Description> {
        let own = Description::new("LabelSmoothing")
            .with("epsilon", self.epsilon)
            .with(
                "over",
                match self.over {
                    Over::Classes => "classes",
                    Over::Units => "units",
                },
            );
        Some(own.with("loss", self.loss.description()?))
    }
}
