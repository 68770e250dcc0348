//! A part of one's own for every trait of layerwise, in one's own crate.

mod counted;
mod exp_scaling;
mod gradient_step;
mod log_cosh;
mod normalised;
mod pairs;
mod rosenbrock;
mod sign_descent;
mod sweep;
mod twice;

pub use counted::{Counted, products};
pub use exp_scaling::ExpScaling;
pub use gradient_step::GradientStep;
pub use log_cosh::LogCosh;
pub use normalised::Normalised;
pub use pairs::Pairs;
pub use rosenbrock::Rosenbrock;
pub use sign_descent::SignDescent;
pub use sweep::Sweep;
pub use twice::Twice;
