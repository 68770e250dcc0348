//! Statements 5 and 6: the minimum over z of a linear circuit, and its minimiser.

use nalgebra::{DMatrix, DVector};

use super::probe::finite;
use crate::check::check_room;
use crate::decoupled::{DecoupledCircuit, Selection};
use crate::energy::Layers;
use crate::error::{Error, Quantity};
use crate::kernel::{Scalar, Sum};
use crate::layer::Activation;

/// W_t, b_t and μ_t of a circuit whose Z-step is a linear least-squares problem.
#[derive(Debug)]
pub(super) struct Linear<T: Scalar> {
    pub(super) weights: Vec<DMatrix<T>>,
    biases: Vec<DVector<T>>,
    /// μ_1, …, μ_{T−1}, then 1.
    penalties: Vec<T>,
}

impl<T: Scalar> Linear<T> {
    pub(super) fn of(layers: Layers<'_, T>) -> Result<Self, Error> {
        let mut linear = Self {
            weights: Vec::new(),
            biases: Vec::new(),
            penalties: Vec::new(),
        };
        for t in 0..layers.depth() {
            let not_linear = |reason: String| Error::NotLinear { layer: t, reason };
            let (layer, loss) = (layers.layer(t), layers.loss(t));
            let Some(affine) = layer.affine() else {
                return Err(not_linear(format!("the layer {layer:?} is not affine")));
            };
            if affine.unfolds || affine.positions > 1 {
                return Err(not_linear(format!(
                    "the layer {layer:?} shares its weights between positions"
                )));
            }
            if affine.activation != Activation::Identity {
                return Err(not_linear(format!(
                    "its activation is {:?}",
                    affine.activation
                )));
            }
            if !loss.is_squared_error() {
                return Err(not_linear(format!("its loss is {loss:?}")));
            }
            let targets = layers.target_regularizers().get(t);
            if let Some(own) = targets.filter(|own| !own.is_none()) {
                return Err(not_linear(format!(
                    "its target has the regulariser {own:?}"
                )));
            }
            let (rows, columns) = (layer.output_dim(), layer.input_dim());
            let parameters = layers.layer_parameters(t);
            let part = |range: std::ops::Range<usize>, length: usize| {
                let values = parameters.get(range.clone());
                values.filter(|own| own.len() == length).ok_or_else(|| {
                    not_linear(format!(
                        "its affine map uses parameters {range:?}, but needs {length} of the layer's {}",
                        parameters.len()
                    ))
                })
            };
            part(affine.weights.clone(), rows * columns)?;
            linear.biases.push(match affine.bias.clone() {
                None => DVector::zeros(rows),
                Some(bias) => DVector::from_column_slice(part(bias, rows)?),
            });
            if affine.patch_len != columns || affine.groups != 1 || !affine.is_ordered() {
                return Err(not_linear(format!(
                    "its `affine`, {affine:?}, is not a map from {columns} to {rows} values"
                )));
            }
            // Where the layer stores W, column by column.
            let weights = affine.places(0).map(|place| parameters[place]);
            let weights = DMatrix::from_iterator(rows, columns, weights);
            linear.weights.push(weights);
            linear.penalties.push(layers.weight(t));
        }
        let all = linear.starts().last().copied().unwrap_or(0);
        check_room::<T>("E's Hessian in z", all, all)?;
        Ok(linear)
    }

    fn depth(&self) -> usize {
        self.weights.len()
    }

    /// μ_t, t = 1, …, T, with μ_T = 1.
    fn penalty(&self, t: usize) -> T {
        self.penalties[t - 1]
    }

    /// The offsets of z_1, …, z_{T−1} in the vector that concatenates them, then its length.
    fn starts(&self) -> Vec<usize> {
        let mut starts = vec![0];
        for w in &self.weights[..self.depth() - 1] {
            starts.push(starts[starts.len() - 1] + w.nrows());
        }
        starts
    }

    /// The penalty's part of E's Hessian in z, AᵀMA with A z = (z_t − W_{t−1} z_{t−1})_t and
    /// M = diag(μ_t I), and the output loss's part, W_{T−1}ᵀ W_{T−1} in the last block.
    pub(super) fn hessian(&self) -> (DMatrix<T>, DMatrix<T>) {
        let starts = self.starts();
        let size = starts[starts.len() - 1];
        let mut penalty = DMatrix::zeros(size, size);
        let mut output = DMatrix::zeros(size, size);
        for t in 1..self.depth() {
            let (at, w) = (starts[t - 1], &self.weights[t]);
            let d = w.ncols();
            for i in 0..d {
                penalty[(at + i, at + i)] += self.penalty(t);
            }
            let square = w.transpose() * w * self.penalty(t + 1);
            if t + 1 == self.depth() {
                output.view_mut((at, at), (d, d)).copy_from(&square);
                continue;
            }
            let mut block = penalty.view_mut((at, at), (d, d));
            block += square;
            let (next, coupling) = (starts[t], w * -self.penalty(t + 1));
            penalty
                .view_mut((next, at), coupling.shape())
                .copy_from(&coupling);
            let coupling = coupling.transpose();
            penalty
                .view_mut((at, next), coupling.shape())
                .copy_from(&coupling);
        }
        (penalty, output)
    }
}

/// Statement 5: the minimum over z of E of a linear circuit,
///
/// min_z E = Σᵢ ½ rᵢᵀ S⁻¹ rᵢ,  S = I + Σ_{t=1}^{T−1} P_t P_tᵀ / μ_t,  P_t = W_{T−1} ⋯ W_t,
///
/// with r = z_T − ẑ_T of the plain forward pass: the composed loss in a metric that discounts the
/// part of the error that the targets can absorb. Each term is multiplied by its example's weight.
/// Regularisers of θ, which are constant in z, are included, as in [`DecoupledCircuit::energy`]. A
/// sum over the selected examples. Innocenti et al. 2024 (for μ = 1).
///
/// # Errors
/// [`Error::NotLinear`] unless every layer is affine with the identity activation, every loss is
/// squared error, and no target has a regulariser; errors of the selection, [`Error::NoExamples`],
/// [`Error::Overflow`].
///
/// # Examples
/// ```
/// use layerwise::prelude::*;
/// use layerwise::theory;
///
/// // A chain of T units of weight 1 shares the residual 1 equally: min E = ½/T.
/// let mut builder = Circuit::<f64>::builder();
/// for _ in 0..5 {
///     builder = builder.layer(Dense::new(1, 1, Activation::Identity)?.without_bias());
/// }
/// let mut model = DecoupledCircuit::new(builder.build()?, Energy::default())?;
/// for t in 0..5 {
///     model.set_parameters(t, &[1.0])?;
/// }
/// let (x, y) = (DMatrix::zeros(1, 1), DMatrix::from_element(1, 1, 1.0));
/// model.add_examples(&x, &y, &TargetInit::ForwardPass)?;
/// assert!((theory::linear_minimum(&model, &Selection::All)? - 0.1).abs() < 1e-15);
/// let z = theory::linear_minimiser(&model, &Selection::All)?;
/// assert!((z[1][0] - 0.4).abs() < 1e-14);
/// # Ok::<(), layerwise::Error>(())
/// ```
pub fn linear_minimum<T: Scalar>(
    model: &DecoupledCircuit<T>,
    selection: &Selection<'_>,
) -> Result<T, Error> {
    let layers = model.layers();
    let linear = Linear::of(layers)?;
    let depth = linear.depth();
    let output = layers.dims()[depth];
    let mut s = DMatrix::<T>::identity(output, output);
    let mut product = DMatrix::<T>::identity(output, output);
    for t in (1..depth).rev() {
        product *= &linear.weights[t];
        s += &product * product.transpose() / linear.penalty(t);
    }
    let chosen = model.chosen(selection, "statement 5")?;
    model.with_problem_of(&model.weighty(&chosen), |problem| {
        let batch = problem.batch();
        let n = batch.len();
        let mut prediction = DMatrix::from_column_slice(layers.dims()[0], n, batch.z(0));
        for (w, b) in linear.weights.iter().zip(&linear.biases) {
            prediction = w * prediction;
            prediction.column_iter_mut().for_each(|mut z| z += b);
        }
        let residual = DMatrix::from_column_slice(output, n, batch.z(depth)) - prediction;
        let solved = solve(s, &residual, depth - 1)?;
        let half = T::of(0.5);
        let penalty = layers.parameter_regularization();
        let columns = residual.column_iter().zip(solved.column_iter());
        let minimum = Sum::of(columns.enumerate().map(|(i, (r, solved))| {
            match batch.weights().map_or(T::one(), |weights| weights[i]) {
                // Then all weights are 0, and the rest may overflow.
                weight if weight.is_zero() => weight,
                weight => weight * (half * r.dot(&solved) + penalty),
            }
        }));
        finite(Quantity::Energy, depth - 1, &[minimum])?;
        Ok(minimum)
    })?
}

/// Statement 6: the minimiser z_1, …, z_{T−1} (d_t × n each, none if T = 1) of E of a linear
/// circuit. It solves the block tridiagonal system ∂E/∂z = 0,
///
/// (μ_t I + μ_{t+1} W_tᵀW_t) z_t − μ_t W_{t−1} z_{t−1} − μ_{t+1} W_tᵀ z_{t+1}
///   = μ_t b_{t−1} − μ_{t+1} W_tᵀ b_t,  t = 1, …, T−1,  μ_T = 1,
///
/// whose matrix is the same for every example. Here it is assembled and factored as one dense
/// matrix (Cholesky) in (Σ_t d_t)³/3 flops, as a reference for solvers that exploit the structure.
/// Example weights and regularisers of θ do not affect the minimiser. One column per selected
/// example.
///
/// # Errors
/// Those of [`linear_minimum`].
pub fn linear_minimiser<T: Scalar>(
    model: &DecoupledCircuit<T>,
    selection: &Selection<'_>,
) -> Result<Vec<DMatrix<T>>, Error> {
    let layers = model.layers();
    let linear = Linear::of(layers)?;
    let (depth, dims) = (linear.depth(), layers.dims());
    let starts = linear.starts();
    let (penalty, output) = linear.hessian();
    model.with_problem(selection, "statement 6", |problem| {
        let batch = problem.batch();
        let n = batch.len();
        let mut right = DMatrix::zeros(starts[depth - 1], n);
        for t in 1..depth {
            let (below, above) = (linear.penalty(t), linear.penalty(t + 1));
            let pull = linear.weights[t].transpose() * above;
            // The terms that do not depend on z: first the target's side, then the input's.
            let mut known = DMatrix::zeros(dims[t], n);
            if t == 1 {
                let x = DMatrix::from_column_slice(dims[0], n, batch.z(0));
                known += &linear.weights[0] * x * below;
            }
            if t + 1 == depth {
                known += &pull * DMatrix::from_column_slice(dims[depth], n, batch.z(depth));
            }
            let constant = &linear.biases[t - 1] * below - pull * &linear.biases[t];
            known.column_iter_mut().for_each(|mut z| z += &constant);
            right.rows_mut(starts[t - 1], dims[t]).copy_from(&known);
        }
        let solution = solve(penalty + output, &right, depth - 1)?;
        let hidden = (1..depth).map(|t| solution.rows(starts[t - 1], dims[t]).into_owned());
        Ok(hidden.collect())
    })?
}

/// A⁻¹ B of a positive definite A.
fn solve<T: Scalar>(a: DMatrix<T>, b: &DMatrix<T>, layer: usize) -> Result<DMatrix<T>, Error> {
    finite(Quantity::Energy, layer, a.as_slice())?;
    finite(Quantity::Energy, layer, b.as_slice())?;
    // A is positive definite in exact arithmetic: only rounding can make it fail.
    let solution = match a.clone().cholesky() {
        Some(cholesky) => Some(cholesky.solve(b)),
        None => a.lu().solve(b),
    };
    let solution = solution.ok_or(Error::Overflow {
        quantity: Quantity::Energy,
        layer,
    })?;
    finite(Quantity::Target, layer, solution.as_slice())?;
    Ok(solution)
}
