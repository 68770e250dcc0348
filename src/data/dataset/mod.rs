//! Data sets: where examples are read from.

mod arrays;
#[cfg(feature = "csv")]
mod csv;
mod encoding;
mod idx;
mod in_memory;
mod npy;
mod subset;

use std::fmt::Debug;

use nalgebra::DMatrix;

#[cfg(feature = "csv")]
pub use self::csv::{Csv, CsvColumn, CsvOptions};
pub use encoding::TargetEncoding;
pub use idx::Idx;
pub use in_memory::InMemory;
pub use npy::Npy;
pub use subset::Subset;

use crate::check::{check_length, room};
use crate::data::metrics;
use crate::error::Error;
use crate::kernel::Scalar;
use crate::pointers::through_pointers;

/// n examples that can be read in any order, from memory ([`InMemory`]), from files ([`Idx`], [`Npy`],
/// and `Csv` with the feature `csv`), or from a source of your own.
///
/// [`DecoupledCircuit::add_dataset`](crate::DecoupledCircuit::add_dataset) loads all examples into
/// memory; [`DecoupledCircuit::stream_dataset`](crate::DecoupledCircuit::stream_dataset) loads
/// none.
///
/// The examples are the *rows* of the data set, as in most files, and are numbered from 0. Several
/// threads may read at once.
///
/// # Examples
/// Predictions for data that do not fit in memory, block by block:
/// ```
/// use layerwise::data::{Dataset, InMemory};
/// use layerwise::prelude::*;
///
/// fn accuracy(model: &DecoupledCircuit<f32>, data: &dyn Dataset<f32>) -> Result<f64, Error> {
///     let mut right = 0.0;
///     for start in (0..data.len()).step_by(1024) {
///         let rows: Vec<usize> = (start..data.len().min(start + 1024)).collect();
///         let (x, y) = data.matrices(&rows)?;
///         right += metrics::accuracy(&y, &model.predict(&x)?)? * rows.len() as f64;
///     }
///     Ok(right / data.len() as f64)
/// }
/// # let circuit = Circuit::builder().layer(Dense::new(2, 2, Activation::Identity)?).build()?;
/// # let model = DecoupledCircuit::new(circuit, Energy::new(SoftmaxCrossEntropy))?;
/// # let x = DMatrix::from_fn(2, 3000, |i, j| (i + j) as f32);
/// # let y = metrics::one_hot(&model.predict_labels(&x)?, 2)?;
/// # assert_eq!(accuracy(&model, &InMemory::new(x, y)?)?, 1.0);
/// # Ok::<(), Error>(())
/// ```
/// A source of your own, which computes its examples:
/// ```
/// use layerwise::data::Dataset;
/// use layerwise::prelude::*;
///
/// /// y = x² for x = 0, 0.01, …, 9.99.
/// #[derive(Debug)]
/// struct Squares;
///
/// impl Dataset<f64> for Squares {
///     fn len(&self) -> usize {
///         1000
///     }
///     fn inputs(&self) -> usize {
///         1
///     }
///     fn targets(&self) -> usize {
///         1
///     }
///     fn read(&self, rows: &[usize], inputs: &mut [f64], targets: &mut [f64]) -> Result<(), Error> {
///         self.check_read(rows, inputs, targets)?;
///         for ((&row, x), y) in rows.iter().zip(inputs).zip(targets) {
///             *x = row as f64 / 100.0;
///             *y = *x * *x;
///         }
///         Ok(())
///     }
/// }
///
/// let (x, y) = Squares.matrices(&[999, 50])?;
/// assert_eq!((x[(0, 0)], y[(0, 1)]), (9.99, 0.25));
/// # Ok::<(), Error>(())
/// ```
#[doc(alias = "DataLoader")]
pub trait Dataset<T: Scalar>: Debug + Send + Sync {
    /// n, the number of examples.
    fn len(&self) -> usize;

    /// d_0, the number of values in one input.
    fn inputs(&self) -> usize;

    /// d_T, the number of values in one target.
    fn targets(&self) -> usize;

    /// Reads the examples with these numbers, in this order: writes every value of `inputs`
    /// (d_0 × `rows.len()`) and of `targets` (d_T × `rows.len()`), column-major, one column for each row
    /// listed. A row may be listed more than once.
    ///
    /// # Errors
    /// Those of [`check_read`](Self::check_read), and those of the source: [`Error::File`],
    /// [`Error::Format`], [`Error::FileValue`]. After an error the values written are meaningless.
    fn read(&self, rows: &[usize], inputs: &mut [T], targets: &mut [T]) -> Result<(), Error>;

    /// Whether there are no examples.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Checks the arguments of [`read`](Self::read).
    ///
    /// # Errors
    /// [`Error::UnknownRow`] for a row that does not exist, [`Error::Length`] for a slice of the wrong
    /// length.
    fn check_read(&self, rows: &[usize], inputs: &[T], targets: &[T]) -> Result<(), Error> {
        let count = self.len();
        if let Some(&row) = rows.iter().find(|&&row| row >= count) {
            return Err(Error::UnknownRow { row, count });
        }
        // A product that overflows becomes usize::MAX, which no slice is as long as.
        let length = |dim: usize| dim.saturating_mul(rows.len());
        check_length("inputs to read", inputs, length(self.inputs()))?;
        check_length("targets to read", targets, length(self.targets()))
    }

    /// The inputs (d_0 × `rows.len()`) and targets (d_T × `rows.len()`) of these rows as matrices.
    ///
    /// # Errors
    /// Those of [`read`](Self::read), and [`Error::TooLarge`].
    fn matrices(&self, rows: &[usize]) -> Result<(DMatrix<T>, DMatrix<T>), Error> {
        let n = rows.len();
        let list = |dim: usize| -> Result<Vec<T>, Error> {
            let mut list = room("a data set", dim, n)?;
            // Not finite, so that a value that is not written cannot be taken for one that is.
            list.resize(dim * n, T::of(f64::NAN));
            Ok(list)
        };
        let (inputs, targets) = (self.inputs(), self.targets());
        let (mut x, mut y) = (list(inputs)?, list(targets)?);
        self.read(rows, &mut x, &mut y)?;
        Ok((
            DMatrix::from_vec(inputs, n, x),
            DMatrix::from_vec(targets, n, y),
        ))
    }

    /// The class of every example, for a stratified split: the row of the 1 in a one-hot target, or the value
    /// of a single target that is 0 or 1.
    ///
    /// All examples are read, a block at a time.
    ///
    /// # Errors
    /// Those of [`matrices`](Self::matrices), and [`Error::NotOneHot`] for other targets.
    ///
    /// # Examples
    /// ```
    /// use layerwise::data::{Dataset, InMemory};
    /// use layerwise::prelude::*;
    ///
    /// let x = DMatrix::from_fn(2, 100, |i, j| (i + j) as f64);
    /// let data = InMemory::new(x, metrics::one_hot(&[0, 1, 2, 1].repeat(25), 3)?)?;
    /// let labels = data.labels()?;
    /// assert_eq!(labels[..4], [0, 1, 2, 1]);
    /// let split = Split::stratified(&labels, 0.2, 0)?;
    /// assert_eq!(split.test.iter().filter(|&&row| labels[row] == 1).count(), 10);
    /// # Ok::<(), Error>(())
    /// ```
    fn labels(&self) -> Result<Vec<usize>, Error> {
        let n = self.len();
        let mut labels = room("the classes of a data set", 1, n)?;
        for start in (0..n).step_by(BLOCK) {
            let rows: Vec<usize> = (start..n.min(start + BLOCK)).collect();
            let classes = metrics::classes_of(&self.matrices(&rows)?.1);
            labels.extend(classes.map_err(|error| error.after(start))?);
        }
        Ok(labels)
    }
}

/// How many examples are read at a time when only their classes are kept.
const BLOCK: usize = 256;

through_pointers!(Dataset {
    fn len(&self) -> usize;
    fn inputs(&self) -> usize;
    fn targets(&self) -> usize;
    fn read(&self, rows: &[usize], inputs: &mut [T], targets: &mut [T]) -> Result<(), Error>;
    fn is_empty(&self) -> bool;
    fn check_read(&self, rows: &[usize], inputs: &[T], targets: &[T]) -> Result<(), Error>;
    fn matrices(&self, rows: &[usize]) -> Result<(DMatrix<T>, DMatrix<T>), Error>;
    fn labels(&self) -> Result<Vec<usize>, Error>;
});
