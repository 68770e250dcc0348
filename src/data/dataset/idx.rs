//! The IDX format of MNIST.

use std::marker::PhantomData;
use std::path::Path;

use super::Dataset;
use super::arrays::{Array, Arrays, Element, Kind};
use super::encoding::TargetEncoding;
use crate::data_file::DataFile;
use crate::error::Error;
use crate::kernel::Scalar;

/// Two files in the format of [MNIST](https://yann.lecun.org/exdb/mnist/), uncompressed: inputs
/// (images) and targets (labels). Values are read on demand.
///
/// A file starts with two zero bytes, the type of its elements (8: u8, 9: i8, 11: i16, 12: i32,
/// 13: f32, 14: f64), the number of dimensions, and their extents as u32; the elements follow, up to
/// the end of the file, with the last index varying fastest. Everything is big endian. The first
/// extent is n, the number of examples. The other dimensions are flattened: d_0 is the product of
/// those of the inputs, and targets are encoded as [`TargetEncoding`] says. Inputs are multiplied
/// by a factor ([`with_scale`](Self::with_scale), 1 by default) in `f64`, and rounded once to `T`.
///
/// # Examples
/// ```no_run
/// use layerwise::data::{Dataset, Idx, TargetEncoding};
///
/// let classes = TargetEncoding::OneHot { classes: 10 };
/// let data = Idx::<f32>::open("train-images-idx3-ubyte", "train-labels-idx1-ubyte", classes)?;
/// let data = data.with_scale(1.0 / 255.0)?;
/// assert_eq!((data.len(), data.inputs(), data.targets()), (60_000, 28 * 28, 10));
/// # Ok::<(), layerwise::Error>(())
/// ```
#[doc(alias = "MNIST")]
#[derive(Debug)]
pub struct Idx<T> {
    arrays: Arrays,
    scalar: PhantomData<T>,
}

impl<T: Scalar> Idx<T> {
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
        self.arrays = self.arrays.with_scale("Idx scale", scale)?;
        Ok(self)
    }
}

impl<T: Scalar> Dataset<T> for Idx<T> {
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

fn array(path: &Path) -> Result<Array, Error> {
    let file = DataFile::open(path)?;
    let mut magic = [0; 4];
    if file.len < 4 {
        return Err(file.bad(format!(
            "it has only {} bytes, too few for an IDX file",
            file.len
        )));
    }
    file.read(&mut magic, 0)?;
    let (kind, size) = match magic {
        [0, 0, 8, _] => (Kind::Unsigned, 1),
        [0, 0, 9, _] => (Kind::Signed, 1),
        [0, 0, 11, _] => (Kind::Signed, 2),
        [0, 0, 12, _] => (Kind::Signed, 4),
        [0, 0, 13, _] => (Kind::Float, 4),
        [0, 0, 14, _] => (Kind::Float, 8),
        [0x1f, 0x8b, ..] => return Err(file.bad("it is compressed by gzip")),
        _ => return Err(file.bad(format!("it starts with {magic:?}, unlike an IDX file"))),
    };
    let mut extents = vec![0; 4 * usize::from(magic[3])];
    let start = 4 + extents.len() as u64;
    if file.len < start {
        return Err(file.bad("its header is cut off"));
    }
    file.read(&mut extents, 4)?;
    let extents = extents.chunks_exact(4);
    let shape: Vec<usize> = extents
        .map(|own| own.iter().fold(0, |n, &byte| n << 8 | usize::from(byte)))
        .collect();
    let element = Element {
        kind,
        size,
        big_endian: true,
    };
    Array::new(file, start, element, &shape, false)
}
