//! Tables of comma-separated values.

use std::io::{self, Read, Seek, SeekFrom};
use std::marker::PhantomData;
use std::path::Path;

use ::csv::{ByteRecord, Position, Reader, ReaderBuilder};

use super::Dataset;
use super::encoding::{TargetEncoding, scaled};
use crate::check::{finite, option};
use crate::data_file::DataFile;
use crate::error::Error;
use crate::kernel::Scalar;

/// A column of a table: by its name in the header, or by its number, counted from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CsvColumn {
    /// Its name.
    Name(String),
    /// Its number.
    Number(usize),
}

impl From<&str> for CsvColumn {
    fn from(name: &str) -> Self {
        Self::Name(name.into())
    }
}

impl From<String> for CsvColumn {
    fn from(name: String) -> Self {
        Self::Name(name)
    }
}

impl From<usize> for CsvColumn {
    fn from(number: usize) -> Self {
        Self::Number(number)
    }
}

/// How a [`Csv`] file is read. By default it has a header, commas separate the fields, the last
/// column is the target, and all other columns are inputs. For a file without a header, call
/// [`CsvOptions::with_header`]: otherwise its first example would be lost. A header of numbers
/// other than 0, 1, 2, … is therefore an error.
#[derive(Debug, Clone, PartialEq)]
pub struct CsvOptions {
    header: bool,
    delimiter: u8,
    inputs: Option<Vec<CsvColumn>>,
    targets: Option<Vec<CsvColumn>>,
    encoding: TargetEncoding,
    scale: f64,
}

impl Default for CsvOptions {
    fn default() -> Self {
        Self {
            header: true,
            delimiter: b',',
            inputs: None,
            targets: None,
            encoding: TargetEncoding::Values,
            scale: 1.0,
        }
    }
}

impl CsvOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the first record names the columns.
    pub fn with_header(mut self, header: bool) -> Self {
        self.header = header;
        self
    }

    /// Sets the field separator, such as `b';'`.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a quote or the end of a line.
    pub fn with_delimiter(mut self, delimiter: u8) -> Result<Self, Error> {
        let fits = !matches!(delimiter, b'"' | b'\n' | b'\r');
        let allowed = "neither a quote nor the end of a line";
        option("CsvOptions::delimiter", delimiter.into(), fits, allowed)?;
        self.delimiter = delimiter;
        Ok(self)
    }

    /// Chooses the columns of the inputs, in this order: names (`["a", "b"]`) or numbers (`0..64`).
    /// The default is all columns that are not targets.
    pub fn with_inputs(mut self, columns: impl IntoIterator<Item: Into<CsvColumn>>) -> Self {
        self.inputs = Some(columns.into_iter().map(Into::into).collect());
        self
    }

    /// Chooses the columns of the targets, in this order. The default is the last column.
    pub fn with_targets(mut self, columns: impl IntoIterator<Item: Into<CsvColumn>>) -> Self {
        self.targets = Some(columns.into_iter().map(Into::into).collect());
        self
    }

    /// Sets how target values become z_T; by default they are left as they are.
    pub fn with_encoding(mut self, encoding: TargetEncoding) -> Self {
        self.encoding = encoding;
        self
    }

    /// Multiplies inputs by `scale`, 1 by default.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a factor that is not finite.
    pub fn with_scale(mut self, scale: f64) -> Result<Self, Error> {
        self.scale = finite("CsvOptions::scale", scale)?;
        Ok(self)
    }
}

/// A table of comma-separated values, one record per example.
///
/// Quoted fields are as in RFC 4180; lines may end with LF, CRLF or CR; blank lines and a
/// byte-order mark are skipped. All records have the same number of fields. The file is read once
/// when it is opened, to note where each record begins (8 bytes per record); records are read on
/// demand.
///
/// Numbers are parsed as Rust parses `f64`, and spaces around them are ignored. Inputs (d_0 is the
/// number of input columns) are multiplied by a factor in `f64` and rounded once to `T`; targets
/// are encoded as [`TargetEncoding`] says.
///
/// # Examples
/// ```
/// use layerwise::data::{Csv, CsvOptions, Dataset, TargetEncoding};
///
/// let path = std::env::temp_dir().join("layerwise-example-data.csv");
/// # let path = path.with_extension(std::process::id().to_string());
/// std::fs::write(&path, "width,kind,height\n1.5,2,10\n2.5,0,20\n").unwrap();
/// let options = CsvOptions::new()
///     .with_targets(["kind"])
///     .with_encoding(TargetEncoding::OneHot { classes: 3 });
/// let data = Csv::<f64>::open(&path, &options)?;
/// let (x, y) = data.matrices(&[1, 0])?;
/// assert_eq!(x.as_slice(), [2.5, 20.0, 1.5, 10.0]);
/// assert_eq!(y.as_slice(), [1.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
/// # std::fs::remove_file(&path).unwrap();
/// # Ok::<(), layerwise::Error>(())
/// ```
#[derive(Debug)]
pub struct Csv<T> {
    file: DataFile,
    /// Where each record begins, up to blank lines before it.
    records: Vec<u64>,
    /// The fields of every record.
    fields: usize,
    /// The names of the columns; none without a header.
    names: Vec<String>,
    inputs: Vec<usize>,
    targets: Vec<usize>,
    encoding: TargetEncoding,
    /// d_T.
    dim: usize,
    scale: f64,
    delimiter: u8,
    /// The bytes to read at a time.
    buffer: usize,
    scalar: PhantomData<T>,
}

/// The longest record, in bytes. A quote that is not closed makes the rest of a file one record.
const RECORD: u64 = 1 << 26;

/// What follows the file: the end of a line, and a byte that is a record of its own, unless a quote is
/// open at the end of the file.
fn sentinel(delimiter: u8) -> [u8; 2] {
    [b'\n', if delimiter == b'.' { b'-' } else { b'.' }]
}

impl<T: Scalar> Csv<T> {
    /// Opens a file and finds its records.
    ///
    /// # Errors
    /// [`Error::File`]; [`Error::Format`] for records of different length or more than 64 MiB, a quote
    /// that is not closed, no header, or a column that does not exist; for one-hot targets
    /// [`Error::Length`] if there is not one target column, and [`Error::InvalidOption`] for no classes.
    pub fn open(path: impl AsRef<Path>, options: &CsvOptions) -> Result<Self, Error> {
        let file = DataFile::open(path.as_ref())?;
        let mut own = Self {
            records: Vec::new(),
            fields: 0,
            names: Vec::new(),
            inputs: Vec::new(),
            targets: Vec::new(),
            encoding: options.encoding,
            dim: 0,
            scale: options.scale,
            delimiter: options.delimiter,
            buffer: 0,
            scalar: PhantomData,
            file,
        };
        own.find_records(options.header)?;
        own.choose_columns(options)?;
        own.dim = own.encoding.dim(own.targets.len())?;
        Ok(own)
    }

    fn find_records(&mut self, header: bool) -> Result<(), Error> {
        let place = Place {
            file: &self.file,
            offset: 0,
            end: 0,
        };
        let sentinel = sentinel(self.delimiter);
        let mut reader = builder(self.delimiter).from_reader(place.chain(&sentinel[..]));
        let mut record = ByteRecord::new();
        let (mut longest, mut ended) = (0, false);
        loop {
            let start = reader.position().byte();
            reader.get_mut().get_mut().0.end = start.saturating_add(RECORD);
            let more = reader.read_byte_record(&mut record);
            if !more.map_err(|error| failed(&self.file, error))? {
                break;
            }
            let end = reader.position().byte();
            if end > self.file.len + 1 {
                ended = record.len() == 1 && record[0] == sentinel[1..];
                break;
            }
            longest = longest.max(end - start);
            if self.fields == 0 {
                self.fields = record.len();
                if header {
                    let names = record.iter().map(|own| String::from_utf8_lossy(own).into());
                    self.names = names.collect();
                    self.check_header()?;
                    continue;
                }
            }
            if record.len() != self.fields {
                return Err(self.file.bad(format!(
                    "the record on line {} has {} fields, not {}",
                    self.line(start)?,
                    record.len(),
                    self.fields
                )));
            }
            self.records.push(start);
        }
        if !ended {
            return Err(self
                .file
                .bad("a quote is not closed by the end of the file"));
        }
        if header && self.fields == 0 {
            return Err(self.file.bad("it is empty, but should have a header"));
        }
        // Whole records at a time; longer ones in pieces.
        self.buffer = longest.clamp(64, 1 << 16) as usize;
        Ok(())
    }

    /// Refuses names that are all numbers, unless they number the columns: an example.
    fn check_header(&self) -> Result<(), Error> {
        let number = |name: &String| name.trim().parse::<f64>().is_ok();
        let mut names = self.names.iter().enumerate();
        if !self.names.iter().all(number) || names.all(|(i, name)| *name == i.to_string()) {
            return Ok(());
        }
        Err(self.file.bad(format!(
            "its header is all numbers: '{}'. For a file without a header, use \
             CsvOptions::with_header(false)",
            self.names.join("', '")
        )))
    }

    fn choose_columns(&mut self, options: &CsvOptions) -> Result<(), Error> {
        let chosen = |columns: &[CsvColumn]| {
            let all = columns.iter().map(|column| self.column(column));
            all.collect::<Result<Vec<usize>, Error>>()
        };
        let targets = match &options.targets {
            Some(columns) => chosen(columns)?,
            None => (self.fields.saturating_sub(1)..self.fields).collect(),
        };
        let inputs = match &options.inputs {
            Some(columns) => chosen(columns)?,
            None => (0..self.fields)
                .filter(|own| !targets.contains(own))
                .collect(),
        };
        if inputs.is_empty() || targets.is_empty() {
            return Err(self.file.bad(format!(
                "of its {} columns, {} are inputs and {} targets, but both need at least one",
                self.fields,
                inputs.len(),
                targets.len()
            )));
        }
        (self.inputs, self.targets) = (inputs, targets);
        Ok(())
    }

    fn column(&self, column: &CsvColumn) -> Result<usize, Error> {
        let bad = |reason: String| Err(self.file.bad(reason));
        match column {
            CsvColumn::Number(number) if *number < self.fields => Ok(*number),
            CsvColumn::Number(number) => bad(format!(
                "column {number} was chosen, but it has {} columns, counted from 0",
                self.fields
            )),
            CsvColumn::Name(name) => {
                let mut same = (0..self.names.len()).filter(|&i| self.names[i] == *name);
                match (same.next(), same.next()) {
                    (Some(number), None) => Ok(number),
                    (Some(_), Some(_)) => bad(format!("two columns are called '{name}'")),
                    _ => bad(format!(
                        "there is no column '{name}' in its header: '{}'",
                        self.names.join("', '")
                    )),
                }
            }
        }
    }

    /// The line on which the record at `offset` begins, counted from 1.
    fn line(&self, offset: u64) -> Result<u64, Error> {
        let (mut line, mut last, mut buffer) = (1, 0, [0; 8192]);
        for start in (0..self.file.len).step_by(buffer.len()) {
            let count = (self.file.len - start).min(buffer.len() as u64) as usize;
            self.file.read(&mut buffer[..count], start)?;
            for (at, &byte) in (start..).zip(&buffer[..count]) {
                if at >= offset && byte != b'\n' && byte != b'\r' {
                    return Ok(line);
                }
                // CRLF is one end of a line.
                line += u64::from(byte == b'\r' || byte == b'\n' && last != b'\r');
                last = byte;
            }
        }
        Ok(line)
    }

    /// The number in one column of the record of a row.
    fn number(&self, row: usize, record: &ByteRecord, column: usize) -> Result<f64, Error> {
        let text = std::str::from_utf8(&record[column]).ok();
        let number = text.and_then(|text| text.trim().parse().ok());
        number.ok_or_else(|| self.wrong(row, record, column, "a number".into()))
    }

    /// [`Error::FileValue`] for one column of the record of a row.
    fn wrong(&self, row: usize, record: &ByteRecord, column: usize, expected: String) -> Error {
        let name = self.names.get(column);
        let mut value = String::from_utf8_lossy(&record[column]).into_owned();
        if let Some((end, _)) = value.char_indices().nth(40) {
            value.replace_range(end.., "…");
        }
        Error::FileValue {
            file: self.file.name.clone(),
            row,
            line: self.line(self.records[row]).ok(),
            column: name.map_or(column.to_string(), |name| format!("{column} ('{name}')")),
            reason: format!("'{value}' is not {expected}"),
        }
    }
}

impl<T: Scalar> Dataset<T> for Csv<T> {
    fn len(&self) -> usize {
        self.records.len()
    }

    fn inputs(&self) -> usize {
        self.inputs.len()
    }

    fn targets(&self) -> usize {
        self.dim
    }

    fn read(&self, rows: &[usize], inputs: &mut [T], targets: &mut [T]) -> Result<(), Error> {
        self.check_read(rows, inputs, targets)?;
        let place = Place {
            file: &self.file,
            offset: 0,
            end: u64::MAX,
        };
        let mut builder = builder(self.delimiter);
        let mut reader = builder.buffer_capacity(self.buffer).from_reader(place);
        // Without this, the first seek would read the first record.
        reader.set_byte_headers(ByteRecord::new());
        let mut record = ByteRecord::new();
        let inputs = inputs.chunks_exact_mut(self.inputs.len());
        let targets = targets.chunks_exact_mut(self.dim);
        for ((&row, x), y) in rows.iter().zip(inputs).zip(targets) {
            let mut position = Position::new();
            position.set_byte(self.records[row]);
            reader.get_mut().end = self.records[row].saturating_add(RECORD);
            let read = seek_and_read(&mut reader, position, &mut record);
            read.map_err(|error| failed(&self.file, error))?;
            if record.len() != self.fields {
                return Err(self.file.bad("it has changed since it was opened"));
            }
            for (&column, x) in self.inputs.iter().zip(x) {
                let number = self.number(row, &record, column)?;
                *x = scaled(number, self.scale)
                    .map_err(|what| self.wrong(row, &record, column, what))?;
            }
            for (k, &column) in self.targets.iter().enumerate() {
                let number = self.number(row, &record, column)?;
                let written = self.encoding.write(y, k, number);
                written.map_err(|what| self.wrong(row, &record, column, what))?;
            }
        }
        Ok(())
    }
}

fn builder(delimiter: u8) -> ReaderBuilder {
    let mut builder = ReaderBuilder::new();
    builder
        .has_headers(false)
        .flexible(true)
        .delimiter(delimiter);
    builder
}

fn seek_and_read(
    reader: &mut Reader<Place<'_>>,
    position: Position,
    record: &mut ByteRecord,
) -> ::csv::Result<bool> {
    reader.seek(position)?;
    reader.read_byte_record(record)
}

fn failed(file: &DataFile, error: ::csv::Error) -> Error {
    match error.into_kind() {
        ::csv::ErrorKind::Io(reason) => file.failed(&reason),
        other => file.bad(format!("{other:?}")),
    }
}

/// A place in a file, from which a reader goes on, up to a byte that no record may reach.
struct Place<'a> {
    file: &'a DataFile,
    offset: u64,
    end: u64,
}

impl Read for Place<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.offset > self.end {
            let reason = format!("a record has more than {RECORD} bytes (is a quote not closed?)");
            return Err(io::Error::other(reason));
        }
        let count = self.file.read_some(bytes, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

impl Seek for Place<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let SeekFrom::Start(offset) = to else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        self.offset = offset;
        Ok(offset)
    }
}
