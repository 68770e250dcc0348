//! Statement 10: E's curvature in z, bounded from above and estimated from below.

use std::ops::Range;

use super::probe::finite;
use crate::check::at_least_one;
use crate::decoupled::{DecoupledCircuit, Selection};
use crate::diagnostics::product::Part;
use crate::diagnostics::spectrum::spectrum;
use crate::energy::{Layers, Workspace};
use crate::error::{Error, Quantity};
use crate::kernel::{Scalar, larger};
use crate::target_solver::Curvature;

/// Upper bounds on the blocks of the Gauss-Newton matrix of one example's E in (z_1, …, z_{T−1}).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct CurvatureBounds {
    /// Bounds on the diagonal blocks of z_1, …, z_{T−1}.
    pub blocks: Vec<f64>,
    /// Bounds on the couplings of (z_1, z_2), …, (z_{T−2}, z_{T−1}).
    pub couplings: Vec<f64>,
}

impl CurvatureBounds {
    /// A bound on λ_max of the whole matrix: the largest sum of a block row (block Gershgorin;
    /// Feingold & Varga 1962). 0 if T = 1.
    pub fn whole(&self) -> f64 {
        let coupling = |i: Option<usize>| i.and_then(|i| self.couplings.get(i)).unwrap_or(&0.0);
        let rows = self.blocks.iter().enumerate();
        let rows = rows.map(|(i, block)| block + coupling(i.checked_sub(1)) + coupling(Some(i)));
        // A NaN row must not be hidden by others.
        rows.fold(0.0, larger)
    }

    /// 2/λ_max according to the bound: smaller synchronous steps are stable. Infinite if T = 1.
    pub fn synchronous_limit(&self) -> f64 {
        2.0 / self.whole()
    }

    /// 2/λ_max of z_t's own block according to the bound: smaller steps of z_t are stable if the
    /// other layers are fixed meanwhile, as in a sweep.
    ///
    /// # Errors
    /// [`Error::UnknownLayer`] unless 0 < t < T.
    pub fn sweep_limit(&self, t: usize) -> Result<f64, Error> {
        check_hidden(t, self.blocks.len() + 1)?;
        Ok(2.0 / self.blocks[t - 1])
    }
}

/// Statement 10: bounds on the curvature that limits gradient steps on z, at every z and for every
/// example,
///
/// block of z_t: μ_t c_t + μ_{t+1} c_{t+1} ‖J_t‖² + λ₂ of S_t;
/// coupling of z_t and z_{t+1}: μ_{t+1} c_{t+1} ‖J_t‖;
///
/// with μ_T = 1, c_t the bound on the loss's curvature (1 for squared error), and ‖J_t‖² bounded by
/// [`Layer::curvature_bound`](crate::layer::Layer::curvature_bound).
/// [`StepSize::Bounded`](crate::target_solver::StepSize::Bounded) uses the same bounds. They bound
/// the Gauss-Newton matrix, not the Hessian, which also contains the second derivatives of f times
/// the residuals. So steps below the limits are sure to lower E of a linear circuit; for any other
/// circuit, check that E falls.
///
/// # Errors
/// [`Error::NoCurvatureBound`] for a layer or loss that gives none.
///
/// # Examples
/// ```
/// use layerwise::prelude::*;
/// use layerwise::theory;
///
/// let mut builder = Circuit::<f64>::builder();
/// for _ in 0..5 {
///     builder = builder.layer(Dense::new(1, 1, Activation::Identity)?.without_bias());
/// }
/// let mut model = DecoupledCircuit::new(builder.build()?, Energy::default())?;
/// for t in 0..5 {
///     model.set_parameters(t, &[1.0])?;
/// }
/// let bounds = theory::curvature_bounds(model.layers())?;
/// assert!((bounds.blocks[1] - 2.0).abs() < 1e-12);
/// assert!((bounds.whole() - 4.0).abs() < 1e-12);
/// assert!((bounds.synchronous_limit() - 0.5).abs() < 1e-12);
/// # Ok::<(), layerwise::Error>(())
/// ```
pub fn curvature_bounds<T: Scalar>(layers: Layers<'_, T>) -> Result<CurvatureBounds, Error> {
    let curvature = Curvature::new(layers)?;
    let numbers = |bounds: Vec<T>| bounds.into_iter().map(T::as_f64).collect();
    Ok(CurvatureBounds {
        blocks: numbers(curvature.blocks),
        couplings: numbers(curvature.couplings),
    })
}

/// Statement 10: estimates of λ_max of the Gauss-Newton matrix of E in z = (z_1, …, z_{T−1}), at
/// the model's targets, one per selected example.
///
/// H v = Σ_t A_tᵀ C_t A_t v + λ₂ v of the regularisers, A_t v = (v_{t+1}, J_t v_t), C_t the
/// curvature of layer t's loss in (z_{t+1}, ẑ_{t+1}), including μ. Example weights are left out,
/// since steps on z divide by them. With `layer` = Some(t) the other layers are fixed, and λ_max is
/// that of z_t's own block.
///
/// Runs `iterations` of the Lanczos method (1950), each with one JVP and one VJP per layer for all
/// examples at once, from a direction drawn from `seed` that is the same for every example. Each
/// estimate is a Ritz value, at most λ_max up to rounding. So λ_max lies between the estimate and
/// [`curvature_bounds`], and their ratio shows how loose the bounds can be. All 0 if T = 1.
/// [`Diagnostics`](crate::diagnostics::Diagnostics) reports the same numbers by layer.
///
/// # Errors
/// [`Error::InvalidOption`] for no iterations, [`Error::UnknownLayer`] unless 0 < t < T, errors of
/// the selection, [`Error::NoExamples`], [`Error::Overflow`].
pub fn largest_curvature<T: Scalar>(
    model: &DecoupledCircuit<T>,
    selection: &Selection<'_>,
    layer: Option<usize>,
    iterations: usize,
    seed: u64,
) -> Result<Vec<f64>, Error> {
    let depth = model.circuit().depth();
    layer.map_or(Ok(()), |t| check_hidden(t, depth))?;
    at_least_one("theory::largest_curvature::iterations", iterations as u64)?;
    let ranges = ranges(model, selection, layer, iterations as u64, seed)?;
    Ok(ranges.into_iter().map(|own| own.end).collect())
}

/// λ_min and λ_max of the Gauss-Newton matrix of E in z = (z_1, …, z_{T−1}), at the model's targets, as
/// `start` and `end` of a range for each selected example: what the momentum of
/// [`GradientDescent::heavy_ball`](crate::optimizer::GradientDescent::heavy_ball) follows from.
///
/// The estimates are those of [`largest_curvature`]: Ritz values, so that λ_min is at most `start` and
/// λ_max at least `end`, up to rounding. As many iterations as z has numbers give the eigenvalues
/// themselves. λ_min takes many more iterations than λ_max: with too few `start` is too large, and
/// momentum set by it too small. Both are 0 if T = 1. Lanczos 1950.
///
/// # Errors
/// As [`largest_curvature`].
///
/// # Examples
/// ```
/// use layerwise::optimizer::GradientDescent;
/// use layerwise::prelude::*;
/// use layerwise::target_solver::SynchronousDescent;
/// use layerwise::theory;
///
/// let circuit = Circuit::<f64>::builder()
///     .layer(Dense::new(2, 3, Activation::Tanh)?)
///     .layer(Dense::new(3, 4, Activation::Tanh)?)
///     .layer(Dense::new(4, 1, Activation::Identity)?)
///     .build()?;
/// let mut model = DecoupledCircuit::new(circuit, Energy::default())?;
/// let x = DMatrix::from_fn(2, 5, |i, j| ((2 * i + j) as f64).sin());
/// model.add_examples(&x, &DMatrix::from_element(1, 5, 0.5), &TargetInit::ForwardPass)?;
///
/// // One rule for all examples, with a margin for a λ_max that grows: checked, since the matrix is not the Hessian.
/// let ranges = theory::curvature_ranges(&model, &Selection::All, 7, 0)?;
/// let least = ranges.iter().fold(f64::INFINITY, |least, own| least.min(own.start));
/// let most = ranges.iter().fold(0.0_f64, |most, own| most.max(own.end));
/// let rule = GradientDescent::heavy_ball(least, 1.1 * most)?;
/// let solver = SynchronousDescent::new(50, StepSize::Checked(1.0))?.with_rule(rule);
/// model.solve_targets(&solver, &Selection::All)?;
/// # Ok::<(), Error>(())
/// ```
pub fn curvature_ranges<T: Scalar>(
    model: &DecoupledCircuit<T>,
    selection: &Selection<'_>,
    iterations: usize,
    seed: u64,
) -> Result<Vec<Range<f64>>, Error> {
    at_least_one("theory::curvature_ranges::iterations", iterations as u64)?;
    ranges(model, selection, None, iterations as u64, seed)
}

/// The extreme Ritz values of every selected example, of the whole matrix or of one layer's block.
fn ranges<T: Scalar>(
    model: &DecoupledCircuit<T>,
    selection: &Selection<'_>,
    layer: Option<usize>,
    iterations: u64,
    seed: u64,
) -> Result<Vec<Range<f64>>, Error> {
    model.with_problem(selection, "statement 10", |problem| {
        let mut workspace = Workspace::new();
        problem.predict_locally(&mut workspace);
        for (t, local) in workspace.locals.iter().enumerate() {
            finite(Quantity::Prediction, t, &local.prediction)?;
        }
        let part = layer.map_or(Part::Whole, |_| Part::Blocks);
        let mut estimates = spectrum(part, iterations, seed, problem);
        let wanted = layer.map_or(0, |t| t - 1);
        if estimates.is_empty() {
            return Ok(vec![0.0..0.0; problem.batch().len()]);
        }
        let estimates = estimates.swap_remove(wanted);
        for own in &estimates {
            let both = [own.smallest, own.largest];
            finite(Quantity::TargetGradient, wanted + 1, &both)?;
        }
        let estimates = estimates.into_iter();
        Ok(estimates.map(|own| own.smallest..own.largest).collect())
    })?
}

/// Whether z_t is an auxiliary target of a circuit of `depth` layers.
fn check_hidden(t: usize, depth: usize) -> Result<(), Error> {
    let hidden = 1..depth;
    match hidden.contains(&t) {
        true => Ok(()),
        false => Err(Error::unknown_layer(t, hidden)),
    }
}
