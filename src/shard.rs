//! A local problem that can be sent to another process.

use crate::check::check_length;
use crate::circuit::all_groups;
use crate::decoupled::{DecoupledCircuit, Selection};
use crate::energy::LocalProblem;
use crate::energy::local_problem::Regularization;
use crate::error::Error;
use crate::kernel::Scalar;
use crate::layer::{Context, Layer, ParameterGroup};
use crate::loss::Loss;
use crate::regularizer::Regularizer;

/// The local problem of one layer as an owned value: θ_t, z_t, z_{t+1}, μ, weights and regularisers
/// of some examples, and a fingerprint of the layer and its loss.
///
/// ℓ_t depends on nothing else, so it can be computed in another process or on another machine.
/// Write the shard in any serde format (feature `serde`), and build the same layer and loss there.
/// [`Shard::problem`] checks that they are the same. Then move the parameters, and send the shard
/// back to [`DecoupledCircuit::install`]. `examples/remote_layer.rs` does this with a child
/// process. For bit-identical results the format must preserve floats exactly; with `serde_json`,
/// enable its feature `float_roundtrip`.
///
/// The fingerprint is a hash of t, the scalar's type, the dimensions, the parameter groups, and the
/// `Debug` output of layer and loss. The `Debug` output of your own layer should show all its
/// options.
///
/// # Examples
/// ```
/// use layerwise::prelude::*;
///
/// let layer = |inputs, outputs| Dense::new(inputs, outputs, Activation::Tanh);
/// let circuit = Circuit::<f64>::builder().layer(layer(2, 3)?).layer(layer(3, 1)?).build()?;
/// let mut model = DecoupledCircuit::new(circuit, Energy::default())?;
/// let (x, y) = (DMatrix::from_element(2, 4, 0.5), DMatrix::from_element(1, 4, 1.0));
/// model.add_examples(&x, &y, &TargetInit::ForwardPass)?;
///
/// let mut shard = model.shard(1, &Selection::All)?;
/// // Elsewhere: the same layer, one step of descent.
/// let layer = layer(3, 1)?;
/// let problem = shard.problem(&layer, &SquaredError)?;
/// let gradient = problem.gradients().parameters;
/// for (value, g) in shard.parameters_mut().iter_mut().zip(gradient) {
///     *value -= 0.01 * g;
/// }
/// // Back home.
/// let before = model.energy()?;
/// model.install(&shard)?;
/// assert!(model.energy()? < before);
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Shard<T> {
    layer: usize,
    fingerprint: u64,
    groups: Vec<ParameterGroup>,
    parameters: Vec<T>,
    penalty: T,
    input: Vec<T>,
    target: Vec<T>,
    examples: Vec<u64>,
    /// One weight per example; empty if all are 1.
    example_weights: Vec<T>,
    parameter_regularizer: Regularizer,
    target_regularizer: Regularizer,
    seed: u64,
}

impl<T: Scalar> Shard<T> {
    /// The layer's index t.
    pub fn layer(&self) -> usize {
        self.layer
    }

    /// The ids of the examples, one per column.
    pub fn examples(&self) -> &[u64] {
        &self.examples
    }

    /// θ_t.
    pub fn parameters(&self) -> &[T] {
        &self.parameters
    }

    /// θ_t, mutably.
    pub fn parameters_mut(&mut self) -> &mut [T] {
        &mut self.parameters
    }

    /// The local problem itself, given a layer and loss that were built again. Everything that may
    /// have come from outside is checked.
    ///
    /// It is not evaluated as in training, which matters only for stochastic layers, such as
    /// [`Dropout`](crate::layer::Dropout). [`LocalProblem::in_context`] gives it a visit.
    ///
    /// # Errors
    /// [`Error::Fingerprint`] for a different layer or loss, and the errors of
    /// [`LocalProblem::new`] for damaged data.
    pub fn problem<'a>(
        &'a self,
        layer: &'a dyn Layer<T>,
        loss: &'a dyn Loss<T>,
    ) -> Result<LocalProblem<'a, T>, Error> {
        check_architecture(self, layer, loss)?;
        let [parameters, targets] = [self.parameter_regularizer, self.target_regularizer];
        let (input, target) = (&self.input, &self.target);
        let problem = LocalProblem::new(layer, &self.parameters, loss, self.penalty, input, target)
            .map_err(|error| self.numbered(error))?;
        check_length("examples", &self.examples, problem.examples())?;
        let problem = match &self.example_weights[..] {
            [] => problem,
            weights => problem.with_example_weights(weights)?,
        };
        Ok(LocalProblem {
            context: Context {
                examples: &self.examples,
                ..Context::inference(self.seed, self.layer)
            },
            regularization: Regularization {
                parameters,
                groups: &self.groups,
                targets,
            },
            ..problem
        })
    }

    /// Corrects the layer in an error that assumes layer 0.
    fn numbered(&self, mut error: Error) -> Error {
        if let Error::NonFiniteData { layer, .. } = &mut error {
            // The layer's index may be damaged like the data.
            *layer = self.layer.saturating_add(*layer);
        }
        error
    }
}

fn check_architecture<T: Scalar>(
    shard: &Shard<T>,
    layer: &dyn Layer<T>,
    loss: &dyn Loss<T>,
) -> Result<(), Error> {
    let of = |groups: &[ParameterGroup]| fingerprint(shard.layer, layer, loss, groups);
    let expected = of(&all_groups(layer, loss));
    // The groups may have been altered in transit without the fingerprint.
    for found in [shard.fingerprint, of(&shard.groups)] {
        if found != expected {
            return Err(Error::Fingerprint {
                layer: shard.layer,
                expected,
                found,
            });
        }
    }
    Ok(())
}

/// 64-bit FNV-1a of a description; it is the same on every platform.
fn fingerprint<T: Scalar>(
    t: usize,
    layer: &dyn Layer<T>,
    loss: &dyn Loss<T>,
    groups: &[ParameterGroup],
) -> u64 {
    let scalar = std::any::type_name::<T>();
    let (input, output) = (layer.input_dim(), layer.output_dim());
    let description =
        format!("shard 1: {t} {scalar} {input} {output} {layer:?} {loss:?} {groups:?}");
    description
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
}

impl<T: Scalar> DecoupledCircuit<T> {
    /// The local problem of layer t on the selected examples, as an owned value.
    ///
    /// # Errors
    /// [`Error::UnknownLayer`], errors of the selection, [`Error::NoExamples`] if it is empty.
    pub fn shard(&self, t: usize, selection: &Selection<'_>) -> Result<Shard<T>, Error> {
        self.check_layer(t)?;
        self.with_problem(selection, "a shard", |whole| {
            let problem = whole.local(t);
            let groups = self.circuit.parameter_groups(t);
            Shard {
                layer: t,
                fingerprint: fingerprint(t, problem.layer, problem.loss, groups),
                groups: groups.to_vec(),
                parameters: problem.parameters.to_vec(),
                penalty: problem.weight,
                input: problem.input.to_vec(),
                target: problem.target.to_vec(),
                examples: whole.batch().examples().to_vec(),
                example_weights: problem.example_weights.to_vec(),
                parameter_regularizer: problem.regularization.parameters,
                target_regularizer: problem.regularization.targets,
                seed: self.circuit.seed(),
            }
        })
    }

    /// Installs the parameters θ_t of a shard that was computed elsewhere. Its examples and targets
    /// are ignored, since they may have changed here in the meantime.
    ///
    /// # Errors
    /// [`Error::UnknownLayer`], [`Error::Fingerprint`] for a shard of another layer or loss,
    /// [`Error::Length`], [`Error::NonFiniteData`]. On an error nothing is changed.
    pub fn install(&mut self, shard: &Shard<T>) -> Result<(), Error> {
        let t = shard.layer;
        self.check_layer(t)?;
        check_architecture(shard, self.circuit.layer(t), self.terms.loss(t))?;
        self.circuit.set_parameters(t, &shard.parameters)
    }
}
