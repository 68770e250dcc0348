//! Files that are read, and replaced, as a whole.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::error::Error;

/// The name of a file in messages.
pub(super) fn name(path: &Path) -> String {
    format!("the file {}", path.display())
}

/// The bytes of a file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|reason| failed(path, "read", &reason))
}

/// Replaces a file, or creates it: after a crash at any moment, the old or the new one is there.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    replace(path, bytes).map_err(|reason| failed(path, "written", &reason))
}

fn failed(path: &Path, doing: &'static str, reason: &io::Error) -> Error {
    Error::File {
        file: name(path),
        doing,
        reason: reason.to_string(),
    }
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // What a link points to is replaced, not the link.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let partial = partial(&path);
    let written = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&partial)
        .and_then(|mut file| {
            // Two runs that write to one place would mix their bytes.
            file.try_lock().map_err(|reason| match reason {
                fs::TryLockError::WouldBlock => io::Error::other("another process is writing it"),
                fs::TryLockError::Error(reason) => reason,
            })?;
            let written = file
                .set_len(0)
                .and_then(|()| file.write_all(bytes))
                .and_then(|()| file.sync_all())
                .and_then(|()| fs::rename(&partial, &path));
            if written.is_err() {
                // It would be found on a disk that may be full.
                let _ = fs::remove_file(&partial);
            }
            written
        });
    written?;
    // The new name is on the disk once its folder is; where folders cannot be opened, the system
    // takes care of it.
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    match File::open(folder.unwrap_or(Path::new("."))) {
        Ok(folder) => folder.sync_all().or(Ok(())),
        Err(_) => Ok(()),
    }
}

/// Where a file is written before it gets its name.
fn partial(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".partial");
    name.into()
}
