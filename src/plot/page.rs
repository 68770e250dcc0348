//! Panels as one picture.

use std::path::Path;

use crate::error::Error;

use super::canvas::{Canvas, GAP, LABELS, ROOM, width};
use super::legend::Legend;
use super::panel::Panel;

/// Panels, two in a row, with their legends below: one legend if that of all panels is the same.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Page {
    title: String,
    panels: Vec<Panel>,
    shared: bool,
}

/// Of the title, and of those of panels, in pixels.
const SIZES: [f64; 2] = [17.0, 14.0];
/// Width and height of the lines' area: of a single panel, and of each of several.
const AREAS: [(f64, f64); 2] = [(600.0, 300.0), (350.0, 270.0)];

impl Page {
    /// A page without panels; an empty title takes no room.
    pub fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            ..Self::default()
        }
    }

    /// Adds a panel.
    pub fn with_panel(mut self, panel: Panel) -> Self {
        self.panels.push(panel);
        self
    }

    /// All panels get the scales that show the points of all of them; their axes must be of the
    /// same kinds.
    pub fn with_shared_scales(mut self) -> Self {
        self.shared = true;
        self
    }

    /// The picture as SVG, whose text is set in the reader's sans-serif font.
    ///
    /// # Errors
    /// - [`Error::InvalidOption`] without panels, and for a panel with no line or more than six;
    /// - [`Error::Plot`] for a line or band without finite points, or with a value that its
    ///   logarithmic axis cannot show;
    /// - [`Error::Combination`] for shared scales of axes of several kinds.
    pub fn to_svg(&self) -> Result<String, Error> {
        self.check()?;
        let columns = self.panels.len().min(2);
        let inner = AREAS[columns - 1];
        let legends: Vec<Legend<'_>> = self.panels.iter().map(Legend::of).collect();
        let one = legends.iter().all(|own| *own == legends[0]);
        let frame = LABELS.0 + ROOM.0;
        // As wide as its longest text needs.
        let titles = self
            .panels
            .iter()
            .map(|panel| width(&panel.title, SIZES[1]));
        let entries = legends.iter().map(Legend::entry);
        let own = titles.chain(entries).fold(inner.0, f64::max) + frame;
        let title = width(&self.title, SIZES[0]) + 2.0 * GAP;
        let across = own.max(title / columns as f64);
        let legend_width = across - frame;

        let room = |titled: bool, size: f64| if titled { size + 12.0 } else { 0.0 };
        let top = room(!self.title.is_empty(), SIZES[0]) + 4.0;
        let rows: Vec<&[Panel]> = self.panels.chunks(columns).collect();
        let titled = self.panels.iter().any(|panel| !panel.title.is_empty());
        let heading = room(titled, SIZES[1]);
        let chart = LABELS.1 + ROOM.1 + inner.1;
        let legend = |legends: &[Legend<'_>], across: f64| {
            let heights = legends.iter().map(|legend| legend.height(across));
            heights.fold(0.0, f64::max)
        };
        let whole = columns as f64 * across - frame;
        let mut below = top;
        let mut corners = Vec::new();
        for (row, legends) in rows.iter().zip(legends.chunks(columns)) {
            let corner = |column| (GAP + across * column as f64, below);
            corners.extend((0..row.len()).map(corner));
            below += heading
                + chart
                + if one {
                    0.0
                } else {
                    legend(legends, legend_width)
                };
        }
        let height = below
            + if one {
                legend(&legends[..1], whole)
            } else {
                0.0
            };

        Canvas::svg((GAP + columns as f64 * across, height), |canvas| {
            if !self.title.is_empty() {
                canvas.text((GAP, 18.0), SIZES[0], &self.title)?;
            }
            let all: Vec<&Panel> = self.panels.iter().collect();
            let zipped = self.panels.iter().zip(&legends).zip(corners);
            for ((panel, legend), (left, top)) in zipped {
                if !panel.title.is_empty() {
                    let at = (left + LABELS.0, top + 14.0);
                    canvas.text(at, SIZES[1], &panel.title)?;
                }
                let own = [panel];
                let scales = Panel::scales(if self.shared { &all } else { &own });
                canvas.chart((left, top + heading), (across, chart), panel, scales)?;
                if !one {
                    let corner = (left + LABELS.0, top + heading + chart);
                    legend.draw(canvas, corner, legend_width)?;
                }
            }
            match one {
                true => legends[0].draw(canvas, (GAP + LABELS.0, below), whole),
                false => Ok(()),
            }
        })
    }

    fn check(&self) -> Result<(), Error> {
        let Some(first) = self.panels.first() else {
            return Err(Error::InvalidOption {
                option: "panels of a page",
                value: 0.0,
                allowed: "at least 1",
            });
        };
        self.panels.iter().try_for_each(Panel::check)?;
        let kinds = |panel: &Panel| (panel.x.kind, panel.y.kind);
        if self.shared && self.panels.iter().any(|panel| kinds(panel) != kinds(first)) {
            return Err(Error::Combination {
                what: "shared scales of panels",
                reason: "their axes are of different kinds",
            });
        }
        Ok(())
    }

    /// Writes the picture to a file, in place of an old one.
    ///
    /// # Errors
    /// Those of [`to_svg`](Self::to_svg), and [`Error::File`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        std::fs::write(path, self.to_svg()?).map_err(|reason| Error::File {
            file: format!("the file {}", path.display()),
            doing: "written",
            reason: reason.to_string(),
        })
    }
}
