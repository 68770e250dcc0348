//! Disks and folders that fail under a run: the error names the file and the reason, what was saved stays, and
//! the run stops or goes on, as it was told to.

use std::fs;
use std::path::{Path, PathBuf};

use layerwise::observers::CsvLog;
use layerwise::training::{Event, Observer, Progress, Session, StopReason};
use layerwise::{Circuit, Error};

use crate::checkpoints::{assert_same, empty, model, plain};
use crate::storage::Folder;

/// The error that says that this file could not be written.
fn assert_unwritten(error: &Error, path: &Path) {
    assert!(
        matches!(
            error,
            Error::File {
                doing: "written",
                ..
            }
        ),
        "{error}"
    );
    let file = format!("the file {} could not be written: ", path.display());
    let told = error.to_string();
    let reason = told.strip_prefix(&file).expect(&told);
    assert!(!reason.is_empty());
}

fn whole() -> Session<f64> {
    let mut session = Session::new(&plain(), model()).unwrap();
    session.run().unwrap();
    session
}

const CHILD: &str = "LAYERWISE_FULL_DISK";

/// In a child process of the next test, whose files may have no more than some 1,000 bytes: as on a disk
/// that gets full, a part is written and the rest is not.
#[test]
fn child() {
    let Some(path) = std::env::var_os(CHILD).map(PathBuf::from) else {
        return;
    };
    let partial = path.with_extension("partial");
    let log = path.with_file_name("log.csv");
    let old = fs::read(&path).unwrap();
    let mut session = Session::reopen(&plain(), empty(), &path).unwrap();
    session.checkpoint_every(2, &path).unwrap();
    let visits = session.state().visits();
    assert_unwritten(&session.run().unwrap_err(), &path);
    // It stopped at once, and nothing is lost or left over.
    assert_eq!((visits, session.state().visits()), (1, 2));
    assert_eq!(fs::read(&path).unwrap(), old);
    assert!(!partial.exists());
    assert_unwritten(&session.model().save(&path).unwrap_err(), &path);
    #[cfg(feature = "plot")]
    {
        use layerwise::plot::{Axis, Line, Page, Panel};
        let panel = Panel::new(Axis::linear("x"), Axis::linear("y"));
        let page =
            Page::new("").with_panel(panel.with_line(Line::new("a", [(0.0, 1.0), (1.0, 2.0)])));
        assert!(page.to_svg().unwrap().len() > 1024);
        assert_unwritten(&page.save(&path).unwrap_err(), &path);
        assert_eq!(fs::read(&path).unwrap(), old);
        assert!(!partial.exists());
    }
    // Two lines fit, the others do not.
    let observer = CsvLog::create(&log).unwrap().with_run(&"x".repeat(400));
    session.observe(observer);
    session.continue_after_failures();
    let report = session.run().unwrap();
    assert_eq!(report.stop, StopReason::Epochs);
    assert_same(&whole(), &session, "on a full disk");
    let of = |path: &Path| {
        let file = format!("the file {} could not be written: ", path.display());
        let own = report.failures.iter();
        own.filter(|own| own.message.starts_with(&file)).count()
    };
    assert!(of(&path) >= 2 && of(&log) >= 1, "{report}");
    assert_eq!(fs::read(&path).unwrap(), old);
    assert!(!partial.exists());
}

#[cfg(unix)]
#[test]
fn a_full_disk_leaves_the_old_checkpoint() {
    let folder = Folder::new("full-disk");
    let path = folder.file("run");
    let mut session = Session::new(&plain(), model::<f64>()).unwrap();
    session.advance().unwrap();
    session.save(&path).unwrap();
    let old = fs::read(&path).unwrap();
    assert!(old.len() > 1024, "{}", old.len());
    // A signal that says so would end the process.
    let script = r#"trap "" XFSZ; ulimit -f 1; exec "$0" "$@""#;
    let output = std::process::Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "disks::child", "--nocapture"])
        .env(CHILD, &path)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].map(|own| String::from_utf8_lossy(&own).into_owned());
    assert!(output.status.success(), "{}", text.concat());
    assert!(text[0].contains("1 passed"), "{}", text[0]);
    // The run goes on from what was saved, once there is room.
    assert_eq!(fs::read(&path).unwrap(), old);
    let mut rest = Session::reopen(&plain(), empty(), &path).unwrap();
    rest.run().unwrap();
    assert_same(&whole(), &rest, "after a full disk");
}

/// Makes the folder, or removes it, after some visits.
#[derive(Debug)]
struct Moves {
    folder: PathBuf,
    away: u64,
    back: u64,
}

impl Observer<f64> for Moves {
    fn observe(&mut self, event: &Event<f64>, run: &Progress<'_, f64>) -> Result<(), Error> {
        if let Event::Visit(_) = event {
            if run.visits == self.away {
                fs::remove_dir_all(&self.folder).unwrap();
            }
            if run.visits == self.back {
                fs::create_dir(&self.folder).unwrap();
            }
        }
        Ok(())
    }
}

#[test]
fn a_folder_that_is_gone_for_a_while() {
    let folder = Folder::new("gone");
    let inner = folder.file("inner");
    let path = inner.join("run");
    for lenient in [false, true] {
        fs::create_dir(&inner).unwrap();
        let mut session = Session::new(&plain(), model::<f64>()).unwrap();
        session.checkpoint_every(1, &path).unwrap();
        session.observe(Moves {
            folder: inner.clone(),
            away: 3,
            back: if lenient { 6 } else { 0 },
        });
        let report = if lenient {
            session.continue_after_failures();
            session.run().unwrap()
        } else {
            assert_unwritten(&session.run().unwrap_err(), &path);
            assert_eq!(session.state().visits(), 3);
            fs::create_dir(&inner).unwrap();
            session.run().unwrap()
        };
        let failed: Vec<u64> = report.failures.iter().map(|own| own.visits).collect();
        assert_eq!(failed, if lenient { vec![3, 4, 5] } else { vec![] });
        let mut again = Session::reopen(&plain(), empty(), &path).unwrap();
        again.run().unwrap();
        assert_same(&whole(), &session, "gone");
        assert_same(&session, &again, "gone");
        fs::remove_dir_all(&inner).unwrap();
    }
}

/// Folders that do not exist, are no folders, or may not be written to.
#[test]
fn folders_that_take_no_file() {
    let folder = Folder::new("no-folder");
    let (file, sealed) = (folder.file("file"), folder.file("sealed"));
    fs::write(&file, "old").unwrap();
    fs::create_dir(&sealed).unwrap();
    let permissions = fs::metadata(&sealed).unwrap().permissions();
    let mut only_read = permissions.clone();
    only_read.set_readonly(true);
    fs::set_permissions(&sealed, only_read).unwrap();
    let mut paths = vec![folder.file("missing/run"), file.join("run")];
    // The superuser may write anywhere, and other systems have other rules.
    if fs::write(sealed.join("trial"), "").is_err() {
        paths.push(sealed.join("run"));
    }
    for path in &paths {
        let model = model::<f64>();
        assert_unwritten(&model.save(path).unwrap_err(), path);
        assert_unwritten(&model.circuit().save(path).unwrap_err(), path);
        assert_unwritten(&CsvLog::create(path).unwrap_err(), path);
        let mut session = Session::new(&plain(), model).unwrap();
        assert_unwritten(&session.save(path).unwrap_err(), path);
        // What the folder shows is said at once.
        if let Err(error) = session.checkpoint_every(4, path) {
            assert_unwritten(&error, path);
            assert!(!path.starts_with(&sealed));
            continue;
        }
        assert!(path.starts_with(&sealed));
        assert_unwritten(&session.run().unwrap_err(), path);
        assert_eq!(session.state().visits(), 4);
        assert!(!path.exists());
    }
    fs::set_permissions(&sealed, permissions).unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"old");
}

/// A file takes the place of a file only: not that of a folder, a socket or a device.
#[test]
fn only_files_are_replaced() {
    let folder = Folder::new("no-file");
    let inner = folder.file("inner");
    fs::create_dir(&inner).unwrap();
    let mut paths = vec![inner.clone()];
    #[cfg(unix)]
    {
        let socket = folder.file("socket");
        std::os::unix::net::UnixListener::bind(&socket).unwrap();
        // By way of a link too, as a link may lead to the null device.
        let link = folder.file("link");
        std::os::unix::fs::symlink("socket", &link).unwrap();
        paths.extend([socket, link]);
    }
    let circuit: Circuit<f64> = model().circuit().clone();
    for path in &paths {
        let before = fs::metadata(path).unwrap().file_type();
        let error = circuit.save(path).unwrap_err();
        assert_unwritten(&error, path);
        assert!(error.to_string().contains("not a regular file"), "{error}");
        assert_eq!(fs::metadata(path).unwrap().file_type(), before);
        let left = fs::read_dir(folder.file("")).unwrap().count();
        assert_eq!(left, paths.len(), "no partial file is left");
    }
}

/// Another program puts something else in the place of the checkpoint while the run goes on.
#[test]
fn a_checkpoint_that_another_program_replaces() {
    let folder = Folder::new("foreign");
    let path = folder.file("run");
    let other = {
        let mut other = plain().with_seed(9);
        other = other.with_measure_every(0);
        Session::new(&other, model::<f64>()).unwrap().to_bytes()
    };
    for foreign in [
        None,
        Some(Vec::new()),
        Some(b"of another program".to_vec()),
        Some(model::<f64>().circuit().to_bytes().unwrap()),
        Some(other.unwrap()),
    ] {
        let mut session = Session::new(&plain(), model::<f64>()).unwrap();
        session.checkpoint_every(2, &path).unwrap();
        for _ in 0..5 {
            session.advance().unwrap();
        }
        let renamed = folder.file("renamed");
        match &foreign {
            None => fs::remove_file(&path).unwrap(),
            Some(bytes) => {
                fs::write(&renamed, bytes).unwrap();
                fs::rename(&renamed, &path).unwrap();
                let error = Session::reopen(&plain(), empty::<f64>(), &path).unwrap_err();
                let refused = matches!(error, Error::Format { .. } | Error::Architecture { .. });
                assert!(refused && error.to_string().contains("/run"), "{error}");
            }
        }
        // The next checkpoint takes the place back.
        let report = session.run().unwrap();
        assert!(report.failures.is_empty());
        let mut again = Session::reopen(&plain(), empty(), &path).unwrap();
        assert_eq!(again.run().unwrap().stop, StopReason::Epochs);
        assert_same(&session, &again, "replaced");
        assert_same(&whole(), &session, "replaced");
    }
}

/// A log that another program deletes is written to its end, where nobody sees it.
#[cfg(unix)]
#[test]
fn a_log_that_is_deleted_does_not_stop_the_run() {
    let folder = Folder::new("log");
    let path = folder.file("log.csv");
    let mut session = Session::new(&plain(), model::<f64>()).unwrap();
    session.observe(CsvLog::create(&path).unwrap());
    session.epoch().unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(session.run().unwrap().stop, StopReason::Epochs);
    assert!(!path.exists());
    assert_same(&whole(), &session, "without its log");
}
