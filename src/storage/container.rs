//! A safetensors file with a manifest: how all files of the crate are laid out.

use std::borrow::Cow;
use std::path::Path;

use safetensors::{Dtype, SafeTensors, View};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Stored;
use super::atomic;
use crate::error::Error;
use crate::kernel::extent_product;

/// The metadata entry with the manifest.
const ENTRY: &str = "layerwise";

/// The version of files that this version of the crate writes, and the newest it reads.
const VERSION: u64 = 1;

/// What the manifest begins with; the checksum's 8 hexadecimal digits follow.
const BEFORE_CHECKSUM: &str = "{\"checksum\":\"";
const AFTER_CHECKSUM: &str = "\",";

/// A named array, to be written.
struct Array {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl View for &Array {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// A file to be written: its arrays.
#[derive(Default)]
pub(super) struct Draft(Vec<(String, Array)>);

impl Draft {
    /// Adds an array that is stored with the **first** index fastest, as parameters are.
    pub(super) fn put<T: Stored>(&mut self, name: String, shape: &[usize], values: &[T]) {
        let mut bytes = Vec::with_capacity(size_of_val(values));
        for index in row_major(shape) {
            values[index].put(&mut bytes);
        }
        self.add(name, T::DTYPE, shape, bytes);
    }

    /// Adds an array of n rows, which are stored one after another.
    pub(super) fn put_rows<T: Stored>(&mut self, name: String, n: usize, values: &[T]) {
        let mut bytes = Vec::with_capacity(size_of_val(values));
        values.iter().for_each(|value| value.put(&mut bytes));
        let columns = values.len().checked_div(n).unwrap_or(0);
        self.add(name, T::DTYPE, &[n, columns], bytes);
    }

    /// Adds whole numbers.
    pub(super) fn put_counts(&mut self, name: &str, values: &[u64]) {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes());
        self.add(name.into(), Dtype::U64, &[values.len()], bytes.collect());
    }

    /// Adds bytes.
    pub(super) fn put_bytes(&mut self, name: &str, bytes: Vec<u8>) {
        self.add(name.into(), Dtype::U8, &[bytes.len()], bytes);
    }

    fn add(&mut self, name: String, dtype: Dtype, shape: &[usize], bytes: Vec<u8>) {
        let shape = shape.to_vec();
        let array = Array {
            dtype,
            shape,
            bytes,
        };
        self.0.push((name, array));
    }

    /// The file's bytes.
    pub(super) fn finish<T: Stored, M: Serialize + DeserializeOwned>(
        self,
        manifest: &M,
    ) -> Result<Vec<u8>, Error> {
        let refused = |reason: &dyn std::fmt::Display| Error::Format {
            file: "what is to be saved".into(),
            reason: reason.to_string(),
        };
        let head = Head {
            version: VERSION,
            scalar: T::NAME.into(),
            manifest,
        };
        let manifest = serde_json::to_string(&head).map_err(|reason| refused(&reason))?;
        // What cannot be read again is refused now, not when it is needed.
        let again = serde_json::from_str::<Head<M>>(&manifest);
        let again = again.and_then(|again| serde_json::to_string(&again));
        if again.ok().as_ref() != Some(&manifest) {
            return Err(refused(
                &"its description cannot be read again: does it have numbers that are not finite, or \
                  layers within layers more than 30 deep?",
            ));
        }
        let rest = &manifest[1..];
        let arrays = self.0.iter().map(|(name, array)| {
            let shape = array.shape.as_slice();
            (name.as_str(), array.dtype, shape, array.bytes.as_slice())
        });
        let mut arrays: Vec<_> = arrays.collect();
        arrays.sort_unstable_by_key(|&(name, ..)| name);
        if let Some(twice) = arrays.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(refused(&format!(
                "it has two arrays named '{}'",
                twice[0].0
            )));
        }
        let sum = checksum(rest, arrays);
        let manifest = format!("{BEFORE_CHECKSUM}{sum:08x}{AFTER_CHECKSUM}{rest}");
        let arrays = self.0.iter().map(|(name, array)| (name.as_str(), array));
        let metadata = [(ENTRY.to_owned(), manifest)].into_iter().collect();
        safetensors::serialize(arrays, Some(metadata)).map_err(|reason| refused(&reason))
    }
}

/// What every manifest has.
#[derive(Serialize, serde::Deserialize)]
struct Head<M> {
    version: u64,
    scalar: String,
    #[serde(flatten)]
    manifest: M,
}

/// The parts of a manifest that can be read whatever its version.
#[derive(serde::Deserialize)]
struct Least {
    version: u64,
    scalar: String,
}

/// A file that was read.
pub(super) struct Contents<'a> {
    /// What it is called in messages.
    file: String,
    arrays: SafeTensors<'a>,
}

impl<'a> Contents<'a> {
    /// The arrays of any safetensors file, in `bytes`; its path, if any, is for messages.
    pub(super) fn read(bytes: &'a [u8], path: Option<&Path>) -> Result<Self, Error> {
        let file = path.map_or_else(|| "the given buffer".into(), atomic::name);
        match SafeTensors::deserialize(bytes) {
            Ok(arrays) => Ok(Self { file, arrays }),
            Err(reason) => Err(Error::Format {
                file,
                reason: format!("it is truncated, damaged, or not a safetensors file ({reason})"),
            }),
        }
    }

    /// The manifest of a file of this crate with this scalar, after a check of the whole file.
    pub(super) fn manifest<T: Stored, M: Serialize + DeserializeOwned>(
        &self,
        bytes: &[u8],
    ) -> Result<M, Error> {
        // It was just read, so it can be read again.
        let header = SafeTensors::read_metadata(bytes);
        let (_, header) = header.map_err(|reason| self.refuse(&reason.to_string()))?;
        let entry = header.metadata().as_ref().and_then(|all| all.get(ENTRY));
        let entry = entry.ok_or_else(|| {
            self.refuse(
                "its metadata have no entry 'layerwise', so it was not saved by this crate \
                 (Circuit::load_tensors reads weights of other programs)",
            )
        })?;
        let parts = entry.strip_prefix(BEFORE_CHECKSUM).and_then(|text| {
            let (sum, rest) = text.split_at_checked(8)?;
            Some((sum, rest.strip_prefix(AFTER_CHECKSUM)?))
        });
        let (sum, rest) =
            parts.ok_or_else(|| self.refuse("its manifest does not begin with a checksum"))?;
        let manifest = format!("{{{rest}");
        let damaged = |reason| self.refuse(&format!("its manifest cannot be read: {reason}"));
        let least: Least = serde_json::from_str(&manifest).map_err(damaged)?;
        if least.version == 0 {
            return Err(self.refuse("its version is 0, but the first version is 1"));
        }
        if least.version > VERSION {
            return Err(self.refuse(&format!(
                "its version is {}, but this version of the crate reads up to version {VERSION}",
                least.version
            )));
        }
        let mut arrays = Vec::with_capacity(self.arrays.len());
        for (name, array) in self.arrays.iter() {
            let info = header.info(name);
            let shape = info.map_or(&[][..], |info| &info.shape);
            arrays.push((name, array.dtype(), shape, array.data()));
        }
        arrays.sort_unstable_by_key(|&(name, ..)| name);
        let found = format!("{:08x}", checksum(rest, arrays));
        if found != sum {
            return Err(self.refuse(&format!(
                "it is damaged: its checksum is {found}, but {sum} was saved"
            )));
        }
        if least.scalar != T::NAME {
            return Err(self.differs("the scalar type", T::NAME, &least.scalar));
        }
        let head: Head<M> = serde_json::from_str(&manifest).map_err(damaged)?;
        // What is ignored might change what the rest means.
        let found: Value = serde_json::from_str(&manifest).map_err(damaged)?;
        let known = serde_json::to_value(&head).map_err(damaged)?;
        match unknown(&found, &known) {
            Some(entry) => {
                Err(self.refuse(&format!("its manifest has an unknown entry '{entry}'")))
            }
            None => Ok(head.manifest),
        }
    }

    /// The names of all arrays, in alphabetical order.
    fn names(&self) -> String {
        let mut names = self.arrays.names();
        names.sort_unstable();
        names.join(", ")
    }

    /// What follows `prefix` in names of arrays, and their shapes, in alphabetical order.
    pub(super) fn beginning_with(&self, prefix: &str) -> Vec<(String, Vec<usize>)> {
        let named = self.arrays.iter().filter_map(|(name, array)| {
            let rest = name.strip_prefix(prefix)?;
            Some((rest.to_owned(), array.shape().to_vec()))
        });
        let mut named: Vec<_> = named.collect();
        named.sort_unstable();
        named
    }

    /// An array of scalars of this shape, with the first index fastest.
    pub(super) fn get<T: Stored>(&self, name: &str, shape: &[usize]) -> Result<Vec<T>, Error> {
        self.values(name, shape, T::DTYPE, T::get)
    }

    /// [`Contents::get`] of a file that may have narrower scalars.
    pub(super) fn get_widened<T: Stored>(
        &self,
        name: &str,
        shape: &[usize],
    ) -> Result<Vec<T>, Error> {
        let found = self.arrays.tensor(name).ok().map(|array| array.dtype());
        if found == Some(Dtype::F32) && T::DTYPE == Dtype::F64 {
            let widened = |bytes: &[u8]| T::of(f64::from(f32::get(bytes)));
            return self.values(name, shape, Dtype::F32, widened);
        }
        self.get(name, shape)
    }

    /// An array of n rows, which come one after another.
    pub(super) fn get_rows<T: Stored>(
        &self,
        name: &str,
        n: usize,
        columns: usize,
    ) -> Result<Vec<T>, Error> {
        self.rows(
            name,
            &[n, if n == 0 { 0 } else { columns }],
            T::DTYPE,
            T::get,
        )
    }

    fn values<V: Copy>(
        &self,
        name: &str,
        shape: &[usize],
        dtype: Dtype,
        get: impl Fn(&[u8]) -> V,
    ) -> Result<Vec<V>, Error> {
        let stored = self.rows(name, shape, dtype, get)?;
        let mut values = stored.clone();
        for (place, value) in row_major(shape).zip(stored) {
            values[place] = value;
        }
        Ok(values)
    }

    /// The values of an array in the order of the file.
    fn rows<V>(
        &self,
        name: &str,
        shape: &[usize],
        dtype: Dtype,
        get: impl Fn(&[u8]) -> V,
    ) -> Result<Vec<V>, Error> {
        let array = self.array(name)?;
        if array.dtype() != dtype {
            let [expected, found] = [dtype, array.dtype()].map(|dtype| format!("{dtype:?}"));
            return Err(self.differs(&format!("the type of array '{name}'"), &expected, &found));
        }
        if array.shape() != shape {
            let [expected, found] = [shape, array.shape()].map(|shape| format!("{shape:?}"));
            return Err(self.differs(&format!("the shape of array '{name}'"), &expected, &found));
        }
        let size = dtype.bitsize() / 8;
        Ok(array.data().chunks_exact(size).map(get).collect())
    }

    /// An array of whole numbers.
    pub(super) fn get_counts(&self, name: &str, length: usize) -> Result<Vec<u64>, Error> {
        let get = |bytes: &[u8]| {
            bytes
                .iter()
                .rev()
                .fold(0, |n, &byte| n << 8 | u64::from(byte))
        };
        self.rows(name, &[length], Dtype::U64, get)
    }

    /// An array of bytes.
    pub(super) fn get_bytes(&self, name: &str) -> Result<&'a [u8], Error> {
        let array = self.array(name)?;
        match array.dtype() {
            Dtype::U8 => Ok(array.data()),
            found => {
                let what = format!("the type of array '{name}'");
                Err(self.differs(&what, "U8", &format!("{found:?}")))
            }
        }
    }

    fn array(&self, name: &str) -> Result<safetensors::tensor::TensorView<'a>, Error> {
        self.arrays.tensor(name).map_err(|_| {
            let names = self.names();
            self.refuse(&format!("it has no array '{name}', only {names}"))
        })
    }

    /// The error about a file that cannot be used.
    pub(super) fn refuse(&self, reason: &str) -> Error {
        Error::Format {
            file: self.file.clone(),
            reason: reason.into(),
        }
    }

    /// The error about a file of something else.
    pub(super) fn differs(&self, what: &str, expected: &str, found: &str) -> Error {
        Error::Architecture {
            file: self.file.clone(),
            what: what.into(),
            expected: expected.into(),
            found: found.into(),
        }
    }
}

/// The name of an entry that was found but is not known, at any depth.
fn unknown<'a>(found: &'a Value, known: &Value) -> Option<&'a str> {
    match (found, known) {
        (Value::Object(found), Value::Object(known)) => {
            let mut entries = found.iter().filter(|(_, value)| !value.is_null());
            entries.find_map(|(name, value)| match known.get(name) {
                Some(known) => unknown(value, known),
                None => Some(name.as_str()),
            })
        }
        (Value::Array(found), Value::Array(known)) => {
            let mut pairs = found.iter().zip(known);
            pairs.find_map(|(found, known)| unknown(found, known))
        }
        _ => None,
    }
}

/// The places in an array with the first index fastest, in the order of one with the last index
/// fastest.
fn row_major(shape: &[usize]) -> impl Iterator<Item = usize> {
    let size = extent_product(shape);
    let plain = shape.iter().filter(|&&extent| extent > 1).count() < 2;
    (0..size).map(move |index| {
        if plain {
            return index;
        }
        // Digits of the index, the last first; they are those of the place, the last last.
        let (mut rest, mut stride, mut place) = (index, size, 0);
        for &extent in shape.iter().rev() {
            stride /= extent;
            place += stride * (rest % extent);
            rest /= extent;
        }
        place
    })
}

/// The checksum (CRC-32) of a manifest and of arrays with their names, types and shapes, which are in
/// the order of their names.
fn checksum(manifest: &str, arrays: Vec<(&str, Dtype, &[usize], &[u8])>) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(manifest.as_bytes());
    for (name, dtype, shape, bytes) in arrays {
        sum.update(format!("{name} {dtype:?} {shape:?}").as_bytes());
        sum.update(bytes);
    }
    sum.finalize()
}
