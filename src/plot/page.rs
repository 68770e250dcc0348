//! Panels as one picture.

use std::path::Path;

use crate::atomic;
use crate::error::Error;

use super::canvas::{Canvas, GAP, LABELS, ROOM, width};
use super::legend::Legend;
use super::panel::Panel;

/// Panels, two per row, with their legends below; only one legend if all panels have the same.
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

    /// Gives all panels the same scales, which show the points of all of them.
    pub fn with_shared_scales(mut self) -> Self {
        self.shared = true;
        self
    }

    /// The page as SVG, with text in the viewer's sans-serif font.
    ///
    /// # Errors
    /// - [`Error::InvalidOption`] without panels, and for a panel with no line or more than six;
    /// - [`Error::Plot`] for a line or band without finite points, or with a value that its
    ///   logarithmic axis cannot show.
    pub fn to_svg(&self) -> Result<String, Error> {
        if self.panels.is_empty() {
            return Err(Error::InvalidOption {
                option: "panels of a page",
                value: 0.0,
                allowed: "at least 1".into(),
            });
        }
        self.panels.iter().try_for_each(Panel::check)?;
        let columns = self.panels.len().min(2);
        let inner = AREAS[columns - 1];
        let legends: Vec<Legend<'_>> = self.panels.iter().map(Legend::of).collect();
        let one = legends.iter().all(|own| *own == legends[0]);
        // As wide as the longest text needs.
        let frame = LABELS.0 + ROOM.0;
        let titles = self
            .panels
            .iter()
            .map(|panel| width(&panel.title, SIZES[1]));
        let texts = titles.chain(legends.iter().map(Legend::entry));
        let own = texts.fold(inner.0, f64::max) + frame;
        let across = own.max((width(&self.title, SIZES[0]) + GAP) / columns as f64);
        let whole = across * columns as f64;
        // From the top of a panel: its title, its lines, its legend, the next panel.
        let room = |titled: bool, size: f64| if titled { size + 12.0 } else { 0.0 };
        let titled = self.panels.iter().any(|panel| !panel.title.is_empty());
        let heading = room(titled, SIZES[1]);
        let chart = inner.1 + LABELS.1 + ROOM.1;
        let heights = legends.iter().map(|legend| legend.height(across - frame));
        let below = if one {
            0.0
        } else {
            heights.fold(0.0, f64::max)
        };
        let down = heading + chart + below;
        let top = room(!self.title.is_empty(), SIZES[0]) + 4.0;
        let end = top + down * self.panels.len().div_ceil(columns) as f64;
        let height = end
            + if one {
                legends[0].height(whole - frame)
            } else {
                0.0
            };

        Canvas::svg((GAP + whole, height), |canvas| {
            canvas.text((GAP, 18.0), SIZES[0], &self.title)?;
            for (number, (panel, legend)) in self.panels.iter().zip(&legends).enumerate() {
                let left = GAP + across * (number % columns) as f64;
                let top = top + down * (number / columns) as f64;
                let at = |height: f64| (left + LABELS.0, top + height);
                canvas.text(at(14.0), SIZES[1], &panel.title)?;
                let shown = match self.shared {
                    true => &self.panels[..],
                    false => &self.panels[number..=number],
                };
                let scales = panel.scales(shown);
                canvas.chart((left, top + heading), (across, chart), panel, scales)?;
                if !one {
                    legend.draw(canvas, at(heading + chart), across - frame)?;
                }
            }
            if one {
                legends[0].draw(canvas, (GAP + LABELS.0, end), whole - frame)?;
            }
            Ok(())
        })
    }

    /// Writes the page to a file. An existing one is replaced as a whole: the new file is written beside
    /// it, with `.partial` at the end of its name, and renamed. A device, a pipe or a socket is
    /// refused.
    ///
    /// # Errors
    /// Those of [`to_svg`](Self::to_svg), and [`Error::File`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let svg = self.to_svg()?;
        atomic::write(path.as_ref(), |to| to(svg.as_bytes()))
    }
}
