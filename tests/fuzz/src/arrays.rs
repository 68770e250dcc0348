//! Data sets in files, which are read by their path.

use std::fs;
use std::path::PathBuf;

use layerwise::Error;
use layerwise::data::{Dataset, TargetEncoding};
use layerwise::nalgebra::DMatrix;

/// A file of this process with these bytes, in memory where there is such a folder.
pub fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    let folder = match memory.is_dir() {
        true => memory,
        false => std::env::temp_dir(),
    };
    let path = folder.join(format!("layerwise-fuzz-{}-{name}", std::process::id()));
    fs::write(&path, bytes).expect("the folder for files is writable");
    path
}

/// The targets' encoding for a byte, which is 0 for plain values.
pub fn encoding(byte: u8) -> TargetEncoding {
    match usize::from(byte % 8) {
        0 => TargetEncoding::Values,
        classes => TargetEncoding::OneHot { classes },
    }
}

/// An input in parts: the encoding, and two files, the first of which is as long as two bytes say.
pub fn parts(input: &[u8]) -> Option<(TargetEncoding, &[u8], &[u8])> {
    let [first, low, high, rest @ ..] = input else {
        return None;
    };
    let length = usize::from(u16::from_le_bytes([*low, *high]));
    let (x, y) = rest.split_at(length.min(rest.len()));
    Some((encoding(*first), x, y))
}

/// All rows of a data set, which must be the same in another order.
pub fn read(data: &dyn Dataset<f64>) -> Result<(DMatrix<f64>, DMatrix<f64>), Error> {
    let rows: Vec<usize> = (0..data.len()).collect();
    let (x, y) = data.matrices(&rows)?;
    for row in rows.into_iter().rev().step_by(7) {
        let (own_x, own_y) = data.matrices(&[row]).expect("it was read among all");
        assert!(same(own_x.as_slice(), x.column(row).as_slice()), "{row}");
        assert!(same(own_y.as_slice(), y.column(row).as_slice()), "{row}");
    }
    assert!(x.iter().chain(y.iter()).all(|value| value.is_finite()));
    Ok((x, y))
}

/// The same bits.
pub fn same(a: &[f64], b: &[f64]) -> bool {
    let bits = |all: &[f64]| all.iter().map(|own| own.to_bits()).collect::<Vec<_>>();
    bits(a) == bits(b)
}

/// What was written must be read as it was.
pub fn assert_same(x: &DMatrix<f64>, y: &DMatrix<f64>, again: &dyn Dataset<f64>) {
    let (x_again, y_again) = read(again).expect("what was written can be read");
    assert_eq!((x.shape(), y.shape()), (x_again.shape(), y_again.shape()));
    assert!(same(x.as_slice(), x_again.as_slice()));
    assert!(same(y.as_slice(), y_again.as_slice()));
}
