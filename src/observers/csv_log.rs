//! A history as a table of comma-separated values.

use std::fmt::{Display, Write as _};
use std::io::Write;
use std::path::Path;

use super::output::Output;
use crate::error::Error;
use crate::kernel::Scalar;
use crate::training::{EpochRecord, Event, Observer, Progress};

/// Writes a line of comma-separated values after every epoch.
///
/// The columns, named in the first line, are fields of [`EpochRecord`]: `phase`, `epoch`, `steps`,
/// `objective`, `composed_loss`, `validation_loss`, `metric`, `gap`, `gap_before`, `gap_after`, `relaxation` and
/// `factor`; then `seconds`, the wall-clock time since this session began, and `run`, the name of
/// [`CsvLog::with_run`]. A value that was not measured is empty, and ∞ is `inf`. The log of a resumed
/// run begins with the epochs in its history, without their seconds, so the file is whole again.
///
/// # Examples
/// ```
/// use layerwise::observers::CsvLog;
/// use layerwise::prelude::*;
/// use layerwise::training::Session;
///
/// # let circuit = Circuit::<f64>::builder().layer(Dense::new(1, 1, Activation::Identity)?);
/// # let mut model = DecoupledCircuit::new(circuit.build()?, Energy::default())?;
/// # let x = DMatrix::from_fn(1, 40, |_, j| j as f64 / 20.0 - 1.0);
/// # model.add_examples(&x, &x.map(|x| 2.0 * x), &TargetInit::ForwardPass)?;
/// let trainer = Trainer::new(Phase::new(Backprop, Adam::new(1e-2)?).with_epochs(3));
/// let mut session = Session::new(&trainer, model)?;
/// let path = std::env::temp_dir().join("layerwise-example.csv");
/// session.observe(CsvLog::create(&path)?);
/// session.run()?;
/// let table = std::fs::read_to_string(&path).unwrap();
/// assert_eq!(table.lines().count(), 1 + 3);
/// assert!(table.starts_with("phase,epoch,steps,objective,composed_loss,"));
/// # std::fs::remove_file(&path).unwrap();
/// # Ok::<(), Error>(())
/// ```
#[doc(alias("history", "table"))]
#[derive(Debug)]
pub struct CsvLog {
    output: Output,
    /// The name of the run as a cell.
    run: String,
}

const HEADER: &str = "phase,epoch,steps,objective,composed_loss,validation_loss,metric,gap,\
                      gap_before,gap_after,relaxation,factor,seconds,run\n";

impl CsvLog {
    /// A log in a new file, in place of an old one.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn create(path: impl AsRef<Path>) -> Result<Self, Error> {
        Ok(Self {
            output: Output::create(path.as_ref())?,
            run: String::new(),
        })
    }

    /// A log to any writer.
    pub fn to(writer: impl Write + Send + 'static) -> Self {
        Self {
            output: Output::to(writer),
            run: String::new(),
        }
    }

    /// Writes `name` in every line, so that the tables of several runs can be joined.
    pub fn with_run(mut self, name: &str) -> Self {
        self.run = match name.contains([',', '"', '\n', '\r']) {
            true => format!("\"{}\"", name.replace('"', "\"\"")),
            false => name.into(),
        };
        self
    }
}

/// The line of an epoch of `run`.
fn line<T: Scalar>(record: &EpochRecord<T>, seconds: Option<f64>, run: &str, lines: &mut String) {
    fn cell(value: Option<impl Display>, lines: &mut String) {
        if let Some(value) = value {
            // A string takes all that is written to it.
            let _ = write!(lines, "{value}");
        }
        lines.push(',');
    }
    cell(Some(record.phase), lines);
    cell(Some(record.epoch), lines);
    cell(Some(record.steps), lines);
    cell(Some(record.objective), lines);
    cell(record.composed_loss, lines);
    cell(record.validation_loss, lines);
    cell(record.metric, lines);
    for gap in [record.gap, record.gap_before, record.gap_after] {
        cell(gap, lines);
    }
    cell(record.relaxation, lines);
    cell(Some(record.factor), lines);
    cell(seconds.map(|seconds| format!("{seconds:.3}")), lines);
    lines.push_str(run);
    lines.push('\n');
}

impl<T: Scalar> Observer<T> for CsvLog {
    fn observe(&mut self, event: &Event<T>, run: &Progress<'_, T>) -> Result<(), Error> {
        let record = match event {
            Event::Epoch(record) => Some(record),
            // A finished run that was reopened has no further epoch; another may have left the rest of a
            // line.
            Event::Stop(_) => None,
            _ => return Ok(()),
        };
        let mut lines = String::new();
        if !self.output.has_begun() {
            lines.push_str(HEADER);
            let told = record.map_or(u64::MAX, |own| own.epoch);
            let earlier = run.history.iter().filter(|own| own.epoch < told);
            earlier.for_each(|own| line(own, None, &self.run, &mut lines));
        }
        if let Some(record) = record {
            line(record, Some(run.seconds), &self.run, &mut lines);
        }
        self.output.lines(&lines)
    }
}
