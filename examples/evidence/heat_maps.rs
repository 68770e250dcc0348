//! Heat maps as SVG.

use std::error::Error;
use std::path::Path;

use plotters::backend::SVGBackend;
use plotters::drawing::IntoDrawingArea;
use plotters::element::Rectangle;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{BLACK, Color, IntoFont, RGBColor, WHITE};

/// A grid of percentages: `values[row][column]`.
pub struct HeatMap {
    pub title: String,
    pub values: Vec<Vec<f64>>,
}

/// Heat maps with the same rows and columns, three side by side.
pub fn heat_maps(
    path: &Path,
    title: &str,
    (row_name, rows): (&str, &[String]),
    (column_name, columns): (&str, &[String]),
    maps: &[HeatMap],
) -> Result<(), Box<dyn Error>> {
    const ACROSS: usize = 3;
    const CELL: (i32, i32) = (46, 26);
    let across = 100 + CELL.0 * columns.len() as i32;
    let down = 80 + CELL.1 * rows.len() as i32;
    let (wide, high) = (ACROSS.min(maps.len()), maps.len().div_ceil(ACROSS));
    let size = (across as u32 * wide as u32, down as u32 * high as u32 + 34);
    let page = SVGBackend::new(path, size).into_drawing_area();
    page.fill(&WHITE)?;
    let text = |at: (i32, i32), anchor: HPos, size: f64, ink: &RGBColor, text: &str| {
        // plotters divides sizes by 1.24.
        let font = ("sans-serif", 1.24 * size).into_font().color(ink);
        page.draw_text(text, &font.pos(Pos::new(anchor, VPos::Center)), at)
    };
    text((12, 18), HPos::Left, 16.0, &BLACK, title)?;
    for (number, map) in maps.iter().enumerate() {
        let left = across * (number % ACROSS) as i32 + 84;
        let top = down * (number / ACROSS) as i32 + 68;
        let bottom = top + CELL.1 * rows.len() as i32;
        let middle = left + CELL.0 * columns.len() as i32 / 2;
        text((left, top - 13), HPos::Left, 14.0, &BLACK, &map.title)?;
        text((left - 8, top - 11), HPos::Right, 12.0, &BLACK, row_name)?;
        text(
            (middle, bottom + 27),
            HPos::Center,
            12.0,
            &BLACK,
            column_name,
        )?;
        for (row, (name, values)) in rows.iter().zip(&map.values).enumerate() {
            let y = top + CELL.1 * row as i32;
            let within = y + CELL.1 / 2;
            text((left - 8, within), HPos::Right, 12.0, &BLACK, name)?;
            for (column, &value) in values.iter().enumerate() {
                let x = left + CELL.0 * column as i32;
                let (fill, ink) = shade(value);
                let corners = [(x, y), (x + CELL.0, y + CELL.1)];
                page.draw(&Rectangle::new(corners, fill.filled()))?;
                let centre = (x + CELL.0 / 2, within);
                text(centre, HPos::Center, 12.0, &ink, &format!("{value:.1}"))?;
            }
        }
        for (column, name) in columns.iter().enumerate() {
            let x = left + CELL.0 * column as i32 + CELL.0 / 2;
            text((x, bottom + 11), HPos::Center, 12.0, &BLACK, name)?;
        }
    }
    page.present()?;
    Ok(())
}

/// A colour, lighter for more, and that of text on it: from violet at 10 % through blue to pale
/// yellow at 100 %, with most of the range above 80 %.
fn shade(percent: f64) -> (RGBColor, RGBColor) {
    const STOPS: [(f64, [f64; 3]); 5] = [
        (10.0, [48.0, 18.0, 80.0]),
        (60.0, [72.0, 84.0, 160.0]),
        (85.0, [124.0, 184.0, 206.0]),
        (94.0, [190.0, 224.0, 190.0]),
        (100.0, [255.0, 246.0, 196.0]),
    ];
    let percent = percent.clamp(STOPS[0].0, STOPS[4].0);
    let upper = STOPS.iter().skip(1).position(|stop| percent <= stop.0);
    let upper = upper.map_or(4, |below| below + 1);
    let ((low, from), (high, to)) = (STOPS[upper - 1], STOPS[upper]);
    let share = (percent - low) / (high - low);
    let [red, green, blue] =
        std::array::from_fn(|i| (from[i] + share * (to[i] - from[i])).round() as u8);
    let ink = if percent < 72.0 { WHITE } else { BLACK };
    (RGBColor(red, green, blue), ink)
}
