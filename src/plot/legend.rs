//! The names of lines, below the panels.

use crate::error::Error;

use super::canvas::{Canvas, GAP, SIZE, width};
use super::line::Line;
use super::panel::Panel;
use super::style::STYLES;

/// Names of lines, in the order of [`STYLES`], and of a grey band, in rows.
#[derive(PartialEq)]
pub(super) struct Legend<'a> {
    /// Style, name, and whether the line has a band.
    lines: Vec<(usize, &'a str, bool)>,
    band: Option<&'a str>,
}

/// Height of a row, in pixels.
const ROW: f64 = 20.0;
/// From the start of an entry to its name.
const KEY: f64 = 44.0;

impl<'a> Legend<'a> {
    pub(super) fn of(panel: &'a Panel) -> Self {
        let entry =
            |(style, line): (usize, &'a Line)| (style, &line.name[..], !line.deviations.is_empty());
        let lines = panel.styled().map(entry);
        Self {
            lines: lines.collect(),
            band: panel.band.as_ref().map(|band| &band.name[..]),
        }
    }

    /// The width of the widest entry.
    pub(super) fn entry(&self) -> f64 {
        let names = self.lines.iter().map(|line| line.1).chain(self.band);
        let widest = names.map(|name| width(name, SIZE)).fold(0.0, f64::max);
        KEY + widest + 16.0
    }

    fn rows(&self, across: f64) -> usize {
        let columns = ((across / self.entry()) as usize).max(1);
        (self.lines.len() + usize::from(self.band.is_some())).div_ceil(columns)
    }

    pub(super) fn height(&self, across: f64) -> f64 {
        GAP + ROW * self.rows(across) as f64 + 4.0
    }

    /// Draws it with its left upper corner there; entries go down in columns.
    pub(super) fn draw(
        &self,
        canvas: &Canvas<'_>,
        (left, top): (f64, f64),
        across: f64,
    ) -> Result<(), Error> {
        let rows = self.rows(across);
        let place = |number: usize| {
            let x = left + (number / rows) as f64 * self.entry();
            (x, top + GAP + ROW * ((number % rows) as f64 + 0.5))
        };
        for (number, &(style, name, band)) in self.lines.iter().enumerate() {
            let ((x, y), style) = (place(number), &STYLES[style]);
            if band {
                canvas.area(&rectangle((x, y)), style.pale())?;
            }
            canvas.line(&[(x, y), (x + 36.0, y)], style)?;
            canvas.marker((x + 18.0, y), style)?;
            canvas.text((x + KEY, y), SIZE, name)?;
        }
        if let Some(name) = self.band {
            let (x, y) = place(self.lines.len());
            canvas.grey(&rectangle((x, y)))?;
            canvas.text((x + KEY, y), SIZE, name)?;
        }
        Ok(())
    }
}

fn rectangle((x, y): (f64, f64)) -> [(f64, f64); 4] {
    let (right, low, high) = (x + 36.0, y + 6.0, y - 6.0);
    [(x, low), (x, high), (right, high), (right, low)]
}
