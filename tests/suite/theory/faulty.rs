//! A dense layer with one fault, which breaks one of the statements.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use layerwise::kernel::Write;
use layerwise::layer::{Affine, Context, Dense, Point};
use layerwise::{Layer, Scalar};

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fault {
    None,
    /// Another output in every call.
    Drifts,
    /// A column's output depends on the number of columns.
    SeesTheBatch,
    /// Half of (∂f/∂z)ᵀ g.
    HalfVjp,
    /// A bound of ‖∂f/∂z‖² that is 100 times too small.
    SmallBound,
    /// No bound at all.
    NoBound,
    /// Leaves its first parameter where `Reads` finds it.
    Writes,
    Reads,
    /// An affine map that is not in the parameters.
    Affine(Affine),
}

/// `inner`, but for the fault.
#[derive(Debug, Clone)]
pub(crate) struct Faulty {
    pub(crate) inner: Dense,
    pub(crate) fault: Fault,
    pub(crate) shared: Arc<AtomicU64>,
}

impl Faulty {
    pub(crate) fn new(inner: Dense, fault: Fault) -> Self {
        Self {
            inner,
            fault,
            shared: Arc::default(),
        }
    }
}

impl<T: Scalar> Layer<T> for Faulty {
    described_by!(inner: T);

    fn forward(
        &self,
        context: &Context<'_>,
        parameters: &[T],
        input: &[T],
        output: &mut [T],
        tape: Option<&mut [T]>,
        work: &mut [T],
    ) {
        self.inner
            .forward(context, parameters, input, output, tape, work);
        let shift = match self.fault {
            Fault::Drifts => self.shared.fetch_add(1, Ordering::Relaxed) as f64,
            Fault::SeesTheBatch => (output.len() / self.inner.output_dim()) as f64,
            Fault::Writes => {
                let bits = parameters[0].as_f64().to_bits();
                self.shared.store(bits, Ordering::Relaxed);
                0.0
            }
            Fault::Reads => f64::from_bits(self.shared.load(Ordering::Relaxed)),
            _ => 0.0,
        };
        if shift != 0.0 {
            output.iter_mut().for_each(|z| *z += T::of(1e-3 * shift));
        }
    }

    fn vjp(
        &self,
        at: &Point<'_, T>,
        cotangent: &[T],
        d_input: Write<'_, T>,
        d_parameters: Write<'_, T>,
        work: &mut [T],
    ) {
        if self.fault != Fault::HalfVjp {
            return self.inner.vjp(at, cotangent, d_input, d_parameters, work);
        }
        self.inner
            .vjp(at, cotangent, Write::Skip, d_parameters, work);
        let mut pulled = vec![T::zero(); at.input.len()];
        self.inner
            .vjp(at, cotangent, Write::Set(&mut pulled), Write::Skip, work);
        d_input.each(|i| T::of(0.5) * pulled[i]);
    }

    fn jvp(
        &self,
        at: &Point<'_, T>,
        v_input: Option<&[T]>,
        v_parameters: Option<&[T]>,
        tangent: &mut [T],
        work: &mut [T],
    ) {
        self.inner.jvp(at, v_input, v_parameters, tangent, work);
    }

    fn curvature_bound(&self, parameters: &[T], work: &mut [T]) -> Option<T> {
        let bound = self.inner.curvature_bound(parameters, work);
        match self.fault {
            Fault::NoBound => None,
            Fault::SmallBound => bound.map(|bound: T| bound * T::of(0.01)),
            _ => bound,
        }
    }

    fn affine(&self) -> Option<Affine> {
        match &self.fault {
            Fault::Affine(affine) => Some(affine.clone()),
            _ => self.inner.affine(),
        }
    }
}
