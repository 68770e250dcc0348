//! The observers of the crate, several on one run: what they write, also when a run is resumed.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use indicatif::{InMemoryTerm, ProgressDrawTarget, TermLike};
use layerwise::data::metrics;
use layerwise::decoupled::TargetInit;
use layerwise::energy::Energy;
use layerwise::layer::{Activation, Dense};
use layerwise::nalgebra::DMatrix;
use layerwise::observers::{CsvLog, JsonLines, ProgressBar, Trace};
use layerwise::optimizer::Adam;
use layerwise::target_solver::ReverseSweep;
use layerwise::training::{Backprop, Decoupling, Event, Phase, Session, Trainer};
use layerwise::{Circuit, DecoupledCircuit, Error};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Metadata, Subscriber};

use crate::storage::Folder;

fn wave(rows: usize, n: usize) -> DMatrix<f64> {
    DMatrix::from_fn(rows, n, |i, j| (0.8 * j as f64 + i as f64).sin())
}

fn empty() -> DecoupledCircuit<f64> {
    let circuit = Circuit::builder()
        .layer(Dense::new(2, 4, Activation::Tanh).unwrap())
        .layer(Dense::new(4, 1, Activation::Identity).unwrap())
        .build()
        .unwrap();
    DecoupledCircuit::new(circuit, Energy::default()).unwrap()
}

fn model() -> DecoupledCircuit<f64> {
    let mut model = empty();
    model
        .add_examples(&wave(2, 8), &wave(1, 8), &TargetInit::ForwardPass)
        .unwrap();
    model
}

/// Two phases of two epochs, of two visits each.
fn trainer() -> Trainer<f64> {
    let adam = || Adam::new(1e-2).unwrap();
    let short = |phase: Phase<f64>| phase.with_epochs(2).with_batch_size(4).unwrap();
    let sweep = ReverseSweep::new(1);
    Trainer::new(short(Phase::new(Decoupling::persistent(sweep), adam())))
        .measure_relaxation()
        .then(short(Phase::new(Backprop, adam())))
        .with_validation(wave(2, 3), wave(1, 3))
        .with_metric(|y, predictions| Ok(metrics::r_squared(y, predictions)?[0]))
}

/// Bytes that a test can read while they are written.
#[derive(Debug, Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn logs_hold_the_history() {
    let (csv, json, all) = (Shared::default(), Shared::default(), Shared::default());
    let mut session = Session::new(&trainer(), model()).unwrap();
    session.observe(CsvLog::to(csv.clone()));
    session.observe(JsonLines::to(json.clone()));
    session.observe(JsonLines::to(all.clone()).with_visits());
    let report = session.run().unwrap();
    assert_eq!(report.history.len(), 4);

    let table = csv.text();
    let mut lines = table.lines();
    let names: Vec<&str> = lines.next().unwrap().split(',').collect();
    for record in &report.history {
        let cells: Vec<&str> = lines.next().unwrap().split(',').collect();
        assert_eq!(cells.len(), names.len());
        let cell = |name: &str| {
            let place = names.iter().position(|own| *own == name).unwrap();
            cells[place].parse::<f64>().ok()
        };
        assert_eq!(cell("phase"), Some(record.phase as f64));
        assert_eq!(cell("epoch"), Some(record.epoch as f64));
        assert_eq!(cell("steps"), Some(record.steps as f64));
        assert_eq!(cell("objective"), Some(record.objective));
        assert_eq!(cell("composed_loss"), record.composed_loss);
        assert_eq!(cell("validation_loss"), record.validation_loss);
        assert_eq!(cell("metric"), record.metric);
        assert_eq!(cell("gap"), record.gap);
        assert_eq!(cell("gap_before"), record.gap_before);
        assert_eq!(cell("gap_after"), record.gap_after);
        assert_eq!(cell("relaxation"), record.relaxation);
        assert_eq!(cell("factor"), Some(record.factor));
        assert!(cell("seconds").unwrap() >= 0.0);
        let phase = record.phase == 0;
        assert!(
            record.metric.is_some()
                && (record.gap.is_some(), record.relaxation.is_some()) == (phase, phase)
        );
    }
    assert_eq!(lines.next(), None);

    let events = |text: &str| -> Vec<Event<f64>> {
        let read = |line| serde_json::from_str(line).unwrap();
        text.lines().map(read).collect()
    };
    let few = events(&json.text());
    assert_eq!(few.len(), 4 + 2 + 1);
    assert_eq!(few[0], Event::Epoch(report.history[0].clone()));
    assert_eq!(few[6], Event::Stop(report.stop));
    let all = events(&all.text());
    assert_eq!(all.len(), 8 + few.len());
    let visits = all.iter().filter(|own| matches!(own, Event::Visit(_)));
    assert_eq!(visits.count(), 8);
}

#[test]
fn a_log_has_the_name_of_its_run_and_infinite_losses() {
    for (name, cell) in [("rate 0.1", "rate 0.1"), ("a, \"b\"", "\"a, \"\"b\"\"\"")] {
        let csv = Shared::default();
        let far = DMatrix::from_element(2, 3, f64::MAX);
        let trainer = trainer().with_validation(far, DMatrix::from_element(1, 3, f64::MAX));
        let mut session = Session::new(&trainer, model()).unwrap();
        session.observe(CsvLog::to(csv.clone()).with_run(name));
        session.epoch().unwrap();
        let table = csv.text();
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[0].ends_with(",factor,seconds,run"), "{table}");
        assert!(lines[1].ends_with(&format!(",{cell}")), "{table}");
        assert!(lines[1].contains(",inf,"), "{table}");
    }
}

#[test]
fn the_log_of_a_resumed_run_is_whole() {
    let folder = Folder::new("logs");
    let (path, table) = (folder.file("run"), folder.file("table.csv"));
    let mut session = Session::new(&trainer(), model()).unwrap();
    session.observe(CsvLog::create(&table).unwrap());
    session.checkpoint_every(3, &path).unwrap();
    // It is lost after its second epoch; the checkpoint is of the middle of that.
    session.epoch().unwrap();
    session.epoch().unwrap();
    drop(session);
    assert_eq!(std::fs::read_to_string(&table).unwrap().lines().count(), 3);
    let mut session = Session::reopen(&trainer(), empty(), &path).unwrap();
    session.observe(CsvLog::create(&table).unwrap());
    session.checkpoint_every(3, &path).unwrap();
    session.run().unwrap();
    let resumed = std::fs::read_to_string(&table).unwrap();
    let whole = Shared::default();
    let mut session = Session::new(&trainer(), model()).unwrap();
    session.observe(CsvLog::to(whole.clone()));
    session.run().unwrap();
    // All but the seconds, which the history does not hold.
    let timeless = |table: &str| -> Vec<Vec<String>> {
        let cells = |line: &str| line.split(',').map(String::from).collect();
        let mut lines: Vec<Vec<String>> = table.lines().map(cells).collect();
        lines.iter_mut().for_each(|line| line[12].clear());
        lines
    };
    assert_eq!(timeless(&resumed), timeless(&whole.text()));
    let seconds = |line: usize| {
        resumed
            .lines()
            .nth(line)
            .unwrap()
            .split(',')
            .nth(12)
            .unwrap()
            != ""
    };
    assert_eq!([seconds(1), seconds(2)], [false, true]);
    // A finished run that is reopened makes no epoch more, and its table stays.
    let mut session = Session::reopen(&trainer(), empty(), &path).unwrap();
    session.observe(CsvLog::create(&table).unwrap());
    session.run().unwrap();
    let again = std::fs::read_to_string(&table).unwrap();
    assert_eq!(again.lines().count(), resumed.lines().count());
}

#[test]
fn a_log_that_cannot_be_written_is_an_error() {
    let folder = Folder::new("full");
    let error = CsvLog::create(folder.file("no/folder")).unwrap_err();
    assert!(
        error.to_string().contains("no/folder could not be written"),
        "{error}"
    );
    // A device that is always full.
    if let Ok(log) = JsonLines::create("/dev/full") {
        let mut session = Session::new(&trainer(), model()).unwrap();
        session.observe(log);
        let error = session.run().unwrap_err();
        assert!(matches!(error, Error::File { .. }), "{error}");
        assert!(error.to_string().contains("/dev/full"), "{error}");
        session.continue_after_failures();
        let report = session.run().unwrap();
        assert_eq!(report.failures.len(), 3 + 2 + 1, "{report}");
    }
}

/// Takes some bytes, then fails once, and takes all others.
struct Fails {
    to: Shared,
    after: Option<usize>,
}

impl Write for Fails {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.after {
            None => self.to.write(bytes),
            Some(0) => {
                self.after = None;
                Err(io::Error::other("full"))
            }
            Some(left) => {
                let taken = bytes.len().min(*left);
                *left -= taken;
                self.to.write(&bytes[..taken])
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The text of a log whose writer fails once after so many bytes.
fn log_of(csv: bool, after: Option<usize>) -> String {
    let to = Shared::default();
    let mut session = Session::new(&trainer(), model()).unwrap();
    let out = Fails {
        to: to.clone(),
        after,
    };
    match csv {
        true => session.observe(CsvLog::to(out)),
        false => session.observe(JsonLines::to(out)),
    }
    session.continue_after_failures();
    let report = session.run().unwrap();
    assert_eq!(report.failures.len(), usize::from(after.is_some()));
    to.text()
}

/// A line, of a CSV log without its seconds.
fn own_line(csv: bool, line: &str) -> Vec<&str> {
    match csv {
        true => {
            let cells: Vec<&str> = line.split(',').collect();
            assert_eq!(cells.len(), 14, "{line}");
            cells[..12].to_vec()
        }
        false => vec![line],
    }
}

#[test]
fn a_line_of_which_a_part_was_written_is_completed() {
    for csv in [true, false] {
        let whole = log_of(csv, None);
        let mut lines: Vec<_> = whole.lines().map(|line| own_line(csv, line)).collect();
        // In the header, in a line, before its end, and in the last line.
        let (first, last) = (whole.find('\n').unwrap() + 1, whole.len() - 1);
        let second = first + whole[first..].find('\n').unwrap() + 1;
        let cuts = [0, 1, 20, first - 1, first + 3, second - 1, second + 5];
        // Nothing is written after the event that ends the run, which is no line of a table.
        for after in cuts.into_iter().chain(csv.then_some(last)) {
            let text = log_of(csv, Some(after));
            assert!(text.ends_with('\n'), "{after}: {text}");
            let own: Vec<_> = text.lines().map(|line| own_line(csv, line)).collect();
            // Of the first line, nothing was written: the header and the history come with the next.
            let lost = usize::from(!csv && after == 0);
            assert_eq!(own, lines[lost..], "{after}");
        }
        // Nothing of the third line was written: it alone is lost.
        let text = log_of(csv, Some(second));
        let own: Vec<_> = text.lines().map(|line| own_line(csv, line)).collect();
        lines.remove(2);
        assert_eq!(own, lines);
    }
}

#[test]
fn the_bar_shows_where_the_run_stands() {
    let term = InMemoryTerm::new(4, 200);
    let target = ProgressDrawTarget::term_like(Box::new(term.clone()));
    let mut session = Session::new(&trainer(), model()).unwrap();
    session.observe(ProgressBar::on(target));
    let report = session.run().unwrap();
    let shown = term.contents();
    let last = report.last().unwrap();
    for part in [
        "100% epoch 4 of 4, ".to_owned(),
        format!("E {:.3e}", last.objective),
        format!("loss {:.3e}", last.composed_loss.unwrap()),
        format!("validation {:.3e}", last.validation_loss.unwrap()),
        format!("metric {:.4}", last.metric.unwrap()),
        " 0 s left".to_owned(),
    ] {
        assert!(shown.contains(&part), "{shown}: {part}");
    }
    assert!(term.width() > 0);

    // The last epoch's numbers are shown, whether or not the history keeps them.
    let target = ProgressDrawTarget::term_like(Box::new(term.clone()));
    let mut session = Session::new(&trainer().with_history_every(3), model()).unwrap();
    session.observe(ProgressBar::on(target));
    let kept = session.run().unwrap().history;
    assert_eq!(kept.len(), 1);
    let shown = term.contents();
    let line = shown.lines().last().unwrap();
    let expected = format!("100% epoch 4 of 4, E {:.3e}", last.objective);
    assert!(line.contains(&expected), "{line}: {expected}");

    // Stopped after 3 of 8 visits.
    let target = ProgressDrawTarget::term_like(Box::new(term.clone()));
    let mut session = Session::new(&trainer(), model()).unwrap();
    session.observe(ProgressBar::on(target));
    while session.state().visits() < 3 {
        session.advance().unwrap();
    }
    session.stop();
    session.run().unwrap();
    let shown = term.contents();
    let last = shown.lines().last().unwrap();
    assert!(last.contains(" 37% ") || last.contains(" 38% "), "{shown}");
}

/// Keeps what it is sent: every event with its level and span.
#[derive(Debug, Clone, Default)]
struct Kept(Arc<Mutex<(Vec<String>, Vec<String>)>>);

struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0 += &format!(" {}={value:?}", field.name());
    }
}

impl Subscriber for Kept {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut fields = Fields(span.metadata().name().into());
        span.record(&mut fields);
        let mut own = self.0.lock().unwrap();
        own.0.push(fields.0);
        Id::from_u64(own.0.len() as u64)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut fields = Fields(event.metadata().level().to_string());
        event.record(&mut fields);
        self.0.lock().unwrap().1.push(fields.0);
    }

    fn enter(&self, span: &Id) {
        let mut own = self.0.lock().unwrap();
        let name = own.0[span.into_u64() as usize - 1].clone();
        own.1.push(format!("in {name}"));
    }

    fn exit(&self, _: &Id) {}
}

#[test]
fn a_trace_has_spans_and_events() {
    let kept = Kept::default();
    let report = tracing::subscriber::with_default(kept.clone(), || {
        let mut session = Session::new(&trainer(), model()).unwrap();
        session.observe(Trace::new());
        session.run().unwrap()
    });
    let (spans, sent) = kept.0.lock().unwrap().clone();
    assert_eq!(spans, ["phase phase=0", "phase phase=1"]);
    let events: Vec<&String> = sent.iter().filter(|own| !own.starts_with("in ")).collect();
    let of = |level: &str| events.iter().filter(|own| own.starts_with(level)).count();
    assert_eq!((of("DEBUG"), of("INFO"), of("WARN")), (8, 4 + 2 + 1, 0));
    // Each in its phase, but the end of the run.
    let inside = |phase: usize| {
        sent.iter()
            .filter(move |own| **own == format!("in phase phase={phase}"))
    };
    assert_eq!(
        (inside(0).count(), inside(1).count()),
        (4 + 2 + 1, 4 + 2 + 1)
    );
    let record = &report.history[3];
    let expected = format!(
        "INFO message=epoch epoch=4 steps=8 objective={:?} composed_loss={:?}",
        record.objective,
        record.composed_loss.unwrap()
    );
    assert!(
        events.iter().any(|own| own.starts_with(&expected)),
        "{events:#?}"
    );
    assert_eq!(
        events[events.len() - 1],
        "INFO message=run ended visits=8 reason=Epochs"
    );
}

#[test]
fn a_metric_needs_validation_examples_and_must_be_finite() {
    let phase = || Phase::new(Backprop, Adam::new(1e-2).unwrap()).with_epochs(1);
    let metric = Trainer::new(phase()).with_metric(|_, _| Ok(f64::NAN));
    let error = metric.check(&model()).unwrap_err();
    assert!(error.to_string().contains("with_metric"), "{error}");
    let metric = metric.with_validation(wave(2, 3), wave(1, 3));
    let error = metric.run(&mut model()).unwrap_err();
    assert!(error.to_string().contains("with_metric is NaN"), "{error}");
}
