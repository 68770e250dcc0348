//! Checks that a run moves what it should.

use crate::kernel::Scalar;

/// What a phase knows of the motion of one θ_t, or of the z_t of all examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Motion {
    /// Whether a value changed in this epoch, and whether something should have changed one.
    pub(super) moved: bool,
    pub(super) pulled: bool,
    /// Whether a value changed in an earlier epoch of the phase.
    moved_before: bool,
}

impl Motion {
    pub(super) fn begin_epoch(&mut self) {
        self.moved_before = self.has_moved();
        (self.moved, self.pulled) = (false, false);
    }

    /// Whether a value has changed in the phase.
    pub(super) fn has_moved(self) -> bool {
        self.moved || self.moved_before
    }

    /// Whether no value has changed in the phase, although it should. (What has moved may have
    /// converged as far as rounding allows.)
    pub(super) fn is_frozen(self) -> bool {
        self.pulled && !self.has_moved()
    }
}

/// The largest max |∂E/∂z_t| / max |z_t| of an example, without its weight: with a curvature h, a
/// step of 1/h changes a value by this fraction divided by h.
pub(super) fn pull<T: Scalar>(dim: usize, z: &[T], gradient: &[T], weights: &[T]) -> f64 {
    let top = |values: &[T]| values.iter().fold(T::zero(), |top, v| top.max(v.abs()));
    let pairs = z.chunks_exact(dim).zip(gradient.chunks_exact(dim));
    let shares = pairs.enumerate().map(|(i, (z, gradient))| {
        let weight = weights.get(i).map_or(1.0, |w| w.as_f64());
        let (size, slope) = (top(z).as_f64(), top(gradient).as_f64());
        match slope == 0.0 || weight == 0.0 {
            true => 0.0,
            false => slope / weight / size,
        }
    });
    shares.fold(0.0, f64::max)
}
