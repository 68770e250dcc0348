//! Ticks of an axis, and where values are on it.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

use super::axis::Kind;

/// Where values are on an axis, and its ticks.
#[derive(Debug, Clone)]
pub(super) struct Scale {
    kind: Kind,
    ends: [f64; 2],
    /// Ascending; those without a label are drawn lighter.
    ticks: Vec<(f64, Option<String>)>,
}

impl Scale {
    /// The shortest scale with ticks at or beyond both ends of the values, which are finite and, on a
    /// logarithmic axis, above 0.
    pub(super) fn of(kind: Kind, [low, high]: [f64; 2]) -> Self {
        let ticks = ticks(kind, low, high);
        let ends = [ticks[0].0, ticks[ticks.len() - 1].0];
        Self { kind, ends, ticks }
    }

    /// The scale from one limit to the other, whether they have ticks or not.
    pub(super) fn within(kind: Kind, ends: [f64; 2]) -> Self {
        let empty = Self {
            kind,
            ends,
            ticks: Vec::new(),
        };
        let inside = |(at, label): (f64, Option<String>)| {
            let shown = (0.0..=1.0).contains(&empty.share(at));
            shown.then(|| (at.clamp(ends[0], ends[1]), label))
        };
        let of = |kind| ticks(kind, ends[0], ends[1]).into_iter().filter_map(inside);
        let mut ticks: Vec<_> = of(kind).collect();
        // Between two decades there may be no line to label.
        if kind == Kind::Logarithmic && ticks.iter().filter(|tick| tick.1.is_some()).count() < 2 {
            ticks = of(Kind::Linear).collect();
        }
        Self { ticks, ..empty }
    }

    /// The place of a value, 0 and 1 at the ends of the axis. On a logarithmic axis a value that is
    /// not above 0 is at the lower end: there its band is cut off.
    pub(super) fn share(&self, value: f64) -> f64 {
        // Halves, as a difference of finite numbers can overflow.
        let place = |value: f64| match self.kind {
            Kind::Logarithmic if value <= 0.0 => self.ends[0].log10(),
            Kind::Logarithmic => value.log10(),
            _ => value / 2.0,
        };
        let [start, end] = self.ends.map(place);
        let share = (place(value) - start) / (end - start);
        match (-ROUNDING..=1.0 + ROUNDING).contains(&share) {
            true => share.clamp(0.0, 1.0),
            // Far outside, where the exact place does not matter, it stays finite.
            false => share.clamp(-1e12, 1e12),
        }
    }
}

impl Ranged for Scale {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        (f64::from(from) + self.share(*value) * f64::from(to - from)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        let light = hint.weight().allow_light_points();
        let shown = self
            .ticks
            .iter()
            .filter(|(_, label)| light || label.is_some());
        shown.map(|tick| tick.0).collect()
    }

    fn range(&self) -> Range<f64> {
        self.ends[0]..self.ends[1]
    }
}

impl ValueFormatter<f64> for Scale {
    fn format_ext(&self, value: &f64) -> String {
        let tick = self.ticks.iter().find(|tick| tick.0 == *value);
        tick.and_then(|tick| tick.1.clone()).unwrap_or_default()
    }
}

/// A value may lie beyond the last tick by this fraction of a step, a decade or the axis.
const ROUNDING: f64 = 1e-9;

/// Ticks at or beyond both ends of the values.
fn ticks(kind: Kind, low: f64, high: f64) -> Vec<(f64, Option<String>)> {
    match kind {
        Kind::Logarithmic => decades(low.log10(), high.log10()),
        Kind::Linear => steps(low, high, 0.0),
        Kind::Counted => steps(low, high, 1.0),
    }
}

/// Whether rounding would swallow steps between these values.
pub(super) fn is_narrow(low: f64, high: f64) -> bool {
    high / 2.0 - low / 2.0 <= 1e-9 * low.abs().max(high.abs())
}

/// Multiples of 1, 2 or 5 times a power of ten that is at least `least`.
fn steps(low: f64, high: f64, least: f64) -> Vec<(f64, Option<String>)> {
    // A narrow range is widened.
    let size = low.abs().max(high.abs());
    let (low, high) = match is_narrow(low, high) {
        true if size < 1e-280 => (-1.0, 1.0),
        true => (low - size / 2.0, high + size / 2.0),
        false => (low, high),
    };
    let (low, high) = (low.max(f64::MIN), high.min(f64::MAX));
    let rough = (high / 4.0 - low / 4.0).max(least);
    let power = rough.log10().floor() as i32;
    let times = [5.0, 2.0].into_iter().find(|m| m * ten_to(power) <= rough);
    let times = times.unwrap_or(1.0);
    let step = times * ten_to(power);
    let first = (low / step + ROUNDING).floor() as i64;
    let last = (high / step - ROUNDING).ceil() as i64;
    let tick = |k: i64| {
        let at = (k as f64 * step).clamp(f64::MIN, f64::MAX);
        (at, Some(label(k as f64 * times, power)))
    };
    (first..=last).map(tick).collect()
}

/// A line at each decade; of few decades, at 2 to 9 times each too. Of the places, logarithms.
fn decades(low: f64, high: f64) -> Vec<(f64, Option<String>)> {
    let (first, last) = (low.floor() as i32, high.ceil() as i32);
    let most = if last - first < 4 { 9 } else { 1 };
    let every = (last - first) / 8 + 1;
    let plain = first >= -4 && last <= 4;
    // Of very many decades, a line only where there is a label.
    let step = if last - first < 40 { 1 } else { every };
    let (first, last) = (first.div_euclid(step), (last + step - 1).div_euclid(step));
    let all = (first..=last.max(first + 1)).map(|k| k * step);
    let lines: Vec<(i32, i32)> = all.flat_map(|k| (1..=most).map(move |m| (k, m))).collect();
    let place = |(k, m): (i32, i32)| f64::from(k) + f64::from(m).log10();
    let start = lines
        .iter()
        .rposition(|&line| place(line) <= low + ROUNDING);
    let end = lines
        .iter()
        .position(|&line| place(line) >= high - ROUNDING && place(line) > low + ROUNDING);
    let lines = &lines[start.unwrap_or(0)..=end.unwrap_or(lines.len() - 1)];
    // Labels at decades; on a short axis at 2 and 5 times them too, or else at every line.
    let short = place(lines[lines.len() - 1]) - place(lines[0]) <= 2.0;
    let round = |m: i32| [1, 2, 5].contains(&m);
    let few = lines.iter().filter(|line| round(line.1)).count() < 2;
    let label = |&(k, m): &(i32, i32)| {
        let shown = match short {
            true => few || round(m),
            false => m == 1 && k % every == 0,
        };
        let text = match (plain, m) {
            (true, _) => label(f64::from(m), k),
            (false, 1) => format!("10{}", superscript(k)),
            (false, _) => format!("{m}·10{}", superscript(k)),
        };
        shown.then_some(text)
    };
    let value =
        |&(k, m): &(i32, i32)| (f64::from(m) * ten_to(k)).clamp(f64::MIN_POSITIVE, f64::MAX);
    lines
        .iter()
        .map(|line| (value(line), label(line)))
        .collect()
}

/// `times` · 10^power, in which `times` is a whole number.
fn label(times: f64, power: i32) -> String {
    let value = times * ten_to(power);
    match power {
        _ if times == 0.0 => "0".into(),
        -6..=5 if value.abs() < 1e6 => format!("{value:.*}", (-power).max(0) as usize),
        _ => {
            let digits = (times.abs().log10().floor()).max(0.0) as i32;
            let lead = times / ten_to(digits);
            format!("{lead}·10{}", superscript(power + digits))
        }
    }
}

/// The double nearest to 10^k, which `powi` misses.
fn ten_to(k: i32) -> f64 {
    format!("1e{k}").parse().unwrap_or(f64::INFINITY)
}

fn superscript(k: i32) -> String {
    let of = |c: char| match c {
        '-' => '⁻',
        '1' => '¹',
        '2' => '²',
        '3' => '³',
        c => char::from_u32(0x2070 + c as u32 - 0x30).unwrap_or(c),
    };
    k.to_string().chars().map(of).collect()
}
