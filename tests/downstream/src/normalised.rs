//! A direction for the crate's own loop.

use layerwise::state::State;
use layerwise::target_solver::{Descent, TargetProblem, Trial, Verdict};
use layerwise::{Error, Scalar};

/// Steps of one length in every layer, along the normalised gradient; the state counts them.
#[derive(Debug, Clone, Copy)]
pub struct Normalised(pub f64);

impl<T: Scalar> Descent<T> for Normalised {
    fn begin(&self, state: &mut State<T>, _: &mut TargetProblem<'_, T>) -> Result<(), Error> {
        state.counts.resize(1, 0);
        Ok(())
    }

    fn step(
        &self,
        _: &mut State<T>,
        problem: &mut TargetProblem<'_, T>,
        trial: &mut Trial<T>,
    ) -> Result<(), Error> {
        for t in 1..problem.layers().depth() {
            trial.for_each(t, problem, |share, z, gradient| {
                let norm = gradient
                    .iter()
                    .fold(T::zero(), |sum, &g| sum + g * g)
                    .sqrt();
                if norm > T::zero() {
                    let step = T::of(self.0) * share / norm;
                    z.iter_mut()
                        .zip(gradient)
                        .for_each(|(z, &g)| *z -= step * g);
                }
            });
        }
        Ok(())
    }

    fn judged(&self, state: &mut State<T>, verdicts: &[Verdict]) {
        state.counts[0] += verdicts.len() as u64;
    }
}
