//! Values dropped at random in training.

use rand::Rng;

use super::{
    Context, Layer, ParameterGroup, Point, Scratch, Shape, bound_of_norm, check_dimension,
    described_shape,
};
use crate::check::below_one;
use crate::description::Description;
use crate::error::Error;
use crate::init::{GOLDEN, hash, key_of};
use crate::kernel::{Scalar, Write, WriteColumns};

/// Inverted dropout: in training every value becomes 0 with probability p, and is divided by 1 − p
/// otherwise, so that its expectation is unchanged. At inference ẑ = z.
///
/// ```math
/// ẑ_j = m_j z_j/(1 − p), \qquad m_j = 1 \text{ with probability } 1 − p, \text{ else } 0
/// ```
///
/// **When the mask changes.** The mask is a function of the circuit's seed, the layer, the example's
/// id and the number of the visit, and of nothing else ([`Context`]). So an example has one mask for
/// all evaluations of a visit (every Z-step, line search and W-step: E is the same function in all of
/// them), another one in the next visit, and the same one whatever other examples are in its batch. Layers of a
/// [`Sequential`](super::Sequential) have separate masks. Nothing is dropped in evaluations that are not part of
/// training (predictions, E and its gradients as the model returns them, the composed loss in the records), or
/// for examples without an id. Single calls of [`solve_targets`](crate::DecoupledCircuit::solve_targets) and
/// [`solve_parameters`](crate::DecoupledCircuit::solve_parameters) count as training: they use the masks of
/// visit 0.
///
/// There are no parameters. ‖∂ẑ/∂z‖² ≤ 1/(1 − p)². Inside a unit, dropout trains as usual; between
/// units, targets that are kept from visit to visit see a new mask every time. Srivastava, Hinton,
/// Krizhevsky, Sutskever & Salakhutdinov 2014.
///
/// # Examples
/// ```
/// use layerwise::layer::{Activation, Dense, Dropout, Sequential};
///
/// let unit: Sequential<f32> = Sequential::new(vec![
///     Box::new(Dense::new(8, 16, Activation::Relu)?),
///     Box::new(Dropout::new(16, 0.2)?),
/// ])?;
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Dropout {
    shape: Shape,
    rate: f64,
}

impl Dropout {
    /// A layer for values of this shape that drops each with probability p = `rate`.
    ///
    /// # Errors
    /// [`Error::ZeroDimension`], or [`Error::InvalidOption`] unless the rate is at least 0 and below 1.
    pub fn new(shape: impl Into<Shape>, rate: f64) -> Result<Self, Error> {
        let shape = shape.into();
        check_dimension("the size of a dropout layer", shape.size())?;
        let rate = below_one("Dropout::rate", rate)?;
        Ok(Self { shape, rate })
    }

    pub(crate) fn described(own: &Description) -> Result<Self, Error> {
        Self::new(described_shape(own, "shape")?, own.number("rate")?)
    }

    /// The map. It is linear and symmetric, so this also computes the products with its Jacobian.
    fn apply<T: Scalar>(&self, context: &Context<'_>, input: &[T], out: Write<'_, T>) {
        let size = self.shape.size();
        let (n, data) = (input.len() / size, WriteColumns::new(out, size));
        let kept = T::of(1.0 / (1.0 - self.rate));
        let execution = context.execution;
        execution.for_each_block(n, 8 * size, data, |range, mut out| {
            let first = range.start;
            for i in range {
                let z = &input[i * size..(i + 1) * size];
                let out = out.write.part((i - first) * size..(i - first + 1) * size);
                match context.examples.get(i).filter(|_| context.training) {
                    Some(&id) => {
                        let mask = Mask::new(context, id, self.rate);
                        out.each(|j| match mask.keeps(j) {
                            true => kept * z[j],
                            false => T::zero(),
                        });
                    }
                    None => out.each(|j| z[j]),
                }
            }
        });
    }
}

/// Which values of one example are kept in one visit.
struct Mask {
    key: u64,
    /// Of the 2⁵³ possible draws, those below it drop a value.
    dropped: u64,
}

impl Mask {
    fn new(context: &Context<'_>, example: u64, rate: f64) -> Self {
        let parts = [context.seed, context.layer as u64, context.visit, example];
        let key = key_of(parts);
        let dropped = (rate * (1_u64 << 53) as f64) as u64;
        Self { key, dropped }
    }

    fn keeps(&self, place: usize) -> bool {
        let step = (place as u64).wrapping_mul(GOLDEN);
        hash(self.key.wrapping_add(step)) >> 11 >= self.dropped
    }
}

impl<T: Scalar> Layer<T> for Dropout {
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

    fn scratch(&self, _batch: usize) -> Scratch {
        Scratch::NONE
    }

    fn cost(&self) -> Option<usize> {
        Some(self.shape.size().saturating_mul(8))
    }

    fn forward(
        &self,
        context: &Context<'_>,
        _parameters: &[T],
        input: &[T],
        output: &mut [T],
        _tape: Option<&mut [T]>,
        _work: &mut [T],
    ) {
        self.apply(context, input, Write::Set(output));
    }

    fn vjp(
        &self,
        at: &Point<'_, T>,
        cotangent: &[T],
        d_input: Write<'_, T>,
        _d_parameters: Write<'_, T>,
        _work: &mut [T],
    ) {
        if !d_input.is_skip() {
            self.apply(&at.context, cotangent, d_input);
        }
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
            Some(v) => self.apply(&at.context, v, Write::Set(tangent)),
            None => tangent.fill(T::zero()),
        }
    }

    /// 1/(1 − p)², which a mask that keeps a value attains.
    fn curvature_bound(&self, _parameters: &[T], _work: &mut [T]) -> Option<T> {
        Some(bound_of_norm(T::of(1.0 / (1.0 - self.rate))))
    }

    fn description(&self) -> Option<Description> {
        let own = Description::new("Dropout").with("shape", self.shape.extents());
        Some(own.with("rate", self.rate))
    }
}
