//! Files of a circuit: what is read can be written, and read again to the same bytes.
#![no_main]

use layerwise::Circuit;
use layerwise::nalgebra::DMatrix;
use layerwise::registry::Registry;
use layerwise::storage::Stored;
use layerwise_fuzz::files;
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fn read<T: Stored>(bytes: &[u8]) {
    let open = |bytes: &[u8]| Circuit::<T>::from_bytes(bytes, &Registry::new());
    let Ok(read) = open(bytes) else {
        return;
    };
    let written = read.to_bytes().expect("what was read can be written");
    let again = open(&written).expect("what was written can be read");
    assert_eq!(again.to_bytes().as_ref(), Ok(&written));
    // Its parameters are in the file, but a layer that shares them may have any width.
    if read.dims().iter().all(|&dim| dim < 1 << 12) {
        let _ = read.predict(&DMatrix::from_element(read.dims()[0], 2, T::of(0.5)));
    }
}

fuzz_target!(|input: &[u8]| {
    for bytes in files::files(input) {
        read::<f32>(&bytes);
        read::<f64>(&bytes);
    }
});
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    files::mutate(data, size, max_size, seed)
});
