//! The parts of lines and areas that lie within the limits of both axes: in the unit square,
//! since axes have their ends at 0 and 1.

/// A point between the ends of both axes.
pub(super) type Place = (f64, f64);

pub(super) fn inside(&(x, y): &Place) -> bool {
    [x, y].iter().all(|share| (0.0..=1.0).contains(share))
}

/// The parts of a line through `points` that lie inside.
pub(super) fn line(points: &[Place]) -> Vec<Vec<Place>> {
    let mut parts: Vec<Vec<Place>> = Vec::new();
    let mut joined = false;
    for pair in points.windows(2) {
        let Some([start, end]) = segment(pair[0], pair[1]) else {
            joined = false;
            continue;
        };
        match parts.last_mut().filter(|_| joined) {
            Some(part) => part.push(end),
            None => parts.push(vec![start, end]),
        }
        joined = inside(&pair[1]);
    }
    parts
}

/// The part of a segment that lies inside: between two fractions of its length (Liang & Barsky 1984).
fn segment(a: Place, b: Place) -> Option<[Place; 2]> {
    let (mut from, mut to) = (0.0_f64, 1.0_f64);
    for (start, end) in [(a.0, b.0), (a.1, b.1)] {
        let length = end - start;
        if length == 0.0 {
            if !(0.0..=1.0).contains(&start) {
                return None;
            }
            continue;
        }
        let [low, high] = [-start / length, (1.0 - start) / length];
        from = from.max(low.min(high));
        to = to.min(low.max(high));
    }
    let at = |share: f64| (a.0 + share * (b.0 - a.0), a.1 + share * (b.1 - a.1));
    let start = if from == 0.0 { a } else { at(from) };
    let end = if to == 1.0 { b } else { at(to) };
    (from <= to).then_some([start, end])
}

/// The part of an area that lies inside, one side of the square after the other (Sutherland &
/// Hodgman 1974).
pub(super) fn area(outline: Vec<Place>) -> Vec<Place> {
    type Inner = fn(&Place) -> f64;
    // Not negative inside.
    let sides: [Inner; 4] = [|at| at.0, |at| 1.0 - at.0, |at| at.1, |at| 1.0 - at.1];
    sides.iter().fold(outline, |outline, inner| {
        let mut kept = Vec::new();
        let before = outline.iter().cycle().skip(outline.len().saturating_sub(1));
        for (a, b) in before.zip(&outline) {
            let (own, next) = (inner(a), inner(b));
            if (own < 0.0) != (next < 0.0) {
                let share = own / (own - next);
                kept.push((a.0 + share * (b.0 - a.0), a.1 + share * (b.1 - a.1)));
            }
            if next >= 0.0 {
                kept.push(*b);
            }
        }
        kept
    })
}
