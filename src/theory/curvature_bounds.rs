//! Statement 10: bounds of E's curvature in z.

use crate::energy::Layers;
use crate::error::Error;
use crate::kernel::Scalar;
use crate::target_solver::Curvature;

/// Upper bounds of the Gauss-Newton matrix of one example's E in (z_1, …, z_{T−1}).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct CurvatureBounds {
    /// Of the diagonal blocks of z_1, …, z_{T−1}.
    pub blocks: Vec<f64>,
    /// Of the couplings of (z_1, z_2), …, (z_{T−2}, z_{T−1}).
    pub couplings: Vec<f64>,
}

impl CurvatureBounds {
    /// A bound of λ_max of the whole matrix: the largest sum of a block row (block Gershgorin;
    /// Feingold & Varga 1962). 0 if T = 1.
    pub fn whole(&self) -> f64 {
        let coupling = |i: Option<usize>| i.and_then(|i| self.couplings.get(i)).unwrap_or(&0.0);
        let rows = self.blocks.iter().enumerate();
        let rows = rows.map(|(i, block)| block + coupling(i.checked_sub(1)) + coupling(Some(i)));
        rows.fold(0.0, f64::max)
    }

    /// 2/λ_max by the bound: synchronous steps below it are stable. Infinite if T = 1.
    pub fn synchronous_limit(&self) -> f64 {
        2.0 / self.whole()
    }

    /// 2/λ_max of z_t's own block by the bound: steps of z_t below it, with the other layers held,
    /// as in a sweep, are stable.
    ///
    /// # Errors
    /// [`Error::UnknownLayer`] unless 0 < t < T.
    pub fn sweep_limit(&self, t: usize) -> Result<f64, Error> {
        let block = t.checked_sub(1).and_then(|i| self.blocks.get(i));
        block.map(|block| 2.0 / block).ok_or(Error::UnknownLayer {
            layer: t,
            allowed: format!("{:?}", 1..self.blocks.len() + 1),
        })
    }
}

/// Statement 10: bounds of the curvature that gradient steps on z are subject to, at every z and for every
/// example,
///
/// block of z_t: μ_t c_t + μ_{t+1} c_{t+1} ‖J_t‖² + λ₂ of S_t;
/// coupling of z_t and z_{t+1}: μ_{t+1} c_{t+1} ‖J_t‖;
///
/// μ_T = 1, c_t the bound of the loss's curvature (1 for squared error), ‖J_t‖² that of
/// [`Layer::curvature_bound`](crate::layer::Layer::curvature_bound), as
/// [`StepSize::Bounded`](crate::target_solver::StepSize::Bounded) uses them. They bound the Gauss-Newton matrix,
/// not the Hessian, which also has the second derivatives of f times the residuals: below the
/// limits E of a linear circuit falls, that of another is to be checked.
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
