//! Files of runs: what is read goes on without a panic, and can be written and read again to the same bytes.
#![no_main]

use layerwise::training::{Session, Trainer};
use layerwise_fuzz::{files, runs};
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fn read(trainer: &Trainer<f64>, bytes: &[u8]) {
    let open = |bytes: &[u8]| Session::from_bytes(trainer, runs::empty(), bytes);
    let Ok(mut session) = open(bytes) else {
        return;
    };
    let written = session.to_bytes().expect("what was read can be written");
    let again = open(&written).expect("what was written can be read");
    assert_eq!(again.to_bytes().as_ref(), Ok(&written));
    for _ in 0..60 {
        let _ = session.advance();
    }
    let _ = session.report().to_string();
}

fuzz_target!(|input: &[u8]| {
    for bytes in files::files(input) {
        for trainer in runs::trainers() {
            read(&trainer, &bytes);
        }
    }
});
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    files::mutate(data, size, max_size, seed)
});
