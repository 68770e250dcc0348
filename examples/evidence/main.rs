//! The studies behind `docs/evidence.md`, which compare decoupled training with backprop.
//!
//! `cargo run --release --features plot --example evidence -- --help` lists the studies and options.

mod autoencoder;
mod cost;
mod curve;
mod difficulties;
#[path = "../digits/data.rs"]
mod digits;
mod heat_maps;
mod nets;
mod recipe;
mod resemblance;
mod results;
mod statistics;
mod trainability;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use results::Results;

/// Runs a study and prints its tables.
///
/// Every completed run is saved as a line of JSON in a file. An interrupted study continues from
/// there, and a finished study just prints its tables. To start over, remove the file, or name
/// another one with `--results`.
#[derive(Parser)]
pub struct Options {
    /// The study to run.
    study: Study,
    /// Seeds of weights, projections, and the order of examples.
    #[arg(long, value_delimiter = ',', default_value = "0,1,2,3,4")]
    seeds: Vec<u64>,
    /// Seed of the split of the digits into 1437 training and 360 test images.
    #[arg(long, default_value_t = 2)]
    split_seed: u64,
    /// Run a quick version: one seed, few settings, short runs.
    #[arg(long)]
    quick: bool,
    /// Also print the results behind the tables first, one JSON object per line.
    #[arg(long)]
    json: bool,
    /// File in which results are saved [default: target/evidence/STUDY.jsonl].
    #[arg(long, value_name = "FILE")]
    results: Option<PathBuf>,
    /// Directory for figures [default: target/evidence].
    #[arg(long, value_name = "DIR")]
    figures: Option<PathBuf>,
    /// Number of runs at a time, each on one thread; `cost` and update locking always use one.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    runs: u64,
    /// Start no further runs after this many minutes.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(..=1_000_000))]
    minutes: u64,
    /// Directory with the four IDX files of Fashion-MNIST, for `cost` (see
    /// examples/data/README.md).
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Study {
    /// How similar circuits trained by decoupled schemes are to those trained by backprop.
    Resemblance,
    /// Which depths and initial weight scales can be trained at all.
    Trainability,
    /// Update locking (layers that wait for one another), dead units, shattered gradients, memory, ill-conditioned inputs.
    Difficulties,
    /// The deep sigmoid autoencoder.
    Autoencoder,
    /// Seconds and passes until a test accuracy is reached.
    Cost,
}

impl Study {
    fn name(self) -> String {
        let value = self.to_possible_value().expect("no variant is hidden");
        value.get_name().to_owned()
    }
}

impl Options {
    fn figure(&self, name: &str) -> Result<PathBuf, std::io::Error> {
        let folder = self.figures.clone().unwrap_or("target/evidence".into());
        std::fs::create_dir_all(&folder)?;
        Ok(folder.join(name))
    }

    fn results(&self) -> Result<Results, String> {
        let name = format!("target/evidence/{}.jsonl", self.study.name());
        let path = self.results.clone().unwrap_or(name.into());
        let limit = Duration::from_secs(60 * self.minutes);
        Results::open(&path, self.json, limit)
    }
}

fn main() -> ExitCode {
    let mut options = Options::parse();
    options.seeds.sort_unstable();
    options.seeds.dedup();
    if options.quick {
        options.seeds.truncate(1);
    }
    let study = match options.study {
        Study::Resemblance => resemblance::study,
        Study::Trainability => trainability::study,
        Study::Difficulties => difficulties::study,
        Study::Autoencoder => autoencoder::study,
        Study::Cost => cost::study,
    };
    match study(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
