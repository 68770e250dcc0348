//! Figures as SVG.

use std::error::Error;
use std::ops::Range;
use std::path::Path;

pub use plotters::chart::SeriesLabelPosition as Legend;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// A grid of percentages: `values[row][column]`.
pub struct HeatMap {
    pub title: String,
    pub values: Vec<Vec<f64>>,
}

const CELL: (i32, i32) = (46, 26);
const LEFT: i32 = 74;
const ABOVE: i32 = 34;
const HEADING: i32 = 30;

/// Heat maps with the same rows and columns, three side by side.
pub fn heat_maps(
    path: &Path,
    title: &str,
    (row_name, rows): (&str, &[String]),
    (column_name, columns): (&str, &[String]),
    maps: &[HeatMap],
) -> Result<(), Box<dyn Error>> {
    const ACROSS: usize = 3;
    let across = LEFT + CELL.0 * columns.len() as i32 + 16;
    let down = ABOVE + CELL.1 * rows.len() as i32 + 40;
    let width = across * ACROSS.min(maps.len()) as i32;
    let height = HEADING + down * maps.len().div_ceil(ACROSS) as i32;
    let area = SVGBackend::new(path, (width as u32, height as u32)).into_drawing_area();
    area.fill(&WHITE)?;
    let text = |text: &str, at: (i32, i32), size: i32, h: HPos, colour: &RGBColor| {
        let style = ("sans-serif", size).into_font().color(colour);
        let style = style.pos(Pos::new(h, VPos::Center));
        area.draw(&Text::new(text.to_owned(), at, style))
    };
    text(title, (8, 16), 16, HPos::Left, &BLACK)?;
    for (number, map) in maps.iter().enumerate() {
        let left = across * (number % ACROSS) as i32 + LEFT;
        let top = HEADING + down * (number / ACROSS) as i32 + ABOVE;
        let middle = left + CELL.0 * columns.len() as i32 / 2;
        text(&map.title, (middle, top - 16), 14, HPos::Center, &BLACK)?;
        text(row_name, (left - 8, top - 10), 12, HPos::Right, &BLACK)?;
        for (row, values) in map.values.iter().enumerate() {
            let y = top + CELL.1 * row as i32;
            text(
                &rows[row],
                (left - 8, y + CELL.1 / 2),
                12,
                HPos::Right,
                &BLACK,
            )?;
            for (column, &value) in values.iter().enumerate() {
                let x = left + CELL.0 * column as i32;
                let corners = [(x, y), (x + CELL.0, y + CELL.1)];
                area.draw(&Rectangle::new(corners, shade(value).filled()))?;
                let ink = if value < 70.0 { WHITE } else { BLACK };
                let centre = (x + CELL.0 / 2, y + CELL.1 / 2);
                text(&format!("{value:.1}"), centre, 12, HPos::Center, &ink)?;
            }
        }
        let bottom = top + CELL.1 * rows.len() as i32;
        for (column, name) in columns.iter().enumerate() {
            let x = left + CELL.0 * column as i32 + CELL.0 / 2;
            text(name, (x, bottom + 10), 12, HPos::Center, &BLACK)?;
        }
        text(column_name, (middle, bottom + 26), 12, HPos::Center, &BLACK)?;
    }
    area.present()?;
    Ok(())
}

/// From dark blue at 10 % through green to yellow at 100 %, with most of the colour range above 80
/// %.
fn shade(percent: f64) -> RGBColor {
    const STOPS: [(f64, [f64; 3]); 5] = [
        (10.0, [68.0, 1.0, 84.0]),
        (60.0, [59.0, 82.0, 139.0]),
        (85.0, [33.0, 145.0, 140.0]),
        (94.0, [94.0, 201.0, 98.0]),
        (100.0, [253.0, 231.0, 37.0]),
    ];
    let percent = percent.clamp(STOPS[0].0, STOPS[4].0);
    let upper = STOPS
        .iter()
        .position(|stop| percent <= stop.0)
        .unwrap_or(4)
        .max(1);
    let ((low, from), (high, to)) = (STOPS[upper - 1], STOPS[upper]);
    let share = (percent - low) / (high - low);
    let [red, green, blue] =
        std::array::from_fn(|i| (from[i] + share * (to[i] - from[i])).round() as u8);
    RGBColor(red, green, blue)
}

/// A named line.
pub struct Line {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// The quantity and scale of an axis.
#[derive(Clone, Copy)]
pub struct Axis<'a> {
    name: &'a str,
    logarithmic: bool,
}

impl<'a> Axis<'a> {
    pub fn linear(name: &'a str) -> Self {
        Self {
            name,
            logarithmic: false,
        }
    }

    pub fn logarithmic(name: &'a str) -> Self {
        Self {
            name,
            logarithmic: true,
        }
    }

    fn place(self, value: f64) -> f64 {
        if self.logarithmic {
            value.log10()
        } else {
            value
        }
    }

    fn label(self, place: f64) -> String {
        match self.logarithmic {
            true => {
                let value = 10f64.powf(place);
                if (1e-2..1e4).contains(&value) {
                    format!("{value:.2}")
                } else {
                    format!("{value:.0e}")
                }
            }
            false => format!("{}", (100.0 * place).round() / 100.0),
        }
    }
}

/// Lines over one pair of axes. Values that a logarithmic axis cannot show are left out.
pub fn lines(
    path: &Path,
    title: &str,
    x: Axis<'_>,
    y: Axis<'_>,
    legend: Legend,
    lines: &[Line],
) -> Result<(), Box<dyn Error>> {
    let placed = |line: &Line| -> Vec<(f64, f64)> {
        let points = line.points.iter().map(|&(a, b)| (x.place(a), y.place(b)));
        points
            .filter(|(a, b)| a.is_finite() && b.is_finite())
            .collect()
    };
    if lines.iter().all(|line| placed(line).is_empty()) {
        return Err(format!("there are no data to plot in {}", path.display()).into());
    }
    let range = |of: fn(&(f64, f64)) -> f64| -> Range<f64> {
        let (mut low, mut high) = (f64::MAX, f64::MIN);
        for point in lines.iter().flat_map(placed) {
            (low, high) = (low.min(of(&point)), high.max(of(&point)));
        }
        let edge = 0.03 * (high - low).max(1e-3);
        low - edge..high + edge
    };
    let area = SVGBackend::new(path, (720, 420)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 16))
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d(range(|p| p.0), range(|p| p.1))?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc(x.name)
        .y_desc(y.name)
        .x_label_formatter(&|&place| x.label(place))
        .y_label_formatter(&|&place| y.label(place))
        .draw()?;
    for (number, line) in lines.iter().enumerate() {
        let colour = Palette99::pick(number).stroke_width(2);
        chart
            .draw_series(LineSeries::new(placed(line), colour))?
            .label(&line.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour));
    }
    chart
        .configure_series_labels()
        .position(legend)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    area.present()?;
    Ok(())
}
