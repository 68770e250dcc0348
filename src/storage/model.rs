//! Models in files: also losses, μ, regularisers, and examples with their targets.

use std::path::Path;
use std::sync::Arc;

use nalgebra::DMatrix;
use serde::{Deserialize, Serialize};

use super::Stored;
use super::circuit::{self, Manifest, Part, check_parts};
use super::container::{Contents, Draft, Layout, shape_of_rows};
use crate::check::{check_example_weights, check_finite, check_weights};
use crate::decoupled::DecoupledCircuit;
use crate::decoupled::examples::{Examples, Hidden, Place};
use crate::energy::{Energy, Terms};
use crate::error::{Error, Quantity};
use crate::loss::Loss;
use crate::registry::Registry;
use crate::regularizer::Regularizer;

/// The terms of E, except μ.
#[derive(Serialize, Deserialize)]
pub(super) struct EnergyEntry {
    /// L_h of z_1, …, z_{T−1}, then L.
    losses: Vec<Part>,
    parameter_regularizers: Vec<Regularizer>,
    target_regularizers: Vec<Regularizer>,
}

/// What is known of the examples besides their arrays.
#[derive(Serialize, Deserialize)]
pub(super) struct ExamplesEntry {
    count: usize,
    weighted: bool,
    /// Whether z_0 and z_T are in a data set, not in the file.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    streamed: bool,
    /// Whether there are no arrays of z_1, …, z_{T−1}.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    computed: bool,
    /// The id of the next example.
    next: u64,
}

/// What is known of a run besides its state.
#[derive(Serialize, Deserialize)]
pub(super) struct RunEntry {
    /// The trainer's seed.
    pub(super) seed: u64,
    /// What `Debug` prints of its phases, with all their options.
    pub(super) phases: Vec<String>,
    pub(super) visits: u64,
}

const PENALTIES: &str = "energy.penalties";
const IDS: &str = "examples.ids";
const WEIGHTS: &str = "examples.weights";

fn z(t: usize) -> String {
    format!("examples.z{t}")
}

/// Adds a model's arrays to a file, and returns the manifest.
pub(super) fn write<'a, T: Stored>(
    model: &'a DecoupledCircuit<T>,
    draft: &mut Draft<'a>,
) -> Manifest {
    let (terms, examples) = (&model.terms, &model.examples);
    let manifest = circuit::write(&model.circuit, draft);
    let penalties = terms.penalties();
    draft.put(PENALTIES.into(), &[penalties.len()], penalties);
    let n = examples.len();
    let (dims, streamed) = (&examples.dims, examples.streamed.as_ref());
    let last = dims.len() - 1;
    let stored = match examples.hidden {
        Hidden::Stored => 1..last,
        Hidden::Computed => 0..0,
    };
    match streamed {
        None => {
            for t in [0].into_iter().chain(stored).chain([last]) {
                draft.put_rows(z(t), n, &examples.z[t]);
            }
        }
        Some(streamed) => {
            for t in stored {
                let shape = shape_of_rows(n, dims[t]);
                draft.stream_rows(z(t), shape, move |to| streamed.each(dims, t, n, to));
            }
        }
    }
    draft.put_counts(IDS, &examples.ids);
    let weighted = !examples.weights.is_empty();
    if weighted {
        draft.put(WEIGHTS.into(), &[n], &examples.weights);
    }
    Manifest {
        energy: Some(energy(terms, model.circuit.depth())),
        examples: Some(ExamplesEntry {
            count: n,
            weighted,
            streamed: streamed.is_some(),
            computed: examples.hidden == Hidden::Computed,
            next: examples.next(),
        }),
        ..manifest
    }
}

fn energy<T: Stored>(terms: &Terms<T>, depth: usize) -> EnergyEntry {
    let part = |t| Part::new(terms.loss(t).description(), &terms.loss(t));
    EnergyEntry {
        losses: (0..depth).map(part).collect(),
        parameter_regularizers: (0..depth).map(|t| terms.parameter_regularizer(t)).collect(),
        target_regularizers: terms.target_regularizers().to_vec(),
    }
}

/// The values of a model, checked, to be put into it.
pub(super) struct Values<T> {
    parameters: Vec<Vec<T>>,
    seed: u64,
    penalties: Vec<T>,
    examples: Examples<T>,
}

impl<T: Stored> Values<T> {
    /// Those of a model that is built like this one, from a file.
    pub(super) fn read(
        model: &DecoupledCircuit<T>,
        file: &Contents<'_>,
        manifest: &Manifest,
    ) -> Result<Self, Error> {
        let depth = model.circuit.depth();
        let there = needed(file, manifest.energy.as_ref())?;
        let parameters = circuit::read(&model.circuit, file, manifest)?;
        let here = energy(&model.terms, depth);
        let (expected, found) = (here.losses.len(), there.losses.len());
        if expected != found {
            return Err(file.differs("the losses", &expected.to_string(), &found.to_string()));
        }
        check_parts(file, |t| loss_name(t, depth), &here.losses, &there.losses)?;
        for (what, here, there) in [
            (
                "the regularisers of parameters",
                &here.parameter_regularizers,
                &there.parameter_regularizers,
            ),
            (
                "the regularisers of targets",
                &here.target_regularizers,
                &there.target_regularizers,
            ),
        ] {
            if here != there {
                return Err(file.differs(what, &format!("{here:?}"), &format!("{there:?}")));
            }
        }
        let penalties: Vec<T> = file.get(PENALTIES, &[depth - 1])?;
        check_weights("penalty μ", &penalties)?;
        Ok(Self {
            parameters,
            seed: manifest.seed,
            penalties,
            examples: examples(model, file, needed(file, manifest.examples.as_ref())?)?,
        })
    }

    pub(super) fn put(self, model: &mut DecoupledCircuit<T>) {
        model.circuit.put(self.parameters, self.seed);
        model.terms.put_penalties(&self.penalties);
        model.examples = self.examples;
    }
}

/// "the output loss", or that of a hidden layer.
fn loss_name(t: usize, depth: usize) -> String {
    match t + 1 == depth {
        true => "the output loss".into(),
        false => format!("the loss of hidden layer {}", t + 1),
    }
}

fn needed<'a, A>(file: &Contents<'_>, entry: Option<&'a A>) -> Result<&'a A, Error> {
    entry.ok_or_else(|| file.refuse("it holds a circuit alone, without an energy and examples"))
}

fn examples<T: Stored>(
    model: &DecoupledCircuit<T>,
    file: &Contents<'_>,
    entry: &ExamplesEntry,
) -> Result<Examples<T>, Error> {
    let (circuit, terms, n) = (&model.circuit, &model.terms, entry.count);
    let (dims, depth) = (circuit.dims(), circuit.depth());
    let place = |streamed: bool| match streamed {
        true => "streamed from a data set",
        false => "in memory",
    };
    let own = model.examples.streamed.as_ref();
    let (here, there) = (place(own.is_some()), place(entry.streamed));
    if here != there {
        return Err(file.differs("the place of the examples", here, there));
    }
    let (hidden, stored) = match entry.computed {
        false => (Hidden::Stored, 1..depth),
        true => (Hidden::Computed, 0..0),
    };
    let check = |t: usize, values: &[T]| {
        check_finite(Quantity::Target, t, dims[t], values)?;
        terms.loss(t - 1).check_target(dims[t], values)
    };
    let place = match own {
        None => {
            let mut values = vec![Vec::new(); depth + 1];
            for t in [0].into_iter().chain(stored.clone()).chain([depth]) {
                values[t] = file.get_rows(&z(t), n, dims[t])?;
            }
            let [inputs, targets] = [0, depth].map(|t| {
                let values = std::mem::take(&mut values[t]);
                DMatrix::from_vec(dims[t], n, values)
            });
            circuit.check_inputs(&inputs)?;
            terms.check_outputs(circuit, n, &targets)?;
            values[0] = inputs.data.into();
            values[depth] = targets.data.into();
            for t in stored {
                check(t, &values[t])?;
            }
            Place::Memory(values)
        }
        Some(own) => {
            let expected = own.source().len();
            if n != expected {
                let [expected, found] = [expected, n].map(|count| count.to_string());
                return Err(file.differs("the number of examples", &expected, &found));
            }
            if model.examples.hidden != hidden {
                let kind = |hidden| match hidden {
                    Hidden::Stored => "stored",
                    Hidden::Computed => "computed",
                };
                let [here, there] = [model.examples.hidden, hidden].map(kind);
                return Err(file.differs("the targets of streamed examples", here, there));
            }
            let mut new = own.renewed()?;
            for t in stored {
                file.each_rows(&z(t), [n, dims[t]], |first, values: &[T]| {
                    check(t, values).map_err(|error| error.after(first))?;
                    let columns: Vec<usize> = (first..first + values.len() / dims[t]).collect();
                    new.put(dims, t, &columns, values)
                })?;
            }
            Place::Streamed(new)
        }
    };
    let ids = file.get_counts(IDS, n)?;
    let increasing = ids.is_sorted_by(|a, b| a < b);
    if entry.next > u64::MAX / 2 {
        return Err(file.refuse("the id of its next example is beyond all that are used"));
    }
    if !increasing || ids.last().is_some_and(|&last| last >= entry.next) {
        return Err(file.refuse("the ids of its examples are not in increasing order"));
    }
    let mut weights = Vec::new();
    if entry.weighted {
        weights = file.get(WEIGHTS, &[n])?;
        check_example_weights(&weights)?;
    }
    Ok(Examples::restored(
        dims, place, hidden, ids, weights, entry.next,
    ))
}

/// The model of a file.
fn build<T: Stored>(
    file: &Contents<'_>,
    manifest: &Manifest,
    registry: &Registry<T>,
) -> Result<DecoupledCircuit<T>, Error> {
    let circuit = circuit::build(file, manifest, registry)?;
    let (entry, depth) = (needed(file, manifest.energy.as_ref())?, circuit.depth());
    let mut losses: Vec<Arc<dyn Loss<T>>> = Vec::with_capacity(depth);
    for (t, part) in entry.losses.iter().enumerate() {
        losses.push(registry.loss(part.described(&loss_name(t, depth), file)?)?);
    }
    let output = losses
        .pop()
        .ok_or_else(|| file.refuse("it has no output loss"))?;
    let hidden = losses.into_iter().map(|loss| Box::new(loss) as _).collect();
    let energy = Energy::new(output)
        .with_hidden_losses(hidden)
        .with_penalties(vec![T::one(); depth - 1])
        .with_parameter_regularizers(entry.parameter_regularizers.clone())
        .with_target_regularizers(entry.target_regularizers.clone());
    let mut model = DecoupledCircuit::new(circuit, energy)?;
    Values::read(&model, file, manifest)?.put(&mut model);
    Ok(model)
}

impl<T: Stored> DecoupledCircuit<T> {
    /// Writes the model, with its examples and their targets, to a file, which is replaced as a
    /// whole; see [`storage`](crate::storage).
    ///
    /// # Errors
    /// Those of [`Circuit::save`](crate::Circuit::save).
    #[doc(alias("export", "safetensors"))]
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        self.layout()?.write(path.as_ref())
    }

    /// The bytes of the file that [`DecoupledCircuit::save`] writes.
    ///
    /// # Errors
    /// [`Error::Format`], as in [`DecoupledCircuit::save`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        self.layout()?.to_bytes()
    }

    fn layout(&self) -> Result<Layout<'_>, Error> {
        let mut draft = Draft::default();
        let manifest = write(self, &mut draft);
        draft.finish::<T, _>(&manifest)
    }

    /// Builds the model of a file; see [`storage`](crate::storage).
    ///
    /// # Errors
    /// Those of [`Circuit::open`](crate::Circuit::open), [`Registry::loss`], and [`DecoupledCircuit::new`];
    /// [`Error::Format`] for a file of a circuit alone, and the errors of
    /// [`DecoupledCircuit::add_examples`] for examples that the model cannot accept;
    /// [`Error::Architecture`] for streamed examples, which [`DecoupledCircuit::load`] reads into a model
    /// of their data set.
    #[doc(alias("load", "import"))]
    pub fn open(path: impl AsRef<Path>, registry: &Registry<T>) -> Result<Self, Error> {
        Self::opened(Contents::open(path.as_ref())?, registry)
    }

    /// [`DecoupledCircuit::open`] of the file's bytes.
    ///
    /// # Errors
    /// Those of [`DecoupledCircuit::open`].
    pub fn from_bytes(bytes: &[u8], registry: &Registry<T>) -> Result<Self, Error> {
        Self::opened(Contents::read(bytes)?, registry)
    }

    fn opened(mut file: Contents<'_>, registry: &Registry<T>) -> Result<Self, Error> {
        let manifest = file.manifest::<T, _>()?;
        build(&file, &manifest, registry)
    }

    /// Replaces θ, μ, the seed and all examples by those of a file.
    ///
    /// # Errors
    /// Those of [`DecoupledCircuit::open`]; [`Error::Architecture`] if the file's layers, losses or
    /// regularisers are not those of this model, with both. On an error nothing is changed.
    #[doc(alias("import"))]
    pub fn load(&mut self, path: impl AsRef<Path>) -> Result<(), Error> {
        let mut file = Contents::open(path.as_ref())?;
        let manifest: Manifest = file.manifest::<T, _>()?;
        Values::read(self, &file, &manifest)?.put(self);
        Ok(())
    }
}
