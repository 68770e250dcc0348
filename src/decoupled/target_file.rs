//! Auxiliary targets in a file, for more examples than fit in memory.

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::examples::Hidden;
use super::streamed::{Streamed, TargetStore, record_len};
use super::{DecoupledCircuit, TargetInit, check_unchanged};
use crate::check::room;
use crate::data::Dataset;
use crate::data_file::DataFile;
use crate::error::Error;
use crate::kernel::Bytes;

/// Records of equal length in a file without a name, which is gone when it is closed.
#[derive(Debug)]
struct TargetFile<T> {
    folder: PathBuf,
    file: DataFile,
    records: usize,
    /// Scalars of one record.
    length: usize,
    scalar: PhantomData<fn() -> T>,
}

/// Bytes that are converted at once.
const PIECE: usize = 8192;

impl<T: Bytes> TargetFile<T> {
    fn create(folder: &Path, records: usize, length: usize) -> Result<Self, Error> {
        let name = format!("a file of targets in {}", folder.display());
        let size = records
            .checked_mul(length)
            .and_then(|count| count.checked_mul(size_of::<T>()))
            .ok_or(Error::TooLarge {
                what: "a file of targets",
                rows: length,
                columns: records,
            })?;
        let file = unnamed(folder).and_then(|file| file.set_len(size as u64).map(|()| file));
        match file {
            Ok(file) => Ok(Self {
                folder: folder.to_owned(),
                file: DataFile::of(file, name),
                records,
                length,
                scalar: PhantomData,
            }),
            Err(reason) => Err(Error::File {
                file: name,
                doing: "created",
                reason: reason.to_string(),
            }),
        }
    }

    /// Where a record begins, in bytes.
    fn offset(&self, first: usize) -> u64 {
        first as u64 * (self.length * size_of::<T>()) as u64
    }
}

impl<T: Bytes> TargetStore<T> for TargetFile<T> {
    fn read(&self, first: usize, records: &mut [T]) -> Result<(), Error> {
        let (mut buffer, size) = ([0; PIECE], size_of::<T>());
        let mut offset = self.offset(first);
        for values in records.chunks_mut(PIECE / size) {
            let bytes = &mut buffer[..size * values.len()];
            self.file.read(bytes, offset)?;
            for (value, bytes) in values.iter_mut().zip(bytes.chunks_exact(size)) {
                *value = T::get(bytes);
            }
            offset += bytes.len() as u64;
        }
        Ok(())
    }

    fn write(&self, first: usize, records: &[T]) -> Result<(), Error> {
        let (mut buffer, size) = ([0; PIECE], size_of::<T>());
        let mut offset = self.offset(first);
        for values in records.chunks(PIECE / size) {
            let bytes = &mut buffer[..size * values.len()];
            for (value, bytes) in values.iter().zip(bytes.chunks_exact_mut(size)) {
                value.write(bytes);
            }
            self.file.write(bytes, offset)?;
            offset += bytes.len() as u64;
        }
        Ok(())
    }

    fn another(&self) -> Result<Arc<dyn TargetStore<T>>, Error> {
        Ok(Arc::new(Self::create(
            &self.folder,
            self.records,
            self.length,
        )?))
    }
}

/// A new file in a folder. The system removes it when it is closed, also after a crash.
fn unnamed(folder: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    #[cfg(windows)]
    {
        const DELETE_ON_CLOSE: u32 = 0x0400_0000;
        std::os::windows::fs::OpenOptionsExt::custom_flags(&mut options, DELETE_ON_CLOSE);
    }
    let process = std::process::id();
    let mut number = 0_u64;
    loop {
        let path = folder.join(format!(".layerwise-targets-{process}-{number}"));
        match options.open(&path) {
            Err(reason) if reason.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(reason) => return Err(reason),
            Ok(file) => {
                #[cfg(not(windows))]
                std::fs::remove_file(&path)?;
                return Ok(file);
            }
        }
    }
}

impl<T: Bytes> DecoupledCircuit<T> {
    /// Adds all examples of a data set without loading them into memory: their inputs and output
    /// targets are read on demand, and their auxiliary targets are kept in a file in `folder`.
    /// Returns the ids. A run gives the same bits as with [`add_dataset`](Self::add_dataset).
    ///
    /// While a minibatch is visited, a thread reads the next one. Memory holds three minibatches
    /// (or blocks of up to 1,024 examples, where all are measured or changed), about 30 bytes for
    /// each example, and what a scheme itself keeps for each example: multipliers λ, residuals, or
    /// the moments of a joint step, each as large as the targets.
    ///
    /// The file has no name, and disappears once the model is dropped and any read in progress has
    /// finished. It needs n Σ_{t=1}^{T−1} d_t scalars, and as many again while all targets are
    /// computed anew (at the end of a phase with refreshed or residual targets, and in
    /// [`initialize_targets`](Self::initialize_targets)). Checkpoints contain the targets, but not
    /// the data: [`Session::reopen`](crate::training::Session::reopen) one with a model of the same
    /// data set.
    ///
    /// Calls that need all examples in memory return [`Error::NotInMemory`]: views such as
    /// [`z`](Self::z) and [`problem`](Self::problem) (see [`z_of`](Self::z_of)), adding further
    /// examples, and removing some ([`Subset`](crate::data::Subset) streams a part). Clones of the
    /// model share the file until one of them changes its targets; that one then copies it.
    ///
    /// All space for the file is allocated at once, so that a full disk is an error of this call.
    /// If a later write fails nevertheless, only some of the new targets have been stored: continue
    /// from a checkpoint.
    ///
    /// # Errors
    /// Those of [`add_examples`](Self::add_examples) and of [`Dataset::read`], [`Error::File`];
    /// [`Error::TooLarge`] for more examples than memory can number; [`Error::Length`] if
    /// [`Dataset::len`] changes meanwhile; [`Error::Combination`] for [`TargetInit::Projected`], and for a model that has examples.
    /// On an error nothing is added.
    ///
    /// # Examples
    /// ```
    /// use std::sync::Arc;
    ///
    /// use layerwise::data::InMemory;
    /// use layerwise::prelude::*;
    /// use layerwise::training::Decoupling;
    ///
    /// let circuit = || {
    ///     Circuit::<f64>::builder()
    ///         .layer(Dense::new(1, 8, Activation::Tanh)?)
    ///         .layer(Dense::new(8, 1, Activation::Identity)?)
    ///         .build()
    /// };
    /// let x = DMatrix::from_fn(1, 500, |_, j| j as f64 / 250.0 - 1.0);
    /// let y = x.map(|x| x * x);
    /// // Usually files, such as `Npy`.
    /// let data = InMemory::new(x, y)?;
    /// let mut model = DecoupledCircuit::new(circuit()?, Energy::default())?;
    /// let mut streaming = model.clone();
    /// model.add_dataset(&data, &TargetInit::ForwardPass)?;
    /// streaming.stream_dataset(Arc::new(data), std::env::temp_dir(), &TargetInit::ForwardPass)?;
    ///
    /// let scheme = Decoupling::persistent(ReverseSweep::new(1));
    /// let phase = Phase::new(scheme, Adam::new(1e-2)?).with_batch_size(50)?;
    /// let trainer = Trainer::new(phase.with_epochs(3));
    /// trainer.run(&mut model)?;
    /// trainer.run(&mut streaming)?;
    /// assert_eq!(streaming.circuit().parameters(0), model.circuit().parameters(0));
    /// assert_eq!(streaming.z_of(1, &Selection::All)?, model.z(1)?);
    /// # Ok::<(), Error>(())
    /// ```
    #[doc(alias("out of core", "memory map", "mmap", "larger than memory"))]
    pub fn stream_dataset(
        &mut self,
        data: Arc<dyn Dataset<T>>,
        folder: impl AsRef<Path>,
        init: &TargetInit<T>,
    ) -> Result<Range<u64>, Error> {
        self.examples.check_unused()?;
        let n = data.len();
        self.check_dataset(&data)?;
        let ids = room("the ids of a data set", 1, n)?;
        let length = match init.hidden() {
            Hidden::Stored => record_len(self.circuit.dims()),
            Hidden::Computed => 0,
        };
        let store = TargetFile::create(folder.as_ref(), n, length)?;
        let mut streamed = Streamed::new(Arc::clone(&data), n, Arc::new(store));
        self.fill(&mut streamed, init)?;
        check_unchanged(&data, n)?;
        Ok(self.examples.stream(streamed, init.hidden(), ids))
    }
}
