//! Linear least squares from moments accumulated over batches.

use crate::check::{
    check_computed, check_example_weights, check_finite, check_length, in_scalar, make_room, share,
};
use crate::error::{Error, Quantity};
use crate::kernel::cholesky::{factor, solve_lower, solve_lower_transposed};
use crate::kernel::{
    Matrix, Scalar, Write, add_scaled, add_to_columns, add_to_pairs, dot, of_pair, pair_plus,
    row_sums, scale_columns, scale_pairs, smallest, total, unit_of, weighted_row_sums,
};
use crate::state::State;

/// The normal equations of a linear least-squares problem with many outputs,
///
/// min over (W, b) of (1/N) Σᵢ wᵢ ½‖W zᵢ + b − pᵢ‖² + ½ λ‖W‖² + ½ ρ‖(W, b) − (W, b)_old‖², N = Σᵢ wᵢ,
///
/// stored as moments to which batches are added one after another, (d + m) d of them for d inputs
/// and m outputs. λ (ridge; Hoerl & Kennard 1970) does not penalise b, but ρ (proximal) does. With
/// [`NormalEquations::forget`] before each batch this is recursive least squares with exponential
/// forgetting.
///
/// With a bias the moments are those about the means z̄ and p̄: each batch is centred about its own
/// means, then merged (Chan, Golub & LeVeque 1983). Then, with S = (1/N) Σ w (z − z̄)(z − z̄)ᵀ and
/// C = (1/N) Σ w (z − z̄)(p − p̄)ᵀ,
///
/// (S + (λ + ρ) I + s z̄ z̄ᵀ) Wᵀ = C + ρ W_oldᵀ + z̄ (s p̄ − h b_old)ᵀ,  b = (p̄ − W z̄)/(1 + ρ) + h b_old,
///
/// with s = h = ρ/(1 + ρ). Neither the inputs' offsets nor their units cost accuracy: only the
/// condition number of the inputs' correlation matrix does. Without a bias nothing is centred, and
/// S and C are the plain second moments. Moments are accumulated in about twice the precision of
/// `T`, every row of z and p in a unit of its own, so that no square of it over- or underflows.
///
/// Solving costs d³/6 + m d² multiplications (Cholesky).
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
    /// The moments, and scratch memory.
    state: State<T>,
}

impl<T: Scalar> NormalEquations<T> {
    /// Equations without any examples yet, for d = `inputs` and m = `outputs`, with or without b.
    ///
    /// # Errors
    /// [`Error::ZeroDimension`], or [`Error::TooLarge`] if memory cannot hold the sums.
    pub fn new(inputs: usize, outputs: usize, bias: bool) -> Result<Self, Error> {
        let shape = Shape::new(inputs, outputs, bias)?;
        let mut state = State::new();
        state.values = shape.zeros(1)?;
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

    /// N, the total weight of the examples so far, after forgetting.
    pub fn weight(&self) -> T {
        let [.., weight, unit] = &self.state.values[..] else {
            unreachable!("there are six arrays");
        };
        of_pair(weight, 0) * unit[0]
    }

    /// Multiplies the weight of all examples so far by γ = `factor`; 0 forgets them.
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
    /// [`Error::NonFiniteData`], [`Error::InvalidOption`] unless every weight is finite and not
    /// negative, and [`Error::TooLarge`]. Nothing is added then.
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
            check_example_weights(weights)?;
        }
        self.equations()
            .add(inputs, targets, weights.unwrap_or(&[]))
    }

    /// Solves for (W, b) with λ = `ridge` and ρ = `proximal`. `parameters` hold m × d values
    /// column-major, then b if there is one. On entry they are (W, b)_old (which matters only if
    /// ρ > 0), on return the minimiser. The moments do not change.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless λ and ρ are finite and not negative, [`Error::Length`],
    /// [`Error::NoExamples`], [`Error::TooLarge`], [`Error::Singular`] if the examples do not
    /// determine W while λ and ρ are 0 or negligible, [`Error::NonFinite`] if the solution overflows,
    /// [`Error::ParameterSolver`] if it underflows. `parameters` are then unchanged.
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
    /// The number of arrays of moments and units.
    pub(super) const ARRAYS: usize = 6;

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

    /// An upper bound on the number of moments.
    fn extent(self) -> (usize, usize) {
        let rows = self.inputs.saturating_add(1);
        (rows, rows.saturating_add(self.outputs))
    }

    fn too_large(self) -> Error {
        let (rows, columns) = self.extent();
        Error::TooLarge {
            what: "the moments of normal equations",
            rows,
            columns,
        }
    }

    /// Resizes `values` to `length`, or fails if there is not enough memory.
    fn resize<T: Scalar>(self, values: &mut Vec<T>, length: usize) -> Result<(), Error> {
        make_room(values, "", length, 1).map_err(|_| self.too_large())?;
        values.resize(length, T::zero());
        Ok(())
    }

    /// The lengths of the arrays of moments, each of which is a pair of numbers, and of their units.
    fn lengths(self) -> [usize; Self::ARRAYS] {
        let (d, m) = (self.inputs, self.outputs);
        let of_bias = |length| if self.bias { length } else { 0 };
        let [a, b, c, d, e] = [d * d, d * m, of_bias(d), of_bias(m), 1].map(|count| 2 * count);
        [a, b, c, d, e, 1 + self.inputs + self.outputs]
    }

    /// The moments and units of `count` problems, all 0.
    fn zeros<T: Scalar>(self, count: usize) -> Result<Vec<Vec<T>>, Error> {
        let lengths = self.lengths();
        let mut sums = Vec::new();
        make_room(&mut sums, "", Self::ARRAYS, count).map_err(|_| self.too_large())?;
        for length in std::iter::repeat_n(lengths, count).flatten() {
            let mut sum = Vec::new();
            self.resize(&mut sum, length)?;
            sums.push(sum);
        }
        Ok(sums)
    }

    /// Resets `sums` to zeros for `count` problems of this shape if their lengths differ.
    pub(super) fn prepare<T: Scalar>(
        self,
        count: usize,
        sums: &mut Vec<Vec<T>>,
    ) -> Result<(), Error> {
        let lengths = std::iter::repeat_n(self.lengths(), count).flatten();
        if !sums.iter().map(Vec::len).eq(lengths) {
            *sums = self.zeros(count)?;
        }
        Ok(())
    }
}

/// Scratch memory of a call.
#[derive(Debug, Default)]
pub(super) struct Memory<V> {
    /// A batch in the units of its rows, and the factors by which these have changed.
    batch: [V; 2],
    changes: V,
    /// It centred about its means, and the columns that correct for them ([`centred`]).
    inputs: V,
    targets: V,
    /// The batch's weights, and the inputs times their weights.
    factors: V,
    weighted: V,
    /// A batch's moments; the matrix of the equations, then its factor.
    matrix: V,
    /// Its diagonal.
    diagonal: V,
    /// z̄; zero without a bias.
    mean: V,
    /// The direction in which the matrix is nearest to singular.
    direction: V,
    /// One column per output, plus one with a bias; and the units of inputs and outputs.
    solution: V,
    units: V,
    bias: V,
}

impl<T: Scalar> Memory<Vec<T>> {
    /// Reserves memory for the copies of a batch of n columns, and the columns that correct for means.
    fn reserve(&mut self, shape: Shape, n: usize, weighted: bool) -> Result<(), Error> {
        let (d, m) = (shape.inputs, shape.outputs);
        let [z, p] = &mut self.batch;
        for (list, rows, needed) in [
            (z, d, true),
            (p, m, true),
            (&mut self.inputs, d, shape.bias),
            (&mut self.targets, m, shape.bias),
            (&mut self.weighted, d, weighted),
            (&mut self.factors, 1, weighted),
        ] {
            if needed {
                make_room(
                    list,
                    "a batch of normal equations",
                    rows,
                    n.saturating_add(2),
                )?;
            }
        }
        Ok(())
    }
}

/// The arithmetic of [`NormalEquations`], on moments that the caller holds.
pub(super) struct Equations<'a, T> {
    shape: Shape,
    /// N times the moments, Σ w z zᵀ (d × d) and Σ w z pᵀ (d × m), about the means if there is a bias;
    /// the means of z and p (empty without a bias); and N. All are pairs. Last, the units of the weights
    /// and of every row of z and p in these sums, powers of two (0 for a row of zeros): N is at least
    /// about 1 and √w z at most about 1 in theirs, so that no product that matters under- or overflows.
    sums: &'a mut [Vec<T>],
    memory: &'a mut Memory<Vec<T>>,
}

impl<'a, T: Scalar> Equations<'a, T> {
    const GRAM: usize = 0;
    const CROSS: usize = 1;
    const TARGETS: usize = 3;
    const WEIGHT: usize = 4;
    const UNITS: usize = 5;

    /// Equations with these moments, whose lengths must be those of `shape`.
    pub(super) fn new(
        shape: Shape,
        sums: &'a mut [Vec<T>],
        memory: &'a mut Memory<Vec<T>>,
    ) -> Self {
        Self {
            shape,
            sums,
            memory,
        }
    }

    /// Multiplies the weight of everything added so far by γ.
    pub(super) fn forget(&mut self, factor: T) {
        if factor.is_zero() {
            // Also clears non-finite sums.
            self.sums.iter_mut().for_each(|sum| sum.fill(T::zero()));
        } else if factor != T::one() {
            let rest = factor * of_pair(&self.sums[Self::WEIGHT], 0);
            let unit = unit_of(&[rest]).min(T::one());
            self.weigh(factor / unit);
            self.sums[Self::UNITS][0] *= unit;
            self.shrink_units();
        }
    }

    /// Fits the units of rows to what is left of a batch in far larger ones, beside which the next
    /// batches would underflow.
    fn shrink_units(&mut self) {
        let (d, changes) = (self.shape.inputs, &mut self.memory.changes);
        let [gram, cross, of_z, of_p, _, units] = &mut *self.sums else {
            unreachable!("there are six arrays");
        };
        let mean = |means: &[T], row: usize| match means {
            [] => T::zero(),
            means => of_pair(means, row).abs(),
        };
        let size = |row: usize| of_pair(gram, row * d + row).abs().sqrt();
        changes.clear();
        changes.extend((0..d).map(|row| size(row).max(mean(of_z, row))));
        for k in 0..self.shape.outputs {
            // 0/0 is ignored.
            let shares = (0..d).map(|row| of_pair(cross, k * d + row).abs() / size(row));
            changes.push(shares.fold(mean(of_p, k), |top, share| top.max(share)));
        }
        for (own, unit) in changes.iter_mut().zip(&mut units[1..]) {
            if own.is_zero() {
                // Without anything left, any unit fits.
                *unit = T::zero();
            }
            let left = match *own >= T::default_epsilon() {
                true => T::one(),
                false => unit_of(&[*own]),
            };
            *unit *= left;
            *own = left.recip();
        }
        self.change_units();
    }

    /// Multiplies the moments and means by the changes of their rows' units.
    fn change_units(&mut self) {
        let (of_z, of_p) = self.memory.changes.split_at(self.shape.inputs);
        let one = [T::one()];
        let factors = [(of_z, of_z), (of_z, of_p), (of_z, &one), (of_p, &one)];
        for (sum, (rows, columns)) in self.sums.iter_mut().zip(factors) {
            if rows.iter().chain(columns).any(|&change| change != T::one()) {
                for (k, value) in sum.iter_mut().enumerate() {
                    let column = k / rows.len() % columns.len();
                    *value *= rows[k % rows.len()] * columns[column];
                }
            }
        }
    }

    /// Multiplies the sums by `factor`.
    fn weigh(&mut self, factor: T) {
        for sum in [Self::GRAM, Self::CROSS, Self::WEIGHT] {
            scale_pairs(&mut self.sums[sum], factor);
        }
    }

    /// Adds a batch, whose arrays must fit; empty weights mean 1 each.
    pub(super) fn add(&mut self, inputs: &[T], targets: &[T], weights: &[T]) -> Result<(), Error> {
        let (d, m) = (self.shape.inputs, self.shape.outputs);
        let mut n = inputs.len() / d;
        let nothing = !weights.is_empty() && weights.iter().all(T::is_zero);
        if n == 0 || nothing {
            return Ok(());
        }
        self.shape.resize(&mut self.memory.matrix, d * d.max(m))?;
        let (before, of_batch) = (self.sums[Self::UNITS][0], unit_of(weights));
        let unit = before.max(of_batch);
        let weighted = self.shape.bias || !weights.is_empty() || unit != T::one();
        self.memory.reserve(self.shape, n, weighted)?;
        if unit > before {
            self.weigh(before / unit);
            self.sums[Self::UNITS][0] = unit;
        }
        let memory = &mut *self.memory;
        let factors = &mut memory.factors;
        factors.clear();
        factors.extend(weights.iter().map(|&w| w / unit));
        if weights.is_empty() && unit != T::one() {
            factors.resize(n, unit.recip());
        }
        let own = match &factors[..] {
            [] => T::of(n as f64),
            weights => total(weights),
        };
        if own < smallest() {
            // It weighs nothing beside the earlier ones.
            return Ok(());
        }
        memory.changes.clear();
        let (of_z, of_p) = self.sums[Self::UNITS][1..].split_at_mut(d);
        let [z, p] = &mut memory.batch;
        in_units(z, inputs, factors, of_z, &mut memory.changes);
        in_units(p, targets, factors, of_p, &mut memory.changes);
        self.change_units();
        let memory = &mut *self.memory;
        let [z, p] = &memory.batch;
        let factors = &mut memory.factors;
        let (mut inputs, mut targets) = (&z[..], &p[..]);
        if self.shape.bias {
            let earlier = of_pair(&self.sums[Self::WEIGHT], 0);
            let share = own / (earlier + own);
            let [_, _, of_inputs, of_targets, ..] = &mut *self.sums else {
                unreachable!("there are six arrays");
            };
            for (to, values, mean) in [
                (&mut memory.inputs, inputs, of_inputs),
                (&mut memory.targets, targets, of_targets),
            ] {
                centred(to, values, factors, own, share, mean);
            }
            (inputs, targets) = (&memory.inputs, &memory.targets);
            factors.resize(n, T::one());
            factors.extend([earlier * share, -own.recip()]);
            n += 2;
        }
        let mut weighted = inputs;
        if !factors.is_empty() {
            let own = &mut memory.weighted;
            own.clear();
            own.extend_from_slice(inputs);
            scale_columns(own, factors);
            weighted = own;
        }
        let z = Matrix::new(weighted, d, n);
        for (sum, right, rows) in [(Self::GRAM, inputs, d), (Self::CROSS, targets, m)] {
            let product = &mut memory.matrix[..d * rows];
            let right = Matrix::new(right, rows, n).t();
            T::matmul(Write::Set(&mut *product), z, right);
            add_to_pairs(&mut self.sums[sum], product);
        }
        add_to_pairs(&mut self.sums[Self::WEIGHT], &[own]);
        Ok(())
    }

    /// The solution with one ridge for W and another for b; `layer` and `what` are for errors.
    pub(super) fn solve(
        &mut self,
        ridges: [T; 2],
        proximal: T,
        parameters: &mut [T],
        layer: usize,
        what: impl Fn() -> String,
    ) -> Result<(), Error> {
        let Shape {
            inputs: d,
            outputs: m,
            bias,
        } = self.shape;
        let count = m * (d + usize::from(bias));
        check_length("parameters of normal equations", parameters, count)?;
        if of_pair(&self.sums[Self::WEIGHT], 0).is_zero() {
            return Err(Error::NoExamples {
                operation: "solving normal equations",
            });
        }
        let check = |values: &[T]| check_computed(Quantity::NormalEquations, layer, 0, values);
        self.sums.iter().try_for_each(|sum| check(sum))?;
        let memory = &mut *self.memory;
        // Entries above the diagonal are never read.
        self.shape.resize(&mut memory.matrix, d * d.max(m))?;
        self.shape.resize(&mut memory.diagonal, d)?;
        self.shape.resize(&mut memory.mean, d)?;
        self.shape.resize(&mut memory.direction, d)?;
        let of_bias = usize::from(bias);
        self.shape.resize(&mut memory.solution, d * (m + of_bias))?;
        self.shape.resize(&mut memory.bias, m * of_bias)?;
        let held = ridges[1] + proximal;
        let h = proximal / (T::one() + held);
        self.assemble(ridges[0] + proximal, [proximal, h], parameters);
        check(&self.memory.diagonal)?;
        let factored = factor(&mut self.memory.matrix[..d * d], d);
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
        solve_lower(&matrix[..d * d], d, solution);
        solve_lower_transposed(&matrix[..d * d], d, solution);
        if bias {
            self.add_bias(held, h, &parameters[d * m..]);
        }
        let memory = &mut *self.memory;
        let (of_z, of_p) = memory.units.split_at(d);
        let mut lost = false;
        let solution = &mut memory.solution[..d * m];
        for (own, &unit) in solution.chunks_exact_mut(d).zip(of_p) {
            // Rounding to subnormal numbers, or 0, must not show where the targets have all their digits.
            let noise = unit_of(&*own) * T::of(4.0) * T::default_epsilon();
            for (w, &of_z) in own.iter_mut().zip(of_z) {
                let exact = *w;
                *w = times(exact, unit, of_z);
                lost |= unit >= smallest() && (times(*w, of_z, unit) - exact).abs() > noise;
            }
        }
        for (b, &unit) in memory.bias.iter_mut().zip(of_p) {
            *b *= unit;
        }
        let (solution, of_bias) = (&memory.solution[..d * m], &memory.bias);
        for found in [solution, of_bias] {
            check_computed(Quantity::Parameter, layer, 0, found)?;
        }
        if lost {
            return Err(Error::ParameterSolver {
                solver: "NormalEquations",
                layer,
                reason: "its weights are too small for the scalar: scale inputs or targets".into(),
            });
        }
        let (weights, own_bias) = parameters.split_at_mut(d * m);
        for (k, to) in weights.iter_mut().enumerate() {
            *to = solution[k % m * d + k / m];
        }
        own_bias.copy_from_slice(of_bias);
        Ok(())
    }

    /// A ← S + `ridge` I, and for each output the right-hand side C + ρ W_old; with a bias, z̄ is
    /// an additional right-hand side, and h that of [`Self::add_bias`]. All are in units of their rows,
    /// in which the ridge does not overflow either.
    fn assemble(&mut self, ridge: T, [proximal, h]: [T; 2], old: &[T]) {
        let (d, m) = (self.shape.inputs, self.shape.outputs);
        let [gram, cross, of_inputs, _, weight, units] = &*self.sums else {
            unreachable!("there are six arrays");
        };
        let n = of_pair(weight, 0);
        let memory = &mut *self.memory;
        let (of_z, of_p) = units[1..].split_at(d);
        let (old, old_bias) = old.split_at(d * m);
        let units = &mut memory.units;
        units.clear();
        units.extend(of_z.iter().map(|&unit| unit_of(&[unit, ridge.sqrt()])));
        for (k, &unit) in of_p.iter().enumerate() {
            let of_bias = old_bias.get(k).map_or(T::zero(), |&b| h * b);
            let own = (0..d).map(|j| proximal / units[j] * old[j * m + k]);
            units.push(unit_of(&[
                own.fold(unit.max(of_bias.abs()), |top, v| top.max(v.abs()))
            ]));
        }
        let share = |row: usize, own: &[T]| own[row] / units[row];
        for (i, to) in memory.matrix[..d * d].iter_mut().enumerate() {
            *to = of_pair(gram, i) / n * (share(i % d, of_z) * share(i / d, of_z));
        }
        for (j, diagonal) in memory.diagonal.iter_mut().enumerate() {
            memory.matrix[j * d + j] += ridge / units[j] / units[j];
            *diagonal = memory.matrix[j * d + j];
        }
        for (i, to) in memory.solution[..d * m].iter_mut().enumerate() {
            let (j, k) = (i % d, i / d);
            let unit = units[d + k];
            *to = of_pair(cross, i) / n * (share(j, of_z) * (of_p[k] / unit));
            if proximal > T::zero() {
                *to += proximal / units[j] * old[j * m + k] / unit;
            }
        }
        if self.shape.bias {
            for (j, to) in memory.mean.iter_mut().enumerate() {
                *to = of_pair(of_inputs, j) * share(j, of_z);
            }
            memory.solution[d * m..].copy_from_slice(&memory.mean);
        } else {
            memory.mean.fill(T::zero());
        }
    }

    /// Corrects the solution for b's rank-one part of the system (Sherman & Morrison 1950), and
    /// computes b. With v = (S + (λ + ρ) I)⁻¹ z̄, κ the ridge on b, s = κ/(1 + κ) and h = ρ/(1 +
    /// κ): W ← W + t vᵀ, t = (s (p̄ − W z̄) − h b_old)/(1 + s z̄·v), and b = (p̄ − W z̄)/(1 + κ) +
    /// h b_old.
    fn add_bias(&mut self, held: T, h: T, old: &[T]) {
        let (d, m) = (self.shape.inputs, self.shape.outputs);
        let Memory {
            mean,
            solution,
            bias,
            units,
            ..
        } = &mut *self.memory;
        let of_p = &self.sums[Self::UNITS][1 + d..];
        let (weights, v) = solution.split_at_mut(d * m);
        let inverse = (T::one() + held).recip();
        let s = held * inverse;
        let damping = T::one() + s * dot(mean, v);
        for (i, row) in weights.chunks_exact_mut(d).enumerate() {
            let unit = units[d + i];
            let target = of_pair(&self.sums[Self::TARGETS], i) * (of_p[i] / unit);
            let held_at = h * old[i] / unit;
            if held > T::zero() {
                let t = (s * (target - dot(row, mean)) - held_at) / damping;
                add_scaled(row, t, v);
            }
            bias[i] = inverse * (target - dot(row, mean)) + held_at;
        }
    }

    /// Checks that the matrix is positive definite beyond rounding, along the direction x = L⁻ᵀ e_k of
    /// the row k whose pivot is smallest relative to its rounding: xᵀA x must be above
    /// 2dε Σ_j A_jj x_j² + Σ_j (2ε z̄_j)² x_j². The first term is the largest value expected from
    /// rounding of the matrix (observed: 1.2 dε), the second the one from rounding of inputs far
    /// from 0. Pivots alone are not enough: if earlier rows are nearly dependent, a dependent row's
    /// pivot is far above ε. The check does not depend on the units of the inputs: only a ridge does,
    /// since it must not be negligible beside the squares of the inputs that are to depend on it.
    fn check_pivots(&mut self, what: impl Fn() -> String) -> Result<(), Error> {
        let side = self.shape.inputs;
        let epsilon = T::default_epsilon();
        let relative = T::of(2.0 * side as f64) * epsilon;
        let Memory {
            matrix,
            diagonal,
            mean,
            direction,
            units,
            ..
        } = &mut *self.memory;
        let of_mean = |row: usize| {
            let rounding = T::of(2.0) * epsilon * mean[row];
            rounding * rounding
        };
        let pivot = |row: usize| {
            let root = matrix[row * side + row];
            let rounding = relative * diagonal[row] + of_mean(row);
            // Where the factorisation stopped, the entry is not above 0, and no later one is
            // smaller. A square that is barely above 0 has lost its accuracy.
            match root > T::zero() && diagonal[row] * epsilon > smallest::<T>() {
                true => root * root / rounding,
                false => T::zero(),
            }
        };
        let rows = (1..side).map(|row| (row, pivot(row)));
        let (row, margin) = rows.fold((0, pivot(0)), |smallest, own| {
            if own.1 < smallest.1 { own } else { smallest }
        });
        let (mut curvature, mut least) = (T::zero(), relative);
        if margin > T::zero() {
            direction.fill(T::zero());
            direction[row] = T::one();
            solve_lower_transposed(&matrix[..side * side], side, direction);
            let [mut size, mut noise] = [T::zero(); 2];
            for (j, &x) in direction.iter().enumerate() {
                size += diagonal[j] * x * x;
                noise += of_mean(j) * x * x;
            }
            curvature = size.recip();
            least += noise * curvature;
        }
        if curvature > least {
            return Ok(());
        }
        // As curvature along any direction this exceeds what rounding can produce there.
        let noise = |row: usize| {
            let unit = units[row].as_f64();
            (relative * diagonal[row] + of_mean(row)).as_f64() * unit * unit
        };
        Err(Error::Singular {
            what: what(),
            row,
            curvature: curvature.as_f64(),
            least: least.as_f64(),
            ridge: match (0..side).map(noise).fold(0.0, f64::max) {
                // Inputs of zeros need any.
                0.0 => epsilon.as_f64(),
                noise => 2.0 * noise,
            },
        })
    }
}

/// x · unit / of, powers of two, of which the quotient alone may not fit.
fn times<T: Scalar>(x: T, unit: T, of: T) -> T {
    match unit / of {
        unit if unit >= smallest() && unit.is_finite() => x * unit,
        _ => x * unit / of,
    }
}

/// Writes a batch in units of its rows, which grow if they must, and appends the factors by which they
/// change what has been added before. A column of weight 0 becomes 0.
fn in_units<T: Scalar>(
    to: &mut Vec<T>,
    values: &[T],
    weights: &[T],
    units: &mut [T],
    changes: &mut Vec<T>,
) {
    let start = changes.len();
    changes.resize(start + units.len(), T::zero());
    let own = &mut changes[start..];
    for (i, column) in values.chunks_exact(own.len()).enumerate() {
        let root = weights.get(i).map_or(T::one(), |w| w.sqrt());
        for (top, &v) in own.iter_mut().zip(column) {
            *top = top.max(root * v.abs());
        }
    }
    for (unit, own) in units.iter_mut().zip(own) {
        let before = *unit;
        if *own > T::zero() {
            *unit = before.max(unit_of(&[*own]));
        }
        *own = match *unit > before {
            true => before / *unit,
            false => T::one(),
        };
    }
    to.clear();
    for (i, column) in values.chunks_exact(units.len()).enumerate() {
        let counts = weights.get(i).is_none_or(|w| !w.is_zero());
        let of_row = |(&v, &unit): (&T, &T)| match counts && !v.is_zero() {
            true => v / unit,
            false => T::zero(),
        };
        to.extend(column.iter().zip(&*units).map(of_row));
    }
}

/// Centres a batch about its own mean c (rows × n, in `to`), and appends two columns: c minus the
/// mean so far, and the remainder r = Σ w (z − c), which is due to rounding of c. Updates the mean
/// by the batch's `share` of the new total weight; `weight` is the batch's own.
///
/// With moments about c, those about the true means follow (Chan, Golub & LeVeque 1983):
/// Σ w (z − c)(z − c)ᵀ + N share δ δᵀ − r rᵀ/weight, δ = c + r/weight − mean, for N so far.
fn centred<T: Scalar>(
    to: &mut Vec<T>,
    values: &[T],
    weights: &[T],
    weight: T,
    share: T,
    mean: &mut [T],
) {
    let (rows, count) = (mean.len() / 2, values.len());
    to.clear();
    to.extend_from_slice(values);
    to.resize(count + 2 * rows, T::zero());
    let (columns, ends) = to.split_at_mut(count);
    let (change, rest) = ends.split_at_mut(rows);
    let inverse = weight.recip();
    // −c, relative to the first column, so that the mean of equal values is exactly their value.
    for (c, &value) in change.iter_mut().zip(values) {
        *c = -value;
    }
    add_to_columns(columns, change);
    weighted_sums(rest, columns, weights);
    add_scaled(change, -inverse, rest);
    columns.copy_from_slice(values);
    add_to_columns(columns, change);
    weighted_sums(rest, columns, weights);
    for (j, (change, &rest)) in change.iter_mut().zip(&*rest).enumerate() {
        // In two parts, since a single sum would have fewer digits.
        let parts = [-*change - mean[j], rest * inverse - mean[rows + j]];
        *change = parts[0] + parts[1];
        for part in parts {
            (mean[j], mean[rows + j]) = pair_plus((mean[j], mean[rows + j]), share * part);
        }
    }
}

/// out_r ← Σ over the columns of w matrix_{r,·}; empty weights mean 1 each.
fn weighted_sums<T: Scalar>(out: &mut [T], matrix: &[T], weights: &[T]) {
    match weights.is_empty() {
        true => row_sums(Write::Set(out), matrix),
        false => weighted_row_sums(out, matrix, weights),
    }
}
