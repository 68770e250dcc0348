//! Some rows of a data set.

use super::Dataset;
use crate::error::Error;
use crate::kernel::Scalar;

/// Some rows of a data set, in any order: `rows[i]` becomes row i. `D` is a data set or a pointer
/// to one.
///
/// # Examples
/// ```
/// use layerwise::data::{Dataset, InMemory, Split, Subset};
/// use layerwise::nalgebra::DMatrix;
///
/// let x = DMatrix::from_fn(1, 10, |_, j| j as f64);
/// let data = InMemory::new(&x, &x)?;
/// let split = Split::shuffled(10, 3, 0)?;
/// let test = Subset::new(&data, split.test.clone())?;
/// assert_eq!(test.len(), 3);
/// assert_eq!(test.matrices(&[2])?.0[(0, 0)], split.test[2] as f64);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Subset<D> {
    data: D,
    rows: Vec<usize>,
}

impl<D> Subset<D> {
    /// The given rows of `data`.
    ///
    /// # Errors
    /// [`Error::UnknownRow`].
    pub fn new<T: Scalar>(data: D, rows: Vec<usize>) -> Result<Self, Error>
    where
        D: Dataset<T>,
    {
        let count = data.len();
        match rows.iter().find(|&&row| row >= count) {
            Some(&row) => Err(Error::UnknownRow { row, count }),
            None => Ok(Self { data, rows }),
        }
    }
}

impl<T: Scalar, D: Dataset<T>> Dataset<T> for Subset<D> {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn inputs(&self) -> usize {
        self.data.inputs()
    }

    fn targets(&self) -> usize {
        self.data.targets()
    }

    fn read(&self, rows: &[usize], inputs: &mut [T], targets: &mut [T]) -> Result<(), Error> {
        self.check_read(rows, inputs, targets)?;
        let own: Vec<usize> = rows.iter().map(|&row| self.rows[row]).collect();
        self.data.read(&own, inputs, targets)
    }
}
