//! States of runs in JSON: one that is accepted goes on without a panic, and comes back.
#![no_main]

use layerwise::training::{Session, SessionState};
use layerwise_fuzz::{json, runs};
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fuzz_target!(|input: &[u8]| {
    let Some((&which, text)) = input.split_first() else {
        return;
    };
    let Ok(state) = serde_json::from_slice::<SessionState<f64>>(text) else {
        return;
    };
    let trainers = runs::trainers();
    let trainer = &trainers[usize::from(which) % trainers.len()];
    let Ok(mut session) = Session::resume(trainer, runs::small(), state) else {
        return;
    };
    let there = |session: &Session<f64>| serde_json::to_string(session.state()).unwrap();
    let written = there(&session);
    let back = serde_json::from_str(&written).expect("what was written can be read");
    let again = Session::resume(trainer, runs::small(), back).expect("it was accepted");
    assert_eq!(there(&again), written);
    for _ in 0..60 {
        let _ = session.advance();
    }
    let _ = session.report().to_string();
});
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    json::mutate(data, size, max_size, seed)
});
