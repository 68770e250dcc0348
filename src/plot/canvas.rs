//! Drawing with plotters, in pixels.

use std::fmt;

use plotters::backend::SVGBackend;
use plotters::chart::ChartBuilder;
use plotters::coord::Shift;
use plotters::coord::ranged1d::Ranged;
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::element::{DashedPathElement, PathElement, Polygon};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{BLACK, Color, IntoFont, RGBAColor, RGBColor, ShapeStyle, TextStyle, WHITE};

use crate::error::Error;

use super::clip::{self, Place};
use super::line::Line;
use super::panel::Panel;
use super::scale::Scale;
use super::style::{STYLES, Style};

/// A point, in pixels from the left and the top.
type Pixel = (f64, f64);

/// plotters rounds to whole units: these many make a pixel, so that lines are smooth.
const UNITS: f64 = 4.0;

/// Room for the labels and the name of an axis: of y at the left, of x below.
pub(super) const LABELS: (f64, f64) = (76.0, 44.0);
/// Room for half a label.
pub(super) const ROOM: (f64, f64) = (20.0, 8.0);
/// The size of text, if it is not a title, in pixels.
pub(super) const SIZE: f64 = 13.0;
/// Left of a page, and above a legend.
pub(super) const GAP: f64 = 10.0;

/// A page to draw on.
pub(super) struct Canvas<'a>(DrawingArea<SVGBackend<'a>, Shift>);

impl Canvas<'_> {
    /// What `draw` draws on a white page.
    pub(super) fn svg(
        (width, height): (f64, f64),
        draw: impl FnOnce(&Canvas<'_>) -> Result<(), Error>,
    ) -> Result<String, Error> {
        let [width, height] = [width, height].map(f64::ceil);
        let size = (units(width) as u32, units(height) as u32);
        let mut svg = String::new();
        let canvas = Canvas(SVGBackend::with_string(&mut svg, size).into_drawing_area());
        canvas.0.fill(&WHITE).map_err(failed)?;
        draw(&canvas)?;
        canvas.0.present().map_err(failed)?;
        drop(canvas);
        // The picture is as large as its pixels say; the view box stays in units.
        let [drawn, shown] = [size, (width as u32, height as u32)]
            .map(|(width, height)| format!("width=\"{width}\" height=\"{height}\""));
        Ok(svg.replacen(&drawn, &shown, 1))
    }

    pub(super) fn line(&self, points: &[Pixel], style: &Style) -> Result<(), Error> {
        let points: Vec<(i32, i32)> = points.iter().map(rounded).collect();
        let stroke = style.colour.stroke_width(units(2.0) as u32);
        match style.dash {
            None => self.0.draw(&PathElement::new(points, stroke)),
            Some(dash) => {
                let [dash, spacing] = dash.map(units);
                self.0
                    .draw(&DashedPathElement::new(points, dash, spacing, stroke))
            }
        }
        .map_err(failed)
    }

    pub(super) fn marker(&self, (x, y): Pixel, style: &Style) -> Result<(), Error> {
        let corners = style
            .marker
            .iter()
            .map(|corner| (x + corner.0, y + corner.1));
        self.area(&corners.collect::<Vec<_>>(), style.colour.into())
    }

    pub(super) fn area(&self, outline: &[Pixel], fill: RGBAColor) -> Result<(), Error> {
        let outline: Vec<(i32, i32)> = outline.iter().map(rounded).collect();
        let area = Polygon::new(outline, fill.filled());
        self.0.draw(&area).map_err(failed)
    }

    /// A grey area with an edge, which shows where it is thin.
    pub(super) fn grey(&self, outline: &[Pixel]) -> Result<(), Error> {
        self.area(outline, RGBColor(200, 200, 200).into())?;
        let closed = outline.iter().chain(outline.first()).map(rounded);
        let edge = PathElement::new(closed.collect::<Vec<_>>(), stroke(136));
        self.0.draw(&edge).map_err(failed)
    }

    /// Text that begins there, around that height.
    pub(super) fn text(&self, at: Pixel, size: f64, text: &str) -> Result<(), Error> {
        if text.is_empty() {
            return Ok(());
        }
        let style = font(size).pos(Pos::new(HPos::Left, VPos::Center));
        let text = shown(text);
        self.0
            .draw_text(&text, &style, rounded(&at))
            .map_err(failed)
    }

    /// A panel without its title and legend, whose left upper corner is there.
    pub(super) fn chart(
        &self,
        (left, top): Pixel,
        (width, height): (f64, f64),
        panel: &Panel,
        [x, y]: [Scale; 2],
    ) -> Result<(), Error> {
        let size = rounded(&(width, height));
        let area = self.0.clone().shrink(rounded(&(left, top)), size);
        let mut chart = ChartBuilder::on(&area)
            .x_label_area_size(units(LABELS.1))
            .y_label_area_size(units(LABELS.0))
            .margin_right(units(ROOM.0))
            .margin_top(units(ROOM.1))
            .build_cartesian_2d(x.clone(), y.clone())
            .map_err(failed)?;
        chart
            .configure_mesh()
            .x_desc(shown(&panel.x.name))
            .y_desc(shown(&panel.y.name))
            .axis_desc_style(font(SIZE))
            .label_style(font(SIZE))
            .axis_style(stroke(110))
            .bold_line_style(stroke(190))
            .light_line_style(stroke(232))
            .set_all_tick_mark_size(units(4.0))
            .draw()
            .map_err(failed)?;
        let (across, up) = (x.range(), y.range());
        let [low, high] = [(across.start, up.start), (across.end, up.end)]
            .map(|corner| chart.backend_coord(&corner));
        let pixel = |(x, y): Place| {
            let between = |from: i32, to: i32, share: f64| {
                (f64::from(from) + share * f64::from(to - from)).round() / UNITS
            };
            (between(low.0, high.0, x), between(low.1, high.1, y))
        };
        let place = |a: f64, b: f64| (x.share(a), y.share(b));
        let outlines = |edges: &mut dyn Iterator<Item = (f64, [f64; 2])>| {
            let finite = |(x, edges): &(f64, [f64; 2])| {
                x.is_finite() && edges.iter().all(|edge| edge.is_finite())
            };
            let all: Vec<_> = edges.collect();
            let parts = all
                .split(|edge| !finite(edge))
                .filter(|part| part.len() > 1);
            let outline = |part: &[(f64, [f64; 2])]| {
                let low = part.iter().map(|&(x, [low, _])| place(x, low));
                let high = part.iter().rev().map(|&(x, [_, high])| place(x, high));
                let shown = clip::area(low.chain(high).collect());
                shown.into_iter().map(pixel).collect()
            };
            let outlines = parts.map(outline);
            outlines
                .filter(|own: &Vec<Pixel>| !own.is_empty())
                .collect::<Vec<_>>()
        };
        if let Some(band) = &panel.band {
            let outlines = outlines(&mut band.edges.iter().copied());
            outlines.iter().try_for_each(|own| self.grey(own))?;
        }
        for (style, line) in panel.styled() {
            let outlines = outlines(&mut line.edges());
            let mut outlines = outlines.iter();
            outlines.try_for_each(|own| self.area(own, STYLES[style].pale()))?;
        }
        for (style, line) in panel.styled() {
            self.points(line, style, &place, &pixel)?;
        }
        Ok(())
    }

    /// A line with markers at some of its points, and at those without neighbours.
    fn points(
        &self,
        line: &Line,
        number: usize,
        place: &dyn Fn(f64, f64) -> Place,
        pixel: &dyn Fn(Place) -> Pixel,
    ) -> Result<(), Error> {
        let finite = |(x, y): &(f64, f64)| x.is_finite() && y.is_finite();
        let style = &STYLES[number];
        // Points, and whether they have no neighbour.
        let mut all: Vec<(Place, bool)> = Vec::new();
        for part in line.points.split(|point| !finite(point)) {
            let part: Vec<Place> = part.iter().map(|&(x, y)| place(x, y)).collect();
            for shown in clip::line(&part) {
                let shown: Vec<Pixel> = shown.into_iter().map(pixel).collect();
                self.line(&shown, style)?;
            }
            all.extend(part.iter().map(|&at| (at, part.len() == 1)));
        }
        all.retain(|(at, _)| clip::inside(at));
        // Shifted from line to line, so that markers of close lines are apart.
        let every = all.len().div_ceil(7).max(1);
        let shift = number * every / STYLES.len();
        let chosen = |i: usize| i >= shift && (i - shift).is_multiple_of(every);
        let marked = all.iter().enumerate();
        let mut marked = marked.filter(|&(i, &(_, lone))| lone || chosen(i));
        marked.try_for_each(|(_, &(at, _))| self.marker(pixel(at), style))
    }
}

/// The rough width of text, whose font the reader's program chooses.
pub(super) fn width(text: &str, size: f64) -> f64 {
    let em = |c: char| match c {
        '\u{2e80}'.. => 1.0,
        c if c.is_uppercase() => 0.68,
        _ => 0.52,
    };
    size * text.chars().map(em).sum::<f64>()
}

fn stroke(grey: u8) -> ShapeStyle {
    RGBColor(grey, grey, grey).stroke_width(units(1.0) as u32)
}

fn units(pixels: f64) -> i32 {
    (pixels * UNITS).round() as i32
}

fn rounded(&(x, y): &Pixel) -> (i32, i32) {
    (units(x), units(y))
}

/// plotters divides sizes by 1.24.
fn font(size: f64) -> TextStyle<'static> {
    let font = ("sans-serif", 1.24 * UNITS * size).into_font();
    font.color(&BLACK)
}

/// Text without the characters that XML forbids.
fn shown(text: &str) -> String {
    let forbidden = |c: char| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}');
    text.replace(forbidden, " ")
}

fn failed(reason: impl fmt::Display) -> Error {
    Error::File {
        file: "the plot".into(),
        doing: "written",
        reason: reason.to_string(),
    }
}
