//! The theory's statements, as functions of your own circuit and examples.
//!
//! Each function returns the quantity that a statement is about (a deviation that must be zero, a
//! closed form, a bound), so that you can check your own circuit, layer or solver against it. None
//! of them changes the model that it is given. `docs/theory.md` in the repository states and
//! proves them.
//!
//! | | statement | function |
//! |---|---|---|
//! | 1 | at the forward pass E is the composed loss, and only the last layer has a gradient | [`forward_pass_deviations`] |
//! | 2 | information moves one layer per synchronous step, and through all layers in a reverse sweep | [`gradient_reach`] |
//! | 3 | stationary targets satisfy backprop's equations at shifted activations | [`stationarity`] |
//! | 4 | min E = L − Σ_t ‖δ_t‖²/(2μ_t) + O(μ⁻²) | [`expanded_minimum`] |
//! | 5 | the minimum of a linear circuit is ½ rᵀS⁻¹r | [`linear_minimum`] |
//! | 6 | its minimiser solves a block tridiagonal system | [`linear_minimiser`] |
//! | 7 | unit steps give backprop layer by layer | [`z_il_gradients`] |
//! | 8 | fixed predictions give backprop in every layer | [`fixed_prediction_gradients`] |
//! | 9 | at the fixed point of the multipliers the gradients are backprop's; which rates are stable | [`multiplier_rest`], [`stable_rates`], [`linear_stable_rates`] |
//! | 10 | gradient steps are stable below 2/λ_max | [`curvature_bounds`], [`largest_curvature`], [`curvature_ranges`] |
//! | 11 | an example's targets move in the same way in every batch | [`batch_dependent_example`] |
//! | 12 | a local problem does not depend on other layers | [`layers_changed_by`] |
//!
//! Layers are evaluated as in [`DecoupledCircuit::gradients`](crate::decoupled::DecoupledCircuit::gradients),
//! not as in training (which matters only to stochastic layers); only statement 11 moves targets
//! as [`DecoupledCircuit::solve_targets`](crate::decoupled::DecoupledCircuit::solve_targets) does. Sums are
//! over the selected examples, weights included. Norms and deviations are `f64`, whatever the
//! scalar; a norm of θ_t or z_t is Euclidean, over all its units and all selected examples together.
//! Layer t maps z_t to ẑ_{t+1}. For several examples L is the composed loss summed over them (F in
//! `docs/theory.md`); S_t is the regulariser of z_t, and λ₂ its L2 weight.
//!
//! # Examples
//! One circuit, checked against most of the statements:
//! ```
//! use layerwise::prelude::*;
//! use layerwise::theory;
//!
//! let layer = |inputs, outputs| Dense::new(inputs, outputs, Activation::Tanh);
//! let circuit = Circuit::<f64>::builder().layer(layer(2, 3)?).layer(layer(3, 1)?).build()?;
//! let (x, y) = (DMatrix::from_element(2, 4, 0.5), DMatrix::from_element(1, 4, 1.0));
//! let mut model = DecoupledCircuit::new(circuit, Energy::default())?;
//! model.add_examples(&x, &y, &TargetInit::ForwardPass)?;
//! let (all, sweep) = (Selection::All, ReverseSweep::new(1));
//!
//! assert_eq!(theory::forward_pass_deviations(&model, &all)?.largest(), 0.0);
//! assert!(theory::gradient_reach(&model, &all, &sweep)?.iter().all(|&norm| norm > 0.0));
//! assert_eq!(theory::batch_dependent_example(&model, &all, &sweep)?, None);
//! assert_eq!(theory::layers_changed_by(&model, &all, 1, &[0.25; 4])?, [1]);
//! let bound = theory::curvature_bounds(model.layers())?.whole();
//! let estimates = theory::largest_curvature(&model, &all, None, 12, 0)?;
//! assert!(estimates.iter().all(|&estimate| 0.0 < estimate && estimate <= bound));
//!
//! // Three ways to backprop's gradients.
//! let exact = model.backprop(&all)?;
//! let multipliers: Vec<_> = exact.targets.iter().map(|delta| -delta).collect();
//! let rest = theory::multiplier_rest(&model, &all, &multipliers)?;
//! assert!(rest.gradient < 1e-14 && rest.targets < 1e-14);
//! let exact = exact.parameters.concat();
//! let z_il = theory::z_il_gradients(&model, &all)?.concat();
//! let fixed = theory::fixed_prediction_gradients(&model, &all, 1)?.concat();
//! for (exact, (z_il, fixed)) in exact.iter().zip(z_il.iter().zip(&fixed)) {
//!     assert!((z_il - exact).abs() < 1e-12 && (fixed - exact).abs() < 1e-12);
//! }
//!
//! // Stationary targets satisfy backprop's equations at shifted activations.
//! model.set_penalties(&[100.0])?;
//! model.solve_targets(&ReverseSweep::new(1000), &all)?;
//! let found = theory::stationarity(&model, &all)?;
//! assert!(found.recursion[0] < 1e-10 && found.relative_difference() < 0.1);
//! # Ok::<(), layerwise::Error>(())
//! ```

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

pub use curvature::{CurvatureBounds, curvature_bounds, curvature_ranges, largest_curvature};
pub use exact_gradients::{fixed_prediction_gradients, z_il_gradients};
pub use expansion::expanded_minimum;
pub use forward_pass::{ForwardPassDeviations, forward_pass_deviations};
pub use independence::{batch_dependent_example, layers_changed_by};
pub use linear::{linear_minimiser, linear_minimum};
pub use multiplier_rest::{MultiplierRest, multiplier_rest};
pub use rates::{MultiplierUpdate, linear_stable_rates, stable_rates};
pub use reach::gradient_reach;
pub use stationarity::{Stationarity, stationarity};
