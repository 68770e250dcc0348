//! IDX files, inputs and targets: what is read can be written, and read again to the same bits.
#![no_main]

use layerwise::data::{Idx, TargetEncoding};
use layerwise::nalgebra::DMatrix;
use layerwise_fuzz::arrays;
use libfuzzer_sys::fuzz_target;

fn written(all: &DMatrix<f64>) -> Vec<u8> {
    let mut bytes = vec![0, 0, 14, 2];
    for extent in [all.ncols(), all.nrows()] {
        bytes.extend((extent as u32).to_be_bytes());
    }
    bytes.extend(all.iter().flat_map(|value| value.to_be_bytes()));
    bytes
}

fuzz_target!(|input: &[u8]| {
    let Some((encoding, x, y)) = arrays::parts(input) else {
        return;
    };
    let (x, y) = (arrays::file("x.idx", x), arrays::file("y.idx", y));
    let Ok(data) = Idx::<f64>::open(x, y, encoding) else {
        return;
    };
    let Ok((x, y)) = arrays::read(&data) else {
        return;
    };
    // Four bytes hold an extent; a file without examples may have more values in each.
    if x.nrows() <= u32::MAX as usize && y.nrows() <= u32::MAX as usize {
        let x_again = arrays::file("x.idx", &written(&x));
        let y_again = arrays::file("y.idx", &written(&y));
        let again = Idx::<f64>::open(x_again, y_again, TargetEncoding::Values);
        arrays::assert_same(&x, &y, &again.expect("files that were written"));
    }
});
