//! Pictures of histories, read back as XML.

use std::collections::BTreeMap;
use std::fmt::Debug;

use layerwise::data::metrics;
use layerwise::decoupled::TargetInit;
use layerwise::energy::Energy;
use layerwise::error::Unplottable;
use layerwise::layer::{Activation, Dense};
use layerwise::nalgebra::DMatrix;
use layerwise::optimizer::Adam;
use layerwise::plot::{Along, Axis, Band, Line, Measure, Page, Panel, Runs};
use layerwise::target_solver::ReverseSweep;
use layerwise::training::{Backprop, Decoupling, EpochRecord, Phase, Trainer};
use layerwise::{Circuit, DecoupledCircuit, Error, Scalar};

/// An element, with its attributes and text.
#[derive(Debug)]
struct Element {
    name: String,
    attributes: BTreeMap<String, String>,
    text: String,
}

impl Element {
    fn get(&self, attribute: &str) -> &str {
        self.attributes.get(attribute).map_or("", |value| value)
    }

    fn number(&self, attribute: &str) -> f64 {
        self.get(attribute).parse().unwrap()
    }

    /// The points of a line or area, in pixels.
    fn points(&self) -> Vec<[f64; 2]> {
        let pair = |pair: &str| {
            let (x, y) = pair.split_once(',').unwrap();
            [x, y].map(|number| number.parse::<f64>().unwrap() / 4.0)
        };
        self.get("points").split_whitespace().map(pair).collect()
    }
}

/// The elements of a picture; panics where it is not well-formed.
fn parse(svg: &str) -> Vec<Element> {
    let unescaped = |text: &str| {
        assert!(!text.contains('<') && !text.chars().any(|c| c.is_control() && c != '\n'));
        let mut text = text.to_owned();
        for (name, own) in [
            ("lt", "<"),
            ("gt", ">"),
            ("quot", "\""),
            ("apos", "'"),
            ("amp", "&"),
        ] {
            text = text.replace(&format!("&{name};"), own);
        }
        text
    };
    let (mut found, mut open): (Vec<Element>, Vec<String>) = (Vec::new(), Vec::new());
    let mut rest = svg.trim();
    while !rest.is_empty() {
        let (tag, after) = rest.strip_prefix('<').unwrap().split_once('>').unwrap();
        let (text, _) = after.split_once('<').unwrap_or((after, ""));
        rest = &after[text.len()..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name));
            continue;
        }
        let (body, closed) = tag
            .strip_suffix('/')
            .map_or((tag, false), |body| (body, true));
        let (name, mut own) = body.split_once(' ').unwrap();
        let mut attributes = BTreeMap::new();
        while let Some((key, after)) = own.split_once("=\"") {
            let (value, after) = after.split_once('"').unwrap();
            assert_eq!(
                attributes.insert(key.trim().to_owned(), unescaped(value)),
                None
            );
            own = after;
        }
        found.push(Element {
            name: name.into(),
            attributes,
            text: unescaped(text).trim().into(),
        });
        if !closed {
            open.push(name.into());
        }
    }
    assert!(open.is_empty(), "{open:?} left open");
    found
}

/// The colours of the first lines of a panel.
const COLOURS: [&str; 6] = [
    "#000000", "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9",
];

/// The lines, areas and texts of a page.
struct Picture(Vec<Element>);

impl Picture {
    fn of(page: &Page) -> Self {
        Self(parse(&page.to_svg().unwrap()))
    }

    /// The parts of the line of this number, without the legend's, which is the last.
    fn line(&self, number: usize) -> Vec<Vec<[f64; 2]>> {
        let own = |element: &&Element| {
            element.name == "polyline"
                && element.get("stroke") == COLOURS[number]
                && element.get("stroke-width") == "8"
        };
        let mut parts: Vec<_> = self.0.iter().filter(own).map(Element::points).collect();
        parts.pop();
        parts
    }

    /// Areas of a line's colour: markers if opaque, else bands, the last of which is the legend's.
    fn areas(&self, number: usize, opaque: bool) -> Vec<Vec<[f64; 2]>> {
        let own = |element: &&Element| {
            element.name == "polygon"
                && element.get("fill") == COLOURS[number]
                && (element.get("opacity") == "1") == opaque
        };
        let mut all: Vec<_> = self.0.iter().filter(own).map(Element::points).collect();
        all.pop();
        all
    }

    fn texts(&self) -> Vec<&str> {
        let texts = self.0.iter().filter(|element| element.name == "text");
        texts.map(|element| &element.text[..]).collect()
    }

    /// The labels of an axis with their places in pixels, along x (0) or y (1).
    fn ticks(&self, axis: usize) -> Vec<(&str, f64)> {
        let own = |element: &&Element| {
            // Labels of x are centred below their tick, those of y end before it.
            let key = ["middle0.76em", "end0.5ex"][axis];
            let place = [element.get("text-anchor"), element.get("dy")].concat();
            element.name == "text" && place == key && !element.attributes.contains_key("transform")
        };
        let of = |element| -> (&str, f64) {
            let element: &Element = element;
            (&element.text, element.number(["x", "y"][axis]) / 4.0)
        };
        self.0.iter().filter(own).map(of).collect()
    }

    /// The place of a value on a linear axis, by its first and last labels.
    fn place(&self, axis: usize, value: f64) -> f64 {
        let ticks = self.ticks(axis);
        let read = |label: &str| label.parse::<f64>().unwrap();
        let ((a, start), (b, end)) = (ticks[0], ticks[ticks.len() - 1]);
        start + (end - start) * (value - read(a)) / (read(b) - read(a))
    }
}

fn wave<T: Scalar>(rows: usize, n: usize) -> DMatrix<T> {
    DMatrix::from_fn(rows, n, |i, j| T::of((0.8 * j as f64 + i as f64).sin()))
}

/// A history with all quantities, on a 2-4-1 circuit.
fn history<T: Scalar>(seed: u64, epochs: u64, decoupled: bool) -> Vec<EpochRecord<T>> {
    let circuit = Circuit::builder()
        .layer(Dense::new(2, 4, Activation::Tanh).unwrap())
        .layer(Dense::new(4, 1, Activation::Identity).unwrap())
        .seed(seed);
    let mut model = DecoupledCircuit::new(circuit.build().unwrap(), Energy::default()).unwrap();
    let examples = (wave(2, 8), wave(1, 8));
    model
        .add_examples(&examples.0, &examples.1, &TargetInit::ForwardPass)
        .unwrap();
    let adam = Adam::new(1e-2).unwrap();
    let phase = match decoupled {
        true => Phase::new(Decoupling::persistent(ReverseSweep::new(1)), adam),
        false => Phase::new(Backprop, adam),
    };
    let phase = phase.with_epochs(epochs).with_batch_size(4).unwrap();
    let trainer = Trainer::new(phase)
        .with_validation(wave(2, 3), wave(1, 3))
        .with_metric(|y, predictions| Ok(metrics::r_squared(y, predictions)?[0]));
    trainer.run(&mut model).unwrap().history
}

/// A history with these composed losses.
fn losses<T: Scalar>(values: &[f64]) -> Vec<EpochRecord<T>> {
    let mut history = history(0, values.len() as u64, true);
    for (record, &value) in history.iter_mut().zip(values) {
        record.composed_loss = Some(T::of(value));
    }
    history
}

fn linear(name: &str) -> Axis {
    Axis::linear(name)
}

fn loss<T: Scalar>(runs: &Runs<T>) -> Result<Panel, Error> {
    runs.panel(Measure::ComposedLoss, linear("loss"))
}

fn close(a: f64, b: f64) -> bool {
    // Pixels are drawn in quarters.
    (a - b).abs() <= 0.25
}

fn values_are_drawn_in_place<T: Scalar>() {
    let values = [1.0, 0.5, f64::NAN, 0.25, f64::INFINITY, 0.0, 0.125];
    let runs = Runs::new().with_run("one", &losses::<T>(&values));
    let picture = Picture::of(&Page::new("").with_panel(loss(&runs).unwrap()));
    // Points that are not finite are gaps: two parts, and a marker for the point between two gaps.
    let parts = picture.line(0);
    let expected = [vec![0, 1], vec![5, 6]];
    assert_eq!(parts.len(), expected.len());
    for (part, epochs) in parts.iter().zip(&expected) {
        assert_eq!(part.len(), epochs.len());
        for (point, &epoch) in part.iter().zip(epochs) {
            assert!(
                close(point[0], picture.place(0, epoch as f64 + 1.0)),
                "{point:?}"
            );
            assert!(
                close(point[1], picture.place(1, values[epoch])),
                "{point:?}"
            );
        }
    }
    let centre = |marker: &Vec<[f64; 2]>| -> [f64; 2] {
        let n = marker.len() as f64;
        [0, 1].map(|i| marker.iter().map(|corner| corner[i]).sum::<f64>() / n)
    };
    let lone = [picture.place(0, 4.0), picture.place(1, 0.25)];
    let markers = picture.areas(0, true);
    let at = |marker: &Vec<[f64; 2]>| (0..2).all(|i| close(centre(marker)[i], lone[i]));
    assert!(markers.iter().any(at), "{lone:?} among {markers:?}");
}

#[test]
fn values_are_drawn_in_place_f32() {
    values_are_drawn_in_place::<f32>();
}

#[test]
fn values_are_drawn_in_place_f64() {
    values_are_drawn_in_place::<f64>();
}

fn seeds_become_mean_and_deviation<T: Scalar>() {
    let runs = Runs::new()
        .with_run("a", &losses::<T>(&[1.0, 2.0, 4.0, 4.0]))
        .with_run("b", &losses::<T>(&[0.0, 0.0, 0.0]))
        .with_run("a", &losses::<T>(&[3.0, 2.0, f64::NAN, 5.0]))
        .with_run("a", &losses::<T>(&[5.0, 2.0, 4.0]));
    let picture = Picture::of(&Page::new("").with_panel(loss(&runs).unwrap()));
    // By hand: means 3 and 2, sample deviations 2 and 0; then a gap, and an epoch that one lacks.
    let [line] = &picture.line(0)[..] else {
        panic!("one part")
    };
    let [band] = &picture.areas(0, false)[..] else {
        panic!("one band")
    };
    let y = |value: f64| picture.place(1, value);
    let x = [1.0, 2.0].map(|epoch| picture.place(0, epoch));
    let expected = [[x[0], y(3.0)], [x[1], y(2.0)]];
    let outline = [
        [x[0], y(1.0)],
        [x[1], y(2.0)],
        [x[1], y(2.0)],
        [x[0], y(5.0)],
    ];
    for (found, expected) in [(&line[..], &expected[..]), (&band[..], &outline[..])] {
        assert_eq!(found.len(), expected.len());
        for (a, b) in found.iter().zip(expected) {
            assert!(close(a[0], b[0]) && close(a[1], b[1]), "{a:?}, not {b:?}");
        }
    }
    assert!(picture.texts().contains(&"a (mean ± sd, n = 3)"));
    assert!(picture.texts().contains(&"b"));
}

/// The squares of the deviations over- and underflow, the deviations do not: the band is the same in every
/// unit.
#[test]
fn deviations_of_extreme_values_are_drawn() {
    let band = |size: f64| {
        let runs = Runs::new()
            .with_run("a", &losses::<f64>(&[size, 2.0 * size]))
            .with_run("a", &losses::<f64>(&[3.0 * size, 4.0 * size]));
        let picture = Picture::of(&Page::new("").with_panel(loss(&runs).unwrap()));
        let [band] = &picture.areas(0, false)[..] else {
            panic!("one band")
        };
        band.clone()
    };
    let expected = band(1.0);
    for size in [1e200, 1e-200] {
        assert_eq!(band(size), expected, "{size:e}");
    }
}

#[test]
fn seeds_become_mean_and_deviation_f32() {
    seeds_become_mean_and_deviation::<f32>();
}

#[test]
fn seeds_become_mean_and_deviation_f64() {
    seeds_become_mean_and_deviation::<f64>();
}

#[test]
fn every_measure_along_every_axis() {
    let (first, second) = (history::<f64>(0, 5, true), history::<f64>(1, 5, true));
    let seconds = [0.5, 1.0, 1.5, 2.0, 2.5];
    let runs = Runs::new()
        .with_timed_run("first", &first, &seconds)
        .unwrap()
        .with_timed_run("second & <last>\u{0}", &second, &seconds)
        .unwrap();
    let last = &first[4];
    for (measure, value) in [
        (Measure::Objective, Some(last.objective)),
        (Measure::ComposedLoss, last.composed_loss),
        (Measure::ValidationLoss, last.validation_loss),
        (Measure::Gap, last.gap),
        (Measure::Metric, last.metric),
    ] {
        for (along, name, x) in [
            (Along::Epochs, "epoch", 5.0),
            (Along::Steps, "parameter steps", last.steps as f64),
            (Along::Seconds, "seconds", 2.5),
        ] {
            let panel = runs
                .clone()
                .along(along)
                .panel(measure, linear("y"))
                .unwrap();
            let picture = Picture::of(&Page::new("Title").with_panel(panel));
            let end = *picture.line(0)[0].last().unwrap();
            assert!(close(end[0], picture.place(0, x)), "{measure:?} {along:?}");
            assert!(
                close(end[1], picture.place(1, value.unwrap())),
                "{measure:?} {along:?}"
            );
            let texts = picture.texts();
            for text in ["Title", name, "y", "first", "second & <last>"] {
                assert_eq!(
                    texts.iter().filter(|own| **own == text).count(),
                    1,
                    "{text}"
                );
            }
        }
    }
}

#[test]
fn logarithmic_axes_are_labelled_at_decades() {
    for (low, high, labels) in [
        (1e-3, 1e2, &["0.001", "0.01", "0.1", "1", "10", "100"][..]),
        (
            3e-7,
            2e-3,
            &["10⁻⁷", "10⁻⁶", "10⁻⁵", "10⁻⁴", "10⁻³", "10⁻²"],
        ),
        (0.3, 0.8, &["0.3", "0.4", "0.5", "0.6", "0.7", "0.8"]),
        (0.3, 0.95, &["0.5", "1"]),
        (2e9, 3e10, &["2·10⁹", "5·10⁹", "10¹⁰", "2·10¹⁰"]),
        (1.0, 1.0, &["1", "2"]),
        (
            1e-300,
            1e300,
            &[
                "10⁻³⁰⁴",
                "10⁻²²⁸",
                "10⁻¹⁵²",
                "10⁻⁷⁶",
                "10⁰",
                "10⁷⁶",
                "10¹⁵²",
                "10²²⁸",
                "10³⁰⁴",
            ],
        ),
    ] {
        let panel = Panel::new(linear("x"), Axis::logarithmic("y"))
            .with_line(Line::new("line", [(0.0, low), (1.0, high)]));
        let picture = Picture::of(&Page::new("").with_panel(panel));
        let ticks = picture.ticks(1);
        let found: Vec<&str> = ticks.iter().map(|tick| tick.0).collect();
        assert_eq!(found, labels, "{low} to {high}");
        if low == 1e-3 {
            let gaps = ticks.windows(2).map(|pair| pair[0].1 - pair[1].1);
            let (least, most) =
                gaps.fold((f64::MAX, 0.0_f64), |(a, b), gap| (a.min(gap), b.max(gap)));
            assert!(most - least <= 0.5, "{least} {most}");
            let line = &picture.line(0)[0];
            assert!(close(line[0][1], ticks[0].1) && close(line[1][1], ticks[5].1));
        }
    }
}

#[test]
fn linear_axes_are_labelled_at_round_numbers() {
    for (low, high, labels) in [
        (0.0, 1.0, &["0", "0.2", "0.4", "0.6", "0.8", "1.0"][..]),
        (
            -3.0,
            12.0,
            &["-4", "-2", "0", "2", "4", "6", "8", "10", "12"],
        ),
        (
            0.0,
            3e7,
            &[
                "0",
                "5·10⁶",
                "1·10⁷",
                "1.5·10⁷",
                "2·10⁷",
                "2.5·10⁷",
                "3·10⁷",
            ],
        ),
        (
            2e-9,
            4e-9,
            &["2·10⁻⁹", "2.5·10⁻⁹", "3·10⁻⁹", "3.5·10⁻⁹", "4·10⁻⁹"],
        ),
        (0.0, 0.0, &["-1.0", "-0.5", "0", "0.5", "1.0"]),
        (
            98.1,
            98.9,
            &["98.0", "98.2", "98.4", "98.6", "98.8", "99.0"],
        ),
    ] {
        let panel = Panel::new(linear("x"), linear("y"))
            .with_line(Line::new("line", [(0.0, low), (1.0, high)]));
        let picture = Picture::of(&Page::new("").with_panel(panel));
        let found: Vec<&str> = picture.ticks(1).iter().map(|tick| tick.0).collect();
        assert_eq!(found, labels, "{low} to {high}");
    }
    // Epochs are whole.
    let runs = Runs::new().with_run("short", &losses::<f64>(&[1.0, 2.0]));
    let picture = Picture::of(&Page::new("").with_panel(loss(&runs).unwrap()));
    let epochs: Vec<&str> = picture.ticks(0).iter().map(|tick| tick.0).collect();
    assert_eq!(epochs, ["1", "2"]);
}

/// The extremes of the scalar are drawn, inside the page.
#[test]
fn extreme_values_are_drawn() {
    let values = [
        f64::MIN,
        f64::MAX,
        0.0,
        5e-324,
        -5e-324,
        1.0,
        1.0 + f64::EPSILON,
        1e300,
    ];
    for a in values {
        for b in values {
            for y in [linear("y"), Axis::counted("y"), Axis::logarithmic("y")] {
                let positive = a > 0.0 && b > 0.0;
                if y == Axis::logarithmic("y") && !positive {
                    continue;
                }
                let line = Line::new("line", [(a, a), (b, b)]);
                let panel = Panel::new(linear("x"), y).with_line(line);
                let picture = Picture::of(&Page::new("").with_panel(panel));
                let size = ["width", "height"].map(|side| picture.0[0].number(side));
                for point in picture.line(0).concat() {
                    for (place, size) in point.iter().zip(size) {
                        assert!((0.0..=size).contains(place), "{a} {b}: {point:?}");
                    }
                }
                assert!(picture.ticks(1).len() < 12, "{:?}", picture.ticks(1));
            }
        }
    }
}

#[test]
fn six_lines_are_told_apart_and_a_shared_legend_is_drawn_once() {
    let panel = |height: f64| {
        let lines =
            (0..6).map(|i| Line::new(format!("line {i}"), [(0.0, f64::from(i)), (height, 0.0)]));
        lines.fold(Panel::new(linear("x"), linear("y")), Panel::with_line)
    };
    let page = Page::new("Six")
        .with_panel(panel(1.0))
        .with_panel(panel(2.0));
    let picture = Picture::of(&page);
    for number in 0..6 {
        // Two panels: solid lines are whole, the others in dashes.
        let parts = picture.line(number).len();
        assert_eq!(parts == 2, number % 2 == 0, "line {number}: {parts} parts");
        let name = format!("line {number}");
        assert_eq!(
            picture.texts().iter().filter(|own| **own == name).count(),
            1
        );
    }
    let other = panel(1.0).with_band(Band::new("others", [(0.0, [1.0, 2.0]), (1.0, [0.0, 4.0])]));
    let picture = Picture::of(&page.with_panel(other));
    for (name, count) in [("line 0", 3), ("others", 1)] {
        assert_eq!(
            picture.texts().iter().filter(|own| **own == name).count(),
            count
        );
    }
    // The legend lies below all lines.
    let texts = picture
        .0
        .iter()
        .filter(|element| element.text.starts_with("line "));
    let highest = texts
        .map(|element| element.number("y") / 4.0)
        .fold(f64::MAX, f64::min);
    let first = picture.line(0)[0]
        .iter()
        .map(|point| point[1])
        .fold(0.0, f64::max);
    assert!(first < highest);
}

#[test]
fn shared_scales_show_all_panels() {
    let panel = |top: f64| {
        let line = Line::new("line", [(0.0, 1.0), (1.0, top)]);
        Panel::new(linear("x"), linear("y")).with_line(line)
    };
    let page = Page::new("").with_panel(panel(2.0)).with_panel(panel(50.0));
    let apart = Picture::of(&page);
    assert!(apart.texts().contains(&"1.2"));
    let picture = Picture::of(&page.with_shared_scales());
    let labels: Vec<&str> = picture.ticks(1).iter().map(|tick| tick.0).collect();
    assert_eq!(labels[..labels.len() / 2], labels[labels.len() / 2..]);
}

#[test]
fn a_band_is_cut_off_by_a_logarithmic_axis() {
    let line = Line::new("line", [(0.0, 1.0), (1.0, 100.0)]);
    let line = line.with_deviations(vec![2.0, 0.0]).unwrap();
    let panel = Panel::new(linear("x"), Axis::logarithmic("y")).with_line(line);
    let picture = Picture::of(&Page::new("").with_panel(panel));
    let [band] = &picture.areas(0, false)[..] else {
        panic!("one band")
    };
    let (bottom, top) = (picture.ticks(1)[0], picture.line(0)[0][1]);
    assert_eq!(bottom.0, "1");
    assert!(close(band[0][1], bottom.1) && close(band[1][1], top[1]));
}

/// The lower left and the upper right corner of the lines' area: its axes and grid are long lines.
fn corners(picture: &Picture) -> [[f64; 2]; 2] {
    let grid = picture
        .0
        .iter()
        .filter(|element| element.name == "polyline" && element.get("stroke-width") == "4");
    let long = |line: &Vec<[f64; 2]>| (0..2).any(|i| (line[0][i] - line[1][i]).abs() > 100.0);
    let points: Vec<[f64; 2]> = grid.map(Element::points).filter(long).flatten().collect();
    let ends = |i: usize| {
        let all = points.iter().map(|point| point[i]);
        all.fold((f64::MAX, f64::MIN), |(a, b), own| (a.min(own), b.max(own)))
    };
    let ((left, right), (top, bottom)) = (ends(0), ends(1));
    [[left, bottom], [right, top]]
}

#[test]
fn limits_cut_lines_off() {
    let near = |a: [f64; 2], b: [f64; 2]| close(a[0], b[0]) && close(a[1], b[1]);
    // From below the limits to above them, outside, and back: by hand it is inside from x = 1.25 to
    // 1.75, and from 4.5 to 5.
    let points = [(0.0, 0.0), (1.0, 0.0), (2.0, 4.0), (4.0, 4.0), (5.0, 2.0)];
    let panel = |line: Line| {
        let y = linear("y").with_limits(1.0, 3.0).unwrap();
        Panel::new(linear("x"), y).with_line(line)
    };
    let picture = Picture::of(&Page::new("").with_panel(panel(Line::new("line", points))));
    let labels: Vec<&str> = picture.ticks(1).iter().map(|tick| tick.0).collect();
    assert_eq!(labels, ["1.0", "1.5", "2.0", "2.5", "3.0"]);
    let at = |x: f64, y: f64| [picture.place(0, x), picture.place(1, y)];
    let parts = picture.line(0);
    let expected = [
        vec![at(1.25, 1.0), at(1.75, 3.0)],
        vec![at(4.5, 3.0), at(5.0, 2.0)],
    ];
    assert_eq!(parts.len(), 2, "{parts:?}");
    for (part, expected) in parts.iter().zip(&expected) {
        assert_eq!(part.len(), 2);
        let all = part.iter().zip(expected).all(|(a, b)| near(*a, *b));
        assert!(all, "{part:?}, not {expected:?}");
    }
    // The one point inside has the only marker.
    assert_eq!(picture.areas(0, true).len(), 1);

    // A band is cut along its slopes: a triangle without its tip.
    let line = Line::new("line", [(0.0, 2.0), (4.0, 2.0)]);
    let line = line.with_deviations(vec![0.0, 2.0]).unwrap();
    let picture = Picture::of(&Page::new("").with_panel(panel(line)));
    let at = |x: f64, y: f64| [picture.place(0, x), picture.place(1, y)];
    let [band] = &picture.areas(0, false)[..] else {
        panic!("one band")
    };
    let expected = [
        at(0.0, 2.0),
        at(2.0, 1.0),
        at(4.0, 1.0),
        at(4.0, 3.0),
        at(2.0, 3.0),
    ];
    for corner in expected {
        assert!(
            band.iter().any(|own| near(*own, corner)),
            "{band:?}, {corner:?}"
        );
    }
    for own in band {
        assert!(
            expected.iter().any(|corner| near(*own, *corner)),
            "{band:?}, {own:?}"
        );
    }
}

#[test]
fn limits_are_the_ends_of_an_axis() {
    for (axis, labels, ends) in [
        (
            linear("y").with_limits(0.95, 1.0),
            &["0.95", "0.96", "0.97", "0.98", "0.99", "1.00"][..],
            true,
        ),
        // Between ticks the axis just ends.
        (
            linear("y").with_limits(0.17, 0.83),
            &["0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8"],
            false,
        ),
        (
            Axis::counted("y").with_limits(0.5, 3.5),
            &["1", "2", "3"],
            false,
        ),
        (Axis::counted("y").with_limits(0.2, 0.8), &[], false),
        (
            Axis::logarithmic("y").with_limits(1e-3, 10.0),
            &["0.001", "0.01", "0.1", "1", "10"],
            true,
        ),
        (
            Axis::logarithmic("y").with_limits(0.91, 0.99),
            &[
                "0.91", "0.92", "0.93", "0.94", "0.95", "0.96", "0.97", "0.98", "0.99",
            ],
            true,
        ),
    ] {
        let line = Line::new("line", [(0.0, 0.5), (1.0, 2.0)]);
        let panel = Panel::new(linear("x"), axis.unwrap()).with_line(line);
        let picture = Picture::of(&Page::new("").with_panel(panel));
        let ticks = picture.ticks(1);
        let found: Vec<&str> = ticks.iter().map(|tick| tick.0).collect();
        assert_eq!(found, labels);
        let [low, high] = corners(&picture).map(|corner| corner[1]);
        if let [first, .., last] = ticks[..] {
            assert_eq!(
                close(first.1, low) && close(last.1, high),
                ends,
                "{ticks:?}"
            );
        }
    }
    // They hold among shared scales too, and of the other axis all is shown.
    let line = || Line::new("line", [(0.0, 0.0), (1.0, 50.0)]);
    let limited = Panel::new(linear("x"), linear("y").with_limits(0.0, 2.0).unwrap());
    let page = Page::new("")
        .with_panel(limited.with_line(line()))
        .with_panel(Panel::new(linear("x"), linear("y")).with_line(line()))
        .with_shared_scales();
    let labels = Picture::of(&page);
    let labels: Vec<&str> = labels.ticks(1).iter().map(|tick| tick.0).collect();
    assert!(
        labels.contains(&"1.5") && labels.contains(&"50"),
        "{labels:?}"
    );
}

#[test]
fn limits_far_from_the_values_draw_nothing_outside() {
    let values = [f64::MIN, -1.0, 0.0, 5e-324, 1.0, 2.0, 1e300, f64::MAX];
    for a in values {
        for b in values {
            let line = Line::new("line", [(a, a), (b, b), (a, b)]);
            let line = line.with_deviations(vec![1.0, 1e300, 0.0]).unwrap();
            for x in [linear("x"), linear("x").with_limits(0.5, 1.5).unwrap()] {
                let y = linear("y").with_limits(1.0, 1.1).unwrap();
                let panel = Panel::new(x, y).with_line(line.clone());
                let picture = Picture::of(&Page::new("").with_panel(panel));
                let [low, high] = corners(&picture);
                for point in [picture.line(0), picture.areas(0, false)].concat().concat() {
                    let inside = |i: usize| {
                        let (least, most) = (low[i].min(high[i]), low[i].max(high[i]));
                        (least - 0.25..=most + 0.25).contains(&point[i])
                    };
                    assert!(inside(0) && inside(1), "{a} {b}: {point:?}");
                }
            }
        }
    }
}

#[test]
fn bad_limits_are_refused() {
    let logarithmic = || Axis::logarithmic("y");
    for (limited, end, value) in [
        (linear("y").with_limits(f64::NAN, 1.0), "low", f64::NAN),
        (
            linear("y").with_limits(f64::NEG_INFINITY, 1.0),
            "low",
            f64::NEG_INFINITY,
        ),
        (
            linear("y").with_limits(0.0, f64::INFINITY),
            "high",
            f64::INFINITY,
        ),
        (linear("y").with_limits(0.0, f64::NAN), "high", f64::NAN),
        (linear("y").with_limits(1.0, 1.0), "high", 1.0),
        (linear("y").with_limits(1.0, 0.5), "high", 0.5),
        (
            linear("y").with_limits(1.0, 1.0 + 1e-12),
            "high",
            1.0 + 1e-12,
        ),
        (linear("y").with_limits(0.0, 5e-324), "high", 5e-324),
        (logarithmic().with_limits(0.0, 1.0), "low", 0.0),
        (logarithmic().with_limits(-1.0, 1.0), "low", -1.0),
        (logarithmic().with_limits(2.0, 1.0), "high", 1.0),
    ] {
        let Err(Error::InvalidOption {
            option,
            value: found,
            ..
        }) = limited
        else {
            panic!("{end} {value}")
        };
        assert_eq!(option, format!("{end} of Axis::with_limits"));
        assert_eq!(found.to_bits(), value.to_bits());
    }
    assert!(linear("y").with_limits(f64::MIN, f64::MAX).is_ok());
}

#[test]
fn a_method_without_a_gap_is_left_out_of_its_panel() {
    let runs = (0..2).fold(Runs::new(), |runs, seed| {
        runs.with_run("backprop", &history::<f64>(seed, 5, false))
            .with_run("decoupled", &history(seed, 5, true))
    });
    let gap = runs.panel(Measure::Gap, linear("gap")).unwrap();
    let picture = Picture::of(&Page::new("").with_panel(gap.clone()));
    assert!(picture.texts().contains(&"decoupled (mean ± sd, n = 2)"));
    assert!(!picture.texts().contains(&"backprop (mean ± sd, n = 2)"));
    assert!(picture.line(0).is_empty());
    // In the colour that it has beside backprop.
    assert!(!picture.line(1).is_empty());
    // Each panel has the legend of its lines then.
    let both = Page::new("")
        .with_panel(loss(&runs).unwrap())
        .with_panel(gap);
    let picture = Picture::of(&both);
    for (name, count) in [("backprop", 1), ("decoupled", 2)] {
        let texts = picture.texts();
        let own = texts.iter().filter(|text| text.starts_with(name));
        assert_eq!(own.count(), count, "{name}");
    }
    // One run of a method that lacks what the others have is no method without a gap.
    let mixed = Runs::new()
        .with_run("own", &history::<f64>(0, 5, true))
        .with_run("own", &history(0, 5, false));
    let refused = mixed.panel(Measure::Gap, linear("gap")).unwrap_err();
    assert!(
        refused.to_string().contains("own (run 2 of 2)"),
        "{refused}"
    );
}

#[test]
fn what_cannot_be_drawn_is_named() {
    fn plot<A: Debug>(refused: Result<A, Error>) -> (String, String, Unplottable) {
        match refused.unwrap_err() {
            Error::Plot {
                line,
                quantity,
                reason,
            } => (line, quantity, reason),
            other => panic!("{other}"),
        }
    }
    let named = |line: &str, quantity: &str, reason| (line.to_owned(), quantity.to_owned(), reason);
    let good = losses::<f64>(&[1.0, 2.0]);
    let one = |history: &[EpochRecord<f64>]| Runs::new().with_run("own", history);

    assert_eq!(
        plot(loss(&one(&[]))),
        named("own", "loss", Unplottable::Empty)
    );
    let two = one(&good).with_run("own", &[]);
    assert_eq!(
        plot(loss(&two)),
        named("own (run 2 of 2)", "loss", Unplottable::Empty)
    );
    let gap = one(&history(0, 2, false)).panel(Measure::Gap, linear("gap"));
    assert_eq!(plot(gap), named("own", "gap", Unplottable::NotRecorded));
    let seconds = loss(&one(&good).along(Along::Seconds));
    assert_eq!(plot(seconds), named("own", "loss", Unplottable::NotTimed));
    let bad = losses(&[f64::NAN, f64::INFINITY]);
    let not_finite = Unplottable::NotFinite { count: 2 };
    assert_eq!(plot(loss(&one(&bad))), named("own", "loss", not_finite));
    let other = one(&losses(&[1.0, f64::NAN])).with_run("own", &losses(&[f64::NAN, 1.0]));
    let none = Unplottable::NoCommonEpoch { runs: 2 };
    assert_eq!(plot(loss(&other)), named("own", "loss", none));
    let zero = one(&losses(&[1.0, 0.0])).panel(Measure::ComposedLoss, Axis::logarithmic("loss"));
    let not_positive = Unplottable::NotPositive {
        value: 0.0,
        at: 2.0,
    };
    let page = Page::new("").with_panel(zero.unwrap());
    assert_eq!(plot(page.to_svg()), named("own", "loss", not_positive));

    // Lines and bands of one's own.
    let drawn = |line: Line| {
        Page::new("")
            .with_panel(Panel::new(Axis::logarithmic("x"), linear("y")).with_line(line))
            .to_svg()
    };
    assert_eq!(
        plot(drawn(Line::new("l", []))),
        named("l", "y", Unplottable::Empty)
    );
    let not_finite = Unplottable::NotFinite { count: 1 };
    assert_eq!(
        plot(drawn(Line::new("l", [(f64::NAN, 1.0)]))),
        named("l", "y", not_finite)
    );
    let not_positive = Unplottable::NotPositive {
        value: -1.0,
        at: -1.0,
    };
    assert_eq!(
        plot(drawn(Line::new("l", [(-1.0, 1.0)]))),
        named("l", "x", not_positive)
    );
    let panel = Panel::new(linear("x"), linear("y")).with_line(Line::new("l", [(0.0, 1.0)]));
    let banded = panel
        .clone()
        .with_band(Band::new("b", [(0.0, [f64::NAN, 1.0])]));
    let banded = Page::new("").with_panel(banded).to_svg();
    assert_eq!(
        plot(banded),
        named("b", "y", Unplottable::NotFinite { count: 1 })
    );

    // Counts.
    let seven = (0..6).fold(panel, |panel, _| {
        panel.with_line(Line::new("l", [(0.0, 1.0)]))
    });
    for (page, option, value) in [
        (Page::new(""), "panels of a page", 0.0),
        (
            Page::new("").with_panel(Panel::new(linear("x"), linear("y"))),
            "lines of a panel",
            0.0,
        ),
        (Page::new("").with_panel(seven), "lines of a panel", 7.0),
    ] {
        match page.to_svg() {
            Err(Error::InvalidOption {
                option: own,
                value: found,
                ..
            }) => {
                assert_eq!((own, found), (option, value));
            }
            other => panic!("{other:?}"),
        }
    }
    let length = Line::new("l", [(0.0, 1.0)])
        .with_deviations(vec![])
        .unwrap_err();
    assert!(matches!(
        length,
        Error::Length {
            expected: 1,
            found: 0,
            ..
        }
    ));
    let length = Runs::new()
        .with_timed_run("own", &good, &[1.0])
        .unwrap_err();
    assert!(matches!(
        length,
        Error::Length {
            expected: 2,
            found: 1,
            ..
        }
    ));
    let page = Page::new("").with_panel(loss(&one(&good)).unwrap());
    let folder = std::env::temp_dir();
    let failed = page.save(&folder).unwrap_err();
    assert!(matches!(
        failed,
        Error::File {
            doing: "written",
            ..
        }
    ));
}

#[test]
fn equal_input_gives_equal_bytes() {
    let page = || {
        let runs = (0..3).fold(Runs::new(), |runs, seed| {
            runs.with_run("decoupled", &history::<f64>(seed, 6, true))
                .with_run("backprop", &history(seed, 6, false))
        });
        let log = Axis::logarithmic("composed loss");
        Page::new("Twice")
            .with_panel(runs.panel(Measure::ComposedLoss, log).unwrap())
            .with_panel(runs.panel(Measure::Metric, linear("R²")).unwrap())
    };
    let (first, second) = (page(), page());
    assert_eq!(first, second);
    let svg = first.to_svg().unwrap();
    assert_eq!(svg, second.to_svg().unwrap());
    let path = std::env::temp_dir().join(format!("layerwise-plot-{}.svg", std::process::id()));
    first.save(&path).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), svg);
    std::fs::remove_file(&path).unwrap();
    // As large as its pixels say, in units of a quarter.
    let root = &parse(&svg)[0];
    let view = format!(
        "0 0 {} {}",
        4.0 * root.number("width"),
        4.0 * root.number("height")
    );
    assert_eq!(root.get("viewBox"), view);
}
