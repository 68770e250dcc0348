//! The objectives as problems for argmin's optimisers.

use argmin::core::{ArgminFloat, CostFunction, Error as ArgminError, Gradient};

use super::{ComposedObjective, JointObjective, LocalObjective, Objective, TargetObjective};
use crate::error::Error;
use crate::kernel::Scalar;

/// φ(x), or +∞ if it is not finite, so that a line search can shorten its step.
fn cost<T: Scalar + ArgminFloat>(
    objective: &dyn Objective<T>,
    point: &[T],
) -> Result<T, ArgminError> {
    match objective.value(point) {
        Err(Error::NonFinite { .. }) => Ok(T::infinity()),
        other => Ok(other?),
    }
}

macro_rules! argmin_problem {
    ($($objective:ident),*) => {$(
        impl<T: Scalar + ArgminFloat> CostFunction for $objective<'_, T> {
            type Param = Vec<T>;
            type Output = T;

            fn cost(&self, point: &Vec<T>) -> Result<T, ArgminError> {
                cost(self, point)
            }
        }

        impl<T: Scalar + ArgminFloat> Gradient for $objective<'_, T> {
            type Param = Vec<T>;
            type Gradient = Vec<T>;

            fn gradient(&self, point: &Vec<T>) -> Result<Vec<T>, ArgminError> {
                Ok(Objective::gradient(self, point)?)
            }
        }
    )*};
}

argmin_problem!(
    LocalObjective,
    TargetObjective,
    JointObjective,
    ComposedObjective
);
