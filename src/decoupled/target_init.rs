//! Initial auxiliary targets.

use nalgebra::DMatrix;
use rand::rngs::ChaCha8Rng;

use super::check_shape;
use super::examples::Hidden;
use super::projection::Projection;
use crate::check::{check_finite, check_length, not_negative, refuse};
use crate::circuit::Circuit;
use crate::energy::{Layers, columns};
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
    /// z_t = ẑ_t of the forward pass through the current parameters, computed wherever targets are
    /// needed: none are stored, which saves n Σ_t d_t numbers.
    ///
    /// For [`Backprop`](crate::training::Backprop) and for schemes that set their targets afresh in each
    /// visit, such as [`Decoupling::refreshed`](crate::training::Decoupling::refreshed): they end with
    /// the same parameters as with stored targets at the forward pass, and need no pass over all examples
    /// at the end of a phase. A phase with [residuals](crate::training::Targets::Residual) begins with
    /// those of the forward pass, which are 0; with stored targets it begins with those that the phase before
    /// left.
    /// A scheme whose [targets](crate::training::Scheme::targets) are [`TargetUse::Kept`], and
    /// whatever else shows or changes stored targets, is refused
    /// ([`Error::TargetsNotStored`](crate::Error::TargetsNotStored)). A model's targets are
    /// either all stored or all computed.
    ///
    /// [`TargetUse::Kept`]: crate::decoupled::TargetUse::Kept
    Computed,
}

impl<T: Scalar> TargetInit<T> {
    pub(super) fn hidden(&self) -> Hidden {
        match self {
            Self::Computed => Hidden::Computed,
            _ => Hidden::Stored,
        }
    }

    /// z_1, …, z_{T−1} for these inputs (d_0 × n), column-major; nothing if they are computed.
    pub(crate) fn targets(
        &self,
        layers: Layers<'_, T>,
        inputs: &DMatrix<T>,
    ) -> Result<Vec<Vec<T>>, Error> {
        let (circuit, n) = (layers.circuit(), inputs.ncols());
        match *self {
            Self::Projected { .. } if n == 0 => Ok(vec![Vec::new(); circuit.depth() - 1]),
            Self::Projected { seed } => {
                let targets = Projection::fit(circuit, inputs, seed)?.apply(inputs)?;
                let targets = targets.into_iter().map(|z| z.data.into());
                checked(layers, targets.collect())
            }
            _ => self.blocks(circuit, n)?.next(layers, inputs),
        }
    }

    /// Targets for n examples whose inputs are given block by block.
    ///
    /// # Errors
    /// [`Error::Combination`] for projections; those of the options.
    pub(crate) fn blocks(&self, circuit: &Circuit<T>, n: usize) -> Result<Blocks<'_, T>, Error> {
        let (dims, hidden) = (circuit.dims(), 1..circuit.depth());
        let noise = |option, std, seed| -> Result<Noise, Error> {
            let stream = |t| generator(seed, Purpose::Targets, t as u64);
            Ok(Noise {
                std: not_negative(option, std)?,
                streams: hidden.clone().map(stream).collect(),
            })
        };
        Ok(match self {
            Self::ForwardPass => Blocks::Forward(None),
            Self::NoisyForwardPass { std, seed } => {
                let noise = noise("TargetInit::NoisyForwardPass::std", *std, *seed)?;
                Blocks::Forward(Some(noise))
            }
            Self::RandomNormal { std, seed } => {
                Blocks::Normal(noise("TargetInit::RandomNormal::std", *std, *seed)?)
            }
            Self::Projected { .. } => refuse(
                "projected targets of streamed examples",
                "projections are fitted to the inputs of all examples at once",
            )?,
            Self::Given(targets) => {
                check_length("auxiliary targets z_1, …, z_{T−1}", targets, hidden.len())?;
                for (z, t) in targets.iter().zip(hidden) {
                    check_shape(t, z, (dims[t], n))?;
                }
                Blocks::Given { targets, done: 0 }
            }
            Self::Computed => Blocks::Computed,
        })
    }
}

/// The targets of blocks of examples, one block after another.
pub(crate) enum Blocks<'a, T: Scalar> {
    Forward(Option<Noise>),
    Normal(Noise),
    Given {
        targets: &'a [DMatrix<T>],
        /// Examples in earlier blocks.
        done: usize,
    },
    Computed,
}

/// N(0, std²), with a stream of random numbers for each of z_1, …, z_{T−1}.
pub(crate) struct Noise {
    std: f64,
    streams: Vec<ChaCha8Rng>,
}

impl Noise {
    fn add<T: Scalar>(&mut self, targets: &mut [Vec<T>]) {
        for (z, stream) in targets.iter_mut().zip(&mut self.streams) {
            add_noise(z, self.std, stream);
        }
    }
}

impl<T: Scalar> Blocks<'_, T> {
    /// z_1, …, z_{T−1} for the inputs of the next block (d_0 × n), column-major.
    pub(crate) fn next(
        &mut self,
        layers: Layers<'_, T>,
        inputs: &DMatrix<T>,
    ) -> Result<Vec<Vec<T>>, Error> {
        let (circuit, n) = (layers.circuit(), inputs.ncols());
        let hidden = &circuit.dims()[1..circuit.depth()];
        let targets = match self {
            Self::Forward(noise) => {
                let mut targets = forward(circuit, inputs)?;
                if let Some(noise) = noise {
                    noise.add(&mut targets);
                }
                targets
            }
            Self::Normal(noise) => {
                let zeros = hidden.iter().map(|dim| vec![T::zero(); dim * n]);
                let mut targets: Vec<_> = zeros.collect();
                noise.add(&mut targets);
                targets
            }
            Self::Given { targets, done } => {
                let own = |z: &DMatrix<T>| {
                    let columns = columns(z.nrows(), *done, n);
                    z.as_slice()[columns].to_vec()
                };
                let own = targets.iter().map(own).collect();
                *done += n;
                own
            }
            Self::Computed => vec![Vec::new(); hidden.len()],
        };
        checked(layers, targets)
    }
}

/// The targets, if all are finite and in the domains of their losses.
fn checked<T: Scalar>(layers: Layers<'_, T>, targets: Vec<Vec<T>>) -> Result<Vec<Vec<T>>, Error> {
    let dims = layers.dims();
    for (t, z) in (1..).zip(&targets) {
        check_finite(Quantity::Target, t, dims[t], z)?;
        // A trained target must lie in the domain of its loss.
        layers.loss(t - 1).check_target(dims[t], z)?;
    }
    Ok(targets)
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
