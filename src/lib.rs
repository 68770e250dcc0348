//! Layer-wise gradient decoupling: feed-forward networks trained without a chain of gradients through all layers.
//!
//! # The method
//!
//! A circuit of depth T maps layer by layer, ẑ_{t+1} = f_t(z_t, θ_t). Usually z_t is the prediction
//! ẑ_t of the previous layer, and the gradient of θ_t has to wait for all later layers. Here every
//! example i gets trainable **auxiliary targets** z_1ⁱ, …, z_{T−1}ⁱ (z_0ⁱ and z_Tⁱ are given), and
//! one objective trains θ and z together:
//!
//! ```math
//! E(θ, Z) = ∑_i [ L(z_T^i, ẑ_T^i) + ∑_{t=1}^{T-1} μ_t L_h(z_t^i, ẑ_t^i) ]
//! ```
//!
//! E is a sum of **local problems** ℓ_t, each a function of θ_t, z_t and z_{t+1} alone, so all
//! layers' values and gradients can be computed in parallel. With g_{t+1} = ∂ℓ_t/∂ẑ_{t+1} (μ
//! included),
//!
//! ```math
//! ∂E/∂θ_t = (∂f_t/∂θ_t)^T g_{t+1}, \qquad ∂E/∂z_t = ∂ℓ_{t-1}/∂z_t + (∂f_t/∂z_t)^T g_{t+1}
//! ```
//!
//! In the second equation, ∂ℓ_{t−1}/∂z_t is the gradient in z_t as the target of layer t−1. Moving
//! θ is a *W-step*, moving z a *Z-step*. ‖z_t − ẑ_t‖ is the *gap*, and L of the plain forward pass
//! is the *composed loss*, which backprop minimises. Related work: the method of auxiliary
//! coordinates (Carreira-Perpiñán & Wang 2014), ADMM for nets (Taylor et al. 2016), predictive
//! coding (Whittington & Bogacz 2017).
//!
//! # Conventions
//!
//! A batch is a `d × n` matrix, **one column per example**, column-major. Objectives and gradients
//! are **sums** over examples, so that an example's targets move in the same way in every batch;
//! parameter steps divide by the number of examples in the batch. Squared error is ½‖z − ẑ‖².
//! Results are bit-identical for any number of threads. An example's own results (predictions,
//! gradients of its targets) are bit-identical whatever other examples are evaluated with it. Both
//! hold within one build on one kind of processor, but not with the feature `blas`: products then have
//! the rounding of the BLAS that the program links ([`guide::blas`]).
//!
//! # Where to start
//!
//! The [`guide`] leads from an empty directory to a trained circuit, and helps to choose among the
//! schemes. [`prelude`] has what a first program needs. Then, by topic:
//!
//! | for | see |
//! |---|---|
//! | getting started, choosing a scheme and μ, your own parts, coming from PyTorch or JAX | [`guide`] |
//! | a circuit: layers and parameters | [`circuit`], [`layer`], [`init`] |
//! | what it is trained on: losses, μ, regularisers | [`energy::Energy`], [`loss`], [`regularizer`] |
//! | the examples and their targets | [`DecoupledCircuit`], [`decoupled`] |
//! | training; schemes from the literature | [`training`], [`presets`], [`optimizer`], [`schedule`] |
//! | reading, splitting and scaling data, metrics | [`data`] |
//! | moving targets; solving for one layer's parameters | [`target_solver`], [`parameter_solver`] |
//! | inferring inputs and missing values with θ fixed | [`inference`] |
//! | one layer's own problem, here or in another process | [`energy::LocalProblem`], [`segment`], [`shard`] |
//! | circuits and runs in files (feature `storage`); parts of your own in them | `storage`, [`registry`], [`description`] |
//! | watching a run: logs, a progress bar, tracing | [`observers`] |
//! | plots of training histories (feature `plot`) | `plot` |
//! | external optimisers, such as argmin's | [`objective`] |
//! | energies, gaps, gradients compared with backprop's, curvature | [`diagnostics`] |
//! | checking your own layers and losses | [`gradcheck`] |
//! | what theory says, on your circuit | [`theory`] |
//! | random circuits and data for property tests | `strategies`, with the feature `proptest` |
//!
//! Traits to implement: [`Layer`], [`Loss`], [`Optimizer`](optimizer::Optimizer),
//! [`TargetSolver`](target_solver::TargetSolver), [`Descent`](target_solver::Descent),
//! [`ParameterSolver`](parameter_solver::ParameterSolver), [`Scheme`](training::Scheme), [`Scalar`].
//!
//! # Examples
//!
//! ```
//! use layerwise::prelude::*;
//!
//! let circuit = Circuit::<f64>::builder()
//!     .layer(Dense::new(2, 4, Activation::Tanh)?)
//!     .layer(Dense::new(4, 1, Activation::Identity)?)
//!     .build()?;
//! let x = DMatrix::from_fn(2, 6, |i, j| (i * j) as f64 / 5.0);
//! let y = DMatrix::from_fn(1, 6, |_, j| j as f64 / 5.0);
//! let mut model = DecoupledCircuit::new(circuit, Energy::default().with_penalty(2.0))?;
//! model.add_examples(&x, &y, &TargetInit::RandomNormal { std: 0.5, seed: 0 })?;
//!
//! // The local problems add up to E, and so do their gradients.
//! let first = model.local_problem(0, 0..6)?.gradients();
//! let second = model.local_problem(1, 0..6)?.gradients();
//! let whole = model.gradients(&Selection::All)?;
//! assert_eq!(whole.energy, first.energy + second.energy);
//! assert_eq!(whole.parameters, [first.parameters, second.parameters]);
//! # Ok::<(), Error>(())
//! ```
// The features that an item needs are shown beside it on docs.rs, which sets this.
#![cfg_attr(docsrs, feature(doc_cfg))]
// A BLAS is foreign code: `src/kernel/blas.rs` allows what calls it.
#![cfg_attr(feature = "blas", deny(unsafe_code))]
#![cfg_attr(not(feature = "blas"), forbid(unsafe_code))]
#![deny(missing_docs)]

#[cfg(any(feature = "plot", feature = "storage"))]
mod atomic;
mod check;
pub mod circuit;
pub mod data;
mod data_file;
pub mod decoupled;
pub mod description;
pub mod diagnostics;
pub mod energy;
pub mod error;
pub mod gradcheck;
#[cfg(any(doc, doctest))]
pub mod guide;
pub mod inference;
pub mod init;
#[cfg(all(instances, not(test)))]
#[doc(hidden)]
pub mod instances;
pub mod kernel;
pub mod layer;
pub mod loss;
pub mod objective;
pub mod observers;
pub mod optimizer;
pub mod parameter_solver;
#[cfg(feature = "plot")]
pub mod plot;
mod pointers;
pub mod prelude;
pub mod presets;
#[cfg(feature = "serde")]
mod readable;
pub mod registry;
pub mod regularizer;
pub mod schedule;
pub mod segment;
pub mod shard;
pub mod state;
#[cfg(feature = "storage")]
pub mod storage;
#[cfg(feature = "proptest")]
pub mod strategies;
pub mod target_solver;
pub mod theory;
pub mod training;

pub use circuit::Circuit;
pub use decoupled::DecoupledCircuit;
pub use error::Error;
pub use kernel::Scalar;
pub use layer::Layer;
pub use loss::Loss;

pub use nalgebra;
#[cfg(feature = "autodiff")]
pub use num_traits;
pub use rand;

/// The README's programs, as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
