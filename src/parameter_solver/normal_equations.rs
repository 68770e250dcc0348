//! Linear least squares by sums that batches are added to.

use super::not_negative;
use crate::check::{check_finite, check_length, check_weights};
use crate::error::{Error, Quantity};
use crate::kernel::cholesky::{factor, solve_lower, solve_lower_transposed};
use crate::kernel::{Matrix, Scalar, Write};
use crate::kernel::{add_scaled, all_finite, row_sums, scale, scale_columns, total};

/// The normal equations of a linear least-squares problem with many outputs,
///
/// min over (W, b) of (1/N) Σᵢ wᵢ ½‖W zᵢ + b − pᵢ‖² + ½ λ‖W‖² + ½ ρ‖(W, b) − (W, b)_old‖², N = Σᵢ wᵢ,
///
/// as sums that batches are added to one after another: Σ w z zᵀ, Σ w z pᵀ, and with a bias Σ w z and
/// Σ w p. The memory does not grow with the examples, (d + m) d scalars of sums for d inputs and m
/// outputs. b is not penalised by λ (ridge; Hoerl & Kennard 1970), but held by ρ (proximal).
///
/// [`NormalEquations::forget`] multiplies all sums by a factor before new ones come: 1 weighs all
/// examples ever added alike, less is recursive least squares with exponential forgetting.
///
/// A solution costs d³/6 + m d² multiplications (Cholesky). The condition of the data enters
/// squared: about half the digits are left where cond(Z) is ε^−½.
///
/// # Examples
/// ```
/// use layerwise::parameter_solver::NormalEquations;
///
/// // y = 2x + 1, in two batches.
/// let mut equations = NormalEquations::<f64>::new(1, 1, true)?;
/// equations.add(&[0.0, 1.0], &[1.0, 3.0], None)?;
/// equations.add(&[2.0], &[5.0], None)?;
/// let mut parameters = [0.0, 0.0];
/// equations.solve(0.0, 0.0, &mut parameters)?;
/// assert!((parameters[0] - 2.0).abs() < 1e-12 && (parameters[1] - 1.0).abs() < 1e-12);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct NormalEquations<T> {
    inputs: usize,
    outputs: usize,
    bias: bool,
    /// Σ w z zᵀ, d × d.
    gram: Vec<T>,
    /// Σ w z pᵀ, d × m.
    cross: Vec<T>,
    /// Σ w z and Σ w p; empty without a bias.
    input_sum: Vec<T>,
    target_sum: Vec<T>,
    /// N.
    weight: T,
    /// w z of a batch.
    weighted: Vec<T>,
    /// The matrix of the equations, then its factor.
    matrix: Vec<T>,
    /// Its diagonal.
    diagonal: Vec<T>,
    /// Where the matrix is nearest to singular.
    direction: Vec<T>,
    /// One column an output.
    solution: Vec<T>,
}

impl<T: Scalar> NormalEquations<T> {
    /// Equations without examples yet, for `inputs` = d and `outputs` = m, with b or without.
    ///
    /// # Errors
    /// [`Error::ZeroDimension`], or [`Error::TooLarge`] for sums that no memory can hold.
    pub fn new(inputs: usize, outputs: usize, bias: bool) -> Result<Self, Error> {
        if inputs == 0 || outputs == 0 {
            return Err(Error::ZeroDimension {
                what: "a dimension of normal equations",
            });
        }
        let (rows, columns) = (
            inputs.saturating_add(1),
            inputs.saturating_add(outputs).saturating_add(1),
        );
        let size = rows.checked_mul(columns);
        if size.is_none_or(|size| size > isize::MAX as usize / 32) {
            return Err(Error::TooLarge {
                what: "the sums of normal equations",
                rows,
                columns,
            });
        }
        let side = inputs + usize::from(bias);
        let zeros = |length| vec![T::zero(); length];
        Ok(Self {
            inputs,
            outputs,
            bias,
            gram: zeros(inputs * inputs),
            cross: zeros(inputs * outputs),
            input_sum: zeros(if bias { inputs } else { 0 }),
            target_sum: zeros(if bias { outputs } else { 0 }),
            weight: T::zero(),
            weighted: Vec::new(),
            matrix: zeros(side * side),
            diagonal: zeros(side),
            direction: zeros(side),
            solution: zeros(side * outputs),
        })
    }

    /// N, the total weight of the examples in the sums, forgetting included.
    pub fn weight(&self) -> T {
        self.weight
    }

    /// Whether the equations are for these dimensions.
    pub(crate) fn fits(&self, inputs: usize, outputs: usize, bias: bool) -> bool {
        (self.inputs, self.outputs, self.bias) == (inputs, outputs, bias)
    }

    /// Multiplies all sums by `factor`, γ; 0 empties them.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless γ is in 0..=1.
    pub fn forget(&mut self, factor: f64) -> Result<(), Error> {
        let factor = T::of(check_forgetting("NormalEquations::forget", factor)?);
        let sums = [
            &mut self.gram,
            &mut self.cross,
            &mut self.input_sum,
            &mut self.target_sum,
        ];
        if factor.is_zero() {
            // Also of what is not finite.
            sums.into_iter().for_each(|sum| sum.fill(T::zero()));
            self.weight = T::zero();
        } else if factor != T::one() {
            sums.into_iter().for_each(|sum| scale(sum, factor));
            self.weight *= factor;
        }
        Ok(())
    }

    /// Adds a batch: `inputs` z (d × n column-major), `targets` p (m × n), and the examples' weights
    /// w, 1 if `None`.
    ///
    /// # Errors
    /// [`Error::Length`] or [`Error::ExampleCount`] for arrays that do not fit,
    /// [`Error::NonFiniteData`], and [`Error::InvalidOption`] unless every weight is above 0 and
    /// finite. Nothing is added then. (Sums that overflow are found by
    /// [`NormalEquations::solve`]; [`NormalEquations::forget`] by 0 empties them.)
    pub fn add(&mut self, inputs: &[T], targets: &[T], weights: Option<&[T]>) -> Result<(), Error> {
        let n = inputs.len() / self.inputs;
        let m = targets.len() / self.outputs;
        check_length("inputs of normal equations", inputs, n * self.inputs)?;
        check_length("targets of normal equations", targets, m * self.outputs)?;
        if n != m {
            return Err(Error::ExampleCount {
                inputs: n,
                targets: m,
            });
        }
        check_finite(Quantity::Input, 0, self.inputs, inputs)?;
        check_finite(Quantity::Target, 1, self.outputs, targets)?;
        if let Some(weights) = weights {
            check_length("example weights", weights, n)?;
            check_weights("example weight", weights)?;
        }
        self.add_checked(inputs, targets, weights.unwrap_or(&[]));
        Ok(())
    }

    /// [`NormalEquations::add`] of arrays that fit; no weights mean 1 each.
    pub(crate) fn add_checked(&mut self, inputs: &[T], targets: &[T], weights: &[T]) {
        let n = inputs.len() / self.inputs;
        if n == 0 {
            return;
        }
        let weighted = match weights {
            [] => inputs,
            weights => {
                self.weighted.clear();
                self.weighted.extend_from_slice(inputs);
                scale_columns(&mut self.weighted, weights);
                &self.weighted
            }
        };
        let z = Matrix::new(weighted, self.inputs, n);
        let z_transposed = Matrix::new(inputs, self.inputs, n).t();
        let p_transposed = Matrix::new(targets, self.outputs, n).t();
        T::matmul(Write::Add(&mut self.gram), z, z_transposed);
        T::matmul(Write::Add(&mut self.cross), z, p_transposed);
        if self.bias {
            row_sums(Write::Add(&mut self.input_sum), weighted);
            match weights {
                [] => row_sums(Write::Add(&mut self.target_sum), targets),
                weights => {
                    for (p, &weight) in targets.chunks_exact(self.outputs).zip(weights) {
                        add_scaled(&mut self.target_sum, weight, p);
                    }
                }
            }
        }
        self.weight += match weights {
            [] => T::of(n as f64),
            weights => total(weights),
        };
    }

    /// Solves for (W, b): `parameters`, m × d column-major and then b if there is one, come as
    /// (W, b)_old (which counts only with ρ > 0) and become the minimiser. λ = `ridge`,
    /// ρ = `proximal`; the sums stay as they are.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless λ and ρ are finite and not negative, [`Error::Length`],
    /// [`Error::NoExamples`], [`Error::Singular`] for λ = ρ = 0 (or too small to count) and examples
    /// that do not decide W and b, [`Error::NonFinite`] for sums or a solution out of range.
    /// `parameters` are unchanged then.
    pub fn solve(&mut self, ridge: f64, proximal: f64, parameters: &mut [T]) -> Result<(), Error> {
        let ridge = not_negative("NormalEquations::solve's ridge", ridge)?;
        let proximal = not_negative("NormalEquations::solve's proximal", proximal)?;
        let what = || "the normal equations".to_string();
        self.solve_with([ridge, T::zero()], proximal, parameters, 0, what)
    }

    /// The solution with a ridge for W and one for b; `layer` and `what` are for errors.
    pub(crate) fn solve_with(
        &mut self,
        ridges: [T; 2],
        proximal: T,
        parameters: &mut [T],
        layer: usize,
        what: impl Fn() -> String,
    ) -> Result<(), Error> {
        let (d, m) = (self.inputs, self.outputs);
        let side = d + usize::from(self.bias);
        check_length("parameters of normal equations", parameters, m * side)?;
        if self.weight.is_zero() {
            return Err(Error::NoExamples {
                operation: "solving normal equations",
            });
        }
        let non_finite = |quantity| Error::NonFinite {
            quantity,
            layer,
            step: 0,
        };
        let finite = all_finite(&self.gram) && all_finite(&self.cross);
        let finite = finite && all_finite(&self.input_sum) && all_finite(&self.target_sum);
        if !(finite && self.weight.is_finite()) {
            return Err(non_finite(Quantity::NormalEquations));
        }
        self.assemble(ridges, proximal, parameters);
        if !all_finite(&self.diagonal) {
            return Err(non_finite(Quantity::NormalEquations));
        }
        let factored = factor(&mut self.matrix, side);
        self.check_pivots(what)?;
        if !factored {
            return Err(non_finite(Quantity::NormalEquations));
        }
        solve_lower(&self.matrix, side, &mut self.solution);
        solve_lower_transposed(&self.matrix, side, &mut self.solution);
        if !all_finite(&self.solution) {
            return Err(non_finite(Quantity::Parameter));
        }
        for (j, column) in parameters.chunks_exact_mut(m).enumerate() {
            for (i, to) in column.iter_mut().enumerate() {
                *to = self.solution[i * side + j];
            }
        }
        Ok(())
    }

    /// A ← (1/N) Σ w \[z; 1\]\[z; 1\]ᵀ + diag λ + ρ I, and of each output the right-hand side
    /// (1/N) Σ w \[z; 1\] p + ρ (W, b)_old.
    fn assemble(&mut self, ridges: [T; 2], proximal: T, old: &[T]) {
        let (d, m) = (self.inputs, self.outputs);
        let side = d + usize::from(self.bias);
        let n = self.weight;
        for j in 0..d {
            let column = &mut self.matrix[j * side..(j + 1) * side];
            for (to, &sum) in column.iter_mut().zip(&self.gram[j * d..(j + 1) * d]) {
                *to = sum / n;
            }
            column[j] += ridges[0] + proximal;
            if self.bias {
                column[d] = self.input_sum[j] / n;
            }
        }
        if self.bias {
            self.matrix[d * side + d] = T::one() + ridges[1] + proximal;
        }
        for (j, diagonal) in self.diagonal.iter_mut().enumerate() {
            *diagonal = self.matrix[j * side + j];
        }
        for (i, column) in self.solution.chunks_exact_mut(side).enumerate() {
            for (to, &sum) in column.iter_mut().zip(&self.cross[i * d..(i + 1) * d]) {
                *to = sum / n;
            }
            if self.bias {
                column[d] = self.target_sum[i] / n;
            }
            if proximal > T::zero() {
                for (j, to) in column.iter_mut().enumerate() {
                    *to += proximal * old[j * m + i];
                }
            }
        }
    }

    /// Whether the matrix is positive beyond rounding, judged along the direction x = L⁻ᵀ e_k of
    /// the pivot k that is smallest beside its diagonal entry: xᵀA x / Σ_j A_jj x_j² must be above
    /// 2dε, what rounding may leave of 0 (seen: 1.2 dε). Pivots alone would not tell: where the
    /// rows before are nearly dependent, that of a dependent row is far above ε.
    fn check_pivots(&mut self, what: impl Fn() -> String) -> Result<(), Error> {
        let side = self.diagonal.len();
        let pivot = |row: usize| {
            let (root, diagonal) = (self.matrix[row * side + row], self.diagonal[row]);
            // Where the factorisation ended, the entry is not above 0.
            match root > T::zero() && diagonal > T::zero() {
                true => root * root / diagonal,
                false => T::zero(),
            }
        };
        let mut smallest = (0, pivot(0));
        for row in 1..side {
            // Behind such an end nothing was factored.
            if smallest.1.is_zero() {
                break;
            }
            let own = pivot(row);
            if own < smallest.1 {
                smallest = (row, own);
            }
        }
        let (row, mut curvature) = smallest;
        if curvature > T::zero() {
            self.direction.fill(T::zero());
            self.direction[row] = T::one();
            solve_lower_transposed(&self.matrix, side, &mut self.direction);
            let terms = self.direction.iter().zip(&self.diagonal);
            let size = terms.fold(T::zero(), |sum, (&x, &a)| sum + a * x * x);
            curvature = size.recip();
        }
        let least = T::of(2.0 * side as f64) * T::default_epsilon();
        if curvature > least {
            return Ok(());
        }
        Err(Error::Singular {
            what: what(),
            row,
            curvature: curvature.as_f64(),
            least: least.as_f64(),
        })
    }
}

pub(crate) fn check_forgetting(option: &'static str, factor: f64) -> Result<f64, Error> {
    if (0.0..=1.0).contains(&factor) {
        return Ok(factor);
    }
    Err(Error::InvalidOption {
        option,
        value: factor,
        allowed: "in 0..=1",
    })
}
