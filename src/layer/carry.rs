//! A skip across decoupled units: the state carries a second part past the layers in between.
//!
//! A circuit is a chain, so a value that is needed later must be part of every target in between.
//! [`Branch`] makes the pair (z, z), [`Carry`] applies a layer to the first part, and [`Merge`] adds
//! the parts. The pair is stored flat, the first part first.

use std::sync::Arc;

use rand::Rng;

use super::{
    Context, Layer, ParameterGroup, Point, Scratch, Shape, bound_of_norm, check_dimension, validate,
};
use crate::check::finite;
use crate::description::Description;
use crate::error::Error;
use crate::kernel::{Scalar, Write};

/// The start of a skip across units, ẑ = (z, z): 2 · dim values, stored flat.
///
/// The next layers change the first part ([`Carry`]), and a [`Merge`] adds the second to it. Every
/// auxiliary target in between holds both parts, so the circuit is still a chain of local problems,
/// and every scheme still works. The second part is a target like any other: it may move.
///
/// There are no parameters. ‖∂ẑ/∂z‖² = 2.
///
/// # Examples
/// ẑ = z + g₂(g₁(z)), where g₁ and g₂ are separate units:
/// ```
/// use layerwise::layer::{Branch, Carry, Merge};
/// use layerwise::prelude::*;
///
/// let circuit = Circuit::<f64>::builder()
///     .layer(Sequential::new(vec![
///         Box::new(Branch::new(4)?),
///         Box::new(Carry::new(Dense::new(4, 6, Activation::Tanh)?, 4)?),
///     ])?)
///     .layer(Sequential::new(vec![
///         Box::new(Carry::new(Dense::new(6, 4, Activation::Identity)?, 4)?),
///         Box::new(Merge::new(4)?),
///     ])?)
///     .layer(Dense::new(4, 1, Activation::Identity)?)
///     .build()?;
/// // The target between the two units holds both parts.
/// assert_eq!(circuit.layer(1).input_dim(), 6 + 4);
///
/// let mut model = DecoupledCircuit::new(circuit, Energy::default())?;
/// let x = DMatrix::from_fn(4, 20, |row, i| ((3 * i + 5 * row) % 7) as f64 / 7.0 - 0.4);
/// let y = DMatrix::from_fn(1, 20, |_, i| x[(0, i)] * x[(1, i)]);
/// model.add_examples(&x, &y, &TargetInit::ForwardPass)?;
/// let phase = Phase::new(Decoupling::refreshed(ReverseSweep::new(1)), Adam::new(1e-2)?);
/// Trainer::new(phase.with_epochs(5)).run(&mut model)?;
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Branch {
    dim: usize,
}

impl Branch {
    /// A layer that duplicates `dim` values.
    ///
    /// # Errors
    /// [`Error::ZeroDimension`].
    pub fn new(dim: usize) -> Result<Self, Error> {
        check_dimension("the dimension of a branch", dim)?;
        Ok(Self { dim })
    }

    pub(crate) fn described(own: &Description) -> Result<Self, Error> {
        Self::new(own.count("dim")?)
    }

    /// `pairs` ← (z, z) for every example.
    fn double<T: Scalar>(&self, z: &[T], pairs: &mut [T]) {
        for (z, pair) in z
            .chunks_exact(self.dim)
            .zip(pairs.chunks_exact_mut(2 * self.dim))
        {
            let (first, second) = pair.split_at_mut(self.dim);
            first.copy_from_slice(z);
            second.copy_from_slice(z);
        }
    }
}

impl<T: Scalar> Layer<T> for Branch {
    fn input_shape(&self) -> Shape {
        self.dim.into()
    }

    fn output_shape(&self) -> Shape {
        self.dim.saturating_mul(2).into()
    }

    fn parameters(&self) -> Vec<ParameterGroup> {
        Vec::new()
    }

    fn initialize(&self, _parameters: &mut [T], _rng: &mut dyn Rng) {}

    fn scratch(&self, _batch: usize) -> Scratch {
        Scratch::NONE
    }

    fn cost(&self) -> Option<usize> {
        Some(self.dim)
    }

    fn forward(
        &self,
        _context: &Context<'_>,
        _parameters: &[T],
        input: &[T],
        output: &mut [T],
        _tape: Option<&mut [T]>,
        _work: &mut [T],
    ) {
        self.double(input, output);
    }

    fn vjp(
        &self,
        _at: &Point<'_, T>,
        cotangent: &[T],
        mut d_input: Write<'_, T>,
        _d_parameters: Write<'_, T>,
        _work: &mut [T],
    ) {
        let dim = self.dim;
        for (k, pair) in cotangent.chunks_exact(2 * dim).enumerate() {
            let (first, second) = pair.split_at(dim);
            let own = d_input.part(k * dim..(k + 1) * dim);
            own.each(|j| first[j] + second[j]);
        }
    }

    fn jvp(
        &self,
        _at: &Point<'_, T>,
        v_input: Option<&[T]>,
        _v_parameters: Option<&[T]>,
        tangent: &mut [T],
        _work: &mut [T],
    ) {
        match v_input {
            Some(v) => self.double(v, tangent),
            None => tangent.fill(T::zero()),
        }
    }

    /// 2.
    fn curvature_bound(&self, _parameters: &[T], _work: &mut [T]) -> Option<T> {
        Some(T::of(2.0))
    }

    fn description(&self) -> Option<Description> {
        Some(Description::new("Branch").with("dim", self.dim))
    }
}

/// A layer g beside a skip: ẑ = (g(h), s) for the input z = (h, s), both stored flat.
///
/// See [`Branch`], which makes the pair, and [`Merge`], which ends it. The carried part s may have any
/// size.
///
/// Parameters: those of g, under the same names. With ‖∂g/∂h‖² ≤ b, ‖∂ẑ/∂z‖² is at most max(b, 1).
#[derive(Debug, Clone)]
pub struct Carry<T: Scalar> {
    layer: Arc<dyn Layer<T>>,
    carried: usize,
    /// The numbers of values of h and of g(h) for one example. They are stored because every use needs both:
    /// otherwise the innermost of k nested layers would be queried 2ᵏ times.
    dims: (usize, usize),
}

impl<T: Scalar> Carry<T> {
    /// `layer` beside `carried` values that pass through unchanged.
    ///
    /// # Errors
    /// [`Error::InputNotDifferentiable`] (layer 0 of the unit) for a layer such as an embedding,
    /// [`Error::ZeroDimension`], or [`Error::ParameterLayout`].
    pub fn new(layer: impl Layer<T> + 'static, carried: usize) -> Result<Self, Error> {
        Self::of(Arc::new(layer), carried)
    }

    pub(crate) fn of(layer: Arc<dyn Layer<T>>, carried: usize) -> Result<Self, Error> {
        validate(layer.as_ref(), 0)?;
        check_dimension("the number of carried values", carried)?;
        if !layer.input_differentiable() {
            return Err(Error::InputNotDifferentiable { layer: 0 });
        }
        let dims = (layer.input_dim(), layer.output_dim());
        Ok(Self {
            layer,
            carried,
            dims,
        })
    }

    pub(crate) fn described(own: &Description, layer: Arc<dyn Layer<T>>) -> Result<Self, Error> {
        Self::of(layer, own.count("carried")?)
    }

    /// The numbers of values in all h and in all g(h) of a batch with this input.
    fn lengths(&self, input: &[T]) -> (usize, usize) {
        let (dim, out) = self.dims;
        let n = input.len() / (dim + self.carried);
        (dim * n, out * n)
    }

    /// The point of g: the tape begins with h and g(h).
    fn point<'a>(&self, at: &Point<'a, T>) -> Point<'a, T> {
        let (inputs, outputs) = self.lengths(at.input);
        let (h, rest) = at.tape.split_at(inputs);
        let (g, tape) = rest.split_at(outputs);
        Point::new(at.context, at.parameters, h, g, tape)
    }

    /// `first` ← the first parts, of `dim` values each, of the pairs.
    fn separate(&self, pairs: &[T], dim: usize, first: &mut [T]) {
        let pairs = pairs.chunks_exact(dim + self.carried);
        for (pair, first) in pairs.zip(first.chunks_exact_mut(dim)) {
            first.copy_from_slice(&pair[..dim]);
        }
    }

    /// `pairs` ← (g, s), with the second parts s of the pairs `others`, or 0 if there are none.
    fn join(&self, g: &[T], others: Option<&[T]>, pairs: &mut [T]) {
        let ((dim, out), carried) = (self.dims, self.carried);
        let parts = pairs
            .chunks_exact_mut(out + carried)
            .zip(g.chunks_exact(out));
        for (k, (pair, g)) in parts.enumerate() {
            let (first, second) = pair.split_at_mut(out);
            first.copy_from_slice(g);
            match others {
                Some(others) => {
                    let end = (k + 1) * (dim + carried);
                    second.copy_from_slice(&others[end - carried..end]);
                }
                None => second.fill(T::zero()),
            }
        }
    }
}

impl<T: Scalar> Layer<T> for Carry<T> {
    fn input_shape(&self) -> Shape {
        self.dims.0.saturating_add(self.carried).into()
    }

    fn output_shape(&self) -> Shape {
        self.dims.1.saturating_add(self.carried).into()
    }

    fn parameters(&self) -> Vec<ParameterGroup> {
        self.layer.parameters()
    }

    fn initialize(&self, parameters: &mut [T], rng: &mut dyn Rng) {
        self.layer.initialize(parameters, rng);
    }

    fn scratch(&self, batch: usize) -> Scratch {
        let ((dim, out), own) = (self.dims, self.layer.scratch(batch));
        let values = dim.saturating_add(out).saturating_mul(batch);
        let (tape, work) = (
            own.tape.saturating_add(values),
            own.work.saturating_add(values),
        );
        Scratch::new(tape, work).with_bound(own.bound)
    }

    fn cost(&self) -> Option<usize> {
        Some(self.layer.cost()?.saturating_add(self.carried))
    }

    fn check_input(&self, input: &[T]) -> Result<(), Error> {
        let dim = self.dims.0;
        let pairs = input.chunks_exact(dim + self.carried);
        let h: Vec<T> = pairs.flat_map(|pair| &pair[..dim]).copied().collect();
        self.layer.check_input(&h)
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
        let (inputs, outputs) = self.lengths(input);
        let (own, tape, work) = match tape {
            Some(tape) => {
                let (own, tape) = tape.split_at_mut(inputs + outputs);
                (own, Some(tape), work)
            }
            None => {
                let (own, work) = work.split_at_mut(inputs + outputs);
                (own, None, work)
            }
        };
        let (h, g) = own.split_at_mut(inputs);
        self.separate(input, self.dims.0, h);
        self.layer.forward(context, parameters, h, g, tape, work);
        self.join(g, Some(input), output);
    }

    fn vjp(
        &self,
        at: &Point<'_, T>,
        cotangent: &[T],
        mut d_input: Write<'_, T>,
        d_parameters: Write<'_, T>,
        work: &mut [T],
    ) {
        if d_input.is_skip() && d_parameters.is_skip() {
            return;
        }
        let ((dim, out), carried) = (self.dims, self.carried);
        let (inputs, outputs) = self.lengths(at.input);
        let (u, work) = work.split_at_mut(outputs);
        let (d_h, work) = work.split_at_mut(inputs);
        self.separate(cotangent, out, u);
        let of_layer = match d_input {
            Write::Skip => Write::Skip,
            _ => Write::Set(&mut *d_h),
        };
        self.layer
            .vjp(&self.point(at), u, of_layer, d_parameters, work);
        for (k, pair) in cotangent.chunks_exact(out + carried).enumerate() {
            let mut own = d_input.part(k * (dim + carried)..(k + 1) * (dim + carried));
            own.part(0..dim).each(|j| d_h[k * dim + j]);
            own.part(dim..dim + carried).each(|j| pair[out + j]);
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
        let (inputs, outputs) = self.lengths(at.input);
        let (v, work) = work.split_at_mut(inputs);
        let (t, work) = work.split_at_mut(outputs);
        let v = v_input.map(|pairs| {
            self.separate(pairs, self.dims.0, v);
            &*v
        });
        self.layer.jvp(&self.point(at), v, v_parameters, t, work);
        self.join(t, v_input, tangent);
    }

    /// max(b, 1) for the bound b of the layer.
    fn curvature_bound(&self, parameters: &[T], work: &mut [T]) -> Option<T> {
        Some(self.layer.curvature_bound(parameters, work)?.max(T::one()))
    }

    fn description(&self) -> Option<Description> {
        let own = Description::new("Carry").with("layer", self.layer.description()?);
        Some(own.with("carried", self.carried))
    }
}

/// The end of a skip across units, ẑ = c s + a h for the input z = (h, s), both of dim values, with
/// fixed factors (1 and 1 by default). See [`Branch`].
///
/// There are no parameters. ‖∂ẑ/∂z‖² = a² + c².
#[derive(Debug, Clone, PartialEq)]
pub struct Merge {
    dim: usize,
    branch: f64,
    skip: f64,
}

impl Merge {
    /// A layer that adds the two halves of 2 · `dim` values.
    ///
    /// # Errors
    /// [`Error::ZeroDimension`].
    pub fn new(dim: usize) -> Result<Self, Error> {
        check_dimension("the dimension of a merge", dim)?;
        let (branch, skip) = (1.0, 1.0);
        Ok(Self { dim, branch, skip })
    }

    /// Sets a, the factor of h.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless it is finite.
    pub fn with_branch_scale(mut self, a: f64) -> Result<Self, Error> {
        self.branch = finite("Merge::branch_scale", a)?;
        Ok(self)
    }

    /// Sets c, the factor of s.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless it is finite.
    pub fn with_skip_scale(mut self, c: f64) -> Result<Self, Error> {
        self.skip = finite("Merge::skip_scale", c)?;
        Ok(self)
    }

    pub(crate) fn described(own: &Description) -> Result<Self, Error> {
        Self::new(own.count("dim")?)?
            .with_branch_scale(own.number("branch scale")?)?
            .with_skip_scale(own.number("skip scale")?)
    }

    /// (a, c).
    fn factors<T: Scalar>(&self) -> (T, T) {
        (T::of(self.branch), T::of(self.skip))
    }

    /// `sums` ← c s + a h for every pair (h, s).
    fn add<T: Scalar>(&self, pairs: &[T], sums: &mut [T]) {
        let (a, c) = self.factors::<T>();
        let pairs = pairs.chunks_exact(2 * self.dim);
        for (sum, pair) in sums.chunks_exact_mut(self.dim).zip(pairs) {
            let (h, s) = pair.split_at(self.dim);
            Write::Set(sum).each(|j| c * s[j] + a * h[j]);
        }
    }
}

impl<T: Scalar> Layer<T> for Merge {
    fn input_shape(&self) -> Shape {
        self.dim.saturating_mul(2).into()
    }

    fn output_shape(&self) -> Shape {
        self.dim.into()
    }

    fn parameters(&self) -> Vec<ParameterGroup> {
        Vec::new()
    }

    fn initialize(&self, _parameters: &mut [T], _rng: &mut dyn Rng) {}

    fn scratch(&self, _batch: usize) -> Scratch {
        Scratch::NONE
    }

    fn cost(&self) -> Option<usize> {
        Some(self.dim.saturating_mul(2))
    }

    fn forward(
        &self,
        _context: &Context<'_>,
        _parameters: &[T],
        input: &[T],
        output: &mut [T],
        _tape: Option<&mut [T]>,
        _work: &mut [T],
    ) {
        self.add(input, output);
    }

    fn vjp(
        &self,
        _at: &Point<'_, T>,
        cotangent: &[T],
        mut d_input: Write<'_, T>,
        _d_parameters: Write<'_, T>,
        _work: &mut [T],
    ) {
        let ((a, c), dim) = (self.factors::<T>(), self.dim);
        for (k, u) in cotangent.chunks_exact(dim).enumerate() {
            let mut pair = d_input.part(2 * k * dim..2 * (k + 1) * dim);
            pair.part(0..dim).each(|j| a * u[j]);
            pair.part(dim..2 * dim).each(|j| c * u[j]);
        }
    }

    fn jvp(
        &self,
        _at: &Point<'_, T>,
        v_input: Option<&[T]>,
        _v_parameters: Option<&[T]>,
        tangent: &mut [T],
        _work: &mut [T],
    ) {
        match v_input {
            Some(v) => self.add(v, tangent),
            None => tangent.fill(T::zero()),
        }
    }

    /// a² + c².
    fn curvature_bound(&self, _parameters: &[T], _work: &mut [T]) -> Option<T> {
        Some(bound_of_norm(T::of(self.branch.hypot(self.skip))))
    }

    fn description(&self) -> Option<Description> {
        let own = Description::new("Merge").with("dim", self.dim);
        Some(
            own.with("branch scale", self.branch)
                .with("skip scale", self.skip),
        )
    }
}
