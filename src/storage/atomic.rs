//! Files that are read, and replaced, as a whole.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Write};
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
    let path = target(path)?;
    let partial = partial(&path);
    let old = fs::metadata(&path).ok();
    let mut file = locked(&partial, old.as_ref())?;
    let written = file
        .set_len(0)
        .and_then(|()| file.write_all(bytes))
        .and_then(|()| keep_mode(&file, old.as_ref()))
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&partial, &path));
    if written.is_err() {
        // It would be found on a disk that may be full.
        let _ = fs::remove_file(&partial);
    }
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

/// What a path leads to, which need not exist: a file that a link points to is replaced, not the link.
fn target(path: &Path) -> io::Result<PathBuf> {
    /// As many links as Linux follows.
    const MOST: usize = 40;
    let mut path = path.to_owned();
    for _ in 0..MOST {
        let Ok(next) = fs::read_link(&path) else {
            return Ok(path);
        };
        // Relative to the folder of the link.
        path.pop();
        path.push(next);
    }
    Err(io::Error::other("it is a link to a link, without end"))
}

/// Gives the file the permissions of the old one.
#[cfg(unix)]
fn keep_mode(file: &File, old: Option<&Metadata>) -> io::Result<()> {
    old.map_or(Ok(()), |old| file.set_permissions(old.permissions()))
}

/// Elsewhere a file has those of its folder.
#[cfg(not(unix))]
fn keep_mode(_: &File, _: Option<&Metadata>) -> io::Result<()> {
    Ok(())
}

/// Nobody else may read what is written before it has the permissions of the old file.
#[cfg(unix)]
fn private(options: &mut OpenOptions, old: Option<&Metadata>) {
    use std::os::unix::fs::OpenOptionsExt;
    if old.is_some() {
        options.mode(0o600);
    }
}

#[cfg(not(unix))]
fn private(_: &mut OpenOptions, _: Option<&Metadata>) {}

/// Opens the partial file for this process alone: two writers would mix their bytes.
fn locked(partial: &Path, old: Option<&Metadata>) -> io::Result<File> {
    loop {
        let mut options = File::options();
        private(&mut options, old);
        let file = options
            .write(true)
            .create(true)
            .truncate(false)
            .open(partial)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                return Err(io::Error::other("another process is writing it"));
            }
            // Some file systems have no locks.
            Err(fs::TryLockError::Error(reason)) if reason.kind() == ErrorKind::Unsupported => {}
            Err(fs::TryLockError::Error(reason)) => return Err(reason),
        }
        // Between opening and locking, another writer may have renamed it to the final file.
        if same(&file, partial)? {
            return Ok(file);
        }
    }
}

/// Whether the name still belongs to the open file.
#[cfg(unix)]
fn same(file: &File, name: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let own = file.metadata()?;
    match fs::metadata(name) {
        Ok(named) => Ok((own.dev(), own.ino()) == (named.dev(), named.ino())),
        Err(reason) if reason.kind() == ErrorKind::NotFound => Ok(false),
        Err(reason) => Err(reason),
    }
}

/// Elsewhere a file that is open is not renamed.
#[cfg(not(unix))]
fn same(_: &File, _: &Path) -> io::Result<bool> {
    Ok(true)
}

/// Where a file is written before it gets its name.
fn partial(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".partial");
    name.into()
}
