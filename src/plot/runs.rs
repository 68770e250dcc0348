//! Histories to be compared.

use std::collections::BTreeMap;

use crate::check::check_length;
use crate::error::{Error, Unplottable};
use crate::kernel::Scalar;
use crate::training::EpochRecord;

use super::axis::Axis;
use super::line::Line;
use super::measure::{Along, Measure};
use super::panel::Panel;

/// Histories of one or several runs. Those with the same name are runs of one method, such as with
/// several seeds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Runs {
    /// In the order of their first runs.
    methods: Vec<(String, Vec<Vec<Record>>)>,
    along: Along,
}

/// What of a record can be shown.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Record {
    epoch: u64,
    steps: u64,
    seconds: Option<f64>,
    /// In the order of [`Measure::ALL`].
    values: [Option<f64>; Measure::ALL.len()],
}

/// A measured value, (x, y).
struct Point {
    epoch: u64,
    at: (f64, f64),
}

impl Record {
    fn of<T: Scalar>(record: &EpochRecord<T>, seconds: Option<f64>) -> Self {
        Self {
            epoch: record.epoch,
            steps: record.steps,
            seconds,
            values: Measure::ALL.map(|measure| measure.of(record)),
        }
    }

    fn place(&self, along: Along) -> Option<f64> {
        match along {
            Along::Epochs => Some(self.epoch as f64),
            Along::Steps => Some(self.steps as f64),
            Along::Seconds => self.seconds,
        }
    }
}

impl Runs {
    /// No runs yet, drawn along epochs.
    pub fn new() -> Self {
        Self::default()
    }

    /// What they are drawn along.
    pub fn along(mut self, along: Along) -> Self {
        self.along = along;
        self
    }

    /// Adds a run: its method's name and its history, as in
    /// [`TrainingReport::history`](crate::training::TrainingReport::history).
    pub fn with_run<T: Scalar>(
        mut self,
        name: impl Into<String>,
        history: &[EpochRecord<T>],
    ) -> Self {
        let run = history.iter().map(|record| Record::of(record, None));
        self.add(name.into(), run.collect());
        self
    }

    /// Adds a run with the seconds at which each record was made. The crate's records hold no times,
    /// so that equal runs have equal records; observers are told them
    /// ([`Progress::seconds`](crate::training::Progress::seconds)).
    ///
    /// # Errors
    /// [`Error::Length`].
    pub fn with_timed_run<T: Scalar>(
        mut self,
        name: impl Into<String>,
        history: &[EpochRecord<T>],
        seconds: &[f64],
    ) -> Result<Self, Error> {
        check_length("seconds of a history", seconds, history.len())?;
        let run = history.iter().zip(seconds);
        let run = run.map(|(record, &seconds)| Record::of(record, Some(seconds)));
        self.add(name.into(), run.collect());
        Ok(self)
    }

    fn add(&mut self, name: String, run: Vec<Record>) {
        match self.methods.iter_mut().find(|method| method.0 == name) {
            Some((_, runs)) => runs.push(run),
            None => self.methods.push((name, vec![run])),
        }
    }

    /// A line for each method: the values of its run, or the mean ± sample sd over its runs at the
    /// epochs that all of them measured. Where a value is not finite, there is a gap.
    ///
    /// # Errors
    /// [`Error::Plot`] for a method with an empty history, or without values to show.
    pub fn panel(&self, measure: Measure, y: Axis) -> Result<Panel, Error> {
        let x = match self.along {
            Along::Epochs => Axis::counted("epoch"),
            Along::Steps => Axis::counted("parameter steps"),
            Along::Seconds => Axis::linear("seconds"),
        };
        let lines = self.methods.iter();
        let lines = lines.map(|(name, runs)| self.line(name, runs, measure, &y.name));
        let lines: Vec<Line> = lines.collect::<Result<_, _>>()?;
        Ok(lines.into_iter().fold(Panel::new(x, y), Panel::with_line))
    }

    fn line(
        &self,
        name: &str,
        runs: &[Vec<Record>],
        measure: Measure,
        quantity: &str,
    ) -> Result<Line, Error> {
        let count = runs.len();
        let points = runs.iter().enumerate().map(|(number, run)| {
            let line = match count {
                1 => name.to_owned(),
                _ => format!("{name} (run {} of {count})", number + 1),
            };
            self.points(line, run, measure, quantity)
        });
        let points: Vec<Vec<Point>> = points.collect::<Result<_, _>>()?;
        if let [only] = &points[..] {
            return Ok(Line::new(name, only.iter().map(|point| point.at)));
        }
        let (means, deviations): (Vec<_>, Vec<_>) = means(&points).unzip();
        if !means.iter().any(|(_, mean)| mean.is_finite()) {
            return Err(Error::Plot {
                line: name.into(),
                quantity: quantity.into(),
                reason: Unplottable::NoCommonEpoch { runs: count },
            });
        }
        Line::new(format!("{name} (mean ± sd, n = {count})"), means).with_deviations(deviations)
    }

    /// What a run measured.
    fn points(
        &self,
        line: String,
        run: &[Record],
        measure: Measure,
        quantity: &str,
    ) -> Result<Vec<Point>, Error> {
        let refused = |quantity: &str, reason| {
            Err(Error::Plot {
                line,
                quantity: quantity.into(),
                reason,
            })
        };
        let points = run.iter().filter_map(|record| {
            Some(Point {
                epoch: record.epoch,
                at: (record.place(self.along)?, record.values[measure as usize]?),
            })
        });
        let points: Vec<Point> = points.collect();
        if run.is_empty() {
            return refused(quantity, Unplottable::Empty);
        }
        if run.iter().all(|record| record.place(self.along).is_none()) {
            return refused("seconds", Unplottable::NotRecorded);
        }
        if points.is_empty() {
            return refused(quantity, Unplottable::NotRecorded);
        }
        if !points.iter().any(|point| point.at.1.is_finite()) {
            let count = points.len();
            return refused(quantity, Unplottable::NotFinite { count });
        }
        Ok(points)
    }
}

/// The mean of several runs and the sample sd of its value, at the epochs that are in all.
fn means(runs: &[Vec<Point>]) -> impl Iterator<Item = ((f64, f64), f64)> {
    let index = |run: &Vec<Point>| run.iter().map(|own| (own.epoch, own.at)).collect();
    let runs: Vec<BTreeMap<u64, (f64, f64)>> = runs.iter().map(index).collect();
    let epochs: Vec<u64> = runs[0].keys().copied().collect();
    epochs.into_iter().filter_map(move |epoch| {
        let all = runs.iter().map(|run| run.get(&epoch).copied());
        let all: Vec<(f64, f64)> = all.collect::<Option<_>>()?;
        let n = all.len() as f64;
        let mean = |of: fn(&(f64, f64)) -> f64| all.iter().map(|at| of(at) / n).sum::<f64>();
        let (x, y) = (mean(|at| at.0), mean(|at| at.1));
        let squares = all.iter().map(|at| (at.1 - y).powi(2) / (n - 1.0));
        Some(((x, y), squares.sum::<f64>().sqrt()))
    })
}
