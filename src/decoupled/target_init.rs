//! Initial auxiliary targets.

use nalgebra::DMatrix;
use rand::rngs::ChaCha8Rng;

use super::check_shape;
use super::projection::Projection;
use crate::check::{check_finite, check_length, not_negative};
use crate::circuit::Circuit;
use crate::energy::Layers;
use crate::error::{Error, Quantity};
use crate::init::{Purpose, add_noise, generator};
use crate::kernel::Scalar;

/// How the auxiliary targets z_1, …, z_{T−1} of new examples are chosen.
///
/// Random draws depend on the seed, the layer and the position of the example in the call.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum TargetInit<T: Scalar> {
    /// z_t = ẑ_t of the plain forward pass: E = L, and every hidden term is zero.
    ForwardPass,
    /// The forward pass with added noise N(0, std²).
    NoisyForwardPass {
        /// Standard deviation of the noise, ≥ 0.
        std: f64,
        /// Seed of the noise.
        seed: u64,
    },
    /// N(0, std²). These targets carry no information about the input, so layers can fit them only
    /// as noise.
    RandomNormal {
        /// Standard deviation, ≥ 0.
        std: f64,
        /// Seed of the draws.
        seed: u64,
    },
    /// A chain of random orthogonal projections of the input, scaled to each layer's range: see
    /// [`Projection`], which is fitted to the given inputs. (A single example gets the centre of
    /// each range.) For deep circuits, half the spread is better ([`Projection::with_spread`]).
    Projected {
        /// Seed of the projections.
        seed: u64,
    },
    /// z_1, …, z_{T−1} as given, each d_t × n.
    Given(Vec<DMatrix<T>>),
}

impl<T: Scalar> TargetInit<T> {
    /// z_1, …, z_{T−1} for these inputs (d_0 × n), column-major.
    pub(crate) fn targets(
        &self,
        layers: Layers<'_, T>,
        inputs: &DMatrix<T>,
    ) -> Result<Vec<Vec<T>>, Error> {
        let circuit = layers.circuit();
        let n = inputs.ncols();
        let hidden = 1..circuit.depth();
        let dims = circuit.dims();
        let targets: Vec<Vec<T>> = match self {
            Self::ForwardPass => forward(circuit, inputs)?,
            Self::NoisyForwardPass { std, seed } => {
                let std = not_negative("TargetInit::NoisyForwardPass::std", *std)?;
                let mut targets = forward(circuit, inputs)?;
                for (z, t) in targets.iter_mut().zip(hidden) {
                    add_noise(z, std, &mut stream(*seed, t));
                }
                targets
            }
            Self::RandomNormal { std, seed } => {
                let std = not_negative("TargetInit::RandomNormal::std", *std)?;
                hidden
                    .map(|t| {
                        let mut z = vec![T::zero(); dims[t] * n];
                        add_noise(&mut z, std, &mut stream(*seed, t));
                        z
                    })
                    .collect()
            }
            Self::Projected { seed } => {
                if n == 0 {
                    return Ok(vec![Vec::new(); hidden.len()]);
                }
                let targets = Projection::fit(circuit, inputs, *seed)?.apply(inputs)?;
                targets.into_iter().map(|z| z.as_slice().to_vec()).collect()
            }
            Self::Given(targets) => {
                check_length("auxiliary targets z_1, …, z_{T−1}", targets, hidden.len())?;
                for (z, t) in targets.iter().zip(hidden) {
                    check_shape(t, z, (dims[t], n))?;
                }
                targets.iter().map(|z| z.as_slice().to_vec()).collect()
            }
        };
        for (t, z) in (1..).zip(&targets) {
            check_finite(Quantity::Target, t, dims[t], z)?;
            // A trained target must lie in the domain of its loss.
            layers.loss(t - 1).check_target(dims[t], z)?;
        }
        Ok(targets)
    }
}

fn forward<T: Scalar>(circuit: &Circuit<T>, inputs: &DMatrix<T>) -> Result<Vec<Vec<T>>, Error> {
    let mut targets = Vec::new();
    let (n, hidden) = (inputs.ncols(), circuit.depth() - 1);
    circuit.check_forward(n)?;
    circuit.forward(inputs.as_slice(), n, hidden, |_, z| {
        targets.push(z.to_vec())
    });
    Ok(targets)
}

fn stream(seed: u64, t: usize) -> ChaCha8Rng {
    generator(seed, Purpose::Targets, t as u64)
}
