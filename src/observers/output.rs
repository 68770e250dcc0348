//! Where a log is written.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use crate::error::Error;

/// A file, or anything else that takes bytes, and its name in messages.
pub(super) struct Output {
    to: Box<dyn Write + Send>,
    name: String,
}

impl Output {
    /// A new file, in place of an old one.
    pub(super) fn create(path: &Path) -> Result<Self, Error> {
        let name = format!("the file {}", path.display());
        match File::create(path) {
            Ok(file) => Ok(Self {
                to: Box::new(file),
                name,
            }),
            Err(reason) => Err(failed(&name, &reason)),
        }
    }

    pub(super) fn to(writer: impl Write + Send + 'static) -> Self {
        Self {
            to: Box::new(writer),
            name: "the log".into(),
        }
    }

    /// Writes whole lines, so that a reader never waits for the rest of one.
    pub(super) fn lines(&mut self, lines: &str) -> Result<(), Error> {
        let written = self.to.write_all(lines.as_bytes());
        let written = written.and_then(|()| self.to.flush());
        written.map_err(|reason| failed(&self.name, &reason))
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

fn failed(name: &str, reason: &io::Error) -> Error {
    Error::File {
        file: name.into(),
        doing: "written",
        reason: reason.to_string(),
    }
}
