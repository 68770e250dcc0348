//! Weights in files of other programs.
#![no_main]

use layerwise::Circuit;
use layerwise::storage::Stored;
use layerwise_fuzz::{arrays, files, runs};
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fn bits<T: Stored>(circuit: &Circuit<T>) -> Vec<u64> {
    let values = (0..circuit.depth()).flat_map(|t| circuit.parameters(t));
    values.map(|value| value.as_f64().to_bits()).collect()
}

fn read<T: Stored>(bytes: &[u8]) {
    let path = arrays::file("tensors", bytes);
    let mut circuit = runs::circuit::<T>();
    let old = bits(&circuit);
    match circuit.load_tensors(path, |t, group| format!("{t}.{}", group.name)) {
        Ok(()) => assert!(
            bits(&circuit)
                .iter()
                .all(|&own| f64::from_bits(own).is_finite())
        ),
        Err(_) => assert_eq!(bits(&circuit), old),
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
