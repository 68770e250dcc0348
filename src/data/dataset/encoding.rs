//! Numbers of files as scalars and as targets.

use std::any::type_name;

use crate::check::{at_least_one, check_count};
use crate::error::Error;
use crate::kernel::Scalar;

/// How the target values of a file become z_T.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum TargetEncoding {
    /// Unchanged.
    #[default]
    Values,
    /// Each example has one value, its class 0, …, `classes` − 1, and z_T is the one-hot column of that
    /// class.
    OneHot {
        /// d_T, at least 1.
        classes: usize,
    },
}

impl TargetEncoding {
    /// d_T for targets of which a file has `values` values each.
    pub(super) fn dim(self, values: usize) -> Result<usize, Error> {
        let Self::OneHot { classes } = self else {
            return Ok(values);
        };
        at_least_one("TargetEncoding::OneHot::classes", classes as u64)?;
        check_count("values of a one-hot target", values == 1, 1, values)?;
        Ok(classes)
    }

    /// Writes value k of a target to the example's `column`, or says what the value must be.
    pub(super) fn write<T: Scalar>(self, column: &mut [T], k: usize, x: f64) -> Result<(), String> {
        let Self::OneHot { classes } = self else {
            column[k] = scaled(x, 1.0)?;
            return Ok(());
        };
        let class = x as usize;
        if class as f64 != x || class >= classes {
            return Err(format!("a class from 0 to {}", classes - 1));
        }
        column.fill(T::zero());
        column[class] = T::one();
        Ok(())
    }
}

/// A number of a file times `scale` as a scalar, or what the number must be.
pub(super) fn scaled<T: Scalar>(x: f64, scale: f64) -> Result<T, String> {
    let own = T::of(scale * x);
    if own.is_finite() {
        return Ok(own);
    }
    if !x.is_finite() {
        return Err("a finite number".into());
    }
    let name = type_name::<T>();
    let name = name.rsplit("::").next().unwrap_or(name);
    let expected = format!("a number that {name} can hold");
    Err(match scale == 1.0 {
        true => expected,
        false => format!("{expected} after multiplication by {scale:e}"),
    })
}
