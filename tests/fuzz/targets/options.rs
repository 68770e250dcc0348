//! Options in JSON: what is read can be written, and read again to the same text.
#![no_main]

use std::fmt::Debug;
use std::sync::Arc;

use layerwise::data::Standardizer;
use layerwise::description::Description;
use layerwise::nalgebra::DMatrix;
use layerwise::optimizer::{Adam, AdamW, GradientDescent, RmsProp};
use layerwise::parameter_solver::{LeastSquares, LevenbergMarquardt};
use layerwise::registry::Registry;
use layerwise::regularizer::Regularizer;
use layerwise::schedule::Schedule;
use layerwise::target_solver::{
    Convergence, ErrorDescent, GaussNewton, RedBlack, ReverseSweep, StepSize,
};
use layerwise::training::{Decoupling, Targets, ZStep};
use layerwise_fuzz::json;
use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use serde::Serialize;
use serde::de::DeserializeOwned;

fn read<A: Serialize + DeserializeOwned + Debug>(text: &[u8]) -> Option<A> {
    let read: A = serde_json::from_slice(text).ok()?;
    let written = serde_json::to_string(&read).expect("what was read can be written");
    let again: A = serde_json::from_str(&written).expect("what was written can be read");
    assert_eq!(serde_json::to_string(&again).unwrap(), written);
    Some(read)
}

fuzz_target!(|input: &[u8]| {
    let Some((which, text)) = input.split_first() else {
        return;
    };
    match which % 16 {
        0 => drop(read::<Adam>(text)),
        1 => drop(read::<AdamW>(text)),
        2 => drop(read::<GradientDescent>(text)),
        3 => drop(read::<RmsProp>(text)),
        4 => drop(read::<LeastSquares>(text)),
        5 => drop(read::<LevenbergMarquardt>(text)),
        6 => drop(read::<Regularizer>(text)),
        7 => drop(read::<ReverseSweep>(text)),
        // In the same form.
        8 => {
            drop(read::<RedBlack>(text));
            drop(read::<ErrorDescent>(text));
        }
        9 => drop(read::<GaussNewton>(text)),
        10 => drop(read::<StepSize>(text)),
        11 => drop(read::<Convergence>(text)),
        12 => {
            if let Some(schedule) = read::<Schedule>(text) {
                for step in [0, 1, 7, u64::MAX] {
                    // Growing steps may pass all bounds.
                    assert!(schedule.factor(step, 7) >= 0.0, "{schedule:?} {step}");
                }
            }
        }
        13 => {
            if let Some(targets) = read::<Targets>(text) {
                let sweep = ZStep::Solver(Arc::new(ReverseSweep::new(1)));
                let _ = Decoupling::<f64>::new(targets, sweep);
            }
        }
        14 => {
            if let Some(description) = read::<Description>(text) {
                let _ = description.to_string();
                let registry = Registry::<f64>::new();
                let _ = (
                    registry.layer(&description).err(),
                    registry.loss(&description).err(),
                );
            }
        }
        _ => {
            if let Some(own) = read::<Standardizer<f64>>(text) {
                let _ = own.transform(&DMatrix::from_element(2, 3, 0.5));
            }
        }
    }
});
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    json::mutate(data, size, max_size, seed)
});
