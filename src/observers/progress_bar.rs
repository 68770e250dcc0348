//! A run as a line on the terminal.

use std::fmt::Write as _;

use indicatif::ProgressStyle;

use crate::error::Error;
use crate::kernel::Scalar;
use crate::training::{EpochRecord, Event, Observer, Progress};

/// A progress bar on the standard error stream, if that is a terminal (feature `progress`): the share of
/// visits made, the time left, and E, the losses, the gap and the metric of the last epoch that ended while it watched.
///
/// The time left is that of this session's visits so far, carried on; it assumes that no phase ends
/// early.
///
/// # Examples
/// ```
/// use layerwise::observers::ProgressBar;
/// use layerwise::prelude::*;
/// use layerwise::training::Session;
///
/// # let circuit = Circuit::<f64>::builder().layer(Dense::new(1, 1, Activation::Identity)?);
/// # let mut model = DecoupledCircuit::new(circuit.build()?, Energy::default())?;
/// # let x = DMatrix::from_fn(1, 40, |_, j| j as f64 / 20.0 - 1.0);
/// # model.add_examples(&x, &x.map(|x| 2.0 * x), &TargetInit::ForwardPass)?;
/// let trainer = Trainer::new(Phase::new(Backprop, Adam::new(1e-2)?).with_epochs(3));
/// let mut session = Session::new(&trainer, model)?;
/// session.observe(ProgressBar::new());
/// session.run()?;
/// # Ok::<(), Error>(())
/// ```
#[doc(alias("indicatif", "tqdm", "eta"))]
#[derive(Debug)]
pub struct ProgressBar {
    bar: indicatif::ProgressBar,
    /// The share that was done, and the seconds, when it was first told.
    start: Option<(f64, f64)>,
    /// The last reported epoch's numbers, as shown in the message.
    numbers: String,
}

/// Steps of the bar.
const STEPS: u64 = 10_000;

impl ProgressBar {
    /// A bar on the standard error stream.
    pub fn new() -> Self {
        Self::on(indicatif::ProgressDrawTarget::stderr())
    }

    /// A bar on any target of indicatif.
    pub fn on(target: indicatif::ProgressDrawTarget) -> Self {
        let style = ProgressStyle::with_template("{bar:24} {percent:>3}% {msg}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = indicatif::ProgressBar::with_draw_target(Some(STEPS), target);
        bar.set_style(style);
        Self {
            bar,
            start: None,
            numbers: String::new(),
        }
    }
}

impl Default for ProgressBar {
    fn default() -> Self {
        Self::new()
    }
}

/// ", E 1.2e-1, …".
fn numbers<T: Scalar>(record: &EpochRecord<T>) -> String {
    let mut text = String::new();
    for (name, value) in [
        ("E", Some(record.objective)),
        ("loss", record.composed_loss),
        ("validation", record.validation_loss),
        ("gap", record.gap.or(record.gap_after)),
    ] {
        if let Some(value) = value {
            let _ = write!(text, ", {name} {:.3e}", value.as_f64());
        }
    }
    if let Some(metric) = record.metric {
        let _ = write!(text, ", metric {metric:.4}");
    }
    text
}

impl<T: Scalar> Observer<T> for ProgressBar {
    fn observe(&mut self, event: &Event<T>, run: &Progress<'_, T>) -> Result<(), Error> {
        let (first, began) = *self.start.get_or_insert((run.fraction, run.seconds));
        self.bar
            .set_position((run.fraction * STEPS as f64).round() as u64);
        if let Event::Epoch(record) = event {
            self.numbers = numbers(record);
        }
        let mut text = format!("epoch {} of {}{}", run.epochs, run.planned, self.numbers);
        let share = run.fraction - first;
        if share > 0.0 {
            let left = (run.seconds - began) / share * (1.0 - run.fraction);
            let _ = write!(text, ", {} left", duration(left));
        }
        self.bar.set_message(text);
        if let Event::Stop(_) = event {
            self.bar.abandon();
        }
        Ok(())
    }
}

/// "42 s", "3 min", "2 h 5 min".
fn duration(seconds: f64) -> String {
    let minutes = (seconds / 60.0).round() as u64;
    match minutes {
        _ if seconds < 99.5 => format!("{seconds:.0} s"),
        ..100 => format!("{minutes} min"),
        _ => format!("{} h {} min", minutes / 60, minutes % 60),
    }
}
