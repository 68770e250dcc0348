//! The statements of the method, as functions of your own circuit and examples.
//!
//! Each function returns the quantity that a statement is about (a deviation that must be zero, a
//! closed form, a bound), so that a circuit, a layer or a solver of one's own can be held against
//! it. None changes the model that it is given. `docs/theory.md` states and proves them.
//!
//! Layers are evaluated as in [`DecoupledCircuit::gradients`](crate::decoupled::DecoupledCircuit::gradients),
//! not as in training (which matters to stochastic layers alone); only statement 11 moves targets
//! as [`DecoupledCircuit::solve_targets`](crate::decoupled::DecoupledCircuit::solve_targets) does. Sums are
//! over the selected examples, weights included. Norms and deviations are `f64`, whatever the
//! scalar; a norm of θ_t or z_t is Euclidean, over all its units and all selected examples together.
//! Layer t maps z_t to ẑ_{t+1}; L, where examples are many, is the composed loss over them (F in
//! `docs/theory.md`), S_t the regulariser of z_t, λ₂ its L2 weight.

mod curvature;
mod exact_gradients;
mod expansion;
mod forward_pass;
mod independence;
mod linear;
mod multiplier_rest;
mod probe;
mod rates;
mod reach;
mod stationarity;

pub use curvature::{CurvatureBounds, curvature_bounds, largest_curvature};
pub use exact_gradients::{fixed_prediction_gradients, z_il_gradients};
pub use expansion::expanded_minimum;
pub use forward_pass::{ForwardPassDeviations, forward_pass_deviations};
pub use independence::{batch_dependent_example, layers_changed_by};
pub use linear::{linear_minimiser, linear_minimum};
pub use multiplier_rest::{MultiplierRest, multiplier_rest};
pub use rates::{MultiplierUpdate, linear_stable_rates, stable_rates};
pub use reach::gradient_reach;
pub use stationarity::{Stationarity, stationarity};
