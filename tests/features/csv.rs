//! Tables in CSV files: what is read is what was written, and what is wrong is named by line and column.

use layerwise::data::{Csv, CsvOptions, Dataset, TargetEncoding};
use layerwise::{Error, Scalar};
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};

use crate::storage::Folder;

/// Runs `test` on 256 draws, with a fixed seed.
fn for_all<S: Strategy>(strategy: S, test: impl Fn(S::Value)) {
    let config = ProptestConfig {
        cases: 256,
        rng_seed: RngSeed::Fixed(0x6c61_7965),
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let run = TestRunner::new(config).run(&strategy, |value| {
        test(value);
        Ok(())
    });
    run.unwrap();
}

/// Opens a table that is given as text.
fn open<T: Scalar>(folder: &Folder, text: &str, options: &CsvOptions) -> Result<Csv<T>, Error> {
    let path = folder.file("data.csv");
    std::fs::write(&path, text).unwrap();
    Csv::open(path, options)
}

/// How a file is written: line ends, quotes, spaces and blank lines by chance, a byte-order mark, a
/// header, and whether the last line ends.
type Style = (usize, u64, bool, bool, bool);

fn written(table: &[Vec<f64>], (end, mut chance, mark, header, last): Style) -> String {
    let end = ["\n", "\r\n", "\r"][end];
    let mut text = String::from(if mark { "\u{feff}" } else { "" });
    if header {
        let names = (0..table[0].len()).map(|k| format!("\"c, \"\"{k}\"\"\""));
        text += &names.collect::<Vec<_>>().join(",");
        text += end;
    }
    for row in table {
        let field = |x: &f64| {
            chance = chance.rotate_left(3);
            match chance % 4 {
                0 => format!("\"{x}\""),
                1 => format!(" {x:e} "),
                2 => format!("\"\n {x}\""),
                _ => x.to_string(),
            }
        };
        text += &row.iter().map(field).collect::<Vec<_>>().join(",");
        text += end;
        text += &end.repeat((chance % 3) as usize);
    }
    if !last {
        text.truncate(text.trim_end().len());
    }
    text
}

fn check_values<T: Scalar>() {
    let folder = Folder::new(&format!("csv-{}", size_of::<T>()));
    let style = (
        0..3_usize,
        any::<u64>(),
        any::<bool>(),
        any::<bool>(),
        any::<bool>(),
    );
    let case = (2..5_usize, 1..30_usize).prop_flat_map(|(columns, n)| {
        let row = prop::collection::vec(-1e3..1e3, columns);
        let rows = prop::collection::vec(0..n, 0..40);
        (prop::collection::vec(row, n), rows)
    });
    for_all((case, style), |((mut table, rows), style)| {
        let columns = table[0].len();
        table
            .iter_mut()
            .for_each(|row| row[0] = (row[0] as i64).rem_euclid(4) as f64);
        let mut options = CsvOptions::new()
            .with_header(style.3)
            .with_scale(0.5)
            .unwrap();
        let text = written(&table, style);
        // The last column is the target.
        let data = open::<T>(&folder, &text, &options).unwrap();
        assert_eq!(
            (data.len(), data.inputs(), data.targets()),
            (table.len(), columns - 1, 1)
        );
        let (x, y) = data.matrices(&rows).unwrap();
        for (i, &row) in rows.iter().enumerate() {
            for k in 0..columns - 1 {
                assert_eq!(x[(k, i)], T::of(0.5 * table[row][k]));
            }
            assert_eq!(y[(0, i)], T::of(table[row][columns - 1]));
        }
        let error = data.labels().unwrap_err();
        assert!(matches!(error, Error::NotOneHot { .. }), "{error}");
        // The first is, as a class; the last is the only input.
        options = match style.3 {
            true => options.with_targets(["c, \"0\""]),
            false => options.with_targets([0]),
        };
        options = options
            .with_inputs([columns - 1])
            .with_encoding(TargetEncoding::OneHot { classes: 4 });
        let data = open::<T>(&folder, &text, &options).unwrap();
        let classes: Vec<usize> = table.iter().map(|row| row[0] as usize).collect();
        assert_eq!(data.labels().unwrap(), classes);
        let (x, y) = data.matrices(&rows).unwrap();
        for (i, &row) in rows.iter().enumerate() {
            assert_eq!(x[(0, i)], T::of(0.5 * table[row][columns - 1]));
            let class = |k: usize| f64::from(k as f64 == table[row][0]);
            assert!((0..4).all(|k| y[(k, i)] == T::of(class(k))));
        }
    });
}

#[test]
fn values_in_f64() {
    check_values::<f64>();
}

#[test]
fn values_in_f32() {
    check_values::<f32>();
}

#[test]
fn wrong_values_are_named_by_line_and_column() {
    let folder = Folder::new("csv-wrong");
    let text = "a,\"b\nb\",class\n1,2,0\n\n\n3,x y,1\n4,,2\n5,inf,0\n6,1e39,0\n7,8,3\n9,10,1.5\n";
    let classes = TargetEncoding::OneHot { classes: 3 };
    let options = CsvOptions::new().with_encoding(classes);
    for end in ["\n", "\r\n", "\r"] {
        let data = open::<f32>(&folder, &text.replace('\n', end), &options).unwrap();
        assert_eq!(data.matrices(&[0]).unwrap().0.as_slice(), [1.0, 2.0]);
        for (row, line, column, value, expected) in [
            (1, 6, "1 ('b\nb')", "x y", "a number"),
            (2, 7, "1 ('b\nb')", "", "a number"),
            (3, 8, "1 ('b\nb')", "inf", "a finite number"),
            (4, 9, "1 ('b\nb')", "1e39", "a number that f32 can hold"),
            (5, 10, "2 ('class')", "3", "a class from 0 to 2"),
            (6, 11, "2 ('class')", "1.5", "a class from 0 to 2"),
        ] {
            let error = data.matrices(&[0, row]).unwrap_err();
            let own = Error::FileValue {
                file: format!("the file {}", folder.file("data.csv").display()),
                row,
                line: Some(line),
                column: column.replace('\n', end),
                reason: format!("'{value}' is not {expected}"),
            };
            assert_eq!(error, own);
        }
    }
    // It is the product with the factor that f64 cannot hold.
    let scaled = CsvOptions::new().with_scale(1e10).unwrap();
    let data = open::<f64>(&folder, "a,b\n1e300,1\ninf,1\n", &scaled).unwrap();
    for (row, reason) in [
        (
            0,
            "'1e300' is not a number that f64 can hold after multiplication by 1e10",
        ),
        (1, "'inf' is not a finite number"),
    ] {
        let error = data.matrices(&[row]).unwrap_err().to_string();
        assert!(error.ends_with(reason), "{error}");
    }
    let long = format!("1,{}\n", "é".repeat(1000));
    let data = open::<f64>(&folder, &long, &CsvOptions::new().with_header(false)).unwrap();
    let message = data.matrices(&[0]).unwrap_err().to_string();
    assert!(
        message.contains("line 1") && message.len() < 300,
        "{message}"
    );
}

#[test]
fn tables_that_cannot_be_used() {
    let folder = Folder::new("csv-refused");
    let plain = CsvOptions::new;
    let no_header = || plain().with_header(false);
    for (text, options, word) in [
        ("", plain(), "should have a header"),
        (
            "1,2\n3,4\n",
            plain(),
            "'1', '2'. For a file without a header",
        ),
        ("a,b\n1,2\n1,2,3\n", plain(), "line 3 has 3 fields, not 2"),
        ("a,b\n1,2\n\n1\n", plain(), "line 4 has 1 fields, not 2"),
        (
            "a,b\n1,2\n1,\"2\n3,4\n5,6\n",
            plain(),
            "quote is not closed",
        ),
        ("1,\"2", no_header(), "quote is not closed"),
        ("1,2\n3,\"4\n", no_header(), "quote is not closed"),
        (
            "a,b\n1,2\n",
            plain().with_inputs(["c"]),
            "no column 'c' in its header: 'a', 'b'",
        ),
        (
            "a,a,b\n1,2,3\n",
            plain().with_targets(["a"]),
            "two columns are called 'a'",
        ),
        ("1,2\n", no_header().with_targets(["a"]), "no column 'a'"),
        (
            "1,2\n",
            no_header().with_targets([2]),
            "column 2 was chosen, but it has 2",
        ),
        ("1\n2\n", no_header(), "0 are inputs and 1 targets"),
        (
            "1,2\n",
            no_header().with_targets([0; 0]),
            "2 are inputs and 0 targets",
        ),
        ("", no_header(), "of its 0 columns"),
    ] {
        let error = open::<f64>(&folder, text, &options).unwrap_err();
        assert!(matches!(error, Error::Format { .. }), "{error}");
        assert!(
            error.to_string().contains(word),
            "'{word}' is not in: {error}"
        );
    }
    let two = no_header().with_targets(0..2).with_inputs([2]);
    let two = two.with_encoding(TargetEncoding::OneHot { classes: 2 });
    let error = open::<f64>(&folder, "1,1,1\n", &two).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Length {
                expected: 1,
                found: 2,
                ..
            }
        ),
        "{error}"
    );
    let missing = Csv::<f64>::open(folder.file("none"), &plain()).unwrap_err();
    assert!(
        matches!(missing, Error::File { doing: "read", .. }),
        "{missing}"
    );
    assert!(matches!(
        plain().with_delimiter(b'"'),
        Err(Error::InvalidOption { .. })
    ));
    assert!(matches!(
        plain().with_scale(f64::INFINITY),
        Err(Error::InvalidOption { .. })
    ));
    // A header alone is a table without examples; other delimiters.
    assert!(open::<f64>(&folder, "a,b\n", &plain()).unwrap().is_empty());
    for mark in [';', '.', '-', ' ', 'x'] {
        let other = no_header().with_delimiter(mark as u8).unwrap();
        let text = format!("1{mark}2\n3{mark}4");
        let data = open::<f64>(&folder, &text, &other).unwrap();
        assert_eq!(data.matrices(&[1, 0]).unwrap().1.as_slice(), [4.0, 2.0]);
        let open_quote = open::<f64>(&folder, &format!("1{mark}\"2\n"), &other).unwrap_err();
        assert!(
            open_quote.to_string().contains("quote is not closed"),
            "{open_quote}"
        );
    }
}

/// A quote that is not closed does not fill the memory.
#[test]
fn no_record_is_endless() {
    let folder = Folder::new("csv-endless");
    let path = folder.file("data.csv");
    std::fs::write(&path, "1,\"2").unwrap();
    // A hole, which takes no room on most disks.
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(1 << 27).unwrap();
    let error = Csv::<f64>::open(&path, &CsvOptions::new()).unwrap_err();
    assert!(error.to_string().contains("67108864 bytes"), "{error}");
}

#[test]
fn cut_and_changed_files_never_panic() {
    let folder = Folder::new("csv-flips");
    let text = "a,\"b,\"\"b\"\"\",c\r\n1,\"2\",0\r\n-3.5e1,4,1\r\n5,6,2\n";
    let options = CsvOptions::new().with_encoding(TargetEncoding::OneHot { classes: 3 });
    let all = |bytes: &[u8]| {
        let path = folder.file("data.csv");
        std::fs::write(&path, bytes).unwrap();
        let data = Csv::<f64>::open(&path, &options)?;
        let rows: Vec<usize> = (0..data.len()).collect();
        data.matrices(&rows)
    };
    assert_eq!(
        all(text.as_bytes()).unwrap().0.as_slice(),
        [1., 2., -35., 4., 5., 6.]
    );
    let check = |bytes: &[u8]| match all(bytes) {
        Ok((x, y)) => assert!(x.iter().chain(y.iter()).all(|x| x.is_finite())),
        Err(Error::Format { .. } | Error::FileValue { .. }) => {}
        Err(other) => panic!("{other}"),
    };
    (0..text.len()).for_each(|end| check(&text.as_bytes()[..end]));
    for_all(
        prop::collection::vec((0..text.len(), any::<u8>()), 1..4),
        |changes| {
            let mut bytes = text.as_bytes().to_vec();
            changes.into_iter().for_each(|(at, byte)| bytes[at] = byte);
            check(&bytes);
        },
    );
}

#[test]
fn a_file_that_changes_is_an_error() {
    let folder = Folder::new("csv-changes");
    let data = open::<f64>(&folder, "a,b\n1,2\n3,4\n", &CsvOptions::new()).unwrap();
    std::fs::write(folder.file("data.csv"), "a,b\n1,2\n").unwrap();
    assert!(data.matrices(&[0]).is_ok());
    let error = data.matrices(&[1]).unwrap_err();
    assert!(matches!(error, Error::Format { .. }), "{error}");
}

/// It shrinks, or another program puts another file in its place.
#[cfg(unix)]
#[test]
fn a_file_that_is_replaced_is_read_as_it_was_opened() {
    let folder = Folder::new("csv-replaced");
    let data = open::<f64>(&folder, "a,b\n1,2\n3,4\n", &CsvOptions::new()).unwrap();
    let (path, other) = (folder.file("data.csv"), folder.file("other.csv"));
    for text in ["a,b\n9,9\n9,9\n", "", "of another program"] {
        std::fs::write(&other, text).unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert_eq!(data.matrices(&[1, 0]).unwrap().0.as_slice(), [3.0, 1.0]);
    }
    std::fs::remove_file(&path).unwrap();
    assert_eq!(data.matrices(&[1]).unwrap().1.as_slice(), [4.0]);
}
