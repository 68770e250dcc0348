//! NumPy's format of arrays.

use std::marker::PhantomData;
use std::path::Path;

use super::Dataset;
use super::arrays::{Array, Arrays, Element, Kind};
use super::encoding::TargetEncoding;
use crate::data_file::DataFile;
use crate::error::Error;
use crate::kernel::Scalar;

/// Two files written by `numpy.save`: inputs and targets, with examples along the first axis.
/// Values are read on demand.
///
/// Supported are versions 1 to 3 of
/// [the format](https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html), with
/// floats of 4 or 8 bytes, integers of 1 to 8 bytes, or bool (read as 0 and 1), in either byte
/// order. The shape is (n, …); further axes are flattened as by `reshape(n, -1)`: d_0 is the
/// product of those of the inputs, and targets are encoded as [`TargetEncoding`] says. An array
/// of shape (n,) has one value per example. Inputs are multiplied by a factor
/// ([`with_scale`](Self::with_scale), 1 by default) in `f64`, and rounded once to `T`.
///
/// Arrays in Fortran order are read column by column: scattered rows take one file access for each
/// value.
///
/// # Examples
/// ```no_run
/// use layerwise::data::{Npy, TargetEncoding};
/// use layerwise::prelude::*;
///
/// # fn load(model: &mut DecoupledCircuit<f32>) -> Result<(), Error> {
/// let data = Npy::open("x.npy", "y.npy", TargetEncoding::Values)?;
/// model.add_dataset(&data, &TargetInit::ForwardPass)?;
/// # Ok(())
/// # }
/// ```
#[doc(alias = "NumPy")]
#[derive(Debug)]
pub struct Npy<T> {
    arrays: Arrays,
    scalar: PhantomData<T>,
}

impl<T: Scalar> Npy<T> {
    /// Opens both files and checks their headers and lengths.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Format`], [`Error::ExampleCount`]; for one-hot targets
    /// [`Error::Length`] if the targets are not one value each, and [`Error::InvalidOption`] for no
    /// classes.
    pub fn open(
        inputs: impl AsRef<Path>,
        targets: impl AsRef<Path>,
        encoding: TargetEncoding,
    ) -> Result<Self, Error> {
        let arrays = Arrays::new(array(inputs.as_ref())?, array(targets.as_ref())?, encoding)?;
        Ok(Self {
            arrays,
            scalar: PhantomData,
        })
    }

    /// Multiplies inputs by `scale`.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a factor that is not finite.
    pub fn with_scale(mut self, scale: f64) -> Result<Self, Error> {
        self.arrays = self.arrays.with_scale("Npy scale", scale)?;
        Ok(self)
    }
}

impl<T: Scalar> Dataset<T> for Npy<T> {
    fn len(&self) -> usize {
        self.arrays.len()
    }

    fn inputs(&self) -> usize {
        self.arrays.inputs()
    }

    fn targets(&self) -> usize {
        self.arrays.targets()
    }

    fn read(&self, rows: &[usize], inputs: &mut [T], targets: &mut [T]) -> Result<(), Error> {
        self.check_read(rows, inputs, targets)?;
        self.arrays.read(rows, inputs, targets)
    }
}

/// The longest header that is read. NumPy reads one of 10,000 bytes.
const HEADER: u64 = 1 << 16;

fn array(path: &Path) -> Result<Array, Error> {
    let file = DataFile::open(path)?;
    let mut start = [0; 12];
    let known = file.len.min(12) as usize;
    file.read(&mut start[..known], 0)?;
    let (begin, length) = match start {
        [0x93, b'N', b'U', b'M', b'P', b'Y', 1, _, a, b, ..] => {
            (10, u32::from(u16::from_le_bytes([a, b])))
        }
        [0x93, b'N', b'U', b'M', b'P', b'Y', 2 | 3, _, a, b, c, d] => {
            (12, u32::from_le_bytes([a, b, c, d]))
        }
        [0x93, b'N', b'U', b'M', b'P', b'Y', version, ..] => {
            return Err(file.bad(format!(
                "version {version} of the NPY format is not supported"
            )));
        }
        _ => return Err(file.bad("it is not an NPY file")),
    };
    let end = begin + u64::from(length);
    if end > file.len.min(HEADER) {
        return Err(file.bad(format!(
            "its header should end at byte {end}, but the file has {} bytes, and headers may have {HEADER}",
            file.len
        )));
    }
    let mut text = vec![0; length as usize];
    file.read(&mut text, begin)?;
    let header = std::str::from_utf8(&text).ok().and_then(header);
    let Some((kind, order, shape)) = header else {
        let text = String::from_utf8_lossy(&text);
        return Err(file.bad(format!("its header cannot be parsed: {}", text.trim())));
    };
    let Some(element) = element(kind) else {
        return Err(file.bad(format!(
            "its elements are '{kind}', but only floats of 4 or 8 bytes, integers and bool are supported"
        )));
    };
    Array::new(file, end, element, &shape, order)
}

/// An element as NumPy writes it, such as "<f8".
fn element(kind: &str) -> Option<Element> {
    let (order, rest) = kind.split_at_checked(1)?;
    let (kind, size) = match rest {
        "b1" => (Kind::Bool, 1),
        "u1" => (Kind::Unsigned, 1),
        "u2" => (Kind::Unsigned, 2),
        "u4" => (Kind::Unsigned, 4),
        "u8" => (Kind::Unsigned, 8),
        "i1" => (Kind::Signed, 1),
        "i2" => (Kind::Signed, 2),
        "i4" => (Kind::Signed, 4),
        "i8" => (Kind::Signed, 8),
        "f4" => (Kind::Float, 4),
        "f8" => (Kind::Float, 8),
        _ => return None,
    };
    match order {
        "<" | ">" => {}
        "|" if size == 1 => {}
        _ => return None,
    }
    Some(Element {
        kind,
        size,
        big_endian: order == ">",
    })
}

/// What a header says of elements, order (whether Fortran's) and shape. It is a dictionary in Python's
/// syntax.
fn header(text: &str) -> Option<(&str, bool, Vec<usize>)> {
    let mut rest = Rest(text);
    let (mut kind, mut order, mut shape) = (None, None, None);
    rest.eat("{")?;
    while rest.eat("}").is_none() {
        let key = rest.string()?;
        rest.eat(":")?;
        match key {
            "descr" => kind = Some(rest.string()?),
            "fortran_order" if rest.eat("True").is_some() => order = Some(true),
            "fortran_order" => order = rest.eat("False").map(|()| false),
            "shape" => shape = Some(rest.tuple()?),
            _ => return None,
        }
        if rest.eat(",").is_none() {
            rest.eat("}")?;
            break;
        }
    }
    match rest.0.trim() {
        "" => Some((kind?, order?, shape?)),
        _ => None,
    }
}

/// What remains to be parsed.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn eat(&mut self, token: &str) -> Option<()> {
        self.0 = self.0.trim_start().strip_prefix(token)?;
        Some(())
    }

    fn string(&mut self) -> Option<&'a str> {
        let quote = match self.eat("'") {
            Some(()) => '\'',
            None => self.eat("\"").map(|()| '"')?,
        };
        let (own, rest) = self.0.split_once(quote)?;
        self.0 = rest;
        Some(own)
    }

    fn tuple(&mut self) -> Option<Vec<usize>> {
        let mut all = Vec::new();
        self.eat("(")?;
        while self.eat(")").is_none() {
            let text = self.0.trim_start();
            let end = text.find(|c: char| !c.is_ascii_digit())?;
            all.push(text[..end].parse().ok()?);
            self.0 = &text[end..];
            // Python 2 wrote long integers so.
            self.eat("L");
            if self.eat(",").is_none() {
                self.eat(")")?;
                break;
            }
        }
        Some(all)
    }
}
