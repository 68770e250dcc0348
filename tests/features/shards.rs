//! A shard through JSON and back is the same local problem, bit for bit; a damaged one is refused
//! with a typed error, and changes nothing.

use std::cell::Cell;

use layerwise::decoupled::{Selection, TargetInit};
use layerwise::energy::{Energy, LocalGradients, LocalProblem};
use layerwise::error::Quantity;
use layerwise::layer::{Activation, Dense};
use layerwise::loss::{Gaussian, SquaredError};
use layerwise::nalgebra::DMatrix;
use layerwise::optimizer::{Adam, AdamW, Optimizer, Step};
use layerwise::regularizer::Regularizer;
use layerwise::shard::Shard;
use layerwise::{Circuit, DecoupledCircuit, Error, Loss, Scalar};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{RngSeed, TestRunner};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// A scalar that can be sent.
trait Sent: Scalar + Serialize + DeserializeOwned {}
impl Sent for f32 {}
impl Sent for f64 {}

const DEPTH: usize = 3;

fn layer(t: usize) -> Dense {
    let dense = |input, output, activation| Dense::new(input, output, activation).unwrap();
    match t {
        0 => dense(2, 4, Activation::Tanh),
        1 => dense(4, 3, Activation::Gelu).without_bias(),
        _ => dense(3, 2, Activation::Identity),
    }
}

fn gaussian<T: Scalar>() -> Gaussian<T> {
    Gaussian::learned(T::of(2.0), T::of(0.1)).unwrap()
}

/// The losses of layers 0 and 2 have parameters.
fn loss<T: Scalar>(t: usize) -> Box<dyn Loss<T>> {
    match t {
        1 => Box::new(SquaredError),
        _ => Box::new(gaussian()),
    }
}

fn circuit<T: Scalar>(layers: [Dense; DEPTH]) -> Circuit<T> {
    let builder = layers
        .into_iter()
        .fold(Circuit::builder(), |b, l| b.layer(l));
    builder.seed(u64::MAX - 5).build().unwrap()
}

fn energy<T: Scalar>() -> Energy<T> {
    Energy::new(gaussian())
        .with_hidden_losses(vec![loss(0), loss(1)])
        .with_penalties(vec![T::of(0.7), T::of(1.9)])
        .with_parameter_regularizer(Regularizer::elastic(0.01, 0.3).unwrap())
        .with_target_regularizer(Regularizer::l2(0.2).unwrap())
}

/// Seven examples, numbered with a gap, with weights of their own; some numbers are hard to print.
fn model<T: Scalar>() -> DecoupledCircuit<T> {
    let mut x = DMatrix::from_fn(2, 8, |i, j| T::of(((3 * i + 5 * j) as f64).sin()));
    x[(0, 1)] = -T::zero();
    x[(1, 3)] = T::of(1e-40);
    let y = DMatrix::from_fn(2, 8, |i, j| T::of(((i + 2 * j) as f64).cos()));
    let mut model = DecoupledCircuit::new(circuit([0, 1, 2].map(layer)), energy()).unwrap();
    let init = TargetInit::NoisyForwardPass { std: 0.5, seed: 3 };
    model.add_examples(&x, &y, &init).unwrap();
    model.remove_examples(&[2]).unwrap();
    let weights: Vec<T> = (1..=7).map(|i| T::of(f64::from(i) / 3.0)).collect();
    model
        .set_example_weights(&Selection::All, &weights)
        .unwrap();
    model
}

const SELECTIONS: [Selection<'_>; 3] = [
    Selection::All,
    Selection::Columns(1..5),
    Selection::Examples(&[6, 0, 3, 7]),
];

fn through_json<A: Serialize + DeserializeOwned>(value: &A) -> A {
    serde_json::from_str(&serde_json::to_string(value).unwrap()).unwrap()
}

/// `Debug` prints every bit of a finite number, the sign of zero included.
fn bits(value: &impl std::fmt::Debug) -> String {
    format!("{value:?}")
}

/// The selected examples alone, in the order of the selection.
fn alone<T: Scalar>(model: &DecoupledCircuit<T>, selection: &Selection<'_>) -> DecoupledCircuit<T> {
    let columns: Vec<usize> = match selection {
        Selection::All => (0..7).collect(),
        Selection::Columns(run) => run.clone().collect(),
        Selection::Examples(ids) => {
            let column = |id| model.examples().iter().position(|own| own == id);
            ids.iter().map(|id| column(id).unwrap()).collect()
        }
    };
    let z = |t: usize| model.z(t).unwrap().select_columns(&columns);
    let hidden = (1..DEPTH).map(z).collect();
    let mut alone = DecoupledCircuit::new(model.circuit().clone(), energy()).unwrap();
    let init = TargetInit::Given(hidden);
    alone.add_examples(&z(0), &z(DEPTH), &init).unwrap();
    let weights = model.example_weights().unwrap();
    let weights: Vec<T> = columns.iter().map(|&c| weights[c]).collect();
    alone
        .set_example_weights(&Selection::All, &weights)
        .unwrap();
    alone
}

fn round_trip<T: Sent>() {
    let model = model::<T>();
    for selection in &SELECTIONS {
        let own = alone(&model, selection);
        for t in 0..DEPTH {
            let shard = model.shard(t, selection).unwrap();
            let back: Shard<T> = through_json(&shard);
            assert_eq!(back, shard);
            assert_eq!(bits(&back), bits(&shard));

            let (layer, loss) = (layer(t), loss::<T>(t));
            let problem = back.problem(&layer, &*loss).unwrap();
            let here = own.local_problem(t, 0..own.examples().len()).unwrap();
            assert_eq!((problem.layer(), problem.examples()), (t, here.examples()));
            let gradients = problem.gradients();
            assert_eq!(bits(&gradients), bits(&here.gradients()));
            assert_eq!(bits(&problem.energy()), bits(&here.energy()));
            let whole = model.gradients(selection).unwrap();
            assert_eq!(gradients.parameters, whole.parameters[t]);

            let sent: LocalGradients<T> = through_json(&gradients);
            assert_eq!(bits(&sent), bits(&gradients));
        }
    }
    let chosen = model.shard(0, &SELECTIONS[2]).unwrap();
    assert_eq!(chosen.examples(), [6, 0, 3, 7]);
}

#[test]
fn a_shard_is_the_same_problem_after_json() {
    round_trip::<f32>();
    round_trip::<f64>();
}

/// Weights and regularisers are sent too: without any of them, E would be another.
#[test]
fn everything_in_a_shard_counts() {
    let model = model::<f64>();
    let energy = |shard: &Value| {
        let shard: Shard<f64> = serde_json::from_value(shard.clone()).unwrap();
        shard.problem(&layer(0), &*loss(0)).unwrap().energy()
    };
    let whole = serde_json::to_value(model.shard(0, &Selection::All).unwrap()).unwrap();
    for (pointer, other) in [
        ("/parameters/0", json!(0.3)),
        ("/penalty", json!(0.8)),
        ("/input/0", json!(0.3)),
        ("/target/0", json!(0.3)),
        ("/example_weights", json!([])),
        ("/parameter_regularizer/l1", json!(0.0)),
        ("/parameter_regularizer/l2", json!(0.0)),
        ("/target_regularizer/l2", json!(0.0)),
    ] {
        assert_ne!(
            energy(&with(&whole, pointer, other)),
            energy(&whole),
            "{pointer}"
        );
    }
}

/// Steps of AdamW on the parameters: all that a W-step of one layer does.
fn w_steps<T: Scalar>(
    parameters: &mut [T],
    examples: usize,
    mut gradient: impl FnMut(&[T]) -> Vec<T>,
) {
    let rule = AdamW::new(Adam::new(1e-2).unwrap());
    let mut state = vec![T::zero(); Optimizer::<T>::slots(&rule) * parameters.len()];
    for number in 1..=3 {
        let step = Step::new(number, 1.0).with_gradient_factor(1.0 / examples as f64);
        let gradient = gradient(parameters);
        rule.update(step, parameters, &gradient, &mut state);
    }
}

fn w_step_elsewhere<T: Sent>() {
    for selection in &SELECTIONS {
        for t in 0..DEPTH {
            let (mut here, mut elsewhere) = (model::<T>(), model::<T>());
            let mut parameters = here.circuit().parameters(t).to_vec();
            let before = parameters.clone();
            let mut shard: Shard<T> = through_json(&elsewhere.shard(t, selection).unwrap());
            let n = shard.examples().len();
            w_steps(&mut parameters, n, |at| {
                here.set_parameters(t, at).unwrap();
                here.gradients(selection).unwrap().parameters.swap_remove(t)
            });
            here.set_parameters(t, &parameters).unwrap();

            let (layer, loss) = (layer(t), loss::<T>(t));
            let mut own = shard.parameters().to_vec();
            w_steps(&mut own, n, |at| {
                shard.parameters_mut().copy_from_slice(at);
                shard
                    .problem(&layer, &*loss)
                    .unwrap()
                    .gradients()
                    .parameters
            });
            shard.parameters_mut().copy_from_slice(&own);
            elsewhere.install(&through_json(&shard)).unwrap();
            assert_ne!(parameters, before);
            assert_eq!(bits(&elsewhere), bits(&here));
        }
    }
}

#[test]
fn a_w_step_elsewhere_is_one_here() {
    w_step_elsewhere::<f32>();
    w_step_elsewhere::<f64>();
}

#[test]
fn install_changes_the_parameters_of_its_layer_alone() {
    for t in 0..DEPTH {
        let mut changed = model::<f64>();
        let mut shard = changed.shard(t, &Selection::Columns(0..2)).unwrap();
        shard.parameters_mut().fill(0.125);
        // Examples, weights and μ that move meanwhile stay as they are.
        changed.remove_examples(&[0]).unwrap();
        changed.set_penalties(&[3.0, 4.0]).unwrap();
        let mut expected = changed.clone();
        let count = shard.parameters().len();
        expected.set_parameters(t, &vec![0.125; count]).unwrap();
        assert_ne!(bits(&changed), bits(&expected));
        changed.install(&shard).unwrap();
        assert_eq!(bits(&changed), bits(&expected));
    }
}

/// The refusal of a shard for this layer and loss, which `install` into such a circuit repeats.
fn refused(shard: &Shard<f64>, layers: [Dense; DEPTH], loss: &dyn Loss<f64>) -> Error {
    let own = layers[shard.layer()].clone();
    let error = shard.problem(&own, loss).unwrap_err();
    let builder = layers
        .into_iter()
        .fold(Circuit::builder(), |b, l| b.layer(l));
    let energy = Energy::default();
    let energy = match format!("{loss:?}").contains("Huber") {
        true => energy.with_hidden_loss(layerwise::loss::PseudoHuber::new(1.0).unwrap()),
        false => energy.with_hidden_losses(vec![self::loss(0), self::loss(1)]),
    };
    let mut other = DecoupledCircuit::new(builder.build().unwrap(), energy).unwrap();
    let before = bits(&other);
    assert_eq!(other.install(shard), Err(error.clone()));
    assert_eq!(bits(&other), before);
    error
}

#[test]
fn a_shard_of_another_layer_or_loss_is_refused() {
    let model = model::<f64>();
    let shard = model.shard(0, &Selection::All).unwrap();
    let sent = serde_json::to_value(&shard).unwrap()["fingerprint"].as_u64();
    let dense = |input, output, activation| Dense::new(input, output, activation).unwrap();
    let mut fingerprints = vec![sent.unwrap()];
    for (first, second, loss) in [
        (dense(3, 4, Activation::Tanh), layer(1), loss(0)),
        (
            dense(2, 5, Activation::Tanh),
            dense(5, 3, Activation::Gelu),
            loss(0),
        ),
        (dense(2, 4, Activation::Sigmoid), layer(1), loss(0)),
        (
            dense(2, 4, Activation::Tanh).without_bias(),
            layer(1),
            loss(0),
        ),
        (
            layer(0),
            layer(1),
            Box::new(layerwise::loss::PseudoHuber::new(1.0).unwrap()) as _,
        ),
    ] {
        let error = refused(&shard, [first, second, layer(2)], &*loss);
        let Error::Fingerprint {
            layer: 0,
            expected,
            found,
        } = error
        else {
            panic!("{error}");
        };
        assert_eq!(Some(found), sent);
        fingerprints.push(expected);
    }
    let all = fingerprints.len();
    fingerprints.sort_unstable();
    fingerprints.dedup();
    assert_eq!(fingerprints.len(), all);
    // Options of the loss count too.
    let other = Gaussian::learned(2.5, 0.1).unwrap();
    assert!(shard.problem(&layer(0), &other).is_err());
    assert!(shard.problem(&layer(0), &gaussian()).is_ok());
}

#[test]
fn a_shard_of_another_scalar_is_refused() {
    let text = serde_json::to_string(&model::<f32>().shard(1, &Selection::All).unwrap()).unwrap();
    let wide: Shard<f64> = serde_json::from_str(&text).unwrap();
    let error = wide.problem(&layer(1), &SquaredError).unwrap_err();
    assert!(matches!(error, Error::Fingerprint { layer: 1, expected, found } if expected != found));
    let mut model = model::<f64>();
    let before = bits(&model);
    assert_eq!(model.install(&wide), Err(error));
    assert_eq!(bits(&model), before);
}

#[test]
fn a_shard_of_nothing_is_refused() {
    let model = model::<f64>();
    for (t, selection, error) in [
        (
            3,
            Selection::All,
            Error::UnknownLayer {
                layer: 3,
                allowed: "0 to 2".into(),
            },
        ),
        (
            0,
            Selection::Columns(2..2),
            Error::NoExamples {
                operation: "a shard",
            },
        ),
        (
            0,
            Selection::Examples(&[]),
            Error::NoExamples {
                operation: "a shard",
            },
        ),
        (
            1,
            Selection::Columns(5..8),
            Error::UnknownColumns {
                start: 5,
                end: 8,
                count: 7,
            },
        ),
        // Removed.
        (
            1,
            Selection::Examples(&[1, 2]),
            Error::UnknownExample {
                example: 2,
                count: 7,
            },
        ),
        (
            2,
            Selection::Examples(&[1, 3, 1]),
            Error::RepeatedExample { example: 1 },
        ),
    ] {
        assert_eq!(model.shard(t, &selection), Err(error));
    }
}

/// A copy in which the value at `pointer` is another.
fn with(shard: &Value, pointer: &str, other: Value) -> Value {
    let mut copy = shard.clone();
    *copy
        .pointer_mut(pointer)
        .unwrap_or_else(|| panic!("{pointer}")) = other;
    copy
}

/// A copy in which the array at `pointer` lacks its last `count` entries.
fn without_last(shard: &Value, pointer: &str, count: usize) -> Value {
    let mut array = shard.pointer(pointer).unwrap().as_array().unwrap().clone();
    array.truncate(array.len() - count);
    with(shard, pointer, array.into())
}

fn length(what: &str, expected: usize, found: usize) -> Error {
    Error::Length {
        what: what.into(),
        expected,
        found,
    }
}

fn option(option: &'static str, value: f64) -> Error {
    Error::InvalidOption {
        option,
        value,
        allowed: match option {
            "example weight" => "0, or above 0 and finite, with a finite inverse",
            _ => "above 0 and finite, with a finite inverse",
        }
        .into(),
    }
}

fn not_finite(quantity: Quantity, layer: usize, row: usize, column: usize) -> Error {
    Error::NonFiniteData {
        quantity,
        layer,
        row,
        column,
        value: f64::INFINITY,
    }
}

/// Layer 0: 2 → 4 with 12 parameters and 4 of its loss, on 7 examples.
#[test]
fn damaged_numbers_are_refused_with_their_place() {
    let mut model = model::<f32>();
    let whole = serde_json::to_value(model.shard(0, &Selection::All).unwrap()).unwrap();
    let change = |pointer: &str, other: Value| with(&whole, pointer, other);
    let cut = |pointer: &str, count| without_last(&whole, pointer, count);
    let before = bits(&model);
    let cases = [
        (cut("/parameters", 1), length("parameters", 16, 15)),
        (cut("/input", 1), length("input", 14, 13)),
        (cut("/target", 3), length("target", 28, 25)),
        (
            cut("/input", 2),
            Error::ExampleCount {
                inputs: 6,
                targets: 7,
            },
        ),
        (
            cut("/target", 8),
            Error::ExampleCount {
                inputs: 7,
                targets: 5,
            },
        ),
        (
            without_last(&cut("/input", 14), "/target", 28),
            Error::NoExamples {
                operation: "a local problem",
            },
        ),
        (cut("/examples", 1), length("examples", 7, 6)),
        (cut("/examples", 7), length("examples", 7, 0)),
        (cut("/example_weights", 2), length("example weights", 7, 5)),
        (change("/penalty", json!(0.0)), option("penalty μ", 0.0)),
        (change("/penalty", json!(-2.0)), option("penalty μ", -2.0)),
        (
            change("/penalty", json!(1e300)),
            option("penalty μ", f64::INFINITY),
        ),
        (
            change("/example_weights/3", json!(-0.5)),
            option("example weight", -0.5),
        ),
        (
            change("/example_weights/0", json!(-1)),
            option("example weight", -1.0),
        ),
        // Too large for f32.
        (
            change("/parameters/5", json!(1e39)),
            not_finite(Quantity::Parameter, 0, 5, 0),
        ),
        (
            change("/input/5", json!(1e300)),
            not_finite(Quantity::Input, 0, 1, 2),
        ),
        (
            change("/target/9", json!(1e300)),
            not_finite(Quantity::Target, 1, 1, 2),
        ),
    ];
    for (damaged, expected) in cases {
        let shard: Shard<f32> = serde_json::from_value(damaged).unwrap();
        let error = shard.problem(&layer(0), &gaussian()).unwrap_err();
        assert_eq!(error, expected);
        // Only θ matters at home.
        let expected = match expected {
            Error::Length {
                what,
                expected,
                found,
            } if what == "parameters" => Err(length("parameters of layer 0", expected, found)),
            error @ Error::NonFiniteData {
                quantity: Quantity::Parameter,
                ..
            } => Err(error),
            _ => Ok(()),
        };
        assert_eq!(model.install(&shard), expected);
        assert_eq!(bits(&model), before);
    }
    // Options are refused where they are read.
    for (pointer, value, name) in [
        ("/parameter_regularizer/l1", -1.0, "Regularizer::l1 is -1"),
        ("/parameter_regularizer/l2", -3.0, "Regularizer::l2 is -3"),
        ("/target_regularizer/l2", -0.5, "Regularizer::l2 is -0.5"),
    ] {
        let damaged = change(pointer, json!(value));
        let error = serde_json::from_value::<Shard<f32>>(damaged).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
}

/// z_t belongs to layer t, z_{t+1} to the next.
#[test]
fn damaged_numbers_are_refused_with_their_layer() {
    let whole = serde_json::to_value(model::<f32>().shard(1, &Selection::All).unwrap()).unwrap();
    for (pointer, expected) in [
        ("/parameters/3", not_finite(Quantity::Parameter, 1, 3, 0)),
        ("/input/5", not_finite(Quantity::Input, 1, 1, 1)),
        ("/target/5", not_finite(Quantity::Target, 2, 2, 1)),
    ] {
        let damaged = with(&whole, pointer, json!(1e39));
        let shard: Shard<f32> = serde_json::from_value(damaged).unwrap();
        let error = shard.problem(&layer(1), &SquaredError).unwrap_err();
        assert_eq!(error, expected);
    }
}

/// What says which layer this is: groups, fingerprint, number.
#[test]
fn altered_descriptions_are_refused() {
    let mut model = model::<f64>();
    let whole = serde_json::to_value(model.shard(0, &Selection::All).unwrap()).unwrap();
    let before = bits(&model);
    let groups = [
        with(&whole, "/groups/0/range/start", json!(1)),
        with(&whole, "/groups/0/range/end", json!(9)),
        with(&whole, "/groups/1/range/end", json!(u64::MAX)),
        with(&whole, "/groups/0/shape", json!([8, 1])),
        with(&whole, "/groups/0/name", json!("bias")),
        with(&whole, "/groups/1/decays", json!(true)),
        without_last(&whole, "/groups", 1),
        without_last(&whole, "/groups", 3),
        with(&whole, "/fingerprint", json!(7)),
    ];
    for damaged in groups {
        let shard: Shard<f64> = serde_json::from_value(damaged).unwrap();
        let error = shard.problem(&layer(0), &gaussian()).unwrap_err();
        let Error::Fingerprint {
            layer: 0,
            expected,
            found,
        } = error
        else {
            panic!("{error}");
        };
        assert_eq!(json!(expected), whole["fingerprint"]);
        assert_ne!(found, expected);
        assert_eq!(model.install(&shard), Err(error));
        assert_eq!(bits(&model), before);
    }

    // The number of the layer is part of the fingerprint too.
    let moved = |t: u64| -> Shard<f64> {
        serde_json::from_value(with(&whole, "/layer", json!(t))).unwrap()
    };
    for t in [1, 99, u64::MAX] {
        let shard = moved(t);
        let error = shard.problem(&layer(0), &gaussian::<f64>()).unwrap_err();
        assert!(matches!(error, Error::Fingerprint { .. }), "{error}");
    }
    let unknown = Error::UnknownLayer {
        layer: 99,
        allowed: "0 to 2".into(),
    };
    assert_eq!(model.install(&moved(99)), Err(unknown));
    let error = model.install(&moved(1)).unwrap_err();
    assert!(
        matches!(error, Error::Fingerprint { layer: 1, .. }),
        "{error}"
    );
    assert_eq!(bits(&model), before);
}

/// What JSON has no number for, or what is not a shard, does not become one.
#[test]
fn other_json_is_no_shard() {
    let whole = serde_json::to_value(model::<f64>().shard(0, &Selection::All).unwrap()).unwrap();
    for (pointer, other) in [
        ("/parameters/0", Value::Null),
        ("/penalty", json!("NaN")),
        ("/input", json!(1.0)),
        ("/layer", json!(-1)),
        ("/layer", json!(0.5)),
        ("/examples/0", json!(-1)),
        ("/parameter_regularizer", Value::Null),
        ("", json!([])),
    ] {
        let damaged = with(&whole, pointer, other);
        assert!(
            serde_json::from_value::<Shard<f64>>(damaged).is_err(),
            "{pointer}"
        );
    }
    let text = whole
        .to_string()
        .replace("\"penalty\":0.7", "\"penalty\":1e999");
    assert!(text.contains("1e999") && serde_json::from_str::<Shard<f64>>(&text).is_err());
    for field in whole.as_object().unwrap().keys() {
        let mut damaged = whole.clone();
        damaged.as_object_mut().unwrap().remove(field);
        assert!(
            serde_json::from_value::<Shard<f64>>(damaged).is_err(),
            "{field}"
        );
    }
}

#[derive(Debug, Clone)]
enum Damage {
    Delete(Index),
    Duplicate(Index),
    Replace(Index, Value),
}

fn any_damage() -> impl Strategy<Value = Damage> {
    let numbers = prop_oneof![
        prop::sample::select(vec![
            json!(0),
            json!(-0.0),
            json!(-1),
            json!(1e308),
            json!(1e39),
            json!(5e-324),
            json!(u64::MAX),
            json!(3),
        ]),
        (-2.0..2.0).prop_map(|x: f64| json!(x)),
    ];
    prop_oneof![
        any::<Index>().prop_map(Damage::Delete),
        any::<Index>().prop_map(Damage::Duplicate),
        (any::<Index>(), numbers).prop_map(|(place, value)| Damage::Replace(place, value)),
    ]
}

/// Pointers to everything below that `wanted` wants.
fn places(value: &Value, wanted: fn(&Value) -> bool) -> Vec<String> {
    let children: Vec<(String, &Value)> = match value {
        Value::Array(all) => (0..).map(|i: usize| i.to_string()).zip(all).collect(),
        Value::Object(all) => all.iter().map(|(k, v)| (k.clone(), v)).collect(),
        _ => Vec::new(),
    };
    let mut found: Vec<String> = wanted(value).then(String::new).into_iter().collect();
    for (key, child) in children {
        let below = places(child, wanted).into_iter();
        found.extend(below.map(|rest| format!("/{key}{rest}")));
    }
    found
}

fn damage(shard: &mut Value, damage: &Damage) {
    match damage {
        Damage::Delete(at) | Damage::Duplicate(at) => {
            let filled = |v: &Value| v.as_array().is_some_and(|a| !a.is_empty());
            let arrays = places(shard, filled);
            let pointer: &String = at.get(&arrays);
            let array = shard.pointer_mut(pointer).unwrap().as_array_mut().unwrap();
            let place = at.index(array.len());
            match damage {
                Damage::Delete(_) => drop(array.remove(place)),
                _ => array.insert(place, array[place].clone()),
            }
        }
        Damage::Replace(at, value) => {
            let numbers = places(shard, Value::is_number);
            *shard.pointer_mut(at.get::<String>(&numbers)).unwrap() = value.clone();
        }
    }
}

/// Whatever was done to a shard: it is refused, or it is the problem that its numbers say.
fn damage_never_panics<T: Sent>() {
    let cases = (
        0..DEPTH,
        any::<[bool; 2]>(),
        prop::collection::vec(any_damage(), 1..4),
    );
    let config = ProptestConfig {
        cases: 2048,
        rng_seed: RngSeed::Fixed(0x6c61_7965),
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let [no_shard, refused, accepted, installed] = [const { Cell::new(0) }; 4];
    let add = |count: &Cell<u32>| count.set(count.get() + 1);
    let whole = model::<T>();
    let test = |(t, [weighted, scattered], all): (usize, [bool; 2], Vec<Damage>)| {
        let selection = &SELECTIONS[1 + usize::from(scattered)];
        let mut json = serde_json::to_value(whole.shard(t, selection)?).unwrap();
        if !weighted {
            json["example_weights"] = json!([]);
        }
        all.iter().for_each(|one| damage(&mut json, one));
        let Ok(shard) = serde_json::from_str::<Shard<T>>(&json.to_string()) else {
            add(&no_shard);
            return Ok(());
        };

        let mut model = whole.clone();
        let mut expected = whole.clone();
        if model.install(&shard).is_ok() {
            add(&installed);
            expected.set_parameters(shard.layer(), shard.parameters())?;
        }
        prop_assert_eq!(bits(&model), bits(&expected));

        let (layer, loss) = (layer(t), loss::<T>(t));
        let Ok(problem) = shard.problem(&layer, &*loss) else {
            add(&refused);
            return Ok(());
        };
        add(&accepted);
        let numbers =
            |field: &str| -> Vec<T> { serde_json::from_str(&json[field].to_string()).unwrap() };
        let [parameters, input, target] = ["parameters", "input", "target"].map(numbers);
        let penalty = serde_json::from_str(&json["penalty"].to_string()).unwrap();
        let weights = numbers("example_weights");
        let mut own = LocalProblem::new(&layer, &parameters, &*loss, penalty, &input, &target)?;
        if !weights.is_empty() {
            own = own.with_example_weights(&weights)?;
        }
        prop_assert_eq!(problem.layer(), shard.layer());
        prop_assert_eq!(problem.examples(), shard.examples().len());
        // The one gradient in which regularisers have no part.
        let (found, own) = (problem.gradients(), own.gradients());
        prop_assert_eq!(bits(&found.input), bits(&own.input));
        Ok(())
    };
    if let Err(failure) = TestRunner::new(config).run(&cases, test) {
        panic!("{failure}");
    }
    // All of it happened.
    for count in [no_shard, refused, accepted, installed] {
        assert!(count.get() > 100, "{}", count.get());
    }
}

#[test]
fn damage_never_panics_in_f32() {
    damage_never_panics::<f32>();
}

#[test]
fn damage_never_panics_in_f64() {
    damage_never_panics::<f64>();
}
