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
    /// Whether any byte was written.
    begun: bool,
    /// The rest of lines that a failed write had begun.
    rest: Vec<u8>,
}

impl Output {
    /// A new file, in place of an old one.
    pub(super) fn create(path: &Path) -> Result<Self, Error> {
        let name = format!("the file {}", path.display());
        match File::create(path) {
            Ok(file) => Ok(Self::new(Box::new(file), name)),
            Err(reason) => Err(failed(&name, &reason)),
        }
    }

    pub(super) fn to(writer: impl Write + Send + 'static) -> Self {
        Self::new(Box::new(writer), "the log".into())
    }

    fn new(to: Box<dyn Write + Send>, name: String) -> Self {
        Self {
            to,
            name,
            begun: false,
            rest: Vec::new(),
        }
    }

    /// Whether anything was written.
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Writes whole lines, so that a reader never waits for the rest of one. If that fails after a part
    /// of them, the next call writes their rest first.
    pub(super) fn lines(&mut self, lines: &str) -> Result<(), Error> {
        let written = self.write(lines.as_bytes());
        let written = written.and_then(|()| self.to.flush());
        written.map_err(|reason| failed(&self.name, &reason))
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let rest = std::mem::take(&mut self.rest);
        let (taken, finished) = self.take(&rest);
        self.rest.extend_from_slice(&rest[taken..]);
        finished?;
        let (taken, finished) = self.take(lines);
        if taken > 0 {
            self.rest.extend_from_slice(&lines[taken..]);
        }
        finished
    }

    /// [`Write::write_all`], and how many bytes were taken.
    fn take(&mut self, bytes: &[u8]) -> (usize, io::Result<()>) {
        let mut taken = 0;
        while taken < bytes.len() {
            match self.to.write(&bytes[taken..]) {
                Ok(0) => return (taken, Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => taken += count,
                Err(reason) if reason.kind() == io::ErrorKind::Interrupted => continue,
                Err(reason) => return (taken, Err(reason)),
            }
            self.begun = true;
        }
        (taken, Ok(()))
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
