//! A log of events as JSON, one per line.

use std::io::Write;
use std::path::Path;

use serde::Serialize;

use super::output::Output;
use crate::error::Error;
use crate::kernel::Scalar;
use crate::training::{Event, Observer, Progress};

/// Writes every event as a JSON object on a line of its own (feature `json`).
///
/// The object has one key, the kind of the event, such as `{"Epoch": {"epoch": 3, …}}` or
/// `{"Stop": "Epochs"}`; its value has the fields of the event's record. Visits, of which there are
/// many, are left out unless [`JsonLines::with_visits`] is called.
///
/// # Examples
/// ```
/// use layerwise::observers::JsonLines;
/// use layerwise::prelude::*;
/// use layerwise::training::Session;
///
/// # let circuit = Circuit::<f64>::builder().layer(Dense::new(1, 1, Activation::Identity)?);
/// # let mut model = DecoupledCircuit::new(circuit.build()?, Energy::default())?;
/// # let x = DMatrix::from_fn(1, 40, |_, j| j as f64 / 20.0 - 1.0);
/// # model.add_examples(&x, &x.map(|x| 2.0 * x), &TargetInit::ForwardPass)?;
/// let trainer = Trainer::new(Phase::new(Backprop, Adam::new(1e-2)?).with_epochs(3));
/// let mut session = Session::new(&trainer, model)?;
/// session.observe(JsonLines::to(std::io::stdout()));
/// session.run()?;
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug)]
pub struct JsonLines {
    output: Output,
    visits: bool,
}

impl JsonLines {
    /// A log in a new file, which replaces an existing one. A resumed run writes only its own part:
    /// to append it to the old log, use [`JsonLines::to`] with a file opened for appending.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn create(path: impl AsRef<Path>) -> Result<Self, Error> {
        Ok(Self {
            output: Output::create(path.as_ref())?,
            visits: false,
        })
    }

    /// A log to any writer.
    pub fn to(writer: impl Write + Send + 'static) -> Self {
        Self {
            output: Output::to(writer),
            visits: false,
        }
    }

    /// Writes visits too.
    pub fn with_visits(self) -> Self {
        Self {
            visits: true,
            ..self
        }
    }
}

impl<T: Scalar + Serialize> Observer<T> for JsonLines {
    fn observe(&mut self, event: &Event<T>, _: &Progress<'_, T>) -> Result<(), Error> {
        if matches!(event, Event::Visit(_)) && !self.visits {
            return Ok(());
        }
        let line = serde_json::to_string(event).map_err(|reason| Error::File {
            file: "an event".into(),
            doing: "written as JSON",
            reason: reason.to_string(),
        })?;
        self.output.lines(&(line + "\n"))
    }
}
