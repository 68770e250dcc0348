//! What watches a run, and what saves it.

use std::fmt::Debug;

use super::report::{EpochRecord, Event};
use super::session::SessionState;
use super::trainer::Trainer;
use crate::decoupled::DecoupledCircuit;
use crate::error::Error;
use crate::kernel::Scalar;

/// Watches a run: it receives every event of a [`Session`](crate::training::Session), and
/// cannot change anything.
///
/// # Examples
/// ```
/// use layerwise::prelude::*;
/// use layerwise::training::{Event, Observer, Progress, Session};
///
/// /// Prints the loss after every epoch.
/// #[derive(Debug)]
/// struct Losses;
///
/// impl Observer<f64> for Losses {
///     fn observe(&mut self, event: &Event<f64>, run: &Progress<'_, f64>) -> Result<(), Error> {
///         if let Event::Epoch(record) = event {
///             println!("{} of {}: {:?}", record.epoch, run.planned, record.composed_loss);
///         }
///         Ok(())
///     }
/// }
///
/// # let circuit = Circuit::<f64>::builder().layer(Dense::new(1, 1, Activation::Identity)?);
/// # let mut model = DecoupledCircuit::new(circuit.build()?, Energy::default())?;
/// # let x = DMatrix::from_fn(1, 40, |_, j| j as f64 / 20.0 - 1.0);
/// # model.add_examples(&x, &x.map(|x| 2.0 * x), &TargetInit::ForwardPass)?;
/// let trainer = Trainer::new(Phase::new(Backprop, Adam::new(1e-2)?).with_epochs(3));
/// let mut session = Session::new(&trainer, model)?;
/// session.observe(Losses);
/// session.run()?;
/// # Ok::<(), Error>(())
/// ```
pub trait Observer<T: Scalar>: Debug + Send {
    /// Called after every event, with the run as it is then.
    ///
    /// # Errors
    /// An error of your own choice, such as [`Error::File`]. The method that advanced the run
    /// returns it in place of the event, which has happened and is not reported again, unless
    /// [`Session::continue_after_failures`](crate::training::Session::continue_after_failures) was
    /// called. All other observers receive the event.
    fn observe(&mut self, event: &Event<T>, run: &Progress<'_, T>) -> Result<(), Error>;
}

/// Where a run stands.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Progress<'a, T: Scalar> {
    /// The model.
    pub model: &'a DecoupledCircuit<T>,
    /// The records of the epochs so far, or fewer as set by
    /// [`Trainer::with_history_every`](crate::training::Trainer::with_history_every).
    pub history: &'a [EpochRecord<T>],
    /// Epochs begun.
    pub epochs: u64,
    /// Epochs of all phases together, if none ends early.
    pub planned: u64,
    /// Completed visits.
    pub visits: u64,
    /// The share of the planned visits that is done, from 0 to 1; phases that ended early count as
    /// complete, unless they were stopped with the run.
    pub fraction: f64,
    /// Wall-clock time since this session began, in seconds.
    pub seconds: f64,
}

/// Saves a run, for [`Session::save_with`](crate::training::Session::save_with).
pub trait Saver<T: Scalar>: Debug + Send {
    /// Saves all that is needed to continue the run with
    /// [`Session::resume`](crate::training::Session::resume): the model and the state. The trainer
    /// is given for checks, such as of its seed.
    ///
    /// # Errors
    /// An error of your own choice, such as [`Error::File`].
    fn save(
        &mut self,
        trainer: &Trainer<T>,
        model: &DecoupledCircuit<T>,
        state: &SessionState<T>,
    ) -> Result<(), Error>;
}
