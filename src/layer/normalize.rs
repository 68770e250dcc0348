//! Columns brought to unit scale: layer normalisation, and root-mean-square normalisation.

use rand::Rng;

use super::{
    Context, Layer, ParameterGroup, Point, Scratch, Shape, bound_of_norm, check_dimension,
    described_shape, rows_and_columns,
};
use crate::check::positive;
use crate::description::Description;
use crate::error::Error;
use crate::kernel::{
    Columns, Scalar, Write, WriteColumns, largest_magnitude, map_pairs, row_sums_in,
    row_sums_of_products, smallest, sum_of_blocks, sums_of_blocks, unit_of, vectorise,
};

/// Layer normalisation of every column of the input: mean 0 and variance 1, then a learned gain and
/// bias.
///
/// ```math
/// ẑ = a ⊙ (z − m 1)/σ + b, \qquad m = 1/d ∑_j z_j, \qquad σ^2 = 1/d ∑_j (z_j − m)^2 + ε
/// ```
///
/// The first axis of the shape is normalised. A `[d, length]` array has `length` columns, each
/// normalised by itself, with the same a and b; a plain vector of d values is one column. The results
/// are those of PyTorch's `LayerNorm(d)`, with its ε = 1e-5. Ba, Kiros & Hinton 2016.
///
/// Parameters: "gain" (d values, initially 1) and "bias" (d values, initially 0), without weight decay.
///
/// σ is computed from centred values in units of the largest one, so it is accurate for columns far
/// from 0, and no square overflows.
///
/// ‖∂ẑ/∂z‖² is at most max a²/ε. Columns that are nearly constant attain it, but typical columns stay
/// far below it: prefer [`StepSize::Checked`](crate::target_solver::StepSize::Checked) for the Z-steps of
/// circuits with such layers.
///
/// # Examples
/// ```
/// use layerwise::Circuit;
/// use layerwise::layer::LayerNorm;
/// use layerwise::nalgebra::DMatrix;
///
/// let layer = LayerNorm::new([4, 2])?.with_epsilon(1e-12)?;
/// let circuit = Circuit::<f64>::builder().layer(layer).build()?;
/// let z = [1.0, 3.0, 1.0, 3.0, 5.0, 5.0, 5.0, 9.0];
/// let output = circuit.predict(&DMatrix::from_column_slice(8, 1, &z))?;
/// assert!((output[1] - 1.0).abs() < 1e-9 && (output[7] - 3f64.sqrt()).abs() < 1e-9);
/// # Ok::<(), layerwise::Error>(())
/// ```
pub type LayerNorm = Norm<true>;

/// Root-mean-square normalisation of every column of the input: mean square 1, then a learned gain.
///
/// ```math
/// ẑ = a ⊙ z/σ, \qquad σ^2 = 1/d ∑_j z_j^2 + ε
/// ```
///
/// Columns, numerical accuracy and the curvature bound are as for [`LayerNorm`]. Parameters: "gain" (d
/// values, initially 1). ε is 1e-5 by default; that of PyTorch's `RMSNorm` is the scalar's machine
/// epsilon. Zhang & Sennrich 2019.
///
/// # Examples
/// ```
/// use layerwise::Circuit;
/// use layerwise::layer::RmsNorm;
/// use layerwise::nalgebra::DMatrix;
///
/// let layer = RmsNorm::new(2)?.with_epsilon(1e-12)?;
/// let circuit = Circuit::<f64>::builder().layer(layer).build()?;
/// let output = circuit.predict(&DMatrix::from_column_slice(2, 1, &[3e200, 4e200]))?;
/// assert!((output[0] - 0.72f64.sqrt()).abs() < 1e-12);
/// # Ok::<(), layerwise::Error>(())
/// ```
pub type RmsNorm = Norm<false>;

/// What [`LayerNorm`] and [`RmsNorm`] share: `CENTRED` says whether the mean is subtracted.
#[derive(Debug, Clone, PartialEq)]
pub struct Norm<const CENTRED: bool> {
    shape: Shape,
    epsilon: f64,
    gain: bool,
    bias: bool,
}

impl Norm<true> {
    /// Removes the bias: ẑ = a ⊙ (z − m 1)/σ.
    pub fn without_bias(mut self) -> Self {
        self.bias = false;
        self
    }
}

impl<const CENTRED: bool> Norm<CENTRED> {
    /// A layer for values of this shape, whose first axis is normalised.
    ///
    /// # Errors
    /// [`Error::ZeroDimension`].
    pub fn new(shape: impl Into<Shape>) -> Result<Self, Error> {
        let shape = shape.into();
        check_dimension("the size of a normalisation", shape.size())?;
        Ok(Self {
            shape,
            epsilon: 1e-5,
            gain: true,
            bias: CENTRED,
        })
    }

    /// Sets ε, which limits the gain of columns that are nearly constant (of [`RmsNorm`]: nearly 0).
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless it is above 0 and finite.
    pub fn with_epsilon(mut self, epsilon: f64) -> Result<Self, Error> {
        self.epsilon = positive("Norm::epsilon", epsilon)?;
        Ok(self)
    }

    /// Removes the gain a, which is then 1.
    pub fn without_gain(mut self) -> Self {
        self.gain = false;
        self
    }

    const KIND: &str = if CENTRED { "LayerNorm" } else { "RmsNorm" };

    pub(crate) fn described(own: &Description) -> Result<Self, Error> {
        let layer = Self::new(described_shape(own, "shape")?)?;
        Ok(Self {
            gain: own.flag("gain")?,
            bias: CENTRED && own.flag("bias")?,
            ..layer.with_epsilon(own.number("epsilon")?)?
        })
    }

    /// d.
    fn dim(&self) -> usize {
        rows_and_columns(self.shape).0
    }

    /// Columns of an example.
    fn columns(&self) -> usize {
        rows_and_columns(self.shape).1
    }

    /// The parts of a parameter vector that belong to a and b.
    fn gain_and_bias<'a, T>(&self, parameters: &'a [T]) -> (Option<&'a [T]>, Option<&'a [T]>) {
        let (gain, bias) = parameters.split_at(if self.gain { self.dim() } else { 0 });
        (self.gain.then_some(gain), self.bias.then_some(bias))
    }

    /// `centred` ← (z − m 1)/unit for one column, where m is 0 unless `CENTRED`, and a power of 2 is the
    /// unit; returns what is still to be subtracted, unit/σ and 1/σ.
    #[inline(always)]
    fn centre<T: Scalar>(root: T, column: &[T], centred: &mut [T]) -> [T; 3] {
        let [rest, square] = Self::centre_in(T::one(), root, column, centred);
        // Scaling by powers of 2 rounds nothing: the unit matters only where squares overflow or underflow.
        if square.is_finite() && square > smallest::<T>() / T::default_epsilon() {
            let inverse = square.sqrt().recip();
            return [rest, inverse, inverse];
        }
        Self::centre_scaled(root, column, centred)
    }

    /// [`centre`](Self::centre) in a unit in which neither squares nor ε overflow.
    #[cold]
    fn centre_scaled<T: Scalar>(root: T, column: &[T], centred: &mut [T]) -> [T; 3] {
        let largest = largest_magnitude(column).max(root);
        let per_unit = unit_of(&[largest]).recip();
        let [rest, square] = Self::centre_in(per_unit, root, column, centred);
        let inverse = square.sqrt().recip();
        [rest, inverse, inverse * per_unit]
    }

    /// `centred` ← (z − m 1)/unit; returns what is still to be subtracted, and (σ/unit)².
    #[inline(always)]
    fn centre_in<T: Scalar>(per_unit: T, root: T, column: &[T], centred: &mut [T]) -> [T; 2] {
        let d = T::of(column.len() as f64);
        // Where ε underflows in this unit, it matters only for columns of zeros.
        let root = (root * per_unit).max(smallest::<T>().sqrt());
        if !CENTRED {
            let columns = centred.iter_mut().zip(column);
            columns.for_each(|(x, &z)| *x = z * per_unit);
            let squares = sum_of_blocks(centred, centred, |x, _| x * x);
            return [T::zero(), squares / d + root * root];
        }
        let mean = sum_of_blocks(column, column, |z, _| z * per_unit) / d;
        let columns = centred.iter_mut().zip(column);
        columns.for_each(|(x, &z)| *x = z * per_unit - mean);
        // The mean is rounded, with an error in proportion to the offset: what is left of it is
        // subtracted too.
        let [sum, squares] = sums_of_blocks(centred, centred, |x, _| [x, x * x]);
        let (rest, mut square) = (sum / d, squares / d);
        // If little is left, its square can be subtracted afterwards without cancellation.
        if rest * rest <= T::of(0.125) * square {
            square -= rest * rest;
        } else {
            let centred = &*centred;
            square = sum_of_blocks(centred, centred, |x, _| (x - rest) * (x - rest)) / d;
        }
        [rest, square + root * root]
    }

    /// (h − mean h − x mean(h ⊙ x))/σ for a normalised column x, without the first mean unless
    /// `CENTRED`: the Jacobian of x, which is symmetric, times h.
    #[inline(always)]
    fn product<T: Scalar>(h: &[T], x: &[T], inverse: T, out: Write<'_, T>) {
        let d = T::of(h.len() as f64);
        let [mean, along] = match CENTRED {
            true => sums_of_blocks(h, x, |h, x| [h, h * x]),
            false => [T::zero(), sum_of_blocks(h, x, |h, x| h * x)],
        };
        let (mean, along) = (mean / d, along / d);
        map_pairs(out, h, x, |h, x| inverse * (h - mean - x * along));
    }
}

impl<T: Scalar, const CENTRED: bool> Layer<T> for Norm<CENTRED> {
    fn input_shape(&self) -> Shape {
        self.shape
    }

    fn output_shape(&self) -> Shape {
        self.shape
    }

    fn parameters(&self) -> Vec<ParameterGroup> {
        let group = |name| ParameterGroup::new(name, [self.dim()]);
        let gain = self.gain.then(|| group("gain"));
        ParameterGroup::tile(gain.into_iter().chain(self.bias.then(|| group("bias"))))
    }

    fn initialize(&self, parameters: &mut [T], _rng: &mut dyn Rng) {
        let (gain, bias) = parameters.split_at_mut(if self.gain { self.dim() } else { 0 });
        gain.fill(T::one());
        bias.fill(T::zero());
    }

    /// The tape holds the normalised values, and 1/σ of every column.
    fn scratch(&self, batch: usize) -> Scratch {
        let values = self.shape.size().saturating_mul(batch);
        let tape = values.saturating_add(self.columns().saturating_mul(batch));
        Scratch::new(tape, values)
    }

    fn cost(&self) -> Option<usize> {
        Some(self.shape.size().saturating_mul(8))
    }

    fn forward(
        &self,
        context: &Context<'_>,
        parameters: &[T],
        input: &[T],
        output: &mut [T],
        tape: Option<&mut [T]>,
        _work: &mut [T],
    ) {
        let (d, size, n) = (
            self.dim(),
            self.shape.size(),
            input.len() / self.shape.size(),
        );
        let (gain, bias) = self.gain_and_bias(parameters);
        let tape = tape.unwrap_or_default();
        let (normal, inverse) = tape.split_at_mut(input.len().min(tape.len()));
        let data = (
            Columns::new(output, size),
            Columns::new(normal, size),
            Columns::new(inverse, self.columns()),
        );
        let cost = 8 * size;
        let root = T::of(self.epsilon.sqrt());
        let execution = context.execution;
        execution.for_each_block(n, cost, data, |range, (output, normal, inverse)| {
            let input = &input[range.start * size..range.end * size];
            let mut normals = normal.values.chunks_exact_mut(d);
            let mut inverses = inverse.values.iter_mut();
            let columns = input.chunks_exact(d).zip(output.values.chunks_exact_mut(d));
            vectorise(
                #[inline(always)]
                move || {
                    for (z, out) in columns {
                        let [rest, own, inverse] = Self::centre(root, z, out);
                        if let (Some(normal), Some(place)) = (normals.next(), inverses.next()) {
                            for (x, &z) in normal.iter_mut().zip(&*out) {
                                *x = (z - rest) * own;
                            }
                            *place = inverse;
                        }
                        match (gain, bias) {
                            (Some(gain), Some(bias)) => {
                                let pairs = out.iter_mut().zip(gain.iter().zip(bias));
                                pairs.for_each(|(x, (&a, &b))| *x = (*x - rest) * own * a + b);
                            }
                            (Some(gain), None) => {
                                let pairs = out.iter_mut().zip(gain);
                                pairs.for_each(|(x, &a)| *x = (*x - rest) * own * a);
                            }
                            (None, Some(bias)) => {
                                let pairs = out.iter_mut().zip(bias);
                                pairs.for_each(|(x, &b)| *x = (*x - rest) * own + b);
                            }
                            (None, None) => out.iter_mut().for_each(|x| *x = (*x - rest) * own),
                        }
                    }
                },
            );
        });
    }

    fn vjp(
        &self,
        at: &Point<'_, T>,
        cotangent: &[T],
        d_input: Write<'_, T>,
        mut d_parameters: Write<'_, T>,
        work: &mut [T],
    ) {
        let (d, size, values) = (self.dim(), self.shape.size(), at.input.len());
        let (normal, inverse) = at.tape.split_at(values);
        let (gain, _) = self.gain_and_bias(at.parameters);
        let work = &mut work[..values];
        if !d_input.is_skip() {
            let data = (
                WriteColumns::new(d_input, size),
                Columns::new(&mut *work, size),
            );
            let execution = at.context.execution;
            execution.for_each_block(values / size, 8 * size, data, |range, (dz, work)| {
                let (mut dz, first) = (dz.write, range.start * size / d);
                // Values of one column, which stay in the L1 cache; none for an empty batch.
                let shaped = work.values.get_mut(..d).unwrap_or_default();
                let inverse = &inverse[first..range.end * size / d];
                vectorise(
                    #[inline(always)]
                    move || {
                        for (k, &inverse) in inverse.iter().enumerate() {
                            let column = (first + k) * d..(first + k + 1) * d;
                            let mut h = &cotangent[column.clone()];
                            if let Some(gain) = gain {
                                map_pairs(Write::Set(&mut *shaped), h, gain, |h, a| h * a);
                                h = &*shaped;
                            }
                            let dz = dz.part(k * d..(k + 1) * d);
                            Self::product(h, &normal[column], inverse, dz);
                        }
                    },
                );
            });
        }
        let of_gain = if self.gain { d } else { 0 };
        // A sum over columns must not be split among threads, so the rows are divided.
        let (execution, cost) = (at.context.execution, 8 * values / d);
        if self.gain && !d_parameters.is_skip() {
            let sums = WriteColumns::new(d_parameters.part(0..d), 1);
            execution.for_each_block(d, cost, sums, |rows, sums| {
                row_sums_of_products(sums.write, [cotangent, normal], d, rows);
            });
        }
        if self.bias && !d_parameters.is_skip() {
            let sums = WriteColumns::new(d_parameters.part(of_gain..of_gain + d), 1);
            execution.for_each_block(d, cost, sums, |rows, sums| {
                row_sums_in(sums.write, cotangent, d, rows);
            });
        }
    }

    fn jvp(
        &self,
        at: &Point<'_, T>,
        v_input: Option<&[T]>,
        v_parameters: Option<&[T]>,
        tangent: &mut [T],
        _work: &mut [T],
    ) {
        let (d, size, values) = (self.dim(), self.shape.size(), at.input.len());
        let (normal, inverse) = at.tape.split_at(values);
        let (gain, _) = self.gain_and_bias(at.parameters);
        let (v_gain, v_bias) = v_parameters.map_or((None, None), |v| self.gain_and_bias(v));
        let data = Columns::new(tangent, size);
        let execution = at.context.execution;
        execution.for_each_block(values / size, 8 * size, data, |range, tangent| {
            let first = range.start * size / d;
            let tangent = tangent.values;
            vectorise(
                #[inline(always)]
                move || {
                    for (k, out) in tangent.chunks_exact_mut(d).enumerate() {
                        let column = (first + k) * d..(first + k + 1) * d;
                        let (x, inverse) = (&normal[column.clone()], inverse[first + k]);
                        match v_input {
                            Some(v) => Self::product(&v[column], x, inverse, Write::Set(&mut *out)),
                            None => out.fill(T::zero()),
                        }
                        if let Some(gain) = gain {
                            out.iter_mut().zip(gain).for_each(|(t, &a)| *t *= a);
                        }
                        if let Some(v) = v_gain {
                            let terms = v.iter().zip(x);
                            let pairs = out.iter_mut().zip(terms);
                            pairs.for_each(|(t, (&v, &x))| *t += v * x);
                        }
                        if let Some(v) = v_bias {
                            out.iter_mut().zip(v).for_each(|(t, &v)| *t += v);
                        }
                    }
                },
            );
        });
    }

    /// max a²/ε, as ∂ẑ/∂z is a projection, divided by σ ≥ √ε and scaled by a.
    fn curvature_bound(&self, parameters: &[T], _work: &mut [T]) -> Option<T> {
        let (gain, _) = self.gain_and_bias(parameters);
        let largest = |gain: &[T]| gain.iter().fold(T::zero(), |top, a| top.max(a.abs()));
        let top = gain.map_or(T::one(), largest);
        Some(bound_of_norm(top / T::of(self.epsilon.sqrt())))
    }

    fn description(&self) -> Option<Description> {
        let own = Description::new(Self::KIND)
            .with("shape", self.shape.extents())
            .with("epsilon", self.epsilon)
            .with("gain", self.gain);
        Some(match CENTRED {
            true => own.with("bias", self.bias),
            false => own,
        })
    }
}
