//! A skip connection within one unit.

use std::sync::Arc;

use rand::Rng;

use super::{Context, Layer, ParameterGroup, Point, Scratch, Shape, bound_of_norm, validate};
use crate::check::finite;
use crate::description::Description;
use crate::error::Error;
use crate::kernel::{Scalar, Write, scale};

/// ẑ = c z + s g(z) around a layer g, its *branch*, with fixed factors c and s (1 and 1 by default).
///
/// It is a single decoupled unit: the branch has no auxiliary targets of its own, even if it is a
/// [`Sequential`](super::Sequential) of several layers. A skip across units is built from
/// [`Branch`](super::Branch), [`Carry`](super::Carry) and [`Merge`](super::Merge).
///
/// Parameters: those of the branch, under the same names. With ‖∂g/∂z‖² ≤ b, ‖∂ẑ/∂z‖² is at most
/// (|c| + |s| √b)². In a deep circuit of L such layers, s = 1/√L keeps the size of z about constant
/// at initialisation. He, Zhang, Ren & Sun 2016.
///
/// # Examples
/// ```
/// use layerwise::layer::{Activation, Dense, LayerNorm, Residual, Sequential};
/// use layerwise::{Circuit, Layer};
///
/// let branch = Sequential::new(vec![
///     Box::new(LayerNorm::new(8)?),
///     Box::new(Dense::new(8, 16, Activation::Gelu)?),
///     Box::new(Dense::new(16, 8, Activation::Identity)?),
/// ])?;
/// let layer: Residual<f32> = Residual::new(branch)?.with_branch_scale(0.5)?;
/// assert_eq!(layer.parameters()[2].name, "1.weights");
/// let circuit = Circuit::builder().layer(layer).build()?;
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Residual<T: Scalar> {
    branch: Arc<dyn Layer<T>>,
    skip: f64,
    scale: f64,
}

impl<T: Scalar> Residual<T> {
    /// z + g(z) with the branch g.
    ///
    /// # Errors
    /// [`Error::BranchShape`] unless the branch's outputs have the shape of its inputs,
    /// [`Error::InputNotDifferentiable`] (layer 0 of the unit) for a branch such as an embedding,
    /// [`Error::ZeroDimension`], or [`Error::ParameterLayout`].
    pub fn new(branch: impl Layer<T> + 'static) -> Result<Self, Error> {
        Self::of(Arc::new(branch))
    }

    fn of(branch: Arc<dyn Layer<T>>) -> Result<Self, Error> {
        validate(branch.as_ref(), 0)?;
        if !branch.input_differentiable() {
            return Err(Error::InputNotDifferentiable { layer: 0 });
        }
        let (input, output) = (branch.input_shape(), branch.output_shape());
        if input != output {
            return Err(Error::BranchShape {
                input: input.extents().to_vec(),
                output: output.extents().to_vec(),
            });
        }
        Ok(Self {
            branch,
            skip: 1.0,
            scale: 1.0,
        })
    }

    /// Sets s, the factor of g(z).
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless it is finite.
    pub fn with_branch_scale(mut self, s: f64) -> Result<Self, Error> {
        self.scale = finite("Residual::branch_scale", s)?;
        Ok(self)
    }

    /// Sets c, the factor of z.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless it is finite.
    pub fn with_skip_scale(mut self, c: f64) -> Result<Self, Error> {
        self.skip = finite("Residual::skip_scale", c)?;
        Ok(self)
    }

    pub(crate) fn described(own: &Description, branch: Arc<dyn Layer<T>>) -> Result<Self, Error> {
        Self::of(branch)?
            .with_branch_scale(own.number("branch scale")?)?
            .with_skip_scale(own.number("skip scale")?)
    }

    /// (c, s).
    fn factors(&self) -> (T, T) {
        (T::of(self.skip), T::of(self.scale))
    }

    /// The point of the branch: g(z) is the first part of the tape.
    fn point<'a>(&self, at: &Point<'a, T>) -> Point<'a, T> {
        let (output, tape) = at.tape.split_at(at.input.len());
        Point::new(at.context, at.parameters, at.input, output, tape)
    }
}

impl<T: Scalar> Layer<T> for Residual<T> {
    fn input_shape(&self) -> Shape {
        self.branch.input_shape()
    }

    fn output_shape(&self) -> Shape {
        self.branch.input_shape()
    }

    fn parameters(&self) -> Vec<ParameterGroup> {
        self.branch.parameters()
    }

    fn initialize(&self, parameters: &mut [T], rng: &mut dyn Rng) {
        self.branch.initialize(parameters, rng);
    }

    fn scratch(&self, batch: usize) -> Scratch {
        let (own, values) = (
            self.branch.scratch(batch),
            self.branch.input_dim().saturating_mul(batch),
        );
        let (tape, work) = (
            own.tape.saturating_add(values),
            own.work.saturating_add(values),
        );
        Scratch::new(tape, work).with_bound(own.bound)
    }

    fn cost(&self) -> Option<usize> {
        let cost = self.branch.cost()?;
        Some(cost.saturating_add(self.branch.input_dim()))
    }

    fn check_input(&self, input: &[T]) -> Result<(), Error> {
        self.branch.check_input(input)
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
        let (kept, tape) = match tape {
            Some(tape) => {
                let (kept, tape) = tape.split_at_mut(output.len());
                (Some(kept), Some(tape))
            }
            None => (None, None),
        };
        self.branch
            .forward(context, parameters, input, output, tape, work);
        if let Some(kept) = kept {
            kept.copy_from_slice(output);
        }
        let (c, s) = self.factors();
        for (out, &z) in output.iter_mut().zip(input) {
            *out = c * z + s * *out;
        }
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
        let (c, s) = self.factors();
        let (scaled, work) = work.split_at_mut(cotangent.len());
        scaled.copy_from_slice(cotangent);
        scale(scaled, s);
        let all = 0..d_input.len();
        let of_branch = d_input.part(all);
        self.branch
            .vjp(&self.point(at), scaled, of_branch, d_parameters, work);
        if let Write::Set(d) | Write::Add(d) = d_input {
            Write::Add(d).each(|i| c * cotangent[i]);
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
        let (c, s) = self.factors();
        self.branch
            .jvp(&self.point(at), v_input, v_parameters, tangent, work);
        scale(tangent, s);
        if let Some(v) = v_input {
            Write::Add(tangent).each(|i| c * v[i]);
        }
    }

    /// (|c| + |s| √b)², where b is the bound of the branch.
    fn curvature_bound(&self, parameters: &[T], work: &mut [T]) -> Option<T> {
        let of_branch = self.branch.curvature_bound(parameters, work)?;
        let (c, s) = self.factors();
        if s.is_zero() {
            // 0 · ∞ would be NaN.
            return Some(bound_of_norm(c));
        }
        Some(bound_of_norm(c.abs() + s.abs() * of_branch.sqrt()))
    }

    fn description(&self) -> Option<Description> {
        let own = Description::new("Residual").with("branch", self.branch.description()?);
        Some(
            own.with("branch scale", self.scale)
                .with("skip scale", self.skip),
        )
    }
}
