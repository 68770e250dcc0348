//! Many sessions, and a long one, with every observer and with checkpoints: memory does not grow.

use std::fmt::Debug;
use std::io;
use std::time::{Duration, Instant};

use indicatif::{ProgressDrawTarget, TermLike};
use layerwise::decoupled::TargetInit;
use layerwise::energy::Energy;
use layerwise::layer::{Activation, Dense};
use layerwise::observers::{CsvLog, JsonLines, ProgressBar, Trace};
use layerwise::optimizer::Adam;
use layerwise::target_solver::ReverseSweep;
use layerwise::training::{Decoupling, Event, Phase, Session, Trainer};
use layerwise::{Circuit, DecoupledCircuit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Metadata, Subscriber};

use crate::checkpoints::wave;
use crate::storage::Folder;

/// A terminal, and a subscriber, that forget all they are sent.
#[derive(Debug)]
struct Nowhere;

impl TermLike for Nowhere {
    fn width(&self) -> u16 {
        120
    }

    fn move_cursor_up(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_down(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_right(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_left(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn write_line(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn write_str(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

impl Subscriber for Nowhere {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut |_: &tracing::field::Field, value: &dyn Debug| {
            let _ = format!("{value:?}");
        });
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

fn empty() -> DecoupledCircuit<f64> {
    let circuit = Circuit::builder()
        .layer(Dense::new(8, 32, Activation::Tanh).unwrap())
        .layer(Dense::new(32, 32, Activation::Tanh).unwrap())
        .layer(Dense::new(32, 1, Activation::Identity).unwrap())
        .build()
        .unwrap();
    DecoupledCircuit::new(circuit, Energy::default()).unwrap()
}

fn model(examples: usize) -> DecoupledCircuit<f64> {
    let mut model = empty();
    let (x, y) = (wave(8, examples), wave(1, examples));
    model
        .add_examples(&x, &y, &TargetInit::ForwardPass)
        .unwrap();
    model
}

fn trainer(scheme: usize, epochs: u64) -> Trainer<f64> {
    let adam = || Adam::new(1e-3).unwrap();
    let sweep = ReverseSweep::new(1);
    let scheme = match scheme % 4 {
        0 => Decoupling::residual(sweep),
        1 => Decoupling::persistent(sweep).with_multipliers(0.5).unwrap(),
        2 => Decoupling::joint(adam()),
        _ => Decoupling::refreshed(sweep),
    };
    let phase = Phase::new(scheme, adam()).with_epochs(epochs);
    Trainer::new(phase.with_batch_size(16).unwrap()).with_validation(wave(8, 20), wave(1, 20))
}

fn watch(session: &mut Session<f64>) {
    session.observe(CsvLog::to(io::sink()));
    session.observe(JsonLines::to(io::sink()).with_visits());
    session.observe(ProgressBar::on(ProgressDrawTarget::term_like(Box::new(
        Nowhere,
    ))));
    session.observe(Trace::new());
}

/// KiB of this process in memory, where the system tells.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// What was measured, once in a while: seconds and KiB.
#[derive(Debug)]
struct Memory {
    start: Instant,
    limit: Duration,
    samples: Vec<(f64, u64)>,
}

impl Memory {
    fn new(limit: Duration) -> Self {
        Self {
            start: Instant::now(),
            limit,
            samples: Vec::with_capacity(1 << 12),
        }
    }

    /// Whether there is time left.
    fn goes_on(&mut self) -> bool {
        let elapsed = self.start.elapsed();
        let due = self.limit.as_secs_f64() / 1000.0 * self.samples.len() as f64;
        if let (true, Some(now)) = (elapsed.as_secs_f64() >= due, resident()) {
            self.samples.push((elapsed.as_secs_f64(), now));
        }
        elapsed < self.limit
    }

    /// The most KiB in the second quarter of the time, and in the last: a quarter is to warm up.
    fn most(&self) -> [u64; 2] {
        let most = |from: f64| {
            let limit = self.limit.as_secs_f64();
            let own = self.samples.iter().filter(|(at, _)| {
                let share = at / limit;
                (from..from + 0.25).contains(&share)
            });
            own.map(|&(_, kib)| kib).max().unwrap_or(0)
        };
        [most(0.25), most(0.75)]
    }
}

/// Sessions that are saved, left half-way, reopened and run to their end.
fn short_sessions(limit: Duration, folder: &Folder) -> Memory {
    let mut memory = Memory::new(limit);
    let path = folder.file("short");
    let mut sessions = 0;
    loop {
        let trainer = trainer(sessions, 4);
        let mut session = Session::new(&trainer, model(200)).unwrap();
        watch(&mut session);
        session.checkpoint_every(10, &path).unwrap();
        session.epoch().unwrap();
        session.epoch().unwrap();
        drop(session);
        let mut session = Session::reopen(&trainer, empty(), &path).unwrap();
        watch(&mut session);
        session.checkpoint_every(10, &path).unwrap();
        assert_eq!(session.run().unwrap().history.len(), 4);
        sessions += 1;
        if !memory.goes_on() {
            println!("{sessions} short sessions");
            return memory;
        }
    }
}

fn long_session(limit: Duration, folder: &Folder) -> Memory {
    let mut memory = Memory::new(limit);
    let mut session = Session::new(&trainer(0, u64::MAX), model(20_000)).unwrap();
    watch(&mut session);
    session.checkpoint_every(500, folder.file("long")).unwrap();
    while memory.goes_on() {
        let event = session.advance().unwrap();
        assert!(!matches!(event, None | Some(Event::Stop(_))));
    }
    println!(
        "one session of {} visits, {} epochs",
        session.state().visits(),
        session.report().history.len()
    );
    memory
}

/// `SOAK_SECONDS` asks for a run of that length, alone in its process, and for memory that stays within 1 MiB after
/// a quarter of each half. A run's history grows by some 200 bytes an epoch.
#[test]
fn memory_does_not_grow() {
    let seconds = std::env::var("SOAK_SECONDS").ok();
    let seconds = seconds.map(|own| own.parse::<f64>().unwrap());
    let half = Duration::from_secs_f64(seconds.unwrap_or(0.4) / 2.0);
    let folder = Folder::new("soak");
    tracing::subscriber::with_default(Nowhere, || {
        for part in [short_sessions, long_session] {
            let memory = part(half, &folder);
            let [early, late] = memory.most();
            let step = (memory.samples.len() / 20).max(1);
            let samples: Vec<_> = memory.samples.iter().step_by(step).collect();
            println!("most KiB: {early} early, {late} late; seconds and KiB: {samples:.0?}");
            if seconds.is_some() {
                assert!(late <= early + 1024, "{early} KiB early, {late} KiB late");
            }
        }
    });
}
