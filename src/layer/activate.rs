//! An activation on its own.

use rand::Rng;

use super::{
    Activation, Context, Layer, ParameterGroup, Point, Scratch, Shape, bound_of_norm,
    check_dimension, described_shape,
};
use crate::description::Description;
use crate::error::Error;
use crate::kernel::{Columns, Scalar, Write, WriteColumns, multiply, multiply_by};

/// ẑ = a(z), applied to every value, for any shape; there are no parameters.
///
/// [`Dense`](super::Dense) layers and convolutions have their own activation. Use this one before a linear
/// map inside a [`Sequential`](super::Sequential), as in the branch of a pre-activation
/// [`Residual`](super::Residual) unit. As a separate unit it would get auxiliary targets of its own, which
/// is rarely useful.
///
/// ‖∂ẑ/∂z‖² is at most sup |a′|².
///
/// # Examples
/// ```
/// use layerwise::layer::{Activate, Activation, Dense, Residual, Sequential};
///
/// let branch = Sequential::<f32>::new(vec![
///     Box::new(Activate::new(16, Activation::Relu)?),
///     Box::new(Dense::new(16, 16, Activation::Identity)?),
/// ])?;
/// let block = Residual::new(branch)?;
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Activate {
    shape: Shape,
    activation: Activation,
}

impl Activate {
    /// A layer that applies `activation` to values of this shape.
    ///
    /// # Errors
    /// [`Error::ZeroDimension`], or [`Error::InvalidOption`] for a leaky ReLU whose slope is outside
    /// 0..=1.
    pub fn new(shape: impl Into<Shape>, activation: Activation) -> Result<Self, Error> {
        let shape = shape.into();
        check_dimension("the size of an activation layer", shape.size())?;
        let activation = activation.validate()?;
        Ok(Self { shape, activation })
    }

    pub(crate) fn described(own: &Description) -> Result<Self, Error> {
        Self::new(
            described_shape(own, "shape")?,
            own.text("activation")?.parse()?,
        )
    }
}

impl<T: Scalar> Layer<T> for Activate {
    fn input_shape(&self) -> Shape {
        self.shape
    }

    fn output_shape(&self) -> Shape {
        self.shape
    }

    fn parameters(&self) -> Vec<ParameterGroup> {
        Vec::new()
    }

    fn initialize(&self, _parameters: &mut [T], _rng: &mut dyn Rng) {}

    /// The tape holds a′(z).
    fn scratch(&self, batch: usize) -> Scratch {
        Scratch::new(self.shape.size().saturating_mul(batch), 0)
    }

    fn cost(&self) -> Option<usize> {
        Some(self.shape.size().saturating_mul(8))
    }

    fn target_range(&self) -> (f64, f64) {
        self.activation.target_range()
    }

    fn forward(
        &self,
        context: &Context<'_>,
        _parameters: &[T],
        input: &[T],
        output: &mut [T],
        tape: Option<&mut [T]>,
        _work: &mut [T],
    ) {
        let size = self.shape.size();
        let n = input.len() / size;
        let kept = tape.is_some();
        let data = (
            Columns::new(output, size),
            Columns::new(tape.unwrap_or_default(), size),
        );
        context
            .execution
            .for_each_block(n, 8 * size, data, |range, (output, tape)| {
                let own = &input[range.start * size..range.end * size];
                output.values.copy_from_slice(own);
                T::activate(self.activation, output.values, kept.then_some(tape.values));
            });
    }

    fn vjp(
        &self,
        at: &Point<'_, T>,
        cotangent: &[T],
        d_input: Write<'_, T>,
        _d_parameters: Write<'_, T>,
        _work: &mut [T],
    ) {
        let size = self.shape.size();
        let (n, data) = (at.input.len() / size, WriteColumns::new(d_input, size));
        let execution = at.context.execution;
        execution.for_each_block(n, size, data, |range, d_input| {
            let own = range.start * size..range.end * size;
            let (g, slopes) = (&cotangent[own.clone()], &at.tape[own]);
            match d_input.write {
                Write::Set(d) => multiply(d, g, slopes),
                write => write.each(|i| g[i] * slopes[i]),
            }
        });
    }

    fn jvp(
        &self,
        at: &Point<'_, T>,
        v_input: Option<&[T]>,
        _v_parameters: Option<&[T]>,
        tangent: &mut [T],
        _work: &mut [T],
    ) {
        match v_input {
            Some(v) => {
                tangent.copy_from_slice(v);
                multiply_by(tangent, at.tape);
            }
            None => tangent.fill(T::zero()),
        }
    }

    /// sup |a′|².
    fn curvature_bound(&self, _parameters: &[T], _work: &mut [T]) -> Option<T> {
        Some(bound_of_norm(T::of(self.activation.lipschitz())))
    }

    fn description(&self) -> Option<Description> {
        let own = Description::new("Activate").with("shape", self.shape.extents());
        Some(own.with("activation", self.activation.to_string()))
    }
}
