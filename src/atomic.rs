//! Files that are read, and replaced, as a whole.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::error::Error;

/// The name of a file in messages.
pub(crate) fn name(path: &Path) -> String {
    format!("the file {}", path.display())
}

/// Replaces a file, or creates it, by what `fill` passes on piece by piece: after a crash at any moment,
/// the old or the new one is there.
pub(crate) fn write(
    path: &Path,
    fill: impl FnOnce(&mut Sink<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    let unwritten = |reason: io::Error| failed(path, "written", &reason);
    let own = target(path).map_err(unwritten)?;
    let partial = partial(&own);
    let old = fs::metadata(&own).ok();
    if old.as_ref().is_some_and(|old| !old.is_file()) {
        // The superuser could replace the null device.
        return Err(unwritten(io::Error::other("it is not a regular file")));
    }
    let file = locked(&partial, old.as_ref()).map_err(unwritten)?;
    let written = fill_file(&file, fill, unwritten).and_then(|()| {
        let finish = || {
            keep_mode(&file, old.as_ref())?;
            file.sync_all()?;
            fs::rename(&partial, &own)
        };
        finish().map_err(unwritten)
    });
    if written.is_err() {
        // It would be found on a disk that may be full.
        let _ = fs::remove_file(&partial);
    }
    written?;
    // The new name is on the disk once its folder is; where folders cannot be opened, the system
    // takes care of it.
    if let Ok(folder) = File::open(folder(&own)) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// Checks that a file could be written there, as far as its folder shows.
#[cfg(feature = "storage")]
pub(crate) fn check_folder(path: &Path) -> Result<(), Error> {
    let found = target(path).and_then(|path| fs::metadata(folder(&path)));
    match found.map(|folder| folder.is_dir()) {
        Ok(true) => Ok(()),
        Ok(false) => Err(failed(path, "written", &ErrorKind::NotADirectory.into())),
        Err(reason) => Err(failed(path, "written", &reason)),
    }
}

/// The folder of a file.
fn folder(path: &Path) -> &Path {
    let folder = path.parent();
    let named = folder.filter(|folder| !folder.as_os_str().is_empty());
    named.unwrap_or(Path::new("."))
}

/// What takes the pieces of a file.
pub(crate) type Sink<'a> = dyn FnMut(&[u8]) -> Result<(), Error> + 'a;

fn fill_file(
    file: &File,
    fill: impl FnOnce(&mut Sink<'_>) -> Result<(), Error>,
    unwritten: impl Fn(io::Error) -> Error,
) -> Result<(), Error> {
    file.set_len(0).map_err(&unwritten)?;
    let mut buffer = BufWriter::with_capacity(1 << 16, file);
    fill(&mut |bytes| buffer.write_all(bytes).map_err(&unwritten))?;
    buffer.flush().map_err(&unwritten)
}

fn failed(path: &Path, doing: &'static str, reason: &io::Error) -> Error {
    Error::File {
        file: name(path),
        doing,
        reason: reason.to_string(),
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
