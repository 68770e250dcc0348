//! How lines are told apart.

use plotters::style::{Color, RGBAColor, RGBColor};

/// A colour, a dash with its spacing, and the corners of a marker, in pixels.
pub(super) struct Style {
    pub(super) colour: RGBColor,
    pub(super) dash: Option<[f64; 2]>,
    pub(super) marker: &'static [(f64, f64)],
}

impl Style {
    /// The colour of a band.
    pub(super) fn pale(&self) -> RGBAColor {
        self.colour.mix(0.2)
    }
}

/// Colours of Okabe and Ito; dashes and markers tell lines apart without colour.
pub(super) const STYLES: [Style; 6] = [
    Style {
        colour: RGBColor(0, 0, 0),
        dash: None,
        marker: &[
            (4.0, 0.0),
            (2.8, 2.8),
            (0.0, 4.0),
            (-2.8, 2.8),
            (-4.0, 0.0),
            (-2.8, -2.8),
            (0.0, -4.0),
            (2.8, -2.8),
        ],
    },
    Style {
        colour: RGBColor(0, 114, 178),
        dash: Some([9.0, 4.0]),
        marker: &[(-3.5, -3.5), (3.5, -3.5), (3.5, 3.5), (-3.5, 3.5)],
    },
    Style {
        colour: RGBColor(213, 94, 0),
        dash: None,
        marker: &[(0.0, -5.0), (4.5, 3.5), (-4.5, 3.5)],
    },
    Style {
        colour: RGBColor(0, 158, 115),
        dash: Some([3.0, 2.5]),
        marker: &[(0.0, -5.0), (5.0, 0.0), (0.0, 5.0), (-5.0, 0.0)],
    },
    Style {
        colour: RGBColor(230, 159, 0),
        dash: None,
        marker: &[(0.0, 5.0), (-4.5, -3.5), (4.5, -3.5)],
    },
    Style {
        colour: RGBColor(86, 180, 233),
        dash: Some([16.0, 5.0]),
        marker: &[
            (-4.0, -1.5),
            (-1.5, -1.5),
            (-1.5, -4.0),
            (1.5, -4.0),
            (1.5, -1.5),
            (4.0, -1.5),
            (4.0, 1.5),
            (1.5, 1.5),
            (1.5, 4.0),
            (-1.5, 4.0),
            (-1.5, 1.5),
            (-4.0, 1.5),
        ],
    },
];
