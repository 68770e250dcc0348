//! Lines and bands.

use std::iter::zip;

use crate::check::check_length;
use crate::error::{Error, Unplottable};

use super::axis::{Axis, Kind};

/// A named line through points in their order. A point that is not finite is a gap.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
    /// One for each point, or none.
    pub(super) deviations: Vec<f64>,
}

impl Line {
    /// A line through points (x, y).
    pub fn new(name: impl Into<String>, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        Self {
            name: name.into(),
            points: points.into_iter().collect(),
            deviations: Vec::new(),
        }
    }

    /// A band from y − sd to y + sd, with one sd for each point. A logarithmic axis cuts it off
    /// where y − sd is not above 0.
    ///
    /// # Errors
    /// [`Error::Length`].
    pub fn with_deviations(mut self, deviations: Vec<f64>) -> Result<Self, Error> {
        check_length("standard deviations", &deviations, self.points.len())?;
        self.deviations = deviations;
        Ok(self)
    }

    /// The edges of the line's own band.
    pub(super) fn edges(&self) -> impl Iterator<Item = (f64, [f64; 2])> {
        zip(&self.points, &self.deviations).map(|(&(x, y), sd)| (x, [y - sd, y + sd]))
    }

    pub(super) fn check(&self, x: &Axis, y: &Axis) -> Result<(), Error> {
        check(&self.name, [x, y], self.points.iter().copied())
    }
}

/// A grey area behind the lines, such as the range of other results.
#[derive(Debug, Clone, PartialEq)]
pub struct Band {
    pub(super) name: String,
    pub(super) edges: Vec<(f64, [f64; 2])>,
}

impl Band {
    /// A band through (x, \[low, high\]).
    pub fn new(name: impl Into<String>, edges: impl IntoIterator<Item = (f64, [f64; 2])>) -> Self {
        Self {
            name: name.into(),
            edges: edges.into_iter().collect(),
        }
    }

    pub(super) fn check(&self, x: &Axis, y: &Axis) -> Result<(), Error> {
        let edges = self.edges.iter().flat_map(|&(x, own)| own.map(|y| (x, y)));
        check(&self.name, [x, y], edges)
    }
}

/// Whether some points can be drawn, and all that are finite can.
fn check(
    name: &str,
    axes: [&Axis; 2],
    points: impl Iterator<Item = (f64, f64)> + Clone,
) -> Result<(), Error> {
    let refused = |axis: &Axis, reason| {
        Err(Error::Plot {
            line: name.into(),
            quantity: axis.name.clone(),
            reason,
        })
    };
    let mut finite = points
        .clone()
        .filter(|(x, y)| x.is_finite() && y.is_finite());
    match (points.count(), finite.clone().count()) {
        (0, _) => return refused(axes[1], Unplottable::Empty),
        (count, 0) => return refused(axes[1], Unplottable::NotFinite { count }),
        _ => {}
    }
    for (place, axis) in axes.into_iter().enumerate() {
        let value = |(x, y): (f64, f64)| [x, y][place];
        let bad = |&point: &(f64, f64)| axis.kind == Kind::Logarithmic && value(point) <= 0.0;
        if let Some(point) = finite.clone().find(bad) {
            let value = value(point);
            return refused(axis, Unplottable::NotPositive { value, at: point.0 });
        }
    }
    debug_assert!(finite.next().is_some());
    Ok(())
}
