//! Circuits in files: layers and θ.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Stored;
use super::container::{Contents, Draft, Layout};
use super::model::{EnergyEntry, ExamplesEntry, RunEntry};
use crate::check::check_finite;
use crate::circuit::Circuit;
use crate::description::Description;
use crate::error::{Error, Quantity};
use crate::layer::ParameterGroup;
use crate::registry::Registry;

/// What a file says about its arrays.
#[derive(Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) seed: u64,
    pub(super) layers: Vec<Part>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) energy: Option<EnergyEntry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) examples: Option<ExamplesEntry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) run: Option<RunEntry>,
}

/// A layer or loss.
#[derive(Serialize, Deserialize, PartialEq)]
#[serde(untagged)]
pub(super) enum Part {
    Described(Description),
    /// What `Debug` prints of a part that does not describe itself.
    Printed(String),
}

impl Part {
    pub(super) fn new(description: Option<Description>, part: &dyn fmt::Debug) -> Self {
        match description {
            Some(description) => Self::Described(description),
            None => Self::Printed(format!("{part:?}")),
        }
    }

    /// The description, or the error that says that there is none.
    pub(super) fn described(&self, what: &str, file: &Contents<'_>) -> Result<&Description, Error> {
        match self {
            Self::Described(description) => Ok(description),
            Self::Printed(printed) => Err(file.refuse(&format!(
                "{what}, {printed}, has no description to build it from: load the file into a \
                 circuit that is already built, or implement `description`"
            ))),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Described(description) => description.fmt(f),
            Self::Printed(printed) => f.write_str(printed),
        }
    }
}

/// Checks that the parts in the file are those here; `what` names part i.
pub(super) fn check_parts(
    file: &Contents<'_>,
    what: impl Fn(usize) -> String,
    here: &[Part],
    there: &[Part],
) -> Result<(), Error> {
    for (i, (here, there)) in here.iter().zip(there).enumerate() {
        if here != there {
            return Err(file.differs(&what(i), &here.to_string(), &there.to_string()));
        }
    }
    Ok(())
}

/// Adds a circuit's parameters to a file, and returns the manifest.
pub(super) fn write<T: Stored>(circuit: &Circuit<T>, draft: &mut Draft<'_>) -> Manifest {
    for t in 0..circuit.depth() {
        for group in circuit.parameter_groups(t) {
            let values = &circuit.parameters(t)[group.range.clone()];
            draft.put(name(circuit, t, group), &group.shape, values);
        }
    }
    Manifest {
        seed: circuit.seed(),
        layers: parts(circuit),
        energy: None,
        examples: None,
        run: None,
    }
}

fn parts<T: Stored>(circuit: &Circuit<T>) -> Vec<Part> {
    let part = |t| Part::new(circuit.layer(t).description(), &circuit.layer(t));
    (0..circuit.depth()).map(part).collect()
}

/// The name of the array of one group of θ_t.
fn name<T: Stored>(circuit: &Circuit<T>, t: usize, group: &ParameterGroup) -> String {
    match group.range.end <= circuit.own_parameters(t) {
        true => format!("{t}.{}", group.name),
        false => format!("{t}.loss.{}", group.name),
    }
}

/// θ of a circuit that is built like this one, from a file.
pub(super) fn read<T: Stored>(
    circuit: &Circuit<T>,
    file: &Contents<'_>,
    manifest: &Manifest,
) -> Result<Vec<Vec<T>>, Error> {
    let (here, there) = (circuit.depth(), manifest.layers.len());
    if here != there {
        return Err(file.differs("the depth", &here.to_string(), &there.to_string()));
    }
    let what = |t| format!("layer {t}");
    check_parts(file, what, &parts(circuit), &manifest.layers)?;
    values(circuit, |t, group| {
        file.get(&name(circuit, t, group), &group.shape)
    })
}

/// θ, group by group, checked.
fn values<T: Stored>(
    circuit: &Circuit<T>,
    get: impl Fn(usize, &ParameterGroup) -> Result<Vec<T>, Error>,
) -> Result<Vec<Vec<T>>, Error> {
    let of_layer = |t| {
        let mut own = Vec::with_capacity(circuit.parameters(t).len());
        for group in circuit.parameter_groups(t) {
            own.extend(get(t, group)?);
        }
        check_finite(Quantity::Parameter, t, own.len().max(1), &own)?;
        Ok(own)
    };
    (0..circuit.depth()).map(of_layer).collect()
}

/// The circuit of a file.
pub(super) fn build<T: Stored>(
    file: &Contents<'_>,
    manifest: &Manifest,
    registry: &Registry<T>,
) -> Result<Circuit<T>, Error> {
    let mut builder = Circuit::builder().seed(manifest.seed);
    for (t, part) in manifest.layers.iter().enumerate() {
        let layer = registry.layer(part.described(&format!("layer {t}"), file)?)?;
        builder = builder.layer(layer);
    }
    let mut circuit = builder.build_with(|t, layer| {
        let mut own = Vec::new();
        for group in layer.parameters() {
            own.extend(file.get::<T>(&format!("{t}.{}", group.name), &group.shape)?);
        }
        Ok(own)
    })?;
    add_loss_parameters(&mut circuit, file)?;
    Ok(circuit)
}

/// Appends the losses' parameters to every θ_t that has none yet, for an energy with these losses
/// ([`Circuit::attach`]).
fn add_loss_parameters<T: Stored>(
    circuit: &mut Circuit<T>,
    file: &Contents<'_>,
) -> Result<(), Error> {
    for t in 0..circuit.depth() {
        let own = circuit.layer(t).parameters();
        if circuit.parameter_groups(t).len() > own.len() {
            continue;
        }
        let prefix = format!("{t}.loss.");
        for (name, shape) in file.beginning_with(&prefix) {
            // A layer may call its own groups so.
            let of_layer = |group: &ParameterGroup| group.name.strip_prefix("loss.") == Some(&name);
            if own.iter().any(of_layer) {
                continue;
            }
            let values = file.get::<T>(&format!("{prefix}{name}"), &shape)?;
            check_finite(Quantity::Parameter, t, values.len().max(1), &values)?;
            circuit.append(t, ParameterGroup::new(name, shape), &values);
        }
    }
    Ok(())
}

impl<T: Stored> Circuit<T> {
    /// Writes layers and parameters to a file, which is replaced as a whole; see
    /// [`storage`](crate::storage).
    ///
    /// # Errors
    /// [`Error::File`], or [`Error::Format`] for two parameter groups of one name in a layer. The
    /// old file, if any, is then unchanged.
    #[doc(alias("export", "safetensors"))]
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        self.layout()?.write(path.as_ref())
    }

    /// The bytes of the file that [`Circuit::save`] writes.
    ///
    /// # Errors
    /// [`Error::Format`], as in [`Circuit::save`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        self.layout()?.to_bytes()
    }

    fn layout(&self) -> Result<Layout<'_>, Error> {
        let mut draft = Draft::default();
        let manifest = write(self, &mut draft);
        draft.finish::<T, _>(&manifest)
    }

    /// Builds the circuit of a file; see [`storage`](crate::storage).
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Format`] for a file that is damaged, newer or foreign,
    /// [`Error::Architecture`] for another scalar type or arrays that do not fit the layers, the
    /// errors of [`Registry::layer`], and those of
    /// [`CircuitBuilder::build`](crate::circuit::CircuitBuilder::build).
    #[doc(alias("load", "import", "safetensors"))]
    pub fn open(path: impl AsRef<Path>, registry: &Registry<T>) -> Result<Self, Error> {
        Self::opened(Contents::open(path.as_ref())?, registry)
    }

    /// [`Circuit::open`] of the file's bytes.
    ///
    /// # Errors
    /// Those of [`Circuit::open`].
    pub fn from_bytes(bytes: &[u8], registry: &Registry<T>) -> Result<Self, Error> {
        Self::opened(Contents::read(bytes)?, registry)
    }

    fn opened(mut file: Contents<'_>, registry: &Registry<T>) -> Result<Self, Error> {
        let manifest = file.manifest::<T, _>()?;
        build(&file, &manifest, registry)
    }

    /// Replaces all parameters, and the seed, by those of a file.
    ///
    /// # Errors
    /// Those of [`Circuit::open`]; [`Error::Architecture`] if the file's layers are not those of
    /// this circuit, with both descriptions. On an error nothing is changed.
    #[doc(alias("import", "safetensors"))]
    pub fn load(&mut self, path: impl AsRef<Path>) -> Result<(), Error> {
        let mut file = Contents::open(path.as_ref())?;
        let manifest: Manifest = file.manifest::<T, _>()?;
        let mut loaded = self.clone();
        loaded.put(read(self, &file, &manifest)?, manifest.seed);
        add_loss_parameters(&mut loaded, &file)?;
        *self = loaded;
        Ok(())
    }

    /// Replaces all parameters with arrays from any safetensors file, as other programs write
    /// them.
    ///
    /// `name` gives the name of the array for a group of θ_t, given t and the group. An array must
    /// have the shape of its group: channels × inputs for the weights of a dense layer, as in
    /// PyTorch. Arrays are `f32` or `f64`; an `f64` circuit reads both exactly, an `f32` circuit
    /// only `f32`.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Format`] if it is not a safetensors file or has no such array,
    /// [`Error::Architecture`] for an array of another shape or type, [`Error::NonFiniteData`]. On
    /// an error nothing is changed.
    ///
    /// # Examples
    /// Weights that PyTorch saved from `nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))`:
    /// ```no_run
    /// use layerwise::prelude::*;
    ///
    /// let mut circuit = Circuit::<f32>::builder()
    ///     .layer(Dense::new(2, 3, Activation::Tanh)?)
    ///     .layer(Dense::new(3, 1, Activation::Identity)?)
    ///     .build()?;
    /// circuit.load_tensors("model.safetensors", |t, group| {
    ///     let array = if group.name == "weights" { "weight" } else { "bias" };
    ///     format!("{}.{array}", 2 * t)
    /// })?;
    /// # Ok::<(), Error>(())
    /// ```
    #[doc(alias("pytorch", "torch", "state_dict"))]
    pub fn load_tensors(
        &mut self,
        path: impl AsRef<Path>,
        name: impl Fn(usize, &ParameterGroup) -> String,
    ) -> Result<(), Error> {
        let file = Contents::open(path.as_ref())?;
        let get = |t, group: &ParameterGroup| file.get_widened(&name(t, group), &group.shape);
        let parameters = values(self, get)?;
        self.put(parameters, self.seed());
        Ok(())
    }
}
