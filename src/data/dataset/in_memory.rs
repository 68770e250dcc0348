//! A data set in memory.

use std::borrow::Borrow;
use std::fmt::Debug;

use nalgebra::DMatrix;

use super::Dataset;
use crate::error::Error;
use crate::kernel::Scalar;

/// Examples in memory: the columns of two matrices, owned, borrowed or shared (`M` is `DMatrix<T>`,
/// `&DMatrix<T>` or `Arc<DMatrix<T>>`).
///
/// # Examples
/// ```
/// use layerwise::data::{Dataset, InMemory};
/// use layerwise::nalgebra::DMatrix;
///
/// let x = DMatrix::from_fn(2, 5, |i, j| (i + 10 * j) as f64);
/// let y = DMatrix::from_fn(1, 5, |_, j| j as f64);
/// let data = InMemory::new(&x, &y)?;
/// let (x, y) = data.matrices(&[4, 0])?;
/// assert_eq!((x[(1, 0)], y[(0, 1)]), (41.0, 0.0));
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct InMemory<M> {
    inputs: M,
    targets: M,
}

impl<M> InMemory<M> {
    /// Examples from `inputs` (d_0 × n) and `targets` (d_T × n). The values are not checked.
    ///
    /// # Errors
    /// [`Error::ExampleCount`].
    pub fn new<T: Scalar>(inputs: M, targets: M) -> Result<Self, Error>
    where
        M: Borrow<DMatrix<T>>,
    {
        let counts = (inputs.borrow().ncols(), targets.borrow().ncols());
        if counts.0 != counts.1 {
            return Err(Error::ExampleCount {
                inputs: counts.0,
                targets: counts.1,
            });
        }
        Ok(Self { inputs, targets })
    }
}

impl<T: Scalar, M: Borrow<DMatrix<T>> + Debug + Send + Sync> Dataset<T> for InMemory<M> {
    fn len(&self) -> usize {
        self.inputs.borrow().ncols()
    }

    fn inputs(&self) -> usize {
        self.inputs.borrow().nrows()
    }

    fn targets(&self) -> usize {
        self.targets.borrow().nrows()
    }

    fn read(&self, rows: &[usize], inputs: &mut [T], targets: &mut [T]) -> Result<(), Error> {
        self.check_read(rows, inputs, targets)?;
        for (from, to) in [(&self.inputs, inputs), (&self.targets, targets)] {
            let from: &DMatrix<T> = from.borrow();
            let dim = from.nrows();
            for (&row, to) in rows.iter().zip(to.chunks_exact_mut(dim.max(1))) {
                to.copy_from_slice(&from.as_slice()[row * dim..][..dim]);
            }
        }
        Ok(())
    }
}
