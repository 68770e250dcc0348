//! The progress of a run against passes over the data and seconds.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use layerwise::training::Trainer;
use layerwise::{DecoupledCircuit, Error, Scalar};
use serde::{Deserialize, Serialize};

/// After an epoch.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Point<V> {
    pub passes: u64,
    /// Seconds since `begin`, excluding measurements between epochs.
    pub seconds: f64,
    pub value: V,
}

/// Trains until `enough` holds for a point or the trainer's phases end. Measures after the first
/// epoch, and then whenever the elapsed seconds have reached `spacing` times those of the last
/// measurement: 1 measures after every epoch.
pub fn curve<T: Scalar, V: Send>(
    begin: Instant,
    trainer: Trainer<T>,
    model: &mut DecoupledCircuit<T>,
    spacing: f64,
    measure: impl Fn(&DecoupledCircuit<T>) -> Result<V, Error> + Sync,
    enough: impl Fn(&Point<V>) -> bool + Sync,
) -> Result<Vec<Point<V>>, Error> {
    let mut points: Vec<Point<V>> = Vec::new();
    let mut failed = None;
    let mut measuring = Duration::ZERO;
    trainer.run_with(model, |record, model| {
        let now = Instant::now();
        let seconds = (now - begin - measuring).as_secs_f64();
        let last = points.last().map_or(0.0, |point| point.seconds);
        if seconds < spacing * last {
            return ControlFlow::Continue(());
        }
        let value = measure(model);
        measuring += now.elapsed();
        match value {
            Ok(value) => points.push(Point {
                passes: record.epoch,
                seconds,
                value,
            }),
            Err(error) => failed = Some(error),
        }
        match (&failed, points.last()) {
            (None, Some(point)) if !enough(point) => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        }
    })?;
    match failed {
        Some(error) => Err(error),
        None => Ok(points),
    }
}
