//! Inputs and targets as arrays of numbers in two files.

use super::encoding::{TargetEncoding, scaled};
use crate::check::finite;
use crate::data_file::DataFile;
use crate::error::Error;
use crate::kernel::Scalar;

/// What the bits of an element mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Unsigned,
    Signed,
    /// IEEE 754, of 4 or 8 bytes.
    Float,
}

/// How an element is stored.
#[derive(Debug, Clone, Copy)]
pub(super) struct Element {
    pub(super) kind: Kind,
    /// Bytes, at most 8.
    pub(super) size: usize,
    pub(super) big_endian: bool,
}

impl Element {
    fn value(self, bytes: &[u8]) -> f64 {
        let add = |bits: u64, &byte: &u8| bits << 8 | u64::from(byte);
        let bits = match self.big_endian {
            true => bytes.iter().fold(0, add),
            false => bytes.iter().rev().fold(0, add),
        };
        let unused = 64 - 8 * self.size as u32;
        match self.kind {
            Kind::Bool => f64::from(bits != 0),
            Kind::Unsigned => bits as f64,
            Kind::Signed => ((bits << unused) as i64 >> unused) as f64,
            Kind::Float if self.size == 4 => f32::from_bits(bits as u32).into(),
            Kind::Float => f64::from_bits(bits),
        }
    }
}

/// An array in a file; its first dimension counts the examples.
#[derive(Debug)]
pub(super) struct Array {
    file: DataFile,
    /// Where the elements begin.
    start: u64,
    element: Element,
    examples: usize,
    /// Elements of one example: the product of the other dimensions.
    values: usize,
    /// The other dimensions, if the first index varies fastest (Fortran's order).
    columns: Option<Vec<usize>>,
}

impl Array {
    /// An array whose elements fill the file from `start` to its end.
    pub(super) fn new(
        file: DataFile,
        start: u64,
        element: Element,
        shape: &[usize],
        fortran: bool,
    ) -> Result<Self, Error> {
        let Some((&examples, rest)) = shape.split_first() else {
            return Err(file.bad("it is a single number, not an array of examples"));
        };
        let product = |all: &[usize]| all.iter().try_fold(1_usize, |p, &own| p.checked_mul(own));
        let values = product(rest);
        let bytes = values
            .and_then(|values| values.checked_mul(examples))
            .and_then(|count| count.checked_mul(element.size));
        let there = file.len.saturating_sub(start);
        let (Some(values), Some(bytes)) = (values, bytes) else {
            return Err(file.bad(format!("a shape of {shape:?} is too large")));
        };
        if values == 0 {
            return Err(file.bad(format!("examples have no values in the shape {shape:?}")));
        }
        if bytes as u64 != there {
            return Err(file.bad(format!(
                "its header announces {bytes} bytes of data, shape {shape:?}, but there are {there}"
            )));
        }
        Ok(Self {
            file,
            start,
            element,
            examples,
            values,
            columns: (fortran && values > 1).then(|| rest.to_vec()),
        })
    }

    /// Calls `each` with the place of every value of these rows (the column, and the place in it) and
    /// with the value. What `each` expects instead becomes an error.
    fn read(
        &self,
        rows: &[usize],
        mut each: impl FnMut(usize, usize, f64) -> Result<(), String>,
    ) -> Result<(), Error> {
        let mut first = 0;
        for run in rows.chunk_by(|a, b| a.checked_add(1) == Some(*b)) {
            let mut put = |i: usize, k: usize, x: f64| {
                each(first + i, k, x).map_err(|expected| Error::FileValue {
                    file: self.file.name.clone(),
                    row: run[i],
                    line: None,
                    column: k.to_string(),
                    reason: format!("'{x}' is not {expected}"),
                })
            };
            match &self.columns {
                None => {
                    let (n, mut i, mut k) = (self.values, 0, 0);
                    self.elements(run[0] * n, run.len() * n, |_, x| {
                        put(i, k, x)?;
                        k += 1;
                        if k == n {
                            (i, k) = (i + 1, 0);
                        }
                        Ok(())
                    })?;
                }
                Some(dims) => {
                    for k in 0..self.values {
                        let first = self.column(dims, k) + run[0];
                        self.elements(first, run.len(), |i, x| put(i, k, x))?;
                    }
                }
            }
            first += run.len();
        }
        Ok(())
    }

    /// In Fortran's order, where value k of example 0 is. Values are counted in C's order, in which the
    /// last index varies fastest; here it varies slowest.
    fn column(&self, dims: &[usize], k: usize) -> usize {
        let (mut place, mut rest, mut stride) = (0, k, self.examples * self.values);
        for &dim in dims.iter().rev() {
            stride /= dim;
            place += rest % dim * stride;
            rest /= dim;
        }
        place
    }

    /// Calls `each` with the numbers of `count` adjacent elements, counted from 0.
    fn elements(
        &self,
        first: usize,
        count: usize,
        mut each: impl FnMut(usize, f64) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut buffer = [0; 8192];
        let size = self.element.size;
        let most = buffer.len() / size;
        for done in (0..count).step_by(most) {
            let bytes = &mut buffer[..most.min(count - done) * size];
            let offset = self.start + ((first + done) * size) as u64;
            self.file.read(bytes, offset)?;
            for (i, bytes) in bytes.chunks_exact(size).enumerate() {
                each(done + i, self.element.value(bytes))?;
            }
        }
        Ok(())
    }
}

/// Inputs and targets of the same examples.
#[derive(Debug)]
pub(super) struct Arrays {
    inputs: Array,
    targets: Array,
    encoding: TargetEncoding,
    dim: usize,
    scale: f64,
}

impl Arrays {
    pub(super) fn new(
        inputs: Array,
        targets: Array,
        encoding: TargetEncoding,
    ) -> Result<Self, Error> {
        if inputs.examples != targets.examples {
            return Err(Error::ExampleCount {
                inputs: inputs.examples,
                targets: targets.examples,
            });
        }
        Ok(Self {
            dim: encoding.dim(targets.values)?,
            inputs,
            targets,
            encoding,
            scale: 1.0,
        })
    }

    pub(super) fn with_scale(mut self, name: &'static str, scale: f64) -> Result<Self, Error> {
        self.scale = finite(name, scale)?;
        Ok(self)
    }

    pub(super) fn len(&self) -> usize {
        self.inputs.examples
    }

    pub(super) fn inputs(&self) -> usize {
        self.inputs.values
    }

    pub(super) fn targets(&self) -> usize {
        self.dim
    }

    pub(super) fn read<T: Scalar>(
        &self,
        rows: &[usize],
        inputs: &mut [T],
        targets: &mut [T],
    ) -> Result<(), Error> {
        let values = self.inputs.values;
        self.inputs.read(rows, |i, k, x| {
            inputs[i * values + k] = scaled(x, self.scale)?;
            Ok(())
        })?;
        self.targets.read(rows, |i, k, x| {
            let column = &mut targets[i * self.dim..][..self.dim];
            self.encoding.write(column, k, x)
        })
    }
}
