//! Files in the format of the crate. Few mutations of one are a file with the right lengths and the right
//! checksum, so both are mended.

use serde_json::{Map, Value, json};

use crate::chance::Chance;
use crate::json;

const ENTRY: &str = "layerwise";
const METADATA: &str = "__metadata__";
const CHECKSUM: &str = r#"{"checksum":"00000000","#;

/// A safetensors file: its header, and the bytes of its arrays.
struct File {
    header: Map<String, Value>,
    data: Vec<u8>,
}

impl File {
    /// What can be read of a file. Its first 8 bytes are the length of the header, which is seen without it.
    fn read(bytes: &[u8]) -> Option<Self> {
        let text = bytes.get(8..)?;
        let mut values = serde_json::Deserializer::from_slice(text).into_iter::<Value>();
        let Some(Ok(Value::Object(header))) = values.next() else {
            return None;
        };
        let mut data = &text[values.byte_offset()..];
        // The header is padded.
        while let [b' ', rest @ ..] = data {
            data = rest;
        }
        Some(Self {
            header,
            data: data.to_vec(),
        })
    }

    /// The manifest, without its checksum.
    fn manifest(&self) -> Option<String> {
        let text = self.header.get(METADATA)?.get(ENTRY)?.as_str()?;
        let rest = text.split_at_checked(CHECKSUM.len())?.1;
        text.starts_with(r#"{"checksum":""#)
            .then(|| rest.to_owned())
    }

    fn set_manifest(&mut self, checksum: u32, rest: &str) {
        let text = format!(r#"{{"checksum":"{checksum:08x}",{rest}"#);
        if let Some(metadata) = self.header.get_mut(METADATA) {
            metadata[ENTRY] = text.into();
        }
    }

    /// Gives every array the bytes that its shape needs, one after another. An array of bytes is as long as
    /// the rest of the file.
    fn lay_out(&mut self) -> Option<()> {
        let mut order: Vec<(u64, String)> = Vec::new();
        for (name, array) in &self.header {
            if name != METADATA {
                order.push((array["data_offsets"][0].as_u64()?, name.clone()));
            }
        }
        order.sort_unstable();
        let sizes = order.iter().map(|(_, name)| size(&self.header[name]));
        let sizes: Vec<Option<usize>> = sizes.collect::<Option<_>>()?;
        let fixed = sizes.iter().flatten().sum::<usize>();
        let rest = self.data.len().saturating_sub(fixed);
        let mut end = 0;
        for ((_, name), size) in order.iter().zip(sizes) {
            let array = self.header.get_mut(name)?;
            let start = end;
            end += size.unwrap_or(rest);
            if size.is_none() {
                array["shape"] = json!([rest]);
            }
            array["data_offsets"] = json!([start, end]);
        }
        (end <= MOST).then(|| self.data.resize(end, 0))
    }

    /// Writes the checksum of what is there.
    fn seal(&mut self) -> Option<()> {
        let rest = self.manifest()?;
        let mut sum = crc32fast::Hasher::new();
        sum.update(rest.as_bytes());
        // They are sorted.
        for (name, array) in self.header.iter().filter(|(name, _)| *name != METADATA) {
            let shape: Vec<usize> = serde_json::from_value(array["shape"].clone()).ok()?;
            let dtype = array["dtype"].as_str()?;
            let place = |i| array["data_offsets"][i].as_u64().map(|at| at as usize);
            sum.update(format!("{name} {dtype} {shape:?}").as_bytes());
            sum.update(self.data.get(place(0)?..place(1)?)?);
        }
        self.set_manifest(sum.finalize(), &rest);
        Some(())
    }

    fn bytes(&self) -> Vec<u8> {
        let header = Value::Object(self.header.clone()).to_string();
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(&self.data);
        bytes
    }
}

/// The most bytes of arrays in a mended file.
const MOST: usize = 1 << 16;

/// The bytes of an array; `Some(None)` for one of bytes, which may have any number.
fn size(array: &Value) -> Option<Option<usize>> {
    let size = match array["dtype"].as_str()? {
        "U8" => return Some(None),
        "F32" => 4,
        "F64" | "U64" => 8,
        _ => return None,
    };
    let product = array["shape"]
        .as_array()?
        .iter()
        .try_fold(size, |product: usize, extent| {
            product.checked_mul(usize::try_from(extent.as_u64()?).ok()?)
        })?;
    (product <= MOST).then_some(Some(product))
}

/// The input as it is, and as a file with the right lengths and the right checksum, if it can be one.
pub fn files(input: &[u8]) -> Vec<Vec<u8>> {
    let mut all = vec![input.to_vec()];
    if let Some(mut file) = File::read(input) {
        // A file that cannot be laid out may keep its offsets.
        let _ = file.lay_out();
        let _ = file.seal();
        all.push(file.bytes());
    }
    all
}

/// Mutates the manifest, the header, the arrays, or any byte.
pub fn mutate(data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    let mut chance = Chance::new(seed);
    let file = match chance.below(8) {
        0 => None,
        _ => File::read(&data[..size]),
    };
    let Some(mut file) = file else {
        return libfuzzer_sys::fuzzer_mutate(data, size, max_size);
    };
    let manifest = file.manifest();
    let manifest = manifest.and_then(|rest| serde_json::from_str(&format!("{{{rest}")).ok());
    match (chance.below(4), manifest) {
        (0, _) => {
            let mut room = file.data.clone();
            room.resize(room.len() + 64, 0);
            let length = room.len();
            let size = libfuzzer_sys::fuzzer_mutate(&mut room, file.data.len(), length);
            room.truncate(size);
            file.data = room;
        }
        (2.., Some(manifest)) => {
            let mut manifest: Value = manifest;
            for _ in 0..=chance.below(3) {
                json::change(&mut manifest, &mut chance);
            }
            file.set_manifest(0, manifest.to_string().get(1..).unwrap_or_default());
        }
        _ => {
            let mut header = Value::Object(file.header.clone());
            json::change(&mut header, &mut chance);
            if let Value::Object(header) = header {
                file.header = header;
            }
        }
    }
    let _ = file.lay_out();
    let _ = file.seal();
    let bytes = file.bytes();
    if bytes.len() > max_size {
        return libfuzzer_sys::fuzzer_mutate(data, size, max_size);
    }
    data[..bytes.len()].copy_from_slice(&bytes);
    bytes.len()
}
