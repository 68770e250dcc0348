//! The input of a convolution: neighbours of a sequence.

use layerwise::layer::{Shape, Unfold};

/// Neighbouring pairs of a sequence, which starts and ends with a zero outside it.
#[derive(Debug, Clone, Copy)]
pub struct Pairs(pub usize);

impl Unfold for Pairs {
    fn input_shape(&self) -> Shape {
        self.0.into()
    }

    fn patch_len(&self) -> usize {
        2
    }

    fn positions(&self) -> Shape {
        (self.0 + 1).into()
    }

    fn source(&self, entry: usize, position: usize) -> Option<usize> {
        let place = (position + entry).checked_sub(1)?;
        (place < self.0).then_some(place)
    }
}
