//! Scalars that files can hold.

use safetensors::Dtype;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::kernel::Bytes;

/// A scalar that files can hold: `f32` or `f64`.
pub trait Stored: Bytes + Serialize + DeserializeOwned {
    /// Its name in files.
    const NAME: &'static str;

    #[doc(hidden)]
    const DTYPE: Dtype;
}

macro_rules! stored {
    ($($scalar:ident $dtype:ident)*) => {$(
        impl Stored for $scalar {
            const NAME: &'static str = stringify!($scalar);
            const DTYPE: Dtype = Dtype::$dtype;
        }
    )*};
}
stored!(f32 F32 f64 F64);

/// The bytes of some scalars, one after another.
pub(super) fn bytes_of<T: Stored>(values: impl Iterator<Item = T>, count: usize) -> Vec<u8> {
    let size = size_of::<T>();
    let mut bytes = vec![0; count * size];
    for (value, own) in values.zip(bytes.chunks_exact_mut(size)) {
        value.write(own);
    }
    bytes
}
