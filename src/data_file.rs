//! Files that are read and written at any place, by several threads at once.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::error::Error;

/// An open file with its length. Reading does not depend on a position that threads would share.
#[derive(Debug)]
pub(crate) struct DataFile {
    file: File,
    /// Its name in messages.
    pub(crate) name: String,
    pub(crate) len: u64,
}

impl DataFile {
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let name = format!("the file {}", path.display());
        let open = || {
            let file = File::open(path)?;
            let len = file.metadata()?.len();
            Ok((file, len))
        };
        match open() {
            Ok((file, len)) => Ok(Self { file, name, len }),
            Err(reason) => Err(unreadable(name, &reason)),
        }
    }

    /// A file that is open; its length is not needed.
    pub(crate) fn of(file: File, name: String) -> Self {
        Self { file, name, len: 0 }
    }

    /// Writes `bytes` at `offset`.
    pub(crate) fn write(&self, mut bytes: &[u8], mut offset: u64) -> Result<(), Error> {
        while !bytes.is_empty() {
            let written = match self.write_some(bytes, offset) {
                Ok(0) => Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    bytes = &bytes[count..];
                    offset += count as u64;
                    continue;
                }
                Err(reason) if reason.kind() == io::ErrorKind::Interrupted => continue,
                Err(reason) => Err(reason),
            };
            return written.map_err(|reason: io::Error| Error::File {
                file: self.name.clone(),
                doing: "written",
                reason: reason.to_string(),
            });
        }
        Ok(())
    }

    fn write_some(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        #[cfg(unix)]
        return std::os::unix::fs::FileExt::write_at(&self.file, bytes, offset);
        #[cfg(windows)]
        return std::os::windows::fs::FileExt::seek_write(&self.file, bytes, offset);
        #[cfg(not(any(unix, windows)))]
        {
            let _ = (&self.file, bytes, offset);
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    /// Fills `bytes` with those at `offset`.
    pub(crate) fn read(&self, mut bytes: &mut [u8], mut offset: u64) -> Result<(), Error> {
        while !bytes.is_empty() {
            match self.read_some(bytes, offset) {
                Ok(0) => return Err(self.failed(&io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => {
                    bytes = &mut bytes[count..];
                    offset += count as u64;
                }
                Err(reason) if reason.kind() == io::ErrorKind::Interrupted => {}
                Err(reason) => return Err(self.failed(&reason)),
            }
        }
        Ok(())
    }

    /// Reads some of the bytes at `offset`; none at the end of the file.
    pub(crate) fn read_some(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        #[cfg(unix)]
        return std::os::unix::fs::FileExt::read_at(&self.file, bytes, offset);
        // It moves the file's position, which nothing here depends on.
        #[cfg(windows)]
        return std::os::windows::fs::FileExt::seek_read(&self.file, bytes, offset);
        #[cfg(not(any(unix, windows)))]
        {
            let _ = (&self.file, bytes, offset);
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    /// [`Error::Format`] for this file.
    pub(crate) fn bad(&self, reason: impl Into<String>) -> Error {
        Error::Format {
            file: self.name.clone(),
            reason: reason.into(),
        }
    }

    /// [`Error::File`] for this file.
    pub(crate) fn failed(&self, reason: &io::Error) -> Error {
        unreadable(self.name.clone(), reason)
    }
}

fn unreadable(file: String, reason: &io::Error) -> Error {
    Error::File {
        file,
        doing: "read",
        reason: reason.to_string(),
    }
}
