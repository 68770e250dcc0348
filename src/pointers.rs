//! Pointers to a type that implements a trait implement the trait too.

/// Implements a trait for `&S`, `Box<S>` and `Arc<S>`, given its methods; each method calls S's.
macro_rules! through_pointers {
    ($trait:ident { $($methods:tt)* }) => {
        $crate::pointers::through_pointers!(@ &S, $trait $($methods)*);
        $crate::pointers::through_pointers!(@ Box<S>, $trait $($methods)*);
        $crate::pointers::through_pointers!(@ std::sync::Arc<S>, $trait $($methods)*);
    };
    (@ $pointer:ty, $trait:ident $(
        fn $name:ident(&$self:ident $(, $argument:ident: $type:ty)* $(,)?) $(-> $result:ty)?;
    )*) => {
        /// Every method calls that of the value pointed to.
        impl<T: Scalar, S: $trait<T> + ?Sized> $trait<T> for $pointer {
            $(fn $name(&$self $(, $argument: $type)*) $(-> $result)? {
                (**$self).$name($($argument),*)
            })*
        }
    };
}
pub(crate) use through_pointers;
