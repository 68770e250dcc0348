//! What a layer or a loss is, as a value that can be read, saved, and built again.

use std::collections::BTreeMap;
use std::fmt;

use crate::error::Error;

/// The kind of a part of a model and its settings: all that is needed to build it again, without
/// its parameters.
///
/// A [`Registry`](crate::registry::Registry) builds the part from it. With the feature `serde` it
/// is also a serde value, which reads well as JSON.
///
/// # Examples
/// ```
/// use layerwise::prelude::*;
///
/// let layer = Dense::new(64, 10, Activation::Tanh)?.without_bias();
/// let description = Layer::<f64>::description(&layer).unwrap();
/// assert_eq!(
///     description.to_string(),
///     "Dense(activation = tanh, channels = 10, inputs = [64], \
///      weights = VarianceScaling(distribution = normal, fan = in, scale = 1))"
/// );
/// assert_eq!(description.count("channels")?, 10);
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
pub struct Description {
    kind: String,
    settings: BTreeMap<String, Setting>,
}

/// The value of one setting of a [`Description`].
///
/// Settings are equal if their values are: a whole number equals the same number as a [`Number`],
/// as text formats do not tell them apart.
///
/// [`Number`]: Setting::Number
#[derive(Debug, Clone)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(untagged))]
pub enum Setting {
    /// Yes or no.
    Flag(bool),
    /// A whole number.
    Count(u64),
    /// A finite number.
    Number(f64),
    /// A name.
    Text(String),
    /// A part, such as the loss that another loss is made of.
    Part(Description),
    /// Whole numbers, such as a shape.
    Counts(Vec<u64>),
    /// Finite numbers, such as one weight per unit.
    Numbers(Vec<f64>),
    /// Parts, in order.
    Parts(Vec<Description>),
}

impl Description {
    /// A description without settings.
    pub fn new(kind: impl Into<String>) -> Self {
        Self {
            kind: kind.into(),
            settings: BTreeMap::new(),
        }
    }

    /// Adds a setting, or replaces it.
    pub fn with(mut self, name: &str, setting: impl Into<Setting>) -> Self {
        self.settings.insert(name.into(), setting.into());
        self
    }

    /// What it is: for parts of this crate, the name of the type.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// A setting, if it is there.
    pub fn get(&self, name: &str) -> Option<&Setting> {
        self.settings.get(name)
    }

    /// Whether a flag is set.
    ///
    /// # Errors
    /// [`Error::Description`] if the setting is missing or of another type, for this method and
    /// those that follow.
    pub fn flag(&self, name: &str) -> Result<bool, Error> {
        self.read(name, "true or false", |setting| match setting {
            Setting::Flag(flag) => Some(*flag),
            _ => None,
        })
    }

    /// A whole number.
    ///
    /// # Errors
    /// [`Error::Description`].
    pub fn count(&self, name: &str) -> Result<usize, Error> {
        self.read(name, "a whole number", |setting| match *setting {
            Setting::Count(count) => usize::try_from(count).ok(),
            _ => None,
        })
    }

    /// A number, which may be whole.
    ///
    /// # Errors
    /// [`Error::Description`].
    pub fn number(&self, name: &str) -> Result<f64, Error> {
        self.read(name, "a number", |setting| match *setting {
            Setting::Number(number) => Some(number),
            Setting::Count(count) => Some(count as f64),
            _ => None,
        })
    }

    /// A name.
    ///
    /// # Errors
    /// [`Error::Description`].
    pub fn text(&self, name: &str) -> Result<&str, Error> {
        self.read(name, "a text", |setting| match setting {
            Setting::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// A part.
    ///
    /// # Errors
    /// [`Error::Description`].
    pub fn part(&self, name: &str) -> Result<&Self, Error> {
        self.read(name, "a part", |setting| match setting {
            Setting::Part(part) => Some(part),
            _ => None,
        })
    }

    /// Whole numbers.
    ///
    /// # Errors
    /// [`Error::Description`].
    pub fn counts(&self, name: &str) -> Result<Vec<usize>, Error> {
        let expected = "a list of whole numbers";
        self.read(name, expected, |setting| match setting {
            Setting::Counts(counts) => counts.iter().map(|&n| n.try_into().ok()).collect(),
            other => other.is_empty().then(Vec::new),
        })
    }

    /// Numbers, which may be whole.
    ///
    /// # Errors
    /// [`Error::Description`].
    pub fn numbers(&self, name: &str) -> Result<Vec<f64>, Error> {
        self.read(name, "a list of numbers", |setting| match setting {
            Setting::Numbers(numbers) => Some(numbers.clone()),
            Setting::Counts(counts) => Some(counts.iter().map(|&n| n as f64).collect()),
            other => other.is_empty().then(Vec::new),
        })
    }

    /// Parts, in order.
    ///
    /// # Errors
    /// [`Error::Description`].
    pub fn parts(&self, name: &str) -> Result<&[Self], Error> {
        self.read(name, "a list of parts", |setting| match setting {
            Setting::Parts(parts) => Some(parts.as_slice()),
            other => other.is_empty().then_some(&[][..]),
        })
    }

    fn read<'a, A>(
        &'a self,
        name: &str,
        expected: &'static str,
        value: impl FnOnce(&'a Setting) -> Option<A>,
    ) -> Result<A, Error> {
        let setting = self.get(name);
        setting
            .and_then(value)
            .ok_or_else(|| self.refuse(name, expected))
    }

    /// The error about a setting that is not what was expected.
    pub fn refuse(&self, setting: &str, expected: &str) -> Error {
        Error::Description {
            kind: self.kind.clone(),
            setting: setting.into(),
            expected: expected.into(),
            found: match self.get(setting) {
                Some(found) => found.to_string(),
                None => "missing".into(),
            },
        }
    }
}

impl Setting {
    /// Whether it is a list of nothing.
    fn is_empty(&self) -> bool {
        match self {
            Self::Counts(list) => list.is_empty(),
            Self::Numbers(list) => list.is_empty(),
            Self::Parts(list) => list.is_empty(),
            _ => false,
        }
    }

    /// Its numbers, and whether they are a list.
    fn numbers(&self) -> Option<(Vec<f64>, bool)> {
        match self {
            Self::Count(count) => Some((vec![*count as f64], false)),
            Self::Number(number) => Some((vec![*number], false)),
            Self::Counts(counts) => Some((counts.iter().map(|&n| n as f64).collect(), true)),
            Self::Numbers(numbers) => Some((numbers.clone(), true)),
            _ => None,
        }
    }
}

impl PartialEq for Setting {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Flag(a), Self::Flag(b)) => a == b,
            (Self::Count(a), Self::Count(b)) => a == b,
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::Part(a), Self::Part(b)) => a == b,
            (Self::Counts(a), Self::Counts(b)) => a == b,
            (Self::Parts(a), Self::Parts(b)) => a == b,
            // Nor do they tell the type of an empty list.
            (a, b) if a.is_empty() && b.is_empty() => true,
            _ => self
                .numbers()
                .is_some_and(|own| other.numbers() == Some(own)),
        }
    }
}

/// `Kind(name = setting, …)`, with the names in alphabetical order.
impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind)?;
        if self.settings.is_empty() {
            return Ok(());
        }
        for (i, (name, setting)) in self.settings.iter().enumerate() {
            let before = if i == 0 { "(" } else { ", " };
            write!(f, "{before}{name} = {setting}")?;
        }
        f.write_str(")")
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => flag.fmt(f),
            Self::Count(count) => count.fmt(f),
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => text.fmt(f),
            Self::Part(part) => part.fmt(f),
            Self::Counts(counts) => list(counts, f),
            Self::Numbers(numbers) => list(numbers, f),
            Self::Parts(parts) => list(parts, f),
        }
    }
}

/// `[a, b, …]`.
fn list(values: &[impl fmt::Display], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("[")?;
    for (i, value) in values.iter().enumerate() {
        let before = if i == 0 { "" } else { ", " };
        write!(f, "{before}{value}")?;
    }
    f.write_str("]")
}

impl From<bool> for Setting {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl From<usize> for Setting {
    fn from(count: usize) -> Self {
        Self::Count(count as u64)
    }
}

impl From<f64> for Setting {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl From<&str> for Setting {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Setting {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<Description> for Setting {
    fn from(part: Description) -> Self {
        Self::Part(part)
    }
}

impl From<&[usize]> for Setting {
    fn from(counts: &[usize]) -> Self {
        Self::Counts(counts.iter().map(|&count| count as u64).collect())
    }
}

impl From<Vec<f64>> for Setting {
    fn from(numbers: Vec<f64>) -> Self {
        Self::Numbers(numbers)
    }
}

impl From<Vec<Description>> for Setting {
    fn from(parts: Vec<Description>) -> Self {
        Self::Parts(parts)
    }
}
