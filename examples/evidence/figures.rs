//! Figures as SVG.

use std::error::Error;
use std::path::Path;

/// An image in the making.
#[derive(Default)]
struct Svg(String);

#[derive(Clone, Copy)]
enum Anchor {
    Start,
    Middle,
    End,
}

impl Svg {
    fn push(&mut self, element: &str) {
        self.0.push_str(element);
        self.0.push('\n');
    }

    fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, size: u32, fill: &str, text: &str) {
        if text.is_empty() {
            return;
        }
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        self.push(&format!(
            r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" font-size="{size}" fill="{fill}">{text}</text>"#
        ));
    }

    fn line(&mut self, (a, b): (f64, f64), (c, d): (f64, f64), stroke: &str) {
        self.push(&format!(
            r#"<path d="M{a:.1} {b:.1}L{c:.1} {d:.1}" stroke="{stroke}"/>"#
        ));
    }

    fn save(
        &self,
        path: &Path,
        title: &str,
        (width, height): (f64, f64),
    ) -> Result<(), Box<dyn Error>> {
        let mut whole = Self::default();
        whole.push(&format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" font-family="sans-serif">"#
        ));
        whole.push(r##"<rect width="100%" height="100%" fill="#fff"/>"##);
        whole.text((12.0, 22.0), Anchor::Start, 16, "#000", title);
        std::fs::write(path, whole.0 + &self.0 + "</svg>\n")?;
        Ok(())
    }
}

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
    const CELL: (f64, f64) = (46.0, 26.0);
    let across = 100.0 + CELL.0 * columns.len() as f64;
    let down = 80.0 + CELL.1 * rows.len() as f64;
    let mut svg = Svg::default();
    for (number, map) in maps.iter().enumerate() {
        let left = across * (number % ACROSS) as f64 + 84.0;
        let top = down * (number / ACROSS) as f64 + 68.0;
        let middle = left + CELL.0 * columns.len() as f64 / 2.0;
        svg.text((left, top - 8.0), Anchor::Start, 14, "#000", &map.title);
        svg.text((left - 8.0, top - 6.0), Anchor::End, 12, "#000", row_name);
        for (row, (name, values)) in rows.iter().zip(&map.values).enumerate() {
            let y = top + CELL.1 * row as f64;
            svg.text((left - 8.0, y + 17.0), Anchor::End, 12, "#000", name);
            for (column, &value) in values.iter().enumerate() {
                let x = left + CELL.0 * column as f64;
                let (fill, ink) = shade(value);
                svg.push(&format!(
                    r#"<rect x="{x}" y="{y}" width="{}" height="{}" fill="{fill}"/>"#,
                    CELL.0, CELL.1
                ));
                let centre = (x + CELL.0 / 2.0, y + 17.0);
                svg.text(centre, Anchor::Middle, 12, ink, &format!("{value:.1}"));
            }
        }
        let bottom = top + CELL.1 * rows.len() as f64;
        for (column, name) in columns.iter().enumerate() {
            let x = left + CELL.0 * (column as f64 + 0.5);
            svg.text((x, bottom + 15.0), Anchor::Middle, 12, "#000", name);
        }
        svg.text(
            (middle, bottom + 31.0),
            Anchor::Middle,
            12,
            "#000",
            column_name,
        );
    }
    let grid = (ACROSS.min(maps.len()), maps.len().div_ceil(ACROSS));
    svg.save(
        path,
        title,
        (across * grid.0 as f64, down * grid.1 as f64 + 34.0),
    )
}

/// A colour, lighter for more, and that of text on it: from violet at 10 % through blue to pale
/// yellow at 100 %, with most of the range above 80 %.
fn shade(percent: f64) -> (String, &'static str) {
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
    let ink = if percent < 72.0 { "#fff" } else { "#000" };
    (format!("#{red:02x}{green:02x}{blue:02x}"), ink)
}

pub type Points = Vec<(f64, f64)>;

/// A named line.
pub struct Line {
    pub name: String,
    pub points: Points,
}

/// The area between two lines over the same abscissae.
pub struct Band {
    pub name: String,
    pub edges: [Points; 2],
}

/// At most six lines, over a grey band.
pub struct Panel {
    pub title: String,
    pub band: Option<Band>,
    pub lines: Vec<Line>,
}

/// Colours of Okabe and Ito, with dashes and markers that tell lines apart without colour.
const STYLES: [(&str, &str, &str); 6] = [
    ("#000000", "none", "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z"),
    ("#0072b2", "8 3", "M-3.5-3.5h7v7h-7z"),
    ("#d55e00", "none", "M0-5L4.5 3.5h-9z"),
    ("#009e73", "3 2", "M0-5L5 0 0 5-5 0z"),
    ("#e69f00", "none", "M0 5L4.5-3.5h-9z"),
    (
        "#56b4e9",
        "10 3 2 3",
        "M-4-1.5h2.5v-2.5h3v2.5h2.5v3h-2.5v2.5h-3v-2.5h-2.5z",
    ),
];

/// The quantity and scale of an axis.
#[derive(Clone, Copy)]
pub struct Axis<'a> {
    name: &'a str,
    logarithmic: bool,
}

/// The lines across an axis, from one end to the other, and their labels.
struct Scale(Vec<(f64, Option<String>)>);

impl Scale {
    fn ends(&self) -> (f64, f64) {
        (self.0[0].0, self.0[self.0.len() - 1].0)
    }

    fn share(&self, place: f64) -> f64 {
        let (low, high) = self.ends();
        (place - low) / (high - low)
    }
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

    /// For values at these places.
    fn scale(self, places: impl Iterator<Item = f64> + Clone) -> Scale {
        let low = places.clone().fold(f64::MAX, f64::min);
        let high = places.fold(low + 1e-3, f64::max);
        if !self.logarithmic {
            let rough = (high - low) / 4.0;
            let power = 10f64.powf(rough.log10().floor());
            let step = [5.0, 2.0, 1.0].map(|m| m * power);
            let step = *step.iter().find(|&&s| s <= rough).unwrap_or(&power);
            let at = |k: i64| (k as f64 * step * 1e6).round() / 1e6;
            let all = (low / step).floor() as i64..=(high / step).ceil() as i64;
            return Scale(all.map(|k| (at(k), Some(at(k).to_string()))).collect());
        }
        // A line at each decade; of few decades, at 2 to 9 times each too. Labels at decades alone.
        let (first, last) = (low.floor() as i32, high.ceil() as i32);
        let most = if last - first < 4 { 9 } else { 1 };
        let every = (last - first) / 13 + 1;
        let label = |k: i32| match first >= -3 && last <= 3 {
            true => format!("{}", 10f64.powi(k)),
            false => format!("10{}", superscript(k)),
        };
        let lines = (first..=last).flat_map(|k| (1..=most).map(move |m| (k, m)));
        let lines = lines.map(|(k, m)| {
            let label = (m == 1 && k % every == 0).then(|| label(k));
            (f64::from(k) + f64::from(m).log10(), label)
        });
        let mut lines: Vec<_> = lines.collect();
        // At least one decade is among the lines.
        let between = low.ceil() <= high;
        let below = |line: &(f64, Option<_>)| line.0 <= low && (between || line.1.is_some());
        lines.drain(..lines.iter().rposition(below).unwrap_or(0));
        let above = lines.iter().position(|line| line.0 >= high);
        lines.truncate(above.map_or(lines.len(), |above| above + 1));
        Scale(lines)
    }
}

fn superscript(k: i32) -> String {
    let digits: Vec<char> = "⁰¹²³⁴⁵⁶⁷⁸⁹".chars().collect();
    let of = |c: char| c.to_digit(10).map_or('⁻', |digit| digits[digit as usize]);
    k.to_string().chars().map(of).collect()
}

/// Lines over the same axes in panels side by side, each with its legend below. Values that a
/// logarithmic axis cannot show are left out.
pub fn lines(
    path: &Path,
    title: &str,
    x: Axis<'_>,
    y: Axis<'_>,
    panels: &[Panel],
) -> Result<(), Box<dyn Error>> {
    const GREY: &str = r##"fill="#c8c8c8" stroke="#888""##;
    const LEFT: f64 = 68.0;
    const DOWN: f64 = 300.0;
    const ROW: f64 = 19.0;
    let top = match panels.iter().all(|panel| panel.title.is_empty()) {
        true => 40.0,
        false => 64.0,
    };
    let across = if panels.len() == 1 { 600.0 } else { 370.0 };
    let placed = |points: &[(f64, f64)]| -> Points {
        let points = points.iter().map(|&(a, b)| (x.place(a), y.place(b)));
        points
            .filter(|(a, b)| a.is_finite() && b.is_finite())
            .collect()
    };
    let bands = panels.iter().flat_map(|panel| &panel.band);
    let all = panels.iter().flat_map(|panel| &panel.lines);
    let all = all
        .map(|line| &line.points)
        .chain(bands.flat_map(|band| &band.edges));
    let all: Points = all.flat_map(|points| placed(points)).collect();
    if all.is_empty() {
        return Err(format!("there are no data to plot in {}", path.display()).into());
    }
    let (along, up) = (
        x.scale(all.iter().map(|p| p.0)),
        y.scale(all.iter().map(|p| p.1)),
    );
    let mut svg = Svg::default();
    let mut rows = 0;
    for (number, panel) in panels.iter().enumerate() {
        let left = LEFT + (LEFT + across) * number as f64;
        let at = |(a, b): (f64, f64)| {
            let down = top + DOWN * (1.0 - up.share(b));
            (left + across * along.share(a), down)
        };
        let path = |points: &[(f64, f64)]| -> String {
            let points = points.iter().map(|&point| at(point));
            let texts: Vec<String> = points.map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
            texts.join("L")
        };
        let name = (left, top - 12.0);
        svg.text(name, Anchor::Start, 14, "#000", &panel.title);
        for (place, label) in &along.0 {
            let (x, _) = at((*place, up.ends().0));
            let ink = if label.is_some() { "#bbb" } else { "#e8e8e8" };
            svg.line((x, top), (x, top + DOWN), ink);
            let label = label.as_deref().unwrap_or_default();
            svg.text((x, top + DOWN + 16.0), Anchor::Middle, 12, "#000", label);
        }
        for (place, label) in &up.0 {
            let (_, y) = at((along.ends().0, *place));
            let ink = if label.is_some() { "#bbb" } else { "#e8e8e8" };
            svg.line((left, y), (left + across, y), ink);
            let label = label.as_deref().unwrap_or_default();
            svg.text((left - 6.0, y + 4.0), Anchor::End, 12, "#000", label);
        }
        if let Some(Band {
            edges: [low, high], ..
        }) = &panel.band
        {
            let outline: Vec<_> = placed(low)
                .into_iter()
                .chain(placed(high).into_iter().rev())
                .collect();
            svg.push(&format!(r#"<path d="M{}z" {GREY}/>"#, path(&outline)));
        }
        let below = (left + across / 2.0, top + DOWN + 34.0);
        svg.text(below, Anchor::Middle, 12, "#000", x.name);
        svg.push(&format!(
            r#"<g transform="translate({:.1} {}) rotate(-90)">"#,
            left - 48.0,
            top + DOWN / 2.0
        ));
        svg.text((0.0, 0.0), Anchor::Middle, 12, "#000", y.name);
        svg.push("</g>");
        // Legend entries go down in columns.
        let entries = panel.lines.len() + usize::from(panel.band.is_some());
        let columns = (across / 280.0) as usize;
        let own = entries.div_ceil(columns);
        rows = rows.max(own);
        let entry = |number: usize| {
            let column = left + (number / own) as f64 * across / columns as f64;
            (column, top + DOWN + 56.0 + ROW * (number % own) as f64)
        };
        for (number, line) in panel.lines.iter().enumerate() {
            let (colour, dashes, marker) = STYLES[number % STYLES.len()];
            let points = placed(&line.points);
            let stroke = format!(
                r#"fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes}""#
            );
            if !points.is_empty() {
                svg.push(&format!(r#"<path d="M{}" {stroke}/>"#, path(&points)));
            }
            let (x, y) = entry(number);
            svg.push(&format!(r#"<path d="M{x} {y}h34" {stroke}/>"#));
            svg.text((x + 42.0, y + 4.0), Anchor::Start, 12, "#000", &line.name);
            // Markers at some points, shifted from line to line.
            let every = points.len().div_ceil(7).max(1);
            let marked = points.iter().skip(number * every / 6).step_by(every);
            for (x, y) in marked.map(|&point| at(point)).chain([(x + 17.0, y)]) {
                svg.push(&format!(
                    r#"<path d="{marker}" fill="{colour}" transform="translate({x:.1} {y:.1})"/>"#
                ));
            }
        }
        if let Some(Band { name, .. }) = &panel.band {
            let (x, y) = entry(panel.lines.len());
            svg.push(&format!(
                r#"<path d="M{x} {}h34v11h-34z" {GREY}/>"#,
                y - 6.0
            ));
            svg.text((x + 42.0, y + 4.0), Anchor::Start, 12, "#000", name);
        }
    }
    let width = (LEFT + across) * panels.len() as f64 + 20.0;
    svg.save(path, title, (width, top + DOWN + 56.0 + ROW * rows as f64))
}
