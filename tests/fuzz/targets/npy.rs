//! NPY files, inputs and targets: what is read can be written, and read again to the same bits.
#![no_main]

use layerwise::data::{Npy, TargetEncoding};
use layerwise::nalgebra::DMatrix;
use layerwise_fuzz::arrays;
use libfuzzer_sys::fuzz_target;

fn written(all: &DMatrix<f64>) -> Vec<u8> {
    let (n, dim) = (all.ncols(), all.nrows());
    let header = format!("{{'descr': '<f8', 'fortran_order': False, 'shape': ({n}, {dim})}}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(all.iter().flat_map(|value| value.to_le_bytes()));
    bytes
}

fuzz_target!(|input: &[u8]| {
    let Some((encoding, x, y)) = arrays::parts(input) else {
        return;
    };
    let (x, y) = (arrays::file("x.npy", x), arrays::file("y.npy", y));
    let Ok(data) = Npy::<f64>::open(x, y, encoding) else {
        return;
    };
    let Ok((x, y)) = arrays::read(&data) else {
        return;
    };
    let (x_again, y_again) = (
        arrays::file("x.npy", &written(&x)),
        arrays::file("y.npy", &written(&y)),
    );
    let again = Npy::<f64>::open(x_again, y_again, TargetEncoding::Values);
    arrays::assert_same(&x, &y, &again.expect("files that were written"));
});
