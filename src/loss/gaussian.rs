//! Squared error weighted by precision, which is given or learned.

use super::units::{check_list, evaluate_residual, largest, numbers, residual_curvature};
use super::{Loss, Pair};
use crate::check::{check_length, not_negative, positive};
use crate::description::Description;
use crate::error::Error;
use crate::kernel::{Scalar, Write, pair_plus};
use crate::layer::ParameterGroup;

/// Negative log-likelihood of independent Gaussians with precision π:
/// L(z, ẑ) = ½ Σ_j \[ π_j r_j² − ln π_j \], r = z − ẑ. The constant ½ d ln 2π is left out.
///
/// ∂L/∂z = π ∘ r = −∂L/∂ẑ. The curvature is the Hessian [[Π, −Π], [−Π, Π]], Π = diag π; each
/// diagonal block has norm max π. Any target is allowed, and it may be trained. The loss is a sum
/// over the units, not a mean; π = 1 gives [`SquaredError`](crate::loss::SquaredError). Precision
/// weighting in predictive coding: Friston 2005; Bogacz 2017.
///
/// # Learned precision
/// The precisions may be the loss's own parameters, as φ = ln π, trained with those of the layer.
/// Then L(z, ẑ, φ) = ½ Σ_j \[ e^(φ_j) (r_j² + ε) − φ_j \] and ∂L/∂φ_j = ½ (π_j (r_j² + ε) − 1),
/// summed over the units if they share one φ. Over many examples, L is minimal at π_j = 1 / (mean
/// r_j² + ε), where the mean includes the units if they share one φ. The variance floor ε ≥ 0 keeps
/// π below 1/ε. Trained targets can close the gap r entirely, and with ε = 0 the precision would
/// then grow without bound. With trained targets, ε often decides rather than the data: expect π
/// near 1/ε.
///
/// In a circuit, φ is the last group of θ_t, named "log precision":
/// `circuit.parameters(t)[circuit.parameter_groups(t).last()?.range.clone()]`. It weights the
/// targets z_{t+1}.
///
/// # Examples
/// ```
/// use layerwise::kernel::Write;
/// use layerwise::loss::{Gaussian, Loss, Pair};
///
/// let loss = Gaussian::new(vec![4.0_f64, 1.0])?;
/// let at = Pair::new(2, &[1.0, 2.0], &[0.0, 0.0]);
/// let (mut value, mut gradient) = ([0.0], [0.0; 2]);
/// loss.evaluate(&at, &mut value, Write::Set(&mut gradient), Write::Skip, &mut []);
/// assert_eq!((value, gradient), ([2.0 - 2f64.ln() + 2.0], [4.0, 2.0]));
///
/// // Learned: at π = 4 and r² = ¼ the gradient in φ is 0.
/// let loss = Gaussian::learned(4.0_f64, 0.0)?;
/// let (mut phi, mut gradient, mut work) = ([0.0], [1.0], [0.0; 3]);
/// loss.initialize(1, &mut phi);
/// let at = Pair::new(1, &[0.5], &[0.0]).with_parameters(&phi);
/// loss.parameter_gradient(&at, &[1.0], Write::Set(&mut gradient), &mut work);
/// assert!(gradient[0].abs() < 1e-15);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Gaussian<T> {
    precision: Precision<T>,
}

#[derive(Debug, Clone, PartialEq)]
enum Precision<T> {
    /// π and its logarithms, one per unit or one for all.
    Given {
        values: Vec<T>,
        logarithms: Vec<T>,
    },
    Learned {
        initial: T,
        floor: T,
        shared: bool,
    },
}

/// The current π and φ = ln π, each with one entry per unit or one for all, and ε.
struct InUse<'a, T> {
    precision: &'a [T],
    log_precision: &'a [T],
    floor: T,
}

impl<T: Scalar> InUse<'_, T> {
    fn unit(&self, j: usize, r: T) -> [T; 3] {
        let (precision, log) = (of_unit(self.precision, j), of_unit(self.log_precision, j));
        let half = T::of(0.5);
        // Avoid r², which may overflow or underflow.
        let value = precision * r * (half * r) + half * (precision * self.floor - log);
        [value, precision * r, precision]
    }
}

impl<T: Scalar> Gaussian<T> {
    /// The loss with these precisions: one per unit, or a single entry for all units.
    ///
    /// Several precisions fix the dimension: `check_target` rejects any other dimension with
    /// [`Error::Length`].
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless every precision is above 0 and finite, [`Error::Length`] if
    /// there is none.
    pub fn new(precision: Vec<T>) -> Result<Self, Error> {
        check_list("Gaussian::precision", &precision, positive)?;
        let precision = Precision::Given {
            logarithms: precision.iter().map(|p| p.ln()).collect(),
            values: precision,
        };
        Ok(Self { precision })
    }

    /// The loss that learns one precision per unit, all starting at `initial_precision`, with the
    /// variance floor ε = `variance_floor`.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless the initial precision is above 0 and finite, and the
    /// variance floor at least 0 and finite.
    pub fn learned(initial_precision: T, variance_floor: T) -> Result<Self, Error> {
        positive("Gaussian::initial_precision", initial_precision.as_f64())?;
        not_negative("Gaussian::variance_floor", variance_floor.as_f64())?;
        let precision = Precision::Learned {
            initial: initial_precision,
            floor: variance_floor,
            shared: false,
        };
        Ok(Self { precision })
    }

    /// The loss that learns one precision for all units of its layer.
    ///
    /// # Errors
    /// The errors of [`Gaussian::learned`].
    pub fn learned_shared(initial_precision: T, variance_floor: T) -> Result<Self, Error> {
        let mut loss = Self::learned(initial_precision, variance_floor)?;
        if let Precision::Learned { shared, .. } = &mut loss.precision {
            *shared = true;
        }
        Ok(loss)
    }

    /// The number of the loss's own parameters for `dim` units.
    fn count(&self, dim: usize) -> usize {
        match self.precision {
            Precision::Given { .. } => 0,
            Precision::Learned { shared: true, .. } => 1,
            Precision::Learned { shared: false, .. } => dim,
        }
    }

    /// The precisions given by φ; `work`, as long as φ, holds them if they are learned.
    fn in_use<'a>(&'a self, parameters: &'a [T], work: &'a mut [T]) -> InUse<'a, T> {
        match &self.precision {
            Precision::Given { values, logarithms } => InUse {
                precision: values,
                log_precision: logarithms,
                floor: T::zero(),
            },
            &Precision::Learned { floor, .. } => {
                let precision = &mut work[..parameters.len()];
                for (precision, phi) in precision.iter_mut().zip(parameters) {
                    *precision = phi.exp();
                }
                InUse {
                    precision,
                    log_precision: parameters,
                    floor,
                }
            }
        }
    }
}

/// The entry of unit j in a list that has one entry per unit or one for all.
fn of_unit<T: Scalar>(list: &[T], j: usize) -> T {
    list[if list.len() == 1 { 0 } else { j }]
}

impl<T: Scalar> Loss<T> for Gaussian<T> {
    fn is_sum_over_units(&self) -> bool {
        true
    }

    fn parameters(&self, dim: usize) -> Vec<ParameterGroup> {
        let count = self.count(dim);
        let group = ParameterGroup::new("log precision", [count]);
        Vec::from_iter((count > 0).then_some(group))
    }

    fn initialize(&self, _dim: usize, parameters: &mut [T]) {
        if let Precision::Learned { initial, .. } = self.precision {
            parameters.fill(initial.ln());
        }
    }

    fn check_target(&self, dim: usize, _target: &[T]) -> Result<(), Error> {
        match &self.precision {
            Precision::Given { values, .. } if values.len() > 1 => {
                check_length("precisions of a Gaussian loss", values, dim)
            }
            _ => Ok(()),
        }
    }

    fn free_target(&self) -> bool {
        true
    }

    fn scratch(&self, dim: usize, _batch: usize) -> usize {
        // π, and the sums of its gradient with their rounding errors.
        self.count(dim).saturating_mul(3)
    }

    fn evaluate(
        &self,
        at: &Pair<'_, T>,
        values: &mut [T],
        d_target: Write<'_, T>,
        d_prediction: Write<'_, T>,
        work: &mut [T],
    ) {
        let now = self.in_use(at.parameters, work);
        evaluate_residual(at, values, d_target, d_prediction, 2, |j, r| now.unit(j, r));
    }

    fn parameter_gradient(
        &self,
        at: &Pair<'_, T>,
        factors: &[T],
        d_parameters: Write<'_, T>,
        work: &mut [T],
    ) {
        let count = at.parameters.len();
        if count == 0 || d_parameters.is_skip() {
            return;
        }
        let [half, four] = [0.5, 4.0].map(T::of);
        let (sums, work) = work.split_at_mut(count);
        let (lost, work) = work.split_at_mut(count);
        let now = self.in_use(at.parameters, work);
        sums.fill(T::zero());
        lost.fill(T::zero());
        let columns = at.target.chunks_exact(at.dim);
        let columns = columns.zip(at.prediction.chunks_exact(at.dim));
        for (&factor, (z, estimate)) in factors.iter().zip(columns) {
            for j in 0..at.dim {
                // Half the residual, which is finite where the residual may overflow.
                let r = half * z[j] - half * estimate[j];
                let precision = of_unit(now.precision, j);
                let excess = precision * r * r * four + (precision * now.floor - T::one());
                let k = if count == 1 { 0 } else { j };
                (sums[k], lost[k]) = pair_plus((sums[k], lost[k]), factor * half * excess);
            }
        }
        d_parameters.each(|k| sums[k]);
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
        let now = self.in_use(at.parameters, work);
        let v = [v_target, v_prediction];
        residual_curvature(at, v, out_target, out_prediction, |j, r| now.unit(j, r));
    }

    fn curvature_bound(&self, parameters: &[T]) -> Option<T> {
        match &self.precision {
            Precision::Given { values, .. } => Some(largest(values)),
            Precision::Learned { .. } => {
                let phi = parameters.iter().copied().reduce(|a, b| a.max(b))?;
                Some(phi.exp())
            }
        }
    }

    fn description(&self) -> Option<Description> {
        let own = Description::new("Gaussian");
        Some(match &self.precision {
            Precision::Given { values, .. } => own.with("precision", numbers(values)),
            &Precision::Learned {
                initial,
                floor,
                shared,
            } => own
                .with("initial precision", initial.as_f64())
                .with("variance floor", floor.as_f64())
                .with("shared", shared),
        })
    }
}
