//! Data sets: what is read is what was written, damaged files are errors, and a model gets the same
//! examples as from matrices.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use layerwise::data::{Dataset, Idx, InMemory, Npy, Subset, TargetEncoding};
use layerwise::decoupled::{Selection, TargetInit};
use layerwise::energy::Energy;
use layerwise::layer::{Activation, Dense};
use layerwise::nalgebra::DMatrix;
use layerwise::rand::RngExt;
use layerwise::{Circuit, DecoupledCircuit, Error, Scalar};
use proptest::prelude::*;

use crate::property::{failed, for_all, generator, uniform};

/// A new folder for the files of one test; it is removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("layerwise-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// An element: its code in NPY files, its code in IDX files, and how it is written, big endian.
type Element = (&'static str, Option<u8>, fn(f64) -> Vec<u8>);

const ELEMENTS: [Element; 11] = [
    ("u1", Some(8), |x| vec![x as u8]),
    ("i1", Some(9), |x| (x as i8).to_be_bytes().to_vec()),
    ("i2", Some(11), |x| (x as i16).to_be_bytes().to_vec()),
    ("i4", Some(12), |x| (x as i32).to_be_bytes().to_vec()),
    ("f4", Some(13), |x| (x as f32).to_be_bytes().to_vec()),
    ("f8", Some(14), |x| x.to_be_bytes().to_vec()),
    ("u2", None, |x| (x as u16).to_be_bytes().to_vec()),
    ("u4", None, |x| (x as u32).to_be_bytes().to_vec()),
    ("u8", None, |x| (x as u64).to_be_bytes().to_vec()),
    ("i8", None, |x| (x as i64).to_be_bytes().to_vec()),
    ("b1", None, |x| vec![u8::from(x != 0.0)]),
];

/// A value that the element can hold: small, whole if it has to be, and negative only where it may be.
fn held(code: &str, x: f64) -> f64 {
    match code.as_bytes()[0] {
        b'f' => x,
        b'i' => x.round(),
        b'u' => x.round().abs(),
        _ => f64::from(x > 0.0),
    }
}

fn idx(code: u8, shape: &[usize], data: &[u8]) -> Vec<u8> {
    let mut file = vec![0, 0, code, shape.len() as u8];
    let extents = shape.iter().flat_map(|&n| (n as u32).to_be_bytes());
    file.extend(extents);
    file.extend(data);
    file
}

fn npy_with(version: u8, header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = vec![0x93];
    file.extend(b"NUMPY");
    file.extend([version, 0]);
    match version {
        1 => file.extend((header.len() as u16).to_le_bytes()),
        _ => file.extend((header.len() as u32).to_le_bytes()),
    }
    file.extend(header.as_bytes());
    file.extend(data);
    file
}

fn npy(version: u8, descr: &str, fortran: bool, shape: &[usize], data: &[u8]) -> Vec<u8> {
    let order = if fortran { "True" } else { "False" };
    let shape: String = shape.iter().map(|n| format!("{n}, ")).collect();
    let header =
        format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': ({shape}), }}  \n");
    npy_with(version, &header, data)
}

/// The places of an array's elements in its file, in C's order of their indices.
fn places(shape: &[usize], fortran: bool) -> Vec<usize> {
    let count = shape.iter().product();
    let place = |c: usize| {
        let (mut rest, mut index) = (c, vec![0; shape.len()]);
        for (index, &n) in index.iter_mut().zip(shape).rev() {
            *index = rest % n;
            rest /= n;
        }
        let (mut stride, mut place) = (1, 0);
        for (index, &n) in index.iter().zip(shape) {
            place += index * stride;
            stride *= n;
        }
        place
    };
    (0..count)
        .map(|c| if fortran { place(c) } else { c })
        .collect()
}

/// Shape, values, rows to read.
fn arrays() -> impl Strategy<Value = (Vec<usize>, Vec<f64>, Vec<usize>)> {
    prop::collection::vec(1..5_usize, 1..5).prop_flat_map(|shape| {
        let count: usize = shape.iter().product();
        let rows = prop::collection::vec(0..shape[0], 0..9);
        let values = prop::collection::vec(-100.0..100.0, count);
        (Just(shape), values, rows)
    })
}

/// Reads with and without a factor and compares every value.
fn check_rows<T: Scalar>(
    data: &dyn Dataset<T>,
    scale: f64,
    (shape, values, rows): &(Vec<usize>, Vec<f64>, Vec<usize>),
    labels: &[usize],
) -> Result<(), TestCaseError> {
    let dim: usize = shape[1..].iter().product();
    prop_assert_eq!(
        (data.len(), data.inputs(), data.targets()),
        (shape[0], dim, 3)
    );
    let (x, y) = data.matrices(rows).map_err(failed)?;
    prop_assert_eq!((x.shape(), y.shape()), ((dim, rows.len()), (3, rows.len())));
    for (i, &row) in rows.iter().enumerate() {
        for k in 0..dim {
            prop_assert_eq!(x[(k, i)], T::of(scale * values[row * dim + k]));
        }
        for class in 0..3 {
            let expected = T::of(f64::from(class == labels[row]));
            prop_assert_eq!(y[(class, i)], expected);
        }
    }
    Ok(())
}

const CLASSES: TargetEncoding = TargetEncoding::OneHot { classes: 3 };

fn idx_values<T: Scalar>() {
    let folder = Folder::new(&format!("idx-{}", size_of::<T>()));
    for_all(
        (arrays(), 0..6_usize, 0..6_usize),
        |(mut case, own, of_labels)| {
            let (name, code, bytes) = ELEMENTS[own];
            case.1.iter_mut().for_each(|x| *x = held(name, *x));
            if name == "f4" {
                case.1.iter_mut().for_each(|x| *x = f64::from(*x as f32));
            }
            let data: Vec<u8> = case.1.iter().flat_map(|&x| bytes(x)).collect();
            let images = folder.write("images", &idx(code.unwrap(), &case.0, &data));
            let classes: Vec<usize> = (0..case.0[0]).map(|i| (i * 2 + 1) % 3).collect();
            let (_, code, bytes) = ELEMENTS[of_labels];
            let data: Vec<u8> = classes.iter().flat_map(|&c| bytes(c as f64)).collect();
            let labels = folder.write("labels", &idx(code.unwrap(), &case.0[..1], &data));
            let data = Idx::<T>::open(images, labels, CLASSES).map_err(failed)?;
            check_rows(&data, 1.0, &case, &classes)?;
            let scaled = data.with_scale(1.0 / 255.0).map_err(failed)?;
            check_rows(&scaled, 1.0 / 255.0, &case, &classes)
        },
    );
}

fn npy_values<T: Scalar>() {
    let folder = Folder::new(&format!("npy-{}", size_of::<T>()));
    let options = (0..11_usize, any::<bool>(), any::<bool>(), 1..4_u8);
    for_all(
        (arrays(), options),
        |(mut case, (own, big, fortran, version))| {
            let (name, _, bytes) = ELEMENTS[own];
            case.1.iter_mut().for_each(|x| *x = held(name, *x));
            if name == "f4" {
                case.1.iter_mut().for_each(|x| *x = f64::from(*x as f32));
            }
            let mut elements = vec![Vec::new(); case.1.len()];
            for (place, &x) in places(&case.0, fortran).into_iter().zip(&case.1) {
                elements[place] = bytes(x);
                if !big {
                    elements[place].reverse();
                }
            }
            let order = match (name.ends_with('1'), big) {
                (true, _) => '|',
                (false, true) => '>',
                (false, false) => '<',
            };
            let descr = format!("{order}{name}");
            let file = npy(version, &descr, fortran, &case.0, &elements.concat());
            let inputs = folder.write("x.npy", &file);
            let classes: Vec<usize> = (0..case.0[0]).map(|i| (i * 2 + 1) % 3).collect();
            let labels: Vec<u8> = classes.iter().map(|&c| c as u8).collect();
            let targets = folder.write("y.npy", &npy(1, "|u1", fortran, &case.0[..1], &labels));
            let data = Npy::<T>::open(inputs, targets, CLASSES).map_err(failed)?;
            check_rows(&data, 1.0, &case, &classes)?;
            let scaled = data.with_scale(-0.3).map_err(failed)?;
            check_rows(&scaled, -0.3, &case, &classes)
        },
    );
}

in_both_scalars!(
    idx_values,
    npy_values,
    same_as_matrices,
    failures_change_nothing
);

fn own(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/data")).join(name)
}

/// tests/data/npy.py says what NumPy wrote.
#[test]
fn files_of_numpy() {
    let rows = [3, 1, 2, 0, 1];
    let cube = DMatrix::from_fn(6, 5, |v, c| {
        (100 * rows[c] + 10 * (v / 3) + v % 3) as f64 - 0.25
    });
    for (name, shape) in [("f4.npy", 6), ("f8_big_fortran.npy", 6)] {
        let data = Npy::<f64>::open(own(name), own("i8.npy"), TargetEncoding::Values).unwrap();
        assert_eq!((data.len(), data.inputs(), data.targets()), (4, shape, 1));
        let (x, y) = data.matrices(&rows).unwrap();
        assert_eq!((x, y.as_slice()), (cube.clone(), &[2., 0., 1., 2., 0.][..]));
    }
    let bools = (own("bool_version_3.npy"), own("i8.npy"));
    let data = Npy::<f32>::open(bools.0, bools.1, CLASSES).unwrap();
    let (x, y) = data.matrices(&rows).unwrap();
    let above = cube
        .select_rows(&[0, 2, 4])
        .map(|x| f32::from(u8::from(x > 150.0)));
    assert_eq!((x, y[(2, 0)], y[(1, 0)]), (above, 1.0, 0.0));
}

/// A small file of each format, with inputs of 3 values, and a function that opens it with labels.
type Opened = Result<Box<dyn Dataset<f32>>, Error>;
type Case = (&'static str, Vec<u8>, fn(&Path, &Path) -> Opened);

fn small_files() -> [Case; 4] {
    let bytes: Vec<u8> = (0..6_i16).flat_map(|x| (x - 3).to_be_bytes()).collect();
    let open_npy: fn(&Path, &Path) -> Opened =
        |x, y| Ok(Box::new(Npy::open(x, y, TargetEncoding::Values)?));
    [
        ("idx", idx(11, &[2, 3, 1], &bytes), |x, y| {
            Ok(Box::new(Idx::open(x, y, TargetEncoding::Values)?))
        }),
        ("npy", npy(1, ">i2", false, &[2, 3], &bytes), open_npy),
        ("npy", npy(2, ">i2", true, &[2, 3], &bytes), open_npy),
        ("npy", npy(3, "<i2", false, &[2, 3, 1], &bytes), open_npy),
    ]
}

fn labels(folder: &Folder, kind: &str) -> PathBuf {
    match kind {
        "idx" => folder.write("labels", &idx(8, &[2], &[1, 0])),
        _ => folder.write("labels", &npy(1, "|u1", false, &[2], &[1, 0])),
    }
}

#[test]
fn cut_files_are_refused_at_every_byte() {
    let folder = Folder::new("cut");
    for (kind, file, open) in small_files() {
        let labels = labels(&folder, kind);
        let whole = folder.write("whole", &file);
        assert_eq!(open(&whole, &labels).unwrap().len(), 2);
        let mut longer = file.clone();
        longer.push(0);
        let cut = (0..file.len()).map(|end| &file[..end]);
        for (i, bytes) in cut.chain([&longer[..]]).enumerate() {
            let path = folder.write("cut", bytes);
            let error = open(&path, &labels).err();
            assert!(
                matches!(error, Some(Error::Format { .. })),
                "{kind} {i}: {error:?}"
            );
        }
    }
}

#[test]
fn changed_bytes_never_panic() {
    let folder = Folder::new("flips");
    let (mut refused, mut read) = (0, 0);
    for (kind, file, open) in small_files() {
        let labels = labels(&folder, kind);
        let mut rng = generator(7);
        for _ in 0..400 {
            let mut bytes = file.clone();
            for _ in 0..rng.random_range(1..4) {
                let at = rng.random_range(0..bytes.len());
                bytes[at] = rng.random();
            }
            let path = folder.write("changed", &bytes);
            let all = open(&path, &labels).and_then(|data| {
                let rows: Vec<usize> = (0..data.len()).collect();
                data.matrices(&rows)
            });
            match all {
                Ok((x, _)) => {
                    assert!(x.iter().all(|x| x.is_finite()));
                    read += 1;
                }
                Err(
                    Error::Format { .. } | Error::ExampleCount { .. } | Error::FileValue { .. },
                ) => refused += 1,
                Err(other) => panic!("{kind}: {other}"),
            }
        }
    }
    assert!(
        refused > 300 && read > 100,
        "{refused} refused, {read} read"
    );
}

/// Opens inputs with labels of two examples, and returns the message of the error.
fn refused(kind: &str, file: &[u8]) -> String {
    let folder = Folder::new(&format!("refused-{kind}-{:?}", std::thread::current().id()));
    let (path, labels) = (folder.write("x", file), labels(&folder, kind));
    let values = TargetEncoding::Values;
    let error = match kind {
        "idx" => Idx::<f32>::open(path, labels, values).unwrap_err(),
        _ => Npy::<f32>::open(path, labels, values).unwrap_err(),
    };
    assert!(matches!(error, Error::Format { .. }), "{error}");
    error.to_string()
}

#[test]
fn foreign_and_hostile_files_say_what_is_wrong() {
    const HUGE: usize = u32::MAX as usize;
    let header = |text: &str| npy_with(1, text, &[0; 6]);
    for (kind, file, word) in [
        ("idx", vec![0x1f, 0x8b, 8, 0, 0], "gzip"),
        ("idx", vec![1, 0, 8, 1, 0, 0, 0, 0], "[1, 0, 8, 1]"),
        ("idx", vec![0, 0, 10, 1, 0, 0, 0, 0], "[0, 0, 10, 1]"),
        ("idx", vec![0, 0, 8], "3 bytes"),
        ("idx", vec![0, 0, 8, 255, 0, 0, 0, 9], "cut off"),
        ("idx", vec![0, 0, 8, 0, 7], "single number"),
        ("idx", idx(8, &[2, 0], &[]), "no values"),
        ("idx", idx(8, &[2, HUGE], &[0; 9]), "8589934590 bytes"),
        ("idx", idx(14, &[HUGE, HUGE, HUGE], &[0; 9]), "too large"),
        ("idx", idx(14, &[0, HUGE, HUGE, HUGE], &[]), "too large"),
        ("npy", npy(1, "<f8", false, &[1 << 62, 3], &[]), "too large"),
        ("npy", npy(1, "<f8", false, &[1 << 61], &[]), "too large"),
        (
            "npy",
            npy(1, "<f8", false, &[1 << 40], &[0; 8]),
            "8796093022208 bytes",
        ),
        ("npy", npy(1, "<f8", false, &[0, 0], &[]), "no values"),
        ("npy", npy(1, "<f8", false, &[], &[0; 8]), "single number"),
        ("npy", npy(1, "<f2", false, &[2], &[0; 4]), "'<f2'"),
        ("npy", npy(1, "<c8", false, &[2], &[0; 16]), "'<c8'"),
        ("npy", npy(1, "|i8", false, &[2], &[0; 16]), "'|i8'"),
        ("npy", npy(1, "", false, &[2], &[0; 16]), "''"),
        ("npy", npy(1, "é8", false, &[2], &[0; 16]), "'é8'"),
        ("npy", npy(4, "<f8", false, &[2], &[0; 16]), "version 4"),
        (
            "npy",
            b"PK\x03\x04 an archive of arrays".to_vec(),
            "not an NPY file",
        ),
        ("npy", npy_with(2, &" ".repeat(70_000), &[]), "65536"),
        (
            "npy",
            header("{'descr': '|u1', 'shape': (6,)}"),
            "cannot be parsed",
        ),
        (
            "npy",
            header("{'descr': [('a', '|u1')], 'fortran_order': False, 'shape': (6,)}"),
            "('a'",
        ),
        (
            "npy",
            header("{'descr': '|u1', 'fortran_order': False, 'shape': (-6,)}"),
            "(-6,)",
        ),
        (
            "npy",
            header("{'descr': '|u1', 'fortran_order': False, 'shape': (6 6)}"),
            "(6 6)",
        ),
        (
            "npy",
            header("{'descr': '|u1', 'fortran_order': 0, 'shape': (6,)}"),
            "cannot be parsed",
        ),
        (
            "npy",
            header("{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999999999999,)}"),
            "cannot be parsed",
        ),
        (
            "npy",
            header("{'descr': '|u1', 'fortran_order': False, 'shape': (6,)} + 1"),
            "+ 1",
        ),
    ] {
        let message = refused(kind, &file);
        assert!(message.contains(word), "'{word}' is not in: {message}");
    }
    // As other programs write it.
    let folder = Folder::new("dialects");
    let text = "{\"shape\":(2L,3),\"fortran_order\":False,\"descr\":\"|u1\"}";
    let path = folder.write("x", &npy_with(1, text, &[1, 2, 3, 4, 5, 6]));
    let data = Npy::<f64>::open(path, labels(&folder, "npy"), TargetEncoding::Values).unwrap();
    assert_eq!(data.matrices(&[1]).unwrap().0.as_slice(), [4.0, 5.0, 6.0]);
}

#[test]
fn other_errors_of_opening() {
    let folder = Folder::new("opening");
    let x = folder.write("x", &idx(8, &[2, 2], &[1, 2, 3, 4]));
    let three = folder.write("three", &idx(8, &[3], &[1, 2, 3]));
    let open = |y: &Path, encoding| Idx::<f64>::open(&x, y, encoding).unwrap_err();
    let missing = open(&folder.0.join("none"), TargetEncoding::Values);
    assert!(
        matches!(missing, Error::File { doing: "read", .. }),
        "{missing}"
    );
    let other = open(&three, TargetEncoding::Values);
    assert_eq!(
        other,
        Error::ExampleCount {
            inputs: 2,
            targets: 3
        }
    );
    let two = open(&x, CLASSES);
    assert!(
        matches!(
            two,
            Error::Length {
                expected: 1,
                found: 2,
                ..
            }
        ),
        "{two}"
    );
    let y = labels(&folder, "idx");
    let none = open(&y, TargetEncoding::OneHot { classes: 0 });
    assert!(
        matches!(none, Error::InvalidOption { value: 0.0, .. }),
        "{none}"
    );
    let data = Idx::<f64>::open(&x, &y, CLASSES).unwrap();
    let scale = data.with_scale(f64::NAN).unwrap_err();
    assert!(matches!(scale, Error::InvalidOption { .. }), "{scale}");
}

#[test]
fn values_that_do_not_fit() {
    let folder = Folder::new("values");
    let file = |name: &str, values: [f64; 4]| {
        let bytes: Vec<u8> = values.into_iter().flat_map(f64::to_be_bytes).collect();
        folder.write(name, &idx(14, &[2, 2], &bytes))
    };
    let y = folder.write("y", &idx(9, &[2], &[1, 0]));
    let error = |data: &dyn Dataset<f32>| match data.matrices(&[0, 1]).unwrap_err() {
        Error::FileValue {
            row: 1,
            line: None,
            column,
            reason,
            ..
        } => (column, reason),
        other => panic!("{other}"),
    };
    for (value, text, expected) in [
        (f64::NAN, "NaN", "a finite number"),
        (f64::INFINITY, "inf", "a finite number"),
        (
            3e39,
            "3000000000000000000000000000000000000000",
            "a number that f32 can hold",
        ),
    ] {
        let x = file("x", [1.0, 2.0, 3.0, value]);
        let data = Idx::open(x, &y, CLASSES).unwrap();
        assert_eq!(
            error(&data),
            ("1".into(), format!("'{text}' is not {expected}"))
        );
        assert!(data.matrices(&[0]).is_ok());
    }
    // It is the product with the factor that f32 cannot hold.
    let x = file("x", [0.0, 0.0, 200.0, 0.0]);
    let data = Idx::open(x, &y, CLASSES).unwrap().with_scale(1e38);
    let reason = "'200' is not a number that f32 can hold after multiplication by 1e38";
    assert_eq!(error(&data.unwrap()), ("0".into(), reason.into()));
    let x = file("x", [0.0; 4]);
    for class in [3.0, -1.0, 0.5, f64::NAN] {
        let bytes: Vec<u8> = [1.0, class]
            .into_iter()
            .flat_map(f64::to_be_bytes)
            .collect();
        let y = folder.write("classes", &idx(14, &[2], &bytes));
        let data = Idx::open(&x, y, CLASSES).unwrap();
        let reason = format!("'{class}' is not a class from 0 to 2");
        assert_eq!(error(&data), ("0".into(), reason));
    }
    // f64 holds it.
    let wide = Idx::<f64>::open(file("x", [3e39; 4]), &y, CLASSES).unwrap();
    assert_eq!(wide.matrices(&[1]).unwrap().0[(0, 0)], 3e39);
}

#[test]
fn arguments_of_read() {
    let data = Npy::<f64>::open(own("f4.npy"), own("i8.npy"), CLASSES).unwrap();
    let (mut x, mut y) = ([0.0; 12], [0.0; 6]);
    data.read(&[0, 0], &mut x, &mut y).unwrap();
    let error = data.read(&[0, 4], &mut x, &mut y).unwrap_err();
    assert_eq!(error, Error::UnknownRow { row: 4, count: 4 });
    let error = data.read(&[0, 1], &mut x[..11], &mut y).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Length {
                expected: 12,
                found: 11,
                ..
            }
        ),
        "{error}"
    );
    let error = data.read(&[0], &mut x[..6], &mut y).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Length {
                expected: 3,
                found: 6,
                ..
            }
        ),
        "{error}"
    );
    let matrix = DMatrix::<f64>::zeros(2, 3);
    let memory = InMemory::new(&matrix, &matrix).unwrap();
    assert_eq!(
        memory.matrices(&[3]).unwrap_err(),
        Error::UnknownRow { row: 3, count: 3 }
    );
    let error = Subset::new(&memory, vec![0, 3]).unwrap_err();
    assert_eq!(error, Error::UnknownRow { row: 3, count: 3 });
    let subset = Subset::new(&memory, vec![2]).unwrap();
    assert_eq!(
        subset.matrices(&[1]).unwrap_err(),
        Error::UnknownRow { row: 1, count: 1 }
    );
    let error = InMemory::new(matrix.clone(), matrix.columns(0, 2).into_owned()).unwrap_err();
    assert_eq!(
        error,
        Error::ExampleCount {
            inputs: 3,
            targets: 2
        }
    );
}

/// Opens inputs, with [`labels`] as targets.
fn open(folder: &Folder, kind: &str, x: &Path) -> Box<dyn Dataset<f64>> {
    let labels = labels(folder, kind);
    match kind {
        "idx" => Box::new(Idx::open(x, labels, TargetEncoding::Values).unwrap()),
        _ => Box::new(Npy::open(x, labels, TargetEncoding::Values).unwrap()),
    }
}

/// Two examples of two values in a file of bytes, the last of which are the values.
fn bytes_of(kind: &str, values: [u8; 4]) -> Vec<u8> {
    match kind {
        "idx" => idx(8, &[2, 2], &values),
        _ => npy(1, "|u1", false, &[2, 2], &values),
    }
}

#[test]
fn a_file_that_shrinks_is_an_error() {
    let folder = Folder::new("shrinks");
    for kind in ["idx", "npy"] {
        let x = folder.write("x", &bytes_of(kind, [1, 2, 3, 4]));
        let data = open(&folder, kind, &x);
        let file = fs::OpenOptions::new().write(true).open(&x).unwrap();
        file.set_len(file.metadata().unwrap().len() - 2).unwrap();
        assert_eq!(data.matrices(&[0]).unwrap().0.as_slice(), [1.0, 2.0]);
        let error = data.matrices(&[1]).unwrap_err();
        assert!(
            matches!(error, Error::File { doing: "read", .. }),
            "{error}"
        );
        assert!(error.to_string().contains("/x "), "{error}");
        // Nothing of it gets into a model.
        let layer = Dense::new(2, 1, Activation::Identity).unwrap();
        let circuit = Circuit::builder().layer(layer).build().unwrap();
        let mut model = DecoupledCircuit::<f64>::new(circuit, Energy::default()).unwrap();
        let before = format!("{model:?}");
        let added = model.add_dataset(&data, &TargetInit::ForwardPass);
        assert_eq!(added.unwrap_err(), error);
        assert_eq!(format!("{model:?}"), before);
    }
}

/// A file that another program puts in the place of one that is open does not mix with it.
#[cfg(unix)]
#[test]
fn a_file_that_is_replaced_is_read_as_it_was_opened() {
    let folder = Folder::new("replaced");
    for kind in ["idx", "npy"] {
        let x = folder.write("x", &bytes_of(kind, [1, 2, 3, 4]));
        let data = open(&folder, kind, &x);
        for other in [bytes_of(kind, [9; 4]), Vec::new(), b"text".to_vec()] {
            fs::rename(folder.write("other", &other), &x).unwrap();
            assert_eq!(
                data.matrices(&[1, 0]).unwrap().0.as_slice(),
                [3., 4., 1., 2.]
            );
        }
        fs::remove_file(&x).unwrap();
        assert_eq!(data.matrices(&[1]).unwrap().0.as_slice(), [3.0, 4.0]);
    }
}

/// Each thread gets its own rows: no position in the file is shared.
#[test]
fn threads_read_at_once() {
    let folder = Folder::new("threads");
    let n = 20_000_u32;
    let bytes: Vec<u8> = (0..3 * n).flat_map(u32::to_be_bytes).collect();
    let x = folder.write("x", &npy(1, ">u4", true, &[3, n as usize], &bytes));
    let y = folder.write("y", &npy(1, ">u4", false, &[3], &bytes[..12]));
    let data = Npy::<f64>::open(x, y, TargetEncoding::Values).unwrap();
    let data: &dyn Dataset<f64> = &data;
    std::thread::scope(|scope| {
        for row in [0, 1, 2, 0] {
            scope.spawn(move || {
                for _ in 0..3 {
                    let (x, y) = data.matrices(&[row]).unwrap();
                    assert_eq!(y[0], row as f64);
                    assert!((0..n as usize).all(|k| x[k] == (3 * k + row) as f64));
                }
            });
        }
    });
}

fn model<T: Scalar>() -> DecoupledCircuit<T> {
    let circuit = Circuit::builder()
        .layer(Dense::new(5, 7, Activation::Tanh).unwrap())
        .layer(Dense::new(7, 4, Activation::Sigmoid).unwrap())
        .layer(Dense::new(4, 2, Activation::Identity).unwrap())
        .build()
        .unwrap();
    DecoupledCircuit::new(circuit, Energy::default()).unwrap()
}

/// Everything that a model keeps of its examples.
fn kept<T: Scalar>(model: &DecoupledCircuit<T>) -> (Vec<DMatrix<T>>, Vec<u64>, Option<Vec<T>>) {
    let z = (0..4).map(|t| model.z(t).unwrap().into_owned()).collect();
    let weights = model.example_weights().map(<[T]>::to_vec);
    (z, model.examples().to_vec(), weights)
}

fn examples<T: Scalar>(n: usize) -> (DMatrix<T>, DMatrix<T>) {
    let mut rng = generator(3);
    let x = DMatrix::from_vec(5, n, uniform(&mut rng, 5 * n, 1.0));
    let y = DMatrix::from_vec(2, n, uniform(&mut rng, 2 * n, 1.0));
    (x, y)
}

fn same_as_matrices<T: Scalar>() {
    // More than two blocks.
    let (x, y) = examples::<T>(2500);
    let data = InMemory::new(&x, &y).unwrap();
    let some: Vec<usize> = (0..900).map(|i| i * 1777 % 2500).collect();
    let (few_x, few_y) = (x.select_columns(&some), y.select_columns(&some));
    let given = (1..3).map(|t| DMatrix::repeat([7, 4][t - 1], 2500, T::of(0.25)));
    for init in [
        TargetInit::ForwardPass,
        TargetInit::NoisyForwardPass { std: 0.3, seed: 5 },
        TargetInit::RandomNormal { std: 0.3, seed: 5 },
        TargetInit::Projected { seed: 5 },
        TargetInit::Given(given.collect()),
    ] {
        let (mut a, mut b) = (model::<T>(), model::<T>());
        let ids = a.add_examples(&x, &y, &init).unwrap();
        assert_eq!(b.add_dataset(&data, &init).unwrap(), ids);
        assert_eq!(kept(&a), kept(&b));
        // With other examples and weights there before.
        for model in [&mut a, &mut b] {
            let weights = vec![T::of(0.5); 2];
            model
                .set_example_weights(&Selection::Examples(&[3, 9]), &weights)
                .unwrap();
            model.remove_examples(&[0, 7]).unwrap();
        }
        if !matches!(init, TargetInit::Given(_)) {
            let ids = a.add_examples(&few_x, &few_y, &init).unwrap();
            let subset = Subset::new(&data, some.clone()).unwrap();
            assert_eq!(b.add_dataset(&subset, &init).unwrap(), ids);
            assert_eq!(kept(&a), kept(&b));
        }
    }
}

/// Examples of which one is not as it should be.
#[derive(Debug)]
struct Faulty {
    fault: &'static str,
    inputs: usize,
}

impl<T: Scalar> Dataset<T> for Faulty {
    fn len(&self) -> usize {
        1500
    }

    fn inputs(&self) -> usize {
        self.inputs
    }

    fn targets(&self) -> usize {
        2
    }

    fn read(&self, rows: &[usize], inputs: &mut [T], targets: &mut [T]) -> Result<(), Error> {
        assert_eq!(self.inputs, 5, "read in spite of the wrong shape");
        self.check_read(rows, inputs, targets)?;
        for ((&row, x), y) in rows
            .iter()
            .zip(inputs.chunks_mut(5))
            .zip(targets.chunks_mut(2))
        {
            x.fill(T::one());
            match (row, self.fault) {
                (1400, "error") => return Err(Error::UnknownRow { row, count: 0 }),
                (1400, "not finite") => y[1] = T::of(f64::INFINITY),
                (1400, "not written") => y[0] = T::one(),
                _ => y.fill(T::one()),
            }
        }
        Ok(())
    }
}

fn failures_change_nothing<T: Scalar>() {
    let (x, y) = examples::<T>(20);
    let mut model = model::<T>();
    model
        .add_examples(&x, &y, &TargetInit::ForwardPass)
        .unwrap();
    let before = kept(&model);
    let init = TargetInit::NoisyForwardPass { std: 0.1, seed: 1 };
    for (fault, inputs) in [
        ("error", 5),
        ("not finite", 5),
        ("not written", 5),
        ("shape", 6),
    ] {
        let data = Faulty { fault, inputs };
        let error = model.add_dataset(&data, &init).unwrap_err();
        match fault {
            "error" => assert_eq!(
                error,
                Error::UnknownRow {
                    row: 1400,
                    count: 0
                }
            ),
            "shape" => {
                assert!(
                    matches!(
                        error,
                        Error::Shape {
                            found: (6, 1500),
                            ..
                        }
                    ),
                    "{error}"
                );
            }
            _ => assert!(
                matches!(error, Error::NonFiniteData { column: 1400, .. }),
                "{error}"
            ),
        }
        assert_eq!(kept(&model), before);
    }
    let good = Faulty {
        fault: "none",
        inputs: 5,
    };
    let bad = TargetInit::NoisyForwardPass { std: -0.1, seed: 1 };
    assert!(matches!(
        model.add_dataset(&good, &bad),
        Err(Error::InvalidOption { .. })
    ));
    assert_eq!(kept(&model), before);
    assert_eq!(model.add_dataset(&good, &init).unwrap(), 20..1520);
}

/// The trait through pointers, and data sets of several kinds in one list.
#[test]
fn data_sets_of_several_kinds() {
    let (x, y) = (
        DMatrix::<f64>::repeat(6, 4, 1.0),
        DMatrix::<f64>::repeat(1, 4, 2.0),
    );
    let numpy = Npy::open(own("f4.npy"), own("i8.npy"), TargetEncoding::Values).unwrap();
    let all: [Box<dyn Dataset<f64>>; 3] = [
        Box::new(InMemory::new(x, y).unwrap()),
        Box::new(std::sync::Arc::new(numpy)),
        Box::new(
            Subset::new(
                Box::new(Faulty {
                    fault: "none",
                    inputs: 5,
                }) as Box<dyn Dataset<f64>>,
                vec![],
            )
            .unwrap(),
        ),
    ];
    assert_eq!(
        all.each_ref().map(|data| (data.len(), data.is_empty())),
        [(4, false), (4, false), (0, true)]
    );
    assert_eq!(all[2].matrices(&[]).unwrap().0.shape(), (5, 0));
}

/// Examples of two values, and then of three; two of them, and then three.
#[derive(Debug, Default)]
struct Unsteady {
    inputs: AtomicUsize,
    count: AtomicUsize,
}

impl Dataset<f64> for Unsteady {
    fn len(&self) -> usize {
        2 + self.count.fetch_add(1, Ordering::Relaxed).min(1)
    }
    fn inputs(&self) -> usize {
        2 + self.inputs.fetch_add(1, Ordering::Relaxed).min(1)
    }
    fn targets(&self) -> usize {
        1
    }
    fn read(&self, _: &[usize], inputs: &mut [f64], targets: &mut [f64]) -> Result<(), Error> {
        inputs.fill(0.5);
        targets.fill(1.0);
        Ok(())
    }
}

#[test]
fn a_data_set_is_asked_for_its_size_once() {
    let (x, _) = Unsteady::default().matrices(&[0]).unwrap();
    assert_eq!(x.shape(), (2, 1));
    assert_eq!(Unsteady::default().labels().unwrap(), [1, 1]);
}
