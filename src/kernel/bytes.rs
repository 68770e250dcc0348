//! Scalars as bytes.

use super::Scalar;

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// A scalar that is a fixed number of bytes in files, the lowest first: `f32` or `f64`.
pub trait Bytes: Scalar + sealed::Sealed {
    /// Writes all its bytes over these; there are as many as it has.
    #[doc(hidden)]
    fn write(self, bytes: &mut [u8]);

    /// The scalar with these bytes; there are as many as it has.
    #[doc(hidden)]
    fn get(bytes: &[u8]) -> Self;
}

macro_rules! bytes {
    ($($scalar:ident)*) => {$(
        impl Bytes for $scalar {
            fn write(self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.to_le_bytes());
            }

            fn get(bytes: &[u8]) -> Self {
                let mut own = [0; size_of::<Self>()];
                own.copy_from_slice(bytes);
                Self::from_le_bytes(own)
            }
        }
    )*};
}
bytes!(f32 f64);
