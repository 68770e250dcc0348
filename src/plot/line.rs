//! Lines and bands.

use std::iter::zip;

use crate::check::check_length;
use crate::error::{Error, Unplottable};

use super::axis::{Axis, Kind};

/// A named line through points, in the given order. A point that is not finite interrupts it.
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

    /// Adds a band from y − sd to y + sd, with one standard deviation sd for each point. A
    /// logarithmic axis clips it where y − sd is not above 0.
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
        let points = self.points.iter().map(|&(x, y)| (x, [y; 2]));
        check(&self.name, [x, y], points)
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
        check(&self.name, [x, y], self.edges.iter().copied())
    }
}

/// Whether some points (x, [low, high]) can be drawn, and all that are finite can.
fn check(
    name: &str,
    [x, y]: [&Axis; 2],
    points: impl Iterator<Item = (f64, [f64; 2])> + Clone,
) -> Result<(), Error> {
    let refused = |axis: &Axis, reason| {
        Err(Error::Plot {
            line: name.into(),
            quantity: axis.name.clone(),
            reason,
        })
    };
    let finite = |(x, [low, high]): &(f64, [f64; 2])| [x, low, high].iter().all(|v| v.is_finite());
    let finite = points.clone().filter(finite);
    match (points.count(), finite.clone().count()) {
        (0, _) => return refused(y, Unplottable::Empty),
        (count, 0) => return refused(y, Unplottable::NotFinite { count }),
        _ => {}
    }
    let bad = |axis: &Axis, value: f64| axis.kind == Kind::Logarithmic && value <= 0.0;
    for (at, edges) in finite {
        if bad(x, at) {
            return refused(x, Unplottable::NotPositive { value: at, at });
        }
        if let Some(&value) = edges.iter().find(|&&value| bad(y, value)) {
            return refused(y, Unplottable::NotPositive { value, at });
        }
    }
    Ok(())
}
