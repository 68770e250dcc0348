//! Runs in files: a model and the state of its session.

use std::path::{Path, PathBuf};

use super::Stored;
use super::circuit::Manifest;
use super::container::{Contents, Draft, Layout};
use super::model::{self, RunEntry, Values};
use crate::atomic;
use crate::decoupled::DecoupledCircuit;
use crate::error::Error;
use crate::training::{Saver, Session, SessionState, Trainer};

/// The array with the state, in postcard's format.
const STATE: &str = "run.state";

/// The file of a checkpoint.
fn write<'a, T: Stored>(
    trainer: &Trainer<T>,
    model: &'a DecoupledCircuit<T>,
    state: &SessionState<T>,
) -> Result<Layout<'a>, Error> {
    let mut draft = Draft::default();
    let manifest = model::write(model, &mut draft);
    let bytes = postcard::to_stdvec(state).map_err(|reason| Error::Format {
        file: "the state that is to be saved".into(),
        reason: reason.to_string(),
    })?;
    draft.put_bytes(STATE, bytes);
    draft.finish::<T, _>(&Manifest {
        run: Some(RunEntry {
            seed: trainer.seed(),
            phases: phases(trainer),
            visits: state.visits(),
        }),
        ..manifest
    })
}

fn phases<T: Stored>(trainer: &Trainer<T>) -> Vec<String> {
    let phases = trainer.phases().iter();
    phases.map(|phase| format!("{phase:?}")).collect()
}

/// Saves a run in one file.
#[derive(Debug)]
struct Checkpoints {
    path: PathBuf,
}

impl<T: Stored> Saver<T> for Checkpoints {
    fn save(
        &mut self,
        trainer: &Trainer<T>,
        model: &DecoupledCircuit<T>,
        state: &SessionState<T>,
    ) -> Result<(), Error> {
        write(trainer, model, state)?.write(&self.path)
    }
}

impl<T: Stored> Session<T> {
    /// Writes the run to a file, which is replaced as a whole: the model, and all state of
    /// schemes, solvers, optimisers and early stopping; see [`storage`](crate::storage). The file of a
    /// run that was stopped continues as if it had not been, from the phase in progress or, if that
    /// has been closed, with the next one.
    ///
    /// # Errors
    /// Those of [`Circuit::save`](crate::Circuit::save).
    #[doc(alias("checkpoint"))]
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        self.layout()?.write(path.as_ref())
    }

    /// The bytes of the file that [`Session::save`] writes.
    ///
    /// # Errors
    /// [`Error::Format`], as in [`Session::save`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        self.layout()?.to_bytes()
    }

    fn layout(&self) -> Result<Layout<'_>, Error> {
        write(self.trainer(), self.model(), &self.state().resumable())
    }

    /// Writes the run to a file after every k-th visit of the run, k = `visits`, at its end, and
    /// when it is stopped; see [`Session::save_with`].
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for 0 visits, [`Error::File`] if the file's folder does not exist.
    ///
    /// # Examples
    /// A program that continues an earlier run, if there was one:
    /// ```
    /// use layerwise::prelude::*;
    /// use layerwise::training::Session;
    ///
    /// # let circuit = Circuit::<f64>::builder().layer(Dense::new(1, 1, Activation::Identity)?);
    /// # let mut model = DecoupledCircuit::new(circuit.build()?, Energy::default())?;
    /// # let x = DMatrix::from_fn(1, 40, |_, j| j as f64 / 20.0 - 1.0);
    /// # model.add_examples(&x, &x.map(|x| 2.0 * x), &TargetInit::ForwardPass)?;
    /// let phase = Phase::new(Backprop, Adam::new(1e-2)?).with_epochs(20).with_batch_size(10)?;
    /// let trainer = Trainer::new(phase);
    /// let path = std::env::temp_dir().join("layerwise-example.checkpoint");
    /// let mut session = match path.exists() {
    ///     true => Session::reopen(&trainer, model, &path)?,
    ///     false => Session::new(&trainer, model)?,
    /// };
    /// session.checkpoint_every(25, &path)?;
    /// let report = session.run()?;
    /// # assert_eq!(report.steps, 80);
    /// # std::fs::remove_file(&path).unwrap();
    /// # Ok::<(), Error>(())
    /// ```
    #[doc(alias("autosave"))]
    pub fn checkpoint_every(&mut self, visits: u64, path: impl Into<PathBuf>) -> Result<(), Error> {
        let path = path.into();
        // Now, rather than at the first checkpoint.
        atomic::check_folder(&path)?;
        self.save_with(visits, Checkpoints { path })
    }

    /// A session that continues from a file with the same bits, in this or another process.
    ///
    /// `model` must be built like the saved one: layers, losses and regularisers. Its θ, μ, seed and
    /// examples are replaced by those of the file, so it needs no examples, unless they are streamed. The phases of `trainer`,
    /// with all options that `Debug` prints, and its seed must be the saved run's. To go on with
    /// other options, reopen the run as it was, and [`Session::resume`] its model and state with
    /// another trainer.
    ///
    /// # Errors
    /// Those of [`DecoupledCircuit::load`] and of [`Session::resume`]; [`Error::Format`] for a file
    /// without a run; [`Error::Architecture`] for a run with other phases or another seed, with both.
    #[doc(alias("load", "checkpoint", "resume"))]
    pub fn reopen(
        trainer: &Trainer<T>,
        model: DecoupledCircuit<T>,
        path: impl AsRef<Path>,
    ) -> Result<Self, Error> {
        Self::reopened(trainer, model, Contents::open(path.as_ref())?)
    }

    /// [`Session::reopen`] of the file's bytes.
    ///
    /// # Errors
    /// Those of [`Session::reopen`].
    pub fn from_bytes(
        trainer: &Trainer<T>,
        model: DecoupledCircuit<T>,
        bytes: &[u8],
    ) -> Result<Self, Error> {
        Self::reopened(trainer, model, Contents::read(bytes)?)
    }

    fn reopened(
        trainer: &Trainer<T>,
        mut model: DecoupledCircuit<T>,
        mut file: Contents<'_>,
    ) -> Result<Self, Error> {
        let manifest: Manifest = file.manifest::<T, _>()?;
        let run = manifest.run.as_ref().ok_or_else(|| {
            file.refuse("it holds no run (Session::save and Session::checkpoint_every write one)")
        })?;
        let (here, there) = (trainer.seed(), run.seed);
        if here != there {
            let what = "the trainer's seed";
            return Err(file.differs(what, &here.to_string(), &there.to_string()));
        }
        let (here, there) = (phases(trainer), &run.phases);
        if here.len() != there.len() {
            let [here, there] = [here.len(), there.len()].map(|count| count.to_string());
            return Err(file.differs("the number of phases", &here, &there));
        }
        for (number, (here, there)) in here.iter().zip(there).enumerate() {
            if here != there {
                let (here, there) = differences(here, there);
                return Err(file.differs(&format!("phase {number}"), &here, &there));
            }
        }
        let bytes = file.get_bytes(STATE)?;
        let (state, rest) = postcard::take_from_bytes(&bytes)
            .map_err(|reason| file.refuse(&format!("its state cannot be read ({reason})")))?;
        if !rest.is_empty() {
            return Err(file.refuse("its state is followed by something else"));
        }
        Values::read(&model, &file, &manifest)?.put(&mut model);
        Self::resume(trainer, model, state)
    }
}

/// Two descriptions without what they begin and end with in common, cut between their fields.
fn differences(here: &str, there: &str) -> (String, String) {
    let common = |pairs: &mut dyn Iterator<Item = (char, char)>| -> usize {
        let equal = pairs.take_while(|(a, b)| a == b);
        equal.map(|(a, _)| a.len_utf8()).sum()
    };
    let start = common(&mut here.chars().zip(there.chars()));
    let start = here[..start]
        .rfind([',', '{', '('])
        .map_or(0, |place| place + 1);
    let (here, there) = (&here[start..], &there[start..]);
    let end = common(&mut here.chars().rev().zip(there.chars().rev()));
    let cut = |text: &str| {
        let end = text.len() - end;
        let rest = text[end..].find([',', '}', ')']);
        text[..rest.map_or(text.len(), |place| end + place)]
            .trim()
            .to_string()
    };
    (cut(here), cut(there))
}
