//! Dual numbers as scalars: they carry a derivative through whatever is computed with them.

use num_dual::{Dual32, Dual64};

use crate::kernel::Scalar;

impl Scalar for Dual32 {}
impl Scalar for Dual64 {}
