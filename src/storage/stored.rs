//! Scalars that files can hold.

use safetensors::Dtype;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::kernel::Scalar;

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// A scalar that files can hold: `f32` or `f64`.
pub trait Stored: Scalar + Serialize + DeserializeOwned + sealed::Sealed {
    /// Its name in files.
    const NAME: &'static str;

    #[doc(hidden)]
    const DTYPE: Dtype;

    #[doc(hidden)]
    fn put(self, bytes: &mut Vec<u8>);

    /// The scalar with these bytes; there are as many as it has.
    #[doc(hidden)]
    fn get(bytes: &[u8]) -> Self;
}

macro_rules! stored {
    ($($scalar:ident $dtype:ident)*) => {$(
        impl Stored for $scalar {
            const NAME: &'static str = stringify!($scalar);
            const DTYPE: Dtype = Dtype::$dtype;

            fn put(self, bytes: &mut Vec<u8>) {
                bytes.extend(self.to_le_bytes());
            }

            fn get(bytes: &[u8]) -> Self {
                let mut own = [0; size_of::<Self>()];
                own.copy_from_slice(bytes);
                Self::from_le_bytes(own)
            }
        }
    )*};
}
stored!(f32 F32 f64 F64);
