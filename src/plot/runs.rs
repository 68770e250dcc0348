//! Histories to be compared.

use std::collections::BTreeMap;

use crate::check::check_length;
use crate::error::{Error, Unplottable};
use crate::kernel::{Scalar, Squares};
use crate::training::EpochRecord;

use super::axis::Axis;
use super::line::Line;
use super::measure::{Along, Measure};
use super::panel::Panel;

/// Histories of one or several runs. Those with the same name are runs of one method, for example
/// with several seeds.
#[derive(Debug, Clone, PartialEq)]
pub struct Runs<T> {
    /// In the order of their first runs.
    methods: Vec<(String, Vec<Run<T>>)>,
    along: Along,
}

#[derive(Debug, Clone, PartialEq)]
struct Run<T> {
    history: Vec<EpochRecord<T>>,
    /// One for each record, or none.
    seconds: Vec<f64>,
}

impl<T: Scalar> Default for Runs<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Scalar> Runs<T> {
    /// No runs yet, with epochs on the x axis.
    pub fn new() -> Self {
        Self {
            methods: Vec::new(),
            along: Along::Epochs,
        }
    }

    /// Sets what the x axis shows.
    pub fn along(mut self, along: Along) -> Self {
        self.along = along;
        self
    }

    /// Adds a run: its method's name and its history, as in
    /// [`TrainingReport::history`](crate::training::TrainingReport::history).
    pub fn with_run(self, name: impl Into<String>, history: &[EpochRecord<T>]) -> Self {
        self.with(name.into(), history, &[])
    }

    /// Adds a run with the seconds at which each record was made. The crate's records hold no
    /// times, so that equal runs have equal records; observers get the times from
    /// [`Progress::seconds`](crate::training::Progress::seconds).
    ///
    /// # Errors
    /// [`Error::Length`].
    pub fn with_timed_run(
        self,
        name: impl Into<String>,
        history: &[EpochRecord<T>],
        seconds: &[f64],
    ) -> Result<Self, Error> {
        check_length("seconds of a history", seconds, history.len())?;
        Ok(self.with(name.into(), history, seconds))
    }

    fn with(mut self, name: String, history: &[EpochRecord<T>], seconds: &[f64]) -> Self {
        let run = Run {
            history: history.to_vec(),
            seconds: seconds.to_vec(),
        };
        match self.methods.iter_mut().find(|method| method.0 == name) {
            Some((_, runs)) => runs.push(run),
            None => self.methods.push((name, vec![run])),
        }
        self
    }

    /// A line for each method: the values of its run, or the mean ± sample sd over its runs at the
    /// epochs that all of them measured. A value that is not finite interrupts the line. Methods
    /// that have no [`Measure::Gap`], such as backprop, are left out of a panel of gaps; the others
    /// keep their colours.
    ///
    /// # Errors
    /// [`Error::Plot`] for a method with an empty history, or without values to show.
    pub fn panel(&self, measure: Measure, y: Axis) -> Result<Panel, Error> {
        let x = match self.along {
            Along::Epochs => Axis::counted("epoch"),
            Along::Steps => Axis::counted("parameter steps"),
            Along::Seconds => Axis::linear("seconds"),
        };
        let recorded = |run: &Run<T>| run.history.iter().any(|own| measure.of(own).is_some());
        let any = self
            .methods
            .iter()
            .any(|(_, runs)| runs.iter().any(recorded));
        let mut panel = Panel::new(x, y.clone());
        for (name, runs) in &self.methods {
            let count = runs.len();
            let refused = |line: String, reason| Error::Plot {
                line,
                quantity: y.name.clone(),
                reason,
            };
            // A method without targets has no gap. Other values may only be missing by mistake.
            let lacks = |run: &Run<T>| !run.history.is_empty() && !recorded(run);
            if measure == Measure::Gap && any && runs.iter().all(lacks) {
                panel = panel.without_line();
                continue;
            }
            let mut points = Vec::new();
            for (number, run) in runs.iter().enumerate() {
                let own = run.points(self.along, measure);
                points.push(own.map_err(|reason| match count {
                    1 => refused(name.clone(), reason),
                    _ => refused(format!("{name} (run {} of {count})", number + 1), reason),
                })?);
            }
            if let [only] = &points[..] {
                panel = panel.with_line(Line::new(name, only.values().copied()));
                continue;
            }
            let (means, deviations): (Vec<_>, Vec<_>) = means(&points).unzip();
            if !means.iter().any(|(_, mean)| mean.is_finite()) {
                let reason = Unplottable::NoCommonEpoch { runs: count };
                return Err(refused(name.clone(), reason));
            }
            let line = Line::new(format!("{name} (mean ± sd, n = {count})"), means);
            panel = panel.with_line(line.with_deviations(deviations)?);
        }
        Ok(panel)
    }
}

/// What was measured, (x, y), by epoch.
type Points = BTreeMap<u64, (f64, f64)>;

impl<T: Scalar> Run<T> {
    fn points(&self, along: Along, measure: Measure) -> Result<Points, Unplottable> {
        if self.history.is_empty() {
            return Err(Unplottable::Empty);
        }
        if along == Along::Seconds && self.seconds.is_empty() {
            return Err(Unplottable::NotTimed);
        }
        let point = |(number, record): (usize, &EpochRecord<T>)| {
            let x = match along {
                Along::Epochs => record.epoch as f64,
                Along::Steps => record.steps as f64,
                Along::Seconds => self.seconds[number],
            };
            Some((record.epoch, (x, measure.of(record)?)))
        };
        let records = self.history.iter().enumerate();
        let points: Points = records.filter_map(point).collect();
        let count = points.len();
        match points.values().any(|(_, y)| y.is_finite()) {
            true => Ok(points),
            false if count == 0 => Err(Unplottable::NotRecorded),
            false => Err(Unplottable::NotFinite { count }),
        }
    }
}

/// The mean of several runs and the sample sd of its value, at the epochs that are in all.
fn means(runs: &[Points]) -> impl Iterator<Item = ((f64, f64), f64)> {
    runs[0].keys().filter_map(|epoch| {
        let all = runs.iter().map(|run| run.get(epoch).copied());
        let all: Vec<(f64, f64)> = all.collect::<Option<_>>()?;
        let n = all.len() as f64;
        let mean = |of: fn(&(f64, f64)) -> f64| all.iter().map(|at| of(at) / n).sum::<f64>();
        let (x, y) = (mean(|at| at.0), mean(|at| at.1));
        let mut squares = Squares::zero();
        all.iter().for_each(|at| squares.add(at.1 - y));
        Some(((x, y), squares.root_mean(n - 1.0)))
    })
}
