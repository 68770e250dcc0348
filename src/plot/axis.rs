//! What an axis shows, and how.

/// The name of an axis, with its unit, and its scale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Axis {
    pub(super) name: String,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Linear,
    /// Linear, with ticks at whole numbers alone.
    Counted,
    Logarithmic,
}

impl Axis {
    /// Equal steps, labelled at round numbers.
    pub fn linear(name: impl Into<String>) -> Self {
        Self::of(name, Kind::Linear)
    }

    /// Equal steps, labelled at whole numbers.
    pub fn counted(name: impl Into<String>) -> Self {
        Self::of(name, Kind::Counted)
    }

    /// Equal factors, labelled at powers of ten, on a short axis between them too. Values must be
    /// above 0.
    pub fn logarithmic(name: impl Into<String>) -> Self {
        Self::of(name, Kind::Logarithmic)
    }

    fn of(name: impl Into<String>, kind: Kind) -> Self {
        let name = name.into();
        Self { name, kind }
    }
}
