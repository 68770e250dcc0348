//! Builds layers and losses from their descriptions.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::description::Description;
use crate::error::Error;
use crate::kernel::Scalar;
use crate::layer::{
    Activate, Attention, AveragePool2d, Branch, Carry, Conv2d, ConvTranspose2d, Dense, Dropout,
    Embedding, GlobalAveragePool, Layer, LayerNorm, MaxPool2d, Merge, Patchwise, PositionBias,
    Positions, Reshape, Residual, RmsNorm, Scale, Sequential, Softmax, Unfold,
};
use crate::loss::{
    BinaryCrossEntropy, ClassWeights, Gaussian, Huber, KullbackLeibler, LabelSmoothing, Loss,
    Poisson, PseudoHuber, Quantile, SoftmaxCrossEntropy, SquaredError, SumOverPositions,
    WeightedBinaryCrossEntropy, WeightedCrossEntropy, WeightedSquaredError,
};

/// What builds a part of type P from its description.
type Build<T, P> = Box<dyn Fn(&Description, &Registry<T>) -> Result<Arc<P>, Error> + Send + Sync>;

/// The kinds of layers and losses that can be built from a [`Description`]: those of the crate, and
/// those of your own that are added.
///
/// # Examples
/// A layer of your own, described and rebuilt:
/// ```
/// use layerwise::description::Description;
/// use layerwise::layer::{Activation, Patchwise, Shape, Unfold};
/// use layerwise::registry::Registry;
/// use layerwise::{Error, Layer};
///
/// /// Pairs of neighbours in a sequence.
/// #[derive(Debug)]
/// struct Pairs(usize);
///
/// impl Unfold for Pairs {
///     fn input_shape(&self) -> Shape { self.0.into() }
///     fn patch_len(&self) -> usize { 2 }
///     fn positions(&self) -> Shape { (self.0 - 1).into() }
///     fn source(&self, entry: usize, position: usize) -> Option<usize> { Some(entry + position) }
///     fn description(&self) -> Option<Description> {
///         Some(Description::new("Pairs").with("length", self.0))
///     }
/// }
///
/// let registry = Registry::<f64>::new().with_unfold("Pairs", |own| Ok(Pairs(own.count("length")?)));
/// let layer = Patchwise::over(Pairs(5), 3, Activation::Relu)?;
/// let again = registry.layer(&layer.description().unwrap())?;
/// assert_eq!((again.input_dim(), again.output_dim()), (5, 12));
/// # Ok::<(), Error>(())
/// ```
pub struct Registry<T: Scalar> {
    layers: BTreeMap<String, Build<T, dyn Layer<T>>>,
    losses: BTreeMap<String, Build<T, dyn Loss<T>>>,
    /// Layers by the kind of their unfold.
    unfolds: BTreeMap<String, Build<T, dyn Layer<T>>>,
}

impl<T: Scalar> Registry<T> {
    /// A registry of the crate's own layers and losses.
    pub fn new() -> Self {
        let empty = Self {
            layers: BTreeMap::new(),
            losses: BTreeMap::new(),
            unfolds: BTreeMap::new(),
        };
        empty
            .with_layer("Dense", |own, _| Dense::dense_described(own))
            .with_layer("Conv2d", |own, _| Conv2d::conv2d_described(own))
            .with_layer("ConvTranspose2d", |own, _| ConvTranspose2d::described(own))
            .with_layer("MaxPool2d", |own, _| MaxPool2d::described(own))
            .with_layer("AveragePool2d", |own, _| AveragePool2d::described(own))
            .with_layer("GlobalAveragePool", |own, _| {
                GlobalAveragePool::described(own)
            })
            .with_layer("Reshape", |own, _| Reshape::described(own))
            .with_layer("Sequential", |own, registry| {
                let layers = own.parts("layers")?.iter();
                let layers: Result<_, _> = layers.map(|layer| registry.layer(layer)).collect();
                Sequential::of(layers?)
            })
            .with_layer("Activate", |own, _| Activate::described(own))
            .with_layer("Scale", |own, _| Scale::described(own))
            .with_layer("Residual", |own, registry| {
                Residual::described(own, registry.layer(own.part("branch")?)?)
            })
            .with_layer("LayerNorm", |own, _| LayerNorm::described(own))
            .with_layer("RmsNorm", |own, _| RmsNorm::described(own))
            .with_layer("Softmax", |own, _| Softmax::described(own))
            .with_unfold("Positions", Positions::described)
            .with_layer("Dropout", |own, _| Dropout::described(own))
            .with_layer("Embedding", |own, _| Embedding::described(own))
            .with_layer("PositionBias", |own, _| PositionBias::described(own))
            .with_layer("Attention", |own, _| Attention::described(own))
            .with_layer("Branch", |own, _| Branch::described(own))
            .with_layer("Carry", |own, registry| {
                Carry::described(own, registry.layer(own.part("layer")?)?)
            })
            .with_layer("Merge", |own, _| Merge::described(own))
            .with_loss("SquaredError", |_, _| Ok(SquaredError))
            .with_loss("WeightedSquaredError", |own, _| {
                WeightedSquaredError::new(scalars::<T>(own, "weights")?)
            })
            .with_loss("WeightedBinaryCrossEntropy", |own, _| {
                WeightedBinaryCrossEntropy::new(scalars::<T>(own, "weights")?)
            })
            .with_loss("WeightedCrossEntropy", |own, _| {
                WeightedCrossEntropy::new(scalars::<T>(own, "weights")?)
            })
            .with_loss("Quantile", |own, _| Quantile::new(own.number("level")?))
            .with_loss("Huber", |own, _| Huber::new(own.number("delta")?))
            .with_loss("PseudoHuber", |own, _| {
                PseudoHuber::new(own.number("delta")?)
            })
            .with_loss("Gaussian", |own, _| gaussian::<T>(own))
            .with_loss("Poisson", |_, _| Ok(Poisson))
            .with_loss("BinaryCrossEntropy", |_, _| Ok(BinaryCrossEntropy))
            .with_loss("SoftmaxCrossEntropy", |_, _| Ok(SoftmaxCrossEntropy))
            .with_loss("KullbackLeibler", |_, _| Ok(KullbackLeibler))
            .with_loss("ClassWeights", |own, registry| {
                let loss = registry.loss(own.part("loss")?)?;
                ClassWeights::new(scalars::<T>(own, "weights")?, loss)
            })
            .with_loss("LabelSmoothing", |own, registry| {
                let loss = registry.loss(own.part("loss")?)?;
                let epsilon = own.number("epsilon")?;
                match own.text("over")? {
                    "classes" => LabelSmoothing::new(loss, epsilon),
                    "units" => LabelSmoothing::binary(loss, epsilon),
                    _ => Err(own.refuse("over", "classes or units")),
                }
            })
            .with_loss("SumOverPositions", |own, registry| {
                let loss = registry.loss(own.part("loss")?)?;
                SumOverPositions::new(own.count("positions")?, loss)
            })
    }

    /// Adds a kind of layer, or replaces it. `build` makes the layer that a description of this
    /// kind describes; the registry builds layers that it consists of.
    ///
    /// For a layer `Sine` whose description has its number of units:
    /// `.with_layer("Sine", |own, _| Ok(Sine(own.count("units")?)))`. The whole program is on the
    /// guide's page about your own parts.
    pub fn with_layer<L: Layer<T> + 'static>(
        mut self,
        kind: &str,
        build: impl Fn(&Description, &Self) -> Result<L, Error> + Send + Sync + 'static,
    ) -> Self {
        let build: Build<T, dyn Layer<T>> =
            Box::new(move |own, registry| Ok(Arc::new(build(own, registry)?)));
        self.layers.insert(kind.into(), build);
        self
    }

    /// Adds a kind of loss, or replaces it; see [`Registry::with_layer`].
    pub fn with_loss<L: Loss<T> + 'static>(
        mut self,
        kind: &str,
        build: impl Fn(&Description, &Self) -> Result<L, Error> + Send + Sync + 'static,
    ) -> Self {
        let build: Build<T, dyn Loss<T>> =
            Box::new(move |own, registry| Ok(Arc::new(build(own, registry)?)));
        self.losses.insert(kind.into(), build);
        self
    }

    /// Adds a kind of [`Unfold`], or replaces it, for [`Patchwise`] layers over it.
    pub fn with_unfold<U: Unfold + 'static>(
        mut self,
        kind: &str,
        build: impl Fn(&Description) -> Result<U, Error> + Send + Sync + 'static,
    ) -> Self {
        let build: Build<T, dyn Layer<T>> = Box::new(move |own, _| {
            let unfold = build(own.part("unfold")?)?;
            Ok(Arc::new(Patchwise::described(unfold, own)?))
        });
        self.unfolds.insert(kind.into(), build);
        self
    }

    /// The kinds of losses that it knows, in alphabetical order.
    pub fn losses(&self) -> impl Iterator<Item = &str> {
        self.losses.keys().map(String::as_str)
    }

    /// The kinds of layers that it knows, in alphabetical order; `Patchwise` layers are known by their
    /// unfolds.
    pub fn layers(&self) -> impl Iterator<Item = &str> {
        self.layers.keys().map(String::as_str)
    }

    /// The layer that a description describes.
    ///
    /// # Errors
    /// [`Error::UnknownKind`], [`Error::Description`] for a setting that is missing, wrong or
    /// unknown, and the errors of the layer's constructor.
    pub fn layer(&self, own: &Description) -> Result<Arc<dyn Layer<T>>, Error> {
        let build = match own.kind() {
            "Patchwise" if !self.layers.contains_key("Patchwise") => {
                find("unfold", &self.unfolds, own.part("unfold")?.kind())?
            }
            kind => find("layer", &self.layers, kind)?,
        };
        let layer = build(own, self)?;
        check_same(own, layer.description())?;
        Ok(layer)
    }

    /// The loss that a description describes.
    ///
    /// # Errors
    /// Those of [`Registry::layer`].
    pub fn loss(&self, own: &Description) -> Result<Arc<dyn Loss<T>>, Error> {
        let loss = find("loss", &self.losses, own.kind())?(own, self)?;
        check_same(own, loss.description())?;
        Ok(loss)
    }
}

impl<T: Scalar> Default for Registry<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// The kinds that it knows.
impl<T: Scalar> fmt::Debug for Registry<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("layers", &self.layers.keys())
            .field("losses", &self.losses.keys())
            .field("unfolds", &self.unfolds.keys())
            .finish()
    }
}

fn find<'a, B>(
    what: &'static str,
    known: &'a BTreeMap<String, B>,
    kind: &str,
) -> Result<&'a B, Error> {
    known.get(kind).ok_or_else(|| Error::UnknownKind {
        what,
        kind: kind.into(),
        known: match known.is_empty() {
            true => "none".into(),
            false => known.keys().cloned().collect::<Vec<_>>().join(", "),
        },
    })
}

/// Checks that what was built describes itself as it was described, so that no setting is ignored.
fn check_same(own: &Description, built: Option<Description>) -> Result<(), Error> {
    let found = match built {
        Some(built) if built == *own => return Ok(()),
        Some(built) => built.to_string(),
        None => "something that does not describe itself".into(),
    };
    Err(Error::Description {
        kind: own.kind().into(),
        setting: "what was built".into(),
        expected: own.to_string(),
        found,
    })
}

fn scalars<T: Scalar>(own: &Description, name: &str) -> Result<Vec<T>, Error> {
    Ok(own.numbers(name)?.into_iter().map(T::of).collect())
}

fn gaussian<T: Scalar>(own: &Description) -> Result<Gaussian<T>, Error> {
    if own.get("precision").is_some() {
        return Gaussian::new(scalars(own, "precision")?);
    }
    let initial = T::of(own.number("initial precision")?);
    let floor = T::of(own.number("variance floor")?);
    match own.flag("shared")? {
        true => Gaussian::learned_shared(initial, floor),
        false => Gaussian::learned(initial, floor),
    }
}
