//! A run as spans and events of tracing.

use tracing::{Span, debug, info, info_span, warn};

use crate::error::Error;
use crate::kernel::Scalar;
use crate::training::{Event, Observer, Progress};

/// Sends the run to the subscriber of the crate `tracing` (feature `tracing`).
///
/// Every phase is a span `phase` with its number. In it there is an event at level INFO for every
/// epoch, checkpoint, end of a phase and end of the run, at level WARN for every warning of an
/// epoch, and at level DEBUG for every visit. Their fields are those of the records.
#[derive(Debug, Default)]
pub struct Trace {
    /// The phase in progress, and its number.
    span: Option<(usize, Span)>,
}

impl Trace {
    /// An observer that sends every event to the current subscriber.
    pub fn new() -> Self {
        Self::default()
    }

    fn span(&mut self, phase: usize) -> Span {
        match &self.span {
            Some((own, span)) if *own == phase => span.clone(),
            _ => {
                let span = info_span!("phase", phase);
                self.span = Some((phase, span.clone()));
                span
            }
        }
    }
}

impl<T: Scalar> Observer<T> for Trace {
    fn observe(&mut self, event: &Event<T>, run: &Progress<'_, T>) -> Result<(), Error> {
        let number = |value: Option<T>| value.map(Scalar::as_f64);
        match event {
            Event::Visit(own) => self.span(own.phase).in_scope(|| {
                let (visit, epoch, examples) = (own.visit, own.epoch, own.examples);
                let objective = own.objective.as_f64();
                debug!(visit, epoch, examples, objective, "visit");
            }),
            Event::Epoch(own) => self.span(own.phase).in_scope(|| {
                info!(
                    epoch = own.epoch,
                    steps = own.steps,
                    objective = own.objective.as_f64(),
                    composed_loss = number(own.composed_loss),
                    validation_loss = number(own.validation_loss),
                    metric = own.metric,
                    gap = number(own.gap),
                    gap_before = number(own.gap_before),
                    gap_after = number(own.gap_after),
                    relaxation = own.relaxation,
                    factor = own.factor,
                    "epoch"
                );
                for warning in &own.warnings {
                    warn!(epoch = own.epoch, "{warning}");
                }
            }),
            Event::Phase(own) => {
                let span = self.span.take().map(|(_, span)| span);
                span.unwrap_or_else(Span::none).in_scope(|| {
                    let (epochs, steps, stop) = (own.epochs, own.steps, own.stop);
                    info!(epochs, steps, ?stop, "phase ended");
                });
            }
            Event::Checkpoint(own) => info!(visits = own.visits, seconds = own.seconds, "saved"),
            Event::Stop(reason) => info!(visits = run.visits, ?reason, "run ended"),
        }
        Ok(())
    }
}
