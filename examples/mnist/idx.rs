//! The IDX format of MNIST: a magic number and the dimensions' extents (big-endian), then one byte
//! per value.

use std::path::Path;

/// Bytes of an IDX file of `extents.len()` dimensions.
#[derive(Debug, PartialEq)]
pub struct Idx<const D: usize> {
    pub extents: [usize; D],
    pub bytes: Vec<u8>,
}

impl<const D: usize> Idx<D> {
    /// Reads the file, or returns a message that says what is wrong with it.
    pub fn read(path: &Path) -> Result<Self, String> {
        let file = std::fs::read(path).map_err(|error| {
            format!(
                "{}: {error}; see examples/data/README.md for how to get the data",
                path.display()
            )
        })?;
        Self::parse(&file).map_err(|error| format!("{}: {error}", path.display()))
    }

    fn parse(file: &[u8]) -> Result<Self, String> {
        let mut numbers = file.chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]);
        let magic = numbers.next().ok_or("shorter than a magic number")?;
        // Two zeros, the type (8: unsigned byte), the number of dimensions.
        let expected = [0, 0, 8, D as u8];
        if magic != expected {
            return Err(format!(
                "not an IDX file of bytes in {D} dimensions: it starts with {magic:?}, not {expected:?} (is it still compressed?)"
            ));
        }
        let mut extents = [0; D];
        for extent in &mut extents {
            *extent = u32::from_be_bytes(numbers.next().ok_or("the extents are cut off")?) as usize;
        }
        let bytes = &file[4 + 4 * D..];
        let size = extents.iter().try_fold(1, |p: usize, &e| p.checked_mul(e));
        if size != Some(bytes.len()) {
            return Err(format!(
                "the header announces {extents:?} values, but there are {} bytes of data",
                bytes.len()
            ));
        }
        Ok(Self {
            extents,
            bytes: bytes.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Idx;

    #[test]
    fn reads_extents_and_bytes() {
        let file = [0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 9, 8, 7, 6, 5, 4];
        let read = Idx::<2>::parse(&file).unwrap();
        assert_eq!((read.extents, read.bytes), ([2, 3], vec![9, 8, 7, 6, 5, 4]));
    }

    #[test]
    fn says_what_is_wrong() {
        let file = [0, 0, 8, 1, 0, 0, 0, 3, 1, 2, 3];
        assert!(Idx::<1>::parse(&file).is_ok());
        for (bad, word) in [
            (&file[..3], "shorter"),
            (&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0][..], "compressed"),
            (&file[..6], "cut off"),
            (&file[..10], "2 bytes"),
            (
                &[0, 0, 8, 2, 255, 255, 255, 255, 255, 255, 255, 255, 1][..],
                "dimensions",
            ),
        ] {
            let message = Idx::<1>::parse(bad).unwrap_err();
            assert!(message.contains(word), "'{word}' is not in: {message}");
        }
        let huge = [0, 0, 8, 2, 255, 255, 255, 255, 255, 255, 255, 255, 1];
        assert!(Idx::<2>::parse(&huge).unwrap_err().contains("1 bytes"));
    }
}
