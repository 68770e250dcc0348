//! Shards in JSON and in postcard's format: what fits its layer can be evaluated, and comes back.
#![no_main]

use layerwise::decoupled::Selection;
use layerwise::layer::{Activation, Dense};
use layerwise::loss::SquaredError;
use layerwise::shard::Shard;
use layerwise_fuzz::{json, runs};
use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use serde_json::Value;

fn check(shard: &Shard<f64>) {
    let written = postcard::to_stdvec(shard).expect("it can be written");
    let again: Shard<f64> = postcard::from_bytes(&written).expect("it can be read");
    assert_eq!(postcard::to_stdvec(&again), Ok(written));
    let layer = Dense::new(3, 1, Activation::Identity).unwrap();
    if let Ok(problem) = shard.problem(&layer, &SquaredError) {
        let _ = problem.gradients();
        let text = serde_json::to_string(shard).expect("its numbers are finite");
        assert_eq!(&serde_json::from_str::<Shard<f64>>(&text).unwrap(), shard);
    }
    let mut model = runs::small();
    if model.install(shard).is_ok() {
        assert!(model.circuit().parameters(1).iter().all(|v| v.is_finite()));
    }
}

/// The fingerprint of the layer that it is of: few mutations would find it.
fn fingerprint() -> Value {
    let shard = runs::small().shard(1, &Selection::All).unwrap();
    serde_json::to_value(shard).unwrap()["fingerprint"].take()
}

fuzz_target!(|input: &[u8]| {
    let Some((kind, input)) = input.split_first() else {
        return;
    };
    if kind % 2 == 1 {
        if let Ok(shard) = postcard::from_bytes(input) {
            check(&shard);
        }
        return;
    }
    if let Ok(shard) = serde_json::from_slice(input) {
        check(&shard);
    }
    if let Ok(mut value) = serde_json::from_slice::<Value>(input) {
        if let Some(own) = value.get_mut("fingerprint") {
            *own = fingerprint();
        }
        if let Ok(shard) = serde_json::from_value(value) {
            check(&shard);
        }
    }
});
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    json::mutate(data, size, max_size, seed)
});
