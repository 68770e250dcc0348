//! Saved results: one line of JSON per task, appended as soon as the task is done, so that an
//! interrupted study can continue.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A file of results.
pub struct Results {
    file: Mutex<File>,
    /// Outcomes by the JSON of their task.
    known: HashMap<String, Value>,
    print: bool,
    /// Time after which no further task is started.
    deadline: Instant,
}

#[derive(Serialize, Deserialize)]
struct Line<Task, Outcome> {
    task: Task,
    outcome: Outcome,
}

impl Results {
    /// Opens or creates the file. A truncated last line is dropped. With `print`, every result used
    /// for a table is also written to standard output.
    pub fn open(path: &Path, print: bool, limit: Duration) -> Result<Self, String> {
        let at = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| at(&error))?;
        }
        let text = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            text => text.map_err(|error| at(&error))?,
        };
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        if !r#"{"task":"#.starts_with(text[whole..].get(..8).unwrap_or(&text[whole..])) {
            return Err(at(
                &"the last line is not a result; is this the wrong file?",
            ));
        }
        let mut known = HashMap::new();
        for (number, line) in (1..).zip(text[..whole].lines()) {
            let line: Line<Value, Value> = serde_json::from_str(line)
                .map_err(|error| at(&format!("line {number}: {error}")))?;
            known.insert(line.task.to_string(), line.outcome);
        }
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file = file.map_err(|error| at(&error))?;
        file.set_len(whole as u64).map_err(|error| at(&error))?;
        Ok(Self {
            file: Mutex::new(file),
            known,
            print,
            deadline: Instant::now() + limit,
        })
    }

    /// The outcome of every task, in order: read from the file, or computed by `run` on `threads`
    /// threads.
    ///
    /// After the first error no further task is started; the results of running tasks are saved.
    pub fn of<Task, Outcome>(
        &self,
        tasks: &[Task],
        threads: usize,
        run: impl Fn(&Task) -> Result<Outcome, layerwise::Error> + Sync,
    ) -> Result<Vec<Outcome>, Box<dyn std::error::Error>>
    where
        Task: Serialize + Sync,
        Outcome: Serialize + DeserializeOwned + Send,
    {
        let mut outcomes = Vec::new();
        let mut missing = Vec::new();
        for (number, task) in tasks.iter().enumerate() {
            let known = self.known.get(&serde_json::to_value(task)?.to_string());
            outcomes.push(known.map(Outcome::deserialize).transpose()?);
            if known.is_none() {
                missing.push(number);
            }
        }
        let bar = ProgressBar::new(missing.len() as u64);
        bar.set_style(ProgressStyle::with_template(
            "{pos} of {len} runs, {elapsed}, {eta} to go",
        )?);
        let next = AtomicUsize::new(0);
        let found = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..threads.min(missing.len()) {
                scope.spawn(|| {
                    while let Some(&number) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let outcome = self.compute(&tasks[number], &run);
                        if outcome.is_err() {
                            next.store(missing.len(), Ordering::Relaxed);
                        }
                        found
                            .lock()
                            .expect("no thread panicked")
                            .push((number, outcome));
                        bar.inc(1);
                    }
                });
            }
        });
        bar.finish_and_clear();
        for (number, outcome) in found.into_inner().expect("no thread panicked") {
            outcomes[number] = Some(outcome?);
        }
        let outcomes: Vec<Outcome> = outcomes.into_iter().flatten().collect();
        if self.print {
            for (task, outcome) in tasks.iter().zip(&outcomes) {
                println!("{}", serde_json::to_string(&Line { task, outcome })?);
            }
        }
        Ok(outcomes)
    }

    fn compute<Task: Serialize, Outcome: Serialize>(
        &self,
        task: &Task,
        run: impl Fn(&Task) -> Result<Outcome, layerwise::Error>,
    ) -> Result<Outcome, String> {
        if Instant::now() >= self.deadline {
            return Err(
                "the time limit was reached; run the same command again to continue".into(),
            );
        }
        let outcome = run(task).map_err(|error| error.to_string())?;
        let line = Line { task, outcome };
        let mut text = serde_json::to_string(&line).map_err(|error| error.to_string())?;
        text.push('\n');
        let mut file = self.file.lock().expect("no thread panicked");
        file.write_all(text.as_bytes())
            .map_err(|error| error.to_string())?;
        Ok(line.outcome)
    }
}
