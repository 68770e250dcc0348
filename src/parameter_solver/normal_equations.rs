//! Linear least squares from running sums over batches.

use crate::check::{check_computed, check_finite, check_length, check_weights, in_scalar, share};
use crate::error::{Error, Quantity};
use crate::kernel::cholesky::{factor, solve_lower, solve_lower_transposed};
use crate::kernel::{Matrix, Scalar, Write, add_scaled, row_sums, scale, scale_columns, total};
use crate::state::State;

/// The normal equations of a linear least-squares problem with many outputs,
///
/// min over (W, b) of (1/N) Σᵢ wᵢ ½‖W zᵢ + b − pᵢ‖² + ½ λ‖W‖² + ½ ρ‖(W, b) − (W, b)_old‖², N = Σᵢ wᵢ,
///
/// as sums that batches are added to one after another: Σ w z zᵀ, Σ w z pᵀ, and with a bias Σ w z and
/// Σ w p, (d + m) d scalars for d inputs and m outputs. b is not penalised by λ (ridge; Hoerl & Kennard
/// 1970), but is held by ρ (proximal). With [`NormalEquations::forget`] before each batch this is
/// recursive least squares with exponential forgetting.
///
/// A solution costs d³/6 + m d² multiplications (Cholesky). The data's condition number enters
/// squared: half the digits are lost if cond(Z) is ε^−¼.
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
#[derive(Debug, Clone, PartialEq)]
pub struct NormalEquations<T> {
    shape: Shape,
    /// The sums, and scratch memory for solving.
    state: State<T>,
}

impl<T: Scalar> NormalEquations<T> {
    /// Equations without examples yet, for `inputs` = d and `outputs` = m, with or without b.
    ///
    /// # Errors
    /// [`Error::ZeroDimension`], or [`Error::TooLarge`] for sums that no memory can hold.
    pub fn new(inputs: usize, outputs: usize, bias: bool) -> Result<Self, Error> {
        let shape = Shape::new(inputs, outputs, bias)?;
        let mut state = State::new();
        state.values = shape.zeros()?;
        Ok(Self { shape, state })
    }

    fn equations(&mut self) -> Equations<'_, T> {
        let (numbers, memory) = self.state.split();
        Equations {
            shape: self.shape,
            sums: numbers.values,
            memory,
        }
    }

    /// N, the total weight of the examples in the sums, forgetting included.
    pub fn weight(&self) -> T {
        self.state.values[Equations::<T>::WEIGHT][0]
    }

    /// Multiplies all sums by `factor`, γ; 0 empties them.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless γ is in 0..=1.
    pub fn forget(&mut self, factor: f64) -> Result<(), Error> {
        let factor = share("NormalEquations::forget", factor)?;
        self.equations().forget(T::of(factor));
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
        let (d, m) = (self.shape.inputs, self.shape.outputs);
        let (n, of_targets) = (inputs.len() / d, targets.len() / m);
        check_length("inputs of normal equations", inputs, n * d)?;
        check_length("targets of normal equations", targets, of_targets * m)?;
        if n != of_targets {
            return Err(Error::ExampleCount {
                inputs: n,
                targets: of_targets,
            });
        }
        check_finite(Quantity::Input, 0, d, inputs)?;
        check_finite(Quantity::Target, 1, m, targets)?;
        if let Some(weights) = weights {
            check_length("example weights", weights, n)?;
            check_weights("example weight", weights)?;
        }
        self.equations()
            .add(inputs, targets, weights.unwrap_or(&[]));
        Ok(())
    }

    /// Solves for (W, b). `parameters` hold m × d values column-major, then b if there is one; they
    /// start as (W, b)_old (which matters only if ρ > 0) and become the minimiser. λ = `ridge`,
    /// ρ = `proximal`; the sums do not change.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless λ and ρ are finite and not negative, [`Error::Length`],
    /// [`Error::NoExamples`], [`Error::TooLarge`], [`Error::Singular`] if the examples do not
    /// determine W and b and λ and ρ are 0 or negligible, [`Error::NonFinite`] for sums or a
    /// solution out of range. `parameters` are unchanged then.
    pub fn solve(&mut self, ridge: f64, proximal: f64, parameters: &mut [T]) -> Result<(), Error> {
        let ridge = in_scalar("NormalEquations::solve's ridge", ridge)?;
        let proximal = in_scalar("NormalEquations::solve's proximal", proximal)?;
        let what = || "the normal equations".to_string();
        let ridges = [ridge, T::zero()];
        self.equations()
            .solve(ridges, proximal, parameters, 0, what)
    }
}

/// d and m, and whether there is a b.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    inputs: usize,
    outputs: usize,
    bias: bool,
}

impl Shape {
    pub(super) fn new(inputs: usize, outputs: usize, bias: bool) -> Result<Self, Error> {
        if inputs == 0 || outputs == 0 {
            return Err(Error::ZeroDimension {
                what: "a dimension of normal equations",
            });
        }
        let shape = Self {
            inputs,
            outputs,
            bias,
        };
        let (rows, columns) = shape.extent();
        let size = rows.checked_mul(columns);
        if size.is_none_or(|size| size > isize::MAX as usize / 32) {
            return Err(shape.too_large());
        }
        Ok(shape)
    }

    /// A bound on the total size of the sums.
    fn extent(self) -> (usize, usize) {
        let rows = self.inputs.saturating_add(1);
        (rows, rows.saturating_add(self.outputs))
    }

    fn too_large(self) -> Error {
        let (rows, columns) = self.extent();
        Error::TooLarge {
            what: "the sums of normal equations",
            rows,
            columns,
        }
    }

    /// Resizes `values` to `length`, or fails if there is not enough memory.
    fn resize<T: Scalar>(self, values: &mut Vec<T>, length: usize) -> Result<(), Error> {
        let more = length.saturating_sub(values.len());
        let reserved = values.try_reserve_exact(more);
        reserved.map_err(|_| self.too_large())?;
        values.resize(length, T::zero());
        Ok(())
    }

    /// Rows of the system.
    fn side(self) -> usize {
        self.inputs + usize::from(self.bias)
    }

    /// The lengths of the sums.
    fn lengths(self) -> [usize; 5] {
        let (d, m) = (self.inputs, self.outputs);
        let of_bias = |length| if self.bias { length } else { 0 };
        [d * d, d * m, of_bias(d), of_bias(m), 1]
    }

    fn zeros<T: Scalar>(self) -> Result<Vec<Vec<T>>, Error> {
        let mut sums = vec![Vec::new(); 5];
        for (sum, length) in sums.iter_mut().zip(self.lengths()) {
            self.resize(sum, length)?;
        }
        Ok(sums)
    }
}

/// What a solution works in; nothing of it counts afterwards.
#[derive(Debug, Default)]
pub(super) struct Memory<V> {
    /// w z of a batch.
    weighted: V,
    /// The matrix of the equations, then its factor.
    matrix: V,
    /// Its diagonal.
    diagonal: V,
    /// Where the matrix is nearest to singular.
    direction: V,
    /// One column per output.
    solution: V,
}

/// The arithmetic of [`NormalEquations`], on sums that the caller holds.
pub(super) struct Equations<'a, T> {
    shape: Shape,
    /// Σ w z zᵀ (d × d), Σ w z pᵀ (d × m), Σ w z and Σ w p (empty without a bias), and N.
    sums: &'a mut [Vec<T>],
    memory: &'a mut Memory<Vec<T>>,
}

impl<'a, T: Scalar> Equations<'a, T> {
    const GRAM: usize = 0;
    const CROSS: usize = 1;
    const INPUTS: usize = 2;
    const TARGETS: usize = 3;
    const WEIGHT: usize = 4;

    /// Equations with these sums, which are reset to 0 if they have another shape.
    pub(super) fn new(
        shape: Shape,
        sums: &'a mut Vec<Vec<T>>,
        memory: &'a mut Memory<Vec<T>>,
    ) -> Result<Self, Error> {
        if !sums.iter().map(Vec::len).eq(shape.lengths()) {
            *sums = shape.zeros()?;
        }
        Ok(Self {
            shape,
            sums,
            memory,
        })
    }

    /// Multiplies all sums by γ.
    pub(super) fn forget(&mut self, factor: T) {
        if factor.is_zero() {
            // Non-finite sums too.
            self.sums.iter_mut().for_each(|sum| sum.fill(T::zero()));
        } else if factor != T::one() {
            self.sums.iter_mut().for_each(|sum| scale(sum, factor));
        }
    }

    /// Adds a batch, whose arrays must fit; empty weights mean 1 each.
    pub(super) fn add(&mut self, inputs: &[T], targets: &[T], weights: &[T]) {
        let (d, m) = (self.shape.inputs, self.shape.outputs);
        let n = inputs.len() / d;
        if n == 0 {
            return;
        }
        let mut weighted = inputs;
        if !weights.is_empty() {
            let own = &mut self.memory.weighted;
            own.clear();
            own.extend_from_slice(inputs);
            scale_columns(own, weights);
            weighted = own;
        }
        let z = Matrix::new(weighted, d, n);
        let z_transposed = Matrix::new(inputs, d, n).t();
        let p_transposed = Matrix::new(targets, m, n).t();
        T::matmul(Write::Add(&mut self.sums[Self::GRAM]), z, z_transposed);
        T::matmul(Write::Add(&mut self.sums[Self::CROSS]), z, p_transposed);
        if self.shape.bias {
            row_sums(Write::Add(&mut self.sums[Self::INPUTS]), weighted);
            let of_targets = &mut self.sums[Self::TARGETS];
            if weights.is_empty() {
                row_sums(Write::Add(of_targets), targets);
            }
            for (p, &weight) in targets.chunks_exact(m).zip(weights) {
                add_scaled(of_targets, weight, p);
            }
        }
        self.sums[Self::WEIGHT][0] += match weights {
            [] => T::of(n as f64),
            weights => total(weights),
        };
    }

    /// The solution with a ridge for W and one for b; `layer` and `what` are for errors.
    pub(super) fn solve(
        &mut self,
        ridges: [T; 2],
        proximal: T,
        parameters: &mut [T],
        layer: usize,
        what: impl Fn() -> String,
    ) -> Result<(), Error> {
        let (side, m) = (self.shape.side(), self.shape.outputs);
        check_length("parameters of normal equations", parameters, m * side)?;
        if self.sums[Self::WEIGHT][0].is_zero() {
            return Err(Error::NoExamples {
                operation: "solving normal equations",
            });
        }
        let check = |values: &[T]| check_computed(Quantity::NormalEquations, layer, 0, values);
        self.sums.iter().try_for_each(|sum| check(sum))?;
        let memory = &mut *self.memory;
        // Entries above the diagonal are never read.
        self.shape.resize(&mut memory.matrix, side * side)?;
        self.shape.resize(&mut memory.diagonal, side)?;
        self.shape.resize(&mut memory.direction, side)?;
        self.shape.resize(&mut memory.solution, side * m)?;
        self.assemble(ridges, proximal, parameters);
        check(&self.memory.diagonal)?;
        let factored = factor(&mut self.memory.matrix, side);
        self.check_pivots(what)?;
        if !factored {
            return Err(Error::NonFinite {
                quantity: Quantity::NormalEquations,
                layer,
                step: 0,
            });
        }
        let Memory {
            matrix, solution, ..
        } = &mut *self.memory;
        solve_lower(matrix, side, solution);
        solve_lower_transposed(matrix, side, solution);
        check_computed(Quantity::Parameter, layer, 0, solution)?;
        for (j, column) in parameters.chunks_exact_mut(m).enumerate() {
            for (i, to) in column.iter_mut().enumerate() {
                *to = self.memory.solution[i * side + j];
            }
        }
        Ok(())
    }

    /// A ← (1/N) Σ w \[z; 1\]\[z; 1\]ᵀ + diag λ + ρ I, and for each output the right-hand side
    /// (1/N) Σ w \[z; 1\] p + ρ (W, b)_old.
    fn assemble(&mut self, ridges: [T; 2], proximal: T, old: &[T]) {
        let (d, m, side) = (self.shape.inputs, self.shape.outputs, self.shape.side());
        let [gram, cross, of_inputs, of_targets, weight] = &*self.sums else {
            unreachable!("there are five sums");
        };
        let (n, bias) = (weight[0], self.shape.bias);
        let memory = &mut *self.memory;
        for j in 0..d {
            let column = &mut memory.matrix[j * side..(j + 1) * side];
            for (to, &sum) in column.iter_mut().zip(&gram[j * d..(j + 1) * d]) {
                *to = sum / n;
            }
            column[j] += ridges[0] + proximal;
            if bias {
                column[d] = of_inputs[j] / n;
            }
        }
        if bias {
            memory.matrix[d * side + d] = T::one() + ridges[1] + proximal;
        }
        for (j, diagonal) in memory.diagonal.iter_mut().enumerate() {
            *diagonal = memory.matrix[j * side + j];
        }
        for (i, column) in memory.solution.chunks_exact_mut(side).enumerate() {
            for (to, &sum) in column.iter_mut().zip(&cross[i * d..(i + 1) * d]) {
                *to = sum / n;
            }
            if bias {
                column[d] = of_targets[i] / n;
            }
            if proximal > T::zero() {
                for (j, to) in column.iter_mut().enumerate() {
                    *to += proximal * old[j * m + i];
                }
            }
        }
    }

    /// Checks that the matrix is positive definite beyond rounding, along the direction x = L⁻ᵀ e_k of
    /// the pivot k that is smallest relative to its diagonal entry: xᵀA x / Σ_j A_jj x_j² must be above
    /// 2dε, the largest value expected from rounding (observed: 1.2 dε). Pivots alone would not show
    /// it: if earlier rows are nearly dependent, a dependent row's pivot is far above ε.
    fn check_pivots(&mut self, what: impl Fn() -> String) -> Result<(), Error> {
        let side = self.memory.diagonal.len();
        let pivot = |row: usize| {
            let root = self.memory.matrix[row * side + row];
            let diagonal = self.memory.diagonal[row];
            // Where the factorisation ended, the entry is not above 0, and no later one is smaller.
            match root > T::zero() && diagonal > T::zero() {
                true => root * root / diagonal,
                false => T::zero(),
            }
        };
        let rows = (1..side).map(|row| (row, pivot(row)));
        let (row, mut curvature) = rows.fold((0, pivot(0)), |smallest, own| {
            if own.1 < smallest.1 { own } else { smallest }
        });
        if curvature > T::zero() {
            self.memory.direction.fill(T::zero());
            self.memory.direction[row] = T::one();
            solve_lower_transposed(&self.memory.matrix, side, &mut self.memory.direction);
            let terms = self.memory.direction.iter().zip(&self.memory.diagonal);
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
