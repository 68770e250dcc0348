//! Lines over the same axes.

use crate::error::Error;

use super::axis::{Axis, Kind};
use super::line::{Band, Line};
use super::scale::Scale;
use super::style::STYLES;

/// At most six lines over the same axes, perhaps over a grey band.
#[derive(Debug, Clone, PartialEq)]
pub struct Panel {
    pub(super) title: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) band: Option<Band>,
    /// One for each style; `None` where a style is left to another panel.
    lines: Vec<Option<Line>>,
}

impl Panel {
    /// A panel without lines.
    pub fn new(x: Axis, y: Axis) -> Self {
        Self {
            title: String::new(),
            x,
            y,
            band: None,
            lines: Vec::new(),
        }
    }

    /// Sets its title.
    pub fn with_title(mut self, title: impl Into<String>) -> Self {
        self.title = title.into();
        self
    }

    /// Adds a line.
    pub fn with_line(mut self, line: Line) -> Self {
        self.lines.push(Some(line));
        self
    }

    /// Leaves out a line that other panels have: the next one gets the style that it has there.
    pub(super) fn without_line(mut self) -> Self {
        self.lines.push(None);
        self
    }

    /// Its lines with their styles.
    pub(super) fn styled(&self) -> impl Iterator<Item = (usize, &Line)> + Clone {
        let lines = self.lines.iter().enumerate();
        lines.filter_map(|(style, line)| Some((style, line.as_ref()?)))
    }

    /// Sets a grey band behind the lines.
    pub fn with_band(mut self, band: Band) -> Self {
        self.band = Some(band);
        self
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        if self.styled().next().is_none() || self.lines.len() > STYLES.len() {
            return Err(Error::InvalidOption {
                option: "lines of a panel",
                value: self.lines.len() as f64,
                allowed: "from 1 to 6".into(),
            });
        }
        let mut lines = self.styled();
        lines.try_for_each(|(_, line)| line.check(&self.x, &self.y))?;
        let mut band = self.band.iter();
        band.try_for_each(|band| band.check(&self.x, &self.y))
    }

    /// The scales of its axes: within their limits, or of all points of these panels.
    pub(super) fn scales(&self, panels: &[Self]) -> [Scale; 2] {
        let bands = panels.iter().flat_map(|panel| &panel.band);
        let lines = panels.iter().flat_map(Self::styled).map(|(_, line)| line);
        let edges = bands.flat_map(|band| band.edges.iter().copied());
        let edges = edges.chain(lines.clone().flat_map(Line::edges));
        let edges = edges.flat_map(|(x, own)| own.map(|y| (x, y)));
        let points = lines.flat_map(|line| line.points.iter().copied());
        let shown = |axis: &Axis, value: f64| {
            value.is_finite() && (axis.kind != Kind::Logarithmic || value > 0.0)
        };
        let mut ends = [[f64::INFINITY, f64::NEG_INFINITY]; 2];
        let all = edges.chain(points);
        for (x, y) in all.filter(|&(x, y)| shown(&self.x, x) && shown(&self.y, y)) {
            for ([low, high], value) in ends.iter_mut().zip([x, y]) {
                (*low, *high) = (low.min(value), high.max(value));
            }
        }
        [self.x.scale(ends[0]), self.y.scale(ends[1])]
    }
}
