//! Data as rows, one per example, as files and other libraries have them.

use nalgebra::DMatrix;

use crate::check::{check_length, check_room};
use crate::error::Error;
use crate::kernel::Scalar;

/// A matrix with one **column** per example from `rows` with one row per example, such as
/// `&[Vec<f64>]` or `&[[f32; 4]]`: entry (j, i) is `rows[i][j]`.
///
/// # Errors
/// [`Error::Length`] with the number of a row that is not as long as the first,
/// [`Error::TooLarge`].
///
/// # Examples
/// ```
/// use layerwise::data::from_rows;
///
/// let x = from_rows(&[vec![1.0, 2.0], vec![3.0, 4.0], vec![5.0, 6.0]])?;
/// assert_eq!((x.shape(), x[(1, 0)]), ((2, 3), 2.0));
/// assert!(from_rows(&[vec![1.0, 2.0], vec![3.0]]).is_err());
/// # Ok::<(), layerwise::Error>(())
/// ```
#[doc(alias = "transpose")]
pub fn from_rows<T: Scalar>(rows: &[impl AsRef<[T]>]) -> Result<DMatrix<T>, Error> {
    let dim = rows.first().map_or(0, |row| row.as_ref().len());
    for (i, row) in rows.iter().enumerate() {
        let row = row.as_ref();
        if row.len() != dim {
            check_length(&format!("row {i} (row 0 sets the length)"), row, dim)?;
        }
    }
    check_room::<T>("a data set", dim, rows.len())?;
    Ok(DMatrix::from_fn(dim, rows.len(), |j, i| {
        rows[i].as_ref()[j]
    }))
}
