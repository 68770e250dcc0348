//! Writes the first inputs of every target to `corpus`: whole files of each kind.

use std::fs;
use std::path::Path;

use layerwise::data::TargetEncoding;
use layerwise::decoupled::Selection;
use layerwise::description::Description;
use layerwise::optimizer::{Adam, AdamW, GradientDescent, RmsProp};
use layerwise::parameter_solver::{LeastSquares, LevenbergMarquardt};
use layerwise::regularizer::Regularizer;
use layerwise::schedule::Schedule;
use layerwise::target_solver::{Convergence, GaussNewton, RedBlack, ReverseSweep, StepSize};
use layerwise::training::{Session, Targets};
use layerwise_fuzz::runs;
use serde::Serialize;

/// Writes an input, named by its number among those of the target.
fn seed(target: &str, bytes: &[u8]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    fs::create_dir_all(&folder).unwrap();
    let number = (0..).find(|n| !folder.join(format!("seed-{n}")).exists());
    fs::write(folder.join(format!("seed-{}", number.unwrap())), bytes).unwrap();
}

/// A byte that chooses, and JSON.
fn json(target: &str, which: u8, value: &impl Serialize) {
    let mut bytes = vec![b'0' + which];
    serde_json::to_writer(&mut bytes, value).unwrap();
    seed(target, &bytes);
}

fn files() {
    for bytes in [
        runs::circuit::<f32>().to_bytes(),
        runs::circuit::<f64>().to_bytes(),
    ] {
        seed("circuit", bytes.as_ref().unwrap());
        seed("tensors", bytes.as_ref().unwrap());
    }
    seed("model", &runs::model::<f32>().to_bytes().unwrap());
    seed("model", &runs::model::<f64>().to_bytes().unwrap());
    seed("model", &runs::small().to_bytes().unwrap());
    seed("circuit", &runs::small().to_bytes().unwrap());
    for (which, trainer) in (0..).zip(runs::trainers()) {
        let mut session = Session::new(&trainer, runs::small()).unwrap();
        for event in 0.. {
            if event % 4 == 1 {
                seed("session", &session.to_bytes().unwrap());
                json("state", which, session.state());
            }
            if session.advance().unwrap().is_none() {
                break;
            }
        }
    }
}

fn shards() {
    for t in 0..2 {
        let shard = runs::small().shard(t, &Selection::All).unwrap();
        json("shard", 0, &shard);
        let mut bytes = b"1".to_vec();
        bytes.extend(postcard::to_stdvec(&shard).unwrap());
        seed("shard", &bytes);
    }
}

/// In the order of the target's list, which begins at '0' = 48, a multiple of 16.
fn options() {
    let adam = Adam::new(0.1).unwrap();
    json("options", 0, &adam);
    json("options", 1, &AdamW::new(adam));
    json("options", 2, &GradientDescent::new(0.1).unwrap());
    json("options", 3, &RmsProp::new(0.1).unwrap());
    json("options", 4, &LeastSquares::ridge(0.1).unwrap());
    json("options", 5, &LevenbergMarquardt::new(2, 3));
    json("options", 6, &Regularizer::elastic(0.1, 0.2).unwrap());
    json("options", 7, &ReverseSweep::new(2));
    json("options", 8, &RedBlack::new(2));
    json("options", 9, &GaussNewton::new(2, 8));
    json("options", 10, &StepSize::Bounded { margin: 1.0 });
    json("options", 11, &Convergence::default());
    for schedule in [
        Schedule::CONSTANT,
        Schedule::cosine(0.1).unwrap().with_warm_up(3),
        Schedule::linear(2.0).unwrap(),
        Schedule::geometric(0.5).unwrap(),
        Schedule::steps(3, 0.5).unwrap(),
    ] {
        json("options", 12, &schedule);
        let keep = 0.5;
        json("options", 13, &Targets::Residual { keep, schedule });
    }
    json("options", 13, &Targets::Refreshed);
    let circuit = runs::circuit::<f64>();
    for t in 0..circuit.depth() {
        json("options", 14, &circuit.layer(t).description());
    }
    let options = Description::new("SoftmaxCrossEntropy");
    json("options", 14, &options);
    json("options", 15, &runs::standardizer());
}

/// Inputs and targets in one input, as `arrays::parts` takes them apart.
fn pair(target: &str, encoding: TargetEncoding, x: &[u8], y: &[u8]) {
    let encoding = match encoding {
        TargetEncoding::OneHot { classes } => classes as u8,
        _ => 0,
    };
    let mut bytes = vec![encoding];
    bytes.extend((x.len() as u16).to_le_bytes());
    bytes.extend([x, y].concat());
    seed(target, &bytes);
}

fn arrays() {
    let classes = TargetEncoding::OneHot { classes: 3 };
    let idx = |kind: u8, shape: &[u8], data: &[u8]| {
        let mut bytes = vec![0, 0, kind, shape.len() as u8];
        bytes.extend(shape.iter().flat_map(|&extent| [0, 0, 0, extent]));
        bytes.extend(data);
        bytes
    };
    let labels = idx(8, &[2], &[1, 2]);
    for (kind, size) in [(8, 1), (9, 1), (11, 2), (12, 4), (13, 4), (14, 8)] {
        let data: Vec<u8> = (0..4 * size).map(|i| 3 * i).collect();
        let x = idx(kind, &[2, 2], &data);
        pair("idx", classes, &x, &labels);
        pair("idx", TargetEncoding::Values, &x, &x);
    }
    let npy = |descr: &str, fortran: &str, data: &[u8], shape: &str| {
        let header =
            format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n");
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    };
    let labels = npy("|u1", "False", &[1, 2], "(2,)");
    for (descr, size) in [("<f8", 8), (">f4", 4), ("<i2", 2), ("|b1", 1), (">u8", 8)] {
        let data: Vec<u8> = (0..8 * size).map(|i| i % 60).collect();
        for order in ["True", "False"] {
            let x = npy(descr, order, &data, "(2, 2, 2)");
            pair("npy", classes, &x, &labels);
            pair("npy", TargetEncoding::Values, &x, &x);
        }
    }
    for text in [
        "\0\0a,b,c\n1,2,0\n-3.5e1,4,1\n5,6,2\n",
        "\0\x30a,\"b,\"\"b\"\"\",c\r\n1,\"2\",0\r\n-3.5e1,4,1\r\n\r\n5,6,2",
        "\x01\x01\u{feff}1,2\n3,4\n",
        "\x03\x021;2\n3;4\n",
        "\x04\x03b\ta\n.5\t1e300\n",
        "\x07\0a b\r1 2\r",
    ] {
        seed("csv", text.as_bytes());
    }
}

fn main() {
    files();
    shards();
    options();
    arrays();
}
