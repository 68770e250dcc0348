//! Multi-head self-attention.

use std::ops::Range;

use rand::Rng;

use super::patch_map::MOST;
use super::softmax::{softmax, softmax_in_units};
use super::{Context, Layer, ParameterGroup, Point, Scratch, Shape, check_dimension};
use crate::check::option;
use crate::description::Description;
use crate::error::Error;
use crate::init::Initializer;
use crate::kernel::{
    Columns, Execution, Matrix, Scalar, Write, WriteColumns, add_to_columns, all_finite, exponent,
    fill_columns, row_sums, scale, scale_by_power, smallest, sum_of_blocks, unit_of, vectorise,
};

/// Multi-head self-attention over a sequence of fixed length: every position takes a weighted
/// mean of the values at all positions, with weights computed from the input.
///
/// With Z the `[dim, length]` input, k = dim/heads, and Q_h, K_h, V_h the h-th blocks of k rows of Q, K, V:
///
/// ```math
/// Q = W_q Z + b_q 1^T, \quad K = W_k Z + b_k 1^T, \quad V = W_v Z + b_v 1^T
/// ```
///
/// ```math
/// P_h = \text{softmax}\big( K_h^T Q_h/√k \big), \qquad O_h = V_h P_h, \qquad Ẑ = W_o O + b_o 1^T
/// ```
///
/// The softmax is taken over each column of the length × length matrix, which holds the weights of one
/// position; the largest entry of the column is subtracted first. Scores may overflow: their softmax is
/// still computed. With [`Attention::causal`], position j attends to positions 0 to j only. The output has
/// the shape of the input. The results are those of PyTorch's
/// `MultiheadAttention(dim, heads, batch_first=True)`. Vaswani, Shazeer, Parmar, Uszkoreit, Jones,
/// Gomez, Kaiser & Polosukhin 2017.
///
/// Parameters: "in_weights" (3 dim × dim, column-major: the rows of W_q, then W_k, then W_v), "in_bias"
/// (3 dim), "out_weights" (W_o, dim × dim) and "out_bias" (dim). Weight decay applies to weights only.
/// Initial values: weights from N(0, 1/dim), biases 0.
///
/// There is **no curvature bound**: self-attention is not Lipschitz continuous in Z (Kim, Papamakarios
/// & Mnih 2021). Use [`StepSize::Checked`](crate::target_solver::StepSize::Checked) for Z-steps, with a short step
/// (0.003 in `examples/attention`, which does not train with 0.02), and normalise the input
/// ([`LayerNorm`](super::LayerNorm)).
///
/// It costs 4 dim² length + 2 dim length² multiply-adds per example, and keeps 4 dim length + heads
/// length² values for the derivatives.
///
/// # Examples
/// A transformer block as one decoupled unit:
/// ```
/// use layerwise::layer::{
///     Activation, Attention, LayerNorm, PositionWise, Residual, Sequential,
/// };
///
/// let (dim, length) = (16, 10);
/// let block: Sequential<f32> = Sequential::new(vec![
///     Box::new(Residual::new(Sequential::new(vec![
///         Box::new(LayerNorm::new([dim, length])?),
///         Box::new(Attention::new(dim, length, 4)?.causal()),
///     ])?)?),
///     Box::new(Residual::new(Sequential::new(vec![
///         Box::new(LayerNorm::new([dim, length])?),
///         Box::new(PositionWise::new(dim, length, 4 * dim, Activation::Gelu)?),
///         Box::new(PositionWise::new(4 * dim, length, dim, Activation::Identity)?),
///     ])?)?),
/// ])?;
/// # Ok::<(), layerwise::Error>(())
/// ```
#[doc(alias("transformer", "MultiheadAttention"))]
#[derive(Debug, Clone, PartialEq)]
pub struct Attention {
    dim: usize,
    length: usize,
    heads: usize,
    causal: bool,
    bias: bool,
    weights: Initializer,
}

impl Attention {
    /// Attention with `heads` heads over `length` positions of `dim` values, with biases.
    ///
    /// # Errors
    /// [`Error::ZeroDimension`], [`Error::InvalidOption`] unless `heads` divides `dim`, or
    /// [`Error::TooLarge`].
    pub fn new(dim: usize, length: usize, heads: usize) -> Result<Self, Error> {
        check_dimension("the dimension of attention", dim)?;
        check_dimension("the length of attention", length)?;
        check_dimension("the number of heads", heads)?;
        let allowed = format!("a divisor of the dimension {dim}");
        let fits = dim.is_multiple_of(heads);
        option("Attention::heads", heads as f64, fits, allowed)?;
        let longest = length.saturating_mul(heads).max(dim.saturating_mul(4));
        let largest = longest.saturating_mul(length.max(dim));
        if largest > MOST {
            return Err(Error::TooLarge {
                what: "the values of attention",
                rows: longest,
                columns: length.max(dim),
            });
        }
        Ok(Self {
            dim,
            length,
            heads,
            causal: false,
            bias: true,
            weights: Initializer::lecun_normal(),
        })
    }

    /// Lets position j attend only to positions 0 to j.
    pub fn causal(mut self) -> Self {
        self.causal = true;
        self
    }

    /// Removes all biases.
    pub fn without_bias(mut self) -> Self {
        self.bias = false;
        self
    }

    /// Sets the initializer of the weights: W_q, W_k and W_v are drawn together, as a 3 dim × dim
    /// matrix, and W_o as a dim × dim matrix.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for an option of the initializer that is out of range.
    pub fn with_weights(mut self, initializer: Initializer) -> Result<Self, Error> {
        self.weights = initializer.validate()?;
        Ok(self)
    }

    pub(crate) fn described(own: &Description) -> Result<Self, Error> {
        let [dim, length, heads] = ["dim", "length", "heads"].map(|name| own.count(name));
        let layer = Self {
            causal: own.flag("causal")?,
            bias: own.flag("bias")?,
            ..Self::new(dim?, length?, heads?)?
        };
        layer.with_weights(Initializer::described(own.part("weights")?)?)
    }

    /// Values of an example: dim · length.
    fn size(&self) -> usize {
        self.dim * self.length
    }

    /// Rows of a head.
    fn rows(&self) -> usize {
        self.dim / self.heads
    }

    /// Entries of the weights P of all heads of an example.
    fn scores(&self) -> usize {
        self.heads * self.length * self.length
    }

    /// Work memory of one example besides its arrays: length × length, and rows × length.
    fn own_work(&self) -> usize {
        self.length * self.length + self.rows() * self.length
    }

    /// The lengths of in_weights, in_bias, out_weights and out_bias.
    fn lengths(&self) -> [usize; 4] {
        let bias = |count| if self.bias { count } else { 0 };
        let square = self.dim * self.dim;
        [3 * square, bias(3 * self.dim), square, bias(self.dim)]
    }

    /// The parts of a parameter vector.
    fn parts<'a, T>(&self, parameters: &'a [T]) -> Parts<'a, T> {
        let [a, b, c, _] = self.lengths();
        let (into, rest) = parameters.split_at(a);
        let (in_bias, rest) = rest.split_at(b);
        let (out, out_bias) = rest.split_at(c);
        Parts {
            into: Matrix::new(into, 3 * self.dim, self.dim),
            in_bias,
            out: Matrix::new(out, self.dim, self.dim),
            out_bias,
        }
    }

    /// The arrays of a batch of n: Q, K and V, one above the other; P; and O.
    fn arrays<'a, T>(&self, tape: &'a [T], n: usize) -> [&'a [T]; 3] {
        let (qkv, rest) = tape.split_at(3 * self.size() * n);
        let (p, o) = rest.split_at(self.scores() * n);
        [qkv, p, o]
    }

    /// Q_h, K_h and V_h of an example.
    fn head<'a, T: Copy>(&self, qkv: &'a [T], h: usize) -> [Matrix<'a, T>; 3] {
        let (dim, rows) = (self.dim, self.rows());
        let all = Matrix::new(qkv, 3 * dim, self.length);
        [0, dim, 2 * dim].map(|first| rows_of(all, first + h * rows..first + (h + 1) * rows))
    }

    /// P and O of an example, from its Q, K and V.
    fn attend<T: Scalar>(&self, qkv: &[T], p: &mut [T], o: &mut [T], work: &mut [T]) {
        let (length, rows) = (self.length, self.rows());
        let own = &mut work[..rows * length];
        for (h, p) in p.chunks_exact_mut(length * length).enumerate() {
            let [q, k, v] = self.head(qkv, h);
            T::matmul(Write::Set(&mut *p), k.t(), q);
            match all_finite(p) {
                true => {
                    self.finish_scores(p);
                    softmax(p, length);
                }
                false => self.attend_in_units(h, qkv, p, own),
            }
            T::matmul(Write::Set(&mut *own), v, Matrix::new(p, length, length));
            put(own, rows, o, self.dim, h * rows);
        }
    }

    /// Divides the scores by √k and, in causal attention, masks those of later positions.
    fn finish_scores<T: Scalar>(&self, scores: &mut [T]) {
        scale(scores, self.factor());
        if self.causal {
            for (j, column) in scores.chunks_exact_mut(self.length).enumerate() {
                // Not −1/0, whose derivative as a dual number is NaN.
                column[j + 1..].fill(T::of(f64::NEG_INFINITY));
            }
        }
    }

    /// P_h where the scores overflow but their softmax does not: they are computed in a larger unit.
    #[cold]
    fn attend_in_units<T: Scalar>(&self, h: usize, qkv: &[T], p: &mut [T], keys: &mut [T]) {
        let (length, rows) = (self.length, self.rows());
        let [q, _, _] = self.head(qkv, h);
        let part = |first: usize| {
            let columns = qkv.chunks_exact(3 * self.dim);
            columns.map(move |column| &column[first + h * rows..][..rows])
        };
        for (to, k) in keys.chunks_exact_mut(rows).zip(part(self.dim)) {
            to.copy_from_slice(k);
        }
        let units = [unit_of(part(0).flatten()), unit_of(&*keys), smallest::<T>()];
        // A score is a sum of `rows` products, each below four times the product of the units.
        let power = exponent(&units) + 2.0 + (rows as f64).log2().ceil();
        // Queries or keys that are not finite have no unit.
        let power = if power.is_finite() { power } else { 0.0 };
        scale_by_power(keys, -power);
        let keys = Matrix::new(keys, rows, length);
        T::matmul(Write::Set(&mut *p), keys.t(), q);
        self.finish_scores(p);
        softmax_in_units(p, length, power);
    }

    /// 1/√k.
    fn factor<T: Scalar>(&self) -> T {
        T::of(1.0 / (self.rows() as f64).sqrt())
    }

    /// The derivatives of an example in Q, K and V, from those in O.
    fn back<T: Scalar>(&self, [qkv, p]: [&[T]; 2], d_o: &[T], d_qkv: &mut [T], work: &mut [T]) {
        let (dim, length, rows) = (self.dim, self.length, self.rows());
        let (d_s, own) = work.split_at_mut(length * length);
        let d_o = Matrix::new(d_o, dim, length);
        for (h, p) in p.chunks_exact(length * length).enumerate() {
            let [q, k, v] = self.head(qkv, h);
            let (d_o, first) = (rows_of(d_o, h * rows..(h + 1) * rows), h * rows);
            let weights = Matrix::new(p, length, length);
            T::matmul(Write::Set(&mut *own), d_o, weights.t());
            put(own, rows, d_qkv, 3 * dim, 2 * dim + first);
            T::matmul(Write::Set(&mut *d_s), v.t(), d_o);
            self.through_softmax(p, d_s);
            let d_s = Matrix::new(d_s, length, length);
            T::matmul(Write::Set(&mut *own), k, d_s);
            put(own, rows, d_qkv, 3 * dim, first);
            T::matmul(Write::Set(&mut *own), q, d_s.t());
            put(own, rows, d_qkv, 3 * dim, dim + first);
        }
    }

    /// `v` ← (diag p − p pᵀ) v/√k for the columns p of P: the Jacobian is symmetric.
    fn through_softmax<T: Scalar>(&self, p: &[T], v: &mut [T]) {
        let (factor, length) = (self.factor::<T>(), self.length);
        vectorise(
            #[inline(always)]
            move || {
                let columns = p.chunks_exact(length).zip(v.chunks_exact_mut(length));
                for (p, v) in columns {
                    let mean = sum_of_blocks(p, v, |p, v| p * v);
                    for (v, &p) in v.iter_mut().zip(p) {
                        *v = factor * p * (*v - mean);
                    }
                }
            },
        );
    }

    /// The change in an example's O, from those in its Q, K and V.
    fn along<T: Scalar>(&self, [qkv, p]: [&[T]; 2], t_qkv: &[T], t_o: &mut [T], work: &mut [T]) {
        let (length, rows) = (self.length, self.rows());
        let (t_p, own) = work.split_at_mut(length * length);
        for (h, p) in p.chunks_exact(length * length).enumerate() {
            let ([q, k, v], [t_q, t_k, t_v]) = (self.head(qkv, h), self.head(t_qkv, h));
            T::matmul(Write::Set(&mut *t_p), t_k.t(), q);
            T::matmul(Write::Add(&mut *t_p), k.t(), t_q);
            self.through_softmax(p, t_p);
            T::matmul(Write::Set(&mut *own), t_v, Matrix::new(p, length, length));
            T::matmul(Write::Add(&mut *own), v, Matrix::new(t_p, length, length));
            put(own, rows, t_o, self.dim, h * rows);
        }
    }
}

/// The parts of a parameter vector; a missing bias is empty.
struct Parts<'a, T> {
    into: Matrix<'a, T>,
    in_bias: &'a [T],
    out: Matrix<'a, T>,
    out_bias: &'a [T],
}

/// Rows of a matrix, without a copy.
fn rows_of<T>(matrix: Matrix<'_, T>, rows: Range<usize>) -> Matrix<'_, T> {
    matrix.t().column_range(rows).t()
}

/// Writes `from`, a matrix of `rows` rows, to the rows of `to` from `first` on.
fn put<T: Copy>(from: &[T], rows: usize, to: &mut [T], all_rows: usize, first: usize) {
    let columns = to.chunks_exact_mut(all_rows);
    for (to, from) in columns.zip(from.chunks_exact(rows)) {
        to[first..first + rows].copy_from_slice(from);
    }
}

/// The examples `range` of an array with `size` values each.
fn part<'a, T>(all: &'a [T], range: &Range<usize>, size: usize) -> &'a [T] {
    &all[range.start * size..range.end * size]
}

impl<T: Scalar> Layer<T> for Attention {
    fn input_shape(&self) -> Shape {
        [self.dim, self.length].into()
    }

    fn output_shape(&self) -> Shape {
        [self.dim, self.length].into()
    }

    fn parameters(&self) -> Vec<ParameterGroup> {
        let dim = self.dim;
        let groups = [
            ParameterGroup::new("in_weights", [3 * dim, dim]).decaying(),
            ParameterGroup::new("in_bias", [3 * dim]),
            ParameterGroup::new("out_weights", [dim, dim]).decaying(),
            ParameterGroup::new("out_bias", [dim]),
        ];
        let kept = |group: &ParameterGroup| self.bias || group.decays;
        ParameterGroup::tile(groups.into_iter().filter(kept))
    }

    fn initialize(&self, parameters: &mut [T], rng: &mut dyn Rng) {
        let [into, in_bias, out, _] = self.lengths();
        parameters.fill(T::zero());
        let own = &mut parameters[..into];
        self.weights.fill(own, 3 * self.dim, self.dim, rng);
        let own = &mut parameters[into + in_bias..][..out];
        self.weights.fill(own, self.dim, self.dim, rng);
    }

    fn scratch(&self, batch: usize) -> Scratch {
        let tape = self.size().saturating_mul(4).saturating_add(self.scores());
        let work = tape.saturating_add(self.own_work());
        Scratch::new(tape.saturating_mul(batch), work.saturating_mul(batch))
    }

    fn cost(&self) -> Option<usize> {
        let each = self.dim.saturating_mul(4).saturating_add(2 * self.length);
        Some(each.saturating_mul(self.size()))
    }

    fn forward(
        &self,
        context: &Context<'_>,
        parameters: &[T],
        input: &[T],
        output: &mut [T],
        tape: Option<&mut [T]>,
        work: &mut [T],
    ) {
        let (dim, size, length) = (self.dim, self.size(), self.length);
        let n = input.len() / size;
        let own = self.own_work();
        let (work, rest) = work.split_at_mut(own * n);
        let tape = tape.unwrap_or(&mut rest[..(4 * size + self.scores()) * n]);
        let (qkv, rest) = tape.split_at_mut(3 * size * n);
        let (p, o) = rest.split_at_mut(self.scores() * n);
        let parts = self.parts(parameters);
        let data = (
            (Columns::new(output, size), Columns::new(qkv, 3 * size)),
            (
                Columns::new(p, self.scores()),
                Columns::new(o, size),
                Columns::new(work, own),
            ),
        );
        let cost = Layer::<T>::cost(self).unwrap_or(0);
        let execution = context.execution;
        execution.for_each_block(n, cost, data, |range, ((output, qkv), (p, o, work))| {
            let columns = length * range.len();
            let z = Matrix::new(part(input, &range, size), dim, columns);
            T::matmul(Write::Set(&mut *qkv.values), parts.into, z);
            if self.bias {
                add_to_columns(qkv.values, parts.in_bias);
            }
            let examples = qkv.values.chunks_exact(3 * size);
            let results = p.values.chunks_exact_mut(self.scores());
            let results = results.zip(o.values.chunks_exact_mut(size));
            let memory = work.values.chunks_exact_mut(own);
            for ((qkv, (p, o)), work) in examples.zip(results).zip(memory) {
                self.attend(qkv, p, o, work);
            }
            let o = Matrix::new(o.values, dim, columns);
            T::matmul(Write::Set(&mut *output.values), parts.out, o);
            if self.bias {
                add_to_columns(output.values, parts.out_bias);
            }
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
        if d_input.is_skip() && d_parameters.is_skip() {
            return;
        }
        let (dim, size, length) = (self.dim, self.size(), self.length);
        let n = at.input.len() / size;
        let [qkv, p, o] = self.arrays(at.tape, n);
        let parts = self.parts(at.parameters);
        let (d_o, rest) = work.split_at_mut(size * n);
        let (d_qkv, rest) = rest.split_at_mut(3 * size * n);
        let own = self.own_work();
        let data = (
            WriteColumns::new(d_input, size),
            Columns::new(d_o, size),
            Columns::new(&mut *d_qkv, 3 * size),
            Columns::new(&mut rest[..own * n], own),
        );
        let cost = Layer::<T>::cost(self).unwrap_or(0).saturating_mul(2);
        let execution = at.context.execution;
        execution.for_each_block(n, cost, data, |range, (d_input, d_o, d_qkv, work)| {
            let columns = length * range.len();
            let g = Matrix::new(part(cotangent, &range, size), dim, columns);
            T::matmul(Write::Set(&mut *d_o.values), parts.out.t(), g);
            let qkv = part(qkv, &range, 3 * size).chunks_exact(3 * size);
            let p = part(p, &range, self.scores()).chunks_exact(self.scores());
            let given = qkv.zip(p).zip(d_o.values.chunks_exact(size));
            let made = d_qkv.values.chunks_exact_mut(3 * size);
            let made = made.zip(work.values.chunks_exact_mut(own));
            for (((qkv, p), d_o), (d_qkv, work)) in given.zip(made) {
                self.back([qkv, p], d_o, d_qkv, work);
            }
            let d_qkv = Matrix::new(d_qkv.values, 3 * dim, columns);
            T::matmul(d_input.write, parts.into.t(), d_qkv);
        });
        if d_parameters.is_skip() {
            return;
        }
        let [a, b, c, d] = self.lengths();
        let matrix = |values, rows| Matrix::new(values, rows, length * n);
        let (g, z) = (matrix(&*d_qkv, 3 * dim), matrix(at.input, dim));
        sum_outer_products(execution, d_parameters.part(0..a), g, z);
        let (g, z) = (matrix(cotangent, dim), matrix(o, dim));
        let of_out = d_parameters.part(a + b..a + b + c);
        sum_outer_products(execution, of_out, g, z);
        if self.bias {
            row_sums(d_parameters.part(a..a + b), d_qkv);
            row_sums(d_parameters.part(a + b + c..a + b + c + d), cotangent);
        }
    }

    fn jvp(
        &self,
        at: &Point<'_, T>,
        v_input: Option<&[T]>,
        v_parameters: Option<&[T]>,
        tangent: &mut [T],
        work: &mut [T],
    ) {
        let (dim, size, length) = (self.dim, self.size(), self.length);
        let n = at.input.len() / size;
        let [qkv, p, o] = self.arrays(at.tape, n);
        let (parts, v_parts) = (
            self.parts(at.parameters),
            v_parameters.map(|v| self.parts(v)),
        );
        let (t_o, rest) = work.split_at_mut(size * n);
        let (t_qkv, rest) = rest.split_at_mut(3 * size * n);
        let own = self.own_work();
        let data = (
            Columns::new(tangent, size),
            Columns::new(t_o, size),
            Columns::new(t_qkv, 3 * size),
            Columns::new(&mut rest[..own * n], own),
        );
        let cost = Layer::<T>::cost(self).unwrap_or(0).saturating_mul(2);
        let execution = at.context.execution;
        execution.for_each_block(n, cost, data, |range, (tangent, t_o, t_qkv, work)| {
            let of = |values| Matrix::new(part(values, &range, size), dim, length * range.len());
            // W v + V z + v_b for the direction v in z and V, v_b in the parameters, then the same
            // for the output.
            start(t_qkv.values, v_parts.as_ref().map(|v| v.in_bias));
            if let Some(v) = v_input {
                T::matmul(Write::Add(&mut *t_qkv.values), parts.into, of(v));
            }
            if let Some(v) = &v_parts {
                T::matmul(Write::Add(&mut *t_qkv.values), v.into, of(at.input));
            }
            let qkv = part(qkv, &range, 3 * size).chunks_exact(3 * size);
            let p = part(p, &range, self.scores()).chunks_exact(self.scores());
            let given = qkv.zip(p).zip(t_qkv.values.chunks_exact(3 * size));
            let made = t_o.values.chunks_exact_mut(size);
            let made = made.zip(work.values.chunks_exact_mut(own));
            for (((qkv, p), t_qkv), (t_o, work)) in given.zip(made) {
                self.along([qkv, p], t_qkv, t_o, work);
            }
            start(tangent.values, v_parts.as_ref().map(|v| v.out_bias));
            let t_o = Matrix::new(t_o.values, dim, length * range.len());
            T::matmul(Write::Add(&mut *tangent.values), parts.out, t_o);
            if let Some(v) = &v_parts {
                T::matmul(Write::Add(tangent.values), v.out, of(o));
            }
        });
    }

    fn description(&self) -> Option<Description> {
        let own = Description::new("Attention")
            .with("dim", self.dim)
            .with("length", self.length)
            .with("heads", self.heads)
            .with("causal", self.causal)
            .with("bias", self.bias);
        Some(own.with("weights", self.weights.description()))
    }
}

/// Every column ← the direction of a bias, or 0 if there is none.
fn start<T: Scalar>(values: &mut [T], bias: Option<&[T]>) {
    match bias.filter(|bias| !bias.is_empty()) {
        Some(bias) => fill_columns(values, bias),
        None => values.fill(T::zero()),
    }
}

/// `out` ← G Zᵀ, the sum of the outer products of the columns of G and Z, in parallel.
fn sum_outer_products<T: Scalar>(
    execution: Execution,
    out: Write<'_, T>,
    g: Matrix<'_, T>,
    z: Matrix<'_, T>,
) {
    // The columns of G Zᵀ are rows of Z, not examples.
    let cost = g.rows() * g.columns();
    let data = WriteColumns::new(out, g.rows());
    execution.for_each_block(z.rows(), cost, data, |range, part| {
        T::matmul(part.write, g, z.t().column_range(range));
    });
}
