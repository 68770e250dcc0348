//! Circuits and models in files: what comes back is what was saved, and what is not whole is refused.

use std::fs;
use std::path::{Path, PathBuf};

use layerwise::decoupled::{Selection, TargetInit};
use layerwise::description::{Description, Setting};
use layerwise::energy::Energy;
use layerwise::init::{Distribution, Fan, Initializer};
use layerwise::kernel::Write;
use layerwise::layer::{
    Activation, Context, Dense, Layer, ParameterGroup, Patchwise, Point, Scratch, Sequential,
    Shape, Unfold, Whole,
};
use layerwise::loss::{
    BinaryCrossEntropy, ClassWeights, Gaussian, Huber, KullbackLeibler, LabelSmoothing, Loss, Pair,
    Poisson, PseudoHuber, Quantile, SoftmaxCrossEntropy, SquaredError, SumOverPositions,
    WeightedBinaryCrossEntropy, WeightedCrossEntropy, WeightedSquaredError,
};
use layerwise::nalgebra::DMatrix;
use layerwise::optimizer::Adam;
use layerwise::rand::Rng;
use layerwise::registry::Registry;
use layerwise::regularizer::Regularizer;
use layerwise::storage::Stored;
use layerwise::target_solver::ReverseSweep;
use layerwise::training::{Decoupling, Phase, Session, Trainer};
use layerwise::{Circuit, DecoupledCircuit, Error};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

/// A new folder for the files of one test; it is removed at its end.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let name = format!("layerwise-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Pairs of neighbours in a sequence.
#[derive(Debug)]
struct Pairs(usize);

impl Unfold for Pairs {
    fn input_shape(&self) -> Shape {
        self.0.into()
    }

    fn patch_len(&self) -> usize {
        2
    }

    fn positions(&self) -> Shape {
        (self.0 - 1).into()
    }

    fn source(&self, entry: usize, position: usize) -> Option<usize> {
        Some(entry + position)
    }

    fn description(&self) -> Option<Description> {
        Some(Description::new("Pairs").with("length", self.0))
    }
}

/// A layer that does not describe itself: its parameters are its output.
#[derive(Debug)]
struct Constant(usize);

impl<T: Stored> Layer<T> for Constant {
    fn input_shape(&self) -> Shape {
        self.0.into()
    }

    fn output_shape(&self) -> Shape {
        self.0.into()
    }

    fn parameters(&self) -> Vec<ParameterGroup> {
        ParameterGroup::tile([ParameterGroup::new("values", [self.0])])
    }

    fn initialize(&self, parameters: &mut [T], _: &mut dyn Rng) {
        parameters.fill(T::one());
    }

    fn scratch(&self, _: usize) -> Scratch {
        Scratch::NONE
    }

    fn forward(
        &self,
        _: &Context<'_>,
        parameters: &[T],
        _: &[T],
        output: &mut [T],
        _: Option<&mut [T]>,
        _: &mut [T],
    ) {
        for column in output.chunks_exact_mut(self.0) {
            column.copy_from_slice(parameters);
        }
    }

    fn vjp(
        &self,
        _: &Point<'_, T>,
        g: &[T],
        d_input: Write<'_, T>,
        d_parameters: Write<'_, T>,
        _: &mut [T],
    ) {
        d_input.each(|_| T::zero());
        let entry = |j: usize| g.iter().skip(j).step_by(self.0);
        d_parameters.each(|j| entry(j).fold(T::zero(), |sum, &g| sum + g));
    }
}

fn registry<T: Stored>() -> Registry<T> {
    Registry::new().with_unfold("Pairs", |own| Ok(Pairs(own.count("length")?)))
}

fn initializers() -> [Initializer; 6] {
    [
        Initializer::Zeros,
        Initializer::Constant { value: -0.1 },
        Initializer::glorot_uniform(),
        Initializer::he_normal(),
        Initializer::VarianceScaling {
            scale: 0.3,
            fan: Fan::Out,
            distribution: Distribution::Uniform,
        },
        Initializer::Orthogonal { gain: 1.5 },
    ]
}

fn layers<T: Stored>() -> Vec<Box<dyn Layer<T>>> {
    let mut all: Vec<Box<dyn Layer<T>>> = Vec::new();
    for activation in [
        Activation::Identity,
        Activation::Tanh,
        Activation::Sigmoid,
        Activation::Relu,
        Activation::LeakyRelu { slope: 0.1 },
        Activation::LeakyRelu { slope: 0.0 },
        Activation::LeakyRelu { slope: 1.0 },
        Activation::Gelu,
        Activation::Silu,
        Activation::Softplus,
    ] {
        all.push(Box::new(Dense::new(3, 2, activation).unwrap()));
    }
    for own in initializers() {
        let layer = Dense::new(2, 5, Activation::Tanh).unwrap();
        all.push(Box::new(
            layer.with_weights(own).unwrap().with_bias(own).unwrap(),
        ));
    }
    let plain = Dense::new(4, 4, Activation::Relu).unwrap().without_bias();
    all.push(Box::new(plain.clone()));
    let image = Whole::new([2, 3, 1]);
    all.push(Box::new(
        Patchwise::over(image, 2, Activation::Tanh).unwrap(),
    ));
    all.push(Box::new(
        Patchwise::over(Pairs(5), 3, Activation::Relu).unwrap(),
    ));
    let inner = Sequential::new(vec![
        Box::new(plain) as Box<dyn Layer<T>>,
        Box::new(Dense::new(4, 2, Activation::Silu).unwrap()),
    ]);
    let outer = vec![
        Box::new(inner.unwrap()) as Box<dyn Layer<T>>,
        Box::new(Dense::new(2, 3, Activation::Identity).unwrap()),
    ];
    all.push(Box::new(Sequential::new(outer).unwrap()));
    all
}

fn losses<T: Stored>() -> Vec<Box<dyn Loss<T>>> {
    let of = |values: [f64; 2]| values.map(T::of).to_vec();
    let smooth = LabelSmoothing::new(SoftmaxCrossEntropy, 0.1).unwrap();
    vec![
        Box::new(SquaredError),
        Box::new(WeightedSquaredError::new(of([1.0, 0.3])).unwrap()),
        Box::new(Huber::new(0.7).unwrap()),
        Box::new(PseudoHuber::new(3.0).unwrap()),
        Box::new(Gaussian::new(of([2.0, 0.1])).unwrap()),
        Box::new(Gaussian::learned(T::of(0.9), T::of(1e-3)).unwrap()),
        Box::new(Gaussian::learned_shared(T::of(1.1), T::zero()).unwrap()),
        Box::new(Poisson),
        Box::new(Quantile::new(0.9).unwrap()),
        Box::new(WeightedBinaryCrossEntropy::new(of([2.0, 0.7])).unwrap()),
        Box::new(WeightedCrossEntropy::new(of([0.1, 3.0])).unwrap()),
        Box::new(LabelSmoothing::binary(BinaryCrossEntropy, 0.2).unwrap()),
        Box::new(BinaryCrossEntropy),
        Box::new(SoftmaxCrossEntropy),
        Box::new(KullbackLeibler),
        Box::new(smooth),
        Box::new(ClassWeights::new(of([0.0, 3.0]), smooth).unwrap()),
        Box::new(SumOverPositions::new(3, smooth).unwrap()),
    ]
}

fn parts_are_built_again<T: Stored>() {
    let registry = registry::<T>();
    for layer in layers::<T>() {
        let description = layer.description().unwrap();
        let text = serde_json::to_string(&description).unwrap();
        let read: Description = serde_json::from_str(&text).unwrap();
        assert_eq!(read, description);
        let again = registry.layer(&read).unwrap();
        assert_eq!(format!("{again:?}"), format!("{layer:?}"));
    }
    let mut kinds: Vec<String> = Vec::new();
    for loss in losses::<T>() {
        let description = loss.description().unwrap();
        kinds.push(description.kind().into());
        let text = serde_json::to_string(&description).unwrap();
        let again = registry
            .loss(&serde_json::from_str(&text).unwrap())
            .unwrap();
        assert_eq!(format!("{again:?}"), format!("{loss:?}"));
    }
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(
        kinds,
        registry.losses().collect::<Vec<_>>(),
        "every loss is tried"
    );
}

/// Every loss in the folder of the losses describes itself.
#[test]
fn every_loss_is_registered() {
    let registry = Registry::<f64>::new();
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("src/loss");
    let mut found = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        for part in text.split("> Loss<T> for ").skip(1) {
            let name: String = part.chars().take_while(|c| c.is_alphanumeric()).collect();
            assert!(registry.losses().any(|own| own == name), "{name}");
            found += 1;
        }
    }
    assert_eq!(found, registry.losses().count());
}

#[test]
fn layers_and_losses_are_built_again_from_their_descriptions() {
    parts_are_built_again::<f32>();
    parts_are_built_again::<f64>();
}

#[test]
fn descriptions_that_describe_nothing_are_refused() {
    let registry = Registry::<f64>::new();
    let refused = |text: &str| {
        let description = serde_json::from_str(text).unwrap();
        registry.layer(&description).unwrap_err().to_string()
    };
    let told = refused(r#"{"kind": "Conv", "settings": {}}"#);
    assert!(
        told.contains("'Conv'") && told.contains("Dense") && told.contains("Sequential"),
        "{told}"
    );
    let told = refused(r#"{"kind": "Dense", "settings": {"inputs": [3]}}"#);
    assert!(
        told.contains("channels must be a whole number, but is missing"),
        "{told}"
    );
    let dense = |more: &str| {
        format!(
            r#"{{"kind": "Dense", "settings": {{"inputs": [3], "channels": 2,
                "activation": "relu", "weights": {{"kind": "Zeros", "settings": {{}}}}{more}}}}}"#
        )
    };
    registry
        .layer(&serde_json::from_str(&dense("")).unwrap())
        .unwrap();
    let told = refused(&dense(r#", "dropout": 0.5"#));
    assert!(told.contains("dropout = 0.5"), "{told}");
    let told = refused(&dense("").replace("relu", "swish"));
    assert!(told.contains("swish"), "{told}");
    let told = refused(&dense("").replace("[3]", "[1, 1, 1, 1, 3]"));
    assert!(told.contains("four axes"), "{told}");
    let told = refused(&dense("").replace("relu", "leaky_relu(1.5)"));
    assert!(told.contains("1.5"), "{told}");
    let told = refused(
        r#"{"kind": "Patchwise", "settings": {"unfold": {"kind": "Pairs", "settings": {}}}}"#,
    );
    assert!(
        told.contains("'Pairs'") && told.contains("Positions"),
        "{told}"
    );
    // A whole number is a number.
    let huber = serde_json::from_str(r#"{"kind": "Huber", "settings": {"delta": 2}}"#).unwrap();
    assert_eq!(
        format!("{:?}", registry.loss(&huber).unwrap()),
        "Huber { delta: 2.0 }"
    );
}

fn circuit<T: Stored>(seed: u64) -> Circuit<T> {
    Circuit::builder()
        .seed(seed)
        .layer(Patchwise::over(Pairs(4), 2, Activation::Tanh).unwrap())
        .layer(Dense::new(6, 3, Activation::Sigmoid).unwrap())
        .layer(Dense::new(3, 2, Activation::Identity).unwrap())
        .build()
        .unwrap()
}

fn energy<T: Stored>() -> Energy<T> {
    let hidden: Vec<Box<dyn Loss<T>>> = vec![
        Box::new(Gaussian::learned(T::of(0.9), T::of(1e-3)).unwrap()),
        Box::new(SquaredError),
    ];
    Energy::new(LabelSmoothing::new(SoftmaxCrossEntropy, 0.1).unwrap())
        .with_hidden_losses(hidden)
        .with_penalties(vec![T::of(0.7), T::of(1.0 / 3.0)])
        .with_parameter_regularizer(Regularizer::l2(0.1).unwrap())
        .with_target_regularizer(Regularizer::l1(0.2).unwrap())
}

/// A model whose every part differs from a new one's.
fn model<T: Stored>() -> DecoupledCircuit<T> {
    let mut model = DecoupledCircuit::new(circuit(5), energy()).unwrap();
    let x = DMatrix::from_fn(4, 6, |i, j| T::of((i as f64 - 1.3 * j as f64).sin()));
    let y = DMatrix::from_fn(2, 6, |i, j| T::of(if i == j % 2 { 1.0 } else { 0.0 }));
    let init = TargetInit::NoisyForwardPass { std: 0.2, seed: 3 };
    model.add_examples(&x, &y, &init).unwrap();
    model.remove_examples(&[1, 4]).unwrap();
    let weights = [0.5, 1.0, 3.0, 0.1].map(T::of);
    model
        .set_example_weights(&Selection::All, &weights)
        .unwrap();
    let theta: Vec<T> = model
        .circuit()
        .parameters(0)
        .iter()
        .map(|&v| v + T::of(0.1))
        .collect();
    model.set_parameters(0, &theta).unwrap();
    model
}

/// That two models are the same, bit for bit.
fn assert_same<T: Stored>(a: &DecoupledCircuit<T>, b: &DecoupledCircuit<T>) {
    assert_eq!(format!("{a:?}"), format!("{b:?}"));
    assert_eq!(a.energies().unwrap(), b.energies().unwrap());
}

fn models_come_back<T: Stored>() {
    let folder = Folder::new(&format!("models-{}", T::NAME));
    let path = folder.file("model.safetensors");
    let model = model::<T>();
    model.save(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    assert_eq!(bytes, model.to_bytes().unwrap());
    let mut opened = DecoupledCircuit::open(&path, &registry()).unwrap();
    assert_same(&opened, &model);
    assert_eq!(opened.to_bytes().unwrap(), bytes);
    let from_bytes = DecoupledCircuit::from_bytes(&bytes, &registry()).unwrap();
    assert_same(&from_bytes, &model);
    // The next example gets the id that it would have got.
    let (x, y) = (
        DMatrix::from_element(4, 1, T::one()),
        DMatrix::from_element(2, 1, T::of(0.5)),
    );
    assert_eq!(
        opened
            .add_examples(&x, &y, &TargetInit::ForwardPass)
            .unwrap(),
        6..7
    );
    // Into a model that is built alike, whatever is in it.
    let mut other = DecoupledCircuit::new(circuit(8), energy()).unwrap();
    other
        .add_examples(&x, &y, &TargetInit::ForwardPass)
        .unwrap();
    other.load(&path).unwrap();
    assert_same(&other, &model);
    // The circuit alone, to predict with.
    let alone = Circuit::open(&path, &registry()).unwrap();
    assert_eq!(alone.predict(&x).unwrap(), model.predict(&x).unwrap());
    let mut loaded = circuit::<T>(1);
    circuit::<T>(9).save(&path).unwrap();
    loaded.load(&path).unwrap();
    assert_eq!(format!("{loaded:?}"), format!("{:?}", circuit::<T>(9)));
    assert_eq!(
        fs::read_dir(&folder.0).unwrap().count(),
        1,
        "no partial file stays"
    );
}

#[test]
fn models_and_circuits_come_back_as_they_were_saved() {
    models_come_back::<f32>();
    models_come_back::<f64>();
}

/// A file of a model whose targets are computed has none, and is read as such a model.
#[test]
fn computed_targets_are_in_no_file() {
    let mut model = model::<f64>();
    let stored = model.to_bytes().unwrap().len();
    model.initialize_targets(&TargetInit::Computed).unwrap();
    let bytes = model.to_bytes().unwrap();
    let hidden: usize = (1..model.circuit().depth())
        .map(|t| model.circuit().dims()[t])
        .sum();
    assert!(bytes.len() + 8 * hidden * model.examples().len() < stored);
    let opened = DecoupledCircuit::from_bytes(&bytes, &registry()).unwrap();
    assert_same(&opened, &model);
    assert_eq!(opened.memory(1).unwrap().targets, 0);
    // Into a model with stored ones, which then has none, and back.
    let folder = Folder::new("computed");
    let paths = ["computed", "stored"].map(|name| folder.file(name));
    fs::write(&paths[0], &bytes).unwrap();
    let mut other = self::model::<f64>();
    other.save(&paths[1]).unwrap();
    other.load(&paths[0]).unwrap();
    assert_same(&other, &model);
    other.load(&paths[1]).unwrap();
    assert_same(&other, &self::model::<f64>());
    // A run that is taken up again.
    let scheme = || Decoupling::refreshed(ReverseSweep::new(1));
    let phase = Phase::new(scheme(), Adam::new(0.01).unwrap()).with_epochs(3);
    let trainer = Trainer::new(phase.with_batch_size(2).unwrap());
    let mut whole = Session::new(&trainer, model.clone()).unwrap();
    let path = folder.file("run");
    for _ in 0..3 {
        whole.advance().unwrap();
    }
    whole.save(&path).unwrap();
    let mut again = Session::reopen(&trainer, opened, &path).unwrap();
    while whole.advance().unwrap().is_some() {
        again.advance().unwrap();
    }
    assert_same(again.model(), whole.model());
}

#[test]
fn arrays_have_the_names_and_shapes_that_other_programs_expect() {
    let model = model::<f64>();
    let bytes = model.to_bytes().unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut names = file.names();
    names.sort_unstable();
    let expected = "0.bias 0.loss.log precision 0.weights 1.bias 1.weights 2.bias 2.weights \
                    energy.penalties examples.ids examples.weights examples.z0 examples.z1 \
                    examples.z2 examples.z3";
    assert_eq!(names.join(" "), expected);
    let weights = file.tensor("1.weights").unwrap();
    assert_eq!(
        (weights.dtype(), weights.shape()),
        (Dtype::F64, &[3, 6][..])
    );
    let entry = |i: usize, j: usize| {
        let bytes = &weights.data()[8 * (6 * i + j)..][..8];
        f64::from_le_bytes(bytes.try_into().unwrap())
    };
    for (place, &value) in model.circuit().parameters(1)[..18].iter().enumerate() {
        assert_eq!(entry(place % 3, place / 3), value);
    }
    let z = file.tensor("examples.z1").unwrap();
    assert_eq!(z.shape(), [4, 6]);
    let own = model.z(1).unwrap();
    let second = f64::from_le_bytes(z.data()[8 * 6..8 * 7].try_into().unwrap());
    assert_eq!(second, own[(0, 1)]);
}

#[test]
fn damaged_files_are_refused_at_every_byte() {
    let folder = Folder::new("damaged");
    let path = folder.file("model");
    let mut model = DecoupledCircuit::new(
        Circuit::<f32>::builder()
            .layer(Dense::new(1, 2, Activation::Tanh).unwrap())
            .layer(Dense::new(2, 1, Activation::Identity).unwrap())
            .build()
            .unwrap(),
        Energy::default(),
    )
    .unwrap();
    let x = DMatrix::from_element(1, 2, 0.5);
    model
        .add_examples(&x, &x, &TargetInit::ForwardPass)
        .unwrap();
    let bytes = model.to_bytes().unwrap();
    let before = format!("{model:?}");
    let registry = Registry::<f32>::new();
    for cut in 0..bytes.len() {
        DecoupledCircuit::from_bytes(&bytes[..cut], &registry).unwrap_err();
        Circuit::from_bytes(&bytes[..cut], &registry).unwrap_err();
    }
    let mut unchanged = 0;
    for place in 0..bytes.len() {
        for bit in [0, 3, 5, 7] {
            let mut damaged = bytes.clone();
            damaged[place] ^= 1 << bit;
            match DecoupledCircuit::from_bytes(&damaged, &registry) {
                Err(_) => continue,
                Ok(read) => assert_eq!(format!("{read:?}"), before, "byte {place}, bit {bit}"),
            }
            unchanged += 1;
        }
    }
    assert_eq!(unchanged, 0);
    let mut longer = bytes.clone();
    longer.push(0);
    DecoupledCircuit::from_bytes(&longer, &registry).unwrap_err();
    // A load that fails changes nothing.
    for cut in [0, 7, bytes.len() / 2, bytes.len() - 1] {
        fs::write(&path, &bytes[..cut]).unwrap();
        let error = model.load(&path).unwrap_err();
        assert!(matches!(error, Error::Format { .. }), "{error}");
        assert!(error.to_string().contains("model"), "{error}");
        assert_eq!(format!("{model:?}"), before);
    }
}

/// The bytes of a file whose manifest is changed, with the right checksum if `sealed`.
fn edited(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let at = bytes
        .windows(from.len())
        .position(|own| own == from.as_bytes());
    let at = at.unwrap_or_else(|| panic!("{from} is in the file"));
    let mut edited = bytes.to_vec();
    edited[at..at + to.len()].copy_from_slice(to.as_bytes());
    edited
}

#[test]
fn files_of_something_else_are_told_with_both_sides() {
    let folder = Folder::new("foreign");
    let path = folder.file("saved");
    let circuit = circuit::<f64>(0);
    circuit.save(&path).unwrap();
    let told = |result: Result<(), Error>, parts: &[&str]| {
        let error = result.unwrap_err();
        let text = error.to_string();
        for part in parts {
            assert!(text.contains(part), "{text}: {part}");
        }
        error
    };
    // Another scalar, depth, layer.
    let narrow = Circuit::<f32>::open(&path, &registry()).map(|_| ());
    let error = told(narrow, &["the scalar type differs: f32 here, but f64 in"]);
    assert!(matches!(error, Error::Architecture { .. }));
    let dense = |inputs, outputs, activation| Dense::new(inputs, outputs, activation).unwrap();
    let built = |last: Activation| {
        Circuit::<f64>::builder()
            .layer(Patchwise::over(Pairs(4), 2, Activation::Tanh).unwrap())
            .layer(dense(6, 3, Activation::Sigmoid))
            .layer(dense(3, 2, last))
    };
    let mut deeper = built(Activation::Tanh)
        .layer(dense(2, 2, Activation::Tanh))
        .build()
        .unwrap();
    told(deeper.load(&path), &["the depth differs: 4 here, but 3 in"]);
    let mut other = built(Activation::Tanh).build().unwrap();
    told(
        other.load(&path),
        &[
            "layer 2 differs",
            "but Dense(activation = identity",
            "differs: Dense(activation = tanh",
        ],
    );
    // Other losses and regularisers.
    model::<f64>().save(&path).unwrap();
    let mut other = DecoupledCircuit::new(circuit.clone(), Energy::default()).unwrap();
    told(
        other.load(&path),
        &["the loss of hidden layer 1", "Gaussian(", "SquaredError"],
    );
    let energy = energy().with_parameter_regularizer(Regularizer::l2(0.3).unwrap());
    let mut other = DecoupledCircuit::new(circuit.clone(), energy).unwrap();
    told(
        other.load(&path),
        &["the regularisers of parameters", "0.1", "0.3"],
    );
    // A circuit where a model is needed; no file; a folder.
    circuit.save(&path).unwrap();
    let mut own = model::<f64>();
    told(own.load(&path), &["it holds a circuit alone"]);
    let error = told(
        own.load(folder.file("none")),
        &["none could not be read", "No such file"],
    );
    assert!(matches!(error, Error::File { .. }));
    told(own.save(&folder.0), &["could not be written"]);
    told(
        own.save(folder.file("no/such/folder")),
        &["could not be written"],
    );
    // Newer versions, other programs' files, and no file at all.
    let bytes = circuit.to_bytes().unwrap();
    let open = |bytes: &[u8]| Circuit::from_bytes(bytes, &registry::<f64>()).map(|_| ());
    let newer = edited(&bytes, r#"\"version\":1"#, r#"\"version\":7"#);
    told(open(&newer), &["its version is 7", "up to version 1"]);
    let foreign = edited(&bytes, "layerwise", "somewhere");
    told(open(&foreign), &["not saved by this crate"]);
    told(
        open(&edited(&bytes, "checksum", "checksun")),
        &["does not begin with a checksum"],
    );
    told(
        open(&edited(&bytes, "sigmoid", "sigmoit")),
        &["damaged", "checksum"],
    );
    told(open(b"hello"), &["not a safetensors file"]);
    // Layers that cannot be built from the file.
    let open = Circuit::<f64>::from_bytes(&bytes, &Registry::new()).map(|_| ());
    told(open, &["no unfold of kind 'Pairs'"]);
    let undescribed = || {
        Circuit::<f64>::builder()
            .layer(Constant(2))
            .build()
            .unwrap()
    };
    undescribed().save(&path).unwrap();
    let open = Circuit::<f64>::open(&path, &Registry::new()).map(|_| ());
    told(open, &["layer 0, Constant(2), has no description"]);
    let mut loaded = undescribed();
    loaded.set_parameters(0, &[7.0, 8.0]).unwrap();
    loaded.load(&path).unwrap();
    assert_eq!(loaded.parameters(0), [1.0, 1.0]);
    let mut other = Circuit::<f64>::builder()
        .layer(Constant(3))
        .build()
        .unwrap();
    told(
        other.load(&path),
        &["layer 0 differs: Constant(3) here, but Constant(2) in"],
    );
}

#[test]
fn groups_of_one_name_are_not_lost_in_silence() {
    let twice = Sequential::new(vec![
        Box::new(Dense::new(2, 2, Activation::Tanh).unwrap()) as Box<dyn Layer<f64>>,
        Box::new(Twice),
    ]);
    let circuit = Circuit::builder().layer(twice.unwrap()).build().unwrap();
    let error = circuit.to_bytes().unwrap_err().to_string();
    assert!(error.contains("two arrays named '0.1.a'"), "{error}");
}

/// A layer with two groups of one name.
#[derive(Debug)]
struct Twice;

impl Layer<f64> for Twice {
    fn input_shape(&self) -> Shape {
        2.into()
    }

    fn output_shape(&self) -> Shape {
        2.into()
    }

    fn parameters(&self) -> Vec<ParameterGroup> {
        ParameterGroup::tile(["a", "a"].map(|name| ParameterGroup::new(name, [1])))
    }

    fn initialize(&self, parameters: &mut [f64], _: &mut dyn Rng) {
        parameters.fill(0.0);
    }

    fn scratch(&self, _: usize) -> Scratch {
        Scratch::NONE
    }

    fn forward(
        &self,
        _: &Context<'_>,
        _: &[f64],
        input: &[f64],
        output: &mut [f64],
        _: Option<&mut [f64]>,
        _: &mut [f64],
    ) {
        output.copy_from_slice(input);
    }

    fn vjp(
        &self,
        _: &Point<'_, f64>,
        g: &[f64],
        d_input: Write<'_, f64>,
        d_parameters: Write<'_, f64>,
        _: &mut [f64],
    ) {
        d_input.each(|i| g[i]);
        d_parameters.each(|_| 0.0);
    }
}

/// A crash while a file is written leaves some beginning of the new one beside the old one.
#[test]
fn a_crash_at_any_byte_leaves_the_old_file() {
    let folder = Folder::new("crash");
    let (path, partial) = (folder.file("circuit"), folder.file("circuit.partial"));
    let small = |seed| {
        let builder = Circuit::<f64>::builder().seed(seed);
        let layer = Dense::new(2, 1, Activation::Tanh).unwrap();
        builder.layer(layer).build().unwrap()
    };
    let (old, new) = (small(1), small(2));
    let bytes = new.to_bytes().unwrap();
    old.save(&path).unwrap();
    let mut read = small(0);
    for cut in 0..=bytes.len() {
        fs::write(&partial, &bytes[..cut]).unwrap();
        read.load(&path).unwrap();
        assert_eq!(read.parameters(0), old.parameters(0));
    }
    // What was left behind does not get into the next file.
    fs::write(&partial, vec![b'x'; 10_000]).unwrap();
    new.save(&path).unwrap();
    assert_eq!(fs::read(&path).unwrap(), bytes);
    assert!(!partial.exists());
}

/// Weights that PyTorch saved, with the outputs that it computed (tests/data/storage.py).
fn weights_of_pytorch<T: Stored>(file: &str, tolerance: f64) {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("tests/data");
    let text = fs::read_to_string(folder.join("pytorch.json")).unwrap();
    let values: serde_json::Value = serde_json::from_str(&text).unwrap();
    let number = |value: &serde_json::Value| T::of(value.as_f64().unwrap());
    let inputs = values["inputs"].as_array().unwrap();
    let x = DMatrix::from_fn(2, inputs.len(), |i, j| number(&inputs[j][i]));
    let mut circuit = Circuit::<T>::builder()
        .layer(Dense::new(2, 3, Activation::Tanh).unwrap())
        .layer(Dense::new(3, 1, Activation::Identity).unwrap())
        .build()
        .unwrap();
    let name = |t: usize, group: &ParameterGroup| {
        let array = if group.name == "weights" {
            "weight"
        } else {
            "bias"
        };
        format!("{}.{array}", 2 * t)
    };
    let path = folder.join(file);
    circuit.load_tensors(&path, name).unwrap();
    let outputs = circuit.predict(&x).unwrap();
    for (own, expected) in outputs.iter().zip(values["outputs"].as_array().unwrap()) {
        let error = (own.as_f64() - expected.as_f64().unwrap()).abs();
        assert!(error < tolerance, "{error}");
    }
    // Names and shapes that are not there are told, and change nothing.
    let before = circuit.parameters(0).to_vec();
    let missing = circuit.load_tensors(&path, |t, group| format!("{t}.{}", group.name));
    let told = missing.unwrap_err().to_string();
    assert!(
        told.contains("'0.weights'") && told.contains("2.bias, 2.weight"),
        "{told}"
    );
    let swapped = circuit.load_tensors(&path, |t, group| name(1 - t, group));
    let told = swapped.unwrap_err().to_string();
    assert!(told.contains("[1, 3]") && told.contains("[3, 2]"), "{told}");
    assert_eq!(circuit.parameters(0), before);
}

#[test]
fn weights_of_pytorch_give_its_outputs() {
    weights_of_pytorch::<f32>("pytorch_f32.safetensors", 1e-6);
    weights_of_pytorch::<f64>("pytorch_f64.safetensors", 1e-14);
    // Numbers of f32 are numbers of f64, and not the other way round.
    weights_of_pytorch::<f64>("pytorch_f32.safetensors", 1e-14);
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join("tests/data");
    let layer = Dense::new(2, 3, Activation::Tanh).unwrap();
    let mut circuit = Circuit::<f32>::builder().layer(layer).build().unwrap();
    let path = folder.join("pytorch_f64.safetensors");
    let narrow = circuit.load_tensors(&path, |_, _| "0.weight".into());
    let told = narrow.unwrap_err().to_string();
    assert!(told.contains("F64") && told.contains("F32"), "{told}");
}

/// A layer that describes itself by any setting.
#[derive(Debug)]
struct Told(Dense, Setting);

impl Layer<f64> for Told {
    fn input_shape(&self) -> Shape {
        self.0.input_shape()
    }

    fn output_shape(&self) -> Shape {
        self.0.output_shape()
    }

    fn parameters(&self) -> Vec<ParameterGroup> {
        self.0.parameters()
    }

    fn initialize(&self, parameters: &mut [f64], rng: &mut dyn Rng) {
        self.0.initialize(parameters, rng);
    }

    fn scratch(&self, batch: usize) -> Scratch {
        self.0.scratch(batch)
    }

    fn forward(
        &self,
        context: &Context<'_>,
        parameters: &[f64],
        input: &[f64],
        output: &mut [f64],
        tape: Option<&mut [f64]>,
        work: &mut [f64],
    ) {
        self.0
            .forward(context, parameters, input, output, tape, work);
    }

    fn vjp(
        &self,
        at: &Point<'_, f64>,
        g: &[f64],
        d_input: Write<'_, f64>,
        d_parameters: Write<'_, f64>,
        work: &mut [f64],
    ) {
        self.0.vjp(at, g, d_input, d_parameters, work);
    }

    fn description(&self) -> Option<Description> {
        Some(Description::new("Told").with("setting", self.1.clone()))
    }
}

/// A builder that builds something else is found out.
#[test]
fn a_registry_returns_what_was_described() {
    let described = Layer::<f64>::description(&Dense::new(2, 3, Activation::Tanh).unwrap());
    let layers =
        Registry::<f64>::new().with_layer("Dense", |_, _| Dense::new(3, 2, Activation::Tanh));
    let losses = Registry::<f64>::new().with_loss("Huber", |_, _| Huber::new(2.0));
    let errors = [
        layers.layer(&described.unwrap()).map(drop),
        losses
            .loss(&Loss::<f64>::description(&Huber::new(1.0).unwrap()).unwrap())
            .map(drop),
    ];
    for error in errors {
        assert!(
            matches!(&error, Err(Error::Description { setting, .. }) if setting == "what was built"),
            "{error:?}"
        );
    }
}

/// What could not be read again is refused when it is saved, not when it is needed.
#[test]
fn what_is_saved_can_be_opened() {
    let dense = || Dense::new(2, 2, Activation::Tanh).unwrap();
    let of = |setting: Setting| {
        let layer = Told(dense(), setting);
        Circuit::<f64>::builder().layer(layer).build().unwrap()
    };
    for number in [f64::INFINITY, f64::NAN] {
        let error = of(number.into()).to_bytes().unwrap_err().to_string();
        assert!(error.contains("cannot be read again"), "{error}");
    }
    let deep = (0..60).fold(Box::new(dense()) as Box<dyn Layer<f64>>, |inner, _| {
        Box::new(Sequential::new(vec![inner]).unwrap())
    });
    let deep = Circuit::<f64>::builder().layer(deep).build().unwrap();
    let error = deep.to_bytes().unwrap_err().to_string();
    assert!(error.contains("cannot be read again"), "{error}");
    // Lists of nothing, of any type.
    for setting in [
        Setting::Parts(Vec::new()),
        Setting::Counts(Vec::new()),
        Setting::Numbers(Vec::new()),
    ] {
        let registry = Registry::new().with_layer("Told", move |own, _| {
            assert!(own.parts("setting")?.is_empty());
            assert!(own.counts("setting")?.is_empty() && own.numbers("setting")?.is_empty());
            Ok(Told(dense(), Setting::Parts(Vec::new())))
        });
        let bytes = of(setting).to_bytes().unwrap();
        Circuit::from_bytes(&bytes, &registry).unwrap();
    }
}

/// The last values first: its name is that of the crate's own unfold.
#[derive(Debug)]
struct Reversed(usize);

impl Unfold for Reversed {
    fn input_shape(&self) -> Shape {
        self.0.into()
    }

    fn patch_len(&self) -> usize {
        self.0
    }

    fn positions(&self) -> Shape {
        1.into()
    }

    fn source(&self, entry: usize, _: usize) -> Option<usize> {
        Some(self.0 - 1 - entry)
    }

    fn description(&self) -> Option<Description> {
        Some(Description::new("Whole").with("inputs", &[self.0][..]))
    }
}

#[test]
fn names_of_the_crate_are_not_mixed_up_with_those_of_users() {
    let layer = Patchwise::over(Reversed(2), 3, Activation::Tanh).unwrap();
    let circuit = Circuit::<f64>::builder().layer(layer).build().unwrap();
    let bytes = circuit.to_bytes().unwrap();
    Circuit::<f64>::from_bytes(&bytes, &Registry::new()).unwrap_err();
    let registry =
        Registry::new().with_unfold("Whole", |own| Ok(Reversed(own.counts("inputs")?[0])));
    let opened = Circuit::from_bytes(&bytes, &registry).unwrap();
    let x = DMatrix::from_column_slice(2, 1, &[1.0, -3.0]);
    assert_eq!(opened.predict(&x).unwrap(), circuit.predict(&x).unwrap());
}

/// Several writers of one file: each writes it whole, or is told that another one does.
#[test]
fn writers_at_once_do_not_mix() {
    let folder = Folder::new("writers");
    let path = folder.file("circuit");
    let circuit = circuit::<f64>(1);
    let bytes = circuit.to_bytes().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..4000 {
                    if let Err(error) = circuit.save(&path) {
                        let told = error.to_string();
                        assert!(told.contains("another process is writing it"), "{told}");
                    }
                }
            });
        }
    });
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

/// The bytes of a file with another manifest, and the checksum that it needs (CRC-32).
fn sealed(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    sealed_with(bytes, from, to, |_, _| {})
}

/// The same, with other bytes in its arrays, which may be longer if they are bytes.
pub(crate) fn sealed_with(
    bytes: &[u8],
    from: &str,
    to: &str,
    change: impl Fn(&str, &mut Vec<u8>),
) -> Vec<u8> {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let (_, header) = SafeTensors::read_metadata(bytes).unwrap();
    let manifest = header.metadata().as_ref().unwrap()["layerwise"].replace(from, to);
    let rest = &manifest[r#"{"checksum":"00000000","#.len()..];
    let mut content = rest.as_bytes().to_vec();
    let mut names = file.names();
    names.sort_unstable();
    let mut arrays = Vec::new();
    for name in &names {
        let array = file.tensor(name).unwrap();
        let (mut data, mut shape) = (array.data().to_vec(), array.shape().to_vec());
        change(name, &mut data);
        if array.dtype() == Dtype::U8 {
            shape = vec![data.len()];
        }
        content.extend(format!("{name} {:?} {shape:?}", array.dtype()).as_bytes());
        content.extend(&data);
        arrays.push((name.to_string(), array.dtype(), shape, data));
    }
    let bit = |sum: u32| (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg());
    let byte = |sum: u32, &byte: &u8| (0..8).fold(sum ^ u32::from(byte), |sum, _| bit(sum));
    let sum = !content.iter().fold(u32::MAX, byte);
    let manifest = format!(r#"{{"checksum":"{sum:08x}",{rest}"#);
    let metadata = [("layerwise".to_owned(), manifest)].into_iter().collect();
    let views = arrays.iter().map(|(name, dtype, shape, data)| {
        let view = TensorView::new(*dtype, shape.clone(), data).unwrap();
        (name.as_str(), view)
    });
    safetensors::serialize(views, Some(metadata)).unwrap()
}

/// Files that nobody damaged, but that do not say what can be.
#[test]
fn hostile_files_are_refused() {
    let bytes = model::<f64>().to_bytes().unwrap();
    let open = |bytes: &[u8]| DecoupledCircuit::from_bytes(bytes, &registry::<f64>());
    assert_same(&open(&sealed(&bytes, "no", "no")).unwrap(), &model());
    for (from, to, told) in [
        (
            r#""next":6"#,
            r#""next":18446744073709551615"#,
            "next example",
        ),
        (r#""next":6"#, r#""next":5"#, "increasing order"),
        (r#""count":4"#, r#""count":5"#, "[5, 4]"),
        (r#""l2":0.1"#, r#""l2":-0.1"#, "Regularizer::l2 is -0.1"),
        (r#""epsilon":0.1"#, r#""epsilon":1.5"#, "1.5"),
        (
            r#""channels":3"#,
            r#""channels":4"#,
            "outputs of dimension 4",
        ),
        (
            r#""channels":3"#,
            r#""channels":1000000000000000"#,
            "outputs of dimension 1000000000000000",
        ),
    ] {
        let error = open(&sealed(&bytes, from, to)).unwrap_err().to_string();
        assert!(error.contains(told), "{to}: {error}");
    }
}

/// A version that never was, and entries that this version does not know.
#[test]
fn manifests_that_say_more_than_is_known_are_refused() {
    let bytes = model::<f64>().to_bytes().unwrap();
    let open = |bytes: &[u8]| DecoupledCircuit::from_bytes(bytes, &registry::<f64>());
    for (from, to, told) in [
        (r#""version":1"#, r#""version":0"#, "version is 0"),
        (r#""version":1"#, r#""version":2"#, "version is 2"),
        (r#""seed":"#, r#""dropout":0.5,"seed":"#, "'dropout'"),
        (r#""next":6"#, r#""next":6,"masked":true"#, "'masked'"),
        (r#""l2":0.1"#, r#""l2":0.1,"l3":0.1"#, "`l3`"),
    ] {
        let error = open(&sealed(&bytes, from, to)).unwrap_err();
        assert!(matches!(error, Error::Format { .. }), "{to}: {error}");
        assert!(error.to_string().contains(told), "{to}: {error}");
    }
}

#[cfg(unix)]
#[test]
fn a_saved_file_keeps_its_permissions_and_its_links() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let folder = Folder::new("links");
    let circuit = circuit::<f64>(1);
    let bytes = circuit.to_bytes().unwrap();
    let mode = |path: &PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for wanted in [0o600, 0o664, 0o444] {
        let path = folder.file("kept");
        fs::write(&path, b"old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(wanted)).unwrap();
        // Twice, also over what a crash left.
        for _ in 0..2 {
            fs::write(folder.file("kept.partial"), b"half").unwrap();
            circuit.save(&path).unwrap();
            assert_eq!(mode(&path), wanted);
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
        fs::remove_file(&path).unwrap();
    }
    // Relative to the link's folder, through two links, to a file that is there and to one that is not.
    let below = folder.file("below");
    fs::create_dir(&below).unwrap();
    for exists in [true, false] {
        let name = format!("target{exists}");
        let target = folder.file(&name);
        if exists {
            fs::write(&target, b"old").unwrap();
        }
        let (first, second) = (folder.file("first"), below.join("second"));
        let _ = (fs::remove_file(&first), fs::remove_file(&second));
        symlink("below/second", &first).unwrap();
        symlink(format!("../{name}"), &second).unwrap();
        circuit.save(&first).unwrap();
        assert_eq!(fs::read(&target).unwrap(), bytes, "{exists}");
        for link in [&first, &second] {
            let kind = fs::symlink_metadata(link).unwrap().file_type();
            assert!(kind.is_symlink(), "{link:?}");
        }
    }
    let round = folder.file("round");
    symlink("round", &round).unwrap();
    let error = circuit.save(&round).unwrap_err();
    assert!(matches!(error, Error::File { .. }), "{error}");
}

/// A squared error with two groups of parameters, not in alphabetical order.
#[derive(Debug)]
struct Grouped;

impl<T: Stored> Loss<T> for Grouped {
    fn parameters(&self, dim: usize) -> Vec<ParameterGroup> {
        ParameterGroup::tile([
            ParameterGroup::new("shift", [dim]).decaying(),
            ParameterGroup::new("gain", [2, dim]),
        ])
    }

    fn evaluate(
        &self,
        at: &Pair<'_, T>,
        values: &mut [T],
        d_target: Write<'_, T>,
        d_prediction: Write<'_, T>,
        work: &mut [T],
    ) {
        SquaredError.evaluate(at, values, d_target, d_prediction, work);
    }

    fn curvature(
        &self,
        at: &Pair<'_, T>,
        v_target: Option<&[T]>,
        v_prediction: Option<&[T]>,
        out_target: Write<'_, T>,
        out_prediction: Write<'_, T>,
        work: &mut [T],
    ) {
        let (target, prediction) = (out_target, out_prediction);
        SquaredError.curvature(at, v_target, v_prediction, target, prediction, work);
    }
}

/// A circuit from a file takes its losses' parameters into an energy with these losses, as the
/// saved circuit itself does.
fn losses_keep_their_parameters<T: Stored>() {
    let energy = || {
        let learned = Gaussian::learned(T::of(0.9), T::of(1e-3)).unwrap();
        let hidden: Vec<Box<dyn Loss<T>>> = vec![Box::new(learned), Box::new(SquaredError)];
        Energy::new(Grouped).with_hidden_losses(hidden)
    };
    let mut trained = DecoupledCircuit::new(circuit::<T>(5), energy()).unwrap();
    for t in 0..3 {
        let count = trained.circuit().parameters(t).len();
        let values: Vec<T> = (0..count).map(|i| T::of((i as f64 + 0.3).sin())).collect();
        trained.set_parameters(t, &values).unwrap();
    }
    let saved = trained.into_circuit();
    let bytes = saved.to_bytes().unwrap();
    let opened = Circuit::from_bytes(&bytes, &registry()).unwrap();
    assert_eq!(opened.to_bytes().unwrap(), bytes);
    let folder = Folder::new("loss-parameters");
    fs::write(folder.file("circuit"), &bytes).unwrap();
    let mut loaded = circuit::<T>(0);
    loaded.load(folder.file("circuit")).unwrap();
    for own in [saved.clone(), opened, loaded] {
        // An energy with other losses begins with its own parameters.
        let other = Gaussian::learned_shared(T::of(1.1), T::zero()).unwrap();
        let other = Energy::new(other);
        let [own_other, other] =
            [own.clone(), circuit(5)].map(|own| DecoupledCircuit::new(own, other.clone()).unwrap());
        let own = DecoupledCircuit::new(own, energy()).unwrap();
        for t in 0..3 {
            assert_eq!(own.circuit().parameters(t), saved.parameters(t), "{t}");
            assert_eq!(own.circuit().parameter_groups(t), saved.parameter_groups(t));
        }
        let last = |model: &DecoupledCircuit<T>| model.circuit().parameters(2).last().copied();
        assert_eq!(last(&own_other), last(&other));
    }
}

#[test]
fn a_circuit_keeps_the_parameters_of_its_losses() {
    losses_keep_their_parameters::<f64>();
    losses_keep_their_parameters::<f32>();
}
