//! Tables of comma-separated values: what is read can be written, and read again to the same bits.
#![no_main]

use std::fmt::Write;

use layerwise::data::{Csv, CsvOptions};
use layerwise_fuzz::arrays;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let [first, second, text @ ..] = input else {
        return;
    };
    let options = CsvOptions::new()
        .with_header(first & 1 == 0)
        .with_encoding(arrays::encoding(second >> 4));
    let delimiters = [b',', b';', b'\t', b' ', b'1', b'.', 0, 255];
    let delimiter = delimiters[usize::from(first >> 1) % 8];
    let options = options.with_delimiter(delimiter).unwrap();
    let options = match second & 3 {
        0 => options,
        1 => options.with_targets([0]),
        2 => options.with_inputs([1, 0]).with_targets([1]),
        _ => options.with_targets(["a"]),
    };
    let Ok(data) = Csv::<f64>::open(arrays::file("table.csv", text), &options) else {
        return;
    };
    let Ok((x, y)) = arrays::read(&data) else {
        return;
    };
    let mut table = String::new();
    for (x, y) in x.column_iter().zip(y.column_iter()) {
        for value in x.iter().chain(y.iter()) {
            write!(table, "{value:?},").unwrap();
        }
        table.pop();
        table.push('\n');
    }
    let targets = x.nrows()..x.nrows() + y.nrows();
    let options = CsvOptions::new().with_header(false).with_targets(targets);
    if x.ncols() > 0 {
        let path = arrays::file("again.csv", table.as_bytes());
        let again = Csv::<f64>::open(path, &options).expect("a table that was written");
        arrays::assert_same(&x, &y, &again);
    }
});
