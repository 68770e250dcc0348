//! A safetensors file with a manifest: how all files of the crate are laid out.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::Path;

use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype, SafeTensors};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Stored;
use super::stored::bytes_of;
use crate::atomic::{self, Sink};
use crate::data_file::DataFile;
use crate::error::Error;
use crate::kernel::{Bytes, extent_product};

/// The metadata entry with the manifest.
const ENTRY: &str = "layerwise";

/// The version of files that this version of the crate writes, and the newest it reads.
const VERSION: u64 = 1;

/// What the manifest begins with; the checksum's 8 hexadecimal digits follow.
const BEFORE_CHECKSUM: &str = "{\"checksum\":\"";
const AFTER_CHECKSUM: &str = "\",";

/// Source of the length of the header, which comes first; a multiple of this many follows.
const LENGTH: usize = 8;

/// The longest header, as safetensors has it.
const LONGEST_HEADER: usize = 100_000_000;

/// The bytes that are read from a file at once.
const PIECE: usize = 1 << 16;

/// A named array, to be written.
struct Array<'a> {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Source<'a>,
}

/// The bytes of an array to be written.
enum Source<'a> {
    Own(Vec<u8>),
    /// Passed on piece by piece, each time the same.
    Streamed(Box<Pieces<'a>>),
}

type Pieces<'a> = dyn Fn(&mut Sink<'_>) -> Result<(), Error> + 'a;

impl Source<'_> {
    fn pass(&self, to: &mut Sink<'_>) -> Result<(), Error> {
        match self {
            Self::Own(bytes) => to(bytes),
            Self::Streamed(pieces) => pieces(to),
        }
    }
}

/// A file to be written: its arrays.
#[derive(Default)]
pub(super) struct Draft<'a>(Vec<Array<'a>>);

/// A file that can be written.
pub(super) struct Layout<'a> {
    header: Vec<u8>,
    arrays: Vec<Array<'a>>,
    length: usize,
}

impl Layout<'_> {
    /// Passes the bytes of the file on.
    pub(super) fn pass(&self, to: &mut Sink<'_>) -> Result<(), Error> {
        to(&(self.header.len() as u64).to_le_bytes())?;
        to(&self.header)?;
        self.arrays.iter().try_for_each(|own| own.bytes.pass(to))
    }

    /// Writes the file, which is replaced as a whole.
    pub(super) fn write(&self, path: &Path) -> Result<(), Error> {
        atomic::write(path, |to| self.pass(to))
    }

    /// The bytes of the file.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        let mut all = Vec::with_capacity(self.length);
        self.pass(&mut |bytes| {
            all.extend_from_slice(bytes);
            Ok(())
        })?;
        Ok(all)
    }
}

impl<'a> Draft<'a> {
    /// Adds an array that is stored with the **first** index fastest, as parameters are.
    pub(super) fn put<T: Stored>(&mut self, name: String, shape: &[usize], values: &[T]) {
        let places = row_major(shape).map(|place| values[place]);
        let bytes = Source::Own(bytes_of(places, values.len()));
        self.add(name, T::DTYPE, shape, bytes);
    }

    /// Adds an array of n rows, which are stored one after another.
    pub(super) fn put_rows<T: Stored>(&mut self, name: String, n: usize, values: &[T]) {
        let bytes = bytes_of(values.iter().copied(), values.len());
        let columns = values.len().checked_div(n).unwrap_or(0);
        self.add(name, T::DTYPE, &[n, columns], Source::Own(bytes));
    }

    /// Adds an array of this shape, whose rows `pieces` passes on one after another.
    pub(super) fn stream_rows<T: Stored>(
        &mut self,
        name: String,
        shape: [usize; 2],
        pieces: impl Fn(&mut dyn FnMut(&[T]) -> Result<(), Error>) -> Result<(), Error> + 'a,
    ) {
        let pieces = move |to: &mut Sink<'_>| {
            pieces(&mut |values: &[T]| to(&bytes_of(values.iter().copied(), values.len())))
        };
        self.add(name, T::DTYPE, &shape, Source::Streamed(Box::new(pieces)));
    }

    /// Adds whole numbers.
    pub(super) fn put_counts(&mut self, name: &str, values: &[u64]) {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes());
        let bytes = Source::Own(bytes.collect());
        self.add(name.into(), Dtype::U64, &[values.len()], bytes);
    }

    /// Adds bytes.
    pub(super) fn put_bytes(&mut self, name: &str, bytes: Vec<u8>) {
        self.add(name.into(), Dtype::U8, &[bytes.len()], Source::Own(bytes));
    }

    fn add(&mut self, name: String, dtype: Dtype, shape: &[usize], bytes: Source<'a>) {
        self.0.push(Array {
            name,
            dtype,
            shape: shape.to_vec(),
            bytes,
        });
    }

    /// The file.
    pub(super) fn finish<T: Stored, M: Serialize + DeserializeOwned>(
        self,
        manifest: &M,
    ) -> Result<Layout<'a>, Error> {
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
        let mut arrays = self.0;
        arrays.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        if let Some(twice) = arrays.windows(2).find(|pair| pair[0].name == pair[1].name) {
            let name = &twice[0].name;
            return Err(refused(&format!("it has two arrays named '{name}'")));
        }
        let mut sum = Checksum::of(rest);
        for own in &arrays {
            sum.name(&own.name, own.dtype, &own.shape);
            own.bytes.pass(&mut |bytes| {
                sum.add(bytes);
                Ok(())
            })?;
        }
        let sum = sum.value();
        let manifest = format!("{BEFORE_CHECKSUM}{sum:08x}{AFTER_CHECKSUM}{rest}");
        // The widest numbers first, so that all of them are aligned.
        arrays.sort_by_key(|own| std::cmp::Reverse(own.dtype));
        let mut end = 0;
        let mut infos = Vec::with_capacity(arrays.len());
        for own in &arrays {
            let start = end;
            end += extent_product(&own.shape) * own.dtype.bitsize() / 8;
            infos.push((
                own.name.clone(),
                TensorInfo {
                    dtype: own.dtype,
                    shape: own.shape.clone(),
                    data_offsets: (start, end),
                },
            ));
        }
        let metadata = [(ENTRY.to_owned(), manifest)].into_iter().collect();
        let header = Metadata::new(Some(metadata), infos).map_err(|reason| refused(&reason))?;
        let mut header = serde_json::to_vec(&header).map_err(|reason| refused(&reason))?;
        header.resize(header.len().next_multiple_of(LENGTH), b' ');
        if header.len() > LONGEST_HEADER {
            return Err(refused(&"its description is longer than a file can have"));
        }
        Ok(Layout {
            length: LENGTH + header.len() + end,
            header,
            arrays,
        })
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

/// A file that is read.
pub(super) struct Contents<'a> {
    /// What it is called in messages.
    file: String,
    header: Metadata,
    /// Where the arrays begin.
    start: usize,
    place: Place<'a>,
    /// The checksum of every array, once the whole file has been checked: it may be overwritten since.
    sums: BTreeMap<String, u32>,
}

/// Where the bytes of a file are.
enum Place<'a> {
    Memory(Cow<'a, [u8]>),
    File(DataFile),
}

impl<'a> Contents<'a> {
    /// The arrays of any safetensors file, in `bytes`.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, Error> {
        Self::of(Cow::Borrowed(bytes), "the given buffer".into())
    }

    fn of(bytes: Cow<'a, [u8]>, file: String) -> Result<Self, Error> {
        match SafeTensors::read_metadata(&bytes) {
            Ok((length, header)) => Ok(Self {
                file,
                header,
                start: LENGTH + length,
                place: Place::Memory(bytes),
                sums: BTreeMap::new(),
            }),
            Err(reason) => Err(foreign(file, &reason)),
        }
    }

    /// The arrays of any safetensors file.
    pub(super) fn open(path: &Path) -> Result<Contents<'static>, Error> {
        if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            // A pipe can be read only once.
            let bytes = fs::read(path).map_err(|reason| Error::File {
                file: atomic::name(path),
                doing: "read",
                reason: reason.to_string(),
            })?;
            return Contents::of(Cow::Owned(bytes), atomic::name(path));
        }
        let file = DataFile::open(path)?;
        let mut length = [0; LENGTH];
        if file.len < LENGTH as u64 {
            return Err(foreign(file.name, &"it has fewer than 8 bytes"));
        }
        file.read(&mut length, 0)?;
        let length = u64::from_le_bytes(length);
        let rest = file.len - LENGTH as u64;
        if length > rest.min(LONGEST_HEADER as u64) {
            let reason = format!("a header of {length} bytes is announced");
            return Err(foreign(file.name, &reason));
        }
        let mut header = vec![0; length as usize];
        file.read(&mut header, LENGTH as u64)?;
        let header = match serde_json::from_slice::<Metadata>(&header) {
            Ok(header) => header,
            Err(reason) => return Err(foreign(file.name, &reason)),
        };
        let (there, announced) = (rest - length, header.data_len());
        if there != announced as u64 {
            let reason = format!("{announced} bytes of data are announced, but there are {there}");
            return Err(foreign(file.name, &reason));
        }
        Ok(Contents {
            file: file.name.clone(),
            header,
            start: LENGTH + length as usize,
            place: Place::File(file),
            sums: BTreeMap::new(),
        })
    }

    /// Some of the bytes of all arrays.
    fn bytes(&self, range: Range<usize>) -> Result<Cow<'_, [u8]>, Error> {
        let range = self.start + range.start..self.start + range.end;
        match &self.place {
            Place::Memory(all) => Ok(Cow::Borrowed(&all[range])),
            Place::File(file) => {
                let mut own = vec![0; range.len()];
                file.read(&mut own, range.start as u64)?;
                Ok(Cow::Owned(own))
            }
        }
    }

    /// The names of all arrays, in alphabetical order.
    fn sorted_names(&self) -> Vec<String> {
        let mut names = self.header.offset_keys();
        names.sort_unstable();
        names
    }

    /// The manifest of a file of this crate with this scalar, after a check of the whole file.
    pub(super) fn manifest<T: Stored, M: Serialize + DeserializeOwned>(
        &mut self,
    ) -> Result<M, Error> {
        let entry = self
            .header
            .metadata()
            .as_ref()
            .and_then(|all| all.get(ENTRY));
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
        let (found, sums) = self.checksum(rest)?;
        let found = format!("{found:08x}");
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
            None => {
                self.sums = sums;
                Ok(head.manifest)
            }
        }
    }

    /// The checksum of the whole file, with this manifest, and that of every array.
    fn checksum(&self, manifest: &str) -> Result<(u32, BTreeMap<String, u32>), Error> {
        let (mut sum, mut sums) = (Checksum::of(manifest), BTreeMap::new());
        for name in self.sorted_names() {
            let Some(info) = self.header.info(&name) else {
                continue;
            };
            sum.name(&name, info.dtype, &info.shape);
            let (start, end) = info.data_offsets;
            let mut own = crc32fast::Hasher::new();
            for first in (start..end).step_by(PIECE) {
                let piece = self.bytes(first..end.min(first + PIECE))?;
                sum.add(&piece);
                own.update(&piece);
            }
            sums.insert(name, own.finalize());
        }
        Ok((sum.value(), sums))
    }

    /// Refuses an array whose checksum differs from the one it had when the whole file was checked.
    fn check(&self, name: &str, sum: crc32fast::Hasher) -> Result<(), Error> {
        match self.sums.get(name) {
            Some(&own) if own != sum.finalize() => {
                Err(self.refuse("it was overwritten while it was read"))
            }
            _ => Ok(()),
        }
    }

    /// The bytes of an array.
    fn array_bytes(&self, name: &str, info: &TensorInfo) -> Result<Cow<'_, [u8]>, Error> {
        let (start, end) = info.data_offsets;
        let bytes = self.bytes(start..end)?;
        if let Place::File(_) = self.place {
            let mut sum = crc32fast::Hasher::new();
            sum.update(&bytes);
            self.check(name, sum)?;
        }
        Ok(bytes)
    }

    /// What follows `prefix` in names of arrays, and their shapes, in alphabetical order.
    pub(super) fn beginning_with(&self, prefix: &str) -> Vec<(String, Vec<usize>)> {
        let names = self.sorted_names().into_iter();
        let named = names.filter_map(|name| {
            let rest = name.strip_prefix(prefix)?.to_owned();
            Some((rest, self.header.info(&name)?.shape.clone()))
        });
        named.collect()
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
        let found = self.header.info(name).map(|info| info.dtype);
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
        self.rows(name, &shape_of_rows(n, columns), T::DTYPE, T::get)
    }

    /// Passes the values of an array of n rows on, some rows at a time, with the number of the first.
    /// After an error they are meaningless.
    pub(super) fn each_rows<T: Stored>(
        &self,
        name: &str,
        [n, columns]: [usize; 2],
        mut each: impl FnMut(usize, &[T]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (start, _) = self
            .array(name, &shape_of_rows(n, columns), T::DTYPE)?
            .data_offsets;
        let row = columns * size_of::<T>();
        let count = (PIECE / row.max(1)).max(1);
        let mut values = Vec::with_capacity(count * columns);
        let mut sum = crc32fast::Hasher::new();
        for first in (0..n).step_by(count) {
            let end = n.min(first + count);
            let bytes = self.bytes(start + first * row..start + end * row)?;
            sum.update(&bytes);
            values.clear();
            values.extend(bytes.chunks_exact(size_of::<T>()).map(T::get));
            each(first, &values)?;
        }
        self.check(name, sum)
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
        let bytes = self.array_bytes(name, self.array(name, shape, dtype)?)?;
        Ok(bytes.chunks_exact(dtype.bitsize() / 8).map(get).collect())
    }

    /// The place of an array of this shape and type.
    fn array(&self, name: &str, shape: &[usize], dtype: Dtype) -> Result<&TensorInfo, Error> {
        let info = self.info(name)?;
        if info.dtype != dtype {
            let [expected, found] = [dtype, info.dtype].map(|dtype| format!("{dtype:?}"));
            return Err(self.differs(&format!("the type of array '{name}'"), &expected, &found));
        }
        if info.shape != shape {
            let [expected, found] = [shape, &info.shape].map(|shape| format!("{shape:?}"));
            return Err(self.differs(&format!("the shape of array '{name}'"), &expected, &found));
        }
        Ok(info)
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
    pub(super) fn get_bytes(&self, name: &str) -> Result<Cow<'_, [u8]>, Error> {
        let shape = self.info(name)?.shape.clone();
        self.array_bytes(name, self.array(name, &shape, Dtype::U8)?)
    }

    fn info(&self, name: &str) -> Result<&TensorInfo, Error> {
        self.header.info(name).ok_or_else(|| {
            let names = self.sorted_names().join(", ");
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

/// The shape of n rows.
pub(super) fn shape_of_rows(n: usize, columns: usize) -> [usize; 2] {
    [n, if n == 0 { 0 } else { columns }]
}

/// What is not a safetensors file.
fn foreign(file: String, reason: &dyn std::fmt::Display) -> Error {
    Error::Format {
        file,
        reason: format!("it is truncated, damaged, or not a safetensors file ({reason})"),
    }
}

/// The checksum (CRC-32) of a manifest and of arrays with their names, types and shapes, which are in
/// the order of their names.
struct Checksum(crc32fast::Hasher);

impl Checksum {
    fn of(manifest: &str) -> Self {
        let mut sum = crc32fast::Hasher::new();
        sum.update(manifest.as_bytes());
        Self(sum)
    }

    /// Begins an array.
    fn name(&mut self, name: &str, dtype: Dtype, shape: &[usize]) {
        self.0
            .update(format!("{name} {dtype:?} {shape:?}").as_bytes());
    }

    fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn value(self) -> u32 {
        self.0.finalize()
    }
}
