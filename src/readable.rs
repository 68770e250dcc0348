//! Numbers in formats that people read. JSON has no ∞, so there the text "inf", "-inf" or "NaN" stands
//! for a number that is not finite.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::kernel::Scalar;

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Readable<T> {
    Number(T),
    Text(String),
}

impl<T: Scalar> Readable<T> {
    fn new(value: T) -> Self {
        match value.as_f64() {
            finite if finite.is_finite() => Self::Number(value),
            limit => Self::Text(limit.to_string()),
        }
    }

    fn value<E: serde::de::Error>(self) -> Result<T, E> {
        match self {
            Self::Number(value) => Ok(value),
            Self::Text(text) => match text.as_str() {
                "inf" => Ok(T::of(f64::INFINITY)),
                "-inf" => Ok(T::of(f64::NEG_INFINITY)),
                "NaN" => Ok(T::of(f64::NAN)),
                _ => Err(E::custom(format!("'{text}' is not a number"))),
            },
        }
    }
}

pub(crate) fn serialize<T: Scalar + Serialize, S: Serializer>(
    value: &T,
    to: S,
) -> Result<S::Ok, S::Error> {
    match to.is_human_readable() {
        true => Readable::new(*value).serialize(to),
        false => value.serialize(to),
    }
}

pub(crate) fn deserialize<'de, T: Scalar + Deserialize<'de>, D: Deserializer<'de>>(
    from: D,
) -> Result<T, D::Error> {
    match from.is_human_readable() {
        true => Readable::deserialize(from)?.value(),
        false => T::deserialize(from),
    }
}

/// Numbers that may be missing.
pub(crate) mod optional {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Readable;
    use crate::kernel::Scalar;

    pub(crate) fn serialize<T: Scalar + Serialize, S: Serializer>(
        value: &Option<T>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match to.is_human_readable() {
            true => value.map(Readable::new).serialize(to),
            false => value.serialize(to),
        }
    }

    pub(crate) fn deserialize<'de, T: Scalar + Deserialize<'de>, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<T>, D::Error> {
        match from.is_human_readable() {
            true => Option::<Readable<T>>::deserialize(from)?
                .map(Readable::value)
                .transpose(),
            false => Option::deserialize(from),
        }
    }
}
